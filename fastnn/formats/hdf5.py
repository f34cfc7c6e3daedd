"""HDF5 files from strangers: each read in a process of its own, which may crash, hang or be killed.

The HDF5 library was not made for hostile files. So another process has it (`hdf5_worker.py`), with
limits of time and memory and no way to open a file; what it hands back is a safetensors container,
which is checked here as if it had come from the stranger himself. To start Python and h5py takes
longer than any sound file: the process that has done so forks one for each file, stays for the next
file a while, and ends when this process does.

Invariant: whatever the file does to its process, here it becomes `Wrong`; h5py is never imported in
this process. File and answer are memory that is handed over, not pipes, so neither side can block
the other. A worker has one task at a time: threads that read at once have one each.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib.util
import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, BinaryIO

import numpy.typing as npt

from fastnn.checks import most_unpacked
from fastnn.formats import native
from fastnn.formats.model_file import Wrong, json_object, quoted

__all__ = ["precheck", "read"]

_WORKER = Path(__file__).with_name("hdf5_worker.py")
_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_SUPERBLOCK = 64  # bytes, the least of any version with what is behind it
_SPARE_MEMORY = 2**26  # of the worker, for the library's own needs
# Of processor time, of which a sound file takes a tenth at most; more where the machine is slow, as
# the worker finds out. The library may not come to an end on a damaged file. Many small objects
# take their time, in as many bytes.
_SECONDS = 0.03
_SECONDS_PER_BYTE = 2.5e-7
_MOST_FOR_OBJECTS = 1
_SECONDS_PER_UNPACKED_BYTE = 1e-8
_PATIENCE = 300  # seconds of waiting


def read(
    data: bytes, groups: list[str], attributes: list[str], max_bytes: int, n_file: int
) -> tuple[dict[str, str], dict[str, npt.NDArray[Any]]]:
    """The string attributes of the root, and the float datasets in these groups by their paths.

    `n_file`: the bytes of the file that was given, of which `data` may be a part, unpacked; they
    limit what the datasets may unpack to. Raises `Wrong` for what is no sound HDF5 file or too
    much, `ImportError` without h5py.
    """
    _check_ends(data[:_SUPERBLOCK], len(data))
    budget = min(max_bytes, most_unpacked(n_file))
    task = {
        "groups": groups,
        "attributes": attributes,
        "bytes": budget,
        "memory": budget + 2 * len(data) + _SPARE_MEMORY,
        "seconds": _SECONDS
        + min(_SECONDS_PER_BYTE * len(data), _MOST_FOR_OBJECTS)
        + _SECONDS_PER_UNPACKED_BYTE * budget,
    }
    answer = _ask(task, data)
    # Of a container the first eight bytes are a length, and not all of them used; JSON has no NUL.
    if answer[:1] == b"{" and 0 not in answer[:8]:
        refusal = json_object(answer, "the refusal")
        raise Wrong(*(str(refusal.get(key))[:1000] for key in ("expected", "found")))
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
    at = 40 if start[8] < 2 else 28  # the end of file address, for addresses of 8 bytes
    end = int.from_bytes(start[at : at + 8], "little")
    if end != n_bytes:
        raise Wrong(f"a file of {end} bytes, as it says", f"{n_bytes}")


def _folders() -> list[str]:
    """Where h5py and NumPy are: the worker ignores the user's settings and might not find them."""
    folders = []
    for name in ("h5py", "numpy"):
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None:
            raise ImportError('reading HDF5 needs h5py: pip install "fastnn[keras]"')
        folders.append(str(Path(spec.origin).parent.parent))
    return folders


def _ask(task: dict[str, Any], data: bytes) -> bytes:
    """The answer of a worker's child, of a size that the memory it may use can justify."""
    if not sys.executable:
        raise Wrong("a Python interpreter in sys.executable, to read HDF5 in", "none")
    with (
        os.fdopen(os.memfd_create("fastnn-hdf5"), "r+b", buffering=0) as question,
        os.fdopen(os.memfd_create("fastnn-arrays"), "r+b", buffering=0) as answer,
    ):
        written = 0
        while written < len(data):
            written += question.write(memoryview(data)[written:])
        question.seek(0)
        status = _exit_status(json.dumps(task).encode(), [question.fileno(), answer.fileno()])
        if status:
            raise Wrong("an intact HDF5 file", f"the HDF5 library {_death(status)} on it")
        n_bytes = os.fstat(answer.fileno()).st_size
        if n_bytes > 2 * task["memory"]:
            raise Wrong("an intact HDF5 file", f"{n_bytes} bytes in it")
        answer.seek(0)
        return answer.read()


def _exit_status(task: bytes, files: list[int]) -> int:
    """Of the child that a worker had for the task."""
    while True:
        try:
            worker, is_new = _waiting.pop(), False
        except IndexError:
            worker, is_new = _Worker(), True
        try:
            status = worker.run(task, files)
        except TimeoutError:
            found = f"no answer from the HDF5 library in {_PATIENCE} s"
            raise Wrong("an intact HDF5 file", found) from None
        if status is not None:
            _waiting.append(worker)
            return status
        if is_new:  # not one that ended for lack of tasks
            raise Wrong("a process that can read HDF5", "one that ended before it had an answer")


_waiting: list[_Worker] = []
"""Workers without a task; some may have ended. A list's pop and append are atomic."""


class _Worker:
    """A process of `hdf5_worker.py`, in a group of its own with its children."""

    def __init__(self) -> None:
        command = [sys.executable, "-I", str(_WORKER), *_folders()]
        self.channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            process = subprocess.Popen(
                command,
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=_environment(),
                start_new_session=True,
            )
        self.group = process.pid
        self.has_ended = False

        def wait() -> None:  # it ends when it likes, and is no zombie then
            process.wait()
            self.has_ended = True

        threading.Thread(target=wait, name="fastnn-hdf5", daemon=True).start()

    def run(self, task: bytes, files: list[int]) -> int | None:
        """The exit status of the child for this task; None if the process has ended."""
        is_done = False
        try:
            self.channel.settimeout(_PATIENCE)
            socket.send_fds(self.channel, [task], files)
            answer = self.channel.recv(16)
            is_done = bool(answer)
        except (BrokenPipeError, ConnectionResetError):
            return None
        finally:
            if not is_done:  # nobody waits for its child any more
                self.close()
        return int(answer) if is_done else None

    def close(self) -> None:
        """No process of this worker runs on."""
        self.channel.close()
        if not self.has_ended:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.group, signal.SIGKILL)


def _hang_up() -> None:
    """No worker is known any more; one that nobody else knows ends."""
    while _waiting:
        _waiting.pop().channel.close()


atexit.register(_hang_up)
os.register_at_fork(after_in_child=_hang_up)  # they are the parent's


def _environment() -> dict[str, str]:
    """This process's, but no plugins for filters, no threads, and no lock on what is no file.

    What is preloaded here, such as an allocator, may want more memory than the worker will have.
    """
    environment = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
    return environment | {
        "HDF5_PLUGIN_PRELOAD": "::",
        "HDF5_USE_FILE_LOCKING": "FALSE",
        "OPENBLAS_NUM_THREADS": "1",
    }


def _death(status: int) -> str:
    if status > 0:
        return f"failed with status {status}"
    if -status in (signal.SIGPROF, signal.SIGXCPU):
        return "did not come to an end"
    return f"died of {signal.Signals(-status).name}"
