"""`python -m fastnn.bench.worker FOLDER SYSTEM THREADS`: one system in a process of its own.

The parent (race.py) has put model.safetensors and rows.npy into FOLDER, and asks in lines of JSON
on stdin: {"prepare": batch, "slice": seconds}, then any number of {"run": true}. Each is answered
with one line of JSON on stdout; {"error": why} where it cannot be. The process ends with stdin.

Invariant: between a question and its answer this process computes, otherwise it waits. What
libraries print goes to stderr, for stdout belongs to the answers.
"""

from __future__ import annotations

import gc
import json
import os
import sys
from collections.abc import Callable, Iterator
from itertools import cycle
from pathlib import Path
from time import perf_counter_ns
from typing import Any

import numpy as np

import fastnn
from fastnn.bench import rivals
from fastnn.bench.workload import Workload

_TRIALS = 5
_FINALISTS = 2


class _Runner:
    """Calls of one form, batch after batch, from where the slice before left off."""

    def __init__(self, form: rivals.Form, workload: Workload, slice_seconds: float) -> None:
        self.name = form.name
        self.call: Callable[[Any], Any] = form.call
        self.feed: Iterator[Any] = cycle(workload.batches)
        self.n_calls = 1
        self.take()
        once = self.take()
        while once * self.n_calls < slice_seconds / 2 and self.n_calls < 1 << 20:
            self.n_calls *= 4
            once = self.take()
        self.n_calls = max(1, round(slice_seconds / once))
        self.seconds = self.n_calls * once
        """What a slice takes, about."""

    def take(self) -> float:
        """Seconds a call, over a slice."""
        call = self.call
        todo = [next(self.feed) for _ in range(self.n_calls)]
        start = perf_counter_ns()
        for rows in todo:
            call(rows)
        return (perf_counter_ns() - start) * 1e-9 / len(todo)


def prepare(
    system: rivals.System, workload: Workload, n_threads: int, slice_seconds: float
) -> list[_Runner]:
    """The two fastest forms of the system after a short trial of all, each checked before."""
    runners = [
        _Runner(form, workload, slice_seconds) for form in rivals.forms(system, workload, n_threads)
    ]
    is_slow = sum(runner.seconds for runner in runners) > 1
    trials = [[r.take() for r in runners] for _ in range(1 if is_slow else _TRIALS)]
    order = np.argsort(np.median(trials, axis=0), kind="stable")
    return [runners[i] for i in order[:_FINALISTS]]


def main(folder: str, system_name: str, n_threads: int) -> None:
    """Answer until stdin ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    if n_threads == 1:  # all on the same one; before any library starts threads of its own
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    system = next(s for s in rivals.SYSTEMS if s.name == system_name)
    model = fastnn.load(str(Path(folder) / "model.safetensors"))
    rows = np.load(Path(folder) / "rows.npy", allow_pickle=False)
    runners: list[_Runner] = []
    for line in sys.stdin:
        question = json.loads(line)
        answer: dict[str, Any]
        try:
            if "prepare" in question:
                runners = []  # first: the forms of another batch size hold memory and threads
                workload = Workload(model, rows, question["prepare"])
                runners = prepare(system, workload, n_threads, question["slice"])
                gc.collect()
                gc.disable()
                answer = {
                    "forms": [runner.name for runner in runners],
                    "seconds": sum(runner.seconds for runner in runners),
                }
            else:
                answer = {"seconds": [runner.take() for runner in runners]}
        except Exception as error:  # whatever a library raises is the answer, not the end
            text = str(error).strip() or type(error).__name__
            answer = {"error": " ".join(text.split())[:300]}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
