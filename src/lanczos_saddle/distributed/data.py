"""Samples over ranks: H = sum_r w_r H_r / sum_r w_r, since H is linear in the loss.

Each rank holds the curvature matrix H_r of its own share of the samples, of weight w_r. A block of products costs each
rank a pass over its share, and all of them one sum of N k numbers. DistributedDataParallel does not do this: it reduces
first derivatives only, and is taken off the model.

    H = data_parallel(Hessian(model, loss, share(data)))
    counts = count_eigenvalues(H, threshold=1e-4)           # called by every rank; the same counts on all
"""

from __future__ import annotations

from typing import Any

from lanczos_saddle.distributed.group import TIMEOUT, Group
from lanczos_saddle.distributed.leading import lead
from lanczos_saddle.distributed.over_ranks import (
    OverRanks,
    Where,
    check_where,
    require_one_function,
    require_sums,
    settled,
)
from lanczos_saddle.distributed.shares import refuse_uneven, require_one_cut, require_one_whole
from lanczos_saddle.networks.curvature import Curvature
from lanczos_saddle.networks.problem import Problem
from lanczos_saddle.operators.inference import differentiable


@differentiable
def data_parallel(share: Curvature | None, *, timeout: float = TIMEOUT, dense: Where = "auto") -> OverRanks:
    """The curvature matrix of all ranks' samples from a `Hessian` or `GaussNewton` of each rank's own.

    Args:
        share: the matrix of this rank's samples; None where it has none. Model, loss and weights are the same on all.
        timeout: seconds without a sign of life after which a rank is given up.
        dense: where the matrix lies in `inertia` and exact counts: "columns", each rank has some; "one", rank 0 has it,
            and its eigenvalues where N is small; "auto", columns beyond N = 3000 or where rank 0 has no room.

    Called by all ranks of the default process group, together. Shares may be of any size. Cost: one hash of the
    weights and a few samples on every rank; for each block of k products a sum of N k numbers over the ranks, beside a
    share of the work.

    Raises ValueError on every rank where there is no process group, where weights, frozen values, types or kinds of the
    matrix differ between ranks, where model and loss have another value on the same samples, where no rank has samples,
    and where a loader's `DistributedSampler` repeats or leaves out samples, or those of the ranks do not cut one data
    set.
    """
    group = Group(None if share is None else share.device, timeout)
    group.attempted(lambda: check_share(share, group.size, dense))
    matrix = of_samples(share, group, OverRanks)
    matrix.lead, matrix.dense = lead, dense
    return matrix


def of_samples(share: Curvature | None, group: Group, kind: type[OverRanks]) -> OverRanks:
    """The matrix of shares that are of one function, cut one set of samples and add up; ValueError of others."""
    source = None if share is None else share.problem.data.source
    require_one_cut(group, source)
    matrix = settled(share, group, None, kind)
    require_one_function(share, group)
    require_sums(share, group)
    require_one_whole(group, source, "" if share is None else share.problem.data.part_of)
    return matrix


def check_share(share: Any, ranks: int, dense: Any = "auto") -> None:
    """Raises ValueError for what is no matrix of samples, and for shares that do not make up the data."""
    check_where(dense)
    if share is None:
        return
    if not isinstance(share, Curvature) or not isinstance(share.problem, Problem):
        got = "one of a function" if isinstance(share, Curvature) else type(share).__name__
        raise ValueError(
            "ranks share the samples of Hessian(model, loss, data) or GaussNewton(...), or have none (None); got "
            f"{got}: a function of parameters is not cut into samples"
        )
    refuse_uneven(share.problem.data.source, ranks)
