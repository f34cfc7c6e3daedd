"""The version, in the one place where it is written; pyproject.toml reads it from here.

A literal, so that the build can read it without importing the package.
"""

__version__ = "0.1.0"
