"""Three inputs, two hidden sigmoid neurons, one sigmoid output: every step of the forward pass.

The weights are round numbers, so that a pocket calculator can follow. `trace` gives for each
layer the weighted sums z and the activations a = sigmoid(z) of each row. The bundled model
sigmoid-3-2-1 is the same network: `fastnn trace sigmoid-3-2-1 1 0.5 -1`.
"""

import fastnn

X = [[1.0, 0.5, -1.0]]


def build() -> fastnn.Model:
    """The network; it is about its output, so it regresses."""
    hidden = fastnn.Dense(
        [[0.2, -0.5], [0.4, 0.3], [-0.6, 0.1]],  # row k: the weights of input k to both neurons
        [0.1, -0.2],
        "sigmoid",
    )
    output = fastnn.Dense([[0.7], [-0.3]], [0.05], "sigmoid")
    return fastnn.Model([hidden, output], task="regress")


def main() -> None:
    model = build()
    print("x =", X[0])
    for i, (z, a) in enumerate(model.trace(X)):
        print(f"layer {i}: z = {z[0]}, a = sigmoid(z) = {a[0]}")
    print("predict:", model.predict(X)[0])


if __name__ == "__main__":
    main()
