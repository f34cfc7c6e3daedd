"""Threads: one model shared by many, the pool busy or small, signals, the GIL.

Invariant: what hangs is a child process that a timeout ends.
"""

import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from oracle import IS_SANITIZED, assert_same_bits, dense, generator, mixed_rows

from fastnn import _core


def run_child(script, timeout=120):
    """Run a script in a fresh interpreter; its output."""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=timeout, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def make_network(n_inputs=100, n_hidden=310):
    rng = generator(1)
    layers = [dense(rng, n_inputs, n_hidden, "relu"), dense(rng, n_hidden, 10, "softmax")]
    return _core.Network(layers)


def test_sixteen_threads_share_a_model():
    network = make_network()
    batches = [mixed_rows(generator(i), m, 100) for i, m in enumerate([1, 2, 13, 64, 300, 900])]
    want = [network.forward(x, threads=1) for x in batches]
    barrier = threading.Barrier(16)

    def work(number):
        barrier.wait()
        for turn in range(30):
            at = (number + turn) % len(batches)
            got = network.forward(batches[at], threads=1 + number % 3)
            assert_same_bits(got, want[at], f"thread {number} turn {turn}")
        return number

    with ThreadPoolExecutor(16) as pool:
        assert sorted(pool.map(work, range(16))) == list(range(16))


def test_a_busy_pool_runs_inline():
    network = make_network()
    x = mixed_rows(generator(2), 20_000, 100)
    small = x[:1000]
    want = network.forward(small, threads=1)
    is_over = threading.Event()
    n_theirs = 0  # the two calls may fall in step, with this one always the one that is late

    def keep_busy():
        nonlocal n_theirs
        while not is_over.is_set():
            n_theirs += network._work(x, threads=2)["n_threads"] == 1

    other = threading.Thread(target=keep_busy)
    other.start()
    try:
        deadline = time.monotonic() + 20
        n_inline = 0
        while n_inline + n_theirs == 0 and time.monotonic() < deadline:
            assert_same_bits(network.forward(small, threads=2), want)
            n_inline += network._work(small, threads=2)["n_threads"] == 1
    finally:
        is_over.set()
        other.join()
    assert n_inline + n_theirs > 0


SET_UP = """
import os, sys, time, threading
import numpy as np
from fastnn import Dense, _core
rng = np.random.default_rng(0)
layers = [Dense(rng.standard_normal((100, 310)), np.zeros(310), "relu"),
          Dense(rng.standard_normal((310, 10)), np.zeros(10), "softmax")]
network = _core.Network(layers)
x = rng.standard_normal((1000, 100)).astype(np.float32)
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGESIZE")
"""


def test_threads_above_the_cpu_count_are_honoured():
    script = """
before = len(os.listdir("/proc/self/task"))
network.forward(x, threads=1)
assert len(os.listdir("/proc/self/task")) == before
network.forward(x, threads=24)
assert len(os.listdir("/proc/self/task")) == before + 23
network.forward(x, threads=2)  # the pool never shrinks, nor grows without need
assert len(os.listdir("/proc/self/task")) == before + 23
"""
    run_child(SET_UP + script)


def test_a_small_call_never_splits():
    network = make_network()
    assert network._work(np.ones((1, 100), np.float32), threads=8)["n_threads"] == 1
    assert network._work(np.ones((3, 100), np.float32), threads=8)["n_threads"] == 1


@pytest.mark.skipif(IS_SANITIZED, reason="NOT TESTED: sanitizers change how memory is used")
def test_short_lived_threads_leave_nothing():
    script = """
def some(n):
    for _ in range(n):
        thread = threading.Thread(target=network.forward, args=(x[:20],))
        thread.start()
        thread.join()
some(200)
before = resident()
some(1000)
grown = resident() - before
assert grown <= 1 << 20, f"{grown} bytes more"
"""
    run_child(SET_UP + script)


NETWORKS = {
    "plain": "network",
    "tiny": "_core.Network([layer(2, 2, 'tanh'), layer(2, 1, 'sigmoid')])",
    "activation": "_core.Network([layer(1, 256, 'gelu')])",
    "scalar": "_core.Network([layer(100, 700, 'relu')], isa='scalar')",
}


@pytest.mark.parametrize(
    ("kind", "threads"),
    [("plain", 1), ("plain", 2), ("plain", 16), ("tiny", 1), ("activation", 1), ("scalar", 1)],
)
def test_interrupt_returns_soon(kind, threads):
    """Ctrl-C in a call of many seconds; the best of three, as the machine may be busy."""
    script = f"""
def layer(n_inputs, n_outputs, activation):
    return Dense(rng.standard_normal((n_inputs, n_outputs)), np.zeros(n_outputs), activation)
network = {NETWORKS[kind]}
x = np.ones((1000, network.n_inputs), np.float32)
import signal
def interrupt():
    global sent
    time.sleep(0.3)
    sent = time.monotonic()
    os.kill(os.getpid(), signal.SIGINT)
large = np.broadcast_to(x[:1], (3_000_000, network.n_inputs))
out = np.empty(len(large), np.int64)
for attempt in range(3):
    threading.Thread(target=interrupt).start()
    try:
        while True:
            network.predict(large, out=out, threads={threads})
    except KeyboardInterrupt:
        print(time.monotonic() - sent)
assert network.predict(x).shape == (1000,)  # and the model works on
"""
    delays = [float(line) for line in run_child(SET_UP + script).split()]
    assert len(delays) == 3
    assert min(delays) < (2 if IS_SANITIZED else 0.2), delays


def test_the_gil_is_released():
    """Another thread counts while a long call runs; it could not, did the call hold the GIL."""
    network = make_network()
    x = np.broadcast_to(mixed_rows(generator(3), 1, 100), (200_000, 100))
    is_over = threading.Event()
    n_steps = 0

    def count():
        nonlocal n_steps
        while not is_over.is_set():
            n_steps += 1
            time.sleep(0.0005)

    other = threading.Thread(target=count)
    other.start()
    try:
        time.sleep(0.01)
        before, start = n_steps, time.monotonic()
        network.predict(x, threads=1)
        seconds, during = time.monotonic() - start, n_steps - before
    finally:
        is_over.set()
        other.join()
    assert during > max(3, 20 * seconds), (during, seconds)


@pytest.mark.parametrize("n_inputs", [64, 3000])
def test_a_signal_handler_may_predict(n_inputs: int) -> None:
    """Handlers run inside a call, between two of its tiles, on its thread: not in its workspace."""
    rng = generator(31)
    sizes = (512, 512, 512, 10)
    large = _core.Network(
        [dense(rng, *pair, "relu") for pair in zip(sizes, sizes[1:], strict=False)]
    )
    other = _core.Network([dense(rng, n_inputs, 700, "relu")])
    x = rng.standard_normal((20_000, 512), np.float32)
    rows = rng.standard_normal((8 if IS_SANITIZED else 40, n_inputs), np.float32)
    want, want_other = large.forward(x, threads=1), other.forward(rows, threads=1)
    answers = []

    def interrupt(*_: object) -> None:
        answers.append(other.forward(rows, threads=1))
        signal.setitimer(signal.ITIMER_REAL, 0.005)  # again, now: a handler must not meet the next

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.005)
        found = [large.forward(x, threads=1) for _ in range(3)]
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert answers
    for answer in found:
        assert_same_bits(answer, want)
    for answer in answers:
        assert_same_bits(answer, want_other)
