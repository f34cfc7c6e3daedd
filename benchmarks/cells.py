"""Every network in every precision at every batch size, beside the best rival and the limits.

    python -m benchmarks.compare cells --seconds 8 --save cells.json
    python -m benchmarks.compare cells --only "mid int8"

Invariant: what stands in one row of the report was measured in turns in one process: rivals,
fastnn with and without its skipping of zeros, multiply-adds in registers, and reading as many bytes
as the weights have. Ratios and shares are medians of those within rounds, which are of neighbours
in time.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks import interleaved, limits, rivals, workloads
from benchmarks.interleaved import Runner, Slices
from benchmarks.rivals import Contender
from benchmarks.workloads import Workload

_Float64 = npt.NDArray[np.float64]

_N_RIVALS = 3
_MOST_COUNTED = 1_000  # batches whose executed multiply-adds are counted


@dataclass(frozen=True)
class Goal:
    """What a cell is to reach."""

    ratio: float
    """How many times faster than the best rival."""
    share: float | None = None
    """Of the measured peak of multiply-adds."""
    reach: float | None = None
    """A ratio to reach for, beyond the goal."""


GOALS: dict[tuple[str, str], tuple[Goal, ...]] = {
    ("small", "float32"): (Goal(9), Goal(1.7), Goal(1.7)),
    ("small", "int8"): (Goal(12), Goal(2), Goal(2.2, reach=3)),
    ("mid", "float32"): (Goal(3.5), Goal(1.3), Goal(1.4)),
    ("mid", "int8"): (Goal(5.5), Goal(1.6, reach=1.8), Goal(1.6, reach=1.8)),
    ("large", "float32"): (Goal(2.3), Goal(1.1), Goal(1.1)),
    ("large", "int8"): (Goal(1.8), Goal(1.2), Goal(1.05)),
    ("square", "float32"): (Goal(1.35), Goal(1.1), Goal(1.05, share=0.93)),
    ("square", "int8"): (Goal(1.5), Goal(1.25), Goal(1.25, share=0.85)),
}
"""By network and precision; one for each of `workloads.BATCHES`."""


@dataclass(frozen=True)
class Cell:
    """One field of the table."""

    network: str
    precision: str
    batch: int

    @property
    def name(self) -> str:
        """As `--only` finds it."""
        return f"{self.network} {'f32' if self.precision == 'float32' else 'int8'} {self.batch}"

    @property
    def goal(self) -> Goal:
        """What it is to reach."""
        return GOALS[self.network, self.precision][workloads.BATCHES.index(self.batch)]


def cells(only: str = "") -> list[Cell]:
    """All whose name has every word of `only`, in the order of the table.

    Raises ValueError where there is none.
    """
    all_cells = [
        Cell(network, precision, batch)
        for network, precision, batch in product(
            workloads.NETWORKS, workloads.PRECISIONS, workloads.BATCHES
        )
    ]
    words = set(only.replace("float32", "f32").replace(",", "").split())
    found = [cell for cell in all_cells if words <= set(cell.name.split())]
    if not found:
        raise ValueError(f"no cell is called {only!r}, only {', '.join(c.name for c in all_cells)}")
    return found


@dataclass(frozen=True)
class Fastnn:
    """One way to run fastnn in a cell."""

    name: str
    executed: float
    """Floating-point operations a call, zeros left out: two for each multiply-add."""
    seconds: _Float64
    """A call, one value a round."""
    cpu_seconds: _Float64
    """The same, in CPU time of the thread."""


@dataclass(frozen=True)
class Result:
    """What was measured in one cell: raw samples, one a round."""

    cell: Cell
    source: str
    effective: float
    """Floating-point operations a call of a dense pass: two for each weight and row."""
    weight_bytes: int
    rivals: list[Slices]
    """The fastest forms, of whatever system, the fastest first; empty if none is installed."""
    fastnn: dict[str, Fastnn]
    """By "skip" and "dense": as it is, and without leaving zeros out."""
    peak: _Float64
    """GFLOP/s (int8: GOP/s) of multiply-adds in registers."""
    bandwidth: _Float64
    """GB/s of reading as many bytes as the weights have."""

    @property
    def ratio(self) -> _Float64 | None:
        """How many times faster than the best rival, by round."""
        return self.rivals[0].seconds / self.fastnn["skip"].seconds if self.rivals else None

    def passes(self) -> bool | None:
        """Whether the goal is reached; None where there is no rival."""
        goal = self.cell.goal
        if self.ratio is None:
            return None
        is_fast = float(np.median(self.ratio)) >= goal.ratio
        return is_fast and float(np.median(self.share_of_peak("skip"))) >= (goal.share or 0)

    def share_of_peak(self, how: str) -> _Float64:
        """Executed operations a second over the peak, by round."""
        ran = self.fastnn[how]
        return 1e-9 * ran.executed / ran.cpu_seconds / self.peak

    def limit(self, how: str) -> tuple[_Float64, str]:
        """(seconds that no program of this arithmetic can be below, what limits), by round.

        Executed multiply-adds at the peak, or weights read at the bandwidth, whichever takes
        longer. One row reads the weights that it multiplies; more rows read all of them, once.
        """
        executed = self.fastnn[how].executed
        touched = self.weight_bytes * (executed / self.effective if self.cell.batch == 1 else 1)
        reading, computing = 1e-9 * touched / self.bandwidth, 1e-9 * executed / self.peak
        is_compute = float(np.median(computing)) >= float(np.median(reading))
        return np.maximum(computing, reading), "compute" if is_compute else "bandwidth"

    def share_of_limit(self, how: str) -> _Float64:
        """The limit's time over fastnn's, both of the core alone, by round."""
        return self.limit(how)[0] / self.fastnn[how].cpu_seconds


def measure(cell: Cell, *, seconds: float = 8.0) -> Result:
    """Try everybody, then measure the fastest for about `seconds`; within `interleaved.one_cpu`."""
    workload = workloads.NETWORKS[cell.network](cell.batch, cell.precision)
    known = rivals.contenders(workload)
    length = interleaved.slice_length(workload, known)
    tried = interleaved.finalists(workload, known, seconds=seconds / 4, slice_seconds=length)
    chosen = best_rivals([c for _, c in tried])
    ours = [c for _, c in tried if c.system == "fastnn"]
    *_, dense = rivals.fastnn_forms(workload, workload.model(skips=False))
    dense = replace(dense, form=f"{dense.form} without skipping")
    n = len(chosen)
    slices, cpu, (peak, bandwidth) = _measured(
        workload, [*chosen, *ours, dense], seconds=seconds, length=length
    )
    found = {}
    best = min(range(n, n + len(ours)), key=lambda i: slices[i].median)
    for how, i, executed in (
        ("skip", best, _executed(workload)),
        ("dense", -1, workload.flop_per_call),
    ):
        found[how] = Fastnn(slices[i].name, executed, slices[i].seconds, cpu[i])
    return Result(
        cell,
        workload.source,
        workload.flop_per_call,
        workload.weight_bytes,
        sorted(slices[:n], key=lambda s: s.median),
        found,
        peak,
        bandwidth,
    )


def best_rivals(known: list[Contender]) -> list[Contender]:
    """Those that get to the final, of contenders in order of speed: the fastest forms of the two
    fastest systems, and whoever comes next."""
    others = [c for c in known if c.system != "fastnn"]
    firsts = [
        next(c for c in others if c.system == s) for s in dict.fromkeys(c.system for c in others)
    ]
    chosen = firsts[:2]
    return [*chosen, *(c for c in others if c not in chosen)][:_N_RIVALS]


def all_results(only: str, seconds: float) -> Iterator[Result]:
    """Cell by cell."""
    for cell in cells(only):
        yield measure(cell, seconds=seconds)


def _executed(workload: Workload) -> float:
    """Floating-point operations a call with zeros left out, the mean over batches."""
    model, batches = workload.model(), workload.batches[:_MOST_COUNTED]
    return float(np.mean([2.0 * model._work(rows, threads=1)["executed"] for rows in batches]))


def _measured(
    workload: Workload, contenders: list[Contender], *, seconds: float, length: float
) -> tuple[list[Slices], list[_Float64], tuple[_Float64, _Float64]]:
    """Everything in turns: slices of all, CPU seconds of all, rates of peak and bandwidth."""
    runners = [Runner(contender, workload.batches) for contender in contenders]
    cpu: list[list[float]] = [[] for _ in runners]
    tasks = [
        _noting_cpu(runner, runner.n_calls(length), kept)
        for runner, kept in zip(runners, cpu, strict=True)
    ]
    # The last layer: the first of an int8 model may be float32, for rows of the other kind.
    kernel = workload.model().kernels[-1]
    tasks += [
        limits.multiply_adds(kernel["isa"], kernel["format"], min(length, 0.003)),
        limits.reading(workload.weight_bytes),
    ]
    once = interleaved.clock(lambda each: [task() for task in each], tasks)
    for kept in cpu:
        kept.clear()
    *found, peak, bandwidth = interleaved.alternate(tasks, max(15, int(seconds / once)))
    slices = [Slices(r.name, t) for r, t in zip(runners, found, strict=True)]
    return slices, [np.array(kept) for kept in cpu], (peak, bandwidth)


def _noting_cpu(runner: Runner, n_calls: int, kept: list[float]) -> Callable[[], float]:
    def task() -> float:
        seconds = runner.take(n_calls)
        kept.append(runner.cpu_seconds)
        return seconds

    return task


# ---- the report ----


def as_json(results: list[Result], about: dict[str, Any]) -> str:
    """All samples and what the tables say; seconds, GFLOP/s and GB/s."""
    listing = []
    for r in results:
        entry: dict[str, Any] = {
            "cell": r.cell.name,
            "network": r.cell.network,
            "precision": r.cell.precision,
            "batch": r.cell.batch,
            "rows": r.source,
            "goal": vars(r.cell.goal),
            "passes": r.passes(),
            "ratio": None if r.ratio is None else _summary(r.ratio),
            "effective_flop": r.effective,
            "weight_bytes": r.weight_bytes,
            "rivals": [{"name": s.name, "seconds": s.seconds.tolist()} for s in r.rivals],
            "peak_gflops": r.peak.tolist(),
            "gbytes_per_s": r.bandwidth.tolist(),
            "fastnn": {},
        }
        for how, ran in r.fastnn.items():
            limit, limited_by = r.limit(how)
            entry["fastnn"][how] = {
                "name": ran.name,
                "executed_flop": ran.executed,
                "seconds": ran.seconds.tolist(),
                "cpu_seconds": ran.cpu_seconds.tolist(),
                "share_of_peak": _summary(r.share_of_peak(how)),
                "share_of_limit": _summary(r.share_of_limit(how)),
                "limit_seconds": float(np.median(limit)),
                "limited_by": limited_by,
            }
        listing.append(entry)
    return json.dumps({"machine": about, "cells": listing}, indent=1)


def as_markdown(results: list[Result], about: dict[str, Any]) -> str:
    """Two tables: beside the best rival, and beside the limits."""
    lines = [
        "| cell | best rival, its form | a call | p10-p90 | fastnn, its form | a call | p10-p90 "
        "| faster, by round | p10-p90 | of medians | goal | |",
        "|---|---|---:|---:|---|---:|---:|---:|---:|---:|---:|---|",
        *(_beside_rival(r) for r in results),
        "",
        "| cell | peak GFLOP/s | GB/s | limit, zeros skipped | by | fastnn | share "
        "| limit, dense | by | fastnn, no skip | share | fastnn of dense limit "
        "| executed GFLOP/s | effective GFLOP/s | of peak |",
        "|---|---:|---:|---:|---|---:|---:|---:|---|---:|---:|---:|---:|---:|---:|",
        *(_beside_limits(r) for r in results),
        "",
    ]
    versions = ", ".join(f"{name} {v}" for name, v in about["versions"].items())
    notes = [
        *dict.fromkeys(f"{r.cell.network}: {r.source}." for r in results),
        "Limit: executed multiply-adds at the peak, or reading the weights that are touched at the "
        "bandwidth of memory of their size, whichever takes longer. Share: the limit's time over "
        "fastnn's CPU time. More than 100 % of the dense limit takes skipping. int8: GOP/s.",
        f"Machine: {about['cpu']}, {about['n_cpus']} CPUs, {about['system']}; fastnn on "
        f"{about['isa']} (int8: {about['isa_int8']}), compiled by {about['compiler']}; "
        f"Python {about['python']}, {versions}; load average {about['load_average']}; "
        f"commit {about['commit']}.",
        "Method: docs/benchmarks.md.",
    ]
    return "\n".join([*lines, *(f"- {note}" for note in notes)])


def one_line(r: Result) -> str:
    """For who waits."""
    told = f"{r.cell.name}: fastnn {_typical(r.fastnn['skip'].seconds)}"
    if r.ratio is None:
        return f"{told}, no rival"
    return f"{told}, {np.median(r.ratio):.2f}x: {r.rivals[0].name}, {_typical(r.rivals[0].seconds)}"


def _beside_rival(r: Result) -> str:
    goal, ran = r.cell.goal, r.fastnn["skip"]
    wanted = f"{goal.ratio:g}x"
    if goal.reach is not None:
        wanted += f" ({goal.reach:g}x)"
    if goal.share is not None:
        wanted += f", {goal.share:.0%} of peak"
    ours = [ran.name, _typical(ran.seconds), _spread(ran.seconds)]
    if r.ratio is None:
        fields = ["none", "", "", *ours, "", "", "", wanted, ""]
    else:
        rival = r.rivals[0]
        low, middle, high = np.percentile(r.ratio, (10, 50, 90))
        fields = [
            *(rival.name, _typical(rival.seconds), _spread(rival.seconds)),
            *ours,
            *(f"**{middle:.2f}x**", f"{low:.2f}-{high:.2f}"),
            f"{rival.median / float(np.median(ran.seconds)):.2f}x",
            wanted,
            "pass" if r.passes() else "MISS",
        ]
    return "| " + " | ".join([r.cell.name, *fields]) + " |"


def _beside_limits(r: Result) -> str:
    fields = [r.cell.name, f"{np.median(r.peak):.0f}", f"{np.median(r.bandwidth):.0f}"]
    for how in ("skip", "dense"):
        limit, limited_by = r.limit(how)
        share = float(np.median(r.share_of_limit(how)))
        fields += [_typical(limit), limited_by, _typical(r.fastnn[how].seconds), f"{share:.0%}"]
    ran = r.fastnn["skip"]
    seconds = float(np.median(ran.seconds))
    fields += [
        f"{np.median(r.limit('dense')[0] / ran.cpu_seconds):.0%}",
        f"{1e-9 * ran.executed / seconds:.0f}",
        f"{1e-9 * r.effective / seconds:.0f}",
        f"{np.median(r.share_of_peak('skip')):.0%}",
    ]
    return "| " + " | ".join(fields) + " |"


def _summary(values: _Float64) -> dict[str, float]:
    low, middle, high = (float(v) for v in np.percentile(values, (10, 50, 90)))
    return {"median": middle, "p10": low, "p90": high}


def _typical(seconds: _Float64) -> str:
    return time_text(float(np.median(seconds)))


def _spread(seconds: _Float64) -> str:
    low, high = np.percentile(seconds, (10, 90))
    return f"{time_text(float(low))}-{time_text(float(high))}"


def time_text(seconds: float) -> str:
    """With its unit, three digits."""
    for unit, factor in (("s", 1.0), ("ms", 1e3), ("us", 1e6)):
        if seconds * factor >= 1:
            return f"{seconds * factor:.3g} {unit}"
    return f"{seconds * 1e6:.3f} us"
