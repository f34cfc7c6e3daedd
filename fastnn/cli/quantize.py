"""`fastnn quantize`: an int8 model from a float32 one, and what that costs in accuracy.

Invariant: the rows that the ranges come from are MNIST's training images without the bundled
sample, or a file of the user's; the report says which rows it is about, and whether they are the
same.
"""

import os
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from cyclopts import Parameter, validators

import fastnn
from fastnn import formats, idx, mnist, text
from fastnn.cli import npy
from fastnn.cli.evaluate import SAMPLE, TEST
from fastnn.cli.output import (
    Isa,
    Json,
    Quiet,
    described,
    note,
    percent,
    progress,
    result,
    result_json,
)
from fastnn.model import precision_text

TRAIN = "mnist-train"
_BATCH = 1000


def quantize(
    model: Annotated[str, Parameter(help="Name of a bundled model, or path of a file.")],
    /,
    *,
    out: Annotated[
        Path,
        Parameter(name=("--out", "-o"), help=f"The file to write: {', '.join(formats.SUFFIXES)}."),
    ],
    calibration: Annotated[
        str,
        Parameter(
            help="Rows that the ranges are taken from: a .npy or IDX file, as the model takes "
            "them, or mnist-train. Not the rows that it is then judged by."
        ),
    ] = TRAIN,
    rows: Annotated[
        int | None,
        Parameter(
            help="Calibrate on the first so many rows; by default 2,000 training images, or all "
            "rows of the file.",
            validator=validators.Number(gte=1),
        ),
    ] = None,
    evaluate: Annotated[
        Path | None,
        Parameter(
            help="A .npy or IDX file of rows to compare the two models on. By default a model of "
            "digits is judged by MNIST's test set, or where it is not there by the bundled "
            "sample, any other by the rows it was calibrated on."
        ),
    ] = None,
    isa: Isa = None,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Quantize a model to int8, write it, and report how its answers differ from float32's."""
    network = fastnn.load(model, precision="float32", isa=isa)
    seen, seen_what = _calibration_rows(network, calibration, rows)
    quantized = network.quantize(seen)
    judged, labels, what = _evaluation_rows(network, evaluate, seen, seen_what)
    report = compare(network, quantized, judged, labels, quiet=quiet)
    quantized.save(out)
    if what == SAMPLE and not quiet:
        note("no MNIST test set found (`fastnn data fetch` gets it): judged by the bundled sample")
    sizes = {
        "file_bytes": os.path.getsize(out),
        "packed_bytes": quantized.nbytes,
        "packed_bytes_float32": network.nbytes,
    }
    if json:
        result_json(
            {
                "model": model,
                "out": str(out),
                "calibrated_on": seen_what,
                "calibration": described(quantized.calibration),
                "data": what,
                **report,
                **sizes,
            }
        )
        return
    result(f"model       {model}")
    result(f"precision   {precision_text(quantized)}: {seen_what}")
    result(f"judged by   {what}")
    for line in report_lines(report):
        result(line)
    result(
        f"size        {sizes['packed_bytes']:,} bytes packed (float32 {network.nbytes:,}); "
        f"{sizes['file_bytes']:,} in {out}, which holds the float32 weights"
    )
    if "classes" in report:
        result("")
        result(_classes_text(report["classes"]))


def compare(
    model: fastnn.Model,
    quantized: fastnn.Model,
    rows: np.ndarray,
    labels: np.ndarray | None,
    *,
    quiet: bool = True,
) -> dict[str, Any]:
    """How the answers of two models differ: flipped labels, accuracy, the largest change of a z."""
    rows = rows[None] if rows.ndim == 1 else rows
    n, largest, scale = len(rows), 0.0, 0.0
    if not n:
        raise ValueError(f"quantize: no rows to judge by (shape {rows.shape})")
    answers: list[tuple[np.ndarray, np.ndarray]] = []
    with progress("comparing", n, quiet=quiet) as bar:
        for i in range(0, n, _BATCH):
            batch = rows[i : i + _BATCH]
            z, other = (part.decision_function(batch) for part in (model, quantized))
            change = np.abs(other.astype(np.float64) - z)
            is_known = np.isfinite(change)  # a NaN row stays one, an infinite z has no change
            largest = max(largest, float(change[is_known].max(initial=0)))
            scale = max(scale, float(np.abs(z[is_known]).max(initial=0)))
            answers.append((model.predict(batch), quantized.predict(batch)))
            bar.advance(len(batch))
    report: dict[str, Any] = {"n_rows": n, "max_abs_dz": largest, "max_abs_z": scale}
    if model.task == "regress":
        return report
    one, two = (np.concatenate(parts) for parts in zip(*answers, strict=True))
    is_flipped = one != two
    report["n_flips"] = int(np.count_nonzero(is_flipped))
    known = one if labels is None else labels
    classes = []
    for name in () if model.classes_ is None else model.classes_:
        is_of = known == name
        entry = {"class": name, "n_rows": int(is_of.sum()), "n_flips": int(is_flipped[is_of].sum())}
        if labels is not None:
            entry["n_right_float32"] = int((one[is_of] == name).sum())
            entry["n_right"] = int((two[is_of] == name).sum())
        classes.append(entry)
    report["classes"] = classes
    if labels is not None:
        report["accuracy_float32"] = float((one == labels).mean())
        report["accuracy"] = float((two == labels).mean())
    return report


def report_lines(report: dict[str, Any]) -> list[str]:
    """The report for people, but for the table of classes."""
    n = report["n_rows"]
    lines = []
    if "n_flips" in report:
        share = percent(report["n_flips"] / n)
        lines.append(f"flips       {report['n_flips']:,} of {n:,} labels differ ({share})")
    if "accuracy" in report:
        lines.append(
            f"accuracy    {percent(report['accuracy'])} (float32 "
            f"{percent(report['accuracy_float32'])})"
        )
    lines.append(
        f"largest dz  {report['max_abs_dz']:.4g} (the largest z of float32 is "
        f"{report['max_abs_z']:.4g})"
    )
    return lines


def _classes_text(classes: list[dict[str, Any]]) -> str:
    has_labels = "n_right" in classes[0]
    titles = ["class", "rows", "flips", *(["right", "right in float32"] if has_labels else [])]
    names = ["n_rows", "n_flips", *(["n_right", "n_right_float32"] if has_labels else [])]
    rows = [
        [
            text.printable(str(entry["class"])),
            *(f"{entry[name]:,}" if entry[name] else "." for name in names),
        ]
        for entry in classes
    ]
    return text.table(titles, rows, right=range(1, len(titles)))


def _calibration_rows(
    model: fastnn.Model, named: str, n_rows: int | None
) -> tuple[np.ndarray, str]:
    if named != TRAIN:
        rows = read_rows(Path(named))[:n_rows]
        return rows, f"{len(rows):,} rows of {named}"
    if model.n_inputs != 784:
        raise ValueError(
            f"quantize: digits have 784 pixels, the model takes {model.n_inputs}; name rows of its "
            "own: --calibration FILE.npy"
        )
    images, _ = mnist.without_sample(*mnist.load("train"))
    images = images[: 2000 if n_rows is None else n_rows]
    return images, f"{len(images):,} of MNIST's training images"


def _evaluation_rows(
    model: fastnn.Model, path: Path | None, seen: np.ndarray, seen_what: str
) -> tuple[np.ndarray, np.ndarray | None, str]:
    """Rows, their labels where they are known, and what they are."""
    if path is not None:
        rows = read_rows(path)
        return rows, None, f"{len(rows):,} rows of {path}, labels unknown"
    classes = model.classes_
    is_digits = (
        model.n_inputs == 784
        and seen.dtype == np.uint8
        and classes is not None
        and classes.dtype.kind in "iu"
        and set(classes.tolist()) == set(range(10))
    )
    if not is_digits:
        return seen, None, f"{seen_what}: those it was calibrated on, so flattering"
    try:
        return *mnist.load("test"), TEST
    except FileNotFoundError:
        return *mnist.sample(), SAMPLE


def read_rows(path: Path) -> np.ndarray:
    """All rows of a .npy or IDX file; what it is, is read from its first bytes."""
    with open(path, "rb") as file:
        start = file.read(len(npy.MAGIC))
    if start != npy.MAGIC:
        return idx.read(path)
    return npy.load(path)
