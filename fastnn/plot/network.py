"""A network as a picture: neurons and weights where they can be counted, blocks where they cannot.

Up to 16 neurons in every column, inputs included, and 12 layers: each neuron is a circle with its
activation's curve in it, each weight a line, blue above 0 and orange below, as wide as it is large;
where there is room the numbers stand beside. Any larger network: one block per layer with shape,
activation, parameters, bytes and kernel, heights growing with the logarithm of the widths. Models
of 784 inputs show the weights of their first layer as images of 28 x 28 pixels.

Invariant: every number shown is the model's own; coordinates are inches on the page.
"""

from __future__ import annotations

import itertools
import math
import os
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fastnn.model import activation_text, kernel_texts
from fastnn.plot.curves import curve
from fastnn.plot.sheet import GREY, NEGATIVE, POSITIVE, sheet
from fastnn.text import printable

if TYPE_CHECKING:
    from fastnn.layers import Dense
    from fastnn.model import Model

__all__ = ["draw_network"]

_NEURONS = 16  # of a column, at most, that are drawn one by one
_LAYERS = 12  # at most, of neurons
_WRITTEN = 16  # weights of a layer whose values are written beside their lines, at most
_IMAGES = 128  # first-layer neurons shown, at most
_SIDE = 28

_MARGIN = 0.35
_HEAD = 1.0  # title and the words below it
_RADIUS = 0.27
_ACROSS = 2.6  # from one column of neurons to the next
_DOWN = (1.1, 0.75)  # from one neuron to the next: up to 6 in a column, more
_BLOCK = (1.75, 2.9)  # from one bar to the next: at least, at most
_BAR = 0.16  # width of a bar
_TALL = 1.5  # the highest bar
_BLOCKS = 6  # in a row
_LINE = 0.19  # from one line of words to the next


def draw_network(path: str | os.PathLike[str], model: Model, *, name: str) -> None:
    """Write a picture of `model` under the title `name`; the suffix, .svg, .png or .pdf, says how.

    Raises ImportError without matplotlib, ValueError for another suffix, OSError where the file
    cannot be written.
    """
    widths = [model.n_inputs, *(layer.n_outputs for layer in model.layers)]
    is_small = max(widths) <= _NEURONS and len(widths) <= _LAYERS + 1
    draw = _draw_neurons if is_small else _draw_blocks
    draw(path, model, widths, name)


def _page(figure: Any, title: str, words: str) -> Any:
    """Axes over the whole page whose coordinates are inches, with its title."""
    width, height = figure.get_size_inches()
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(0, width)
    axes.set_ylim(0, height)
    axes.set_axis_off()
    axes.text(_MARGIN, height - 0.42, title, fontsize=14, fontweight="bold", va="center")
    axes.text(_MARGIN, height - 0.72, words, fontsize=9, color=GREY, va="center")
    return axes


def _about(model: Model, widths: list[int]) -> str:
    shown = widths if len(widths) <= _LAYERS + 1 else [*widths[:5], "...", *widths[-3:]]
    shape = "-".join(map(str, shown))
    return f"{shape}, {model.n_parameters:,} parameters, {model.precision}, {_task(model)}"


def _task(model: Model) -> str:
    classes = model.classes_
    if classes is None:
        return "answers with a number" if model.n_outputs == 1 else "answers with numbers"
    if len(classes) > 4:
        return f"answers with one of {len(classes)} classes"
    return "answers with " + " or ".join(printable(str(label)) for label in classes)


# ---- neurons -------------------------------------------------------------------------------------


def _draw_neurons(path: str | os.PathLike[str], model: Model, widths: list[int], name: str) -> None:
    down = _DOWN[max(widths) > 6]
    words = _answers(model)
    left, right = 1.2, 0.85 + 0.09 * max(3, *map(len, words))
    n_gaps = max(widths) - 1
    height = _HEAD + 0.75 + down * n_gaps + 1.1
    width = max(left + _ACROSS * (len(widths) - 1) + right, 5.6)
    with sheet(path, (width, height), layout=None) as figure:
        axes = _page(figure, name, _about(model, widths))
        middle = height - _HEAD - 0.75 - down * n_gaps / 2
        columns = [
            [(left + _ACROSS * c, middle + down * ((n - 1) / 2 - i)) for i in range(n)]
            for c, n in enumerate(widths)
        ]
        top = height - _HEAD - 0.15
        for i, (layer, (before, after)) in enumerate(
            zip(model.layers, itertools.pairwise(columns), strict=True)
        ):
            _edges(axes, layer.weight, before, after)
            _heading(axes, after[0][0], top, f"layer {i}", activation_text(layer))
        _heading(axes, left, top, "inputs", f"{widths[0]} number{'s' * (widths[0] > 1)}")
        for k, at in enumerate(columns[0]):
            _circle(axes, at, "#eeeeee")
            axes.text(*at, f"x{k}", ha="center", va="center", fontsize=10, zorder=5)
        for layer, column in zip(model.layers, columns[1:], strict=True):
            is_written = layer.weight.size <= _WRITTEN
            for j, at in enumerate(column):
                _circle(axes, at, "white")
                _glyph(axes, at, layer)
                if is_written:
                    axes.text(
                        at[0], at[1] - _RADIUS - 0.13, f"b{j} = {_number(layer.bias[j])}",
                        ha="center", va="center", fontsize=8, color=GREY, zorder=3,
                        bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5, "alpha": 0.8},
                    )  # fmt: skip
        _arrows(axes, words, columns[-1])
        _key(axes, model)


def _heading(axes: Any, x: float, y: float, title: str, words: str) -> None:
    axes.text(x, y, title, ha="center", va="center", fontsize=10, fontweight="bold")
    axes.text(x, y - 0.2, words, ha="center", va="center", fontsize=9, color=GREY)


def _circle(axes: Any, at: tuple[float, float], colour: str) -> None:
    from matplotlib.patches import Circle

    axes.add_patch(Circle(at, _RADIUS, facecolor=colour, edgecolor="#333333", lw=1.2, zorder=4))


def _glyph(axes: Any, at: tuple[float, float], layer: Dense) -> None:
    """The activation's curve inside its neuron."""
    z = np.linspace(-3, 3, 121, dtype=np.float32)
    a = curve(layer.activation, z, layer.parameters).reshape(len(z), -1)[:, 0]
    a = np.clip(a, -3, 3)
    reach = 0.62 * _RADIUS
    height = max(float(np.ptp(a)), 1e-6)
    axes.plot(
        at[0] + z / 3 * reach,
        at[1] + (a - (a.max() + a.min()) / 2) / height * 2 * reach * min(1.0, 0.6 + height / 15),
        color="#333333", linewidth=1.3, solid_capstyle="round", zorder=5,
    )  # fmt: skip


def _answers(model: Model) -> list[str]:
    """What each output stands for."""
    classes, n = model.classes_, model.n_outputs
    if classes is None:
        return ["y"] if n == 1 else [f"y{j}" for j in range(n)]
    names = [printable(str(label)) for label in classes]
    return [f"{names[0]} or {names[1]}"] if n == 1 else names


def _arrows(axes: Any, words: list[str], column: list[tuple[float, float]]) -> None:
    for (x, y), word in zip(column, words, strict=True):
        axes.annotate(
            word, (x + _RADIUS, y), xytext=(x + _RADIUS + 0.32, y), va="center", fontsize=10,
            arrowprops={"arrowstyle": "<-", "color": "#333333", "linewidth": 1.0, "shrinkB": 0},
        )  # fmt: skip


def _edges(
    axes: Any,
    weight: npt.NDArray[np.float32],
    before: list[tuple[float, float]],
    after: list[tuple[float, float]],
) -> None:
    largest = float(np.abs(weight).max()) or 1.0
    many = weight.size > 64
    lines = []
    for (k, j), value in np.ndenumerate(weight):
        share = abs(float(value)) / largest
        (x0, y0), (x1, y1) = before[k], after[j]
        length = math.hypot(x1 - x0, y1 - y0)
        dx, dy = (x1 - x0) / length * _RADIUS, (y1 - y0) / length * _RADIUS
        line = (x0 + dx, y0 + dy, x1 - dx, y1 - dy)
        lines.append((line, float(value)))
        if value != 0:
            axes.plot(
                line[::2], line[1::2],
                color=POSITIVE if value > 0 else NEGATIVE,
                linewidth=(0.3 if many else 0.7) + (1.8 if many else 2.6) * share,
                alpha=0.25 + 0.6 * share if many else 0.85, zorder=2, solid_capstyle="round",
            )  # fmt: skip
    if len(lines) <= _WRITTEN:
        _write(axes, lines)


def _write(axes: Any, lines: list[tuple[tuple[float, float, float, float], float]]) -> None:
    """Each weight's value on its line, where it is farthest from other lines and other words."""
    steps = np.linspace(0.16, 0.84, 35)
    ends = np.array([line for line, _ in lines])
    start, along = ends[:, :2], ends[:, 2:] - ends[:, :2]
    points = start[:, None] + np.linspace(0, 1, 60)[:, None] * along[:, None]
    taken = np.empty((0, 2))
    for i, (line, value) in enumerate(lines):
        words = _number(value)
        # The words lie along their line: five points of them stand for all.
        reach = np.linspace(-0.5, 0.5, 5) * 0.075 * len(words)
        word = reach[:, None] * along[i] / np.hypot(*along[i])
        others = np.delete(points, i, axis=0).reshape(-1, 2)
        rooms = [
            min(_gap(at + word, others), 0.8 * _gap(at + word, taken), 0.3) - 0.1 * abs(t - 0.4)
            for t in steps
            for at in [start[i] + t * along[i]]
        ]
        at = start[i] + steps[int(np.argmax(rooms))] * along[i]
        taken = np.concatenate([taken, at + word])
        x0, y0, x1, y1 = line
        axes.text(
            *at, words, ha="center", va="center", fontsize=8.5, zorder=6,
            rotation=math.degrees(math.atan2(y1 - y0, x1 - x0)),
            color=POSITIVE if value > 0 else NEGATIVE,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.0},
        )  # fmt: skip


def _gap(points: np.ndarray, others: np.ndarray) -> float:
    """The smallest distance between the two sets of points."""
    return float(np.hypot(*(points[:, None] - others[None]).T).min(initial=9.0))


def _number(value: float) -> str:
    return f"{value:.3g}".replace("-", "\N{MINUS SIGN}")


def _key(axes: Any, model: Model) -> None:
    x, y = _MARGIN, 0.4
    for colour, words, wide in ((POSITIVE, "above 0", 1.2), (NEGATIVE, "below 0", 1.2)):
        axes.plot([x, x + 0.3], [y, y], color=colour, linewidth=2.4, solid_capstyle="round")
        axes.text(x + 0.38, y, words, va="center", fontsize=8.5, color=GREY)
        x += wide
    largest = ", ".join(_number(float(np.abs(d.weight).max())) for d in model.layers)
    words = f"widest of each layer: {largest}"
    axes.text(x, y, words, va="center", fontsize=8.5, color=GREY)


# ---- blocks --------------------------------------------------------------------------------------


def _draw_blocks(path: str | os.PathLike[str], model: Model, widths: list[int], name: str) -> None:
    n_layers = len(model.layers)
    n_across = min(n_layers, _BLOCKS)
    n_rows = -(-n_layers // _BLOCKS)
    n_images = min(widths[1], _IMAGES) if widths[0] == _SIDE * _SIDE else 0
    columns, across, down = _grid(n_images)
    image_rows = -(-n_images // max(columns, 1))
    n_lines = 4 + max(len(kernels) for kernels in kernel_texts(model))
    strip = _TALL + 0.6 + n_lines * _LINE
    width = max(2 * _MARGIN + 0.6 + _BLOCK[0] * n_across, 2 * _MARGIN + columns * across, 6.4)
    block = min(_BLOCK[1], (width - 2 * _MARGIN - 0.6) / n_across)
    pictures = 0.65 + image_rows * down if n_images else 0.0
    height = _HEAD + n_rows * strip + pictures + 0.2
    with sheet(path, (width, height), layout=None) as figure:
        axes = _page(figure, name, _about(model, widths))
        for first in range(0, n_layers, _BLOCKS):
            top = height - _HEAD - first // _BLOCKS * strip
            _strip(axes, model, widths, range(first, min(first + _BLOCKS, n_layers)), top, block)
        if n_images:
            _images(axes, model, pictures + 0.2, columns, n_images)


def _bar_height(n: int, widest: int) -> float:
    return _TALL * (0.16 + 0.84 * math.log(n + 1) / math.log(widest + 1))


def _strip(
    axes: Any, model: Model, widths: list[int], layers: range, top: float, block: float
) -> None:
    from matplotlib.patches import FancyBboxPatch, Polygon

    middle = top - 0.25 - _TALL / 2
    heights = [_bar_height(n, max(widths)) for n in widths]
    for i in range(layers.start, layers.stop + 1):
        x = _MARGIN + 0.3 + (i - layers.start) * block
        bar = FancyBboxPatch(
            (x - _BAR / 2, middle - heights[i] / 2), _BAR, heights[i],
            boxstyle="round,pad=0,rounding_size=0.05", facecolor="#333333", edgecolor="none",
            zorder=3,
        )  # fmt: skip
        axes.add_patch(bar)
        axes.text(
            x, middle + heights[i] / 2 + 0.13, f"{widths[i]:,}", ha="center", va="center",
            fontsize=9.5, fontweight="bold",
        )  # fmt: skip
        if i == layers.stop:
            break
        near, far = x + _BAR / 2 + 0.05, x + block - _BAR / 2 - 0.05
        axes.add_patch(
            Polygon(
                [
                    (near, middle - heights[i] / 2),
                    (near, middle + heights[i] / 2),
                    (far, middle + heights[i + 1] / 2),
                    (far, middle - heights[i + 1] / 2),
                ],
                facecolor="#d6e6f2",
                edgecolor="none",
            )
        )
        _block_words(axes, model, i, (near + far) / 2, middle, middle - _TALL / 2 - 0.2)


def _block_words(axes: Any, model: Model, i: int, x: float, middle: float, y: float) -> None:
    layer = model.layers[i]
    axes.text(x, middle, f"layer {i}", ha="center", va="center", fontsize=9.5, color="#1b4a6b")
    lines = [
        (activation_text(layer), {"fontweight": "bold"}),
        (f"{layer.n_inputs:,} x {layer.n_outputs:,}", {}),
        (f"{layer.n_parameters:,} parameters", {}),
        (f"{layer.nbytes:,} bytes", {}),
        *((line, {"color": GREY}) for line in kernel_texts(model)[i]),
    ]
    for row, (words, style) in enumerate(lines):
        axes.text(
            x, y - _LINE * row, words, ha="center", va="center",
            **{"fontsize": 8.5, **style},
        )  # fmt: skip


# ---- the first layer's weights -------------------------------------------------------------------


def _grid(n: int) -> tuple[int, float, float]:
    """Columns, and the inches from one image to the next across and down, for n images."""
    columns = n if n <= 5 else (n + 1) // 2 if n <= _NEURONS else 16
    pixel = _pixel(n)
    return columns, (_SIDE + _gaps(n)[0]) * pixel, (_SIDE + _gaps(n)[1]) * pixel


def _pixel(n: int) -> float:
    return 0.037 if n <= _NEURONS else 0.0205


def _gaps(n: int) -> tuple[int, int]:
    """Pixels between two images, across and down: up to 16 have a name above."""
    return (5, 9) if n <= _NEURONS else (3, 3)


def _images(axes: Any, model: Model, top: float, columns: int, n: int) -> None:
    """n images in one, below y = top."""
    layer = model.layers[0]
    words = f"the weights of layer 0, one image of {_SIDE} x {_SIDE} for each neuron"
    if n < layer.n_outputs:
        words += f" (the first {n} of {layer.n_outputs:,})"
    axes.text(_MARGIN, top - 0.1, words, fontsize=9.5, fontweight="bold", va="center")
    axes.text(
        _MARGIN, top - 0.32, "blue above 0, white 0, orange below; each on a scale of its own",
        fontsize=8.5, color=GREY, va="center",
    )  # fmt: skip
    pixel, (right, down) = _pixel(n), _gaps(n)
    n_rows = -(-n // columns)
    height, width = n_rows * (_SIDE + down), columns * (_SIDE + right)
    page = np.ones((height, width, 3))
    top -= 0.5
    is_named = len(model.layers) == 1 and model.classes_ is not None
    labels = _answers(model) if is_named else None
    for j in range(n):
        y, x = j // columns * (_SIDE + down) + down - 1, j % columns * (_SIDE + right) + 1
        page[y - 1 : y + _SIDE + 1, x - 1 : x + _SIDE + 1] = 0.85  # a frame
        page[y : y + _SIDE, x : x + _SIDE] = _coloured(layer.weight[:, j].reshape(_SIDE, _SIDE))
        if n <= _NEURONS:
            axes.text(
                _MARGIN + (x + _SIDE / 2) * pixel, top - (y - 3.6) * pixel,
                f"neuron {j}" if labels is None else labels[j],
                ha="center", va="center", fontsize=8.5,
            )  # fmt: skip
    limits = axes.axis()
    axes.imshow(
        page, extent=(_MARGIN, _MARGIN + width * pixel, top - height * pixel, top),
        interpolation="none", aspect="auto",
    )  # fmt: skip
    axes.axis(limits)


def _coloured(weights: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """RGB, shape (rows, columns, 3): 0 is white, the largest weight is full colour."""
    from matplotlib.colors import to_rgb

    share = np.abs(weights) / (np.abs(weights).max() or 1.0)
    hue = np.where(weights[..., None] > 0, to_rgb(POSITIVE), to_rgb(NEGATIVE))
    return 1 - share[..., None] * (1 - hue)
