"""Operators that keep the values and change their shape or type; and constants for shapes.

Invariant: rows stay rows: a shape that would mix or split them is refused. Shapes are constants
of integers, in which a size that the file leaves open is a number of its own (`Chain.unknown`).
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from fastnn.formats.model_file import Wrong, quoted
from fastnn.formats.onnx.chain import (
    BOOL,
    FLOATS,
    INTEGERS,
    Array,
    Chain,
    Condition,
    Constant,
    Flat,
    Labels,
    Pair,
    Scores,
    Value,
    axis_of,
    constant_of,
    flipped,
    integers_of,
    known,
    operators,
    rows_of,
    text_of,
)
from fastnn.formats.onnx.labels import cast, renamed, second_of
from fastnn.formats.onnx.proto import Node, array_of, text_array

OPERATORS, _operator = operators()


@_operator("Identity")
def _identity(chain: Chain, node: Node, x: Value) -> Value:
    return x


@_operator("Dropout")
def _dropout(
    chain: Chain,
    node: Node,
    x: Value,
    ratio: Value | None = None,
    training: Value | None = None,
) -> Value:
    if training is not None and constant_of(training, "training_mode").array.any():
        raise Wrong("a network for inference", "training_mode")
    return x


@_operator("Cast")
def _cast(chain: Chain, node: Node, x: Value) -> Value:
    to = node.attributes["to"]
    if isinstance(x, Scores | Pair) and to in FLOATS:
        return x
    if isinstance(x, Labels) and (to in FLOATS or to in INTEGERS):
        return cast(x, to)
    if isinstance(x, Condition):
        if x.kind == "==" or (to not in FLOATS and to not in INTEGERS):
            raise Wrong("a comparison as numbers", f"a Cast to element type {to}")
        formula = chain.formulas.above(x.rows.formula, is_strict=x.kind == ">")
        integer = to if to in INTEGERS else 0
        return replace(x.rows, formula=formula, integer=integer, limits=None)
    if isinstance(x, Constant):
        return _folded_cast(chain, x.array, to)
    rows = rows_of(x, allow_integers=True)
    if to in FLOATS:
        return replace(rows, integer=0)
    if rows.integer and to in INTEGERS and np.can_cast(INTEGERS[rows.integer], INTEGERS[to]):
        return replace(rows, integer=to)
    raise Wrong("a Cast that keeps the values", f"one to element type {to}")


def _folded_cast(chain: Chain, array: Array, to: int) -> Constant:
    chain.spend(array.size)
    if array.dtype.kind not in "iufb" or to not in {**FLOATS, **INTEGERS, BOOL: 0}:
        raise Wrong("a Cast of numbers to numbers", f"one of {array.dtype} to element type {to}")
    if to in FLOATS:
        return Constant(known(array).astype(np.float64 if to == 11 else np.float32))
    if to == BOOL:
        return Constant(known(array) != 0)
    limits = np.iinfo(INTEGERS[to])
    if array.dtype.kind == "f" and not (abs(array) < 2**53).all():
        raise Wrong("a Cast that keeps the values", "of large floats to integers")
    if array.size and not limits.min <= array.min() <= array.max() <= limits.max:
        raise Wrong("a Cast that keeps the values", f"one to {np.dtype(INTEGERS[to])}")
    return Constant(array.astype(INTEGERS[to]))


@_operator("Flatten")
def _flatten(chain: Chain, node: Node, x: Value) -> Value:
    if isinstance(x, Labels | Flat):
        return x
    rows = rows_of(x, allow_integers=True)
    rank, axis = len(rows.shape), node.attributes["axis"]
    axis = axis + rank if axis < 0 else axis
    if not 0 <= axis <= rank:
        raise Wrong(f"an axis from 0 to {rank}", f"{axis}")
    rows = chain.start_at(rows, axis)
    lead, row = rows.shape[:axis], rows.shape[axis:]
    return replace(rows, shape=(_product(chain, lead), _product(chain, row)), start=1)


def _product(chain: Chain, sizes: tuple[int, ...]) -> int:
    open_ones = [n for n in sizes if n < 0]
    rest = math.prod(n for n in sizes if n >= 0)
    if not open_ones:
        return rest
    return open_ones[0] if len(open_ones) == 1 and rest == 1 else chain.unknown()


@_operator("Reshape")
def _reshape(chain: Chain, node: Node, x: Value, shape: Value) -> Value:
    target = integers_of(shape, "a shape")
    if isinstance(x, Labels | Flat):
        return x
    if isinstance(x, Constant):
        if any(n < -1 for n in target) or (0 in target):
            raise Wrong("a shape of known sizes", f"{target}")
        if not x.array.flags.c_contiguous:
            chain.spend(x.array.size)  # a copy
        return Constant(x.array.reshape(target))
    rows = rows_of(x, allow_integers=True)
    if rows.is_columns:
        raise Wrong("rows along the last axis", "columns")
    if not node.attributes.get("allowzero"):
        if 0 in target[len(rows.shape) :]:
            raise Wrong("a size for each axis", f"0 in {target}")
        target = tuple(rows.shape[i] if n == 0 else n for i, n in enumerate(target))
    if target.count(-1) > 1:
        raise Wrong("one size at most to be found", text_of(target))
    start = min(1, len(rows.shape) - 1) if rows.start is None else rows.start
    rows = replace(rows, start=start)
    n, k = rows.width, start
    if target in ((-1,), (-1, 1)) and n != 1 and k > 0:
        return Flat(rows)
    lead = rows.shape[:k]
    splits = [
        # All that counts rows in one axis,
        (target[:1], target[1:], bool(target) and target[0] == -1),
        # or as it was; a batch whose size is open may be given one.
        (target[:k], target[k:], target[:k] == lead),
        (target[:1], target[1:], k == 1 and lead[0] < 0 and bool(target) and target[0] > 0),
        # One row alone: what counts rows is new.
        (target[:1], target[1:], k == 0 and target[:1] == (1,)),
    ]
    for before, row, is_it in splits:
        if is_it and (sizes := _row_sizes(chain, row, n)) is not None:
            before = tuple(chain.unknown() if n == -1 else n for n in before)
            return replace(rows, shape=(*before, *sizes), start=len(before))
    raise Wrong(f"a shape that keeps the rows of {text_of(rows.shape)}", text_of(target))


def _row_sizes(chain: Chain, row: tuple[int, ...], n: int | None) -> tuple[int, ...] | None:
    """The sizes of a row of n values, its -1 found; None where it has not n values."""
    if 0 in row or row.count(-1) > 1:
        return None
    if n is None:
        return tuple(chain.unknown() if size == -1 else size for size in row)
    known = math.prod(size for size in row if size != -1)
    if min(row, default=0) < -1 or n % known or (-1 not in row and n != known):
        return None
    return tuple(n // known if size == -1 else size for size in row)


def _axes(node: Node, axes: Value | None) -> tuple[int, ...] | None:
    """The axes of Squeeze and Unsqueeze: an attribute before opset 13, then an input."""
    if axes is not None:
        return integers_of(axes, "axes")
    given = node.attributes.get("axes")
    return None if given is None else tuple(given)


@_operator("Squeeze")
def _squeeze(chain: Chain, node: Node, x: Value, axes: Value | None = None) -> Value:
    if isinstance(x, Labels | Flat):
        return x
    shape = x.array.shape if isinstance(x, Constant) else rows_of(x, allow_integers=True).shape
    given = _axes(node, axes)
    if given is None:
        if any(n < 0 for n in shape):
            raise Wrong("axes to squeeze", f"none of {text_of(shape)}")
        given = tuple(i for i, n in enumerate(shape) if n == 1)
    gone = {axis_of(axis, len(shape)) for axis in given}
    if any(shape[axis] != 1 for axis in gone):
        raise Wrong("axes of size 1", f"{sorted(gone)} of {text_of(shape)}")
    kept = tuple(n for i, n in enumerate(shape) if i not in gone)
    if isinstance(x, Constant):
        return Constant(x.array.reshape(kept))
    rows = rows_of(x, allow_integers=True)
    if rows.is_columns:
        raise Wrong("rows along the last axis", "columns")
    start = None if rows.start is None else sum(i not in gone for i in range(rows.start))
    return replace(rows, shape=kept, start=start)


@_operator("Unsqueeze")
def _unsqueeze(chain: Chain, node: Node, x: Value, axes: Value | None = None) -> Value:
    if isinstance(x, Labels):
        return x
    shape = x.array.shape if isinstance(x, Constant) else rows_of(x, allow_integers=True).shape
    given = _axes(node, axes) or ()
    rank = len(shape) + len(given)
    new = {axis_of(axis, rank) for axis in given}
    if len(new) < len(given) or rank > 8:
        raise Wrong("different axes of at most 8", f"{given}")
    old = [i for i in range(rank) if i not in new]
    sizes = dict(zip(old, shape, strict=True))
    wide = tuple(sizes.get(i, 1) for i in range(rank))
    if isinstance(x, Constant):
        return Constant(x.array.reshape(wide))
    rows = rows_of(x, allow_integers=True)
    if rows.is_columns:
        raise Wrong("rows along the last axis", "columns")
    start = rows.start
    if start:
        start = old[start - 1] + 1
    return replace(rows, shape=wide, start=start)


@_operator("Transpose")
def _transpose(chain: Chain, node: Node, x: Value) -> Value:
    shape = x.array.shape if isinstance(x, Constant) else rows_of(x, allow_integers=True).shape
    rank = len(shape)
    order = node.attributes.get("perm", tuple(range(rank))[::-1])
    if sorted(order) != list(range(rank)):
        raise Wrong(f"an order of {rank} axes", quoted(order))
    if isinstance(x, Constant):
        axis = None if x.axis is None else order.index(x.axis)
        return replace(x, array=x.array.transpose(order), axis=axis)
    rows = rows_of(x, allow_integers=True)
    if list(order) == list(range(rank)):
        return rows
    if rank != 2:
        raise Wrong("a matrix", f"shape {text_of(shape)}")
    return flipped(rows)


@_operator("Shape")
def _shape(chain: Chain, node: Node, x: Value) -> Value:
    shape = x.array.shape if isinstance(x, Constant) else rows_of(x, allow_integers=True).shape
    return Constant(
        np.array(shape, np.int64)[node.attributes.get("start") : node.attributes.get("end")]
    )


@_operator("Concat")
def _concat(chain: Chain, node: Node, *inputs: Value) -> Value:
    if all(isinstance(value, Constant) for value in inputs):
        arrays = [constant_of(value, "a part").array for value in inputs]
        if any(a.ndim != 1 or a.dtype.kind not in "iu" for a in arrays):
            raise Wrong("shapes", f"{[a.shape for a in arrays[:4]]}")
        chain.spend(sum(a.size for a in arrays))
        return Constant(np.concatenate(arrays))
    # The two columns of a decision between two classes: 1 - p and p, or -z and z.
    if len(inputs) == 2:
        rows = [chain.last_axis(rows_of(value)) for value in inputs]
        if any(one.is_columns for one in rows):
            raise Wrong("rows along the last axis", "columns")
        axis = axis_of(node.attributes["axis"], len(rows[0].shape))
        no, yes = (one.formula for one in rows)
        line = yes.line()
        is_p = line is not None and line[0].name == "sigmoid" and line[1:] == (1.0, 0.0)
        is_z = line is not None and not line[0].name
        is_one_each = all(one.width == 1 for one in rows) and axis == len(rows[0].shape) - 1
        if is_one_each and (
            (is_p and no.is_close(yes.scaled(-1, 1))) or (is_z and no.is_close(yes.scaled(-1)))
        ):
            return Pair(rows[1])
    raise Wrong("sizes, or the two columns 1 - p and p, or -z and z", "other values")


@_operator("Gather")
def _gather(chain: Chain, node: Node, data: Value, indices: Value) -> Value:
    if isinstance(indices, Labels):
        return renamed(chain, indices, data)
    index = constant_of(indices, "the indices").array
    if isinstance(data, Pair):
        rank = len(data.rows.shape)
        if axis_of(node.attributes.get("axis", 0), rank) != rank - 1:
            raise Wrong("the second of two columns", f"axis {node.attributes.get('axis', 0)}")
        return second_of(data, index)
    array = constant_of(data, "what is gathered from").array
    if array.ndim != 1 or index.ndim > 1 or index.dtype.kind != "i" or array.dtype.kind not in "iu":
        raise Wrong("sizes by their place", f"shapes {array.shape} and {index.shape}")
    if index.size and not -array.size <= index.min() <= index.max() < array.size:
        raise Wrong(f"places in {array.size} sizes", f"{index.min()} to {index.max()}")
    chain.spend(index.size)
    return Constant(array[index])


@_operator("Slice")
def _slice(chain: Chain, node: Node, data: Value, *bounds: Value | None) -> Value:
    array = constant_of(data, "what is sliced").array
    about = node.attributes
    if bounds:
        given = [None if b is None else integers_of(b, "a bound") for b in bounds]
        starts, ends, axes, steps = given + [None] * (4 - len(given))
    else:
        starts, ends, axes, steps = about.get("starts"), about.get("ends"), about.get("axes"), None
    is_first = starts and ends and len(starts) == len(ends) == 1 and axes in (None, (0,), (-1,))
    if array.ndim != 1 or not is_first or steps not in (None, (1,)):
        raise Wrong("a part of a list of sizes", f"shape {array.shape}")
    assert starts is not None
    assert ends is not None
    return Constant(array[starts[0] : ends[0]])


@_operator("Constant")
def _constant_node(chain: Chain, node: Node) -> Value:
    if len(node.attributes) != 1:
        raise Wrong("one value", f"{len(node.attributes)}")
    ((name, value),) = node.attributes.items()
    if name == "value":
        return Constant(array_of(value, f"the value of {node.wired.text}"))
    if name in ("value_float", "value_floats"):
        array = np.asarray(value, np.float32)
        if np.isnan(array).any():
            raise Wrong("a value that is a number", "NaN")
        return Constant(array)
    if name in ("value_int", "value_ints"):
        return Constant(np.asarray(value, np.int64))
    texts = text_array([value] if isinstance(value, str) else value, "the value")
    return Constant(chain.counted(texts))
