"""`.h5`, `.hdf5`: a whole model in Keras' older format, as Keras 2 and 3 save it.

    attribute model_config                            the configuration, JSON
    attribute keras_version                           by whom
    model_weights/LAYER/.../LAYER/kernel (or kernel:0)  the weights, ... being the names of scopes;
                                                      or model_weights/LAYER/kernel

Invariant: the configuration is read by `keras`, the file by `hdf5`. A weight is the one dataset
under its outermost layer whose path ends in the layer's and its own name.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy.typing as npt

from fastnn.formats import hdf5, keras
from fastnn.formats.model_file import ModelFile, Wrong, checked, json_object, quoted

FORMAT = "hdf5"

precheck = hdf5.precheck


def parse(data: bytes, max_bytes: int) -> ModelFile:
    """The model in the bytes of an .h5 file that unpacks to at most `max_bytes` bytes."""
    attributes, arrays = hdf5.read(
        data, ["model_weights"], ["model_config", "keras_version"], max_bytes, len(data)
    )
    if "model_config" not in attributes:
        raise Wrong(
            "the attribute model_config of a whole model, which Keras' model.save writes",
            "none: weights alone do not say what they are for",
        )
    config = json_object(attributes["model_config"], "model_config", *keras.JSON_LIMITS)
    version = attributes.get("keras_version", "")
    if version[:2] not in ("2.", "3."):
        raise Wrong("a file of Keras 2 or 3", f"version {quoted(version)}")
    changed = ("hard_sigmoid",) if version[0] == "2" else ()  # Keras 3 computes it otherwise

    by_name: dict[tuple[str, str, str], list[str]] = defaultdict(list)
    for path in arrays:
        parts = path.removesuffix(":0").split("/")
        if len(parts) > 2:  # model_weights, the outermost layer, ..., the layer, its variable
            by_name[parts[1], parts[-2], parts[-1]].append(path)

    def weights(place: keras.Place, names: Sequence[str]) -> list[npt.NDArray[Any]]:
        found = []
        for name in names:
            # Taken out, so that no two layers share one: few bytes would become many weights.
            paths = by_name.pop((place[0].name, place[-1].name, name), [])
            if len(paths) != 1:
                where = quoted(f"model_weights/{place[0].name}/.../{place[-1].name}/{name}")
                raise Wrong(f"one dataset {where}, for one layer", f"{len(paths)}")
            found.append(arrays[paths[0]])
        return found

    return checked("the model", lambda: ModelFile(keras.layers(config, weights, changed)))
