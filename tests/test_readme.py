"""README.md: its examples run, its lists are those of the program."""

import re
from pathlib import Path

import pytest

import fastnn

README = (Path(__file__).resolve().parent.parent / "README.md").read_text()
EXAMPLES = re.findall(r"```python\n(.*?)```", README, re.S)


@pytest.mark.parametrize("code", EXAMPLES, ids=range(len(EXAMPLES)))
def test_the_example_runs(code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {"__name__": "example"})


def test_there_are_examples():
    assert len(EXAMPLES) == 3


def test_every_activation_is_listed():
    (listed,) = re.findall(r"Activations: (.*?)\.\n", README, re.S)
    names = [*re.findall(r"[a-z_0-9]{3,}", listed.split(";")[0]), "softmax", "log_softmax"]
    assert sorted(names) == sorted(fastnn.activations())


def test_every_command_exists():
    pytest.importorskip("cyclopts", reason="NOT TESTED: needs the extra fastnn[cli]")
    from fastnn.cli.main import app

    commands = re.findall(r"^fastnn ([a-z-]+)", README, re.M)
    assert len(commands) == 13
    for name in commands:
        assert app[name]
