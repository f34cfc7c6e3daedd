"""The specification itself: against mpmath where there is a formula, by hand where there is not."""

import inspect

import mpmath
import numpy as np
import pytest

import fastnn
from fastnn import Dense, reference

NAMES = list(fastnn.activations())
EXTRA = {"clip": {"lo": -0.5, "hi": 2.0}, "leaky_relu": {"alpha": 0.1}, "elu": {"alpha": 1.5}}
ELEMENTWISE = [name for name in NAMES if not fastnn.activations()[name]["last_layer_only"]]


def sigmoid(z):
    return 1 / (1 + mpmath.exp(-z))


FORMULAS = {
    "sigmoid": sigmoid,
    "tanh": mpmath.tanh,
    "elu": lambda z: z if z > 0 else mpmath.mpf(1.5) * mpmath.expm1(z),
    "selu": lambda z: mpmath.mpf("1.0507009873554804934193349852946") * (
        z if z > 0 else mpmath.mpf("1.6732632423543772848170429916717") * mpmath.expm1(z)),
    "gelu": lambda z: z * mpmath.ncdf(z),
    "gelu_tanh": lambda z: z / 2 * (
        1 + mpmath.tanh(mpmath.sqrt(2 / mpmath.pi) * (z + mpmath.mpf("0.044715") * z**3))),
    "silu": lambda z: z * sigmoid(z),
    "softplus": lambda z: mpmath.log1p(mpmath.exp(z)),
    "softsign": lambda z: z / (1 + abs(z)),
    "exp": mpmath.exp,
}  # fmt: skip


def test_every_activation_of_the_c_list_is_here_and_no_other():
    assert list(reference.ACTIVATIONS) == NAMES
    for name, function in reference.ACTIVATIONS.items():
        assert getattr(reference, name) is function
        assert function.__doc__


@pytest.mark.parametrize("name", NAMES)
def test_parameters_are_those_of_the_c_list(name):
    known = fastnn.activations()[name]["parameters"]
    found = list(inspect.signature(reference.ACTIVATIONS[name]).parameters.values())[1:]
    assert [parameter.name for parameter in found] == list(known)
    for parameter in found:
        is_needed = parameter.default is inspect.Parameter.empty
        assert is_needed == (known[parameter.name] is None)
        if not is_needed:
            assert np.float32(parameter.default) == np.float32(known[parameter.name])


@pytest.mark.parametrize("name", FORMULAS)
def test_accuracy(name):
    # Where the result is no float32 at all (below 2^-150), float64 need not be accurate either.
    z = np.concatenate([np.linspace(-14, 14, 501), [-100, -90.5, -1e-3, -1e-8, 1e-8, 1e-3, 30, 88]])
    found = reference.ACTIVATIONS[name](z, **EXTRA.get(name, {}))
    with mpmath.workdps(60):
        expected = [FORMULAS[name](mpmath.mpf(float(value))) for value in z]
        for value, one, other in zip(z, found, expected, strict=True):
            # erfc and exp of a large number have the relative error of that number's rounding.
            allowed = 2**-42 if abs(value) > 1 else 2**-49
            assert abs(one - other) <= allowed * abs(other) + 2**-150, value


@pytest.mark.parametrize(
    ("name", "z", "expected"),
    [
        ("identity", [-2, 3], [-2, 3]),
        ("step", [-1, 0, -0.0, 1e-300, np.nan, np.inf], [0, 0, 0, 1, 0, 1]),
        ("relu", [-1, 0, 2, -np.inf, np.inf], [0, 0, 2, 0, np.inf]),
        ("leaky_relu", [-10, 0, 2], [-1, 0, 2]),
        ("relu6", [-1, 3, 7, np.inf], [0, 3, 6, 6]),
        ("clip", [-1, 0.25, 3], [-0.5, 0.25, 2]),
        ("hardsigmoid", [-4, -3, 0, 3, 4], [0, 0, 0.5, 1, 1]),
        ("hardswish", [-4, -3, -1.5, 0, 3, 4], [0, 0, -0.375, 0, 3, 4]),
        ("softsign", [-np.inf, -1, 0, 3, np.inf], [-1, -0.5, 0, 0.75, 1]),
        ("gelu", [-np.inf, 0, np.inf], [0, 0, np.inf]),
        ("gelu_tanh", [-np.inf, -1e300, 0, np.inf], [0, 0, 0, np.inf]),
        ("silu", [-np.inf, -1e300, 0, np.inf], [0, 0, 0, np.inf]),
        ("softplus", [-np.inf, 1e300, np.inf], [0, 1e300, np.inf]),
        ("sigmoid", [-np.inf, -1e300, 0, 1e300, np.inf], [0, 0, 0.5, 1, 1]),
        ("elu", [-np.inf, np.inf], [-1.5, np.inf]),
        ("softmax", [[1000, 1000], [-np.inf, 0]], [[0.5, 0.5], [0, 1]]),
    ],
)
def test_by_hand(name, z, expected):
    found = reference.ACTIVATIONS[name](z, **EXTRA.get(name, {}))
    np.testing.assert_allclose(found, expected, rtol=1e-15)
    assert found.dtype == np.float64


def test_relu_has_no_negative_zero():
    assert not np.signbit(reference.relu([-1.0, -0.0, -np.inf])).any()


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_nan_gives_nan_except_in_step(name):
    found = reference.ACTIVATIONS[name]([np.nan, 1.0], **EXTRA.get(name, {}))
    assert np.isnan(found[0]) == (name != "step")
    assert not np.isnan(found[1])


@pytest.mark.parametrize("name", NAMES)
def test_any_shape_and_no_warning(name):
    for shape in [(4,), (0, 3), (2, 3, 4)]:
        z = np.resize([np.inf, -np.inf, np.nan, 1e308, -1e308, 0, -1, 2], shape)
        kept = z.copy()
        assert reference.ACTIVATIONS[name](z, **EXTRA.get(name, {})).shape == shape
        np.testing.assert_array_equal(z, kept)


def test_softmax_rows_are_apart_and_sum_to_one():
    z = np.array([[1.0, 2, 3], [np.nan, 0, 0], [-800, 0, 800]])
    p, log_p = reference.softmax(z), reference.log_softmax(z)
    np.testing.assert_allclose(p[[0, 2]].sum(axis=1), 1, rtol=1e-15)
    np.testing.assert_allclose(np.exp(log_p[[0, 2]]), p[[0, 2]], rtol=1e-14)
    assert np.isnan(p[1]).all()
    assert np.isnan(log_p[1]).all()
    assert log_p[2].tolist() == [-1600, -800, 0]


def test_log_softmax_keeps_what_is_lost_in_one_plus_it():
    assert reference.log_softmax([0.0, -60.0])[0] == -np.exp(-60.0)


def test_trace_and_forward():
    layers = [Dense([[1, -1], [2, 0]], [0.5, 0], "relu"), Dense([[1], [2]], [-1], "sigmoid")]
    (z0, a0), (z1, a1) = reference.trace(layers, [[1, 1], [-1, 0]])
    assert z0.tolist() == [[3.5, -1], [-0.5, 1]]
    assert a0.tolist() == [[3.5, 0], [0, 1]]
    assert z1.tolist() == [[2.5], [1]]
    np.testing.assert_array_equal(a1, reference.sigmoid(z1))
    np.testing.assert_array_equal(reference.forward(layers, [[1, 1], [-1, 0]]), a1)
    assert reference.forward(layers, [1, 1]).shape == (1,)


def test_parameters_count_as_float32():
    layer = Dense([[1]], [0], "leaky_relu", alpha=0.1)
    assert reference.forward([layer], [-1.0])[0] == -float(np.float32(0.1))
