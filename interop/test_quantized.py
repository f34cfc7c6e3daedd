"""Networks that ONNX Runtime's quantizer made int8: fastnn's int8 gives their numbers.

The numbers are those of the graph as it is written (ONNX Runtime without optimisations): fused, its
kernels for older CPUs saturate 16-bit sums. What is compared, with y's step of 1/255 of its range:

    relu             the integers are the file's. Outputs are not rounded: half a step of y, but
                     for rows in which a value between layers lies so near the middle of two
                     levels that float32 decides (at most 1 % here)
    anything else    values before an activation are rounded in the file and not here: no more
                     than the file itself is away from the float32 network, as root of the mean
                     square
"""

import logging
import warnings

import numpy as np
import onnxruntime
import pytest
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

import fastnn

ACTIVATIONS = ("relu", "sigmoid", "gelu", "silu", "tanh", "leaky_relu")
N_CASES = 6, 12
TYPES = {"int8": QuantType.QInt8, "uint8": QuantType.QUInt8}


class Rows(CalibrationDataReader):
    """The rows to calibrate with, once."""

    def __init__(self, x):
        self._left = [{"x": x}]

    def get_next(self):
        return self._left.pop() if self._left else None


def run_as_written(path, x):
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


@pytest.mark.parametrize("per_output", [True, False])
@pytest.mark.parametrize("values", TYPES)
def test_agrees(case, per_output, values, ran, tmp_path):
    rng = np.random.default_rng([case, 5])
    name = ACTIVATIONS[case % len(ACTIVATIONS)]
    widths = [int(n) for n in rng.integers(8, 100, rng.integers(2, 5))] + [6]
    layers = []
    for i, (n, m) in enumerate(zip(widths, widths[1:], strict=False)):
        weight, bias = rng.normal(size=(n, m)) / np.sqrt(n) * 1.4, 0.3 * rng.normal(size=m)
        layers.append(fastnn.Dense(weight, bias, "identity" if i == len(widths) - 2 else name))
    model = fastnn.Model(layers)
    model.save(tmp_path / "float.onnx")
    rows = rng.normal(size=(1500, widths[0])).astype(np.float32)
    logging.getLogger().setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantize_static(
            tmp_path / "float.onnx", tmp_path / "int8.onnx", Rows(rows[:500]),
            quant_format=QuantFormat.QDQ, per_channel=per_output,
            activation_type=TYPES[values], weight_type=QuantType.QInt8,
        )  # fmt: skip
    found = fastnn.load(tmp_path / "int8.onnx")
    assert found.precision == "int8"
    x = rows[500:]
    want = run_as_written(tmp_path / "int8.onnx", x)
    got, exact = found.forward(x), model.forward(x)
    if name == "relu":
        step = np.diff(np.unique(want)).min()
        is_near = (np.abs(got - want) <= 0.502 * step).all(axis=1)
        print(f"{name}: {(~is_near).sum()} of {len(x)} rows are off")
        assert (~is_near).mean() <= 0.01
        assert np.abs(got - want).max() <= 0.2 * np.abs(want).max()
    else:
        apart, away = (np.sqrt(np.mean(np.square(part - want))) for part in (got, exact))
        print(f"{name}: {apart:.3g} apart, {away:.3g} away from float32")
        assert apart <= away
    agree = (got.argmax(axis=1) == want.argmax(axis=1)).mean()
    assert agree >= (exact.argmax(axis=1) == want.argmax(axis=1)).mean() - 0.02
    ran("ONNX Runtime int8")
