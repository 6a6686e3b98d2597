"""Several thresholds of one call that one run does not serve: the small ones have an S, the others one run without.

    tau_1 < ... < tau_s    congruent runs at -tau_i and tau_i each, with one S for all of them (`preconditioned`)
    tau_{s+1} < ...        one run that answers for all of these (`sampled`)

Each threshold states its own three intervals at its share of chance, so all are right together, whatever runs they
share. Each gets the same part of a budget: widths fall about as 1 / products, and their geometric mean is least there.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from lanczos_saddle.counting.evidence import EliminatedEvidence, RunAt, SeveralEvidence
from lanczos_saddle.counting.preconditioned import congruent_counts
from lanczos_saddle.counting.result import Counts, Interrupted, Living, Task, announce
from lanczos_saddle.counting.sampled import sampled_counts
from lanczos_saddle.counting.scouting import Plan, Scout
from lanczos_saddle.preconditioning.choice import PAYS

HOPELESS = 0.45
"""Where a plain run is foretold to leave intervals wider than this share of N, an S is made if one can be."""


ENOUGH = 240
"""Products with which an S leaves a quarter of N; of several thresholds, all of which one run without S serves with all
products, none gets an S where its part is smaller."""


def hopeless(plan: Plan, size: int) -> bool:
    """Whether a run without S is foretold to leave so wide intervals that one is made, if it may be."""
    return plan.way == "plain" and plan.width > HOPELESS * size


def need_factor(scout: Scout, plan: Plan, most: int | None) -> tuple[float, ...]:
    """The thresholds that get an S, if one may be made: up to the largest one at which a run without S is hopeless.

    None where their parts of the budget are small. A state keeps runs of one kind: all thresholds get an S, or none.
    """
    task, left = scout.task, scout.task.budget.left
    if task.options.beside and left is not None and left < ENOUGH * len(task.thresholds):
        return ()
    widths = scout.widths(plan, most)
    able = [tau for tau in task.thresholds if tau <= PAYS * task.check.scale]
    bad = [
        tau
        for tau, width in zip(task.thresholds, widths, strict=True)
        if tau in able and hopeless(replace(plan, width=width), scout.living.size)
    ]
    small = tuple(tau for tau in able if bad and tau <= max(bad))
    return small if task.options.state is None or small == task.thresholds else ()


def counts_with_factor(
    task: Task,
    part: Living,
    streams: dict[str, torch.Generator],
    most: int | None,
    small: tuple[float, ...],
    scouted: tuple[Plan, Scout] | None,
) -> Counts:
    """Counts with an S at the `small` thresholds, the smallest of all among them, and without one at the others.

    What the runs with S leave of their part of a budget goes to the other. An interrupt says what is known of the
    smallest threshold.
    """
    rest = tuple(tau for tau in task.thresholds if tau not in small)
    if not rest:
        return congruent_counts(task, "subset", part, streams, most)
    budget, plan = task.budget, None
    if budget.left is not None:
        budget.reserved = budget.left * len(rest) // len(task.thresholds)
    first = congruent_counts(task.at(small), "subset", part, streams, most)
    budget.book("probes", first.spent["probes"])
    budget.reserved, other = 0, task.at(rest)
    try:
        if scouted is not None and budget.left is not None:
            scout = scouted[1].for_task(other)
            plan = scout.plan(budget.left, most, deflates=False), scout
            announce(str(plan[0]))
        second = sampled_counts(other, part, streams, most, None, plan)
    except KeyboardInterrupt as stop:  # before a probe of the other run, too: those with S are done
        booked = replace(first, products=budget.total, spent=budget.with_running({}))
        costs = stop.counts if isinstance(stop, Interrupted) else booked
        raise Interrupted(replace(_with_costs(first, costs), stopped="interrupted")) from stop
    return _joined(first, second, rest)


def _joined(first: Counts, second: Counts, rest: tuple[float, ...]) -> Counts:
    """One result at the threshold of the first, its costs those of the second, which came later."""
    known = first.evidence
    runs = (
        known.runs
        if isinstance(known, SeveralEvidence)
        else (RunAt(first.threshold, known, first.probes, first.steps),)
    )
    others = tuple(RunAt(tau, second.evidence, second.probes, second.steps) for tau in rest)
    plan = "; ".join(plan for plan in (first.plan, second.plan) if plan)
    return replace(_with_costs(first, second), evidence=SeveralEvidence((*runs, *others)), plan=plan)


def _with_costs(first: Counts, second: Counts) -> Counts:
    """The first, with what both took, as the second tells, and why both ended."""
    ended = f"{first.stopped}; {second.stopped}"
    return replace(first, products=second.products, seconds=second.seconds, spent=second.spent, stopped=ended)


def of_one_run(counts: Counts) -> Counts:
    """The same with what answers for its threshold alone, where the call had several runs."""
    known = counts.evidence
    several = known.sampled if isinstance(known, EliminatedEvidence) else known
    if not isinstance(several, SeveralEvidence):
        return counts
    run = several.at(counts.threshold)
    evidence = replace(known, sampled=run.evidence) if isinstance(known, EliminatedEvidence) else run.evidence
    return replace(counts, evidence=evidence, probes=run.probes, steps=run.steps)
