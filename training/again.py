"""Does a recipe give again what was released? `python -m training.again mnist-tiny --out RUNS`.

Trains the recipe from scratch with a seed that no released network had, and holds its validation
accuracy against the spread over the seeds that the released file states. A run that was interrupted
goes on; one that came to its end is not judged twice. Invariant: the test set is not read; one more
seed is expected within `Spread`'s interval 19 times of 20, so a recipe that was not what it says it
was is found out, and an unlucky seed costs a second run.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from itertools import count
from pathlib import Path
from typing import NamedTuple

import fastnn
from fastnn.cli.output import percent
from training import command, data
from training.recipes import RECIPES

# Student's t for 95 %, both sides, by degrees of freedom.
_T = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}


class Spread(NamedTuple):
    """Of validation accuracies, one a seed."""

    mean: float
    deviation: float
    """The sample's standard deviation."""
    low: float
    high: float
    """The 95 % prediction interval of one more: mean +- t * deviation * sqrt(1 + 1/n)."""


def stated(metadata: Mapping[str, str]) -> dict[int, float]:
    """{seed: validation accuracy} in a file's metadata, as `training.export` wrote it."""
    pairs = [pair.split(":") for pair in metadata.get("validation_by_seed", "").split(",") if pair]
    return {int(seed): float(accuracy) for seed, accuracy in pairs}


def spread(accuracies: Mapping[int, float]) -> Spread:
    """ValueError for fewer than two seeds."""
    values = list(accuracies.values())
    n = len(values)
    if n < 2:
        raise ValueError(f"a spread takes two seeds or more, and there is {n}")
    mean = sum(values) / n
    deviation = math.sqrt(sum((value - mean) ** 2 for value in values) / (n - 1))
    reach = _T.get(n - 1, 1.96) * deviation * math.sqrt(1 + 1 / n)
    return Spread(mean, deviation, mean - reach, mean + reach)


def told(found: Spread) -> str:
    """ "mean 98.05 %, standard deviation 0.03 points; one more seed is expected within ..."."""
    return (
        f"mean {percent(found.mean)}, standard deviation {100 * found.deviation:.2f} points; one "
        f"more seed is expected within {percent(found.low)} to {percent(found.high)} (95 %)"
    )


def main(arguments: list[str] | None = None) -> int:
    parser = command.parser("again", "Train a recipe again, and compare.")
    command.add_name(parser, (n for n, r in RECIPES.items() if not r.is_teacher))
    parser.add_argument("--data", help="folder of the MNIST files (default: as fastnn.mnist.load)")
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs")
    parser.add_argument(
        "--seed", type=command.at_least(0), help="default: the first that is not stated"
    )
    chosen = parser.parse_args(arguments)
    if chosen.name not in fastnn.models():
        parser.error(f"{chosen.name} does not ship: {', '.join(fastnn.models())} do")
    seeds = stated(fastnn.load(chosen.name).metadata)
    try:
        expected = spread(seeds)
    except ValueError as error:
        parser.error(f"{chosen.name}: {error}")
    seed = chosen.seed if chosen.seed is not None else max(seeds) + 1
    recipe = dataclasses.replace(RECIPES[chosen.name], seed=seed)

    import torch

    from training import runs
    from training.train import train

    run = chosen.out / recipe.run
    if runs.finished(run) is not None:
        later = (dataclasses.replace(recipe, seed=other) for other in count(seed + 1))
        free = next(other.seed for other in later if not (chosen.out / other.run).exists())
        parser.error(
            f"{run} has come to its end, and this is to begin from scratch: take another seed "
            f'(--seed {free}, or make retrain ARGS="--seed {free}"), or remove {run}'
        )
    torch.set_num_threads(1)
    accuracy = train(recipe, data.load(chosen.data), chosen.out)
    is_within = expected.low <= accuracy <= expected.high
    print(f"{chosen.name}, seeds {', '.join(map(str, sorted(seeds)))}: {told(expected)}")
    print(f"seed {seed}: {percent(accuracy)}, {'within' if is_within else 'OUTSIDE'}")
    return 0 if is_within else 1


if __name__ == "__main__":
    command.run("again", main)
