"""training: the sample is never trained on, recipes are sound, small networks do their task."""

import dataclasses
import hashlib
import json
import re
import runpy
import shutil
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import fastnn
from fastnn import mnist
from fastnn.quantize import calibrate
from training import again, command, data, export, textbook
from training.recipes import RECIPES, Augmentation, Convolution, Recipe


def forward(layers, x):
    functions = {
        "step": lambda z: (z > 0).astype(np.float64),
        "sigmoid": lambda z: 1 / (1 + np.exp(-z)),
        "tanh": np.tanh,
    }
    for weight, bias, activation in layers:
        x = functions[activation](x @ weight.astype(np.float64) + bias)
    return x


def test_the_split_is_a_partition_and_never_changes():
    fit, validation = data.split_indices(59_000)
    assert len(fit) == 54_000
    assert len(validation) == 5_000
    np.testing.assert_array_equal(np.sort(np.concatenate([fit, validation])), np.arange(59_000))
    again = data.split_indices(59_000)
    np.testing.assert_array_equal(validation, again[1])
    assert validation[:5].tolist() == [28, 79, 99, 104, 119]


def test_no_sample_digit_is_trained_on(mnist_path):
    digits = data.load(mnist_path)
    assert len(digits.fit_images) == len(digits.fit_labels) == 54_000
    assert len(digits.validation_images) == len(digits.validation_labels) == 5_000
    held_out = {image.tobytes() for image in mnist.sample()[0]}
    fit = {image.tobytes() for image in digits.fit_images}
    validation = {image.tobytes() for image in digits.validation_images}
    assert not held_out & fit
    assert not held_out & validation
    assert not fit & validation


def never_learns_from_itself(name, above=()):
    """Whether a teacher's own teachers, if any, are recipes that do not come back to it."""
    assert name not in above
    return all(
        never_learns_from_itself(teacher, (*above, name)) for teacher in RECIPES[name].teachers
    )


def test_recipes():
    assert RECIPES["mnist-small"].widths == (784, 128, 10)
    assert RECIPES["mnist-tiny"].widths == (784, 32, 10)
    assert RECIPES["mnist-deep"].widths == (784, 128, 64, 10)
    assert RECIPES["mnist-mid"].widths == (784, 512, 512, 10)
    assert RECIPES["mnist-linear"].widths == (784, 10)
    assert RECIPES["mnist-sigmoid"].widths == (784, 10, 10)
    large = RECIPES["mnist-large"].widths
    assert sum((a + 1) * b for a, b in zip(large, large[1:], strict=False)) <= 12_000_000
    for name, recipe in RECIPES.items():
        assert recipe.name == name
        assert bool(recipe.widths) != bool(recipe.n_conv or recipe.kernel)
        assert recipe.is_teacher == (not recipe.widths)
        assert all(never_learns_from_itself(teacher) for teacher in recipe.teachers)
        json.dumps(dataclasses.asdict(recipe))
    seeds = [recipe.seed for recipe in RECIPES.values() if recipe.is_teacher]
    assert len(set(seeds)) == len(seeds)


def test_perceptron_2d_separates_its_points():
    x, y = textbook.points()
    assert x.shape == (200, 2)
    assert 50 < y.sum() < 150
    np.testing.assert_array_equal(forward(textbook.perceptron_2d(), x)[:, 0], y)


def test_xor():
    out = forward(textbook.xor(), textbook.XOR_X)[:, 0]
    np.testing.assert_allclose(out, textbook.XOR_Y, atol=0.05)


def test_sigmoid_3_2_1_by_hand():
    layers = textbook.sigmoid_3_2_1()
    # x = (1, 2, 3): z = (0.1 + 0.2 + 0.8 - 1.8, -0.2 - 0.5 + 0.6 + 0.3) = (-0.7, 0.2)
    hidden = 1 / (1 + np.exp([0.7, -0.2]))
    out = 1 / (1 + np.exp(-(0.05 + 0.7 * hidden[0] - 0.3 * hidden[1])))
    np.testing.assert_allclose(forward(layers, np.array([1.0, 2, 3])), [out], rtol=1e-6)


@pytest.mark.parametrize("name", textbook.NETWORKS)
def test_textbook_networks_are_float32_and_deterministic(name):
    fit, _ = textbook.NETWORKS[name]
    for one, two in zip(fit(), fit(), strict=True):
        assert one[0].dtype == one[1].dtype == np.float32
        assert one[0].shape[1:] == one[1].shape
        np.testing.assert_array_equal(one[0], two[0])
        np.testing.assert_array_equal(one[1], two[1])


def random_arrays(*widths):
    rng = np.random.default_rng(2)
    return [
        (rng.normal(0, 0.1, (a, b)).astype(np.float32), rng.normal(0, 1, b).astype(np.float32))
        for a, b in zip(widths, widths[1:], strict=False)
    ]


def test_a_released_file_is_calibrated_on_the_images_given():
    arrays = random_arrays(784, 6, 5, 10)
    images = mnist.sample()[0][::10]
    file = export.calibrated(export.model_file("x", arrays, "relu", {}), images)
    assert file.calibration.input == "uint8"
    assert file.calibration.ranges[0] == (0, 255)
    first = np.maximum(images.reshape(100, 784) / 255 @ arrays[0][0] + arrays[0][1], 0)
    np.testing.assert_allclose(file.calibration.ranges[1], (0, first.max()), rtol=1e-6)
    assert len(file.calibration.ranges) == 3
    assert file.metadata == {"name": "x"}


@pytest.mark.parametrize("name", ["mnist-linear", "mnist-sigmoid", "mnist-small"])
def test_bundled_networks_are_calibrated_on_what_they_were_fitted_to(mnist_path, name):
    model = fastnn.load(name)
    assert model.precision == "float32"
    assert model.calibration == calibrate(model, data.load(mnist_path).fit_images)


def test_the_test_set_is_looked_at_once_per_weights(tmp_path, monkeypatch):
    looks = []

    def load(split, path=None):
        looks.append(split)
        return mnist.sample()

    monkeypatch.setattr(export.mnist, "load", load)
    ledger = tmp_path / "released.json"
    ledger.write_text('{"y": [{"weights": null, "test": null}]}')
    arrays, others = random_arrays(784, 4, 10), random_arrays(784, 3, 10)
    first = export.look_once("x", arrays, "relu", None, ledger)
    assert export.look_once("x", arrays, "relu", None, ledger) == first
    assert looks == ["test"]
    assert first["looks"] == 1
    assert export.look_once("x", others, "relu", None, ledger)["looks"] == 2
    assert export.look_once("x", arrays, "relu", None, ledger) == first
    # Another name has looks of its own, those of weights that are not known any more among them.
    assert export.look_once("y", arrays, "relu", None, ledger)["looks"] == 2
    assert json.loads(ledger.read_text()) == {
        "x": [{"weights": export.digest(arrays), "test": first["test"]},
              {"weights": export.digest(others), "test": pytest.approx(0.1, abs=0.1)}],
        "y": [{"weights": None, "test": None},
              {"weights": export.digest(arrays), "test": first["test"]}],
    }  # fmt: skip


@pytest.mark.parametrize("content", ["", "[]", '{"x": 3}', '{"x": [{"test": 0.9}]}'])
def test_a_broken_ledger_is_named_and_stays(tmp_path, content):
    ledger = tmp_path / "released.json"
    ledger.write_text(content)
    with pytest.raises(ValueError, match="released.json: wanted looks .*, found it damaged"):
        export.look_once("x", random_arrays(784, 10), "relu", None, ledger)
    assert ledger.read_text() == content
    ledger.unlink()
    with pytest.raises(FileNotFoundError, match="released.json"):  # not: this is the first look
        export.look_once("x", random_arrays(784, 10), "relu", None, ledger)


def test_the_ledger_holds_every_released_network(monkeypatch):
    """And answers for each without another look."""
    from training import kept

    monkeypatch.setattr(export.mnist, "load", None)
    released = [name for name in fastnn.models() if "test_looks" in fastnn.load(name).metadata]
    assert len(released) == 6
    for name in released:
        model = fastnn.load(name)
        arrays = [(layer.weight, layer.bias) for layer in model.layers]
        figure = export.look_once(name, arrays, "relu", None)
        assert figure["test"] == float(model.metadata["test_accuracy"])
        # mnist-small's file counts the looks of its recipe, not those of its name.
        assert figure["looks"] == (
            3 if name == "mnist-small" else int(model.metadata["test_looks"])
        )
    with np.load(kept.FILE, allow_pickle=False) as file:
        about = json.loads(str(file["about"]))
    last = json.loads(export.LEDGER.read_text())[kept.NAME][int(about["test_looks"]) - 1]
    assert last == {"weights": about["digest"], "test": float(about["test_accuracy"])}


@pytest.fixture
def torch():
    """PyTorch, a development tool that the test extra does not hold."""
    return pytest.importorskip("torch", reason="NOT TESTED: needs torch, a tool of training only")


def small_digits():
    images, labels = mnist.sample()  # a stand-in: these tests train nothing that is kept
    return data.Digits(images[::2], labels[::2], images[1::2], labels[1::2])


SHARED = (Convolution(3, 5, 2), Convolution(4, 3, 2, 1), Convolution(5, 3, 1, 1))


@pytest.mark.parametrize(
    ("widths", "convolutions"),
    [((784, 16, 8, 10), ()), ((784, 432, 144, 180, 9, 10), SHARED), ((784, 432, 10), SHARED[:1])],
)
def test_the_arrays_of_a_network_compute_what_it_does(torch, widths, convolutions):
    """With batch norm folded, and convolutions as dense layers."""
    from training import networks, train

    torch.manual_seed(3)
    recipe = Recipe("x", widths, convolutions=convolutions, batch_norm=True)
    network = networks.build(recipe)
    images = mnist.sample()[0]
    network.train()
    for _ in range(5):
        network(train.pixels(images))
    expected = train.logits(network, images, recipe).numpy()
    arrays = networks.dense_arrays(network)
    assert [weight.shape for weight, _ in arrays] == list(pairwise(widths))
    np.testing.assert_allclose(export.hidden(arrays, "relu", images)[-1], expected, atol=2e-5)


def test_convolutions_that_do_not_give_the_widths_are_refused(torch):
    from training import networks

    with pytest.raises(ValueError, match="x: 3 channels .* gives 3 x 12 x 12, not 433"):
        networks.build(Recipe("x", (784, 433, 10), convolutions=SHARED[:1]))


def test_an_interrupted_run_ends_where_an_uninterrupted_one_does(torch, tmp_path, monkeypatch):
    from training import train

    recipe = Recipe(
        "x", (784, 12, 10), epochs=4, batch=50, average=0.9, batch_norm=True, dropout=0.1, jitter=1
    )

    def run(name):
        train.train(recipe, small_digits(), tmp_path / name, checkpoint_seconds=seconds)

    seconds = 0
    run("whole")

    # Stopped before there is a checkpoint, it begins anew, and leaves nothing twice.
    def stop_at_once(state, file):
        raise KeyboardInterrupt

    real = train._save
    monkeypatch.setattr(train, "_save", stop_at_once)
    with pytest.raises(KeyboardInterrupt):
        run("parts")
    (tmp_path / "parts" / "x-1" / "curves.csv").write_text("epoch,loss\n1,9,9,9\n")
    calls = []

    def stop_in_the_third_epoch(state, file):
        real(state, file)
        if file.name == "checkpoint.pt":
            calls.append(file)
            if len(calls) == 2:
                raise KeyboardInterrupt

    monkeypatch.setattr(train, "_save", stop_in_the_third_epoch)
    with pytest.raises(KeyboardInterrupt):
        run("parts")
    monkeypatch.setattr(train, "_save", real)
    # An epoch that no checkpoint holds leaves a row of figures, and comes again.
    with open(tmp_path / "parts" / "x-1" / "curves.csv", "a") as file:
        file.write("3,9,9,9\r\n")
    seconds = 3600
    run("parts")
    one, two = (
        torch.load(tmp_path / name / "x-1" / "checkpoint.pt", weights_only=True)["averaged"]
        for name in ("whole", "parts")
    )
    assert all(torch.equal(one[key], two[key]) for key in one)
    one, two = (
        [row.split(",")[:3] for row in (tmp_path / name / "x-1" / "curves.csv").read_text().split()]
        for name in ("whole", "parts")
    )
    assert [row[0] for row in one] == ["epoch", "1", "2", "3", "4"]
    assert one == two


def digits_by_half():
    """Below 5 to fit, from 5 on to choose by."""
    images, labels = mnist.sample()
    low = labels < 5
    return data.Digits(images[low], labels[low], images[~low], labels[~low])


def test_a_refit_fits_the_digits_that_chose_and_keeps_the_last_weights(torch, tmp_path):
    from training import train

    digits = digits_by_half()
    recipe = Recipe("x", (784, 12, 10), epochs=6, batch=50, average=0.9, augmentation=None)
    assert train.train(recipe, digits, tmp_path) == 0
    train.train(dataclasses.replace(recipe, refit=True), digits, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x-1", "x-1-refit"]
    best = torch.load(tmp_path / "x-1-refit" / "best.pt", weights_only=True)
    last = torch.load(tmp_path / "x-1-refit" / "checkpoint.pt", weights_only=True)
    assert best["epoch"] == last["epoch"] == 6
    assert all(torch.equal(best["model"][key], last["averaged"][key]) for key in best["model"])
    assert best["validation"] > 0.5
    assert export.validation_of_seeds(recipe, tmp_path) == {1: 0}


def test_a_run_that_stops_before_its_schedule_ends_is_the_beginning_of_the_whole(torch, tmp_path):
    from training import runs, train

    whole = Recipe("x", (784, 12, 10), epochs=4, batch=50, average=0.9)
    early = dataclasses.replace(whole, stop=2)
    train.train(early, small_digits(), tmp_path / "early")
    found = runs.weights(early, tmp_path / "early")
    assert found["epoch"] <= 2
    state = torch.load(tmp_path / "early" / "x-1" / "checkpoint.pt", weights_only=True)
    assert state["epoch"] == 2
    train.train(whole, small_digits(), tmp_path / "early")  # goes on
    train.train(whole, small_digits(), tmp_path / "whole")
    one, two = (
        torch.load(tmp_path / name / "x-1" / "checkpoint.pt", weights_only=True)["averaged"]
        for name in ("early", "whole")
    )
    assert all(torch.equal(one[key], two[key]) for key in one)
    # A run that went further is one that stopped, if its best epoch lies before.
    assert train.train(early, small_digits(), tmp_path / "whole") > 0
    file = tmp_path / "whole" / "x-1" / "best.pt"
    best = torch.load(file, weights_only=True)
    torch.save({**best, "epoch": 2}, file)
    assert runs.weights(early, tmp_path / "whole")["epoch"] == 2
    torch.save({**best, "epoch": 3}, file)
    with pytest.raises(SystemExit, match="x-1 is of epoch 3, the recipe has 2"):
        runs.weights(early, tmp_path / "whole")


def test_a_run_goes_on_by_its_own_recipe_alone(torch, tmp_path):
    from training import train

    recipe = Recipe("x", (784, 4, 10), epochs=2)
    train.train(dataclasses.replace(recipe, stop=1), small_digits(), tmp_path)
    file = tmp_path / "x-1" / "recipe.json"
    before = {path.name: path.read_bytes() for path in file.parent.iterdir()}
    for other, words in (
        ({"widths": (784, 5, 10)}, r"widths \[784, 4, 10\], the recipe \[784, 5, 10\]"),
        ({"epochs": 3, "stop": 1}, "epochs 2, the recipe 3"),
        ({"augmentation": None}, r"augmentation \{.*\}, the recipe None"),
    ):
        with pytest.raises(SystemExit, match=f"x-1 has {words}: .*remove it or choose another"):
            train.train(dataclasses.replace(recipe, **other), small_digits(), tmp_path)
        assert {path.name: path.read_bytes() for path in file.parent.iterdir()} == before
    # One that has no such field yet goes on, and is told it.
    about = json.loads(file.read_text())
    file.write_text(json.dumps({name: about[name] for name in about if name != "jitter"}))
    train.train(recipe, small_digits(), tmp_path)
    state = torch.load(tmp_path / "x-1" / "checkpoint.pt", weights_only=True)
    assert (state["epoch"], json.loads(file.read_text())["jitter"]) == (2, 0)
    # Without a checkpoint there is nothing to go on with.
    (tmp_path / "x-1" / "checkpoint.pt").unlink()
    train.train(dataclasses.replace(recipe, epochs=1), small_digits(), tmp_path)
    assert json.loads(file.read_text())["epochs"] == 1


def test_a_release_of_a_refit(torch, tmp_path, monkeypatch):
    """Its own weights and test figure, beside those that chose the recipe."""
    from training import train

    digits, recipe = digits_by_half(), Recipe("x", (784, 12, 10), epochs=3, batch=50, average=0.9)
    monkeypatch.setitem(RECIPES, "x", recipe)
    monkeypatch.setattr(export.data, "load", lambda path: digits)
    monkeypatch.setattr(export.mnist, "load", lambda split, path: digits.all())
    train.train(recipe, digits, tmp_path)
    ledger = tmp_path / "released.json"
    ledger.write_text("{}")
    tokens = ["x", "--out", str(tmp_path), "--ledger", str(ledger), "--refit", "--to"]
    to = tmp_path / "to"
    with pytest.raises(SystemExit, match="x-1-refit has no run .*train x --seed 1 --refit --out"):
        export.main([*tokens, str(to)])
    refit = dataclasses.replace(recipe, refit=True)
    train.train(refit, digits, tmp_path)
    with pytest.raises(FileExistsError, match="released.json"):
        export.main([*tokens, str(ledger)])
    assert ledger.read_text() == "{}"  # a folder that cannot be made costs no look
    export.main([*tokens, str(to)])
    export.main([*tokens, str(to), "--as", "another"])
    assert {name: len(looks) for name, looks in json.loads(ledger.read_text()).items()} == {
        "x": 1, "another": 1
    }  # fmt: skip
    model = fastnn.load(tmp_path / "to" / "x.safetensors")
    arrays, _ = export.trained(refit, tmp_path)
    np.testing.assert_array_equal(model.layers[0].weight, arrays[0][0])
    right = (model.predict(digits.all()[0]) == digits.all()[1]).mean()
    assert model.metadata["test_accuracy"] == f"{right:.4f}"
    assert model.metadata["validation_accuracy"] == "0.0000"
    assert model.metadata["refit"].startswith("3 epochs of all 1,000 digits, ")
    # One of another recipe is not released, nor one that was stopped.
    monkeypatch.setitem(RECIPES, "x", dataclasses.replace(recipe, epochs=4))
    shutil.rmtree(tmp_path / "x-1")
    train.train(RECIPES["x"], digits, tmp_path)
    with pytest.raises(SystemExit, match="x-1-refit has epochs 3, the recipe 4"):
        export.main([*tokens, str(to)])
    about = tmp_path / "x-1-refit" / "recipe.json"
    about.write_text(about.read_text().replace('"epochs": 3', '"epochs": 4'))
    with pytest.raises(SystemExit, match="x-1-refit has no run that came to its end"):
        export.main([*tokens, str(to)])


def test_the_kept_weights_are_those_of_the_card(torch, tmp_path, mnist_path):
    """Written from the tree, the file is as accurate as its card says, on the test set as well."""
    from training import kept

    kept.main(["--to", str(tmp_path), "--data", str(mnist_path)])
    model = fastnn.load(tmp_path / "mnist-large.safetensors")
    documents = Path(kept.__file__).parent.parent / "docs" / "models" / "models.json"
    (entry,) = (e for e in json.loads(documents.read_text())["models"] if e["name"] == kept.NAME)
    assert dict(model.metadata) == entry["metadata"]
    images, labels = mnist.load("test", mnist_path)
    n_right = int((model.predict(images) == labels).sum())
    assert n_right == entry["precisions"]["float32"]["n_right"] >= 9_965


# The command line after the module's name, in a folder with a file `afile` and an empty one `none`.
WRONG_PATHS = {
    "train mnist-tiny --data none --out runs": "MNIST's train-images.* not found in none",
    "train mnist-tiny --out afile": "Not a directory: 'afile/mnist-tiny-1'",
    "export mnist-tiny --out none --to to": "none has no finished run of mnist-tiny",
    "again mnist-tiny --data none --out runs": "MNIST's train-images.* not found in none",
    "kept --to afile": "File exists: 'afile'",
    "textbook --to afile": "File exists: 'afile'",
    "frontier nowhere.json": "No such file or directory: 'nowhere.json'",
    "frontier afile": "afile: wanted what training.cards writes, found it damaged .JSONDecodeError",
}


@pytest.mark.parametrize("line", WRONG_PATHS)
def test_a_wrong_path_ends_in_a_line_not_a_traceback(torch, tmp_path, monkeypatch, capsys, line):
    (tmp_path / "afile").write_text("[1,")
    (tmp_path / "none").mkdir()
    monkeypatch.chdir(tmp_path)
    if "none" not in line:
        monkeypatch.setattr(data, "load", lambda path: small_digits())
    name, *tokens = line.split()
    file = Path(command.__file__).with_name(f"{name}.py")
    monkeypatch.setattr("sys.argv", [str(file), *tokens])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(file), run_name="__main__")
    said = ended.value.code if isinstance(ended.value.code, str) else capsys.readouterr().err
    assert re.search(f"^python -m training.{name}: error: .*{WRONG_PATHS[line]}", said, re.M)


@pytest.mark.parametrize(
    ("tokens", "words"),
    [
        ("--epochs 0", "argument --epochs: 0, wanted an integer of at least 1"),
        ("--epochs -3", "argument --epochs: -3, wanted an integer of at least 1"),
        ("--epochs 1.5", "argument --epochs: 1.5, wanted an integer of at least 1"),
        ("--seed -1", "argument --seed: -1, wanted an integer of at least 0"),
        ("--threads 0", "argument --threads: 0, wanted an integer of at least 1"),
        ("--device cuda", "argument --device: cuda, and PyTorch finds no GPU here"),
        ("mnist-smal", "argument NAME: invalid choice: 'mnist-smal'"),
    ],
)
def test_what_training_cannot_do_is_refused(torch, tmp_path, monkeypatch, capsys, tokens, words):
    from training import train

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    name = ["mnist-tiny"] if tokens.startswith("--") else []
    with pytest.raises(SystemExit):
        train.main([*name, *tokens.split(), "--out", str(tmp_path)])
    said = capsys.readouterr().err
    assert words in said
    assert said.count("mnist-linear") == (not name)  # the recipes are listed once, if at all
    assert not list(tmp_path.iterdir())


def test_the_recipe_that_a_command_line_asks_for(torch, tmp_path, monkeypatch):
    from training import train

    runs = []
    monkeypatch.setattr(train.data, "load", lambda path: None)
    monkeypatch.setattr(train, "train", lambda *given: runs.append(given[0]))
    large = RECIPES["mnist-large"]
    for tokens, wanted in (
        ([], {}),
        # Of so few the recipe's last one is not the 72nd.
        (["--epochs", "2"], {"epochs": 2, "stop": 0}),
        (["--seed", "0", "--refit"], {"seed": 0, "refit": True}),
    ):
        train.main(["mnist-large", "--out", str(tmp_path), *tokens])
        assert runs.pop() == dataclasses.replace(large, **wanted)


def test_the_help_lists_every_recipe(torch, capsys):
    from training import train

    with pytest.raises(SystemExit):
        train.main(["--help"])
    said = capsys.readouterr().out
    assert set(RECIPES) <= set(re.split(r"[\s,]+", said))
    assert "another number adds in another order" in " ".join(said.split())


def test_a_command_ends_as_it_says():
    for main, status in ((lambda: None, None), (lambda: 1, 1)):
        with pytest.raises(SystemExit) as ended:
            command.run("x", main)
        assert ended.value.code == status


@pytest.mark.parametrize("content", [b"", b"{}", b"hello world", None])
@pytest.mark.parametrize("name", ["checkpoint.pt", "best.pt", "recipe.json"])
def test_a_damaged_run_is_named(torch, tmp_path, name, content):
    """Empty, of another kind, or cut; by those that go on with a run and those that take of it."""
    from training import runs, train

    recipe = Recipe("x", (784, 4, 10), epochs=1)
    train.train(recipe, small_digits(), tmp_path)
    file = tmp_path / "x-1" / name
    file.write_bytes(file.read_bytes()[:-30] if content is None else content)
    named = f"{name}: wanted .*, found it damaged"
    with pytest.raises(ValueError, match=named):
        runs.weights(recipe, tmp_path)
    with pytest.raises(ValueError, match=named):
        export.validation_of_seeds(recipe, tmp_path)
    if name == "checkpoint.pt":
        with pytest.raises(ValueError, match=named):
            train.train(recipe, small_digits(), tmp_path)


@pytest.mark.parametrize("n_bytes", [0, 100, 500_000, -1])
def test_damaged_kept_weights_are_named(torch, tmp_path, monkeypatch, n_bytes):
    from training import kept

    file = tmp_path / "kept.npz"
    file.write_bytes(kept.FILE.read_bytes()[:n_bytes])
    monkeypatch.setattr(kept, "FILE", file)
    with pytest.raises(ValueError, match="kept.npz: wanted kept weights, found it damaged"):
        kept.dense()


def test_the_textbook_makes_its_folder(tmp_path):
    textbook.main(["--to", str(tmp_path / "new" / "to")])
    assert len(list((tmp_path / "new" / "to").glob("*.safetensors"))) == len(textbook.NETWORKS)


def test_distortion_is_reproducible_and_keeps_the_digit(torch):
    from training import augment, train

    images = train.pixels(mnist.sample()[0][::20])
    nothing = Augmentation(0, 0, 0, 0, 0)
    generator = torch.Generator().manual_seed(1)
    assert torch.allclose(augment.distort(images, nothing, generator), images, atol=1e-4)
    one, two = (
        augment.distort(images, Augmentation(), torch.Generator().manual_seed(5)) for _ in range(2)
    )
    assert torch.equal(one, two)
    assert not torch.equal(one, images)
    assert 0.7 < one.sum() / images.sum() < 1.4


def test_a_student_learns_from_its_teachers(torch, tmp_path, monkeypatch):
    from training import train

    teacher = Recipe("t", (), epochs=1, batch=50, n_conv=2)
    student = Recipe(
        "s", (784, 12, 10), epochs=10, batch=50, teachers=("t",), copies=2,
        wobble=Augmentation(1, 0.01, 0.01, 0.5, 0.1),
    )  # fmt: skip
    monkeypatch.setitem(RECIPES, "t", teacher)
    with pytest.raises(SystemExit, match="t-1 has no run that came to its end: .*train t --seed 1"):
        train.train(student, small_digits(), tmp_path)
    train.train(teacher, small_digits(), tmp_path)
    assert train.train(student, small_digits(), tmp_path) > 0.2
    made = hashlib.sha256((tmp_path / "t-1" / "best.pt").read_bytes()).hexdigest()[:8]
    refit = dataclasses.replace(student, refit=True)  # learns from more of the same copies
    assert train.train(refit, small_digits(), tmp_path) > 0.2
    assert sorted(path.name for path in tmp_path.glob("copies-*/*")) == [
        "1-images.npy", f"1-t-1-{made}.npy", "2-images.npy", f"2-t-1-{made}.npy"
    ]  # fmt: skip


def test_copies(torch, tmp_path, monkeypatch):
    """Copy 0 is the digits; others are distorted, the same again, and what teachers say of them."""
    from training import copies, networks, train

    teacher = Recipe("t", (), epochs=1, batch=50, n_conv=2)
    monkeypatch.setitem(RECIPES, "t", teacher)
    train.train(teacher, small_digits(), tmp_path)
    student = Recipe("s", (784, 12, 10), teachers=("t",))
    images = torch.from_numpy(small_digits().fit_images)
    made = copies.Copies(student, images, tmp_path)
    plain, _ = made.get(0)
    assert torch.equal(plain, images)
    shown, answers = made.get(3)
    again, same = copies.Copies(student, images, tmp_path).get(3)
    assert shown.dtype == torch.uint8
    assert shown.shape == images.shape
    assert not torch.equal(shown, images)
    assert torch.equal(shown, again)
    assert torch.equal(answers, same)
    # Of two teachers it is the mean; the one that was asked already is not asked again.
    other = Recipe("u", (784, 9, 10), epochs=1, batch=50)
    monkeypatch.setitem(RECIPES, "u", other)
    train.train(other, small_digits(), tmp_path)
    asked = []
    real = copies.logits
    monkeypatch.setattr(copies, "logits", lambda *given: asked.append(given[2]) or real(*given))
    both = dataclasses.replace(student, teachers=("t", "u"))
    shown_both, mean = copies.Copies(both, images, tmp_path).get(3)
    assert asked == [other]
    assert torch.equal(shown_both, shown)
    alone = dataclasses.replace(student, teachers=("u",))
    assert torch.equal(mean, (answers + copies.Copies(alone, images, tmp_path).get(3)[1]) / 2)
    network = networks.build(teacher)
    best = torch.load(tmp_path / "t-1" / "best.pt", weights_only=True)
    network.load_state_dict(best["model"])
    want = train.logits(network, shown, teacher).log_softmax(1)
    assert torch.allclose(answers, want, atol=2e-2)


def test_jitter_moves_whole_images(torch):
    from training import train

    images = train.pixels(mnist.sample()[0][:40])
    torch.manual_seed(1)
    moved = train._jittered(images, Recipe("x", (784, 10), jitter=2))
    assert moved.shape == images.shape
    assert not torch.equal(moved, images)
    assert torch.allclose(moved.sum((1, 2, 3)), images.sum((1, 2, 3)))
    assert train._jittered(images, Recipe("x", (784, 10))) is images


def test_the_seed_is_chosen_by_validation(torch, tmp_path):
    """Of runs of the recipe that came to their end."""
    for seed, validation, epoch in (
        (1, 0.5, 3),
        (2, 0.75, 3),
        (3, 0.75, 3),
        (4, 0.9, 2),
        (5, 1, 0),
    ):
        folder = tmp_path / f"x-{seed}"
        folder.mkdir()
        about = {"name": "x", "seed": seed, "epochs": 3}
        (folder / "recipe.json").write_text(json.dumps(about))
        if seed < 5:  # or stopped before there was one
            torch.save({"epoch": epoch}, folder / "checkpoint.pt")
        torch.save({"validation": validation}, folder / "best.pt")
    (tmp_path / "x-notes").mkdir()
    recipe = Recipe("x", (784, 10), epochs=3)
    found = {1: 0.5, 2: 0.75, 3: 0.75}
    assert export.validation_of_seeds(recipe, tmp_path) == found
    # A run that another recipe made is not one of its seeds, be it only shorter.
    torch.save({"epoch": 3}, tmp_path / "x-5" / "checkpoint.pt")
    file = tmp_path / "x-5" / "recipe.json"
    for other in ({"epochs": 2}, {"stop": 2}, {"refit": True}, {"name": "x-5"}, {"batch": 9}):
        about = json.loads(json.dumps(dataclasses.asdict(recipe))) | {"seed": 5} | other
        file.write_text(json.dumps(about))
        assert export.validation_of_seeds(recipe, tmp_path) == found, other
    file.write_text(json.dumps(dataclasses.asdict(recipe) | {"seed": 5}))
    assert export.validation_of_seeds(recipe, tmp_path) == {**found, 5: 1}


def test_the_spread_of_seeds():
    """By hand: 0.97, 0.98, 0.99 have mean 0.98 and deviation 0.01; t is 4.303 for two degrees."""
    seeds = again.stated({"validation_by_seed": "1: 0.9700, 2: 0.9800, 3: 0.9900"})
    assert seeds == {1: 0.97, 2: 0.98, 3: 0.99}
    found = again.spread(seeds)
    assert found.mean == pytest.approx(0.98)
    assert found.deviation == pytest.approx(0.01)
    assert found.high - found.mean == pytest.approx(4.303 * 0.01 * (4 / 3) ** 0.5)
    assert found.mean - found.low == pytest.approx(found.high - found.mean)
    assert again.told(found).startswith("mean 98.00 %, standard deviation 1.00 points; one more")
    assert again.stated({}) == {}
    with pytest.raises(ValueError, match="two seeds or more"):
        again.spread({1: 0.9})


@pytest.mark.parametrize(("accuracy", "status"), [(0.985, 0), (0.7, 1)])
def test_training_again(torch, tmp_path, monkeypatch, capsys, accuracy, status):
    about = {"validation_by_seed": "1: 0.9700, 3: 0.9900"}
    monkeypatch.setattr(fastnn, "load", lambda name: SimpleNamespace(metadata=about))
    monkeypatch.setattr(fastnn, "models", lambda: ["mnist-tiny"])
    monkeypatch.setattr(again.data, "load", lambda folder: None)
    runs = []
    monkeypatch.setattr("training.train.train", lambda *given: runs.append(given) or accuracy)
    assert again.main(["mnist-tiny", "--out", str(tmp_path)]) == status
    ((recipe, _, out),) = runs
    assert (recipe.run, out) == ("mnist-tiny-4", tmp_path)
    printed = capsys.readouterr().out
    assert "seeds 1, 3: mean 98.00 %" in printed
    assert f"seed 4: {100 * accuracy:.2f} %, {'OUTSIDE' if status else 'within'}" in printed
    with pytest.raises(SystemExit):
        again.main(["mnist-small", "--out", str(tmp_path)])
    assert "mnist-small does not ship" in capsys.readouterr().err


def test_training_again_goes_on_and_does_not_begin_twice(torch, tmp_path, monkeypatch, capsys):
    """An interrupted run goes on; of one that came to its end the ways out are named."""
    about = {"validation_by_seed": "1: 0.0000, 3: 1.0000"}
    monkeypatch.setattr(fastnn, "load", lambda name: SimpleNamespace(metadata=about))
    monkeypatch.setattr(again.data, "load", lambda path: small_digits())
    recipe = dataclasses.replace(RECIPES["mnist-tiny"], epochs=2, plain_epochs=0)
    monkeypatch.setitem(RECIPES, "mnist-tiny", recipe)
    from training.train import train

    train(dataclasses.replace(recipe, seed=4, stop=1), small_digits(), tmp_path)
    file = tmp_path / "mnist-tiny-4" / "recipe.json"
    file.write_text(file.read_text().replace('"stop": 1', '"stop": 0'))  # as if interrupted
    capsys.readouterr()
    assert again.main(["mnist-tiny", "--out", str(tmp_path)]) == 0
    assert "mnist-tiny-4: going on after epoch 1" in capsys.readouterr().err
    (tmp_path / "mnist-tiny-5").mkdir()
    with pytest.raises(SystemExit):
        again.main(["mnist-tiny", "--out", str(tmp_path)])
    said = capsys.readouterr().err
    assert 'make retrain ARGS="--seed 6"' in said
    assert f"or remove {tmp_path / 'mnist-tiny-4'}\n" in said
