"""The beginning of a count, made for real: what its first products cost, and what they foretell of the others.

    pilot    preflight, search of the largest |eigenvalue|, dead coordinates, and the recurrence that foretells widths:
             by the same products, drawn from the same streams, as the count would make
    pace     some steps of a recurrence with a block of m probes: seconds a column, and the most memory

The generator of the caller is copied, so a count that follows draws the same numbers. Nothing is written. What products
keep from one to the next (recordings, primal results) is the operator's own, and a count finds it there.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, TypeVar

import torch
from torch import Tensor

from lanczos_saddle.counting.beginning import Beginning
from lanczos_saddle.counting.count import UNBOUNDED, find_threshold
from lanczos_saddle.counting.options import Budget, Options
from lanczos_saddle.counting.planning import FINAL
from lanczos_saddle.counting.result import Living, Task
from lanczos_saddle.counting.sampled import living_part
from lanczos_saddle.counting.scouting import DIVISIBLE, Outlook, Plan, Scout, keeps_basis
from lanczos_saddle.counting.several import need_factor
from lanczos_saddle.defaults import STEPS
from lanczos_saddle.krylov.lanczos import Lanczos
from lanczos_saddle.krylov.preflight import preflight
from lanczos_saddle.krylov.witness import Watched, Witness
from lanczos_saddle.machine.measuring import held_bytes, measure
from lanczos_saddle.machine.streams import Streams
from lanczos_saddle.operators.operator import Operator
from lanczos_saddle.operators.resolution import OperatorCheck
from lanczos_saddle.preconditioning.choice import pays

T = TypeVar("T")

GLANCE = 24
"""Steps of the recurrence where the count itself would make none that foretells widths."""

TIMED, WIDEST = 4, 8
"""Steps that are timed after a first one, and columns of their block at most."""

MORE, SMALL = 16, 20_000
"""So many steps up to this N: what the allocator keeps of freed memory, in pieces, is much of what is held there, and
it grows during the first steps."""

PATIENCE = 30.0
"""Seconds after which no further step is timed, if one was."""


@dataclass(frozen=True)
class Pace:
    """What a block of `columns` probes takes a step."""

    columns: int
    first: float  # seconds of the first step, recordings included
    steps: tuple[float, ...]  # of the others
    products: tuple[float, ...]  # of these, in products alone

    @property
    def made(self) -> int:
        """Products that it took."""
        return self.columns * (1 + len(self.steps))

    @property
    def product(self) -> float:
        """Seconds of a product, a column: the median."""
        return statistics.median(self.products) / self.columns

    @property
    def step(self) -> float:
        """Seconds of a step, a column, without a basis: the median."""
        return statistics.median(self.steps) / self.columns

    @property
    def spread(self) -> tuple[float, float]:
        """The fastest and the slowest step, over the median."""
        middle = statistics.median(self.steps)
        return (min(self.steps) / middle, max(self.steps) / middle) if middle else (1.0, 1.0)


@dataclass(frozen=True)
class Pilot:
    """What the pilot saw."""

    threshold: float
    check: OperatorCheck
    target: Operator  # without dead coordinates
    seen: Outlook | None  # what the recurrence saw
    chosen: Plan | None  # what a count would do with a budget, before vectors are taken out
    left: int | None  # products that a budget leaves
    pays: bool  # whether an S may be made without being asked for
    small: tuple[float, ...]  # the thresholds at which one is made then
    steps: int  # of a run without a budget, at most
    spent: dict[str, int]  # products, as a budget has them

    @cached_property
    def outlook(self) -> Outlook | None:
        """What is foretold of runs as deep as a budget allows, or as a run goes without one."""
        asked = self.steps if self.left is None else self.left
        return None if self.seen is None else replace(self.seen, depth=max(min(asked, self.target.shape[0]), 2))


@dataclass
class Rehearsal:
    """What was made, what it took, and what is known by it."""

    spent: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0  # of the beginning
    began: int | None = None  # most bytes held in the beginning, beyond those held before
    kept: int | None = None  # bytes that stay: of libraries, recordings, results of products
    ran: int | None = None  # most bytes in the timed steps, beyond what stays
    pilot: Pilot | None = None
    pace: Pace | None = None


@dataclass(frozen=True)
class Terms:
    """Of a count: what was asked for, and what it knows and has to keep to."""

    options: Options
    free: int  # bytes that may be used
    most: int | None  # a proved bound on the negative eigenvalues
    least: int  # products that a search must leave of a budget
    spent: int = 0  # products that were out of range, before
    sliced: bool = False  # whether its vectors are in slices over ranks, of which none is taken out


def rehearse(
    operator: Operator, terms: Terms, *, pilot: bool, columns: int, timed: Operator | None = None
) -> Rehearsal:
    """The beginning of a count, then some steps with a block of `columns` probes; without a pilot the latter alone.

    `timed`: what these steps multiply by, where that is not the operator itself. Raises ValueError where a count would.
    """
    made, device = Rehearsal(), operator.device
    start = held_bytes(device)
    if pilot:
        began = time.perf_counter()
        budget = Budget(terms.options.max_products)
        made.pilot, peak = _peak(lambda: _begin(operator, terms, budget), start, device)
        made.began, made.seconds, made.spent = peak, time.perf_counter() - began, dict(budget.spent)
        made.spent.pop("final", None)
    target = operator if made.pilot is None else made.pilot.target
    target = target if timed is None else timed
    pace, peak = _peak(lambda: _timed(target, min(columns, target.shape[0])), start, device)
    after = held_bytes(device)
    made.pace, made.spent["timing"] = pace, pace.made
    if start is not None and after is not None and peak is not None:
        made.kept = max(0, after - start)
        made.ran = max(0, peak - made.kept)
    return made


def _peak(call: Callable[[], T], start: int | None, device: torch.device) -> tuple[T, int | None]:
    """(what it returns, the most bytes held in it beyond `start`)."""
    now = held_bytes(device)
    result, cost = measure(call, device)
    known = start is not None and now is not None and cost.peak_bytes is not None
    return result, now + cost.peak_bytes - start if known else None  # type: ignore[operator]


def _begin(operator: Operator, terms: Terms, budget: Budget) -> Pilot:
    """As `count_eigenvalues` begins, to the place where it chooses."""
    options = terms.options
    streams = Streams(options.generator).split("check", "scale", "dead", "probes", "enumeration", "pilot")
    found = preflight(
        operator,
        threshold=options.threshold or 0.0,
        relative_threshold=options.relative_threshold or 0.0,
        generator=streams["check"],
        basis=options.divides and not terms.sliced and keeps_basis(operator, options, terms.free),
    )
    budget.book("check", terms.spent + found.check.products)
    tau, searched = find_threshold(operator, options, found, terms.least)
    budget.book("scale", searched)
    start = Beginning(replace(found, search=None), options.relative_threshold, 0, str(operator.dtype), searched)
    task = Task(operator, tau, found.check, budget, options, time.perf_counter(), start)
    budget.book("final", FINAL)  # a count makes it in the end
    part = living_part(task, streams["dead"])
    relative = tau / found.check.scale if found.check.scale > 0 else 1.0
    may = pays(options.preconditioner, operator, relative)
    left = budget.left
    deflates = left is not None and not terms.sliced
    scout, chosen = _scouted(task, part, (found.search, found.vector), terms.most, may=may, deflates=deflates)
    seen = None if scout is None or scout.run.failed else scout.outlook(2)
    watched = part.operator  # by sums of its own, which a run has, too
    target = watched.base if isinstance(watched, Watched) else watched
    small = need_factor(scout, chosen, terms.most) if may and scout is not None and chosen is not None else ()
    return Pilot(tau, found.check, target, seen, chosen, left, may, small, options.steps or STEPS, dict(budget.spent))


def _scouted(
    task: Task, part: Living, begun: tuple[Lanczos | None, Tensor], most: int | None, *, may: bool, deflates: bool
) -> tuple[Scout | None, Plan | None]:
    """(the recurrence, as deep as a count would make it or a glance; the plan that the count would make of it)."""
    (search, start), options, left = begun, task.options, task.budget.left
    if search is None or not part.size:
        return None, None
    scout = Scout(search, start, task, part)
    double = task.operator.dtype == torch.float64
    looks = options.divides and options.made is None and double and (may if left is None else left >= DIVISIBLE)
    if looks:
        return scout, scout.look(UNBOUNDED if left is None else left, most, deflates=deflates)
    scout.go_on(GLANCE, "pilot")
    return scout, None


@dataclass
class Timed:
    """An operator that knows how long its products took."""

    base: Operator
    seconds: list[float] = field(default_factory=list)

    shape = property(lambda self: self.base.shape)
    dtype = property(lambda self: self.base.dtype)
    device = property(lambda self: self.base.device)

    def __matmul__(self, v: Tensor, /) -> Tensor:
        began = time.perf_counter()
        product: Tensor = self.base @ v
        wait(self.device)
        self.seconds.append(time.perf_counter() - began)
        return product


def wait(device: Any) -> None:
    """Until the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _timed(operator: Operator, columns: int) -> Pace:
    """Steps of a recurrence as a count makes them, from a block of probes of its own."""
    size = operator.shape[0]
    watched = Timed(Witness().watch(operator))
    probes = torch.randn(size, columns, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    most = min((MORE if size <= SMALL else TIMED) + 1, size)
    run = Lanczos(watched, probes, reorthogonalize=False, capacity=most)
    del probes
    steps, began = list[float](), time.perf_counter()
    while run.steps < most and not (len(steps) > 1 and time.perf_counter() - began > PATIENCE):
        at = time.perf_counter()
        run.advance(run.steps + 1)
        wait(operator.device)
        steps.append(time.perf_counter() - at)
    rest = slice(1, None) if len(steps) > 1 else slice(None)
    return Pace(columns, steps[0], tuple(steps[rest]), tuple(watched.seconds[rest]))
