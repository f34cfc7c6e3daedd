""".keras and .h5 of Keras: sound files, and such as no reader should believe.

The network has one Dense layer, 1-2, with a relu. HDF5 files are made by h5py in memory, without
times, so that they are the same each time; what h5py does not write is patched in.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from attacks.containers import DEFLATED, Entry, zip_file
from attacks.kinds import Attack, folder, lazily, pipe, sparse

KERNEL, BIAS = np.array([[0, 1]], np.float32), np.array([2, 3], np.float32)

DENSE: dict[str, Any] = {"name": "dense", "units": 2, "activation": "relu", "use_bias": True}
INPUT: dict[str, Any] = {"name": "input", "batch_shape": [None, 1]}


def layer(kind: str, config: object, **rest: object) -> dict[str, Any]:
    return {"class_name": kind, "config": config, "module": "keras.layers", **rest}


def sequential(*layers: object, **rest: object) -> dict[str, Any]:
    config = {"name": "sequential", "layers": list(layers)}
    return {"class_name": "Sequential", "config": config, "module": "keras", **rest}


CONFIG = sequential(layer("InputLayer", INPUT), layer("Dense", DENSE))


def dense(**changes: object) -> dict[str, Any]:
    return sequential(layer("InputLayer", INPUT), layer("Dense", {**DENSE, **changes}))


def instead(kind: str, config: object = None, **rest: object) -> dict[str, Any]:
    """The sound configuration with a layer behind it."""
    about = {"name": "odd"} if config is None else config
    return sequential(layer("InputLayer", INPUT), layer("Dense", DENSE), layer(kind, about, **rest))


def deep(depth: int) -> dict[str, Any]:
    config = CONFIG
    for i in range(depth):
        config = sequential({**config, "config": {**config["config"], "name": f"s{i}"}})
    return config


def image(fill: Callable[[Any], None], **options: Any) -> bytes:
    """The bytes of an HDF5 file."""
    with h5py.File("a.h5", "w", driver="core", backing_store=False, **options) as file:
        fill(file)
        file.flush()
        return bytes(file.id.get_file_image())


def put(group: Any, path: str, data: object, **options: Any) -> None:
    group.create_dataset(path, data=data, track_times=False, **options)


# ---- .h5 -----------------------------------------------------------------------------------------

_FOLDER = "model_weights/dense/dense"


def h5(
    config: object = CONFIG,
    *,
    kernel: Callable[[Any], None] | object = None,
    bias: object = BIAS,
    version: object = "3.5.0",
    more: Callable[[Any], None] | None = None,
    **options: Any,
) -> bytes:
    """The sound file with changes. `kernel`: other values, or what puts it there."""

    def fill(file: Any) -> None:
        if config is not None:
            file.attrs["model_config"] = config if isinstance(config, bytes) else json.dumps(config)
        if version is not None:
            file.attrs["keras_version"] = version
        if callable(kernel):
            kernel(file.require_group(_FOLDER))
        else:
            put(file, f"{_FOLDER}/kernel", KERNEL if kernel is None else kernel)
        if bias is not None:
            put(file, f"{_FOLDER}/bias", bias)
        if more is not None:
            more(file)

    return image(fill, **options)


def kernel_like(**options: Any) -> bytes:
    """A kernel that is declared and not written, or not where it seems to be."""

    def add(group: Any) -> None:
        group.create_dataset("kernel", track_times=False, **options)

    return h5(kernel=add)


def linked(link: object) -> bytes:
    def add(group: Any) -> None:
        group["kernel"] = link

    return h5(kernel=add)


def virtual() -> bytes:
    layout = h5py.VirtualLayout((1, 2), np.float32)
    layout[:] = h5py.VirtualSource("elsewhere.h5", "kernel", (1, 2))

    def add(group: Any) -> None:
        group.create_virtual_dataset("kernel", layout)

    return h5(kernel=add)


_WIDE = 4096
WIDE_CONFIG = sequential(
    layer("InputLayer", {**INPUT, "batch_shape": [None, _WIDE]}),
    layer("Dense", {**DENSE, "units": _WIDE, "use_bias": False}),
)


def deflated_zeros(group: Any, name: str) -> None:
    """64 MB in 300 kB, and as a zip entry in 3 kB."""
    values = np.zeros((_WIDE, _WIDE), np.float32)
    put(group, name, values, compression="gzip", compression_opts=1, chunks=(64, _WIDE))


def cycle(file: Any) -> None:
    file["model_weights/dense/again"] = file["model_weights"]


def second(name: str) -> Callable[[Any], None]:
    def add(file: Any) -> None:
        put(file, f"{_FOLDER}/{name}", BIAS)

    return add


def many_groups(n: int) -> Callable[[Any], None]:
    def add(file: Any) -> None:
        for i in range(n):
            file.create_group(f"model_weights/g{i}")

    return add


def deep_groups(file: Any) -> None:
    file.create_group("model_weights/" + "/".join("g" * 200))


def patched(data: bytes, old: bytes, new: bytes) -> bytes:
    """All places; of the same length."""
    assert old in data
    assert len(old) == len(new)
    return data.replace(old, new)


def end_moved(n: int) -> bytes:
    """The superblock's end of file, by n bytes (version 0: at byte 40)."""
    data = h5()
    end = int.from_bytes(data[40:48], "little") + n
    return data[:40] + end.to_bytes(8, "little") + data[48:]


def endless(data: bytes, n_bytes: int = 0, tree: int | None = None) -> bytes:
    """A group of eight levels of B-tree, each node of which has the next one 32 times.

    `data`: with a superblock of version 0. `tree`: where the B-tree of that group is; None: it is
    the root. 2^40 steps that need no memory, in 5 kB; then zeros up to `n_bytes`.
    """
    leaf = len(data)
    made = bytearray(data + b"SNOD" + struct.pack("<BxH", 1, 0) + bytes(8 * 40))
    child = leaf
    for level in range(8):
        node = b"TREE" + struct.pack("<BBHqqq", 0, level, 32, -1, -1, 0)
        node += struct.pack("<QQ", child, 0) * 32
        child = len(made)
        made += node
    at = int.from_bytes(made[80:88], "little") if tree is None else tree
    assert made[at : at + 4] == b"TREE"
    made[at : at + len(node)] = node
    made += bytes(max(n_bytes - len(made), 0))
    made[40:48] = len(made).to_bytes(8, "little")
    return bytes(made)


def endless_at_last(n_groups: int) -> bytes:
    """So many sound groups, and one that has no end when the others have been paid for."""

    def fill(file: Any) -> None:
        put(file, "layers/dense/vars/0", KERNEL)
        put(file, "layers/dense/vars/1", BIAS)
        for i in range(n_groups):
            file.create_group(f"m{i:04}", track_order=True)
        file.create_group("zzz")

    data = image(fill)
    return endless(data, tree=data.rindex(b"TREE" + struct.pack("<BBH", 0, 0, 0)))


def one_index(n: int, widths: tuple[int, ...]) -> bytes:
    """`n` datasets of a deflated value each, all with one index: a B-tree of levels that are so
    wide, all of whose leaves are one, and the value's.
    """

    def fill(file: Any) -> None:
        for i in range(n):
            put(file, f"layers/{i:03}", np.zeros(1, np.float32), compression="gzip", chunks=(1,))

    made = bytearray(image(fill))
    leaf = b"TREE" + bytes([1, 0])
    trees = [at for at in range(0, len(made), 8) if made[at : at + 6] == leaf]
    assert len(trees) == n
    key = made[trees[0] + 24 : trees[0] + 48]  # size, mask, where
    made += bytes(-len(made) % 8)
    child = trees[0]
    for level, width in enumerate(widths, 1):
        node = b"TREE" + struct.pack("<BBHqq", 1, level, width, -1, -1)
        node += (key + struct.pack("<Q", child)) * width + struct.pack("<IIQQ", 0, 0, 1, 0)
        child = len(made)
        made += node.ljust(24 + 64 * 32 + 24, b"\0")
    for at in trees:  # of each dataset, where its index is
        where = made.index(struct.pack("<Q", at))
        made[where : where + 8] = struct.pack("<Q", child)
    made[40:48] = len(made).to_bytes(8, "little")
    return bytes(made)


def same_chunks(n: int, n_bytes: int, n_stored: int = 0) -> bytes:
    """A row of `n` weights, each of which is the same deflated `n_bytes`; of the first the file
    says that it takes `n_stored` bytes, if that is more.
    """

    def fill(file: Any) -> None:
        values = np.arange(n, dtype=np.float32)[None]
        put(file, "layers/dense/vars/0", values, chunks=(1, 1), compression="gzip")
        put(file, "layers/dense/vars/1", BIAS)

    made = bytearray(image(fill))
    at, stream = len(made), zlib.compress(bytes(n_bytes), 9)
    made += stream + bytes(max(n_stored - len(stream), 0))
    node = made.index(b"TREE" + bytes([1, 0]))  # of chunks, a leaf
    (used,) = struct.unpack_from("<H", made, node + 6)
    assert used == min(n, 64)
    sizes = [max(n_stored, len(stream)), *[len(stream)] * (used - 1)]
    for i, size in enumerate(sizes):
        struct.pack_into("<I", made, node + 24 + 40 * i, size)
        struct.pack_into("<Q", made, node + 56 + 40 * i, at)
    made[40:48] = len(made).to_bytes(8, "little")
    return bytes(made)


def flipped(data: bytes, at: int, bit: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :]


H5_SEEDS: dict[str, bytes] = {  # of the newer form of HDF5, which is smaller
    "one Dense": h5(libver="latest"),
    "deflated": h5(
        kernel=lambda group: put(group, "kernel", KERNEL, compression="gzip"), libver="latest"
    ),
}


def add_object(file: Any, tag: bytes) -> None:
    """Where the configuration is, eight bytes that h5py would take for an object's address."""
    kind = h5py.h5t.create(h5py.h5t.OPAQUE, 8)
    kind.set_tag(tag)
    space = h5py.h5s.create(h5py.h5s.SCALAR)
    attribute = h5py.h5a.create(file.id, b"model_config", kind, space)
    attribute.write(np.array(0x414141414140, "u8").view("V8"), mtype=kind)


H5_ATTACKS: dict[str, Attack] = {
    "empty": b"",
    "signature alone": b"\x89HDF\r\n\x1a\n",
    "not HDF5": b"not an HDF5 file, though it is long enough to be one" * 40,
    "pickle": b"\x80\x04\x8c\x02os\x8c\x05abort\x93)R." * 10,
    "user block in front": h5(userblock_size=512),
    "bytes behind": h5() + b"\0",
    "one byte short": h5()[:-1],
    "end of file too far": end_moved(1000),
    "end of file too near": end_moved(-1000),
    "sparse up to 512 MiB": sparse(h5(), 2**29),
    "superblock of garbage": h5()[:8] + b"\xff" * 88 + h5()[96:],
    "root of garbage": h5()[:96] + b"\xff" * 200 + h5()[296:],
    "all zeros behind the superblock": h5()[:96] + bytes(len(h5()) - 96),
    # what points elsewhere
    "external link": linked(h5py.ExternalLink("/etc/passwd", "/kernel")),
    "soft link": linked(h5py.SoftLink("/model_weights/dense/dense/bias")),
    "soft link to itself": linked(h5py.SoftLink("/model_weights/dense/dense/kernel")),
    "link to nowhere": linked(h5py.SoftLink("/nowhere")),
    "external storage": kernel_like(
        shape=(1, 2), dtype="f4", external=[("/etc/passwd", 0, 8)]
    ),
    "virtual dataset": virtual(),
    "group that holds itself": h5(more=cycle),
    "kernel under two names": h5(
        more=lambda file: file.__setitem__("model_weights/k", file[f"{_FOLDER}/kernel"])
    ),
    "named type": h5(more=lambda file: file.__setitem__("model_weights/t", np.dtype("f4"))),
    # sizes
    "exabyte declared, nothing there": kernel_like(
        shape=(2**30, 2**30), dtype="f4", chunks=(1, 1024)
    ),
    "1 GB declared, nothing there": kernel_like(shape=(2**14, 2**14), dtype="f4", chunks=(64, 64)),
    "one value declared, nothing there": kernel_like(shape=(1, 2), dtype="f4", chunks=(1, 2)),
    "size zero": h5(kernel=np.zeros((0, 2), np.float32)),
    "three sizes": h5(kernel=np.zeros((1, 1, 2), np.float32)),
    "no values at all": h5(kernel=h5py.Empty("f4")),
    "another shape": h5(kernel=np.zeros((2, 2), np.float32)),
    "bias of another width": h5(bias=np.zeros(3, np.float32)),
    "bomb: 96 MB of zeros": lazily(
        lambda: h5(
            kernel=lambda group: put(
                group, "kernel", np.zeros((1, 3 * 2**23), np.float32), compression="gzip",
                compression_opts=9, chunks=(1, 2**22),
            )
        )
    ),
    "a sound network of 64 MB of zeros": lazily(
        lambda: h5(WIDE_CONFIG, kernel=lambda group: deflated_zeros(group, "kernel"), bias=None)
    ),
    # types and filters
    "doubles beyond float32": h5(kernel=np.array([[0, 1e39]])),
    "integers": h5(kernel=np.array([[0, 1]])),
    "booleans": h5(kernel=np.array([[False, True]])),
    "complex": h5(kernel=np.array([[0, 1j]])),
    "records": h5(kernel=np.zeros((1, 2), "f4,f4")),
    "strings": h5(kernel=np.array([["a", "b"]], "S1")),
    "strings of any length": h5(kernel=np.array([["a", "b"]], h5py.string_dtype())),
    "references": kernel_like(shape=(1, 2), dtype=h5py.ref_dtype),
    "opaque": h5(kernel=np.zeros((1, 2), "V8")),
    "lzf": h5(kernel=lambda group: put(group, "kernel", KERNEL, compression="lzf")),
    "shuffle and gzip": h5(
        kernel=lambda group: put(group, "kernel", KERNEL, compression="gzip", shuffle=True)
    ),
    "scale and offset": h5(kernel=lambda group: put(group, "kernel", KERNEL, scaleoffset=2)),
    "checksums": h5(kernel=lambda group: put(group, "kernel", KERNEL, fletcher32=True)),
    "NaN weight": h5(kernel=np.array([[np.nan, 1]], np.float32)),
    "infinite bias": h5(bias=np.array([0, np.inf], np.float32)),
    # many
    "5,000 groups": lazily(lambda: h5(more=many_groups(5000))),
    "groups 200 deep": h5(more=deep_groups),
    # on which the library does not come to an end
    "endless group": endless(h5()),
    "endless group and 400 kB": endless(h5(), 400_000),
    "endless heap": flipped(H5_SEEDS["one Dense"], 2424, 3),
    # names that the library would take for paths
    "name with a slash": patched(h5(more=second("Qmodel_weightsQdense")), b"Qmodel_weightsQdense",
                                 b"/model_weights/dense"),
    "name of nothing but a dot": patched(h5(more=second("Q")), b"Q\0", b".\0"),
    "name of 5,000 control characters": h5(
        more=lambda file: put(file, "model_weights/" + "\1" * 5000, [1, 2])
    ),
    # the configuration
    "no configuration": h5(None),
    "no version": h5(version=None),
    "configuration as an object": h5(None, more=lambda file: add_object(file, b"NUMPY:|O")),
    "configuration as another": h5(None, more=lambda file: add_object(file, b"NUMPY:O")),
    "configuration as numbers": h5(None, more=lambda file: file.attrs.create("model_config", [1])),
    "version 1": h5(version="1.2.3"),
    "version as numbers": h5(version=[3, 5]),
    "configuration not JSON": h5(b"__import__('os').system('true')"),
    "configuration not UTF-8": h5(b"\xff\xfe"),
    "configuration nested deep": h5(b"[" * 50_000),
    "configuration with a key twice": h5(b'{"class_name": "Sequential", "class_name": "Model"}'),
    "kernel missing": h5(kernel=lambda group: None),
    "bias missing": h5(bias=None),
}  # fmt: skip

_CONFIGS: dict[str, Any] = {
    "Lambda": instead("Lambda", {"name": "f", "function": {"class_name": "__lambda__",
                                                          "config": {"code": "4wEAAAA="}}}),
    "custom object": instead("Evil", module="evil.module", registered_name="evil>Evil"),
    "class of another module": instead("system", module="os"),
    "registered under another name": instead("Dense", registered_name="os>system"),
    "module that is no string": instead("Dense", module=["keras"]),
    "layer unknown": instead("Conv2D"),
    "activation by module": dense(activation={"module": "builtins", "class_name": "function",
                                              "config": "eval", "registered_name": "function"}),
    "activation unknown": dense(activation="os.system"),
    "units of another number": dense(units=3),
    "units of 2^62": dense(units=2**62),
    "use_bias that is a number": dense(use_bias=1),
    "no layers": sequential(),
    "layers that are a number": {**CONFIG, "config": {"name": "s", "layers": 3}},
    "layer that is a string": sequential("Dense"),
    "layer without a name": sequential(layer("Dense", {"units": 2})),
    "two layers of one name": sequential(layer("Dense", DENSE), layer("Dense", DENSE)),
    "models 15 deep": deep(15),
    "models 50 deep": deep(50),
    "objects nested 10,000 deep": b'{"a":' * 10_000,
    "model that is no model": layer("Dense", DENSE),
    "input of 2^40 values": sequential(
        layer("InputLayer", {"name": "input", "batch_shape": [None, 2**20, 2**20]}),
        layer("Dense", DENSE),
    ),
    "activation without a layer": sequential(
        layer("InputLayer", {"name": "input", "batch_shape": [None, 2**20]}),
        layer("Activation", {"name": "a", "activation": "tanh"}),
    ),
}  # fmt: skip

H5_ATTACKS.update({name: h5(config) for name, config in _CONFIGS.items()})
# A .keras file calls layers by their classes, an .h5 file by their names.
H5_ATTACKS["path as a name"] = h5(dense(name="../../dense"))

# ---- .keras --------------------------------------------------------------------------------------

METADATA = {"keras_version": "3.5.0", "date_saved": "2024-01-01@00:00:00"}


def weights(libver: str = "latest", **datasets: object) -> bytes:
    """model.weights.h5, with datasets by their last names."""
    values = {"0": KERNEL, "1": BIAS, **datasets}

    def fill(file: Any) -> None:
        for name, value in values.items():
            if value is not None:
                put(file, f"layers/dense/vars/{name}", value)

    return image(fill, libver=libver)


def link_inside() -> bytes:
    def fill(file: Any) -> None:
        file["layers/dense/vars/0"] = h5py.ExternalLink("/etc/passwd", "/kernel")
        put(file, "layers/dense/vars/1", BIAS)

    return image(fill)


def entries(
    config: object = CONFIG, metadata: object = METADATA, stored: bytes | None = None
) -> dict[str, bytes]:
    def text(about: object) -> bytes:
        return about if isinstance(about, bytes) else json.dumps(about).encode()

    return {
        "metadata.json": text(metadata),
        "config.json": text(config),
        "model.weights.h5": weights() if stored is None else stored,
    }


def keras(
    config: object = CONFIG,
    metadata: object = METADATA,
    stored: bytes | None = None,
    method: int = 0,
    more: dict[str, bytes] | None = None,
    without: str = "",
    **lies: Any,
) -> bytes:
    """The sound archive with changes."""
    found = {**entries(config, metadata, stored), **(more or {})}
    return zip_file(
        [Entry(name, data, method) for name, data in found.items() if name != without], **lies
    )


def many_keys(n: int) -> bytes:
    """A JSON object of n short keys and one of them again."""
    return b"{%s" % b"".join(b'"%x":1,' % i for i in range(n)) + b'"5":1}'


def lying(name: str, **lies: Any) -> bytes:
    return zip_file([Entry(k, v, **(lies if k == name else {})) for k, v in entries().items()])


KERAS_SEEDS: dict[str, bytes] = {"one Dense": keras(), "deflated": keras(method=DEFLATED)}

KERAS_ATTACKS: dict[str, Attack] = {
    "empty": b"",
    "not a zip": b"not a zip archive" * 10,
    "HDF5 in place of a zip": h5(),
    "empty archive": zip_file([]),
    "bytes before": keras(before=b"#!"),
    "bytes after": keras() + b"\0",
    "bytes between": keras(between=b"hidden"),
    "comment": keras(comment=b"hello"),
    "sparse": sparse(b"PK\x03\x04", 2**29),
    "configuration missing": keras(without="config.json"),
    "metadata missing": keras(without="metadata.json"),
    "weights missing": keras(without="model.weights.h5"),
    "another entry": keras(more={"assets/evil.py": b"import os"}),
    "entry in a parent folder": keras(more={"../evil.py": b"import os"}),
    "entry of a pickle": keras(more={"model.pkl": b"\x80\x04."}),
    "entry twice": zip_file(
        [*(Entry(k, v) for k, v in entries().items()), Entry("config.json", b"{}")]
    ),
    "a link": lying("config.json", mode=0o120777),
    "encrypted": lying("config.json", flags=1),
    "local name differs": lying("config.json", local_name="confiG.json"),
    "wrong checksum": lying("config.json", crc=1),
    "size lies": lying("config.json", size=10),
    "bomb: configuration of 96 MB": lazily(lambda: keras(b" " * (3 * 2**25), method=DEFLATED)),
    "a sound network of 64 MB of zeros, deflated twice": lazily(
        lambda: keras(
            WIDE_CONFIG,
            stored=image(lambda file: deflated_zeros(file, "layers/dense/vars/0")),
            method=DEFLATED,
        )
    ),
    "bomb: weights of 96 MB": lazily(lambda: keras(stored=bytes(3 * 2**25), method=DEFLATED)),
    "configuration of 1 MB of objects": keras(b'{"a":[' + b"{}," * 340_000 + b"{}]}"),
    "configuration of 1 MB of lists": keras(b'{"a":[' + b"[]," * 340_000 + b"[]]}"),
    "configuration of lists and half a string": keras(
        b'{"a":[' + b"[]," * 70_000 + b'"' + b'\\"a' * 250_000
    ),
    "configuration of 110,000 keys, one of them twice": keras(many_keys(110_000)),
    "configuration of 65,000 keys, one of them twice": keras(many_keys(65_000).ljust(2**20)),
    "configuration of brackets and 500,000 escapes in a string": keras(
        b'{"' + b"[" * 66_000 + b"\\n" * 490_000 + b'":{}}'
    ),
    "configuration of commas and 450,000 empty strings": keras(
        b'{"a":[' + b"," * 66_000 + b'""' * 450_000
    ),
    "configuration of 65,000 floats": keras(b'{"a":[' + b"1.5," * 65_000 + b"1]}"),
    "metadata and configuration of many keys": keras(
        many_keys(65_000).ljust(2**20), metadata=many_keys(4_000)
    ),
    "metadata of 1 MB of lists": keras(metadata=b'{"a":[' + b"[]," * 340_000 + b"[]]}"),
    "configuration nested deep": keras(b"[" * 50_000),
    "configuration not UTF-8": keras(b"\xff"),
    "configuration that is a list": keras([]),
    "metadata that is a list": keras(metadata=[]),
    "version 2": keras(metadata={"keras_version": "2.15.0"}),
    "version that is a number": keras(metadata={"keras_version": 3}),
    "weights not HDF5": keras(stored=b"not HDF5" * 100),
    "weights behind an external link": keras(stored=link_inside()),
    "endless group": keras(stored=endless(weights("earliest"))),
    "endless group and 4 MB, deflated": keras(
        stored=endless(weights("earliest"), 2**22), method=DEFLATED
    ),
    "100 groups, then an endless one": keras(stored=endless_at_last(100), method=DEFLATED),
    "4,000 groups": lazily(lambda: keras(stored=endless_at_last(4000), method=DEFLATED)),
    "82 datasets with one index of 43,200 chunks": keras(
        stored=one_index(82, (60, 60, 12)), method=DEFLATED
    ),
    "one chunk of 60 MB, said to take 4": lazily(
        lambda: keras(stored=same_chunks(1, 60 * 2**20, 4 * 2**20), method=DEFLATED)
    ),
    "60 chunks that are the same 20 MB": lazily(lambda: keras(stored=same_chunks(60, 20 * 2**20))),
    "kernel missing": keras(stored=weights(**{"0": None})),
    "kernel of integers": keras(stored=weights(**{"0": np.array([[0, 1]])})),
    "kernel of NaN": keras(stored=weights(**{"0": np.array([[np.nan, 1]], np.float32)})),
    "kernel of another shape": keras(stored=weights(**{"0": np.zeros((3, 2), np.float32)})),
    "a folder": folder,
    "a named pipe": pipe,
    **{name: keras(config) for name, config in _CONFIGS.items()},
}


def _other_suffix(path: Path) -> None:
    path.write_bytes(keras())


H5_ATTACKS["a zip in place of HDF5"] = _other_suffix
