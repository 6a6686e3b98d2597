"""The command line. Exit status 0: done; 2: bad input, one line on stderr says what and what to do; 1: a failure.

Defaults of what is computed are read from the library's signatures: none is stated here again.
"""

from __future__ import annotations

import argparse
import inspect
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from lanczos_saddle import commands
from lanczos_saddle.bench import bench
from lanczos_saddle.comparison import compare
from lanczos_saddle.counting import EXACT_SIZE, count_eigenvalues
from lanczos_saddle.demo import demo
from lanczos_saddle.density import spectral_density
from lanczos_saddle.landscape_report import landscapes
from lanczos_saddle.planning import STEPS
from lanczos_saddle.preconditioners import NAMES

PROBLEM = (
    "digits or mnist (trained once with a fixed seed, then cached), or package.module:function, a function "
    "without arguments that returns (model, loss, data)"
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    try:
        options = build_parser().parse_args(arguments)
    except ValueError as error:
        return _refuse(error)
    try:
        check_files(options)
        options.quiet = options.quiet or not sys.stderr.isatty()  # bars on a terminal, nothing in a log
        options.run(options)
    except ValueError as error:
        return _refuse(error)
    except KeyboardInterrupt:
        print("lanczos-saddle: interrupted", file=sys.stderr)
        return 1
    except Exception as error:  # a failure, not misuse: one line here, the traceback on request
        if options.traceback:
            raise
        print(f"lanczos-saddle: {type(error).__name__}: {error} (--traceback shows where)", file=sys.stderr)
        return 1
    return 0


def check_files(options: argparse.Namespace) -> None:
    """Refuse result files that cannot be written or would overwrite each other, before the work."""
    named = {name: getattr(options, name, None) for name in ("json", "record", "output", "checkpoint")}
    taken: dict[Path, str] = {}
    for name, path in named.items():
        if path is None:
            continue
        _check_writable(path)
        other = taken.setdefault(Path(path).resolve(), name)
        if other != name:
            raise ValueError(f"every result needs a file of its own; --{other} and --{name} both name {path}")
    if getattr(options, "folder", None) is not None:
        _check_writable(str(Path(options.folder, "figure.png")))


def _check_writable(path: str) -> None:
    folder = Path(path).absolute().parent
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir() or not os.access(folder, os.W_OK) or path.endswith("/") or Path(path).is_dir():
        raise ValueError(f"results are written to a file in a writable folder; {path} is not one: name another")


def _refuse(error: ValueError) -> int:
    print(f"lanczos-saddle: {' '.join(str(error).split())}", file=sys.stderr)
    return 2


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are ValueErrors, so that they take one line, without the usage."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message} ({self.prog} --help lists the options)")


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands; its errors are raised as ValueError."""
    parser = _Parser(
        prog="lanczos-saddle",
        description="How many Hessian eigenvalues are negative, near zero, positive: intervals that hold, from "
        "Hessian-vector products alone.",
    )
    parser.add_argument("--traceback", action="store_true", help="show the traceback of a failure")
    sub = parser.add_subparsers(required=True, metavar="COMMAND")

    show = _command(sub, "demo", demo, "train the digits network, count exactly and matrix-free, draw")
    show.add_argument(
        "--output", dest="folder", metavar="DIR/", default="demo-output/", help="folder of the figures (%(default)s)"
    )

    known = _command(sub, "landscapes", landscapes, "known critical points: their counts, and which method leaves them")
    known.add_argument(
        "--output", dest="folder", metavar="DIR/", default="landscapes/", help="folder of the figures (%(default)s)"
    )
    known.add_argument("--limit", type=int, default=500, help="steps that a method may take (%(default)s)")
    _seed(known, "of starts and noise")

    train = _command(sub, "train", commands.train, "train a built-in network and save its checkpoint")
    train.add_argument("problem", metavar="PROBLEM", help="digits or mnist")
    train.add_argument(
        "--output", metavar="FILE", type=_ending(".safetensors"), required=True, help="the checkpoint (.safetensors)"
    )
    _seed(train, "of weights and shuffling")

    _command(sub, "download", commands.download, "fetch the MNIST files, verified by checksum")

    count = _command(sub, "count", commands.count, "negative, near-zero and positive eigenvalues, as intervals")
    _problem(count)
    tau = count.add_mutually_exclusive_group(required=True)
    tau.add_argument("--threshold", type=float, help="tau, absolute")
    tau.add_argument("--relative-threshold", type=float, help="tau as a fraction of the largest |eigenvalue|")
    count.add_argument(
        "--method",
        choices=["auto", "exact", "lanczos", "elimination"],
        default=_default(count_eigenvalues, "method"),
        help=f"auto: exact up to N = {EXACT_SIZE}, unless probes, steps, a budget or a checkpoint are given "
        "(%(default)s)",
    )
    count.add_argument(
        "--confidence",
        type=float,
        default=_default(count_eigenvalues, "confidence"),
        help="of the three intervals jointly (%(default)s)",
    )
    count.add_argument(
        "--precision",
        type=float,
        default=_default(count_eigenvalues, "precision"),
        help="stop when all half-widths are below this fraction of N (%(default)s)",
    )
    count.add_argument("--probes", type=int, help="fixed beforehand; planned from the precision if not given")
    count.add_argument("--steps", type=int, help=f"at most this many products per probe ({STEPS})")
    count.add_argument("--max-products", type=int, help="at most this many products in all")
    count.add_argument(
        "--enumerate-negative",
        action="store_true",
        help="find negative eigenvectors first, for at most half the budget",
    )
    count.add_argument(
        "--preconditioner",
        choices=NAMES,
        help="count on S'(H - tI)S, the same counts from fewer products at small thresholds; auto: where it pays",
    )
    count.add_argument("--checkpoint", metavar="FILE", help="resume from and save to this file")
    _seed(count)

    exact = _command(sub, "exact", commands.exact, "all eigenvalues, by a dense solve")
    _problem(exact)
    exact.add_argument("--output", metavar="FILE", type=_ending(".npz"), help="save the eigenvalues (.npz)")

    density = _command(sub, "density", commands.density, "the spectral density, as nodes and weights and as a figure")
    _problem(density)
    density.add_argument("--probes", type=int, default=_default(spectral_density, "probes"), help="(%(default)s)")
    density.add_argument(
        "--steps", type=int, default=_default(spectral_density, "steps"), help="products per probe (%(default)s)"
    )
    density.add_argument(
        "--linear",
        type=_fraction,
        default=1e-4,
        help="the axis is linear within this fraction of the largest |eigenvalue| (%(default)s)",
    )
    density.add_argument(
        "--output",
        metavar="FILE",
        type=_ending(".npz"),
        default="density.npz",
        help="nodes and weights; beside it, the figure as .png (%(default)s)",
    )
    _seed(density)

    check = _command(sub, "check", commands.check, "is this problem fit to be counted? determinism, symmetry, noise")
    _problem(check)
    _seed(check)

    race = _command(sub, "bench", bench, "all ways to count side by side: error, width, products, seconds, memory")
    _problem(race)
    tau = race.add_mutually_exclusive_group()
    tau.add_argument("--threshold", type=float, help="tau, absolute")
    tau.add_argument(
        "--relative-threshold",
        type=_fraction,
        default=1e-3,
        help="tau as a fraction of the largest |eigenvalue| (%(default)s)",
    )
    race.add_argument(
        "--confidence", type=float, default=_default(count_eigenvalues, "confidence"), help="(%(default)s)"
    )
    race.add_argument("--probes", type=_positive, default=_default(compare, "probes"), help="(%(default)s)")
    race.add_argument(
        "--steps", type=_positive, default=_default(compare, "steps"), help="products per probe, all made (%(default)s)"
    )
    race.add_argument(
        "--exact-up-to",
        metavar="N",
        type=int,
        default=EXACT_SIZE,
        help="the exact counts too, where the dimension is at most this (%(default)s)",
    )
    _seed(race)
    return parser


def _command(
    sub: argparse._SubParsersAction[_Parser], name: str, run: commands.Command, text: str
) -> argparse.ArgumentParser:
    parser = sub.add_parser(name, help=text, description=text)
    parser.set_defaults(run=run, command=name)
    parser.add_argument("--json", metavar="FILE", help="write the result as one JSON object")
    parser.add_argument("--record", metavar="FILE", help="append the result to a store of JSON lines")
    parser.add_argument("--quiet", action="store_true", help="no progress on stderr")
    # suppressed: the option may stand before the command, whose value must stay
    parser.add_argument(
        "--traceback", action="store_true", default=argparse.SUPPRESS, help="show the traceback of a failure"
    )
    return parser


def _problem(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("problem", metavar="PROBLEM", help=PROBLEM)
    parser.add_argument(
        "--weights", metavar="FILE", help="parameters to use: .safetensors, .npz, or .pt (weights only)"
    )
    parser.add_argument(
        "--parameters",
        metavar="PATTERN",
        default="*",
        help="only parameters whose name matches, such as '0.*' for one layer",
    )
    parser.add_argument("--device", type=_device, default="cpu", help="cpu, cuda or cuda:i (%(default)s)")
    parser.add_argument("--dtype", choices=["float32", "float64"], default="float64", help="of products (%(default)s)")


def _seed(parser: argparse.ArgumentParser, purpose: str = "of everything random in the count") -> None:
    parser.add_argument("--seed", type=_whole, default=0, help=f"{purpose} (%(default)s)")


def _default(function: Callable[..., Any], name: str) -> Any:
    """What the function itself takes when the argument is not given."""
    return inspect.signature(function).parameters[name].default


def _ending(suffix: str) -> Callable[[str], str]:
    """Takes file names with this suffix only: another kind of file is not overwritten."""

    def checked(path: str) -> str:
        if Path(path).suffix != suffix:
            raise argparse.ArgumentTypeError(f"the file must end in {suffix}; got {path}: name it so")
        return path

    return checked


def _fraction(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"a fraction must be between 0 and 1, say 1e-4; got {text}")
    return value


def _whole(text: str) -> int:
    if not (text.isdecimal() and int(text) < 2**63):
        raise argparse.ArgumentTypeError(f"a seed must be a whole number from 0 to 2^63 - 1; got {text}")
    return int(text)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"a number of them must be at least 1; got {text}")
    return int(text)


def _device(text: str) -> str:
    kind, _, index = text.partition(":")
    if not (text == "cpu" or (kind == "cuda" and (text == "cuda" or index.isdecimal()))):
        raise argparse.ArgumentTypeError(f"a device must be cpu, cuda or cuda:i; got {text}")
    return text
