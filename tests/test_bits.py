"""Same row, same bits: whatever the ISA, batch, place in it, threads, skipping or caller's mode.

Invariant: compares bits, never closeness. That the comparison can fail is shown on a planted kernel
that splits K.
"""

import ctypes
import shutil
import subprocess

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import (
    AVAILABLE,
    assert_same_bits,
    chain,
    dense,
    each_isa,
    generator,
    mixed_rows,
    pixel_rows,
)

import fastnn
from fastnn import _core


def make_layers(rng, sizes, activations):
    return [
        dense(rng, k, n, name) for k, n, name in zip(sizes, sizes[1:], activations, strict=False)
    ]


@pytest.fixture(scope="module")
def layers():
    return make_layers(generator(1), (64, 48, 20, 10), ("relu", "gelu", "softmax"))


@pytest.fixture(scope="module")
def rows():
    return mixed_rows(generator(2), 257, 64), pixel_rows(generator(3), 257, 64)


@each_isa
def test_batches(isa, layers, rows):
    """Each batch of 1..257 rows, rows moving in it, equals the scalar kernel's one by one."""
    alone = _core.Network(layers, isa="scalar")
    network = _core.Network(layers, isa=isa)
    for x in rows:
        want = np.concatenate([alone.forward(row[None]) for row in x])
        for m in range(1, 258):
            assert_same_bits(network.forward(x[257 - m :]), want[257 - m :], f"{m} rows")


@each_isa
def test_places(isa, layers, rows):
    order = generator(4).permutation(257)
    network = _core.Network(layers, isa=isa)
    for x in rows:
        assert_same_bits(network.forward(x[order]), network.forward(x)[order])


@each_isa
@pytest.mark.parametrize("name", ["mnist-small", "mnist-sigmoid", "mnist-linear"])
def test_digits(isa, name):
    """Real digits, as pixels and as floats with a poisoned row, on every ISA as on scalar."""
    images, _ = fastnn.mnist.sample()
    pixels = images[::4].reshape(-1, 784)
    floats = (pixels / np.float32(255)).astype(np.float32)
    floats[7, 300], floats[8, 1], floats[9] = np.nan, np.inf, -0.0
    for x in (pixels, floats):
        want = fastnn.load(name, isa="scalar").forward(x)
        model = fastnn.load(name, isa=isa)
        assert_same_bits(model.forward(x), want)
        for m in (1, 2, 11, 100):
            assert_same_bits(model.forward(x[:m]), want[:m])


@each_isa
def test_threads(isa):
    """1..8 threads give the same bits, and the counter proves that two or more really worked."""
    rng = generator(5)
    layers = make_layers(rng, (100, 310, 10), ("relu", "softmax"))
    x = mixed_rows(rng, 300, 100)
    network = _core.Network(layers, isa=isa)
    want = network.forward(x, threads=1)
    for threads in range(1, 9):
        assert_same_bits(network.forward(x, threads=threads), want, f"{threads} threads")
        assert network._work(x, threads=threads)["n_threads"] <= threads
    assert network._work(x, threads=1)["n_threads"] == 1
    # On a busy machine the caller may have done all before another thread woke.
    many = np.tile(x, (20, 1))
    counts = (network._work(many, threads=8)["n_threads"] for _ in range(100))
    assert any(count >= 2 for count in counts)
    assert_same_bits(network.forward(many, threads=8), np.tile(want, (20, 1)))


@each_isa
def test_skipping(isa, layers, rows, monkeypatch):
    skips = _core.Network(layers, isa=isa)
    monkeypatch.setenv("FASTNN_SKIP", "0")  # read when a network is made
    keeps = _core.Network(layers, isa=isa)
    monkeypatch.delenv("FASTNN_SKIP")
    for x in rows:
        for m in (1, 2, 7, 257):
            assert_same_bits(skips.forward(x[:m]), keeps.forward(x[:m]), f"{m} rows")
            all_of_them, some = keeps._work(x[:m]), skips._work(x[:m])
            dense_count = m * (64 * 48 + 48 * 20 + 20 * 10)
            assert all_of_them["executed"] == all_of_them["effective"] == dense_count
            assert some["effective"] == dense_count
            assert some["executed"] < dense_count
    nothing = skips._work(np.zeros((3, 64), np.float32))
    assert nothing["executed"] <= 3 * (48 * 20 + 20 * 10)


def test_a_planted_split_k_is_caught():
    """A sum in two halves is as accurate as the chain, and the comparison convicts it."""
    rng = generator(6)
    layer, x = dense(rng, 64, 10), mixed_rows(rng, 16, 64)
    halves = chain(x[:, :32], layer.weight[:32], layer.bias)
    halves += chain(x[:, 32:], layer.weight[32:], np.zeros(10, np.float32))
    got = _core.Network([layer]).forward(x)
    assert_same_bits(got, chain(x, layer.weight, layer.bias))
    with pytest.raises(pytest.fail.Exception, match="differ"):
        assert_same_bits(got, halves)


HIDDEN = [name for name, about in _core.activations().items() if not about["last_layer_only"]]


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 80), min_size=2, max_size=5),
    names=st.lists(st.sampled_from(HIDDEN), min_size=4, max_size=4),
    last=st.sampled_from(list(_core.activations())),
    n_rows=st.integers(1, 60),
    seed=st.integers(0, 2**32),
)
def test_random_networks(sizes, names, last, n_rows, seed):
    rng = generator(seed)
    names = [*names[: len(sizes) - 2], last]
    layers = [
        dense(rng, k, n, name, **({"lo": -0.5, "hi": 0.75} if name == "clip" else {}))
        for k, n, name in zip(sizes, sizes[1:], names, strict=False)
    ]
    alone = _core.Network(layers, isa="scalar")
    for x in (mixed_rows(rng, n_rows, sizes[0]), pixel_rows(rng, n_rows, sizes[0])):
        want = np.concatenate([alone.forward(row[None]) for row in x])
        labels = alone.predict(x)
        for isa in AVAILABLE:
            network = _core.Network(layers, isa=isa)
            assert_same_bits(network.forward(x), want, isa)
            assert_same_bits(network.trace(x)[-1][1].reshape(want.shape), want, isa)
            assert (network.predict(x) == labels).all()


FP_MODE = """
#include <stdint.h>
#if defined(__x86_64__)
#include <xmmintrin.h>
uint64_t fp_mode(void) { return _mm_getcsr() & ~0x3fu; } /* without the sticky flags */
void set_fp_mode(uint64_t mode) { _mm_setcsr((unsigned)mode); }
uint64_t flushing(void) { return 0x8040; } /* flush to zero, denormals are zero */
#else
uint64_t fp_mode(void)
{
    uint64_t mode;
    __asm__ volatile("mrs %0, fpcr" : "=r"(mode));
    return mode;
}
void set_fp_mode(uint64_t mode) { __asm__ volatile("msr fpcr, %0" : : "r"(mode)); }
uint64_t flushing(void) { return 1 << 24; }
#endif
"""


@pytest.fixture(scope="module")
def fp(tmp_path_factory):
    """Functions that read and set this thread's floating-point mode."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("NOT TESTED: needs a C compiler")
    folder = tmp_path_factory.mktemp("fp")
    (folder / "fp.c").write_text(FP_MODE)
    library = folder / "fp.so"
    subprocess.run([compiler, "-shared", "-fPIC", folder / "fp.c", "-o", library], check=True)
    functions = ctypes.CDLL(str(library))
    functions.fp_mode.restype = functions.flushing.restype = ctypes.c_uint64
    functions.set_fp_mode.argtypes = [ctypes.c_uint64]
    return functions


@each_isa
def test_a_caller_that_flushes_subnormals(isa, fp):
    """Its mode is kept and not used, not even by pool threads that a call of its starts."""
    rng = generator(7)
    layers = make_layers(rng, (60, 510, 3), ("relu", "identity"))
    x = mixed_rows(rng, 400, 60)
    x[:200] *= np.float32(1e-38)
    # Without a bias the first layer's sums are subnormal, and so are the weights that count.
    small = fastnn.Dense(layers[0].weight, np.zeros(510), "relu")
    network = _core.Network([small, layers[1]], isa=isa)
    single = _core.Network([small], isa=isa)
    want, want_single = network.forward(x, threads=1), single.forward(x, threads=1)
    is_subnormal = (np.abs(want_single) < 2.0**-126) & (want_single != 0)
    assert is_subnormal.any()
    usual = fp.fp_mode()
    threads = 20 + 10 * AVAILABLE.index(isa)  # more than before, so that some are new
    try:
        fp.set_fp_mode(usual | fp.flushing())
        asked = fp.fp_mode()
        got = [network.forward(x, threads=n) for n in (1, threads)]
        singles = [single.forward(x, threads=n) for n in (1, threads)]
        after = fp.fp_mode()
    finally:
        fp.set_fp_mode(usual)
    assert asked != usual
    assert after == asked
    for y, y_single in zip(got, singles, strict=True):
        assert_same_bits(y, want)
        assert_same_bits(y_single, want_single)


@each_isa
def test_blocks_of_several_tiles(isa):
    """Weights beyond L2: blocks of many tiles, packed inputs and K in pieces. Rows one by one go
    another way, the scalar kernel a third."""
    rng = generator(12)
    sizes = (900, 1100, 1030, 21)  # 8.3 MB
    layers = [dense(rng, *pair, "relu") for pair in zip(sizes, sizes[1:], strict=False)]
    x = mixed_rows(rng, 83, sizes[0])
    pixels = rng.integers(0, 256, (83, sizes[0]), np.uint8) * (rng.random((83, sizes[0])) < 0.5)
    network = _core.Network(layers, isa=isa)
    for rows in (x, pixels.astype(np.uint8)):
        want = _core.Network(layers, isa="scalar").decision_function(rows[:9], threads=1)
        found = network.decision_function(rows, threads=1)
        assert_same_bits(found[:9], want)
        assert_same_bits(
            np.concatenate([network.decision_function(row[None]) for row in rows]), found
        )
        for m in (12, 13, 24, 47, 82):
            assert_same_bits(network.decision_function(rows[:m]), found[:m])


@each_isa
def test_order(isa):
    """Rows that are alike share tiles: less to do, and every row keeps its bits and its place."""
    pixels = fastnn.mnist.sample()[0].reshape(-1, 784)[generator(8).permutation(1000)]
    floats = (pixels / np.float32(255)).astype(np.float32)
    model = fastnn.load("mnist-small", isa=isa)
    for x in (pixels, floats):
        alone = np.concatenate([model.forward(x[i : i + 1]) for i in range(300)])
        labels, scores = (np.concatenate(part) for part in zip(
            *(model.top_k(x[i : i + 1], 3) for i in range(300)), strict=True))  # fmt: skip
        for m in (17, 64, 127, 128, 129, 300):
            assert_same_bits(model.forward(x[:m]), alone[:m], f"{m} rows")
            assert_same_bits(model.forward(x[300 - m : 300][::-1]), alone[300 - m :][::-1])
        for got, want in zip(model.top_k(x[:300], 3), (labels, scores), strict=True):
            assert_same_bits(got, want)
        # Tile by tile there is nothing to put in order.
        mr = model.kernels[0]["mr"]
        n = 1000 // mr * mr
        in_order = model._work(x[:n])["executed"]
        as_given = sum(model._work(x[i : i + mr])["executed"] for i in range(0, n, mr))
        assert in_order < 0.96 * as_given
