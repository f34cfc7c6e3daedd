"""Steps: what is folded computes what the steps say; what does not fit is refused."""

import numpy as np
import pytest

from fastnn.formats.steps import MAX_DIAGONAL, Steps
from fastnn.reference import forward


def run(chain, x, n_inputs=None):
    """The steps' layers on x, and the plain float64 evaluation of the same steps."""
    steps, want = Steps(n_inputs), x.astype(np.float64)
    for name, *arguments in chain:
        getattr(steps, name)(*arguments)
        if name == "linear":
            want = want @ arguments[0] + (arguments[1] if len(arguments) > 1 else 0)
        elif name == "affine":
            want = want * arguments[0] + arguments[1]
        elif arguments[0] == "relu":
            want = np.maximum(want, 0)
        elif arguments[0] == "tanh":
            want = np.tanh(want)
    layers = steps.layers()
    return layers, forward(layers, x), want


rng = np.random.default_rng(0)
W, V = rng.normal(size=(6, 5)), rng.normal(size=(5, 4))
A, B = rng.normal(size=5), rng.normal(size=4)
S, T = rng.normal(size=6), rng.normal(size=6)

CHAINS = {
    "one": ([("linear", W, A)], 1),
    "no bias": ([("linear", W)], 1),
    "before": ([("affine", S, T), ("linear", W, A)], 1),
    "after": ([("linear", W, A), ("affine", A, 2.0)], 1),
    "twice": (
        [("affine", S, 1.0), ("affine", 0.5, T), ("linear", W, A), ("activation", "relu")], 1,
    ),
    "between": (
        [("linear", W, A), ("activation", "relu"), ("affine", A, A), ("linear", V, B)], 2,
    ),
    "merged": ([("linear", W, A), ("linear", V, B), ("activation", "tanh")], 1),
    "bottleneck": ([("linear", W[:, :1], 0.5), ("linear", W[:, :1].T, S)], 2),
    "at the end": ([("linear", W, A), ("activation", "tanh"), ("affine", A, 1.0)], 2),
    "at the start": ([("affine", S, T), ("activation", "relu"), ("linear", W, A)], 2),
    "two activations": ([("linear", W, A), ("activation", "tanh"), ("activation", "relu")], 2),
    "identity": ([("linear", W, A), ("activation", "identity"), ("affine", 2.0, 1.0)], 1),
}  # fmt: skip


@pytest.mark.parametrize("name", CHAINS)
def test_computes(name):
    chain, n_layers = CHAINS[name]
    layers, got, want = run(chain, rng.normal(size=(20, 6)).astype(np.float32), 6)
    assert len(layers) == n_layers
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def test_width():
    steps = Steps()
    assert steps.width is None
    steps.affine(S, 0)
    assert steps.width == 6
    steps.linear(W)
    assert steps.width == 5


@pytest.mark.parametrize(
    ("chain", "n", "text"),
    [
        ([], 6, "no dense layer"),
        ([("linear", W), ("linear", W)], 6, "takes 6 values, but a row has 5"),
        ([("linear", W)], 7, "takes 6 values, but a row has 7"),
        ([("linear", W, np.zeros(4))], 6, r"bias has shape \(4,\), wanted one number or 5"),
        ([("linear", W), ("affine", np.ones(6), 0)], 6, r"scale has shape \(6,\)"),
        ([("linear", W), ("affine", 1, np.ones((2, 6)))], 6, r"offset has shape \(2, 6\)"),
        ([("linear", S)], 6, r"shape \(6,\), wanted \(inputs, outputs\)"),
        ([("linear", np.zeros((6, 0)))], 6, "wanted"),
        ([("affine", 2.0, 0)], None, "not known"),
        ([("activation", "relu")], None, "not known"),
        ([("activation", "relu")], MAX_DIAGONAL + 1, "at most 1024"),
    ],
)
def test_refuses(chain, n, text):
    with pytest.raises(ValueError, match=text):
        run(chain, np.zeros((1, 6), np.float32), n)


def test_rounds_once():
    """Folding is float64: 1/3 of 3 is 1, where float32 would be a bit off."""
    weight = rng.normal(size=(3, 3)).astype(np.float32)
    steps = Steps(3)
    steps.affine(1 / 3)
    steps.affine(3.0)
    steps.linear(weight)
    assert np.array_equal(steps.layers()[0].weight, weight)


def test_too_many_layers_are_refused_as_they_come():
    steps = Steps(1)
    for _ in range(256):
        steps.activation("tanh")
    with pytest.raises(ValueError, match="more than 256 layers"):
        steps.activation("tanh")
