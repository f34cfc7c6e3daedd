"""`fastnn predict`: the answers of a model for pictures and arrays in files.

Invariant: a file that cannot be used is reported and passed over; the others are still answered,
and the exit status is 1. What a file is, is read from its first bytes, not from its name. Arrays
are answered block by block, so memory does not follow the file's size.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from cyclopts import Parameter

import fastnn
from fastnn import idx, images
from fastnn.cli import npy
from fastnn.cli.output import Isa, Json, Threads, problem, result, result_json
from fastnn.errors import LoadError
from fastnn.text import printable

_BLOCK_ROWS = 4096
_GZIP = b"\x1f\x8b"
_IDX = b"\x00\x00"


def predict(
    model: Annotated[str, Parameter(help="Name of a bundled model, or path of a file.")],
    file: Annotated[Path, Parameter(help="PNG, JPEG, IDX (plain or .gz) or .npy.")],
    /,
    *files: Annotated[Path, Parameter(help="More files.")],
    invert: Annotated[
        bool | None,
        Parameter(
            help="Whether to invert pictures; by default those with a light border, except "
            "28x28 grey ones, which are taken as they are."
        ),
    ] = None,
    isa: Isa = None,
    threads: Threads = None,
    json: Json = False,
) -> int:
    """Predict the label, and its probability, of each picture or row in the files.

    A picture is brought to MNIST's form: grey, light on dark, fitted into 20x20 pixels, centred
    by mass in 28x28. IDX and .npy files hold rows as the model takes them.
    """
    network = fastnn.load(model, isa=isa)
    results: list[dict[str, Any]] = []
    errors: list[dict[str, str]] = []
    for path in (file, *files):
        try:
            for answer in _answers(network, path, invert, threads):
                if json:
                    results.append(answer)
                else:
                    result(_line(answer))
        except BrokenPipeError:
            raise
        except (OSError, ValueError, TypeError, MemoryError) as error:
            problem(error)
            errors.append({"file": str(path), "error": str(error)})
    if json:
        result_json({"model": model, "results": results, "errors": errors})
    return 1 if errors else 0


def _answers(
    model: fastnn.Model, path: Path, invert: bool | None, threads: int | None
) -> Iterator[dict[str, Any]]:
    rows = _rows(model, path, invert)
    is_picture = isinstance(rows, np.ndarray)
    blocks: Iterable[np.ndarray] = [rows] if isinstance(rows, np.ndarray) else rows
    row = 0
    for block in blocks:
        try:
            labels = model.predict(block, threads=threads)
            scores = _scores(model, block, threads)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path}: {error}") from None
        for label, score in zip(labels, scores, strict=True):
            answer = {"file": str(path)} if is_picture else {"file": str(path), "row": row}
            yield {**answer, **score, ("label" if model.task == "classify" else "value"): label}
            row += 1


def _scores(model: fastnn.Model, x: np.ndarray, threads: int | None) -> Iterable[dict[str, Any]]:
    """Beside each label its probability, or where the outputs are none, its score."""
    if model.task == "regress":
        return ({} for _ in range(len(model.forward(x, threads=threads))))
    try:
        return ({"probability": p.max()} for p in model.predict_proba(x, threads=threads))
    except TypeError:  # the last activation gives no probabilities
        z = model.decision_function(x, threads=threads)
        return ({"score": row.max()} for row in z)


def _rows(
    model: fastnn.Model, path: Path, invert: bool | None
) -> np.ndarray | Iterator[np.ndarray]:
    with open(path, "rb") as file:
        start = file.read(len(npy.MAGIC))
    if start == npy.MAGIC:
        return _npy_blocks(model, path)
    if start[:2] in (_GZIP, _IDX):
        return idx.stream(path, _BLOCK_ROWS)
    if model.n_inputs != images.SIDE**2:
        raise LoadError(
            f"{path}: expected an IDX or .npy file of rows of {model.n_inputs}, found something "
            f"else; a picture becomes {images.SIDE}x{images.SIDE}, which this model does not take"
        )
    return images.read(path, invert=invert)


def _npy_blocks(model: fastnn.Model, path: Path) -> Iterator[np.ndarray]:
    array = npy.load(path, "r")
    is_rows = array.ndim >= 2 and int(np.prod(array.shape[1:])) == model.n_inputs
    if not is_rows:
        yield np.array(array)
        return
    for i in range(0, len(array), _BLOCK_ROWS):
        yield np.array(array[i : i + _BLOCK_ROWS])


def _line(answer: dict[str, Any]) -> str:
    name = answer["file"] + (f"[{answer['row']}]" if "row" in answer else "")
    if "value" in answer:
        return f"{name}: {np.array2string(np.asarray(answer['value']), separator=', ')}"
    label = printable(str(answer["label"]))
    if "probability" in answer:
        return f"{name}: {label} ({100 * answer['probability']:.1f} %)"
    return f"{name}: {label} (score {answer['score']:.4g})"
