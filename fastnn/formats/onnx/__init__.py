"""ONNX: dense networks out of `.onnx` files, whoever wrote them, and into them.

    read     proto.py: bytes to a checked graph; chain.py: operators to dense layers;
             formulas.py: which activation several nodes are
    write    one Gemm and one activation per layer, opset 20; the graph takes float32 rows "x", in
             the network's units, and gives the outputs "y"

What a graph cannot say (classes, task, the units of uint8 input, precision, calibration) is JSON
under the metadata key "fastnn", as in a native file. Invariant: the numbers are the graph's. The
JSON's list of layers only gives back what ONNX lacks, the float64 of an activation's parameter; a
list that says otherwise than the graph is refused.

docs/onnx.md has the table of operators.
"""

from __future__ import annotations

import dataclasses
import os
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fastnn._core import check_isa
from fastnn.checks import FLOAT32_MAX
from fastnn.errors import LoadError
from fastnn.formats import native
from fastnn.formats.model_file import ModelFile, Wrong, checked
from fastnn.formats.onnx import arithmetic, chain, labels, proto, quantized, shapes
from fastnn.layers import Dense
from fastnn.quantize import Calibration

if TYPE_CHECKING:
    from fastnn.model import Model

__all__ = ["FORMAT", "from_onnx", "parse", "pieces"]

FORMAT = "ONNX"
KEY = native.KEY

_OPERATORS = {
    kind: handler
    for module in (arithmetic, labels, quantized, shapes)
    for kind, handler in module.OPERATORS.items()
}

_OPSET, _IR = 20, 9  # with Gelu; ONNX Runtime 1.17 of 2024 reads them
_MAX_FILE = 2**31 - 2**20  # protobuf's limit, with room for names


def parse(data: bytes, max_bytes: int) -> ModelFile:
    """The model in the bytes of an ONNX file."""
    graph = proto.read_graph(data, max_bytes, _OPERATORS)
    metadata = dict(graph.metadata)
    ours = metadata.pop(KEY, None)
    with np.errstate(all="ignore"):  # what overflows is refused where it is used
        network = chain.read_layers(graph, _OPERATORS, len(data), merge=ours is None)
    rest: dict[str, Any] = {}
    if network.ranges is not None:
        rest["precision"] = "int8"
        rest["calibration"] = _calibration(network.ranges, network.is_uint8)
    if ours is not None and network.ranges is None:
        return _own(network, ours, metadata)
    if ours is not None:  # a file of ours that another program made int8
        told = _about(network, ours, metadata)
        rest["layers"] = network.layers
        return checked("the model", lambda: dataclasses.replace(told, **rest))
    rest |= {"classes": network.classes, "task": network.task}
    return checked("the model", lambda: ModelFile(network.layers, metadata=metadata, **rest))


def _calibration(ranges: tuple[tuple[float, float], ...], is_uint8: bool) -> Calibration:
    if is_uint8:  # which is what the first layer is given as it is
        return checked("the ranges", lambda: Calibration("uint8", ((0.0, 255.0), *ranges[1:])))
    return checked("the ranges", lambda: Calibration("float32", ranges))


def _about(network: chain.Network, text: str, metadata: dict[str, str]) -> ModelFile:
    """The graph's weights and what the metadata say of them, activations included."""
    about = native.described(text)
    arrays: dict[str, npt.NDArray[Any]] = {}
    for name in native.UNITS:
        if isinstance(about.get(name), list):
            numbers = [native.number(value, name) for value in about.pop(name)]
            arrays[name] = np.array(numbers, np.float64)
    for i, layer in enumerate(network.layers):
        arrays |= {f"layers.{i}.weight": layer.weight, f"layers.{i}.bias": layer.bias}
    return native.build(about, arrays, metadata)


def _own(network: chain.Network, text: str, metadata: dict[str, str]) -> ModelFile:
    """A file that `pieces` wrote; the activations are those of the graph."""
    model = _about(network, text, metadata)
    for i, (told, given) in enumerate(zip(model.layers, network.layers, strict=True)):
        if _function(told) != _function(given):
            raise Wrong(
                f"metadata {KEY!r} that say of layer {i} what the graph does: {given!r} "
                "(without them, the graph alone is read)",
                f"{told!r}",
            )
    return model


def _function(layer: Dense) -> tuple[Any, ...]:
    """What the activation computes in float32, under one name."""
    name = layer.activation
    values = tuple(float(np.float32(value)) for value in layer.parameters.values())
    bounds = {
        "relu": (0.0, FLOAT32_MAX),
        "relu6": (0.0, 6.0),
        "identity": (-FLOAT32_MAX, FLOAT32_MAX),
    }
    return ("clip", bounds[name]) if name in bounds else (name, values)


def from_onnx(
    model: Any,
    *,
    classes: npt.ArrayLike | None = None,
    task: str | None = None,
    scale: npt.ArrayLike | None = None,
    mean: npt.ArrayLike | None = None,
    std: npt.ArrayLike | None = None,
    precision: str | None = None,
    isa: str | None = None,
) -> Model:
    """A model from ONNX: an `onnx.ModelProto`, the bytes of a file, or its path.

    The other arguments are those of `Model`; None takes what the file says. `scale`, `mean` and
    `std` say what a uint8 pixel stands for: a network that was trained on pixels divided by 255
    and exported with float input wants `scale=1/255`.

    Raises `ImportError` without the onnx package, `LoadError` where the model is damaged or holds
    what is no chain of dense layers, naming the node, `OSError` where the file cannot be opened,
    `ValueError` or `TypeError` for an argument that does not fit the model.
    """
    from fastnn import formats
    from fastnn.model import Model

    check_isa(isa)  # first: what is refused below is the file's fault
    if isinstance(model, str | os.PathLike):
        name, file = os.fsdecode(model), formats.read(model, suffix=".onnx")
    else:
        name = "from_onnx"
        file = formats.parse(name, _bytes_of(model), suffix=".onnx")
    try:
        found = Model(**vars(file), isa=isa)
    except (TypeError, ValueError) as error:
        raise LoadError(f"{name}: {error}") from None
    given = {
        "classes": classes, "task": task, "scale": scale, "mean": mean, "std": std,
        "precision": precision,
    }  # fmt: skip
    changes = {name: value for name, value in given.items() if value is not None}
    return found._with(**changes) if changes else found


def _bytes_of(model: Any) -> bytes:
    if isinstance(model, bytes | bytearray | memoryview):
        return bytes(model)
    if not hasattr(model, "SerializeToString"):
        raise TypeError(
            f"from_onnx: model is a {type(model).__name__}, wanted an onnx.ModelProto, the bytes "
            "of a file, or its path"
        )
    return bytes(model.SerializeToString())


# ---- writing -------------------------------------------------------------------------------------

# The activations that are one operator, whose attributes are their parameters.
_NODES = {
    "sigmoid": "Sigmoid", "tanh": "Tanh", "relu": "Relu", "leaky_relu": "LeakyRelu", "elu": "Elu",
    "selu": "Selu", "hardsigmoid": "HardSigmoid", "hardswish": "HardSwish", "softplus": "Softplus",
    "softsign": "Softsign", "exp": "Exp",
}  # fmt: skip


def pieces(model_file: ModelFile) -> list[bytes | memoryview]:
    """The bytes of an ONNX file of `model_file`; ValueError for what it cannot hold."""
    onnx = proto.package()
    if KEY in model_file.metadata:
        raise ValueError(f"write: metadata has the key {KEY!r}, which is the format's own")
    size = sum(layer.weight.nbytes + layer.bias.nbytes for layer in model_file.layers)
    if size > _MAX_FILE:
        raise ValueError(f"write: {size} bytes of weights, and an ONNX file holds {_MAX_FILE}")
    about = native.describe(model_file)
    about |= {
        name: value.tolist()
        for name in native.UNITS
        if isinstance(value := getattr(model_file, name), np.ndarray)
    }
    text = native.written(about)
    nodes: list[Any] = []
    tensors: list[Any] = []
    at = "x"
    for i, layer in enumerate(model_file.layers):
        at = _write_layer(i, layer, at, nodes, tensors)
    nodes[-1].output[0] = "y"
    first, last = model_file.layers[0], model_file.layers[-1]
    rows = onnx.helper.make_tensor_value_info("x", 1, ["batch", first.n_inputs])
    outputs = onnx.helper.make_tensor_value_info("y", 1, ["batch", last.n_outputs])
    about_file = onnx.ModelProto(ir_version=_IR, producer_name="fastnn")
    about_file.opset_import.append(onnx.helper.make_opsetid("", _OPSET))
    onnx.helper.set_model_props(about_file, {**model_file.metadata, KEY: text})
    graph = onnx.helper.make_graph(nodes, "fastnn", [rows], [outputs], tensors)
    # The graph comes last: of a file that was cut short nothing else may be missing in silence.
    parts = about_file, onnx.ModelProto(graph=graph)
    return [part.SerializeToString(deterministic=True) for part in parts]


def _write_layer(i: int, layer: Dense, at: str, nodes: list[Any], tensors: list[Any]) -> str:
    """Append the nodes of a layer that takes the value `at`; the name of what it gives."""
    onnx = proto.package()

    def tensor(name: str, value: npt.ArrayLike) -> str:
        array = np.asarray(value, np.dtype("<f4"))
        tensors.append(
            onnx.TensorProto(
                name=f"layers.{i}.{name}", data_type=1, dims=array.shape, raw_data=array.tobytes()
            )
        )
        return f"layers.{i}.{name}"

    def node(kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        name = f"layers.{i}.{output}"
        nodes.append(onnx.helper.make_node(kind, inputs, [name], name, **attributes))
        return name

    z = node("Gemm", [at, tensor("weight", layer.weight), tensor("bias", layer.bias)], "z")
    name, values = layer.activation, dict(layer.parameters)
    if name == "identity":
        return z
    if name == "silu":
        return node("Mul", [z, node("Sigmoid", [z], "sigmoid")], "a")
    if name == "step":
        return node("Cast", [node("Greater", [z, tensor("zero", 0)], "above")], "a", to=1)
    if name in ("clip", "relu6"):
        bounds = values or {"lo": 0, "hi": 6}
        return node("Clip", [z, *(tensor(end, bounds[end]) for end in ("lo", "hi"))], "a")
    if name in ("gelu", "gelu_tanh"):
        return node("Gelu", [z], "a", approximate="tanh" if name == "gelu_tanh" else "none")
    if name in ("softmax", "log_softmax"):
        return node("Softmax" if name == "softmax" else "LogSoftmax", [z], "a", axis=-1)
    return node(_NODES[name], [z], "a", **values)
