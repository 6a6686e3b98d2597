"""Products of blocks with the curvature of many batches: operations recorded once, what is known of a batch kept."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lanczos_saddle.networks.columns.readings import DiffersError
from lanczos_saddle.networks.columns.stages import BlockProduct, Results, record

COMPARED = 2
"""Columns that are multiplied with and without folding."""

AGREEMENT = 1e5
"""Largest relative difference of folded and plain products, in rounding units: more is a fault, not rounding."""

INSIDE = 1e3
"""The same in units of a less precise type that the model computes in, where that is another than the products'."""

RECORDED = 32
"""Most looks that are recorded; sequences of many lengths have more."""

OUTCOMES = 8
"""Most recordings of one look: one for every outcome of what a model or a loss asks of values."""

PATIENCE = 3
"""Products of one vector that are not recorded: recording costs three of them and more, and pays with blocks."""

LOOKS = 2
"""Of so many looks directions are kept: parts of one batch have two sizes at most."""


@dataclass(frozen=True)
class Folding:
    """Whether blocks are multiplied by recorded operations ("folded"), why not, and what the recording cost.

    A folded block of k vectors costs less than k products: matrix products of all columns are one, and what does not
    depend on them is computed once. Every recording is compared with plain products before it is used.
    """

    folded: bool  # whether there is a recording in use
    reason: str | None  # why some products, or all, are not folded; None where all are
    looks: int  # shapes and types of batches that were recorded
    recordings: int  # as many, or more where values decide what is computed: one for each outcome
    seconds: float  # spent on recording and comparing, refused attempts among it
    products: float | None  # the same in plain products with the batches it was done on; None where not known


NOTHING_YET = "nothing is recorded before a block, or some products of one vector, are multiplied"


class BlockProducts:
    """Adds A_b V of one batch after the other, each recorded once per look of a batch.

    Args:
        budget: bytes of primal results that may be kept from one block to the next.
        inside: the least precise type that the model computes in; the products' own when None.

    A look is recorded when it is first met, and two Gaussian columns are multiplied with and without folding: where
    they differ by more than rounding, or where nothing can be recorded, products of that look are not folded and
    `refused` says why. What a recording took from values is verified on every batch: where they differ the look is
    recorded once more, up to `OUTCOMES` times.
    """

    def __init__(self, budget: int, inside: torch.dtype | None = None) -> None:
        self.budget, self.inside = budget, inside
        self.refused: str | None = None
        self._stages: dict[Any, list[BlockProduct]] = {}
        self._failed: set[Any] = set()  # looks of which no more is recorded
        self._seconds: list[tuple[float, float | None]] = []  # of every attempt, and of a plain product beside it
        self._single: dict[Any, tuple[int, Any]] = {}  # by look: products of one vector so far, the last one's object
        self._kept: dict[Any, dict[Any, tuple[BlockProduct, Results, int]]] = {}  # by cut and batch, with the bytes

    @property
    def kept_bytes(self) -> int:
        """Bytes of primal results that are held."""
        return sum(size for kept in self._kept.values() for *_, size in kept.values())

    @property
    def hopeful(self) -> bool:
        """Whether products are folded, or may be: nothing has been tried in vain before something went well."""
        return self.refused is None or any(self._stages.values())

    @property
    def folding(self) -> Folding:
        """What is known by now."""
        recordings, spent = sum(map(len, self._stages.values())), self._seconds
        reason = self.refused if self._seconds or self.refused else NOTHING_YET
        known = [seconds / plain for seconds, plain in spent if plain]
        return Folding(
            folded=recordings > 0,
            reason=reason,
            looks=sum(map(bool, self._stages.values())),
            recordings=recordings,
            seconds=sum(seconds for seconds, _ in spent),
            products=sum(known) if known else None,
        )

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
        kept = self._kept.get(cut, {}).get(batch)
        found = kept and kept[:2]
        if found is None and not self._spare(look, rows, directions):
            found = self._computed(look, product, rows, shared, plain)
            if found is not None and batch is not None:
                self._keep(cut, batch, found, shared)
        if found is None:
            total += plain(rows)
            return
        stages, primal = found
        if id(stages) not in directions:
            if len(directions) == LOOKS:
                directions.clear()
            directions[id(stages)] = stages.direction(rows)
        stages.add(total, primal, directions[id(stages)])

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
        return {**self.__dict__, "_stages": {}, "_failed": set(), "_seconds": [], "_kept": {}, "_single": {}}

    def elsewhere(self) -> BlockProducts:
        """The same recordings, for the same batches at other parameters: what is kept belongs to the parameters."""
        other = BlockProducts(self.budget, self.inside)
        other._stages, other._failed, other._seconds = self._stages, self._failed, self._seconds
        return other

    def _computed(
        self,
        look: Any,
        product: Callable[..., Tensor],
        rows: Tensor,
        shared: Sequence[Tensor],
        plain: Callable[[Tensor], Tensor],
    ) -> tuple[BlockProduct, Results] | None:
        """The stages that hold for this batch, and what they compute of it; None where there are none."""
        try:
            recorded = self._stages.get(look, [])
        except TypeError as error:
            self.refused = f"{type(error).__name__}: {error}"
            return None
        for stages in recorded:
            try:
                return stages, stages.primal(*shared)
            except DiffersError:
                continue
        if look in self._failed or self._full(look):
            return None
        return self._first(look, product, rows, shared, plain)

    def _full(self, look: Any) -> bool:
        """Whether no more is recorded, for there is much already."""
        if look not in self._stages and len(self._stages) == RECORDED:
            self.refused = f"batches have more than {RECORDED} different looks"
        elif len(self._stages.get(look, ())) == OUTCOMES:
            self.refused = f"values that the model or the loss asks for have more than {OUTCOMES} outcomes"
        else:
            return False
        return True

    def _first(
        self,
        look: Any,
        product: Callable[..., Tensor],
        rows: Tensor,
        shared: Sequence[Tensor],
        plain: Callable[[Tensor], Tensor],
    ) -> tuple[BlockProduct, Results] | None:
        """A recording that was not there before; None, and no more of this look, where it cannot be had."""
        known = self._stages.setdefault(look, [])
        found = self._record(product, rows, shared, plain)
        if found is None:
            self._failed.add(look)
        else:
            known.append(found[0])
        return found

    def _keep(self, cut: Any, batch: Any, found: tuple[BlockProduct, Results], shared: Sequence[Tensor]) -> None:
        """Keep what the budget allows; what other cuts have left goes first where that makes room."""
        given = {t.untyped_storage().data_ptr() for t in shared}
        made = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in found[1]}
        needed = sum(size for place, size in made.items() if place not in given)
        mine = self._kept.get(cut, {})
        if needed + sum(size for *_, size in mine.values()) > self.budget:
            return
        if needed + self.kept_bytes > self.budget:
            self._kept = {cut: mine}
        self._kept.setdefault(cut, {})[batch] = (*found, needed)

    def _record(
        self, product: Callable[..., Tensor], rows: Tensor, shared: Sequence[Tensor], plain: Callable[[Tensor], Tensor]
    ) -> tuple[BlockProduct, Results] | None:
        """(stages, what they compute of this batch), compared with plain products; the time goes into `_seconds`."""
        start = time.perf_counter()
        try:
            stages = record(product, rows[0], shared)
            few = generic(rows.new_empty(COMPARED, rows.shape[1]))
            folded, primal = torch.zeros_like(few), stages.primal(*shared)
            stages.add(folded, primal, stages.direction(few))
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # an operation that nobody thought of: the plain product has the last word
            self.refused = f"{type(error).__name__}: {error}".splitlines()[0]
            self._seconds.append((time.perf_counter() - start, None))
            return None
        between = time.perf_counter()
        wanted = plain(few)
        tolerance = agreement(wanted.dtype, self.inside) * float(wanted.norm())
        difference = float((folded - wanted).norm())
        end = time.perf_counter()
        self._seconds.append((end - start, (end - between) / COMPARED))
        if difference <= tolerance:  # NaN is no agreement
            return stages, primal
        self.refused = f"a folded product differs from a plain one by {difference:.1e}, of size {wanted.norm():.1e}"
        return None


def agreement(dtype: torch.dtype, inside: torch.dtype | None) -> float:
    """Largest relative difference of two products, of which some operations may be in a less precise type."""
    own = AGREEMENT * torch.finfo(dtype).eps
    return own if inside in (None, dtype) else max(own, INSIDE * torch.finfo(inside).eps)


def generic(like: Tensor) -> Tensor:
    """Gaussian rows of this shape, always the same: rows of a caller may be zero, or see one parameter only."""
    rows = torch.randn(like.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return rows.to(like.device, like.dtype)
