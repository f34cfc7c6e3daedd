"""HDF5 from strangers: plain datasets come back, all else is refused, whatever the worker does.

The files are made by h5py here; the fates of the worker are played by programs that take its place.
"""

import base64
import importlib.util
import json
import os
import signal
import struct
import subprocess
import sys
import textwrap
import time
import tracemalloc
import zlib

import numpy as np
import pytest
from oracle import IS_SANITIZED

import fastnn
from fastnn import LoadError
from fastnn.formats import hdf5, hdf5_worker
from fastnn.formats.model_file import Wrong

h5py = pytest.importorskip("h5py", reason="NOT TESTED: needs the extra fastnn[keras]")

from attacks.keras_files import add_object, dense, endless  # noqa: E402
from attacks.worker import cpu_seconds, fastest, start_of_hdf5  # noqa: E402

MAX = 2**30


def file_of(tmp_path, build, **options):
    """The bytes of a file that `build` fills."""
    path = tmp_path / "made.h5"
    with h5py.File(path, "w", **options) as file:
        build(file)
    return path.read_bytes()


def read(data, max_bytes=MAX):
    attributes = ["model_config", "keras_version"]
    return hdf5.read(data, ["model_weights"], attributes, max_bytes, len(data))


def refused(data, text, max_bytes=MAX):
    with pytest.raises(Wrong) as caught:
        read(data, max_bytes)
    expected, found = caught.value.args
    assert text in f"expected {expected}, found {found}", (expected, found)


def plain(file):
    file.attrs["model_config"] = "{}"
    file.attrs["keras_version"] = b"3.0.0"
    file["model_weights/a/kernel"] = np.arange(6, dtype="f4").reshape(2, 3)


def test_plain_datasets(tmp_path):
    arrays = {
        "a/kernel": np.arange(6, dtype="f4").reshape(2, 3),
        "a/b/bias": np.arange(3, dtype="f8"),
        "half": np.arange(4, dtype="f2"),
        "big": np.arange(4, dtype=">f4"),
        "scalar": np.float32(7),
    }

    def build(file):
        file.attrs["model_config"] = '{"a": 1}'
        file.attrs["keras_version"] = b"3.0.0"
        file.attrs["other"] = "not asked for"
        file["optimizer/steps"] = np.ones(3, "i4")  # not asked for, whatever it is
        file["model_weights/counter"] = np.int64(5)
        for name, array in arrays.items():
            file[f"model_weights/{name}"] = array
        file.create_dataset("model_weights/z", data=np.ones((50, 60)), compression="gzip")

    for options in ({}, {"libver": "latest"}):
        metadata, found = read(file_of(tmp_path, build, **options))
        assert metadata == {"model_config": '{"a": 1}', "keras_version": "3.0.0"}
        assert set(found) == {f"model_weights/{name}" for name in (*arrays, "z")}
        for name, array in arrays.items():
            got = found[f"model_weights/{name}"]
            assert got.shape == array.shape
            assert got.dtype == array.dtype.newbyteorder("<")
            assert np.array_equal(got, array)
        assert np.array_equal(found["model_weights/z"], np.ones((50, 60)))


def weights(**options):
    def build(file):
        plain(file)
        file.create_dataset("model_weights/x", **options)

    return build


def linked(link, where="model_weights/x"):
    def build(file):
        plain(file)
        file[where] = link(file)

    return build


def weights_named(name):
    def build(file):
        plain(file)
        file[f"model_weights/{name}"] = np.ones(3, "i4")

    return build


def virtual(file):
    plain(file)
    layout = h5py.VirtualLayout((4,), "f4")
    layout[:] = h5py.VirtualSource("/etc/passwd", "x", (4,))
    file.create_virtual_dataset("model_weights/x", layout)


def deep(file):
    plain(file)
    file["model_weights/" + "g/" * 20 + "x"] = np.ones(3, "f4")


def many(file):
    plain(file)
    for i in range(5000):
        file.create_group(f"model_weights/{i}")


def vast(file):
    """A shape of 64 TiB, and no data."""
    plain(file)
    file.create_dataset("model_weights/x", (2**22, 2**22), "f4", chunks=(64, 64))


def declared(file):
    """Contiguous, of a gigabyte, and never written."""
    plain(file)
    file.create_dataset("model_weights/x", (2**14, 2**14), "f4")


def named_type(file):
    plain(file)
    file["model_weights/x"] = np.dtype("f4")


HOSTILE = {
    "soft link": (linked(lambda file: h5py.SoftLink("/model_weights/a/kernel")), "no soft or ext"),
    "external link": (linked(lambda file: h5py.ExternalLink("/etc/passwd", "x")), "no soft or ext"),
    "external link elsewhere": (
        linked(lambda file: h5py.ExternalLink("other.h5", "/"), "elsewhere"), "one, elsewhere",
    ),
    "second name": (linked(lambda file: file["model_weights/a/kernel"]), "under one name"),
    "cycle": (linked(lambda file: file["/"]), "under one name"),
    "virtual": (virtual, "a virtual dataset"),
    "external": (weights(shape=(4,), dtype="f4", external=[("/etc/passwd", 0, 16)]), "an external"),
    "shuffled": (
        weights(data=np.ones(100, "f4"), shuffle=True, compression="gzip"), "filters [2, 1]",
    ),
    "lzf": (weights(data=np.ones(100, "f4"), compression="lzf"), "the filters [32000]"),
    "checksum": (weights(data=np.ones(100, "f4"), fletcher32=True), "the filters [3]"),
    "scaled": (weights(data=np.ones(100, "f4"), scaleoffset=2), "the filters [6]"),
    "integers": (weights(data=np.ones(3, "i8")), "4 or 8 bytes or bfloat16, found int64"),
    "booleans": (weights(data=np.ones(3, bool)), "of floats"),
    "complex": (weights(data=np.ones(3, "c8")), "of floats"),
    "long double": (weights(data=np.ones(3, np.longdouble)), "of floats"),
    "compound": (weights(data=np.ones(3, "f4,f4")), "of floats"),
    "text": (weights(data="text"), "of floats"),
    "reference": (weights(shape=(3,), dtype=h5py.ref_dtype), "of floats"),
    "ragged": (weights(shape=(3,), dtype=h5py.vlen_dtype("f4")), "of floats"),
    "opaque": (weights(data=np.void(b"1234")), "of floats"),
    "three sizes": (weights(data=np.ones((1, 2, 3), "f4")), "at most 2 sizes"),
    "no values": (weights(data=np.ones((0, 3), "f4")), "2 sizes from 1"),
    "no shape": (weights(data=h5py.Empty("f4")), "at most 2 sizes"),
    "wide": (weights(shape=(2**25,), dtype="f4"), "sizes from 1 to 16777216"),
    "vast": (vast, "bytes for shape (4194304, 4194304), found 0 stored"),
    "declared": (declared, "of 1073741824 bytes for shape (16384, 16384), found 0 stored"),
    "named type": (named_type, "groups and datasets"),
    "deep": (deep, "at most 16 deep"),
    "name of 1,000 control characters": (weights_named("\1" * 1000), " ... "),
    "long name": (weights_named("\1" * 5000), "names of at most 1024 bytes"),
    "many": (many, "at most 4096 objects in such a file"),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_files(tmp_path, case):
    build, text = HOSTILE[case]
    refused(file_of(tmp_path, build), text)


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path):
    def build(file):
        plain(file)
        zeros = np.zeros((2**12, 2**13), "f4")  # 128 MiB, in a file of 130 kB
        file.create_dataset("model_weights/x", data=zeros, compression="gzip", chunks=(2**12, 64))

    data = file_of(tmp_path, build)
    assert len(data) < 200_000
    tracemalloc.start()
    try:
        refused(data, f"at most {2**22 + 50 * len(data)} bytes in all datasets")
        refused(data, f"at most {2**20} bytes in all datasets", max_bytes=2**20)
        assert tracemalloc.get_traced_memory()[1] < 2**22
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", [b"/model_weights/a/kernel", b"a/kernel//", b"."])
def test_names_are_not_taken_for_paths(tmp_path, name):
    """As the library would take them, and reach what it reached before, or follow other links."""

    def build(file):
        plain(file)
        file["model_weights/" + "Q" * len(name)] = np.ones(3, "f4")

    data = file_of(tmp_path, build)
    assert data.count(b"Q" * len(name) + b"\0") == 1
    refused(data.replace(b"Q" * len(name) + b"\0", name + b"\0"), "plain names of links")


@pytest.mark.parametrize("size", [0, 2**18, 2**24])
def test_what_has_no_end_is_given_up_however_large_the_file_is(tmp_path, size):
    data = endless(file_of(tmp_path, plain), size)
    before = cpu_seconds()[1]
    refused(data, "did not come to an end")
    assert cpu_seconds()[1] - before < 10 * start_of_hdf5()  # its own start in it


def test_every_truncation_and_every_addition_is_refused(tmp_path):
    data = file_of(tmp_path, plain)
    for n in range(0, len(data), 7):
        refused(data[:n], "")
    refused(data + b"\0", f"a file of {len(data)} bytes, as it says")
    refused(b" " + data, "an HDF5 file from the first byte on")


def test_bfloat16_as_keras_stores_it(tmp_path):
    """Opaque, and an attribute that says what; nothing else that is opaque is read."""
    values = np.array([[1.5, -2.25, 3e38], [0, -0.0, 1e-40]], np.float32)
    halves = (values.view(np.uint32) >> 16).astype(np.uint16)

    def data(says, kind="V2"):
        def fill(file):
            dataset = file.create_dataset("model_weights/x", data=halves.view("V2").astype(kind))
            if says is not None:
                dataset.attrs["dtype"] = says

        return file_of(tmp_path, fill)

    (found,) = read(data("bfloat16"))[1].values()
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found.view(np.uint32) >> 16, halves)
    for says in (None, "float16", ["bfloat16"], 3):
        refused(data(says), "2, 4 or 8 bytes or bfloat16, found opaque ones of 2")
    refused(data("bfloat16", "V3"), "found opaque ones of 3")


def test_a_header_that_is_too_large_is_the_file_s_names(tmp_path):
    def fill(file):
        plain(file)
        file.attrs["model_config"] = '"' * 600_000

    data = file_of(tmp_path, fill)
    with pytest.raises(Wrong) as caught:
        hdf5.read(data, ["model_weights"], ["model_config"], MAX, len(data))
    assert "names and attributes that make a header of at most 1048576" in caught.value.args[0]


# One float in model_weights/a, with a superblock of version 1, which h5py writes only if its
# library is told to (H5Pset_istore_k): four bytes more before the addresses.
VERSION_1 = """
eNrr9HBx4+WS4mJkAAIODgYWBgEQi8GBAQH+Q8EEIVQ+TD4FSjNC6R4ovYYJJs4IlpOAigtC7UBXFxLk6gpS/R8N
wB0C0cbAwTAKRiLwcHUMANERUD4sPZ1hQlWXm5+SmhNfnpqZnlFSjJQuHci0l5GBFWIGI4wPsZmRkREl3cNoZqA8
iC2oYA9Nqw4MJtwMJv+ZIfKsQFGQPBMTEyTbQc1jZoQlbfQU3jGo4gFXfo5hgfBr2IjLzx6Co/l5ND8j8jO0eGeY
w4aqLhEtf3mMBh2VwQf70TAYBaNgFIyCUTAKRg4I9vN3AbXmYW1wExbUthZ6m34UEBeOKsyjYUIOAAADRkyD
"""


def test_the_superblock_of_version_1():
    data = zlib.decompress(base64.b64decode(VERSION_1))
    assert data[8] == 1
    _, arrays = read(data)
    assert {name: array.tolist() for name, array in arrays.items()} == {"model_weights/a": [1.0]}
    refused(data + b"\0", f"a file of {len(data)} bytes, as it says, found {len(data) + 1}")


def test_flipped_bits_are_refused_or_change_values_only(tmp_path):
    """A sample of the bytes, those that structure the file among them."""
    data = file_of(tmp_path, plain)
    rng = np.random.default_rng(1)
    used = [i for i in range(len(data)) if data[i]]
    for i in (8, 13, 14, 24, 60, *rng.choice(used, 12)):
        changed = data[:i] + bytes([data[i] ^ (1 << int(rng.integers(8)))]) + data[i + 1 :]
        try:
            _, found = read(changed)
        except Wrong:
            continue
        assert all(array.dtype.kind == "f" and array.size <= 6 for array in found.values())


def test_an_answer_of_any_length_is_no_refusal(tmp_path, monkeypatch):
    """One of 256 lengths of a container's header begins as JSON does."""
    data = file_of(tmp_path, plain)
    lengths = set()
    for n in range(1, 300):
        name = f"model_weights/{'n' * n}"
        about = {name: {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}, "__metadata__": {}}
        header = json.dumps(about).encode()
        answer = struct.pack("<Q", len(header)) + header + np.float32(7).tobytes()
        monkeypatch.setattr(hdf5, "_ask", lambda task, data, answer=answer: (answer, ""))
        assert {key: array.tolist() for key, array in read(data)[1].items()} == {name: [7.0]}
        lengths.add(len(header) % 256)
    assert ord("{") in lengths


def test_a_worker_that_fails_in_the_middle_says_why(tmp_path, monkeypatch):
    program = tmp_path / "program.py"
    program.write_text(
        textwrap.dedent(f"""
            import importlib.util, json, sys
            spec = importlib.util.spec_from_file_location("worker", {str(hdf5._WORKER)!r})
            worker = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(worker)
            contents = worker.contents
            def half(file, groups, *rest):
                for piece in contents(file, groups, *rest):
                    yield piece
                    if groups == ["model_weights"]:
                        raise MemoryError
            worker.contents = half
            worker.answer(sys.argv[1])
            """)
    )
    monkeypatch.setattr(hdf5, "_WORKER", program)
    refused(file_of(tmp_path, plain), "an intact HDF5 file, found MemoryError")


# ---- the fates of the worker ---------------------------------------------------------------------

DONE = hdf5_worker.DONE.decode()
FATES = {
    "crash": ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "died of SIGSEGV on it"),
    "abort": ("import os; os.abort()", "died of SIGABRT on it"),
    "error": ("raise SystemExit(3)", "failed with status 3 on it"),
    "silence": ("", "it is not known which"),
    "half an answer": ("print(':don')", "it is not known which"),
    "nothing": (f"print({DONE!r}, end='')", "a header of 8 + n bytes within the file"),
    "noise": (f"print('x' * 1000 + {DONE!r}, end='')", "a header of"),
    "nonsense": (f"print('{{' + {DONE!r}, end='')", "the refusal to be JSON"),
    "numbers": (f"print('{{\"expected\": 1}}' + {DONE!r}, end='')", "expected 1, found None"),
    "many words": (
        f"print('{{\"expected\": [' + '[],' * 2**20 + '[]]}}' + {DONE!r}, end='')",
        "bytes against it",
    ),
    "a signal without a name": ("import os; os.kill(os.getpid(), 40)", "died of signal 40 on it"),
    "nest": (f"print('{{\"a\": ' + '[' * 50000 + {DONE!r}, end='')", "lists in the refusal"),
    "flood": (
        "import sys\nfor _ in range(400): sys.stdout.write('{' * 2**20)", "bytes in it",
    ),
    "spin": (
        "import signal\nsignal.setitimer(signal.ITIMER_PROF, 0.05)\nwhile True: pass",
        "did not come to an end on it",
    ),
    "spin on": (
        "import resource\nresource.setrlimit(resource.RLIMIT_CPU, (1, 2))\nwhile True: pass",
        "did not come to an end on it",
    ),
}  # fmt: skip


@pytest.mark.parametrize("fate", FATES)
def test_whatever_becomes_of_the_worker(tmp_path, monkeypatch, fate):
    code, text = FATES[fate]
    program = tmp_path / "program.py"
    program.write_text(f"print({hdf5_worker.READY.decode()!r}, flush=True)\n{code}")
    monkeypatch.setattr(hdf5, "_WORKER", program)
    monkeypatch.setattr(hdf5, "_SPARE_MEMORY", 2**20)
    refused(file_of(tmp_path, plain), text)


def test_a_worker_that_does_not_get_to_run_is_no_fault_of_the_file(tmp_path, monkeypatch):
    program = tmp_path / "program.py"
    ready = hdf5_worker.READY.decode()
    program.write_text(f"import time\nprint({ready!r}, flush=True)\ntime.sleep(60)")
    monkeypatch.setattr(hdf5, "_WORKER", program)
    monkeypatch.setattr(hdf5, "_PATIENCE_FOR_READY", 0.5)
    monkeypatch.setattr(hdf5, "_PATIENCE", 1)
    with pytest.raises(TimeoutError, match="too little of this machine to answer in 1 s"):
        read(file_of(tmp_path, plain))


def test_where_it_is_not_told_how_the_worker_ended(tmp_path):
    """A sound file is read, a damaged one refused."""
    code = """
        import signal, sys
        from pathlib import Path
        from fastnn.formats import hdf5
        from fastnn.formats.model_file import Wrong
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        for path in sys.argv[1:]:
            data = Path(path).read_bytes()
            try:
                print(len(hdf5.read(data, ["model_weights"], [], 2**30, len(data))[1]))
            except Wrong as error:
                print(error.args[1])
    """
    data = file_of(tmp_path, plain)
    (tmp_path / "sound.h5").write_bytes(data)
    (tmp_path / "endless.h5").write_bytes(endless(data))
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), "sound.h5", "endless.h5"], cwd=tmp_path,
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.splitlines()[0] == "1"
    assert "it is not known which" in done.stdout.splitlines()[1]


def test_who_kills_the_worker_is_not_the_file(tmp_path, monkeypatch):
    """As where a container runs out of memory."""
    program = tmp_path / "program.py"
    code = "import os; os.kill(os.getpid(), 9)"
    for before in ("", f"print({hdf5_worker.READY.decode()!r}, flush=True)\n"):
        program.write_text(before + code)
        monkeypatch.setattr(hdf5, "_WORKER", program)
        with pytest.raises(MemoryError, match="SIGKILL"):
            read(file_of(tmp_path, plain))


NOISE = np.random.default_rng(1).random(2**21, "f4")  # 8 MiB, and 7 deflated
LIMITED = """
import os, resource, sys
resource.setrlimit(getattr(resource, sys.argv[1]), [int(sys.argv[2])] * 2)
os.execv(sys.argv[3], sys.argv[3:])
"""


@pytest.mark.parametrize(
    ("limit", "step", "options"),
    [
        ("RLIMIT_AS", 2**23, {"data": np.ones(2**23, "f4")}),
        ("RLIMIT_AS", 2**22, {"data": NOISE, "compression": "gzip"}),
        ("RLIMIT_DATA", 2**22, {"data": NOISE, "compression": "gzip"}),
        ("RLIMIT_FSIZE", 2**20, {"data": NOISE, "compression": "gzip"}),
    ],
)
def test_too_little_room_is_no_fault_of_the_file(tmp_path, monkeypatch, limit, step, options):
    """Limits that the worker may not raise, from such that it does not even start to enough."""
    if IS_SANITIZED and limit != "RLIMIT_FSIZE":
        pytest.skip("NOT TESTED: sanitizers change how much address space is needed")
    data = file_of(tmp_path, weights(**options))
    program = hdf5._program()
    outcomes = []
    for n_bytes in range(step, 2**30, step):
        limited = [sys.executable, "-IS", "-c", LIMITED, limit, str(n_bytes), *program]
        monkeypatch.setattr(hdf5, "_program", lambda limited=limited: limited)
        try:
            assert len(read(data)[1]) == 2
            break
        except (ImportError, MemoryError) as error:
            outcomes.append(f"{type(error).__name__}: {error}")
    else:
        pytest.fail(f"not even 1 GiB was enough: {outcomes[-1]}")
    assert any(one.startswith("MemoryError") and limit in one for one in outcomes), outcomes


@pytest.mark.parametrize("words", ["filter returned failure", "memory allocation failed"])
def test_what_may_be_a_lack_of_room_is_the_file_s_fault_only_where_there_is_enough(words):
    assert isinstance(hdf5._failure(words, "RLIMIT_AS"), MemoryError)
    assert isinstance(hdf5._failure(words, ""), Wrong)
    assert isinstance(hdf5._failure("wrong B-tree signature", "RLIMIT_AS"), Wrong)


def test_the_worker_can_neither_open_files_nor_grow(tmp_path):
    code = f"""
        import importlib.util, sys
        spec = importlib.util.spec_from_file_location("worker", {str(hdf5._WORKER)!r})
        worker = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(worker)
        assert worker.confine(2**26, 1) == []
        clock = worker.Clock(1)
        for _ in range(1000):  # to set a timer takes none of it
            clock.start(0.02)
            clock.allow(0)
        for attempt in (lambda: open("/etc/passwd"), lambda: bytearray(2**27)):
            try:
                attempt()
            except (OSError, MemoryError) as error:
                print(type(error).__name__)
        sys.stdout.flush()
        while True:
            pass
    """
    if IS_SANITIZED:
        pytest.skip("NOT TESTED: sanitizers change what a process may allocate")
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == ["OSError", "MemoryError"]
    assert done.returncode == -signal.SIGPROF
    assert hdf5._death(done.returncode) == "did not come to an end"


def test_an_external_file_is_not_even_looked_for(tmp_path, monkeypatch):
    """A link that would be followed, had it been, to a pipe that nobody writes: it would block."""
    monkeypatch.chdir(tmp_path)
    os.mkfifo(tmp_path / "pipe.h5")
    data = file_of(tmp_path, linked(lambda file: h5py.ExternalLink("pipe.h5", "/")))
    start = time.process_time()
    refused(data, "no soft or external links")
    assert time.process_time() - start < 5


def test_without_h5py(tmp_path, monkeypatch):
    data = file_of(tmp_path, plain)
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "h5py" else found(name)
    )
    with pytest.raises(ImportError, match=r'needs h5py: pip install "fastnn\[keras\]"'):
        read(data)


@pytest.mark.parametrize("executable", ["", "/bin/true", "/bin/echo"])
def test_without_an_interpreter(tmp_path, monkeypatch, executable):
    """It is no fault of the file."""
    data = file_of(tmp_path, plain)
    monkeypatch.setattr(sys, "executable", executable)
    with pytest.raises(ImportError, match="another Python process") as caught:
        read(data)
    assert executable in str(caught.value)


def test_an_interpreter_that_is_not_there(tmp_path, monkeypatch):
    """Its name is no file that the caller asked for."""
    data = file_of(tmp_path, plain)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(ImportError, match="cannot be started: .*python"):
        read(data)


def test_a_program_that_does_not_get_ready(tmp_path, monkeypatch):
    data = file_of(tmp_path, plain)
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\nexec sleep 60")
    program.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(program))
    monkeypatch.setattr(hdf5, "_PATIENCE_FOR_READY", 0.5)
    with pytest.raises(ImportError, match="was not ready in 0.5 s"):
        read(data)


def test_a_module_of_the_name_in_the_current_directory(tmp_path, monkeypatch):
    """Its folder's parent is nowhere that anybody searches, and is not searched."""
    data = file_of(tmp_path, plain)
    (tmp_path / "h5py").mkdir()
    (tmp_path / "h5py" / "__init__.py").write_text("raise SystemExit(1)")
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "h5py.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path / "here")
    monkeypatch.delitem(sys.modules, "h5py")  # as where nobody imported it yet
    with pytest.raises(ImportError, match="needs h5py"):
        read(data)


def test_the_worker_starts_as_fast_as_h5py():
    """What it does beside that, before it looks at the file, is not in what a file may take."""
    bare = f"import os, sys; sys.path += {hdf5._folders()!r}; import h5py; os._exit(0)"
    assert start_of_hdf5() < 1.5 * fastest([sys.executable, "-IS", "-c", bare])


def test_a_frozen_program_is_not_started_anew(tmp_path, monkeypatch):
    data = file_of(tmp_path, plain)
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    with pytest.raises(ImportError, match="is a program of its own: .*fastnn convert"):
        read(data)
    monkeypatch.delattr(sys, "frozen")
    monkeypatch.setenv(hdf5._MARK, "1")
    with pytest.raises(ImportError, match="started this program again"):
        read(data)


def test_what_the_worker_lacks_is_no_fault_of_the_file(tmp_path, monkeypatch):
    (tmp_path / "h5py").mkdir()
    (tmp_path / "h5py" / "__init__.py").write_text("import missing_dependency")
    data = file_of(tmp_path, plain)
    folders = hdf5._folders()
    monkeypatch.setattr(hdf5, "_folders", lambda: [str(tmp_path), *folders])
    with pytest.raises(ImportError, match="ModuleNotFoundError.*missing_dependency"):
        read(data)


def test_a_setting_of_the_library_does_not_reach_the_worker(tmp_path, monkeypatch):
    monkeypatch.setenv("HDF5_DRIVER", "direct")
    monkeypatch.setenv("HDF5_VOL_CONNECTOR", "async under_vol=0;under_info={}")
    assert read(file_of(tmp_path, plain))[1]


def test_a_signal_to_the_group_is_not_for_the_worker(tmp_path, monkeypatch):
    """As from a Ctrl-C that this program takes for something else."""
    program = tmp_path / "program.py"
    program.write_text(
        "import os, sys; assert os.getpgrp() == os.getpid(); "
        f"exec(open({str(hdf5._WORKER)!r}).read())"
    )
    monkeypatch.setattr(hdf5, "_WORKER", program)
    assert read(file_of(tmp_path, plain))[1]


def test_bytes_that_say_they_are_an_object(tmp_path):
    """h5py would take them for the address of one."""

    def build(file):
        plain(file)
        del file.attrs["model_config"]
        add_object(file, b"NUMPY:|O")

    texts, arrays = read(file_of(tmp_path, build))
    assert list(texts) == ["keras_version"]
    assert list(arrays) == ["model_weights/a/kernel"]


def test_a_file_beside_the_program_is_not_read(tmp_path, monkeypatch):
    """The library looks for one even where it is told to make it in memory."""
    data = file_of(tmp_path, plain)
    monkeypatch.chdir(tmp_path)
    for name in ("first use", "file", "stdin"):
        os.mkfifo(tmp_path / name)  # to open one would block
    assert read(data)[1]


def test_small_objects_are_no_matter_of_memory(tmp_path):
    """Each open dataset of chunks had a table of 64 KB."""

    def build(file):
        for i in range(1500):
            file.create_dataset(f"model_weights/{i}", data=[1.0], compression="gzip")

    assert len(read(file_of(tmp_path, build, libver="latest"))[1]) == 1500


def test_load_tells_the_file_and_the_format(tmp_path):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        plain(file)
    for change, text in [
        ({}, "layers as objects with a class_name and a config"),
        ({"model_config": "[]"}, "model_config to be a JSON object"),
        ({"model_config": None}, "the attribute model_config of a whole model"),
        ({"keras_version": "1.2"}, "a file of Keras 2 or 3, found version '1.2'"),
        ({"keras_version": None}, "a file of Keras 2 or 3"),
        ({"model_config": 3}, "the attribute model_config"),
        (
            {
                "model_config": json.dumps(dense(activation="hard_sigmoid")),
                "keras_version": "2.15.0",
            },
            "activations that Keras 2 and 3 have in common, found hard_sigmoid",
        ),
    ]:
        with h5py.File(path, "w") as file:
            plain(file)
            for name, value in change.items():
                del file.attrs[name]
                if value is not None:
                    file.attrs[name] = value
        with pytest.raises(LoadError, match=r"a\.h5: hdf5: expected ") as caught:
            fastnn.load(path)
        assert text in str(caught.value)


def test_weights_of_h5_are_found_once(tmp_path):
    path = tmp_path / "a.h5"
    config = {
        "class_name": "Sequential",
        "config": {
            "name": "m",
            "layers": [
                {
                    "class_name": "Dense",
                    "config": {"name": "d", "units": 3, "use_bias": False, "activation": "relu"},
                }
            ],
        },
    }
    kernel = np.ones((2, 3), "f4")
    for names, text in [
        (["d/d/kernel:0"], None),
        (["d/m/scope/d/kernel"], None),
        (["d/kernel:0"], None),
        (
            ["d/d/kernel", "d/x/d/kernel"],
            "one dataset 'model_weights/d/.../d/kernel', for one layer, found 2",
        ),
        (["e/d/kernel"], "found 0"),
        (["d/d/bias"], "found 0"),
    ]:
        with h5py.File(path, "w") as file:
            file.attrs["model_config"], file.attrs["keras_version"] = json.dumps(config), "2.3.1"
            for name in names:
                file[f"model_weights/{name}"] = kernel
        if text is None:
            assert np.array_equal(fastnn.load(path).layers[0].weight, kernel)
        else:
            with pytest.raises(LoadError) as caught:
                fastnn.load(path)
            assert text in str(caught.value)


def test_one_dataset_is_not_the_weights_of_many_layers(tmp_path):
    """200 inner models, whose layers all are called d: a matrix would become 200."""
    path = tmp_path / "a.h5"
    layer = {"name": "d", "units": 2, "use_bias": False, "activation": "relu"}

    def model(name, *entries):
        return {"class_name": "Sequential", "config": {"name": name, "layers": list(entries)}}

    inner = [model(f"i{i}", {"class_name": "Dense", "config": layer}) for i in range(200)]
    with h5py.File(path, "w") as file:
        file.attrs["model_config"] = json.dumps(model("m", model("top", *inner)))
        file.attrs["keras_version"] = "3.0.0"
        file["model_weights/top/d/kernel"] = np.eye(2, dtype="f4")
    with pytest.raises(LoadError, match="for one layer, found 0"):
        fastnn.load(path)


def test_where_the_kernel_does_not_say_when(tmp_path, monkeypatch):
    data = file_of(tmp_path, plain)
    _, want = read(data)
    monkeypatch.delattr(os, "pidfd_open")
    _, got = read(data)
    assert {name: a.tolist() for name, a in got.items()} == {n: a.tolist() for n, a in want.items()}
