"""No kernel keeps a sum in memory: the built module's K loops hold no vector store.

Invariant: kernels are found through the table rows of the module itself (tests/disassembly.py), so
that none is left out; a row of `_core.kernels()` that is not found or has no loops fails.
"""

import platform
import shutil
import subprocess
from pathlib import Path

import pytest
from disassembly import Library

from fastnn import _core

pytestmark = [
    pytest.mark.skipif(
        shutil.which("objdump") is None, reason="NOT TESTED: needs objdump, of binutils"
    ),
    pytest.mark.skipif(
        _core.build_info()["mode"] != "release", reason="NOT TESTED: sanitizers change loops"
    ),
]

KERNELS = [(kernel["isa"], kernel["format"]) for kernel in _core.kernels()]
ISAS, FORMATS = ({kernel[i] for kernel in KERNELS} for i in range(2))


def spills(library):
    """{(isa, format): (K loops, those with a vector store)} of every row of the library's table."""
    found = {}
    for row in library.rows(ISAS, FORMATS):
        loops = []
        for entry in (row.gemm, row.gemm_packed):
            if entry:
                loops += library.k_loops(entry, row.format)
        found[row.isa, row.format] = len(loops), [loop for loop in loops if loop.stores]
    return found


@pytest.fixture(scope="module")
def built():
    return spills(Library(Path(_core.__file__)))


def test_every_row_of_the_table_is_found(built):
    for (isa, name), (n_loops, _) in sorted(built.items()):
        print(f"{isa} {name}: {n_loops} K loops")
    assert built.keys() == set(KERNELS)


@pytest.mark.parametrize(("isa", "number_format"), KERNELS)
def test_no_vector_store_inside_a_k_loop(built, isa, number_format):
    n_loops, spilling = built[isa, number_format]
    assert n_loops >= {"scalar": 1, "amx": 4}.get(isa, 8)
    lines = [i.text for loop in spilling for i in loop.stores]
    assert lines == [], f"{isa} {number_format} keeps a sum in memory"


@pytest.mark.skipif(platform.machine() != "x86_64", reason="NOT TESTED: x86-64 alone")
def test_a_planted_spill_is_convicted(tmp_path):
    """The same kernels, with a sum of each step that goes through memory."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("NOT TESTED: needs a C compiler")
    csrc = Path(__file__).resolve().parent.parent / "csrc"
    planted = tmp_path / "csrc"
    shutil.copytree(csrc, planted)
    operands = planted / "operands.h"
    honest = "{ return v_fma(x, w, sum); }"
    text = operands.read_text()
    assert honest in text
    operands.write_text(
        text.replace(honest, '{ __asm__("" : "+m"(sum)); return v_fma(x, w, sum); }')
    )
    target = tmp_path / "planted.so"
    flags = ["-std=c11", "-O3", "-fPIC", "-shared", "-mavx2", "-mfma", "-DHAVE_AVX2=1"]
    source = planted / "kernels_avx2.c"
    subprocess.run([compiler, *flags, "-I", planted, source, "-o", target], check=True)
    found = spills(Library(target))
    assert len(found["avx2", "f32"][1]) > 8
