"""What every rank has of vectors in slices, by number, and what it does with them when rank 0 says so.

Operations on a slice alone are done without a word: one that fails is told of at the next exchange, and raised on all
ranks. Methods are called by all ranks together; results that are no slices are on rank 0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from lanczos_saddle.distributed.group import Group
from lanczos_saddle.distributed.slice_rules import Own, Sizes
from lanczos_saddle.distributed.slices import check_slices
from lanczos_saddle.krylov.basis import Rows
from lanczos_saddle.machine.memory import give_back
from lanczos_saddle.machine.streams import gaussian_part

HOLES = 2**23
"""Bytes that are let go before they are given back: the C library puts few blocks where others of the same size were,
and a rank would hold its slices twice."""


@dataclass(frozen=True)
class Ref:
    """A tensor in slices, by its number."""

    number: int


@dataclass(frozen=True)
class Sent:
    """A small tensor, the same on all ranks."""

    entries: np.ndarray[Any, Any]


def packed(what: Any) -> Any:
    """Arguments as they are sent."""
    if isinstance(what, Tensor):
        number = getattr(what, "number", None)
        return Sent(what.detach().cpu().numpy()) if number is None else Ref(number)
    if isinstance(what, list | tuple):
        return [packed(one) for one in what]
    return what


class Store:
    """One rank's slices."""

    def __init__(self, group: Group, matrices: dict[int, Any], device: torch.device) -> None:
        self.group, self.matrices, self.device = group, matrices, device
        self.kept: dict[int, Any] = {}
        self.failure: Exception | None = None
        self.holes = 0  # bytes

    def do(
        self, before: Sequence[tuple[str, Sequence[Any]]], name: str, arguments: Sequence[Any], own: Sequence[Any] = ()
    ) -> Any:
        """What rank 0 asks for, after what it has done alone `before`; `own` is what it has for itself alone."""
        for each, given in before:
            getattr(self, each)(*given)
        return getattr(self, name)(*arguments, *own)

    def let_go(self, number: int) -> int:
        """Nobody needs that one any more; its bytes, those of a view too."""
        gone = self.kept.pop(number, None)
        size = gone.nbytes if isinstance(gone, Tensor) else 0
        del gone
        self.holes += size
        if self.holes > HOLES and self.device.type == "cpu":
            self.holes = 0
            give_back()
        return size

    def nothing(self) -> None:
        """What was to be done before is done."""

    def local(self, into: Sequence[int], name: str, args: Any, kwargs: dict[str, Any]) -> Any:
        """An operation on this rank's slices; the results get numbers."""

        def made() -> Any:
            found = _operation(name)(*self._meant(args), **self._placed(kwargs))
            for number, one in zip(into, found if isinstance(found, list | tuple) else [found], strict=False):
                self.kept[number] = one
            return found

        return self._quietly(made)

    def put_together(self, how: str, shape: Any, kind: torch.dtype, name: str, args: Any, kwargs: Any) -> Tensor | None:
        """An operation over coordinates: the parts of all ranks, of one shape and type, as one on rank 0.

        None where one has failed, which `explain` raises.
        """

        def own() -> Tensor:
            given = self._meant(args)
            if how == "norm" and given[0].numel() == 0:
                given[0] = given[0].new_zeros([max(1, n) for n in given[0].shape])
            part: Tensor = _operation(name)(*given, **self._placed(kwargs))
            return part

        known = self._said_with_failure(self._quietly(own), shape, torch.uint8 if kind == torch.bool else kind)
        if how == "sum":
            self.group.summed(known, everywhere=False)
            return known[:-1].view(tuple(shape)) if self.group.rank == 0 and not known[-1] else None
        parts = self.group.collected(known)
        if parts is None or any(part[-1] for part in parts):
            return None
        every = torch.stack([part[:-1].view(tuple(shape)) for part in parts])
        if how == "norm":
            norm: Tensor = torch.linalg.vector_norm(every, ord=self._order(args), dim=0)
            return norm
        found: Tensor = every != 0
        return found.all(0) if how == "all" else found.any(0)

    def explain(self) -> None:
        """Raise on all ranks what was raised on one."""
        self._attempted(lambda: None)

    def _said_with_failure(self, part: Tensor | None, shape: Sequence[int], kind: torch.dtype) -> Tensor:
        """The entries, and whether something was raised."""
        said = torch.zeros(prod(shape) + 1, dtype=kind, device=self.device)
        if self.failure is None and part is not None:
            said[:-1] = part.reshape(-1)
        else:
            said[-1] = 1
        return said

    def found(self, into: int, number: int) -> list[int]:
        """The numbers, in each slice, of coordinates that are not zero; how many each rank has."""

        def own() -> int:
            self.kept[into] = self.kept[number].nonzero()
            return len(self.kept[into])

        return self.group.gathered(self._attempted(own))

    def gaussian(self, into: int, sizes: Sizes, columns: int, state: Any) -> Tensor:
        """This rank's rows of (N, k) Gaussian numbers; every rank draws all of them, a piece at a time."""
        generator = torch.Generator()
        generator.set_state(torch.from_numpy(state.entries))
        first = sum(sizes[: self.group.rank]) * columns

        def own() -> None:
            count = sizes[self.group.rank] * columns
            drawn = gaussian_part(sum(sizes) * columns, first, first + count, generator, self.device)
            self.kept[into] = drawn.view(-1, columns)

        self._quietly(own)
        return generator.get_state()

    def zeros(self, into: int, shape: Any, dtype: torch.dtype) -> None:
        """Zeros."""

        def own() -> None:
            self.kept[into] = torch.zeros(self._meant(shape), dtype=dtype, device=self.device)

        self._quietly(own)

    def slices(self, index: int) -> Sizes:
        """How many coordinates each rank has of vectors of that matrix."""
        matrix = self.matrices[index]
        return check_slices(self.group.gathered(matrix.own), matrix.shape[0])

    def multiply(self, into: int, index: int, number: int, columns: int) -> None:
        """The product of a matrix with a block, (n_r, k) on every rank; of zeros where that has failed."""
        matrix = self.matrices[index]
        block = self.kept.get(number)
        if block is None:
            own = matrix.own
            block = torch.zeros(own.stop - own.start, columns, dtype=matrix.dtype, device=self.device)
        self.kept[into] = matrix.product_own(block)

    def orthonormal(self, into: int, number: int) -> None:
        """Q of (N, p): QR of every slice, then on rank 0 of the R that these leave (Demmel et al. 2012, TSQR)."""
        q, r = self._attempted(lambda: torch.linalg.qr(self.kept[number]))
        columns = r.shape[1]
        left = self.group.collected(pad(r, (0, 0, 0, columns - len(r))))
        turned = None if left is None else list(torch.linalg.qr(torch.cat(left)).Q.contiguous().split(columns))
        own = torch.empty(columns, columns, dtype=r.dtype, device=self.device)
        self.group.scattered(own, turned)
        self.kept[into] = q @ own[: len(r)]

    def row(self, number: int, sizes: Sizes, index: Any) -> Tensor | None:
        """One row (N,) of a tensor whose last dimension is sliced, on rank 0."""
        return self._gathered(self._attempted(lambda: self.kept[number][tuple(index)]), sizes)

    def set_row(self, number: int, sizes: Sizes, index: Any, row: Tensor | None = None) -> None:
        """Sets one row to that of rank 0."""
        target = self._attempted(lambda: self.kept[number][tuple(index)])
        target.copy_(self._cut(row, sizes, target.dtype))

    # a basis: `Rows` of each rank's coordinates

    def basis(self, into: int, probes: int, room: int, sizes: Sizes, dtype: torch.dtype) -> None:
        """A new one; raises on all ranks where one has no memory for it."""

        def own() -> Rows:
            return Rows(probes, room, sizes[self.group.rank], dtype, self.device)

        self.kept[into] = self._attempted(own)

    def reserve(self, basis: int, room: int, filled: int) -> None:
        """As `Basis.reserve`."""
        self._attempted(lambda: self.kept[basis].reserve(room, filled))

    def put(self, basis: int, j: int, number: int) -> None:
        """As `Basis.put`."""
        self._quietly(lambda: self.kept[basis].put(j, self.kept[number]))

    def orthogonalize(self, basis: int, number: int, which: Sequence[int], count: int) -> None:
        """As `Basis.orthogonalize`: coefficients are summed over ranks, what they make is each rank's own."""
        rows, w = self.kept[basis], self._known(number)
        own = self._quietly(lambda: torch.stack([rows.along(w[i], i, count) for i in which]))
        said = self._said_with_failure(own, (len(which), count), torch.float64)
        self.group.summed(said, everywhere=True)
        if said[-1]:
            self.explain()
        for i, coefficients in zip(which, said[:-1].view(len(which), count), strict=True):
            rows.subtract(w[i], i, coefficients)

    def combined(self, into: int, basis: int, i: int, coefficients: Any, at: int | None) -> None:
        """As `Basis.combined`."""

        def own() -> None:
            given = self._meant([coefficients])[0]
            self.kept[into] = self.kept[basis].combined(i, given, None if at is None else self.kept[at])

        self._quietly(own)

    def inner(self, basis: int, i: int, count: int, number: int) -> Tensor:
        """As `Basis.inner`, on rank 0."""
        part: Tensor = self._attempted(lambda: self.kept[basis].inner(i, count, self.kept[number]).contiguous())
        self.group.summed(part, everywhere=False)
        return part

    def forms(self, basis: int, lengths: dict[int, int], following: int, nulls: Any) -> Any:
        """As `Basis.forms`, on rank 0."""

        def own() -> tuple[Tensor, ...]:
            rows = self.kept[basis]
            none = self.kept[following].new_zeros(rows.rows.shape[2], 0)
            u = none if nulls is None else self._meant([nulls])[0]
            found: tuple[Tensor, ...] = rows.forms(lengths, self.kept[following], u)
            return found

        found = self._attempted(own)
        for sums in found:
            if sums.numel():
                self.group.summed(sums, everywhere=False)
        return found

    def basis_row(self, basis: int, sizes: Sizes, i: int, j: int) -> Tensor | None:
        """Vector j of probe i, (N,) on rank 0."""
        return self._gathered(self._attempted(lambda: self.kept[basis].rows[i, j]), sizes)

    def whole_basis(self, basis: int, sizes: Sizes, count: int) -> Tensor | None:
        """(m, count, N) on rank 0."""
        return self._gathered(self._attempted(lambda: self.kept[basis].rows[:, :count]), sizes)

    def set_basis_row(self, basis: int, sizes: Sizes, i: int, j: int, given: Tensor | None = None) -> None:
        """Sets vector j of probe i to that of rank 0, (N,)."""
        row = self._attempted(lambda: self.kept[basis].rows[i, j])
        row.copy_(self._cut(given, sizes, row.dtype))

    # of all of them

    def _gathered(self, own: Tensor, sizes: Sizes) -> Tensor | None:
        """(..., N) on rank 0 of everybody's slice, that of the last dimension."""
        kind = torch.uint8 if own.dtype == torch.bool else own.dtype
        parts = self.group.collected(pad(own.to(kind), (0, max(sizes) - own.shape[-1])))
        if parts is None:
            return None
        cut = [part[..., :size] for part, size in zip(parts, sizes, strict=True)]
        return torch.cat(cut, dim=-1).to(own.dtype)

    def _cut(self, row: Tensor | None, sizes: Sizes, dtype: torch.dtype) -> Tensor:
        """This rank's slice of a row (N,) on rank 0."""
        kind = torch.uint8 if dtype == torch.bool else dtype
        own, parts = torch.empty(max(sizes), dtype=kind, device=self.device), None
        if row is not None:
            cut = torch.split(row.to(self.device, kind), list(sizes))
            parts = [pad(part, (0, len(own) - len(part))) for part in cut]
        self.group.scattered(own, parts)
        return own[: sizes[self.group.rank]]

    def _attempted(self, work: Callable[[], Any]) -> Any:
        """Work on every rank; what was raised on some now, or since the last time, all raise."""
        failure, self.failure = self.failure, None

        def own() -> Any:
            if failure is not None:
                raise failure
            return work()

        return self.group.attempted(own)

    def _quietly(self, work: Callable[[], Any]) -> Any:
        """Work without an exchange."""
        if self.failure is not None:
            return None
        try:
            return work()
        except Exception as error:  # memory, say
            self.failure = error
            return None

    def _meant(self, args: Any) -> list[Any]:
        """Arguments as this rank has them."""
        found: list[Any] = []
        for one in args:
            if isinstance(one, Ref):
                found.append(self.kept[one.number])
            elif isinstance(one, Sent):
                found.append(torch.from_numpy(one.entries).to(self.device))
            elif isinstance(one, Own):
                found.append(one.sizes[self.group.rank])
            elif isinstance(one, list):
                found.append(self._meant(one))
            else:
                found.append(one)
        return found

    def _placed(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        names = [name for name in kwargs if name != "pin_memory"]
        found = dict(zip(names, self._meant([kwargs[name] for name in names]), strict=True))
        return found | ({"device": self.device} if found.get("device") is not None else {})

    def _known(self, number: int) -> Any:
        """A tensor; None where it could not be made."""
        return self.kept.get(number)

    def _order(self, args: Any) -> float:
        return float(args[1]) if len(args) > 1 else 2.0


def _operation(name: str) -> Any:
    """One of torch's, `aten.add.Tensor` say."""
    found: Any = torch.ops
    for part in name.split("."):
        found = getattr(found, part)
    return found
