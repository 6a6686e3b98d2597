"""Every way to count one matrix: what it holds at its widest, how many products and how long it takes, how wide it is.

    seconds of a run  =  the beginning  +  m k (a step of one column)  +  m k^2 N bytes of basis / (rate of reading)
                         +  N (m k)^2 / (rate of a matrix product)

Steps are timed in a block of the width that is planned; the rates of the machine are measured where a way needs them.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import torch

from lanczos_saddle.certificates.cauchy import LARGEST
from lanczos_saddle.counting.allocation import Allocation, Room, allocate, scout_steps
from lanczos_saddle.counting.eliminated import eliminated_block, least_elimination
from lanczos_saddle.counting.exact import INERTIA_SIZE
from lanczos_saddle.counting.options import Options
from lanczos_saddle.counting.planning import DEAD, FINAL, LEAST_PROBES, SINGLE, plan_probes
from lanczos_saddle.counting.scouting import DIVISIBLE, Ahead, Complement
from lanczos_saddle.defaults import STEPS
from lanczos_saddle.dense import one_triangle, triangle_ldl
from lanczos_saddle.dense.blocked_ldl import BLOCK
from lanczos_saddle.dense.eigensolvers import FROM_A_COPY, IN_PLACE
from lanczos_saddle.dense.exact import VECTORS
from lanczos_saddle.dense.triangle import triangle_bytes
from lanczos_saddle.forecast import footprints
from lanczos_saddle.forecast.footprints import FLOAT, Multiplying
from lanczos_saddle.forecast.rehearsal import Rehearsal, wait
from lanczos_saddle.forecast.widths import ending
from lanczos_saddle.krylov.preflight import HELD, KRYLOV, preflight_products
from lanczos_saddle.machine.rates import matrix_product, reading
from lanczos_saddle.operators.knowledge import Knowledge
from lanczos_saddle.operators.operator import Operator
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

FACTORED = 1.6
"""Flops of large products that LAPACK's LDL' costs, over N^3 / 3: half of it is not in matrix products."""

ROUNDS = 20
"""Blocks of products that an elimination takes until its bounds meet, as the networks of validate/elimination.py do."""

SIDES = 2
"""Runs with an S, one for each threshold."""

OWN = "own S"

Parts = Mapping[str, int]


@dataclass(frozen=True)
class Way:
    """One way to count, and what it takes."""

    name: str
    how: str  # what asks for it
    parts: Parts  # bytes by part of its widest phase, beyond the problem
    peak: int  # their sum: the most memory, beyond the problem
    disk: int  # bytes
    products: int  # H @ v in all, to where the run is foretold to stop
    most_products: int  # at most
    seconds: float | None  # None where no product was timed
    fastest: float | None  # by the fastest and the slowest of the products that were timed
    slowest: float | None
    width: int | None  # foretold, of the widest interval, in counts; None where it is not known
    ends: str  # why it stops, or why the width is not known
    probes: int  # 0 for exact counts
    steps: int  # at most; memory is for all of them
    fits: bool
    instead: str  # what would fit, where it does not


@dataclass(frozen=True)
class Sketch:
    """A way before it is known what else it holds and whether it fits."""

    name: str
    how: str
    phases: list[dict[str, int]]
    products: int
    seconds: float | None
    instead: str
    most_products: int = 0  # where these are more
    width: int | None = 0
    ends: str = ""
    probes: int = 0
    steps: int = 0
    disk: int = 0
    begins: bool = True  # as a count does


@dataclass(frozen=True)
class Known:
    """What is known of the matrix, the machine and the question."""

    operator: Operator
    options: Options
    knowledge: Knowledge
    free: int  # bytes that may be used
    directory: Path | None
    product: Multiplying
    made: Rehearsal
    most: int | None  # a proved bound on the negative eigenvalues
    samples: int | None = None
    rates: dict[str, float] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """N."""
        return self.operator.shape[0]

    @property
    def drawn(self) -> int:
        """The dimension in which probes are drawn: N without dead coordinates, where these are known."""
        return self.size if self.made.pilot is None else self.made.pilot.target.shape[0]

    @property
    def item(self) -> int:
        """Bytes of a number of the operator's type."""
        return self.operator.dtype.itemsize

    @property
    def first(self) -> int:
        """Products before and after a run."""
        spent = {name: n for name, n in self.made.spent.items() if name not in ("timing", "pilot")}
        search = 8 if self.options.relative_threshold is not None else 0
        begun = sum(spent.values()) if self.made.pilot else preflight_products(self.operator) + DEAD + search
        return begun + FINAL

    @property
    def left(self) -> int | None:
        """Products that a budget leaves."""
        most = self.options.max_products
        return None if most is None else max(0, most - self.first)

    @cached_property
    def flops(self) -> float:
        """Operations a second of a large matrix product, made now."""
        multiply, flops = matrix_product(0, torch.float64)
        return flops / _seconds(multiply, torch.device("cpu"))

    @cached_property
    def bandwidth(self) -> float:
        """Bytes a second of a matrix that is read, made now."""
        call, read = reading(self.operator.device)
        return read / _seconds(call, self.operator.device)

    @cached_property
    def kept(self) -> dict[str, int]:
        """What stays from the first products on."""
        if self.made.kept is None:
            return {"libraries": footprints.LIBRARIES, "kept by products": self.product.kept}
        return {"libraries and what products keep": self.made.kept}

    def begun(self) -> dict[str, int]:
        """The widest moment of the beginning."""
        if self.made.began is not None:
            kept = min(self.made.kept or 0, self.made.began)
            vectors = min(HELD * FLOAT * self.size, self.made.began - kept)
            rest = self.made.began - kept - vectors
            return {"libraries and what products keep": kept, "vectors": vectors, "products": rest}
        return {"libraries": footprints.LIBRARIES, **footprints.beginning(self.size, self.product)}

    def way(self, sketch: Sketch) -> Way:
        """The widest of its phases, all of which hold what is kept, or of the beginning."""
        widest = [{**self.kept, **parts} for parts in sketch.phases] + ([self.begun()] if sketch.begins else [])
        parts = max(widest, key=lambda one: sum(one.values()))
        low, high = (1.0, 1.0) if self.made.pace is None else self.made.pace.spread
        peak, seconds = sum(parts.values()), sketch.seconds
        return Way(
            sketch.name,
            sketch.how,
            parts,
            peak,
            sketch.disk,
            sketch.products,
            max(sketch.products, sketch.most_products),
            seconds,
            None if seconds is None else seconds * low,
            None if seconds is None else seconds * high,
            sketch.width,
            sketch.ends,
            sketch.probes,
            sketch.steps,
            peak <= self.free,
            "" if peak <= self.free else sketch.instead,
        )

    def beginning_seconds(self) -> float | None:
        """What goes before a run: as it was, or so many products."""
        pace = self.made.pace
        if pace is None:
            return None
        extra = max(0.0, pace.first - pace.step * pace.columns)
        if self.made.pilot is None:
            return self.first * pace.product + extra
        piloted = self.made.spent.get("pilot", 0) * pace.product  # a count may make none
        return max(0.0, self.made.seconds - piloted) + FINAL * pace.product + extra

    def run_seconds(self, probes: int, steps: int, *, basis: bool, pilot: int = 0) -> float | None:
        """Of the beginning and a run."""
        pace, before = self.made.pace, self.beginning_seconds()
        if pace is None or before is None:
            return None
        total = before + probes * steps * pace.step + pilot * pace.step
        if basis and probes * steps:
            total += probes * steps**2 * self.drawn * self.item / self.bandwidth
            total += self.drawn * min(probes * steps, LARGEST) ** 2 / self.flops
        return total


def shape_of_run(known: Known, runs: int = 1, taken: int = 0) -> tuple[int, int, Allocation | None]:
    """(probes, steps at most, how a budget is divided by what is foretold) of a run without vectors taken out.

    `runs`: how many share the products; `taken`: products that go before them.
    """
    options, size = known.options, known.drawn
    left = None if known.left is None else max(LEAST_PROBES, (known.left - taken) // runs)
    if left is None or not options.divides or left < DIVISIBLE:
        probes = options.probes or plan_probes(options, known.operator, left)
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
    early = f"after {found.steps} of {steps} steps {found.reason}" if found.steps < steps else found.reason
    return found.steps, found.width, early


def plain(known: Known, *, basis: bool) -> Way:
    """One run, with or without a basis: memory for all steps, products and seconds to where it is foretold to stop."""
    probes, most, _ = shape_of_run(known)
    steps, width, ends = foretold(known, probes, most)
    size, product = known.drawn, known.product
    phases = footprints.with_basis(size, probes, most, known.item, product)
    if not basis:
        phases = [footprints.run(size, probes, product)]
    piloted = looked(known)
    least = footprints.RUNNING + SINGLE
    columns = (known.free - sum(phases[0].values()) + phases[0].get("basis", 0)) // max(1, size * known.item)
    instead = (
        f"a basis of {max(0, columns)} vectors fits: pass fewer probes or steps, or reorthogonalize=False"
        if basis
        else f"{least} vectors of {size * FLOAT / 2**20:.0f} MiB and a product are the least: let a product hold less "
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
        )
    )


def deflated(known: Known) -> Way:
    """The pilot goes on, what has converged is taken out, and a run counts on the rest. Raises where it cannot be."""
    options, pilot, left = known.options, known.made.pilot, known.left
    if left is None or not options.divides or options.beside:
        raise ValueError("takes a budget alone: pass max_products, one threshold, and neither probes nor steps")
    if known.operator.dtype != torch.float64 or options.reorthogonalize is False:
        raise ValueError("takes products in float64 and a basis: pass dtype=torch.float64")
    if pilot is None or pilot.seen is None:
        raise ValueError("is foretold by a pilot alone: leave --no-pilot out")
    size, chosen = known.drawn, pilot.chosen
    if chosen is not None and chosen.way == "deflated":
        scouted, vectors, best = chosen.scouted, chosen.vectors, (chosen.probes, chosen.steps, chosen.width)
    else:
        seen, scouted = pilot.outlook, max(left // 4, min(len(pilot.seen.diagonal), size - 1))
        assert seen is not None
        rest = seen.like.without(seen.simulated.converged(seen.like.steps(scouted), pilot.threshold))
        vectors, after = size - rest.size, left - scouted
        if vectors == 0 or rest.size < 1:
            raise ValueError("no eigenvector beyond the threshold is foretold to converge in a part of the budget")
        room = Room(after, rest.size, min(deepest(pilot.threshold, pilot.check, rest.size), rest.size), most=known.most)
        found = allocate([Complement(rest, rest.run(after), pilot.threshold)], room, options.confidence)
        best = found.probes, found.steps, found.width
    probes, steps, width = best
    making, staying = footprints.deflating(size, scouted, vectors, known.item)
    phases = [
        making,
        *({**staying, **one} for one in footprints.with_basis(size, probes, steps, known.item, known.product)),
    ]
    begun = min(KRYLOV, known.size) + known.made.spent.get("scale", 0)
    more = max(0, scouted - begun)  # the recurrence of the preflight goes on
    seconds = known.run_seconds(probes, steps, basis=True, pilot=more)
    return known.way(
        Sketch(
            "deflated",
            f"max_products={options.max_products}",
            phases,
            known.first + more + probes * steps,
            seconds,
            "the plain run holds no vectors of a pilot",
            width=width,
            ends=f"{vectors} vectors of the pilot taken out",
            probes=probes,
            steps=steps,
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
    check_preconditioner(name, operator, "lanczos")
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
    phases = [{**one, **held} for one in footprints.with_basis(size, probes, steps, item, known.product)]
    pace, seconds = known.made.pace, known.run_seconds(runs * probes, steps, basis=True)
    if pace is not None and seconds is not None:
        seconds += phase * pace.product
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
    phases = [{**footprints.eliminating(n, s), "products": known.product(min(s, 64))}]
    phases += footprints.with_basis(known.drawn, probes, most, known.item, known.product)
    seconds, pace = known.run_seconds(probes, steps, basis=True), known.made.pace
    if pace is not None and seconds is not None:
        seconds += made * pace.product
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
        )
    )


def exact(known: Known) -> Iterator[Way]:
    """All eigenvalues, inertia at both thresholds, and inertia from one triangle."""
    size, free = known.size, known.free
    assembly = footprints.assembling(known.operator, known.product)
    matrix, work = FLOAT * size**2, FLOAT * size * min(VECTORS, 2 * size)
    made = "its matrix in closed form" if assembly.closed else f"its matrix by {assembly.products} products"
    assembled = {"assembled matrix": matrix, "assembly": assembly.beside}
    products = known.first - DEAD + assembly.products
    thresholds = 2 * (1 + len(known.options.beside))
    largest = int((free / FLOAT) ** 0.5)
    smaller = f"N = {largest} fits: count fewer parameters, or "
    ample = matrix + work + sum(known.kept.values()) + matrix <= free
    copied = {"assembled matrix": matrix, "factor": matrix * ample + work}
    yield known.way(
        Sketch(
            "eigenvalues",
            'method="exact"' if size <= INERTIA_SIZE else "exact_eigenvalues(H)",
            [assembled, copied],
            products,
            _plus(_assembled(known, assembly), (FROM_A_COPY if ample else IN_PLACE) * size**3, known),
            smaller + "take inertia from one triangle",
            ends=made,
        )
    )
    if size > INERTIA_SIZE:
        yield known.way(
            Sketch(
                "inertia",
                'method="exact"',
                [assembled, {"assembled matrix": matrix, "factor": work}],
                products,
                _plus(_assembled(known, assembly), thresholds * FACTORED * size**3 / 3, known),
                smaller + "take inertia from one triangle, lanczos-saddle inertia --directory",
                ends=made,
            )
        )
    yield triangular(known, assembly, thresholds)


def triangular(known: Known, assembly: footprints.Assembly, thresholds: int) -> Way:
    """Inertia from one triangle, in memory or in a file."""
    size, directory = known.size, known.directory
    spare = known.free - sum(known.kept.values())
    layout = one_triangle.plan_layout(size, thresholds, 2**62, directory)
    try:
        layout, there = one_triangle.plan_layout(size, thresholds, max(0, spare), directory), True
    except ValueError:
        there = False
    held = layout.memory - one_triangle.work_bytes(size)
    blocks = min(one_triangle.BLOCKS, 2 * triangle_bytes(size)) if assembly.closed else 0
    source = 0 if layout.source else triangle_bytes(size)
    phases = [
        {"assembled matrix": source, "assembly": blocks + assembly.beside},
        {"assembled matrix": source, "factor": held - source + factoring_bytes(size)},
    ]
    pace, seconds = known.made.pace, _assembled(known, assembly)
    if pace is not None and seconds is not None:
        seconds += one_triangle.foretold_seconds(layout, thresholds, known.flops)
    name, where = "inertia, one triangle", "" if directory is None else f" --directory {directory}"
    instead = "name a directory for a file" if directory is None else "count matrix-free"
    way = known.way(
        Sketch(
            name,
            f"lanczos-saddle inertia --at{where}",
            phases,
            assembly.products,
            seconds,
            instead,
            ends="in memory" if not layout.disk else "H or L in a file",
            disk=layout.disk,
            begins=False,
        )
    )
    return way if there else replace(way, fits=False, instead=instead)


def factoring_bytes(size: int) -> int:
    """Beside triangles while one is factored: a window, blocks and their copies (`one_triangle.work_bytes`)."""
    width, window = min(size, BLOCK), min(size, triangle_ldl.WINDOW + 2 * BLOCK)
    return FLOAT * (size * (window + 6 * width) - window**2 // 2)


def _seconds(call: Callable[[], object], device: torch.device) -> float:
    """The median of three calls after one to warm up; memory is not looked at."""
    found = []
    for _ in range(4):
        began = time.perf_counter()
        call()
        wait(device)
        found.append(time.perf_counter() - began)
    return statistics.median(found[1:])


def _assembled(known: Known, assembly: footprints.Assembly) -> float | None:
    """Seconds until a matrix is there."""
    pace, before = known.made.pace, known.beginning_seconds()
    if pace is None or before is None:
        return None
    return before + (assembly.flops / known.flops) + assembly.products * pace.product


def _plus(seconds: float | None, flops: float, known: Known) -> float | None:
    return None if seconds is None else seconds + flops / known.flops


def every_way(known: Known) -> tuple[tuple[Way, ...], dict[str, str]]:
    """(all ways that there are, why there are no others)."""
    ways, missing = [*exact(known)], dict[str, str]()
    ways += [plain(known, basis=False), plain(known, basis=True)]
    others: dict[str, Any] = {
        "deflated": lambda: deflated(known),
        "ekfac": lambda: congruent(known, "ekfac"),
        "subset": lambda: congruent(known, "subset"),
        "eliminated": lambda: eliminated(known),
    }
    for name, make in others.items():
        try:
            ways.append(make())
        except ValueError as error:
            missing[name] = str(error)
    made = known.options.made
    if made is not None and not isinstance(made, str):
        missing[OWN] = "what a product with your S takes is not known here"
    return tuple(ways), missing
