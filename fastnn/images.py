"""Pictures brought to MNIST's form: 28x28 uint8, 0 = background to 255 = ink, the digit fitted
into 20x20 pixels and centred by its mass.

Invariant: the same picture gives the same bytes on every machine: everything after decoding is a
few lines of NumPy, and Pillow only decodes. A file is refused by its header's size before its
pixels are unpacked.

Source of the form: LeCun, Cortes, Burges, http://yann.lecun.com/exdb/mnist/.
"""

from __future__ import annotations

import os
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from fastnn.errors import LoadError

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["read", "to_mnist"]

SIDE = 28
"""Height and width of MNIST's pictures."""

_BOX = 20  # the digit's longer side
_CENTRE = 14.0  # of mass, as a pixel index: what MNIST's own pictures have (13.98 and 14.02)
_FORMATS = ("PNG", "JPEG")
_LIGHT = 127.5
_FAINT = 0.15  # of the darkest ink: paper grain and JPEG's ripples stay below
_LEAST_CONTRAST = 16.0  # levels of 255; less is an empty page


def read(path: str | os.PathLike[str], *, invert: bool | None = None) -> npt.NDArray[np.uint8]:
    """The digit in a PNG or JPEG file in MNIST's form: uint8 of shape (28, 28).

    A grey picture of 28x28 is taken as it is. Any other goes through `to_mnist`: turned upright
    as its EXIF says, transparency laid on what contrasts with it, made grey. `invert` as there,
    except that None leaves a grey 28x28 picture alone.

    Raises `ImportError` without Pillow, `OSError` if the file cannot be opened, `LoadError` if it
    is no intact PNG or JPEG, or larger than Pillow's limit against decompression bombs (89
    million pixels), or has no ink in it.
    """
    try:
        from PIL import Image, ImageOps, UnidentifiedImageError
    except ImportError:
        raise ImportError('reading pictures needs Pillow: pip install "fastnn[images]"') from None
    with open(path, "rb") as file:  # its own errors stay OSErrors; Pillow's become LoadErrors
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", Image.DecompressionBombWarning)
                with Image.open(file, formats=_FORMATS) as picture:
                    values, is_grey = _grey(ImageOps.exif_transpose(picture))
        except UnidentifiedImageError:
            raise _error(path, "a PNG or JPEG picture", "neither") from None
        except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            raise _error(path, "a picture of a sane size", str(error)) from None
        # Pillow's decoders raise these on damaged files, and no narrower class.
        except (OSError, SyntaxError, ValueError, EOFError, IndexError) as error:
            raise _error(path, "an intact PNG or JPEG picture", str(error)) from None
    if values.shape == (SIDE, SIDE) and is_grey:
        as_is = np.rint(values).astype(np.uint8)
        return 255 - as_is if invert else as_is
    try:
        return to_mnist(values, invert=invert)
    except ValueError as error:
        raise _error(path, "a picture of a digit", str(error)) from None


def to_mnist(grey: npt.ArrayLike, *, invert: bool | None = None) -> npt.NDArray[np.uint8]:
    """A grey picture of one digit in MNIST's form: uint8 of shape (28, 28).

    `grey` is of shape (height, width), 0 = black to 255 = white, any real dtype. It is inverted
    if `invert`, or with None iff its border is light. What is as dark as the border, or nearly,
    becomes 0 and the strongest ink 255; the digit is averaged down (or up) to fit 20x20 with its
    proportions kept, and placed with its centre of mass at the centre.

    Raises `ValueError` if the shape is not of two axes, a value is not finite, or nothing stands
    out from the border.
    """
    ink = np.array(grey, np.float64)
    if ink.ndim != 2 or ink.size == 0:
        raise ValueError(f"to_mnist: grey has shape {ink.shape}, wanted (height, width)")
    if not np.isfinite(ink).all():
        raise ValueError("to_mnist: grey has NaN or Inf, wanted finite values")
    border = float(np.median(np.concatenate([ink[0], ink[-1], ink[1:-1, 0], ink[1:-1, -1]])))
    if invert is None:
        invert = border > _LIGHT
    ink = border - ink if invert else ink - border
    strongest = ink.max()
    if strongest < _LEAST_CONTRAST:
        kind = "darker" if invert else "lighter"
        raise ValueError(f"to_mnist: nothing in the picture is {kind} than its border")
    ink[ink < _FAINT * strongest] = 0
    digit = _fit(ink * (255 / strongest))
    return _centre(np.rint(digit * (255 / digit.max())).astype(np.uint8))


def _fit(ink: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The part with ink, averaged so that its longer side is 20."""
    rows, columns = np.flatnonzero(ink.any(1)), np.flatnonzero(ink.any(0))
    part = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    height, width = (max(1, round(side * _BOX / max(part.shape))) for side in part.shape)
    return _averages(part.shape[0], height) @ part @ _averages(part.shape[1], width).T


def _averages(n_from: int, n_to: int) -> npt.NDArray[np.float64]:
    """The matrix (n_to, n_from) that averages n_from equal cells over n_to equal intervals."""
    edges = np.arange(n_to + 1) * (n_from / n_to)
    cells = np.arange(n_from)
    overlap = np.minimum(edges[1:, None], cells + 1) - np.maximum(edges[:-1, None], cells)
    return np.maximum(overlap, 0) * (n_to / n_from)


def _centre(digit: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    mass = digit.astype(np.float64)
    corner = []
    for axis, side in enumerate(digit.shape):
        centre = mass.sum(1 - axis) @ np.arange(side) / mass.sum()
        # A lopsided digit is kept whole rather than exactly central.
        corner.append(min(max(round(_CENTRE - centre), 0), SIDE - side))
    top, left = corner
    field = np.zeros((SIDE, SIDE), np.uint8)
    field[top : top + digit.shape[0], left : left + digit.shape[1]] = digit
    return field


def _grey(picture: Any) -> tuple[npt.NDArray[np.float64], bool]:
    """float64 (height, width) of 0 to 255, and whether the picture has no colour in it."""
    if picture.mode.startswith("I"):  # 16 bits a pixel; converting to "L" would clip, not scale
        return np.asarray(picture, np.float64) / 257, True
    if picture.has_transparency_data:
        rgba = np.asarray(picture.convert("RGBA"), np.float64)
        values = _luma(rgba)
        alpha = rgba[..., 3] / 255
        # Light strokes are laid on black, others on white: either way they stay visible.
        is_light = (values * alpha).sum() > _LIGHT * alpha.sum()
        return values * alpha + (0.0 if is_light else 255.0) * (1 - alpha), False
    if picture.mode in ("1", "L"):
        return np.asarray(picture.convert("L"), np.float64), True
    rgb = np.asarray(picture.convert("RGB"))
    return _luma(rgb), bool((rgb == rgb[..., :1]).all())


def _luma(rgb: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """ITU-R BT.601, as Pillow's own conversion; exact for greys, since the weights add up to 1."""
    return rgb[..., 0] * 0.299 + rgb[..., 1] * 0.587 + rgb[..., 2] * 0.114


def _error(path: str | os.PathLike[str], expected: str, found: str) -> LoadError:
    return LoadError(f"{os.fspath(path)}: picture: expected {expected}, found {found}")
