"""The specification in plain NumPy: what each activation and a whole network is to compute.

Invariant: written to be read and to be compared with, not to be fast; the engine computes nothing
here. Two kinds live here. Activations, `trace` and `forward` are float64 throughout, accurate to a
few units in float64's last place wherever the result is a float32: no cancellation, no overflow on
the way. A function is named exactly as its activation in the C list (csrc/activations.h);
`ACTIVATIONS` collects them; at infinite z it is its limit; NaN gives NaN, except in step.
`chain` and `quantized_trace` are the engine's own arithmetic, to the last bit: float32 as one chain
of fused multiply-adds, int8 as exact integers between two roundings (quantize.py).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from fastnn.layers import Dense
from fastnn.quantize import QuantizedDense, is_direct, requantization

_Float32 = npt.NDArray[np.float32]
_Float64 = npt.NDArray[np.float64]

ACTIVATIONS: dict[str, Callable[..., _Float64]] = {}
"""The functions of this file by the name of their activation."""

_erfc = np.vectorize(math.erfc, otypes=[np.float64])


def _activation(formula: Callable[..., _Float64]) -> Callable[..., _Float64]:
    """Enters `formula` in ACTIVATIONS; takes any array-like z, returns float64 of its shape."""

    @functools.wraps(formula)
    def function(z: npt.ArrayLike, **parameters: float) -> _Float64:
        # The infinities, NaN and underflow of an unused branch of np.where are no news.
        with np.errstate(all="ignore"):
            return np.asarray(formula(np.asarray(z, np.float64), **parameters))

    ACTIVATIONS[formula.__name__] = function
    return function


@_activation
def identity(z: _Float64) -> _Float64:
    """z."""
    return z


@_activation
def step(z: _Float64) -> _Float64:
    """1 if z > 0 else 0; NaN gives 0."""
    return np.where(z > 0, 1.0, 0.0)


@_activation
def sigmoid(z: _Float64) -> _Float64:
    """1 / (1 + exp(-z))."""
    small = np.exp(-np.abs(z))
    return np.where(z < 0, small, 1.0) / (1 + small)


@_activation
def tanh(z: _Float64) -> _Float64:
    """tanh(z), the hyperbolic tangent."""
    return np.tanh(z)


@_activation
def relu(z: _Float64) -> _Float64:
    """z if z > 0 else +0."""
    return np.where(z <= 0, 0.0, z)


@_activation
def leaky_relu(z: _Float64, *, alpha: float = 0.01) -> _Float64:
    """z if z >= 0 else alpha*z."""
    return np.where(z < 0, alpha * z, z)


@_activation
def relu6(z: _Float64) -> _Float64:
    """min(max(z, 0), 6)."""
    return np.clip(z, 0.0, 6.0)


@_activation
def clip(z: _Float64, *, lo: float, hi: float) -> _Float64:
    """min(max(z, lo), hi)."""
    return np.clip(z, lo, hi)


@_activation
def elu(z: _Float64, *, alpha: float = 1.0) -> _Float64:
    """z if z >= 0 else alpha*(exp(z) - 1). D.-A. Clevert et al. (2015)."""
    return np.where(z < 0, alpha * np.expm1(z), z)


@_activation
def selu(z: _Float64) -> _Float64:
    """scale*z if z >= 0 else scale*alpha*(exp(z) - 1). G. Klambauer et al. (2017)."""
    scale, alpha = 1.0507009873554804934193349852946, 1.6732632423543772848170429916717
    return scale * np.where(z < 0, alpha * np.expm1(z), z)


@_activation
def gelu(z: _Float64) -> _Float64:
    """z*Phi(z), Phi the normal distribution. D. Hendrycks and K. Gimpel (2016)."""
    phi = 0.5 * _erfc(-z / math.sqrt(2)) if z.size else z
    return np.where(z == -np.inf, 0.0, z * phi)


@_activation
def gelu_tanh(z: _Float64) -> _Float64:
    """z/2*(1 + tanh(u)), u = sqrt(2/pi)*(z + 0.044715*z**3). Hendrycks and Gimpel (2016)."""
    # (1 + tanh(u))/2 = sigmoid(2u), which does not cancel for negative u.
    u = math.sqrt(2 / math.pi) * (z + 0.044715 * z**3)
    return np.where(z == -np.inf, 0.0, z * sigmoid(2 * u))


@_activation
def silu(z: _Float64) -> _Float64:
    """z*sigmoid(z), also called swish."""
    return np.where(z == -np.inf, 0.0, z * sigmoid(z))


@_activation
def hardsigmoid(z: _Float64, *, alpha: float = 1 / 6, beta: float = 0.5) -> _Float64:
    """clip(alpha*z + beta, 0, 1)."""
    return np.clip(alpha * z + beta, 0.0, 1.0)


@_activation
def hardswish(z: _Float64) -> _Float64:
    """z*clip(z + 3, 0, 6)/6. A. Howard et al. (2019)."""
    return np.where(z == -np.inf, 0.0, z * np.clip(z + 3, 0.0, 6.0) / 6)


@_activation
def softplus(z: _Float64) -> _Float64:
    """log(1 + exp(z))."""
    return np.maximum(z, 0.0) + np.log1p(np.exp(-np.abs(z)))


@_activation
def softsign(z: _Float64) -> _Float64:
    """z / (1 + |z|)."""
    return np.where(np.isinf(z), np.sign(z), z / (1 + np.abs(z)))


@_activation
def exp(z: _Float64) -> _Float64:
    """e**z."""
    return np.exp(z)


@_activation
def softmax(z: _Float64) -> _Float64:
    """exp(z) / sum(exp(z)) over the last axis."""
    e = np.exp(z - z.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


@_activation
def log_softmax(z: _Float64) -> _Float64:
    """z - log(sum(exp(z))) over the last axis."""
    below = z - z.max(axis=-1, keepdims=True)
    others = np.exp(below)
    # The largest adds exactly 1: leaving that to log1p keeps a sum of the others below 1e-16.
    np.put_along_axis(others, z.argmax(axis=-1, keepdims=True), 0.0, axis=-1)
    result: _Float64 = below - np.log1p(others.sum(axis=-1, keepdims=True))
    return np.where(np.isnan(z).any(axis=-1, keepdims=True), np.nan, result)


def trace(layers: Iterable[Dense], x: npt.ArrayLike) -> list[tuple[_Float64, _Float64]]:
    """Each layer's (z, a): z = previous a @ weight + bias, a = activation(z), the first a being x.

    `x` has shape (n, inputs) or (inputs,), in the units of the first layer; the results are
    float64 of shape (n, outputs) or (outputs,). Parameters of activations count as the float32
    that a network uses. ValueError (from NumPy) if the shapes do not fit.
    """
    a = np.asarray(x, np.float64)
    steps = []
    for layer in layers:
        z = a @ layer.weight.astype(np.float64) + layer.bias
        rounded = {name: float(np.float32(value)) for name, value in layer.parameters.items()}
        a = ACTIVATIONS[layer.activation](z, **rounded)
        steps.append((z, a))
    return steps


def forward(layers: Iterable[Dense], x: npt.ArrayLike) -> _Float64:
    """The last layer's activation for `x`, as the last entry of `trace`; `x` without layers."""
    steps = trace(layers, x)
    return steps[-1][1] if steps else np.asarray(x, np.float64)


# ---- the engine's arithmetic, bit by bit ---------------------------------------------------------


def fused_multiply_add(a: _Float32, b: _Float32, c: _Float32) -> _Float32:
    """a * b + c of float32 arrays, rounded once to float32.

    The product is exact in float64; the sum is rounded to odd there (S. Boldo and G. Melquiond,
    2008), and so rounding it again to float32 gives what one rounding would have given.
    """
    with np.errstate(all="ignore"):
        product = np.asarray(a, np.float64) * b
        c64 = np.asarray(c, np.float64)
        total = np.asarray(product + c64)
        part = total - product
        error = (product - (total - part)) + (c64 - part)
        bits = total.view(np.int64)
        is_inexact = np.isfinite(error) & (error != 0) & (bits & 1 == 0)
        bits += np.where(is_inexact, np.where((error > 0) == (total > 0), 1, -1), 0)
        return total.astype(np.float32)


def chain(x: npt.NDArray[Any], weight: _Float32, bias: _Float32) -> _Float32:
    """z (M, N) for x (M, K), weight (K, N), bias (N,), as every float32 kernel has to give it.

    Start at the bias, one fused multiply-add for each input in ascending order, add +0.
    """
    x = x.astype(np.float32)
    z = np.tile(bias, (len(x), 1))
    for k in range(x.shape[1]):
        z = fused_multiply_add(x[:, k, None], weight[k], z)
    return z + np.float32(0)


def bfloat16(values: npt.ArrayLike) -> _Float32:
    """The nearest bfloat16 of each value (taken as float32), ties to even, as float32.

    bfloat16 is the upper half of a float32: 8 bits of precision, so a value is off by at most
    2^-8 of itself. What rounds beyond the largest becomes infinite; a NaN stays one.
    """
    given = np.array(values, np.float32)
    bits = given.view(np.uint32)
    # Half of the last place that stays, less one where that place is even already.
    rounded = (bits + np.uint32(0x7FFF) + (bits >> np.uint32(16) & np.uint32(1))) & np.uint32(
        0xFFFF0000
    )
    return np.where(np.isnan(given), np.float32(np.nan), rounded.view(np.float32))


def bfloat16_trace(layers: Iterable[Dense], x: npt.ArrayLike) -> list[tuple[_Float64, _Float64]]:
    """`trace` with weights, and the inputs of each layer, rounded to bfloat16 first.

    What a bfloat16 network computes but for the order and rounding of its float32 sums, which
    differ between instruction sets: a model to compare with within a tolerance, not by bits.
    """
    a: npt.NDArray[Any] = np.asarray(x)
    steps = []
    for layer in layers:
        z = bfloat16(a).astype(np.float64) @ bfloat16(layer.weight) + layer.bias
        rounded = {name: float(np.float32(value)) for name, value in layer.parameters.items()}
        a = ACTIVATIONS[layer.activation](z, **rounded)
        steps.append((z, a))
    return steps


class QuantizedStep(NamedTuple):
    """One layer of `quantized_trace`, for M rows, K inputs, N outputs."""

    z: _Float32
    """Before the activation, in real units, shape (M, N)."""
    a: _Float32
    """activation(z), shape (M, N)."""
    q: npt.NDArray[np.uint8] | None
    """What a quantized layer was given, shape (M, K); None for a float32 layer."""


Activate = Callable[[str, _Float32, Mapping[str, float]], _Float32]
"""(name, z, parameters) -> activation of z, float32, for `quantized_trace`."""


def _activate(name: str, z: _Float32, parameters: Mapping[str, float]) -> _Float32:
    """This file's formulas, rounded to float32 once: at most 2 ULP from the engine's."""
    rounded = {key: float(np.float32(value)) for key, value in parameters.items()}
    with np.errstate(over="ignore"):
        return ACTIVATIONS[name](z, **rounded).astype(np.float32)


def quantized_trace(
    layers: Sequence[Dense | QuantizedDense], x: npt.ArrayLike, activate: Activate = _activate
) -> list[QuantizedStep]:
    """Each layer's z and activation, and the u8 values between, as the engine computes them.

    `layers` are what rows of this dtype go through: the pixel layer first where `x` is uint8. `x`
    has shape (M, inputs): uint8, or float32. To the last bit for identity and relu; for others
    give the engine's own `activate`, as its float32 activations are within 2 ULP of the formulas.

    A row with a NaN in a float that is to become u8 is NaN from that layer on, z and activation.
    """
    values: npt.NDArray[Any] = np.asarray(x)
    values = values if values.dtype == np.uint8 else values.astype(np.float32)
    is_lost = np.zeros(len(values), np.bool_)
    direct: npt.NDArray[np.uint8] | None = None  # the next layer's input, where it needs no float
    steps: list[QuantizedStep] = []
    for i, layer in enumerate(layers):
        after = layers[i + 1] if i + 1 < len(layers) else None
        q = None
        if isinstance(layer, Dense):
            z = chain(values, layer.weight, layer.bias)
        else:
            if direct is not None:
                q = direct
            elif values.dtype == np.uint8:
                q = values
            else:
                is_lost |= np.isnan(values).any(axis=1)
                q = _to_u8(values, np.float32(1 / layer.input_scale), layer.input_zero)
            # Every partial sum is an integer below 2^53, so float64 is as exact as int64.
            sums = (q.astype(np.float64) @ layer.weight_i8).astype(np.float32)
            z = fused_multiply_add(sums, layer.scale, layer.offset) + np.float32(0)
            direct = None
            if isinstance(after, QuantizedDense) and is_direct(layer, after):
                multiplier, offset = requantization(layer, after)
                direct = _to_u8(sums, multiplier, offset)
        values = activate(layer.activation, z, layer.parameters)
        z, values = (np.where(is_lost[:, None], np.float32(np.nan), part) for part in (z, values))
        steps.append(QuantizedStep(z, values, q))
    return steps


def _to_u8(
    values: _Float32, multiplier: npt.ArrayLike, offset: npt.ArrayLike
) -> npt.NDArray[np.uint8]:
    """rint(clamp(fma(values, multiplier, offset), 0, 255)), ties to even; NaN gives 0."""
    shape = values.shape
    pair = (np.broadcast_to(np.asarray(part, np.float32), shape) for part in (multiplier, offset))
    scaled = fused_multiply_add(values, *pair)
    return np.rint(np.clip(np.nan_to_num(scaled, nan=0.0), 0, 255)).astype(np.uint8)
