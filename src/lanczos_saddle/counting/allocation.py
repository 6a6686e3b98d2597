"""A budget of products, divided between probes and depth before any probe that counts is drawn.

    width(m, k)  =  r_hi(u_k, m) - r_lo(l_k, m),      m k <= budget

Probes narrow what sampling leaves (relative deviation sqrt(2 (1 - r/N) / (m r))), depth what truncation leaves (the
bracket [l_k, u_k] on the mass). The Beta law gives the one exactly; the other is foretold by a pilot run from a probe
of its own: its bracket after k <= k_0 steps as it was, beyond them that at k_0, shrunk about its middle by (k_0 / k)^p,
p measured between k_0 / 2 and k_0.
For a smooth density p = 1: the Christoffel number at t is pi f(t) sqrt((t - a)(b - t)) / k to leading order.

The model may be wrong and costs width only: m and k are fixed by the pilot, whose probe is independent of those that
count, so their law stays the Beta law.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from lanczos_saddle.certificates.beta_interval import count_at_least, count_at_most
from lanczos_saddle.certificates.intervals import pooled_bracket, share
from lanczos_saddle.certificates.quadrature import Bracket
from lanczos_saddle.krylov.lanczos import Lanczos, Tridiagonalization
from lanczos_saddle.operators.operator import Operator

PILOT = 1 / 24
LEAST_PILOT, MOST_PILOT = 12, 128
"""The pilot takes this share of the budget, and so many products at least and at most."""

EXPONENTS = (0.25, 3.0)
"""Where a measured p is trusted; outside, the pilot has seen an accident."""

PROBES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
"""Numbers of probes that are compared: the width is flat at its best."""


@dataclass(frozen=True)
class Pilot:
    """Brackets at -tau and tau after `steps` products from one probe, and how fast each still shrinks."""

    below: Bracket
    up_to: Bracket
    exponents: tuple[float, float]  # of the widths at -tau and tau
    steps: int
    run: Tridiagonalization | None = None
    threshold: float = 0.0

    def brackets(self, steps: int) -> tuple[Bracket, Bracket]:
        """What the run had at a depth that it reached; what the model foretells beyond."""
        if self.run is not None and steps <= self.steps:
            found = self.run.truncated(steps)
            return pooled_bracket(found, -self.threshold), pooled_bracket(found, self.threshold)
        pairs = zip((self.below, self.up_to), self.exponents, strict=True)
        first, second = (_shrunk(bracket, (self.steps / steps) ** p) for bracket, p in pairs)
        return first, second


@dataclass(frozen=True)
class Allocation:
    """How a budget is divided."""

    probes: int
    steps: int
    width: int  # foretold, of the negative and the positive interval together, in counts


def pilot_steps(budget: int, size: int) -> int:
    """Products for the pilot: a part of the budget, between 12 and 128, at most N."""
    return min(max(LEAST_PILOT, min(MOST_PILOT, int(PILOT * budget))), size)


def pilot(operator: Operator, probe: Tensor, threshold: float, steps: int) -> Pilot:
    """A run from one Gaussian probe (N, 1) of its own, without a basis; `steps` products."""
    run = Lanczos(operator, probe, reorthogonalize=False, capacity=steps).extend(steps)
    half = run.truncated(max(1, steps // 2))
    ends = [pooled_bracket(run, t) for t in (-threshold, threshold)]
    earlier = [pooled_bracket(half, t) for t in (-threshold, threshold)]
    first, second = (_exponent(a, b, steps / half.steps) for a, b in zip(earlier, ends, strict=True))
    return Pilot(ends[0], ends[1], (first, second), steps, run, threshold)


def allocate(
    seen: Pilot, budget: int, size: int, confidence: float, *, most_steps: int, least_probes: int
) -> Allocation:
    """The (probes, steps) within the budget with the smallest foretold width.

    `size` is the dimension in which probes are drawn; `most_steps` what memory and noise allow. Ties go to fewer
    probes. Raises ValueError for a budget below one step for each of `least_probes`.
    """
    if budget < least_probes:
        raise ValueError(
            f"the budget must reach one step for each of {least_probes} probes; got {budget}: raise it, or pass probes"
        )
    choices = [m for m in PROBES if least_probes <= m <= budget] or [least_probes]
    plans = [(m, min(budget // m, most_steps, size)) for m in choices]
    alpha = share(confidence)
    foretold = [
        Allocation(m, k, sum(_width(bracket, m, size, alpha) for bracket in seen.brackets(k))) for m, k in plans
    ]
    return min(foretold, key=lambda plan: (plan.width, plan.probes))


def _width(mass: Bracket, probes: int, size: int, alpha: float) -> int:
    return count_at_most(mass.upper, probes, size, alpha) - count_at_least(mass.lower, probes, size, alpha)


def _shrunk(bracket: Bracket, factor: float) -> Bracket:
    middle, half = (bracket.lower + bracket.upper) / 2, (bracket.upper - bracket.lower) / 2 * factor
    return Bracket(max(0.0, middle - half), min(1.0, middle + half))


def _exponent(earlier: Bracket, later: Bracket, ratio: float) -> float:
    """P with later width = earlier width / ratio^p."""
    before, after = (b.upper - b.lower for b in (earlier, later))
    if after <= 0 or before <= 0 or ratio <= 1:
        return EXPONENTS[1]
    return min(max(math.log(before / after) / math.log(ratio), EXPONENTS[0]), EXPONENTS[1])
