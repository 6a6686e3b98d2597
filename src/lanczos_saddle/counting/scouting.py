"""One recurrence, independent of the probes that count, sees the spectrum first; what to do is decided by it.

It begins in the preflight and finds the largest |eigenvalue|. Going on to a twelfth of the budget, it foretells how
wide intervals will be (`foretelling`). It may go on still, with its basis: the Ritz vectors beyond tau that have
converged are taken out of the space in which probes count (`deflation`), and no product is made for them alone, since
H V = V T + beta v e' gives theirs. They bound both counts from below without chance (Cauchy), and few eigenvalues are
left to be sampled: where few lie beyond tau, counts come out exact.

    plain       probes x steps with all that is left
    deflated    the recurrence goes on to a quarter or half of the budget, then probes x steps on the complement
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lanczos_saddle.certificates.quadrature import Bracket, mass_bracket
from lanczos_saddle.counting.allocation import PROBES, Allocation, Room, allocate, scout_steps
from lanczos_saddle.counting.deepening import SPANNED
from lanczos_saddle.counting.foretelling import Likeness, Simulated, likeness, ritz, settled
from lanczos_saddle.counting.options import Options
from lanczos_saddle.counting.result import Living, Task
from lanczos_saddle.krylov.basis import basis_bytes, basis_room
from lanczos_saddle.krylov.lanczos import Lanczos
from lanczos_saddle.machine.journal import answered
from lanczos_saddle.machine.memory import available_bytes
from lanczos_saddle.machine.progress import stage
from lanczos_saddle.operators.operator import Operator
from lanczos_saddle.operators.resolution import deepest
from lanczos_saddle.operators.vectors import space_of

DIVISIBLE = 128
"""A budget of products below this is not worth a look ahead: the planned number of probes takes it."""

SHARES = (4, 2)
"""The recurrence may go on to the budget divided by these."""

SPANNING, SPANNING_PROBES, SURE = 1.5, 8, 2
"""So many products for each dimension of a small space, from so many probes: their bases span it, unless eigenvalues
lie close. They are the better bet where a wider interval than the last is foretold."""

BETTER = 0.9
"""Vectors are taken out where that is foretold to leave at most this share of the width."""


@dataclass(frozen=True)
class Plan:
    """What is done with the products that are left, and how wide the widest interval is foretold to be."""

    way: str  # "plain" or "deflated"
    probes: int
    steps: int
    width: int  # foretold, in counts
    scouted: int = 0  # steps of the recurrence that foretold it
    vectors: int = 0  # taken out

    def __str__(self) -> str:
        taken = f", {self.vectors} vectors of a run of {self.scouted} steps taken out" if self.vectors else ""
        return f"{self.way}, {self.probes} probes x {self.steps} steps{taken}; widest interval foretold: {self.width}"


@dataclass(frozen=True)
class Outlook:
    """What the recurrence saw, and a simulated run that goes on where it ends."""

    diagonal: NDArray[np.float64]  # (j,) of the recurrence
    offdiagonal: NDArray[np.float64]  # (j,)
    size: int  # N without the dead coordinates
    zeros: int  # dead coordinates
    dead_mass: float  # share of the start vector on them
    depth: int  # the deepest that will be asked for

    @cached_property
    def like(self) -> Likeness:
        """Eigenvalues that stand for the living ones."""
        return likeness(self.diagonal, self.offdiagonal, self.size, self.depth, zeros=self.zeros)

    @cached_property
    def simulated(self) -> Simulated:
        """A run on them as deep as any will be."""
        return self.like.run(self.depth)

    def bracket(self, steps: int, t: float) -> Bracket:
        """On the mass up to t after so many steps: as the recurrence had it, beyond its depth as foretold."""
        seen = len(self.diagonal)
        if steps <= seen or self.offdiagonal[-1] == 0:
            k = min(steps, seen)
            found = mass_bracket(self.diagonal[:k], self.offdiagonal[:k], t)
            return _living(found, self.dead_mass if t > 0 else 0.0, 1 - self.dead_mass)
        foretold = self.simulated.bracket(self.like.steps(steps), t)
        widest = self.bracket(seen, t).width
        if foretold.width <= widest:
            return foretold
        middle = (foretold.lower + foretold.upper) / 2
        return Bracket(max(0.0, middle - widest / 2), min(1.0, middle + widest / 2))


@dataclass(frozen=True)
class Ahead:
    """Brackets at -tau and tau in the space where probes will be drawn."""

    outlook: Outlook
    tau: float

    def brackets(self, steps: int) -> tuple[Bracket, Bracket]:
        """After so many steps from a probe."""
        return self.outlook.bracket(steps, -self.tau), self.outlook.bracket(steps, self.tau)


@dataclass(frozen=True)
class Complement:
    """The same where some eigenvalues were taken out."""

    like: Likeness
    simulated: Simulated
    tau: float

    def brackets(self, steps: int) -> tuple[Bracket, Bracket]:
        """After so many steps from a probe."""
        k = self.like.steps(steps)
        return self.simulated.bracket(k, -self.tau), self.simulated.bracket(k, self.tau)


@dataclass(frozen=True)
class Found:
    """Vectors of the living space and their products: (N, c), columns of norm near 1."""

    basis: Tensor
    images: Tensor  # float64


class Scout:
    """The recurrence of the preflight, and what it foretells."""

    def __init__(self, run: Lanczos, start: Tensor, task: Task, living: Living) -> None:
        self.run, self.task, self.living = run, task, living
        dead = living.dead.to(start.device)
        self.dead_mass = float(start[dead].square().sum() / start.square().sum())

    def go_on(self, steps: int, purpose: str) -> None:
        """To that depth, if it is not there yet."""
        made = self.run.products
        if steps > self.run.steps and not self.run.failed:
            depth = min(steps, self.run.operator.shape[0])
            with stage(purpose, depth - self.run.steps):
                self.run.advance(depth)
        self.task.budget.book(purpose, self.run.products - made)

    def look(self, room: int, most: int | None, *, deflates: bool) -> Plan:
        """Look ahead with a part of `room` products, and choose; no vector is taken out yet.

        Of vectors that will be, `vectors` is the number foretold, and `scouted` how deep the recurrence will be.
        """
        options, tau, size = self.task.options, self.task.threshold, self.living.size
        before = self.run.products
        self.go_on(scout_steps(room, size), "pilot")
        left = room - (self.run.products - before)
        ahead = self.outlook(room)
        best = self._divided([Ahead(ahead, each) for each in self.task.thresholds], left, size, most)
        chosen = Plan("plain", best.probes, best.steps, best.width, self.run.steps)
        if not deflates or options.beside or not self.run.reorthogonalize or self.run.failed:
            return chosen
        for part in SHARES:
            j = min(room // part, size - 1)
            if j <= self.run.steps:
                continue
            rest = ahead.like.without(ahead.simulated.converged(ahead.like.steps(j), tau))
            if rest.size == size:
                continue
            after = left - (j - self.run.steps)
            other = self._divided([Complement(rest, rest.run(after), tau)], after, rest.size, most)
            if math.expm1(other.judged / 2) <= BETTER * math.expm1(best.judged / 2):
                best = other
                chosen = Plan("deflated", other.probes, other.steps, other.width, j, size - rest.size)
        if chosen.width > SURE and size <= SPANNED and left >= SPANNING * size and options.reorthogonalize is not False:
            return Plan("plain", SPANNING_PROBES, min(size, left // SPANNING_PROBES), chosen.width, self.run.steps)
        return chosen

    def plan(self, room: int, most: int | None, *, deflates: bool) -> Plan:
        """Look ahead with a part of `room` products, and choose; where vectors are taken out, they are there then."""
        tau, size, before = self.task.threshold, self.living.size, self.run.products
        chosen = self.look(room, most, deflates=deflates)
        if chosen.way == "plain":
            return chosen
        self.go_on(chosen.scouted, "deflation")
        left = room - (self.run.products - before)
        mask = self._settled(tau)
        if not mask.any():
            best = self._divided([Ahead(self.outlook(left), tau)], left, size, most)
            return Plan("plain", best.probes, best.steps, best.width, self.run.steps)
        rest = likeness(*self._coefficients(), size - int(mask.sum()), left, zeros=self.living.zeros, found=mask)
        best = self._divided([Complement(rest, rest.run(left), tau)], left, rest.size, most)
        probes, steps = best.probes, best.steps
        if left >= SPANNING_PROBES * rest.size:  # a small complement: as deep as it is, from many probes
            probes, steps = min(PROBES[-1], left // rest.size), rest.size
        return Plan("deflated", probes, steps, best.width, self.run.steps, int(mask.sum()))

    def widths(self, plan: Plan, most: int | None) -> list[int]:
        """Foretold at each threshold of the task, each alone, with what the budget leaves; of one, that of the plan."""
        if not self.task.options.beside:
            return [plan.width]
        left = self.task.budget.left
        room = plan.probes * plan.steps if left is None else left
        ahead, size = self.outlook(room), self.living.size
        return [self._divided([Ahead(ahead, tau)], room, size, most).width for tau in self.task.thresholds]

    def for_task(self, task: Task) -> Scout:
        """The same recurrence for another task of the same matrix."""
        other = copy(self)
        other.task = task
        return other

    def _divided(self, seen: Sequence[Ahead | Complement], left: int, drawn: int, most: int | None) -> Allocation:
        """So many products between probes and depth; `drawn`: the dimension in which probes will be drawn."""
        task = self.task
        deep = min(deepest(task.threshold, task.check, drawn), drawn)
        return allocate(seen, Room(left, drawn, deep, most=most), task.options.confidence)

    def outlook(self, depth: int) -> Outlook:
        """What it foretells for runs to that depth."""
        living = self.living
        return Outlook(*self._coefficients(), living.size, living.zeros, self.dead_mass, max(depth, 2))

    def vectors(self, tau: float) -> Found:
        """The converged Ritz vectors beyond tau, their products from the recurrence; the witness learns of them."""
        mask = self._settled(tau)
        alpha, beta = self._coefficients()
        form = torch.diag(torch.as_tensor(alpha)) + sum(
            torch.diag(torch.as_tensor(beta[:-1]), side) for side in (1, -1)
        )
        values, rotation = torch.linalg.eigh(form)
        values, rotation = values[mask], rotation[:, mask]
        run = self.run
        device = run.current.device
        rotation, values = rotation.to(device), values.to(device)
        alive = (~self.living.dead).nonzero().squeeze(1).to(device)
        vectors = run.kept.combined(0, rotation, alive)
        images = vectors * values
        images += run.current[0, alive, None] * (beta[-1] * rotation[-1])
        basis = vectors.to(run.operator.dtype)
        self.task.witness.add(basis, images)
        return Found(basis, images)

    def _coefficients(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        return self.run.tridiagonalization().coefficients(0)

    def _settled(self, tau: float) -> NDArray[np.bool_]:
        return settled(*ritz(*self._coefficients()), tau)


def keeps_basis(operator: Operator, options: Options, free: int | None = None) -> bool:
    """Whether the recurrence may keep a basis as deep as it may go: in a quarter of the free memory, in float64.

    Not where the caller wants none. `free`: bytes that may be used, what is available by default.
    """
    max_products = options.max_products
    if max_products is None or operator.dtype != torch.float64 or options.reorthogonalize is False or options.beside:
        return False
    if space_of(operator) is not None:  # vectors that were found are not taken out of slices
        return False
    deepest_part = min(max_products // min(SHARES), operator.shape[0])
    if free is None:
        free = answered("free for the search", lambda: available_bytes(operator.device))
    return basis_bytes(operator, 1, deepest_part) <= basis_room(operator, free, part=4)


def _living(mass: Bracket, dead: float, alive: float) -> Bracket:
    """The same among living coordinates."""
    return Bracket(max(0.0, (mass.lower - dead) / alive), min(1.0, max(0.0, (mass.upper - dead) / alive)))
