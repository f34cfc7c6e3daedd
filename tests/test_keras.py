"""from_keras, .keras and .h5: what Keras computes, or a refusal by name.

Without Keras, its configurations are written by hand, and NumPy is what they are compared with; the
files in keras_files are Keras' own, with its answers. With it (`make test-interop`), models are
built, saved and compared.
"""

import copy
import importlib.util
import io
import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from agreement import assert_agrees

import fastnn
from fastnn import LoadError
from fastnn.formats import keras as reader
from fastnn.formats.model_file import Wrong

FILES = Path(__file__).parent / "keras_files"
RNG = np.random.default_rng(9)

# Keras' Variable on PyTorch, in all it does.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

needs_h5py = pytest.mark.skipif(
    importlib.util.find_spec("h5py") is None, reason="NOT TESTED: needs the extra fastnn[keras]"
)


@pytest.fixture(name="keras", scope="module")
def fixture_keras():
    os.environ.setdefault("KERAS_BACKEND", "torch")
    return pytest.importorskip("keras", reason="NOT TESTED: interop only, needs keras and torch")


# ---- configurations, by hand ---------------------------------------------------------------------


def layer(kind, name=None, module="keras.layers", **config):
    config["name"] = name or kind.lower()
    return {"module": module, "class_name": kind, "config": config, "registered_name": None}


def dense(name, units, activation="linear", use_bias=True, **config):
    return layer("Dense", name, units=units, activation=activation, use_bias=use_bias, **config)


def sequential(*entries, name="model"):
    return layer("Sequential", name, module="keras", layers=list(entries))


def node(source, **kwargs):
    tensor = {"class_name": "__keras_tensor__", "config": {"keras_history": [source, 0, 0]}}
    return [{"args": [tensor], "kwargs": kwargs}]


def functional(*entries, first="input", last=None):
    """Each after the one before, unless it says otherwise itself."""
    source = None
    entries = copy.deepcopy(list(entries))
    for entry in entries:
        entry["name"] = entry["config"]["name"]
        entry.setdefault("inbound_nodes", [] if source is None else node(source))
        source = entry["name"]
    return {
        **layer("Functional", "net", module="keras.src.models.functional", layers=entries,
                input_layers=[first, 0, 0], output_layers=[last or source, 0, 0]),
        "registered_name": "Functional",
    }  # fmt: skip


INPUT = layer("InputLayer", "input", batch_shape=[None, 5])


class Weights(dict):
    """Arrays by the name of the layer and of the variable; which were asked for."""

    def __call__(self, place, names):
        return [self[place[-1].name, name] for name in names]


def weights(**shapes):
    """{"d": (5, 3)}: kernel and bias of the layer d."""
    found = Weights()
    for name, (n_inputs, n_outputs) in shapes.items():
        found[name, "kernel"] = RNG.normal(size=(n_inputs, n_outputs)).astype(np.float32)
        found[name, "bias"] = RNG.normal(size=n_outputs).astype(np.float32)
    return found


def rows(n_inputs=5, n=300):
    return RNG.normal(size=(n, n_inputs)).astype(np.float32)


def layers_of(config, found):
    # As from a file: nothing but JSON.
    return reader.layers(json.loads(json.dumps(config)), found)


def test_dense_layers_and_activations():
    found = weights(a=(5, 4), b=(4, 3))
    x = rows()
    z = x.astype(np.float64) @ found["a", "kernel"] + found["a", "bias"]
    exact = np.maximum(z, 0) @ found["b", "kernel"]
    plain = layer("ReLU", max_value=None, negative_slope=0.0, threshold=0.0)
    for config in (
        sequential(INPUT, dense("a", 4, "relu"), dense("b", 3, use_bias=False)),
        sequential(dense("a", 4), layer("Activation", activation="relu"),
                   dense("b", 3, None, use_bias=False)),
        sequential(sequential(INPUT, dense("a", 4, plain), name="in"),
                   dense("b", 3, use_bias=False)),
        functional(INPUT, dense("a", 4, "relu"), dense("b", 3, use_bias=False)),
        functional(INPUT, functional(INPUT, dense("a", 4, "relu")), dense("b", 3, use_bias=False)),
    ):  # fmt: skip
        assert_agrees(fastnn.Model(layers_of(config, found), task="regress"), x, exact)


ACTIVATIONS = [
    (dense("d", 3, name), ours, parameters)
    for name, (ours, parameters) in reader._ACTIVATIONS.items()
]
LAYERS = [
    (layer("ReLU", max_value=None, negative_slope=0.0, threshold=0.0), "relu", {}),
    (layer("ReLU", max_value=6, negative_slope=0, threshold=0), "relu6", {}),
    (layer("ReLU", max_value=2.5, negative_slope=0, threshold=0), "clip", {"lo": 0, "hi": 2.5}),
    (layer("ReLU", max_value=None, negative_slope=0.2, threshold=0), "leaky_relu", {"alpha": 0.2}),
    (layer("LeakyReLU", negative_slope=0.3), "leaky_relu", {"alpha": 0.3}),
    (layer("LeakyReLU", alpha=0.3), "leaky_relu", {"alpha": 0.3}),  # Keras 2
    (layer("ELU", alpha=0.7), "elu", {"alpha": 0.7}),
    (layer("Softmax", axis=-1), "softmax", {}),
]


@pytest.mark.parametrize(("one", "ours", "parameters"), ACTIVATIONS + LAYERS)
def test_an_activation(one, ours, parameters):
    config = sequential(one) if one["class_name"] == "Dense" else sequential(dense("d", 3), one)
    (found,) = layers_of(config, weights(d=(5, 3)))
    assert found.activation == ours
    assert {name: found.parameters[name] for name in parameters} == parameters


def test_what_is_folded():
    found = weights(d=(6, 3))
    norm = {name: RNG.normal(size=3) for name in ("gamma", "beta", "moving_mean")}
    norm["moving_variance"] = RNG.uniform(0.5, 2, 3)
    mean, variance = RNG.normal(size=6), RNG.uniform(0.5, 2, 6)
    found |= {("n", name): array for name, array in norm.items()}
    found |= {("s", "mean"): mean, ("s", "variance"): variance}
    found = Weights(found)
    x = rows(6)
    exactly = x.astype(np.float64)  # or NumPy would round x / 255 - 1 to float32
    first = layer("InputLayer", "input", batch_shape=[None, 2, 3])
    flatten = layer("Flatten", data_format="channels_last")
    batch = layer("BatchNormalization", "n", axis=-1, epsilon=0.01, center=True, scale=True)
    standard = layer("Normalization", "s", axis=[-1], mean=None, variance=None, invert=False)

    def z(x):
        return x @ found["d", "kernel"].astype(np.float64) + found["d", "bias"]

    def normed(z):
        scale = norm["gamma"] / np.sqrt(norm["moving_variance"] + 0.01)
        return (z - norm["moving_mean"]) * scale + norm["beta"]

    plain = layer("BatchNormalization", "n", axis=[1], epsilon=0.01, center=False, scale=False)
    given_mean = {**standard["config"], "mean": 2.0, "variance": 4.0, "axis": None}
    rescaled = layer("Rescaling", scale=0.5, offset=[1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    dropped = [layer("Dropout", rate=0.5), layer("GaussianNoise"), layer("Identity")]
    bare = (z(exactly) - norm["moving_mean"]) / np.sqrt(norm["moving_variance"] + 0.01)
    for entries, exact in [
        ([first, flatten, dense("d", 3), batch], normed(z(exactly))),
        ([dense("d", 3), plain], bare),
        ([dense("d", 3), *dropped], z(exactly)),
        ([layer("Rescaling", scale=1 / 255, offset=-1), dense("d", 3)], z(exactly / 255 - 1)),
        ([first, flatten, rescaled, dense("d", 3)], z(exactly * 0.5 + np.arange(1, 7))),
        ([standard, dense("d", 3)], z((exactly - mean) / np.sqrt(variance))),
        ([layer("Normalization", **given_mean), dense("d", 3)], z((exactly - 2) / 2)),
    ]:
        (one,) = layers_of(sequential(*entries), found)
        assert_agrees(fastnn.Model([one], task="regress"), x, exact)


def changed(entry, **changes):
    return {**entry, **changes}


def configured(entry, **changes):
    return {**entry, "config": {**entry["config"], **changes}}


D = dense("d", 3)
REFUSED = {
    "lambda": (sequential(layer("Lambda", "evil", function="code")),
               r"layers of the classes Dense, .*'evil' of the class 'Lambda'"),
    "serialised lambda": (sequential(changed(D, class_name="__lambda__")), "'__lambda__'"),
    "convolution": (sequential(layer("Conv2D")), "'conv2d' of the class 'Conv2D'"),
    "custom module": (sequential(changed(D, module="os.path")), "custom.*'os.path.Dense'"),
    "no module": (sequential(changed(D, module=None)), "custom and registered"),
    "like keras": (sequential(changed(D, module="kerasevil")), "'kerasevil.Dense'"),
    "registered": (sequential(changed(D, registered_name="my>Dense")), "'my>Dense'"),
    "custom activation": (sequential(dense("d", 3, {"module": "builtins", "class_name": "function",
                                                    "config": "system", "registered_name": "x"})),
                          "the activation .* is not supported"),
    "unknown activation": (sequential(dense("d", 3, "mish")), "the activation 'mish' is not"),
    "activation as list": (sequential(dense("d", 3, ["relu"])), "the activation .* is not supp"),
    "dense as activation": (sequential(dense("d", 3, D)), "the activation .* is not supported"),
    "quantized": (sequential(dense("d", 3, quantization_config={"a": 1})), "quantized layers"),
    "quantized dtype": (sequential(dense("d", 3, dtype={"class_name": "QuantizedDTypePolicy"})),
                        "'QuantizedDTypePolicy' is not supported"),
    "LoRA": (sequential(dense("d", 3, lora_rank=2)), "LoRA"),
    "units": (sequential(dense("d", 4)), r"kernel has shape \(5, 3\) for 4 units"),
    "units of text": (sequential(dense("d", "3")), r"for '3' units"),
    "bias of text": (sequential(dense("d", 3, use_bias="no")), "use_bias is 'no'"),
    "misfit": (sequential(D, dense("e", 3)), "takes 5 values, but a row has 3"),
    "softmax axis": (sequential(D, layer("Softmax", axis=0)), "axis is 0"),
    "axis of size 1": (sequential(layer("InputLayer", batch_shape=[None, 1, 5]), D,
                                  layer("Softmax", axis=1)), "axis 1 of values in more than one"),
    "softmax of rows": (sequential(layer("InputLayer", batch_shape=[None, 5, 1]),
                                   layer("Softmax", axis=-1), layer("Flatten"), D),
                        "Softmax, over all values of a row, found those of the last of several"),
    "log_softmax of rows": (sequential(layer("InputLayer", batch_shape=[None, 5, 1]),
                                       layer("Activation", activation="log_softmax")),
                            "Activation, over all values of a row, found those of the last"),
    "softmax in an activation": (sequential(layer("InputLayer", batch_shape=[None, 2, 5]),
                                            layer("Activation", activation=layer("Softmax"))),
                                 "Activation, over all values of a row, found those of the last"),
    "threshold": (sequential(D, layer("ReLU", max_value=None, threshold=1.0)), "threshold"),
    "slope and top": (sequential(D, layer("ReLU", max_value=1, negative_slope=0.1)), "together"),
    "slope": (sequential(D, layer("LeakyReLU", negative_slope="0.1")), "negative_slope is '0.1'"),
    "no slope": (sequential(D, layer("LeakyReLU")), "negative_slope is None"),
    "channels": (sequential(layer("Flatten", data_format="channels_first"), D), "channels_first"),
    "norm axis": (sequential(D, layer("BatchNormalization", axis=2)), "axis is 2"),
    "renorm": (sequential(D, layer("BatchNormalization", axis=-1, renorm=True)), "renorm"),
    "scale": (sequential(layer("Rescaling", scale="1", offset=0), D), "scale is '1'"),
    "scale of nothing": (sequential(layer("Rescaling", scale=None, offset=0), D), "scale is None"),
    "scales": (sequential(INPUT, layer("Rescaling", scale=[1.0, 2.0], offset=0), D),
               r"scale has shape \(2,\), wanted one number or 5"),
    "inverse": (sequential(layer("Normalization", axis=-1, invert=True), D), "invert"),
    "variance": (sequential(layer("Normalization", axis=-1, mean=0.0, variance=-1.0), D), "below"),
    "inputs of 8,000 sizes": (sequential(layer("InputLayer", batch_shape=[None] + [2**23] * 8000),
                                          layer("ReLU")), "the number of its values is not known"),
    "variance that overflows": (sequential(layer("Normalization", axis=-1, mean=1e308,
                                                 variance=0.0), D), "finite in float32"),
    "only dropout": (sequential(INPUT, layer("Dropout")), "there is no dense layer"),
    "no layers": (sequential(), "a list of layers"),
    "layers of text": (configured(sequential(D), layers="Dense"), "a list of layers"),
    "a layer of text": (sequential("Dense"), "layers as objects"),
    "no config": (sequential({"class_name": "Dense"}), "layers as objects"),
    "no name": (sequential(configured(D, name=None)), "layers with names"),
    "a name twice": (sequential(D, D), "layers with names of their own"),
    "a model class": (changed(sequential(D), class_name="Subclassed"), "a model of a class in"),
    "no model": ({}, "layers as objects"),
    "branch": (functional(INPUT, D, changed(dense("e", 3), inbound_nodes=node("input"))),
               "two that take what 'input' gives"),
    "shared": (functional(INPUT, changed(D, inbound_nodes=node("input") * 2)), "to be called once"),
    "merged": (functional(INPUT, changed(D, inbound_nodes=[{"args": [1, 2], "kwargs": {}}])),
               "one tensor for 'd'"),
    "merged list": (functional(INPUT, changed(D, inbound_nodes=[{"args": [[1, 2]], "kwargs": {}}])),
                    "one tensor for 'd'"),
    "options": (functional(INPUT, changed(D, inbound_nodes=node("input", training=True))),
                "with one tensor alone"),
    "two inputs": (configured(functional(INPUT, D), input_layers=[["input", 0, 0]] * 2),
                   "one tensor for input_layers"),
    "no input": (functional(INPUT, D, first="nobody"), "the input to be a layer"),
    "input in the middle": (functional(INPUT, D, first="d"), "the input to be a layer"),
    "no output": (functional(INPUT, D, last="nobody"), "a chain of layers to 'nobody'"),
    "beside": (functional(INPUT, D, last="input"), "layers beside it"),
    "cycle": (functional(changed(D, inbound_nodes=node("e")), dense("e", 3), first="d"),
              "the input to be a layer|a chain"),
    "second output": (functional(INPUT, changed(D, inbound_nodes=[{"args": [{"config": {
        "keras_history": ["input", 0, 1]}}], "kwargs": {}}])), "one tensor for 'd'"),
    "too many": (sequential(*[layer("Dropout", f"d{i}") for i in range(4097)]), "at most 4096 lay"),
    "a tensor of no name": (functional(INPUT, changed(D, inbound_nodes=[{"args": [{"config": {
        "keras_history": [1, 0, 0]}}], "kwargs": {}}])), "the name of a layer for 'd'"),
    "nodes of text": (functional(INPUT, changed(D, inbound_nodes="x")), "to be called once"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_refuses(case):
    config, text = REFUSED[case]
    with pytest.raises(Wrong) as caught:
        layers_of(config, weights(d=(5, 3), e=(5, 3)))
    expected, found = caught.value.args
    assert re.search(text, f"expected {expected}, found {found}"), (expected, found)


def test_models_in_models_have_a_limit():
    config = sequential(dense("d", 3))
    for _ in range(8):
        config = sequential(config)
    assert len(layers_of(config, weights(d=(5, 3)))) == 1
    with pytest.raises(Wrong, match="8 deep"):
        layers_of(sequential(config), weights(d=(5, 3)))


def test_where_layers_are():
    """The numbers that .keras files count layers of a class by."""
    inner = sequential(dense("a", 3), layer("LeakyReLU", "r", alpha=1.0), dense("b", 3), name="in")
    places = []

    def found(place, names):
        places.append("/".join(level.stored for level in place))
        return [np.ones((3, 3)), np.ones(3)]

    layers_of(sequential(dense("c", 3), inner, dense("d", 3), dense("e", 3)), found)
    assert places == ["dense", "sequential/dense", "sequential/dense_1", "dense_1", "dense_2"]
    assert reader._snake_case("BatchNormalization") == "batch_normalization"
    assert reader._snake_case("LeakyReLU") == "leaky_re_lu"


def test_what_is_no_model():
    for given in (None, "model.keras", {}):
        with pytest.raises(TypeError, match=r"wanted a Sequential or functional model of Keras 3"):
            fastnn.from_keras(given)


# ---- files that Keras wrote ----------------------------------------------------------------------


@needs_h5py
@pytest.mark.parametrize("path", sorted(FILES.glob("*.[kh]*")), ids=lambda path: path.name)
def test_a_file_of_keras(path):
    expected = np.load(path.with_suffix(".npz"))
    model = fastnn.load(path)
    x = expected["rows"]
    names = [one.activation for one in model.layers]
    assert names == (["elu", "gelu", "identity"] if "functional" in path.name
                     else ["relu", "leaky_relu", "softmax"])  # fmt: skip
    # Keras' answers are float32, too: they may be as far off as ours.
    got, want = model.forward(x).reshape(len(x), -1), expected["outputs"]
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def test_the_files_are_here():
    assert len(list(FILES.glob("*.keras"))) == 2
    assert len(list(FILES.glob("*.h5"))) == 4


@needs_h5py
def test_keras_and_h5py_are_not_imported():
    code = (
        "import sys, fastnn\n"
        f"fastnn.load({str(FILES / 'sequential3.keras')!r})\n"
        f"fastnn.load({str(FILES / 'sequential3.h5')!r})\n"
        "assert not {'torch', 'keras', 'tensorflow', 'h5py'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def rewritten(path, name, **entries):
    """A .keras file with some entries replaced (None: left out), or added."""
    with zipfile.ZipFile(FILES / name) as archive:
        found = {entry: archive.read(entry) for entry in archive.namelist()}
    found |= {key.replace("__", "."): value for key, value in entries.items()}
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for key, value in found.items():
            if value is not None:
                archive.writestr(key, value)
    path.write_bytes(packed.getvalue())
    return path


@needs_h5py
def test_entries_of_an_archive(tmp_path):
    path = tmp_path / "a.keras"
    sound = fastnn.load(FILES / "sequential3.keras")
    again = fastnn.load(rewritten(path, "sequential3.keras"))  # deflated
    assert np.array_equal(again.layers[0].weight, sound.layers[0].weight)
    config = json.loads(zipfile.ZipFile(path).read("config.json"))
    del config["config"]["layers"][1:]
    for entries, text in [
        ({"config__json": None}, "an entry config.json"),
        ({"assets/evil": b""}, "at most 3 entries, found 4"),
        ({"metadata__json": None, "a": b""}, "only the entries metadata.json, .*, found 'a'"),
        ({"metadata__json": b'{"keras_version": "2.15.0"}'}, "a file of Keras 3, found version '2"),
        ({"metadata__json": b"{}"}, "a file of Keras 3, found version None"),
        ({"metadata__json": b"[]"}, "metadata.json to be a JSON object"),
        ({"config__json": b'{"a": NaN}'}, "finite numbers in config.json"),
        ({"config__json": b'{"a": 1, "a": 2}'}, "each key of config.json once"),
        ({"config__json": b"[" * 50_000}, "at most 64 levels in config.json, found 50000"),
        ({"config__json": b"[" * 100_000}, "at most 65536 lists in config.json"),
        ({"metadata__json": b'{"a": [' + b"[]," * 10_000 + b"1]}"}, "lists in metadata.json"),
        ({"config__json": b" " * (1 << 20) + b"{}"}, "config.json of at most 1048576 bytes"),
        ({"metadata__json": b" " * (1 << 16) + b"{}"}, "metadata.json of at most 65536 bytes"),
        ({"config__json": b'{"a": [' + b"1," * 70_000 + b"1]}"}, "commas in config.json"),
        ({"config__json": json.dumps(config).encode()}, "there is no dense layer"),
        ({"model.weights__h5": b"nothing"}, "an HDF5 file from the first byte on"),
        ({"model.weights__h5": (FILES / "functional3.h5").read_bytes()}, "kernel at 'layers/dense"),
    ]:
        with pytest.raises(LoadError, match=rf"a\.keras: keras: expected .*{text}"):
            fastnn.load(rewritten(path, "sequential3.keras", **entries))


@needs_h5py
def test_an_archive_is_never_larger_than_allowed(tmp_path):
    from fastnn import formats

    path = rewritten(tmp_path / "a.keras", "sequential3.keras")
    with pytest.raises(LoadError, match="at most 1000 bytes"):
        formats.read(path, max_bytes=1000)
    size = path.stat().st_size
    with pytest.raises(LoadError, match="bytes unpacked"):
        formats.read(path, max_bytes=size)


# ---- Keras itself --------------------------------------------------------------------------------


def exact(keras, model, x):
    """The model's answer in float64."""
    keras.backend.set_floatx("float64")
    try:
        config = json.loads(model.to_json().replace('"float32"', '"float64"'))
        other = keras.models.model_from_json(json.dumps(config))
        other.set_weights([np.asarray(w) for w in model.get_weights()])
        return other.predict(x.astype(np.float64), verbose=0)
    finally:
        keras.backend.set_floatx("float32")


def filled(model, seed=0):
    rng = np.random.default_rng(seed)
    model.set_weights(
        [w if w.dtype.kind != "f" else
         (rng.uniform(0.2, 1, w.shape) if w.ndim == 1 else
          rng.normal(size=w.shape) / np.sqrt(len(w))).astype(w.dtype)
         for w in model.get_weights()]
    )  # fmt: skip
    return model


@pytest.mark.parametrize("name", [*reader._ACTIVATIONS])
def test_activations_of_keras(keras, name):
    layers = keras.layers
    last = [] if "softmax" in name else [layers.Dense(3)]
    model = filled(keras.Sequential([keras.Input((6,)), layers.Dense(5, name), *last]))
    x = rows(6)
    assert_agrees(fastnn.from_keras(model), x, exact(keras, model, x), name)


def test_every_activation_of_keras_is_known_or_refused(keras):
    for name in vars(keras.activations):
        if name.startswith("_") or name in ("get", "serialize", "deserialize"):
            continue
        model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(4, name)])
        if name in reader._ACTIVATIONS:
            fastnn.from_keras(model)
        else:
            with pytest.raises(ValueError, match=f"the activation '{name}' is not supported"):
                fastnn.from_keras(model)


def random_model(keras, rng):
    """1 to 8 layers, widths 1 to 300, every activation, Sequential or functional, nested or not."""
    layers = keras.layers
    names = [name for name in reader._ACTIVATIONS if "softmax" not in name]
    width = int(rng.integers(1, 301))
    first = keras.Input((width,))
    chain = [layers.Rescaling(0.5, 0.1)] if rng.integers(2) else []
    for _ in range(rng.integers(0, 8)):
        units = int(rng.integers(1, 301))
        chain.append(layers.Dense(units, names[rng.integers(len(names))], rng.integers(2) == 1))
        if rng.integers(3) == 0:
            chain.append(layers.BatchNormalization(scale=rng.integers(2) == 1))
        if rng.integers(3) == 0:
            chain.append(layers.Dropout(0.5))
        if rng.integers(4) == 0:
            chain.append(layers.LeakyReLU(0.1))
    chain.append(layers.Dense(int(rng.integers(2, 11))))
    if rng.integers(2):
        chain.append(layers.Softmax())
    how = rng.integers(3)
    if how == 0:
        return keras.Sequential([first, *chain])
    if how == 1:
        half = len(chain) // 2
        chain = [keras.Sequential(chain[:half]), *chain[half:]] if half else chain
    y = first
    for one in chain:
        y = one(y)
    return keras.Model(first, y)


@needs_h5py
@pytest.mark.filterwarnings("ignore")  # of Keras, about the older format
def test_random_models(keras, tmp_path):
    doubts = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        model = filled(random_model(keras, rng), seed)
        x = rng.normal(size=(100, model.input_shape[1])).astype(np.float32)
        want = exact(keras, model, x)
        found = fastnn.from_keras(model)
        doubts.append(assert_agrees(found, x, want, f"seed {seed}", None, 0.3))
        for suffix in (".keras", ".h5") if seed % 4 == 0 else ():  # each is a process
            model.save(tmp_path / f"net{suffix}")
            other = fastnn.load(tmp_path / f"net{suffix}")
            assert np.array_equal(other.forward(x), found.forward(x)), (seed, suffix)
    assert np.mean(doubts) < 0.01


def test_dtypes_of_keras(keras):
    for policy in ("mixed_bfloat16", "bfloat16", "float16", "float64"):
        layers = keras.layers
        model = keras.Sequential(
            [
                keras.Input((6,)),
                layers.Dense(5, "relu", dtype=policy),
                layers.Dense(3, dtype=policy),
            ]
        )
        found = fastnn.from_keras(filled(model))
        for i, one in enumerate(model.layers):
            kernel = np.asarray(one.kernel).astype(np.float64)
            assert np.array_equal(found.layers[i].weight, kernel.astype(np.float32))


def test_normalization_of_keras(keras):
    layers = keras.layers
    data = np.random.default_rng(1).normal(3, 2, (50, 6)).astype(np.float32)
    for axis in (-1, None):
        norm = layers.Normalization(axis=axis)
        norm.adapt(data)
        model = keras.Sequential([keras.Input((6,)), norm, layers.Dense(3, "softmax")])
        x = rows(6)
        assert_agrees(fastnn.from_keras(model), x, exact(keras, model, x))


def test_softmax_of_rows_in_a_sequence(keras):
    """Where the number of rows is open, a row is the last axis."""
    layers = keras.layers
    model = keras.Sequential(
        [keras.Input((None, 6)), layers.Dense(4, "relu"), layers.Dense(3, "softmax")]
    )
    x = rows(6)
    want = exact(keras, filled(model), x.reshape(-1, 3, 6)).reshape(-1, 3)
    assert_agrees(fastnn.from_keras(model), x, want)


def test_softmax_of_one_axis_among_others(keras):
    layers = keras.layers
    model = keras.Sequential([keras.Input((1, 4)), layers.Dense(3), layers.Softmax()])
    x = rows(4)
    want = exact(keras, model, x.reshape(-1, 1, 4)).reshape(-1, 3)
    assert_agrees(fastnn.from_keras(model), x, want)


@pytest.mark.filterwarnings("ignore")
def test_what_keras_can_and_fastnn_cannot(keras):
    layers, x = keras.layers, keras.Input((4,))
    y = layers.Dense(4, name="d")(x)

    class Own(keras.Model):
        def call(self, x):
            return x

    def gelu(x):
        return 2 * x

    twice = layers.Dense(4, name="twice")
    registered = keras.saving.register_keras_serializable("my")(type("Dense", (layers.Dense,), {}))
    for model, text in [
        (keras.Model(x, layers.Add()([x, y])), "two that take|called|one tensor"),
        (keras.Sequential([x, layers.Lambda(lambda x: x)]), "custom|Lambda"),
        (keras.Sequential([x, registered(3)]), "'my>Dense'"),
        (keras.Sequential([keras.Input((4, 4, 1)), layers.Conv2D(1, 2)]), "Conv2D"),
        (keras.Sequential([x, layers.Dense(3, lambda x: x)]), "activation|custom"),
        (keras.Sequential([x, twice, twice]), "once, found twice twice"),
        (keras.Sequential([x, keras.Sequential([twice, twice])]), "once, found twice twice"),
        (keras.Sequential([x, layers.Dense(3, gelu)]), "keras.activations.gelu, found gelu of"),
        (keras.Sequential([x, layers.Activation(keras.ops.gelu), twice]), "gelu, found gelu of"),
        (keras.Model(x, [y, x]), "chain|one tensor|two that"),
        (keras.Sequential([layers.Dense(3)]), "build or call the model first"),
        (
            keras.Sequential([keras.Input((2, 3)), layers.Softmax(), layers.Flatten()]),
            "over all values of a row, found those of the last of several axes",
        ),
        (Own(), "model is a Own, wanted a Sequential or functional model"),
    ]:
        with pytest.raises((ValueError, TypeError), match=rf"^from_keras: .*({text})"):
            fastnn.from_keras(model)


def test_the_page_lists_what_is_taken():
    page = (Path(__file__).parent.parent / "docs" / "import.md").read_text()
    section = page[page.index("## Keras") : page.index("## `.safetensors`")]
    dropped = [name for name, add in reader._LAYERS.items() if add is reader._drop]
    for name in reader._LAYERS.keys() - {*dropped, "Softmax"} | reader._ACTIVATIONS.keys():
        assert re.search(rf"\b{name}\b", section), name
