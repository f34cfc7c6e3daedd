"""A linear regressor: the plane y = 3a - 2b + 1, found by least squares from noisy points.

A single identity output without classes regresses: `predict` gives the number itself, one per
row. fastnn does not train; NumPy's least squares finds the weights here.
"""

import numpy as np

import fastnn


def points(n: int = 200) -> tuple[np.ndarray, np.ndarray]:
    """Inputs (n, 2) and noisy heights (n,), the same at every call."""
    rng = np.random.default_rng(1)
    x = rng.uniform(-1, 1, (n, 2))
    return x, x @ [3.0, -2.0] + 1.0 + rng.normal(0, 0.01, n)


def build() -> fastnn.Model:
    """The plane that fits `points()` best."""
    x, y = points()
    with_ones = np.column_stack([x, np.ones(len(x))])  # the last coefficient is the bias
    *weight, bias = np.linalg.lstsq(with_ones, y, rcond=None)[0]
    return fastnn.Model([fastnn.Dense(np.reshape(weight, (2, 1)), [bias])])


def main() -> None:
    model = build()
    print("weights", model.layers[0].weight.ravel(), "bias", model.layers[0].bias)
    print("y(0, 0) =", model.predict([[0.0, 0.0]])[0])
    print("y(1, 1) =", model.predict([[1.0, 1.0]])[0])


if __name__ == "__main__":
    main()
