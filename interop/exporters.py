"""Networks in PyTorch, Keras and scikit-learn, and what their exporters write.

Invariant: an exporter here takes a random number generator and the activation to begin with, and
gives an `Exported`: the ONNX file, the same network as steps, and the original to ask.
"""

import dataclasses
import io
import os
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np

from interop.networks import LAST_ONLY, Network, random_network

os.environ.setdefault("KERAS_BACKEND", "torch")


@dataclasses.dataclass(frozen=True)
class Exported:
    """A network in two forms."""

    file: bytes
    network: Network
    ask: Callable[[np.ndarray], np.ndarray]
    """The original's outputs for float32 rows."""
    labels: Callable[[np.ndarray], np.ndarray] | None = None
    """The original's labels, where it gives any."""
    shape: tuple[int, ...] = ()
    """What a row is reshaped to before it is given to the original, and to ONNX Runtime."""
    about: str = ""
    """For messages."""


ELEMENTWISE = (
    "identity", "step", "sigmoid", "tanh", "relu", "leaky_relu", "relu6", "clip", "elu", "selu",
    "gelu", "gelu_tanh", "silu", "hardsigmoid", "hardswish", "softplus", "softsign", "exp",
)  # fmt: skip
LAST = ("identity", "sigmoid", "tanh", "softplus", "silu", *LAST_ONLY)


# ---- PyTorch -------------------------------------------------------------------------------------


def _torch_modules() -> dict:
    import torch
    from torch import nn

    class Function(nn.Module):
        def __init__(self, function):
            super().__init__()
            self.function = function

        def forward(self, x):
            return self.function(x)

    return {
        "step": lambda: Function(lambda x: (x > 0).to(x.dtype)),
        "sigmoid": nn.Sigmoid,
        "tanh": nn.Tanh,
        "relu": nn.ReLU,
        "leaky_relu": lambda alpha: nn.LeakyReLU(alpha),
        "relu6": nn.ReLU6,
        "clip": lambda lo, hi: nn.Hardtanh(lo, hi),
        "elu": lambda alpha: nn.ELU(alpha),
        "selu": nn.SELU,
        "gelu": nn.GELU,
        "gelu_tanh": lambda: nn.GELU(approximate="tanh"),
        "silu": nn.SiLU,
        "hardsigmoid": nn.Hardsigmoid,
        "hardswish": nn.Hardswish,
        "softplus": nn.Softplus,
        "softsign": nn.Softsign,
        "exp": lambda: Function(torch.exp),
        "softmax": lambda: nn.Softmax(dim=1),
        "log_softmax": lambda: nn.LogSoftmax(dim=1),
        "affine": lambda scale, shift: Function(lambda x: x * scale + shift),
        "flatten": nn.Flatten,
        "view": lambda: Function(lambda x: x.view(x.size(0), -1)),
        "dropout": nn.Dropout,
        "batchnorm": nn.BatchNorm1d,
    }


def _torch_network(rng: np.random.Generator, first: str) -> tuple:
    """(module, network, shape of a row)."""
    import torch
    from torch import nn

    make = _torch_modules()
    network = random_network(rng, ELEMENTWISE, first=first, last=LAST)
    modules: list = []
    shape: tuple[int, ...] = ()
    if network.n_inputs % 2 == 0 and rng.random() < 0.3:
        shape = (2, network.n_inputs // 2)
        modules.append(make[str(rng.choice(["flatten", "view"]))]())
    for kind, *rest in network.steps:
        if kind == "linear":
            weight, bias = rest
            linear = nn.Linear(*weight.shape, bias=bias is not None)
            linear.weight.data = torch.tensor(weight.T.copy())
            if bias is not None:
                linear.bias.data = torch.tensor(bias)
            modules.append(linear)
        elif kind == "affine" and len(modules) > 1:
            modules.append(_batchnorm(make["batchnorm"](len(rest[0])), *rest, rng))
        elif kind == "affine":
            modules.append(make["affine"](*map(torch.tensor, rest)))
        else:
            modules.append(make[rest[0]](**rest[1]))
            if rng.random() < 0.2:
                modules.append(make["dropout"]())
    return nn.Sequential(*modules).eval(), network, shape


def _batchnorm(module, scale, shift, rng):
    """The normalisation that computes x * scale + shift (but for roundings)."""
    import torch

    var, mean = rng.uniform(0.5, 2, len(scale)), 0.3 * rng.normal(size=len(scale))
    weight = scale * np.sqrt(var + module.eps)
    for name, value in {"running_var": var, "running_mean": mean}.items():
        setattr(module, name, torch.tensor(value, dtype=torch.float32))
    module.weight.data = torch.tensor(weight, dtype=torch.float32)
    module.bias.data = torch.tensor(shift + mean * scale, dtype=torch.float32)
    return module


def _ask_torch(module, shape):
    import torch

    def ask(x):
        with torch.no_grad():
            return module(torch.tensor(x.reshape(len(x), *(shape or (-1,))))).numpy()

    return ask


def torch_script(rng: np.random.Generator, first: str) -> Exported:
    """torch.onnx.export(dynamo=False), of a random opset."""
    import torch

    module, network, shape = _torch_network(rng, first)
    opset = int(rng.choice([9, 11, 13, 15, 17, 18, 20]))
    example = torch.zeros(2, *(shape or (network.n_inputs,)))
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module, (example,), file, dynamo=False, opset_version=opset,
            input_names=["x"], dynamic_axes={"x": {0: "batch"}},
        )  # fmt: skip
    ask = _ask_torch(module, shape)
    return Exported(file.getvalue(), network, ask, shape=shape, about=f"opset {opset}")


def torch_dynamo(rng: np.random.Generator, first: str) -> Exported:
    """torch.onnx.export(dynamo=True)."""
    import torch

    module, network, shape = _torch_network(rng, first)
    example = torch.zeros(2, *(shape or (network.n_inputs,)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module, (example,), dynamo=True, verbose=False,
            dynamic_shapes=({0: torch.export.Dim("batch")},),
        )  # fmt: skip
    file = program.model_proto.SerializeToString()
    return Exported(file, network, _ask_torch(module, shape), shape=shape)


# ---- Keras ---------------------------------------------------------------------------------------


def keras_torch(rng: np.random.Generator, first: str) -> Exported:
    """A Keras 3 model's export(format="onnx"), on the PyTorch backend."""
    import keras
    from keras import layers, ops

    make = {
        "step": lambda: layers.Lambda(lambda x: ops.cast(x > 0, "float32")),
        "clip": lambda lo, hi: layers.Lambda(lambda x: ops.clip(x, lo, hi)),
        "leaky_relu": lambda alpha: layers.LeakyReLU(negative_slope=alpha),
        "elu": lambda alpha: layers.Lambda(lambda x: keras.activations.elu(x, alpha)),
        "gelu_tanh": lambda: layers.Lambda(lambda x: ops.gelu(x, approximate=True)),
    }
    names = {
        "hardsigmoid": "hard_sigmoid", "hardswish": "hard_silu", "exp": "exponential",
    }  # fmt: skip
    network = random_network(rng, ELEMENTWISE, first=first, last=LAST)
    stack: list = [keras.Input((network.n_inputs,))]
    weights: list = []
    for kind, *rest in network.steps:
        if kind == "linear":
            weight, bias = rest
            stack.append(layers.Dense(weight.shape[1], use_bias=bias is not None))
            weights.append([weight] if bias is None else [weight, bias])
        elif kind == "affine" and len(stack) > 1:
            stack.append(layers.BatchNormalization())
            var, mean = rng.uniform(0.5, 2, len(rest[0])), 0.3 * rng.normal(size=len(rest[0]))
            gamma = rest[0] * np.sqrt(var + stack[-1].epsilon)
            weights.append([gamma, rest[1] + mean * rest[0], mean, var])
        elif kind == "affine":
            # x*s + t = (x - m)/sqrt(v)
            mean, variance = -rest[1] / rest[0], 1 / np.square(rest[0].astype(np.float64))
            stack.append(layers.Normalization(mean=mean, variance=variance))
            weights.append(None)
        else:
            name, parameters = rest
            if name in make:
                stack.append(make[name](**parameters))
            else:
                stack.append(layers.Activation(names.get(name, name)))
            weights.append(None)
    model = keras.Sequential(stack)
    for layer, values in zip(model.layers, weights, strict=True):
        if values is not None:
            layer.set_weights(values)

    def ask(x):
        return np.asarray(model(x).detach())

    ask(np.zeros((1, network.n_inputs), np.float32))  # which builds it
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = Path(folder) / "model.onnx"
        model.export(path, format="onnx", verbose=False)
        return Exported(path.read_bytes(), network, ask)


# ---- scikit-learn --------------------------------------------------------------------------------


def scikit_learn(rng: np.random.Generator, first: str) -> Exported:
    """skl2onnx.to_onnx of a network, or of a linear model, perhaps after preprocessing."""
    from skl2onnx import to_onnx
    from sklearn import decomposition, linear_model, preprocessing, svm
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
    from sklearn.pipeline import make_pipeline

    n_inputs = int(rng.integers(2, 60))
    n_classes = int(rng.choice([2, 3, 7]))
    rows = rng.normal(size=(40 * n_classes, n_inputs))
    hidden = rng.normal(size=(n_inputs, n_classes))
    y = (rows @ hidden + rng.normal(size=n_classes)).argmax(axis=1)
    y[:n_classes] = np.arange(n_classes)  # each of them somewhere
    if rng.random() < 0.4:
        y = np.array([f"class {i}" for i in range(n_classes)])[y]
    before = [
        None, preprocessing.StandardScaler(), preprocessing.MinMaxScaler(),
        decomposition.PCA(max(1, n_inputs // 2)),
    ][int(rng.integers(4))]  # fmt: skip
    is_regressor = False
    if first:  # an activation of its networks
        is_regressor = rng.random() < 0.3
        last, network = _mlp(rng, first, n_inputs if before is None else None, is_regressor)
    else:
        last = [
            linear_model.LogisticRegression(), linear_model.Ridge(), linear_model.Perceptron(),
            linear_model.SGDClassifier(), svm.LinearSVC(), LinearDiscriminantAnalysis(),
            linear_model.LinearRegression(), linear_model.RidgeClassifier(),
        ][int(rng.integers(8))]  # fmt: skip
        is_regressor = isinstance(last, linear_model.Ridge | linear_model.LinearRegression)
    if n_classes == 2 and isinstance(last, LinearDiscriminantAnalysis):
        last = svm.LinearSVC()  # skl2onnx 1.20 writes sigmoid(2 z), where scikit-learn has z
    estimator = make_pipeline(*([before] if before else []), last)
    target = rows[:, 0] if is_regressor else y
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        estimator.fit(rows, target)
    _rescale(rng, last, rows if before is None else estimator[0].transform(rows))
    options = {}
    if isinstance(last, svm.LinearSVC):
        # skl2onnx 1.20 gives the end of a pipeline without options zipmap, which this one has not.
        options = {id(last): {"nocl": False}}
    elif not is_regressor:
        options = {id(last): {"zipmap": bool(rng.random() < 0.5)}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = to_onnx(estimator, rows[:1].astype(np.float32), options=options or None)
    steps = [*_steps_before(before), *_steps_of(last, n_classes)]
    network = Network(steps, n_inputs, None if is_regressor else estimator.classes_)
    labels = None if is_regressor else estimator.predict
    return Exported(
        model.SerializeToString(), network, _ask_sklearn(estimator), labels,
        about=" ".join(type(part).__name__ for _, part in estimator.steps),
    )  # fmt: skip


def _mlp(rng, first, n_inputs, is_regressor):
    from sklearn.neural_network import MLPClassifier, MLPRegressor

    names = {"sigmoid": "logistic"}
    hidden = tuple(int(n) for n in rng.integers(1, 301, rng.integers(1, 8)))
    kind = MLPRegressor if is_regressor else MLPClassifier
    return kind(hidden_layer_sizes=hidden, activation=names.get(first, first), max_iter=1), None


def _rescale(rng, estimator, rows):
    """Weights as those of `random_network`, for one step of training leaves them small."""
    if not hasattr(estimator, "coefs_"):
        return
    a = rows
    name = {"logistic": "sigmoid"}.get(estimator.activation, estimator.activation)
    from interop.networks import apply

    for i, weight in enumerate(estimator.coefs_):
        new = rng.normal(size=weight.shape)
        new /= max(np.sqrt(np.mean(np.square(a @ new))), 1e-6)
        estimator.coefs_[i] = new
        estimator.intercepts_[i] = 0.3 * rng.normal(size=weight.shape[1])
        a = apply(name, a @ new + estimator.intercepts_[i], {})


def _steps_before(before) -> list:
    kind = type(before).__name__
    if kind == "StandardScaler":
        return [("affine", 1 / before.scale_, -before.mean_ / before.scale_)]
    if kind == "MinMaxScaler":
        return [("affine", before.scale_, before.min_)]
    if kind == "PCA":
        return [
            ("affine", np.ones(len(before.mean_)), -before.mean_),
            ("linear", before.components_.T, None),
        ]
    return []


def _steps_of(estimator, n_classes: int) -> list:
    kind = type(estimator).__name__
    steps: list = []
    if hasattr(estimator, "coefs_"):
        name = {"logistic": "sigmoid"}.get(estimator.activation, estimator.activation)
        for i, (weight, bias) in enumerate(
            zip(estimator.coefs_, estimator.intercepts_, strict=True)
        ):
            steps.append(("linear", weight, bias))
            if i + 1 < len(estimator.coefs_) and name != "identity":
                steps.append(("activation", name, {}))
        out = {"logistic": "sigmoid"}.get(estimator.out_activation_, estimator.out_activation_)
        return steps if out == "identity" else [*steps, ("activation", out, {})]
    weight = np.atleast_2d(estimator.coef_).T
    steps.append(("linear", weight, np.atleast_1d(estimator.intercept_)))
    if kind in ("LogisticRegression", "LinearDiscriminantAnalysis"):
        steps.append(("activation", "sigmoid" if n_classes == 2 else "softmax", {}))
    return steps


def _ask_sklearn(estimator):
    def ask(x):
        if hasattr(estimator, "predict_proba"):
            p = estimator.predict_proba(x)
            return p if p.shape[1] > 2 else p[:, 1:]
        if hasattr(estimator, "decision_function"):
            return estimator.decision_function(x).reshape(len(x), -1)
        return estimator.predict(x).reshape(len(x), -1)

    return ask


EXPORTERS = {
    "torch dynamo=False": (torch_script, ELEMENTWISE),
    "torch dynamo=True": (torch_dynamo, ELEMENTWISE),
    "scikit-learn": (scikit_learn, ("identity", "sigmoid", "tanh", "relu", "", "")),
    "keras": (keras_torch, ELEMENTWISE),
}
"""By name: the exporter, and the activations to begin with in turn."""
