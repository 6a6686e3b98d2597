"""The command line. Exit status 0: done; 2: bad input, one line on stderr says what and what to do; 1: a failure.

130, 143 and 129: interrupted by SIGINT, SIGTERM or SIGHUP; what a count knew is printed, written and saved.
"""

from __future__ import annotations

import argparse
import atexit
import os
import sys
from argparse import Action
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module

import lanczos_saddle
from lanczos_saddle import startup
from lanczos_saddle.cli.arguments import COMMANDS, KINDS
from lanczos_saddle.cli.console import Signals, outlet, plans_to_stderr, say, signals
from lanczos_saddle.cli.display import displayed
from lanczos_saddle.cli.examples import shown_examples
from lanczos_saddle.cli.options import Parser, add_common, figure_beside, source_of
from lanczos_saddle.cli.ranks import first_rank, launched, over_ranks, quiet_but_first
from lanczos_saddle.cli.wording import GIVEN, flags_of, on_command_line
from lanczos_saddle.machine.writable import check_apart, check_folder, check_writable

PROG = "lanczos-saddle"

DESCRIPTION = """\
How many Hessian eigenvalues are negative, near zero, positive: intervals that
hold, from Hessian-vector products alone."""

EPILOG = f"""\
{shown_examples("")}

`{PROG} COMMAND --help` shows the options and examples of a command.

Exit status 0: done; 2: bad input, one line on stderr says what and what to do;
1: a failure (a result that could not be written among them); 130, 143:
interrupted by SIGINT, SIGTERM: what a count knew by then is printed, written to
--json and --record with "stopped": "interrupted", and saved to --state."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    with signals() as received, outlet() as out, quiet_but_first():
        try:
            status = _status(arguments, received)
        except SystemExit:  # of --help and --version, which have printed
            out.flush()
            if out.failure is None:
                raise
            status = 1
        finally:
            plans_to_stderr(silent=True)  # of this command alone, where a program calls it
    if out.failure is not None:
        say(f"standard output took not all: {out.failure}")
    return status or (1 if out.failure is not None else 0)


def _status(arguments: Sequence[str] | None, received: Signals) -> int:
    """The exit status of one command, whatever it ends with."""
    traceback, options = False, None
    try:
        startup.started()
        arguments = list(sys.argv[1:] if arguments is None else arguments)
        parser = build_parser(arguments)
        options = parser.parse_args(arguments)
        if options.command is None:
            print(parser.format_help(), end="")
            return 0
        traceback = options.traceback
        if first_rank():
            check_files(options)
        options.silent = options.quiet  # as asked for; lines are for logs, too
        plans_to_stderr(silent=options.silent)
        options.quiet = options.quiet or not sys.stderr.isatty()  # bars on a terminal, nothing in a log
        with displayed(silent=options.silent or not first_rank()):
            return _run(options)
    except ValueError as error:
        if traceback and error.__cause__ is not None:  # what another library or the problem raised
            raise
        say(on_command_line(_line(error), None if options is None else _flags(options)))
        return 2 if first_rank() else 0  # rank 0 says it: one that fails before would end the job
    except KeyboardInterrupt:
        say(f"interrupted by {received.name}")
        if startup.is_command():
            atexit.register(_leave, 128 + received.received)
        return 128 + received.received
    except Exception as error:  # a failure, not misuse: one line here, the traceback on request
        if traceback:
            raise
        name, line = type(error).__name__, _line(error)
        line = name if line == name else f"{name}: {line}"
        say(_line(error) if getattr(error, "complete", False) else f"{line} (--traceback shows where)")
        return 1


def _leave(status: int) -> None:
    """End with this status.

    Where an interrupt met an exec() of a string, as dataclasses make one while they are imported, Python ends by the
    signal itself, although the interrupt was handled.
    """
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(status)


def _run(options: argparse.Namespace) -> int:
    try:
        module, _, name = COMMANDS[options.command].run.partition(":")
        work = getattr(import_module(f"lanczos_saddle.cli.{module}"), name)
        status: int = over_ranks(options, work) if launched() else work(options) or 0
    except SystemExit as error:  # of the user's code; this package's own is that of --help
        from lanczos_saddle.networks.refusals import exited

        raise exited(error) from error
    return status


def check_files(options: argparse.Namespace) -> None:
    """Refuse result files that cannot be written or would overwrite each other, before the work."""
    names = ("json", "record", "output", "state")
    results = {f"--{name}": path for name in names if (path := getattr(options, name, None)) is not None}
    if options.command == "density":
        results["the figure"] = str(figure_beside(options.output))
    if options.command == "new":
        results["FILE"] = results.pop("--output")
    check_apart(results, {f"the input {path}": path for path in _inputs(options)})
    for name, path in results.items():
        check_writable(path, appended=name == "--record")
    if "--state" in results:
        from lanczos_saddle.machine.states import chosen_state

        chosen_state(results["--state"], None)
    if getattr(options, "folder", None) is not None:
        check_folder(options.folder)


def _flags(options: argparse.Namespace) -> dict[str, Action]:
    """The options of a command, by the library's names for them; of two thresholds the given one is `GIVEN`."""
    parser = Parser(prog=PROG)
    COMMANDS[options.command].add(parser)
    flags = flags_of(parser)
    if getattr(options, "threshold", None) is None and getattr(options, "relative_threshold", None) is not None:
        flags[GIVEN] = flags["relative_threshold"]
    return flags


def _inputs(options: argparse.Namespace) -> list[str]:
    """Files that a command reads: weights, data, the module of the problem in the working folder."""
    named = [getattr(options, "weights", None), *(getattr(options, "datasets", None) or ())]
    problem = getattr(options, "problem", "")
    return [path for path in (*named, source_of(problem)) if path and os.path.isfile(path)]


def _line(error: Exception) -> str:
    """The message of any library on one line; an error without one is named."""
    return " ".join(str(error).split()) or type(error).__name__


def build_parser(arguments: Sequence[str] | None = None) -> Parser:
    """The parser of all commands; its errors are raised as ValueError.

    Of the commands only the one that `arguments` name gets its options and examples.
    """
    parser = Parser(prog=PROG, description=DESCRIPTION, epilog=EPILOG)
    parser.add_argument("-h", "--help", action="help", help="show this text and end")
    parser.add_argument("--traceback", action="store_true", help="show the traceback of a failure")
    parser.add_argument("--version", action="version", version=f"{PROG} {lanczos_saddle.__version__}")
    parser._positionals.title = "commands"
    sub = parser.add_subparsers(dest="command", metavar="COMMAND")
    sub.kinds = {kind: [n for n, command in COMMANDS.items() if command.kind == kind] for kind in KINDS}  # type: ignore[attr-defined]
    asked = None if arguments is None else next((word for word in arguments if word in COMMANDS), "")
    for name, command in COMMANDS.items():
        own = sub.add_parser(name, help=command.text, description=f"{name}: {command.text}.")
        if asked is None or asked == name:
            command.add(own)
            own.epilog = shown_examples(name)
        add_common(own)
    return parser
