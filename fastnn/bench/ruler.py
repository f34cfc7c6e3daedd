"""What this machine can do at best: multiply-adds in registers, and reading from each memory.

Invariant: a ruler that reads low would flatter what is held against it, so each reading is the best
of several short ones, and who holds something against it takes one reading before and one after,
and of those the larger. What disturbs the measured alone makes it look worse, never better.

Bandwidth is that of reading: `max` over uint64 in NumPy and memchr in the C library, whichever is
faster, over a buffer that fits in the level asked for and not in the one below. Level 1 is missing:
there NumPy measures itself.
"""

from __future__ import annotations

import functools
import itertools
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from time import perf_counter

import numpy as np

from fastnn import _core

__all__ = ["bandwidth", "cache_bytes", "level_of", "peak"]

_LEAST_BURST = 5e-4  # seconds, of multiply-adds: several bursts of less than 0.1 ms
_LEAST_READ = 1 << 22  # bytes; less is over before the clock can tell
_MOST_READ = 1 << 24
_MOST_BUFFER = 1 << 30


def peak(isa: str, n_threads: int = 1, number_format: str = "f32") -> float:
    """GFLOP/s (of "i8": GOP/s) of multiply-adds on one core, times `n_threads`, on kernels `isa`.

    The multiply-adds are those of `number_format`, independent (16 accumulators on AVX-512, 10 on
    AVX2), and touch no memory.
    """
    return _core.peak_gflops(isa, _LEAST_BURST, number_format) * n_threads


@functools.cache
def cache_bytes() -> dict[str, int]:
    """{"L2": bytes, "L3": bytes} of the CPU that this process started on, as far as it says."""
    found = {}
    for cache in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        try:
            level, kind = (cache / "level").read_text().strip(), (cache / "type").read_text()
            size = (cache / "size").read_text().strip()
        except OSError:
            continue
        if level in ("2", "3") and "Instruction" not in kind and size.endswith("K"):
            found[f"L{level}"] = int(size[:-1]) << 10
    for level in ("2", "3"):
        if f"L{level}" not in found and f"SC_LEVEL{level}_CACHE_SIZE" in os.sysconf_names:
            n_bytes = os.sysconf(f"SC_LEVEL{level}_CACHE_SIZE")
            if n_bytes > 0:
                found[f"L{level}"] = n_bytes
    return dict(sorted(found.items()))


def level_of(n_bytes: int) -> str:
    """Where data of this size stay that are used again and again: "L2", "L3" or "DRAM"."""
    return next((level for level, size in cache_bytes().items() if n_bytes <= size), "DRAM")


def bandwidth(level: str, n_threads: int = 1) -> float:
    """GB/s (1e9 bytes) that `n_threads` read together from `level`, each from memory of its own."""
    if n_threads == 1:
        return _read(level, 0)
    rates, start = [0.0] * n_threads, threading.Barrier(n_threads)

    def work(i: int) -> None:
        _buffer(level, i)
        start.wait()
        rates[i] = _read(level, i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(n_threads)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(rates)


def buffer_bytes(level: str) -> int:
    """How much is read: half of L2, a quarter of L3, four times L3 for DRAM (at most 1 GiB)."""
    caches = cache_bytes()
    if level == "DRAM":
        return min(_MOST_BUFFER, max(1 << 26, 4 * max(caches.values(), default=0)))
    return caches[level] // (2 if level == "L2" else 4)


@functools.cache
def _buffer(level: str, thread: int) -> bytearray:
    """Kept for the life of the process. Ones: pages of zeros that were never written are one page
    of physical memory, which level 1 holds."""
    return bytearray(b"\1") * (buffer_bytes(level) // 8 * 8)


def _read(level: str, thread: int) -> float:
    """GB/s of the better of two ways to read, each the best of three."""
    buffer = _buffer(level, thread)
    n_times = max(1, _LEAST_READ // len(buffer))
    size = min(len(buffer), _MOST_READ) // 8 * 8
    windows = _windows(level, thread)
    out = np.empty(n_times, np.uint64)

    def maximum() -> None:
        words = np.frombuffer(buffer, np.uint64, size // 8, next(windows))
        np.broadcast_to(words, (n_times, size // 8)).max(axis=1, out=out)

    def memchr() -> None:
        start = next(windows)
        for _ in range(n_times):
            buffer.find(b"\0", start, start + size)

    return max(_rate(read, n_times * size) for read in (maximum, memchr))


@functools.cache
def _windows(level: str, thread: int) -> Iterator[int]:
    """Where the next read of a buffer larger than one read begins: each part comes round after all
    others have passed through the cache."""
    n_windows = max(1, len(_buffer(level, thread)) // _MOST_READ)
    return itertools.cycle(range(0, n_windows * _MOST_READ, _MOST_READ))


def _rate(read: Callable[[], None], n_bytes: int) -> float:
    best = float("inf")
    for _ in range(3):
        start = perf_counter()
        read()
        best = min(best, perf_counter() - start)
    return n_bytes / best * 1e-9
