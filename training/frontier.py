"""Accuracy against speed, all released networks in all precisions: `python -m training.frontier`.

Draws docs/models/models.json, which `python -m training.cards` wrote, as docs/frontier.svg. Across:
rows a second in batches on one thread, logarithmic; up: accuracy on the test images, logarithmic in
the errors, so that 99 % is as far above 98 % as 98 % is above 96 %. The bar through a float32 point
is its 95 % interval.

Invariant: every figure is that of the file; machine and date are not in the picture but in
docs/models/README.md.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from fastnn.cli.evaluate import wilson
from fastnn.cli.show import ACCURACY
from fastnn.plot.places import Box, overlap, places
from fastnn.plot.sheet import GREY, PALETTE, sheet
from training import command

_DOCS = Path(__file__).resolve().parent.parent / "docs"
_MARKERS = dict(zip(ACCURACY, "oDs", strict=True))
_TICKS = (80, 85, 90, 92, 94, 96, 97, 98, 98.5, 99, 99.3, 99.5, 99.6, 99.7, 99.8, 99.9)
_RATES = (1, 2, 5)


def draw(path: Path, document: dict[str, Any]) -> None:
    """Write the picture of what `training.cards.measure` found; the suffix says how.

    Raises as `fastnn.plot.sheet.check_plot`, and ValueError where there are no networks.
    """
    if not document["models"]:
        raise ValueError("frontier: there are no networks to draw")
    with sheet(path, (8.4, 5.2)) as figure:
        axes = figure.add_subplot()
        axes.set_xscale("log")
        axes.set_yscale("function", functions=(_height, _accuracy))
        figure.get_layout_engine().set(w_pad=0.15, h_pad=0.1)
        for i, (entry, points) in enumerate(_networks(document)):
            colour = PALETTE[i % len(PALETTE)]
            rates, shares = zip(*points.values(), strict=True)
            axes.plot(rates, shares, color=colour, lw=1.2, alpha=0.5, zorder=2)
            low, high = _interval(entry, document["n_test"])
            axes.plot([rates[0]] * 2, [low, high], color=colour, lw=1.2, alpha=0.35, zorder=1)
            for precision, (rate, share) in reversed(points.items()):
                # Certified labels may be as fast as float32's: the square then shows behind it.
                axes.plot(
                    rate, share, _MARKERS[precision], color=colour,
                    markersize=9.5 if precision == "certified" else 7.5,
                    markeredgecolor="white", markeredgewidth=0.8, zorder=3,
                )  # fmt: skip
        every = [point for _, points in _networks(document) for point in points.values()]
        rates, shares = zip(*every, strict=True)
        axes.set_xlim(min(rates) / 1.8, max(rates) * 1.8)
        axes.set_ylim(1 - min(1.0, 1.5 * (1 - min(shares))), 1 - (1 - max(shares)) / 1.5)
        _scales(axes)
        for precision, marker in _MARKERS.items():
            axes.plot([], [], marker, color=GREY, markersize=7, label=precision)
        axes.legend(loc="lower left", fontsize=9, frameon=False, handletextpad=0.2)
        figure.draw_without_rendering()  # now it is known where the points stand
        figure.set_layout_engine("none")
        _name(axes, document)


def _height(share: Any) -> Any:
    return -np.log(np.maximum(1 - np.asarray(share), 1e-9))


def _accuracy(height: Any) -> Any:
    return 1 - np.exp(-np.asarray(height))


def _networks(document: dict[str, Any]) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Each network with its points, (rows/s, accuracy) by precision, float32 first; one without
    any error stands at half an error."""
    n = document["n_test"]
    return [
        (
            entry,
            {
                precision: (figures["rows_per_s"], min(figures["n_right"], n - 0.5) / n)
                for precision, figures in entry["precisions"].items()
            },
        )
        for entry in document["models"]
    ]


def _interval(entry: dict[str, Any], n_test: int) -> tuple[float, float]:
    return wilson(next(iter(entry["precisions"].values()))["n_right"], n_test)


def _scales(axes: Any) -> None:
    bottom, top = axes.get_ylim()
    shown = [tick for tick in _TICKS if bottom <= tick / 100 <= top]
    axes.set_yticks([tick / 100 for tick in shown], [f"{tick:g} %" for tick in shown])
    axes.minorticks_off()
    left, right = axes.get_xlim()
    rates = [d * 10**e for e in range(12) for d in _RATES if left <= d * 10**e <= right]
    axes.set_xticks(rates, [_short(rate) for rate in rates])
    axes.tick_params(labelsize=9, color="#999999", labelcolor=GREY)
    axes.grid(which="major", color="#e6e6e6", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#999999")
    axes.set_xlabel("rows a second, one thread, in batches", fontsize=10)
    axes.set_ylabel("accuracy on MNIST's test images", fontsize=10)


def _short(rate: int) -> str:
    """20000 -> "20 k"."""
    for size, letter in ((10**9, " G"), (10**6, " M"), (10**3, " k")):
        if rate >= size:
            return f"{rate // size}{letter}"
    return str(rate)


def _name(axes: Any, document: dict[str, Any]) -> None:
    """Each network's name beside one of its points, where it covers nothing."""
    scale = axes.figure.dpi / 72
    to_screen = axes.transData.transform
    inside: Box = tuple(axes.get_window_extent().extents)
    networks = _networks(document)
    boxes: list[Box] = [tuple(axes.get_legend().get_window_extent().extents)]
    for entry, points in networks:
        screen = to_screen(list(points.values()))
        boxes += [(x - 6 * scale, y - 6 * scale, x + 6 * scale, y + 6 * scale) for x, y in screen]
        boxes += [_box(screen, scale)]
        rate = screen[0][0]
        ends = [(rate, to_screen((1, share))[1]) for share in _interval(entry, document["n_test"])]
        boxes += [_box(ends, scale)]
    for i, (entry, points) in enumerate(networks):
        words = entry["name"]
        wide, high = (5.8 * len(words) + 4) * scale, 11 * scale
        for x, y in to_screen(list(points.values())):
            free = [
                (box, cx, cy)
                for box, cx, cy in places(x, y, wide, high, scale * 1.2)
                if not any(overlap(box, other) for other in boxes) and _within(box, inside)
            ]
            if free:
                break
        else:  # no room at all: above the first point, over whatever is there
            x, y = to_screen(next(iter(points.values())))
            free = [(None, x, y + 12 * scale)]
        box, cx, cy = free[0]
        if box is not None:
            boxes.append(box)
        axes.annotate(
            words, axes.transData.inverted().transform((cx, cy)), ha="center", va="center",
            fontsize=9.5, color=PALETTE[i % len(PALETTE)], fontweight="bold", zorder=4,
        )  # fmt: skip


def _box(points: Any, margin: float) -> Box:
    """Around a line between these points."""
    low, high = np.min(points, axis=0) - margin, np.max(points, axis=0) + margin
    return (low[0], low[1], high[0], high[1])


def _within(box: Box, page: Box) -> bool:
    return page[0] <= box[0] and page[1] <= box[1] and box[2] <= page[2] and box[3] <= page[3]


def main(arguments: list[str] | None = None) -> None:
    parser = command.parser("frontier", "Draw accuracy against speed.")
    parser.add_argument("figures", nargs="?", type=Path, default=_DOCS / "models" / "models.json")
    parser.add_argument("--to", type=Path, default=_DOCS / "frontier.svg", help="the picture")
    chosen = parser.parse_args(arguments)
    with command.reading(chosen.figures, "what training.cards writes"):
        document = json.loads(chosen.figures.read_text())
    draw(chosen.to, document)
    print(f"wrote {chosen.to}")


if __name__ == "__main__":
    command.run("frontier", main)
