"""The paper's way of counting, as its published code shows it, and where its numbers come from.

    H in float32, not symmetrized;  all eigenvalues by a general (non-symmetric) solver, float32;
    positive: > 0,  negative: < 0,  zero: == 0       (of the real parts)

Decoupled zero rows survive as exact zeros; every other eigenvalue gets a sign, also where rounding decides it. Two
changes at a time show what decides: the symmetric solver on the same float32 matrix, and float64 on the same matrix.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lanczos_saddle import closed_form
from lanczos_saddle.operator import Operator

COLUMNS = 10_000
"""Up to this many parameters the matrix is made of products, column by column."""


@dataclass(frozen=True)
class Signs:
    """Eigenvalues by the sign that a solver gives them."""

    negative: int
    zero: int  # exactly
    positive: int


@dataclass(frozen=True)
class Convention:
    """Counts by sign of one float32 matrix, by three solvers."""

    general: Signs | None  # the paper's: float32, non-symmetric; None where it was left out
    half_minimum: (
        int | None
    )  # the code's second reading of zero, unused there: == 0, or negative above half the smallest
    complex: int | None  # eigenvalues of the general solver that are not real
    symmetric: Signs  # float32, of (A + A') / 2
    double: Signs  # float64, of the same (A + A') / 2
    asymmetry: float  # |A - A'|_F / |A|_F
    zero_rows: int  # rows of A that are exactly zero
    assembly: str  # "products", or "closed form"


def convention(operator: Operator, *, general: bool = True, block: int = 64) -> Convention:
    """Count as the paper's code does, from the float32 products of `operator` with unit vectors.

    Above COLUMNS parameters a recognized network is assembled in closed form, in float32: other rounding errors, of
    the same size (on digits the counts by sign move by four at most).

    Rows that are exactly zero, with their columns, are decoupled: they are counted as zeros, and the solvers see the
    rest (LAPACK's balancing isolates them, too).

    Cost: N products or a closed form, 4 N^2 bytes four times over, and about 13 N^3 operations of the general solver,
    which `general=False` leaves out.
    Raises ValueError for an operator that is not float32.
    """
    if operator.dtype != torch.float32:
        raise ValueError(f"the paper's matrices are float32; got an operator of {operator.dtype}: make it float32")
    matrix, assembly = _matrix(operator, block)
    zero = (matrix == 0).all(0) & (matrix == 0).all(1)
    alive = (~zero).nonzero().squeeze(1)
    rest = matrix[alive][:, alive]
    del matrix
    dead = int(zero.sum())
    asymmetry = float((rest - rest.mT).norm() / rest.norm()) if len(rest) else 0.0
    by_general, half, not_real = _by_general_solver(rest, dead) if general else (None, None, None)
    rest = (rest + rest.mT) / 2
    return Convention(
        general=by_general,
        half_minimum=half,
        complex=not_real,
        symmetric=signs(torch.linalg.eigvalsh(rest), dead),
        double=signs(torch.linalg.eigvalsh(rest.double()), dead),
        asymmetry=asymmetry,
        zero_rows=dead,
        assembly=assembly,
    )


def _by_general_solver(matrix: Tensor, dead: int) -> tuple[Signs, int, int]:
    """(signs of the real parts, the code's second reading of zero, eigenvalues that are not real)."""
    values = torch.linalg.eigvals(matrix)
    real = values.real
    smallest = float(real.min()) if len(real) else 0.0
    half = dead + int((real == 0).sum()) + int(((real < 0) & (real > smallest / 2)).sum())
    return signs(real, dead), half, int((values.imag != 0).sum())


def signs(values: Any, zeros: int = 0) -> Signs:
    """Counts < 0, == 0, > 0 of eigenvalues (N,), and `zeros` more zeros."""
    return Signs(int((values < 0).sum()), int((values == 0).sum()) + zeros, int((values > 0).sum()))


def _matrix(operator: Operator, block: int) -> tuple[Tensor, str]:
    size = operator.shape[0]
    if size > COLUMNS:
        matrix = torch.empty(size, size, dtype=operator.dtype, device=operator.device)
        if closed_form.fill(operator, matrix):
            return matrix, "closed form"
    return columns(operator, block), "products"


def columns(operator: Operator, block: int) -> Tensor:
    """A (N, N), column j the product with e_j, as computed: in the operator's type, not symmetrized."""
    size = operator.shape[0]
    matrix = torch.empty(size, size, dtype=operator.dtype, device=operator.device)
    with torch.no_grad():
        for part in torch.split(torch.arange(size, device=operator.device), block):
            identity = torch.zeros(size, len(part), dtype=operator.dtype, device=operator.device)
            identity[part, torch.arange(len(part), device=operator.device)] = 1
            matrix[:, part] = operator @ identity
    return matrix
