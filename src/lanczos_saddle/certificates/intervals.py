"""Joint intervals for three counts, from certified spectral masses and deterministic bounds.

Wanted: negative = #{lambda < -tau}, near_zero = #{|lambda| <= tau}, positive = #{lambda > tau}, all three right with
one stated confidence. Two counts carry the chance, the negative and the positive ones, each with a bound on either
side at alpha / 4; the three sum to N, which gives the third for free. Bounds that always hold (Cauchy, structure,
known zeros) are intersected afterwards and cost nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real

import numpy as np

from lanczos_saddle.certificates.beta_interval import count_at_least, count_at_most
from lanczos_saddle.certificates.padding import pad_lower, pad_upper, shifts
from lanczos_saddle.certificates.quadrature import Bracket, gauss_bracket, mass_bracket
from lanczos_saddle.krylov.gauss import Rule
from lanczos_saddle.krylov.lanczos import Tridiagonalization
from lanczos_saddle.operators.hermitian import half


@dataclass(frozen=True)
class Interval:
    """lower <= count <= upper with the stated confidence; `estimate` is the best single number between them."""

    lower: int
    estimate: float
    upper: int

    @property
    def width(self) -> int:
        """Upper - lower; 0 for an exact count."""
        return self.upper - self.lower

    def __contains__(self, count: float) -> bool:
        return self.lower <= count <= self.upper

    def __str__(self) -> str:
        return str(self.lower) if self.lower == self.upper else f"[{self.lower}, {self.upper}] ~ {self.estimate:.0f}"


@dataclass(frozen=True)
class Masses:
    """Brackets on the pooled spectral mass of (-inf, -tau) and of (-inf, tau], for one set of probes."""

    below: Bracket
    up_to: Bracket


@dataclass(frozen=True)
class Bounds:
    """What always holds for the counts of negative and positive eigenvalues."""

    negative_least: int = 0
    negative_most: int | None = None
    positive_least: int = 0
    positive_most: int | None = None


@dataclass(frozen=True)
class Outside:
    """Eigenvalues outside the space in which probes were drawn: how many, and (at least, at most) how many count.

    `zeros` are known to be zero, and are not among the `size` others.
    """

    size: int = 0
    negative: tuple[int, int] = (0, 0)
    positive: tuple[int, int] = (0, 0)
    zeros: int = 0


def check_positive(threshold: float | None) -> None:
    """Refuse a threshold that is not a positive number; raises ValueError."""
    if not (isinstance(threshold, Real) and not isinstance(threshold, bool) and 0 < threshold < float("inf")):
        raise ValueError(
            f"a threshold must be positive and finite; got {threshold}: zero needs a width, say 1e-6 of the "
            "largest |eigenvalue|"
        )


def check_confidence(confidence: float) -> None:
    """Refuse a confidence that is not a probability between 0 and 1; raises ValueError."""
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be between 0 and 1, say 0.95; got {confidence}")


def share(confidence: float) -> float:
    """What each of the four one-sided statements may fail with: alpha / 4."""
    return (1 - confidence) / 4


def cauchy_bounds(low: tuple[int, int], high: tuple[int, int], size: int, most: int | None) -> Bounds:
    """Bounds from (at least below, at least above) -tau and tau, and a structural bound on the negatives."""
    negative_most = size - low[1] if most is None else min(most, size - low[1])
    return Bounds(low[0], negative_most, high[1], size - high[0])


def certified_masses(run: Tridiagonalization, threshold: float, delta: float) -> Masses:
    """Brackets on the masses at -tau and tau that hold for the exact operator; `delta` bounds the run's noise."""
    return Masses(certified_bracket(run, -threshold, delta), certified_bracket(run, threshold, delta))


def pooled_bracket(run: Tridiagonalization, t: float) -> Bracket:
    """The bracket on sum_i g_i'P g_i / sum_i g_i'g_i: probes are pooled with weights |g_i|^2."""
    weights = run.norms**2 / (run.norms**2).sum()
    brackets = [mass_bracket(*run.coefficients(i), t) for i in range(run.probes)]
    return Bracket(
        float(np.dot(weights, [b.lower for b in brackets])), float(np.dot(weights, [b.upper for b in brackets]))
    )


def sketched_bracket(run: Tridiagonalization, rules: Sequence[Rule], t: float, delta: float) -> Bracket:
    """The padded bracket from the k-point rules alone, for any number of t at the cost of one: wider, up to twice.

    With nodes theta_i and weights w_i (Chebyshev, Markov, Stieltjes): sum_{j < i} w_j <= F(theta_i-) and
    F(theta_i) <= sum_{j <= i} w_j, so a t between two nodes has at least what lies below the left one, and at most
    what lies up to the right one.
    """
    shares = run.norms**2 / (run.norms**2).sum()
    best = Bracket(0.0, 1.0)
    for eta, sine in shifts(delta, abs(t)):
        found = [(gauss_bracket(rule, t - eta).lower, gauss_bracket(rule, t + eta).upper) for rule in rules]
        lower, upper = shares @ np.array(found)
        best = best.intersect(Bracket(pad_lower(float(lower), sine), pad_upper(float(upper), sine)))
    return best


def joint_intervals(
    masses: Masses, bounds: Bounds, *, probes: int, size: int, confidence: float, outside: Outside | None = None
) -> tuple[Interval, Interval, Interval]:
    """(negative, near_zero, positive) with joint confidence.

    `size` is the dimension in which the probes were drawn, `outside` what is known outside of it. Raises ValueError
    where certain bounds contradict each other.
    """
    if bounds.negative_most is not None and bounds.negative_least > bounds.negative_most:
        raise ValueError(
            f"a bound on the negative eigenvalues must be one that can be proved; got {bounds.negative_most}, but "
            f"{bounds.negative_least} are certain: correct it where it was passed (all eigenvalues below 0 count); "
            "otherwise the products are not those of one symmetric matrix"
        )
    outside = outside or Outside()
    alpha = share(confidence)
    below, above = masses.below, Bracket(1 - masses.up_to.upper, 1 - masses.up_to.lower)
    whole = size + outside.size
    negative = _counted(below, probes, size, alpha, outside.negative)
    positive = _counted(above, probes, size, alpha, outside.positive)
    return combine(
        _met(negative, bounds.negative_least, whole if bounds.negative_most is None else bounds.negative_most),
        _met(positive, bounds.positive_least, whole if bounds.positive_most is None else bounds.positive_most),
        whole + outside.zeros,
        outside.zeros,
    )


def inside_interval(masses: Masses, *, probes: int, size: int, alpha: float, outside: Outside) -> Interval:
    """#{|lambda| <= tau} from its own mass, each end wrong with probability at most alpha.

    F(tau) - F(-tau-) is the mass of a projector, too, so the law of `beta_interval` holds for its rank: of few
    eigenvalues it is far narrower than what two counts of many leave between them.
    """
    low, high = masses.up_to.lower - masses.below.upper, masses.up_to.upper - masses.below.lower
    most, least = (
        outside.size - below - above for below, above in zip(outside.negative, outside.positive, strict=True)
    )
    least = max(0, least) if low > 0 else 0  # else corrections of the two ends may have passed each other
    return _counted(
        Bracket(max(0.0, low), min(1.0, high)), probes, size, alpha, (outside.zeros + least, outside.zeros + most)
    )


def with_inside(
    intervals: tuple[Interval, Interval, Interval], inside: Interval, size: int
) -> tuple[Interval, Interval, Interval]:
    """The three, of which the middle one is known in a second way; they sum to `size`."""
    below, middle, above = intervals
    middle = _met(inside, middle.lower, middle.upper)
    below = _within(below, size - middle.upper - above.upper, size - middle.lower - above.lower)
    above = _within(above, size - middle.upper - below.upper, size - middle.lower - below.lower)
    return below, middle, above


def halved_three(intervals: tuple[Interval, Interval, Interval]) -> tuple[Interval, Interval, Interval]:
    """Each count n from that of 2n."""
    below, middle, above = (Interval(*half_ends(x)) for x in intervals)
    return below, middle, above


def count_bounds(bracket: Bracket, *, probes: int, size: int, confidence: float) -> tuple[int, int]:
    """The two one-sided bounds on the count of one side, at alpha / 4 each."""
    alpha = share(confidence)
    return count_at_least(bracket.lower, probes, size, alpha), count_at_most(bracket.upper, probes, size, alpha)


def sampling_width(bracket: Bracket, *, probes: int, size: int, confidence: float) -> int:
    """The width that probe noise alone would leave, were the bracket closed at its middle."""
    middle, alpha = (bracket.lower + bracket.upper) / 2, share(confidence)
    return count_at_most(middle, probes, size, alpha) - count_at_least(middle, probes, size, alpha)


def combine(negative: Interval, positive: Interval, size: int, zeros: int) -> tuple[Interval, Interval, Interval]:
    """The three counts sum to `size`, and at least `zeros` of them are near zero."""
    room = size - zeros
    negative = _within(negative, 0, room - positive.lower)
    positive = _within(positive, 0, room - negative.lower)
    near_zero = Interval(
        max(zeros, size - negative.upper - positive.upper),
        size - negative.estimate - positive.estimate,
        size - negative.lower - positive.lower,
    )
    return negative, _within(near_zero, near_zero.lower, near_zero.upper), positive


def halved(
    intervals: tuple[Interval, Interval, Interval], size: int, zeros: int
) -> tuple[Interval, Interval, Interval]:
    """The three counts of a complex operator from those of its real form (2N, 2N), where `size` and `zeros` are."""
    negative, positive = (Interval(*half_ends(x)) for x in (intervals[0], intervals[2]))
    return combine(negative, positive, size // 2, zeros // 2)


def half_ends(interval: Interval) -> tuple[int, float, int]:
    """(lower, estimate, upper) of n from those of 2n."""
    lower, upper = half(interval.lower, interval.upper)
    return lower, min(max(interval.estimate / 2, lower), upper), upper


def settle_negative(
    least: int, most: int, negative: Interval, positive: Interval, size: int, zeros: int
) -> tuple[Interval, Interval, Interval]:
    """The three intervals after the negative one was met with bounds that always hold."""
    return combine(_met(negative, least, most), _within(positive, 0, size - zeros - least), size, zeros)


def _counted(mass: Bracket, probes: int, size: int, alpha: float, outside: tuple[int, int]) -> Interval:
    """The Beta interval of one mass, and what lies outside of the probes' space: (at least, at most)."""
    return Interval(
        outside[0] + count_at_least(mass.lower, probes, size, alpha),
        sum(outside) / 2 + size * (mass.lower + mass.upper) / 2,
        outside[1] + count_at_most(mass.upper, probes, size, alpha),
    )


def _met(interval: Interval, least: int, most: int) -> Interval:
    """The interval met with bounds that always hold; where chance put it outside of them, the bounds stand alone."""
    lower, upper = max(least, interval.lower), min(most, interval.upper)
    if lower > upper:
        return Interval(least, float(min(max(interval.estimate, least), most)), most)
    return _within(interval, lower, upper)


def _within(interval: Interval, least: int, most: int) -> Interval:
    lower = min(max(interval.lower, least), most)
    upper = max(min(interval.upper, most), lower)
    return Interval(lower, float(min(max(interval.estimate, lower), upper)), upper)


def certified_bracket(run: Tridiagonalization, t: float, delta: float, *, one: bool = False) -> Bracket:
    """The pooled bracket at t, padded for noise; the best of several shifts, all of which hold, or of `one`."""
    return _padded_bracket(run, t, shifts(delta, abs(t), one=one))


def bracket_at_zero(run: Tridiagonalization, delta: float) -> Bracket:
    """As `certified_bracket` at t = 0, for a matrix whose spectrum stands clear of 0: shifts are measured by |T|."""
    room = float(np.median(np.abs(run.diagonal))) + float(np.median(run.offdiagonal))
    return _padded_bracket(run, 0.0, shifts(delta, room))


def _padded_bracket(run: Tridiagonalization, t: float, pairs: list[tuple[float, float]]) -> Bracket:
    best = Bracket(0.0, 1.0)
    for eta, sine in pairs:
        lower = pad_lower(pooled_bracket(run, t - eta).lower, sine)
        upper = pad_upper(pooled_bracket(run, t + eta).upper, sine)
        best = best.intersect(Bracket(lower, upper))
    return best
