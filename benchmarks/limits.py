"""What this core can do at best: multiply-adds in registers, and reading memory.

Invariant: a ruler that reads low would flatter what is held against it. So multiply-adds are
independent and touch no memory, reading is the best of several ways to read, and both are measured
in turns with what they limit, on the same core.
"""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter, thread_time_ns

import numpy as np

from fastnn import _core

_LEAST_BYTES = 1 << 22  # read in one burst: less is over before the clock can tell


def multiply_adds(isa: str, number_format: str, seconds: float) -> Callable[[], float]:
    """A task: GFLOP/s (GOP/s in "i8") of this core, in bursts of less than 0.1 ms for `seconds`.

    The median of the bursts: time that the operating system gives to others falls into few.
    """

    def burn() -> float:
        bursts, start = [], thread_time_ns()
        while (thread_time_ns() - start) * 1e-9 < seconds:
            bursts.append(_core.peak_gflops(isa, 0.0, number_format))  # one burst
        return float(np.median(bursts))

    return burn


def reading(n_bytes: int) -> Callable[[], float]:
    """A task: GB/s (1e9 bytes) of reading the same `n_bytes` again and again.

    So it reads from where data of that size stay: L2, L3, memory, or partly one, partly another.
    The best of three ways to read, each several times over what it finds.
    """
    n_bytes = max(1 << 14, n_bytes) // 128 * 128
    buffer = bytearray(b"\1") * n_bytes  # pages of zeros never written would all be one page
    n_times = max(1, _LEAST_BYTES // n_bytes)

    def again(dtype: type, part: slice = slice(None)) -> np.ndarray:
        row = np.frombuffer(buffer, dtype)[part]
        return np.broadcast_to(row, (n_times, len(row)))

    half = n_bytes // 4 // 2
    front, back = again(np.float32, slice(half)), again(np.float32, slice(half, None))
    words, sums, maxima = again(np.uint64), np.empty(n_times, np.float32), np.empty(n_times, "u8")
    find = buffer.find

    def search() -> None:  # memchr
        for _ in range(n_times):
            find(b"\0")

    ways = (
        lambda: np.vecdot(front, back, out=sums),  # BLAS
        lambda: words.max(axis=1, out=maxima),
        search,
    )

    def read() -> float:
        best = float("inf")
        for way in ways:
            for _ in range(2):  # the first may fetch what others have driven out
                start = perf_counter()
                way()
                best = min(best, perf_counter() - start)
        return n_times * n_bytes / best * 1e-9

    return read
