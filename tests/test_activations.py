"""Activations on every kernel against fastnn.reference, in units of float32's last place.

Invariant: activations, parameters and kernels come from the engine's lists. A sample; the C harness
takes a denser one, and `make test-exhaustive` all 2^32 floats.
"""

import numpy as np
import pytest
from oracle import assert_same_bits, each_isa, generator

from fastnn import Dense, _core, reference

ELEMENTWISE = [name for name, about in _core.activations().items() if not about["last_layer_only"]]

# ULP; 2 for all others. What is exact or rounded once is held to that.
BOUNDS = {
    "gelu": 4,
    "gelu_tanh": 4,
    **dict.fromkeys(["identity", "step", "relu", "leaky_relu", "relu6", "clip"], 0.5),
}

PARAMETERS = {
    "clip": [{"lo": -1.5, "hi": 2.25}, {"lo": 0.0, "hi": 0.0}],
    "leaky_relu": [{}, {"alpha": -0.3}, {"alpha": 0.0}],
    "elu": [{}, {"alpha": 1.7}],
    "hardsigmoid": [{}, {"alpha": 0.2, "beta": 0.5}],
}

CORNERS = [0, 2**-149, 2**-126, 1e-30, 2**-24, 2**-12, 0.5, 0.625, 1, 3, 6, 9, 13.1, 14.5, 17.4, 20]
CORNERS += [30, 87.3, 88.72284, 103.97208, 128.5, 150, 2**25, 2**127, 3.4028235e38, np.inf, np.nan]


def sample():
    """Every 100,003rd float32, and the 64 about each corner, of both signs."""
    regular = np.arange(0, 2**32, 100_003, dtype=np.uint64).astype(np.uint32)
    middle = np.array(CORNERS, np.float32).view(np.uint32)[:, None]
    about = (middle + np.arange(-32, 32, dtype=np.int64)).astype(np.uint32).ravel()
    bits = np.concatenate([regular, about, about ^ np.uint32(1 << 31)])
    with np.errstate(invalid="ignore"):
        return bits.view(np.float32)


def ulps(got, exact):
    """|got - exact| in ULP of float32 at `exact`; 2^128 stands for infinity."""
    got, exact = (np.clip(np.float64(a), -(2.0**128), 2.0**128) for a in (got, exact))
    exponent = np.clip(np.frexp(exact)[1] - 1, -126, 127)
    error = np.abs(got - exact) * np.exp2(23.0 - exponent)
    return np.where(np.isnan(exact) | np.isnan(got), 0, error)


def cases():
    return [
        pytest.param(name, parameters, id="-".join([name, *map(str, parameters.values())]))
        for name in ELEMENTWISE
        for parameters in PARAMETERS.get(name, [{}])
    ]


def test_the_lists_agree():
    assert set(_core.activations()) == set(reference.ACTIVATIONS)
    assert set(BOUNDS) | set(PARAMETERS) <= set(ELEMENTWISE)


@pytest.mark.parametrize(("name", "parameters"), cases())
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # of signalling NaNs
def test_accuracy(name, parameters):
    x = sample()
    got = _core.activate(name, x, isa="scalar", **parameters)
    usual = _core.activations()[name]["parameters"]
    rounded = {key: float(np.float32(value)) for key, value in {**usual, **parameters}.items()}
    exact = reference.ACTIVATIONS[name](x.astype(np.float64), **rounded)
    assert (np.isnan(got) == np.isnan(exact)).all()
    error = ulps(got, exact)
    worst = int(error.argmax())
    bound = BOUNDS.get(name, 2)
    assert error[worst] <= bound, f"{error[worst]:.3f} ULP at {float(x[worst]).hex()}"


@each_isa
@pytest.mark.parametrize(("name", "parameters"), cases())
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_same_bits_on_every_kernel(isa, name, parameters):
    x = sample()
    want = _core.activate(name, x, isa="scalar", **parameters)
    assert_same_bits(_core.activate(name, x, isa=isa, **parameters), want, name)
    for n in (1, 3, 5, 17, 255, 257):
        got = _core.activate(name, x[-n:], isa=isa, **parameters)
        assert_same_bits(got, want[-n:], f"{name} {n}")


def test_nan_and_infinity():
    for name in ELEMENTWISE:
        parameters = PARAMETERS.get(name, [{}])[0]
        low, high, nan = _core.activate(name, [-np.inf, np.inf, np.nan], **parameters)
        assert np.isnan(nan) == (name != "step"), name
        assert not np.isnan(low), name
        assert not np.isnan(high), name
    for name in ("silu", "gelu", "gelu_tanh", "hardswish", "relu"):
        low = _core.activate(name, np.float32(-np.inf))
        assert low == 0
        assert np.isinf(_core.activate(name, np.float32(np.inf)))


@each_isa
@pytest.mark.parametrize("n", [1, 2, 3, 10, 16, 17, 100, 1000])
@pytest.mark.parametrize("spread", [0, 1e-3, 1, 20, 120, 1e4])
def test_softmax(isa, n, spread):
    """Within (4 + |x - max|) 2^-23: relative for softmax, absolute for log_softmax."""
    x = (generator(n).standard_normal((5, n)) * spread).astype(np.float32)
    layer = np.eye(n), np.zeros(n)  # z is x
    z = x.astype(np.float64)
    below = z.max(axis=1, keepdims=True) - z
    probabilities = _core.Network([Dense(*layer, "softmax")], isa=isa).forward(x).reshape(5, n)
    exact = reference.softmax(z)
    bound = (4 + below) * 2.0**-23 * exact + 2.0**-149
    assert (np.abs(probabilities - exact) <= bound).all()
    network = _core.Network([Dense(*layer, "log_softmax")], isa=isa)
    logarithms, exact = network.forward(x).reshape(5, n), reference.log_softmax(z)
    assert (np.abs(logarithms - exact) <= (4 + below) * 2.0**-23).all()
    powers = network.predict_proba(x).reshape(5, n)
    assert_same_bits(powers, probabilities)


@each_isa
@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_softmax_of_nan(isa, name):
    network = _core.Network([Dense(np.eye(3), np.zeros(3), name)], isa=isa)
    x = np.array([[1, 2, 3], [1, np.nan, 3], [0, 0, 0]], np.float32)
    y = network.forward(x)
    assert np.isnan(y).any(axis=1).tolist() == [False, True, False]
