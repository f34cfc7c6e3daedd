"""Fixtures shared by all tests.

Invariant: what cannot be tested on this machine is skipped, the reason beginning "NOT TESTED: ".
When FASTNN_STRICT=1 that is a failure, but for what another CPU, build or set of tools would test.
"""

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from oracle import IS_SANITIZED


def pytest_configure() -> None:
    if IS_SANITIZED:  # in which PyTorch crashes: as if it was not installed
        sys.modules["torch"] = None  # type: ignore[assignment]
    # A shell starts background jobs with Ctrl-C ignored, and they pass that on: then the programs
    # that the tests interrupt would not notice.
    signal.signal(signal.SIGINT, signal.default_int_handler)


EXCUSED = (
    "this CPU lacks",
    "sanitizers change",  # the plain build tests it
    "training only",  # PyTorch
    "interop only",  # PyTorch, scikit-learn, Keras: `make test-interop` has them
)


# Of two processes neither should be alone with these at the end.
LONGEST = ("test_harness", "test_attacks", "test_packaging", "test_embedding", "test_ccode")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.stem not in LONGEST)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Iterator[None]:
    report = yield
    reason = str(report.longrepr)
    is_missing = report.skipped and "NOT TESTED" in reason
    is_strict = os.environ.get("FASTNN_STRICT") == "1"
    if is_strict and is_missing and not any(excuse in reason for excuse in EXCUSED):
        report.outcome, report.longrepr = "failed", f"FASTNN_STRICT=1: {reason}"
    return report


@pytest.fixture(scope="session")
def mnist_path() -> Path:
    """The folder of the four MNIST files, named by FASTNN_MNIST."""
    named = os.environ.get("FASTNN_MNIST")
    if named:
        return Path(named)
    pytest.skip("NOT TESTED: needs MNIST, FASTNN_MNIST is not set")
