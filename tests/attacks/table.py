"""Which hostile files there are for which format, and what a refusal may cost.

Invariant: every suffix of `fastnn.formats.SUFFIXES` has a line here, and so have the other readers
of files that are not trusted. A format whose reader is not built in is left out until it is.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from attacks import idx_files, native_files, npz_files
from attacks.kinds import Attack


@dataclasses.dataclass(frozen=True)
class Format:
    """What a reader is fed."""

    seeds: Mapping[str, bytes]
    attacks: Mapping[str, Attack]
    most_seconds: float = 0.1
    """Of CPU time, for one file."""


FORMATS: dict[str, Format] = {
    ".safetensors": Format(native_files.SEEDS, native_files.ATTACKS),
    ".npz": Format(npz_files.SEEDS, npz_files.ATTACKS),
    ".idx": Format(idx_files.SEEDS, idx_files.ATTACKS),
}
