"""Types of the compiled module; the docstrings are in _core.pyx."""

from collections.abc import Sequence
from typing import Any, TypedDict

import numpy as np
import numpy.typing as npt

from fastnn.certify import Certificate
from fastnn.layers import Dense
from fastnn.quantize import QuantizedDense

class ActivationInfo(TypedDict):
    parameters: dict[str, float | None]
    last_layer_only: bool
    label_by_z: bool

class KernelInfo(TypedDict):
    isa: str
    format: str
    mr: int
    nr: int

class KernelListing(KernelInfo):
    needs: list[str]
    available: bool
    is_chosen: bool

class BuildInfo(TypedDict):
    compiler: str
    isas_built: list[str]
    isas_left_out: list[str]
    mode: str

class Work(TypedDict):
    executed: int
    effective: int
    n_threads: int
    n_doubtful: int
    layers: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64] | None

_Float32 = npt.NDArray[np.float32]

def activations() -> dict[str, ActivationInfo]: ...
def cpu_features() -> list[str]: ...
def isas() -> list[str]: ...
def kernels() -> list[KernelListing]: ...
def build_info() -> BuildInfo: ...
def check_isa(isa: str | None = None) -> None: ...
def activate(
    name: str, x: npt.ArrayLike, isa: str | None = None, **parameters: float
) -> _Float32: ...
def read_bytes(fd: int, n: int) -> bytes: ...
def all_finite(x: _Float32) -> bool: ...
def scaled_rows(x: _Float32, factor: npt.NDArray[np.float64]) -> _Float32: ...
def peak_gflops(
    isa: str | None = None,
    seconds: float = 0.05,
    format: str = "f32",  # noqa: A002
) -> float: ...

class Certifier:
    @property
    def fast(self) -> Network: ...
    def __init__(self, fast: Network, certificate: Certificate) -> None: ...

class Network:
    @property
    def n_inputs(self) -> int: ...
    @property
    def n_outputs(self) -> int: ...
    def __init__(
        self,
        layers: Sequence[Dense | QuantizedDense],
        *,
        pixel: Dense | QuantizedDense | None = None,
        is_scaled: bool | None = None,
        format: str = "f32",  # noqa: A002
        classes: npt.NDArray[Any] | None = None,
        task: str = "classify",
        isa: str | None = None,
        certifier: Certifier | None = None,
    ) -> None: ...
    @property
    def nbytes(self) -> int: ...
    @property
    def kernels(self) -> tuple[KernelInfo, ...]: ...
    @property
    def pixel_kernel(self) -> KernelInfo: ...
    def predict(
        self, x: Any, *, out: npt.NDArray[Any] | None = None, threads: int | None = None
    ) -> npt.NDArray[Any]: ...
    def forward(
        self, x: Any, *, out: _Float32 | None = None, threads: int | None = None
    ) -> _Float32: ...
    def decision_function(
        self, x: Any, *, out: _Float32 | None = None, threads: int | None = None
    ) -> _Float32: ...
    def predict_proba(
        self, x: Any, *, out: _Float32 | None = None, threads: int | None = None
    ) -> _Float32: ...
    def top_k(
        self,
        x: Any,
        k: int,
        *,
        out: tuple[npt.NDArray[Any], _Float32] | None = None,
        threads: int | None = None,
    ) -> tuple[npt.NDArray[Any], _Float32]: ...
    def trace(
        self,
        x: Any,
        *,
        out: list[tuple[_Float32, _Float32]] | None = None,
        threads: int | None = None,
    ) -> list[tuple[_Float32, _Float32]]: ...
    def warmup(self) -> None: ...
    def _race(self, new: dict[str, Any] | None = None) -> dict[str, Any] | None: ...
    def _work(self, x: Any, threads: int | None = None, labels: bool = False) -> Work: ...
