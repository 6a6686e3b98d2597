"""Fig. 2: the training error against the fraction of negative eigenvalues, along one run.

What counts as negative decides the picture, so there are three meanings: the sign in float64 (rows that are exactly
zero count as zero, as in the paper's code), and below -tau for tau = 1e-4 and 1e-3 of the largest |eigenvalue| of the
moment.
Plots of this kind go back to Bray and Dean (2007) and Dauphin et al. (2014).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import kendalltau, spearmanr

from lanczos_saddle.reproduction.along_training import follow, run_length, steps_per_epoch
from lanczos_saddle.reproduction.experiments import Experiment
from lanczos_saddle.reproduction.markdown import table
from lanczos_saddle.reproduction.paper_plots import Trace, plot_epsilon_alpha
from lanczos_saddle.reproduction.rows import CIFAR10, DIGITS
from lanczos_saddle.reproduction.store import Store

EARLY = (10, 40, 120)
"""Steps within the first epoch: on the CIFAR-10 features most of the error is gone after one."""

MEANINGS = {"signs": "float64, below 0", "1e-04": "tau = 1e-4 of the largest", "1e-03": "tau = 1e-3 of the largest"}
SMALL, LITTLE = Experiment("digits", (64, 6, 10)), Experiment("digits", (64, 10, 10))


@dataclass(frozen=True)
class Run:
    """Moments at which one network is counted, and how deeply."""

    experiment: Experiment
    label: str
    moments: Sequence[int]
    certified: Sequence[int]  # those of the moments that get intervals
    probes: int = 4
    steps: int = 200


@dataclass(frozen=True)
class Order:
    """How nearly a fraction falls with the error."""

    spearman: float
    kendall: float
    pairs: int
    inversions: int  # pairs with more error and a smaller fraction, exact counts
    certified: int  # of the pairs with intervals: those whose disjoint intervals say so


def run(store: Store, folder: Path, *, small: bool = False, progress: bool = False) -> str:
    """Fill the cells, draw the figure, return both as Markdown."""
    parts, rows = [], []
    for plan in plans(store, small=small, progress=progress):
        cells = counted(store, plan, progress=progress)
        rows.append([trace(plan, cells, meaning) for meaning in MEANINGS])
        parts += [f"**{plan.label}, N = {plan.experiment.size:,}**", "", _table(plan, cells), "", _orders(cells), ""]
    plot_epsilon_alpha(folder / "paper-fig2.png", rows)
    return "\n".join([*parts, "![Error against the fraction of negative eigenvalues](figures/paper-fig2.png)"])


def plans(store: Store, *, small: bool, progress: bool = False) -> list[Run]:
    """The runs of the figure; trains where the length of a run is not known."""
    if small:
        few = doubling(store, SMALL, progress=progress)[:5]
        return [Run(SMALL, "digits 64-6-10", few, [few[0], few[-1]], probes=2, steps=40)]
    few = doubling(store, CIFAR10, progress=progress)
    every, little = (epochs(store, experiment, progress=progress) for experiment in (DIGITS, LITTLE))
    return [
        Run(CIFAR10, "CIFAR-10 features 256-25-10", few, [few[0], steps_per_epoch(CIFAR10), few[-1]], steps=100),
        Run(DIGITS, "digits 64-25-10", every, sorted({*every[::9], every[-1]})),
        Run(LITTLE, "digits 64-10-10", little, sorted({*little[:11], *little[::5], little[-1]})),
    ]


def doubling(store: Store, experiment: Experiment, *, progress: bool = False) -> list[int]:
    """The beginning, EARLY in the first epoch, then epochs 1, 2, 4, ... and the end."""
    last, epoch = run_length(store, experiment, progress=progress), steps_per_epoch(experiment)
    later = [epoch << k for k in range((last // epoch).bit_length())]
    return [0, *(step for step in EARLY if step < epoch), *later, *([last] if later[-1] != last else [])]


def epochs(store: Store, experiment: Experiment, *, progress: bool = False) -> list[int]:
    """The beginning and the end of every epoch."""
    last, epoch = run_length(store, experiment, progress=progress), steps_per_epoch(experiment)
    return list(range(0, last + 1, epoch))


def counted(store: Store, plan: Run, *, progress: bool = False) -> list[dict[str, Any]]:
    """The cells of a run; "moment-certified" is there only where intervals were asked for."""
    cells = follow(store, plan.experiment, plan.moments, ["moment", "moment-exact"], progress=progress)
    options = {"probes": plan.probes, "steps": plan.steps}
    deep = follow(store, plan.experiment, plan.certified, ["moment-certified"], progress=progress, **options)
    intervals = {cell["after"]: cell["moment-certified"] for cell in deep}
    return [
        {**cell, "moment-certified": intervals[cell["after"]]} if cell["after"] in intervals else cell for cell in cells
    ]


def trace(plan: Run, cells: Sequence[dict[str, Any]], meaning: str) -> Trace:
    """What the figure shows of one run at one meaning of negative."""
    size, intervals = plan.experiment.size, {}
    for i, cell in enumerate(cells):
        ends = interval(cell, meaning)
        if ends is not None:
            intervals[i] = (ends[0] / size, ends[1] / size)
    bound = cells[0]["moment-exact"]["negative_bound"]
    return Trace(
        f"{plan.label}\n{MEANINGS[meaning]}",
        np.array([cell["epoch"] for cell in cells]),
        np.array([cell["moment"]["loss"] for cell in cells]),
        np.array([negative(cell, meaning) for cell in cells]) / size,
        None if bound is None or meaning == "signs" else bound / size,  # rounding obeys no bound
        intervals,
    )


def negative(cell: dict[str, Any], meaning: str) -> int:
    """The exact number of negative eigenvalues at a moment."""
    exact = cell["moment-exact"]
    return int(exact["signs"]["negative"] if meaning == "signs" else exact["relative"][meaning][0])


def interval(cell: dict[str, Any], meaning: str) -> tuple[int, int] | None:
    """The certified interval of the negative eigenvalues at a moment, if there is one."""
    if meaning == "signs" or "moment-certified" not in cell:
        return None
    low, _, high = cell["moment-certified"]["intervals"][meaning][0]
    return int(low), int(high)


def order(cells: Sequence[dict[str, Any]], meaning: str) -> Order:
    """Rank correlations of error and fraction, and the pairs that contradict "the more negative, the more error"."""
    errors = [cell["moment"]["loss"] for cell in cells]
    counts = [negative(cell, meaning) for cell in cells]
    ranked = sorted(cells, key=lambda cell: -float(cell["moment"]["loss"]))
    inversions = certified = 0
    for worse, better in combinations(ranked, 2):
        inversions += negative(worse, meaning) < negative(better, meaning)
        ends = interval(worse, meaning), interval(better, meaning)
        certified += ends[0] is not None and ends[1] is not None and ends[0][1] < ends[1][0]
    constant = len(set(counts)) == 1  # no ranks to correlate
    return Order(
        float("nan") if constant else float(spearmanr(errors, counts).statistic),
        float("nan") if constant else float(kendalltau(errors, counts).statistic),
        len(cells) * (len(cells) - 1) // 2,
        inversions,
        certified,
    )


def _table(plan: Run, cells: Sequence[dict[str, Any]]) -> str:
    rows = []
    shown = cells if len(cells) <= 12 else [c for c in cells if c["after"] in plan.certified]
    for cell in shown:
        moment, exact = cell["moment"], cell["moment-exact"]
        counts = [f"{negative(cell, 'signs')}"]
        for meaning in ("1e-04", "1e-03"):
            ends = interval(cell, meaning)
            counts += [f"{negative(cell, meaning)}", "" if ends is None else f"[{ends[0]}, {ends[1]}]"]
        facts = f"{moment['loss']:.4f}", f"{100 * moment['wrong']:.2f}", f"{exact['largest']:.3g}"
        rows.append([f"{cell['epoch']:.3g}", *facts, *counts])
    head = "epoch|training error|wrong, %|largest eigenvalue|below 0|below -1e-4|certified|below -1e-3|certified"
    return table(head, rows)


def _orders(cells: Sequence[dict[str, Any]]) -> str:
    rows = []
    for meaning, label in MEANINGS.items():
        found = order(cells, meaning)
        certified = "" if meaning == "signs" else f"{found.certified}"
        ranks = f"{found.spearman:.3f}", f"{found.kendall:.3f}"
        rows.append([label, *ranks, f"{found.inversions} of {found.pairs}", certified])
    return table("negative means|Spearman|Kendall|inversions, exact|inversions, disjoint intervals", rows)
