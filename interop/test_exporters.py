"""Networks as four exporters write them: fastnn, the original and ONNX Runtime agree.

Compared are outputs, within the bound that networks.py derives (each of two evaluations in float32
is that far from float64 at most), and labels, of rows whose float64 margin exceeds it.
"""

import numpy as np
import onnxruntime
import pytest

import fastnn
from interop.exporters import EXPORTERS
from interop.networks import BY_Z, reference

N_ROWS = 64
N_CASES = 6, 50  # of each exporter


def run_onnx(file, x):
    """The last float output of ONNX Runtime; of scikit-learn's two columns the second."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    outputs = session.run(None, {given.name: x})
    scores = outputs[-1]
    if isinstance(scores, list):  # of dictionaries: ZipMap
        scores = np.array([list(row.values()) for row in scores], np.float32)
    return scores.reshape(len(x), -1), outputs[0] if len(outputs) > 1 else None


def in_columns(y, n):
    """(rows, n); of the two columns of a decision the second."""
    y = np.asarray(y).reshape(len(y), -1)
    return y[:, 1:] if y.shape[1] == 2 and n == 1 else y


@pytest.mark.parametrize("name", EXPORTERS)
def test_agrees(name, case, ran, tmp_path):
    export, firsts = EXPORTERS[name]
    rng = np.random.default_rng([case, *name.encode()])
    exported = export(rng, firsts[case % len(firsts)])
    network = exported.network
    print(
        name,
        case,
        exported.about,
        [step[0] if step[0] != "activation" else step[1] for step in network.steps],
    )
    path = tmp_path / "model.onnx"
    path.write_bytes(exported.file)
    model = fastnn.load(path)
    x = rng.normal(size=(N_ROWS, network.n_inputs)).astype(np.float32)
    ref = reference(network, x)
    n = ref.y.shape[1]
    assert model.n_inputs == network.n_inputs
    assert model.n_outputs == n

    shaped = x.reshape(N_ROWS, *(exported.shape or (-1,)))
    by_runtime, runtime_labels = run_onnx(exported.file, shaped)
    answers = {
        "fastnn": model.forward(x),
        "the original": exported.ask(x),
        "ONNX Runtime": by_runtime,
    }
    rows = ref.decided
    for who, y in answers.items():
        error = np.abs(in_columns(y, n) - ref.y)[rows]
        worst = (error / np.maximum(ref.y_bound[rows], 1e-300)).max(initial=0)
        print(f"{who}: {worst:.3g} of the bound {ref.y_bound[rows].max(initial=0):.3g}")
        assert (error <= ref.y_bound[rows]).all(), f"{who} is {worst:.3g} times its bound away"

    left_out = int((~rows).sum())
    if model.task == "classify":
        clear = rows & clear_labels(ref, network.last)
        left_out = int((~clear).sum())
        told = model.predict(x)
        if exported.labels is not None:
            assert np.array_equal(told[clear], exported.labels(x)[clear])
            assert np.array_equal(told[clear], np.asarray(runtime_labels).reshape(-1)[clear])
            assert np.array_equal(model.classes_, network.classes)
        elif n > 1:
            assert np.array_equal(told[clear], exported.ask(x).argmax(axis=1)[clear])
    print("left out:", left_out, "undecided:", int((~rows).sum()), "last:", network.last)
    ran(name, N_ROWS, left_out)


def clear_labels(ref, last):
    """Rows whose label no float32 evaluation may change."""
    z, bound = (ref.z, ref.z_bound) if last in BY_Z else (ref.y, ref.y_bound)
    if z.shape[1] == 1:
        return (np.abs(z) > bound)[:, 0]
    order = np.argsort(z, axis=1)[:, ::-1]
    z, bound = (np.take_along_axis(part, order, axis=1) for part in (z, bound))
    # None of the others can reach the best.
    return (z[:, :1] - bound[:, :1] > (z + bound)[:, 1:].max(axis=1, keepdims=True))[:, 0]
