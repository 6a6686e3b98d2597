"""Independent random streams: every part of a run draws its own numbers, and runs with neighboring seeds share none."""

from __future__ import annotations

import torch


class Streams:
    """Spawns generators from a parent; all on the CPU, so the numbers are the same on every device."""

    def __init__(self, generator: torch.Generator | None) -> None:
        self._parent = generator if generator is not None else torch.Generator().manual_seed(0)

    def spawn(self) -> torch.Generator:
        """A generator of its own, seeded by the parent's next 63 bits."""
        seed = torch.randint(2**63 - 1, (), generator=self._parent)
        return torch.Generator().manual_seed(int(seed))
