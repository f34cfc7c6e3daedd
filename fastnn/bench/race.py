"""fastnn beside whatever else is installed, in one run, on the same weights and rows.

Invariant: each system is a process of its own, none sees another's threads or allocator, and only
one computes at a time. They take turns in short slices, in an order drawn anew each round, so a
slow spell of the machine falls on all of them. On one thread all are pinned to the same CPU.

A system that cannot take part is named with the reason; none is left out in silence.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from fastnn.bench import rivals

if TYPE_CHECKING:
    import numpy.typing as npt

    from fastnn.model import Model

__all__ = ["Absent", "Entry", "race"]

_SLICE = 0.003  # seconds, or one call
_LEAST_ROUNDS = 7
_MOST_ROUNDS = 200
_PATIENCE = 300.0  # seconds for an answer; compiling a large network may take long
_PAUSE = 0.01  # for pools whose threads spin a while after their work
_BLAS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS")


@dataclass(frozen=True)
class Entry:
    """One system on one batch size and number of threads, in the faster of its two best forms."""

    batch: int
    n_threads: int
    system: str
    form: str
    version: str
    samples: tuple[float, ...] = field(repr=False)
    """Seconds a call, of each round; the rounds are those of all systems in this cell."""

    @property
    def median(self) -> float:
        """Seconds a call."""
        return float(np.median(self.samples))

    @property
    def spread(self) -> tuple[float, float]:
        """10th and 90th percentile, seconds a call."""
        low, high = np.percentile(self.samples, (10, 90))
        return float(low), float(high)


@dataclass(frozen=True)
class Absent:
    """Who is not in the table, and why."""

    system: str
    why: str


class _Failed(Exception):
    """A child gave no answer, or one that says why not."""


def race(
    model: Model,
    rows: npt.NDArray[Any],
    *,
    batches: Sequence[int],
    threads: Sequence[int],
    seconds: float = 1.0,
    systems: Sequence[rivals.System] = rivals.SYSTEMS,
) -> Iterator[Entry | Absent]:
    """Time `systems` on every number of threads and batch size, about `seconds` each.

    Yields the entries of a cell together once it is done, the first of `systems` first, and an
    `Absent` for each system that cannot take part, when that is found.
    """
    present = []
    for system in systems:
        why = rivals.missing(system)
        if why is None:
            present.append(system)
        else:
            yield Absent(system.name, why)
    versions = rivals.versions()
    with tempfile.TemporaryDirectory(prefix="fastnn-bench-") as folder:
        model.save(str(Path(folder) / "model.safetensors"))
        np.save(Path(folder) / "rows.npy", rows)
        for n_threads in threads:
            with contextlib.ExitStack() as stack:
                field_ = {
                    s.name: stack.enter_context(_Child(folder, s.name, n_threads, model))
                    for s in present
                }
                for batch in batches:
                    for found in _cell(field_, batch, n_threads, seconds):
                        if isinstance(found, Absent):
                            yield found
                            continue
                        package = next(s for s in systems if s.name == found[0]).packages[0]
                        yield Entry(
                            batch, n_threads, *found[:2], versions.get(package, ""), found[2]
                        )


def _cell(
    children: dict[str, _Child], batch: int, n_threads: int, seconds: float
) -> Iterator[Absent | tuple[str, str, tuple[float, ...]]]:
    """(system, form, samples) of all that can; who fails is out from then on."""
    ready: dict[str, list[str]] = {}
    cost = 0.0
    for name, child in list(children.items()):
        try:
            answer = child.ask({"prepare": batch, "slice": _SLICE})
        except _Failed as failure:
            del children[name]
            child.close()
            yield Absent(name, f"{failure} (batch {batch}, {_threads_text(n_threads)})")
            continue
        ready[name] = answer["forms"]
        cost += answer["seconds"] + (_PAUSE if n_threads > 1 else 0)
    n_rounds = max(_LEAST_ROUNDS, min(_MOST_ROUNDS, int(seconds / max(cost, 1e-9))))
    samples: dict[str, list[list[float]]] = {name: [] for name in ready}
    order, rng = list(ready), random.Random(batch)
    for _ in range(n_rounds):
        rng.shuffle(order)
        for name in list(order):
            try:
                samples[name].append(children[name].ask({"run": True})["seconds"])
            except _Failed as failure:
                order.remove(name)
                children.pop(name).close()
                del ready[name]
                yield Absent(name, f"{failure} (batch {batch}, {_threads_text(n_threads)})")
            if n_threads > 1:
                time.sleep(_PAUSE)
    for name, forms in ready.items():
        per_form = np.array(samples[name])  # (rounds, forms)
        best = int(np.argmin(np.median(per_form, axis=0)))
        yield name, forms[best], tuple(per_form[:, best].tolist())


def _threads_text(n: int) -> str:
    return f"{n} thread{'s' * (n > 1)}"


class _Child:
    """A worker process; ends with the `with` block."""

    def __init__(self, folder: str, system: str, n_threads: int, model: Model) -> None:
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115 (closed with the process)
        home = str(Path(rivals.__file__).resolve().parents[2])
        paths = [home, *filter(None, [os.environ.get("PYTHONPATH")])]
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "fastnn.bench.worker", folder, system, str(n_threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            env={
                **os.environ,
                **dict.fromkeys(_BLAS, str(n_threads)),
                "FASTNN_NUM_THREADS": str(n_threads),
                "FASTNN_ISA": model.kernels[0]["isa"],
                "PYTHONPATH": os.pathsep.join(paths),
                "PYTHONWARNINGS": "ignore",
            },
        )
        self.rest = b""

    def ask(self, question: dict[str, Any]) -> dict[str, Any]:
        """The answer. Raises _Failed where there is none, or where it is an error."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(question).encode() + b"\n")
            self.process.stdin.flush()
        except OSError:
            raise _Failed(self._last_words()) from None
        answer: dict[str, Any] = json.loads(self._line())
        if "error" in answer:
            raise _Failed(answer["error"])
        return answer

    def _line(self) -> bytes:
        assert self.process.stdout is not None
        descriptor, end = self.process.stdout.fileno(), time.monotonic() + _PATIENCE
        while b"\n" not in self.rest:
            left = end - time.monotonic()
            if left <= 0 or not select.select([descriptor], [], [], left)[0]:
                raise _Failed(f"gave no answer in {_PATIENCE:.0f} s")
            got = os.read(descriptor, 1 << 16)
            if not got:
                raise _Failed(self._last_words())
            self.rest += got
        line, _, self.rest = self.rest.partition(b"\n")
        return line

    def _last_words(self) -> str:
        """How the process ended, and the last that it said on stderr."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(5)
        self.errors.seek(0)
        lines = self.errors.read().decode(errors="replace").split("\n")
        last = next((line.strip() for line in reversed(lines) if line.strip()), "without a word")
        return f"its process ended with status {self.process.returncode}: {last[:300]}"

    def close(self) -> None:
        """End the process."""
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        self.process.kill()  # it computes nothing that is worth finishing
        self.process.wait()
        self.errors.close()

    def __enter__(self) -> _Child:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
