"""`fastnn bench`: a model's speed over a sweep of batch sizes."""

import dataclasses
from typing import Annotated, Literal

from cyclopts import Parameter, validators

import fastnn
from fastnn import text
from fastnn.bench import BATCHES, Timing, rows_for, sweep
from fastnn.cli.output import (
    Isa,
    Json,
    Quiet,
    Threads,
    duration,
    progress,
    result,
    result_json,
)

_TITLES = (
    "batch", "threads", "p50", "p99", "rows/s", "GFLOP/s", "dense GFLOP/s", "of peak",
)  # fmt: skip


def bench(
    model: Annotated[str, Parameter(help="Name of a bundled model, or path of a file.")],
    /,
    *,
    batch: Annotated[
        tuple[int, ...],
        Parameter(
            help="A batch size to time; give it several times for several.",
            validator=validators.Number(gte=1, lte=1_000_000),
            negative="",
        ),
    ] = BATCHES,
    rows: Annotated[
        Literal["auto", "digits", "normal"],
        Parameter(help="MNIST digits as uint8, normal float32 numbers, or what suits the model."),
    ] = "auto",
    seconds: Annotated[
        float,
        Parameter(help="Time to spend on each batch size.", validator=validators.Number(gt=0)),
    ] = 1.0,
    threads: Threads = 1,
    isa: Isa = None,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Time a model: latency per call, rows per second, and the arithmetic behind them.

    GFLOP/s counts what was really executed (zeros are skipped), dense GFLOP/s what a plain pass
    would have had to do in that time, "of peak" the executed ones against this core's measured
    peak. Every call gets other rows than the one before.
    """
    network = fastnn.load(model, isa=isa)
    inputs = rows_for(network, rows)
    timings: list[Timing] = []
    with progress("timing", len(batch), quiet=quiet) as bar:
        for timing in sweep(network, inputs, batches=batch, threads=threads, seconds=seconds):
            timings.append(timing)
            bar.advance(1)
    if json:
        result_json(
            {
                "model": model,
                "isa": network.kernels[0]["isa"],
                "input": str(inputs.dtype),
                "timings": [dataclasses.asdict(timing) for timing in timings],
            }
        )
        return
    kind = "MNIST digits, uint8" if inputs.dtype == "uint8" else "normal numbers, float32"
    result(f"{model}: {network!r}")
    result(f"isa {network.kernels[0]['isa']}, predict(x, out=out) on {kind}\n")
    result(text.table(_TITLES, [_row(timing) for timing in timings], right=range(len(_TITLES))))


def _row(timing: Timing) -> tuple[str, ...]:
    return (
        f"{timing.batch:,}",
        str(timing.n_threads),
        duration(timing.p50),
        duration(timing.p99),
        f"{timing.rows_per_s:,.0f}",
        f"{timing.executed_gflops:.1f}",
        f"{timing.effective_gflops:.1f}",
        f"{100 * timing.share_of_peak:.0f} %",
    )
