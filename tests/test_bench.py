"""`fastnn.bench`: that it times what it says, and nothing else.

Invariant: no test depends on how fast this machine is; the figures are checked against each other.
"""

import gc
import time

import numpy as np
import pytest

import fastnn
from fastnn import Dense, bench

RNG = np.random.default_rng(8)


@pytest.fixture(scope="module")
def model():
    return fastnn.Model(
        [
            Dense(RNG.normal(0, 0.1, (40, 30)), np.zeros(30), "relu"),
            Dense(RNG.normal(0, 0.1, (30, 5)), np.zeros(5), "softmax"),
        ]
    )


class Clockwork:
    """Stands in for a model: takes a known time per call and notes how it was called."""

    kernels = ({"isa": "scalar"},)
    n_inputs = 4

    def __init__(self, seconds):
        self.seconds = seconds
        self.calls = []

    def predict(self, x, *, out=None, threads=None):
        self.calls.append((x.copy(), out, gc.isenabled(), threads))
        end = time.perf_counter() + self.seconds
        while time.perf_counter() < end:
            pass
        return np.zeros(len(x), np.int64)

    def _work(self, x, threads=None):
        return {"executed": len(x) * 1000, "effective": len(x) * 3000, "n_threads": 1}


@pytest.fixture
def peak(monkeypatch):
    """A core whose peak is 2 GFLOP/s, or 4 on a good day."""
    peaks = iter([2.0, 4.0] * 100)
    monkeypatch.setattr(bench._core, "peak_gflops", lambda _isa: next(peaks))


def test_measures_a_known_duration(peak):
    timing = bench.measure(Clockwork(0.002), np.zeros((64, 4), np.float32), 8, seconds=0.2)
    assert timing.batch == 8
    assert timing.n_threads == 1
    assert timing.n_calls >= 20
    assert 0.002 <= timing.p50 <= timing.p99
    assert timing.p50 < 0.05  # generous: this machine may be busy
    assert timing.rows_per_s <= 8 / 0.002
    assert timing.executed_gflops == pytest.approx(timing.rows_per_s * 2000e-9)
    assert timing.effective_gflops == pytest.approx(timing.rows_per_s * 6000e-9)
    assert timing.share_of_peak == pytest.approx(timing.executed_gflops / 4.0)


def test_every_call_sees_other_rows_and_the_same_output(peak):
    clockwork = Clockwork(0.0001)
    rows = np.arange(80, dtype=np.float32).reshape(20, 4)
    bench.measure(clockwork, rows, 3, threads=7, seconds=0.02)
    timed = [call for call in clockwork.calls if call[1] is not None]
    assert len(timed) > 40
    assert {len(call[0]) for call in timed} == {3}
    first = [call[0][0, 0] for call in timed]
    n_same = sum(a == b for a, b in zip(first, first[1:], strict=False))
    assert n_same <= 5  # where one loop ends and the next begins
    assert len({id(call[1]) for call in timed}) == 1
    assert {call[3] for call in timed} == {7}


def test_the_collector_is_off_while_timing_and_on_after(peak):
    clockwork = Clockwork(0.0001)
    assert gc.isenabled()
    bench.measure(clockwork, np.zeros((4, 4), np.float32), 1, seconds=0.01)
    assert gc.isenabled()
    assert not any(is_on for _, out, is_on, _ in clockwork.calls if out is not None)


def test_nothing_is_printed(peak, capfd):
    bench.measure(Clockwork(0.0001), np.zeros((4, 4), np.float32), 1, seconds=0.01)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("batch", [1, 64, 700])
def test_a_real_model(model, batch):
    rows = bench.rows_for(model, "normal")
    timing = bench.measure(model, rows, batch, threads=1, seconds=0.05)
    assert timing.n_threads == 1
    assert 0 < timing.p50 <= timing.p99
    assert 0 < timing.executed_gflops <= timing.effective_gflops
    dense = 2e-9 * (40 * 30 + 30 * 5) * timing.rows_per_s
    assert timing.effective_gflops == pytest.approx(dense)
    assert 0 < timing.share_of_peak < 1.05


def test_zeros_are_not_counted_as_executed():
    layers = [Dense(np.ones((784, 16)), np.zeros(16), "relu")]
    timing = bench.measure(
        fastnn.Model(layers), np.zeros((16, 784), np.uint8), 1, threads=1, seconds=0.05
    )
    assert timing.executed_gflops < 0.2 * timing.effective_gflops


def test_sweep(model):
    rows = bench.rows_for(model)
    timings = list(bench.sweep(model, rows, batches=(2, 5), threads=1, seconds=0.02))
    assert [timing.batch for timing in timings] == [2, 5]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"batch": 0}, "batch is 0"),
        ({"seconds": 0}, "seconds is 0"),
        ({"rows": []}, "rows is empty"),
    ],
)
def test_refuses(model, changed, message):
    arguments = {"rows": np.zeros((3, 40), np.float32), "batch": 1, "seconds": 0.1, **changed}
    with pytest.raises(ValueError, match=message):
        bench.measure(model, **arguments)


def test_rows(model):
    normal = bench.rows_for(model)
    assert normal.dtype == np.float32
    assert normal.shape == (8192, 40)
    assert np.count_nonzero(normal) == normal.size
    assert (normal == bench.rows_for(model, "normal")).all()
    pixels = fastnn.Model([Dense(np.ones((784, 2)), np.zeros(2))])
    digits = bench.rows_for(pixels)
    assert digits.dtype == np.uint8
    assert digits.shape == (8192, 784)
    assert len(np.unique(digits[:100], axis=0)) > 80  # shuffled, not sorted by class
    with pytest.raises(ValueError, match="784 pixels, the model takes 40"):
        bench.rows_for(model, "digits")
    with pytest.raises(ValueError, match="kind is 'zeros'"):
        bench.rows_for(model, "zeros")


def test_rows_of_a_wide_model_stay_small():
    wide = fastnn.Model([Dense(np.ones((1 << 17, 1)), [0.0])])
    assert bench.rows_for(wide).nbytes <= 1 << 26
