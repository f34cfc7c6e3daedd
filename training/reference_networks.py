"""The two reference networks of the benchmarks: trained in minutes, not shipped.

    python -m training.reference_networks mid large --data DIR --out build/reference_networks

Speed depends on the weights: fastnn skips zeros, and how many there are between the layers is
what training decides. So the benchmarks measure trained networks; how well these classify matters
less, and they are trained quickly. Invariant: a run is seeded and fits what `training.data` gives
to fit, so neither the test images nor the bundled sample; the test images are looked at once, at
the end, for the figure in the file's metadata.
"""

import argparse
import math
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

import fastnn
from fastnn import mnist
from training import data

WIDTHS = {
    "mid": (784, 512, 512, 10),
    "large": (784, 2500, 2000, 1500, 1000, 500, 10),
}
_EPOCHS = {"mid": 12, "large": 5}
_BATCH = 200
_RATE = {"mid": 2e-3, "large": 7e-4}  # Adam's, at the top
_SHIFT = 1  # pixels, either way


def build(widths: tuple[int, ...]) -> nn.Sequential:
    """He-initialised dense layers with ReLU between; draws from PyTorch's global generator."""
    steps: list[nn.Module] = []
    for n_inputs, n_outputs in zip(widths, widths[1:], strict=False):
        linear = nn.Linear(n_inputs, n_outputs)
        nn.init.kaiming_normal_(linear.weight, nonlinearity="relu")
        nn.init.zeros_(linear.bias)
        steps += [linear, nn.ReLU()]
    return nn.Sequential(*steps[:-1])


def train(name: str, digits: data.Digits, seed: int = 1, epochs: int | None = None) -> fastnn.Model:
    """Train one of `WIDTHS`; its metadata hold recipe, seed and the validation accuracy."""
    epochs = _EPOCHS[name] if epochs is None else epochs
    torch.manual_seed(seed)
    network = build(WIDTHS[name])
    images = torch.from_numpy(digits.fit_images).float() / 255
    labels = torch.from_numpy(digits.fit_labels).long()
    steps_an_epoch = len(images) // _BATCH
    n_steps = epochs * steps_an_epoch
    optimiser = torch.optim.Adam(network.parameters(), lr=_RATE[name], fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: min(1, step / 100) * 0.5 * (1 + math.cos(math.pi * step / n_steps))
    )
    for epoch in range(epochs):
        start = time.perf_counter()
        order = torch.randperm(len(images))
        for i in range(steps_an_epoch):
            rows = order[i * _BATCH : (i + 1) * _BATCH]
            answer = network(_shifted(images[rows]).flatten(1))
            optimiser.zero_grad(set_to_none=True)
            functional.cross_entropy(answer, labels[rows]).backward()
            optimiser.step()
            schedule.step()
        accuracy = _accuracy(
            export(name, network), digits.validation_images, digits.validation_labels
        )
        print(
            f"{name}: epoch {epoch + 1}/{epochs}, validation {accuracy:.2%}, "
            f"{time.perf_counter() - start:.1f} s",
            file=sys.stderr,
            flush=True,
        )
    return export(
        name,
        network,
        {
            "recipe": f"training.reference_networks: {name}, {epochs} epochs",
            "seed": str(seed),
            "validation_accuracy": f"{accuracy:.4f}",
        },
    )


def export(name: str, network: nn.Sequential, metadata: dict[str, str] | None = None):
    """fastnn's model of it: ReLU, softmax at the end, pixels scaled by 1/255."""
    linears = [step for step in network if isinstance(step, nn.Linear)]
    layers = [
        fastnn.Dense(
            np.ascontiguousarray(linear.weight.detach().numpy().T),
            linear.bias.detach().numpy().copy(),
            "softmax" if linear is linears[-1] else "relu",
        )
        for linear in linears
    ]
    return fastnn.Model(
        layers,
        scale=1 / 255,
        classes=np.arange(10),
        task="classify",
        metadata={"name": name, **(metadata or {})},
    )


def _shifted(images: torch.Tensor) -> torch.Tensor:
    """float32 (n, 28, 28): each quarter of the batch moved by a draw of up to `_SHIFT` pixels."""
    pieces = []
    for piece in images.chunk(4):
        dy, dx = torch.randint(-_SHIFT, _SHIFT + 1, (2,)).tolist()
        # MNIST leaves the outermost pixels empty, so that what leaves on one side is nothing.
        pieces.append(piece.roll((dy, dx), (1, 2)))
    return torch.cat(pieces)


def _accuracy(model: fastnn.Model, images: np.ndarray, labels: np.ndarray) -> float:
    return float((model.predict(images.reshape(len(images), -1)) == labels).mean())


def main(arguments: list[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="Train the reference networks of the benchmarks.")
    parser.add_argument("names", nargs="+", choices=WIDTHS, metavar="mid|large")
    parser.add_argument("--data", help="folder of the MNIST files (default: as fastnn.mnist.load)")
    parser.add_argument("--out", type=Path, required=True, help="folder for NAME.safetensors")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--epochs", type=int, help="instead of the network's own number")
    parser.add_argument("--threads", type=int, default=1)
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(chosen.threads)
    digits = data.load(chosen.data)
    chosen.out.mkdir(parents=True, exist_ok=True)
    for name in chosen.names:
        model = train(name, digits, chosen.seed, chosen.epochs)
        figure = _accuracy(model, *mnist.load("test", chosen.data))
        metadata = {**model.metadata, "test_accuracy": f"{figure:.4f}"}
        model = fastnn.Model(
            model.layers,
            scale=model.scale,
            classes=model.classes_,
            task=model.task,
            metadata=metadata,
        )
        model.save(chosen.out / f"{name}.safetensors")
        print(", ".join(f"{key} {value}" for key, value in metadata.items()))


if __name__ == "__main__":
    main()
