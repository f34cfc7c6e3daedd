"""What training and distilling have in common: seeds, pixels, a network's answers.

Invariant: every random draw is from a generator that its seeds name.
"""

import numpy as np
import numpy.typing as npt
import torch

from training.recipes import Recipe

_ANSWERED = 200  # images answered at a time: their hidden layers stay in the caches


def generator(*seeds: int) -> torch.Generator:
    """A generator for these seeds, and no others."""
    words = np.random.SeedSequence(seeds).generate_state(2)
    return torch.Generator().manual_seed(int(words[0]) << 16 ^ int(words[1]))


def pixels(images: npt.NDArray[np.uint8]) -> torch.Tensor:
    """uint8 (n, 28, 28) -> float32 (n, 1, 28, 28) in [0, 1]."""
    return torch.from_numpy(images).unsqueeze(1).float() / 255


def precision(recipe: Recipe) -> torch.autocast:
    """bfloat16 products for convolutions where the CPU has them, float32 for the rest.

    They take half the time of float32; emulated, they take three times as long. Weights, their
    averages and the loss stay float32 (Micikevicius et al. 2018).
    """
    is_native = torch.cpu._is_avx512_bf16_supported()
    return torch.autocast("cpu", torch.bfloat16, enabled=bool(recipe.n_conv) and is_native)


def logits(network: torch.nn.Module, images: npt.NDArray[np.uint8], recipe: Recipe) -> torch.Tensor:
    """The network's answers to uint8 images in evaluation mode, float32 (n, 10)."""
    network.eval()
    with torch.inference_mode(), precision(recipe):
        pieces = range(0, len(images), _ANSWERED)
        return torch.cat([network(pixels(images[i : i + _ANSWERED])).float() for i in pieces])
