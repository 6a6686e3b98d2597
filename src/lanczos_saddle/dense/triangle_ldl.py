"""H - t I = T D T' of one triangle: the pivots of `blocked_ldl`, taken from the left, so that a file is read seldom.

    window      the next `WINDOW` columns of H, minus all of L D L' that is known: one pass over L, matrix products
    eliminate   block by block within the window, as in `blocked_ldl`; L goes to where it stays

Directions that wait are carried into the next window. L may lie in the place of H: columns of H are read before those
of L are written there, and none afterwards. Numbers that pass from L to the windows: N^3 / (6 WINDOW), against N^3 / 3
flops; columns of H once.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from lanczos_saddle.dense.blocked_ldl import BLOCK, DELAYED, Step, chosen_pivots, inverse_of
from lanczos_saddle.dense.triangle import Triangle
from lanczos_saddle.machine.progress import current

WINDOW = 2048  # columns; 8 N WINDOW bytes beside the triangle
TILE = 512  # columns of one update: what is above the diagonal is not computed


class Factor(NamedTuple):
    """H - t I = T D T' - R."""

    lower: Triangle  # L
    steps: list[Step]
    pivots: Tensor  # (N,) the diagonal of D


def factorize(
    source: Triangle, lower: Triangle, t: float, *, window: int = WINDOW, block: int = BLOCK, delayed: int = DELAYED
) -> Factor:
    """Eliminate; `lower` takes L and may be the source, which is then used up."""
    size, steps, pivots = source.size, list[Step](), torch.zeros(source.size, dtype=torch.float64)
    limit = _scale(source, t)
    start, known, waiting = 0, 0, torch.empty(size, 0, dtype=torch.float64)
    while start < size:
        base, end = start, min(known + -(-window // source.width) * source.width, size)
        active = torch.empty(size - base, end - base, dtype=torch.float64)
        active[:, : known - base] = waiting
        fresh = active[known - base :, known - base :]
        _load(source, fresh, slice(known, end), t)
        _subtract(Factor(lower, steps, pivots[:start]), fresh, known)
        held = known - start  # directions that wait
        while True:
            here, stop = start - base, min(start + held + block, end)
            there = stop - base
            found = chosen_pivots(active[here:there, here:there], active[there:, here:there], limit, delayed)
            accepted, middle = found.accepted, start + found.accepted
            pivots[start:middle] = found.values[:accepted]
            corner = active[middle - base : there, middle - base : there]
            corner.copy_(found.values[accepted:].diag())
            active[there:, middle - base : there] = found.panel[:, accepted:]
            inverse = inverse_of(found.values[:accepted])
            panel = found.panel[:, :accepted]
            _update(active[there:, there:], panel, inverse)
            _store(lower, stop, slice(start, middle), panel * inverse)
            steps.append(Step(start, accepted, found.turn))
            start, held = middle, stop - middle
            if stop == end:
                break
        waiting, known = active[start - base :, start - base :].clone(), end
        current().to(100 * _work(known / size))
        del active, fresh, corner
    return Factor(lower, steps, pivots)


def apply_factors(factor: Factor, rows: Tensor) -> Tensor:
    """v' T D T' for rows v' (k, N); two passes over L."""
    z = rows.clone(memory_format=torch.contiguous_format)
    for step in factor.steps:
        stop = step.start + len(step.turn)
        z[:, step.start : stop] = z[:, step.start : stop] @ step.turn
        for part, lower in _columns(factor.lower, step, stop):
            z[:, part] += z[:, stop:] @ lower
    z *= factor.pivots
    for step in reversed(factor.steps):
        stop = step.start + len(step.turn)
        for part, lower in _columns(factor.lower, step, stop):
            z[:, stop:] += z[:, part] @ lower.mT
        z[:, step.start : stop] = z[:, step.start : stop] @ step.turn.mT
    return z


def solve_factors(factor: Factor, rows: Tensor) -> Tensor:
    """v' (T D T')^-1 for rows v' (k, N); not finite where a pivot is zero."""
    z = rows.clone(memory_format=torch.contiguous_format)
    for step in factor.steps:
        stop = step.start + len(step.turn)
        z[:, step.start : stop] = z[:, step.start : stop] @ step.turn
        for part, lower in _columns(factor.lower, step, stop):
            z[:, stop:] -= z[:, part] @ lower.mT
    z /= factor.pivots
    for step in reversed(factor.steps):
        stop = step.start + len(step.turn)
        for part, lower in _columns(factor.lower, step, stop):
            z[:, part] -= z[:, stop:] @ lower
        z[:, step.start : stop] = z[:, step.start : stop] @ step.turn.mT
    return z


def _scale(source: Triangle, t: float) -> float:
    """About the largest row norm of H - t I."""
    norms = source.norms()
    return float(norms.max()) + abs(t)


def _load(source: Triangle, fresh: Tensor, columns: slice, t: float) -> None:
    """Fresh <- (H - t I)[columns.start:, columns], what is above the diagonal within it left as it is."""
    for index, part in source.pieces(columns):
        place = part.start - columns.start
        fresh[place:, place : place + part.stop - part.start] = source.panel(index)
        source.release(index)
    fresh.diagonal().sub_(t)


def _subtract(known: Factor, fresh: Tensor, first: int) -> None:
    """Fresh -= L D L' of all pivots that are known, rows first.. and as many columns as there are."""
    size, count = known.lower.size, len(known.pivots)
    before, after = (_work(end / size) for end in (first, first + fresh.shape[1]))
    for index, part in known.lower.pieces(slice(0, count)):
        _update(fresh, known.lower.part(first, part), known.pivots[part])
        known.lower.release(index)
        current().to(100 * (before + (after - before) * part.stop / count))


def _work(columns: float) -> float:
    """The share of all operations that this share of the columns takes, from the left: 6 x (1 - x) integrated."""
    return columns**2 * (3 - 2 * columns)


def _update(matrix: Tensor, panel: Tensor, diagonal: Tensor) -> None:
    """Matrix (n, k) -= panel diag(diagonal) panel[:k]', on and below the diagonal."""
    for start in range(0, matrix.shape[1], TILE):
        stop = min(start + TILE, matrix.shape[1])
        matrix[start:, start:stop].addmm_(panel[start:], (panel[start:stop] * diagonal).mT, alpha=-1)


def _store(lower: Triangle, first: int, columns: slice, values: Tensor) -> None:
    """L[first:, columns] <- values."""
    for index, part in lower.pieces(columns):
        lower.part(first, part).copy_(values[:, part.start - columns.start : part.stop - columns.start])
        lower.release(index)


def _columns(lower: Triangle, step: Step, stop: int) -> Iterator[tuple[slice, Tensor]]:
    """(pivots of the step, L below the block for them), panel by panel."""
    for index, part in lower.pieces(slice(step.start, step.start + step.accepted)):
        yield part, lower.part(stop, part)
        lower.release(index)
