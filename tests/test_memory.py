"""Memory: predict(out=) allocates nothing after the first call, and nothing grows.

Invariant: allocations are counted by a library loaded before libc's, built here from a few lines.
"""

import os
import shutil
import subprocess
import sys

import pytest
from oracle import IS_SANITIZED
from test_threads import SET_UP, run_child

pytestmark = pytest.mark.skipif(
    IS_SANITIZED, reason="NOT TESTED: sanitizers change how memory is used"
)

COUNTER = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stddef.h>
#include <sys/mman.h>
static long n_allocations;
long count(void) { return __atomic_load_n(&n_allocations, __ATOMIC_RELAXED); }
#define COUNT __atomic_fetch_add(&n_allocations, 1, __ATOMIC_RELAXED)
extern void *__libc_malloc(size_t), *__libc_calloc(size_t, size_t), *__libc_realloc(void *, size_t);
extern void *__libc_memalign(size_t, size_t);
void *malloc(size_t n) { COUNT; return __libc_malloc(n); }
void *calloc(size_t n, size_t m) { COUNT; return __libc_calloc(n, m); }
void *realloc(void *p, size_t n) { COUNT; return __libc_realloc(p, n); }
void *memalign(size_t a, size_t n) { COUNT; return __libc_memalign(a, n); }
void *aligned_alloc(size_t a, size_t n) { COUNT; return __libc_memalign(a, n); }
int posix_memalign(void **p, size_t a, size_t n)
{
    COUNT;
    *p = __libc_memalign(a, n);
    return *p ? 0 : ENOMEM;
}
void *mmap(void *p, size_t n, int prot, int flags, int fd, off_t at)
{
    static void *(*next)(void *, size_t, int, int, int, off_t);
    COUNT;
    if (!next) next = (void *(*)(void *, size_t, int, int, int, off_t))dlsym(RTLD_NEXT, "mmap");
    return next(p, n, prot, flags, fd, at);
}
"""

COUNTING = """
import ctypes
count = ctypes.CDLL(None).count
count.restype = ctypes.c_long
def allocations(call, n=300):
    for _ in range(50):
        call()
    before = count()
    for _ in range(n):
        call()
    return count() - before
held = []
assert allocations(lambda: held.append(bytearray(100_000))) >= 300  # the counter counts
floats, pixels = x, (x > 0).astype(np.uint8)
labels, outputs = np.empty(1000, np.int64), np.empty((1000, 10), np.float32)
nothing = allocations(lambda: None)
def check(what, call, most=0):
    n = allocations(call)
    assert n <= nothing + most, f"{what}: {n} allocations, {nothing} by an empty call"
for rows in floats, pixels:
    for m in 1, 7, 1000:
        check("predict", lambda: network.predict(rows[:m], out=labels[:m], threads=1))
        check("forward", lambda: network.forward(rows[:m], out=outputs[:m], threads=1))
    check("threads=None", lambda: network.predict(rows[:1], out=labels[:1]))
    # A pool thread has its first call when it first wakes in time: at most one workspace each.
    check("threads", lambda: network.predict(rows, out=labels, threads=4), 4)
"""


def test_no_allocation_after_the_first_call(tmp_path):
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("NOT TESTED: needs a C compiler")
    (tmp_path / "counter.c").write_text(COUNTER)
    library = tmp_path / "counter.so"
    command = [compiler, "-O1", "-shared", "-fPIC", tmp_path / "counter.c", "-o", library, "-ldl"]
    subprocess.run(command, check=True)
    environment = {**os.environ, "LD_PRELOAD": str(library)}
    done = subprocess.run(
        [sys.executable, "-c", SET_UP + COUNTING],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_nothing_grows():
    """At most 1 MiB more after 100,000 calls of each kind."""
    script = """
row = x[:1]
def many(n):
    for _ in range(n):
        network.predict(row)
        network.forward(row)
    for _ in range(n // 1000):
        network.predict(x, threads=2)
        network.top_k(x, 3)
        network.trace(x[:5])
        try:
            network.predict(row[:, 1:])
        except ValueError:
            pass
many(5_000)
before = resident()
many(100_000)
grown = resident() - before
assert grown <= 1 << 20, f"{grown} bytes more"
"""
    run_child(SET_UP + script)
