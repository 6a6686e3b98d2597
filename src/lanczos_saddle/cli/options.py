"""Options that several commands share, and the types that refuse a value on one line."""

from __future__ import annotations

import argparse
import difflib
import itertools
import math
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from lanczos_saddle import defaults

PROBLEM = (
    "digits or mnist (trained once with a fixed seed, then cached), or package.module:function or file.py:function, a "
    "function without arguments that returns (model, loss, data), or a Hessian (`lanczos-saddle new` writes one), or a "
    "file with a symmetric matrix (.mtx, .npz, .npy)"
)

NEGATIVE = re.compile(r"^-(?:\d+\.?\d*(?:e[+-]?\d+)?|\.\d+(?:e[+-]?\d+)?|inf)$", re.IGNORECASE)
"""What is a value and no option; argparse's own expression knows neither exponents nor infinity."""


class Parser(argparse.ArgumentParser):
    """A parser whose errors are ValueErrors, so that they take one line, without the usage; -1e-3 is a value."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"formatter_class": Layout, "add_help": False, **kwargs})
        self._negative_number_matcher = NEGATIVE

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse does, after a look at names that are no option: what is missing besides is not the fault."""
        if self._subparsers is None:
            known = [name for action in self._actions for name in action.option_strings]
            words = itertools.takewhile(lambda word: word != "--", args or ())
            for name in (word.partition("=")[0] for word in words if word.startswith("--") and " " not in word):
                if not any(option.startswith(name) for option in known):
                    near = difflib.get_close_matches(name, known, 1)
                    self.error(f"there is no option {name}" + (f"; did you mean {near[0]}?" if near else ""))
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        """As ValueError, for `main` to print."""
        raise ValueError(f"{message} ({self.prog} --help lists the options)")


class Layout(argparse.RawDescriptionHelpFormatter):
    """Examples keep their lines, and commands stand under the headings of `KINDS`."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=26)
        self._action_max_length = 16  # the longest command, indented: argparse forgets the indentation

    def _format_action(self, action: argparse.Action) -> str:
        kinds: dict[str, list[str]] = getattr(action, "kinds", {})
        if not kinds:
            return super()._format_action(action)
        lines = {sub.dest: self._format_action(sub) for sub in self._iter_indented_subactions(action)}
        return "\n".join(f"  {kind}\n" + "".join(lines[name] for name in names) for kind, names in kinds.items())


def add_common(parser: argparse.ArgumentParser) -> None:
    """The options of every command."""
    group = parser.add_argument_group("output and help")
    group.add_argument("--json", metavar="FILE", help="write the result as one JSON object")
    group.add_argument("--record", metavar="FILE", help="append the result to a store of JSON lines")
    group.add_argument("--quiet", action="store_true", help="no progress on stderr")
    # suppressed: the option may stand before the command, whose value must stay
    group.add_argument(
        "--traceback", action="store_true", default=argparse.SUPPRESS, help="show the traceback of a failure"
    )
    group.add_argument("-h", "--help", action="help", help="show this text and end")


def add_problem(parser: argparse.ArgumentParser) -> None:
    """PROBLEM, and where and how its Hessian is multiplied."""
    group = parser.add_argument_group("what is counted")
    group.add_argument("problem", metavar="PROBLEM", help=PROBLEM)
    group.add_argument("--weights", metavar="FILE", help="parameters to use: .safetensors, .npz, or .pt (weights only)")
    group.add_argument(
        "--parameters",
        metavar="PATTERN",
        default="*",
        help="only parameters whose name matches, such as '0.*' for one layer",
    )
    group.add_argument(
        "--no-fidelity",
        action="store_true",
        help="do not compare products with differences of the model's own gradients; the counts say so",
    )
    group.add_argument("--device", type=device, default="cpu", help="cpu, cuda or cuda:i (%(default)s)")
    group.add_argument("--dtype", choices=["float32", "float64"], default="float64", help="of products (%(default)s)")
    group.add_argument(
        "--over-ranks",
        choices=("data", "vectors", "weights", "all", "probes"),
        default="data",
        help="under torchrun: what ranks share; data: samples; vectors: samples, and all vectors by coordinates; "
        "weights: samples, and every rank keeps some parameters (--weights FILE is read in parts, for a model that may "
        "be on the meta device); all: these three; probes: every rank has all samples, and runs some of the "
        "recurrences (%(default)s)",
    )
    group.add_argument(
        "--exact-over-ranks",
        choices=("auto", "columns", "one"),
        default="auto",
        help="under torchrun: where the matrix of an exact count lies; columns: each rank has some; one: rank 0 has it "
        "(%(default)s: columns beyond N = 3000, and where rank 0 has no room)",
    )
    group.add_argument(
        "--rank-timeout",
        metavar="SECONDS",
        type=seconds,
        default=600.0,
        help="under torchrun: a rank that gives no sign of life for so long ends the job (%(default)g)",
    )


def add_threshold(parser: argparse.ArgumentParser, *, interval: bool = False, several: bool = False) -> None:
    """Tau, absolute or relative, or where asked for both ends of an interval; one of them must be given.

    With `several`, a list of numbers with commas between them is taken, too.
    """
    kind, more = (numbers, "; several with commas between, as in 1e-2,1e-3") if several else (float, "")
    group = parser.add_argument_group("near zero means |lambda| <= tau: one of these is needed")
    tau = group.add_mutually_exclusive_group(required=True)
    if interval:
        tau.add_argument(
            "--interval", nargs=2, type=float, metavar=("A", "B"), help="count the eigenvalues in [A, B], absolute"
        )
    tau.add_argument("--threshold", type=kind, help=f"tau, absolute{more}")
    tau.add_argument("--relative-threshold", type=kind, help=f"tau as a fraction of the largest |eigenvalue|{more}")


def add_seed(parser: argparse._ActionsContainer, purpose: str = "of everything random in the count") -> None:
    """--seed."""
    parser.add_argument("--seed", type=whole, default=0, help=f"{purpose} (%(default)s)")


def ending(suffix: str) -> Callable[[str], str]:
    """Takes file names with this suffix only: another kind of file is not overwritten."""

    def checked(path: str) -> str:
        if Path(path).suffix != suffix:
            raise argparse.ArgumentTypeError(f"the file must end in {suffix}; got {path or repr(path)}: name it so")
        return path

    return checked


def dataset(text: str) -> str:
    """A dataset's name, or the path of an .npz file: one spelling of it, since it names what is trained on it."""
    if text in defaults.DATASETS:
        return text
    if text.endswith(".npz"):
        return os.path.relpath(text)
    raise argparse.ArgumentTypeError(
        f"a dataset is one of {', '.join(defaults.DATASETS)}, or an .npz file; got {text!r}"
    )


def numbers(text: str) -> float | tuple[float, ...]:
    """A number, or several with commas between."""
    try:
        found = tuple(float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"tau must be a number, or several with commas and no spaces between, say 1e-2,1e-3; got {text!r}"
        ) from None
    return found if len(found) > 1 else found[0]


def finite(text: str) -> float:
    """A number that is neither infinite nor NaN."""
    value = _float(text)
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"a threshold must be a finite number, say -1e-4; got {text or repr(text)}")
    return value


def gib(text: str) -> float:
    """An amount of memory in GiB: more than 0."""
    value = _float(text)
    if not 0 < value <= 1e9:
        raise argparse.ArgumentTypeError(f"memory must be more than 0 GiB, at most 1e9; got {text or repr(text)}")
    return value


def _float(text: str) -> float:
    """The number, or NaN, which no rule admits."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def fraction(text: str) -> float:
    """A number between 0 and 1."""
    value = _float(text)
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"a fraction must be between 0 and 1, say 1e-4; got {text or repr(text)}")
    return value


def whole(text: str) -> int:
    """A seed: from 0 to 2^63 - 1."""
    if not (text.isdecimal() and int(text) < 2**63):
        raise argparse.ArgumentTypeError(f"a seed must be a whole number from 0 to 2^63 - 1; got {text or repr(text)}")
    return int(text)


def seconds(text: str) -> float:
    """A time limit: at least 1 second."""
    value = _float(text)
    if not 1 <= value <= 1e7:
        raise argparse.ArgumentTypeError(f"a time limit must be from 1 to 1e7 seconds; got {text or repr(text)}")
    return value


def positive(text: str) -> int:
    """How many of something: at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"a number of them must be at least 1; got {text or repr(text)}")
    return int(text)


def none_or_more(text: str) -> int:
    """A dimension up to which something is done: at least 0, which leaves it out."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"a dimension must be a whole number of at least 0; got {text or repr(text)}")
    return int(text)


def device(text: str) -> str:
    """cpu, cuda or cuda:i; whether it is there is asked when it is used."""
    kind, _, index = text.partition(":")
    if not (text == "cpu" or (kind == "cuda" and (text == "cuda" or index.isdecimal()))):
        raise argparse.ArgumentTypeError(f"a device must be cpu, cuda or cuda:i; got {text or repr(text)}")
    return text


def figure_beside(output: str) -> Path:
    """The figure of a file with nodes and weights."""
    return Path(output).with_suffix(".png")


def source_of(problem: str) -> str:
    """The file of a problem, as far as its name tells: a matrix, file.py of file.py:function, that of a module."""
    place, found, _ = problem.rpartition(":")
    if not found:
        return problem
    return place if place.endswith(".py") else f"{place.replace('.', '/')}.py"
