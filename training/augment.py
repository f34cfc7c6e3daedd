"""Random affine and elastic distortion of whole batches of digits.

Invariant: the result depends only on the images, the bounds and the generator's state.
"""

import math

import torch
from torch.nn import functional

from training.arithmetic import pixels
from training.recipes import Augmentation

_KNOTS = 6
_PIECE = 2_000  # images distorted at a time


def distorted(
    images: torch.Tensor, bounds: Augmentation, generator: torch.Generator
) -> torch.Tensor:
    """uint8 images (n, 28, 28), distorted: float32 (n, 1, 28, 28) in [0, 1]."""
    pieces = range(0, len(images), _PIECE)
    return torch.cat([distort(pixels(images[i : i + _PIECE]), bounds, generator) for i in pieces])


def distort(images: torch.Tensor, bounds: Augmentation, generator: torch.Generator) -> torch.Tensor:
    """float32 images (n, 1, 28, 28), each distorted in its own way; outside is 0."""
    n, _, height, width = images.shape
    device = images.device  # the generator's too

    def draw(bound: float) -> torch.Tensor:
        return (torch.rand(n, generator=generator, device=device) * 2 - 1) * bound

    angle = draw(math.radians(bounds.degrees))
    scale_x, scale_y = 1 + draw(bounds.scale), 1 + draw(bounds.scale)
    shear = draw(bounds.shear)
    cos, sin = angle.cos(), angle.sin()
    # grid_sample counts in half-widths: 2 / width is one pixel.
    theta = torch.stack(
        [
            torch.stack([cos * scale_x, -sin + shear, draw(bounds.shift) * 2 / width], 1),
            torch.stack([sin + shear, cos * scale_y, draw(bounds.shift) * 2 / height], 1),
        ],
        1,
    )
    grid = functional.affine_grid(theta, list(images.shape), align_corners=False)
    if bounds.elastic:
        knots = torch.randn(n, 2, _KNOTS, _KNOTS, generator=generator, device=device)
        knots *= bounds.elastic * 2 / width
        field = functional.interpolate(knots, (height, width), mode="bicubic", align_corners=True)
        grid = grid + field.permute(0, 2, 3, 1)
    return functional.grid_sample(images, grid, align_corners=False)
