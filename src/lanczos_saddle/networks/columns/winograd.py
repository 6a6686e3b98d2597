"""Convolutions of 3 x 3, stride 1 and padding 1 in float64, by the minimal filtering of Winograd: F(4 x 4, 3 x 3).

    y = A'[(G w G') * (B'd B)]A          d: tiles of 6 x 6 of the input, y: tiles of 4 x 4 of the output

The sum over channels is a matrix product for each of the 36 places: a quarter of the multiplications of a direct one.
All three are bilinear in (w, d), so the derivatives are of the same form:

    in the input      a convolution of the slopes with the turned weights
    in the weights    G'[(A g A')' * (B'd B)]G, summed over the tiles

Rounding is that of a direct product times about 10 (1e-14 in float64). In float32 that would be seen in the products;
there torch's own convolutions, which are tuned for float32 and not for float64, are as fast.

Lavin and Gray, Fast algorithms for convolutional neural networks, CVPR 2016.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from lanczos_saddle.networks.columns.layout import tuned

INPUT = (
    (4, 0, -5, 0, 1, 0),
    (0, -4, -4, 1, 1, 0),
    (0, 4, -4, -1, 1, 0),
    (0, -2, -1, 2, 1, 0),
    (0, 2, -1, -2, 1, 0),
    (0, 4, 0, -5, 0, 1),
)
"""B'."""

FILTER = ((6, 0, 0), (-4, -4, -4), (-4, 4, -4), (1, 2, 4), (1, -2, 4), (0, 0, 24))
"""24 G."""

OUTPUT = ((1, 1, 1, 1, 1, 0), (0, 1, -1, 2, -2, 0), (0, 1, 1, 4, 4, 0), (0, 1, -1, 8, -8, 1))
"""A'."""

SIDE, REACH, PLACES = 4, 2, 36  # of an output tile, what an input tile has more, numbers of one

CHANNELS = 16
"""Least channels on both sides: with fewer, the transforms cost what the products save."""

WASTE = 1.6
"""Largest ratio of tiled to used outputs: images of 5 x 5 are better convolved directly."""

TILES = 32
"""Least tiles of a tensor: the transformed weights are read for all of them at once."""

CHUNK = 12 * 2**20
"""Bytes of the tiles that are held at once, about: larger ones leave the cache, and come from the system anew."""


def applies(x: Tensor, weight: Tensor, rest: Sequence[Any], least: int = TILES) -> bool:
    """Whether the convolution is one that these functions compute, and gain at; x (..., c, h, w), (..., o, c, 3, 3).

    `least` tiles are needed; the derivative in the weights has another way for few.
    """
    stride, padding, dilation, transposed, _, groups = rest
    if transposed or groups != 1 or not tuned(x):
        return False
    if tuple(weight.shape[-2:]) != (3, 3) or [*stride, *padding, *dilation] != [1] * 6:
        return False
    height, width = x.shape[-2:]
    number = tiles_of(height, width)
    if number * x.shape[-4] < least or SIDE**2 * number > WASTE * height * width:
        return False
    return min(weight.shape[-4:-2]) >= CHANNELS


def convolved(x: Tensor, weight: Tensor, *, turned: bool = False) -> Tensor:
    """x (k or 1, n, c, h, w) by weights (k or 1, o, c, 3, 3): (k, n, o, h, w), channels last in memory.

    Turned, the derivative in the input: from slopes (k or 1, n, o, h, w) to (k, n, c, h, w).
    """
    k, images, (height, width) = max(len(x), len(weight)), x.shape[1], x.shape[-2:]
    inner, outputs = x.shape[2], weight.shape[2 if turned else 1]
    result = x.new_empty(k, images, height, width, outputs)
    back = _twice(OUTPUT)
    for some in pieces(outputs, PLACES * inner):
        own = weight[:, :, some] if turned else weight[:, some]
        shared = _filters(own, turned) if len(own) == 1 else None
        for part in pieces(images, len(x) * tiles_of(height, width) * PLACES * inner):
            spots = transformed(_twice(INPUT), tiles(x[:, part], REACH))  # (36, k or 1, t, c)
            for column in range(k):
                filters = shared if shared is not None else _filters(own[column : column + 1], turned)
                found = torch.bmm(spots[:, column if len(x) > 1 else 0], filters)
                _untile(transformed(back, found), result[column, part, ..., some])
    return result.permute(0, 1, 4, 2, 3)


def weights_derivative(slope: Tensor, x: Tensor) -> Tensor:
    """From slopes (k or 1, n, o, h, w) and inputs (k or 1, n, c, h, w): (k, o, c, 3, 3)."""
    k, images, outputs, channels = max(len(slope), len(x)), slope.shape[1], slope.shape[2], x.shape[2]
    if images * tiles_of(*slope.shape[-2:]) < max(outputs, channels):
        return _by_patches(slope, x)
    result = slope.new_empty(k, outputs, channels, 3, 3)
    for group in pieces(k, PLACES * outputs * channels):
        for some in pieces(outputs, PLACES * channels):
            mine = slope[group if len(slope) > 1 else slice(None), :, some], x[group if len(x) > 1 else slice(None)]
            place = result[group, some]
            total = slope.new_zeros(PLACES, *place.shape[:3])
            most = max(t.shape[0] * t.shape[2] for t in mine)
            for part in pieces(images, tiles_of(*slope.shape[-2:]) * PLACES * most):
                _accumulate(total, mine[0][:, part], mine[1][:, part])
            place.copy_((total.view(PLACES, -1).mT @ _filter_matrix()).view(place.shape))
    return result


def _by_patches(slope: Tensor, x: Tensor) -> Tensor:
    """The same as matrix products of slopes and patches of 3 x 3: where tiles are fewer than channels."""
    k, outputs, channels = max(len(slope), len(x)), slope.shape[2], x.shape[2]
    total = slope.new_zeros(k, outputs, 9 * channels)
    for part in pieces(x.shape[1], 9 * channels * x.shape[-2] * x.shape[-1]):
        shared = _patches(x[0, part]) if len(x) == 1 else None
        for column in range(k):
            rows = slope[column if len(slope) > 1 else 0, part].permute(0, 2, 3, 1).reshape(-1, outputs)
            total[column].addmm_(rows.mT, _patches(x[column, part]) if shared is None else shared)
    return total.view(k, outputs, 3, 3, channels).permute(0, 1, 4, 2, 3)


def _patches(x: Tensor) -> Tensor:
    """Of images (n, c, h, w) in zeros, (n h w, 9 c)."""
    n, c, height, width = x.shape
    inside = x.new_zeros(n, height + 2, width + 2, c)
    inside[:, 1:-1, 1:-1] = x.permute(0, 2, 3, 1)
    image, row, column, last = inside.stride()
    seen = inside.as_strided((n, height, width, 3, 3, c), (image, row, column, row, column, last))
    return seen.reshape(n * height * width, 9 * c)


def _accumulate(total: Tensor, slope: Tensor, x: Tensor) -> None:
    """Add what some images give to the transformed derivative (36, k, o, c)."""
    slopes = transformed(_twice(OUTPUT).mT.contiguous(), tiles(slope, 0))
    spots = transformed(_twice(INPUT), tiles(x, REACH))
    for column in range(total.shape[1]):
        left, right = slopes[:, column if len(slope) > 1 else 0], spots[:, column if len(x) > 1 else 0]
        total[:, column].baddbmm_(left.mT, right)


def _filters(weight: Tensor, turned: bool) -> Tensor:
    """G w G' of weights (1, o, c, 3, 3): (36, c, o); turned, for the derivative in the input, (36, o, c)."""
    matrix = _filter_matrix().flip(1) if turned else _filter_matrix()
    found = (matrix @ weight.reshape(-1, 9).mT).view(PLACES, *weight.shape[1:3])
    return found if turned else found.mT


def _filter_matrix() -> Tensor:
    """(36, 9): from weights to places, and its transpose back."""
    return _twice(FILTER) / 24**2


def pieces(count: int, numbers: int) -> Iterator[slice]:
    """The `count` in pieces of at most `CHUNK` bytes, for so many numbers each."""
    step = max(1, CHUNK // (8 * numbers))
    return (slice(start, min(start + step, count)) for start in range(0, count, step))


def tiles_of(height: int, width: int) -> int:
    """Tiles of an image."""
    return -(-height // SIDE) * -(-width // SIDE)


def tiles(x: Tensor, reach: int) -> Tensor:
    """Tiles of side 4 + reach, 4 apart, of images (k, n, c, h, w) in zeros: (places, k, t, c) for t tiles."""
    k, n, c, height, width = x.shape
    down, across, side = -(-height // SIDE), -(-width // SIDE), SIDE + reach
    edge = reach // 2
    inside = x.new_zeros(k, n, down * SIDE + reach, across * SIDE + reach, c)
    inside[:, :, edge : edge + height, edge : edge + width] = x.permute(0, 1, 3, 4, 2)
    outer, image, row, column, last = inside.stride()
    shape = (side, side, k, n, down, across, c)
    seen = inside.as_strided(shape, (row, column, outer, image, SIDE * row, SIDE * column, last))
    return seen.reshape(side * side, k, n * down * across, c)


def _untile(found: Tensor, result: Tensor) -> None:
    """Write tiles (16, t, o) into images (n, h, w, o)."""
    n, height, width, outputs = result.shape
    down, across = -(-height // SIDE), -(-width // SIDE)
    whole = found.view(SIDE, SIDE, n, down, across, outputs).permute(2, 3, 0, 4, 1, 5)
    if (down * SIDE, across * SIDE) == (height, width):
        result.view(n, down, SIDE, across, SIDE, outputs).copy_(whole)
    else:
        result.copy_(whole.reshape(n, down * SIDE, across * SIDE, outputs)[:, :height, :width])


def transformed(matrix: Tensor, found: Tensor) -> Tensor:
    """The matrix times the places, which come first."""
    return (matrix @ found.reshape(len(found), -1)).view(len(matrix), *found.shape[1:])


def _twice(matrix: Sequence[Sequence[int]]) -> Tensor:
    """For rows and columns at once."""
    one = torch.tensor(matrix, dtype=torch.float64)
    return torch.kron(one, one)
