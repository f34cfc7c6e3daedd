"""What fastnn writes: sound files that ONNX Runtime computes as fastnn does, and that come back."""

import numpy as np
import onnx

import fastnn
from fastnn import formats
from interop.exporters import ELEMENTWISE, LAST
from interop.networks import random_network, reference
from interop.test_exporters import N_ROWS, run_onnx
from tests.test_formats import assert_same

N_CASES = 6, 50


def test_agrees(case, ran, tmp_path):
    rng = np.random.default_rng([case, 77])
    first = ELEMENTWISE[case % len(ELEMENTWISE)]
    network = random_network(rng, ELEMENTWISE, first=first, last=LAST, affine=False)
    layers, weights = [], None
    for kind, *rest in [*network.steps, ("end",)]:
        if weights is not None and kind != "activation":
            layers.append(fastnn.Dense(*weights))
            weights = None
        if kind == "linear":
            weight, bias = rest
            weights = weight, np.zeros(weight.shape[1]) if bias is None else bias
        elif kind == "activation":
            layers.append(fastnn.Dense(*weights, rest[0], **rest[1]))
            weights = None
    model = fastnn.Model(
        layers, task="classify", scale=1 / 255, mean=rng.normal(size=network.n_inputs)
    )
    path = tmp_path / "model.onnx"
    model.save(path)
    onnx.checker.check_model(path, full_check=True)
    assert_same(formats.read(path), formats.ModelFile(**model._parts._asdict()))

    x = rng.normal(size=(N_ROWS, network.n_inputs)).astype(np.float32)
    ref = reference(network, x)
    by_runtime, _ = run_onnx(path.read_bytes(), x)
    for y in (model.forward(x), by_runtime):
        error = np.abs(y.reshape(ref.y.shape) - ref.y)[ref.decided]
        assert (error <= ref.y_bound[ref.decided]).all()
    ran("written files", N_ROWS, int((~ref.decided).sum()))
