"""`fastnn evaluate`: how often a model is right about MNIST's digits, where it errs, how fast.

Invariant: the time reported is that of the `predict` calls alone; the bar is drawn between them.
"""

import math
import os
from pathlib import Path
from time import perf_counter_ns
from typing import Annotated

import numpy as np
import numpy.typing as npt
from cyclopts import Parameter

import fastnn
from fastnn import mnist, text
from fastnn.cli.output import (
    Isa,
    Json,
    Precision,
    Quiet,
    Threads,
    note,
    percent,
    progress,
    result,
    result_json,
)

SAMPLE = "held-out sample of 1,000 training-split digits, not the MNIST test set"
TEST = "MNIST test set, 10,000 digits"
_BATCH = 1000
_Z95 = 1.959963984540054  # the normal distribution's 97.5 % point


def evaluate(
    model: Annotated[str, Parameter(help="Name of a bundled model, or path of a file.")] = (
        "mnist-small"
    ),
    /,
    *,
    data: Annotated[
        Path | None,
        Parameter(
            help="Folder of the MNIST files; by default FASTNN_MNIST, the user's cache, and where "
            "there are none, the 1,000 digits that ship with fastnn."
        ),
    ] = None,
    precision: Precision = None,
    isa: Isa = None,
    threads: Threads = None,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Measure a model's accuracy on MNIST: confusion matrix and images per second."""
    network = fastnn.load(model, precision=precision, isa=isa)
    _check_digits(network)
    images, labels, what = _digits(data)
    if what == SAMPLE and not quiet:
        note("no MNIST files found (`fastnn data fetch` gets them): using the bundled sample")
    answers, seconds = _answers(network, images, threads, quiet=quiet)
    n_right = int(np.count_nonzero(answers == labels))
    low, high = wilson(n_right, len(labels))
    confusion = confusion_of(labels, answers)
    if json:
        result_json(
            {
                "model": model,
                "precision": network.precision,
                "data": what,
                "n_images": len(labels),
                "n_right": n_right,
                "accuracy": n_right / len(labels),
                "accuracy_95": [low, high],
                "images_per_s": len(labels) / seconds,
                "confusion": confusion,
            }
        )
        return
    result(f"model     {model}, {network.precision} on {network.kernels[0]['isa']}")
    result(f"data      {what}")
    result(
        f"accuracy  {percent(n_right / len(labels))} ({n_right:,} of {len(labels):,}; "
        f"95 % interval {percent(low)} to {percent(high)})"
    )
    result(f"speed     {len(labels) / seconds:,.0f} images/s in batches of {_BATCH:,}")
    result("\nconfusion: rows are the digits, columns the model's answers\n")
    result(_confusion_text(confusion))


def confusion_of(labels: np.ndarray, answers: np.ndarray) -> npt.NDArray[np.int64]:
    """How often each digit (row) was taken for each (column), shape (10, 10)."""
    counts = np.zeros((10, 10), np.int64)
    np.add.at(counts, (labels, answers), 1)
    return counts


def wilson(n_right: int, n: int) -> tuple[float, float]:
    """The 95 % interval of a proportion.

    Source: E.B. Wilson, "Probable inference, the law of succession, and statistical inference",
    J. Am. Stat. Assoc. 22 (1927) 209-212.
    """
    p, z2 = n_right / n, _Z95**2
    centre = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = _Z95 / (1 + z2 / n) * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


def _check_digits(model: fastnn.Model) -> None:
    if model.n_inputs != 784:
        raise ValueError(f"evaluate: digits have 784 pixels, the model takes {model.n_inputs}")
    classes = model.classes_
    if classes is None or classes.dtype.kind not in "iu" or set(classes) != set(range(10)):
        shown = "none" if classes is None else ", ".join(map(str, classes[:12]))
        raise ValueError(f"evaluate: the model's classes are {shown}; wanted the digits 0 to 9")


def _digits(folder: Path | None) -> tuple[np.ndarray, np.ndarray, str]:
    try:
        return *mnist.load("test", folder), TEST
    except FileNotFoundError:
        if folder is not None or os.environ.get("FASTNN_MNIST"):
            raise  # somebody who names a folder means that one
        return *mnist.sample(), SAMPLE


def _answers(
    model: fastnn.Model, images: np.ndarray, threads: int | None, *, quiet: bool
) -> tuple[np.ndarray, float]:
    """The labels of all images, and the seconds that `predict` took for them."""
    # The first call sets up scratch and threads.
    first = model.predict(images[:_BATCH], threads=threads)
    answers = np.empty(len(images), first.dtype)
    nanoseconds = 0
    with progress("evaluating", len(images), quiet=quiet) as bar:
        for i in range(0, len(images), _BATCH):
            batch, out = images[i : i + _BATCH], answers[i : i + _BATCH]
            start = perf_counter_ns()
            model.predict(batch, out=out, threads=threads)
            nanoseconds += perf_counter_ns() - start
            bar.advance(len(batch))
    return answers, nanoseconds * 1e-9


def _confusion_text(confusion: np.ndarray) -> str:
    titles = ["", *(str(digit) for digit in range(10)), "recall"]
    rows = [
        [
            str(digit),
            *(str(n) if n else "." for n in row),
            percent(row[digit] / row.sum()) if row.sum() else "",
        ]
        for digit, row in enumerate(confusion)
    ]
    return text.table(titles, rows, right=range(12))
