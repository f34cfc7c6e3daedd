"""What the tests of the engine share: awkward rows, layers, comparisons.

Invariant: the arithmetic is that of fastnn.reference, which is written from the promise alone and
computes nothing with the engine; comparisons are of bits, NaNs being equal.
"""

import numpy as np
import pytest

from fastnn import Dense, _core, selftest
from fastnn.reference import chain, fused_multiply_add

__all__ = ["chain", "fused_multiply_add"]  # and what is below

IS_SANITIZED = _core.build_info()["mode"] == "sanitize"


def is_usable(kernel):
    """This CPU has it, and the operating system lets it be used (AMX has to be asked for)."""
    return kernel["available"] and selftest._is_permitted(kernel["isa"])


def available(number_format):
    """The ISAs that have a kernel of this format and that can be used here, best first."""
    return [
        kernel["isa"]
        for kernel in _core.kernels()
        if kernel["format"] == number_format and is_usable(kernel)
    ]


def each_isa_of(number_format):
    """Runs a test for each kernel of this format."""
    return pytest.mark.parametrize(
        "isa",
        [
            pytest.param(
                kernel["isa"],
                marks=[]
                if is_usable(kernel)
                else pytest.mark.skip(reason=f"NOT TESTED: this CPU lacks {kernel['isa']}"),
            )
            for kernel in _core.kernels()
            if kernel["format"] == number_format
        ],
    )


AVAILABLE = available("f32")

each_isa = each_isa_of("f32")


def canonical(a):
    """The bits of float32 values, those of NaN made one."""
    return np.where(np.isnan(a), np.float32(np.nan), a).view(np.int32)


def assert_same_bits(got, want, what=""):
    assert got.shape == want.shape, f"{what}: shape {got.shape}, want {want.shape}"
    is_same = canonical(got) == canonical(want)
    if not is_same.all():
        at = tuple(int(i) for i in np.argwhere(~is_same)[0])
        pytest.fail(
            f"{what}: {(~is_same).sum()} of {got.size} differ, first {at}: "
            f"{float(got[at]).hex()}, want {float(want[at]).hex()}"
        )


def generator(*seed):
    return np.random.Generator(np.random.PCG64(seed))


def mixed_rows(rng, m, k):
    """(m, k) float32: dense, sparse, -0.0, subnormal and NaN or infinite rows side by side, and a
    third of the columns zero in nearly all of them."""
    x = rng.standard_normal((m, k)).astype(np.float32)
    kind = np.arange(m) % 8
    x[(kind == 1)[:, None] & (rng.random((m, k)) < 0.7)] = 0
    x[(kind == 2)[:, None] & (rng.random((m, k)) < 0.7)] = -0.0
    x[kind == 3] *= np.float32(1e-41)
    x[kind == 4] *= np.float32(1e-30)
    x[:, rng.random(k) < 0.33] = 0
    for i in np.flatnonzero((kind == 5) | (kind == 6)):
        x[i, rng.integers(k)] = np.nan if kind[i] == 5 else -np.inf
    return x


def pixel_rows(rng, m, k):
    """(m, k) uint8, most of them zero."""
    return rng.integers(0, 256, (m, k), np.uint8) * (rng.random((m, k)) < 0.3)


def dense(rng, k, n, activation="identity", **parameters):
    """A layer with some weights and biases zero."""
    weight = rng.standard_normal((k, n)) * (rng.random((k, n)) < 0.9) / max(1, np.sqrt(k) / 4)
    bias = rng.standard_normal(n) * (rng.random(n) < 0.9)
    return Dense(weight, bias, activation, **parameters)
