"""The self-test passes on sound kernels, covers them all, and convicts one that is not."""

import pytest
from oracle import is_usable

from fastnn import Dense, _core, selftest


def test_every_kernel_of_this_machine_is_checked():
    report = selftest.self_test()
    found = [(entry["isa"], entry["format"]) for entry in report]
    assert found == [(k["isa"], k["format"]) for k in _core.kernels() if is_usable(k)]
    assert all(entry["n_checked"] > 500 for entry in report)


@pytest.mark.parametrize("number_format", ["f32", "i8", "bf16"])
def test_a_wrong_kernel_is_convicted(monkeypatch, number_format):
    """Planted: weights a little off, on every ISA but the scalar one."""
    honest = selftest._built

    def wrong(layers, name, isa):
        if name == number_format and isa != "scalar":
            factor = 1.1 if name == "bf16" else 1 + 2**-7
            layers = [
                Dense(layer.weight * factor, layer.bias, layer.activation) for layer in layers
            ]
        return honest(layers, name, isa)

    if len({k["isa"] for k in _core.kernels() if is_usable(k)}) < 2:
        pytest.skip("NOT TESTED: this CPU lacks anything but the scalar kernels")
    monkeypatch.setattr(selftest, "_built", wrong)
    with pytest.raises(RuntimeError, match=number_format):
        selftest.self_test()
