"""What is decided or refused before a probe is drawn: how many probes, how deep at most, with a basis or without.

The law of the intervals needs the number of probes fixed beforehand; everything here is a function of N, the wanted
precision, the budget and the memory alone.
"""

from __future__ import annotations

import math
from typing import Literal

from torch import Tensor

from lanczos_saddle.certificates.beta_interval import probes_for
from lanczos_saddle.certificates.cauchy import LARGEST
from lanczos_saddle.certificates.intervals import share
from lanczos_saddle.counting.allocation import scout_steps
from lanczos_saddle.counting.enumeration import BLOCK as ENUMERATION_BLOCK
from lanczos_saddle.counting.options import Budget, Options
from lanczos_saddle.defaults import STEPS
from lanczos_saddle.dense.exact import OVERHEAD, REPEATED, Dense
from lanczos_saddle.dense.over_ranks import DenseOverRanks
from lanczos_saddle.krylov.basis import SLICE, basis_bytes, basis_room
from lanczos_saddle.krylov.largest import STEPS as SEARCH
from lanczos_saddle.krylov.preflight import KRYLOV, preflight_products
from lanczos_saddle.machine.journal import answered
from lanczos_saddle.machine.memory import available_bytes, require_bytes
from lanczos_saddle.operators.leading import shared_by
from lanczos_saddle.operators.operator import Operator, of_network
from lanczos_saddle.operators.vectors import held_here

LEAST_PROBES = 4
"""With four probes an empty class can be certified empty (docs/method.md); one is enough only for large counts."""

MOST_PROBES = 64
"""More are drawn only when asked for: where so many would be planned, N is small and exact counts are cheaper."""

DEAD = 2
"""Products that find the dead coordinates."""

FINAL = 1
"""The product at the end that verifies all others."""

VECTORS = 5
"""Blocks of probes held at once beside the basis: current, previous, the next; a product and a copy of it or of what
was multiplied."""

SINGLE = 7
"""Vectors beside them: the first image, a product of the preflight (two), sums that verify all products (twice two)."""


def plan_probes(options: Options, operator: Operator, room: int | None = None) -> int:
    """The number asked for, or as many as sampling needs for the precision, within limits; checks their memory.

    Of a small budget, `room` products, at least the square root is left to depth, or the steps that were asked for; the
    least number of probes is planned all the same.
    """
    size, probes, steps = operator.shape[0], options.probes, options.steps
    m = min(max(probes_for(options.precision, size, share(options.confidence)), LEAST_PROBES), MOST_PROBES)
    if room is not None:
        m = max(LEAST_PROBES, min(m, max(room, 0) // steps if steps else math.isqrt(max(room, 0))))
    m = m if probes is None else probes
    needed = held_here(operator, beside_bytes(m, size))
    require_bytes(needed, operator.device, f"a block of {m} probes", "pass fewer probes")
    return m


def beside_bytes(probes: int, size: int) -> int:
    """Memory of a run without a basis: (5 m + 7) N float64; what else a product takes is the operator's."""
    return (VECTORS * probes + SINGLE) * size * 8


def plan_depth(steps: int, probes: int, budget: Budget, *, asked: bool = False) -> int:
    """Steps per probe that the budget of products allows; `asked`: whether the caller chose the number of probes."""
    if budget.left is None:
        return steps
    spent, depth = budget.total, min(steps, budget.left // probes)
    if depth < 1:
        raise ValueError(
            f"max_products must leave one step for each of {probes} probes after {spent} products of "
            f"preflight; got {budget.most}: raise it to at least {spent + probes}"
            + (", or pass fewer probes" if asked else "")
        )
    return depth


def plan_search(operator: Operator, max_products: int | None, others: int) -> tuple[int, float, int]:
    """(steps in all, accuracy, steps between looks) of the search for the largest |eigenvalue|.

    Until the largest |Ritz value| moves by less than 1e-6 of itself, with a budget 1e-4: a count near tau moves by less
    than that share of itself. With a budget the search takes at most a twelfth, four steps beyond the preflight at
    least, but none that `others` need: tau is then a fraction of a lower bound, which the counts state.
    """
    if max_products is None:
        return SEARCH, 1e-6, 4
    made = min(KRYLOV, operator.shape[0])
    part = scout_steps(max_products, operator.shape[0]) - made
    return made + max(0, min(max(4, part), SEARCH - made, max_products - others)), 1e-4, 2


def least_products(operator: Operator, exact: bool, options: Options, phase: int = 0) -> int:
    """The smallest budget that reaches the end of an exact count, or one step for each probe of every run.

    `phase`: products that make a preconditioner, which has two runs a threshold; an enumeration takes half.
    """
    first = preflight_products(operator)
    if exact:
        if isinstance(operator, Tensor | Dense | DenseOverRanks):
            return first  # its entries are there
        return first + FINAL + operator.shape[0] + (OVERHEAD if of_network(operator) else REPEATED)
    runs = 1 if options.made is None else 2 * (1 + len(options.beside))
    sampled = runs * (LEAST_PROBES if options.probes is None else options.probes)
    if options.enumerate_negative:
        sampled = max(4 * ENUMERATION_BLOCK, 2 * sampled - 1)
    return first + FINAL + DEAD + options.nulls + phase + sampled


def compression_bytes(probes: int, steps: int) -> int:
    """Memory that Cauchy's bounds take in the end, c = min(m k, LARGEST) columns: 4 c^2 + 4 c SLICE numbers."""
    columns = min(probes * steps, LARGEST)
    return 4 * columns * (columns + SLICE) * 8


def keep_basis(
    reorthogonalize: bool | Literal["auto"], operator: Operator, probes: int, steps: int, free: int | None = None
) -> bool:
    """Whether the basis is kept; refused where it was asked for and cannot fit beside what goes with it.

    `free`: bytes that may be used, what is available by default.
    """
    needed = basis_bytes(operator, probes, steps)
    beside = beside_bytes(probes, operator.shape[0]) + compression_bytes(probes, steps)
    if free is None:
        free = answered(f"free for {probes * steps} vectors", lambda: available_bytes(operator.device))
    if reorthogonalize == "auto":
        return needed <= basis_room(operator, free, beside=beside, part=2, probes=probes)
    room = basis_room(operator, free, beside=beside, probes=probes)
    if reorthogonalize and needed > room:
        raise ValueError(
            f"reorthogonalization keeps {probes} x {steps} vectors, {(needed + beside) / 2**30:.1f} GiB with what goes "
            f"with them; {max(0, room + beside) / 2**30:.1f} GiB are free{_on_ranks(operator)}: "
            "pass reorthogonalize=False, or fewer probes or steps"
        )
    return bool(reorthogonalize)


def _on_ranks(operator: Operator) -> str:
    """Where a basis is spread over ranks, on how many."""
    shared = shared_by(operator)
    return "" if shared is None else f" on {shared.ranks} ranks together, by the one that has least"


def products_to_come(operator: Operator, options: Options, *, exact: bool) -> int | None:
    """What a count that begins may take at most, to foretell its time; None where that is not known beforehand.

    Without a budget: all steps of the planned probes of a plain run, in the dimension N.
    """
    if exact or options.max_products is not None:
        return None if exact else options.max_products
    if options.method == "elimination" or options.enumerate_negative or options.made is not None:
        return None
    size, first = operator.shape[0], preflight_products(operator)
    search = 0 if options.relative_threshold is None else min(SEARCH, size) - min(KRYLOV, size)
    m = min(max(probes_for(options.precision, size, share(options.confidence)), LEAST_PROBES), MOST_PROBES)
    steps = min(options.steps or STEPS, size)
    return first + search + DEAD + FINAL + (m if options.probes is None else options.probes) * steps


def check_budget(max_products: int | None, least: int, enough: int, exact: bool, probes: int | None) -> None:
    """Refuse a budget below `least`; raises ValueError with one that is `enough`."""
    what = "the exact count" if exact else f"one step for each of {LEAST_PROBES if probes is None else probes} probes"
    if max_products is not None and max_products < least:
        raise ValueError(
            f"max_products must leave {what} after the preflight; got {max_products}: raise it to at least {enough}"
            + ("" if exact or probes is None or probes == 1 else ", or pass fewer probes")
        )
