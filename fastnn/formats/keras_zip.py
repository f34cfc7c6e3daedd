"""`.keras`: a zip archive of config.json, metadata.json and model.weights.h5, as Keras 3 saves it.

Invariant: the configuration is read by `keras`, the weights by `hdf5`; no other entry is there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, BinaryIO

import numpy.typing as npt

from fastnn.formats import archive, hdf5, keras
from fastnn.formats.model_file import ModelFile, Wrong, checked, json_object, quoted

FORMAT = "keras"

_CONFIG, _METADATA, _WEIGHTS = "config.json", "metadata.json", "model.weights.h5"
_ENTRIES = (_METADATA, _CONFIG, _WEIGHTS)
_MAX_JSON_BYTES = {_METADATA: 1 << 16, _CONFIG: 1 << 20}


def parse(data: bytes, max_bytes: int) -> ModelFile:
    """The model in the bytes of a .keras file that unpacks to at most `max_bytes` bytes."""
    with archive.opened(data, max_bytes, len(_ENTRIES), _check_name) as (zipped, entries):
        by_name = {entry.filename: entry for entry in entries}
        for name in _ENTRIES:
            if name not in by_name:
                raise Wrong(f"an entry {name}", f"only {quoted(sorted(by_name))}")
        texts = []
        for name in (_METADATA, _CONFIG):
            if by_name[name].file_size > _MAX_JSON_BYTES[name]:
                found = f"{by_name[name].file_size}"
                raise Wrong(f"{name} of at most {_MAX_JSON_BYTES[name]} bytes", found)
            texts.append(archive.unpacked(zipped, by_name[name]))
        stored = archive.unpacked(zipped, by_name[_WEIGHTS])
    metadata = json_object(texts[0], _METADATA)
    config = json_object(texts[1], _CONFIG, *keras.JSON_LIMITS)
    version = metadata.get("keras_version")
    if not isinstance(version, str) or not version.startswith("3."):
        raise Wrong("a file of Keras 3", f"version {quoted(version)}")
    _, arrays = hdf5.read(stored, ["layers"], [], max_bytes, len(data))

    def weights(place: keras.Place, names: Sequence[str]) -> list[npt.NDArray[Any]]:
        """layers/sequential/layers/dense_1/vars/0, ...: by number, in the order of `names`."""
        folder = "/".join(f"layers/{level.stored}" for level in place) + "/vars"
        found = []
        for i, name in enumerate(names):
            if f"{folder}/{i}" not in arrays:
                raise Wrong(f"{name} at {quoted(f'{folder}/{i}')}", "nothing there")
            found.append(arrays[f"{folder}/{i}"])
        return found

    return checked("the model", lambda: ModelFile(keras.layers(config, weights)))


def precheck(file: BinaryIO, max_bytes: int) -> None:
    """Refuse a file by its directory, before there is room for the rest."""
    with archive.opened(file, max_bytes, len(_ENTRIES), _check_name):
        pass


def _check_name(name: str) -> None:
    if name not in _ENTRIES:
        raise Wrong(f"only the entries {', '.join(_ENTRIES)}", quoted(name))
