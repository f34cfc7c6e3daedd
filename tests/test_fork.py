"""Fork: parent, child and grandchild predict with threads, again and again, and none hangs.

Invariant: in a fresh interpreter, which a timeout ends.
"""

import pytest
from oracle import IS_SANITIZED
from test_threads import SET_UP, run_child

FORKS = """
import warnings
warnings.simplefilter("ignore", DeprecationWarning)  # of forking with threads: the very point
want = network.forward(x, threads=1)
def check():
    assert (network.forward(x, threads=4).view(np.int32) == want.view(np.int32)).all()
def in_child(then):
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            then()
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(pid, 0)[1] == 0
"""


def test_fifty_rounds():
    script = """
def child():
    check()
    in_child(check)
    check()
for _ in range(50):
    check()
    in_child(child)
"""
    run_child(SET_UP + FORKS + script)


@pytest.mark.skipif(
    IS_SANITIZED,
    reason="NOT TESTED: sanitizers change malloc, whose lock (gcc 12) a fork leaves held for ever",
)
def test_fork_while_another_thread_has_the_pool():
    script = """
is_over = threading.Event()
def keep_busy():
    while not is_over.is_set():
        network.forward(x, threads=4)
other = threading.Thread(target=keep_busy)
other.start()
try:
    for _ in range(30):
        in_child(check)
finally:
    is_over.set()
    other.join()
check()
"""
    run_child(SET_UP + FORKS + script)


def test_a_child_of_a_parent_without_a_pool():
    run_child(SET_UP + FORKS + "in_child(check)\ncheck()\n")
