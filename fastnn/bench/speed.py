"""Two figures for each of several models: what one row costs, and rows a second in batches.

Invariant: the models take turns, a slice of calls each, so a slow spell of the machine falls on all
of them; a figure is the median over the slices. Lighter than `timing.measure`: nothing is held
against the machine's limits. As there, every call sees other rows than the one before, and the
collector is off.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from fastnn.bench.timing import Calls, quiet
from fastnn.bench.workload import batches_of, rows_for

if TYPE_CHECKING:
    from fastnn.model import Model

__all__ = ["BATCH", "Speed", "speeds"]

BATCH = 1024
"""Rows a call of the second figure."""

_ROUNDS = 7


class Speed(NamedTuple):
    """What `predict(x, out=out)` takes."""

    row_seconds: float
    """Seconds a call of one row."""
    rows_per_s: float
    """Rows a second in calls of `BATCH` rows."""


def speeds(models: Sequence[Model], *, seconds: float, threads: int | None = 1) -> list[Speed]:
    """The speed of each model in about `seconds` together; more where a model is slow, for each
    gets at least seven calls of `BATCH` rows.

    The rows are those of `rows_for`. Raises `ValueError` if `seconds` is not positive.
    """
    if not seconds > 0:
        raise ValueError(f"speeds: seconds is {seconds}, wanted more than 0")
    calls = []
    for model in models:
        rows = rows_for(model)
        calls += [Calls(model, batches_of(rows, batch), threads) for batch in (1, BATCH)]
    with quiet():
        once = [each.seconds_of_one() for each in calls]
        slice_seconds = seconds / _ROUNDS / max(1, len(calls))
        numbers = [max(1, int(slice_seconds / each)) for each in once]
        found = [
            [each.throughput(n) / n for each, n in zip(calls, numbers, strict=True)]
            for _ in range(_ROUNDS)
        ]
    medians = np.median(found, axis=0).tolist() if calls else []
    return [
        Speed(row, BATCH / batch) for row, batch in zip(medians[::2], medians[1::2], strict=True)
    ]
