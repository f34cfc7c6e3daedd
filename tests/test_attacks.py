"""Hostile files of every format are refused, quickly, in little memory, by one process that stays.

Invariant: what a reader is fed comes from tests/attacks; a suffix that the package reads and that
has no attacks there fails. One worker a format takes all of its files, under a limit on its address
space. A file that hangs ends the worker.
"""

import contextlib
import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from attacks.kinds import make, write_anew
from attacks.table import FORMATS, MISSING, READERS
from oracle import IS_SANITIZED

TESTS = Path(__file__).resolve().parent
ROOM_MIB = 64
MOST_SECONDS = 0.1  # of CPU time, for one file; that a process starts for it is no file's fault
PATIENCE_S = 60  # of wall time for one file, on a busy machine: longer is a hang

SUFFIXES = sorted(FORMATS)


class Worker:
    """The process that loads; `costs` keeps what each file took."""

    def __init__(self, suffix, folder):
        self.suffix, self.folder = suffix, folder
        room = 0 if IS_SANITIZED else ROOM_MIB
        self.process = subprocess.Popen(
            [sys.executable, str(TESTS / "attacks" / "worker.py"), str(room)],
            cwd=TESTS, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        for i, seed in enumerate(FORMATS[suffix].seeds.values()):
            path = folder / f"seed{i}{suffix}"
            path.write_bytes(seed)
            self.process.stdin.write(f"{path}\n")
        self.process.stdin.write("\n")
        self.costs = []

    def judge(self, path, what):
        """What became of the file, within what it may cost.

        That of three attempts: what else the machine does costs a process time as well.
        """
        found = self.attempt(path, what)
        for _ in range(2):
            if found["seconds"] >= MOST_SECONDS:
                found = min(found, self.attempt(path, what), key=lambda one: one["seconds"])
        self.costs.append((found["seconds"], found["mib"], what))
        if not IS_SANITIZED:
            assert found["seconds"] < MOST_SECONDS, (what, found)
            assert found["mib"] < ROOM_MIB, (what, found)
        return found

    def attempt(self, path, what):
        timer = threading.Timer(PATIENCE_S, self.process.kill)
        timer.start()
        try:
            with contextlib.suppress(BrokenPipeError):
                self.process.stdin.write(f"{path}\n")
                self.process.stdin.flush()
            line = self.process.stdout.readline()
        finally:
            timer.cancel()
        assert line, f"{what}: the worker crashed, or hung for {PATIENCE_S} s"
        return json.loads(line)

    def judge_bytes(self, data, what):
        path = self.folder / f"a{self.suffix}"
        write_anew(path, data)
        return self.judge(path, what)

    def refuses(self, found, path, what):
        """It is a LoadError that says all that it should."""
        assert found["outcome"] == "LoadError", (what, found)
        message = found["message"]
        assert message.startswith(f"{path}: "), (what, message)
        assert ": expected " in message or "model" in message.lower(), (what, message)
        assert len(message) < 1000, (what, message)
        assert message.isprintable(), (what, message)


@pytest.fixture(scope="module", params=SUFFIXES)
def worker(request, tmp_path_factory):
    one = Worker(request.param, tmp_path_factory.mktemp("attacks"))
    with one.process:
        yield one
    assert one.process.returncode == 0
    slowest, largest = max(one.costs), max(one.costs, key=lambda cost: cost[1])
    print(
        f"\n{one.suffix}: {len(one.costs)} files; slowest {slowest[0] * 1e3:.1f} ms CPU "
        f"({slowest[2]}), most memory {largest[1]:.1f} MiB ({largest[2]})"
    )


def test_every_reader_has_attacks():
    attacked = {READERS[suffix] for suffix in {*FORMATS, *MISSING} & READERS.keys()}
    assert attacked == {*READERS.values()}, "a format without attacks: see tests/attacks"
    for suffix, each in FORMATS.items():
        assert each.seeds, suffix
        assert len(each.attacks) >= 20, suffix
    assert sum(len(each.attacks) for each in FORMATS.values()) >= 60


def test_every_reader_can_be_tested():
    if MISSING:
        lacking = ", ".join(f"{suffix} needs {package}" for suffix, package in MISSING.items())
        pytest.skip(f"NOT TESTED: {lacking}")


def test_seeds_load(worker):
    for name, seed in FORMATS[worker.suffix].seeds.items():
        found = worker.judge_bytes(seed, f"seed: {name}")
        assert found["outcome"] == "loaded", (name, found)


def test_attacks_are_refused(worker):
    failed = []
    for i, (name, attack) in enumerate(FORMATS[worker.suffix].attacks.items()):
        path = worker.folder / f"{i}{worker.suffix}"
        make(attack, path)
        try:
            found = worker.judge(path, name)
            is_no_file = callable(attack) and found["outcome"] == "OSError"
            if not is_no_file:
                worker.refuses(found, path, name)
        except AssertionError as error:
            failed.append(str(error))
    assert not failed, "\n".join(failed)


def test_every_truncation_is_refused(worker):
    path = worker.folder / f"a{worker.suffix}"
    for name, seed in FORMATS[worker.suffix].seeds.items():
        for n in range(len(seed)):
            what = f"{name}: the first {n} of {len(seed)} bytes"
            worker.refuses(worker.judge_bytes(seed[:n], what), path, what)


def test_a_flipped_bit_in_every_byte_is_refused_or_harmless(worker):
    path = worker.folder / f"a{worker.suffix}"
    n_refused = n_loaded = 0
    for name, seed in FORMATS[worker.suffix].seeds.items():
        for at in range(0, len(seed), FORMATS[worker.suffix].step):
            bit = (at * 5 + 3) % 8  # each bit in turn
            flipped = bytearray(seed)
            flipped[at] ^= 1 << bit
            what = f"{name}: bit {bit} of byte {at}"
            found = worker.judge_bytes(bytes(flipped), what)
            if found["outcome"] == "loaded":  # and was finite, and predicted
                n_loaded += 1
                continue
            worker.refuses(found, path, what)
            n_refused += 1
    assert n_refused
    print(f"\n{worker.suffix}: {n_refused} flips refused, {n_loaded} loaded")
