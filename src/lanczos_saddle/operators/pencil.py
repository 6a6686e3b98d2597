"""The eigenvalues of A x = lambda B x, B positive definite, as those of one symmetric operator.

    B = S S',    C = S^-1 A S^-T,    A x = lambda B x  <=>  C y = lambda y with y = S'x

since S^-1 (A - lambda B) S^-T = C - lambda I. So C has the eigenvalues of the pencil, with multiplicity, whatever S
is: a count of C at a threshold is one of the pencil, and by Sylvester's law of inertia #{lambda < t} is the number of
negative eigenvalues of A - t B, too. A factor that is off, S S' = B + E, counts the pencil (A, B + E). Its
eigenvalues are those of (A, B) up to a factor within 1 +- e / (1 - e), e = |B^-1/2 E B^-1/2| (Ostrowski).

    dense B     Cholesky
    sparse B    SuperLU without row exchanges, P B P' = L D L' with D > 0, S = P' L D^(1/2)
    factor      any S with S S' = B, whose solves are given
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import scipy.sparse
import torch
from scipy.sparse.linalg import splu, spsolve_triangular
from torch import Tensor

from lanczos_saddle.operators.hermitian import require_real
from lanczos_saddle.operators.matrices import is_matrix, stored
from lanczos_saddle.operators.operator import FromFunction, Operator, as_operator

ACCURATE = 1e-10
"""|S S'v - B v| / |B v| of a random v beyond this: not the factor of B."""


class PencilFactor(Protocol):
    """S with S S' = B, by its solves, for columns (N, k) of float64 tensors."""

    def solve(self, v: Tensor, /) -> Tensor:
        """S^-1 v."""

    def solve_transposed(self, v: Tensor, /) -> Tensor:
        """S^-T v."""


def pencil(a: Any, b: Any, *, factor: PencilFactor | None = None) -> Operator:
    """The operator S^-1 A S^-T, whose eigenvalues are the lambda of A x = lambda B x.

        count_eigenvalues(pencil(A, B), threshold=0.1)

    Args:
        a: symmetric, anything `as_operator` takes; only its products are used.
        b: positive definite: a dense matrix or a sparse one, which is factored here. None where `factor` is given.
        factor: S by its solves (`PencilFactor`), for a B that is larger, or known otherwise.

    Cost: N^3 / 3 flops for a dense B, a sparse factorization for a sparse one; then a product of A and two triangular
    solves a product. Complex matrices are not taken. The noise of a product, which the counts measure, grows with the
    condition of S: thresholds that it hides are refused as always.

    Raises ValueError for matrices of different sizes, and for a B that is not symmetric positive definite.
    """
    base = as_operator(a)
    require_real(base, "pencil")
    size, place = int(base.shape[0]), base.device
    if (b is None) == (factor is None):
        raise ValueError("a pencil needs B or its factor, one of them; got " + ("none" if b is None else "both"))
    known = _factored(b, size, place) if factor is None else factor

    def product(v: Tensor) -> Tensor:
        image = base @ known.solve_transposed(v).to(base.dtype)
        return known.solve(image.to(torch.float64))

    return FromFunction(product, size, torch.float64, place)


class _Dense:
    """S = L of Cholesky."""

    def __init__(self, matrix: Tensor) -> None:
        lower, info = torch.linalg.cholesky_ex(matrix)
        if int(info) != 0:
            raise ValueError(
                f"B must be positive definite; the minor of order {int(info)} is not: swap A and B, or "
                "add a multiple of I"
            )
        self.lower = lower

    def solve(self, v: Tensor, /) -> Tensor:
        found: Tensor = torch.linalg.solve_triangular(self.lower, v, upper=False)
        return found

    def solve_transposed(self, v: Tensor, /) -> Tensor:
        found: Tensor = torch.linalg.solve_triangular(self.lower.mT, v, upper=True)
        return found


class _Sparse:
    """S = P' L D^(1/2) of SuperLU with diagonal pivots."""

    def __init__(self, matrix: Any) -> None:
        options = {"SymmetricMode": True, "DiagPivotThresh": 0.0}
        try:
            lu = splu(matrix.tocsc(), permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options=options)
        except RuntimeError as error:
            raise ValueError(f"B must be positive definite; it is singular ({error})") from error
        diagonal = lu.U.diagonal()
        if not (diagonal > 0).all() or not np.array_equal(lu.perm_r, lu.perm_c):
            raise ValueError(
                "B must be positive definite; a pivot of its factorization is not positive: swap A and B, or add a "
                "multiple of I"
            )
        self.order = np.argsort(lu.perm_r)
        self.back = lu.perm_r
        self.lower = (lu.L @ scipy.sparse.diags_array(np.sqrt(diagonal))).tocsr()
        self.upper = self.lower.T.tocsr()

    def solve(self, v: Tensor, /) -> Tensor:
        return torch.from_numpy(spsolve_triangular(self.lower, v.numpy()[self.order], lower=True))

    def solve_transposed(self, v: Tensor, /) -> Tensor:
        return torch.from_numpy(spsolve_triangular(self.upper, v.numpy(), lower=False)[self.back])


def _factored(b: Any, size: int, place: torch.device) -> PencilFactor:
    """The factor of a matrix, after a look at its symmetry and at the factor itself."""
    if not is_matrix(b):
        raise ValueError(f"B must be a dense or a sparse matrix; got {type(b).__name__}: pass factor= for all else")
    matrix = stored(b)
    if matrix.shape != (size, size):
        raise ValueError(f"A and B must have one size, ({size}, {size}); got B of shape {tuple(matrix.shape)}")
    sparse = scipy.sparse.issparse(matrix)
    if not sparse and matrix.layout != torch.strided:
        raise ValueError("a sparse B must be on the CPU: pass a scipy matrix, or a dense tensor")
    if (matrix.dtype.kind == "c") if sparse else matrix.is_complex():
        raise ValueError("a pencil takes real symmetric matrices; B is complex")
    if sparse and place.type != "cpu":
        raise ValueError(f"a sparse B is factored on the CPU; A is on {place}: pass factor=, or B as a dense tensor")
    matrix = matrix.astype(np.float64) if sparse else matrix.to(place, torch.float64)
    multiply: Callable[[Tensor], Tensor] = (
        (lambda v: torch.from_numpy(matrix @ v.numpy())) if sparse else (lambda v: matrix @ v)
    )
    entries = torch.from_numpy(matrix.data) if sparse else matrix
    if not bool(entries.isfinite().all()):
        raise ValueError("all entries of B must be finite; got NaN or infinity: mend them where B is made")
    skew = abs(matrix - matrix.T).max() if sparse else float((matrix - matrix.mT).abs().max())
    if not skew <= 1e-8 * (abs(matrix).max() if sparse else float(matrix.abs().max())):
        raise ValueError(f"B must be symmetric; B and B' differ by {skew:.1e}: pass (B + B') / 2 if that is meant")
    known: PencilFactor = _Sparse(matrix) if sparse else _Dense(matrix)
    v = torch.randn(size, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(place)
    image = multiply(v)
    # v = B^-1 (B v), by both solves
    off = float(torch.linalg.vector_norm(multiply(known.solve_transposed(known.solve(image))) - image))
    if not off <= ACCURATE * float(torch.linalg.vector_norm(image)):
        raise ValueError(
            f"B must be far enough from singular for its factor; B B^-1 is off by {off:.1e}: scale it, or pass factor="
        )
    return known
