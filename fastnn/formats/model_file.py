"""`ModelFile`: what any format can hold; and how a format says what is wrong with a file.

Invariant: a ModelFile that exists can be written by every format and comes back equal. Whether its
layers fit each other and its classes fit the outputs is `fastnn.Model`'s question.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NoReturn, TypeVar

import numpy as np
import numpy.typing as npt

from fastnn import checks
from fastnn.layers import Dense
from fastnn.quantize import Calibration

MAX_LAYERS = 256
MAX_WIDTH = 2**24  # of a layer
_MAX_OBJECTS = 4096  # of a JSON text: 256 layers have two each
_MAX_LEVELS = 64  # of a JSON text: Keras' models in models have half as many
MAX_COMMAS = 32_768  # of a JSON text, which has about as many values
MAX_METADATA = 4096  # names with a text each
_MOST_WORDS = 400  # characters that a message has of a text

TASKS = ("classify", "regress")

T = TypeVar("T")
Units = float | npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True, eq=False)
class ModelFile:
    """The contents of a model file.

    `layers`: `Dense` layers, 1 to 256. `classes`: None, or labels, 1-D (integers, strings or
    booleans). `task`: "classify", "regress" or None. `scale`, `mean`, `std`: of uint8 input p,
    read as (p*scale - mean)/std; a float, or float64 of shape (inputs,). `metadata`: strings by
    name, for people. `precision`, `calibration`: as of `fastnn.Model`. Raises `TypeError` or
    `ValueError` for anything else.
    """

    layers: Sequence[Dense]
    classes: npt.NDArray[np.generic] | None = None
    task: str | None = None
    scale: Units = 1.0
    mean: Units = 0.0
    std: Units = 1.0
    metadata: Mapping[str, str] = dataclasses.field(default_factory=dict)
    precision: str = "float32"
    calibration: Calibration | None = None

    def __post_init__(self) -> None:
        layers = tuple(self.layers)
        for i, layer in enumerate(layers):
            if not isinstance(layer, Dense):
                raise TypeError(f"ModelFile: layers[{i}] is a {type(layer).__name__}, not a Dense")
        if not 1 <= len(layers) <= MAX_LAYERS:
            raise ValueError(f"ModelFile: {len(layers)} layers, wanted 1 to {MAX_LAYERS}")
        if self.task not in (None, *TASKS):
            raise ValueError(
                f"ModelFile: task is {checks.brief(self.task)}, wanted None or one of {TASKS}"
            )
        metadata = checks.strings("ModelFile", self.metadata)
        if len(metadata) > MAX_METADATA:
            found = f"metadata has {len(metadata)} names"
            raise ValueError(f"ModelFile: {found}, wanted at most {MAX_METADATA}")
        for name, value in metadata.items():
            if not checks.is_text(name + value):
                raise ValueError(
                    f"ModelFile: metadata[{checks.brief(name)}] has half a surrogate pair"
                )
        widths = [layers[0].n_inputs, *(layer.n_outputs for layer in layers)]
        if max(widths) > MAX_WIDTH:
            raise ValueError(f"ModelFile: a layer of width {max(widths)}, wanted 1 to {MAX_WIDTH}")
        set_field = object.__setattr__  # the record is frozen
        set_field(self, "layers", layers)
        if self.classes is not None:
            set_field(self, "classes", checks.labels("ModelFile", self.classes))
        for name in ("scale", "mean", "std"):
            given = getattr(self, name)
            set_field(self, name, checks.units("ModelFile", name, given, layers[0].n_inputs))
        set_field(self, "metadata", metadata)
        checks.calibrated("ModelFile", self.precision, self.calibration, len(layers))


class Wrong(Exception):
    """(expected, found): a flaw of a file, told without its name, which `formats.read` adds.

    Both may hold words of the file, as many as it has: they are `escaped`, and `shortened` where
    they are too many for a message.
    """

    def __init__(self, expected: str, found: str) -> None:
        words = escaped(expected), escaped(found)
        is_long = sum(map(len, words)) > 2 * _MOST_WORDS
        super().__init__(*(map(shortened, words) if is_long else words))


def escaped(words: str) -> str:
    """`words`, which a terminal can be shown."""
    return words if words.isprintable() else ascii(words)[1:-1]


def shortened(words: str) -> str:
    """The beginning and the end of `words`, `escaped`."""
    text = escaped(words)
    half = _MOST_WORDS // 2 - 5
    return text if len(text) <= _MOST_WORDS else f"{text[:half]} ... {text[-half:]}"


def checked(what: str, build: Callable[[], T]) -> T:
    """`build()`; what it refuses is the file's fault."""
    try:
        return build()
    except (TypeError, ValueError, OverflowError) as reason:
        raise Wrong(f"{what} to be sound", str(reason)) from None


def quoted(value: object) -> str:
    """`value` from a hostile file, for a message: short, and without control characters."""
    text = ""
    for piece in _pieces(value):  # no more than are shown: a megabyte of numbers takes 0.1 s
        text += piece
        if len(text) > checks.MOST_QUOTED:
            break
    return checks.cut(text)


def _pieces(value: object) -> Iterable[str]:
    """`ascii(value)` bit by bit; a long text's piece lacks what is behind."""
    if isinstance(value, dict):
        items = (
            itertools.chain(_pieces(name), (": ",), _pieces(one)) for name, one in value.items()
        )
        return _joined("{", items, "}")
    if isinstance(value, list):
        return _joined("[", map(_pieces, value), "]")
    # No generator for these: a file has thousands of names, and each may be quoted.
    return (ascii(value[:100] if isinstance(value, str | bytes) else value),)


def _joined(start: str, items: Iterable[Iterable[str]], end: str) -> Iterator[str]:
    yield start
    for i, item in enumerate(items):
        if i:
            yield ", "
        yield from item
    yield end


def _check_size(text: str, what: str, n_objects: int, n_commas: int) -> None:
    """`Wrong` for a JSON text of more objects, lists, commas or levels, outside its strings.

    Before there are any values, as they cost more than their text; and before `json` calls itself
    for each level, which ends the process where a thread has a small stack.
    """
    limits = {"{": (n_objects, "objects"), "[": (2 * n_objects, "lists"), ",": (n_commas, "commas")}
    n_most = {mark: text.count(mark) for mark in limits}  # those in strings as well
    is_flat = n_most["{"] + n_most["["] <= _MAX_LEVELS
    if is_flat and all(n_most[mark] <= most for mark, (most, _) in limits.items()):
        return
    # Without escapes each quote is a string's end. Not by a regular expression, which keeps
    # a hundred bytes for each that it has passed.
    plain = text.replace("\\\\", "").replace('\\"', "")
    outside = "".join(plain.split('"')[::2])
    for mark, (most, name) in limits.items():
        if (n := outside.count(mark)) > most:
            raise Wrong(f"at most {most} {name} in {what}", f"{n}")
    if (n := _n_levels(outside)) > _MAX_LEVELS:
        raise Wrong(f"at most {_MAX_LEVELS} levels in {what}", f"{n}")


_STEPS = bytes.maketrans(b"{[}]", b"\1\1\xff\xff")  # as int8: 1 and -1
_NO_STEPS = bytes(set(range(256)) - set(b"{[}]"))


def _n_levels(text: str) -> int:
    """How many brackets are open at once, at most, in a JSON text without its strings."""
    steps = text.encode("ascii", "replace").translate(_STEPS, _NO_STEPS)
    return int(np.cumsum(np.frombuffer(steps, np.int8), dtype=np.int32).max(initial=0))


def _first_twice(names: Iterable[str]) -> str:
    before: set[str] = set()
    for name in names:
        if name in before:
            return name
        before.add(name)
    raise AssertionError("each is there once")


def json_object(
    text: str | bytes, what: str, n_objects: int = _MAX_OBJECTS, n_commas: int = MAX_COMMAS
) -> dict[str, Any]:
    """A JSON object of at most `n_objects` objects, itself among them, twice as many lists and
    `n_commas` commas, `_MAX_LEVELS` deep, without a duplicate key, NaN or Infinity.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            twice = _first_twice(name for name, _ in pairs)
            raise Wrong(f"each key of {what} once", f"{quoted(twice)} twice")
        return found

    def constant(name: str) -> NoReturn:
        raise Wrong(f"finite numbers in {what}", name)

    try:
        # bytes are decoded here: json.loads would guess UTF-16 and UTF-32 as well.
        decoded = text if isinstance(text, str) else text.decode()
        _check_size(decoded, what, n_objects, n_commas)
        found = json.loads(decoded, object_pairs_hook=unique, parse_constant=constant)
    except (ValueError, RecursionError) as reason:
        raise Wrong(f"{what} to be JSON", quoted(str(reason))) from None
    if not isinstance(found, dict):
        raise Wrong(f"{what} to be a JSON object", quoted(found))
    return found
