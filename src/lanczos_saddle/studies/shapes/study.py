"""Degeneracy against depth and width: which networks are counted, at what cost, and the page that follows.

Every network is trained as the paper says (`experiments`), with the same initialization at every depth. Large ones are
counted by certified intervals, small ones exactly and from several seeds.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from lanczos_saddle.studies.paper.experiments import Experiment
from lanczos_saddle.studies.paper.measurements import measure
from lanczos_saddle.studies.paper.store import Store, UnfinishedError
from lanczos_saddle.studies.shapes import figures as shape_figures
from lanczos_saddle.studies.shapes import tables as shape_tables
from lanczos_saddle.studies.shapes.anatomy import anatomy, level, residual
from lanczos_saddle.studies.shapes.cells import Plan, certified, counted_exactly, layer_names, thresholds
from lanczos_saddle.studies.shapes.results import Anatomy, Counted, Findings, Taken

T = TypeVar("T")


@dataclass(frozen=True)
class Shape:
    """One network and what its certified count costs."""

    experiment: Experiment
    plan: Plan


@dataclass(frozen=True)
class Study:
    """The networks of one page."""

    depth: list[Shape]
    width: list[Shape]  # one hidden layer
    large: list[Shape]  # several wide ones
    apart: list[Shape]  # layer by layer and part by part, certified
    residuals: list[Shape]  # of these, R = H - G too, at twice the cost
    judged: list[Shape]  # these by all eigenvalues too, where memory has room
    exact: list[Experiment]  # every one at every trial
    widths: list[Experiment]  # the same, one hidden layer
    trials: int
    whole: list[Experiment]  # taken apart exactly
    loss: float  # a training loss that
    level: list[Experiment]  # these reach: exactly there, too


def _mnist(*hidden: int, probes: int, steps: int, dtype: str = "float64") -> Shape:
    return Shape(Experiment("mnist", (784, *hidden, 10)), Plan(probes, steps, dtype))


def _digits(*hidden: int) -> Experiment:
    return Experiment("digits", (64, *hidden, 10))


def full() -> Study:
    """MNIST from 2 to 10 layers of weights and from 25 to 1000 units; the digits exactly at the same depths."""
    depth = [_mnist(*[25] * hidden, probes=2, steps=200) for hidden in (1, 2, 3, 4, 6, 9)]
    width = [
        depth[0],
        _mnist(50, probes=2, steps=200),
        _mnist(100, probes=2, steps=150),
        _mnist(250, probes=1, steps=150),
        _mnist(500, probes=1, steps=100),
        _mnist(1000, probes=1, steps=60, dtype="float32"),
    ]
    large = [
        _mnist(500, 500, probes=1, steps=60),  # what the paper calls intractable
        _mnist(1000, 250, probes=1, steps=50, dtype="float32"),
    ]
    exact = [_digits(*[25] * hidden) for hidden in (1, 2, 3, 4, 6, 9)]
    return Study(
        depth,
        width,
        large,
        apart=[depth[0], depth[3]],
        residuals=[depth[3]],
        judged=depth,
        exact=exact,
        widths=[_digits(units) for units in (5, 10, 25, 50)],
        trials=5,
        whole=exact[:5],
        loss=0.05,
        level=exact[:5],
    )


def tiny() -> Study:
    """The same on digits within a minute."""
    depth = [Shape(_digits(*[8] * hidden), Plan(2, 60)) for hidden in (1, 2)]
    width = [depth[0], *(Shape(_digits(units), Plan(2, 60)) for units in (16,))]
    exact = [shape.experiment for shape in depth]
    return Study(
        depth,
        width,
        large=[Shape(_digits(16, 12), Plan(2, 60))],
        apart=depth[1:],
        residuals=depth[1:],
        judged=depth[:1],
        exact=exact,
        widths=[exact[0], _digits(16)],
        trials=2,
        whole=exact,
        loss=0.2,
        level=exact,
    )


def run(store: Store, folder: Path, *, small: bool = False, progress: bool = False) -> str:
    """Fill what the store lacks, draw depth.png, width.png and layers.png into `folder`; the tables in Markdown.

    Cost: about three hours of one core, half of them for exact counts; `small`: half a minute. The smallest networks
    come first, the two largest in the middle; what is interrupted continues. Of a finished store the page has what is
    there.
    """
    return write(store, tiny() if small else full(), folder, progress=progress)


def write(store: Store, study: Study, folder: Path, *, progress: bool = False) -> str:
    """Compute what is missing, draw, and tabulate."""
    findings = compute(store, study, progress=progress)
    shape_figures.draw(findings, folder)
    return shape_tables.page(findings)


def compute(store: Store, study: Study, *, progress: bool = False) -> Findings:
    """All cells of a study, found or computed; without those that a finished store lacks."""
    found = [
        _unless_missing(partial(_counted, store, shape, shape in study.judged, progress)) for shape in _ordered(study)
    ]
    counted = {c.experiment: c for c in found if c is not None}
    taken = [
        _unless_missing(partial(_taken, store, shape, counted[shape.experiment], shape in study.residuals, progress))
        for shape in study.apart
        if shape.experiment in counted
    ]
    exact = _trials(study.exact, study.trials, lambda e: _anatomy(store, e, e in study.whole, progress))
    widths = _trials(study.widths, study.trials, lambda e: _anatomy(store, e, e in study.whole, progress))
    leveled = _trials(study.level, study.trials, lambda e: _leveled(store, e, study.loss, progress))
    return Findings(
        depth=_present(counted, study.depth),
        width=_present(counted, study.width),
        large=_present(counted, study.large),
        apart=[t for t in taken if t is not None],
        exact=exact,
        widths=widths,
        whole=[found for trials in exact for found in trials if "layers" in found.result],
        loss=study.loss,
        level=[[found for found in trials if found.result["epochs"] is not None] for trials in leveled],
        names=list(thresholds(1.0)),
    )


def _unless_missing(compute: Callable[[], T]) -> T | None:
    try:
        return compute()
    except UnfinishedError:
        return None


def _present(counted: dict[Experiment, Counted], shapes: list[Shape]) -> list[Counted]:
    return [counted[shape.experiment] for shape in shapes if shape.experiment in counted]


def _trials(networks: list[Experiment], trials: int, count: Callable[[Experiment], Anatomy]) -> list[list[Anatomy]]:
    """Every network at every seed; networks without any are left out."""
    rows = [
        [_unless_missing(partial(count, replace(network, trial=trial))) for trial in range(trials)]
        for network in networks
    ]
    return [kept for row in rows if (kept := [found for found in row if found is not None])]


def _taken(store: Store, shape: Shape, whole: Counted, with_residual: bool, progress: bool) -> Taken:
    def count(matrix: str) -> Any:
        return certified(store, shape.experiment, shape.plan, matrix, progress=progress)

    layers = {layer: count(layer) for layer in layer_names(shape.experiment)}
    parts = {matrix: count(matrix) for matrix in ("gauss-newton", *(["residual"] if with_residual else []))}
    return Taken(whole, parts, layers)


def _ordered(study: Study) -> list[Shape]:
    """Smallest first, but the largest ones in the middle."""
    small = sorted({*study.depth, *study.width}, key=lambda shape: shape.experiment.size)
    half = len(small) // 2
    return [*small[:half], *study.large, *small[half:]]


def _counted(store: Store, shape: Shape, judged: bool, progress: bool) -> Counted:
    found = certified(store, shape.experiment, shape.plan, progress=progress)
    if judged and not store.finished:
        try:
            measure(store, "exact", shape.experiment, progress=progress)
        except ValueError as error:  # the intervals stand without it
            warnings.warn(f"{shape.experiment} is not counted exactly: {error}", stacklevel=2)
    one = len(shape.experiment.sizes) == 3
    bound = residual(store, shape.experiment, found["scale"], progress=progress) if one else None
    return Counted(
        shape.experiment, found, store.trained(shape.experiment), bound, counted_exactly(store, shape.experiment)
    )


def _anatomy(store: Store, experiment: Experiment, parts: bool, progress: bool) -> Anatomy:
    found = anatomy(store, experiment, parts=parts, progress=progress)
    return Anatomy(experiment, found, store.trained(experiment))


def _leveled(store: Store, experiment: Experiment, loss: float, progress: bool) -> Anatomy:
    found = level(store, experiment, loss, progress=progress)
    return Anatomy(experiment, found, found)
