"""Layers from arrays that have names and nothing else: no architecture, no activations.

PyTorch's state dicts, safetensors files of them, and .npz files hold `fc1.weight`, `W0`,
`coefs_1`, `dense_2/kernel:0`, ... A name is read as words and numbers: the last word
(weight, kernel, bias, intercept, running_mean, ...) says what the array is, the rest which layer it
belongs to. Names that are alike but for their numbers are in the order of those; where names differ
otherwise ("fc1", "fc2", "head"), the order is the one in which the layers fit each other.

Invariant: nothing is guessed. The activations are the caller's, one a layer; two orders or two
orientations that both fit are refused, and so is an array of no known role. Sizes are checked
before anything is computed, and the search for the order is bounded.
"""

from __future__ import annotations

import dataclasses
import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from fastnn.checks import brief
from fastnn.formats.model_file import MAX_LAYERS, Wrong, checked, quoted, shortened
from fastnn.formats.steps import Steps
from fastnn.layers import Dense

__all__ = ["LAYOUTS", "Activation", "activation", "checked_options", "layers"]

LAYOUTS = ("inputs_outputs", "outputs_inputs")

Activation = tuple[str, dict[str, float]]
Arrays = Mapping[str, npt.NDArray[Any]]

_EPSILON = 1e-5  # of BatchNorm1d: PyTorch's default, which its files do not hold
_MAX_NAME = 200
_MAX_GROUPS = 32  # of names that are alike but for their numbers
_MAX_TRIES = 10_000  # of orders; a sound file needs about as many as it has layers

_ROLES = {
    **dict.fromkeys(("weight", "weights", "w", "kernel", "kernels", "coef", "coefs"), "weight"),
    **dict.fromkeys(("bias", "biases", "b", "intercept", "intercepts"), "bias"),
    "running_mean": "mean",
    "running_var": "variance",
    "num_batches_tracked": "count",
}
_NORM = {"mean", "variance"}
_WORD = re.compile(r"running_mean|running_var|num_batches_tracked|[0-9]+|[^\W\d_]+")
_TEXT = re.compile(r"(\w+)(?:\(([^()]*)\))?", re.ASCII)
_PARAMETER = re.compile(r" *(\w+) *= *([-+.\w]+) *", re.ASCII)


def activation(text: str) -> Activation:
    """The name and parameters in "relu" or "leaky_relu(alpha=0.1)", in fastnn's names.

    ValueError for anything else, an activation or a parameter that is not known included.
    """
    match = _TEXT.fullmatch(text)
    given = match[2].split(",") if match and match[2] else []
    pairs = [_PARAMETER.fullmatch(part) for part in given]
    if match is None or None in pairs:
        raise ValueError(
            f"{quoted(text)} is no activation such as 'relu' or 'leaky_relu(alpha=0.1)'"
        )
    values = {found[1]: float(found[2]) for found in pairs if found}
    if len(values) < len(pairs):
        raise ValueError(f"{quoted(text)} has a parameter twice")
    layer = Dense([[0]], [0], match[1], **values)  # knows all names, parameters and their ranges
    return layer.activation, dict(layer.parameters)


def checked_options(
    owner: str, activations: Sequence[str] | None, layout: str | None = None
) -> dict[str, Any]:
    """The options by name, `activations` parsed; errors begin with `owner`."""
    if layout is not None and layout not in LAYOUTS:
        raise ValueError(f"{owner}: layout is {brief(layout)}, wanted one of {', '.join(LAYOUTS)}")
    if activations is None:
        return {"activations": None, "layout": layout}
    if isinstance(activations, str) or not isinstance(activations, Sequence):
        kind = type(activations).__name__
        raise TypeError(f"{owner}: activations is a {kind}, wanted a list of one name a layer")
    parsed = []
    for i, text in enumerate(activations):
        if not isinstance(text, str):
            kind = type(text).__name__
            raise TypeError(f"{owner}: activations[{i}] is a {kind}, wanted a string")
        try:
            parsed.append(activation(text))
        except ValueError as error:
            raise ValueError(f"{owner}: activations[{i}]: {shortened(str(error))}") from None
    return {"activations": parsed, "layout": layout}


def layers(arrays: Arrays, activations: Sequence[Activation], layout: str | None) -> list[Dense]:
    """The layers that the named arrays make.

    `activations`: one for each dense layer and each BatchNorm, in order. `layout`: of the weights;
    None: the one that fits. Raises `Wrong`.
    """
    found = _found(arrays)
    chains: dict[str, list[_Layer]] = {}
    flaws: list[Wrong] = []
    for each in LAYOUTS if layout is None else (layout,):
        try:
            chains[each] = _ordered([_sized(one, each) for one in found])
        except Wrong as wrong:
            flaws.append(wrong)
    if len(chains) > 1:
        shapes = ", ".join(layer.text for layer in chains[LAYOUTS[0]])
        raise Wrong(f"layout= one of {', '.join(LAYOUTS)}", f"weights that fit both: {shapes}")
    if not chains:
        raise flaws[0]
    (chain,) = chains.values()
    if len(chain) != len(activations):
        raise Wrong(
            f"an activation for each of {len(chain)} layers: "
            + ", ".join(layer.text for layer in chain[:20]),
            f"{len(activations)}",
        )

    def build() -> list[Dense]:
        steps = Steps()
        for layer, (name, parameters) in zip(chain, activations, strict=True):
            layer.add(steps)
            steps.activation(name, **parameters)
        return steps.layers()

    return checked("the layers", build)


@dataclasses.dataclass(frozen=True)
class _Named:
    """The arrays of one layer by their roles, and how the layer is called."""

    name: str
    pattern: tuple[str, ...]  # the words of the name, "#" for each number
    numbers: tuple[int, ...]
    arrays: dict[str, npt.NDArray[Any]] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class _Layer:
    """A layer with its sizes, and how it is added to the steps."""

    pattern: tuple[str, ...]
    numbers: tuple[int, ...]
    n_inputs: int
    n_outputs: int
    is_norm: bool
    text: str
    add: Callable[[Steps], None]


def _found(arrays: Arrays) -> list[_Named]:
    layers: dict[tuple[Any, ...], _Named] = {}
    read = {name: _read(name) for name in arrays}
    if any(role is None for _, _, role in read.values()):
        return _by_position(arrays, read)
    for name in sorted(arrays, key=lambda name: read[name][2] != "weight"):  # which names the layer
        (pattern, numbers, role), array = read[name], arrays[name]
        assert role is not None
        layer = layers.setdefault((pattern, numbers), _Named(name, pattern, numbers))
        if role in layer.arrays:
            raise Wrong("one array of each role in a layer", f"{quoted(name)} beside another")
        if role != "count":
            _check(name, array)
            layer.arrays[role] = array
    if not 1 <= len(layers) <= 2 * MAX_LAYERS:
        raise Wrong(f"arrays of 1 to {2 * MAX_LAYERS} layers", f"those of {len(layers)}")
    return list(layers.values())


_Reading = tuple[tuple[str, ...], tuple[int, ...], str | None]


def _read(name: str) -> _Reading:
    """Pattern and numbers of the layer, and the role; None where no word is a role."""
    if len(name) > _MAX_NAME:
        raise Wrong(f"names of at most {_MAX_NAME} characters", quoted(name))
    words = _WORD.findall(name.removesuffix(":0"))  # TensorFlow's mark of a first output
    # Of the last word: "weight_g" is half of a weight, and no weight.
    last = max((i for i, word in enumerate(words) if not _is_number(word)), default=-1)
    role = _ROLES.get(words[last].lower()) if last >= 0 else None
    if role is not None:
        del words[last]
    pattern = tuple("#" if _is_number(word) else word for word in words)
    return pattern, tuple(int(word) for word in words if _is_number(word)), role


def _is_number(word: str) -> bool:
    return word[0] in "0123456789"


def _by_position(arrays: Arrays, read: Mapping[str, _Reading]) -> list[_Named]:
    """What `numpy.savez(path, *arrays)` calls arr_0, arr_1, ...: the i-th matrix and vector."""
    if len({pattern for pattern, _, _ in read.values()}) > 1 or not all(
        len(numbers) == 1 and role is None for _, numbers, role in read.values()
    ):
        odd = next(name for name, (_, _, role) in read.items() if role is None)
        roles = "weight, kernel, W, coefs, bias, b, intercepts, running_mean, running_var"
        raise Wrong(f"names with one of {roles}, or all like arr_0, arr_1", quoted(odd))
    if len({numbers for _, numbers, _ in read.values()}) < len(read):
        raise Wrong("each number once", quoted(sorted(arrays)))
    names = sorted(arrays, key=lambda name: read[name][1])
    weights = [name for name in names if arrays[name].ndim == 2]
    biases = [name for name in names if arrays[name].ndim != 2]
    if len(biases) not in (0, len(weights)):
        raise Wrong(
            "a vector of biases for each matrix, or none", f"{len(weights)} and {len(biases)}"
        )
    for name in names:
        _check(name, arrays[name])
    layers = [_Named(n, ("#",), (i,), {"weight": arrays[n]}) for i, n in enumerate(weights)]
    for layer, name in zip(layers, biases, strict=False):
        layer.arrays["bias"] = arrays[name]
    return layers


def _check(name: str, array: npt.NDArray[Any]) -> None:
    if array.dtype.kind != "f":
        raise Wrong(f"{quoted(name)} of floats", f"{array.dtype}")
    if not np.isfinite(array).all():
        raise Wrong(f"{quoted(name)} of finite numbers", "NaN or infinity")


def _sized(named: _Named, layout: str) -> _Layer:
    arrays, name = named.arrays, quoted(named.name)
    if arrays.keys() & _NORM:
        return _norm(named)
    weight = arrays.get("weight")
    if weight is None:
        raise Wrong("a weight for each bias", f"{name} alone")
    if weight.ndim != 2:
        raise Wrong(
            "weights of 2 dimensions, or with running_mean and running_var beside them (a "
            "BatchNorm1d): other layers are not supported",
            f"{name} of shape {weight.shape}",
        )
    matrix = weight if layout == "inputs_outputs" else weight.T
    n_inputs, n_outputs = matrix.shape
    bias = arrays.get("bias")
    if bias is not None:
        if bias.size != n_outputs or bias.ndim > 2:
            raise Wrong(
                f"{n_outputs} biases beside {name} of shape {weight.shape}, read as {layout}",
                f"shape {bias.shape}",
            )
        bias = bias.reshape(-1)

    return _Layer(
        named.pattern, named.numbers, n_inputs, n_outputs, False,
        f"{name} ({n_inputs} to {n_outputs})", lambda steps: steps.linear(matrix, bias),
    )  # fmt: skip


def _norm(named: _Named) -> _Layer:
    arrays, name = named.arrays, quoted(named.name)
    if not arrays.keys() >= _NORM:
        raise Wrong("running_mean and running_var together", f"one of them, {name}")
    mean, variance, weight, bias = (arrays.get(r) for r in ("mean", "variance", "weight", "bias"))
    assert mean is not None
    assert variance is not None
    n = mean.size
    if not n:
        raise Wrong(f"values in {name}", "none")
    return _Layer(
        named.pattern, named.numbers, n, n, True, f"{name} (BatchNorm of {n})",
        lambda steps: steps.normalization(mean, variance, _EPSILON, weight, bias),
    )  # fmt: skip


# A layer, and the BatchNorm of the same number that belongs to it, if its name says so.
_Unit = tuple[_Layer, ...]


def _ordered(found: Sequence[_Layer]) -> list[_Layer]:
    """The layers in the one order that their names and sizes allow."""
    groups: dict[tuple[str, ...], list[_Unit]] = defaultdict(list)
    for unit in _units(found):
        groups[unit[0].pattern].append(unit)
    for group in groups.values():
        group.sort(key=lambda unit: unit[0].numbers)
    if len(groups) == 1:
        (order,) = groups.values()
        chain = [layer for unit in order for layer in unit]
        for before, after in zip(chain, chain[1:], strict=False):
            if before.n_outputs != after.n_inputs:
                raise Wrong(f"a layer of {before.n_outputs} inputs after {before.text}", after.text)
        return chain
    orders = _orders(list(groups.values())) if len(groups) <= _MAX_GROUPS else []
    if len(orders) != 1:
        which = "none" if not orders else "two or more"
        raise Wrong(
            "names that say the order of the layers, such as 0.weight, 0.bias, 1.weight, ..., or "
            f"sizes that leave one order: {', '.join(layer.text for layer in found[:20])}",
            f"{which} that fit",
        )
    return [layer for unit in orders[0] for layer in unit]


def _units(found: Sequence[_Layer]) -> list[_Unit]:
    """fc1 and bn1 are one unit, bn1 behind; a BatchNorm of another name or number is its own.

    It might as well be in front of a layer of as many inputs as outputs: that is refused, but where
    layers of the same names whose sizes tell have theirs behind.
    """
    dense: dict[tuple[int, ...], list[_Layer]] = defaultdict(list)
    for layer in found:
        if not layer.is_norm and layer.numbers:
            dense[layer.numbers].append(layer)
    patterns = {layer.pattern for layer in found if not layer.is_norm}
    after: dict[int, _Layer] = {}
    behind, in_front, either = set(), set(), []  # names of pairs, as their sizes have it
    for layer in found:
        owners = dense[layer.numbers] if layer.is_norm and layer.pattern not in patterns else []
        if len(owners) != 1:
            continue
        (owner,), n, names = owners, layer.n_inputs, (owners[0].pattern, layer.pattern)
        if owner.n_outputs != n:
            if owner.n_inputs == n:
                in_front.add(names)
            continue
        if id(owner) in after:
            raise Wrong(f"one BatchNorm of the number of {owner.text}", "two")
        after[id(owner)] = layer
        if owner.n_inputs == n:
            either.append((owner, layer))
        else:
            behind.add(names)
    for owner, layer in either:
        if (owner.pattern, layer.pattern) not in behind - in_front:
            raise Wrong(
                f"numbers that say which of {layer.text} and {owner.text} is first, such as 0 and "
                "1",
                "one number for both, and sizes that fit either way",
            )
    taken = {id(layer) for layer in after.values()}
    return [
        (layer, after[id(layer)]) if id(layer) in after else (layer,)
        for layer in found
        if id(layer) not in taken
    ]


def _orders(groups: Sequence[Sequence[_Unit]]) -> list[tuple[_Unit, ...]]:
    """Up to two orders in which all units fit each other, those of a group in theirs."""
    n_units = sum(map(len, groups))
    orders: list[tuple[_Unit, ...]] = []
    states: list[tuple[tuple[_Unit, ...], tuple[int, ...]]] = [((), (0,) * len(groups))]
    n_tries = 0
    while states and len(orders) < 2:
        order, used = states.pop()
        if len(order) == n_units:
            orders.append(order)
            continue
        for i, group in enumerate(groups):
            if used[i] == len(group):
                continue
            unit = group[used[i]]
            if not order or order[-1][-1].n_outputs == unit[0].n_inputs:
                n_tries += 1
                states.append(((*order, unit), (*used[:i], used[i] + 1, *used[i + 1 :])))
        if n_tries > _MAX_TRIES:
            raise Wrong("names that say the order of the layers", "too many orders to try")
    return orders
