"""H written out over the ranks, by columns of one triangle, and its inertia: each has N^2 / 2R numbers, or N^2 / R.

    M H M'    column j is M (H (M' e_j)): mixed (`dense.blocked_ldl.Mixing`) as it is made, so that no entry moves
    samples   all ranks multiply a block of columns, and the one that keeps it gets the sum
    replicas  each rank multiplies the columns that it keeps, and nothing is exchanged
    LDL'      `panel_ldl`; for several thresholds the factors lie beside H

Panels lie in host memory, whatever multiplies. Rank 0 asks for every step, and answers an interrupt between two.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lanczos_saddle.dense.blocked_ldl import Mixing, mixing_by
from lanczos_saddle.dense.triangle import FLOAT, Triangle
from lanczos_saddle.distributed.group import Group
from lanczos_saddle.distributed.over_ranks import OverRanks
from lanczos_saddle.distributed.panel_ldl import Elimination
from lanczos_saddle.distributed.spread_basis import Asks
from lanczos_saddle.machine.memory import RESERVE, available_bytes
from lanczos_saddle.machine.progress import current, made, stage
from lanczos_saddle.operators.operator import Operator, Restricted
from lanczos_saddle.operators.scaling import times

WIDTH, PANELS = 256, 4
"""Columns of a panel, of which a rank has so many at least where N allows it: the last ones leave ranks idle."""

AT_ONCE = 64
"""Columns of one product."""

BESIDE = 12
"""Vectors of N numbers beside the panels, for each column of one: a panel with its copies, twice, and all Q."""

CPU = torch.device("cpu")


def width_for(size: int, ranks: int) -> int:
    """A power of two."""
    return min(WIDTH, 1 << max(0, (size // (PANELS * ranks)).bit_length() - 1))


def bytes_of(size: int, ranks: int, copies: int) -> int:
    """What the fullest rank takes: the first one, whose panels begin higher."""
    width = width_for(size, ranks)
    held = sum((size - start) * min(width, size - start) for start in range(0, size, ranks * width))
    return FLOAT * (copies * held + size * (BESIDE * width + 4 * AT_ONCE))


def lacking(group: Group, needed: int) -> str:
    """What to say where a rank has no room for so many bytes, else empty; called by all ranks, the same on all."""
    said: list[tuple[str, int]] = group.gathered((socket.gethostname(), available_bytes(CPU)))
    hosts = [host for host, _ in said]
    rooms = [max(0, free - RESERVE) // hosts.count(host) for host, free in said]
    if needed <= min(rooms):
        return ""
    least = rooms.index(min(rooms))
    return (
        f"takes {needed / 2**30:.2f} GiB on each of {group.size} ranks; {rooms[least] / 2**30:.2f} GiB are free for "
        f"rank {least}"
    )


@dataclass(frozen=True)
class Form:
    """What all ranks are told of a matrix that is to be written out."""

    index: int  # of the matrix, by the numbers of rank 0
    steps: list[tuple[type, tuple[Any, ...]]]  # how the operator is made of it
    living: Tensor | None  # (n,) coordinates whose rows are not zero; None: all of them
    signs: Tensor  # (2, n)
    copies: int  # 1: the factors take the place of H


class Columns:
    """One rank's panels. Every method is called by all ranks, in the same order."""

    def __init__(self, group: Group, matrix: OverRanks, form: Form) -> None:
        self.group, self.matrix = group, matrix
        self.whole = hasattr(matrix, "replica")  # every rank can make any column
        self.mixing: Mixing = mixing_by(form.signs)
        self.size = form.signs.shape[1]
        operator: Operator = matrix.replica if self.whole else _Part(matrix)  # type: ignore[attr-defined]
        for kind, fields in form.steps:
            operator = kind(operator, *(f.to(matrix.device) if isinstance(f, Tensor) else f for f in fields))
        self.operator = operator if form.living is None else Restricted(operator, form.living.to(matrix.device))
        width = width_for(self.size, group.size)
        kept = range(group.rank, -(-self.size // width), group.size)
        self.held = Triangle(self.size, width=width, kept=kept)
        self.lower = self.held if form.copies == 1 else Triangle(self.size, width=width, kept=kept)
        self.elimination: Elimination | None = None

    @property
    def rounds(self) -> int:
        """How often `assemble` is called."""
        return len(self._turns(0 if self.whole else None))  # rank 0 has the most panels

    def assemble(self, turn: int) -> int:
        """One block of columns, or one of each rank; how many columns that were on all ranks."""
        if self.whole:
            turns = [self._turns(rank) for rank in range(self.group.size)]
            now = [own[turn] if turn < len(own) else slice(0, 0) for own in turns]
            mine = now[self.group.rank]
            rows = self.group.attempted(lambda: self._rows(mine) if mine.stop else None)
            if rows is not None:
                self._put(mine, rows)
            return int(sum(columns.stop - columns.start for columns in now))
        columns = self._turns(None)[turn]
        keeper = columns.start // self.held.width % self.group.size
        rows = self.group.attempted(lambda: self._rows(columns))
        self.group.summed_at(rows, keeper)
        if self.group.rank == keeper:
            self._put(columns, rows / self.group.size)
        return int(columns.stop - columns.start)

    def settle(self) -> tuple[float, float]:
        """(largest |entry|, Frobenius norm) of what was assembled; the diagonal tiles are symmetric from now on."""
        for index in self.held.kept:
            place = self.held.place(index)
            tile = self.held.panel(index)[: place.stop - place.start]
            tile.copy_((tile + tile.mT) / 2)
        return self.largest_entry(), self.norm()

    def largest_entry(self) -> float:
        """NaN where there is one."""
        return float(torch.tensor(self.group.gathered(self.held.largest_entry()), dtype=torch.float64).max())

    def norm(self) -> float:
        """|H|_F."""
        squares = self.held.squares()
        self.group.added(squares)
        return float(squares.sum().sqrt())

    def scale(self, exponent: int) -> None:
        """H *= 2^exponent."""
        self.held.scale(exponent)

    def times(self, count: int, rows: Tensor | None = None) -> Tensor:
        """v' M H M' for rows v' (count, n) of rank 0."""
        product = (self.held @ self._given(count, rows).mT).mT.contiguous()
        self.group.added(product)
        return product

    def eliminate(self, t: float) -> None:
        """Begin to factor H - t I."""
        self.elimination = None  # whose L lies in the same place
        self.elimination = Elimination(self.group, self.held, self.lower, t)

    def step(self, index: int) -> None:
        """One panel of it."""
        assert self.elimination is not None
        self.elimination.step(index)

    def with_factors(self, name: str, count: int, rows: Tensor | None = None) -> Tensor:
        """`multiply` or `solve`, of rows (count, n) of rank 0."""
        found: Tensor = getattr(self.elimination, name)(self._given(count, rows))
        return found

    def _turns(self, rank: int | None) -> list[slice]:
        """Blocks of columns of one rank's panels, or of all."""
        width, size = self.held.width, self.size
        starts = range(0, size, width) if rank is None else range(rank * width, size, self.group.size * width)
        return [
            slice(first, min(first + AT_ONCE, start + width, size))
            for start in starts
            for first in range(start, min(start + width, size), AT_ONCE)
        ]

    def _rows(self, columns: slice) -> Tensor:
        """H M' e_j as rows, of what this rank multiplies."""
        units = torch.zeros(columns.stop - columns.start, self.size, dtype=torch.float64)
        units.diagonal(columns.start).fill_(1)
        v = self.mixing.rows_back(units).mT
        product = self.operator @ v.to(self.operator.device, self.operator.dtype)
        if product.shape != v.shape:
            raise ValueError(
                f"a product must have the shape of its block, {tuple(v.shape)}; got {tuple(product.shape)}"
            )
        if not bool(product.isfinite().all()):
            raise ValueError("products must be finite; got NaN or infinity: check weights and data")
        return product.detach().mT.contiguous()

    def _put(self, columns: slice, rows: Tensor) -> None:
        index = columns.start // self.held.width
        place = self.held.place(index)
        mixed = self.mixing.rows(rows.to(CPU, torch.float64))
        panel = self.held.panel(index)
        panel[:, columns.start - place.start : columns.stop - place.start] = mixed[:, place.start :].mT

    def _given(self, count: int, rows: Tensor | None) -> Tensor:
        given = torch.empty(count, self.size, dtype=torch.float64) if rows is None else rows.contiguous()
        self.group.said(given)
        return given


class _Part:
    """R w_r H_r / sum_r w_r: matrices whose mean over the R ranks is H, whatever is then subtracted on all of them.

    Products of H_r in its own type; the rest in float64, so that no more is rounded.
    """

    def __init__(self, matrix: OverRanks) -> None:
        self.matrix, self.shape, self.dtype, self.device = matrix, matrix.shape, matrix.dtype, matrix.device
        self.weight = matrix.group.size / matrix.total()

    def __matmul__(self, v: Tensor, /) -> Tensor:
        return self.matrix.local(v).mT.to(torch.float64) * self.weight


class ByColumns:
    """The matrix on rank 0, which has panels of its own; all of it is asked of the ranks. See `sylvester.Elsewhere`."""

    dtype = torch.float64
    device = CPU

    def __init__(self, asks: Asks, number: int, own: Columns, size: int, living: Tensor | None) -> None:
        self._asks, self._number, self._own = asks, number, own
        self.size, self._living = size, living
        self.exponent = 0  # what is kept is 2^exponent H
        self.largest, self.norm = 0.0, 0.0  # largest |entry| after mixing, |H|_F

    shape = property(lambda self: (self.size, self.size))

    def __len__(self) -> int:
        return self.size

    def __del__(self) -> None:
        self._asks.dropped(self._number)

    def assemble(self, *, progress: bool) -> int:
        """The products that were spent."""
        with stage("assembly", self._own.size, shown=progress):
            for turn in range(self._own.rounds):
                made(self._ask("assemble", turn))
        self.largest, self.norm = self._ask("settle")
        return self._own.size

    def __matmul__(self, v: Tensor, /) -> Tensor:
        """2^exponent H v, for v (N,) or (N, k)."""
        columns = v.to(CPU, torch.float64).reshape(self.size, -1)
        found = torch.zeros_like(columns)
        self._outward(found, self._ask("times", columns.shape[1], own=(self._inward(columns),)))
        return found.reshape(v.shape)

    def largest_entry(self) -> float:
        """Of what is kept."""
        return times(self.largest, self.exponent)

    def scale(self, exponent: int) -> None:
        """H *= 2^exponent."""
        if exponent:
            self._ask("scale", exponent)
            self.exponent += exponent

    def factors(self, t: float) -> Factors:
        """Of 2^exponent H - t I, in the place of those that were there."""
        told = current()
        self._ask("eliminate", t)
        held = self._own.lower
        for index in range(held.panels):
            self._ask("step", index)
            told.to(100 * (1 - (1 - held.place(index).stop / held.size) ** 3))
        return Factors(self, t)

    def asked_of_factors(self, name: str, v: Tensor, dead: Tensor) -> Tensor:
        """`multiply` or `solve` of v (N, k); `dead` is that for coordinates whose rows of H are zero."""
        found = dead.clone()
        self._outward(found, self._ask("with_factors", name, v.shape[1], own=(self._inward(v),)))
        return found

    @property
    def pivots(self) -> Tensor:
        """(n,) of the last factorization."""
        assert self._own.elimination is not None
        return self._own.elimination.pivots

    @property
    def dead(self) -> int:
        """Coordinates whose rows of H are zero."""
        return self.size - self._own.size

    @property
    def used_up(self) -> bool:
        """Whether the factors take the place of H."""
        return self._own.lower is self._own.held

    def _ask(self, name: str, *arguments: Any, own: Sequence[Any] = ()) -> Any:
        """All ranks do this; `own` is what rank 0 has for it alone."""
        with self._asks.asked(self._number, name, *arguments):
            return getattr(self._own, name)(*arguments, *own)

    def _inward(self, v: Tensor) -> Tensor:
        return self._own.mixing.rows((v if self._living is None else v[self._living]).mT.contiguous())

    def _outward(self, v: Tensor, rows: Tensor) -> None:
        columns = self._own.mixing.rows_back(rows).mT
        v[slice(None) if self._living is None else self._living] = columns


class Factors:
    """T D T' over the ranks, seen from the coordinates of H; -t for those whose rows are zero."""

    def __init__(self, columns: ByColumns, t: float) -> None:
        self.columns, self.t = columns, t

    def signs(self) -> tuple[int, int]:
        """Signs of D."""
        pivots, dead = self.columns.pivots, self.columns.dead
        return int((pivots < 0).sum()) + dead * (self.t > 0), int((pivots > 0).sum()) + dead * (self.t < 0)

    def multiply(self, v: Tensor) -> Tensor:
        """F v."""
        return self.columns.asked_of_factors("multiply", v, -self.t * v)

    def solve(self, v: Tensor) -> Tensor:
        """F^-1 v."""
        return self.columns.asked_of_factors("solve", v, v / -self.t if self.columns.dead else v)

    def restore(self) -> None:
        """H is where it was; raises ValueError where L took its place."""
        if self.columns.used_up:
            raise ValueError(
                "columns that were factored in place are used up; got another factorization of them: assemble anew, "
                "for several thresholds"
            )
