"""Every activation of `fastnn.activations()` as a curve: one picture of small multiples.

Invariant: the curves are what the engine computes, float32 on this CPU's kernels, and the list is
the engine's, so a new activation is drawn as soon as it exists; the formulas below them are the
first sentences of `reference.py`.

softmax and log_softmax are functions of all outputs together. They are drawn for two outputs of
which the second is held at 0: then softmax's first output is the sigmoid of z.
"""

from __future__ import annotations

import os
import textwrap
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from fastnn._core import activations
from fastnn.plot.sheet import GREY, PALETTE, sheet

__all__ = ["curve", "draw_activations"]

_COLUMNS = 4
_LOW, _HIGH = -5.0, 5.0  # of z
_RANGE = {"relu6": (-2.0, 8.0)}  # where it bends
_MOST = 5.4  # of |a|: exp leaves the picture there
# Shown instead of the default where there is none, or where it would look like relu.
_VALUES = {"leaky_relu": {"alpha": 0.1}, "clip": {"lo": -2.0, "hi": 3.0}}


def curve(
    name: str, z: npt.NDArray[np.float32], parameters: Mapping[str, float] | None = None
) -> npt.NDArray[np.float32]:
    """The activation of each z of shape (n,): shape (n,), or (n, 2) for a last layer's, which get
    (z, 0)."""
    from fastnn.layers import Dense
    from fastnn.model import Model

    n_outputs = 2 if activations()[name]["last_layer_only"] else 1
    weight = np.eye(1, n_outputs)
    layer = Dense(weight, np.zeros(n_outputs), name, **(parameters or {}))
    return Model([layer], task="regress").forward(z[:, None])


def draw_activations(path: str | os.PathLike[str]) -> None:
    """Write the picture of all activations; the suffix, .svg, .png or .pdf, says how.

    Raises ImportError without matplotlib, ValueError for another suffix, OSError where the file
    cannot be written.
    """
    names = list(activations())
    n_rows = -(-len(names) // _COLUMNS)
    with sheet(path, (2.5 * _COLUMNS, 2.35 * n_rows + 0.4)) as figure:
        figure.get_layout_engine().set(w_pad=0.12, h_pad=0.1)
        figure.suptitle("The activations of fastnn", x=0.045, ha="left", fontsize=14)
        panels = figure.subplots(n_rows, _COLUMNS, squeeze=False).ravel()
        for axes, name in zip(panels, names, strict=False):
            _panel(axes, name)
        for axes in panels[len(names) :]:
            axes.set_axis_off()


def _panel(axes: Any, name: str) -> None:
    shown = _VALUES.get(name, {})
    known = activations()[name]["parameters"]
    values = {key: shown.get(key, 1.0 if value is None else value) for key, value in known.items()}
    low, high = _RANGE.get(name, (_LOW, _HIGH))
    z = np.linspace(low, high, 201, dtype=np.float32)
    a = curve(name, z, values).reshape(len(z), -1)
    inside = np.where(np.abs(a) <= max(_MOST, high), a, np.nan)
    bottom, top = min(-0.25, np.nanmin(inside)), max(1.0, np.nanmax(inside))
    margin = 0.08 * (top - bottom)
    axes.set_xlim(low, high)
    axes.set_ylim(bottom - margin, top + margin)
    for line in ("axhline", "axvline"):
        getattr(axes, line)(0, color="#bbbbbb", linewidth=0.8, zorder=1)
    for j, style in zip(range(a.shape[1]), ("-", (0, (4, 2))), strict=False):
        _line(axes, z, inside[:, j], PALETTE[j], style)
    if a.shape[1] > 1:
        for j, (x, y, side) in enumerate(((high, a[-1, 0], "right"), (low, a[0, 1], "left"))):
            axes.annotate(
                f"a{j}", (x, y), xytext=(0, -5), textcoords="offset points", ha=side, va="top",
                fontsize=8.5, color=PALETTE[j],
            )  # fmt: skip
    axes.tick_params(labelsize=7.5, length=2.5, color="#999999", labelcolor=GREY)
    axes.locator_params(nbins=5, steps=[1, 2, 5, 10])
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#999999")
    axes.set_title(name, loc="left", fontsize=11, fontweight="bold", pad=5)
    words = [_sentence(name), *(f"{key}={value:.3g}" for key, value in values.items())]
    if a.shape[1] > 1:
        words.append("here of (z, 0)")
    axes.set_xlabel(_wrapped(words), fontsize=8, color=GREY, loc="left")


def _wrapped(words: list[str]) -> str:
    """In lines that fit below a panel, broken between terms rather than inside."""
    text = "; ".join([words[0], ", ".join(words[1:])] if len(words) > 1 else words)
    for sign in "+-/":
        text = text.replace(f" {sign} ", f"\N{NO-BREAK SPACE}{sign}\N{NO-BREAK SPACE}")
    return textwrap.fill(text, 34, break_long_words=False)


def _line(axes: Any, z: np.ndarray, a: np.ndarray, colour: str, style: Any) -> None:
    """A jump is a gap, with dots across it."""
    jumps = np.flatnonzero(np.abs(np.diff(a)) > 0.5)
    parts = np.split(np.arange(len(z)), jumps + 1)
    for part in parts:
        axes.plot(z[part], a[part], color=colour, linestyle=style, linewidth=1.8, zorder=3)
    for i in jumps:
        pair = [i, i + 1]
        axes.plot(z[pair], a[pair], color=colour, linestyle=":", linewidth=1.0, zorder=2)


def _sentence(name: str) -> str:
    from fastnn import reference

    words = " ".join((reference.ACTIVATIONS[name].__doc__ or "").split())
    return words.split(". ")[0].removesuffix(".")
