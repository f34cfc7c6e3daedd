"""`Model`: a network with its classes, its task and its input units; loading, saving, display.

Invariant: a Model never changes once built, so any number of threads may share it. There is no
hot path here: `predict`, `predict_proba`, `decision_function`, `forward`, `top_k` and `trace` are
methods of the Cython class `Network`, reached without a Python frame. What this file computes is
done once, at construction, in float64: the first layer as uint8 input sees it, and the int8 layers.

Start at `Model.__init__`; `load` is the usual way in.
"""

from __future__ import annotations

import functools
import itertools
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fastnn import checks
from fastnn._core import Network, activations, check_isa, scaled_rows
from fastnn.errors import LoadError
from fastnn.layers import Dense

if TYPE_CHECKING:
    import numpy.typing as npt

    from fastnn._core import Certifier
    from fastnn.quantize import Calibration, QuantizedDense

__all__ = ["Model", "load", "models"]

_BUNDLED = os.path.join(os.path.dirname(__file__), "models")  # pathlib costs 7 ms to import
_SUFFIX = ".safetensors"


_OWN = ("_parts", "_metadata", "_isa")  # a Model's attributes


class Model(Network):
    """A network of dense layers, ready to predict.

    Parameters
    ----------
    layers
        `fastnn.Dense` layers, at least one; the outputs of each are the inputs of the next.
        softmax and log_softmax only as the last activation.
    classes
        One distinct label per output (integers, strings or booleans), two for a single output;
        None: 0, 1, 2, ... as int64.
    task
        "classify": `predict` gives a label per row. "regress": it gives the outputs, float32.
        None: "regress" iff there is one identity output and no `classes`.
    scale, mean, std
        What a uint8 input p stands for: `(p*scale - mean)/std`. Each is a number, or an array of
        shape (inputs,); finite, `scale` not 0, `std` above 0. Float input is taken as already in
        these units. The conversion is folded into the first layer (in float64, rounded to float32
        once), so the same values given as uint8 and as float may differ in the last bits.
    isa
        The best instruction set to use, as `fastnn.kernels()` names them, e.g. "avx2"; None:
        FASTNN_ISA, else the best that this CPU has, but for "amx". It is not saved and not pickled.
    metadata
        Strings by name, kept with the model and in its files.
    precision
        "float32". "int8": integers between calibrated ranges, the same bits on every CPU
        (`fastnn.quantize` has the arithmetic); rows of the dtype that the calibration saw are
        quantized, rows of the other take the first layer in float32. "bfloat16": weights and
        inputs of each layer rounded to 8 bits of precision; its bits depend on the instruction
        set. `layers` are the float32 ones whatever the precision.
    calibration
        A `fastnn.quantize.Calibration`, which "int8" needs and other precisions keep for it;
        `quantize` makes one.

    Raises
    ------
    TypeError
        If a layer is no Dense, or an argument is not of its type.
    ValueError
        If the layers do not fit each other, `classes` does not fit the outputs, an argument is
        out of range, folding or quantizing overflows float32, or the CPU lacks `isa`.

    Examples
    --------
    >>> import fastnn
    >>> model = fastnn.Model([fastnn.Dense([[1.0], [-2.0]], [0.5])])
    >>> model.predict([[3.0, 1.0]])
    array([1.5], dtype=float32)
    """

    def __init__(
        self,
        layers: Iterable[Dense],
        *,
        classes: npt.ArrayLike | None = None,
        task: str | None = None,
        scale: npt.ArrayLike = 1.0,
        mean: npt.ArrayLike = 0.0,
        std: npt.ArrayLike = 1.0,
        isa: str | None = None,
        metadata: Mapping[str, str] | None = None,
        precision: str = "float32",
        calibration: Calibration | None = None,
    ) -> None:
        parts = _validated(layers, classes, task, scale, mean, std, precision, calibration)
        pixel = _fold(parts.layers[0], parts.scale, parts.mean, parts.std)
        packed = _packed(parts, pixel, isa)
        super().__init__(
            packed.layers,
            pixel=packed.pixel,
            is_scaled=pixel is not None,
            format=packed.format,
            classes=parts.classes,
            task=parts.task,
            isa=isa,
            certifier=packed.certifier,
        )
        self._parts = parts
        self._metadata = MappingProxyType(checks.strings("Model", metadata or {}))
        self._isa = isa

    @property
    def layers(self) -> tuple[Dense, ...]:
        """The layers as given: `Dense` records with float32 weights of shape (inputs, outputs)."""
        return self._parts.layers

    @property
    def task(self) -> str:
        """ "classify" or "regress"."""
        return self._parts.task

    @property
    def classes_(self) -> npt.NDArray[Any] | None:
        """The labels in the order of the outputs, shape (outputs,), or (2,) for one output.

        As given, else int64 0, 1, ...; None for a model that regresses.
        """
        if self.task == "regress":
            return None
        if self._parts.classes is None:
            return np.arange(max(2, self.n_outputs))
        return self._parts.classes

    @property
    def scale(self) -> float | npt.NDArray[np.float64]:
        """Of uint8 input p, read as (p*scale - mean)/std: a float, or float64 (inputs,)."""
        return self._parts.scale

    @property
    def mean(self) -> float | npt.NDArray[np.float64]:
        """Of uint8 input p, read as (p*scale - mean)/std: a float, or float64 (inputs,)."""
        return self._parts.mean

    @property
    def std(self) -> float | npt.NDArray[np.float64]:
        """Of uint8 input p, read as (p*scale - mean)/std: a float, or float64 (inputs,)."""
        return self._parts.std

    @property
    def precision(self) -> str:
        """How the network computes: "float32", "int8" or "bfloat16"."""
        return self._parts.precision

    @property
    def calibration(self) -> Calibration | None:
        """The range of each layer's input, which "int8" needs; None where nobody found it."""
        return self._parts.calibration

    @property
    def metadata(self) -> Mapping[str, str]:
        """What the model's file says about it; read-only."""
        return self._metadata

    @property
    def n_parameters(self) -> int:
        """The number of weights and biases."""
        return sum(layer.n_parameters for layer in self.layers)

    def predict_stream(
        self, batches: Iterable[npt.ArrayLike], *, threads: int | None = None
    ) -> Iterator[npt.NDArray[Any]]:
        """`predict` of each batch in turn, as they come.

        Each item of `batches` is whatever `predict` takes; each result is a fresh array. Memory
        is one batch and its answer, however many come. Errors are those of `predict`, raised when
        their batch is reached; TypeError at once if `batches` cannot be iterated.
        """
        return map(functools.partial(self.predict, threads=threads), batches)

    def quantize(self, rows: npt.ArrayLike) -> Model:
        """The same network in int8, calibrated on `rows`.

        `rows`: uint8 pixels or floats, (n, ...), like those to come, some hundreds at least; not
        those that its accuracy is then measured on. Rows of their dtype are what int8 quantizes.

        Raises TypeError or ValueError for rows that are no such thing (see
        `fastnn.quantize.calibrate`), ValueError if quantizing overflows float32.

        >>> model = fastnn.Model([fastnn.Dense([[0.5], [-1.0]], [0.25])])
        >>> model.quantize(np.array([[0, 3], [8, 255]], np.uint8)).predict(np.uint8([[2, 1]]))
        array([0.25], dtype=float32)
        """
        from fastnn.quantize import calibrate

        return self._with(precision="int8", calibration=calibrate(self, rows))

    def certify(self, rows: npt.ArrayLike) -> Model:
        """The same network with certified labels: float32's, proved, mostly from an int8 pass.

        `predict` of uint8 rows runs int8, bounds for every row how far its logits can be from
        float32's, and runs those rows again in float32 whose label the bound leaves open; or, where
        samples of 256 rows say that this is faster, float32 alone. The labels are always those of
        the float32 model (docs/certified.md has the proof); the rows to calibrate with decide how
        fast that is. Every other method, and float rows, are float32.

        `rows`: uint8 pixels, (n, ...), as for `quantize`. Raises ValueError for float rows, for a
        regression, for a single layer, and for an activation without a Lipschitz constant.
        """
        from fastnn.quantize import calibrate

        return self._with(precision="certified", calibration=calibrate(self, rows))

    def astype(self, precision: str) -> Model:
        """The same network in another precision: "float32", "bfloat16", or, if the model has a
        calibration, "int8" or "certified"; itself where it is that already. ValueError for any
        other.
        """
        return self if precision == self.precision else self._with(precision=precision)

    def _with(self, **changes: Any) -> Model:
        """A model of the same class and attributes, but for these arguments of the constructor."""
        rest = {**self._parts._asdict(), "metadata": dict(self._metadata), "isa": self._isa}
        other = type(self)(**{**rest, **changes})
        other.__setstate__(vars(self))
        return other

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model to `path`; its suffix says how: .safetensors (native), .npz or
        .onnx (with the extra fastnn[onnx]).

        The file holds the float32 layers, the precision, and the calibration if there is one.
        Raises ValueError for another suffix, or what that format cannot hold; OSError if the file
        cannot be written.
        """
        from fastnn import formats

        parts = self._parts._asdict()
        try:
            model_file = formats.ModelFile(**parts, metadata=dict(self._metadata))
        except ValueError as error:
            raise ValueError(f"save: {str(error).removeprefix('ModelFile: ')}") from None
        formats.write(path, model_file)

    def summary(self) -> str:
        """A table of the layers: shape, activation, parameters, bytes and the kernel that runs.

        The bytes of a layer are those of its float32 weights and biases, whatever the precision.
        """
        from fastnn import text

        rows = [
            (
                str(i),
                f"{layer.n_inputs} x {layer.n_outputs}",
                activation_text(layer),
                f"{layer.n_parameters:,}",
                f"{layer.nbytes:,}",
                "; ".join(kernels),
            )
            for i, (layer, kernels) in enumerate(zip(self.layers, kernel_texts(self), strict=True))
        ]
        titles = ("layer", "shape", "activation", "parameters", "bytes", "kernel")
        return "\n".join(
            [
                f"inputs {self.n_inputs}, outputs {self.n_outputs}, {_task_text(self)}",
                f"precision {precision_text(self)}",
                text.table(titles, rows, right=(0, 3, 4)),
                f"{self.n_parameters:,} parameters; {self.nbytes:,} bytes packed for this CPU",
                f"uint8 p is read as {units_text(self)}",
            ]
        )

    def __repr__(self) -> str:
        widths = "-".join(str(n) for n in (self.n_inputs, *(d.n_outputs for d in self.layers)))
        names = ", ".join(layer.activation for layer in self.layers)
        precision = "" if self.precision == "float32" else f" {self.precision}"
        return f"<fastnn.{type(self).__name__} {widths}{precision}: {names}; {_task_text(self)}>"

    def __reduce__(self) -> tuple[Any, ...]:
        # Plain arrays and names, through the constructor: everything is checked again on the way
        # in, and the reader's CPU chooses its own kernels.
        layers = [(d.weight, d.bias, d.activation, dict(d.parameters)) for d in self.layers]
        rest = {**self._parts._asdict(), "metadata": dict(self._metadata)}
        del rest["layers"]
        own = {name: value for name, value in vars(self).items() if name not in _OWN}
        how = _rebuild, (type(self), layers, rest)
        return (*how, own) if own else how  # own: a subclass's attributes

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        vars(self).update({name: value for name, value in state.items() if name not in _OWN})

    def __copy__(self) -> Model:
        return self  # it never changes

    def __deepcopy__(self, memo: dict[int, Any]) -> Model:
        return self


def _rebuild(kind: type[Model], layers: list[tuple[Any, ...]], rest: dict[str, Any]) -> Model:
    return kind([Dense(w, b, name, **values) for w, b, name, values in layers], **rest)


def models() -> list[str]:
    """The names of the models that ship with fastnn, for `load`."""
    files = os.listdir(_BUNDLED) if os.path.isdir(_BUNDLED) else []
    return sorted(file.removesuffix(_SUFFIX) for file in files if file.endswith(_SUFFIX))


def load(
    name_or_path: str | os.PathLike[str],
    *,
    precision: str | None = None,
    isa: str | None = None,
    activations: Sequence[str] | None = None,
    layout: str | None = None,
) -> Model:
    """A model from a file, or one that ships with fastnn.

    A string without "/" and without a suffix is the name of a bundled model (`models()` lists
    them); anything else is the path of a file, whose suffix says its format (docs/format.md,
    docs/import.md). `precision` and `isa` as for `Model`; None is the precision that the file asks
    for. "int8" needs a calibration in the file; that of the bundled networks for digits comes from
    MNIST's training images.

    `activations` and `layout` are for files of arrays without an architecture (.safetensors as
    PyTorch's users write them, .npz): one activation a layer in fastnn's names, such as
    ["leaky_relu(alpha=0.1)", "softmax"]; "inputs_outputs" or "outputs_inputs", how the weights
    lie, needed only where their shapes allow both.

    Raises `FileNotFoundError` where there is no such model or file, `LoadError` where the file is
    not what its suffix says or its layers do not fit each other, `ImportError` where its format
    needs an extra, `ValueError` for an `isa` that the CPU lacks, a precision that is not known or
    that the file has no calibration for, or an option that the format does not take.
    """
    from fastnn import formats
    from fastnn.formats.model_file import escaped

    check_isa(isa)  # first: what is refused below is the file's fault
    if precision is not None and precision not in checks.PRECISIONS:
        wanted = ", ".join(checks.PRECISIONS)
        raise ValueError(f"load: precision is {checks.brief(precision)}, wanted one of {wanted}")
    path = _path_of(name_or_path)
    shown = escaped(path)
    file = formats.read(path, activations=activations, layout=layout)
    arguments = dict(vars(file))
    if precision is not None:
        checks.calibrated(f"load: {shown}", precision, file.calibration, len(file.layers))
        arguments["precision"] = precision
    try:
        return Model(**arguments, isa=isa)
    except (TypeError, ValueError) as error:
        raise LoadError(f"{shown}: {error}") from None


def _path_of(name_or_path: str | os.PathLike[str]) -> str:
    path = os.fsdecode(name_or_path)
    is_name = isinstance(name_or_path, str) and "/" not in path and not os.path.splitext(path)[1]
    if not is_name:
        return path
    if path not in models():
        from fastnn.formats.model_file import shortened

        raise FileNotFoundError(
            f"load: there is no bundled model {checks.brief(path)}, only {', '.join(models())}; "
            f"a file is named with its suffix, or with a slash: ./{shortened(path)}{_SUFFIX}"
        )
    return os.path.join(_BUNDLED, path + _SUFFIX)


class _Parts(NamedTuple):
    """What a Model is made of, checked; the names are those of the constructor's arguments."""

    layers: tuple[Dense, ...]
    classes: npt.NDArray[Any] | None
    task: str
    scale: float | npt.NDArray[np.float64]
    mean: float | npt.NDArray[np.float64]
    std: float | npt.NDArray[np.float64]
    precision: str
    calibration: Calibration | None


class _Packed(NamedTuple):
    """What `Network` is given for these parts."""

    layers: tuple[Dense | QuantizedDense, ...]
    pixel: Dense | QuantizedDense | None
    format: str  # of the Dense records
    certifier: Certifier | None = None


def _packed(parts: _Parts, pixel: Dense | None, isa: str | None) -> _Packed:
    """`pixel`: the first layer as uint8 rows see it, None where that is layers[0] itself."""
    if parts.precision == "float32":
        return _Packed(parts.layers, pixel, "f32")
    if parts.precision == "bfloat16":
        return _Packed(parts.layers, pixel, "bf16")
    if parts.precision == "int8" and parts.calibration is not None:
        from fastnn.quantize import quantize_layers

        try:
            return _Packed(*quantize_layers(parts.layers, pixel, parts.calibration), "f32")
        except ValueError as error:
            raise ValueError(f"Model: {error}") from None
    from fastnn.certify import certifier

    assert parts.precision == "certified"
    assert parts.calibration is not None
    if parts.task == "regress":
        raise ValueError('Model: precision "certified" is of labels, and a regression has none')
    chain = (pixel or parts.layers[0], *parts.layers[1:])
    try:
        return _Packed(parts.layers, pixel, "f32", certifier(chain, parts.calibration, isa))
    except ValueError as error:
        raise ValueError(f"Model: {error}") from None


def layers_for(model: Model, dtype: str) -> tuple[Dense | QuantizedDense, ...]:
    """The layers that rows of `dtype`, "uint8" or "float32", go through.

    For uint8 the first one has scale, mean and std folded in; those of an int8 model are integers
    where they are computed so. A certified or bfloat16 model has float32 ones.
    """
    parts = model._parts
    if parts.precision != "int8":  # whose layers alone are others
        parts = parts._replace(precision="float32")
    layers, pixel, *_ = _packed(
        parts, _fold(parts.layers[0], parts.scale, parts.mean, parts.std), None
    )
    return layers if dtype == "float32" or pixel is None else (pixel, *layers[1:])


def reads_pixels(model: Model) -> bool:
    """Whether uint8 rows are pixels: the model has a scale, mean or std, or was calibrated so."""
    if model.calibration is not None and model.calibration.input == "uint8":
        return True
    parts = model._parts
    return _fold(parts.layers[0], parts.scale, parts.mean, parts.std) is not None


def _validated(
    layers: Iterable[Dense],
    classes: npt.ArrayLike | None,
    task: str | None,
    scale: npt.ArrayLike,
    mean: npt.ArrayLike,
    std: npt.ArrayLike,
    precision: str,
    calibration: Calibration | None,
) -> _Parts:
    chain = _chain(layers)
    last = chain[-1]
    precision, calibration = checks.calibrated("Model", precision, calibration, len(chain))
    if task is None:
        is_line = last.n_outputs == 1 and last.activation == "identity" and classes is None
        task = "regress" if is_line else "classify"
    if task not in ("classify", "regress"):
        raise ValueError(f'Model: task is {task!r}, wanted "classify", "regress" or None')
    if task == "regress" and classes is not None:
        raise ValueError('Model: classes are given with task "regress", which has no classes')
    n_inputs = chain[0].n_inputs
    scale = checks.units("Model", "scale", scale, n_inputs)
    std = checks.units("Model", "std", std, n_inputs)
    if not np.all(scale):
        raise ValueError("Model: scale has a 0, wanted other numbers")
    if np.any(np.less_equal(std, 0)):
        raise ValueError(f"Model: std has the value {np.min(std):g}, wanted numbers above 0")
    return _Parts(
        layers=chain,
        classes=None if classes is None else _labels(classes, last.n_outputs),
        task=task,
        scale=scale,
        mean=checks.units("Model", "mean", mean, n_inputs),
        std=std,
        precision=precision,
        calibration=calibration,
    )


def _chain(layers: Iterable[Dense]) -> tuple[Dense, ...]:
    if isinstance(layers, Dense) or not isinstance(layers, Iterable):
        raise TypeError(f"Model: layers is a {type(layers).__name__}, wanted a sequence of Dense")
    chain = tuple(layers)
    if not chain:
        raise ValueError("Model: layers is empty, wanted at least one Dense")
    for i, layer in enumerate(chain):
        if not isinstance(layer, Dense):
            raise TypeError(f"Model: layers[{i}] is a {type(layer).__name__}, wanted a Dense")
    known = activations()
    for i, (layer, after) in enumerate(itertools.pairwise(chain)):
        if layer.n_outputs != after.n_inputs:
            raise ValueError(
                f"Model: layers[{i + 1}] takes {after.n_inputs} inputs, "
                f"layers[{i}] gives {layer.n_outputs}"
            )
        if known[layer.activation]["last_layer_only"]:
            raise ValueError(
                f"Model: layers[{i}] of {len(chain)} has the activation {layer.activation}, "
                "which only the last layer may have"
            )
    return chain


def _labels(classes: npt.ArrayLike, n_outputs: int) -> npt.NDArray[Any]:
    labels = checks.labels("Model", classes)
    wanted = max(2, n_outputs)
    if len(labels) != wanted:
        raise ValueError(
            f"Model: classes has shape {labels.shape}, wanted ({wanted},) "
            f"for {n_outputs} output{'s' * (n_outputs > 1)}"
        )
    if len(np.unique(labels)) < len(labels):
        raise ValueError("Model: classes has the same label twice, wanted distinct ones")
    return labels


def _fold(
    layer: Dense,
    scale: float | npt.NDArray[np.float64],
    mean: float | npt.NDArray[np.float64],
    std: float | npt.NDArray[np.float64],
) -> Dense | None:
    """The first layer for raw uint8 input: ((p*s - m)/d) @ w + b = p @ (s/d*w) + (b - m/d @ w).

    None where that is the layer itself, so that its packed weights are shared.
    """
    if np.all(np.equal(scale, 1)) and not np.any(mean) and np.all(np.equal(std, 1)):
        return None
    bias = layer.bias
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        factor = np.full(layer.n_inputs, np.divide(scale, std))
        shift = np.broadcast_to(np.divide(mean, std), layer.n_inputs)[:, None]
        weight = scaled_rows(layer.weight, factor)
        if np.any(shift):
            # Summed by NumPy's own reduction, not by a matrix product: the order of additions, and
            # so the last bit, must not depend on the BLAS of this machine.
            bias = (layer.bias - (layer.weight * shift).sum(axis=0)).astype(np.float32)
    try:
        return Dense(weight, bias, layer.activation, **layer.parameters)
    except ValueError:
        what, values = ("biases", bias) if np.isfinite(weight).all() else ("weights", weight)
        where = [int(i) for i in np.argwhere(~np.isfinite(values))[0]]
        raise ValueError(
            f"Model: scale, mean and std overflow float32 in the {what} of layers[0] for "
            f"uint8 input, first at {where}: std is {np.min(std):g} at least, "
            f"scale {np.max(np.abs(scale)):g} and mean {np.max(np.abs(mean)):g} at most"
        ) from None


def activation_text(layer: Dense) -> str:
    """The activation and its parameters: "leaky_relu(alpha=0.1)"."""
    values = ", ".join(f"{name}={value:g}" for name, value in layer.parameters.items())
    return f"{layer.activation}({values})" if values else layer.activation


def kernel_texts(model: Model) -> list[list[str]]:
    """The kernel of each layer, "avx2 f32 6x16"; of the first one also that for uint8 rows, "uint8
    avx2 i8 3x16", where it is another."""

    def words(kernel: Mapping[str, Any]) -> str:
        return f"{kernel['isa']} {kernel['format']} {kernel['mr']}x{kernel['nr']}"

    found = [[words(kernel)] for kernel in model.kernels]
    if model.pixel_kernel != model.kernels[0]:
        found[0].append(f"uint8 {words(model.pixel_kernel)}")
    return found


def precision_text(model: Model) -> str:
    """The precision, and for what int8 is calibrated: "int8, calibrated on uint8 rows"."""
    calibration = model.calibration
    if calibration is None:
        return model.precision
    if model.precision == "float32":
        return f"float32; calibrated for int8 on {calibration.input} rows"
    return f"{model.precision}, calibrated on {calibration.input} rows"


def _task_text(model: Model) -> str:
    if model.classes_ is None:
        return "regress"
    return "classify " + np.array2string(model.classes_, separator=", ", threshold=12, edgeitems=3)


def units_text(model: Model) -> str:
    """What a uint8 input p stands for, as a formula: "p/255"."""
    scale, mean, std = model.scale, model.mean, model.std
    if not (isinstance(scale, float) and isinstance(mean, float) and isinstance(std, float)):
        return "(p*scale - mean)/std, one set per input"
    inverse = 1 / scale
    text = f"p/{inverse:g}" if inverse > 1 and inverse.is_integer() else f"p*{scale:g}"
    text = text.removesuffix("*1")
    if mean:
        text = f"({text} - {mean:g})"
    return text if std == 1 else f"{text}/{std:g}"
