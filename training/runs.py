"""What a run leaves behind, for those that come after it: students of a teacher, and a release.

Invariant: nothing is taken of a run that has not come to its end, or that another recipe of the
same name made.
"""

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import torch

from training import command
from training.recipes import Recipe


def load(file: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """What `training.train` saved, on `device`; ValueError if that is damaged."""
    with command.reading(file, "what training.train saves"):
        return torch.load(file, weights_only=True, map_location=device)


def made_by(folder: Path) -> dict[str, Any]:
    """The fields of the recipe of the run in `folder`; ValueError if they are damaged."""
    file = folder / "recipe.json"
    with command.reading(file, "a recipe as JSON"):
        found = json.loads(file.read_text())
        if missing := {"name", "seed", "epochs"} - found.keys():
            raise ValueError(f"no {', '.join(sorted(missing))}")
        return found


def finished(folder: Path) -> dict[str, Any] | None:
    """The fields of the recipe of the run in `folder`; None if it has not come to its end."""
    files = ("recipe.json", "checkpoint.pt", "best.pt")
    if not all((folder / name).is_file() for name in files):
        return None
    recipe, done = made_by(folder), load(folder / "checkpoint.pt")["epoch"]
    return recipe if done >= (recipe.get("stop") or recipe["epochs"]) else None


def difference(found: dict[str, Any], recipe: Recipe, but: str = "") -> str:
    """ "epochs 3, the recipe 4": where a run's recipe is another, other than in `but`; or ""."""
    wanted = json.loads(json.dumps(dataclasses.asdict(recipe)))
    for name, value in wanted.items():
        if name != but and found.get(name, value) != value:  # a run may be older than a field
            return f"{name} {found[name]}, the recipe {value}"
    return ""


def weights(recipe: Recipe, out: Path) -> dict[str, Any]:
    """What `training.train` left in best.pt of this very recipe; SystemExit if it did not."""
    found = finished(out / recipe.run)
    if found is None:
        seed = f"--seed {recipe.seed}{' --refit' if recipe.refit else ''}"
        sys.exit(
            f"{out / recipe.run} has no run that came to its end: "
            f"python -m training.train {recipe.name} {seed} --out {out}"
        )
    if other := difference(found, recipe):
        sys.exit(f"{out / recipe.run} has {other}")
    best = load(out / recipe.run / "best.pt")
    if best["epoch"] > recipe.last:  # it went on before the recipe had an end so early
        sys.exit(f"{out / recipe.run} is of epoch {best['epoch']}, the recipe has {recipe.last}")
    return best
