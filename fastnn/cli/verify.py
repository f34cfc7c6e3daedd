"""`fastnn verify`: a model beside another file or framework, and whether rounding explains it.

Invariant: the status is 0 only if rows were compared and every z was within the derived bound
(fastnn/verify.py), no label flipped that rounding cannot flip, and the two are the same kind of
model.
"""

import dataclasses
import os
from pathlib import Path
from typing import Annotated

import numpy as np
from cyclopts import Parameter

import fastnn
from fastnn import text
from fastnn import verify as verifying
from fastnn.cli.output import Isa, Json, Precision, result, result_json
from fastnn.cli.quantize import read_rows
from fastnn.model import precision_text
from fastnn.verify import FRAMEWORKS, Comparison


def verify(
    model: Annotated[str, Parameter(help="Name of a bundled model, or path of a file.")],
    /,
    *,
    against: Annotated[
        str,
        Parameter(
            help="A bundled model's name, a file, or who is to compute with the same weights: "
            f"{', '.join(FRAMEWORKS)} (numpy in float64)."
        ),
    ],
    rows: Annotated[
        Path | None,
        Parameter(
            help="A .npy or IDX file of rows to compare on as well. Without it: 1,000 random rows "
            "of each kind that the model takes, and the bundled digits where it takes 784 inputs."
        ),
    ] = None,
    strict: Annotated[
        bool,
        Parameter(negative="", help="Status 1 also where the difference is larger than usual."),
    ] = False,
    precision: Precision = None,
    isa: Isa = None,
    json: Json = False,
) -> int:
    """Compare a model's answers with another's: largest errors, flipped labels, what is allowed.

    Status 0: the two agree within what rounding may do, 1: they do not, or cannot be compared.
    """
    network = fastnn.load(model, precision=precision, isa=isa)
    other: fastnn.Model | str = against
    if against not in FRAMEWORKS:
        _check_name(against)
        other = fastnn.load(against, isa=isa)
    sets = verifying.rows_for(network)
    if rows is not None:
        sets.append((str(rows), _rows(network, rows)))
    differences = [] if isinstance(other, str) else verifying.differences(network, other)
    found = [verifying.compare(network, other, some, what) for what, some in sets]
    agrees = not differences and all(one.agrees for one in found)
    is_usual = all(one.is_usual for one in found)
    if json:
        result_json(
            {
                "model": model,
                "against": against,
                "precision": network.precision,
                "rows": [{**dataclasses.asdict(one), "agrees": one.agrees} for one in found],
                "differences": differences,
                "agrees": agrees,
                "is_usual": is_usual,
            }
        )
    else:
        result(f"model    {model}: {precision_text(network)}, on {network.kernels[0]['isa']}")
        result(f"against  {_other_text(other, against)}\n")
        result(_table(found))
        result("\n" + "\n".join(_verdict(found, differences)))
    return 0 if agrees and (is_usual or not strict) else 1


def _check_name(against: str) -> None:
    is_file = "/" in against or os.path.splitext(against)[1]
    if not is_file and against not in fastnn.models():
        raise ValueError(
            f"verify: --against is {against!r}, wanted a file (./{against}.safetensors), one of "
            f"{', '.join(FRAMEWORKS)}, or a bundled model: {', '.join(fastnn.models())}"
        )


def _rows(model: fastnn.Model, path: Path) -> np.ndarray:
    rows = read_rows(path)
    if rows.dtype.kind == "f":
        rows = rows.astype(np.float32)
    elif rows.dtype != np.uint8:
        raise ValueError(f"verify: {path} has dtype {rows.dtype}, wanted uint8 or floats")
    if rows.ndim < 2 or rows[:1].size != model.n_inputs:
        raise ValueError(
            f"verify: {path} has shape {rows.shape}, wanted rows of {model.n_inputs} values"
        )
    return rows.reshape(len(rows), -1)


def _other_text(other: fastnn.Model | str, against: str) -> str:
    if isinstance(other, fastnn.Model):
        return f"{against}: {precision_text(other)}"
    if other == "numpy":
        return f"NumPy {np.__version__}, float64"
    from fastnn.bench import rivals

    (system,) = (one for one in rivals.SYSTEMS if one.modules[:1] == (other,))
    return f"{system.name} {rivals.versions()[system.packages[0]]}, float32"


def _table(found: list[Comparison]) -> str:
    titles = ("rows", "number", "largest error", "relative", "of usual", "of the bound", "flips")
    lines = [
        (
            one.rows,
            f"{one.n_rows - one.n_skipped:,}",
            f"{one.max_abs:.3g}",
            f"{one.max_rel:.3g}",
            _share(one.of_usual),
            _share(one.of_bound),
            "" if one.n_flips is None else f"{one.n_flips:,}",
        )
        for one in found
    ]
    return text.table(titles, lines, right=range(1, len(titles)))


def _share(value: float) -> str:
    return f"{100 * value:.3g} %" if value <= 1 else f"{value:.3g} x"


def _verdict(found: list[Comparison], differences: list[str]) -> list[str]:
    lines = [f"differs in {what}" for what in differences]
    for one in found:
        known = one.n_rows - one.n_skipped
        if known == 0:
            lines.append(f"differs, or may: all of {one.rows} overflow float32")
        elif not one.agrees:
            wrong = f"; {one.n_wrong:,} labels that rounding cannot flip" if one.n_wrong else ""
            lines.append(f"differs on {one.rows}: by {one.of_bound:.3g} times the bound{wrong}")
    if lines:
        return lines
    unusual = [one for one in found if not one.is_usual]
    if unusual:
        worst = max(one.of_usual for one in unusual)
        return [
            "agrees: no z is further off than rounding allows; but by "
            f"{worst:.3g} times what is usual, so look at activations and constants"
        ]
    return ["agrees: no z is further off than rounding makes it"]
