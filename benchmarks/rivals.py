"""The contenders of a benchmark, behind one interface: fastnn, ONNX Runtime, OpenVINO, ...

Invariant: a contender is measured only after its answers to real rows agreed with a float64
forward pass (`Contender.check`). Each rival comes in every form that may be its fastest, with one
thread; the report takes the fastest. Everybody multiplies in the workload's precision: in int8
only who proves to run integer kernels takes part (`require_integer_...`). What a rival needs and
lacks makes it absent, not an error.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import fastnn
from benchmarks import int8_graphs
from benchmarks.workloads import Workload
from fastnn.bench.rivals import own_signal_stack

Call = Callable[[npt.NDArray[Any]], Any]


@dataclass(frozen=True)
class Contender:
    """Something that takes a batch of rows and answers."""

    system: str
    form: str
    call: Call
    """What is timed: rows of shape (batch, inputs) to an answer."""
    logits: Call | None = None
    """z of the last layer; None where `call` returns that."""
    probabilities: Call | None = None
    """In place of `logits` where a system has no way to say them."""

    @property
    def name(self) -> str:
        """System and form."""
        return f"{self.system}, {self.form}" if self.form else self.system

    def check(self, workload: Workload) -> None:
        """Raise AssertionError unless the answers for the workload's rows are right.

        float32: rtol 1e-4, labels equal where the two best differ clearly. int8: see
        `check_int8`.
        """
        if workload.precision == "int8":
            self._check_int8(workload)
            return
        for rows, z in workload.checked:
            answer = np.asarray(self.call(rows))
            if self.probabilities is not None:
                e = np.exp(z - z.max(axis=1, keepdims=True))
                z = e / e.sum(axis=1, keepdims=True)
                found = self.probabilities(rows)
            else:
                found = self.logits(rows) if self.logits is not None else answer
            size = float(np.abs(z).max())
            np.testing.assert_allclose(found, z, rtol=1e-4, atol=1e-5 * size, err_msg=self.name)
            if answer.ndim == 1:  # labels: the best, where it is clear which that is
                second, first = np.partition(z, -2, axis=1)[:, -2:].T
                clear = first - second > 1e-4 * size
                assert np.array_equal(answer[clear], z.argmax(axis=1)[clear]), self.name

    def _check_int8(self, workload: Workload) -> None:
        # An answer may lie in memory that the next call overwrites.
        answers = [np.array(self.call(rows)) for rows, _ in workload.checked]
        z = np.concatenate([z for _, z in workload.checked])
        if self.logits is not None:
            found = np.concatenate([np.array(self.logits(rows)) for rows, _ in workload.checked])
        else:
            found = np.concatenate(answers)
        labels = np.concatenate(answers) if answers[0].ndim == 1 else found.argmax(axis=1)
        check_int8(self.name, found, z, workload, labels)


def check_int8(
    name: str,
    found: npt.NDArray[Any],
    z: npt.NDArray[np.float64],
    workload: Workload,
    labels: npt.NDArray[Any],
) -> None:
    """Raise AssertionError unless `found`, (n, outputs), is z up to what int8 may lose.

    That is 4 % of z, root mean square, and 5 % of the largest z anywhere. Quantised outputs
    (uint8) may saturate at the ends of the calibrated range. On MNIST 99 % of the labels agree.
    """
    if found.dtype == np.uint8:
        z_affine = int8_graphs.affines(workload)[-1]
        low, high = z_affine.dequantised(np.array([0, 255], np.uint8))
        found, z = z_affine.dequantised(found), np.clip(z, low, high)
    error = found - z
    largest = float(np.abs(error).max() / np.abs(z).max())
    typical = float(np.sqrt(np.square(error).mean() / np.square(z).mean()))
    assert largest <= 0.05, f"{name}: off by {largest:.2%} of the largest z"
    assert typical <= 0.04, f"{name}: off by {typical:.2%} of z, root mean square"
    if workload.takes_pixels:
        agreement = float((labels == z.argmax(axis=1)).mean())
        assert agreement >= 0.99, f"{name}: {agreement:.2%} of the labels are those of float64"


def contenders(workload: Workload, only: str = "") -> list[Contender]:
    """Everybody who is installed, each checked; `only`: a system, or a part of names."""
    makers = _MAKERS[workload.precision]
    found = []
    for make in [makers[only]] if only in makers else makers.values():
        for contender in make(workload):
            if only in contender.name:
                contender.check(workload)
                found.append(contender)
    return found


def versions() -> dict[str, str]:
    """{system: version} of what is installed here."""
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for package in ("fastnn", "numpy", "onnxruntime", "openvino", "torch", "scikit-learn"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    if "fastnn" not in found:  # built in place
        found["fastnn"] = fastnn.__version__
    return found


def _fastnn(workload: Workload) -> Iterator[Contender]:
    yield from fastnn_forms(workload, workload.model())


def fastnn_forms(workload: Workload, model: fastnn.Model) -> Iterator[Contender]:
    """With a fresh array at every call, and with `out=`, the counterpart of IOBinding's output."""
    if workload.takes_pixels:  # labels: more than the rivals do, who stop at logits
        verb, logits = model.predict, model.decision_function
    else:
        verb, logits = model.forward, None
    yield Contender("fastnn", verb.__name__, verb, logits)
    out = np.empty_like(verb(workload.batches[0]))
    yield Contender("fastnn", f"{verb.__name__}, out=", partial(verb, out=out), logits)


# ---- ways to turn pixels into a rival's floats ----


def _as_floats(x: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    return x.astype(np.float32)


def _scaled(x: npt.NDArray[Any], scale: np.float32) -> npt.NDArray[np.float32]:
    return np.multiply(x, scale, dtype=np.float32)


def _weights(workload: Workload, folded: bool) -> list[tuple[Any, Any, bool]]:
    """(weight, bias, is_relu) of each layer; folded: the first one takes pixels as they are."""
    layers = [(layer.weight, layer.bias, layer.activation == "relu") for layer in workload.layers]
    if folded:
        weight, bias, is_relu = layers[0]
        layers[0] = ((weight * np.float64(workload.scale)).astype(np.float32), bias, is_relu)
    return layers


# ---- ONNX Runtime ----


def onnx_bytes(workload: Workload, *, pixels_in: bool, folded: bool) -> bytes:
    """An ONNX file of the network up to its logits, with the batch size fixed in it.

    pixels_in: the graph takes uint8 and casts, otherwise float32. folded: the scale is in the
    first layer's weights, otherwise the graph multiplies by it (if it casts at all).
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    nodes, tensors, at = [], [], "x"
    if pixels_in:
        nodes.append(helper.make_node("Cast", [at], ["floats"], to=TensorProto.FLOAT))
        at = "floats"
        if not folded:
            tensors.append(numpy_helper.from_array(np.float32(workload.scale).reshape(1), "scale"))
            nodes.append(helper.make_node("Mul", [at, "scale"], ["scaled"]))
            at = "scaled"
    for i, (weight, bias, is_relu) in enumerate(_weights(workload, folded)):
        tensors += [
            numpy_helper.from_array(weight, f"w{i}"),
            numpy_helper.from_array(bias, f"b{i}"),
        ]
        nodes.append(helper.make_node("Gemm", [at, f"w{i}", f"b{i}"], [f"z{i}"]))
        at = f"z{i}"
        if is_relu:
            nodes.append(helper.make_node("Relu", [at], [f"a{i}"]))
            at = f"a{i}"
    nodes[-1].output[0] = "z"
    shape = [workload.batch, workload.layers[0].n_inputs]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.UINT8 if pixels_in else 1, shape)],
        [helper.make_tensor_value_info("z", 1, [workload.batch, workload.layers[-1].n_outputs])],
        tensors,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def _onnx_forms(workload: Workload) -> Iterator[tuple[str, bytes, Call | None]]:
    """(form, file, what NumPy does to the rows first) in every way that the input may come."""
    if not workload.takes_pixels:
        yield "", onnx_bytes(workload, pixels_in=False, folded=False), None
        return
    yield "Cast+Mul in graph, ", onnx_bytes(workload, pixels_in=True, folded=False), None
    yield "Cast in graph, scale folded, ", onnx_bytes(workload, pixels_in=True, folded=True), None
    floats = onnx_bytes(workload, pixels_in=False, folded=False)
    yield "NumPy scales, ", floats, partial(_scaled, scale=np.float32(workload.scale))
    folded = onnx_bytes(workload, pixels_in=False, folded=True)
    yield "NumPy astype, scale folded, ", folded, _as_floats


def _onnxruntime(workload: Workload) -> Iterator[Contender]:
    if find_spec("onnxruntime") is None or find_spec("onnx") is None:
        return
    for form, file, prepare in _onnx_forms(workload):
        for spins in _spinning(workload):
            session = _session(file, spins)
            how = form + ("spinning, " if spins else "")
            calls = {"run": _ort_run(session), "IOBinding": _ort_binding(session, np.float32)}
            for api, call in calls.items():
                yield Contender("ONNX Runtime", how + api, _after(prepare, call))


def _spinning(workload: Workload) -> tuple[bool, ...]:
    """Whether waiting threads spin: with one thread a matter of microseconds at most."""
    return (False, True) if workload.flop_per_call < 1e7 else (False,)


def _int8_forms(
    workload: Workload, writings: tuple[str, ...]
) -> Iterator[tuple[str, bytes, Call | None, Any]]:
    """(form, file, what NumPy does to the rows first, dtype of z) in int8."""
    for rows in int8_graphs.INPUTS if workload.takes_pixels else ("float",):
        how, prepare = rows, None
        if rows == "float":
            how = "QuantizeLinear in graph"
            if workload.takes_pixels:
                how = "NumPy scales, " + how
                prepare = partial(_scaled, scale=np.float32(workload.scale))
        for writing in writings:
            for out, dtype in (("", np.float32), ("uint8 out, ", np.uint8)):
                file = int8_graphs.onnx_int8(
                    workload, rows=rows, writing=writing, quantised_out=bool(out)
                )
                yield f"{how}, {writing}, {out}", file, prepare, dtype


def _onnxruntime_int8(workload: Workload) -> Iterator[Contender]:
    """QDQ Gemm, which ONNX Runtime turns into its QGemm; QGemm itself was no faster."""
    if find_spec("onnxruntime") is None or find_spec("onnx") is None:
        return
    for form, file, prepare, dtype in _int8_forms(workload, ("QDQ Gemm",)):
        require_integer_onnxruntime(file, len(workload.layers))
        for spins in _spinning(workload):
            session = _session(file, spins)
            how = form + ("spinning, " if spins else "")
            calls = {"run": _ort_run(session), "IOBinding": _ort_binding(session, dtype)}
            for api, call in calls.items():
                yield Contender("ONNX Runtime", how + api, _after(prepare, call))


def require_integer_onnxruntime(file: bytes, n_layers: int) -> None:
    """Raise AssertionError unless ONNX Runtime's optimised graph multiplies in integers only.

    The graph is the one that a session writes with `optimized_model_filepath`: every layer has
    to be a QGemm or QLinearMatMul, and nothing be dequantised before one.
    """
    import onnx

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "optimised.onnx"
        _session(file, spins=False, optimised=path)
        kinds = Counter(node.op_type for node in onnx.load(path).graph.node)
    n_integer = kinds["QGemm"] + kinds["QLinearMatMul"]
    others = kinds["Gemm"] + kinds["MatMul"] + kinds["FusedGemm"] + kinds["DequantizeLinear"]
    assert n_integer == n_layers, f"ONNX Runtime runs {dict(kinds)}"
    assert others == 0, f"ONNX Runtime runs {dict(kinds)}"


def _session(file: bytes, spins: bool, optimised: Path | None = None) -> Any:
    """One thread; `optimised`: where it is to write the graph that it really runs."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    if optimised is not None:
        options.optimized_model_filepath = str(optimised)
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 3
    for kind in ("intra", "inter"):
        options.add_session_config_entry(f"session.{kind}_op.allow_spinning", str(int(spins)))
    return onnxruntime.InferenceSession(file, options, ["CPUExecutionProvider"])


def _ort_run(session: Any) -> Call:
    run, outputs = session.run, ["z"]
    return lambda x: run(outputs, {"x": x})[0]


def _ort_binding(session: Any, dtype: Any) -> Call:
    """The output bound once to memory of its own; the input bound at each call, without a copy."""
    import onnxruntime

    value = onnxruntime.OrtValue.ortvalue_from_numpy(
        np.empty(session.get_outputs()[0].shape, dtype)
    )
    binding = session.io_binding()
    binding.bind_ortvalue_output("z", value)
    run, bind = session.run_with_iobinding, binding.bind_cpu_input

    def call(x: npt.NDArray[Any]) -> Any:
        bind("x", x)
        run(binding)
        return value

    return call


def _after(prepare: Call | None, call: Call) -> Call:
    return call if prepare is None else lambda x: call(prepare(x))


# ---- OpenVINO, PyTorch, scikit-learn ----


def _openvino(workload: Workload) -> Iterator[Contender]:
    if find_spec("openvino") is None or find_spec("onnx") is None:
        return
    for form, file, prepare in _onnx_forms(workload):
        yield _openvino_contender(_openvino_compiled(file), form, prepare)


def _openvino_int8(workload: Workload) -> Iterator[Contender]:
    """The QDQ files, in both ways to write a layer: which is faster changes with the shape."""
    if find_spec("openvino") is None or find_spec("onnx") is None:
        return
    for form, file, prepare, _ in _int8_forms(workload, ("QDQ Gemm", "QDQ MatMul")):
        compiled = _openvino_compiled(file)
        require_integer_openvino(compiled, len(workload.layers))
        yield _openvino_contender(compiled, form, prepare)


def _openvino_compiled(file: bytes) -> Any:
    import openvino

    core = openvino.Core()
    settings = {
        "INFERENCE_PRECISION_HINT": "f32",  # of what is not int8: else bf16, silently
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        "INFERENCE_NUM_THREADS": 1,
        "ENABLE_CPU_PINNING": False,
    }
    with own_signal_stack():
        return core.compile_model(core.read_model(file), "CPU", settings)


def require_integer_openvino(compiled: Any, n_layers: int) -> None:
    """Raise AssertionError unless each layer of OpenVINO's runtime model is an int8 kernel.

    The runtime model is what the plugin executes. A layer counts if it is a FullyConnected or
    MatMul whose primitive is named ..._I8 and which takes u8 rows and i8 weights.
    """
    layers = []
    for op in compiled.get_runtime_model().get_ordered_ops():
        about = op.get_rt_info()
        if about["layerType"].astype(str) in ("FullyConnected", "MatMul"):
            types = [op.input(i).get_element_type().get_type_name() for i in (0, 1)]
            layers.append((about["primitiveType"].astype(str), *types))
    integer = [layer for layer in layers if layer[0].endswith("_I8") and layer[1:] == ("u8", "i8")]
    assert len(integer) == len(layers) == n_layers, f"OpenVINO runs {layers}"


def _openvino_contender(compiled: Any, form: str, prepare: Call | None) -> Contender:
    request = compiled.create_infer_request()
    infer = partial(request.infer, share_inputs=True, share_outputs=True)
    return Contender("OpenVINO", form + "infer", _after(prepare, _openvino_call(infer)))


def _openvino_call(infer: Callable[..., Any]) -> Call:
    return lambda x: infer({0: x})[0]


def _torch(workload: Workload) -> Iterator[Contender]:
    if find_spec("torch") is None:
        return
    import torch

    torch.set_num_threads(1)
    layers = []
    for weight, bias, is_relu in _weights(workload, workload.takes_pixels):
        linear = torch.nn.Linear(*weight.shape)
        with torch.no_grad():
            linear.weight.copy_(torch.from_numpy(weight.T.copy()))
            linear.bias.copy_(torch.from_numpy(bias.copy()))
        layers += [linear, torch.nn.ReLU()] if is_relu else [linear]
    net = torch.nn.Sequential(*layers).eval()

    def call(x: npt.NDArray[Any]) -> Any:
        with torch.inference_mode():
            return net(torch.from_numpy(x).float())

    yield Contender("PyTorch", "eager", call)


def _sklearn(workload: Workload) -> Iterator[Contender]:
    """An MLP of scikit-learn that is given the weights instead of fitting them."""
    if find_spec("sklearn") is None:
        return
    from sklearn.neural_network import MLPClassifier, MLPRegressor

    layers = _weights(workload, folded=workload.takes_pixels)
    net = (MLPClassifier if workload.takes_pixels else MLPRegressor)()
    net.coefs_ = [weight for weight, _, _ in layers]
    net.intercepts_ = [bias for _, bias, _ in layers]
    net.n_layers_ = len(layers) + 1
    net.n_outputs_ = layers[-1][0].shape[1]
    net.n_features_in_ = layers[0][0].shape[0]
    net.hidden_layer_sizes = [weight.shape[1] for weight, _, _ in layers[:-1]]
    if workload.takes_pixels:
        from sklearn.preprocessing import LabelBinarizer

        net.out_activation_ = "softmax"
        net.classes_ = np.arange(net.n_outputs_)
        net._label_binarizer = LabelBinarizer().fit(net.classes_)
        yield Contender(
            "scikit-learn",
            "NumPy astype, scale folded, predict",
            _after(_as_floats, net.predict),
            probabilities=_after(_as_floats, net.predict_proba),
        )
    else:
        net.out_activation_ = "identity"
        yield Contender("scikit-learn", "predict", net.predict)


_MAKERS: dict[str, dict[str, Callable[[Workload], Iterator[Contender]]]] = {
    "float32": {
        "fastnn": _fastnn,
        "ONNX Runtime": _onnxruntime,
        "OpenVINO": _openvino,
        "PyTorch": _torch,
        "scikit-learn": _sklearn,
    },
    "int8": {
        "fastnn": _fastnn,
        "ONNX Runtime": _onnxruntime_int8,
        "OpenVINO": _openvino_int8,
    },
}
"""Who takes part, by precision and system."""
