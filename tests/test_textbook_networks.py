"""The textbook's small networks (examples/), against arithmetic written out here.

Invariant: no expected value comes from fastnn. Every example is run as a program, too.
"""

import importlib.util
import math
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

import fastnn

EXAMPLES = Path(__file__).parent.parent / "examples"
NAMES = sorted(file.stem for file in EXAMPLES.glob("*.py") if not file.stem.startswith("from_"))


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"examples_{name}", EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def sigmoid(z: float) -> float:
    return 1 / (1 + math.exp(-z))


def test_all_seven_are_here():
    assert NAMES == [
        "linear_classifier", "linear_regressor", "mnist_digits", "perceptron", "sigmoid_3_2_1",
        "sigmoid_neuron", "xor",
    ]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_runs_as_a_program(name, capsys):
    example(name).main()
    assert len(capsys.readouterr().out.splitlines()) >= 2


@pytest.mark.parametrize("name", NAMES)
def test_is_listed(name):
    assert f"`{name}.py`" in (EXAMPLES / "README.md").read_text()


def test_linear_classifier():
    model = example("linear_classifier").build()
    x = np.random.default_rng(0).uniform(-1, 1, (500, 2)).astype(np.float32)
    z = 2 * x[:, 0].astype(float) - x[:, 1] + 0.3
    np.testing.assert_allclose(model.decision_function(x), z, atol=1e-6)
    clear = abs(z) > 1e-5
    assert clear.sum() > 490
    wanted = np.where(z > 0, "below", "above")
    assert model.predict(x)[clear].tolist() == wanted[clear].tolist()
    assert set(model.predict(x)) == {"below", "above"}


def test_linear_regressor():
    module = example("linear_regressor")
    model = module.build()
    assert model.task == "regress"
    np.testing.assert_allclose(model.layers[0].weight[:, 0], [3, -2], atol=0.01)
    np.testing.assert_allclose(model.layers[0].bias, [1], atol=0.01)
    x, y = module.points()
    answer = model.predict(x)
    assert answer.shape == (200,)
    assert answer.dtype == np.float32
    assert np.abs(answer - y).max() < 0.05


def test_perceptron_learns_and():
    model = example("perceptron").build()
    assert model.predict([[0, 0], [0, 1], [1, 0], [1, 1]]).tolist() == [0, 0, 0, 1]
    assert model.forward([[0, 0], [1, 1]]).tolist() == [0.0, 1.0]
    assert model.layers[0].activation == "step"


def test_sigmoid_neuron():
    model = example("sigmoid_neuron").build()
    rain = [sigmoid(4 * h + 2 * f - 3.5) for h, f in ((0.25, 0.5), (0.75, 1.5))]
    x = [[0.25, 0.5], [0.75, 1.5]]
    np.testing.assert_allclose(model.predict_proba(x), [[1 - p, p] for p in rain], rtol=1e-6)
    np.testing.assert_allclose(model.forward(x), rain, rtol=1e-6)
    assert model.predict(x).tolist() == ["dry", "rain"]


def test_sigmoid_3_2_1_step_by_step():
    module = example("sigmoid_3_2_1")
    x0, x1, x2 = module.X[0]
    z = [0.1 + 0.2 * x0 + 0.4 * x1 - 0.6 * x2, -0.2 - 0.5 * x0 + 0.3 * x1 + 0.1 * x2]
    a = [sigmoid(value) for value in z]
    z_out = 0.05 + 0.7 * a[0] - 0.3 * a[1]
    model = module.build()
    (hidden_z, hidden_a), (output_z, output_a) = model.trace(module.X)
    np.testing.assert_allclose(hidden_z, [z], rtol=1e-6)
    np.testing.assert_allclose(hidden_a, [a], rtol=1e-6)
    np.testing.assert_allclose(output_z, [[z_out]], rtol=1e-6)
    np.testing.assert_allclose(output_a, [[sigmoid(z_out)]], rtol=1e-6)
    assert model.predict(module.X).tobytes() == output_a.tobytes()


def test_xor():
    model = example("xor").build()
    assert model.predict([[0, 0], [0, 1], [1, 0], [1, 1]]).tolist() == [False, True, True, False]
    (_, hidden), _ = model.trace([[0, 0], [0, 1], [1, 0], [1, 1]])
    assert hidden.tolist() == [[0, 0], [1, 0], [1, 0], [1, 1]]


def test_mnist_digits():
    model = example("mnist_digits").build()
    assert [(d.n_inputs, d.n_outputs) for d in model.layers] == [(784, 128), (128, 10)]
    images, labels = fastnn.mnist.sample()
    answers = model.predict(images)
    assert np.mean(answers == labels) > 0.97
    values = images.reshape(1000, 784) / 255.0
    for layer in model.layers:
        z = values @ layer.weight.astype(float) + layer.bias
        values = np.maximum(z, 0)
    margins = np.diff(np.sort(z, axis=1)[:, -2:], axis=1)[:, 0]
    assert (answers == z.argmax(axis=1))[margins > 1e-4].all()
    assert answers.tolist() == fastnn.load("mnist-small").predict(images).tolist()


@pytest.mark.parametrize(
    ("name", "x", "wanted"),
    [("xor", [[0, 0], [0, 1], [1, 0], [1, 1]], [0, 1, 1, 0]),
     ("perceptron-2d", [[-0.8, 0.5], [0.8, -0.5]], [0, 1])],
)  # fmt: skip
def test_bundled_small_models(name, x, wanted):
    assert fastnn.load(name).predict(x).tolist() == wanted
