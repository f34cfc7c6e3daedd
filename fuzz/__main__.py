"""Fuzzes a reader: python -m fuzz SUFFIX [option of libFuzzer ...]

    python -m fuzz .npz -max_total_time=60
    python -m fuzz .npz -runs=1000000

The corpus grows in build/fuzz/; what is found is left there too, as crash-..., for fuzz/found. A
run that finds something ends with a traceback. build/fuzz/npz.json, say, adds up all runs, by the
thousand and cut short or not: executions, and how many of the inputs were accepted.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

import atheris

ROOT = Path(__file__).resolve().parent.parent

with atheris.instrument_imports(include=["fastnn.formats", "fastnn.idx", "fastnn.checks"]):
    from fastnn import checks, formats, idx  # noqa: F401
    from fastnn.formats import model_file

    for name in set(formats._MODULES.values()):
        __import__(f"fastnn.formats.{name}")
    from fuzz.mutate import MUTATORS, seeds
    from fuzz.targets import target

assert model_file


def main() -> None:
    suffix, *options = sys.argv[1:]
    corpus = ROOT / "build" / "fuzz" / suffix.removeprefix(".")
    corpus.mkdir(parents=True, exist_ok=True)
    for i, seed in enumerate(seeds(suffix)):
        (corpus / f"seed{i}").write_bytes(seed)
    mutator, counts = MUTATORS.get(suffix), [0, 0]
    tally = corpus.with_suffix(".json")
    before = json.loads(tally.read_text()) if tally.exists() else [0, 0]
    run = target(suffix, corpus.parent)

    def test_one_input(data: bytes) -> None:
        counts[0] += 1
        counts[1] += not run(data)
        if counts[0] % 1000 == 0:  # now: libFuzzer's end is the end of the process
            total = [a + b for a, b in zip(before, counts, strict=True)]
            tally.write_text(json.dumps(total))

    def mutate(data: bytes, max_size: int, seed: int) -> bytes:
        rng = random.Random(seed)
        found = mutator(data, rng) if mutator is not None and rng.randrange(4) else None
        if found is None or len(found) > max_size:
            found = atheris.Mutate(data, max_size)
        return found

    arguments = [sys.argv[0], f"-artifact_prefix={corpus}/", "-max_len=4096", "-timeout=10"]
    atheris.Setup(
        [*arguments, "-rss_limit_mb=1024", *options, str(corpus)],
        test_one_input,
        custom_mutator=mutate,
    )
    atheris.Fuzz()


if __name__ == "__main__":
    main()
