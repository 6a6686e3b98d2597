"""H - t I = T D T' of one triangle whose panels lie with several ranks, panel p with rank p mod R: from the right.

    a panel    its rank takes the pivots of its diagonal tile and of the directions that wait, as `dense.blocked_ldl`,
               and gives the panel to all; the others go on with the panel before
    update     every rank, the panels that it has: -= L D L', by matrix products
    L          goes into the places of the columns that are done, whoever has them

Numbers that every rank gets: one triangle, and the directions that wait. The rank of the next panel updates that one
first, so that the others seldom wait for it. All ranks have D and all Q.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from lanczos_saddle.dense.blocked_ldl import DELAYED, Step, chosen_pivots, inverse_of
from lanczos_saddle.dense.triangle import Triangle
from lanczos_saddle.distributed.group import Group

HEAD = 2
"""Rows of a panel that is given to all before Q: how many directions are pivots, and the eigenvalues."""


class Elimination:
    """One factorization. Made by all ranks, and every method called by all, in the same order.

    `lower` takes L: a triangle with the same panels, or the source, which is then used up.
    """

    def __init__(self, group: Group, source: Triangle, lower: Triangle, t: float) -> None:
        self.group, self.lower, self.size = group, lower, source.size
        squares = source.squares()
        group.added(squares)
        self.limit = float(squares.max().sqrt()) + abs(t)  # about the largest row norm of H - t I
        if lower is not source:
            lower.copy_of(source)
        for index in lower.kept:
            lower.panel(index).diagonal().sub_(t)
        self.steps, self.pivots = list[Step](), torch.zeros(self.size, dtype=torch.float64)
        self._start = 0
        self._waiting = torch.empty(0, dtype=torch.float64), torch.empty(self.size, 0, dtype=torch.float64)
        self._failure: Exception | None = None
        self._message, self._work = self._given(0)

    def step(self, index: int) -> None:
        """The pivots of one panel; panels come in order."""
        self.group.ended(self._work)
        message, start, stop = self._message, self._start, self.lower.place(index).stop
        if bool(message[0, 0].isnan()):
            self.group.attempted(self._raise)
        width, accepted = message.shape[1], int(message[0, 0])
        values, turn, panel = message[1], message[HEAD : HEAD + width], message[HEAD + width :]
        middle = start + accepted
        self.steps.append(Step(start, accepted, turn.clone()))
        self.pivots[start:middle] = values[:accepted]
        self._start, self._waiting = middle, (values[accepted:], panel[:, accepted:])
        pivots, inverse, following = panel[:, :accepted], inverse_of(values[:accepted]), index + 1
        if following < self.lower.panels:
            if following in self.lower.kept:
                self._update(following, stop, pivots, inverse)
            self._message, self._work = self._given(following)
        for part, lower in self._parts(self.steps[-1], stop):
            own = slice(part.start - start, part.stop - start)
            torch.mul(pivots[:, own], inverse[own], out=lower)
        for later in self.lower.kept:
            if later > following:
                self._update(later, stop, pivots, inverse)

    def multiply(self, rows: Tensor) -> Tensor:
        """v' T D T' for rows v' (k, N), the same on all ranks; each passes its part of L twice."""
        z, along = rows.clone(), torch.zeros_like(rows)
        for step in self.steps:  # nothing that is added is read again: sums over ranks come at the end
            block, stop = self._block(step)
            z[:, block] = z[:, block] @ step.turn
            for part, lower in self._parts(step, stop):
                along[:, part] += z[:, stop:] @ lower
        self.group.added(along)
        z += along
        z *= self.pivots
        along.zero_()
        for step in reversed(self.steps):
            block, stop = self._block(step)
            for part, lower in self._parts(step, stop):
                along[:, stop:] += z[:, part] @ lower.mT
            z[:, block] = z[:, block] @ step.turn.mT
        self.group.added(along)
        return z.add_(along)

    def solve(self, rows: Tensor) -> Tensor:
        """v' (T D T')^-1 for rows v' (k, N), the same on all ranks; not finite where a pivot is zero."""
        z, along, known = rows.clone(), torch.zeros_like(rows), 0
        for step in self.steps:
            block, stop = self._block(step)
            fresh = along[:, known:stop].contiguous()
            self.group.added(fresh)
            z[:, known:stop] -= fresh
            known = stop
            z[:, block] = z[:, block] @ step.turn
            for part, lower in self._parts(step, stop):
                along[:, stop:] += z[:, part] @ lower.mT
        z /= self.pivots
        for step in reversed(self.steps):
            block, stop = self._block(step)
            sums = z.new_zeros(len(z), step.accepted)
            for part, lower in self._parts(step, stop):
                sums[:, part.start - step.start : part.stop - step.start] = z[:, stop:] @ lower
            self.group.added(sums)
            z[:, step.start : step.start + step.accepted] -= sums
            z[:, block] = z[:, block] @ step.turn.mT
        return z

    def _given(self, index: int) -> tuple[Tensor, Any]:
        """A panel after its elimination, which its rank makes and begins to give to all."""
        place, held = self.lower.place(index), len(self._waiting[0])
        width = held + place.stop - place.start
        message = torch.empty(HEAD + width + self.size - place.stop, width, dtype=torch.float64)
        if index in self.lower.kept:
            try:
                self._eliminate(index, message)
            except Exception as error:
                self._failure = error
                message.fill_(torch.nan)
        return message, self.group.begun(message, index % self.group.size)

    def _eliminate(self, index: int, message: Tensor) -> None:
        """Message <- pivots, Q, and what couples the directions to the rest."""
        values, waiting = self._waiting
        held, width = len(values), message.shape[1]
        active = torch.empty(self.size - self._start, width, dtype=torch.float64)
        active[:held, :held] = values.diag()
        active[held:, :held] = waiting
        active[held:, held:] = self.lower.panel(index)
        found = chosen_pivots(active[:width], active[width:], self.limit, DELAYED)
        message[0, 0], message[1] = found.accepted, found.values
        message[HEAD : HEAD + width] = found.turn
        message[HEAD + width :] = found.panel

    def _update(self, index: int, stop: int, pivots: Tensor, inverse: Tensor) -> None:
        """A panel -= L D L', for rows of L from `stop` on."""
        place = self.lower.place(index)
        rows, columns = pivots[place.start - stop :], pivots[place.start - stop : place.stop - stop]
        self.lower.panel(index).addmm_(rows, (columns * inverse).mT, alpha=-1)

    def _parts(self, step: Step, stop: int) -> Iterator[tuple[slice, Tensor]]:
        """(pivots of the step, L below the block for them) of panels that are here."""
        for index, part in self.lower.pieces(slice(step.start, step.start + step.accepted)):
            if index in self.lower.kept:
                yield part, self.lower.part(stop, part)

    def _block(self, step: Step) -> tuple[slice, int]:
        stop = step.start + len(step.turn)
        return slice(step.start, stop), stop

    def _raise(self) -> None:
        if self._failure is not None:
            raise self._failure
