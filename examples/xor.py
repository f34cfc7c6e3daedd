"""XOR with one hidden layer: what a single layer cannot do (Minsky and Papert, 1969).

No line divides {01, 10} from {00, 11}. Two hidden step neurons bend the plane: one is OR, one is
AND, and XOR is "OR but not AND". Every number here is exact.
"""

import numpy as np

import fastnn

X = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], np.float32)


def build() -> fastnn.Model:
    """2-2-1 with steps."""
    hidden = fastnn.Dense(
        [[1.0, 1.0], [1.0, 1.0]],
        [-0.5, -1.5],  # a + b > 0.5 is OR, a + b > 1.5 is AND
        "step",
    )
    output = fastnn.Dense([[1.0], [-1.0]], [-0.5], "step")
    return fastnn.Model([hidden, output], classes=[False, True])


def main() -> None:
    model = build()
    (_, hidden), _ = model.trace(X)
    for x, h, answer in zip(X, hidden, model.predict(X), strict=True):
        print(f"{x[0]:.0f} XOR {x[1]:.0f}: OR = {h[0]:.0f}, AND = {h[1]:.0f}, XOR = {answer}")


if __name__ == "__main__":
    main()
