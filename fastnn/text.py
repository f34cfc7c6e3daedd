"""Plain text, for terminals and files alike: tables, durations, words of strangers.

Invariant: what is printed depends on the cells only, never on the terminal's width.
"""

import unicodedata
from collections.abc import Collection, Sequence


def table(
    titles: Sequence[str], rows: Sequence[Sequence[str]], *, right: Collection[int] = ()
) -> str:
    """The rows under their titles in aligned columns; those numbered in `right` flush right."""
    lines = [titles, *rows]
    widths = [max(len(cell) for cell in column) for column in zip(*lines, strict=True)]

    def line(cells: Sequence[str]) -> str:
        padded = (
            cell.rjust(width) if i in right else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        return "  ".join(padded).rstrip()

    rule = "  ".join("-" * width for width in widths)
    return "\n".join([line(titles), rule, *map(line, rows)])


def printable(text: str) -> str:
    """`text`, whose control characters and the like are escaped: "a\\x1b[2J".

    Names of classes and metadata come from files, and a terminal obeys what it is shown. Blanks of
    any width stay, and the joiners of letters and pictures.
    """
    if text.isprintable():
        return text
    return "".join(c if _is_shown(c) else c.encode("unicode_escape").decode() for c in text)


def _is_shown(c: str) -> bool:
    return c.isprintable() or c in "\u200c\u200d" or unicodedata.category(c) == "Zs"


def duration(seconds: float) -> str:
    """Three digits and the unit that suits: "12.3 us"."""
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 1e-9:.0f} ns"
