"""The containers that hostile files are built from, written so that each field can lie.

Invariant: nothing is checked, nothing is asked of the package. Formats: safetensors
(https://github.com/huggingface/safetensors), npy (numpy.lib.format), zip (PKWARE's APPNOTE), IDX.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import struct
import zlib
from collections.abc import Sequence
from typing import Any


def safetensors(header: object, data: bytes = b"", n_header: int | None = None) -> bytes:
    """`header`: its bytes, or an object for JSON; `n_header`: the length that is declared."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if n_header is None else n_header) + text + data


def npy(
    data: bytes = b"",
    shape: str = "(1, 2)",
    descr: str = "'<f4'",
    fortran: str = "False",
    magic: bytes = b"\x93NUMPY\x01\x00",
) -> bytes:
    """An array file of version 1.0."""
    text = f"{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': {shape}, }}"
    padded = text.encode("latin-1") + b" " * (-(len(text) + 11) % 64) + b"\n"
    return magic + struct.pack("<H", len(padded)) + padded + data


def f4(*values: float) -> bytes:
    return struct.pack(f"<{len(values)}f", *values)


@functools.lru_cache(maxsize=2)
def crc32(data: bytes) -> int:
    return zlib.crc32(data)


STORED, DEFLATED = 0, 8


@dataclasses.dataclass
class Entry:
    """An entry of a zip archive; None: what is true."""

    name: str
    data: bytes
    method: int = STORED
    flags: int = 0
    mode: int = 0
    """Unix: type and permissions."""
    packed: bytes | None = None
    size: int | None = None
    packed_size: int | None = None
    crc: int | None = None
    local_name: str | None = None
    local_size: int | None = None
    local_crc: int | None = None
    local_method: int | None = None
    offset: int | None = None
    extra: bytes = b""
    local_extra: bytes = b""
    comment: bytes = b""
    descriptor: bytes = b""
    """Bytes behind the data."""


@functools.lru_cache(maxsize=2)  # bombs are many of one entry
def deflated(data: bytes) -> bytes:
    packer = zlib.compressobj(9, wbits=-15)
    return packer.compress(data) + packer.flush()


def zip_file(
    entries: Sequence[Entry],
    *,
    before: bytes = b"",
    between: bytes = b"",
    comment: bytes = b"",
    count: int | None = None,
    directory_size: int | None = None,
    directory_offset: int | None = None,
    directories: int = 1,
    disk: int = 0,
) -> bytes:
    """A zip archive of `entries`; `between`: in front of the directory."""
    body, directory = bytearray(before), bytearray()
    for entry in entries:
        name, local_name = entry.name.encode(), (entry.local_name or entry.name).encode()
        packed = entry.packed
        if packed is None:
            packed = deflated(entry.data) if entry.method == DEFLATED else entry.data
        crc = crc32(entry.data) if entry.crc is None else entry.crc
        size = len(entry.data) if entry.size is None else entry.size
        packed_size = len(packed) if entry.packed_size is None else entry.packed_size
        local_size = size if entry.local_size is None else entry.local_size
        local_crc = crc if entry.local_crc is None else entry.local_crc
        local_method = entry.method if entry.local_method is None else entry.local_method
        offset = len(body) if entry.offset is None else entry.offset
        date = 0x0021  # the first of January 1980
        body += struct.pack(
            "<4sHHHHHIIIHH", b"PK\x03\x04", 20, entry.flags, local_method, 0, date, local_crc,
            packed_size, local_size, len(local_name), len(entry.local_extra),
        )  # fmt: skip
        body += local_name + entry.local_extra + packed + entry.descriptor
        directory += struct.pack(
            "<4sHHHHHHIIIHHHHHII", b"PK\x01\x02", 0x0314, 20, entry.flags, entry.method, 0, date,
            crc, packed_size, size, len(name), len(entry.extra), len(entry.comment), 0, 0,
            entry.mode << 16, offset,
        )  # fmt: skip
        directory += name + entry.extra + entry.comment
    body += between
    start = len(body) if directory_offset is None else directory_offset
    n = len(entries) if count is None else count
    length = len(directory) if directory_size is None else directory_size
    end = struct.pack("<4sHHHHIIH", b"PK\x05\x06", disk, disk, n, n, length, start, len(comment))
    return bytes(body + directory * directories + end + comment)


def npz(arrays: dict[str, bytes], method: int = STORED, **lies: Any) -> bytes:
    """An .npz of arrays that are npy files already."""
    entries = [Entry(f"{name}.npy", data, method) for name, data in arrays.items()]
    return zip_file(entries, **lies)


def idx(
    data: bytes = b"", sizes: Sequence[int] = (), code: int = 8, zeros: bytes = b"\0\0"
) -> bytes:
    """An IDX file."""
    return zeros + struct.pack(f">BB{len(sizes)}I", code, len(sizes), *sizes) + data


def gzip(
    data: bytes,
    *,
    size: int | None = None,
    crc: int | None = None,
    flags: int = 0,
    extra: bytes = b"",
) -> bytes:
    """One gzip member; `extra`: bytes behind its fixed header."""
    head = struct.pack("<HBBIBB", 0x8B1F, 8, flags, 0, 2, 255) + extra
    tail = struct.pack(
        "<II",
        zlib.crc32(data) if crc is None else crc,
        len(data) & 0xFFFFFFFF if size is None else size,
    )
    return head + deflated(data) + tail
