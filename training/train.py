"""Train one recipe: `python -m training.train mnist-small --data DIR --out DIR`.

Writes OUT/NAME-SEED/: checkpoint.pt (after each epoch; a run that finds it goes on from there),
best.pt (the weights that validation chose), curves.csv, recipe.json. Invariant: the test split
is never read; every random draw follows from the recipe's seed and the epoch, so an interrupted
run ends where an uninterrupted one would.
"""

import argparse
import copy
import csv
import dataclasses
import json
import math
import os
import sys
import time
from pathlib import Path

import torch
from torch.nn import functional

from training import augment, data, networks
from training.arithmetic import generator, logits, pixels, precision
from training.copies import Copies
from training.recipes import RECIPES, Recipe


def _loss(recipe: Recipe, out: torch.Tensor, labels: torch.Tensor, soft: torch.Tensor | None):
    if soft is None:
        return functional.cross_entropy(out, labels)
    t = recipe.temperature
    taught = functional.kl_div(
        (out / t).log_softmax(1), (soft / t).log_softmax(1), reduction="batchmean", log_target=True
    )
    hard = functional.cross_entropy(out, labels)
    return recipe.teacher_share * t * t * taught + (1 - recipe.teacher_share) * hard


def _jittered(images: torch.Tensor, recipe: Recipe) -> torch.Tensor:
    """Each quarter of a batch moved by a draw of up to `recipe.jitter` pixels.

    The teachers' answers stay those of the unmoved images, which is what they would say: they
    learnt from images moved further. MNIST leaves the outermost pixels empty.
    """
    if not recipe.jitter:
        return images
    pieces = []
    for piece in images.chunk(4):
        dy, dx = torch.randint(-recipe.jitter, recipe.jitter + 1, (2,)).tolist()
        pieces.append(piece.roll((dy, dx), (2, 3)))
    return torch.cat(pieces)


@torch.no_grad()
def _average(averaged: torch.nn.Module, network: torch.nn.Module, decay: float) -> None:
    for kept, new in zip(
        averaged.state_dict().values(), network.state_dict().values(), strict=True
    ):
        if kept.is_floating_point():
            kept.lerp_(new, 1 - decay)
        else:
            kept.copy_(new)


def _save(state: dict, file: Path) -> None:
    part = file.with_suffix(".part")
    torch.save(state, part)
    os.replace(part, file)


def train(recipe: Recipe, digits: data.Digits, out: Path) -> float:
    """Train (or go on training) a recipe; returns the best validation accuracy."""
    folder = out / recipe.run
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "recipe.json").write_text(json.dumps(dataclasses.asdict(recipe), indent=1))
    images, labels = digits.fit_images, torch.from_numpy(digits.fit_labels).long()
    held, truth = digits.validation_images, torch.from_numpy(digits.validation_labels)
    copies = Copies(recipe, images, out) if recipe.teachers else None

    torch.manual_seed(recipe.seed)
    network = networks.build(recipe)
    averaged = copy.deepcopy(network)
    optimiser = torch.optim.AdamW(
        network.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay
    )
    n_steps = recipe.epochs * (len(images) // recipe.batch)

    def rate(step: int) -> float:  # two epochs up, then half a cosine down
        warm = 2 * n_steps / recipe.epochs
        return min(1.0, (step + 1) / warm) * 0.5 * (1 + math.cos(math.pi * step / n_steps))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, rate)
    first, best = 0, -1.0
    checkpoint = folder / "checkpoint.pt"
    if checkpoint.is_file():
        state = torch.load(checkpoint, weights_only=True)
        for part, name in ((network, "model"), (averaged, "averaged"), (optimiser, "optimiser"),
                           (schedule, "schedule")):  # fmt: skip
            part.load_state_dict(state[name])
        first, best = state["epoch"], state["best"]
        print(f"{recipe.run}: going on after epoch {first}", file=sys.stderr)

    for epoch in range(first, recipe.epochs):
        start = time.perf_counter()
        is_plain = epoch >= recipe.epochs - recipe.plain_epochs
        soft = None
        if copies:
            number = 0 if is_plain else 1 + (epoch + recipe.seed) % recipe.copies
            shown, soft = copies.get(number)
            seen = pixels(shown)
        elif is_plain or recipe.augmentation is None:
            seen = pixels(images)
        else:
            random = generator(recipe.seed, epoch)
            seen = augment.distorted(images, recipe.augmentation, random)
        torch.manual_seed(recipe.seed * 100_003 + epoch)  # dropout
        order = torch.randperm(len(images), generator=generator(recipe.seed, epoch, 1))
        network.train()
        total = torch.zeros(())
        n_batches = len(images) // recipe.batch
        for rows in order[: n_batches * recipe.batch].split(recipe.batch):
            with precision(recipe):
                out_rows = network(_jittered(seen[rows], recipe)).float()
            loss = _loss(recipe, out_rows, labels[rows], None if soft is None else soft[rows])
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            schedule.step()
            # A young average would be mostly the random start.
            done = schedule.last_epoch
            _average(averaged, network, min(recipe.average, (done + 1) / (done + 10)))
            total += loss.detach()
        accuracy = (logits(averaged, held, recipe).argmax(1) == truth).float().mean().item()
        if accuracy >= best:  # of equals the later: its rate is lower
            best = accuracy
            _save({"model": averaged.state_dict(), "epoch": epoch + 1, "validation": accuracy},
                  folder / "best.pt")  # fmt: skip
        _save(
            {"model": network.state_dict(), "averaged": averaged.state_dict(),
             "optimiser": optimiser.state_dict(), "schedule": schedule.state_dict(),
             "epoch": epoch + 1, "best": best},
            checkpoint,
        )  # fmt: skip
        seconds = time.perf_counter() - start
        row = [epoch + 1, f"{total.item() / n_batches:.5f}", f"{accuracy:.4f}", f"{seconds:.1f}"]
        with open(folder / "curves.csv", "a", newline="") as file:
            writer = csv.writer(file)
            if epoch == 0:
                writer.writerow(["epoch", "loss", "validation", "seconds"])
            writer.writerow(row)
        print(
            f"{recipe.run}: epoch {row[0]}/{recipe.epochs}, loss {row[1]}, "
            f"validation {accuracy:.2%} (best {best:.2%}), {row[3]} s",
            file=sys.stderr,
            flush=True,
        )
    return best


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Train one of fastnn's networks.")
    parser.add_argument("name", choices=RECIPES)
    parser.add_argument("--data", help="folder of the MNIST files (default: as fastnn.mnist.load)")
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--seed", type=int, help="instead of the recipe's")
    parser.add_argument("--epochs", type=int, help="instead of the recipe's")
    parser.add_argument("--threads", type=int, default=1)
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(chosen.threads)
    recipe = RECIPES[chosen.name]
    if chosen.seed is not None:
        recipe = dataclasses.replace(recipe, seed=chosen.seed)
    if chosen.epochs is not None:
        recipe = dataclasses.replace(recipe, epochs=chosen.epochs)
    train(recipe, data.load(chosen.data), chosen.out)


if __name__ == "__main__":
    main()
