"""The largest |eigenvalue|, which relative thresholds refer to."""

from __future__ import annotations

from typing import Any

import torch

from lanczos_saddle.krylov.gauss import gauss_rule
from lanczos_saddle.krylov.lanczos import Lanczos
from lanczos_saddle.krylov.preflight import LARGEST, SMALLEST
from lanczos_saddle.machine.progress import during
from lanczos_saddle.operators.leading import led
from lanczos_saddle.operators.operator import as_operator
from lanczos_saddle.operators.scaling import exponent_to_one, scaled, times
from lanczos_saddle.operators.vectors import gaussian

STEPS = 100
"""Products that may find the largest |eigenvalue|."""

LOOK = 10
"""Steps between two looks at it."""


@led
def largest_magnitude(
    operator: Any, generator: torch.Generator | None = None, *, steps: int = STEPS
) -> tuple[float, int]:
    """(largest |Ritz value| of a run of its own, products spent): stops when it moves by less than 1e-10 of itself.

    A lower bound on the largest |eigenvalue|, to rounding where `steps` products suffice.
    """
    operator = as_operator(operator)
    generator = generator or torch.Generator().manual_seed(0)
    probe = gaussian(operator, 1, generator)
    run = Lanczos(operator, probe, reorthogonalize=False)
    try:
        found, overflow = continue_search(run, steps), None
    except ValueError as error:  # a first product that is not finite, or whose norm is not
        found, overflow = 0.0, error
    if overflow is None and (SMALLEST <= found <= LARGEST or (found == 0.0 and not run.failed)):
        return found, run.products
    image = operator @ probe.to(operator.device, operator.dtype)  # squares of what H makes overflow or vanish
    exponent = exponent_to_one(float(image.abs().max())) if bool(image.isfinite().all()) else 0
    if exponent == 0:
        if overflow is not None:
            raise overflow
        return found, run.products + 1
    again = Lanczos(scaled(operator, exponent), probe, reorthogonalize=False)
    return times(continue_search(again, steps), -exponent), run.products + 1 + again.products


def _to_come(run: Lanczos, steps: int, **_: object) -> int:
    """Products that a search takes at most."""
    return run.probes * (min(max(steps, run.steps), run.operator.shape[0]) - run.steps)


@during("largest |eigenvalue|", _to_come, bound="at most")
def continue_search(run: Lanczos, steps: int, *, accuracy: float = 1e-10, every: int = LOOK) -> float:
    """The largest |Ritz value| of a recurrence, a lower bound on the largest |eigenvalue| up to rounding.

    Continued until `steps` have been made, or until it moves by less than `accuracy` of itself between two looks.
    """
    last, largest = min(max(steps, run.steps), run.operator.shape[0]), 0.0
    for look in [*range(run.steps // every * every + every, last, every), last]:
        diagonal, off = run.extend(max(look, run.steps)).coefficients(0)
        found = float(abs(gauss_rule(diagonal, off).nodes).max())
        if run.failed or abs(found - largest) <= accuracy * found:
            break
        largest = found
    return found
