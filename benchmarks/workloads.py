"""What is measured: a network, its precision, the rows it sees, and what the answer is.

Invariant: rows are fresh at every call. A pool of rows in random order is cut into batches, and
each call takes the next; who is fed one row again and again has its branches predicted, and fastnn,
which skips zeros, would be measured on one pattern of them. What int8 is calibrated on is never
among the rows that are measured: MNIST's training images, or normal rows of another seed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import fastnn
from fastnn import mnist, reference

PRECISIONS = ("float32", "int8")
BATCHES = (1, 64, 1024)

_SEED = 20_261
_CALIBRATION_SEED = 20_262
_N_CALIBRATION = 2_000
_POOL_ROWS = 10_000  # MNIST's test images, each once
_FOLDER = "FASTNN_REFERENCE_NETWORKS"


@dataclass(frozen=True)
class Workload:
    """A network in one precision and a pool of rows for it, cut into batches."""

    network: str
    """Its short name: "small", ..."""
    shape: str
    """Its widths, for the report."""
    layers: tuple[fastnn.Dense, ...]
    scale: float
    """What uint8 rows are multiplied by; 1.0 for float rows."""
    batches: list[npt.NDArray[Any]]
    """Each of shape (batch, inputs), C-contiguous."""
    source: str
    """Where weights and rows come from, for the report."""
    precision: str = "float32"
    """One of `PRECISIONS`: what everybody multiplies in."""
    calibration: npt.NDArray[Any] | None = None
    """For int8: rows as those of `batches`, but none of them; shape (n, inputs)."""

    @property
    def name(self) -> str:
        """Shape, precision if it is not float32, and rows a call."""
        precision = "" if self.precision == "float32" else f" {self.precision}"
        return f"{self.shape}{precision}, {_rows(self.batch)}"

    @property
    def batch(self) -> int:
        """Rows a call."""
        return len(self.batches[0])

    @property
    def takes_pixels(self) -> bool:
        """Whether rows are uint8."""
        return self.batches[0].dtype == np.uint8

    @property
    def n_weights(self) -> int:
        """Without biases."""
        return sum(layer.weight.size for layer in self.layers)

    @property
    def weight_bytes(self) -> int:
        """Of all weights, in this precision."""
        return self.n_weights * (1 if self.precision == "int8" else 4)

    @property
    def flop_per_call(self) -> float:
        """Two for each multiply-add of a dense pass over one batch."""
        return 2.0 * self.batch * self.n_weights

    def model(self, *, skips: bool = True) -> fastnn.Model:
        """fastnn's model of it, which leaves zeros out or (for comparison) multiplies them too."""
        classes = np.arange(self.layers[-1].n_outputs) if self.takes_pixels else None
        task = "classify" if self.takes_pixels else "regress"
        with _skipping(skips):  # read when a model is built
            model = fastnn.Model(self.layers, scale=self.scale, classes=classes, task=task)
            return model if self.precision == "float32" else model.quantize(self.calibration)

    def expected(self, rows: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        """z of the last layer in float64, the yardstick of every contender's answer."""
        return reference.trace(self.layers, rows * np.float64(self.scale))[-1][0]

    @cached_property
    def checked(self) -> list[tuple[npt.NDArray[Any], npt.NDArray[np.float64]]]:
        """(rows, z) of the batches that contenders are checked on: first and last in float32.

        In int8, where only a share of the labels has to agree, as many as make 1,000 rows.
        """
        chosen = [self.batches[0], self.batches[-1]]
        if self.precision == "int8":
            chosen = self.batches[: -(-1_000 // self.batch)]
        z = self.expected(np.concatenate(chosen))
        return list(zip(chosen, np.split(z, len(chosen)), strict=True))

    @cached_property
    def ranges(self) -> list[tuple[float, float]]:
        """(lo, hi) of each layer's input, then of the last z, over the calibration rows.

        float64, 0 always included. Pixels have the range that uint8 has, so that they are their
        own quantised values.
        """
        if self.calibration is None:
            raise ValueError(f"{self.name}: ranges need calibration rows, which only int8 has")
        rows = self.calibration * np.float64(self.scale)
        trace = reference.trace(self.layers, rows)
        values = [rows, *(a for _, a in trace[:-1]), trace[-1][0]]
        ranges = [(min(0.0, float(v.min())), max(0.0, float(v.max()))) for v in values]
        if self.takes_pixels:
            ranges[0] = (0.0, 255 * self.scale)
        return ranges


def small(batch: int, precision: str = "float32") -> Workload:
    """784-128-10 on uint8 pixels of MNIST digits: the bundled trained network."""
    if "mnist-small" in fastnn.models():
        layers, weights = fastnn.load("mnist-small").layers, "the bundled mnist-small"
    else:
        layers, weights = _random_layers((784, 128, 10), "softmax"), "random weights"
    return _on_digits("small", "784-128-10", layers, weights, batch, precision)


def mid(batch: int, precision: str = "float32") -> Workload:
    """784-512-512-10 on uint8 pixels of MNIST digits."""
    return _on_digits("mid", "784-512-512-10", *_trained("mid"), batch, precision)


def large(batch: int, precision: str = "float32") -> Workload:
    """784-2500-2000-1500-1000-500-10 on uint8 pixels of MNIST digits: 12 million weights."""
    shape = "784-2500-2000-1500-1000-500-10"
    return _on_digits("large", shape, *_trained("large"), batch, precision)


def square(batch: int = 1024, precision: str = "float32", n_rows: int = 4096) -> Workload:
    """1024 x 5: four layers 1024 -> 1024, and normally distributed float32 rows without a zero."""
    layers = _random_layers((1024,) * 5, "identity")
    rows = _rng().standard_normal((n_rows, 1024), np.float32)
    calibration = None
    if precision == "int8":
        other = np.random.Generator(np.random.PCG64(_CALIBRATION_SEED))
        calibration = other.standard_normal((_N_CALIBRATION, 1024), np.float32)
    return Workload(
        "square",
        "1024 x 5",
        layers,
        1.0,
        _cut(rows, batch),
        "He-initialised weights, normal rows",
        _checked_precision(precision),
        calibration,
    )


NETWORKS: dict[str, Callable[..., Workload]] = {
    "small": small,
    "mid": mid,
    "large": large,
    "square": square,
}
"""What makes each network's workload, from a batch size and a precision."""


def reference_folder() -> Path:
    """Where mid.safetensors and large.safetensors are looked for."""
    return Path(os.environ.get(_FOLDER) or "build/reference_networks")


def _trained(name: str) -> tuple[tuple[fastnn.Dense, ...], str]:
    """Layers of a reference network that training/reference_networks.py wrote, and what they are.

    Raises FileNotFoundError, with the command to make it, where it is not there.
    """
    file = reference_folder() / f"{name}.safetensors"
    if not file.is_file():
        raise FileNotFoundError(
            f"{file}: the reference network {name!r} is not there. Make it (minutes; needs "
            f"PyTorch and MNIST): python -m training.reference_networks {name} "
            f"--out {reference_folder()}; or name its folder in {_FOLDER}"
        )
    model = fastnn.load(file)
    accuracy = model.metadata.get("test_accuracy", "unknown")
    return model.layers, f"{name}.safetensors (test accuracy {accuracy})"


def _on_digits(
    network: str,
    shape: str,
    layers: tuple[fastnn.Dense, ...],
    weights: str,
    batch: int,
    precision: str,
) -> Workload:
    rows, digits = _digits()
    return Workload(
        network,
        shape,
        layers,
        1 / 255,
        _cut(rows, batch),
        f"{weights}, {digits}, shuffled",
        _checked_precision(precision),
        _training_digits() if precision == "int8" else None,
    )


def _checked_precision(precision: str) -> str:
    if precision not in PRECISIONS:
        raise ValueError(f"precision is {precision!r}, wanted one of {', '.join(PRECISIONS)}")
    return precision


@contextmanager
def _skipping(skips: bool) -> Iterator[None]:
    """FASTNN_SKIP as it is, or 0, for as long as a model is built."""
    before = os.environ.get("FASTNN_SKIP")
    if not skips:
        os.environ["FASTNN_SKIP"] = "0"
    try:
        yield
    finally:
        if before is None:
            os.environ.pop("FASTNN_SKIP", None)
        else:
            os.environ["FASTNN_SKIP"] = before


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


def _digits() -> tuple[npt.NDArray[np.uint8], str]:
    """10,000 digits in random order, uint8 (10000, 784), and what they are."""
    if mnist.available():
        images, what = mnist.load("test")[0], "MNIST test images"
    else:
        images, what = mnist.sample()[0], "the bundled 1,000 digits, as MNIST is not here"
    rows = images.reshape(-1, 784)
    return rows[_rng().permutation(_POOL_ROWS) % len(rows)], what


def _training_digits() -> npt.NDArray[np.uint8]:
    """2,000 of MNIST's training images, none of them in the bundled sample; uint8 (2000, 784).

    Raises FileNotFoundError where MNIST is not here: nothing else may calibrate.
    """
    images, _ = mnist.without_sample(*mnist.load("train"))
    chosen = np.random.Generator(np.random.PCG64(_CALIBRATION_SEED)).permutation(len(images))
    return images[chosen[:_N_CALIBRATION]].reshape(-1, 784)


def _cut(rows: npt.NDArray[Any], batch: int) -> list[npt.NDArray[Any]]:
    return [rows[i : i + batch] for i in range(0, len(rows) - batch + 1, batch)]


def _rows(batch: int) -> str:
    return "one row" if batch == 1 else f"{batch:,} rows"
