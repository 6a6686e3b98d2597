"""Unit vectors at both ends of the spectrum, and what one explicit product with each proves.

    lambda_min  <=  v'Hv  <=  lambda_max       for every unit vector v, and some eigenvalue lies within
    |Hv - (v'Hv) v| of v'Hv

How v was found (Lanczos from a random vector) proves nothing and needs no proof; that it has found the ends is not
claimed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.linalg import eigh_tridiagonal
from torch import Tensor

from lanczos_saddle.counting.enumeration import explicit_compression
from lanczos_saddle.defaults import STEPS
from lanczos_saddle.krylov.basis import basis_room
from lanczos_saddle.krylov.lanczos import Lanczos
from lanczos_saddle.krylov.preflight import check_operator
from lanczos_saddle.machine.memory import RESERVE, available_bytes, require_bytes
from lanczos_saddle.machine.progress import during
from lanczos_saddle.machine.streams import Streams
from lanczos_saddle.operators.hermitian import require_real
from lanczos_saddle.operators.leading import led
from lanczos_saddle.operators.operator import Operator, as_operator, precise
from lanczos_saddle.operators.resolution import OperatorCheck

SETTLED = 1e-3
"""An end is found when the residual of its Ritz vector is below this fraction of its Ritz value."""


@dataclass(frozen=True)
class Direction:
    """A unit vector and its Rayleigh quotient: lambda_min <= quotient + error, lambda_max >= quotient - error."""

    vector: Tensor  # (N,) float64, norm 1, on the operator's device
    quotient: float  # v'Hv / v'v from an explicit product, in float64 where the operator can be had so
    residual: float  # |Hv - quotient v|: some eigenvalue lies within residual + error of the quotient
    error: float  # what noise of the product and rounding can do to the quotient

    @property
    def above_lowest(self) -> float:
        """lambda_min is at most this."""
        return self.quotient + self.error

    @property
    def below_highest(self) -> float:
        """lambda_max is at least this."""
        return self.quotient - self.error


@led
def extreme_eigenpairs(
    operator: Any, *, steps: int = STEPS, generator: torch.Generator | None = None
) -> tuple[Direction, Direction]:
    """The eigenpairs at the lower and the upper end, as far as Lanczos finds them in `steps` products.

    Of each: a unit vector v, its quotient q = v'Hv from an explicit product, and |Hv - q v|: some eigenvalue lies
    within residual + error of q. That it is the outermost is not claimed. Cost: up to `steps` products and 15 more, and
    a basis of `steps` vectors, or fewer where memory is short. Raises ValueError where `check_operator` does.
    """
    base = as_operator(operator)
    require_real(base, "extreme_eigenpairs")
    streams = Streams(generator).split("check", "directions")
    check = check_operator(base, generator=streams["check"])
    low, high, _ = end_vectors(base, streams["directions"], steps=steps)
    exactly = precise(base)
    return certified_direction(exactly, low, check), certified_direction(exactly, high, check)


@during("directions", lambda operator, *_, steps, **__: min(steps, operator.shape[0]), bound="at most")
def end_vectors(
    operator: Operator, generator: torch.Generator, *, steps: int, resolution: float = 0.0
) -> tuple[Tensor, Tensor, int]:
    """Ritz vectors at the lower and the upper end of the spectrum, (N,) each of norm 1, and the products spent.

    Lanczos from one Gaussian vector, reorthogonalized, for at most `steps` products, or until both residuals are below
    a thousandth of their Ritz values or of `resolution`. The basis is kept: as many steps as half the free memory
    holds are made. Cost beside the products: 4 N steps^2 operations.
    """
    size, width = operator.shape[0], operator.shape[0] * operator.dtype.itemsize
    require_bytes(8 * width, operator.device, "a basis of 4 vectors", "use a machine or a device with more memory")
    room = basis_room(operator, available_bytes(operator.device) - RESERVE, part=2) // width
    last = max(2, min(steps, size, room))
    probe = torch.randn(size, 1, generator=generator, dtype=torch.float64)
    run = Lanczos(operator, probe, reorthogonalize=True, capacity=min(last, size))
    for look in sorted({*(int(20 * 1.25**i) for i in range(60) if 20 * 1.25**i < last), min(last, size)}):
        diagonal, off = run.extend(look).coefficients(0)
        values, vectors = eigh_tridiagonal(diagonal, off[:-1])
        residuals = off[-1] * np.abs(vectors[-1, [0, -1]])
        if (residuals <= SETTLED * np.maximum(np.abs(values[[0, -1]]), resolution)).all():
            break
    low, high = run.kept.combined(0, torch.as_tensor(vectors[:, [0, -1]], device=operator.device)).unbind(1)
    return low / low.norm(), high / high.norm(), run.products


def certified_direction(operator: Operator, vector: Tensor, check: OperatorCheck) -> Direction:
    """The quotient v'Hv / v'v from one explicit product, with what noise and rounding can do to it."""
    column = vector.to(operator.dtype)[:, None]
    image = (operator @ column).detach().to(torch.float64)
    form = explicit_compression(column, image, check)
    square = float(form.gram[0, 0])
    quotient = float(form.quadratic[0, 0]) / square
    error = (form.error + abs(quotient) * form.gram_error) / (square - form.gram_error)
    unit = column[:, 0].to(torch.float64) / square**0.5
    residual = float(torch.linalg.vector_norm(image[:, 0] / square**0.5 - quotient * unit))
    return Direction(unit, quotient, residual, error)
