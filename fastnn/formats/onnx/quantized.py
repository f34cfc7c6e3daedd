"""QuantizeLinear and DequantizeLinear: 8 bits between layers, and weights of 8 bits.

    weights   DequantizeLinear of a constant is the constant (q - zero) * scale, in float64
    between   QuantizeLinear and DequantizeLinear of a value keep it, with the range of its 256
              levels, which a layer that takes it makes the range of its input

fastnn's int8 (fastnn/quantize.py) has the same levels between layers, and makes the levels of the
weights again, 127 up to the largest of each output: they are the file's where the largest weight of
an output is 127 steps, as quantizers with a scale per output have it. With one scale for all, or
zero points, each weight is at most half a level off, which is half a step of the file for int8 and
one step for uint8. What no layer takes is not rounded: values before an activation keep their bits,
and outputs are held between the first and the last level, but not rounded to one.

Invariant: what has no such meaning is refused: 16 and 4 bits, blocks, a scale per input.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from fastnn.formats.model_file import Wrong
from fastnn.formats.onnx.chain import (
    INT8,
    INTEGERS,
    UINT8,
    Array,
    Chain,
    Constant,
    Quantized,
    Value,
    axis_of,
    constant_of,
    operators,
    rows_of,
)
from fastnn.formats.onnx.formulas import Formula
from fastnn.formats.onnx.proto import Node

OPERATORS, _operator = operators()

_NOT_NEGATIVE = ("sigmoid", "softmax", "softplus", "exp", "hardsigmoid", "step")


def _scale_and_zero(node: Node, scale: Value, zero: Value | None) -> tuple[Array, Array]:
    """Of QuantizeLinear and DequantizeLinear: float64 scales, integer zero points."""
    scales = constant_of(scale, "the scale").array
    zeros = (
        np.zeros(scales.shape, np.uint8)
        if zero is None
        else constant_of(zero, "the zero point").array
    )
    if scales.dtype.kind != "f" or scales.ndim > 1 or zeros.ndim > 1 or zeros.size != scales.size:
        raise Wrong(
            "a scale, or a vector of them, and as many zero points",
            f"{scales.shape}, {zeros.shape}",
        )
    if not (scales > 0).all() or not np.isfinite(scales).all():
        raise Wrong("scales above 0", "another number")
    if node.attributes.get("block_size"):
        raise Wrong("one scale, or one along an axis", "blocks")
    return scales.astype(np.float64), zeros


def _along(node: Node, values: Array, array: Array) -> tuple[Array, int | None]:
    """A scalar, or a vector along the node's axis of `array`; and that axis."""
    if values.size == 1:
        return values.reshape(()), None
    axis = axis_of(node.attributes.get("axis", 1), array.ndim)
    if array.shape[axis : axis + 1] != values.shape:
        raise Wrong(f"{values.size} scales along axis {axis}", f"shape {array.shape}")
    return values.reshape((-1,) + (1,) * (array.ndim - axis - 1)), axis


@_operator("QuantizeLinear")
def _quantize(chain: Chain, node: Node, x: Value, scale: Value, zero: Value | None = None) -> Value:
    scales, zeros = _scale_and_zero(node, scale, zero)
    if zero is None and node.attributes.get("output_dtype", 0) not in (0, UINT8):
        zeros = zeros.astype(np.int8)
        if node.attributes["output_dtype"] != INT8:
            raise Wrong("8 bits", f"element type {node.attributes['output_dtype']}")
    if zeros.dtype not in (np.uint8, np.int8):
        raise Wrong("a zero point of uint8 or int8", f"{zeros.dtype}")
    limits = np.iinfo(zeros.dtype)
    if isinstance(x, Constant):
        s, _ = _along(node, scales, x.array)
        z, _ = _along(node, zeros, x.array)
        if x.array.dtype.kind != "f":
            raise Wrong("floats to quantize", f"{x.array.dtype}")
        chain.spend(x.array.size)
        rounded = np.rint(x.array / s) + z
        return Constant(np.clip(rounded, limits.min, limits.max).astype(zeros.dtype))
    if scales.size != 1:
        raise Wrong("one scale for the values between layers", f"{scales.size}")
    integer = UINT8 if zeros.dtype == np.uint8 else INT8
    return Quantized(rows_of(x), float(scales.reshape(())), int(zeros.reshape(())), integer)


@_operator("DequantizeLinear")
def _dequantize(
    chain: Chain, node: Node, x: Value, scale: Value, zero: Value | None = None
) -> Value:
    scales, zeros = _scale_and_zero(node, scale, zero)
    if isinstance(x, Constant):
        return _dequantized_constant(chain, node, x.array, scales, zeros)
    if scales.size != 1:
        raise Wrong("one scale for the values between layers", f"{scales.size}")
    s, z = float(scales.reshape(())), int(zeros.reshape(()))
    if isinstance(x, Quantized):
        if (x.scale, x.zero) != (s, z):
            raise Wrong("the scale and zero point of its QuantizeLinear", f"{s:g} and {z}")
        rows, integer = x.rows, x.integer
    else:
        rows = rows_of(x, allow_integers=True)
        integer = rows.integer
        if integer not in (UINT8, INT8):
            raise Wrong("uint8 or int8", f"element type {integer or 'float'}")
        rows = replace(rows, formula=rows.formula.scaled(s, -s * z), integer=0)
    first = int(np.iinfo(INTEGERS[integer]).min) - z
    if first == 0 and isinstance(x, Quantized):
        # The integers end at 0: what is below becomes 0, which is how exporters save a Relu.
        rows = replace(rows, formula=_without_negatives(chain, rows.formula))
    return replace(rows, limits=(first * s, (first + 255) * s))


def _without_negatives(chain: Chain, formula: Formula) -> Formula:
    line = formula.line()
    if line is None or line[0] is chain.input.atoms[0]:  # before the first layer int8 does it
        return formula
    atom, scale, shift = line
    is_positive = atom.name in _NOT_NEGATIVE or (atom.name == "clip" and atom.parameters[0] >= 0)
    if is_positive and scale > 0 and shift >= 0:
        return formula
    return chain.formulas.atom("clip", formula, 0.0, math.inf)


def _dequantized_constant(
    chain: Chain, node: Node, array: Array, scales: Array, zeros: Array
) -> Constant:
    if array.dtype.kind not in "iu" or array.dtype.itemsize not in (1, 4):
        raise Wrong("weights of int8 or uint8, a bias of int32", f"{array.dtype}")
    s, axis = _along(node, scales, array)
    z, _ = _along(node, zeros, array)
    chain.spend(array.size)
    steps = array.astype(np.float64) - z
    return Constant(steps * s, is_quantized=array.dtype.itemsize == 1, axis=axis)
