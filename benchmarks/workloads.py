"""What is measured: a network, the rows it sees, and what the answer is.

Invariant: rows are fresh at every call. A pool of rows in random order is cut into batches, and
each call takes the next; who is fed one row again and again has its branches predicted, and fastnn,
which skips zeros, would be measured on one pattern of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

import fastnn
from fastnn import mnist, reference

_SEED = 20_261


@dataclass(frozen=True)
class Workload:
    """A network and a pool of rows for it, cut into batches."""

    name: str
    layers: tuple[fastnn.Dense, ...]
    scale: float
    """What uint8 rows are multiplied by; 1.0 for float rows."""
    batches: list[npt.NDArray[Any]]
    """Each of shape (batch, inputs), C-contiguous."""
    source: str
    """Where weights and rows come from, for the report."""

    @property
    def batch(self) -> int:
        """Rows a call."""
        return len(self.batches[0])

    @property
    def takes_pixels(self) -> bool:
        """Whether rows are uint8."""
        return self.batches[0].dtype == np.uint8

    @property
    def flop_per_call(self) -> float:
        """Two for each multiply-add of a dense pass over one batch."""
        return 2.0 * self.batch * sum(layer.weight.size for layer in self.layers)

    def model(self) -> fastnn.Model:
        """fastnn's model of it."""
        classes = np.arange(10) if self.takes_pixels else None
        task = "classify" if self.takes_pixels else "regress"
        return fastnn.Model(self.layers, scale=self.scale, classes=classes, task=task)

    def expected(self, rows: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        """z of the last layer in float64, the yardstick of every contender's answer."""
        return reference.trace(self.layers, rows * np.float64(self.scale))[-1][0]


def small(batch: int, n_rows: int = 8192) -> Workload:
    """784-128-10 on uint8 pixels of MNIST digits: the bundled trained network."""
    if "mnist-small" in fastnn.models():
        model = fastnn.load("mnist-small")
        layers, weights = model.layers, "the bundled mnist-small"
    else:
        layers, weights = _random_layers((784, 128, 10), "softmax"), "random weights"
    rows, digits = _digits(n_rows)
    source = f"{weights}, {digits}, shuffled"
    return Workload(f"784-128-10, {_rows(batch)}", layers, 1 / 255, _cut(rows, batch), source)


def square(batch: int = 1024, n_batches: int = 4) -> Workload:
    """1024 x 5: four layers 1024 -> 1024, and normally distributed float32 rows without a zero."""
    layers = _random_layers((1024,) * 5, "identity")
    rows = _rng().standard_normal((n_batches * batch, 1024), np.float32)
    source = "He-initialised weights, normal rows"
    return Workload(f"1024 x 5, {_rows(batch)}", layers, 1.0, _cut(rows, batch), source)


def _rng() -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(_SEED))


def _random_layers(widths: tuple[int, ...], last: str) -> tuple[fastnn.Dense, ...]:
    """He-initialised, small biases; ReLU, but for the last layer."""
    rng = _rng()
    layers = []
    for i, (k, n) in enumerate(zip(widths, widths[1:], strict=False)):
        weight = rng.standard_normal((k, n), np.float32) * np.float32(np.sqrt(2 / k))
        bias = rng.standard_normal(n, np.float32) * np.float32(0.01)
        layers.append(fastnn.Dense(weight, bias, last if i + 2 == len(widths) else "relu"))
    return tuple(layers)


def _digits(n_rows: int) -> tuple[npt.NDArray[np.uint8], str]:
    """n_rows of digits in random order, and what they are."""
    if mnist.available():
        images, what = mnist.load("test")[0], "MNIST test images"
    else:
        images, what = mnist.sample()[0], "the bundled 1,000 digits, as MNIST is not here"
    rows = images.reshape(-1, 784)
    return rows[_rng().permutation(max(n_rows, len(rows)))[:n_rows] % len(rows)], what


def _cut(rows: npt.NDArray[Any], batch: int) -> list[npt.NDArray[Any]]:
    return [rows[i : i + batch] for i in range(0, len(rows) - batch + 1, batch)]


def _rows(batch: int) -> str:
    return "one row" if batch == 1 else f"{batch:,} rows"
