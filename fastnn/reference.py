"""The specification in plain NumPy: what each activation and a whole network is to compute.

Invariant: float64 throughout, and accurate to a few units in float64's last place wherever the
result is a float32: no cancellation, no overflow on the way. It is written to be read and to be
compared with, not to be fast. A function here is named exactly as its activation in the C list
(csrc/activations.h); `ACTIVATIONS` collects them. At infinite z a function is its limit; NaN gives
NaN, except in step.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from fastnn.layers import Dense

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
    """The hyperbolic tangent."""
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
