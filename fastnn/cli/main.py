"""The commands joined into one app, and the one place where errors become exit statuses.

Invariant: 0 all was done, 1 something failed, 2 the command line was wrong, 130 Ctrl-C. Errors
that a user can cause end in one line on stderr; any other is a bug and shows its traceback.
"""

import os
import sys
from collections.abc import Sequence

from cyclopts import App, CycloptsError

import fastnn
from fastnn import formats
from fastnn.cli import (
    bench,
    convert,
    data,
    evaluate,
    output,
    plot,
    predict,
    quantize,
    show,
    verify,
)

_HELP = f"""Fast inference for networks of dense layers.

MODEL is the name of a bundled model (`fastnn models`) or the path of a file:
{", ".join(formats.READ)}.
"""

app = App(
    name="fastnn",
    help=_HELP,
    version=f"fastnn {fastnn.__version__}",
    result_action="return_value",
    suppress_keyboard_interrupt=False,
)
for command in (
    show.info,
    show.models,
    show.summary,
    show.trace,
    plot.plot,
    predict.predict,
    evaluate.evaluate,
    quantize.quantize,
    convert.convert,
    convert.export_c,
    verify.verify,
    bench.bench,
    bench.compare,
):
    app.command(command)
app.command(data.app)


def run(tokens: Sequence[str]) -> int:
    """Run one command line; returns its exit status."""
    try:
        status = _run(tokens)
        sys.stdout.flush()  # a reader that has left shows here, not while Python shuts down
    except BrokenPipeError:
        # Python flushes stdout once more at exit, and would complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        output.problem("interrupted")
        return 130
    return status


def _run(tokens: Sequence[str]) -> int:
    try:
        status = app(list(tokens), exit_on_error=False, print_error=False)
    except CycloptsError as error:
        output.problem(str(error))
        output.note("`fastnn --help` lists the commands, `fastnn COMMAND --help` their options.")
        return 2
    except output.UsageError as error:
        output.problem(error)
        return 2
    except BrokenPipeError:
        raise
    except (OSError, ValueError, TypeError, ImportError, MemoryError) as error:
        output.problem(error)
        return 1
    return status if isinstance(status, int) else 0
