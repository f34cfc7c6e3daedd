"""What the commands of this folder share: their names, and errors of one line.

Invariant: what somebody who types a command can get wrong, a path or a damaged file, ends in one
line on stderr and a status other than 0, not in a traceback.
"""

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn


def _called(name: str) -> str:
    return f"python -m training.{name}"


def parser(name: str, description: str) -> argparse.ArgumentParser:
    """Of `python -m training.NAME`."""
    return argparse.ArgumentParser(prog=_called(name), description=description)


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
