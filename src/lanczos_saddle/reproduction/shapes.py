"""Degeneracy against depth and width: which networks are counted, at what cost, and the page that follows.

Every network is trained as the paper says (`experiments`), with the same initialization at every depth. Large ones are
counted by certified intervals, small ones exactly and from several seeds.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path

from lanczos_saddle.reproduction import shape_figures, shape_tables
from lanczos_saddle.reproduction.experiments import Experiment
from lanczos_saddle.reproduction.shape_cells import Plan, anatomy, certified, layer_names, level, residual, thresholds
from lanczos_saddle.reproduction.shape_results import Anatomy, Counted, Findings, Taken
from lanczos_saddle.reproduction.store import Store


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
    exact: list[Experiment]  # every one at every trial
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
    return Study(depth, width, large, [depth[0], depth[3]], [depth[3]], exact, 5, exact[:5], 0.05, exact[:5])


def tiny() -> Study:
    """The same on digits within a minute."""
    depth = [Shape(_digits(*[8] * hidden), Plan(2, 60)) for hidden in (1, 2)]
    width = [depth[0], *(Shape(_digits(units), Plan(2, 60)) for units in (16,))]
    exact = [shape.experiment for shape in depth]
    return Study(
        depth, width, [Shape(_digits(16, 12), Plan(2, 60))], depth[1:2], depth[1:2], exact, 2, exact[:2], 0.2, exact[:2]
    )


def run(store: Store, folder: Path, *, small: bool = False, progress: bool = False) -> str:
    """Fill what the store lacks, draw depth.png, width.png and layers.png into `folder`; the tables in Markdown.

    Cost: about an hour of one core; `small`: half a minute. The smallest networks come first, the two largest in the
    middle; what is interrupted continues.
    """
    return write(store, tiny() if small else full(), folder, progress=progress)


def write(store: Store, study: Study, folder: Path, *, progress: bool = False) -> str:
    """Compute what is missing, draw, and tabulate."""
    findings = compute(store, study, progress=progress)
    shape_figures.draw(findings, folder)
    return shape_tables.page(findings)


def compute(store: Store, study: Study, *, progress: bool = False) -> Findings:
    """All cells of a study, found or computed."""
    counted = {}
    for shape in _ordered(study):
        counted[shape.experiment] = _counted(store, shape, progress)
    parts = []
    for shape in study.apart:
        matrices = ["gauss-newton", *(["residual"] if shape in study.residuals else [])]
        parts.append(
            Taken(
                counted[shape.experiment],
                {m: certified(store, shape.experiment, shape.plan, m, progress=progress) for m in matrices},
                {
                    layer: certified(store, shape.experiment, shape.plan, layer, progress=progress)
                    for layer in layer_names(shape.experiment)
                },
            )
        )
    exact = [
        [
            _anatomy(store, replace(experiment, trial=trial), trial == 0 and experiment in study.whole, progress)
            for trial in range(study.trials)
        ]
        for experiment in study.exact
    ]
    leveled = [
        [_leveled(store, replace(experiment, trial=trial), study.loss, progress) for trial in range(study.trials)]
        for experiment in study.level
    ]
    return Findings(
        depth=[counted[shape.experiment] for shape in study.depth],
        width=[counted[shape.experiment] for shape in study.width],
        large=[counted[shape.experiment] for shape in study.large],
        apart=parts,
        exact=exact,
        whole=[found for trials in exact for found in trials if "layers" in found.result],
        loss=study.loss,
        level=[[found for found in trials if found.result["epochs"] is not None] for trials in leveled],
        names=list(thresholds(1.0)),
    )


def _ordered(study: Study) -> list[Shape]:
    """Smallest first, but the largest ones in the middle."""
    small = sorted({*study.depth, *study.width}, key=lambda shape: shape.experiment.size)
    half = len(small) // 2
    return [*small[:half], *study.large, *small[half:]]


def _counted(store: Store, shape: Shape, progress: bool) -> Counted:
    found = certified(store, shape.experiment, shape.plan, progress=progress)
    one = len(shape.experiment.sizes) == 3
    bound = residual(store, shape.experiment, found["scale"], progress=progress) if one else None
    exact = store.find("exact", asdict(shape.experiment))  # a cell of `measurements`, if somebody took the time
    counts = None if exact is None else exact["counts"]
    return Counted(shape.experiment, found, store.trained(shape.experiment), bound, counts)


def _anatomy(store: Store, experiment: Experiment, parts: bool, progress: bool) -> Anatomy:
    found = anatomy(store, experiment, parts=parts, progress=progress)
    return Anatomy(experiment, found, store.trained(experiment))


def _leveled(store: Store, experiment: Experiment, loss: float, progress: bool) -> Anatomy:
    found = level(store, experiment, loss, progress=progress)
    return Anatomy(experiment, found, found)
