"""Samples over ranks: H = sum_r w_r H_r / sum_r w_r, since H is linear in the loss; what all ranks call together."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal, TypeVar, get_args

import torch
from torch import Tensor

from lanczos_saddle.distributed.group import Group
from lanczos_saddle.distributed.shares import digest
from lanczos_saddle.networks.batches import Batch
from lanczos_saddle.networks.comparison.examination import MODES, take_next_mode
from lanczos_saddle.networks.curvature import Curvature
from lanczos_saddle.networks.problem import Problem
from lanczos_saddle.operators.fidelity import ZERO, Fidelity
from lanczos_saddle.operators.inference import differentiable
from lanczos_saddle.operators.operator import check_vector

T = TypeVar("T")

Where = Literal["auto", "columns", "one"]
"""Who writes the matrix out for an exact count: all ranks by columns, rank 0, or by size and memory."""

WORST = ("agrees", "kinks", "coarse", "undecided", "off")
"""What a comparison may show, the best first: that of all ranks is the worst of theirs."""


ERRORS = ("error", "tolerance", "value_error", "slope_error")
"""What a comparison measured: of all ranks the largest."""


class OverRanks:
    """The curvature matrix of all ranks' samples together, an `Operator` (N, N); made by `data_parallel`.

    ``A @ v`` is called by all ranks with the same v (compared by a hash) and gives all the same product. The questions
    of this package (`count_eigenvalues`, `classify`, ...) are called by all ranks, too: rank 0 works them out, with its
    arguments, generator, memory and files, and the others multiply; all get the answer, or what was raised.
    """

    def __init__(self, share: Curvature | None, group: Group, facts: dict[str, Any]) -> None:
        self.share, self.group = share, group
        self.shape: tuple[int, int] = (facts["size"], facts["size"])
        self.dtype: torch.dtype = facts["dtype"]
        self.arithmetic: torch.dtype = facts["arithmetic"]
        self.device: torch.device = facts["device"]
        self.kind: str = facts["kind"]
        self.theta: Tensor = facts["theta"]  # (N,)
        self.followed: dict[int, OverRanks] = {0: self}  # those that rank 0 has asked for, by its numbers
        self.shards: dict[int, Any] = {}  # parts of bases that rank 0 has spread, by its numbers
        self.lead: Callable[[OverRanks, Callable[[Any], Any]], Any] = _refuse  # `data_parallel` says who
        self.dense: Where = "auto"
        self.leader: Any = None  # what rank 0 has in its place, where that is no `Led`
        self._total: float | None = None

    def __matmul__(self, v: Tensor, /) -> Tensor:
        self.group.refuse_within()
        known = self.group.attempted(lambda: self._known(v))
        found = self.group.largest(*known, *(-n for n in known))
        if found[:2] != [-n for n in found[2:]]:
            raise ValueError(
                "all ranks multiply by the same vectors; they differ: draw them from generators with one seed, or let "
                "rank 0 decide, A.led_by_one(question), called by all and worked out there"
            )
        return self.product(v, everywhere=True)

    def _known(self, v: Tensor) -> tuple[int, int]:
        """(columns, 0 of a vector; a hash) of what fits; raises ValueError for what does not."""
        check_vector(v, self.shape[0], self.dtype, self.device)
        return v.shape[1] if v.ndim == 2 else 0, fingerprint(v)

    @differentiable
    def product(self, v: Tensor, *, everywhere: bool) -> Tensor:
        """A v in the shape of v, of vectors that are known to be the same; on rank 0 alone where not `everywhere`."""
        rows = self.group.attempted(lambda: self.local(v))
        self.group.summed(rows, everywhere=everywhere)
        rows /= self.total()
        return rows.mT if v.ndim == 2 else rows[0]

    def total(self) -> float:
        """The weight of all samples, sum_r w_r: exchanged at the first product, when a pass has shown it."""
        if self._total is None:
            own = self.group.attempted(lambda: 0.0 if self.share is None else self.share.problem.weight)
            self._total = float(sum(self.group.gathered(own)))
        return self._total

    def local(self, v: Tensor) -> Tensor:
        """w_r H_r V as rows (k, N), of this rank's samples."""
        if self.share is None:
            return v.new_zeros(v.shape[1] if v.ndim == 2 else 1, self.shape[0])
        product = self.share.product(v)
        rows = (product.mT if v.ndim == 2 else product[None]).contiguous()
        return rows.mul_(self.share.problem.weight)

    def to(self, dtype: torch.dtype) -> OverRanks:
        """The same matrix, with products in another floating-point type; called by all ranks."""
        other = self.group.attempted(lambda: None if self.share is None else self.share.to(dtype))
        matrix = settled(other, self.group, self._total, type(self))
        matrix.lead, matrix.leader, matrix.dense = self.lead, self.leader, self.dense
        return matrix

    def at(self, theta: Tensor) -> OverRanks:
        """The same kind of matrix at other parameters theta (N,), the same on all ranks; called by all ranks."""
        other = copy.copy(self)
        other.share = self.group.attempted(lambda: None if self.share is None else self.share.at(theta))
        other.theta = theta
        return other

    def offers(self, dtype: torch.dtype) -> bool:
        """Whether the function of every rank evaluates in that type; called by all ranks."""
        own = self.group.attempted(lambda: self.share is None or self.share.problem.offers(dtype))
        return not self.group.largest(not own)[0]

    def compared(self) -> Fidelity:
        """What every rank found on its own share: the worst of it; called by all ranks."""
        found = self.group.attempted(lambda: None if self.share is None else self.share.fidelity)
        self._agree_on_mode()
        return worst([f for f in self.group.gathered(found) if f is not None])

    def another_way(self) -> bool:
        """Whether there is a later mode on some rank; it is taken, by all; called by all ranks."""
        taken = self.group.attempted(lambda: self.share is not None and take_next_mode(self.share))
        self._agree_on_mode()
        return bool(self.group.largest(taken)[0])

    def slope(self) -> tuple[float, float]:
        """(norm of the gradient, loss) of all samples together; called by all ranks."""
        parts = self.group.attempted(self._slope)
        self.group.summed(parts, everywhere=True)
        parts /= self.total()
        return float(parts[:-1].norm()), float(parts[-1])

    def _slope(self) -> Tensor:
        if self.share is None:
            return torch.zeros(self.shape[0] + 1, dtype=self.dtype, device=self.device)
        problem = self.share.problem
        return torch.cat([problem.gradient(), problem.value()[None]]).detach().mul_(problem.weight)

    def _agree_on_mode(self) -> None:
        """The mode of products is the last one of any rank's: what is wrong on some samples is left by all."""
        own = -1 if self.share is None else MODES.index(self.share.mode)
        last = self.group.largest(own)[0]
        if self.share is not None and own != last:
            self.share.mode = MODES[last]

    def led_by_one(self, question: Callable[[Any], T]) -> T:
        """question(A), worked out by rank 0 with an A of which it alone is the caller; the answer on every rank.

        Called by all ranks. What the question raises is raised on all of them.
        """
        return self.lead(self, question)  # type: ignore[no-any-return]


def _refuse(_: OverRanks, __: Callable[[Any], Any]) -> Any:
    raise ValueError("questions are put to the matrix that data_parallel gave; got one of its parts")


def check_where(dense: Any) -> None:
    """Raises ValueError for another choice."""
    if dense not in get_args(Where):
        raise ValueError(f"dense must be one of {', '.join(get_args(Where))}; got {dense!r}")


def settled(share: Curvature | None, group: Group, total: float | None, kind: type[OverRanks] = OverRanks) -> OverRanks:
    """The matrix of shares that fit; raises ValueError where they do not."""
    said = group.gathered(None if share is None else _facts(share))
    known = [facts for facts in said if facts is not None]
    if not known:
        raise ValueError(
            "some rank must have samples; got None on all of them: pass a Hessian of its share where it has"
        )
    require_alike(said, "shares")
    least_precise = max((facts["arithmetic"] for facts in known), key=lambda t: torch.finfo(t).eps)
    device = torch.device("cpu") if share is None else share.device
    if share is None and known[0]["device"] == "cuda":
        device = torch.device("cuda", torch.cuda.current_device())
    theta = None if share is None else share.problem.theta
    if len(known) < group.size:  # some have no samples, and rank 0 may be one of them
        theta = next(t for t in group.gathered(None if theta is None else theta.cpu()) if t is not None).to(device)
    matrix = kind(share, group, {**known[0], "arithmetic": least_precise, "device": device, "theta": theta})
    matrix._total = total
    matrix._agree_on_mode()
    return matrix


def require_one_function(share: Curvature | None, group: Group) -> None:
    """Raises ValueError where ranks have another loss on the same few samples; called by all.

    Settings of modules, attributes and arguments of the loss are in no tensor that could be compared.
    """
    problem = share.problem if share is not None and isinstance(share.problem, Problem) else None
    first = group.gathered(problem is not None).index(True)
    few = group.attempted(lambda: None if problem is None or group.rank != first else problem.few())
    batch = next(batch for batch in group.gathered(few) if batch is not None)
    require_one_value(group, batch, group.attempted(lambda: None if problem is None else problem.value_of(batch)))


def require_one_value(group: Group, batch: Batch, own: tuple[float, float] | None) -> None:
    """Raises ValueError where (s_b, how far it may be off by rounding) differs, of ranks that have any."""
    found = group.gathered(own)
    first = next(rank for rank, said in enumerate(found) if said is not None)
    value, slack = found[first]
    for rank, other in enumerate(found):
        if other is not None and not abs(other[0] - value) <= max(slack, other[1]):
            raise ValueError(
                f"the model and the loss of all ranks are one function; on the same {batch.size} samples rank {rank} "
                f"has a loss of {other[0] / batch.weight:.6g}, rank {first} of {value / batch.weight:.6g}: build both "
                "with the same settings on every rank"
            )


def require_sums(share: Curvature | None, group: Group) -> None:
    """Raises ValueError where samples of two ranks together do not have the sum of their shares; called by all.

    Asked of means of unknown weight: each rank has asked it of its own samples, which may be light ones all. And where
    samples stand alone: one of them does not show that it mixes with others.
    """
    problem = share.problem if share is not None and isinstance(share.problem, Problem) else None
    few = group.attempted(lambda: None if problem is None else problem.few_to_join())
    said = [batch for batch in group.gathered(few) if batch is not None]
    group.attempted(lambda: None if problem is None or few is None else problem.check_together(said))


def require_alike(said: list[dict[str, Any] | None], what: str) -> None:
    """Raises ValueError where ranks, those that have any, do not have the same in their hands."""
    first = next(facts for facts in said if facts is not None)
    for name, rule in (
        ("kind", "of the same kind of matrix"),
        ("names", "of the same parameters"),
        ("dtype", "in one type"),
        ("state", "at the same weights and frozen values (broadcast those of rank 0, or load one file on all)"),
    ):
        odd = [r for r, facts in enumerate(said) if facts is not None and facts[name] != first[name]]
        if odd:
            raise ValueError(f"the {what} of all ranks are {rule}; rank {odd[0]} differs from rank {said.index(first)}")


def _facts(share: Curvature) -> dict[str, Any]:
    """What must be the same on all ranks, and what rank 0 wants to know."""
    problem = share.problem
    held = {**problem.frozen, **{f"loss {name}": t for name, t in problem.frozen_loss.items()}}
    return {
        "size": problem.size,
        "kind": type(share).__name__,
        "names": [(name, tuple(problem.shapes[name])) for name in problem.names],
        "dtype": problem.dtype,
        "arithmetic": share.arithmetic,
        "device": problem.device.type,
        "state": digest([problem.theta, *held.values()], *held),
    }


def fingerprint(v: Tensor) -> int:
    """A number of 56 bits that tells blocks apart: a hash of sums of the bits of entries, by column, in three ways."""
    bits = v.detach().contiguous().view(torch.int64 if v.dtype == torch.float64 else torch.int32)
    columns = bits.reshape(len(bits), -1)
    sums = torch.stack([part.sum(0, dtype=torch.int64) for part in (columns, columns[::2], columns[::3])])
    return int(digest([sums])[:14], 16)


def worst(found: list[Fidelity]) -> Fidelity:
    """One result of several: the worst status with its errors, the largest of every error, all samples and notes."""
    if len(found) == 1:
        return found[0]
    told = max(found, key=lambda f: WORST.index(f.status))
    notes = dict.fromkeys(note for f in found for note in f.notes)
    if not all(f.is_zero for f in found):
        notes.pop(ZERO, None)
    return replace(
        told,
        **{name: max((getattr(f, name) for f in found), key=_nan_last) for name in ERRORS},
        samples=sum(f.samples for f in found),
        notes=tuple(notes),
    )


def _nan_last(x: float) -> float:
    return x if x == x else float("inf")
