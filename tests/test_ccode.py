"""export_c: the C file has the engine's bits under every compiler at hand, and stands alone.

Invariant: one program per compiler holds all the networks that are tested, each under its own name
in one translation unit, reads rows from stdin and writes outputs and labels to stdout; so it runs
under sanitizers and emulators as well. Every compilation is -Wall -Wextra -pedantic -Werror.
"""

import os
import platform
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from oracle import IS_SANITIZED, assert_same_bits, dense, generator, mixed_rows, pixel_rows

import fastnn
from fastnn import Dense, Model, ccode, mnist

pytestmark = pytest.mark.skipif(IS_SANITIZED, reason="what is tested was compiled without them")

STRICT = ["-Wall", "-Wextra", "-pedantic", "-Werror"]
NATIVE = ["-march=native"] if platform.machine() == "x86_64" else []

TOOLCHAINS = {
    "gcc, C99": ["gcc", "-std=c99", "-O1"],
    "gcc, GNU C, this CPU": ["gcc", "-std=gnu11", "-O3", *NATIVE],
    "gcc, sanitized": ["gcc", "-std=c99", "-O0", "-fsanitize=address,undefined",
                       "-fno-sanitize-recover=undefined"],
    "g++": ["g++", "-std=gnu++17", "-O1", *NATIVE, "-xc++"],
    "clang, C99": ["clang", "-std=c99", "-O1"],
    "clang, GNU C, this CPU": ["clang", "-std=gnu11", "-O2", *NATIVE],
    "clang++": ["clang++", "-std=c++17", "-O1", "-xc++"],
    "aarch64 under qemu": ["aarch64-linux-gnu-gcc", "-std=gnu11", "-O2", "-static"],
}  # fmt: skip

PARAMETERS = {"clip": {"lo": -0.7, "hi": 1.3}, "leaky_relu": {"alpha": 0.1}, "elu": {"alpha": 1.5}}
N_ROWS = 24


def networks():
    """{name: (model, its float32 and uint8 rows)}: every activation, precision and edge."""
    found = {}
    rng = generator(5)
    floats, pixels = mixed_rows(rng, N_ROWS, 23) * np.float32(3), pixel_rows(rng, N_ROWS, 23)
    some = rng.standard_normal((64, 23)).astype(np.float32)
    for name, about in fastnn.activations().items():
        values = PARAMETERS.get(name, {})
        inner = ("relu", {}) if about["last_layer_only"] else (name, values)
        hidden = [
            dense(rng, 23, 17, inner[0], **inner[1]), dense(rng, 17, 9, inner[0], **inner[1])
        ]  # fmt: skip
        for n_out in (6, 1) if name in ("identity", "step", "sigmoid", "softmax") else (6,):
            last = dense(rng, 9, n_out, name, **values)
            model = Model([*hidden, last], scale=1 / 255, mean=0.3, std=0.5, task="classify")
            found[f"{name}{n_out}"] = model
            if name in ("identity", "relu", "tanh"):
                found[f"{name}{n_out}_pixels_int8"] = model.quantize(pixel_rows(rng, 64, 23))
                found[f"{name}{n_out}_int8"] = model.quantize(some)
    found["regression"] = Model([dense(rng, 23, 3, "tanh"), dense(rng, 3, 2)], task="regress")
    found["line"] = Model([dense(rng, 23, 1)])
    found["wide"] = Model([dense(rng, 23, 300, "relu"), dense(rng, 300, 40)])
    found["nearly_int8"] = found["wide"].quantize(some)  # no units: bytes take a float layer
    found["certified"] = found["relu6"].certify(pixel_rows(rng, 64, 23))
    found = {name: (model, floats, pixels) for name, model in found.items()}
    digits = mnist.sample()[0].reshape(-1, 784)[:150]
    for precision in ("float32", "int8"):
        model = fastnn.load("mnist-small", precision=precision)
        found[f"digits_{precision}"] = model, digits[:40].astype(np.float32) / 255, digits
    return found


@pytest.fixture(scope="module")
def models():
    return networks()


DRIVER = """
#include <stdio.h>
#include <stdlib.h>
#define CHECK(holds) do { if (!(holds)) { fprintf(stderr, "%s\\n", #holds); exit(2); } } while (0)

typedef struct {
    int n_inputs, n_outputs;
    void (*forward)(const float *, float *);
    int (*predict)(const float *);
    void (*forward_u8)(const uint8_t *, float *);
    int (*predict_u8)(const uint8_t *);
} network;

static const network networks[] = {
NETWORKS
};

int main(void)
{
    for (size_t i = 0; i < sizeof networks / sizeof networks[0]; i++) {
        const network *n = &networks[i];
        for (int is_u8 = 0; is_u8 < 2; is_u8++) {
            int32_t n_rows;
            CHECK(fread(&n_rows, 4, 1, stdin) == 1);
            for (int r = 0; r < n_rows; r++) {
                /* Of exactly the sizes that are promised, for the sanitizers. */
                const size_t n_bytes = (size_t)n->n_inputs * (is_u8 ? 1 : 4);
                void *x = malloc(n_bytes);
                float *y = (float *)malloc((size_t)n->n_outputs * 4);
                int32_t label = 0;
                CHECK(x != NULL && y != NULL && fread(x, 1, n_bytes, stdin) == n_bytes);
                if (is_u8) n->forward_u8((const uint8_t *)x, y);
                else n->forward((const float *)x, y);
                if (is_u8 && n->predict_u8 != NULL) label = n->predict_u8((const uint8_t *)x);
                if (!is_u8 && n->predict != NULL) label = n->predict((const float *)x);
                fwrite(y, 4, (size_t)n->n_outputs, stdout);
                fwrite(&label, 4, 1, stdout);
                free(x);
                free(y);
            }
        }
    }
    return 0;
}
"""


def compile_c(toolchain, source, program, *more):
    """Skips where a tool is missing; returns the command that runs the program."""
    compiler = toolchain[0]
    if not shutil.which(compiler):
        pytest.skip(f"NOT TESTED: needs {compiler}")
    sources = source if isinstance(source, list) else [source]
    command = [*toolchain, *STRICT, *more, *sources, "-o", program, "-lm"]
    subprocess.run([str(part) for part in command], check=True)
    if compiler.startswith("aarch64"):
        if not shutil.which("qemu-aarch64"):
            pytest.skip("NOT TESTED: needs qemu-aarch64")
        return ["qemu-aarch64", str(program)]
    return [str(program)]


@pytest.fixture(scope="module")
def program(models, tmp_path_factory):
    """The folder of a C program with all the networks."""
    folder = tmp_path_factory.mktemp("export")
    lines = []
    for name, (model, _, _) in models.items():
        fastnn.export_c(model, folder / f"{name}.c", inputs="both")
        verbs = [f"{name}_{verb}" for verb in ("forward", "predict", "forward_u8", "predict_u8")]
        if model.task == "regress":
            verbs[1] = verbs[3] = "NULL"
        lines.append(f"    {{{name}_n_inputs, {name}_n_outputs, {', '.join(verbs)}}},")
    includes = "".join(f'#include "{name}.c"\n' for name in models)
    (folder / "driver.c").write_text(includes + DRIVER.replace("NETWORKS", "\n".join(lines)))
    return folder


@pytest.mark.parametrize("toolchain", TOOLCHAINS)
def test_the_bits_are_those_of_the_engine(models, program, toolchain, tmp_path):
    run = compile_c(TOOLCHAINS[toolchain], program / "driver.c", tmp_path / "driver")
    sent = b""
    for _, *rows in models.values():
        for x in rows:
            sent += np.int32(len(x)).tobytes() + np.ascontiguousarray(x).tobytes()
    done = subprocess.run(run, input=sent, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    at = 0
    for name, (model, *rows) in models.items():
        for x in rows:
            size = 4 * len(x) * (model.n_outputs + 1)
            got = np.frombuffer(done.stdout[at : at + size], np.float32).reshape(len(x), -1)
            at += size
            want = model.forward(x).reshape(len(x), -1)
            assert_same_bits(got[:, :-1], want, f"{name}, {x.dtype}")
            if model.task == "classify":
                labels = model.predict(x)
                assert np.array_equal(got[:, -1].view(np.int32), labels), f"{name}, {x.dtype}"
    assert at == len(done.stdout)


def test_certified_labels_are_in_the_float32_file(models):
    """So it is that file."""
    model = models["certified"][0]
    assert list(ccode.pieces(model, "a")) == list(ccode.pieces(model.astype("float32"), "a"))


@pytest.mark.parametrize("name", ["gelu6", "softmax6", "identity6_int8", "digits_int8", "line"])
def test_the_test_main(models, name, tmp_path):
    model = models[name][0]
    fastnn.export_c(model, tmp_path / "a.c")
    run = compile_c(TOOLCHAINS["gcc, C99"], tmp_path / "a.c", tmp_path / "a", "-DFASTNN_TEST_MAIN")
    done = subprocess.run(run, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "a: the bits of fastnn\n")


def test_the_test_main_finds_a_wrong_bit(models, tmp_path):
    """In a bias of the last layer, and in what is expected of predict."""
    fastnn.export_c(models["gelu6"][0], tmp_path / "a.c")
    text = (tmp_path / "a.c").read_text()
    for pattern, message in (
        (r"(a_b2\[6\] = \{\n)(?=-?0x)", "a_forward: row 0, output 0 is -?0x"),
        (r"(a_test_label_u8\[16\] = \{\n)(?=\d)", "a_predict_u8: row 0 is "),
    ):
        changed, n = re.subn(pattern, r"\g<1>1+", text)
        assert n == 1
        (tmp_path / "b.c").write_text(changed)
        flags = TOOLCHAINS["gcc, C99"]
        run = compile_c(flags, tmp_path / "b.c", tmp_path / "b", "-DFASTNN_TEST_MAIN")
        done = subprocess.run(run, capture_output=True, text=True)
        assert done.returncode == 1
        assert re.match(message, done.stdout)
        assert "the bits" not in done.stdout


@pytest.mark.skipif(
    platform.machine() == "x86_64" and "fma" not in fastnn.cpu_features(),
    reason="NOT TESTED: this CPU lacks fused multiply-adds",
)
def test_fusing_elsewhere_would_be_found(models, tmp_path):
    """gcc fuses products and sums in GNU C, but for the pragma: without it, the bits differ."""
    fastnn.export_c(models["hardswish6"][0], tmp_path / "a.c")
    text = (tmp_path / "a.c").read_text()
    pragma = '#pragma GCC optimize("-ffp-contract=off")\n'
    assert pragma in text
    (tmp_path / "a.c").write_text(text.replace(pragma, ""))
    flags = ["gcc", "-std=gnu11", "-O3", *NATIVE]
    run = compile_c(flags, tmp_path / "a.c", tmp_path / "a", "-DFASTNN_TEST_MAIN")
    assert subprocess.run(run, capture_output=True).returncode == 1


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["-ffast-math"], "without -ffast-math"),
        (["-mfpmath=387"], "float has to be computed as float"),
        (["-D__FLT_MANT_DIG__=8"], "float has to be IEEE 754's of 32 bits"),
        (["-D__DBL_MANT_DIG__=24"], "and double, where softmax needs it"),
    ],
)
def test_arithmetic_that_gives_other_bits_is_refused(models, tmp_path, flags, message):
    if flags == ["-mfpmath=387"] and platform.machine() != "x86_64":
        pytest.skip("NOT TESTED: this CPU lacks an x87")
    fastnn.export_c(models["softmax6"][0], tmp_path / "a.c")
    command = ["gcc", "-std=c99", *flags, "-c", tmp_path / "a.c", "-o", tmp_path / "a.o"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode != 0
    assert message in done.stderr


def test_double_matters_to_softmax_alone(models, tmp_path):
    """It is 32 bits wide on some small CPUs."""
    fastnn.export_c(models["tanh6"][0], tmp_path / "a.c")
    command = ["gcc", "-D__DBL_MANT_DIG__=24", "-w", "-c", "a.c", "-o", "a.o"]
    subprocess.run(command, cwd=tmp_path, check=True)


@pytest.mark.parametrize("name", ["digits_float32", "digits_int8", "softmax6", "identity1_int8"])
def test_no_state_and_no_library(models, name, tmp_path):
    """Only constants, of the size that the file says, and the functions that it names."""
    fastnn.export_c(models[name][0], tmp_path / "a.c")
    text = (tmp_path / "a.c").read_text()
    # Not optimised: constants of one value would go.
    command = ["gcc", "-std=c99", "-O0", "-c", tmp_path / "a.c", "-o", tmp_path / "a.o"]
    subprocess.run(command, check=True)
    listed = subprocess.run(
        ["nm", "-S", tmp_path / "a.o"], capture_output=True, text=True, check=True
    )
    symbols = [line.split() for line in listed.stdout.splitlines()]
    kinds = {symbol[-2] for symbol in symbols}
    assert kinds <= set("tTrRU")  # no d, b, C: nothing that can change
    n_bytes = sum(int(s[1], 16) for s in symbols if s[-2] in "rR" and s[-1].startswith("a_"))
    assert f" {n_bytes:,} bytes of constants," in text
    (called,) = re.findall(r"it calls (.*?)\.\n", text)
    needed = {symbol[-1] for symbol in symbols if symbol[-2] == "U"}
    assert needed - {"memcpy", "memset"} <= set(called.split(", "))  # which compilers put in


def test_declarations_alone(models, tmp_path):
    """Two models in C, called from C++ that includes the same files for what they declare."""
    for name in ("softmax6", "line"):
        fastnn.export_c(models[name][0], tmp_path / f"{name}.c")
        command = ["gcc", "-std=c99", *STRICT, "-c", f"{name}.c"]
        subprocess.run(command, cwd=tmp_path, check=True)
    (tmp_path / "main.cc").write_text(
        """
#define FASTNN_DECLARE_ONLY
#include "softmax6.c"
#include "softmax6.c"
#include "line.c"
#include <cstdio>
int main()
{
    float x[softmax6_n_inputs] = {0}, y[softmax6_n_outputs];
    line_forward(x, y);
    std::printf("%a %d\\n", (double)y[0], softmax6_predict(x));
}
"""
    )
    flags = ["g++", "-std=c++17"]
    files = [tmp_path / name for name in ("main.cc", "softmax6.o", "line.o")]
    run = compile_c(flags, files, tmp_path / "main")
    done = subprocess.run(run, capture_output=True, text=True, check=True)
    value, label = done.stdout.split()
    zeros = np.zeros((1, 23), np.float32)
    assert float.fromhex(value) == models["line"][0].predict(zeros)[0]
    assert int(label) == models["softmax6"][0].predict(zeros)[0]


def test_the_example_of_the_page(tmp_path):
    page = (Path(__file__).resolve().parent.parent / "docs" / "export.md").read_text()
    (code,) = re.findall(r"```c\n(.*?)```", page, re.S)
    model = fastnn.load("mnist-small")
    fastnn.export_c(model, tmp_path / "mlp.c")
    (tmp_path / "main.c").write_text(
        f"{code}\n#include <stdio.h>\nint main(void)\n{{\n    uint8_t x[784];\n    "
        'while (fread(x, 1, 784, stdin) == 784) printf("%d\\n", digit_of(x));\n    return 0;\n}\n'
    )
    files = [tmp_path / "main.c", tmp_path / "mlp.c"]
    run = compile_c(TOOLCHAINS["gcc, GNU C, this CPU"], files, tmp_path / "main")
    digits = mnist.sample()[0]
    done = subprocess.run(run, input=digits.tobytes(), capture_output=True, check=True)
    likely = model.predict_proba(digits).max(axis=1) > np.float32(0.9)
    want = np.where(likely, model.predict(digits), -1)
    assert [int(line) for line in done.stdout.split()] == want.tolist()
    assert 10 < (want == -1).sum() < 200


CLASSES = [
    ["yes", "no"],
    ['"*/ int x;', "back\\slash ??/ trigraph", "@ NAME \n\t\0", "grün 🙂 123"],
    [-(2**63), 0, 2**63 - 1],
    [2**64 - 1, 0],
    [True, False],
]


@pytest.mark.parametrize("labels", CLASSES, ids=range(len(CLASSES)))
def test_classes(labels, tmp_path):
    n = len(labels)
    classes = np.array(labels, np.uint64) if labels[0] == 2**64 - 1 else np.array(labels)
    fastnn.export_c(Model([Dense(np.eye(n), np.zeros(n))], classes=classes), tmp_path / "a.c")
    is_text = classes.dtype.kind == "U"
    shown = "fwrite(a_classes[i], 1, strlen(a_classes[i]) + 1, stdout)"
    if not is_text:
        shown = 'printf("%llu,", (unsigned long long)a_classes[i])'
    (tmp_path / "main.c").write_text(
        '#include "a.c"\n#include <stdio.h>\nint main(void) '
        f"{{ for (int i = 0; i < {n}; i++) {shown}; return 0; }}\n"
    )
    run = compile_c(["gcc", "-std=c99"], tmp_path / "main.c", tmp_path / "main")
    out = subprocess.run(run, capture_output=True, check=True).stdout
    if is_text:
        assert out == b"".join(label.split("\0")[0].encode() + b"\0" for label in labels)
        assert np.array_equal(classes, labels)
    else:
        assert [int(word) for word in out.decode().split(",")[:-1]] == [v % 2**64 for v in labels]


def test_labels_that_are_their_indices_are_not_written():
    model = Model([Dense(np.eye(3), np.zeros(3))], classes=[0, 1, 2])
    assert "classes" not in "".join(ccode.pieces(model, "a"))


def test_metadata_is_not_written():
    model = Model([Dense([[1.0]], [0.0])], metadata={"whence": "*/ int secret;"})
    text = "".join(ccode.pieces(model, "a"))
    assert "secret" not in text
    assert "whence" not in text


def test_inputs(models):
    def verbs(model, inputs=None):
        text = "".join(ccode.pieces(model, "a", inputs))
        return set(re.findall(r"^(?:void|int) a_(\w+)\(", text, re.M)), len(text)

    both = {"forward", "predict", "forward_u8", "predict_u8"}
    model = models["digits_float32"][0]
    found, n_both = verbs(model)
    assert found == both
    found, n_u8 = verbs(model, "uint8")
    assert found == {"forward_u8", "predict_u8"}
    assert n_u8 < 0.6 * n_both  # the first layer is there once
    assert verbs(model, "float32")[0] == {"forward", "predict"}
    assert verbs(models["wide"][0])[0] == {"forward", "predict"}  # no units: floats
    assert verbs(models["wide"][0], "both")[0] == both
    assert verbs(models["regression"][0])[0] == {"forward"}
    pixels = models["wide"][0].quantize(pixel_rows(generator(1), 64, 23))
    assert verbs(pixels)[0] == both  # calibrated on them


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("mlp.c", "mlp"),
        ("a/b/my net-v1.2.c", "my_net_v1_2"),
        ("3-2-1.c", "net_3_2_1"),
        ("_x_.c", "x"),
        ("é.c", "net"),
        ("int.c", "int"),
    ],
)
def test_names_made_of_files(file, name, tmp_path):
    assert ccode.name_for(file) == name
    path = tmp_path / os.path.basename(file)
    fastnn.export_c(Model([Dense([[1.0]], [0.0])]), path)
    assert f"void {name}_forward(const float *x, float *y);" in path.read_text()
    subprocess.run(["gcc", "-std=c99", *STRICT, "-fsyntax-only", path], check=True)


def test_what_is_refused(models, tmp_path):
    model = models["line"][0]
    for name in ("3d", "a-b", "", "_a", "é", "a b", "a\n", 3):
        with pytest.raises(ValueError, match="name is .*, wanted a C identifier"):
            fastnn.export_c(model, tmp_path / "a.c", name=name)
    with pytest.raises(ValueError, match="inputs is 'u8', wanted None or one of"):
        fastnn.export_c(model, tmp_path / "a.c", inputs="u8")
    with pytest.raises(ValueError, match=r"a\.cpp', wanted a name that ends in \.c"):
        fastnn.export_c(model, tmp_path / "a.cpp")
    with pytest.raises(ValueError, match="precision is bfloat16, whose bits depend on the CPU"):
        fastnn.export_c(model.astype("bfloat16"), tmp_path / "a.c")
    with pytest.raises(TypeError, match="model is a list, wanted a fastnn.Model"):
        fastnn.export_c(model.layers and [], tmp_path / "a.c")
    with pytest.raises(FileNotFoundError):
        fastnn.export_c(model, tmp_path / "none" / "a.c")
    assert not list(tmp_path.iterdir())


def test_the_same_model_gives_the_same_file(models, tmp_path):
    for name in ("a", "b"):
        fastnn.export_c(models["gelu6"][0], tmp_path / f"{name}.c", name="a")
    assert (tmp_path / "a.c").read_bytes() == (tmp_path / "b.c").read_bytes()


def test_numbers_are_read_back_to_the_bit():
    values = np.array([0, -0.0, 1, 0.1, 2**-149, -3.4e38, np.inf, -np.inf, np.nan], np.float32)
    words = "".join(ccode._array("a", values)).split("\n", 1)[1].replace("\n", "").split(",")[:-1]
    assert words[-3:] == ["INFINITY", "-INFINITY", "NAN"]
    got = np.array([float.fromhex(word.removesuffix("f")) for word in words[:-3]], np.float32)
    assert_same_bits(got, values[:-3])
