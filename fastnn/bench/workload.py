"""What a model is timed on: its rows, cut into batches, and a fingerprint of both.

Invariant: the same model and kind give the same rows everywhere, so two runs with one fingerprint
did the same work. Consecutive batches hold different rows, for the engine skips zeros and a
processor learns the pattern of a row that it sees again and again.
"""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    from fastnn.layers import Dense
    from fastnn.model import Model

__all__ = ["Workload", "batches_of", "fingerprint", "outputs_sha256", "rows_for"]

_POOL_ROWS = 8192
_POOL_BYTES = 1 << 26
_CHECKED_ROWS = 1024
_SEED = 2_024


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


def batches_of(rows: npt.NDArray[Any], batch: int) -> list[npt.NDArray[Any]]:
    """The rows cut into batches, each filled up from the front; at least two where it can be."""
    n_batches = max(1, len(rows) // batch) if batch <= len(rows) // 2 else 2
    order = np.arange(n_batches * batch) % len(rows)
    return [np.ascontiguousarray(rows[order[i * batch :][:batch]]) for i in range(n_batches)]


@dataclass(frozen=True)
class Workload:
    """A model and batches of one size for it: what every system is given."""

    model: Model
    rows: npt.NDArray[Any]
    """uint8 or float32, shape (n, inputs)."""
    batch: int
    """Rows a call."""

    @functools.cached_property
    def batches(self) -> list[npt.NDArray[Any]]:
        """Each of shape (batch, inputs), C-contiguous."""
        return batches_of(self.rows, self.batch)

    @property
    def layers(self) -> tuple[Dense, ...]:
        """Of the model."""
        return self.model.layers

    @property
    def takes_pixels(self) -> bool:
        """Whether rows are uint8, read as (p*scale - mean)/std."""
        return self.rows.dtype == np.uint8

    @functools.cached_property
    def units(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """(factor, shift), shape (inputs,): pixel p is read as p*factor + shift."""
        wide = (self.model.n_inputs,)
        factor = np.broadcast_to(np.divide(self.model.scale, self.model.std), wide)
        shift = np.broadcast_to(-np.divide(self.model.mean, self.model.std), wide)
        return factor + 0.0, shift + 0.0

    def expected(self, rows: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        """z of the last layer in float64, the yardstick of every system's answer."""
        from fastnn import reference

        x = rows.astype(np.float64)
        if self.takes_pixels:
            x = x * self.units[0] + self.units[1]
        return reference.trace(self.layers, x)[-1][0]


def fingerprint(model: Model, rows: npt.NDArray[Any]) -> dict[str, Any]:
    """What is computed on what: shapes, number format, SHA-256 of the weights and of the rows."""
    weights = hashlib.sha256()
    for layer in model.layers:
        weights.update(repr((layer.activation, *layer.parameters.values())).encode())
        weights.update(_bytes(layer.weight))
        weights.update(_bytes(layer.bias))
    for unit in (model.scale, model.mean, model.std):
        weights.update(_bytes(np.asarray(unit, np.float64)))
    return {
        "widths": [model.n_inputs, *(layer.n_outputs for layer in model.layers)],
        "activations": [layer.activation for layer in model.layers],
        "format": [kernel["format"] for kernel in model.kernels],
        "task": model.task,
        "input": str(rows.dtype),
        "n_rows": len(rows),
        "weights_sha256": weights.hexdigest(),
        "rows_sha256": hashlib.sha256(_bytes(rows)).hexdigest(),
    }


def outputs_sha256(model: Model, rows: npt.NDArray[Any]) -> str:
    """SHA-256 of what `forward` gives for the first 1,024 rows, float32 little-endian.

    In float32 a row's bits are the same on every CPU, and so is this.
    """
    return hashlib.sha256(_bytes(model.forward(rows[:_CHECKED_ROWS], threads=1))).hexdigest()


def _bytes(array: npt.NDArray[Any]) -> bytes:
    return array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
