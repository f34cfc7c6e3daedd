"""Keras 3 networks: `from_keras`, and what the readers of `.keras` and `.h5` files share.

A Keras model, living or saved, is a configuration in JSON (which layers, in which order) and the
weights of each layer. `layers` interprets the configuration, with weights from wherever its caller
has them.

Invariant: the configuration is data. Classes and functions are names in the tables below, nothing
is imported, called or deserialised by name; Lambda, custom and registered objects and all that is
not in the tables are refused by name. A network is a chain: branches, shared layers and several
inputs or outputs are refused.
"""

from __future__ import annotations

import importlib
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from fastnn.formats.model_file import MAX_LAYERS, Wrong, checked, json_object, quoted
from fastnn.formats.steps import Steps
from fastnn.layers import Dense
from fastnn.model import Model

__all__ = ["Place", "from_keras", "layers"]

_Array = npt.NDArray[Any]

MAX_DEPTH = 8  # of models in models
JSON_LIMITS = 32_768, 65_536  # objects and commas: a layer has some twenty of each


def from_keras(model: Any, *, isa: str | None = None) -> Model:
    """A built Keras 3 model as a Model, which computes what it does outside of training.

    `model`: a Sequential or functional model, nested or not, that is a chain of the layers which
    docs/import.md lists. `isa` as for `Model`. BatchNormalization is folded, and so are Rescaling
    and Normalization; dropout is left out.

    Raises TypeError for another object, a model of a class of your own among them, ValueError for
    what is not supported (named, with what is) or not built yet.
    """
    kind = type(model)
    if kind.__module__.split(".")[0] != "keras" or kind.__name__ not in _MODELS:
        raise TypeError(
            f"from_keras: model is a {kind.__name__}, wanted a Sequential or functional model of "
            "Keras 3"
        )

    def weights(place: Place, names: Sequence[str]) -> list[_Array]:
        layer = model
        for level in place:
            layer = layer.get_layer(level.name)
        by_name = {variable.name: variable for variable in layer.weights}
        missing = [name for name in names if name not in by_name]
        if missing:
            raise Wrong(f"{missing[0]} in {layer.name}", "none: build or call the model first")
        return [_as_floats(by_name[name].numpy()) for name in names]

    try:
        _check_living(model)
        return Model(
            layers(json_object(model.to_json(), "the configuration", *JSON_LIMITS), weights),
            isa=isa,
        )
    except Wrong as wrong:
        expected, found = wrong.args
        raise ValueError(f"from_keras: expected {expected}, found {found}") from None


def _check_living(model: Any) -> None:
    """Refuses what the configuration of a living model does not tell, as it has names only: a layer
    that a Sequential calls twice, and somebody else's function of the name of one of Keras'."""
    activations = importlib.import_module("keras.activations")  # of the Keras that made the model
    for i, layer in enumerate(model.layers):
        if any(layer is one for one in model.layers[:i]):
            raise Wrong("each layer to be called once", f"{layer.name} twice")
        if type(layer).__name__ in _MODELS:
            _check_living(layer)
        function = getattr(layer, "activation", None)
        name = getattr(function, "__name__", None)
        if name in _ACTIVATIONS and activations.get(name) is not function:
            raise Wrong(
                f"the activation of {layer.name} to be keras.activations.{name}",
                f"{name} of {getattr(function, '__module__', None)}",
            )


def _as_floats(array: _Array) -> _Array:
    return array.astype(np.float32) if array.dtype.name == "bfloat16" else array


# ---- the configuration ---------------------------------------------------------------------------


class Level(NamedTuple):
    """A layer among those of its model: its own name, and what `.keras` files call it."""

    name: str
    stored: str


Place = tuple[Level, ...]
"""Where a layer is: the models that it is in, outermost first, and itself."""


class Weights(Protocol):
    """Gives the arrays of a layer by the names of its variables; raises `Wrong`."""

    def __call__(self, place: Place, names: Sequence[str]) -> list[_Array]: ...


def layers(config: dict[str, Any], weights: Weights, changed: Sequence[str] = ()) -> list[Dense]:
    """The layers of the model with this configuration, by a Keras that had other activations of
    the names `changed`. Raises `Wrong`.
    """
    chain = list(_chain(config, ()))
    if len(chain) > 16 * MAX_LAYERS:
        raise Wrong(f"at most {16 * MAX_LAYERS} layers", f"{len(chain)}")
    steps = Steps(_n_inputs(chain))
    is_flat = not _has_axes(chain)
    for place, kind, settings in chain:
        what = f"the layer {quoted(place[-1].name)}, a {kind},"
        if settings.get("activation") in changed:
            raise Wrong("activations that Keras 2 and 3 have in common", settings["activation"])
        is_flat = is_flat or kind == "Flatten"
        if not is_flat and settings.get("axis") in (1, [1]):
            raise Wrong(f"{what} over the last axis, -1", "axis 1 of values in more than one axis")
        if not is_flat and _is_over_outputs(kind, settings) and _has_lead(chain):
            raise Wrong(f"{what} over all values of a row", "those of the last of several axes")

        def take(*names: str, place: Place = place) -> list[_Array]:
            return weights(place, names)

        def add(kind: str = kind, settings: dict[str, Any] = settings) -> None:
            _LAYERS[kind](steps, settings, take)

        checked(what, add)
    return checked("the layers", steps.layers)


def _chain(
    config: Any, place: Place, depth: int = 0
) -> Iterator[tuple[Place, str, dict[str, Any]]]:
    """Place, class and settings of each layer of a model, models in it taken apart."""
    kind, settings = _class_of(config)
    if kind not in _MODELS:
        raise Wrong(f"a model of a class in {', '.join(_MODELS)}", quoted(kind))
    if depth > MAX_DEPTH:
        raise Wrong(f"models at most {MAX_DEPTH} deep in one another", "more")
    entries = settings.get("layers")
    if not isinstance(entries, list) or not entries:
        raise Wrong(f"a list of layers in {quoted(settings.get('name'))}", quoted(entries))
    used: Counter[str] = Counter()
    names = set()
    levels = {}
    for entry in entries:
        inner, about = _class_of(entry)
        name = about.get("name")
        if not isinstance(name, str) or name in names:
            raise Wrong("layers with names of their own", quoted(name))
        names.add(name)
        stored = _snake_case(inner)
        levels[name] = Level(name, f"{stored}_{used[stored]}" if used[stored] else stored)
        used[stored] += 1
    for entry in entries if kind == "Sequential" else _in_order(settings, entries):
        inner, about = _class_of(entry)
        here = (*place, levels[about["name"]])
        if inner in _MODELS:
            yield from _chain(entry, here, depth + 1)
        elif inner in _LAYERS:
            yield here, inner, about
        else:
            raise Wrong(
                f"layers of the classes {', '.join((*_LAYERS, *_MODELS))}",
                f"{quoted(about['name'])} of the class {quoted(inner)}",
            )


def _class_of(entry: Any) -> tuple[str, dict[str, Any]]:
    """Class and settings of a serialised object of Keras' own."""
    if not isinstance(entry, dict) or not isinstance(entry.get("config"), dict):
        raise Wrong("layers as objects with a class_name and a config", quoted(entry))
    kind, module = entry.get("class_name"), entry.get("module", "keras")
    registered = entry.get("registered_name")
    is_own = isinstance(module, str) and module.split(".")[0] == "keras"
    if not isinstance(kind, str) or not is_own or registered not in (None, kind):
        raise Wrong(
            "classes of Keras itself, as custom and registered objects are not supported",
            quoted(f"{module}.{kind}" if registered in (None, kind) else registered),
        )
    return kind, entry["config"]


def _in_order(settings: dict[str, Any], entries: list[Any]) -> Iterator[Any]:
    """The layers of a functional model from its one input to its one output."""
    after: dict[str, Any] = {}  # the layer that takes what the layer of this name gives
    for entry in entries:
        source = _source(entry)
        if source is None:
            continue
        if source in after:
            raise Wrong("a chain of layers", f"two that take what {quoted(source)} gives")
        after[source] = entry
    first, last = (_end(settings.get(key), key) for key in ("input_layers", "output_layers"))
    by_name = {entry["config"]["name"]: entry for entry in entries}
    if first not in by_name or _source(by_name[first]) is not None:
        raise Wrong("the input to be a layer that takes nothing", quoted(first))
    entry, n = by_name[first], 1
    yield entry
    while (name := entry["config"]["name"]) != last:
        if name not in after or n == len(entries):
            raise Wrong(f"a chain of layers to {quoted(last)}", f"an end at {quoted(name)}")
        entry, n = after[name], n + 1
        yield entry
    if n != len(entries):
        raise Wrong(f"a chain of {len(entries)} layers", f"one of {n} and layers beside it")


def _source(entry: dict[str, Any]) -> str | None:
    """The name of the layer whose output this one takes; None for an input."""
    nodes = entry.get("inbound_nodes")
    name = quoted(entry["config"].get("name"))
    if nodes == []:
        return None
    if not isinstance(nodes, list) or len(nodes) != 1:
        raise Wrong(f"{name} to be called once", quoted(nodes))
    (node,) = nodes
    if isinstance(node, dict):  # Keras 3: {"args": [tensor], "kwargs": {...}}
        options, args = node.get("kwargs"), node.get("args")
        tensor = args[0] if isinstance(args, list) and len(args) == 1 else None
        found = tensor.get("config") if isinstance(tensor, dict) else None
        history = found.get("keras_history") if isinstance(found, dict) else None
    else:  # Keras 2: [[name, 0, 0, {...}]]
        history = node[0] if isinstance(node, list) and len(node) == 1 else None
        options = history[3] if isinstance(history, list) and len(history) == 4 else None
        history = history[:3] if isinstance(history, list) else None
    if not isinstance(options, dict) or any(options.values()):
        raise Wrong(f"{name} to be called with one tensor alone", quoted(node))
    return _tensor(history, name)


def _end(ends: Any, what: str) -> str:
    """The one layer of "input_layers" or "output_layers"."""
    if isinstance(ends, list) and len(ends) == 1:
        (ends,) = ends
    return _tensor(ends, what)


def _tensor(history: Any, what: str) -> str:
    """[name of a layer, which call of it, which of its outputs]: the layer, if it has one output.

    The call is the only one in this model, whatever its number: Keras 2 counts others, too.
    """
    is_one = isinstance(history, list) and len(history) == 3 and history[2] == 0
    if not is_one or type(history[1]) is not int:
        raise Wrong(f"one tensor for {what}", quoted(history))
    if not isinstance(history[0], str):
        raise Wrong(f"the name of a layer for {what}", quoted(history[0]))
    return history[0]


def _snake_case(name: str) -> str:
    name = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub("([a-z])([A-Z])", r"\1_\2", name).lower()


def _shape(chain: Sequence[tuple[Place, str, dict[str, Any]]]) -> Any:
    """The shape of the input, if the first layer says it; nothing in it is checked."""
    settings = chain[0][2]
    return settings.get("batch_shape", settings.get("batch_input_shape"))


def _has_axes(chain: Sequence[tuple[Place, str, dict[str, Any]]]) -> bool:
    """Whether the values of a row lie along several axes, as those of an image."""
    shape = _shape(chain)
    return isinstance(shape, list) and len(shape) > 2


def _has_lead(chain: Sequence[tuple[Place, str, dict[str, Any]]]) -> bool:
    """Whether the last of these axes is not all of a row, as it is where other sizes are open."""
    return _n_inputs(chain) is not None and any(n != 1 for n in _shape(chain)[1:-1])


def _is_over_outputs(kind: str, settings: dict[str, Any]) -> bool:
    name = settings.get("activation")
    if isinstance(name, dict):
        name = name.get("class_name")
    return kind == "Softmax" or name in ("Softmax", "softmax", "log_softmax")


def _n_inputs(chain: Sequence[tuple[Place, str, dict[str, Any]]]) -> int | None:
    """How many values a row has, if the first layer says so."""
    shape = _shape(chain)
    if not isinstance(shape, list) or len(shape) > 8:
        return None
    sizes = shape[1:]
    return math.prod(sizes) if all(type(n) is int and 0 < n < 2**24 for n in sizes) else None


# ---- layers --------------------------------------------------------------------------------------

Take = Callable[..., list[_Array]]
"""The weights of the layer at hand by the names of its variables, in the order Keras saves them."""


def _dense(steps: Steps, settings: dict[str, Any], take: Take) -> None:
    if settings.get("lora_rank") or settings.get("quantization_config"):
        raise ValueError("quantized layers and those with LoRA are not supported")
    policy = settings.get("dtype")
    if isinstance(policy, dict) and policy.get("class_name") != "DTypePolicy":
        raise ValueError(f"the dtype policy {quoted(policy.get('class_name'))} is not supported")
    has_bias = _flag(settings, "use_bias")
    kernel, *bias = take("kernel", *(("bias",) if has_bias else ()))
    if kernel.ndim != 2 or kernel.shape[1] != settings.get("units"):
        raise ValueError(
            f"kernel has shape {kernel.shape} for {quoted(settings.get('units'))} units"
        )
    steps.linear(kernel, bias[0] if bias else None)
    _apply(steps, settings.get("activation"))


def _activation(steps: Steps, settings: dict[str, Any], take: Take) -> None:
    _apply(steps, settings.get("activation"))


def _apply(steps: Steps, name: Any) -> None:
    """An activation by its name, or as a layer, which Keras takes, too."""
    if name is None:
        return
    if isinstance(name, dict) and name.get("class_name") in ("ReLU", "LeakyReLU", "ELU", "Softmax"):
        kind, settings = _class_of(name)
        _LAYERS[kind](steps, settings, _nothing)
        return
    if not isinstance(name, str) or name not in _ACTIVATIONS:
        wanted = ", ".join(_ACTIVATIONS)
        raise ValueError(f"the activation {quoted(name)} is not supported, only {wanted}")
    activation, parameters = _ACTIVATIONS[name]
    steps.activation(activation, **parameters)


def _relu(steps: Steps, settings: dict[str, Any], take: Take) -> None:
    """max_value above, negative_slope below 0; with a threshold it is another function."""
    top, slope = settings.get("max_value"), _number(settings, "negative_slope", 0.0)
    if _number(settings, "threshold", 0.0) or (top is not None and slope):
        raise ValueError("threshold, or max_value and negative_slope together, are not supported")
    if slope:
        steps.activation("leaky_relu", alpha=slope)
    elif top is not None:
        top = _number(settings, "max_value", None)
        steps.activation("relu6") if top == 6 else steps.activation("clip", lo=0.0, hi=top)
    else:
        steps.activation("relu")


def _leaky_relu(steps: Steps, settings: dict[str, Any], take: Take) -> None:
    name = "alpha" if "alpha" in settings else "negative_slope"  # Keras 2 called it alpha
    steps.activation("leaky_relu", alpha=_number(settings, name, None))


def _elu(steps: Steps, settings: dict[str, Any], take: Take) -> None:
    steps.activation("elu", alpha=_number(settings, "alpha", None))


def _softmax(steps: Steps, settings: dict[str, Any], take: Take) -> None:
    _check_axis(settings)
    steps.activation("softmax")


def _batch_normalization(steps: Steps, settings: dict[str, Any], take: Take) -> None:
    _check_axis(settings)
    if settings.get("renorm"):
        raise ValueError("renorm is not supported")
    has_gamma, has_beta = _flag(settings, "scale"), _flag(settings, "center")
    names = [*["gamma"] * has_gamma, *["beta"] * has_beta, "moving_mean", "moving_variance"]
    found = dict(zip(names, take(*names), strict=True))
    steps.normalization(
        found["moving_mean"],
        found["moving_variance"],
        _number(settings, "epsilon", None),
        found.get("gamma"),
        found.get("beta"),
    )


def _rescaling(steps: Steps, settings: dict[str, Any], take: Take) -> None:
    steps.affine(_numbers(settings, "scale"), _numbers(settings, "offset"))


@np.errstate(over="ignore", invalid="ignore")  # Dense refuses what comes of it
def _normalization(steps: Steps, settings: dict[str, Any], take: Take) -> None:
    """(x - mean) / sqrt(variance), of the last axis or of all values."""
    if settings.get("invert"):
        raise ValueError("invert=True is not supported")
    if settings.get("axis") not in (None, []):  # one mean for all
        _check_axis(settings)
    if settings.get("mean") is None:
        mean, variance = take("mean", "variance")
    else:
        mean, variance = _numbers(settings, "mean"), _numbers(settings, "variance")
    if np.min(variance) < 0:
        raise ValueError("a variance below 0")
    scale = 1 / np.maximum(np.sqrt(variance.astype(np.float64)), 1e-7)  # Keras' own least
    steps.affine(scale, -mean * scale)


def _flatten(steps: Steps, settings: dict[str, Any], take: Take) -> None:
    if settings.get("data_format") == "channels_first":
        raise ValueError("data_format channels_first moves the values and is not supported")


def _drop(steps: Steps, settings: dict[str, Any], take: Take) -> None:
    """Nothing: what it does, it does in training only."""


_LAYERS: dict[str, Callable[[Steps, dict[str, Any], Take], None]] = {
    "Dense": _dense,
    "Activation": _activation,
    "ReLU": _relu,
    "LeakyReLU": _leaky_relu,
    "ELU": _elu,
    "Softmax": _softmax,
    "BatchNormalization": _batch_normalization,
    "Rescaling": _rescaling,
    "Normalization": _normalization,
    "Flatten": _flatten,
    "InputLayer": _drop,
    "Identity": _drop,
    "Dropout": _drop,
    "AlphaDropout": _drop,
    "GaussianDropout": _drop,
    "GaussianNoise": _drop,
    "ActivityRegularization": _drop,
}

_MODELS = ("Sequential", "Functional", "Model")

_ACTIVATIONS: dict[str, tuple[str, dict[str, float]]] = {
    "linear": ("identity", {}),
    "relu": ("relu", {}),
    "relu6": ("relu6", {}),
    "leaky_relu": ("leaky_relu", {"alpha": 0.2}),
    "elu": ("elu", {}),
    "celu": ("elu", {}),  # with alpha 1 they are one
    "selu": ("selu", {}),
    "gelu": ("gelu", {}),
    "silu": ("silu", {}),
    "swish": ("silu", {}),
    "hard_silu": ("hardswish", {}),
    "hard_swish": ("hardswish", {}),
    "sigmoid": ("sigmoid", {}),
    "hard_sigmoid": ("hardsigmoid", {}),
    "tanh": ("tanh", {}),
    "hard_tanh": ("clip", {"lo": -1.0, "hi": 1.0}),
    "softplus": ("softplus", {}),
    "softsign": ("softsign", {}),
    "exponential": ("exp", {}),
    "softmax": ("softmax", {}),
    "log_softmax": ("log_softmax", {}),
}
"""Keras 3's functions by the names that it saves; as their defaults have the parameters."""


def _nothing(*names: str) -> list[_Array]:
    return []


def _flag(settings: dict[str, Any], name: str) -> bool:
    value = settings.get(name)
    if not isinstance(value, bool):
        raise ValueError(f"{name} is {quoted(value)}, wanted true or false")
    return value


def _number(settings: dict[str, Any], name: str, default: float | None) -> float:
    value = settings.get(name)
    if value is None and default is not None:
        return default
    if type(value) is int or type(value) is float:
        return float(value)
    raise ValueError(f"{name} is {quoted(value)}, wanted a number")


def _numbers(settings: dict[str, Any], name: str) -> npt.NDArray[np.float64]:
    """A number, or a list of one for each value."""
    value = settings.get(name)
    for one in value if isinstance(value, list) else [value]:
        if type(one) not in (int, float):
            raise ValueError(f"{name} is {quoted(value)}, wanted a number or a list of numbers")
    return np.array(value, np.float64)


def _check_axis(settings: dict[str, Any]) -> None:
    if settings.get("axis") not in (-1, [-1], 1, [1]):
        raise ValueError(f"axis is {quoted(settings.get('axis'))}, wanted the last one, -1")
