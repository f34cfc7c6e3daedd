""".safetensors: sound files, and such as no reader should believe. Rules: docs/format.md.

The network of most of them has one layer, 1-2, weights 0 1, biases 2 3.
"""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path
from typing import Any

from attacks.containers import f4, safetensors
from attacks.kinds import Attack, folder, link_to_nowhere, pipe, sparse

DENSE = {"kind": "dense", "activation": "relu", "parameters": {}}
ABOUT: dict[str, Any] = {
    "version": 1, "layers": [DENSE], "task": None, "classes": None,
    "scale": 1.0, "mean": 0.0, "std": 1.0,
}  # fmt: skip
DATA = f4(0, 1, 2, 3)


def tensor(shape: Any, begin: Any, end: Any, dtype: Any = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


TENSORS = {"layers.0.weight": tensor([1, 2], 0, 8), "layers.0.bias": tensor([2], 8, 16)}


def native(
    data: bytes = DATA,
    *,
    tensors: dict[str, Any] | None = None,
    metadata: object = None,
    about: object = None,
    **changes: Any,
) -> bytes:
    """The sound file with changes: to the tensors, to all metadata, to all of the architecture, or
    to some keys of it (`...`: left out)."""
    if about is None:
        about = {k: v for k, v in {**ABOUT, **changes}.items() if v is not ...}
    if metadata is None:
        metadata = {"fastnn": about if isinstance(about, str) else json.dumps(about)}
    return safetensors(
        {"__metadata__": metadata, **(TENSORS if tensors is None else tensors)}, data
    )


def tensors(data: bytes, weight: Any, bias: Any, **more: Any) -> bytes:
    return native(data, tensors={"layers.0.weight": weight, "layers.0.bias": bias, **more})


def layers(**changes: Any) -> bytes:
    return native(layers=[{**DENSE, **changes}])


def deep_network(n: int) -> bytes:
    """n layers of one weight each, in a sound container."""
    found, at = {}, 0
    for i in range(n):
        found[f"layers.{i}.weight"] = tensor([1, 1], at, at + 4)
        found[f"layers.{i}.bias"] = tensor([1], at + 4, at + 8)
        at += 8
    return native(f4(*([1.0] * 2 * n)), tensors=found, layers=[DENSE] * n)


def spaces(n: int) -> bytes:
    return safetensors(b"{" + b" " * n + b"}")


def many(entry: str, n_bytes: int) -> bytes:
    """A header of about so many bytes of different entries; %d is a number."""
    n = n_bytes // (len(entry) + 6)
    return safetensors(b"{" + ",".join(entry % i for i in range(n)).encode() + b"}")


def bit_of_native(at: int, old: bytes, new: bytes) -> bytes:
    data = native()
    assert data.count(old) > at
    return data.replace(old, new, at + 1)


_TWO = native(
    f4(*range(12)),
    tensors={
        "layers.0.weight": tensor([2, 2], 0, 16),
        "layers.0.bias": tensor([2], 16, 24),
        "layers.1.weight": tensor([2, 2], 24, 40),
        "layers.1.bias": tensor([2], 40, 48),
    },
    layers=[DENSE, {**DENSE, "activation": "softmax"}],
    classes={"dtype": "str", "values": ["a", "b"], "width": 1},
    calibration={"input": "uint8", "ranges": [[0, 255], [0, 1.5]], "taps": []},
    precision="int8",
)

SEEDS: dict[str, bytes] = {
    "one layer": native(),
    "two layers in int8": _TWO,
    "units by input": native(
        DATA + struct.pack("<d", 0.5),
        tensors={**TENSORS, "mean": tensor([1], 16, 24, "F64")},
        mean=...,
    ),
}

ATTACKS: dict[str, Attack] = {
    # the length of the header
    "empty": b"",
    "seven bytes": bytes(7),
    "no header": bytes(8),
    "header of 2^64 - 1": safetensors(b"{}", n_header=2**64 - 1),
    "header of 2^63": safetensors(b"{}", n_header=2**63),
    "header one byte too long": safetensors(b"{}", n_header=3),
    "header of 100 MB in a short file": safetensors(b"{}", n_header=100_000_000),
    "header above the cap, all spaces": spaces(2**20),
    "header above the cap, sparse": sparse(safetensors(b"{}", n_header=2**29), 2**29 + 8),
    "data sparse up to 1 GiB": sparse(native(), 2**30),
    "beyond max_bytes, sparse": sparse(native(), 2**40),
    # its text
    "header that is a list": safetensors(b"[]"),
    "space in front of the header": safetensors(b" {}"),
    "header in UTF-16": safetensors('{"a":1}'.encode("utf-16")),
    "header not UTF-8": safetensors(b'{"\xff": 1}'),
    "header with a NUL behind": safetensors(b"{}\0"),
    "pickle": safetensors(b"\x80\x04cos\nsystem\n(S'true'\ntR."),
    "lists nested 100,000 deep": safetensors(b'{"a":' + b"[" * 100_000),
    "objects nested 100,000 deep": safetensors(b'{"a":' * 100_000),
    "objects nested 4,000 deep": safetensors(b'{"a":' * 4_000),
    "lists nested deep, closed": safetensors(b'{"a":' + b"[" * 900 + b"]" * 900 + b"}"),
    "131,000 empty objects": safetensors(b'{"a":[' + b"{}," * 340_000 + b"{}]}"),
    "brackets and 500,000 escapes in a name": safetensors(
        b'{"' + b"[" * 9_000 + b"\\n" * 500_000 + b'":{}}'
    ),
    "commas and 450,000 empty strings": safetensors(
        b'{"a":[' + b"," * 33_000 + b'""' * 450_000 + b"]}"
    ),
    "lists and 170,000 short strings": safetensors(b'{"a":' + b"[" * 70 + b'"ab"cd' * 170_000),
    "30,000 metadata": safetensors(
        b'{"__metadata__":{%s"x":""}}' % b"".join(b'"%x":"",' % i for i in range(30_000))
    ),
    "metadata of 32,000 floats": safetensors(b'{"__metadata__":[' + b"1.5," * 32_000 + b"1]}"),
    "65,000 classes and 4,000 metadata": native(
        metadata={
            "fastnn": '{"version":1,"classes":[' + "1," * 65_000 + "1]}",
            **{str(i): "" for i in range(4_000)},
        }
    ),
    "100,000 keys": many('"%d":{}', 2**20 - 2000),
    "one key 100,000 times": safetensors(b"{" + b'"a":{},' * 100_000 + b'"a":{}}'),
    "50,000 tensors of no dtype": many('"%d":{"dtype":0}', 2**20 - 2000),
    "a number of 100,000 digits": safetensors(b'{"a":' + b"9" * 100_000 + b"}"),
    "a float beyond float64": bit_of_native(0, b"[0, 8]", b"[0, 1e999]"),
    "NaN in the header": bit_of_native(0, b"[0, 8]", b"[NaN, 8]"),
    "header of surrogates": native(metadata={"\ud800": "\udfff"}),
    # names
    "tensor twice": bit_of_native(0, b"layers.0.bias", b"layers.0.weight"),
    "metadata twice": safetensors(b'{"__metadata__":{},"__metadata__":{}}'),
    "metadata key twice": safetensors(b'{"__metadata__":{"fastnn":"1","fastnn":"2"}}'),
    "key of a tensor twice": bit_of_native(
        0, b'"dtype": "F32",', b'"dtype": "F32", "dtype": "F32",'
    ),
    "metadata of numbers": native(metadata={"fastnn": 1}),
    "metadata that is a list": native(metadata=["fastnn"]),
    "no metadata": safetensors(TENSORS, DATA),
    "tensor named like a path": tensors(
        DATA,
        TENSORS["layers.0.weight"],
        TENSORS["layers.0.bias"],
        **{"../../etc/passwd": tensor([1], 16, 20)},
    ),
    "tensor that no layer names": native(
        DATA + f4(1), tensors={**TENSORS, "extra": tensor([1], 16, 20)}
    ),
    "tensor missing": native(DATA[:8], tensors={"layers.0.weight": TENSORS["layers.0.weight"]}),
    "key of a tensor unknown": tensors(
        DATA, {**tensor([1, 2], 0, 8), "url": "http://x"}, TENSORS["layers.0.bias"]
    ),
    "external file named in a tensor": tensors(
        DATA, {**tensor([1, 2], 0, 8), "location": "/etc/passwd"}, TENSORS["layers.0.bias"]
    ),
    # shapes and offsets
    "trailing byte": native(DATA + b"\0"),
    "last byte missing": native(DATA[:-1]),
    "polyglot with a zip behind": native(DATA + b"PK\x05\x06" + bytes(18)),
    "hole between tensors": tensors(bytes(20), tensor([1, 2], 0, 8), tensor([2], 12, 20)),
    "hole at the start": tensors(bytes(20), tensor([1, 2], 4, 12), tensor([2], 12, 20)),
    "overlap": tensors(bytes(12), tensor([1, 2], 0, 8), tensor([2], 4, 12)),
    "same bytes twice": tensors(bytes(8), tensor([1, 2], 0, 8), tensor([2], 0, 8)),
    "end before begin": tensors(DATA, tensor([1, 2], 8, 0), tensor([2], 8, 16)),
    "negative offset": tensors(bytes(8), tensor([1, 2], -8, 0), tensor([2], 0, 8)),
    "offset of 2^64": tensors(DATA, tensor([1, 2], 2**64, 2**64 + 8), tensor([2], 8, 16)),
    "offsets as floats": tensors(DATA, tensor([1, 2], 0.0, 8.0), tensor([2], 8, 16)),
    "offsets as booleans": tensors(DATA, tensor([1, 2], False, 8), tensor([2], 8, 16)),
    "product overflows 64 bits to 0": tensors(
        bytes(8), tensor([2**32, 2**32], 0, 0), tensor([2], 0, 8)
    ),
    "product overflows 64 bits to 2": tensors(
        DATA, tensor([2**63 + 1, 2], 0, 8), tensor([2], 8, 16)
    ),
    "exabyte declared": tensors(DATA, tensor([2**40, 2**40], 0, 8), tensor([2], 8, 16)),
    "16 TB declared, sizes allowed": tensors(
        bytes(8), tensor([2**21, 2**21], 0, 2**44), tensor([2], 2**44, 2**44 + 8)
    ),
    "negative size": tensors(DATA, tensor([-1, -2], 0, 8), tensor([2], 8, 16)),
    "size 0 and 2^62": tensors(bytes(8), tensor([0, 2**62], 0, 0), tensor([2], 0, 8)),
    "size of 10^400": tensors(DATA, tensor([10**400, 2], 0, 8), tensor([2], 8, 16)),
    "sizes as strings": tensors(DATA, tensor(["1", "2"], 0, 8), tensor([2], 8, 16)),
    "a hundred sizes": tensors(bytes(12), tensor([1] * 100, 0, 4), tensor([2], 4, 12)),
    "no sizes": tensors(bytes(12), tensor([], 0, 4), tensor([2], 4, 12)),
    "dtype of objects": tensors(DATA, tensor([1, 2], 0, 8, "O"), tensor([2], 8, 16)),
    "dtype as a list": tensors(DATA, tensor([1, 2], 0, 8, ["F32"]), tensor([2], 8, 16)),
    "weights as integers": tensors(DATA, tensor([1, 2], 0, 8, "I32"), tensor([2], 8, 16)),
    "bias of another width": tensors(f4(1, 1, 1), tensor([1, 2], 0, 8), tensor([1], 8, 12)),
    # values
    "NaN weight": native(f4(float("nan"), 1, 2, 3)),
    "infinite bias": native(f4(0, 1, 2, float("-inf"))),
    "signalling NaN": native(struct.pack("<I", 0x7F800001) + DATA[4:]),
    # the architecture
    "architecture not JSON": native(about="__import__('os').system('true')"),
    "architecture nested 200,000 deep": native(about="[" * 200_000),
    "architecture with a key twice": native(about='{"version": 1, "version": 1}'),
    "version 2": native(version=2),
    "version true": native(version=True),
    "key of the architecture unknown": native(module="os"),
    "no layers": native(layers=[], tensors={}, data=b""),
    "257 layers": deep_network(257),
    "65,500 layers that are none": native(
        about=json.dumps(ABOUT).replace('"layers": [', '"layers": [' + "1," * 65_500)
    ),
    "60,000 layers that are none, and 4,000 metadata": native(
        metadata={
            "fastnn": json.dumps(ABOUT).replace('"layers": [', '"layers": [' + "1," * 60_000),
            **{"\U0001f600" * 10 + str(i): "" for i in range(4_000)},
        }
    ),
    "layers that are a number": native(layers=10**9),
    "a lambda layer": layers(kind="lambda", code="x"),
    "activation by module and name": layers(activation="os.system"),
    "activation of surrogates": layers(activation="\ud800"),
    "activation with a terminal's escape": layers(activation="\x1b[2J"),
    "60,000 parameters": layers(parameters={f"{i:x}": 1 for i in range(60_000)}),
    "30,000 parameters of no ASCII": layers(
        parameters={f"\u1234\u1234{i:x}": 1 for i in range(30_000)}
    ),
    "parameter that is no parameter": layers(parameters={"__class__": 1}),
    "parameter named like an argument": layers(parameters={"weight": 1}),
    "parameter infinite": native(
        about=json.dumps(ABOUT).replace(
            '"relu", "parameters": {}', '"elu", "parameters": {"alpha": 1e999}'
        )
    ),
    "scale beyond float64": native(
        about=json.dumps(ABOUT).replace('"scale": 1.0', '"scale": 1e999')
    ),
    "scale of zero": native(scale=0.0),
    "std of zero": native(std=0),
    "scale that overflows the weights": native(f4(3e38, 1, 2, 3), scale=3e38),
    "unit of another length": native(
        DATA + bytes(16), tensors={**TENSORS, "mean": tensor([2], 16, 32, "F64")}, mean=...
    ),
    "layers that do not fit": native(
        f4(*([0.0] * 7)),
        tensors={
            **TENSORS,
            "layers.1.weight": tensor([1, 2], 16, 24),
            "layers.1.bias": tensor([1], 24, 28),
        },
        layers=[DENSE, DENSE],
    ),
    "softmax in the middle": native(
        f4(*range(10)),
        tensors={
            **TENSORS,
            "layers.1.weight": tensor([2, 2], 16, 32),
            "layers.1.bias": tensor([2], 32, 40),
        },
        layers=[{**DENSE, "activation": "softmax"}, DENSE],
    ),
    "classes of objects": native(classes={"dtype": "object", "values": [1, 2]}),
    "classes beyond their dtype": native(classes={"dtype": "int8", "values": [1, 128]}),
    "more classes than outputs": native(classes={"dtype": "int64", "values": list(range(60_000))}),
    "class with a null character behind": native(
        classes={"dtype": "str", "values": ["a\0", "b"], "width": 2}
    ),
    "classes of one label": native(classes={"dtype": "int64", "values": [1, 1]}),
    "class of a million characters": native(
        classes={"dtype": "str", "values": ["a", "b"], "width": 10**6}
    ),
    "many classes of great width": native(
        classes={"dtype": "str", "values": [""] * 100_000, "width": 1000}
    ),
    "calibration of another length": native(
        calibration={"input": "uint8", "ranges": [[0, 255]] * 3}
    ),
    "calibration of 8,000 ranges": native(
        calibration={"input": "float32", "ranges": [[-1, 1]] * 8_000}
    ),
    "calibration of no range": native(
        precision="int8", calibration={"input": "uint8", "ranges": []}
    ),
    "calibration upside down": native(
        precision="int8", calibration={"input": "float32", "ranges": [[1, -1]]}
    ),
    "int8 without a calibration": native(precision="int8"),
    "precision unknown": native(precision="fp4"),
    "task unknown": native(task="eval"),
    # what is no file
    "a folder": folder,
    "a named pipe": pipe,
    "a link to a device": lambda path: os.symlink("/dev/zero", path),
    "a link to a file of the system": lambda path: os.symlink("/proc/self/environ", path),
    "a link to itself": lambda path: os.symlink(path.name, path),
    "a link to nowhere": link_to_nowhere,
}


def _links_elsewhere(path: Path) -> None:
    """The test is of what is behind a link: it is the caller's to follow."""
    target = path.with_name("elsewhere.txt")
    target.write_bytes(b"secret")
    os.symlink(target, path)


ATTACKS["a link to text"] = _links_elsewhere
