"""A scikit-learn pipeline in fastnn: the same labels and probabilities."""

import numpy as np
from sklearn.datasets import load_iris
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import fastnn


def main() -> None:
    x, y = load_iris(return_X_y=True)
    pipeline = make_pipeline(StandardScaler(), MLPClassifier((32,), max_iter=1000, random_state=0))
    pipeline.fit(x, y)
    model = fastnn.from_sklearn(pipeline)  # the scaler is folded into the first layer
    print(f"{np.mean(model.predict(x) == pipeline.predict(x)):.0%} of the labels are the same")
    print("largest difference", np.abs(model.predict_proba(x) - pipeline.predict_proba(x)).max())


if __name__ == "__main__":
    main()
