"""from_torch: modules and state dicts compute what PyTorch computes, or are refused by name.

Without PyTorch, stand-ins with its classes' names and attributes are walked, and NumPy is what they
are compared with. With it (`make test-interop`), PyTorch itself in float64 is.
"""

import copy
import itertools
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from agreement import assert_agrees

import fastnn
from fastnn import reference
from fastnn.formats import torch as reader

RNG = np.random.default_rng(5)


@pytest.fixture(name="torch", scope="module")
def fixture_torch():
    return pytest.importorskip("torch", reason="NOT TESTED: interop only, needs torch")


# ---- stand-ins -----------------------------------------------------------------------------------


def module(kind, where="torch.nn.modules.made_up", children=(), **attributes):
    """An object that looks like torch.nn's `kind`."""
    own = type(kind, (), {"__module__": where, "state_dict": None})()
    own._modules = {str(i): child for i, child in enumerate(children)}
    vars(own).update(attributes)
    return own


def sequential(*children):
    return module("Sequential", children=children)


def linear(n_inputs, n_outputs, bias=True):
    weight = RNG.normal(size=(n_outputs, n_inputs))
    return module("Linear", weight=weight, bias=RNG.normal(size=n_outputs) if bias else None)


def batch_norm(n, is_affine=True, eps=1e-5):
    weight, bias = RNG.normal(size=(2, n)) if is_affine else (None, None)
    mean, variance = RNG.normal(size=n), RNG.uniform(0.1, 2, n)
    return module(
        "BatchNorm1d", weight=weight, bias=bias, running_mean=mean, running_var=variance, eps=eps
    )


def apply(one, x):
    """What PyTorch computes, in float64, for those of the stand-ins that are no activation."""
    if type(one).__name__ == "Sequential":
        for child in one._modules.values():
            x = apply(child, x)
        return x
    if type(one).__name__ == "Linear":
        return x @ one.weight.T + (0 if one.bias is None else one.bias)
    if type(one).__name__ == "BatchNorm1d":
        scale = (1 if one.weight is None else one.weight) / np.sqrt(one.running_var + one.eps)
        return (x - one.running_mean) * scale + (0 if one.bias is None else one.bias)
    return np.maximum(x, 0) if type(one).__name__ == "ReLU" else x


def rows(n_inputs, n=500):
    return RNG.normal(size=(n, n_inputs)).astype(np.float32)


MADE = {
    "one layer": [linear(5, 3)],
    "no bias": [linear(5, 3, bias=False)],
    "nested": [sequential(linear(5, 4), sequential(module("ReLU"), linear(4, 4))), module("ReLU"),
               linear(4, 3)],
    "norm after": [linear(5, 4), batch_norm(4), module("ReLU"), linear(4, 3)],
    "norm before": [batch_norm(5), linear(5, 4), module("ReLU"), batch_norm(4, False),
                    linear(4, 3)],
    "norm at the end": [linear(5, 4), module("ReLU"), batch_norm(4, eps=0.1)],
    "dropped": [module("Flatten", start_dim=1, end_dim=-1), linear(5, 4), module("Dropout", p=0.5),
                module("ReLU"), module("Identity"), linear(4, 3), module("AlphaDropout")],
}  # fmt: skip


@pytest.mark.parametrize("name", MADE)
def test_a_sequential(name):
    one = sequential(*MADE[name])
    x = rows(5)
    assert_agrees(fastnn.from_torch(one), x, apply(one, x.astype(np.float64)), name)


FORMS = [
    ("ReLU", {}, "relu", {}),
    ("ReLU6", {}, "relu6", {}),
    ("LeakyReLU", {"negative_slope": 0.2}, "leaky_relu", {"alpha": 0.2}),
    ("PReLU", {"weight": np.array([0.3])}, "leaky_relu", {"alpha": 0.3}),
    ("RReLU", {"lower": 0.1, "upper": 0.3}, "leaky_relu", {"alpha": 0.2}),
    ("Hardtanh", {"min_val": -0.5, "max_val": 2.0}, "clip", {"lo": -0.5, "hi": 2.0}),
    ("ELU", {"alpha": 0.7}, "elu", {"alpha": 0.7}),
    ("CELU", {"alpha": 1.0}, "elu", {"alpha": 1.0}),
    ("SELU", {}, "selu", {}),
    ("GELU", {"approximate": "none"}, "gelu", {}),
    ("GELU", {"approximate": "tanh"}, "gelu_tanh", {}),
    ("SiLU", {}, "silu", {}),
    ("Sigmoid", {}, "sigmoid", {}),
    ("Tanh", {}, "tanh", {}),
    ("Hardsigmoid", {}, "hardsigmoid", {}),
    ("Hardswish", {}, "hardswish", {}),
    ("Softplus", {"beta": 1.0, "threshold": 20.0}, "softplus", {}),
    ("Softsign", {}, "softsign", {}),
    ("Softmax", {"dim": 1}, "softmax", {}),
    ("Softmax", {"dim": None}, "softmax", {}),
    ("LogSoftmax", {"dim": -1}, "log_softmax", {}),
]


@pytest.mark.parametrize(("kind", "attributes", "ours", "parameters"), FORMS)
def test_an_activation_module(kind, attributes, ours, parameters):
    model = fastnn.from_torch(sequential(linear(4, 3), module(kind, **attributes)))
    (layer,) = model.layers
    assert layer.activation == ours
    assert {k: layer.parameters[k] for k in parameters} == pytest.approx(parameters)


@pytest.mark.parametrize(
    ("kind", "attributes", "ours", "width"),
    [
        ("CELU", {"alpha": 0.5}, "elu", 0.5),
        ("CELU", {"alpha": 3}, "elu", 3.0),
        ("Softplus", {"beta": 4.0, "threshold": 20.0}, "softplus", 0.25),
    ],
)
@pytest.mark.parametrize("is_last", [False, True])
def test_a_stretched_activation_is_scaled_by_the_layers_around_it(
    kind, attributes, ours, width, is_last
):
    steps = [linear(4, 3), module(kind, **attributes), *([] if is_last else [linear(3, 2)])]
    model = fastnn.from_torch(sequential(*steps))
    first, second = model.layers
    assert (first.activation, second.activation) == (ours, "identity")
    np.testing.assert_array_equal(first.weight, np.float32(steps[0].weight.T / width))
    after = np.eye(3) if is_last else steps[2].weight.T
    np.testing.assert_array_equal(second.weight, np.float32(after * width))


def test_every_activation_module_is_here():
    assert {kind for kind, _, _, _ in FORMS} == set(reader._BY_CLASS)


BAD = [
    (
        module("Conv2d"),
        r"1 \(Conv2d\): no layer that fastnn has\. It takes chains of Linear, Batch",
    ),
    (module("Linear", where="mine.layers"), "Sequential has what is not PyTorch's own"),
    (module("Softmax", dim=0), r"1 \(Softmax\): dim is 0, wanted 1 or -1"),
    (module("CELU", alpha=0.0), r"1 \(CELU\): alpha is 0.0, wanted a number above 0"),
    (module("CELU", alpha=-1.0), r"1 \(CELU\): alpha is -1.0"),
    (module("Softplus", beta=0.0, threshold=20.0), r"beta is 0.0 and threshold 20.0"),
    (module("Softplus", beta=1.0, threshold=5.0), r"beta is 1.0 and threshold 5.0"),
    (module("PReLU", weight=np.ones(3)), r"PReLU of 3 slopes"),
    (module("Flatten", start_dim=0, end_dim=-1), r"flatten from 0 to -1"),
    (batch_norm(4), r"1 \(BatchNorm1d\): scale has shape \(4,\), wanted one number or 3"),
    (linear(4, 3), r"1 \(Linear\): weight takes 4 values, but a row has 3 here"),
    (
        module("BatchNorm1d", running_mean=None, running_var=None),
        "track_running_stats=False",
    ),
    (module("ReLU", _forward_hooks={0: print}), "1 has forward hooks"),
    (module("ReLU", forward=abs), r"1 has a forward\(\) that is not its class's"),
    (module("Linear", weight=np.ones((3, 3)) * 1j, bias=None), "a constant of complex128"),
    (module("Linear", weight=np.full((3, 3), np.nan), bias=None), r"weight has the value nan"),
]


@pytest.mark.parametrize(("bad", "text"), BAD, ids=range(len(BAD)))
def test_what_is_refused(bad, text):
    with pytest.raises(ValueError, match=rf"^from_torch: .*({text})"):
        fastnn.from_torch(sequential(linear(4, 3), bad))


def test_the_page_lists_what_is_taken():
    page = (Path(__file__).parent.parent / "docs" / "import.md").read_text()
    section = page[page.index("## PyTorch") : page.index("## scikit-learn")]
    for name in (
        *reader._LAYERS,
        *reader._BY_CLASS,
        "clamp",
        "clamp_min",
        "clamp_max",
        "exp",
        "heaviside",
    ):
        assert f"`{name}`" in section, name


def test_a_softmax_comes_last():
    with pytest.raises(ValueError, match="softmax, which only the last layer may have"):
        fastnn.from_torch(sequential(linear(4, 3), module("Softmax", dim=1), linear(3, 2)))


def test_what_is_no_network():
    for given in ("net.pt", 3, None, np.ones(3)):
        with pytest.raises(TypeError, match=r"wanted a torch\.nn\.Module or a mapping"):
            fastnn.from_torch(given)
    with pytest.raises(ValueError, match="activations are given with a module"):
        fastnn.from_torch(sequential(linear(4, 3)), ["relu"])
    with pytest.raises(ValueError, match="there is no dense layer"):
        fastnn.from_torch(sequential(module("Identity")))


def test_the_other_arguments_are_those_of_a_model():
    given = {"classes": ["a", "b", "c"], "scale": 1 / 255, "mean": 0.1, "std": 0.3, "isa": "scalar"}
    model = fastnn.from_torch(sequential(linear(4, 3)), **given)
    assert model.classes_.tolist() == ["a", "b", "c"]
    assert (model.scale, model.mean, model.std) == (1 / 255, 0.1, 0.3)
    assert model.kernels[0]["isa"] == "scalar"
    assert fastnn.from_torch(sequential(linear(4, 3)), task="regress").task == "regress"


# ---- state dicts: the names are tested in test_named.py ------------------------------------------


def test_a_state_dict():
    one = sequential(linear(5, 4), batch_norm(4), module("ReLU"), linear(4, 3))
    first, norm, _, last = one._modules.values()
    state = {
        "net.0.weight": first.weight,
        "net.0.bias": first.bias,
        "net.1.weight": norm.weight,
        "net.1.bias": norm.bias,
        "net.1.running_mean": norm.running_mean,
        "net.1.running_var": norm.running_var,
        "net.1.num_batches_tracked": np.int64(7),
        "net.3.weight": last.weight,
        "net.3.bias": last.bias,
    }
    x = rows(5)
    model = fastnn.from_torch(state, ["identity", "relu", "softmax"])
    exact = reference.softmax(apply(one, x.astype(np.float64)))
    assert_agrees(model, x, exact)


def test_a_state_dict_says_what_is_missing():
    state = {"fc1.weight": np.ones((3, 4)), "fc1.bias": np.ones(3), "fc2.weight": np.ones((2, 3))}
    with pytest.raises(ValueError, match="does not hold the activations, pass one a layer"):
        fastnn.from_torch(state)
    with pytest.raises(
        ValueError,
        match=r"expected an activation for each of 2 layers: 'fc1.weight' \(4 to 3\), "
        r"'fc2.weight' \(3 to 2\), found 3",
    ):
        fastnn.from_torch(state, ["relu"] * 3)
    with pytest.raises(ValueError, match=r"activations\[1\]: Dense: activation is 'rleu'"):
        fastnn.from_torch(state, ["relu", "rleu"])
    with pytest.raises(TypeError, match="activations is a str"):
        fastnn.from_torch(state, "relu")
    with pytest.raises(TypeError, match=r"activations\[0\] is a int"):
        fastnn.from_torch(state, [1, 2])
    with pytest.raises(TypeError, match="has the key 1"):
        fastnn.from_torch({1: np.ones(3)}, ["relu"])
    with pytest.raises(ValueError, match="'fc1.weight' of floats, found int64"):
        fastnn.from_torch({"fc1.weight": np.ones((3, 4), np.int64)}, ["relu"])


def test_nothing_is_imported():
    code = (
        "import sys, numpy, fastnn\n"
        "fastnn.from_torch({'weight': numpy.ones((2, 3))}, ['relu'])\n"
        "assert not {'torch', 'sklearn', 'keras', 'h5py', 'onnx'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# ---- PyTorch itself ------------------------------------------------------------------------------


def exact(torch, net, x):
    """The module's answer in float64, in eval()."""
    with torch.no_grad():
        return copy.deepcopy(net).double().eval()(torch.from_numpy(x).double()).numpy()


def filled(torch, net):
    """Every parameter and statistic drawn anew, so that none is 0 or 1."""
    generator = torch.Generator().manual_seed(3)
    for name, value in net.state_dict().items():
        if value.dtype.is_floating_point:
            low = 0.1 if name.endswith("running_var") else -1
            value.uniform_(low, 1, generator=generator)
    return net


@pytest.mark.parametrize("activation", [kind for kind, *_ in FORMS if kind != "PReLU"])
def test_activations_of_torch(torch, activation):
    nn = torch.nn
    kind = getattr(nn, activation)
    one = kind(dim=1) if "Softmax" in activation else kind()
    net = nn.Sequential(nn.Linear(6, 5), one)
    if "Softmax" not in activation:
        net.extend([nn.Linear(5, 4)])
    filled(torch, net)
    x = rows(6)
    assert_agrees(fastnn.from_torch(net), x, exact(torch, net, x), activation)


FUNCTIONAL = {
    "relu": "F.relu(x)",
    "in place": "F.relu(x, inplace=True)",
    "torch.relu": "torch.relu(x)",
    "method": "x.relu()",
    "in-place method": "x.relu_()",
    "relu6": "F.relu6(x)",
    "leaky_relu": "F.leaky_relu(x, 0.2)",
    "leaky_relu by name": "F.leaky_relu(x, negative_slope=0.3)",
    "elu": "F.elu(x, alpha=0.5)",
    "celu": "F.celu(x)",
    "celu of 0.7": "F.celu(x, alpha=0.7)",
    "selu": "F.selu(x)",
    "gelu": "F.gelu(x)",
    "gelu tanh": "F.gelu(x, approximate='tanh')",
    "silu": "F.silu(x)",
    "sigmoid": "torch.sigmoid(x)",
    "expit": "torch.special.expit(x)",
    "tanh": "torch.tanh(x)",
    "hardsigmoid": "F.hardsigmoid(x)",
    "hardswish": "F.hardswish(x)",
    "hardtanh": "F.hardtanh(x, -0.5, 0.5)",
    "clamp": "torch.clamp(x, -0.5, 0.25)",
    "clamp from 0": "x.clamp(min=0)",
    "clamp to": "x.clamp(max=0.1)",
    "clamp_min": "x.clamp_min(0)",
    "clamp_max": "torch.clamp_max(input=x, max=0.1)",
    "input by name": "F.leaky_relu(input=x, negative_slope=0.3)",
    "linear by name": "F.linear(input=x, weight=self.matrix, bias=self.factors)",
    "softplus": "F.softplus(x)",
    "softplus of 3": "F.softplus(x, beta=3)",
    "softsign": "F.softsign(x)",
    "exp": "torch.exp(x)",
    "heaviside": "torch.heaviside(x, self.nothing)",
    "step": "(x > 0).to(x.dtype)",
    "prelu": "F.prelu(x, self.slope)",
    "softmax": "F.softmax(x, dim=1)",
    "softmax method": "x.softmax(-1)",
    "log_softmax": "torch.log_softmax(x, dim=-1)",
    "arithmetic": "(2 - (x * self.factors + 1) / 3) * -0.5",
    "negated": "-x",
    "dropout": "F.dropout(x, 0.5, self.training)",
    "linear": "F.linear(x, self.matrix, self.factors)",
    "matmul": "x @ self.matrix.t() - self.factors",
    "addmm": "torch.addmm(self.factors, x, self.matrix.T)",
    "detach": "x.contiguous().clone()",
    "shape": "x.reshape(x.shape[0], 5)",
    "squeeze": "x.squeeze(-1)",
    "squeeze all": "x.squeeze()",
    "constants": "x * torch.sqrt(self.factors ** 2)",
    "if": "x.tanh() if self.training else x",
    "changed": "x + self.factors.add_(1)",
}


def net_of(torch, code):
    """A module of a layer, the expression `code` and, unless it ends in softmax, another layer."""
    nn = torch.nn
    last = "self.last(x)" if "softmax" not in code else "x"
    source = f"""
def forward(self, x):
    x = x.view(x.size(0), -1)
    x = self.norm(self.first(x))
    x = {code}
    return {last}
"""
    space = {"torch": torch, "F": torch.nn.functional}
    exec(source, space)
    net = type("Net", (nn.Module,), {"forward": space["forward"]})()
    net.first, net.norm, net.last = nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Linear(5, 4)
    net.slope = nn.Parameter(torch.tensor([0.2]))
    net.matrix = nn.Parameter(torch.zeros(5, 5))
    net.register_buffer("factors", torch.zeros(5))
    filled(torch, net)
    net.register_buffer("nothing", torch.zeros(()))
    return net


@pytest.mark.parametrize("name", FUNCTIONAL)
def test_functions_of_torch(torch, name):
    net = net_of(torch, FUNCTIONAL[name])
    x = rows(6).reshape(-1, 3, 2)
    was = {key: value.clone() for key, value in net.state_dict().items()}
    attributes = set(vars(net))
    model = fastnn.from_torch(net)
    assert all(torch.equal(value, was[key]) for key, value in net.state_dict().items())
    if name not in ("heaviside", "step"):  # a step may go either way where it is in doubt
        assert_agrees(model, x, exact(torch, net, x), name)
    else:
        assert "step" in [layer.activation for layer in model.layers]
        is_near = np.abs(model.forward(x) - exact(torch, net, x)) < 1e-5
        assert is_near.all(axis=1).mean() > 0.99
    # And the module is as it was.
    assert net.training
    assert all(child.training for child in net.modules())
    assert set(vars(net)) == attributes


REFUSED = {
    "residual": ("x + self.first(x[:, :6])", "it branches|no function"),
    "itself": ("x * x", "the value with itself"),
    "used again": ("F.relu(x) + x", "it branches: "),
    "in place, unused": ("(F.relu_(x), x)[1]", "it branches|not the last value"),
    "inverse": ("1 / x", "the value with itself"),
    "unknown function": ("torch.sin(x)", r"sin.*: no function that fastnn has"),
    "mish": ("F.mish(x)", "mish.*: no function that fastnn has"),
    "dim": ("F.softmax(x, dim=0)", "dim is 0"),
    "double precision": ("F.softmax(x, dim=1, dtype=torch.float16)", "dtype=torch.float16"),
    "half, too": ("torch.softmax(x, 1, torch.float16)", "more arguments"),
    "half": ("x.half()", "no function"),
    "rounded": ("x.to(torch.int64)", "a conversion to torch.int64"),
    "dropout": ("F.dropout(x, 0.5)", "dropout that is on after eval"),
    "softplus": ("F.softplus(x, 2.0, 5.0)", "beta is 2.0 and threshold 5.0"),
    "one for each row": ("x + torch.ones(500, 1)", r"a constant of shape \(500, 1\)"),
    "too many": ("x + torch.ones(3)", r"offset has shape \(3,\), wanted one number or 5"),
    "sizes": ("x * x.size(1)", "itself or its sizes"),
    "flatten": ("torch.flatten(x)", "flatten from 0"),
    "view": ("x.view(5, -1)", r"a shape that is not \(rows, values\)"),
    "wrong view": ("x.view(-1, 6)", "takes 6 values, but a row has 5 here"),
    "above": ("(x > 1).to(x.dtype)", "a comparison with something else than 0"),
    "heaviside": ("torch.heaviside(x, torch.ones(()))", "another value at 0"),
    "squeeze": ("x.squeeze(0)", "dim is 0"),
    "softmax of rows": (
        "F.softmax(F.linear(x, self.factors.reshape(1, 5)).squeeze(-1), -1)",
        "over the rows: squeeze left",
    ),
    "two numbers": (
        "torch.clamp(x, self.factors, self.factors)",
        r"a constant of shape \(5,\), wanted one",
    ),
    "a layer of a constant": ("x + self.first(torch.ones(1, 6))", "itself|branches|constant"),
    "width": ("x.view(-1, x.size(1) * 1)", "a shape that is not"),
    "on the left": ("self.matrix @ x", "on its right"),
    "control flow": ("x if x.sum() > 0 else -x", "torch.fx cannot trace the forward"),
    "argmax": ("x.argmax(1)", "argmax.*: no function"),
    "rounding": ("torch.div(x, 2, rounding_mode='floor')", "rounding_mode"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_torch_can_and_fastnn_cannot(torch, name):
    code, text = REFUSED[name]
    net = net_of(torch, code)
    with pytest.raises(ValueError, match=rf"^from_torch: .*({text})"):
        fastnn.from_torch(net)
    assert net.training


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
def test_dtypes(torch, dtype):
    nn = torch.nn
    net = filled(torch, nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)))
    net = net.to(getattr(torch, dtype))
    x = rows(6)
    want = exact(torch, net, x)
    assert_agrees(fastnn.from_torch(net), x, want)
    assert_agrees(fastnn.from_torch(net.state_dict(), ["tanh", "identity"]), x, want)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch.compile's own
def test_wrapped_and_own_classes(torch):
    nn = torch.nn

    class Scaled(nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    net = filled(torch, nn.Sequential(nn.Linear(6, 5), nn.ReLU(), Scaled(5, 3)))
    x = rows(6)
    assert_agrees(fastnn.from_torch(net), x, exact(torch, net, x))
    compiled = torch.compile(net)  # compiles nothing before it is called
    assert_agrees(fastnn.from_torch(compiled), x, exact(torch, net, x))
    normed = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(6, 5)))
    with pytest.raises(ValueError, match=r"0 \(ParametrizedLinear\)"):
        fastnn.from_torch(normed)
    for refused in (
        nn.Sequential(nn.Linear(6, 5, device="meta")),
        nn.LSTM(3, 2),
        nn.Sequential(nn.LazyLinear(3)),
    ):
        with pytest.raises(ValueError, match="^from_torch: "):
            fastnn.from_torch(refused)


def test_two_inputs_and_two_outputs(torch):
    nn = torch.nn

    class Two(nn.Module):
        def __init__(self, is_pair):
            super().__init__()
            self.fc, self.is_pair = nn.Linear(3, 2), is_pair

        def forward(self, x, y=None):
            z = self.fc(x)
            return (z, z) if self.is_pair else (z if y is None else z + y)

    with pytest.raises(ValueError, match="a second input|cannot trace"):
        fastnn.from_torch(Two(False))
    with pytest.raises(ValueError, match="a second input|not the last value alone"):
        fastnn.from_torch(Two(True))


def random_network(nn, rng):
    """1 to 8 layers, widths 1 to 300, every activation."""
    names = [kind for kind, *_ in FORMS if "Softmax" not in kind]
    widths = rng.integers(1, 301, rng.integers(1, 9)).tolist()
    children = []
    for before, after in itertools.pairwise(widths):
        children.append(nn.Linear(before, after, bias=bool(rng.integers(2))))
        nn.init.kaiming_normal_(children[-1].weight)  # so that values neither grow nor die
        if rng.integers(3) == 0:
            children.append(nn.BatchNorm1d(after))
            children[-1].running_mean.normal_()
            children[-1].running_var.uniform_(0.1, 2)
        children.append(getattr(nn, names[rng.integers(len(names))])())
        if rng.integers(3) == 0:
            children.append(nn.Dropout())
    children.append(nn.Linear(widths[-1], int(rng.integers(2, 11))))
    if rng.integers(2):
        children.append(nn.Softmax(dim=1))
    return nn.Sequential(*children), widths[0]


def test_random_networks(torch):
    doubts = []
    for seed in range(40):
        torch.manual_seed(seed)
        rng = np.random.default_rng(seed)
        net, n_inputs = random_network(torch.nn, rng)
        x = rng.normal(size=(100, n_inputs)).astype(np.float32)
        want = exact(torch, net, x)
        doubts.append(assert_agrees(fastnn.from_torch(net), x, want, f"seed {seed}", None, 0.2))
    assert np.mean(doubts) < 0.01


def test_saved_by_torch_users(torch, tmp_path):
    save = pytest.importorskip("safetensors.torch").save_file
    nn = torch.nn
    net = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 3))
    filled(torch, net)
    x = rows(6)
    want = exact(torch, net, x)
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        path = tmp_path / "net.safetensors"
        save({k: v.to(dtype) if "num" not in k else v for k, v in net.state_dict().items()}, path)
        model = fastnn.load(path, activations=["identity", "relu", "identity"])
        rounded = net.to(dtype).float()
        assert_agrees(model, x, exact(torch, rounded, x) if dtype != torch.float32 else want)


def test_the_line_that_converts_a_pickle(torch, tmp_path):
    page = (Path(__file__).parent.parent / "docs" / "import.md").read_text()
    (line,) = re.findall(r'^python -c "(.*)"$', page, re.M)
    net = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.ReLU(), torch.nn.Linear(5, 3))
    torch.save(net.state_dict(), tmp_path / "net.pt")
    subprocess.run([sys.executable, "-c", line], cwd=tmp_path, check=True)
    model = fastnn.load(tmp_path / "net.safetensors", activations=["relu", "identity"])
    x = rows(6)
    assert_agrees(model, x, exact(torch, net, x))


def test_the_example(tmp_path, torch):
    """It runs, prints a difference that float32 explains, and is listed."""
    examples = Path(__file__).parent.parent / "examples"
    code = examples / "from_torch.py"
    done = subprocess.run(
        [sys.executable, code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    difference = float(done.stdout.split("largest difference")[1])
    assert 0 <= difference < 1e-5
    assert f"`{code.name}`" in (examples / "README.md").read_text()
