"""Is the function that is multiplied the user's own? Differences of the user's code against the package's products.

The user's model and loss are called as the user calls them, on whole batches, in float64, with parameters moved in
place: no functional call, no transform, no recorded graph. With directions v of Gaussian entries and two steps h,

    value       L(theta)                                      against the sum of shares
    slope       (L(theta + h v) - L(theta - h v)) / 2h        against <gradient, v>
    curvature   v'Hv                                          from differences of slopes along v
    product     (grad L(theta + h v) - grad L(theta - h v)) / 2h   against H v, parameter by parameter

h is the power 0.4 of the rounding unit of the least precise arithmetic inside, and a tenth of it, times the size of the
parameters. Where the two steps differ, the differences themselves are not to be trusted that far: that spread is the
tolerance, so that a model which computes in float32 inside has an honest, wider one. Where the differences grow as the
step falls, theta lies on a kink (a sample at which a ReLU is exactly 0): torch's derivative is then one of several, and
the comparison is made at a point nearby. NaN agrees with nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from lanczos_saddle.batches import Batch, evenly
from lanczos_saddle.objective import Objective

EXACT = 1e-6
"""Relative differences up to this are agreement, whatever their spread: in float64, smooth networks show 1e-10."""

SMALL = 1e-8
"""Entries of this size beside the whole product are rounding."""

TRUSTED = 10.0
"""A mismatch is one where it is so many times the spread between the steps."""

COARSE = 0.05
"""Products that agree with blurred differences to this, relative to their size, agree coarsely."""

NEARBY = 1e-3
"""Distance of the point nearby, relative to the size of the parameters."""

FEWER = 8
"""By so much the samples are cut where kinks blur the differences."""

LOPSIDED = "u'Hv and v'Hu"
"""In place of a parameter, where products are not symmetric."""

LOOKS = 4
"""Comparisons at most, each of fewer samples or at another point."""

STEPS = (1.0, 0.1)
"""Of the step, relative to the longer one."""


Verdict = Literal["agrees", "differs", "kinks", "blurred"]


class Judged(Protocol):
    """What `compare` needs of a curvature matrix."""

    @property
    def problem(self) -> Objective:
        """The function."""

    def local(self, theta: Tensor, batch: Batch, rows: Tensor) -> Tensor:
        """A_b V' for rows V' (k, N), at theta, without division by the weight."""

    def differences(self, theta: Tensor, batch: Batch, v: Tensor, step: float) -> Difference:
        """The same for one v (N,), by central differences of the user's own code."""


@dataclass(frozen=True)
class Difference:
    """Central differences with one step."""

    product: Tensor  # (N,), of the shares, as `local`
    slope: float  # of the share along v; NaN where the matrix is not the Hessian of the share
    value: float  # of the share, mean of both sides


@dataclass(frozen=True)
class Comparison:
    """Products against differences at one point, for some samples."""

    verdict: Verdict
    error: float  # |H v - D v| / |D v|, the smaller of the two steps
    spread: float  # |D v of one step - of the other| / |D v|
    where: str  # the parameter that differs most; empty where none does
    slope: float  # relative difference of the slopes
    samples: int


def compare(matrix: Judged, theta: Tensor, batch: Batch, seed: int = 0, *, both: bool = True) -> Comparison:
    """The product with one random vector against central differences at theta, over the samples of the batch.

    Without `both`, the shorter step is taken only where the longer one does not agree, and symmetry is not asked.
    """
    problem = matrix.problem
    generator = torch.Generator().manual_seed(seed)
    v, u = torch.randn(2, len(theta), generator=generator, dtype=torch.float64).to(theta)
    for index in problem.still():
        v[index.to(v.device)] = 0
    product, *crossed = matrix.local(theta, batch, torch.stack([v, u]) if both else v[None])
    unit = step_unit(problem, theta)
    lopsided = bool(product.isfinite().all()) and _lopsided(problem, u, v, product, *crossed)
    first = matrix.differences(theta, batch, v, unit * STEPS[0])
    if lopsided:
        return Comparison("differs", _relative(product, first.product), 0.0, LOPSIDED, 0.0, batch.size)
    if not both and not _apart(problem, product, [first.product]):
        return Comparison("agrees", _relative(product, first.product), float("nan"), "", 0.0, batch.size)
    second = matrix.differences(theta, batch, v, unit * STEPS[1])
    slope = problem.slope_at(theta, batch) @ v if first.slope == first.slope else None
    return judge(problem, product, first, second, slope, batch.size)


def _lopsided(problem: Objective, u: Tensor, v: Tensor, product: Tensor, crossed: Tensor | None = None) -> bool:
    """Whether u'Hv and v'Hu differ by more than rounding: to the square root of its unit; NaN is no agreement."""
    if crossed is None:
        return False
    eps = float(torch.finfo(getattr(problem, "arithmetic", problem.dtype)).eps)
    size = float(u.norm() * product.norm()) / max(1, problem.size) ** 0.5
    return not float((u @ product - v @ crossed).abs()) <= eps**0.5 * size


def judge(
    problem: Objective, product: Tensor, first: Difference, second: Difference, slope: Tensor | None, samples: int
) -> Comparison:
    """The verdict on a product, given differences with the longer and the shorter step."""
    found = [first.product, second.product]
    size, spread = float(found[1].norm()), float((found[0] - found[1]).norm())
    error = min((_relative(product, d) for d in found), key=_nan_last)
    where = _apart(problem, product, found)
    slope_error, slopes_differ = _slopes(slope, first, second)
    said: Verdict = "agrees"
    if not bool(product.isfinite().all()):
        said = "differs"
    elif where:
        said = _kind(product[problem.ranges[where]], [d[problem.ranges[where]] for d in found])
    elif slopes_differ:
        jumps = any(_jumps([d[part] for d in found], 1e-3 * size) for part in problem.ranges.values())
        said = "kinks" if jumps else "differs"
    return Comparison(said, error, spread / size if size > 0 else 0.0, where, slope_error, samples)


def _kind(product: Tensor, found: list[Tensor]) -> Verdict:
    """What a mismatch is: the differences agree with each other, or jump, or neither."""
    error = min((float((product - d).norm()) for d in found), key=_nan_last)
    if not error <= TRUSTED * float((found[0] - found[1]).norm()):
        return "differs"
    return "kinks" if _jumps(found, 0.0) else "blurred"


def _jumps(found: list[Tensor], least: float) -> bool:
    """Whether differences grow as the step falls: a jump of the gradient within both steps."""
    longer, shorter = (float(d.norm()) for d in found)
    return shorter > max(least, 3 * longer)


def step_unit(problem: Objective, theta: Tensor) -> float:
    """The longer step, absolute: eps^0.4 of the arithmetic inside, times the root mean square of the parameters.

    The cube root of eps would be the best for a smooth function; shorter ones pass fewer kinks.
    """
    arithmetic = getattr(problem, "arithmetic", problem.dtype)
    scale = float(theta.norm()) / max(1, len(theta)) ** 0.5
    return float(torch.finfo(arithmetic).eps ** 0.4) * (scale if scale > 0 else 1.0)


def own_difference(problem: Objective, theta: Tensor, batch: Batch, v: Tensor, step: float) -> Difference:
    """Central differences of the gradient of a share, by the user's own code and plain autograd: two evaluations."""
    (above, up), (below, down) = (problem.own_slope(theta + s * v, batch) for s in (step, -step))
    slope = float(above - below) / (2 * step)
    return Difference((up - down) / (2 * step), slope, float(above + below) / 2)


def _relative(product: Tensor, difference: Tensor) -> float:
    size = float(difference.norm())
    error = float((product - difference).norm())
    return error / size if size > 0 else error


def _nan_last(x: float) -> float:
    return x if x == x else float("inf")


def _apart(problem: Objective, product: Tensor, found: list[Tensor]) -> str:
    """The parameter in which the product agrees with none of the differences; empty where there is none."""
    whole = max(float(d.norm()) for d in found)
    worst, place = 0.0, ""
    for name, part in problem.ranges.items():
        sizes = [float(d[part].norm()) for d in found]
        errors = [float((product[part] - d[part]).norm()) for d in found]
        excess = min(
            (e / max(EXACT * s, SMALL * whole, 1e-300) if e == e else float("inf"))
            for e, s in zip(errors, sizes, strict=True)
        )
        if excess > 1 and excess > worst:
            worst, place = excess, name
    return place


def _slopes(slope: Tensor | None, first: Difference, second: Difference) -> tuple[float, bool]:
    """(relative difference of the slopes, whether it is a mismatch)."""
    if slope is None:
        return 0.0, False
    exact = float(slope)
    errors = [abs(exact - d.slope) for d in (first, second)]
    size = max(abs(first.slope), abs(exact))
    error = min(errors) / size if size > 0 else min(errors)
    spread = abs(first.slope - second.slope)
    wrong = not (min(errors) <= max(1e-4 * size, TRUSTED * spread))
    return error, wrong


def looked_at(matrix: Judged, batch: Batch, seed: int = 0) -> tuple[Comparison, bool]:
    """(the comparison that says most, whether it was made nearby): with fewer samples where kinks blur differences."""
    problem = matrix.problem
    theta, nearby = problem.theta, False
    tried: list[Comparison] = []
    while True:
        found = compare(matrix, theta, batch, seed)
        tried.append(found)
        if found.verdict in ("agrees", "differs") or len(tried) == LOOKS:
            break
        if found.verdict == "kinks" and not nearby:
            theta, nearby = beside(theta, seed), True
            continue
        if batch.size == 1 or not batch.divisible:
            break
        batch = problem.weighed(evenly(batch, max(1, batch.size // FEWER)))
    best = found if found.verdict in ("agrees", "differs") else min(tried, key=lambda c: _nan_last(c.error))
    return best, nearby


def beside(theta: Tensor, seed: int) -> Tensor:
    """A point near theta at which no sample lies on a kink."""
    generator = torch.Generator().manual_seed(seed + 1)
    scale = float(theta.norm()) / max(1, len(theta)) ** 0.5
    w = torch.randn(len(theta), generator=generator, dtype=torch.float64).to(theta)
    return theta + NEARBY * (scale if scale > 0 else 1.0) * w


SUSPECTS = {
    "LinalgVectorNorm": "a norm of zeros (write x.square().sum() for its square, or add a constant inside a root)",
    "Norm": "a norm of zeros (write x.square().sum() for its square, or add a constant inside a root)",
    "Cdist": "a distance of equal points (write the squares out, with a small constant inside the root)",
    "Sinc": "torch.sinc at 0 (write its series where |x| is small)",
    "ScatterReduce": "scatter_reduce (take exp of a sum of logarithms for a product)",
    "IndexReduce": "index_reduce (take exp of a sum of logarithms for a product)",
    "Prod": "prod where factors are 0",
    "CholeskyInverse": "torch.cholesky_inverse (write torch.cholesky_solve(identity, L))",
    "Logcumsumexp": "torch.logcumsumexp (write cumsum of exp(x - max), log, + max)",
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
