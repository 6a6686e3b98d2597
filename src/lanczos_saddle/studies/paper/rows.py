"""The rows of the paper's tables: which networks each of them trains.

1, 2, 3   the optimizers, on MNIST, on CIFAR-10 features, and their degeneracies
5         methods that escape saddles; perturbed gradient descent is listed by the paper, but was not run
7         initializations        8   depth        9   width
steps     at other steps: the paper states none but its code's, for momentum
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

from lanczos_saddle.defaults import OBJECTIVES
from lanczos_saddle.studies.paper.experiments import Experiment
from lanczos_saddle.training import datasets

HIDDEN = 25
MNIST = Experiment("mnist", (784, HIDDEN, 10))
CIFAR10 = Experiment("cifar10_features", (256, HIDDEN, 10))
PAPER = (MNIST.dataset, CIFAR10.dataset)
DIGITS = Experiment("digits", (64, HIDDEN, 10))
"""The smallest that has the same structure: for tests, and to see a table within a minute."""


WIDTHS = (50, 100, 250, 500)
ADAGRAD_STEPS = (0.001, 0.003, 0.01, 0.1)
MEAN_STEP = 0.01
"""The code's step of 0.1, if the squared error were averaged over the ten classes, too."""


@dataclass(frozen=True)
class Row:
    """One line of a table; its cells are those of `experiment` at every trial and at every one of its objectives."""

    label: str
    experiment: Experiment
    objectives: tuple[str, ...] = OBJECTIVES

    def variants(self, objective: str | None = None) -> list[Experiment]:
        """The experiment at each objective, or at one alone; a row that does not have that one has its own."""
        asked = [objective] if objective in self.objectives else self.objectives
        return [replace(self.experiment, objective=one) for one in asked]


def rows(table: str, dataset: str) -> list[Row]:
    """The rows of a table for one dataset, by its name; none where the paper has none.

    The digits, and the data of an .npz file, take the place of either dataset. Raises as `datasets.load` does.
    """
    return _TABLES[table](base(dataset)) if _asks(table, dataset) else []


@cache
def base(dataset: str) -> Experiment:
    """The network with 25 hidden units on a dataset: of the paper's, or as wide as the data ask."""
    if dataset in _BASES:
        return _BASES[dataset]
    data = datasets.load(dataset)
    return Experiment(dataset, (data.features, HIDDEN, data.classes))


def table_names() -> list[str]:
    """The tables that have rows; 4 and 6 are definitions."""
    return list(_TABLES)


def _asks(table: str, dataset: str) -> bool:
    only = {"table1": "mnist", "table2": "cifar10_features", "autoencoder": "mnist", "steps": "mnist"}
    return dataset not in PAPER or only.get(table, dataset) == dataset


def _optimizers(base: Experiment) -> list[Row]:
    methods = {"Momentum": "sgd", "Adam": "adam", "Adagrad": "adagrad"}
    return [Row(label, replace(base, method=method)) for label, method in methods.items()]


def _escaping(base: Experiment) -> list[Row]:
    methods = {"Noisy SGD": "noisy-sgd", "Perturbed GD": "perturbed-gd"}
    return [Row(label, replace(base, method=method)) for label, method in methods.items()]


def _initializations(base: Experiment) -> list[Row]:
    names = {
        "He, as printed": "he-printed",
        "He et al.": "he-normal",
        "He, uniform": "he",
        "Normal": "normal",
        "Uniform": "uniform",
        "Xavier": "xavier",
        "Orthogonal": "orthogonal",
    }
    return [Row(label, replace(base, initialization=name)) for label, name in names.items()]


def _depths(base: Experiment) -> list[Row]:
    first, width, last = base.sizes
    return [_sized(base, (first, *[width] * depth, last)) for depth in (2, 3)]


def _widths(base: Experiment) -> list[Row]:
    first, _, last = base.sizes
    widths = WIDTHS[:2] if base.dataset == DIGITS.dataset else WIDTHS
    return [_sized(base, (first, width, last)) for width in widths]


def _autoencoder(base: Experiment) -> list[Row]:
    sizes = (base.sizes[0], 10, base.sizes[0])
    row = _sized(replace(base, method="saddle-free-newton", objective="reconstruction"), sizes)
    return [replace(row, objectives=(row.experiment.objective,))]


def _steps(base: Experiment) -> list[Row]:
    momentum, _, adagrad = _optimizers(base)
    wanted = [(momentum, MEAN_STEP)] + [(row, MEAN_STEP) for row in _depths(base)]
    wanted += [(adagrad, step) for step in ADAGRAD_STEPS]
    return [_at_step(row, step) for row, step in wanted]


def _at_step(row: Row, step: float) -> Row:
    """The row under the squared error; the same experiment as in its own table where that has this step."""
    usual = replace(row.experiment, objective="squared-error")
    at_step = usual if usual.settings().step == step else replace(usual, step=step)
    return Row(row.label, at_step, (usual.objective,))


def _sized(base: Experiment, sizes: tuple[int, ...]) -> Row:
    return Row("-".join(map(str, sizes)), replace(base, sizes=sizes))


_BASES = {base.dataset: base for base in (MNIST, CIFAR10, DIGITS)}

_TABLES = {
    "table1": _optimizers,
    "table2": _optimizers,
    "table3": _optimizers,
    "table5": _escaping,
    "table7": _initializations,
    "table8": _depths,
    "table9": _widths,
    "autoencoder": _autoencoder,
    "steps": _steps,
}
