"""`python -m fastnn` and the command `fastnn`: the command line, or without its extra a word on it.

Invariant: this works with NumPy alone. Without cyclopts and rich it says on stderr what to
install, and prints how fastnn was built; asked for a command it fails.
"""

import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line (default: this process's); the exit status: 0, 1 failed, 2 misused."""
    tokens = sys.argv[1:] if arguments is None else list(arguments)
    try:
        import cyclopts  # noqa: F401
        import rich  # noqa: F401
    except ImportError:
        return _without_extra(tokens)
    from fastnn.cli.main import run

    return run(tokens)


def _without_extra(tokens: Sequence[str]) -> int:
    if not tokens:
        from fastnn.cli.about import about, about_text

        print(about_text(about()))
    print('fastnn: the commands need an extra: pip install "fastnn[cli]"', file=sys.stderr)
    return 1 if tokens else 0


if __name__ == "__main__":
    sys.exit(main())
