"""The house rules that a machine can read: what kernels may not do, one fact in one place.

Invariant: reads sources and disassembly; what has no tools here says NOT TESTED.
"""

import io
import re
import runpy
import tokenize
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


# What runs what a file says, by the name that a module, a function or an argument has in Python.
RUNS_DATA = {
    "pickle", "cPickle", "unpickle", "Unpickler", "dill", "cloudpickle", "joblib", "shelve",
    "marshal", "yaml", "eval", "exec", "execfile", "literal_eval", "__import__", "runpy", "imp",
    "pkgutil", "urllib", "requests", "urlopen", "socket", "ftplib",
}  # fmt: skip
PYTHON = sorted([*(ROOT / "fastnn").rglob("*.py"), *(ROOT / "fastnn").rglob("*.py[xi]")])


@pytest.mark.parametrize("path", PYTHON, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_in_the_package_runs_what_a_file_says(path):
    """Words in the code, not in comments or strings. `module.eval()` of PyTorch runs nothing."""
    found = []
    tokens = [
        token
        for token in tokenize.generate_tokens(io.StringIO(path.read_text()).readline)
        if token.type in (tokenize.NAME, tokenize.OP)
    ]
    words = ["", *(token.string for token in tokens), "", ""]
    for before, word, after, then in zip(words, words[1:], words[2:], words[3:], strict=False):
        is_known = (before, word) == (".", "eval") or (word, after, then) == (
            "allow_pickle", "=", "False",
        )  # fmt: skip
        is_compile = word == "compile" and before != "."
        is_trusting = word == "allow_pickle" or is_compile or word in RUNS_DATA
        if is_trusting and not is_known:
            found.append(f"{before} {word} {after}")
    loads = [i for i, w in enumerate(words) if w == "load" and words[i - 2 : i] == ["np", "."]]
    n_told = words.count("allow_pickle")
    assert not found
    assert len(loads) <= n_told, "np.load without allow_pickle=False"


def test_every_isa_has_a_file_a_line_and_a_place_in_the_list():
    isas = recipe()["ISAS"]
    assert set(isas) == {path.stem.removeprefix("kernels_") for path in KERNELS}
    dispatch = (ROOT / "csrc" / "dispatch.c").read_text()
    for isa in isas:
        assert re.search(rf"&fnn_row_(f32|bf16|i8)_{isa},", dispatch)
        assert f'"{isa}"' in dispatch
        if isa != "scalar":
            assert f"#ifdef HAVE_{isa.upper()}\n" in (ROOT / f"csrc/kernels_{isa}.c").read_text()


def test_every_activation_has_a_reference_and_a_definition_in_the_harness():
    names = set(_core.activations())
    assert names == set(reference.ACTIVATIONS)
    harness = (ROOT / "tests" / "c" / "check_activations.c").read_text()
    for name, about in _core.activations().items():
        assert about["last_layer_only"] or f'{{"{name}", exact_{name},' in harness
