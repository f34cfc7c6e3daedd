"""setup.py, pyproject.toml: every ISA has its flags, nothing is compiled with more than its own.

These are tests of the source tree; what an installed wheel must be is in tools/check_wheel.py.
The build is tried on a toy engine in a temporary folder: the real one takes too long.
"""

import contextlib
import importlib.metadata
import os
import platform
import re
import runpy
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import fastnn
from fastnn import _core

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def recipe():
    """What setup.py defines, with the tree as the current folder."""
    before = Path.cwd()
    os.chdir(ROOT)
    try:
        return runpy.run_path("setup.py")
    finally:
        os.chdir(before)


def test_every_isa_has_a_kernel_file_and_a_line(recipe):
    files = {path.stem.removeprefix("kernels_") for path in ROOT.glob("csrc/kernels_*.c")}
    assert files == set(recipe["ISAS"])


def test_every_isa_of_this_architecture_was_built_or_left_out(recipe):
    ours = [isa for isa, (where, _) in recipe["ISAS"].items() if platform.machine() in where]
    info = _core.build_info()
    assert sorted([*info["isas_built"], *info["isas_left_out"]]) == sorted(ours)
    assert "scalar" in info["isas_built"]


def test_flags_that_would_break_the_promise_are_absent(recipe):
    flags = [*recipe["COMMON"], *recipe["STRICTER"]]
    flags += [flag for _, isa_flags in recipe["ISAS"].values() for flag in isa_flags]
    flags += [flag for pair in recipe["MODES"].values() for part in pair for flag in part]
    assert not [flag for flag in flags if "fast-math" in flag or "native" in flag]
    assert "-ffp-contract=off" in recipe["COMMON"]
    assert recipe["ISAS"]["scalar"] == (recipe["ANY"], [])


def test_the_version_is_written_once():
    assert "version" not in PROJECT
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):  # built, not installed
        assert importlib.metadata.version("fastnn") == fastnn.__version__
    assert re.search(
        rf"^## {re.escape(fastnn.__version__)}\b", (ROOT / "CHANGELOG.md").read_text(), re.M
    )


def test_the_core_depends_on_numpy_alone():
    names = [re.match(r"[\w-]+", each).group() for each in PROJECT["dependencies"]]
    assert names == ["numpy"]


def test_every_extra_that_a_message_names_exists():
    named = {}
    for path in [*ROOT.glob("fastnn/**/*.py"), *ROOT.glob("*.md")]:
        for extras in re.findall(r"fastnn\[([\w,]+)\]", path.read_text()):
            named |= dict.fromkeys(extras.split(","), path)
    assert named
    unknown = named.keys() - PROJECT["optional-dependencies"].keys()
    assert not {extra: named[extra] for extra in unknown}


TOY = {
    "README.md": "",
    "LICENSE": "",
    "fastnn/__init__.py": "",
    "fastnn/_version.py": "__version__ = '1'\n",
    "fastnn/sample/LICENSE.md": "",
    "fastnn/_core.pyx": """
cdef extern from *:
    "int fnn_sum(void);"
    int fnn_sum()
    const char *FNN_BUILD_ISAS
    const char *FNN_BUILD_LEFT_OUT
    const char *FNN_BUILD_MODE

def info():
    return fnn_sum(), FNN_BUILD_ISAS, FNN_BUILD_LEFT_OUT, FNN_BUILD_MODE
""",
    "csrc/kernel.h": "int fnn_scalar(void), fnn_avx2(void), fnn_sum(void);\n",
    "csrc/kernels_scalar.c": '#include "kernel.h"\nint fnn_scalar(void) { return 1; }\n',
    "csrc/kernels_avx2.c": """
#include <immintrin.h>
#include "kernel.h"
int fnn_avx2(void) { return _mm256_extract_epi32(_mm256_set1_epi32(2), 0); }
""",
    "csrc/dispatch.c": """
#include "kernel.h"
int fnn_sum(void) {
#ifdef HAVE_AVX2
    return fnn_scalar() + fnn_avx2();
#else
    return fnn_scalar();
#endif
}
""",
}
"""An engine of one addition, where each ISA adds another number."""

on_x86 = pytest.mark.skipif(
    platform.machine() != "x86_64",
    reason="NOT TESTED: this CPU lacks AVX2, the toy engine's second ISA",
)
unsanitized = pytest.mark.skipif(
    _core.build_info()["mode"] == "sanitize",
    reason="a build has nothing to sanitize, and is slow there",
)


@pytest.fixture
def toy(tmp_path):
    for name, text in TOY.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    for name in ["setup.py", "pyproject.toml"]:
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def build(folder, **environment):
    """Build in place; what compiled, and what `info` says."""
    clean = {k: v for k, v in os.environ.items() if k != "LD_PRELOAD" and "FASTNN" not in k}
    done = subprocess.run(
        [sys.executable, "setup.py", "build_ext", "--inplace"],
        cwd=folder, env=clean | environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    output = done.stdout + done.stderr
    if done.returncode:
        return output, None
    code = "import fastnn._core as c; print(*c.info())"
    info = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env=clean,
        capture_output=True,
        text=True,
        check=True,
    )
    compiled = re.findall(r" -c (\S+\.c) ", output)
    return sorted(
        Path(name).stem for name in compiled if "flags.c" not in name
    ), info.stdout.strip()


@on_x86
@unsanitized
def test_a_build_compiles_what_changed_and_no_more(toy):
    everything = ["_core", "dispatch", "kernels_avx2", "kernels_scalar"]
    good = "3 b'scalar,avx2' b'' b'release'"
    assert build(toy) == (everything, good)
    assert build(toy) == ([], good)
    (toy / "csrc/kernels_avx2.c").write_text(TOY["csrc/kernels_avx2.c"].replace("(2)", "(5)"))
    assert build(toy) == (["_core", "kernels_avx2"], good.replace("3", "6"))
    (toy / "csrc/kernel.h").touch()
    assert build(toy)[0] == everything
    assert build(toy, FASTNN_DEBUG="1") == (
        everything,
        good.replace("3", "6").replace("release", "debug"),
    )
    assert build(toy) == ([], good.replace("3", "6"))
    (toy / "csrc/kernels_avx2.c").unlink()
    assert build(toy) == (["_core", "dispatch"], "1 b'scalar' b'' b'release'")


@on_x86
@unsanitized
def test_a_compiler_that_does_not_know_an_isa_leaves_it_out(toy):
    compiler = toy / "old-cc"
    compiler.write_text(
        "#!/bin/sh\n"
        'case "$*" in *-mavx2*) echo "what is -mavx2?" >&2; exit 1;; esac\n'
        'exec cc "$@"\n'
    )
    compiler.chmod(0o755)
    _, info = build(toy, CC=str(compiler))
    assert info == "1 b'scalar' b'avx2' b'release'"
    output, info = build(toy, CC=str(compiler), FASTNN_REQUIRE_ALL_ISAS="1")
    assert info is None
    assert "left out: avx2" in output


@unsanitized
def test_other_platforms_are_refused_by_name(toy):
    code = """
import platform, runpy, sys
platform.machine = lambda: "riscv64"
sys.argv = ["setup.py", "build_ext", "--inplace"]
runpy.run_path("setup.py", run_name="__main__")
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=toy, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    wanted = "fastnn supports 64-bit Linux on x86_64 and aarch64; this is Linux on riscv64"
    assert wanted in done.stderr
