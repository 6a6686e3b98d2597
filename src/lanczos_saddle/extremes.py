"""The largest |eigenvalue|, which relative thresholds refer to."""

from __future__ import annotations

import torch

from lanczos_saddle.lanczos import Lanczos
from lanczos_saddle.operator import Operator
from lanczos_saddle.quadrature import gauss_rule

STEPS = 100
"""Products that may find the largest |eigenvalue|."""


def largest_magnitude(operator: Operator, generator: torch.Generator, *, steps: int = STEPS) -> tuple[float, int]:
    """(largest |Ritz value| of a run of its own, products spent): stops when it moves by less than 1e-10 of itself."""
    probe = torch.randn(operator.shape[0], 1, generator=generator, dtype=torch.float64)
    run = Lanczos(operator, probe, reorthogonalize=False)
    largest = 0.0
    last = min(steps, operator.shape[0])
    for look in [*range(10, last, 10), last]:
        coefficients = run.extend(look)
        diagonal, off = coefficients.coefficients(0)
        found = float(abs(gauss_rule(diagonal, off).nodes).max())
        if abs(found - largest) <= 1e-10 * found:
            break
        largest = found
    return found, run.products
