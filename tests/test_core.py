"""fastnn._core: arrays on their way to C, and what is refused there.

Invariant: whatever the array's layout, byte order or owner, the answer has the bits of a plain
copy. (The Model's side of this is in test_model.py; strides and offsets of every kernel in
test_kernels.py.)
"""

import array

import numpy as np
import pytest
from oracle import assert_same_bits, available, dense, generator, mixed_rows, pixel_rows

import fastnn
from fastnn import _core

N_INPUTS, N_OUTPUTS = 12, 5


@pytest.fixture(scope="module")
def network():
    rng = generator(1)
    return _core.Network([dense(rng, N_INPUTS, 9, "relu"), dense(rng, 9, N_OUTPUTS, "softmax")])


@pytest.fixture(scope="module")
def x():
    return mixed_rows(generator(2), 7, N_INPUTS)


def misaligned(x):
    memory = np.zeros(x.nbytes + 1, np.uint8)
    memory[1:] = np.frombuffer(x.tobytes(), np.uint8)
    return memory[1:].view(x.dtype).reshape(x.shape)


class OnlyDlpack:
    def __init__(self, array):
        self.array = array

    def __dlpack__(self, **arguments):
        return self.array.__dlpack__(**arguments)

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()


class OnlyArray:
    def __init__(self, array):
        self.array = array

    def __array__(self, dtype=None, copy=None):
        return self.array


WRAPPERS = {
    "misaligned": misaligned,
    "byte-swapped": lambda x: x.astype(x.dtype.newbyteorder()),
    "float64": lambda x: x.astype(np.float64) if x.dtype == np.float32 else x,
    "DLPack": OnlyDlpack,
    "__array__": OnlyArray,
    "memoryview": memoryview,
    "list": lambda x: x.tolist() if x.dtype == np.float32 else list(x),
    "cube": lambda x: x.reshape(len(x), 3, 4),
    "strided cube": lambda x: np.repeat(x.reshape(len(x), 3, 4), 2, axis=2)[:, :, ::2],
    "transposed cube": lambda x: np.asfortranarray(x.reshape(len(x), 3, 4)),
    "rows of stride 0": lambda x: np.broadcast_to(x[:1], x.shape),
    "subclass": lambda x: x.view(type("Subclass", (np.ndarray,), {})),
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("kind", ["float32", "uint8"])
def test_layouts_and_owners(network, x, wrapper, kind):
    plain = x if kind == "float32" else pixel_rows(generator(3), 7, N_INPUTS)
    want = network.forward(plain[[0] * 7] if wrapper == "rows of stride 0" else plain)
    assert_same_bits(network.forward(WRAPPERS[wrapper](plain)), want)


def test_buffers_of_one_row(network):
    values = [0.5 * i for i in range(N_INPUTS)]
    want = network.forward(np.array([values], np.float32))
    assert_same_bits(network.forward(array.array("f", values)), want)
    pixels = bytes(range(N_INPUTS))
    want = network.forward(np.frombuffer(pixels, np.uint8)[None])
    assert_same_bits(network.forward(pixels), want)
    assert_same_bits(network.forward(bytearray(pixels)), want)


def test_no_rows(network):
    empty = np.empty((0, N_INPUTS), np.float32)
    assert network.predict(empty).shape == (0,)
    assert network.forward(empty).shape == (0, N_OUTPUTS)
    nothing = {"executed": 0, "effective": 0, "n_threads": 0, "n_doubtful": 0}
    work = network._work(empty)
    assert not work.pop("layers").any()
    assert work == {**nothing, "labels": None}
    assert network._work(empty, labels=True)["labels"].shape == (0,)


@pytest.mark.parametrize(
    ("x", "error"),
    [
        (np.zeros((2, N_INPUTS + 1), np.float32), ValueError),
        (np.zeros(N_INPUTS - 1, np.float32), ValueError),
        (np.float32(1), ValueError),
        (np.zeros((2, N_INPUTS), np.complex64), TypeError),
        (np.zeros((2, N_INPUTS), object), TypeError),
        (np.zeros((2, N_INPUTS), "U3"), TypeError),
        (np.ma.masked_array(np.zeros((2, N_INPUTS), np.float32)), TypeError),
        ([[0.0] * N_INPUTS, [0.0]], ValueError),
        (None, TypeError),
        ({}, TypeError),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, type) else value.__name__,
)
def test_refuses_x(network, x, error):
    with pytest.raises(error, match=r"predict: x "):
        network.predict(x)


def outs(x):
    good = np.zeros((7, N_OUTPUTS), np.float32)
    read_only = good.copy()
    read_only.flags.writeable = False
    return {
        "read-only": (read_only, ValueError),
        "float64": (good.astype(np.float64), TypeError),
        "byte-swapped": (good.astype(">f4"), TypeError),
        "one row less": (good[1:], ValueError),
        "flat": (good.ravel(), ValueError),
        "Fortran order": (np.asfortranarray(good), ValueError),
        "strided": (np.empty((14, N_OUTPUTS), np.float32)[::2], ValueError),
        "misaligned": (misaligned(good), ValueError),
        "a list": (good.tolist(), TypeError),
        "overlapping x": (x.reshape(-1)[: 7 * N_OUTPUTS].reshape(7, N_OUTPUTS), ValueError),
    }


@pytest.mark.parametrize("kind", outs(np.zeros((7, N_INPUTS), np.float32)))
def test_refuses_out(network, x, kind):
    x = x.copy()
    before = x.copy()
    out, error = outs(x)[kind]
    with pytest.raises(error, match=r"forward: out "):
        network.forward(x, out=out)
    assert_same_bits(x, before)


def test_out_may_touch_x(network, x):
    memory = np.zeros(7 * (N_INPUTS + N_OUTPUTS), np.float32)
    rows, out = memory[: x.size].reshape(x.shape), memory[x.size :].reshape(7, N_OUTPUTS)
    rows[:] = x
    assert_same_bits(network.forward(rows, out=out), network.forward(x))


@pytest.mark.parametrize("threads", [0, -1, 1025, 2**40])
def test_refuses_threads_out_of_range(network, x, threads):
    with pytest.raises(ValueError, match=r"predict: threads is -?\d+, want 1..1024"):
        network.predict(x, threads=threads)


@pytest.mark.parametrize("threads", [True, 1.5, "2", [1]])
def test_refuses_threads_that_are_no_number(network, x, threads):
    with pytest.raises(TypeError, match=r"predict: threads is \w+, want an integer"):
        network.predict(x, threads=threads)


@pytest.mark.parametrize("threads", [1, 2, np.int64(3), 1024])
def test_takes_threads(network, x, threads):
    assert_same_bits(network.forward(x, threads=threads), network.forward(x))


def test_isa_of_nowhere():
    layer = dense(generator(4), 2, 2)
    with pytest.raises(ValueError, match=r"isa: there is no ISA 'mmx'; here are: scalar"):
        _core.Network([layer], isa="mmx")
    with pytest.raises(TypeError, match="isa: got int"):
        _core.Network([layer], isa=1)


def test_ceilings_rank():
    """Each name that `isa=` takes gets the best kernel at or below it."""
    layer = dense(generator(5), 2, 2)
    own = available("f32")
    wanted = None
    for isa in _core.isas():
        wanted = isa if isa in own else wanted
        assert _core.Network([layer], isa=isa).kernels[0]["isa"] == wanted
    assert _core.Network([layer]).kernels[0]["isa"] == wanted


def test_the_variable_is_a_ceiling_too(monkeypatch):
    layer = dense(generator(6), 2, 2)
    monkeypatch.setenv("FASTNN_ISA", "scalar")
    assert _core.Network([layer]).kernels[0]["isa"] == "scalar"
    monkeypatch.setenv("FASTNN_ISA", "mmx")
    with pytest.raises(ValueError, match="FASTNN_ISA: there is no ISA 'mmx'"):
        _core.Network([layer])


def test_trace_into_given_arrays() -> None:
    model = fastnn.load("xor")
    x = np.array([[0, 1], [1, 1], [1, 0]], np.float32)
    want = model.trace(x)
    out = [(np.empty_like(z), np.empty_like(a)) for z, a in want]
    assert model.trace(x, out=out, threads=2) is out
    for (z, a), (want_z, want_a) in zip(out, want, strict=True):
        np.testing.assert_array_equal(z, want_z)
        np.testing.assert_array_equal(a, want_a)
    with pytest.raises(TypeError, match="trace: out is to be a list of 2 pairs"):
        model.trace(x, out=out[:1])
    with pytest.raises(ValueError, match=r"trace: out\[0\]\[1\] overlaps"):
        model.trace(x, out=[(out[0][0], out[0][0]), out[1]])


def test_top_k_of_many_is_a_stable_sort() -> None:
    rng = generator(5)
    n = 2000
    network = _core.Network([dense(rng, 8, n)])
    x = rng.integers(-2, 3, (3, 8)).astype(np.float32)  # small integers: many ties
    x[2] = 0
    z = network.decision_function(x)
    for k in (1, 2, 17, n):
        labels, scores = network.top_k(x, k)
        want = np.argsort(-z, axis=1, kind="stable")[:, :k]
        np.testing.assert_array_equal(labels, want)
        np.testing.assert_array_equal(scores, np.take_along_axis(z, want, axis=1))


def test_an_object_that_was_not_initialised_says_so() -> None:
    network = fastnn.Model.__new__(fastnn.Model)
    x = np.zeros((1, 3), np.float32)
    for call in (network.predict, network.predict_proba, network.trace):
        with pytest.raises(RuntimeError, match="__init__ has not been called"):
            call(x)
    with pytest.raises(RuntimeError, match="__init__ has not been called"):
        network.top_k(x, 1)


def test_a_subclass_cannot_come_between_checks_and_c() -> None:
    class Odd(fastnn.Model):
        def converted(self, *_: object) -> object:
            return np.zeros(1)

        def check_built(self) -> None:
            return None

    layer = fastnn.Dense(np.eye(3), np.zeros(3))
    np.testing.assert_array_equal(Odd([layer]).forward(np.ones((1, 3))), np.ones((1, 3)))
    with pytest.raises(RuntimeError, match="__init__ has not been called"):
        Odd.__new__(Odd).forward(np.ones((1, 3)))


def test_integers_are_taken_by_index_alone() -> None:
    class Two:
        def __index__(self) -> int:
            return 2

    network = _core.Network([dense(generator(6), 4, 5)])
    x = np.ones((2, 4), np.float32)
    assert network.top_k(x, Two(), threads=Two())[0].shape == (2, 2)
    for value in (True, 1.0, np.array([1, 2]), np.array(2.0), "2"):
        with pytest.raises(TypeError, match="threads is"):
            network.forward(x, threads=value)
        with pytest.raises(TypeError, match="k is"):
            network.top_k(x, value)


def test_rows_are_scaled_as_numpy_does() -> None:
    rng = generator(3)
    for k, n in ((1, 1), (7, 13), (300, 257)):
        x = rng.standard_normal((k, n)) * 10.0 ** rng.integers(-44, 38, (k, n))
        x = np.clip(x, -3e38, 3e38).astype(np.float32)
        factor = rng.standard_normal(k) * 10.0 ** rng.integers(-10, 10, k)
        with np.errstate(over="ignore", under="ignore"):
            want = (x * factor[:, None]).astype(np.float32)
        got = _core.scaled_rows(x, factor)
        assert got.tobytes() == want.tobytes()
        with pytest.raises(ValueError, match="WRITEABLE"):
            got.flags.writeable = True
    x, factor = np.ones((2, 3), np.float32), np.ones(2)
    for wrong in (
        (x.astype(float), factor),
        (x, factor.astype(np.float32)),
        (x, np.ones(3)),
        (x[0], factor),
        (x, factor[:, None]),
        (np.ones((3, 2), np.float32).T, factor),
        (x, np.ones(4)[::2]),
    ):
        with pytest.raises(ValueError, match="scaled_rows: x is to be"):
            _core.scaled_rows(*wrong)


@pytest.mark.parametrize("bad", [np.nan, -np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_found_wherever_it_is(bad) -> None:
    for n in (1, 3, 16, 37):
        x = np.full(n, np.finfo(np.float32).max, np.float32)
        assert _core.all_finite(x)
        assert _core.all_finite(-x)
        for i in range(n):
            one = x.copy()
            one[i] = bad
            assert not _core.all_finite(one)
    for wrong in (np.ones(3), np.ones((4, 4), np.float32)[:, ::2]):
        with pytest.raises(ValueError, match="all_finite: x is to be"):
            _core.all_finite(wrong)
