"""What the cells of the study of shapes say, in the terms in which tables and figures ask."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lanczos_saddle.studies.paper.experiments import Experiment

LEARNED = 0.9
"""Training accuracy; the networks of the study are above 0.93 or at chance."""

CLASSES = ("negative", "near zero", "positive")


def label(sizes: tuple[int, ...]) -> str:
    """784-25-25-10; 784-25 x 3-10 from three equal hidden layers on."""
    first, *hidden, last = sizes
    equal = len(hidden) > 2 and len(set(hidden)) == 1
    return "-".join(map(str, (first, *([f"{hidden[0]} x {len(hidden)}"] if equal else hidden), last)))


@dataclass(frozen=True)
class Counted:
    """A network whose three counts are intervals."""

    experiment: Experiment
    result: dict[str, Any]  # of `cells.certified`
    training: dict[str, Any]
    residual: dict[str, Any] | None  # R exactly, for one hidden layer
    exact: dict[str, list[int]] | None = None  # where somebody took the time

    def interval(self, name: str, which: str = "near zero") -> tuple[float, float, float] | None:
        """(lower, estimate within, upper) of one count; None where the noise does not resolve the threshold.

        A point where the exact count is known.
        """
        if self.exact is not None and name in self.exact:
            count = float(self.exact[name][CLASSES.index(which)])
            return count, count, count
        return self.certified(name, which)

    def certified(self, name: str, which: str) -> tuple[float, float, float] | None:
        """The interval without the exact count; with negative(H) <= negative(R) where R is known."""
        found = interval(self.result, name, which)
        if found is None or self.residual is None or which == "positive":
            return found
        lower, estimate, upper = found
        negative = self.residual["counts"][name][0]
        if which == "negative":
            return lower, min(estimate, negative), min(upper, negative)
        least = max(lower, self.result["size"] - negative - self.result["intervals"][name][2][2])
        return least, max(estimate, least), upper

    def fraction(self, name: str, *, living: bool = False) -> tuple[float, float, float] | None:
        """Near zero, in percent of all parameters, or of those whose row of H is not zero."""
        found, dead = self.interval(name), self.result["dead"] if living else 0
        if found is None:
            return None
        low, middle, high = (100 * (count - dead) / (self.result["size"] - dead) for count in found)
        return low, middle, high


def interval(result: dict[str, Any], name: str, which: str = "near zero") -> tuple[float, float, float] | None:
    """One count of a certified cell, its estimate moved into the interval."""
    found = result["intervals"][name]
    if found is None:
        return None
    lower, estimate, upper = found[CLASSES.index(which)]
    return lower, min(max(estimate, lower), upper), upper


@dataclass(frozen=True)
class Taken:
    """A counted network, part by part and layer by layer."""

    whole: Counted
    parts: dict[str, dict[str, Any]]  # "gauss-newton", "residual"
    layers: dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Anatomy:
    """A network counted exactly."""

    experiment: Experiment
    result: dict[str, Any]  # of `cells.anatomy`
    training: dict[str, Any]

    @property
    def learned(self) -> bool:
        """Whether training led anywhere: a layer that dies leaves chance."""
        return float(self.training["train_accuracy"]) >= LEARNED

    def fraction(self, name: str) -> float:
        """Near zero, in percent of all parameters."""
        return 100 * float(self.result["hessian"][name][1]) / float(self.result["size"])


@dataclass(frozen=True)
class Findings:
    """All of them."""

    depth: list[Counted]
    width: list[Counted]
    large: list[Counted]
    apart: list[Taken]
    exact: list[list[Anatomy]]  # trials of one network
    widths: list[list[Anatomy]]  # the same for one hidden layer
    whole: list[Anatomy]  # those with parts
    loss: float  # the training loss at which
    level: list[list[Anatomy]]  # networks were counted exactly, too; trials that reached it
    names: list[str]  # of the thresholds


def verdict(before: tuple[float, float, float] | None, after: tuple[float, float, float] | None) -> str:
    """What two intervals prove of the step from one to the other."""
    if before is None or after is None:
        return ""
    if after[0] > before[2]:
        return "rises"
    return "falls" if after[2] < before[0] else "open"
