"""fastnn.mnist: the originals and nothing else, the ways out when absent, the bundled sample."""

import builtins
import gzip
import hashlib
import http.server
import importlib.util
import shutil
import socket
import threading

import numpy as np
import pytest

from fastnn import idx, mnist
from fastnn.errors import LoadError

NAMES = tuple(mnist.SHA256)


@pytest.fixture(autouse=True)
def nothing_found_by_chance(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("FASTNN_MNIST", raising=False)


@pytest.fixture
def small(monkeypatch):
    """Four little arrays that stand for the originals: their contents by file name."""
    rng = np.random.default_rng(5)
    contents = {}
    for name in NAMES:
        shape = (20, 28, 28) if "images" in name else (20,)
        contents[name] = array = rng.integers(0, 10, shape, dtype=np.uint8)
        digest = hashlib.sha256(idx.header(shape) + array.tobytes()).hexdigest()
        monkeypatch.setitem(mnist.SHA256, name, digest)
    return contents


def put(folder, contents, suffix=".gz"):
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in contents.items():
        idx.write(folder / f"{name}{suffix}", array)
    return folder


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("place", ["path", "variable", "cache"])
def test_is_found_in_each_place(small, tmp_path, monkeypatch, place, suffix):
    folder = mnist.cache_path() if place == "cache" else tmp_path / "here"
    assert not mnist.available()
    put(folder, small, suffix)
    if place == "variable":
        monkeypatch.setenv("FASTNN_MNIST", str(folder))
    path = folder if place == "path" else None
    assert mnist.available(path)
    for split, names in mnist.FILES.items():
        for array, name in zip(mnist.load(split, path), names, strict=True):
            np.testing.assert_array_equal(array, small[name])


def test_a_named_folder_is_the_only_one(small, tmp_path):
    put(mnist.cache_path(), small)
    (tmp_path / "empty").mkdir()
    assert not mnist.available(tmp_path / "empty")
    with pytest.raises(FileNotFoundError):
        mnist.load("test", tmp_path / "empty")


def test_the_message_when_absent_names_the_ways_out(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        mnist.load("test")
    for word in ("t10k-images-idx3-ubyte", str(tmp_path / "cache"), "path=", "FASTNN_MNIST",
                 "fastnn data fetch", "fastnn.mnist.sample()"):  # fmt: skip
        assert word in str(caught.value)


def test_other_contents_are_refused(small, tmp_path):
    changed = {name: array.copy() for name, array in small.items()}
    changed["t10k-labels-idx1-ubyte"][3] ^= 1
    folder = put(tmp_path / "here", changed)
    mnist.load("train", folder)
    with pytest.raises(LoadError, match="t10k-labels-idx1-ubyte.*SHA-256"):
        mnist.load("test", folder)


def test_an_unknown_split():
    with pytest.raises(ValueError, match="split is 'validation', wanted"):
        mnist.load("validation")


def test_the_real_files(mnist_path):
    for split, n in (("train", 60_000), ("test", 10_000)):
        images, labels = mnist.load(split, mnist_path)
        assert images.shape == (n, 28, 28)
        assert labels.shape == (n,)
        assert images.dtype == labels.dtype == np.uint8
    assert labels[:5].tolist() == [7, 2, 1, 0, 4]


def test_sample():
    images, labels = mnist.sample()
    assert images.shape == (1000, 28, 28)
    assert images.dtype == labels.dtype == np.uint8
    np.testing.assert_array_equal(labels, np.repeat(np.arange(10), 100))
    assert len({image.tobytes() for image in images}) == 1000
    digest = hashlib.sha256(idx.header(images.shape) + images.tobytes()).hexdigest()
    assert digest == "1e150328bc71855499b5dd0b04bc9eeb86b56d15e370fee02f7d8f2948e5e620"
    digest = hashlib.sha256(idx.header(labels.shape) + labels.tobytes()).hexdigest()
    assert digest == "269ecbc6b9d1255bfaf6a62a1eba208034491ca4df872ab8c3531975085962c3"


def test_without_sample_on_the_training_split(mnist_path):
    images, labels = mnist.load("train", mnist_path)
    kept_images, kept_labels = mnist.without_sample(images, labels)
    assert kept_images.shape == (59_000, 28, 28)
    assert kept_labels.shape == (59_000,)
    sample_images, sample_labels = mnist.sample()
    truth = {i.tobytes(): n for i, n in zip(images, labels, strict=True)}
    assert [truth[i.tobytes()] for i in sample_images] == sample_labels.tolist()


def test_without_sample_keeps_order_and_pairs():
    images, labels = mnist.sample()
    own = np.arange(3 * 784, dtype=np.uint32).astype(np.uint8).reshape(3, 28, 28)
    mixed = np.concatenate([own[:1], images[:5], own[1:2], images[5:], own[2:]])
    marks = np.arange(len(mixed)).astype(np.uint8)
    kept, kept_marks = mnist.without_sample(mixed, marks)
    np.testing.assert_array_equal(kept, own)
    assert kept_marks.tolist() == [0, 6, 1002 % 256]
    assert len(labels) == 1000


def test_without_sample_refuses_other_shapes():
    with pytest.raises(ValueError, match="images is uint8 of shape"):
        mnist.without_sample(np.zeros((2, 784), np.uint8), np.zeros(2, np.uint8))
    with pytest.raises(ValueError, match="labels has shape"):
        mnist.without_sample(np.zeros((2, 28, 28), np.uint8), np.zeros(3, np.uint8))


# --- fetch: against a server on this machine -------------------------------------------------


@pytest.fixture
def serve(tmp_path):
    """Start a server for a folder; returns its URL. The requests are in `serve.paths`."""
    servers, paths = [], []

    def start(folder):
        class Handler(http.server.SimpleHTTPRequestHandler):
            def __init__(self, *args):
                super().__init__(*args, directory=str(folder))

            def log_message(self, *args):
                paths.append(self.path)

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}/"

    start.paths = paths
    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def needs_pooch():
    if importlib.util.find_spec("pooch") is None:
        pytest.skip("NOT TESTED: needs pooch (fastnn[data])")


def test_fetch_fills_the_cache(small, tmp_path, serve):
    needs_pooch()
    url = serve(put(tmp_path / "served", small))
    assert mnist.fetch(mirrors=[url]) == mnist.cache_path()
    assert mnist.available()
    np.testing.assert_array_equal(mnist.load("test")[1], small["t10k-labels-idx1-ubyte"])
    assert sorted(f.name for f in mnist.cache_path().iterdir()) == sorted(f"{n}.gz" for n in NAMES)
    n_requests = len(serve.paths)
    mnist.fetch(mirrors=[url])
    assert len(serve.paths) == n_requests  # what is there and right is kept


def test_fetch_tries_the_mirrors_in_turn(small, tmp_path, serve):
    needs_pooch()
    good = put(tmp_path / "good", small)
    wrong = put(tmp_path / "wrong", {n: a ^ 1 for n, a in small.items()})
    cut = tmp_path / "cut"
    cut.mkdir()
    for name in NAMES:
        (cut / f"{name}.gz").write_bytes((good / f"{name}.gz").read_bytes()[:-5])
    (tmp_path / "nothing").mkdir()
    urls = [serve(folder) for folder in (tmp_path / "nothing", wrong, cut, good)]
    folder = mnist.fetch(tmp_path / "out", mirrors=urls)
    np.testing.assert_array_equal(mnist.load("train", folder)[0], small["train-images-idx3-ubyte"])


def test_fetch_accepts_another_compression(small, tmp_path, serve):
    needs_pooch()
    served = put(tmp_path / "served", small, suffix="")
    for name in NAMES:
        with open(served / name, "rb") as plain, gzip.open(served / f"{name}.gz", "wb", 1) as out:
            shutil.copyfileobj(plain, out)
    assert mnist.available(mnist.fetch(tmp_path / "out", mirrors=[serve(served)]))


def test_fetch_that_fails_leaves_nothing_and_says_why(small, tmp_path, serve):
    needs_pooch()
    wrong = serve(put(tmp_path / "wrong", {n: a ^ 1 for n, a in small.items()}))
    (tmp_path / "nothing").mkdir()
    nothing = serve(tmp_path / "nothing")
    with pytest.raises(ConnectionError) as caught:
        mnist.fetch(tmp_path / "out", mirrors=[nothing, wrong])
    assert nothing in str(caught.value)
    assert "404" in str(caught.value)
    assert "SHA-256" in str(caught.value)
    assert list((tmp_path / "out").iterdir()) == []


def test_fetch_replaces_a_broken_file(small, tmp_path, serve):
    needs_pooch()
    url = serve(put(tmp_path / "served", small))
    folder = put(tmp_path / "out", small, suffix="")
    (folder / NAMES[0]).write_bytes(b"broken")
    mnist.fetch(folder, mirrors=[url])
    np.testing.assert_array_equal(mnist.load("train", folder)[0], small[NAMES[0]])
    assert len(serve.paths) == 1


def test_fetch_that_fails_keeps_what_was_there(small, tmp_path, serve):
    needs_pooch()
    (tmp_path / "nothing").mkdir()
    folder = put(tmp_path / "out", small, suffix="")
    (folder / NAMES[0]).write_bytes(b"broken")
    with pytest.raises(ConnectionError, match=NAMES[0]):
        mnist.fetch(folder, mirrors=[serve(tmp_path / "nothing")])
    assert (folder / NAMES[0]).read_bytes() == b"broken"


def test_fetch_without_mirrors(tmp_path):
    needs_pooch()
    with pytest.raises(ValueError, match="mirrors is empty"):
        mnist.fetch(tmp_path, mirrors=[])


def test_fetch_without_pooch_names_the_extra(tmp_path, monkeypatch):
    real = builtins.__import__

    def without(name, *rest, **more):
        if name == "pooch":
            raise ModuleNotFoundError("No module named 'pooch'", name="pooch")
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r'pip install "fastnn\[data\]"'):
        mnist.fetch(tmp_path)


def test_only_fetch_touches_the_network(small, tmp_path, monkeypatch):
    def refuse(*args, **more):
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", refuse)
    mnist.load("test", put(tmp_path / "here", small))
    mnist.sample()
    with pytest.raises(FileNotFoundError):
        mnist.load("test")
