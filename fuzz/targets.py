"""What fuzzing does with a file: load it; if that works, predict a row and hold it to the promises.

Invariant: nothing but `LoadError` gets out of a reader; what does, and every promise that a loaded
model breaks, is an exception here, and so a finding.

Suffixes are those of the readers, and two inputs are not quite such files:

    .named         a .safetensors file of another program, read with the activations and the layout
                   that its metadata have
    .keras, .h5    what should be HDF5 is a superblock and then what the worker makes of the file
                   (`stand_in`): a process for each input would be a hundred times as slow, and the
                   HDF5 library is not ours. All that is ours runs, but for the worker
"""

from __future__ import annotations

import contextlib
import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import safetensors

import fastnn
from fastnn import LoadError, formats, idx
from fastnn.formats import hdf5, named, native
from fastnn.formats.model_file import ModelFile

MAX_BYTES = 1 << 24
"""What an input may unpack to, so that one run is no longer than another."""

OUTER = ("model_weights", "model_config", "keras_version")
"""Names of the outermost in an .h5 file."""

_SUPERBLOCK = 64


def stand_in(answer: bytes) -> bytes:
    """For an HDF5 file of which the worker makes `answer`."""
    start = b"\x89HDF\r\n\x1a\n\x02".ljust(28, b"\0")
    end = (_SUPERBLOCK + len(answer)).to_bytes(8, "little")
    return (start + end).ljust(_SUPERBLOCK, b"\0") + answer


def _answer_within(task: dict[str, Any], data: bytes) -> tuple[bytes, str]:
    return data[_SUPERBLOCK:], ""


def target(suffix: str, folder: Path) -> Callable[[bytes], str]:
    """A function that feeds bytes to the reader of `suffix`, through files in `folder` if need be.

    It returns why they were refused; "": they were accepted.
    """
    path = folder / f"input{suffix}"
    load = {".idx": _load_idx, ".named": _load_named}.get(suffix, _load_bytes)
    is_hdf5 = suffix in (".keras", ".h5")

    def run(data: bytes) -> str:
        worker = mock.patch.object(hdf5, "_ask", _answer_within)
        try:
            with worker if is_hdf5 else contextlib.nullcontext():
                load(path, data)
        except LoadError as error:
            text = str(error)
            assert text.startswith(f"{path}: "), text
            assert text.isprintable(), ascii(text)
            assert len(text) < 1500, text
            return text.removeprefix(f"{path}: ")
        if check := _OTHERS.get(suffix):
            check(data)
        return ""

    return run


def _load_idx(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    whole = idx.read(path, max_bytes=MAX_BYTES)
    blocks = list(idx.stream(path, 3, max_bytes=MAX_BYTES))
    rows = np.concatenate(blocks) if blocks else whole[:0]
    np.testing.assert_array_equal(rows, whole)


def _load_bytes(path: Path, data: bytes) -> None:
    """Without a file, which would take as long again; what is accepted, `precheck` accepts too."""
    file = formats.parse(str(path), data, suffix=path.suffix, max_bytes=MAX_BYTES)
    with contextlib.suppress(AttributeError):
        precheck = formats._module(path.suffix).precheck
        precheck(io.BytesIO(data), MAX_BYTES)
    _use(path, file)


def _load_named(path: Path, data: bytes) -> None:
    try:
        n = int.from_bytes(data[:8], "little")
        metadata = json.loads(data[8 : 8 + n])["__metadata__"]
        given = json.loads(metadata["activations"])
        layout = metadata.get("layout") or None
        named.checked_options("read", given, layout)
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError):
        raise LoadError(f"{path}: no options for it") from None  # which callers have, not files
    path.write_bytes(data)
    options = {"activations": given, "layout": layout, "suffix": ".safetensors"}
    _use(path, formats.read(path, max_bytes=MAX_BYTES, **options))


def _use(path: Path, file: ModelFile) -> None:
    try:
        model = fastnn.Model(**vars(file), isa="scalar")
    except (TypeError, ValueError) as error:
        raise LoadError(f"{path}: {error}") from None
    for layer in model.layers:
        assert np.isfinite(layer.weight).all()
        assert np.isfinite(layer.bias).all()
    rows = np.zeros((2, model.n_inputs), np.uint8)
    rows[1] = 255
    answer = model.forward(rows)
    assert answer.shape == ((2,) if model.n_outputs == 1 else (2, model.n_outputs))
    if _stays_finite(model):
        assert np.isfinite(answer).all()
    assert len(model.predict(rows)) == 2


def _stays_finite(model: fastnn.Model) -> bool:
    """Whether no output can overflow float32, by the largest that each layer can give."""
    units = [np.abs(x).max() for x in (model.scale, model.mean, 1 / np.asarray(model.std))]
    reach = 255 * (1 + units[0] + units[1]) * (1 + units[2])
    for layer in model.layers:
        widest = np.abs(layer.weight.astype(np.float64)).sum(axis=0).max()
        reach = (1 + widest) * reach + np.abs(layer.bias).max()
        if layer.activation == "exp":
            return False
        reach *= 2 + max(map(abs, layer.parameters.values()), default=0.0)
    return bool(reach < 1e37)


def _as_safetensors(data: bytes) -> None:
    """The library takes what the reader takes, with the same tensors."""
    _, ours = native.container(data)
    theirs = dict(safetensors.deserialize(data))  # type: ignore[no-untyped-call]
    assert theirs.keys() == {tensor.name for tensor in ours}
    for tensor in ours:
        assert theirs[tensor.name]["dtype"] == tensor.dtype
        assert theirs[tensor.name]["shape"] == tensor.shape
        assert theirs[tensor.name]["data"] == tensor.data


def _as_npz(data: bytes) -> None:
    """zipfile and NumPy take what the reader takes, with the same arrays."""
    from fastnn.formats import npz

    ours = npz._unpack(data, MAX_BYTES)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.testzip() is None
        assert {name[:-4] for name in archive.namelist()} == ours.keys()
        for name, array in ours.items():
            theirs = np.load(io.BytesIO(archive.read(f"{name}.npy")), allow_pickle=False)
            assert theirs.shape == array.shape
            assert theirs.tobytes() == array.tobytes() or theirs.dtype != array.dtype


_OTHERS: dict[str, Callable[[bytes], None]] = {
    ".safetensors": _as_safetensors,
    ".npz": _as_npz,
}


def architecture(data: bytes) -> object:
    """Of a native file, for looking at findings."""
    n = int.from_bytes(data[:8], "little")
    return json.loads(json.loads(data[8 : 8 + n])["__metadata__"]["fastnn"])
