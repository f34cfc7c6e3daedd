"""The ONNX project's own tests of operators, through backend.py.

Invariant: onnx_backend.txt lists what must pass. Everything else must be refused with a `LoadError`
(or have inputs that are no tensors): nothing may fail, and nothing may crash. The same file says of
the refused ones why, operators that fastnn does not have counted together.

To write the list anew:  python -m interop.test_backend > interop/onnx_backend.txt
"""

import re
import unittest
import warnings
from collections import Counter
from pathlib import Path

LIST = Path(__file__).with_name("onnx_backend.txt")


def outcomes():
    """(name, "pass" | "refused: reason" | "FAILED: traceback") of every test but downloads."""
    from onnx.backend.test import BackendTest

    from interop.backend import FastnnBackend

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cases = BackendTest(FastnnBackend, __name__).test_cases
        for category, tests in sorted(cases.items()):
            if "Real" in category:  # large networks of convolutions, to be fetched
                continue
            for name in sorted(dir(tests)):
                if name.startswith("test_") and name.endswith("_cpu"):
                    FastnnBackend.refusal = None
                    result = unittest.TestResult()
                    tests(name).run(result)
                    wrong = [text for _, text in result.errors + result.failures]
                    outcome = f"refused: {FastnnBackend.refusal}" * bool(FastnnBackend.refusal)
                    yield name[5:-4], f"FAILED: {wrong[0]}" if wrong else outcome or "pass"


def passing():
    return set(re.findall(r"^pass (\S+)$", LIST.read_text(), re.MULTILINE))


def test_what_is_supported_passes_and_the_rest_is_refused(ran, listed):
    found = dict(outcomes())
    assert len(found) > 1000
    failed = {name: text for name, text in found.items() if text.startswith("FAILED")}
    assert not failed, "\n".join(f"{name}: {text}" for name, text in failed.items())
    passed = {name for name, outcome in found.items() if outcome == "pass"}
    lost = passing() & found.keys() - passed
    assert not lost, f"refused, but listed as passing: {sorted(lost)}"
    new = passed - passing()
    assert not new, f"passing, but not listed: {sorted(new)}"
    assert len(passed) > 150
    for _ in passed:
        ran("ONNX backend tests")
    listed.append(f"ONNX backend tests: {len(found) - len(passed)} refused (onnx_backend.txt)")


def main():
    found = dict(outcomes())
    for name, outcome in found.items():
        if outcome == "pass":
            print("pass", name)
    operators = Counter()
    for name, outcome in found.items():
        missing = re.search(
            r"operators that make a dense network: .* found node \S+ \((\w+)", outcome
        )
        if missing:
            operators[missing[1]] += 1
        elif outcome != "pass":
            reason = outcome.removeprefix("refused: from_onnx: ONNX: ").removeprefix("refused: ")
            print(f"{name}: {reason.splitlines()[0]}")
    for name, n in sorted(operators.items()):
        print(f"the operator {name}: {n}")


if __name__ == "__main__":
    main()
