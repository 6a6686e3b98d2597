"""What each command takes, a function for each, and what runs it. Nothing here imports torch: --help is at once."""

from __future__ import annotations

from argparse import ArgumentParser, _ActionsContainer
from collections.abc import Callable
from dataclasses import dataclass

from lanczos_saddle import defaults
from lanczos_saddle.cli.options import (
    add_problem,
    add_seed,
    add_threshold,
    dataset,
    device,
    ending,
    finite,
    fraction,
    gib,
    none_or_more,
    positive,
)


@dataclass(frozen=True)
class Command:
    """One command: a line for --help, what runs it, as module:function of this package, and what it takes."""

    text: str
    run: str
    add: Callable[[ArgumentParser], None]
    kind: str  # under which heading --help lists it


def _demo(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--output", dest="folder", metavar="DIR/", default="demo-output/", help="folder of the figures (%(default)s)"
    )


def _landscapes(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--output", dest="folder", metavar="DIR/", default="landscapes/", help="folder of the figures (%(default)s)"
    )
    parser.add_argument("--limit", type=int, default=500, help="steps for a method; more at weak saddles (%(default)s)")
    add_seed(parser, "of starts and noise")


def _train(parser: ArgumentParser) -> None:
    parser.add_argument("problem", metavar="PROBLEM", help="digits or mnist")
    parser.add_argument(
        "--output", metavar="FILE", type=ending(".safetensors"), required=True, help="the checkpoint (.safetensors)"
    )
    add_seed(parser, "of weights and shuffling")


def _download(_: ArgumentParser) -> None:
    """Nothing but what every command takes."""


def _new(parser: ArgumentParser) -> None:
    parser.add_argument("output", metavar="FILE", type=ending(".py"), help="the file to write, such as problem.py")
    parser.add_argument("--force", action="store_true", help="write over a file that is there")


def _doctor(parser: ArgumentParser) -> None:
    parser.add_argument("--no-rates", dest="rates", action="store_false", help="measure nothing: at once")


def _completion(parser: ArgumentParser) -> None:
    parser.add_argument("shell", choices=defaults.SHELLS, help="yours; the script goes to standard output")


def _plan(parser: ArgumentParser) -> None:
    add_problem(parser)
    add_threshold(parser, several=True)
    _counting(parser)
    group = parser.add_argument_group("what there is, and what the plan may spend")
    _preconditioner(group)
    group.add_argument(
        "--memory", metavar="GIB", type=float, help="what may be used, by each rank; what is free if not given"
    )
    group.add_argument("--directory", metavar="DIR", help="where a file may lie when memory does not suffice")
    group.add_argument(
        "--ranks",
        metavar="R",
        type=positive,
        default=1,
        help="of a count under torchrun on so many processes, which share what --over-ranks says (%(default)s)",
    )
    group.add_argument(
        "--link", metavar="GB", type=float, help="GB a second between ranks; 1 if not given, which is not measured"
    )
    group.add_argument(
        "--no-pilot",
        dest="pilot",
        action="store_false",
        help="time some blocks of products and do no more: widths are not known then",
    )
    add_seed(group)


def _preconditioner(group: _ActionsContainer) -> None:
    group.add_argument(
        "--preconditioner",
        choices=(*defaults.PRECONDITIONERS, "none"),
        default="auto",
        help="count on S'(H - tI)S, the same counts from fewer products at small thresholds; auto: where a budget is "
        "foretold to be too small without",
    )


def _counting(parser: ArgumentParser) -> None:
    """How the eigenvalues are counted, and for how many products."""
    group = parser.add_argument_group("method, precision and cost")
    group.add_argument(
        "--method",
        choices=defaults.METHODS,
        default="auto",
        help=f"auto: exact up to N = {defaults.EXACT_SIZE}, unless probes, steps, a budget or a state are given "
        "(%(default)s)",
    )
    group.add_argument(
        "--confidence", type=float, default=defaults.CONFIDENCE, help="of the three intervals jointly (%(default)s)"
    )
    group.add_argument(
        "--precision",
        type=float,
        default=defaults.PRECISION,
        help="stop when all half-widths are below this fraction of N (%(default)s)",
    )
    group.add_argument("--probes", type=int, help="fixed beforehand; planned from the precision if not given")
    group.add_argument("--steps", type=int, help=f"at most this many products per probe ({defaults.STEPS})")
    group.add_argument("--max-products", type=int, help="at most this many products for the counts")


def _count(parser: ArgumentParser) -> None:
    add_problem(parser)
    add_threshold(parser, interval=True, several=True)
    _counting(parser)
    group = parser.add_argument_group("more from the same products")
    group.add_argument(
        "--enumerate-negative",
        action="store_true",
        help="find negative eigenvectors first, for at most half the budget",
    )
    _preconditioner(group)
    group = parser.add_argument_group("repeat and resume")
    state = group.add_mutually_exclusive_group()
    state.add_argument(
        "--state", metavar="FILE", help="save the count to this file, and go on from it where it is there already"
    )
    state.add_argument(
        "--checkpoint", dest="state", metavar="FILE", help="the old name of --state; it goes with the next release"
    )
    add_seed(group)


def _classify(parser: ArgumentParser) -> None:
    add_problem(parser)
    add_threshold(parser)
    epsilon = defaults.EPSILON
    group = parser.add_argument_group("constants of the definitions")
    group.add_argument(
        "--epsilon", type=float, default=epsilon, help="a gradient of at most this norm counts as zero (%(default)s)"
    )
    group.add_argument("--kappa", type=int, help="of stable points: at most so many nonzero eigenvalues")
    group.add_argument("--alpha", type=float, help="of strict saddles: curvature around a minimum (tau)")
    group.add_argument("--gamma", type=float, help="of strict saddles: negative curvature (tau)")
    group.add_argument("--radius", type=float, help="of strict saddles: a distance, in which a minimum is to be proved")
    group.add_argument("--rho", type=float, help="a Lipschitz constant of the Hessian that you can prove")
    group.add_argument("--delta", type=float, help="of good points: how far above the lowest value the loss may lie")
    group.add_argument(
        "--lowest",
        type=float,
        help="a lower bound on the loss that you can prove (0 for torch's losses that are never negative, else -inf)",
    )
    _counting(parser)
    group = parser.add_argument_group("directions and Lipschitz constant")
    group.add_argument(
        "--search-steps",
        type=positive,
        default=defaults.STEPS,
        help="beside the counts: at most this many products in search of the two directions (%(default)s)",
    )
    group.add_argument(
        "--no-compare-hessians",
        dest="compare_hessians",
        action="store_false",
        help="leave out the differences of Hessians, 108 products, which bound rho from below",
    )
    group.add_argument(
        "--output", metavar="FILE", type=ending(".npz"), help="save the directions at both ends of the spectrum (.npz)"
    )
    add_seed(group)


def _exact(parser: ArgumentParser) -> None:
    add_problem(parser)
    parser.add_argument("--output", metavar="FILE", type=ending(".npz"), help="save the eigenvalues (.npz)")


def _inertia(parser: ArgumentParser) -> None:
    add_problem(parser)
    parser.add_argument("--at", metavar="T", type=finite, nargs="+", required=True, help="thresholds, absolute")
    parser.add_argument("--memory", metavar="GIB", type=gib, help="what may be used; what is free if not given")
    parser.add_argument("--directory", metavar="DIR", help="where a file may lie when memory does not suffice")
    parser.add_argument("--plan", action="store_true", help="say what it takes, memory, disk and hours; do nothing")


def _density(parser: ArgumentParser) -> None:
    add_problem(parser)
    parser.add_argument("--probes", type=int, default=defaults.DENSITY_PROBES, help="(%(default)s)")
    parser.add_argument("--steps", type=int, default=defaults.DENSITY_STEPS, help="products per probe (%(default)s)")
    parser.add_argument(
        "--linear",
        type=fraction,
        default=1e-4,
        help="the axis is linear within this fraction of the largest |eigenvalue| (%(default)s)",
    )
    parser.add_argument(
        "--output",
        metavar="FILE",
        type=ending(".npz"),
        default="density.npz",
        help="nodes and weights; beside it, the figure as .png (%(default)s)",
    )
    add_seed(parser)


def _check(parser: ArgumentParser) -> None:
    add_problem(parser)
    add_seed(parser)


def _bench(parser: ArgumentParser) -> None:
    add_problem(parser)
    tau = parser.add_mutually_exclusive_group()
    tau.add_argument("--threshold", type=float, help="tau, absolute")
    tau.add_argument(
        "--relative-threshold",
        type=fraction,
        default=1e-3,
        help="tau as a fraction of the largest |eigenvalue| (%(default)s)",
    )
    parser.add_argument("--confidence", type=float, default=defaults.CONFIDENCE, help="(%(default)s)")
    parser.add_argument("--probes", type=positive, default=defaults.COMPARED_PROBES, help="(%(default)s)")
    parser.add_argument(
        "--steps", type=positive, default=defaults.COMPARED_STEPS, help="products per probe, all made (%(default)s)"
    )
    parser.add_argument(
        "--exact-up-to",
        metavar="N",
        type=none_or_more,
        default=defaults.EXACT_SIZE,
        help="the exact counts too, where the dimension is at most this (%(default)s)",
    )
    add_seed(parser)


def _reproduce(parser: ArgumentParser) -> None:
    parser.add_argument(
        "names",
        nargs="+",
        choices=[*defaults.REPRODUCED, "all"],
        metavar="NAME",
        help=f"{', '.join(defaults.REPRODUCED)}, or all; figures are of networks and trials of their own, with "
        "--datasets digits of smaller ones",
    )
    parser.add_argument(
        "--store",
        dest="folder",
        metavar="DIR/",
        default="paper-reproduction/",
        help="what has been computed; continued, never computed again (%(default)s)",
    )
    parser.add_argument(
        "--datasets",
        nargs="+",
        type=dataset,
        metavar="DATASET",
        help=f"of {', '.join(defaults.DATASETS)}, or .npz files with x_train, y_train, x_test, y_test; mnist and "
        "cifar10_features by default; digits: the same tables within minutes",
    )
    parser.add_argument("--objective", choices=defaults.OBJECTIVES, help="one of the two; both by default")
    parser.add_argument("--trials", type=positive, default=8, help="networks trained for each row (%(default)s)")
    parser.add_argument(
        "--counted", type=positive, help="trials whose eigenvalues are counted (1; all of them on a GPU)"
    )
    parser.add_argument("--report-only", action="store_true", help="print what the store has, compute nothing")
    parser.add_argument("--device", type=device, default="cpu", help="of the counts: cpu, cuda or cuda:i (%(default)s)")


def _report(parser: ArgumentParser) -> None:
    parser.add_argument(
        "files", nargs="+", metavar="RECORD", help="what count or classify wrote with --json or --record, or a study"
    )
    parser.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        type=ending(".html"),
        default="report.html",
        help="one self-contained page (%(default)s)",
    )
    parser.add_argument("--title", help="of the page; names the record if not given")


KINDS = ("begin", "count", "look and learn", "before you trust it", "this machine and shell")
"""Headings under which --help lists the commands."""

COMMANDS = {
    "demo": Command("train the digits network, count exactly and matrix-free, draw", "demo:demo", _demo, "begin"),
    "new": Command("write a problem file of your own, to be filled in; it works as it is", "new:new", _new, "begin"),
    "train": Command("train a built-in network and save its checkpoint", "commands:train", _train, "begin"),
    "download": Command("fetch the MNIST files, verified by checksum", "commands:download", _download, "begin"),
    "plan": Command(
        "what a count will take: memory by part, products, hours, the width to expect", "plan:plan", _plan, "count"
    ),
    "count": Command("negative, near-zero and positive eigenvalues, as intervals", "commands:count", _count, "count"),
    "classify": Command(
        "minimum, saddle, degenerate, strict, stable, good? with certificates", "commands:classify", _classify, "count"
    ),
    "exact": Command("all eigenvalues, by a dense solve", "commands:exact", _exact, "count"),
    "inertia": Command(
        "exact counts of large problems, certified, in memory or on disk", "inertia:inertia", _inertia, "count"
    ),
    "density": Command(
        "the spectral density, as nodes and weights and as a figure", "commands:density", _density, "look and learn"
    ),
    "landscapes": Command(
        "known critical points: their counts, and which method leaves them",
        "landscapes:landscapes",
        _landscapes,
        "look and learn",
    ),
    "report": Command(
        "a page of one or several counts: intervals, a threshold slider, figures",
        "report:report",
        _report,
        "look and learn",
    ),
    "reproduce": Command(
        "the paper's tables and figures, beside exact and certified counts",
        "reproduce:reproduce",
        _reproduce,
        "look and learn",
    ),
    "check": Command(
        "is this problem fit to be counted? determinism, symmetry, noise",
        "commands:check",
        _check,
        "before you trust it",
    ),
    "bench": Command(
        "all ways to count side by side: error, width, products, seconds, memory",
        "bench:bench",
        _bench,
        "before you trust it",
    ),
    "doctor": Command(
        "what is installed, how fast this machine is, what will limit you",
        "doctor:doctor",
        _doctor,
        "this machine and shell",
    ),
    "completion": Command(
        "the script with which a shell completes commands and options",
        "completion:completion",
        _completion,
        "this machine and shell",
    ),
}
"""In the order in which --help lists them."""
