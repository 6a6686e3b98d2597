"""Float32 products for a recurrence in float64, whose noise is measured on the finished run.

    before   where the threshold asks for it, U near the eigenvectors of the largest |eigenvalues|, and H U (`mixed`)
    run      vectors, basis and coefficients in float64
    after    a bound on |E|_2 for the errors E of this run, by products in float64 (`krylov.run_error`)

It is planned where the operator can be had in float64, the noise bounded from sample products would show at the
threshold, and a budget leaves room for it. Otherwise that bound stands, and the operator is multiplied as it is.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from lanczos_saddle.counting.result import Task
from lanczos_saddle.defaults import STEPS
from lanczos_saddle.krylov.lanczos import Lanczos
from lanczos_saddle.krylov.run_error import COLUMNS, FAILURE, NAMES, POWERS, SUMS, RunError, Spread, Sums
from lanczos_saddle.machine.journal import answered
from lanczos_saddle.machine.memory import available_bytes
from lanczos_saddle.machine.states import read_some
from lanczos_saddle.operators.mixed import KNOWN, Mixed, mixed
from lanczos_saddle.operators.operator import Operator, Projected, in_float64
from lanczos_saddle.operators.recorded import recorded
from lanczos_saddle.operators.resolution import OperatorCheck, RunNoise, expected_noise, recurrence_noise, rounding
from lanczos_saddle.operators.vectors import held_here, space_of
from lanczos_saddle.structure.blank_inputs import without_coordinates

NEGLIGIBLE = 1e4
"""Of a threshold of so many times the noise a shift takes 1 %, with a sine of 0.01: less noise would hardly be seen."""

SPLIT = 1e4
"""Below so many times the noise of one product, what is large is known beforehand."""

SHARE = 8
"""A budget is spent on this for at most one part in so many."""

MOST = COLUMNS * POWERS
"""Products that measure a run, at most."""

LEAST_SUMS = 4
"""Columns of sums where memory is short."""


START = ("noise_known", "noise_known_images", "noise_begin")
"""What a state keeps of what is known beforehand, and the stream after it."""


class Measurement:
    """How the noise of one run is measured, and what the run multiplies by."""

    def __init__(
        self,
        base: Operator,
        exact: Operator,
        task: Task,
        columns: int,
        generator: torch.Generator,
        kept: Mapping[str, Tensor] | None = None,
    ) -> None:
        if kept is None:
            known = mixed(base, exact, columns, generator)
        else:
            known = Mixed(base, *(kept[name] for name in START[:2]))
            generator.set_state(kept[START[2]].cpu())
        self.operator: Operator = known
        self._start = dict(zip(START, (known.known, known.images, generator.get_state()), strict=True))
        self._exact, self._generator = exact, generator
        self._threshold, self._check, self._split = task.threshold, task.check, columns > 0
        self._sums: Sums | None = None
        self._known: dict[int, RunNoise] = {}  # by steps
        self.products = 2 * min(columns, base.shape[0])  # spent so far

    def project(self, vectors: Tensor) -> Operator:
        """The operator on the complement of these columns, which is what is measured from now on."""
        self._exact = Projected(self._exact, vectors)
        self.operator = Projected(self.operator, vectors)
        return self.operator

    def watched(self, *, basis: bool) -> Operator:
        """What the run multiplies by: without a basis, products are summed up on the way."""
        if basis:
            return self.operator
        size = held_here(self.operator, self.operator.shape[0])
        # a quarter of the memory; sums, scratch and their products
        room = available_bytes(self.operator.device) // (8 * 4 * 8 * size)
        self._sums = Sums(self.operator, max(LEAST_SUMS, min(SUMS, room)), self._generator)
        return self._sums.watch(self.operator)

    def expected(self, run: Lanczos) -> float:
        """The noise that looks at a run in progress reckon with."""
        foretold = expected_noise(self._check, max(1, run.steps) * run.probes)
        return foretold if self._split else max(foretold, 2 * self._check.noise)

    def of(self, run: Lanczos) -> RunNoise:
        """A bound on |E|_2 of the run as it stands; raised powers stop where the threshold would not see less."""
        if run.steps not in self._known:
            self._known[run.steps] = self._measured(run)
        return self._known[run.steps]

    def _measured(self, run: Lanczos) -> RunNoise:
        least, spent = math.inf, 0
        if self._sums is not None:
            spreads: Iterable[Spread] = [self._sums.bound(self._exact)]
        else:
            spreads = RunError(run, self._exact).bounds(self._generator)
        for spread in spreads:
            spent = spread.products
            least = min(least, spread.bound)
            if NEGLIGIBLE * least <= self._threshold:
                break
        self.products += spent
        bounded = recurrence_noise(self._check, run.steps)
        bound = least + rounding(self._check, run.steps * run.probes)
        return RunNoise(bound, FAILURE) if math.isfinite(bound) else RunNoise(bounded)

    def tensors(self) -> dict[str, Tensor]:
        """What a state keeps."""
        return self._start if self._sums is None else {**self._start, **self._sums.tensors()}

    def resume(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from a state."""
        if self._sums is not None and all(name in tensors for name in NAMES):
            self._sums.resume(tensors)


def worth(check: OperatorCheck, threshold: float, depth: int, room: float) -> bool:
    """Whether a run so deep is measured, for at most `room` products: where bounded noise would show."""
    return check.typical is not None and threshold < NEGLIGIBLE * recurrence_noise(check, depth) and room >= MOST


def beforehand(check: OperatorCheck, threshold: float, there: tuple[int, int], room: float) -> int:
    """Columns of what is known beforehand, of N and so many free bytes (`there`); two products each."""
    size, free = there
    columns = min(KNOWN, size) if threshold < SPLIT * check.noise else 0
    fits = 4 * 8 * columns * size <= free // 4  # U, W, and what makes them
    return columns if fits and MOST + 2 * columns <= room else 0


def planned(
    task: Task, living: Operator, dead: Tensor, stream: torch.Generator, kept: bool | None
) -> Measurement | None:
    """A measurement where it is worth its products, which are booked; None where the noise stays bounded.

    `kept`: whether the run of a state has one, which then decides. Raises ValueError where that is of another type.
    """
    check, left, size, begun = task.check, task.budget.left, living.shape[0], bool(kept)
    if kept and check.typical is None:
        raise ValueError(
            f"{task.options.state} holds another kind of run, of float32 products whose noise is measured: repeat the "
            "settings it was started with, or name another file"
        )
    room = math.inf if left is None else left // SHARE
    if kept is None:
        kept = worth(check, task.threshold, min(task.options.steps or STEPS, size), room)
    space = space_of(living)
    if task.options.state is not None and space is not None:  # what it knows is no row of a state
        kept = False
    exact = in_float64(task.operator) if kept else None
    if exact is None:
        return None
    free = answered("free for what is known beforehand", lambda: available_bytes(living.device))
    together = free if space is None else free * space.ranks
    columns = beforehand(check, task.threshold, (size, together), room)
    state, before = task.options.state, None
    if begun and state is not None:
        before = read_some(state, START, living.device)
        columns = before[START[0]].shape[1]
    task.budget.book("noise", MOST + 2 * columns)
    exact = recorded(without_coordinates(exact, dead), "living in float64")
    return Measurement(living, exact, task, columns, stream, before)


def check_of(check: OperatorCheck, measurement: Measurement | None) -> OperatorCheck:
    """The check by which a threshold is judged: without a measurement the noise is bounded."""
    return check if measurement is not None else replace(check, typical=None)
