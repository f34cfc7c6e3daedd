"""Checks what a user of pip gets: sdist -> wheel from that sdist -> clean environment -> tests.

    python tools/check_wheel.py [argument of pytest ...]

Everything happens in a temporary folder outside the tree, so nothing can be imported that was not
packaged. Also checked: what is in the wheel and what is not, its size without the models
(< 1 MB), that a bare install works without the extras, and the import time on top of NumPy
(<= 20 ms). Exit status 0 iff all of it holds.
"""

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MAX_BYTES = 1_000_000
MAX_IMPORT_S = 0.020
PIP = ["-m", "pip", "--disable-pip-version-check"]
IN_SDIST = ["setup.py", "csrc/kernel.h", "fastnn/_core.pyx", "tests/conftest.py", "LICENSE"]
HEADERS = {"certify.h", "fastnn.h", "activations.h", "portable.h", "softmax.h", "vec_scalar.h"}
IN_WHEEL = [
    "fastnn/py.typed", "fastnn/_core.pyi", "fastnn/_core.pxd", "fastnn/sample/LICENSE.md",
    *(f"fastnn/include/{name}" for name in HEADERS),
]  # fmt: skip
SOURCE_TESTS = ["harness", "house", "packaging", "broken_kernel"]  # they need what builds the tree
# Minutes of all 70,000 digits, of kernels from the same sources and flags as those of `make test`.
LONG_TESTS = ["mnist_labels", "certified"]
NOT_IN_WHEEL = (".c", ".h", ".pyx", ".pxd", ".o", ".pyc")

IMPORT_TIME = """
import time
import numpy
start = time.perf_counter()
import fastnn
print(time.perf_counter() - start)
"""


def step(what: str) -> None:
    print(f"[{time.strftime('%H:%M:%S')}] {what}", flush=True)


def check(holds: bool, what: str) -> None:
    if not holds:
        sys.exit(f"check_wheel: {what}")


def make_sdist(folder: Path) -> Path:
    code = f"from setuptools import build_meta; build_meta.build_sdist({str(folder)!r})"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )  # its many warnings matter only when it fails
    check(done.returncode == 0, f"no sdist:\n{done.stdout}{done.stderr}")
    (sdist,) = folder.glob("*.tar.gz")
    return sdist


def unpack(sdist: Path, folder: Path) -> Path:
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    (tree,) = folder.iterdir()
    for name in IN_SDIST:
        check((tree / name).is_file(), f"{name} is not in the sdist")
    return tree


def make_wheel(sdist: Path, folder: Path) -> Path:
    command = [sys.executable, *PIP, "wheel", "-q", "--no-deps", "-w", str(folder), str(sdist)]
    subprocess.run(command, check=True)
    (wheel,) = folder.glob("*.whl")
    return wheel


def check_contents(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        entries = archive.infolist()
    names = [entry.filename for entry in entries]
    for name in IN_WHEEL:
        check(name in names, f"{name} is not in the wheel")
    check(
        any(name.startswith("fastnn/_core.") and name.endswith(".so") for name in names),
        "the compiled module is not in the wheel",
    )
    top = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    check(top == {"fastnn"}, f"the wheel installs {sorted(top)}, not fastnn alone")
    sources = [name for name in names if name.endswith(NOT_IN_WHEEL) and name not in IN_WHEEL]
    check(not sources, f"the wheel carries sources: {sources}")
    models = [entry for entry in entries if entry.filename.startswith("fastnn/models/")]
    n_bytes = sum(entry.compress_size for entry in entries) - sum(e.compress_size for e in models)
    print(f"{wheel.name}: {len(names)} files; {n_bytes:,} bytes without {len(models)} models")
    check(n_bytes < MAX_BYTES, f"{n_bytes:,} bytes without models; the limit is {MAX_BYTES:,}")


def check_bare_install(python: Path, folder: Path) -> None:
    """Without the extras: the import is quick, and `fastnn` says what it is and what is missing."""
    times = []
    for _ in range(15):
        done = subprocess.run(
            [python, "-c", IMPORT_TIME], cwd=folder, check=True, capture_output=True, text=True
        )
        times.append(float(done.stdout))
    print(f"import fastnn: {min(times) * 1e3:.1f} ms on top of NumPy (best of {len(times)})")
    check(min(times) <= MAX_IMPORT_S, f"the limit is {MAX_IMPORT_S * 1e3:.0f} ms")
    done = subprocess.run(
        [python.parent / "fastnn"], cwd=folder, capture_output=True, text=True, check=False
    )
    print(done.stdout + done.stderr, end="")
    check("fastnn[cli]" in done.stdout + done.stderr, "`fastnn` does not name the extra it needs")


def main(arguments: list[str]) -> None:
    with tempfile.TemporaryDirectory(prefix="fastnn-wheel-") as name:
        folder = Path(name)
        step("sdist")
        sdist = make_sdist(folder)
        tree = unpack(sdist, folder / "unpacked")
        step("wheel from that sdist, in isolation")
        wheel = make_wheel(sdist, folder)
        check_contents(wheel)
        step("clean environment")
        venv.create(folder / "venv", with_pip=True)
        python = folder / "venv" / "bin" / "python"
        subprocess.run([python, *PIP, "install", "-q", str(wheel)], check=True)
        check_bare_install(python, folder)
        step("the tests, against the installed wheel")
        subprocess.run([python, *PIP, "install", "-q", f"{wheel}[test]"], check=True)
        shutil.rmtree(tree / "fastnn")
        for subject in [*SOURCE_TESTS, *LONG_TESTS]:
            (tree / f"tests/test_{subject}.py").unlink(missing_ok=True)
        environment = {**os.environ, "PYTHONSAFEPATH": "1"}
        done = subprocess.run(
            [python, "-m", "pytest", "-p", "no:cacheprovider", *arguments],
            cwd=tree,
            env=environment,
            check=False,
        )
        check(done.returncode == 0, f"pytest ended with status {done.returncode}")
    step("the wheel is good")


if __name__ == "__main__":
    main(sys.argv[1:])
