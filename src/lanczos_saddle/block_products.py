"""Products of blocks with the curvature of many batches: operations recorded once, what is known of a batch kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from lanczos_saddle.stages import BlockProduct, Results, record

COMPARED = 2
"""Columns that are multiplied with and without folding."""

AGREEMENT = 1e5
"""Largest relative difference of folded and plain products, in rounding units: more is a fault, not rounding."""

RECORDED = 32
"""Most looks that are recorded; sequences of many lengths have more."""

PATIENCE = 3
"""Products of one vector that are not recorded: recording costs three of them and more, and pays with blocks."""

LOOKS = 2
"""Of so many looks directions are kept: parts of one batch have two sizes at most."""


class BlockProducts:
    """Adds A_b V of one batch after the other, each recorded once per look of a batch.

    Args:
        budget: bytes of primal results that may be kept from one block to the next.

    A look is recorded when it is first met, and two Gaussian columns are multiplied with and without folding: where
    they differ by more than rounding, or where nothing can be recorded, products of that look are not folded and
    `refused` says why.
    """

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self.refused: str | None = None
        self._stages: dict[Any, BlockProduct | None] = {}
        self._single: dict[Any, tuple[int, Any]] = {}  # by look: products of one vector so far, the last one's object
        self._kept: dict[Any, dict[Any, tuple[Results, int]]] = {}  # by cut and batch, with the bytes

    @property
    def kept_bytes(self) -> int:
        """Bytes of primal results that are held."""
        return sum(size for kept in self._kept.values() for _, size in kept.values())

    def add(
        self,
        total: Tensor,
        rows: Tensor,
        directions: dict[Any, Results],
        product: Callable[..., Tensor],
        shared: Sequence[Tensor],
        plain: Callable[[Tensor], Tensor],
        batch: Any = None,
        cut: Any = None,
        form: Any = None,
    ) -> None:
        """Add A_b V to `total` (k, N), in place, for rows V' (k, N).

        Args:
            directions: what is known of these rows; empty at first, and kept by the caller for the next batch.
            product: product(v, *shared) = A_b v, for v (N,).
            shared: the batch's tensors and all else that differs between batches.
            plain: A_b V for rows V' by other derivatives: what recorded operations are compared with, and give way to.
            batch: names batches that come again with the same numbers; None for others.
            cut: names the way in which the data are cut into batches; results of one not in use make room for others.
            form: all else that `product` depends on; products are not folded where it cannot be hashed.
        """
        look = (form, *((t.shape, t.stride(), t.dtype) for t in shared))
        stages = None if self._spare(look, rows, directions) else self._known(look, product, rows, shared, plain)
        if stages is None:
            total += plain(rows)
            return
        if look not in directions:
            if len(directions) == LOOKS:
                directions.clear()
            directions[look] = stages.direction(rows)
        kept = self._kept.get(cut, {}).get(batch)
        primal = kept[0] if kept is not None else stages.primal(*shared)
        if kept is None and batch is not None:
            self._keep(cut, batch, primal, shared)
        stages.add(total, primal, directions[look])

    def _spare(self, look: Any, rows: Tensor, directions: dict[Any, Results]) -> bool:
        """Whether this product is of one vector and one of the first: `directions` is one object in one product."""
        try:
            if len(rows) > 1 or look in self._stages:
                return False
        except TypeError:  # not to be hashed: `_known` says so
            return False
        made, last = self._single.get(look, (0, None))
        if directions is not last:
            made += 1
            self._single[look] = (made, directions)
        return made <= PATIENCE

    def __getstate__(self) -> dict[str, Any]:
        """Without what was recorded and kept: functions that cannot be pickled, and results that come again."""
        return {**self.__dict__, "_stages": {}, "_kept": {}, "_single": {}}

    def elsewhere(self) -> BlockProducts:
        """The same recordings, for the same batches at other parameters: what is kept belongs to the parameters."""
        other = BlockProducts(self.budget)
        other._stages = self._stages
        return other

    def _known(
        self,
        look: Any,
        product: Callable[..., Tensor],
        rows: Tensor,
        shared: Sequence[Tensor],
        plain: Callable[[Tensor], Tensor],
    ) -> BlockProduct | None:
        """The stages for batches of this look; None where it is not recorded."""
        try:
            hash(look)
        except TypeError as error:
            self.refused = f"{type(error).__name__}: {error}"
            return None
        if look not in self._stages:
            if len(self._stages) == RECORDED:
                self.refused = f"batches have more than {RECORDED} different looks"
                return None
            self._stages[look] = self._record(product, rows, shared, plain)
        return self._stages[look]

    def _keep(self, cut: Any, batch: Any, primal: Results, shared: Sequence[Tensor]) -> None:
        """Keep what the budget allows; what other cuts have left goes first where that makes room."""
        given = {t.untyped_storage().data_ptr() for t in shared}
        made = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in primal}
        needed = sum(size for place, size in made.items() if place not in given)
        mine = self._kept.get(cut, {})
        if needed + sum(size for _, size in mine.values()) > self.budget:
            return
        if needed + self.kept_bytes > self.budget:
            self._kept = {cut: mine}
        self._kept.setdefault(cut, {})[batch] = (primal, needed)

    def _record(
        self, product: Callable[..., Tensor], rows: Tensor, shared: Sequence[Tensor], plain: Callable[[Tensor], Tensor]
    ) -> BlockProduct | None:
        try:
            stages = record(product, rows[0], shared)
            few = generic(rows.new_empty(COMPARED, rows.shape[1]))
            folded = torch.zeros_like(few)
            stages.add(folded, stages.primal(*shared), stages.direction(few))
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # an operation that nobody thought of: the plain product has the last word
            self.refused = f"{type(error).__name__}: {error}".splitlines()[0]
            return None
        wanted = plain(few)
        tolerance = AGREEMENT * torch.finfo(wanted.dtype).eps * float(wanted.norm())
        difference = float((folded - wanted).norm())
        if difference <= tolerance:  # NaN is no agreement
            return stages
        self.refused = f"a folded product differs from a plain one by {difference:.1e}, of size {wanted.norm():.1e}"
        return None


def generic(like: Tensor) -> Tensor:
    """Gaussian rows of this shape, always the same: rows of a caller may be zero, or see one parameter only."""
    rows = torch.randn(like.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return rows.to(like.device, like.dtype)
