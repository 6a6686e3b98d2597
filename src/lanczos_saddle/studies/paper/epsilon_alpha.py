"""Fig. 2: the training error against the fraction of negative eigenvalues, along one run.

What counts as negative decides the picture, so there are three meanings: the sign in float64 (rows that are exactly
zero count as zero, as in the paper's code), and below -tau for tau = 1e-4 and 1e-3 of the largest |eigenvalue| of the
moment.
Plots of this kind go back to Bray and Dean (2007) and Dauphin et al. (2014).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import kendalltau, spearmanr

from lanczos_saddle.reports.markdown import table
from lanczos_saddle.studies.paper.along_training import finished, follow
from lanczos_saddle.studies.paper.experiments import Experiment
from lanczos_saddle.studies.paper.kept_weights import run_length, steps_per_epoch
from lanczos_saddle.studies.paper.paper_plots import Trace, plot_epsilon_alpha
from lanczos_saddle.studies.paper.rows import CIFAR10, DIGITS
from lanczos_saddle.studies.paper.store import Store

EARLY = (10, 40, 120)
"""Steps within the first epoch: on the CIFAR-10 features most of the error is gone after one."""

MEANINGS = {"signs": "float64, below 0", "1e-04": "tau = 1e-4 of the largest", "1e-03": "tau = 1e-3 of the largest"}
SMALL, LITTLE = Experiment("digits", (64, 6, 10)), Experiment("digits", (64, 10, 10))


@dataclass(frozen=True)
class Run:
    """One network, what chooses the moments at which it is counted, and which of them get intervals."""

    experiment: Experiment
    label: str
    moments: Callable[..., list[int]]  # of a store and an experiment
    certified: Callable[[list[int]], list[int]]  # of the moments
    probes: int = 4
    steps: int = 200


@dataclass(frozen=True)
class Followed:
    """A run and its cells, one a moment; "moment-certified" is there only where intervals were asked for."""

    run: Run
    cells: list[dict[str, Any]]


Findings = tuple[list[Followed], str]
"""The runs, and a line on those that are left out."""


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
    found = compute(store, small=small, progress=progress)
    draw(found, folder)
    parts = [summary(found), ""]
    for followed in found[0]:
        parts += [f"**{followed.run.label}**", "", _table(followed.cells), ""]
    return "\n".join([*parts, "![Error against the fraction of negative eigenvalues](figures/paper-fig2.png)"])


def compute(store: Store, *, small: bool = False, progress: bool = False) -> Findings:
    """The runs of the figure, found or counted; of a finished store, those that it has whole."""
    return finished(
        lambda plan: counted(store, plan, progress=progress), plans(small=small), label=lambda plan: plan.label
    )


def draw(found: Findings, folder: Path) -> None:
    """The picture, paper-fig2.png: a row a network, a column a meaning of negative."""
    plot_epsilon_alpha(
        folder / "paper-fig2.png", [[trace(followed, meaning) for meaning in MEANINGS] for followed in found[0]]
    )


def summary(found: Findings) -> str:
    """Both ends of every run, and how nearly the fraction falls with the error."""
    followed, note = found
    return "\n\n".join(part for part in (_ends(followed), _orders(followed), note) if part)


def plans(*, small: bool) -> list[Run]:
    """The runs of the figure; the paper's is the first."""
    if small:
        few = Run(SMALL, "digits 64-6-10", _first_five, lambda moments: [moments[0], moments[-1]], probes=2, steps=40)
        return [few]
    return [
        Run(CIFAR10, "CIFAR-10 features 256-25-10", early, _three, steps=100),
        Run(DIGITS, "digits 64-25-10", epochs, lambda moments: sorted({*moments[::9], moments[-1]})),
        Run(LITTLE, "digits 64-10-10", epochs, lambda moments: sorted({*moments[:11], *moments[::5], moments[-1]})),
    ]


def early(store: Store, experiment: Experiment, *, progress: bool = False) -> list[int]:
    """The beginning, EARLY in the first epoch, and the end of every epoch."""
    epoch = steps_per_epoch(experiment)
    return sorted({*epochs(store, experiment, progress=progress), *(step for step in EARLY if step < epoch)})


def epochs(store: Store, experiment: Experiment, *, progress: bool = False) -> list[int]:
    """The beginning and the end of every epoch."""
    last, epoch = run_length(store, experiment, progress=progress), steps_per_epoch(experiment)
    return list(range(0, last + 1, epoch))


def _first_five(store: Store, experiment: Experiment, *, progress: bool = False) -> list[int]:
    return early(store, experiment, progress=progress)[:5]


def _three(moments: list[int]) -> list[int]:
    """The beginning, the end of the first epoch, the end."""
    return [moments[0], moments[1 + len(EARLY)], moments[-1]]


def counted(store: Store, plan: Run, *, progress: bool = False) -> Followed:
    """The cells of a run."""
    moments = plan.moments(store, plan.experiment, progress=progress)
    cells = follow(store, plan.experiment, moments, ["moment", "moment-exact"], progress=progress)
    options = {"probes": plan.probes, "steps": plan.steps}
    certified = plan.certified(moments)
    deep = follow(store, plan.experiment, certified, ["moment-certified"], progress=progress, **options)
    by_moment = {cell["after"]: cell for cell in deep}
    return Followed(plan, [{**cell, **by_moment.get(cell["after"], {})} for cell in cells])


def trace(followed: Followed, meaning: str) -> Trace:
    """What the figure shows of one run at one meaning of negative."""
    plan, cells, intervals = followed.run, followed.cells, {}
    size = plan.experiment.size
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


def _counts(cell: dict[str, Any]) -> list[str]:
    """Negative eigenvalues of a moment: by sign, and at two thresholds with their intervals."""
    counts = [f"{negative(cell, 'signs')}"]
    for meaning in ("1e-04", "1e-03"):
        ends = interval(cell, meaning)
        counts += [f"{negative(cell, meaning)}", "" if ends is None else f"[{ends[0]}, {ends[1]}]"]
    return counts


COUNTS = "below 0|below -1e-4|certified|below -1e-3|certified"


def _ends(runs: Sequence[Followed]) -> str:
    rows = []
    for followed in runs:
        size, cells = followed.run.experiment.size, followed.cells
        for cell in (cells[0], cells[-1]):
            facts = f"{size:,}", f"{cell['epoch']:.3g}", f"{cell['moment']['loss']:.4f}"
            bound = cell["moment-exact"]["negative_bound"]
            rows.append([followed.run.label, *facts, *_counts(cell), "" if bound is None else f"≤ {bound}"])
    return table(f"network|N|epoch|training error|{COUNTS}|known", rows)


def _orders(runs: Sequence[Followed]) -> str:
    rows = []
    for followed in runs:
        for meaning, label in MEANINGS.items():
            found = order(followed.cells, meaning)
            certified = "" if meaning == "signs" else f"{found.certified}"
            ranks = f"{found.spearman:.3f}", f"{found.kendall:.3f}"
            inversions = f"{found.inversions} of {found.pairs}"
            rows.append([followed.run.label, len(followed.cells), label, *ranks, inversions, certified])
    head = "network|moments|negative means|Spearman|Kendall|inversions, exact|inversions, disjoint intervals"
    return table(head, rows)


def _table(cells: Sequence[dict[str, Any]]) -> str:
    """Every moment of a short run; of a long one, those with intervals."""
    rows = []
    for cell in cells if len(cells) <= 12 else [cell for cell in cells if "moment-certified" in cell]:
        moment, exact = cell["moment"], cell["moment-exact"]
        facts = f"{moment['loss']:.4f}", f"{100 * moment['wrong']:.2f}", f"{exact['largest']:.3g}"
        rows.append([f"{cell['epoch']:.3g}", *facts, *_counts(cell)])
    return table(f"epoch|training error|wrong, %|largest eigenvalue|{COUNTS}", rows)
