"""`.npz`: the arrays of a network by their usual names, as `numpy.savez` writes them.

    W0 (inputs, outputs), b0 (outputs,), W1, b1, ...      float32, or float64 rounded to it
    activations   one string per layer: "relu", or with parameters "leaky_relu(alpha=0.1)"
    classes, task, scale, mean, std, metadata, precision  optional, as in ModelFile;
                                                          metadata is one JSON object of strings
    calibration_input, calibration_ranges                 optional, both or neither: the dtype's
                                                          name, and float64 (layers, 2) of lo, hi

A file without `activations` is somebody else's: weights and biases by any names that `named` knows,
in either layout; whoever loads it says the activations.

Invariant: the .npy headers are read by the one regular expression `_HEADER`, never evaluated, and
never unpickled; an entry is unpacked only after its header, its declared size, the dtypes that are
allowed and what an entry of its name can need (`_MOST`) agree. There is no default for
`activations`: a guess would give wrong answers.

Source: the .npy format, numpy.lib.format; docs/format.md.
"""

from __future__ import annotations

import io
import json
import math
import re
import zipfile
from collections.abc import Sequence
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from fastnn.formats import archive, named
from fastnn.formats.model_file import (
    MAX_LAYERS,
    MAX_WIDTH,
    ModelFile,
    Wrong,
    checked,
    json_object,
    quoted,
)
from fastnn.layers import Dense
from fastnn.quantize import Calibration

FORMAT = "npz"
OPTIONS = ("activations", "layout")

_CALIBRATION = ("calibration_input", "calibration_ranges", "calibration_taps")
_STRINGS = ("task", "metadata", "precision", "calibration_input")
_OPTIONAL = ("classes", "task", "scale", "mean", "std", "metadata", "precision", *_CALIBRATION)
_OWN = re.compile(rf"(?:[Wb][0-9]{{1,3}}|activations|{'|'.join(_OPTIONAL)})\.npy")
_MAX_ENTRIES = 5 * MAX_LAYERS  # a dense layer has two arrays, a BatchNorm five
_MOST = {  # values, and characters of each
    "activations": (MAX_LAYERS, 1000),
    "classes": (1 << 16, 1000),
    **dict.fromkeys(("task", "precision", "calibration_input"), (1, 100)),
    "metadata": (1, 1 << 20),
    **dict.fromkeys(("calibration_ranges", "calibration_taps"), (2 * MAX_LAYERS, 0)),
}
_ANYTHING = MAX_WIDTH**2, MAX_WIDTH
_MAX_HEADER_BYTES = 4096
_HEADER = re.compile(
    r"\{'descr': '(?P<order>[<>|])(?P<kind>[fiubU])(?P<size>[1-9]\d{0,8})', "
    r"'fortran_order': (?P<fortran>True|False), "
    r"'shape': \((?P<shape>(?:\d{1,19}(?:, \d{1,19})*,?)?)\), \} *\n"
)
_KINDS = {"f": (2, 4, 8), "i": (1, 2, 4, 8), "u": (1, 2, 4, 8), "b": (1,)}  # sizes in bytes
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the first date of zip: the same model gives the same bytes

_Arrays = dict[str, npt.NDArray[Any]]


def pieces(model_file: ModelFile) -> list[bytes | memoryview]:
    """The bytes of the .npz file of `model_file`; ValueError for what it cannot hold."""
    entries: dict[str, npt.ArrayLike] = {}
    for i, layer in enumerate(model_file.layers):
        entries |= {f"W{i}": layer.weight, f"b{i}": layer.bias}
    entries["activations"] = [_activation_text(layer) for layer in model_file.layers]
    for name in ("scale", "mean", "std", "task", "classes"):
        if (value := getattr(model_file, name)) is not None:
            entries[name] = value
    if model_file.metadata:
        entries["metadata"] = json.dumps(model_file.metadata)
    if model_file.precision != "float32":
        entries["precision"] = model_file.precision
    if model_file.calibration is not None:
        entries["calibration_input"] = model_file.calibration.input
        entries["calibration_ranges"] = model_file.calibration.ranges
        if model_file.calibration.taps:
            entries["calibration_taps"] = np.array(model_file.calibration.taps, np.int64)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as zipped:  # stored: weights hardly shrink
        for name, value in entries.items():
            array, entry = np.asarray(value), io.BytesIO()
            n_characters = array.itemsize // 4 if array.dtype.kind == "U" else 0
            if not _has_room(name, array.shape, n_characters):
                each = f" of {n_characters} characters" * (n_characters > 0)
                found = f"{name} has {array.size} values{each}"
                raise ValueError(f"write: {found}, wanted {_most(name)}")
            np.save(entry, array, allow_pickle=False)
            zipped.writestr(zipfile.ZipInfo(f"{name}.npy", _EPOCH), entry.getbuffer())
    return [packed.getbuffer()]


def _has_room(name: str, shape: tuple[int, ...], n_characters: int) -> bool:
    """Whether the entry of this name can need so much."""
    most, length = _MOST.get(name, _ANYTHING)
    return math.prod(shape) <= most and n_characters <= max(length, 1)


def _most(name: str) -> str:
    return "at most {} values of at most {} characters".format(*_MOST.get(name, _ANYTHING))


def _activation_text(layer: Dense) -> str:
    values = ", ".join(f"{name}={value!r}" for name, value in layer.parameters.items())
    return f"{layer.activation}({values})" if values else layer.activation


def parse(
    data: bytes,
    max_bytes: int,
    activations: Sequence[named.Activation] | None = None,
    layout: str | None = None,
) -> ModelFile:
    """The model in the bytes of an .npz file that unpacks to at most `max_bytes` bytes."""
    arrays = _unpack(data, max_bytes)
    if "activations" in arrays:
        if activations is not None or layout is not None:
            raise Wrong("no activations= and layout=", "an entry 'activations' in the file")
        return _own(arrays)
    if activations is None:
        raise Wrong(
            "an entry 'activations' with one string per layer, as in numpy.savez(..., W0=..., "
            'b0=..., activations=["relu", "softmax"]), or the option activations=["relu", '
            '"softmax"] (fastnn convert --activations)',
            f"only {quoted(sorted(arrays))}, and activations are not guessed",
        )
    return checked("the model", lambda: ModelFile(named.layers(arrays, activations, layout)))


def _own(arrays: _Arrays) -> ModelFile:
    """The model in the arrays of a file as `pieces` makes it."""
    texts = _strings(arrays.pop("activations"), "activations")
    wanted = {f"{letter}{i}" for i in range(len(texts)) for letter in "Wb"}
    odd = wanted ^ {name for name in arrays if name not in _OPTIONAL}
    if odd:
        found = sorted(odd)[0]
        is_missing = found in wanted
        raise Wrong(
            f"W and b of {len(texts)} layers, as activations has {len(texts)} strings",
            f"no {found}" if is_missing else f"{quoted(found)} as well",
        )
    layers = [
        _layer(f"layer {i}", text, arrays[f"W{i}"], arrays[f"b{i}"]) for i, text in enumerate(texts)
    ]
    rest: dict[str, Any] = {name: arrays[name] for name in _OPTIONAL if name in arrays}
    for name in _STRINGS:
        if name in rest:
            if rest[name].ndim:
                raise Wrong(f"{name} as one string", f"shape {rest[name].shape}")
            (rest[name],) = _strings(rest[name].reshape(1), name)
    if "metadata" in rest:
        rest["metadata"] = json_object(rest["metadata"], "the metadata")
    if any(name in rest for name in _CALIBRATION):
        rest["calibration"] = _calibration(*(rest.pop(name, None) for name in _CALIBRATION))
    return checked("the model", lambda: ModelFile(layers, **rest))


def _calibration(
    name: str | None, ranges: npt.NDArray[Any] | None, taps: npt.NDArray[Any] | None
) -> Calibration:
    if name is None or ranges is None:
        raise Wrong(" and ".join(_CALIBRATION[:2]), "one of the two")
    if ranges.dtype.kind != "f" or ranges.ndim != 2:
        raise Wrong(
            "calibration_ranges as floats of shape (layers, 2)",
            f"{ranges.dtype} of shape {ranges.shape}",
        )
    if taps is not None and (taps.dtype.kind != "i" or taps.ndim != 2):
        raise Wrong(
            "calibration_taps as integers of shape (n, 2)", f"{taps.dtype} of shape {taps.shape}"
        )
    return checked(
        "the calibration",
        lambda: Calibration(
            name, tuple(map(tuple, ranges.tolist())), () if taps is None else taps.tolist()
        ),
    )


def _strings(array: npt.NDArray[Any], what: str) -> list[str]:
    if array.dtype.kind != "U" or array.ndim != 1:
        raise Wrong(f"{what} of strings", f"{array.dtype} of shape {array.shape}")
    return array.tolist()


def _layer(what: str, text: str, weight: npt.NDArray[Any], bias: npt.NDArray[Any]) -> Dense:
    for name, array in (("W", weight), ("b", bias)):
        if array.dtype.kind != "f" or array.dtype.itemsize < 4:
            raise Wrong(f"{name} of {what} as float32 or float64", f"{array.dtype}")

    def build() -> Dense:
        name, parameters = named.activation(text)
        return Dense(weight, bias, name, **parameters)

    return checked(what, build)


def precheck(file: BinaryIO, max_bytes: int) -> None:
    """Refuse a file by its directory, before there is room for the rest."""
    with archive.opened(file, max_bytes, _MAX_ENTRIES, _check_name):
        pass


def _unpack(data: bytes, max_bytes: int) -> _Arrays:
    """The arrays by name."""
    with archive.opened(data, max_bytes, _MAX_ENTRIES, _check_name) as (zipped, entries):
        is_own = any(entry.filename == "activations.npy" for entry in entries)
        for entry in entries:
            if is_own and not _OWN.fullmatch(entry.filename):
                raise Wrong(
                    f"only the entries W0, b0, ..., activations, {', '.join(_OPTIONAL)}",
                    quoted(entry.filename),
                )
        return {entry.filename[:-4]: _array(zipped, entry) for entry in entries}


def _check_name(name: str) -> None:
    if not name.endswith(".npy"):
        raise Wrong("only entries whose names end in .npy", quoted(name))


def _array(zipped: archive.Archive, entry: archive.Entry) -> npt.NDArray[Any]:
    """One .npy entry. Its declared size equals what its header needs before it is unpacked."""
    what = quoted(entry.filename)[1:-1]
    with zipped.open(entry) as file:
        start = file.read(10)
        if start[:8] != b"\x93NUMPY\x01\x00" or len(start) < 10:
            raise Wrong(f"{what} in version 1.0 of the .npy format", quoted(start))
        n_header = int.from_bytes(start[8:], "little")
        if n_header > _MAX_HEADER_BYTES:
            raise Wrong(f"{what} with a header of at most {_MAX_HEADER_BYTES} bytes", f"{n_header}")
        header = file.read(n_header).decode("latin-1")
        match = _HEADER.fullmatch(header)
        if match is None:
            raise Wrong(f"{what} of numbers, booleans or strings", quoted(header))
        kind, size = match["kind"], int(match["size"])
        if kind != "U" and size not in _KINDS[kind]:
            raise Wrong(f"{what} of {kind}{_KINDS[kind]}", f"{kind}{size}")
        shape = tuple(int(n) for n in match["shape"].split(",") if n)
        if len(shape) > 2 or not all(1 <= n <= MAX_WIDTH for n in shape):
            raise Wrong(f"{what} of at most 2 sizes from 1 to {MAX_WIDTH}", quoted(shape))
        if not _has_room(what[:-4], shape, size if kind == "U" else 0):
            raise Wrong(f"{what} of {_most(what[:-4])}", f"shape {quoted(shape)} of {kind}{size}")
        n_bytes = math.prod(shape) * size * (4 if kind == "U" else 1)
        if entry.file_size != 10 + n_header + n_bytes:
            found = f"{entry.file_size}"
            raise Wrong(f"{what} of {10 + n_header + n_bytes} bytes for shape {shape}", found)
        content = file.read(n_bytes)
    order = match["order"].replace("|", "")
    if kind == "b" and max(content) > 1:
        raise Wrong(f"{what} of booleans 0 and 1", f"{max(content)}")
    if kind == "U" and np.frombuffer(content, f"{order}u4").max() > 0x10FFFF:
        raise Wrong(f"{what} of Unicode", "a code point beyond it")
    array = np.frombuffer(content, f"{order}{kind}{size}")
    return array.reshape(shape, order="F" if match["fortran"] == "True" else "C")
