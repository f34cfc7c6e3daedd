"""Timing a model, whole and layer by layer, held against what the machine can do.

Invariant: a timed region holds calls and readings of the clock, nothing else: rows, outputs and the
list of times exist before it, the collector is off, and nothing is printed. Each call sees other
rows than the call before.

All is measured in rounds: the rulers, one call to bring the caches back, then a slice of calls
timed one by one (latency), a slice timed together (throughput: reading the clock costs about 50 ns,
which a network of one microsecond would notice), a slice of passes layer by layer, and the rulers
again. A round's share of a limit is its rate over the larger of the readings before and after; what
is reported is the median over the rounds.

A layer's time is that of a network of this layer alone, on the real output of the layer before. The
layers run in turn, as in the whole, so that each finds the caches as the others left them. Unlike
in the whole, each pays for a call (`call_seconds` says how much: a network of one input and one
output in the same turn) and its output goes through memory; nothing is subtracted.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import cycle
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any

import numpy as np

from fastnn.bench import ruler
from fastnn.bench.workload import batches_of
from fastnn.layers import Dense
from fastnn.model import Model

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["BATCHES", "LayerTiming", "Timing", "measure", "sweep"]

BATCHES = (1, 4, 16, 64, 256, 1024, 4096)
"""The batch sizes of a sweep."""

_ROUNDS = 60  # short ones: a slice should fit between two interruptions
_LEAST_ROUNDS = 7
_MOST_CALLS = 100_000  # of a slice
_COUNTED = 64  # batches whose work is counted, at most


@dataclass(frozen=True)
class LayerTiming:
    """One layer alone, in turn with the others. Seconds and bytes are of one call."""

    index: int
    n_inputs: int
    n_outputs: int
    activation: str
    format: str
    """Of the kernel's weights: "f32"."""
    seconds: float
    executed_gflops: float
    effective_gflops: float
    skipped: float
    """The share of the multiply-adds that zeros saved."""
    weight_bytes: float
    """Of the weights touched: rows of the weight matrix whose input is not 0 in the whole batch."""
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
    call_seconds: float
    """What a call costs that computes nothing, clock included; 0 if no layers were timed."""
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
    `layers` says whether part of them goes to timing layer by layer, which is for float32 networks.
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
    whole = _Whole(model, x, threads)
    is_float = all(kernel["format"] == "f32" for kernel in model.kernels)
    chain = _Chain(model, x, threads) if layers and is_float else None
    once = whole.seconds_of_one()
    n_parts = 2 if chain is None else 3
    n_rounds = max(_LEAST_ROUNDS, min(_ROUNDS, int(seconds / (n_parts * once))))
    n_calls = max(1, min(_MOST_CALLS, int(seconds / n_rounds / n_parts / once)))
    work = [model._work(part, threads=threads) for part in x[:_COUNTED]]
    n_threads = int(np.median([w["n_threads"] for w in work]))
    level = ruler.level_of(model.nbytes)
    # What most multiply-adds run on: the first layer as these rows meet it, often the widest.
    first = model.pixel_kernel if rows.dtype == np.uint8 else model.kernels[0]
    latencies, samples, layer_samples = [], [], []
    peaks, bandwidths = [], []

    def rule() -> None:
        peaks.append(ruler.peak(first["isa"], n_threads, first["format"]))
        bandwidths.append(ruler.bandwidth(level, n_threads))
        whole.throughput(1)

    with _quiet():
        rule()
        for _ in range(n_rounds):
            latencies.append(whole.latencies(n_calls))
            samples.append(whole.throughput(n_calls) / n_calls)
            if chain is not None:
                layer_samples.append(chain.passes(n_calls))
            rule()
    times = np.concatenate(latencies)
    best_peaks = np.maximum(peaks[:-1], peaks[1:])
    best_bandwidths = np.maximum(bandwidths[:-1], bandwidths[1:])
    call = float(np.median(samples))
    executed, effective = (
        2e-9 * float(np.mean([w[key] for w in work])) for key in ("executed", "effective")
    )
    per_layer = np.array(layer_samples)  # (rounds, layers + 1): the last is the empty call
    return Timing(
        batch=batch,
        n_calls=n_calls * n_rounds,
        n_threads=n_threads,
        p50=float(np.percentile(times, 50)) * 1e-9,
        p99=float(np.percentile(times, 99)) * 1e-9,
        rows_per_s=batch / call,
        executed_gflops=executed / call,
        effective_gflops=effective / call,
        share_of_peak=float(np.median(executed / np.array(samples) / best_peaks)),
        peak_gflops=float(np.median(best_peaks)),
        level=level,
        level_gbytes_per_s=float(np.median(best_bandwidths)),
        call_seconds=0.0 if chain is None else float(np.median(per_layer[:, -1])),
        samples=tuple(samples),
        peaks=tuple(peaks),
        bandwidths=tuple(bandwidths),
        layers=()
        if chain is None
        else tuple(
            _layer_timing(chain, i, per_layer[:, i], best_peaks, best_bandwidths)
            for i in range(len(chain.models))
        ),
    )


def _layer_timing(
    chain: _Chain,
    index: int,
    samples: npt.NDArray[np.float64],
    peaks: npt.NDArray[np.float64],
    bandwidths: npt.NDArray[np.float64],
) -> LayerTiming:
    layer, work = chain.models[index].layers[0], chain.work[index]
    seconds = float(np.median(samples))
    moved = work.moved_bytes * 1e-9
    return LayerTiming(
        index=index,
        n_inputs=layer.n_inputs,
        n_outputs=layer.n_outputs,
        activation=layer.activation,
        format=chain.models[index].kernels[0]["format"],
        seconds=seconds,
        executed_gflops=2e-9 * work.executed / seconds,
        effective_gflops=2e-9 * work.effective / seconds,
        skipped=1 - work.executed / work.effective,
        weight_bytes=work.weight_bytes,
        moved_bytes=work.moved_bytes,
        share_of_peak=float(np.median(2e-9 * work.executed / samples / peaks)),
        gbytes_per_s=moved / seconds,
        share_of_bandwidth=float(np.median(moved / samples / bandwidths)),
        samples=tuple(samples.tolist()),
    )


class _Whole:
    """Calls of `predict`, batch after batch, from where the slice before left off."""

    def __init__(self, model: Model, x: list[npt.NDArray[Any]], threads: int | None) -> None:
        self.predict = model.predict
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


@dataclass(frozen=True)
class _Work:
    """Of a call of one layer, on average."""

    executed: float
    effective: float
    weight_bytes: float
    moved_bytes: float


class _Chain:
    """The layers as networks of their own, each fed with the output of the one before."""

    def __init__(self, model: Model, x: list[npt.NDArray[Any]], threads: int | None) -> None:
        self.models = layer_models(model)
        self.threads = threads
        self.feed = cycle(x)
        self.calls: list[Callable[..., Any]] = [m.forward for m in self.models[:-1]]
        self.calls.append(self.models[-1].predict)
        self.out, self.work = self._prepare(model, x)
        empty = Model([Dense([[1.0]], [0.0])])
        self.empty = empty.predict, np.ones((1, 1), np.float32), np.empty(1, np.float32)

    def passes(self, n_passes: int) -> list[float]:
        """Seconds that each layer takes, and last an empty call: medians over `n_passes`."""
        clock, threads = perf_counter_ns, self.threads
        stages = list(zip(self.calls, self.out, strict=True))
        times = [[0] * (len(stages) + 1) for _ in range(n_passes)]
        nothing, no_rows, no_out = self.empty
        for taken, rows in zip(times, self.feed):  # noqa: B905 (the feed has no end)
            at = rows
            for i, (call, out) in enumerate(stages):
                start = clock()
                call(at, out=out, threads=threads)
                taken[i] = clock() - start
                at = out
            start = clock()
            nothing(no_rows, out=no_out, threads=1)
            taken[-1] = clock() - start
        return [float(t) * 1e-9 for t in np.median(times, axis=0)]

    def _prepare(
        self, model: Model, x: list[npt.NDArray[Any]]
    ) -> tuple[list[npt.NDArray[Any]], list[_Work]]:
        """Outputs to write to, and the work of each layer, averaged over some batches."""
        found: list[list[_Work]] = [[] for _ in self.models]
        for rows in x[:_COUNTED]:
            at, outputs = rows, []
            for i, (one, call) in enumerate(zip(self.models, self.calls, strict=True)):
                found[i].append(_work_of(one, at, self.threads))
                logits = one.decision_function(at) if call == one.predict else None
                at = call(at, threads=self.threads)
                outputs.append(at)
            whole = model.decision_function(rows)
            if logits is None or not np.array_equal(logits, whole, equal_nan=True):
                raise AssertionError("measure: layer by layer the network answers otherwise")
        means = [
            _Work(
                *(
                    float(np.mean([getattr(w, name) for w in works]))
                    for name in ("executed", "effective", "weight_bytes", "moved_bytes")
                )
            )
            for works in found
        ]
        return [np.empty_like(out) for out in outputs], means


def layer_models(model: Model) -> list[Model]:
    """Each layer as a model of its own: the first takes what the model takes, the last answers as
    it answers, and chained they give its bits."""
    isa = model.kernels[0]["isa"]
    layers = model.layers
    made = []
    for i, layer in enumerate(layers):
        arguments: dict[str, Any] = {"isa": isa, "task": "regress"}
        if i == 0:
            arguments |= {"scale": model.scale, "mean": model.mean, "std": model.std}
        if i + 1 == len(layers) and model.task == "classify":
            arguments |= {"task": "classify", "classes": model.classes_}
        made.append(Model([layer], **arguments))
    return made


def _work_of(one: Model, rows: npt.NDArray[Any], threads: int | None) -> _Work:
    layer = one.layers[0]
    rows = rows.reshape(len(rows), -1)
    work = one._work(rows, threads=threads)
    is_dense = work["executed"] == work["effective"]
    n_touched = layer.n_inputs if is_dense else int(np.count_nonzero(rows.any(axis=0)))
    weights = n_touched * layer.n_outputs * layer.weight.itemsize
    return _Work(
        executed=work["executed"],
        effective=work["effective"],
        weight_bytes=weights,
        moved_bytes=weights + rows.nbytes + len(rows) * layer.n_outputs * 4,
    )


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
