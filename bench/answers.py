"""How an answer is read off what a library returns: densities, Ritz values with weights, extreme eigenvalues.

These are the readings a user of the library has: it returns no counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.integrate import cumulative_trapezoid
from torch import Tensor

from lanczos_saddle.counting.comparison import Answer, Row
from lanczos_saddle.studies.known_problems import Known

Array = NDArray[np.float64]
Answers = tuple[Answer, Answer, Answer]  # negative, near zero, positive


@dataclass(frozen=True)
class Task:
    """What every method is asked for, and what it may spend."""

    loaded: Known
    taus: tuple[float, ...]  # absolute; one, unless one run of the method serves all
    probes: int
    steps: int  # products per probe
    wanted: int  # eigenvalues from each end, for methods that compute the extreme ones
    seed: int
    confidence: float


@dataclass(frozen=True)
class Found:
    answers: list[Answers]  # one per tau
    products: int | None  # columns v of H v, all together


class Counted:
    """An operator that counts the columns it multiplies."""

    def __init__(self, base) -> None:
        self.base, self.columns = base, 0
        self.shape, self.dtype, self.device = base.shape, base.dtype, base.device

    def __matmul__(self, v: Tensor, /) -> Tensor:
        self.columns += 1 if v.ndim == 1 else v.shape[1]
        return self.base @ v


def from_weights(runs: Sequence[tuple[Array, Array]], size: int, tau: float) -> Answers:
    """N times the mean over runs of the weight of the Ritz values below -tau, within tau, above tau."""
    masses = [(w[t < -tau].sum(), w[abs(t) <= tau].sum(), w[t > tau].sum()) for t, w in runs]
    negative, near_zero, positive = (Answer(size * float(np.mean(column))) for column in zip(*masses, strict=True))
    return negative, near_zero, positive


def from_density(grid: Array, density: Array, size: int, tau: float) -> Answers:
    """N times the integral of a smoothed density, by the trapezoidal rule on the library's own grid."""
    below = cumulative_trapezoid(density, grid, initial=0.0)
    low, high = np.interp([-tau, tau], grid, below)
    return Answer(size * float(low)), Answer(size * float(high - low)), Answer(size * float(below[-1] - high))


def from_extremes(lowest: Array, highest: Array, wanted: int, size: int, tau: float) -> Answers:
    """Lower bounds: computed eigenvalues beyond -+tau. All are found where some of the `wanted` are not beyond."""
    negative, positive = int((lowest < -tau).sum()), int((highest > tau).sum())
    complete = negative < len(lowest) == wanted and positive < len(highest) == wanted
    most = size - negative - positive
    return (
        Answer(negative, lower=negative),
        Answer(most if complete else None, upper=most),
        Answer(positive, lower=positive),
    )


def row_from(fields: dict[str, Any]) -> Row:
    """A row from its form in the records."""
    answers = {name: Answer(**fields[name]) for name in ("negative", "near_zero", "positive")}
    return Row(**{**fields, **answers})


def as_array(tensor: Tensor) -> Array:
    return tensor.detach().to("cpu", torch.float64).numpy()
