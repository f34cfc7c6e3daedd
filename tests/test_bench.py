"""`fastnn.bench`: that it times what it says, holds it against what it says, and nothing else.

Invariant: no test depends on how fast this machine is; the figures are checked against each other.
"""

import contextlib
import copy
import dataclasses
import gc
import itertools
import json
import sys
import time
from typing import ClassVar

import numpy as np
import pytest

import fastnn
from fastnn import Dense, bench
from fastnn.bench import comparison, race, report, rivals, roofline, ruler, speed, workload

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

    kernels = ({"isa": "scalar", "format": "f32"},)
    pixel_kernel = kernels[0]
    n_inputs = 4
    nbytes = 1000
    task = "classify"

    def __init__(self, seconds):
        self.seconds = seconds
        self.calls = []

    def predict(self, x, *, out=None, threads=None):
        self.calls.append((x.copy(), out, gc.isenabled(), threads))
        end = time.perf_counter() + self.seconds
        while time.perf_counter() < end:
            pass
        return np.zeros(len(x), np.int64)

    def _work(self, x, threads=None, labels=False):
        assert labels
        return {"executed": len(x) * 1000, "effective": len(x) * 3000, "n_threads": 1}


@pytest.fixture
def rulers(monkeypatch):
    """A core whose peak is 4 GFLOP/s, but every other reading 2; and 8 GB/s."""
    peaks = iter([4.0, 2.0] * 1000)
    monkeypatch.setattr(ruler, "peak", lambda _isa, n_threads, _format: next(peaks) * n_threads)
    monkeypatch.setattr(ruler, "bandwidth", lambda _level, _n_threads: 8.0)


# ---- the whole -----------------------------------------------------------------------------------


def test_measures_a_known_duration(rulers):
    found = bench.measure(Clockwork(0.002), np.zeros((64, 4), np.float32), 8, seconds=0.2)
    assert found.batch == 8
    assert found.n_threads == 1
    assert found.n_calls >= 7
    assert 0.002 <= found.p50 <= found.p99
    assert found.p50 < 0.05  # generous: this machine may be busy
    assert found.rows_per_s <= 8 / 0.002
    assert found.rows_per_s == pytest.approx(8 / np.median(found.samples))
    assert found.executed_gflops == pytest.approx(found.rows_per_s * 2000e-9)
    assert found.effective_gflops == pytest.approx(found.rows_per_s * 6000e-9)


def test_a_low_ruler_does_not_flatter(rulers):
    """Every other reading is half: each round stands beside one that is not."""
    found = bench.measure(Clockwork(0.001), np.zeros((64, 4), np.float32), 8, seconds=0.1)
    assert set(found.peaks) == {2.0, 4.0}
    assert len(found.peaks) == len(found.samples) + 1
    assert found.peak_gflops == 4.0
    assert found.share_of_peak == pytest.approx(found.executed_gflops / 4.0, rel=0.01)


def test_every_call_sees_other_rows_and_the_same_output(rulers):
    clockwork = Clockwork(0.0001)
    rows = np.arange(80, dtype=np.float32).reshape(20, 4)
    bench.measure(clockwork, rows, 3, threads=7, seconds=0.02)
    timed = [call for call in clockwork.calls if call[1] is not None]
    assert len(timed) > 40
    assert {len(call[0]) for call in timed} == {3}
    first = [call[0][0, 0] for call in timed]
    assert not any(a == b for a, b in zip(first, first[1:], strict=False))
    assert len({id(call[1]) for call in timed}) == 1
    assert {call[3] for call in timed} == {7}


def test_the_collector_is_off_while_timing_and_on_after(rulers):
    clockwork = Clockwork(0.0001)
    assert gc.isenabled()
    bench.measure(clockwork, np.zeros((4, 4), np.float32), 1, seconds=0.01)
    assert gc.isenabled()
    in_rounds = [is_on for _, out, is_on, _ in clockwork.calls if out is not None]
    assert sum(in_rounds) < 1200  # finding out how long a call takes
    assert not any(in_rounds[-14:])


def test_nothing_is_printed(rulers, capfd):
    bench.measure(Clockwork(0.0001), np.zeros((4, 4), np.float32), 1, seconds=0.01)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("batch", [1, 64, 700])
def test_a_real_model(model, batch):
    rows = bench.rows_for(model, "normal")
    found = bench.measure(model, rows, batch, threads=1, seconds=0.05)
    assert found.n_threads == 1
    assert found.layers == ()
    assert 0 < found.p50 <= found.p99
    assert 0 < found.executed_gflops <= found.effective_gflops
    dense = 2e-9 * (40 * 30 + 30 * 5) * found.rows_per_s
    assert found.effective_gflops == pytest.approx(dense)
    assert 0 < found.share_of_peak < 1.05


def test_zeros_are_not_counted_as_executed():
    layers = [Dense(np.ones((784, 16)), np.zeros(16), "relu")]
    found = bench.measure(
        fastnn.Model(layers), np.zeros((16, 784), np.uint8), 1, threads=1, seconds=0.05
    )
    assert found.executed_gflops < 0.2 * found.effective_gflops


def test_sweep(model):
    rows = bench.rows_for(model)
    timings = list(bench.sweep(model, rows, batches=(2, 5), threads=1, seconds=0.02))
    assert [t.batch for t in timings] == [2, 5]


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


# ---- layer by layer ------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["float32", "int8", "bfloat16", "certified"])
def test_layers_add_up_to_the_whole(precision):
    whole = fastnn.load("mnist-small", precision=precision)
    rows = bench.rows_for(whole)
    found = bench.measure(whole, rows, 64, threads=1, seconds=0.05, layers=True)
    assert [(t.index, t.n_inputs, t.n_outputs) for t in found.layers] == [
        (0, 784, 128),
        (1, 128, 10),
    ]
    formats = {"float32": "f32 f32", "int8": "i8 i8", "bfloat16": "bf16 bf16"}
    assert [t.format for t in found.layers] == formats.get(precision, "i8 f32").split()
    sums = {
        name: sum(getattr(t, name) * t.seconds for t in found.layers)
        for name in ("executed_gflops", "effective_gflops")
    }
    call = 64 / found.rows_per_s
    assert sums["executed_gflops"] == pytest.approx(found.executed_gflops * call)
    if precision == "certified":  # what went through float32 as well is not in a dense pass
        assert sums["effective_gflops"] <= found.effective_gflops * call * (1 + 1e-9)
    else:
        assert sums["effective_gflops"] == pytest.approx(found.effective_gflops * call)
    assert found.labels_seconds > 0
    assert all(t.seconds > 0 for t in found.layers)


def test_layers_take_most_of_a_call_that_works():
    """The clock is read in place: layers and labels are nearly all of a call, and never twice."""
    rng = np.random.default_rng(3)
    wide = fastnn.Model([Dense(rng.normal(0, 0.1, (500, 500)), np.zeros(500), "relu")] * 3)
    rows = bench.rows_for(wide, "normal")
    shares = []
    for n_threads in (1, 2):
        for _ in range(5):  # another process may have the CPU for a while
            start = time.perf_counter_ns()
            work = wide._work(rows[:2000], threads=n_threads, labels=True)
            taken = (time.perf_counter_ns() - start) * work["n_threads"]
            shares.append(work["layers"][:, 0].sum() / taken)
    assert max(shares) <= 1
    assert max(shares[:5]) > 0.9


def test_a_layer_against_its_rulers(rulers, model):
    found = bench.measure(model, bench.rows_for(model), 16, threads=1, seconds=0.05, layers=True)
    for layer in found.layers:
        assert layer.share_of_peak == pytest.approx(layer.executed_gflops / 4, rel=0.01)
        assert layer.gbytes_per_s == pytest.approx(layer.moved_bytes * 1e-9 / layer.seconds)
        assert layer.share_of_bandwidth == pytest.approx(layer.gbytes_per_s / 8, rel=0.01)
        assert len(layer.samples) == len(found.samples)
        assert layer.seconds == np.median(layer.samples)


def test_bytes_and_skips_of_a_known_network():
    """Of 784 inputs 100 are not 0 in any row, other ones in the first than in the second."""
    layers = [Dense(np.ones((784, 16)), np.zeros(16), "relu")]
    rows = np.zeros((2, 784), np.uint8)
    rows[0, :100] = rows[1, 50:150] = 1
    one = bench.measure(fastnn.Model(layers), rows, 1, threads=1, seconds=0.01, layers=True)
    both = bench.measure(fastnn.Model(layers), rows, 2, threads=1, seconds=0.01, layers=True)
    assert one.layers[0].weight_bytes == 100 * 16 * 4
    assert one.layers[0].moved_bytes == 100 * 16 * 4 + 784 + 16 * 4
    assert one.layers[0].skipped > 0.8
    assert both.layers[0].weight_bytes == 150 * 16 * 4
    dense = bench.measure(fastnn.Model(layers), rows + 1, 2, threads=1, seconds=0.01, layers=True)
    assert dense.layers[0].weight_bytes == 784 * 16 * 4
    assert dense.layers[0].skipped == 0


# ---- rulers --------------------------------------------------------------------------------------


def test_levels(monkeypatch):
    monkeypatch.setattr(ruler, "cache_bytes", lambda: {"L2": 1000, "L3": 5000})
    assert [ruler.level_of(n) for n in (1, 1000, 1001, 5000, 5001)] == [
        "L2", "L2", "L3", "L3", "DRAM",
    ]  # fmt: skip
    assert ruler.buffer_bytes("L2") == 500
    assert ruler.buffer_bytes("L3") == 1250
    assert ruler.buffer_bytes("DRAM") == 1 << 26
    monkeypatch.setattr(ruler, "cache_bytes", dict)
    assert ruler.level_of(1) == "DRAM"


def test_bandwidth_counts_what_was_read(monkeypatch):
    """A clock that ticks once a reading: 1 s for each read."""
    ticks = iter(range(10_000))
    monkeypatch.setattr(ruler, "perf_counter", lambda: next(ticks))
    monkeypatch.setattr(ruler, "cache_bytes", lambda: {"L2": 1 << 20})
    ruler._buffer.cache_clear()
    ruler._windows.cache_clear()
    try:
        assert ruler.bandwidth("L2") == pytest.approx((1 << 22) * 1e-9)
        assert ruler.bandwidth("DRAM") == pytest.approx((1 << 24) * 1e-9)
        starts = [next(ruler._windows("DRAM", 0)) for _ in range(4)]
        assert sorted(starts) == [0, 1 << 24, 2 << 24, 3 << 24]  # all of it comes round
    finally:
        ruler._buffer.cache_clear()
        ruler._windows.cache_clear()


def test_real_rulers_read_something():
    isa = fastnn.load("mnist-small").kernels[0]["isa"]
    assert ruler.peak(isa, 2) > 0
    assert ruler.bandwidth(ruler.level_of(1)) > 0
    assert ruler.bandwidth(ruler.level_of(1), 2) > 0


# ---- rows and fingerprints -----------------------------------------------------------------------


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


def test_fingerprint(model):
    rows = bench.rows_for(model)
    known = workload.fingerprint(model, rows)
    assert known["widths"] == [40, 30, 5]
    assert workload.fingerprint(model, rows.copy()) == known
    first, last = model.layers
    weight = first.weight.copy()
    weight[3, 4] += 1e-6
    others = {
        "weight": fastnn.Model([Dense(weight, first.bias, "relu"), last]),
        "activation": fastnn.Model([Dense(first.weight, first.bias, "tanh"), last]),
        "units": fastnn.Model([first, last], scale=0.5),
    }
    for what, other in others.items():
        assert workload.fingerprint(other, rows) != known, what
    rows[5, 5] += 1
    assert workload.fingerprint(model, rows) != known


def test_outputs_sha256_tells_one_bit(model):
    rows = bench.rows_for(model)
    known = workload.outputs_sha256(model, rows)
    assert workload.outputs_sha256(model, rows) == known
    rows[7] = rows[8]
    assert workload.outputs_sha256(model, rows) != known


# ---- rivals --------------------------------------------------------------------------------------

NUMPY = next(s for s in rivals.SYSTEMS if s.name == "NumPy")
OURS = rivals.SYSTEMS[0]
INSTALLED = [s for s in rivals.SYSTEMS if rivals.missing(s) is None]
NOTHING = contextlib.nullcontext()


def task(activation="relu", batch=3, **parameters):
    """20 inputs, 33 hidden, 7 outputs, float32 rows."""
    hidden = Dense(RNG.normal(0, 0.3, (20, 33)), RNG.normal(size=33), activation, **parameters)
    net = fastnn.Model([hidden, Dense(RNG.normal(0, 0.3, (33, 7)), RNG.normal(size=7))])
    return workload.Workload(net, bench.rows_for(net), batch)


def pixels():
    """uint8 rows, and another scale, mean and std for each input."""
    net = fastnn.Model(
        [
            Dense(RNG.normal(0, 0.05, (784, 12)), RNG.normal(size=12), "relu"),
            Dense(RNG.normal(0, 0.3, (12, 5)), RNG.normal(size=5), "softmax"),
        ],
        scale=1 / 255,
        mean=RNG.uniform(size=784),
        std=RNG.uniform(0.5, 2, 784),
        classes=["a", "b", "c", "d", "e"],
    )
    return workload.Workload(net, bench.rows_for(net), 4)


@pytest.mark.parametrize("system", INSTALLED, ids=lambda s: s.name)
@pytest.mark.parametrize("made", [task, pixels])
def test_every_installed_system_is_right(system, made):
    found = rivals.forms(system, made(), 1)
    assert found
    assert len({form.name for form in found}) == len(found)


@pytest.mark.parametrize("activation", sorted(fastnn.activations()))
def test_every_activation_runs_right_or_is_refused(activation):
    if fastnn.activations()[activation]["last_layer_only"]:
        return
    parameters = {"clip": {"lo": -1, "hi": 1}, "leaky_relu": {"alpha": 0.2}}.get(activation, {})
    done = task(activation, **parameters)
    for system in INSTALLED:
        refusal = contextlib.suppress(rivals.Unsupported) if system is not OURS else NOTHING
        with refusal:
            assert rivals.forms(system, done, 1)


def test_a_wrong_answer_is_caught():
    good = task()
    right = rivals.forms(NUMPY, good, 1)[0]
    with pytest.raises(AssertionError, match="wrong answers"):
        rivals.check(rivals.Form("off", lambda x: right.call(x) * 1.001), good)
    named = pixels()
    others = dict(zip("abcde", "bcdea", strict=True))

    def wrong(x):
        return np.array([others[label] for label in named.model.predict(x)])

    with pytest.raises(AssertionError, match="wrong answers"):
        rivals.check(rivals.Form("off", wrong, named.model.decision_function), named)


def test_the_race(model):
    """Two systems, one and two threads, each in a process of its own."""
    rows = bench.rows_for(model)[:256]
    found = list(
        race.race(model, rows, batches=(1, 8), threads=(1, 2), seconds=0.05, systems=(OURS, NUMPY))
    )
    assert [(e.batch, e.n_threads, e.system) for e in found] == [
        (batch, threads, system)
        for threads in (1, 2)
        for batch in (1, 8)
        for system in ("fastnn", "NumPy")
    ]
    for entry in found:
        assert len(entry.samples) >= 7
        assert 0 < entry.spread[0] <= entry.median <= entry.spread[1]
        assert entry.form
    assert found[1].version == np.__version__


def test_the_race_names_who_is_absent(model, monkeypatch):
    """Not installed; no such activation; and a process that dies."""
    none = rivals.System("Nobody", ("no_such_module",), ("nobody", "nothing"), NUMPY.make)
    stranger = rivals.System("Stranger", (), ("numpy",), NUMPY.make)  # the worker knows it not
    steps = fastnn.Model(
        [Dense(np.ones((3, 3)), np.zeros(3), "step"), Dense(np.ones((3, 2)), np.zeros(2))]
    )
    found = list(
        race.race(
            steps,
            bench.rows_for(steps)[:64],
            batches=(1,),
            threads=(1,),
            seconds=0.01,
            systems=(OURS, none, NUMPY, stranger),
        )
    )
    assert isinstance(found[0], race.Absent)
    assert found[0].why == "not installed (pip install nobody nothing)"
    absent = {one.system: one.why for one in found if isinstance(one, race.Absent)}
    assert "step is not known to run on NumPy" in absent["NumPy"]
    assert "ended with status 1: StopIteration" in absent["Stranger"]
    assert [one.system for one in found if isinstance(one, race.Entry)] == ["fastnn"]


def test_a_process_that_hangs_is_given_up(model, monkeypatch, tmp_path):
    monkeypatch.setattr(race, "_PATIENCE", 0.02)  # it takes longer to start
    with race._Child(str(tmp_path), "NumPy", 1, model) as child:
        process = child.process
        with pytest.raises(race._Failed, match="no answer in 0 s"):
            child.ask({})  # still importing
    assert process.poll() is not None


# ---- files ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def timings(model):
    rows = bench.rows_for(model)
    return [bench.measure(model, rows, b, threads=1, seconds=0.02, layers=True) for b in (1, 8)]


@pytest.fixture(scope="module")
def run_content(model, timings):
    rows = bench.rows_for(model)
    return report.document(
        name="a | b",
        machine=report.machine(),
        workload=workload.fingerprint(model, rows),
        outputs_sha256=workload.outputs_sha256(model, rows),
        isa="scalar",
        threads=1,
        timings=timings,
        entries=[
            race.Entry(1, 1, "fastnn", "predict", "9", (1e-6,) * 7),
            race.Entry(1, 1, "NumPy", "out=", "2", (3e-6,) * 7),
        ],
        absent=[race.Absent("PyTorch", "not installed")],
    )


def saved(content, path):
    path.write_text(json.dumps(content, allow_nan=False))
    return path


def test_a_run_survives_its_file(run_content, timings, tmp_path):
    run = report.read(saved(run_content, tmp_path / "run.json"))
    assert run.workload == run_content["workload"]
    assert [(c.batch, c.system) for c in run.cells] == [
        (1, "fastnn"), (8, "fastnn"), (1, "fastnn (beside rivals)"), (1, "NumPy"),
    ]  # fmt: skip
    assert run.cells[0].samples == timings[0].samples
    assert run.version == rivals.versions()["fastnn"]


def test_markdown(run_content, timings):
    entries = [race.Entry(**{**e, "samples": e["samples"]}) for e in run_content["rivals"]]
    text = report.markdown(run_content, report.tables(timings, entries))
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len(rows) == (2 + 2) + (2 + 2 * 4) + (2 + 2)  # two layers, labels, the rest
    assert "3.00x as fast" in text
    assert "PyTorch: not installed." in text
    assert run_content["outputs_sha256"] in text


def test_write_replaces_whole_files(tmp_path):
    report.write(tmp_path / "a", "one")
    report.write(tmp_path / "a", "two")
    assert (tmp_path / "a").read_text() == "two"
    with pytest.raises(OSError, match="nowhere"):
        report.write(tmp_path / "nowhere" / "a", "x")
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def without(content, key):
    return {k: v for k, v in content.items() if k != key}


def with_samples(content, samples):
    changed = copy.deepcopy(content)
    changed["timings"][0]["samples"] = samples
    return changed


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda c: [c], "holds no run"),
        (lambda c: {"safetensors": 1}, "holds no run"),
        (lambda c: {"model": "m", "isa": "avx2", "input": "uint8", "timings": []}, "older fastnn"),
        (lambda c: {**c, "version": 2}, "version 2 of its format"),
        (lambda c: without(c, "workload"), "lacks 'workload'"),
        (lambda c: {**c, "machine": []}, "'machine' is list, wanted dict"),
        (lambda c: {**c, "outputs_sha256": 5}, "'outputs_sha256' is int, wanted str"),
        (lambda c: {**c, "timings": {}}, "'timings' is dict, wanted list"),
        (lambda c: {**c, "timings": [7]}, "lacks 'batch'"),
        (lambda c: {**c, "threads": True}, "'threads' is bool"),
        (lambda c: {**c, "threads": 0}, "'threads' is 0, wanted at least 1"),
        (lambda c: {**c, "timings": c["timings"][:1] * 2}, "the same cell twice"),
        (lambda c: with_samples(c, []), "'samples' is empty"),
        (lambda c: with_samples(c, [1.0, 0.0]), "'samples' holds 0.0"),
        (lambda c: with_samples(c, [1.0, -1]), "'samples' holds -1"),
        (lambda c: with_samples(c, ["1"]), "'samples' holds 1"),
        (lambda c: with_samples(c, [True]), "'samples' holds True"),
    ],
)
def test_what_is_no_run_is_refused(run_content, tmp_path, spoil, message):
    path = saved(spoil(run_content), tmp_path / "run.json")
    with pytest.raises(ValueError, match=message) as caught:
        report.read(path)
    assert str(caught.value).startswith(f"{path}: ")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is no JSON"),
        (b"\xff\xfe\x00", "is no JSON"),
        (b"{", "is no JSON"),
        (b'{"a": NaN}', "holds NaN"),
        (b'{"a": -Infinity}', "holds -Infinity"),
        (b'{"a": 1' + b"0" * 5000 + b"}", "number of 5001 digits"),
        (b"[" * 100_000, "nested too deeply"),
    ],
    ids=["empty", "bytes", "half", "nan", "infinity", "digits", "depth"],
)
def test_hostile_json(tmp_path, content, message):
    path = tmp_path / "run.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        report.read(path)


def test_a_huge_float_and_a_huge_file(run_content, tmp_path, monkeypatch):
    text = json.dumps(with_samples(run_content, [1.0])).replace(
        '"samples": [1.0]', '"samples": [1e999]'
    )
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(ValueError, match="'samples' holds inf"):
        report.read(tmp_path / "run.json")
    monkeypatch.setattr(report, "_MOST_BYTES", 1 << 10)
    with pytest.raises(ValueError, match="larger than"):
        report.read(tmp_path / "run.json")


# ---- comparing -----------------------------------------------------------------------------------


def run_of(samples, path="run.json", **changes):
    cells = tuple(report.Cell(batch, 1, "fastnn", "", s) for batch, s in samples.items())
    facts = {
        "path": path, "model": "m", "date": "", "commit": None, "cpu": "", "isa": "",
        "version": "1",
        "workload": {"widths": [2, 3]}, "outputs_sha256": "aa", "cells": cells,
    }  # fmt: skip
    return report.Run(**{**facts, **changes})


def noisy(seconds, n=60, spread=0.05, seed=1):
    rng = np.random.default_rng(seed)
    return tuple((seconds * rng.lognormal(0, spread, n)).tolist())


def test_a_difference_is_shown_and_none_is_not():
    before = run_of({1: noisy(1e-3), 8: noisy(1e-3), 64: noisy(1e-3)})
    after = run_of({1: noisy(5e-4, seed=2), 8: noisy(1e-3, seed=3), 64: noisy(1.5e-3, seed=4)})
    fast, same, slow = comparison.compare(before, after)
    assert (fast.verdict, same.verdict, slow.verdict) == ("faster", "no difference shown", "slower")
    assert fast.ratio == pytest.approx(2, rel=0.05)
    assert fast.low < fast.ratio < fast.high
    assert fast.high - fast.low < 0.2
    assert same.low <= 1 <= same.high
    assert comparison.compare(before, after) == [fast, same, slow]  # seeded
    wider = comparison.compare(before, after, confidence=0.999)[0]
    assert wider.low < fast.low
    assert wider.high > fast.high


def test_a_run_equals_itself():
    run = run_of({1: noisy(1e-3)})
    (change,) = comparison.compare(run, run)
    assert change.ratio == 1
    assert change.verdict == "no difference shown"


def test_the_interval_holds_the_truth_about_as_often_as_it_says():
    n_held = 0
    for seed in range(60):
        pair = [run_of({1: noisy(1e-3, 40, 0.1, seed=1000 * side + seed)}) for side in (0, 1)]
        (change,) = comparison.compare(*pair, confidence=0.9)
        n_held += change.low <= 1 <= change.high
    assert 46 <= n_held <= 60  # 54 expected; fewer than 46 has a chance of 1 in 500


def test_a_slow_spell_is_drawn_as_one():
    """25 of 60 rounds are slow: side by side they move the median far more often than scattered."""
    samples = np.array(noisy(1e-3, 60, 0.01))
    samples[20:45] *= 1.3
    scattered = np.random.default_rng(1).permutation(samples)
    in_spell, in_scattered = (
        np.mean(comparison._medians(s, np.random.default_rng(2)) > 1.2e-3)
        for s in (samples, scattered)
    )
    assert in_scattered < 0.1
    assert in_spell > 0.15


def test_few_rounds_say_nothing():
    run = run_of({1: (1e-3,) * 4})
    (change,) = comparison.compare(run, run)
    assert change.verdict.startswith("fewer than 5 rounds")


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"workload": {"widths": [2, 4]}}, r"widths is \[2, 3\] and \[2, 4\]"),
        ({"workload": {"widths": [2, 3], "rows": 1}}, "rows is None and 1"),
        ({"outputs_sha256": "bb"}, "different outputs .* aa and bb"),
        ({"cells": ()}, "no cell in common"),
    ],
)
def test_different_work_is_not_compared(other, message):
    run = run_of({1: noisy(1e-3)}, "a.json")
    with pytest.raises(ValueError, match=message) as caught:
        comparison.compare(run, run_of({1: noisy(1e-3)}, "b.json", **other))
    assert "a.json and b.json" in str(caught.value)
    with pytest.raises(ValueError, match="confidence is 1"):
        comparison.compare(run, run, confidence=1)


# ---- the speed of many models --------------------------------------------------------------------


class Sleeper:
    """A model whose calls take known times, in turns with others."""

    n_inputs = 3
    calls: ClassVar[list] = []

    def __init__(self, name, row_seconds):
        self.name, self.row_seconds = name, row_seconds

    def predict(self, rows, *, out=None, threads=None):
        assert threads == 1
        self.calls.append((self.name, len(rows)))
        time.sleep(self.row_seconds * (1 if len(rows) == 1 else 10))
        return np.zeros(len(rows))


def test_speeds_of_models_that_take_turns():
    Sleeper.calls.clear()
    one, two = speed.speeds([Sleeper("a", 0.001), Sleeper("b", 0.003)], seconds=0.3)
    # A sleep may last longer than asked for, never less.
    assert 0.001 <= one.row_seconds < 0.01
    assert 0.003 <= two.row_seconds < 0.03
    assert 1024 / 0.1 < one.rows_per_s <= 1024 / 0.01
    assert 1024 / 0.3 < two.rows_per_s <= 1024 / 0.03
    turns = [name for name, _ in itertools.groupby(name for name, _ in Sleeper.calls)]
    assert len(turns) == 2 * (1 + 1 + 7)  # the first call, warming up, seven rounds
    assert gc.isenabled()


def test_speeds_of_real_models_and_of_none():
    models = [fastnn.load("xor"), fastnn.load("mnist-linear", precision="int8")]
    for found in speed.speeds(models, seconds=0.05):
        assert 0 < found.row_seconds < 0.1
        assert found.rows_per_s > 1000
    assert speed.speeds([], seconds=1) == []
    with pytest.raises(ValueError, match="seconds is 0"):
        speed.speeds(models, seconds=0)


# ---- the roofline --------------------------------------------------------------------------------


def test_the_plot_asks_for_its_extra(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"pip install \"fastnn\[plot\]\""):
        roofline.check_plot(tmp_path / "a.svg")


def test_the_plot_checks_its_path(tmp_path):
    with pytest.raises(ValueError, match="ends in .svg, .png, .pdf"):
        roofline.check_plot(tmp_path / "a.jpeg")
    with pytest.raises(FileNotFoundError, match="no such folder"):
        roofline.check_plot(tmp_path / "none" / "a.svg")


def test_the_roofline_shows_what_was_measured(timings, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib", reason="NOT TESTED: needs the extra fastnn[plot]")
    monkeypatch.setattr(ruler, "bandwidth", lambda _level, _n_threads: 1.0)
    monkeypatch.setattr(ruler, "cache_bytes", lambda: {"L2": 1 << 20})
    roofline.draw(tmp_path / "a.svg", timings, title="the title", subtitle="below")
    drawn = (tmp_path / "a.svg").read_text()
    for words in ("the title", "below", "GFLOP/s", "FLOP/byte", "L2: ", "DRAM: 1 GB/s",
                  "multiply-adds of one core", "0: 40 x 30 relu", "1: 30 x 5 softmax"):  # fmt: skip
        assert words in drawn, words
    for batch in (1, 8):
        assert drawn.count(f">{batch}</text>") >= 2  # beside a point of each layer
    roofline.draw(tmp_path / "b.svg", timings, title="the title", subtitle="below")
    assert (tmp_path / "b.svg").read_text() == drawn
    roofline.draw(tmp_path / "a.png", timings, title="")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    bare = [dataclasses.replace(t, layers=()) for t in timings]
    with pytest.raises(ValueError, match="no layers were timed"):
        roofline.draw(tmp_path / "c.svg", bare, title="")
