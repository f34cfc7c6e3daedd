"""IDX, plain and gzip: sound files, and such as no reader should believe."""

from __future__ import annotations

import struct

from attacks.containers import deflated, gzip, idx
from attacks.kinds import Attack, folder, lazily, sparse

_SOUND = idx(bytes(range(24)), (2, 3, 4))


def cut(data: bytes, n: int) -> bytes:
    return data[:-n]


SEEDS: dict[str, bytes] = {
    "plain": _SOUND,
    "labels": idx(bytes(range(10)), (10,)),
    "gzip": gzip(_SOUND),
    "no rows": idx(b"", (0, 28, 28)),
}

ATTACKS: dict[str, Attack] = {
    "empty": b"",
    "three bytes": b"\0\0\x08",
    "not IDX": b"\x89PNG\r\n\x1a\n" + bytes(40),
    "pickle": b"\x80\x04\x8c\x02os\x8c\x05abort\x93)R.",
    "one zero byte": idx(bytes(24), (2, 3, 4), zeros=b"\0\1"),
    "int8": idx(bytes(24), (2, 3, 4), code=9),
    "float32": idx(bytes(96), (2, 3, 4), code=13),
    "type unknown": idx(bytes(24), (2, 3, 4), code=255),
    "no sizes": idx(b"\0"),
    "255 sizes": idx(bytes(1), [1] * 255),
    "sizes cut off": idx(b"", (2, 3, 4))[:-2],
    "one byte short": cut(_SOUND, 1),
    "one byte long": _SOUND + b"\0",
    "a size too large": idx(bytes(24), (3, 3, 4)),
    "a size too small": idx(bytes(24), (1, 3, 4)),
    "4 GB declared": idx(bytes(24), (2**32 - 1,)),
    "2^64 declared": idx(bytes(24), (2**32 - 1, 2**32 - 1)),
    "product overflows 64 bits to 0": idx(b"", (2**31, 2**31, 4)),
    "product overflows 64 bits to 24": idx(bytes(24), (24, 2**31 + 1, 2**31, 2)),
    "product overflows beside a zero": idx(b"", (0, 2**32 - 1, 2**32 - 1, 2**32 - 1)),
    "2^96 declared beside a zero": idx(b"", (0, *[2**32 - 1] * 31)),
    "beyond max_bytes, sparse": sparse(idx(b"", (2**32 - 1, 2)), 12 + 2 * (2**32 - 1)),
    "1 TB sparse": sparse(idx(b"", (10,)), 2**40),
    "four billion rows of nothing": idx(b"", (2**32 - 1, 0)),
    "4 billion rows of 28 x 0": idx(b"", (2**32 - 1, 28, 0)),
    # gzip
    "gzip cut off in its header": gzip(_SOUND)[:7],
    "gzip cut off in its data": cut(gzip(_SOUND), 20),
    "gzip without its checksum": cut(gzip(_SOUND), 8),
    "gzip with a wrong checksum": gzip(_SOUND, crc=0),
    "gzip with a wrong size": gzip(_SOUND, size=0),
    "gzip of nothing": gzip(b""),
    "gzip of garbage": b"\x1f\x8b\x08\0" + bytes(6) + b"\xff" * 40,
    "gzip of another method": b"\x1f\x8b\x07\0" + bytes(6) + deflated(_SOUND) + bytes(8),
    "gzip with reserved flags": gzip(_SOUND, flags=0xE0),
    "gzip with a name without end": gzip(_SOUND, flags=8, extra=b"x" * 70_000),
    "gzip with bytes behind": gzip(_SOUND) + b"\0",
    "gzip of two members": gzip(_SOUND) + gzip(b""),
    "gzip in gzip": gzip(gzip(_SOUND)),
    "gzip one byte short": gzip(cut(_SOUND, 1)),
    "gzip one byte long": gzip(_SOUND + b"\0"),
    "gzip that declares 4 GB": gzip(idx(bytes(1000), (2**32 - 1,))),
    "gzip that declares 2^64": gzip(idx(bytes(1000), (2**32 - 1, 2**32 - 1))),
    "bomb: 128 MB behind 24 bytes": lazily(lambda: gzip(_SOUND + bytes(2**27))),
    "bomb: 128 MB of 129 declared": lazily(lambda: gzip(idx(bytes(2**27), (129, 1024, 1024)))),
    "bomb: 128 MB as declared, checksum wrong": lazily(
        lambda: gzip(idx(bytes(2**27), (128, 1024, 1024)), crc=1)
    ),
    "bomb: 50,000 members": gzip(b"") * 50_000,
    "bomb: 400,000 empty blocks": b"\x1f\x8b\x08\0" + bytes(6) + b"\0\0\0\xff\xff" * 400_000,
    "bomb: extra field of 64 KB": struct.pack("<HBBIBBH", 0x8B1F, 8, 4, 0, 2, 255, 65_535),
    "a folder": folder,
}  # fmt: skip
