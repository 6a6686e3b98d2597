"""How fast the Hessian changes: a lower estimate of its Lipschitz constant rho, |H(x) - H(y)|_2 <= rho |x - y|.

For unit vectors u, v and any distance s, with products that are off by at most e,

    ( |H(theta + s u) v - H(theta) v| - 2 e ) / s  <=  rho,

so measured ratios bound rho from below and never from above: no finite number of products can prove a rho. For
piecewise-linear activations no rho exists: H jumps where a sample crosses a kink, and a ratio at distance s averages
over the jumps on the way; it may grow without bound as s falls.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from lanczos_saddle.machine.progress import during, made
from lanczos_saddle.operators.operator import Operator
from lanczos_saddle.operators.resolution import OperatorCheck, recurrence_noise

FRACTIONS = (1e-3, 1e-2, 1e-1)
"""Distances, as fractions of |theta|; absolute where theta is zero."""

ROUNDING = 1e-11
"""Of a ratio, relative to it: the rounding of |v|, of the distance, and of products at theta + s u, where H may be
larger than at theta by the difference itself; with products in float64 about 1e-13."""

POWER_STEPS = 1
"""Further products with the difference itself, which turn the vectors towards the ones that it stretches most."""


class Movable(Operator, Protocol):
    """A matrix at parameters theta, which can be had at others."""

    @property
    def problem(self) -> Any:
        """What has theta (N,)."""

    def at(self, theta: Tensor) -> Operator:
        """The matrix at other parameters."""


@dataclass(frozen=True)
class Variation:
    """Differences of Hessians along directions; every Lipschitz constant of the Hessian is at least `at_least`."""

    at_least: float  # the largest ratio, less what rounding can have added
    distances: tuple[float, ...]  # s, in units of parameters
    ratios: tuple[float, ...]  # the largest at each distance, as computed
    products: int


@during("differences of Hessians", lambda _, directions, *__: 4 * len(FRACTIONS) * directions.shape[1] ** 2)
def hessian_variation(hessian: Movable, directions: Tensor, check: OperatorCheck) -> Variation:
    """The largest |(H(theta + s u) - H(theta)) v| / s over the columns u of `directions` (N, k), unit vectors, and s.

    v starts from the same k columns and takes one power step with the difference. Products that are not finite say
    nothing. Cost: 4 k products for each of k directions and 3 distances.
    """
    theta, count = hessian.problem.theta, directions.shape[1]
    size = float(theta.norm()) or 1.0
    distances = tuple(fraction * size for fraction in FRACTIONS)
    error = 2 * recurrence_noise(check, 1)
    ratios, least, products = [], 0.0, 0
    start = directions.to(hessian.dtype)
    for distance in distances:
        largest = 0.0
        for direction in start.unbind(1):
            there = theta + distance * direction
            moved, way = hessian.at(there), float(torch.linalg.vector_norm(there - theta))
            vectors = start
            for _ in range(1 + POWER_STEPS):
                images = moved @ vectors - hessian @ vectors
                norms = torch.linalg.vector_norm(images, dim=0)
                products += 2 * count
                made(2 * count)
                found = float(torch.where(norms.isfinite(), norms, 0.0).max())
                if way > 0:
                    largest = max(largest, found / way)
                    least = max(least, (found * (1 - ROUNDING) - error) / way)
                vectors = torch.where((norms > 0) & norms.isfinite(), images / norms, start)
        ratios.append(largest)
    return Variation(least, distances, tuple(ratios), products)
