"""fastnn as a backend of the ONNX project's tests: `Backend` and what it needs to run one operator.

Their tests are mostly of single operators on tensors of any shape. Three things make such a graph
a network: all inputs but the first become constants; where an operator only moves or compares
values, a LeakyRelu of slope 1 before it makes a layer; and where all operators work value by value,
all values become one row (or, if no constant differs from value to value, a row each).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnx.version_converter
from onnx import TensorProto, helper, numpy_helper
from onnx.backend.base import Backend, BackendRep
from onnx.backend.test.runner import BackendIsNotSupposedToImplementIt

import fastnn
from fastnn.formats.onnx.proto import MIN_OPSET

_VALUE_BY_VALUE = {
    "Abs", "Add", "Cast", "Celu", "Clip", "Constant", "DequantizeLinear", "Div",
    "Dropout", "Elu", "Equal", "Erf", "Exp", "Gelu", "Greater", "GreaterOrEqual", "HardSigmoid",
    "HardSwish", "Identity", "LeakyRelu", "Less", "LessOrEqual", "Log", "Max", "Min", "Mul", "Neg",
    "Not", "PRelu", "Pow", "Reciprocal", "Relu", "Selu", "Sigmoid", "Softplus", "Softsign", "Sqrt",
    "Sub", "Sum", "Swish", "Tanh", "Where",
}  # fmt: skip


class FastnnBackend(Backend):
    """What `onnx.backend.test` asks; `refusal` is why the last model was not run."""

    refusal: str | None = None

    @classmethod
    def supports_device(cls, device: str) -> bool:
        return device == "CPU"

    @classmethod
    def prepare(cls, model: onnx.ModelProto, device: str = "CPU", **kwargs: Any) -> Prepared:
        return Prepared(model)

    @classmethod
    def refuse(cls, reason: str) -> None:
        """End a test as one that is not fastnn's to pass."""
        cls.refusal = reason
        raise BackendIsNotSupposedToImplementIt(reason)


class Prepared(BackendRep):
    """A model, which is read when its inputs are known."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._model = model

    def run(self, inputs: Any, **kwargs: Any) -> tuple[np.ndarray, ...]:
        if not inputs or not all(isinstance(value, np.ndarray | np.generic) for value in inputs):
            FastnnBackend.refuse("inputs that are no tensors")
        inputs = [np.asarray(value) for value in inputs]
        graph = self._model.graph
        try:
            network = _read(self._model, inputs)
        except fastnn.LoadError as reason:
            FastnnBackend.refuse(str(reason))
        turned = any(a.name == "transA" and a.i for node in graph.node for a in node.attribute)
        with np.errstate(over="ignore"):
            x = inputs[0].astype(np.float32)
        if (np.isfinite(inputs[0].astype(np.float64)) != np.isfinite(x)).any():
            FastnnBackend.refuse("doubles beyond float32")
        rows = (x.T if turned else x).reshape(-1, network.n_inputs)
        return tuple(_output(value, network, rows) for value in graph.output)


def _read(given: onnx.ModelProto, inputs: Sequence[np.ndarray]) -> fastnn.Model:
    model = onnx.ModelProto()
    model.CopyFrom(given)
    opsets = [opset for opset in model.opset_import if not opset.domain]
    if opsets and opsets[0].version < MIN_OPSET:  # those of PyTorch's old exporter
        model = onnx.version_converter.convert_version(model, MIN_OPSET)
    graph = model.graph
    tensors = {tensor.name for tensor in graph.initializer}
    first, *others = [value for value in graph.input if value.name not in tensors]
    arrays = dict(zip([value.name for value in others], inputs[1:], strict=False))
    kinds = {node.op_type for node in graph.node}
    if kinds <= _VALUE_BY_VALUE:
        arrays = _one_by_one(first, inputs[0], arrays)
    for name, array in arrays.items():
        graph.initializer.append(numpy_helper.from_array(array, name))
    try:
        return fastnn.from_onnx(model)
    except fastnn.LoadError as reason:
        if "no dense layer" not in str(reason):
            raise
    # Nothing is computed: let a layer do that, which gives what it takes.
    for node in graph.node:
        node.input[:] = ["of a layer" if name == first.name else name for name in node.input]
    layer = helper.make_node("LeakyRelu", [first.name], ["of a layer"], alpha=1.0)
    graph.node.insert(0, layer)
    return fastnn.from_onnx(model)


def _one_by_one(first: Any, x: np.ndarray, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The constants, and the shape of the input, of operators that work value by value."""
    used = {name for name, array in arrays.items() if _fits(array, x)}
    is_scalar = all(arrays[name].size == 1 for name in used)
    shape = first.type.tensor_type.shape
    del shape.dim[:]
    shape.dim.add().dim_param, shape.dim.add().dim_value = "rows", 1 if is_scalar else x.size
    if is_scalar:
        return arrays | {name: arrays[name].reshape(()) for name in used}
    return arrays | {name: np.broadcast_to(arrays[name], x.shape).reshape(1, -1) for name in used}


def _fits(array: np.ndarray, x: np.ndarray) -> bool:
    try:
        return np.broadcast_shapes(array.shape, x.shape) == x.shape
    except ValueError:  # of another shape: then it is not used, or refused
        return False


def _output(value: onnx.ValueInfoProto, network: fastnn.Model, rows: np.ndarray) -> np.ndarray:
    """One output of the graph, in its shape and type."""
    tensor = value.type.tensor_type
    dtype = helper.tensor_dtype_to_np_dtype(tensor.elem_type)
    shape = [d.dim_value if d.HasField("dim_value") else -1 for d in tensor.shape.dim]
    is_label = tensor.elem_type == TensorProto.INT64 and network.task == "classify"
    k = abs(int(np.prod(shape))) // max(1, len(rows))
    if network.n_outputs > 1 and 0 < k < network.n_outputs and (k > 1 or not is_label):
        found = network.top_k(rows, k)[0 if is_label else 1]
    else:
        found = network.predict(rows) if is_label else network.forward(rows)
    with np.errstate(over="ignore"):
        return found.astype(dtype).reshape(shape)
