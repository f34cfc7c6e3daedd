"""Zip archives from strangers, read strictly: what `.npz` and `.keras` share.

Invariant: every byte belongs to one entry or to the directory, and both say the same of it. No name
comes twice; there are no comments, no extra fields (but for the sizes that NumPy writes there), no
links, no encryption, no bytes behind deflated data. Nothing is unpacked before all declared sizes
are known to fit, and what an entry unpacks to has its declared size and checksum. Only `Wrong`
gets out. zipfile reads all that is accepted here, to the same bytes (the tests see to it), and much
else: it takes the directory's word for what the entries say, and so an archive may mean one thing
to one program and another to the next.

Source: the format, https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT.
"""

from __future__ import annotations

import contextlib
import io
import stat
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import BinaryIO, NamedTuple

from fastnn.checks import most_unpacked
from fastnn.formats.model_file import Wrong, quoted

__all__ = ["Archive", "Entry", "opened", "unpacked"]

_LOCAL = struct.Struct("<4s5H3I2H")
_CENTRAL = struct.Struct("<4s6H3I5H2I")
_END = struct.Struct("<4s4H2IH")
_SIZES_FIELD = struct.Struct("<2H2Q")  # the extra field of sizes in 64 bits
_STORED, _DEFLATED = 0, 8
_FLAGS = 0x0806  # that may be set: how hard deflate tried, names in UTF-8
_VERSION = 45  # 4.5: sizes of 64 bits
_CHUNK = 1 << 16
_UNSAID = 0xFFFFFFFF


class Entry(NamedTuple):
    """An entry as the directory and the entry itself describe it."""

    filename: str
    file_size: int
    compress_size: int
    method: int
    crc: int
    start: int
    """Of its data in the file."""


class Archive:
    """The entries' contents, from `file`."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def open(self, entry: Entry) -> _Content:
        """What the entry holds, from its first byte on. One at a time."""
        return _Content(self._file, entry)


class _Content:
    """Reads an entry. All of it, or `close` finds fault with it."""

    def __init__(self, file: BinaryIO, entry: Entry) -> None:
        self._file, self._entry = file, entry
        self._inflate = zlib.decompressobj(wbits=-15) if entry.method == _DEFLATED else None
        self._packed_left, self._left, self._crc = entry.compress_size, entry.file_size, 0
        file.seek(entry.start)

    def __enter__(self) -> _Content:
        return self

    def __exit__(self, *unused: object) -> None:
        pass

    def read(self, n: int) -> bytes:
        """n bytes, or all that is left where that is less."""
        n = min(n, self._left)
        content = self._take(n) if self._inflate is None else self._unpack(self._inflate, n)
        if len(content) != n:
            raise Wrong(f"{self._entry.file_size} bytes of {self._name}", "fewer")
        self._left -= n
        self._crc = zlib.crc32(content, self._crc)
        if not self._left:
            self._check_end()
        return content

    @property
    def _name(self) -> str:
        return quoted(self._entry.filename)

    def _take(self, n: int) -> bytes:
        data = self._file.read(min(n, self._packed_left))
        self._packed_left -= len(data)
        return data

    def _unpack(self, inflate: zlib._Decompress, n: int) -> bytes:
        pieces, wanted = [], n
        try:
            while wanted and not inflate.eof:
                feed = inflate.unconsumed_tail or self._take(_CHUNK)
                pieces.append(inflate.decompress(feed, wanted))
                wanted -= len(pieces[-1])
                if not feed and not pieces[-1]:
                    break
        except zlib.error as reason:
            raise Wrong(f"{self._name} soundly deflated", quoted(str(reason))) from None
        return b"".join(pieces)

    def _check_end(self) -> None:
        more = b""
        if self._inflate is not None:
            while not self._inflate.eof and not more:
                feed = self._inflate.unconsumed_tail or self._take(_CHUNK)
                try:
                    more = self._inflate.decompress(feed, 1)
                except zlib.error as reason:
                    raise Wrong(f"{self._name} soundly deflated", quoted(str(reason))) from None
                if not feed:
                    break
            if not self._inflate.eof or self._inflate.unused_data:
                more = b"."
        if more or self._packed_left:
            raise Wrong(f"the end of {self._name} after {self._entry.file_size} bytes", "another")
        if self._crc != self._entry.crc:
            found = f"{self._crc:08x}"
            raise Wrong(f"{self._name} with the checksum {self._entry.crc:08x}", found)


@contextlib.contextmanager
def opened(
    data: bytes | BinaryIO,
    max_bytes: int,
    max_entries: int,
    check_name: Callable[[str], None],
) -> Iterator[tuple[Archive, Sequence[Entry]]]:
    """The archive and its entries, checked. `check_name` raises `Wrong` for a name it refuses."""
    file = io.BytesIO(data) if isinstance(data, bytes) else data
    n_bytes = file.seek(0, io.SEEK_END)
    directory, n_entries = _directory(file, n_bytes, max_entries)
    entries, names, at, place = [], set(), 0, 0
    for _ in range(n_entries):
        entry, flags, at = _told(directory, at)
        if entry.start != place:
            raise Wrong(f"an entry at byte {place}", f"one at {entry.start}")
        if entry.filename in names:
            raise Wrong("each entry once", f"{quoted(entry.filename)} twice")
        names.add(entry.filename)
        check_name(entry.filename)
        start = _start(file, entry, flags)
        entries.append(entry._replace(start=start))
        place = start + entry.compress_size
    if at != len(directory):
        raise Wrong(f"a directory of {n_entries} entries", f"{len(directory) - at} bytes more")
    if place != n_bytes - _END.size - len(directory):
        found = f"it at {n_bytes - _END.size - len(directory)}"
        raise Wrong(f"the directory at byte {place}", found)
    most, total = most_unpacked(n_bytes), sum(entry.file_size for entry in entries)
    if total > max_bytes:
        raise Wrong(f"at most {max_bytes} bytes unpacked (max_bytes=)", f"{total}")
    if total > most:
        raise Wrong(f"at most {most} bytes unpacked from {n_bytes}", f"{total}")
    yield Archive(file), entries


def unpacked(archive: Archive, entry: Entry) -> bytes:
    """All bytes of an entry."""
    return archive.open(entry).read(entry.file_size)


def _directory(file: BinaryIO, n_bytes: int, max_entries: int) -> tuple[bytes, int]:
    """The bytes of the directory, and of how many entries it is."""
    file.seek(0)
    start = file.read(4)
    if start != b"PK\x03\x04":
        raise Wrong("a zip archive from the first byte on", quoted(start))
    file.seek(max(n_bytes - _END.size, 0))
    tail = file.read(_END.size)
    if len(tail) < _END.size or tail[:4] != b"PK\x05\x06" or tail[-2:] != b"\0\0":
        raise Wrong("a zip directory that ends the file", "other bytes there")
    _, disk, first_disk, n_here, n_entries, size, place, _ = _END.unpack(tail)
    if (disk, first_disk, n_here) != (0, 0, n_entries):
        raise Wrong("a zip archive in one piece", "one of several disks")
    if n_entries > max_entries:
        raise Wrong(f"at most {max_entries} entries", f"{n_entries}")
    if place + size != n_bytes - _END.size:
        found = f"{size} bytes at {place} of {n_bytes}"
        raise Wrong("a zip directory in front of the file's end", found)
    file.seek(place)
    return file.read(size), n_entries


def _told(directory: bytes, at: int) -> tuple[Entry, int, int]:
    """The entry at `at` in the directory, its flags, and where the next one is."""
    if len(directory) - at < _CENTRAL.size or directory[at : at + 4] != b"PK\x01\x02":
        raise Wrong("a directory of as many entries as it says", "fewer")
    (
        _, _, version, flags, method, _, _, crc, packed, size, n_name, n_extra, n_comment, disk, _,
        attributes, offset,
    ) = _CENTRAL.unpack_from(directory, at)  # fmt: skip
    name = directory[at + _CENTRAL.size : at + _CENTRAL.size + n_name]
    what = f"entry {quoted(name)[1:]}"
    if len(name) != n_name or not name.isascii() or b"\0" in name:
        raise Wrong("names of entries in ASCII", quoted(name))
    if n_extra or n_comment or disk:
        raise Wrong(f"{what} without extra fields and comments", "some in the directory")
    if flags & 0x41:
        raise Wrong("entries without a password", f"{what} with one")
    if method not in (_STORED, _DEFLATED):
        raise Wrong("entries stored or deflated", f"method {method}")
    if flags & ~_FLAGS or version > _VERSION:
        raise Wrong(f"{what} plain", f"the flags {flags:#x} and version {version}")
    if stat.S_IFMT(attributes >> 16) not in (0, stat.S_IFREG):
        raise Wrong(f"{what} to be a file", f"the mode {attributes >> 16:#o}")
    if _UNSAID in (size, packed, offset):
        raise Wrong("a zip archive of less than 4 GB", f"{what} of more")
    if method == _STORED and size != packed:
        raise Wrong(f"{what}, stored, of one size", f"{size} and {packed}")
    entry = Entry(name.decode("ascii"), size, packed, method, crc, offset)
    return entry, flags, at + _CENTRAL.size + n_name


def _start(file: BinaryIO, entry: Entry, flags: int) -> int:
    """Where its data begin, if what stands before them agrees with the directory."""
    what, n_name = f"entry {quoted(entry.filename)}", len(entry.filename)
    file.seek(entry.start)
    head = file.read(_LOCAL.size + n_name)
    if len(head) < _LOCAL.size + n_name:
        raise Wrong(f"{what} where the directory says", "the end of the file")
    sign, version, *rest, crc, packed, size, n_local, n_extra = _LOCAL.unpack_from(head)
    if n_extra:
        field = file.read(_SIZES_FIELD.size)
        said = _SIZES_FIELD.unpack(field) if len(field) == n_extra == _SIZES_FIELD.size else None
        if said != (1, 16, entry.file_size, entry.compress_size):
            raise Wrong(f"{what} without extra fields", "some")
        # NumPy writes one or both as "see the extra field".
        size = entry.file_size if size == _UNSAID else size
        packed = entry.compress_size if packed == _UNSAID else packed
    found = (sign, *rest[:2], crc, packed, size, n_local, head[_LOCAL.size :])
    told = (
        b"PK\x03\x04", flags, entry.method, entry.crc, entry.compress_size, entry.file_size, n_name,
        entry.filename.encode(),
    )  # fmt: skip
    if found != told or version > _VERSION:
        raise Wrong(f"{what} to be what the directory says", "something else")
    return entry.start + _LOCAL.size + n_name + n_extra
