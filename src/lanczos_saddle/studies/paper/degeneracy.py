"""Fig. 3: the number of zero eigenvalues at each epoch of a much smaller network.

Zero has four meanings here: exactly 0 by the paper's float32 solver (`convention`); within tau, a fraction of the
largest |eigenvalue| of the epoch; within a tau that is the same at every epoch; rows of the Hessian that are zero. One
network, trained as the paper states (cross-entropy) and as its published code shows (squared error on the softmax).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from lanczos_saddle.reports.markdown import table
from lanczos_saddle.studies.paper.along_training import CERTIFIED, finished, follow
from lanczos_saddle.studies.paper.epsilon_alpha import LITTLE, epochs
from lanczos_saddle.studies.paper.experiments import Experiment
from lanczos_saddle.studies.paper.paper_plots import Counted, plot_zeros
from lanczos_saddle.studies.paper.store import Store

FULL, SMALL = LITTLE, Experiment("digits", (64, 4, 10))
RELATIVE, ABSOLUTE = ("1e-03", "1e-04", "1e-05", "1e-06"), ("1e-03", "1e-04", "1e-05", "1e-06")
EVERY = 5  # epochs between intervals, and between exact counts of the second network


@dataclass(frozen=True)
class Run:
    """One network, every how many epochs it is counted exactly, and how often it gets intervals."""

    experiment: Experiment
    every: int = 1
    intervals: int | None = EVERY  # epochs between them; None: no intervals
    most: int | None = None  # moments
    probes: int = 4
    steps: int = 200

    @property
    def label(self) -> str:
        """Data, widths, objective."""
        sizes = "-".join(map(str, self.experiment.sizes))
        return f"{self.experiment.dataset} {sizes}, {self.experiment.objective}"


@dataclass(frozen=True)
class Followed:
    """A run, its cells, one a moment, and those with intervals."""

    run: Run
    cells: list[dict[str, Any]]
    deep: list[dict[str, Any]]

    def series(self) -> dict[str, list[int]]:
        """Zero eigenvalues at each moment, by every meaning."""
        return {meaning: meant(self.cells, meaning) for meaning in MEANINGS}


Findings = tuple[list[Followed], str]
"""The runs, and a line on those that are left out."""


def run(store: Store, folder: Path, *, small: bool = False, progress: bool = False) -> str:
    """Fill the cells, draw the figure, return both as Markdown."""
    found = compute(store, small=small, progress=progress)
    draw(found, folder)
    parts = [summary(found), ""]
    for followed in found[0]:
        parts += [f"**{followed.run.label}**", "", _table(followed.cells, followed.series()), ""]
    return "\n".join([*parts, "![Zero eigenvalues at each epoch](figures/paper-fig3.png)"])


def compute(store: Store, *, small: bool = False, progress: bool = False) -> Findings:
    """The runs of the figure, found or counted; of a finished store, those that it has whole."""
    return finished(
        lambda plan: counted(store, plan, progress=progress), plans(small=small), label=lambda plan: plan.label
    )


def draw(found: Findings, folder: Path) -> None:
    """The picture, paper-fig3.png: a row a network, a panel a meaning of zero."""
    rows = {followed.run.label: panels(followed.cells, followed.deep) for followed in found[0]}
    plot_zeros(folder / "paper-fig3.png", rows)


def summary(found: Findings) -> str:
    """From the first moment to the last by every meaning, and the intervals beside the exact counts."""
    parts = []
    for followed in found[0]:
        cells = followed.cells
        size, last = followed.run.experiment.size, cells[-1]["epoch"]
        parts.append(f"**{followed.run.label}, N = {size:,}**, {len(cells)} moments in {last:g} epochs")
        parts += [_changes(followed.series()), *([_certified(cells, followed.deep)] if followed.deep else [])]
    return "\n\n".join([*parts, *([found[1]] if found[1] else [])])


def plans(*, small: bool) -> list[Run]:
    """The runs of the figure."""
    if small:
        return [Run(SMALL, intervals=3, most=4, probes=2, steps=40)]
    return [Run(FULL), Run(replace(FULL, objective="squared-error"), every=EVERY, intervals=None)]


def counted(store: Store, plan: Run, *, progress: bool = False) -> Followed:
    """The cells of a run."""
    moments = epochs(store, plan.experiment, progress=progress)[:: plan.every][: plan.most]
    kinds = ["moment", "moment-exact", "moment-paper"]
    cells = follow(store, plan.experiment, moments, kinds, progress=progress)
    if plan.intervals is None:
        return Followed(plan, cells, [])
    certified = sorted({*moments[:: plan.intervals], moments[-1]})
    options = {"probes": plan.probes, "steps": plan.steps}
    deep = follow(store, plan.experiment, certified, ["moment-certified"], progress=progress, **options)
    return Followed(plan, cells, deep)


MEANINGS = {
    "general": "== 0, float32, general solver",
    "symmetric": "== 0, float32, symmetric solver",
    "rows": "zero rows",
    **{f"relative {tau}": f"tau = {tau} of the largest" for tau in RELATIVE},
    **{f"absolute {tau}": f"tau = {tau}" for tau in ABSOLUTE},
}


def meant(cells: Sequence[dict[str, Any]], meaning: str) -> list[int]:
    """How many eigenvalues count as zero at each moment, by one of MEANINGS."""
    how, _, tau = meaning.partition(" ")
    if tau:
        return [cell["moment-exact"][how][tau][1] for cell in cells]
    if how == "rows":
        return [cell["moment-exact"]["zero_rows"] for cell in cells]
    return [cell["moment-paper"][how]["zero"] for cell in cells]


def _table(cells: Sequence[dict[str, Any]], series: dict[str, list[int]]) -> str:
    last = len(cells) - 1
    shown = sorted({0, *(k for k in (1, 2, 3, 5, 10, 20, 30) if k < last), last})  # indices of moments
    rows: list[list[Any]] = [
        ["training error", *(f"{cells[i]['moment']['loss']:.3f}" for i in shown)],
        ["largest eigenvalue", *(f"{cells[i]['moment-exact']['largest']:.3g}" for i in shown)],
        *([MEANINGS[meaning], *(counts[i] for i in shown)] for meaning, counts in series.items()),
    ]
    return table("|".join(["zero means", *(f"epoch {cells[i]['epoch']:g}" for i in shown)]), rows)


def _changes(series: dict[str, list[int]]) -> str:
    rows = []
    for meaning, counts in series.items():
        steps = np.diff(counts)
        moves = (steps > 0).sum(), (steps == 0).sum(), (steps < 0).sum()
        rows.append([MEANINGS[meaning], counts[0], counts[-1], *moves])
    return table("zero means|first|last|moments up|equal|down", rows)


def _certified(cells: Sequence[dict[str, Any]], deep: Sequence[dict[str, Any]]) -> str:
    exact = {cell["after"]: cell["moment-exact"]["relative"] for cell in cells}
    names = [f"{tau:.0e}" for tau in CERTIFIED]
    rows = []
    for cell in deep:
        parts = []
        for name in names:
            low, _, high = cell["moment-certified"]["intervals"][name][1]
            parts.append(f"[{low}, {high}]; {exact[cell['after']][name][1]}")
        rows.append([f"{cell['epoch']:g}", *parts])
    return table("|".join(["epoch", *(f"zero at {name}, certified; exact" for name in names)]), rows)


def panels(cells: Sequence[dict[str, Any]], deep: Sequence[dict[str, Any]]) -> dict[str, list[Counted]]:
    """What the figure shows of one network."""
    at = np.array([cell["epoch"] for cell in cells])

    def series(meaning: str, label: str, intervals: Any = None, width: float = 1.5) -> Counted:
        return Counted(label, at, np.array(meant(cells, meaning), dtype=float), intervals or {}, width)

    known = {
        f"{tau:.0e}": {cell["epoch"]: cell["moment-certified"]["intervals"][f"{tau:.0e}"][1][::2] for cell in deep}
        for tau in CERTIFIED
    }
    return {
        "exactly 0": [
            series("general", "float32, general solver", width=7),
            series("symmetric", "float32, symmetric solver", width=4),
            series("rows", "rows of zeros"),
        ],
        "within tau, a fraction of the epoch's largest (bars: certified)": [
            series(f"relative {tau}", f"tau = {tau} of the largest", known.get(tau)) for tau in RELATIVE
        ],
        "within a fixed tau": [series(f"absolute {tau}", f"tau = {tau}") for tau in ABSOLUTE],
    }
