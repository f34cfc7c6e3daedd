"""The command line: one module per group of commands, `main.py` joins them, `output.py` prints.

Invariant: results go to stdout, everything else to stderr; the work itself is done by the library,
which knows nothing of this folder. cyclopts and rich are needed by `main` and the commands only:
`about` imports neither.
"""
