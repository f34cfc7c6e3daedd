"""`read_layers`: a checked `Graph` to dense layers, one node after the other.

A value of the graph is a `Constant`, or `Rows`: a formula (formulas.py) of what the last layer
gave, and how a row lies in the tensor. Elementwise operators make formulas; where a layer needs
its input, the formula is told to `Steps` (formats/steps.py), which folds what belongs to a layer.

Invariant: what is not understood is refused, naming the node. Constants are computed in float64,
with at most as many values in all as the file has bytes (and a million), so that a small file
cannot ask for much: neither by broadcasting nor by using one tensor many times.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from fastnn._core import activations
from fastnn.formats.model_file import Wrong, checked, quoted
from fastnn.formats.onnx.formulas import Formula, Formulas
from fastnn.formats.onnx.proto import Graph, Node, array_of
from fastnn.formats.steps import Steps
from fastnn.layers import Dense

Array: TypeAlias = npt.NDArray[Any]

_SPARE_VALUES = 1 << 20
_UNKNOWN = -(2**40)
"""A size that the file leaves open, one number for each: arithmetic on shapes carries it along."""

# Element types, values of onnx.TensorProto.DataType.
FLOATS = {1: np.float32, 10: np.float16, 11: np.float64, 16: np.float32}  # 16: bfloat16
INTEGERS: dict[int, Any] = {2: np.uint8, 3: np.int8, 6: np.int32, 7: np.int64}
BOOL, UINT8, INT8 = 9, 2, 3

_BY_Z = ("sigmoid", "tanh", "softmax", "log_softmax")  # labels by the output are those by z


@dataclass(frozen=True)
class Network:
    """What a graph is: the arguments of a ModelFile."""

    layers: list[Dense]
    classes: Array | None
    task: str | None
    ranges: tuple[tuple[float, float], ...] | None
    """Of an int8 network: of each layer's input, in real units; None: it is float32."""
    is_uint8: bool
    """Whether the graph takes uint8."""


@dataclass(frozen=True)
class Constant:
    """Values in the file, or computed from such."""

    array: Array
    is_quantized: bool = False
    """Whether it was int8, or as good as that, and `axis` the one along which scales differ."""
    axis: int | None = None


@dataclass(frozen=True)
class Rows:
    """A tensor that depends on the input: rows of values, as many as the caller likes."""

    formula: Formula
    shape: tuple[int, ...]
    start: int | None
    """The first of the axes that make a row; those before it count rows. None: not known yet."""
    is_columns: bool = False
    """A matrix whose columns are the rows (and `start` 0)."""
    is_turned: bool = False
    """Whether it was transposed an odd number of times since its layer."""
    integer: int = 0
    """The element type where it is an integer."""
    limits: tuple[float, float] | None = None
    """Of values that were rounded to 256 levels (DequantizeLinear): the first and the last."""

    @property
    def width(self) -> int | None:
        """How many values a row has; None where that is not known."""
        sizes = self.shape[:1] if self.is_columns else self.shape[self.start or 0 :]
        return math.prod(sizes) if all(n >= 0 for n in sizes) else None


@dataclass(frozen=True)
class Condition:
    """Where the formula of `rows` is > 0, >= 0 or == 0."""

    rows: Rows
    kind: str


@dataclass(frozen=True)
class Pair:
    """The two columns of a decision between two classes, of which `rows` is the second."""

    rows: Rows


@dataclass(frozen=True)
class Labels:
    """The label of each row."""

    scores: Rows | Pair
    classes: Array | None = None


@dataclass(frozen=True)
class Scores:
    """Scores with the names of their classes (ZipMap), or the best of them (TopK)."""

    scores: Rows | Pair
    classes: Array | None = None


@dataclass(frozen=True)
class Flat:
    """All values of all rows one below the other, as scikit-learn's exporter ends a regressor."""

    rows: Rows


@dataclass(frozen=True)
class Quantized:
    """`rows` as integers: round(rows / scale) + zero."""

    rows: Rows
    scale: float
    zero: int
    integer: int


Value: TypeAlias = "Constant | Rows | Condition | Pair | Labels | Scores | Flat | Quantized"
Handler: TypeAlias = Callable[..., "Value | tuple[Value, ...]"]


def operators() -> tuple[dict[str, Handler], Callable[..., Callable[[Handler], Handler]]]:
    """A table of what nodes do by their kind, and the decorator that enters a handler for kinds."""
    table: dict[str, Handler] = {}

    def enter(*kinds: str) -> Callable[[Handler], Handler]:
        def entered(handler: Handler) -> Handler:
            table.update(dict.fromkeys(kinds, handler))
            return handler

        return entered

    return table, enter


def read_layers(
    graph: Graph, handlers: Mapping[str, Handler], n_bytes: int, *, merge: bool = True
) -> Network:
    """The layers of a graph from a file of `n_bytes`; `merge` as of `Steps`."""
    chain = Chain(graph, n_bytes + _SPARE_VALUES, merge)
    for node in graph.nodes:
        chain.run(node, handlers[node.kind])
    return checked("the outputs", chain.finish)


class Chain:
    """The network as far as the nodes have come."""

    def __init__(self, graph: Graph, budget: int, merge: bool) -> None:
        self.graph = graph
        self.formulas = Formulas()
        self.task: str | None = None
        self._budget = budget
        self._merge = merge
        self._steps: Steps | None = None
        self._n_unknown = 0
        self._values: dict[str, Value] = {}
        element = graph.input_type
        if element not in FLOATS and element not in INTEGERS:
            raise Wrong(
                "an input of float16, bfloat16, float, double, int8, uint8, int32 or int64",
                f"element type {element}",
            )
        x = self.formulas.variable()
        sizes = graph.input_shape or (None, None)
        shape = tuple(self.unknown() if n is None else n for n in sizes)
        integer = element if element in INTEGERS else 0
        self.input = x
        self.base = x
        self._values[graph.input] = Rows(x, shape, None, integer=integer)

    def unknown(self) -> int:
        """A size that the file leaves open."""
        self._n_unknown += 1
        return _UNKNOWN - self._n_unknown

    def spend(self, n_values: int) -> None:
        """Count constants that are about to be computed, or copied."""
        self._budget -= n_values
        if self._budget < 0:
            raise Wrong("no more constants than the file has bytes", "more, computed from them")

    def counted(self, texts: Array) -> Array:
        """Strings, each of which takes as much room as the longest."""
        self.spend(texts.nbytes // 4)
        return texts

    # -- nodes ----

    def run(self, node: Node, handler: Handler) -> None:
        """Enter the values that a node gives; what is wrong with it is told with its name."""
        try:
            inputs = [self._value(name) if name else None for name in node.wired.inputs]
            given = checked("its arguments", lambda: handler(self, node, *inputs))
        except Wrong as wrong:
            expected, found = wrong.args
            raise Wrong(f"for {node.wired.text}: {expected}", found) from None
        values = given if isinstance(given, tuple) else (given,)
        self._values.update(zip(node.wired.outputs, values, strict=False))

    def _value(self, name: str) -> Value:
        if name not in self._values and name in self.graph.tensors:
            what = f"initializer {quoted(name)}"
            array = array_of(self.graph.tensors[name], what)
            self._values[name] = Constant(self.counted(array) if array.dtype.kind == "U" else array)
        if name not in self._values:  # a second output of Dropout, BatchNormalization, ...
            raise Wrong("outputs that inference has", quoted(name))
        return self._values[name]

    # -- rows ----

    def start_at(self, rows: Rows, start: int) -> Rows:
        """`rows`, whose rows begin at the axis `start`; an axis of size 1 belongs to either."""
        if rows.is_columns:
            raise Wrong("rows along the last axis", "columns")
        if rows.start is None or rows.start == start:
            return replace(rows, start=start)
        between = rows.shape[min(start, rows.start) : max(start, rows.start)]
        if any(n != 1 for n in between):
            raise Wrong(
                "operators that agree on which axes are a row",
                f"rows from axis {rows.start} on, and here from axis {start} on",
            )
        return replace(rows, start=start)

    def last_axis(self, rows: Rows) -> Rows:
        """`rows`, whose last axis alone is a row (or the first, of columns)."""
        return rows if rows.is_columns else self.start_at(rows, max(len(rows.shape) - 1, 0))

    def per_value(self, rows: Rows, array: Array) -> tuple[Rows, float | Array]:
        """A constant that is combined with rows: one number, or one for each value of a row."""
        rank = len(rows.shape)
        if array.dtype.kind not in "iuf" or array.ndim > rank or not array.size:
            raise Wrong(
                f"numbers of at most {rank} dimensions", f"{array.dtype} of shape {array.shape}"
            )
        known(array)
        if array.size == 1:
            return rows, float(array.reshape(()))
        sizes = (1,) * (rank - array.ndim) + array.shape
        wide = [axis for axis, n in enumerate(sizes) if n != 1]
        shape = list(rows.shape)
        for axis in wide:
            if shape[axis] >= 0 and shape[axis] != sizes[axis]:
                raise Wrong(f"constants that fit the shape {text_of(rows.shape)}", f"{array.shape}")
            shape[axis] = sizes[axis]
        if rows.start is None:  # a constant along the last axis alone says no more than that
            rows = self.start_at(rows, rank - 1 if wide == [rank - 1] else min(1, rank - 1))
        assert rows.start is not None
        first, last = (0, 1) if rows.is_columns else (rows.start, rank)
        if wide[0] < first or wide[-1] >= last:
            raise Wrong("constants that are the same for every row", f"shape {array.shape}")
        rows = replace(rows, shape=tuple(shape))
        n = rows.width
        if n is None:
            raise Wrong("a known number of values in a row", text_of(rows.shape))
        self.spend(n)
        values = np.broadcast_to(array.reshape(sizes[first:last]), shape[first:last])
        return rows, values.astype(np.float64).reshape(-1)

    def cut(self, rows: Rows, n_inputs: int | None) -> Steps:
        """Tell the steps that lead to `rows`; what comes next begins with a value of its own."""
        if self._steps is None:
            self._steps = Steps(n_inputs, merge=self._merge)
        names = activations()
        bases = {atom.base for atom in rows.formula.atoms}
        if bases != {self.base.atoms[0].base}:
            raise Wrong("a chain of layers", "a value that two layers use, or a constant")
        for name, values in self.formulas.steps(rows.formula):
            if name == "affine":
                self._steps.affine(*values)
            else:
                parameters = dict(zip(names[name]["parameters"], values, strict=True))
                self._steps.activation(name, **parameters)
        self.base = self.formulas.variable()
        return self._steps

    def scaled(self, rows: Rows, scale: float | Array, shift: float | Array) -> Rows:
        """rows * scale + shift, numbers or one per value of a row."""
        if isinstance(scale, float) and isinstance(shift, float):
            formula = self.formulas.simplified(rows.formula.scaled(scale, shift))
            return replace(rows, formula=formula, limits=None)
        n = np.size(scale) if not isinstance(scale, float) else np.size(shift)
        self.cut(rows, n).affine(scale, shift)
        return replace(rows, formula=self.base, limits=None)

    def linear(
        self,
        rows: Rows,
        weight: Constant,
        *,
        from_left: bool = False,
        transposed: bool = False,
        scale: float = 1.0,
        bias: npt.ArrayLike | None = None,
    ) -> Rows:
        """rows @ weight * scale + bias, weight (inputs, outputs), or transposed.

        `from_left`: weight^T @ rows, of a matrix whose columns are the rows.
        """
        if rows.is_columns != from_left:
            wanted, found = ("columns", "rows") if from_left else ("rows", "columns")
            raise Wrong(f"{wanted} to be multiplied by weights", found)
        array = weight.array
        if array.dtype.kind != "f" or array.ndim != 2 or not array.size:
            raise Wrong("weights of floats and 2 dimensions", f"{array.dtype} of {array.shape}")
        if weight.is_quantized and weight.axis == (1 if transposed else 0):
            raise Wrong("weights with one scale, or one per output", "one per input")
        if rows.limits is not None and not weight.is_quantized:
            raise Wrong("int8 weights where the input is 8 bits", "float weights")
        rows = self.last_axis(rows)
        n = array.shape[1 if transposed else 0]
        self.spend(array.size)
        w = array.astype(np.float64)
        if scale != 1:
            w *= scale
        if rows.width not in (n, None):
            raise Wrong(f"weights for rows of {rows.width} values", f"shape {array.shape}")
        steps = self.cut(rows, n)
        if rows.limits is not None:
            steps.quantized(*rows.limits)
        steps.linear(w.T if transposed else w, bias)
        return replace(after_product(rows, weight, transposed), formula=self.base)

    # -- the end ----

    def finish(self) -> Network:
        """The layers that the outputs need, and what the outputs say about them."""
        outputs = [self._value(name) for name in self.graph.outputs]
        scores, classes, labelled = [], [], []
        for name, value in zip(self.graph.outputs, outputs, strict=True):
            if isinstance(value, Labels | Scores):
                if value.classes is not None:
                    classes.append(value.classes)
                if isinstance(value, Labels):
                    labelled.append(value.scores)
                value = value.scores
            if isinstance(value, Flat):
                self.task, value = "regress", value.rows
            if not isinstance(value, Rows | Pair):
                what = type(value).__name__.lower()
                raise Wrong("outputs of the last layer, or labels", f"{quoted(name)}: {what}")
            scores.append(value)
        last = self._last([self._held(s.rows if isinstance(s, Pair) else s) for s in scores])
        for one in labelled:
            self._check_labels(one, last)
        others = {id(one): one for one in classes}  # often one list, by several names
        if any(not np.array_equal(one, classes[0]) for one in others.values()):
            raise Wrong("outputs that agree on the classes", "two lists of them")
        if labelled or classes or any(isinstance(value, Pair) for value in scores):
            self.task = "classify"
        last = self.last_axis(last) if last.start is None else last
        steps = self.cut(last, last.width)
        return Network(
            layers=steps.layers(),
            classes=classes[0] if classes else None,
            task=self.task,
            ranges=self._all_ranges(steps),
            is_uint8=self.graph.input_type == UINT8,
        )

    def _held(self, rows: Rows) -> Rows:
        """Outputs that were rounded to 256 levels: between the first and the last of them."""
        line = rows.formula.line()
        if rows.limits is None or line is None or line[0].name not in ("", "clip"):
            return rows
        if line[0] is self.input.atoms[0]:
            if self.graph.input_type in INTEGERS:  # which were never rounded
                return rows
            raise Wrong("a dense layer whose outputs are rounded", "the input alone")
        formula = self.formulas.atom("clip", rows.formula, *rows.limits)
        return replace(rows, formula=formula, limits=None)

    def _last(self, scores: list[Rows]) -> Rows:
        """The outputs after the last activation; others may be those before it."""
        found = {rows.formula.key: rows for rows in scores}
        for key, rows in found.items():
            line = rows.formula.line()
            before = line[0].argument if line and line[1:] == (1.0, 0.0) else None
            if found.keys() <= {key, before.key if before else key}:
                return rows
        raise Wrong("outputs of one last layer", f"{len(found)} different ones")

    def _check_labels(self, scores: Rows | Pair, last: Rows) -> None:
        if isinstance(scores, Pair):
            return
        scores = self._held(scores)
        if scores.width == 1:
            raise Wrong("labels of two scores or more", "one score")
        line = last.formula.line()
        is_by_z = line is not None and line[0].name in _BY_Z
        if scores.formula.key != last.formula.key and not is_by_z:
            raise Wrong("labels of the scores that the graph gives", "those before an activation")

    def _all_ranges(self, steps: Steps) -> tuple[tuple[float, float], ...] | None:
        ranges = steps.ranges
        known = tuple(pair for pair in ranges if pair is not None)
        if not known:
            return None
        if len(known) < len(ranges):
            raise Wrong(
                "QuantizeLinear and DequantizeLinear before every layer, or before none",
                f"none before layer {ranges.index(None)} of {len(ranges)}",
            )
        return known


def text_of(shape: tuple[int, ...]) -> str:
    return f"({', '.join('?' if n < 0 else str(n) for n in shape)})"


def rows_of(value: Value | None, *, allow_integers: bool = False) -> Rows:
    if not isinstance(value, Rows):
        what = "nothing" if value is None else type(value).__name__.lower()
        raise Wrong("an operator on what the input leads to", what)
    if value.integer and not allow_integers:
        raise Wrong("a Cast to float (or DequantizeLinear) before arithmetic", "integers")
    return value


def constant_of(value: Value | None, what: str) -> Constant:
    if not isinstance(value, Constant):
        raise Wrong(f"{what} in the file", "nothing" if value is None else "a computed value")
    return value


def known(array: Array) -> Array:
    """`array`, if no integer in it is a size that the file leaves open (`Chain.unknown`)."""
    if array.dtype.kind in "iu" and array.size and np.abs(array.astype(np.float64)).max() >= 2**31:
        raise Wrong("arithmetic with known sizes", "one that is open, or above 2^31")
    return array


def number_of(value: Value | None, what: str) -> float:
    array = constant_of(value, what).array
    if array.size != 1 or array.dtype.kind not in "iuf":
        raise Wrong(f"{what} as one number", f"{array.dtype} of shape {array.shape}")
    return float(known(array).reshape(()))


def integers_of(value: Value | None, what: str) -> tuple[int, ...]:
    array = constant_of(value, what).array
    if array.dtype.kind not in "iu" or array.ndim > 1 or array.size > 16:
        raise Wrong(f"{what} as a few integers", f"{array.dtype} of shape {array.shape}")
    return tuple(int(n) for n in array.reshape(-1))


def axis_of(axis: int, rank: int) -> int:
    if not -rank <= axis < rank:
        raise Wrong(f"an axis of {rank}", f"{axis}")
    return axis % rank


def after_product(rows: Rows, weight: Constant, transposed: bool) -> Rows:
    """`rows` in the shape that a product gives them."""
    m = weight.array.shape[0 if transposed else -1] if weight.array.ndim else 1
    shape = (m, *rows.shape[1:]) if rows.is_columns else (*rows.shape[:-1], m)
    return replace(rows, shape=shape, is_turned=False, limits=None)


def columns_of(rows: Rows) -> Rows:
    if rows.is_columns:
        return rows
    if len(rows.shape) != 2 or rows.start is not None:
        raise Wrong("columns, to be multiplied from the left", f"rows of {text_of(rows.shape)}")
    return replace(rows, start=0, is_columns=True)


def flipped(rows: Rows) -> Rows:
    """Of a matrix; where its rows are not known yet, they are what becomes the last axis."""
    if rows.start == 0 and not rows.is_columns:
        raise Wrong("a matrix whose rows are along one axis", text_of(rows.shape))
    is_columns = rows.start is not None and not rows.is_columns
    return replace(
        rows, shape=rows.shape[::-1], start=0 if is_columns else 1, is_columns=is_columns,
        is_turned=not rows.is_turned,
    )  # fmt: skip


def finite(array: Array) -> Array:
    if not np.isfinite(array).all():
        raise Wrong("constants that are finite", "NaN or Inf")
    return array
