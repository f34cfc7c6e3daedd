"""`from_sklearn`: a fitted scikit-learn estimator, or a pipeline that ends in one, as a Model.

    linear models          X @ coef_.T + intercept_, and a sigmoid or softmax where scikit-learn's
                           predict_proba is one
    MLPClassifier, ...     the layers coefs_, intercepts_
    scalers, PCA before    folded into the first layer, in float64

Invariant: scikit-learn is not imported: classes are recognised by module and name, subclasses are
not (they may predict otherwise), and what is not in the tables is refused by name. Labels,
probabilities and outputs are scikit-learn's, as far as float32 holds them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from fastnn.formats.steps import Steps
from fastnn.model import Model

__all__ = ["from_sklearn"]


def from_sklearn(estimator: Any, *, isa: str | None = None) -> Model:
    """A fitted scikit-learn estimator as a Model.

    `estimator`: MLPClassifier, MLPRegressor, a linear model (docs/import.md lists them) or
    LinearDiscriminantAnalysis, or a Pipeline of StandardScaler, MinMaxScaler or PCA and one of
    them. `isa` as for `Model`.

    `predict` and `classes_` are the estimator's, and `predict_proba` where it is a sigmoid or a
    softmax; where it is neither (one-versus-rest probabilities of several classes, modified
    Huber), the model's `predict_proba` raises TypeError. Regressors get the task "regress", and so
    does an MLPClassifier of several labels a row: its `predict` gives the probability of each.
    Classes that are float or object arrays become integers or strings.

    Raises TypeError for another object, ValueError for an estimator that is not fitted, not
    supported (named, with what is), or whose classes are no integers, strings or booleans.
    """
    steps = Steps()
    arguments: dict[str, Any] | None = None
    for name, step in _flattened("", estimator):
        kind = _kind(step)
        if arguments is not None:
            raise ValueError(f"from_sklearn: {name} comes after the estimator that predicts")
        try:
            if kind in _TRANSFORMERS:
                _check_fitted(step, _FITTED.get(kind, "scale_"))
                _TRANSFORMERS[kind](steps, step)
            elif kind in _ESTIMATORS:
                _check_fitted(step, _FITTED.get(kind, "coef_"))
                arguments = _ESTIMATORS[kind](steps, step)
            elif hasattr(step, "best_estimator_"):
                raise ValueError("pass its best_estimator_")
            else:
                raise ValueError(
                    f"not supported; wanted one of {', '.join(_ESTIMATORS)}, or a Pipeline of "
                    f"{', '.join(_TRANSFORMERS)} and one of them"
                )
        except ValueError as error:
            where = f"{name} ({type(step).__name__})" if name else type(step).__name__
            raise ValueError(f"from_sklearn: {where}: {error}") from None
    if arguments is None:
        raise ValueError("from_sklearn: the pipeline has no estimator that predicts")
    return Model(steps.layers(), isa=isa, **arguments)


def _flattened(name: str, estimator: Any) -> list[tuple[str, Any]]:
    """The steps of a pipeline, of those in it too; or the estimator alone."""
    if not hasattr(estimator, "get_params"):
        kind = type(estimator).__name__
        raise TypeError(f"from_sklearn: estimator is a {kind}, wanted one of scikit-learn's")
    if _kind(estimator) != "Pipeline":
        return [(name, estimator)]
    return [
        one
        for key, step in estimator.steps
        if step is not None and not isinstance(step, str)  # "passthrough"
        for one in _flattened(f"{name}.{key}" if name else key, step)
    ]


def _kind(estimator: Any) -> str | None:
    kind = type(estimator)
    return kind.__name__ if kind.__module__.split(".")[0] == "sklearn" else None


def _check_fitted(estimator: Any, attribute: str) -> None:
    if not hasattr(estimator, attribute):
        raise ValueError("it is not fitted, call fit first")


# ---- what transforms -----------------------------------------------------------------------------


def _standard_scaler(steps: Steps, scaler: Any) -> None:
    """(x - mean_) / scale_, each where it is asked for: mean_ may be there and not be used."""
    scale = 1 / scaler.scale_ if scaler.with_std else 1.0
    shift = -scaler.mean_ * scale if scaler.with_mean else 0.0
    steps.values(scaler.n_features_in_)
    steps.affine(scale, shift)


def _min_max_scaler(steps: Steps, scaler: Any) -> None:
    if scaler.clip:
        raise ValueError("clip=True is not supported")
    steps.affine(scaler.scale_, scaler.min_)


def _pca(steps: Steps, pca: Any) -> None:
    """(x - mean_) @ components_.T, divided by the deviations if it whitens."""
    rotation = pca.components_.T
    if pca.whiten:
        deviation = np.sqrt(pca.explained_variance_)
        # As scikit-learn does it: components of no variance are not made infinite.
        rotation = rotation / np.maximum(deviation, np.finfo(deviation.dtype).eps)
    steps.affine(1.0, -pca.mean_)
    steps.linear(rotation)


_TRANSFORMERS: dict[str, Callable[[Steps, Any], None]] = {
    "StandardScaler": _standard_scaler,
    "MinMaxScaler": _min_max_scaler,
    "PCA": _pca,
}


# ---- what predicts: adds its layers, returns the arguments of Model ------------------------------


def _mlp(steps: Steps, mlp: Any) -> dict[str, Any]:
    names = [mlp.activation] * (len(mlp.coefs_) - 1) + [mlp.out_activation_]
    for weight, bias, name in zip(mlp.coefs_, mlp.intercepts_, names, strict=True):
        if name not in _MLP_ACTIVATIONS:
            raise ValueError(f"the activation {name!r} is not supported")
        steps.linear(weight, bias)
        steps.activation(_MLP_ACTIVATIONS[name])
    is_multilabel = mlp.out_activation_ == "logistic" and mlp.n_outputs_ > 1
    if not hasattr(mlp, "classes_") or is_multilabel:
        return {"task": "regress"}
    return _classes(mlp)


def _regressor(steps: Steps, estimator: Any) -> dict[str, Any]:
    _linear(steps, estimator)
    return {"task": "regress"}


def _classifier(steps: Steps, estimator: Any) -> dict[str, Any]:
    """With the labels right, and no probabilities."""
    _linear(steps, estimator)
    return _classes(estimator)


def _logistic_regression(steps: Steps, estimator: Any) -> dict[str, Any]:
    n_outputs = _linear(steps, estimator)
    # Until 1.8 multi_class chose; now two classes have one sigmoid and more a softmax.
    how = getattr(estimator, "multi_class", "auto")
    is_one_vs_rest = how == "ovr" or (how != "multinomial" and estimator.solver == "liblinear")
    if n_outputs == 1 and how == "multinomial":
        raise ValueError('multi_class="multinomial" for two classes is not supported')
    if n_outputs == 1:
        steps.activation("sigmoid")
    elif not is_one_vs_rest:
        steps.activation("softmax")
    return _classes(estimator)


def _discriminant_analysis(steps: Steps, estimator: Any) -> dict[str, Any]:
    steps.activation("sigmoid" if _linear(steps, estimator) == 1 else "softmax")
    return _classes(estimator)


def _sgd_classifier(steps: Steps, estimator: Any) -> dict[str, Any]:
    # The other losses, and log_loss of several classes, have no probabilities or normalised ones.
    if _linear(steps, estimator) == 1 and estimator.loss == "log_loss":
        steps.activation("sigmoid")
    return _classes(estimator)


_ESTIMATORS: dict[str, Callable[[Steps, Any], dict[str, Any]]] = {
    **dict.fromkeys(("MLPClassifier", "MLPRegressor"), _mlp),
    **dict.fromkeys(("LogisticRegression", "LogisticRegressionCV"), _logistic_regression),
    "LinearDiscriminantAnalysis": _discriminant_analysis,
    "SGDClassifier": _sgd_classifier,
    **dict.fromkeys(("Perceptron", "LinearSVC"), _classifier),
    **dict.fromkeys(
        (
            "LinearRegression",
            "Ridge",
            "RidgeCV",
            "Lasso",
            "ElasticNet",
            "SGDRegressor",
            "LinearSVR",
        ),
        _regressor,
    ),
}

_FITTED = {"MLPClassifier": "coefs_", "MLPRegressor": "coefs_", "PCA": "components_"}

_MLP_ACTIVATIONS = {
    "identity": "identity",
    "logistic": "sigmoid",
    "tanh": "tanh",
    "relu": "relu",
    "softmax": "softmax",
    "exp": "exp",  # of MLPRegressor with loss="poisson"
}


def _linear(steps: Steps, estimator: Any) -> int:
    """Adds X @ coef_.T + intercept_; returns how many outputs."""
    coef = estimator.coef_
    coef = np.atleast_2d(coef.toarray() if hasattr(coef, "toarray") else coef)  # after sparsify()
    steps.linear(coef.T, np.broadcast_to(estimator.intercept_, len(coef)))
    return len(coef)


def _classes(estimator: Any) -> dict[str, Any]:
    """Labels as Model takes them: scikit-learn has float and object arrays of them, too."""
    labels: npt.NDArray[Any] = np.asarray(estimator.classes_)
    if labels.dtype.kind == "O" and all(isinstance(label, str) for label in labels):
        labels = labels.astype(str)
    elif labels.dtype.kind == "f" and np.all(labels == np.rint(labels)):
        labels = labels.astype(np.int64)
    if labels.dtype.kind not in "iuUb":
        raise ValueError(f"classes_ are {labels.dtype}, wanted integers, strings or booleans")
    return {"task": "classify", "classes": labels}
