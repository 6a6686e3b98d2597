"""How many eigenvalues are negative, near zero, positive: the question this package answers.

    negative = #{lambda < -tau},   near_zero = #{|lambda| <= tau},   positive = #{lambda > tau}

Matrix-free (`sampled_counts`) or exact (`exact_counts`); everything that can be refused is refused before either.
Where one layer of a piecewise-linear network holds almost all parameters, the negative ones are counted without chance
beside the sampled run (`elimination`).
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, overload

import torch
from torch import Tensor

from lanczos_saddle.certificates.intervals import check_positive, settle_negative
from lanczos_saddle.counting.beginning import Beginning, beginning_of
from lanczos_saddle.counting.deepening import read_as
from lanczos_saddle.counting.eliminated import can_eliminate, least_elimination, negative_count_by_elimination
from lanczos_saddle.counting.evidence import EliminatedEvidence
from lanczos_saddle.counting.exact import INERTIA_SIZE, exact_counts, takes_inertia
from lanczos_saddle.counting.options import Budget, Options, thresholds
from lanczos_saddle.counting.planning import (
    FINAL,
    LEAST_PROBES,
    check_budget,
    least_products,
    plan_search,
    products_to_come,
)
from lanczos_saddle.counting.preconditioned import congruent_counts
from lanczos_saddle.counting.result import (
    Counts,
    Interrupted,
    JointCounts,
    Living,
    Task,
    announce,
    halved_counts,
    unscaled_counts,
)
from lanczos_saddle.counting.sampled import all_dead, kept_plan, living_part, sampled_counts
from lanczos_saddle.counting.scouting import DIVISIBLE, Plan, Scout, keeps_basis
from lanczos_saddle.counting.several import counts_with_factor, need_factor, of_one_run
from lanczos_saddle.defaults import CONFIDENCE, EXACT_SIZE, PRECISION, STEPS
from lanczos_saddle.dense.exact import CHECKED, Dense, check_memory, closed_matrix, for_inertia
from lanczos_saddle.dense.over_ranks import DenseOverRanks
from lanczos_saddle.krylov.largest import continue_search
from lanczos_saddle.krylov.preflight import (
    SMALLEST,
    OutOfRange,
    Preflight,
    allowed_change,
    preflight,
    preflight_products,
    unchanged,
)
from lanczos_saddle.machine.journal import Foreign, Journal, current, keeping
from lanczos_saddle.machine.locks import held
from lanczos_saddle.machine.memory import available_bytes, give_back
from lanczos_saddle.machine.progress import expect, foretelling
from lanczos_saddle.machine.states import chosen_state, has_begun, read_plan
from lanczos_saddle.machine.streams import Streams
from lanczos_saddle.operators.hermitian import Hermitian
from lanczos_saddle.operators.inference import differentiable
from lanczos_saddle.operators.knowledge import NOTHING, Knowledge
from lanczos_saddle.operators.leading import led
from lanczos_saddle.operators.operator import Operator, as_operator, precise
from lanczos_saddle.operators.resolution import SAFETY, check_resolution
from lanczos_saddle.operators.scalars import real
from lanczos_saddle.operators.scaling import exponent_to_one, scaled, times
from lanczos_saddle.operators.vectors import space_of
from lanczos_saddle.preconditioning.choice import pays, phase_products
from lanczos_saddle.preconditioning.congruence import Factor
from lanczos_saddle.structure.know import know

UNBOUNDED = LEAST_PROBES * STEPS
"""Products that a pilot without a budget looks ahead to."""

SEARCHED = 0.1
"""Two searches for the largest |eigenvalue|, one of them of nine steps, may differ by this share."""


@overload
def count_eigenvalues(
    operator: Any,
    *,
    threshold: float | None = None,
    relative_threshold: float | None = None,
    method: Literal["auto", "exact", "lanczos", "elimination"] = "auto",
    confidence: float = CONFIDENCE,
    precision: float = PRECISION,
    probes: int | None = None,
    steps: int | None = None,
    max_products: int | None = None,
    reorthogonalize: bool | Literal["auto"] = "auto",
    negative_at_most: int | None = None,
    enumerate_negative: bool = False,
    null_vectors: Tensor | None = None,
    preconditioner: Literal["auto", "ekfac", "subset"] | Factor | None = "auto",
    generator: torch.Generator | None = None,
    progress: bool = False,
    state: str | Path | None = None,
    checkpoint: str | Path | None = None,
) -> Counts: ...


@overload
def count_eigenvalues(operator: Any, *, threshold: Sequence[float], **options: Any) -> JointCounts: ...


@overload
def count_eigenvalues(operator: Any, *, relative_threshold: Sequence[float], **options: Any) -> JointCounts: ...


@led  # type: ignore[misc]  # the forms for several thresholds take the same options
@differentiable
def count_eigenvalues(
    operator: Any,
    *,
    threshold: float | Sequence[float] | None = None,
    relative_threshold: float | Sequence[float] | None = None,
    method: Literal["auto", "exact", "lanczos", "elimination"] = "auto",
    confidence: float = CONFIDENCE,
    precision: float = PRECISION,
    probes: int | None = None,
    steps: int | None = None,
    max_products: int | None = None,
    reorthogonalize: bool | Literal["auto"] = "auto",
    negative_at_most: int | None = None,
    enumerate_negative: bool = False,
    null_vectors: Tensor | None = None,
    preconditioner: Literal["auto", "ekfac", "subset"] | Factor | None = "auto",
    generator: torch.Generator | None = None,
    progress: bool = False,
    state: str | Path | None = None,
    checkpoint: str | Path | None = None,
) -> Counts | JointCounts:
    """Count the eigenvalues below -tau, within [-tau, tau] and above tau, as intervals that hold jointly.

    Args:
        operator: anything `as_operator` takes: `Hessian`, a dense matrix, a linear operator.
        threshold: tau > 0, absolute. Or
        relative_threshold: tau as a fraction of the largest |eigenvalue|, as a short run from a vector of its own finds
            it first: to 1e-6, or, within a budget, a lower bound that may be some percent off where the largest
            |eigenvalue| does not stand apart. `Counts.threshold` is the tau that was counted at, exactly.
            Several of either: `JointCounts`, one `Counts` for each, all right together with `confidence`: from one run,
            and where that is foretold to be hopeless from runs with an S, which is made once for all of them.
        method: "lanczos" (products alone), "exact" (N products and N^2 numbers of memory: all eigenvalues up to
            N = 3000, inertia at -tau and tau beyond; the options of the recurrences mean nothing to it), "elimination"
            (bounds without chance on the negative eigenvalues, `elimination`, at half the budget, beside the sampled
            run that the other two counts need), or "auto": exact up to N = 3000, elimination beyond that where it
            leaves at most N / 50 parameters, unless probes, steps, max_products, a state
            or a preconditioner are given; exact, too, where max_products allows it and memory does.
        confidence: of the three intervals together; at most a share 1 - confidence of runs misses any count.
        precision: stop when every half-width is below this fraction of N; it also plans the probes.
        probes: independent Gaussian probes, fixed beforehand; 4 to 64 if not given, planned from N and `precision`.
        steps: at most this many products per probe, at most N; 400 (or N) if not given.
        max_products: at most this many products in all, preflight included. Without probes and steps it is planned
            what they are spent on: all eigenvalues where the budget reaches (method="auto"), else probes and depth, or
            vectors that are taken out first (`scouting`), or an S, as the recurrence of the preflight foretells widths,
            at a twelfth of the budget. `Counts.plan` says it, and the log "lanczos_saddle" before the long part.
        reorthogonalize: keep the basis (probes * steps * N numbers); "auto": when it fits half the free memory.
        negative_at_most: a bound on all eigenvalues below 0 that the caller can prove; that of
            `structure.negative_bound` is used by itself where the operator has a recognized `problem`.
        enumerate_negative: find the negative eigenvectors one by one first (`negative_eigenvectors`): their number is a
            lower bound that always holds, and the count is exact where it meets the upper one. About ten products
            for each, and a basis of up to 4096 vectors; at most half of `max_products`.
        null_vectors: (N, z), independent vectors that the operator sends to zero, such as those of `softmax_shift`:
            they are taken out of the probes' space and counted near zero; z products check them.
        preconditioner: S for a run on S'(H - tI)S at each threshold, which counts the same whatever the nonsingular
            S is, and closes faster with S near |H - tI|^(-1/2). "ekfac" or "subset" make one for a network, "auto"
            takes "subset" where tau is at most 1e-4 of the largest |eigenvalue| and a plain run is foretold to leave
            intervals wider than 0.45 N, None makes none; or anything with ``S @ v`` and ``S.mT @ v``, a dense tensor
            say, fixed before the call; that it is nonsingular is the caller's promise. Needs float64; such a run
            answers for its own threshold only.
        generator: seeds everything random, drawn on the CPU; seed 0 if not given, so runs repeat.
        progress: a bar on stderr with the current intervals.
        state: a file from which the count goes on, and to which it is saved every five minutes and by an interrupt:
            every product until the recurrences have begun (N numbers each, at most half of the free disk), then the
            recurrences in their place, at every look. With a preconditioner, and where the matrix is assembled,
            products to the end. One run at a time may use it. The same call goes on to the answer of one that was
            not interrupted, to the last bit; some twenty products are made again, which show that the operator is
            the same. Saved recurrences keep what their file says (threshold, probes, basis kept or not), and may be
            asked for more. What cannot be saved is warned of; `Counts.unsaved` says why.
        checkpoint: the old name of `state`, for one release.

    Raises:
        ValueError: bad arguments; an operator that fails `check_operator`; a threshold that the operator's noise
            cannot resolve; memory that cannot suffice; a state of another run, or one in use. All before the long
            part starts.
        Interrupted: a KeyboardInterrupt that carries the counts known so far, where the recurrences had begun.
    """
    state = chosen_state(state, checkpoint)
    base = as_operator(operator)
    one, several = thresholds(threshold, relative_threshold)
    options = Options(
        **one,
        method=method,
        confidence=confidence,
        precision=precision,
        probes=probes,
        steps=steps,
        max_products=max_products,
        reorthogonalize=reorthogonalize,
        negative_at_most=negative_at_most,
        enumerate_negative=enumerate_negative,
        null_vectors=null_vectors,
        preconditioner=preconditioner,
        generator=generator,
        progress=progress,
        state=state,
    ).on_slices(base)
    with held(state):
        described = partial(options.asked, base, **several)
        products = None if has_begun(state) or space_of(base) is not None else state  # whole vectors are kept
        with keeping(products, described, base.device) as journal:
            counts: Counts | JointCounts = (
                _jointly(operator, base, options, next(iter(several.values())))
                if several
                else _counted(operator, base, options)
            )
            return counts if journal is None else _kept(counts, journal)


def _kept(counts: Counts | JointCounts, journal: Journal) -> Counts | JointCounts:
    """The same, with what kept a journal from being written, which ends here."""
    journal.flush()
    if journal.failure is None:
        return counts
    if isinstance(counts, JointCounts):
        several = (replace(one, unsaved=one.unsaved or journal.failure) for one in counts)
        return JointCounts.of(several, counts.confidence)
    return replace(counts, unsaved=counts.unsaved or journal.failure)


def _jointly(operator: Any, base: Operator, options: Options, asked: tuple[float, ...]) -> JointCounts:
    """Counts at several thresholds, of which the options have the smallest: one run, each at its share of chance."""
    least, joint = min(asked), options.confidence
    options = options.jointly(asked, base)
    if options.method == "exact" and takes_inertia(base):  # one matrix, factored at each of them
        operator = base = for_inertia(base, progress=options.progress)
    try:
        first = _counted(operator, base, options)
    except Interrupted as stop:
        stop.several = _so_far(stop.counts, asked, least, options, joint)
        stop.counts = of_one_run(stop.counts)
        raise
    made = first.products + (base.products if isinstance(base, Dense | DenseOverRanks) else 0)

    def at(value: float) -> Counts:
        if value != least and first.evidence.eigenvalues is None and first.method == "exact":
            again = replace(options, threshold=_tau(first, value, least, options), relative_threshold=None, beside=())
            return replace(_counted(operator, base, again), products=made)
        return replace(_at(first, value, least, options), products=made)

    return JointCounts.of((at(value) for value in asked), joint)


def _so_far(
    counts: Counts, asked: tuple[float, ...], least: float, options: Options, joint: float
) -> JointCounts | None:
    """What is known of those thresholds whose runs had begun; None where of none."""
    known = []
    for value in asked:
        with suppress(ValueError):  # of an S there is a run for each threshold
            known.append(_at(counts, value, least, options))
    return JointCounts.of(known, joint) if known else None


def _at(counts: Counts, value: float, least: float, options: Options) -> Counts:
    """Those of a run at the smallest of several thresholds, and at another of them."""
    return of_one_run(counts if value == least else recount(counts, _tau(counts, value, least, options)))


def _tau(counts: Counts, value: float, least: float, options: Options) -> float:
    """A threshold that was asked for, absolute."""
    return value / least * counts.threshold if options.threshold is None else value


@foretelling()
def _counted(operator: Any, base: Operator, options: Options) -> Counts:
    """The counts, of the real form where the operator is complex."""
    if isinstance(base, Hermitian):
        options.check_complex()
        if options.negative_at_most is not None:
            options = replace(options, negative_at_most=2 * options.negative_at_most)
        try:
            with read_as(lambda known, *asked: known.halved().intervals(*asked)):
                return halved_counts(_count_scaled(base.real, base.real, options))
        except Interrupted as stop:
            stop.counts = halved_counts(stop.counts)
            raise
    return _count_scaled(operator, base, options)


def _count_scaled(operator: Any, base: Operator, options: Options) -> Counts:
    """The counts, of 2^e H where squares of what H makes would overflow or vanish."""
    journal = current()
    if journal is not None:
        journal.prefix = ""
    try:
        return _count(operator, base, options)
    except OutOfRange as found:
        exponent = exponent_to_one(found.magnitude)
        if options.made is not None or exponent == 0:
            raise
        tau = options.threshold
        options = replace(options, threshold=None if tau is None else max(times(tau, exponent), SMALLEST))
        larger = scaled(base, exponent)
        try:
            if journal is not None:
                journal.prefix = f"2^{exponent} "
            counts = unscaled_counts(_count(larger, larger, options, found.products, exponent), exponent)
            if tau is None or tau == counts.threshold or counts.evidence.eigenvalues is None:
                return counts
            return recount(counts, tau)  # `SMALLEST` is not what was asked
        except ValueError as error:
            raise ValueError(
                f"{error} (said of 2^{exponent} H, which is counted: products of H are out of range)"
            ) from error
        except Interrupted as stop:
            stop.counts = unscaled_counts(stop.counts, exponent)
            raise


def _count(operator: Any, base: Operator, options: Options, spent: int = 0, exponent: int = 0) -> Counts:
    """`count_eigenvalues` for a real operator with products in range: after `spent` that were not, 2^exponent H."""
    options.check(base)
    began = time.perf_counter()
    streams = Streams(options.generator).split("check", "scale", "dead", "probes", "enumeration", "pilot")
    exact = decides_exact(base, options)
    knowledge = NOTHING if exact else know(operator)
    eliminate = not exact and decides_elimination(knowledge, options)
    if exact:
        check_memory(base, eigenvalues=not takes_inertia(base))
        base = precise(base)
    least, enough = least_budget(operator, base, exact, knowledge if eliminate else None, options)
    least, enough = least + spent, enough + spent
    check_budget(options.max_products, least, enough, exact, options.probes)
    expect(None if eliminate else products_to_come(base, options, exact=exact))
    start = beginning_of(options.state, base, options.relative_threshold, exponent)
    found = _preflight(base, options, streams["check"], exact=exact) if start is None else start.found
    budget = Budget(options.max_products)
    budget.book("check", spent + found.check.products)
    if start is None:
        tau, searched = find_threshold(base, options, found, least)
        relative, kind = options.relative_threshold, str(base.dtype)
        start = Beginning(replace(found, search=None), relative, exponent, kind, searched)
    else:
        assert options.state is not None
        kept = options.relative_threshold is not None
        tau, searched = (read_plan(options.state).threshold, start.searched) if kept else (options.threshold or 0.0, 0)
    budget.book("scale", searched)
    give_back()  # the vectors of the preflight: what comes is larger
    task = Task(base, tau, found.check, budget, options, began, beginning=start)
    if options.divides and not exact and found.search is not None:
        task.begun.append(found.search)
    found = replace(found, search=None)  # nothing else holds its vectors
    planned = "exact: all eigenvalues cost no more than is allowed" if exact and options.method == "auto" else ""
    if planned and options.max_products is not None:
        announce(planned)
    if exact and isinstance(base, Tensor | Dense | DenseOverRanks):
        return replace(exact_counts(task), plan=planned)
    budget.book("check", FINAL)
    if exact:
        counts = replace(exact_counts(task), plan=planned)
        with _known(counts):
            unchanged(found, base)
        return counts
    closed = _closed(task)
    if closed is not None:
        with _known(closed):
            unchanged(found, base)
        return closed
    return _by_products(operator, task, knowledge, found, streams, eliminate=eliminate)


def _preflight(base: Operator, options: Options, generator: torch.Generator, *, exact: bool) -> Preflight:
    """The preflight; that of a journal is refused where its products are not those of this operator."""
    journal = current()
    try:
        found = preflight(
            base,
            threshold=options.threshold or 0.0,
            relative_threshold=options.relative_threshold or 0.0,
            generator=generator,
            basis=not exact and options.divides and keeps_basis(base, options),
        )
    except (Foreign, OutOfRange):
        raise
    except ValueError as error:
        if journal is not None and journal.difference > 0:
            raise journal.foreign(journal.difference) from error
        raise
    if journal is not None and journal.difference > allowed_change(found.check, base):
        raise journal.foreign(journal.difference / found.check.scale)
    return found


def _by_products(
    operator: Any,
    task: Task,
    knowledge: Knowledge,
    found: Preflight,
    streams: dict[str, torch.Generator],
    *,
    eliminate: bool,
) -> Counts:
    """Counts from products alone, of one and the same operator from the preflight to the end."""
    options, check, tau = task.options, task.check, task.threshold
    bounds = (options.negative_at_most, knowledge.negative_at_most)
    most = min((bound for bound in bounds if bound is not None), default=None)
    if eliminate or options.enumerate_negative:  # long before the sampled run, which refuses what noise hides
        steps = min(options.steps or STEPS, task.operator.shape[0])
        check_resolution(tau, check, steps if options.max_products is None else 1)
    eliminated = _eliminated(operator, knowledge, task) if eliminate else None
    chosen = options.made
    if chosen is not None and not isinstance(chosen, str):
        counts = congruent_counts(task, chosen, None, streams, most)
    else:
        kept = kept_plan(task)
        if kept is not None:
            task = replace(task, threshold=kept.threshold)
        part = living_part(task, streams["dead"])
        if not part.size:
            return _confirmed(all_dead(task), found, task)
        scouted, small = None, tuple[float, ...]()
        if chosen is None and kept is None and task.begun:
            scouted, small = _scouted(operator, task, part, found.vector, most)
        task.begun.clear()
        try:
            if chosen is not None:
                counts = congruent_counts(task, chosen, part, streams, most)
            elif small:
                counts = counts_with_factor(task, part, streams, most, small, scouted)
            else:
                if scouted is not None:
                    announce(str(scouted[0]))
                counts = sampled_counts(task, part, streams, most, kept, scouted)
        except Interrupted as stop:
            if eliminated is not None:
                stop.counts = _settled(stop.counts, eliminated)
            raise
    return _confirmed(counts if eliminated is None else _settled(counts, eliminated), found, task)


def _scouted(
    operator: Any, task: Task, part: Living, start: Tensor, most: int | None
) -> tuple[tuple[Plan, Scout] | None, tuple[float, ...]]:
    """(a plan and what made it, or None; the thresholds at which it foretells that a run without S is hopeless)."""
    options, left, scale = task.options, task.budget.left, task.check.scale
    may = pays(options.preconditioner, operator, task.threshold / scale if scale > 0 else 1.0)
    if task.operator.dtype != torch.float64:  # whose noise is known when it has run (`run_noise`): a pilot of its own
        return None, ()
    if (left is None and not may) or (left is not None and left < DIVISIBLE):
        return None, ()
    scout = Scout(task.begun.pop(), start, task, part)
    deflates = left is not None and space_of(task.operator) is None
    plan = scout.plan(UNBOUNDED if left is None else left, most, deflates=deflates)
    small = need_factor(scout, plan, most) if may else ()
    return (None if left is None or small == task.thresholds else (plan, scout)), small


def _confirmed(counts: Counts, found: Preflight, task: Task) -> Counts:
    """The counts, if the operator was one and the same in all products; raises ValueError where it was not."""
    state = task.options.state
    try:
        with _known(counts):
            ended = unchanged(found, task.operator, task.witness)
    except ValueError as error:
        raise ValueError(f"{error}" + (f"; {state} holds products of both: delete it" if state else "")) from None
    return replace(counts, stopped=f"{counts.stopped}; {ended}") if ended else counts


@contextmanager
def _known(counts: Counts) -> Iterator[None]:
    """An interrupt of the block, which makes the last product, carries the counts."""
    try:
        yield
    except KeyboardInterrupt as interrupt:
        raise Interrupted(replace(counts, stopped="interrupted")) from interrupt


def _settled(counts: Counts, bounds: tuple[int, int]) -> Counts:
    """Sampled counts and the bounds of an elimination together."""
    known = EliminatedEvidence(counts.evidence, counts.threshold, *bounds, counts.size, counts.dead)
    intervals = settle_negative(*bounds, counts.negative, counts.positive, counts.size, counts.dead)
    return replace(
        counts,
        negative=intervals[0],
        near_zero=intervals[1],
        positive=intervals[2],
        method="elimination",
        evidence=known,
    )


def _closed(task: Task) -> Counts | None:
    """Exact counts from a closed form of a small network, where a budget is all that was chosen; else None."""
    options, budget = task.options, task.budget
    if not options.open or budget.left is None or task.operator.shape[0] > EXACT_SIZE or budget.left < CHECKED:
        return None
    dense, made = closed_matrix(task.operator)
    budget.book("assembly", made)
    if dense is None:
        return None
    planned = "exact: its matrix has a closed form"
    announce(planned)
    noise = max(task.check.noise, dense.error / (SAFETY * dense.shape[0] ** 0.5))
    known = replace(task, operator=dense, check=replace(task.check, noise=noise))
    return replace(exact_counts(known), plan=planned)


def decides_exact(base: Operator, options: Options, free: int | None = None) -> bool:
    """Whether the count is exact from the start: asked for, or left open and N small or the budget large enough.

    `free`: bytes that may be used, what is available by default.
    """
    return (
        options.method == "exact"
        or (options.automatic and base.shape[0] <= EXACT_SIZE)
        or _affordable(base, options, free)
    )


def decides_elimination(knowledge: Knowledge, options: Options) -> bool:
    """Whether a layer is eliminated in a count that is not exact: asked for, or left open and cheap."""
    return options.method == "elimination" or (options.automatic and can_eliminate(knowledge))


def _affordable(operator: Operator, options: Options, free: int | None) -> bool:
    """Whether all eigenvalues cost no more products than are allowed, and no more than half of the memory."""
    size = operator.shape[0]
    if options.max_products is None or not options.open or (options.beside and size > INERTIA_SIZE):
        return False
    if isinstance(operator, Tensor | Dense):
        return size <= EXACT_SIZE
    fits = 2 * 8 * size**2 <= (available_bytes(operator.device) if free is None else free) // 2
    return fits and least_products(operator, True, options) <= options.max_products


def _same_threshold(tau: float, kept: float) -> float:
    """The tau of a state, where this one differs because another budget let the search go less or more deep."""
    return kept if abs(tau - kept) <= SEARCHED * kept else tau


def least_budget(
    operator: Any, base: Operator, exact: bool, eliminate: Knowledge | None, options: Options
) -> tuple[int, int]:
    """(the smallest budget that may suffice, one that suffices): they differ by what making an S is known to take."""
    phases = phase_products(options.made, operator)
    least, enough = (least_products(base, exact, options, phase) for phase in phases)
    if eliminate is not None:  # at most half of what the preflight leaves
        first = preflight_products(base) + FINAL
        certificate = least_elimination(operator, eliminate, known=base.dtype == torch.float64)
        least, enough = (first + max(2 * certificate, 2 * (sampled - first) - 1) for sampled in (least, enough))
    return least, enough


def _eliminated(operator: Any, knowledge: Knowledge, task: Task) -> tuple[int, int]:
    """Bounds on the negative eigenvalues that always hold, for at most half of the budget that is left."""
    left, start = task.budget.left, task.beginning
    if start.eliminated is not None:
        task.budget.book("elimination", start.eliminated[2])
        return start.eliminated[:2]
    found = negative_count_by_elimination(
        operator,
        task.threshold,
        max_products=None if left is None else left // 2,
        check=task.check if task.operator.dtype == torch.float64 else None,
        knowledge=knowledge,
        progress=task.options.progress,
    )
    task.budget.book("elimination", found.products)
    start.eliminated = (found.lower, found.upper, found.products)
    return found.lower, found.upper


@differentiable
def recount(counts: Counts, threshold: float) -> Counts:
    """The counts at another threshold, from the products already spent; same confidence, for this answer alone.

    The threshold must have been named before the run: of many thresholds, the one at which this run looks oddest is
    right less often. For thresholds found by looking, `counts.evidence.band` holds for all of them at once.
    Exact counts by inertia (N > 3000) know their own threshold alone; the N x N matrix is not kept.

    Bounds by elimination belong to their threshold and are not used at another one: those counts are sampled.

    Raises ValueError for a threshold that is not positive, that the operator's noise cannot resolve, or that a
    count by inertia does not know.
    """
    threshold = real("threshold", threshold)
    check_positive(threshold)
    answer = counts.evidence.intervals(threshold, counts.confidence)
    if counts.steps:
        check_resolution(threshold, counts.check, counts.steps)
    eliminated = counts.method == "elimination" and threshold != counts.threshold
    method = "lanczos" if eliminated else counts.method
    return replace(
        counts, negative=answer[0], near_zero=answer[1], positive=answer[2], threshold=threshold, method=method
    )


def find_threshold(operator: Operator, options: Options, found: Preflight, least: int) -> tuple[float, int]:
    """(tau, products spent); tau is fixed before the probes are drawn.

    The largest |eigenvalue| is a lower bound, found by going on with the preflight's recurrence.
    """
    relative, state = options.relative_threshold, options.state
    if relative is None:
        return options.threshold or 0.0, 0
    search = found.search
    assert search is not None
    made = search.products
    steps, accuracy, every = plan_search(operator, options.max_products, least)
    largest = continue_search(search, steps, accuracy=accuracy, every=every)
    if largest == 0.0:
        raise ValueError("a relative threshold needs a nonzero operator; every product was zero: pass threshold=")
    tau = relative * largest
    if state is not None and has_begun(state):
        tau = _same_threshold(tau, read_plan(state).threshold)
    return tau, search.products - made
