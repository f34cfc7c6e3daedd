"""How a file becomes another: fields are changed where they mean something, and the rest follows.

Invariant: each mutator takes bytes of any kind and gives bytes; what it does depends on those and
on the random numbers alone. A file that it cannot take apart is for libFuzzer's own mutations,
which byte noise is left to in any case.
"""

from __future__ import annotations

import io
import json
import random
import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping
from typing import Any

from attacks.containers import Entry, deflated, gzip, npy, safetensors, zip_file
from attacks.native_files import ABOUT, tensor

import fastnn

Mutator = Callable[[bytes, random.Random], bytes | None]
"""None: not a file that it could take apart."""

NUMBERS = [
    0,
    1,
    -1,
    2,
    3,
    7,
    255,
    256,
    2**24,
    2**24 + 1,
    2**31,
    2**32 - 1,
    2**32,
    2**63,
    2**64,
    10**30,
]
FLOATS = [0.0, -0.0, 0.5, 1.0, -1.5, 1e-45, 1e-300, 3e38, 1e39, float("inf"), float("nan")]
NAMES = [
    *fastnn.activations(),
    "dense",
    "classify",
    "regress",
    "int8",
    "certified",
    "uint8",
    "str",
    "",
]
NAMES += ["float32", "bfloat16", "version", "layers", "\ud800", "\0", "\u0661", "x" * 300]


def any_value(rng: random.Random) -> Any:
    kind = rng.randrange(8)
    if kind == 0:
        return rng.choice(NUMBERS)
    if kind == 1:
        return rng.choice(FLOATS)
    if kind == 2:
        return rng.choice(NAMES)
    if kind == 3:
        return rng.choice([True, False, None])
    if kind == 4:
        return [any_value(rng) for _ in range(rng.randrange(3))]
    if kind == 5:
        return {rng.choice(NAMES): any_value(rng) for _ in range(rng.randrange(3))}
    return rng.randrange(-4, 300)


def nodes(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths to everything in a JSON value."""
    found = [path]
    if isinstance(value, dict):
        for key, each in value.items():
            found += nodes(each, (*path, key))
    elif isinstance(value, list):
        for i, each in enumerate(value[:50]):
            found += nodes(each, (*path, i))
    return found


def at(value: Any, path: tuple[Any, ...]) -> Any:
    for step in path:
        value = value[step]
    return value


def mutated_json(value: Any, rng: random.Random) -> Any:
    """The value with one thing in it changed; it is changed in place as well."""
    *parents, last = rng.choice(nodes(value)[1:] or [("",)])
    if last == "" and not parents:
        return any_value(rng)
    parent = at(value, tuple(parents))
    what = rng.randrange(6)
    if what == 0:
        del parent[last]
    elif what == 1 and isinstance(parent, list):
        parent.insert(last, json.loads(json.dumps(parent[last])))
    elif what == 1:
        parent[rng.choice(NAMES)] = parent[last]
    elif what == 2:
        other = rng.choice(nodes(value))
        parent[last] = json.loads(json.dumps(at(value, other)))
    elif what == 3 and isinstance(parent[last], int | float):
        parent[last] += rng.choice([-1, 1, 4, -4, 0.5])
    else:
        parent[last] = any_value(rng)
    return value


def mutated_floats(data: bytes, rng: random.Random) -> bytes:
    """One float32, or one byte, of many."""
    if len(data) < 4:
        return data + b"\0"
    i = rng.randrange(len(data) // 4) * 4
    if rng.randrange(3):
        with_one = struct.pack(
            "<f", rng.choice([0.0, 1.0, -2.0, 1e-40, 3e38, float("nan"), float("inf")])
        )
        return data[:i] + with_one + data[i + 4 :]
    return data[:i] + bytes([rng.randrange(256)]) + data[i + 1 :]


def resized(data: bytes, rng: random.Random) -> bytes:
    n = rng.choice([1, 4, 8, 17])
    return data[:-n] if rng.randrange(2) else data + bytes(rng.randrange(256) for _ in range(n))


# ---- sound files ---------------------------------------------------------------------------------


def a_network(rng: random.Random) -> tuple[dict[str, Any], list[tuple[int, int]]]:
    """An architecture as the native format has it, and the sizes of its layers."""
    widths = [rng.choice([1, 2, 3, 5, 17]) for _ in range(rng.randrange(2, 5))]
    layers = []
    for i in range(len(widths) - 1):
        is_last = i + 2 == len(widths)
        known = [n for n, a in fastnn.activations().items() if is_last or not a["last_layer_only"]]
        name = rng.choice(known)
        parameters = fastnn.activations()[name]["parameters"]
        given = {
            k: float(j)
            for j, (k, v) in enumerate(parameters.items())
            if v is None or rng.randrange(2)
        }
        layers.append({"kind": "dense", "activation": name, "parameters": given})
    about = {
        **ABOUT,
        "layers": layers,
        "scale": rng.choice([1.0, 1 / 255]),
        "mean": rng.choice([0.0, 0.5]),
    }
    labels = list(range(max(2, widths[-1])))
    about["classes"] = rng.choice(
        [
            None,
            {"dtype": "int16", "values": labels},
            {"dtype": "str", "values": [str(i) for i in labels], "width": 2},
        ]
    )
    if rng.randrange(2):
        about["precision"] = rng.choice(["float32", "int8", "bfloat16", "certified"])
        ranges = [[0, 255], *[[-1.0, 2.0]] * (len(layers) - 1)]
        about["calibration"] = {"input": "uint8", "ranges": ranges}
        if rng.randrange(2):
            about["calibration"]["taps"] = [[1, 2], [28, 1]]
    return about, list(zip(widths, widths[1:], strict=False))


def floats(n: int, rng: random.Random) -> bytes:
    return struct.pack(f"<{n}f", *(rng.uniform(-1, 1) for _ in range(n)))


def sound_native(rng: random.Random) -> bytes:
    about, sizes = a_network(rng)
    tensors, data = {}, b""
    for i, (n_inputs, n_outputs) in enumerate(sizes):
        for name, shape in (("weight", [n_inputs, n_outputs]), ("bias", [n_outputs])):
            n = n_inputs * n_outputs if name == "weight" else n_outputs
            tensors[f"layers.{i}.{name}"] = tensor(shape, len(data), len(data) + 4 * n)
            data += floats(n, rng)
    if rng.randrange(3) == 0:
        n = sizes[0][0]
        del about["std"]
        tensors["std"] = tensor([n], len(data), len(data) + 8 * n, "F64")
        data += struct.pack(f"<{n}d", *[1.5] * n)
    metadata = {"fastnn": json.dumps(about), "note": "text"}
    return safetensors({"__metadata__": metadata, **tensors}, data)


def strings(values: list[str]) -> bytes:
    n = max(map(len, values))
    data = b"".join(v.ljust(n, "\0").encode("utf-32-le") for v in values)
    return npy(data, f"({len(values)},)", f"'<U{n}'")


def text(value: str) -> bytes:
    return npy(value.encode("utf-32-le"), "()", f"'<U{len(value)}'")


def sound_npz(rng: random.Random) -> bytes:
    about, sizes = a_network(rng)
    arrays = {}
    for i, (n_inputs, n_outputs) in enumerate(sizes):
        order = rng.choice(["True", "False"])
        arrays[f"W{i}"] = npy(
            floats(n_inputs * n_outputs, rng), f"({n_inputs}, {n_outputs})", fortran=order
        )
        arrays[f"b{i}"] = npy(floats(n_outputs, rng), f"({n_outputs},)")
    arrays["activations"] = strings(
        [
            layer["activation"]
            + (
                "(" + ", ".join(f"{k}={v}" for k, v in p.items()) + ")"
                if (p := layer["parameters"])
                else ""
            )
            for layer in about["layers"]
        ]
    )
    if about["classes"] is not None:
        arrays["classes"] = strings([str(v) for v in about["classes"]["values"]])
    if "calibration" in about:
        ranges = [x for pair in about["calibration"]["ranges"] for x in pair]
        arrays["calibration_input"] = text("uint8")
        arrays["calibration_ranges"] = npy(
            struct.pack(f"<{len(ranges)}d", *ranges), f"({len(ranges) // 2}, 2)", "'<f8'"
        )
        arrays["precision"] = text(about["precision"])
        if "taps" in about["calibration"]:
            arrays["calibration_taps"] = npy(struct.pack("<4q", 1, 2, 28, 1), "(2, 2)", "'<i8'")
    if rng.randrange(2):
        arrays["scale"] = npy(struct.pack("<d", 1 / 255), "()", "'<f8'")
        arrays["metadata"] = text('{"a": "b"}')
        arrays["task"] = text(rng.choice(["classify", "regress"]))
    return packed(arrays, rng)


def packed(arrays: Mapping[str, bytes], rng: random.Random) -> bytes:
    method = rng.choice([0, 8])
    return zip_file([Entry(f"{name}.npy", data, method) for name, data in arrays.items()])


# ---- mutators ------------------------------------------------------------------------------------


def native(data: bytes, rng: random.Random) -> bytes | None:
    if rng.randrange(20) == 0:
        return sound_native(rng)
    try:
        n = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + n])
        body, metadata = data[8 + n :], header["__metadata__"]
        about = json.loads(metadata["fastnn"])
    except Exception:
        return None
    what = rng.randrange(8)
    if what < 3:
        metadata["fastnn"] = json.dumps(mutated_json(about, rng))
    elif what < 5:
        header = mutated_json(header, rng)
    elif what == 5:
        body = mutated_floats(body, rng)
    elif what == 6:
        body = resized(body, rng)
    else:
        raw = bytearray(json.dumps(header).encode())
        i = rng.randrange(len(raw))
        raw[i : i + rng.randrange(3)] = rng.choice(
            [b"", b",", b"}", b'"', b"[", b"\0", b"9" * 30, b" "]
        )
        return safetensors(bytes(raw), body)
    try:
        return safetensors(header, body)
    except (TypeError, ValueError, RecursionError):
        return None


def numpy_archive(data: bytes, rng: random.Random) -> bytes | None:
    if rng.randrange(20) == 0:
        return sound_npz(rng)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            files = {info.filename: archive.read(info) for info in archive.infolist()[:40]}
        entries = [Entry(name, content, rng.choice([0, 8])) for name, content in files.items()]
        entry = rng.choice(entries)
    except Exception:
        return None
    n = int.from_bytes(entry.data[8:10], "little")
    header, body = entry.data[10 : 10 + n], entry.data[10 + n :]
    what = rng.randrange(10)
    if what < 3:
        entry.data = with_header(entry.data[:8], mutated_header(header, rng), body)
    elif what == 3:
        entry.data = entry.data[: 10 + n] + mutated_floats(body, rng)
    elif what == 4:
        entry.data = resized(entry.data, rng)
    elif what == 5:
        entry.name = rng.choice(
            ["W0.npy", "b1.npy", "classes.npy", "taps.npy", "../W0.npy", "W0.npy/"]
        )
    elif what == 6:
        entries.remove(entry)
    elif what == 7:
        entries.append(Entry(rng.choice(["W1.npy", "mean.npy", "task.npy"]), entry.data, 8))
    elif what == 8:
        wide = ["size", "packed_size", "crc", "local_size", "local_crc", "offset"]
        field = rng.choice([*wide, "flags", "mode", "local_method"])
        setattr(entry, field, rng.choice(NUMBERS) & (2**32 - 1 if field in wide else 2**16 - 1))
    else:
        field = rng.choice(["extra", "local_extra", "comment", "descriptor"])
        sizes = struct.pack("<HHQQ", 1, 16, len(entry.data), len(entry.data))
        setattr(entry, field, rng.choice([b"x", sizes, b"PK\x05\x06"]))
    lies = rng.choice([{}] * 8 + [{"count": 2}, {"comment": b"x"}, {"between": b"x"}, {"disk": 1}])
    try:
        return zip_file(entries, **lies)
    except struct.error:
        return None


def with_header(magic: bytes, header: bytes, body: bytes) -> bytes:
    return magic + struct.pack("<H", len(header) & 0xFFFF) + header + body


def mutated_header(header: bytes, rng: random.Random) -> bytes:
    old, new = rng.choice(
        [
            (
                b"<f4",
                rng.choice([b"<f8", b">f4", b"<i8", b"<U3", b"|b1", b"<f2", b"|O", b"<c8", b"<U0"]),
            ),
            (b"False", b"True"),
            (b"True", b"False"),
            (b", ", rng.choice([b",", b",  ", b", 1, "])),
            (b"(", rng.choice([b"(1, ", b"((", b"(-", b"(0, ", b"(16777217, "])),
            (b"'shape'", b"'descr'"),
            (b"}", b"} "),
            (b" \n", b"\n"),
        ]
    )
    return header.replace(old, new, 1)


def images(data: bytes, rng: random.Random) -> bytes | None:
    is_packed = data[:2] == b"\x1f\x8b"
    if is_packed:
        try:
            data = zlib.decompressobj(wbits=31).decompress(data, 1 << 16)
        except zlib.error:
            return None
    if len(data) < 4:
        return None
    n = data[3] % 5
    sizes = [int.from_bytes(data[4 + 4 * i : 8 + 4 * i], "big") for i in range(n)]
    body, what = data[4 + 4 * n :], rng.randrange(6)
    if what == 0 and sizes:
        sizes[rng.randrange(n)] = rng.choice(NUMBERS[:12]) & 0xFFFFFFFF
    elif what == 1:
        sizes.append(rng.choice([0, 1, 2]))
    elif what == 2:
        body = resized(body, rng)
    elif what == 3 and sizes:
        sizes[0] += 1
        body += bytes(min(max(1, len(body) // max(sizes[0] - 1, 1)), 1 << 16))
    head = (
        data[:3]
        + bytes([len(sizes)])
        + struct.pack(f">{len(sizes)}I", *(s & 0xFFFFFFFF for s in sizes))
    )
    whole = head + body
    if what == 4:
        whole = whole[:2] + bytes([rng.randrange(16)]) + whole[3:]
    if is_packed != (rng.randrange(6) == 0):
        lies = rng.choice([{}] * 6 + [{"crc": 1}, {"size": 1}, {"flags": 8, "extra": b"name\0"}])
        return gzip(whole, **lies) + rng.choice([b""] * 8 + [b"x", deflated(b"")])
    return whole


MUTATORS: dict[str, Mutator] = {
    ".safetensors": native,
    ".npz": numpy_archive,
    ".idx": images,
}
