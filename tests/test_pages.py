"""The textbook (docs/textbook*.md): its code runs and prints what the pages say, in both languages
the same code and formulas, and the formulas are sound; and tools/pages.py, which runs them."""

import os
import re
from collections import Counter
from pathlib import Path

import pytest

from tools import pages

ENGLISH, KOREAN = (path.read_text(encoding="utf-8") for path in pages.PAGES)
BOTH = pytest.mark.parametrize("path", pages.PAGES, ids=lambda path: path.name)

pytest.importorskip("cyclopts", reason="NOT TESTED: needs the extra fastnn[cli]")


def without_fences(page):
    return re.sub(r"^```.*?^```\n", "", page, flags=re.M | re.S)


def displayed(page):
    """The formulas that stand alone, without the words in them."""
    found = re.findall(r"^```math\n(.*?)^```\n", page, re.M | re.S)
    return [" ".join(re.sub(r"\\text\{[^}]*\}", " ", formula).split()) for formula in found]


def inline(page):
    return re.findall(r"\$`([^`]*)`\$", without_fences(page))


# ---- the pages -----------------------------------------------------------------------------------


@BOTH
def test_the_code_prints_what_the_page_says(path):
    page = path.read_text(encoding="utf-8")
    assert pages.refreshed(page, path.name) == page


def test_both_languages_run_the_same_code():
    assert pages.code_of(ENGLISH) == pages.code_of(KOREAN)
    assert len(pages.code_of(ENGLISH)) >= 20


def test_both_languages_have_the_same_formulas():
    assert displayed(ENGLISH) == displayed(KOREAN)
    assert len(displayed(ENGLISH)) >= 20
    assert set(inline(ENGLISH)) == set(inline(KOREAN))


def test_both_languages_have_the_same_chapters_and_pictures():
    for pattern in (r"^(#+) ", r"!\[[^\]]+\]\((\S+)\)"):
        assert re.findall(pattern, ENGLISH, re.M) == re.findall(pattern, KOREAN, re.M)


def test_the_korean_page_is_korean():
    prose = re.sub(r"`[^`]*`|\([^)]*\)", "", without_fences(KOREAN))
    letters = Counter("hangul" if "가" <= c <= "힣" else "latin" for c in prose if c.isalpha())
    assert letters["hangul"] > 5 * letters["latin"]


@BOTH
def test_the_path_is_whole(path):
    page = path.read_text(encoding="utf-8")
    for name in ("perceptron-2d", "xor", "sigmoid-3-2-1", "mnist-linear", "mnist-sigmoid",
                 "mnist-small"):  # fmt: skip
        assert name in page
    for name in ("linear_classifier", "linear_regressor", "mnist_digits", "perceptron",
                 "sigmoid_3_2_1", "sigmoid_neuron", "xor"):  # fmt: skip
        assert f"examples/{name}.py" in page
    assert "$ fastnn trace sigmoid-3-2-1 " in page
    assert [int(n) for n in re.findall(r"^## (\d)\. ", page, re.M)] == list(range(1, 10))


@BOTH
def test_what_is_linked_is_there(path):
    targets = re.findall(r"\]\(([^)#:]+)\)", path.read_text(encoding="utf-8"))
    assert len(targets) >= 12
    for target in targets:
        assert (path.parent / target).exists(), target


@BOTH
def test_formulas_are_as_github_wants_them(path):
    prose = without_fences(path.read_text(encoding="utf-8"))
    # Every dollar belongs to $`...`$; in front of it a space, the start of a line or a parenthesis.
    assert "$" not in re.sub(r"(?:(?<=[\s(])|^)\$`[^`\n]+`\$", "", prose, flags=re.M)
    assert len(inline(prose)) > 60


@BOTH
def test_formulas_are_balanced(path):
    page = path.read_text(encoding="utf-8")
    for formula in [*re.findall(r"^```math\n(.*?)^```\n", page, re.M | re.S), *inline(page)]:
        bare = re.sub(r"\\[{}]", "", formula)
        depth = 0
        for character in bare:
            depth += {"{": 1, "}": -1}.get(character, 0)
            assert depth >= 0, formula
        assert depth == 0, formula
        opened = re.findall(r"\\begin\{(\w+)\}", formula)
        assert sorted(opened) == sorted(re.findall(r"\\end\{(\w+)\}", formula)), formula
        for left, right in (
            (r"\\bigl\b", r"\\bigr\b"),
            (r"\\left\b", r"\\right\b"),
            (r"\(", r"\)"),
        ):
            assert len(re.findall(left, formula)) == len(re.findall(right, formula)), formula


def test_the_worked_numbers_are_those_of_the_trace():
    """The pass of step 5 stands in a formula, in a trace and in what Python prints."""
    (worked,) = (f for f in displayed(ENGLISH) if "h_0 &= " in f)
    for number in ("0.75026", "0.34299", "0.472285", "0.615924"):
        assert number in worked
        assert f"= {number}" in re.search(r"\$ fastnn trace sigmoid.*?```", ENGLISH, re.S).group()


def test_the_activations_picture_shows_them_all():
    import fastnn

    drawn = (pages.ROOT / "docs" / "pictures" / "activations.svg").read_text()
    for name in fastnn.activations():
        assert f">{name}<" in drawn
    assert "dc:date" not in drawn


# ---- the tool ------------------------------------------------------------------------------------

PAGE = """# A page

```python
x = 1
print("one", x)
```

```text
something old
```

Words.

```python
x += 1
```

```console
$ fastnn trace xor 1 0 --json
old
$ fastnn trace xor 1 0
```

```sh
not run
```
"""


def test_results_are_put_in_place():
    now = pages.refreshed(PAGE, "page.md")
    assert "```text\none 1\n```\n\nWords." in now
    assert "old" not in now
    assert "x += 1\n```\n\n```console" in now  # nothing printed, nothing shown
    assert '$ fastnn trace xor 1 0 --json\n{"x": [1.0, 0.0]' in now
    assert "$ fastnn trace xor 1 0\nx = [1, 0]\n\nlayer 0" in now
    assert "```sh\nnot run\n```" in now
    assert pages.refreshed(now, "page.md") == now
    assert pages.code_of(now) == pages.code_of(PAGE)


def test_errors_name_the_line_of_the_page():
    with pytest.raises(ZeroDivisionError) as error:
        pages.refreshed("\n\n```python\nx = 1\nx / 0\n```\n", "page.md")
    assert error.traceback[-1].lineno + 1 == 5
    with pytest.raises(RuntimeError, match="fastnn summary none: .*no bundled model"):
        pages.refreshed("```console\n$ fastnn summary none\n```\n", "page.md")
    with pytest.raises(ValueError, match="ls: wanted fastnn or python"):
        pages.refreshed("```console\n$ ls\n```\n", "page.md")


def test_a_page_runs_elsewhere_and_without_mnist(monkeypatch):
    monkeypatch.setenv("FASTNN_MNIST", "/somewhere")
    before = Path.cwd()
    page = (
        "```python\nimport os, pathlib\npathlib.Path('a').write_text('b')\n"
        "print(os.environ.get('FASTNN_MNIST'), os.listdir())\n```\n"
    )
    assert "None ['a']" in pages.refreshed(page, "page.md")
    assert Path.cwd() == before
    assert os.environ["FASTNN_MNIST"] == "/somewhere"
    assert not Path("a").exists()


def test_the_command(tmp_path, capsys):
    path = tmp_path / "page.md"
    path.write_text(PAGE)
    assert pages.main([str(path)]) == 1
    assert path.read_text() == PAGE
    assert "page.md: prints something else now" in capsys.readouterr().out
    assert pages.main([str(path), "--write"]) == 0
    assert pages.main([str(path)]) == 0
    assert capsys.readouterr().out.endswith("page.md: up to date\n")
