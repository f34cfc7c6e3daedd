"""interop/: when a run of all suites counts as failed, beside the failures of its tests."""

from collections import Counter

from interop.conftest import SUITES, problems


def test_what_a_run_lacks():
    ran = Counter(dict.fromkeys(SUITES, 6))
    rows = Counter(dict.fromkeys(SUITES[:4], 300) | dict.fromkeys(SUITES[4:], 0))
    assert problems(ran, rows, Counter(dict.fromkeys(SUITES, 0))) == []
    assert problems(ran, rows, Counter({SUITES[0]: 2})) == []
    (found,) = problems(ran, rows, Counter({SUITES[0]: 3}))
    assert found == f"{SUITES[0]}: 3 of 300 rows were left out, wanted under 1%"
    assert problems(ran, rows, Counter({SUITES[-1]: 1}))
    assert problems(ran - Counter({SUITES[2]: 6}), rows, Counter()) == [
        f"no case ran of: {SUITES[2]}"
    ]
