"""Fast inference for networks of dense layers: the public names, nothing else.

Start at `load` and `Model`. Invariant: importing fastnn costs at most 20 ms on top of NumPy, so
what not every program needs (`mnist`, `idx`, `formats`, `quantize`, ...) is imported when it is
first named.
"""

import importlib
from typing import TYPE_CHECKING, Any

from fastnn._core import activations, cpu_features, kernels
from fastnn._version import __version__
from fastnn.errors import LoadError
from fastnn.layers import Dense
from fastnn.model import Model, load, models

if TYPE_CHECKING:
    from fastnn.ccode import export_c
    from fastnn.embedding import get_include
    from fastnn.formats.keras import from_keras
    from fastnn.formats.onnx import from_onnx
    from fastnn.formats.sklearn import from_sklearn
    from fastnn.formats.torch import from_torch
    from fastnn.selftest import self_test

__all__ = [
    "Dense",
    "LoadError",
    "Model",
    "__version__",
    "activations",
    "cpu_features",
    "export_c",
    "from_keras",
    "from_onnx",
    "from_sklearn",
    "from_torch",
    "get_include",
    "kernels",
    "load",
    "models",
    "self_test",
]

_LAZY_MODULES = {"formats", "idx", "images", "mnist", "quantize", "reference", "verify"}
_LAZY_FUNCTIONS = {
    "export_c": "ccode",
    "from_keras": "formats.keras",
    "from_onnx": "formats.onnx",
    "from_sklearn": "formats.sklearn",
    "from_torch": "formats.torch",
    "get_include": "embedding",
    "self_test": "selftest",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY_MODULES:
        return importlib.import_module(f"fastnn.{name}")
    if name in _LAZY_FUNCTIONS:
        return getattr(importlib.import_module(f"fastnn.{_LAZY_FUNCTIONS[name]}"), name)
    raise AttributeError(f"module 'fastnn' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_LAZY_MODULES})
