"""Which hostile files there are for which format.

Invariant: every reader of `fastnn.formats` has a line here, by one of its suffixes, and so have the
other readers of files that are not trusted. One that is missing, or whose library is, is left out.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import os
from collections.abc import Mapping

from attacks.kinds import Attack
from fastnn import formats

READERS: dict[str, str] = dict(formats._MODULES)
"""The modules that read, by suffix."""


@dataclasses.dataclass(frozen=True)
class Format:
    """What a reader is fed."""

    seeds: Mapping[str, bytes]
    attacks: Mapping[str, Attack]
    step: int = 1
    """Of so many bytes one has a bit flipped."""


@dataclasses.dataclass(frozen=True)
class _Line:
    module: str
    names: str = ""
    needs: str = ""
    step: int = 1


# HDF5 is read by a process of its own, which has to start: 0.12 s, most of it for NumPy and h5py.
# So the suite flips a bit in some bytes only, `make attacks` in all.
_HDF5_STEP = int(os.environ.get("FASTNN_HDF5_STEP", "499"))

_LINES = {
    ".safetensors": _Line("native_files"),
    ".npz": _Line("npz_files"),
    ".idx": _Line("idx_files"),
    ".onnx": _Line("onnx_files", needs="onnx"),
    ".keras": _Line("keras_files", "KERAS_", "h5py", _HDF5_STEP),
    ".h5": _Line("keras_files", "H5_", "h5py", _HDF5_STEP),
}


def _format(line: _Line) -> Format:
    module = importlib.import_module(f"attacks.{line.module}")
    seeds, attacks = (getattr(module, f"{line.names}{kind}") for kind in ("SEEDS", "ATTACKS"))
    return Format(seeds, attacks, line.step)


def _is_here(suffix: str, line: _Line) -> bool:
    is_read = suffix in READERS or suffix == ".idx"
    return is_read and (not line.needs or importlib.util.find_spec(line.needs) is not None)


FORMATS: dict[str, Format] = {
    suffix: _format(line) for suffix, line in _LINES.items() if _is_here(suffix, line)
}
MISSING = {
    suffix: line.needs
    for suffix, line in _LINES.items()
    if suffix in READERS and not _is_here(suffix, line)
}
"""What is read, and cannot be tested here, by the package that is needed."""
