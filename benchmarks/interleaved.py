"""Taking time fairly on a machine that others use too.

Invariant: contenders alternate in short slices within one process, on one thread pinned to one
CPU, in an order drawn anew each round. So a slow spell of the machine falls on all of them, and
ratios within a round are of neighbours in time. Reported are medians over many rounds, with the
10th and 90th percentile as spread; the collector is off while the clock runs.
"""

from __future__ import annotations

import gc
import os
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter_ns, thread_time_ns
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks import limits
from benchmarks.rivals import Contender
from benchmarks.workloads import Workload


@dataclass(frozen=True)
class Slices:
    """Seconds a call of one contender, one value a round."""

    name: str
    seconds: npt.NDArray[np.float64]

    @property
    def median(self) -> float:
        """Seconds."""
        return float(np.median(self.seconds))

    @property
    def spread(self) -> tuple[float, float]:
        """10th and 90th percentile, seconds."""
        low, high = np.percentile(self.seconds, (10, 90))
        return float(low), float(high)

    def faster_than(self, other: Slices) -> tuple[float, float]:
        """How many times: ratio of the medians, median of the ratios within rounds."""
        return other.median / self.median, float(np.median(other.seconds / self.seconds))


@contextmanager
def one_cpu(cpu: int | None = None) -> Iterator[int]:
    """The calling thread on one CPU, the last that it may use unless told; all BLAS single."""
    allowed = os.sched_getaffinity(0)
    cpu = max(allowed) if cpu is None else cpu
    os.sched_setaffinity(0, {cpu})
    try:
        try:
            from threadpoolctl import threadpool_limits
        except ImportError:
            yield cpu
        else:
            with threadpool_limits(1):
                yield cpu
    finally:
        os.sched_setaffinity(0, allowed)


class Runner:
    """Calls of one contender, batch after batch, from where the slice before left off."""

    def __init__(self, contender: Contender, batches: Sequence[npt.NDArray[Any]]) -> None:
        self.name = contender.name
        self.call = contender.call
        self.batches = batches
        self.at = 0
        self.cpu_seconds = 0.0
        """Of the thread, a call, in the last slice: what it ran while others did not."""

    def take(self, n_calls: int) -> float:
        """Seconds a call, over n_calls, after some that are not timed.

        Those fetch the weights that the contender before may have driven out of the caches, which
        in a slice of its own would count for the more the fewer calls it has.
        """
        n, call = len(self.batches), self.call
        n_warm = 1 + n_calls // 8
        todo = [self.batches[(self.at + i) % n] for i in range(n_warm + n_calls)]
        self.at = (self.at + n_warm + n_calls) % n
        for rows in todo[:n_warm]:
            call(rows)
        todo = todo[n_warm:]
        cpu, start = thread_time_ns(), perf_counter_ns()
        for rows in todo:
            call(rows)
        end, cpu_end = perf_counter_ns(), thread_time_ns()
        self.cpu_seconds = (cpu_end - cpu) * 1e-9 / n_calls
        return (end - start) * 1e-9 / n_calls

    def n_calls(self, seconds: float) -> int:
        """How many calls fill a slice."""
        once, n = self.take(1), 1
        while once * n < seconds / 2 and n < 1 << 20:
            n *= 4
            once = self.take(n)
        return max(1, round(seconds / once))


def measure(
    workload: Workload, contenders: Sequence[Contender], *, rounds: int, slice_seconds: float
) -> list[Slices]:
    """`rounds` slices of each, interleaved, each as long as `slice_seconds` or one call."""
    runners = [Runner(contender, workload.batches) for contender in contenders]
    lengths = [runner.n_calls(slice_seconds) for runner in runners]
    tasks = [lambda r=r, n=n: r.take(n) for r, n in zip(runners, lengths, strict=True)]
    times = alternate(tasks, rounds)
    return [Slices(r.name, t) for r, t in zip(runners, times, strict=True)]


def finalists(
    workload: Workload, known: Sequence[Contender], *, seconds: float, slice_seconds: float
) -> list[tuple[float, Contender]]:
    """(least seconds a call in a trial of about `seconds`, contender), the fastest first.

    The least and not the median: of few slices, on a busy machine, it is the better guess.
    """
    rounds = max(3, int(seconds / (slice_seconds * max(1, len(known)))))
    tried = measure(workload, known, rounds=rounds, slice_seconds=slice_seconds)
    least = [float(slices.seconds.min()) for slices in tried]
    return [(least[i], known[i]) for i in sorted(range(len(known)), key=least.__getitem__)]


def slice_length(workload: Workload, known: Sequence[Contender]) -> float:
    """Seconds: at least 3 ms, and a call of the fastest that is known."""
    return max(0.003, min((clock(c.call, workload.batches[0]) for c in known), default=0.0))


def alternate(tasks: Sequence[Callable[[], float]], rounds: int) -> npt.NDArray[np.float64]:
    """What each task returned in each round, shape (tasks, rounds)."""
    order, rng = list(range(len(tasks))), random.Random(1)
    found = np.empty((len(tasks), rounds))
    gc.collect()
    gc.disable()
    try:
        for i in range(rounds):
            rng.shuffle(order)
            for task in order:
                found[task, i] = tasks[task]()
    finally:
        gc.enable()
    return found


def clock(call: Callable[[Any], Any], argument: Any) -> float:
    """Seconds of one call."""
    start = perf_counter_ns()
    call(argument)
    return (perf_counter_ns() - start) * 1e-9


def fastest(slices: Sequence[Slices]) -> Slices:
    """The one of the smallest median."""
    return min(slices, key=lambda s: s.median)


@dataclass(frozen=True)
class Peak:
    """fastnn beside multiply-adds in registers, on the same core, in turns. Rates in GFLOP/s.

    Time that the operating system gives to other processes counts for neither: the question is how
    well fastnn uses the core while it has it. A slower clock or a neighbour on the core slows both.
    """

    executed: npt.NDArray[np.float64]
    """Of each round, in CPU time of the thread."""
    peak: npt.NDArray[np.float64]
    """Of each round: the median of many bursts of less than 0.1 ms."""

    @property
    def share(self) -> float:
        """The median over the rounds."""
        return float(np.median(self.executed / self.peak))

    @property
    def spread(self) -> tuple[float, float]:
        """10th and 90th percentile of the rounds' shares."""
        low, high = np.percentile(self.executed / self.peak, (10, 90))
        return float(low), float(high)


def against_peak(workload: Workload, *, rounds: int, slice_seconds: float) -> Peak:
    """fastnn's executed multiply-adds (zeros left out) on `workload` beside the measured peak."""
    model = workload.model()
    verb = model.predict if workload.takes_pixels else model.forward
    out = np.empty_like(verb(workload.batches[0]))
    isa = model.kernels[0]["isa"]
    flop = [2e-9 * model._work(rows, threads=1)["executed"] for rows in workload.batches]
    at = 0

    def work() -> float:
        nonlocal at
        start, done, elapsed = thread_time_ns(), 0.0, 0.0
        while elapsed < slice_seconds:
            verb(workload.batches[at], out=out)
            done += flop[at]
            at = (at + 1) % len(flop)
            elapsed = (thread_time_ns() - start) * 1e-9
        return done / elapsed

    work()
    burn = limits.multiply_adds(isa, "f32", slice_seconds)
    executed, peak = alternate((work, burn), rounds)
    return Peak(executed, peak)
