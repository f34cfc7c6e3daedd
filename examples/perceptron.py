"""Rosenblatt's perceptron: a step neuron that learns from its mistakes.

For each point that it gets wrong, w += (wanted - answer) * x and b += (wanted - answer). If a
line separates the classes, this ends. Here the points are those of the logical AND.

Source: F. Rosenblatt, "The perceptron", Psychological Review 65 (1958) 386-408.
"""

import numpy as np

import fastnn

X = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], np.float32)
WANTED = np.array([0, 0, 0, 1])


def build() -> fastnn.Model:
    """The perceptron after as many rounds as it took."""
    weight, bias = np.zeros((2, 1)), np.zeros(1)
    for _ in range(100):
        model = fastnn.Model([fastnn.Dense(weight, bias, "step")])
        if (model.predict(X) == WANTED).all():
            return model
        for x, wanted in zip(X, WANTED, strict=True):
            error = wanted - float(x @ weight[:, 0] + bias[0] > 0)
            weight[:, 0] += error * x
            bias += error
    raise RuntimeError("the points were not separated in 100 rounds")


def main() -> None:
    model = build()
    print("weights", model.layers[0].weight.ravel(), "bias", model.layers[0].bias)
    for x, label in zip(X, model.predict(X), strict=True):
        print(f"{x[0]:.0f} AND {x[1]:.0f} = {label}")


if __name__ == "__main__":
    main()
