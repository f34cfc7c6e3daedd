"""`Steps`: dense layers from what other programs call layers, one step after the other.

Frameworks write a dense network as a chain of products, sums, normalisations and activations;
fastnn has layers `activation(x @ weight + bias)`. Every reader says what it finds as steps, and
what belongs to one layer is folded here, and nowhere else:

    affine after linear     (x @ W + b) * s + t  =  x @ (W * s) + (b * s + t)
    affine before linear    (x * s + t) @ W + b  =  x @ (s[:, None] * W) + (b + t @ W)
    linear after linear     (x @ V + a) @ W + b  =  x @ (V @ W) + (a @ W + b), if that is less work
                            for each row, and `MAX_MULTIPLIED` multiply-adds in all of a network now

Invariant: all of it is float64 until `layers()`, which rounds each weight once. An activation
without a product before it gets a layer that multiplies by one (a diagonal), but for at most
`MAX_DIAGONAL` values, and as many weights as one such layer has, in all of a network: a file of a
few bytes must not become large matrices. Nor may it touch large ones again and again: at most
`MAX_FOLDED` steps go into one product, and scales behind it are kept for themselves until its layer
is closed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from fastnn.formats.model_file import MAX_LAYERS
from fastnn.layers import Dense

__all__ = ["MAX_DIAGONAL", "MAX_FOLDED", "MAX_MULTIPLIED", "MAX_TOUCHED", "Steps"]

MAX_DIAGONAL = 1024
MAX_FOLDED = 64
MAX_MULTIPLIED = 2**28
MAX_TOUCHED = 2**22

_Float64 = npt.NDArray[np.float64]
_Range = tuple[float, float]


class Steps:
    """A chain of steps, from `n_inputs` values a row on (None: whatever the first step takes).

    What overflows float64 on the way is infinite or NaN in the layers, which `Dense` refuses.
    Each method raises `ValueError` where the step does not fit what came before: sizes that differ,
    or an activation that needs a diagonal that is too large. Whether numbers are finite in float32
    and an activation is known is `Dense`'s question, when `layers` builds them.

    `merge=False`: each linear step begins a layer of its own.
    """

    def __init__(self, n_inputs: int | None = None, *, merge: bool = True) -> None:
        self._n = n_inputs  # values a row has here
        self._merge = merge
        self._n_diagonal = 0  # weights of diagonal layers so far
        self._done: list[tuple[_Float64, _Float64, str, dict[str, float]]] = []
        self._linear: tuple[_Float64, _Float64] | None = None  # no activation yet
        # Scale and shift, of one value or of all: of what the next product takes, while none is
        # open, and of what the open one gives.
        self._affine: tuple[_Float64, _Float64] | None = None
        self._after: tuple[_Float64, _Float64] | None = None
        self._n_multiplied = 0  # multiply-adds of products that were folded
        self._n_folded = 0  # steps that became part of the open product
        self._n_scales = 0  # scales and shifts of the open layer
        self._n_touched = 0  # values of those of all layers, but the first two of each
        self._quantized: _Range | None = None  # what the next product takes
        self._range: _Range | None = None  # what the open product takes
        self._ranges: list[_Range | None] = []

    @property
    def width(self) -> int | None:
        """How many values a row has after the steps so far; None: not known yet."""
        return self._n

    def values(self, n: int) -> None:
        """A row has n values here, or it is refused."""
        self._fits(n, "what comes next")
        self._n = n

    @np.errstate(over="ignore", invalid="ignore")
    def linear(self, weight: npt.ArrayLike, bias: npt.ArrayLike | None = None) -> None:
        """x @ weight + bias; weight (inputs, outputs), bias (outputs,), a number, or None for 0."""
        w = np.asarray(weight, np.float64)
        if w.ndim != 2 or not w.size:
            raise ValueError(f"weight has shape {w.shape}, wanted (inputs, outputs)")
        self._fits(w.shape[0], "weight")
        b = _per_value(0.0 if bias is None else bias, w.shape[1], "bias")
        b = np.broadcast_to(b, w.shape[1:])
        if self._affine is not None:
            scale, shift = self._affine
            w, b = scale[:, None] * w, b + np.broadcast_to(shift, w.shape[:1]) @ w
            self._affine = None
        if self._linear is not None:
            v, a = self._product()
            is_less = v.shape[0] * w.shape[1] <= v.size + w.size
            n_multiplied = self._n_multiplied + v.size * w.shape[1]
            is_cheap = n_multiplied <= MAX_MULTIPLIED
            if self._merge and self._quantized is None and is_less and is_cheap:
                self._n_multiplied = n_multiplied
                self._fold()
                w, b = v @ w, a @ w + b
            else:
                self._close("identity", {})
        self._linear = (w, b)
        self._n = w.shape[1]
        if self._quantized is not None:
            self._range, self._quantized = self._quantized, None

    def quantized(self, lo: float, hi: float) -> None:
        """The next linear step takes values between `lo` and `hi`, rounded to 256 levels.

        A scale and an offset before it become part of its layer, so the layer's range is what they
        make [lo, hi] of; ValueError where they differ from value to value.
        """
        if self._affine is not None:
            scale, shift = (np.unique(part) for part in self._affine)
            if scale.size > 1 or shift.size > 1 or not scale[0]:
                raise ValueError("values are rounded after a scale or an offset of their own each")
            lo, hi = sorted(float((end - shift[0]) / scale[0]) for end in (lo, hi))
        self._quantized = min(lo, 0.0), max(hi, 0.0)

    @property
    def ranges(self) -> tuple[tuple[float, float] | None, ...]:
        """Of the layers that `layers` gives: what `quantized` said of their inputs, else None."""
        return tuple(self._ranges)

    @np.errstate(over="ignore", invalid="ignore")
    def affine(self, scale: npt.ArrayLike = 1.0, shift: npt.ArrayLike = 0.0) -> None:
        """x * scale + shift, each a number or one per value."""
        n = self._n
        if n is None:  # known by whichever is no number
            n = max(np.size(scale), np.size(shift))
            self._n = n if n > 1 else None
        s, t = _per_value(scale, n, "scale"), _per_value(shift, n, "offset")
        before = self._affine if self._linear is None else self._after
        if before is not None:
            s, t = before[0] * s, before[1] * s + t
        self._n_scales += 1
        if self._n_scales > 2:
            self._n_touched += max(s.size, t.size)
        if self._n_touched > MAX_TOUCHED:
            raise ValueError(f"scales and offsets of more than {MAX_TOUCHED} values in all")
        if self._linear is None:
            self._affine = (s, t)
        else:
            self._fold()
            self._after = (s, t)

    @np.errstate(over="ignore", invalid="ignore")
    def normalization(
        self,
        mean: npt.ArrayLike,
        variance: npt.ArrayLike,
        epsilon: float,
        weight: npt.ArrayLike | None = None,
        bias: npt.ArrayLike | None = None,
    ) -> None:
        """(x - mean) / sqrt(variance + epsilon) * weight + bias: batch norm after training.

        Each but epsilon one per value; weight None is 1, bias None is 0.
        """
        arrays = [
            np.asarray(a, np.float64) for a in (mean, variance, weight, bias) if a is not None
        ]
        if len({array.shape for array in arrays}) > 1 or arrays[0].ndim != 1:
            shapes = ", ".join(str(array.shape) for array in arrays)
            raise ValueError(f"a normalisation of shapes {shapes}, wanted vectors of one length")
        least = float(np.min(arrays[1])) + epsilon
        if not least > 0:
            raise ValueError(f"variance + epsilon is {least:g}, wanted a number above 0")
        scale = (1.0 if weight is None else np.asarray(weight, np.float64)) / np.sqrt(
            arrays[1] + epsilon
        )
        shift = (0.0 if bias is None else np.asarray(bias, np.float64)) - arrays[0] * scale
        self.affine(scale, shift)

    def activation(self, name: str, **parameters: float) -> None:
        """An activation by its name in `fastnn.activations()`."""
        if name == "identity":
            return
        self._need_linear(f"{name} without a dense layer before it")
        self._close(name, parameters)
        self._quantized = None

    def layers(self) -> list[Dense]:
        """The layers. Raises what `Dense` raises, and `ValueError` where no step was a layer.

        To be called once, after the last step.
        """
        if self._affine is not None:
            self._need_linear("a scale or an offset after the last dense layer")
        if self._linear is not None:
            self._close("identity", {})
        if not self._done:
            raise ValueError("there is no dense layer")
        return [Dense(w, b, name, **parameters) for w, b, name, parameters in self._done]

    def _fits(self, n: int, what: str) -> None:
        if self._n is not None and self._n != n:
            raise ValueError(f"{what} takes {n} values, but a row has {self._n} here")

    def _fold(self) -> None:
        self._n_folded += 1
        if self._n_folded > MAX_FOLDED:
            raise ValueError(f"more than {MAX_FOLDED} steps without an activation between them")

    @np.errstate(over="ignore", invalid="ignore")
    def _product(self) -> tuple[_Float64, _Float64]:
        """The open product, with what comes after it multiplied in."""
        assert self._linear is not None
        if self._after is not None:
            (w, b), (s, t) = self._linear, self._after
            is_shift = bool((s == 1).all())  # a bias, which needs no copy of the weights
            self._linear, self._after = (w if is_shift else w * s, b * s + t), None
        return self._linear

    def _need_linear(self, what: str) -> None:
        """A layer to close: the one that is open, or a diagonal one."""
        if self._linear is not None:
            return
        n = self._n
        if n is None:
            raise ValueError(f"{what}: the number of its values is not known")
        if n > MAX_DIAGONAL:
            raise ValueError(
                f"{what} needs a layer of its own, which is built for at most {MAX_DIAGONAL} "
                f"values, and here are {n}"
            )
        self._n_diagonal += n * n
        if self._n_diagonal > MAX_DIAGONAL**2:
            raise ValueError(
                f"{what} needs a layer of its own, as others did: together they have more than "
                f"{MAX_DIAGONAL**2} weights"
            )
        scale, shift = self._affine or (np.ones(n), np.zeros(n))
        self._affine = None
        self._linear = (np.diag(np.broadcast_to(scale, n)), np.broadcast_to(shift, n))

    def _close(self, name: str, parameters: dict[str, Any]) -> None:
        if len(self._done) == MAX_LAYERS:  # now, not when thousands have been built
            raise ValueError(f"more than {MAX_LAYERS} layers")
        self._done.append((*self._product(), name, parameters))
        self._ranges.append(self._range)
        self._linear = self._range = None
        self._n_folded = self._n_scales = 0


def _per_value(values: npt.ArrayLike, n: int, what: str) -> _Float64:
    """`values` as float64 (n,), or (1,) for one of all."""
    array = np.asarray(values, np.float64)
    if array.size not in (1, n):
        raise ValueError(f"{what} has shape {array.shape}, wanted one number or {n}")
    return array.reshape(-1)
