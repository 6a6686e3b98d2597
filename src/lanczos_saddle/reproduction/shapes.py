"""Degeneracy against depth and width: which networks are counted, at what cost, in what order."""

from __future__ import annotations

from dataclasses import dataclass

from lanczos_saddle.reproduction.experiments import Experiment
from lanczos_saddle.reproduction.shape_cells import Plan


@dataclass(frozen=True)
class Shape:
    """One trained network and what its certified count costs."""

    experiment: Experiment
    plan: Plan

    @property
    def label(self) -> str:
        """784-25-25-10, or 784-25 x 3-10 for three layers of 25 and more."""
        first, *hidden, last = self.experiment.sizes
        middle = f"{hidden[0]} x {len(hidden)}" if len(hidden) > 2 else "-".join(map(str, hidden))
        return f"{first}-{middle}-{last}"


def mnist(*hidden: int, probes: int, steps: int, dtype: str = "float64") -> Shape:
    """A network on MNIST, trained as the paper says."""
    return Shape(Experiment("mnist", (784, *hidden, 10)), Plan(probes, steps, dtype))


DEPTH = [mnist(*[25] * depth, probes=2, steps=200) for depth in (1, 2, 3, 4, 6, 9)]
"""2 to 10 layers of weights."""

WIDTH = [
    DEPTH[0],
    mnist(50, probes=2, steps=200),
    mnist(100, probes=2, steps=150),
    mnist(250, probes=1, steps=150),
    mnist(500, probes=1, steps=100, dtype="float32"),
    mnist(1000, probes=1, steps=80, dtype="float32"),
]

LARGE = [mnist(500, 500, probes=1, steps=100, dtype="float32"), mnist(1000, 250, probes=1, steps=80, dtype="float32")]
"""The size that the paper calls intractable, and a million."""
