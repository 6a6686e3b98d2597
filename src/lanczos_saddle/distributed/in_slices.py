"""Vectors over ranks: every rank has a slice of coordinates of all vectors, recurrences and basis; rank 0 no more.

    H = vector_parallel(Hessian(model, loss, share(data)))    # each rank's samples, as data_parallel
    counts = count_eigenvalues(H, threshold=1e-4, method="lanczos")         # the same counts on all

A block of k products of such a Hessian costs each rank a pass over its samples with whole vectors: rows are gathered
before, the products are summed into slices after, a few columns at a time. What multiplies slices without whole
vectors may be passed instead: `weight_parallel(...)`, so that no rank has the whole of anything, or a `slices.Sliced`.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from lanczos_saddle.distributed.data import check_share, of_samples
from lanczos_saddle.distributed.group import TIMEOUT, Group
from lanczos_saddle.distributed.leading import lead
from lanczos_saddle.distributed.leading_slices import LedSlices
from lanczos_saddle.distributed.over_ranks import OverRanks
from lanczos_saddle.distributed.sharded_hessian import ShardedHessian
from lanczos_saddle.distributed.slices import Sliced, check_slices, even_slice
from lanczos_saddle.networks.curvature import Curvature
from lanczos_saddle.operators.fidelity import Fidelity
from lanczos_saddle.operators.inference import differentiable

WHOLE = 2**28
"""Bytes of whole vectors that a rank gathers at a time, or one vector."""


@differentiable
def vector_parallel(matrix: Curvature | ShardedHessian | Sliced | None, *, timeout: float = TIMEOUT) -> OverRanks:
    """The matrix of all ranks' samples, vectors and recurrences in slices of coordinates over the ranks.

    Args:
        matrix: the `Hessian` or `GaussNewton` of this rank's samples, None where it has none, as in `data_parallel`; or
            what `weight_parallel` made, whose vectors are then cut like its weights; or this rank's part of another
            matrix that multiplies slices (`shape`, `dtype`, `device`, `own`, `product_own`).
        timeout: seconds without a sign of life after which a rank is given up.

    Called by all ranks of the default process group, together. No rank holds more than its slice of the recurrences
    and of the basis; a Hessian of whole weights has whole vectors while it multiplies, `WHOLE` bytes at a time.

    Raises ValueError as `data_parallel`, where slices are not all coordinates in the order of ranks, for N = 1, and
    later for what needs whole vectors: exact counts, elimination, preconditioners, vectors that are taken out.
    """
    group = Group(getattr(matrix, "device", None), timeout)
    kinds = group.gathered((isinstance(matrix, ShardedHessian), hasattr(matrix, "product_own"), type(matrix).__name__))
    cut, foreign, names = map(list, zip(*kinds, strict=True))
    if any(cut) and not all(cut):
        raise ValueError(
            f"every rank passes the matrix that weight_parallel gave it, without samples too; rank {cut.index(True)} "
            f"does, rank {cut.index(False)} passes {names[cut.index(False)]}: call "
            "vector_parallel(weight_parallel(...)) on all"
        )
    if isinstance(matrix, ShardedHessian):
        found: OverRanks = copy.copy(matrix)
    elif any(foreign):
        found = Foreign(matrix, group)
    else:
        group.attempted(lambda: check_share(matrix, group.size))
        share: Any = matrix
        found = of_samples(share, group, InSlices)
    if found.shape[0] < 2:
        raise ValueError("vectors of one coordinate, N = 1, have nothing to cut: data_parallel counts it")
    found.lead, found.leader = lead, LedSlices
    return found


class InSlices(OverRanks):
    """The matrix of all ranks' samples, made by `vector_parallel`: multiplies slices with whole weights."""

    @property
    def own(self) -> slice:
        """This rank's coordinates: ceil(N / R), on the last ranks fewer or none."""
        return even_slice(self.shape[0], self.group.rank, self.group.size)

    @differentiable
    def product_own(self, v: Tensor, /) -> Tensor:
        """This rank's rows of H V; called by all ranks together."""
        columns = max(1, WHOLE // (self.shape[0] * self.dtype.itemsize))
        return torch.cat([self._multiplied(part) for part in torch.split(v, columns, dim=1)], dim=1)

    def _multiplied(self, v: Tensor) -> Tensor:
        """The same for a few columns."""
        size, ranks = self.shape[0], self.group.size
        width = -(-size // ranks)
        whole = self.group.everywhere(pad(v, (0, 0, 0, width - len(v))))[:size]
        rows = self.group.attempted(lambda: self.local(whole))
        own = self.group.shared_out(rows, [even_slice(size, r, ranks) for r in range(ranks)])
        return own.mT / self.total()


class Foreign(OverRanks):
    """A matrix whose ranks multiply slices by themselves."""

    def __init__(self, base: Any, group: Group) -> None:
        missing = group.gathered(not hasattr(base, "product_own"))
        if any(missing):
            raise ValueError(
                "every rank passes its part of one matrix in slices, an empty slice too; that of rank "
                f"{missing.index(True)} has no product_own"
            )
        size = int(base.shape[0])
        check_slices(group.gathered(base.own), size)
        facts = {"size": size, "dtype": base.dtype, "device": base.device, "kind": "", "theta": torch.empty(0)}
        super().__init__(None, group, {**facts, "arithmetic": getattr(base, "arithmetic", base.dtype)})
        self.base: Sliced = base

    @property
    def own(self) -> slice:
        """This rank's coordinates."""
        return self.base.own

    def product_own(self, v: Tensor, /) -> Tensor:
        """This rank's rows of H V; called by all ranks together."""
        product: Tensor = self.base.product_own(v).detach()
        self.group.attempted(lambda: _require_rows(product, v))
        return product

    def product(self, v: Tensor, *, everywhere: bool) -> Tensor:  # noqa: ARG002  # they all gather it
        """H v in the shape of v, put together from the rows of all ranks; called by all."""
        block = v if v.ndim == 2 else v[:, None]
        own = self.product_own(block[self.own])
        parts: list[Tensor] = self.group.gathered(own.cpu())
        product = torch.cat(parts).to(v.device)
        return product if v.ndim == 2 else product[:, 0]

    def compared(self) -> Fidelity:
        """Nothing is known of a function."""
        return None  # type: ignore[return-value]

    def another_way(self) -> bool:
        """There is one way."""
        return False

    def offers(self, dtype: torch.dtype) -> bool:
        """Only its own type."""
        return dtype == self.dtype


def _require_rows(product: Tensor, v: Tensor) -> None:
    if product.shape != v.shape or product.dtype != v.dtype:
        raise ValueError(
            f"product_own gives this rank's rows in the shape and type of what it was given, {tuple(v.shape)} "
            f"{v.dtype}; got {tuple(product.shape)} {product.dtype}"
        )
