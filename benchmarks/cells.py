"""Every network in every precision at every batch size, beside the best rival and the limits.

    python -m benchmarks.compare cells --seconds 8 --save cells.json
    python -m benchmarks.compare cells --only "mid int8"

Invariant: what stands in one row of the report was measured in turns in one process: rivals,
fastnn with and without its skipping of zeros, multiply-adds in registers, and reading as many bytes
as the weights have. Ratios and shares are medians of those within rounds, which are of neighbours
in time. A cell that has no fastnn (a build without int8) still reports its rivals.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt

import fastnn
from benchmarks import interleaved, limits, rivals, workloads
from benchmarks.interleaved import Runner, Slices
from benchmarks.rivals import Contender
from benchmarks.workloads import CannotQuantize, Workload

_Float64 = npt.NDArray[np.float64]

_N_RIVALS = 3  # of all systems, that get through the trial
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


@dataclass
class Fastnn:
    """One way to run fastnn in a cell: with or without skipping zeros."""

    name: str
    executed: float
    """Floating-point operations a call, zeros left out: two for each multiply-add."""
    seconds: _Float64
    """A call, one value a round."""
    cpu_seconds: _Float64
    """The same, in CPU time of the thread."""


@dataclass
class Result:
    """What was measured in one cell: raw samples, one a round."""

    cell: Cell
    source: str
    effective: float
    """Floating-point operations a call of a dense pass: two for each weight and row."""
    weight_bytes: int
    rivals: list[Slices]
    """The fastest forms, of whatever system, the fastest first."""
    fastnn: dict[str, Fastnn] = field(default_factory=dict)
    """By "skip" and "dense"; empty where this fastnn lacks the precision."""
    peak: _Float64 | None = None
    """GFLOP/s (int8: GOP/s) of multiply-adds in registers."""
    bandwidth: _Float64 | None = None
    """GB/s of reading as many bytes as the weights have."""

    @property
    def ratio(self) -> _Float64 | None:
        """How many times faster than the best rival, by round."""
        if not self.fastnn or not self.rivals:
            return None
        return self.rivals[0].seconds / self.fastnn["skip"].seconds

    def passes(self) -> bool | None:
        """Whether the goal is reached; None where there is nothing to compare."""
        ratio, goal = self.ratio, self.cell.goal
        if ratio is None:
            return None
        is_reached = float(np.median(ratio)) >= goal.ratio
        if goal.share is not None:
            share = self.share_of_peak()
            if share is None:
                return None
            is_reached &= float(np.median(share)) >= goal.share
        return is_reached

    def share_of_peak(self, how: str = "skip") -> _Float64 | None:
        """Executed operations a second over the peak, by round."""
        if how not in self.fastnn or self.peak is None:
            return None
        ran = self.fastnn[how]
        return 1e-9 * ran.executed / ran.cpu_seconds / self.peak

    def limit(self, how: str) -> tuple[_Float64, str] | None:
        """(seconds that no program of this arithmetic can be below, what limits), by round.

        Executed multiply-adds at the peak, or weights read at the bandwidth, whichever takes
        longer. One row reads the weights that it multiplies; more rows read all of them, once.
        """
        if how not in self.fastnn or self.bandwidth is None:
            return None
        executed = self.fastnn[how].executed
        touched = float(self.weight_bytes)
        if self.cell.batch == 1:
            touched *= executed / self.effective
        reading = 1e-9 * touched / self.bandwidth
        if self.peak is None:
            return reading, "bandwidth"
        computing = 1e-9 * executed / self.peak
        is_compute = float(np.median(computing)) >= float(np.median(reading))
        return np.maximum(computing, reading), "compute" if is_compute else "bandwidth"

    def share_of_limit(self, how: str) -> _Float64 | None:
        """The limit's time over fastnn's, both of the core alone, by round."""
        limit = self.limit(how)
        return None if limit is None else limit[0] / self.fastnn[how].cpu_seconds


def measure(cell: Cell, *, seconds: float = 8.0) -> Result:
    """Try everybody, then measure the fastest for about `seconds`; within `interleaved.one_cpu`."""
    workload = workloads.NETWORKS[cell.network](cell.batch, cell.precision)
    known = rivals.contenders(workload)
    length = interleaved.slice_length(workload, known)
    tried = interleaved.finalists(workload, known, seconds=seconds / 4, slice_seconds=length)
    chosen = [c for _, c in tried if c.system != "fastnn"][:_N_RIVALS]
    ours = [c for _, c in tried if c.system == "fastnn"]
    if ours:
        *_, dense = rivals.fastnn_forms(workload, workload.model(skips=False))
        ours.append(replace(dense, form=f"{dense.form} without skipping"))
    slices, cpu, rulers = _measured(workload, chosen, ours, seconds, length)
    n = len(chosen)
    found = Result(
        cell,
        workload.source,
        workload.flop_per_call,
        workload.weight_bytes,
        sorted(slices[:n], key=lambda s: s.median),
        peak=rulers.get("peak"),
        bandwidth=rulers["bandwidth"],
    )
    if ours:
        best = min(range(n, len(slices) - 1), key=lambda i: slices[i].median)
        for how, i, executed in (
            ("skip", best, _executed(workload, workload.model())),
            ("dense", -1, workload.flop_per_call),
        ):
            found.fastnn[how] = Fastnn(slices[i].name, executed, slices[i].seconds, cpu[i])
    return found


def _executed(workload: Workload, model: fastnn.Model) -> float:
    """Floating-point operations a call with zeros left out, the mean over batches."""
    batches = workload.batches[:_MOST_COUNTED]
    return float(np.mean([2.0 * model._work(rows, threads=1)["executed"] for rows in batches]))


def _measured(
    workload: Workload,
    chosen: list[Contender],
    ours: list[Contender],
    seconds: float,
    length: float,
) -> tuple[list[Slices], list[_Float64], dict[str, _Float64]]:
    """Everything in turns: the slices of all, their CPU seconds, and the rulers' rates."""
    runners = [Runner(contender, workload.batches) for contender in chosen + ours]
    cpu: list[list[float]] = [[] for _ in runners]
    tasks: list[Callable[[], float]] = []
    for runner, kept in zip(runners, cpu, strict=True):
        tasks.append(_noting_cpu(runner, runner.n_calls(length), kept))
    rulers = {"bandwidth": limits.reading(workload.weight_bytes)}
    with suppress(CannotQuantize, NotImplementedError):  # then the report has none
        rulers["peak"] = _peak(workload, min(length, 0.003))
    tasks += rulers.values()
    once = float(interleaved.alternate([_timed(tasks)], 1)[0, 0])
    for kept in cpu:
        kept.clear()
    found = interleaved.alternate(tasks, max(15, int(seconds / once)))
    slices = [Slices(r.name, t) for r, t in zip(runners, found, strict=False)]
    rates = dict(zip(rulers, found[len(runners) :], strict=True))
    return slices, [np.array(kept) for kept in cpu], rates


def _noting_cpu(runner: Runner, n_calls: int, kept: list[float]) -> Callable[[], float]:
    def task() -> float:
        seconds = runner.take(n_calls)
        kept.append(runner.cpu_seconds)
        return seconds

    return task


def _timed(tasks: list[Callable[[], float]]) -> Callable[[], float]:
    """A task: seconds of one round of all of them."""

    def task() -> float:
        return interleaved.clock(lambda _: [one() for one in tasks], None)

    return task


def _peak(workload: Workload, seconds: float) -> Callable[[], float]:
    # The last layer: the first of an int8 model may be float32, for rows of the other kind.
    isa = workload.model().kernels[-1]["isa"]
    return limits.multiply_adds(isa, "i8" if workload.precision == "int8" else "f32", seconds)


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
            "ratio": _summary(r.ratio),
            "effective_flop": r.effective,
            "weight_bytes": r.weight_bytes,
            "rivals": [{"name": s.name, "seconds": s.seconds.tolist()} for s in r.rivals],
            "peak_gflops": None if r.peak is None else r.peak.tolist(),
            "gbytes_per_s": None if r.bandwidth is None else r.bandwidth.tolist(),
            "fastnn": {},
        }
        for how, ran in r.fastnn.items():
            limit = r.limit(how)
            entry["fastnn"][how] = {
                "name": ran.name,
                "executed_flop": ran.executed,
                "seconds": ran.seconds.tolist(),
                "cpu_seconds": ran.cpu_seconds.tolist(),
                "share_of_peak": _summary(r.share_of_peak(how)),
                "share_of_limit": _summary(r.share_of_limit(how)),
                "limit_seconds": None if limit is None else float(np.median(limit[0])),
                "limited_by": None if limit is None else limit[1],
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
        "| cell | peak GFLOP/s | GB/s | dense limit | by | limit with skip | by | fastnn | share "
        "| dense fastnn | share | of dense limit | executed | effective GFLOP/s | of peak |",
        "|---|---:|---:|---:|---|---:|---|---:|---:|---:|---:|---:|---:|---:|---:|",
        *(_beside_limits(r) for r in results),
        "",
    ]
    versions = ", ".join(f"{name} {v}" for name, v in about["versions"].items())
    notes = [
        *dict.fromkeys(f"{r.cell.network}: {r.source}." for r in results),
        "Limit: executed multiply-adds at the peak, or reading the weights that are touched at the "
        "bandwidth of memory of their size, whichever takes longer. Share: the limit's time over "
        'fastnn\'s CPU time. "Of dense limit" above 100 % is reachable by skipping only.',
        f"Machine: {about['cpu']}, {about['n_cpus']} CPUs, {about['system']}; fastnn on "
        f"{about['isa']}, compiled by {about['compiler']}; Python {about['python']}, {versions}; "
        f"load average {about['load_average']}. Commit {about['commit']}.",
        "Method: docs/benchmarks.md.",
    ]
    return "\n".join([*lines, *(f"- {note}" for note in notes)])


def one_line(r: Result) -> str:
    """For who waits."""
    best = f"{r.rivals[0].name} {time_text(r.rivals[0].median)}" if r.rivals else "no rival"
    if r.ratio is None:
        return f"{r.cell.name}: {best}, fastnn not measured"
    seconds = time_text(float(np.median(r.fastnn["skip"].seconds)))
    return f"{r.cell.name}: {best}, fastnn {seconds}: {np.median(r.ratio):.2f}x"


def _beside_rival(r: Result) -> str:
    goal = f"{r.cell.goal.ratio:g}x"
    if r.cell.goal.reach is not None:
        goal += f" ({r.cell.goal.reach:g}x)"
    if r.cell.goal.share is not None:
        goal += f", {r.cell.goal.share:.0%} of peak"
    fields = [r.cell.name]
    fields += [r.rivals[0].name, *_times(r.rivals[0].seconds)] if r.rivals else ["none", "", ""]
    ran = r.fastnn.get("skip")
    fields += ["not measured", "", ""] if ran is None else [ran.name, *_times(ran.seconds)]
    if ran is None or r.ratio is None:
        fields += ["", "", ""]
    else:
        low, middle, high = np.percentile(r.ratio, (10, 50, 90))
        of_medians = r.rivals[0].median / float(np.median(ran.seconds))
        fields += [f"**{middle:.2f}x**", f"{low:.2f}-{high:.2f}", f"{of_medians:.2f}x"]
    fields += [goal, {True: "pass", False: "MISS", None: ""}[r.passes()]]
    return "| " + " | ".join(fields) + " |"


def _beside_limits(r: Result) -> str:
    fields = [r.cell.name]
    fields += ["" if v is None else f"{np.median(v):.0f}" for v in (r.peak, r.bandwidth)]
    for how in ("dense", "skip"):
        limit = r.limit(how)
        fields += ["", ""] if limit is None else [time_text(float(np.median(limit[0]))), limit[1]]
    for how in ("skip", "dense"):
        share = r.share_of_limit(how)
        fields.append(time_text(float(np.median(r.fastnn[how].seconds))) if r.fastnn else "")
        fields.append("" if share is None else f"{np.median(share):.0%}")
    dense = r.limit("dense")
    if dense is None:
        fields += ["", "", "", ""]
    else:
        ran = r.fastnn["skip"]
        seconds, peak = float(np.median(ran.seconds)), r.share_of_peak()
        fields += [
            f"{np.median(dense[0] / ran.cpu_seconds):.0%}",
            f"{1e-9 * ran.executed / seconds:.0f}",
            f"{1e-9 * r.effective / seconds:.0f}",
            "" if peak is None else f"{np.median(peak):.0%}",
        ]
    return "| " + " | ".join(fields) + " |"


def _summary(values: _Float64 | None) -> dict[str, float] | None:
    if values is None:
        return None
    low, middle, high = (float(v) for v in np.percentile(values, (10, 50, 90)))
    return {"median": middle, "p10": low, "p90": high}


def _times(seconds: _Float64) -> tuple[str, str]:
    low, middle, high = (time_text(float(v)) for v in np.percentile(seconds, (10, 50, 90)))
    return middle, f"{low}-{high}"


def time_text(seconds: float) -> str:
    """With its unit, three digits."""
    for unit, factor in (("s", 1.0), ("ms", 1e3), ("us", 1e6)):
        if seconds * factor >= 1:
            return f"{seconds * factor:.3g} {unit}"
    return f"{seconds * 1e6:.3f} us"


def all_results(only: str, seconds: float) -> Iterator[Result]:
    """Cell by cell."""
    for cell in cells(only):
        yield measure(cell, seconds=seconds)
