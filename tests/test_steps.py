"""Steps: what is folded computes what the steps say; what does not fit is refused."""

import warnings

import numpy as np
import pytest

from fastnn.formats.steps import (
    MAX_DIAGONAL,
    MAX_FOLDED,
    MAX_MULTIPLIED,
    MAX_TOUCHED,
    Steps,
)
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


def test_weights_are_scaled_once_for_all_the_steps_behind_them():
    w = rng.normal(size=(700, 1000))
    steps = Steps()
    steps.linear(w)
    for _ in range(MAX_FOLDED):
        steps.affine(0.5, 0.1)
    assert steps._linear[0] is w
    (layer,) = steps.layers()
    np.testing.assert_array_equal(layer.weight, (w * 0.5**MAX_FOLDED).astype(np.float32))


def test_products_that_are_much_work_to_fold_stay_layers():
    n = int(MAX_MULTIPLIED ** (1 / 3))
    for n_inputs, n_layers in [(n, 1), (n + 1, 2)]:
        steps = Steps()
        steps.linear(np.ones((n_inputs, n)))
        steps.linear(np.ones((n, n)))
        assert len(steps.layers()) == n_layers
    # In all of a network.
    n = int((MAX_MULTIPLIED / 8) ** (1 / 3))
    steps = Steps()
    for _ in range(12):
        steps.linear(np.eye(n))
        steps.linear(np.eye(n) * 3)
        steps.activation("relu")
    layers = steps.layers()
    assert [layer.activation for layer in layers] == ["relu"] * 8 + ["identity", "relu"] * 4
    want = np.full((1, n), 2 * 3.0**12, np.float32)
    np.testing.assert_array_equal(forward(layers, want / np.float32(3**12)), want)


@pytest.mark.parametrize("where", range(4))
def test_numbers_that_signal_are_refused_without_a_word(where):
    vectors = [np.ones(3, np.float32) for _ in range(4)]
    vectors[where].view(np.uint32)[1] = 0x7FA00000  # a NaN at which a conversion warns
    mean, variance, weight, bias = vectors

    def build():
        steps = Steps()
        steps.linear(np.eye(3))
        steps.normalization(mean, variance, 1e-3, weight, bias)
        steps.layers()

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ValueError, match="finite|variance"):
            build()


def test_what_overflows_is_infinite_without_a_word():
    steps = Steps()
    steps.linear([[1e200]], [1e200])
    steps.affine(1e200)
    steps.activation("relu")
    steps.linear([[1.0]])
    steps.affine(np.inf, 1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ValueError, match="finite"):
            steps.layers()


@pytest.mark.parametrize("is_before", [True, False])
def test_steps_do_not_touch_many_values_again_and_again(is_before):
    n = MAX_TOUCHED // 8
    steps = Steps(n if is_before else 1)
    if not is_before:
        steps.linear(np.ones((1, n)))
    for _ in range(9):  # numbers: of all values at once
        steps.affine(0.5, 0.1)
    for _ in range(7):
        steps.affine(np.full(n, 2.0), 0.1)
    with pytest.raises(ValueError, match=f"offsets of more than {MAX_TOUCHED} values in all"):
        steps.affine(np.full(n, 2.0), 0.1)


def test_width():
    steps = Steps()
    assert steps.width is None
    steps.affine(S, 0)
    assert steps.width == 6
    steps.linear(W)
    assert steps.width == 5


def test_numbers_before_the_number_of_inputs_is_known():
    x = rng.normal(size=(20, 6)).astype(np.float32)
    chains = [
        [("affine", 2.0, 1.0), ("linear", W, A)],
        [("affine", 2.0, 1.0), ("affine", S, 3.0), ("linear", W, A)],
        [("affine", 2.0, 1.0), ("affine", 3.0, T), ("activation", "relu"), ("linear", W, A)],
    ]
    for chain in chains:
        _, got, want = run(chain, x)
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
    steps = Steps()
    steps.affine(2.0, 1.0)
    assert steps.width is None
    steps.values(3)
    steps.activation("relu")
    assert np.array_equal(steps.layers()[0].weight, 2 * np.eye(3))


def test_values():
    steps = Steps()
    steps.values(6)
    assert steps.width == 6
    steps.values(6)
    with pytest.raises(ValueError, match="what comes next takes 5 values, but a row has 6"):
        steps.values(5)


def test_normalization():
    x = rng.normal(size=(20, 6)).astype(np.float32)
    mean, variance = T, S**2
    for weight, bias in [(None, None), (T, S), (T, None)]:
        steps = Steps()
        steps.normalization(mean, variance, 0.01, weight, bias)
        steps.linear(np.eye(6))
        want = (x - mean) / np.sqrt(variance + 0.01)
        want = want * (1 if weight is None else weight) + (0 if bias is None else bias)
        np.testing.assert_allclose(forward(steps.layers(), x), want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((T, -(S**2), 0.0), "variance . epsilon is -"),
        ((T, S * 0, 0.0), "variance . epsilon is 0"),
        ((T, S[:5], 1e-3), r"shapes \(6,\), \(5,\), wanted vectors of one length"),
        ((T, S**2, 1e-3, T[:1]), r"shapes \(6,\), \(6,\), \(1,\)"),
        ((W, W**2, 1e-3), "wanted vectors"),
    ],
)
def test_normalization_refuses(arguments, text):
    with pytest.raises(ValueError, match=text):
        Steps().normalization(*arguments)


def test_overflow_is_refused_at_the_end():
    """As infinity in a layer, and without NumPy's warnings on the way."""
    steps = Steps()
    steps.linear(np.full((2, 2), 1e300))
    steps.affine(1e300, 0)
    steps.linear(np.full((2, 2), -1.0))
    steps.linear(np.array([[1.0], [-1.0]]))
    with pytest.raises(ValueError, match="wanted numbers that are finite"):
        steps.layers()


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
        ([("activation", "relu")] * 2, MAX_DIAGONAL, "together they have more than 1048576 wei"),
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
