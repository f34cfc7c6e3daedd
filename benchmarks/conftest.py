"""Every benchmark runs on one CPU, in one thread, as docs/benchmarks.md says."""

from collections.abc import Iterator

import pytest

from benchmarks import interleaved


@pytest.fixture(scope="session", autouse=True)
def cpu() -> Iterator[int]:
    """The CPU that this session measures on."""
    with interleaved.one_cpu() as number:
        yield number
