"""Line coverage of the readers, as a table: python -m fuzz.lines [test file ...]

Counted: the attack files, the seeds, the findings, the corpora of build/fuzz, and the tests of the
formats (or those that are named; "-": none). All of it runs in this process, for HDF5 files the
worker too, without its limits, as what it does behind closed doors could not be written down.
"""

from __future__ import annotations

import contextlib
import io
import json
import runpy
import sys
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

import coverage

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "fastnn"

READERS = {
    ".safetensors": ["formats/native.py"],
    "arrays by any names": ["formats/named.py"],
    ".npz": ["formats/npz.py", "formats/archive.py"],
    ".onnx": ["formats/onnx/*.py"],
    ".keras, .h5": ["formats/keras*.py", "formats/hdf5*.py"],
    "IDX": ["idx.py"],
    "what they share": ["formats/model_file.py", "formats/steps.py"],
}
TESTS = ("archive", "formats", "hdf5", "idx", "keras", "named", "onnx", "steps")


def main() -> int:
    measured = coverage.Coverage(include=[f"{PACKAGE}/*"], data_file=None, config_file=False)
    measured.start()  # before anything of fastnn is imported
    replay()
    import pytest

    named = [name for name in sys.argv[1:] if name != "-"]
    tests = named or [f"tests/test_{name}.py" for name in TESTS]
    status = 0 if "-" in sys.argv else pytest.main(["-q", *tests])
    measured.stop()
    for reader, patterns in READERS.items():
        n_lines = n_missing = 0
        missed = []
        for path in sorted(path for pattern in patterns for path in PACKAGE.glob(pattern)):
            _, lines, _, missing, text = measured.analysis2(str(path))
            n_lines, n_missing = n_lines + len(lines), n_missing + len(missing)
            missed += [f"{path.relative_to(PACKAGE)} {text}"] * bool(missing)
        reached = 100 * (n_lines - n_missing) / n_lines
        print(f"{reader:20} {reached:5.1f} % of {n_lines} lines; not: {'; '.join(missed)}")
    return int(status)


def replay() -> None:
    """All files that there are, into their readers."""
    from attacks.kinds import make
    from attacks.table import FORMATS
    from attacks.worker import load

    import fuzz.mutate
    from fastnn.formats import hdf5
    from fuzz.targets import target

    with tempfile.TemporaryDirectory() as name, mock.patch.object(hdf5, "_ask", worker_here):
        folder = Path(name)
        for suffix, each in FORMATS.items():
            # With no timer in this process, the library would not come back from some.
            attacks = [attack for name, attack in each.attacks.items() if "endless" not in name]
            for i, attack in enumerate((*each.seeds.values(), *attacks)):
                path = folder / f"{i}{suffix}"
                make(attack, path)
                with contextlib.suppress(ValueError, OSError):  # LoadError is a ValueError
                    load(path)
        for suffix in fuzz.mutate.MUTATORS:
            run = target(suffix, folder)
            for data in fuzz.mutate.seeds(suffix):
                run(data)
            for kept in (ROOT / "build" / "fuzz", ROOT / "fuzz" / "found"):
                for path in sorted((kept / suffix[1:]).glob("*")):
                    run(path.read_bytes())


def worker_here(task: dict[str, Any], data: bytes) -> tuple[bytes, str]:
    """What `hdf5_worker.py` answers, which would end the process that it runs in."""
    from fastnn.formats import hdf5

    answer = io.TextIOWrapper(io.BytesIO())
    with (
        mock.patch("resource.setrlimit"),
        mock.patch("signal.setitimer"),
        mock.patch("signal.raise_signal"),  # counting lines takes longer than a file may
        mock.patch("sys.path", [*sys.path]),
        mock.patch("sys.stdin", io.TextIOWrapper(io.BytesIO(data))),
        mock.patch("sys.stdout", answer),
    ):
        runpy.run_path(str(hdf5._WORKER))["answer"](json.dumps(task))
    answer.flush()
    said: bytes = answer.buffer.getvalue()  # type: ignore[attr-defined]
    return said.partition(b"\n")[2].removesuffix(hdf5.DONE), ""


if __name__ == "__main__":
    sys.exit(main())
