"""Products of blocks with the curvature of many batches: operations recorded once, what is known of a batch kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.func import vmap

from lanczos_saddle.stages import BlockProduct, Results, record

COMPARED = 2
"""Columns of a first block that are also multiplied without folding."""

AGREEMENT = 1e5
"""Largest relative difference of folded and plain products, in rounding units: more is a fault, not rounding."""


class BlockProducts:
    """Adds A_b V of one batch after the other, each recorded once per look of a batch.

    Args:
        size: N.
        budget: bytes of primal results that may be kept from one block to the next.

    The first block of every look is also multiplied without folding, two columns of it; where the two differ by more
    than rounding, or where nothing can be recorded, products of that look are not folded and `refused` says why.
    """

    def __init__(self, size: int, budget: int) -> None:
        self.size, self.budget = size, budget
        self.refused: str | None = None
        self.kept_bytes = 0
        self._stages: dict[Any, BlockProduct | None] = {}
        self._kept: dict[Any, Results] = {}

    def add(
        self,
        total: Tensor,
        rows: Tensor,
        directions: dict[Any, Results],
        product: Callable[..., Tensor],
        shared: Sequence[Tensor],
        plain: Callable[[Tensor], Tensor],
        batch: Any = None,
    ) -> None:
        """Add A_b V to `total` (k, N), in place, for rows V' (k, N).

        Args:
            directions: what is known of these rows; empty at first, and kept by the caller for the next batch.
            product: product(v, *shared) = A_b v, for v (N,).
            shared: the batch's tensors and all else that differs between batches.
            plain: A_b v by other derivatives: what the recorded operations are compared with, and give way to.
            batch: names batches that come again with the same numbers; None for others.
        """
        look = tuple((t.shape, t.stride(), t.dtype) for t in shared)
        if look not in self._stages:
            self._stages[look] = self._record(product, rows, shared, plain)
        stages = self._stages[look]
        if stages is None:
            total += vmap(plain)(rows)
            return
        if look not in directions:
            directions[look] = stages.direction(rows)
        primal = self._kept.get(batch)
        if primal is None:
            primal = stages.primal(*shared)
            if batch is not None:
                self._keep(batch, primal, shared)
        stages.add(total, primal, directions[look])

    def _keep(self, batch: Any, primal: Results, shared: Sequence[Tensor]) -> None:
        given = {t.untyped_storage().data_ptr() for t in shared}
        made = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in primal}
        needed = sum(size for place, size in made.items() if place not in given)
        if self.kept_bytes + needed <= self.budget:
            self._kept[batch] = primal
            self.kept_bytes += needed

    def _record(
        self, product: Callable[..., Tensor], rows: Tensor, shared: Sequence[Tensor], plain: Callable[[Tensor], Tensor]
    ) -> BlockProduct | None:
        try:
            stages = record(product, rows[0], shared)
            few = rows[:COMPARED]
            folded = torch.zeros_like(few)
            stages.add(folded, stages.primal(*shared), stages.direction(few))
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # an operation that nobody thought of: the plain product has the last word
            self.refused = f"{type(error).__name__}: {error}".splitlines()[0]
            return None
        wanted = vmap(plain)(few)
        difference, size = float((folded - wanted).norm()), float(wanted.norm())
        if difference > AGREEMENT * torch.finfo(wanted.dtype).eps * size:
            self.refused = f"a folded product differs from a plain one by {difference:.1e}, of size {size:.1e}"
            return None
        return stages
