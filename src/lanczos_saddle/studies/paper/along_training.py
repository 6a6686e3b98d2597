"""The Hessian at chosen moments of one training run (`kept_weights`), counted as at its end.

Cells of the store, each named by the experiment and `after`, the steps made:

moment           mean objective, share of wrong answers, gradient norm, on the training set
moment-exact     float64, all eigenvalues: counts at every tau, and the signs at 0
moment-certified intervals from products alone
moment-paper     signs as the paper's code gives them (`convention`)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from typing import Any, TypeVar

import numpy as np
import torch

from lanczos_saddle.dense.exact import assemble
from lanczos_saddle.machine.progress import stage
from lanczos_saddle.structure.facts import negative_bound
from lanczos_saddle.studies.paper.convention import convention, signs
from lanczos_saddle.studies.paper.experiments import Experiment
from lanczos_saddle.studies.paper.kept_weights import hessian_at, keep_weights, model_at, steps_per_epoch, weights_at
from lanczos_saddle.studies.paper.spectra import (
    Array,
    certified_run,
    exact_counts,
    living_eigenvalues,
    relative,
    save_spectrum,
)
from lanczos_saddle.studies.paper.store import Store, UnfinishedError
from lanczos_saddle.training import datasets
from lanczos_saddle.training.evaluation import evaluate, loss_and_gradient_norm
from lanczos_saddle.training.objectives import targets_for

Run = TypeVar("Run")
Found = TypeVar("Found")

Cell = dict[str, Any]
RELATIVE = (1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-8, 1e-10, 1e-12, 1e-14)
"""tau as fractions of the moment's own largest |eigenvalue|."""

ABSOLUTE = (1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-8)
"""tau in units of eigenvalues, the same at all moments: the largest eigenvalue moves while a network trains."""

CERTIFIED = (1e-3, 1e-4)
"""Fractions of the largest |eigenvalue| at which there are intervals; named before any run."""


def follow(
    store: Store,
    experiment: Experiment,
    moments: Sequence[int],
    kinds: Iterable[str],
    *,
    progress: bool = False,
    **options: Any,
) -> list[Cell]:
    """The cells of `kinds` at each moment, one dictionary a moment: {"after", "epoch", kind: result}.

    Costs one training run where weights are missing, then what each missing cell costs. `options` go to
    "moment-certified": probes and steps.

    Raises ValueError for a moment that is negative or beyond the end of training.
    """
    kinds = list(kinds)
    cells: list[tuple[int, str, Cell]] = []
    for after in moments:
        for kind in kinds:
            cells.append((after, kind, options if kind == "moment-certified" else {}))
    missing = [cell for cell in cells if store.find(cell[1], _parameters(experiment, cell[0], cell[2])) is None]
    if missing and store.finished:
        after, kind, _ = missing[0]
        raise UnfinishedError(
            f"{store.path} lacks {len(missing)} of {len(cells)} cells along a training, the first of them {kind} after "
            f"{after} steps of {experiment}: run without --report-only"
        )
    if missing:
        keep_weights(store, experiment, sorted({after for after, _, _ in missing}), progress=progress)
    with stage("moments", len(missing), unit="cell", shown=progress) as told:
        for after, kind, chosen in missing:
            compute = _MEASURES[kind]
            store.fill(
                kind,
                _parameters(experiment, after, chosen),
                lambda compute=compute, after=after, chosen=chosen: compute(store, experiment, after, **chosen),  # type: ignore[misc]
            )
            told.advance()
    epoch = steps_per_epoch(experiment)
    found = {after: {"after": after, "epoch": after / epoch} for after in moments}
    for after, kind, chosen in cells:
        found[after][kind] = store.find(kind, _parameters(experiment, after, chosen))
    return list(found.values())


NO_DATA = "Left out, no data: "


def finished(
    compute: Callable[[Run], Found], runs: Iterable[Run], label: Callable[[Run], str]
) -> tuple[list[Found], str]:
    """What `compute` finds for each run, and a line that names those that are left out.

    A run is left out where a finished store has it not whole, or where its data are not there. Raises what the first
    of them does, UnfinishedError or DataNotFoundError, where nothing is left.
    """
    found, missing = [], {}
    for run in runs:
        try:
            found.append(compute(run))
        except (UnfinishedError, datasets.DataNotFoundError) as error:
            missing[label(run)] = error
    if not found:
        raise next(iter(missing.values()))
    undone = [name for name, why in missing.items() if isinstance(why, UnfinishedError)]
    absent = [name for name in missing if name not in undone]
    notes = [f"Left out, not yet computed: {', '.join(undone)}."] if undone else []
    return found, " ".join([*notes, f"{NO_DATA}{', '.join(absent)}."] if absent else notes)


def _parameters(experiment: Experiment, after: int, options: Cell) -> Cell:
    return {**experiment.parameters(), "after": after, **options}


def _moment(store: Store, experiment: Experiment, after: int) -> Cell:
    model, dataset = model_at(store, experiment, after), datasets.load(experiment.dataset)
    y = targets_for(experiment.objective, dataset.x_train, dataset.y_train)
    found = evaluate(model, dataset.x_train, y, experiment.objective)
    loss, gradient_norm = loss_and_gradient_norm(model, dataset.x_train, y, experiment.objective)
    return {"loss": loss, "wrong": 1 - found.accuracy, "gradient_norm": gradient_norm}


def eigenvalues_at(store: Store, experiment: Experiment, after: int) -> tuple[Array, int]:
    """(all eigenvalues of the rows that are not zero, ascending; how many rows are exactly zero), in float64.

    Kept in the store, computed where they are missing: n N^2 and 4/3 N^3 operations.
    """
    path = store.folder / "spectra" / f"{weights_at(store, experiment, after).stem}.npz"
    if not path.is_file():
        keep_weights(store, experiment, [after])
        matrix = assemble(hessian_at(store, experiment, after)).matrix
        values = living_eigenvalues(matrix, overwrite=True)
        save_spectrum(path, values, len(matrix) - len(values))
    with np.load(path) as kept:
        return kept["eigenvalues"], int(kept["zeros"])


def _exact(store: Store, experiment: Experiment, after: int) -> Cell:
    values, zeros = eigenvalues_at(store, experiment, after)
    scale = float(np.abs(values).max())
    bound = negative_bound(hessian_at(store, experiment, after).problem)
    return {
        "size": experiment.size,
        "smallest": float(values[0]),
        "largest": float(values[-1]),
        "zero_rows": zeros,
        "negative_bound": None if bound is None else bound[0],
        "relative": exact_counts(values, zeros, relative(RELATIVE, scale)),
        "absolute": exact_counts(values, zeros, relative(ABSOLUTE)),
        "signs": asdict(signs(values, zeros)),  # at 0: below 1e-14 of the largest, these are rounding
    }


def _certified(store: Store, experiment: Experiment, after: int, *, probes: int, steps: int) -> Cell:
    hessian = hessian_at(store, experiment, after)
    counts, scale, found = certified_run(hessian, CERTIFIED, probes=probes, steps=steps, seed=experiment.trial)
    return {
        "size": counts.size,
        "scale": scale,
        "intervals": found,
        "confidence": counts.confidence,
        "products": counts.products,
        "noise": counts.noise,
    }


def _paper(store: Store, experiment: Experiment, after: int) -> Cell:
    return asdict(convention(hessian_at(store, experiment, after, torch.float32)))


_MEASURES: dict[str, Callable[..., Cell]] = {
    "moment": _moment,
    "moment-exact": _exact,
    "moment-certified": _certified,
    "moment-paper": _paper,
}
