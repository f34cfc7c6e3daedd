"""`fastnn plot`: a network, or every activation, as a picture."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

import fastnn
from fastnn.cli.output import Isa, Precision, UsageError, result
from fastnn.plot import draw_activations, draw_network


def plot(
    model: Annotated[
        str | None, Parameter(help="Name of a bundled model, or path of a file.")
    ] = None,
    /,
    *,
    out: Annotated[
        Path, Parameter(name=("--out", "-o"), help="The picture to write: .svg, .png or .pdf.")
    ],
    activations: Annotated[
        bool, Parameter(negative="", help="Draw the curve of every activation instead of a model.")
    ] = False,
    precision: Precision = None,
    isa: Isa = None,
) -> None:
    """Draw a model: small ones neuron by neuron with their weights, others as blocks.

    The first layer's weights of a model for digits are shown as images too.
    """
    if (model is None) != activations:
        raise UsageError("plot: wanted either a MODEL or --activations")
    if model is None:
        if precision is not None or isa is not None:
            raise UsageError("plot: --precision and --isa are of a MODEL")
        draw_activations(out)
    else:
        network = fastnn.load(model, precision=precision, isa=isa)
        draw_network(out, network, name=Path(model).stem)
    result(f"wrote {out}")
