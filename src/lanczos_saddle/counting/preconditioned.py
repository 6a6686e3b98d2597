"""Counts from two congruent matrices, one for each threshold (docs/method.md, congruence).

    negative = #{eigenvalues of S'(H + tau I)S below 0},     positive = #{eigenvalues of S'(H - tau I)S above 0}

Each is a run of its own at threshold 0, with its own S and its own Gaussian probes, and makes two one-sided
statements at alpha / 4, which join as those of one run do. No S may depend on the probes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from lanczos_saddle.certificates.cauchy import compress
from lanczos_saddle.certificates.intervals import bracket_at_zero, count_bounds, sampling_width
from lanczos_saddle.counting.allocation import PILOT, divide, pilot
from lanczos_saddle.counting.deepening import deepened
from lanczos_saddle.counting.evidence import CongruentEvidence, SampledEvidence
from lanczos_saddle.counting.planning import FINAL, keep_basis, plan_depth, plan_probes
from lanczos_saddle.counting.result import Counts, Living, Task, announce
from lanczos_saddle.counting.scouting import DIVISIBLE
from lanczos_saddle.defaults import STEPS
from lanczos_saddle.krylov.lanczos import Lanczos
from lanczos_saddle.krylov.witness import Witness
from lanczos_saddle.machine.progress import expect
from lanczos_saddle.machine.streams import Streams
from lanczos_saddle.operators.operator import Operator
from lanczos_saddle.operators.resolution import OperatorCheck, check_resolution, deepest, recurrence_noise
from lanczos_saddle.preconditioning.choice import Prepared, prepare
from lanczos_saddle.preconditioning.congruence import Congruent, Guarded, congruent_check

PHASE_SHARE = 3
"""Of a budget, S takes this part: fewer of the products that count, but a spectrum that they need fewer of."""

LEAST_SIDE = 8
"""Steps of a pilot on one side, at least."""


def congruent_counts(
    task: Task, preconditioner: Any, part: Living | None, streams: dict[str, torch.Generator], most: int | None
) -> Counts:
    """A run at -tau, then one at tau, as deep as each needs.

    An S of the caller's acts on all N coordinates, `part` being None; one made here on the living ones.
    """
    options, budget, operator, zeros = task.options, task.budget, task.operator, 0
    made = isinstance(preconditioner, str)
    own = None if made or isinstance(preconditioner, Tensor) else WatchedFactor.of(Guarded(preconditioner), operator)
    if part is None:
        living: Operator = task.witness.watch(operator, None)
    else:
        living, zeros, alive = part.operator, part.zeros, (~part.dead).nonzero().squeeze(1)
    size = living.shape[0]
    wanted = min(options.steps or STEPS, size)
    check_resolution(task.threshold, task.check, wanted)
    children = Streams(streams["probes"]).split("phase", "first", "second", "noise", "pilot")
    prepared: Prepared | None = None
    if made:
        phase = None if budget.left is None or not options.divides else budget.left // PHASE_SHARE
        prepared = prepare(preconditioner, operator, task.threshold, alive, children["phase"], phase)  # type: ignore[arg-type]
        budget.book("preconditioner", prepared.products)
    matrices = [
        Congruent(living, prepared.at(t) if prepared else own or preconditioner, t)
        for t in (-task.threshold, task.threshold)
    ]
    checks = [congruent_check(matrix, task.check, children["noise"]) for matrix in matrices]
    divided = _divided(task, matrices, children["pilot"], most)
    if divided is None:
        m = plan_probes(options, living, None if budget.left is None else budget.left // 2)
        depth = plan_depth(wanted, 2 * m, budget, asked=options.probes is not None)
        depths, said = (depth, depth), ""
    else:
        m, depths, width = divided
        said = f"{preconditioner if made else 'own S'}, {m} probes x {depths[0]} steps at -tau and {depths[1]} at tau"
        said += f"; widest interval foretold: {width}"
        announce(said)
    keep = keep_basis(options.reorthogonalize, living, m, sum(depths))
    sides, reasons = [], []
    for name, congruent, check, depth in zip(("first", "second"), matrices, checks, depths, strict=True):
        t = congruent.shift
        gaussian = torch.randn(size, m, generator=children[name], dtype=torch.float64)
        run = Lanczos(congruent, gaussian, reorthogonalize=keep, capacity=depth)
        expect(m * (depth + (depths[1] if t < 0 else 0)) + FINAL)
        reason = _deepen(run, check, depth, task, "-tau" if t < 0 else "tau")
        delta = recurrence_noise(check, run.steps)
        compression = compress(run, delta, check.scale) if keep else None
        sides.append(SampledEvidence(run.tridiagonalization(), size + zeros, zeros, delta, compression, most))
        reasons.append(f"at {t:.1e}: {reason}")
    if own is not None:
        own.check()
    both = CongruentEvidence(task.threshold, sides[0], sides[1])
    counts = task.counts(
        both.intervals(task.threshold, options.confidence),
        "lanczos",
        both,
        dead=zeros,
        running={"probes": sum(side.run.products for side in sides)},
        probes=m,
        steps=max(side.run.steps for side in sides),
        stopped="; ".join(reasons),
    )
    return replace(counts, plan=said)


def _divided(
    task: Task, matrices: list[Congruent], generator: torch.Generator, most: int | None
) -> tuple[int, tuple[int, int], int] | None:
    """(probes, (steps at -tau, steps at tau), the width foretold) of a budget, from a pilot on either side.

    None where the caller sets no budget, or says how to divide it. The side whose bracket is wider gets more steps.
    """
    options, budget, size = task.options, task.budget, matrices[0].shape[0]
    if budget.left is None or not options.divides or budget.left < DIVISIBLE:
        return None
    steps = min(max(LEAST_SIDE, int(PILOT * budget.left)), size)
    seen = []
    for matrix in matrices:
        probe = torch.randn(size, 1, generator=generator, dtype=torch.float64)
        seen.append(pilot(matrix, probe, 0.0, steps))
    budget.book("pilot", 2 * steps)
    return divide(seen, budget.left, deepest(task.threshold, task.check, size), options.confidence, most)


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
            summed = witness.scaled(0)
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
