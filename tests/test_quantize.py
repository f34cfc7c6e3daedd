"""int8: the definition by hand, calibration, models and files; every kernel against the definition.

Invariant: kernels are taken from the engine's own list, so a new one is tested when it exists; what
they give is compared with `reference.quantized_trace` bit by bit.
"""

import itertools
import json
import math
import pickle
import time
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from oracle import (
    IS_SANITIZED,
    assert_same_bits,
    available,
    dense,
    each_isa_of,
    generator,
    mixed_rows,
    pixel_rows,
)

import fastnn
from fastnn import Dense, LoadError, Model, _core, mnist, quantize, reference
from fastnn.__main__ import main
from fastnn.model import _fold
from fastnn.quantize import Calibration, QuantizedDense, calibrate, quantize_dense, quantize_layers

I8 = available("i8")
needs_i8 = pytest.mark.skipif(not I8, reason="NOT TESTED: the engine has no int8 kernel")
needs_bf16 = pytest.mark.skipif(
    not available("bf16"), reason="NOT TESTED: the engine has no bfloat16 kernel"
)
FLOAT32_MAX = float(np.finfo(np.float32).max)


def model(*sizes, hidden="relu", last="softmax", seed=0, **rest):
    rng = generator(seed)
    layers = [
        dense(rng, k, n, last if i + 2 == len(sizes) else hidden)
        for i, (k, n) in enumerate(zip(sizes, sizes[1:], strict=False))
    ]
    return Model(layers, **rest)


def engine_activate(name, z, parameters):
    return _core.activate(name, z, "scalar", **parameters)


def engine_layers(network, dtype):
    """What rows of `dtype` go through in the int8 model `network`."""
    pixel = _fold(network.layers[0], network.scale, network.mean, network.std)
    layers, seen = quantize_layers(network.layers, pixel, network.calibration)
    return (seen, *layers[1:]) if dtype == np.uint8 and seen is not None else layers


# ---- the definition, by hand ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limits", "scale", "zero"),
    [
        ((0, 255), 1, 0),
        ((0, 0), 1, 0),
        ((-255, 0), 1, 255),
        ((-1, 254), 1, 1),
        ((-0.25, 63.5), 0.25, 1),
        ((0, 17.0), float(np.float32(17 / 255)), 0),
        ((-1, 1), float(np.float32(2 / 255)), 127),  # 127.4999...
        ((-0.5, 254.5), 1, 0),  # 0.5 goes to the even one
        ((-1.5, 253.5), 1, 2),
        ((0, 1e-40), 1, 0),  # the inverse of its scale is beyond float32
        ((-FLOAT32_MAX, FLOAT32_MAX), float(np.float32(2 * FLOAT32_MAX / 255)), 128),
    ],
)
def test_scale_and_zero(limits, scale, zero):
    assert quantize.scale_and_zero(*map(float, limits)) == (scale, zero)


def one_step(levels, step=0.013):
    return np.asarray(levels, np.float32) * np.float32(step)


@pytest.mark.parametrize("step", [1e-30, 0.013, 1.0, 1e30])
@pytest.mark.parametrize("largest", [127, 101, 64])
def test_weights_of_one_step_keep_their_integers(largest, step):
    levels = generator(largest).integers(-largest, largest, (64, 32), endpoint=True)
    levels[0, 0] = largest
    found = quantize.quantize_dense(Dense(one_step(levels, step), np.zeros(32)), 0, 255)
    np.testing.assert_array_equal(found.weight_i8, levels)


@pytest.mark.parametrize(
    "weight",
    [
        np.stack([np.ones(16), 1e-7 * generator(1).standard_normal(16)], 1),
        [[1, 7e-7]],
        np.diag([1, 1e-7, 1e-8]),
        one_step([[150, 63]], 2.0**-149),  # subnormal: rounding is coarse
        one_step([[127, 3.5]]),
        one_step([[127, -64, 1]]) + np.float32([[0, 0, 1e-6]]),
    ],
)
def test_weights_that_hardly_have_one_step_get_a_scale_an_output(weight):
    """A small column beside a large one would be nothing but zeros."""
    weight = np.asarray(weight, np.float32)
    assert quantize._common_step(weight) == 0
    if weight.max() > np.finfo(np.float32).tiny:
        found = quantize.quantize_dense(Dense(weight, np.zeros(weight.shape[1])), 0, 255)
        assert (np.abs(found.weight_i8).max(axis=0) == 127).all()


def test_whether_weights_have_one_step_is_found_out_at_once():
    """Whatever they are: a first output that is dead, one value everywhere, integers to the end."""
    dead = generator(1).standard_normal((1024, 1024)).astype(np.float32)
    dead[:, 0] = 0
    almost = one_step(generator(2).integers(-127, 127, (1024, 1024)))
    almost[-1, -1] *= 1.001
    for weight in (dead, np.ones((1024, 1024), np.float32), almost):
        start = time.process_time()
        is_common = quantize._common_step(weight) > 0
        assert time.process_time() - start < 0.5  # 64 passes took as long; this, a tenth at most
        assert is_common == (weight[0, 0] == 1)


def test_a_layer_by_hand():
    layer = Dense([[1.27, 0, -8], [-0.5, 0, 254]], [0.5, 3, -1], "relu")
    q = quantize_dense(layer, -2.0, 253.0)
    assert (q.input_scale, q.input_zero, q.activation) == (1, 2, "relu")
    assert q.weight_i8.dtype == np.int8
    # The scales are 0.01, 1 (a column of zeros) and 2.
    assert q.weight_i8.tolist() == [[127, 0, -4], [-50, 0, 127]]
    hundredth = np.float32(np.float64(np.float32(1.27)) / 127)
    assert q.scale.tolist() == [hundredth, 1, 2]
    # 0.5 - 0.01*2*77, 3, -1 - 2*2*123
    assert q.offset.tolist() == [np.float32(0.5 - np.float64(hundredth) * 2 * 77), 3, -493]
    assert q.weight_i8.flags.c_contiguous
    assert not q.weight_i8.flags.writeable


def test_weights_so_small_that_their_scale_is_zero():
    q = quantize_dense(Dense([[1e-45], [0]], [2]), 0.0, 255.0)
    assert q.weight_i8.tolist() == [[0], [0]]
    assert q.offset.tolist() == [2]


@pytest.mark.parametrize("largest", [127, 100, 64, 63, 21])
@pytest.mark.parametrize("step", [0.0123, 3e-6, 1e4])
def test_weights_that_had_one_scale_keep_their_integers(largest, step):
    integers = generator(5).integers(-largest // 2, largest // 2, (300, 50), endpoint=True)
    integers[7, 3], integers[:, 11] = -largest, 0
    weight = integers * np.float32(step)
    layer = quantize_dense(Dense(weight, np.zeros(50)), 0, 255)
    kept = layer.weight_i8 * layer.scale
    np.testing.assert_array_equal(layer.weight_i8, integers * (127 // largest))
    np.testing.assert_allclose(kept, weight, rtol=1e-6)
    weight[200, 20] *= np.float32(1.001)  # one that lies between two levels
    layer = quantize_dense(Dense(weight, np.zeros(50)), 0, 255)
    assert np.abs(layer.weight_i8[:, 20]).max() == 127


def test_ties_of_weights_go_to_the_even_one():
    q = quantize_dense(Dense([[127], [0.5], [1.5], [-2.5], [-126.5]], [0]), 0.0, 255.0)
    assert q.weight_i8[:, 0].tolist() == [127, 0, 2, -2, -126]


def test_a_trace_by_hand():
    """Two layers, integers throughout: x = 10, 20, so z = 50, -10 and q = 25, 0."""
    first = quantize_dense(Dense([[127, -127], [-61, 63]], [0, 0], "relu"), 0.0, 255.0)
    second = quantize_dense(Dense([[127], [1]], [0.5], "identity"), 0.0, 510.0)
    assert (second.input_scale, second.input_zero) == (2, 0)
    one, two = reference.quantized_trace([first, second], np.array([[10, 20]], np.uint8))
    assert one.q.tolist() == [[10, 20]]
    assert one.z.tolist() == [[50, -10]]
    assert one.a.tolist() == [[50, 0]]
    assert two.q.tolist() == [[25, 0]]
    assert two.z.tolist() == [[25 * 2 * 127 + 0.5]]


def test_between_layers_ties_go_to_the_even_one_and_saturate():
    first = quantize_dense(Dense([[127]], [0], "identity"), 0.0, 255.0)
    after = quantize_dense(Dense([[127]], [0]), 0.0, 254.0 * 255)
    assert after.input_scale == 254
    x = np.array([[0], [1], [2], [3], [255]], np.uint8)
    _, two = reference.quantized_trace([first, after], x)
    assert two.q[:, 0].tolist() == [0, 0, 1, 2, 128]  # 0, 0.5, 1, 1.5, 127.5
    narrow = quantize_dense(Dense([[127]], [0]), -255.0, 2295.0)
    assert (narrow.input_scale, narrow.input_zero) == (10, 26)  # 25.5
    _, two = reference.quantized_trace([first, narrow], x)
    assert two.q[:, 0].tolist() == [26, 39, 51, 64, 255]  # 26 + 12.7 n


def test_input_of_floats_by_hand():
    layer = quantize_dense(Dense([[127]], [0]), -2.0, 253.0)
    x = [[0], [-0.5], [0.5], [1.5], [-2.6], [300], [np.inf], [-np.inf], [1e38]]
    (step,) = reference.quantized_trace([layer], np.float32(x))
    assert step.q[:, 0].tolist() == [2, 2, 2, 4, 0, 255, 255, 0, 255]
    assert step.z[:, 0].tolist() == [127 * (q - 2) for q in step.q[:, 0].tolist()]


def test_a_row_with_nan_is_lost_and_no_other():
    rng = generator(3)
    layers = [quantize_dense(dense(rng, 4, 5, "tanh"), -3.0, 3.0), dense(rng, 5, 2)]
    x = rng.standard_normal((3, 4)).astype(np.float32)
    clean = reference.quantized_trace(layers, x)
    x[1, 2] = np.nan
    for before, after in zip(clean, reference.quantized_trace(layers, x), strict=True):
        assert np.isnan(after.z[1]).all()
        assert np.isnan(after.a[1]).all()
        assert_same_bits(after.a[[0, 2]], before.a[[0, 2]])


@pytest.mark.parametrize(
    ("activation", "limits", "direct"),
    [("relu", (0, 9), True), ("identity", (-3, 9), True), ("identity", (0, 9), True),
     ("relu", (-3, 9), False), ("tanh", (-1, 1), False), ("relu6", (0, 6), False)],
)  # fmt: skip
def test_direct(activation, limits, direct):
    rng = generator(4)
    one = quantize_dense(dense(rng, 3, 4, activation), 0.0, 255.0)
    two = quantize_dense(dense(rng, 4, 2), *map(float, limits))
    assert quantize.is_direct(one, two) == direct


number = st.integers(-(10**6), 10**6).map(lambda i: i / 100)


@given(st.lists(st.tuples(number, number), min_size=1, max_size=8), number, number)
@settings(deadline=None, max_examples=150)
def test_errors_stay_below_half_a_step(rows, one, two):
    """|weight - w8 * scale| and |input - (q - zero) * scale| within the range."""
    layer = Dense(rows, [0, 0])
    lo, hi = min(one, two, 0.0), max(one, two, 0.0)
    q = quantize_dense(layer, lo, hi)
    step = q.scale.astype(np.float64) / q.input_scale
    error = np.abs(q.weight_i8 * step - layer.weight)
    assert (error <= step * 0.5001).all()
    x = np.float32([[lo], [hi], [(lo + hi) / 2], [0]]) * np.ones((1, len(rows)), np.float32)
    (traced,) = reference.quantized_trace([q], x)
    found = (traced.q.astype(np.float64) - q.input_zero) * q.input_scale
    # At the ends half a step of the zero point comes on top; zero itself is exact.
    assert (np.abs(found - x)[:2] <= 1.001 * q.input_scale).all()
    assert (np.abs(found - x)[2] <= 0.501 * q.input_scale).all()
    assert (found[3] == 0).all()


def test_the_trace_is_near_that_of_float32():
    network = model(20, 30, 10, hidden="tanh", last="identity")
    x = generator(5).standard_normal((200, 20)).astype(np.float32)
    layers, pixel = quantize_layers(network.layers, None, calibrate(network, x))
    assert pixel is network.layers[0]
    for step, (z, a) in zip(
        reference.quantized_trace(layers, x), reference.trace(network.layers, x), strict=True
    ):
        scale = np.abs(z).max()
        assert np.abs(step.z - z).max() < 0.03 * scale
        assert np.abs(step.a - a).max() < 0.03 * scale


# ---- records -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        (("int16", [(0, 1)]), ValueError, "input is 'int16', wanted one of"),
        ((np.uint8, [(0, 1)]), ValueError, "input is"),
        (("float32", []), ValueError, "ranges is empty"),
        (("float32", 3), TypeError, "ranges is a int"),
        (("float32", "ab"), TypeError, "ranges is a str"),
        (("float32", [3]), TypeError, r"ranges\[0\] is 3, wanted two numbers"),
        (("float32", [(0, 1), (0, 1, 2)]), TypeError, r"ranges\[1\] is \(0, 1, 2\)"),
        (("float32", [(0, True)]), TypeError, r"ranges\[0\]"),
        (("float32", [("0", "1")]), TypeError, r"ranges\[0\]"),
        (("float32", [(0, None)]), TypeError, r"ranges\[0\]"),
        (("float32", [(1, 2)]), ValueError, "wanted lo <= 0 <= hi"),
        (("float32", [(-2, -1)]), ValueError, "wanted lo <= 0 <= hi"),
        (("float32", [(0, math.nan)]), ValueError, "wanted lo <= 0 <= hi"),
        (("float32", [(math.nan, 0)]), ValueError, "wanted lo <= 0 <= hi"),
        (("float32", [(0, math.inf)]), ValueError, "finite in float32"),
        (("float32", [(-1e39, 0)]), ValueError, "finite in float32"),
        (("float32", [(0, 10**400)]), ValueError, "finite in float32"),
        (("uint8", [(0, 1)]), ValueError, r"ranges\[0\] is \(0.0, 1.0\), wanted \(0, 255\)"),
    ],
)
def test_calibration_refuses(arguments, kind, message):
    with pytest.raises(kind, match=f"^Calibration: .*{message}"):
        Calibration(*arguments)


def test_a_calibration_is_plain_and_never_changes():
    one = Calibration("float32", np.float32([[-1, 2], [0, 0.1]]))
    assert one.ranges == ((-1.0, 2.0), (0.0, float(np.float32(0.1))))
    assert all(type(value) is float for pair in one.ranges for value in pair)
    assert str(Calibration("float32", [(-0.0, -0.0)]).ranges) == "((0.0, 0.0),)"
    with pytest.raises(AttributeError):
        one.input = "uint8"
    assert pickle.loads(pickle.dumps(one)) == one
    assert hash(pickle.loads(pickle.dumps(one))) == hash(one)
    function, (name, ranges, taps) = one.__reduce__()
    with pytest.raises(ValueError, match="wanted lo <= 0"):
        function(name, [(1, 2), *ranges], taps)


@pytest.mark.parametrize(
    ("taps", "error", "message"),
    [
        (3, TypeError, "wanted pairs of integers"),
        ([(1, 2, 3)], TypeError, "wanted pairs of integers"),
        ([(1, 2.0)], TypeError, "wanted pairs of integers"),
        ([(0, 1)], ValueError, "lags of at least 1"),
        ([(1, 65)], ValueError, "at most 64"),
        ([(i + 1, 1) for i in range(9)], ValueError, "at most 8"),
    ],
)
def test_taps_are_checked(taps, error, message):
    with pytest.raises(error, match=message):
        Calibration("uint8", [(0, 255)], taps)
    with pytest.raises(ValueError, match='for "uint8" input'):
        Calibration("float32", [(0, 1)], [(1, 3)])


def quantized_record(**changed):
    fields = {
        "weight_i8": np.ones((3, 2), np.int8), "scale": np.ones(2, np.float32),
        "offset": np.zeros(2, np.float32), "input_scale": 1.0, "input_zero": 0,
        "activation": "relu", "parameters": {},
    }  # fmt: skip
    return QuantizedDense(**{**fields, **changed})


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"weight_i8": np.ones((3, 2), np.uint8)}, "weight_i8 is uint8"),
        ({"weight_i8": np.ones(2, np.int8)}, r"weight_i8 is int8 of shape \(2,\)"),
        ({"weight_i8": np.ones((0, 2), np.int8)}, "each at least 1"),
        ({"weight_i8": np.full((3, 2), -128, np.int8)}, "value -128"),
        ({"weight_i8": np.ones((66_052, 2), np.int8)}, "at most 66051"),
        ({"scale": np.ones(3, np.float32)}, r"scale is float32 of shape \(3,\)"),
        ({"offset": np.ones(2)}, "offset is float64"),
        ({"scale": np.float32([1, np.inf])}, "scale has NaN or Inf"),
        ({"input_scale": 0.0}, "input_scale is 0.0"),
        ({"input_scale": -1.0}, "input_scale is -1.0"),
        ({"input_scale": 1e-40}, "with an inverse"),
        ({"input_scale": np.nan}, "input_scale is nan"),
        ({"input_scale": 1e39}, "input_scale is 1e"),
        ({"input_zero": 0.5}, "integer 0..255"),
        ({"input_zero": 256}, "integer 0..255"),
        ({"input_zero": -1}, "integer 0..255"),
    ],
)
def test_quantized_dense_refuses(changed, message):
    with pytest.raises(ValueError, match=f"^QuantizedDense: .*{message}"):
        quantized_record(**changed)


def test_a_quantized_layer_never_changes():
    layer = quantized_record()
    assert repr(layer) == (
        "<fastnn.quantize.QuantizedDense 3-2 relu, input 1*(q - 0)>"
    )  # fmt: skip
    assert (layer.n_inputs, layer.n_outputs) == (3, 2)
    for change in (lambda: setattr(layer, "scale", 1), lambda: delattr(layer, "scale")):
        with pytest.raises(AttributeError, match="never changes"):
            change()
    with pytest.raises(ValueError, match="read-only"):
        layer.weight_i8[0, 0] = 2


def test_what_overflows_is_refused_by_its_layer():
    large, plain = Dense([[3e38]], [0]), Dense([[1.0]], [0], "relu")
    wide = (0.0, 3e38)
    for layers, ranges, message in [
        ([large], [wide], r"layers\[0\] with the range .*scale has NaN or Inf"),
        ([plain, large], [(0.0, 1.0), wide], r"layers\[1\]"),
        ([large, plain], [(0.0, 1.0), (0.0, 1e-36)], r"layers\[1\]: the range .* ratio overflows"),
    ]:
        ranges = Calibration("float32", ranges)
        with pytest.raises(ValueError, match=message):
            quantize_layers(layers, None, ranges)
        with pytest.raises(ValueError, match=f"^Model: {message}"):
            Model(layers, precision="int8", calibration=ranges)


def test_wide_layers_stay_float32():
    wide = Dense(np.ones((quantize.MAX_INPUTS + 1, 1)), [0])
    plain, limits = Dense([[1]], [0]), (0.0, 255.0)
    for name in ("uint8", "float32"):
        (first, second), pixel = quantize_layers(
            [wide, plain], None, Calibration(name, [limits, limits])
        )
        assert first is wide
        assert isinstance(second, QuantizedDense)
        assert pixel is None
    edge = Dense(np.ones((quantize.MAX_INPUTS, 1)), [0])
    ((first,), pixel) = quantize_layers([edge], None, Calibration("float32", [limits]))
    assert isinstance(first, QuantizedDense)
    assert pixel is edge


def test_who_is_quantized_for_which_rows():
    layers = [Dense([[1.0]], [0], "relu"), Dense([[2.0]], [1])]
    pixel = _fold(layers[0], 1 / 255, 0.0, 1.0)
    limits = [(0, 255), (0, 1)]
    for given_pixel in (None, pixel):
        (first, second), seen = quantize_layers(layers, given_pixel, Calibration("uint8", limits))
        assert first is layers[0]
        assert isinstance(seen, QuantizedDense)
        assert (seen.input_scale, seen.input_zero) == (1, 0)
        assert isinstance(second, QuantizedDense)
        (first, second), seen = quantize_layers(layers, given_pixel, Calibration("float32", limits))
        assert isinstance(first, QuantizedDense)
        assert seen is (layers[0] if given_pixel is None else pixel)


# ---- calibrate -----------------------------------------------------------------------------------


@pytest.mark.parametrize("n_batch", [1, 7, 1024])
@pytest.mark.parametrize("kind", ["uint8", "float32", "float64", "float16"])
def test_ranges_are_those_of_the_inputs_of_each_layer(monkeypatch, n_batch, kind):
    monkeypatch.setattr(quantize, "_MAX_BATCH", n_batch)
    network = model(6, 5, 4, 3, hidden="leaky_relu", scale=1 / 255, mean=0.5)
    rng = generator(6)
    rows = pixel_rows(rng, 50, 6) if kind == "uint8" else rng.standard_normal((50, 6)).astype(kind)
    found = calibrate(network, rows)
    traced = network.trace(rows)
    inputs = [rows.astype(np.float32), *(a for _, a in traced[:-1])]
    want = [(min(0, float(a.min())), max(0, float(a.max()))) for a in inputs]
    if kind == "uint8":
        want[0] = (0, 255)
    assert found == Calibration("uint8" if kind == "uint8" else "float32", want)


def test_zero_is_in_every_range():
    network = Model([Dense([[1.0]], [0.0])])
    assert calibrate(network, [[2.0], [3.0]]).ranges == ((0, 3),)
    assert calibrate(network, [[-2.0]]).ranges == ((-2, 0),)


def test_rows_of_any_shape_and_one_row():
    network = model(12, 3)
    x = generator(7).standard_normal((5, 12)).astype(np.float32)
    want = calibrate(network, x)
    assert calibrate(network, x.reshape(5, 3, 4)) == want
    assert calibrate(network, x.tolist()) == want
    assert calibrate(network, np.asfortranarray(x)) == want
    one = calibrate(network, x[:1])
    assert calibrate(network, x[0]) == calibrate(network, x[0].reshape(3, 4)) == one


@pytest.mark.parametrize(
    ("rows", "kind", "message"),
    [
        (np.zeros((0, 3), np.float32), ValueError, "rows is empty"),
        ([], ValueError, "rows is empty"),
        (np.float32(1), ValueError, r"rows has shape \(\)"),
        (np.zeros((2, 3), bool), TypeError, "rows has dtype bool, wanted uint8"),
        (np.zeros((2, 3), np.int64), TypeError, "rows has dtype int64"),
        (np.zeros((2, 3), np.uint16), TypeError, "rows has dtype uint16"),
        (np.zeros((2, 3), complex), TypeError, "rows has dtype complex128"),
        ([["a", "b", "c"]], TypeError, "rows has dtype <U1"),
        (None, TypeError, "rows has dtype object"),
        ([[1.0, 2, 3], [1.0]], ValueError, "rows is no array of numbers"),
        (np.zeros((2, 4), np.float32), ValueError, r"shape \(2, 4\), the network takes 3"),
        (np.zeros(4, np.float32), ValueError, r"shape \(4,\), the network takes 3"),
        (np.float32([[0, 0, 0], [0, np.nan, 0]]), ValueError, r"rows\[1\] has NaN"),
        (np.float32([[0, 0, 0], [0, -np.inf, 0]]), ValueError, r"rows\[1\] has NaN or inf"),
        ([[0, 0, 1e39]], ValueError, r"rows\[0\] has NaN or infinity"),
        (np.ma.zeros((2, 3)), TypeError, "masked array"),
        ([[3e38, 3e38, 3e38]], ValueError, r"rows 0 to 0 make layers\[0\] give NaN or infinity"),
    ],
)
def test_calibrate_refuses(rows, kind, message):
    network = Model([Dense(np.ones((3, 2)), [0, 0], "relu"), Dense(np.ones((2, 1)), [0])])
    for call in (lambda: calibrate(network, rows), lambda: network.quantize(rows)):
        with pytest.raises(kind, match=f"^calibrate: .*{message}"):
            call()


def test_a_bad_row_is_counted_from_the_start(monkeypatch):
    monkeypatch.setattr(quantize, "_MAX_BATCH", 4)
    rows = np.zeros((11, 2), np.float32)
    rows[9, 1] = np.nan
    with pytest.raises(ValueError, match=r"rows\[9\]"):
        calibrate(model(2, 2), rows)


# ---- bfloat16 ------------------------------------------------------------------------------------


@given(st.floats(width=32, allow_nan=False, allow_infinity=False))
@example(1 + 2**-8)
@example(1 + 3 * 2**-8)
@example(-FLOAT32_MAX)
@example(2**-149)
def test_bfloat16_is_the_nearest_of_8_bits(value):
    found = float(reference.bfloat16(value))
    if math.isinf(found):
        assert abs(value) >= 2.0**128 * (1 - 2.0**-9)
        return
    assert np.float32(found).view(np.uint32) & 0xFFFF == 0
    step = Fraction(2) ** max(math.frexp(value)[1] - 8, -133)
    error = abs(Fraction(found) - Fraction(value))
    assert error <= step / 2
    if error == step / 2:
        assert np.float32(found).view(np.uint32) >> 16 & 1 == 0


def test_bfloat16_by_hand():
    values = [0, -0.0, 1, 1 + 2**-8, 1 + 3 * 2**-8, np.inf, -np.inf, 255]
    found = reference.bfloat16(values)
    assert found.tolist() == [0, 0, 1, 1, 1 + 2**-6, np.inf, -np.inf, 255]
    assert np.signbit(found[1])
    assert np.isnan(reference.bfloat16(np.uint32([0x7F800001, 0xFFFFFFFF]).view(np.float32))).all()


@needs_bf16
@each_isa_of("bf16")
@pytest.mark.parametrize("shape", [(1, 1), (7, 5), (64, 33), (300, 129), (5, 300)])
def test_bfloat16_kernels(isa, shape):
    """One layer, so that the bound is that of one sum: 2^-8 each for x and w, and the additions."""
    rng = generator(8)
    layer = dense(rng, *shape)
    network = Model([layer], isa=isa, precision="bfloat16", task="classify")
    assert [kernel["format"] for kernel in network.kernels] == ["bf16"]
    for x in (rng.standard_normal((9, shape[0])).astype(np.float32), pixel_rows(rng, 9, shape[0])):
        z = network.decision_function(x).reshape(9, -1)
        ((want, _),) = reference.bfloat16_trace([layer], x)
        ((exact, _),) = reference.trace([layer], x)
        size = np.abs(x).astype(np.float64) @ np.abs(layer.weight) + np.abs(layer.bias)
        assert (np.abs(z - want) <= (shape[0] + 2) * 2.0**-22 * size + 1e-30).all()
        assert (np.abs(z - exact) <= 2.02 * 2.0**-8 * size + 1e-30).all()


@needs_bf16
def test_a_bfloat16_model():
    network = model(20, 40, 10, scale=1 / 255)
    half = network.astype("bfloat16")
    assert half.precision == "bfloat16"
    assert half.layers[0].weight is network.layers[0].weight
    assert {kernel["format"] for kernel in half.kernels} == {"bf16"}
    x = pixel_rows(generator(9), 100, 20)
    np.testing.assert_allclose(half.predict_proba(x), network.predict_proba(x), atol=0.02)
    assert half.astype("float32").decision_function(x).tobytes() == (
        network.decision_function(x).tobytes()
    )
    assert "bfloat16" in repr(half)
    assert pickle.loads(pickle.dumps(half)).precision == "bfloat16"


# ---- models --------------------------------------------------------------------------------------


def test_precision_needs_its_calibration():
    layers = [Dense([[1.0]], [0])]
    ranges = Calibration("float32", [(0, 1)])
    assert Model(layers).precision == "float32"
    assert Model(layers).calibration is None
    assert Model(layers, calibration=ranges).calibration is ranges
    for changed, kind, message in [
        ({"precision": "int8"}, ValueError, '"int8" needs a calibration'),
        ({"precision": "certified"}, ValueError, '"certified" needs a calibration'),
        ({"precision": "int4"}, ValueError, "precision is 'int4', wanted one of float32, int8"),
        ({"precision": None}, TypeError, "precision is a NoneType"),
        ({"calibration": [(0, 1)]}, TypeError, "calibration is a list"),
        (
            {"calibration": Calibration("float32", [(0, 1)] * 2)},
            ValueError,
            "2 ranges, wanted 1, one per layer",
        ),
    ]:
        with pytest.raises(kind, match=f"^Model: .*{message}"):
            Model(layers, **changed)


def test_astype_of_what_is_not_there():
    network = model(3, 2)
    assert network.astype("float32") is network
    with pytest.raises(ValueError, match='"int8" needs a calibration'):
        network.astype("int8")
    with pytest.raises(ValueError, match="precision is 'float16'"):
        network.astype("float16")


class Tagged(Model):
    """At the top, where pickle finds it."""


@needs_i8
def test_a_quantized_model():
    network = model(20, 30, 10, scale=1 / 255, classes=list("abcdefghij"), isa="scalar")
    x = pixel_rows(generator(10), 300, 20)
    int8 = network.quantize(x)
    assert (int8.precision, network.precision) == ("int8", "float32")
    assert int8.calibration == calibrate(network, x)
    assert all(a is b for a, b in zip(int8.layers, network.layers, strict=True))
    assert int8.astype("int8") is int8
    assert int8.astype("float32").calibration == int8.calibration
    assert int8.quantize(x).calibration == int8.calibration
    assert (int8.scale, int8.classes_.tolist()) == (network.scale, network.classes_.tolist())
    kernels = [int8.pixel_kernel, *int8.kernels]
    assert [kernel["format"] for kernel in kernels] == ["i8", "f32", "i8"]
    assert {kernel["isa"] for kernel in kernels} == {"scalar"}
    assert np.mean(int8.predict(x) == network.predict(x)) > 0.97
    np.testing.assert_allclose(int8.predict_proba(x), network.predict_proba(x), atol=0.1)
    assert "20-30-10 int8" in repr(int8)
    assert "int8" not in repr(network)
    assert "precision int8, calibrated on uint8 rows" in int8.summary()
    assert "precision float32; calibrated for int8 on uint8" in int8.astype("float32").summary()
    assert "scalar f32 4x4; uint8 scalar i8 4x4" in int8.summary()


@needs_i8
def test_attributes_and_class_are_kept():
    tagged = Tagged([Dense([[1.0, 2]], [0, 0])], metadata={"a": "b"})
    tagged.note = "x"
    other = tagged.quantize(np.uint8([[3]]))
    assert (type(other), other.note, dict(other.metadata)) == (Tagged, "x", {"a": "b"})
    again = pickle.loads(pickle.dumps(other))
    assert (type(again), again.note, again.calibration) == (Tagged, "x", other.calibration)


@needs_i8
def test_a_pickle_is_checked():
    int8 = model(5, 4, 3).quantize(np.zeros((2, 5), np.uint8))
    restored = pickle.loads(pickle.dumps(int8))
    assert (restored.precision, restored.calibration) == (int8.precision, int8.calibration)
    x = pixel_rows(generator(11), 8, 5)
    assert_same_bits(restored.forward(x), int8.forward(x))
    rebuild, (kind, layers, rest) = int8.__reduce__()
    with pytest.raises(ValueError, match="precision is 'int9'"):
        rebuild(kind, layers, {**rest, "precision": "int9"})


@needs_i8
@pytest.mark.parametrize("suffix", [".safetensors", ".npz"])
@pytest.mark.parametrize("rows", ["uint8", "float32"])
def test_save_and_load(tmp_path, suffix, rows):
    network = model(7, 6, 3, scale=0.5, mean=1.0, hidden="tanh")
    rng = generator(12)
    x = pixel_rows(rng, 40, 7) if rows == "uint8" else mixed_rows(rng, 3, 7)
    int8 = network.quantize(x)
    path = tmp_path / f"a{suffix}"
    int8.save(path)
    found = fastnn.load(path)
    assert (found.precision, found.calibration) == ("int8", int8.calibration)
    assert_same_bits(found.forward(x), int8.forward(x))
    assert_same_bits(fastnn.load(path, precision="float32").forward(x), network.forward(x))
    int8.astype("float32").save(path)
    assert fastnn.load(path).precision == "float32"
    assert_same_bits(fastnn.load(path, precision="int8").forward(x), int8.forward(x))


def test_load_in_a_precision_that_is_not_there(tmp_path):
    model(3, 2).save(tmp_path / "a.npz")
    with pytest.raises(ValueError, match='load: .*a.npz: precision "int8" needs a calibration'):
        fastnn.load(tmp_path / "a.npz", precision="int8")
    for wrong in ("int4", 8, True):
        with pytest.raises(ValueError, match=f"load: precision is {wrong!r}, wanted one of"):
            fastnn.load(tmp_path / "a.npz", precision=wrong)


@needs_i8
def test_other_integers_are_floats_where_there_is_no_scale():
    x = np.array([[3, 7], [200, 1]])
    plain, scaled = model(2, 3), model(2, 3, scale=0.5)
    for rows in (x.astype(np.uint8), x.astype(np.float32)):
        int8 = plain.quantize(rows)
        assert_same_bits(int8.forward(x), int8.forward(x.astype(np.float32)))
        with pytest.raises(TypeError, match="ambiguous"):
            scaled.quantize(rows).forward(x)


@needs_i8
def test_mnist_small_comes_with_its_calibration():
    int8 = fastnn.load("mnist-small", precision="int8")
    assert int8.precision == "int8"
    assert int8.calibration.input == "uint8"
    images, labels = mnist.sample()
    want = reference.quantized_trace(
        engine_layers(int8, np.uint8), images.reshape(len(images), -1)
    )[-1].z
    assert_same_bits(int8.decision_function(images), want)
    assert np.mean(int8.predict(images) == labels) > 0.97


@pytest.mark.parametrize(("name", "allowed"), [("mnist-small", 5), ("mnist-linear", 5)])
def test_accuracy_in_the_reference(mnist_path, name, allowed):
    """On the 10,000 test images: at most 0.05 points below float32."""
    network = fastnn.load(name)
    images, labels = mnist.load("test", mnist_path)
    x = images.reshape(len(images), -1)
    pixel = _fold(network.layers[0], network.scale, network.mean, network.std)
    layers, seen = quantize_layers(network.layers, pixel, network.calibration)
    int8 = reference.quantized_trace((seen, *layers[1:]), x)[-1].z.argmax(axis=1)
    n_right, n_right_float32 = ((a == labels).sum() for a in (int8, network.predict(x)))
    assert n_right >= n_right_float32 - allowed


# ---- files ---------------------------------------------------------------------------------------


def hostile(tmp_path, **changes):
    """A sound native file of a 2-1 network, its architecture changed."""
    path = tmp_path / "a.safetensors"
    Model([Dense([[1.0], [2.0]], [0])]).save(path)
    data = path.read_bytes()
    n = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + n])
    about = {**json.loads(header["__metadata__"]["fastnn"]), **changes}
    header["__metadata__"]["fastnn"] = json.dumps(about)
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + n :])
    return path


def ranges_of(*pairs, rows="float32"):
    return {"calibration": {"input": rows, "ranges": list(pairs)}}


def test_the_sound_file_of_these_tests_is_sound(tmp_path):
    found = fastnn.load(hostile(tmp_path, **ranges_of([-1, 2.5])))
    assert found.calibration == Calibration("float32", [(-1, 2.5)])
    assert fastnn.load(hostile(tmp_path, precision="float32")).precision == "float32"


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"precision": "int8"}, "needs a calibration"),
        ({"precision": "int4"}, "precision is 'int4'"),
        ({"precision": None}, "precision is a NoneType"),
        ({"precision": ["int8"]}, "precision is a list"),
        ({"calibration": None}, "the calibration to be a JSON object"),
        ({"calibration": []}, "the calibration to be a JSON object"),
        ({"calibration": {"input": "float32"}}, "with the keys input, ranges"),
        ({"calibration": {"input": "uint8", "ranges": [], "x": 1}}, "with the keys"),
        ({"calibration": {"input": 8, "ranges": [[0, 1]]}}, "name of a dtype"),
        ({"calibration": {"input": "float32", "ranges": {"0": [0, 1]}}}, "list of ranges"),
        (ranges_of(), "ranges is empty"),
        (ranges_of([0, 1], [0, 1]), "2 ranges, wanted 1"),
        (ranges_of([0, 1], rows="bfloat16"), "input is 'bfloat16'"),
        (ranges_of([0, 1], rows="uint8"), r"wanted \(0, 255\)"),
        (ranges_of([0]), r"range 0 of the calibration as \[lo, hi\]"),
        (ranges_of([0, 1, 2]), r"as \[lo, hi\]"),
        (ranges_of("01"), r"as \[lo, hi\]"),
        (ranges_of({"lo": 0, "hi": 1}), r"as \[lo, hi\]"),
        (ranges_of([0, "1"]), "to be a number"),
        (ranges_of([0, True]), "to be a number"),
        (ranges_of([None, 1]), "to be a number"),
        (ranges_of([1, 2]), "wanted lo <= 0 <= hi"),
        (ranges_of([-2, -1]), "wanted lo <= 0 <= hi"),
        (ranges_of([0, 1e39]), "finite in float32"),
        (ranges_of([0, 10**400]), "to be sound"),
        (ranges_of([0, math.nan]), "finite numbers"),
        (ranges_of([-math.inf, 0]), "finite numbers"),
        ({"quantization": 1}, "with the keys"),
    ],
)
def test_hostile_calibrations(tmp_path, changes, match):
    with pytest.raises(LoadError, match=match) as caught:
        fastnn.load(hostile(tmp_path, **changes))
    assert len(str(caught.value)) < 1000


def npz_entries(**changes):
    entries = {"W0": np.float32([[1], [2]]), "b0": np.float32([0]), "activations": ["identity"]}
    return {**entries, **changes}


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"precision": "int8"}, "needs a calibration"),
        ({"precision": 8}, "precision of strings"),
        ({"precision": ["int8"]}, "precision as one string"),
        ({"calibration_input": "uint8"}, "found one of the two"),
        ({"calibration_ranges": [[0.0, 1.0]]}, "found one of the two"),
        ({"calibration_input": "uint8", "calibration_ranges": [[0.0, 1.0]]}, r"wanted \(0, 255\)"),
        ({"calibration_input": "float32", "calibration_ranges": [[0, 1]]}, "floats of shape"),
        ({"calibration_input": "float32", "calibration_ranges": [0.0, 1.0]}, "floats of shape"),
        ({"calibration_input": "float32", "calibration_ranges": [[0.0]]}, "wanted two numbers"),
        ({"calibration_input": "float32", "calibration_ranges": [[0.0, np.nan]]}, "lo <= 0 <= hi"),
        ({"calibration_input": "float32", "calibration_ranges": [[0.0, 1]] * 2}, "wanted 1, one"),
    ],
)
def test_hostile_calibrations_in_npz(tmp_path, changes, match):
    np.savez(tmp_path / "a.npz", **npz_entries(**changes))
    with pytest.raises(LoadError, match=match):
        fastnn.load(tmp_path / "a.npz")


def test_a_range_that_overflows_is_the_files_fault(tmp_path):
    path = tmp_path / "a.npz"
    ranges = Calibration("float32", [(0, 3e38)])
    Model([Dense([[3e38]], [0])], calibration=ranges).save(path)
    with pytest.raises(LoadError, match=r"a.npz: Model: layers\[0\].*NaN or Inf"):
        fastnn.load(path, precision="int8")


# ---- the kernels, bit by bit ---------------------------------------------------------------------

MOST_ROWS = 17
SMALL = [(n, k) for n in range(1, 41) for k in range(1, 71)]
WIDE = [
    (n, k)
    for n in (63, 64, 65, 127, 129, 191, 255, 257, 511, 513)
    for k in (1, 2, 3, 4, 5, 63, 128, 784)
]
DEEP = [(n, k) for n in (1, 10, 67) for k in (1021, 4099)]
if IS_SANITIZED:
    SMALL, WIDE, DEEP = SMALL[::7], WIDE[::5], DEEP[::4]
HIDDEN = [  # (activation, parameters, has a signed range after it)
    ("relu", {}, False),
    ("identity", {}, True),
    ("tanh", {}, True),
    ("gelu", {}, True),
    ("relu", {}, True),  # a zero point that relu alone does not need
    ("sigmoid", {}, False),
    ("leaky_relu", {"alpha": 0.2}, True),
]


def integer_layer(rng, k, n, zero, activation="identity", **parameters):
    """Weights of every size, the extremes among them; sums of some hundreds of units."""
    weight = rng.integers(-127, 128, (k, n), np.int8)
    weight[rng.random((k, n)) < 0.2] = 0
    weight[:, rng.random(n) < 0.1] = 127
    scale = (rng.random(n) + 0.5).astype(np.float32) / np.float32(np.sqrt(k) * 2000)
    offset = rng.standard_normal(n).astype(np.float32)
    complete = Dense([[1]], [0], activation, **parameters).parameters
    return QuantizedDense(weight, scale, offset, 0.03125, zero, activation, complete)


def chained(rng, k, n, case, *, is_pixels):
    """Two int8 layers k -> n -> 3, the range between them so narrow that it saturates."""
    activation, parameters, is_signed = HIDDEN[case % len(HIDDEN)]
    first = integer_layer(rng, k, n, 0 if is_pixels else (0, 1, 93)[case % 3], activation,
                          **parameters)  # fmt: skip
    if is_pixels:
        first = QuantizedDense(
            first.weight_i8, first.scale, first.offset, 1.0, 0, activation, first.parameters
        )
    return [first, integer_layer(rng, n, 3, 60 if is_signed else 0)]


def awkward_floats(rng, m, k):
    """Rows in and beyond the range of 1/32 a step, zeros, ties, and NaN or infinite ones."""
    x = mixed_rows(rng, m, k)
    x[::3] *= 4
    x[1::5] = np.round(x[1::5] * 64) / 64  # ties
    return x


@needs_i8
@pytest.mark.parametrize("shapes", [SMALL, WIDE, DEEP], ids=["small", "wide", "deep"])
@pytest.mark.parametrize("rows", ["uint8", "float32"])
def test_grid(shapes, rows):
    """One reference a shape, shared by all kernels and row counts: a row's bits are its own."""
    n_cases = 0
    for case, (n, k) in enumerate(shapes):
        rng = generator(n, k)
        layers = chained(rng, k, n, case, is_pixels=rows == "uint8")
        make = pixel_rows if rows == "uint8" else awkward_floats
        x = make(rng, MOST_ROWS, k)
        steps = reference.quantized_trace(layers, x, engine_activate)
        alone = reference.quantized_trace(layers[:1], x, engine_activate)
        # What floats take first where pixels are quantized is not looked at here.
        spare = Dense(np.zeros((k, n)), np.zeros(n), layers[0].activation, **layers[0].parameters)
        for isa in I8:
            if rows == "uint8":
                network = _core.Network([spare, layers[1]], pixel=layers[0], isa=isa)
                single = _core.Network([spare], pixel=layers[0], isa=isa)
                assert network.pixel_kernel == network.kernels[1]
            else:
                network = _core.Network(layers, isa=isa)
                single = _core.Network(layers[:1], isa=isa)
            assert (network.kernels[1]["isa"], network.kernels[1]["format"]) == (isa, "i8")
            for m in {1, 2 + case % 3, 5 + case % 7, 12 + case % 6}:
                what = f"{isa} M={m} N={n} K={k} {layers[0].activation}"
                got = network.decision_function(x[:m])
                assert_same_bits(got.reshape(m, 3), steps[-1].z[:m], what)
                got = single.forward(x[:m])
                assert_same_bits(got.reshape(m, n), alone[0].a[:m], f"{what}, alone")
                n_cases += 1
            for (z, a), step in zip(network.trace(x), steps, strict=True):
                assert_same_bits(z, step.z, f"{isa} N={n} K={k} trace z")
                assert_same_bits(a, step.a, f"{isa} N={n} K={k} trace a")
    assert n_cases > 3 * len(shapes)


def test_the_grid_saturates_and_has_what_it_says():
    """Otherwise the comparison above would not see a wrong clamp or zero point."""
    rng = generator(20)
    for case in range(len(HIDDEN)):
        layers = chained(rng, 64, 40, case, is_pixels=False)
        x = awkward_floats(rng, 400, 64)
        steps = reference.quantized_trace(layers, x)
        assert {0, 255} <= set(steps[0].q[:, :].ravel().tolist())
        assert len(np.unique(steps[1].q)) > 20, HIDDEN[case]
        assert np.isnan(steps[1].z).all(axis=1).any()


@needs_i8
@each_isa_of("i8")
@pytest.mark.parametrize("formats", list(itertools.product("fi", repeat=3)), ids="".join)
def test_layers_of_both_formats(isa, formats):
    """float32 and int8 layers in any order, as where a layer is too wide for int8."""
    rng = generator(19)
    for sizes in [(5, 7, 6, 3), (40, 70, 33, 10)]:
        layers = []
        for i, (k, n) in enumerate(itertools.pairwise(sizes)):
            layer = dense(rng, k, n, ("relu", "tanh", "identity")[i])
            layers.append(layer if formats[i] == "f" else quantize_dense(layer, -1.0 * i, 4.0))
        x = mixed_rows(rng, 24, sizes[0])
        network = _core.Network(layers, isa=isa)
        assert [k["format"][0] for k in network.kernels] == [*formats]
        steps = reference.quantized_trace(layers, x, engine_activate)
        for (z, a), step in zip(network.trace(x), steps, strict=True):
            assert_same_bits(z, step.z)
            assert_same_bits(a, step.a)
        for m in (1, 2, 24):
            assert_same_bits(network.decision_function(x[:m]), steps[-1].z[:m])


@needs_i8
@each_isa_of("i8")
@pytest.mark.parametrize("activation", ["identity", "relu"])
def test_ties_between_layers(isa, activation):
    """q = sum / 254 of sums that are multiples of 127: every other one is a tie."""
    weight = np.tile(np.arange(-127, 128, dtype=np.int8), (1, 1))
    one, zeros = np.ones(255, np.float32), np.zeros(255, np.float32)
    first = QuantizedDense(weight, one, zeros, 1.0, 0, activation, {})
    for zero in (0, 100):
        second = QuantizedDense(np.eye(255, dtype=np.int8), one, zeros, 254.0, zero, "identity", {})
        x = np.array([[0], [1], [127], [254]], np.uint8)
        steps = reference.quantized_trace([first, second], x)
        network = _core.Network([Dense(np.zeros((1, 255)), zeros, activation), second],
                                pixel=first, isa=isa)  # fmt: skip
        assert_same_bits(network.decision_function(x), steps[1].z)
        exact = 127 * np.arange(-127, 128) + 254 * zero
        if activation == "relu":
            exact = np.maximum(exact, 254 * zero)
        want = np.clip([round(Fraction(int(i), 254)) for i in exact], 0, 255)
        assert steps[1].q[2].tolist() == want.tolist()


@needs_i8
@each_isa_of("i8")
@pytest.mark.parametrize(("activation", "zero"), [("identity", 100), ("relu", 0)])
def test_direct_requantization_to_the_last_bit(isa, activation, zero):
    """Within an ULP or two of ties, where a multiplier in real units or an offset that is rounded
    twice gives another q."""
    n, rng = 2500, generator(21)
    scale = (rng.random(n) + 0.1).astype(np.float32)
    step = float(np.float32(0.7))
    sums = rng.integers(20, 128, n).astype(np.int8)
    ties = rng.integers(1, 100, n) + 0.5
    offset = ((ties - sums * np.float64(scale) / step) * step).astype(np.float32)
    one, zeros = np.ones(n, np.float32), np.zeros(n, np.float32)
    first = QuantizedDense(sums[None], scale, offset, 1.0, 0, activation, {})
    second = QuantizedDense(np.eye(n, dtype=np.int8), one, zeros, step, zero, "identity", {})
    x = np.array([[1], [0]], np.uint8)
    steps = reference.quantized_trace([first, second], x)
    exact = sums * (scale / np.float64(step)) + offset / np.float64(step) + zero
    assert (np.abs(steps[1].q[0] - exact) < 0.501).all()
    (indirect,) = reference.quantized_trace([second], steps[0].a)
    assert np.count_nonzero(indirect.q[0] != steps[1].q[0]) > 20
    spare = Dense(np.zeros((1, n)), zeros, activation)
    network = _core.Network([spare, second], pixel=first, isa=isa)
    assert_same_bits(network.decision_function(x), steps[1].z)


@needs_i8
@each_isa_of("i8")
def test_sums_at_the_limit(isa):
    """66,051 inputs of 255 times weights of +-127: the largest sums that 32 bits have to hold."""
    k = quantize.MAX_INPUTS
    weight = np.full((k, 3), 127, np.int8)
    weight[:, 1] = -127
    weight[::2, 2] = -127
    layer = QuantizedDense(
        weight, np.ones(3, np.float32), np.zeros(3, np.float32), 1.0, 0, "identity", {}
    )
    x = np.full((2, k), 255, np.uint8)
    x[1, ::3] = 0
    network = _core.Network([Dense(np.zeros((k, 3)), np.zeros(3))], pixel=layer, isa=isa)
    (step,) = reference.quantized_trace([layer], x)
    assert step.z[0, :2].tolist() == [np.float32(255 * 127 * k), np.float32(-255 * 127 * k)]
    assert_same_bits(network.decision_function(x), step.z)


@needs_i8
@each_isa_of("i8")
def test_every_pair_of_an_input_and_a_weight(isa):
    """All q, all weights, twice in neighbouring inputs: where 16 bits saturate, this differs."""
    weight = np.tile(np.arange(-127, 128, dtype=np.int8), (4, 1))
    layer = QuantizedDense(
        weight, np.ones(255, np.float32), np.zeros(255, np.float32), 1.0, 0, "identity", {}
    )
    x = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 4, axis=1)
    network = _core.Network([Dense(np.zeros((4, 255)), np.zeros(255))], pixel=layer, isa=isa)
    want = 4 * np.arange(256)[:, None] * np.arange(-127, 128)
    assert_same_bits(network.decision_function(x), want.astype(np.float32) + np.float32(0))


@needs_i8
@pytest.mark.parametrize("hidden", ["relu", "tanh", "identity", "gelu"])
@pytest.mark.parametrize("calibrated_on", ["uint8", "float32"])
def test_models_have_the_bits_of_the_reference(hidden, calibrated_on):
    """Four layers, rows of both dtypes: the ones quantized, the others by a float32 first layer."""
    rng = generator(13)
    network = model(37, 50, 33, 20, 10, hidden=hidden, scale=1 / 255, mean=0.2, std=0.5)
    pixels = pixel_rows(rng, 60, 37)
    floats = ((pixels / 255 - 0.2) / 0.5).astype(np.float32)
    for isa in I8:
        kind = pixels if calibrated_on == "uint8" else floats
        int8 = Model(**{**network._parts._asdict(), "isa": isa}).quantize(kind[:30])
        for x in (pixels, floats):
            layers = engine_layers(int8, x.dtype)
            steps = reference.quantized_trace(layers, x, engine_activate)
            is_quantized = [isinstance(layer, QuantizedDense) for layer in layers]
            assert is_quantized == [x.dtype == calibrated_on, True, True, True]
            what = f"{isa} {calibrated_on} {x.dtype}"
            assert_same_bits(int8.decision_function(x), steps[-1].z, what)
            for (z, a), step in zip(int8.trace(x), steps, strict=True):
                assert_same_bits(z, step.z, what)
                if step is not steps[-1]:
                    assert_same_bits(a, step.a, what)
            assert_same_bits(int8.trace(x)[-1][1], int8.forward(x), what)
            labels, scores = int8.top_k(x, 3)
            assert (labels[:, 0] == steps[-1].z.argmax(axis=1)).all()
            assert (labels[:, 0] == int8.predict(x)).all()
            assert_same_bits(scores[:, 0], int8.predict_proba(x).max(axis=1), what)


@needs_i8
@each_isa_of("i8")
def test_a_row_with_nan_is_lost_in_every_method(isa):
    rng = generator(14)
    network = model(9, 8, 7, 4, hidden="tanh", isa=isa)
    x = rng.standard_normal((20, 9)).astype(np.float32)
    for calibrated_on in ("float32", "uint8"):  # NaN found in the first layer's input, or later
        int8 = network.quantize(x if calibrated_on == "float32" else np.zeros((1, 9), np.uint8))
        clean = int8.forward(x)
        for rows in ([0], [13], [0, 5, 6, 19]):
            bad = x.copy()
            bad[rows, 3] = np.nan
            good = np.setdiff1d(np.arange(20), rows)
            for method in (int8.forward, int8.decision_function, int8.predict_proba):
                assert np.isnan(method(bad)[rows]).all()
            assert_same_bits(int8.forward(bad)[good], clean[good])
            assert (int8.predict(bad)[rows] == 0).all()  # as np.argmax
            steps = reference.quantized_trace(engine_layers(int8, x.dtype), bad, engine_activate)
            for (z, a), step in zip(int8.trace(bad)[:-1], steps[:-1], strict=True):
                assert_same_bits(z, step.z)
                assert_same_bits(a, step.a)
    for single in (0, 13):  # alone, through the path of one row
        bad = x[single].copy()
        bad[8] = np.nan
        assert np.isnan(int8.forward(bad)).all()


@needs_i8
def test_a_step_after_nan():
    """step(NaN) is 0, but a lost row has no outputs."""
    layer = quantize_dense(Dense([[1.0, -1]], [0, 0], "step"), -1.0, 1.0)
    got = _core.Network([layer]).forward(np.float32([[np.nan], [0.5]]))
    assert np.isnan(got[0]).all()
    assert got[1].tolist() == [1, 0]


@needs_i8
def test_threads_and_batches_change_nothing():
    network = model(64, 200, 10, scale=1 / 255)
    x = pixel_rows(generator(15), 3000, 64)
    int8 = network.quantize(x[:500])
    want = int8.decision_function(x, threads=1)
    assert_same_bits(int8.decision_function(x, threads=3), want)
    for start, stop in [(0, 1), (1, 18), (100, 1100), (2999, 3000)]:
        assert_same_bits(int8.decision_function(x[start:stop]), want[start:stop])
    assert_same_bits(int8.decision_function(np.asfortranarray(x)), want)


@needs_i8
def test_zeros_that_are_kept_change_nothing(monkeypatch):
    rng = generator(16)
    network = model(50, 60, 10, hidden="relu")
    for x in (pixel_rows(rng, 40, 50), mixed_rows(rng, 5, 50)[:3]):
        int8 = network.quantize(x)
        monkeypatch.setenv("FASTNN_SKIP", "0")
        keeps = network.quantize(x)
        monkeypatch.delenv("FASTNN_SKIP")
        assert_same_bits(int8.forward(x), keeps.forward(x))
        assert keeps._work(x)["executed"] >= int8._work(x)["executed"]


# ---- the listings and the command line -----------------------------------------------------------


def test_a_format_that_is_not_there():
    with pytest.raises(ValueError, match="there is no kernel of 'f8' here, only of .*f32"):
        _core.Network([Dense([[1.0]], [0])], format="f8")
    with pytest.raises(ValueError, match="there is no kernel of 'f8'"):
        _core.peak_gflops(format="f8")


@needs_i8
def test_peaks_of_each_format():
    for number_format in sorted({kernel["format"] for kernel in _core.kernels()}):
        assert _core.peak_gflops(None, 0.001, number_format) > 0


@pytest.fixture
def run(capsys):
    def run(*tokens):
        status = main([str(token) for token in tokens])
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return run


@needs_i8
def test_quantize_a_file(run, tmp_path):
    network = model(6, 8, 3, scale=0.1)
    network.save(tmp_path / "a.safetensors")
    rng = generator(17)
    np.save(tmp_path / "rows.npy", pixel_rows(rng, 90, 6))
    np.save(tmp_path / "others.npy", pixel_rows(rng, 40, 6))
    command = ["quantize", tmp_path / "a.safetensors", "-o", tmp_path / "b.npz", "--calibration",
               tmp_path / "rows.npy"]  # fmt: skip
    status, out, err = run(*command)
    assert (status, err) == (0, "")
    assert "int8, calibrated on uint8 rows: 90 rows of" in out
    assert "those it was calibrated on, so flattering" in out
    assert "of 90 labels differ" in out
    found = fastnn.load(tmp_path / "b.npz")
    assert found.calibration == calibrate(network, np.load(tmp_path / "rows.npy"))
    status, out, _ = run(
        *command, "--rows", 10, "--evaluate", tmp_path / "others.npy", "--json", "--isa", "scalar"
    )
    report = json.loads(out)
    assert status == 0
    assert report["n_rows"] == 40
    assert report["calibration"]["input"] == "uint8"
    assert report["calibrated_on"].startswith("10 rows of")
    assert sum(entry["n_flips"] for entry in report["classes"]) == report["n_flips"]
    assert 0 < report["max_abs_dz"] < report["max_abs_z"]
    assert report["file_bytes"] == (tmp_path / "b.npz").stat().st_size
    assert report["packed_bytes"] > 0
    other = np.load(tmp_path / "others.npy")
    int8 = fastnn.load(tmp_path / "b.npz")
    assert int8.calibration == calibrate(network, np.load(tmp_path / "rows.npy")[:10])
    largest = np.abs(int8.decision_function(other) - network.decision_function(other)).max()
    assert report["max_abs_dz"] == pytest.approx(largest, rel=1e-5)


@needs_i8
def test_quantize_digits(run, tmp_path, mnist_path, monkeypatch):
    monkeypatch.setenv("FASTNN_MNIST", str(mnist_path))
    out_file = tmp_path / "a.safetensors"
    status, out, err = run("quantize", "mnist-small", "-o", out_file, "--json")
    assert (status, err) == (0, "")
    report = json.loads(out)
    assert report["data"] == "MNIST test set, 10,000 digits"
    assert report["calibrated_on"] == "2,000 of MNIST's training images"
    assert report["accuracy"] >= report["accuracy_float32"] - 0.0005
    assert [entry["class"] for entry in report["classes"]] == list(range(10))
    assert sum(entry["n_right"] for entry in report["classes"]) == 10_000 * report["accuracy"]
    images = mnist.without_sample(*mnist.load("train"))[0][:2000]
    assert fastnn.load(out_file).calibration == calibrate(fastnn.load("mnist-small"), images)
    status, out, err = run("quantize", "mnist-small", "-o", out_file)
    assert status == 0
    assert "accuracy " in out
    assert "right in float32" in out


@needs_i8
def test_quantize_a_regression(run, tmp_path):
    Model([Dense([[0.5], [-1.5]], [0.25])]).save(tmp_path / "a.npz")
    np.save(tmp_path / "rows.npy", generator(18).standard_normal((50, 2)))
    command = ["quantize", tmp_path / "a.npz", "-o", tmp_path / "b.npz", "--calibration",
               tmp_path / "rows.npy"]  # fmt: skip
    status, out, _ = run(*command)
    assert status == 0
    assert "largest dz" in out
    assert "flips" not in out
    assert "classes" not in json.loads(run(*command, "--json")[1])


@needs_i8
def test_quantize_refuses(run, tmp_path):
    (tmp_path / "broken.npy").write_bytes(b"\x93NUMPY and no more")
    np.save(tmp_path / "bad.npy", np.full((3, 784), np.nan))
    np.save(tmp_path / "none.npy", np.zeros((0, 784), np.uint8))
    np.save(tmp_path / "rows.npy", np.zeros((2, 784), np.uint8))
    for name, message in [("broken", "npy: expected an array"), ("bad", r"rows[0] has NaN"),
                          ("none", "rows is empty")]:  # fmt: skip
        status, out, err = run("quantize", "mnist-small", "-o", tmp_path / "a.npz",
                               "--calibration", tmp_path / f"{name}.npy")  # fmt: skip
        assert (status, out) == (1, "")
        assert message in err
    status, _, err = run("quantize", "mnist-small", "-o", tmp_path / "a.npz", "--calibration",
                         tmp_path / "rows.npy", "--evaluate", tmp_path / "none.npy")  # fmt: skip
    assert status == 1
    assert "no rows to judge by" in err
    assert not (tmp_path / "a.npz").exists()


@needs_i8
def test_summary_in_another_precision(run):
    status, out, _ = run("summary", "mnist-small", "--precision", "int8")
    assert status == 0
    assert "precision int8, calibrated on uint8 rows" in out
    assert " i8 " in out
    described = json.loads(run("summary", "mnist-small", "--precision", "int8", "--json")[1])
    assert described["precision"] == "int8"
    assert described["calibration"]["ranges"][0] == [0, 255]
    assert described["pixel_kernel"]["format"] == "i8"
    plain = json.loads(run("summary", "xor", "--json")[1])
    assert (plain["precision"], plain["calibration"]) == ("float32", None)
