"""Is the function that is multiplied the user's own? Differences of the user's code against the package's products.

The user's model and loss are called as the user calls them, on whole batches, in float64, with parameters moved in
place: no functional call, no transform, no recorded graph. With a direction v of Gaussian entries,

    product     (grad L(theta + h v) - grad L(theta - h v)) / 2h   against H v, parameter by parameter
    symmetry    u'Hv against v'Hu
    slope       (L(theta + h v) - L(theta - h v)) / 2h             against <gradient, v>, with two steps

Two steps are taken. In a network of many ReLUs the longer one passes kinks; within the shorter one a gradient may be
rounded away, as that of sinc at 0 is. Where product and difference are apart, the samples are halved until one is left
that shows it, and that one is asked with several steps:

    two differences agree with each other, and not with the product: it is wrong;
    the product agrees with one of them: the others passed kinks;
    they grow as 1 / h: theta lies on a kink, a ReLU at exactly 0, where torch's derivative is one of several, and the
        comparison is made at a point nearby;
    none of these: the differences are too coarse to judge.

The steps go with the least precise arithmetic inside, so that a model which computes in float32 has an honest, wider
tolerance. NaN agrees with nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal, Protocol

import torch
from torch import Tensor

from lanczos_saddle.networks.batches import Batch
from lanczos_saddle.networks.comparison.survey import slope_scale
from lanczos_saddle.networks.objective import Objective

EXACT = {torch.float64: 1e-6}
"""Relative differences up to this are agreement: smooth networks show 1e-8 with the short step."""

INEXACT = 30.0
"""The same in other arithmetic, as a multiple of the square root of its rounding unit."""

SMALL = 1e-2
"""Of that, relative to the whole product: entries of a parameter that are so small are rounding."""

TRUSTED = 10.0
"""Two differences agree against a product that is so many times further from both."""

NEARER = 3.0
"""A longer step that is so many times nearer to the product shows that shorter ones agree in rounding alone."""

COARSE = 0.05
"""Products that agree with blurred differences to this, relative to their size, agree coarsely."""

NEARBY = 1e-3
"""Distance of the point nearby, relative to the size of the parameters."""

SHORT = {torch.float64: 1e-8}
"""The first step, relative to the size of the parameters; eps^0.4 in arithmetic of less precision."""

LONG = 1e3
"""The second step, relative to the first, in float64 arithmetic; of less precise one the first step is long."""

LADDER = {torch.float64: (1e-2, 1.0, 10.0, 1e2, LONG)}
"""Steps for one sample, relative to the first; (1, 10) in other arithmetic."""

MANY = 10**6
"""Parameters from which on a first look takes the short step alone."""

SETTLED = 8
"""Samples that are settled at most, of those that are apart."""

LOPSIDED = "u'Hv and v'Hu"
"""In place of a parameter, where products are not symmetric."""

ROUNDING = "zero within rounding"
"""In place of a parameter, where product and difference are both that."""

ROUNDED = 100.0
"""Rounding of a product, in units of the derivatives that it is made of."""

SLOPE = "the slope"
"""In place of a parameter, where the gradient is not the slope of the loss."""

Verdict = Literal["agrees", "differs", "kinks", "blurred"]


class Judged(Protocol):
    """What `compare` needs of a curvature matrix."""

    @property
    def problem(self) -> Objective:
        """The function."""

    def local(self, theta: Tensor, batch: Batch, rows: Tensor) -> Tensor:
        """A_b V' for rows V' (k, N), at theta, without division by the weight."""

    def differences(self, theta: Tensor, batch: Batch, v: Tensor, step: float) -> Tensor:
        """The same for one v (N,), by central differences of the user's own code."""

    @property
    def of_gradient(self) -> bool:
        """Whether the matrix is the derivative of the gradient, so that the slope is to be asked."""


@dataclass(frozen=True)
class Comparison:
    """Products against differences."""

    verdict: Verdict
    error: float  # |H v - D v| / |D v|
    where: str  # the parameter that differs most; empty where none does
    samples: int
    slope: float = 0.0  # relative difference of the slopes
    tolerance: float = 0.0  # to which the differences can be trusted, relative to the product


def lightly(matrix: Judged, batch: Batch) -> Comparison:
    """A first look at few samples: symmetry and product, settled where it is apart; of many parameters one step."""
    problem = matrix.problem
    v, theta, few = direction(problem), problem.theta, problem.size < MANY
    rows = torch.stack([v, direction(problem, seed=1)]) if few else v[None]
    product, *crossed = matrix.local(theta, batch, rows)
    if few and _lopsided(matrix, batch, v, rows[1], product, crossed[0]):
        return Comparison("differs", float("nan"), LOPSIDED, batch.size)
    for step in step_pair(problem)[: 2 if few else 1]:
        found = compare(matrix, theta, batch, v, step, product)
        if found.verdict != "agrees":
            return _if_zero(matrix, batch, v, product) or settled(matrix, batch, v, step)
    return found


def thoroughly(matrix: Judged, batch: Batch) -> Comparison:
    """Product, symmetry and slope, over all samples of the batch."""
    problem = matrix.problem
    theta, v, u = problem.theta, direction(problem), direction(problem, seed=1)
    product, crossed = matrix.local(theta, batch, torch.stack([v, u]))
    if _lopsided(matrix, batch, v, u, product, crossed):
        return Comparison("differs", float("nan"), LOPSIDED, batch.size)
    best: Comparison | None = None
    for step in step_pair(problem):
        found = compare(matrix, theta, batch, v, step, product)
        if found.verdict != "agrees":
            zero = _if_zero(matrix, batch, v, product)
            found = zero or replace(settled(matrix, batch, v, step), samples=batch.size)
        if found.verdict == "differs":
            return found
        best = found if best is None or found.error < best.error else best
    assert best is not None
    if not matrix.of_gradient:
        return best
    slope, wrong = slopes(problem, theta, batch, v)
    if wrong:  # at a kink the gradient is one of several: not so nearby, and the loss has no jump
        wrong = (
            slope == float("inf") or slopes(problem, beside(problem), batch, v)[1] or isolated(problem, theta, batch, v)
        )
        best = replace(best, verdict="differs" if wrong else "kinks", where=SLOPE if wrong else "")
    return replace(best, slope=slope)


def compare(matrix: Judged, theta: Tensor, batch: Batch, v: Tensor, step: float, product: Tensor) -> Comparison:
    """The product against the difference with one step: "agrees" or, not yet settled, "blurred"."""
    difference = matrix.differences(theta, batch, v, step)
    where = apart(matrix.problem, product, difference)
    tolerance = exact(matrix.problem)
    return Comparison("blurred" if where else "agrees", _error(product, difference), where, batch.size, 0.0, tolerance)


def settled(matrix: Judged, batch: Batch, v: Tensor, step: float) -> Comparison:
    """The verdict on a sample at which product and difference are apart; on more where that one lies on a kink.

    A kink says nothing of the other samples: they are looked at while what is left of them is apart, SETTLED at most.
    """
    problem = matrix.problem
    difference = matrix.differences(problem.theta, batch, v, step)
    left = matrix.local(problem.theta, batch, v[None])[0] - difference
    for count, sample in enumerate(located(matrix, batch, v, step), start=1):
        found = settle(matrix, sample)
        if found.verdict != "kinks" or count == SETTLED:
            break
        left -= matrix.local(problem.theta, sample, v[None])[0] - matrix.differences(problem.theta, sample, v, step)
        if not apart(problem, difference + left, difference):
            break
    return found


def located(matrix: Judged, batch: Batch, v: Tensor, step: float) -> Iterator[Batch]:
    """Samples at which product and difference are apart, or wholes every half of which agrees; by bisection.

    Of two halves the one that is further off comes first: one of rounding alone says nothing of the other.
    """
    problem, waiting = matrix.problem, [batch]
    while waiting:
        whole = waiting.pop()
        halves = []
        if whole.divisible and whole.size > 1:
            middle = whole.size // 2
            for part in (whole.part(0, middle), whole.part(middle, whole.size)):
                half = problem.weighed(part)
                if half.weight == 0:
                    continue
                product = matrix.local(problem.theta, half, v[None])[0]
                difference = matrix.differences(problem.theta, half, v, step)
                if apart(problem, product, difference):
                    halves.append((_nan_last(float((product - difference).norm())), half))
        if not halves:
            yield whole
        waiting += [half for _, half in sorted(halves, key=lambda pair: pair[0])]


def settle(matrix: Judged, batch: Batch) -> Comparison:
    """The verdict on one sample, at theta and, where that is a kink, nearby."""
    found = at(matrix, matrix.problem.theta, batch)
    if found.verdict == "kinks":
        nearby = at(matrix, beside(matrix.problem), batch, final=True)
        return nearby if nearby.verdict in ("differs", "blurred") else replace(nearby, verdict="kinks")
    return found


def at(matrix: Judged, theta: Tensor, batch: Batch, *, final: bool = False) -> Comparison:
    """The verdict at theta, from differences with several steps; `final` where no kink is expected any more."""
    problem, v = matrix.problem, direction(matrix.problem)
    product = matrix.local(theta, batch, v[None])[0]
    first = step_pair(problem)[0]
    factors = LADDER.get(inside(problem), (1.0, 10.0))
    found = {h: matrix.differences(theta, batch, v, h * first) for h in factors}
    places = [apart(problem, product, d) for d in found.values()]
    error = min((_error(product, d) for d in found.values()), key=_nan_last)
    if not bool(product.isfinite().all()):
        return Comparison("differs", float("nan"), places[0], batch.size)
    if _jumps(found):
        return Comparison("kinks", error, places[0], batch.size, 0.0, error)
    wrong = _agreed(problem, product, list(found.values()))
    if wrong:
        part = problem.ranges[wrong]
        size = float((product[part] - found[1.0][part]).norm())
        said: Verdict = "differs"
        shaken = _shaken(problem, theta)
        moved = float((matrix.local(shaken, batch, v[None])[0] - product)[part].norm())
        stepped = min(
            float((matrix.differences(shaken, batch, v, h * first) - d)[part].norm()) for h, d in found.items()
        )
        if size <= TRUSTED * max(moved, stepped):  # rounding decides in the product, or in gradients at every step
            said = "blurred"
        elif (
            not final
            and _one_sided(matrix, theta, batch, v, size, part)
            and not (matrix.of_gradient and isolated(problem, theta, batch, v, part))
        ):
            said = "kinks"
        return Comparison(said, error, wrong, batch.size, 0.0, error)
    if not all(places):
        return Comparison("agrees", error, "", batch.size, 0.0, exact(problem))
    return Comparison("blurred", error, places[0], batch.size, 0.0, error)


def _if_zero(matrix: Judged, batch: Batch, v: Tensor, product: Tensor) -> Comparison | None:
    """What is said where product and difference of all samples are zero within the rounding of gradients.

    That is relative to the derivatives in what lies between the parameters and the loss, which cancel then; the
    difference may show the rounding of both gradients, which changes where theta is changed by rounding.
    """
    problem, theta = matrix.problem, matrix.problem.theta
    eps, size, step = float(torch.finfo(inside(problem)).eps), size_of(theta), step_pair(problem)[-1]
    floor = ROUNDED * eps * slope_scale(problem, theta, batch) * float(v.norm()) / size**2
    if not float(product.norm()) <= floor:
        return None
    w = torch.randn(len(theta), generator=torch.Generator().manual_seed(4), dtype=torch.float64).to(theta)
    difference, other = (matrix.differences(t, batch, v, step) for t in (theta, theta * (1 + 4 * eps * w)))
    if not float(difference.norm()) <= max(floor, TRUSTED * float((other - difference).norm())):
        return None
    return Comparison("blurred", _error(product, difference), ROUNDING, batch.size, 0.0, floor)


def _shaken(problem: Objective, theta: Tensor) -> Tensor:
    """Theta changed by rounding: products and differences are others where terms cancel, as in a saturated softmax."""
    w = torch.randn(len(theta), generator=torch.Generator().manual_seed(3), dtype=torch.float64).to(theta)
    return theta * (1 + 4 * float(torch.finfo(inside(problem)).eps) * w)


def _one_sided(matrix: Judged, theta: Tensor, batch: Batch, v: Tensor, size: float, part: slice) -> bool:
    """Whether theta is on a kink without a jump: differences to both sides differ by about what the product is off.

    Of another matrix than the derivative of the gradient there are none: it is asked nearby then.
    """
    problem = matrix.problem
    if not matrix.of_gradient:
        return True
    step = 10 * step_pair(problem)[0]
    with problem.evaluating():
        down, here, up = (problem.own_slope(theta + s * v, batch)[part] for s in (-step, 0.0, step))
    bend = float(((up - here) - (here - down)).norm()) / step
    return bend > 0.5 * size


def isolated(problem: Objective, theta: Tensor, batch: Batch, v: Tensor, part: slice | None = None) -> bool:
    """Whether a parameter's gradient at theta is off those at both sides, which agree: wrong there, and no kink.

    At a kink the sides differ (ReLU), or all three come together as the step shrinks (x |x|). Samples on kinks hide one
    whose gradient is wrong: the half in which it is further off is asked next, until one sample is left.
    """
    parts = list(problem.ranges.values()) if part is None else [part]
    step = step_pair(problem)[0]
    while True:
        (here, far, _), (_, off, between) = (_beside_both(problem, theta, batch, v, h) for h in (10 * step, step))
        least = exact(problem) * float(here.norm())
        for one in parts:
            size = float(off[one].norm())
            if size > max(TRUSTED * float(between[one].norm()), 0.5 * float(far[one].norm()), least):
                return True
        if not batch.divisible or batch.size == 1:
            return False
        middle = batch.size // 2
        halves = [problem.weighed(batch.part(a, b)) for a, b in ((0, middle), (middle, batch.size))]
        batch = max(halves, key=lambda half: _excess(problem, theta, half, v, parts))


def _beside_both(
    problem: Objective, theta: Tensor, batch: Batch, v: Tensor, step: float
) -> tuple[Tensor, Tensor, Tensor]:
    """(gradient at theta, how far it is from the mean of those at both sides, how far these are apart)."""
    with problem.evaluating():
        down, here, up = (problem.own_slope(theta + s * v, batch) for s in (-step, 0.0, step))
    return here, (up + down) / 2 - here, up - down


def _excess(problem: Objective, theta: Tensor, batch: Batch, v: Tensor, parts: Sequence[slice]) -> float:
    """How much further from the mean of both sides a parameter's gradient is than half of what these are apart."""
    if batch.weight == 0:
        return 0.0
    _, off, between = _beside_both(problem, theta, batch, v, step_pair(problem)[0])
    return max(float(off[one].norm()) - 0.5 * float(between[one].norm()) for one in parts)


def _agreed(problem: Objective, product: Tensor, found: list[Tensor]) -> str:
    """The parameter in which two differences agree with each other and not with the product; empty if in none.

    Where a longer step is nearer to the product, the shorter two agree in the rounding of a gradient.
    """
    for place, (one, other) in enumerate(pairwise(found)):
        for name, part in problem.ranges.items():
            if not (apart_in(problem, product, one, part) > 1 and apart_in(problem, product, other, part) > 1):
                continue
            nearest = min(float((product[part] - d[part]).norm()) for d in (one, other))
            longer = [float((product[part] - d[part]).norm()) for d in found[place + 2 :]]
            if nearest > TRUSTED * float((one[part] - other[part]).norm()) and nearest < NEARER * min(
                [nearest, *longer]
            ):
                return name
    return ""


def _jumps(found: dict[float, Tensor]) -> bool:
    """Whether differences go as 1 / h throughout: a jump of the gradient within the shortest step already."""
    sizes = [(h, float(d.norm())) for h, d in found.items()]
    return all(other > 0 and 0.3 < (size * h) / (other * k) < 3 for (h, size), (k, other) in pairwise(sizes))


def slopes(problem: Objective, theta: Tensor, batch: Batch, v: Tensor) -> tuple[float, bool]:
    """(relative difference of the slope of the batch's share along v from its gradient, whether it is a mismatch).

    The difference is infinite where the loss itself jumps between the two sides, however short the step.
    """
    with problem.evaluating():
        exactly = float(problem.slope_at(theta, batch) @ v)
    eps, scale = float(torch.finfo(inside(problem)).eps), size_of(theta)
    found, values, steps = [], [], (eps ** (1 / 3) * scale, 0.1 * eps ** (1 / 3) * scale)
    for step in steps:
        above, below = (problem.own_value(theta + s * v, batch) for s in (step, -step))
        values += [abs(above), abs(below)]
        found.append((above - below) / (2 * step))
    gaps = [abs(s) * 2 * step for s, step in zip(found, steps, strict=True)]
    if gaps[1] > max(0.5 * gaps[0], eps**0.5 * max(values)):
        return float("inf"), True
    size = max(abs(exactly), *map(abs, found))
    error = min((abs(exactly - s) for s in found), key=_nan_last)
    wrong = not error <= max(1e-4 * size, TRUSTED * abs(found[0] - found[1]), 4 * eps * max(values) / steps[0])
    return error / size if size > 0 else error, wrong


def direction(problem: Objective, seed: int = 0) -> Tensor:
    """Gaussian entries (N,), zero where the gradient is zero by convention (of v, seed 0)."""
    generator = torch.Generator().manual_seed(seed)
    v = torch.randn(problem.size, generator=generator, dtype=torch.float64).to(problem.theta)
    if seed == 0:
        for index in problem.still():
            v[index.to(v.device)] = 0
    return v


def inside(problem: Objective) -> torch.dtype:
    """The least precise arithmetic of an evaluation."""
    found: torch.dtype = getattr(problem, "arithmetic", problem.dtype)
    return found


def exact(problem: Objective) -> float:
    """The relative difference up to which product and difference agree."""
    kind = inside(problem)
    return EXACT[kind] if kind in EXACT else INEXACT * float(torch.finfo(kind).eps) ** 0.5


def step_pair(problem: Objective) -> list[float]:
    """The shorter and the longer step of differences of gradients, absolute; one in arithmetic of less precision."""
    kind = inside(problem)
    relative = SHORT[kind] if kind in SHORT else float(torch.finfo(kind).eps) ** 0.4
    first = relative * size_of(problem.theta)
    return [first, LONG * first] if kind in SHORT else [first]


def size_of(theta: Tensor) -> float:
    """The root mean square of the parameters; 1 where they are zero."""
    size = float(theta.norm()) / len(theta) ** 0.5
    return size if size > 0 else 1.0


def beside(problem: Objective) -> Tensor:
    """A point near theta at which no sample lies on a kink."""
    w = torch.randn(problem.size, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    return problem.theta + NEARBY * size_of(problem.theta) * w.to(problem.theta)


def own_difference(problem: Objective, theta: Tensor, batch: Batch, v: Tensor, step: float) -> Tensor:
    """Central differences of the gradient of a share, by the user's own code and plain autograd: two evaluations."""
    up, down = (problem.own_slope(theta + s * v, batch) for s in (step, -step))
    return (up - down) / (2 * step)


def apart(problem: Objective, product: Tensor, difference: Tensor) -> str:
    """The parameter in which product and difference are furthest apart; empty where none is beyond rounding."""
    excess = {name: apart_in(problem, product, difference, part) for name, part in problem.ranges.items()}
    worst = max(excess, key=lambda name: excess[name])
    return worst if excess[worst] > 1 else ""


def apart_in(problem: Objective, product: Tensor, difference: Tensor, part: slice) -> float:
    """How far they are apart in one parameter, as a multiple of what rounding allows."""
    tolerance = exact(problem)
    allowed = max(tolerance * float(difference[part].norm()), tolerance * SMALL * float(difference.norm()), 1e-300)
    error = float((product[part] - difference[part]).norm())
    return error / allowed if error == error else float("inf")


def _lopsided(matrix: Judged, batch: Batch, v: Tensor, u: Tensor, product: Tensor, crossed: Tensor) -> bool:
    """Whether u'Hv and v'Hu differ by more than rounding, or than the defect of additivity where terms cancel."""
    problem = matrix.problem
    gap = float((u @ product - v @ crossed).abs())
    size = float(u.norm() * product.norm()) / max(1, problem.size) ** 0.5
    if not gap > size * float(torch.finfo(inside(problem)).eps) ** 0.5:
        return False
    noise = float((matrix.local(problem.theta, batch, (u + v)[None])[0] - product - crossed).norm())
    return gap > TRUSTED * noise


def _error(product: Tensor, difference: Tensor) -> float:
    size, error = float(difference.norm()), float((product - difference).norm())
    return error / size if size > 0 else error


def _nan_last(x: float) -> float:
    return x if x == x else float("inf")


SUSPECTS = {
    "LinalgVectorNorm": "a norm of zeros (write x.square().sum() for its square, or add a constant inside a root)",
    "Norm": "a norm of zeros (write x.square().sum() for its square, or add a constant inside a root)",
    "PaddedEmbedding": "padding_idx of an embedding whose weight is computed (leave padding_idx out: the row is data)",
    "Cdist": "a distance of equal points (write the squares out, with a small constant inside the root)",
    "Sinc": "torch.sinc at 0 (write its series where |x| is small)",
    "ScatterReduce": "scatter_reduce (for a product take exp of a sum of logarithms; for amax or amin without "
    "include_self, fill what it is called on with -inf or inf)",
    "IndexReduce": "index_reduce (take exp of a sum of logarithms for a product)",
    "Polar": "torch.polar with a modulus that is zero or negative (write r * angle.cos(), r * angle.sin())",
    "Prod": "prod where factors are 0",
    "CholeskyInverse": "torch.cholesky_inverse (write torch.cholesky_solve(identity, L))",
    "Logcumsumexp": "torch.logcumsumexp (write cumsum of exp(x - max), log, + max)",
    "Logaddexp": "torch.logaddexp of numbers that are hundreds apart (write torch.logsumexp of their stack)",
    "LinalgDet": "the determinant of a singular matrix (write it out, or torch.linalg.slogdet of a regular one)",
    "LinalgSlogdet": "a log-determinant of a nearly singular matrix",
    "WeightNorm": "weight normalization (write g * v / v.norm(dim, keepdim=True))",
    "CheckpointFunction": "a reentrant checkpoint (use_reentrant=False)",
}
"""Nodes of torch whose derivatives have been found wrong somewhere, and what to write instead."""


def suspicion(names: Iterable[str], custom: Iterable[str], *, first_order: bool) -> str:
    """Which operations may be at fault, and the way out."""
    own = [f"the autograd.Function {name}, whose backward must be made of differentiable operations" for name in custom]
    known = [text for key, text in SUSPECTS.items() if any(name.startswith(f"{key}Backward") for name in names)]
    if first_order:
        known.append(
            "values changed without a gradient: detach() or a clamp under no_grad (gaussian_nll_loss with a variance "
            "below eps: clamp it before)"
        )
    found = [*own, *known]
    listed = (
        "; ".join(found)
        if found
        else (
            "none that is known to be: look for detach(), .data, values changed under no_grad (gaussian_nll_loss with "
            "a variance below eps), or a custom backward"
        )
    )
    return f"suspected: {listed}"
