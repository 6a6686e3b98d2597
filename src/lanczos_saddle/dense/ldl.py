"""H - t I = P L D L' P' by Bunch and Kaufman, in the memory of H, which can be had back.

LAPACK's dsytrf destroys one triangle; the other keeps H, which is put back without a copy (`restore`).
The signs of D count eigenvalues (`sylvester`).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from scipy.linalg import blas, lapack

TILE = 1024  # 8 MiB a tile while mirroring


class Factor(NamedTuple):
    """H - t I = P L D L' P' - R: L unit lower triangular, D block diagonal, in one matrix with H itself."""

    matrix: Any  # (N, N) Fortran order: strict lower triangle L, diagonal of D, strict upper triangle of H
    below: Any  # (N,) subdiagonal of D; nonzero only where a 2 x 2 block starts
    pairs: Any  # where the 2 x 2 blocks start
    order: Any  # P'v = v[order]
    diagonal: Any  # (N,) of H


def factorize(matrix: Any, t: float) -> Factor:
    """Bunch-Kaufman in place; the strict upper triangle stays as it is."""
    size = len(matrix)
    diagonal = matrix.diagonal().copy()
    np.fill_diagonal(matrix, diagonal - t)
    work = int(lapack.dsytrf_lwork(size, lower=1)[0])
    matrix, swaps, _ = lapack.dsytrf(matrix, lower=1, lwork=work, overwrite_a=1)  # info > 0: a pivot is 0
    matrix, below, _ = lapack.dsyconv(matrix, swaps, lower=1, way=0, overwrite_a=1)
    pairs = np.flatnonzero(swaps < 0)[::2]
    return Factor(matrix, below, pairs, row_order(swaps), diagonal)


def row_order(swaps: Any) -> Any:
    """LAPACK's row interchanges (from 1; negative: of the second row of a 2 x 2 block) as a permutation."""
    order, row = np.arange(len(swaps)), 0
    while row < len(swaps):
        step = 1 if swaps[row] > 0 else 2
        here, there = row + step - 1, abs(int(swaps[row])) - 1
        order[here], order[there] = order[there], order[here]
        row += step
    return order


def pivot_signs(factor: Factor) -> tuple[int, int]:
    """Negative and positive eigenvalues of D; a 2 x 2 block [[a, b], [b, c]] by ac/b^2 - 1 and a + c."""
    pivots = factor.matrix.diagonal()
    a, b, c = pivots[factor.pairs], factor.below[factor.pairs], pivots[factor.pairs + 1]
    single = np.delete(pivots, np.concatenate([factor.pairs, factor.pairs + 1]))
    determinant, trace = np.sign((a / b) * (c / b) - 1), np.sign(a + c)

    def count(sign: int) -> int:
        blocks = (determinant < 0) + (determinant >= 0) * (trace == sign) * (1 + determinant)
        return int((np.sign(single) == sign).sum() + blocks.sum())

    return count(-1), count(1)


def restore(factor: Factor) -> None:
    """H again, in place of its factors: the strict upper triangle mirrored, and the diagonal; N^2 moves."""
    matrix = factor.matrix
    for start in range(0, len(matrix), TILE):
        stop = start + TILE
        matrix[stop:, start:stop] = matrix[start:stop, stop:].T
        square = matrix[start:stop, start:stop]
        square[:] = np.triu(square, 1) + np.triu(square, 1).T
    np.fill_diagonal(matrix, factor.diagonal)


def apply_factors(factor: Factor, v: Any) -> Any:
    """P L D L' P' v for v (N, k)."""
    y = blas.dtrmm(1.0, factor.matrix, v[factor.order], lower=1, trans_a=1, diag=1)
    z = factor.matrix.diagonal()[:, None] * y
    z[1:] += factor.below[:-1, None] * y[:-1]
    z[:-1] += factor.below[:-1, None] * y[1:]
    product = np.empty_like(z)
    product[factor.order] = blas.dtrmm(1.0, factor.matrix, z, lower=1, diag=1)
    return product


def solve_factors(factor: Factor, v: Any) -> Any:
    """(P L D L' P')^-1 v for v (N, k); not finite where a pivot is zero."""
    y = blas.dtrsm(1.0, factor.matrix, v[factor.order], lower=1, diag=1)
    pivots, first = factor.matrix.diagonal(), factor.pairs
    with np.errstate(all="ignore"):
        z = y / pivots[:, None]
        a, b, c = (x[:, None] for x in (pivots[first], factor.below[first], pivots[first + 1]))
        determinant = (a / b) * (c / b) - 1  # over b^2
        z[first] = ((c / b) * y[first] - y[first + 1]) / b / determinant
        z[first + 1] = ((a / b) * y[first + 1] - y[first]) / b / determinant
    solution = np.empty_like(z)
    solution[factor.order] = blas.dtrsm(1.0, factor.matrix, z, lower=1, trans_a=1, diag=1)
    return solution
