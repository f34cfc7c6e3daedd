"""Rows in `.npy` files, for the commands that take them.

Invariant: whatever the file holds, the error is a `LoadError`; what comes out holds numbers.
"""

from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from fastnn.errors import LoadError

MAGIC = b"\x93NUMPY"


def load(path: Path, mmap_mode: Literal["r"] | None = None) -> npt.NDArray[Any]:
    """The array of numbers in a .npy file, mapped if asked for."""
    try:
        array = np.load(path, mmap_mode=mmap_mode, allow_pickle=False)
    except (OSError, MemoryError):
        raise
    # NumPy's parser of headers raises ValueError, TypeError, OverflowError, TokenError, ...
    except Exception as error:
        raise LoadError(f"{path}: npy: expected an array of numbers, found: {error}") from None
    if array.dtype.kind not in "biuf":
        raise LoadError(f"{path}: npy: expected an array of numbers, found one of {array.dtype}")
    return array
