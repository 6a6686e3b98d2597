"""The symmetric part of a dense matrix, in the matrix's own memory."""

from __future__ import annotations

import math
from collections.abc import Iterator

from torch import Tensor

from lanczos_saddle.operators.scaling import exponent_to_one, largest_entry, times

TILE = 1024  # 8 MiB a tile
SAFE_NORM = 1e-140  # a norm between this and its inverse has lost nothing that matters


def symmetrize(matrix: Tensor) -> tuple[float, float]:
    """A <- (A + A') / 2 in place, tile by tile; returns |A - A'|_F and |A|_F. Refuses what is not finite."""
    skew = total = 0.0
    for rows in tiles(len(matrix), TILE):
        for columns in tiles(rows.stop, TILE):
            upper, lower = matrix[rows, columns], matrix[columns, rows].mT
            parts = [upper] if rows == columns else [upper, lower]
            norm = math.hypot(*(frobenius(part) for part in parts))
            if not math.isfinite(norm):
                raise ValueError(
                    "products must be finite, and their norm at most 1.8e308; got NaN or infinity: check the weights "
                    "and data, or multiply the operator by a constant"
                )
            skew = math.hypot(skew, frobenius(upper - lower) * math.sqrt(len(parts)))
            total = math.hypot(total, norm)
            mean = lower + (upper - lower) / 2  # neither overflows nor loses a bit of what is equal
            matrix[rows, columns], matrix[columns, rows] = mean, mean.mT
    return skew, total


def frobenius(matrix: Tensor) -> float:
    """|A|_F; entries whose squares overflow or vanish are brought near 1 first."""
    norm = float(matrix.norm())
    if SAFE_NORM < norm < 1 / SAFE_NORM:
        return norm
    magnitude = largest_entry(matrix)
    exponent = exponent_to_one(magnitude)
    return times(float(times(matrix, exponent).norm()), -exponent) if exponent else magnitude


def tiles(size: int, width: int) -> Iterator[slice]:
    """0 .. size - 1 in slices of at most `width`."""
    return (slice(start, min(start + width, size)) for start in range(0, size, width))
