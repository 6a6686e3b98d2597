"""Independent random streams: every part of a run draws its own numbers.

A spawned stream is seeded by bits drawn from its parent. Torch's CPU generator (mt19937) uses the lower 32 bits of a
seed, so two spawned streams are the same with probability 2^-32, and seeds that differ by a multiple of 2^32 are one.
"""

from __future__ import annotations

from typing import Any

import torch


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
