"""The program that reads an HDF5 file for `hdf5.py`, in a process that may crash or be killed.

    python -IS hdf5_worker.py '{"groups": [...], "attributes": [...], "bytes": n, ...}'

The file comes on stdin. To stdout go, once nothing is missing but the file, a line of READY and the
limits of this machine that leave less than the file justifies; then what is in it: as a safetensors
container, the datasets under their paths and the wanted attributes of the root group as its
metadata; or as a JSON object, what was expected and what was found, or the words of the library;
and DONE. Without READY it is words on what this machine lacks.

Invariant: before the file is looked at, this process gives up allocating more than it justifies,
running for longer than that and opening any file at all, so nothing that it names can be reached.
Only plain datasets get out: floats, stored in this file, plain or deflated, as many bytes as their
shape needs and their storage can hold; no soft or external link, no virtual or external dataset, no
other filter.
"""

import gc
import json
import math
import os
import resource
import signal
import struct
import sys
import time
from collections.abc import Callable, Iterator
from operator import truediv
from typing import Any, NamedTuple

READY, DONE = b"ready:", b":done"
MAX_OBJECTS = 4096
MAX_DEPTH = 16
MAX_PATH = 1024  # bytes
MAX_SIZE = 2**24  # of a dimension
MAX_RATIO = 1032  # of deflate: 258 bytes for two bits
# An object of a sound file takes hundreds of bytes, a sixth of them if it is deflated as a whole.
OBJECTS, BYTES_PER_OBJECT = 64, 50
# Of processor time for the file alone: the library may not come to an end on a damaged one. More is
# given for what was found to be sound, not for what a file claims or is filled up with, and what is
# left of it lapses. A sound file takes half at most. That is where it took START to get ready, and
# WARM_UP of it after the imports; what takes longer for both has longer for the file. (One alone
# says little: without bytecode the imports take five times as long.)
START, WARM_UP = 0.1, 0.0035
SECONDS = 0.03  # a sound file's 2 to 10 ms, and what a busy machine may add at once
SECONDS_PER_BYTE = 2e-9  # to copy the file, and to let go of it
SECONDS_PER_OBJECT = 3e-4  # to find it, and again to read it
SECONDS_PER_ENTRY = 1e-4  # of the header of what goes out
SECONDS_PER_VALUE_BYTE = 5e-9
SECONDS_PER_DEFLATED_BYTE = 2e-8
SECONDS_PER_CHUNK = 5e-5
# By bytes of the file that was given, of which nobody can claim more than there are: to go through
# the indices of chunks, to unpack so many, and to inflate what is in them.
SECONDS_PER_BYTE_OF_INDEX, MOST_FOR_INDICES = 1e-8, 0.5
MOST_FOR_CHUNKS = 2e-6
MOST_FOR_DEFLATED = 2 * SECONDS_PER_DEFLATED_BYTE
FLOATS = {2: "F16", 4: "F32", 8: "F64"}
BFLOAT16 = "BF16"  # opaque bytes, of which Keras says in an attribute what they are


class Refused(Exception):
    """(expected, found)"""


class Room(NamedTuple):
    """What the contents of a file may take."""

    n_objects: int
    n_bytes: int  # of values
    n_stored: int  # bytes of the whole file, which hold them
    n_header: int  # bytes, of the container's
    for_chunks: float  # seconds
    for_deflated: float  # seconds
    allow: Callable[[float], None]  # more seconds, for what was found


class Stored(NamedTuple):
    """A dataset that may be read, and the bytes that it takes here and in the file.

    It is not kept open: that would take 20 KB for each.
    """

    dtype: str  # of safetensors
    shape: tuple[int, ...]
    n_bytes: int
    n_stored: int
    n_deflated: int
    n_chunks: int


def prepare(task: dict[str, Any]) -> Callable[[], Iterator[bytes | memoryview]]:
    """All that needs more than the file, up to READY; what is returned reads that alone."""
    sys.path += task["path"]  # after this interpreter's own folders
    import h5py

    # What is imported or looked up at its first use is, before the doors are closed.
    # The library looks on the disk for a file of the name, where none can be.
    imported = time.process_time()
    with h5py.File("/dev/null/file", "w", driver="core", backing_store=False) as file:
        for encoding in ("ascii", "utf-8"):
            file.attrs.create(encoding, "text", dtype=h5py.string_dtype(encoding))
        file.create_dataset("group/values", data=[1.0], compression="gzip")
        enough = Room(8, 8, 99, 999, 0, 0, lambda _: None)
        b"".join(contents(file, ["group"], ["ascii", "utf-8"], enough))
    now = time.process_time()
    clock = Clock(min(now / START, (now - imported) / WARM_UP))

    properties = h5py.h5p.create(h5py.h5p.FILE_ACCESS)
    properties.set_fapl_core(backing_store=False)
    # Each dataset is read once and whole, so no chunk is kept, nor a table to find it in: 64 KB for
    # each that is open.
    properties.set_cache(0, 1, 0, 0.0)
    data = sys.stdin.buffer.read()
    n_file = task["file"]
    n_objects = min(OBJECTS + n_file // BYTES_PER_OBJECT, MAX_OBJECTS)
    room = Room(
        n_objects, task["bytes"], len(data), task["header"],
        MOST_FOR_CHUNKS * n_file, MOST_FOR_DEFLATED * n_file, clock.allow,
    )  # fmt: skip
    least = SECONDS + SECONDS_PER_BYTE * len(data)
    least += min(SECONDS_PER_BYTE_OF_INDEX * n_file, MOST_FOR_INDICES)
    most = least + n_objects * 2 * (SECONDS_PER_OBJECT + SECONDS_PER_ENTRY)
    most += room.n_bytes * SECONDS_PER_VALUE_BYTE + room.for_chunks + room.for_deflated
    lacking = confine(task["memory"], clock.pace * most)
    clock.start(least)
    sys.stdout.buffer.write(READY + " ".join(lacking).encode() + b"\n")
    sys.stdout.flush()

    def pieces() -> Iterator[bytes | memoryview]:
        properties.set_file_image(data)
        with h5py.File(h5py.h5f.open(b"stdin", h5py.h5f.ACC_RDONLY, fapl=properties)) as file:
            yield from contents(file, task["groups"], task["attributes"], room)

    return pieces


class Clock:
    """The processor time that a file may take, by a timer that ends the process."""

    def __init__(self, pace: float) -> None:
        """`pace`: how much longer than on a usual machine all things take."""
        self.pace = max(pace, 0.5)
        self._end = self._reserve = 0.0

    def start(self, seconds: float) -> None:
        """From here on, so many of a usual machine."""
        signal.signal(signal.SIGPROF, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGPROF, signal.SIGXCPU])
        self._reserve = self.pace * seconds
        self._end_in(self._reserve)

    def allow(self, seconds: float) -> None:
        """So many more; nobody can save up more than what it started with."""
        # By a clock of ours: the kernel adds a tick, 4 ms or so, each time that a timer is set.
        left = self._end - time.process_time()
        if left < 0:
            signal.raise_signal(signal.SIGPROF)
        self._end_in(min(left, self._reserve) + self.pace * seconds)

    def _end_in(self, seconds: float) -> None:
        self._end = time.process_time() + seconds
        signal.setitimer(signal.ITIMER_PROF, max(seconds, 1e-6))  # less would be none


def confine(memory: int, seconds: float) -> list[str]:
    """`memory` more bytes, the three files that are open, and so much processor time.

    Returns the names of the limits that leave less room than that here.
    """
    lacking = []
    with open("/proc/self/statm") as file:
        pages = file.read().split()
    used, used_for_data = (int(pages[i]) * resource.getpagesize() for i in (0, 5))
    for name, limit in {
        "RLIMIT_AS": used + memory,
        "RLIMIT_DATA": used_for_data + memory,
        "RLIMIT_FSIZE": 2 * memory,  # of what goes to stdout
        "RLIMIT_NOFILE": 3,
        "RLIMIT_CORE": 0,
        "RLIMIT_NPROC": 0,
        "RLIMIT_CPU": math.ceil(time.process_time() + seconds),
    }.items():
        what = getattr(resource, name)
        most = resource.getrlimit(what)[1]  # which nobody may raise
        at_once = limit if most == resource.RLIM_INFINITY else min(limit, most)
        if at_once < limit:
            lacking.append(name)
        # A second more of processor time to die of SIGXCPU, which says why, and not of SIGKILL.
        is_time = what == resource.RLIMIT_CPU and most == resource.RLIM_INFINITY
        resource.setrlimit(what, (at_once, at_once + is_time))
    return lacking


def contents(
    file: Any, groups: list[str], attributes: list[str], room: Room
) -> Iterator[bytes | memoryview]:
    """The container, piece by piece: everything is checked before the first dataset is read."""
    from h5py import h5o

    found: dict[bytes, Stored] = {}
    n_bytes = n_stored = 0
    for path, dataset in objects(file, room):
        name = text_of(path)
        if name.split("/")[0] in groups and not is_counter(dataset):
            one = found[path] = checked(name, dataset)
            n_bytes, n_stored = n_bytes + one.n_bytes, n_stored + one.n_stored
            if n_bytes > room.n_bytes:
                raise Refused(f"at most {room.n_bytes} bytes in all datasets", f"more, at {name}")
            if n_stored > room.n_stored:
                raise Refused(f"datasets stored in {room.n_stored} bytes", f"more, at {name}")
    header: dict[str, Any] = {"__metadata__": texts(file, attributes)}
    room.allow(SECONDS_PER_ENTRY * len(found))
    end = 0
    for path, one in found.items():
        start, end = end, end + one.n_bytes
        span = {"dtype": one.dtype, "shape": one.shape, "data_offsets": [start, end]}
        header[text_of(path)] = span
    text = json.dumps(header).encode()
    if len(text) > room.n_header:
        expected = f"names and attributes that make a header of at most {room.n_header} bytes"
        raise Refused(expected, f"{len(text)}")
    yield struct.pack("<Q", len(text)) + text
    for_chunks, for_deflated = room.for_chunks, room.for_deflated
    for path, one in found.items():
        seconds = min(SECONDS_PER_CHUNK * one.n_chunks, for_chunks)
        for_chunks -= seconds
        inflating = min(SECONDS_PER_DEFLATED_BYTE * one.n_deflated, for_deflated)
        for_deflated -= inflating
        seconds += inflating + one.n_bytes * SECONDS_PER_VALUE_BYTE
        room.allow(seconds + SECONDS_PER_OBJECT)
        yield values(h5o.open(file.id, path), one)
    room.allow(SECONDS_PER_ENTRY * len(found))  # to let go of it all


def values(dataset: Any, one: Stored) -> memoryview:
    """All of its bytes, little-endian in C order; no copy: there may be no room for one."""
    import numpy
    from h5py import Dataset, h5s

    if one.dtype == BFLOAT16:  # as bytes of their own type, so that nothing is converted
        opaque = numpy.empty(one.shape, "<u2")
        dataset.read(h5s.ALL, h5s.ALL, opaque, dataset.get_type())
        return opaque.data.cast("B")
    array = Dataset(dataset)[()]
    return numpy.ascontiguousarray(array, array.dtype.newbyteorder("<")).data.cast("B")


def objects(file: Any, room: Room) -> Iterator[tuple[bytes, Any]]:
    """All datasets of the file by their paths, reached by hard links only, each once."""
    from h5py import Dataset, h5d, h5g, h5l, h5o

    root = file["/"].id
    seen = {h5o.get_info(root).addr}
    groups = [(b"", root, 0)]
    while groups:
        folder, group, depth = groups.pop()
        # By the library's own calls: what h5py makes of them takes five times as long.
        links: list[tuple[bytes, int, Any]] = []
        most = room.n_objects - len(seen)

        def listed(name: bytes, link: Any, most: int = most, to: list[Any] = links) -> bool | None:
            to.append((name, link.type, link.u))
            return len(to) > most or None  # to stop

        group.links.iterate(listed, info=True)
        if len(links) > most:
            raise Refused(f"at most {room.n_objects} objects in such a file", "more")
        for name, kind, address in links:
            path = folder + b"/" + name if folder else name
            if len(path) > MAX_PATH:
                raise Refused(f"names of at most {MAX_PATH} bytes", text_of(path[:80]))
            if kind != h5l.TYPE_HARD:
                raise Refused("no soft or external links", f"one, {text_of(path)}")
            if address in seen:
                raise Refused("each object under one name", f"another one, {text_of(path)}")
            seen.add(address)
            # The library would take a name for a path, and follow it.
            if name in (b"", b".") or b"/" in name:
                raise Refused("plain names of links", text_of(path))
            child = h5o.open(group, name)
            if h5o.get_info(child).addr != address:
                raise Refused("each name once", f"{text_of(path)} twice")
            room.allow(SECONDS_PER_OBJECT)
            if isinstance(child, h5g.GroupID):
                if depth == MAX_DEPTH:
                    raise Refused(f"groups at most {MAX_DEPTH} deep", text_of(path))
                groups.append((path, child, depth + 1))
            elif isinstance(child, h5d.DatasetID):
                yield path, Dataset(child)
            else:
                raise Refused("groups and datasets", text_of(path))


def text_of(path: bytes) -> str:
    """As h5py has it: what is not UTF-8 as lone surrogates."""
    return path.decode(errors="surrogateescape")


def is_counter(dataset: Any) -> bool:
    """A single integer: how many steps or batches training took."""
    from h5py import h5t

    return dataset.shape == () and dataset.id.get_type().get_class() == h5t.INTEGER


def checked(path: str, dataset: Any) -> Stored:
    """A dataset by what the file says of it; nothing is read yet."""
    from h5py import h5d, h5t, h5z

    # h5py makes Python objects of other types, even of bytes that only say that they are some.
    kind, itemsize = dataset.id.get_type().get_class(), dataset.id.get_type().get_size()
    if kind == h5t.OPAQUE and itemsize == 2 and texts(dataset, ["dtype"]) == {"dtype": "bfloat16"}:
        dtype = BFLOAT16
    elif kind == h5t.FLOAT and dataset.dtype.itemsize in FLOATS:
        itemsize = dataset.dtype.itemsize
        dtype = FLOATS[itemsize]
    else:
        found = "another type"
        if kind == h5t.OPAQUE:  # as Keras writes bfloat16 into .h5
            found = f"opaque ones of {itemsize} that no attribute names (.keras does)"
        if kind in (h5t.FLOAT, h5t.INTEGER):
            found = str(dataset.dtype)
        raise Refused(f"{path} of floats of 2, 4 or 8 bytes or bfloat16", found)
    shape, how = dataset.shape, dataset.id.get_create_plist()
    if shape is None or len(shape) > 2 or not all(1 <= n <= MAX_SIZE for n in shape):
        raise Refused(f"{path} of at most 2 sizes from 1 to {MAX_SIZE}", f"shape {shape}")
    if how.get_layout() not in (h5d.COMPACT, h5d.CONTIGUOUS, h5d.CHUNKED):
        raise Refused(f"{path} in this file", "a virtual dataset")
    if how.get_external_count():
        raise Refused(f"{path} in this file", "an external dataset")
    filters = [how.get_filter(i)[0] for i in range(how.get_nfilters())]
    if any(one != h5z.FILTER_DEFLATE for one in filters):
        raise Refused(f"{path} plain or with gzip", f"the filters {filters}")
    n_bytes, stored = math.prod(shape) * itemsize, dataset.id.get_storage_size()
    if n_bytes > stored * (MAX_RATIO if filters else 1):
        raise Refused(f"{path} of {n_bytes} bytes for shape {shape}", f"{stored} stored")
    chunks = dataset.chunks or shape
    n_chunks = math.prod(map(math.ceil, map(truediv, shape, chunks)))
    return Stored(dtype, shape, n_bytes, stored, stored if filters else 0, n_chunks)


def texts(owner: Any, names: list[str]) -> dict[str, str]:
    """Those of the attributes that are there and are one string; no other is looked at."""
    from h5py import h5t

    found = {}
    for name in names:
        if name in owner.attrs:
            attribute = owner.attrs.get_id(name)
            if attribute.get_type().get_class() == h5t.STRING and attribute.shape == ():
                value = owner.attrs[name]
                found[name] = value.decode() if isinstance(value, bytes) else str(value)
    return found


def answer(task: str) -> None:
    """What a task in JSON asks for, or what stands against it, on stdout."""
    start = 0  # of what comes after READY
    try:
        pieces = prepare(json.loads(task))
        start = sys.stdout.buffer.tell()
        for piece in pieces():
            sys.stdout.buffer.write(piece)
    except Exception as error:  # h5py raises what it likes, with the library's words
        words = f"{type(error).__name__}: {error}"[:1000]
        if not start:
            sys.stdout.write(words)
        else:
            refusal = {"library": words}
            if isinstance(error, Refused):
                refusal = dict(zip(("expected", "found"), error.args, strict=True))
            sys.stdout.buffer.seek(start)  # what was written since is half of an answer
            sys.stdout.buffer.truncate()
            sys.stdout.write(json.dumps(refusal))
    sys.stdout.flush()
    if start:
        sys.stdout.buffer.write(DONE)
        sys.stdout.flush()


if __name__ == "__main__":
    gc.disable()  # nothing here lives for long: 5 ms
    answer(sys.argv[1])
    os._exit(0)  # it takes 13 ms to take apart what was imported
