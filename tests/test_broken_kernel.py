"""csrc/verify.c from Python: a build whose kernel computes wrongly is refused, by name.

Which faults are caught, and what looking for them costs, is in tests/c/check_verify.c. Here the
package is built once more, with one: products rounded before they are added, as a compiler may do.
"""

import json
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fastnn import _core

ROOT = Path(__file__).resolve().parent.parent
ISA = {"x86_64": "avx2", "aarch64": "neon"}[platform.machine()]
HONEST, PLANTED = "{ return v_fma(x, w, sum); }", "{ return v_add(sum, v_mul(x, w)); }"

pytestmark = [
    pytest.mark.skipif(ISA not in _core.isas(), reason=f"NOT TESTED: this CPU lacks {ISA}"),
    pytest.mark.skipif(
        _core.build_info()["mode"] == "sanitize",
        reason="NOT TESTED: sanitizers change nothing here",
    ),
]

PROGRAM = """
import json
import fastnn

def outcome(**options):
    try:
        model = fastnn.load("mnist-small", **options)
        return model.predict(fastnn.mnist.sample()[0][:100]).tolist()
    except RuntimeError as error:
        return str(error)

print(json.dumps({
    "best": outcome(),
    "scalar": outcome(isa="scalar"),
    "file": fastnn.__file__,
}))
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A copy of the tree with the fault, scalar and one more instruction set, built in place."""
    tree = tmp_path_factory.mktemp("planted") / "tree"
    tree.mkdir()
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    kept = {"kernels_scalar.c", f"kernels_{ISA}.c"}
    for name in ("csrc", "fastnn"):
        shutil.copytree(
            ROOT / name,
            tree / name,
            ignore=lambda _, files: [
                file
                for file in files
                if file.endswith((".so", ".pyc"))
                or (file.startswith("kernels_") and file not in kept)
            ],
        )
    operands = tree / "csrc" / "operands.h"
    text = operands.read_text()
    assert text.count(HONEST) == 1
    operands.write_text(text.replace(HONEST, PLANTED))
    subprocess.run(
        [sys.executable, "setup.py", "-q", "build_ext", "--inplace"],
        cwd=tree, env={**os.environ, "FASTNN_DEBUG": "1"}, check=True, capture_output=True,
    )  # fmt: skip
    return tree


def test_a_kernel_that_computes_wrongly_is_named_and_another_isa_still_works(built):
    environment = {**os.environ, "PYTHONPATH": str(built)}
    environment.pop("FASTNN_ISA", None)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=built, env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    found = json.loads(done.stdout)
    assert Path(found["file"]).is_relative_to(built)
    assert f"the {ISA} kernel for f32 does not give what plain C gives" in found["best"]
    assert "isa=" in found["best"]
    assert len(found["scalar"]) == 100
