"""tests/c: the C harness passes here, and for aarch64 under qemu with the same hashes.

The quick run, for `make test`; `make harness` and `make test-neon` run all of it, and
`make harness-sanitized` under the sanitizers.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fastnn import _core

ROOT = Path(__file__).resolve().parent.parent

pytestmark = pytest.mark.skipif(
    _core.build_info()["mode"] == "sanitize", reason="tested by `make harness-sanitized`"
)


@pytest.mark.parametrize(
    "arguments", [("native", "quick"), ("native", "planted"), ("neon", "quick")]
)
def test_harness(arguments):
    environment = {**os.environ, "FASTNN_STRICT": "0"}
    done = subprocess.run(
        [sys.executable, "tools/harness.py", *arguments],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    if done.stdout.startswith("NOT TESTED: "):
        pytest.skip(done.stdout.strip())
