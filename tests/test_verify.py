"""verify: the bound holds, and what is wrong is found.

Invariant: the exact z is that of fastnn.reference in float64; seeds are fixed, so what is usual can
be asserted too.
"""

import dataclasses

import numpy as np
import pytest
from oracle import AVAILABLE, available, dense, generator, pixel_rows

import fastnn
from fastnn import Dense, Model, reference, verify

PARAMETERS = {"clip": {"lo": -0.7, "hi": 1.3}, "leaky_relu": {"alpha": 0.1}, "elu": {"alpha": 1.5}}
HIDDEN = [name for name, about in fastnn.activations().items() if not about["last_layer_only"]]


def network(rng, name, widths=(40, 30, 20, 5), **settings):
    layers = [
        dense(rng, k, n, name if i + 2 < len(widths) else "softmax",
              **(PARAMETERS.get(name, {}) if i + 2 < len(widths) else {}))
        for i, (k, n) in enumerate(zip(widths, widths[1:], strict=False))
    ]  # fmt: skip
    return Model(layers, **settings)


def rows_of(rng, model, n=60):
    x = rng.standard_normal((n, model.n_inputs)).astype(np.float32)
    x[rng.random(x.shape) < 0.3] = 0
    return x, pixel_rows(rng, n, model.n_inputs)


def exact_z(model, x):
    x = x.astype(np.float64)
    return reference.trace(model.layers, x)[-1][0]


def in_units(model, x):
    return (x * model.scale - model.mean) / model.std if x.dtype == np.uint8 else x


# --- the bound ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", HIDDEN)
@pytest.mark.parametrize("precision", ["float32", "int8", "bfloat16"])
def test_the_bound_holds(name, precision):
    rng = generator(HIDDEN.index(name))
    model = network(rng, name, scale=1 / 255, mean=0.3, std=0.5)
    if name == "exp":  # of an exp, and so of what int8 can hold
        model = network(rng, name, (40, 30, 5), scale=1 / 255, mean=0.3, std=0.5)
    models = [model.astype("bfloat16")] if precision == "bfloat16" else [model]
    if precision == "int8":
        models = [model.quantize(x) for x in rows_of(rng, model)]  # of floats, of pixels
    isas = available("bf16") if precision == "bfloat16" else AVAILABLE[-1:]
    for one in models:
        for isa in isas:
            own = one._with(isa=isa)
            for x in rows_of(rng, model):
                z, most, usual = verify.bound(own, x)
                np.testing.assert_allclose(z, exact_z(model, in_units(model, x)), rtol=1e-11,
                                           atol=1e-11)  # fmt: skip
                error = np.abs(own.decision_function(x) - z)
                assert (error <= most).all()
                assert (usual <= most).all()
                is_calibrated = one.calibration is None or one.calibration.input == x.dtype
                if name != "step" and is_calibrated:  # jumps and saturation are not rounding
                    assert (error <= usual).all()
                assert error.max() > 0


def test_it_holds_where_roundings_all_go_one_way():
    """A thousand equal terms: the partial sums are rounded in one direction for a long time."""
    n = 4096
    model = Model([Dense(np.full((n, 1), 0.1), [0.0])], task="regress")
    x = np.ones((1, n), np.float32)
    z, most, usual = verify.bound(model, x)
    error = np.abs(model.decision_function(x) - z[:, 0])
    assert error <= most
    assert error > 0.1 * usual  # 1 % of it where signs are random
    x[0] = generator(0).standard_normal(n)
    z, _, usual = verify.bound(model, x)
    assert np.abs(model.decision_function(x) - z[:, 0]) < 0.03 * usual


def test_it_is_not_generous():
    """Of one product and one sum, 3 roundings are allowed, of weights too, and one was done."""
    model = Model([Dense([[1 / 3]], [1.0])])
    _, most, _ = verify.bound(model, np.float32([[1.0]]))
    assert most[0, 0] == pytest.approx(3 * 2**-24 * 4 / 3, rel=1e-6)


def test_inputs_out_of_the_calibrated_range():
    rng = generator(3)
    model = network(rng, "relu")
    x, _ = rows_of(rng, model)
    quantized = model.quantize(x)
    far = 50 * x
    z, most, _ = verify.bound(quantized, far)
    error = np.abs(quantized.decision_function(far) - z)
    assert (error <= most).all()
    assert error.max() > 10 * np.abs(quantized.decision_function(x) - exact_z(model, x)).max()


def test_rows_that_overflow_are_not_judged():
    model = Model([Dense([[1.0, 1.0]], [0.0, 0.0], "exp"), Dense(np.eye(2) * 1e-30, [0, 0])])
    x = np.float32([[80.0], [100.0], [np.nan], [np.inf]])  # e^100 is beyond float32
    found = verify.compare(model, "numpy", x, "some")
    assert (found.n_rows, found.n_skipped, found.agrees) == (4, 3, True)
    found = verify.compare(model, "numpy", x[1:], "some")
    assert (found.n_skipped, found.agrees) == (3, False)  # nothing was compared


# --- what is wrong is found -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def digits():
    """784-128-10 with GELU, of weights as they are in trained networks."""
    rng = generator(9)
    small = fastnn.load("mnist-small")
    hidden, last = small.layers
    layers = [Dense(hidden.weight, hidden.bias, "gelu"), last]
    return Model(layers, scale=small.scale, mean=small.mean, std=small.std), rng


def changed(model, i, **changes):
    layers = list(model.layers)
    old = layers[i]
    parts = {"weight": old.weight, "bias": old.bias, "activation": old.activation, **changes}
    layers[i] = Dense(**parts)
    return Model(layers, scale=model.scale, mean=model.mean, std=model.std)


def test_the_same_weights(digits):
    model, _ = digits
    for what, rows in verify.rows_for(model):
        found = verify.compare(model, Model(model.layers, scale=model.scale, mean=model.mean,
                                            std=model.std, isa="scalar"), rows, what)  # fmt: skip
        assert (found.max_abs, found.of_bound, found.n_flips) == (0, 0, 0)
        assert found.is_usual


def test_one_gelu_for_the_other_is_unusual(digits):
    model, _ = digits
    other = changed(model, 0, activation="gelu_tanh")
    found = {what: verify.compare(model, other, x, what) for what, x in verify.rows_for(model)}
    assert all(one.agrees for one in found.values())  # the bound has room for it
    assert found["MNIST sample"].of_usual > 3
    assert found["random uint8"].of_usual > 2


def test_a_wrong_bias_differs(digits):
    model, _ = digits
    other = changed(model, 1, bias=model.layers[1].bias + np.float32(1) * (np.arange(10) == 3))
    for what, rows in verify.rows_for(model):
        found = verify.compare(model, other, rows, what)
        assert not found.agrees
        assert found.max_abs == pytest.approx(1, rel=1e-3)
        assert found.n_flips > 0


def test_other_units_differ(digits):
    model, _ = digits
    other = Model(model.layers, scale=model.scale, mean=model.mean, std=np.float32(model.std) * 1.5)
    found = {what: verify.compare(model, other, x, what) for what, x in verify.rows_for(model)}
    assert found["random float32"].is_usual
    assert not found["MNIST sample"].agrees
    assert not found["random uint8"].agrees


def test_labels_that_are_swapped_differ():
    """The numbers agree, but not what they are called."""
    model = Model([Dense([[1.0, -1.0]], [0.0, 0.0])])
    x = np.linspace(-1, 1, 11, dtype=np.float32)[:, None]
    swapped = Model(model.layers, classes=[1, 0])
    assert verify.differences(model, swapped) == ["classes"]

    class Liar(Model):
        def predict(self, x, **_):
            return 1 - super().predict(x)

    found = verify.compare(model, Liar(model.layers), x, "some")
    assert (found.n_flips, found.n_wrong, found.max_abs) == (11, 10, 0)  # 0, 0 may be either
    assert not found.agrees


def test_a_label_is_open_where_rounding_decides():
    """0.1 + 0.2 is not 0.3."""
    model = Model([Dense([[0.1, 0.3], [0.2, 0.0]], [0.0, 0.0])])
    x = np.float32([[1, 1], [2, 1]])
    _, most, _ = verify.bound(model, x)
    z = exact_z(model, x)
    assert verify._is_clear(model, z, most).tolist() == [False, True]
    one = Model([Dense([[0.3], [-0.1]], [-0.2])], task="classify")
    x = np.float32([[1, 1], [2, 1]])
    assert verify._is_clear(one, exact_z(one, x), verify.bound(one, x).most).tolist() == [
        False, True
    ]  # fmt: skip


@pytest.mark.parametrize("last", ["relu", "step", "gelu", "clip"])
def test_labels_of_activations(last):
    """Where labels are not those of z: two outputs that are both 0 have the first label."""
    rng = generator(4)
    values = PARAMETERS.get(last, {})
    model = Model([dense(rng, 6, 8, "tanh"), dense(rng, 8, 4, last, **values)])
    x = rng.standard_normal((300, 6)).astype(np.float32)
    found = verify.compare(model, "numpy", x, "some")
    assert found.agrees
    assert found.n_flips == 0
    below = Model([model.layers[0], dense(rng, 8, 4, last, **values)])
    assert verify.compare(model, below, x, "some").n_flips > 10


def test_shapes_that_differ(digits):
    model, rng = digits
    x = np.zeros((1, 784), np.float32)
    with pytest.raises(ValueError, match="the other model has 40 inputs, this one 784"):
        verify.compare(model, network(rng, "relu"), x, "zeros")
    with pytest.raises(ValueError, match="the other model has 5 outputs, this one 10"):
        verify.compare(model, network(rng, "relu", (784, 3, 5)), x, "zeros")


def test_differences():
    one = Model([Dense(np.eye(2), [0, 0], "softmax")], classes=["a", "b"])
    two = Model([Dense(np.eye(2), [0, 0], "leaky_relu", alpha=0.5)], task="regress")
    assert verify.differences(one, two) == [
        "task: classify and regress",
        "classes",
        "the last activation: softmax and leaky_relu(alpha=0.5)",
    ]
    assert verify.differences(one, one) == []


def test_differences_of_units():
    layer, mean = Dense(np.eye(2), [0, 0], "softmax"), np.array([0.25, 0.5])
    one, two = Model([layer]), Model([layer], scale=1 / 255, mean=mean)
    (line,) = verify.differences(one, two)
    assert line.startswith("what a uint8 p is: p and ")
    same = [
        (one, Model([layer], scale=1.0)),
        (two, Model([layer], scale=np.float32(1 / 255), mean=mean.copy())),
        (two, Model([layer], scale=[1 / 255] * 2, mean=mean)),
        (two, Model([layer], mean=255 * mean, std=255)),
    ]
    for a, b in same:
        assert verify.differences(a, b) == []
    assert verify.differences(two, Model([layer], scale=1.00001 / 255, mean=mean))
    assert verify.differences(two, Model([layer], scale=1 / 255, mean=mean + np.array([0, 1e-4])))


def test_names_of_classes_count_not_their_order_of_sorting():
    """Labels are compared by index."""
    rng = generator(5)
    layers = [dense(rng, 6, 4)]
    model = Model(layers, classes=["d", "a", "c", "b"])
    x = rng.standard_normal((200, 6)).astype(np.float32)
    assert verify.compare(model, Model(layers), x, "some").n_flips == 0


# --- frameworks -----------------------------------------------------------------------------------


@pytest.mark.parametrize("framework", verify.FRAMEWORKS)
@pytest.mark.parametrize("name", ["relu", "tanh", "sigmoid", "identity"])
def test_frameworks_agree(framework, name):
    if framework != "numpy":
        pytest.importorskip(framework, reason=f"{framework} is not installed (fastnn[bench])")
    rng = generator(6)
    model = network(rng, name, scale=1 / 255, mean=0.3, std=0.5)
    for rows in rows_of(rng, model, 700):  # more than a batch, and not a multiple
        found = verify.compare(model, framework, rows, "some")
        assert found.is_usual
        assert found.n_rows == 700
        assert found.n_wrong == 0
        assert 0 < found.max_abs < 1e-4


def test_a_framework_runs_the_float32_weights():
    pytest.importorskip("sklearn", reason="scikit-learn is not installed (fastnn[bench])")
    rng = generator(7)
    model = network(rng, "relu")
    x, _ = rows_of(rng, model)
    quantized = model.quantize(x)
    found = verify.compare(quantized, "sklearn", x, "some")
    assert found.agrees
    assert found.max_abs > 1e-3  # what int8 loses


def test_frameworks_that_cannot(monkeypatch):
    rng = generator(8)
    model = network(rng, "step")
    x, _ = rows_of(rng, model)
    with pytest.raises(ValueError, match="'tensorflow' is no framework, wanted one of numpy, "):
        verify.compare(model, "tensorflow", x, "some")
    pytest.importorskip("sklearn", reason="scikit-learn is not installed (fastnn[bench])")
    with pytest.raises(ValueError, match="scikit-learn: does not take part: step is not known"):
        verify.compare(model, "sklearn", x, "some")
    monkeypatch.setattr("fastnn.bench.rivals.missing", lambda _: "not installed (pip install it)")
    with pytest.raises(ImportError, match=r"scikit-learn: not installed \(pip install it\)"):
        verify.compare(model, "sklearn", x, "some")


def test_rows_for():
    small = fastnn.load("mnist-small")
    names = [what for what, _ in verify.rows_for(small)]
    assert names == ["random float32", "random uint8", "MNIST sample"]
    for _, rows in verify.rows_for(small):
        assert rows.shape == (1000, 784)
        assert rows.dtype in (np.float32, np.uint8)
        assert 0.1 < np.mean(rows == 0) < 0.9
    (only,) = verify.rows_for(fastnn.load("xor"))
    again = verify.rows_for(fastnn.load("xor"))[0]
    assert only[0] == "random float32"
    assert np.array_equal(only[1], again[1])


def test_certified_models():
    rng = generator(10)
    model = network(rng, "relu", (40, 30, 5), scale=1 / 255)
    pixels = pixel_rows(rng, 500, 40)
    found = verify.compare(model.certify(pixels), model, pixels, "some")
    assert dataclasses.astuple(found)[3:] == (0, 0, 0, 0, 0, 0)
