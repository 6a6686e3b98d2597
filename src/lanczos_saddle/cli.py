"""The command line. Exit status 0: done; 2: bad input, one line on stderr says what and what to do; 1: a failure."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from lanczos_saddle import commands
from lanczos_saddle.demo import demo

PROBLEM = (
    "digits or mnist (trained once with a fixed seed, then cached), or package.module:function, a function "
    "without arguments that returns (model, loss, data)"
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    options = build_parser().parse_args(arguments)
    try:
        for name in ("json", "record", "output", "checkpoint"):
            check_writable(getattr(options, name, None))
        options.run(options)
    except ValueError as error:
        print(f"lanczos-saddle: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("lanczos-saddle: interrupted", file=sys.stderr)
        return 1
    except Exception as error:  # a failure, not misuse: one line here, the traceback on request
        if options.traceback:
            raise
        print(f"lanczos-saddle: {type(error).__name__}: {error} (--traceback shows where)", file=sys.stderr)
        return 1
    return 0


def check_writable(path: str | None) -> None:
    """Refuse a result file that cannot be written, before the work."""
    if path is None:
        return
    folder = Path(path).absolute().parent
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir() or not os.access(folder, os.W_OK) or (Path(path).is_dir() and not path.endswith("/")):
        raise ValueError(f"results are written to a file in a writable folder; {path} is not one: name another")


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands; every option's default is stated once, here."""
    parser = argparse.ArgumentParser(
        prog="lanczos-saddle",
        description="How many Hessian eigenvalues are negative, near zero, positive: intervals that hold, from "
        "Hessian-vector products alone.",
    )
    parser.add_argument("--traceback", action="store_true", help="show the traceback of a failure")
    sub = parser.add_subparsers(required=True, metavar="COMMAND")

    show = _command(sub, "demo", demo, "train the digits network, count exactly and matrix-free, draw")
    show.add_argument("--output", metavar="DIR/", default="demo-output/", help="folder of the figures (%(default)s)")

    train = _command(sub, "train", commands.train, "train a built-in network and save its checkpoint")
    train.add_argument("problem", metavar="PROBLEM", help="digits or mnist")
    train.add_argument("--output", metavar="FILE", required=True, help="the checkpoint (.safetensors)")
    train.add_argument("--seed", type=int, default=0, help="of weights and shuffling (%(default)s)")

    _command(sub, "download", commands.download, "fetch the MNIST files, verified by checksum")

    count = _command(sub, "count", commands.count, "negative, near-zero and positive eigenvalues, as intervals")
    _problem(count)
    tau = count.add_mutually_exclusive_group(required=True)
    tau.add_argument("--threshold", type=float, help="tau, absolute")
    tau.add_argument("--relative-threshold", type=float, help="tau as a fraction of the largest |eigenvalue|")
    count.add_argument(
        "--method",
        choices=["auto", "exact", "lanczos"],
        default="auto",
        help="auto: exact up to N = 3000 (%(default)s)",
    )
    count.add_argument("--confidence", type=float, default=0.95, help="of the three intervals jointly (%(default)s)")
    count.add_argument(
        "--precision",
        type=float,
        default=0.01,
        help="stop when all half-widths are below this fraction of N (%(default)s)",
    )
    count.add_argument("--probes", type=int, help="fixed beforehand; planned from the precision if not given")
    count.add_argument("--steps", type=int, help="at most this many products per probe (400)")
    count.add_argument("--max-products", type=int, help="at most this many products in all")
    count.add_argument("--checkpoint", metavar="FILE", help="resume from and save to this file")
    _seed(count)

    exact = _command(sub, "exact", commands.exact, "all eigenvalues, by a dense solve")
    _problem(exact)
    exact.add_argument("--output", metavar="FILE", help="save the eigenvalues (.npz)")

    density = _command(sub, "density", commands.density, "the spectral density, as nodes and weights and as a figure")
    _problem(density)
    density.add_argument("--probes", type=int, default=4, help="(%(default)s)")
    density.add_argument("--steps", type=int, default=100, help="products per probe (%(default)s)")
    density.add_argument(
        "--linear",
        type=float,
        default=1e-4,
        help="the axis is linear within this fraction of the largest |eigenvalue| (%(default)s)",
    )
    density.add_argument("--output", metavar="FILE", default="density.npz", help="beside it, a .png (%(default)s)")
    _seed(density)

    check = _command(sub, "check", commands.check, "is this problem fit to be counted? determinism, symmetry, noise")
    _problem(check)
    _seed(check)
    return parser


def _command(
    sub: argparse._SubParsersAction[argparse.ArgumentParser], name: str, run: commands.Command, text: str
) -> argparse.ArgumentParser:
    parser = sub.add_parser(name, help=text, description=text)
    parser.set_defaults(run=run, command=name)
    parser.add_argument("--json", metavar="FILE", help="write the result as one JSON object")
    parser.add_argument("--record", metavar="FILE", help="append the result to a store of JSON lines")
    parser.add_argument("--quiet", action="store_true", help="no progress on stderr")
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
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:i (%(default)s)")
    parser.add_argument("--dtype", choices=["float32", "float64"], default="float64", help="of products (%(default)s)")


def _seed(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seed", type=int, default=0, help="of everything random in the count (%(default)s)")
