"""What `Model` and `ModelFile` both ask of classes, input units and metadata.

Invariant: each function returns a copy, its arrays read-only for good, or raises an error that
begins with the name of who asked.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

__all__ = ["frozen", "is_text", "labels", "strings", "units"]

_Scalar = TypeVar("_Scalar", bound=np.generic)


def frozen(array: npt.NDArray[_Scalar]) -> npt.NDArray[_Scalar]:
    """A view of `array`, read-only from now on; NumPy never makes such a view writeable."""
    array.flags.writeable = False
    return array.view()


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
            raise TypeError(f"{owner}: metadata has {name!r}: {value!r}, wanted strings by name")
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
