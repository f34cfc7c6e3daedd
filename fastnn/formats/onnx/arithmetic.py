"""Operators that compute: dense layers, normalisation, arithmetic, comparisons, activations.

Invariant: a handler takes (chain, node, *inputs) and gives the node's value; what it cannot say as
rows of a dense network it refuses. Its docstring is the formula, where the name does not say it.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from fastnn.checks import FLOAT32_MAX
from fastnn.formats.model_file import Wrong, quoted
from fastnn.formats.onnx import formulas
from fastnn.formats.onnx.chain import (
    Array,
    Chain,
    Condition,
    Constant,
    Rows,
    Value,
    after_product,
    axis_of,
    columns_of,
    constant_of,
    finite,
    flipped,
    known,
    number_of,
    operators,
    rows_of,
    text_of,
)
from fastnn.formats.onnx.formulas import Formula
from fastnn.formats.onnx.proto import Node

OPERATORS, _operator = operators()

_MOST_COMBINED = 256  # inputs of a Sum


# ---- layers --------------------------------------------------------------------------------------


@_operator("Gemm")
def _gemm(chain: Chain, node: Node, a: Value, b: Value, c: Value | None = None) -> Value:
    about = node.attributes
    from_left = not isinstance(a, Rows)
    rows, weight = rows_of(b if from_left else a), constant_of(a if from_left else b, "the weights")
    if len(rows.shape) != 2:
        raise Wrong("a matrix", f"shape {text_of(rows.shape)}")
    if from_left:
        transposed = not about["transA"]
        rows = flipped(chain.last_axis(rows)) if about["transB"] else columns_of(rows)
    else:
        transposed = bool(about["transB"])
        rows = flipped(rows) if about["transA"] else rows
    bias: float | Array | None = None
    if c is not None:
        _, bias = chain.per_value(
            after_product(chain.last_axis(rows), weight, transposed),
            constant_of(c, "the bias").array,
        )
        bias = bias * about["beta"]
    return chain.linear(
        rows, weight, from_left=from_left, transposed=transposed, scale=about["alpha"], bias=bias
    )


@_operator("MatMul")
def _matmul(chain: Chain, node: Node, a: Value, b: Value) -> Value:
    if isinstance(a, Rows):
        weight = constant_of(b, "the weights")
        if weight.array.ndim == 1:  # which takes the axis away
            column = Constant(weight.array.reshape(-1, 1))
            out = chain.linear(rows_of(a), column)
            return replace(out, shape=out.shape[:-1])
        return chain.linear(rows_of(a), weight)
    rows = columns_of(rows_of(b))
    return chain.linear(rows, constant_of(a, "the weights"), from_left=True, transposed=True)


@_operator("BatchNormalization")
def _batch_normalization(
    chain: Chain, node: Node, x: Value, scale: Value, b: Value, mean: Value, var: Value
) -> Value:
    rows = rows_of(x)
    if node.attributes.get("training_mode") or not node.attributes.get("spatial", 1):
        raise Wrong("a normalisation by the numbers in the file", "training_mode, or spatial=0")
    rank = len(rows.shape)
    if rank < 2:
        raise Wrong("2 dimensions or more", f"shape {text_of(rows.shape)}")
    names = {"scale": scale, "B": b, "mean": mean, "var": var}
    by_name = {name: constant_of(value, name).array for name, value in names.items()}
    if any(
        a.ndim != 1 or a.dtype.kind != "f" or a.shape != by_name["B"].shape
        for a in by_name.values()
    ):
        raise Wrong("four vectors of one length", f"{[a.shape for a in by_name.values()]}")
    double = {name: a.astype(np.float64) for name, a in by_name.items()}
    square = double["var"] + node.attributes["epsilon"]
    if not (square > 0).all():
        raise Wrong("variances above 0", f"{square.min()} with epsilon")
    factor = double["scale"] / np.sqrt(square)
    shape = (-1,) + (1,) * (rank - 2)
    rows, factors = chain.per_value(rows, factor.reshape(shape))
    rows, shifts = chain.per_value(rows, (double["B"] - double["mean"] * factor).reshape(shape))
    return chain.scaled(rows, factors, shifts)


# ---- arithmetic ----------------------------------------------------------------------------------


@_operator("Add", "Sub", "Mul", "Div", "Sum", "Max", "Min", "Pow")
def _arithmetic(chain: Chain, node: Node, *inputs: Value) -> Value:
    if len(inputs) > _MOST_COMBINED:
        raise Wrong(f"at most {_MOST_COMBINED} inputs", f"{len(inputs)}")
    total = inputs[0]
    for value in inputs[1:]:
        total = _combined(chain, "Add" if node.kind == "Sum" else node.kind, total, value)
    return total


def _combined(chain: Chain, name: str, a: Value, b: Value) -> Value:
    if isinstance(a, Constant) and isinstance(b, Constant):
        return _folded_arithmetic(chain, name, a.array, b.array)
    if isinstance(a, Rows) and isinstance(b, Rows):
        return _of_two(chain, name, rows_of(a), rows_of(b))
    constant, rows = (a, rows_of(b)) if isinstance(a, Constant) else (b, rows_of(a))
    rows, c = chain.per_value(rows, constant_of(constant, "one of the two").array)
    is_left = isinstance(a, Constant)  # c - x, c / x
    if name == "Add":
        return chain.scaled(rows, 1.0, c)
    if name == "Sub":
        return chain.scaled(rows, -1.0, c) if is_left else chain.scaled(rows, 1.0, -c)
    if name == "Mul":
        return chain.scaled(rows, c, 0.0)
    if name == "Div" and not is_left:
        if not np.all(c):
            raise Wrong("a division by other numbers", "0")
        return chain.scaled(rows, 1 / c, 0.0)
    if not isinstance(c, float):
        raise Wrong(f"{name} of a value and one number", "one for each value")
    number = replace(rows, formula=formulas.constant(c))
    return _of_two(chain, name, *((number, rows) if is_left else (rows, number)))


def _check_alike(one: Rows, other: Rows) -> None:
    if one.shape != other.shape or one.is_turned != other.is_turned:
        shapes = f"{text_of(one.shape)} and {text_of(other.shape)}"
        raise Wrong("two values of one shape, or a constant", shapes)
    bases = {atom.base for rows in (one, other) for atom in rows.formula.atoms}
    if len(bases) > 1:
        raise Wrong("a chain of layers", "values of two layers that come together")


def _of_two(chain: Chain, name: str, one: Rows, other: Rows) -> Rows:
    """Of rows of the same shape, one of them perhaps a number."""
    _check_alike(one, other)
    start = one.start if one.start is not None else other.start
    p, q, f = one.formula, other.formula, chain.formulas
    if name == "Pow":
        if q.value not in (2.0, 3.0):
            raise Wrong("a power of 2 or 3", f"{q.value}")
        formula = f.product(p, p) if q.value == 2 else f.product(f.product(p, p), p)
    else:
        formula = {
            "Add": f.total,
            "Sub": lambda p, q: f.total(p, q.scaled(-1)),
            "Mul": f.product,
            "Div": lambda p, q: f.product(p, f.inverse(q)),
            "Max": f.largest,
            "Min": f.smallest,
        }[name](p, q)
    return replace(one, formula=formula, start=start, limits=None)


def _folded_arithmetic(chain: Chain, name: str, a: Array, b: Array) -> Constant:
    size = math.prod(np.broadcast_shapes(a.shape, b.shape))
    if size > max(a.size, b.size):
        raise Wrong("constants no larger than those in the file", f"{size} values of fewer")
    chain.spend(size)
    if a.dtype.kind in "iu" and b.dtype.kind in "iu":
        x, y = known(a).astype(np.int64), known(b).astype(np.int64)
        if name == "Div":
            if not y.all():
                raise Wrong("a division by other numbers", "0")
            return Constant(np.abs(x) // np.abs(y) * np.sign(x) * np.sign(y))
    elif a.dtype.kind == b.dtype.kind == "f":
        x, y = a.astype(np.float64), b.astype(np.float64)
    else:
        raise Wrong("constants of one kind", f"{a.dtype} and {b.dtype}")
    functions = {
        "Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Div": np.divide,
        "Max": np.maximum, "Min": np.minimum, "Pow": np.power,
    }  # fmt: skip
    if name == "Pow" and x.dtype.kind == "i":
        raise Wrong("a power of floats", "integers")
    with np.errstate(all="ignore"):
        return Constant(finite(functions[name](x, y)))


@_operator("Neg", "Sqrt", "Reciprocal", "Abs", "Exp", "Log", "Erf")
def _unary(chain: Chain, node: Node, x: Value) -> Value:
    name = node.kind
    if isinstance(x, Constant):
        functions = {"Neg": np.negative, "Sqrt": np.sqrt, "Reciprocal": np.reciprocal}
        if name not in functions or x.array.dtype.kind != "f":
            raise Wrong("Neg, Sqrt or Reciprocal of float constants", f"it of {x.array.dtype}")
        chain.spend(x.array.size)
        with np.errstate(all="ignore"):
            return Constant(finite(functions[name](x.array.astype(np.float64))))
    rows, f = rows_of(x), chain.formulas
    if name == "Neg":
        formula = rows.formula.scaled(-1)
    elif name == "Reciprocal":
        formula = f.inverse(rows.formula)
    elif name == "Sqrt":
        raise Wrong("Sqrt of constants", "a value")
    else:
        formula = f.atom(name.lower(), rows.formula)
    return replace(rows, formula=formula, limits=None)


@_operator("Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Equal")
def _comparison(chain: Chain, node: Node, a: Value, b: Value) -> Value:
    is_less = node.kind.startswith("Less")
    difference = _combined(chain, "Sub", *((b, a) if is_less else (a, b)))
    kind = "==" if node.kind == "Equal" else ">=" if node.kind.endswith("OrEqual") else ">"
    return Condition(rows_of(difference), kind)


@_operator("Not")
def _not(chain: Chain, node: Node, x: Value) -> Value:
    if not isinstance(x, Condition) or x.kind == "==":
        raise Wrong("Not of a comparison", "another value")
    rows = replace(x.rows, formula=x.rows.formula.scaled(-1))
    return Condition(rows, ">" if x.kind == ">=" else ">=")


@_operator("Where")
def _where(chain: Chain, node: Node, condition: Value, a: Value, b: Value) -> Value:
    if not isinstance(condition, Condition):
        raise Wrong("a comparison to choose by", "another value")
    rows, f = condition.rows, chain.formulas
    branches = []
    for value in (a, b):
        if isinstance(value, Constant):
            branches.append(formulas.constant(number_of(value, "a branch")))
        else:
            branch = rows_of(value)
            _check_alike(rows, branch)
            branches.append(branch.formula)
    if condition.kind == "==":
        number = branches[0].value
        if number is None:
            raise Wrong("a number where the two are equal", "a value")
        formula = f.at_zero(rows.formula, number, branches[1])
    else:
        formula = f.choice(rows.formula, condition.kind == ">", *branches)
    return replace(rows, formula=formula, limits=None)


# ---- activations ---------------------------------------------------------------------------------


@_operator(
    "Celu", "Elu", "Gelu", "HardSigmoid", "HardSwish", "LeakyRelu", "Relu", "Selu", "Sigmoid",
    "Softplus", "Softsign", "Swish", "Tanh",
)  # fmt: skip
def _activation(chain: Chain, node: Node, x: Value) -> Value:
    rows, f, about = rows_of(x), chain.formulas, node.attributes
    u = rows.formula
    formula: Formula
    if node.kind == "Relu":
        formula = f.atom("clip", u, 0.0, math.inf)
    elif node.kind == "LeakyRelu":
        formula = f.atom("leaky_relu", u, about["alpha"])
    elif node.kind == "Elu":
        formula = f.atom("elu", u, about["alpha"])
    elif node.kind == "Celu":  # alpha*elu(x/alpha)
        alpha = about["alpha"]
        if not alpha > 0:
            raise Wrong("alpha above 0", f"{alpha}")
        formula = f.atom("elu", u.scaled(1 / alpha), 1.0).scaled(alpha)
    elif node.kind == "Selu":
        formula = formulas.selu(f, u, about["alpha"], about["gamma"])
    elif node.kind == "HardSigmoid":
        formula = f.atom("hardsigmoid", u, about["alpha"], about["beta"])
    elif node.kind == "Swish":  # x*sigmoid(alpha*x)
        formula = f.product(u, f.atom("sigmoid", u.scaled(about["alpha"])))
    elif node.kind == "Gelu":
        names = {"none": "gelu", "tanh": "gelu_tanh"}
        if about["approximate"] not in names:
            raise Wrong("approximate as none or tanh", quoted(about["approximate"]))
        formula = f.atom(names[about["approximate"]], u)
    else:
        formula = f.atom(node.kind.lower(), u)
    return replace(rows, formula=formula, limits=None)


@_operator("Clip")
def _clip(
    chain: Chain, node: Node, x: Value, lo: Value | None = None, hi: Value | None = None
) -> Value:
    rows, about = rows_of(x), node.attributes
    bounds = [about.get("min", -math.inf), about.get("max", math.inf)]
    for i, value in enumerate((lo, hi)):
        if value is not None:
            bounds[i] = number_of(value, "a bound")
    # The largest float32 is how to say "no bound" before opset 11.
    low, high = bounds
    low, high = -math.inf if low <= -FLOAT32_MAX else low, math.inf if high >= FLOAT32_MAX else high
    return replace(rows, formula=chain.formulas.atom("clip", rows.formula, low, high), limits=None)


@_operator("PRelu")
def _prelu(chain: Chain, node: Node, x: Value, slope: Value) -> Value:
    rows, alpha = chain.per_value(rows_of(x), constant_of(slope, "the slope").array)
    if not isinstance(alpha, float):
        if (alpha != alpha[0]).any():
            raise Wrong("one slope for all values", f"{len(alpha)} different ones")
        alpha = float(alpha[0])
    return replace(
        rows, formula=chain.formulas.atom("leaky_relu", rows.formula, alpha), limits=None
    )


@_operator("Softmax", "LogSoftmax")
def _softmax(chain: Chain, node: Node, x: Value) -> Value:
    rows = rows_of(x)
    axis = axis_of(node.attributes["axis"], len(rows.shape))
    if rows.is_columns:
        is_row = axis == 0 and node.version >= 13
    else:
        # Before opset 13 all axes from this one on were taken together.
        rows = chain.start_at(rows, axis)
        is_row = node.version < 13 or axis == len(rows.shape) - 1
    if not is_row:
        raise Wrong("the last axis", f"axis {axis} of {text_of(rows.shape)}")
    name = "softmax" if node.kind == "Softmax" else "log_softmax"
    return replace(rows, formula=chain.formulas.atom(name, rows.formula), limits=None)
