"""A PyTorch network in fastnn: the same numbers, without PyTorch where it is used."""

import numpy as np
import torch
from torch import nn

import fastnn

torch.manual_seed(0)


def main() -> None:
    net = nn.Sequential(
        nn.Flatten(), nn.Linear(784, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 10)
    ).eval()
    model = fastnn.from_torch(net, scale=1 / 255)  # a uint8 pixel is p/255, as for the network
    images, _ = fastnn.mnist.sample()
    with torch.no_grad():
        theirs = net(torch.from_numpy(images) / 255).numpy()
    print("largest difference", np.abs(model.decision_function(images) - theirs).max())
    model.save("net.safetensors")  # and from now on: fastnn.load("net.safetensors")


if __name__ == "__main__":
    main()
