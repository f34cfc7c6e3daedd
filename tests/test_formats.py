"""Model files: what is written comes back, and nothing else than a sound file is believed.

The hostile files are built by hand here, byte by byte, not by the code under test.
"""

import io
import json
import os
import struct
import subprocess
import sys
import tracemalloc
import types
import zipfile

import numpy as np
import pytest
from attacks.kinds import write_anew
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from oracle import IS_SANITIZED
from safetensors import safe_open

import fastnn
from fastnn import Dense, LoadError, _core, formats
from fastnn.checks import PRECISIONS
from fastnn.formats import ModelFile, model_file
from fastnn.quantize import Calibration

RNG = np.random.default_rng(11)
FORMAT_NAMES = {".safetensors": "safetensors", ".npz": "npz", ".onnx": "ONNX"}


def small(**rest):
    layers = [
        Dense(RNG.normal(size=(3, 4)), RNG.normal(size=4), "leaky_relu", alpha=0.1),
        Dense(RNG.normal(size=(4, 2)), RNG.normal(size=2), "softmax"),
    ]
    return ModelFile(layers, **rest)


def assert_same(one, other):
    assert len(one.layers) == len(other.layers)
    for a, b in zip(one.layers, other.layers, strict=True):
        assert a.weight.shape == b.weight.shape
        assert a.weight.tobytes() == b.weight.tobytes()
        assert a.bias.tobytes() == b.bias.tobytes()
        assert (a.activation, a.parameters) == (b.activation, b.parameters)
    assert (one.classes is None) == (other.classes is None)
    if one.classes is not None:
        assert one.classes.dtype == other.classes.dtype
        assert one.classes.tolist() == other.classes.tolist()
    for name in ("scale", "mean", "std"):
        a, b = getattr(one, name), getattr(other, name)
        assert type(a) is type(b)
        assert np.shape(a) == np.shape(b)
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()  # to the last bit, and -0.0
    assert one.task == other.task
    assert one.metadata == other.metadata
    assert (one.precision, one.calibration) == (other.precision, other.calibration)


# ---- round trips ---------------------------------------------------------------------------------

EXAMPLES = {
    "plain": {},
    "integers": {"classes": np.array([7, -1], np.int16)},
    "large": {"classes": np.array([2**64 - 1, 0], np.uint64)},
    "booleans": {"classes": np.array([False, True])},
    "strings": {"classes": np.array(["no", "ja \u2713 \U0001f600"], "U20"), "task": "classify"},
    "units": {"scale": 1 / 255, "mean": 0.1307, "std": -0.0},
    "units by input": {"scale": np.array([1 / 3, 2, 5e-324]), "std": np.array([1.0, 2, 3])},
    "metadata": {"metadata": {"name": "x", "": '\0\n"\u2028', "format": "np", "v": "1"}},
    "regress": {"task": "regress"},
    "bfloat16": {"precision": "bfloat16"},
    "calibrated": {"calibration": Calibration("uint8", [(0, 255), (-1 / 3, 5e-324)])},
    "int8": {"precision": "int8", "calibration": Calibration("float32", [(-3, 0), (0, 3e38)])},
}


@pytest.mark.parametrize("suffix", formats.SUFFIXES)
@pytest.mark.parametrize("example", EXAMPLES)
def test_what_is_written_comes_back_and_gives_the_same_bytes(tmp_path, suffix, example):
    one = small(**EXAMPLES[example])
    path, again = tmp_path / f"a{suffix}", tmp_path / f"b{suffix}"
    formats.write(path, one)
    found = formats.read(path)
    assert_same(one, found)
    formats.write(again, found)
    assert again.read_bytes() == path.read_bytes()


finite = st.floats(width=32, allow_nan=False, allow_infinity=False)
float64 = st.floats(allow_nan=False, allow_infinity=False)
limits = st.tuples(st.floats(max_value=0, width=32), st.floats(min_value=0, width=32)).filter(
    lambda pair: all(map(np.isfinite, pair))
)
text = st.text(st.characters(codec="utf-8"), max_size=12)
no_nul = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12)
labels = st.one_of(
    st.none(),
    hnp.arrays(hnp.integer_dtypes() | hnp.unsigned_integer_dtypes() | st.just("?"), (3,)),
    st.lists(no_nul, min_size=1, max_size=5).map(np.array),
)


@st.composite
def model_files(draw):
    widths = draw(st.lists(st.integers(1, 6), min_size=2, max_size=4))
    layers = []
    for a, b in zip(widths, widths[1:], strict=False):
        name = draw(st.sampled_from(list(fastnn.activations())))
        known = fastnn.activations()[name]["parameters"]
        values = {key: draw(finite) for key in known}
        if "lo" in values:
            values["hi"] = max(values.values())
            values["lo"] = min(values.values())
        weight = draw(hnp.arrays(np.float32, (a, b), elements=finite))
        bias = draw(hnp.arrays(np.float32, b, elements=finite))
        layers.append(Dense(weight, bias, name, **values))
    ranges = draw(st.none() | st.lists(limits, min_size=len(layers), max_size=len(layers)))
    units = float64 | hnp.arrays(np.float64, widths[0], elements=float64)
    return ModelFile(
        layers,
        classes=draw(labels),
        task=draw(st.sampled_from([None, "classify", "regress"])),
        scale=draw(units),
        mean=draw(units),
        std=draw(units),
        metadata=draw(st.dictionaries(text.filter(lambda key: key != "fastnn"), text, max_size=3)),
        precision=draw(st.sampled_from(PRECISIONS if ranges else ("float32", "bfloat16"))),
        calibration=Calibration("float32", ranges) if ranges else None,
    )


@pytest.mark.parametrize("suffix", formats.SUFFIXES)
@settings(deadline=None, max_examples=60)
@given(one=model_files())
def test_round_trip(tmp_path_factory, suffix, one):
    path = tmp_path_factory.getbasetemp() / f"round{suffix}"
    formats.write(path, one)
    assert_same(one, formats.read(path))


@pytest.mark.parametrize("suffix", formats.SUFFIXES)
def test_bytes_do_not_depend_on_the_process(tmp_path, suffix):
    code = (
        "import sys, fastnn; from fastnn import formats\n"
        "m = formats.ModelFile([fastnn.Dense([[1, 2]], [0, 1], 'elu')], classes=['a', 'b'],\n"
        "    metadata={c: c for c in 'hgfedcba'})\n"
        "formats.write(sys.argv[1], m)"
    )
    found = set()
    for seed in ("0", "1"):
        path = tmp_path / f"{seed}{suffix}"
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        subprocess.run([sys.executable, "-c", code, path], check=True, env=environment)
        found.add(path.read_bytes())
    assert len(found) == 1


@pytest.mark.parametrize("suffix", formats.SUFFIXES)
def test_as_many_metadata_as_are_allowed(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    metadata = {f"{i}": "," for i in range(4096)}
    model = fastnn.Model([Dense([[1]], [0])], metadata=metadata)
    model.save(path)
    assert fastnn.load(path).metadata == metadata
    model = fastnn.Model([Dense([[1]], [0])], metadata={**metadata, "x": ""})
    with pytest.raises(ValueError, match=r"^save: metadata has 4097 names, wanted at most 4096$"):
        model.save(path)


def test_other_readers_open_the_native_file(tmp_path):
    one = small(mean=np.array([1.0, 2, 3]), metadata={"note": "hello"})
    formats.write(tmp_path / "a.safetensors", one)
    with safe_open(tmp_path / "a.safetensors", "np") as file:
        np.testing.assert_array_equal(file.get_tensor("layers.0.weight"), one.layers[0].weight)
        np.testing.assert_array_equal(file.get_tensor("mean"), one.mean)
        assert file.metadata()["note"] == "hello"
        assert json.loads(file.metadata()["fastnn"])["version"] == 1


@pytest.mark.parametrize("name", fastnn.models())
def test_bundled_models_are_in_the_form_that_is_written_today(tmp_path, name):
    path = os.path.join(os.path.dirname(fastnn.__file__), "models", f"{name}.safetensors")
    formats.write(tmp_path / "again.safetensors", formats.read(path))
    with open(path, "rb") as file:
        assert (tmp_path / "again.safetensors").read_bytes() == file.read()


# ---- ModelFile, suffixes, writing ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "kind", "message"),
    [
        ({"layers": []}, ValueError, "0 layers, wanted 1 to 256"),
        ({"layers": [Dense([[1]], [0])] * 257}, ValueError, "257 layers"),
        ({"layers": [1]}, TypeError, r"layers\[0\] is a int"),
        ({"task": "guess"}, ValueError, "task is 'guess'"),
        ({"classes": [0.5, 1]}, TypeError, "classes has dtype float64"),
        ({"classes": [["a"], ["b"]]}, ValueError, r"shape \(2, 1\)"),
        ({"classes": ["a", "\ud800"]}, ValueError, "classes has half a surrogate"),
        ({"scale": np.nan}, ValueError, "scale has NaN"),
        ({"mean": [1.0, 2]}, ValueError, r"mean has shape \(2,\), wanted .*\(1,\)"),
        ({"std": "1"}, TypeError, "std has dtype <U1"),
        ({"metadata": {"a": 1}}, TypeError, "metadata has 'a': 1"),
        ({"metadata": {"a": "\ud800"}}, ValueError, "half a surrogate"),
        ({"precision": "int4"}, ValueError, "precision is 'int4'"),
        ({"precision": "int8"}, ValueError, '"int8" needs a calibration'),
        ({"calibration": [[0, 1]]}, TypeError, "calibration is a list"),
        ({"calibration": Calibration("uint8", [(0, 255)] * 2)}, ValueError, "2 ranges, wanted 1"),
    ],
)
def test_model_file_refuses(fields, kind, message):
    with pytest.raises(kind, match=message):
        ModelFile(**{"layers": [Dense([[1]], [0])], **fields})


def test_suffixes(tmp_path):
    for name in ("model", "model.xyz", "model.npz.bak"):
        with pytest.raises(LoadError, match=rf"{name}: .*\.safetensors or \.npz"):
            formats.read(tmp_path / name)
        with pytest.raises(ValueError, match=rf"{name}.*\.safetensors or \.npz"):
            formats.write(tmp_path / name, small())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("change", "text"), [(-1, "more"), (1, "{n}")])
def test_a_file_that_changes_while_it_is_read(tmp_path, monkeypatch, change, text):
    path = tmp_path / "a.safetensors"
    formats.write(path, small())
    n = path.stat().st_size
    status = types.SimpleNamespace(st_mode=path.stat().st_mode, st_size=n + change)
    monkeypatch.setattr(formats.os, "fstat", lambda fd: status)
    with pytest.raises(
        LoadError, match=rf"{n + change} bytes, found {text.format(n=n)}: it changed"
    ):
        formats.read(path)


def test_bytes_of_a_file(tmp_path):
    """Whole, in parts, over huge pages, from where the file is, to its end."""
    path = tmp_path / "a"
    rng = np.random.default_rng(0)
    for n in (0, 1, 1000, (5 << 20) + 7):
        data = rng.bytes(n)
        path.write_bytes(data)
        with open(path, "rb", buffering=0) as file:
            assert _core.read_bytes(file.fileno(), n) == data
            assert _core.read_bytes(file.fileno(), 10) == b""
            file.seek(n // 2)
            assert _core.read_bytes(file.fileno(), n) == data[n // 2 :]
    with pytest.raises(OSError, match="Bad file descriptor"):
        _core.read_bytes(-1, 10)
    with pytest.raises((OverflowError, SystemError, MemoryError)):
        _core.read_bytes(0, -1)


@pytest.mark.parametrize("suffix", formats.SUFFIXES)
def test_a_suffix_in_capitals(tmp_path, suffix):
    path, model_file = tmp_path / f"a{suffix.upper()}", small()
    formats.write(path, model_file)
    assert_same(formats.read(path), model_file)
    with pytest.raises(LoadError, match=r"\.tflite is .*--tflite 'a b\.TFLITE' "):
        formats.read("a b.TFLITE")


@pytest.mark.parametrize("suffix", formats.SUFFIXES)
def test_what_is_no_file(tmp_path, suffix):
    with pytest.raises(FileNotFoundError):
        formats.read(tmp_path / f"absent{suffix}")
    with pytest.raises(FileNotFoundError) as caught:
        formats.write(tmp_path / "absent" / f"a{suffix}", small())
    assert caught.value.filename == str(tmp_path / "absent" / f"a{suffix}")
    pipe = tmp_path / f"pipe{suffix}"
    os.mkfifo(pipe)
    with pytest.raises(LoadError, match="pipe.*expected a regular file"):
        formats.read(pipe)
    (tmp_path / f"folder{suffix}").mkdir()
    with pytest.raises((LoadError, IsADirectoryError), match="folder"):
        formats.read(tmp_path / f"folder{suffix}")


def test_the_native_format_refuses_to_write(tmp_path):
    path = tmp_path / "a.safetensors"
    for fields, message in [
        ({"metadata": {"fastnn": "x"}}, "key 'fastnn'"),
        ({"metadata": {"a": "x" * 2**20}}, "header of 104.* bytes, wanted at most 1048576"),
        (
            {"classes": np.arange(65_536)},
            "write: 65536 values of classes make 65547, wanted at most 65536 commas in the",
        ),
        ({"classes": np.array(["x" * 900] * 1200)}, "make 108.* characters, wanted metadata of at"),
        ({"classes": np.array(["a"], "U1001")}, "1001 characters, wanted at most 1000"),
    ]:
        with pytest.raises(ValueError, match=message):
            formats.write(path, small(**fields))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("fields", "beyond", "found"),
    [
        (
            {"classes": np.arange(65_536)},
            {"classes": np.arange(65_537)},
            "classes has 65537 values, wanted at most 65536 values of at most 1000 characters",
        ),
        (
            {"classes": np.array(["a"], "U1000")},
            {"classes": np.array(["a"], "U1001")},
            "classes has 1 values of 1001 characters, wanted at most 65536 values of at most 1000",
        ),
        (
            {"metadata": {"a": "x" * (2**20 - 9)}},  # {"a": ""}
            {"metadata": {"a": "x" * (2**20 - 8)}},
            "metadata has 1 values of 1048577 characters, wanted at most 1 values of at most 10485",
        ),
    ],
)
def test_npz_refuses_to_write_what_it_does_not_read(tmp_path, fields, beyond, found):
    one = small(**fields)
    formats.write(tmp_path / "a.npz", one)
    assert_same(one, formats.read(tmp_path / "a.npz"))
    with pytest.raises(ValueError, match=f"^write: {found}"):
        formats.write(tmp_path / "b.npz", small(**beyond))
    assert not (tmp_path / "b.npz").exists()


@pytest.mark.parametrize("suffix", formats.SUFFIXES)
def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, suffix):
    path = tmp_path / f"a{suffix}"
    formats.write(path, small())
    before = path.read_bytes()

    def fail(*arguments):
        raise OSError("no space left")

    for name in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, fail)
            with pytest.raises(OSError, match="no space left"):
                formats.write(path, small())
        assert path.read_bytes() == before
        assert list(tmp_path.iterdir()) == [path]


def test_a_written_file_has_the_usual_permissions(tmp_path):
    formats.write(tmp_path / "a.npz", small())
    (tmp_path / "plain").touch()
    assert (tmp_path / "a.npz").stat().st_mode == (tmp_path / "plain").stat().st_mode


# ---- damaged files -------------------------------------------------------------------------------


def refused(path, data, match=None, **options):
    """`read` of `data` raises LoadError that names the file and its format; returns the text."""
    write_anew(path, data)
    with pytest.raises(LoadError, match=match) as caught:
        formats.read(path, **options)
    message = str(caught.value)
    assert message.startswith(f"{path}: {FORMAT_NAMES[path.suffix]}: expected ")
    assert ", found " in message
    assert len(message) < 1000
    assert message.isprintable()
    return message


def read_or_refused(path, data):
    """What `read` makes of `data`, None if it is refused; nothing but LoadError gets out."""
    write_anew(path, data)
    try:
        return formats.read(path)
    except LoadError as error:
        if str(path) not in str(error):
            raise AssertionError("the message does not name the file") from error
        return None


def written(path, **rest):
    formats.write(path, small(**rest))
    return path.read_bytes()


@pytest.mark.parametrize("suffix", formats.SUFFIXES)
def test_every_truncation_is_refused(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    ranges = Calibration("float32", [(0, 1), (-1, 0)])
    data = written(path, classes=np.array(["a", "b"]), mean=np.ones(3), calibration=ranges)
    for n in range(len(data)):
        refused(path, data[:n])


@pytest.mark.parametrize("suffix", formats.SUFFIXES)
def test_bytes_before_and_after_are_refused(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    data = written(path)
    for extra in (b"\0", b" ", b"PK\x05\x06" + bytes(18), data):
        refused(path, data + extra)
        refused(path, extra + data)


@pytest.mark.parametrize("suffix", formats.SUFFIXES)
def test_flipped_bits_are_refused_or_change_values_only(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    data = written(path, classes=np.array([3, 4]), metadata={"a": "b"})
    for i in range(len(data)):
        for mask in (0x01, 0x80, 0xFF):
            found = read_or_refused(path, data[:i] + bytes([data[i] ^ mask]) + data[i + 1 :])
            if found:
                assert [layer.weight.shape for layer in found.layers] == [(3, 4), (4, 2)]
                assert all(np.isfinite(layer.weight).all() for layer in found.layers)


@pytest.mark.parametrize("suffix", formats.SUFFIXES)
@settings(deadline=None, max_examples=300)
@given(data=st.data())
def test_random_damage(tmp_path_factory, suffix, data):
    path = tmp_path_factory.getbasetemp() / f"damage{suffix}"
    content = bytearray(written(path, classes=np.array(["a", "b"]), metadata={"a": "b"}))
    for _ in range(data.draw(st.integers(1, 4))):
        i = data.draw(st.integers(0, len(content)))
        j = data.draw(st.integers(i, min(len(content), i + 40)))
        content[i:j] = data.draw(st.binary(max_size=20))
    read_or_refused(path, bytes(content))


@pytest.mark.parametrize("suffix", formats.SUFFIXES)
def test_the_size_of_a_file_is_bounded_before_it_is_read(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    data = written(path)
    formats.read(path, max_bytes=len(data))
    refused(
        path, data, rf"at most {len(data) - 1} bytes .*found {len(data)}", max_bytes=len(data) - 1
    )
    os.truncate(path, 2**40)
    with pytest.raises(LoadError, match=f"at most {2**30} bytes .*found {2**40}"):
        formats.read(path)


# ---- hostile native files ------------------------------------------------------------------------


def container(header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def native(about=None, tensors=None, data=None, metadata=None, **changes):
    """The bytes of a sound 1-2 network, with `changes` to its architecture."""
    if about is None:
        layer = {"kind": "dense", "activation": "relu", "parameters": {}}
        about = {"version": 1, "layers": [layer], "task": None, "classes": None, "scale": 1.0,
                 "mean": 0.0, "std": 1.0}  # fmt: skip
    about = {key: value for key, value in {**about, **changes}.items() if value is not ...}
    if tensors is None:
        tensors = {
            "layers.0.weight": {"dtype": "F32", "shape": [1, 2], "data_offsets": [0, 8]},
            "layers.0.bias": {"dtype": "F32", "shape": [2], "data_offsets": [8, 16]},
        }
    if metadata is None:
        metadata = {"fastnn": json.dumps(about)}
    if data is None:
        data = np.arange(4, dtype="<f4").tobytes()
    return container({"__metadata__": metadata, **tensors}, data)


def layers(**changes):
    return [{"kind": "dense", "activation": "relu", "parameters": {}, **changes}]


def test_the_sound_file_of_these_tests_is_sound(tmp_path):
    path = tmp_path / "a.safetensors"
    path.write_bytes(native())
    (layer,) = formats.read(path).layers
    assert (layer.weight.tolist(), layer.bias.tolist()) == ([[0, 1]], [2, 3])


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (b"", "0 bytes"),
        (struct.pack("<Q", 2**64 - 1) + b"{}", "header"),
        (struct.pack("<Q", 2**63) + b"{}", "header"),
        (container(b"{" + b" " * 2**20 + b"}"), "at most 1048576, found 1048578|header of at most"),
        (container(b" {}"), r"begins with '\{'"),
        (container(b"[]"), r"begins with '\{'"),
        (container(b"{"), "header to be JSON"),
        (container(b"{\xff}"), "header to be JSON"),
        (container('{"a":1}'.encode("utf-16")), r"begins with '\{'"),
        (container(b"{}"), "metadata key 'fastnn'"),
        (container({"__metadata__": {"format": "pt"}}), r"found the metadata keys \['format'\]"),
        (container({"__metadata__": None}), "the metadata as strings by name"),
        (container({"__metadata__": {"fastnn": 1}}), "the metadata as strings by name"),
        (
            container(b'{"__metadata__":{"a":"1","a":"2"}}'),
            "each key of the header once, found 'a'",
        ),
        (
            container(b'{"__metadata__":{"fastnn":' + b"[" * 5_000),
            "at most 64 levels in the header",
        ),
        (container(b'{"a":[' + b"[]," * 10_000 + b"1]}"), "at most 8192 lists in the header"),
        # the scan for strings takes each byte once
        (container(b'{"a":[' + b"[" * 9_000 + b'"' + b'\\"' * 500_000), "lists in the header"),
        (container(b'{"a":[' + b"[" * 9_000 + b'"' + b'\\"a' * 300_000), "lists in the header"),
        (container(b'{"a":[' + b"[" * 9_000 + b'"' * 900_000), "lists in the header"),
        (container(b'{"a":["' + b"[" * 9_000 + b'\\"]}'), "header to be JSON"),
        (container(b'{"a":[' + b"1," * 40_000 + b"1]}"), "at most 32768 commas in the header"),
        (container(b'{"a":["' + b"," * 70_000 + b'"]}'), "tensor 'a'"),
        (container(b'{"\\\\":["' + b"," * 70_000 + b'\\\\\\"",1]}'), r"tensor '\\\\'"),
        (container({"__metadata__": dict.fromkeys(map(str, range(5000)), "")}), "at most 4096 nam"),
        (
            native(metadata={"fastnn": '{"a":[' + "1," * 70_000 + "1]}"}),
            "commas in the metadata 'fastnn'",
        ),
        (native(metadata={"fastnn": "["}), "metadata 'fastnn' to be JSON"),
        (native(metadata={"fastnn": "[" * 5_000}), "at most 64 levels in the metadata 'fastnn'"),
        (native(metadata={"fastnn": "[" * 64}), "metadata 'fastnn' to be JSON"),
        (native(metadata={"fastnn": "[" * 200_000}), "lists in the metadata 'fastnn'"),
        (native(metadata={"fastnn": "[]"}), "metadata 'fastnn' to be a JSON object"),
        (native(metadata={"fastnn": '{"version": 1, "version": 1}'}), "'version' twice"),
        (native(metadata={"fastnn": '{"version": NaN}'}), "finite numbers .* found NaN"),
        (native(metadata={"fastnn": '{"version": ' + "9" * 5000 + "}"}), "to be JSON"),
    ],
)
def test_hostile_containers(tmp_path, data, match):
    refused(tmp_path / "a.safetensors", data, match)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"version": 2}, "expected version 1 of the format .* found version 2"),
        ({"version": True}, "found version True"),
        ({"version": "1"}, "found version '1'"),
        ({"version": ...}, "found version None"),
        ({"more": 1}, "architecture with the keys"),
        ({"task": ...}, "architecture with the keys"),
        ({"task": "eval"}, "task is 'eval'"),
        ({"task": ["classify"]}, "task is"),
        ({"layers": {}}, "expected a list of layers"),
        ({"layers": []}, "only the tensors of the layers, found 'layers.0.bias' as well"),
        ({"layers": [1]}, r"layers\[0\] to be a JSON object"),
        ({"layers": layers() * 2}, "tensor layers.1.bias, found it is missing"),
        ({"layers": layers() * 256}, "is missing"),
        ({"layers": layers() * 257}, "at most 256 layers, found 257"),
        ({"layers": layers(kind="lambda")}, r"layers\[0\] of a kind in .*found 'lambda'"),
        ({"layers": layers(kind=["dense"])}, r"layers\[0\] of a kind"),
        ({"layers": layers(more=1)}, r"layers\[0\] with the keys"),
        ({"layers": layers(activation="os.system")}, "activation is 'os.system', wanted one of"),
        ({"layers": layers(activation=[])}, "activation is a list"),
        ({"layers": layers(parameters=[])}, "parameters by name"),
        ({"layers": layers(parameters={"alpha": 1})}, "relu has no parameter 'alpha'"),
        ({"layers": layers(parameters={"self": 1})}, r"layers\[0\]"),
        ({"layers": layers(parameters={"weight": 1})}, r"layers\[0\]"),
        ({"layers": layers(activation="elu", parameters={"alpha": "1"})}, "'alpha' to be a number"),
        (
            {"layers": layers(activation="elu", parameters={"alpha": True})},
            "'alpha' to be a number",
        ),
        ({"layers": layers(activation="elu", parameters={"alpha": 10**400})}, "alpha"),
        ({"layers": layers(activation="elu", parameters={"alpha": 1e300})}, "finite in float32"),
        ({"layers": layers(activation="clip")}, "needs the parameter 'lo'"),
        ({"layers": layers(parameters=dict.fromkeys("abc", 1))}, "at most 2 parameters, found 3"),
        ({"scale": "1"}, "scale to be a number"),
        ({"scale": 10**400}, "scale"),
        ({"scale": ...}, "tensor scale, found it is missing"),
        ({"classes": [1, 2]}, "classes to be a JSON object"),
        ({"classes": {"dtype": "object", "values": [1]}}, "classes as a list"),
        ({"classes": {"dtype": ["int8"], "values": [1]}}, "classes as a list"),
        ({"classes": {"dtype": "int8", "values": [1, 128]}}, "classes"),
        ({"classes": {"dtype": "int8", "values": [1, 2.5]}}, "classes of int8"),
        ({"classes": {"dtype": "int8", "values": [1, True]}}, "classes of int8"),
        ({"classes": {"dtype": "int8", "values": 3}}, "classes as a list"),
        ({"classes": {"dtype": "int8", "values": [1], "width": 3}}, "classes with the keys"),
        ({"classes": {"dtype": "str", "values": ["a"]}}, "classes with the keys"),
        ({"classes": {"dtype": "str", "values": ["abc"], "width": 2}}, "width from 3 to 1000"),
        ({"classes": {"dtype": "str", "values": ["a"], "width": 2**29}}, "width from 1 to 1000"),
        ({"classes": {"dtype": "str", "values": ["\ud800"], "width": 1}}, "surrogate"),
        ({"classes": {"dtype": "str", "values": ["a\0", "b"], "width": 2}}, r"found 'a\\x00'"),
        ({"classes": {"dtype": "str", "values": ["\0", "b"], "width": 2}}, "not end in a null"),
    ],
)
def test_hostile_architectures(tmp_path, changes, match):
    refused(tmp_path / "a.safetensors", native(**changes), match)


def tensor(dtype, shape, start, end):
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


@pytest.mark.parametrize(
    ("weight", "bias", "n_bytes", "match"),
    [
        (tensor("F32", [1, 2], 0, 8), tensor("F32", [2], 8, 16), 20, "in all, as the tensors need"),
        (
            tensor("F32", [1, 2], 0, 8),
            tensor("F32", [2], 12, 20),
            20,
            "at byte 8 of .* without a gap",
        ),
        (
            tensor("F32", [1, 2], 0, 8),
            tensor("F32", [2], 4, 12),
            12,
            "at byte 8 of .*or an overlap",
        ),
        (
            tensor("F32", [1, 2], 0, 8),
            tensor("F32", [2], 8, 17),
            17,
            "bias' with 8 bytes for its shape",
        ),
        (tensor("F32", [1, 2], 4, 12), tensor("F32", [2], 12, 20), 20, "at byte 0 of"),
        (tensor("F32", [1, 2], 8, 0), tensor("F32", [2], 8, 16), 16, "with 8 bytes for"),
        (tensor("F32", [1, 2], -8, 0), tensor("F32", [2], 0, 8), 8, "with 8 bytes for"),
        (tensor("F32", [2**40, 2**40], 0, 8), tensor("F32", [2], 8, 16), 16, "up to 8 sizes up to"),
        (tensor("F32", [2**32, 2**32], 0, 0), tensor("F32", [2], 0, 8), 8, "up to 8 sizes up to"),
        (tensor("F32", [0, 2**62], 0, 0), tensor("F32", [2], 0, 8), 8, "up to 8 sizes"),
        (tensor("F32", [0, 2], 0, 0), tensor("F32", [2], 0, 8), 8, "sizes from 1"),
        (tensor("F32", [1, 1, 2], 0, 8), tensor("F32", [2], 8, 16), 16, "1 or 2 sizes"),
        (tensor("F32", [1] * 100, 0, 4), tensor("F32", [2], 4, 12), 12, "up to 8 sizes"),
        (tensor("F32", [2], 0, 8), tensor("F32", [2], 8, 16), 16, r"weight has shape \(2,\)"),
        (tensor("F32", [2, 1], 0, 8), tensor("F32", [2], 8, 16), 16, r"bias has shape \(2,\)"),
        (tensor("F32", [1, 2], 0, 8), tensor("F32", [1, 2], 8, 16), 16, r"bias has shape"),
        (
            tensor("F16", [1, 2], 0, 4),
            tensor("F32", [2], 4, 12),
            12,
            "weight' of F32.* found F16",
        ),
        (
            tensor("F32", [2**24, 2**24], 0, 2**50),
            tensor("F32", [2], 2**50, 2**50 + 8),
            8,
            "bytes in",
        ),
        (tensor("F32", [1, 2], 0, 8), tensor("F32", [2], 0, 8), 8, "at byte 8 of"),
        (tensor("F32", [1.0, 2], 0, 8), tensor("F32", [2], 8, 16), 16, "up to 8 sizes"),
        (tensor("F32", [True, 2], 0, 8), tensor("F32", [2], 8, 16), 16, "up to 8 sizes"),
        (tensor("F32", [1, 2], 0.0, 8), tensor("F32", [2], 8, 16), 16, "with data_offsets"),
        (tensor("F32", [1, 2], False, 8), tensor("F32", [2], 8, 16), 16, "with data_offsets"),
        (tensor("F32", "12", 0, 8), tensor("F32", [2], 8, 16), 16, "up to 8 sizes"),
        (tensor(["F32"], [1, 2], 0, 8), tensor("F32", [2], 8, 16), 16, "of one of the dtypes"),
        (tensor("F64", [1, 2], 0, 16), tensor("F32", [2], 16, 24), 24, "of F32, found F64"),
        (tensor("I32", [1, 2], 0, 8), tensor("F32", [2], 8, 16), 16, "found I32"),
        (tensor("X9", [1, 2], 0, 8), tensor("F32", [2], 8, 16), 16, "found 'X9'"),
        ({**tensor("F32", [1, 2], 0, 8), "x": 1}, tensor("F32", [2], 8, 16), 16, "with the keys"),
    ],
)
def test_hostile_tensors(tmp_path, weight, bias, n_bytes, match):
    tensors = {"layers.0.weight": weight, "layers.0.bias": bias}
    refused(tmp_path / "a.safetensors", native(tensors=tensors, data=bytes(n_bytes)), match)


def test_a_tensor_twice(tmp_path):
    data = native()
    text = data[8:].replace(b'"layers.0.bias"', b'"layers.0.weight"', 1)
    refused(tmp_path / "a.safetensors", struct.pack("<Q", len(text) - 16) + text, "twice")


def test_units_of_another_shape_or_dtype(tmp_path):
    known = json.loads(native()[8:].partition(b"\0")[0].decode().rpartition("}")[0] + "}")
    known.pop("__metadata__")
    for dtype, shape, match in [
        ("F64", [2], r"mean has shape \(2,\)"),
        ("F64", [1, 1], "mean has shape"),
        ("F32", [2], "tensor mean of F64, found F32"),
    ]:
        end = 16 + int(dtype[1:]) // 8 * int(np.prod(shape))
        tensors = {**known, "mean": tensor(dtype, shape, 16, end)}
        data = native(tensors=tensors, data=bytes(end), mean=...)
        refused(tmp_path / "a.safetensors", data, match)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite(tmp_path, value):
    for i, where in enumerate([r"weight .*\[0, 0\]", r"weight .*\[0, 1\]", r"bias .*\[0\]"]):
        values = np.zeros(4, "<f4")
        values[i] = value
        match = rf"layers\[0\].*{where}.*finite"
        refused(tmp_path / "a.safetensors", native(data=values.tobytes()), match)


# ---- hostile npz files ---------------------------------------------------------------------------


def npy(descr="'<f4'", shape="(1, 2)", data=bytes(8), fortran="False", magic=b"\x93NUMPY\x01\x00"):
    header = f"{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': {shape}, }}"
    text = header.encode("latin-1") + b" " * 20 + b"\n"
    return magic + struct.pack("<H", len(text)) + text + data


def saved(array):
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


SOUND = {
    "W0": saved(np.ones((1, 2), np.float32)),
    "b0": saved(np.zeros(2)),
    "activations": saved(np.array(["relu"])),
}


def npz(method=zipfile.ZIP_STORED, **changes):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, data in {**SOUND, **changes}.items():
            if data is not None:
                archive.writestr(f"{name}.npy", data)
    return file.getvalue()


class Bomb:
    def __reduce__(self):
        return (os.abort, ())


def test_what_numpy_writes_is_read(tmp_path):
    w0, b0 = RNG.normal(size=(3, 4)), RNG.normal(size=4)
    w1, b1 = RNG.normal(size=(2, 4)).astype(np.float32).T, RNG.normal(size=2).astype(">f4")
    for save in (np.savez, np.savez_compressed):
        save(
            tmp_path / "a.npz", W0=w0, b0=b0, W1=w1, b1=b1, scale=1 / 255, mean=np.arange(3),
            activations=["clip( lo=-1,hi=1e3)", "softmax"], classes=["no", "yes"], task="classify",
        )  # fmt: skip
        found = formats.read(tmp_path / "a.npz")
        np.testing.assert_array_equal(found.layers[0].weight, w0.astype(np.float32))
        np.testing.assert_array_equal(found.layers[1].weight, w1)
        np.testing.assert_array_equal(found.layers[1].bias, b1)
        assert found.layers[0].parameters == {"lo": -1, "hi": 1000}
        assert found.classes.tolist() == ["no", "yes"]
        assert (found.scale, found.std, found.task) == (1 / 255, 1.0, "classify")
        assert found.mean.tolist() == [0, 1, 2]


def test_what_is_written_numpy_reads(tmp_path):
    one = small(metadata={"a": "b"}, task="regress")
    formats.write(tmp_path / "a.npz", one)
    with np.load(tmp_path / "a.npz", allow_pickle=False) as file:
        np.testing.assert_array_equal(file["W1"], one.layers[1].weight)
        assert file["activations"].tolist() == ["leaky_relu(alpha=0.1)", "softmax"]
    with zipfile.ZipFile(tmp_path / "a.npz") as archive:
        assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}


def test_the_header_of_an_entry_is_bounded(tmp_path):
    sound = npy()
    n = int.from_bytes(sound[8:10], "little")
    for size, match in [(4096, None), (4097, "W0.npy with a header of at most 4096 bytes")]:
        text = sound[10 : 10 + n - 1] + b" " * (size - n) + b"\n"
        data = npz(W0=sound[:8] + struct.pack("<H", size) + text + bytes(8))
        if match:
            refused(tmp_path / "a.npz", data, match)
        else:
            assert read_or_refused(tmp_path / "a.npz", data)


def test_activations_are_not_guessed(tmp_path):
    message = refused(tmp_path / "a.npz", npz(activations=None), "expected an entry 'activations'")
    assert 'numpy.savez(..., W0=..., b0=..., activations=["relu", "softmax"])' in message
    assert "['W0', 'b0']" in message


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"W0": saved(np.array([[Bomb()]], object))}, "W0.npy of numbers, booleans or strings"),
        ({"activations": saved(np.array([Bomb()], object))}, "activations.npy of numbers"),
        ({"W0": saved(np.zeros((1, 2), "f4,f4"))}, "W0.npy of numbers"),
        ({"W0": saved(np.zeros((1, 2), "c8"))}, "W0.npy of numbers"),
        ({"W0": saved(np.zeros((1, 2), "S4"))}, "W0.npy of numbers"),
        ({"W0": saved(np.zeros((1, 2), "M8[s]"))}, "W0.npy of numbers"),
        (
            {"W0": saved(np.zeros((1, 2), "f2"))},
            "W of layer 0 as float32 or float64, found float16",
        ),
        ({"W0": saved(np.zeros((1, 2), "f16"))}, r"found f16"),
        ({"W0": saved(np.zeros((1, 2), "i4"))}, "W of layer 0 as float32 or float64, found int32"),
        ({"W0": saved(np.zeros((1, 2), "U4"))}, "W of layer 0 as float32 or float64"),
        ({"W0": saved(np.zeros(2))}, r"weight has shape \(2,\)"),
        ({"W0": saved(np.zeros((1, 1, 2)))}, "at most 2 sizes"),
        ({"W0": saved(np.zeros((0, 2)))}, "sizes from 1"),
        ({"W0": saved(np.array([[1, np.nan]]))}, r"layer 0 .*weight .*nan at \[0, 1\]"),
        ({"W0": saved(np.array([[1, 1e39]]))}, r"1e\+39 at \[0, 1\]"),
        ({"b0": saved(np.zeros((2, 1)))}, r"bias has shape \(2, 1\)"),
        ({"b0": None}, "found no b0"),
        ({"W1": SOUND["W0"]}, "W and b of 1 layers, .* found 'W1' as well"),
        ({"W00": SOUND["W0"]}, "found 'W00' as well"),
        ({"other": SOUND["W0"]}, "only the entries W0, b0, .* found 'other.npy'"),
        ({"../W0": SOUND["W0"]}, "only the entries"),
        ({"W0.npy": SOUND["W0"]}, "only the entries"),
        ({"activations": saved(np.array(["relu"] * 2))}, "2 layers, .* found no W1"),
        ({"activations": saved(np.array("relu"))}, "activations of strings"),
        ({"activations": saved(np.array([1]))}, "activations of strings"),
        ({"activations": saved(np.array(["eval('1')"]))}, "layer 0 .* is no activation such as"),
        ({"activations": saved(np.array(["elu(alpha=1, alpha=2)"]))}, "a parameter twice"),
        ({"activations": saved(np.array(["elu(alpha=x)"]))}, "could not convert string to float"),
        ({"activations": saved(np.array(["elu(alpha=nan)"]))}, "alpha is nan"),
        ({"activations": saved(np.array(["elu(self=1)"]))}, "layer 0"),
        ({"activations": saved(np.array(["elu("]))}, "layer 0 .* is no activation such as"),
        ({"activations": saved(np.array(["elu\n"]))}, "layer 0 .* is no activation such as"),
        ({"activations": saved(np.array(["swish"]))}, "activation is 'swish', wanted one of"),
        ({"task": saved(np.array("eval"))}, "task is 'eval'"),
        ({"task": saved(np.array(1))}, "task of"),
        ({"task": saved(np.array(["regress", "x"]))}, "task"),
        ({"metadata": saved(np.array("[]"))}, "metadata to be a JSON object"),
        ({"metadata": saved(np.array('{"a": 1}'))}, "metadata has 'a': 1"),
        ({"metadata": saved(np.array('{"a": "\\ud800"}'))}, "surrogate"),
        ({"classes": saved(np.array([0.5, 1]))}, "classes has dtype float64"),
        ({"scale": saved(np.array(np.inf))}, "scale has NaN or Inf"),
        ({"mean": saved(np.zeros(2))}, r"mean has shape \(2,\)"),
        ({"classes": npy("'|b1'", "(2,)", b"\x00\x02")}, "booleans 0 and 1, found 2"),
        ({"classes": npy("'<U1'", "(1,)", b"\xff" * 4)}, "Unicode"),
        ({"classes": npy("'<U1'", "(1,)", b"\x00\xd8\0\0")}, "surrogate"),
    ],
)
def test_hostile_entries(tmp_path, changes, match):
    refused(tmp_path / "a.npz", npz(**changes), match)


@pytest.mark.parametrize(
    "entry",
    [
        b"",
        b"\x93NUMPY\x01\x00",
        npy(magic=b"\x93NUMPX\x01\x00"),
        npy(magic=b"\x93NUMPY\x02\x00"),
        npy(data=bytes(7)),
        npy(data=bytes(9)),
        npy(shape="(1, 3)"),
        npy(shape="(4294967296, 4294967296)", data=b""),
        npy(shape="(16777216, 16777216)"),
        npy(shape="(1, -2)"),
        npy(shape="(1, 2.0)"),
        npy(shape="(True, 2)"),
        npy(shape="__import__('os').abort()"),
        npy(shape="(" * 1000 + ")" * 1000),
        npy(shape="(1, " + "9" * 5000 + ")"),
        npy(descr="'<f4 '"),
        npy(descr="'<f0'"),
        npy(descr="'=f4'"),
        npy(descr="'|O'"),
        npy(descr="'<U0'"),
        npy(descr="'<U999999999'", data=bytes(4)),
        npy(descr="'<f04'"),
        npy(fortran="1"),
        npy() + npy(),
        b"\x93NUMPY\x01\x00\xff\xff" + bytes(65535),
    ],
)
@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_hostile_npy_headers(tmp_path, entry, method):
    refused(tmp_path / "a.npz", npz(method, W0=entry), "W0.npy")


def test_zip_bombs_are_refused_before_they_are_unpacked(tmp_path):
    # Zeros, in one entry: declared honestly, and declared as 8 bytes of W0.
    honest = npz(zipfile.ZIP_DEFLATED, W0=npy(shape="(4096, 4096)", data=bytes(2**26)))
    posing = npz(zipfile.ZIP_DEFLATED, W0=npy(data=bytes(2**21)))
    assert len(honest) < 100_000
    tracemalloc.start()
    try:
        refused(tmp_path / "a.npz", honest, "bytes unpacked", max_bytes=2**25)
        refused(tmp_path / "a.npz", honest, "bytes unpacked from 65")
        refused(tmp_path / "a.npz", posing, "W0.npy of .* bytes for shape", max_bytes=2**27)
        assert tracemalloc.get_traced_memory()[1] < 2**23
    finally:
        tracemalloc.stop()


def test_a_lying_directory(tmp_path):
    # The central directory says 8 bytes fewer or more than the entry unpacks to.
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        data = npz(method)
        at = data.index(b"PK\x01\x02") + 24
        size = int.from_bytes(data[at : at + 4], "little")
        for wrong in (size - 8, size + 8, 2**31, 2**32 - 1):
            lie = data[:at] + struct.pack("<I", wrong) + data[at + 4 :]
            refused(tmp_path / "a.npz", lie)


def test_hostile_archives(tmp_path):
    path = tmp_path / "a.npz"
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("W0.npy", SOUND["W0"])
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("W0.npy", SOUND["W0"])
    refused(path, file.getvalue(), "each entry once, found 'W0.npy' twice")
    refused(path, npz(zipfile.ZIP_LZMA), "stored or deflated, found method 14")
    refused(path, npz(**{f"W{i}": b"" for i in range(1300)}), "at most 1280 entries")
    file = io.BytesIO(npz())
    with zipfile.ZipFile(file, "a") as archive:
        archive.comment = b"hello"
    refused(path, file.getvalue(), "directory that ends the file")
    data = npz()
    local, central = data.index(b"PK\x03\x04") + 6, data.index(b"PK\x01\x02") + 8
    locked = bytearray(data)
    locked[local] |= 1
    locked[central] |= 1
    refused(path, bytes(locked), "without a password")
    for wrong in (b"", b"not a zip", b"PK\x05\x06" + bytes(18), b"\x80\x04K\x01."):
        refused(path, wrong, "zip archive from the first byte")


def test_a_gap_between_entries(tmp_path):
    # Bytes that no entry owns: a place to hide another file in.
    data = npz()
    at, end = data.index(b"PK\x01\x02"), data.rindex(b"PK\x05\x06")
    gap = b"hidden"
    start = int.from_bytes(data[end + 16 : end + 20], "little") + len(gap)
    moved = data[:at] + gap + data[at : end + 16] + struct.pack("<I", start) + data[end + 20 :]
    with zipfile.ZipFile(io.BytesIO(moved)) as archive:
        assert archive.testzip() is None  # zipfile does not mind
    refused(tmp_path / "a.npz", moved, "directory at byte")


# ---- the rest ------------------------------------------------------------------------------------


def test_messages_quote_little_and_nothing_that_moves_the_cursor(tmp_path):
    evil = "\x1b[2J\r\n" + "x" * 10_000
    message = refused(tmp_path / "a.safetensors", native(metadata={evil: ""}))
    assert "\x1b" not in message
    refused(tmp_path / "a.safetensors", native(task=evil))
    refused(tmp_path / "a.safetensors", native(layers=layers(activation=evil)))
    refused(tmp_path / "a.safetensors", native(layers=layers(parameters={evil: 1})))
    refused(tmp_path / "a.npz", npz(activations=saved(np.array([evil]))))
    refused(tmp_path / "a.npz", npz(task=saved(np.array(evil))))


def test_deep_nests_are_quoted_or_refused_at_any_depth(tmp_path):
    for depth in (10, 100, *range(900, 1010, 10), 5000):
        about = f'{{"version": {"[" * depth}{"]" * depth}}}'
        refused(tmp_path / "a.safetensors", native(metadata={"fastnn": about}))
    assert model_file.quoted("x" * 100) == "'" + "x" * 76 + "..."


def nest(n):
    """A JSON text of so many levels, objects and lists in turn."""
    return '{"a":[' * (n // 2) + "{" * (n % 2) + "}" * (n % 2) + "]}" * (n // 2)


def test_the_levels_of_json():
    half = '"' + "[{" * 100
    for n in (1, 2, 63, 64):
        assert model_file.json_object(nest(n), "it") == json.loads(nest(n))
        wide = ",".join(f'"{i}":[{{}}]' for i in range(60))
        assert model_file.json_object(f'{{"x":{half}\\"\\\\",{wide},"a":{nest(min(n, 63))}}}', "it")
    for text, n in [
        (nest(65), 65),
        (nest(1000), 1000),
        ('{"a":' * 4000, 4000),
        (f'{{"x":{half}","\u1234":{nest(64)}}}', 65),
        (nest(65) + "]" * 100_000, 65),
    ]:
        with pytest.raises(model_file.Wrong) as caught:
            model_file.json_object(text, "it")
        assert caught.value.args == ("at most 64 levels in it", f"{n}")
    for text in (f'{{"x":{half}', "]" * 100, f'{{"x":{half}"]', "}" * 1000 + "{" * 100):
        with pytest.raises(model_file.Wrong, match="it to be JSON"):
            model_file.json_object(text, "it")


@pytest.mark.skipif(IS_SANITIZED, reason="NOT TESTED: sanitizers change what a stack has to hold")
def test_deep_nests_in_a_thread_of_a_small_stack(tmp_path):
    nests = ['{"a":' * 4000, "[" * 8000, nest(65), nest(64), "[" * 100_000]
    files = {
        "header": [container(text.encode()) for text in nests if text[0] == "{"],
        "architecture": [native(metadata={"fastnn": text}) for text in nests],
        "version": [native(metadata={"fastnn": f'{{"version": {nest(63)}}}'})],
        "classes": [native(classes=json.loads(nest(60)))],
    }
    paths = []
    for what, found in files.items():
        for i, data in enumerate(found):
            paths.append(tmp_path / f"{what}{i}.safetensors")
            paths[-1].write_bytes(data)
    for i, text in enumerate(nests):
        paths.append(tmp_path / f"{i}.npz")
        paths[-1].write_bytes(npz(metadata=saved(np.array(text))))
    sound = [tmp_path / "sound.safetensors", tmp_path / "sound.npz"]
    for path in sound:
        formats.write(path, small())
    code = (
        "import sys, threading, fastnn\n"
        "def run():\n"
        "    for path in sys.argv[1:]:\n"
        "        try: fastnn.load(path)\n"
        "        except fastnn.LoadError: print('refused')\n"
        "        else: print('loaded')\n"
        "run()\n"  # and what is imported when it is needed is here
        "threading.stack_size(128 * 1024)\n"
        "thread = threading.Thread(target=run)\n"
        "thread.start()\n"
        "thread.join()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *sound, *paths], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == [*["loaded"] * 2, *["refused"] * len(paths)] * 2


@pytest.mark.parametrize("name", [b"\x1b[2J\n", b"\xff", "\u1234 \u2028".encode(), b"\xc3\xa9"])
def test_the_name_of_a_file_is_printable_in_messages(tmp_path, name):
    for suffix in (*formats.READ, ".pt", ".tflite", ".foo"):
        path = os.fsencode(tmp_path) + b"/" + name + suffix.encode()
        with open(path, "wb") as file:
            file.write(b"junk")
        with pytest.raises(LoadError) as caught:
            fastnn.load(path)
        message = str(caught.value)
        assert message.isprintable()
        shown = os.fsdecode(path)
        assert message.startswith(f"{shown if shown.isprintable() else ascii(shown)[1:-1]}: ")
    path = os.fsencode(tmp_path) + b"/" + name + b".npz"
    misfit = ModelFile([Dense([[1, 2]], [0, 0]), Dense([[1]], [0])])
    formats.write(path, misfit)
    with pytest.raises(LoadError, match="takes 1 inputs") as caught:
        fastnn.load(path)
    assert str(caught.value).isprintable()
    formats.write(path, small())
    for options in ({"precision": "int8"}, {"activations": ["relu"]}):
        with pytest.raises(ValueError, match=r"npz: |calibration") as caught:
            fastnn.load(path, **options)
        assert str(caught.value).isprintable()


def test_a_name_with_a_null_character(tmp_path):
    model = fastnn.Model([Dense([[1]], [0])])
    for suffix in formats.SUFFIXES:
        with pytest.raises(
            ValueError, match=rf"^write: path is 'a\\x00b\{suffix}', wanted one wit"
        ):
            model.save(f"a\0b{suffix}")
        with pytest.raises(LoadError, match=rf"^a\\x00b\{suffix}: no path: it has a null"):
            fastnn.load(f"a\0b{suffix}")
    for name in ("a\0b", "\x1b[2J", "x" * 5000):
        with pytest.raises(FileNotFoundError, match="^load: there is no bundled model '") as caught:
            fastnn.load(name)
        assert str(caught.value).isprintable()
        assert len(str(caught.value)) < 1000


def test_messages_quote_little_of_an_argument(tmp_path):
    long, dense = "x" * 5000, [Dense([[1]], [0])]
    path = tmp_path / "a.npz"
    formats.write(path, ModelFile(dense))
    for call, message in [
        (lambda: ModelFile(dense, task=long), "ModelFile: task is 'xxx"),
        (lambda: ModelFile(dense, precision=long), "ModelFile: precision is 'xxx"),
        (lambda: ModelFile(dense, metadata={long: 1}), "ModelFile: metadata has 'xxx"),
        (lambda: fastnn.Model(dense, metadata={"a": [long]}), r"Model: metadata has 'a': \['xxx"),
        (
            lambda: fastnn.Model(dense, metadata={"\ud800" * 3000: "x"}).save(path),
            r"save: metadata\['\\ud800.*\] has half a surrogate pair",
        ),
        (lambda: fastnn.load(path, precision=long), "load: precision is 'xxx"),
        (lambda: fastnn.load(path, layout=long), "read: layout is 'xxx"),
        (lambda: fastnn.load(path, activations=[long]), r"read: activations\[0\]: .*'xxx"),
    ]:
        with pytest.raises((TypeError, ValueError), match=f"^{message}") as caught:
            call()
        assert len(str(caught.value)) < 500


def test_load_refuses_layers_that_do_not_fit(tmp_path):
    misfit = ModelFile([Dense([[1, 2]], [0, 0]), Dense([[1]], [0])])
    for suffix in (".safetensors", ".npz"):  # whose files may hold what is no chain
        formats.write(tmp_path / f"a{suffix}", misfit)
        with pytest.raises(LoadError, match=rf"a{suffix}: .*takes 1 inputs, .*gives 2"):
            fastnn.load(tmp_path / f"a{suffix}")


def test_a_native_file_is_held_once(tmp_path):
    path = tmp_path / "a.safetensors"
    one = ModelFile([Dense(np.ones((2000, 1000), np.float32), np.zeros(1000))])
    formats.write(path, one)
    size = path.stat().st_size
    tracemalloc.start()
    try:
        found = formats.read(path)
        n_bytes, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert_same(one, found)
    assert n_bytes < size + 2**16
    assert most < size + size / 4 + 2**21  # one byte a weight to see that it is finite


def test_a_native_file_is_judged_before_it_is_read(tmp_path):
    path = tmp_path / "a.safetensors"
    path.write_bytes(native())
    os.truncate(path, 2**30)  # sparse: zeros behind the header's 16 bytes of data
    tracemalloc.start()
    try:
        with pytest.raises(LoadError, match=f"as the tensors need, found {2**30}"):
            formats.read(path)
        assert tracemalloc.get_traced_memory()[1] < 2**22
    finally:
        tracemalloc.stop()


def test_reading_does_not_depend_on_the_file_afterwards(tmp_path):
    path = tmp_path / "a.safetensors"
    one = small()
    formats.write(path, one)
    found = formats.read(path)
    os.truncate(path, 0)
    assert_same(one, found)
