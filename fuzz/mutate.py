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
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from attacks.containers import Entry, deflated, gzip, npy, safetensors, zip_file
from attacks.native_files import ABOUT, tensor
from attacks.protobuf import integer, message
from attacks.table import FORMATS
from onnx import ModelProto, NodeProto
from onnx_graphs import Graph

import fastnn
from fastnn import formats
from fastnn.formats import named
from fastnn.formats.onnx import _OPERATORS
from fuzz.targets import OUTER, stand_in

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
OPERATORS = sorted(_OPERATORS)
LAYERS = ["Dense", "Activation", "ReLU", "LeakyReLU", "ELU", "Softmax", "BatchNormalization"]
LAYERS += ["Rescaling", "Normalization", "Dropout", "Flatten"]
NAMES += [
    *LAYERS,
    "InputLayer",
    "Sequential",
    "Functional",
    "Lambda",
    "linear",
    "celu",
    "hard_tanh",
]
NAMES += ["0.weight", "fc1.bias", "kernel:0", "bn.running_mean", "bn.running_var", "arr_0", *OUTER]
NAMES += ["F16", "BF16", "F64", "I64"]


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


def sound_by_name(rng: random.Random) -> bytes:
    """As other programs name arrays, with activations and layout in the metadata (targets.py)."""
    widths = [rng.choice([1, 2, 3, 5]) for _ in range(rng.randrange(2, 5))]
    style = rng.choice(["{i}.{role}", "fc{i}.{role}", "W{i}", "coefs_{i}", "dense_{i}/{role}:0"])
    kernel, bias = rng.choice([("weight", "bias"), ("kernel", "bias")])
    layout = rng.choice(["", *named.LAYOUTS])
    arrays: dict[str, list[int]] = {}
    n_layers = len(widths) - 1
    for i, (n_inputs, n_outputs) in enumerate(zip(widths, widths[1:], strict=False)):
        shape = [n_inputs, n_outputs] if layout == "inputs_outputs" else [n_outputs, n_inputs]
        arrays[style.format(i=i, role=kernel)] = shape
        other = {"W{i}": f"b{i}", "coefs_{i}": f"intercepts_{i}"}.get(style)
        if rng.randrange(4):
            arrays[other or style.format(i=i, role=bias)] = [n_outputs]
    if rng.randrange(3) == 0:
        n_layers += 1
        parts = ("weight", "bias", "running_mean", "running_var")
        arrays |= {f"{len(widths)}.{part}": widths[-1:] for part in parts}
    known = [
        name
        for name, about in fastnn.activations().items()
        if not about["last_layer_only"] and None not in about["parameters"].values()
    ]
    names = [rng.choice([*known, "leaky_relu(alpha=0.1)"]) for _ in range(n_layers)]
    metadata = {"activations": json.dumps(names), "layout": layout}
    return container(arrays, rng, metadata)


def container(
    arrays: Mapping[str, list[int]], rng: random.Random, metadata: Mapping[str, str] | None = None
) -> bytes:
    """Positive float32 of these shapes, so that they may be variances, in a safetensors file."""
    header: dict[str, Any] = {} if metadata is None else {"__metadata__": metadata}
    data = b""
    for name, shape in arrays.items():
        n = shape[0] * shape[-1] if len(shape) == 2 else shape[0]
        header[name] = tensor(shape, len(data), len(data) + 4 * n)
        data += struct.pack(f"<{n}f", *(rng.uniform(0.1, 1) for _ in range(n)))
    return safetensors(header, data)


_STORED = {"Dense": "dense", "BatchNormalization": "batch_normalization"}
_STORED |= {"Normalization": "normalization", "Sequential": "sequential"}


def a_keras_model(
    rng: random.Random, n: int, name: str = "m", stored: str = "", outer: str = ""
) -> tuple[dict[str, Any], dict[tuple[str, str], list[int]], int]:
    """A configuration, shapes by their paths in .keras and .h5, and how many values come out."""
    shape = {"name": f"{name}_in", "batch_shape": [None, n]}
    layers: list[dict[str, Any]] = [{"class_name": "InputLayer", "config": shape}]
    arrays: dict[tuple[str, str], list[int]] = {}
    used: Counter[str] = Counter()
    kinds = ["Dense", rng.choice([*LAYERS, "Sequential"]), rng.choice(LAYERS), "Dense"]
    for i, kind in enumerate(kinds[: rng.randrange(1, 5)]):
        own = f"{name}{i}"
        place = f"{stored}layers/{_STORED.get(kind)}{f'_{used[kind]}' if used[kind] else ''}"
        used[kind] += 1
        if kind == "Sequential":
            inner, more, n = a_keras_model(rng, n, own, f"{place}/", outer or own)
            layers.append(inner)
            arrays |= more
            continue
        about, parts, n = a_keras_layer(rng, kind, n)
        layers.append({"class_name": kind, "config": {"name": own, **about}, "module": "keras"})
        for j, (part, sizes) in enumerate(parts.items()):
            arrays[f"{place}/vars/{j}", f"{OUTER[0]}/{outer or own}/{own}/{part}"] = sizes
    config: dict[str, Any] = {"name": name, "layers": layers}
    if rng.randrange(2):
        return {"class_name": "Sequential", "config": config}, arrays, n
    names = [each["config"]["name"] for each in layers]
    is_old = rng.randrange(2)
    for before, each in zip(["", *names], layers, strict=False):
        history = [before, 0, 0]
        node: Any = {"args": [{"config": {"keras_history": history}}], "kwargs": {}}
        each["inbound_nodes"] = [[[*history, {}]] if is_old else node] if before else []
    config |= {"input_layers": [[names[0], 0, 0]], "output_layers": [names[-1], 0, 0]}
    return {"class_name": "Sequential" if stored else "Functional", "config": config}, arrays, n


def a_keras_layer(
    rng: random.Random, kind: str, n: int
) -> tuple[dict[str, Any], dict[str, list[int]], int]:
    """Its settings, the shapes of its variables, and how many values it gives for n."""
    flag, activation = rng.randrange(2) == 1, rng.choice(["relu", "gelu", "tanh", "linear", None])
    if kind == "Dense":
        units = rng.choice([1, 2, 3, 5])
        parts = {"kernel": [n, units]} | ({"bias": [units]} if flag else {})
        return {"units": units, "use_bias": flag, "activation": activation}, parts, units
    if kind == "BatchNormalization":
        names = ["gamma", "beta", "moving_mean", "moving_variance"][0 if flag else 2 :]
        about = {"axis": -1, "epsilon": 0.001, "scale": flag, "center": flag}
        return about, {each: [n] for each in names}, n
    if kind == "Normalization":
        about = {"axis": -1} if flag else {"axis": None, "mean": 0.5, "variance": [2.0] * n}
        return about, {"mean": [n], "variance": [n]} if flag else {}, n
    abouts: dict[str, dict[str, Any]] = {
        "Activation": {"activation": activation},
        "ReLU": rng.choice([{}, {"max_value": 6}, {"max_value": 1.5}, {"negative_slope": 0.1}]),
        "LeakyReLU": {"negative_slope": 0.3},
        "ELU": {"alpha": 1.0},
        "Softmax": {"axis": -1},
        "Rescaling": {"scale": 1 / 255, "offset": rng.choice([0.0, [0.5] * n])},
    }
    return abouts.get(kind, {}), {}, n


def sound_keras(rng: random.Random) -> bytes:
    config, arrays, _ = a_keras_model(rng, rng.choice([1, 2, 4]))
    answer = container({path: shape for (path, _), shape in arrays.items()}, rng)
    return zip_file(
        [
            Entry("metadata.json", b'{"keras_version": "3.5.0"}', 0),
            Entry("config.json", json.dumps(config).encode(), 8),
            Entry("model.weights.h5", stand_in(answer), rng.choice([0, 8])),
        ]
    )


def sound_h5(rng: random.Random) -> bytes:
    config, arrays, _ = a_keras_model(rng, rng.choice([1, 2, 4]))
    about = {"model_config": json.dumps(config), "keras_version": rng.choice(["2.15.0", "3.5.0"])}
    return stand_in(container({path: shape for (_, path), shape in arrays.items()}, rng, about))


# ---- mutators ------------------------------------------------------------------------------------


def native(data: bytes, rng: random.Random) -> bytes | None:
    return sound_native(rng) if rng.randrange(20) == 0 else mutated_container(data, "fastnn", rng)


def by_name(data: bytes, rng: random.Random) -> bytes | None:
    if rng.randrange(20) == 0:
        return sound_by_name(rng)
    # Seldom the activations, which are the caller's.
    return mutated_container(data, rng.choice(["activations", *[""] * 7]), rng)


def mutated_container(data: bytes, key: str, rng: random.Random) -> bytes | None:
    """A safetensors container, whose metadata may have JSON under `key`."""
    try:
        n = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + n])
        body, metadata = data[8 + n :], header.get("__metadata__", {})
        about = json.loads(metadata[key]) if key in metadata else None
    except Exception:
        return None
    what = rng.randrange(8) if about is not None else rng.randrange(3, 8)
    if what < 3:
        metadata[key] = json.dumps(mutated_json(about, rng))
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
    entries = unzipped(data, rng)
    if not entries:
        return None
    entry = rng.choice(entries)
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
    else:
        lie(entry, rng)
    return zipped(entries, rng)


def unzipped(data: bytes, rng: random.Random) -> list[Entry] | None:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            files = {info.filename: archive.read(info) for info in archive.infolist()[:40]}
    except Exception:
        return None
    return [Entry(name, content, rng.choice([0, 8])) for name, content in files.items()]


def lie(entry: Entry, rng: random.Random) -> None:
    """One field of an entry that says something else."""
    if rng.randrange(2):
        wide = ["size", "packed_size", "crc", "local_size", "local_crc", "offset"]
        field = rng.choice([*wide, "flags", "mode", "local_method"])
        setattr(entry, field, rng.choice(NUMBERS) & (2**32 - 1 if field in wide else 2**16 - 1))
    else:
        field = rng.choice(["extra", "local_extra", "comment", "descriptor"])
        sizes = struct.pack("<HHQQ", 1, 16, len(entry.data), len(entry.data))
        setattr(entry, field, rng.choice([b"x", sizes, b"PK\x05\x06"]))


def zipped(entries: list[Entry], rng: random.Random) -> bytes | None:
    lies = rng.choice([{}] * 20 + [{"count": 2}, {"comment": b"x"}, {"between": b"x"}, {"disk": 1}])
    try:
        return zip_file(entries, **lies)
    except struct.error:
        return None


def keras_archive(data: bytes, rng: random.Random) -> bytes | None:
    if rng.randrange(20) == 0:
        return sound_keras(rng)
    entries = unzipped(data, rng)
    if not entries:
        return None
    entry, what = rng.choice(entries), rng.randrange(10)
    texts = [each for each in entries if each.name == "config.json"] or entries
    if what < 5:
        try:
            texts[0].data = json.dumps(mutated_json(json.loads(texts[0].data), rng)).encode()
        except (ValueError, RecursionError):
            return None
    elif what < 8:
        entry = entries[-1]
        entry.data = keras_h5(entry.data, rng) or resized(entry.data, rng)
    elif what == 8:
        entry.name = rng.choice(["config.json", "metadata.json", "model.weights.h5", "assets/a"])
    else:
        lie(entry, rng)
    return zipped(entries, rng)


def keras_h5(data: bytes, rng: random.Random) -> bytes | None:
    """The stand-in for an HDF5 file: what is within the answer, or a refusal."""
    if rng.randrange(20) == 0:
        return sound_h5(rng)
    words = rng.choice(NAMES)
    refusal = rng.choice([{"expected": words, "found": "x"}, {"library": words}])
    answer: bytes | None = json.dumps(refusal).encode()
    if rng.randrange(50):
        answer = mutated_container(data[64:], "model_config", rng)
    return None if answer is None else stand_in(answer)


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


# ---- ONNX ----------------------------------------------------------------------------------------

_OLD = [
    "Relu",
    "Sigmoid",
    "Tanh",
    "LeakyRelu",
    "Elu",
    "Selu",
    "HardSigmoid",
    "Softplus",
    "Softsign",
]
_ONE = [*_OLD, "HardSwish", "Celu", "Exp", "Gelu", "Swish"]


def a_graph(rng: random.Random) -> bytes:
    """Dense layers, each with its product, activation and whereabouts written one way of many."""
    n = rng.choice([1, 2, 3, 5])
    g = Graph((rng.choice(["N", 2]), n), opset=rng.choice([7, 14, 17, 20, 24]))
    x = "x"
    is_int8 = g.opset >= 13 and rng.randrange(5) == 0
    if rng.randrange(3) == 0:
        x = g.node(rng.choice(["Sub", "Div", "Mul", "Add"]), x, rng.choice([[0.5] * n, 2.0]))
    for _ in range(rng.randrange(1, 4)):
        m = rng.choice([1, 2, 3, 5])
        x, n = a_product(g, x, n, m, is_int8, rng), m
        if rng.randrange(4) == 0:
            x = g.node("BatchNormalization", x, [0.5] * n, [1.0] * n, [0.2] * n, [2.0] * n)
        x = an_activation(g, x, rng)
        what = rng.randrange(8)
        if what == 0:
            x = g.node("Reshape", x, g.tensor([rng.choice([-1, 0]), n], np.int64))
        elif what == 1:
            x = g.node(rng.choice(["Identity", "Dropout", "Flatten"]), x)
        elif what == 2:
            x = g.node("Cast", x, to=rng.choice([1, 10, 11]))
        elif what == 3 and g.opset >= 13:
            axes = g.constant([1], np.int64)
            x = g.node("Squeeze", g.node("Unsqueeze", x, axes), axes)
    outputs, what = [x], rng.randrange(8)
    if what == 0 and n > 1:
        x = g.node("Softmax", x, axis=-1)
        outputs = [x, g.node("ArgMax", x, axis=1, keepdims=0)]
    elif what == 1 and n > 1:
        outputs = [g.ml_node("ZipMap", x, classlabels_int64s=list(range(n)))]
    elif what == 2 and n > 1:
        outputs = [
            x,
            g.ml_node("ArrayFeatureExtractor", list(range(n)), g.node("ArgMax", x, axis=1)),
        ]
    elif what == 3 and not is_int8:
        y = g.ml_node("Scaler", x, offset=[0.0] * n, scale=[0.5] * n)
        about = {"coefficients": [0.5, -0.5] * n, "intercepts": [0.1, 0.2]}
        kind = {"classlabels_ints": [0, 1], "post_transform": "LOGISTIC"}
        if rng.randrange(2):
            outputs = list(g.ml_node("LinearClassifier", y, outputs=2, **about, **kind))
        else:
            outputs = [g.ml_node("LinearRegressor", y, targets=2, **about)]
    return bytes(g.model(*outputs, metadata={"a": "b"}).SerializeToString(deterministic=True))


def a_product(g: Graph, x: str, n: int, m: int, is_int8: bool, rng: random.Random) -> str:
    weight = [[rng.uniform(-1, 1) for _ in range(m)] for _ in range(n)]
    bias = [rng.uniform(-1, 1) for _ in range(m)]
    what = 3 if is_int8 else rng.choice([0, 1, 2, 4])
    if what == 0:
        return g.node("Gemm", x, [list(row) for row in zip(*weight, strict=True)], bias, transB=1)
    if what == 1:
        return g.node("Add", g.node("MatMul", x, weight), bias)
    if what == 2:
        return g.node("Gemm", x, g.constant(weight), bias, alpha=0.5, beta=2.0)
    if what == 3:
        scale, zero = g.tensor(0.1), g.tensor(rng.choice([0, 3]), np.uint8)
        x = g.node("DequantizeLinear", g.node("QuantizeLinear", x, scale, zero), scale, zero)
        steps = g.tensor([[round(64 * v) for v in row] for row in weight], np.int8)
        return g.node("Gemm", x, g.node("DequantizeLinear", steps, 0.01), bias)
    return g.node("Gemm", x, weight, bias)


def an_activation(g: Graph, z: str, rng: random.Random) -> str:
    what = rng.randrange(12) if g.opset >= 14 else 11
    if what == 0:
        return g.node("Mul", z, g.node("Sigmoid", z))
    if what == 1:
        half = g.node("Mul", z, 0.5)
        return g.node("Mul", half, g.node("Add", g.node("Erf", g.node("Div", z, 2**0.5)), 1.0))
    if what == 2:
        return g.node("Max", z, g.node("Mul", z, 0.1))
    if what == 3:
        return g.node("Where", g.node("Greater", z, 0.0), z, g.node("Mul", z, 0.2))
    if what == 4:
        return g.node("Cast", g.node("Greater", z, 0.0), to=1)
    if what == 5:
        return g.node("Clip", z, -1.0, 1.5)
    if what == 6:
        return g.node("Log", g.node("Add", g.node("Exp", z), 1.0))
    if what == 7:
        return z
    kind = rng.choice(_OLD if g.opset < 14 else _ONE[:-2] if g.opset < 24 else _ONE)
    return g.node(kind, z)


def sound_onnx(rng: random.Random) -> bytes:
    if rng.randrange(4):
        return a_graph(rng)
    file = formats.parse("seed", sound_native(rng), suffix=".safetensors")  # one of our own
    return b"".join(formats._module(".onnx").pieces(file))


def onnx_graph(data: bytes, rng: random.Random) -> bytes | None:
    if rng.randrange(20) == 0:
        return sound_onnx(rng)
    model = ModelProto()
    try:
        model.ParseFromString(data)
    except Exception:
        return None
    graph, what = model.graph, rng.randrange(10)
    try:
        if what < 4 and graph.node:
            mutated_nodes(graph, rng)
        elif what == 4 and graph.initializer:
            one = rng.choice(graph.initializer)
            if rng.randrange(3):
                one.raw_data = mutated_floats(one.raw_data, rng)
            else:
                one.CopyFrom(rng.choice(graph.initializer))
        elif what == 5 and model.metadata_props:
            entry = rng.choice(model.metadata_props)
            entry.value = json.dumps(mutated_json(json.loads(entry.value), rng))
        else:
            mutated_message(model, rng)
        whole = bytes(model.SerializeToString())
    except (TypeError, ValueError, RecursionError):  # what a field cannot hold
        return None
    if rng.randrange(30) == 0:  # what the package cannot say
        whole += rng.choice([integer(999, 1), integer(1, 8), message(7, b""), message(14, b"\x0a")])
    return whole


def mutated_nodes(graph: Any, rng: random.Random) -> None:
    """A node of another operator, with other inputs, gone, or one more."""
    i = rng.randrange(len(graph.node))
    node, what = graph.node[i], rng.randrange(6)
    values = [*(t.name for t in graph.initializer), *(o for n in graph.node[:i] for o in n.output)]
    if what == 0:
        domain, _, node.op_type = rng.choice(OPERATORS).rpartition(".")
        node.domain = domain
    elif what == 1 and node.input:
        node.input[rng.randrange(len(node.input))] = rng.choice([*values, "x", ""])
    elif what == 2:
        node.input.append(rng.choice([*values, "x"]))
    elif what == 3:  # gone: who took what it gave takes what it took
        given, taken = node.output[0] if node.output else "", node.input[0] if node.input else "x"
        del graph.node[i]
        for other in graph.node:
            other.input[:] = [taken if name == given else name for name in other.input]
        for output in graph.output:
            output.name = taken if output.name == given else output.name
    elif what == 4 and node.output:  # one more behind it
        new = NodeProto(op_type=rng.choice(_ONE), output=[node.output[0]])
        node.output[0] = f"m{rng.randrange(10**6)}"
        new.input.append(node.output[0])
        graph.node.insert(i + 1, new)
    elif node.attribute:
        mutated_message(rng.choice(node.attribute), rng)


def mutated_message(whole: Any, rng: random.Random) -> None:
    """One field of one of the messages in a message."""
    inside = [whole]
    for each in inside:  # which grows
        for field, value in each.ListFields():
            if field.message_type is not None:
                inside += value if is_many(field) else [value]
    one = rng.choice(inside)
    field = rng.choice(
        one.DESCRIPTOR.fields
        if rng.randrange(4) == 0
        else [f for f, _ in one.ListFields()] or one.DESCRIPTOR.fields
    )
    value = getattr(one, field.name)
    if rng.randrange(6) == 0:
        one.ClearField(field.name)
    elif is_many(field):
        if value and rng.randrange(2):
            value.append(rng.choice(value))
        elif field.message_type is None:
            new = a_scalar(field, rng)
            if value:
                value[rng.randrange(len(value))] = new
            else:
                value.append(new)
        elif value:
            del value[rng.randrange(len(value))]
    elif field.message_type is None:
        setattr(one, field.name, a_scalar(field, rng))
    else:
        value.SetInParent()


def is_many(field: Any) -> bool:
    many = getattr(field, "is_repeated", None)
    return field.label == field.LABEL_REPEATED if many is None else bool(many)


def a_scalar(field: Any, rng: random.Random) -> Any:
    if field.cpp_type == field.CPPTYPE_STRING:
        name = rng.choice([*NAMES, "x", "y", "v1", "ai.onnx.ml", *OPERATORS])
        if field.type == field.TYPE_STRING:
            return name
        return rng.choice([name.encode(errors="replace"), bytes(rng.randrange(12))])
    if field.cpp_type in (field.CPPTYPE_FLOAT, field.CPPTYPE_DOUBLE):
        return rng.choice(FLOATS)
    return rng.choice([*NUMBERS, *range(24), -2])


MUTATORS: dict[str, Mutator] = {
    ".safetensors": native,
    ".named": by_name,
    ".npz": numpy_archive,
    ".onnx": onnx_graph,
    ".keras": keras_archive,
    ".h5": keras_h5,
    ".idx": images,
}

_SOUND: dict[str, Callable[[random.Random], bytes]] = {
    ".named": sound_by_name,
    ".onnx": sound_onnx,
    ".keras": sound_keras,
    ".h5": sound_h5,
}


def seeds(suffix: str) -> list[bytes]:
    """Sound files to begin with: those of the attacks, or where targets want others, such."""
    if suffix in _SOUND:
        return [_SOUND[suffix](random.Random(i)) for i in range(12)]
    return list(FORMATS[suffix].seeds.values())
