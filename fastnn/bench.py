"""The timing behind `fastnn bench`: latency, throughput and the arithmetic done, batch by batch.

Invariant: a timed region holds `predict` and the reading of a clock, nothing else: rows, outputs
and the list of times exist before it, the collector is off, and nothing is printed. Each call
sees other rows than the call before, for the engine skips zeros and a processor learns patterns.

Latency and throughput come from two loops: reading the clock around each call costs about 50 ns,
which a network of one microsecond would notice in its rows per second.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle, islice
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any

import numpy as np

from fastnn import _core

if TYPE_CHECKING:
    import numpy.typing as npt

    from fastnn.model import Model

__all__ = ["BATCHES", "Timing", "measure", "rows_for", "sweep"]

BATCHES = (1, 4, 16, 64, 256, 1024, 4096)
"""The batch sizes of a sweep."""

_POOL_ROWS = 8192
_POOL_BYTES = 1 << 26
_LEAST_CALLS = 20
_MOST_CALLS = 100_000  # of the latency loop: its list of times stays small
_SEED = 2_024


@dataclass(frozen=True)
class Timing:
    """What one batch size gave. Times in seconds, rates per second."""

    batch: int
    n_calls: int
    n_threads: int
    p50: float
    p99: float
    rows_per_s: float
    executed_gflops: float
    """Multiply-adds really done, zeros left out, two operations each."""
    effective_gflops: float
    """What a dense pass over the same rows would have had to do, in the same time."""
    share_of_peak: float
    """`executed_gflops` over the measured peak of one core, times `n_threads`."""


def rows_for(model: Model, kind: str = "auto") -> npt.NDArray[Any]:
    """Rows to time with, of shape (n, inputs), n up to 8,192.

    "digits": the bundled MNIST digits in shuffled order, uint8; "normal": normally distributed
    float32 without a zero in them; "auto": digits where the model takes 784 inputs.
    """
    rng = np.random.Generator(np.random.PCG64(_SEED))
    if kind == "auto":
        kind = "digits" if model.n_inputs == 784 else "normal"
    if kind == "digits":
        if model.n_inputs != 784:
            raise ValueError(f"rows_for: digits have 784 pixels, the model takes {model.n_inputs}")
        from fastnn import mnist

        images = mnist.sample()[0].reshape(-1, 784)
        return images[rng.permutation(np.arange(_POOL_ROWS) % len(images))]
    if kind != "normal":
        raise ValueError(f'rows_for: kind is {kind!r}, wanted "auto", "digits" or "normal"')
    n_rows = min(_POOL_ROWS, max(64, _POOL_BYTES // (4 * max(1, model.n_inputs))))
    return rng.standard_normal((n_rows, model.n_inputs), np.float32)


def sweep(
    model: Model,
    rows: npt.NDArray[Any],
    *,
    batches: Sequence[int] = BATCHES,
    threads: int | None = None,
    seconds: float = 1.0,
) -> Iterator[Timing]:
    """`measure` for each batch size in turn, against a peak measured beside it."""
    for batch in batches:
        yield measure(model, rows, batch, threads=threads, seconds=seconds)


def measure(
    model: Model,
    rows: npt.NDArray[Any],
    batch: int,
    *,
    threads: int | None = None,
    seconds: float = 1.0,
) -> Timing:
    """Time `model.predict(x, out=out, threads=threads)` on batches drawn from `rows`.

    `rows` is what the model takes, of shape (n, inputs); batches run through it in order, from
    the front again at its end. About `seconds` are spent, half on latency, half on throughput.
    The peak is the better of two measurements, before and after. Raises `ValueError` if `batch`
    or `seconds` is not positive, or there are no rows, and what `predict` raises.
    """
    if batch < 1:
        raise ValueError(f"measure: batch is {batch}, wanted at least 1")
    if not seconds > 0:
        raise ValueError(f"measure: seconds is {seconds}, wanted more than 0")
    if len(rows) < 1:
        raise ValueError("measure: rows is empty, wanted at least one")
    x = _batches(rows, batch)
    out = np.empty_like(model.predict(x[0], threads=threads))
    isa = model.kernels[0]["isa"]
    peaks = [_core.peak_gflops(isa)]
    once = _seconds_of_one(model, x, out, threads)
    times = _latencies(model, x, out, threads, _n_calls(seconds / 2, once, _MOST_CALLS))
    n_calls = _n_calls(seconds / 2, once, 1 << 40)
    elapsed = _throughput(model, x, out, threads, n_calls)
    peaks.append(_core.peak_gflops(isa))
    work = [model._work(part, threads=threads) for part in x[:n_calls]]
    executed, effective = (
        2e-9 * n_calls * float(np.mean([w[key] for w in work])) / elapsed
        for key in ("executed", "effective")
    )
    n_threads = int(np.median([w["n_threads"] for w in work]))
    return Timing(
        batch=batch,
        n_calls=n_calls,
        n_threads=n_threads,
        p50=float(np.percentile(times, 50)) * 1e-9,
        p99=float(np.percentile(times, 99)) * 1e-9,
        rows_per_s=n_calls * batch / elapsed,
        executed_gflops=executed,
        effective_gflops=effective,
        share_of_peak=executed / (max(peaks) * n_threads),
    )


def _batches(rows: npt.NDArray[Any], batch: int) -> list[npt.NDArray[Any]]:
    """The rows cut into batches, each filled up from the front; at least two where it can be."""
    n_batches = max(1, len(rows) // batch) if batch <= len(rows) // 2 else 2
    order = np.arange(n_batches * batch) % len(rows)
    return [np.ascontiguousarray(rows[order[i * batch :][:batch]]) for i in range(n_batches)]


def _n_calls(seconds: float, once: float, most: int) -> int:
    return min(most, max(_LEAST_CALLS, int(seconds / once)))


@contextmanager
def _quiet() -> Iterator[None]:
    was_on = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _seconds_of_one(
    model: Model, x: list[npt.NDArray[Any]], out: npt.NDArray[Any], threads: int | None
) -> float:
    """How long one call takes, roughly; warms up as well."""
    for n_calls in (3, 10, 100, 1000):
        elapsed = _throughput(model, x, out, threads, n_calls)
        if elapsed > 0.02:
            break
    return elapsed / n_calls


def _latencies(
    model: Model,
    x: list[npt.NDArray[Any]],
    out: npt.NDArray[Any],
    threads: int | None,
    n_calls: int,
) -> npt.NDArray[np.int64]:
    """Nanoseconds of each of `n_calls` calls, shape (n_calls,)."""
    predict, clock = model.predict, perf_counter_ns
    times = [0] * n_calls
    with _quiet():
        for i, rows in enumerate(islice(cycle(x), n_calls)):
            start = clock()
            predict(rows, out=out, threads=threads)
            times[i] = clock() - start
    return np.array(times)


def _throughput(
    model: Model,
    x: list[npt.NDArray[Any]],
    out: npt.NDArray[Any],
    threads: int | None,
    n_calls: int,
) -> float:
    """Seconds that `n_calls` calls in a row take."""
    predict = model.predict
    with _quiet():
        start = perf_counter_ns()
        for rows in islice(cycle(x), n_calls):
            predict(rows, out=out, threads=threads)
        return (perf_counter_ns() - start) * 1e-9
