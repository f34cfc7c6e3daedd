"""What an attack may be: the bytes of a file, or a function that makes something else at a path."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

Attack: TypeAlias = bytes | Callable[[Path], None]


def write_anew(path: Path, data: bytes) -> None:
    """`data` as a new file: one that is cut to nothing first, ext4 puts on the disk at once."""
    path.unlink(missing_ok=True)
    path.write_bytes(data)


def make(attack: Attack, path: Path) -> None:
    """The attack, at `path`, where nothing is."""
    if isinstance(attack, bytes):
        path.write_bytes(attack)
    else:
        attack(path)


def lazily(build: Callable[[], bytes]) -> Callable[[Path], None]:
    """A file whose bytes take time or room: made when it is wanted."""

    def write(path: Path) -> None:
        path.write_bytes(build())

    return write


def sparse(start: bytes, n_bytes: int) -> Callable[[Path], None]:
    """A file of `n_bytes` that takes no room: zeros behind `start`."""

    def write(path: Path) -> None:
        path.write_bytes(start)
        os.truncate(path, n_bytes)

    return write


def folder(path: Path) -> None:
    path.mkdir()


def pipe(path: Path) -> None:
    os.mkfifo(path)


def link_to_nowhere(path: Path) -> None:
    os.symlink("/nowhere/at/all", path)
