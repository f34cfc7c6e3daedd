"""All 70,000 digits: labels equal those of a float64 forward pass, accuracy is as written.

Invariant: each bundled MNIST model on each kernel (the large ones in plain C: the first 10,000 of
each split); a mismatch fails, its margin is reported.
"""

import numpy as np
import pytest
from oracle import each_isa

import fastnn
from fastnn import mnist, reference

MODELS = [name for name in fastnn.models() if name.startswith("mnist-")]


@pytest.fixture(scope="module")
def digits(mnist_path):
    return {split: mnist.load(split, mnist_path) for split in ("test", "train")}


@pytest.fixture(scope="module", params=MODELS)
def model_and_z(request, digits):
    """A model's name and, of both splits, z of its last layer in float64."""
    model = fastnn.load(request.param)
    wanted = {}
    for split, (images, _) in digits.items():
        x = (images.reshape(-1, 784) * np.float64(model.scale) - model.mean) / model.std
        blocks = (x[i : i + 10_000] for i in range(0, len(x), 10_000))
        wanted[split] = np.concatenate([reference.trace(model.layers, b)[-1][0] for b in blocks])
    return request.param, wanted


@each_isa
def test_labels(model_and_z, digits, isa):
    name, wanted = model_and_z
    model = fastnn.load(name, isa=isa)
    # A minute for the plain C kernel on a large network, whose bits other tests compare.
    is_slow = isa == "scalar" and model.n_parameters > 200_000
    for split, (images, labels) in digits.items():
        n = 10_000 if is_slow else len(images)
        images, labels, z = images[:n], labels[:n], wanted[split][:n]
        got = model.predict(images, threads=1)
        different = np.flatnonzero(got != model.classes_[z.argmax(axis=1)])
        highest = np.sort(z[different], axis=1)
        margins = highest[:, -1] - highest[:, -2]
        assert len(different) == 0, f"{split}: rows {different} with margins {margins}"
        if split == "test":
            written = float(model.metadata["test_accuracy"])
            assert (got == labels).mean() == pytest.approx(written, abs=1e-9)
