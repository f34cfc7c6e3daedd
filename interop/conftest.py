"""How many cases ran, by suite. A run fails where a suite had none, or left out 1 % of its rows."""

from collections import Counter

import pytest

SUITES = (
    "torch dynamo=False", "torch dynamo=True", "scikit-learn", "keras", "ONNX Runtime int8",
    "written files", "ONNX backend tests",
)  # fmt: skip
MOST_LEFT_OUT = 0.01

RAN: Counter[str] = Counter()
LEFT_OUT: Counter[str] = Counter()
ROWS: Counter[str] = Counter()
LISTED: list[str] = []


def pytest_addoption(parser):
    parser.addoption("--full", action="store_true", help="all cases, not a sample")


def pytest_generate_tests(metafunc):
    if "case" in metafunc.fixturenames:
        sample, full = metafunc.module.N_CASES
        n = full if metafunc.config.getoption("--full") else sample
        metafunc.parametrize("case", range(n))


@pytest.fixture
def ran():
    """Call it with the name of the suite (and rows, and how many of them were left out)."""

    def count(suite, rows=0, left_out=0):
        RAN[suite] += 1
        ROWS[suite] += rows
        LEFT_OUT[suite] += left_out

    return count


@pytest.fixture(scope="session")
def listed():
    """Lines for the end of the report."""
    return LISTED


def pytest_terminal_summary(terminalreporter, config):
    for line in LISTED:
        terminalreporter.write_line(line)
    for suite, n in sorted(RAN.items()):
        rows = f", {ROWS[suite]} rows, {LEFT_OUT[suite]} of them left out" * bool(ROWS[suite])
        terminalreporter.write_line(f"{suite}: {n} cases{rows}")


def problems(ran, rows, left_out):
    """What a run of all lacks: suites without a case, or that left out too many of their rows."""
    found = [f"no case ran of: {suite}" for suite in SUITES if not ran[suite]]
    return found + [
        f"{suite}: {left_out[suite]} of {n} rows were left out, wanted under {MOST_LEFT_OUT:.0%}"
        for suite, n in rows.items()
        if left_out[suite] and left_out[suite] >= MOST_LEFT_OUT * n  # some compare no rows
    ]


def pytest_sessionfinish(session, exitstatus):
    if exitstatus != 0 or session.config.option.collectonly or session.config.option.keyword:
        return
    if found := problems(RAN, ROWS, LEFT_OUT):
        print("\n" + "\n".join(found))
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
