"""How wide intervals will be, and when a run will stop, by what a pilot foretells (`counting.foretelling`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lanczos_saddle.certificates.intervals import sampling_width, share
from lanczos_saddle.counting.allocation import Foresight, Room, foretold_widths
from lanczos_saddle.counting.deepening import FIRST_LOOK, next_look
from lanczos_saddle.counting.options import Options

FLOOR = 1.1
"""A run stops where its intervals are within this of what its probes alone leave (`Deepening`)."""


@dataclass(frozen=True)
class Ending:
    """Where a run stops, and how wide its widest interval is then."""

    steps: int
    width: int
    reason: str


def ending(seen: Sequence[Foresight], probes: int, depth: int, sizes: tuple[int, int], options: Options) -> Ending:
    """Of m probes and at most `depth` steps, looked at where a count looks; `sizes`: N, and where probes are drawn.

    As a count does it stops at the wanted precision, or where probe noise dominates, at the first threshold of `seen`;
    the width is the widest at any.
    """
    (size, drawn), confidence = sizes, options.confidence
    look, room, alpha = FIRST_LOOK, Room(probes * depth, drawn, depth), share(confidence)
    while True:
        steps = min(look, depth)
        negative, positive = foretold_widths(seen[0], probes, steps, room, alpha)
        floors = [sampling_width(b, probes=probes, size=drawn, confidence=confidence) for b in seen[0].brackets(steps)]
        reason = ""
        if negative + positive <= 2 * options.precision * size:
            reason = "the wanted precision is reached"
        elif all(width <= FLOOR * floor + 1 for width, floor in zip((negative, positive), floors, strict=True)):
            reason = "probe noise dominates"
        if reason or steps >= depth:
            width = max(sum(foretold_widths(one, probes, steps, room, alpha)) for one in seen)
            return Ending(steps, min(width, size), reason or "all steps made")
        look = next_look(look)
