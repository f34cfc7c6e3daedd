"""A linear classifier in two dimensions: on which side of the line 2x - y + 0.3 = 0 is a point?

One layer, one output: z = x @ w + b is positive on one side and negative on the other. With two
classes the model answers with the second where z > 0, else with the first.
"""

import numpy as np

import fastnn


def build() -> fastnn.Model:
    """The classifier; its classes are "above" and "below" the line."""
    weight = [[2.0], [-1.0]]  # shape (inputs, outputs): 2 inputs, 1 output
    bias = [0.3]
    return fastnn.Model([fastnn.Dense(weight, bias)], classes=["above", "below"])


def main() -> None:
    model = build()
    points = np.array([[0.0, 0.0], [0.0, 1.0], [1.0, 1.0], [-1.0, -1.0]], np.float32)
    for point, z, label in zip(
        points, model.decision_function(points), model.predict(points), strict=True
    ):
        print(f"{point} z = {z:+.2f}: {label} the line")


if __name__ == "__main__":
    main()
