"""How many threads a call gets when nobody says: what the operating system lets this process use.

Invariant: an answer is at most a second old, for affinity and quota may change while a process
runs. The affinity is asked for each time (1 us); the quota's files take up to half as long to read
as a call that is worth splitting, so they are read once a second.
"""

import os
import time
from collections.abc import Callable
from pathlib import Path

__all__ = ["default_threads"]


def default_threads() -> int:
    """FASTNN_NUM_THREADS (1..1024) if set; else the CPUs of the affinity mask, at most the cgroup's
    CPU quota rounded down, at least 1. Raises ValueError for a bad FASTNN_NUM_THREADS."""
    named = os.environ.get("FASTNN_NUM_THREADS")
    if named:
        if not (named.isascii() and named.isdigit() and 1 <= int(named) <= 1024):
            raise ValueError(f"FASTNN_NUM_THREADS: got {named!r}, want 1..1024")
        return int(named)
    n_cpus = len(os.sched_getaffinity(0))
    quota = _recent_quota()
    return n_cpus if quota is None else max(1, min(n_cpus, int(quota)))


_recent: tuple[float, float | None] = (float("-inf"), None)  # when, what


def _recent_quota() -> float | None:
    """`_quota()` as of the last second. One assignment replaces the pair, so threads may race."""
    global _recent
    when, quota = _recent
    if time.monotonic() - when > 1:
        quota = _quota()
        _recent = time.monotonic(), quota
    return quota


def _quota(
    proc: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")
) -> float | None:
    """CPUs' worth of time that this process's cgroup and those above it allow; None: no limit."""
    try:
        lines = proc.read_bytes().decode(errors="surrogateescape").split("\n")
    except OSError:
        return None
    quotas = []
    for line in lines:  # hierarchy:controllers:path
        if line.count(":") < 2:
            continue
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            quotas += _along(root, path, _quota_v2)
        elif "cpu" in controllers.split(","):
            quotas += _along(root / controllers, path, _quota_v1)
    return min(quotas, default=None)


def _along(root: Path, path: str, read: Callable[[Path], float | None]) -> list[float]:
    """The quotas of a cgroup and its ancestors. In a container the own path may not be visible;
    then the mount's root is the container's."""
    parts = [part for part in path.split("/") if part not in ("", "..")]
    found = [read(root.joinpath(*parts[:n])) for n in range(len(parts) + 1)]
    return [quota for quota in found if quota is not None]


def _quota_v2(folder: Path) -> float | None:
    try:
        quota, period = (folder / "cpu.max").read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return None


def _quota_v1(folder: Path) -> float | None:
    try:
        quota = int((folder / "cpu.cfs_quota_us").read_text())
        return None if quota <= 0 else quota / int((folder / "cpu.cfs_period_us").read_text())
    except (OSError, ValueError, ZeroDivisionError):
        return None
