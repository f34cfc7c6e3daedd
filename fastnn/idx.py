"""IDX files (the format of MNIST), plain or gzip, of unsigned bytes.

Layout: two zero bytes, a type code (8 = uint8), the number of dimensions, one big-endian uint32
per dimension, then the elements in C order and nothing more.

Invariant: a file is believed only as far as it delivers. A plain file's length must equal what
its header declares before anything is allocated; a compressed one is inflated piece by piece, so
memory follows the bytes that really came, never the header's claim. Missing and surplus bytes,
further gzip members included, are errors. Whether a file is compressed is read from its first
two bytes, not from its name.
"""

import gzip
import math
import os
import struct
import zlib
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from fastnn.checks import most_unpacked
from fastnn.errors import LoadError

__all__ = ["MAX_BYTES", "header", "read", "stream", "write"]

MAX_BYTES = 2**32
"""Default bound on the elements that one `read`, or one block of `stream`, may hold."""

_GZIP_MAGIC = b"\x1f\x8b"
_CHUNK_BYTES = 1 << 16
_MAX_DIMENSIONS = 32  # NumPy 1.x stops here; MNIST needs 3
_TYPE_NAMES = {0x08: "uint8", 0x09: "int8", 0x0B: "int16", 0x0C: "int32", 0x0D: "float32",
               0x0E: "float64"}  # fmt: skip

Path = str | os.PathLike[str]


def _error(path: Path, expected: str, found: str) -> LoadError:
    return LoadError(f"{os.fspath(path)}: IDX: expected {expected}, found {found}")


class _Plain:
    """The bytes of an uncompressed file."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.size = os.fstat(file.fileno()).st_size

    def take(self, n_bytes: int) -> bytes:
        """At most `n_bytes` bytes; none only at the end."""
        return self._file.read(n_bytes)


class _Gzip:
    """The bytes of a file of exactly one gzip member, inflated as they are asked for."""

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self._file = file
        self._path = path
        self._inflate = zlib.decompressobj(wbits=31)  # 16 + 15: a gzip wrapper, CRC checked
        self.size = os.fstat(file.fileno()).st_size

    def take(self, n_bytes: int) -> bytes:
        """At most `n_bytes` bytes; none only at the end of the member, which ends the file."""
        while not self._inflate.eof:
            feed = self._inflate.unconsumed_tail or self._file.read(_CHUNK_BYTES)
            try:
                piece = self._inflate.decompress(feed, n_bytes)
            except zlib.error as error:
                raise _error(self._path, "an intact gzip stream", str(error)) from None
            if piece:
                return piece
            if not feed and not self._inflate.eof:
                raise _error(self._path, "a complete gzip stream", "the file's end inside it")
        if self._inflate.unused_data or self._file.read(1):
            raise _error(self._path, "one gzip member", "bytes after its end")
        return b""


def _open(file: BinaryIO, path: Path) -> _Plain | _Gzip:
    magic = file.read(2)
    file.seek(0)
    return _Gzip(file, path) if magic == _GZIP_MAGIC else _Plain(file)


def _take_exactly(source: _Plain | _Gzip, n_bytes: int, path: Path, what: str) -> bytearray:
    data = bytearray()
    while len(data) < n_bytes:
        piece = source.take(min(_CHUNK_BYTES, n_bytes - len(data)))
        if not piece:
            raise _error(path, f"{n_bytes} bytes of {what}", f"{len(data)}")
        data += piece
    return data


def _expect_end(source: _Plain | _Gzip, path: Path) -> None:
    if source.take(1):
        raise _error(path, "the end of the data", "more bytes than the header declares")


def _read_shape(source: _Plain | _Gzip, path: Path) -> tuple[int, ...]:
    """The header: element type and sizes checked, and the file's length against them."""
    zeros, code, n_dimensions = struct.unpack(">HBB", _take_exactly(source, 4, path, "header"))
    if zeros != 0:
        raise _error(path, "two zero bytes at the start", f"{zeros >> 8:#04x} {zeros & 255:#04x}")
    if code != 0x08:
        name = _TYPE_NAMES.get(code, "an unknown type")
        raise _error(path, "elements of type 0x08 (uint8)", f"{code:#04x} ({name})")
    if not 1 <= n_dimensions <= _MAX_DIMENSIONS:
        raise _error(path, f"1 to {_MAX_DIMENSIONS} dimensions", f"{n_dimensions}")
    sizes = _take_exactly(source, 4 * n_dimensions, path, "header")
    shape = struct.unpack(f">{n_dimensions}I", sizes)
    if not all(shape[1:]):  # or a file of 12 bytes would have four billion rows of nothing
        raise _error(path, "sizes of at least 1, but for the first", f"{shape}")
    # The first may be 0: (0, 2**32 - 1, 2**32 - 1, 2**32 - 1) is empty, yet overflows NumPy.
    if math.prod(size for size in shape if size) > np.iinfo(np.intp).max:
        raise _error(path, "sizes whose product can be addressed", f"{shape}")
    n_bytes = math.prod(shape)
    if isinstance(source, _Plain):
        expected = 4 + 4 * n_dimensions + n_bytes
        if source.size != expected:
            raise _error(path, f"{expected} bytes in all for shape {shape}", f"{source.size}")
    elif n_bytes > most_unpacked(source.size):
        expected = f"at most {most_unpacked(source.size)} bytes from {source.size} compressed ones"
        raise _error(path, expected, f"{n_bytes} for shape {shape}")
    return shape


def _check_cap(n_bytes: int, max_bytes: int, path: Path) -> None:
    if n_bytes > max_bytes:
        raise _error(path, f"at most {max_bytes} bytes (max_bytes=)", f"{n_bytes} declared")


def read(path: Path, *, max_bytes: int = MAX_BYTES) -> npt.NDArray[np.uint8]:
    """The array in an IDX file, plain or gzip: uint8, of the shape in the header, writable.

    Raises `LoadError` if the file is no IDX file of uint8, is shorter or longer than its header
    declares, is damaged, or holds more than `max_bytes` bytes; `OSError` if it cannot be opened.

    Source: the IDX description on the MNIST page, http://yann.lecun.com/exdb/mnist/.
    """
    with open(path, "rb") as file:
        source = _open(file, path)
        shape = _read_shape(source, path)
        _check_cap(math.prod(shape), max_bytes, path)
        data = _take_exactly(source, math.prod(shape), path, "elements")
        _expect_end(source, path)
    return np.frombuffer(data, np.uint8).reshape(shape)


def stream(path: Path, rows: int, *, max_bytes: int = MAX_BYTES) -> Iterator[npt.NDArray[np.uint8]]:
    """The array in an IDX file in blocks of `rows` along the first axis (the last may be shorter).

    Each block is a fresh uint8 array; memory is one block. The errors are those of `read`, raised
    when reached: the header's with the first block, a surplus instead of the last block.
    `max_bytes` bounds one block. Raises `ValueError` at once if `rows` is not positive.
    """
    if rows < 1:
        raise ValueError(f"stream: rows is {rows}, wanted at least 1")
    return _blocks(path, rows, max_bytes)


def _blocks(path: Path, rows: int, max_bytes: int) -> Iterator[npt.NDArray[np.uint8]]:
    with open(path, "rb") as file:
        source = _open(file, path)
        n_rows, *rest = _read_shape(source, path)
        row_bytes = math.prod(rest)
        _check_cap(min(rows, n_rows) * row_bytes, max_bytes, path)
        if n_rows == 0:
            _expect_end(source, path)
        for start in range(0, n_rows, rows):
            n = min(rows, n_rows - start)
            data = _take_exactly(source, n * row_bytes, path, "elements")
            if start + n == n_rows:
                _expect_end(source, path)
            yield np.frombuffer(data, np.uint8).reshape(n, *rest)


def header(shape: tuple[int, ...]) -> bytes:
    """The header of an IDX file of uint8 elements of this shape."""
    if not 1 <= len(shape) <= _MAX_DIMENSIONS:
        raise ValueError(f"header: shape has {len(shape)} axes, wanted 1 to {_MAX_DIMENSIONS}")
    if max(shape) >= 2**32 or not all(shape[1:]):
        raise ValueError(
            f"header: shape is {shape}, wanted sizes from 1 to 2**32 - 1, the first from 0"
        )
    return struct.pack(f">HBB{len(shape)}I", 0, 0x08, len(shape), *shape)


def write(path: Path, array: npt.ArrayLike) -> None:
    """Write a uint8 array of 1 to 32 axes as an IDX file; gzip if the name ends in `.gz`.

    The same array gives the same bytes at each call: no time or name is stored. Raises
    `ValueError` for another dtype or number of axes.
    """
    values = np.asarray(array)
    if values.dtype != np.uint8:
        raise ValueError(f"write: array has dtype {values.dtype}, wanted uint8")
    data = header(values.shape) + values.tobytes()
    if os.fspath(path).endswith(".gz"):
        data = gzip.compress(data, compresslevel=9, mtime=0)
    with open(path, "wb") as file:
        file.write(data)
