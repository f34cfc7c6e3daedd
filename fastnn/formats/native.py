"""The native format: a safetensors file with the architecture as JSON under one metadata key.

    tensors    layers.0.weight F32 (inputs, outputs), layers.0.bias F32 (outputs,), layers.1. ...
               scale, mean, std F64 (inputs,), each only where it differs between inputs
    metadata   "fastnn": the architecture (`describe`); every other key: free text for people

Invariant: the safetensors library is the judge of the container (offsets, holes, overlaps, sizes,
trailing bytes). What it lets pass is judged here: duplicate names, unknown keys, dtypes, values,
and tensors that the architecture does not name. Layer kinds are the closed set `_KINDS`.

Source: https://github.com/huggingface/safetensors (format), docs/format.md (ours).
"""

from __future__ import annotations

import dataclasses
import json
import struct
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors

from fastnn.formats.model_file import MAX_WIDTH, ModelFile, Wrong, checked, json_object, quoted
from fastnn.layers import Dense
from fastnn.quantize import Calibration

FORMAT = "safetensors"
VERSION = 1
KEY = "fastnn"
MAX_HEADER_BYTES = 1 << 20

_KINDS = ("dense",)
UNITS = ("scale", "mean", "std")
_DTYPES: dict[str, np.dtype[Any]] = {"F32": np.dtype("<f4"), "F64": np.dtype("<f8")}
_LABELS = ("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "str")
_MAX_LABEL = 1000  # characters

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
    metadata = {KEY: json.dumps(describe(model_file)), **model_file.metadata}
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


def parse(data: bytes, max_bytes: int) -> ModelFile:
    """The model in the bytes of a native file, which unpack to no more than themselves."""
    metadata, arrays = _open(data)
    if KEY not in metadata:
        found = f"the metadata keys {quoted(sorted(metadata))}"
        raise Wrong(f"the metadata key {KEY!r} of a fastnn model", found)
    about = json_object(metadata.pop(KEY), f"the metadata {KEY!r}")
    return build(about, arrays, metadata)


def _open(data: bytes) -> tuple[dict[str, str], _Arrays]:
    """The metadata and the arrays of a safetensors file; the arrays are read-only."""
    n_header = int.from_bytes(data[:8], "little")
    if len(data) < 8 or n_header > len(data) - 8:
        found = f"{len(data)} bytes and a header of {n_header}"
        raise Wrong("a header of 8 + n bytes within the file", found)
    if n_header > MAX_HEADER_BYTES:
        raise Wrong(f"a header of at most {MAX_HEADER_BYTES} bytes", f"{n_header}")
    text = data[8 : 8 + n_header]
    if text[:1] != b"{":
        raise Wrong("a header that begins with '{'", quoted(text[:8]))
    header = json_object(text, "the header")
    try:
        tensors = safetensors.deserialize(data)  # type: ignore[no-untyped-call]
    except safetensors.SafetensorError as reason:
        raise Wrong("a sound container", quoted(str(reason))) from None
    arrays = {}
    for name, tensor in tensors:
        _keys(header[name], f"tensor {quoted(name)}", ("dtype", "shape", "data_offsets"))
        dtype = _DTYPES.get(tensor["dtype"])
        if dtype is None:
            raise Wrong(f"tensor {quoted(name)} of {' or '.join(_DTYPES)}", tensor["dtype"])
        if len(tensor["shape"]) > 2 or not all(1 <= n <= MAX_WIDTH for n in tensor["shape"]):
            shape = f"1 or 2 sizes from 1 to {MAX_WIDTH}"
            raise Wrong(f"tensor {quoted(name)} of {shape}", quoted(tensor["shape"]))
        arrays[name] = np.frombuffer(tensor["data"], dtype).reshape(tensor["shape"])
    return header.get("__metadata__") or {}, arrays


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
    values = {name: number(value, f"{what}: {name}") for name, value in parameters.items()}
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
    return np.array(values, f"<U{width}")


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
