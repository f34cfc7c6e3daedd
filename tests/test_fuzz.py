"""fuzz/: what was found stays mended, and the mutators make files that get past the first byte.

Fuzzing itself is `make fuzz`; here its targets run on the files in fuzz/found, on the seeds, and on
some hundred mutations of them. None of that needs atheris.
"""

import random
import re
from pathlib import Path

import pytest

from fastnn import formats
from fuzz.mutate import MUTATORS, seeds
from fuzz.targets import target

FOUND = Path(__file__).resolve().parent.parent / "fuzz" / "found"
FILES = sorted(path for path in FOUND.glob("*/*") if path.is_file())


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_what_was_found_stays_mended(path, tmp_path):
    target(f".{path.parent.name}", tmp_path)(path.read_bytes())


def test_there_are_findings():
    assert len(FILES) >= 2


def test_every_reader_has_a_target():
    fuzzed = {formats._MODULES[suffix] for suffix in MUTATORS.keys() & formats._MODULES.keys()}
    assert fuzzed == {*formats._MODULES.values()}
    assert {".idx", ".named"} < MUTATORS.keys()


@pytest.mark.parametrize("suffix", MUTATORS)
def test_seeds_pass_the_target(suffix, tmp_path):
    run = target(suffix, tmp_path)
    for i, seed in enumerate(seeds(suffix)):
        assert not run(seed), i


@pytest.mark.parametrize("suffix", MUTATORS)
def test_mutations_reach_the_inside(suffix, tmp_path):
    """Files that are refused late, and files that are accepted, in one chain of mutations."""
    run, rng, mutate = target(suffix, tmp_path), random.Random(7), MUTATORS[suffix]
    pool, reasons, n_accepted = seeds(suffix), set(), 0
    for _ in range(400):
        data = mutate(rng.choice(pool), rng)
        if data is None or len(data) > 4096:
            continue
        if reason := run(data):
            reasons.add(re.sub(r"\W*\d+\W*|'[^']*'", " ", reason)[:60])
        else:
            n_accepted += 1
            pool.append(data)
    assert n_accepted > 20
    assert len(reasons) > (5 if suffix == ".idx" else 20), reasons
