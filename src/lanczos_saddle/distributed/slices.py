"""What a matrix offers whose vectors live in slices of coordinates: rank r has rows [a_r, b_r) of every vector.

    own             the slice of coordinates that this rank has
    product_own(V)  (n_r, k) -> (n_r, k): this rank's rows of H V, from every rank's rows of V; called by all together

Slices follow each other in the order of ranks, and together are all coordinates; they may differ in size and be empty.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor


class Sliced(Protocol):
    """A symmetric matrix (N, N) over ranks, each of which has some rows of every vector."""

    @property
    def shape(self) -> tuple[int, int]:
        """(N, N)."""

    @property
    def dtype(self) -> torch.dtype:
        """The floating-point type of vectors and products."""

    @property
    def device(self) -> torch.device:
        """Where this rank's rows live."""

    @property
    def own(self) -> slice:
        """This rank's coordinates."""

    def product_own(self, v: Tensor, /) -> Tensor:
        """This rank's rows (n_r, k) of H V, for its rows (n_r, k) of V; called by all ranks together."""


def even_slice(size: int, rank: int, ranks: int) -> slice:
    """The coordinates of a rank where all have ceil(N / R), the last ones fewer or none."""
    width = -(-size // ranks)
    return slice(min(rank * width, size), min((rank + 1) * width, size))


def check_slices(found: list[slice], size: int) -> tuple[int, ...]:
    """How many coordinates each rank has; raises ValueError where slices are not all of them, one after the other."""
    end = 0
    for rank, own in enumerate(found):
        if own.step not in (None, 1) or own.start != end or own.stop < own.start:
            raise ValueError(
                f"slices follow each other in the order of ranks; that of rank {rank} must start at {end}, got "
                f"[{own.start}, {own.stop})"
            )
        end = own.stop
    if end != size:
        raise ValueError(f"slices of all ranks are all {size} coordinates; got {end}")
    return tuple(own.stop - own.start for own in found)
