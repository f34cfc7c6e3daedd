"""Fixtures shared by all tests.

Invariant: what cannot be tested on this machine says so with a reason that begins "NOT TESTED: ",
and fails instead when FASTNN_STRICT=1.
"""

import os
import signal
from pathlib import Path

import pytest


def pytest_configure() -> None:
    # A shell starts background jobs with Ctrl-C ignored, and they pass that on: then the programs
    # that the tests interrupt would not notice.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def mnist_path() -> Path:
    """The folder of the four MNIST files, named by FASTNN_MNIST."""
    named = os.environ.get("FASTNN_MNIST")
    if named:
        return Path(named)
    reason = "NOT TESTED: needs MNIST, FASTNN_MNIST is not set"
    if os.environ.get("FASTNN_STRICT") == "1":
        pytest.fail(reason)
    pytest.skip(reason)
