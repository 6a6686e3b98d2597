"""Counts from products alone: dead coordinates, Gaussian probes, Lanczos, brackets, Beta intervals.

Where asked for, negative eigenvectors are enumerated first, from a stream of their own, and taken out: their number
is a lower bound that always holds, and probes count on the complement (`deflation`). The number of probes is fixed
before they are drawn; only the depth of the recurrences adapts, which costs no confidence because brackets nest
(docs/method.md).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from lanczos_saddle.certificates.cauchy import Compression
from lanczos_saddle.certificates.deflation import deflate
from lanczos_saddle.certificates.intervals import Interval, combine
from lanczos_saddle.counting.allocation import Room, allocate, pilot, pilot_steps
from lanczos_saddle.counting.deepening import Deepening
from lanczos_saddle.counting.enumeration import Enumeration, explicit_compression, negative_eigenvectors
from lanczos_saddle.counting.evidence import FixedEvidence
from lanczos_saddle.counting.planning import DEAD, FINAL, keep_basis, plan_depth, plan_probes
from lanczos_saddle.counting.result import Counts, Interrupted, Living, Task
from lanczos_saddle.counting.run_noise import check_of, planned
from lanczos_saddle.counting.scouting import DIVISIBLE, Scout
from lanczos_saddle.counting.scouting import Found as Vectors
from lanczos_saddle.counting.scouting import Plan as Chosen
from lanczos_saddle.defaults import STEPS
from lanczos_saddle.krylov.lanczos import recurrences
from lanczos_saddle.machine.journal import current
from lanczos_saddle.machine.memory import give_back
from lanczos_saddle.machine.progress import expect
from lanczos_saddle.machine.states import Plan, Saver, has_begun, read_plan, read_state
from lanczos_saddle.operators.operator import Operator, Projected
from lanczos_saddle.operators.recorded import recorded
from lanczos_saddle.operators.resolution import check_resolution, deepest
from lanczos_saddle.operators.vectors import gaussian
from lanczos_saddle.structure.blank_inputs import without_coordinates
from lanczos_saddle.structure.facts import dead_coordinates
from lanczos_saddle.structure.null_vectors import check_null


@dataclass(frozen=True)
class Found:
    """Negative eigenvectors that an earlier part of this run enumerated, with their products."""

    basis: Tensor  # (N, c)
    images: Tensor  # (N, c) float64
    compression: Compression
    products: int


def sampled_counts(
    task: Task,
    alive_part: Living,
    streams: dict[str, torch.Generator],
    most: int | None,
    kept: Plan | None = None,
    scouted: tuple[Chosen, Scout] | None = None,
) -> Counts:
    """A plan that is fixed before probes are drawn, `scouted` or made here, then recurrences.

    A state that is there is gone on with, by its own plan, which is `kept`. An interrupt of the recurrences raises
    `Interrupted`, with what is known then; it is saved first.
    """
    options, budget = task.options, task.budget
    probes, steps, state, null_vectors = options.probes, options.steps, options.state, options.null_vectors
    asked = probes is not None
    living, dead, zeros, alive = alive_part.operator, alive_part.dead, alive_part.zeros, alive_part.size
    found: Enumeration | Found | None = None
    converged: Compression | None = None
    deflation = None
    known: list[tuple[Tensor, Tensor]] = []  # vectors and their products
    if null_vectors is not None:
        known.append(check_null(living, null_vectors.to(torch.float64)[~dead.cpu()], task.check))
        budget.book("null vectors", options.nulls)
    if options.enumerate_negative:
        if kept is not None and state is not None:
            found = _enumerated_before(state, kept, living, task)
        else:
            room = None if budget.left is None else budget.left // 2
            found = _enumerated(task, living, streams["enumeration"], most, room)
        budget.book("enumeration", found.products)
        if isinstance(found, Enumeration) and not found.finite:
            return _enumerated_only(task, found, zeros, most)
        known.append((found.basis.to(torch.float64), found.images))
    taken = _taken(task, living, kept, scouted)
    if taken is not None:
        converged = explicit_compression(taken.basis, taken.images, task.check)
        known.append((taken.basis.to(torch.float64), taken.images))
    measurement = planned(task, living, dead, streams["dead"], None if kept is None else kept.measured)
    task = replace(task, check=check_of(task.check, measurement))
    check, target = task.check, living if measurement is None else measurement.operator
    columns = sum(vectors.shape[1] for vectors, _ in known)
    if 0 < columns < alive:
        basis, images = (torch.cat(parts, dim=1) for parts in zip(*known, strict=True))
        vectors, deflation, check = deflate(basis, images, check)
        target = Projected(living, vectors.to(living.dtype)) if measurement is None else measurement.project(vectors)
    size = alive - (deflation.size if deflation else 0)

    def draw(count: int, stream: str) -> Tensor:
        """Gaussian probes in the space that is left."""
        probe = gaussian(target, count, streams[stream])
        return probe if deflation is None else Projected(target, vectors).project(probe.to(living.device))

    piloted = 0
    if kept is not None:
        probes, piloted = kept.probes, kept.pilot
        if steps is None and kept.steps is not None:
            same = budget.most == kept.max_products
            steps = kept.steps if same else deepest(task.threshold, check, size)
    elif scouted is not None:
        probes, steps, piloted = scouted[0].probes, scouted[0].steps, budget.spent.get("pilot", 0)
    elif budget.left is not None and probes is None and steps is None and budget.left >= DIVISIBLE:
        room = budget.left  # of a space from which vectors were taken that the preflight's recurrence still has
        seen = pilot(target, draw(1, "pilot"), task.threshold, pilot_steps(room, size))
        piloted = seen.steps
        left = Room(room - piloted, size, deepest(task.threshold, check, size))
        plan = allocate([seen], left, options.confidence)
        probes, steps = plan.probes, plan.steps
        budget.book("pilot", piloted)
    if kept is not None:
        budget.book("pilot", piloted)
        budget.book("deflation", kept.deflation)
    m = (
        kept.probes
        if kept is not None
        else plan_probes(replace(options, probes=probes, steps=steps), target, budget.left)
    )
    depth = plan_depth(min(steps or STEPS, size), m, budget, asked=asked)
    check_resolution(task.threshold, check, depth)
    keep = kept.reorthogonalize if kept is not None else keep_basis(options.reorthogonalize, target, m, depth)
    if (journal := current()) is not None:
        journal.stop()  # the recurrence is saved as a whole
    multiplied = target if measurement is None else measurement.watched(basis=keep)
    give_back()  # what was taken out, scouted or measured
    run = recurrences(multiplied, draw(m, "probes"), reorthogonalize=keep, capacity=depth)
    if kept is not None and state is not None:
        beside = run.resume(state, noise=check.noise)
        task.witness.resume(beside)
        if measurement is not None:
            measurement.resume(beside)
    plan_kept = kept and replace(kept, beginning=task.beginning.facts())
    plan_kept = plan_kept or Plan(
        task.threshold,
        m,
        keep,
        steps if piloted or scouted is not None else None,
        budget.most,
        piloted,
        found.products if found else None,
        options.nulls,
        measurement is not None,
        budget.spent.get("deflation", 0),
        0 if taken is None else taken.basis.shape[1],
        "" if scouted is None else str(scouted[0]),
        task.beginning.facts(),
        options.beside,
    )
    before: dict[str, Tensor] = {}
    if found:
        before |= {"enumerated": found.basis, "enumerated_images": found.images}
    if taken is not None:
        before |= {"taken": taken.basis, "taken_images": taken.images}

    def tensors() -> dict[str, Tensor]:
        return {
            **before,
            **task.beginning.tensors(),
            **task.witness.tensors(),
            **({} if measurement is None else measurement.tensors()),
        }

    save = Saver(state, lambda path, facts: run.save(path, facts, tensors()), plan_kept)
    enumerated = found.compression if found else converged
    deepening = Deepening(
        run,
        task.threshold,
        options.confidence,
        options.precision,
        check,
        zeros,
        most,
        enumerated,
        deflation,
        measurement,
    )

    def counts(stopped: str, *, final: bool) -> Counts:
        evidence = deepening.evidence(final=final)
        if measurement is not None:
            budget.spent["noise"] = measurement.products  # what was booked is the most
        answer = task.counts(
            evidence.intervals(task.threshold, options.confidence),
            "lanczos",
            evidence,
            dead=zeros,
            running={"probes": run.products},
            probes=m,
            steps=run.steps,
            stopped=stopped,
        )
        return replace(answer, unsaved=save.failure, plan=plan_kept.way)

    expect(m * (depth - run.steps) + FINAL)
    try:
        return counts(deepening.extend(depth, progress=options.progress, save=save), final=True)
    except KeyboardInterrupt as interrupt:
        if run.steps == 0:
            raise
        save()
        raise Interrupted(counts("interrupted", final=False)) from interrupt


def kept_plan(task: Task) -> Plan | None:
    """That of a state that is there, if what was asked for agrees with it; raises ValueError where it does not."""
    options, state = task.options, task.options.state
    if state is None or not has_begun(state):
        return None
    kept = read_plan(state)
    asked = {
        "probes": options.probes,
        "enumerate_negative": options.enumerate_negative,
        "null_vectors": options.nulls,
        "beside": options.beside,
    }
    kept.check_same(state, task.threshold, options.reorthogonalize, asked)
    return kept


def _taken(task: Task, living: Operator, kept: Plan | None, scouted: tuple[Chosen, Scout] | None) -> Vectors | None:
    """The vectors that a plan takes out, or those of a state; ValueError where they are of another space."""
    if kept is not None and kept.taken:
        assert task.options.state is not None
        tensors = read_state(task.options.state, ("taken", "taken_images"), living.device)
        if len(tensors["taken"]) != living.shape[0] or tensors["taken"].dtype != living.dtype:
            raise ValueError(f"{task.options.state} belongs to another operator: name another file")
        return Vectors(tensors["taken"], tensors["taken_images"])
    return scouted[1].vectors(task.threshold) if scouted is not None and scouted[0].vectors else None


def living_part(task: Task, generator: torch.Generator) -> Living:
    """The operator without its dead coordinates, which two products find."""
    dead = task.beginning.dead
    if dead is None:
        task.beginning.dead = dead = dead_coordinates(recorded(task.operator, "H"), generator=generator)
    task.budget.book("dead", DEAD)
    zeros = int(dead.sum())
    if zeros == len(dead):
        return Living(task.operator, dead, zeros)
    living = recorded(without_coordinates(task.operator, dead), "living")
    return Living(task.witness.watch(living, ~dead), dead, zeros)


def _enumerated_before(state: Path, kept: Plan, living: Operator, task: Task) -> Found:
    """The negative eigenvectors of a state; raises ValueError where they are of another space."""
    tensors = read_state(state, ("enumerated", "enumerated_images"), living.device)
    basis, images = tensors["enumerated"], tensors["enumerated_images"]
    if len(basis) != living.shape[0] or basis.dtype != living.dtype:
        raise ValueError(f"{state} belongs to another operator: name another file")
    return Found(basis, images, explicit_compression(basis, images, task.check), kept.enumerated or 0)


def _enumerated(
    task: Task, living: Operator, generator: torch.Generator, most: int | None, room: int | None
) -> Enumeration:
    """Negative eigenvectors, for at most `room`, half of what the budget leaves; checks a claimed upper bound."""
    found = negative_eigenvectors(
        living,
        task.threshold,
        task.check,
        generator=generator,
        most=most,
        max_products=room,
        progress=task.options.progress,
    )
    if most is not None and found.at_least > most:
        raise ValueError(
            f"a bound on the negative eigenvalues must be one that can be proved; got {most}, but {found.at_least} "
            "were found and certified: correct negative_at_most where it was passed"
        )
    return found


def _enumerated_only(task: Task, found: Enumeration, zeros: int, most: int | None) -> Counts:
    """What an enumeration proved, where products are no longer finite: no probe can be counted with."""
    size, least = task.operator.shape[0], found.at_least
    upper = size - zeros if most is None else min(most, size - zeros)
    intervals = combine(Interval(least, float(least), upper), Interval(0, 0.0, size - zeros - least), size, zeros)
    known = FixedEvidence(task.threshold, intervals, size, zeros)
    return task.counts(intervals, "lanczos", known, dead=zeros, stopped=found.stopped)


def all_dead(task: Task) -> Counts:
    """The counts of an operator whose rows are all zero."""
    none, size = Interval(0, 0.0, 0), task.operator.shape[0]
    zero = Interval(size, float(size), size)
    known = FixedEvidence(None, (none, zero, none), size, size)
    return task.counts(known.answer, "lanczos", known, dead=size, stopped="every row is zero")
