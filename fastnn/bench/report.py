"""A run as a file: JSON with every raw sample, and Markdown for people.

Invariant: a document says what was computed (fingerprint, checksum of the outputs), on what machine
and with which versions, and holds the seconds of every round. `read` trusts nothing: whatever it
returns has the fields and types that the rest of the package uses, all numbers finite; any other
file is a ValueError that names the file and what is wrong with it.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import math
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fastnn import text
from fastnn.bench import ruler
from fastnn.bench.race import Absent, Entry
from fastnn.bench.rivals import versions
from fastnn.bench.timing import Timing

__all__ = ["Cell", "Run", "document", "machine", "markdown", "read", "tables", "write"]

_FORMAT = "fastnn-bench"
_VERSION = 1
_MOST_BYTES = 1 << 26


def machine() -> dict[str, Any]:
    """What this is measured on: CPU, caches, build, versions, load, the commit if there is one."""
    from fastnn.cli.about import about

    facts = about()
    return {
        **{key: facts[key] for key in ("cpu", "machine", "cpu_features", "python", "build")},
        "n_cpus": len(os.sched_getaffinity(0)),
        "caches": ruler.cache_bytes(),
        "load_average": round(os.getloadavg()[0], 2),
        "environment": facts["environment"],
        "versions": versions(),
        "commit": _commit(),
    }


def _commit() -> str | None:
    """The commit of the tree that this package is a part of, "+" if changed since; else None."""
    here = Path(__file__).resolve().parent

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", *arguments], cwd=here, capture_output=True, text=True, timeout=10
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    if git("ls-files", "--error-unmatch", Path(__file__).name) is None:
        return None  # no tree, or one that fastnn is only installed in
    commit = git("rev-parse", "HEAD")
    is_changed = bool(git("status", "--porcelain", "--untracked-files=no"))
    return None if commit is None else commit + "+" * is_changed


def document(
    *,
    name: str,
    machine: dict[str, Any],
    workload: dict[str, Any],
    outputs_sha256: str,
    isa: str,
    threads: int,
    timings: Sequence[Timing],
    entries: Sequence[Entry] = (),
    absent: Sequence[Absent] = (),
) -> dict[str, Any]:
    """The run as JSON can hold it. `name` is for people, `machine` is that function's, asked before
    the run (for the load is to be that of others); `workload` says what was computed,
    `threads` how many `timings` were allowed (they tell how many took part)."""
    return {
        "format": _FORMAT,
        "version": _VERSION,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "model": name,
        "workload": workload,
        "outputs_sha256": outputs_sha256,
        "isa": isa,
        "threads": threads,
        "machine": machine,
        "timings": [dataclasses.asdict(timing) for timing in timings],
        "rivals": [dataclasses.asdict(entry) for entry in entries],
        "absent": [dataclasses.asdict(one) for one in absent],
    }


def write(path: str | os.PathLike[str], content: str) -> None:
    """Text into a file, complete or not at all where the disk is full or the reader interrupts."""
    target = Path(path)
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        part.write_text(content, encoding="utf-8")
        part.replace(target)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(target)) from None
    finally:
        part.unlink(missing_ok=True)


# ---- reading -------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Cell:
    """What two runs may have in common: one system on one batch size and number of threads."""

    batch: int
    n_threads: int
    system: str
    """"fastnn" for `fastnn bench` itself, "fastnn (beside rivals)", or the rival's name."""
    form: str
    samples: tuple[float, ...]
    """Seconds a call, of each round, in the order of time."""


@dataclasses.dataclass(frozen=True)
class Run:
    """A document that was read, as far as a comparison needs it."""

    path: str
    model: str
    date: str
    commit: str | None
    cpu: str
    isa: str
    version: str
    workload: dict[str, Any]
    outputs_sha256: str
    cells: tuple[Cell, ...]


def read(path: str | os.PathLike[str]) -> Run:
    """A file that `fastnn bench --json` wrote.

    Raises OSError if it cannot be read, ValueError (with the file's name) if it is anything else.
    """
    name = os.fspath(path)
    with open(path, "rb") as file:
        content = file.read(_MOST_BYTES + 1)
    if len(content) > _MOST_BYTES:
        raise ValueError(f"{name}: larger than {_MOST_BYTES >> 20} MiB, no file of `fastnn bench`")
    try:
        found = json.loads(content, parse_constant=_refuse_constant, parse_int=_short_int)
        return _run_of(name, found)
    except RecursionError:
        raise ValueError(f"{name}: nested too deeply, no file of `fastnn bench`") from None
    except ValueError as error:  # UnicodeDecodeError and JSONDecodeError are ValueErrors
        raise ValueError(f"{name}: {_plain(error)}") from None


def _plain(error: ValueError) -> str:
    if isinstance(error, json.JSONDecodeError | UnicodeDecodeError):
        return f"is no JSON: {error}"
    return str(error)


def _refuse_constant(word: str) -> float:
    raise ValueError(f"holds {word}, which is no number")


def _short_int(digits: str) -> int:
    if len(digits) > 18:
        raise ValueError(f"holds a number of {len(digits)} digits")
    return int(digits)


def _run_of(name: str, found: Any) -> Run:
    if not isinstance(found, dict):
        raise ValueError("holds no run of `fastnn bench`")
    if found.get("format") != _FORMAT:
        if "timings" in found:
            raise ValueError(
                "was written by an older fastnn, without raw samples; run `fastnn bench` again"
            )
        raise ValueError("holds no run of `fastnn bench`")
    if found.get("version") != _VERSION:
        raise ValueError(
            f"is of version {found.get('version')!r} of its format, this fastnn reads {_VERSION}"
        )
    about = _get(found, "machine", dict)
    commit = about.get("commit")
    cells = [
        Cell(
            batch=_count(cell, "batch"),
            n_threads=_count(*((found, "threads") if key == "timings" else (cell, "n_threads"))),
            system="fastnn" if key == "timings" else _beside(_get(cell, "system", str)),
            form="predict, out=" if key == "timings" else _get(cell, "form", str),
            samples=_samples(cell),
        )
        for key in ("timings", "rivals")
        for cell in _get(found, key, list)
    ]
    where = [(cell.batch, cell.n_threads, cell.system) for cell in cells]
    if len(set(where)) < len(where):
        raise ValueError("has the same cell twice")
    return Run(
        path=name,
        model=_get(found, "model", str),
        date=_get(found, "date", str),
        commit=commit if isinstance(commit, str) else None,
        cpu=_get(about, "cpu", str),
        isa=_get(found, "isa", str),
        version=_get(_get(about, "versions", dict), "fastnn", str),
        workload=_get(found, "workload", dict),
        outputs_sha256=_get(found, "outputs_sha256", str),
        cells=tuple(cells),
    )


def _beside(system: str) -> str:
    return "fastnn (beside rivals)" if system == "fastnn" else system


def _get(found: Any, key: str, kind: type) -> Any:
    if not isinstance(found, dict) or key not in found:
        raise ValueError(f"lacks {key!r}")
    value = found[key]
    if not isinstance(value, kind) or isinstance(value, bool):
        raise ValueError(f"{key!r} is {type(value).__name__}, wanted {kind.__name__}")
    return value


def _count(found: Any, key: str) -> int:
    value: int = _get(found, key, int)
    if value < 1:
        raise ValueError(f"{key!r} is {value}, wanted at least 1")
    return value


def _samples(found: Any) -> tuple[float, ...]:
    values = _get(found, "samples", list)
    if not values:
        raise ValueError("'samples' is empty")
    for value in values:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not math.isfinite(value) or value <= 0:
            raise ValueError(f"'samples' holds {str(value)[:40]}, wanted seconds above 0")
    return tuple(float(value) for value in values)


# ---- for people ----------------------------------------------------------------------------------

Table = tuple[Sequence[str], Sequence[tuple[str, ...]], Sequence[int]]
"""Titles, rows, and which columns stand flush right."""


def tables(
    timings: Sequence[Timing], entries: Sequence[Entry] = ()
) -> tuple[Table, Table | None, Table | None]:
    """(the sweep, its layers or None, the rivals or None)."""
    return (
        _sweep_table(timings),
        _layer_table(timings) if any(t.layers for t in timings) else None,
        _rival_table(entries) if entries else None,
    )


def _sweep_table(timings: Sequence[Timing]) -> Table:
    titles = (
        "batch", "threads", "p50", "p99", "rows/s", "GFLOP/s", "dense GFLOP/s", "of peak",
    )  # fmt: skip
    rows = [
        (
            f"{t.batch:,}",
            str(t.n_threads),
            text.duration(t.p50),
            text.duration(t.p99),
            f"{t.rows_per_s:,.0f}",
            f"{t.executed_gflops:.1f}",
            f"{t.effective_gflops:.1f}",
            _share(t.share_of_peak),
        )
        for t in timings
    ]
    return titles, rows, range(len(titles))


def _layer_table(timings: Sequence[Timing]) -> Table:
    titles = (
        "batch", "layer", "shape", "time", "GFLOP/s", "dense", "skipped", "weights touched",
        "of peak", "GB/s", "of bandwidth",
    )  # fmt: skip
    rows: list[tuple[str, ...]] = []
    for t in timings:
        for layer in t.layers:
            rows.append(
                (
                    f"{t.batch:,}",
                    str(layer.index),
                    f"{layer.n_inputs} x {layer.n_outputs} {layer.activation}",
                    text.duration(layer.seconds),
                    f"{layer.executed_gflops:.1f}",
                    f"{layer.effective_gflops:.1f}",
                    _share(layer.skipped),
                    f"{layer.weight_bytes / 1024:,.1f} KiB",
                    _share(layer.share_of_peak),
                    f"{layer.gbytes_per_s:.1f}",
                    f"{_share(layer.share_of_bandwidth)} {t.level}",
                )
            )
        rest = t.batch / t.rows_per_s - t.labels_seconds - sum(one.seconds for one in t.layers)
        for what, seconds in (("labels", t.labels_seconds), ("the rest of a call", max(0.0, rest))):
            rows.append((f"{t.batch:,}", "", what, text.duration(seconds), *[""] * 7))
    return titles, rows, [i for i in range(len(titles)) if i != 2]


def _rival_table(entries: Sequence[Entry]) -> Table:
    titles = ("batch", "threads", "system, fastest form", "a call", "p10-p90", "rows/s", "fastnn")
    rows = []
    ours = {(e.batch, e.n_threads): e.median for e in entries if e.system == "fastnn"}
    for e in entries:
        mine = ours.get((e.batch, e.n_threads))
        low, high = e.spread
        rows.append(
            (
                f"{e.batch:,}",
                str(e.n_threads),
                f"{e.system} {e.version}, {e.form}",
                text.duration(e.median),
                f"{text.duration(low)}-{text.duration(high)}",
                f"{e.batch / e.median:,.0f}",
                "" if mine is None or e.system == "fastnn" else f"{e.median / mine:.2f}x as fast",
            )
        )
    return titles, rows, (0, 1, 3, 4, 5, 6)


def limits_text(timings: Sequence[Timing]) -> str:
    """One line on what the shares are shares of."""
    peak = max(t.peak_gflops / t.n_threads for t in timings)
    rates = {(t.level, t.n_threads): t.level_gbytes_per_s for t in timings}
    reading = [
        f"{rate:.0f} GB/s from {level}" + (f" on {n} threads" if n > 1 else "")
        for (level, n), rate in rates.items()
    ]
    return f"the limits, measured in every round: {peak:.0f} GFLOP/s a core; {', '.join(reading)}"


def markdown(content: dict[str, Any], shown: Sequence[Table | None]) -> str:
    """The tables as Markdown, with what they were measured on."""
    about = content["machine"]
    widths = "-".join(str(n) for n in content["workload"]["widths"])
    versions_text = ", ".join(f"{name} {v}" for name, v in about["versions"].items())
    lines = [f"# {content['model']}: {widths}, {content['workload']['input']} rows", ""]
    for table in shown:
        if table is None:
            continue
        titles, rows, right = table
        marks = ["---:" if i in right else "---" for i in range(len(titles))]
        for cells in (titles, marks, *rows):
            lines.append(f"| {' | '.join(_escaped(cell) for cell in cells)} |")
        lines.append("")
    lines += [f"- {one['system']}: {one['why']}." for one in content["absent"]]
    caches = ", ".join(f"{k} {v >> 10:,} KiB" for k, v in about["caches"].items())
    lines += [
        f"- {content['date']}; {about['cpu']}, {about['n_cpus']} CPUs, {caches}; isa "
        f"{content['isa']}; {versions_text}, Python {about['python']}; load average "
        f"{about['load_average']}; commit {about['commit'] or 'unknown'}.",
        f"- Outputs: SHA-256 {content['outputs_sha256']}.",
        "- Rates are medians of rounds; each round is held against the larger of the readings of "
        "the rulers before and after it. A layer's time is that of this layer alone as a network, "
        "in turn with the others, calls included. See docs/bench.md.",
    ]
    return "\n".join(lines) + "\n"


def _escaped(cell: str) -> str:
    return cell.replace("|", "\\|")


def _share(value: float) -> str:
    return f"{100 * value:.0f} %"
