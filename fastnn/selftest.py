"""The engine checks itself: every kernel that this machine has against the scalar one.

Invariant: compares bits, not closeness, as the promise is "same row, same bits"; NaNs are equal.
Only bfloat16, which promises no bits, is held to a few parts in a hundred of the largest output.
Takes some 200 ms, writes nothing, and raises on the first difference.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from fastnn import _core
from fastnn.layers import Dense
from fastnn.quantize import quantize_dense

__all__ = ["self_test"]


def self_test() -> list[dict[str, object]]:
    """Check each available kernel; returns a dict of isa, format and n_checked (floats compared).

    Raises RuntimeError naming the ISA, the network and the row of the first difference.
    """
    rng = np.random.Generator(np.random.PCG64(20))
    cases = [(_network(rng, sizes), _rows(rng, sizes[0])) for sizes in _SIZES]
    samples = rng.standard_normal(1000).astype(np.float32) * np.float32(20)
    report = []
    for kernel in _core.kernels():
        if not kernel["available"] or not _is_permitted(kernel["isa"]):
            continue
        n_checked = 0
        number_format = kernel["format"]
        for layers, x in cases:
            sizes = "-".join(str(layer.n_outputs) for layer in layers)
            what = f"kernel {kernel['isa']} {number_format}: network {len(x[0])}-{sizes}"
            got, want = (
                _built(layers, number_format, isa).forward(x, threads=1)
                for isa in (kernel["isa"], "scalar")
            )
            (_compare_roughly if number_format == "bf16" else _compare)(got, want, what)
            n_checked += got.size
        if number_format != "f32":
            report.append({**_named(kernel), "n_checked": n_checked})
            continue
        for name, about in _core.activations().items():
            parameters = {
                key: i - 1.0 if default is None else default
                for i, (key, default) in enumerate(about["parameters"].items())
            }
            got = _core.activate(name, samples, kernel["isa"], **parameters)
            want = _core.activate(name, samples, "scalar", **parameters)
            _compare(got, want, f"kernel {kernel['isa']}: activation {name}")
            n_checked += got.size
        report.append({**_named(kernel), "n_checked": n_checked})
    return report


def _is_permitted(isa: str) -> bool:
    """Some are by the operating system, on request."""
    try:
        _core.check_isa(isa)
    except ValueError:
        return False
    return True


def _named(kernel: Mapping[str, Any]) -> dict[str, object]:
    return {"isa": kernel["isa"], "format": kernel["format"]}


def _built(layers: list[Dense], number_format: str, isa: str) -> _core.Network:
    """The network in this format; int8 with ranges that leave some values outside."""
    if number_format == "i8":
        return _core.Network([quantize_dense(layer, -2.0, 30.0) for layer in layers], isa=isa)
    return _core.Network(layers, format=number_format, isa=isa)


_SIZES = [(1, 1), (5, 3), (70, 40, 9), (129, 65, 33, 17, 2)]


def _network(rng: np.random.Generator, sizes: tuple[int, ...]) -> list[Dense]:
    return [
        Dense(
            rng.standard_normal((n_inputs, n_outputs)),
            rng.standard_normal(n_outputs),
            "relu" if i + 2 < len(sizes) else "identity",
        )
        for i, (n_inputs, n_outputs) in enumerate(zip(sizes, sizes[1:], strict=False))
    ]


def _rows(rng: np.random.Generator, n_inputs: int) -> npt.NDArray[np.float32]:
    """A batch that takes every size of tile, half of it zeros, with some awkward rows."""
    x = rng.standard_normal((53, n_inputs)).astype(np.float32)
    x[rng.random(x.shape) < 0.5] = 0
    x[3], x[7], x[11], x[13] = -0.0, 1e-40, np.nan, np.inf
    return x


def _compare_roughly(
    got: npt.NDArray[np.float32], want: npt.NDArray[np.float32], what: str
) -> None:
    is_finite = np.isfinite(want) & np.isfinite(got)
    error = np.abs(got[is_finite] - want[is_finite]).max(initial=0)
    if error > 0.03 * np.abs(want)[is_finite].max(initial=1):
        raise RuntimeError(f"self_test: {what} is far from the scalar kernel: report it")


def _compare(got: npt.NDArray[np.float32], want: npt.NDArray[np.float32], what: str) -> None:
    same = (got.view(np.int32) == want.view(np.int32)) | (np.isnan(got) & np.isnan(want))
    if not same.all():
        row = int(np.argwhere(~same)[0][0])
        raise RuntimeError(
            f"self_test: {what} differs from the scalar kernel in row {row}: this CPU or this "
            "build computes wrongly; set FASTNN_ISA=scalar and report it"
        )
