"""Options that several commands share, and the types that refuse a value on one line."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

PROBLEM = (
    "digits or mnist (trained once with a fixed seed, then cached), or package.module:function, a function "
    "without arguments that returns (model, loss, data), or a Hessian, or a file with a symmetric matrix "
    "(.mtx, .npz, .npy)"
)

NEGATIVE = re.compile(r"^-(?:\d+\.?\d*(?:e[+-]?\d+)?|\.\d+(?:e[+-]?\d+)?|inf)$", re.IGNORECASE)
"""What is a value and no option; argparse's own expression knows neither exponents nor infinity."""


class Parser(argparse.ArgumentParser):
    """A parser whose errors are ValueErrors, so that they take one line, without the usage; -1e-3 is a value."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._negative_number_matcher = NEGATIVE

    def error(self, message: str) -> NoReturn:
        """As ValueError, for `main` to print."""
        raise ValueError(f"{message} ({self.prog} --help lists the options)")


def add_common(parser: argparse.ArgumentParser) -> None:
    """The options of every command."""
    parser.add_argument("--json", metavar="FILE", help="write the result as one JSON object")
    parser.add_argument("--record", metavar="FILE", help="append the result to a store of JSON lines")
    parser.add_argument("--quiet", action="store_true", help="no progress on stderr")
    # suppressed: the option may stand before the command, whose value must stay
    parser.add_argument(
        "--traceback", action="store_true", default=argparse.SUPPRESS, help="show the traceback of a failure"
    )


def add_problem(parser: argparse.ArgumentParser) -> None:
    """PROBLEM, and where and how its Hessian is multiplied."""
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
    parser.add_argument(
        "--no-fidelity",
        action="store_true",
        help="do not compare products with differences of the model's own gradients; the counts say so",
    )
    parser.add_argument("--device", type=device, default="cpu", help="cpu, cuda or cuda:i (%(default)s)")
    parser.add_argument("--dtype", choices=["float32", "float64"], default="float64", help="of products (%(default)s)")


def add_threshold(parser: argparse.ArgumentParser, *, interval: bool = False) -> None:
    """Tau, absolute or relative, or where asked for both ends of an interval; one of them must be given."""
    tau = parser.add_mutually_exclusive_group(required=True)
    if interval:
        tau.add_argument(
            "--interval", nargs=2, type=float, metavar=("A", "B"), help="count the eigenvalues in [A, B], absolute"
        )
    tau.add_argument("--threshold", type=float, help="tau, absolute")
    tau.add_argument("--relative-threshold", type=float, help="tau as a fraction of the largest |eigenvalue|")


def add_seed(parser: argparse.ArgumentParser, purpose: str = "of everything random in the count") -> None:
    """--seed."""
    parser.add_argument("--seed", type=whole, default=0, help=f"{purpose} (%(default)s)")


def ending(suffix: str) -> Callable[[str], str]:
    """Takes file names with this suffix only: another kind of file is not overwritten."""

    def checked(path: str) -> str:
        if Path(path).suffix != suffix:
            raise argparse.ArgumentTypeError(f"the file must end in {suffix}; got {path}: name it so")
        return path

    return checked


def dataset(text: str) -> str:
    """A dataset's name, or the path of an .npz file: one spelling of it, since it names what is trained on it."""
    from lanczos_saddle.training.datasets import DATASETS

    if text in DATASETS:
        return text
    if text.endswith(".npz"):
        return os.path.relpath(text)
    raise argparse.ArgumentTypeError(f"a dataset is one of {', '.join(DATASETS)}, or an .npz file; got {text!r}")


def fraction(text: str) -> float:
    """A number between 0 and 1."""
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"a fraction must be between 0 and 1, say 1e-4; got {text}")
    return value


def whole(text: str) -> int:
    """A seed: from 0 to 2^63 - 1."""
    if not (text.isdecimal() and int(text) < 2**63):
        raise argparse.ArgumentTypeError(f"a seed must be a whole number from 0 to 2^63 - 1; got {text}")
    return int(text)


def positive(text: str) -> int:
    """How many of something: at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"a number of them must be at least 1; got {text}")
    return int(text)


def none_or_more(text: str) -> int:
    """A dimension up to which something is done: at least 0, which leaves it out."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"a dimension must be a whole number of at least 0; got {text}")
    return int(text)


def device(text: str) -> str:
    """cpu, cuda or cuda:i; whether it is there is asked when it is used."""
    kind, _, index = text.partition(":")
    if not (text == "cpu" or (kind == "cuda" and (text == "cuda" or index.isdecimal()))):
        raise argparse.ArgumentTypeError(f"a device must be cpu, cuda or cuda:i; got {text}")
    return text


def figure_beside(output: str) -> Path:
    """The figure of a file with nodes and weights."""
    return Path(output).with_suffix(".png")
