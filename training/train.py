"""Train one recipe: `python -m training.train mnist-small --data DIR --out DIR`.

Writes OUT/NAME-SEED/: checkpoint.pt (every half minute; a run that finds it goes on from there),
best.pt (the weights that validation chose), curves.csv, recipe.json. With --refit, NAME-SEED-refit,
which validation can say nothing of: best.pt has the last weights. Invariant: the test split is
never read; every random draw follows from the recipe's seed and the epoch, so on a CPU a run that
was interrupted ends where another would. A run stays with the recipe, but for where it stops, and
on the kind of device that it began with.
"""

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

from fastnn.bench import report
from training import augment, command, data, networks, runs
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


class _Average:
    """A running average of a network's weights and of its batch norms' statistics."""

    def __init__(self, network: torch.nn.Module, averaged: torch.nn.Module) -> None:
        values = zip(network.state_dict().values(), averaged.state_dict().values(), strict=True)
        pairs = [(new, kept) for new, kept in values if kept.is_floating_point()]
        self._new, self._kept = ([pair[i] for pair in pairs] for i in (0, 1))

    @torch.no_grad()
    def step(self, decay: float) -> None:
        torch._foreach_lerp_(self._kept, self._new, 1 - decay)


def _save(state: dict, file: Path) -> None:
    part = file.with_suffix(".part")
    torch.save(state, part)
    os.replace(part, file)


_HEADER = b"epoch,loss,validation,seconds\r\n"


def _cut(curves: Path, n_epochs: int) -> None:
    """The header and the rows of the first epochs alone: those after the checkpoint come again."""
    lines = curves.read_bytes().splitlines(keepends=True) if curves.is_file() else []
    part = curves.with_suffix(".part")
    part.write_bytes(b"".join([_HEADER, *lines[1 : 1 + n_epochs]]))
    os.replace(part, curves)


def train(
    recipe: Recipe,
    digits: data.Digits,
    out: Path,
    device: torch.device | str = "cpu",
    checkpoint_seconds: float = 30.0,
) -> float:
    """Train (or go on training) a recipe; returns the best accuracy on the digits to choose by.

    Those are fitted as well in a refit, of which it says nothing.
    """
    folder = out / recipe.run
    checkpoint, curves = folder / "checkpoint.pt", folder / "curves.csv"
    if checkpoint.is_file() and (other := runs.difference(runs.made_by(folder), recipe, "stop")):
        sys.exit(f"{folder} has {other}: to begin again, remove it or choose another --out")
    folder.mkdir(parents=True, exist_ok=True)
    report.write(folder / "recipe.json", json.dumps(dataclasses.asdict(recipe), indent=1))
    device = torch.device(device)
    everything, all_labels = digits.all()
    n_fit = len(everything) if recipe.refit else len(digits.fit_images)
    everything, labels, held, truth = (
        torch.as_tensor(array, device=device)
        for array in (everything, all_labels[:n_fit].astype(np.int64),
                      digits.validation_images, digits.validation_labels)
    )  # fmt: skip
    images = everything[:n_fit]
    # Of all digits: those of a refit are the others' with more behind them.
    copies = Copies(recipe, everything, out) if recipe.teachers else None

    torch.manual_seed(recipe.seed)
    network = networks.build(recipe).to(device)
    averaged = copy.deepcopy(network)
    average = _Average(network, averaged)
    optimiser = torch.optim.AdamW(
        network.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay,
        fused=device.type == "cuda",
    )  # fmt: skip
    n_steps = recipe.epochs * (len(images) // recipe.batch)

    def rate(step: int) -> float:  # two epochs up, then half a cosine down
        warm = 2 * n_steps / recipe.epochs
        return min(1.0, (step + 1) / warm) * 0.5 * (1 + math.cos(math.pi * step / n_steps))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, rate)
    first, best = 0, -1.0
    if checkpoint.is_file():
        state = runs.load(checkpoint, device)
        if state.get("device", "cpu") != device.type:
            sys.exit(f"{checkpoint} was begun on {state.get('device', 'cpu')}, not {device.type}")
        for part, name in ((network, "model"), (averaged, "averaged"), (optimiser, "optimiser"),
                           (schedule, "schedule")):  # fmt: skip
            part.load_state_dict(state[name])
        first, best = state["epoch"], state["best"]
        print(f"{recipe.run}: going on after epoch {first}", file=sys.stderr)

    _cut(curves, first)
    saved = time.perf_counter()
    for epoch in range(first, recipe.last):
        start = time.perf_counter()
        is_plain = epoch >= recipe.epochs - recipe.plain_epochs
        soft = None
        if copies:
            number = 0 if is_plain else 1 + (epoch + recipe.seed) % recipe.copies
            shown, soft = (each[:n_fit] for each in copies.get(number))
            if recipe.wobble is None or is_plain:
                seen = pixels(shown)
            else:
                draws = generator(recipe.seed, epoch, 2, device=device)
                seen = augment.distorted(shown, recipe.wobble, draws)
        elif is_plain or recipe.augmentation is None:
            seen = pixels(images)
        else:
            draws = generator(recipe.seed, epoch, device=device)
            seen = augment.distorted(images, recipe.augmentation, draws)
        torch.manual_seed(recipe.seed * 100_003 + epoch)  # dropout
        order = torch.randperm(len(images), generator=generator(recipe.seed, epoch, 1))
        order = order.to(device)
        network.train()
        total = torch.zeros((), device=device)
        n_batches = len(images) // recipe.batch
        for rows in order[: n_batches * recipe.batch].split(recipe.batch):
            with precision(recipe, device):
                out_rows = network(_jittered(seen[rows], recipe)).float()
            loss = _loss(recipe, out_rows, labels[rows], None if soft is None else soft[rows])
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            schedule.step()
            # A young average would be mostly the random start.
            done = schedule.last_epoch
            average.step(min(recipe.average, (done + 1) / (done + 10)))
            total += loss.detach()
        accuracy = (logits(averaged, held, recipe).argmax(1) == truth).float().mean().item()
        # Of equals the later: its rate is lower. Digits that were fitted choose nothing.
        if recipe.refit or accuracy >= best:
            best = accuracy
            model = {key: value.cpu() for key, value in averaged.state_dict().items()}
            chosen = {"model": model, "epoch": epoch + 1, "validation": accuracy}
            _save({**chosen, "device": device.type}, folder / "best.pt")
        seconds = time.perf_counter() - start
        row = [epoch + 1, f"{total.item() / n_batches:.5f}", f"{accuracy:.4f}", f"{seconds:.1f}"]
        with open(curves, "a", newline="") as file:
            csv.writer(file).writerow(row)
        print(
            f"{recipe.run}: epoch {row[0]}/{recipe.last}, loss {row[1]}, "
            f"validation {accuracy:.2%} (best {best:.2%}), {row[3]} s",
            file=sys.stderr,
            flush=True,
        )
        now, is_last = time.perf_counter(), epoch + 1 == recipe.last
        if is_last or now - saved >= checkpoint_seconds:
            _save(
                {"model": network.state_dict(), "averaged": averaged.state_dict(),
                 "optimiser": optimiser.state_dict(), "schedule": schedule.state_dict(),
                 "epoch": epoch + 1, "best": best, "device": device.type},
                checkpoint,
            )  # fmt: skip
            saved = now
    return best


def main(arguments: list[str] | None = None) -> None:
    parser = command.parser("train", "Train one of fastnn's networks.")
    command.add_name(parser, RECIPES)
    parser.add_argument("--data", help="folder of the MNIST files (default: as fastnn.mnist.load)")
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--seed", type=command.at_least(0), help="instead of the recipe's")
    parser.add_argument(
        "--epochs",
        type=command.at_least(1),
        help="instead of the recipe's: of a schedule that is gone through to its end",
    )
    parser.add_argument(
        "--refit",
        action="store_true",
        help="fit the digits that chose the recipe as well, to the last epoch",
    )
    parser.add_argument(
        "--threads",
        type=command.at_least(1),
        default=1,
        help="of the CPU; another number adds in another order, so weights differ (default: 1)",
    )
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    chosen = parser.parse_args(arguments)
    if chosen.device == "cuda" and not torch.cuda.is_available():
        parser.error("argument --device: cuda, and PyTorch finds no GPU here; wanted cpu")
    torch.set_num_threads(chosen.threads)
    if chosen.device == "cuda":
        torch.set_float32_matmul_precision("high")  # factors rounded to 10 bits
    recipe = RECIPES[chosen.name]
    if chosen.seed is not None:
        recipe = dataclasses.replace(recipe, seed=chosen.seed)
    if chosen.epochs is not None:
        recipe = dataclasses.replace(recipe, epochs=chosen.epochs, stop=0)
    recipe = dataclasses.replace(recipe, refit=chosen.refit)
    train(recipe, data.load(chosen.data), chosen.out, chosen.device)


if __name__ == "__main__":
    command.run("train", main)
