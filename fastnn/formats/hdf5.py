"""HDF5 files from strangers: read in a subprocess, which may crash, hang or run out of memory.

The HDF5 library was not made for hostile files. So another process has it (`hdf5_worker.py`), with
limits of time and memory and no way to open a file; what it hands back is a safetensors container,
which is checked here as if it had come from the stranger himself.

Invariant: whatever the file does to the worker, here it becomes `Wrong`; h5py is never imported in
this process. Both ends of the conversation are memory that is handed over, not pipes, so neither
side can block the other.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import os
import re
import select
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, BinaryIO

import numpy.typing as npt

from fastnn.checks import most_unpacked
from fastnn.formats import native
from fastnn.formats.hdf5_worker import DONE, READY
from fastnn.formats.model_file import Wrong, json_object, quoted, shortened

__all__ = ["precheck", "read"]

_WORKER = Path(__file__).absolute().with_name("hdf5_worker.py")
_MARK = "FASTNN_HDF5_WORKER"  # in its environment
_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_SUPERBLOCK = 64  # bytes, the least of any version with what is behind it
_SPARE_MEMORY = 2**26  # of the worker, for the library's own needs
_LACKS = "alloc|[Mm]emory|[Ff]ile too|filter returned"  # in the library's words: maybe no room
_CANNOT_START = "MemoryError|cannot map"  # in Python's, or the loader's
_MOST_WORDS = 2**16  # bytes of a refusal
_PATIENCE = 300  # seconds of waiting
_PATIENCE_FOR_READY = 60


def read(
    data: bytes, groups: list[str], attributes: list[str], max_bytes: int, n_file: int
) -> tuple[dict[str, str], dict[str, npt.NDArray[Any]]]:
    """The string attributes of the root, and the float datasets in these groups by their paths.

    `n_file`: the bytes of the file that was given, of which `data` may be a part, unpacked; they
    limit what the datasets may unpack to. Raises `Wrong` for what is no sound HDF5 file or too
    much, `ImportError` without h5py or another Python process that can use it, `MemoryError` where
    limits of this machine leave that process less room than the file justifies, and it fails,
    `TimeoutError` where it does not get to run.
    """
    _check_ends(data[:_SUPERBLOCK], len(data))
    budget = min(max_bytes, most_unpacked(n_file))
    answer, lacking = _ask(_task(groups, attributes, n_file, budget, len(data)), data)
    # Of a container the first eight bytes are a length, and not all of them used; JSON has no NUL.
    if answer[:1] == b"{" and 0 not in answer[:8]:
        if len(answer) > _MOST_WORDS:
            raise Wrong("an intact HDF5 file", f"{len(answer)} bytes against it")
        refusal = json_object(answer, "the refusal")
        if "library" in refusal:
            raise _failure(shortened(str(refusal["library"])), lacking)
        raise Wrong(*(str(refusal.get(key)) for key in ("expected", "found")))
    metadata, tensors = native.container(answer)
    return metadata, {tensor.name: native.foreign_array(tensor) for tensor in tensors}


def precheck(file: BinaryIO, max_bytes: int) -> None:
    """Refuse a file by its first bytes and its size, before there is room for the rest."""
    n_bytes = file.seek(0, io.SEEK_END)
    file.seek(0)
    _check_ends(file.read(_SUPERBLOCK), n_bytes)


def _check_ends(start: bytes, n_bytes: int) -> None:
    """The signature at the beginning, and the end where the superblock says it is."""
    if start[:8] != _SIGNATURE or len(start) < _SUPERBLOCK:
        raise Wrong("an HDF5 file from the first byte on", quoted(start[:8]))
    at = {0: 40, 1: 44}.get(start[8], 28)  # the end of file address, for addresses of 8 bytes
    end = int.from_bytes(start[at : at + 8], "little")
    if end != n_bytes:
        raise Wrong(f"a file of {end} bytes, as it says", f"{n_bytes}")


def _task(
    groups: list[str], attributes: list[str], n_file: int, budget: int, n_data: int
) -> dict[str, Any]:
    return {
        "groups": groups,
        "attributes": attributes,
        "file": n_file,
        "bytes": budget,
        "header": native.MAX_HEADER_BYTES,
        "memory": 2 * (budget + n_data) + _SPARE_MEMORY,  # a chunk of all, say, and its values
        "path": _folders(),
    }


def _folders() -> list[str]:
    """Where h5py and NumPy are: the worker ignores the user's settings and might not find them."""
    folders = []
    for name in ("h5py", "numpy"):
        try:
            spec = importlib.util.find_spec(name)
        except ValueError:  # something else goes by the name
            spec = None
        # A package: h5py.py in the current directory would have its parent searched.
        if spec is None or spec.origin is None or not spec.submodule_search_locations:
            raise ImportError('reading HDF5 needs h5py: pip install "fastnn[keras]"')
        folders.append(str(Path(spec.origin).absolute().parent.parent))
    return folders


def _program() -> list[str]:
    """What starts the worker, keeping bytecode as this process does. ImportError: nothing does."""
    problem = None
    if not sys.executable:
        problem = "is empty"
    elif getattr(sys, "frozen", False):  # and would start this program again
        problem = f"is a program of its own: {sys.executable}"
    elif _MARK in os.environ:
        problem = f"started this program again: {sys.executable}"
    if problem:
        raise ImportError(
            f"reading HDF5 takes another Python process, and sys.executable {problem}; `fastnn "
            "convert` elsewhere makes a file that needs none"
        )
    options = ["-B"] if sys.dont_write_bytecode else []
    if sys.pycache_prefix is not None:
        options += ["-X", f"pycache_prefix={sys.pycache_prefix}"]
    return [sys.executable, "-IS", *options, str(_WORKER)]


def _ask(task: dict[str, Any], data: bytes) -> tuple[bytes, str]:
    """What the worker says after READY, of a size that a sound file may have there; and which
    limits left it less room than it asked for.
    """
    program = _program()
    with (
        os.fdopen(os.memfd_create("fastnn-hdf5"), "r+b", buffering=0) as question,
        os.fdopen(os.memfd_create("fastnn-arrays"), "r+b", buffering=0) as answer,
    ):
        written = 0
        try:
            while written < len(data):
                written += question.write(memoryview(data)[written:])
        except OSError as reason:
            raise MemoryError(f"reading HDF5 takes a second copy of the file: {reason}") from reason
        question.seek(0)
        try:
            process = subprocess.Popen(
                [*program, json.dumps(task)],
                stdin=question,
                stdout=answer,
                stderr=subprocess.DEVNULL,
                env=_environment(),
                process_group=0,  # a Ctrl-C is for this process to judge, and no fault of the file
            )
        except OSError as reason:  # which names no file, or one that the caller never heard of
            raise _no_worker(program, f"cannot be started: {reason}") from reason
        with process:
            try:
                status = _wait(process, answer.fileno())
            finally:
                process.kill()  # if it has not ended
        n_bytes = os.fstat(answer.fileno()).st_size
        answer.seek(0)
        ready = answer.readline(_MOST_WORDS)
        if not ready.startswith(READY):
            answer.seek(0)
            words = answer.read(1000).decode(errors="replace")
            if status is None:
                how = f"was not ready in {_PATIENCE_FOR_READY} s"
            else:
                how = f"{_death(status)}: {words}" if status else f"gave another answer: {words!r}"
            raise _no_worker(program, how, status)
        lacking = ready.removeprefix(READY).decode(errors="replace").strip()
        if status is None:
            # Of processor time it has little, and it waits for nothing.
            raise TimeoutError(
                f"reading HDF5 takes another process, which got too little of this machine to "
                f"answer in {_PATIENCE} s: it is stopped, or there is too little memory"
            )
        if status:
            raise _failure(f"the HDF5 library {_death(status)} on it", lacking, status)
        n_bytes -= len(ready) + len(DONE)
        if n_bytes > 8 + native.MAX_HEADER_BYTES + task["bytes"]:
            raise Wrong("an intact HDF5 file", f"{n_bytes} bytes in it")
        found = answer.read(max(n_bytes, 0))
        while len(found) < n_bytes and (more := answer.read(n_bytes - len(found))):
            found += more  # 2 GiB at once are the most
        if answer.read() != DONE:  # SIGCHLD is ignored, or another thread waits for any child
            how = "the HDF5 library did not end as it should, or was killed: it is not known which"
            raise Wrong("an intact HDF5 file", how)
        return found, lacking


def _no_worker(program: list[str], how: str, status: int | None = None) -> Exception:
    text = f"reading HDF5 takes another Python process with h5py, and {program[0]} {how}"
    may_lack = re.search(_CANNOT_START, how) is not None or status == -signal.SIGKILL
    return MemoryError(text) if may_lack else ImportError(text)


def _failure(how: str, lacking: str, status: int = 0) -> Exception:
    """Of the library: the file's fault, unless the machine had too little for what it justifies."""
    is_killed = -status == signal.SIGKILL  # which no file can bring about
    is_endless = -status == signal.SIGPROF
    may_lack = bool(status) or re.search(_LACKS, how) is not None
    if is_killed or (lacking and may_lack and not is_endless):
        why = f"{lacking}: see ulimit" if lacking else "of the machine or its container"
        return MemoryError(
            f"reading HDF5 takes another process, which has too little room here ({why}) to know "
            f"more than this: {how}"
        )
    return Wrong("an intact HDF5 file", how)


def _wait(process: subprocess.Popen[bytes], answer: int) -> int | None:
    """The exit status; None after `_PATIENCE`, or if by `_PATIENCE_FOR_READY` it has said nothing.

    The kernel says when, where it and Python can (Linux 5.3): `Popen.wait` would look every 50 ms.
    """
    for seconds in (_PATIENCE_FOR_READY, _PATIENCE - _PATIENCE_FOR_READY):
        try:
            ending = os.pidfd_open(process.pid)
        except (AttributeError, OSError):
            with contextlib.suppress(subprocess.TimeoutExpired):
                return process.wait(timeout=seconds)
        else:
            try:
                poll = select.poll()
                poll.register(ending, select.POLLIN)
                if poll.poll(seconds * 1000):
                    return process.wait()
            finally:
                os.close(ending)
        if not os.fstat(answer).st_size:
            break
    return None


def _environment() -> dict[str, str]:
    """This process's, but no plugins for filters, no threads, and no lock on what is no file.

    What is preloaded here, such as an allocator, may want more memory than the worker will have;
    the library's other settings may send it to drivers that are not there.
    """
    while True:
        try:
            here = dict(os.environ)
            break
        except (KeyError, RuntimeError):  # another thread changed it
            continue
    return {
        name: value
        for name, value in here.items()
        if name != "LD_PRELOAD" and not name.startswith("HDF5_")
    } | {
        _MARK: "1",
        "HDF5_PLUGIN_PRELOAD": "::",
        "HDF5_USE_FILE_LOCKING": "FALSE",
        "OPENBLAS_NUM_THREADS": "1",
    }


def _death(status: int) -> str:
    if status > 0:
        return f"failed with status {status}"
    if -status in (signal.SIGPROF, signal.SIGXCPU):
        return "did not come to an end"
    try:
        return f"died of {signal.Signals(-status).name}"
    except ValueError:  # of those that have no name
        return f"died of signal {-status}"
