"""From a spectral mass to a count: an exact finite-sample interval.

g_1..g_m independent standard Gaussian in R^N, P an orthogonal projector of rank r. Then, exactly,

    X = sum_i g_i'P g_i / sum_i g_i'g_i  ~  Beta(m r / 2, m (N - r) / 2)

(a ratio of independent chi-squares; X = 0 for r = 0 and X = 1 for r = N). The law increases stochastically with r,
so a bracket L <= X <= U that always holds gives one-sided bounds on r, each wrong with probability at most alpha:

    r >= min { r : P_r(X >= L) >= alpha },      r <= max { r : P_r(X <= U) >= alpha }

Numerators and denominators are pooled separately: the mean of the m normalized forms does not follow this law.
Nor do Rademacher probes, nor a number of probes chosen after looking: tests/counting/test_coverage.py has both.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from scipy.special import betainc, betaincc, ndtri

OUTWARD = 1e-6
"""Relative slack in a probability: bounds are rounded outward by far more than betainc's error (under 1e-9)."""


FAR = 1e6
"""Deviations of one probe beyond which the number of probes is more than anyone draws."""


def count_at_least(mass: float, probes: int, size: int, alpha: float) -> int:
    """The smallest r with P_r(X >= mass) >= alpha: r is at least this, with confidence 1 - alpha."""
    if mass <= 0.0:
        return 0
    return _first(lambda r: _above(mass, r, probes, size) >= alpha * (1 - OUTWARD), size)


def count_at_most(mass: float, probes: int, size: int, alpha: float) -> int:
    """The largest r with P_r(X <= mass) >= alpha: r is at most this, with confidence 1 - alpha."""
    if mass >= 1.0:
        return size
    return _first(lambda r: _below(mass, r, probes, size) < alpha * (1 - OUTWARD), size) - 1


def probes_for(precision: float, size: int, alpha: float) -> int:
    """Probes with which sampling alone leaves every half-width under precision * N.

    The worst case is r = N/2, where the standard deviation of r is sqrt(N / (2 m)): m = z^2 / (2 N precision^2).
    """
    deviations = -float(ndtri(alpha)) / (precision * math.sqrt(2 * size))  # of one probe; its square may overflow
    return max(1, math.ceil(min(deviations, FAR) ** 2))


def _above(mass: float, r: int, probes: int, size: int) -> float:
    """P_r(X >= mass) for 0 < mass; X is a point mass at 0 for r = 0 and at 1 for r = N."""
    if r == 0:
        return 0.0
    return 1.0 if r == size else float(betaincc(probes * r / 2, probes * (size - r) / 2, mass))


def _below(mass: float, r: int, probes: int, size: int) -> float:
    """P_r(X <= mass) for mass < 1."""
    if r == 0:
        return 1.0
    return 0.0 if r == size else float(betainc(probes * r / 2, probes * (size - r) / 2, mass))


def _first(holds: Callable[[int], bool], size: int) -> int:
    """The smallest r in 0..N with holds(r), for a predicate that stays true once true and is true at N."""
    low, high = 0, size
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle + 1, high)
    return low
