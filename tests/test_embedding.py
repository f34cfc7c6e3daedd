"""The engine in other programs: the headers that are installed, and the two examples that use them.

Invariant: the examples are built as their readers build them, in a temporary folder.
"""

import os
import re
import runpy
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from oracle import IS_SANITIZED, assert_same_bits, dense, generator

import fastnn
from fastnn import Dense, Model, embedding

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "examples"
STRICT = ["-Wall", "-Wextra", "-pedantic", "-Werror"]

unsanitized = pytest.mark.skipif(IS_SANITIZED, reason="what is tested was compiled without them")


# --- headers --------------------------------------------------------------------------------------


def test_the_headers_are_there_with_all_that_they_include():
    folder = Path(fastnn.get_include())
    names = {"fastnn.h", "vec_scalar.h", "activations.h", "softmax.h", "portable.h"}
    seen = set()
    while names:
        name = names.pop()
        seen.add(name)
        names |= set(re.findall(r'#include "(.*?)"', (folder / name).read_text())) - seen
    assert "certify.h" in seen
    assert (Path(fastnn.__file__).parent / "_core.pxd").is_file()


def test_an_installed_package_has_its_own(tmp_path, monkeypatch):
    package = tmp_path / "site-packages" / "fastnn"
    (package / "include").mkdir(parents=True)
    monkeypatch.setattr(embedding, "_HERE", str(package))
    with pytest.raises(FileNotFoundError, match=r"fastnn\.h is not in .*include or .*csrc"):
        fastnn.get_include()
    (package / "include" / "fastnn.h").write_text("")
    assert fastnn.get_include() == str(package / "include")


@unsanitized
@pytest.mark.parametrize(
    "compiler", [["gcc", "-std=c11"], ["g++", "-std=c++17", "-xc++"], ["clang", "-std=c11"]]
)
def test_the_public_header_is_c_and_cpp(compiler, tmp_path):
    if not shutil.which(compiler[0]):
        pytest.skip(f"NOT TESTED: needs {compiler[0]}")
    (tmp_path / "a.c").write_text(
        '#include "fastnn.h"\n#include "portable.h"\n#include "softmax.h"\n'
        "int f(const fnn_network *n, const fnn_call *c) { return fnn_forward(n, c) == FNN_OK; }\n"
    )
    command = [*compiler, *STRICT, f"-I{fastnn.get_include()}", "-fsyntax-only"]
    if compiler[0] == "clang":
        command.append("-Wno-unused-function")  # of what a file includes, none is needed
    subprocess.run([*command, "a.c"], cwd=tmp_path, check=True)


# --- C --------------------------------------------------------------------------------------------


@unsanitized
def test_the_c_example(tmp_path):
    """Built by its Makefile from csrc/; its answers are those of the same network here."""
    command = ["make", "-s", f"OUT={tmp_path}", "CFLAGS=-O1 -Werror", "-j2"]
    subprocess.run(command, cwd=EXAMPLES / "embed_c", check=True)
    out = subprocess.run([tmp_path / "strokes"], capture_output=True, text=True, check=True).stdout
    source = (EXAMPLES / "embed_c" / "strokes.c").read_text()

    def rows_of(name):
        (body,) = re.findall(rf" {name}\[.*?\]\[.*?\] = \{{\n(.*?)\}};", source, re.S)
        return [[int(v) for v in row.split(",")] for row in re.findall(r"\{(.*?)\}", body)]

    weight = rows_of("weight")
    model = Model([Dense(weight, [0] * 4, "softmax")], scale=1 / 255)
    pictures = np.array(rows_of("pictures"), np.uint8)
    strokes = "|-/\\"
    assert out.splitlines()[0] == f"kernel: {model.kernels[0]['isa']}"
    assert out.splitlines()[1:] == [
        f"picture {i}: {strokes[label]} ({100 * row[label]:.1f} %)"
        for i, (label, row) in enumerate(
            zip(model.predict(pictures), model.predict_proba(pictures), strict=True)
        )
    ]


@unsanitized
def test_the_example_s_flags_are_those_of_the_build():
    shown = subprocess.run(
        ["make", "-s", "flags"],
        cwd=EXAMPLES / "embed_c",
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    flags = {isa: words.split() for isa, words in (line.split(":") for line in shown.splitlines())}
    before = Path.cwd()
    os.chdir(ROOT)
    try:
        recipe = runpy.run_path("setup.py")
    finally:
        os.chdir(before)
    assert flags == {isa: flags for isa, (_, flags) in recipe["ISAS"].items()}
    makefile = (EXAMPLES / "embed_c" / "Makefile").read_text()
    for architecture in recipe["ANY"]:
        (listed,) = re.findall(rf"ISAS_{architecture} := (.*)", makefile)
        isas = [isa for isa, (where, _) in recipe["ISAS"].items() if architecture in where]
        assert sorted(listed.split()) == sorted(isas)
    for flag in ("-ffp-contract=off", "-std=c11", "-pthread"):
        assert flag in makefile
        assert flag in recipe["COMMON"]


def test_what_the_page_shows_is_in_the_example():
    page = (ROOT / "docs" / "embedding.md").read_text()
    (shown,) = re.findall(r"```cython\n(.*?)```", page, re.S)
    assert shown in (EXAMPLES / "embed_cython" / "rollout.pyx").read_text()


# --- Cython ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def rollout(tmp_path_factory):
    """The folder of the built example, and its function."""
    if IS_SANITIZED:
        pytest.skip("what is tested was compiled without them")
    pytest.importorskip("Cython", reason="NOT TESTED: needs Cython")
    folder = tmp_path_factory.mktemp("cython") / "embed"
    shutil.copytree(
        EXAMPLES / "embed_cython", folder, ignore=shutil.ignore_patterns("build", "*.so", "*.c")
    )
    done = subprocess.run(
        [sys.executable, "setup.py", "-q", "build_ext", "--inplace"],
        cwd=folder, env=environment(folder), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "warning: " not in done.stderr, done.stderr
    sys.path.insert(0, str(folder))
    import rollout

    yield folder, rollout.rollout
    sys.path.remove(str(folder))


def environment(folder):
    """The example's folder, and fastnn, on the path that Cython looks for .pxd files on, where an
    editable install is not."""
    path = os.pathsep.join([str(folder), str(Path(fastnn.__file__).parent.parent)])
    return {**os.environ, "PYTHONPATH": path}


def test_the_cython_example_runs(rollout):
    done = subprocess.run(
        [sys.executable, "demo.py"],
        cwd=rollout[0],
        env=environment(rollout[0]),
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "ns a step in Cython" in done.stdout


@pytest.mark.parametrize("n_steps", [0, 1, 200])
def test_a_rollout_has_the_bits_of_forward(rollout, n_steps):
    rng = generator(1)
    model = Model([dense(rng, 5, 30, "tanh"), dense(rng, 30, 5, "softsign")])
    state = rng.standard_normal(5).astype(np.float32)
    want, at = [], state[None]
    for _ in range(n_steps):
        at = model.forward(at)
        want.append(at[0])
    got = rollout[1](model, state, n_steps)
    assert got.dtype == np.float32
    assert_same_bits(got, np.array(want, np.float32).reshape(n_steps, 5))


def test_a_rollout_gives_the_lock_away(rollout):
    """Another thread computes meanwhile."""
    model = Model([dense(generator(2), 5, 5, "tanh")])
    state = np.ones(5, np.float32)
    is_done, turns = threading.Event(), 0

    def run():
        rollout[1](model, state, 2_000_000)
        is_done.set()

    thread = threading.Thread(target=run)
    thread.start()
    while not is_done.is_set():
        turns += 1
    thread.join()
    assert turns > 1000


def test_what_a_rollout_refuses(rollout):
    model = Model([dense(generator(2), 5, 4)])
    with pytest.raises(ValueError, match="state has 5 numbers, the network takes 5 and gives 4"):
        rollout[1](model, np.ones(5, np.float32), 3)
    with pytest.raises(TypeError, match="Network"):
        rollout[1](object(), np.ones(5, np.float32), 3)
    with pytest.raises(TypeError):
        rollout[1](None, np.ones(5, np.float32), 3)
