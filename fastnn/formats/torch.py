"""`from_torch`: a PyTorch module, or a state dict and its activations, as a fastnn Model.

A nested nn.Sequential is walked; a module with a forward() of its own is traced by torch.fx, and
its graph has to be a chain: one value that goes through one operation after the other. Both end in
the same tables, of layers (`_LAYERS`), of activations in their module and functional forms
(`_FORMS`) and of operations (`_OPERATIONS`).

Invariant: PyTorch is not imported: its classes and functions are recognised by their modules and
names, and torch.fx is taken from the PyTorch that made the module. What is not in the tables is
refused by name; the module is as in eval(), and left as it was.
"""

from __future__ import annotations

import copy
import importlib
import inspect
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from fastnn.checks import FLOAT32_MAX
from fastnn.formats import named
from fastnn.formats.model_file import Wrong
from fastnn.formats.named import Activation
from fastnn.formats.steps import Steps
from fastnn.model import Model

__all__ = ["from_torch"]


def from_torch(
    module_or_state_dict: Any,
    activations: Sequence[str] | None = None,
    *,
    classes: npt.ArrayLike | None = None,
    task: str | None = None,
    scale: npt.ArrayLike = 1.0,
    mean: npt.ArrayLike = 0.0,
    std: npt.ArrayLike = 1.0,
    isa: str | None = None,
) -> Model:
    """A PyTorch network as a Model, which computes what the module does after `.eval()`.

    Parameters
    ----------
    module_or_state_dict
        An nn.Sequential, nested or not, or a module whose forward() is a chain of layers and
        functions that torch.fx can trace; docs/import.md lists them. Or a mapping from names such
        as "fc1.weight" to tensors or arrays, weights of shape (outputs, inputs), as
        `state_dict()` gives it.
    activations
        For a mapping: one a layer, in fastnn's names, e.g. ["relu", "leaky_relu(alpha=0.1)"];
        "identity" after a layer, or a BatchNorm, that is followed by none.
    classes, task, scale, mean, std, isa
        As for `fastnn.Model`.

    Parameters of any floating dtype are converted; BatchNorm1d is folded with its running
    statistics (in a mapping: with PyTorch's default epsilon, 1e-5, which a state dict does not
    hold). The module is neither changed nor kept.

    Raises
    ------
    TypeError
        If it is neither module nor mapping, or activations are not strings.
    ValueError
        If something in it is not supported (named, with what is), does not fit, or is ambiguous.

    Examples
    --------
    >>> import fastnn
    >>> import numpy as np
    >>> state = {"0.weight": np.array([[1.0, 2.0]]), "0.bias": np.array([0.5])}
    >>> model = fastnn.from_torch(state, ["identity"])
    >>> model.predict([[1.0, 1.0]])
    array([3.5], dtype=float32)
    """
    given = module_or_state_dict
    if isinstance(given, Mapping):
        layers = _from_state_dict(given, activations)
    elif hasattr(given, "_modules") and hasattr(given, "state_dict"):
        if activations is not None:
            raise ValueError("from_torch: activations are given with a module, which has its own")
        layers = _from_module(given)
    else:
        raise TypeError(
            f"from_torch: module_or_state_dict is a {type(given).__name__}, wanted a "
            "torch.nn.Module or a mapping of names to tensors; fastnn.load reads .safetensors files"
        )
    return Model(layers, classes=classes, task=task, scale=scale, mean=mean, std=std, isa=isa)


# ---- state dicts ---------------------------------------------------------------------------------


def _from_state_dict(tensors: Mapping[str, Any], activations: Sequence[str] | None) -> list[Any]:
    if activations is None:
        raise ValueError(
            "from_torch: a state dict does not hold the activations, pass one a layer: "
            'from_torch(state_dict, ["relu", "softmax"])'
        )
    options = named.checked_options("from_torch", activations)
    arrays = {}
    for name, tensor in tensors.items():
        if not isinstance(name, str):
            raise TypeError(f"from_torch: the state dict has the key {name!r}, wanted strings")
        try:
            arrays[name] = _array(tensor)
        except ValueError as error:
            raise ValueError(f"from_torch: {name}: {error}") from None
    try:
        return named.layers(arrays, options["activations"], "outputs_inputs")
    except Wrong as wrong:
        expected, found = wrong.args
        raise ValueError(f"from_torch: expected {expected}, found {found}") from None


def _array(tensor: Any) -> npt.NDArray[Any]:
    """A tensor, an array or a number as an array; floats of any kind as float64 from a tensor."""
    if not hasattr(tensor, "detach"):
        return np.asarray(tensor)
    try:
        plain = tensor.detach().cpu()
        # NumPy has no bfloat16: all floats go through float64, which holds them exactly.
        return (plain.double() if plain.dtype.is_floating_point else plain).numpy()
    except (RuntimeError, TypeError, NotImplementedError) as error:  # on "meta", sparse, quantized
        raise ValueError(f"no plain tensor: {str(error).splitlines()[0]}") from None


# ---- modules -------------------------------------------------------------------------------------


def _from_module(module: Any) -> list[Any]:
    module = getattr(module, "_orig_mod", module)  # inside what torch.compile returns
    for name, child in _all_modules(module, ""):
        if getattr(child, "_forward_hooks", None) or getattr(child, "_forward_pre_hooks", None):
            raise _refusal(
                f"{name or 'the module'} has forward hooks, which may change any value; remove "
                "them (weight_norm and pruning have functions for it)"
            )
        if "forward" in vars(child):
            raise _refusal(f"{name or 'the module'} has a forward() that is not its class's")
    steps = Steps()
    if _is_walkable(module):
        for name, child in _all_modules(module, ""):
            _add_module(steps, name, child)
    else:
        _Graph(module, steps).run()
    try:
        return steps.layers()
    except ValueError as error:
        raise ValueError(f"from_torch: {error}") from None


def _all_modules(module: Any, name: str) -> Iterator[tuple[str, Any]]:
    """The module and what is in it, in order, by names such as "0.fc1"."""
    yield name, module
    for key, child in module._modules.items():
        if child is not None:
            yield from _all_modules(child, f"{name}.{key}" if name else key)


def _kind(module: Any) -> str | None:
    """The class of one of PyTorch's own modules; a subclass may compute anything."""
    kind = type(module)
    return kind.__name__ if kind.__module__.startswith("torch.nn.modules.") else None


def _is_walkable(module: Any) -> bool:
    """Whether only nested Sequentials decide what is called after what."""
    kind = _kind(module)
    if kind == "Sequential":
        return all(_is_walkable(child) for child in module._modules.values())
    return kind is not None and not module._modules


def _add_module(steps: Steps, name: str, module: Any) -> None:
    kind = _kind(module) or ""
    if kind == "Sequential":
        return
    where = f"{name} ({type(module).__name__})" if name else type(module).__name__
    try:
        if kind in _LAYERS:
            _LAYERS[kind](steps, module)
        elif kind in _BY_CLASS:
            form = _BY_CLASS[kind]
            _activate(steps, form, {key: getattr(module, key) for key in form.parameters})
        else:
            raise ValueError("no layer that fastnn has")
    except ValueError as error:
        raise _refusal(f"{where}: {error}") from None


def _refusal(what: str) -> ValueError:
    layers, activations = ", ".join(_LAYERS), ", ".join(_BY_CLASS)
    functions = ", ".join(sorted({*_BY_FUNCTION, *_OPERATIONS}))
    return ValueError(
        f"from_torch: {what}. It takes chains of {layers}; {activations}; in a forward() also the "
        f"functions {functions}"
    )


def _linear(steps: Steps, module: Any) -> None:
    _function_linear(steps, _X, module.weight, module.bias)


def _batch_norm(steps: Steps, module: Any) -> None:
    if module.running_mean is None or module.running_var is None:
        raise ValueError("track_running_stats=False: it takes its statistics from each batch")
    mean, variance = _constant(module.running_mean), _constant(module.running_var)
    weight, bias = (None if a is None else _constant(a) for a in (module.weight, module.bias))
    steps.normalization(mean, variance, module.eps, weight, bias)


def _flatten(steps: Steps, module: Any) -> None:
    _function_flatten(steps, None, module.start_dim, module.end_dim)


def _drop(steps: Steps, module: Any) -> None:
    """Nothing: what it does, it does in training only."""


_LAYERS: dict[str, Callable[[Steps, Any], None]] = {
    "Linear": _linear,
    "BatchNorm1d": _batch_norm,
    "Flatten": _flatten,
    "Identity": _drop,
    "Dropout": _drop,
    "AlphaDropout": _drop,
    "FeatureAlphaDropout": _drop,
}


# ---- activations ---------------------------------------------------------------------------------


class _Stretched(NamedTuple):
    """width * f(x / width), f being ours by that name with its defaults."""

    name: str
    width: float


class _Form(NamedTuple):
    """An activation of PyTorch's as a module and as a function, and ours for its parameters."""

    module: str | None
    functions: tuple[str, ...]  # of torch, torch.nn.functional, torch.special; methods of Tensor
    parameters: dict[str, Any]  # after the input, in the functions' order, with their defaults
    ours: Callable[..., Activation | _Stretched]


def _always(name: str) -> Callable[..., Activation]:
    return lambda: (name, {})


def _gelu(approximate: str) -> Activation:
    return ("gelu_tanh" if approximate == "tanh" else "gelu"), {}


def _prelu(weight: Any) -> Activation:
    slopes = _array(weight)
    if slopes.size != 1:
        raise ValueError(f"PReLU of {slopes.size} slopes, wanted one")
    return "leaky_relu", {"alpha": float(slopes.reshape(()))}


def _celu(alpha: float) -> _Stretched:
    if not alpha > 0:
        raise ValueError(f"alpha is {alpha}, wanted a number above 0")
    return _Stretched("elu", alpha)


def _clamp(min: Any = None, max: Any = None) -> Activation:  # noqa: A002 - PyTorch's names
    lo = -FLOAT32_MAX if min is None else _scalar(min)
    hi = FLOAT32_MAX if max is None else _scalar(max)
    return ("relu", {}) if (lo, hi) == (0, FLOAT32_MAX) else ("clip", {"lo": lo, "hi": hi})


def _softplus(beta: float, threshold: float) -> _Stretched:
    if not beta > 0 or threshold < 20:  # from 20 on, z and log(1 + exp(z)) are one float32
        raise ValueError(
            f"beta is {beta} and threshold {threshold}, wanted beta above 0, threshold 20 or more"
        )
    return _Stretched("softplus", 1 / beta)


def _heaviside(values: Any) -> Activation:
    if values is None or _scalar(values) != 0:
        raise ValueError("heaviside with another value at 0 than 0")
    return "step", {}


def _over_outputs(name: str) -> Callable[..., Activation]:
    def ours(dim: Any) -> Activation:
        if dim not in (None, 1, -1):  # None: PyTorch takes 1 for rows
            raise ValueError(f"dim is {dim}, wanted 1 or -1: over the outputs")
        return name, {}

    return ours


_FORMS = (
    _Form("ReLU", ("relu",), {}, _always("relu")),
    _Form("ReLU6", ("relu6",), {}, _always("relu6")),
    _Form("LeakyReLU", ("leaky_relu",), {"negative_slope": 0.01},
          lambda negative_slope: ("leaky_relu", {"alpha": negative_slope})),
    _Form("PReLU", ("prelu",), {"weight": None}, _prelu),
    _Form("RReLU", (), {"lower": 1 / 8, "upper": 1 / 3},
          lambda lower, upper: ("leaky_relu", {"alpha": (lower + upper) / 2})),
    _Form("Hardtanh", ("hardtanh",), {"min_val": -1.0, "max_val": 1.0},
          lambda min_val, max_val: ("clip", {"lo": min_val, "hi": max_val})),
    _Form(None, ("clamp", "clip"), {"min": None, "max": None}, _clamp),
    _Form(None, ("clamp_min",), {"min": None}, _clamp),
    _Form(None, ("clamp_max",), {"max": None}, _clamp),
    _Form("ELU", ("elu",), {"alpha": 1.0}, lambda alpha: ("elu", {"alpha": alpha})),
    _Form("CELU", ("celu",), {"alpha": 1.0}, _celu),
    _Form("SELU", ("selu",), {}, _always("selu")),
    _Form("GELU", ("gelu",), {"approximate": "none"}, _gelu),
    _Form("SiLU", ("silu",), {}, _always("silu")),
    _Form("Sigmoid", ("sigmoid", "expit", "special_expit"), {}, _always("sigmoid")),
    _Form("Tanh", ("tanh",), {}, _always("tanh")),
    _Form("Hardsigmoid", ("hardsigmoid",), {}, _always("hardsigmoid")),
    _Form("Hardswish", ("hardswish",), {}, _always("hardswish")),
    _Form("Softplus", ("softplus",), {"beta": 1.0, "threshold": 20.0}, _softplus),
    _Form("Softsign", ("softsign",), {}, _always("softsign")),
    _Form(None, ("exp",), {}, _always("exp")),
    _Form(None, ("heaviside",), {"values": None}, _heaviside),
    _Form("Softmax", ("softmax",), {"dim": None}, _over_outputs("softmax")),
    _Form("LogSoftmax", ("log_softmax",), {"dim": None}, _over_outputs("log_softmax")),
)  # fmt: skip

_BY_CLASS = {form.module: form for form in _FORMS if form.module is not None}
_BY_FUNCTION = {name: form for form in _FORMS for name in form.functions}


def _activate(steps: Steps, form: _Form, values: Mapping[str, Any]) -> None:
    ours = form.ours(**{**form.parameters, **values})
    if isinstance(ours, _Stretched):
        if ours.width != 1:
            steps.affine(1 / ours.width)
        steps.activation(ours.name)
        if ours.width != 1:
            steps.affine(ours.width)
    else:
        name, parameters = ours
        steps.activation(name, **{key: float(value) for key, value in parameters.items()})


# ---- operations: what else a forward() may do with the value, PyTorch's arguments ----------------

_X = object()
"""The value that goes through the chain, among the arguments of an operation."""


class _Fact(str):
    """What forward() may ask about the value, to no effect: its "shape", "rows", "dtype", ..."""


def _add(steps: Steps, x: Any, other: Any) -> None:
    steps.affine(1.0, _vector(x if other is _X else other))


def _sub(steps: Steps, x: Any, other: Any) -> None:
    if other is _X:
        steps.affine(-1.0, _vector(x))
    else:
        steps.affine(1.0, -_vector(other))


def _mul(steps: Steps, x: Any, other: Any) -> None:
    steps.affine(_vector(x if other is _X else other))


def _div(steps: Steps, x: Any, other: Any) -> None:
    with np.errstate(divide="ignore"):  # Dense refuses what is infinite
        steps.affine(1 / _vector(other))


def _matmul(steps: Steps, x: Any, other: Any) -> None:
    _check_is_value(x)
    steps.linear(_constant(other))


def _function_linear(steps: Steps, x: Any, weight: Any, bias: Any = None) -> None:
    _check_is_value(x)
    steps.linear(_constant(weight).T, None if bias is None else _constant(bias))


def _addmm(steps: Steps, bias: Any, x: Any, weight: Any) -> None:
    _check_is_value(x)
    steps.linear(_constant(weight), _vector(bias))


def _greater(steps: Steps, x: Any, other: Any) -> None:
    _check_is_value(x)
    if _scalar(other) != 0:
        raise ValueError("a comparison with something else than 0")
    steps.activation("step")


def _function_dropout(
    steps: Steps, x: Any, p: float = 0.5, training: bool = True, inplace: bool = False
) -> None:
    if training:
        raise ValueError("dropout that is on after eval(), too: pass training=self.training")


def _function_flatten(steps: Steps, x: Any, start_dim: int = 0, end_dim: int = -1) -> None:
    if (start_dim, end_dim) != (1, -1):
        raise ValueError(f"flatten from {start_dim} to {end_dim}, wanted from 1 to -1")


def _view(steps: Steps, x: Any, *shape: Any) -> None:
    sizes = shape[0] if len(shape) == 1 and isinstance(shape[0], list) else shape
    is_rows = len(sizes) == 2 and (sizes[0] == "rows" or sizes[0] == -1)
    if not is_rows or type(sizes[1]) is not int:
        raise ValueError("a shape that is not (rows, values)")
    if sizes[1] != -1:
        steps.values(sizes[1])


def _squeeze(steps: Steps, x: Any, dim: Any = None) -> None:
    if dim not in (None, 1, -1):
        raise ValueError(f"dim is {dim}, wanted none, 1 or -1")


def _same(steps: Steps, x: Any) -> None:
    """float(), contiguous(), ...: no other number."""


def _to(steps: Steps, x: Any, dtype: Any) -> None:
    if dtype != "dtype" and str(dtype) not in ("torch.float32", "torch.float64"):
        raise ValueError(f"a conversion to {dtype}")


_OPERATIONS: dict[str, Callable[..., None]] = {
    **dict.fromkeys(("add", "iadd"), _add),
    **dict.fromkeys(("sub", "isub", "subtract"), _sub),
    **dict.fromkeys(("mul", "imul", "multiply"), _mul),
    **dict.fromkeys(("div", "truediv", "itruediv", "divide"), _div),
    **dict.fromkeys(("neg", "negative"), lambda steps, x: steps.affine(-1.0)),
    **dict.fromkeys(("matmul", "mm"), _matmul),
    "linear": _function_linear,
    "addmm": _addmm,
    **dict.fromkeys(("gt", "greater"), _greater),
    **dict.fromkeys(("dropout", "alpha_dropout", "feature_alpha_dropout"), _function_dropout),
    "flatten": _function_flatten,
    **dict.fromkeys(("view", "reshape"), _view),
    "squeeze": _squeeze,
    **dict.fromkeys(("float", "double", "contiguous", "clone", "detach"), _same),
    "to": _to,
}


def _check_is_value(argument: Any) -> None:
    if argument is not _X:
        raise ValueError("not a product of the value with a constant on its right")


def _constant(value: Any) -> npt.NDArray[np.float64]:
    if value is _X or isinstance(value, _Fact):
        raise ValueError("a computation of the value with itself or its sizes")
    array = _array(value)
    if array.dtype.kind not in "fiu":
        raise ValueError(f"a constant of {array.dtype}")
    return array.astype(np.float64)


def _vector(value: Any) -> npt.NDArray[np.float64]:
    """A constant that is one number, or one for each value of a row."""
    array = _constant(value)
    if array.ndim and array.size != array.shape[-1]:
        raise ValueError(f"a constant of shape {array.shape}, wanted one number per value")
    return array.reshape(-1)


def _scalar(value: Any) -> float:
    array = _constant(value)
    if array.size != 1:
        raise ValueError(f"a constant of shape {array.shape}, wanted one number")
    return float(array.reshape(()))


# ---- graphs --------------------------------------------------------------------------------------

_FUNCTION_MODULES = (
    "torch",
    "torch.nn.functional",
    "torch._C._nn",
    "torch._C._special",
    "_operator",
)


class _Graph:
    """Runs what torch.fx traced of a module through `steps`."""

    def __init__(self, module: Any, steps: Steps) -> None:
        self.module, self.steps = module, steps
        self.facts: dict[Any, Any] = {}  # by node: constants, and `_Fact`s
        self.current: Any = None  # the node of the value so far
        self.past: set[Any] = set()  # all that were
        self.is_vector = False  # one number a row, the rows along the only axis

    def run(self) -> None:
        for node in self._trace().nodes:
            try:
                self._add(node)
            except ValueError as error:
                if str(error).startswith("from_torch:"):
                    raise
                raise _refusal(f"forward(), at {node.format_node() or node}: {error}") from None

    def _trace(self) -> Any:
        kind = type(self.module).__name__
        if not hasattr(self.module, "forward"):
            raise _refusal(f"{kind} has what is not PyTorch's own, and no forward() to trace")
        fx = importlib.import_module("torch.fx")  # of the PyTorch that the module is of
        try:
            # A copy: eval() changes it, and so does tracing, by what forward() does on the way.
            self.module = copy.deepcopy(self.module).eval()
            return fx.Tracer().trace(self.module)
        except Exception as error:  # whatever the user's forward() raises on fx's stand-ins
            raise _refusal(f"torch.fx cannot trace the forward() of {kind}: {error}") from None

    def _add(self, node: Any) -> None:
        operation = node.op
        if operation == "placeholder":
            if self.current is None:
                self._go_on(node)
            elif node.users:
                raise ValueError("a second input")
        elif operation == "get_attr":
            self.facts[node] = operator.attrgetter(node.target)(self.module)
        elif operation == "output":
            if node.args[0] is not self.current:
                raise ValueError("the result is not the last value alone")
        elif _name(node) in ("size", "getattr", "dim") and node.args[0] in self.past:
            what = node.args[1] if len(node.args) > 1 else "shape"
            self.facts[node] = _Fact("rows" if what == 0 else what)
        elif self.current in node.all_input_nodes:
            for other in node.all_input_nodes:
                self._check_constant(other)
            self._apply(node)
            self._go_on(node)
        else:
            for other in node.all_input_nodes:
                self._check_constant(other)
            self.facts[node] = self._constant(node)

    def _check_constant(self, node: Any) -> None:
        if node is not self.current and node not in self.facts:
            raise ValueError(f"it branches: {node} is used again after the value went on")

    def _arguments(self, node: Any) -> tuple[list[Any], dict[str, Any]]:
        """args and kwargs, `_X` in place of the value, constants and facts in place of nodes."""

        def resolved(argument: Any) -> Any:
            if isinstance(argument, tuple | list):
                return [resolved(one) for one in argument]
            if argument is self.current:
                return _X
            return self.facts.get(argument, argument) if type(argument) is type(node) else argument

        return [resolved(a) for a in node.args], {k: resolved(v) for k, v in node.kwargs.items()}

    def _constant(self, node: Any) -> Any:
        """What is computed from constants alone, by PyTorch itself; or more of a fact."""
        args, kwargs = self._arguments(node)
        if args and isinstance(args[0], _Fact):
            if args[0] == "shape" and _name(node) == "getitem" and args[1] == 0:
                return _Fact("rows")
            return _Fact(f"part of {args[0]}")
        if any(isinstance(a, _Fact) for a in [*args, *kwargs.values()]):
            raise ValueError("a computation with sizes")
        if node.op == "call_function":
            return node.target(*args, **kwargs)
        if node.op == "call_method":
            return getattr(args[0], node.target)(*args[1:], **kwargs)
        raise ValueError("a layer of a constant")

    def _go_on(self, node: Any) -> None:
        self.current = node
        self.past.add(node)

    def _apply(self, node: Any) -> None:
        if node.op == "call_module":
            module = self.module.get_submodule(node.target)
            self._check_axes(_BY_CLASS.get(_kind(module) or ""))
            _add_module(self.steps, node.target, module)
            return
        args, kwargs = self._arguments(node)
        name = _name(node)
        self._check_axes(_BY_FUNCTION.get(name))
        kwargs.pop("inplace", None)
        if not args and "input" in kwargs:  # by PyTorch's name for it
            args = [kwargs.pop("input")]
        if name in _BY_FUNCTION and args and args[0] is _X:
            form = _BY_FUNCTION[name]
            values = dict(zip(form.parameters, args[1:], strict=False))
            more = args[1 + len(form.parameters) :]
            if any(not isinstance(one, bool) for one in more):  # a bool is inplace
                raise ValueError(f"{name} with more arguments than {', '.join(form.parameters)}")
            for key, value in kwargs.items():
                if key in form.parameters:
                    values[key] = value
                elif key != "_stacklevel" and value is not None:  # dtype=None
                    raise ValueError(f"{key}={value}")
            _activate(self.steps, form, values)
        elif name in _OPERATIONS:
            operation = _OPERATIONS[name]
            try:
                inspect.signature(operation).bind(self.steps, *args, **kwargs)
            except TypeError as error:
                raise ValueError(str(error)) from None
            operation(self.steps, *args, **kwargs)
            self.is_vector |= name == "squeeze" and self.steps.width == 1
        else:
            raise ValueError("no function that fastnn has")

    def _check_axes(self, form: _Form | None) -> None:
        if self.is_vector and form is not None and "dim" in form.parameters:
            raise ValueError("over the rows: squeeze left no other axis")


def _name(node: Any) -> str:
    """The function's or method's name without the mark of in-place; "" for a stranger's."""
    if node.op == "call_method":
        return str(node.target).removesuffix("_")
    module = getattr(node.target, "__module__", None)
    if module == "builtins":
        return "getattr" if node.target is getattr else ""
    return node.target.__name__.removesuffix("_") if module in _FUNCTION_MODULES else ""
