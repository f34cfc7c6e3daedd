"""Zip archives from strangers: what `.npz` and `.keras` share.

Invariant: every byte belongs to an entry or to the directory, no name comes twice, nothing is
unpacked before all declared sizes are known to fit, and what an entry unpacks to has its declared
size. Only `Wrong` gets out.

Source: the format, https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT.
"""

from __future__ import annotations

import contextlib
import io
import struct
import zipfile
from collections.abc import Callable, Iterator, Sequence

from fastnn.formats.model_file import Wrong, quoted

__all__ = ["opened", "unpacked"]

Archive = tuple[zipfile.ZipFile, Sequence[zipfile.ZipInfo]]


@contextlib.contextmanager
def opened(
    data: bytes, max_bytes: int, max_entries: int, check_name: Callable[[str], None]
) -> Iterator[Archive]:
    """The archive and its entries, checked. `check_name` raises `Wrong` for a name it refuses.

    What is raised while it is open is a flaw of the file, too.
    """
    # A zip may have anything before, between and after its entries; here it may not.
    if data[:4] != b"PK\x03\x04":
        raise Wrong("a zip archive from the first byte on", quoted(data[:4]))
    if data[-22:-18] != b"PK\x05\x06" or data[-2:] != b"\0\0":
        raise Wrong("a zip directory that ends the file", "other bytes there")
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = archive.infolist()
            if len(entries) > max_entries:
                raise Wrong(f"at most {max_entries} entries", f"{len(entries)}")
            _check(entries, max_bytes, check_name)
            end = 0
            for entry in sorted(entries, key=lambda entry: entry.header_offset):
                if entry.header_offset != end:
                    raise Wrong(f"an entry at byte {end}", f"one at {entry.header_offset}")
                end += 30 + sum(struct.unpack_from("<HH", data, end + 26)) + entry.compress_size
            if end != archive.start_dir:
                raise Wrong(f"the directory at byte {end}", f"it at {archive.start_dir}")
            yield archive, entries
    except Wrong:
        raise
    except Exception as reason:  # zipfile has no one type for a damaged archive, but a dozen
        raise Wrong("an intact zip archive", quoted(f"{type(reason).__name__}: {reason}")) from None


def unpacked(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes:
    """All bytes of an entry, which are as many as it declares."""
    with archive.open(entry) as file:
        content = file.read(entry.file_size)
        more = file.read(1)  # and the checksum is compared
    if len(content) != entry.file_size or more:
        raise Wrong(f"{entry.file_size} bytes of {quoted(entry.filename)}", "another number")
    return content


def _check(
    entries: Sequence[zipfile.ZipInfo], max_bytes: int, check_name: Callable[[str], None]
) -> None:
    names = set()
    for entry in entries:
        if entry.filename in names:
            raise Wrong("each entry once", f"{quoted(entry.filename)} twice")
        names.add(entry.filename)
        check_name(entry.filename)
        if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise Wrong("entries stored or deflated", f"method {entry.compress_type}")
        if entry.flag_bits & 0x1:
            raise Wrong("entries without a password", f"{quoted(entry.filename)} with one")
    total = sum(entry.file_size for entry in entries)
    if total > max_bytes:
        raise Wrong(f"at most {max_bytes} bytes unpacked (max_bytes=)", f"{total}")
