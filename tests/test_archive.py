"""fastnn.formats.archive: strict, and of one mind with zipfile on all that it accepts.

The hostile archives are in tests/attacks/npz_files.py; here is what a reader of one could not see.
"""

import io
import random
import zipfile

import numpy as np
import pytest
from attacks import npz_files
from attacks.containers import DEFLATED, STORED, Entry, zip_file

from fastnn.checks import most_unpacked
from fastnn.formats import archive
from fastnn.formats.model_file import Wrong


def contents(data, max_bytes=2**30, max_entries=100):
    with archive.opened(data, max_bytes, max_entries, lambda name: None) as (zipped, entries):
        return {entry.filename: archive.unpacked(zipped, entry) for entry in entries}


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_what_zipfile_and_numpy_write_is_read(method, tmp_path):
    rng = np.random.default_rng(1)
    files = {"a": b"", "b.npy": rng.bytes(200_000), "c/d": b"x" * 300_000, "e": b"y"}
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as zipped:
        for name, data in files.items():
            zipped.writestr(name, data)
    assert contents(file.getvalue()) == files
    save = np.savez if method == zipfile.ZIP_STORED else np.savez_compressed
    save(tmp_path / "a.npz", x=np.arange(5), y=np.zeros(100_000))
    assert list(contents((tmp_path / "a.npz").read_bytes())) == ["x.npy", "y.npy"]


def test_content_comes_in_pieces_of_any_size():
    data = np.random.default_rng(1).integers(0, 9, 300_000).astype(np.uint8).tobytes()
    for method in (STORED, DEFLATED):
        packed = zip_file([Entry("a", data, method)])
        for n in (1000, 65_536, 99_999):
            with archive.opened(packed, 2**30, 1, lambda name: None) as (zipped, (entry,)):
                file, found = zipped.open(entry), b""
                while piece := file.read(n):
                    found += piece
            assert found == data


def test_nothing_is_unpacked_that_could_not_be_kept():
    data = zip_file([Entry("a", bytes(1000), DEFLATED), Entry("b", bytes(1000), DEFLATED)])
    assert len(contents(data, max_bytes=2000)) == 2
    with pytest.raises(Wrong, match="at most 1999 bytes unpacked"):
        contents(data, max_bytes=1999)
    with pytest.raises(Wrong, match="at most 1 entries"):
        contents(data, max_entries=1)
    most = most_unpacked(0)
    with pytest.raises(Wrong, match="bytes unpacked from"):
        contents(zip_file([Entry("a", bytes(2 * most), DEFLATED)]))
    assert len(contents(zip_file([Entry("a", bytes(most), DEFLATED)]))["a"]) == most


@pytest.mark.parametrize("name", npz_files.SEEDS)
def test_zipfile_agrees_on_what_is_accepted(name):
    """Of 6,000 archives with one to three bytes changed."""
    seed, rng = npz_files.SEEDS[name], random.Random(1)
    n_accepted = 0
    for _ in range(2000):
        data = bytearray(seed)
        for _ in range(rng.randint(1, 3)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        try:
            ours = contents(bytes(data))
        except Wrong:
            continue
        n_accepted += 1
        with zipfile.ZipFile(io.BytesIO(data)) as zipped:
            theirs = {each.filename: zipped.read(each) for each in zipped.infolist()}
        assert ours == theirs
    assert n_accepted > 10
