"""Loads files as they come, in one process under a limit on its memory, and says what that took.

    python tests/attacks/worker.py ROOM      (imports nothing else of the tests)

Reads a path a line from stdin, writes a JSON object a line to stdout: `outcome` ("loaded", or the
name of the exception), `message`, CPU `seconds`, and `mib`, the peak of its resident memory above
what it was before the first file. ROOM: MiB of address space above that; 0: no limit. On a shared
host the same work takes a process up to four times the CPU time: after a file that seems to take
long a loop is timed, and where it takes longer than USUAL_LOOP, the file counts for as much less.
HDF5 is read by a process of its own: what that takes to be ready, before it sees a file, is not in
`seconds`; it is taken for less where one of the last files took less in all, and measured again for
the next file after one that seemed to take long. Where it is more than USUAL_START, all else that
the process takes is counted for as much less. Of the memory of these processes the most of all so
far counts, beyond what the sound files at the beginning took.
A file that loads is used: a row is predicted, and has to be finite.
"""

import json
import resource
import subprocess
import sys
import time
from collections import deque
from pathlib import Path

import numpy as np

import fastnn
from fastnn import idx
from fastnn.formats import hdf5

PAGE = resource.getpagesize()
USUAL_START = 0.12  # seconds that HDF5's process takes to be ready
USUAL_LOOP = 0.006  # seconds of the loop, on the quiet machine on which USUAL_START was measured
DOUBTFUL = 0.05  # seconds of a file


def load(path: Path) -> None:
    """What the file's suffix asks for. Whatever it raises is what the file is judged by."""
    if path.suffix == ".idx":
        whole = idx.read(path)
        blocks = list(idx.stream(path, 1))
        assert sum(len(block) for block in blocks) == len(whole)
        return
    model = fastnn.load(path)
    for layer in model.layers:
        assert np.isfinite(layer.weight).all()
        assert np.isfinite(layer.bias).all()
    answer = model.forward(np.ones((1, model.n_inputs), np.uint8))
    assert np.ravel(answer).shape == (model.n_outputs,)


def cpu_seconds() -> tuple[float, float]:
    """Of this process, and of those that it waited for."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time(), children.ru_utime + children.ru_stime


def slowness() -> float:
    """How many times as long as usual work takes now, at least 1: by the fastest of some runs."""
    taken = []
    for _ in range(3):
        before = time.process_time()
        found = {}
        for i in range(20_000):
            found[str(i)] = (i, [i])
        taken.append(time.process_time() - before)
    return max(min(taken) / USUAL_LOOP, 1)


def status(field: str) -> int:
    """A field of /proc/self/status in KiB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1])
    raise KeyError(field)


def peak_of_others() -> int:
    """Of the process that had the most memory of those that it waited for, in KiB."""
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss


def forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def judge(path: Path) -> tuple[dict[str, object], float, float]:
    """What became of it, and the seconds that this process and another one took."""
    outcome, message = "loaded", ""
    before = cpu_seconds()
    try:
        load(path)
    except Exception as error:
        outcome, message = type(error).__name__, str(error)
        if isinstance(error, OSError):
            outcome = "OSError"
    own, others = (now - then for now, then in zip(cpu_seconds(), before, strict=True))
    return {"outcome": outcome, "message": message}, own, others


_GET_READY = """
import json, os, sys
names = {"__name__": "worker"}
exec(compile(open(sys.argv[1]).read(), sys.argv[1], "exec"), names)
names["prepare"](json.loads(sys.argv[2]))
os._exit(0)
"""


def fastest(program: list[str]) -> float:
    """The CPU seconds of the fastest of some runs."""
    taken = []
    for _ in range(5):
        before = cpu_seconds()[1]
        nothing = subprocess.DEVNULL
        environment = hdf5._environment()  # without it, libraries start threads
        subprocess.run(program, stdin=nothing, stdout=nothing, env=environment, check=True)
        taken.append(cpu_seconds()[1] - before)
    return min(taken)


def start_of_hdf5() -> float:
    """The seconds that its process takes to be ready for a file."""
    words = [_GET_READY, str(hdf5._WORKER), json.dumps(hdf5._task([], [], 0, 0, 0))]
    return fastest([*hdf5._program()[:-1], "-c", *words])


def main(room_mib: int) -> None:
    starts = deque([0.0], maxlen=25)
    for line in sys.stdin:  # the first files are sound: what they import is no file's fault
        path = line.rstrip("\n")
        if not path:
            break
        if judge(Path(path))[2] and not any(starts):
            starts = deque([start_of_hdf5()], maxlen=25)
    idle, idle_others = status("VmRSS"), peak_of_others()
    if room_mib:
        limit = status("VmSize") * 1024 + room_mib * 2**20
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    for line in sys.stdin:
        forget_peak()
        found, own, others = judge(Path(line.rstrip("\n")))
        if others:
            starts.append(others)
        if own > DOUBTFUL:
            own /= slowness()
        start = min(starts)
        beyond = max(others - start, 0) * min(USUAL_START / start, 1) if others else 0
        found["seconds"] = own + beyond
        if beyond > DOUBTFUL:  # the file, or a machine that is busier than it was
            starts.clear()
            starts.append(start_of_hdf5())
        above = max(status("VmHWM") - idle, peak_of_others() - idle_others)
        print(json.dumps({**found, "mib": above / 1024}), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]))
