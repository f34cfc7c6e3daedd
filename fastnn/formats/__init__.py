"""Model files: `read` and `write`, and the table of formats by the suffix of the name.

Invariant: the suffix alone picks the format; one parser runs and its verdict is final. Files are
hostile until shown otherwise: what is declared is checked against what is present before it is
allocated, nothing is imported, evaluated or unpickled, and only `LoadError` (or `OSError`) gets
out. The modules of the formats touch no file: they turn bytes into a ModelFile and back, and this
one moves the bytes. To add a format: a module with FORMAT and `parse`, and a line here; with
`pieces` if it is written too, with `precheck` where a file can be judged before all of it is read,
with OPTIONS if `parse` takes some of `read`'s options.

docs/format.md describes the native formats, docs/import.md those of other programs.
"""

import contextlib
import importlib
import os
import secrets
import shlex
import stat
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from fastnn import _core
from fastnn.errors import LoadError
from fastnn.formats.model_file import ModelFile, Wrong, escaped

__all__ = ["MAX_BYTES", "READ", "SUFFIXES", "ModelFile", "parse", "read", "write"]

MAX_BYTES = 2**30
"""Default bound on the bytes of a file, and of what it unpacks to."""

_MODULES = {
    ".safetensors": "native",
    ".npz": "npz",
    ".onnx": "onnx",
    ".keras": "keras_zip",
    ".h5": "keras_h5",
    ".hdf5": "keras_h5",
}

READ = tuple(_MODULES)
"""The suffixes of the formats that `read` takes."""

SUFFIXES = (".safetensors", ".npz", ".onnx")
"""The suffixes of the formats that hold all of a model, for `write`; the native one first."""

_PICKLES = "a pickle, which runs what it says when it is read"
_TORCH = (
    "import torch, safetensors.torch as s; "
    "s.save_file(torch.load({0!r}, weights_only=True), 'net.safetensors')"
)
_SKLEARN = "import fastnn, joblib; fastnn.from_sklearn(joblib.load({0!r})).save('net.safetensors')"
_NEVER = {
    **dict.fromkeys((".pt", ".pth", ".bin", ".ckpt"), (_PICKLES, _TORCH)),
    **dict.fromkeys((".pkl", ".pickle", ".joblib"), (_PICKLES, _SKLEARN)),
    ".npy": (
        "one array without a name",
        "numpy.savez('net.npz', W0=numpy.load({0!r}), b0=bias, activations=['softmax'])",
    ),
    # A reader of either is more code than it is worth: docs/import.md says why.
    ".tflite": (
        "a format that fastnn does not read",
        "python -m tf2onnx.convert --tflite {1} --output net.onnx",
    ),
    ".gguf": (
        "a format that fastnn does not read",
        "numpy.savez('net.npz', **{{t.name: t.data for t in gguf.GGUFReader({0!r}).tensors}})",
    ),
}
"""What is refused by its suffix: why, and the line that makes of it what can be read."""


def read(
    path: str | os.PathLike[str],
    *,
    max_bytes: int = MAX_BYTES,
    suffix: str | None = None,
    activations: Sequence[str] | None = None,
    layout: str | None = None,
) -> ModelFile:
    """The model in a file, checked entry by entry; `suffix` takes the place of the file's own.

    `activations` and `layout` are for files that hold arrays and no architecture: one activation a
    layer, such as "relu" or "leaky_relu(alpha=0.1)"; "inputs_outputs" or "outputs_inputs", the
    shape of each weight (None: found from the shapes, where only one fits).

    Raises `LoadError` if the file is not what its suffix says, is damaged, or holds more than
    `max_bytes` bytes (unpacked); `OSError` if it cannot be opened; `ImportError` if its format
    needs an extra; `MemoryError` if there is too little; `TimeoutError` if the process that reads
    HDF5 does not get to run; `TypeError` or `ValueError` for an option that is none, or that the
    format does not take.
    """
    name = Path(os.fsdecode(path))
    shown = escaped(str(name))
    if "\0" in str(name):
        raise LoadError(f"{shown}: no path: it has a null character")
    suffix = name.suffix.lower() if suffix is None else suffix
    if suffix in _NEVER:
        why, line = _NEVER[suffix]
        line = line.format(str(name), escaped(shlex.quote(str(name))))
        raise LoadError(f"{shown}: {suffix} is {why}; convert it: {line}")
    if suffix not in _MODULES:
        raise LoadError(f"{shown}: the format is not known by its suffix, {_wanted(_MODULES)}")
    module = _module(suffix)
    options: dict[str, Any] = {"activations": activations, "layout": layout}
    for option, value in options.items():
        if value is not None and option not in getattr(module, "OPTIONS", ()):
            raise ValueError(f"{shown}: {option}= is given, but {module.FORMAT} files say it")
    if any(value is not None for value in options.values()):
        from fastnn.formats import named

        options = named.checked_options("read", activations, layout)
    given = {option: value for option, value in options.items() if value is not None}
    return _told(
        str(name), module, lambda: module.parse(_read(name, max_bytes, module), max_bytes, **given)
    )


def parse(name: str, data: bytes, *, suffix: str, max_bytes: int = MAX_BYTES) -> ModelFile:
    """The model in the bytes of a file of the format of `suffix`; `name` is for messages."""
    module = _module(suffix)
    return _told(name, module, lambda: module.parse(data, max_bytes))


def _told(name: str, module: ModuleType, parsed: Callable[[], ModelFile]) -> ModelFile:
    """What `parsed` gives; what is wrong is a LoadError that names file and format."""
    try:
        return parsed()
    except Wrong as wrong:
        expected, found = wrong.args
        what = f"{escaped(name)}: {module.FORMAT}"
        raise LoadError(f"{what}: expected {expected}, found {found}") from None


def write(path: str | os.PathLike[str], model_file: ModelFile) -> None:
    """Write a model so that `read` returns its equal; the same model gives the same bytes.

    The file appears complete or not at all: it is written beside `path` and renamed. Raises
    `ValueError` for another suffix, no path, or what the format cannot hold; `OSError` if writing
    fails.
    """
    name = Path(os.fsdecode(path))
    suffix = name.suffix.lower()
    if suffix not in SUFFIXES:
        raise ValueError(f"write: path is {str(name)!r}, {_wanted(SUFFIXES)}")
    if "\0" in str(name):
        raise ValueError(f"write: path is {str(name)!r}, wanted one without a null character")
    write_bytes(name, _module(suffix).pieces(model_file))


def _wanted(suffixes: Iterable[str]) -> str:
    return f"wanted a name that ends in {' or '.join(suffixes)}"


def _module(suffix: str) -> ModuleType:
    # When first needed: zipfile alone costs as much as the rest of `import fastnn`.
    return importlib.import_module(f"fastnn.formats.{_MODULES[suffix]}")


def _read(path: Path, max_bytes: int, module: ModuleType) -> bytes:
    """All bytes of a regular file of at most `max_bytes`; a private copy, not a mapping.

    A mapping would show later changes of the file, and kill the process if it shrank.
    """

    def opener(name: str, flags: int) -> int:
        return os.open(name, flags | os.O_NONBLOCK)  # a named pipe is refused below, not waited for

    with open(path, "rb", buffering=0, opener=opener) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise Wrong("a regular file", "something else")
        n_bytes = status.st_size
        if n_bytes > max_bytes:
            raise Wrong(f"at most {max_bytes} bytes (max_bytes=)", f"{n_bytes}")
        if hasattr(module, "precheck"):
            module.precheck(file, max_bytes)
            file.seek(0)
        data = _core.read_bytes(file.fileno(), n_bytes)
        if len(data) == n_bytes and file.read(1):
            raise Wrong(f"{n_bytes} bytes", "more: it changed while being read")
        if len(data) != n_bytes:
            raise Wrong(f"{n_bytes} bytes", f"{len(data)}: it changed while being read")
    return data


def write_bytes(path: Path, pieces: Iterable[bytes | memoryview]) -> None:
    """Write `pieces` as the file `path`: complete and on disk, or not at all."""
    beside = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        with open(beside, "xb") as file:  # x: never through a link or over a file that is there
            file.writelines(pieces)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except BaseException as error:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(beside)
        if isinstance(error, OSError) and error.filename == str(beside):
            error.filename, error.filename2 = str(path), None  # the name that the caller knows
        raise
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
