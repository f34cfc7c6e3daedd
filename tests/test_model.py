"""`fastnn.Model`: what it accepts, what it answers, how it is kept.

Invariant: expected values come from float64 NumPy written here or from `fastnn.reference`, never
from the model under test; where two ways have to agree, they agree in every bit.
"""

import array
import copy
import io
import pickle
import subprocess
import sys
import types
import weakref
from pathlib import Path

import numpy as np
import pytest

import fastnn
from fastnn import Dense, LoadError, Model, _core, reference

RNG = np.random.default_rng(20)
METHODS = ["predict", "predict_proba", "decision_function", "forward"]


def dense(n_inputs, n_outputs, activation="identity", **parameters):
    rng = np.random.default_rng(n_inputs * 1000 + n_outputs)
    weight = rng.normal(0, n_inputs**-0.5, (n_inputs, n_outputs))
    return Dense(weight, rng.normal(0, 0.1, n_outputs), activation, **parameters)


def through(n, activation, **kwargs):
    """A model whose z is its input."""
    return Model([Dense(np.eye(n), np.zeros(n), activation)], **kwargs)


@pytest.fixture(scope="module")
def network():
    return Model([dense(20, 16, "relu"), dense(16, 5, "softmax")])


def rows(n, n_inputs=20):
    return np.random.default_rng(n).normal(0, 1, (n, n_inputs)).astype(np.float32)


def bits(a):
    return a.dtype, a.shape, np.ascontiguousarray(a).tobytes()


# --- construction ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layers", "error", "message"),
    [
        ([], ValueError, "layers is empty"),
        (dense(2, 3), TypeError, "layers is a Dense, wanted a sequence"),
        (7, TypeError, "layers is a int, wanted a sequence"),
        ([dense(2, 3), "relu"], TypeError, r"layers\[1\] is a str, wanted a Dense"),
        ([dense(2, 3), dense(4, 1)], ValueError, r"layers\[1\] takes 4 inputs, .*\[0\] gives 3"),
        ([dense(2, 3, "softmax"), dense(3, 1)], ValueError, r"layers\[0\].*softmax.*last"),
        ([dense(2, 3, "log_softmax"), dense(3, 1)], ValueError, r"log_softmax.*last"),
    ],
)  # fmt: skip
def test_refuses_layers(layers, error, message):
    with pytest.raises(error, match=message):
        Model(layers)


def test_takes_any_iterable_of_layers():
    layers = [dense(3, 4, "relu"), dense(4, 2)]
    assert Model(layer for layer in layers).layers == tuple(layers)


@pytest.mark.parametrize(
    ("n_outputs", "classes", "error", "message"),
    [
        (3, [0, 1], ValueError, r"shape \(2,\), wanted \(3,\) for 3 outputs"),
        (1, [5], ValueError, r"shape \(1,\), wanted \(2,\) for 1 output$"),
        (1, [5, 6, 7], ValueError, r"wanted \(2,\)"),
        (2, [[0, 1]], ValueError, r"shape \(1, 2\)"),
        (2, [4, 4], ValueError, "same label twice"),
        (2, ["a", "a"], ValueError, "same label twice"),
        (2, [0.5, 1.5], TypeError, "dtype float64, wanted integers, strings or booleans"),
        (2, [b"a", b"b"], TypeError, "wanted integers"),
        (2, np.array(["a", 1], object), TypeError, "dtype object"),
    ],
)
def test_refuses_classes(n_outputs, classes, error, message):
    with pytest.raises(error, match=message):
        Model([dense(4, n_outputs)], classes=classes)


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"task": "rank"}, ValueError, "task is 'rank'"),
        ({"task": "regress", "classes": [0, 1]}, ValueError, "classes.*regress"),
        ({"scale": np.nan}, ValueError, "scale has NaN"),
        ({"scale": 0}, ValueError, "scale has a 0"),
        ({"scale": [1, 1, 0, 1]}, ValueError, "scale has a 0"),
        ({"scale": "1"}, TypeError, "scale has dtype"),
        ({"mean": np.inf}, ValueError, "mean has NaN or Inf"),
        ({"mean": [1, 2, 3]}, ValueError, r"mean has shape \(3,\), wanted one number or \(4,\)"),
        ({"mean": 1j}, TypeError, "mean has dtype complex128"),
        ({"std": 0}, ValueError, "std has the value 0"),
        ({"std": [1, 1, -2, 1]}, ValueError, "std has the value -2"),
        ({"std": 1e-45}, ValueError, "overflow float32 in the weights"),
        ({"mean": 1e39}, ValueError, "overflow float32 in the biases"),
        ({"scale": 1e300, "std": 1e-300}, ValueError, "overflow"),
        ({"isa": "sse9"}, ValueError, "sse9"),
        ({"metadata": {"seed": 1}}, TypeError, "metadata has 'seed': 1"),
    ],
)
def test_refuses_arguments(changed, error, message):
    with pytest.raises(error, match=message):
        Model([dense(4, 1)], **changed)


def test_an_isa_that_is_not_there_lists_what_is():
    with pytest.raises(ValueError, match="scalar"):
        Model([dense(4, 1)], isa="sse9")


@pytest.mark.parametrize(
    ("layer", "changed", "task"),
    [
        (dense(3, 1), {}, "regress"),
        (dense(3, 1), {"classes": [0, 1]}, "classify"),
        (dense(3, 1), {"task": "classify"}, "classify"),
        (dense(3, 2), {}, "classify"),
        (dense(3, 2), {"task": "regress"}, "regress"),
        (dense(3, 1, "sigmoid"), {}, "classify"),
        (dense(3, 1, "sigmoid"), {"task": "regress"}, "regress"),
        (dense(3, 1, "step"), {}, "classify"),
    ],
)
def test_task(layer, changed, task):
    assert Model([layer], **changed).task == task


# --- labels ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "classes",
    [
        None,
        np.array([30, 10, 20], np.int32),
        np.array([3, 1, 2], np.uint8),
        np.array([3, 1, 2], ">i8"),
        ["cat", "dog", "a longer name"],
    ],
)
def test_labels_have_the_dtype_of_the_classes(classes):
    model = through(3, "identity", classes=classes)
    wanted = np.arange(3) if classes is None else np.array(classes)
    labels = model.predict([[0, 0, 1], [0, 1, 0], [1, 0, 0], [0, 0, 1]])
    assert labels.dtype == wanted.dtype.newbyteorder("=")
    assert labels.tolist() == wanted[[2, 1, 0, 2]].tolist()
    assert model.classes_.tolist() == wanted.tolist()
    if classes is None:
        assert labels.dtype == np.int64
        assert model.classes_.dtype == np.int64


def test_two_boolean_classes():
    model = through(1, "identity", classes=[True, False])
    assert model.predict([[1], [-1]]).tolist() == [False, True]
    assert model.predict([[1]]).dtype == bool


def test_classes_are_a_read_only_copy():
    classes = np.array([5, 6])
    model = through(2, "identity", classes=classes)
    classes[:] = 0
    assert model.predict([[0, 1]]).tolist() == [6]
    with pytest.raises(ValueError, match="read-only"):
        model.classes_[0] = 1


def test_classes_of_one_output_and_of_none():
    assert through(1, "sigmoid").classes_.tolist() == [0, 1]
    assert through(1, "identity").classes_ is None


@pytest.mark.parametrize("activation", ["identity", "sigmoid", "tanh", "softmax", "log_softmax"])
def test_saturated_outputs_make_no_ties(activation):
    z = np.array([[200, 300, 100], [-300, -200, -100], [50, 40, 60]], np.float32)
    assert through(3, activation).predict(z).tolist() == [1, 2, 2]


def test_other_activations_are_judged_by_their_outputs():
    z = np.array([[-2, -1], [-1, 3], [4, 5]], np.float32)
    assert through(2, "relu").predict(z).tolist() == [0, 1, 1]
    assert through(2, "step").predict(z).tolist() == [0, 1, 0]
    # gelu is not monotonic: gelu(-0.5) = -0.154 < gelu(-9) = -0.0
    assert through(2, "gelu").predict([[-0.5, -9]]).tolist() == [1]


@pytest.mark.parametrize("activation", ["identity", "relu", "sigmoid", "softmax"])
def test_ties_and_nan_as_argmax(activation):
    assert through(3, activation).predict([[3, 1, 3], [0, 0, 0], [1, 2, 2]]).tolist() == [0, 0, 1]
    weight = np.array([[1.0, 1.0, -1.0, 1.0], [1.0, -1.0, -1.0, -1.0]])
    model = Model([Dense(weight, np.zeros(4), activation)])
    with np.errstate(invalid="ignore"):
        z = np.full((1, 2), np.inf) @ weight  # inf, nan, -inf, nan
    assert np.isnan(z[0]).tolist() == [False, True, False, True]
    assert model.predict([[np.inf, np.inf], [np.nan, 0]]).tolist() == [1, 0]


@pytest.mark.parametrize("activation", ["identity", "sigmoid", "tanh", "step", "relu"])
def test_one_output_decides_by_the_sign_of_z(activation):
    model = through(1, activation, task="classify")
    tiny = np.float32(1e-45)
    z = np.array([[0.0], [-0.0], [tiny], [-tiny], [9], [-9], [np.nan], [np.inf]], np.float32)
    assert model.predict(z).tolist() == [0, 0, 1, 0, 1, 0, 0, 1]


@pytest.mark.parametrize("n_outputs", [1, 3])
def test_regress(n_outputs):
    model = Model([dense(7, 4, "tanh"), dense(4, n_outputs)], task="regress")
    x = rows(9, 7)
    forward = model.forward(x)
    assert forward.shape == ((9,) if n_outputs == 1 else (9, n_outputs))
    assert bits(model.predict(x)) == bits(forward)
    wanted = reference.forward(model.layers, x).reshape(forward.shape)
    np.testing.assert_allclose(forward, wanted, rtol=1e-4, atol=1e-6)


# --- the other questions --------------------------------------------------------------------


def test_probabilities_of_a_softmax(network):
    x = rows(30)
    p = network.predict_proba(x)
    assert bits(p) == bits(network.forward(x))
    np.testing.assert_allclose(p.sum(1), 1, rtol=1e-6)
    np.testing.assert_allclose(p, reference.forward(network.layers, x), rtol=1e-4, atol=1e-7)
    assert p.argmax(1).tolist() == network.predict(x).tolist()


def test_probabilities_of_a_log_softmax():
    model = Model([dense(20, 5, "log_softmax")])
    x = rows(30)
    p = model.predict_proba(x)
    assert p.dtype == np.float32
    np.testing.assert_allclose(p, np.exp(model.forward(x).astype(float)), rtol=1e-6)
    np.testing.assert_allclose(p.sum(1), 1, rtol=1e-5)


def test_probabilities_of_sigmoids():
    one, several = through(1, "sigmoid"), through(3, "sigmoid")
    z = np.array([[-2], [0], [3]], np.float32)
    p = one.predict_proba(z)
    assert p.shape == (3, 2)
    assert bits(p[:, 1]) == bits(one.forward(z))
    assert bits(p[:, 0]) == bits(np.float32(1) - one.forward(z))
    z = rows(8, 3)
    assert bits(several.predict_proba(z)) == bits(several.forward(z))


@pytest.mark.parametrize("activation", ["identity", "relu", "tanh", "step", "gelu", "exp"])
@pytest.mark.parametrize("n", [1, 3])
def test_other_outputs_are_no_probabilities(activation, n):
    with pytest.raises(TypeError, match="softmax"):
        through(n, activation).predict_proba(np.zeros((2, n), np.float32))


@pytest.mark.parametrize("activation", ["identity", "relu", "sigmoid", "softmax", "log_softmax"])
@pytest.mark.parametrize("n_outputs", [1, 2, 17])
def test_trace_is_forward_in_every_bit(activation, n_outputs):
    model = Model([dense(20, 9, "relu"), dense(9, 33, "gelu"), dense(33, n_outputs, activation)])
    x = rows(14)
    steps = model.trace(x)
    assert [(z.shape, a.shape) for z, a in steps] == [
        ((14, n), (14, n)) for n in (9, 33, n_outputs)
    ]
    shape = (14,) if n_outputs == 1 else (14, n_outputs)
    assert bits(model.decision_function(x)) == bits(steps[-1][0].reshape(shape))
    assert bits(model.forward(x)) == bits(steps[-1][1].reshape(shape))
    for (z, a), (z64, a64) in zip(steps, reference.trace(model.layers, x), strict=True):
        assert z.dtype == a.dtype == np.float32
        np.testing.assert_allclose(z, z64, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(a, a64, rtol=1e-4, atol=1e-5)


def test_top_k(network):
    x = rows(25)
    p = network.predict_proba(x)
    order = np.argsort(-p, axis=1, kind="stable")
    for k in (1, 2, 5):
        labels, scores = network.top_k(x, k)
        assert labels.dtype == np.int64
        assert scores.dtype == np.float32
        assert labels.tolist() == order[:, :k].tolist()
        assert (np.diff(scores, axis=1) <= 0).all()
    assert network.top_k(x, 1)[0][:, 0].tolist() == network.predict(x).tolist()


def test_top_k_gives_the_lower_index_first_and_the_classes():
    model = through(4, "identity", classes=["a", "b", "c", "d"])
    labels, scores = model.top_k([[1, 7, 7, 1], [2, 2, 2, 2]], 4)
    assert labels.tolist() == [["b", "c", "a", "d"], ["a", "b", "c", "d"]]
    assert scores.tolist() == [[7, 7, 1, 1], [2, 2, 2, 2]]


@pytest.mark.parametrize("k", [0, -1, 6])
def test_top_k_refuses(network, k):
    with pytest.raises(ValueError, match="k is"):
        network.top_k(rows(2), k)


@pytest.mark.parametrize("layer", [dense(3, 1, "sigmoid"), dense(3, 1)])
def test_top_k_needs_several_outputs(layer):
    with pytest.raises(TypeError, match="two or more outputs"):
        Model([layer]).top_k(rows(2, 3), 1)


def test_stream(network):
    batches = [rows(n) for n in (1, 7, 0, 30)]
    answers = list(network.predict_stream(iter(batches), threads=1))
    assert [bits(a) for a in answers] == [bits(network.predict(b)) for b in batches]


def test_stream_is_lazy_and_bounded(network):
    taken = []

    def batches():
        for i in range(50):
            batch = rows(64)
            taken.append(weakref.ref(batch))
            yield batch
            del batch
            assert sum(ref() is not None for ref in taken) <= 1, i

    stream = network.predict_stream(batches())
    assert not taken
    next(stream)
    assert len(taken) == 1
    assert sum(1 for _ in stream) == 49


def test_stream_errors(network):
    with pytest.raises(TypeError, match="iter"):
        network.predict_stream(3)
    stream = network.predict_stream([rows(2), rows(2, 7)])
    next(stream)
    with pytest.raises(ValueError, match="20"):
        next(stream)


# --- what goes in ---------------------------------------------------------------------------


def units(p, scale, mean, std):
    return (p.astype(float) * scale - mean) / std


@pytest.mark.parametrize(
    ("scale", "mean", "std"),
    [
        (1 / 255, 0, 1),
        (1 / 255, 0.1307, 0.3081),
        (1, 128, 1),
        (-1 / 255, -1, 1),
        (RNG.uniform(0.5, 2, 20), RNG.uniform(-1, 1, 20), RNG.uniform(0.5, 90, 20)),
    ],
)
def test_units_of_uint8(scale, mean, std):
    model = Model([dense(20, 16, "tanh"), dense(16, 5)], scale=scale, mean=mean, std=std)
    p = RNG.integers(0, 256, (40, 20), np.uint8)
    x = units(p, scale, mean, std)
    wanted = reference.forward(model.layers, x)
    np.testing.assert_allclose(model.forward(p), wanted, rtol=1e-4, atol=2e-5)
    np.testing.assert_allclose(model.forward(x.astype(np.float32)), wanted, rtol=1e-4, atol=2e-5)
    assert np.array_equal(model.scale, scale)
    assert np.array_equal(model.mean, mean)
    assert np.array_equal(model.std, std)


def test_folding_is_done_in_float64():
    """Weights of 1e-3 beside a mean of 1e5: folded in float32, the sum would be off by 0.1 %."""
    weight = np.full((50, 1), 1e-3)
    model = Model([Dense(weight, [0.0])], mean=[1e5 + i for i in range(50)])
    exact = -float(np.float32(1e-3)) * sum(1e5 + i for i in range(50))
    assert model.predict(np.zeros((1, 50), np.uint8))[0] == np.float32(exact)


def test_plain_units_share_the_weights():
    """scale 1, mean 0, std 1: a uint8 is that number, in every bit."""
    model = Model([dense(20, 16, "relu"), dense(16, 5)])
    folded = Model(model.layers, scale=2.0)
    p = RNG.integers(0, 256, (9, 20), np.uint8)
    assert bits(model.forward(p)) == bits(model.forward(p.astype(np.float32)))
    assert model.nbytes < folded.nbytes


@pytest.mark.parametrize("dtype", [np.int8, np.uint16, np.int32, np.int64, np.uint64])
def test_other_integers(dtype):
    layers = [dense(20, 5)]
    x = RNG.integers(0, 100, (3, 20)).astype(dtype)
    plain = Model(layers)
    assert bits(plain.forward(x)) == bits(plain.forward(x.astype(np.float32)))
    with pytest.raises((TypeError, ValueError), match=r"int|float"):
        Model(layers, scale=1 / 255).predict(x)


@pytest.mark.parametrize("method", METHODS)
def test_shapes(method):
    model = Model([dense(784, 10, "softmax")])
    call = getattr(model, method)
    tail = () if method == "predict" else (10,)
    x = rows(3, 784)
    wanted = call(x)
    assert wanted.shape == (3, *tail)
    assert bits(call(x.reshape(3, 28, 28))) == bits(wanted)
    for one in (x[0], x[0].reshape(28, 28), x[0].reshape(1, 28, 28, 1)):
        assert bits(call(one)) == bits(wanted[:1])
    for none in (np.empty((0, 784), np.float32), np.empty((0, 28, 28), np.uint8)):
        assert call(none).shape == (0, *tail)
        assert call(none).dtype == wanted.dtype


def test_no_rows_in_other_methods():
    model = Model([dense(4, 3, "relu"), dense(3, 2, "softmax")])
    none = np.empty((0, 4), np.float32)
    assert [(z.shape, a.shape) for z, a in model.trace(none)] == [
        ((0, 3), (0, 3)),
        ((0, 2), (0, 2)),
    ]
    assert [a.shape for a in model.top_k(none, 2)] == [(0, 2), (0, 2)]
    assert through(1, "sigmoid").predict_proba(np.empty((0, 1), np.float32)).shape == (0, 2)
    assert through(1, "identity").predict(np.empty((0, 1), np.float32)).shape == (0,)


@pytest.mark.parametrize("shape", [(), (19,), (3, 19), (2, 3, 20), (21, 1), (0,), (20, 0)])
def test_refuses_other_shapes(network, shape):
    with pytest.raises(ValueError, match=r"x .*20"):
        network.predict(np.zeros(shape, np.float32))


def test_a_wrong_width_is_named():
    with pytest.raises(ValueError, match="predict: x has 30 columns.*, the network takes 784"):
        Model([dense(784, 2)]).predict(np.zeros((5, 30), np.float32))


class WithArray:
    def __init__(self, values):
        self.values = values

    def __array__(self, dtype=None, copy=None):
        return np.array(self.values, dtype)


class WithDlpack:
    def __init__(self, values):
        self.values = values

    def __dlpack__(self, **kwargs):
        return self.values.__dlpack__(**kwargs)

    def __dlpack_device__(self):
        return self.values.__dlpack_device__()


@pytest.mark.parametrize(
    "wrap",
    [
        lambda x: x.tolist(),
        lambda x: tuple(map(tuple, x.tolist())),
        lambda x: x.astype(np.float64),
        lambda x: x.astype(">f4"),
        lambda x: np.asfortranarray(x),
        lambda x: np.repeat(x, 2, axis=0)[::2],
        lambda x: x[::-1].copy()[::-1],
        lambda x: np.repeat(x, 3, axis=1)[:, ::3],
        lambda x: np.frombuffer(b"\0" + x.tobytes(), np.float32, offset=1).reshape(x.shape),
        lambda x: memoryview(x),
        WithArray,
        WithDlpack,
    ],
)
def test_kinds_of_input(network, wrap):
    x = np.round(rows(11) * 64) / 64
    assert bits(network.forward(wrap(x))) == bits(network.forward(x))


def test_float64_beyond_float32_is_infinite(network):
    """As the same number in a float32 array would be, and as silently."""
    x = rows(3).astype(np.float64)
    x[1, 4] = 1e300
    wanted = x.copy()
    wanted[1, 4] = np.inf
    assert bits(network.decision_function(x)) == bits(network.decision_function(wanted))


def test_buffers_of_one_row(network):
    x = rows(1)
    assert bits(network.forward(array.array("f", x.ravel()))) == bits(network.forward(x))
    p = bytes(range(20))
    assert bits(network.forward(bytearray(p))) == bits(network.forward(np.arange(20.0)))


@pytest.mark.parametrize("x", [[[1j] * 20], [["a"] * 20], [[None] * 20], [[1.0] * 20, [1.0]], None])
def test_refuses_other_kinds_of_input(network, x):
    with pytest.raises((TypeError, ValueError), match="x"):
        network.predict(x)


@pytest.mark.parametrize("method", METHODS)
def test_input_is_never_written(network, method):
    for x in (rows(33), RNG.integers(0, 256, (33, 20), np.uint8)):
        before = x.tobytes()
        x.flags.writeable = False
        getattr(network, method)(x)
        assert x.tobytes() == before


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
def test_a_poisoned_row_stays_alone(network, poison):
    x = rows(40)
    clean = network.forward(x)
    for row in (0, 17, 39):
        dirty = x.copy()
        dirty[row, 3] = poison
        others = np.arange(40) != row
        assert bits(network.forward(dirty)[others]) == bits(clean[others])
        assert network.predict(dirty)[others].tolist() == network.predict(x)[others].tolist()
        if np.isnan(poison):
            assert np.isnan(network.trace(dirty)[0][0][row]).all()


def test_a_row_has_the_same_bits_alone_and_in_company(network):
    x = rows(37)
    whole = network.forward(x)
    for i in range(37):
        assert bits(network.forward(x[i : i + 1])) == bits(whole[i : i + 1])


# --- out= and threads= ----------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_out_is_filled_and_returned(network, method):
    call, x = getattr(network, method), rows(6)
    wanted = call(x)
    out = np.full_like(wanted, -1)
    assert call(x, out=out) is out
    assert bits(out) == bits(wanted)


@pytest.mark.parametrize("method", METHODS)
def test_out_is_refused(network, method):
    call, x = getattr(network, method), rows(6)
    good = call(x)
    read_only = good.copy()
    read_only.flags.writeable = False
    other = np.float32 if method == "predict" else np.float64
    for bad in (read_only, good.astype(other), good[:5].copy(), good[..., None].copy()):
        with pytest.raises((TypeError, ValueError), match="out"):
            call(x, out=bad)
    with pytest.raises(TypeError, match="out"):
        call(x, out=good.tolist())


def test_out_must_not_overlap_the_input():
    model = through(8, "relu")
    memory = rows(9, 8)
    x = memory[:8]
    before = memory.tobytes()
    for out in (x, memory[1:], x[:]):
        with pytest.raises(ValueError, match=r"out overlaps x"):
            model.forward(x, out=out)
    with pytest.raises(ValueError, match="out"):
        model.forward(x, out=x.T)
    assert memory.tobytes() == before


def test_out_of_strings():
    model = through(2, "identity", classes=["no", "yes"])
    out = np.empty(2, "<U3")
    assert model.predict([[0, 1], [1, 0]], out=out).tolist() == ["yes", "no"]


def test_out_of_top_k(network):
    x = rows(4)
    labels, scores = network.top_k(x, 3)
    out = np.empty_like(labels), np.empty_like(scores)
    filled = network.top_k(x, 3, out=out)
    assert filled[0] is out[0]
    assert filled[1] is out[1]
    assert bits(out[0]) == bits(labels)
    assert bits(out[1]) == bits(scores)


@pytest.mark.parametrize("method", METHODS)
def test_threads(network, method):
    call, x = getattr(network, method), rows(300)
    wanted = bits(call(x, threads=1))
    for threads in (None, 2, 5, 1024):
        assert bits(call(x, threads=threads)) == wanted
    for bad in (0, -1, 1025):
        with pytest.raises(ValueError, match="threads"):
            call(x, threads=bad)
    for bad in ("2", 1.5):
        with pytest.raises(TypeError, match="threads"):
            call(x, threads=bad)


@pytest.mark.parametrize("method", METHODS)
def test_unknown_and_missing_arguments(network, method):
    call = getattr(network, method)
    for args, kwargs in (((), {}), ((rows(1), None), {}), ((rows(1),), {"outs": None})):
        with pytest.raises(TypeError):
            call(*args, **kwargs)
    assert bits(call(x=rows(1))) == bits(call(rows(1)))


# --- keeping it -----------------------------------------------------------------------------


@pytest.fixture
def rich():
    """A model with everything that can be kept."""
    return Model(
        [dense(6, 4, "leaky_relu", alpha=0.25), dense(4, 3, "clip", lo=-1, hi=2)],
        classes=["low", "middle", "high"],
        scale=1 / 255,
        mean=[0.1, 0.2, 0.3, 0.4, 0.5, 0.6],
        std=0.5,
        metadata={"source": "a test", "größe": "klein"},
    )


def assert_same(model, other):
    for a, b in zip(model.layers, other.layers, strict=True):
        assert bits(a.weight) == bits(b.weight)
        assert bits(a.bias) == bits(b.bias)
        assert (a.activation, dict(a.parameters)) == (b.activation, dict(b.parameters))
    assert model.task == other.task
    assert bits(np.array(model.classes_)) == bits(np.array(other.classes_))
    for name in ("scale", "mean", "std"):
        assert np.array_equal(getattr(model, name), getattr(other, name))
    x = np.random.default_rng(1).integers(0, 256, (30, model.n_inputs), np.uint8)
    assert bits(model.forward(x)) == bits(other.forward(x))
    assert model.predict(x).tolist() == other.predict(x).tolist()


@pytest.mark.parametrize("as_path", [str, Path])
def test_save_and_load(rich, tmp_path, as_path):
    path = as_path(tmp_path / "rich.safetensors")
    rich.save(path)
    loaded = fastnn.load(path)
    assert_same(rich, loaded)
    assert dict(loaded.metadata) == dict(rich.metadata)


def test_save_and_load_npz(tmp_path):
    model = Model([dense(6, 4, "relu"), dense(4, 3, "softmax")])
    model.save(tmp_path / "model.npz")
    assert_same(model, fastnn.load(tmp_path / "model.npz"))


def test_save_refuses_unknown_suffixes(rich, tmp_path):
    with pytest.raises(ValueError, match=r"\.safetensors"):
        rich.save(tmp_path / "model.pt")
    assert not list(tmp_path.iterdir())


def test_load_names(tmp_path, monkeypatch):
    assert "mnist-small" in fastnn.models()
    monkeypatch.chdir(tmp_path)
    Path("mnist-small").write_text("a decoy: a bare name never means a file")
    assert fastnn.load("mnist-small").n_inputs == 784


def test_a_path_object_is_never_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((OSError, ValueError)):
        fastnn.load(Path("mnist-small"))


@pytest.mark.parametrize("name", fastnn.models())
def test_bundled_models_load(name):
    model = fastnn.load(name, isa="scalar")
    assert all(kernel["isa"] == "scalar" for kernel in model.kernels)
    assert "kernel" in model.summary()


def test_load_of_an_unknown_name_helps():
    with pytest.raises(FileNotFoundError, match="mnist-small") as caught:
        fastnn.load("minst-small")
    assert "'minst-small'" in str(caught.value)
    assert "./minst-small.safetensors" in str(caught.value)


@pytest.mark.parametrize("path", ["nowhere/model.npz", "./mnist-small.safetensors", Path("m.npz")])
def test_load_of_a_missing_file(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError):
        fastnn.load(path)


def test_load_of_what_does_not_fit_together(tmp_path, monkeypatch):
    bad = types.SimpleNamespace(
        layers=(dense(3, 4), dense(5, 2)), classes=None, task=None, scale=1.0, mean=0.0, std=1.0,
        metadata={},
    )  # fmt: skip
    monkeypatch.setattr(fastnn.formats, "read", lambda *path, **options: bad)
    with pytest.raises(LoadError, match=r"bad\.npz: .*layers\[1\] takes 5 inputs"):
        fastnn.load(tmp_path / "bad.npz")


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_pickle(rich, protocol):
    data = pickle.dumps(rich, protocol)
    restored = pickle.loads(data)
    assert type(restored) is Model
    assert_same(rich, restored)
    assert dict(restored.metadata) == dict(rich.metadata)


class Recorder(pickle.Unpickler):
    """Notes whatever the pickle asks to be imported."""

    def find_class(self, module, name):
        self.names.add(f"{module}.{name}")
        return super().find_class(module, name)


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_calls_nothing_but_the_constructor_and_numpy(rich, protocol):
    recorder = Recorder(io.BytesIO(pickle.dumps(rich, protocol)))
    recorder.names = set()
    recorder.load()
    ours = {name for name in recorder.names if not name.startswith("numpy")}
    assert ours - {"_codecs.encode"} == {"fastnn.model._rebuild", "fastnn.model.Model"}


def test_a_forged_pickle_is_checked(rich):
    rebuild, (kind, layers, rest) = rich.__reduce__()
    weight, bias, activation, parameters = layers[0]
    with pytest.raises(ValueError, match="NaN|finite"):
        rebuild(kind, [(weight * np.nan, bias, activation, parameters), layers[1]], rest)
    with pytest.raises(ValueError, match="takes"):
        rebuild(kind, layers[::-1], rest)


def test_the_isa_is_not_pickled():
    scalar = Model([dense(5, 2)], isa="scalar")
    assert scalar.kernels[0]["isa"] == "scalar"
    restored = pickle.loads(pickle.dumps(scalar))
    assert restored.kernels == Model([dense(5, 2)]).kernels


def test_a_subclass_is_pickled_as_itself():
    restored = pickle.loads(pickle.dumps(Sub([dense(5, 2)])))
    assert type(restored) is Sub


class Sub(Model):
    pass


def test_copies(rich):
    for other in (copy.copy(rich), copy.deepcopy(rich)):
        assert_same(rich, other)


def test_repr_and_summary():
    model = Model([dense(784, 128, "leaky_relu"), dense(128, 10, "softmax")], scale=1 / 255)
    text = repr(model)
    assert "784-128-10" in text
    assert "leaky_relu, softmax" in text
    assert "classify" in text
    summary = model.summary()
    for expected in (
        "784 x 128", "128 x 10", "leaky_relu(alpha=0.01)", "100,480", "1,290", "101,770",
        f"{model.nbytes:,}", model.kernels[0]["isa"], "softmax", "uint8 p is read as p/255",
    ):  # fmt: skip
        assert expected in summary


@pytest.mark.parametrize(
    ("units", "text"),
    [
        ({}, "p"),
        ({"scale": 1 / 255}, "p/255"),
        ({"scale": 0.25, "mean": 0.5, "std": 2}, "(p/4 - 0.5)/2"),
        ({"scale": 3.0}, "p*3"),
        ({"mean": -1}, "(p - -1)"),
        ({"std": 0.5}, "p/0.5"),
        ({"mean": [1, 2]}, "(p*scale - mean)/std, one set per input"),
    ],
)
def test_summary_of_units(units, text):
    assert Model([dense(2, 1)], **units).summary().endswith(f"uint8 p is read as {text}")


def test_properties_are_read_only(network):
    for name in ("layers", "task", "classes_", "scale", "mean", "std", "metadata", "n_inputs",
                 "precision", "calibration", "kernels", "pixel_kernel"):  # fmt: skip
        with pytest.raises(AttributeError):
            setattr(network, name, None)
    with pytest.raises(TypeError):
        network.metadata["a"] = "b"


def test_warmup(network):
    assert network.warmup() is None


# --- the package ----------------------------------------------------------------------------


def test_public_names():
    for name in fastnn.__all__:
        assert hasattr(fastnn, name), name
    assert fastnn.mnist.sample is not None
    assert fastnn.idx.read is not None
    assert {"mnist", "idx"} <= set(dir(fastnn))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = fastnn.nothing


def test_import_is_cheap():
    program = (
        "import sys, time, numpy; t = time.process_time(); import fastnn; "
        "t = time.process_time() - t; "  # whoever else is at work does not count
        "print(t, *[m for m in sys.modules if m.partition('.')[0] in "
        "('safetensors', 'PIL', 'cyclopts', 'rich', 'pooch') or m in "
        "('fastnn.formats', 'fastnn.mnist', 'fastnn.idx', 'fastnn.images', 'fastnn.quantize', "
        "'fastnn.reference')])"
    )
    seconds = []
    for _ in range(7):
        printed = subprocess.run(
            [sys.executable, "-c", program], check=True, capture_output=True, text=True
        ).stdout.split()
        assert printed[1:] == []
        seconds.append(float(printed[0]))
    if _core.build_info()["mode"] == "release":  # sanitizers take their time
        assert min(seconds) <= 0.020


FRAMEWORKS = ("torch", "tensorflow", "keras", "jax", "sklearn", "onnx", "onnxruntime", "h5py",
              "pandas", "scipy", "PIL", "matplotlib", "cyclopts", "rich", "pooch")  # fmt: skip


def test_no_framework_is_imported_by_the_way(tmp_path):
    """Not even looked for: whoever tries is told so, installed or not."""
    program = f"""
import sys

class Guard:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {FRAMEWORKS}:
            raise AssertionError(f"{{name}} was imported")

import numpy as np
sys.meta_path.insert(0, Guard())
import fastnn
images, _ = fastnn.mnist.sample()
model = fastnn.load("mnist-small")
model.predict(images[:3])
model.quantize(images[:300]).predict(images[:3])
fastnn.load("mnist-small", precision="certified").predict(images[:3])
for suffix in (".safetensors", ".npz"):
    model.save(f"{tmp_path}/a{{suffix}}")
    fastnn.load(f"{tmp_path}/a{{suffix}}").summary()
fastnn.self_test()
try:
    import torch
except AssertionError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    assert done.stdout == "torch was imported\n"


class Tagged(fastnn.Model):
    """At the top, where pickle finds it."""


def test_a_subclass_keeps_its_attributes_through_pickle() -> None:
    model = Tagged([fastnn.Dense([[1.0]], [0.0])])
    model.tag = "mine"
    again = pickle.loads(pickle.dumps(model))
    assert type(again) is Tagged
    assert again.tag == "mine"
