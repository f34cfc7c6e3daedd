"""fastnn.idx: what is written is read back; whatever lies about its size is refused cheaply."""

import gzip
import struct
import tracemalloc

import numpy as np
import pytest
from attacks.kinds import write_anew

from fastnn import idx
from fastnn.errors import LoadError

SHAPES = [(0,), (1,), (7,), (5, 3), (4, 28, 28), (0, 28, 28), (2, 1, 2, 1, 2)]


def some(shape):
    return np.random.default_rng(3).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_round_trip(tmp_path, shape, suffix):
    array = some(shape)
    idx.write(tmp_path / f"a{suffix}", array)
    back = idx.read(tmp_path / f"a{suffix}")
    assert back.dtype == np.uint8
    assert back.shape == shape
    assert back.flags.writeable
    np.testing.assert_array_equal(back, array)


def test_bytes_are_those_of_the_format(tmp_path):
    idx.write(tmp_path / "a", np.array([[1, 2, 3]], np.uint8))
    assert (tmp_path / "a").read_bytes() == bytes.fromhex("00000802 00000001 00000003 010203")


def test_write_is_reproducible_and_takes_views(tmp_path):
    array = some((6, 8))
    idx.write(tmp_path / "a.gz", array[::2, ::-1])
    idx.write(tmp_path / "b.gz", array[::2, ::-1].copy())
    assert (tmp_path / "a.gz").read_bytes() == (tmp_path / "b.gz").read_bytes()
    np.testing.assert_array_equal(idx.read(tmp_path / "a.gz"), array[::2, ::-1])


@pytest.mark.parametrize(
    "array",
    [np.zeros(3), np.zeros((), np.uint8), np.zeros((3, 0), np.uint8)],
    ids=["dtype", "axes", "rows of nothing"],
)
def test_write_refuses(tmp_path, array):
    with pytest.raises(ValueError, match="wanted"):
        idx.write(tmp_path / "a", array)
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("rows", [1, 3, 4, 9, 10, 11, 1000])
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_stream(tmp_path, rows, suffix):
    array = some((10, 200, 100))  # 200 kB: several chunks
    idx.write(tmp_path / f"a{suffix}", array)
    blocks = list(idx.stream(tmp_path / f"a{suffix}", rows))
    assert [len(block) for block in blocks[:-1]] == [rows] * (len(blocks) - 1)
    np.testing.assert_array_equal(np.concatenate(blocks), array)


def test_stream_of_nothing(tmp_path):
    idx.write(tmp_path / "a", some((0, 5)))
    assert list(idx.stream(tmp_path / "a", 3)) == []
    with pytest.raises(ValueError, match="rows is 0"):
        idx.stream(tmp_path / "a", 0)


def read_all(path):
    idx.read(path)


def stream_all(path):
    for _ in idx.stream(path, 2):
        pass


PLAIN = idx.header((5, 4)) + bytes(range(20))
BAD = {
    "empty": (b"", "4 bytes of header, found 0"),
    "short header": (PLAIN[:9], "8 bytes of header, found 5"),
    "not IDX": (b"\x89PNG" + PLAIN, "two zero bytes at the start, found 0x89 0x50"),
    "float32": (b"\0\0\x0d\x01" + struct.pack(">If", 1, 1.0), "0x0d .float32."),
    "int32": (b"\0\0\x0c\x01" + struct.pack(">Ii", 1, 1), "0x0c .int32."),
    "unknown type": (b"\0\0\x07\x01\0\0\0\0", "0x07 .an unknown type."),
    "no axes": (b"\0\0\x08\x00\x01", "1 to 32 dimensions, found 0"),
    "too many axes": (b"\0\0\x08\xff" + bytes(4 * 255), "1 to 32 dimensions, found 255"),
    "rows of nothing": (b"\0\0\x08\x02\x7f\xff\xff\xff\0\0\0\0", "at least 1, but for the first"),
    "overflow": (b"\0\0\x08\x03" + b"\xff" * 12, "can be addressed"),
    "overflow beside 0": (b"\0\0\x08\x04" + bytes(4) + b"\xff" * 12, "can be addressed"),
}


@pytest.mark.parametrize("consume", [read_all, stream_all])
@pytest.mark.parametrize("compress", [False, True], ids=["plain", "gz"])
@pytest.mark.parametrize("case", BAD)
def test_bad_headers(tmp_path, case, compress, consume):
    content, message = BAD[case]
    path = tmp_path / "bad"
    path.write_bytes(gzip.compress(content) if compress else content)
    with pytest.raises(LoadError, match=message) as caught:
        consume(path)
    assert str(path) in str(caught.value)
    assert "IDX" in str(caught.value)


@pytest.mark.parametrize("consume", [read_all, stream_all])
@pytest.mark.parametrize("change", [-20, -1, 1, 1000])
def test_wrong_length(tmp_path, change, consume):
    content = PLAIN[:change] if change < 0 else PLAIN + bytes(change)
    (tmp_path / "plain").write_bytes(content)
    with pytest.raises(LoadError, match=f"32 bytes in all .*found {32 + change}"):
        consume(tmp_path / "plain")
    (tmp_path / "gz").write_bytes(gzip.compress(content))
    with pytest.raises(LoadError, match="elements, found|more bytes than"):
        consume(tmp_path / "gz")


@pytest.mark.parametrize("consume", [read_all, stream_all])
def test_every_truncation_of_a_compressed_file(tmp_path, consume):
    whole = gzip.compress(PLAIN)
    for length in range(len(whole)):
        write_anew(tmp_path / "a.gz", whole[:length])
        with pytest.raises(LoadError):
            consume(tmp_path / "a.gz")


@pytest.mark.parametrize("consume", [read_all, stream_all])
def test_every_flipped_byte_of_a_compressed_file(tmp_path, consume):
    whole = gzip.compress(PLAIN, mtime=0)
    for at in [*range(4), *range(10, len(whole))]:  # 4 to 9 are time, level and system
        damaged = bytearray(whole)
        damaged[at] ^= 0xFF
        write_anew(tmp_path / "a.gz", bytes(damaged))
        with pytest.raises(LoadError):
            consume(tmp_path / "a.gz")


@pytest.mark.parametrize("consume", [read_all, stream_all])
@pytest.mark.parametrize(
    "tail",
    [b"\0", b"x" * 70_000, gzip.compress(b""), gzip.compress(PLAIN)],
    ids=["a zero", "noise", "nothing, packed", "the same again"],
)
def test_bytes_after_the_member(tmp_path, tail, consume):
    (tmp_path / "a.gz").write_bytes(gzip.compress(PLAIN) + tail)
    with pytest.raises(LoadError, match="one gzip member"):
        consume(tmp_path / "a.gz")


def peak_of(call):
    tracemalloc.start()
    try:
        with pytest.raises(LoadError):
            call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("consume", [read_all, stream_all])
def test_huge_claims_cost_nothing(tmp_path, consume):
    header = idx.header((2**31, 2**10))
    (tmp_path / "plain").write_bytes(header + bytes(100))
    (tmp_path / "gz").write_bytes(gzip.compress(header + bytes(100)))
    assert peak_of(lambda: consume(tmp_path / "plain")) < 1 << 20
    assert peak_of(lambda: consume(tmp_path / "gz")) < 1 << 20


def test_memory_follows_what_came(tmp_path):
    # Declares 60 MB, which 60 kB could hold; the noise makes it long enough, but only 1 MB comes.
    noise = np.random.default_rng(1).bytes(1 << 20)
    (tmp_path / "a.gz").write_bytes(gzip.compress(idx.header((60_000_000,)) + noise))
    assert peak_of(lambda: idx.read(tmp_path / "a.gz")) < 3 << 20


def test_bomb_behind_a_small_header(tmp_path):
    (tmp_path / "a.gz").write_bytes(gzip.compress(idx.header((10,)) + bytes(100_000_000)))
    assert peak_of(lambda: idx.read(tmp_path / "a.gz")) < 1 << 20


def test_cap(tmp_path):
    idx.write(tmp_path / "a", some((10, 10)))
    assert idx.read(tmp_path / "a", max_bytes=100).size == 100
    with pytest.raises(LoadError, match=r"at most 99 bytes \(max_bytes=\), found 100 declared"):
        idx.read(tmp_path / "a", max_bytes=99)
    assert len(list(idx.stream(tmp_path / "a", 2, max_bytes=20))) == 5
    with pytest.raises(LoadError, match="at most 19 bytes"):
        list(idx.stream(tmp_path / "a", 2, max_bytes=19))


def test_a_missing_file_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        idx.read(tmp_path / "absent")
