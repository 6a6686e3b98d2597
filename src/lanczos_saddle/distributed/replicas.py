"""One matrix that every rank has whole: a block of products is shared by columns, a run of recurrences by probes.

    H = probe_parallel(Hessian(model, loss, data))          # the same model and data on every rank
    counts = count_eigenvalues(H, threshold=1e-4)           # called by every rank; the same counts on all

Nothing is summed over ranks: a column is multiplied by one of them, as one process multiplies it. Where data are few,
or a product is not a sum over samples, this is how ranks help; where data are many, `data_parallel` is.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from lanczos_saddle.distributed.group import TIMEOUT, Group
from lanczos_saddle.distributed.leading import lead
from lanczos_saddle.distributed.over_ranks import OverRanks, Where, check_where, require_alike
from lanczos_saddle.distributed.shares import digest
from lanczos_saddle.networks.curvature import Curvature
from lanczos_saddle.networks.problem import Problem
from lanczos_saddle.operators.fidelity import Fidelity
from lanczos_saddle.operators.inference import differentiable
from lanczos_saddle.operators.knowledge import Knowledge
from lanczos_saddle.structure.know import know


@differentiable
def probe_parallel(matrix: Curvature, *, timeout: float = TIMEOUT, dense: Where = "auto") -> Replicas:
    """The same matrix, its block products shared by columns over the ranks of the default process group.

    Args:
        matrix: a `Hessian` or `GaussNewton`, of a function too (`Hessian.of`), the same on every rank.
        timeout: seconds without a sign of life after which a rank is given up.
        dense: as in `data_parallel`.

    Called by all ranks, together. Cost: one hash of the weights, and one product of a fixed vector, by which ranks see
    that theirs is the same matrix; for each block of k products k N numbers to all ranks and back, beside k / R columns
    on each.

    Raises ValueError on every rank where there is no process group, where weights, types, kinds or products differ.
    """
    group = Group(getattr(matrix, "device", None), timeout)
    group.attempted(lambda: _check(matrix, dense))
    made = _settled(matrix, group)
    made.lead, made.dense = lead, dense
    image = group.attempted(lambda: matrix @ _fixed(matrix))
    first = image.cpu() if group.rank == 0 else torch.empty(image.shape, dtype=image.dtype)
    group.said(first)
    off = float((image.cpu() - first).norm())
    group.require_same(
        str(off <= SAME * torch.finfo(matrix.arithmetic).eps * float(first.norm())),
        "every rank has the same matrix, of the same samples; products with one vector differ between ranks",
    )
    return made


SAME = 1000.0
"""Products of one matrix on two ranks differ by less than this many eps: sums may be taken in another order."""


class Replicas(OverRanks):
    """The matrix of every rank, an `Operator` (N, N); made by `probe_parallel`.

    ``A @ v`` is this rank's own product, and says nothing to others. The questions of this package are called by all
    ranks: rank 0 works them out, and all multiply.
    """

    @property
    def replica(self) -> Curvature:
        """This rank's own."""
        assert self.share is not None
        return self.share

    def __matmul__(self, v: Tensor, /) -> Tensor:
        return self.replica @ v

    def product(self, v: Tensor, *, everywhere: bool) -> Tensor:
        """A v of vectors that all ranks have, each rank a part of the columns; on rank 0 alone."""
        assert not everywhere
        ranks = self.group.size
        columns = v if v.ndim == 2 else v[:, None]
        k = columns.shape[1]
        own = columns[:, self.group.rank :: ranks]
        part = columns.new_zeros(-(-k // ranks), self.shape[0])
        if own.shape[1]:
            part[: own.shape[1]] = self.group.attempted(lambda: self.replica.product(own.contiguous())).mT
        else:
            self.group.attempted(lambda: None)
        parts = self.group.collected(part)
        if parts is None:
            return v
        rows = torch.stack(parts, dim=1).flatten(0, 1)[:k]  # column r + R j is the j-th of rank r
        return rows.mT if v.ndim == 2 else rows[0]

    def to(self, dtype: torch.dtype) -> Replicas:
        """The same matrix, with products in another floating-point type; called by all ranks."""
        other = _settled(self.group.attempted(lambda: self.replica.to(dtype)), self.group)
        other.lead, other.dense = self.lead, self.dense
        return other

    def compared(self) -> Fidelity:
        """What rank 0 found; called by all ranks."""
        found = self.group.attempted(lambda: self.replica.fidelity)
        self._agree_on_mode()
        first: Fidelity = self.group.gathered(found)[0]
        return first

    def slope(self) -> tuple[float, float]:
        """(norm of the gradient, loss); called by all ranks."""
        problem = self.replica.problem
        both = self.group.attempted(lambda: (float(problem.gradient().norm()), float(problem.value())))
        first: tuple[float, float] = self.group.gathered(both)[0]
        return first

    def known(self, point: Any) -> Knowledge:
        """What is proved of it; called by all ranks."""
        found = self.group.attempted(lambda: know(self.replica))
        return replace(found, multiply_block=None, point=point)


def _check(matrix: Any, dense: Any) -> None:
    check_where(dense)
    if not isinstance(matrix, Curvature):
        raise ValueError(
            "probe_parallel takes a Hessian or a GaussNewton that every rank has whole; got "
            f"{type(matrix).__name__}: data_parallel shares samples"
        )


def _settled(matrix: Curvature, group: Group) -> Replicas:
    """The matrix of all ranks, if theirs are alike; raises ValueError where they are not."""
    problem = matrix.problem
    held = [*problem.frozen.values()] if isinstance(problem, Problem) else []
    facts = {
        "size": matrix.shape[0],
        "kind": type(matrix).__name__,
        "names": [(name, tuple(problem.shapes[name])) for name in problem.names],
        "dtype": matrix.dtype,
        "arithmetic": matrix.arithmetic,
        "device": matrix.device.type,
        "state": digest([problem.theta, *held]),
    }
    require_alike(group.gathered(facts), "matrices")
    made = Replicas(matrix, group, {**facts, "device": matrix.device, "theta": problem.theta})
    made._agree_on_mode()
    return made


def _fixed(matrix: Curvature) -> Tensor:
    """A Gaussian vector, the same on all ranks."""
    drawn = torch.randn(matrix.shape[0], generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return drawn.to(matrix.device, matrix.dtype)
