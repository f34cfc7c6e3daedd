"""benchmarks/shapes.py, threads.py and overhead.py: that they find what they look for. The edges of
tiles and panels: that rows and columns there have the bits they have anywhere else."""

import json
import sys

import numpy as np
import pytest
from oracle import assert_same_bits, each_isa

import fastnn
from benchmarks import overhead, shapes, threads, workloads
from benchmarks.shapes import Pair, Shape
from fastnn import Dense


def network(rng, widths, precision, isa):
    layers = [
        Dense(rng.standard_normal((k, n)), rng.standard_normal(n), "relu")
        for k, n in zip(widths, widths[1:], strict=False)
    ]
    model = fastnn.Model(layers, task="regress", isa=isa)
    if precision == "float32":
        return model
    return model.quantize(rng.integers(0, 256, (50, widths[0])).astype(np.uint8))


@each_isa
@pytest.mark.parametrize("precision", shapes.PRECISIONS)
@pytest.mark.parametrize("width", [1, 7, 17, 64, 65, 130])
def test_rows_at_the_edges_of_tiles(isa, precision, width):
    """The last two tiles share rows: each batch size gives each row what it has alone, where a
    block has one tile and where it has several."""
    rng = np.random.default_rng(width)
    model = network(rng, (20, width, 3, width), precision, isa)
    x = rng.integers(0, 256, (60, 20)).astype(np.uint8)
    x[rng.random(x.shape) < 0.3] = 0
    alone = np.concatenate([np.atleast_2d(model.forward(row)) for row in x]).reshape(60, -1)
    for n in range(1, 61):
        assert_same_bits(model.forward(x[:n], threads=1).reshape(n, -1), alone[:n], f"{n} rows")


@each_isa
@pytest.mark.parametrize("precision", shapes.PRECISIONS)
@pytest.mark.parametrize("n_rows", [1, 2, 5, 13])
def test_columns_at_the_edges_of_panels(isa, precision, n_rows):
    """The last two tiles share vectors: the first n columns are the same, however many follow."""
    rng = np.random.default_rng(n_rows)
    most = 300
    weight, bias = rng.standard_normal((37, most)), rng.standard_normal(most)
    weight[0] = np.sign(weight[0]) * 9  # the same scale of each column, whichever there are
    x = rng.integers(0, 256, (n_rows, 37)).astype(np.uint8)
    calibration = rng.integers(0, 256, (50, 37)).astype(np.uint8)

    def outputs(n):
        model = fastnn.Model([Dense(weight[:, :n], bias[:n])], task="regress", isa=isa)
        model = model if precision == "float32" else model.quantize(calibration)
        return model.forward(x).reshape(n_rows, n)

    whole = outputs(most)
    for n in [*range(1, 70), *range(70, most, 13)]:
        assert_same_bits(outputs(n), whole[:, :n], f"{n} columns")


# ---- shapes ----


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("n", [30, 300])
def test_a_seed_draws_the_same_shapes(seed, n):
    groups = shapes.draw(seed, n)
    drawn = [shape for group in groups for shape in group]
    assert groups == shapes.draw(seed, n)
    assert groups != shapes.draw(seed + 1, n)
    assert n * 0.8 <= len(drawn) <= n
    assert {shape.precision for shape in drawn} == set(shapes.PRECISIONS)
    assert all(1 <= w <= 4096 for shape in drawn for w in shape.widths)
    assert all(1 <= len(shape.widths) - 1 <= 10 for shape in drawn)
    laws = {pair.law for group in groups for pair in shapes.pairs(group)}
    assert laws == {"batch", "width"}
    for group in groups:
        for pair in shapes.pairs(group):
            if pair.law == "width":
                assert min(pair.first.widths[1], pair.second.widths[1]) >= 64
                assert pair.first.n_madds * pair.first.batch >= 100_000


def test_pairs_are_neighbours():
    a, b, c = (Shape((8, 4), "int8", n) for n in (1, 2, 4))
    d, e = Shape((8, 64), "int8", 4), Shape((8, 65), "int8", 4)
    assert list(shapes.pairs([a, b, c])) == [Pair("batch", a, b)]
    assert list(shapes.pairs([d, e])) == [Pair("width", d, e)]


def test_what_the_laws_limit():
    a, b = (Shape((8, 4), "int8", n) for n in (4, 5))
    assert Pair("batch", a, b).change({a: 40, b: 60}) == pytest.approx(1.2)
    d, e = Shape((8, 64), "int8", 1), Shape((8, 65), "int8", 1)
    assert Pair("width", d, e).change({d: 64, e: 80}) == pytest.approx(1.0)
    assert Pair("width", d, e).change({d: 64, e: 64}) == pytest.approx(1.25)
    assert Pair("width", d, e).change({d: 64, e: 100}) == pytest.approx(1.25)


def test_a_pair_is_broken_if_it_breaks_twice(monkeypatch):
    a, b, c = (Shape((8, 4), "int8", n) for n in (1, 2, 3))
    runs = [{a: 10.0, b: 40.0, c: 90.0}, {a: 10.0, b: 20.0}, {b: 20.0, c: 60.0}]
    monkeypatch.setattr(shapes, "measure", lambda group, samples: runs.pop(0))
    ns, broken = shapes.check([a, b, c])
    assert broken == [Pair("batch", b, c)]
    assert ns == {a: 10, b: 20, c: 60}


@pytest.mark.parametrize("is_broken", [False, True])
def test_the_shapes_command(monkeypatch, capsys, is_broken):
    monkeypatch.setattr(sys, "argv", ["shapes", "--seed", "3", "--shapes", "12", "--json"])
    monkeypatch.setattr(shapes, "SAMPLES", 1)

    def measure(group, samples):
        return {s: s.n_madds * s.batch * (9.0 if is_broken and s.batch % 2 else 1) for s in group}

    monkeypatch.setattr(shapes, "measure", measure)
    monkeypatch.setattr(Pair, "limit", 1.3)
    assert shapes.main() == int(is_broken)
    report = json.loads(capsys.readouterr().out)
    assert report["seed"] == 3
    assert any(pair["is_broken"] for pair in report["pairs"]) == is_broken


def test_measured_times_grow_with_the_work():
    few, many = Shape((64, 64), "float32", 1), Shape((64, 64), "float32", 512)
    ns = shapes.measure([few, many], samples=3)
    assert 0 < ns[few] < ns[many]


# ---- threads, overhead ----


def test_the_best_third():
    assert threads.best_third(np.array([1.0, 5.0, 2.0, 4.0, 3.0, 6.0])) == 5.5
    assert threads.best_third(np.array([2.0])) == 2.0


def test_pairs_of_threads():
    result = threads.scaling(workloads.small(64), 2, n_pairs=4)
    assert len(result.seconds) == 4
    assert all(one > 0 and two > 0 for one, two in result.seconds)
    assert result.best >= result.median > 0


def test_what_is_missing_is_left_out(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("FASTNN_REFERENCE_NETWORKS", str(tmp_path))
    assert list(threads.all_results(1, "mid float32")) == []
    assert "mid float32: left out" in capsys.readouterr().err


def test_overhead_tells_the_crossing_apart(monkeypatch):
    monkeypatch.setattr(overhead, "_CALLS", 50)
    cases = {case.name: case.best for case in overhead.measure(rounds=3)}
    assert len(cases) == 8
    assert cases["no rows, out="] < cases["small float32, out="]


def test_one_row_is_shared_out_where_weights_are_streamed():
    """12.8 MB of weights, whose multiply-adds alone would not be worth a second thread."""
    rng = np.random.default_rng(1)
    layers = [Dense(rng.standard_normal((1600, 2000)), np.zeros(2000))]
    row = rng.standard_normal((1, 1600)).astype(np.float32)
    model = fastnn.Model(layers, task="regress")
    assert_same_bits(model.forward(row, threads=2), model.forward(row, threads=1))
    # On a busy machine the caller may have done all before another thread woke.
    assert any(model._work(row, threads=2)["n_threads"] == 2 for _ in range(300))
