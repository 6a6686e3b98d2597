"""H - t I = T D T' by blocks, from matrix products: any device, 64-bit sizes, in the memory of H.

    1. mix         H <- M H M', M orthogonal: random signs and Hadamard transforms, so that no order of coordinates
                   and no zero pattern is special and diagonal blocks are well conditioned but for few directions
    2. eliminate   diagonal block = Q diag(d) Q'; the directions with |a_i|^2 <= GROWTH |H - t I| |d_i| (a_i: what
                   couples direction i to the rest) are pivots, the others are delayed into the next block
    3. update      trailing part -= L diag(d) L', lower tiles only, by matrix products

Q is orthogonal and pivots are eigenvalues of diagonal blocks, so their signs are counted directly. No update adds
more than GROWTH |H - t I|, unless more than DELAYED directions wait at once: then the best of them are taken, and
the residual, which is always measured (`sylvester`), says what that cost.

Mixing instead of pivoting: Parker 1995; Baboulin, Becker, Bosilca, Danalis, Dongarra 2014 (randomized LDL').
One wait for the device in a block (how many directions are delayed); none in the updates.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from lanczos_saddle.machine.progress import current

BLOCK = 512  # the rank of one update; `eigh` of this size must stay small beside it
TILE = 1024  # columns of one update
DELAYED = 1024  # directions that may wait; further ones become pivots whatever they cost
VECTORS = TILE + 6 * BLOCK  # of length N, beside the matrix: diagonal tiles, all Q, a panel and its copies
GROWTH = 100.0  # a delay costs another look at a direction, growth costs digits


class Mixing(NamedTuple):
    """M = H2 S2 H1 S1: signs S, Hadamard transforms H of the first and of the last 2^k coordinates."""

    signs: Tensor  # (2, N) of +-1
    left: Tensor  # (2^a, 2^a) and
    right: Tensor  # (2^b, 2^b), a + b = k, orthogonal: their Kronecker product transforms 2^k coordinates

    def rows(self, x: Tensor) -> Tensor:
        """x M' for x (n, N)."""
        x = x * self.signs[0]
        x[:, : self._window] = self._transform(x[:, : self._window])
        x *= self.signs[1]
        x[:, -self._window :] = self._transform(x[:, -self._window :])
        return x

    def rows_back(self, x: Tensor) -> Tensor:
        """x M for x (n, N); the transforms are symmetric."""
        x = x.clone()
        x[:, -self._window :] = self._transform(x[:, -self._window :])
        x *= self.signs[1]
        x[:, : self._window] = self._transform(x[:, : self._window])
        return x * self.signs[0]

    @property
    def _window(self) -> int:
        return len(self.left) * len(self.right)

    def _transform(self, x: Tensor) -> Tensor:
        folded = x.reshape(len(x), len(self.left), len(self.right))
        return (self.left @ (folded @ self.right)).reshape(len(x), self._window)


class Step(NamedTuple):
    """One block: coordinates start..stop turn by Q, the first `accepted` of them are pivots."""

    start: int
    accepted: int
    turn: Tensor  # Q (stop - start, stop - start)


class Factor(NamedTuple):
    """H - t I = T D T' - R: L in the lower triangle of the matrix, H in its strict upper tiles and `squares`."""

    matrix: Tensor  # (N, N)
    steps: list[Step]
    pivots: Tensor  # (N,) the diagonal of D
    squares: list[Tensor]  # diagonal tiles of H


def mixing(size: int, generator: torch.Generator, device: torch.device) -> Mixing:
    """Random signs, drawn on the CPU, and Hadamard matrices for the largest power of 2 up to N."""
    signs = torch.randint(0, 2, (2, size), generator=generator).mul_(2).sub_(1)
    return mixing_by(signs.to(device, torch.float64))


def mixing_by(signs: Tensor) -> Mixing:
    """That of these signs (2, N), on their device."""
    power = signs.shape[1].bit_length() - 1
    left, right = (hadamard(k).to(signs.device) for k in (power // 2, power - power // 2))
    return Mixing(signs, left, right)


def mix(matrix: Tensor, mixed: Mixing) -> None:
    """H <- M H M' in place, by rows and by columns; 4 N^2 (2^a + 2^b) flops."""
    for part in _tiles(len(matrix), TILE):
        matrix[part] = mixed.rows(matrix[part])
    for part in _tiles(len(matrix), TILE):
        matrix[:, part] = mixed.rows(matrix[:, part].mT.contiguous()).mT


def factorize(matrix: Tensor, t: float, *, block: int = BLOCK, delayed: int = DELAYED) -> Factor:
    """Eliminate in place; N^3 / 3 flops, and `VECTORS` of length N beside the matrix."""
    size = len(matrix)
    squares = [matrix[part, part].clone() for part in _tiles(size, TILE)]
    matrix.diagonal().sub_(t)
    scale = max((float(torch.linalg.vector_norm(matrix[part], dim=1).max()) for part in _tiles(size, TILE)), default=0)
    steps, pivots = list[Step](), matrix.new_zeros(size)
    start, waiting = 0, 0
    while start < size:
        stop = min(start + waiting + block, size)
        block_of = matrix[start:stop, start:stop], matrix[stop:, start:stop]
        accepted, values, turn, panel = chosen_pivots(*block_of, scale, delayed)
        middle = start + accepted
        pivots[start:middle] = values[:accepted]
        corner = matrix[middle:stop, middle:stop]
        corner.copy_(corner.triu(1) + values[accepted:].diag())
        inverse = inverse_of(values[:accepted])
        matrix[stop:, middle:stop] = panel[:, accepted:]
        _update(matrix, stop, panel[:, :accepted], inverse)
        matrix[stop:, start:middle] = panel[:, :accepted] * inverse
        steps.append(Step(start, accepted, turn))
        start, waiting = middle, stop - middle
        current().to(100 * (1 - (1 - start / size) ** 3))  # of the operations
    return Factor(matrix, steps, pivots, squares)


class Turned(NamedTuple):
    """A diagonal block Q diag(values) Q', the directions that are pivots first."""

    accepted: int  # pivots
    values: Tensor
    turn: Tensor  # Q
    panel: Tensor  # what couples the directions to the rest


def chosen_pivots(square: Tensor, below: Tensor, scale: float, delayed: int) -> Turned:
    """The directions of a diagonal block, those first that add least; all but `delayed` are pivots at least."""
    values, turn = torch.linalg.eigh(square)
    panel = below @ turn
    excess = panel.square().sum(0) - GROWTH * scale * values.abs()
    order = excess.argsort()  # what grows least comes first
    accepted = max(int((excess <= 0).sum()), len(square) - delayed)
    return Turned(accepted, values[order], turn[:, order], panel[:, order])


def inverse_of(pivots: Tensor) -> Tensor:
    """1 / pivots, 0 for a zero pivot, which is coupled to nothing."""
    inverse = 1 / pivots
    return torch.where(inverse.isfinite(), inverse, 0.0)


def restore(factor: Factor) -> None:
    """The matrix as it was before `factorize`, up to its asymmetry: the upper triangle is mirrored."""
    for part, square in zip(_tiles(len(factor.matrix), TILE), factor.squares, strict=True):
        factor.matrix[part, part] = square
        factor.matrix[part.stop :, part] = factor.matrix[part, part.stop :].mT


def apply_factors(factor: Factor, v: Tensor) -> Tensor:
    """T D T' v for v (N, k); 2 N^2 flops a column."""
    z = v.clone()
    for step in factor.steps:
        block, pivots, rest, lower = _parts(factor, step)
        z[block] = step.turn.mT @ z[block]
        z[pivots] += lower.mT @ z[rest]
    z *= factor.pivots[:, None]
    for step in reversed(factor.steps):
        block, pivots, rest, lower = _parts(factor, step)
        z[rest] += lower @ z[pivots]
        z[block] = step.turn @ z[block]
    return z


def solve_factors(factor: Factor, v: Tensor) -> Tensor:
    """(T D T')^-1 v for v (N, k); not finite where a pivot is zero."""
    z = v.clone()
    for step in factor.steps:
        block, pivots, rest, lower = _parts(factor, step)
        z[block] = step.turn.mT @ z[block]
        z[rest] -= lower @ z[pivots]
    z /= factor.pivots[:, None]
    for step in reversed(factor.steps):
        block, pivots, rest, lower = _parts(factor, step)
        z[pivots] -= lower.mT @ z[rest]
        z[block] = step.turn @ z[block]
    return z


def _update(matrix: Tensor, start: int, panel: Tensor, inverse: Tensor) -> None:
    """A[start:, start:] -= panel diag(inverse) panel', the tiles of a fixed grid on and below the diagonal."""
    for part in _tiles(len(matrix), TILE):
        first = max(part.start, start)
        if first < part.stop:
            row = first - start
            scaled = panel[row : part.stop - start] * inverse
            matrix[first:, first : part.stop].addmm_(panel[row:], scaled.mT, alpha=-1)


def _parts(factor: Factor, step: Step) -> tuple[slice, slice, slice, Tensor]:
    """Coordinates of a block, of its pivots and behind it; L between the last two."""
    stop, middle = step.start + len(step.turn), step.start + step.accepted
    pivots, rest = slice(step.start, middle), slice(stop, None)
    return slice(step.start, stop), pivots, rest, factor.matrix[rest, pivots]


def hadamard(power: int) -> Tensor:
    """The orthogonal Hadamard matrix of size 2^power, by Sylvester's recursion."""
    matrix = torch.ones(1, 1, dtype=torch.float64)
    for _ in range(power):
        matrix = torch.cat([torch.cat([matrix, matrix], dim=1), torch.cat([matrix, -matrix], dim=1)]) / math.sqrt(2)
    return matrix


def _tiles(size: int, width: int) -> Iterator[slice]:
    return (slice(start, min(start + width, size)) for start in range(0, size, width))
