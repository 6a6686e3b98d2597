"""The vectors of recurrences by coordinates over the ranks: rank r of R keeps those from r c on, c = ceil(N / R).

    V w     scatter w, multiply what is here, sum over the ranks            k numbers
    V'c     multiply what is here, gather                                   N numbers
    w -= V'(V w)    both: of w every rank has its part already

What rank 0 does with a vector alone costs it N numbers; what all do with a basis of m k N costs each m k N / R. Sums
over coordinates are taken in another order than by one process, all else is the same arithmetic. Coordinates beyond N,
on the last ranks, are zero.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.functional import pad

from lanczos_saddle.distributed.group import Group, place_of
from lanczos_saddle.krylov.basis import Rows
from lanczos_saddle.machine.memory import available_bytes
from lanczos_saddle.machine.states import Streamed

AT_A_TIME = 2**25
"""Bytes of vectors that are cut up or put together at a time, or one vector: more would cost memory on rank 0."""

SCRATCH = 4
"""Vectors of float64 that a rank 0 holds beside: one cut up, one put together, twice."""


class Shard:
    """One rank's coordinates of a basis. Every method is called by all ranks, with vectors on rank 0 alone."""

    def __init__(self, group: Group, device: torch.device, probes: int, room: int, size: int, dtype: torch.dtype):
        self.group, self.device, self.size, self.probes = group, device, size, probes
        self.width = -(-size // group.size)
        self.own = Rows(probes, room, self.width, dtype, device)

    def reserve(self, room: int, filled: int) -> None:
        """Make room for so many vectors a probe; the first `filled` stay."""
        self.own.reserve(room, filled)

    def put(self, j: int, q: Tensor | None = None) -> None:
        """Vector j of every probe, (m, N) on rank 0."""
        self.own.put(j, self._cut(q, self.probes, self.own.rows.dtype))

    def orthogonalize(self, which: Sequence[int], count: int, w: Tensor | None = None) -> None:
        """W_i -= V_i'(V_i w_i) in place on rank 0, for those rows of w (m, N)."""
        rows = None if w is None else [w[i] for i in which]
        part = self._cut(rows, len(which), torch.float64)
        inside = torch.stack([self.own.along(row, i, count) for row, i in zip(part, which, strict=True)])
        self.group.summed(inside, everywhere=True)
        for row, i, coefficients in zip(part, which, inside, strict=True):
            self.own.subtract(row, i, coefficients)
        self._joined(part, rows)

    def combined(self, i: int, coefficients: Tensor) -> Tensor:
        """V_i'c, (r, N) float64 on rank 0."""
        part = self.own.combined(i, coefficients.to(self.device)).mT.contiguous()
        found = torch.empty(len(part), self.size if self.group.rank == 0 else 0, dtype=part.dtype, device=self.device)
        self._joined(part, found if self.group.rank == 0 else None)
        return found

    def inner(self, i: int, count: int, columns: int, u: Tensor | None = None) -> Tensor:
        """V_i u (count, r) on rank 0, for u (r, N)."""
        found = self.own.inner(i, count, self._cut(u, columns, torch.float64).mT)
        self.group.summed(found, everywhere=False)
        return found

    def forms(
        self, lengths: dict[int, int], kind: torch.dtype, columns: int, vectors: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """As `Basis.forms` on rank 0, for (following (m, N), nulls (z, N)), the latter of type `kind`."""
        following, nulls = (None, None) if vectors is None else vectors
        part = self._cut(following, self.probes, torch.float64)
        found = self.own.forms(lengths, part, self._cut(nulls, columns, kind).mT)
        for sums in found:
            if sums.numel():
                self.group.summed(sums, everywhere=False)
        return found

    def row(self, j: int) -> Tensor:
        """Vector j of every probe, (m, N) on rank 0."""
        part = self.own.rows[:, j].contiguous()
        found = torch.empty(self.probes, self.size if self.group.rank == 0 else 0, dtype=part.dtype, device=part.device)
        self._joined(part, found if self.group.rank == 0 else None)
        return found

    def _cut(self, rows: Tensor | Sequence[Tensor] | None, number: int, dtype: torch.dtype) -> Tensor:
        """This rank's coordinates (number, c) of rows (number, N) on rank 0."""
        part = torch.empty(number, self.width, dtype=dtype, device=self.device)
        for some in self._groups(number, dtype):
            parts = None
            if rows is not None:
                block = rows[some] if isinstance(rows, Tensor) else torch.stack(list(rows[some]))
                padded = pad(block.to(dtype), (0, self.width * self.group.size - self.size))
                parts = list(padded.view(-1, self.group.size, self.width).transpose(0, 1).contiguous())
            self.group.scattered(part[some], parts)
        return part

    def _joined(self, part: Tensor, rows: Tensor | Sequence[Tensor] | None) -> None:
        """Sets rows (number, N) on rank 0 to what all ranks' coordinates (number, c) make."""
        for some in self._groups(len(part), part.dtype):
            parts = self.group.collected(part[some])
            if rows is not None and parts is not None:
                block = torch.cat(parts, dim=1)[:, : self.size]
                for row, values in zip(rows[some], block, strict=True):
                    row.copy_(values)

    def _groups(self, number: int, dtype: torch.dtype) -> Iterator[slice]:
        step = max(1, AT_A_TIME // (dtype.itemsize * self.size))
        return (slice(start, min(start + step, number)) for start in range(0, number, step))


class Asks(Protocol):
    """How rank 0 has all ranks do something with a shard."""

    def asked(self, number: int, name: str, *arguments: Any) -> AbstractContextManager[None]:
        """The block is this rank's part of it."""

    def dropped(self, number: int) -> None:
        """Nobody needs that shard any more."""


class Spread:
    """A `krylov.basis.Basis` on rank 0, which keeps its own part of it; all of it is asked of the ranks."""

    def __init__(self, asks: Asks, number: int, shard: Shard) -> None:
        self._asks, self._number, self._shard = asks, number, shard

    def __del__(self) -> None:
        self._asks.dropped(self._number)

    def reserve(self, room: int, filled: int) -> None:
        """Make room for so many vectors a probe; the first `filled` stay."""
        with self._asks.asked(self._number, "reserve", room, filled):
            self._shard.reserve(room, filled)

    def put(self, j: int, q: Tensor) -> None:
        """Vector j of every probe, (m, N)."""
        with self._asks.asked(self._number, "put", j):
            self._shard.put(j, q)

    def orthogonalize(self, w: Tensor, which: Sequence[int], count: int) -> None:
        """W_i -= V_i'(V_i w_i) in place, the first `count` vectors, for those rows i of w (m, N) float64."""
        with self._asks.asked(self._number, "orthogonalize", list(which), count):
            self._shard.orthogonalize(which, count, w)

    def combined(self, i: int, coefficients: Tensor, at: Tensor | None = None) -> Tensor:
        """V_i'c (N, r) float64 for c (k, r) float64, or its rows `at`."""
        with self._asks.asked(self._number, "combined", i, coefficients.cpu()):
            rows = self._shard.combined(i, coefficients)
        return (rows if at is None else rows[:, at]).mT

    def inner(self, i: int, count: int, u: Tensor) -> Tensor:
        """V_i u (count, r) float64 for u (N, r) float64."""
        with self._asks.asked(self._number, "inner", i, count, u.shape[1]):
            return self._shard.inner(i, count, u.shape[1], u.mT)

    def forms(self, lengths: dict[int, int], following: Tensor, nulls: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(W W', W U, U'U) in float64, for W the first vectors of each probe, so many, and its `following` (m, N)."""
        known = (lengths, nulls.dtype, nulls.shape[1])
        with self._asks.asked(self._number, "forms", *known):
            return self._shard.forms(*known, (following, nulls.mT))

    def whole(self, count: int) -> Tensor:
        """(m, count, N): the first vectors of all probes, gathered."""
        shard = self._shard
        found = torch.empty(shard.probes, count, shard.size, dtype=shard.own.rows.dtype, device=shard.device)
        for j in range(count):
            found[:, j] = self.row(j)
        return found

    def row(self, j: int) -> Tensor:
        """Vector j of every probe, (m, N), gathered."""
        with self._asks.asked(self._number, "row", j):
            return self._shard.row(j)

    streamed = ("basis",)

    def saved(self, count: int) -> Streamed:
        """The first vectors as a state keeps them, gathered one after the other."""
        shard = self._shard
        return Streamed((shard.probes, count, shard.size), shard.own.rows.dtype, self.row)

    def load(self, saved: Any, count: int) -> None:
        """Set the first vectors to those of a state, of which one after the other is read."""
        for j in range(count):
            self.put(j, saved[:, j])


def room_for_basis(
    group: Group, device: torch.device, free: int = 0, beside: int = 0, part: int = 1, probes: int = 1
) -> int:
    """Bytes that a basis may take over all ranks, of `free` on rank 0 and of what the others have, one `part` each.

    It is cut by coordinates, or where there are several by whole `probes`. Ranks on one machine, or on one GPU, share
    its memory. Called by all ranks; what rank 0 says counts.
    """
    said = _free_by_place(group, device, free)
    whole, most = parts_of(group.size, probes)
    rooms: list[int] = []
    for here in {name for name, _ in said}:
        there = [bytes_ for name, bytes_ in said if name == here]
        left = min(there) // part - (beside if here == said[0][0] else 0)
        rooms.append(left * whole // (most * len(there)))
    return min(rooms)


def parts_of(ranks: int, probes: int) -> tuple[int, int]:
    """(parts of a basis in all, on the fullest rank): by coordinates, or of several `probes` by whole ones."""
    return (ranks, 1) if probes == 1 else (probes, -(-probes // ranks))


def room_in_slices(group: Group, device: torch.device, free: int, beside: int, part: int) -> int:
    """The same where every rank has an even part of what goes with the basis, `beside` in all."""
    said = _free_by_place(group, device, free)
    rooms: list[int] = []
    for here in {name for name, _ in said}:
        there = [bytes_ for name, bytes_ in said if name == here]
        rooms.append(min(there) // part // len(there) * group.size - beside)
    return min(rooms)


def _free_by_place(group: Group, device: torch.device, free: int) -> list[tuple[str, int]]:
    """(the machine or GPU, bytes free there as it sees them) of each rank; `free` on rank 0."""
    where = place_of(device) or socket.gethostname()
    said: list[tuple[str, int]] = group.gathered((where, available_bytes(device) if group.rank else free))
    return said
