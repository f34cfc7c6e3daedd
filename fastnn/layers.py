"""`Dense`: one fully connected layer as data: a = activation(x @ weight + bias).

Invariant: a Dense that exists is sound. Shapes fit, every number is finite in float32, the
activation is one that the C list knows, its parameters are complete; and it never changes. So
networks, formats and the reference check none of this again. How it is computed is not said here:
packing belongs to `_core`, the formulas to `reference.py`.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from fastnn import _core
from fastnn.checks import FLOAT32_MAX, frozen

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["Dense"]


class Dense:
    """A fully connected layer.

    Parameters
    ----------
    weight
        Array-like of real numbers, shape (inputs, outputs), both at least 1; copied as float32.
    bias
        Array-like of real numbers, shape (outputs,); copied as float32. C-contiguous float32 views
        of `bytes`, which nobody can change, are kept as they are.
    activation
        A name from `fastnn.activations()`.
    **parameters
        The activation's parameters, e.g. `alpha=0.1`; those left out take their defaults.

    Raises
    ------
    TypeError
        If an array does not hold real numbers, `activation` is no string or a parameter no number.
    ValueError
        If a shape is wrong, a value is NaN, infinite or beyond float32, the activation or a
        parameter is not known, a parameter without a default is missing, or `lo` is above `hi`.

    Examples
    --------
    >>> import fastnn
    >>> fastnn.Dense([[1, 2], [3, 4], [5, 6]], [0, 0], "leaky_relu", alpha=0.1)
    <fastnn.Dense 3-2 leaky_relu(alpha=0.1)>
    """

    __slots__ = ("activation", "bias", "parameters", "weight")

    weight: npt.NDArray[np.float32]
    """Shape (inputs, outputs), C-contiguous, read-only."""
    bias: npt.NDArray[np.float32]
    """Shape (outputs,), read-only."""
    activation: str
    """A name from `fastnn.activations()`."""
    parameters: Mapping[str, float]
    """All parameters of the activation, in the C list's order; read-only."""

    def __init__(
        self,
        weight: npt.ArrayLike,
        bias: npt.ArrayLike,
        activation: str = "identity",
        **parameters: float,
    ) -> None:
        if hasattr(self, "weight"):
            raise RuntimeError("Dense: __init__ was called before; a layer never changes")
        weights, biases = _float32("weight", weight), _float32("bias", bias)
        if weights.ndim != 2 or not weights.size:
            raise ValueError(
                f"Dense: weight has shape {weights.shape}, "
                "wanted (inputs, outputs), each at least 1"
            )
        if biases.shape != weights.shape[1:]:
            raise ValueError(
                f"Dense: bias has shape {biases.shape}, wanted {weights.shape[1:]} "
                f"for weight of shape {weights.shape}"
            )
        complete = MappingProxyType(_parameters(activation, parameters))
        values = {"weight": weights, "bias": biases, "activation": activation}
        for name, value in {**values, "parameters": complete}.items():
            object.__setattr__(self, name, value)

    @property
    def n_inputs(self) -> int:
        """The number of inputs: rows of `weight`."""
        return self.weight.shape[0]

    @property
    def n_outputs(self) -> int:
        """The number of outputs: columns of `weight`."""
        return self.weight.shape[1]

    @property
    def n_parameters(self) -> int:
        """The number of weights and biases."""
        return self.weight.size + self.bias.size

    @property
    def nbytes(self) -> int:
        """Bytes of the weights and biases, float32."""
        return self.weight.nbytes + self.bias.nbytes

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"Dense: {name} cannot be set; a layer never changes")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"Dense: {name} cannot be deleted; a layer never changes")

    def __repr__(self) -> str:
        values = ", ".join(f"{name}={value:.9g}" for name, value in self.parameters.items())
        activation = f"{self.activation}({values})" if values else self.activation
        return f"<fastnn.Dense {self.n_inputs}-{self.n_outputs} {activation}>"

    def __reduce__(self) -> tuple[Any, ...]:
        # Through the constructor, so that what comes out of a pickle is checked as well.
        return _rebuild, (self.weight, self.bias, self.activation, dict(self.parameters))

    def __copy__(self) -> Dense:
        return self  # it never changes

    def __deepcopy__(self, memo: dict[int, Any]) -> Dense:
        return self


def _rebuild(weight: Any, bias: Any, activation: str, parameters: dict[str, float]) -> Dense:
    return Dense(weight, bias, activation, **parameters)


@functools.cache
def _known() -> Mapping[str, Mapping[str, float | None]]:
    """The parameters and defaults of each activation, from the C list, asked for once."""
    return {name: entry["parameters"] for name, entry in _core.activations().items()}


def _float32(what: str, values: npt.ArrayLike) -> npt.NDArray[np.float32]:
    """Finite `values` as float32, C-contiguous and read-only for good: a copy, if need be."""
    try:
        given = np.asarray(values)
    except ValueError:
        raise ValueError(f"Dense: {what} is ragged, wanted rows of one length") from None
    if given.dtype.kind not in "fiub":
        raise TypeError(f"Dense: {what} has dtype {given.dtype}, wanted real numbers")
    is_sound = given.flags.c_contiguous and given.flags.aligned and given.dtype == np.float32
    if is_sound and isinstance(_owner(given), bytes):
        copy = given
    else:
        with np.errstate(over="ignore"):  # refused just below, by its index
            copy = np.array(given, np.float32, order="C")
    if not _core.all_finite(copy):  # no room for a flag of each
        where = tuple(int(i) for i in np.argwhere(~np.isfinite(copy))[0])
        raise ValueError(
            f"Dense: {what} has the value {given[where]} at {list(where)}, "
            "wanted numbers that are finite in float32"
        )
    return frozen(copy)


def _owner(array: npt.NDArray[Any]) -> object:
    """Whose memory it is."""
    owner: object = array
    while isinstance(owner, np.ndarray | memoryview):
        owner = owner.base if isinstance(owner, np.ndarray) else owner.obj
    return owner


def _parameters(activation: str, given: Mapping[str, float]) -> dict[str, float]:
    """All parameters of the activation in the list's order, checked; defaults filled in."""
    if not isinstance(activation, str):
        raise TypeError(f"Dense: activation is a {type(activation).__name__}, wanted a name")
    known = _known().get(activation)
    if known is None:
        raise ValueError(
            f"Dense: activation is {activation!r}, wanted one of {', '.join(_known())}"
        )
    for name in given:
        if name not in known:
            raise ValueError(
                f"Dense: {activation} has no parameter {name!r}, only {', '.join(known) or 'none'}"
            )
    complete: dict[str, float] = {}
    for name, default in known.items():
        value = given.get(name, default)
        if value is None:
            raise ValueError(f"Dense: {activation} needs the parameter {name!r}, a number")
        complete[name] = _number(activation, name, value)
    if complete.get("lo", 0) > complete.get("hi", np.inf):
        raise ValueError(f"Dense: {activation} has lo={complete['lo']} above hi={complete['hi']}")
    return complete


def _number(activation: str, name: str, value: Any) -> float:
    is_number = isinstance(value, int | float | np.integer | np.floating)
    if not is_number or isinstance(value, bool):
        raise TypeError(f"Dense: {activation}: {name} is {value!r}, wanted a number")
    if not -FLOAT32_MAX <= value <= FLOAT32_MAX:  # NaN fails too
        raise ValueError(
            f"Dense: {activation}: {name} is {value}, wanted a number that is finite in float32"
        )
    return float(value)
