"""The bound of certified labels: it holds, its norms are upper bounds, C computes the same.

Invariant: int8 passes are emulated here in NumPy from the definition, float32 ones are the engine's
own bits; rows are digits, noise, and rows driven to where two labels meet.
"""

import ctypes
import platform
import shutil
import subprocess
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from oracle import AVAILABLE, dense, fused_multiply_add, generator

import fastnn
from fastnn import Dense, _core, certify, mnist, reference
from fastnn.certify import Certificate, Rows, Taps, norm_bound, shaped_weights

ROOT = Path(__file__).resolve().parent.parent
F32 = np.float32


def isa_flags():
    """The compiler's flags for each ISA: the table in setup.py, which as a whole wants Cython."""
    source, names = (ROOT / "setup.py").read_text(), {}
    start = source.index("ANY, X86, ARM =")
    exec(source[start : source.index("\n}\n", start) + 2], names)
    return {isa: flags for isa, (_, flags) in names["ISAS"].items()}


PIXEL_TAPS = Taps((1, 28, 29, 27), (3, 2, -2, 1))


# ---- int8 in NumPy -------------------------------------------------------------------------------


def folded(model):
    """The float32 layers as uint8 rows meet them."""
    pixel = fastnn.model._fold(model.layers[0], model.scale, model.mean, model.std)
    return (pixel or model.layers[0], *model.layers[1:])


def activated(layer, z):
    """The engine's own activation of float32 z."""
    n = z.shape[1]
    line = Dense(np.eye(n), np.zeros(n), layer.activation, **layer.parameters)
    if layer.activation == "identity":
        return z
    return fastnn.Model([line], task="classify").trace(z)[0][1] if n > 0 else z


def quantized(layers, x, taps=None, is_pixel=True):
    """int8 records of all layers but the last, calibrated on rows `x`."""
    records = []
    a = np.asarray(x, np.float64)
    for i, layer in enumerate(layers[:-1]):
        is_shaped = i == 0 and is_pixel
        weight_i8, weight_scale = shaped_weights(layer.weight, (is_shaped and taps) or Taps())
        s, zero = 1.0, 0
        if not is_shaped:
            lo, hi = min(a.min(), 0), max(a.max(), 0)
            s = float(F32((hi - lo) / 255)) or 1.0
            zero = int(np.clip(np.rint(-lo / s), 0, 255))
        sums = weight_i8.astype(np.int64).sum(axis=0)
        records.append(
            SimpleNamespace(
                weight_i8=weight_i8,
                scale=(s * weight_scale).astype(F32),
                offset=(layer.bias - s * weight_scale * zero * sums).astype(F32),
                input_scale=s,
                input_zero=float(zero),
            )
        )
        a = reference.forward([layer], a)
    return records


def to_u8(a, record):
    inverse = F32(1 / record.input_scale)
    shape = np.broadcast_to(F32(record.input_zero), a.shape)
    steps = fused_multiply_add(a, np.broadcast_to(inverse, a.shape), shape)
    return np.rint(np.clip(steps, 0, 255)).astype(np.uint8)


def run_int8(layers, records, x, is_pixel=True, by_z=True):
    """`Rows` of an int8 pass whose last layer is the float32 engine's."""
    qs, activations = [], []
    a = None if is_pixel else x
    for layer, record in zip(layers[:-1], records, strict=True):
        q = x if a is None else to_u8(a, record)
        qs.append(q)
        activations.append(a)
        acc = np.rint(q.astype(np.float64) @ record.weight_i8).astype(F32)
        shape = acc.shape
        scale = np.broadcast_to(record.scale, shape)
        z = fused_multiply_add(acc, scale, np.broadcast_to(record.offset, shape)) + F32(0)
        a = activated(layer, z)
    steps = fastnn.Model([layers[-1]], task="classify").trace(a)
    return Rows(qs, activations, z, a, steps[-1][0 if by_z else 1])


def float32_logits(layers, x, by_z=True):
    """The last layer's z (or activation) as the float32 engine has it."""
    return fastnn.Model(layers, task="classify").trace(x)[-1][0 if by_z else 1]


def errors_and_bounds(certificate, rows, want, is_fine=True):
    """Of each pair (best, other): |error of the margin|, exact in float64, and its bound."""
    margin, possible = certificate.bound(rows, is_fine=is_fine)
    logits = rows.logits.astype(np.float64)
    if logits.shape[1] == 1:
        return np.abs(logits - want), possible
    best = logits.argmax(axis=1)
    at = np.arange(len(best))
    exact = want[at, best][:, None].astype(np.float64) - want
    is_other = np.arange(logits.shape[1]) != best[:, None]
    return np.abs(exact - margin)[is_other], possible[is_other]


def labels_of(logits):
    return (logits[:, 0] > 0).astype(int) if logits.shape[1] == 1 else logits.argmax(axis=1)


def check(layers, x, *, taps=None, is_pixel=True, by_z=True, library=None, calibration=None):
    """The bound holds on rows `x`, and labels that are not doubtful are float32's."""
    records = quantized(layers, x if calibration is None else calibration, taps, is_pixel)
    certificate = Certificate(layers, records, taps=taps, is_pixel=is_pixel, by_z=by_z)
    rows = run_int8(layers, records, x, is_pixel, by_z)
    want = float32_logits(layers, x, by_z)
    for is_fine in (False, True):
        error, bound = errors_and_bounds(certificate, rows, want, is_fine)
        assert (error <= bound).all(), (error / bound).max()
        is_sure = ~certificate.flagged(rows, is_fine=is_fine)
        assert (labels_of(rows.logits) == labels_of(want))[is_sure].all()
    if library is not None:
        compare_with_c(library, certificate, rows)
    return certificate, rows, (error / bound).max()


# ---- the bound holds -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small():
    return fastnn.load("mnist-small")


@pytest.fixture(scope="module")
def sample():
    return mnist.sample()[0].reshape(-1, 784)


@pytest.mark.parametrize("taps", [Taps(), PIXEL_TAPS], ids=["plain", "taps"])
def test_digits(small, sample, taps, library):
    layers = folded(small)
    _, _, ratio = check(layers, sample, taps=taps, library=library)
    assert ratio > 0.02  # else the bound is far larger than it was


HIDDEN = [name for name in certify.ACTIVATIONS if name != "clip"]


@pytest.mark.parametrize("activation", [*HIDDEN, "clip"])
def test_every_activation(activation, library):
    rng = generator(7, len(activation))
    parameters = {"lo": -0.5, "hi": 1.5} if activation == "clip" else {}
    layers = [
        dense(rng, 60, 70, activation, **parameters),
        dense(rng, 70, 66, activation, **parameters),
        dense(rng, 66, 5),
    ]
    x = rng.standard_normal((200, 60)).astype(F32)
    check(layers, x, is_pixel=False, library=library)
    first = layers[0]
    pixels = rng.integers(0, 256, (200, 60), np.uint8)
    as_pixels = Dense(first.weight / F32(255), first.bias, activation, **parameters)
    check([as_pixels, *layers[1:]], pixels, taps=Taps((1, 2), (3, -1)), library=library)


@pytest.mark.parametrize(
    ("last", "by_z"), [("relu", False), ("gelu", False), ("hardswish", False), ("sigmoid", True)]
)
def test_labels_of_activations(last, by_z, library):
    rng = generator(8, len(last))
    layers = [dense(rng, 40, 30, "relu"), dense(rng, 30, 6, last)]
    x = rng.standard_normal((300, 40)).astype(F32)
    check(layers, x, is_pixel=False, by_z=by_z, library=library)


def test_one_output(library):
    rng = generator(9)
    layers = [dense(rng, 40, 30, "tanh"), dense(rng, 30, 1, "sigmoid")]
    x = rng.standard_normal((300, 40)).astype(F32)
    certificate, rows, _ = check(layers, x, is_pixel=False, library=library)
    assert 0 < certificate.flagged(rows).mean() < 1


def test_deep_and_saturated(library):
    """Ranges calibrated on rows a third as large: much is cut off at 255, and below zero."""
    rng = generator(10)
    layers = [dense(rng, 80, 90, "leaky_relu"), dense(rng, 90, 80, "relu"), dense(rng, 80, 70)]
    layers = [*layers, dense(rng, 70, 4)]
    x = rng.standard_normal((300, 80)).astype(F32)
    _, rows, _ = check(layers, x, is_pixel=False, library=library, calibration=x / 3)
    assert any((q == 255).mean() > 0.01 for q in rows.q)


def test_first_layer_in_float32(library):
    """Rows of floats on a model quantized on uint8: only later layers are int8."""
    rng = generator(11)
    layers = [dense(rng, 30, 80, "relu"), dense(rng, 80, 64, "relu"), dense(rng, 64, 5)]
    x = rng.standard_normal((200, 30)).astype(F32)
    a = fastnn.Model(layers, task="classify").trace(x)[0][1]
    records = quantized(layers[1:], a, is_pixel=False)
    certificate = Certificate(layers, [None, *records], is_pixel=False)
    rows = run_int8(layers[1:], records, a, is_pixel=False)
    error, bound = errors_and_bounds(certificate, rows, float32_logits(layers, x))
    assert (error <= bound).all()
    compare_with_c(library, certificate, rows)


@pytest.mark.parametrize("size", [2.0**-60, 2.0**-30, 1.0, 2.0**30])
def test_sizes(size, library):
    """Weights far from 1, in products that stay within float32."""
    rng = generator(12)
    first, last = dense(rng, 50, 64, "relu"), dense(rng, 64, 5)
    layers = [
        Dense(first.weight * F32(size), first.bias * F32(size), "relu"),
        Dense(last.weight / F32(size), last.bias),
    ]
    x = rng.integers(0, 256, (100, 50), np.uint8)
    _, _, ratio = check(layers, x, library=library)
    assert ratio > 1e-3


def test_weights_that_somebody_else_rounded():
    """Any int8 weights and offsets will do: the bound grows, and holds."""
    rng = generator(13)
    layers = [dense(rng, 50, 40, "relu"), dense(rng, 40, 5)]
    x = rng.integers(0, 256, (100, 50), np.uint8)
    (record,) = quantized(layers, x)
    record.weight_i8 = rng.integers(-127, 128, record.weight_i8.shape).astype(np.int8)
    record.offset = record.offset + F32(3)
    certificate = Certificate(layers, [record], taps=Taps((1,), (3,)))
    rows = run_int8(layers, [record], x)
    error, bound = errors_and_bounds(certificate, rows, float32_logits(layers, x))
    assert (error <= bound).all()


@pytest.mark.parametrize("activation", HIDDEN)
def test_the_crude_level_is_above_the_others(activation):
    """What C asks first: (margin - fixed)^2 > square * sum of pixels."""
    rng = generator(23)
    layers = [dense(rng, 50, 40, activation), dense(rng, 40, 5)]
    layers[0] = Dense(layers[0].weight / F32(255), layers[0].bias, activation)
    x = rng.integers(0, 256, (100, 50), np.uint8) * (rng.random((100, 50)) < 0.4).astype(np.uint8)
    x[0], x[1] = 255, 0
    taps = Taps((1,), (3,))
    records = quantized(layers, x, taps)
    certificate = Certificate(layers, records, taps=taps)
    _, possible = certificate.bound(run_int8(layers, records, x), is_fine=False)
    sums = x.astype(np.int64).sum(axis=1)
    crude = certificate.crude_fixed + np.sqrt(certificate.crude_square * sums)
    assert (crude >= possible.max(axis=1)).all()
    assert (crude <= 100 * possible.max(axis=1)).all()


def test_nan_and_overflow_are_doubtful(library):
    rng = generator(14)
    layers = [dense(rng, 20, 16, "relu"), dense(rng, 16, 64, "relu"), dense(rng, 64, 4)]
    x = rng.standard_normal((8, 20)).astype(F32)
    records = quantized(layers, x, is_pixel=False)
    certificate = Certificate(layers, records, is_pixel=False)
    rows = run_int8(layers, records, x, is_pixel=False)
    rows.a[0][0, 3] = np.nan
    rows.a[0][1, 3] = np.inf
    rows.a[1][2, 3] = np.nan
    rows.logits[3, 1] = np.nan
    rows.hidden[4, 1] = np.inf
    with np.errstate(all="ignore"):
        assert certificate.flagged(rows)[:5].all()
    assert compare_with_c(library, certificate, rows)[0][:5].all()


def descend(model, records, layers, certificate, images):
    """Rows bisected between images of different labels, then pushed by steps of one pixel until the
    float32 margin is below 1e-4 or no step helps."""
    logits = model.decision_function(images).astype(np.float64)
    labels = logits.argmax(axis=1)
    rng = generator(15)
    weights = [layer.weight.astype(np.float64) for layer in layers]
    found = []
    for _ in range(40):
        i, j = rng.integers(len(images), size=2)
        if labels[i] == labels[j]:
            continue
        a, b = images[i].astype(np.float64), images[j].astype(np.float64)
        low, high = 0.0, 1.0
        for _ in range(12):
            middle = (low + high) / 2
            row = np.rint(a + middle * (b - a)).astype(np.uint8)
            if model.decision_function(row[None]).argmax() == labels[i]:
                low = middle
            else:
                high = middle
        row = np.rint(a + low * (b - a)).astype(np.uint8)
        for _ in range(60):
            z = model.decision_function(row[None])[0].astype(np.float64)
            first, second = np.argsort(-z)[:2]
            margin = z[first] - z[second]
            if margin < 1e-4:
                break
            active = row @ weights[0] + layers[0].bias > 0
            slope = weights[0] @ (active * (weights[1][:, first] - weights[1][:, second]))
            change = np.concatenate([slope, -slope])  # of one step up, one down
            change[:784][row == 255] = np.inf
            change[784:][row == 0] = np.inf
            near = np.argsort(np.abs(margin + change))[:64]
            steps = np.repeat(row[None].astype(np.int64), len(near), axis=0)
            steps[np.arange(len(near)), near % 784] += np.where(near < 784, 1, -1)
            tries = np.sort(model.decision_function(steps.astype(np.uint8)), axis=1)
            margins = tries[:, -1].astype(np.float64) - tries[:, -2]
            if margins.min() >= margin:
                break
            row = steps[margins.argmin()].astype(np.uint8)
        found.append(row)
    return np.array(found)


def test_rows_where_labels_meet(small, sample, library):
    layers = folded(small)
    records = quantized(layers, sample, PIXEL_TAPS)
    certificate = Certificate(layers, records, taps=PIXEL_TAPS)
    x = descend(small, records, layers, certificate, sample)
    want = small.decision_function(x)
    margins = np.sort(want, axis=1)
    assert (margins[:, -1] - margins[:, -2] < 1e-4).sum() >= len(x) // 2
    rows = run_int8(layers, records, x)
    error, bound = errors_and_bounds(certificate, rows, want)
    assert (error <= bound).all()
    is_flagged = certificate.flagged(rows)
    assert is_flagged[margins[:, -1] - margins[:, -2] < 1e-4].all()
    assert (rows.logits.argmax(axis=1) == want.argmax(axis=1))[~is_flagged].all()
    compare_with_c(library, certificate, rows)


@pytest.mark.parametrize("steps", [200])
def test_rows_that_drive_the_error(small, sample, steps):
    """Pixels chosen to make the error of one margin as large as can be, for the same signs."""
    layers = folded(small)
    records = quantized(layers, sample, PIXEL_TAPS)
    certificate = Certificate(layers, records, taps=PIXEL_TAPS)
    lost = layers[0].weight - records[0].weight_i8 * records[0].scale.astype(np.float64)
    x = []
    for row in sample[:20].copy():
        for _ in range(steps // 50):
            z = row @ layers[0].weight.astype(np.float64) + layers[0].bias
            d = layers[1].weight[:, 0].astype(np.float64) - layers[1].weight[:, 1]
            direction = lost @ ((z > 0) * d)
            row = np.where(direction > 0, 255, 0).astype(np.uint8)
        x.append(row)
    x = np.array(x)
    rows = run_int8(layers, records, x)
    error, bound = errors_and_bounds(certificate, rows, float32_logits(layers, x))
    assert (error <= bound).all()


def test_all_digits(small, mnist_path, library):
    layers = folded(small)
    train = mnist.load("train", mnist_path)[0].reshape(-1, 784)
    test = mnist.load("test", mnist_path)[0].reshape(-1, 784)
    taps = Taps.fitted(train[:5000])
    records = quantized(layers, train[:5000], taps)
    certificate = Certificate(layers, records, taps=taps)
    for x, most in ((test, 0.018), (train, 0.0125)):
        rows = run_int8(layers, records, x)
        want = small.decision_function(x)
        error, bound = errors_and_bounds(certificate, rows, want)
        assert (error <= bound).all()
        is_flagged, _ = compare_with_c(library, certificate, rows)
        assert (rows.logits.argmax(axis=1) == want.argmax(axis=1))[~is_flagged].all()
        assert is_flagged.mean() < most


# ---- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["step", "exp"])
def test_refuses_what_has_no_lipschitz_constant(name):
    rng = generator(16)
    layers = [dense(rng, 8, 8, name), dense(rng, 8, 3)]
    x = rng.integers(0, 256, (4, 8), np.uint8)
    with pytest.raises(ValueError, match=rf"layers\[0\] has the activation {name}, .* Lipschitz"):
        Certificate(layers, quantized(layers, x))
    ends = [dense(rng, 8, 8), dense(rng, 8, 3, name)]
    with pytest.raises(ValueError, match=rf"layers\[1\] has the activation {name}"):
        Certificate(ends, quantized(ends, x), by_z=False)


def test_refuses_what_does_not_fit():
    rng = generator(17)
    layers = [dense(rng, 8, 8), dense(rng, 8, 3)]
    records = quantized(layers, rng.integers(0, 256, (4, 8), np.uint8))
    with pytest.raises(ValueError, match="2 layers and 0 of int8"):
        Certificate(layers, [])
    with pytest.raises(ValueError, match="an int8 layer is missing"):
        Certificate(layers, [None])
    records[0].input_scale = 0.5
    with pytest.raises(ValueError, match=r"wanted 1 and 0 of pixels"):
        Certificate(layers, records)


@pytest.mark.parametrize("name", list(certify.ACTIVATIONS))
def test_values_at_zero(name):
    parameters = {"lo": -3.0, "hi": -2.0} if name == "clip" else {}
    complete = parameters or {"alpha": 0.5}
    value = abs(float(reference.ACTIVATIONS[name](0.0, **parameters)))
    assert value <= certify.ACTIVATIONS[name](complete).at_zero


def test_every_elementwise_activation_is_known_or_refused():
    names = {name for name, about in _core.activations().items() if not about["last_layer_only"]}
    assert names - set(certify.ACTIVATIONS) == {"step", "exp"}


# ---- constants -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(certify.ACTIVATIONS))
def test_lipschitz_constants(name):
    """Slopes of the reference between neighbours of a fine grid, and at random distances."""
    for parameters in (
        [{"lo": -1.0, "hi": 2.0}]
        if name == "clip"
        else [{}, {"alpha": 3.0}, {"alpha": -2.0}]
        if name in ("leaky_relu", "elu", "hardsigmoid")
        else [{}]
    ):
        complete = {"alpha": 0.01 if name == "leaky_relu" else 1 / 6, **parameters}
        if name == "elu":
            complete = {"alpha": 1.0, **parameters}
        constant = certify.ACTIVATIONS[name](complete).constant
        f = reference.ACTIVATIONS[name]
        x = np.linspace(-12, 12, 480_001)
        y = f(x, **parameters)
        for apart in (1, 7, 500, 100_000):
            slope = np.abs((y[apart:] - y[:-apart]) / (x[apart:] - x[:-apart])).max()
            assert slope <= constant * (1 + 1e-9), parameters
        # None is 1 % too large, but where a table is not worth having.
        step = np.abs(np.diff(y) / np.diff(x)).max()
        assert step >= 0.98 * constant


@pytest.mark.parametrize("name", list(certify.ACTIVATIONS))
def test_where_activations_are_flat(name):
    parameters = {"lo": -1.0, "hi": 2.0} if name == "clip" else {}
    complete = parameters or {"alpha": 0.5}
    below, above = certify.ACTIVATIONS[name](complete)[2:4]
    layer = Dense(np.ones((1, 1)), np.zeros(1), name, **parameters)
    for start, sign in ((below, -1), (above, 1)):
        if np.isfinite(start):
            z = (start + sign * np.geomspace(1e-6, 1e6, 400)).astype(F32)
            assert len(set(activated(layer, z[:, None])[:, 0].tolist())) == 1


def hostile():
    rng = generator(18)
    yield "noise", rng.standard_normal((60, 40))
    yield "wide", rng.standard_normal((5, 90))
    yield "rank one", np.outer(rng.standard_normal(50), rng.standard_normal(30))
    yield "equal singular values", np.linalg.qr(rng.standard_normal((40, 40)))[0]
    yield "graded", rng.standard_normal((40, 40)) * 10.0 ** -np.arange(40.0)
    yield "hilbert", 1 / (np.arange(30)[:, None] + np.arange(30) + 1.0)
    yield "tiny", rng.standard_normal((20, 20)) * 1e-300
    yield "subnormal", rng.standard_normal((9, 9)) * 1e-315
    yield "huge", rng.standard_normal((20, 20)) * 1e300
    yield "mixed", rng.standard_normal((20, 20)) * 10.0 ** rng.uniform(-200, 100, (20, 20))
    yield "zero", np.zeros((4, 5))
    yield "one", np.array([[-3.0]])
    start = np.random.Generator(np.random.PCG64(0)).standard_normal(30)  # what is tried first
    start /= np.linalg.norm(start)
    basis = np.linalg.qr(np.column_stack([start, rng.standard_normal((30, 29))]))[0]
    values = np.ones(30)
    values[7] = 50.0  # in a direction that power iteration does not start in
    yield "hidden direction", basis * values @ basis.T
    yield "many near the largest", rng.standard_normal((400, 390)) * 0.29


@pytest.mark.parametrize(
    ("name", "a"), list(hostile()), ids=lambda v: v if isinstance(v, str) else ""
)
def test_norm_bound(name, a):
    bound = norm_bound(a)
    scale = np.abs(a).max() or 1.0
    true = np.linalg.svd(a / scale, compute_uv=False)[0] * scale
    assert bound >= true * (1 - 1e-14)
    if name not in ("zero", "subnormal"):
        assert bound <= true * 1.02
    if a.shape[0] * a.shape[1] <= 100 and name != "subnormal":  # exact: |a x| for the best x
        x = np.linalg.svd(a / scale)[2][0]
        exact = sum(
            sum((Fraction(v) * Fraction(w) for v, w in zip(row, x, strict=True)), Fraction(0)) ** 2
            for row in a.tolist()
        )
        assert Fraction(bound) ** 2 * sum(Fraction(v) ** 2 for v in x) >= exact


def test_norm_bound_is_infinite_for_what_is_not_finite():
    assert norm_bound([[1.0, np.inf]]) == np.inf
    assert norm_bound([[1.0, np.nan]]) == np.inf


def test_a_planted_underestimate_is_not_believed(monkeypatch):
    monkeypatch.setattr(certify, "_largest_eigenvalue", lambda gram: np.trace(gram) * 1e-3)
    a = generator(19).standard_normal((50, 40))
    assert norm_bound(a) >= np.linalg.svd(a, compute_uv=False)[0]


def test_nonnegative_norm():
    a = np.abs(generator(20).standard_normal((30, 20)))
    true = np.linalg.svd(a, compute_uv=False)[0]
    assert true <= certify._nonnegative_norm(a) <= 1.001 * true
    assert certify._nonnegative_norm(np.zeros((3, 2))) == 0


# ---- taps ----------------------------------------------------------------------------------------


def test_taps():
    taps = Taps((1, 3), (2, -1))
    x = np.array([[5, 7, 0, 2, 9]])
    assert taps.residual(x).tolist() == [[20, 18, -14, 13, 39]]
    assert Taps((9,), (1,)).residual(x).tolist() == (4 * x).tolist()
    with pytest.raises(ValueError, match="2 lags and 1 taps"):
        Taps((1, 2), (1,))
    with pytest.raises(ValueError, match="at most 64"):
        Taps((1,), (65,))


def test_taps_beyond_the_row_are_left_out():
    rng = generator(24)
    layers = [dense(rng, 6, 5), dense(rng, 5, 3)]
    records = quantized(layers, rng.integers(0, 256, (9, 6), np.uint8))
    certificate = Certificate(layers, records, taps=Taps((5, 6, 2**40), (1, 2, 3)))
    assert certificate.stages[0].taps == Taps((5,), (1,))


def test_fitted_taps_shorten_digits(sample):
    taps = Taps.fitted(sample[:500])
    assert {1, 28} <= set(taps.lags)
    p = taps.residual(sample[500:].astype(np.int64)) / 4.0
    assert np.linalg.norm(p) < 0.42 * np.linalg.norm(sample[500:].astype(float))
    assert Taps.fitted(np.zeros((3, 20), np.uint8)) == Taps()
    noise = generator(21).integers(0, 2, (400, 50), np.uint8)
    assert len(Taps.fitted(noise - noise.min()).lags) <= 4


def test_shaped_weights_have_white_errors_in_p(small):
    layer = folded(small)[0]
    weight_i8, scale = shaped_weights(layer.weight, PIXEL_TAPS)
    assert np.abs(weight_i8).max() <= 127
    lost = layer.weight / scale - weight_i8
    white = certify._whitened(lost, PIXEL_TAPS)
    assert np.abs(white).max() <= 0.5 + 1e-9
    plain, plain_scale = shaped_weights(layer.weight, Taps())
    assert (plain == np.rint(layer.weight / plain_scale)).all()


def test_taps_that_reach_no_input_cost_nothing():
    """A file may say anything: a lag of 2^32 would take 160 GB."""
    weight = np.random.default_rng(1).normal(size=(3, 5)).astype(F32)
    for far in (3, 2**32, 2**70):
        found = shaped_weights(weight, Taps((1, far), (2, 9)))
        for ours, wanted in zip(found, shaped_weights(weight, Taps((1,), (2,))), strict=True):
            np.testing.assert_array_equal(ours, wanted)


# ---- C -------------------------------------------------------------------------------------------

DOUBLE, INT64, INT32, POINTER = ctypes.c_double, ctypes.c_int64, ctypes.c_int32, ctypes.c_void_p


class CStage(ctypes.Structure):
    _fields_ = [
        *((name, INT64) for name in ("n_inputs", "n_outputs")),
        ("input_scale", DOUBLE),
        *((name, INT32) for name in ("input_zero", "n_taps")),
        *((name, INT32 * certify.MAX_TAPS) for name in ("lag", "tap")),
        *((n, DOUBLE) for n in ("error", "residual", "noise", "defect", "fixed")),
        *((n, DOUBLE) for n in ("per_q", "per_x")),
        ("directions", POINTER),
        *((n, DOUBLE) for n in ("direction_scale", "tail", "slop", "per_z", "per_a", "fixed_a")),
        ("largest_unit", DOUBLE),
        ("each", POINTER),
        *((n, DOUBLE) for n in ("each_defect", "flat_below", "flat_above")),
    ]


class CCertificate(ctypes.Structure):
    _fields_ = [
        ("n_stages", INT32),
        ("stages", POINTER),
        *((name, INT64) for name in ("n_inputs", "n_outputs")),
        *((name, INT32) for name in ("by_z", "is_exact")),
        ("last_constant", DOUBLE),
        *((n, POINTER) for n in ("weight", "pair", "weight_slop", "fixed", "per_a")),
        *(
            (n, DOUBLE)
            for n in ("crude_square", "crude_fixed", "pair_most", "fixed_largest", "per_a_largest")
        ),
    ]


class CStageRows(ctypes.Structure):
    _fields_ = [("q", POINTER), ("q_stride", INT64), ("a", POINTER), ("a_stride", INT64)]


class CRows(ctypes.Structure):
    _fields_ = [
        ("stages", POINTER),
        *(
            pair
            for n in ("z", "hidden", "logits")
            for pair in ((n, POINTER), (f"{n}_stride", INT64))
        ),
    ]


IS_X86 = platform.machine() == "x86_64"
VECTORS = {isa: isa_flags()[isa] for isa in ("avx2", "avx512")} if IS_X86 else {}
LOOPS = ["fnn_certify_plain", *(f"loops_{isa}" for isa in VECTORS if isa in AVAILABLE)]


@pytest.fixture(scope="session")
def library(tmp_path_factory):
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("NOT TESTED: needs a C compiler")
    folder = tmp_path_factory.mktemp("certify")
    flags = ["-std=c11", "-O2", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror", "-fPIC"]
    flags += ["-I", ROOT / "csrc"]
    objects = [folder / "certify.o"]
    subprocess.run([compiler, *flags, "-c", ROOT / "csrc/certify.c", "-o", objects[0]], check=True)
    for isa, isa_flags in VECTORS.items():
        source, target = folder / f"{isa}.c", folder / f"{isa}.o"
        source.write_text(f"""#include "certify_loops.h"
            extern const fnn_certify_loops loops_{isa};
            const fnn_certify_loops loops_{isa} = FNN_CERTIFY_LOOPS;""")
        subprocess.run([compiler, *flags, *isa_flags, "-c", source, "-o", target], check=True)
        objects.append(target)
    target = folder / "certify.so"
    subprocess.run([compiler, "-shared", *objects, "-o", target, "-lm"], check=True)
    loaded = ctypes.CDLL(str(target))
    loaded.fnn_certify.restype = INT64
    loaded.fnn_certify_work_bytes.restype = ctypes.c_size_t
    return loaded


def address(array, keep):
    if array is None:
        return None
    array = np.ascontiguousarray(array)
    keep.append(array)
    return array.ctypes.data


def c_certificate(certificate, keep):
    stages = (CStage * len(certificate.stages))()
    for i, (to, s) in enumerate(zip(stages, certificate.stages, strict=True)):
        for name, kind in CStage._fields_:
            if kind is DOUBLE and hasattr(s, name):
                setattr(to, name, getattr(s, name))
        to.n_inputs, to.n_outputs, to.input_zero = s.n_inputs, s.n_outputs, s.input_zero
        to.n_taps = len(s.taps.lags)
        to.lag[: to.n_taps], to.tap[: to.n_taps] = s.taps.lags, s.taps.taps
        to.directions = address(s.directions if s.directions.size else None, keep)
        is_last = i + 1 == len(stages)
        to.each = address(s.each if is_last else None, keep)
        to.each_defect = s.unit_defect
        to.flat_below, to.flat_above = s.lipschitz.flat_below, s.lipschitz.flat_above
    keep.append(stages)
    c = certificate
    result = CCertificate(
        n_stages=len(stages),
        stages=ctypes.addressof(stages),
        n_inputs=c.weight.shape[1],
        n_outputs=c.n_outputs,
        by_z=c.by_z,
        is_exact=c.last.is_exact,
        last_constant=c.last.constant,
        crude_square=c.crude_square,
        crude_fixed=c.crude_fixed,
        pair_most=c.pair.max(),
        fixed_largest=c.fixed.max(),
        per_a_largest=c.per_a.max(),
    )
    for name in ("weight", "pair", "weight_slop", "fixed", "per_a"):
        setattr(result, name, address(getattr(c, name), keep))
    return result


def loops_of(library, name):
    return ctypes.byref(ctypes.c_char.in_dll(library, name))


def flagged_by_c(library, certificate, rows, loops="fnn_certify_plain"):
    """is_doubtful (M,) and bound (M,), as csrc/certify.c has them; with padded strides."""
    keep = []

    def padded(array):
        wide = np.zeros((len(array), array.shape[1] + 3), array.dtype)
        wide[:, :-3] = array
        return address(wide, keep), wide.shape[1]

    made = c_certificate(certificate, keep)
    stages = (CStageRows * len(rows.q))()
    for to, q, a in zip(stages, rows.q, rows.a, strict=True):
        to.q, to.q_stride = padded(q)
        if a is not None:
            to.a, to.a_stride = padded(a)
    parts = [v for array in (rows.z, rows.hidden, rows.logits) for v in padded(array)]
    given = CRows(ctypes.addressof(stages), *parts)
    m = len(rows.z)
    is_doubtful, bound = np.full(m, 7, np.uint8), np.zeros(m)
    work = np.zeros(library.fnn_certify_work_bytes(ctypes.byref(made)) + 64, np.uint8)
    n = library.fnn_certify(
        ctypes.byref(made),
        loops_of(library, loops),
        ctypes.byref(given),
        INT64(m),
        is_doubtful.ctypes.data_as(POINTER),
        bound.ctypes.data_as(POINTER),
        POINTER(work.ctypes.data + -work.ctypes.data % 64),
    )
    assert n == (is_doubtful == 1).sum() == is_doubtful.sum()
    return is_doubtful == 1, bound


def compare_with_c(library, certificate, rows):
    """C flags what NumPy flags, and next to nothing beside; its bound is not smaller, but for the
    roundings in float32 that both allow for."""
    got, bound = flagged_by_c(library, certificate, rows)
    for loops in LOOPS[1:]:
        again, same = flagged_by_c(library, certificate, rows, loops)
        assert (again == got).mean() > 0.99
        is_known = np.isfinite(bound) & np.isfinite(same)
        assert not (got ^ again)[~is_known].any()
        assert same[is_known] == pytest.approx(bound[is_known], rel=1e-4)
    with np.errstate(all="ignore"):
        want = certificate.flagged(rows)
        margin, possible = certificate.bound(rows)
    assert not (want & ~got).any()
    others = possible if certificate.n_outputs == 1 else np.where(possible == 0, np.inf, possible)
    with np.errstate(all="ignore"):
        slack = (margin - others * (1 + 2e-3)) > 0
        closest = np.where(possible == 0, np.inf, margin - possible).argmin(axis=1)
    is_other = slack | (possible == 0)
    assert (is_other.all(axis=1) & ~np.isnan(rows.logits).any(axis=1) <= ~got).all()
    numpys = possible[np.arange(len(got)), closest]
    is_last_level = got & np.isfinite(bound) & np.isfinite(numpys)
    assert (bound[is_last_level] >= numpys[is_last_level] * (1 - 1e-5)).all()
    return got, bound


class CLoops(ctypes.Structure):
    _fields_ = [
        ("sum", ctypes.CFUNCTYPE(INT64, POINTER, INT64)),
        ("squares", ctypes.CFUNCTYPE(INT64, POINTER, INT32, INT64)),
        (
            "residual_squares",
            ctypes.CFUNCTYPE(ctypes.c_float, POINTER, POINTER, ctypes.c_float, INT32, INT64),
        ),
        ("float_squares", ctypes.CFUNCTYPE(ctypes.c_float, POINTER, INT64)),
        ("tapped_squares", ctypes.CFUNCTYPE(INT64, POINTER, POINTER, POINTER)),
        ("along", ctypes.CFUNCTYPE(DOUBLE, POINTER, POINTER, POINTER)),
        ("nonzero", ctypes.CFUNCTYPE(INT64, POINTER, INT64)),
    ]


@pytest.mark.parametrize("name", LOOPS)
def test_loops(library, name):
    loops = CLoops.in_dll(library, name)
    rng = generator(22)
    for n in (*range(1, 140), 784, 5000, 66_051):
        q = rng.integers(0, 256, n, np.uint8) * (rng.random(n) < 0.8).astype(np.uint8)
        if n % 5 == 0:
            q[:] = 255  # the largest sums
        at = q.ctypes.data
        wide = q.astype(np.int64)
        assert loops.sum(at, n) == wide.sum()
        assert loops.nonzero(at, n) == (q != 0).sum()
        for zero in (0, 3, 255):
            assert loops.squares(at, zero, n) == ((wide - zero) ** 2).sum()
        a = rng.standard_normal(n).astype(F32) * F32(40)
        assert loops.float_squares(a.ctypes.data, n) == pytest.approx((a.astype(float) ** 2).sum())
        want = ((a.astype(float) * F32(1.7) - (wide - 3)) ** 2).sum()
        got = loops.residual_squares(a.ctypes.data, at, F32(1.7), 3, n)
        assert got == pytest.approx(want, rel=1e-4)
        for taps in (PIXEL_TAPS, Taps((1, 128), (-32, -32)), Taps((2,), (64,))):
            stage = CStage(n_inputs=n, n_taps=len(taps.lags))
            stage.lag[: len(taps.lags)], stage.tap[: len(taps.lags)] = taps.lags, taps.taps
            work = np.full(2 * n + 200, 77, np.uint8)
            got = loops.tapped_squares(ctypes.addressof(stage), at, work.ctypes.data)
            assert got == (taps.residual(wide[None]) ** 2).sum(), (n, taps)
