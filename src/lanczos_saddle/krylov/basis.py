"""Where the vectors of recurrences are kept: in this process, or by coordinates over the ranks that share an operator.

    V_i (k, N)        rows, the vectors of probe i
    w -= V'(V w)      Gram-Schmidt;   V'c, V u, and the sums of V V' that Cauchy's bounds need

Whatever is asked of a basis is asked in these forms: nobody above needs the rows themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from lanczos_saddle.machine.states import Streamed
from lanczos_saddle.operators.leading import shared_by
from lanczos_saddle.operators.operator import Operator
from lanczos_saddle.operators.vectors import space_of

SLICE = 4096
"""Coordinates of a basis taken at a time: it is never copied whole."""


class Basis(Protocol):
    """The vectors of m recurrences, k of each, N coordinates."""

    def reserve(self, room: int, filled: int) -> None:
        """Make room for so many vectors a probe; the first `filled` stay."""

    def put(self, j: int, q: Tensor) -> None:
        """Vector j of every probe, (m, N)."""

    def orthogonalize(self, w: Tensor, which: Sequence[int], count: int) -> None:
        """W_i -= V_i'(V_i w_i) in place, the first `count` vectors, for those rows i of w (m, N) float64."""

    def combined(self, i: int, coefficients: Tensor, at: Tensor | None = None) -> Tensor:
        """V_i'c (N, r) float64 for c (k, r) float64, or its rows `at`."""

    def inner(self, i: int, count: int, u: Tensor) -> Tensor:
        """V_i u (count, r) float64 for u (N, r) float64."""

    def forms(self, lengths: dict[int, int], following: Tensor, nulls: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(W W', W U, U'U) in float64, for W the first vectors of each probe, so many, and its `following` (m, N)."""

    def whole(self, count: int) -> Tensor:
        """(m, count, N): the first vectors of all probes in this process."""

    @property
    def streamed(self) -> tuple[str, ...]:
        """Names of what a state has of it and this process cannot hold."""

    def saved(self, count: int) -> Tensor | Streamed:
        """The first vectors as a state keeps them, (m, count, N)."""

    def load(self, saved: Any, count: int) -> None:
        """Set the first vectors to those of a state."""


class Rows:
    """A `Basis` in this process."""

    def __init__(self, probes: int, room: int, size: int, dtype: torch.dtype, device: torch.device) -> None:
        self.rows = torch.empty(probes, room, size, dtype=dtype, device=device)

    def reserve(self, room: int, filled: int) -> None:
        """Make room for so many vectors a probe; the first `filled` stay."""
        grown = self.rows.new_empty(self.rows.shape[0], room, self.rows.shape[2])
        grown[:, :filled] = self.rows[:, :filled]
        self.rows = grown

    def put(self, j: int, q: Tensor) -> None:
        """Vector j of every probe, (m, N)."""
        self.rows[:, j] = q

    def orthogonalize(self, w: Tensor, which: Sequence[int], count: int) -> None:
        """W_i -= V_i'(V_i w_i) in place, the first `count` vectors, for those rows i of w (m, N) float64."""
        for i in which:
            self.subtract(w[i], i, self.along(w[i], i, count))

    def along(self, row: Tensor, i: int, count: int) -> Tensor:
        """V_i w (count,) float64; sums of products of float32 over slices are taken in float64."""
        basis = self.rows[i, :count]
        if basis.dtype == row.dtype:
            return basis @ row
        inside = torch.zeros(count, dtype=row.dtype, device=row.device)
        for part in slices(len(row)):
            inside += (basis[:, part] @ row[part].to(basis.dtype)).to(row.dtype)
        return inside

    def subtract(self, row: Tensor, i: int, inside: Tensor) -> None:
        """W -= V_i'c in place."""
        basis = self.rows[i, : len(inside)]
        if basis.dtype == row.dtype:
            row.addmv_(basis.mT, inside, alpha=-1)
        else:
            row -= (basis.mT @ inside.to(basis.dtype)).to(row.dtype)

    def combined(self, i: int, coefficients: Tensor, at: Tensor | None = None) -> Tensor:
        """V_i'c (N, r) float64 for c (k, r) float64, or its rows `at`."""
        basis = self.rows[i, : len(coefficients)]
        if basis.dtype == torch.float64 and at is None:
            return basis.mT @ coefficients
        found = coefficients.new_empty(basis.shape[1] if at is None else len(at), coefficients.shape[1])
        for part in slices(len(found)):
            found[part] = basis[:, part if at is None else at[part]].to(torch.float64).mT @ coefficients
        return found

    def inner(self, i: int, count: int, u: Tensor) -> Tensor:
        """V_i u (count, r) float64 for u (N, r) float64."""
        basis = self.rows[i, :count]
        if basis.dtype == torch.float64:
            return basis @ u
        found = u.new_zeros(count, u.shape[1])
        for part in slices(len(u)):
            found.addmm_(basis[:, part].to(torch.float64), u[part])
        return found

    def forms(self, lengths: dict[int, int], following: Tensor, nulls: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(W W', W U, U'U) in float64, for W the first vectors of each probe, so many, and its `following` (m, N)."""
        total = sum(lengths.values()) + len(lengths)

        # one for all slices: the C library does not put an aligned block where one of the same size was freed
        held = torch.empty(total, min(SLICE, self.rows.shape[2]), dtype=torch.float64, device=self.rows.device)

        def rows(part: slice) -> Tensor:
            w, end = held[:, : part.stop - part.start], 0
            for i, length in lengths.items():
                w[end : end + length] = self.rows[i, :length, part]
                w[end + length] = following[i, part]
                end += length + 1
            return w

        return forms(lengths, rows, nulls, self.rows.shape[2])

    def whole(self, count: int) -> Tensor:
        """(m, count, N): the first vectors of all probes, not copied."""
        return self.rows[:, :count]

    streamed = ()

    def saved(self, count: int) -> Tensor:
        """The first vectors as a state keeps them, (m, count, N)."""
        return self.whole(count)

    def load(self, saved: Any, count: int) -> None:
        """Set the first vectors to those of a state."""
        self.rows[:, :count] = saved


def forms(
    lengths: dict[int, int], rows: Callable[[slice], Tensor], nulls: Tensor, size: int
) -> tuple[Tensor, Tensor, Tensor]:
    """(W W', W U, U'U) in float64 from the coordinates that `rows` gives of W (c, N), and U (N, z).

    Of each pair of probes, of one more row than their `lengths` each, products are formed once. Cost: N c^2 operations.
    """
    blocks, total = [], 0
    for length in lengths.values():
        blocks.append(slice(total, total + length + 1))
        total += length + 1
    full = torch.zeros(total, total, dtype=torch.float64, device=nulls.device)
    along = full.new_zeros(total, nulls.shape[1])
    taken = full.new_zeros(nulls.shape[1], nulls.shape[1])
    for part in slices(size):
        w, u = rows(part), nulls[part].to(torch.float64)
        for block in blocks:
            full[block, block.start :].addmm_(w[block], w[block.start :].mT)
        along.addmm_(w, u)
        taken.addmm_(u.mT, u)
    for block in blocks:
        full[block.stop :, block] = full[block, block.stop :].mT
    return full, along, taken


def basis_of(operator: Operator, probes: int, room: int) -> Basis:
    """An empty one for an operator: over the ranks that share it, where several do."""
    shared, space = shared_by(operator), space_of(operator)
    if space is not None and room > 0:
        sliced: Basis = space.basis(probes, room, operator.dtype)
        return sliced
    if shared is not None and space is None and room > 0:
        made: Basis = shared.spread_basis(probes, room, operator.shape[0], operator.dtype)
        return made
    return Rows(probes, room, operator.shape[0], operator.dtype, operator.device)  # of no vectors, where ranks share it


def basis_bytes(operator: Operator, probes: int, steps: int) -> int:
    """Memory that full reorthogonalization takes: probes * steps * N numbers of the operator's type."""
    return probes * steps * operator.shape[0] * operator.dtype.itemsize


def basis_room(operator: Operator, free: int, *, beside: int = 0, part: int = 1, probes: int = 1) -> int:
    """Bytes that a basis may take, of `free` bytes in this process one `part`, in which `beside` are needed, too.

    Where ranks share the operator, each keeps as many coordinates, or whole ones of so many `probes` (`recurrences`):
    the one with the least memory says how many.
    """
    shared = shared_by(operator)
    return free // part - beside if shared is None else shared.basis_room(free, beside, part, probes)


def slices(size: int) -> list[slice]:
    """All coordinates, `SLICE` at a time."""
    return [slice(start, min(start + SLICE, size)) for start in range(0, size, SLICE)]
