"""Distorted copies of the training digits with what the teachers say of them, kept on disk.

Invariant: copy `number` of a distortion is the same for every student, whatever its seed and its
teachers, and a teacher is asked about it once: that costs more than training a small student does.
What is kept of a teacher has a name of its weights, so that another of its name is asked anew.
Images are uint8, rounded, as a network sees them in use; a teacher's answers are its
log-probabilities, float16, a student's the mean of its teachers'. Copy 0 is the digits as they are.
"""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from training import augment, networks, runs
from training.arithmetic import generator, logits
from training.recipes import RECIPES, Recipe


class Copies:
    """The copies for a recipe that has teachers; made when first asked for."""

    def __init__(self, recipe: Recipe, images: torch.Tensor, out: Path) -> None:
        """`images`: uint8 (n, 28, 28), on the device that makes the copies and gets them."""
        self._images, self._bounds = images, recipe.augmentation
        self._teachers: dict[str, tuple[Recipe, torch.nn.Module]] = {}
        for teacher in (RECIPES[name] for name in recipe.teachers):
            network = networks.build(teacher)
            network.load_state_dict(runs.weights(teacher, out)["model"])
            made = hashlib.sha256((out / teacher.run / "best.pt").read_bytes()).hexdigest()
            self._teachers[f"{teacher.run}-{made[:8]}"] = teacher, network.to(images.device)
        key = hashlib.sha256(images.cpu().numpy().tobytes())
        key.update(repr(recipe.augmentation).encode())
        if images.device.type != "cpu":  # which draws other copies
            key.update(images.device.type.encode())
        self._folder = out / f"copies-{key.hexdigest()[:12]}"
        self._folder.mkdir(parents=True, exist_ok=True)

    def get(self, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The images, uint8 (n, 28, 28), and the answers, float32 (n, 10), of a copy."""
        images = self._kept(f"{number}-images", lambda: self._copy(number))
        answers = [
            self._kept(f"{number}-{name}", lambda name=name: self._ask(name, images)).float()
            for name in self._teachers
        ]
        return images, torch.stack(answers).mean(0)

    def _kept(self, name: str, make: Callable[[], torch.Tensor]) -> torch.Tensor:
        file = self._folder / f"{name}.npy"
        if not file.is_file():
            part = file.with_suffix(f".{os.getpid()}.part")  # others may be at it too
            with open(part, "wb") as target:
                np.save(target, make().cpu().numpy())
            os.replace(part, file)
        return torch.from_numpy(np.load(file, allow_pickle=False)).to(self._images.device)

    def _copy(self, number: int) -> torch.Tensor:
        if number == 0 or self._bounds is None:
            return self._images
        draws = generator(0, number, device=self._images.device)
        shown = augment.distorted(self._images, self._bounds, draws).squeeze(1)
        return (shown * 255).round().clamp(0, 255).byte()

    def _ask(self, name: str, images: torch.Tensor) -> torch.Tensor:
        teacher, network = self._teachers[name]
        return logits(network, images, teacher).log_softmax(1).half()
