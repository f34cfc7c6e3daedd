"""Model files: `read` and `write`, and the table of formats by the suffix of the name.

Invariant: the suffix alone picks the format; one parser runs and its verdict is final. Files are
hostile until shown otherwise: what is declared is checked against what is present before it is
allocated, nothing is imported, evaluated or unpickled, and only `LoadError` (or `OSError`) gets
out. The modules of the formats touch no file: they turn bytes into a ModelFile and back, and this
one moves the bytes. To add a format: a module with FORMAT, `parse` and `pieces`, and a line here.

docs/format.md describes the formats.
"""

import contextlib
import importlib
import os
import secrets
import stat
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

from fastnn.errors import LoadError
from fastnn.formats.model_file import ModelFile, Wrong

__all__ = ["MAX_BYTES", "SUFFIXES", "ModelFile", "read", "write"]

MAX_BYTES = 2**30
"""Default bound on the bytes of a file, and of what it unpacks to."""

_MODULES = {".safetensors": "native", ".npz": "npz"}

SUFFIXES = tuple(_MODULES)
"""The suffixes of the formats, the native one first."""

_WANTED = f"wanted a name that ends in {' or '.join(SUFFIXES)}"


def read(path: str | os.PathLike[str], *, max_bytes: int = MAX_BYTES) -> ModelFile:
    """The model in a file, checked entry by entry.

    Raises `LoadError` if the file is not what its suffix says, is damaged, or holds more than
    `max_bytes` bytes (unpacked); `OSError` if it cannot be opened.
    """
    name = Path(os.fsdecode(path))
    if "\0" in str(name):
        raise LoadError(f"{str(name)!r}: no path: it has a null character")
    if name.suffix not in _MODULES:
        raise LoadError(f"{name}: the format is not known by its suffix, {_WANTED}")
    module = _module(name.suffix)
    try:
        return module.parse(_read(name, max_bytes), max_bytes)
    except Wrong as wrong:
        expected, found = wrong.args
        raise LoadError(f"{name}: {module.FORMAT}: expected {expected}, found {found}") from None


def write(path: str | os.PathLike[str], model_file: ModelFile) -> None:
    """Write a model so that `read` returns its equal; the same model gives the same bytes.

    The file appears complete or not at all: it is written beside `path` and renamed. Raises
    `ValueError` for another suffix, or what the format cannot hold; `OSError` if writing fails.
    """
    name = Path(os.fsdecode(path))
    if name.suffix not in _MODULES:
        raise ValueError(f"write: path is {str(name)!r}, {_WANTED}")
    write_bytes(name, _module(name.suffix).pieces(model_file))


def _module(suffix: str) -> ModuleType:
    # When first needed: zipfile alone costs as much as the rest of `import fastnn`.
    return importlib.import_module(f"fastnn.formats.{_MODULES[suffix]}")


def _read(path: Path, max_bytes: int) -> bytes:
    """All bytes of a regular file of at most `max_bytes`; a private copy, not a mapping.

    A mapping would show later changes of the file, and kill the process if it shrank.
    """

    def opener(name: str, flags: int) -> int:
        return os.open(name, flags | os.O_NONBLOCK)  # a named pipe is refused below, not waited for

    with open(path, "rb", buffering=0, opener=opener) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise Wrong("a regular file", "something else")
        if status.st_size > max_bytes:
            raise Wrong(f"at most {max_bytes} bytes (max_bytes=)", f"{status.st_size}")
        data = bytearray()
        while piece := file.read(status.st_size + 1 - len(data)):
            data += piece
        if len(data) != status.st_size:
            raise Wrong(f"{status.st_size} bytes", f"{len(data)}: it changed while being read")
    return bytes(data)


def write_bytes(path: Path, pieces: Iterable[bytes | memoryview]) -> None:
    """Write `pieces` as the file `path`: complete and on disk, or not at all."""
    beside = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        with open(beside, "xb") as file:  # x: never through a link or over a file that is there
            file.writelines(pieces)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(beside)
        raise
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
