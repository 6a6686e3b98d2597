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
from lanczos_saddle.certificates.intervals import check_confidence, check_positive, share
from lanczos_saddle.counting.allocation import pilot_steps
from lanczos_saddle.counting.enumeration import BLOCK as ENUMERATION_BLOCK
from lanczos_saddle.defaults import METHODS
from lanczos_saddle.dense.exact import OVERHEAD, REPEATED, Dense
from lanczos_saddle.krylov.lanczos import SLICE, basis_bytes
from lanczos_saddle.krylov.largest import STEPS as SEARCH
from lanczos_saddle.krylov.preflight import KRYLOV, preflight_products
from lanczos_saddle.machine.memory import available_bytes, require_bytes
from lanczos_saddle.machine.streams import check_generator
from lanczos_saddle.operators.operator import Operator, of_network
from lanczos_saddle.operators.scalars import shown

LEAST_PROBES = 4
"""With four probes an empty class can be certified empty (docs/method.md); one is enough only for large counts."""

MOST_PROBES = 64
"""More are drawn only when asked for: where so many would be planned, N is small and exact counts are cheaper."""

DEAD = 2
"""Products that find the dead coordinates."""

FINAL = 1
"""The product at the end that verifies all others."""

VECTORS = 6
"""Blocks of probes held at once beside the basis: start, current, previous, product, scratch."""


def plan_probes(
    probes: int | None,
    operator: Operator,
    precision: float,
    confidence: float,
    room: int | None = None,
    steps: int | None = None,
) -> int:
    """The number asked for, or as many as sampling needs for the precision, within limits; checks their memory.

    Of a small budget, `room` products, at least the square root is left to depth, or the steps that were asked for; the
    least number of probes is planned all the same.
    """
    size = operator.shape[0]
    m = min(max(probes_for(precision, size, share(confidence)), LEAST_PROBES), MOST_PROBES)
    if room is not None:
        m = max(LEAST_PROBES, min(m, max(room, 0) // steps if steps else math.isqrt(max(room, 0))))
    m = m if probes is None else probes
    require_bytes(VECTORS * m * size * 8, operator.device, f"a block of {m} probes", "pass fewer probes")
    return m


def plan_depth(steps: int, probes: int, spent: int, max_products: int | None, *, asked: bool = False) -> int:
    """Steps per probe that the budget of products allows; `asked`: whether the caller chose the number of probes."""
    if max_products is None:
        return steps
    depth = min(steps, (max_products - spent) // probes)
    if depth < 1:
        raise ValueError(
            f"max_products must leave one step for each of {probes} probes after {spent} products of "
            f"preflight; got {max_products}: raise it to at least {spent + probes}"
            + (", or pass fewer probes" if asked else "")
        )
    return depth


def plan_search(operator: Operator, max_products: int | None, others: int) -> tuple[int, float, int]:
    """(steps in all, accuracy, steps between looks) of the search for the largest |eigenvalue|.

    Without a budget, as far as float64 carries. With one, the preflight, the search and the pilot take a tenth of it
    and the search four steps beyond the preflight at least, but none that `others` need: tau is then a fraction of a
    lower bound, which the counts state.
    """
    if max_products is None:
        return SEARCH, 1e-10, 10
    made = min(KRYLOV, operator.shape[0])
    tenth = max_products // 10 - preflight_products(operator) - FINAL - pilot_steps(max_products, operator.shape[0])
    return made + max(0, min(max(4, tenth), SEARCH - made, max_products - others)), 1e-4, 2


def least_products(
    operator: Operator,
    exact: bool,
    probes: int | None,
    *,
    enumerate_negative: bool = False,
    nulls: int = 0,
    runs: int = 1,
    phase: int = 0,
) -> int:
    """The smallest budget that reaches the end of an exact count, or one step for each probe of every run.

    `nulls`: columns of null vectors; `phase`: products that make a preconditioner; an enumeration takes half.
    """
    first = preflight_products(operator)
    if exact:
        if isinstance(operator, Tensor | Dense):
            return first  # its entries are there
        return first + FINAL + operator.shape[0] + (OVERHEAD if of_network(operator) else REPEATED)
    sampled = runs * (LEAST_PROBES if probes is None else probes)
    if enumerate_negative:
        sampled = max(4 * ENUMERATION_BLOCK, 2 * sampled - 1)
    return first + FINAL + DEAD + nulls + phase + sampled


def keep_basis(reorthogonalize: bool | Literal["auto"], operator: Operator, probes: int, steps: int) -> bool:
    """Whether the basis is kept; refused where it was asked for and cannot fit beside what goes with it."""
    columns = probes * steps
    compression = 4 * min(columns, LARGEST) * (min(columns, LARGEST) + SLICE) * 8
    needed = basis_bytes(operator, probes, steps) + VECTORS * probes * operator.shape[0] * 8 + compression
    free = available_bytes(operator.device)
    if reorthogonalize == "auto":
        return needed <= free // 2
    if reorthogonalize and needed > free:
        raise ValueError(
            f"reorthogonalization keeps {probes} x {steps} vectors, {needed / 2**30:.1f} GiB with what goes with them; "
            f"{free / 2**30:.1f} GiB are free: pass reorthogonalize=False, or fewer probes or steps"
        )
    return bool(reorthogonalize)


def check_choices(method: object, reorthogonalize: object, generator: object, enumerate_negative: object) -> None:
    """Refuse what is not among the choices; raises ValueError."""
    if not isinstance(method, str) or method not in METHODS:
        raise ValueError(f'method must be "auto", "exact", "lanczos" or "elimination"; got {method!r}')
    if not (isinstance(reorthogonalize, bool) or (isinstance(reorthogonalize, str) and reorthogonalize == "auto")):
        raise ValueError(f'reorthogonalize must be True, False or "auto"; got {shown(reorthogonalize)}')
    check_generator(generator)
    if not isinstance(enumerate_negative, bool):
        raise ValueError(f"enumerate_negative must be True or False; got {shown(enumerate_negative)}")


def check_budget(max_products: int | None, least: int, enough: int, exact: bool, probes: int | None) -> None:
    """Refuse a budget below `least`; raises ValueError with one that is `enough`."""
    what = "the exact count" if exact else f"one step for each of {LEAST_PROBES if probes is None else probes} probes"
    if max_products is not None and max_products < least:
        raise ValueError(
            f"max_products must leave {what} after the preflight; got {max_products}: raise it to at least {enough}"
            + ("" if exact or probes is None or probes == 1 else ", or pass fewer probes")
        )


def check_arguments(
    threshold: float | None,
    relative: float | None,
    confidence: float,
    precision: float,
    probes: int | None,
    steps: int | None,
    negative_at_most: int | None,
    size: int,
) -> None:
    """Refuse arguments of `count_eigenvalues` that make no sense together or for N = size; raises ValueError."""
    if (threshold is None) == (relative is None):
        raise ValueError(
            "pass one of threshold (absolute) and relative_threshold (a fraction of the largest |eigenvalue|); "
            f"got threshold={threshold}, relative_threshold={relative}"
        )
    check_positive(threshold if threshold is not None else relative)
    if relative is not None and relative >= 1:
        raise ValueError(f"relative_threshold must be below 1, where every eigenvalue is near zero; got {relative}")
    check_confidence(confidence)
    if not 0 < precision < 1:
        raise ValueError(f"precision is a fraction of N, between 0 and 1; got {precision}")
    if probes is not None and probes < 1:
        raise ValueError(f"probes must be at least 1; got {probes}")
    if steps is not None and not 1 <= steps <= size:
        raise ValueError(f"steps must be between 1 and {size}, the dimension of the operator; got {steps}")
    if negative_at_most is not None and negative_at_most < 0:
        raise ValueError(f"negative_at_most bounds a count and is at least 0; got {negative_at_most}")
