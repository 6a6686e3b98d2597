"""Every product of a run, verified by one more (Freivalds 1977).

    x = sum_j c_j v_j,    y = sum_j c_j (A v_j),    A x = y    with random c_j, over all vectors that were multiplied

Two vectors are kept up to date while the run goes on, whatever becomes of its basis; one product at the end compares
(`preflight.unchanged`). It sees, except with probability 0, a product that was wrong once, an operator that was another
one for a while, and one that gives other products for a block than for its columns: that last product has one column.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from lanczos_saddle.krylov.lanczos import chosen
from lanczos_saddle.operators.operator import Operator
from lanczos_saddle.operators.vectors import zeros

COEFFICIENTS = 4096
"""Random numbers c, drawn once and used in turn: nothing waits for the device."""

COLUMNS = 8
"""Columns that are taken to float64 at a time."""

NAMES = ("witness_sums", "witness_weight", "witness_products")
"""What a state keeps of it."""


@dataclass(frozen=True)
class Sums:
    """What was summed up: replaced as a whole, so that an interrupt leaves it true."""

    vectors: Tensor  # (2, n) float64: x and y
    weight: Tensor  # () float64: sum_j c_j^2 |v_j|^2, the square of the length that x is expected to have
    products: int
    widest: int  # columns of the widest block


class Adds(Protocol):
    """What takes note of products."""

    def add(self, block: Tensor, image: Tensor) -> None:
        """Of A `block` = `image`, both (n, k)."""


class Witness:
    """The sums of one run; empty until an operator is watched."""

    def __init__(self) -> None:
        self.sums: Sums | None = None
        self.elsewhere: list[Callable[[], None]] = []  # what fetches sums that other ranks made
        self._kept: Tensor | None = None
        self._spare: Tensor | None = None  # two vectors that nothing needs, written into by the next sums
        self._coefficients: Tensor | None = None

    def watch(self, operator: Operator, kept: Tensor | None = None) -> Watched:
        """The operator, its products summed from now on; `kept` (N,) bool says which of the N coordinates it has."""
        drawn = torch.rand(2, COEFFICIENTS, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        signs = torch.where(drawn[0] < 0.5, -1.0, 1.0).to(torch.float64)
        self._coefficients = (signs * (0.5 + drawn[1])).to(operator.device)  # none is small: one product is seen, too
        self._kept = kept
        none = zeros(operator, 2, operator.shape[0], dim=1)
        self.sums = Sums(none, none.new_zeros(()), 0, 0)
        return Watched(operator, self)

    def add(self, block: Tensor, image: Tensor) -> None:
        """Take note of A `block` = `image`, both (n, k); a block that is not finite is left out."""
        assert self.sums is not None
        assert self._coefficients is not None
        before, k = self.sums, block.shape[1]
        if k == 0:
            return
        places = (before.products + torch.arange(k, device=block.device)) % COEFFICIENTS
        c = self._coefficients[places]
        spare, self._spare = self._spare, None  # an interrupt forgets them
        both = torch.empty_like(before.vectors) if spare is None else spare
        for new, old, columns in zip(both, before.vectors, (block, image.detach()), strict=True):
            _combine(new, old, columns, c)
        weight = (c.square() * torch.linalg.vector_norm(block, dim=0, dtype=torch.float64).square()).sum()
        finite = torch.linalg.vector_norm(both, ord=torch.inf).isfinite() & weight.isfinite()
        vectors, weight = chosen(finite, both, before.vectors), torch.where(finite, weight, 0.0)
        self.sums = Sums(vectors, before.weight + weight, before.products + k, max(before.widest, k))
        self._spare = both if vectors is before.vectors else before.vectors

    def scaled(self) -> tuple[Tensor, Tensor] | None:
        """(x, y), (N,) each, x of a length near 1; None where nothing was multiplied. Waits for the device."""
        self._fetch()
        if self.sums is None or float(self.sums.weight) == 0.0:
            return None
        vectors = self.sums.vectors / self.sums.weight.sqrt()
        if self._kept is None:
            return vectors[0], vectors[1]
        kept = self._kept.to(vectors.device)
        x, y = (torch.zeros_like(kept, dtype=vectors.dtype) for _ in vectors)
        x[kept], y[kept] = vectors[0], vectors[1]
        return x, y

    def tensors(self) -> dict[str, Tensor]:
        """What a state keeps, by `NAMES`."""
        self._fetch()
        assert self.sums is not None
        counts = torch.tensor([self.sums.products, self.sums.widest])
        return dict(zip(NAMES, (self.sums.vectors, self.sums.weight, counts), strict=True))

    def _fetch(self) -> None:
        for fetch in self.elsewhere:
            fetch()

    def resume(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on with the sums of a state; from now on only, where an older version wrote it without."""
        if all(name in tensors for name in NAMES):
            vectors, weight, counts = (tensors[name] for name in NAMES)
            self.sums = Sums(vectors, weight, *(int(n) for n in counts))


@dataclass(frozen=True)
class Watched:
    """An operator whose products are summed up, by a `Witness` or by `run_error.Sums`."""

    base: Operator
    into: Adds

    shape = property(lambda self: self.base.shape)
    dtype = property(lambda self: self.base.dtype)
    device = property(lambda self: self.base.device)

    def __matmul__(self, v: Tensor, /) -> Tensor:
        product: Tensor = self.base @ v
        self.into.add(*((v, product) if v.ndim == 2 else (v[:, None], product[:, None])))
        return product


def _combine(total: Tensor, before: Tensor, block: Tensor, c: Tensor) -> None:
    """Sets (N,) `total` to `before` + `block` @ c, in float64."""
    for start in range(0, len(c), COLUMNS):
        part = slice(start, start + COLUMNS)
        torch.addmv(total if start else before, block[:, part].to(torch.float64), c[part], out=total)
