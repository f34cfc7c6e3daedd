"""`python -m benchmarks.compare`: fastnn beside its rivals, as one table in Markdown or JSON.

`python -m benchmarks.compare cells` measures more, cell by cell: see cells.py.

Invariant: the report says what it was measured on and how. All forms of all systems qualify in a
short run; the fastest forms of each system meet in the final one, whose figures are printed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import cells, interleaved, rivals, workloads
from benchmarks.cells import time_text
from benchmarks.interleaved import Peak, Slices
from benchmarks.workloads import Workload
from fastnn import _core

_FINALISTS = 2  # forms of each system


@dataclass(frozen=True)
class Result:
    """One workload: the final's slices, the fastest form of each system first."""

    workload: Workload
    slices: dict[str, Slices]
    peak: Peak | None = None

    def ratios(self, system: str = "ONNX Runtime") -> tuple[float, float]:
        """How many times fastnn is faster: of medians, and the median within rounds."""
        return self.slices["fastnn"].faster_than(self.slices[system])


def run(
    workload: Workload, *, seconds: float = 8.0, with_peak: bool = False, only: str = ""
) -> Result:
    """Qualify, then measure for about `seconds`; call within `interleaved.one_cpu`."""
    known = rivals.contenders(workload)
    if only:
        known = [c for c in known if c.system == "fastnn" or only in c.name]
    length = interleaved.slice_length(workload, known)
    tried = interleaved.finalists(workload, known, seconds=seconds / 4, slice_seconds=length)
    chosen = []
    for system in dict.fromkeys(c.system for c in known):
        chosen += [(s, c) for s, c in tried if c.system == system][:_FINALISTS]
    finalists = [c for _, c in chosen]
    rounds = max(15, int(seconds / sum(max(s, length) for s, _ in chosen)))
    found = interleaved.measure(workload, finalists, rounds=rounds, slice_seconds=length)
    best = {}
    for system in dict.fromkeys(c.system for c in finalists):
        forms = [s for s, c in zip(found, finalists, strict=True) if c.system == system]
        best[system] = interleaved.fastest(forms)
    peak = None
    if with_peak:
        rounds = max(25, int(seconds / 2 / (2 * length)))
        peak = interleaved.against_peak(workload, rounds=rounds, slice_seconds=length)
    return Result(workload, best, peak)


def all_results(seconds: float) -> Iterator[Result]:
    """The four workloads of the report, one after the other."""
    for batch in (1, 64, 1024):
        yield run(workloads.small(batch), seconds=seconds)
    yield run(workloads.square(), seconds=2 * seconds, with_peak=True)


def machine() -> dict[str, Any]:
    """What it was measured on."""
    cpu = next(
        (
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.processor() or platform.machine(),
    )
    kernel = _kernel("f32")
    return {
        "cpu": cpu,
        "n_cpus": os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "isa": kernel["isa"],
        "isa_int8": _kernel("i8")["isa"],
        "tile": f"{kernel['mr']}x{kernel['nr']}",
        "compiler": _core.build_info()["compiler"],
        "load_average": round(os.getloadavg()[0], 2),
        "versions": rivals.versions(),
    }


def _kernel(number_format: str) -> dict[str, Any]:
    """The one that fastnn takes here."""
    return next(k for k in _core.kernels() if k["is_chosen"] and k["format"] == number_format)


def as_json(results: list[Result], about: dict[str, Any]) -> str:
    """Everything in the table, in seconds and ratios."""
    listing = []
    for result in results:
        entry: dict[str, Any] = {"workload": result.workload.name, "rows": result.workload.source}
        entry["contenders"] = [
            {
                "system": system,
                "name": s.name,
                "median": s.median,
                "p10": s.spread[0],
                "p90": s.spread[1],
                "n_slices": len(s.seconds),
                "fastnn_faster": result.ratios(system),
            }
            for system, s in result.slices.items()
        ]
        if result.peak is not None:
            entry["share_of_peak"] = result.peak.share
            entry["share_of_peak_p10_p90"] = result.peak.spread
        listing.append(entry)
    return json.dumps({"machine": about, "results": listing}, indent=1)


def as_markdown(results: list[Result], about: dict[str, Any]) -> str:
    """The report: one table, what it was measured on, and how."""
    lines = [
        "| workload | system, fastest form | time a call | p10-p90 | rows/s | fastnn is faster |",
        "|---|---|---:|---:|---:|---:|",
    ]
    notes = []
    for result in results:
        for system, s in result.slices.items():
            low, high = s.spread
            of_medians, within = result.ratios(system)
            ratio = "" if system == "fastnn" else f"{of_medians:.2f}x (by round {within:.2f}x)"
            rate = result.workload.batch / s.median
            lines.append(
                f"| {result.workload.name} | {s.name} | {time_text(s.median)} | "
                f"{time_text(low)}-{time_text(high)} | {rate:,.0f} | {ratio} |"
            )
        if result.peak is not None:
            low, high = result.peak.spread
            notes.append(
                f"{result.workload.name}: fastnn runs at {result.peak.share:.1%} of the core's "
                f"float32 FMA peak (p10-p90 {low:.1%}-{high:.1%}), measured in turns with it."
            )
        notes.append(f"{result.workload.name}: {result.workload.source}.")
    versions = ", ".join(f"{name} {v}" for name, v in about["versions"].items())
    notes.append(
        f"Machine: {about['cpu']}, {about['n_cpus']} CPUs, {about['system']}; fastnn on "
        f"{about['isa']} with tiles of {about['tile']}, compiled by {about['compiler']}; Python "
        f"{about['python']}, {versions}; load average {about['load_average']}."
    )
    notes.append(
        "Method: one process, one thread on one CPU; contenders alternate in slices of at least "
        "3 ms in random order; medians over slices, fresh rows at every call; answers checked "
        "before. fastnn returns labels for pixels, the rivals logits. See docs/benchmarks.md."
    )
    return "\n".join([*lines, "", *(f"- {note}" for note in notes)])


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compare", description=__doc__)
    parser.add_argument(
        "what",
        nargs="?",
        choices=("systems", "cells"),
        default="systems",
        help="four workloads, system by system (default), or every cell of the goals' table",
    )
    parser.add_argument("--json", action="store_true", help="JSON in place of Markdown")
    parser.add_argument("--seconds", type=float, default=8.0, help="for each workload, about")
    parser.add_argument("--cpu", type=int, help="the CPU to measure on; default: the last allowed")
    parser.add_argument("--only", default="", help='cells: words of their names, e.g. "mid int8"')
    parser.add_argument("--save", type=Path, help="cells: where JSON goes, beside the Markdown")
    arguments = parser.parse_args()
    if arguments.what == "systems":
        if arguments.only or arguments.save:
            parser.error("--only and --save are for cells")
        _systems(arguments)
        return
    try:
        cells.cells(arguments.only)
    except ValueError as error:
        parser.error(f"--only: {error}")
    try:
        _cells(arguments)
    except FileNotFoundError as error:  # a reference network, or MNIST to calibrate on
        sys.exit(str(error))


def _systems(arguments: argparse.Namespace) -> None:
    with interleaved.one_cpu(arguments.cpu):
        about = machine()
        results = list(all_results(arguments.seconds))
    print((as_json if arguments.json else as_markdown)(results, about))


def _cells(arguments: argparse.Namespace) -> None:
    """Says on stderr where it is; what is saved is saved after every cell."""
    results = []
    with interleaved.one_cpu(arguments.cpu):
        about = {**machine(), "commit": _commit()}
        for result in cells.all_results(arguments.only, arguments.seconds):
            results.append(result)
            print(cells.one_line(result), file=sys.stderr, flush=True)
            if arguments.save:
                arguments.save.write_text(cells.as_json(results, about))
    print((cells.as_json if arguments.json else cells.as_markdown)(results, about))


def _commit() -> str:
    """Of the source, with a + if it was changed since; "unknown" outside a repository."""
    here = Path(__file__).parent
    command = ["git", "describe", "--always", "--dirty=+", "--abbrev=12", "--exclude=*"]
    try:
        return subprocess.run(
            command, cwd=here, capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


if __name__ == "__main__":
    main()
