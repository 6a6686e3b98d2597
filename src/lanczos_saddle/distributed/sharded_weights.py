"""Parameters by coordinates over the ranks, in the order of theta: rank r of R keeps those from cut r to cut r + 1.

    collect    each rank that has some of a layer's numbers shows them to all            (k, n) numbers to every rank
    spread     sums over the ranks, each kept by the rank whose coordinates they are     (k, n) numbers from every rank

Frozen parameters are cut in the same way, as a list of their own. Pieces are of any size, and a layer lies on as many
ranks as the cuts say. Every exchange is announced first, in four whole numbers: ranks that call other layers, or call
them another number of times, are told so instead of adding up what does not belong together, and what one of them
raises ends the work of all (`together`).
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise
from typing import TypeVar

import torch
from torch import Tensor

from lanczos_saddle.distributed.group import Group, RankLost

T = TypeVar("T")

COLLECT, SPREAD, ROUND, END = range(4)
"""What is announced."""

KINDS, WIDEST = 4, 2**20
"""How an announcement is numbered: kinds, and more columns than any block has."""


class Stopped(Exception):
    """Another rank raised, and says so itself."""


class OtherWork(ValueError):
    """Ranks do not do the same."""


@dataclass(frozen=True)
class Layout:
    """Where the numbers of parameters lie that stand one after the other, cut over ranks at `cuts` (R + 1)."""

    sizes: Mapping[str, int]
    cuts: tuple[int, ...]

    @classmethod
    def even(cls, sizes: Mapping[str, int], ranks: int) -> Layout:
        """Slices of ceil(N / R) coordinates, fewer on the last ranks."""
        total = sum(sizes.values())
        width = -(-total // ranks)
        return cls(sizes, tuple(min(total, r * width) for r in range(ranks + 1)))

    @property
    def total(self) -> int:
        """N."""
        return self.cuts[-1]

    def own(self, rank: int) -> slice:
        """A rank's coordinates."""
        return slice(self.cuts[rank], self.cuts[rank + 1])

    @cached_property
    def ranges(self) -> dict[str, slice]:
        """Where each parameter lies among all."""
        ends = [0, *accumulate(self.sizes.values())]
        return {name: slice(*ends_) for name, ends_ in zip(self.sizes, pairwise(ends), strict=True)}

    def part(self, name: str, rank: int) -> slice:
        """What a rank has of a parameter, in the parameter's own numbers; an empty slice of most."""
        own, at = self.own(rank), self.ranges[name]
        start, stop = max(own.start, at.start), min(own.stop, at.stop)
        return slice(start - at.start, stop - at.start) if start < stop else slice(0, 0)

    def parts(self, rank: int) -> dict[str, slice]:
        """The same of all parameters."""
        return {name: self.part(name, rank) for name in self.sizes}

    def holders(self, name: str) -> list[int]:
        """The ranks that have some of a parameter."""
        at = self.ranges[name]
        first, last = bisect_right(self.cuts, at.start) - 1, bisect_left(self.cuts, at.stop)
        return [rank for rank in range(max(0, first), last) if self.part(name, rank).stop]


@dataclass(frozen=True)
class Plan:
    """What is exchanged for one layer: sizes of its parameters, and of each rank that has some (parameter, part)."""

    sizes: tuple[int, ...]
    owners: tuple[tuple[int, tuple[tuple[int, slice], ...]], ...]

    @classmethod
    def of(cls, names: Sequence[str], layout: Layout) -> Plan:
        """For these parameters."""
        held: dict[int, list[tuple[int, slice]]] = {}
        for i, name in enumerate(names):
            for rank in layout.holders(name):
                held.setdefault(rank, []).append((i, layout.part(name, rank)))
        owners = tuple((rank, tuple(held[rank])) for rank in sorted(held))
        return cls(tuple(layout.sizes[name] for name in names), owners)


class RankExchange:
    """The exchanges of `networks.shards.gathers` over the ranks of a group, by the plans of layers."""

    def __init__(self, group: Group, names: Sequence[str] = ()) -> None:
        self.group, self.plans = group, list[Plan]()
        self.names = names  # of layers, two plans each

    def collect(self, layer: int, rows: list[Tensor]) -> list[Tensor]:
        """The whole parameters (k, n) of a layer from this rank's parts (k, m) of them."""
        plan = self.plans[layer]
        self._announce(COLLECT, layer, len(rows[0]))
        alone = len(plan.owners) == 1 and len(plan.owners[0][1]) == len(rows)
        whole = [] if alone else [row.new_empty(len(row), n) for row, n in zip(rows, plan.sizes, strict=True)]
        for rank, held in plan.owners:
            buffer = self._joined([rows[i] for i, _ in held]) if rank == self.group.rank else None
            if buffer is None:
                buffer = rows[0].new_empty(len(rows[0]), sum(part.stop - part.start for _, part in held))
            if self.group.size > 1:
                self.group.shown(buffer, rank)
            pieces = torch.split(buffer, [part.stop - part.start for _, part in held], dim=1)
            if alone:
                return list(pieces)
            for (i, part), piece in zip(held, pieces, strict=True):
                whole[i][:, part] = piece
        return whole

    def spread(self, layer: int, rows: list[Tensor]) -> list[Tensor]:
        """This rank's parts (k, m) of the sums over ranks of whole arrays (k, n)."""
        plan = self.plans[layer]
        self._announce(SPREAD, layer, len(rows[0]))
        own = [row.new_zeros(len(row), 0) for row in rows]
        for rank, held in plan.owners:
            buffer = self._joined([rows[i][:, part] for i, part in held])
            if self.group.size > 1:
                self.group.summed_on(buffer, rank)
            if rank == self.group.rank:
                pieces = torch.split(buffer, [part.stop - part.start for _, part in held], dim=1)
                for (i, _), piece in zip(held, pieces, strict=True):
                    own[i] = piece
        return own

    def together(self, work: Callable[[], T]) -> T:
        """work() on every rank, with its exchanges; where it raised on some, all raise what the first of those said."""

        def guarded() -> T | None:
            try:
                made = work()
                self.announce(END)
            except Stopped:
                return None
            except (RankLost, OtherWork):
                raise
            except BaseException:
                self.announce(END, failed=True)
                raise
            return made

        return self.group.attempted(guarded)  # type: ignore[return-value]

    def more(self, here: bool) -> bool:
        """Whether any rank has more to do; asked within `together`."""
        return self.announce(ROUND, more=here)

    def announce(self, code: int, *, failed: bool = False, more: bool = False) -> bool:
        """Say what comes; whether any rank says that there is `more`."""
        any_failed, most, least, any_more = self.group.agreed([failed, code, -code, more])
        if any_failed:
            if failed:
                return False
            raise Stopped
        if most != -least:
            said = self.group.gathered(code)
            other = next(r for r, c in enumerate(said) if c != said[0])
            raise OtherWork(
                "layers whose weights are cut over ranks are called by all ranks in the same order; rank 0 "
                f"{self._told(said[0])} while rank {other} {self._told(said[other])}: a model that chooses its layers "
                "by the data (experts, early exits) is counted with data_parallel(Hessian(model, loss, share(data)))"
            )
        return bool(any_more)

    def _announce(self, kind: int, layer: int, columns: int) -> None:
        self.announce(kind + KINDS * (columns + WIDEST * (layer + 1)))

    def _told(self, code: int) -> str:
        kind, rest = code % KINDS, code // KINDS
        if kind in (ROUND, END):
            return "has nothing more to do" if kind == END else "begins a batch"
        layer, columns = rest // WIDEST - 1, rest % WIDEST
        what = "collects" if kind == COLLECT else "sums up"
        name = self.names[layer // 2] if layer // 2 < len(self.names) else str(layer)
        return f"{what} {name!r} ({columns} columns)"

    @staticmethod
    def _joined(rows: Sequence[Tensor]) -> Tensor:
        """A copy of its own, side by side."""
        return torch.cat(list(rows), dim=1) if len(rows) > 1 else rows[0].clone(memory_format=torch.contiguous_format)
