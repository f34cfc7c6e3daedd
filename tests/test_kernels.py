"""Every kernel over a grid of shapes and layouts, against a chain of fused multiply-adds in NumPy.

Invariant: kernels are taken from the engine's own list, so a new one is tested when it exists; a
grid that ran no case fails. The C harness (tests/c) walks the same grid between guard pages.
"""

from fractions import Fraction

import numpy as np
import pytest
from oracle import (
    AVAILABLE,
    IS_SANITIZED,
    assert_same_bits,
    available,
    chain,
    dense,
    each_isa,
    fused_multiply_add,
    generator,
    mixed_rows,
    pixel_rows,
)

from fastnn import _core

MOST_ROWS = 16
SMALL = [(n, k) for n in range(1, 41) for k in range(1, 71)]
WIDE = [
    (n, k)
    for n in (63, 64, 65, 127, 128, 129, 255, 256, 257, 287, 289, 511, 512, 513)
    for k in (1, 3, 4, 5, 64, 127, 784)
]
DEEP = [(n, k) for n in (1, 8, 33, 100) for k in (1024, 4099)]  # K = 0 is no Dense: see tests/c
if IS_SANITIZED:
    SMALL, WIDE, DEEP = SMALL[::7], WIDE[::5], DEEP[::4]


def test_the_oracle_rounds_once():
    rng = generator(0)
    a, b = (np.float32(rng.standard_normal(500)) for _ in range(2))
    c = np.float32(-a * b * rng.choice([0, 1, 1 + 2**-20, 3], 500))
    got = fused_multiply_add(a, b, c)
    for i in range(500):
        exact = Fraction(float(a[i])) * Fraction(float(b[i])) + Fraction(float(c[i]))
        for neighbour in (-np.inf, np.inf):
            other = Fraction(float(np.nextafter(got[i], np.float32(neighbour))))
            assert abs(Fraction(float(got[i])) - exact) <= abs(other - exact)


def test_one_kernel_of_each_format_is_chosen(monkeypatch):
    """The best that this CPU has, but for AMX, which has to be named."""
    for isa in ("", *_core.isas()):
        monkeypatch.setenv("FASTNN_ISA", isa)
        chosen = [(k["format"], k["isa"]) for k in _core.kernels() if k["is_chosen"]]
        assert sorted(name for name, _ in chosen) == ["bf16", "f32", "i8"]
        if isa in ("", "amx"):
            best = [a for a in available("i8") if a != "amx" or isa]
            assert dict(chosen) == {
                "bf16": available("bf16")[0], "f32": available("f32")[0], "i8": best[0]
            }  # fmt: skip
        if isa == "scalar":
            assert {kernel for _, kernel in chosen} == {"scalar"}


def test_there_are_kernels():
    assert "scalar" in AVAILABLE
    for number_format in {kernel["format"] for kernel in _core.kernels()}:
        assert "scalar" in available(number_format)


def assert_is_near(z, x, layer):
    """|error| <= (K + 2) 2^-24 (|bias| + sum |x w|), where nothing is NaN or infinite."""
    x, w = x.astype(np.float64), layer.weight.astype(np.float64)
    is_clean = np.isfinite(x).all(axis=1)
    exact = x[is_clean] @ w + layer.bias
    magnitude = np.abs(x[is_clean]) @ np.abs(w) + np.abs(layer.bias)
    bound = (len(w) + 2) * (2.0**-24 * magnitude + 2.0**-149)
    assert (np.abs(z[is_clean] - exact) <= bound).all()


@pytest.mark.parametrize(
    ("shapes", "n_rows"),
    [(SMALL, range(1, MOST_ROWS + 1)), (WIDE, range(1, MOST_ROWS + 1)), (DEEP, (1, 4, 13))],
    ids=["small", "wide", "deep"],
)
def test_grid(shapes, n_rows):
    """One oracle a shape, shared by all kernels and row counts: a row's bits are its own."""
    n_cases = 0
    for n, k in shapes:
        rng = generator(n, k)
        layer = dense(rng, k, n, "relu")
        inputs = mixed_rows(rng, MOST_ROWS, k), pixel_rows(rng, MOST_ROWS, k)
        want = [chain(x, layer.weight, layer.bias) for x in inputs]
        for x, z in zip(inputs, want, strict=True):
            assert_is_near(z, x, layer)
        clipped = [np.where(z <= 0, np.float32(0), z) for z in want]
        for isa in AVAILABLE:
            network = _core.Network([layer], isa=isa)
            assert network.kernels[0]["isa"] == isa
            for m in n_rows:
                # Rows of float32 and of uint8, z and activation, in turn.
                is_u8, x = m % 2, inputs[m % 2][:m]
                if (m + n) % 4 < 2:
                    got, z = network.decision_function(x), want[is_u8][:m]
                else:
                    got, z = network.forward(x), clipped[is_u8][:m]
                assert_same_bits(got.reshape(z.shape), z, f"{isa} M={m} N={n} K={k} u8={is_u8}")
                n_cases += 1
    assert n_cases == len(shapes) * len(n_rows) * len(AVAILABLE)
    assert n_cases > 0


LAYOUTS = {
    "contiguous": lambda x: x,
    "fortran": np.asfortranarray,
    "wide rows": lambda x: np.pad(x, [(0, 0), (0, 5)])[:, : x.shape[1]],
    "every second row": lambda x: np.repeat(x, 2, axis=0)[::2],
    "every third column": lambda x: np.repeat(x, 3, axis=1)[:, ::3],
    "rows reversed": lambda x: x[::-1].copy()[::-1],
    "columns reversed": lambda x: x[:, ::-1].copy()[:, ::-1],
    "both reversed": lambda x: x[::-1, ::-1].copy()[::-1, ::-1],
    "one row many times": lambda x: np.broadcast_to(x[0], x.shape),
    "read-only": lambda x: np.frombuffer(x.tobytes(), x.dtype).reshape(x.shape),
}


@each_isa
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("make", [mixed_rows, pixel_rows])
def test_layouts(isa, layout, make):
    for m, n, k in [(1, 10, 37), (5, 33, 16), (13, 7, 70), (16, 65, 1)]:
        rng = generator(m, n, k)
        layer = dense(rng, k, n)
        x = LAYOUTS[layout](make(rng, m, k))
        got = _core.Network([layer], isa=isa).forward(x)
        assert_same_bits(got, chain(x, layer.weight, layer.bias), f"M={m} N={n} K={k}")


@each_isa
@pytest.mark.parametrize("make", [mixed_rows, pixel_rows])
def test_offsets(isa, make):
    """Inputs and outputs at each offset from an aligned address."""
    rng = generator(1)
    m, k, n = 5, 37, 19
    layer, x = dense(rng, k, n), make(rng, m, k)
    network, want = _core.Network([layer], isa=isa), chain(x, layer.weight, layer.bias)
    for offset in range(64):
        memory = np.zeros(x.nbytes + 64, np.uint8)
        shifted = memory[offset : offset + x.nbytes].view(x.dtype).reshape(x.shape)
        shifted[:] = x
        guarded = np.full(m * n + 34, 7, np.float32)
        at = 1 + offset // 2
        out = guarded[at : at + m * n].reshape(m, n)
        assert network.forward(shifted, out=out) is out
        assert_same_bits(out, want, f"offset {offset}")
        assert (guarded[:at] == 7).all()
        assert (guarded[at + m * n :] == 7).all()
