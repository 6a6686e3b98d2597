"""What each of several ranks takes: the model of docs/how-to/ranks.md, "What it costs".

    data      every rank multiplies all columns with its samples; rank 0 has the recurrences, all have a part of a basis
    probes    every rank has all samples, and some of the probes with their bases; other blocks are cut by columns

Memory is that of rank 0 and of each other rank, the fullest of them. Seconds are those of one process with a rank's
part of the products in the place of all, and of the bytes between ranks.

`SHARINGS` says what a way to share divides among the ranks. Another one (recurrences by coordinates, or weights) is a
line there, with a field of `Sharing` for what it divides that these do not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from lanczos_saddle.distributed.spread_basis import AT_A_TIME, SCRATCH, parts_of
from lanczos_saddle.forecast.footprints import FLOAT
from lanczos_saddle.networks.curvature import Curvature
from lanczos_saddle.networks.problem import Problem
from lanczos_saddle.operators.operator import Operator

LINK = 1e9
"""Bytes a second between ranks, where none are given: gloo within a machine, or a network of 10 Gbit/s."""

SPREAD = ("basis", "basis of the pilot")
"""Parts of which each rank keeps some coordinates."""


@dataclass(frozen=True)
class Sharing:
    """Into how many parts ranks divide samples, columns of a block, recurrences, coordinates of a basis."""

    samples: int = 1
    columns: int = 1
    recurrences: int = 1
    basis: int = 1
    ranks: int = 1
    link: float = float("inf")  # bytes a second between them
    over: str = "one process"

    def samples_of(self, known: int | None) -> int | None:
        """Of so many samples those of the fullest rank."""
        return None if known is None else -(-known // self.samples)

    def columns_of(self, block: int) -> int:
        """Of a block of products the columns that the fullest rank multiplies."""
        return -(-block // self.columns)

    def dealt(self, probes: int) -> int:
        """Of so many recurrences those of the fullest rank; one alone stays where it is."""
        return -(-probes // self.recurrences) if probes > 1 else probes

    def work_of(self, samples: int | None, block: int) -> float:
        """Of the work of a block of products the part of the slowest rank."""
        mine = 1 / self.samples if not samples else -(-samples // self.samples) / samples
        return mine * self.columns_of(block) / block


def _over_data(ranks: int) -> Sharing:
    return Sharing(samples=ranks, basis=ranks)


def _over_probes(ranks: int) -> Sharing:
    return Sharing(columns=ranks, recurrences=ranks, basis=ranks)


SHARINGS = {"data": _over_data, "probes": _over_probes}
"""What R ranks divide, by what they are said to share."""


def sharing_of(operator: Operator, ranks: Any, over: Any, link: Any) -> Sharing:
    """What so many ranks divide. Raises ValueError for what makes no sense, or not of this matrix."""
    if not isinstance(ranks, int) or ranks < 1:
        raise ValueError(f"ranks must be a whole number of at least 1; got {ranks}")
    if over not in SHARINGS:
        raise ValueError(f"over must be one of {', '.join(map(repr, SHARINGS))}; got {over!r}")
    if link is not None and not 0 < link < float("inf"):
        raise ValueError(f"link must be a positive number of bytes a second; got {link:g}")
    if ranks == 1:
        return Sharing()
    _refuse(operator, over)
    return replace(SHARINGS[over](ranks), ranks=ranks, link=LINK if link is None else float(link), over=over)


def _refuse(operator: Operator, over: str) -> None:
    """Raises ValueError for a matrix that `data_parallel` or `probe_parallel` would not take."""
    if over == "data" and not (isinstance(operator, Curvature) and isinstance(operator.problem, Problem)):
        raise ValueError(
            f"ranks share the samples of Hessian(model, loss, data) or GaussNewton(...); got {_named(operator)}: it is "
            "not cut into samples, over='probes' shares the probes of a Hessian of a function"
        )
    if not isinstance(operator, Curvature):
        raise ValueError(
            f"ranks share the probes of a Hessian or a GaussNewton; got {_named(operator)}: plan it for one process"
        )


def _named(operator: Any) -> str:
    if isinstance(operator, torch.Tensor):
        return "a matrix"
    return "one of a function" if isinstance(operator, Curvature) else type(operator).__name__


@dataclass(frozen=True)
class Load:
    """What a way asks of other ranks: columns of its widest block of products, and what lies on them."""

    block: int = 0
    recurrences: int = 0  # of those that are dealt out
    basis: int = 0  # bytes of theirs, or of all that are not dealt out
    vectors: int = 0  # that every rank of those gets, taken out of the space
    slices: int = 0  # bytes of a slice of the bases that are dealt out, collected for bounds


def first_rank(sharing: Sharing, parts: Mapping[str, int], size: int, load: Load) -> dict[str, int]:
    """Of a phase of one process, what rank 0 holds."""
    if sharing.ranks == 1:
        return dict(parts)
    whole = ("basis",) if load.recurrences else ()
    cut = {name: -(-parts[name] // sharing.basis) for name in SPREAD if name in parts and name not in whole}
    vectors = between(min(max(1, load.block) * FLOAT * size, max(AT_A_TIME, FLOAT * size)))
    return {**parts, **cut, "between ranks": vectors + between(load.slices)}


def between(piece: int) -> int:
    """What rank 0 holds of a piece that is cut up, or put together: `SCRATCH` copies, or twice as many.

    Copies of small pieces are made and freed by threads of the connection, too, which do not use those of another one
    again; larger ones the C library gives back at once.
    """
    return (SCRATCH if piece >= AT_A_TIME else 2 * SCRATCH) * piece


class Imagined:
    """The operator as one of several ranks would see it, each with as much memory: what `keep_basis` asks."""

    spread_basis = None

    def __init__(self, base: Operator, sharing: Sharing) -> None:
        self.shape, self.dtype, self.device = base.shape, base.dtype, base.device
        self.ranks, self._dealt = sharing.ranks, sharing.recurrences > 1

    def basis_room(self, free: int, beside: int, part: int, probes: int) -> int:
        """As that of what is shared."""
        beside += SCRATCH * FLOAT * self.shape[0] + 2 * AT_A_TIME
        whole, most = parts_of(self.ranks, probes if self._dealt else 1)
        return (free // part - beside) * whole // most
