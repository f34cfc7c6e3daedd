"""No cliffs: time a row over batch sizes, widths and depths, and where it jumps between neighbours.

    python -m benchmarks.shapes               # 300 shapes, drawn by a seed that it prints
    python -m benchmarks.shapes --seed 7 --json

Two laws are checked, in float32 and int8:
- batch: time a row never rises by more than 25 % when a batch grows by one row;
- width: time a row / (K * 16 * ceil(N / 16)) differs by at most 20 % between widths that are
  neighbours (N and N + 1, or one vector apart), for N >= 64 and the same K and batch.

Time is CPU time of the thread on one CPU, the best of 20 samples; neighbours take their samples in
turns, so that a slow spell of the machine falls on all of them. A pair that breaks a law is
measured once more, by itself, and counts if it breaks it again with the best of both. Rows hold no
zero and activations are the identity: skipping makes a batch faster, by a share that depends on the
rows. A width counts only where a call multiplies 100,000 times or more: with less to do, a step is
one of the call's own price (benchmarks/overhead.py), which more outputs share.
"""

from __future__ import annotations

import argparse
import gc
import json
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from time import thread_time_ns
from typing import Any

import numpy as np

import fastnn
from benchmarks.compare import machine
from benchmarks.interleaved import one_cpu

SAMPLES = 20
MOST_SHAPES = 300
MOST_RISE = 1.25
MOST_STEP = 1.20
_SAMPLE_NS = 1_000_000
_MOST_NS = 50e6  # of one call, estimated at a slow machine's pace
_VECTOR = 16
_FEWEST_MADDS = 100_000  # of a call, for a width to count

PRECISIONS = ("float32", "int8")


@dataclass(frozen=True)
class Shape:
    """A network's widths, its precision, and rows a call."""

    widths: tuple[int, ...]
    precision: str
    batch: int

    @property
    def n_madds(self) -> int:
        """Multiply-adds a row."""
        return sum(k * n for k, n in zip(self.widths, self.widths[1:], strict=False))

    def __str__(self) -> str:
        return f"{'-'.join(map(str, self.widths))} {self.precision}, batch {self.batch:,}"


@dataclass(frozen=True)
class Pair:
    """Two neighbours, and the law that ties them."""

    law: str
    first: Shape
    second: Shape

    def change(self, ns: dict[Shape, float]) -> float:
        """What the law limits, as a factor: the rise, or the step in either direction."""
        cost = [ns[shape] / shape.batch for shape in (self.first, self.second)]
        if self.law == "width":
            cost = [
                c / (s.widths[0] * _VECTOR * -(-s.widths[1] // _VECTOR))
                for c, s in zip(cost, (self.first, self.second), strict=True)
            ]
            return max(cost[1] / cost[0], cost[0] / cost[1])
        return cost[1] / cost[0]

    @property
    def limit(self) -> float:
        """The largest `change` that is allowed."""
        return MOST_STEP if self.law == "width" else MOST_RISE


# ---- which shapes ------------------------------------------------------------------------------


def draw(seed: int, n_shapes: int = MOST_SHAPES) -> list[list[Shape]]:
    """Groups of neighbours, n_shapes at most: each is measured in turns, and its pairs checked.

    A third of the shapes goes to 1..64 rows one by one, the rest to widths, to depths and to large
    batches, group by group until they are spent.
    """
    rng = random.Random(seed)
    groups, left = [], n_shapes
    kinds: list[Callable[[random.Random, str], list[Shape]]] = [_widths, _depth, _widths, _large]
    for i, precision in enumerate(rng.sample(PRECISIONS, 2)):
        n = max(2, min(64, n_shapes // 6))
        start = rng.randint(1, 65 - n)
        widths = [(784, 128, 10), (rng.randint(1, 700), rng.randint(1, 10))][i]
        groups.append([Shape(widths, precision, m) for m in range(start, start + n)])
        left -= n
    for attempt in range(10 * n_shapes):
        group = kinds[attempt // 2 % len(kinds)](rng, PRECISIONS[attempt % 2])
        if 2 <= len(group) <= left:
            groups.append(group)
            left -= len(group)
    return groups


def _width(rng: random.Random, most: int = 4096) -> int:
    """Log-uniform in 1..most, odd ones and primes among them."""
    return min(most, int(2 ** rng.uniform(0, np.log2(most + 1))))


def _affordable(group: list[Shape]) -> list[Shape]:
    return [s for s in group if s.n_madds * s.batch / 50 <= _MOST_NS]


def _widths(rng: random.Random, precision: str) -> list[Shape]:
    """One layer with N around a multiple of the vector, so around the ends of panels."""
    edge = _VECTOR * round(2 ** rng.uniform(np.log2(4.01), np.log2(256)))
    k = max(16, _width(rng))
    batch = rng.choice((1, 2, 5, 6, 12, 13, 64, 257))
    steps = (-1, 0, 1, _VECTOR, _VECTOR + 1)
    group = [Shape((k, edge + step), precision, batch) for step in steps if edge + step >= 64]
    group = [s for s in group if s.widths[1] <= 4096 and s.n_madds * batch >= _FEWEST_MADDS]
    return _affordable(group)


def _depth(rng: random.Random, precision: str) -> list[Shape]:
    """Up to ten layers of any widths, with one row more than whole tiles have."""
    most = rng.choice((16, 300, 2000, 4096))
    widths = tuple(_width(rng, most) for _ in range(rng.randint(2, 11)))
    batch = rng.choice((1, 3, 4, 6, 8, 12, 24, 36, 48, 60))
    return _affordable([Shape(widths, precision, batch + i) for i in range(3)])


def _large(rng: random.Random, precision: str) -> list[Shape]:
    """1,024 rows to 65,536, and one more each."""
    widths = tuple(_width(rng, 1024) for _ in range(rng.randint(2, 5)))
    batches = rng.sample((1_024, 2_048, 4_096, 8_192, 16_384, 32_768, 65_535), 2)
    return _affordable([Shape(widths, precision, b + i) for b in sorted(batches) for i in (0, 1)])


def pairs(group: Sequence[Shape]) -> Iterator[Pair]:
    """The neighbours in a group."""
    for first, second in zip(group, group[1:], strict=False):
        if first.widths == second.widths and second.batch == first.batch + 1:
            yield Pair("batch", first, second)
        elif first.batch == second.batch and first.widths[0] == second.widths[0]:
            yield Pair("width", first, second)


# ---- time --------------------------------------------------------------------------------------


@lru_cache(maxsize=8)
def _model(widths: tuple[int, ...], precision: str) -> fastnn.Model:
    rng = np.random.Generator(np.random.PCG64(len(widths)))
    layers = []
    for k, n in zip(widths, widths[1:], strict=False):
        weight = rng.standard_normal((k, n), np.float32) * np.float32(np.sqrt(2 / k))
        layers.append(fastnn.Dense(weight, np.zeros(n), "identity"))
    model = fastnn.Model(layers, task="regress")
    return model if precision == "float32" else model.quantize(_rows(8, widths[0], precision))


def _rows(n: int, k: int, precision: str) -> np.ndarray[Any, Any]:
    """Without a zero: pixels for int8, normal floats otherwise."""
    rng = np.random.Generator(np.random.PCG64(1))
    if precision == "int8":
        return rng.integers(1, 256, (n, k), np.uint8)
    rows = rng.standard_normal((n, k), np.float32)
    rows[rows == 0] = 1
    return rows


def _sampler(shape: Shape) -> Callable[[], float]:
    """Takes one sample: ns of CPU a call."""
    model = _model(shape.widths, shape.precision)
    x = _rows(shape.batch, shape.widths[0], shape.precision)
    forward = model.forward
    out = forward(x, threads=1)

    def take(n: int) -> float:
        start = thread_time_ns()
        for _ in range(n):
            forward(x, out=out, threads=1)
        return (thread_time_ns() - start) / n

    n_calls = max(1, round(_SAMPLE_NS / min(take(2), take(2))))
    return lambda: take(n_calls)


def measure(group: Sequence[Shape], samples: int = SAMPLES) -> dict[Shape, float]:
    """ns of CPU a call of each, the best of `samples`, taken in turns."""
    samplers = [_sampler(shape) for shape in group]
    best = [float("inf")] * len(group)
    gc.disable()
    try:
        for _ in range(samples):
            for i, sample in enumerate(samplers):
                best[i] = min(best[i], sample())
    finally:
        gc.enable()
    return dict(zip(group, best, strict=True))


def check(group: Sequence[Shape], samples: int = SAMPLES) -> tuple[dict[Shape, float], list[Pair]]:
    """The group's times, and its pairs that break their law, twice."""
    ns = measure(group, samples)
    broken = []
    for pair in pairs(group):
        if pair.change(ns) > pair.limit:
            for shape, again in measure((pair.first, pair.second), samples).items():
                ns[shape] = min(ns[shape], again)
            if pair.change(ns) > pair.limit:
                broken.append(pair)
    return ns, broken


# ---- the report --------------------------------------------------------------------------------


def _line(pair: Pair, ns: dict[Shape, float]) -> str:
    return (
        f"  {pair.law}: {pair.first} -> {pair.second}: "
        f"{pair.change(ns):.2f}x (limit {pair.limit}), "
        f"{ns[pair.first] / pair.first.batch:,.0f} -> {ns[pair.second] / pair.second.batch:,.0f} "
        "ns a row"
    )


def main() -> int:
    """The command; 1 if a law is broken."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.shapes", description=__doc__)
    parser.add_argument("--seed", type=int, help="which shapes; default: drawn anew")
    parser.add_argument("--shapes", type=int, default=MOST_SHAPES, help="at most")
    parser.add_argument("--cpu", type=int, help="the CPU to measure on; default: the last allowed")
    parser.add_argument("--json", action="store_true", help="JSON in place of text")
    arguments = parser.parse_args()
    seed = random.SystemRandom().randrange(10**6) if arguments.seed is None else arguments.seed
    groups = draw(seed, arguments.shapes)
    print(f"seed {seed}: {sum(map(len, groups))} shapes", file=sys.stderr)
    ns: dict[Shape, float] = {}
    broken: list[Pair] = []
    checked: list[Pair] = []
    with one_cpu(arguments.cpu):
        about = machine()
        for group in groups:
            times, violations = check(group)
            ns |= times
            broken += violations
            checked += pairs(group)
            if not arguments.json:
                for pair in violations:
                    print(_line(pair, ns), flush=True)
    if arguments.json:
        listing = [
            {
                "law": pair.law,
                "shapes": [str(pair.first), str(pair.second)],
                "ns_per_row": [ns[s] / s.batch for s in (pair.first, pair.second)],
                "change": pair.change(ns),
                "limit": pair.limit,
                "is_broken": pair in broken,
            }
            for pair in checked
        ]
        print(json.dumps({"machine": about, "seed": seed, "pairs": listing}, indent=1))
    else:
        for law in ("batch", "width"):
            changes = sorted(pair.change(ns) for pair in checked if pair.law == law)
            print(
                f"{law}: {len(changes)} pairs, {sum(p.law == law for p in broken)} broken; "
                f"median {np.median(changes):.2f}x, largest {changes[-1]:.2f}x"
                if changes
                else f"{law}: no pairs"
            )
        print(f"seed {seed}, {len(ns)} shapes, {about['cpu']}, {about['isa']}")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
