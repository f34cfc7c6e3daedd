"""Writes all seeds and attacks: `python -m attacks FOLDER`, in tests/."""

import sys
from pathlib import Path

from attacks.kinds import make
from attacks.table import FORMATS


def main(folder: Path) -> None:
    for suffix, each in FORMATS.items():
        for kind, files in (("seeds", each.seeds), ("attacks", each.attacks)):
            place = folder / suffix.removeprefix(".") / kind
            place.mkdir(parents=True)
            for i, attack in enumerate(files.values()):
                make(attack, place / f"{i:03}{suffix}")
            (place / "names.txt").write_text("".join(f"{name}\n" for name in files))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m attacks FOLDER")
    main(Path(sys.argv[1]))
