"""fastnn.plot: what stands in the pictures, that they are the same twice, and what is refused."""

import base64
import html
import io
import re
import subprocess
import sys

import numpy as np
import pytest

import fastnn
from fastnn import reference
from fastnn.__main__ import main
from fastnn.plot import curves, draw_activations, draw_network, network
from fastnn.plot.sheet import NEGATIVE, POSITIVE, check_plot, sheet

pytest.importorskip("matplotlib", reason="NOT TESTED: needs the extra fastnn[plot]")


def words_of(path):
    """The texts of an SVG, in order."""
    found = re.findall(r"<text[^>]*>(.*?)</text>", path.read_text(), re.S)
    return [html.unescape(re.sub(r"<[^>]*>", "", words)) for words in found]


def random_model(*widths, hidden="relu", seed=0, **parameters):
    rng = np.random.default_rng(seed)
    last = len(widths) - 2
    return fastnn.Model(
        [
            fastnn.Dense(
                rng.normal(size=pair),
                rng.normal(size=pair[1]),
                "identity" if i == last else hidden,
                **({} if i == last else parameters),
            )
            for i, pair in enumerate(zip(widths, widths[1:], strict=False))
        ]
    )


# ---- the sheet -----------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".svg", ".png", ".pdf"])
def test_a_picture_is_the_same_twice_and_whatever_the_users_settings(tmp_path, suffix):
    import matplotlib

    first, second = tmp_path / f"a{suffix}", tmp_path / f"b{suffix}"
    model = fastnn.load("sigmoid-3-2-1")
    draw_network(first, model, name="a")
    with matplotlib.rc_context({"font.size": 30, "text.color": "red", "svg.hashsalt": None}):
        draw_network(second, model, name="a")
    assert first.read_bytes() == second.read_bytes()


def test_matplotlib_is_imported_by_the_drawing_only():
    code = "import sys, fastnn.plot, fastnn.cli.main; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_no_half_picture_is_left(tmp_path):
    path = tmp_path / "a.svg"
    path.write_text("the one before")
    with pytest.raises(ZeroDivisionError), sheet(path, (2, 2)):
        raise ZeroDivisionError
    assert path.read_text() == "the one before"
    assert [file.name for file in tmp_path.iterdir()] == ["a.svg"]


def test_what_cannot_be_written_is_refused(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"a\.jpeg: wanted a name that ends in \.svg, \.png"):
        draw_activations(tmp_path / "a.jpeg")
    with pytest.raises(FileNotFoundError, match="none: no such folder"):
        draw_network(tmp_path / "none" / "a.svg", fastnn.load("xor"), name="xor")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"pip install \"fastnn\[plot\]\""):
        check_plot(tmp_path / "a.svg")


# ---- activations ---------------------------------------------------------------------------------


def test_every_activation_has_a_panel_with_its_formula(tmp_path):
    path = tmp_path / "a.svg"
    draw_activations(path)
    words = words_of(path)
    for name in fastnn.activations():
        assert words.count(name) == 1
    joined = " ".join(" ".join(words).replace("\N{NO-BREAK SPACE}", " ").split())
    for formula in ("1 / (1 + exp(-z))", "z if z > 0 else +0", "lo=-2, hi=3", "log(1 + exp(z))"):
        assert formula in joined


def test_every_formula_is_short_enough_for_its_place():
    for name in fastnn.activations():
        assert 0 < len(curves._sentence(name)) <= 68


@pytest.mark.parametrize("name", fastnn.activations())
def test_curves_are_those_of_the_reference(name):
    z = np.linspace(-5, 5, 41, dtype=np.float32)
    info = fastnn.activations()[name]
    values = {
        key: 1.0 if default is None else default for key, default in info["parameters"].items()
    }
    a = curves.curve(name, z, values)
    inputs = np.stack([z, np.zeros_like(z)], axis=1) if info["last_layer_only"] else z
    np.testing.assert_allclose(a, reference.ACTIVATIONS[name](inputs, **values), rtol=1e-6)


# ---- networks ------------------------------------------------------------------------------------


def test_a_small_network_shows_every_number(tmp_path):
    path = tmp_path / "a.svg"
    draw_network(path, fastnn.load("sigmoid-3-2-1"), name="the name")
    words = words_of(path)
    assert words[0] == "the name"
    for expected in (
        "x0", "x1", "x2", "0.2", "-0.5", "0.4", "0.3", "-0.6", "0.1", "0.7", "-0.3",
        "b0 = 0.1", "b1 = -0.2", "b0 = 0.05", "layer 0", "layer 1", "y",
    ):  # fmt: skip
        assert words.count(expected.replace("-", "\N{MINUS SIGN}")) == 1, expected
    assert words.count("sigmoid") == 2


def test_lines_are_blue_above_0_orange_below_and_absent_at_0(tmp_path):
    path = tmp_path / "a.svg"
    model = fastnn.Model([fastnn.Dense([[2.0, -1.0], [0.0, 0.0]], [0, 0])])
    draw_network(path, model, name="a")
    strokes = re.findall(r"stroke: (#[0-9a-f]{6}); stroke-opacity: 0\.85", path.read_text())
    assert sorted(strokes) == sorted([POSITIVE, NEGATIVE])


def test_names_of_the_outputs(tmp_path):
    path = tmp_path / "a.svg"
    layer = fastnn.Dense(np.eye(2, 3), np.zeros(3), "softmax")
    draw_network(path, fastnn.Model([layer], classes=["$a$", "b_c", "d"]), name="$x$ & <y>")
    words = words_of(path)
    assert {"$a$", "b_c", "d", "$x$ & <y>"} <= set(words)  # a dollar is no formula
    draw_network(path, fastnn.load("xor"), name="xor")
    assert "0 or 1" in words_of(path)


def test_written_weights_do_not_cover_each_other(monkeypatch, tmp_path):
    places = []
    write = network._write

    class Recorder:
        def __init__(self, axes):
            self.axes = axes

        def text(self, x, y, words, **style):
            places.append((x, y, words))
            return self.axes.text(x, y, words, **style)

    monkeypatch.setattr(network, "_write", lambda axes, lines: write(Recorder(axes), lines))
    for seed in range(5):
        places.clear()
        draw_network(tmp_path / "a.svg", random_model(4, 4, seed=seed), name="a")
        assert len(places) == 16
        xy = np.array([place[:2] for place in places])
        gaps = np.hypot(*(xy[:, None] - xy[None]).T) + np.eye(16)
        assert gaps.min() > 0.12  # the height of a line of words


@pytest.mark.parametrize(
    ("widths", "is_small"),
    [((16, 16, 16), True), ((1, 1), True), ((17, 2), False), ((2, 17, 1), False),
     ((2, *[3] * 12), True), ((2, *[3] * 13), False)],
)  # fmt: skip
def test_where_neurons_end_and_blocks_begin(tmp_path, widths, is_small):
    path = tmp_path / "a.svg"
    draw_network(path, random_model(*widths), name="a")
    assert ("inputs" in words_of(path)) == is_small
    assert ("bytes" in path.read_text()) != is_small


def test_blocks_say_what_the_summary_says(tmp_path):
    path = tmp_path / "a.svg"
    model = fastnn.load("mnist-small", precision="int8", isa="scalar")
    draw_network(path, model, name="mnist-small")
    words = words_of(path)
    for expected in (
        "784", "128", "10", "relu", "softmax", "784 x 128", "128 x 10", "100,480 parameters",
        "1,290 parameters", "401,920 bytes", "5,160 bytes",
    ):  # fmt: skip
        assert words.count(expected) == 1, expected
    kernels = [line for line in words if "scalar" in line]
    assert len(kernels) == 3
    for kernel in kernels:
        assert kernel in model.summary()
    assert "784-128-10, 101,770 parameters, int8, answers with one of 10 classes" in words


def test_many_layers_are_wrapped_into_rows(tmp_path):
    path = tmp_path / "a.svg"
    draw_network(path, random_model(*[2] * 41), name="deep")
    width, height = map(
        float, re.search(r'width="(\d+\S*)pt" height="(\d+\S*)pt"', path.read_text()).groups()
    )
    assert width < 72 * 13
    assert 72 * 7 * 2 < height < 72 * 7 * 4  # seven rows of six
    words = words_of(path)
    assert [line for line in words if line.startswith("layer ")] == [
        f"layer {i}" for i in range(40)
    ]
    assert any("2-2-2-2-2-...-2-2-2, 240 parameters" in line for line in words)


def mosaic_of(path):
    """The embedded image of an SVG, RGB float in [0, 1]."""
    from PIL import Image

    (data,) = re.findall(r'href="data:image/png;base64,([^"]+)"', path.read_text())
    with Image.open(io.BytesIO(base64.b64decode(data))) as picture:
        return np.asarray(picture.convert("RGB"), float) / 255


def test_first_layer_weights_are_images(tmp_path):
    path = tmp_path / "a.svg"
    weight = np.zeros((784, 3), np.float32)
    weight[28 * 2 + 5, 1] = 2.0  # row 2, column 5
    weight[28 * 3 + 7, 1] = -1.0
    draw_network(path, fastnn.Model([fastnn.Dense(weight, [0, 0, 0], "softmax")]), name="a")
    words = words_of(path)
    assert words[-3:] == ["0", "1", "2"]  # one layer: its neurons are the classes
    page = mosaic_of(path)
    blue = np.argwhere(np.abs(page - [0, 0.447, 0.698]).max(axis=2) < 0.01)
    assert len(blue) == 1  # full colour: the largest weight of its image
    at = blue[0] + [1, 2]
    half = 1 - 0.5 * (1 - np.array([0.835, 0.369, 0]))
    np.testing.assert_allclose(page[tuple(at)], half, atol=0.01)


def test_the_first_128_of_many(tmp_path):
    path = tmp_path / "a.svg"
    draw_network(path, random_model(784, 200, 10), name="a")
    words = words_of(path)
    assert any("the first 128 of 200" in line for line in words)
    assert mosaic_of(path).shape == (8 * 31, 16 * 31, 3)
    draw_network(path, random_model(100, 200, 10), name="a")
    assert "data:image" not in path.read_text()


# ---- the command ---------------------------------------------------------------------------------


def test_the_command(tmp_path, capsys):
    assert main(["plot", "--activations", "-o", str(tmp_path / "a.svg")]) == 0
    assert main(["plot", "xor", "-o", str(tmp_path / "x.png")]) == 0
    assert (tmp_path / "a.svg").read_text().startswith("<?xml")
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")
    out, err = capsys.readouterr()
    assert out.splitlines() == [f"wrote {tmp_path}/a.svg", f"wrote {tmp_path}/x.png"]
    assert err == ""


@pytest.mark.parametrize(
    ("tokens", "status", "message"),
    [
        (["-o", "a.svg"], 2, "wanted either a MODEL or --activations"),
        (["xor", "--activations", "-o", "a.svg"], 2, "wanted either a MODEL or --activations"),
        (["--activations", "--isa", "scalar", "-o", "a.svg"], 2, "are of a MODEL"),
        (["xor"], 2, "--out"),
        (["xor", "-o", "a.gif"], 1, "wanted a name that ends in .svg, .png, .pdf"),
        (["none", "-o", "a.svg"], 1, "no bundled model 'none'"),
    ],
)
def test_the_command_refuses(tmp_path, monkeypatch, capsys, tokens, status, message):
    monkeypatch.chdir(tmp_path)
    assert main(["plot", *tokens]) == status
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_command_without_the_extra(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main(["plot", "xor", "-o", str(tmp_path / "a.svg")]) == 1
    assert 'pip install "fastnn[plot]"' in capsys.readouterr().err
