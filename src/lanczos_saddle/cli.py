"""The command line. Exit status 0: done; 2: bad input, one line on stderr says what and what to do; 1: a failure."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from lanczos_saddle.arguments import COMMANDS
from lanczos_saddle.commands import figure_beside
from lanczos_saddle.options import Parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    try:
        options = build_parser().parse_args(arguments)
    except ValueError as error:
        return _refuse(error)
    try:
        check_files(options)
        options.silent = options.quiet  # as asked for; lines are for logs, too
        options.quiet = options.quiet or not sys.stderr.isatty()  # bars on a terminal, nothing in a log
        status: int = options.run(options) or 0
    except ValueError as error:
        return _refuse(error)
    except KeyboardInterrupt:
        print("lanczos-saddle: interrupted", file=sys.stderr)
        return 1
    except Exception as error:  # a failure, not misuse: one line here, the traceback on request
        if options.traceback:
            raise
        print(f"lanczos-saddle: {type(error).__name__}: {_line(error)} (--traceback shows where)", file=sys.stderr)
        return 1
    return status


def check_files(options: argparse.Namespace) -> None:
    """Refuse result files that cannot be written or would overwrite each other, before the work."""
    named = {f"--{name}": getattr(options, name, None) for name in ("json", "record", "output", "checkpoint")}
    if options.command == "density":
        named["the figure"] = str(figure_beside(options.output))
    taken: dict[Path, str] = {}
    for name, path in named.items():
        if path is None:
            continue
        _check_writable(path)
        other = taken.setdefault(Path(path).resolve(), name)
        if other != name:
            raise ValueError(f"every result needs a file of its own; {other} and {name} both name {path}")
    if getattr(options, "folder", None) is not None:
        if Path(options.folder).is_file():
            raise ValueError(f"results are written into a writable folder; {options.folder} is a file: name another")
        _check_writable(str(Path(options.folder, "figure.png")))


def _check_writable(path: str) -> None:
    folder = Path(path).absolute().parent
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir() or not os.access(folder, os.W_OK) or path.endswith("/") or Path(path).is_dir():
        raise ValueError(f"results are written to a file in a writable folder; {path} is not one: name another")


def _refuse(error: ValueError) -> int:
    print(f"lanczos-saddle: {_line(error)}", file=sys.stderr)
    return 2


def _line(error: Exception) -> str:
    """The message of any library on one line."""
    return " ".join(str(error).split())


def build_parser() -> Parser:
    """The parser of all commands; its errors are raised as ValueError."""
    parser = Parser(
        prog="lanczos-saddle",
        description="How many Hessian eigenvalues are negative, near zero, positive: intervals that hold, from "
        "Hessian-vector products alone.",
    )
    parser.add_argument("--traceback", action="store_true", help="show the traceback of a failure")
    sub = parser.add_subparsers(required=True, metavar="COMMAND")
    for add in COMMANDS:
        add(sub)
    return parser
