"""The roofline of a run: what each layer reached, under what this machine can do.

Invariant: the picture holds measured figures only. Across: executed operations for each byte that
has to move at least once (weights touched, rows in, outputs out); up: executed GFLOP/s. The flat
ceiling is the peak of multiply-adds, the slanted ones are reading from the memories, drawn through
for the one where the weights stay. One point for
each layer and batch size; its colour says the layer, its number the batch size.

S. Williams, A. Waterman, D. Patterson: Roofline, Communications of the ACM 52 (2009).
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from fastnn.bench import ruler
from fastnn.bench.timing import LayerTiming, Timing
from fastnn.plot.places import Box, overlap, places
from fastnn.plot.sheet import GREY, PALETTE, check_plot, sheet

__all__ = ["check_plot", "draw"]

Point = tuple[LayerTiming, int, float, float]
"""A layer, the batch size, where it stands across and up."""
_MARKERS = "osD^vPX"


def draw(
    path: str | os.PathLike[str], timings: Sequence[Timing], *, title: str, subtitle: str = ""
) -> None:
    """Write the picture; the suffix says how. `timings` with layers, of one number of threads.

    Raises as `check_plot`, and ValueError where no layers were timed.
    """
    check_plot(path)
    if not any(t.layers for t in timings):
        raise ValueError("draw: no layers were timed")
    n_threads = max(t.n_threads for t in timings)
    peak = max(t.peak_gflops / t.n_threads for t in timings) * n_threads
    levels = [*ruler.cache_bytes(), "DRAM"]
    bandwidths = {
        level: max(ruler.bandwidth(level, n_threads) for _ in range(5)) for level in levels
    }
    for t in timings:  # what stood beside the points, where it was read
        bandwidths[t.level] = max(bandwidths[t.level], t.level_gbytes_per_s)
    with sheet(path, (9, 5.6)) as figure:
        _draw(figure, timings, peak, bandwidths, n_threads, title, subtitle)


def _draw(
    figure: Any,
    timings: Sequence[Timing],
    peak: float,
    bandwidths: dict[str, float],
    n_threads: int,
    title: str,
    subtitle: str,
) -> None:
    axes = figure.add_subplot()
    axes.set_xscale("log")
    axes.set_yscale("log")
    points = [
        (layer, t.batch, _intensity(layer), layer.executed_gflops)
        for t in timings
        for layer in t.layers
        if layer.executed_gflops > 0
    ]
    points.sort(key=lambda p: (p[0].index, p[1]))
    x = [p[2] for p in points]
    y = [p[3] for p in points]
    axes.set_xlim(min(*x, 0.5 * peak / max(bandwidths.values())) / 2, max(*x, peak / 10) * 3)
    axes.set_ylim(min(y) / 2.5, peak * 2)
    _points(axes, points)
    axes.set_xlabel("executed operations for each byte moved (FLOP/byte)")
    axes.set_ylabel("executed multiply-adds, 2 FLOP each (GFLOP/s)")
    plain = "{x:g}".format
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(lambda value, _position: plain(x=value))
    axes.grid(which="major", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(title, fontsize=12, loc="left", pad=20)
    axes.annotate(
        subtitle, (0, 1), xycoords="axes fraction", xytext=(0, 7), textcoords="offset points",
        fontsize=8.5, color=GREY,
    )  # fmt: skip
    axes.legend(
        loc="upper left", bbox_to_anchor=(1.01, 1), fontsize=8.5, frameon=False,
        title="layer (number: rows a call)", title_fontsize=8.5, alignment="left",
    )  # fmt: skip
    figure.draw_without_rendering()  # now it is known where the points stand
    figure.set_layout_engine("none")
    _ceilings(axes, peak, bandwidths, n_threads, {t.level for t in timings})
    _number(axes, points, peak)


def _intensity(layer: LayerTiming) -> float:
    return float(layer.executed_gflops * layer.seconds * 1e9 / layer.moved_bytes)


def _ceilings(
    axes: Any, peak: float, bandwidths: dict[str, float], n_threads: int, used: Collection[str]
) -> None:
    """Solid where the weights of this model stay, dashed for the other memories."""
    low, high = axes.get_xlim()
    cores = "one core" if n_threads == 1 else f"{n_threads} cores"
    fastest = max(bandwidths.values())
    axes.plot([peak / fastest, high], [peak, peak], color="black", linewidth=1.4)
    axes.annotate(
        f"multiply-adds of {cores}: {peak:.0f} GFLOP/s",
        (high, peak), xytext=(-4, 4), textcoords="offset points", ha="right", fontsize=8.5,
    )  # fmt: skip
    # Names stand along their lines, where the line enters the picture from the left or below; two
    # lines closer than a line of text would print over each other, so the slower stands further on.
    taken: list[float] = []
    for level, rate in sorted(bandwidths.items(), key=lambda item: -item[1]):
        ridge = peak / rate
        axes.plot(
            [low, ridge],
            [low * rate, peak],
            color="black",
            linewidth=1.0,
            linestyle="-" if level in used else "--",
        )
        (x0, y0), (x1, y1) = axes.transData.transform([(low, low * rate), (ridge, peak)])
        angle = np.degrees(np.arctan2(y1 - y0, x1 - x0))
        start = max(low, axes.get_ylim()[0] / rate)
        is_close = any(abs(np.log(rate / other)) < 0.45 for other in taken)
        aside = -4 if is_close else 4  # points, away from the line
        at = start * (ridge / start) ** (0.5 if is_close else 0.06)
        axes.annotate(
            f"{level}: {rate:.0f} GB/s",
            (at, at * rate),
            xytext=(-aside * np.sin(np.radians(angle)), aside * np.cos(np.radians(angle))),
            textcoords="offset points",
            va="top" if is_close else "baseline",
            rotation=angle,
            rotation_mode="anchor",
            fontsize=8.5,
            color="#333333",
        )
        taken.append(rate)


def _points(axes: Any, points: Sequence[Point]) -> None:
    for index in sorted({layer.index for layer, *_ in points}):
        mine = [p for p in points if p[0].index == index]
        layer = mine[0][0]
        colour = PALETTE[index % len(PALETTE)]
        axes.plot(
            [p[2] for p in mine],
            [p[3] for p in mine],
            color=colour,
            marker=_MARKERS[index % len(_MARKERS)],
            markersize=5.5,
            linewidth=0.8,
            alpha=0.9,
            label=f"{index}: {layer.n_inputs} x {layer.n_outputs} {layer.activation}",
            zorder=3,
        )


def _number(axes: Any, points: Sequence[Point], peak: float) -> None:
    """The batch size beside each point: of eight places, that which crosses the lines least among
    those that cover no point, no other number and not the ceiling; none where all are taken (a
    line joins a layer's points in the order of batch sizes). Call it when the layout is final."""
    scale = axes.figure.dpi / 72
    screen = axes.transData.transform([(p[2], p[3]) for p in points])
    steps = np.linspace(0, 1, 60)[:, None]
    lines = np.concatenate(
        [
            start + steps * (end - start)
            for (a, start), (b, end) in itertools.pairwise(zip(points, screen, strict=True))
            if a[0].index == b[0].index
        ]
        or [np.empty((0, 2))]
    )
    ceiling = axes.transData.transform((1, peak))[1]
    boxes: list[Box] = [(-1e9, ceiling - 2 * scale, 1e9, ceiling + 16 * scale)]
    boxes += [(x - 4 * scale, y - 4 * scale, x + 4 * scale, y + 4 * scale) for x, y in screen]
    for (layer, batch, x, y), (px, py) in zip(points, screen, strict=True):
        words = f"{batch:,}"
        wide, high = (len(words) * 4.6 + 2) * scale, 8 * scale
        free: list[tuple[int, int, Box, float, float]] = []
        for box, cx, cy in places(px, py, wide, high, scale):
            if not any(overlap(box, other) for other in boxes):
                inside = (lines > box[:2]) & (lines < box[2:])
                n_crossed = int(np.count_nonzero(inside.all(axis=1)))
                free.append((n_crossed, len(free), box, cx, cy))
        if not free:
            continue
        _, _, box, cx, cy = min(free)
        boxes.append(box)
        axes.annotate(
            words,
            (x, y),
            xytext=((cx - px) / scale, (cy - py) / scale),
            textcoords="offset points",
            ha="center",
            va="center",
            fontsize=7.5,
            color=PALETTE[layer.index % len(PALETTE)],
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 0.4},
            zorder=4,
        )
