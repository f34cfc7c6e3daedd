"""`fastnn convert` and `fastnn export-c`: a model in another format.

Invariant: the file that is written appears complete or not at all.
"""

import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

import fastnn
from fastnn import ccode, formats
from fastnn.cli.output import Json, Precision, UsageError, result, result_json

_COMMA = re.compile(r",(?![^(]*\))")  # not those of "clip(lo=-1,hi=1)"


def convert(
    model: Annotated[str, Parameter(help="Name of a bundled model, or path of a file.")],
    out: Annotated[Path, Parameter(help=f"The file to write: {', '.join(formats.SUFFIXES)}.")],
    /,
    *,
    activations: Annotated[
        str | None,
        Parameter(
            help="For files of arrays that do not say them: one a layer, with commas between, as "
            '"relu,leaky_relu(alpha=0.1),softmax".'
        ),
    ] = None,
    layout: Annotated[
        Literal["inputs_outputs", "outputs_inputs"] | None,
        Parameter(help="For files of arrays: how the weights lie, where both ways fit."),
    ] = None,
    json: Json = False,
) -> None:
    """Write a model in another file format; `fastnn verify OUT --against MODEL` compares them."""
    if out.suffix == ".c":
        raise UsageError(f"convert: C is written by `fastnn export-c {model} -o {out}`")
    options: dict[str, Any] = {
        "activations": activations and [name.strip() for name in _COMMA.split(activations)],
        "layout": layout,
    }
    loaded = fastnn.load(model, **{name: value for name, value in options.items() if value})
    loaded.save(out)
    n_bytes = os.path.getsize(out)
    if json:
        result_json({"model": model, "out": str(out), "file_bytes": n_bytes})
    else:
        result(f"{out}: {loaded!r}, {n_bytes:,} bytes")


def export_c(
    model: Annotated[str, Parameter(help="Name of a bundled model, or path of a file.")],
    /,
    *,
    out: Annotated[Path, Parameter(name=("--out", "-o"), help="The .c file to write.")],
    name: Annotated[
        str | None,
        Parameter(help="What the functions' names begin with; by default the file's name."),
    ] = None,
    inputs: Annotated[
        Literal["float32", "uint8", "both"] | None,
        Parameter(
            help="The rows to write functions for; each has a first layer of its own. By default "
            "both where the model reads uint8 pixels in units of its own, else float32."
        ),
    ] = None,
    precision: Precision = None,
    json: Json = False,
) -> None:
    """Write a model as one C99 file that needs no library but libm: the same bits in firmware."""
    loaded = fastnn.load(model, precision=precision)
    ccode.export_c(loaded, out, name=name, inputs=inputs)
    n_bytes = os.path.getsize(out)
    if json:
        found = name or ccode.name_for(out)
        result_json({"model": model, "out": str(out), "name": found, "file_bytes": n_bytes})
        return
    result(f"{out}: {loaded!r}, {n_bytes:,} bytes")
    result(f"to check it: cc -O3 -DFASTNN_TEST_MAIN {out} -lm && ./a.out")
