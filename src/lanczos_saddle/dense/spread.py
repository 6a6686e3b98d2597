"""H <- M H M' on one triangle, in place, tile by tile: what `blocked_ldl.mix` does to a square matrix.

    M = C2 S3 C1 S2 G S1     S: random signs        G: a Hadamard transform inside each tile of coordinates
                             C: one across the tiles of the first, and of the last 2^k whole tiles

Every factor of a Hadamard transform is orthogonal and symmetric, and a congruence with it keeps one triangle: across
tiles it is taken `RADIX` tiles at a time, so that RADIX^2 tiles are in memory at once. Cost: about 4 passes over the
triangle and 2 N^2 (2^a + 2^b) flops, 2^(a + b) = w.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from lanczos_saddle.dense.blocked_ldl import hadamard
from lanczos_saddle.dense.triangle import Triangle

RADIX = 3  # bits: 64 tiles of 2 MiB at once


class Spread(NamedTuple):
    """M, as signs and the windows of whole tiles across which it mixes."""

    width: int
    signs: Tensor  # (3, N) of +-1
    windows: list[range]  # of tiles

    def rows(self, x: Tensor) -> Tensor:
        """x M' for x (n, N)."""
        x = self._inside(x * self.signs[0])
        for window, signs in zip(self.windows, self.signs[1:], strict=False):
            part = slice(window.start * self.width, window.stop * self.width)
            x[:, part] = self._across(x[:, part] * signs[part], len(window))
        return x

    def rows_back(self, x: Tensor) -> Tensor:
        """x M for x (n, N)."""
        x = x.clone()
        for window, signs in reversed(list(zip(self.windows, self.signs[1:], strict=False))):
            part = slice(window.start * self.width, window.stop * self.width)
            x[:, part] = self._across(x[:, part], len(window)) * signs[part]
        return self._inside(x, back=True) * self.signs[0]

    def _inside(self, x: Tensor, *, back: bool = False) -> Tensor:
        return torch.cat([transformed(part, back=back) for part in torch.split(x, self.width, dim=1)], dim=1)

    def _across(self, x: Tensor, tiles: int) -> Tensor:
        folded = x.reshape(len(x), tiles, self.width)
        return (hadamard(tiles.bit_length() - 1) @ folded).reshape(x.shape)


def spreading(triangle: Triangle, generator: torch.Generator) -> Spread:
    """Random signs, and the windows that the whole tiles allow."""
    signs = torch.randint(0, 2, (3, triangle.size), generator=generator).mul_(2).sub_(1).double()
    whole = triangle.size // triangle.width
    count = 1 << max(0, whole.bit_length() - 1)
    starts = [] if count < 2 else sorted({0, whole - count})
    return Spread(triangle.width, signs, [range(start, start + count) for start in starts])


def spread(triangle: Triangle, spreading: Spread) -> None:
    """H <- M H M'."""
    signs = spreading.signs
    for index in range(triangle.panels):
        panel, part = triangle.panel(index), triangle.place(index)
        panel.mul_(signs[0, part.start :, None]).mul_(signs[0, part])
        panel.copy_(transformed(panel))
        for rows in torch.split(panel, triangle.width):
            rows.copy_(transformed_rows(rows))
        triangle.release(index)
    for window, sign in zip(spreading.windows, signs[1:], strict=False):
        inside = torch.ones(triangle.size, dtype=torch.float64)
        part = slice(window.start * triangle.width, window.stop * triangle.width)
        inside[part] = sign[part]
        bits = len(window).bit_length() - 1
        for low in range(0, bits, RADIX):
            _stage(triangle, window, (low, min(RADIX, bits - low)), inside if low == 0 else None)


def transformed(x: Tensor, *, back: bool = False) -> Tensor:
    """x G' for x (n, r): the Hadamard transform of the first 2^k of r coordinates, then of the last. `back`: x G."""
    size = x.shape[1]
    power = size.bit_length() - 1
    left, right = hadamard(power // 2), hadamard(power - power // 2)
    count = 1 << power
    for start in sorted({0, size - count}, reverse=back):
        folded = x[:, start : start + count].reshape(-1, len(right)) @ right
        folded = folded.reshape(len(x), len(left), len(right))
        turned = (left @ folded).reshape(len(x), count)
        x = turned if count == size else torch.cat([x[:, :start], turned, x[:, start + count :]], dim=1)
    return x


def transformed_rows(x: Tensor) -> Tensor:
    """G x for x (r, n), r as in `transformed`."""
    size = len(x)
    power = size.bit_length() - 1
    left, right = hadamard(power // 2), hadamard(power - power // 2)
    count = 1 << power
    if count < size:
        return transformed(x.mT.contiguous()).mT
    folded = (left @ x.reshape(len(left), -1)).reshape(len(left), len(right), -1)
    return (right @ folded).reshape(x.shape)


def _stage(triangle: Triangle, window: range, bits: tuple[int, int], signs: Tensor | None) -> None:
    """Bits low .. low + count of the numbers of tiles in the window; signs first, where they are given."""
    groups = list(_groups(triangle.panels, window, *bits))
    for place, first in enumerate(groups):
        for second in groups[: place + 1]:
            if len(first) > 1 or len(second) > 1:
                _mix_tiles(triangle, first, second, signs)
        for index in {index for group in groups[: place + 1] for index in group}:
            triangle.release(index)


def _groups(tiles: int, window: range, low: int, count: int) -> Iterator[list[int]]:
    """Tiles that are mixed with each other, and those outside the window, which stay alone."""
    for index in range(tiles):
        if index not in window:
            yield [index]
        elif not (index - window.start) >> low & ((1 << count) - 1):
            yield [index + (digit << low) for digit in range(1 << count)]


def _mix_tiles(triangle: Triangle, first: list[int], second: list[int], signs: Tensor | None) -> None:
    """Tiles (i, j), i in one group and j in another, or in the same one."""

    def tile(i: int, j: int) -> Tensor:
        return triangle.tile(i, j) if i >= j else triangle.tile(j, i).mT

    shape = tile(first[0], second[0]).shape
    block = torch.empty(len(first), len(second), *shape, dtype=torch.float64)
    for row, i in zip(block, first, strict=True):
        for old, j in zip(row, second, strict=True):
            old.copy_(tile(i, j))
    if signs is not None:
        rows, columns = (torch.stack([signs[triangle.place(i)] for i in group]) for group in (first, second))
        block *= rows[:, None, :, None]
        block *= columns[None, :, None, :]
    turn = torch.kron(*(hadamard(len(group).bit_length() - 1) for group in (first, second)))
    mixed = (turn @ block.reshape(len(turn), -1)).reshape(block.shape)
    for i, row in zip(first, mixed, strict=True):
        for j, new in zip(second, row, strict=True):
            if i >= j:
                triangle.tile(i, j).copy_(new)
            elif first is not second:
                triangle.tile(j, i).copy_(new.mT)
