"""pytest-benchmark: every system in every form on every workload, grouped by workload.

One after the other, so a slow spell of the machine may hit one of them alone: good for following
one contender over time (`--benchmark-autosave`, `--benchmark-compare`). For ratios between systems
see compare.py and test_bench_goals.py, which interleave.
"""

from collections.abc import Callable
from functools import cache, partial
from itertools import cycle
from typing import Any

import pytest

from benchmarks import cells, interleaved, rivals, workloads
from benchmarks.workloads import Workload

WORKLOADS: dict[str, Callable[[], Workload]] = {
    cell.name.replace(" ", "-"): partial(
        workloads.NETWORKS[cell.network], cell.batch, cell.precision
    )
    for cell in cells.cells()
}
SYSTEMS = ("fastnn", "ONNX Runtime", "OpenVINO", "PyTorch", "scikit-learn")


@cache
def workload_named(name: str) -> Workload:
    """Built once for all systems."""
    return WORKLOADS[name]()


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("name", WORKLOADS)
def test_system(benchmark: Any, name: str, system: str) -> None:
    """The fastest form of `system`, after a short interleaved trial of all its forms."""
    try:
        workload = workload_named(name)
    except FileNotFoundError as error:  # a reference network, or MNIST to calibrate on
        pytest.skip(str(error))
    found = rivals.contenders(workload, system)
    if not found:
        pytest.skip(f"{system} is not installed, or has no {workload.precision} here")
    tried = interleaved.measure(workload, found, rounds=5, slice_seconds=0.002)
    best = interleaved.fastest(tried).name
    contender = next(c for c in found if c.name == best)
    batches = cycle(workload.batches)
    benchmark.group = workload.name
    benchmark.name = contender.name
    benchmark.extra_info["rows"] = workload.source
    # A round of microseconds would time the clock.
    n_calls = max(1, round(2e-3 / interleaved.fastest(tried).median))
    benchmark.pedantic(
        lambda: [contender.call(next(batches)) for _ in range(n_calls)],
        rounds=200 if n_calls > 1 else 15,
        warmup_rounds=3,
    )
    benchmark.extra_info["calls_a_round"] = n_calls
