"""Distorted copies of the training digits with what the teachers say of them, kept on disk.

Invariant: copy `number` of a distortion is the same for every student, whatever its seed: students
of one distortion and the same teachers share the copies, which cost more than training a small
student does. Images are uint8, rounded, as a network sees them in use; answers are the mean of
the teachers' log-probabilities, float16. Copy 0 is the digits as they are.
"""

import hashlib
import os
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from training import augment, networks
from training.arithmetic import generator, logits
from training.recipes import RECIPES, Recipe


class Copies:
    """The copies for a recipe that has teachers; made when first asked for."""

    def __init__(self, recipe: Recipe, images: torch.Tensor, out: Path) -> None:
        """`images`: uint8 (n, 28, 28), on the device that makes the copies and gets them."""
        self._recipe, self._images, self._teachers = recipe, images, []
        self._networks: list[torch.nn.Module] = []  # of the teachers, once one is asked
        for name in recipe.teachers:
            file = out / RECIPES[name].run / "best.pt"
            if not file.is_file():
                sys.exit(f"{recipe.name} learns from {name}: train that first ({file} is missing)")
            self._teachers.append((name, file))
        key = hashlib.sha256(images.cpu().numpy().tobytes())
        key.update(repr((recipe.teachers, recipe.augmentation)).encode())
        if images.device.type != "cpu":  # which draws other copies
            key.update(images.device.type.encode())
        self._folder = out / f"copies-{key.hexdigest()[:12]}"
        self._folder.mkdir(parents=True, exist_ok=True)

    def get(self, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The images, uint8 (n, 28, 28), and the answers, float32 (n, 10), of a copy."""
        files = [self._folder / f"{number}-{what}.npy" for what in ("images", "answers")]
        if not all(file.is_file() for file in files):
            for file, array in zip(files, self._make(number), strict=True):
                part = file.with_suffix(f".{os.getpid()}.part")  # others may be at it too
                with open(part, "wb") as target:
                    np.save(target, array)
                os.replace(part, file)
        images, answers = (
            torch.from_numpy(np.load(file, allow_pickle=False)).to(self._images.device)
            for file in files
        )
        return images, answers.float()

    def _make(self, number: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float16]]:
        images, bounds = self._images, self._recipe.augmentation
        device = images.device
        if number and bounds is not None:
            draws = generator(0, number, device=device)
            shown = augment.distorted(images, bounds, draws).squeeze(1)
            images = (shown * 255).round().clamp(0, 255).byte()
        answers: torch.Tensor | float = 0.0
        if not self._networks:
            for name, file in self._teachers:
                teacher = networks.build(RECIPES[name])
                teacher.load_state_dict(torch.load(file, weights_only=True)["model"])
                self._networks.append(teacher.to(device))
        for (name, _), teacher in zip(self._teachers, self._networks, strict=True):
            answers = answers + logits(teacher, images, RECIPES[name]).log_softmax(1)
        return images.cpu().numpy(), (answers / len(self._teachers)).half().cpu().numpy()
