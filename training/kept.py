"""Writes mnist-large from the weights in the tree: `python -m training.kept --to FOLDER`.

Its dense layers are too large for the package (45 MB), but what they were in training is not:
`mnist-large.npz` beside this file (1 MB) holds the convolutions' shared weights, and what the
released file says of itself. Invariant: the weights that come of it are those released, bit by bit.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np

from fastnn import formats
from training import data, export
from training.recipes import RECIPES

NAME = "mnist-large"
FILE = Path(__file__).with_name(f"{NAME}.npz")


def dense() -> tuple[export.Arrays, dict[str, str]]:
    """The weights as dense layers and the released file's metadata; SystemExit if they differ."""
    import torch

    from training import networks

    with np.load(FILE, allow_pickle=False) as kept:
        about = json.loads(str(kept["about"]))
        state = {name: torch.from_numpy(kept[name]) for name in kept.files if name != "about"}
    network = networks.build(RECIPES[NAME])
    network.load_state_dict(state)
    arrays = networks.dense_arrays(network)
    if export.digest(arrays) != about.pop("digest"):
        sys.exit(f"{FILE} gives other weights here than were released")
    return arrays, about


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=f"Write {NAME}.safetensors from kept weights.")
    parser.add_argument("--data", help="folder of the MNIST files (default: as fastnn.mnist.load)")
    parser.add_argument("--to", type=Path, required=True, help="folder of the file")
    chosen = parser.parse_args(arguments)
    arrays, about = dense()
    name = about.pop("name")
    file = export.model_file(name, arrays, RECIPES[NAME].activation, about)
    chosen.to.mkdir(parents=True, exist_ok=True)
    path = chosen.to / f"{NAME}.safetensors"
    formats.write(path, export.calibrated(file, data.load(chosen.data).fit_images))
    print(path)


if __name__ == "__main__":
    main()
