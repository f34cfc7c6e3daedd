"""What `Model` and `ModelFile` both ask of classes, input units, precision and metadata.

Invariant: each function returns what it was given or a copy, its arrays read-only for good, or
raises an error that begins with the name of who asked.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    from fastnn.quantize import Calibration

__all__ = [
    "FLOAT32_MAX",
    "MOST_QUOTED",
    "PRECISIONS",
    "brief",
    "calibrated",
    "cut",
    "frozen",
    "is_text",
    "labels",
    "most_unpacked",
    "strings",
    "units",
]

FLOAT32_MAX = float(np.finfo(np.float32).max)
"""The largest number that is finite in float32."""

MOST_QUOTED = 80
"""Characters of a value that a message quotes."""

PRECISIONS = ("float32", "int8", "bfloat16", "certified")
"""How a network may compute; the first is the default."""

_NEED_RANGES = ("int8", "certified")

_Scalar = TypeVar("_Scalar", bound=np.generic)


def cut(text: str) -> str:
    """The beginning of what a message quotes."""
    return text if len(text) <= MOST_QUOTED else f"{text[: MOST_QUOTED - 3]}..."


def brief(value: object) -> str:
    """An argument of the caller, for a message: its `repr`, `cut`."""
    return cut(repr(value))


def frozen(array: npt.NDArray[_Scalar]) -> npt.NDArray[_Scalar]:
    """A view of `array`, read-only from now on; NumPy never makes such a view writeable."""
    array.flags.writeable = False
    return array.view()


def most_unpacked(n_bytes: int) -> int:
    """What a compressed file of so many bytes may unpack to: 4 MiB, and 50 bytes for each.

    Deflate goes up to 1,032 times, which no numbers that mean something do: MNIST's images shrink
    to a fifth, weights to nine tenths. In memory a half becomes a double and two floats for a
    while, seven times as much.
    """
    return (4 << 20) + 50 * n_bytes


def is_text(text: str) -> bool:
    """Whether UTF-8 can say it: no half of a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def strings(owner: str, metadata: Mapping[str, str]) -> dict[str, str]:
    """Metadata: strings by name."""
    copy = dict(metadata)
    for name, value in copy.items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise TypeError(
                f"{owner}: metadata has {brief(name)}: {brief(value)}, wanted strings by name"
            )
    return copy


def labels(owner: str, classes: npt.ArrayLike) -> npt.NDArray[Any]:
    """Labels of native byte order, 1-D: integers, strings or booleans."""
    copy = np.array(classes)
    if copy.dtype.kind not in "iuUb":
        raise TypeError(
            f"{owner}: classes has dtype {copy.dtype}, wanted integers, strings or booleans"
        )
    if copy.ndim != 1:
        raise ValueError(f"{owner}: classes has shape {copy.shape}, wanted one dimension")
    if copy.dtype.kind == "U" and not all(map(is_text, copy.tolist())):
        raise ValueError(f"{owner}: classes has half a surrogate pair")
    return frozen(copy.astype(copy.dtype.newbyteorder("="), copy=False))


def units(
    owner: str, name: str, value: npt.ArrayLike, n_inputs: int
) -> float | npt.NDArray[np.float64]:
    """A scale, mean or std: a finite float, or finite float64 of shape (inputs,)."""
    copy = np.array(value)
    if copy.dtype.kind not in "iuf":
        raise TypeError(f"{owner}: {name} has dtype {copy.dtype}, wanted real numbers")
    if copy.shape not in ((), (n_inputs,)):
        raise ValueError(
            f"{owner}: {name} has shape {copy.shape}, wanted one number or ({n_inputs},)"
        )
    copy = copy.astype(np.float64)
    if not np.isfinite(copy).all():
        raise ValueError(f"{owner}: {name} has NaN or Inf, wanted finite numbers")
    return frozen(copy) if copy.ndim else float(copy)


def calibrated(
    owner: str, precision: str, calibration: Calibration | None, n_layers: int
) -> tuple[str, Calibration | None]:
    """A precision, and a calibration that fits the layers and is there where it is needed."""
    if not isinstance(precision, str):
        raise TypeError(f"{owner}: precision is a {type(precision).__name__}, wanted a name")
    if precision not in PRECISIONS:
        raise ValueError(
            f"{owner}: precision is {brief(precision)}, wanted one of {', '.join(PRECISIONS)}"
        )
    if calibration is None:
        if precision in _NEED_RANGES:
            raise ValueError(
                f'{owner}: precision "{precision}" needs a calibration, the range of each '
                "layer's input; model.quantize(rows) finds it"
            )
        return precision, None
    from fastnn.quantize import Calibration  # costs an import that few models need

    if not isinstance(calibration, Calibration):
        kind = type(calibration).__name__
        raise TypeError(f"{owner}: calibration is a {kind}, wanted a Calibration")
    if len(calibration.ranges) != n_layers:
        raise ValueError(
            f"{owner}: calibration has {len(calibration.ranges)} ranges, wanted {n_layers}, "
            "one per layer"
        )
    return precision, calibration
