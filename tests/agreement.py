"""Whether a Model computes what the network that it was made of computes, within a derived bound.

Invariant: the bound follows from the layers and the rows alone, in float64. Of x @ w + b with k
inputs, float32 may be off by (k + 4) * 2^-24 * (|x| @ |w| + |b|), which has room for the rounding
of the weights themselves; of an activation by 8 * 2^-24 of its value. Each such error reaches the
last layer by the derivative of that with respect to it; their sum, twice for what is beyond first
order and for kinks, is the bound. What is compared with is the original in float64.
"""

import itertools

import numpy as np

import fastnn
from fastnn import reference

U = 2.0**-24

FLAT = ("step", "clip", "relu", "relu6", "hardsigmoid", "hardswish")
"""Last activations that give many outputs the same value, where the best may well be two."""


def slopes(layer, z):
    """The derivative of the layer's activation at z."""
    step = 1e-6 * np.maximum(1, np.abs(z))
    function = reference.ACTIVATIONS[layer.activation]
    up, down = (function(z + s, **layer.parameters) for s in (step, -step))
    return (up - down) / (2 * step)


def errors(model, x):
    """z of the last layer, and the bounds on it and on its activation, each float64 (rows, n)."""
    a, passes = np.asarray(x, np.float64).reshape(len(x), -1), []
    for layer in model.layers:
        weight, bias = layer.weight.astype(np.float64), layer.bias.astype(np.float64)
        z = a @ weight + bias
        of_z = (len(weight) + 4) * U * (np.abs(a) @ np.abs(weight) + np.abs(bias))
        a = reference.ACTIVATIONS[layer.activation](z, **layer.parameters)
        passes.append((layer, weight, z, of_z, 8 * U * np.abs(a)))
    by_z = np.broadcast_to(np.eye(z.shape[1]), (len(z), z.shape[1], z.shape[1]))
    bound = of_z.copy()
    for (_, weight, *_), (before, _, z_before, of_z, of_a) in itertools.pairwise(passes[::-1]):
        by_a = by_z.reshape(-1, weight.shape[1]) @ weight.T  # one product, not one a row
        by_a = by_a.reshape(*by_z.shape[:2], -1)
        by_z = by_a * slopes(before, z_before)[:, None, :]
        bound += np.einsum("rij,rj->ri", np.abs(by_a), of_a)
        bound += np.einsum("rij,rj->ri", np.abs(by_z), of_z)
    bound *= 2
    return z, bound, _after(model.layers[-1], z, a, bound)


def _after(layer, z, a, bound):
    if layer.activation in ("softmax", "log_softmax"):
        beyond = np.abs(z - z.max(axis=1, keepdims=True))
        change = 2 * bound.max(axis=1, keepdims=True) + (8 + beyond) * 2 * U
        return a * np.expm1(change) + 1e-37 if layer.activation == "softmax" else change
    if layer.activation == "step":
        return np.where(np.abs(z) <= bound, 1.0, 0.0)
    return np.abs(slopes(layer, z)) * bound * 1.01 + 8 * U * np.abs(a) + 1e-37


def assert_agrees(model, x, exact, what="", labels=None, doubt_at_most=0.01):
    """`model.forward(x)` is within the bound of `exact`; where the bound leaves no doubt the label
    is that of `labels` (None: the best of `exact`). Returns the share of rows that leave one."""
    exact = np.asarray(exact, np.float64).reshape(len(x), -1)
    z, z_error, error = errors(model, x)
    got = model.forward(x).reshape(exact.shape)
    at = np.unravel_index(np.argmax(np.abs(got - exact) - error), exact.shape)
    assert (np.abs(got - exact) <= error).all(), (
        f"{what}: at {at} {got[at]}, exactly {exact[at]}, bound {error[at]}"
    )
    if model.task == "regress":
        return 0.0
    last = model.layers[-1].activation
    by_z = fastnn.activations()[last]["label_by_z"] or z.shape[1] == 1
    scores, doubt = (z, z_error) if by_z else (exact, error)
    if z.shape[1] == 1:
        index = (z[:, 0] > 0).astype(np.int64)
        is_clear = np.abs(z[:, 0]) > z_error[:, 0]
    else:
        index = exact.argmax(axis=1)
        best = np.take_along_axis(scores - doubt, index[:, None], axis=1)
        others = (scores + doubt)[np.arange(z.shape[1]) != index[:, None]].reshape(len(z), -1)
        is_clear = best[:, 0] > others.max(axis=1)
    want = model.classes_[index] if labels is None else labels
    assert np.array_equal(model.predict(x)[is_clear], want[is_clear]), what
    in_doubt = 0.0 if last in FLAT else 1 - is_clear.mean()
    assert in_doubt <= doubt_at_most, f"{what}: {in_doubt:.2%} of the rows in doubt"
    return in_doubt
