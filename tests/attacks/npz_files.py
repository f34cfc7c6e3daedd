""".npz: sound files, and such as no reader should believe. Rules: docs/format.md, zip's APPNOTE.

The network of most of them has one layer, 1-2.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from attacks.containers import DEFLATED, Entry, deflated, f4, npy, npz, zip_file
from attacks.kinds import Attack, folder, lazily, pipe, sparse


def strings(*values: str, width: int | None = None) -> bytes:
    """An npy file of strings."""
    n = width or max(map(len, values))
    data = b"".join(value.ljust(n, "\0").encode("utf-32-le") for value in values)
    return npy(data, f"({len(values)},)", f"'<U{n}'")


def text(value: str) -> bytes:
    return npy(value.encode("utf-32-le"), "()", f"'<U{len(value)}'")


ARRAYS = {
    "W0": npy(f4(0, 1)),
    "b0": npy(f4(2, 3), "(2,)"),
    "activations": strings("relu"),
}


def arrays(method: int = 0, **changes: bytes | None) -> bytes:
    """The sound file with changes to its arrays; None: left out."""
    return npz({k: v for k, v in {**ARRAYS, **changes}.items() if v is not None}, method)


def entries(**changes: Any) -> list[Entry]:
    """The sound file's entries; changes are to W0's."""
    return [
        Entry(f"{name}.npy", data, **(changes if name == "W0" else {}))
        for name, data in ARRAYS.items()
    ]


def lying(**changes: Any) -> bytes:
    return zip_file(entries(**changes))


def renamed(name: str) -> bytes:
    found = entries()
    found[0].name = name
    return zip_file(found)


_LARGE = 3 * 2**25  # bytes that a bomb unpacks to
_CALIBRATION = {
    "calibration_input": text("uint8"),
    "calibration_ranges": npy(struct.pack("<2d", 0, 255), "(1, 2)", "'<f8'"),
}


def bomb(n_bytes: int = _LARGE, /, **zeros: tuple[str, str] | None) -> Callable[[Path], None]:
    """The sound file with arrays of `n_bytes` zeros, by shape and dtype; None: a sound one."""

    def build() -> bytes:
        made = {
            name: _CALIBRATION[name] if how is None else npy(bytes(n_bytes), *how)
            for name, how in zeros.items()
        }
        return arrays(DEFLATED, **made)

    return lazily(build)


def many_bombs() -> bytes:
    data = npy(bytes(_LARGE), "(3072, 8192)")
    return zip_file([*entries(), *[Entry("W1.npy", data, DEFLATED)] * 100])


_W0 = ARRAYS["W0"]
_PICKLE = b"\x80\x04\x8c\x02os\x8c\x05abort\x93)R."
_ZIP64 = struct.pack("<HHQQ", 1, 16, len(_W0), len(_W0))

SEEDS: dict[str, bytes] = {
    "one layer": arrays(),
    "two layers, deflated": npz(
        {
            **ARRAYS,
            "W1": npy(struct.pack("<4d", 1, 2, 3, 4), "(2, 2)", "'<f8'", "True"),
            "b1": npy(struct.pack(">2f", 5, 6), "(2,)", "'>f4'"),
            "activations": strings("leaky_relu(alpha=0.1)", "softmax"),
            "classes": strings("no", "yes"),
            "scale": npy(struct.pack("<d", 1 / 255), "()", "'<f8'"),
            "metadata": text('{"a": "b"}'),
            "precision": text("int8"),
            "calibration_input": text("uint8"),
            "calibration_ranges": npy(struct.pack("<4d", 0, 255, -1, 1), "(2, 2)", "'<f8'"),
        },
        DEFLATED,
    ),
    "as numpy.savez writes it": zip_file(
        [
            Entry(
                f"{name}.npy", data, local_size=0xFFFFFFFF,
                local_extra=struct.pack("<HHQQ", 1, 16, len(data), len(data)),
            )
            for name, data in ARRAYS.items()
        ]
    ),
}  # fmt: skip

ATTACKS: dict[str, Attack] = {
    # the container
    "empty": b"",
    "four bytes": b"PK\x03\x04",
    "empty archive": zip_file([]),
    "not a zip": b"not a zip, but long enough to hold the end of a directory",
    "pickle": _PICKLE,
    "bytes before": zip_file(entries(), before=b"#!/bin/sh\n"),
    "bytes between": zip_file(entries(), between=b"hidden"),
    "bytes after": arrays() + b"\0",
    "comment": zip_file(entries(), comment=b"hello"),
    "two archives": arrays() + arrays(),
    "count of 65,535": zip_file(entries(), count=65_535),
    "count of 1": zip_file(entries(), count=1),
    "directory of 4 GB": zip_file(entries(), directory_size=2**32 - 1),
    "directory at 4 GB": zip_file(entries(), directory_offset=2**32 - 2),
    "directory twice": zip_file(entries(), directories=2),
    "of many disks": zip_file(entries(), disk=3),
    "zip64 end that is not there": zip_file(entries(), count=65_535, directory_size=2**32 - 1,
                                           directory_offset=2**32 - 1),
    "5,000 entries": lazily(lambda: npz({f"W{i}": _W0 for i in range(5000)})),
    "60,000 entries of nothing": lazily(lambda: npz({f"{i}": b"" for i in range(60_000)})),
    "all sparse": sparse(b"PK\x03\x04", 2**29),
    "beyond max_bytes, sparse": sparse(b"PK\x03\x04", 2**40),
    # entries
    "entry twice": zip_file([*entries(), Entry("W0.npy", _W0)]),
    "entry twice by another case": zip_file([*entries(), Entry("w0.npy", _W0)]),
    "entries overlap": zip_file([*entries(), Entry("W1.npy", _W0, offset=0)]),
    "entry inside another": lying(offset=1),
    "entry beyond the file": lying(offset=2**31),
    "name of a parent folder": renamed("../W0.npy"),
    "absolute name": renamed("/etc/W0.npy"),
    "name with a NUL": renamed("W0.npy\0.txt"),
    "name in other digits": renamed("W\u0660.npy"),
    "name that ends in a newline": renamed("W0.npy\n"),
    "name of 60,000 characters": renamed("W" * 60_000),
    "name of the folder kind": renamed("W0.npy/"),
    "local name differs": lying(local_name="b9.npy"),
    "local checksum differs": lying(local_crc=0),
    "local size differs": lying(local_size=4),
    "local method differs": lying(local_method=DEFLATED),
    "wrong checksum": lying(crc=0),
    "symbolic link": lying(mode=0o120777),
    "device": lying(mode=0o020666),
    "encrypted": lying(flags=1),
    "strong encryption": lying(flags=0x41),
    "patched data": lying(flags=0x20),
    "data descriptor": lying(flags=8, descriptor=struct.pack("<III", 0, len(_W0), len(_W0))),
    "hidden bytes in an extra field": lying(local_extra=b"\xca\xfe\x40\0" + bytes(64)),
    "hidden bytes in the directory's extra field": lying(extra=b"\xca\xfe\x40\0" + bytes(64)),
    "hidden bytes in a comment": lying(comment=b"x" * 1000),
    "extra field cut off": lying(extra=b"\x01\0\xff\0"),
    "zip64 that says 16 EB": lying(size=0xFFFFFFFF, extra=struct.pack("<HHQ", 1, 8, 2**64 - 1)),
    "zip64 local that differs": lying(local_size=0xFFFFFFFF,
                                      local_extra=struct.pack("<HHQQ", 1, 16, 9, len(_W0))),
    "method lzma": lying(method=14),
    "method bzip2": lying(method=12),
    "method unknown": lying(method=99),
    "deflate that is none": lying(method=DEFLATED, packed=b"\xff" * 40),
    "deflate cut off": lying(method=DEFLATED, packed=deflated(_W0)[:-5]),
    "deflate with bytes behind": lying(method=DEFLATED, packed=deflated(_W0) + b"hidden"),
    "size lies: smaller": lying(method=DEFLATED, size=len(_W0) - 8),
    "size lies: larger": lying(method=DEFLATED, size=len(_W0) + 8),
    "size lies: 4 GB": lying(method=DEFLATED, size=2**32 - 2),
    "nested archive": arrays(W0=arrays()),
    # bombs
    "bomb: 96 MB of zeros as 8 bytes": lazily(
        lambda: lying(method=DEFLATED, packed=deflated(bytes(_LARGE)))
    ),
    "bomb: 96 MB of zeros as a matrix": bomb(W0=("(3072, 8192)", "'<f4'")),
    "bomb: 96 MB of zeros, 100 times": lazily(many_bombs),
    "bomb: 24 million activations": bomb(activations=("(25165824,)", "'<U1'")),
    "bomb: one activation of 96 MB": bomb(activations=("(1,)", "'<U25165824'")),
    "bomb: 24 million classes": bomb(classes=("(25165824,)", "'<U1'")),
    "bomb: 12 million classes": bomb(classes=("(12582912,)", "'<i8'")),
    "bomb: metadata of 96 MB": bomb(metadata=("()", "'<U25165824'")),
    "bomb: 6 million ranges": bomb(
        calibration_ranges=("(6291456, 2)", "'<f8'"), calibration_input=None
    ),
    "bomb: 6 million taps": bomb(
        calibration_taps=("(6291456, 2)", "'<i8'"), calibration_ranges=None, calibration_input=None
    ),
    "bomb: 4 million activations, 16 MB": bomb(2**24, activations=("(4194304,)", "'<U1'")),
    "bomb: 4 million classes, 16 MB": bomb(2**24, classes=("(4194304,)", "'<U1'")),
    "bomb: 2 million classes, 16 MB": bomb(2**24, classes=("(2097152,)", "'<i8'")),
    "bomb: metadata of 16 MB": bomb(2**24, metadata=("()", "'<U4194304'")),
    "bomb: a million ranges, 16 MB": bomb(
        2**24, calibration_ranges=("(1048576, 2)", "'<f8'"), calibration_input=None
    ),
    "bomb: a million taps, 16 MB": bomb(
        2**24,
        calibration_taps=("(1048576, 2)", "'<i8'"),
        calibration_ranges=None,
        calibration_input=None,
    ),
    # headers of arrays
    "array that is none": arrays(W0=b"hello, world, this is no array"),
    "array of objects": arrays(W0=npy(_PICKLE, "(1,)", "'|O'")),
    "array of records": arrays(W0=npy(bytes(16), "(1, 2)", "[('a', '<f4'), ('b', '<f4')]")),
    "array of complex": arrays(W0=npy(bytes(16), "(1, 2)", "'<c8'")),
    "array of bytes": arrays(W0=npy(b"", "(1000000000,)", "'|S0'")),
    "array of void": arrays(W0=npy(b"", "(1000000000,)", "'|V0'")),
    "array of times": arrays(W0=npy(bytes(16), "(1, 2)", "'<M8[s]'")),
    "array of long doubles": arrays(W0=npy(bytes(32), "(1, 2)", "'<f16'")),
    "weights as integers": arrays(W0=npy(bytes(8), descr="'<i4'")),
    "descr that runs": arrays(W0=npy(bytes(8), descr="__import__('os').abort()")),
    "shape that runs": arrays(W0=npy(bytes(8), "(__import__('os').abort(), 2)")),
    "shape of 1,000 brackets": arrays(W0=npy(bytes(8), "(" * 1000 + ")" * 1000)),
    "shape of 4,000 digits": arrays(W0=npy(bytes(8), "(1, " + "9" * 4000 + ")")),
    "shape of 65,000 digits": arrays(W0=npy(bytes(8), "(1, " + "9" * 65_000 + ")")),
    "shape overflows to 0": arrays(W0=npy(b"", "(4294967296, 4294967296)")),
    "shape overflows to 2": arrays(W0=npy(bytes(8), "(9223372036854775809, 2)")),
    "shape of 2^24 by 2^24": arrays(W0=npy(bytes(8), "(16777216, 16777216)")),
    "shape negative": arrays(W0=npy(bytes(8), "(-1, -2)")),
    "shape of floats": arrays(W0=npy(bytes(8), "(1.0, 2)")),
    "shape of booleans": arrays(W0=npy(bytes(8), "(True, 2)")),
    "shape in hexadecimal": arrays(W0=npy(bytes(8), "(0x1, 2)")),
    "shape with 0": arrays(W0=npy(b"", "(0, 2)")),
    "three sizes": arrays(W0=npy(bytes(8), "(1, 1, 2)")),
    "forty sizes": arrays(W0=npy(bytes(4), "(" + "1, " * 40 + ")")),
    "data one byte short": arrays(W0=npy(bytes(7))),
    "data one byte long": arrays(W0=npy(bytes(9))),
    "version 2 of npy": arrays(W0=npy(bytes(8), magic=b"\x93NUMPY\x02\x00")),
    "header of 65,535 bytes": arrays(W0=b"\x93NUMPY\x01\x00\xff\xff" + b" " * 65_535),
    "header longer than the entry": arrays(W0=b"\x93NUMPY\x01\x00\x00\x10{}"),
    "header with a key twice": arrays(W0=npy(bytes(8), "(1, 2), 'shape': (1, 2)")),
    "string of no Unicode": arrays(activations=npy(b"\xff" * 4, "(1,)", "'<U1'")),
    "string of a surrogate": arrays(activations=npy(b"\x00\xd8\0\0", "(1,)", "'<U1'")),
    "string of no length": arrays(activations=npy(b"", "(1,)", "'<U0'")),
    "strings of 4 GB": arrays(activations=npy(b"relu", "(1,)", "'<U999999999'")),
    "booleans of 2": arrays(classes=npy(b"\0\2", "(2,)", "'|b1'")),
    # what they say
    "activations missing": arrays(activations=None),
    "activations as numbers": arrays(activations=npy(bytes(4), "(1,)", "'<i4'")),
    "an activation too many": arrays(activations=strings("relu", "relu")),
    "activation that runs": arrays(activations=strings("__import__('os').system('true')")),
    "activation with 10,000 parameters": arrays(
        activations=strings("elu(" + ",".join(f"a{i}=1" for i in range(10_000)) + ")")
    ),
    "activation of 100,000 brackets": arrays(activations=strings("(" * 100_000)),
    "parameter twice": arrays(activations=strings("elu(alpha=1, alpha=2)")),
    "parameter NaN": arrays(activations=strings("elu(alpha=nan)")),
    "parameter infinite": arrays(activations=strings("elu(alpha=1e999)")),
    "parameter in other digits": arrays(activations=strings("elu(alpha=\u0661)")),
    "NaN weight": arrays(W0=npy(f4(float("nan"), 1))),
    "infinite bias": arrays(b0=npy(f4(0, float("inf")), "(2,)")),
    "weight beyond float32": arrays(W0=npy(struct.pack("<2d", 1, 1e39), descr="'<f8'")),
    "bias of another width": arrays(b0=npy(f4(2), "(1,)")),
    "layer missing": arrays(W0=None),
    "layer without a bias": arrays(b0=None),
    "entry unknown": arrays(payload=_W0),
    "task that runs": arrays(task=text("exec")),
    "metadata nested 100,000 deep": arrays(metadata=text("[" * 100_000)),
    "objects nested 4,000 deep": arrays(metadata=text('{"a":' * 4_000)),
    "metadata with a key twice": arrays(metadata=text('{"a": "1", "a": "2"}')),
    "metadata of numbers": arrays(metadata=text('{"a": 1}')),
    "precision unknown": arrays(precision=text("fp4")),
    "half a calibration": arrays(calibration_input=text("uint8")),
    "calibration of NaN": arrays(
        calibration_input=text("uint8"),
        calibration_ranges=npy(struct.pack("<2d", 0, float("nan")), "(1, 2)", "'<f8'"),
    ),
    "scale of infinity": arrays(scale=npy(struct.pack("<d", float("inf")), "()", "'<f8'")),
    "std negative": arrays(std=npy(struct.pack("<d", -1), "()", "'<f8'")),
    "classes of floats": arrays(classes=npy(bytes(8), "(2,)")),
    "classes too many": arrays(classes=npy(bytes(24), "(3,)", "'<i8'")),
    # what is no file
    "a folder": folder,
    "a named pipe": pipe,
}  # fmt: skip
