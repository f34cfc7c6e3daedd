"""Operators at the end of a classifier, and scikit-learn's own (domain ai.onnx.ml).

Invariant: labels and names of classes belong to scores that the network gives; a decision between
two classes that is written as two columns (1 - p and p, or -z and z) is a `Pair` of one score.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from fastnn.formats.model_file import Wrong, quoted
from fastnn.formats.onnx.chain import (
    FLOATS,
    INTEGERS,
    Array,
    Chain,
    Constant,
    Labels,
    Pair,
    Rows,
    Scores,
    Value,
    axis_of,
    constant_of,
    operators,
    rows_of,
    text_of,
)
from fastnn.formats.onnx.proto import Node, text_array

OPERATORS, _operator = operators()


def renamed(chain: Chain, labels: Labels, names: Value | None) -> Labels:
    """names[label] for each label, which was an index so far or had a name before."""
    array = constant_of(names, "the classes").array
    chain.spend(array.size)
    classes = _as_classes(array)
    if labels.classes is not None:
        at = labels.classes
        if at.dtype.kind != "i" or not -classes.size <= at.min() <= at.max() < classes.size:
            raise Wrong(f"labels that are places in {classes.size} classes", "others")
        chain.spend(at.size * max(1, classes.itemsize // 4))  # of a text as many as characters
        classes = classes[at]
    return Labels(labels.scores, classes)


def cast(labels: Labels, to: int) -> Labels:
    """Labels as another type that has room for all of them."""
    names, rows = labels.classes, labels.scores
    if names is None:  # places
        width = 2 if isinstance(rows, Pair) else rows.width
        names = np.array([0, (width or 2**24) - 1])
    if names.dtype.kind != "i":
        raise Wrong("a Cast of labels that are numbers", "strings")
    if to in FLOATS:  # 16: bfloat16
        most = {1: 2**24, 10: 2**11, 11: 2**53, 16: 2**8}[to]
        least = -most
    else:
        least, most = np.iinfo(INTEGERS[to]).min, np.iinfo(INTEGERS[to]).max
    if not least <= names.min() <= names.max() <= most:
        found = f"{names.min()} to {names.max()} to element type {to}"
        raise Wrong("a Cast that keeps the labels", found)
    return labels


def _as_classes(array: Array) -> Array:
    """Labels as `ModelFile` has them; floats that are integers (scikit-learn's) as such."""
    flat = array.reshape(-1)
    if flat.dtype.kind == "f" and (flat == np.rint(flat)).all() and (abs(flat) < 2**53).all():
        flat = flat.astype(np.int64)
    if flat.dtype.kind not in "iuU" or flat.size < 1:
        raise Wrong("classes that are integers or strings", f"{flat.dtype}")
    return flat.astype(np.int64) if flat.dtype.kind != "U" else flat


@_operator("ArgMax")
def _argmax(chain: Chain, node: Node, x: Value) -> Value:
    scores = x if isinstance(x, Pair) else chain.last_axis(rows_of(x))
    rows = scores.rows if isinstance(scores, Pair) else scores
    axis = axis_of(node.attributes["axis"], len(rows.shape))
    if axis != (0 if rows.is_columns else len(rows.shape) - 1):
        raise Wrong("the last axis", f"axis {axis} of {text_of(rows.shape)}")
    if node.attributes.get("select_last_index"):
        raise Wrong("the first of equal scores", "select_last_index")
    return Labels(scores)


@_operator("TopK")
def _topk(chain: Chain, node: Node, x: Value, k: Value | None = None) -> Value | tuple[Value, ...]:
    rows = chain.last_axis(rows_of(x))
    axis = axis_of(node.attributes["axis"], len(rows.shape))
    if axis != len(rows.shape) - 1 or rows.is_columns or not node.attributes.get("largest", 1):
        raise Wrong("the largest along the last axis", f"axis {axis}, or the smallest")
    return Scores(rows), Labels(rows)


@_operator("ai.onnx.ml.ArrayFeatureExtractor")
def _extract(chain: Chain, node: Node, x: Value, y: Value) -> Value:
    if isinstance(y, Labels):
        return renamed(chain, y, x)
    if isinstance(x, Pair):
        return second_of(x, constant_of(y, "the index").array)
    raise Wrong("classes by their label, or the second of two columns", "another value")


def second_of(pair: Pair, index: Array) -> Rows:
    if index.size != 1 or index.dtype.kind != "i" or index.reshape(()) not in (1, -1):
        raise Wrong("the second of two columns", f"index {quoted(index.tolist())}")
    return pair.rows


@_operator("ai.onnx.ml.ZipMap")
def _zipmap(chain: Chain, node: Node, x: Value) -> Value:
    scores = x if isinstance(x, Pair) else chain.start_at(rows := rows_of(x), len(rows.shape) - 1)
    return Scores(scores, _named_classes(chain, node, "classlabels_int64s"))


def _named_classes(chain: Chain, node: Node, integers: str) -> Array:
    given = [
        node.attributes[name]
        for name in (integers, "classlabels_strings")
        if node.attributes.get(name)
    ]
    if len(given) != 1:
        raise Wrong("one list of classes", f"{len(given)}")
    if isinstance(given[0][0], str):
        return _as_classes(chain.counted(text_array(given[0], "the classes")))
    return _as_classes(np.array(given[0]))


@_operator("ai.onnx.ml.Normalizer")
def _normalizer(chain: Chain, node: Node, x: Value) -> Value:
    # Of probabilities, whose sum is 1 as it is.
    rows = x.rows if isinstance(x, Pair) else rows_of(x)
    line = rows.formula.line()
    name = line[0].name if line is not None and line[1:] == (1.0, 0.0) else ""
    if node.attributes["norm"] == "L1" and name == (
        "sigmoid" if isinstance(x, Pair) else "softmax"
    ):
        return x
    raise Wrong("L1 after softmax, or of two classes, where it changes nothing", "another one")


@_operator("ai.onnx.ml.Scaler")
def _scaler(chain: Chain, node: Node, x: Value) -> Value:
    """(x - offset) * scale."""
    rows = rows_of(x)
    offset, scale = (
        np.asarray(node.attributes.get(name, default), np.float64)
        for name, default in (("offset", [0]), ("scale", [1]))
    )
    if scale.size != offset.size and 1 not in (scale.size, offset.size):
        raise Wrong("an offset and a scale of one length", f"{offset.size} and {scale.size}")
    rows, factor = chain.per_value(rows, np.broadcast_to(scale, (offset * scale).shape))
    rows, shift = chain.per_value(rows, -offset * scale)
    return chain.scaled(rows, factor, shift)


def _coefficients(node: Node, n: int) -> tuple[Array, Array]:
    """(n, inputs) and (n,)."""
    values, intercepts = (
        np.asarray(node.attributes.get(name, ()), np.float32)
        for name in ("coefficients", "intercepts")
    )
    if not 1 <= n <= values.size or values.size % n or intercepts.size not in (0, n):
        raise Wrong(
            f"{n} rows of coefficients and {n} intercepts or none",
            f"{values.size} and {intercepts.size}",
        )
    if not intercepts.size:
        intercepts = np.zeros(n, np.float32)
    if np.isnan(values).any() or np.isnan(intercepts).any():
        raise Wrong("coefficients that are numbers", "NaN")
    return values.reshape(n, -1), intercepts


@_operator("ai.onnx.ml.LinearRegressor")
def _linear_regressor(chain: Chain, node: Node, x: Value) -> Value:
    if node.attributes["post_transform"] != "NONE" or node.attributes["targets"] < 1:
        raise Wrong("post_transform NONE", quoted(node.attributes["post_transform"]))
    weight, bias = _coefficients(node, node.attributes["targets"])
    chain.task = "regress"
    return chain.linear(rows_of(x), Constant(weight), transposed=True, bias=bias)


@_operator("ai.onnx.ml.LinearClassifier")
def _linear_classifier(chain: Chain, node: Node, x: Value) -> tuple[Value, ...]:
    classes = _named_classes(chain, node, "classlabels_ints")
    weight, bias = _coefficients(node, len(classes))
    if len(classes) < 2:
        raise Wrong("two classes or more", "one")
    after = node.attributes["post_transform"]
    if after not in ("NONE", "LOGISTIC", "SOFTMAX"):
        raise Wrong("post_transform NONE, LOGISTIC or SOFTMAX", quoted(after))
    is_pair = len(classes) == 2 and np.array_equal(weight[0], -weight[1]) and bias[0] == -bias[1]
    if is_pair:
        weight, bias = weight[1:], bias[1:]
    rows = chain.linear(rows_of(x), Constant(weight), transposed=True, bias=bias)
    if after != "NONE":
        u, name = rows.formula, "sigmoid" if is_pair or after == "LOGISTIC" else "softmax"
        if is_pair and after == "SOFTMAX":  # e^z / (e^z + e^-z)
            u = u.scaled(2)
        rows = replace(rows, formula=chain.formulas.atom(name, u))
    scores = Pair(rows) if is_pair else rows
    return Labels(scores, classes), scores
