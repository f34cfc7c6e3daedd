"""The digits that training may see.

Invariant: the 1,000 bundled sample digits are in none of the arrays returned here, and the test
split is not read by this module at all. The 59,000 training images that remain are split once,
by a fixed permutation, into 54,000 to fit and 5,000 to choose by.
"""

import os
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fastnn import mnist

N_VALIDATION = 5_000
_SPLIT_SEED = 20_100  # of the one permutation; never change it, or validation sees fitted digits


@dataclass(frozen=True)
class Digits:
    """Images, uint8 (n, 28, 28), and labels, uint8 (n,), to fit and to choose by."""

    fit_images: npt.NDArray[np.uint8]
    fit_labels: npt.NDArray[np.uint8]
    validation_images: npt.NDArray[np.uint8]
    validation_labels: npt.NDArray[np.uint8]

    def all(self) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
        """Images and labels of both, those to fit first."""
        return (
            np.concatenate([self.fit_images, self.validation_images]),
            np.concatenate([self.fit_labels, self.validation_labels]),
        )


def split_indices(n: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The rows to fit and the rows to choose by, out of `n`, each in ascending order."""
    order = np.random.Generator(np.random.PCG64(_SPLIT_SEED)).permutation(n)
    return np.sort(order[N_VALIDATION:]), np.sort(order[:N_VALIDATION])


def load(path: str | os.PathLike[str] | None = None) -> Digits:
    """The training split without the bundled sample, divided; errors as `fastnn.mnist.load`."""
    images, labels = mnist.without_sample(*mnist.load("train", path))
    fit, validation = split_indices(len(images))
    return Digits(images[fit], labels[fit], images[validation], labels[validation])
