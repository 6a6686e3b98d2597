"""(A + sigma I) X = R for a block of right-hand sides and several shifts sigma, from one block of products a step.

Block Lanczos from R = V_1 C builds orthonormal blocks V_j, A V_j = V_{j-1} b_{j-1}' + V_j a_j + V_{j+1} b_j, which no
shift changes. For every shift the block LDL' factorization of the block tridiagonal T + sigma I grows by one block:

    d_1 = a_1 + sigma,   d_{j+1} = a_{j+1} + sigma - b_j d_j^-1 b_j',        c_1 = C,   c_{j+1} = -b_j d_j^-1 c_j
    P_1 = V_1,           P_{j+1} = V_{j+1} - P_j d_j^-1 b_j',                X_j = X_{j-1} + P_j d_j^-1 c_j

X_j is the Galerkin solution of block conjugate gradients (O'Leary 1980) in Dubrulle's stable form, and what the
solution is wanted for comes for free, as small matrices:

    R'X_j = sum_i c_i' d_i^-1 c_i,        R - (A + sigma I) X_j = V_{j+1} c_{j+1}

Where the block loses rank, its dependent directions are dropped and the block becomes narrower: no breakdown. With a
preconditioner M the blocks are orthonormal in M^-1 and shifts must be part of A.

Sources: O'Leary, The block conjugate gradient algorithm and related methods (1980); Dubrulle, Retooling the method of
block conjugate gradients (2001); Frommer, Lund, Szyld, Block Krylov subspace methods for functions of matrices (2017).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lanczos_saddle.operators.operator import Operator

DEPENDENT = 64.0
"""Directions of a block below this many rounding units, times sqrt(N) and |A|, are taken for rounding and dropped."""

Preconditioner = Callable[[Tensor], Tensor]  # R (n, k) -> M^-1 R (n, k), symmetric positive definite


@dataclass
class System:
    """One shifted system: its solution, direction and coefficients."""

    shift: float
    solution: Tensor  # X_j (n, s)
    energy: Tensor  # R'X_j (s, s), the sum of c' d^-1 c
    coefficient: Tensor  # c_{j+1} (w, s): the residual is V_{j+1} c_{j+1}
    direction: Tensor | None = None  # P_j (n, w)
    carry: Tensor | None = None  # d_j^-1 b_j' (w_j, w_{j+1})
    schur: Tensor | None = None  # b_j d_j^-1 b_j' (w_{j+1}, w_{j+1})
    frozen: bool = False  # no longer advanced: its solution is good enough
    failed: bool = False  # a pivot d_j was not positive: the shift is below the rounding of the products


class BlockCG:
    """Block conjugate gradients on A + sigma I for all `shifts`, advanced one block of products at a time.

        cg = BlockCG(A, right, shifts=[1e-4, 1e-5])
        while not cg.closed and cg.products < budget:
            cg.advance()
        cg.systems[0].solution                                          # (n, s)

    Args:
        operator: A, symmetric, with A + sigma I positive definite for every shift.
        right: R (n, s), in the operator's type, on its device; it may have dependent columns.
        shifts: at least one; only 0 with a preconditioner.
        precondition: R -> M^-1 R, symmetric positive definite.

    Cost of a step: one product of A with a block of at most s columns, 4 + 4 * shifts products (n, s) x (s, s) and
    one QR factorization (n, s). Memory: 5 + 2 * shifts blocks (n, s), whatever the number of steps.
    Orthogonality between distant blocks is lost as it always is in short recurrences: that delays convergence; the
    caller judges a solution by its true residual.

    Raises ValueError for a block that does not fit, no shift, shifts beside a preconditioner, and, when advanced, for
    products that are not finite.
    """

    def __init__(
        self,
        operator: Operator,
        right: Tensor,
        *,
        shifts: Sequence[float] = (0.0,),
        precondition: Preconditioner | None = None,
    ) -> None:
        if right.ndim != 2 or right.shape[0] != operator.shape[0] or right.shape[1] < 1:
            raise ValueError(
                f"right-hand sides must have shape ({operator.shape[0]}, s) with s >= 1; got {tuple(right.shape)}"
            )
        if len(shifts) == 0 or (precondition is not None and any(shift != 0 for shift in shifts)):
            raise ValueError(
                "pass at least one shift, and none but 0 beside a preconditioner, which belongs to one shifted matrix; "
                f"got shifts={list(shifts)}: precondition Shifted(A, -shift) instead"
            )
        self.operator, self.precondition = operator, precondition
        self.products, self.steps, self._scale = 0, 0, 0.0
        self.block, self.image, first = self._orthonormal(right, None)
        self._previous: tuple[Tensor, Tensor] | None = None  # V_{j-1} and b_{j-1}'
        self.systems = [
            System(float(shift), torch.zeros_like(right), right.new_zeros(2 * (right.shape[1],)), first)
            for shift in shifts
        ]

    @property
    def width(self) -> int:
        """Columns of the next block of products."""
        return self.block.shape[1]

    @property
    def closed(self) -> bool:
        """Whether there is nothing left to do: the Krylov space is exhausted, or no system is advanced any more."""
        return self.width == 0 or all(system.frozen or system.failed for system in self.systems)

    def residual_gram(self, system: System) -> Tensor:
        """F'F (s, s) of a system's residual F = R - (A + sigma I) X, from the recurrence."""
        c = system.coefficient
        if self.precondition is None:
            return c.mT @ c
        return c.mT @ (self.block.mT @ self.block) @ c

    def advance(self) -> None:
        """One block of products and one step of every system that is neither frozen nor failed."""
        product = self.operator @ self.image
        self.products += self.width
        if not bool(product.isfinite().all()):
            raise ValueError(
                f"products must be finite; one of those up to number {self.products} of conjugate gradients was NaN or "
                "infinity: look for it in the weights and the data"
            )
        self.steps += 1
        diagonal = self.image.mT @ product
        if self._previous is not None:
            product = product - self._previous[0] @ self._previous[1]
        product = product - self.block @ diagonal
        correction = self.image.mT @ product  # what rounding left along the block
        product = product - self.block @ correction
        diagonal = diagonal + correction
        self._scale = max(self._scale, float(torch.linalg.matrix_norm(diagonal, 2)))
        following, image, below = self._orthonormal(product, self._scale)
        if len(below):
            self._scale = max(self._scale, float(torch.linalg.matrix_norm(below, 2)))
        for system in self.systems:
            if not (system.frozen or system.failed):
                self._update(system, (diagonal + diagonal.mT) / 2, below)
        self._previous = (self.block, below.mT)
        self.block, self.image = following, image

    def _update(self, system: System, diagonal: Tensor, below: Tensor) -> None:
        """One block of LDL', one step of the solution."""
        pivot = diagonal + system.shift * torch.eye(len(diagonal), dtype=diagonal.dtype, device=diagonal.device)
        direction = self.image
        if system.direction is not None and system.carry is not None and system.schur is not None:
            pivot = pivot - system.schur
            direction = direction - system.direction @ system.carry
        factor, info = torch.linalg.cholesky_ex(pivot)
        if int(info) != 0 or not bool(factor.isfinite().all()):
            system.failed = True
            return
        step = torch.cholesky_solve(system.coefficient, factor)  # d^-1 c
        system.solution += direction @ step
        system.energy += system.coefficient.mT @ step
        system.carry = torch.cholesky_solve(below.mT, factor)
        schur = below @ system.carry
        system.schur = (schur + schur.mT) / 2
        system.coefficient = -below @ step
        system.direction = direction

    def _orthonormal(self, block: Tensor, scale: float | None) -> tuple[Tensor, Tensor, Tensor]:
        """(V, M^-1 V, b) with block = V b and V orthonormal (in M^-1), without directions that are rounding of `scale`.

        The scale is the block's own size where there is none yet.
        """
        unit = DEPENDENT * torch.finfo(block.dtype).eps
        if self.precondition is None:
            q, r = torch.linalg.qr(block)
            u, sizes, vh = torch.linalg.svd(r)
            keep = sizes > unit * block.shape[0] ** 0.5 * (float(sizes[0]) if scale is None else scale)
            v = q @ u[:, keep]
            return v, v, sizes[keep, None] * vh[keep]
        total = torch.eye(block.shape[1], dtype=block.dtype, device=block.device)
        for _ in range(2):  # a Gram matrix shows directions down to sqrt(eps) only; the second pass cleans those kept
            gram = block.mT @ self.precondition(block)
            values, vectors = torch.linalg.eigh((gram + gram.mT) / 2)
            largest = float(values[-1]) if len(values) else 0.0
            keep = values > unit * max(largest, 0.0 if scale is None else unit * block.shape[0] * scale**2)
            roots, vectors, scale = values[keep].sqrt(), vectors[:, keep], None
            block, total = block @ (vectors / roots), (roots[:, None] * vectors.mT) @ total
        return block, self.precondition(block), total
