"""One sigmoid neuron: the probability of rain, from humidity and the fall of the barometer.

a = 1 / (1 + exp(-z)) with z = x @ w + b lies between 0 and 1 and is read as the probability of
the second class; `predict_proba` gives [1 - a, a]. The answer is that class where z > 0, that is,
where its probability is above one half.
"""

import numpy as np

import fastnn


def build() -> fastnn.Model:
    """The neuron; its weights are made up."""
    weight = [[4.0], [2.0]]  # per unit of relative humidity, per hectopascal that was lost
    bias = [-3.5]
    return fastnn.Model([fastnn.Dense(weight, bias, "sigmoid")], classes=["dry", "rain"])


def main() -> None:
    model = build()
    days = np.array([[0.3, 0.0], [0.9, 0.2], [0.7, 1.5]], np.float32)
    for day, label, (dry, rain) in zip(
        days, model.predict(days), model.predict_proba(days), strict=True
    ):
        print(f"humidity {day[0]:.1f}, fall {day[1]:.1f}: {label} (dry {dry:.3f}, rain {rain:.3f})")


if __name__ == "__main__":
    main()
