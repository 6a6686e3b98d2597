"""Counts from two congruent matrices, one for each threshold (docs/method.md, congruence).

    negative = #{eigenvalues of S'(H + tau I)S below 0},     positive = #{eigenvalues of S'(H - tau I)S above 0}

Each is a run of its own at threshold 0, with its own S and its own Gaussian probes, and makes two one-sided
statements at alpha / 4, which join as those of one run do. No S may depend on the probes. Of several thresholds each
has such a pair; one S is made for all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from lanczos_saddle.certificates.cauchy import compress
from lanczos_saddle.certificates.intervals import (
    Bounds,
    Masses,
    Outside,
    bracket_at_zero,
    count_bounds,
    joint_intervals,
    sampling_width,
)
from lanczos_saddle.certificates.quadrature import Bracket
from lanczos_saddle.counting.allocation import PILOT, divide, pilot
from lanczos_saddle.counting.deepening import deepened
from lanczos_saddle.counting.evidence import (
    CongruentEvidence,
    Evidence,
    FixedEvidence,
    RunAt,
    SampledEvidence,
    SeveralEvidence,
)
from lanczos_saddle.counting.planning import FINAL, keep_basis, plan_depth, plan_probes
from lanczos_saddle.counting.result import Counts, Interrupted, Living, Task, announce
from lanczos_saddle.counting.scouting import DIVISIBLE
from lanczos_saddle.defaults import STEPS
from lanczos_saddle.krylov.lanczos import Lanczos
from lanczos_saddle.krylov.witness import Witness
from lanczos_saddle.machine.progress import expect
from lanczos_saddle.machine.streams import Streams
from lanczos_saddle.operators.operator import Operator
from lanczos_saddle.operators.recorded import recorded
from lanczos_saddle.operators.resolution import OperatorCheck, check_resolution, deepest, recurrence_noise
from lanczos_saddle.preconditioning.choice import prepare
from lanczos_saddle.preconditioning.congruence import Congruent, Guarded, congruent_check

PHASE_SHARE = 3
"""Of a budget, S takes this part: fewer of the products that count, but a spectrum that they need fewer of."""

LEAST_SIDE = 8
"""Steps of a pilot on one side, at least."""


@dataclass(frozen=True)
class Setting:
    """What the runs at all thresholds of a call share."""

    task: Task
    living: Operator
    zeros: int  # dead coordinates
    most: int | None  # a proved bound on the negative eigenvalues
    factor: Callable[[float], Any]  # S for the threshold t
    name: str  # of S


@dataclass(frozen=True)
class Pair:
    """The two matrices of one threshold, at -tau and at tau, and the streams that are theirs."""

    threshold: float
    matrices: tuple[Congruent, Congruent]
    checks: tuple[OperatorCheck, OperatorCheck]
    streams: dict[str, torch.Generator]


@dataclass(frozen=True)
class Division:
    """What is planned for a pair before its probes are drawn."""

    probes: int
    depths: tuple[int, int]
    width: int | None = None  # foretold by a pilot; None without one

    @property
    def products(self) -> int:
        """At most, of both runs."""
        return self.probes * sum(self.depths)

    def __str__(self) -> str:
        return f"{self.probes} probes x {self.depths[0]} steps at -tau and {self.depths[1]} at tau"


@dataclass(frozen=True)
class Finished:
    """The two runs of a pair."""

    evidence: CongruentEvidence
    probes: int
    steps: int
    products: int
    stopped: str


def congruent_counts(
    task: Task, preconditioner: Any, part: Living | None, streams: dict[str, torch.Generator], most: int | None
) -> Counts:
    """For every threshold of the task, the smallest first, a run at -tau and one at tau, as deep as each needs.

    An S of the caller's acts on all N coordinates, `part` being None; one made here on the living ones, and is made
    once for all thresholds, which get equal parts of a budget.
    """
    options, own = task.options, None
    if not isinstance(preconditioner, str | Tensor):
        own = WatchedFactor.of(Guarded(preconditioner), task.operator)
    living: Operator = task.witness.watch(recorded(task.operator, "H"), None) if part is None else part.operator
    check_resolution(task.threshold, task.check, min(options.steps or STEPS, living.shape[0]))
    parent = Streams(streams["probes"])
    first = parent.split("phase", "first", "second", "noise", "pilot")
    children = [first, *(parent.split("first", "second", "noise", "pilot") for _ in options.beside)]
    if part is not None and isinstance(preconditioner, str):
        factor, name = _prepared(task, preconditioner, part, first["phase"]), preconditioner
    else:
        factor, name = partial(_always, own or preconditioner), "own S"
    setting = Setting(task, living, 0 if part is None else part.zeros, most, factor, name)
    pairs = [_pair(setting, tau, child) for tau, child in zip(task.thresholds, children, strict=True)]
    divisions = _divisions(setting, pairs)
    said = _said(setting, pairs, divisions)
    if said:
        announce(said)
    done: list[Finished] = []
    try:
        for i, (pair, division) in enumerate(zip(pairs, divisions, strict=True)):
            done.append(_finished(setting, pair, division, sum(other.products for other in divisions[i + 1 :])))
    except KeyboardInterrupt as stop:
        known = stop.counts if isinstance(stop, Interrupted) else None
        if done:  # of this pair only what it took is told
            known = _counts(setting, done, "interrupted", 0 if known is None else known.spent["probes"])
        if known is None:
            raise
        raise Interrupted(replace(known, plan=said)) from stop
    if own is not None:
        own.check()
    return replace(_counts(setting, done, "; ".join(one.stopped for one in done)), plan=said)


def _always(factor: Any, t: float) -> Any:  # noqa: ARG001
    return factor


def _prepared(task: Task, name: str, part: Living, generator: torch.Generator) -> Callable[[float], Any]:
    """S for any threshold of the task; its products are booked."""
    budget, alive = task.budget, (~part.dead).nonzero().squeeze(1)
    phase = None if budget.left is None or not task.options.divides else budget.left // PHASE_SHARE
    prepared = prepare(name, task.operator, task.threshold, alive, generator, phase)  # type: ignore[arg-type]
    budget.book("preconditioner", prepared.products)
    return prepared.at


def _pair(setting: Setting, tau: float, streams: dict[str, torch.Generator]) -> Pair:
    """The two matrices of a threshold, S looked at; no product of H."""
    low, high = (Congruent(setting.living, setting.factor(t), t) for t in (-tau, tau))
    check, noise = setting.task.check, streams["noise"]
    return Pair(tau, (low, high), (congruent_check(low, check, noise), congruent_check(high, check, noise)), streams)


def _counts(setting: Setting, done: list[Finished], stopped: str, beside: int = 0) -> Counts:
    """At the smallest threshold, with what is known at the others; `beside`: products of a pair that did not finish."""
    task, first = setting.task, done[0]
    known: Evidence = first.evidence
    if len(done) > 1:
        known = SeveralEvidence(
            tuple(RunAt(one.evidence.threshold, one.evidence, one.probes, one.steps) for one in done)
        )
    return task.counts(
        first.evidence.intervals(task.threshold, task.options.confidence),
        "lanczos",
        known,
        dead=setting.zeros,
        running={"probes": sum(one.products for one in done) + beside},
        probes=first.probes,
        steps=first.steps,
        stopped=stopped,
    )


def _finished(setting: Setting, pair: Pair, division: Division, later: int) -> Finished:
    """The runs of a pair, which ends as it was planned or before; `later`: products of the pairs that follow.

    An interrupt raises `Interrupted`, with what is known of this pair, where its first run has begun.
    """
    task, m, size = setting.task, division.probes, setting.living.shape[0]
    keep = keep_basis(task.options.reorthogonalize, setting.living, m, sum(division.depths))
    sides, reasons, runs = [], [], list[Lanczos]()
    try:
        for side, name in enumerate(("first", "second")):
            matrix, check, depth = pair.matrices[side], pair.checks[side], division.depths[side]
            gaussian = torch.randn(size, m, generator=pair.streams[name], dtype=torch.float64)
            run = Lanczos(matrix, gaussian, reorthogonalize=keep, capacity=depth)
            runs.append(run)
            expect(m * sum(division.depths[side:]) + later + task.budget.reserved + FINAL)
            reason = _deepen(run, check, depth, task, "tau" if side else "-tau")
            delta = recurrence_noise(check, run.steps)
            compression = compress(run, delta, check.scale) if keep else None
            coefficients, whole = run.tridiagonalization(), size + setting.zeros
            sides.append(SampledEvidence(coefficients, whole, setting.zeros, delta, compression, setting.most))
            reasons.append(f"at {matrix.shift:.1e}: {reason}")
    except KeyboardInterrupt as interrupt:
        if runs and runs[0].steps:
            raise Interrupted(_so_far(setting, pair, runs)) from interrupt
        raise
    both = CongruentEvidence(pair.threshold, sides[0], sides[1])
    made = sum(side.run.products for side in sides)
    return Finished(both, m, max(side.run.steps for side in sides), made, "; ".join(reasons))


def _so_far(setting: Setting, pair: Pair, runs: list[Lanczos]) -> Counts:
    """What an interrupted pair knows: of a side that has not begun, nothing."""
    task, zeros = setting.task, setting.zeros
    brackets = [Bracket(0.0, 1.0), Bracket(0.0, 1.0)]
    for i, (run, check) in enumerate(zip(runs, pair.checks, strict=False)):
        if run.steps:
            brackets[i] = bracket_at_zero(run.tridiagonalization(), recurrence_noise(check, run.steps))
    size, confidence, m = runs[0].operator.shape[0], task.options.confidence, runs[0].probes
    outside, bounds = Outside(zeros=zeros), Bounds(negative_most=setting.most)
    intervals = joint_intervals(Masses(*brackets), bounds, probes=m, size=size, confidence=confidence, outside=outside)
    return task.counts(
        intervals,
        "lanczos",
        FixedEvidence(task.threshold, intervals, size + zeros, zeros),
        dead=zeros,
        running={"probes": sum(run.products for run in runs)},
        probes=m,
        steps=max(run.steps for run in runs),
        stopped="interrupted",
    )


def _divisions(setting: Setting, pairs: list[Pair]) -> list[Division]:
    """How the products are divided: equally between pairs; within one by pilots, where a budget is all that was chosen.

    Parts that are too small for a pilot each are divided as that of the smallest threshold foretells.
    """
    options, budget, size = setting.task.options, setting.task.budget, setting.living.shape[0]
    wanted, left = min(options.steps or STEPS, size), budget.left
    enough = DIVISIBLE if len(pairs) == 1 else 4 * LEAST_SIDE
    if left is None or not options.divides or left < enough:
        m = plan_probes(options, setting.living, None if left is None else left // (2 * len(pairs)))
        depth = plan_depth(wanted, 2 * m * len(pairs), budget, asked=options.probes is not None)
        return [Division(m, (depth, depth))] * len(pairs)
    share = left // len(pairs)
    if share >= DIVISIBLE:
        return [_divided(setting, pair, share, share) for pair in pairs]
    one = _divided(setting, pairs[0], share, (left - 2 * LEAST_SIDE) // len(pairs) + 2 * LEAST_SIDE)
    return [one] * len(pairs)


def _divided(setting: Setting, pair: Pair, looked: int, share: int) -> Division:
    """Of `share` products, from a pilot on either side with a part of `looked`, which it is taken from.

    The side whose bracket is wider gets more steps.
    """
    task, size = setting.task, setting.living.shape[0]
    steps = min(max(LEAST_SIDE, int(PILOT * looked)), size)
    seen = []
    for matrix in pair.matrices:
        probe = torch.randn(size, 1, generator=pair.streams["pilot"], dtype=torch.float64)
        seen.append(pilot(matrix, probe, 0.0, steps))
    task.budget.book("pilot", 2 * steps)
    deep = deepest(pair.threshold, task.check, size)
    return Division(*divide(seen, share - 2 * steps, deep, task.options.confidence, setting.most))


def _said(setting: Setting, pairs: list[Pair], divisions: list[Division]) -> str:
    """The plan in words; nothing where none was made."""
    widths = [division.width for division in divisions if division.width is not None]
    if not widths:
        return ""
    if len(pairs) == 1:
        return f"{setting.name}, {divisions[0]}; widest interval foretold: {widths[0]}"
    each = (f"{division} of {pair.threshold:.1e}" for pair, division in zip(pairs, divisions, strict=True))
    return f"{setting.name}, {', '.join(each)}; widest interval foretold: {max(widths)}"


@dataclass(frozen=True)
class WatchedFactor:
    """An S of the caller's, each of whose products, and those of S', one product of the same verifies in the end."""

    base: Guarded
    products: Witness
    transposed: Witness

    @staticmethod
    def of(base: Guarded, operator: Operator) -> WatchedFactor:
        """For an S of the operator's size, type and device."""
        both = Witness(), Witness()
        for witness in both:
            witness.watch(operator)
        return WatchedFactor(base, *both)

    @property
    def mT(self) -> WatchedFactor:
        """S'."""
        return WatchedFactor(self.base.mT, self.transposed, self.products)

    def __matmul__(self, v: Tensor, /) -> Tensor:
        product = self.base @ v
        self.products.add(v, product)
        return product

    def check(self) -> None:
        """Refuse an S that was not one matrix, or its transpose, to the root of the rounding; raises ValueError."""
        for factor, witness in ((self.base, self.products), (self.base.mT, self.transposed)):
            summed = witness.scaled()
            if summed is None:
                continue
            x, y = summed
            difference, size = float((factor @ x[:, None]).sub(y[:, None]).norm()), float(y.norm())
            if not difference <= torch.finfo(torch.float64).eps ** 0.5 * size:
                raise ValueError(
                    "a preconditioner S must stay the same while it is used; the product of a combination of all "
                    f"vectors, made at the end, differs by {difference / max(size, 1e-300):.1e} of its size: see that "
                    "a block gives the products of its columns, and that nothing changes in between"
                )


def _deepen(run: Lanczos, check: OperatorCheck, depth: int, task: Task, side: str) -> str:
    """Run until the count on this side is known to half the wanted precision; returns why it stopped."""
    size, options = run.operator.shape[0], task.options

    def judge() -> tuple[str, str]:
        coefficients = run.tridiagonalization()
        bracket = bracket_at_zero(coefficients, recurrence_noise(check, run.steps))
        low, high = count_bounds(bracket, probes=run.probes, size=size, confidence=options.confidence)
        noise = sampling_width(bracket, probes=run.probes, size=size, confidence=options.confidence)
        reason = run.ending
        if not reason and (coefficients.lengths < run.steps).all():
            reason = "every Krylov space has closed"
        elif not reason and high - low <= options.precision * size:
            reason = "the wanted precision is reached"
        elif not reason and high - low <= 1.1 * noise + 1:
            reason = "probe noise dominates: more steps would not narrow the intervals"
        return reason, f"so far below {side} [{low}, {high}]"

    return deepened(run, depth, judge, progress=options.progress)
