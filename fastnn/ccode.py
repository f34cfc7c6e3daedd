"""`export_c`: a model as one file of C99 that needs nothing but <math.h>.

Invariant: no arithmetic is written down here. What the file computes with are the functions of
csrc/portable.h, csrc/activations.h (over csrc/vec_scalar.h) and csrc/softmax.h, those that the
model needs, copied under names of its own; so the file has the bits of the engine, which its test
main checks. Nothing of a model but numbers and its classes gets into the file, and those are
escaped.

Start at `pieces`. docs/export.md is for those who compile the result.
"""

from __future__ import annotations

import functools
import itertools
import os
import re
import string
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from fastnn import formats
from fastnn._core import activations
from fastnn._version import __version__
from fastnn.embedding import get_include
from fastnn.layers import Dense
from fastnn.model import Model, layers_for, reads_pixels
from fastnn.quantize import QuantizedDense, is_direct, requantization

__all__ = ["INPUTS", "export_c", "name_for", "pieces"]

INPUTS = ("float32", "uint8", "both")

_HEADERS = ("vec_scalar.h", "activations.h", "softmax.h", "portable.h")
_ROW = 8  # numbers a line
_NAME = "NAME"  # in what is below, in place of a model's own; no other word holds it

_Layer = Dense | QuantizedDense


def export_c(
    model: Model,
    path: str | os.PathLike[str],
    *,
    name: str | None = None,
    inputs: str | None = None,
) -> None:
    """Write `model` as a C99 file: `NAME_forward`, `NAME_predict`, a test main; docs/export.md.

    float32 and int8 models give the bits that they give here. `name`: what the identifiers begin
    with, by default the file's name with what C does not allow made "_". `inputs`: the rows that
    the functions take, "float32", "uint8" (functions that end in _u8) or "both"; None: both where
    the model has a scale, mean or std or was calibrated on uint8 rows, else "float32". The first
    layer is there for each that is named, so one of them makes a smaller program.

    Raises TypeError if `model` is no Model; ValueError for a name that is no C identifier, other
    `inputs`, a path that does not end in .c, and for bfloat16, whose bits depend on the CPU;
    OSError if the file cannot be written, which appears complete or not at all.
    """
    file = Path(os.fsdecode(path))
    if file.suffix != ".c":
        raise ValueError(f"export_c: path is {str(file)!r}, wanted a name that ends in .c")
    text = pieces(model, name_for(file) if name is None else name, inputs)
    formats.write_bytes(file, (piece.encode("ascii") for piece in text))


def name_for(path: str | os.PathLike[str]) -> str:
    """The C identifier that a file's name makes: "3-2-1.c" gives "net_3_2_1"."""
    words = re.sub(r"[^A-Za-z0-9]+", "_", Path(os.fsdecode(path)).stem).strip("_")
    return words if re.match(r"[A-Za-z]", words) else f"net_{words}".rstrip("_")


def pieces(model: Model, name: str, inputs: str | None = None) -> Iterator[str]:
    """The file of `export_c`, piece by piece."""
    if not isinstance(model, Model):
        raise TypeError(f"export_c: model is a {type(model).__name__}, wanted a fastnn.Model")
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name):
        raise ValueError(
            f"export_c: name is {name!r}, wanted a C identifier that begins with a letter"
        )
    if inputs not in (None, *INPUTS):
        raise ValueError(f"export_c: inputs is {inputs!r}, wanted None or one of {INPUTS}")
    if model.precision == "bfloat16":
        raise ValueError(
            "export_c: the model's precision is bfloat16, whose bits depend on the CPU; "
            'give model.astype("float32") or, quantized, "int8"'
        )
    return _Writer(model, inputs or ("both" if reads_pixels(model) else "float32")).file(name)


# ---- the functions that are copied --------------------------------------------------------------


class _Definition(NamedTuple):
    """A function or a type."""

    text: str
    """With the comment before it."""
    uses: frozenset[str]
    """Names of others."""


@functools.cache
def _definitions() -> dict[str, _Definition]:
    """The functions and types of the headers, by name and in an order that C can read.

    One begins with `static inline`, `typedef struct` or `ACTIVATION` in the first column and ends
    on that line, or with the next `}` there.
    """
    texts: dict[str, str] = {}
    for header in _HEADERS:
        lines = iter(Path(get_include(), header).read_text(encoding="ascii").splitlines())
        comment: list[str] = []
        for line in lines:
            block = [line]
            if line.startswith("/* ") and not line.startswith("/* --"):
                while not block[-1].endswith("*/"):
                    block.append(next(lines))
                comment = block
                continue
            if line.startswith(("static inline ", "typedef struct", "ACTIVATION(")):
                if not line.endswith(("}", ";")):
                    block += [*itertools.takewhile(lambda line: line != "}", lines), "}"]
                name, text = _in_c("\n".join(block))
                texts[name] = "\n".join([*comment, text])
            comment = []
    words = {name: frozenset(re.findall(r"\w+", text)) for name, text in texts.items()}
    return {
        name: _Definition(text, (words[name] & texts.keys()) - {name})
        for name, text in texts.items()
    }


def _in_c(text: str) -> tuple[str, str]:
    """The name of a definition, and its text without the macros and vectors of activations.h."""
    text = re.sub(r"^ACTIVATION\((\w+)\)", r"static inline vf v_act_\1(vf x, vf a, vf b)", text)
    for word, meaning in {"vf": "float", "vm": "int", "UNUSED": "(void)a, (void)b"}.items():
        text = re.sub(rf"\b{word}\b", meaning, text)
    text = re.sub(r"\bC\(", "(", text)
    is_type = text.startswith("typedef")
    return re.findall(r"(\w+);$" if is_type else r"(\w+)\(", text)[0], text


def _needed(names: set[str]) -> str:
    """The definitions of these names and of all that they use."""
    known = _definitions()
    wanted: set[str] = set()
    queue = list(names)
    while queue:
        name = queue.pop()
        if name not in wanted:
            wanted.add(name)
            queue += known[name].uses
    text = "\n\n".join(text for name, (text, _) in known.items() if name in wanted)
    return re.sub(rf"\b({'|'.join(wanted)})\b", rf"{_NAME}_\1", text)


# ---- what is written of a model -----------------------------------------------------------------


class _Way(NamedTuple):
    """How rows of one dtype are taken."""

    suffix: str
    type: str
    layers: tuple[_Layer, ...]


_WAYS = {"float32": ("", "float"), "uint8": ("_u8", "uint8_t")}


class _Writer:
    """The parts of a file. In what it makes NAME stands for the name that is given at the end."""

    def __init__(self, model: Model, inputs: str) -> None:
        self.model = model
        self.last = model.layers[-1]
        self.is_softmax = activations()[self.last.activation]["last_layer_only"]
        dtypes = _WAYS if inputs == "both" else (inputs,)
        self.ways = [_Way(*_WAYS[dtype], layers_for(model, dtype)) for dtype in dtypes]
        self.used: set[str] = set()  # of _definitions()
        self.arrays: dict[str, npt.NDArray[Any]] = {}
        self.hidden_bytes = 0  # of the stack
        self.code = [self._activate(), *(self._functions(way) for way in self.ways)]

    def file(self, name: str) -> Iterator[str]:
        """The file, piece by piece."""
        classes = _classes(self.model)
        n_bytes = sum(array.nbytes for array in self.arrays.values())
        n_stack = self.hidden_bytes + 4 * self.model.n_outputs * (2 if self.is_softmax else 1)
        declared = [self._prototypes(way) for way in self.ways]
        if classes:
            declared.append(f"/* What the indices stand for. */\nextern {classes[0]};")
        engine = _needed(self.used)
        words = {
            "about": _about(self.model),
            "version": __version__,
            "sizes": f"{n_bytes:,} bytes of constants, about {n_stack:,} of stack",
            "library": ", ".join(f for f in ("fmaf", "rintf", "memcpy") if f"{f}(" in engine),
            "n_inputs": str(self.model.n_inputs),
            "n_outputs": str(self.model.n_outputs),
            "declarations": "\n".join(declared),
            "engine": engine,
            "double": " || DBL_MANT_DIG != 53" if "double " in engine else "",
        }
        yield string.Template(_HEAD).substitute(words).replace(_NAME, name)
        if classes:  # strings may hold any word
            yield f"\n{classes[0].replace(_NAME, name)} = {classes[1]};\n"
        for array, values in self.arrays.items():
            yield from _array(f"{name}_{array}", values)
        yield "\n/* ---- the network ---- */\n\n"
        yield "\n\n".join(part for part in self.code if part).replace(_NAME, name)
        yield _TEST.replace(_NAME, name)
        checks = []
        for way, x in zip(self.ways, _test_rows(self.model, self.ways), strict=True):
            yield from self._expected(name, way, x)
            checks.append(self._check(way))
        words = {"n_rows": str(_n_test_rows(self.model)), "checks": "\n".join(checks)}
        yield string.Template(_MAIN).substitute(words).replace(_NAME, name)

    def _prototypes(self, way: _Way) -> str:
        n = self.model.n_inputs
        what = f"x[{n}], {'raw bytes' if way.suffix else 'floats'}"
        lines = [
            f"/* y[{self.model.n_outputs}], not x, = the network's outputs for {what}. */",
            f"void NAME_forward{way.suffix}(const {way.type} *x, float *y);",
        ]
        if self.model.task == "classify":
            lines += [
                f"/* The index of the label of x[{n}]. */",
                f"int NAME_predict{way.suffix}(const {way.type} *x);",
            ]
        return "\n".join(lines)

    def _call(self, name: str) -> str:
        self.used.add(name)
        return f"NAME_{name}"

    def _keep(self, name: str, values: npt.NDArray[Any]) -> str:
        self.arrays[name] = values
        return f"NAME_{name}"

    def _functions(self, way: _Way) -> str:
        """NAME_z, NAME_forward and NAME_predict of a way."""
        n, suffix = self.model.n_outputs, way.suffix
        body, can_lose = self._passes(way)
        x = f"const {way.type} *x"
        result = "; 1 if a NaN was lost on the way, else 0" if can_lose else ""
        blocks = [
            f"/* z of the last layer{result}. */",
            _function(
                f"static {'int' if can_lose else 'void'} NAME_z{suffix}({x}, float *z)", body
            ),
            "",
        ]
        is_lost = f"NAME_z{suffix}(x, y)"
        forward = [f"const int is_lost = {is_lost};" if can_lose else f"{is_lost};"]
        if self.last.activation != "identity":
            forward.append("NAME_activate(y);")
        if can_lose:
            forward.append(f"if (is_lost) {self._call('all_nan')}(y, {n});")
        blocks.append(_function(f"void NAME_forward{suffix}({x}, float *y)", forward))
        if self.model.task == "classify":
            predict = [f"float y[{n}];", f"if ({is_lost}) return 0;" if can_lose else forward[0]]
            if n == 1:
                predict.append("return y[0] > 0.0f;")
            else:
                if not activations()[self.last.activation]["label_by_z"]:
                    predict.append("NAME_activate(y);")
                predict.append(f"return (int){self._call('argmax_of')}(y, {n});")
            blocks += ["", _function(f"int NAME_predict{suffix}({x})", predict)]
        return "\n".join(blocks)

    def _passes(self, way: _Way) -> tuple[list[str], bool]:
        """The lines that take x to z, and whether a NaN of x can become a byte in them."""
        lines: list[str] = []
        sizes: dict[tuple[str, str], int] = {}  # of local arrays, by type and name
        names = {"float": "ab", "uint8_t": "pq", "int32_t": "s"}  # which take turns
        turns = {kind: itertools.cycle(some) for kind, some in names.items()}

        def local(kind: str, n: int) -> str:
            name = next(turns[kind])
            sizes[kind, name] = max(n, sizes.get((kind, name), 0))
            return name

        at, is_bytes, can_lose = "x", way.type == "uint8_t", False
        for i, (layer, after) in enumerate(
            itertools.zip_longest(way.layers, way.layers[1:], fillvalue=None)
        ):
            assert layer is not None
            k, n = layer.n_inputs, layer.n_outputs
            tag = f"{i}{way.suffix}" if i == 0 and self._has_two_first_layers() else str(i)
            if isinstance(layer, Dense):
                to = local("float", n) if after else "z"
                product = self._call("dense_u8" if is_bytes else "dense_f32")
                w, b = self._keep(f"w{tag}", layer.weight), self._keep(f"b{tag}", layer.bias)
                lines.append(f"{product}({at}, {k}, {w}, {b}, {n}, {to});")
                is_bytes = False
            else:
                if not is_bytes:
                    to, encode = local("uint8_t", k), self._call("encode_i8")
                    inverse, zero = np.float32(1 / layer.input_scale), layer.input_zero
                    numbers = f"{_literal(float(inverse))}, {_literal(zero)}"
                    lines.append(f"is_lost |= {encode}({at}, {k}, {numbers}, {to});")
                    at, can_lose = to, True
                scale, offset = layer.scale, layer.offset
                is_bytes = isinstance(after, QuantizedDense) and is_direct(layer, after)
                if isinstance(after, QuantizedDense) and is_bytes:
                    scale, offset = requantization(layer, after)
                to = local("uint8_t" if is_bytes else "float", n) if after else "z"
                sums = local("int32_t", n)
                w = self._keep(f"w{tag}", layer.weight_i8)
                lines.append(f"{self._call('sums_i8')}({at}, {k}, {w}, {n}, {sums});")
                finish = self._call("requantize_i8" if is_bytes else "scale_i8")
                s, o = self._keep(f"scale{tag}", scale), self._keep(f"offset{tag}", offset)
                lines.append(f"{finish}({sums}, {s}, {o}, {n}, {to});")
            at = to
            if after and not is_bytes:
                lines += self._elementwise(layer, at)
        own = [f"{kind} {name}[{n}];" for (kind, name), n in sorted(sizes.items())]
        n_bytes = sum(n * (1 if kind == "uint8_t" else 4) for (kind, _), n in sizes.items())
        self.hidden_bytes = max(self.hidden_bytes, n_bytes)
        if can_lose:
            return [*own, "int is_lost = 0;", *lines, "return is_lost;"], True
        return [*own, *lines], False

    def _has_two_first_layers(self) -> bool:
        return len({id(way.layers[0]) for way in self.ways}) == 2

    def _elementwise(self, layer: _Layer, y: str) -> list[str]:
        if layer.activation == "identity":
            return []
        values = [_literal(float(np.float32(value))) for value in layer.parameters.values()]
        a, b = [*values, "0", "0"][:2]
        function = self._call(f"v_act_{layer.activation}")
        loop = f"for (int32_t j = 0; j < {layer.n_outputs}; j++)"
        return [f"{loop} {y}[j] = {function}({y}[j], {a}, {b});"]

    def _activate(self) -> str:
        """The last layer's activation, a function of its own."""
        name, n = self.last.activation, self.model.n_outputs
        if self.is_softmax:
            body = [
                f"float e[{n}];",
                f"{self._call('softmax_begin')}(y, e, {n});",
                f"for (int32_t j = 0; j < {n}; j++) e[j] = {self._call('v_act_exp')}(e[j], 0, 0);",
                f"{self._call(f'{name}_end')}(y, e, {n});",
            ]
        else:
            body = self._elementwise(self.last, "y")
        return _function("static void NAME_activate(float *y)", body) if body else ""

    # -- the test main --

    def _expected(self, name: str, way: _Way, x: npt.NDArray[Any]) -> Iterator[str]:
        outputs = self.model.forward(x, threads=1).reshape(len(x), -1)
        yield from _array(f"{name}_test_x{way.suffix}", x)
        yield from _array(f"{name}_test_y{way.suffix}", outputs)
        classes = self.model.classes_
        if classes is not None:
            index = {label: i for i, label in enumerate(classes.tolist())}
            labels = [index[label] for label in self.model.predict(x, threads=1).tolist()]
            yield from _array(f"{name}_test_label{way.suffix}", np.array(labels, np.int32))

    def _check(self, way: _Way) -> str:
        n, s = self.model.n_inputs, way.suffix
        x = f"NAME_test_x{s} + row * {n}"
        lines = [
            f"NAME_forward{s}({x}, y);",
            f'n_wrong += NAME_differ("forward{s}", row, y, NAME_test_y{s} + row * NAME_n_outputs);',
        ]
        if self.model.task == "classify":
            lines += [
                f"const int label{s} = NAME_predict{s}({x});",
                f"if (label{s} != NAME_test_label{s}[row]) {{",
                f'    printf("NAME_predict{s}: row %d is %d, fastnn has %d\\n", row, label{s}, '
                f"(int)NAME_test_label{s}[row]);",
                "    n_wrong++;",
                "}",
            ]
        return "\n".join(f"        {line}" for line in lines)


def _n_test_rows(model: Model) -> int:
    """Of each dtype: many are cheap in a small network."""
    return max(3, min(16, 4096 // model.n_inputs))


def _test_rows(model: Model, ways: list[_Way]) -> Iterator[npt.NDArray[Any]]:
    """Rows of each way's dtype, from all zeros to none."""
    rng = np.random.Generator(np.random.PCG64(0))
    n_rows = _n_test_rows(model)
    shape = (n_rows, model.n_inputs)
    keep = rng.random(shape) < np.linspace(0, 1, n_rows)[:, None]
    for way in ways:
        if way.suffix:
            yield np.where(keep, rng.integers(0, 256, shape), 0).astype(np.uint8)
        else:
            yield np.where(keep, rng.standard_normal(shape), 0).astype(np.float32)


def _about(model: Model) -> str:
    widths = "-".join(str(n) for n in (model.n_inputs, *(d.n_outputs for d in model.layers)))
    precision = "int8" if model.precision == "int8" else "float32"
    return f"{widths}, {', '.join(layer.activation for layer in model.layers)}, {precision}"


def _function(head: str, body: list[str]) -> str:
    return "\n".join([head, "{", *(f"    {line}" for line in body), "}"])


def _classes(model: Model) -> tuple[str, str] | None:
    """The declaration and the values of NAME_classes; None where an index is its own label."""
    labels = model.classes_
    if labels is None or np.array_equal(labels, np.arange(len(labels))):
        return None
    if labels.dtype.kind == "U":
        kind, values = "char *const", [_string(label) for label in labels.tolist()]
    elif labels.dtype == np.uint64:
        kind, values = "uint64_t", [f"{label}u" for label in labels.tolist()]
    else:
        least = "-9223372036854775807 - 1"  # which has no literal of its own
        words = [least if label == -(2**63) else str(label) for label in labels.astype(np.int64)]
        kind, values = "int64_t", words
    return f"const {kind} NAME_classes[{len(labels)}]", "{" + ", ".join(values) + "}"


def _string(text: str) -> str:
    """A C literal of the UTF-8 bytes of `text`."""
    safe = set(range(32, 127)) - set(b'"\\?')  # ? for trigraphs
    return '"' + "".join(chr(c) if c in safe else f"\\{c:03o}" for c in text.encode()) + '"'


def _array(name: str, values: npt.NDArray[Any]) -> Iterator[str]:
    kind = {"f": "float", "u": "uint8_t", "i": f"int{8 * values.itemsize}_t"}[values.dtype.kind]
    yield f"static const {kind} {name}[{values.size}] = {{\n"
    flat = values.reshape(-1).tolist()
    write = _literal if kind == "float" else str
    for i in range(0, len(flat), _ROW):
        yield "".join(f"{write(value)}," for value in flat[i : i + _ROW]) + "\n"
    yield "};\n"


def _literal(value: float) -> str:
    """A float32 as C reads it, to the last bit."""
    if not np.isfinite(value):
        return "NAN" if np.isnan(value) else "INFINITY" if value > 0 else "-INFINITY"
    mantissa, exponent = float(value).hex().split("p")
    return f"{mantissa.rstrip('0').rstrip('.')}p{exponent}f"


_HEAD = """\
/* The network "NAME" in C99: $about. Written by fastnn $version.
 *
 * The functions are declared below; with FASTNN_DECLARE_ONLY defined, nothing else is there.
 * No memory is allocated or kept between calls, so any number of threads may call at once:
 * $sizes. Of the C library it calls $library.
 *
 * The results are those of fastnn to the last bit; with -DFASTNN_TEST_MAIN this is a program that
 * checks it. Compile with optimisation and for the CPU that will run it (-O3 -mfma, -march=...):
 * without an instruction for it each fmaf is a call.
 *
 * SPDX-License-Identifier: MIT
 * The functions of the engine are copyright (c) the fastnn authors; the numbers are the model's.
 */
#ifndef NAME_DECLARED
#define NAME_DECLARED

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { NAME_n_inputs = $n_inputs, NAME_n_outputs = $n_outputs };

$declarations

#ifdef __cplusplus
}
#endif
#endif

#ifndef FASTNN_DECLARE_ONLY

#include <float.h>
#include <math.h>
#include <string.h>

#ifdef __FAST_MATH__
#error "without -ffast-math: it changes the order of sums, and what NaN is"
#endif
#if FLT_MANT_DIG != 24$double
#error "float has to be IEEE 754's of 32 bits, and double, where softmax needs it, that of 64"
#endif
#if FLT_EVAL_METHOD == 1 || FLT_EVAL_METHOD == 2
#error "float has to be computed as float; for gcc on x86: -msse2 -mfpmath=sse"
#endif
/* A product and a sum become one where the source says fmaf, and nowhere else. */
#if defined(__clang__)
#pragma STDC FP_CONTRACT OFF
#elif defined(__GNUC__)
#pragma GCC push_options
#pragma GCC optimize("-ffp-contract=off")
#endif

/* ---- the engine ---- */

$engine

/* ---- the numbers: weights [inputs][outputs] ---- */

"""

_TEST = """

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC pop_options
#endif

/* ---- the test ---- */

#ifdef FASTNN_TEST_MAIN
#include <stdio.h>

"""

_MAIN = """
static int NAME_differ(const char *what, int row, const float *y, const float *expected)
{
    int n_wrong = 0;
    for (int j = 0; j < NAME_n_outputs; j++) {
        if (memcmp(&y[j], &expected[j], 4) == 0) continue;
        if (y[j] != y[j] && expected[j] != expected[j]) continue; /* NaN, of whatever bits */
        if (n_wrong++ == 0)
            printf("NAME_%s: row %d, output %d is %a, fastnn has %a\\n", what, row, j, (double)y[j],
                   (double)expected[j]);
    }
    return n_wrong;
}

int main(void)
{
    int n_wrong = 0;
    float y[NAME_n_outputs];
    for (int row = 0; row < $n_rows; row++) {
$checks
    }
    if (n_wrong == 0) printf("NAME: the bits of fastnn\\n");
    return n_wrong != 0;
}
#endif
#endif
"""
