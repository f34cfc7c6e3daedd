"""`fastnn data`: the only command that uses the network, and only when asked to."""

from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from fastnn import mnist
from fastnn.cli.output import Quiet, note, result

app = App(name="data", help="Fetch the MNIST files.")


@app.command
def fetch(
    *,
    to: Annotated[
        Path | None, Parameter(help="Folder to fill; by default the user's cache.")
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Download the four MNIST files (11 MB), checked by SHA-256; prints their folder.

    Files that are there and right are kept. MNIST is by Y. LeCun, C. Cortes and C.J.C. Burges,
    under CC BY-SA 3.0.
    """
    if not quiet:
        note(f"fetching MNIST (11 MB) into {to or mnist.cache_path()}")
    result(str(mnist.fetch(to)))
