"""The script with which bash, zsh or fish completes commands, options and files, made by shtab from the parser."""

from __future__ import annotations

import argparse
from typing import Any

from lanczos_saddle.cli.entry import PROG, build_parser
from lanczos_saddle.machine.extras import require

FILES = ("FILE", "PROBLEM")
FOLDERS = ("DIR", "DIR/")
"""What options call a file and a folder."""


def completion(options: argparse.Namespace) -> None:
    """Print the script; no program runs at a Tab. Raises ModuleNotFoundError where shtab is missing."""
    require("shtab", "completion")
    import shtab

    parser = build_parser()
    mark(parser, {**dict.fromkeys(FILES, shtab.FILE), **dict.fromkeys(FOLDERS, shtab.DIRECTORY)})
    print(shtab.complete(parser, shell=options.shell, root_prefix=PROG.replace("-", "_")))


def mark(parser: argparse.ArgumentParser, kinds: dict[str, Any]) -> None:
    """Say of every argument that names a file or a folder what completes it."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for own in dict(action.choices).values():
                mark(own, kinds)
        elif isinstance(action.metavar, str) and action.metavar in kinds and not action.choices:
            action.complete = kinds[action.metavar]  # type: ignore[attr-defined]
