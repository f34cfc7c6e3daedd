"""What a call costs beside the network: `predict` on one row, with and without `out=`.

    python -m benchmarks.overhead            # --json

Three things are told apart, in ns of CPU time of the thread, on one CPU:
- the crossing: a call on no rows, so checks and the way into C and out of it again;
- what every call in C costs: a network of one weight on one row, less the crossing;
- the network: the rest.
The loop's own turn is taken off. Figures are the median over slices that take turns, with the best
beside it; every call on digits sees another row.
"""

from __future__ import annotations

import argparse
import gc
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import thread_time_ns
from typing import Any

import numpy as np
import numpy.typing as npt

import fastnn
from benchmarks import workloads
from benchmarks.compare import machine
from benchmarks.interleaved import alternate, one_cpu

ROUNDS = 101
GOALS = {"float32": 1000.0, "int8": 600.0}  # ns of `predict(row, out=out)`, small
_CALLS = 2000


@dataclass(frozen=True)
class Case:
    """One way to call."""

    name: str
    ns: npt.NDArray[np.float64]
    """A call, in each round; the loop's turn taken off."""

    @property
    def median(self) -> float:
        """ns."""
        return float(np.median(self.ns))

    @property
    def best(self) -> float:
        """ns."""
        return float(np.min(self.ns))


def _with_out(verb: Callable[..., Any], rows: Sequence[Any], out: Any) -> Callable[[], float]:
    def take() -> float:
        start = thread_time_ns()
        for x in rows:
            verb(x, out=out)
        return (thread_time_ns() - start) / len(rows)

    return take


def _without(verb: Callable[..., Any], rows: Sequence[Any]) -> Callable[[], float]:
    def take() -> float:
        start = thread_time_ns()
        for x in rows:
            verb(x)
        return (thread_time_ns() - start) / len(rows)

    return take


def _nothing(rows: Sequence[Any]) -> Callable[[], float]:
    def take() -> float:
        start = thread_time_ns()
        for _ in rows:
            pass
        return (thread_time_ns() - start) / len(rows)

    return take


def measure(rounds: int = ROUNDS) -> list[Case]:
    """The cases, in turns: the crossing, one weight, then small in both precisions."""
    one = fastnn.Model([fastnn.Dense([[1.0]], [0.0])], task="regress")
    no_rows = [np.empty((0, 1), np.float32)] * _CALLS
    one_row = [np.ones((1, 1), np.float32) for _ in range(_CALLS)]
    images = workloads.small(1).batches[:_CALLS]
    tasks: dict[str, Callable[[], float]] = {"loop": _nothing(one_row)}

    def add(name: str, verb: Callable[..., Any], rows: Sequence[Any]) -> None:
        tasks[f"{name}, out="] = _with_out(verb, rows, verb(rows[0]))
        tasks[name] = _without(verb, rows)

    add("no rows", one.predict, no_rows)
    add("one weight", one.predict, one_row)
    for precision in GOALS:
        model = fastnn.load("mnist-small", precision=precision)
        add(f"small {precision}", model.predict, images)
    for task in tasks.values():
        task()
    gc.collect()
    ns = alternate(list(tasks.values()), rounds)
    turn = float(np.min(ns[0]))
    return [Case(name, t - turn) for name, t in zip(tasks, ns, strict=True) if name != "loop"]


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.overhead", description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--cpu", type=int, help="the CPU to measure on; default: the last allowed")
    parser.add_argument("--json", action="store_true", help="JSON in place of Markdown")
    arguments = parser.parse_args()
    with one_cpu(arguments.cpu):
        about = machine()
        cases = {case.name: case for case in measure(arguments.rounds)}
    crossing = {end: cases[f"no rows{end}"].median for end in (", out=", "")}
    rows = []
    for name, case in cases.items():
        end = ", out=" if name.endswith(", out=") else ""
        goal = GOALS.get(name.removeprefix("small ").removesuffix(", out=")) if end else None
        rows.append(
            {
                "name": name,
                "median_ns": case.median,
                "best_ns": case.best,
                "in_c_ns": case.median - crossing[end],
                "goal_ns": goal,
            }
        )
    if arguments.json:
        print(json.dumps({"machine": about, "results": rows}, indent=1))
        return
    print("| predict of | median | best | of it in C | goal |")
    print("|---|---:|---:|---:|---:|")
    for row in rows:
        goal = "" if row["goal_ns"] is None else f"{row['goal_ns']:.0f} ns"
        print(
            f"| {row['name']} | {row['median_ns']:.0f} ns | {row['best_ns']:.0f} ns | "
            f"{row['in_c_ns']:.0f} ns | {goal} |"
        )
    print(f"\n{about['cpu']}, Python {about['python']}, load {about['load_average']}.")


if __name__ == "__main__":
    main()
