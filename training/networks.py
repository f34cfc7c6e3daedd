"""The networks as PyTorch modules, and their weights as plain arrays with batch norm folded in.

Invariant: every module maps float32 pixels in [0, 1] to logits; the arrays of `dense_arrays`
compute the same logits (weights of shape (inputs, outputs), to be used in this order).
"""

import math

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional

from training.recipes import Recipe

_ACTIVATIONS = {"relu": nn.ReLU, "sigmoid": nn.Sigmoid}


def build(recipe: Recipe) -> nn.Sequential:
    """The untrained network of a recipe; draws from PyTorch's global generator."""
    if recipe.is_teacher:  # channels last: what oneDNN's and cuDNN's convolutions want
        teacher = _unpooled(recipe) if recipe.kernel else _pooled(recipe.n_conv)
        return teacher.to(memory_format=torch.channels_last)
    return _student(recipe).to(memory_format=torch.channels_last)


def _student(recipe: Recipe) -> nn.Sequential:
    steps: list[nn.Module] = []
    n_inputs, width = 1, 28
    for shared, n_outputs in zip(recipe.convolutions, recipe.widths[1:], strict=False):
        steps += _convolution(
            n_inputs, shared.channels, shared.kernel, shared.padding, shared.stride
        )
        n_inputs = shared.channels
        width = (width + 2 * shared.padding - shared.kernel) // shared.stride + 1
        if n_inputs * width * width != n_outputs:
            given = f"{n_inputs} x {width} x {width}, not {n_outputs}"
            raise ValueError(f"{recipe.name}: {shared} gives {given}")
    steps.append(nn.Flatten())
    rest = recipe.widths[len(recipe.convolutions) :]
    last = len(rest) - 2
    for i, (n_inputs, n_outputs) in enumerate(zip(rest, rest[1:], strict=False)):
        steps.append(nn.Linear(n_inputs, n_outputs))
        if i < last:
            if recipe.batch_norm:
                steps.append(nn.BatchNorm1d(n_outputs))
            steps.append(_ACTIVATIONS[recipe.activation]())
            if recipe.dropout:
                steps.append(nn.Dropout(recipe.dropout))
    return nn.Sequential(*steps)


def _convolution(
    n_inputs: int, n_outputs: int, kernel: int, padding: int, stride: int = 1
) -> list[nn.Module]:
    conv = nn.Conv2d(n_inputs, n_outputs, kernel, stride, padding, bias=False)
    return [conv, nn.BatchNorm2d(n_outputs), nn.ReLU()]


def _pooled(channels: int) -> nn.Sequential:
    """A small convolutional network: two stages of two 3x3 layers, one of one, then dense."""
    c = channels
    return nn.Sequential(
        *_convolution(1, c, 3, 1), nn.MaxPool2d(2),
        *_convolution(c, 2 * c, 3, 1), *_convolution(2 * c, 2 * c, 3, 1), nn.MaxPool2d(2),
        *_convolution(2 * c, 4 * c, 3, 1), nn.Flatten(), nn.Dropout(0.3),
        nn.Linear(4 * c * 49, 128, bias=False), nn.BatchNorm1d(128), nn.ReLU(), nn.Dropout(0.3),
        nn.Linear(128, 10),
    )  # fmt: skip


def _unpooled(recipe: Recipe) -> nn.Sequential:
    """Convolutions without padding or pooling, each of which takes `kernel` - 1 off the width.

    An, Lee, Park, Yang and So, "An Ensemble of Simple Convolutional Neural Network Models for MNIST
    Handwritten Digit Recognition", arXiv:2008.10400: ten layers of 3x3, five of 5x5, four of 7x7.
    """
    steps: list[nn.Module] = []
    n_inputs, width = 1, 28
    for n_outputs in recipe.channels:
        steps += _convolution(n_inputs, n_outputs, recipe.kernel, 0)
        n_inputs, width = n_outputs, width - recipe.kernel + 1
    last = nn.Linear(n_inputs * width * width, 10, bias=False)
    return nn.Sequential(*steps, nn.Flatten(), last, nn.BatchNorm1d(10))


def dense_arrays(
    network: nn.Sequential,
) -> list[tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]]:
    """(weight (inputs, outputs), bias) per layer; batch norm folded in float64.

    A convolution is the dense layer of the images that it makes of one pixel each: its weights,
    shared, and zeros.
    """
    layers: list[list[npt.NDArray[np.float64]]] = []
    shape = (1, 28, 28)  # of what comes in, while there are images
    n_places = 1  # that share a channel's batch norm
    for step in network:
        if isinstance(step, nn.Linear):
            n_places = 1
            layers.append([_float64(step.weight).T, _float64(step.bias)])
        elif isinstance(step, nn.Conv2d):
            pixels = torch.eye(math.prod(shape), dtype=torch.float64).view(-1, *shape)
            with torch.no_grad():
                images = functional.conv2d(
                    pixels, step.weight.double(), stride=step.stride, padding=step.padding
                )
            shape = images.shape[1:]
            n_places = shape[1] * shape[2]
            weight = images.flatten(1).numpy()
            layers.append([weight, np.zeros(weight.shape[1])])
        elif isinstance(step, nn.BatchNorm1d | nn.BatchNorm2d):
            gain = _float64(step.weight) / np.sqrt(_float64(step.running_var) + step.eps)
            weight, bias = layers[-1]
            gain, mean, beta = (
                np.repeat(each, n_places)
                for each in (gain, _float64(step.running_mean), _float64(step.bias))
            )
            layers[-1] = [weight * gain, (bias - mean) * gain + beta]
    return [(np.ascontiguousarray(w, np.float32), b.astype(np.float32)) for w, b in layers]


def _float64(tensor: torch.Tensor) -> npt.NDArray[np.float64]:
    return tensor.detach().double().numpy()
