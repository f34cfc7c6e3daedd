"""training.cards, training.frontier: what the cards say is what files and test set say."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

import fastnn
from fastnn import formats, mnist
from fastnn.__main__ import main as fastnn_main
from fastnn.cli.show import ACCURACY
from training import cards, frontier

DOCS = Path(__file__).resolve().parent.parent / "docs"
DOCUMENT = json.loads((DOCS / "models" / "models.json").read_text())
CELLS = [
    (entry["name"], precision)
    for entry in DOCUMENT["models"]
    if entry["is_bundled"]
    for precision in entry["precisions"]
]


@pytest.fixture
def sample_as_mnist(monkeypatch):
    """The bundled digits as the test set, and as every other split."""
    images, labels = mnist.sample()
    digits = cards.data.Digits(images[:600], labels[:600], images[600:], labels[600:])
    monkeypatch.setattr(cards.data, "load", lambda folder: digits)
    monkeypatch.setattr(cards.mnist, "load", lambda split, folder: (images, labels))


def made_up(name, n_right=9_000, rate=1e5, precisions=("float32",)):
    """An entry as far as the picture needs it."""
    return {
        "name": name,
        "precisions": {
            precision: {"n_right": n_right, "rows_per_s": rate * 2**i}
            for i, precision in enumerate(precisions)
        },
    }


# ---- the cards in the tree -----------------------------------------------------------------------


def test_every_bundled_network_for_digits_has_a_card():
    bundled = [n for n in fastnn.models() if cards.is_for_digits(fastnn.load(n))]
    assert sorted(e["name"] for e in DOCUMENT["models"] if e["is_bundled"]) == bundled
    assert {"mnist-linear", "mnist-sigmoid", "mnist-small"} <= set(bundled)


def test_the_pages_are_those_that_the_script_makes():
    for entry in DOCUMENT["models"]:
        page = (DOCS / "models" / f"{entry['name']}.md").read_text()
        assert page == cards.card(entry, DOCUMENT)
    assert (DOCS / "models" / "README.md").read_text() == cards.index(DOCUMENT)
    names = {path.stem for path in (DOCS / "models").glob("*.md")}
    assert names == {"README", *(entry["name"] for entry in DOCUMENT["models"])}


@pytest.mark.parametrize("name", sorted({name for name, _ in CELLS}))
def test_a_card_is_of_the_file_that_ships(name):
    (entry,) = (e for e in DOCUMENT["models"] if e["name"] == name)
    (path,) = cards.paths_of([name]).values()
    model = fastnn.load(name)
    assert entry["metadata"] == dict(model.metadata)
    assert entry["file_bytes"] == path.stat().st_size
    assert entry["n_parameters"] == model.n_parameters
    assert list(entry["precisions"]) == list(cards.in_all_precisions(model))
    for precision, figures in entry["precisions"].items():
        stated = float(model.metadata[ACCURACY[precision]])
        assert stated == pytest.approx(figures["n_right"] / 10_000, abs=1e-9)
    page = (DOCS / "models" / f"{name}.md").read_text()
    for heading in ("Layers", "Accuracy", "Confusion", "Speed", "Recipe", "Calibration", "Licence"):
        assert f"\n## {heading}\n" in page
    assert "CC BY-SA 3.0" in page
    assert f"| seed | {model.metadata['seed']} |" in page


@pytest.mark.parametrize(("name", "precision"), CELLS)
def test_evaluate_reproduces_the_card(mnist_path, capsys, name, precision):
    tokens = ["evaluate", name, "--precision", precision, "--data", str(mnist_path), "--json"]
    assert fastnn_main(tokens) == 0
    found = json.loads(capsys.readouterr().out)
    (entry,) = (e for e in DOCUMENT["models"] if e["name"] == name)
    assert found["n_images"] == DOCUMENT["n_test"] == 10_000
    assert found["precision"] == precision
    assert found["n_right"] == entry["precisions"][precision]["n_right"]
    if precision in ("float32", "certified"):
        assert found["confusion"] == entry["confusion"]
    page = (DOCS / "models" / f"{name}.md").read_text()
    assert (
        f"| {precision} | {found['n_right']:,} | {found['accuracy']:.2%}".replace("%", " %") in page
    )


def test_the_picture_in_the_tree_names_every_network():
    drawn = (DOCS / "frontier.svg").read_text()
    for entry in DOCUMENT["models"]:
        assert f">{entry['name']}<" in drawn
    for precision in ACCURACY:
        assert f">{precision}<" in drawn
    assert "dc:date" not in drawn


# ---- making them ---------------------------------------------------------------------------------


def test_a_run_from_files_to_pages(tmp_path, sample_as_mnist, capsys):
    path = tmp_path / "mine.safetensors"
    shutil.copy(cards.paths_of(["mnist-sigmoid"])["mnist-sigmoid"], path)
    kept = tmp_path / "to" / "kept.md"
    kept.parent.mkdir()
    kept.write_text("# by hand\n")
    before = formats.read(path)
    cards.main([str(path), "--to", str(tmp_path / "to"), "--seconds", "0.01", "--state"])
    out = capsys.readouterr().out
    images, labels = mnist.sample()
    n_right = int((fastnn.load(path).predict(images) == labels).sum())
    lines = [line.split() for line in out.splitlines()[2:5]]
    assert "Load average before: " in out
    assert [line[3] for line in lines] == ["float32", "int8", "certified"]
    assert lines[0][:3] == ["mine", "784-10-10", "7,960"]
    assert lines[0][4] == f"{n_right / 10:.2f}"
    after = formats.read(path)
    assert after.metadata["test_accuracy"] == f"{n_right / 1000:.4f}"
    assert after.metadata["test_accuracy_certified"] == f"{n_right / 1000:.4f}"
    assert set(after.metadata) == set(before.metadata) | set(ACCURACY.values())
    for one, two in zip(before.layers, after.layers, strict=True):
        np.testing.assert_array_equal(one.weight, two.weight)
    assert after.calibration == before.calibration
    document = json.loads((tmp_path / "to" / "models.json").read_text())
    assert document["models"][0]["metadata"] == dict(after.metadata)
    assert document["models"][0]["file_bytes"] == path.stat().st_size
    assert document["models"][0]["splits"]["fitted"]["n_images"] == 600
    confusion = np.array(document["models"][0]["confusion"])
    assert confusion.sum() == 1000
    assert np.trace(confusion) == n_right
    page = (tmp_path / "to" / "mine.md").read_text()
    assert "It does not ship with fastnn" in page
    assert "fastnn evaluate mine.safetensors --precision int8" in page
    assert kept.read_text() == "# by hand\n"
    frontier.main([str(tmp_path / "to" / "models.json"), "--to", str(tmp_path / "a.png")])
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_the_table_alone_writes_nothing(tmp_path, sample_as_mnist, monkeypatch, capsys):
    monkeypatch.setattr(cards, "check_stated", lambda document: None)
    to = tmp_path / "to"
    cards.main(["mnist-linear", "--to", str(to), "--seconds", "0.01", "--table"])
    assert not to.exists()
    # One layer cannot be certified.
    assert [line.split()[3] for line in capsys.readouterr().out.splitlines()[2:4]] == [
        "float32", "int8",
    ]  # fmt: skip


def test_a_file_that_states_another_accuracy_is_an_error(sample_as_mnist):
    # The sample is not the test set, so the stated figures are wrong here.
    with pytest.raises(ValueError, match=r"mnist-linear: the file states 0\.92\d+ for float32"):
        cards.main(["mnist-linear", "--seconds", "0.01", "--table"])


def test_no_card_is_left_out_or_lost(tmp_path, sample_as_mnist):
    old = tmp_path / "gone.md"
    old.write_text(f"# gone\n\n{cards._MARK}\n")
    with pytest.raises(ValueError, match="has cards of gone too"):
        cards.main(["mnist-linear", "--to", str(tmp_path), "--seconds", "0.01"])
    assert [path.name for path in tmp_path.iterdir()] == ["gone.md"]


def test_the_card_tells_how_its_network_was_made():
    """The seed that was released, not that of the recipe; no epochs that a recipe stops before."""
    for entry in DOCUMENT["models"]:
        about = entry["metadata"]
        page = (DOCS / "models" / f"{entry['name']}.md").read_text()
        recipe = cards.RECIPES[about["recipe"].removeprefix("training.recipes: ")]
        assert about["epoch"].endswith(f" of {recipe.last}")
        told = f"training.train {recipe.name} --seed {about['seed']}`" in page
        assert told == (about["seed"] != str(recipe.seed))
        assert ("| plain epochs |" in page) == (recipe.name != "mnist-large")
        assert ("different numbers" in page) == (recipe.name == "mnist-large")


def test_a_bare_network_gets_a_card_too(tmp_path, sample_as_mnist):
    path = tmp_path / "bare.npz"
    rng = np.random.default_rng(0)
    fastnn.Model([fastnn.Dense(rng.normal(size=(784, 10)), np.zeros(10), "softmax")]).save(path)
    document = cards.measure({"bare": path}, seconds=0.01)
    (entry,) = document["models"]
    assert list(entry["precisions"]) == ["float32"]
    page = cards.card(entry, document)
    assert "The file states none." in page
    assert "None: the file holds float32 only." in page
    assert "does not state how often the test set was looked at" in page


@pytest.mark.parametrize(
    ("named", "message"),
    [
        (["xor"], "xor: takes no digits"),
        (["mnist-small", "mnist-small"], "two files of the name mnist-small"),
    ],
)
def test_what_has_no_card_is_refused(named, message):
    with pytest.raises(ValueError, match=message):
        cards.paths_of(named)


def test_the_bundled_networks_take_less_than_4_mb():
    folder = Path(fastnn.__file__).parent / "models"
    sizes = [path.stat().st_size for path in folder.iterdir()]
    assert len(sizes) == len(fastnn.models())
    assert sum(sizes) < 4_000_000


def test_recipes_are_told_whole():
    rows = dict(cards._recipe_rows(cards.RECIPES["mnist-small-plain"]))
    assert rows["plain epochs"] == "0"
    assert rows["batch norm"] == "no"
    assert rows["teachers"] == "none"
    assert rows["augmentation"].startswith("degrees 7.0, scale 0.08")
    assert "seed" not in rows  # the file has the seed that counts
    assert "convolutions" not in rows
    rows = dict(cards._recipe_rows(cards.RECIPES["mnist-large"]))
    assert rows["convolutions"].startswith("24 channels of 5x5 (stride 2, padding 0), 56 channels")


def test_a_card_tells_of_layers_that_were_convolutions():
    for name, told in (("mnist-large", ["12 different numbers"]), ("mnist-large-plain", [])):
        metadata = {"recipe": f"training.recipes: {name}"}
        layers = [{"n_distinct": 5}, {"n_distinct": 7}]
        lines = cards._shared({"name": name, "metadata": metadata, "layers": layers})
        assert [words for line in lines for words in told if words in line] == told
        assert len(lines) == len(told)


def test_a_card_tells_how_a_refit_is_made():
    about = {"recipe": "training.recipes: mnist-large"}
    once = "\n".join(cards._recipe_section(about))
    twice = "\n".join(cards._recipe_section({**about, "refit": "1 epoch"}))
    assert "--refit" not in once
    assert "train mnist-large`, and again with `--refit`, trains it" in twice
    assert "export mnist-large --refit` releases it" in twice
    assert "| refit | 1 epoch |" in twice


# ---- the picture ---------------------------------------------------------------------------------


@pytest.fixture
def drawing(tmp_path):
    """Draws entries; returns the SVG's text."""
    pytest.importorskip("matplotlib", reason="NOT TESTED: needs the extra fastnn[plot]")

    def draw(*entries):
        path = tmp_path / "a.svg"
        frontier.draw(path, {"n_test": 10_000, "models": list(entries)})
        return path.read_text()

    return draw


def test_the_picture_takes_any_set_of_networks(drawing):
    many = [made_up(f"net-{i}", 9_000 + 99 * i, 10 ** (2 + i / 2), ACCURACY) for i in range(10)]
    drawn = drawing(*many)
    for i in range(10):
        assert drawn.count(f">net-{i}<") == 1
    assert drawing(*many) == drawn  # the same bytes again
    alike = [made_up(f"net-{i}") for i in range(4)]  # on one spot
    assert all(f">net-{i}<" in drawing(*alike) for i in range(4))
    for n_right in (0, 5_000, 10_000):
        assert ">one<" in drawing(made_up("one", n_right))
    with pytest.raises(ValueError, match="no networks"):
        drawing()


def test_accuracy_grows_upwards_and_speed_to_the_right(drawing):
    drawn = drawing(made_up("slow", 9_900, 1e4), made_up("fast", 9_000, 1e6))
    at = {
        name: tuple(
            map(float, re.search(rf'x="([\d.]+)" y="([\d.]+)"[^>]*>{name}<', drawn).groups())
        )
        for name in ("slow", "fast")
    }
    assert at["slow"][0] < at["fast"][0]
    assert at["slow"][1] < at["fast"][1]  # y counts downwards in an SVG
    assert ">99 %<" in drawn
    assert ">10 k<" in drawn
    assert ">1 M<" in drawn
