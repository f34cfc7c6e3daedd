"""What the released networks can do, measured and written down: `python -m training.cards`.

    python -m training.cards --data MNIST bundled runs/mnist-large.safetensors
    python -m training.cards --data MNIST --table             # the table alone, no files

Prints the table of all networks in all their precisions, and writes into docs/models a card of each
network (NAME.md), an index (README.md) and what all was made from (models.json, which
`python -m training.frontier` draws). With --state the accuracies of int8 and of certified labels
are written into the files' metadata, where `fastnn models` finds them.

Invariant: everything on a page comes from the network's file and from this run; nothing is typed
in. A file whose metadata state another accuracy than is measured here is an error, and so is a run
that leaves out a network that has a card. The test set decides nothing here: what is shown it was
released before.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import fastnn
from fastnn import formats, mnist, text
from fastnn.bench import report
from fastnn.bench.speed import BATCH, speeds
from fastnn.cli.evaluate import confusion_of, wilson
from fastnn.cli.output import percent
from fastnn.cli.show import ACCURACY
from fastnn.model import activation_text
from training import again, command, data
from training.recipes import RECIPES, Recipe

TO = Path(__file__).resolve().parent.parent / "docs" / "models"
_BATCH = 1000
_ALL = "bundled"
_MARK = "<!-- Made by `python -m training.cards`; changes here are lost. -->"


# ---- measuring -----------------------------------------------------------------------------------


def is_for_digits(model: fastnn.Model) -> bool:
    """Whether it takes MNIST's images and answers with digits."""
    classes = model.classes_
    return model.n_inputs == 784 and classes is not None and set(classes.tolist()) == set(range(10))


def in_all_precisions(model: fastnn.Model) -> dict[str, fastnn.Model]:
    """The model in each precision of `ACCURACY` that its layers and calibration allow."""
    found = {}
    for precision in ACCURACY:
        try:
            found[precision] = model.astype(precision)
        except ValueError:  # no calibration, or nothing to certify
            continue
    return found


def answers(model: fastnn.Model, images: np.ndarray) -> tuple[np.ndarray, int]:
    """The labels, and how many rows a certified model ran again in float32."""
    labels, n_again = [], 0
    for i in range(0, len(images), _BATCH):
        batch = images[i : i + _BATCH]
        work = model._work(batch, labels=True)  # predict may find float32 alone faster
        labels.append(work["labels"])
        n_again += work["n_doubtful"]
    return np.concatenate(labels), n_again


def measure(
    paths: dict[str, Path], folder: str | None = None, *, seconds: float = 30.0
) -> dict[str, Any]:
    """All figures of the networks in `paths` (by name) as JSON can hold them.

    `folder` holds MNIST's files, as for `fastnn.mnist.load`; `seconds` go to speed.
    """
    machine = report.machine()  # first: the load is to be that of others
    fit = data.load(folder)
    test, truth = mnist.load("test", folder)
    parts = {
        "fitted": (fit.fit_images, fit.fit_labels),
        "chosen by": (fit.validation_images, fit.validation_labels),
        "sample": mnist.sample(),
        "test": (test, truth),
    }
    networks = {name: in_all_precisions(fastnn.load(path)) for name, path in paths.items()}
    timed = [model for models in networks.values() for model in models.values()]
    measured = iter(speeds(timed, seconds=seconds))
    entries = []
    for name, models in networks.items():
        reference, _ = answers(models["float32"], test)
        precisions = {}
        for precision, model in models.items():
            found, n_again = answers(model, test)
            speed = next(measured)
            precisions[precision] = {
                "n_right": int((found == truth).sum()),
                "n_unlike_float32": int((found != reference).sum()),
                "n_again": n_again,
                "isa": model.pixel_kernel["isa"],
                "packed_bytes": model.nbytes,
                **speed._asdict(),
            }
        entries.append(
            {
                "name": name,
                "is_bundled": name in fastnn.models(),
                "layers": _layers(models["float32"]),
                "n_parameters": models["float32"].n_parameters,
                "calibration": _calibration(models["float32"]),
                **of_file(paths[name]),
                "splits": {
                    part: {
                        "n_images": len(images),
                        "n_right": int((answers(models["float32"], images)[0] == labels).sum()),
                    }
                    for part, (images, labels) in parts.items()
                },
                "precisions": precisions,
                "confusion": confusion_of(truth, reference).tolist(),
            }
        )
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "machine": {key: machine[key] for key in ("cpu", "n_cpus", "load_average", "versions")},
        "batch": BATCH,
        "n_test": len(test),
        "models": entries,
    }


def of_file(path: Path) -> dict[str, Any]:
    """What the file is beside its network: its size and what it states."""
    return {"file_bytes": path.stat().st_size, "metadata": dict(fastnn.load(path).metadata)}


def _layers(model: fastnn.Model) -> list[dict[str, Any]]:
    return [
        {
            "n_inputs": layer.n_inputs,
            "n_outputs": layer.n_outputs,
            "activation": activation_text(layer),
            "n_parameters": layer.n_parameters,
            "n_distinct": sum(len(np.unique(part)) for part in (layer.weight, layer.bias)),
        }
        for layer in model.layers
    ]


def _calibration(model: fastnn.Model) -> dict[str, Any] | None:
    found = model.calibration
    return None if found is None else dataclasses.asdict(found)


def check_stated(document: dict[str, Any]) -> None:
    """ValueError where a file states another accuracy than was measured."""
    for entry in document["models"]:
        for precision, figures in entry["precisions"].items():
            stated = entry["metadata"].get(ACCURACY[precision])
            share = figures["n_right"] / document["n_test"]
            if stated is not None and abs(float(stated) - share) > 0.5 / document["n_test"]:
                raise ValueError(
                    f"{entry['name']}: the file states {stated} for {precision}, measured "
                    f"{share:.4f}; --state corrects it"
                )


def state(path: Path, precisions: dict[str, dict[str, Any]], n_test: int) -> None:
    """Write the accuracies into the file's metadata; all else in it stays as it is."""
    file = formats.read(path)
    stated = {
        ACCURACY[name]: f"{figures['n_right'] / n_test:.4f}" for name, figures in precisions.items()
    }
    # Beside float32's, before what follows it.
    metadata: dict[str, str] = {}
    for key, value in file.metadata.items():
        if key not in ACCURACY.values():
            metadata[key] = value
        elif key == ACCURACY["float32"]:
            metadata |= stated
    formats.write(path, dataclasses.replace(file, metadata={**metadata, **stated}))


# ---- pages ---------------------------------------------------------------------------------------

Rows = list[Sequence[str]]


def shape(entry: dict[str, Any]) -> str:
    """ "784-128-10"."""
    layers = entry["layers"]
    return "-".join(str(n) for n in (layers[0]["n_inputs"], *(d["n_outputs"] for d in layers)))


TITLES = (
    "model", "network", "parameters", "precision", "accuracy", "95 % interval", "one row", "rows/s",
)  # fmt: skip
_RIGHT = (2, 4, 5, 6, 7)


def table_rows(document: dict[str, Any]) -> list[list[str]]:
    """Every model in every precision, a row each, under `TITLES`."""
    n = document["n_test"]
    return [
        [
            entry["name"],
            shape(entry),
            f"{entry['n_parameters']:,}",
            precision,
            percent(figures["n_right"] / n),
            _interval(figures["n_right"], n),
            text.duration(figures["row_seconds"]),
            f"{figures['rows_per_s']:,.0f}",
        ]
        for entry in document["models"]
        for precision, figures in entry["precisions"].items()
    ]


def _interval(n_right: int, n: int) -> str:
    low, high = wilson(n_right, n)
    return f"{100 * low:.2f} to {100 * high:.2f}"


def _markdown(titles: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int]) -> str:
    marks = ["---:" if i in right else "---" for i in range(len(titles))]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (titles, marks, *rows))


def index(document: dict[str, Any]) -> str:
    """docs/models/README.md."""
    rows = [
        [f"[{row[0]}]({row[0]}.md)" if first else "", *(row[1:3] if first else ("", "")), *row[3:]]
        for row, first in _with_firsts(table_rows(document))
    ]
    return "\n".join(
        [
            "# The trained networks",
            "",
            _MARK,
            "",
            "![Accuracy on MNIST's test images against rows a second](../frontier.svg)",
            "",
            f"Accuracy on MNIST's {document['n_test']:,} test images, and speed {_where(document)}",
            "",
            _markdown(TITLES, rows, _RIGHT),
            "",
            "Certified labels are float32's, proved row by row ([how](../certified.md)). The small "
            "networks `perceptron-2d`, `xor` and `sigmoid-3-2-1` have no card: the "
            "[textbook](../textbook.md) tells all about them.",
            *[line for entry in document["models"] for line in _after_a_gap(_shared(entry))],
            "",
            "```",
            "python -m training.kept --to runs         # mnist-large, which does not ship",
            f"python -m training.cards --data MNIST {_ALL} runs/mnist-large.safetensors",
            "python -m training.frontier               # the picture",
            "```",
            "",
        ]
    )


def _after_a_gap(lines: list[str]) -> list[str]:
    return ["", *lines] if lines else []


def _shared(entry: dict[str, Any]) -> list[str]:
    """What is to be known of layers that were convolutions while they were trained."""
    recipe = _recipe_of(entry["metadata"])
    if recipe is None or not recipe.convolutions:
        return []
    n_numbers = sum(d["n_distinct"] for d in entry["layers"])
    return [
        f"The first layers of `{entry['name']}` were convolutions while it was trained, and are "
        f"written out: {n_numbers:,} different numbers, most weights zeros and others the same "
        "again, though fastnn computes with all of them. To train, it is no plain network of "
        "dense layers ([more](../../training/README.md)).",
    ]


def _with_firsts(rows: list[list[str]]) -> list[tuple[list[str], bool]]:
    return [(row, i == 0 or rows[i - 1][0] != row[0]) for i, row in enumerate(rows)]


def _where(document: dict[str, Any]) -> str:
    machine = document["machine"]
    isas = sorted({p["isa"] for e in document["models"] for p in e["precisions"].values()})
    return (
        f"on one thread ({machine['cpu']}, {', '.join(isas)}; {document['date']}, fastnn "
        f"{machine['versions']['fastnn']}): one row a call, and calls of {document['batch']:,} "
        "rows, on digits as uint8; all networks took turns. Load average before: "
        f"{machine['load_average']} on {machine['n_cpus']} CPU{'s' * (machine['n_cpus'] != 1)}."
    )


def card(entry: dict[str, Any], document: dict[str, Any]) -> str:
    """docs/models/NAME.md."""
    about = entry["metadata"]
    sections: list[tuple[str, list[str]]] = [
        ("Layers", _layers_section(entry)),
        ("Accuracy", _accuracy_section(entry, document)),
        ("Confusion", _confusion_section(entry, document)),
        ("Speed", _speed_section(entry, document)),
        ("Recipe", [*_recipe_section(about), *_after_a_gap(_shared(entry))]),
        ("Calibration", _calibration_section(entry)),
        ("Licence", [_sentence(about.get("licence", "the file states none"))]),
    ]
    name = entry["name"]
    lines = [
        f"# {name}: {shape(entry)}",
        "",
        _MARK,
        "",
        f"MNIST digits, raw pixels in, labels out: {entry['n_parameters']:,} weights and biases, "
        f"{entry['file_bytes']:,} bytes on disk. "
        + (
            f'It ships with fastnn: `fastnn.load("{name}")`.'
            if entry["is_bundled"]
            else f"It does not ship with fastnn: `python -m training.kept --to FOLDER` writes it "
            f'(`training/{name}.npz` has its weights), `fastnn.load("FOLDER/{name}.safetensors")` '
            "reads it."
        ),
        "",
    ]
    for title, body in sections:
        lines += [f"## {title}", "", *body, ""]
    return "\n".join(lines)


def _layers_section(entry: dict[str, Any]) -> list[str]:
    rows = [
        (
            str(i),
            f"{d['n_inputs']:,} x {d['n_outputs']:,}",
            d["activation"],
            f"{d['n_parameters']:,}",
        )
        for i, d in enumerate(entry["layers"])
    ]
    return [_markdown(("layer", "shape", "activation", "parameters"), rows, (0, 3))]


def _accuracy_section(entry: dict[str, Any], document: dict[str, Any]) -> list[str]:
    n = document["n_test"]
    rows = [
        (
            precision,
            f"{figures['n_right']:,}",
            percent(figures["n_right"] / n),
            _interval(figures["n_right"], n),
            f"{figures['n_unlike_float32']:,}",
        )
        for precision, figures in entry["precisions"].items()
    ]
    titles = (
        "precision",
        f"right of {n:,}",
        "accuracy",
        "95 % interval",
        "labels unlike float32's",
    )
    parts = {
        "fitted": "the images it was fitted to",
        "chosen by": "held out of fitting; chose the epoch, so slightly flattering",
        "sample": "the bundled digits, never used in training or choosing",
        "test": "MNIST's test set",
    }
    if "refit" in entry["metadata"]:
        parts["chosen by"] = "chose the recipe, with other weights, and was fitted to afterwards"
    splits = [
        (part, f"{found['n_images']:,}", percent(found["n_right"] / found["n_images"]), parts[part])
        for part, found in entry["splits"].items()
    ]
    return [
        _markdown(titles, rows, (1, 2, 3, 4)),
        "",
        *[
            f"    fastnn evaluate {_argument(entry)} --precision {precision}"
            for precision in entry["precisions"]
        ],
        "",
        f"reproduce the figures from the file and the {n:,} test images. "
        + _looks(entry["metadata"].get("test_looks")),
        "",
        "In float32, by what the images were used for:",
        "",
        _markdown(("images", "number", "accuracy", ""), splits, (1, 2)),
    ]


def _looks(stated: str | None) -> str:
    if stated is None:
        return "The file does not state how often the test set was looked at."
    times = {"1": "once", "2": "twice"}.get(stated, f"{stated} times")
    return (
        f"Until its release the test set was looked at {times} for networks of this name "
        "([what each split is for](../../training/README.md))."
    )


def _argument(entry: dict[str, Any]) -> str:
    return entry["name"] if entry["is_bundled"] else f"{entry['name']}.safetensors"


def _confusion_section(entry: dict[str, Any], document: dict[str, Any]) -> list[str]:
    rows = [
        [
            f"**{digit}**",
            *(str(count) if count else "." for count in counts),
            percent(counts[digit] / sum(counts)),
        ]
        for digit, counts in enumerate(entry["confusion"])
    ]
    titles = ["", *map(str, range(10)), "recall"]
    return [
        f"Rows are the digits of the {document['n_test']:,} test images, columns the float32 "
        "answers.",
        "",
        _markdown(titles, rows, range(1, 12)),
    ]


def _speed_section(entry: dict[str, Any], document: dict[str, Any]) -> list[str]:
    n = document["n_test"]
    rows = [
        (
            precision,
            text.duration(figures["row_seconds"]),
            f"{figures['rows_per_s']:,.0f}",
            f"{figures['packed_bytes']:,}",
            percent(figures["n_again"] / n) if precision == "certified" else "",
        )
        for precision, figures in entry["precisions"].items()
    ]
    titles = ("precision", "one row", "rows/s", "bytes packed", "test rows run again in float32")
    return [_markdown(titles, rows, (1, 2, 3, 4)), "", _sentence(_where(document))]


def _recipe_of(about: dict[str, str]) -> Recipe | None:
    """The one that a file states, if it is one of ours."""
    made, _, name = about.get("recipe", "").partition(": ")
    return RECIPES.get(name) if made == "training.recipes" else None


def _recipe_section(about: dict[str, str]) -> list[str]:
    told = {"recipe", "licence", "name", "parameters", *ACCURACY.values(), "test_looks"}
    rows: Rows = [("recipe", f"`{about['recipe']}`")] if "recipe" in about else []
    rows += [(key.replace("_", " "), value) for key, value in about.items() if key not in told]
    if len(seeds := again.stated(about)) > 1:
        rows.append(("over the seeds", again.told(again.spread(seeds))))
    lines = [_markdown(("what the file states", ""), rows, ())]
    refit = (", and again with `--refit`,", " --refit") if "refit" in about else ("", "")
    if recipe := _recipe_of(about):
        name, seed = recipe.name, about.get("seed", "")
        seed = f" --seed {seed}" if seed and seed != str(recipe.seed) else ""
        lines += [
            "",
            f"`python -m training.train {name}{seed}`{refit[0]} trains it, `python -m "
            f"training.export {name}{refit[1]}` releases it ([how](../../training/README.md)); the "
            "recipe:",
            "",
            _markdown(("", ""), _recipe_rows(recipe), ()),
        ]
    return lines


def _recipe_rows(recipe: Recipe) -> Rows:
    rows: Rows = []
    for field in dataclasses.fields(recipe):
        value = getattr(recipe, field.name)
        if field.name in ("name", "seed", "refit", "n_conv", "kernel", "channels"):
            continue  # the file says the seed and whether; the rest is of teachers
        if field.name in ("convolutions", "stop") and not value:
            continue  # few have them
        if field.name == "plain_epochs" and value and recipe.last <= recipe.epochs - value:
            continue  # it stops before them
        if dataclasses.is_dataclass(value):
            words = ", ".join(f"{k} {v}" for k, v in dataclasses.asdict(value).items())
        elif isinstance(value, tuple):
            words = ", ".join(map(str, value)) or "none"
        elif isinstance(value, bool):
            words = "yes" if value else "no"
        else:
            words = "none" if value is None else str(value)
        rows.append((field.name.replace("_", " "), words))
    return rows


def _calibration_section(entry: dict[str, Any]) -> list[str]:
    found = entry["calibration"]
    if found is None:
        return ["None: the file holds float32 only."]
    rows = [(str(i), f"{lo:g}", f"{hi:g}") for i, (lo, hi) in enumerate(found["ranges"])]
    return [
        f"The ranges of each layer's input over the images that were fitted, as {found['input']} "
        "rows; int8 and certified labels are derived from the float32 weights and these when the "
        "file is read.",
        "",
        _markdown(("layer", "lowest", "highest"), rows, (0, 1, 2)),
    ]


def _sentence(words: str) -> str:
    return words[:1].upper() + words[1:].rstrip(".") + "."


# ---- the command ---------------------------------------------------------------------------------


def paths_of(named: Sequence[str]) -> dict[str, Path]:
    """Files by their names; "bundled", or no name: those of the bundled networks for digits."""
    folder = Path(fastnn.__file__).parent / "models"
    names: list[str] = []
    for name in named or [_ALL]:
        if name == _ALL:
            names += [bundled for bundled in fastnn.models() if is_for_digits(fastnn.load(bundled))]
        else:
            names.append(name)
    found: dict[str, Path] = {}
    for name in names:
        path = folder / f"{name}.safetensors" if name in fastnn.models() else Path(name)
        if path.stem in found:
            raise ValueError(f"{name}: there are two files of the name {path.stem}")
        if not is_for_digits(fastnn.load(path)):
            raise ValueError(f"{name}: takes no digits, or does not answer with them")
        found[path.stem] = path
    return found


def check_all_are_here(paths: dict[str, Path], to: Path) -> None:
    """ValueError where a network has a card in `to` and is not among `paths`."""
    cards = {old.stem for old in to.glob("*.md") if _MARK in old.read_text()} - {"README"}
    if left_out := sorted(cards - paths.keys()):
        raise ValueError(
            f"{to} has cards of {', '.join(left_out)} too: all have to be measured in one run "
            "(name their files as well), or a card to be removed"
        )


def write_pages(document: dict[str, Any], to: Path) -> None:
    """models.json, README.md and the cards."""
    to.mkdir(parents=True, exist_ok=True)
    report.write(to / "models.json", json.dumps(document, indent=1) + "\n")
    report.write(to / "README.md", index(document))
    for entry in document["models"]:
        report.write(to / f"{entry['name']}.md", card(entry, document))


def main(arguments: list[str] | None = None) -> None:
    parser = command.parser("cards", "Measure the released networks; write cards.")
    parser.add_argument("models", nargs="*", help='names or files (default: "bundled", all those)')
    parser.add_argument("--data", help="folder of the MNIST files (default: as fastnn.mnist.load)")
    parser.add_argument("--to", type=Path, default=TO, help="folder of the cards")
    parser.add_argument("--seconds", type=float, default=30.0, help="for all speeds together")
    writes = parser.add_mutually_exclusive_group()
    writes.add_argument("--table", action="store_true", help="print the table, write nothing")
    writes.add_argument("--state", action="store_true", help="write accuracies into the files")
    chosen = parser.parse_args(arguments)
    paths = paths_of(chosen.models)
    if not chosen.table:
        check_all_are_here(paths, chosen.to)
    document = measure(paths, chosen.data, seconds=chosen.seconds)
    if chosen.state:
        for entry in document["models"]:
            path = paths[entry["name"]]
            state(path, entry["precisions"], document["n_test"])
            entry.update(of_file(path))
    check_stated(document)
    print(text.table(TITLES, table_rows(document), right=_RIGHT))
    print(f"\nspeed {_where(document)}")
    if not chosen.table:
        write_pages(document, chosen.to)


if __name__ == "__main__":
    command.run("cards", main)
