"""int8: calibrated ranges, and the layers that a quantized network is made of.

What lives here: `Calibration` (the range of each layer's input), `calibrate` (ranges from rows),
`QuantizedDense` and `quantize_layers` (int8 layers from float32 ones). Invariant: everything is
derived from float32 layers and ranges by the formulas below, in float64, each result rounded once,
so that the same file gives the same integers on every machine; and what overflows is refused here.

Activations are u8 with a scale s and a zero point c, one pair for all inputs of a layer; weights
are s8 with one scale per output; sums are exact integers:

    range      (lo, hi), lo <= 0 <= hi:  s = float32((hi - lo) / 255),  c = rint(-lo / s) in 0..255
    weights    w_scale[n] = float32(max_k |w[k,n]| / 127),  w8[k,n] = rint(w[k,n] / w_scale[n])
               or, where all weights of a layer are -127..127 times one step, that for every output
    input      q[k] = rint(clamp(fma(x[k], 1/s, c), 0, 255));  a uint8 row is its own q (s 1, c 0)
    layer      z[n] = fma(float32(sum_k q[k] w8[k,n]), scale[n], offset[n]) + 0
               scale[n] = s w_scale[n],  offset[n] = bias[n] - s w_scale[n] c sum_k w8[k,n]
    between    two int8 layers, after identity, or relu before c = 0 ("direct"):
               q[n] = rint(clamp(fma(float32(sum), scale[n] / s', offset[n] / s' + c'), 0, 255))
               after any other activation, or a float32 layer: the float32 activation, as an input

rint is to nearest, ties to even. A NaN has no u8: its whole row becomes NaN; infinities saturate.
`reference.quantized_trace` computes all this.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from fastnn.checks import FLOAT32_MAX, frozen
from fastnn.layers import Dense

if TYPE_CHECKING:
    from fastnn.model import Model

__all__ = [
    "MAX_INPUTS",
    "Calibration",
    "QuantizedDense",
    "calibrate",
    "is_direct",
    "quantize_layers",
    "requantization",
]

MAX_INPUTS = 66_051
"""Inputs of a layer whose sums are sure to fit 32 bits: 66,051 * 255 * 127 < 2^31."""

INPUTS = ("uint8", "float32")

_Layer: TypeAlias = "Dense | QuantizedDense"
_SAME_LEVEL = (
    2**-21
)  # of a level: weight, largest weight and step were rounded to float32, or twice
_LEAST_LEVELS = 64  # at most half of 127: levels that are fewer are multiples of finer ones
_LOOKED_AT = 1 << 14  # weights at a time, until there are too many different ones
_MAX_BATCH = 1024  # rows traced at once ...
_MAX_VALUES = 1 << 21  # ... and values of theirs
_MOST_FOR_TAPS = 2000  # rows: how neighbours predict each other needs no more


@dataclass(frozen=True)
class Calibration:
    """The range of each layer's input: what `int8` needs beside the float32 weights.

    `input` is the dtype of the rows that were seen, "uint8" or "float32": the one that is
    quantized, while rows of the other take the first layer in float32. `ranges` has one (lo, hi)
    per layer, of its input, in real units, lo <= 0 <= hi; the first is (0, 255) for "uint8".
    `taps` says how uint8 inputs predict each other, (lag, quarters) by pair: a hint that makes
    certified labels cheaper (`fastnn.certify.Taps`); may be empty, and is for floats.

    Raises TypeError or ValueError for anything else.
    """

    input: str
    ranges: tuple[tuple[float, float], ...]
    taps: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        if self.input not in INPUTS:
            raise ValueError(f"Calibration: input is {self.input!r}, wanted one of {INPUTS}")
        if isinstance(self.ranges, str) or not isinstance(self.ranges, Iterable):
            kind = type(self.ranges).__name__
            raise TypeError(f"Calibration: ranges is a {kind}, wanted pairs (lo, hi)")
        ranges = tuple(_range(i, pair) for i, pair in enumerate(self.ranges))
        if not ranges:
            raise ValueError("Calibration: ranges is empty, wanted one pair (lo, hi) per layer")
        if self.input == "uint8" and ranges[0] != (0.0, 255.0):
            raise ValueError(
                f"Calibration: ranges[0] is {ranges[0]}, wanted (0, 255), which uint8 has"
            )
        object.__setattr__(self, "ranges", ranges)  # the record is frozen
        object.__setattr__(self, "taps", _taps(self.taps))
        if self.taps and self.input != "uint8":
            raise ValueError(f'Calibration: taps are for "uint8" input, not {self.input!r}')

    def __reduce__(self) -> tuple[Any, ...]:
        # Through the constructor, so that what comes out of a pickle is checked as well.
        return Calibration, (self.input, self.ranges, self.taps)


def _taps(taps: Any) -> tuple[tuple[int, int], ...]:
    pairs = tuple(map(tuple, taps)) if isinstance(taps, Sequence) else None
    if pairs is None or any(len(p) != 2 or any(type(v) is not int for v in p) for p in pairs):
        raise TypeError(f"Calibration: taps is {taps!r}, wanted pairs of integers (lag, quarters)")
    if pairs:
        from fastnn.certify import Taps

        Taps.of(pairs)  # refuses what is out of range
    return pairs


def _range(i: int, pair: Any) -> tuple[float, float]:
    numbers = tuple(pair) if isinstance(pair, Iterable) and not isinstance(pair, str) else ()
    if len(numbers) != 2 or not all(
        isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
        for value in numbers
    ):
        raise TypeError(f"Calibration: ranges[{i}] is {pair!r}, wanted two numbers (lo, hi)")
    lo, hi = numbers
    if not -FLOAT32_MAX <= lo <= 0 <= hi <= FLOAT32_MAX:  # NaN fails too
        raise ValueError(
            f"Calibration: ranges[{i}] is ({lo}, {hi}), wanted lo <= 0 <= hi, finite in float32"
        )
    return float(lo) + 0.0, float(hi) + 0.0  # no negative zero


def scale_and_zero(lo: float, hi: float) -> tuple[float, int]:
    """The scale (a float32 value) and the zero point (0..255) of u8 values for a range."""
    with np.errstate(over="ignore", under="ignore"):
        scale = float(np.float32((hi - lo) / 255))
        # Nothing but 0, or so little that 1 / scale is beyond float32: all of it is 0.
        if scale == 0 or not np.isfinite(np.float32(1 / scale)):
            return 1.0, 0
    return scale, min(round(-lo / scale), 255)


class QuantizedDense:
    """An int8 layer as data: the arrays that `_core.Network` packs.

    Made by `quantize_layers`; the formulas are at the top of this file. Takes C-contiguous
    arrays of the right dtype, makes them read-only, and never changes. Raises ValueError for a
    shape or dtype that is wrong, and for numbers that are not finite.
    """

    __slots__ = (
        "activation", "input_scale", "input_zero", "offset", "parameters", "scale", "weight_i8"
    )  # fmt: skip

    weight_i8: npt.NDArray[np.int8]
    """-127..127, shape (inputs, outputs), C-contiguous, read-only."""
    scale: npt.NDArray[np.float32]
    """Real units of one step of a sum, shape (outputs,), read-only."""
    offset: npt.NDArray[np.float32]
    """What is added to a scaled sum, shape (outputs,), read-only."""
    input_scale: float
    """Real units of one step of an input; a float32 value above 0 whose inverse is one too."""
    input_zero: float
    """The u8 input that stands for 0; an integer 0..255."""
    activation: str
    """A name from `fastnn.activations()`."""
    parameters: Mapping[str, float]
    """All parameters of the activation, in the C list's order; read-only."""

    def __init__(
        self,
        weight_i8: npt.NDArray[np.int8],
        scale: npt.NDArray[np.float32],
        offset: npt.NDArray[np.float32],
        input_scale: float,
        input_zero: float,
        activation: str,
        parameters: Mapping[str, float],
    ) -> None:
        if weight_i8.dtype != np.int8 or weight_i8.ndim != 2 or not weight_i8.size:
            raise ValueError(
                f"QuantizedDense: weight_i8 is {weight_i8.dtype} of shape {weight_i8.shape}, "
                "wanted int8 of shape (inputs, outputs), each at least 1"
            )
        if len(weight_i8) > MAX_INPUTS:
            raise ValueError(
                f"QuantizedDense: weight_i8 has {len(weight_i8)} inputs, "
                f"wanted at most {MAX_INPUTS}"
            )
        if weight_i8.min() < -127:
            raise ValueError("QuantizedDense: weight_i8 has the value -128, wanted -127..127")
        for name, array in (("scale", scale), ("offset", offset)):
            if array.dtype != np.float32 or array.shape != weight_i8.shape[1:]:
                raise ValueError(
                    f"QuantizedDense: {name} is {array.dtype} of shape {array.shape}, "
                    f"wanted float32 of shape {weight_i8.shape[1:]}"
                )
            if not np.isfinite(array).all():
                raise ValueError(f"QuantizedDense: {name} has NaN or Inf, wanted finite numbers")
        with np.errstate(all="ignore"):
            step = np.float32(input_scale)
            inverse = np.float32(1 / np.float64(step))
        is_sound = np.isfinite(step) and 0 < inverse < np.inf
        if not is_sound or not 0 <= input_zero <= 255 or input_zero != int(input_zero):
            raise ValueError(
                f"QuantizedDense: input_scale is {input_scale} and input_zero {input_zero}, wanted "
                "a float32 above 0 with an inverse, and an integer 0..255"
            )
        values = {
            "weight_i8": frozen(np.ascontiguousarray(weight_i8)),
            "scale": frozen(np.ascontiguousarray(scale)),
            "offset": frozen(np.ascontiguousarray(offset)),
            "input_scale": float(step),
            "input_zero": float(input_zero),
            "activation": activation,
            "parameters": MappingProxyType(dict(parameters)),
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)

    @property
    def n_inputs(self) -> int:
        """The number of inputs: rows of `weight_i8`."""
        return self.weight_i8.shape[0]

    @property
    def n_outputs(self) -> int:
        """The number of outputs: columns of `weight_i8`."""
        return self.weight_i8.shape[1]

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"QuantizedDense: {name} cannot be set; a layer never changes")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"QuantizedDense: {name} cannot be deleted; a layer never changes")

    def __repr__(self) -> str:
        return (
            f"<fastnn.quantize.QuantizedDense {self.n_inputs}-{self.n_outputs} {self.activation}, "
            f"input {self.input_scale:.6g}*(q - {self.input_zero:.0f})>"
        )


def quantize_dense(layer: Dense, lo: float, hi: float) -> QuantizedDense:
    """The int8 layer of `layer` for inputs of the range (lo, hi); ValueError on overflow."""
    input_scale, zero = scale_and_zero(lo, hi)
    weight = layer.weight.astype(np.float64)
    largest = np.abs(weight).max(axis=0)
    weight_scale = (largest / 127).astype(np.float32).astype(np.float64)
    weight_scale[weight_scale == 0] = 1  # all zero, or as good as
    if common := _common_step(layer.weight):
        weight_scale[largest > 0] = common
    weight_i8 = np.clip(np.rint(weight / weight_scale), -127, 127).astype(np.int8)
    step = input_scale * weight_scale
    with np.errstate(over="ignore", under="ignore"):
        scale = step.astype(np.float32)
        shift = step * zero * weight_i8.sum(axis=0, dtype=np.int64)
        offset = (layer.bias - shift).astype(np.float32)
    return QuantizedDense(
        weight_i8, scale, offset, input_scale, zero, layer.activation, layer.parameters
    )


def _common_step(weight: npt.NDArray[np.float32]) -> float:
    """The step that all weights are -127..127 times; 0 if there is none.

    So it is where they come from a file of int8 weights with one scale for the layer (a QDQ graph).
    A scale for each output would round them once more, to other levels.
    """
    flat, sizes = weight.ravel(), np.empty(0, np.float32)  # the different sizes, 0 among them
    for at in range(0, flat.size, _LOOKED_AT):
        sizes = np.union1d(sizes, np.abs(flat[at : at + _LOOKED_AT]))
        if sizes.size > 128:
            return 0.0
    counts = np.arange(127, _LEAST_LEVELS - 1, -1)
    steps = (sizes[-1].astype(np.float64) / counts).astype(np.float32).astype(np.float64)
    if steps[0] < np.finfo(np.float32).tiny:  # where rounding is coarser
        return 0.0
    levels = sizes / steps[:, None]
    fits = (np.abs(levels - np.rint(levels)) <= _SAME_LEVEL * levels).all(axis=1)
    return float(steps[fits.argmax()]) if fits.any() else 0.0


def quantize_layers(
    layers: Sequence[Dense], pixel: Dense | None, calibration: Calibration
) -> tuple[tuple[_Layer, ...], _Layer | None]:
    """The layers of a quantized network, and what uint8 rows take as the first one.

    `layers`: of the float32 network. `pixel`: its first layer as uint8 rows see it (scale, mean
    and std folded in), None where that is layers[0] itself; None is given back likewise. A layer
    of more than MAX_INPUTS inputs stays float32. The calibration has one range per layer.

    Raises ValueError if a range and the weights together overflow float32, naming the layer.
    """
    rest: list[_Layer] = [
        _quantized(i, layer, calibration.ranges[i]) for i, layer in enumerate(layers) if i > 0
    ]
    first: _Layer = layers[0]
    seen: _Layer | None = pixel
    if calibration.input == "uint8":
        seen = _quantized(0, layers[0] if pixel is None else pixel, calibration.ranges[0])
        if isinstance(seen, Dense):  # too wide
            seen = pixel
    else:
        first = _quantized(0, layers[0], calibration.ranges[0])
        if pixel is None and first is not layers[0]:
            seen = layers[0]
    pairs = list(enumerate(itertools.pairwise([first, *rest])))
    if seen is not None and rest:
        pairs.append((0, (seen, rest[0])))
    for i, (layer, after) in pairs:
        if not (isinstance(layer, QuantizedDense) and isinstance(after, QuantizedDense)):
            continue
        parts = requantization(layer, after)
        if is_direct(layer, after) and not all(np.isfinite(part).all() for part in parts):
            raise ValueError(
                f"layers[{i + 1}]: the range {calibration.ranges[i + 1]} is so small beside the "
                f"outputs of layers[{i}] that their ratio overflows float32"
            )
    return (first, *rest), seen


def _quantized(i: int, layer: Dense, limits: tuple[float, float]) -> _Layer:
    if layer.n_inputs > MAX_INPUTS:
        return layer
    try:
        return quantize_dense(layer, *limits)
    except ValueError as error:
        raise ValueError(f"layers[{i}] with the range {limits}: {error}") from None


def is_direct(layer: QuantizedDense, after: QuantizedDense) -> bool:
    """Whether the sums of `layer` become the u8 inputs of `after` by one multiply-add."""
    # Clamping below at zero point 0 is relu.
    return layer.activation == "identity" or (layer.activation == "relu" and after.input_zero == 0)


def requantization(
    layer: QuantizedDense, after: QuantizedDense
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """The multiplier and the offset, each (outputs,), of such a pair; inf where they overflow."""
    scale = np.float64(after.input_scale)
    with np.errstate(over="ignore", under="ignore"):
        return (
            (layer.scale / scale).astype(np.float32),
            (layer.offset / scale + after.input_zero).astype(np.float32),
        )


def calibrate(model: Model, rows: npt.ArrayLike) -> Calibration:
    """The ranges that the inputs of each layer take over `rows`, by the float32 network.

    `rows`: uint8 pixels, or floats in the network's units; (n, ...) with n_inputs values a row.
    Rows to calibrate with should be like those to come, some hundreds at least, and none that the
    accuracy is then measured on.

    The range is from the smallest value to the largest, 0 included. Studied on mnist-small, its
    hidden ReLU layer calibrated on 2,000 (54,000) training images and judged on 5,000 others: the
    RMS error of the logits is within 3 % of the best clipped range (the 99.9th to 99.999th
    percentile, or the least squared error), the largest error 1.2 (0.36) against 1.9 to 4.2 (1.6 to
    4.3), and no accuracy is lost either way. Clipping harms the rows whose large activations
    decide; whoever wants it writes a Calibration.

    Raises TypeError for rows that are neither uint8 nor floats; ValueError if there are none, they
    are not as wide as the model, hold NaN or infinity, or activations overflow.
    """
    array = _rows(rows, model.n_inputs)
    network = model if model.precision == "float32" else model.astype("float32")
    widest = sum(layer.n_outputs for layer in model.layers) + model.n_inputs
    n_batch = max(1, min(_MAX_BATCH, _MAX_VALUES // widest))
    ranges = [[0.0, 0.0] for _ in model.layers]
    is_pixels = array.dtype == np.uint8
    for start in range(0, len(array), n_batch):
        batch = array[start : start + n_batch]
        if not is_pixels:
            batch = _finite(batch, start)
        inputs = [batch, *(a for _, a in network.trace(batch)[:-1])]
        for i, (values, limits) in enumerate(zip(inputs, ranges, strict=True)):
            lo, hi = float(values.min()), float(values.max())
            if not (math.isfinite(lo) and math.isfinite(hi)):
                raise ValueError(
                    f"calibrate: rows {start} to {start + len(batch) - 1} make layers[{i - 1}] "
                    "give NaN or infinity, wanted finite activations"
                )
            limits[:] = min(limits[0], lo), max(limits[1], hi)
    found = tuple((lo, hi) for lo, hi in ranges)
    if not is_pixels:
        return Calibration("float32", found)
    from fastnn.certify import Taps

    taps = Taps.fitted(array[:_MOST_FOR_TAPS])
    return Calibration("uint8", ((0.0, 255.0), *found[1:]), taps.pairs)


def _rows(rows: npt.ArrayLike, n_inputs: int) -> npt.NDArray[Any]:
    """The rows as an array of shape (n, inputs), n at least 1, of uint8 or floats."""
    if isinstance(rows, np.ma.MaskedArray):
        raise TypeError("calibrate: rows is a masked array; fill it first: rows.filled(value)")
    try:
        array = np.asarray(rows)
    except ValueError as error:
        raise ValueError(f"calibrate: rows is no array of numbers: {error}") from None
    if not (array.dtype == np.uint8 or array.dtype.kind == "f" or array.dtype.name == "bfloat16"):
        raise TypeError(
            f"calibrate: rows has dtype {array.dtype}, wanted uint8 (pixels) or a float type"
        )
    if array.size == 0:
        raise ValueError(
            f"calibrate: rows is empty (shape {array.shape}), wanted at least one row of {n_inputs}"
        )
    if array.ndim >= 2 and array[0].size == n_inputs:
        return array.reshape(len(array), -1)
    if array.ndim and array.size == n_inputs:  # one row
        return array.reshape(1, -1)
    raise ValueError(
        f"calibrate: rows has shape {array.shape}, the network takes {n_inputs} values a row"
    )


def _finite(batch: npt.NDArray[Any], start: int) -> npt.NDArray[np.float32]:
    with np.errstate(over="ignore"):  # refused just below
        batch = batch.astype(np.float32)
    is_sound = np.isfinite(batch).all(axis=1)
    if not is_sound.all():
        row = start + int(np.argmin(is_sound))
        raise ValueError(f"calibrate: rows[{row}] has NaN or infinity, wanted finite float32")
    return batch
