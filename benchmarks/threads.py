"""What threads bring: many rows shared out by rows, one row of a large network by columns.

    python -m benchmarks.threads                    # --json; --pairs 60; --only "mid int8"

8,192 rows with one thread and with two, in turns and in an order that alternates; a pair gives one
ratio, and the figure is the median of the best third of the pairs: what the machine does while it
has two CPUs to give. The median of all stands beside it. With more CPUs, a curve from one thread to
all. Time is wall time, and nothing is pinned but the process as a whole.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from time import perf_counter_ns
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks import workloads
from benchmarks.compare import machine
from benchmarks.workloads import Workload

N_ROWS = 8192
PAIRS = 45
GOAL = 1.85  # two threads against one, at N_ROWS
_SLICE_NS = 5e6  # of calls of one row


@dataclass(frozen=True)
class Scaling:
    """One workload with 1 thread and with n_threads."""

    workload: str
    n_threads: int
    seconds: list[tuple[float, float]]
    """(1 thread, n_threads) of each pair, a call."""

    @property
    def ratios(self) -> npt.NDArray[np.float64]:
        """How many times faster, pair by pair."""
        one, several = np.array(self.seconds).T
        return np.asarray(one / several)

    @property
    def best(self) -> float:
        """The median of the best third."""
        return best_third(self.ratios)

    @property
    def median(self) -> float:
        """Of all pairs."""
        return float(np.median(self.ratios))


def best_third(ratios: npt.NDArray[np.float64]) -> float:
    """The median of the largest third of them, at least one."""
    best = np.sort(ratios)[-max(1, len(ratios) // 3) :]
    return float(np.median(best))


def scaling(workload: Workload, n_threads: int, n_pairs: int) -> Scaling:
    """n_pairs of (1 thread, n_threads), each first as often as second, after a warm-up of both."""
    model = workload.model()
    verb = model.predict if workload.takes_pixels else model.forward
    out = np.empty_like(verb(workload.batches[0], threads=1))
    take = _sampler(workload, verb, out)
    seconds = []
    for n in (1, n_threads) * 2:
        take(n)
    gc.disable()
    try:
        for i in range(n_pairs):
            if i % 2 == 0:
                one = take(1)
                seconds.append((one, take(n_threads)))
            else:
                several = take(n_threads)
                seconds.append((take(1), several))
    finally:
        gc.enable()
    return Scaling(workload.name, n_threads, seconds)


def _sampler(
    workload: Workload, verb: Callable[..., Any], out: npt.NDArray[Any]
) -> Callable[[int], float]:
    """Seconds a call, with so many threads: fresh rows at every call, several where calls are
    short."""
    batches, at = workload.batches, 0

    def run(n_calls: int, n_threads: int) -> int:
        nonlocal at
        todo = [batches[(at + i) % len(batches)] for i in range(n_calls)]
        at = (at + n_calls) % len(batches)
        start = perf_counter_ns()
        for rows in todo:
            verb(rows, out=out, threads=n_threads)
        return perf_counter_ns() - start

    run(1, 1)
    n_calls = max(1, round(_SLICE_NS / run(1, 1)))
    return lambda n_threads: run(n_calls, n_threads) * 1e-9 / n_calls


def cases() -> Iterator[tuple[str, Callable[[], Workload]]]:
    """Names, and the workloads when they are asked for."""
    for precision in workloads.PRECISIONS:
        for make in (workloads.small, workloads.mid):
            yield f"{make.__name__} {precision}", lambda m=make, p=precision: m(N_ROWS, p)
        yield (
            f"square {precision}",
            lambda p=precision: workloads.square(N_ROWS, p, n_rows=N_ROWS),
        )
        yield f"large {precision}, one row", lambda p=precision: workloads.large(1, p)


def all_results(n_pairs: int, only: str) -> Iterator[Scaling]:
    """Two threads for each case, then the curve if there are more CPUs. What is not here, a trained
    network or MNIST's training images, is said on stderr and left out."""
    n_cpus = len(os.sched_getaffinity(0))
    for name, make in cases():
        if only not in name:
            continue
        try:
            workload = make()
        except FileNotFoundError as error:
            print(f"{name}: left out: {error}", file=sys.stderr)
            continue
        for n_threads in range(2, max(2, n_cpus) + 1):
            yield scaling(workload, n_threads, n_pairs)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.threads", description=__doc__)
    parser.add_argument("--pairs", type=int, default=PAIRS, help="of each case")
    parser.add_argument("--only", default="", help="cases whose name has this in it")
    parser.add_argument("--json", action="store_true", help="JSON, every pair in it")
    arguments = parser.parse_args()
    about = machine() | {"n_cpus_allowed": len(os.sched_getaffinity(0))}
    results = []
    if not arguments.json:
        print("| workload | threads | 1 thread | n threads | best third | median of all |")
        print("|---|---:|---:|---:|---:|---:|")
    for result in all_results(arguments.pairs, arguments.only):
        results.append(result)
        one, several = np.median(np.array(result.seconds), axis=0) * 1e6
        if not arguments.json:
            print(
                f"| {result.workload} | {result.n_threads} | {one:,.0f} us | {several:,.0f} us | "
                f"{result.best:.2f}x | {result.median:.2f}x |",
                flush=True,
            )
    if arguments.json:
        listing = [
            asdict(r) | {"best_third": r.best, "median": r.median, "goal": GOAL} for r in results
        ]
        print(json.dumps({"machine": about, "results": listing}, indent=1))
    else:
        print(
            f"\nGoal: {GOAL}x at {N_ROWS:,} rows and 2 threads, best third of {arguments.pairs} "
            f"pairs. {about['cpu']}, {about['n_cpus_allowed']} CPUs, load {about['load_average']}."
        )


if __name__ == "__main__":
    main()
