"""Fuzzing of the readers, by atheris (libFuzzer for Python): `python -m fuzz .npz`, `make fuzz`.

    targets.py    what is done with a file: load it, and if that works, predict and check
    mutate.py     how a file becomes another that is not refused at its first byte
    __main__.py   the command
    lines.py      which lines of the readers all that reaches: `python -m fuzz.lines`
    found/        files that once did harm, by suffix; tests/test_fuzz.py feeds them to the readers

Invariant: an input is a file of the format, so what is found can be kept, looked at and replayed
without atheris. Seeds are those of tests/attacks. docs/fuzzing.md has the runs so far.
"""

import sys
from pathlib import Path

_TESTS = str(Path(__file__).resolve().parent.parent / "tests")  # whose attacks are the seeds
if _TESTS not in sys.path:
    sys.path.append(_TESTS)
