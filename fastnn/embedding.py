"""`get_include`: where the C headers are that other C and Cython code compiles against.

Invariant: an installed package has copies of the public headers in `include/`, made by setup.py; a
source tree has them in `csrc/`, and nowhere else. docs/embedding.md says what can be built on them.
"""

import os

__all__ = ["get_include"]

_HERE = os.path.dirname(os.path.abspath(__file__))


def get_include() -> str:
    """The folder of `fastnn.h`, for a C compiler's -I; as `numpy.get_include`.

    `from fastnn._core cimport Network` needs it, and NumPy's own. Raises FileNotFoundError where
    the headers were not installed.
    """
    folders = [os.path.join(_HERE, "include"), os.path.join(os.path.dirname(_HERE), "csrc")]
    for folder in folders:
        if os.path.isfile(os.path.join(folder, "fastnn.h")):
            return folder
    raise FileNotFoundError(f"get_include: fastnn.h is not in {' or '.join(folders)}")
