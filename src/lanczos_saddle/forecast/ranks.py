"""What each of several ranks takes: the model of docs/how-to/ranks.md, "What it costs".

    data      every rank multiplies all columns with its samples; rank 0 has the recurrences, all have a part of a basis
    probes    every rank has all samples, and some of the probes with their bases; other blocks are cut by columns
    vectors   as data, and every rank has some coordinates of every vector: whole ones a few columns at a time, while
              they are multiplied, or none where the matrix multiplies slices by itself
    weights   as data, and every rank has some coordinates of the parameters, and one layer whole while it is evaluated
    all       these three: samples, vectors, weights

Memory is that of rank 0 and of each other rank, the fullest of them. Seconds are those of one process with a rank's
part of the products in the place of all, and of the bytes between ranks: that an exchange takes time, however small it
is, is left out.

`SHARINGS` says what a way to share divides among the ranks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from lanczos_saddle.counting.options import Options
from lanczos_saddle.distributed.in_slices import WHOLE
from lanczos_saddle.distributed.spread_basis import AT_A_TIME, SCRATCH, parts_of
from lanczos_saddle.forecast.footprints import FLOAT
from lanczos_saddle.networks.curvature import Curvature
from lanczos_saddle.networks.hessian import Hessian
from lanczos_saddle.networks.problem import Problem
from lanczos_saddle.operators.operator import Operator
from lanczos_saddle.preconditioning.choice import check_preconditioner

LINK = 1e9
"""Bytes a second between ranks, where none are given: gloo within a machine, or a network of 10 Gbit/s."""

SPREAD = ("basis", "basis of the pilot")
"""Parts of which each rank keeps some coordinates."""


@dataclass(frozen=True)
class Sharing:
    """Into how many parts ranks divide samples, columns of a block, recurrences, and coordinates.

    Those of a basis that rank 0 deals out, of all vectors, of parameters.
    """

    samples: int = 1
    columns: int = 1
    recurrences: int = 1
    basis: int = 1
    vectors: int = 1
    weights: int = 1
    ranks: int = 1
    link: float = float("inf")  # bytes a second between them
    over: str = "one process"

    def samples_of(self, known: int | None) -> int | None:
        """Of so many samples those of the fullest rank."""
        return None if known is None else -(-known // self.samples)

    def columns_of(self, block: int) -> int:
        """Of a block of products the columns that the fullest rank multiplies."""
        return -(-block // self.columns)

    def held(self, size: int) -> int:
        """Of so many coordinates of a vector those of the fullest rank."""
        return -(-size // self.vectors)

    def at_once(self, columns: int, vector: int) -> int:
        """Of so many columns those that are multiplied at a time, of vectors of so many bytes."""
        return min(columns, max(1, WHOLE // max(1, vector))) if self.vectors > 1 else self.columns_of(columns)

    def dealt(self, probes: int) -> int:
        """Of so many recurrences those of the fullest rank; one alone stays where it is."""
        return -(-probes // self.recurrences) if probes > 1 else probes

    def work_of(self, samples: int | None, block: int) -> float:
        """Of the work of a block of products the part of the slowest rank."""
        mine = 1 / self.samples if not samples else -(-samples // self.samples) / samples
        return mine * self.columns_of(block) / block


SHARINGS = {
    "data": lambda ranks: Sharing(samples=ranks, basis=ranks),
    "probes": lambda ranks: Sharing(columns=ranks, recurrences=ranks, basis=ranks),
    "vectors": lambda ranks: Sharing(samples=ranks, vectors=ranks),
    "weights": lambda ranks: Sharing(samples=ranks, basis=ranks, weights=ranks),
    "all": lambda ranks: Sharing(samples=ranks, vectors=ranks, weights=ranks),
}
"""What R ranks divide, by what they are said to share."""

SHARED = {
    "data": "samples",
    "probes": "probes",
    "vectors": "samples and vectors",
    "weights": "samples and weights",
    "all": "samples, vectors and weights",
}
"""In words."""


def sharing_of(operator: Operator, ranks: Any, over: Any, link: Any) -> Sharing:
    """What so many ranks divide. Raises ValueError for what makes no sense, or not of this matrix."""
    if not isinstance(ranks, int) or ranks < 1:
        raise ValueError(f"ranks must be a whole number of at least 1; got {ranks}")
    if over not in SHARINGS:
        raise ValueError(f"over must be one of {', '.join(map(repr, SHARINGS))}; got {over!r}")
    if link is not None and not 0 < link < float("inf"):
        raise ValueError(f"link must be a positive number of bytes a second; got {link:g}")
    if ranks == 1:
        if link is not None:
            raise ValueError(
                f"link is of what goes between ranks; got {link:g} bytes a second and one process: pass ranks=R, or "
                "leave it out"
            )
        return Sharing()
    _refuse(operator, over)
    return replace(SHARINGS[over](ranks), ranks=ranks, link=LINK if link is None else float(link), over=over)


def _refuse(operator: Operator, over: str) -> None:
    """Raises ValueError for a matrix that those would not take by whose name ranks share it."""
    network, sampled = isinstance(operator, Curvature), isinstance(getattr(operator, "problem", None), Problem)
    if operator.dtype.is_complex:
        raise ValueError("ranks share real matrices; got a complex one: plan it for one process")
    if over in ("weights", "all") and not (sampled and isinstance(operator, Hessian)):
        raise ValueError(
            f"ranks that share weights share those of Hessian(model, loss, data); got {_named(operator)}: "
            "over='vectors' leaves weights whole"
        )
    if not sampled and (over == "data" or (over == "vectors" and network)):
        raise ValueError(
            f"ranks share the samples of Hessian(model, loss, data) or GaussNewton(...); got {_named(operator)}: it is "
            "not cut into samples, over='probes' shares the probes of a Hessian of a function"
        )
    if not network and over != "vectors":
        raise ValueError(
            f"ranks share the probes of a Hessian or a GaussNewton; got {_named(operator)}: plan it for one process"
        )


def as_ranks_ask(options: Options, operator: Operator, sharing: Sharing) -> Options:
    """Those of a count on ranks; raises ValueError, as that does, for what vectors or weights in parts do not offer."""
    there = Imagined(operator, sharing)
    if sharing.vectors > 1:
        return options.on_slices(there)
    if sharing.weights > 1:
        check_preconditioner(options.preconditioner, there, options.method)
        return replace(options, preconditioner=options.made)  # "auto" makes none
    return options


def _named(operator: Any) -> str:
    if isinstance(operator, torch.Tensor):
        return "a matrix"
    if not isinstance(operator, Curvature) or isinstance(operator.problem, Problem):
        return type(operator).__name__
    return "one of a function"


@dataclass(frozen=True)
class Load:
    """What a way asks of other ranks: columns of its widest block of products, and what lies on them."""

    block: int = 0
    recurrences: int = 0  # of those that are dealt out
    basis: int = 0  # bytes of theirs, or of all that are not dealt out
    vectors: int = 0  # that every rank of those gets, taken out of the space
    slices: int = 0  # bytes of a slice of the bases that are dealt out, collected for bounds
    forms: int = 0  # bytes of what every rank sums up for bounds where vectors are in slices


def first_rank(sharing: Sharing, parts: Mapping[str, int], size: int, load: Load) -> dict[str, int]:
    """Of a phase of one process, what rank 0 holds."""
    if sharing.ranks == 1 or sharing.vectors > 1:
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
    """The operator as one of several ranks would see it, each with as much memory: what a count asks beforehand."""

    spread_basis = network = None

    def __init__(self, base: Operator, sharing: Sharing) -> None:
        self.shape, self.dtype, self.device = base.shape, base.dtype, base.device
        self.ranks, self._dealt = sharing.ranks, sharing.recurrences > 1
        self.space = self if sharing.vectors > 1 else None

    def __matmul__(self, v: torch.Tensor, /) -> torch.Tensor:
        raise NotImplementedError("nobody multiplies by it")

    def basis_room(self, free: int, beside: int, part: int, probes: int) -> int:
        """As that of what is shared."""
        if self.space is not None:
            return free // part * self.ranks - beside
        beside += SCRATCH * FLOAT * self.shape[0] + 2 * AT_A_TIME
        whole, most = parts_of(self.ranks, probes if self._dealt else 1)
        return (free // part - beside) * whole // most
