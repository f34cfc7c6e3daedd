"""The command line: what each command prints, where, and the status it ends with.

Invariant: run as a user would, through `fastnn.__main__.main` or as a process of its own; results
are read from stdout, which holds nothing else.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from attacks import containers
from PIL import Image

import fastnn
from fastnn import Dense, LoadError, Model, formats, idx, mnist
from fastnn.__main__ import main
from fastnn.bench import race, rivals
from fastnn.cli import evaluate, npy, output, show

PYTHON = sys.executable
COMMAND = [PYTHON, "-m", "fastnn"]
COMMANDS = (
    "info", "models", "summary", "trace", "predict", "evaluate", "quantize", "convert", "export-c",
    "verify", "bench", "compare", "plot", "data fetch",
)  # fmt: skip


@pytest.fixture
def run(capsys):
    """Runs a command line in this process: (status, stdout, stderr)."""

    def run(*tokens):
        status = main([str(token) for token in tokens])
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return run


@pytest.fixture(autouse=True)
def no_mnist(monkeypatch, tmp_path):
    """Without MNIST, unless a test brings it."""
    monkeypatch.delenv("FASTNN_MNIST", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_a_file_does_not_control_the_terminal(run, tmp_path):
    """Names of classes and metadata are a stranger's."""
    path, rows = tmp_path / "evil.safetensors", tmp_path / "rows.npy"
    names = ["\x1b[31mred", "]]>&\n\x07", "\u202elast"]
    Model(
        [Dense(np.eye(3), np.zeros(3))],
        classes=names,
        metadata={"\x1b]0;own\x07": "\x1b[2J\r\x9b", "a\nname": "x\ny"},
    ).save(path)
    np.save(rows, np.eye(3, dtype=np.float32))
    for tokens in (
        ("summary", path), ("summary", path, "--json"), ("trace", path, 0, 0, 1),
        ("predict", path, rows), ("predict", path, rows, "--json"),
        ("quantize", path, "-o", tmp_path / "q.safetensors", "--calibration", rows),
        ("verify", path, "--against", path), ("evaluate", path),
    ):  # fmt: skip
        status, out, err = run(*tokens)
        assert (out + err).replace("\n", "").isprintable(), tokens
        assert status == 0 or tokens[0] == "evaluate"
    status, out, _ = run("predict", path, rows)
    assert out.splitlines() == [
        f"{rows}[0]: \\x1b[31mred (score 1)",
        f"{rows}[1]: ]]>&\\n\\x07 (score 1)",
        f"{rows}[2]: \\u202elast (score 1)",
    ]
    assert "a\\nname: x\\ny" in run("summary", path)[1]
    found = json.loads(run("predict", path, rows, "--json")[1])
    assert [row["label"] for row in found["results"]] == names


@pytest.fixture(scope="module")
def xor(tmp_path_factory):
    """XOR by steps, in a file."""
    path = tmp_path_factory.mktemp("models") / "xor.npz"
    hidden = Dense([[1, 1], [1, 1]], [-0.5, -1.5], "step")
    Model([hidden, Dense([[1], [-1]], [-0.5], "step")]).save(path)
    return path


@pytest.fixture(scope="module")
def sigmoid_neuron(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "neuron.safetensors"
    Model([Dense([[0.4], [-2]], [0.5], "sigmoid")], classes=["no", "yes"]).save(path)
    return path


@pytest.fixture(scope="module")
def line(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "line.safetensors"
    Model([Dense([[2.0], [1.0]], [0.5])]).save(path)
    return path


@pytest.fixture
def digit(tmp_path):
    """A picture of the first digit of the sample, a 0."""
    path = tmp_path / "zero.png"
    Image.fromarray(mnist.sample()[0][0]).save(path)
    return path


# --- the frame ------------------------------------------------------------------------------


def test_help_names_every_command(run):
    status, out, err = run("--help")
    assert (status, err) == (0, "")
    for command in COMMANDS:
        assert f" {command.split()[0]} " in out


def test_help_names_every_format(run):
    _, out, _ = run("--help")
    for suffix in formats.READ:
        assert re.search(rf"\{suffix}\b", out), suffix
    for command in ("quantize", "convert"):
        _, out, _ = run(command, "--help")
        for suffix in formats.SUFFIXES:
            assert re.search(rf"\{suffix}\b", out), (command, suffix)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_each_command(run, command):
    status, out, err = run(*command.split(), "--help")
    assert (status, err) == (0, "")
    assert f"Usage: fastnn {command}" in out


def test_version(run):
    assert run("--version") == (0, f"fastnn {fastnn.__version__}\n", "")


@pytest.mark.parametrize(
    "tokens",
    [
        ["predic", "mnist-small"],
        ["summary"],
        ["summary", "a", "b"],
        ["info", "--colour"],
        ["trace", "mnist-small", "one"],
        ["trace", "mnist-small", "--jsn"],
        ["bench", "mnist-small", "--batch", "0"],
        ["bench", "mnist-small", "--seconds", "-1"],
        ["bench", "mnist-small", "--rows", "zeros"],
        ["bench", "mnist-small", "--json"],
        ["bench", "mnist-small", "--json", "--quiet"],
        ["compare", "a.json"],
        ["compare", "a.json", "b.json", "--confidence", "1"],
        ["predict", "mnist-small"],
        ["evaluate", "mnist-small", "--threads", "0"],
        ["quantize", "mnist-small"],
        ["convert", "mnist-small"],
        ["convert", "mnist-small", "a.npz", "--layout", "sideways"],
        ["export-c", "mnist-small"],
        ["export-c", "mnist-small", "-o", "a.c", "--inputs", "int16"],
        ["verify", "mnist-small"],
        ["quantize", "mnist-small", "-o", "x.npz", "--rows", "0"],
        ["summary", "mnist-small", "--precision", "int4"],
        ["data", "upload"],
    ],
)
def test_a_wrong_command_line_is_status_2(run, tokens):
    status, out, err = run(*tokens)
    assert (status, out) == (2, "")
    assert err.startswith("fastnn: ")
    assert "--help" in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (["summary", "minst-small"], "no bundled model 'minst-small'"),
        (["summary", "./none.npz"], "none.npz"),
        (["summary", "mnist-small", "--isa", "sse9"], "sse9"),
        (["evaluate", "mnist-small", "--data", "nowhere"], "not found in nowhere"),
        (["predict", "mnist-small", "none.png"], "none.png"),
        (["quantize", "mnist-small", "-o", "x.npz"], "MNIST's train"),
        (["quantize", "mnist-small", "-o", "x.npz", "--calibration", "none.npy"], "none.npy"),
        (["quantize", "xor", "-o", "x.npz"], "the model takes 2; name rows of its own"),
        (["summary", "xor", "--precision", "int8"], "needs a calibration"),
        (["convert", "xor", "a.tf"], "'a.tf', wanted a name that ends in "),
        (["convert", "none.npz", "a.npz"], "none.npz"),
        (["export-c", "xor", "-o", "a.cpp"], "wanted a name that ends in .c"),
        (["export-c", "xor", "-o", "a.c", "--name", "3d"], "wanted a C identifier"),
        (["export-c", "xor", "-o", "a.c", "--precision", "bfloat16"], "bits depend on the CPU"),
        (["export-c", "xor", "-o", "no/a.c"], "no/"),
        (["verify", "xor", "--against", "mnist-small"], "has 784 inputs, this one 2"),
        (["verify", "xor", "--against", "tensorflow"], "one of numpy, onnxruntime, "),
        (["verify", "xor", "--against", "none.npz"], "none.npz"),
        (["verify", "xor", "--against", "numpy", "--rows", "none.npy"], "none.npy"),
    ],
)
def test_a_failure_is_one_line_and_status_1(run, tokens, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, out, err = run(*tokens)
    assert (status, out) == (1, "")
    assert message in err
    assert err.startswith("fastnn: ")
    assert "Traceback" not in err
    assert "Errno" not in err


def test_a_broken_model_file(run, tmp_path):
    (tmp_path / "broken.npz").write_bytes(b"PK\x03\x04 and nothing more")
    status, out, err = run("summary", tmp_path / "broken.npz")
    assert (status, out) == (1, "")
    assert "broken.npz" in err


def test_a_bug_shows_its_traceback(run, monkeypatch):
    def broken():
        raise ZeroDivisionError

    monkeypatch.setattr("fastnn.cli.show.about", broken)
    with pytest.raises(ZeroDivisionError):
        run("info")


@pytest.mark.parametrize("missing", ["cyclopts", "rich"])
def test_without_the_extra(run, monkeypatch, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    status, out, err = run()
    assert status == 0
    assert fastnn.__version__ in out
    assert "scalar" in out
    assert "fastnn[cli]" in err
    status, out, err = run("predict", "mnist-small", "x.png")
    assert (status, out) == (1, "")
    assert "fastnn[cli]" in err


def test_as_a_module():
    done = subprocess.run([*COMMAND, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"fastnn {fastnn.__version__}\n"
    failed = subprocess.run([*COMMAND, "summary", "no"], capture_output=True, text=True)
    assert failed.returncode == 1


def test_a_reader_that_leaves_is_no_error(tmp_path):
    many = tmp_path / "many.npy"
    np.save(many, np.zeros((60_000, 784), np.uint8))
    command = subprocess.Popen(
        [*COMMAND, "predict", "mnist-small", many], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    command.stdout.readline()
    command.stdout.close()
    error = command.stderr.read()
    assert command.wait(30) == 1
    assert error == b""
    command.stderr.close()


def test_a_reader_that_was_never_there():
    """What little is printed is still in Python's buffer when the command ends."""
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([*COMMAND, "info"], stdout=writer, stderr=subprocess.PIPE, timeout=30)
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, b"")


def test_ctrl_c():
    command = subprocess.Popen(
        [*COMMAND, "bench", "mnist-small", "--seconds", "60"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    about = Path(f"/proc/{command.pid}")

    def cpu_seconds():
        fields = (about / "stat").read_text().rpartition(")")[2].split()
        return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")

    while command.poll() is None and "_core" not in (about / "maps").read_text():
        time.sleep(0.05)
    # From there to the middle of the first measurement: by what it did, on a busy machine as well.
    enough = 3 * cpu_seconds() + 1.5
    while command.poll() is None and cpu_seconds() < enough:
        time.sleep(0.05)
    command.send_signal(signal.SIGINT)
    out, err = command.communicate(timeout=30)
    assert command.returncode == 130
    assert out == b""
    assert err == b"fastnn: interrupted\n"


# --- info, models, summary, trace -----------------------------------------------------------


def test_info(run):
    status, out, err = run("info")
    assert (status, err) == (0, "")
    for kernel in fastnn.kernels():
        assert kernel["isa"] in out
    facts = json.loads(run("info", "--json")[1])
    assert facts["fastnn"] == fastnn.__version__
    assert facts["isa"] in [kernel["isa"] for kernel in facts["kernels"] if kernel["available"]]
    assert facts["threads"] >= 1
    assert facts["cpu_features"] == fastnn.cpu_features()


def test_info_under_a_ceiling(run, monkeypatch):
    monkeypatch.setenv("FASTNN_ISA", "scalar")
    facts = json.loads(run("info", "--json")[1])
    assert facts["isa"] == "scalar"
    assert facts["environment"]["FASTNN_ISA"] == "scalar"
    monkeypatch.setenv("FASTNN_ISA", "sse9")
    status, _, err = run("info")
    assert status == 1
    assert "sse9" in err


def test_models(run):
    status, out, err = run("models")
    assert (status, err) == (0, "")
    assert "784-128-10" in out
    listed = json.loads(run("models", "--json")[1])
    assert [model["name"] for model in listed] == fastnn.models()
    for model in listed:
        assert model["speed"]["precision"] == "float32"
        assert 0 < model["speed"]["row_seconds"] < 0.1
        assert model["speed"]["rows_per_s"] > 1000
    (small,) = (model for model in listed if model["name"] == "mnist-small")
    stated = fastnn.load("mnist-small").metadata
    assert small["test_accuracy"] == {
        "float32": float(stated["test_accuracy"]),
        "int8": float(stated["test_accuracy_int8"]),
        "certified": float(stated["test_accuracy_certified"]),
    }
    assert f"{100 * float(stated['test_accuracy']):.2f} %" in out


def test_models_in_a_precision_and_without_speed(run, monkeypatch):
    listed = json.loads(run("models", "--json", "--precision", "certified")[1])
    timed = {model["name"]: model["speed"] for model in listed}
    assert timed["mnist-small"]["precision"] == "certified"
    assert timed["xor"] is None  # not calibrated
    assert timed["mnist-linear"] is None  # one layer
    out = run("models", "--precision", "int8")[1]
    assert "speed: int8 on" in out
    monkeypatch.setattr(show, "speeds", lambda models, **_: [1 / 0 for _ in models])
    status, out, err = run("models", "--no-speed")
    assert (status, err) == (0, "")
    assert "rows/s" not in out
    assert "784-128-10" in out
    assert {model["speed"] for model in json.loads(run("models", "--no-speed", "--json")[1])} == {
        None
    }


def test_summary(run):
    status, out, err = run("summary", "mnist-small")
    assert (status, err) == (0, "")
    assert "784 x 128" in out
    assert "101,770 parameters" in out
    assert "test_accuracy" in out
    facts = json.loads(run("summary", "mnist-small", "--json", "--isa", "scalar")[1])
    assert [layer["kernel"]["isa"] for layer in facts["layers"]] == ["scalar", "scalar"]
    assert facts["classes"] == list(range(10))
    assert [layer["n_parameters"] for layer in facts["layers"]] == [784 * 128 + 128, 1290]
    assert [layer["bytes"] for layer in facts["layers"]] == [4 * 100_480, 4 * 1290]


def test_summary_has_a_line_for_each_layer(run):
    lines = run("summary", "mnist-small", "--isa", "scalar")[1].splitlines()
    titles, first, second = lines[2], lines[4], lines[5]
    assert titles.split() == ["layer", "shape", "activation", "parameters", "bytes", "kernel"]
    assert first.split()[:8] == [
        "0", "784", "x", "128", "relu", "100,480", "401,920", "scalar",
    ]  # fmt: skip
    assert second.split()[:8] == ["1", "128", "x", "10", "softmax", "1,290", "5,160", "scalar"]
    quantized = run("summary", "mnist-small", "--precision", "int8", "--isa", "scalar")[1]
    assert "; uint8 scalar i8" in quantized.splitlines()[4]


def test_trace_of_xor(run, xor):
    status, out, err = run("trace", xor, 0, 1)
    assert (status, err) == (0, "")
    for expected in (
        "x = [0, 1]",
        "z0 = -0.5 + 1*0 + 1*1 = 0.5",
        "a0 = step(z0) = 1",
        "z1 = -1.5 + 1*0 + 1*1 = -0.5",
        "a1 = step(z1) = 0",
        "z0 = -0.5 + 1*1 - 1*0 = 0.5",
        "predict: 1",
    ):
        assert expected in out


def test_trace_takes_negative_numbers(run, line):
    status, out, _ = run("trace", line, "-1.5", "-2e-1")
    assert status == 0
    assert "z0 = 0.5 + 2*(-1.5) + 1*(-0.2) = -2.7" in out
    assert out.endswith("predict: -2.7\n")


def test_trace_as_json(run, sigmoid_neuron):
    status, out, err = run("trace", sigmoid_neuron, 1, 0.25, "--json", "--isa", "scalar")
    assert (status, err) == (0, "")
    facts = json.loads(out)
    layer = facts["layers"][0]
    assert layer["z"] == pytest.approx([0.4])
    assert layer["a"] == pytest.approx([1 / (1 + np.exp(-0.4))])
    assert layer["weight"] == [[pytest.approx(0.4)], [-2]]
    assert facts["predict"] == "yes"


def test_trace_without_inputs_says_what_it_takes(run, xor):
    status, out, err = run("trace", xor)
    assert status == 0
    assert err == f"no inputs given: all ones; your own: fastnn trace {xor} X0 X1\n"
    assert "x = [1, 1]" in out
    status, out, err = run("trace", "mnist-small")
    assert status == 0
    assert err == "no inputs given: the first bundled digit, a 0\n"
    assert "layer 1: 128 -> 10, softmax" in out
    assert len(out) < 4000
    assert out.endswith("predict: 0\n")
    picture = np.array([list(line) for line in out.splitlines()[:14]])
    pairs = mnist.sample()[0][0].reshape(14, 2, 28).mean(axis=1)
    np.testing.assert_array_equal(picture == "@", pairs >= 256 * 8 / 9)
    np.testing.assert_array_equal(picture == ".", pairs < 256 / 9)


def test_trace_rounds_what_a_reader_sees_and_not_the_json(run):
    out = run("trace", "sigmoid-3-2-1", 1, 1, 1)[1]
    assert "z0 = 0.1 + 0.2*1 + 0.4*1 - 0.6*1 = 0.1\n" in out  # float32 has 0.100000024
    facts = json.loads(run("trace", "sigmoid-3-2-1", 1, 1, 1, "--json")[1])
    model = fastnn.load("sigmoid-3-2-1")
    assert facts["layers"][0]["z"] == model.trace([[1, 1, 1]])[0][0][0].tolist()


def test_trace_counts_its_inputs(run, xor):
    status, _, err = run("trace", xor, 1)
    assert status == 2
    assert "1 given, the network takes 2" in err


# --- predict --------------------------------------------------------------------------------


def test_predict_pictures(run, digit):
    status, out, err = run("predict", "mnist-small", digit)
    assert (status, err) == (0, "")
    name, _, rest = out.partition(": ")
    assert name == str(digit)
    assert rest.startswith("0 (")
    assert rest.endswith(" %)\n")
    facts = json.loads(run("predict", "mnist-small", digit, "--json")[1])
    (answer,) = facts["results"]
    assert answer["file"] == str(digit)
    assert answer["label"] == 0
    assert 0.9 < answer["probability"] <= 1
    assert facts["errors"] == []


def test_predict_inverts(run, tmp_path):
    """A grey 28x28 picture is left as it is unless told; others by their border."""
    picture = 255 - mnist.sample()[0][100]  # a 1, dark on light
    small, large = tmp_path / "small.png", tmp_path / "large.png"
    Image.fromarray(picture).save(small)
    Image.fromarray(np.kron(picture, np.ones((8, 8), np.uint8))).save(large)

    def label(*tokens):
        return json.loads(run("predict", "mnist-small", *tokens, "--json")[1])["results"][0]

    assert label(small, "--invert")["label"] == 1
    assert label(small) == label(small, "--no-invert")
    assert label(small)["probability"] != label(small, "--invert")["probability"]
    assert label(large)["label"] == 1
    assert label(large) == label(large, "--invert")
    assert run("predict", "mnist-small", large, "--no-invert")[0] == 1


def test_predict_arrays(run, tmp_path):
    images, _ = mnist.sample()
    images = images[::100]
    wanted = fastnn.load("mnist-small").predict(images).tolist()
    idx.write(tmp_path / "plain-idx3-ubyte", images)
    idx.write(tmp_path / "packed.gz", images)
    np.save(tmp_path / "three.npy", images)
    np.save(tmp_path / "flat.npy", images.reshape(10, 784) / 255)
    for name in ("plain-idx3-ubyte", "packed.gz", "three.npy", "flat.npy"):
        path = tmp_path / name
        facts = json.loads(run("predict", "mnist-small", path, "--json")[1])
        assert [answer["label"] for answer in facts["results"]] == wanted, name
        assert [answer["row"] for answer in facts["results"]] == list(range(10))
        assert run("predict", "mnist-small", path)[1].startswith(f"{path}[0]: {wanted[0]} (")


def test_predict_goes_block_by_block(run, tmp_path, monkeypatch):
    monkeypatch.setattr("fastnn.cli.predict._BLOCK_ROWS", 7)
    images, _ = mnist.sample()
    np.save(tmp_path / "a.npy", images[:50])
    idx.write(tmp_path / "b.gz", images[:50])
    status, out, _ = run("predict", "mnist-small", tmp_path / "a.npy", tmp_path / "b.gz", "--json")
    assert status == 0
    results = json.loads(out)["results"]
    assert [answer["row"] for answer in results] == [*range(50), *range(50)]
    wanted = fastnn.load("mnist-small").predict(images[:50]).tolist()
    assert [answer["label"] for answer in results] == wanted * 2


def test_predict_one_row_and_no_rows(run, tmp_path):
    np.save(tmp_path / "one.npy", mnist.sample()[0][0])
    np.save(tmp_path / "none.npy", np.empty((0, 28, 28), np.uint8))
    status, out, _ = run("predict", "mnist-small", tmp_path / "none.npy", tmp_path / "one.npy")
    assert status == 0
    assert out.startswith(f"{tmp_path / 'one.npy'}[0]: 0")
    assert out.count("\n") == 1


def test_one_bad_file_among_many(run, digit, tmp_path):
    text = tmp_path / "notes.png"
    text.write_text("not a picture")
    wrong = tmp_path / "wrong.npy"
    np.save(wrong, np.zeros((3, 5)))
    pickled = tmp_path / "pickled.npy"
    np.save(pickled, np.array([{}], object), allow_pickle=True)
    bad = [text, wrong, pickled, tmp_path / "missing.png", tmp_path]
    status, out, err = run("predict", "mnist-small", *bad, digit)
    assert status == 1
    assert out.startswith(f"{digit}: 0 (")
    assert out.count("\n") == 1
    lines = err.splitlines()
    assert len(lines) == len(bad)
    for path, line in zip(bad, lines, strict=True):
        assert line.startswith(f"fastnn: {path}")
    status, out, _ = run("predict", "mnist-small", *bad, digit, "--json")
    facts = json.loads(out)
    assert [error["file"] for error in facts["errors"]] == [str(path) for path in bad]
    assert len(facts["results"]) == 1


HOSTILE_NPY = [
    containers.npy(b"", "(4294967296, 4294967296)"),
    containers.npy(bytes(8), "(9223372036854775809, 2)"),
    containers.npy(bytes(8), "(1, " + "9" * 4000 + ")"),
    containers.npy(bytes(8), "(" * 1000 + ")" * 1000),
    containers.npy(bytes(8), "(-1, -2)"),
    containers.npy(bytes(8), "(True, 2)"),
    containers.npy(bytes(8), "(1, 2), 3: (1"),
    containers.npy(bytes(8), "__import__('os').abort()"),
    containers.npy(b"", "(1000000000,)", "'|S0'"),
    containers.npy(b"", "(1000000000,)", "'|V0'"),
    containers.npy(bytes(16), "(1, 2)", "[('a', '<f4'), ('b', '<f4')]"),
    containers.npy(bytes(16), "(1, 2)", "'<c8'"),
    containers.npy(bytes(8), "(1, 2)", "'O'"),
    containers.npy(bytes(8), "(1, 3)"),
    containers.npy(magic=b"\x93NUMPY\x02\x00"),
    b"\x93NUMPY",
]


@pytest.mark.parametrize("mmap_mode", [None, "r"])
@pytest.mark.parametrize("data", HOSTILE_NPY, ids=range(len(HOSTILE_NPY)))
def test_hostile_rows(data, mmap_mode, tmp_path):
    path = tmp_path / "a.npy"
    path.write_bytes(data)
    with pytest.raises(LoadError, match=r"a\.npy: npy: expected an array of numbers, found"):
        npy.load(path, mmap_mode)


def test_predict_with_other_models(run, xor, sigmoid_neuron, line, digit, tmp_path):
    points = tmp_path / "points.npy"
    np.save(points, np.array([[0, 1], [1, 1]], np.float32))
    assert run("predict", line, points)[1] == f"{points}[0]: 1.5\n{points}[1]: 3.5\n"
    assert json.loads(run("predict", line, points, "--json")[1])["results"][1]["value"] == 3.5
    out = run("predict", sigmoid_neuron, points)[1]
    assert out.splitlines()[0].startswith(f"{points}[0]: no (")
    status, out, _ = run("predict", xor, points)
    assert status == 0
    assert out == f"{points}[0]: 1 (score 0.5)\n{points}[1]: 0 (score -0.5)\n"
    status, _, err = run("predict", xor, digit)
    assert status == 1
    assert "28x28" in err


def test_json_has_no_nan(run, line, tmp_path):
    np.save(tmp_path / "nan.npy", np.array([[np.nan, 1], [np.inf, 1], [1, 1]], np.float32))
    status, out, _ = run("predict", line, tmp_path / "nan.npy", "--json")
    assert status == 0
    values = [answer["value"] for answer in json.loads(out, parse_constant=pytest.fail)["results"]]
    assert values == [None, None, 3.5]


def test_predict_pictures_without_pillow(run, digit, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    status, _, err = run("predict", "mnist-small", digit)
    assert status == 1
    assert "fastnn[images]" in err


# --- evaluate -------------------------------------------------------------------------------


def test_evaluate_on_the_sample(run):
    status, out, err = run("evaluate")
    assert status == 0
    assert "held-out sample of 1,000 training-split digits, not the MNIST test set" in out
    assert "95 % interval" in out
    assert "images/s" in out
    assert "bundled sample" in err
    assert "\r" not in out
    status, out, err = run("evaluate", "--json", "--quiet")
    assert (status, err) == (0, "")
    facts = json.loads(out)
    images, labels = mnist.sample()
    answers = fastnn.load("mnist-small").predict(images)
    assert facts["n_right"] == np.count_nonzero(answers == labels)
    assert facts["accuracy"] == facts["n_right"] / 1000
    confusion = np.array(facts["confusion"])
    assert confusion.sum(axis=1).tolist() == [100] * 10
    assert np.trace(confusion) == facts["n_right"]
    assert confusion[3].tolist() == np.bincount(answers[labels == 3], minlength=10).tolist()
    low, high = facts["accuracy_95"]
    assert low < facts["accuracy"] < high
    assert facts["images_per_s"] > 1000


def test_evaluate_on_the_test_set(run, mnist_path):
    status, out, err = run("evaluate", "mnist-small", "--data", mnist_path)
    assert (status, err) == (0, "")
    assert "MNIST test set, 10,000 digits" in out
    figure = fastnn.load("mnist-small").metadata["test_accuracy"]
    assert f"{100 * float(figure):.2f} %" in out


def test_evaluate_finds_the_files(run, mnist_path, monkeypatch):
    monkeypatch.setenv("FASTNN_MNIST", str(mnist_path))
    assert json.loads(run("evaluate", "--json")[1])["n_images"] == 10_000


def test_evaluate_takes_the_folder_that_is_named(run, monkeypatch, tmp_path):
    monkeypatch.setenv("FASTNN_MNIST", str(tmp_path / "nothing"))
    status, out, err = run("evaluate")
    assert (status, out) == (1, "")
    assert f"not found in {tmp_path / 'nothing'}" in err


def test_evaluate_refuses_other_models(run, xor, tmp_path):
    status, _, err = run("evaluate", xor)
    assert status == 1
    assert "784 pixels, the model takes 2" in err
    letters = tmp_path / "letters.npz"
    Model([Dense(np.ones((784, 3)), np.zeros(3))]).save(letters)
    status, _, err = run("evaluate", letters)
    assert status == 1
    assert "classes are 0, 1, 2" in err


def test_wilson():
    """Against the figures in Wilson's formula worked by hand and its known limits."""
    assert evaluate.wilson(50, 100) == pytest.approx((0.4038, 0.5962), abs=1e-4)
    low, high = evaluate.wilson(1000, 1000)
    assert (low, high) == (pytest.approx(0.99617, abs=1e-5), 1)
    assert evaluate.wilson(0, 10)[0] == 0
    assert evaluate.wilson(0, 10)[1] == pytest.approx(0.2775, abs=1e-4)


def test_progress_is_drawn_on_a_terminal_only(monkeypatch, capsys):
    class Terminal:
        written = ""

        def isatty(self):
            return True

        def write(self, text):
            self.written += text
            return len(text)

        def flush(self):
            pass

    terminal = Terminal()
    with monkeypatch.context() as patched:
        patched.setattr(sys, "stderr", terminal)
        patched.setenv("TERM", "xterm")
        with output.progress("counting", 10) as bar:
            bar.advance(5)
        drawn = len(terminal.written)
        with output.progress("counting", 10, quiet=True) as bar:
            bar.advance(5)
        assert len(terminal.written) == drawn
    assert "counting" in terminal.written
    with output.progress("counting", 10) as bar:
        bar.advance(5)
    assert capsys.readouterr() == ("", "")


# --- bench, data ----------------------------------------------------------------------------


def test_bench(run, xor):
    status, out, err = run("bench", xor, "--seconds", 0.02, "--batch", 1, "--batch", 32)
    assert (status, err) == (0, "")
    for word in ("p50", "p99", "rows/s", "GFLOP/s", "of peak", "of bandwidth", "2 x 2 step"):
        assert word in out
    assert "of bandwidth" not in run("bench", xor, "--seconds", 0.02, "--no-layers")[1]
    status, out, _ = run("bench", "mnist-small", "--seconds", 0.02, "--batch", 8, "--json", "-")
    assert status == 0
    facts = json.loads(out)
    assert facts["workload"]["input"] == "uint8"
    (timing,) = facts["timings"]
    assert timing["batch"] == 8
    assert timing["n_threads"] == 1
    assert 0 < timing["executed_gflops"] < timing["effective_gflops"]
    assert [layer["n_outputs"] for layer in timing["layers"]] == [128, 10]
    assert facts["machine"]["versions"]["numpy"] == np.__version__


def test_bench_writes_files_that_compare_reads(run, xor, tmp_path):
    files = [tmp_path / name for name in ("a.json", "b.json")]
    for file in files:
        status, out, _ = run(
            "bench", xor, "--seconds", 0.02, "--batch", 1, "--batch", 2, "--no-layers",
            "--json", file, "--markdown", tmp_path / "run.md",
        )  # fmt: skip
        assert status == 0
        assert "rows/s" in out
    assert "| batch | threads |" in (tmp_path / "run.md").read_text()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.json", "b.json", "run.md"]
    status, out, err = run("compare", *files)
    assert (status, err) == (0, "")
    assert out.count("x as fast") == 2
    facts = json.loads(run("compare", *files, "--json", "--confidence", 0.5)[1])
    assert facts["confidence"] == 0.5
    assert [cell["batch"] for cell in facts["cells"]] == [1, 2]
    for cell in facts["cells"]:
        assert cell["ratio"] == pytest.approx(cell["before"] / cell["after"])
        assert cell["verdict"] in ("faster", "slower", "no difference shown")
    (same, _) = json.loads(run("compare", files[0], files[0], "--json")[1])["cells"]
    assert same["verdict"] == "no difference shown"


def test_compare_refuses(run, xor, line, tmp_path):
    for name, model in (("xor", xor), ("line", line)):
        tokens = ("--seconds", 0.02, "--batch", 1, "--no-layers", "--json", tmp_path / name)
        assert run("bench", model, *tokens)[0] == 0
    for other, message in (
        (tmp_path / "line", "did not do the same work: widths"),
        (xor, "is no JSON"),
        (tmp_path / "none", "No such file"),
    ):
        status, out, err = run("compare", tmp_path / "xor", other)
        assert (status, out) == (1, "")
        assert message in err
        assert err.count("\n") == 1


def test_bench_with_rivals(run, xor, monkeypatch):
    """NumPy alone, and one that is not there; nobody but fastnn knows the activation step."""
    ours, *_, numpy = rivals.SYSTEMS
    nobody = rivals.System("Nobody", ("no_such_module",), ("nobody",), numpy.make)
    monkeypatch.setattr(race.race, "__kwdefaults__", {
        **race.race.__kwdefaults__, "systems": (ours, nobody, numpy),
    })  # fmt: skip
    monkeypatch.setenv("FASTNN_NUM_THREADS", "1")
    tokens = ("--seconds", 0.02, "--batch", 4, "--rivals", "--no-layers")
    status, out, err = run("bench", "mnist-small", *tokens)
    assert (status, err) == (0, "")
    assert "Nobody: not installed (pip install nobody)" in out
    assert f"NumPy {np.__version__}, " in out
    assert "x as fast" in out
    facts = json.loads(run("bench", xor, *tokens, "--json", "-")[1])
    assert [entry["system"] for entry in facts["rivals"]] == ["fastnn"]
    assert [one["system"] for one in facts["absent"]] == ["Nobody", "NumPy"]


def test_bench_says_early_what_it_cannot_write(run, xor, monkeypatch, tmp_path):
    monkeypatch.setattr("fastnn.cli.bench.sweep_batches", lambda *_, **__: 1 / 0)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    for tokens, message in (
        (("--json", tmp_path / "no" / "a.json"), "no such folder"),
        (("--markdown", tmp_path / "no" / "a.md"), "no such folder"),
        (("--plot", tmp_path / "a.svg"), 'pip install "fastnn[plot]"'),
        (("--plot", tmp_path / "a.gif"), "ends in .svg, .png, .pdf"),
    ):
        status, out, err = run("bench", xor, *tokens)
        assert (status, out) == (1, "")
        assert message in err


def test_bench_draws(run, xor, tmp_path):
    pytest.importorskip("matplotlib", reason="NOT TESTED: needs the extra fastnn[plot]")
    picture = tmp_path / "roof.svg"
    tokens = ("--seconds", 0.02, "--batch", 4, "--no-layers", "--plot", picture)
    assert run("bench", xor, *tokens)[0] == 0
    assert "1: 2 x 1 step" in picture.read_text()


# --- convert, export-c, verify --------------------------------------------------------------


def test_convert(run, tmp_path):
    out = tmp_path / "a.npz"
    status, printed, err = run("convert", "mnist-small", out)
    assert (status, err) == (0, "")
    assert f"{out}: <fastnn.Model 784-128-10: relu, softmax" in printed
    before, after = fastnn.load("mnist-small"), fastnn.load(out)
    for one, two in zip(before.layers, after.layers, strict=True):
        assert np.array_equal(one.weight, two.weight)
    assert before.calibration == after.calibration
    assert before.metadata == after.metadata
    back = tmp_path / "b.safetensors"
    facts = json.loads(run("convert", out, back, "--json")[1])
    assert facts == {"model": str(out), "out": str(back), "file_bytes": back.stat().st_size}
    bundled = Path(fastnn.__file__).parent / "models" / "mnist-small.safetensors"
    assert back.read_bytes() == bundled.read_bytes()
    status, printed, err = run("convert", "xor", tmp_path / "a.c")
    assert (status, printed) == (2, "")
    assert "C is written by `fastnn export-c xor -o" in err


@pytest.mark.parametrize(
    ("tokens", "wanted"),
    [
        ((), {}),
        (("--activations", "relu, softmax"), {"activations": ["relu", "softmax"]}),
        (
            ("--activations", "clip(lo=-1,hi=1),leaky_relu(alpha=0.1)"),
            {"activations": ["clip(lo=-1,hi=1)", "leaky_relu(alpha=0.1)"]},
        ),
        (("--layout", "outputs_inputs"), {"layout": "outputs_inputs"}),
    ],
)
def test_convert_passes_on_what_a_format_may_need(run, monkeypatch, tmp_path, tokens, wanted):
    seen = []
    load = fastnn.load
    monkeypatch.setattr(fastnn, "load", lambda name, **more: seen.append(more) or load(name))
    assert run("convert", "xor", tmp_path / "a.npz", *tokens)[0] == 0
    assert seen == [wanted]


def test_export_c(run, tmp_path):
    out = tmp_path / "my net.c"
    status, printed, err = run("export-c", "xor", "-o", out)
    assert (status, err) == (0, "")
    assert "-DFASTNN_TEST_MAIN" in printed
    assert "int my_net_predict(const float *x);" in out.read_text()
    tokens = ("--name", "other", "--inputs", "uint8", "--json")
    facts = json.loads(run("export-c", "mnist-small", "-o", out, *tokens)[1])
    assert (facts["name"], facts["file_bytes"]) == ("other", out.stat().st_size)
    text = out.read_text()
    assert "other_predict_u8" in text
    assert "other_predict(" not in text
    assert ", float32." in text
    run("export-c", "mnist-small", "-o", out, "--precision", "int8")
    assert ", int8." in out.read_text()


def test_verify_against_a_file(run, tmp_path):
    run("convert", "mnist-small", tmp_path / "a.npz")
    status, out, err = run("verify", "mnist-small", "--against", tmp_path / "a.npz")
    assert (status, err) == (0, "")
    assert out.count("  0 %  ") >= 3
    assert out.endswith("agrees: no z is further off than rounding makes it\n")
    facts = json.loads(run("verify", "mnist-small", "--against", "mnist-linear", "--json")[1])
    assert facts["agrees"] is False
    assert [one["rows"] for one in facts["rows"]] == [
        "random float32", "random uint8", "MNIST sample",
    ]  # fmt: skip
    assert all(one["n_flips"] >= one["n_wrong"] > 10 for one in facts["rows"])
    status, out, err = run("verify", "mnist-small", "--against", "mnist-linear")
    assert (status, err) == (1, "")
    assert "differs on MNIST sample: by " in out
    assert "agrees" not in out


def test_verify_against_another_kind_of_model(run, xor, tmp_path):
    """The numbers are the same; what `forward` and `predict` give is not."""
    layers = fastnn.load(xor).layers
    last = Dense(layers[1].weight, layers[1].bias)
    Model([layers[0], last], task="regress").save(tmp_path / "a.npz")
    status, out, err = run("verify", xor, "--against", tmp_path / "a.npz")
    assert (status, err) == (1, "")
    for what in ("task: classify and regress", "classes", "the last activation: step and identity"):
        assert f"differs in {what}\n" in out


def test_verify_against_float64(run, sigmoid_neuron):
    status, out, err = run("verify", sigmoid_neuron, "--against", "numpy")
    assert (status, err) == (0, "")
    assert f"against  NumPy {np.__version__}, float64" in out
    status, out, _ = run("verify", "mnist-small", "--precision", "int8", "--against", "numpy")
    assert status == 0
    assert "int8, calibrated on uint8 rows" in out


def test_verify_what_is_unusual(run, tmp_path):
    """One GELU for the other is within the bound: --strict says so by the status."""
    small = fastnn.load("mnist-small")
    for name in ("gelu", "gelu_tanh"):
        hidden, last = small.layers
        layers = [Dense(hidden.weight, hidden.bias, name), last]
        units = {unit: getattr(small, unit) for unit in ("scale", "mean", "std")}
        Model(layers, **units).save(tmp_path / f"{name}.npz")
    tokens = ("verify", tmp_path / "gelu.npz", "--against", tmp_path / "gelu_tanh.npz")
    status, out, _ = run(*tokens)
    assert status == 0
    assert "times what is usual, so look at activations and constants" in out
    assert run(*tokens, "--strict")[0] == 1
    assert json.loads(run(*tokens, "--json")[1])["is_usual"] is False


def test_verify_rows_of_a_file(run, tmp_path, sigmoid_neuron):
    rng = np.random.default_rng(0)
    np.save(tmp_path / "good.npy", rng.standard_normal((7, 2)))
    facts = json.loads(
        run(
            "verify",
            sigmoid_neuron,
            "--against",
            "numpy",
            "--rows",
            tmp_path / "good.npy",
            "--json",
        )[1]
    )
    assert [one["n_rows"] for one in facts["rows"]] == [1000, 7]
    for array, message in (
        (np.zeros((7, 3)), "has shape (7, 3), wanted rows of 2 values"),
        (np.zeros(2), "has shape (2,), wanted rows of 2 values"),
        (np.zeros((0, 2)), "has shape (0, 2), wanted rows of 2 values"),
        (np.zeros((3, 2), np.int64), "has dtype int64, wanted uint8 or floats"),
    ):
        np.save(tmp_path / "bad.npy", array)
        tokens = ("--against", "numpy", "--rows", tmp_path / "bad.npy")
        status, out, err = run("verify", sigmoid_neuron, *tokens)
        assert (status, out) == (1, "")
        assert message in err
    np.save(tmp_path / "nan.npy", np.full((3, 2), np.nan))
    status, out, _ = run(
        "verify", sigmoid_neuron, "--against", "numpy", "--rows", tmp_path / "nan.npy"
    )
    assert status == 1
    assert "all of" in out


def test_fetch(run, monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(mnist, "fetch", lambda to: asked.append(to) or tmp_path)
    status, out, err = run("data", "fetch")
    assert (status, out) == (0, f"{tmp_path}\n")
    assert "11 MB" in err
    run("data", "fetch", "--to", tmp_path / "here")
    assert asked == [None, tmp_path / "here"]


def test_fetch_that_fails(run, monkeypatch):
    def fail(to):
        raise ConnectionError("fetch: no mirror delivered")

    monkeypatch.setattr(mnist, "fetch", fail)
    status, out, err = run("data", "fetch")
    assert (status, out) == (1, "")
    assert "no mirror delivered" in err


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(2.5, "2.5 s"), (0.0123, "12.3 ms"), (4.56e-5, "45.6 us"), (7.8e-8, "78 ns")],
)
def test_durations(seconds, text):
    assert fastnn.text.duration(seconds) == text


def test_the_script_is_installed():
    """`fastnn` on the PATH is the same command; only where fastnn is installed."""
    script = Path(PYTHON).parent / "fastnn"
    if not script.exists():
        pytest.skip("NOT TESTED: needs fastnn installed, it is only built in place")
    done = subprocess.run([script, "--version"], capture_output=True, text=True, env=os.environ)
    assert done.stdout == f"fastnn {fastnn.__version__}\n"
