"""Certified models: their labels are float32's, on every row that anybody could think of.

Invariant: the float32 model of the same file is the judge, bit for bit; the rows that are hardest
(as near to a tie as pixels get) have to convict a bound that is too small, or they prove nothing.
The bound itself, in NumPy and in C, is tested in test_certify.py.
"""

import copy
import itertools
import pickle
import signal
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from oracle import IS_SANITIZED, dense, each_isa_of, generator
from test_certify import descend, folded

import fastnn
from fastnn import Dense, _core, certify, mnist
from fastnn.quantize import calibrate


@pytest.fixture(scope="module")
def float32():
    return fastnn.load("mnist-small")


@pytest.fixture(scope="module")
def certified():
    return fastnn.load("mnist-small", precision="certified")


@pytest.fixture(scope="module")
def sample():
    return mnist.sample()[0].reshape(-1, 784)


@pytest.fixture(scope="module")
def close_rows(float32, sample):
    """Rows whose two best logits are as near to each other as steps of one pixel bring them."""
    rows = descend(float32, None, folded(float32), None, sample)
    top = np.sort(float32.decision_function(rows), axis=1)
    assert (top[:, -1] - top[:, -2] < 1e-4).sum() >= len(rows) // 2 >= 10
    return rows


def doubtful(model, rows):
    return model._work(rows, 1, True)["n_doubtful"]


def fresh(model):
    """The same, of which no call has been seen."""
    return pickle.loads(pickle.dumps(model))


def labels(model, rows, threads=1):
    """Certified, where `predict` may find float32 alone faster; its answers are the same."""
    found = model._work(rows, threads, True)["labels"]
    return found if model.classes_ is None else model.classes_[found]


@each_isa_of("i8")
def test_labels_of_all_digits(float32, mnist_path, isa):
    model = fastnn.load("mnist-small", precision="certified", isa=isa)
    for which, most in (("test", 0.02), ("train", 0.015)):  # 0.0197, 0.0144; promised are 0.025
        rows = mnist.load(which, mnist_path)[0].reshape(-1, 784)
        if IS_SANITIZED:
            rows = rows[:: len(rows) // 3000]  # of every part: the test set's first half is harder
            most = 0.0205  # chance has more say in 3,000 rows
        assert np.array_equal(labels(model, rows), float32.predict(rows))
        assert doubtful(model, rows) <= most * len(rows)


def test_labels_of_the_sample(float32, certified, sample):
    assert np.array_equal(labels(certified, sample), float32.predict(sample))
    assert 0 < doubtful(certified, sample) < 0.03 * len(sample)


@each_isa_of("i8")
def test_rows_where_labels_meet(float32, close_rows, isa):
    model = fastnn.load("mnist-small", precision="certified", isa=isa)
    assert np.array_equal(labels(model, close_rows), float32.predict(close_rows))
    int8 = fastnn.load("mnist-small", precision="int8", isa=isa)
    assert (int8.predict(close_rows) != float32.predict(close_rows)).any()


def test_a_bound_that_is_too_small_is_convicted(float32, close_rows, monkeypatch):
    """Planted: of all that the bound adds up, a thousandth."""
    honest = certify.Certificate

    def shrunk(*arguments, **options):
        found = honest(*arguments, **options)
        for name in ("pair", "fixed", "per_a", "weight_slop"):
            setattr(found, name, getattr(found, name) / 1000)
        found.weight = found.weight / np.float32(1000)
        found.crude_square, found.crude_fixed = found.crude_square / 1e6, found.crude_fixed / 1000
        return found

    monkeypatch.setattr(certify, "Certificate", shrunk)
    model = fastnn.load("mnist-small", precision="certified")
    assert (labels(model, close_rows) != float32.predict(close_rows)).any()


def test_the_bound_holds_on_the_way(float32, certified, sample):
    """int8's own logits, of the rows that were certified: never another label."""
    want = float32.predict(sample)
    fast = certified_network(certified).decision_function(sample).argmax(axis=1)
    assert (fast != want).sum() <= doubtful(certified, sample)


def certified_network(model):
    """The int8 network of a certified model, by the same way."""
    chain = folded(model)
    return certify.certifier(chain, model.calibration, None).fast


@pytest.mark.parametrize("n_rows", [1, 2, 3, 4, 5, 11, 12, 13, 25, 100, 131])
@pytest.mark.parametrize("threads", [1, 3])
def test_batches(float32, certified, sample, n_rows, threads):
    rows = sample[n_rows : 2 * n_rows]
    assert np.array_equal(labels(certified, rows, threads), float32.predict(rows))
    out = np.full(n_rows, -7)
    assert certified.predict(rows, out=out, threads=threads) is out
    assert np.array_equal(out, float32.predict(rows))


def test_threads_on_many_rows(float32, certified, sample):
    rows = np.concatenate([sample] * 9)
    for threads in (1, 2, 4):
        assert np.array_equal(labels(certified, rows, threads), float32.predict(rows))
        assert np.array_equal(certified.predict(rows, threads=threads), float32.predict(rows))


def test_strides(float32, certified, sample):
    certified = fresh(certified)  # which cuts the first call for its samples
    wide = np.zeros((300, 2 * 784 + 3), np.uint8)
    wide[:, : 2 * 784 : 2] = sample[:300]
    reversed_rows = np.ascontiguousarray(sample[:300, ::-1])[:, ::-1]
    columns = np.asfortranarray(sample)
    for rows in (wide[:, : 2 * 784 : 2], sample[:300][::-3], reversed_rows, columns):
        for found in (labels(certified, rows), certified.predict(rows)):
            assert np.array_equal(found, float32.predict(np.array(rows)))
    images = sample.reshape(-1, 28, 28).transpose(0, 2, 1)
    assert np.array_equal(labels(certified, images), float32.predict(images))


def test_everything_else_is_float32(float32, certified, sample):
    floats = (sample[:50] / np.float32(255)).astype(np.float32)
    assert np.array_equal(certified.predict(floats), float32.predict(floats))
    for verb in ("decision_function", "forward", "predict_proba"):
        for rows in (sample[:50], floats):
            assert np.array_equal(getattr(certified, verb)(rows), getattr(float32, verb)(rows))
    for one, other in zip(certified.top_k(sample, 1), float32.top_k(sample, 1), strict=True):
        assert np.array_equal(one, other)


def random_model(sizes, activations, seed, **options):
    rng = generator(seed)
    layers = [
        Dense(rng.normal(0, (2 / k) ** 0.5, (k, n)), rng.normal(0, 0.1, n), name, **parameters)
        for (k, n), (name, parameters) in zip(itertools.pairwise(sizes), activations, strict=True)
    ]
    rows = (rng.integers(0, 256, (600, sizes[0])) * (rng.random((600, sizes[0])) < 0.5)).astype(
        "u1"
    )
    return fastnn.Model(layers, scale=1 / 255, **options), rows


RELU, LAST = ("relu", {}), ("softmax", {})


@pytest.mark.parametrize(
    ("sizes", "activations", "options"),
    [
        ((50, 40, 30, 20, 10), [RELU, RELU, RELU, LAST], {}),
        ((64, 100, 300), [RELU, LAST], {}),
        ((33, 17, 1), [RELU, ("sigmoid", {})], {"classes": ["no", "yes"]}),
        ((40, 30, 5), [("tanh", {}), ("identity", {})], {"classes": list("abcde")}),
        ((40, 30, 5), [("leaky_relu", {"alpha": 0.2}), ("relu", {})], {}),
        ((40, 30, 5), [("clip", {"lo": -0.5, "hi": 0.5}), LAST], {}),
        ((784, 1, 2), [("gelu", {}), LAST], {}),
        ((1, 8, 3), [RELU, LAST], {}),
    ],
)
def test_other_networks(sizes, activations, options):
    model, rows = random_model(sizes, activations, len(sizes), **options)
    found = model.certify(rows[:200])
    for part in (rows, rows[:7], rows[::-1], 255 - rows):
        assert np.array_equal(labels(found, part), model.predict(part))
        assert np.array_equal(found.predict(part), model.predict(part))


@pytest.mark.parametrize("how", ["huge", "tiny", "mixed", "zero", "tie", "narrow range"])
def test_awkward_weights(how):
    model, rows = random_model((60, 40, 6), [RELU, LAST], 9)
    first, last = ((layer.weight.copy(), layer.bias.copy()) for layer in model.layers)
    if how == "huge":
        first[0][3] = 1e30
    elif how == "tiny":
        first[0][:] *= 1e-38
        first[1][:] = 0
    elif how == "mixed":
        first[0][:, ::2] *= 1e6
        last[0][::2] *= 1e-6
    elif how == "zero":
        first[0][:, :20] = 0
        last[0][:, 2] = 0
    elif how == "tie":
        last[0][:, 4], last[1][4] = last[0][:, 1], last[1][1]
    shown = rows[:100] // 64 if how == "narrow range" else rows[:100]
    model = fastnn.Model([Dense(*first, "relu"), Dense(*last, "softmax")], scale=1 / 255)
    found = model.certify(shown)
    assert np.array_equal(labels(found, rows), model.predict(rows))


def test_hostile_taps_change_nothing_but_the_speed(float32, sample):
    for taps in ([(1, -64)], [(783, 3), (5, -7)], [(127, 64)]):
        calibration = calibrate(float32, sample[:100])
        object.__setattr__(calibration, "taps", tuple(taps))
        model = float32._with(precision="certified", calibration=calibration)
        assert np.array_equal(labels(model, sample[:200]), float32.predict(sample[:200]))


@pytest.mark.parametrize(
    ("layers", "rows", "message"),
    [
        ([(5, 3, "identity")], "u1", "one layer"),
        ([(5, 4, "step"), (4, 3, "identity")], "u1", "step"),
        ([(5, 4, "exp"), (4, 3, "identity")], "u1", "exp"),
        ([(5, 4, "relu"), (4, 1, "identity")], "u1", "regression"),
        ([(5, 4, "relu"), (4, 3, "identity")], "f4", "uint8"),
    ],
)
def test_refusals(layers, rows, message):
    rng = generator(3)
    model = fastnn.Model([dense(rng, *layer) for layer in layers])
    with pytest.raises(ValueError, match=message):
        model.certify(rng.integers(0, 2, (20, 5)).astype(rows))


def test_copies(certified, float32, sample, tmp_path):
    want = float32.predict(sample)
    for suffix in (".safetensors", ".npz"):
        certified.save(tmp_path / f"a{suffix}")
        again = fastnn.load(tmp_path / f"a{suffix}")
        assert (again.precision, again.calibration) == ("certified", certified.calibration)
        assert np.array_equal(labels(again, sample), want)
    for again in (fresh(certified), copy.deepcopy(certified)):
        assert again.precision == "certified"
        assert np.array_equal(labels(again, sample), want)
    assert certified.nbytes > float32.nbytes
    assert [kernel["format"] for kernel in certified.kernels] == ["i8", "f32"]


def never_certain():
    """A network whose every row is doubtful: five layers, each of which multiplies the bound."""
    sizes = (64, 200, 200, 200, 200, 10)
    model, rows = random_model(sizes, [*[RELU] * 4, LAST], 21)
    return model, model.certify(rows[:100]), np.concatenate([rows] * 4)


def test_float32_alone_where_it_is_faster():
    model, found, rows = never_certain()
    want = model.predict(rows)
    assert model._race() is None
    ways = []
    for _ in range(5):  # the time of 256 rows is a matter of luck as well
        found = fresh(found)
        assert not any(map(np.any, found._race().values()))
        assert np.array_equal(found.predict(rows, threads=1), want)
        race = found._race()
        assert race["n_rows"] == race["n_begun"] == [256, 256]
        ways.append(int(race["ns"][1] < race["ns"][0]))
        assert race["faster"] == ways[-1]
        assert race["n_taken"][ways[-1]] == len(rows) - 256
        assert sum(race["n_taken"]) == len(rows) == race["n_since"] + 512
    assert 1 in ways  # one network, where certifying takes both
    work = found._work(rows, 1, True)  # whoever wants to know has them certified
    assert work["n_doubtful"] == len(rows)
    assert work["executed"] > model._work(rows, 1, True)["executed"]
    assert found._race() == race


@pytest.mark.parametrize(
    ("n_rows", "ns", "faster"),
    [([256, 256], [5, 6], 0), ([256, 256], [6, 5], 1), ([300, 256], [6, 6], 0),
     ([300, 500], [5, 6], 1), ([255, 256], [1, 9], 1), ([0, 0], [0, 0], 1)],
)  # fmt: skip
def test_the_way_that_took_less_a_row(certified, float32, sample, n_rows, ns, faster):
    """Where samples are not done, by another thread, the ones before count: here those say 1."""
    found = fresh(certified)
    new = {**found._race(), "n_begun": [256, 256], "n_rows": n_rows, "ns": ns, "faster": 1}
    found._race(new)
    assert np.array_equal(found.predict(sample[:200]), float32.predict(sample[:200]))
    taken = [0, 0]
    taken[faster] = 200
    assert found._race() == {**new, "faster": faster, "n_since": 200, "n_taken": taken}


def test_samples_are_taken_anew_and_in_turns():
    model, found, rows = never_certain()
    want = model.predict(rows)
    for i in range(256):  # a row at a time as well
        assert found.predict(rows[i : i + 1])[0] == want[i]
        assert found._race()["n_rows"] == [i // 2 + 1, (i + 1) // 2]
    found.predict(rows[:100])
    assert found._race()["n_rows"] == [178, 178]
    for _ in range(6):
        assert np.array_equal(found.predict(rows), want)
    race = found._race()
    assert (race["n_rows"], race["n_since"]) == ([256, 256], 6 * len(rows) - 156)
    n_left = 64 * 256 - race["n_since"]
    found.predict(rows[:1000])
    assert found._race()["n_since"] == race["n_since"] + 1000
    found.predict(rows[: n_left - 1000])
    assert found._race()["n_begun"] == found._race()["n_rows"] == found._race()["ns"] == [0, 0]
    found.predict(rows[:300])
    race = found._race()
    assert (race["n_rows"], race["n_since"]) == ([150, 150], 0)
    assert sum(race["n_taken"]) == 356 + 6 * len(rows) + n_left + 300


@pytest.mark.parametrize("threads", [1, 2])
def test_a_signal_ends_a_long_call_of_short_parts(threads):
    """A part of 16,384 rows of so small a network is over before anybody asks."""
    model, rows = random_model((16, 16, 4), [RELU, LAST], 5)
    found = model.certify(rows)
    many = np.tile(rows, (8000, 1))

    class Alarm(Exception):
        pass

    def stop(*_):
        raise Alarm

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, 0.03)
    try:
        with pytest.raises(Alarm):
            found.predict(many, threads=threads)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    race = found._race()
    assert sum(race["n_taken"]) < len(many)
    assert race["n_begun"] == race["n_rows"]
    assert np.array_equal(found.predict(rows), model.predict(rows))


def test_calls_of_many_threads_share_the_samples():
    model, found, rows = never_certain()
    want = model.predict(rows)

    def call(seed):
        rng = generator(seed)
        for _ in range(20):
            first = int(rng.integers(0, len(rows)))
            n = int(rng.choice([1, 7, 300, 2000]))
            part = slice(first, first + n)
            if not np.array_equal(found.predict(rows[part], threads=2), want[part]):
                return False
        return True

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(call, range(8)))


def test_a_certifier_is_made_once():
    with pytest.raises(TypeError):
        _core.Certifier()
