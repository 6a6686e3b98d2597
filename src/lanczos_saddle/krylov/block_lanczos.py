"""Block Lanczos with full orthogonalization and thick restarts: a subspace in which to look for eigenvectors.

    V <- [V, Q],   T = V'HV,   Q' = an orthonormal basis of (I - VV') H Q

T is formed from inner products of V with the products H Q, so it is V'HV whatever V is; a restart replaces V by its
lowest Ritz vectors and keeps Q, after which H V = V T + (something in the span of Q) still holds (Wu & Simon 2000).
For finding vectors, not for brackets: those of a block recurrence are no certificates (docs/method.md).
"""

from __future__ import annotations

import torch
from torch import Tensor

from lanczos_saddle.krylov.basis import SLICE
from lanczos_saddle.krylov.lanczos import CLOSED
from lanczos_saddle.machine.progress import made
from lanczos_saddle.operators.operator import Operator


class Subspace:
    """An orthonormal basis V, rows as vectors, and T = V'HV as explicit inner products of V with products."""

    def __init__(self, operator: Operator, columns: int, block: int, generator: torch.Generator) -> None:
        size = operator.shape[0]
        start = torch.randn(size, block, generator=generator, dtype=torch.float64)
        self.operator, self.columns, self.block = operator, columns, block
        self.products = 0
        self.failed = 0  # the product that was not finite, which ends the search; 0 where none was
        self._generator, self._scale = generator, 0.0  # |T|, for the relative test of breakdown
        self.filled = 0  # vectors whose products are in T
        self._basis = torch.empty(columns + block, size, dtype=operator.dtype, device=operator.device)
        self._form = torch.zeros(columns, columns, dtype=torch.float64, device=operator.device)
        self._next = torch.linalg.qr(start.to(operator.device, operator.dtype)).Q.mT.contiguous()  # (b, N)

    @property
    def full(self) -> bool:
        """Whether another block needs a restart first."""
        return self.filled + len(self._next) > self.columns

    @property
    def complete(self) -> bool:
        """Whether the basis spans everything."""
        return self.filled == self.operator.shape[0]

    def advance(self) -> None:
        """One block product; its block joins V, its image becomes the next block; nothing changes if it is not finite.

        Orthogonalized twice, with a QR between (block classical Gram-Schmidt, Barlow & Smoktunowicz 2013). Directions
        in which the Krylov space has closed are started anew at random: rounding noise would lean towards V.
        """
        end = self.filled + len(self._next)
        self._basis[self.filled : end] = self._next
        known = self._basis[:end]
        image = (self.operator @ self._next.mT.contiguous()).detach().mT
        self.products += len(self._next)
        made(len(self._next))
        if not bool(image.isfinite().all()):
            self.failed = self.products
            return
        form = known @ image.mT
        self._form[:end, self.filled : end] = form
        self._form[self.filled : end, :end] = form.mT
        self.filled = end
        width = min(self.block, self.operator.shape[0] - end)
        q, r = torch.linalg.qr((image - form.mT @ known)[:width].mT)
        self._scale = max(self._scale, float(torch.linalg.matrix_norm(form)))
        closed = r.diagonal().abs() <= CLOSED * torch.finfo(q.dtype).eps * self._scale
        if bool(closed.any()):
            fresh = torch.randn(len(q), width, generator=self._generator, dtype=torch.float64).to(q.device, q.dtype)
            q = self._orthogonal(torch.where(closed, fresh, q))
        self._next = self._orthogonal(q).mT.contiguous()

    def _orthogonal(self, q: Tensor) -> Tensor:
        """An orthonormal basis of (I - V V') q."""
        known = self._basis[: self.filled]
        basis: Tensor = torch.linalg.qr(q - known.mT @ (known @ q)).Q
        return basis

    def ritz_values(self) -> Tensor:
        """Eigenvalues of T, ascending."""
        values: Tensor = torch.linalg.eigvalsh(self._form[: self.filled, : self.filled])
        return values

    def ritz(self) -> tuple[Tensor, Tensor]:
        """(Ritz values ascending (k,), their coordinates in the basis (k, k))."""
        values, rotation = torch.linalg.eigh(self._form[: self.filled, : self.filled])
        return values, rotation

    def combined(self, rotation: Tensor) -> Tensor:
        """The vectors of these coordinates (k, c), as columns (N, c)."""
        rows = self._basis.new_empty(rotation.shape[1], self._basis.shape[1])
        self._rotate(rotation, rows)
        return rows.mT

    def restart(self, keep: int) -> None:
        """V becomes its `keep` lowest Ritz vectors; the next block stays, so H V = V T + (next block) stays true."""
        values, rotation = torch.linalg.eigh(self._form[: self.filled, : self.filled])
        self._rotate(rotation[:, :keep], self._basis)
        self._form.zero_()
        self._form.diagonal()[:keep] = values[:keep]
        self.filled = keep

    def below(self, t: float) -> tuple[Tensor, Tensor]:
        """Ritz values below t, and their vectors (N, c)."""
        values, rotation = torch.linalg.eigh(self._form[: self.filled, : self.filled])
        count = int((values < t).sum())
        rows = self._basis.new_empty(count, self._basis.shape[1])
        self._rotate(rotation[:, :count], rows)
        return values[:count], rows.mT

    def _rotate(self, rotation: Tensor, target: Tensor) -> None:
        """The first rows of target = rotation' V, a slice of coordinates at a time: target may be V itself."""
        rotation = rotation.to(self._basis.dtype).mT.contiguous()
        for start in range(0, self._basis.shape[1], SLICE):
            part = slice(start, start + SLICE)
            target[: len(rotation), part] = rotation @ self._basis[: self.filled, part]
