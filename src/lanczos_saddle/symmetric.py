"""The symmetric part of a dense matrix, in the matrix's own memory."""

from __future__ import annotations

import math
from collections.abc import Iterator

from torch import Tensor

TILE = 1024  # 8 MiB a tile


def symmetrize(matrix: Tensor) -> tuple[float, float]:
    """A <- (A + A') / 2 in place, tile by tile; returns |A - A'|_F and |A|_F. Refuses what is not finite."""
    skew = total = 0.0
    for rows in tiles(len(matrix), TILE):
        for columns in tiles(rows.stop, TILE):
            upper, lower = matrix[rows, columns], matrix[columns, rows].mT
            parts = [upper] if rows == columns else [upper, lower]
            norm = math.hypot(*(float(part.norm()) for part in parts))
            if not math.isfinite(norm):
                raise ValueError("products must be finite; got NaN or infinity: check the weights and data")
            skew = math.hypot(skew, float((upper - lower).norm()) * math.sqrt(len(parts)))
            total = math.hypot(total, norm)
            mean = (upper + lower) / 2
            matrix[rows, columns], matrix[columns, rows] = mean, mean.mT
    return skew, total


def tiles(size: int, width: int) -> Iterator[slice]:
    """0 .. size - 1 in slices of at most `width`."""
    return (slice(start, min(start + width, size)) for start in range(0, size, width))
