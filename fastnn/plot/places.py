"""Places for words beside a point of a picture, so that nothing is printed over anything.

Invariant: everything is in pixels of the screen; `scale` is their number in a point of type, 1/72
of an inch.
"""

from __future__ import annotations

from collections.abc import Iterator

__all__ = ["Box", "overlap", "places"]

Box = tuple[float, float, float, float]
"""Left, bottom, right, top."""

_SIDES = ((0, 10), (0, -10), (1, 0), (-1, 0), (1, 8), (-1, 8), (1, -8), (-1, -8))


def places(
    x: float, y: float, wide: float, high: float, scale: float
) -> Iterator[tuple[Box, float, float]]:
    """Eight boxes of that size around the point (x, y), the best first, each with its centre."""
    for across, up in _SIDES:
        cx = x + across * (wide / 2 + 6 * scale)
        cy = y + up * scale
        yield (cx - wide / 2, cy - high / 2, cx + wide / 2, cy + high / 2), cx, cy


def overlap(a: Box, b: Box) -> bool:
    """Whether two boxes have a part in common."""
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
