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

from lanczos_saddle.reproduction.along_training import CERTIFIED, follow
from lanczos_saddle.reproduction.epsilon_alpha import LITTLE, epochs
from lanczos_saddle.reproduction.experiments import Experiment
from lanczos_saddle.reproduction.markdown import table
from lanczos_saddle.reproduction.paper_plots import Counted, plot_zeros
from lanczos_saddle.reproduction.store import Store

FULL, SMALL = LITTLE, Experiment("digits", (64, 4, 10))
RELATIVE, ABSOLUTE = ("1e-03", "1e-04", "1e-05", "1e-06"), ("1e-03", "1e-04", "1e-05", "1e-06")
EVERY = 5  # epochs between intervals, and between exact counts of the second network


@dataclass(frozen=True)
class Run:
    """One network, the epochs at which it is counted exactly, and those at which it gets intervals."""

    experiment: Experiment
    moments: Sequence[int]
    certified: Sequence[int]
    probes: int = 4
    steps: int = 200

    @property
    def label(self) -> str:
        """Data, widths, objective."""
        sizes = "-".join(map(str, self.experiment.sizes))
        return f"{self.experiment.dataset} {sizes}, {self.experiment.objective}"


def run(store: Store, folder: Path, *, small: bool = False, progress: bool = False) -> str:
    """Fill the cells, draw the figure, return both as Markdown."""
    parts, rows = [], {}
    for plan in plans(store, small=small, progress=progress):
        kinds = ["moment", "moment-exact", "moment-paper"]
        cells = follow(store, plan.experiment, plan.moments, kinds, progress=progress)
        options = {"probes": plan.probes, "steps": plan.steps}
        deep = follow(store, plan.experiment, plan.certified, ["moment-certified"], progress=progress, **options)
        series = {meaning: meant(cells, meaning) for meaning in MEANINGS}
        title = f"**{plan.label}, N = {plan.experiment.size:,}**, {len(cells)} moments in {cells[-1]['epoch']:g} epochs"
        parts += [title, "", _table(cells, series), "", _changes(series), ""]
        parts += [_certified(cells, deep), ""] if deep else []
        rows[plan.label] = panels(cells, deep)
    plot_zeros(folder / "paper-fig3.png", rows)
    return "\n".join([*parts, "![Zero eigenvalues at each epoch](figures/paper-fig3.png)"])


def plans(store: Store, *, small: bool, progress: bool = False) -> list[Run]:
    """The runs of the figure; trains where the length of a run is not known."""
    if small:
        few = epochs(store, SMALL, progress=progress)[:4]
        return [Run(SMALL, few, [few[0], few[-1]], probes=2, steps=40)]
    every = epochs(store, FULL, progress=progress)
    code = replace(FULL, objective="squared-error")
    return [
        Run(FULL, every, sorted({*every[::EVERY], every[-1]})),
        Run(code, epochs(store, code, progress=progress)[::EVERY], []),
    ]


MEANINGS = {
    "general": "== 0, float32, general solver (the paper's)",
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
        rows.append([MEANINGS[meaning], *moves, f"{counts[0]} to {counts[-1]}"])
    return table("zero means|moments up|equal|down|first to last", rows)


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
            series("general", "float32, general solver (the paper's)", width=7),
            series("symmetric", "float32, symmetric solver", width=4),
            series("rows", "rows of zeros"),
        ],
        "within tau, a fraction of the epoch's largest (bars: certified)": [
            series(f"relative {tau}", f"tau = {tau} of the largest", known.get(tau)) for tau in RELATIVE
        ],
        "within a fixed tau": [series(f"absolute {tau}", f"tau = {tau}") for tau in ABSOLUTE],
    }
