"""Random dense networks as steps; what they compute in float64; how far float32 may be from it.

A network is a chain of steps:

    ("linear", weight, bias)         x @ weight + bias; weight (inputs, outputs), bias None for 0
    ("affine", scale, shift)         x * scale + shift, per value
    ("activation", name, parameters) an activation of fastnn

The bound. Let a, z be the values of the float64 evaluation and u = 2^-24. Whoever computes in
float32 makes, at each step, a local error:

    linear       K products and K sums of magnitude m = |a| @ |W| + |b|, in some order, fused or
                 not: at most (K + 3) u m (N. Higham, Accuracy and Stability of Numerical
                 Algorithms, 3.1; 3 for weights into which something was folded). The roundings are
                 nearly independent and of mean 0, so that their sum stays within
                 lambda sqrt(K + 3) u m with probability 1 - 2 exp(-lambda^2 / 2) (N. Higham and
                 T. Mary, SIAM J. Sci. Comput. 41 (2019), A2815): r = min(K + 3, 2 sqrt(K + 3)) u m,
                 lambda = 2, which is generous as m adds up all magnitudes, and partial sums of
                 both signs are smaller.
    affine       r = 4 u m, m = |a s| + |t|: a product, a sum, and what they are folded into.
    activation   s = 16 u (|f(z)| + the scale of f's terms at z). fastnn's own are within 2 ULP
                 (4 u); the others' polynomials are given the rest.

Steps without an activation between them may be folded into one product x @ P + c, whose terms
cancel in another way: m is the larger of |a| @ |W| + |b| and |x| @ |P| + |c|, x being what the last
activation gave.

A local error travels to the outputs through the derivatives of the steps after it: to first order
as J r, J being the Jacobian from the step to the outputs, which is computed here for each row.
Roundings of different sums are independent of each other and add up in quadrature, errors of
activations (which have a sign) in absolute value:

    bound[i] = 2 (sqrt(sum over steps and j of (J[i, j] r[j])^2) + sum of |J[i, j]| s[j])

The factor 2 is for what is of second order, units that cross a kink of their activation among it,
and doubles lambda to 4. A step function decides anew: rows in which one of its inputs is within
its bound of 0 are left out, and counted; behind it there is no error.

So `bound` is how far one float32 evaluation may be from float64.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from fastnn.reference import ACTIVATIONS

U = 2.0**-24

LAST_ONLY = ("softmax", "log_softmax")
BY_Z = ("identity", "sigmoid", "tanh", *LAST_ONLY)

# The magnitude of the terms that an activation adds up, beside that of its value.
_TERMS = {
    "sigmoid": lambda z, f: 1.0,
    "tanh": lambda z, f: 1.0,
    "elu": lambda z, f: 1.0,
    "selu": lambda z, f: 2.0,
    "gelu": lambda z, f: np.abs(z),
    "gelu_tanh": lambda z, f: np.abs(z),
    "silu": lambda z, f: np.abs(z),
    "hardsigmoid": lambda z, f: 1.0,
    "hardswish": lambda z, f: np.abs(z),
    "softplus": lambda z, f: 1.0 + np.abs(z),
    "softsign": lambda z, f: 1.0,
    "exp": lambda z, f: np.abs(z) * f,
}


@dataclasses.dataclass(frozen=True)
class Network:
    """Steps, and what their outputs are for."""

    steps: Sequence[tuple]
    n_inputs: int
    classes: np.ndarray | None = None

    @property
    def last(self) -> str:
        """The activation of the last layer."""
        kind, *rest = self.steps[-1]
        return rest[0] if kind == "activation" else "identity"


@dataclasses.dataclass
class Reference:
    """The float64 evaluation of rows, and the bounds."""

    z: np.ndarray
    """Before the last activation, (rows, outputs)."""
    y: np.ndarray
    z_bound: np.ndarray
    y_bound: np.ndarray
    decided: np.ndarray
    """(rows,): False where a step function may fall either way."""


def apply(name: str, z: np.ndarray, parameters: dict) -> np.ndarray:
    """An activation in float64, its parameters rounded to float32 as every file has them."""
    rounded = {key: float(np.float32(value)) for key, value in parameters.items()}
    return ACTIVATIONS[name](z, **rounded)


def reference(network: Network, x: np.ndarray) -> Reference:
    """`x`: float32 rows."""
    a = x.astype(np.float64)
    decided = np.ones(len(a), bool)
    path: list[tuple] = []  # (local error, whether it is a rounding, the derivative of its step)
    steps = list(network.steps)
    last = steps.pop() if steps[-1][0] == "activation" else ("activation", "identity", {})
    base, product, constant = np.abs(a), np.eye(a.shape[1]), np.zeros(a.shape[1])
    for kind, *rest in steps:
        if kind == "linear":
            w, b = rest[0].astype(np.float64), rest[1]
            b = np.zeros(w.shape[1]) if b is None else b.astype(np.float64)
            product, constant = product @ w, constant @ w + b
            magnitude = np.maximum(
                np.abs(a) @ np.abs(w) + np.abs(b), base @ np.abs(product) + np.abs(constant)
            )
            n = max(len(w), len(product)) + 3
            path.append((min(n, 2 * np.sqrt(n)) * U * magnitude, True, w))
            a = a @ w + b
        elif kind == "affine":
            scale, shift = (np.asarray(part, np.float64) for part in rest)
            product, constant = product * scale, constant * scale + shift
            magnitude = np.maximum(
                np.abs(a * scale) + np.abs(shift), base @ np.abs(product) + np.abs(constant)
            )
            path.append((4 * U * magnitude, True, np.diag(scale)))
            a = a * scale + shift
        else:
            name, parameters = rest
            f = apply(name, a, parameters)
            if name == "step":
                decided &= (np.abs(a) > _bound(path, a)).all(axis=1)
                path = []
            else:
                h = 1e-6
                slope = (apply(name, a + h, parameters) - apply(name, a - h, parameters)) / (2 * h)
                path.append((_evaluation(name, a, f), False, slope))
            a = f
            base, product, constant = np.abs(f), np.eye(f.shape[1]), np.zeros(f.shape[1])
    bound = _bound(path, a)
    _, name, parameters = last
    y, y_bound = _last(name, parameters, a, bound)
    if name == "step":
        decided &= (np.abs(a) > bound).all(axis=1)
    return Reference(a, y, bound, y_bound, decided)


def _evaluation(name: str, z: np.ndarray, f: np.ndarray) -> np.ndarray:
    """The error of evaluating an activation."""
    return 16 * U * (np.abs(f) + _TERMS.get(name, lambda z, f: 0.0)(z, f))


def _bound(path: list, a: np.ndarray) -> np.ndarray:
    """The bound on the error of `a`, to which the path leads."""
    squares, absolute = np.zeros_like(a), np.zeros_like(a)
    jacobian = np.broadcast_to(np.eye(a.shape[1]), (len(a), a.shape[1], a.shape[1]))
    for local, is_rounding, derivative in reversed(path):
        if is_rounding:
            squares += np.einsum("rij,rj->ri", np.square(jacobian), np.square(local))
            jacobian = jacobian @ derivative.T
        else:
            absolute += np.einsum("rij,rj->ri", np.abs(jacobian), local)
            jacobian = jacobian * derivative[:, None, :]
    return 2 * (np.sqrt(squares) + absolute)


def _last(name: str, parameters: dict, z: np.ndarray, bound: np.ndarray) -> tuple:
    f = apply(name, z, parameters)
    own = _evaluation(name, z, f)
    if name == "softmax":  # each e^z and their sum by a factor of e^bound
        return f, f * np.expm1(2 * bound.max(axis=1, keepdims=True)) + 16 * U * f + 1e-38
    if name == "log_softmax":
        both = bound + bound.max(axis=1, keepdims=True)
        return f, both + 16 * U * (np.abs(f) + np.abs(z) + 1)
    if name == "step":
        return f, np.zeros_like(f)
    ends = [np.abs(apply(name, z + sign * bound, parameters) - f) for sign in (-1, 1)]
    return f, np.maximum(*ends) + own


# ---- random networks -----------------------------------------------------------------------------

PARAMETERS = {
    "leaky_relu": lambda rng: {"alpha": float(rng.uniform(0.01, 0.5))},
    "elu": lambda rng: {"alpha": float(rng.uniform(0.3, 1.5))},
    "clip": lambda rng: {"lo": float(rng.uniform(-1, 0)), "hi": float(rng.uniform(0.3, 2))},
}


def random_network(
    rng: np.random.Generator,
    names: Sequence[str],
    *,
    first: str,
    last: Sequence[str],
    affine: bool = True,
) -> Network:
    """1 to 8 layers of 1 to 300 values with activations among `names`, the first hidden `first`.

    Weights are scaled so that each layer gives values about 1 on rows about 1: so the network
    answers its rows differently, as a trained one does. `affine`: with scales and offsets.
    """
    depth = int(rng.integers(1, 9))
    widths = [int(n) for n in rng.integers(1, 301, depth + 1)]
    if depth == 1:
        first = ""
    widths[-1] = int(rng.integers(1, 21))
    a = rng.normal(size=(256, widths[0]))
    steps: list[tuple] = []
    if affine and rng.random() < 0.3:
        scale, shift = rng.uniform(0.5, 2, widths[0]), rng.normal(size=widths[0])
        steps.append(("affine", scale.astype(np.float32), shift.astype(np.float32)))
        a = a * steps[-1][1] + steps[-1][2]
    for i in range(depth):
        weight = rng.normal(size=(widths[i], widths[i + 1]))
        z = a @ weight
        weight = (weight / max(np.sqrt(np.mean(np.square(z))), 1e-6)).astype(np.float32)
        bias = None
        if rng.random() < 0.85:
            bias = (0.3 * rng.normal(size=widths[i + 1])).astype(np.float32)
        steps.append(("linear", weight, bias))
        z = a @ weight.astype(np.float64) + (0 if bias is None else bias)
        if affine and rng.random() < 0.25 and i < depth - 1:
            scale, shift = rng.uniform(0.5, 2, widths[i + 1]), 0.3 * rng.normal(size=widths[i + 1])
            steps.append(("affine", scale.astype(np.float32), shift.astype(np.float32)))
            z = z * steps[-1][1] + steps[-1][2]
        if i == depth - 1:
            name = str(rng.choice(last))
        else:
            name = first if i == 0 and first else str(rng.choice(names))
        parameters = PARAMETERS.get(name, lambda rng: {})(rng)
        a = apply(name, z, parameters)
        if name != "identity":
            steps.append(("activation", name, parameters))
    return Network(steps, widths[0])
