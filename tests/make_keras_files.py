"""Makes tests/keras_files: small networks as Keras itself saves them, with rows and its answers.

    KERAS_BACKEND=torch python tests/make_keras_files.py     Keras 3: .keras and .h5
    python tests/make_keras_files.py                         Keras 2 (TensorFlow 2.15): .h5

Each model goes to files of its name, version and format, and to a .npz of its inputs and outputs.
The weights are random but the same every time, the statistics of normalisations too.
"""

from pathlib import Path

import keras
import numpy as np
from keras import layers

FOLDER = Path(__file__).parent / "keras_files"
VERSION = int(keras.__version__[0])


def sequential():
    """Pixels in, probabilities out: all that is folded, dropped and fused."""
    return keras.Sequential(
        [
            keras.Input((3, 2)),
            layers.Rescaling(1 / 255, offset=-0.5),
            layers.Flatten(),
            layers.Dense(5, activation="relu"),
            layers.BatchNormalization(),
            layers.Dropout(0.5),
            layers.Dense(4),
            layers.LeakyReLU(),
            layers.Dense(3, activation="softmax", use_bias=False),
        ]
    )


def functional():
    """A model in a model, and names of the user's."""
    inner = keras.Sequential([layers.Dense(4, activation="elu", name="first"), layers.Dense(3)])
    normalization = layers.Normalization()
    rows = np.random.default_rng(1).normal(2, 3, (50, 4)).astype(np.float32)
    normalization.adapt(rows)
    x = keras.Input((4,))
    y = layers.Dense(1, name="last")(layers.Activation("gelu")(inner(normalization(x))))
    return keras.Model(x, y)


def main():
    FOLDER.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    for build in (sequential, functional):
        keras.backend.clear_session()
        model = build()
        model.set_weights(
            [
                # of any sign, but for variances; a counter stays
                w if w.dtype.kind != "f" else rng.uniform(0.1, 1, w.shape).astype(w.dtype)
                for w in model.get_weights()
            ]
        )
        rows = rng.integers(0, 256, (8, *model.input_shape[1:])).astype(np.float32)
        if build is functional:
            rows = rng.normal(2, 3, rows.shape).astype(np.float32)
        name = f"{build.__name__}{VERSION}"
        model.save(FOLDER / f"{name}.h5")
        if VERSION == 3:
            model.save(FOLDER / f"{name}.keras")
        outputs = model.predict(rows, verbose=0)
        np.savez_compressed(FOLDER / f"{name}.npz", rows=rows, outputs=outputs)


if __name__ == "__main__":
    main()
