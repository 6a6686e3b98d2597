"""The paper's way of counting, as its published code shows it, and where its numbers come from.

    H in float32, not symmetrized;  all eigenvalues by a general (non-symmetric) solver;
    positive: > 0,  negative: < 0,  zero: == 0       (of the real parts)

Decoupled zero rows survive as exact zeros; every other eigenvalue gets a sign, also where rounding decides it. NumPy's
`eig` solves a float32 matrix in float64 (`numpy.linalg._linalg._commonType`), so that the rounding is the matrix's;
torch's stays in float32. All four solvers, general and symmetric, in either type, show what decides.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lanczos_saddle.dense.sylvester import Sylvester
from lanczos_saddle.machine.memory import require_bytes
from lanczos_saddle.operators.operator import Operator, unit_products
from lanczos_saddle.structure import closed_form

COLUMNS = 7_000
"""Up to this many parameters the general solvers see a matrix made of products: not symmetric, as the paper's was."""

ALIKE = 1e-4
"""A closed form differs from products by less than this, relative; on digits by 4e-7."""

NO_WORSE = 2.0
"""A saturated softmax leaves float32 less of H: there a closed form may be off by so many times what products are."""


@dataclass(frozen=True)
class Signs:
    """Eigenvalues by the sign that a solver gives them."""

    negative: int
    zero: int  # exactly
    positive: int


@dataclass(frozen=True)
class Convention:
    """Counts by sign of one float32 matrix A, by four solvers; None where one was left out."""

    general_double: Signs | None  # float64 on A: the paper's, if it called NumPy
    double: Signs  # float64, symmetric, on (A + A') / 2: of all eigenvalues, or by inertia
    general: Signs | None  # float32 on A
    symmetric: Signs | None  # float32, symmetric, on (A + A') / 2
    half_minimum: int | None  # the code's second reading, unused there: == 0, or negative above half the smallest
    complex: int | None  # eigenvalues by `general_double` that are not real
    asymmetry: float  # |A - A'|_F / |A|_F
    zero_rows: int  # rows of A that are exactly zero
    assembly: str  # "products", or "closed form"
    margin: float | None  # of the inertia: an eigenvalue closer to 0 may count on either side; None with eigenvalues


def convention(operator: Operator, *, general: bool = True, block: int = 64) -> Convention:
    """Count as the paper's code does, from the float32 products of `operator` with unit vectors.

    Above COLUMNS parameters, and without the general solvers, which alone tell A from its symmetric part, a recognized
    network is assembled in closed form, in float32, if that is as near to float64 as products: other rounding errors,
    of the same size (on digits the counts by sign move by four at most).

    Rows that are exactly zero, with their columns, are decoupled: they are counted as zeros, and the solvers see the
    rest (LAPACK's balancing isolates them, too).

    Cost: N products or a closed form, 8 N^2 bytes three times over, and about 13 N^3 operations of each general solver;
    without `general` there is `double` alone, by Sylvester's law of inertia at 0: N^3 / 3 operations.
    Raises ValueError for an operator that is not float32, and where these bytes are not free.
    """
    if operator.dtype != torch.float32:
        raise ValueError(f"the paper's matrices are float32; got an operator of {operator.dtype}: make it float32")
    needed = 3 * 8 * operator.shape[0] ** 2
    require_bytes(needed, operator.device, "solving the float32 matrix", "free memory, or take fewer units")
    matrix, assembly = _matrix(operator, block, as_products=general and operator.shape[0] <= COLUMNS)
    zero = (matrix == 0).all(0) & (matrix == 0).all(1)
    alive = (~zero).nonzero().squeeze(1)
    rest = matrix[alive][:, alive]
    del matrix
    dead = int(zero.sum())
    asymmetry = float((rest - rest.mT).norm() / rest.norm()) if len(rest) else 0.0
    mean = (rest + rest.mT) / 2
    if not general:
        del rest
        found = Sylvester(mean.double()).at(0.0)
        double = Signs(found.below, dead + len(mean) - sum(found), found.above)
        return Convention(None, double, None, None, None, None, asymmetry, dead, assembly, found.margin)
    values = torch.linalg.eigvals(rest.double())
    return Convention(
        general_double=signs(values.real, dead),
        double=signs(torch.linalg.eigvalsh(mean.double()), dead),
        general=signs(torch.linalg.eigvals(rest).real, dead),
        symmetric=signs(torch.linalg.eigvalsh(mean), dead),
        half_minimum=dead + _half_minimum(values.real),
        complex=int((values.imag != 0).sum()),
        asymmetry=asymmetry,
        zero_rows=dead,
        assembly=assembly,
        margin=None,
    )


def _half_minimum(real: Tensor) -> int:
    smallest = float(real.min()) if len(real) else 0.0
    return int((real == 0).sum()) + int(((real < 0) & (real > smallest / 2)).sum())


def signs(values: Any, zeros: int = 0) -> Signs:
    """Counts < 0, == 0, > 0 of eigenvalues (N,), and `zeros` more zeros."""
    return Signs(int((values < 0).sum()), int((values == 0).sum()) + zeros, int((values > 0).sum()))


def _matrix(operator: Operator, block: int, *, as_products: bool) -> tuple[Tensor, str]:
    if not as_products:
        size = operator.shape[0]
        matrix = torch.empty(size, size, dtype=operator.dtype, device=operator.device)
        if closed_form.fill(operator, matrix) and (
            closed_form.compare(operator, matrix, ALIKE).holds or closed_form.as_exact(operator, matrix, NO_WORSE)
        ):
            return matrix, "closed form"
    return columns(operator, block), "products"


def columns(operator: Operator, block: int) -> Tensor:
    """A (N, N), column j the product with e_j, as computed: in the operator's type, not symmetrized."""
    size = operator.shape[0]
    matrix = torch.empty(size, size, dtype=operator.dtype, device=operator.device)
    with torch.no_grad():
        for part, product in unit_products(operator, torch.arange(size, device=operator.device), block):
            matrix[:, part] = product
    return matrix
