"""The page that a picture is drawn on, from the check of its name to the finished file.

Invariant: no file without a whole picture, no date and no random name in it, and the user's own
matplotlib settings change nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = ["GREY", "NEGATIVE", "PALETTE", "POSITIVE", "SUFFIXES", "check_plot", "sheet"]

SUFFIXES = (".svg", ".png", ".pdf")

PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#333333")
"""Told apart by the colour-blind (Okabe and Ito)."""
POSITIVE, NEGATIVE = PALETTE[:2]
"""Of weights."""
GREY = "#555555"
"""Of words beside the matter."""

_SETTINGS: Any = {
    "svg.fonttype": "none",  # words stay words
    "svg.hashsalt": "fastnn",  # else names inside are random
    "font.sans-serif": ["DejaVu Sans", "Verdana", "sans-serif"],  # alike in width
    "text.parse_math": False,  # a "$" in somebody's class is a dollar
}


def check_plot(path: str | os.PathLike[str]) -> None:
    """Raise before hours of measuring: ImportError without matplotlib, ValueError for the suffix,
    OSError without the folder."""
    target = Path(path)
    if target.suffix.lower() not in SUFFIXES:
        raise ValueError(f"{target}: wanted a name that ends in {', '.join(SUFFIXES)}")
    if not target.parent.is_dir():
        raise FileNotFoundError(f"{target.parent}: no such folder")
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise ImportError('a plot needs an extra: pip install "fastnn[plot]"') from None


@contextmanager
def sheet(
    path: str | os.PathLike[str], inches: tuple[float, float], *, layout: Any = "constrained"
) -> Iterator[Any]:
    """A matplotlib Figure of this size, (width, height), to draw on; written to `path` at the end.

    The suffix says how. Raises as `check_plot`.
    """
    check_plot(path)
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.style import context

    with context("default", after_reset=True), matplotlib.rc_context(_SETTINGS):
        figure = Figure(figsize=inches, layout=layout)
        FigureCanvasAgg(figure)
        yield figure
        target = Path(path)
        suffix = target.suffix.lower()
        metadata = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}.get(suffix)
        part = target.with_name(f".{target.name}.{os.getpid()}.part")
        try:
            figure.savefig(part, format=suffix[1:], dpi=150, metadata=metadata)
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)
