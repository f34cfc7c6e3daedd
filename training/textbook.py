"""The small networks of the textbook: fitted here with NumPy alone, in milliseconds.

    python -m training.textbook --to fastnn/models

Invariant: each function is deterministic and returns the layers of one network as
(weight (inputs, outputs), bias, activation), float32. perceptron-2d and xor are learned from
seeded starts; sigmoid-3-2-1 is not learned: its weights are round numbers, so that every step of
the forward pass can be followed with a pocket calculator.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from training import command

Layers = list[tuple[npt.NDArray[np.float32], npt.NDArray[np.float32], str]]
_Float64 = npt.NDArray[np.float64]


def points(n: int = 200) -> tuple[_Float64, npt.NDArray[np.int64]]:
    """`n` points of [-1, 1]^2 and their side (0 or 1) of 2x - y + 0.3 = 0, none near the line."""
    rng = np.random.Generator(np.random.PCG64(7))
    x = rng.uniform(-1, 1, (4 * n, 2))
    z = x @ [2.0, -1.0] + 0.3
    clear = np.flatnonzero(abs(z) > 0.1)[:n]
    return x[clear], (z[clear] > 0).astype(np.int64)


def perceptron_2d() -> Layers:
    """Rosenblatt's rule: w += (y - step(w x + b)) x, and b alike, until no point is wrong.

    Source: F. Rosenblatt, "The perceptron", Psychological Review 65 (1958) 386-408.
    """
    x, y = points()
    w, b = np.zeros(2), 0.0
    for _ in range(1000):
        n_wrong = 0
        for point, side in zip(x, y, strict=True):
            error = side - float(point @ w + b > 0)
            w, b = w + error * point, b + error
            n_wrong += error != 0
        if n_wrong == 0:
            return [(_f32(w[:, None]), _f32([b]), "step")]
    raise RuntimeError("perceptron_2d: the points were not separated in 1,000 rounds")


XOR_X = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], np.float64)
XOR_Y = np.array([0, 1, 1, 0])


def xor() -> Layers:
    """XOR with two hidden tanh neurons and one sigmoid, by gradient descent on the cross entropy.

    Source of the task: M. Minsky and S. Papert, "Perceptrons" (1969): one layer cannot do it.
    """
    # About half of all starts end in a local minimum that answers 0.5 twice; this one does not.
    rng = np.random.Generator(np.random.PCG64(0))
    w0, b0 = rng.normal(0, 1, (2, 2)), np.zeros(2)
    w1, b1 = rng.normal(0, 1, (2, 1)), np.zeros(1)
    for _ in range(5000):
        hidden = np.tanh(XOR_X @ w0 + b0)
        delta1 = (1 / (1 + np.exp(-(hidden @ w1 + b1))) - XOR_Y[:, None]) / len(XOR_X)
        delta0 = delta1 @ w1.T * (1 - hidden**2)
        w1, b1 = w1 - hidden.T @ delta1, b1 - delta1.sum(0)
        w0, b0 = w0 - XOR_X.T @ delta0, b0 - delta0.sum(0)
    return [(_f32(w0), _f32(b0), "tanh"), (_f32(w1), _f32(b1), "sigmoid")]


def sigmoid_3_2_1() -> Layers:
    """Three inputs, two hidden sigmoid neurons, one sigmoid output; the weights are chosen."""
    return [
        (_f32([[0.2, -0.5], [0.4, 0.3], [-0.6, 0.1]]), _f32([0.1, -0.2]), "sigmoid"),
        (_f32([[0.7], [-0.3]]), _f32([0.05]), "sigmoid"),
    ]


def _f32(values: npt.ArrayLike) -> npt.NDArray[np.float32]:
    return np.ascontiguousarray(values, np.float32)


NETWORKS: dict[str, tuple[Callable[[], Layers], str]] = {
    "perceptron-2d": (perceptron_2d, "Rosenblatt's rule on 200 seeded points of the plane"),
    "xor": (xor, "gradient descent on the four cases of XOR"),
    "sigmoid-3-2-1": (sigmoid_3_2_1, "chosen weights, to follow the forward pass by hand"),
}


def main(arguments: list[str] | None = None) -> None:
    from fastnn import formats
    from fastnn.layers import Dense

    parser = command.parser("textbook", "Fit and write the textbook's networks.")
    parser.add_argument("--to", type=Path, required=True, help="folder of the .safetensors files")
    folder = parser.parse_args(arguments).to
    folder.mkdir(parents=True, exist_ok=True)
    for name, (fit, how) in NETWORKS.items():
        # sigmoid-3-2-1 is about its output, not about a decision.
        is_decision = name != "sigmoid-3-2-1"
        model_file = formats.ModelFile(
            layers=tuple(Dense(*layer) for layer in fit()),
            classes=np.arange(2) if is_decision else None,
            task="classify" if is_decision else "regress",
            scale=1.0,
            mean=0.0,
            std=1.0,
            metadata={"name": name, "recipe": f"training.textbook: {how}"},
        )
        formats.write(folder / f"{name}.safetensors", model_file)


if __name__ == "__main__":
    command.run("textbook", main)
