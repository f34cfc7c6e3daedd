"""Dense: what it accepts, what it refuses and in which words, and that it never changes."""

import copy
import pickle

import numpy as np
import pytest

import fastnn
from fastnn import Dense

W = [[1, 2], [3, 4], [5, 6]]
B = [0.5, -0.5]


def test_arrays_are_read_only_float32_copies():
    weight, bias = np.ones((2, 3), order="F"), np.zeros(3)
    layer = Dense(weight, bias)
    weight[:] = 7
    assert layer.weight.dtype == layer.bias.dtype == np.float32
    assert layer.weight.flags.c_contiguous
    assert layer.weight.tolist() == [[1, 1, 1], [1, 1, 1]]
    assert (layer.n_inputs, layer.n_outputs, layer.activation) == (2, 3, "identity")
    for array in (layer.weight, layer.bias):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1


def test_views_of_bytes_are_kept_and_others_copied():
    values = np.arange(6, dtype=np.float32)
    padded = b"\0" * 4 + values.tobytes()
    ours = np.frombuffer(padded, np.float32, 6, 4).reshape(2, 3)
    assert np.shares_memory(Dense(ours, np.zeros(3)).weight, ours)
    view = np.frombuffer(memoryview(padded)[4:], np.float32).reshape(2, 3)
    assert np.shares_memory(Dense(view, np.zeros(3)).weight, ours)
    may_change = np.frombuffer(bytearray(padded), np.float32, 6, 4).reshape(2, 3)
    may_change.flags.writeable = False  # its owner may still write
    askew = np.frombuffer(b"\0" + values.tobytes(), np.float32, 6, 1).reshape(2, 3)
    swapped = np.frombuffer(values.astype(">f4").tobytes(), ">f4").reshape(2, 3)
    for other in (may_change, askew, swapped, ours[::-1], np.asfortranarray(ours)):
        layer = Dense(other, np.zeros(3))
        assert not np.shares_memory(layer.weight, other)
        np.testing.assert_array_equal(layer.weight, other)
        assert layer.weight.dtype == np.float32
        assert layer.weight.flags.c_contiguous
        assert layer.weight.flags.aligned


def test_it_never_changes():
    layer = Dense(W, B)
    with pytest.raises(AttributeError, match="never changes"):
        layer.activation = "relu"
    with pytest.raises(AttributeError):
        layer.something = 1
    with pytest.raises(AttributeError, match="never changes"):
        del layer.bias
    with pytest.raises(TypeError):
        layer.parameters["alpha"] = 1.0


@pytest.mark.parametrize("name", fastnn.activations())
def test_parameters_come_from_the_c_list_in_its_order(name):
    known = fastnn.activations()[name]["parameters"]
    given = {key: float(i) for i, key in enumerate(known) if known[key] is None}
    layer = Dense(W, B, name, **dict(reversed(given.items())))
    assert list(layer.parameters) == list(known)
    assert layer.parameters == {**known, **given}


def test_a_given_parameter_replaces_the_default():
    assert Dense(W, B, "leaky_relu", alpha=0.1).parameters == {"alpha": 0.1}
    assert Dense(W, B, "hardsigmoid", beta=np.float32(0.25)).parameters["beta"] == 0.25


@pytest.mark.parametrize(
    ("arguments", "parameters", "kind", "message"),
    [
        (([1, 2], [0]), {}, ValueError, r"Dense: weight has shape \(2,\), wanted \(inputs"),
        ((np.ones((0, 2)), B), {}, ValueError, r"weight has shape \(0, 2\)"),
        ((np.ones((2, 0)), []), {}, ValueError, r"weight has shape \(2, 0\)"),
        ((W, [0]), {}, ValueError, r"bias has shape \(1,\), wanted \(2,\) for weight .*\(3, 2\)"),
        ((W, [B]), {}, ValueError, r"bias has shape \(1, 2\)"),
        ((W, 0), {}, ValueError, r"bias has shape \(\)"),
        (([[1], [1, 2]], B), {}, ValueError, "weight is ragged"),
        (([["1", "2"]], B), {}, TypeError, "weight has dtype <U1, wanted real numbers"),
        (([[1j, 2]], B), {}, TypeError, "weight has dtype complex128"),
        (([[None, 2]], B), {}, TypeError, "weight has dtype object"),
        (([[1, np.nan]], B), {}, ValueError, r"weight has the value nan at \[0, 1\]"),
        ((W, [0, -np.inf]), {}, ValueError, r"bias has the value -inf at \[1\]"),
        ((W, [0, 1e39]), {}, ValueError, r"bias has the value 1e\+39 at \[1\]"),
        ((W, B, "Relu"), {}, ValueError, "activation is 'Relu', wanted one of identity, step, sig"),
        ((W, B, None), {}, TypeError, "activation is a NoneType, wanted a name"),
        ((W, B, "relu"), {"alpha": 1}, ValueError, "relu has no parameter 'alpha', only none"),
        ((W, B, "elu"), {"beta": 1}, ValueError, "elu has no parameter 'beta', only alpha"),
        ((W, B, "clip"), {"lo": 1}, ValueError, "clip needs the parameter 'hi'"),
        ((W, B, "clip"), {"lo": 2, "hi": 1}, ValueError, r"clip has lo=2\.0 above hi=1\.0"),
        ((W, B, "elu"), {"alpha": "1"}, TypeError, "elu: alpha is '1', wanted a number"),
        ((W, B, "elu"), {"alpha": True}, TypeError, "elu: alpha is True, wanted a number"),
        ((W, B, "elu"), {"alpha": 1j}, TypeError, "elu: alpha is 1j, wanted a number"),
        ((W, B, "elu"), {"alpha": np.nan}, ValueError, "elu: alpha is nan, wanted .* finite"),
        ((W, B, "elu"), {"alpha": 1e39}, ValueError, r"elu: alpha is 1e\+39, wanted .* finite"),
    ],
)
def test_refusals(arguments, parameters, kind, message):
    with pytest.raises(kind, match=message):
        Dense(*arguments, **parameters)


def test_repr():
    assert repr(Dense(W, B)) == "<fastnn.Dense 3-2 identity>"
    assert repr(Dense(W, B, "clip", lo=-1, hi=0.1)) == "<fastnn.Dense 3-2 clip(lo=-1, hi=0.1)>"


def test_pickle_goes_through_the_constructor():
    layer = Dense(W, B, "leaky_relu", alpha=0.1)
    again = pickle.loads(pickle.dumps(layer))
    np.testing.assert_array_equal(again.weight, layer.weight)
    np.testing.assert_array_equal(again.bias, layer.bias)
    assert (again.activation, again.parameters) == ("leaky_relu", {"alpha": 0.1})
    assert not again.weight.flags.writeable
    rebuild, state = layer.__reduce__()
    with pytest.raises(ValueError, match="bias has shape"):
        rebuild(state[0], state[1][:1], *state[2:])
    assert copy.copy(layer) is copy.deepcopy(layer) is layer


def test_a_layer_cannot_be_made_again() -> None:
    layer = Dense([[1.0]], [0.0])
    with pytest.raises(RuntimeError, match="never changes"):
        layer.__init__([[2.0]], [1.0])
    with pytest.raises(ValueError, match="WRITEABLE"):
        layer.weight.flags.writeable = True
    assert layer.weight[0, 0] == 1
