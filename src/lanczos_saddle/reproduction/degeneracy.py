"""Fig. 3: the number of zero eigenvalues at each epoch of a much smaller network.

Zero has four meanings here: exactly 0 by the paper's float32 solver (`convention`); within tau, a fraction of the
largest |eigenvalue| of the epoch; within a tau that is the same at every epoch; rows of the Hessian that are zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lanczos_saddle.paper_plots import Counted, plot_zeros
from lanczos_saddle.reproduction.along_training import CERTIFIED, follow
from lanczos_saddle.reproduction.epsilon_alpha import epochs
from lanczos_saddle.reproduction.experiments import Experiment
from lanczos_saddle.reproduction.store import Store

FULL, SMALL = Experiment("digits", (64, 10, 10)), Experiment("digits", (64, 4, 10))
RELATIVE, ABSOLUTE = ("1e-03", "1e-04", "1e-05", "1e-06"), ("1e-03", "1e-04", "1e-05", "1e-06")
EVERY = 5  # epochs between intervals


def run(store: Store, folder: Path, *, small: bool = False, progress: bool = False) -> str:
    """Fill the cells, draw the figure, return both as Markdown."""
    experiment = SMALL if small else FULL
    moments = epochs(store, experiment, progress=progress)
    moments = moments[:4] if small else moments
    options = {"probes": 2, "steps": 40} if small else {"probes": 4, "steps": 200}
    kinds = ["moment", "moment-exact", "moment-paper"]
    cells = follow(store, experiment, moments, kinds, progress=progress)
    some = sorted({*moments[::EVERY], moments[-1]})
    deep = follow(store, experiment, some, ["moment-certified"], progress=progress, **options)
    series = {meaning: meant(cells, meaning) for meaning in MEANINGS}
    _draw(folder / "paper-fig3.png", cells, deep)
    label = f"{experiment.dataset} {'-'.join(map(str, experiment.sizes))}, N = {experiment.size:,}"
    return "\n".join(
        [
            f"**{label}**, {len(cells) - 1} epochs",
            "",
            _table(cells, series),
            "",
            _changes(series),
            "",
            _certified(cells, deep),
            "",
            "![Zero eigenvalues at each epoch](figures/paper-fig3.png)",
        ]
    )


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
    shown = sorted({0, *(k for k in (1, 2, 3, 5, 10, 20, 30) if k < last), last})
    lines = [
        "| zero means | " + " | ".join(f"epoch {cells[i]['epoch']:g}" for i in shown) + " |",
        "|---" * (len(shown) + 1) + "|",
        "| training error | " + " | ".join(f"{cells[i]['moment']['loss']:.3f}" for i in shown) + " |",
        "| largest eigenvalue | " + " | ".join(f"{cells[i]['moment-exact']['largest']:.3g}" for i in shown) + " |",
    ]
    for meaning, counts in series.items():
        lines.append(f"| {MEANINGS[meaning]} | " + " | ".join(str(counts[i]) for i in shown) + " |")
    return "\n".join(lines)


def _changes(series: dict[str, list[int]]) -> str:
    lines = ["| zero means | epochs up | equal | down | first to last |", "|---|---|---|---|---|"]
    for meaning, counts in series.items():
        steps = np.diff(counts)
        lines.append(
            f"| {MEANINGS[meaning]} | {(steps > 0).sum()} | {(steps == 0).sum()} | {(steps < 0).sum()} | "
            f"{counts[0]} to {counts[-1]} |"
        )
    return "\n".join(lines)


def _certified(cells: Sequence[dict[str, Any]], deep: Sequence[dict[str, Any]]) -> str:
    exact = {cell["after"]: cell["moment-exact"]["relative"] for cell in cells}
    names = [f"{tau:.0e}" for tau in CERTIFIED]
    lines = ["| epoch | " + " | ".join(f"zero at {n}, certified; exact" for n in names) + " |", "|---" * 3 + "|"]
    for cell in deep:
        parts = []
        for name in names:
            low, _, high = cell["moment-certified"]["intervals"][name][1]
            parts.append(f"[{low}, {high}]; {exact[cell['after']][name][1]}")
        lines.append(f"| {cell['epoch']:g} | " + " | ".join(parts) + " |")
    return "\n".join(lines)


def _draw(path: Path, cells: Sequence[dict[str, Any]], deep: Sequence[dict[str, Any]]) -> None:
    at = np.array([cell["epoch"] for cell in cells])

    def series(meaning: str, label: str, intervals: dict[float, tuple[float, float]] | None = None) -> Counted:
        return Counted(label, at, np.array(meant(cells, meaning), dtype=float), intervals or {})

    known = {
        f"{tau:.0e}": {
            cell["epoch"]: tuple(cell["moment-certified"]["intervals"][f"{tau:.0e}"][1][::2]) for cell in deep
        }
        for tau in CERTIFIED
    }
    panels = {
        "exactly 0": [
            series("general", "float32, general solver (the paper's)"),
            series("symmetric", "float32, symmetric solver"),
            series("rows", "rows of zeros"),
        ],
        "within tau of the epoch's largest": [
            series(f"relative {tau}", f"tau = {tau} of the largest", known.get(tau)) for tau in RELATIVE
        ],
        "within a fixed tau": [series(f"absolute {tau}", f"tau = {tau}") for tau in ABSOLUTE],
    }
    plot_zeros(path, panels)
