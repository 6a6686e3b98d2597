"""The paper's tables: what is printed and what we count, side by side, as Markdown; from a store, computing nothing.

What stands in their columns, for readers of the tables, too: LEGEND.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from lanczos_saddle.reports.markdown import over_trials, table
from lanczos_saddle.studies.paper import definitions
from lanczos_saddle.studies.paper.experiments import Experiment
from lanczos_saddle.studies.paper.measurements import parameters_of
from lanczos_saddle.studies.paper.printed import printed
from lanczos_saddle.studies.paper.rows import rows, table_names
from lanczos_saddle.studies.paper.store import Store
from lanczos_saddle.studies.shapes import results as shape_results
from lanczos_saddle.studies.shapes.anatomy import residual_parameters
from lanczos_saddle.studies.shapes.results import Counted

EXACT = ("1e-10", "1e-06", "1e-05", "1e-04", "1e-03")
CERTIFIED = ("1e-04", "1e-03")
CLASSES = ("negative", "zero", "positive")
LEGEND = """\
- the paper: as printed, over 8 trials.
- its way: the Hessian in float32, its eigenvalues by sign, zero where exactly 0; by a symmetric solver or inertia, in
  float64.
- by sign: the same of all eigenvalues of the float64 Hessian.
- exact: all eigenvalues in float64, beyond a threshold tau; tau is a fraction of the largest |eigenvalue|.
- certified: intervals from products alone, 95 % joint over the three counts of one threshold, of the first trial; with
  an asterisk 99.5 %, of one or two probes, as on the page on depth and width. No more negative ones than known.
- known, of the first trial, before anything is counted: the bound on the negative ones; rows of H that are exactly
  zero, and shifts of all logits, null vectors too.
- zero rows of H: of blank inputs, or of units that never fire and pairs of units that never fire together (other).
- rescaling, of the first trial: |H d| / |d| along the rescaling d of each ReLU unit, least and largest; null where the
  gradient vanishes, as for a unit that never fires.
- x ± y: mean and standard deviation over the trials that were counted."""
DATASETS = {"mnist": "MNIST", "cifar10_features": "CIFAR-10 features", "digits": "digits"}
TRIALS = 100  # more than anyone runs


def markdown(store: Store, name: str, datasets: Iterable[str], objective: str | None = None) -> str:
    """The table as far as the store has it: the networks, then one table for each class of eigenvalues.

    Of one objective alone where it is named (`Row.variants`).

    Tables 4 and 6 are definitions and need no store. Raises ValueError for another name.
    """
    if name not in table_names():
        return definitions.text(name)
    parts = []
    for dataset in datasets:
        lines = [
            Line(store, row.label, variant, printed(name, dataset, row.label))
            for row in rows(name, dataset)
            for variant in row.variants(objective)
        ]
        found = [line for line in lines if line.trained]
        if found:
            parts += [f"**{DATASETS.get(dataset, Path(dataset).stem)}**", _networks(found)]
            parts += [_counts(found, place) for place in range(len(CLASSES)) if any(line.counted for line in found)]
    return "\n\n".join(parts)


@dataclass(frozen=True)
class Line:
    """What the store has of one row of the paper at one objective, over its trials."""

    store: Store
    label: str
    experiment: Experiment
    paper: dict[str, Any]

    def results(self, *kinds: str) -> list[Any]:
        """Of all trials that the store has, in their order; of each the first of these kinds that it has."""
        trials = [replace(self.experiment, trial=trial) for trial in range(TRIALS)]
        found = [[self.store.find(kind, parameters_of(kind, one)) for kind in kinds] for one in trials]
        return [next(r for r in results if r is not None) for results in found if any(r is not None for r in results)]

    @cached_property
    def trained(self) -> list[Any]:
        """The runs."""
        return self.results("train")

    @cached_property
    def counted(self) -> bool:
        """Whether any eigenvalue was counted."""
        return any(self.results(kind) for kind in ("exact", "convention", "float32 signs", "certified")) or (
            self._of_shapes is not None
        )

    @property
    def head(self) -> str:
        """The first cell; a step of its own; where weights were perturbed on the way, how often."""
        perturbed = [run["perturbations"] for run in self.trained if run.get("perturbations")]
        parts = [self.label, self.experiment.objective]
        parts += [] if self.experiment.step is None else [f"step {self.experiment.step:g}"]
        parts += [f"{over_trials(perturbed)} perturbations"] if perturbed else []
        return ", ".join(parts)

    def its_way(self, place: int) -> str:
        """The paper's convention; the float64 solvers, general and symmetric, differ by a few signs."""
        found = self.results("convention", "float32 signs")
        return over_trials([one["double"][CLASSES[place]] for one in found])

    def certified(self, tau: str, place: int) -> str:
        """The interval of the first trial."""
        found, mark = None, ""
        if runs := self.results("certified"):
            found = runs[0]["intervals"][tau][place]
        elif self._of_shapes is not None:
            found, mark = self._of_shapes.certified(tau, shape_results.CLASSES[place]), " *"
        if found is None:
            return ""
        lower, _, upper = found
        if place == 0 and self.negative_bound is not None:
            upper = min(upper, self.negative_bound)
        return f"[{lower:.0f}, {upper:.0f}]{mark}"

    @cached_property
    def _of_shapes(self) -> Counted | None:
        """As on the page on depth and width, 99.5 % joint; of the larger networks there is nothing else."""
        for cell in self.store.all("certified-shape"):
            one, found = Experiment.recorded(cell["parameters"]), cell["result"]
            if cell["parameters"]["matrix"] == "hessian" and one == self.experiment:
                residual = self.store.find("residual", residual_parameters(one, found["scale"]))
                return Counted(one, found, self.store.trained(one), residual)
        return None

    @cached_property
    def structures(self) -> list[Any]:
        """What is known before anything is counted."""
        return self.results("structure")

    @property
    def negative_bound(self) -> int | None:
        """Of the first trial, by its architecture and the units that fire."""
        return self.structures[0]["negative_bound"] if self.structures else None

    @property
    def zero_rows(self) -> str:
        """Rows of H that are exactly zero, over all trials: what a count of exact zeros finds."""
        return over_trials([one["dead"] for one in self.structures])

    def known(self, place: int) -> str:
        """Of the first trial: at most so many negative, at least so many zero."""
        found = self.structures
        if not found or place == 2:
            return ""
        if place == 1:
            return f"≥ {found[0]['dead'] + found[0]['shifts']}"
        return "" if self.negative_bound is None else f"≤ {self.negative_bound}"


def _networks(lines: Sequence[Line]) -> str:
    head = "|N|trials|epochs|loss|gradient norm|accuracy, %|the paper's|zero rows of H|rescaling"
    body = []
    for line in lines:
        runs, known = line.trained, line.structures
        labeled = line.experiment.objective != "reconstruction"
        body.append(
            [
                line.head,
                f"{line.experiment.size:,}",
                str(len(runs)),
                over_trials([run["epochs"] for run in runs]),
                f"{statistics.fmean(run['loss'] for run in runs):.4f}",
                f"{statistics.fmean(run['gradient_norm'] for run in runs):.1e}",
                over_trials([100 * run["test_accuracy"] for run in runs], 2) if labeled else "",
                str(line.paper.get("accuracy", "")),
                "{} blank + {} other".format(*(over_trials([one[k] for one in known]) for k in ("blank", "silent")))
                if known
                else "",
                "{:.1e} to {:.1e}".format(*known[0]["rescaling"]) if known and known[0].get("rescaling") else "",
            ]
        )
    return table(head, body)


def _counts(lines: Sequence[Line], place: int) -> str:
    """One class of eigenvalues, all ways side by side."""
    zeros = CLASSES[place] == "zero"
    head = [
        f"**{CLASSES[place]}**",
        "the paper",
        *(["zero rows, all trials"] if zeros else []),
        "its way",
        "by sign",
        *(f"exact, {tau}" for tau in EXACT),
        *(f"certified, {tau}" for tau in CERTIFIED),
        "known",
    ]
    body = []
    for line in lines:
        spectra = line.results("exact")
        exact = [over_trials([one["counts"][tau][place] for one in spectra]) for tau in EXACT]
        by_sign = over_trials([one["signs"][CLASSES[place]] for one in spectra])
        certified = [line.certified(tau, place) for tau in CERTIFIED]
        printed_here = [str(line.paper.get(CLASSES[place], "")), *([line.zero_rows] if zeros else [])]
        body.append([line.head, *printed_here, line.its_way(place), by_sign, *exact, *certified, line.known(place)])
    return table("|".join(head), body)
