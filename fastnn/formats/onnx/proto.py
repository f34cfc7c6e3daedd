"""The bytes of an ONNX file to a `Graph`: what is declared, checked against what is there.

Invariant: the onnx package parses the protobuf, but only after `_scan` has walked the bytes: every
field is one that the package knows, lies within its message, occurs once unless it may repeat, and
there are no more of them than a dense network needs. So a file cannot become many times its size in
memory. A `Graph` has one input, nodes in order whose inputs are there before them, and tensors
whose shapes fit the bytes in the file. No other file is ever opened, nothing of a graph is run.

Source: https://github.com/onnx/onnx/blob/main/docs/IR.md, https://protobuf.dev (the encoding).
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from fastnn.formats.model_file import MAX_WIDTH, Wrong, quoted

if TYPE_CHECKING:
    import onnx

__all__ = ["MIN_OPSET", "Graph", "Node", "array_of", "package", "read_graph", "text_array"]

MIN_OPSET = 7
"""Before it, shapes were broadcast by an attribute."""

MAX_FIELDS = 60_000  # of protobuf: 256 layers of PyTorch's exporter, the wordiest, have 50,000
MAX_TENSORS = 4096
MAX_NODES = 2048  # without Constants: 186 layers with gelu in nine nodes, or 256 of hardswish
MAX_CONSTANTS = 1024  # and what MAX_NODES leaves: four a layer, as older exporters write them
_MAX_DEPTH = 32  # of messages; a tensor of an attribute of a node is at 5
_MAX_RANK = 8
_MAX_TEXT = 1 << 20  # characters of all labels, each as long as the longest
_ML = "ai.onnx.ml"


def package() -> Any:
    """The onnx package, imported when first needed; ImportError says how to get it."""
    try:
        import onnx
    except ImportError:
        raise ImportError('ONNX files need the onnx package: pip install "fastnn[onnx]"') from None
    return onnx


class Wired(NamedTuple):
    """A node of the file, its place among all, and the names of its values, read once."""

    place: int
    node: onnx.NodeProto
    inputs: tuple[str, ...]
    """Names of values; "" for one that is left out."""
    outputs: tuple[str, ...]

    @property
    def text(self) -> str:
        """Its name, operator and domain, for messages."""
        node, domain = self.node, _domain(self.node.domain)
        name = quoted(node.name) if node.name else f"{self.place}"
        where = f", domain {quoted(domain)}" * bool(domain)
        return f"node {name} ({quoted(node.op_type)[1:-1]}{where})"


@dataclass(frozen=True)
class Node:
    """A node of a graph, its attributes complete and of their types."""

    wired: Wired
    kind: str
    """The operator, with its domain where that is not ONNX's own: "Gemm", "ai.onnx.ml.ZipMap"."""
    version: int
    """Of the operator set that it belongs to."""
    attributes: Mapping[str, Any]
    """By name: int, float, str, tuples of these, or an onnx.TensorProto; defaults filled in."""


@dataclass(frozen=True)
class Graph:
    """A graph as data."""

    nodes: tuple[Node, ...]
    """Those that an output needs, each after those that it needs."""
    tensors: Mapping[str, onnx.TensorProto]
    """The initializers by name."""
    input: str
    input_type: int
    """The element type of the input: a value of onnx.TensorProto.DataType."""
    input_shape: tuple[int | None, ...] | None
    outputs: tuple[str, ...]
    metadata: Mapping[str, str]


def read_graph(data: bytes, max_bytes: int, supported: Iterable[str]) -> Graph:
    """The graph in the bytes of a file, all of its nodes of a `supported` kind."""
    onnx = package()
    _scan(data, max_bytes)
    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
    except Exception as reason:  # protobuf's DecodeError, whose module depends on its version
        raise Wrong("an intact protobuf", quoted(str(reason))) from None
    graph = model.graph
    _refuse_what_is_no_network(model)
    if len(graph.node) > MAX_NODES:
        n_others = sum(node.op_type != "Constant" for node in graph.node)
        if n_others > MAX_NODES or len(graph.node) > MAX_NODES + MAX_CONSTANTS:
            found = f"{len(graph.node)}, {n_others} of them not Constant"
            raise Wrong(f"at most {MAX_NODES} nodes and {MAX_CONSTANTS} Constants", found)
    opsets = _opsets(model)
    tensors: dict[str, Any] = {}
    if len(graph.initializer) > MAX_TENSORS:
        raise Wrong(f"at most {MAX_TENSORS} initializers", f"{len(graph.initializer)}")
    for tensor in graph.initializer:
        _once(tensor.name, tensors, "initializer")
        _check_tensor(tensor, f"initializer {quoted(tensor.name)}")
        tensors[tensor.name] = tensor
    inputs = [value for value in graph.input if value.name not in tensors]
    if len(inputs) != 1:
        names = ", ".join(quoted(value.name) for value in inputs[:5])
        raise Wrong("a graph with one input", f"{len(inputs)} ({names})")
    element, shape = _input_type(inputs[0])
    outputs = tuple(value.name for value in graph.output)
    if not outputs:
        raise Wrong("a graph with an output", "none")
    live = _live(graph.node, {inputs[0].name, *tensors}, outputs)
    known = set(supported)
    return Graph(
        nodes=tuple(_node(wired, opsets, known) for wired in live),
        tensors=tensors,
        input=inputs[0].name,
        input_type=element,
        input_shape=shape,
        outputs=outputs,
        metadata=_metadata(model),
    )


def _refuse_what_is_no_network(model: Any) -> None:
    onnx = package()
    if not 3 <= model.ir_version <= onnx.IR_VERSION:
        raise Wrong(
            f"an IR version from 3 to {onnx.IR_VERSION}, the newest that onnx "
            f"{onnx.__version__} knows",
            f"{model.ir_version}",
        )
    if model.functions:
        raise Wrong(
            "a graph without functions (onnx.inliner.inline_local_functions removes them)",
            f"the function {quoted(model.functions[0].name)}",
        )
    if model.training_info:
        raise Wrong("a network for inference", "training information")
    if model.graph.sparse_initializer:
        raise Wrong("dense tensors only", "a sparse initializer")


def _opsets(model: Any) -> dict[str, int]:
    onnx = package()
    found: dict[str, int] = {}
    for opset in model.opset_import:
        domain = _domain(opset.domain)
        # scikit-learn's exporter imports the same version twice
        if found.setdefault(domain, opset.version) != opset.version:
            versions = f"{found[domain]} and {opset.version}"
            raise Wrong("one version of each operator set", f"{versions} of {quoted(domain)}")
    newest = {"": onnx.defs.onnx_opset_version(), _ML: onnx.defs.onnx_ml_opset_version()}
    for domain, last in newest.items():
        first = 1 if domain else MIN_OPSET
        if not first <= found.get(domain, last) <= last:
            raise Wrong(
                f"an opset from {first} to {last}, the newest that onnx {onnx.__version__} knows",
                f"{found[domain]} of {quoted(domain)}",
            )
    return found


def _domain(name: str) -> str:
    return "" if name == "ai.onnx" else name


def _metadata(model: Any) -> dict[str, str]:
    metadata: dict[str, str] = {}
    for entry in model.metadata_props:
        _once(entry.key, metadata, "key of the metadata")
        metadata[entry.key] = entry.value
    return metadata


def _once(name: str, seen: Iterable[str], what: str) -> None:
    if name in seen:  # a dictionary or a set
        raise Wrong(f"each {what} once", f"{quoted(name)} twice")


def _input_type(value: Any) -> tuple[int, tuple[int | None, ...] | None]:
    if value.type.WhichOneof("value") != "tensor_type":
        raise Wrong("an input that is a tensor", f"{quoted(value.name)} that is none")
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        return tensor.elem_type, None
    shape: list[int | None] = []
    for dimension in tensor.shape.dim:
        n = dimension.dim_value if dimension.WhichOneof("value") == "dim_value" else None
        if n is not None and not 0 <= n <= MAX_WIDTH:
            raise Wrong(f"sizes of the input from 1 to {MAX_WIDTH}", f"{n}")
        shape.append(n or None)  # 0: some exporters' "any"
    if not 1 <= len(shape) <= _MAX_RANK:
        raise Wrong(f"an input of 1 to {_MAX_RANK} dimensions", f"{len(shape)}")
    return tensor.elem_type, tuple(shape)


def _live(nodes: Iterable[Any], defined: set[str], outputs: tuple[str, ...]) -> list[Wired]:
    """The nodes that the outputs need; every value there before it is used."""
    wired = [Wired(i, node, tuple(node.input), tuple(node.output)) for i, node in enumerate(nodes)]
    for one in wired:
        for name in one.inputs:
            if name and name not in defined:
                what = f"{one.text} that takes {quoted(name)}"
                raise Wrong("each value given before it is used, and no cycle", what)
        for name in one.outputs:
            if name:
                _once(name, defined, "value given by one node")
                defined.add(name)
    for name in outputs:
        if name not in defined:
            raise Wrong("outputs that a node gives", quoted(name))
    needed, live = set(outputs), []
    for one in reversed(wired):
        if not needed.isdisjoint(one.outputs):
            needed.update(filter(None, one.inputs))
            live.append(one)
    return live[::-1]


def _node(wired: Wired, opsets: Mapping[str, int], supported: set[str]) -> Node:
    name, domain = wired.node.op_type, _domain(wired.node.domain)
    kind = f"{domain}.{name}" if domain else name
    if kind not in supported:
        names = ", ".join(sorted(name.removeprefix(f"{_ML}.") for name in supported))
        raise Wrong(f"operators that make a dense network: {names}", wired.text)
    if domain not in opsets:
        found = f"none, but {wired.text}"
        raise Wrong(f"a version of the operator set {quoted(domain)}", found)
    schema = _schema(name, opsets[domain], domain)
    if schema is None:
        found = f"{wired.text} and version {opsets[domain]}"
        raise Wrong("operators that their operator set has", found)
    n_in, n_out = len(wired.inputs), len(wired.outputs)
    if not schema.min_input <= n_in <= schema.max_input or n_out > schema.max_output:
        expected = f"{wired.text} with the inputs and outputs of its operator"
        raise Wrong(expected, f"{n_in} and {n_out}")
    return Node(wired, kind, opsets[domain], _attributes(wired, schema))


@dataclass(frozen=True)
class _Schema:
    """What the onnx package says of an operator, making a new object at every question."""

    min_input: int
    max_input: int
    max_output: int
    types: Mapping[str, Any]
    """Of the attributes, by name."""
    required: tuple[str, ...]
    defaults: Mapping[str, Any]


@functools.cache
def _schema(name: str, version: int, domain: str) -> _Schema | None:
    onnx = package()
    try:
        found = onnx.defs.get_schema(name, version, domain)
    except onnx.defs.SchemaError:
        return None
    types, required, defaults = {}, [], {}
    for key, known in found.attributes.items():
        types[key] = known.type
        if known.required:
            required.append(key)
        elif known.default_value.name:
            defaults[key] = _value(known.default_value, f"the default of {key}")
    limits = found.min_input, found.max_input, found.max_output
    return _Schema(*limits, types, tuple(required), defaults)


def _attributes(wired: Wired, schema: _Schema) -> dict[str, Any]:
    given: dict[str, Any] = {}
    text = wired.text if wired.node.attribute else ""  # formatted once
    for attribute in wired.node.attribute:
        what = f"attribute {quoted(attribute.name)}"
        _once(attribute.name, given, f"attribute of {text}")
        known = schema.types.get(attribute.name)
        if known is None:
            names = ", ".join(sorted(schema.types)) or "none"
            raise Wrong(f"{text} with its operator's attributes: {names}", what)
        if attribute.type != known.value:
            raise Wrong(f"{what} of {text} of type {known.name}", f"type {attribute.type}")
        given[attribute.name] = _value(attribute, f"{what} of {text}")
    for name in schema.required:
        if name not in given:
            raise Wrong(f"{wired.text} with the attribute {quoted(name)}", "none")
    return {**schema.defaults, **given}


def _value(attribute: Any, what: str) -> Any:
    """The value of an attribute, of the kinds that dense networks need."""
    fields = {field.name for field, _ in attribute.ListFields()}
    kinds = {1: "f", 2: "i", 3: "s", 4: "t", 6: "floats", 7: "ints", 8: "strings"}
    field = kinds.get(attribute.type)
    if field is None:
        raise Wrong(f"{what} to be numbers, strings or a tensor", f"type {attribute.type}")
    odd = fields - {"name", "type", "doc_string", field}
    if odd:
        raise Wrong(f"{what} with one value", f"also {', '.join(sorted(odd))}")
    value = getattr(attribute, field)
    if field == "t":
        _check_tensor(value, what)
        return value
    if field in ("f", "i"):
        return value
    if field == "floats":
        return np.array(value, np.float32)
    if field == "ints":
        return tuple(value)
    texts = [value] if field == "s" else value
    try:
        decoded = tuple(text.decode() for text in texts)
    except UnicodeDecodeError:
        raise Wrong(f"{what} of Unicode", "other bytes") from None
    return decoded[0] if field == "s" else decoded


# ---- tensors -------------------------------------------------------------------------------------

# data_type: (bytes of an element, the field for elements that are not in raw_data)
_ELEMENTS = {
    1: (4, "float_data"),  # FLOAT
    2: (1, "int32_data"),  # UINT8
    3: (1, "int32_data"),  # INT8
    6: (4, "int32_data"),  # INT32
    7: (8, "int64_data"),  # INT64
    9: (1, "int32_data"),  # BOOL
    10: (2, "int32_data"),  # FLOAT16
    11: (8, "double_data"),  # DOUBLE
    16: (2, "int32_data"),  # BFLOAT16
}
_STRING = 8
_FIELDS = ("float_data", "int32_data", "string_data", "int64_data", "double_data", "uint64_data")


def _check_tensor(tensor: Any, what: str) -> None:
    """The shape and the elements fit each other; those of a known type to the byte."""
    if tensor.data_location or tensor.external_data:
        raise Wrong(
            f"{what} within this file (torch.onnx.export(..., external_data=False) writes it so, "
            "onnx.save(onnx.load(old), new) moves it there)",
            "external data",
        )
    if tensor.HasField("segment"):
        raise Wrong(f"{what} in one piece", "a segment of it")
    if len(tensor.dims) > _MAX_RANK or not all(0 <= n <= 2**31 for n in tensor.dims):
        shape = quoted(list(tensor.dims[: _MAX_RANK + 1]))
        raise Wrong(f"{what} of at most {_MAX_RANK} sizes from 0 to 2^31", shape)
    size = math.prod(tensor.dims)
    used = [name for name in _FIELDS if getattr(tensor, name)]
    if tensor.data_type == _STRING:
        if used not in ([], ["string_data"]) or tensor.HasField("raw_data"):
            raise Wrong(f"{what} with strings", f"{', '.join(used) or 'raw_data'}")
        n_present, n_wanted, unit = len(tensor.string_data), size, "strings"
    elif tensor.data_type not in _ELEMENTS:
        return  # refused where it is used
    else:
        width, field = _ELEMENTS[tensor.data_type]
        if tensor.HasField("raw_data") and not used:
            n_present, n_wanted, unit = len(tensor.raw_data), size * width, "bytes"
        elif not tensor.HasField("raw_data") and used in ([], [field]):
            n_present, n_wanted, unit = len(getattr(tensor, field)), size, "values"
        else:
            raise Wrong(f"{what} with its values in raw_data or {field}", f"{', '.join(used)} too")
    if n_present != n_wanted:
        shape = quoted(tuple(tensor.dims))
        raise Wrong(f"{what} of {n_wanted} {unit} for shape {shape}", f"{n_present}")


def array_of(tensor: Any, what: str) -> npt.NDArray[Any]:
    """The values of a checked tensor: floats without NaN, integers, booleans or strings."""
    from onnx import numpy_helper

    if tensor.data_type == _STRING:
        try:
            return text_array([text.decode() for text in tensor.string_data], what)
        except UnicodeDecodeError:
            raise Wrong(f"{what} of Unicode", "other bytes") from None
    if tensor.data_type not in _ELEMENTS:
        raise Wrong(
            f"{what} of float16, bfloat16, float, double, int8, uint8, int32, int64 or bool",
            f"element type {tensor.data_type}",
        )
    array: npt.NDArray[Any] = np.asarray(numpy_helper.to_array(tensor))
    if array.dtype.name == "bfloat16":
        array = array.astype(np.float32)
    if array.dtype.kind == "f" and np.isnan(array).any():
        raise Wrong(f"{what} of numbers", "NaN")
    return array


def text_array(texts: Sequence[str], what: str) -> npt.NDArray[np.str_]:
    """Strings as an array, in which each takes as much memory as the longest."""
    longest = max(map(len, texts), default=0)
    if longest * len(texts) > _MAX_TEXT:
        raise Wrong(f"{what} of modest length", f"{len(texts)} of up to {longest} characters")
    return np.array(texts, dtype=np.str_)


# ---- protobuf, before it is parsed ---------------------------------------------------------------

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_WIRE = {1: _FIXED64, 6: _FIXED64, 16: _FIXED64, 2: _FIXED32, 7: _FIXED32, 15: _FIXED32}
_STRINGS, _MESSAGES, _BYTE_STRINGS = 9, 11, 12  # types of fields; the others are numbers


@dataclass(frozen=True)
class _Field:
    """A field of a message as it may be met in a file."""

    name: str
    wire: int
    kind: int
    repeats: bool
    message: Any = None  # the descriptor of what is within


@functools.cache
def _fields(descriptor: Any) -> dict[int, _Field]:
    """The fields of a message by tag: number and wire type."""
    found: dict[int, _Field] = {}
    for field in descriptor.fields:
        is_repeated = getattr(field, "is_repeated", None)
        if is_repeated is None:  # protobuf before 30
            is_repeated = field.label == field.LABEL_REPEATED
        in_bytes = field.type in (_STRINGS, _MESSAGES, _BYTE_STRINGS)
        wire = _BYTES if in_bytes else _WIRE.get(field.type, _VARINT)
        about = _Field(field.name, wire, field.type, is_repeated, field.message_type)
        found[field.number << 3 | wire] = about
        if is_repeated and not in_bytes:  # packed
            found[field.number << 3 | _BYTES] = about
    return found


@functools.cache
def _run(tag: int) -> re.Pattern[bytes]:
    """Elements of 4 bytes one after the other, each with its tag: attributes have 1000s of them."""
    return re.compile(b"(?:" + re.escape(bytes([tag])) + b".{4})++", re.S)


def _scan(data: bytes, max_bytes: int) -> None:
    """Raise `Wrong` unless `data` is a ModelProto as the package knows it, of modest size.

    Sizes: fields one by one, as each of two bytes may become an object of a hundred; numbers packed
    into one field by what they unpack to.
    """
    n_fields, n_unpacked = 0, 0
    # A message: where it ends, its fields, what was met of them.
    stack = [(len(data), _fields(package().ModelProto.DESCRIPTOR), set[int]())]
    at = 0
    while stack:
        end, fields, met = stack[-1]
        if at == end:
            stack.pop()
            continue
        n_fields += 1
        if n_fields > MAX_FIELDS:
            raise Wrong("a dense network", f"a protobuf of more than {MAX_FIELDS} fields")
        tag = data[at]
        at += 1
        if tag > 127:
            tag, at = _varint(data, at - 1, end)
        field = fields.get(tag)
        if field is None:
            raise Wrong(
                "the fields of ONNX (a newer one may need a newer onnx package)",
                f"field {tag >> 3} of wire type {tag & 7} before byte {at}",
            )
        if not field.repeats:
            if tag in met:
                raise Wrong(f"{field.name} once in its message", f"it twice before byte {at}")
            met.add(tag)
        wire = tag & 7
        if wire == _VARINT:
            if at < end and data[at] < 128:
                at += 1
            else:
                _, at = _varint(data, at, end)
        elif wire == _FIXED32 and field.repeats and tag < 128:
            match = _run(tag).match(data, at - 1, end)
            at = match.end() if match else end + 1
        elif wire in (_FIXED32, _FIXED64):
            at += 4 if wire == _FIXED32 else 8
        else:
            if at < end and data[at] < 128:
                size = data[at]
                at += 1
            else:
                size, at = _varint(data, at, end)
            if size > end - at:
                raise Wrong(f"{field.name} of {size} bytes within its message", f"{end - at}")
            if field.kind == _MESSAGES:
                if len(stack) == _MAX_DEPTH:
                    raise Wrong(f"messages at most {_MAX_DEPTH} deep", "deeper ones")
                stack.append((at + size, _fields(field.message), set()))
                continue
            if field.kind == _STRINGS:
                text = data[at : at + size]
                if not text.isascii():
                    _check_utf8(text, field.name)
            elif field.kind != _BYTE_STRINGS and field.wire == _VARINT:
                n_unpacked += 8 * size
                if n_unpacked > max_bytes:
                    raise Wrong(f"at most {max_bytes} bytes unpacked (max_bytes=)", f"{n_unpacked}")
            at += size
        if at > end:
            raise Wrong(f"{field.name} within its message", "it cut short")


def _varint(data: bytes, at: int, end: int) -> tuple[int, int]:
    """The number at `at`, and where it ends.

    Most are of one byte, and a call for each would take as long again: who reads many looks first.
    """
    value = 0
    for i in range(at, min(end, at + 10)):
        value |= (data[i] & 127) << 7 * (i - at)
        if data[i] < 128:
            return value, i + 1
    raise Wrong("numbers of protobuf within their message", f"one cut short at byte {at}")


def _check_utf8(text: bytes, name: str) -> None:
    try:
        text.decode()
    except UnicodeDecodeError:
        raise Wrong(f"{name} of Unicode", quoted(text)) from None
