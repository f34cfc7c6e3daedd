"""The native format: a safetensors file with the architecture as JSON under one metadata key.

    tensors    layers.0.weight F32 (inputs, outputs), layers.0.bias F32 (outputs,), layers.1. ...
               scale, mean, std F64 (inputs,), each only where it differs between inputs
    metadata   "fastnn": the architecture (`describe`); every other key: free text for people

A file without that key is somebody else's, PyTorch's as a rule: its tensors go to `named`, and
whoever loads it says the activations.

Invariant: the container is judged by its header before any tensor is read: duplicate names, unknown
keys, dtypes, sizes, gaps, overlaps, trailing bytes. The arrays are views of the file's bytes, which
nobody can change: no copy is made. What is accepted here the safetensors library accepts too, with
the same tensors (the tests see to it); it is not asked, as it wants the whole file first and copies
it. Then the architecture is judged: unknown keys, kinds of layers (the closed set `_KINDS`),
dtypes, and tensors that it does not name.

Source: https://github.com/huggingface/safetensors (format), docs/format.md (ours).
"""

from __future__ import annotations

import dataclasses
import io
import json
import math
import struct
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt

from fastnn._core import activations as known_activations
from fastnn.formats.model_file import (
    MAX_COMMAS,
    MAX_LAYERS,
    MAX_METADATA,
    MAX_WIDTH,
    ModelFile,
    Wrong,
    checked,
    json_object,
    quoted,
)
from fastnn.layers import Dense
from fastnn.quantize import Calibration

if TYPE_CHECKING:
    from fastnn.formats.named import Activation

FORMAT = "safetensors"
OPTIONS = ("activations", "layout")
VERSION = 1
KEY = "fastnn"
MAX_HEADER_BYTES = 1 << 20

_KINDS = ("dense",)
UNITS = ("scale", "mean", "std")
MAX_TENSORS = 4096  # of any program's file; ours have two a layer
_MAX_DIMENSIONS = 8
_MAX_COMMAS = 2 * MAX_COMMAS  # of an architecture, which holds the classes
_SIZES = {  # bytes, by the dtypes of safetensors
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2"), 1),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 2),
    **dict.fromkeys(("U32", "I32", "F32"), 4),
    **dict.fromkeys(("U64", "I64", "F64"), 8),
}
_DTYPES: dict[str, np.dtype[Any]] = {"F32": np.dtype("<f4"), "F64": np.dtype("<f8")}
_FOREIGN_DTYPES = {**_DTYPES, "F16": np.dtype("<f2"), "I64": np.dtype("<i8")}
_MAX_PARAMETERS = max(len(known["parameters"]) for known in known_activations().values())
_LABELS = ("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "str")
_MAX_LABEL = 1000  # characters ...
_MAX_LABELS = 1 << 22  # ... and of all labels, each as wide as the widest

_Arrays = dict[str, npt.NDArray[Any]]


def pieces(model_file: ModelFile) -> list[bytes | memoryview]:
    """The bytes of the native file of `model_file`; ValueError for what it cannot hold."""
    if KEY in model_file.metadata:
        raise ValueError(f"write: metadata has the key {KEY!r}, which is the format's own")
    arrays: _Arrays = {
        name: value for name in UNITS if not isinstance(value := getattr(model_file, name), float)
    }
    for i, layer in enumerate(model_file.layers):
        arrays[f"layers.{i}.weight"] = layer.weight
        arrays[f"layers.{i}.bias"] = layer.bias
    metadata = {KEY: written(describe(model_file)), **model_file.metadata}
    # Not safetensors.serialize: it writes the metadata in another order each time.
    header: dict[str, Any] = {"__metadata__": metadata}
    start = 0
    for name, array in arrays.items():
        header[name] = {
            "dtype": f"F{8 * array.itemsize}",
            "shape": array.shape,
            "data_offsets": [start, start + array.nbytes],
        }
        start += array.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    if len(text) > MAX_HEADER_BYTES:
        raise ValueError(
            f"write: classes and metadata make a header of {len(text)} bytes, "
            f"wanted at most {MAX_HEADER_BYTES}"
        )
    return [struct.pack("<Q", len(text)), text, *(map(_little_endian, arrays.values()))]


def _little_endian(array: npt.NDArray[Any]) -> memoryview:
    return array.astype(array.dtype.newbyteorder("<"), copy=False).data


def written(about: dict[str, Any]) -> str:
    """An architecture as text; ValueError for more than `described` takes."""
    text = json.dumps(about)
    try:
        described(text)
    except Wrong as wrong:
        expected, found = wrong.args
        lists = {name: about.get(name) for name in UNITS}
        lists["classes"] = (about["classes"] or {}).get("values")
        given = [f"{len(v)} values of {name}" for name, v in lists.items() if isinstance(v, list)]
        what = ", ".join(given)
        raise ValueError(f"write: {what} make {found}, wanted {expected}") from None
    return text


def described(text: str) -> dict[str, Any]:
    """The architecture that `written` wrote."""
    if len(text) > MAX_HEADER_BYTES:
        found = f"{len(text)} characters"
        raise Wrong(f"metadata of at most {MAX_HEADER_BYTES} characters", found)
    return json_object(text, f"the metadata {KEY!r}", n_commas=_MAX_COMMAS)


def describe(model_file: ModelFile) -> dict[str, Any]:
    """The architecture: what `build` reads. Units that are one number per input are tensors."""
    layers: list[dict[str, Any]] = [
        {"kind": "dense", "activation": layer.activation, "parameters": dict(layer.parameters)}
        for layer in model_file.layers
    ]
    labels = model_file.classes
    classes = None
    if labels is not None:
        name = labels.dtype.name if labels.dtype.kind != "U" else "str"
        classes = {"dtype": name, "values": labels.tolist()}
        if name == "str":
            width = labels.dtype.itemsize // 4
            if width > _MAX_LABEL:
                raise ValueError(
                    f"write: classes has {width} characters, wanted at most {_MAX_LABEL}"
                )
            if width * len(labels) > _MAX_LABELS:
                found = f"{len(labels)} labels of {width} characters"
                raise ValueError(f"write: classes are {found}, wanted {_MAX_LABELS} in all at most")
            classes["width"] = width
    units = {name: value for name in UNITS if isinstance(value := getattr(model_file, name), float)}
    about = {
        "version": VERSION, "layers": layers, "task": model_file.task, "classes": classes, **units
    }  # fmt: skip
    if model_file.precision != "float32":
        about["precision"] = model_file.precision
    if model_file.calibration is not None:
        calibration = dataclasses.asdict(model_file.calibration)
        if not calibration["taps"]:
            del calibration["taps"]
        about["calibration"] = calibration
    return about


def parse(
    data: bytes,
    max_bytes: int,
    activations: Sequence[Activation] | None = None,
    layout: str | None = None,
) -> ModelFile:
    """The model in the bytes of a safetensors file, which unpack to no more than themselves."""
    metadata, tensors = container(data)
    if KEY in metadata:
        if activations is not None or layout is not None:
            raise Wrong("no activations= and layout=", f"an architecture in the metadata {KEY!r}")
        about = described(metadata.pop(KEY))
        return build(about, {tensor.name: _array(tensor) for tensor in tensors}, metadata)
    if activations is None:
        raise Wrong(
            f"the metadata key {KEY!r} of a fastnn model, or for a file of another program the "
            'option activations=["relu", "softmax"], one a layer (fastnn convert --activations)',
            f"the metadata keys {quoted(sorted(metadata))} and the tensors "
            f"{quoted([tensor.name for tensor in tensors])}",
        )
    from fastnn.formats import named

    arrays = {tensor.name: foreign_array(tensor) for tensor in tensors}
    # PyTorch's Linear has a weight (outputs, inputs); a kernel (Flax's) may lie either way.
    if layout is None and all(name.endswith("weight") for name, w in arrays.items() if w.ndim == 2):
        layout = "outputs_inputs"
    return checked("the model", lambda: ModelFile(named.layers(arrays, activations, layout)))


def precheck(file: BinaryIO, max_bytes: int) -> None:
    """Refuse a file by its header, before there is room for the rest."""
    n_bytes = file.seek(0, io.SEEK_END)
    file.seek(0)
    _header(file.read(8 + MAX_HEADER_BYTES), n_bytes)


class Tensor(NamedTuple):
    """An entry of a container: its bytes are as many as dtype and shape need."""

    name: str
    dtype: str  # as safetensors calls it
    shape: list[int]
    data: memoryview  # of the file's bytes


def container(data: bytes) -> tuple[dict[str, str], list[Tensor]]:
    """The metadata and the tensors of a safetensors file, whoever wrote it."""
    metadata, spans = _header(data, len(data))
    view = memoryview(data)
    return metadata, [
        Tensor(name, span.dtype, span.shape, view[span.start : span.end])
        for name, span in spans.items()
    ]


def _array(tensor: Tensor) -> npt.NDArray[Any]:
    """A tensor of our own format, read-only."""
    dtype = _DTYPES.get(tensor.dtype)
    if dtype is None:
        raise Wrong(f"tensor {quoted(tensor.name)} of {' or '.join(_DTYPES)}", tensor.dtype)
    return _shaped(tensor, np.frombuffer(tensor.data, dtype))


def foreign_array(tensor: Tensor) -> npt.NDArray[Any]:
    """A tensor as other programs write them, read-only; bfloat16 becomes float32."""
    if tensor.dtype == "BF16":
        upper = np.frombuffer(tensor.data, "<u2").astype(np.uint32) << 16
        return _shaped(tensor, upper.view(np.float32))
    dtype = _FOREIGN_DTYPES.get(tensor.dtype)
    if dtype is None:
        wanted = ", ".join(("BF16", *_FOREIGN_DTYPES))
        raise Wrong(f"tensor {quoted(tensor.name)} of {wanted}", tensor.dtype)
    return _shaped(tensor, np.frombuffer(tensor.data, dtype))


def _shaped(tensor: Tensor, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    shape = tensor.shape
    if len(shape) > 2 or not all(1 <= n <= MAX_WIDTH for n in shape):
        wanted = f"1 or 2 sizes from 1 to {MAX_WIDTH}"
        raise Wrong(f"tensor {quoted(tensor.name)} of {wanted}", quoted(shape))
    return values.reshape(shape)


class _Span(NamedTuple):
    """What the header says of a tensor."""

    dtype: str
    shape: list[int]
    start: int
    end: int
    """Of its bytes, in the file."""


def _header(start: bytes, n_bytes: int) -> tuple[dict[str, str], dict[str, _Span]]:
    """The metadata and the tensors that the header of a file of `n_bytes` bytes declares.

    Sound: the tensors fill the rest of the file, without a gap or an overlap.
    """
    n_header = int.from_bytes(start[:8], "little")
    if n_bytes < 8 or n_header > n_bytes - 8:
        found = f"{n_bytes} bytes and a header of {n_header}"
        raise Wrong("a header of 8 + n bytes within the file", found)
    if n_header > MAX_HEADER_BYTES:
        raise Wrong(f"a header of at most {MAX_HEADER_BYTES} bytes", f"{n_header}")
    text = start[8 : 8 + n_header]
    if text[:1] != b"{":
        raise Wrong("a header that begins with '{'", quoted(text[:8]))
    header = json_object(text, "the header")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(type(v) is str for v in metadata.values()):
        raise Wrong("the metadata as strings by name", quoted(metadata))
    n_names = len(metadata) - (KEY in metadata)
    if n_names > MAX_METADATA:
        raise Wrong(f"metadata of at most {MAX_METADATA} names beside {KEY!r}", f"{n_names}")
    if len(header) > MAX_TENSORS:
        raise Wrong(f"at most {MAX_TENSORS} tensors", f"{len(header)}")
    first = at = 8 + n_header
    spans = {name: _span(name, entry, first) for name, entry in header.items()}
    spans = dict(sorted(spans.items(), key=lambda item: item[1][2:]))
    for name, span in spans.items():
        if span.start != at:
            where = f"at byte {at - first} of the data, without a gap or an overlap"
            raise Wrong(f"tensor {quoted(name)} {where}", quoted(span.start - first))
        at = span.end
    if at != n_bytes:
        raise Wrong(f"{at} bytes in all, as the tensors need", f"{n_bytes}")
    return metadata, spans


def _span(name: str, entry: Any, first: int) -> _Span:
    """An entry that is sound in itself; the data begin at byte `first`."""
    what = f"tensor {quoted(name)}"
    _keys(entry, what, ("dtype", "shape", "data_offsets"))
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _SIZES:
        raise Wrong(f"{what} of one of the dtypes {', '.join(_SIZES)}", quoted(dtype))
    is_shape = isinstance(shape, list) and len(shape) <= _MAX_DIMENSIONS
    if not is_shape or not all(type(n) is int and 0 <= n <= MAX_WIDTH for n in shape):
        raise Wrong(f"{what} of up to {_MAX_DIMENSIONS} sizes up to {MAX_WIDTH}", quoted(shape))
    n_bytes = math.prod(shape) * _SIZES[dtype]  # Python's integers do not overflow
    if not isinstance(offsets, list) or [type(n) for n in offsets] != [int, int]:
        raise Wrong(f"{what} with data_offsets [begin, end]", quoted(offsets))
    begin, end = offsets
    if begin < 0 or end - begin != n_bytes:
        found = f"offsets {quoted(offsets)}"
        raise Wrong(f"{what} with {n_bytes} bytes for its shape {shape}", found)
    return _Span(dtype, shape, first + begin, first + end)


def build(about: dict[str, Any], arrays: _Arrays, metadata: dict[str, str]) -> ModelFile:
    """The model that the architecture describes, from exactly the tensors that it names."""
    if type(about.get("version")) is not int or about["version"] != VERSION:
        raise Wrong(
            f"version {VERSION} of the format (a newer one needs a newer fastnn)",
            f"version {quoted(about.get('version'))}",
        )
    _keys(
        about,
        "the architecture",
        ("version", "layers", "task", "classes"),
        (*UNITS, "precision", "calibration"),
    )
    entries = about["layers"]
    if not isinstance(entries, list):
        raise Wrong("a list of layers", quoted(entries))
    if len(entries) > MAX_LAYERS:
        raise Wrong(f"at most {MAX_LAYERS} layers", f"{len(entries)}")
    names = {f"layers.{i}.{part}" for i in range(len(entries)) for part in ("weight", "bias")}
    names |= {name for name in UNITS if name not in about}
    if names != arrays.keys():
        odd = sorted(names ^ arrays.keys())[0]
        found = "it is missing" if odd in names else f"{quoted(odd)} as well"
        raise Wrong(f"tensor {odd}" if odd in names else "only the tensors of the layers", found)
    for name, array in arrays.items():
        wanted = "F64" if name in UNITS else "F32"
        if array.dtype != _DTYPES[wanted]:
            raise Wrong(f"tensor {name} of {wanted}", f"F{8 * array.itemsize}")
    layers = [_layer(i, entry, arrays) for i, entry in enumerate(entries)]
    units = {name: number(about[name], name) if name in about else arrays[name] for name in UNITS}
    rest: dict[str, Any] = {
        "classes": _classes(about["classes"]),
        "task": about["task"],
        "precision": about.get("precision", "float32"),
        "calibration": _calibration(about["calibration"]) if "calibration" in about else None,
    }
    return checked("the model", lambda: ModelFile(layers, metadata=metadata, **{**units, **rest}))


def _layer(i: int, entry: Any, arrays: _Arrays) -> Dense:
    what = f"layers[{i}]"
    _keys(entry, what, ("kind", "activation", "parameters"))
    if entry["kind"] not in _KINDS:
        raise Wrong(f"{what} of a kind in {_KINDS}", quoted(entry["kind"]))
    parameters = entry["parameters"]
    if not isinstance(parameters, dict):
        raise Wrong(f"{what} with its parameters by name", quoted(parameters))
    if len(parameters) > _MAX_PARAMETERS:
        raise Wrong(f"{what} with at most {_MAX_PARAMETERS} parameters", f"{len(parameters)}")
    values = {n: number(value, f"{what}: {quoted(n)}") for n, value in parameters.items()}
    weight, bias = arrays[f"layers.{i}.weight"], arrays[f"layers.{i}.bias"]
    return checked(what, lambda: Dense(weight, bias, entry["activation"], **values))


def _calibration(entry: Any) -> Calibration:
    _keys(entry, "the calibration", ("input", "ranges"), ("taps",))
    if not isinstance(entry["input"], str) or not isinstance(entry["ranges"], list):
        raise Wrong("a calibration with the name of a dtype and a list of ranges", quoted(entry))
    ranges = []
    for i, pair in enumerate(entry["ranges"]):
        if not isinstance(pair, list) or len(pair) != 2:
            raise Wrong(f"range {i} of the calibration as [lo, hi]", quoted(pair))
        lo, hi = (number(value, f"range {i} of the calibration") for value in pair)
        ranges.append((lo, hi))
    taps = entry.get("taps", [])
    return checked("the calibration", lambda: Calibration(entry["input"], tuple(ranges), taps))


def _classes(entry: Any) -> npt.NDArray[Any] | None:
    if entry is None:
        return None
    is_text = isinstance(entry, dict) and entry.get("dtype") == "str"
    _keys(entry, "classes", ("dtype", "values", "width") if is_text else ("dtype", "values"))
    values, dtype = entry["values"], entry["dtype"]
    kind = {"str": str, "bool": bool}.get(dtype, int) if isinstance(dtype, str) else None
    if dtype not in _LABELS or not isinstance(values, list):
        raise Wrong(f"classes as a list of one of {_LABELS}", quoted(entry))
    if any(type(value) is not kind for value in values):
        raise Wrong(f"classes of {dtype}", quoted(values))
    if not is_text:
        return checked("classes", lambda: np.array(values, dtype))
    width = entry["width"]
    longest = max(map(len, values), default=0)
    if type(width) is not int or not max(1, longest) <= width <= _MAX_LABEL:
        raise Wrong(f"classes of a width from {longest} to {_MAX_LABEL}", quoted(width))
    if width * len(values) > _MAX_LABELS:
        raise Wrong(f"classes of {_MAX_LABELS} characters in all", f"{len(values)} of {width}")
    labels = np.array(values, f"<U{width}")
    if (found := labels.tolist()) != values:  # NumPy takes NULs at the end for none
        odd = next(text for text, one in zip(values, found, strict=True) if text != one)
        raise Wrong("labels that do not end in a null character", quoted(odd))
    return labels


def _keys(entry: Any, what: str, wanted: tuple[str, ...], optional: tuple[str, ...] = ()) -> None:
    """`entry` is a JSON object with all of `wanted` and nothing beyond `optional`."""
    if not isinstance(entry, dict):
        raise Wrong(f"{what} to be a JSON object", quoted(entry))
    if not set(wanted) <= entry.keys() <= {*wanted, *optional}:
        raise Wrong(f"{what} with the keys {', '.join((*wanted, *optional))}", quoted([*entry]))


def number(value: Any, what: str) -> float:
    if type(value) not in (int, float):
        raise Wrong(f"{what} to be a number", quoted(value))
    return checked(what, lambda: float(value))
