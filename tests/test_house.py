"""The house rules that a machine can read: what kernels may not do, one fact in one place.

Invariant: reads sources and disassembly; what has no tools here says NOT TESTED.
"""

import os
import platform
import re
import runpy
import shutil
import subprocess
from pathlib import Path

import pytest

from fastnn import _core, reference

ROOT = Path(__file__).resolve().parent.parent
CSRC = sorted((ROOT / "csrc").glob("*.[ch]"))
KERNELS = sorted((ROOT / "csrc").glob("kernels_*.c"))
VECTORS = sorted((ROOT / "csrc").glob("vec_*.h"))
KERNEL_PARTS = [
    *KERNELS,
    *VECTORS,
    *(ROOT / "csrc" / name for name in ("microkernel.h", "activations.h", "certify_loops.h")),
]

by_file = pytest.mark.parametrize("path", CSRC, ids=lambda path: path.name)


def code_of(path):
    """A C file without its comments."""
    return re.sub(r"/\*.*?\*/", "", path.read_text(), flags=re.DOTALL)


def recipe():
    return runpy.run_path(str(ROOT / "setup.py"))


def test_the_sources_are_here():
    assert len(KERNELS) >= 4
    assert len(VECTORS) >= 4


@by_file
def test_opens_with_what_lives_here(path):
    text = path.read_text()
    assert text.startswith("/* ")
    head = text[: text.index("*/")].splitlines()
    assert len(head) <= 40
    # "The vector vocabulary on NEON. See vec_scalar.h for the contract." says where it is.
    assert re.search(r"Invariant|See \w+\.h for the contract", "\n".join(head))


@by_file
def test_knows_nothing_of_python(path):
    assert not re.search(r"Python\.h|numpy|\bPy[A-Z_]\w+", code_of(path))


@by_file
def test_holds_no_dead_code(path):
    text = path.read_text()
    assert not re.search(r"#\s*if\s+0\b", text)
    assert not re.search(r"^\s*//", text, flags=re.MULTILINE)


@pytest.mark.parametrize("path", KERNEL_PARTS, ids=lambda path: path.name)
def test_kernels_neither_allocate_nor_print_nor_wait(path):
    forbidden = r"\b(malloc|calloc|realloc|free|posix_memalign|mmap|printf|abort|exit|pthread\w*)\b"
    assert not re.search(forbidden, code_of(path))


@by_file
def test_only_one_file_knows_threads(path):
    assert path.name == "threads.c" or "pthread" not in code_of(path)


@by_file
def test_only_kernels_see_vectors(path):
    if path in KERNEL_PARTS:
        return
    assert not re.search(r"immintrin\.h|arm_neon\.h|_mm(256|512)_", code_of(path))


@by_file
def test_no_approximate_reciprocals(path):
    assert not re.search(r"_rcp|_rsqrt|vrecpe|vrsqrte|-ffast-math", code_of(path))


def test_every_isa_has_a_file_a_line_and_a_place_in_the_list():
    isas = recipe()["ISAS"]
    assert set(isas) == {path.stem.removeprefix("kernels_") for path in KERNELS}
    dispatch = (ROOT / "csrc" / "dispatch.c").read_text()
    for isa in isas:
        assert f"&fnn_row_f32_{isa}," in dispatch
        assert f'"{isa}"' in dispatch
        if isa != "scalar":
            assert f"#ifdef HAVE_{isa.upper()}\n" in (ROOT / f"csrc/kernels_{isa}.c").read_text()


def test_every_activation_has_a_reference_and_a_definition_in_the_harness():
    names = set(_core.activations())
    assert names == set(reference.ACTIVATIONS)
    harness = (ROOT / "tests" / "c" / "check_activations.c").read_text()
    for name, about in _core.activations().items():
        assert about["last_layer_only"] or f'{{"{name}", exact_{name},' in harness


# ---- no vector store inside a K loop -------------------------------------------------------------

INSTRUCTION = re.compile(r"^\s*([0-9a-f]+):\s+(\S+)\s*(.*?)\s*(?:#.*)?$")
IS_VECTOR_STORE = re.compile(r"^%[xyz]mm\d+(\{.*\})?,\s*[^,]*\(")  # AT&T: the target comes last


def instructions_of(listing):
    """(address, mnemonic, operands) of each line of objdump's listing, by function."""
    functions, name = {}, None
    for line in listing.splitlines():
        if title := re.match(r"^[0-9a-f]+ <(.+)>:$", line):
            name = title[1]
            functions[name] = []
        elif name and (match := INSTRUCTION.match(line)):
            functions[name].append((int(match[1], 16), match[2], match[3]))
    return functions


def innermost_loops(code):
    """The bodies between a jump back and its target that hold no other such jump."""
    loops = []
    for address, mnemonic, operands in code:
        if mnemonic.startswith("j") and (target := re.match(r"([0-9a-f]+)\b", operands)):
            start = int(target[1], 16)
            if start <= address:
                loops.append((start, address))
    inner = [a for a in loops if not any(b != a and a[0] <= b[0] and b[1] <= a[1] for b in loops)]
    return [[i for i in code if start <= i[0] <= end] for start, end in inner]


def k_loops(listing):
    """Innermost loops of gemm with vector multiply-adds."""
    for name, code in instructions_of(listing).items():
        if re.match(r"(gemm|rows|tile)\b", name):
            for loop in innermost_loops(code):
                n_fma = sum(bool(re.match(r"vfn?madd\d+ps", i[1])) for i in loop)
                if n_fma >= 8:
                    yield name, loop


def stores_in(loop):
    return [i for i in loop if i[1].startswith("v") and IS_VECTOR_STORE.match(i[2])]


def test_the_store_finder_finds():
    loop = "0000 <gemm>:\n  10:\tvmovups (%rax),%zmm0\n"
    loop += "".join(f"  1{i}:\tvfmadd231ps %zmm0,%zmm1,%zmm{i}\n" for i in range(2, 10))
    jump = "  1d:\tjne    10 <gemm+0x10>\n"
    store = "  1c:\tvmovaps %zmm2,0x40(%rsp)\n"
    ((_, clean),) = k_loops(loop + jump)
    ((_, spills),) = k_loops(loop + store + jump)
    assert stores_in(clean) == []
    assert len(stores_in(spills)) == 1


@pytest.mark.parametrize("isa", ["avx2", "avx512"])
def test_no_vector_store_inside_a_k_loop(isa, tmp_path):
    compiler, objdump = shutil.which(os.environ.get("CC", "cc")), shutil.which("objdump")
    if platform.machine() != "x86_64" or compiler is None or objdump is None:
        pytest.skip("NOT TESTED: needs x86-64, a C compiler and objdump")
    if isa not in _core.build_info()["isas_built"]:
        pytest.skip(f"NOT TESTED: the compiler does not know {isa}")
    tables = recipe()
    flags = [*tables["COMMON"], *tables["MODES"]["release"][0], *tables["ISAS"][isa][1]]
    target = tmp_path / "kernels.o"
    source = ROOT / "csrc" / f"kernels_{isa}.c"
    command = [compiler, *flags, f"-DHAVE_{isa.upper()}=1", "-c", source, "-o", target]
    subprocess.run(command, check=True, cwd=ROOT)
    listing = subprocess.run(
        [objdump, "-d", "--no-show-raw-insn", target], check=True, capture_output=True, text=True
    ).stdout
    loops = list(k_loops(listing))
    assert len(loops) >= 6, "the K loops were not found"
    for name, loop in loops:
        assert stores_in(loop) == [], f"{name} at {loop[0][0]:x} keeps an accumulator in memory"
