"""Products in float32 for recurrences in float64, those along the largest eigenvalues known beforehand in float64.

    H v  =  W (U'v) + H (v - U U'v),    W = H U

holds for any U, whatever it spans. The first term is made in float64, the second by the operator's own type. Rounding
goes with the size of what is multiplied: with U near the eigenvectors of the largest |eigenvalues|, what is left to
float32 has a small product, and a small error.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lanczos_saddle.operators.operator import Operator
from lanczos_saddle.operators.vectors import gaussian, orthonormal

KNOWN = 24
"""Columns of U: beyond them the errors of digits and MNIST networks hardly shrink (docs/method.md)."""


@dataclass(frozen=True)
class Mixed:
    """An operator on float64 vectors by products in the type of `base`; U and W = H U may have no columns."""

    base: Operator
    known: Tensor  # U (N, p) float64, orthonormal columns
    images: Tensor  # W (N, p) float64

    shape = property(lambda self: self.base.shape)
    dtype = torch.float64
    device = property(lambda self: self.base.device)
    arithmetic = property(lambda self: self.base.dtype)

    def __matmul__(self, v: Tensor, /) -> Tensor:
        if self.known.shape[1] == 0:
            return self._product(v)
        along = self.known.mT @ v
        return self.images @ along + self._product(v - self.known @ along)

    def _product(self, v: Tensor) -> Tensor:
        product: Tensor = (self.base @ v.to(self.base.dtype)).detach().to(torch.float64)
        return product


def mixed(base: Operator, exact: Operator | None, columns: int, generator: torch.Generator) -> Mixed:
    """A `Mixed` of the operator `base`, U of so many columns: one step of the power method from a Gaussian block.

    `exact` is the same operator in float64. Costs `columns` products with each of the two; none for no columns.
    """
    size = base.shape[0]
    columns = min(columns, size)
    if exact is None or columns == 0:
        none = torch.zeros(size, 0, dtype=torch.float64, device=base.device)
        return Mixed(base, none, none)
    start = gaussian(base, columns, generator).to(base.device)
    plain: Any = Mixed(base, start[:, :0], start[:, :0])
    u = orthonormal(plain @ start)
    return Mixed(base, u, (exact @ u).detach())
