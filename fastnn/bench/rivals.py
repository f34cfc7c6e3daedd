"""How each system is driven in its fastest form, on the weights and rows that fastnn is given.

Invariant: a form is timed only after its answers to real rows agreed with a float64 forward pass
(`check`). Rivals stop at z of the last layer (no softmax, no argmax is timed), in float32, on
`n_threads` threads. A system comes in every form that may be its fastest. This file imports a
system only when its forms are made; a system that lacks a package or an activation says so.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np

from fastnn.bench.workload import Workload

if TYPE_CHECKING:
    import numpy.typing as npt

    from fastnn.layers import Dense

__all__ = ["SYSTEMS", "Form", "System", "check", "forms", "missing", "versions"]

Call = Callable[["npt.NDArray[Any]"], Any]


@dataclass(frozen=True)
class Form:
    """One way to have a system compute."""

    name: str
    call: Call
    """What is timed: rows of shape (batch, inputs) to an answer."""
    logits: Call | None = None
    """z of the last layer, shape (batch, outputs); None where `call` returns that."""


@dataclass(frozen=True)
class System:
    """Who takes part."""

    name: str
    modules: tuple[str, ...]
    """What has to be importable."""
    packages: tuple[str, ...]
    """What to install for that; the first is the one whose version is reported."""
    make: Callable[[Workload, int], Iterator[Form]]


class Unsupported(Exception):
    """The system has no such activation, or this file does not know how it is called there."""


def missing(system: System) -> str | None:
    """What is not installed that the system needs, or None."""
    if all(find_spec(module) is not None for module in system.modules):
        return None
    return f"not installed (pip install {' '.join(system.packages)})"


def versions() -> dict[str, str]:
    """{package: version} of what is installed here."""
    found = {}
    for system in SYSTEMS:
        for package in system.packages:
            with contextlib.suppress(PackageNotFoundError):
                found[package] = version(package)
    if "fastnn" not in found:  # built in place
        import fastnn

        found["fastnn"] = fastnn.__version__
    return found


def forms(system: System, workload: Workload, n_threads: int) -> list[Form]:
    """Every form of the system, each checked. Raises `Unsupported`, or AssertionError if wrong."""
    made = list(system.make(workload, n_threads))
    for form in made:
        check(form, workload)
    return made


def check(form: Form, workload: Workload) -> None:
    """Raise AssertionError unless the form's answers to the workload's rows are right.

    z within 1e-4 relative or 1e-5 of the largest; labels where the best is clear.
    """
    for rows in (workload.batches[0], workload.batches[-1]):
        z = workload.expected(rows)
        answer = np.asarray(form.call(rows))
        found = answer if form.logits is None else np.asarray(form.logits(rows))
        found = found.reshape(z.shape) if found.size == z.size else found
        size = float(np.abs(z).max())
        wrong = f"{form.name}: wrong answers"
        np.testing.assert_allclose(found, z, rtol=1e-4, atol=1e-5 * size, err_msg=wrong)
        classes = workload.model.classes_
        if form.logits is not None and answer.ndim == 1 and classes is not None and z.shape[1] > 1:
            second, first = np.partition(z, -2, axis=1)[:, -2:].T
            clear = first - second > 1e-4 * size
            assert np.array_equal(answer[clear], classes[z.argmax(axis=1)[clear]]), wrong


# ---- fastnn ----


def _fastnn(workload: Workload, n_threads: int) -> Iterator[Form]:
    """With a fresh array at every call, and with `out=`; its labels are more than rivals give.

    Without `threads=` where FASTNN_NUM_THREADS says it: a name costs 50 ns.
    """
    model = workload.model
    more: dict[str, Any] = (
        {} if os.environ.get("FASTNN_NUM_THREADS") == str(n_threads) else {"threads": n_threads}
    )
    logits = partial(model.decision_function, threads=n_threads)
    out = np.empty_like(model.predict(workload.batches[0]))
    yield Form("predict", partial(model.predict, **more) if more else model.predict, logits)
    yield Form("predict, out=", partial(model.predict, out=out, **more), logits)


# ---- ways to turn pixels into a rival's floats ----


def _as_floats(x: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    return x.astype(np.float32)


def _in_units(
    x: npt.NDArray[Any], factor: npt.NDArray[np.float32], shift: npt.NDArray[np.float32] | None
) -> npt.NDArray[np.float32]:
    floats = np.multiply(x, factor, dtype=np.float32)
    return floats if shift is None else np.add(floats, shift, out=floats)


def _units32(
    workload: Workload,
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32] | None]:
    """(factor, shift) in float32, as short as they can be: (1,) where all are equal."""
    factor, shift = ((u[:1] if np.all(u == u[0]) else u).astype(np.float32) for u in workload.units)
    return factor, (shift if np.any(shift) else None)


def _weights(workload: Workload, folded: bool) -> list[tuple[Any, Any, Dense]]:
    """(weight, bias, layer) of each layer; folded: the first takes pixels as they are."""
    layers = [(layer.weight, layer.bias, layer) for layer in workload.layers]
    if folded:
        weight, bias, layer = layers[0]
        factor, shift = workload.units
        bias = (bias + shift @ weight.astype(np.float64)).astype(np.float32)
        layers[0] = ((weight * factor[:, None]).astype(np.float32), bias, layer)
    return layers


def _after(prepare: Call | None, call: Call) -> Call:
    return call if prepare is None else lambda x: call(prepare(x))


def _refuse(system: str, layer: Dense) -> Unsupported:
    return Unsupported(f"does not take part: {layer.activation} is not known to run on {system}")


# ---- ONNX Runtime ----

_ONNX_OPS = {
    "relu": "Relu", "sigmoid": "Sigmoid", "tanh": "Tanh", "leaky_relu": "LeakyRelu", "elu": "Elu",
    "selu": "Selu", "softplus": "Softplus", "softsign": "Softsign", "exp": "Exp",
    "hardswish": "HardSwish",
}  # fmt: skip
_ONNX_ATTRIBUTES: dict[str, dict[str, Any]] = {
    "hardsigmoid": {"op_type": "HardSigmoid", "alpha": 1 / 6, "beta": 0.5},
    "gelu": {"op_type": "Gelu", "approximate": "none"},
    "gelu_tanh": {"op_type": "Gelu", "approximate": "tanh"},
}


def _onnx_nodes(layer: Dense, at: str, to: str) -> list[Any]:
    """The activation as ONNX nodes."""
    from onnx import helper

    name = layer.activation
    if name == "identity":
        return [helper.make_node("Identity", [at], [to])]
    if name == "silu":
        inner = helper.make_node("Sigmoid", [at], [f"{to}_sigmoid"])
        return [inner, helper.make_node("Mul", [at, f"{to}_sigmoid"], [to])]
    if name in ("clip", "relu6"):
        limits = {"lo": 0.0, "hi": 6.0, **layer.parameters}
        ends = [
            helper.make_node("Constant", [], [f"{to}_{end}"], value_float=limit)
            for end, limit in limits.items()
        ]
        return [*ends, helper.make_node("Clip", [at, f"{to}_lo", f"{to}_hi"], [to])]
    if name in _ONNX_OPS:
        attributes: dict[str, Any] = dict(layer.parameters)
        return [helper.make_node(_ONNX_OPS[name], [at], [to], **attributes)]
    if name in _ONNX_ATTRIBUTES:
        return [helper.make_node(inputs=[at], outputs=[to], **_ONNX_ATTRIBUTES[name])]
    raise _refuse("ONNX", layer)


def onnx_bytes(workload: Workload, *, pixels_in: bool, folded: bool) -> bytes:
    """An ONNX file of the network up to its logits, with the batch size fixed in it.

    pixels_in: the graph takes uint8 and casts, otherwise float32. folded: the units are in the
    first layer's weights, otherwise the graph multiplies (if it casts at all).
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    nodes, tensors, at = [], [], "x"
    if pixels_in:
        nodes.append(helper.make_node("Cast", [at], ["floats"], to=TensorProto.FLOAT))
        at = "floats"
        if not folded:
            for op, unit in zip(("Mul", "Add"), _units32(workload), strict=True):
                if unit is not None:
                    tensors.append(numpy_helper.from_array(unit, op.lower()))
                    nodes.append(helper.make_node(op, [at, op.lower()], [f"after_{op.lower()}"]))
                    at = f"after_{op.lower()}"
    layers = _weights(workload, folded)
    for i, (weight, bias, layer) in enumerate(layers):
        tensors += [
            numpy_helper.from_array(weight, f"w{i}"),
            numpy_helper.from_array(bias, f"b{i}"),
        ]
        is_last = i + 1 == len(layers)
        z = "z" if is_last else f"z{i}"
        nodes.append(helper.make_node("Gemm", [at, f"w{i}", f"b{i}"], [z]))
        at = z
        if not is_last and layer.activation != "identity":
            nodes += _onnx_nodes(layer, z, f"a{i}")
            at = f"a{i}"
    shape = [workload.batch, workload.layers[0].n_inputs]
    kind = TensorProto.UINT8 if pixels_in else TensorProto.FLOAT
    outputs = [workload.batch, workload.layers[-1].n_outputs]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", kind, shape)],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, outputs)],
        tensors,
    )
    # Gelu came with opset 20; no other operator used here changed since 17.
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def _onnx_forms(workload: Workload) -> Iterator[tuple[str, bytes, Call | None]]:
    """(form, file, what NumPy does to the rows first) in every way that the input may come."""
    if not workload.takes_pixels:
        yield "", onnx_bytes(workload, pixels_in=False, folded=False), None
        return
    factor, shift = _units32(workload)
    yield "units in graph, ", onnx_bytes(workload, pixels_in=True, folded=False), None
    yield "Cast in graph, units folded, ", onnx_bytes(workload, pixels_in=True, folded=True), None
    floats = onnx_bytes(workload, pixels_in=False, folded=False)
    yield "NumPy units, ", floats, partial(_in_units, factor=factor, shift=shift)
    folded = onnx_bytes(workload, pixels_in=False, folded=True)
    yield "NumPy astype, units folded, ", folded, _as_floats


def _onnxruntime(workload: Workload, n_threads: int) -> Iterator[Form]:
    for name, file, prepare in _onnx_forms(workload):
        for spins in (False, True):
            session = _session(file, spins, n_threads)
            how = name + ("spinning, " if spins else "")
            calls = {"run": _ort_run(session), "IOBinding": _ort_binding(session, workload)}
            for api, (call, logits) in calls.items():
                yield Form(how + api, _after(prepare, call), _after(prepare, logits))


def _session(file: bytes, spins: bool, n_threads: int) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = n_threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 3
    for kind in ("intra", "inter"):
        options.add_session_config_entry(f"session.{kind}_op.allow_spinning", str(int(spins)))
    return onnxruntime.InferenceSession(file, options, ["CPUExecutionProvider"])


def _ort_run(session: Any) -> tuple[Call, Call]:
    run, outputs = session.run, ["z"]

    def call(x: npt.NDArray[Any]) -> Any:
        return run(outputs, {"x": x})[0]

    return call, call


def _ort_binding(session: Any, workload: Workload) -> tuple[Call, Call]:
    """The output bound once to memory of its own; the input bound at each call, without a copy."""
    import onnxruntime

    z = np.empty((workload.batch, workload.layers[-1].n_outputs), np.float32)
    value = onnxruntime.OrtValue.ortvalue_from_numpy(z)
    binding = session.io_binding()
    binding.bind_ortvalue_output("z", value)
    run, bind = session.run_with_iobinding, binding.bind_cpu_input

    def call(x: npt.NDArray[Any]) -> None:
        bind("x", x)
        run(binding)

    def logits(x: npt.NDArray[Any]) -> Any:
        call(x)
        return value.numpy()

    return call, logits


# ---- OpenVINO ----


def _openvino(workload: Workload, n_threads: int) -> Iterator[Form]:
    """In float32 by name: left alone, it computes in bfloat16 where the CPU can."""
    import openvino

    core = openvino.Core()
    settings = {
        "INFERENCE_PRECISION_HINT": "f32",
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        "INFERENCE_NUM_THREADS": n_threads,
        "ENABLE_CPU_PINNING": False,
    }
    for name, file, prepare in _onnx_forms(workload):
        with own_signal_stack():
            compiled = core.compile_model(core.read_model(file), "CPU", settings)
            request = compiled.create_infer_request()
        infer = partial(request.infer, share_inputs=True, share_outputs=True)
        yield Form(name + "infer", _after(prepare, _openvino_call(infer)))


class _SignalStack(ctypes.Structure):
    _fields_ = (("sp", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


@contextlib.contextmanager
def own_signal_stack() -> Iterator[None]:
    """Keeps the thread's alternate signal stack. OpenVINO 2026.4 sets one of its own when it
    compiles, frees it and leaves it set: the next signal with a Python handler ends the process."""
    kept = _SignalStack()
    libc = ctypes.CDLL(None)
    libc.sigaltstack(None, ctypes.byref(kept))
    try:
        yield
    finally:
        libc.sigaltstack(ctypes.byref(kept), None)


def _openvino_call(infer: Callable[..., Any]) -> Call:
    return lambda x: infer({0: x})[0]


# ---- PyTorch ----


def _torch(workload: Workload, n_threads: int) -> Iterator[Form]:
    """Eager, with the weights laid out as PyTorch does, (outputs, inputs), and the other way."""
    import torch

    torch.set_num_threads(n_threads)
    for name, is_transposed in (("eager", False), ("eager, weights transposed", True)):
        net = _torch_net(workload, is_transposed)

        def call(x: npt.NDArray[Any], net: Any = net) -> Any:
            with torch.inference_mode():
                return net(torch.from_numpy(x).float())

        yield Form(name, call)


def _torch_net(workload: Workload, is_transposed: bool) -> Any:
    import torch

    modules: list[Any] = []
    layers = _weights(workload, workload.takes_pixels)
    for i, (weight, bias, layer) in enumerate(layers):
        linear = torch.nn.Linear(*weight.shape)
        if is_transposed:
            linear.weight = torch.nn.Parameter(torch.from_numpy(weight.copy()).t())
        with torch.no_grad():
            linear.weight.copy_(torch.from_numpy(weight.T.copy()))
            linear.bias.copy_(torch.from_numpy(bias.copy()))
        modules.append(linear)
        if i + 1 < len(layers) and layer.activation != "identity":
            modules.append(_torch_activation(torch.nn, layer))
    return torch.nn.Sequential(*modules).eval()


def _torch_activation(nn: Any, layer: Dense) -> Any:
    p = layer.parameters
    known: dict[str, Callable[[], Any]] = {
        "relu": nn.ReLU,
        "sigmoid": nn.Sigmoid,
        "tanh": nn.Tanh,
        "leaky_relu": lambda: nn.LeakyReLU(p["alpha"]),
        "relu6": nn.ReLU6,
        "clip": lambda: nn.Hardtanh(p["lo"], p["hi"]),
        "elu": lambda: nn.ELU(p["alpha"]),
        "selu": nn.SELU,
        "gelu": nn.GELU,
        "gelu_tanh": lambda: nn.GELU(approximate="tanh"),
        "silu": nn.SiLU,
        "hardsigmoid": nn.Hardsigmoid,
        "hardswish": nn.Hardswish,
        "softplus": nn.Softplus,
        "softsign": nn.Softsign,
    }
    if layer.activation not in known:
        raise _refuse("PyTorch", layer)
    return known[layer.activation]()


# ---- scikit-learn ----

_SKLEARN = {"identity": "identity", "relu": "relu", "sigmoid": "logistic", "tanh": "tanh"}


def _sklearn(workload: Workload, n_threads: int) -> Iterator[Form]:
    """An MLPRegressor that is given the weights instead of fitting them: as a classifier it would
    do more (softmax, labels). Its threads are those of its BLAS, set by the environment."""
    from sklearn.neural_network import MLPRegressor

    layers = _weights(workload, folded=workload.takes_pixels)
    hidden = [layer for _, _, layer in layers[:-1]]
    for layer in hidden:
        if layer.activation not in _SKLEARN or layer.activation != hidden[0].activation:
            raise _refuse("scikit-learn", layer)
    net = MLPRegressor(activation=_SKLEARN[hidden[0].activation] if hidden else "identity")
    net.coefs_ = [weight for weight, _, _ in layers]
    net.intercepts_ = [bias for _, bias, _ in layers]
    net.n_layers_ = len(layers) + 1
    net.n_outputs_ = layers[-1][0].shape[1]
    net.n_features_in_ = layers[0][0].shape[0]
    net.hidden_layer_sizes = [weight.shape[1] for weight, _, _ in layers[:-1]]
    net.out_activation_ = "identity"
    if workload.takes_pixels:
        yield Form("NumPy astype, units folded, predict", _after(_as_floats, net.predict))
    else:
        yield Form("predict", net.predict)


# ---- NumPy ----


def _relu(z: npt.NDArray[np.float32]) -> None:
    np.maximum(z, 0, out=z)


def _tanh(z: npt.NDArray[np.float32]) -> None:
    np.tanh(z, out=z)


def _sigmoid(z: npt.NDArray[np.float32]) -> None:
    np.negative(z, out=z)
    np.exp(z, out=z)
    np.add(z, 1, out=z)
    np.reciprocal(z, out=z)


_NUMPY: dict[str, Callable[[npt.NDArray[np.float32]], None]] = {
    "identity": lambda z: None,
    "relu": _relu,
    "tanh": _tanh,
    "sigmoid": _sigmoid,
}


def _numpy(workload: Workload, n_threads: int) -> Iterator[Form]:
    """`x @ w + b` as one would write it, in place; its threads are those of its BLAS."""
    layers = _weights(workload, folded=workload.takes_pixels)
    for _, _, layer in layers[:-1]:
        if layer.activation not in _NUMPY:
            raise _refuse("NumPy", layer)
    stages = [(w, b, _NUMPY[layer.activation]) for w, b, layer in layers[:-1]]
    stages.append((*layers[-1][:2], _NUMPY["identity"]))
    buffers = [np.empty((workload.batch, w.shape[1]), np.float32) for w, _, _ in stages]

    def run(x: npt.NDArray[Any], outs: Sequence[npt.NDArray[np.float32] | None]) -> Any:
        for (weight, bias, activate), out in zip(stages, outs, strict=True):
            x = np.matmul(x, weight, out=out)
            x += bias
            activate(x)
        return x

    prepare = _as_floats if workload.takes_pixels else None
    yield Form("fresh arrays", _after(prepare, partial(run, outs=[None] * len(stages))))
    yield Form("out=", _after(prepare, partial(run, outs=buffers)))


SYSTEMS = (
    System("fastnn", (), ("fastnn",), _fastnn),
    System("ONNX Runtime", ("onnxruntime", "onnx"), ("onnxruntime", "onnx"), _onnxruntime),
    System("OpenVINO", ("openvino", "onnx"), ("openvino", "onnx"), _openvino),
    System("PyTorch", ("torch",), ("torch",), _torch),
    System("scikit-learn", ("sklearn",), ("scikit-learn",), _sklearn),
    System("NumPy", (), ("numpy",), _numpy),
)
"""fastnn first; each is a process of its own."""
