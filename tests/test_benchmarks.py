"""benchmarks/: that it measures what it says. No test here depends on how fast this machine is.

Invariant: networks are tiny and rows few, so that rivals build and answer in milliseconds; which
rivals there are, the environment decides (the extra "bench").
"""

import json
import os
import signal
from dataclasses import replace

import numpy as np
import pytest

import fastnn
from benchmarks import cells, int8_graphs, interleaved, limits, rivals, workloads
from benchmarks.cells import Cell, Fastnn, Goal, Result
from benchmarks.interleaved import Runner, Slices
from benchmarks.rivals import Contender
from benchmarks.workloads import Workload
from fastnn import Dense, mnist

RIVALS = "onnx and onnxruntime are in the extra bench"


def tiny(precision="int8", batch=60, pixels=False, seed=3):
    """20-16-8 with an identity at the end; normal rows, or pixels."""
    rng = np.random.default_rng(seed)
    layers = (
        Dense(rng.normal(0, 0.3, (20, 16)), rng.normal(0, 0.1, 16), "relu"),
        # One output mostly wins: flips of labels that are nearly ties are no news in int8.
        Dense(rng.normal(0, 0.3, (16, 8)), np.linspace(-4, 4, 8)),
    )
    rows, calibration = (
        rng.integers(0, 256, (600, 20)).astype(np.uint8)
        if pixels
        else rng.standard_normal((600, 20), np.float32)
        for _ in range(2)
    )
    if not pixels:  # what saturates is off by more than rounding
        calibration *= np.float32(1.2)
    return Workload(
        network="tiny",
        shape="20-16-8",
        layers=layers,
        scale=1 / 255 if pixels else 1.0,
        batches=[rows[i : i + batch] for i in range(0, len(rows) - batch + 1, batch)],
        source="random",
        precision=precision,
        calibration=calibration if precision == "int8" else None,
    )


# ---- workloads ----


@pytest.mark.parametrize("batch", workloads.BATCHES)
def test_every_call_of_a_workload_sees_other_rows(batch):
    small, square = workloads.small(batch), workloads.square(batch)
    for workload in (small, square):
        assert workload.batch == batch
        assert len(workload.batches) == (10_000 if workload is small else 4_096) // batch
        assert workload.batches[0].base is workload.batches[-1].base  # one pool, cut
    assert len(np.unique(square.batches[0][:, 0])) == batch
    assert small.flop_per_call == 2 * batch * (784 * 128 + 128 * 10)
    assert (square.weight_bytes, square.takes_pixels) == (4 * 4 * 1024**2, False)


def test_pixels_are_calibrated_on_training_images_only(mnist_path, monkeypatch):
    monkeypatch.setenv("FASTNN_MNIST", str(mnist_path))
    workload = workloads.small(1, "int8")
    rows = {row.tobytes() for row in workload.calibration}
    assert workload.calibration.dtype == np.uint8
    assert len(rows) == 2_000
    assert not rows & {image.tobytes() for image in mnist.load("test")[0]}
    assert not rows & {image.tobytes() for image in mnist.sample()[0]}
    assert len({batch.tobytes() for batch in workload.batches}) > 9_900
    assert "int8, one row" in workload.name


def test_int8_without_mnist_refuses(monkeypatch, tmp_path):
    monkeypatch.setenv("FASTNN_MNIST", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(FileNotFoundError):
        workloads.small(1, "int8")
    assert workloads.small(1).calibration is None


def test_square_is_calibrated_on_other_rows():
    workload = workloads.square(64, "int8")
    measured = {row.tobytes() for batch in workload.batches for row in batch}
    assert not measured & {row.tobytes() for row in workload.calibration}
    assert workload.weight_bytes == 4 * 1024**2


def test_a_missing_reference_network_says_how_to_make_it(monkeypatch, tmp_path):
    monkeypatch.setenv("FASTNN_REFERENCE_NETWORKS", str(tmp_path))
    command = f"python -m training.reference_networks mid --out {tmp_path}"
    with pytest.raises(FileNotFoundError, match=command):
        workloads.mid(1)


def test_a_reference_network_is_read(monkeypatch, tmp_path):
    rng = np.random.default_rng(0)
    layers = [Dense(rng.normal(0, 1, (784, 10)), np.zeros(10), "softmax")]
    fastnn.Model(layers, scale=1 / 255, metadata={"test_accuracy": "0.5"}).save(
        tmp_path / "large.safetensors"
    )
    monkeypatch.setenv("FASTNN_REFERENCE_NETWORKS", str(tmp_path))
    workload = workloads.large(64)
    np.testing.assert_array_equal(workload.layers[0].weight, layers[0].weight)
    assert "test accuracy 0.5" in workload.source


def test_an_unknown_precision():
    with pytest.raises(ValueError, match="precision is 'int4', wanted one of float32, int8"):
        workloads.square(1, "int4")


def test_ranges_are_those_of_the_layers_inputs_and_hold_zero():
    workload = tiny()
    x = workload.calibration.astype(np.float64)
    hidden = np.maximum(x @ workload.layers[0].weight + workload.layers[0].bias, 0)
    z = hidden @ workload.layers[1].weight + workload.layers[1].bias
    expected = [(x.min(), x.max()), (0, hidden.max()), (z.min(), z.max())]
    np.testing.assert_allclose(workload.ranges, expected, rtol=1e-6)
    assert tiny(pixels=True).ranges[0] == (0.0, 1.0)
    with pytest.raises(ValueError, match="calibration"):
        _ = tiny("float32").ranges


def test_checked_rows_of_int8_are_a_thousand_or_all():
    assert sum(len(rows) for rows, _ in tiny().checked) == 600
    assert [len(rows) for rows, _ in tiny("float32").checked] == [60, 60]
    rows, z = tiny().checked[1]
    np.testing.assert_array_equal(z, tiny().expected(rows))


def test_a_model_that_multiplies_zeros_too(monkeypatch):
    monkeypatch.setenv("FASTNN_SKIP", "1")
    workload = tiny("float32", pixels=True)
    rows = np.zeros((60, 20), np.uint8)
    dense = workload.model(skips=False)._work(rows, threads=1)
    assert dense["executed"] == dense["effective"]
    assert workload.model()._work(rows, threads=1)["executed"] < dense["executed"]
    assert os.environ["FASTNN_SKIP"] == "1"


# ---- int8 of the rivals ----


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-3.0, 5.0), (-0.1, 0.0), (0.0, 0.0)])
def test_affine(low, high):
    affine = int8_graphs.Affine.of(low, high)
    assert affine.dequantised(np.array([affine.zero], np.uint8))[0] == 0
    ends = affine.dequantised(np.array([0, 255], np.uint8))
    if high > low:
        np.testing.assert_allclose(ends, (low, high), atol=float(affine.scale))


def test_pixels_are_their_own_quantised_values():
    affine = int8_graphs.affines(tiny(pixels=True))[0]
    assert affine == int8_graphs.Affine(np.float32(1 / 255), 0)


@pytest.mark.parametrize(
    ("features", "most", "want"),
    [
        (["avx2", "avx512_vnni"], 127, [[127, 0, -127], [-64, 0, 63]]),
        (["asimd"], 127, [[127, 0, -127], [-64, 0, 63]]),
        (["avx2", "fma"], 63, [[63, 0, -63], [-32, 0, 31]]),
    ],
)
def test_quantised_weights(monkeypatch, features, most, want):
    monkeypatch.setattr(int8_graphs.fastnn, "cpu_features", lambda: features)
    weight = np.array([[1.0, 0.0, -3.0], [-0.501, 0.0, 1.49]], np.float32)
    q, scale = int8_graphs.quantised_weight(weight)
    assert q.tolist() == want
    np.testing.assert_array_equal(scale, np.array([1 / most, 1, 3 / most], np.float32))


def test_who_writes_what_is_unknown():
    pytest.importorskip("onnx", reason=RIVALS)
    with pytest.raises(ValueError, match="'bits'"):
        int8_graphs.onnx_int8(tiny(), rows="bits", writing="QGemm")


def outputs(file, workload):
    onnxruntime = pytest.importorskip("onnxruntime", reason=RIVALS)
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(["z"], {"x": rows})[0] for rows in workload.batches])


@pytest.mark.parametrize("writing", int8_graphs.WRITINGS)
def test_all_ways_to_write_the_graph_are_one_network(writing):
    pytest.importorskip("onnx", reason=RIVALS)
    workload = tiny(pixels=True)
    how = {"rows": int8_graphs.INPUTS[0], "writing": writing}
    z = outputs(int8_graphs.onnx_int8(workload, **how), workload)
    expected = workload.expected(np.concatenate(workload.batches))
    assert 0 < np.abs(z - expected).max() < 0.04 * np.abs(expected).max()
    q = outputs(int8_graphs.onnx_int8(workload, **how, quantised_out=True), workload)
    affine = int8_graphs.affines(workload)[-1]
    step = float(affine.scale)
    z = np.clip(z, *affine.dequantised(np.array([0, 255], np.uint8)))
    assert q.dtype == np.uint8
    np.testing.assert_allclose(affine.dequantised(q), z, atol=0.51 * step)


def test_rivals_of_int8_prove_that_they_run_integers():
    pytest.importorskip("onnxruntime", reason=RIVALS)
    pytest.importorskip("onnx", reason=RIVALS)
    how = {"rows": "float", "writing": "QDQ Gemm"}
    rivals.require_integer_onnxruntime(int8_graphs.onnx_int8(tiny(), **how), n_layers=2)
    floats = rivals.onnx_bytes(tiny(), pixels_in=False, folded=False)
    with pytest.raises(AssertionError, match="ONNX Runtime runs"):
        rivals.require_integer_onnxruntime(floats, n_layers=2)


def test_openvino_leaves_the_signal_stack_alone():
    """Without own_signal_stack, any signal after this test ends the process."""
    pytest.importorskip("openvino", reason=RIVALS)
    pytest.importorskip("onnx", reason=RIVALS)
    fired = []
    before = signal.signal(signal.SIGUSR1, lambda *_: fired.append(1))
    try:
        rivals._openvino_compiled(rivals.onnx_bytes(tiny(), pixels_in=False, folded=False))
        os.kill(os.getpid(), signal.SIGUSR1)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert fired


def test_openvino_of_int8_proves_that_it_runs_integers():
    pytest.importorskip("onnx", reason=RIVALS)
    pytest.importorskip("openvino", reason="openvino is not installed")
    file = int8_graphs.onnx_int8(tiny(), rows="float", writing="QDQ Gemm")
    compiled = rivals._openvino_compiled(file)
    if not any("vnni" in feature for feature in fastnn.cpu_features()):
        pytest.skip("NOT TESTED: this CPU lacks VNNI, the kernels have other names")
    rivals.require_integer_openvino(compiled, n_layers=2)
    floats = rivals._openvino_compiled(rivals.onnx_bytes(tiny(), pixels_in=False, folded=False))
    with pytest.raises(AssertionError, match="OpenVINO runs"):
        rivals.require_integer_openvino(floats, n_layers=2)


@pytest.mark.parametrize("pixels", [False, True])
def test_rivals_of_int8_are_checked_in_every_form(pixels):
    pytest.importorskip("onnxruntime", reason=RIVALS)
    pytest.importorskip("onnx", reason=RIVALS)
    found = rivals.contenders(tiny(pixels=pixels), "ONNX Runtime")
    assert len(found) == 2 * 2 * 2 * (3 if pixels else 1)  # out, spinning, API, input
    assert {"uint8 out" in c.name for c in found} == {False, True}


# ---- what counts as right in int8 ----


def test_int8_answers_may_be_off_by_little():
    workload = tiny()
    z = workload.expected(np.concatenate(workload.batches))
    rng = np.random.default_rng(5)

    def check(found, labels=None):
        labels = found.argmax(axis=1) if labels is None else labels
        rivals.check_int8("x", found, z, workload, labels)

    size = np.sqrt(np.square(z).mean())
    check(z + 0.01 * size * rng.standard_normal(z.shape))
    with pytest.raises(AssertionError, match="root mean square"):
        check(z + 0.06 * size * rng.choice([-1, 1], z.shape))
    wrong = z.copy()
    wrong[7, 3] += 0.1 * np.abs(z).max()
    with pytest.raises(AssertionError, match="of the largest z"):
        check(wrong)


def test_int8_labels_of_digits_agree():
    workload = tiny(pixels=True)
    z = workload.expected(np.concatenate(workload.batches))
    labels = z.argmax(axis=1)
    labels[:5] = (labels[:5] + 1) % 8  # 5 of 600
    rivals.check_int8("x", z, z, workload, labels)
    labels[:9] = (z[:9].argmax(axis=1) + 1) % 8
    with pytest.raises(AssertionError, match="labels"):
        rivals.check_int8("x", z, z, workload, labels)


def test_quantised_outputs_may_saturate():
    workload = tiny()
    affine = int8_graphs.affines(workload)[-1]
    z = workload.expected(np.concatenate(workload.batches))
    z[0] = 1e3
    q = np.clip(np.rint(z / float(affine.scale)) + affine.zero, 0, 255).astype(np.uint8)
    rivals.check_int8("x", q, z, workload, q.argmax(axis=1))
    with pytest.raises(AssertionError):
        rivals.check_int8("x", 255 - q, z, workload, q.argmax(axis=1))


def test_float32_stays_strict():
    workload = tiny("float32")
    right = Contender("x", "", workload.expected)
    right.check(workload)
    with pytest.raises(AssertionError):
        replace(right, call=lambda rows: workload.expected(rows) * 1.001).check(workload)


def test_fastnn_in_int8_is_checked_too():
    for pixels in (False, True):
        found = rivals.contenders(tiny(pixels=pixels), "fastnn")
        assert [c.form.endswith("out=") for c in found] == [False, True]


# ---- taking time ----


def test_a_runner_times_what_it_says_and_walks_on():
    seen = []
    batches = [np.full(1, i) for i in range(7)]
    runner = Runner(Contender("x", "", lambda rows: seen.append(int(rows[0]))), batches)
    assert runner.take(3) > 0
    assert runner.take(16) > 0
    assert len(seen) == 1 + 3 + (1 + 2) + 16  # untimed ones before each slice
    assert seen == [i % 7 for i in range(len(seen))]
    assert 0 <= runner.cpu_seconds < 0.1


def test_finalists_come_in_order_of_speed():
    workload = tiny("float32")

    def wait(n):
        return Contender("x", str(n), lambda rows: sum(range(n)))

    known = [wait(300_000), wait(100), wait(30_000)]
    length = interleaved.slice_length(workload, known)
    assert length == 0.003
    found = interleaved.finalists(workload, known, seconds=0.05, slice_seconds=0.001)
    assert [contender.form for _, contender in found] == ["100", "30000", "300000"]


@pytest.mark.parametrize("number_format", ["f32", "i8"])
def test_multiply_adds(number_format):
    assert limits.multiply_adds("scalar", number_format, 0.0005)() > 0


def test_reading_is_not_of_one_page():
    """Pages of zeros never written would be read from level 1: no memory gives such a rate."""
    small, tall = (max(limits.reading(n)() for _ in range(3)) for n in (1 << 15, 1 << 27))
    assert 0.1 < tall < small < 10_000  # GB/s


# ---- cells ----


def test_the_table_has_24_cells_each_with_a_goal():
    found = cells.cells()
    assert len(found) == len({cell.name for cell in found}) == 24
    assert all(cell.goal.ratio > 1 for cell in found)
    assert Cell("square", "int8", 1024).goal == Goal(1.25, share=0.85)
    assert Cell("small", "float32", 1).goal == Goal(9)


@pytest.mark.parametrize(
    ("only", "n"), [("mid int8", 3), ("mid int8 64", 1), ("1", 8), ("square float32", 3), ("", 24)]
)
def test_cells_by_name(only, n):
    assert len(cells.cells(only)) == n


def test_an_unknown_cell():
    with pytest.raises(ValueError, match="no cell is called 'huge'.*small f32 1, "):
        cells.cells("huge")


def result(cell=None, seconds=1e-3, share=1.0, peak=100.0):
    """A cell whose rival takes 2 ms a call, on a core of 100 GFLOP/s and 10 GB/s."""
    n = 5
    flop = 1e-3 * 100e9
    return Result(
        cell or Cell("square", "float32", 1024),
        "random rows",
        effective=flop,
        weight_bytes=1_000_000,  # 0.1 ms
        rivals=[Slices("ORT", np.full(n, 2e-3)), Slices("OpenVINO", np.full(n, 3e-3))],
        fastnn={
            "skip": Fastnn("fastnn, a", share * flop, np.full(n, seconds), np.full(n, seconds)),
            "dense": Fastnn("fastnn, b", flop, np.full(n, 2e-3), np.full(n, 2e-3)),
        },
        peak=np.full(n, peak),
        bandwidth=np.full(n, 10.0),
    )


def test_ratios_goals_and_limits():
    found = result()
    np.testing.assert_allclose(found.ratio, 2.0)
    np.testing.assert_allclose(found.share_of_peak("skip"), 1.0)
    assert found.passes() is True
    assert found.limit("skip")[1] == "compute"
    np.testing.assert_allclose(found.share_of_limit("dense"), 0.5)
    half = result(share=0.5)  # as fast, by leaving half of it out: not at the share of the peak
    np.testing.assert_allclose(half.share_of_peak("skip"), 0.5)
    assert half.passes() is False
    assert result(seconds=1.95e-3).passes() is False
    assert result(Cell("small", "float32", 64)).passes() is True


def test_one_row_is_limited_by_the_weights_that_it_touches():
    found = result(Cell("small", "float32", 1), share=0.25, peak=1e6)
    seconds, what = found.limit("skip")
    assert what == "bandwidth"
    np.testing.assert_allclose(seconds, 0.25e-4)
    np.testing.assert_allclose(found.limit("dense")[0], 1e-4)
    more_rows = result(share=0.25, peak=1e6)
    np.testing.assert_allclose(more_rows.limit("skip")[0], 1e-4)


def test_without_a_rival_nothing_is_claimed():
    alone = replace(result(), rivals=[])
    assert alone.ratio is None
    assert alone.passes() is None


ABOUT = {
    "cpu": "x", "n_cpus": 1, "system": "x", "python": "3", "isa": "a", "isa_int8": "b",
    "compiler": "cc", "load_average": 0.0, "versions": {"numpy": "2"}, "commit": "abc",
}  # fmt: skip


def test_reports_of_cells():
    slow = result(Cell("mid", "int8", 1), seconds=1e-2)
    listed = [result(), slow, replace(slow, rivals=[])]
    markdown = cells.as_markdown(listed, ABOUT)
    tables = markdown.split("\n\n")[:2]
    for table in tables:
        lines = table.splitlines()
        assert len(lines) == 2 + len(listed)
        assert len({line.count("|") for line in lines}) == 1
    assert "| square f32 1024 | ORT | 2 ms |" in tables[0]
    assert "**2.00x**" in tables[0]
    assert "| pass |" in tables[0]
    assert tables[0].count("| MISS |") == 1
    assert "| mid int8 1 | none |" in tables[0]
    told = json.loads(cells.as_json(listed, ABOUT))
    assert told["machine"] == ABOUT
    first = told["cells"][0]
    assert first["ratio"]["median"] == 2.0
    assert first["passes"] is True
    assert first["rivals"][0] == {"name": "ORT", "seconds": [2e-3] * 5}
    assert first["fastnn"]["skip"]["share_of_limit"]["median"] == 1.0
    assert [cell["passes"] for cell in told["cells"]] == [True, False, None]
    assert cells.one_line(listed[0]) == "square f32 1024: fastnn 1 ms, 2.00x: ORT, 2 ms"
    assert cells.one_line(listed[2]).endswith("no rival")


def test_the_final_has_two_systems_and_the_next_form():
    known = [
        Contender(system, form, len)
        for system, form in [("fastnn", ""), *(("ORT", f) for f in "abc"), ("OV", "a"), ("PT", "a")]
    ]
    found = [contender.name for contender in cells.best_rivals(known)]
    assert found == ["ORT, a", "OV, a", "ORT, b"]
    assert cells.best_rivals(known[:1]) == []
    assert len(cells.best_rivals(known[:3])) == 2


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_a_cell_from_end_to_end(monkeypatch, precision):
    monkeypatch.setitem(
        workloads.NETWORKS, "small", lambda batch, precision: tiny(precision, batch)
    )
    with interleaved.one_cpu():
        found = cells.measure(Cell("small", precision, 64), seconds=0.1)
    assert set(found.fastnn) == {"skip", "dense"}
    assert found.fastnn["skip"].executed <= found.fastnn["dense"].executed == found.effective
    assert "without skipping" in found.fastnn["dense"].name
    n_rounds = {len(s.seconds) for s in found.rivals}
    n_rounds |= {len(ran.cpu_seconds) for ran in found.fastnn.values()}
    n_rounds |= {len(ran.seconds) for ran in found.fastnn.values()}
    assert n_rounds == {len(found.bandwidth)} == {len(found.peak)}
    assert len(found.bandwidth) >= 15
    assert len(found.rivals) <= 3
    medians = [s.median for s in found.rivals]
    assert medians == sorted(medians)


# ---- the reference networks ----


def test_reference_networks_are_seeded_and_exported_whole(monkeypatch):
    torch = pytest.importorskip("torch", reason="NOT TESTED: needs torch, a tool of training only")
    from training import data, reference_networks

    monkeypatch.setitem(reference_networks.WIDTHS, "mid", (784, 12, 8, 10))
    images, labels = mnist.sample()  # a stand-in: nothing that is kept is trained here
    digits = data.Digits(images[::2], labels[::2], images[1::2], labels[1::2])
    one, two = (reference_networks.train("mid", digits, seed=4, epochs=2) for _ in range(2))
    for a, b in zip(one.layers, two.layers, strict=True):
        np.testing.assert_array_equal(a.weight, b.weight)
        np.testing.assert_array_equal(a.bias, b.bias)
    assert [layer.activation for layer in one.layers] == ["relu", "relu", "softmax"]
    assert one.metadata["seed"] == "4"
    other = reference_networks.train("mid", digits, seed=5, epochs=1)
    assert not np.array_equal(one.layers[0].weight, other.layers[0].weight)

    torch.manual_seed(0)
    network = reference_networks.build((784, 12, 8, 10))
    rows = images[:50].reshape(50, 784)
    with torch.no_grad():
        expected = network(torch.from_numpy(rows).float() / 255).numpy()
    found = reference_networks.export("mid", network).decision_function(rows)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
