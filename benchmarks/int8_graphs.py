"""ONNX files of a network in int8, as the int8 rivals want it.

Invariant: all of them compute one quantised network: weights symmetric int8 with one scale per
output, activations uint8 with static ranges (`Workload.ranges`), sums in int32. They differ in how
that is written down, because runtimes recognise some ways and not others; and in how the rows
come in. Every file has the batch size fixed in it, one input "x" and one output "z".

On x86 without VNNI the rivals add pairs of products in 16 bits that saturate (vpmaddubsw), and are
off by a quarter of the largest z; there weights get 7 bits, as their makers advise: ONNX Runtime's
`quantize_static(reduce_range=True)`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

import fastnn
from benchmarks.workloads import Workload

INPUTS = ("uint8 quantised as it is", "Cast+Mul+QuantizeLinear", "float")
"""How rows come in: pixels that are the quantised tensor; pixels that the graph makes floats of
and quantises again; floats that the graph quantises."""

WRITINGS = ("QDQ Gemm", "QDQ MatMul", "QGemm")
"""How a layer is written: Gemm, or MatMul and Add of a float bias, between DequantizeLinear and
QuantizeLinear; ONNX Runtime's own operator, com.microsoft.QGemm."""


def most_weight() -> int:
    """The largest weight as an integer: that of 8 bits, or of 7 where products saturate."""
    features = fastnn.cpu_features()
    saturates = "avx2" in features and not {"avx_vnni", "avx512_vnni"} & set(features)
    return 63 if saturates else 127


@dataclass(frozen=True)
class Affine:
    """Of a uint8 tensor q: it stands for (q - zero) * scale."""

    scale: np.float32
    zero: int

    @classmethod
    def of(cls, low: float, high: float) -> Affine:
        """Of the range [low, high], which holds 0."""
        scale = np.float32((high - low) / 255) if high > low else np.float32(1)
        return cls(scale, int(np.clip(np.rint(-low / float(scale)), 0, 255)))

    def dequantised(self, q: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
        """What q stands for."""
        return (q.astype(np.float64) - self.zero) * float(self.scale)


def affines(workload: Workload) -> list[Affine]:
    """Of each layer's input, then of the last z."""
    return [Affine.of(low, high) for low, high in workload.ranges]


def quantised_weight(
    weight: npt.NDArray[np.float32],
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """int8 (inputs, outputs) and the scale of each output, float32 (outputs,)."""
    most = most_weight()
    largest = np.abs(weight).max(axis=0).astype(np.float64)
    scale = np.where(largest == 0, 1, largest / most).astype(np.float32)
    rounded = np.rint(weight / scale.astype(np.float64))
    return np.clip(rounded, -most, most).astype(np.int8), scale


def onnx_int8(workload: Workload, *, rows: str, writing: str, quantised_out: bool = False) -> bytes:
    """The file; `rows` is one of `INPUTS`, `writing` one of `WRITINGS`.

    quantised_out: z comes out as uint8 (see `affines`), else as float32.
    """
    import onnx
    from onnx import helper

    if rows not in INPUTS or writing not in WRITINGS:
        raise ValueError(f"rows is {rows!r}, writing {writing!r}: wanted one of INPUTS, WRITINGS")
    graph = _Graph(affines(workload))
    at = graph.input(rows, np.float32(workload.scale))
    for i, layer in enumerate(workload.layers):
        is_last = i + 1 == len(workload.layers)
        weight, weight_scale = quantised_weight(layer.weight)
        # The bias in the units of the int32 sums, as QGemm and the QDQ form of Gemm want it.
        sum_scale = graph.affines[i].scale * weight_scale
        bias = np.rint(layer.bias.astype(np.float64) / sum_scale).astype(np.int32)
        is_float = is_last and not quantised_out
        if writing == "QGemm":
            # Its uint8 output starts at 0 after a relu: saturation is the relu.
            at = graph.qgemm(i, at, weight, weight_scale, bias, is_float)
            continue
        a = graph.dequantised(f"a{i}", at, i)
        if writing == "QDQ Gemm":
            # Transposed in the file: OpenVINO would transpose, be it once, ONNX Runtime packs.
            w = graph.dequantised_by_output(f"w{i}", weight.T, weight_scale, axis=0)
            b = graph.dequantised_by_output(f"b{i}", bias, sum_scale, axis=0)
            at = graph.node("Gemm", [a, w, b], f"z{i}", transB=1)
        else:
            w = graph.dequantised_by_output(f"w{i}", weight, weight_scale, axis=1)
            at = graph.node("MatMul", [a, w], f"s{i}")
            at = graph.node("Add", [at, graph.tensor(f"b{i}", layer.bias)], f"z{i}")
        if layer.activation == "relu":
            at = graph.node("Relu", [at], f"r{i}")
        if not is_float:
            at = graph.quantised(f"q{i + 1}", at, i + 1)
    graph.nodes[-1].output[0] = "z"
    takes, gives = _type_of(rows == "float"), _type_of(not quantised_out)
    n_inputs, n_outputs = workload.layers[0].n_inputs, workload.layers[-1].n_outputs
    file = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "net",
            [helper.make_tensor_value_info("x", takes, [workload.batch, n_inputs])],
            [helper.make_tensor_value_info("z", gives, [workload.batch, n_outputs])],
            graph.tensors,
        ),
        opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)],
        ir_version=8,
    )
    if writing != "QGemm":  # which ONNX does not know
        onnx.checker.check_model(file)
    return bytes(file.SerializeToString())


def _type_of(is_float: bool) -> int:
    from onnx import TensorProto

    return int(TensorProto.FLOAT if is_float else TensorProto.UINT8)


class _Graph:
    """Nodes and tensors as they come; every method gives the name of what it made."""

    def __init__(self, affines: list[Affine]) -> None:
        self.affines = affines
        self.nodes: list[Any] = []
        self.tensors: list[Any] = []

    def node(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        from onnx import helper

        self.nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    def tensor(self, name: str, value: Any) -> str:
        from onnx import numpy_helper

        self.tensors.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def scale_and_zero(self, name: str, i: int) -> list[str]:
        affine = self.affines[i]
        return [
            self.tensor(f"{name}_scale", affine.scale),
            self.tensor(f"{name}_zero", np.uint8(affine.zero)),
        ]

    def quantised(self, name: str, at: str, i: int) -> str:
        return self.node("QuantizeLinear", [at, *self.scale_and_zero(name, i)], name)

    def dequantised(self, name: str, at: str, i: int) -> str:
        return self.node("DequantizeLinear", [at, *self.scale_and_zero(name, i)], name)

    def dequantised_by_output(self, name: str, value: Any, scale: Any, *, axis: int) -> str:
        inputs = [
            self.tensor(f"{name}_q", np.ascontiguousarray(value)),
            self.tensor(f"{name}_scale", scale),
            self.tensor(f"{name}_zero", np.zeros(len(scale), value.dtype)),
        ]
        return self.node("DequantizeLinear", inputs, name, axis=axis)

    def input(self, rows: str, scale: np.float32) -> str:
        if rows == "uint8 quantised as it is":
            return "x"
        at = "x"
        if rows == "Cast+Mul+QuantizeLinear":
            at = self.node("Cast", ["x"], "floats", to=_type_of(is_float=True))
            at = self.node("Mul", [at, self.tensor("scale", scale)], "scaled")
        return self.quantised("q0", at, 0)

    def qgemm(
        self, i: int, at: str, weight: Any, weight_scale: Any, bias: Any, is_float: bool
    ) -> str:
        inputs = [
            at,
            *self.scale_and_zero(f"a{i}", i),
            self.tensor(f"w{i}", weight),
            self.tensor(f"w{i}_scale", weight_scale),
            self.tensor(f"w{i}_zero", np.zeros(len(weight_scale), np.int8)),
            self.tensor(f"b{i}", bias),
        ]
        if not is_float:
            inputs += self.scale_and_zero(f"y{i}", i + 1)
        return self.node("QGemm", inputs, f"y{i}", domain="com.microsoft")
