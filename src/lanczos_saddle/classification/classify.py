"""What kind of critical point a network sits at, with the certificates: `definitions`, answered from measurements.

    gradient, loss    of the mean loss, in float64
    counts            negative, near zero and positive eigenvalues at tau, as intervals (`count_eigenvalues`)
    directions        unit vectors at both ends of the spectrum, sought with a random start of their own (`directions`)
    variation         differences of Hessians: every Lipschitz constant rho is larger

Only the counts carry chance. A direction with v'Hv < -tau shows a negative eigenvalue without any.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor

from lanczos_saddle.certificates.intervals import settle_negative
from lanczos_saddle.classification.definitions import Constants, Facts, Verdict, judge
from lanczos_saddle.classification.directions import Direction, certified_direction, end_vectors
from lanczos_saddle.classification.lipschitz import Movable, Variation, hessian_variation
from lanczos_saddle.counting.count import count_eigenvalues
from lanczos_saddle.counting.exact import eigenvalue_margin
from lanczos_saddle.counting.result import Counts
from lanczos_saddle.defaults import EPSILON, STEPS
from lanczos_saddle.krylov.preflight import LARGEST, SMALLEST
from lanczos_saddle.machine.streams import Streams, check_generator
from lanczos_saddle.operators.hermitian import require_real
from lanczos_saddle.operators.inference import differentiable
from lanczos_saddle.operators.leading import led
from lanczos_saddle.operators.operator import as_operator, precise
from lanczos_saddle.operators.scalars import maybe_real, maybe_whole, real, shown, whole
from lanczos_saddle.structure.know import know

RANDOM = 2
"""Random directions along which the Hessian is compared with itself, beside the one at the lower end."""

ROUNDING = 1e-12
"""Of a loss, relative to it or absolute: a bound on the loss may be passed that it reaches."""


@dataclass(frozen=True)
class Classification:
    """What each definition says of one point, and what it rests on; everything is right together with `confidence`."""

    critical: Verdict
    minimum_up_to_tau: Verdict
    minimum: Verdict
    maximum: Verdict
    saddle: Verdict
    degenerate: Verdict
    degenerate_saddle: Verdict
    strict: Verdict
    stable: Verdict
    good: Verdict
    counts: Counts
    gradient_norm: float | None  # None: not a loss, and not given
    value: float | None  # the mean loss
    smallest: tuple[float, float]  # lambda_min lies between; the lower end with the counts' confidence
    largest: tuple[float, float]  # lambda_max lies between; the upper end with the counts' confidence
    lowest_direction: Direction
    highest_direction: Direction
    variation: Variation | None  # None: not a Hessian that can be moved
    products: int  # H @ v, those of the counts included

    @property
    def verdicts(self) -> dict[str, Verdict]:
        """All of them by name, in the order of the fields."""
        return {name: value for name, value in vars(self).items() if isinstance(value, Verdict)}

    def __str__(self) -> str:
        loss = "" if self.value is None else f"loss {self.value:.6g}, "
        gradient = "gradient unknown" if self.gradient_norm is None else f"|gradient| = {self.gradient_norm:.3e}"
        low, high = self.lowest_direction, self.highest_direction
        lines = [
            loss + gradient,
            str(self.counts),
            f"lambda_min  {_between(self.smallest)}, by a direction with residual {low.residual:.1e}",
            f"lambda_max  {_between(self.largest)}, by a direction with residual {high.residual:.1e}",
        ]
        if self.variation is not None:
            lines.append(
                f"rho         >= {self.variation.at_least:.3g}, the Lipschitz constant of the Hessian, by differences"
            )
        lines.append(f"{self.products} products in all")
        return "\n".join(
            [*lines, "", *(f"{name.replace('_', ' '):<17}  {verdict}" for name, verdict in self.verdicts.items())]
        )


@led
@differentiable
def classify(
    operator: Any,
    *,
    threshold: float | None = None,
    relative_threshold: float | None = None,
    epsilon: float = EPSILON,
    kappa: int | None = None,
    alpha: float | None = None,
    gamma: float | None = None,
    radius: float | None = None,
    rho: float | None = None,
    delta: float | None = None,
    lowest: float | None = None,
    gradient_norm: float | None = None,
    value: float | None = None,
    counts: Counts | None = None,
    search_steps: int = STEPS,
    compare_hessians: bool = True,
    generator: torch.Generator | None = None,
    progress: bool = False,
    **counting: Any,
) -> Classification:
    """Say what kind of critical point this is, each answer with its certificate, or that it cannot be decided.

    Args:
        operator: a `Hessian`, or anything symmetric that `as_operator` takes; then the gradient is known only if given.
        threshold: tau > 0; eigenvalues within [-tau, tau] count as zero. Or
        relative_threshold: tau as a fraction of the largest |eigenvalue|.
        epsilon: a gradient of at most this norm counts as zero.
        kappa: of stable and good points, at most N - 1: how many eigenvalues may be nonzero. Without it, the least
            number that is certified.
        alpha, gamma: of the strict-saddle property; tau if not given.
        radius: its fourth constant, a distance in parameter space (delta in Ge et al.); needed where the clause of a
            minimum is to be proved, with
        rho: a Lipschitz constant of the Hessian that the caller can prove. It cannot be measured, only refuted; where
            the model has kinks (ReLU) none exists, and what needs one stays undecided.
        delta: of good points: how far above the lowest value the loss may lie. Without it, the least that is certified.
        lowest: a lower bound on the loss that the caller can prove, -inf to say nothing; without it 0 for a `Hessian`
            of one of torch's losses that are never negative, -inf for everything else.
        gradient_norm, value: of an operator that is not a `Hessian`.
        counts: of this operator, made before: their threshold is used, and nothing is counted again.
        search_steps: at most this many products in search of the two directions.
        compare_hessians: bound rho from below by differences of Hessians, 108 products.
        generator: seeds everything random, drawn on the CPU; directions and counts have streams of their own.
        progress: bars on stderr.
        **counting: further options of `count_eigenvalues`: method, confidence, probes, max_products, ...; a sampled run
            needs a small `precision` to see that a class is empty.

    Cost: the counts, up to `search_steps` products and 110 more; a basis of `search_steps` vectors, or fewer where
    memory is short.

    Raises ValueError for bad arguments, a loss below `lowest`, a Gauss-Newton matrix (it has no negative
    eigenvalues, wherever the point is), counts of another operator, and where `count_eigenvalues` does.
    """
    knowledge = know(operator)
    if knowledge.curvature == "gauss-newton":
        raise ValueError(
            "a critical point is classified by its Hessian; got the Gauss-Newton matrix: pass Hessian(...)"
        )
    base = as_operator(operator)
    require_real(base, "classify")
    if lowest is None:
        lowest = knowledge.lowest
    constants = Constants(
        real("epsilon", epsilon),
        maybe_whole("kappa", kappa),
        maybe_real("alpha", alpha),
        maybe_real("gamma", gamma),
        maybe_real("radius", radius),
        maybe_real("rho", rho),
        maybe_real("delta", delta),
        real("lowest", lowest),
    )
    constants.check(base.shape[0])
    search_steps = whole("search_steps", search_steps)
    gradient_norm, value = maybe_real("gradient_norm", gradient_norm), maybe_real("value", value)
    check_generator(generator)
    if not isinstance(compare_hessians, bool):
        raise ValueError(f"compare_hessians must be True or False; got {shown(compare_hessians)}")
    if not (counts is None or isinstance(counts, Counts)):
        raise ValueError(f"counts are what count_eigenvalues returned; got {type(counts).__name__}: leave them out")
    if search_steps < 1:
        raise ValueError(f"search_steps must be at least 1, the products in search of directions; got {search_steps}")
    if knowledge.point is not None:
        if gradient_norm is not None or value is not None:
            raise ValueError("gradient_norm and value are known of a Hessian; got them as well: leave them out")
        gradient_norm, value = knowledge.point()
    for name, given in (("gradient_norm", gradient_norm), ("value", value)):
        if given is not None and not (math.isfinite(given) and (given >= 0 or name == "value")):
            raise ValueError(f"gradient_norm must be a norm and value a finite number; got {name} = {given}")
    lowest = constants.lowest
    if value is not None and value < lowest - ROUNDING * max(1.0, abs(value)):
        raise ValueError(f"lowest must be a lower bound on the loss, which is {value} here; got {lowest}: -inf is one")
    streams = Streams(generator).split("counts", "directions", "variation")
    if counts is None:
        counts = count_eigenvalues(
            operator,
            threshold=threshold,
            relative_threshold=relative_threshold,
            generator=streams["counts"],
            progress=progress,
            **counting,
        )
    else:
        _check_counts(counts, base.shape[0], threshold, relative_threshold, counting)
    _check_range(counts.check.scale)
    tau = counts.threshold
    # where nothing lies below -tau, where exactly the lower end lies beyond that is not worth products
    resolution = tau if counts.negative.upper == 0 else 0.0
    *ends, spent = end_vectors(base, streams["directions"], steps=search_steps, resolution=resolution)
    exactly = precise(base)
    low, high = (certified_direction(exactly, vector, counts.check) for vector in ends)
    _check_against(counts, low, high)
    variation = None
    if compare_hessians and knowledge.curvature is not None:
        variation = hessian_variation(
            cast(Movable, exactly), _directions(low.vector, streams["variation"]), counts.check
        )
    counts = _settled(counts, low, high)
    smallest, largest = _ends(counts, low, high)
    facts = Facts(
        size=base.shape[0],
        threshold=tau,
        negative=counts.negative,
        near_zero=counts.near_zero,
        positive=counts.positive,
        confidence=1.0 if counts.method == "exact" else counts.confidence,
        smallest=smallest,
        largest=largest,
        gradient_norm=gradient_norm,
        value=value,
        variation=None if variation is None else variation.at_least,
        kinks=knowledge.kinks,
    )
    return Classification(
        **judge(facts, constants),
        counts=counts,
        gradient_norm=gradient_norm,
        value=value,
        smallest=smallest,
        largest=largest,
        lowest_direction=low,
        highest_direction=high,
        variation=variation,
        products=counts.products + spent + 2 + (variation.products if variation else 0),
    )


def _directions(lowest: Tensor, generator: torch.Generator) -> Tensor:
    """The direction at the lower end and random ones, unit columns (N, 1 + RANDOM)."""
    drawn = torch.randn(len(lowest), RANDOM, generator=generator, dtype=torch.float64).to(lowest.device)
    return torch.cat([lowest[:, None], drawn / torch.linalg.vector_norm(drawn, dim=0)], dim=1)


def _settled(counts: Counts, low: Direction, high: Direction) -> Counts:
    """The intervals met with what the directions show without chance: where a run missed them, they stand."""
    size, dead, tau = counts.size, counts.dead, counts.threshold
    negative, near_zero, positive = counts.negative, counts.near_zero, counts.positive
    lowest, highest = low.above_lowest, high.below_highest
    # an eigenvalue that is not above tau is not positive, one that is not below -tau is not negative
    least, most = int(lowest < -tau), min(size - dead, size - int(highest >= -tau))
    if least > negative.lower or most < negative.upper:
        negative, near_zero, positive = settle_negative(least, most, negative, positive, size, dead)
    least, most = int(highest > tau), min(size - dead, size - int(lowest <= tau))
    if least > positive.lower or most < positive.upper:
        positive, near_zero, negative = settle_negative(least, most, positive, negative, size, dead)
    return replace(counts, negative=negative, near_zero=near_zero, positive=positive)


def _ends(counts: Counts, low: Direction, high: Direction) -> tuple[tuple[float, float], tuple[float, float]]:
    """(least, most) of lambda_min and of lambda_max: the inner ends by directions, the outer ones by the counts."""
    tau, inf = counts.threshold, float("inf")
    inner = low.above_lowest, high.below_highest
    if counts.eigenvalues is not None:
        margin = eigenvalue_margin(counts.eigenvalues, counts.check)
        first, last = float(counts.eigenvalues[0]), float(counts.eigenvalues[-1])
        return (first - margin, min(inner[0], first + margin)), (max(inner[1], last - margin), last + margin)
    least = tau if counts.positive.lower == counts.size else -tau if counts.negative.upper == 0 else -inf
    most = -tau if counts.negative.lower == counts.size else tau if counts.positive.upper == 0 else inf
    return (least, inner[0]), (inner[1], most)


def _between(ends: tuple[float, float]) -> str:
    least, most = ends
    if least == -float("inf"):
        return f"<= {most:.6g}"
    return f">= {least:.6g}" if most == float("inf") else f"in [{least:.6g}, {most:.6g}]"


def _check_against(counts: Counts, low: Direction, high: Direction) -> None:
    """Refuse exact counts that a direction contradicts: they are another operator's; raises ValueError."""
    if counts.method != "exact":
        return
    lowest, highest, tau = low.above_lowest, high.below_highest, counts.threshold
    wrong = (lowest < -tau and counts.negative.upper == 0) or (highest > tau and counts.positive.upper == 0)
    if counts.eigenvalues is not None:
        margin = eigenvalue_margin(counts.eigenvalues, counts.check)
        wrong |= lowest < float(counts.eigenvalues[0]) - margin or highest > float(counts.eigenvalues[-1]) + margin
    if wrong:
        raise ValueError(
            f"counts must be of this operator; a direction shows eigenvalues from {lowest:.6g} to {highest:.6g}, which "
            "these exact counts exclude: leave them out"
        )


def _check_range(scale: float) -> None:
    """Refuse an operator whose products cannot be squared; raises ValueError."""
    if scale and not SMALLEST < scale < LARGEST:
        raise ValueError(
            f"classify takes operators of a size between {SMALLEST:.0e} and {LARGEST:.0e}, where squares of what they "
            f"make are numbers; got {scale:.1e}: multiply the operator, or the loss, by a constant, and what is given "
            "in its units, the threshold say, by the same"
        )


def _check_counts(
    counts: Counts, size: int, threshold: float | None, relative_threshold: float | None, counting: dict[str, Any]
) -> None:
    """Refuse counts beside what would make others; raises ValueError."""
    if counts.size != size:
        raise ValueError(f"counts must be of this operator, N = {size}; got N = {counts.size}")
    if threshold is not None or relative_threshold is not None or counting:
        raise ValueError(
            "counts come with their threshold and their options; got these as well: leave them out, or use recount"
        )
