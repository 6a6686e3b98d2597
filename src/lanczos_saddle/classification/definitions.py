"""What the definitions of critical points ask for, and what bounds on a spectrum answer: holds, fails, undecided.

With lambda the eigenvalues of the Hessian H at x, g the gradient, and signs taken beyond a threshold tau:

    critical           |g| <= epsilon
    minimum, maximum   critical, every eigenvalue above tau; below -tau
    saddle             critical, an eigenvalue below -tau and one above tau
    minimum up to tau  critical, no eigenvalue below -tau
    degenerate         critical, eigenvalues within [-tau, tau]; their number is the degeneracy
    strict             a clause of the (alpha, gamma, epsilon, r)-strict-saddle property holds at x: |g| >= epsilon; or
                       lambda_min <= -gamma; or within r a local minimum, in whose 2r ball f is alpha-strongly convex
    stable             (kappa, epsilon, rho): |g| < epsilon, at most kappa < N nonzero eigenvalues, rho bounds the
                       Lipschitz constant of H
    good               (kappa, epsilon, rho, delta): stable, f(x) - min f <= delta

Eigenvalues within [-tau, tau] may have either sign, and where one is zero second derivatives cannot tell a minimum from
a saddle (x^3 - 3 x y^2). So a definition by signs that hangs on them is undecided, whatever was measured.

Sources: Sankar and Balasubramanian 2017, definitions 1 to 4; Ge, Huang, Jin and Yuan 2015.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

from lanczos_saddle.certificates.intervals import Interval

Answer = Literal["holds", "fails", "undecided"]


@dataclass(frozen=True)
class Verdict:
    """The answer, by which certificate, and with what confidence; verdicts on one point are right together."""

    answer: Answer
    because: str
    confidence: float = 1.0  # 1: no chance is involved (the rounding of products is measured, as everywhere)

    def __str__(self) -> str:
        chance = "" if self.confidence == 1 or self.answer == "undecided" else f" ({100 * self.confidence:g} %)"
        return f"{self.answer:<9}  {self.because}{chance}"


@dataclass(frozen=True)
class Constants:
    """The constants of the definitions; where they are None, tau is taken or the best that can be certified is said."""

    epsilon: float  # a gradient of at most this norm counts as zero
    kappa: int | None  # nonzero eigenvalues of a stable point
    alpha: float | None  # curvature around a minimum; tau if None
    gamma: float | None  # negative curvature of a strict saddle; tau if None
    radius: float | None  # r, a distance; delta in Ge et al.
    rho: float | None  # a Lipschitz constant of the Hessian, proved by the caller
    delta: float | None  # excess loss of a good point
    lowest: float  # a lower bound on the loss, proved by the caller

    def check(self, size: int) -> None:
        """Refuse constants that no definition knows, at N = `size`; raises ValueError."""
        for name in ("epsilon", "alpha", "gamma", "radius"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise ValueError(f"{name} must be positive and finite; got {value}")
        for name in ("rho", "delta"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < float("inf"):
                raise ValueError(f"{name} must be finite and at least 0; got {value}")
        if self.kappa is not None and not 0 <= self.kappa < size:
            raise ValueError(f"kappa must be between 0 and N - 1 = {size - 1}; got {self.kappa}")
        if not self.lowest < float("inf"):
            raise ValueError(f"lowest must be a lower bound on the loss; got {self.lowest}: -inf says nothing")


@dataclass(frozen=True)
class Facts:
    """What is known at one point; the intervals and the outer bounds hold together with `confidence`."""

    size: int  # N
    threshold: float  # tau
    negative: Interval
    near_zero: Interval
    positive: Interval
    confidence: float  # 1 where no chance is involved
    smallest: tuple[float, float]  # lambda_min lies between; the upper end without chance
    largest: tuple[float, float]  # lambda_max lies between; the lower end without chance
    gradient_norm: float | None
    value: float | None  # the loss
    variation: float | None  # H moves by at least so much per unit of distance: every rho is larger
    kinks: str | None = None  # what makes H jump, so that no rho serves all of the space


def strict_clauses(
    gradient_norm: float | None, smallest: tuple[float, float], *, alpha: float, gamma: float, epsilon: float
) -> dict[str, Answer]:
    """Which clauses of the strict-saddle property hold at a point with lambda_min in [smallest[0], smallest[1]].

    The third implies lambda_min >= alpha at the point itself, which can exclude it and does not prove it. Where all
    three fail the point refutes the property for these constants, whatever its radius.
    """
    low, high = smallest
    gradient: Answer = "undecided" if gradient_norm is None else "holds" if gradient_norm >= epsilon else "fails"
    curvature: Answer = "holds" if high <= -gamma else "fails" if low > -gamma else "undecided"
    return {"gradient": gradient, "curvature": curvature, "minimum": "fails" if high < alpha else "undecided"}


def judge(facts: Facts, constants: Constants) -> dict[str, Verdict]:
    """Every definition by its name."""
    epsilon = constants.epsilon
    no_negative, no_positive = _not(_any(facts, "negative")), _not(_any(facts, "positive"))
    return {
        "critical": critical(facts, epsilon),
        "minimum_up_to_tau": _where_critical(facts, epsilon, no_negative),
        "minimum": _where_critical(facts, epsilon, no_negative, _resolved(facts)),
        "maximum": _where_critical(facts, epsilon, no_positive, _resolved(facts)),
        "saddle": saddle(facts, epsilon),
        "degenerate": _where_critical(facts, epsilon, _any(facts, "near_zero")),
        "degenerate_saddle": _all(saddle(facts, epsilon), _any(facts, "near_zero")),
        "strict": strict(facts, constants),
        "stable": stable(facts, constants),
        "good": good(facts, constants),
    }


def critical(facts: Facts, epsilon: float) -> Verdict:
    """|g| <= epsilon."""
    if facts.gradient_norm is None:
        return Verdict("undecided", "the gradient is not known")
    near = facts.gradient_norm <= epsilon
    return Verdict(
        "holds" if near else "fails",
        f"|gradient| = {facts.gradient_norm:.3g} {'<=' if near else '>'} epsilon = {epsilon:g}",
    )


def saddle(facts: Facts, epsilon: float) -> Verdict:
    """Critical, and eigenvalues of both signs; fails only where every eigenvalue has its sign beyond tau."""
    sides, resolved = [_any(facts, "negative"), _any(facts, "positive")], _resolved(facts)
    if resolved.answer == "undecided" and any(side.answer == "fails" for side in sides):
        sides = [replace(side, answer="undecided") if side.answer == "fails" else side for side in sides]
        sides.append(resolved)
    return _where_critical(facts, epsilon, *sides)


def strict(facts: Facts, constants: Constants) -> Verdict:
    """The clause of the strict-saddle property that holds at this point; fails: the point refutes the property."""
    epsilon = constants.epsilon
    alpha = facts.threshold if constants.alpha is None else constants.alpha
    # beyond tau: where nothing lies below -tau, that alone is known of lambda_min, and refutes
    gamma = math.nextafter(facts.threshold, math.inf) if constants.gamma is None else constants.gamma
    answers = strict_clauses(facts.gradient_norm, facts.smallest, alpha=alpha, gamma=gamma, epsilon=epsilon)
    low, high = facts.smallest
    if answers["gradient"] == "holds":
        return Verdict("holds", f"gradient clause: |gradient| = {facts.gradient_norm:.3g} >= epsilon = {epsilon:g}")
    if answers["curvature"] == "holds":
        return Verdict("holds", f"curvature clause: lambda_min <= {high:.4g} <= -gamma = {-gamma:.4g}")
    if set(answers.values()) == {"fails"}:
        between = f"-gamma = {-gamma:.4g} < {low:.4g} <= lambda_min"
        above = "no eigenvalue below -tau" if constants.gamma is None else between
        said = f"{above}, lambda_min <= {high:.4g} < alpha = {alpha:.4g}"
        return Verdict("fails", f"{said}: this point refutes the property", facts.confidence)
    if answers["minimum"] == "fails" or facts.gradient_norm is None:
        return Verdict("undecided", f"lambda_min lies in [{low:.4g}, {high:.4g}], -gamma = {-gamma:.4g}")
    return _convex_nearby(facts, alpha, constants.radius, constants.rho)


def _convex_nearby(facts: Facts, alpha: float, radius: float | None, rho: float | None) -> Verdict:
    """The third clause: where H moves by at most rho a unit, a lower bound on lambda_min at x serves the whole ball.

    With |g| <= alpha r and lambda_min(x) - rho (2r + |g| / alpha) >= alpha, f is alpha-strongly convex in the ball of
    radius 2r + |g| / alpha around x; so grad f points outward on the sphere of radius |g| / alpha, inside of which
    there is a minimum, and that ball holds the 2r ball around it.
    """
    assert facts.gradient_norm is not None
    if radius is None or rho is None:
        return Verdict("undecided", "strong convexity around a minimum needs radius and a proved rho")
    given = _lipschitz(facts, rho)
    if given.answer != "holds":
        return Verdict("undecided", f"strong convexity around a minimum needs a true rho: {given.because}")
    shift = facts.gradient_norm / alpha
    left = facts.smallest[0] - rho * (2 * radius + shift)
    if shift <= radius and left >= alpha:
        said = f"lambda_min - rho (2 radius + |gradient| / alpha) >= {left:.4g} >= alpha = {alpha:.4g}"
        return Verdict("holds", f"minimum clause: {said}, for the rho that was given", facts.confidence)
    return Verdict("undecided", f"with this rho and radius only lambda >= {left:.4g} nearby; alpha = {alpha:.4g}")


def stable(facts: Facts, constants: Constants) -> Verdict:
    """(kappa, epsilon, rho)-stable; without kappa, for the least kappa that is certified."""
    if facts.gradient_norm == constants.epsilon:
        return Verdict("fails", f"|gradient| = epsilon = {constants.epsilon:g}, and must be less")
    few, smooth = _few(facts, constants.kappa), _lipschitz(facts, constants.rho)
    return _where_critical(facts, constants.epsilon, few, _saying_so(smooth, few))


def good(facts: Facts, constants: Constants) -> Verdict:
    """(kappa, epsilon, rho, delta)-good; without delta, for the least delta that is certified."""
    low = _low(facts, constants)
    return _all(_saying_so(stable(facts, constants), low), low)


def _saying_so(part: Verdict, measured: Verdict) -> Verdict:
    """The part; where it is open and another, measured one holds, its reason names both: `_all` drops what holds."""
    if measured.answer == "holds" and part.answer == "undecided":
        return replace(part, because=f"{measured.because}; {part.because}")
    return part


def least_kappa(facts: Facts) -> int | None:
    """The least kappa < N that is certified to bound the number of nonzero eigenvalues; None where none is."""
    return facts.size - facts.near_zero.lower if facts.near_zero.lower else None


def _few(facts: Facts, kappa: int | None) -> Verdict:
    """At most kappa < N nonzero eigenvalues; without kappa, the least that is certified, where one is."""
    least, most = facts.size - facts.near_zero.upper, facts.size - facts.near_zero.lower
    certified = least_kappa(facts)
    if kappa is not None:
        bound, which = kappa, f"kappa = {kappa}"
    elif certified is not None:
        bound, which = certified, f"the least certified kappa = {certified}"
    else:
        bound, which = facts.size - 1, "and no kappa < N is certified"
    answer: Answer = "holds" if most <= bound else "fails" if least > bound else "undecided"
    return Verdict(answer, f"{_number(least, most)} not within [-tau, tau], {which}", facts.confidence)


def _lipschitz(facts: Facts, rho: float | None) -> Verdict:
    """A rho is the caller's to prove; differences of Hessians can only refute it, and kinks leave it open."""
    if rho is not None and facts.variation is not None and facts.variation > rho:
        return Verdict("fails", f"the Hessian was seen to move by {facts.variation:.3g} > rho = {rho:g} a unit")
    if facts.kinks is not None:
        given = "" if rho is None else f"rho = {rho:g} as given, but "
        return Verdict("undecided", f"{given}{facts.kinks} has kinks, where the Hessian jumps: no rho is known")
    if rho is None:
        seen = "" if facts.variation is None else f"at least {facts.variation:.3g}, "
        return Verdict("undecided", f"rho is {seen}not known: pass one that is proved")
    return Verdict("holds", f"rho = {rho:g} as given")


def _low(facts: Facts, constants: Constants) -> Verdict:
    """f(x) - min f <= delta, by the lower bound on f that was given; never fails, since that may lie below min f."""
    if facts.value is None or constants.lowest == -float("inf"):
        return Verdict("undecided", "the loss, or a lower bound on it, is not known")
    excess = max(0.0, facts.value - constants.lowest)
    delta = excess if constants.delta is None else constants.delta
    which = f"{'the least certified ' if constants.delta is None else ''}delta = {delta:.4g}"
    return Verdict("holds" if excess <= delta else "undecided", f"f - min f <= {excess:.4g}, {which}")


_WHERE = {"negative": "below -tau", "near_zero": "within [-tau, tau]", "positive": "above tau"}


def _any(facts: Facts, side: Literal["negative", "near_zero", "positive"]) -> Verdict:
    """Whether there is an eigenvalue on this side of the thresholds; by a direction, without chance, if possible."""
    interval: Interval = getattr(facts, side)
    if side == "negative" and facts.smallest[1] < -facts.threshold:
        return Verdict("holds", f"lambda_min <= {facts.smallest[1]:.4g} < -tau")
    if side == "positive" and facts.largest[0] > facts.threshold:
        return Verdict("holds", f"lambda_max >= {facts.largest[0]:.4g} > tau")
    answer: Answer = "holds" if interval.lower >= 1 else "fails" if interval.upper == 0 else "undecided"
    return Verdict(answer, f"{_number(interval.lower, interval.upper)} {_WHERE[side]}", facts.confidence)


def _resolved(facts: Facts) -> Verdict:
    """Holds where every eigenvalue has its sign beyond tau; never fails: those within may still have the wanted one."""
    answer: Answer = "holds" if facts.near_zero.upper == 0 else "undecided"
    within = _number(facts.near_zero.lower, facts.near_zero.upper)
    sign = "" if answer == "holds" else ", of either sign"
    return Verdict(answer, f"{within} within [-tau, tau]{sign}", facts.confidence)


def _number(least: int, most: int) -> str:
    if most == 0:
        return "no eigenvalue"
    return f"{least} eigenvalue{'s' * (most > 1)}" if least == most else f"{least} to {most} eigenvalues"


def _not(verdict: Verdict) -> Verdict:
    answers: dict[Answer, Answer] = {"holds": "fails", "fails": "holds", "undecided": "undecided"}
    return replace(verdict, answer=answers[verdict.answer])


def _where_critical(facts: Facts, epsilon: float, *parts: Verdict) -> Verdict:
    """All of the parts, of a critical point; that it is one is said only where it is not known."""
    near = critical(facts, epsilon)
    return _all(*parts) if near.answer == "holds" else _all(near, *parts)


def _all(*parts: Verdict) -> Verdict:
    """Fails with any part, by the surest; undecided by its undecided parts; else holds. Parts are right together."""
    failing = [part for part in parts if part.answer == "fails"]
    if failing:
        return max(failing, key=lambda part: part.confidence)
    open_ = [part for part in parts if part.answer == "undecided"]
    chosen = open_ or parts
    return Verdict(
        "undecided" if open_ else "holds",
        "; ".join(part.because for part in chosen),
        min(part.confidence for part in chosen),
    )
