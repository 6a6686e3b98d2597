"""Is this operator fit to be counted? A handful of products tells before hours are spent.

    determinism   |H v - (H v again)| / |H v|                         dropout, batch norm, sampling loaders
    asymmetry     |u'Hv - v'Hu| over |u'Hv|, root mean squares        about |H - H'|_F / |H|_F
    noise         max |(H v computed) - (H v)| / |v|                  what rounding does to one product

The noise decides how small "zero" can be (docs/method.md). An operator that can be had in float64
(``operator.to(torch.float64)``: `Hessian`, dense tensors) is compared with it; otherwise the defect of additivity
|H(u + v) - Hu - Hv| is taken, which sees rounding but not a consistent error. What is let pass of the first two counts
as noise too: the recurrence takes H for symmetric, and for the same at every product.
"""

from __future__ import annotations

from typing import NoReturn

import torch
from torch import Tensor

from lanczos_saddle.memory import require_bytes
from lanczos_saddle.operator import Operator, arithmetic, fidelity, in_float64
from lanczos_saddle.resolution import RESOLUTION, OperatorCheck

VECTORS = 4
POWER_STEPS = 6
PRODUCTS = VECTORS * (2 + POWER_STEPS + 4)

SMALLEST = 1e-150
"""Squares of smaller numbers lose digits, or vanish."""


def check_operator(
    operator: Operator,
    *,
    threshold: float = 0.0,
    relative_threshold: float = 0.0,
    generator: torch.Generator | None = None,
) -> OperatorCheck:
    """Measure determinism, symmetry and noise; refuse an operator that cannot be counted.

    Costs 48 products. Raises ValueError when a product is not finite, and when two products of one vector differ, or
    u'Hv and v'Hu do, by more than sqrt(eps) of the operator's type: unless the threshold at which it will be counted,
    absolute or a fraction of the largest |eigenvalue|, is known and far above that (`resolution`).
    """
    compared = fidelity(operator)
    generator = generator or torch.Generator().manual_seed(0)
    require_bytes(
        10 * VECTORS * operator.shape[0] * 8,
        operator.device,
        f"the preflight of N = {operator.shape[0]}",
        "use a machine or a device with more memory",
    )
    vectors = _unit(
        torch.randn(operator.shape[0], VECTORS, generator=generator, dtype=torch.float64).to(operator.device)
    )
    images = _product(operator, vectors)
    with torch.random.fork_rng([operator.device] if operator.device.type == "cuda" else []):
        torch.manual_seed(1)  # what draws from torch's global generator shows itself
        change = _product(operator, vectors) - images
    determinism = _relative(change, images)
    asymmetry, skew = _asymmetry(vectors, images)
    if 0 < (largest := float(images.abs().max())) < SMALLEST:
        raise ValueError(
            f"products must not be smaller than {SMALLEST:.0e}, where norms underflow; the largest entry seen is "
            f"{largest:.1e}: multiply the operator, or the loss, by a constant"
        )
    scale = float(_norms(images).max())
    rich = _unit(images)  # power steps: noise is largest along the dominant eigenvectors
    for _ in range(POWER_STEPS):
        images = _product(operator, rich)
        scale = max(scale, float(_norms(images).max()))
        rich = _unit(images)
    tolerance = float(torch.finfo(arithmetic(operator)).eps) ** 0.5
    repeats = float(_norms(change).square().mean().sqrt())
    # E |E v|^2 = |E|_F^2 / N for random unit vectors
    defect = operator.shape[0] ** 0.5 * max(repeats * (determinism > tolerance), skew * (asymmetry > tolerance))
    if RESOLUTION * defect > max(threshold, relative_threshold * scale):
        _refuse(determinism, asymmetry, tolerance)
    noise, source = _noise(operator, torch.cat([vectors, rich], dim=1))
    noise = max(noise, skew, float(_norms(change).max()))
    return OperatorCheck(determinism, asymmetry, noise, source, scale, PRODUCTS, defect, compared)


def _refuse(determinism: float, asymmetry: float, tolerance: float) -> NoReturn:
    """Raise ValueError for the defect, the first where both are there."""
    if determinism > tolerance:
        raise ValueError(
            f"two products with the same vector must agree to {tolerance:.0e}; they differ by {determinism:.1e}: "
            "switch off dropout and batch-norm updates (model.eval()) and use data that are the same at every pass"
        )
    raise ValueError(
        f"the operator must be symmetric to {tolerance:.0e}; u'Hv and v'Hu differ by {asymmetry:.1e} of their "
        "size: it is not the matrix that is meant, nor is its symmetric part; where the loss is so near zero that "
        "rounding shows, use "
        "float64 or a larger threshold"
    )


def _noise(operator: Operator, vectors: Tensor) -> tuple[float, str]:
    """The largest error of a product over the given unit vectors, and what it was measured against."""
    computed = _product(operator, vectors)
    reference = in_float64(operator)
    if reference is not None:
        # the reference sees the vector before it was rounded to the operator's type, as the recurrence does
        exact = reference @ vectors
        return float(_norms(computed - exact).max()), "float64"
    swapped = vectors.roll(1, dims=1)
    return float(
        _norms(_product(operator, vectors + swapped) - computed - computed.roll(1, dims=1)).max()
    ), "additivity"


def _product(operator: Operator, vectors: Tensor) -> Tensor:
    """H V in float64; raises ValueError when it is not finite."""
    product = (operator @ vectors.to(operator.dtype)).detach().to(torch.float64)
    if not bool(product.isfinite().all()):
        raise ValueError(
            "every product H @ v must be finite; got NaN or infinity: look for them in the weights and the data, "
            "or use float64"
        )
    return product


def _asymmetry(vectors: Tensor, images: Tensor) -> tuple[float, float]:
    """(root mean square of u'Hv - v'Hu over that of u'Hv, |K v| for K = (H - H') / 2), over pairs of columns.

    A recurrence sees K as noise: E (u'Kv)^2 = |K|_F^2 / N^2 for random unit vectors, and E |Kv|^2 = |K|_F^2 / N.
    """
    form = vectors.mT @ images
    off = form - form.diagonal().diag()
    size = float(torch.linalg.matrix_norm(off))
    skew = float(torch.linalg.matrix_norm(off - off.mT))
    pairs, n = off.shape[0] * (off.shape[0] - 1), vectors.shape[0]
    return skew / size if size > 0 else 0.0, skew / 2 * (n / pairs) ** 0.5


def _relative(difference: Tensor, reference: Tensor) -> float:
    size = float(_norms(reference).max())
    return float(_norms(difference).max()) / size if size > 0 else 0.0


def _norms(columns: Tensor) -> Tensor:
    norms: Tensor = torch.linalg.vector_norm(columns, dim=0)
    return norms


def _unit(columns: Tensor) -> Tensor:
    """Columns scaled to norm 1; a zero column stays zero."""
    norms = _norms(columns)
    return columns / torch.where(norms > 0, norms, 1.0)
