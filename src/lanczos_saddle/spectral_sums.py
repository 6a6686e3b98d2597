"""Sums over all eigenvalues, from products alone, with intervals that hold: tr H, tr f(H), log det (H + c I).

    tr H           Hutch++ (Meyer, Musco, Musco & Woodruff 2021): exactly on the span of a sketch, by probes beside it
    tr f(H)        stochastic Lanczos quadrature (Ubaru, Chen & Saad 2017), each probe bracketed (`function_brackets`)

The probes' part of an interval is no estimate of variance: it is a tail bound for Gaussian quadratic forms, with every
constant it needs bounded from the same products (`quadratic_forms`). It holds for every number of probes and every
symmetric matrix, with at least the stated confidence; the usual standard error, which is asymptotic, stands beside it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lanczos_saddle.certificates.function_brackets import Integral, Shape, integral_bracket
from lanczos_saddle.certificates.intervals import check_confidence
from lanczos_saddle.certificates.quadratic_forms import deviation, most_trace
from lanczos_saddle.defaults import CONFIDENCE
from lanczos_saddle.krylov.basis import basis_bytes, basis_room
from lanczos_saddle.krylov.gauss import gauss_rule
from lanczos_saddle.krylov.lanczos import Lanczos, Tridiagonalization
from lanczos_saddle.krylov.preflight import Preflight, preflight, unchanged
from lanczos_saddle.krylov.witness import Witness
from lanczos_saddle.machine.memory import free_bytes, require_bytes
from lanczos_saddle.machine.progress import made, stage
from lanczos_saddle.machine.streams import Streams, check_generator
from lanczos_saddle.operators.hermitian import Hermitian
from lanczos_saddle.operators.inference import differentiable
from lanczos_saddle.operators.leading import led
from lanczos_saddle.operators.operator import Operator, as_operator, unit_products
from lanczos_saddle.operators.resolution import SAFETY, recurrence_noise
from lanczos_saddle.operators.scalars import real, whole

Array = NDArray[np.float64]

PROBES, STEPS = 32, 50

SIGNS = frozenset((odd, even) for odd in (1, -1) for even in (1, -1, 0))
"""Of the odd and the even derivatives, that brackets know of."""

SWAPPED = 1e-8
"""Of |f(a)| + |f(b)|: how far rounding may carry a lower bound above an upper one."""

BLOCK = 64
"""Unit vectors that are multiplied at once where a trace is exact."""


@dataclass(frozen=True)
class SpectralSum:
    """lower <= the sum <= upper with `confidence`, for every number of probes; rounding of the products included."""

    estimate: float
    lower: float
    upper: float
    confidence: float
    standard_error: float  # of the probes, from their spread: asymptotic, and not what the interval is made of
    quadrature: float  # half of what the brackets leave between them, of the width; 0 for a trace
    size: int  # N
    probes: int  # 0 where the sum is exact
    steps: int  # per probe
    products: int  # H @ v, everything included

    def __contains__(self, value: float) -> bool:
        return self.lower <= value <= self.upper

    def __str__(self) -> str:
        how = f"{100 * self.confidence:g} %, {self.probes} probes x {self.steps} steps" if self.probes else "exact"
        ends = f"[{self.lower:.6g}, {self.upper:.6g}] ~ {self.estimate:.6g}"
        return f"{ends}   N = {self.size}, {how}, {self.products} products"


@led
@differentiable
def trace(
    operator: Any,
    *,
    probes: int = PROBES,
    sketch: int | None = None,
    confidence: float = CONFIDENCE,
    generator: torch.Generator | None = None,
) -> SpectralSum:
    """tr H with an interval: tr Q'HQ exactly, and the mean of g'PHPg over Gaussian g for the rest, P = I - QQ'.

    Q spans H S for a Gaussian S (N, sketch) on which the probes do not depend: what few large eigenvalues add is
    known without chance. `sketch`: columns, as many as `probes` if not given; 0 is Hutchinson's estimator,
    with Gaussian probes.

    Cost: 2 sketch + probes products and 14 more; N products, and no chance, where that is not more.

    Raises ValueError for bad arguments, memory that cannot suffice, and an operator that fails `check_operator`.
    """
    base, share = as_operator(operator), _checked(confidence, generator) / 3
    probes = _at_least("probes", probes, 1)
    sketch = probes if sketch is None else _at_least("sketch", sketch, 0)
    if isinstance(base, Hermitian):
        return _half(trace(base.real, probes=probes, sketch=sketch, confidence=confidence, generator=generator))
    size = base.shape[0]
    require_bytes(24 * size * max(probes, sketch), base.device, f"a trace from {probes} probes", "pass fewer probes")
    streams = Streams(generator).split("check", "sketch", "probes")
    found, witness = preflight(base, generator=streams["check"]), Witness()
    watched = witness.watch(base)
    if 2 * sketch + probes >= size:
        return _exact_trace(watched, base, found, witness, confidence)
    known, basis = 0.0, torch.zeros(size, 0, dtype=torch.float64, device=base.device)
    if sketch:
        with stage("sketch", 2 * sketch):
            basis = torch.linalg.qr(_times(watched, _gaussian(size, sketch, streams["sketch"], base))).Q
            known = float((basis * _times(watched, basis)).sum())
    start = _gaussian(size, probes, streams["probes"], base)
    start = start - basis @ (basis.mT @ start)
    with stage("probes", probes):
        image = _times(watched, start)
    forms = (start * image).sum(0).cpu().numpy()
    image = image - basis @ (basis.mT @ image)
    frobenius = math.sqrt(most_trace(float(image.square().sum()) / probes, probes, share))
    half = deviation(frobenius, frobenius, probes, share) + _rounding(found, size)
    unchanged(found, base, witness)
    estimate = known + float(forms.mean())
    error = float(forms.std(ddof=1) / math.sqrt(probes)) if probes > 1 else math.inf
    products = found.check.products + 2 * sketch + probes + 1
    return SpectralSum(estimate, estimate - half, estimate + half, confidence, error, 0.0, size, probes, 1, products)


@led
@differentiable
def spectral_sum(
    operator: Any,
    function: Callable[[Array], Array],
    *,
    derivatives: tuple[int, int],
    lowest: float,
    highest: float | None = None,
    probes: int = PROBES,
    steps: int = STEPS,
    confidence: float = CONFIDENCE,
    generator: torch.Generator | None = None,
) -> SpectralSum:
    """tr f(H) = sum of f(lambda_i) for a monotone f, with an interval.

        spectral_sum(H, np.exp, derivatives=(1, 1), lowest=-2.0, highest=9.0)

    Args:
        operator: anything `as_operator` takes.
        function: f, of arrays (n,); finite on [lowest, highest].
        derivatives: (odd, even): the sign, 1 or -1, of f', f''', ... and of f'', f'''', ... on [lowest, highest];
            even = 0 says that f' alone has one sign, and gives wider brackets. log x (1, -1), exp x (1, 1),
            1 / x (-1, 1).
        lowest: a bound that the caller can prove: no eigenvalue lies below. One that a Ritz value refutes is refused.
        highest: the same from above; if not given, the Frobenius norm of H bounds it, at a share of the confidence.
        probes, steps: m + 1 recurrences of so many products; one is spent on a constant c, and f - c is what varies.
        generator: seeds everything random, drawn on the CPU; seed 0 if not given.

    The interval is N c + mean of |g|^2 [bracket of int (f - c) dF_g], widened by the tail bound at |f(H) - c|_F, which
    is bounded from the same recurrences, and by what their rounding can do.
    Cost: (probes + 1) steps products and 14 more.

    Raises ValueError for bad arguments, bounds that are not those of the spectrum, memory that cannot suffice, and an
    operator that fails `check_operator`.
    """
    base, alpha = as_operator(operator), _checked(confidence, generator)
    probes, steps = _at_least("probes", probes, 2), _at_least("steps", steps, 2)
    if not isinstance(derivatives, tuple | list) or tuple(derivatives) not in SIGNS:
        raise ValueError(
            f"derivatives are the signs of the odd and the even ones, (1, -1) of a logarithm say; got {derivatives}: "
            "f must be monotone, and even = 0 where the others change sign"
        )
    odd, even = derivatives
    low, high = real("lowest", lowest), None if highest is None else real("highest", highest)
    if isinstance(base, Hermitian):
        known: dict[str, Any] = {"derivatives": derivatives, "lowest": low, "highest": high}
        plan: dict[str, Any] = {"probes": probes, "steps": steps, "confidence": confidence, "generator": generator}
        return _half(spectral_sum(base.real, function, **known, **plan))
    size = base.shape[0]
    steps = min(steps, size)
    kept, beside = basis_bytes(base, probes + 1, steps), 8 * size * (probes + 1) * 6
    most = beside + basis_room(base, free_bytes(base.device), beside=beside)
    require_bytes(kept + beside, base.device, f"{probes} probes x {steps} steps", "pass fewer of them", limit=most)
    streams = Streams(generator).split("check", "probes")
    found, witness = preflight(base, generator=streams["check"]), Witness()
    start = torch.randn(size, probes + 1, generator=streams["probes"], dtype=torch.float64)
    with stage("probes", (probes + 1) * steps):
        run = Lanczos(witness.watch(base), start, reorthogonalize=True, capacity=steps).extend(steps)
    unchanged(found, base, witness)
    share = alpha / (3 if high is not None else 4)
    nodes = np.concatenate([gauss_rule(*run.coefficients(i)).nodes for i in range(run.probes)])
    # a Ritz value above the bound is that chance, and no mistake of the caller
    shape = Shape(function, low, max(_highest(run, share), nodes.max()) if high is None else high, odd, even)
    _check_bounds(nodes, shape, recurrence_noise(found.check, run.steps))
    return _summed(run, nodes, shape, found, (confidence, share))


def log_determinant(
    operator: Any,
    shift: float = 0.0,
    *,
    lowest: float,
    highest: float | None = None,
    probes: int = PROBES,
    steps: int = STEPS,
    confidence: float = CONFIDENCE,
    generator: torch.Generator | None = None,
) -> SpectralSum:
    """log det (H + c I), c = `shift`, where no eigenvalue lies below `lowest` > -c, which the caller can prove.

    0 is such a bound for a Gauss-Newton matrix of a convex loss. The bracket of each probe is that of Gauss and of
    Gauss-Radau with a node at `lowest`, since the derivatives of the logarithm alternate; otherwise as `spectral_sum`.
    """
    c, low = real("shift", shift), real("lowest", lowest)
    if not low + c > 0:
        raise ValueError(
            f"the logarithm needs lowest + shift > 0; got {low:g} + {c:g}: a larger shift, or a larger bound that holds"
        )
    return spectral_sum(
        operator,
        lambda x: np.log(x + c),
        derivatives=(1, -1),
        lowest=low,
        highest=highest,
        probes=probes,
        steps=steps,
        confidence=confidence,
        generator=generator,
    )


def _summed(
    run: Tridiagonalization, nodes: Array, shape: Shape, found: Preflight, stated: tuple[float, float]
) -> SpectralSum:
    """The interval of a finished run, whose first recurrence gives the constant."""
    (confidence, share), probes, size = stated, run.probes - 1, len(found.vector)
    center = integral_bracket(*run.coefficients(0), shape, 0.0).estimate
    parts: list[Integral] = [integral_bracket(*run.coefficients(i), shape, center) for i in range(1, run.probes)]
    change = _change(nodes, shape, recurrence_noise(found.check, run.steps))
    _check_signs(parts, shape, change)
    squares = run.norms[1:] ** 2
    one, middle, other, square = (
        squares * (np.array([getattr(part, name) for part in parts]) - constant)
        for name, constant in (("lower", center), ("estimate", center), ("upper", center), ("square", 0.0))
    )
    lower, upper = np.minimum(one, other), np.maximum(one, other)  # rounding may have swapped them
    ends = shape.at(np.array([shape.lowest, shape.highest]))
    largest = float(np.abs(ends - center).max())
    frobenius = min(math.sqrt(most_trace(float(square.mean()), probes, share)), math.sqrt(size) * largest)
    half = deviation(frobenius, min(frobenius, largest), probes, share) + size * change
    return SpectralSum(
        size * center + float(middle.mean()),
        size * center + float(lower.mean()) - half,
        size * center + float(upper.mean()) + half,
        confidence,
        float(middle.std(ddof=1)) / math.sqrt(probes),
        float((upper - lower).mean()) / 2,
        size,
        probes,
        run.steps,
        found.check.products + run.products + 1,
    )


def _highest(run: Tridiagonalization, share: float) -> float:
    """|H|_F from |H g|^2 = |g|^2 (alpha_1^2 + beta_1^2), an upper bound on every eigenvalue."""
    squares = run.norms**2 * (run.diagonal[:, 0] ** 2 + run.offdiagonal[:, 0] ** 2)
    return math.sqrt(most_trace(float(squares.mean()), run.probes, share)) or 1.0


def _check_bounds(nodes: Array, shape: Shape, slack: float) -> None:
    """Refuse bounds that Ritz values refute: between any two of them, and beyond each, lies an eigenvalue."""
    low, high = shape.lowest, shape.highest
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ValueError(f"the spectrum needs finite bounds lowest < highest; got {low:g}, {high:g}: pass wider ones")
    if nodes.min() < low - slack or nodes.max() > high + slack:
        raise ValueError(
            f"the bounds must be those of the spectrum; got [{low:g}, {high:g}], but eigenvalues lie at or beyond "
            f"{nodes.min():.6g} and {nodes.max():.6g}: correct lowest and highest"
        )


def _check_signs(parts: list[Integral], shape: Shape, change: float) -> None:
    """Refuse signs of derivatives that the brackets refute: a lower bound above an upper one, beyond rounding."""
    crossing = max(part.lower - part.upper for part in parts)
    ends = shape.at(np.array([shape.lowest, shape.highest]))
    if crossing > 4 * change + SWAPPED * float(np.abs(ends).sum()):
        raise ValueError(
            f"the derivatives of f must have the signs that are given, ({shape.odd}, {shape.even}); they have not, as "
            f"a lower bound lies {crossing:.1e} above an upper one: correct them, or pass even = 0"
        )


def _change(nodes: Array, shape: Shape, noise: float) -> float:
    """What f changes by at most where the noise of the recurrences moves what the brackets are made of.

    That is f at Ritz values and at the ends; where f'' has one sign, f is steepest at an end.
    """
    places = np.clip(np.concatenate([[shape.lowest], nodes, [shape.highest]]), shape.lowest, shape.highest)
    above, below = (np.clip(places + shift, shape.lowest, shape.highest) for shift in (noise, -noise))
    return float(np.abs(shape.at(above) - shape.at(below)).max())


def _exact_trace(
    watched: Operator, base: Operator, found: Preflight, witness: Witness, confidence: float
) -> SpectralSum:
    """The sum of u'Hu over unit vectors."""
    size, total = base.shape[0], 0.0
    with stage("trace", size):
        for part, columns in unit_products(watched, torch.arange(size, device=base.device), BLOCK):
            total += float(columns[part, torch.arange(len(part), device=base.device)].to(torch.float64).sum())
            made(len(part))
    unchanged(found, base, witness)
    half, products = _rounding(found, size), found.check.products + size + 1
    return SpectralSum(total, total - half, total + half, confidence, 0.0, 0.0, size, 0, 1, products)


def _rounding(found: Preflight, size: int) -> float:
    """What the noise of the products does to a trace at most: |u'Eu| of N unit vectors."""
    return SAFETY * size * found.check.noise


def _times(operator: Operator, v: Tensor) -> Tensor:
    """H V in float64."""
    product = (operator @ v.to(operator.dtype)).detach().to(torch.float64)
    made(v.shape[1])
    return product


def _gaussian(size: int, columns: int, generator: torch.Generator, operator: Operator) -> Tensor:
    return torch.randn(size, columns, generator=generator, dtype=torch.float64).to(operator.device)


def _checked(confidence: float, generator: torch.Generator | None) -> float:
    """What may fail, 1 - confidence."""
    confidence = real("confidence", confidence)
    check_confidence(confidence)
    check_generator(generator)
    return 1 - confidence


def _at_least(name: str, value: int, least: int) -> int:
    number = whole(name, value)
    if number < least:
        raise ValueError(f"{name} must be at least {least}; got {number}")
    return number


def _half(found: SpectralSum) -> SpectralSum:
    """Of a complex Hermitian matrix, from that of its real form, where every eigenvalue is there twice."""
    names = ("estimate", "lower", "upper", "standard_error", "quadrature")
    return replace(found, size=found.size // 2, **{name: getattr(found, name) / 2 for name in names})
