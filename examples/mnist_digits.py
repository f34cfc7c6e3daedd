"""MNIST, 784-n-10: pixels of real handwritten digits in, labels out.

The bundled mnist-small has 128 hidden ReLU neurons and a softmax. Pixels go in as they are,
uint8 from 0 to 255: the file says that they stand for p/255, and that is folded into the first
layer. The digits are the 1,000 that ship with fastnn; no model here was trained on them.
"""

import numpy as np

import fastnn


def build() -> fastnn.Model:
    """The same network put together by hand, as from any other source of weights."""
    bundled = fastnn.load("mnist-small")
    hidden, output = ((layer.weight, layer.bias) for layer in bundled.layers)
    return fastnn.Model(
        [fastnn.Dense(*hidden, "relu"), fastnn.Dense(*output, "softmax")], scale=1 / 255
    )


def main() -> None:
    model = build()
    images, labels = fastnn.mnist.sample()  # uint8 (1000, 28, 28) and (1000,)
    answers = model.predict(images)
    print(f"{np.mean(answers == labels):.1%} of {len(labels)} digits are right")
    best, probabilities = model.top_k(images[:1], 3)
    for label, probability in zip(best[0], probabilities[0], strict=True):
        print(f"the first digit, a {labels[0]}: {label} with probability {probability:.4f}")


if __name__ == "__main__":
    main()
