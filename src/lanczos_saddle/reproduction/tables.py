"""The paper's tables, row by row beside our own counts, as Markdown; from a store, computing nothing.

Of every row: what is printed; the paper's way of counting, repeated here; float64, all eigenvalues, exact at several
tau; intervals certified from products alone; what the architecture and the data say beforehand. tau is a fraction of
the largest |eigenvalue|. Means and standard deviations are over trials.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from lanczos_saddle.reproduction.experiments import Experiment
from lanczos_saddle.reproduction.measurements import CERTIFIED, parameters_of
from lanczos_saddle.reproduction.printed import printed
from lanczos_saddle.reproduction.rows import Row, rows
from lanczos_saddle.reproduction.store import Store

EXACT = ("1e-10", "1e-06", "1e-05", "1e-04")
TRIALS = 100  # more than anyone runs
OBJECTIVES = ("cross-entropy", "squared-error")

HEAD = "| | negative | zero | positive | accuracy, % | trials |\n|---|---|---|---|---|---|"
DATASETS = {"mnist": "MNIST", "cifar10_features": "CIFAR-10 features", "digits": "digits"}


def markdown(store: Store, table: str, datasets: Iterable[str]) -> str:
    """The table as far as the store has it."""
    parts = []
    for dataset in datasets:
        lines = [line for row in rows(table, dataset) for line in _row(store, table, dataset, row)]
        if lines:
            parts.append("\n".join([f"**{DATASETS[dataset]}**", "", HEAD, *lines]))
    return "\n\n".join(parts)


def variants(row: Row) -> list[Experiment]:
    """The row at both objectives, or at its own where it has one."""
    if row.experiment.objective == "reconstruction":
        return [row.experiment]
    return [replace(row.experiment, objective=objective) for objective in OBJECTIVES]


def _row(store: Store, table: str, dataset: str, row: Row) -> list[str]:
    """One line for what is printed, then a few for each objective."""
    paper = printed(table, dataset, row.label)
    cells = [str(paper.get(name, "")) for name in ("negative", "zero", "positive", "accuracy")]
    lines = [_line(f"**{row.label}**, N = {row.experiment.size:,}: the paper", cells, "8" if paper else "")]
    for experiment in variants(row):
        lines += _counted(store, experiment)
    return lines


def _counted(store: Store, experiment: Experiment) -> list[str]:
    """What the store has of one experiment, over its trials."""
    name = experiment.objective
    trained = _results(store, "train", experiment)
    if not trained:
        return []
    accuracy = _spread([100 * r["test_accuracy"] for r in trained], 2) if name != "reconstruction" else ""
    epochs = _spread([r["epochs"] for r in trained], 0)
    lines = [_line(f"*{name}*, {epochs} epochs; {_known(store, experiment)}", ["", "", "", accuracy], len(trained))]
    ways = _results(store, "convention", experiment) + _results(store, "float32 signs", experiment)
    lines += [
        _line(
            f"its way: {title}",
            _signs([way[solver] for way in ways if way[solver]]),
            sum(bool(way[solver]) for way in ways),
        )
        for solver, title in (
            ("general", "float32, general solver"),
            ("symmetric", "float32, symmetric solver"),
            ("double", "float32 matrix, float64 solver"),
        )
        if any(way[solver] for way in ways)
    ]
    spectra = _results(store, "exact", experiment)
    if spectra:
        lines.append(_line("float64, by sign", _signs([r["signs"] for r in spectra]), len(spectra)))
    lines += [
        _line(f"float64, exact, tau = {tau}", _triples([r["counts"][tau] for r in spectra]), len(spectra))
        for tau in EXACT
        if spectra
    ]
    for run in _results(store, "certified", experiment)[:1]:
        how = f"{run['probes']} x {run['steps']} products"
        lines += [
            _line(f"certified, tau = {tau}, {how}", _intervals(run["intervals"][tau]), 1)
            for tau in (f"{relative:.0e}" for relative in CERTIFIED[1:])
        ]
    return lines


def _known(store: Store, experiment: Experiment) -> str:
    """Dead coordinates and the bound, in words."""
    known = _results(store, "structure", experiment)
    if not known:
        return ""
    parts = [f"dead {_spread([r['dead'] for r in known], 0)} ({known[0]['blank']} of blank inputs)"]
    if known[0]["negative_bound"] is not None:
        parts.append(f"at most {known[0]['negative_bound']} negative")
    return ", ".join(parts)


def _results(store: Store, kind: str, experiment: Experiment) -> list[Any]:
    """The results of a kind over all trials that the store has."""
    trials = (replace(experiment, trial=trial) for trial in range(TRIALS))
    found = (store.find(kind, parameters_of(kind, one)) for one in trials)
    return [result for result in found if result is not None]


def _signs(found: Sequence[dict[str, int]]) -> list[str]:
    return _triples([[one["negative"], one["zero"], one["positive"]] for one in found])


def _triples(found: Sequence[Sequence[int]]) -> list[str]:
    return [*(_spread(column, 0) for column in zip(*found, strict=True)), ""]


def _intervals(found: Sequence[Sequence[float]]) -> list[str]:
    return [*(f"[{lower:.0f}, {upper:.0f}]" for lower, _, upper in found), ""]


def _spread(values: Sequence[float], digits: int) -> str:
    """Mean ± sample standard deviation; the mean alone of one value, or of equal whole numbers."""
    mean = f"{statistics.fmean(values):.{digits}f}"
    if len(values) == 1 or (digits == 0 and len(set(values)) == 1):
        return mean
    return f"{mean} ± {statistics.stdev(values):.{max(digits, 0)}f}"


def _line(label: str, cells: Sequence[str], trials: int | str) -> str:
    return f"| {' | '.join([label, *cells, str(trials)])} |"
