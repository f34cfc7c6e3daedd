"""`fastnn bench`: a model's speed by batch size and layer, and beside whatever else is installed.
`fastnn compare`: two such runs."""

import dataclasses
import json as json_text
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from cyclopts import Parameter, validators

import fastnn
from fastnn import text
from fastnn.bench import BATCHES, Timing, comparison, race, report, roofline
from fastnn.bench import rows_for as rows_for_model
from fastnn.bench import sweep as sweep_batches
from fastnn.bench.workload import fingerprint, outputs_sha256
from fastnn.cli.output import (
    Isa,
    Json,
    Precision,
    Quiet,
    Threads,
    UsageError,
    note,
    progress,
    result,
    result_json,
)
from fastnn.cpus import default_threads


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
        Parameter(
            help="Time to spend on each batch size (with --rivals, again on each number of "
            "threads).",
            validator=validators.Number(gt=0),
        ),
    ] = 1.0,
    threads: Threads = 1,
    isa: Isa = None,
    layers: Annotated[bool, Parameter(help="Time each layer too.")] = True,
    rivals: Annotated[
        bool,
        Parameter(
            negative="",
            help="Also time ONNX Runtime, OpenVINO, PyTorch, scikit-learn and NumPy, those that "
            "are installed, on the same weights and rows: on one thread and on all.",
        ),
    ] = False,
    plot: Annotated[
        Path | None,
        Parameter(help="Draw the layers under this machine's limits: a .svg, .png or .pdf file."),
    ] = None,
    json: Annotated[
        Path | None,
        Parameter(
            help='Write all of it with every sample, for `fastnn compare` and programs; "-" '
            "prints it in place of the tables.",
            allow_leading_hyphen=True,
        ),
    ] = None,
    markdown: Annotated[Path | None, Parameter(help="Write the tables as Markdown.")] = None,
    precision: Precision = None,
    quiet: Quiet = False,
) -> None:
    """Time a model: latency per call, rows per second, and how near the machine's limits it is.

    GFLOP/s counts what was really executed (zeros are skipped), dense GFLOP/s what a plain pass
    would have had to do in that time. The limits are measured beside it in every round: "of peak"
    is against multiply-adds in registers, "of bandwidth" against reading from the cache or memory
    where the weights stay. Every call gets other rows than the one before. Layers are timed in
    place, inside the engine; "labels" is what follows them (and a certificate, if there is one).
    """
    if json is not None and str(json).startswith("--"):
        raise UsageError(f'--json: wanted a file or "-", got the option {json}; see --help')
    network = fastnn.load(model, precision=precision, isa=isa)
    inputs = rows_for_model(network, rows)
    for path in (json, markdown):
        if path is not None and not _is_stdout(path) and not path.parent.is_dir():
            raise FileNotFoundError(f"{path.parent}: no such folder")
    if plot is not None:
        roofline.check_plot(plot)
    machine = report.machine()
    timings: list[Timing] = []
    with progress("timing", len(batch), quiet=quiet) as bar:
        for timing in sweep_batches(
            network,
            inputs,
            batches=batch,
            threads=threads,
            seconds=seconds,
            layers=layers or plot is not None,
        ):
            timings.append(timing)
            bar.advance(1)
    entries, absent = _beside_rivals(network, inputs, batch, threads, seconds, quiet, rivals)
    content = report.document(
        name=model,
        machine=machine,
        workload=fingerprint(network, inputs),
        outputs_sha256=outputs_sha256(network, inputs),
        isa=network.kernels[0]["isa"],
        threads=threads or default_threads(),
        timings=timings,
        entries=entries,
        absent=absent,
    )
    shown = report.tables(timings, entries)
    if markdown is not None:
        report.write(markdown, report.markdown(content, shown))
    if plot is not None:
        roofline.draw(
            plot,
            timings,
            title=f"{Path(model).stem} on {machine['cpu']}",
            subtitle=f"{network.kernels[0]['isa']}, {_kind(str(inputs.dtype))}, fastnn "
            f"{fastnn.__version__}; layers in place",
        )
    if json is not None and _is_stdout(json):
        result_json(content)
        return
    if json is not None:
        report.write(json, json_text.dumps(content, allow_nan=False) + "\n")
    result(f"{model}: {network!r}")
    result(f"isa {network.kernels[0]['isa']}, predict(x, out=out) on {_kind(str(inputs.dtype))}")
    result(report.limits_text(timings))
    if rivals:
        result(f"load average before: {machine['load_average']}, on {machine['n_cpus']} CPUs")
    for table in shown:
        if table is not None:
            titles, lines, right = table
            result("\n" + text.table(titles, lines, right=right))
    for one in absent:
        result(f"{one.system}: {one.why}")


def _beside_rivals(
    network: fastnn.Model,
    inputs: np.ndarray,
    batch: tuple[int, ...],
    threads: int | None,
    seconds: float,
    quiet: bool,
    is_asked: bool,
) -> tuple[list[race.Entry], list[race.Absent]]:
    entries: list[race.Entry] = []
    absent: list[race.Absent] = []
    if not is_asked:
        return entries, absent
    many = threads if threads is not None and threads > 1 else default_threads()
    counts = sorted({1, many})
    cells = set()
    with progress("rivals", len(batch) * len(counts), quiet=quiet) as bar:
        for found in race.race(network, inputs, batches=batch, threads=counts, seconds=seconds):
            if isinstance(found, race.Absent):
                absent.append(found)
                continue
            entries.append(found)
            if (found.batch, found.n_threads) not in cells:
                cells.add((found.batch, found.n_threads))
                bar.advance(1)
    return entries, absent


def _is_stdout(path: Path) -> bool:
    return str(path) == "-"


def _kind(dtype: str) -> str:
    return "MNIST digits, uint8" if dtype == "uint8" else "normal numbers, float32"


def compare(
    first: Annotated[Path, Parameter(help="A file that `fastnn bench --json` wrote.")],
    second: Annotated[Path, Parameter(help="Another, of the same model and rows.")],
    /,
    *,
    confidence: Annotated[
        float,
        Parameter(help="How sure the interval is to be.", validator=validators.Number(gt=0, lt=1)),
    ] = 0.95,
    json: Json = False,
) -> None:
    """Compare two runs of `fastnn bench`: how many times as fast the second is.

    The interval is a bootstrap over the rounds. Where it spans 1, no difference is shown. It knows
    nothing of what happened between the runs: for a fair comparison, run them in turns.
    """
    before, after = report.read(first), report.read(second)
    changes = comparison.compare(before, after, confidence=confidence)
    if json:
        result_json(
            {
                "confidence": confidence,
                "cells": [
                    {**dataclasses.asdict(change), "verdict": change.verdict} for change in changes
                ],
            }
        )
        return
    for name, run in (("first", before), ("second", after)):
        result(
            f"{name}: {run.path}: fastnn {run.version}, commit {(run.commit or 'unknown')[:12]}, "
            f"isa {run.isa}, {run.cpu}, {run.date}"
        )
    if before.cpu != after.cpu:
        note("the CPUs differ: a ratio says as much of them as of the programs")
    titles = (
        "batch", "threads", "system", "first", "second", "second is",
        f"{100 * confidence:g} % interval", "",
    )  # fmt: skip
    lines = [
        (
            f"{c.batch:,}",
            str(c.n_threads),
            c.system,
            text.duration(c.before),
            text.duration(c.after),
            f"{c.ratio:.3f}x as fast",
            f"{c.low:.3f}-{c.high:.3f}" if c.low <= c.high else "",
            c.verdict,
        )
        for c in changes
    ]
    result("\n" + text.table(titles, lines, right=(0, 1, 3, 4, 5, 6)))
