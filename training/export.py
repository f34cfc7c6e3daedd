"""Release a trained network: `python -m training.export mnist-small --out RUNS --to FOLDER`.

Takes the seed that the validation split chose among RUNS/NAME-SEED, and of that run the epoch
(best.pt), folds batch norm, measures, and writes FOLDER/NAME.safetensors (or .npz with --npz),
calibrated for int8 on the 54,000 images that were fitted. With --refit, the weights of that seed's
refit, beside the figures by which seed and recipe were chosen.

Invariant: the test set is looked at once per set of weights. Each look is kept in released.json
beside this file, under the name of what is released, with the SHA-256 of the weights (null where it
is not known any more): commit it. A second export of the same weights quotes the figure; how many
looks the name has had so far goes into the metadata.
"""

import dataclasses
import hashlib
import json
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fastnn import Dense, Model, formats, mnist
from fastnn.bench import report
from fastnn.quantize import calibrate
from training import command, data
from training.recipes import RECIPES, Recipe

Arrays = list[tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]]
LEDGER = Path(__file__).with_name("released.json")
_LICENCE = "trained on MNIST (Y. LeCun, C. Cortes, C.J.C. Burges), CC BY-SA 3.0"


def hidden(arrays: Arrays, activation: str, images: npt.NDArray[np.uint8]) -> list[np.ndarray]:
    """float64 inputs of each layer, then the logits, for uint8 images (n, 28, 28)."""
    values = [images.reshape(len(images), -1) / 255.0]
    for i, (weight, bias) in enumerate(arrays):
        z = values[-1] @ weight.astype(np.float64) + bias
        if i + 1 < len(arrays):
            z = np.maximum(z, 0) if activation == "relu" else 1 / (1 + np.exp(-z))
        values.append(z)
    return values


def accuracy(arrays: Arrays, activation: str, images: np.ndarray, labels: np.ndarray) -> float:
    """The share of images whose largest logit is that of their label."""
    return float((hidden(arrays, activation, images)[-1].argmax(1) == labels).mean())


def digest(arrays: Arrays) -> str:
    """SHA-256 of all weights and biases."""
    total = hashlib.sha256()
    for weight, bias in arrays:
        total.update(weight.tobytes())
        total.update(bias.tobytes())
    return total.hexdigest()


def look_once(
    name: str, arrays: Arrays, activation: str, path: str | None, ledger: Path = LEDGER
) -> dict:
    """{"test": accuracy, "looks": how many weights of this name were shown the test set}."""
    with command.reading(ledger, "looks by released name as JSON"):
        released = json.loads(ledger.read_text())
        looks = released.setdefault(name, [])
        known = [look["weights"] for look in looks]
    key = digest(arrays)
    if key not in known:
        figure = accuracy(arrays, activation, *mnist.load("test", path))
        looks.append({"weights": key, "test": figure})
        known.append(key)
        report.write(ledger, json.dumps(released, indent=1) + "\n")
    i = known.index(key)
    return {"test": looks[i]["test"], "looks": i + 1}


def validation_of_seeds(recipe: Recipe, out: Path) -> dict[int, float]:
    """{seed: validation accuracy} of the runs of this very recipe that came to their end."""
    from training import runs

    found = {}
    for folder in out.glob(f"{recipe.name}-*"):
        about = runs.finished(folder)
        if about is not None and not runs.difference(about, recipe, "seed"):
            found[about["seed"]] = runs.load(folder / "best.pt")["validation"]
    return found


def trained(recipe: Recipe, out: Path) -> tuple[Arrays, dict]:
    """The weights that a run left, and the other entries beside them."""
    from training import networks, runs

    best = runs.weights(recipe, out)
    network = networks.build(recipe)
    network.load_state_dict(best.pop("model"))
    return networks.dense_arrays(network), best


def model_file(name: str, arrays: Arrays, activation: str, metadata: dict) -> formats.ModelFile:
    """The file of a network for digits, without a calibration."""
    last = len(arrays) - 1
    layers = tuple(
        Dense(weight, bias, "softmax" if i == last else activation)
        for i, (weight, bias) in enumerate(arrays)
    )
    return formats.ModelFile(
        layers=layers, classes=np.arange(10), task="classify", scale=1 / 255, mean=0.0, std=1.0,
        metadata={"name": name, **metadata},
    )  # fmt: skip


def calibrated(file: formats.ModelFile, images: npt.NDArray[np.uint8]) -> formats.ModelFile:
    """The same with the ranges that its layers' inputs take over the images that were fitted."""
    found = calibrate(Model(**vars(file)), images)
    return dataclasses.replace(file, calibration=found)


def metadata(
    recipe: Recipe, arrays: Arrays, best: dict, digits: data.Digits, figure: dict
) -> dict[str, str]:
    """What the file says about itself; figures as decimal fractions.

    `arrays` and `best` are of the run that validation judged, `figure` of the weights released.
    """
    activation = recipe.activation
    validation = accuracy(arrays, activation, digits.validation_images, digits.validation_labels)
    return {
        "recipe": f"training.recipes: {recipe.name}",
        "seed": str(recipe.seed),
        "epoch": f"{best['epoch']} of {recipe.last}",
        "parameters": str(sum(weight.size + bias.size for weight, bias in arrays)),
        "validation_accuracy": f"{validation:.4f}",
        "test_accuracy": f"{figure['test']:.4f}",
        "test_looks": str(figure["looks"]),
        "licence": _LICENCE,
    }


def main(arguments: list[str] | None = None) -> None:
    parser = command.parser("export", "Release one of fastnn's networks.")
    command.add_name(parser, (n for n, r in RECIPES.items() if not r.is_teacher))
    parser.add_argument("--data", help="folder of the MNIST files (default: as fastnn.mnist.load)")
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--to", type=Path, required=True, help="folder of the released file")
    parser.add_argument("--as", dest="released", help="name of the file, if not the recipe's")
    parser.add_argument("--refit", action="store_true", help="release the weights of the refit")
    parser.add_argument("--npz", action="store_true", help="write W0, b0, ... as .npz instead")
    parser.add_argument(
        "--ledger", type=Path, default=LEDGER, help="of looks at the test set (another: for tests)"
    )
    chosen = parser.parse_args(arguments)
    recipe = RECIPES[chosen.name]
    seeds = validation_of_seeds(recipe, chosen.out)
    if not seeds:
        parser.error(f"{chosen.out} has no finished run of {recipe.name}, as it is in recipes.py")
    recipe = dataclasses.replace(recipe, seed=max(seeds, key=lambda seed: (seeds[seed], -seed)))
    digits = data.load(chosen.data)
    judged, best = arrays, last = trained(recipe, chosen.out)
    if chosen.refit:
        arrays, last = trained(dataclasses.replace(recipe, refit=True), chosen.out)
    name = chosen.released or recipe.name
    chosen.to.mkdir(parents=True, exist_ok=True)  # what can fail does so before the look
    figure = look_once(name, arrays, recipe.activation, chosen.data, chosen.ledger)
    about = metadata(recipe, judged, best, digits, figure)
    about["validation_by_seed"] = ", ".join(f"{s}: {seeds[s]:.4f}" for s in sorted(seeds))
    if chosen.refit:
        n_digits = len(digits.all()[0])
        about["refit"] = (
            f"{last['epoch']} epochs of all {n_digits:,} digits, from the start; epoch and "
            "validation are of the run without the digits that chose"
        )
    if last.get("device", "cpu") != "cpu":
        about["device"] = last["device"]
    if chosen.npz:
        named = {f"{letter}{i}": array for i, pair in enumerate(arrays)
                 for letter, array in zip("Wb", pair, strict=True)}  # fmt: skip
        np.savez(chosen.to / f"{name}.npz", **named)
    else:
        file = model_file(name, arrays, recipe.activation, about)
        path = chosen.to / f"{name}.safetensors"
        formats.write(path, calibrated(file, digits.fit_images))
    for key, value in about.items():
        print(f"{key}: {value}")


if __name__ == "__main__":
    command.run("export", main)
