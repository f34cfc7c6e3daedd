"""Two runs side by side: how many times as fast the second is, and how sure that is.

Invariant: only runs that computed the same thing are compared: same fingerprint (weights, rows,
number format), same checksum of the outputs. The interval is a bootstrap of the ratio of medians
with a fixed seed, so the same two files always give the same answer. Rounds that are neighbours in
time share the machine's mood; therefore whole blocks of neighbours are drawn (a circular block
bootstrap, Politis and Romano 1992), blocks of n^(1/3) rounds. It speaks of these two runs, not of
what moves between runs: a machine busy all through one of them shows as a difference.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fastnn.bench.report import Cell, Run

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["Change", "compare"]

LEAST_SAMPLES = 5
_RESAMPLES = 4000
_SEED = 2_024


@dataclass(frozen=True)
class Change:
    """One cell in both runs. `ratio` above 1: the second is faster."""

    batch: int
    n_threads: int
    system: str
    before: float
    """Median seconds a call in the first run."""
    after: float
    ratio: float
    low: float
    """The interval's lower end; NaN, as `high`, where a run has fewer than 5 rounds."""
    high: float

    @property
    def verdict(self) -> str:
        """In words."""
        if not self.low <= self.high:
            return f"fewer than {LEAST_SAMPLES} rounds: cannot say"
        if self.low <= 1 <= self.high:
            return "no difference shown"
        return "faster" if self.low > 1 else "slower"


def compare(first: Run, second: Run, *, confidence: float = 0.95) -> list[Change]:
    """Every cell that both runs have, in the order of the first.

    Raises ValueError if the runs did not compute the same, have no cell in common, or `confidence`
    is not between 0 and 1.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"compare: confidence is {confidence}, wanted between 0 and 1")
    _check_same(first, second)
    others = {_key(cell): cell for cell in second.cells}
    pairs = [(cell, others[_key(cell)]) for cell in first.cells if _key(cell) in others]
    if not pairs:
        raise ValueError(f"compare: {first.path} and {second.path} have no cell in common")
    return [_change(a, b, confidence) for a, b in pairs]


def _key(cell: Cell) -> tuple[int, int, str]:
    return cell.batch, cell.n_threads, cell.system


def _check_same(first: Run, second: Run) -> None:
    files = f"{first.path} and {second.path}"
    for what in {**first.workload, **second.workload}:
        a, b = first.workload.get(what), second.workload.get(what)
        if a != b:
            raise ValueError(
                f"compare: {files} did not do the same work: {what} is {_short(a)} and {_short(b)}"
            )
    if first.outputs_sha256 != second.outputs_sha256:
        raise ValueError(
            f"compare: {files} got different outputs from the same weights and rows: SHA-256 "
            f"{_short(first.outputs_sha256)} and {_short(second.outputs_sha256)}"
        )


def _short(value: Any) -> str:
    shown = str(value)
    return shown if len(shown) <= 40 else f"{shown[:16]}..."


def _change(a: Cell, b: Cell, confidence: float) -> Change:
    before, after = (float(np.median(cell.samples)) for cell in (a, b))
    low = high = float("nan")
    if min(len(a.samples), len(b.samples)) >= LEAST_SAMPLES:
        rng = np.random.Generator(np.random.PCG64(_SEED))
        ratios = _medians(np.array(a.samples), rng) / _medians(np.array(b.samples), rng)
        tail = (1 - confidence) / 2
        low, high = (float(q) for q in np.quantile(ratios, (tail, 1 - tail)))
    return Change(a.batch, a.n_threads, a.system, before, after, before / after, low, high)


def _medians(samples: npt.NDArray[np.float64], rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """Of resamples of blocks of neighbours, shape (resamples,). A few at a time: a run of many
    rounds, and one from a stranger's file, should not ask for gigabytes."""
    n = len(samples)
    length = max(1, round(n ** (1 / 3)))
    n_blocks = -(-n // length)
    at_once = max(1, (1 << 20) // n)
    found = []
    for done in range(0, _RESAMPLES, at_once):
        shape = (min(at_once, _RESAMPLES - done), n_blocks, 1)
        where = (rng.integers(0, n, shape) + np.arange(length)) % n
        found.append(np.median(samples[where.reshape(shape[0], -1)[:, :n]], axis=1))
    return np.concatenate(found)
