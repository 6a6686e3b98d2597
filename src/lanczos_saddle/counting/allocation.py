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
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from torch import Tensor

from lanczos_saddle.certificates.beta_interval import count_at_least, count_at_most
from lanczos_saddle.certificates.intervals import pooled_bracket, share
from lanczos_saddle.certificates.quadrature import Bracket
from lanczos_saddle.krylov.lanczos import Lanczos, Tridiagonalization
from lanczos_saddle.machine.progress import stage
from lanczos_saddle.operators.operator import Operator

PILOT = 1 / 24
LEAST_PILOT, MOST_PILOT = 12, 128
"""A pilot of its own takes this share of the budget, and so many products at least and at most."""

SCOUT = 1 / 12
MOST_SCOUT = 160
"""Of the recurrence that finds the largest |eigenvalue| and goes on: it is two in one."""

EXPONENTS = (0.25, 3.0)
"""Where a measured p is trusted; outside, the pilot has seen an accident."""

PROBES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
"""Numbers of probes that are compared: the width is flat at its best."""

HEDGE = 0.7
"""A plan is judged at its depth and at this share of it, by the geometric mean: a spectrum may be less kind."""


PARTS = (0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75)
"""Of the steps of two runs, what the first one may get."""

SMOOTH = 0.75
"""How brackets of congruent runs shrink with depth, at least as slowly: a pilot of few steps does not tell."""


class Foresight(Protocol):
    """Brackets at -tau and tau at any depth, as a run had them or as they are foretold."""

    def brackets(self, steps: int) -> tuple[Bracket, Bracket]:
        """After so many steps."""


@dataclass(frozen=True)
class Pilot:
    """Brackets at -tau and tau after `steps` products from one probe, and how fast each still shrinks."""

    below: Bracket
    up_to: Bracket
    exponents: tuple[float, float]  # of the widths at -tau and tau
    steps: int
    size: int = 0  # N
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
    width: int  # foretold, of the negative and the positive interval together: the near-zero one's, in counts
    judged: float = 0.0  # what plans are compared by: sum of log(1 + width), at the depth and at `HEDGE` of it


def pilot_steps(budget: int, size: int) -> int:
    """Products for the pilot: a part of the budget, between 12 and 128, at most N."""
    return min(max(LEAST_PILOT, min(MOST_PILOT, int(PILOT * budget))), size)


def pilot(operator: Operator, probe: Tensor, threshold: float, steps: int) -> Pilot:
    """A run from one Gaussian probe (N, 1) of its own, without a basis; `steps` products."""
    with stage("pilot", steps):
        run = Lanczos(operator, probe, reorthogonalize=False, capacity=steps).extend(steps)
    half = run.truncated(max(1, steps // 2))
    ends = [pooled_bracket(run, t) for t in (-threshold, threshold)]
    earlier = [pooled_bracket(half, t) for t in (-threshold, threshold)]
    first, second = (_exponent(a, b, steps / half.steps) for a, b in zip(earlier, ends, strict=True))
    return Pilot(ends[0], ends[1], (first, second), steps, operator.shape[0], run, threshold)


def scout_steps(budget: int, size: int) -> int:
    """Steps in all of the recurrence that finds the largest |eigenvalue| and foretells widths."""
    return min(max(LEAST_PILOT, min(MOST_SCOUT, int(SCOUT * budget))), size)


@dataclass(frozen=True)
class Room:
    """What a division has to fit into."""

    products: int
    size: int  # the dimension in which probes are drawn
    most_steps: int  # what memory and noise allow
    least_probes: int = 1
    most: int | None = None  # a proved bound on the negative eigenvalues


def allocate(seen: Sequence[Foresight], room: Room, confidence: float) -> Allocation:
    """The (probes, steps) with the smallest foretold width, the geometric mean over all `seen`, one a threshold.

    Ties go to fewer probes. Raises ValueError for a budget below one step for each of `least_probes`.
    """
    budget, least_probes = room.products, room.least_probes
    if budget < least_probes:
        raise ValueError(
            f"the budget must reach one step for each of {least_probes} probes; got {budget}: raise it, or pass probes"
        )
    alpha, choices = share(confidence), []

    def foretold(probes: int, steps: int) -> list[int]:
        return [sum(foretold_widths(one, probes, steps, room, alpha)) for one in seen]

    for m in [m for m in PROBES if least_probes <= m <= budget] or [least_probes]:
        k = min(budget // m, room.most_steps, room.size)
        widths = foretold(m, k)
        judged = sum(math.log(1 + width) for width in (*widths, *foretold(m, max(1, int(HEDGE * k)))))
        choices.append((judged, Allocation(m, k, max(widths), judged)))
    return min(choices, key=lambda choice: (choice[0], choice[1].probes))[1]


def foretold_widths(one: Foresight, probes: int, steps: int, room: Room, alpha: float) -> tuple[int, int]:
    """(of the negative interval, of the positive one) from so many probes and steps; the near-zero one has their sum.

    `alpha`: `share` of the confidence.
    """
    low, high = one.brackets(steps)
    return _width(low, probes, room.size, alpha, room.most), _width(high, probes, room.size, alpha)


def divide(
    seen: Sequence[Pilot], budget: int, most_steps: int, confidence: float, most: int | None
) -> tuple[int, tuple[int, int], int]:
    """(probes, (steps of the first run, of the second), the width foretold): two runs with as many probes each.

    Each counts one side at its own zero: a first one the eigenvalues below -tau, a second one those above tau. `most`
    bounds the first count. Cost: no product.
    """
    alpha, best = share(confidence), (math.inf, 1, (1, 1), 0)
    size = seen[0].size

    def width(side: int, probes: int, steps: int) -> int:
        first, second = seen[side].exponents
        slow = replace(seen[side], exponents=(min(first, SMOOTH), min(second, SMOOTH)))
        return _width(slow.brackets(steps)[0], probes, size, alpha, most if side == 0 else None)

    for m in [m for m in PROBES if 2 * m <= budget] or [1]:
        for part in PARTS:
            whole = budget // m
            first = min(max(1, int(part * whole)), most_steps, size, whole - 1)
            depths = (first, min(max(1, whole - first), most_steps, size))
            widths = [width(side, m, k) for side, k in enumerate(depths)]
            if sum(widths) < best[0]:
                best = (sum(widths), m, depths, sum(widths))
    return best[1], best[2], best[3]


def _width(mass: Bracket, probes: int, size: int, alpha: float, most: int | None = None) -> int:
    """Foretold; `most` bounds the width, too: where below it the count will lie is not foretold well enough."""
    width = count_at_most(mass.upper, probes, size, alpha) - count_at_least(mass.lower, probes, size, alpha)
    return max(0, width if most is None else min(width, most))


def _shrunk(bracket: Bracket, factor: float) -> Bracket:
    middle, half = (bracket.lower + bracket.upper) / 2, (bracket.upper - bracket.lower) / 2 * factor
    return Bracket(max(0.0, middle - half), min(1.0, middle + half))


def _exponent(earlier: Bracket, later: Bracket, ratio: float) -> float:
    """P with later width = earlier width / ratio^p."""
    before, after = (b.upper - b.lower for b in (earlier, later))
    if after <= 0 or before <= 0 or ratio <= 1:
        return EXPONENTS[1]
    return min(max(math.log(before / after) / math.log(ratio), EXPONENTS[0]), EXPONENTS[1])
