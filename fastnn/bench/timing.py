"""Timing a model, whole and layer by layer, held against what the machine can do.

Invariant: a timed region holds calls and readings of the clock, nothing else: rows, outputs and the
list of times exist before it, the collector is off, and nothing is printed. Each call sees other
rows than the call before.

All is measured in rounds: the rulers, one call to bring the caches back, then a slice of calls
timed one by one (latency), a slice timed together (throughput: reading the clock costs about 50 ns,
which a network of one microsecond would notice), a slice of calls in which the engine reads the
clock between layers, and the rulers again. A round's share of a limit is its rate over the larger
of the readings before and after; what is reported is the median over the rounds.

A layer's time is what the engine spent in it, in place: turning its inputs into its own number
format, multiply-adds, activation. What follows the last layer (labels, softmax, a certificate) has
a time of its own; what is left of a call is the way from Python into the engine and back. Reading
the clock adds about 20 ns to each layer and block of rows; nothing is subtracted.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import cycle
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any

import numpy as np

from fastnn.bench import ruler
from fastnn.bench.workload import batches_of

if TYPE_CHECKING:
    import numpy.typing as npt

    from fastnn._core import KernelInfo, Work
    from fastnn.model import Model

__all__ = ["BATCHES", "LayerTiming", "Timing", "measure", "sweep"]

BATCHES = (1, 4, 16, 64, 256, 1024, 4096)
"""The batch sizes of a sweep."""

_ROUNDS = 60  # short ones: a slice should fit between two interruptions
_LEAST_ROUNDS = 7
_MOST_CALLS = 100_000  # of a slice
_COUNTED = 64  # batches whose work is counted, at most


@dataclass(frozen=True)
class LayerTiming:
    """One layer, in place. Seconds and bytes are of one call."""

    index: int
    n_inputs: int
    n_outputs: int
    activation: str
    format: str
    """Of the kernel's weights: "f32", "bf16" or "i8"."""
    seconds: float
    """Of a call on several threads: of all of them, over their number."""
    executed_gflops: float
    effective_gflops: float
    skipped: float
    """The share of the multiply-adds that zeros saved."""
    weight_bytes: float
    """Of the weights touched: those whose group of inputs (1 in f32, 2 in bf16, 4 in i8) is not 0
    in the whole batch."""
    moved_bytes: float
    """The weights touched, each once, the rows read and the outputs written: the least there is."""
    share_of_peak: float
    gbytes_per_s: float
    """`moved_bytes` over `seconds`."""
    share_of_bandwidth: float
    samples: tuple[float, ...] = field(repr=False)
    """Seconds of each round."""


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
    """Executed over the measured peak of one core times `n_threads`: median over the rounds."""
    peak_gflops: float
    level: str
    """Where the packed weights stay from one call to the next: "L2", "L3" or "DRAM"."""
    level_gbytes_per_s: float
    """What `n_threads` read from there."""
    labels_seconds: float
    """What follows the last layer: labels, softmax, certificate. 0 if no layers were timed."""
    samples: tuple[float, ...] = field(repr=False)
    """Seconds a call, of each round."""
    peaks: tuple[float, ...] = field(repr=False)
    """GFLOP/s read before the first round and after each."""
    bandwidths: tuple[float, ...] = field(repr=False)
    """GB/s read before the first round and after each."""
    layers: tuple[LayerTiming, ...] = field(repr=False)


def sweep(
    model: Model,
    rows: npt.NDArray[Any],
    *,
    batches: Sequence[int] = BATCHES,
    threads: int | None = None,
    seconds: float = 1.0,
    layers: bool = False,
) -> Iterator[Timing]:
    """`measure` for each batch size in turn."""
    for batch in batches:
        yield measure(model, rows, batch, threads=threads, seconds=seconds, layers=layers)


def measure(
    model: Model,
    rows: npt.NDArray[Any],
    batch: int,
    *,
    threads: int | None = None,
    seconds: float = 1.0,
    layers: bool = False,
) -> Timing:
    """Time `model.predict(x, out=out, threads=threads)` on batches drawn from `rows`.

    `rows` is what the model takes, of shape (n, inputs); batches run through it in order, from
    the front again at its end. About `seconds` are spent, more where seven rounds take longer;
    `layers` says whether part of them goes to timing layer by layer.
    Raises `ValueError` if `batch` or `seconds` is not positive, or there are no rows, and what
    `predict` raises.
    """
    if batch < 1:
        raise ValueError(f"measure: batch is {batch}, wanted at least 1")
    if not seconds > 0:
        raise ValueError(f"measure: seconds is {seconds}, wanted more than 0")
    if len(rows) < 1:
        raise ValueError("measure: rows is empty, wanted at least one")
    x = batches_of(rows, batch)
    whole = Calls(model, x, threads)
    once = whole.seconds_of_one()
    n_parts = 3 if layers else 2
    n_rounds = max(_LEAST_ROUNDS, min(_ROUNDS, int(seconds / (n_parts * once))))
    n_calls = max(1, min(_MOST_CALLS, int(seconds / n_rounds / n_parts / once)))
    work = [whole.work(part) for part in x[:_COUNTED]]
    n_threads = int(np.median([w["n_threads"] for w in work]))
    level = ruler.level_of(model.nbytes)
    kernels = kernels_of(model, rows.dtype)
    formats = [kernel["format"] for kernel in kernels]
    latencies, samples, layer_samples = [], [], []
    readings: list[dict[str, float]] = []
    bandwidths = []

    def rule() -> None:
        isas = {kernel["format"]: kernel["isa"] for kernel in kernels}
        readings.append({f: ruler.peak(isa, n_threads, f) for f, isa in isas.items()})
        bandwidths.append(ruler.bandwidth(level, n_threads))
        whole.throughput(1)

    with quiet():
        rule()
        for _ in range(n_rounds):
            latencies.append(whole.latencies(n_calls))
            samples.append(whole.throughput(n_calls) / n_calls)
            if layers:
                layer_samples.append(whole.seconds_of_layers(n_calls))
            rule()
    times = np.concatenate(latencies)
    peaks = {f: [reading[f] for reading in readings] for f in readings[0]}
    best_peaks = {f: np.maximum(found[:-1], found[1:]) for f, found in peaks.items()}
    best_bandwidths = np.maximum(bandwidths[:-1], bandwidths[1:])
    call = float(np.median(samples))
    executed, effective = (
        2e-9 * float(np.mean([w[key] for w in work])) for key in ("executed", "effective")
    )
    per_layer = np.array(layer_samples)  # (rounds, layers + 1): the last is what follows them
    works = _layer_works(model, x[:_COUNTED], work, kernels) if layers else []
    # What most multiply-adds run on: the first layer as these rows meet it, often the widest.
    first_peaks = best_peaks[formats[0]]
    return Timing(
        batch=batch,
        n_calls=n_calls * n_rounds,
        n_threads=n_threads,
        p50=float(np.percentile(times, 50)) * 1e-9,
        p99=float(np.percentile(times, 99)) * 1e-9,
        rows_per_s=batch / call,
        executed_gflops=executed / call,
        effective_gflops=effective / call,
        share_of_peak=float(np.median(executed / np.array(samples) / first_peaks)),
        peak_gflops=float(np.median(first_peaks)),
        level=level,
        level_gbytes_per_s=float(np.median(best_bandwidths)),
        labels_seconds=float(np.median(per_layer[:, -1])) if layers else 0.0,
        samples=tuple(samples),
        peaks=tuple(peaks[formats[0]]),
        bandwidths=tuple(bandwidths),
        layers=tuple(
            _layer_timing(
                model, i, formats[i], one, per_layer[:, i], best_peaks[formats[i]], best_bandwidths
            )
            for i, one in enumerate(works)
        ),
    )


def kernels_of(model: Model, dtype: npt.DTypeLike) -> list[KernelInfo]:
    """The kernel of each layer for rows of `dtype`, as `model.kernels` has it for floats."""
    first = model.pixel_kernel if dtype == np.uint8 else model.kernels[0]
    return [first, *model.kernels[1:]]


def _layer_timing(
    model: Model,
    index: int,
    number_format: str,
    work: _LayerWork,
    samples: npt.NDArray[np.float64],
    peaks: npt.NDArray[np.float64],
    bandwidths: npt.NDArray[np.float64],
) -> LayerTiming:
    layer = model.layers[index]
    seconds = float(np.median(samples))
    moved = work.moved_bytes * 1e-9
    return LayerTiming(
        index=index,
        n_inputs=layer.n_inputs,
        n_outputs=layer.n_outputs,
        activation=layer.activation,
        format=number_format,
        seconds=seconds,
        executed_gflops=2e-9 * work.executed / seconds,
        effective_gflops=2e-9 * work.effective / seconds,
        skipped=max(0.0, 1 - work.executed / work.effective),
        weight_bytes=work.weight_bytes,
        moved_bytes=work.moved_bytes,
        share_of_peak=float(np.median(2e-9 * work.executed / samples / peaks)),
        gbytes_per_s=moved / seconds,
        share_of_bandwidth=float(np.median(moved / samples / bandwidths)),
        samples=tuple(samples.tolist()),
    )


class Calls:
    """Calls of `predict`, batch after batch, from where the slice before left off."""

    def __init__(self, model: Model, x: list[npt.NDArray[Any]], threads: int | None) -> None:
        self.predict = model.predict
        self.model = model
        self.threads = threads
        self.out = np.empty_like(model.predict(x[0], threads=threads))
        self.feed = cycle(x)

    def seconds_of_one(self) -> float:
        """How long one call takes, roughly; warms up as well."""
        for n_calls in (3, 10, 100, 1000):
            elapsed = self.throughput(n_calls)
            if elapsed > 0.02:
                break
        return elapsed / n_calls

    def latencies(self, n_calls: int) -> npt.NDArray[np.int64]:
        """Nanoseconds of each of `n_calls` calls, shape (n_calls,)."""
        predict, out, threads, clock = self.predict, self.out, self.threads, perf_counter_ns
        times = [0] * n_calls
        for i, rows in zip(range(n_calls), self.feed):  # noqa: B905 (the feed has no end)
            start = clock()
            predict(rows, out=out, threads=threads)
            times[i] = clock() - start
        return np.array(times)

    def throughput(self, n_calls: int) -> float:
        """Seconds that `n_calls` calls in a row take."""
        predict, out, threads = self.predict, self.out, self.threads
        start = perf_counter_ns()
        for _, rows in zip(range(n_calls), self.feed):  # noqa: B905
            predict(rows, out=out, threads=threads)
        return (perf_counter_ns() - start) * 1e-9

    def work(self, rows: npt.NDArray[Any]) -> Work:
        """What a call does, as `predict` would."""
        return self.model._work(rows, threads=self.threads, labels=self.model.task == "classify")

    def seconds_of_layers(self, n_calls: int) -> npt.NDArray[np.float64]:
        """Seconds a call in each layer and in what follows, (layers + 1,): medians of calls."""
        found = []
        for _, rows in zip(range(n_calls), self.feed):  # noqa: B905
            work = self.work(rows)
            found.append(work["layers"][:, 0] / work["n_threads"])
        return np.median(found, axis=0) * 1e-9


@dataclass(frozen=True)
class _LayerWork:
    """Of a layer in a call, on average."""

    executed: float
    effective: float
    weight_bytes: float
    moved_bytes: float


def _layer_works(
    model: Model,
    batches: list[npt.NDArray[Any]],
    works: list[Work],
    kernels: list[KernelInfo],
) -> list[_LayerWork]:
    """Averages over the batches."""
    size = [_GROUP_BYTES // group_of(kernel["format"]) for kernel in kernels]  # of an input
    found: list[list[tuple[float, ...]]] = [[] for _ in kernels]
    for rows, work in zip(batches, works, strict=True):
        rows = rows.reshape(len(rows), -1)
        inputs = [rows, *(activation for _, activation in model.trace(rows)[:-1])]
        for i, (layer, x) in enumerate(zip(model.layers, inputs, strict=True)):
            n_groups = _groups_touched(x, group_of(kernels[i]["format"]))
            executed, effective = work["layers"][i, 1], len(x) * layer.weight.size
            if executed >= effective:  # nothing is skipped
                n_groups = -(-layer.n_inputs // group_of(kernels[i]["format"]))
            weights = n_groups * _GROUP_BYTES * layer.n_outputs
            input_size = rows.itemsize if i == 0 else size[i]
            output_size = size[i + 1] if i + 1 < len(size) else 4
            moved = weights + len(x) * (layer.n_inputs * input_size + layer.n_outputs * output_size)
            found[i].append((executed, effective, weights, moved))
    return [_LayerWork(*np.mean(of_layer, axis=0).tolist()) for of_layer in found]


_GROUP_BYTES = 4


def group_of(number_format: str) -> int:
    """How many inputs of this format fill a group, 4 bytes: what is skipped if all are 0."""
    return {"f32": 1, "bf16": 2, "i8": 4}[number_format]


def _groups_touched(x: npt.NDArray[Any], group: int) -> int:
    is_touched = np.pad(np.count_nonzero(x, axis=0) > 0, (0, -x.shape[1] % group))
    return int(is_touched.reshape(-1, group).any(axis=1).sum())


@contextmanager
def quiet() -> Iterator[None]:
    """Without Python's collector."""
    was_on = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
