"""Train one recipe: `python -m training.train mnist-small --data DIR --out DIR`.

Writes OUT/NAME/: checkpoint.pt (after each epoch; a run that finds it goes on from there),
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

import numpy as np
import torch
from torch.nn import functional

from training import augment, data, networks
from training.recipes import RECIPES, Recipe

_PIECE = 2_000  # images distorted at a time
_ANSWERED = 200  # images answered at a time: their hidden layers stay in the caches


def _generator(*seeds: int) -> torch.Generator:
    words = np.random.SeedSequence(seeds).generate_state(2)
    return torch.Generator().manual_seed(int(words[0]) << 16 ^ int(words[1]))


def pixels(images: np.ndarray) -> torch.Tensor:
    """uint8 (n, 28, 28) -> float32 (n, 1, 28, 28) in [0, 1]."""
    return torch.from_numpy(images).unsqueeze(1).float() / 255


def distorted(images: torch.Tensor, recipe: Recipe, generator: torch.Generator) -> torch.Tensor:
    """A copy of the images, distorted as the recipe says."""
    if recipe.augmentation is None:
        return images
    pieces = images.split(_PIECE)
    return torch.cat([augment.distort(p, recipe.augmentation, generator) for p in pieces])


def arithmetic(recipe: Recipe) -> torch.autocast:
    """bfloat16 products for convolutions where the CPU has them, float32 for the rest.

    They take half the time of float32; emulated, they take three times as long. Weights, their
    averages and the loss stay float32 (Micikevicius et al. 2018).
    """
    is_native = torch.cpu._is_avx512_bf16_supported()
    return torch.autocast("cpu", torch.bfloat16, enabled=bool(recipe.n_conv) and is_native)


def logits(network: torch.nn.Module, images: torch.Tensor, recipe: Recipe) -> torch.Tensor:
    """The network's answers in evaluation mode, float32 (n, 10)."""
    network.eval()
    with torch.inference_mode(), arithmetic(recipe):
        return torch.cat([network(piece).float() for piece in images.split(_ANSWERED)])


class _Teachers:
    """The ensemble's mean log-probabilities on numbered distorted copies, kept on disk."""

    def __init__(self, recipe: Recipe, out: Path) -> None:
        self._networks = []
        for name in recipe.teachers:
            file = out / name / "best.pt"
            if not file.is_file():
                sys.exit(f"{recipe.name} learns from {name}: train that first ({file} is missing)")
            network = networks.build(RECIPES[name])
            network.load_state_dict(torch.load(file, weights_only=True)["model"])
            self._networks.append((network, RECIPES[name]))
        # Recipes with the same distortion and teachers share the answers.
        key = repr((recipe.teachers, recipe.augmentation))
        tag = np.frombuffer(key.encode(), np.uint8).astype(np.uint64)
        weights = np.arange(1, len(tag) + 1, dtype=np.uint64)
        self._folder = out / f"answers-{int((tag * weights).sum()):x}"
        self._folder.mkdir(exist_ok=True)

    def answer(self, copy_number: int, images: torch.Tensor) -> torch.Tensor:
        file = self._folder / f"{copy_number}.npy"
        if file.is_file():
            return torch.from_numpy(np.load(file, allow_pickle=False)).float()
        mean = sum(logits(net, images, how).log_softmax(1) for net, how in self._networks)
        mean = (mean / len(self._networks)).half()
        part = file.with_suffix(".part.npy")
        np.save(part, mean.numpy())
        os.replace(part, file)
        return mean.float()


def _loss(recipe: Recipe, out: torch.Tensor, labels: torch.Tensor, soft: torch.Tensor | None):
    if soft is None:
        return functional.cross_entropy(out, labels)
    t = recipe.temperature
    taught = functional.kl_div(
        (out / t).log_softmax(1), (soft / t).log_softmax(1), reduction="batchmean", log_target=True
    )
    hard = functional.cross_entropy(out, labels)
    return recipe.teacher_share * t * t * taught + (1 - recipe.teacher_share) * hard


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
    folder = out / recipe.name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "recipe.json").write_text(json.dumps(dataclasses.asdict(recipe), indent=1))
    images, labels = pixels(digits.fit_images), torch.from_numpy(digits.fit_labels).long()
    held, truth = pixels(digits.validation_images), torch.from_numpy(digits.validation_labels)
    teachers = _Teachers(recipe, out) if recipe.teachers else None

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
        print(f"{recipe.name}: going on after epoch {first}", file=sys.stderr)

    for epoch in range(first, recipe.epochs):
        start = time.perf_counter()
        soft = None
        if epoch >= recipe.epochs - recipe.plain_epochs:
            shown = images
            if teachers:
                soft = teachers.answer(-1, shown)
        elif teachers:
            number = epoch % recipe.teacher_copies
            shown = distorted(images, recipe, _generator(0, number))  # the same for every student
            soft = teachers.answer(number, shown)
        else:
            shown = distorted(images, recipe, _generator(recipe.seed, epoch))
        torch.manual_seed(recipe.seed * 100_003 + epoch)  # dropout
        order = torch.randperm(len(images), generator=_generator(recipe.seed, epoch, 1))
        network.train()
        total = torch.zeros(())
        n_batches = len(images) // recipe.batch
        for rows in order[: n_batches * recipe.batch].split(recipe.batch):
            with arithmetic(recipe):
                out_rows = network(shown[rows]).float()
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
            f"{recipe.name}: epoch {row[0]}/{recipe.epochs}, loss {row[1]}, "
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
