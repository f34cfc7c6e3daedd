"""How long until a model file is ready, beside merely reading its bytes.

    python -m benchmarks.load                # make load-time; --rounds 31 --json --cpu 1

A safetensors file of 48 MB (784-2500-2000-1500-1000-500-10, 12 million weights) lies in the page
cache. In turns, each into fresh memory: `np.fromfile` of it, `fastnn.load`, and `fastnn.load` of
the same network with a scale, which packs the first layer twice. All that a load does counts:
reading, checking every value, packing for this CPU, and trying the kernels. The exit status is 1 if
a load takes more than `GOAL` times as long as `np.fromfile` (ratio of medians, wall time).

Beside them `readinto` of an array on a page's boundary: NumPy's arrays begin 16 bytes behind one,
and there the kernel's copy (`rep movsb`) takes five times as long on AMD's Zen 3.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import fastnn
from benchmarks.compare import machine
from benchmarks.interleaved import alternate, one_cpu

GOAL = 3.0
ROUNDS = 31
PAGE = 4096
WIDTHS = (784, 2500, 2000, 1500, 1000, 500, 10)


def always_fresh() -> None:
    """From now on no array of a megabyte or more lies where another was.

    glibc may keep what was freed, by the luck of what lay behind it, and reading into memory that
    has its pages already takes a fifth of the time; who loads a model for the first time has none.
    """
    ctypes.CDLL(None).mallopt(-3, 1 << 20)  # M_MMAP_THRESHOLD, then no longer moved by glibc


def write(path: Path, widths: Sequence[int] = WIDTHS, scale: float = 1.0) -> int:
    """A file of random weights; its bytes."""
    rng = np.random.default_rng(1)
    layers = [
        fastnn.Dense(rng.standard_normal((a, b), np.float32) / a**0.5, np.zeros(b), "relu")
        for a, b in zip(widths, widths[1:], strict=False)
    ]
    fastnn.Model(layers, scale=scale).save(path)
    return path.stat().st_size


def read_aligned(path: Path, n_bytes: int) -> np.ndarray:
    """The bytes of the file in a new array that begins with a page."""
    room = np.empty(n_bytes + PAGE, np.uint8)
    aligned = room[-room.ctypes.data % PAGE :][:n_bytes]
    with open(path, "rb", buffering=0) as file:
        file.readinto(aligned)
    return aligned


def measure(folder: Path, rounds: int, widths: Sequence[int] = WIDTHS) -> list[dict[str, Any]]:
    """Medians in ms of wall and CPU time, and what they are of np.fromfile's."""
    plain, scaled = folder / "plain.safetensors", folder / "scaled.safetensors"
    n_bytes = write(plain, widths)
    write(scaled, widths, 1 / 255)
    cpu: dict[str, list[float]] = {}

    def task(name: str, call: Callable[[], object]) -> Callable[[], float]:
        spent = cpu[name] = []

        def take() -> float:
            start, start_cpu = time.perf_counter(), time.process_time()
            made = call()
            took = time.perf_counter() - start
            spent.append(time.process_time() - start_cpu)
            del made  # whose memory goes back outside of the time
            return took

        return take

    tasks = [
        task("np.fromfile", lambda: np.fromfile(plain, np.uint8)),
        task("readinto, aligned", lambda: read_aligned(plain, n_bytes)),
        task("fastnn.load", lambda: fastnn.load(plain)),
        task("fastnn.load, with a scale", lambda: fastnn.load(scaled)),
    ]
    for once in tasks:
        once()
    for spent in cpu.values():
        spent.clear()
    wall = np.median(alternate(tasks, rounds), axis=1) * 1e3
    cpu_ms = {name: float(np.median(spent)) * 1e3 for name, spent in cpu.items()}
    return [
        {
            "name": name,
            "bytes": n_bytes,
            "wall_ms": float(ms),
            "cpu_ms": cpu_ms[name],
            "wall_ratio": float(ms / wall[0]),
            "cpu_ratio": cpu_ms[name] / cpu_ms["np.fromfile"],
        }
        for name, ms in zip(cpu, wall, strict=True)
    ]


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.load", description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--cpu", type=int, help="the CPU to measure on; default: the last allowed")
    parser.add_argument("--json", action="store_true", help="JSON in place of Markdown")
    arguments = parser.parse_args()
    always_fresh()
    with one_cpu(arguments.cpu), tempfile.TemporaryDirectory(prefix="fastnn-load-") as name:
        about = machine()
        results = measure(Path(name), arguments.rounds)
    if arguments.json:
        print(json.dumps({"machine": about, "results": results}, indent=1))
    else:
        print(
            f"A file of {results[0]['bytes'] / 1e6:.1f} MB, medians of {arguments.rounds} turns\n"
        )
        print("| | time | of np.fromfile's | CPU time | of np.fromfile's |")
        print("|---|---:|---:|---:|---:|")
        for row in results:
            print(
                f"| {row['name']} | {row['wall_ms']:.1f} ms | {row['wall_ratio']:.2f} | "
                f"{row['cpu_ms']:.1f} ms | {row['cpu_ratio']:.2f} |"
            )
        print(f"\n{about['cpu']}, Python {about['python']}, load {about['load_average']}.")
    return int(max(row["wall_ratio"] for row in results) > GOAL)


if __name__ == "__main__":
    sys.exit(main())
