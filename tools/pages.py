"""Pages whose code runs: what their examples print is what the pages say they print.

    python -m tools.pages              # compares; 1 where a page is out of date
    python -m tools.pages --write      # puts the results of today into the pages

In a page, ```python blocks run from top to bottom in one namespace; what one prints stands in the
```text block right behind it. In a ```console block, lines that begin with "$ " are commands,
`fastnn ...` or `python examples/NAME.py`, and what follows each is its output. Other blocks are
left alone.

Invariant: a page runs in a folder of its own that is removed afterwards, and sees no MNIST files:
its results are the same on every machine.
"""

import argparse
import contextlib
import io
import os
import re
import runpy
import shlex
import sys
import tempfile
from pathlib import Path
from unittest import mock

ROOT = Path(__file__).resolve().parent.parent
PAGES = (ROOT / "docs" / "textbook.md", ROOT / "docs" / "textbook.ko.md")

_CODE = re.compile(r"^```(python|console)\n(.*?)^```\n(?:\n```text\n.*?^```\n)?", re.M | re.S)


def code_of(page: str) -> list[tuple[str, str]]:
    """The kind and the code of each block, without any results."""
    return [
        (kind, code if kind == "python" else "".join(_commands(code)))
        for kind, code in _CODE.findall(page)
    ]


def _commands(code: str) -> list[str]:
    return [line for line in code.splitlines(keepends=True) if line.startswith("$ ")]


def refreshed(page: str, name: str) -> str:
    """The page with the results of running it now; `name` is for tracebacks."""
    namespace = {"__name__": name}

    def run(block: re.Match[str]) -> str:
        kind, code = block.groups()
        if kind == "console":
            shown = "".join(command + _printed_by(command) for command in _commands(code))
            return f"```console\n{shown}```\n"
        line = page[: block.start(2)].count("\n")
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            # As many empty lines before it as the page has: tracebacks then name the page's line.
            exec(compile("\n" * line + code, name, "exec"), namespace)
        result = _trimmed(printed.getvalue())
        return f"```python\n{code}```\n" + (f"\n```text\n{result}```\n" if result else "")

    with _somewhere_else():
        return _CODE.sub(run, page)


@contextlib.contextmanager
def _somewhere_else():
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as folder, mock.patch.dict(os.environ):
        os.environ.pop("FASTNN_MNIST", None)
        os.environ["XDG_CACHE_HOME"] = folder
        os.chdir(folder)
        try:
            yield
        finally:
            os.chdir(before)


def _printed_by(line: str) -> str:
    """What a command prints on stdout."""
    program, *arguments = shlex.split(line.removeprefix("$ "))
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(io.StringIO()) as errors:
        if program == "fastnn":
            from fastnn.__main__ import main

            if main(arguments):
                raise RuntimeError(f"{line.strip()}: {errors.getvalue()}")
        elif program == "python":
            runpy.run_path(str(ROOT / arguments[0]), run_name="__main__")
        else:
            raise ValueError(f"{line.strip()}: wanted fastnn or python")
    return _trimmed(printed.getvalue())


def _trimmed(text: str) -> str:
    return "".join(line.rstrip() + "\n" for line in text.rstrip().splitlines())


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Run the code of the pages.")
    parser.add_argument("pages", nargs="*", type=Path, default=PAGES)
    parser.add_argument("--write", action="store_true", help="put today's results into the pages")
    chosen = parser.parse_args(arguments)
    status = 0
    for path in chosen.pages:
        page = path.read_text(encoding="utf-8")
        now = refreshed(page, path.name)
        if now == page:
            print(f"{path.name}: up to date")
        elif chosen.write:
            path.write_text(now, encoding="utf-8")
            print(f"{path.name}: written")
        else:
            print(f"{path.name}: prints something else now; see --write")
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())
