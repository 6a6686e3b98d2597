"""Every way to count one matrix: what it holds at its widest, how many products and how long it takes, how wide it is.

Those from the whole matrix are in `dense_ways`; these are recurrences, alone or on what they leave.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import torch

from lanczos_saddle.certificates.cauchy import LARGEST
from lanczos_saddle.counting.allocation import Allocation, Room, allocate, scout_steps
from lanczos_saddle.counting.eliminated import eliminated_block, least_elimination
from lanczos_saddle.counting.planning import LEAST_PROBES, SINGLE, plan_probes
from lanczos_saddle.counting.scouting import DIVISIBLE, Ahead, Complement
from lanczos_saddle.defaults import STEPS
from lanczos_saddle.forecast import footprints
from lanczos_saddle.forecast.dense_ways import TRIANGLE, exact
from lanczos_saddle.forecast.footprints import FLOAT, WIDTH
from lanczos_saddle.forecast.known import Known, Sketch, Way
from lanczos_saddle.forecast.ranks import Load
from lanczos_saddle.forecast.widths import Ending, ending
from lanczos_saddle.krylov.basis import SLICE
from lanczos_saddle.krylov.preflight import KRYLOV
from lanczos_saddle.operators.resolution import deepest
from lanczos_saddle.preconditioning.choice import (
    FEWEST,
    FRACTION,
    MOST,
    PART,
    PHASE,
    RANK,
    check_preconditioner,
    phase_products,
)
from lanczos_saddle.preconditioning.ekfac import OUTPUTS, fits

ROUNDS = 20
"""Blocks of products that an elimination takes until its bounds meet, as the networks of validate/elimination.py do."""

SIDES = 2
"""Runs with an S, one for each threshold."""

OWN = "own S"

IN_SLICES = "needs whole vectors, and those are in slices over the ranks"
"""Why there is no other way than plain runs there."""


def shape_of_run(known: Known, runs: int = 1, taken: int = 0) -> tuple[int, int, Allocation | None]:
    """(probes, steps at most, how a budget is divided by what is foretold) of a run without vectors taken out.

    `runs`: how many share the products; `taken`: products that go before them.
    """
    options, size = known.options, known.drawn
    left = None if known.left is None else max(LEAST_PROBES, (known.left - taken) // runs)
    if left is None or not options.divides or left < DIVISIBLE:
        probes = options.probes or plan_probes(options, known.seen, left)
        steps = min(options.steps or STEPS, size)
        return probes, steps if left is None else max(1, min(steps, left // probes)), None
    pilot = known.made.pilot
    if runs == 1 and pilot is not None and pilot.chosen is not None and pilot.chosen.way == "plain":
        return pilot.chosen.probes, pilot.chosen.steps, None
    left = max(LEAST_PROBES, left - looked(known))
    if pilot is None or pilot.seen is None or runs > 1:
        return LEAST_PROBES, max(1, min(left // LEAST_PROBES, size)), None
    deep = min(deepest(pilot.threshold, pilot.check, size), size)
    best = allocate(ahead(known), Room(left, size, deep, most=known.most), options.confidence)
    return best.probes, best.steps, best


def looked(known: Known) -> int:
    """Products of the look ahead that divides a budget, those of the beginning not among them."""
    left = known.left
    if left is None or not known.options.divides or left < DIVISIBLE:
        return 0
    pilot = known.made.pilot
    asked = pilot is not None and pilot.chosen is not None
    return known.made.spent.get("pilot", 0) if asked else scout_steps(left, known.drawn)


def ahead(known: Known) -> list[Ahead]:
    """Brackets at every threshold; none without a pilot."""
    pilot = known.made.pilot
    seen = None if pilot is None else pilot.outlook
    if pilot is None or seen is None:
        return []
    return [Ahead(seen, pilot.threshold * times) for times in (1.0, *known.options.beside)]


def foretold(known: Known, probes: int, steps: int) -> tuple[int, int | None, str]:
    """(steps, width, why it ends) of a run of so many probes and at most so many steps."""
    options, seen = known.options, ahead(known)
    if not seen:
        return steps, None, "all steps made; width unknown without a pilot"
    found = ending(seen, probes, steps, (known.size, known.drawn), options)
    return found.steps, found.width, early(found, steps)


def early(found: Ending, steps: int) -> str:
    """Why it ends, and where that is before all steps are made."""
    return f"after {found.steps} of {steps} steps {found.reason}" if found.steps < steps else found.reason


def plain(known: Known, *, basis: bool) -> Way:
    """One run, with or without a basis: memory for all steps, products and seconds to where it is foretold to stop."""
    probes, most, _ = shape_of_run(known)
    steps, width, ends = foretold(known, probes, most)
    size = known.drawn
    load, phases = running(known, probes, most if basis else 0)
    piloted = looked(known)
    least = footprints.RUNNING + SINGLE
    held = known.sharing.held(size)
    columns = (known.free - sum(phases[0].values()) + phases[0].get("basis", 0)) // max(1, held * known.item)
    instead = (
        f"a basis of {max(0, columns)} vectors fits: pass fewer probes or steps, or reorthogonalize=False"
        if basis
        else f"{least} vectors of {held * FLOAT / 2**20:.0f} MiB and a product are the least: let a product hold less "
        "(Hessian(..., memory=...)), pass probes=1, dtype=float32, or fewer parameters"
    )
    return known.way(
        Sketch(
            "plain, basis kept" if basis else "plain",
            f'method="lanczos", preconditioner=None, reorthogonalize={basis}',
            phases,
            known.first + piloted + probes * steps,
            known.run_seconds(probes, steps, basis=basis, pilot=piloted),
            instead,
            most_products=known.first + piloted + probes * most,
            width=width,
            ends=ends,
            probes=probes,
            steps=most,
            load=load,
        )
    )


def running(known: Known, probes: int, kept: int, vectors: int = 0) -> tuple[Load, list[dict[str, int]]]:
    """(what falls to other ranks, phases) of recurrences whose first `kept` vectors stay, without `vectors` of others.

    Of those that are dealt out to several ranks rank 0 has its own alone.
    """
    size, mine = known.sharing.held(known.drawn), known.sharing.dealt(probes)
    product = known.block if mine == probes else known.own
    phases = footprints.with_basis(size, mine, kept, known.item, product, known.drawn)
    if not kept:
        phases = [footprints.run(size, mine, product)]
    step, end = known.measuring(basis=kept > 0)
    if end:
        ending = {**phases[0], "products": 0, "noise of the run": end}
        phases = [*({**one, "noise of the run": step} for one in phases), ending]
    if mine < probes:
        phases.append({"vectors": (2 * probes + mine) * FLOAT * size})  # drawn, and dealt
    basis = mine * kept * size * known.item
    if mine == probes:
        return Load(probes, basis=basis, forms=footprints.forms(size, probes * kept)), phases
    slices = FLOAT * min(probes * kept, LARGEST) * min(SLICE, size)
    return Load(probes, mine, basis, vectors, slices), phases


def deflated(known: Known) -> Way:
    """The pilot goes on, what has converged is taken out, and a run counts on the rest. Raises where it cannot be."""
    options, pilot, left = known.options, known.made.pilot, known.left
    if left is None or not options.divides or options.beside:
        raise ValueError("takes a budget alone: pass max_products, one threshold, and neither probes nor steps")
    if known.operator.dtype != torch.float64 or options.reorthogonalize is False:
        raise ValueError("takes products in float64 and a basis: pass dtype=torch.float64")
    if pilot is None or pilot.seen is None:
        raise ValueError("is foretold by a pilot alone: leave --no-pilot out")
    size, chosen, seen = known.drawn, pilot.chosen, pilot.outlook
    assert seen is not None
    taken = chosen is not None and chosen.way == "deflated"
    scouted = chosen.scouted if chosen and taken else max(left // 4, min(len(pilot.seen.diagonal), size - 1))
    rest = seen.like.without(seen.simulated.converged(seen.like.steps(scouted), pilot.threshold))
    vectors, after = size - rest.size, max(2, left - scouted)
    if vectors == 0 or rest.size < 1:
        raise ValueError("no eigenvector beyond the threshold is foretold to converge in a part of the budget")
    there = Complement(rest, rest.run(after), pilot.threshold)
    if chosen and taken:
        probes, most = chosen.probes, chosen.steps
    else:
        deep = min(deepest(pilot.threshold, pilot.check, rest.size), rest.size)
        found = allocate([there], Room(after, rest.size, deep, most=known.most), options.confidence)
        probes, most = found.probes, found.steps
    stop = ending([there], probes, most, (known.size, rest.size), options)
    making, staying = footprints.deflating(size, scouted, vectors, known.item)
    load, runs = running(known, probes, most, vectors)
    phases = [making, *({**staying, **one} for one in runs)]
    begun = min(KRYLOV, known.size) + known.made.spent.get("scale", 0)
    more = max(0, scouted - begun)  # the recurrence of the preflight goes on
    return known.way(
        Sketch(
            "deflated",
            f"max_products={options.max_products}",
            phases,
            known.first + more + probes * stop.steps,
            known.run_seconds(probes, stop.steps, basis=True, pilot=more),
            "the plain run holds no vectors of a pilot",
            most_products=known.first + more + probes * most,
            width=stop.width,
            ends=f"{vectors} vectors of the pilot taken out; {early(stop, most)}",
            probes=probes,
            steps=most,
            load=load,
        )
    )


def rank_of(known: Known) -> tuple[int, float]:
    """(r, products) of the S that "subset" makes (`preconditioning.choice.prepare`)."""
    size, left = known.drawn, known.left
    phase = None if left is None or not known.options.divides else left // 3
    total = known.samples or 1
    widest = max(1, min(RANK, size // FRACTION, known.free // (64 * size)))
    fewest = min(max(total // PART, FEWEST), MOST)
    samples = min(total, fewest if phase is None else max(fewest, min(total, phase * total // (2 * widest))))
    rank = max(1, min(widest, (PHASE if phase is None else phase) * total // (2 * samples)))
    return rank, 2 * rank * samples / total


def congruent(known: Known, name: str) -> Way:
    """Two runs with an S for each threshold. Raises ValueError where it cannot be made."""
    options, operator = known.options, cast(Any, known.operator)
    check_preconditioner(name, known.seen, "lanczos")
    runs = SIDES * (1 + len(options.beside))
    if not fits(operator.problem):
        raise ValueError(f"Kronecker factors need nn.Linear layers and outputs (n, C) with C at most {OUTPUTS}")
    passes, most = phase_products(name, operator)
    rank, cost = rank_of(known) if name == "subset" else (0, 0.0)
    phase = int(min(most, passes + cost))
    probes, steps, _ = shape_of_run(known, runs, phase)
    size, item = known.drawn, known.item
    factor = footprints.factors(operator, size, rank)
    beside = {"products with S": footprints.CONGRUENT * probes * size * FLOAT}
    held = {**factor, **beside, "basis": SIDES * probes * steps * size * item}  # of both runs
    phases = [{**one, **held} for one in footprints.with_basis(size, probes, steps, item, known.block)]
    pace, seconds = known.made.pace, known.run_seconds(runs * probes, steps, basis=True, dealt=False)
    if pace is not None and seconds is not None:
        seconds += phase * pace.product  # rank 0 makes S, of its own samples
    return known.way(
        Sketch(
            name,
            f'preconditioner="{name}"',
            phases,
            known.first + phase + runs * probes * steps,
            seconds,
            "the plain run has no S",
            width=None,
            ends="width known only when S is made",
            probes=probes,
            steps=steps,
            load=Load(probes, basis=held["basis"]),
        )
    )


def eliminated(known: Known) -> Way:
    """A layer is eliminated: negative counts without chance; the others by a run. Raises where there is none."""
    block = eliminated_block(known.knowledge)
    n, s = len(block.index), len(block.rest)
    least = least_elimination(known.operator, known.knowledge, known=known.operator.dtype == torch.float64)
    left = known.left
    made = min(max(known.size, least), least + (ROUNDS - 1) * s)
    made = made if left is None else min(made, left // 2)
    if made < least:
        raise ValueError(f"takes {least} products for its first certificate, half of max_products at most")
    probes, most, _ = shape_of_run(known, taken=made)
    steps, width, ends = foretold(known, probes, most)
    load, runs = running(known, probes, most)
    phases = [{**footprints.eliminating(n, s), "products": known.block(min(s, WIDTH))}, *runs]
    seconds, product = known.run_seconds(probes, steps, basis=True), known.product_seconds(min(s, WIDTH))
    if product is not None and seconds is not None:
        seconds += made * product
    return known.way(
        Sketch(
            "eliminated",
            'method="elimination"',
            phases,
            known.first + made + probes * steps,
            seconds,
            "the plain run holds no blocks of a layer",
            most_products=known.first + made + probes * most,
            width=width,
            ends=f"{s} parameters left beside layer {block.layer!r}; {ends}",
            probes=probes,
            steps=most,
            load=replace(load, block=max(load.block, min(s, WIDTH))),
        )
    )


def every_way(known: Known) -> tuple[tuple[Way, ...], dict[str, str]]:
    """(all ways that there are, why there are no others)."""
    missing = dict[str, str]()
    ways = [] if known.sharing.vectors > 1 else [*exact(known)]
    ways += [plain(known, basis=False), plain(known, basis=True)]
    others: dict[str, Any] = {
        "deflated": lambda: deflated(known),
        "ekfac": lambda: congruent(known, "ekfac"),
        "subset": lambda: congruent(known, "subset"),
        "eliminated": lambda: eliminated(known),
    }
    if known.sharing.vectors > 1:
        missing |= dict.fromkeys(("eigenvalues", "inertia", *others), IN_SLICES)
        others = {}
    for name, make in others.items():
        try:
            ways.append(make())
        except ValueError as error:
            missing[name] = str(error)
    if known.sharing.ranks > 1:
        missing[TRIANGLE] = "is a command of one process"
    made = known.options.made
    if made is not None and not isinstance(made, str):
        missing[OWN] = "what a product with your S takes is not known here"
    return tuple(ways), missing
