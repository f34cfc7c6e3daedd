"""Arrays by their names: the order, the roles and the orientation that names and shapes say.

Invariant: every network here is computed by hand, layer by layer, and compared with what the file
or mapping gives; what could be two networks is refused.
"""

import itertools
import json
import re
import string
import struct
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fastnn
from fastnn import LoadError, formats
from fastnn.formats import named
from fastnn.formats.model_file import Wrong

RNG = np.random.default_rng(8)


def network(*widths):
    """(weights (inputs, outputs), biases) for each layer, all numbers distinct."""
    return [
        (RNG.normal(size=(a, b)).astype(np.float32), RNG.normal(size=b).astype(np.float32))
        for a, b in itertools.pairwise(widths)
    ]


def arrays_of(layers, names, layout="outputs_inputs"):
    """The arrays of `layers` under (weight's name, bias's name or None) each."""
    arrays = {}
    for (weight, bias), (name, bias_name) in zip(layers, names, strict=True):
        arrays[name] = weight.T if layout == "outputs_inputs" else weight
        if bias_name:
            arrays[bias_name] = bias
    return arrays


def read(arrays, activations, layout="outputs_inputs"):
    parsed = [named.activation(text) for text in activations]
    return named.layers(arrays, parsed, layout)


def assert_is(layers, found):
    assert len(layers) == len(found)
    for (weight, bias), layer in zip(layers, found, strict=True):
        assert np.array_equal(layer.weight, weight)
        assert np.array_equal(layer.bias, bias)


# ---- names ---------------------------------------------------------------------------------------

STYLES = {
    "sequential": lambda i: (f"{2 * i}.weight", f"{2 * i}.bias"),
    "in a module": lambda i: (f"model.net.{i}.weight", f"model.net.{i}.bias"),
    "numbered": lambda i: (f"fc{i + 1}.weight", f"fc{i + 1}.bias"),
    "W0 b0": lambda i: (f"W{i}", f"b{i}"),
    "w1 b1": lambda i: (f"w{i + 1}", f"b{i + 1}"),
    "weights_0": lambda i: (f"weights_{i}", f"biases_{i}"),
    "coefs": lambda i: (f"coefs_{i}", f"intercepts_{i}"),
    "keras": lambda i: (f"dense_{i}/kernel:0", f"dense_{i}/bias:0"),
    "layers": lambda i: (f"layers.{i}.linear.weight", f"layers.{i}.linear.bias"),
    "underscores": lambda i: (f"fc{i}_weight", f"fc{i}_bias"),
}


@pytest.mark.parametrize("style", STYLES)
def test_names(style):
    layers = network(5, *[4] * 11, 3)  # two digits, and square: only the names say the order
    arrays = arrays_of(layers, [STYLES[style](i) for i in range(12)])
    shuffled = dict(sorted(arrays.items()))  # as safetensors has them: fc10 before fc2
    for given_arrays in (arrays, shuffled, dict(reversed(arrays.items()))):
        assert_is(layers, read(given_arrays, ["relu"] * 12))


def test_names_without_numbers_are_ordered_by_their_sizes():
    layers = network(5, 4, 6, 3)
    names = [("input.weight", "input.bias"), ("hidden.weight", None), ("head.weight", "head.bias")]
    layers[1] = (layers[1][0], np.zeros(6, np.float32))
    for order in itertools.permutations(arrays_of(layers, names).items()):
        assert_is(layers, read(dict(order), ["relu"] * 3))


def test_numbers_before_sizes():
    # fc1 64-64, fc2 64-64, out 64-10: both fit after each other, the numbers decide.
    layers = network(4, 4, 4, 4, 3)
    names = [(f"fc{i}.weight", f"fc{i}.bias") for i in (1, 2, 3)] + [("out.weight", "out.bias")]
    assert_is(layers, read(arrays_of(layers, names), ["relu"] * 4))


def test_one_layer():
    layers = network(5, 3)
    for names in (("weight", "bias"), ("coef_", "intercept_"), ("W", "b"), ("dense.kernel", None)):
        wanted = layers if names[1] else [(layers[0][0], np.zeros(3))]
        assert_is(wanted, read(arrays_of(layers, [names]), ["softmax"]))


def test_positions():
    layers = network(5, 4, 3)
    flat = [array for pair in layers for array in pair]
    apart = [w for w, _ in layers] + [b for _, b in layers]
    bare = [w for w, _ in layers]
    for arrays, wanted in [
        (flat, layers),
        (apart, layers),
        (bare, [(w, np.zeros(w.shape[1])) for w in bare]),
    ]:
        named_arrays = {f"arr_{i}": array for i, array in enumerate(arrays)}
        assert_is(wanted, read(named_arrays, ["relu"] * 2, "inputs_outputs"))


def test_biases_as_rows_and_columns():
    ((weight, bias),) = network(5, 3)
    for shape in ((3,), (1, 3), (3, 1)):
        arrays = {"W0": weight, "b0": bias.reshape(shape)}
        assert_is([(weight, bias)], read(arrays, ["relu"], "inputs_outputs"))


def test_batch_norm():
    (first, second) = network(5, 4, 3)
    norm = {
        "weight": RNG.normal(size=4), "bias": RNG.normal(size=4),
        "running_mean": RNG.normal(size=4), "running_var": RNG.uniform(0.5, 2, 4),
        "num_batches_tracked": np.int64(3),
    }  # fmt: skip
    scale = norm["weight"] / np.sqrt(norm["running_var"] + 1e-5)
    folded = first[0] * scale, (first[1] - norm["running_mean"]) * scale + norm["bias"]
    styles = [
        ("net.0", "net.1", "net.3"),
        ("fc1", "bn1", "fc2"),
        ("fc1", "bn1", "out"),
        ("layers.0.linear", "layers.0.norm", "layers.1.linear"),
        ("hidden", "norm", "out"),
    ]
    for one, two, three in styles:
        arrays = arrays_of([first, second], [(f"{n}.weight", f"{n}.bias") for n in (one, three)])
        arrays |= {f"{two}.{role}": array for role, array in norm.items()}
        found = read(arrays, ["identity", "relu", "softmax"])
        for got, want in zip((found[0].weight, found[0].bias), folded, strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-6)
        assert [layer.activation for layer in found] == ["relu", "softmax"]
    bare = {name: array for name, array in norm.items() if name.startswith("running")}
    arrays = arrays_of([first], [("0.weight", "0.bias")]) | {f"1.{k}": v for k, v in bare.items()}
    (layer,) = read(arrays, ["identity", "relu"])
    np.testing.assert_allclose(layer.weight, first[0] / np.sqrt(norm["running_var"] + 1e-5), 1e-6)


def with_norms(*widths):
    layers = network(*widths)
    arrays = arrays_of(layers, [("fc1.weight", None), ("fc2.weight", None), ("out.weight", None)])
    for i in (1, 2):
        mean, variance = np.full(4, float(i)), np.full(4, i - 1e-5)
        arrays |= {f"bn{i}.running_mean": mean, f"bn{i}.running_var": variance}
    return arrays


def test_a_batch_norm_of_a_square_layer_is_where_those_of_other_layers_are():
    found = read(with_norms(5, 4, 4, 2), ["identity", "relu", "identity", "relu", "identity"])
    assert len(found) == 3
    np.testing.assert_allclose(found[1].bias, np.full(4, -np.sqrt(2)), rtol=1e-6)


def test_a_batch_norm_that_fits_in_front_alone_is_in_front():
    layers = network(6, 5, 3)
    arrays = arrays_of(layers, [("fc1.weight", "fc1.bias"), ("fc2.weight", "fc2.bias")])
    arrays |= {"bn1.running_mean": np.ones(6), "bn1.running_var": np.full(6, 4 - 1e-5)}
    found = read(arrays, ["identity", "relu", "identity"])
    np.testing.assert_allclose(found[0].weight, layers[0][0] / 2, rtol=1e-6)
    np.testing.assert_allclose(
        found[0].bias, layers[0][1] - layers[0][0].sum(axis=0) / 2, rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("widths", [(4, 4, 4, 2), (4, 4, 4, 4)])
def test_a_batch_norm_that_fits_in_front_and_behind_is_refused(widths):
    with pytest.raises(Wrong) as caught:
        read(with_norms(*widths), ["identity", "relu", "identity", "relu", "identity"])
    assert caught.value.args == (
        "numbers that say which of 'bn1.running_mean' (BatchNorm of 4) and 'fc1.weight' (4 to 4) "
        "is first, such as 0 and 1",
        "one number for both, and sizes that fit either way",
    )


AMBIGUOUS = {
    "two orders": ["a.weight", "b.weight", "c.weight"],
    "a letter": ["hidden_a.weight", "hidden_b.weight"],
}


@pytest.mark.parametrize("case", AMBIGUOUS)
def test_ambiguous_names(case):
    arrays = {name: np.eye(4) for name in AMBIGUOUS[case]}
    with pytest.raises(Wrong) as caught:
        read(arrays, ["relu"] * len(arrays))
    assert "names that say the order of the layers, such as 0.weight" in caught.value.args[0]
    assert caught.value.args[1] == "two or more that fit"


def test_an_autoencoder_is_ambiguous():
    # 8-3 and 3-8, or 3-8 and 8-3: nothing in the file tells.
    arrays = {"encoder.weight": np.ones((3, 8)), "decoder.weight": np.ones((8, 3))}
    with pytest.raises(Wrong, match="two or more"):
        read(arrays, ["relu"] * 2)


W, B = np.ones((3, 4)), np.ones(3)
REFUSED = {
    "no order": ({"a.weight": W, "b.weight": W}, "none that fit"),
    "misfit": ({"0.weight": W, "1.weight": W}, r"a layer of 3 inputs after '0.weight' \(4 to 3\)"),
    "bias": ({"0.weight": W, "0.bias": W[0]}, r"3 biases beside '0.weight' of shape \(3, 4\)"),
    "cube": ({"0.weight": np.ones((1, 3, 4))}, r"of 2 dimensions.*shape \(1, 3, 4\)"),
    "norm without statistics": ({"0.weight": B, "0.bias": B}, "other layers are not supported"),
    "half a norm": ({"0.running_mean": B}, "running_mean and running_var together"),
    "empty norm": ({"0.running_mean": B[:0], "0.running_var": B[:0]}, "none"),
    "norm of two lengths": (
        {"0.weight": W, "1.running_mean": B, "1.running_var": np.ones((3, 1))}, "vectors of one",
    ),
    "variance": (
        {"0.weight": W, "1.running_mean": B, "1.running_var": -B}, "variance . epsilon is -0.9",
    ),
    "bias alone": ({"0.bias": B}, "a weight for each bias"),
    "unknown": ({"0.weight": W, "pos_embedding": W}, "found 'pos_embedding'|'pos_embedding'"),
    "half a weight": ({"0.weight_g": W, "0.weight_v": W}, "weight_g"),
    "parametrized": ({"0.parametrizations.weight.original0": W}, "original0"),
    "twice": ({"W0": W, "w_0": W}, "'w_0' beside another"),
    "long": ({"x" * 300 + ".weight": W}, "at most 200 characters"),
    "integers": ({"0.weight": np.ones((3, 4), np.int32)}, "'0.weight' of floats"),
    "infinite": ({"0.weight": np.full((3, 4), np.inf)}, "'0.weight' of finite numbers"),
    "positions of two kinds": ({"arr_0": W, "array_1": B}, "all like arr_0, arr_1"),
    "a position twice": ({"arr_0": W, "arr_00": W}, "each number once"),
    "too many vectors": ({"arr_0": W, "arr_1": B, "arr_2": B}, "1 and 2"),
    "no layer": ({}, "those of 0"),
    "too many": ({f"{i}.weight": np.ones((1, 1)) for i in range(513)}, "those of 513"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_refuses(case):
    arrays, text = REFUSED[case]
    n_layers = len({name.rsplit(".", 1)[0] for name in arrays})
    with pytest.raises(Wrong) as caught:
        read(arrays, ["relu"] * n_layers)
    expected, found = caught.value.args
    assert re.search(text, f"expected {expected}, found {found}"), (expected, found)


def test_the_search_is_bounded():
    """Names of one letter and sizes that fit in a great many ways, but not all together."""
    arrays = {f"{chr(97 + i)}.weight": np.ones((2, 2)) for i in range(24)}
    arrays["z.weight"] = np.ones((3, 3))
    with pytest.raises(Wrong, match="too many orders to try"):
        read(arrays, ["relu"] * 25)
    arrays = {f"{chr(0x4E00 + i)}.weight": np.ones((2, 2)) for i in range(500)}
    start = time.process_time()
    with pytest.raises(Wrong, match="names that say the order"):
        read(arrays, ["relu"] * 500)
    arrays = {f"{chr(97 + i % 8)}{i}.weight": np.ones((2, 2)) for i in range(500)}
    arrays["z.weight"] = np.ones((3, 3))
    with pytest.raises(Wrong, match="too many orders to try"):
        read(arrays, ["relu"] * 501)
    assert time.process_time() - start < 2


@settings(deadline=None, max_examples=200)
@given(st.dictionaries(st.text(max_size=12), st.sampled_from([W, B, W.T, np.ones((3, 3))])))
def test_any_names(arrays):
    for layout in (None, *named.LAYOUTS):
        try:
            found = read(arrays, ["relu"] * len(arrays), layout)
        except Wrong:
            continue
        assert found


# ---- orientation ---------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", named.LAYOUTS)
def test_the_layout_is_found_where_one_fits(layout):
    for widths, has_bias in [
        ((5, 4, 3), True),
        ((5, 4, 3), False),
        ((5, 3), True),
        ((4, 4, 3), True),
    ]:
        layers = network(*widths)
        names = [(f"W{i}", f"b{i}" if has_bias else None) for i in range(len(layers))]
        wanted = layers if has_bias else [(w, np.zeros(w.shape[1])) for w, _ in layers]
        arrays = arrays_of(layers, names, layout)
        if not has_bias and len(layers) == 1:
            continue
        assert_is(wanted, read(arrays, ["relu"] * len(layers), None))


def test_square_chains_need_the_layout():
    layers = network(4, 4, 4)
    names = [("W0", "b0"), ("W1", "b1")]
    for layout in named.LAYOUTS:
        arrays = arrays_of(layers, names, layout)
        with pytest.raises(Wrong, match="layout= one of inputs_outputs, outputs_inputs"):
            read(arrays, ["relu"] * 2, None)
        assert_is(layers, read(arrays, ["relu"] * 2, layout))


# ---- activations ---------------------------------------------------------------------------------


def test_activations():
    assert named.activation("relu") == ("relu", {})
    assert named.activation("leaky_relu( alpha = 2e-1 )") == ("leaky_relu", {"alpha": 0.2})
    assert named.activation("clip(lo=-1, hi=+1.5)") == ("clip", {"lo": -1.0, "hi": 1.5})
    for text, message in [
        ("rleu", "activation is 'rleu', wanted one of identity"),
        ("relu()x", "is no activation such as"),
        ("elu(alpha=1, alpha=2)", "a parameter twice"),
        ("elu(alpha)", "is no activation such as"),
        ("clip(lo=1, hi=0)", "lo=1.0 above hi=0.0"),
        ("clip", "needs the parameter 'lo'"),
        ("elu(alpha=nan)", "alpha is nan"),
        ("", "is no activation"),
    ]:
        with pytest.raises(ValueError, match=message):
            named.activation(text)


# ---- files ---------------------------------------------------------------------------------------


def safetensors_file(path, arrays, **metadata):
    header, data = {"__metadata__": metadata} if metadata else {}, b""
    for name, (dtype, array) in arrays.items():
        start = len(data)
        data += array.tobytes()
        shape = list(array.shape)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [start, len(data)]}
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def bfloat16(array):
    return (array.astype(np.float32).view(np.uint32) >> 16).astype("<u2")


def test_safetensors_of_other_programs(tmp_path):
    (weight, bias), (weight2, bias2) = network(5, 4, 3)
    path = safetensors_file(
        tmp_path / "net.safetensors",
        {
            "fc2.bias": ("F64", bias2.astype(np.float64)),
            "fc2.weight": ("F16", weight2.T.astype(np.float16)),
            "fc1.weight": ("F32", weight.T),
            "fc1.bias": ("BF16", bfloat16(bias)),
        },
        format="pt",
    )
    model = fastnn.load(path, activations=["leaky_relu(alpha=0.2)", "softmax"])
    rounded = (bfloat16(bias).astype(np.uint32) << 16).view(np.float32)
    assert_is([(weight, rounded), (weight2.astype(np.float16), bias2)], model.layers)
    assert model.layers[0].parameters["alpha"] == 0.2
    assert not model.metadata
    file = formats.read(path, activations=["relu", "softmax"])
    model = fastnn.Model(file.layers, classes=["a", "b", "c"], scale=1 / 255)
    assert set(model.predict(np.zeros((1, 5), np.uint8))) <= {"a", "b", "c"}
    with pytest.raises(LoadError, match=r'option activations=\["relu", "softmax"\].*fc2.weight'):
        fastnn.load(path)
    with pytest.raises(LoadError, match="an activation for each of 2 layers: 'fc1.weight'"):
        fastnn.load(path, activations=["relu"])
    with pytest.raises(LoadError, match="layers do not fit|a layer of|biases beside"):
        fastnn.load(path, activations=["relu"] * 2, layout="inputs_outputs")


@pytest.mark.parametrize(
    ("name", "n_activations", "layout", "text"),
    [
        ("x" * 180 + "{0}.kernel", 40, None, "expected layout= one of"),
        ("x" * 180 + "{0}.kernel", 1, "inputs_outputs", "an activation for each of 40 layers: 'x"),
        ("{1}" * 180 + ".kernel", 40, "inputs_outputs", "expected names that say the order"),
    ],
)
def test_messages_name_some_of_many_layers(tmp_path, name, n_activations, layout, text):
    letters = string.ascii_letters[:40]
    arrays = {name.format(i, c): np.ones((3, 3), np.float32) for i, c in enumerate(letters)}
    paths = tmp_path / "net.safetensors", tmp_path / "net.npz"
    safetensors_file(paths[0], {key: ("F32", array) for key, array in arrays.items()})
    np.savez(paths[1], **arrays)
    for path in paths:
        with pytest.raises(LoadError, match=text) as caught:
            fastnn.load(path, activations=["relu"] * n_activations, layout=layout)
        assert ", found " in str(caught.value)
        assert len(str(caught.value)) < 1000


def test_kernels_in_safetensors_may_lie_either_way(tmp_path):
    layers = network(4, 4, 4)
    arrays = arrays_of(
        layers, [("a0.kernel", "a0.bias"), ("a1.kernel", "a1.bias")], "inputs_outputs"
    )
    path = tmp_path / "net.safetensors"
    safetensors_file(path, {name: ("F32", array) for name, array in arrays.items()})
    with pytest.raises(LoadError, match="layout= one of"):
        fastnn.load(path, activations=["relu"] * 2)
    assert_is(layers, fastnn.load(path, activations=["relu"] * 2, layout="inputs_outputs").layers)


@pytest.mark.parametrize("dtype", ["I8", "U8", "BOOL", "F8_E4M3", "I32"])
def test_dtypes_of_safetensors_that_are_refused(tmp_path, dtype):
    sizes = {"I32": np.int32}
    path = tmp_path / "net.safetensors"
    safetensors_file(path, {"weight": (dtype, np.ones((3, 4), sizes.get(dtype, np.int8)))})
    with pytest.raises(
        LoadError, match=f"tensor 'weight' of BF16, F32, F64, F16, I64, found {dtype}"
    ):
        fastnn.load(path, activations=["relu"])


def test_counters_are_passed_over(tmp_path):
    norm = {name: ("F32", np.ones(3, np.float32)) for name in ("1.running_mean", "1.running_var")}
    path = safetensors_file(
        tmp_path / "net.safetensors",
        {
            "0.weight": ("F32", np.ones((3, 4), np.float32)),
            "1.num_batches_tracked": ("I64", np.array(7)),
            **norm,
        },
    )
    assert len(fastnn.load(path, activations=["identity", "relu"]).layers) == 1


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("layout", named.LAYOUTS)
def test_npz(tmp_path, style, layout):
    layers = network(5, 4, 3)
    arrays = arrays_of(layers, [STYLES[style](i) for i in range(2)], layout)
    path = tmp_path / "net.npz"
    np.savez(path, **arrays)
    assert_is(layers, fastnn.load(path, activations=["relu", "softmax"]).layers)
    with pytest.raises(LoadError, match="activations are not guessed"):
        fastnn.load(path)


def test_npz_of_positions_and_halves(tmp_path):
    layers = network(5, 4, 3)
    np.savez(
        tmp_path / "net.npz", *[w.astype(np.float16) for w, _ in layers], *[b for _, b in layers]
    )
    found = fastnn.load(tmp_path / "net.npz", activations=["relu", "softmax"]).layers
    assert_is([(w.astype(np.float16), b) for w, b in layers], found)


def test_our_own_files_take_no_options(tmp_path):
    for suffix in formats.SUFFIXES:
        path = tmp_path / f"net{suffix}"
        fastnn.Model([fastnn.Dense([[1.0]], [0.0])]).save(path)
        for option in ({"activations": ["relu"]}, {"layout": "inputs_outputs"}):
            with pytest.raises(ValueError, match="and layout=|, but ONNX files say it"):
                fastnn.load(path, **option)


def test_options_are_checked_before_the_file_is(tmp_path):
    path = tmp_path / "absent.npz"
    with pytest.raises(ValueError, match="layout is 'C', wanted one of inputs_outputs"):
        fastnn.load(path, layout="C")
    with pytest.raises(ValueError, match=r"activations\[0\]: .*wanted one of"):
        fastnn.load(path, activations=["swish"])
    with pytest.raises(TypeError, match="activations is a str"):
        fastnn.load(path, activations="relu")
    with pytest.raises(ValueError, match=r"activations= is given, but keras files say it"):
        fastnn.load(tmp_path / "absent.keras", activations=["relu"])


@pytest.mark.parametrize(
    ("suffix", "line"),
    [
        (".pt", r"import torch, .*\.save_file\(torch\.load\('.*net\.pt', weights_only=True\)"),
        (".pth", "save_file"),
        (".bin", "save_file"),
        (".ckpt", "save_file"),
        (".pkl", r"fastnn\.from_sklearn\(joblib\.load\('.*net\.pkl'\)\)\.save"),
        (".pickle", "from_sklearn"),
        (".joblib", "from_sklearn"),
        (".npy", r"numpy\.savez\('net\.npz', W0=numpy\.load\('.*net\.npy'\)"),
        (".tflite", r"tf2onnx\.convert --tflite .*net\.tflite --output net\.onnx"),
        (".gguf", r"\*\*\{t\.name: t\.data for t in gguf\.GGUFReader\('.*net\.gguf'\)\.tensors\}"),
    ],
)
def test_what_is_never_read_says_how_to_convert_it(tmp_path, suffix, line):
    path = tmp_path / f"net{suffix}"
    path.write_bytes(b"\x80\x04K\x01.")
    with pytest.raises(LoadError, match=rf"net\{suffix}: \{suffix} is .*; convert it: .*{line}"):
        fastnn.load(path)
