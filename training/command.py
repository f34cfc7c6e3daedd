"""What the commands of this folder share: their names and arguments, and errors of one line.

Invariant: what somebody who types a command can get wrong, an argument, a path or a damaged file,
ends in one line on stderr and a status other than 0, not in a traceback.
"""

import argparse
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn


def _called(name: str) -> str:
    return f"python -m training.{name}"


def parser(name: str, description: str) -> argparse.ArgumentParser:
    """Of `python -m training.NAME`."""
    return argparse.ArgumentParser(
        prog=_called(name),
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,  # for `add_name`
    )


def add_name(to: argparse.ArgumentParser, names: Iterable[str]) -> None:
    """The argument `name`, one of `names`, which the help lists at its end, each in one piece."""
    known = list(names)
    to.add_argument("name", choices=known, metavar="NAME", help="the recipe, one of those below")
    to.epilog = textwrap.fill(f"recipes: {', '.join(known)}", 79, break_on_hyphens=False)


def at_least(least: int) -> Callable[[str], int]:
    """An argument's type."""

    def integer(given: str) -> int:
        try:
            if (number := int(given)) >= least:
                return number
        except ValueError:
            pass
        raise argparse.ArgumentTypeError(f"{given}, wanted an integer of at least {least}")

    return integer


def run(name: str, main: Callable[[], int | None]) -> NoReturn:
    """Ends the process as `main`, the command of that name, says."""
    try:
        sys.exit(main())
    except (ImportError, OSError, ValueError) as error:
        sys.exit(f"{_called(name)}: error: {error}")


@contextmanager
def reading(file: Path, wanted: str) -> Iterator[None]:
    """Around reading `file`: whatever a damaged one raises becomes a ValueError with its path."""
    try:
        yield
    except Exception as error:  # torch.load alone raises half a dozen kinds
        if isinstance(error, OSError) and error.filename is not None:
            raise  # it is not there, or may not be read, and says so
        found = f"{type(error).__name__} {error}".strip().split("\n", 1)[0]
        raise ValueError(f"{file}: wanted {wanted}, found it damaged ({found})") from None
