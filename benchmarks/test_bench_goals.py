"""The speeds that fastnn promises, as assertions. Opt-in: FASTNN_BENCH_GOALS=1.

Ratios of medians within one interleaved run, one thread, fresh rows at every call, against ONNX
Runtime in the fastest of its forms. Not part of a plain run: a busy machine moves them.
"""

import os

import pytest

from benchmarks import compare, workloads

pytestmark = pytest.mark.skipif(
    os.environ.get("FASTNN_BENCH_GOALS") != "1", reason="opt-in: FASTNN_BENCH_GOALS=1"
)

LEAST_SHARE_OF_PEAK = 0.88


@pytest.mark.parametrize(("batch", "goal"), [(1, 6.0), (1024, 1.4)])
def test_small_network_on_pixels(batch: int, goal: float) -> None:
    """784-128-10 on uint8 digits."""
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    of_medians, within = compare.run(workloads.small(batch), only="ONNX Runtime").ratios()
    assert of_medians >= goal, f"{of_medians:.2f}x of medians, {within:.2f}x within rounds"


def test_square_network_on_dense_rows() -> None:
    """1024 x 5 on 1,024 normal rows: beside ONNX Runtime and beside the core's FMA peak."""
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    result = compare.run(workloads.square(), seconds=20, with_peak=True, only="ONNX Runtime")
    of_medians, within = result.ratios()
    assert of_medians >= 1.0, f"{of_medians:.2f}x of medians, {within:.2f}x within rounds"
    assert result.peak is not None
    assert result.peak.share >= LEAST_SHARE_OF_PEAK, f"{result.peak.share:.1%} of peak"
