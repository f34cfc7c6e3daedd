"""What training and distilling have in common: seeds, pixels, a network's answers.

Invariant: every random draw is from a generator that its seeds name, and work is done on the device
of the tensors that come in. A CPU and a GPU draw different numbers from the same seeds.
"""

import numpy as np
import numpy.typing as npt
import torch

from training.recipes import Recipe

_CPU = torch.device("cpu")
# Images answered at a time: on a CPU their hidden layers stay in the caches, a GPU wants work.
_ANSWERED = {"cpu": 200, "cuda": 2_000}


def generator(*seeds: int, device: torch.device = _CPU) -> torch.Generator:
    """A generator for these seeds, and no others."""
    words = np.random.SeedSequence(seeds).generate_state(2)
    return torch.Generator(device).manual_seed(int(words[0]) << 16 ^ int(words[1]))


def pixels(images: npt.NDArray[np.uint8] | torch.Tensor) -> torch.Tensor:
    """uint8 (n, 28, 28) -> float32 (n, 1, 28, 28) in [0, 1]."""
    return torch.as_tensor(images).unsqueeze(1).float() / 255


def precision(recipe: Recipe, device: torch.device) -> torch.autocast:
    """bfloat16 products for convolutions where the device has them, float32 for the rest.

    They take half the time of float32; emulated, they take three times as long. Weights, their
    averages and the loss stay float32 (Micikevicius et al. 2018).
    """
    is_native = device.type == "cuda" or torch.cpu._is_avx512_bf16_supported()
    return torch.autocast(device.type, torch.bfloat16, enabled=recipe.is_teacher and is_native)


def logits(
    network: torch.nn.Module, images: npt.NDArray[np.uint8] | torch.Tensor, recipe: Recipe
) -> torch.Tensor:
    """The network's answers to uint8 images in evaluation mode, float32 (n, 10).

    The images are on the network's device, or come from NumPy.
    """
    network.eval()
    device = next(network.parameters()).device
    images, n = torch.as_tensor(images, device=device), _ANSWERED[device.type]
    with torch.inference_mode(), precision(recipe, device):
        pieces = range(0, len(images), n)
        return torch.cat([network(pixels(images[i : i + n])).float() for i in pieces])
