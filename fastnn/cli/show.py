"""`fastnn info`, `models`, `summary`, `trace`: what is there, and what a network does inside."""

from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
from cyclopts import Parameter

import fastnn
from fastnn import mnist, text
from fastnn.bench.speed import BATCH, speeds
from fastnn.cli.about import about, about_text
from fastnn.cli.output import (
    Isa,
    Json,
    Precision,
    UsageError,
    described,
    note,
    percent,
    result,
    result_json,
)
from fastnn.model import units_text

ACCURACY = {
    "float32": "test_accuracy",
    "int8": "test_accuracy_int8",
    "certified": "test_accuracy_certified",
}
"""The precisions of a released model, and the names of their accuracies in its file's metadata."""

_SECONDS = 1.2  # to measure all models; loading and warming up take as long again
_TERMS = 8  # inputs of a neuron whose sum is still written out
_NEURONS = 16
_SHOWN = 16  # values of a longer vector
_INK = ".:-=+*#%@"  # from background to ink


def info(*, json: Json = False) -> None:
    """Show the CPU, the instruction set chosen, the kernels, the threads and the build."""
    facts = about()
    if json:
        result_json(facts)
    else:
        result(about_text(facts))


def models(
    *,
    speed: Annotated[
        bool, Parameter(help="Measure their speed here, in about two seconds.")
    ] = True,
    precision: Precision = None,
    json: Json = False,
) -> None:
    """List the models that ship with fastnn: size, accuracy on MNIST's test set, speed here.

    Accuracies are those that the files state, measured once when they were released; the certified
    labels are float32's. --precision is that of the speeds; where a model cannot have it, there is
    none.
    """
    listed = {name: fastnn.load(name) for name in fastnn.models()}
    timed = {
        name: found
        for name, model in listed.items()
        if speed and (found := _in_precision(model, precision)) is not None
    }
    measured = dict(zip(timed, speeds(list(timed.values()), seconds=_SECONDS), strict=True))
    if json:
        result_json(
            [
                {
                    "name": name,
                    **_described(model),
                    "test_accuracy": accuracies(model.metadata),
                    "speed": {"precision": timed[name].precision, **measured[name]._asdict()}
                    if name in timed
                    else None,
                }
                for name, model in listed.items()
            ]
        )
        return
    rows = []
    for name, model in listed.items():
        stated = accuracies(model.metadata)
        rows.append(
            [
                name,
                "-".join(str(n) for n in (model.n_inputs, *(d.n_outputs for d in model.layers))),
                f"{model.n_parameters:,}",
                *(percent(stated[key]) if key in stated else "" for key in ACCURACY),
            ]
        )
        if name in measured:
            rows[-1] += [
                text.duration(measured[name].row_seconds),
                f"{measured[name].rows_per_s:,.0f}",
            ]
        elif speed:
            rows[-1] += ["", ""]
    titles = ["model", "layers", "parameters", *ACCURACY, *(["one row", "rows/s"] * speed)]
    result(text.table(titles, rows, right=range(2, len(titles))))
    result("\nfloat32, int8, certified: accuracy on MNIST's 10,000 test images")
    for kind in sorted({model.precision for model in timed.values()}):
        isa = next(m.pixel_kernel["isa"] for m in timed.values() if m.precision == kind)
        result(f"speed: {kind} on {isa}, one thread; rows/s in batches of {BATCH:,}")


def _in_precision(model: fastnn.Model, precision: str | None) -> fastnn.Model | None:
    try:
        return model if precision is None else model.astype(precision)
    except ValueError:  # no calibration, or nothing to certify
        return None


def accuracies(metadata: Mapping[str, str]) -> dict[str, float]:
    """The accuracies on the test set that a file states, by precision."""
    return {key: float(metadata[name]) for key, name in ACCURACY.items() if name in metadata}


def summary(
    model: str, /, *, precision: Precision = None, isa: Isa = None, json: Json = False
) -> None:
    """Show a model's layers, size and kernels, and what its file says about it.

    Parameters
    ----------
    model
        Name of a bundled model, or path of a file.
    """
    network = fastnn.load(model, precision=precision, isa=isa)
    if json:
        result_json(_described(network))
        return
    result(network.summary())
    if network.metadata:
        result("")
        for name, value in network.metadata.items():
            result(text.printable(f"{name}: {value}"))


def _described(model: fastnn.Model) -> dict[str, Any]:
    return {
        "n_inputs": model.n_inputs,
        "n_outputs": model.n_outputs,
        "task": model.task,
        "precision": model.precision,
        "calibration": described(model.calibration),
        "classes": model.classes_,
        "scale": model.scale,
        "mean": model.mean,
        "std": model.std,
        "n_parameters": model.n_parameters,
        "packed_bytes": model.nbytes,
        "pixel_kernel": dict(model.pixel_kernel),
        "layers": [
            {
                "n_inputs": layer.n_inputs,
                "n_outputs": layer.n_outputs,
                "activation": layer.activation,
                "parameters": dict(layer.parameters),
                "n_parameters": layer.n_parameters,
                "bytes": layer.nbytes,
                "kernel": dict(kernel),
            }
            for layer, kernel in zip(model.layers, model.kernels, strict=True)
        ],
        "metadata": dict(model.metadata),
    }


def trace(
    model: str,
    /,
    *inputs: Annotated[float, Parameter(help="One number per input of the network.")],
    isa: Isa = None,
    json: Json = False,
) -> None:
    """Show one forward pass step by step: every weight, z and activation of a small network.

    Without inputs, the first bundled digit where the model takes 784, else all ones.

    Parameters
    ----------
    model
        Name of a bundled model, or path of a file.
    """
    network = fastnn.load(model, isa=isa)
    x, origin = _row(network, inputs)
    if not inputs:
        note(f"no inputs given: {origin}{_invitation(model, network)}")
    steps = network.trace(x)
    answer = network.predict(x)[0]
    if json:
        result_json({"x": x[0], "layers": _steps(network, steps), "predict": answer})
        return
    values = x[0]
    if x.dtype == np.uint8:
        # The z of raw pixels come from the folded first layer; its weights are those for units.
        values = (x[0] * network.scale - network.mean) / network.std
        result(_picture(x[0].reshape(28, 28)))
        n_zeros = np.count_nonzero(x == 0)
        result(f"x = {x.size} pixels p, {n_zeros} of them 0, read as {units_text(network)}")
    else:
        result(f"x = {_vector(x[0])}")
    for i, (layer, (z, activation)) in enumerate(zip(network.layers, steps, strict=True)):
        result(f"\nlayer {i}: {layer.n_inputs} -> {layer.n_outputs}, {layer.activation}")
        for line in _layer_lines(layer, values, z[0], activation[0]):
            result(f"  {line}")
        values = activation[0]
    result(f"\npredict: {text.printable(str(answer))}")


def _row(model: fastnn.Model, inputs: tuple[float, ...]) -> tuple[np.ndarray, str]:
    if inputs:
        if len(inputs) != model.n_inputs:
            raise UsageError(f"trace: {len(inputs)} given, the network takes {model.n_inputs}")
        return np.array([inputs], np.float32), "as given"
    if model.n_inputs == 784:
        images, labels = mnist.sample()
        return images[:1].reshape(1, -1), f"the first bundled digit, a {labels[0]}"
    return np.ones((1, model.n_inputs), np.float32), "all ones"


def _invitation(name: str, model: fastnn.Model) -> str:
    if model.n_inputs > _TERMS:
        return ""
    return f"; your own: fastnn trace {name} {' '.join(f'X{k}' for k in range(model.n_inputs))}"


def _steps(model: fastnn.Model, steps: list[tuple[np.ndarray, np.ndarray]]) -> list[dict[str, Any]]:
    return [
        {
            "activation": layer.activation,
            "parameters": dict(layer.parameters),
            "weight": layer.weight,
            "bias": layer.bias,
            "z": z[0],
            "a": a[0],
        }
        for layer, (z, a) in zip(model.layers, steps, strict=True)
    ]


def _layer_lines(layer: fastnn.Dense, x: np.ndarray, z: np.ndarray, a: np.ndarray) -> list[str]:
    is_whole = layer.activation in ("softmax", "log_softmax")  # a function of all z together
    if layer.n_inputs > _TERMS or layer.n_outputs > _NEURONS:
        n_zeros = np.count_nonzero(x == 0)
        return [
            f"w: {layer.n_inputs} x {layer.n_outputs}, "
            f"{layer.weight.min():.4g} to {layer.weight.max():.4g}; "
            f"{n_zeros} of {layer.n_inputs} inputs are 0",
            f"z = {_vector(z)}",
            f"a = {layer.activation}(z) = {_vector(a)}",
        ]
    lines = []
    for j in range(layer.n_outputs):
        total = f"{layer.bias[j]:.6g}"
        for w, v in zip(layer.weight[:, j], x, strict=True):
            value = f"({v:.6g})" if v < 0 else f"{v:.6g}"
            total += f" {'-' if w < 0 else '+'} {abs(w):.6g}*{value}"
        lines.append(f"z{j} = {total} = {z[j]:.6g}")
        if not is_whole:
            lines.append(f"a{j} = {layer.activation}(z{j}) = {a[j]:.6g}")
    if is_whole:
        lines.append(f"a = {layer.activation}(z) = {_vector(a)}")
    return lines


def _vector(values: np.ndarray) -> str:
    shown = [f"{value:.6g}" for value in values[:_SHOWN]]
    if len(values) > _SHOWN:
        n_zeros = np.count_nonzero(values == 0)
        shown.append(f"... {len(values)} values, {n_zeros} of them 0")
    return f"[{', '.join(shown)}]"


def _picture(image: np.ndarray) -> str:
    """The image in characters, two rows in each line: a character is twice as high as wide."""
    lines = image.reshape(14, 2, 28).mean(axis=1)
    return "\n".join("".join(_INK[int(p * len(_INK) / 256)] for p in line) for line in lines)
