"""Certified labels: how far int8 logits can be from float32 ones, row by row, proved.

What lives here: the constants of the bound, computed once when a model is built (`Certificate`),
rounding of weights that makes the bound small (`Taps`, `shaped_weights`), proven upper bounds of
operator norms (`norm_bound`), and the bound itself in NumPy (`Certificate.bound`), which
csrc/certify.c has to equal. The theorem and its proof are docs/certified.md; names are the same.

Invariant: whatever is rounded is rounded towards a larger bound. Nothing that is read from a file
is trusted: weights may have been rounded by anybody and anyhow, taps may be any; they change how
large the bound is, never whether it holds.

Start at `Certificate`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from fastnn._core import Certifier
    from fastnn.layers import Dense
    from fastnn.quantize import Calibration, QuantizedDense

__all__ = [
    "ACTIVATIONS",
    "Certificate",
    "Rows",
    "Taps",
    "certifier",
    "int8_layers",
    "norm_bound",
    "shaped_weights",
]

_Float32 = npt.NDArray[np.float32]
_Float64 = npt.NDArray[np.float64]
_UInt8 = npt.NDArray[np.uint8]

EPSILON = 2.0**-24  # half an ULP of 1 in float32
TINY = 2.0**-149  # float32's smallest number, twice the error of a result that underflows
TAP = 4  # taps are in quarters
MAX_TAPS = 8
N_DIRECTIONS = 16  # of a hidden layer's rounding errors, followed exactly in doubtful rows
_LOST = 2.0**-60  # float32's squares below that may have vanished; times the root of how many
_ACTIVATION_ERROR = 4 * 2.0**-23  # 4 ULP: what make test-exhaustive allows (csrc/activations.h)
# Sums of fewer than 2^22 terms >= 0 in float64 are within 2^-31 of exact, in whatever order; so are
# a few more operations on them.
_UP = 1 + 2.0**-30


class Lipschitz(NamedTuple):
    """What the bound needs to know of an activation f."""

    constant: float
    """|f(x) - f(y)| <= constant * |x - y|."""
    is_exact: bool
    """float32 gives f(x) without rounding."""
    flat_below: float = -np.inf
    """f is constant, as computed, up to this z ..."""
    flat_above: float = np.inf
    """... and from this z on."""
    at_zero: float = 0
    """At least |f(0)|."""


# The largest slopes are derived in docs/certified.md, "Lipschitz constants". An activation that has
# none is not here: step jumps, exp is as steep as its value is large, and the softmaxes are of the
# last layer alone, whose labels are those of z.
ACTIVATIONS: dict[str, Callable[[Mapping[str, float]], Lipschitz]] = {
    "identity": lambda _: Lipschitz(1, True),
    "sigmoid": lambda _: Lipschitz(0.25, False, at_zero=0.5),
    "tanh": lambda _: Lipschitz(1, False),
    "relu": lambda _: Lipschitz(1, True, 0, np.inf),
    "leaky_relu": lambda p: Lipschitz(max(1, abs(p["alpha"])), False),
    "relu6": lambda _: Lipschitz(1, True, 0, 6),
    "clip": lambda p: Lipschitz(1, True, p["lo"], p["hi"], max(abs(p["lo"]), abs(p["hi"]))),
    "elu": lambda p: Lipschitz(max(1, abs(p["alpha"])), False),
    "selu": lambda _: Lipschitz(1.7581, False),
    "gelu": lambda _: Lipschitz(1.13, False),
    "gelu_tanh": lambda _: Lipschitz(1.13, False),
    "silu": lambda _: Lipschitz(1.1, False),
    "hardsigmoid": lambda p: Lipschitz(abs(p["alpha"]), False, at_zero=1),
    "hardswish": lambda _: Lipschitz(1.5, False, -3, np.inf),
    "softplus": lambda _: Lipschitz(1, False, at_zero=0.7),
    "softsign": lambda _: Lipschitz(1, False),
}
"""Of each activation that can be certified: its parameters (as float32) to a `Lipschitz`."""


class _Layer(Protocol):
    @property
    def weight(self) -> _Float32: ...
    @property
    def bias(self) -> _Float32: ...
    @property
    def activation(self) -> str: ...
    @property
    def parameters(self) -> Mapping[str, float]: ...


class _Quantized(Protocol):
    @property
    def weight_i8(self) -> npt.NDArray[np.int8]: ...
    @property
    def scale(self) -> _Float32: ...
    @property
    def offset(self) -> _Float32: ...
    @property
    def input_scale(self) -> float: ...
    @property
    def input_zero(self) -> float: ...


# ---- proven norms --------------------------------------------------------------------------------


def _gamma(n: int, epsilon: float = EPSILON) -> float:
    """N. Higham's gamma_n: n roundings change a sum of products by so much, relatively."""
    return n * epsilon / (1 - n * epsilon) * _UP


def _length(x: npt.ArrayLike, axis: int | None = None) -> _Float64:
    """At least the Euclidean length."""
    squares = np.square(np.asarray(x, np.float64)).sum(axis=axis)
    result: _Float64 = np.sqrt(squares) * _UP
    return result


def norm_bound(a: npt.ArrayLike) -> float:
    """A proven upper bound of the largest singular value of `a`, usually within 1 %.

    The smaller of the Frobenius norm, sqrt(norm_1 * norm_inf), and the least s of a few tried for
    which Cholesky's algorithm in float64 succeeds on s^2 I - A'A. The roundings of both are
    accounted for (docs/certified.md, "Proven norms"; S. M. Rump, 2006). inf for a matrix with
    values that are not finite.
    """
    matrix = np.asarray(a, np.float64)
    largest = float(np.abs(matrix).max(initial=0.0))
    if largest == 0:
        return 0.0
    if not np.isfinite(largest):
        return math.inf
    # A power of two away from 1 squares would overflow or vanish. What underflows here is below
    # 2^-1022 of the largest, far less than _UP gives.
    scale = 2.0 ** min(-math.frexp(largest)[1], 1000)
    with np.errstate(under="ignore"):
        matrix = matrix * scale
        if matrix.shape[0] < matrix.shape[1]:
            matrix = matrix.T
        absolute = np.abs(matrix)
        frobenius = float(_length(matrix))
        mixed = math.sqrt(absolute.sum(axis=0).max() * absolute.sum(axis=1).max()) * _UP
        best = min(frobenius, mixed)
        k, n = matrix.shape
        gram = matrix.T @ matrix
        estimate = _largest_eigenvalue(gram)
        product_error = _gamma(k, 2.0**-53) * frobenius**2
        for slack in (0.003, 0.01, 0.03, 0.1, 0.3):
            trial = estimate * (1 + slack)
            if trial >= best**2:
                break
            shifted = -gram
            shifted[np.diag_indices(n)] += trial
            try:
                is_definite = bool(np.isfinite(np.linalg.cholesky(shifted)).all())
            except np.linalg.LinAlgError:
                continue
            if is_definite:
                shift_error = 2.0**-53 * 2 * (trial + frobenius**2)
                cholesky_error = 2 * _gamma(n + 1, 2.0**-53) * n * trial
                square = trial + product_error + shift_error + cholesky_error
                best = min(best, math.sqrt(square) * _UP)
                break
    return best / scale


def _largest_eigenvalue(gram: _Float64, n_steps: int = 60) -> float:
    """About the largest eigenvalue, from below: only suggests what `norm_bound` tries first."""
    x = np.random.Generator(np.random.PCG64(0)).standard_normal(len(gram))
    for _ in range(n_steps):
        length = float(np.linalg.norm(x))
        if not length > 0:
            return 0.0
        x = gram @ (x / length)
    return float(np.linalg.norm(x))


def _nonnegative_norm(a: _Float64) -> float:
    """A proven upper bound of the largest singular value of `a` >= 0: L. Collatz's, for any x > 0,
    max (A'A x)_i / x_i."""
    x = np.ones(a.shape[1])
    with np.errstate(under="ignore"):
        for _ in range(4):
            y = a.T @ (a @ x)
            top = y.max()
            if not 0 < top < np.inf:
                return 0.0 if top == 0 else math.inf
            x = y / top + 2.0**-10
        return math.sqrt(float((a.T @ (a @ x) / x).max())) * _UP


# ---- weights rounded with the bound in mind ------------------------------------------------------


@dataclass(frozen=True)
class Taps:
    """A linear prediction of each input from earlier ones: p[k] = x[k] - sum of taps*x[k - lag]/4.

    Of images p is much shorter than x (0.38 of it on MNIST), and the bound of a layer that was
    rounded by `shaped_weights` grows with p. Any taps are valid; x[k] is 0 for k < 0.
    """

    lags: tuple[int, ...] = ()
    taps: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if len(self.lags) != len(self.taps) or len(self.lags) > MAX_TAPS:
            raise ValueError(
                f"Taps: {len(self.lags)} lags and {len(self.taps)} taps, "
                f"wanted as many, at most {MAX_TAPS}"
            )
        if any(lag < 1 for lag in self.lags) or sum(map(abs, self.taps)) > 16 * TAP:
            raise ValueError(
                f"Taps: lags {self.lags} and taps {self.taps}, wanted lags of at least 1 "
                f"and at most {16 * TAP} of taps in all"
            )

    @property
    def pairs(self) -> tuple[tuple[int, int], ...]:
        """(lag, tap) each."""
        return tuple(zip(self.lags, self.taps, strict=True))

    @classmethod
    def of(cls, pairs: Sequence[tuple[int, int]]) -> Taps:
        """From `pairs`."""
        return cls(tuple(lag for lag, _ in pairs), tuple(tap for _, tap in pairs))

    def residual(self, x: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """TAP * p, exact, for integers x of shape (rows, inputs)."""
        p = x * TAP
        for lag, tap in zip(self.lags, self.taps, strict=True):
            p[:, lag:] -= tap * x[:, : x.shape[1] - lag] if lag < x.shape[1] else 0
        return p

    def within(self, n_inputs: int) -> Taps:
        """Those that reach an input; a file may say anything, and lags take memory."""
        kept = [pair for pair in zip(self.lags, self.taps, strict=True) if pair[0] < n_inputs]
        return Taps(tuple(lag for lag, _ in kept), tuple(tap for _, tap in kept))

    @classmethod
    def fitted(cls, rows: npt.NDArray[np.uint8], n_taps: int = 4, longest: int = 128) -> Taps:
        """The taps that predict uint8 `rows` (rows, inputs) best, chosen one by one."""
        x = rows.astype(np.float64)
        n_inputs = x.shape[1]
        longest = min(longest, n_inputs - 1)
        spectrum = np.abs(np.fft.rfft(x, 2 * n_inputs)) ** 2
        r = np.fft.irfft(spectrum.sum(axis=0), 2 * n_inputs)[: longest + 1]
        if not r[0] > 0:
            return cls()
        chosen: list[int] = []
        left = r[0]
        for _ in range(min(n_taps, MAX_TAPS)):
            tries = []
            for lag in set(range(1, longest + 1)) - set(chosen):
                lags = np.array([*chosen, lag])
                tries.append((_unexplained(r, lags)[0], lag))
            best, lag = min(tries, default=(left, 0))
            if best >= 0.98 * left:
                break
            chosen.append(lag)
            left = best
        if not chosen:
            return cls()
        taps = np.rint(TAP * _unexplained(r, np.array(chosen))[1]).astype(int).tolist()
        kept = [(lag, tap) for lag, tap in zip(chosen, taps, strict=True) if tap]
        if sum(abs(tap) for _, tap in kept) > 16 * TAP:
            return cls()
        return cls(tuple(lag for lag, _ in kept), tuple(tap for _, tap in kept))


def _unexplained(r: _Float64, lags: npt.NDArray[np.int64]) -> tuple[float, _Float64]:
    """The squares that a prediction from `lags` leaves of autocorrelation r, and its factors."""
    matrix = r[np.abs(lags[:, None] - lags[None, :])] + 1e-9 * r[0] * np.eye(len(lags))
    factors = np.linalg.solve(matrix, r[lags])
    return float(r[0] - factors @ r[lags]), factors


def shaped_weights(weight: _Float32, taps: Taps) -> tuple[npt.NDArray[np.int8], _Float64]:
    """`weight` (inputs, outputs) as int8 and a scale per output, for inputs that `taps` predict.

    Each rounding error is passed on to earlier inputs, so that the error of the sum is that of
    independent roundings of the weights of p alone: noise shaping (N. Jayant and P. Noll, Digital
    Coding of Waveforms, 1984) along the inputs. Without taps: rint(weight / scale).
    """
    w = weight.astype(np.float64)
    taps = taps.within(len(w))
    room = 127 - sum(map(abs, taps.taps)) / (2 * TAP)
    largest = np.abs(w).max(axis=0)
    scale = np.where(largest > 0, largest / max(room, 64), 1).astype(np.float32).astype(np.float64)
    scale = np.where(scale > 0, scale, 1)
    scaled = w / scale
    n_inputs = len(w)
    errors = np.zeros((n_inputs + max(taps.lags, default=0), w.shape[1]))
    weight_i8 = np.zeros(w.shape, np.int8)
    for k in reversed(range(n_inputs)):
        value = scaled[k]
        for lag, tap in zip(taps.lags, taps.taps, strict=True):
            value = value + tap / TAP * errors[k + lag]
        rounded = np.clip(np.rint(value), -127, 127)
        errors[k] = np.clip(value - rounded, -1, 1)
        weight_i8[k] = rounded
    return weight_i8, scale


# ---- the certificate -----------------------------------------------------------------------------


class Rows(NamedTuple):
    """What is at hand of a block of M rows when their labels are to be certified."""

    q: Sequence[_UInt8]
    """Of each stage: its inputs, (M, inputs)."""
    a: Sequence[_Float32 | None]
    """Of each stage: what its q was rounded from, (M, inputs); None where q is exact (pixels)."""
    z: _Float32
    """The last stage's z, (M, n)."""
    hidden: _Float32
    """activation(z), the last layer's inputs, (M, n)."""
    logits: _Float32
    """The last layer's z; where `Certificate.by_z` is False its activation. (M, outputs)."""


@dataclass(frozen=True)
class Stage:
    """One int8 layer's constants. Norms are of vectors divided by `unit`, element by element."""

    n_inputs: int
    n_outputs: int
    input_scale: float
    input_zero: int
    taps: Taps
    lipschitz: Lipschitz
    unit: _Float64 = field(repr=False)
    """(outputs,) above 0: what an error of each output is measured in."""
    error: float
    """Times the input's error (in the units of the stage before): z's error."""
    residual: float
    """Times the length of the input's rounding error."""
    noise: float
    """Times the length of TAP * p."""
    defect: float
    """Times the length of q - zero, beside `noise`."""
    fixed: float
    per_q: float
    """Times the length of q: the int8 path's own roundings."""
    per_x: float
    """Times the length of what the float32 engine has as inputs, at most: its roundings."""
    directions: _Float32 = field(repr=False)
    """(inputs, N_DIRECTIONS or 0), to be multiplied by direction_scale."""
    direction_scale: float
    tail: float
    """residual, of what `directions` leave."""
    slop: float
    """Times the length of the rounding error, beside `directions`' part: their roundings."""
    largest_unit: float
    per_z: float
    """Times the error of z: that of activation(z) ..."""
    per_a: float
    """... beside this times the length of activation(z) ..."""
    fixed_a: float
    """... and this."""
    crude: tuple[float, float]
    """z's error and activation(z) are at most so long, in units and without, times |q|, beside what
    `fixed` and ..."""
    hidden_fixed: float
    """... this says, if there is no error before and q is exact."""
    unit_error: _Float64 = field(repr=False)
    """(outputs,) as error, residual, noise + defect, fixed + ..., for each output alone."""
    unit_residual: _Float64 = field(repr=False)
    unit_noise: _Float64 = field(repr=False)
    unit_defect: float
    unit_fixed: _Float64 = field(repr=False)
    unit_per_q: _Float64 = field(repr=False)
    unit_per_x: _Float64 = field(repr=False)

    @property
    def each(self) -> _Float32:
        """float32 (7, outputs) for fnn_stage.each: not below what it is rounded from."""
        rows = (
            self.unit,
            self.unit_error,
            self.unit_residual,
            self.unit_noise,
            self.unit_fixed,
            self.unit_per_q,
            self.unit_per_x,
        )
        # The first normal number: beside it, what products of these lose to underflow vanishes.
        values = np.maximum(np.stack(rows) * _UP, 2.0**-126)
        with np.errstate(over="ignore"):
            return np.nextafter(values.astype(np.float32), np.float32(np.inf))


class Certificate:
    """The constants of the bound for one network, and the bound.

    Parameters
    ----------
    layers
        The float32 layers as the float32 engine runs them: for uint8 rows the first has its scale,
        mean and std folded in.
    quantized
        For each layer but the last its int8 form, or None for the first: then that layer runs in
        float32 as well, and the stages are those after it.
    taps
        Of the first stage, if its rows are pixels: how its inputs predict each other.
    is_pixel
        Whether the first layer's rows are uint8 and its q are they; else they are rounded floats.
    by_z
        Whether labels are those of the last layer's z; else of its activation.

    Raises
    ------
    ValueError
        If there is nothing to certify (no int8 layer), an activation has no Lipschitz constant, or
        the shapes do not fit.
    """

    stages: tuple[Stage, ...]
    by_z: bool
    n_outputs: int
    pair: _Float64
    """(outputs, outputs): |unit * (w_i - w_j)|; for one output, and not `by_z`: |unit * w_i|."""
    weight: _Float32
    """(outputs, inputs) of the last layer, times its inputs' unit."""
    weight_slop: _Float64
    """(outputs,): what rounding `weight` may have taken from the length of a difference."""
    fixed: _Float64
    """(outputs,) roundings of the last layer: constant part."""
    per_a: _Float64
    """(outputs,) the same, times the sum of the lengths of both its inputs."""
    last: Lipschitz
    crude_square: float
    crude_fixed: float

    def __init__(
        self,
        layers: Sequence[_Layer],
        quantized: Sequence[_Quantized | None],
        *,
        taps: Taps | None = None,
        is_pixel: bool = True,
        by_z: bool = True,
    ) -> None:
        if len(layers) < 2 or len(quantized) != len(layers) - 1:
            raise ValueError(
                f"certify: {len(layers)} layers and {len(quantized)} of int8, "
                "wanted one less, and at least one"
            )
        known = [_lipschitz(i, layer) for i, layer in enumerate(layers[:-1])]
        first = 0 if quantized[0] is not None else 1
        if any(q is None for q in quantized[first:]) or first >= len(quantized):
            raise ValueError("certify: an int8 layer is missing; only the first may be float32")
        last = layers[-1]
        self.by_z = by_z or last.weight.shape[1] == 1
        self.last = Lipschitz(1, True) if self.by_z else _lipschitz(len(layers) - 1, last)
        self.n_outputs = last.weight.shape[1]
        stages: list[Stage] = []
        unit: _Float64 | None = None
        for i in range(first, len(quantized)):
            record = quantized[i]
            assert record is not None
            stage = _stage(
                layers[i],
                record,
                known[i],
                following=layers[i + 1].weight,
                is_last=i + 1 == len(quantized),
                taps=taps.within(len(layers[0].weight)) if taps and is_pixel and i == 0 else Taps(),
                unit_before=unit,
                is_exact=i == 0 and is_pixel,
            )
            unit = stage.unit
            stages.append(stage)
        self.stages = tuple(stages)
        self._set_last(last)

    def _set_last(self, last: _Layer) -> None:
        unit = self.stages[-1].unit
        w = last.weight.astype(np.float64)
        scaled = (w * unit[:, None]).T
        if self.by_z and self.n_outputs > 1:
            self.pair = np.stack([_length(row - scaled, axis=1) for row in scaled])
        else:
            self.pair = _length(scaled, axis=1)[:, None]
        self.weight = scaled.astype(np.float32)
        n = len(w)
        self.weight_slop = _length(scaled, axis=1) * (3 * EPSILON) + _LOST * math.sqrt(n)
        self.fixed = 2 * (_gamma(n) * np.abs(last.bias.astype(np.float64)) + (n + 2) * TINY)
        self.per_a = _gamma(n) * _length(w, axis=0)
        self.crude_square, self.crude_fixed = self._crude()

    def _crude(self) -> tuple[float, float]:
        """(square, fixed): sure is a row with (margin - fixed)^2 > square * (sum of q), the pixels
        being all there is to know of it; square is inf where that cannot be said."""
        stage = self.stages[0]
        is_told = self.by_z and self.n_outputs > 1 and len(self.stages) == 1
        if not is_told or not np.isfinite(stage.crude).all():
            return math.inf, math.inf
        # Each as (times |q|, fixed): the hidden layer's length, its error, the last layer's.
        hidden = np.array([stage.crude[1], stage.hidden_fixed])
        z = np.array([stage.crude[0], stage.fixed])
        error = stage.per_z * z + stage.per_a * hidden
        error[1] += stage.fixed_a
        length = 2 * hidden + stage.largest_unit * error
        last = float(self.pair.max()) * error + 2 * float(self.per_a.max()) * length
        last[1] += 2 * float(self.fixed.max())
        per_q, fixed = (float(v) * _UP * _UP for v in last)
        return per_q * per_q * 255 * _UP, fixed  # |q|^2 <= 255 * sum of q

    def errors(self, rows: Rows, *, is_fine: bool = True) -> _Float64:
        """(M,): how far the last layer's inputs can be from the float32 engine's, in their units.

        `is_fine`: with the directions of rounding errors; else what all rows are asked at first.
        """
        return self._walk(rows, is_fine)[0]

    def _walk(self, rows: Rows, is_fine: bool) -> tuple[_Float64, _Float64]:
        """As `errors`; and (M, n), how far the last stage's z can be."""
        error = np.zeros(len(rows.z))
        unit_before = 0.0
        z_error = np.zeros(rows.z.shape)
        for i, (stage, q, a) in enumerate(zip(self.stages, rows.q, rows.a, strict=True)):
            centred = q.astype(np.int64) - stage.input_zero
            length_p = _length(stage.taps.residual(centred), axis=1)
            length_q = _length(q, axis=1)
            length_x = _length(centred, axis=1)
            s = stage.input_scale
            length_r, part = np.zeros(len(q)), np.zeros(len(q))
            share = 1.0
            if a is not None:
                r = a.astype(np.float64) / s - centred
                with np.errstate(invalid="ignore"):
                    inexact = 4 * EPSILON * length_x + _LOST * math.sqrt(stage.n_inputs)
                    length = _length(r, axis=1)
                    length_r = s * (length + inexact)
                    part = stage.residual * length_r
                    if is_fine and stage.directions.shape[1]:
                        along = _length(r @ stage.directions.astype(np.float64), axis=1)
                        along = stage.direction_scale * along + stage.slop * (length + _LOST)
                        finer = np.sqrt(along**2 + (stage.tail * length) ** 2)
                        part = np.minimum(part, s * (finer + stage.residual * inexact) * _UP)
            elif is_fine:
                share = (q != 0).mean(axis=1)  # a product with 0 is added without rounding
            before = error
            length_reference = share * (s * length_x + length_r + unit_before * before)
            z_norm = (
                stage.error * before
                + part
                + stage.noise * length_p
                + stage.defect * length_x
                + stage.fixed
                + stage.per_q * length_q
                + stage.per_x * length_reference
            ) * _UP
            if i + 1 == len(self.stages):
                z_error = (
                    np.outer(before, stage.unit_error)
                    + np.outer(length_r, stage.unit_residual)
                    + np.outer(length_p, stage.unit_noise)
                    + stage.unit_defect * length_x[:, None]
                    + stage.unit_fixed
                    + np.outer(length_q, stage.unit_per_q)
                    + np.outer(length_reference, stage.unit_per_x)
                ) * _UP
                z_error = np.minimum(z_error, z_norm[:, None] * stage.unit)
                length_a = _length(rows.hidden, axis=1) + _LOST * math.sqrt(stage.n_outputs)
            else:
                following = rows.a[i + 1]
                assert following is not None
                length_a = _length(following, axis=1)
            error = (stage.per_z * z_norm + stage.per_a * length_a + stage.fixed_a) * _UP
            unit_before = stage.largest_unit
        return error, z_error

    def bound(self, rows: Rows, *, is_fine: bool = True) -> tuple[_Float64, _Float64]:
        """How far (best logit - each other) is, and how far it can be from float32's; (M, outputs).

        Of one output: its z and that of float32. At the best itself both are 0, NaN for one.
        """
        error, z_error = self._walk(rows, is_fine)
        flat_below, flat_above = self.stages[-1].lipschitz[2:4]
        is_live = np.ones(rows.z.shape)
        if is_fine:
            is_flat = (rows.z + z_error < flat_below) | (rows.z - z_error > flat_above)
            is_live = np.where(is_flat, 0.0, 1.0)
        logits = rows.logits.astype(np.float64)
        length_a = _length(rows.hidden, axis=1) + _LOST * math.sqrt(rows.hidden.shape[1])
        lengths = 2 * length_a + self.stages[-1].largest_unit * error
        rounding = self.fixed + np.outer(lengths, self.per_a)
        w = self.weight.astype(np.float64)
        at = np.arange(len(logits))
        with np.errstate(invalid="ignore"):
            if self.n_outputs == 1:
                live = np.sqrt(is_live @ w[0] ** 2)[:, None] + self.weight_slop
                return np.abs(logits), (live * error[:, None] + rounding) * _UP
            best = logits.argmax(axis=1)
            margin = logits[at, best][:, None] - logits
            if self.by_z:
                live = np.empty(logits.shape)
                for c in range(self.n_outputs):
                    mine = best == c
                    live[mine] = np.sqrt(is_live[mine] @ ((w[c] - w) ** 2).T)
                live += self.weight_slop[best][:, None] + self.weight_slop
                live = np.minimum(live, self.pair[best])
                possible = live * error[:, None] + rounding[at, best][:, None] + rounding
            else:
                live = np.sqrt(is_live @ (w**2).T) + self.weight_slop
                each = self.last.constant * (live * error[:, None] + rounding)
                if not self.last.is_exact:
                    each += _ACTIVATION_ERROR * (2 * np.abs(logits) + each) + 8 * TINY
                possible = each[at, best][:, None] + each
        possible = possible * _UP
        possible[at, best] = 0
        return margin, possible

    def flagged(self, rows: Rows, *, is_fine: bool = True) -> npt.NDArray[np.bool_]:
        """(M,): whose label may differ from float32's. NaN anywhere makes a row doubtful."""
        margin, possible = self.bound(rows, is_fine=is_fine)
        is_other = np.ones(margin.shape, bool)
        if self.n_outputs > 1:
            best = rows.logits.argmax(axis=1)
            is_other[np.arange(len(best)), best] = False
        is_open = is_other & ~np.greater(margin, possible) | np.isnan(rows.logits)
        return np.asarray(is_open.any(axis=1), np.bool_)


def _lipschitz(i: int, layer: _Layer) -> Lipschitz:
    if layer.activation not in ACTIVATIONS:
        raise ValueError(
            f"certify: layers[{i}] has the activation {layer.activation}, which has no Lipschitz "
            f"constant; wanted one of {', '.join(ACTIVATIONS)}"
        )
    rounded = {name: float(np.float32(value)) for name, value in layer.parameters.items()}
    return ACTIVATIONS[layer.activation](rounded)


def _stage(
    layer: _Layer,
    record: _Quantized,
    lipschitz: Lipschitz,
    *,
    following: _Float32,
    is_last: bool,
    taps: Taps,
    unit_before: _Float64 | None,
    is_exact: bool,
) -> Stage:
    """The constants of one int8 layer; docs/certified.md has the names and the formulas."""
    w = layer.weight.astype(np.float64)
    k, n = w.shape
    s, c = float(record.input_scale), int(record.input_zero)
    if not (s > 0 and c == record.input_zero and 0 <= c <= 255):
        raise ValueError(f"certify: input_scale is {s} and input_zero {record.input_zero}")
    if is_exact and (s, c) != (1, 0):
        raise ValueError(
            f"certify: input_scale is {s} and input_zero {c}, wanted 1 and 0 of pixels"
        )
    if record.weight_i8.shape != w.shape:
        raise ValueError(f"certify: int8 weights {record.weight_i8.shape}, float32 {w.shape}")
    scale, offset = record.scale.astype(np.float64), record.offset.astype(np.float64)
    bias = layer.bias.astype(np.float64)
    w8 = record.weight_i8 * (scale / s)  # within 2^-52 of exact
    unit = _unit(scale, following.astype(np.float64), is_last, unit_before is None)

    r = w - w8
    white = _whitened(r, taps)
    per_unit = 1 / unit
    # What w8, r and the recursion of `white` may have lost to rounding: docs, "The defect".
    lost = 2.0**-48 * (np.abs(w) + np.abs(w8) + (1 + len(taps.lags)) ** 2 * np.abs(white))
    # b - offset - zero * (sum of int8 weights) * scale: nothing but rounding, unless somebody
    # else's offsets are read.
    sums = record.weight_i8.astype(np.int64).sum(axis=0)
    beta = bias - offset - c * scale * sums
    beta = np.abs(beta) + 2.0**-50 * (np.abs(bias) + np.abs(offset) + np.abs(c * scale * sums))

    scaled = w * per_unit
    residual = 0.0 if is_exact else norm_bound(scaled)
    directions, direction_scale, tail, slop = _directions(scaled, is_needed=not is_exact)
    gain = 1.0 if unit_before is None else unit_before[:, None]
    absolute8 = np.abs(record.weight_i8) * scale
    underflow = (k + 4) * TINY
    fixed = beta + _gamma(k) * np.abs(bias) + 2 * EPSILON * np.abs(offset) + underflow
    defect = s * float(_length(lost * per_unit)) * _UP
    noise = s * norm_bound(white * per_unit) * _UP
    is_rounding = not lipschitz.is_exact
    per_q = 3 * EPSILON * _nonnegative_norm(absolute8 * per_unit) * _UP
    per_x = _gamma(k) * _nonnegative_norm(np.abs(scaled)) * _UP
    crude, hidden_fixed = (math.inf, math.inf), math.inf
    if is_exact:
        bare = noise if not taps.lags else s * norm_bound(r * per_unit) * _UP
        length = lipschitz.constant * _nonnegative_norm(absolute8) * (1 + 8 * EPSILON)
        crude = (bare + defect + per_q + per_x) * _UP, length * _UP
        hidden_fixed = lipschitz.constant * float(_length(offset)) * (1 + 8 * EPSILON)
        hidden_fixed = (hidden_fixed + lipschitz.at_zero * math.sqrt(n) + n * TINY) * 1.01
    return Stage(
        n_inputs=k,
        n_outputs=n,
        input_scale=s,
        input_zero=c,
        taps=taps,
        lipschitz=lipschitz,
        unit=unit,
        error=0.0 if unit_before is None else norm_bound(scaled * gain) * _UP,
        residual=residual * _UP,
        noise=noise / TAP,
        defect=defect,
        fixed=float(_length(fixed * per_unit)),
        per_q=per_q,
        per_x=per_x,
        directions=directions,
        direction_scale=direction_scale,
        tail=tail,
        slop=slop,
        largest_unit=float(unit.max()) * _UP,
        per_z=lipschitz.constant * (1 + 3 * _ACTIVATION_ERROR * is_rounding),
        per_a=3 * _ACTIVATION_ERROR * float(per_unit.max()) * _UP * is_rounding,
        fixed_a=8 * TINY * float(_length(per_unit)) * is_rounding,
        crude=crude,
        hidden_fixed=hidden_fixed,
        unit_error=_length(w * gain, axis=0) if unit_before is not None else np.zeros(n),
        unit_residual=np.zeros(n) if is_exact else _length(w, axis=0),
        unit_noise=s * _length(white, axis=0) / TAP * _UP,
        unit_defect=s * float(_length(lost)) * _UP,
        unit_fixed=fixed * _UP,
        unit_per_q=3 * EPSILON * _length(absolute8, axis=0),
        unit_per_x=_gamma(k) * _length(w, axis=0),
    )


def _unit(scale: _Float64, following: _Float64, is_last: bool, is_first: bool) -> _Float64:
    """What errors of the outputs are measured in: any positive numbers are valid.

    Where the noise of rounded weights is all there is, their scales make it white; errors that come
    from before have no such pattern, so halfway. Outputs on which the next layer leans get smaller
    units (0.35: what minimises the product of the norms on MNIST networks).
    """
    unit = scale if is_first else np.sqrt(scale)
    if not is_last:
        weight = _length(following * unit[:, None], axis=1)
        typical = float(np.median(weight)) or 1.0
        unit = unit / np.clip(weight / typical, 0.1, 10.0) ** 0.35
    typical = float(np.median(unit))  # columns of zeros have scales of their own
    unit = np.clip(unit, typical / 64, typical * 8)
    # What the next layer's weights are multiplied by should not leave float32.
    largest = float(np.abs(following * unit[:, None]).max()) or 1.0
    return unit * 2.0 ** -math.frexp(largest)[1]


def _whitened(r: _Float64, taps: Taps) -> _Float64:
    """The solution x of x[k] - sum of taps*x[k + lag]/4 = r[k]: r'u is then x'p."""
    if not taps.lags:
        return r
    k = len(r)
    x = np.zeros((k + max(taps.lags), r.shape[1]))
    for i in reversed(range(k)):
        x[i] = r[i]
        for lag, tap in zip(taps.lags, taps.taps, strict=True):
            x[i] += tap / TAP * x[i + lag]
    return x[:k]


def _directions(a: _Float64, *, is_needed: bool) -> tuple[_Float32, float, float, float]:
    """(directions, scale, tail, slop) such that, for any r and g = directions' r in float32,
    |a'r|^2 <= (scale |g| + slop |r|)^2 + (tail |r|)^2."""
    k, n = a.shape
    none = np.zeros((k, 0), np.float32), 0.0, 0.0, 0.0
    if not is_needed or min(k, n) < 4 * N_DIRECTIONS or not np.isfinite(a).all():
        return none
    v = np.random.Generator(np.random.PCG64(0)).standard_normal((n, N_DIRECTIONS))
    for _ in range(6):
        v = np.linalg.qr(a.T @ (a @ np.linalg.qr(v)[0]))[0]
    if not _length(v.T @ v - np.eye(N_DIRECTIONS)) < 2.0**-40:
        return none
    along = a @ v
    scale = 2.0 ** math.frexp(float(np.abs(along).max()))[1]
    directions = (along / scale).astype(np.float32)
    rounded = directions.astype(np.float64) * scale
    frobenius = float(_length(a))
    tail = norm_bound(a - along @ v.T) + 2.0**-48 * n * frobenius
    slop = float(_length(along - rounded)) + 2.0**-48 * n * frobenius
    slop += _gamma(k + N_DIRECTIONS) * float(_length(rounded))
    return directions, scale, tail * _UP, slop * _UP


# ---- the network that is certified ---------------------------------------------------------------


def int8_layers(chain: Sequence[Dense], calibration: Calibration) -> list[QuantizedDense]:
    """All but the last of the float32 layers `chain`, as uint8 rows meet them, in int8.

    The first has weights shaped by the calibration's taps; the others are as of precision "int8".
    Raises ValueError for a calibration on floats, a layer too wide for int8, or an overflow.
    """
    from fastnn.quantize import MAX_INPUTS, QuantizedDense, quantize_dense

    if len(chain) < 2:
        raise ValueError(
            "certify: the network has one layer, wanted two or more: the last is float32"
        )
    if calibration.input != "uint8":
        raise ValueError("certify: the rows to calibrate with are floats, wanted uint8 pixels")
    for i, layer in enumerate(chain[:-1]):
        if layer.n_inputs > MAX_INPUTS:
            raise ValueError(
                f"certify: layers[{i}] has {layer.n_inputs} inputs, wanted at most {MAX_INPUTS}"
            )
    layers: list[QuantizedDense] = []
    for layer, limits in zip(chain[:-1], calibration.ranges, strict=False):
        if layers:
            layers.append(quantize_dense(layer, *limits))
            continue
        weight_i8, scale = shaped_weights(layer.weight, Taps.of(calibration.taps))
        layers.append(
            QuantizedDense(
                weight_i8,
                scale.astype(np.float32),
                layer.bias,
                1.0,
                0.0,
                layer.activation,
                layer.parameters,
            )
        )
    return layers


def certifier(chain: Sequence[Dense], calibration: Calibration, isa: str | None) -> Certifier:
    """What `_core.Network` needs to certify the labels of the float32 layers `chain`."""
    from fastnn._core import Certifier, Network, activations

    layers = int8_layers(chain, calibration)
    taps = Taps.of(calibration.taps)
    by_z = activations()[chain[-1].activation]["label_by_z"]
    with np.errstate(over="ignore", invalid="ignore"):  # a bound that is infinite certifies nothing
        certificate = Certificate(chain, layers, taps=taps, by_z=by_z)
    return Certifier(Network([*layers, chain[-1]], isa=isa), certificate)
