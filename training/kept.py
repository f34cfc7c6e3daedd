"""Writes mnist-large from the weights in the tree: `python -m training.kept --to FOLDER`.

Its dense layers are too large for the package (45 MB), but what they were in training is not:
`mnist-large.npz` beside this file (1 MB) holds the convolutions' shared weights, and what the
released file says of itself. Invariant: the weights that come of it are those released, bit by bit.
"""

import json
import sys
from pathlib import Path

import numpy as np

from fastnn import formats
from training import command, data, export
from training.recipes import RECIPES

NAME = "mnist-large"
FILE = Path(__file__).with_name(f"{NAME}.npz")


def dense() -> tuple[export.Arrays, dict[str, str]]:
    """The weights as dense layers and the released file's metadata; SystemExit if they differ.

    ValueError if the file in the tree is damaged.
    """
    import torch

    from training import networks

    network = networks.build(RECIPES[NAME])
    with command.reading(FILE, "kept weights"), open(FILE, "rb") as file:
        kept = dict(np.load(file, allow_pickle=False))
        about = json.loads(str(kept.pop("about")))
        released = about.pop("digest")
        network.load_state_dict({name: torch.from_numpy(array) for name, array in kept.items()})
    arrays = networks.dense_arrays(network)
    if export.digest(arrays) != released:
        sys.exit(f"{FILE} gives other weights here than were released")
    return arrays, about


def main(arguments: list[str] | None = None) -> None:
    parser = command.parser("kept", f"Write {NAME}.safetensors from kept weights.")
    parser.add_argument("--data", help="folder of the MNIST files (default: as fastnn.mnist.load)")
    parser.add_argument("--to", type=Path, required=True, help="folder of the file")
    chosen = parser.parse_args(arguments)
    chosen.to.mkdir(parents=True, exist_ok=True)
    arrays, about = dense()
    name = about.pop("name")
    file = export.model_file(name, arrays, RECIPES[NAME].activation, about)
    path = chosen.to / f"{NAME}.safetensors"
    formats.write(path, export.calibrated(file, data.load(chosen.data).fit_images))
    print(path)


if __name__ == "__main__":
    command.run("kept", main)
