"""Just enough of protobuf's encoding to write ONNX files, lies included (https://protobuf.dev).

Invariant: nothing is checked; a message is the concatenation of its fields, in the order given.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5


def varint(n: int) -> bytes:
    """Negative ones as protobuf has them: 64 bits of two's complement."""
    n &= 2**64 - 1
    out = bytearray()
    while n > 0x7F:
        out.append(n & 0x7F | 0x80)
        n >>= 7
    return bytes([*out, n])


def key(number: int, kind: int) -> bytes:
    return varint(number << 3 | kind)


def integer(number: int, n: int) -> bytes:
    return key(number, VARINT) + varint(n)


def floating(number: int, x: float) -> bytes:
    return key(number, FIXED32) + struct.pack("<f", x)


def message(number: int, content: bytes | str, length: int | None = None) -> bytes:
    """Also a string or bytes; `length`: the one that is declared."""
    data = content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content
    return key(number, BYTES) + varint(len(data) if length is None else length) + data


def packed(number: int, numbers: Sequence[int]) -> bytes:
    return message(number, b"".join(map(varint, numbers)))
