"""The exceptions of fastnn that callers may want to catch by name.

Invariant: this module imports nothing, so every other module may import it.
"""


class LoadError(ValueError):
    """A file could not be read as what it claims to be.

    The message names the file, the format, what was expected and what was found.
    """
