"""The command line: one file a command where it is long, what it takes and what it does."""

from lanczos_saddle.cli.entry import main

__all__ = ["main"]
