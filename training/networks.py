"""The networks as PyTorch modules, and their weights as plain arrays with batch norm folded in.

Invariant: every module maps float32 pixels in [0, 1] to logits; the arrays of `dense_arrays`
compute the same logits (weights of shape (inputs, outputs), to be used in this order).
"""

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from training.recipes import Recipe

_ACTIVATIONS = {"relu": nn.ReLU, "sigmoid": nn.Sigmoid}


def build(recipe: Recipe) -> nn.Sequential:
    """The untrained network of a recipe; draws from PyTorch's global generator."""
    if recipe.is_teacher:  # channels last: what oneDNN's and cuDNN's convolutions want
        teacher = _unpooled(recipe) if recipe.kernel else _pooled(recipe.n_conv)
        return teacher.to(memory_format=torch.channels_last)
    return _dense(recipe)


def _dense(recipe: Recipe) -> nn.Sequential:
    steps: list[nn.Module] = [nn.Flatten()]
    last = len(recipe.widths) - 2
    for i, (n_inputs, n_outputs) in enumerate(zip(recipe.widths, recipe.widths[1:], strict=False)):
        steps.append(nn.Linear(n_inputs, n_outputs))
        if i < last:
            if recipe.batch_norm:
                steps.append(nn.BatchNorm1d(n_outputs))
            steps.append(_ACTIVATIONS[recipe.activation]())
            if recipe.dropout:
                steps.append(nn.Dropout(recipe.dropout))
    return nn.Sequential(*steps)


def _convolution(n_inputs: int, n_outputs: int, kernel: int, padding: int) -> list[nn.Module]:
    conv = nn.Conv2d(n_inputs, n_outputs, kernel, padding=padding, bias=False)
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
    """(weight (inputs, outputs), bias) per layer; batch norm folded in float64."""
    layers: list[list[npt.NDArray[np.float64]]] = []
    for step in network:
        if isinstance(step, nn.Linear):
            layers.append([_float64(step.weight).T, _float64(step.bias)])
        elif isinstance(step, nn.BatchNorm1d):
            gain = _float64(step.weight) / np.sqrt(_float64(step.running_var) + step.eps)
            weight, bias = layers[-1]
            offset = (bias - _float64(step.running_mean)) * gain + _float64(step.bias)
            layers[-1] = [weight * gain, offset]
    return [(np.ascontiguousarray(w, np.float32), b.astype(np.float32)) for w, b in layers]


def _float64(tensor: torch.Tensor) -> npt.NDArray[np.float64]:
    return tensor.detach().double().numpy()
