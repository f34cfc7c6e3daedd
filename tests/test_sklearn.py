"""from_sklearn: what scikit-learn predicts, estimators and pipelines, or a refusal by name.

Without scikit-learn, stand-ins with its classes' names and attributes are read, and NumPy is what
they are compared with. With it (`make test-interop`), every estimator is fitted and compared.
"""

import importlib
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from agreement import assert_agrees

import fastnn
from fastnn.formats import sklearn as reader

RNG = np.random.default_rng(6)


@pytest.fixture(name="sklearn", scope="module")
def fixture_sklearn():
    return pytest.importorskip("sklearn", reason="NOT TESTED: interop only, needs scikit-learn")


# ---- stand-ins -----------------------------------------------------------------------------------


def estimator(kind, where="sklearn.made_up", **attributes):
    """An object that looks like scikit-learn's `kind`."""
    own = type(kind, (), {"__module__": where, "get_params": lambda self: {}})()
    vars(own).update(attributes)
    return own


def linear(kind, n_inputs=5, n_outputs=3, classes=None, **attributes):
    attributes |= {} if classes is None else {"classes_": np.array(classes)}
    coef, intercept = RNG.normal(size=(n_outputs, n_inputs)), RNG.normal(size=n_outputs)
    return estimator(kind, coef_=coef, intercept_=intercept, **attributes)


def rows(n_inputs=5, n=500):
    return RNG.normal(size=(n, n_inputs)).astype(np.float32)


def z_of(one, x):
    return x.astype(np.float64) @ np.atleast_2d(one.coef_).T + one.intercept_


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def softmax(z):
    p = np.exp(z - z.max(axis=1, keepdims=True))
    return p / p.sum(axis=1, keepdims=True)


LINEAR = {
    "softmax": (linear("LogisticRegression", classes=["a", "b", "c"], solver="lbfgs"), softmax),
    "sigmoid": (
        linear("LogisticRegression", n_outputs=1, classes=[3, 7], solver="liblinear"), sigmoid,
    ),
    "one against the rest": (
        linear("LogisticRegression", classes=[0, 1, 2], solver="liblinear", multi_class="auto"),
        None,
    ),
    "multinomial": (
        linear("LogisticRegression", classes=[0, 1, 2], solver="lbfgs", multi_class="multinomial"),
        softmax,
    ),
    "discriminant": (linear("LinearDiscriminantAnalysis", classes=[1, 2, 3]), softmax),
    "discriminant of two": (
        linear("LinearDiscriminantAnalysis", n_outputs=1, classes=[False, True]), sigmoid,
    ),
    "log loss": (linear("SGDClassifier", n_outputs=1, classes=[0, 1], loss="log_loss"), sigmoid),
    "log losses": (linear("SGDClassifier", classes=[0, 1, 2], loss="log_loss"), None),
    "hinge": (linear("SGDClassifier", n_outputs=1, classes=[0, 1], loss="hinge"), None),
    "perceptron": (linear("Perceptron", classes=[0, 1, 2]), None),
    "svm": (linear("LinearSVC", n_outputs=1, classes=["no", "yes"]), None),
}  # fmt: skip


@pytest.mark.parametrize("case", LINEAR)
def test_a_linear_classifier(case):
    one, proba = LINEAR[case]
    x = rows()
    z = z_of(one, x)
    model = fastnn.from_sklearn(one)
    labels = one.classes_[(z[:, 0] > 0).astype(int) if z.shape[1] == 1 else z.argmax(axis=1)]
    assert_agrees(model, x, proba(z) if proba else z, case, labels)
    assert model.task == "classify"
    assert np.array_equal(model.classes_, one.classes_)
    if proba is None:
        with pytest.raises(TypeError, match="gives no probabilities"):
            model.predict_proba(x)
    else:
        p = proba(z)
        p = np.hstack([1 - p, p]) if z.shape[1] == 1 else p
        np.testing.assert_allclose(model.predict_proba(x), p, atol=1e-6)


@pytest.mark.parametrize(
    "kind",
    ["LinearRegression", "Ridge", "RidgeCV", "Lasso", "ElasticNet", "SGDRegressor", "LinearSVR"],
)
@pytest.mark.parametrize("n_outputs", [1, 3])
def test_a_linear_regressor(kind, n_outputs):
    one = linear(kind, n_outputs=n_outputs)
    x = rows()
    if n_outputs == 1:
        one.coef_, one.intercept_ = one.coef_[0], 0.0  # as fit_intercept=False leaves it
    model = fastnn.from_sklearn(one)
    assert model.task == "regress"
    assert_agrees(model, x, z_of(one, x))
    assert model.predict(x).shape == ((500,) if n_outputs == 1 else (500, 3))


def mlp(kind, widths, activation, out, **attributes):
    coefs = [RNG.normal(size=pair) for pair in zip(widths, widths[1:], strict=False)]
    intercepts = [RNG.normal(size=n) for n in widths[1:]]
    return estimator(
        kind, coefs_=coefs, intercepts_=intercepts, activation=activation, out_activation_=out,
        n_outputs_=widths[-1], **attributes,
    )  # fmt: skip


FUNCTIONS = {
    "identity": lambda z: z,
    "logistic": sigmoid,
    "tanh": np.tanh,
    "relu": lambda z: np.maximum(z, 0),
    "softmax": softmax,
    "exp": np.exp,
}


def exact_mlp(one, x):
    a = x.astype(np.float64)
    names = [one.activation] * (len(one.coefs_) - 1) + [one.out_activation_]
    for w, b, name in zip(one.coefs_, one.intercepts_, names, strict=True):
        a = FUNCTIONS[name](a @ w + b)
    return a


@pytest.mark.parametrize("activation", ["identity", "logistic", "tanh", "relu"])
def test_a_perceptron_of_many_layers(activation):
    x = rows()
    for one in (
        mlp("MLPClassifier", (5, 8, 6, 3), activation, "softmax", classes_=np.array([2, 4, 9])),
        mlp("MLPClassifier", (5, 8, 1), activation, "logistic", classes_=np.array(["n", "y"])),
        mlp("MLPRegressor", (5, 8, 2), activation, "identity"),
        mlp("MLPRegressor", (5, 8, 1), activation, "exp"),
    ):
        model = fastnn.from_sklearn(one)
        assert_agrees(model, x, exact_mlp(one, x))
        assert (model.task == "regress") == (type(one).__name__ == "MLPRegressor")


def test_several_labels_a_row():
    one = mlp("MLPClassifier", (5, 8, 3), "relu", "logistic", classes_=np.arange(3))
    model = fastnn.from_sklearn(one)
    x = rows()
    assert model.task == "regress"
    assert_agrees(model, x, exact_mlp(one, x))
    assert np.array_equal(model.predict(x), model.predict_proba(x))


def pipeline(*steps):
    return estimator("Pipeline", steps=[(f"step{i}", step) for i, step in enumerate(steps)])


def scaler(**changes):
    attributes = {
        "mean_": RNG.normal(size=5),
        "scale_": RNG.uniform(0.5, 2, 5),
        "n_features_in_": 5,
        "with_mean": True,
        "with_std": True,
    }
    return estimator("StandardScaler", **{**attributes, **changes})


def pca(n=3, **changes):
    attributes = {
        "components_": RNG.normal(size=(n, 5)), "mean_": RNG.normal(size=5), "whiten": False,
        "explained_variance_": np.array([2.0, 0.5, 0.0])[:n],
    }  # fmt: skip
    return estimator("PCA", **{**attributes, **changes})


def test_pipelines():
    x = rows()
    last = linear("LinearRegression", n_outputs=2)
    ranges = estimator(
        "MinMaxScaler", scale_=RNG.normal(size=5), min_=RNG.normal(size=5), clip=False
    )
    one = scaler()
    scaled = (x - one.mean_) / one.scale_
    for steps, before in [
        ((one, last), scaled),
        ((scaler(with_mean=False, scale_=one.scale_), last), x / one.scale_),  # has a mean_
        ((scaler(mean_=one.mean_, with_std=False, scale_=None), last), x - one.mean_),
        ((scaler(with_mean=False, mean_=None, with_std=False, scale_=None), last), x),
        ((ranges, last), x * ranges.scale_ + ranges.min_),
        ((one, "passthrough", None, ranges, last), scaled * ranges.scale_ + ranges.min_),
        ((pipeline(one), pipeline(last)), scaled),
    ]:
        model = fastnn.from_sklearn(pipeline(*steps))
        assert len(model.layers) == 1
        assert_agrees(model, x, z_of(last, before))
    rotation = pca(2)
    last = linear("LinearRegression", n_inputs=2, n_outputs=2)
    turned = (scaled - rotation.mean_) @ rotation.components_.T
    assert_agrees(fastnn.from_sklearn(pipeline(one, rotation, last)), x, z_of(last, turned))
    rotation.whiten = True
    whitened = turned / np.sqrt(rotation.explained_variance_)
    assert_agrees(fastnn.from_sklearn(pipeline(one, rotation, last)), x, z_of(last, whitened))


def test_sparse_coefficients():
    one = linear("SGDClassifier", classes=[0, 1, 2], loss="hinge")
    x = rows()
    want = z_of(one, x)
    dense = one.coef_
    one.coef_ = type("csr_matrix", (), {"toarray": lambda self: dense})()
    assert_agrees(fastnn.from_sklearn(one), x, want)


@pytest.mark.parametrize(
    ("classes", "found"),
    [
        (np.array(["no", "yes"], object), np.array(["no", "yes"])),
        (np.array([-1.0, 1.0]), np.array([-1, 1])),
        (np.array([False, True]), np.array([False, True])),
    ],
)
def test_classes(classes, found):
    one = linear("LinearSVC", n_outputs=1)
    one.classes_ = classes
    model = fastnn.from_sklearn(one)
    assert model.classes_.dtype == found.dtype
    assert np.array_equal(model.classes_, found)
    x = rows()
    assert np.array_equal(model.predict(x) == classes[1], z_of(one, x)[:, 0] > 0)


REFUSED = [
    (estimator("RandomForestClassifier"), r"ForestClassifier: not supported; wanted one of MLPCl"),
    (estimator("LinearRegression"), "LinearRegression: it is not fitted, call fit first"),
    (estimator("MLPClassifier"), "it is not fitted"),
    (estimator("GridSearchCV", best_estimator_=1), "GridSearchCV: pass its best_estimator_"),
    (estimator("LinearRegression", where="mine", coef_=1), "not supported"),
    (pipeline(scaler()), "no estimator that predicts"),
    (pipeline(scaler(), estimator("PCA"), linear("Ridge")), r"step1 \(PCA\): it is not fitted"),
    (pipeline(estimator("StandardScaler"), linear("Ridge")), r"step0 \(Stan.*: it is not"),
    (pipeline(linear("Ridge"), scaler()), "step1 comes after the estimator"),
    (
        pipeline(estimator("MinMaxScaler", scale_=1, clip=True), linear("Ridge")),
        r"step0 \(MinMaxScaler\): clip=True is not supported",
    ),
    (pipeline(pipeline(estimator("Normalizer")), linear("Ridge")), r"step0.step0 \(Normalizer\)"),
    (pipeline(scaler(), linear("Ridge", n_inputs=4)), r"step1 \(Ridge\): weight takes 4 values"),
    (
        linear("LogisticRegression", n_outputs=1, multi_class="multinomial", solver="saga"),
        'multi_class="multinomial" for two classes is not supported',
    ),
    (linear("LinearSVC", classes=[0.5, 1, 2]), "classes_ are float64, wanted integers"),
    (
        mlp("MLPRegressor", (5, 3, 1), "mish", "identity"),
        "the activation 'mish' is not supported",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("one", "text"), REFUSED, ids=range(len(REFUSED)))
def test_refuses(one, text):
    with pytest.raises(ValueError, match=rf"^from_sklearn: .*{text}"):
        fastnn.from_sklearn(one)


def test_what_is_no_estimator():
    for given in (None, "model.joblib", np.ones(3)):
        with pytest.raises(TypeError, match="wanted one of scikit-learn's"):
            fastnn.from_sklearn(given)


def test_the_page_lists_what_is_taken():
    page = (Path(__file__).parent.parent / "docs" / "import.md").read_text()
    section = page[page.index("## scikit-learn") : page.index("## Keras")]
    for name in (*reader._ESTIMATORS, *reader._TRANSFORMERS):
        assert f"`{name}`" in section, name


def test_isa():
    assert fastnn.from_sklearn(linear("Ridge"), isa="scalar").kernels[0]["isa"] == "scalar"


# ---- scikit-learn itself -------------------------------------------------------------------------


def data(n_classes, kind):
    """Rows around a centre for each class, float32; labels of this kind."""
    rng = np.random.default_rng(n_classes)
    centres = rng.normal(scale=2, size=(n_classes, 6))
    y = rng.integers(n_classes, size=400)
    x = (centres[y] + rng.normal(size=(400, 6))).astype(np.float32)
    names = {
        "int": np.arange(n_classes) * 3 - 2,
        "str": np.array(["ant", "bee", "cat", "dog"][:n_classes]),
        "object": np.array(["ant", "bee", "cat", "dog"][:n_classes], object),
        "bool": np.array([False, True]),
        "float": np.arange(n_classes) * 1.0,
    }
    return x, names[kind][y]


CLASSIFIERS = {
    "MLPClassifier": ("neural_network", {"hidden_layer_sizes": (9, 7), "max_iter": 50}),
    "MLPClassifier tanh": ("neural_network", {"activation": "tanh", "max_iter": 50}),
    "MLPClassifier logistic": ("neural_network", {"activation": "logistic", "max_iter": 50}),
    "MLPClassifier identity": ("neural_network", {"activation": "identity", "max_iter": 50}),
    "LogisticRegression": ("linear_model", {}),
    "LogisticRegressionCV": ("linear_model", {"use_legacy_attributes": False, "l1_ratios": (0.0,),
                                              "Cs": [1.0], "cv": 2}),
    "Perceptron": ("linear_model", {}),
    "SGDClassifier": ("linear_model", {}),
    "SGDClassifier log_loss": ("linear_model", {"loss": "log_loss"}),
    "SGDClassifier modified_huber": ("linear_model", {"loss": "modified_huber"}),
    "LinearSVC": ("svm", {}),
    "LinearDiscriminantAnalysis": ("discriminant_analysis", {}),
    "LinearDiscriminantAnalysis lsqr": ("discriminant_analysis", {"solver": "lsqr"}),
}  # fmt: skip


def fitted(sklearn, name, table, x, y, **changes):
    module, arguments = table[name]
    kind = getattr(importlib.import_module(f"sklearn.{module}"), name.split()[0])
    known = kind().get_params()
    arguments = {key: value for key, value in {**arguments, **changes}.items() if key in known}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # 50 iterations do not converge, and need not
        return kind(**arguments).fit(x, y)


@pytest.mark.parametrize("name", CLASSIFIERS)
@pytest.mark.parametrize(
    ("n_classes", "kind"),
    [(2, "int"), (2, "str"), (2, "bool"), (3, "int"), (4, "object"), (3, "float")],
)
def test_classifiers(sklearn, name, n_classes, kind):
    x, y = data(n_classes, kind)
    one = fitted(sklearn, name, CLASSIFIERS, x, y, random_state=0)
    model = fastnn.from_sklearn(one)
    x64 = x.astype(np.float64)
    assert np.array_equal(model.classes_, one.classes_)
    is_probability = model.layers[-1].activation in ("sigmoid", "softmax")
    if is_probability:
        want = one.predict_proba(x64)
        np.testing.assert_allclose(model.predict_proba(x), want, atol=1e-5)
        exact = want[:, 1] if n_classes == 2 else want
    else:
        exact = one.decision_function(x64)
    assert_agrees(model, x, exact, name, one.predict(x64), 0.02)
    if not is_probability:
        with pytest.raises(TypeError, match="gives no probabilities"):
            model.predict_proba(x)
    # And so it is exactly where scikit-learn's are a sigmoid or a softmax.
    can = hasattr(one, "predict_proba") and "modified_huber" not in name
    assert is_probability == (can and not ("SGD" in name and n_classes > 2))


REGRESSORS = {
    "MLPRegressor": ("neural_network", {"hidden_layer_sizes": (9,), "max_iter": 50}),
    "MLPRegressor poisson": ("neural_network", {"loss": "poisson", "max_iter": 50}),
    "LinearRegression": ("linear_model", {}),
    "LinearRegression through 0": ("linear_model", {"fit_intercept": False}),
    "Ridge": ("linear_model", {}),
    "RidgeCV": ("linear_model", {}),
    "Lasso": ("linear_model", {"alpha": 0.1}),
    "ElasticNet": ("linear_model", {"alpha": 0.1}),
    "SGDRegressor": ("linear_model", {}),
    "LinearSVR": ("svm", {}),
}


@pytest.mark.parametrize(
    ("name", "n_outputs"),
    [(name, 1) for name in REGRESSORS]
    + [(name, 3) for name in REGRESSORS if name not in ("SGDRegressor", "LinearSVR")],
)
def test_regressors(sklearn, name, n_outputs):
    x, _ = data(3, "int")
    y = np.abs(x[:, :n_outputs] * 2 + x[:, 3:4])
    if n_outputs == 1:
        y = y[:, 0]
    one = fitted(sklearn, name, REGRESSORS, x, y, random_state=0)
    model = fastnn.from_sklearn(one)
    want = one.predict(x.astype(np.float64))
    assert_agrees(model, x, want, name)
    assert model.predict(x).shape == want.shape


def test_many_labels(sklearn):
    from sklearn.neural_network import MLPClassifier

    x, _ = data(3, "int")
    y = (x[:, :3] > 0).astype(int)
    one = MLPClassifier((8,), tol=1, random_state=0).fit(x, y)
    model = fastnn.from_sklearn(one)
    x64 = x.astype(np.float64)
    np.testing.assert_allclose(model.predict(x), one.predict_proba(x64), atol=1e-5)
    assert np.mean((model.predict(x) > 0.5) == one.predict(x64)) > 0.999


@pytest.mark.parametrize("how", ["standard", "scaled", "minmax", "pca", "white", "all", "none"])
@pytest.mark.parametrize("last", ["MLPClassifier", "LogisticRegression", "LinearSVC"])
def test_whole_pipelines(sklearn, how, last):
    from sklearn.decomposition import PCA
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import MinMaxScaler, StandardScaler

    steps = {
        "standard": [StandardScaler()],
        "scaled": [StandardScaler(with_mean=False)],
        "minmax": [MinMaxScaler((-1, 3))],
        "pca": [PCA(4)],
        "white": [PCA(3, whiten=True)],
        "all": [MinMaxScaler(), StandardScaler(with_std=False), PCA(5, whiten=True), PCA(3)],
        "none": ["passthrough", StandardScaler(with_mean=False, with_std=False)],
    }[how]
    x, y = data(3, "str")
    x = x * np.array([1, 10, 100, 0.1, 1, 1], np.float32) + np.array([0, 5, 0, 0, 0, 9], np.float32)
    model_before = make_pipeline(*steps)
    turned = model_before.fit_transform(x)
    one = fitted(sklearn, last, CLASSIFIERS, turned, y, random_state=0)
    whole = make_pipeline(*steps, one)
    model = fastnn.from_sklearn(whole)
    x64 = x.astype(np.float64)
    scores = whole.decision_function if last == "LinearSVC" else whole.predict_proba
    assert_agrees(model, x, scores(x64), how, whole.predict(x64), 0.02)
    assert np.array_equal(model.classes_, whole.classes_)
    # A narrow PCA stays a layer: that is less work than one matrix.
    is_narrow = how in ("white", "all") and last == "MLPClassifier"
    assert len(model.layers) == (3 if last == "MLPClassifier" else 1) + is_narrow


def test_estimators_that_are_refused(sklearn):
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV

    x, y = data(2, "int")
    with pytest.raises(ValueError, match="LogisticRegression: it is not fitted"):
        fastnn.from_sklearn(LogisticRegression())
    with pytest.raises(ValueError, match="RandomForestClassifier: not supported"):
        fastnn.from_sklearn(RandomForestClassifier(2).fit(x, y))
    search = GridSearchCV(LogisticRegression(), {"C": [1, 2]}).fit(x, y)
    with pytest.raises(ValueError, match="GridSearchCV: pass its best_estimator_"):
        fastnn.from_sklearn(search)
    mine = type("Mine", (LogisticRegression,), {})
    with pytest.raises(ValueError, match="Mine: not supported"):
        fastnn.from_sklearn(mine().fit(x, y))


def test_the_example(tmp_path, sklearn):
    """It runs, prints a difference that float32 explains, and is listed."""
    examples = Path(__file__).parent.parent / "examples"
    code = examples / "from_sklearn.py"
    done = subprocess.run(
        [sys.executable, code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    difference = float(done.stdout.split("largest difference")[1])
    assert 0 <= difference < 1e-5
    assert f"`{code.name}`" in (examples / "README.md").read_text()
