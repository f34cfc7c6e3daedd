"""What fuzzing does with a file: load it; if that works, predict a row and hold it to the promises.

Invariant: nothing but `LoadError` gets out of a reader; what does, and every promise that a loaded
model breaks, is an exception here, and so a finding.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import safetensors

import fastnn
from fastnn import LoadError, formats, idx

MAX_BYTES = 1 << 24
"""What an input may unpack to, so that one run is no longer than another."""


def target(suffix: str, folder: Path) -> Callable[[bytes], str]:
    """A function that feeds bytes to the reader of `suffix` through a file in `folder`.

    It returns why they were refused; "": they were accepted.
    """
    path = folder / f"input{suffix}"
    load = _load_idx if suffix == ".idx" else _load_model

    def run(data: bytes) -> str:
        path.write_bytes(data)
        try:
            load(path)
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


def _load_idx(path: Path) -> None:
    whole = idx.read(path, max_bytes=MAX_BYTES)
    blocks = list(idx.stream(path, 3, max_bytes=MAX_BYTES))
    rows = np.concatenate(blocks) if blocks else whole[:0]
    np.testing.assert_array_equal(rows, whole)


def _load_model(path: Path) -> None:
    file = formats.read(path, max_bytes=MAX_BYTES)
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
    from fastnn.formats import native

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
