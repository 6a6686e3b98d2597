"""Independent random streams: every part of a run draws its own numbers.

A spawned stream is seeded by bits drawn from its parent. Torch's CPU generator (mt19937) uses the lower 32 bits of a
seed, so two spawned streams are the same with probability 2^-32, and seeds that differ by a multiple of 2^32 are one.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

BLOCK = 16
"""Normal numbers are made from so many uniform ones at a time."""

PIECE = 2**20
"""Numbers that are drawn at once where most of them are another process's."""


def check_generator(generator: Any) -> None:
    """Refuse what is no generator on the CPU; raises ValueError."""
    if not (generator is None or (isinstance(generator, torch.Generator) and generator.device.type == "cpu")):
        raise ValueError(f"generator must be a torch.Generator on the CPU, the same on every device; got {generator}")


class Streams:
    """Spawns generators from a parent; all on the CPU, so the numbers are the same on every device."""

    def __init__(self, generator: torch.Generator | None) -> None:
        self._parent = generator if generator is not None else torch.Generator().manual_seed(0)

    def spawn(self) -> torch.Generator:
        """A generator of its own, seeded by the parent's next 63 bits (of which mt19937 uses 32)."""
        seed = torch.randint(2**63 - 1, (), generator=self._parent)
        return torch.Generator().manual_seed(int(seed))

    def split(self, *names: str) -> dict[str, torch.Generator]:
        """One generator for each part, all drawn at once: what one part uses does not move another."""
        return {name: self.spawn() for name in names}


def gaussian_part(
    total: int, start: int, stop: int, generator: torch.Generator, device: torch.device | None = None
) -> Tensor:
    """Entries [start, stop) of ``torch.randn(total, generator=generator, dtype=torch.float64)``, to the last bit.

    What comes before and after is drawn and thrown away, `PIECE` numbers at a time: the generator ends where it would.
    Torch makes 16 numbers from 16; of a total that is no multiple, the last 16 are made again.
    """
    found = torch.empty(stop - start, dtype=torch.float64, device=device)

    def keep(first: int, drawn: Tensor) -> None:
        low, high = max(start, first), min(stop, first + len(drawn))
        if low < high:
            found[low - start : high - start] = drawn[low - first : high - first]

    if total < BLOCK:
        keep(0, torch.randn(total, generator=generator, dtype=torch.float64))
        return found
    full = total - total % BLOCK
    for first in range(0, full, PIECE):
        keep(first, torch.randn(min(PIECE, full - first), generator=generator, dtype=torch.float64))
    if total > full:
        torch.rand(total - full, generator=generator, dtype=torch.float64)
        keep(total - BLOCK, torch.randn(BLOCK, generator=generator, dtype=torch.float64))
    return found
