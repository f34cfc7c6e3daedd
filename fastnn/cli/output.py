"""How the commands speak: JSON or text on stdout, notes and progress on stderr.

Invariant: nothing but results reaches stdout, and JSON there is one standard document: a NaN or
infinity becomes null. Nothing that a file says controls the terminal: what is not printable is
escaped here, whatever the command. Progress is drawn only where stderr is a terminal.
"""

import dataclasses
import json
import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol

import numpy as np
from cyclopts import Parameter, validators

from fastnn.text import printable

if TYPE_CHECKING:
    from fastnn.quantize import Calibration

Json = Annotated[bool, Parameter(name="--json", negative="", help="Print JSON, for programs.")]
Isa = Annotated[
    str | None,
    Parameter(help="Use this instruction set or a lesser one (see `fastnn info`)."),
]
Precision = Annotated[
    Literal["float32", "int8", "bfloat16", "certified"] | None,
    Parameter(help="What to compute in; unset: what the file asks for."),
]
Threads = Annotated[
    int | None,
    Parameter(
        help="Threads to use, 1 to 1024; unset: what this process may use.",
        validator=validators.Number(gte=1, lte=1024),
    ),
]
Quiet = Annotated[bool, Parameter(negative="", help="No notes, no progress bar.")]


class UsageError(Exception):
    """The command line asks for what cannot be: exit status 2."""


def result(text: str) -> None:
    """A result for people, on stdout."""
    print(_lines(text))


def result_json(value: Any) -> None:
    """A result for programs, on stdout."""
    text = json.dumps(_plain(value), ensure_ascii=False, allow_nan=False)
    if not text.isprintable():
        text = "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in text)
    print(text)


def note(text: str) -> None:
    """Something beside the result, on stderr."""
    print(_lines(text), file=sys.stderr)


def problem(error: BaseException | str) -> None:
    """One line (and the error's notes) about what went wrong, on stderr."""
    lines = [_words(error), *getattr(error, "__notes__", ())]
    print(_lines(f"fastnn: {chr(10).join(lines)}"), file=sys.stderr)


def _lines(text: str) -> str:
    return "\n".join(map(printable, text.split("\n")))


def _words(error: BaseException | str) -> str:
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"{error.filename}: {error.strerror}"  # without Python's "[Errno 2]"
    return str(error) or type(error).__name__


def described(calibration: "Calibration | None") -> dict[str, Any] | None:
    """A model's calibration, as JSON can hold it."""
    return None if calibration is None else dataclasses.asdict(calibration)


class Bar(Protocol):
    """What `progress` gives."""

    def advance(self, n: int) -> None:
        """`n` more are done."""


class _NoBar:
    def advance(self, n: int) -> None:
        pass


class _RichBar:
    def __init__(self, bar: Any, task: Any) -> None:
        self._bar = bar
        self._task = task

    def advance(self, n: int) -> None:
        # Drawn here and only here: rich's own thread would draw while the engine is timed.
        self._bar.update(self._task, advance=n, refresh=True)


@contextmanager
def progress(what: str, total: int, *, quiet: bool = False) -> Iterator[Bar]:
    """A bar on stderr that is gone at the end; none where stderr is no terminal."""
    if quiet or not sys.stderr.isatty():
        yield _NoBar()
        return
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, auto_refresh=False) as bar:
        yield _RichBar(bar, bar.add_task(what, total=total))


def percent(share: float) -> str:
    """0.98765 -> "98.77 %"."""
    return f"{100 * share:.2f} %"


def _plain(value: Any) -> Any:
    """Arrays to lists, NumPy numbers to Python's, what JSON has no word for to null."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
