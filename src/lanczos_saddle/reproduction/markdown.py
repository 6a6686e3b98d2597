"""Tables in Markdown, and what stands in their cells."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any


def table(head: str, rows: Sequence[Sequence[Any]]) -> str:
    """A table under the heads "first|second|..."; nothing without rows. A bar within a cell does not end it."""
    heads = head.split("|")
    lines = [heads, ["---"] * len(heads), *([str(cell).replace("|", r"\|") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) if rows else ""


def over_trials(values: Sequence[float], digits: int = 0) -> str:
    """Mean ± sample standard deviation; the mean alone of one value, or of equal whole numbers."""
    if not values:
        return ""
    mean = f"{statistics.fmean(values):.{digits}f}"
    if len(values) == 1 or (digits == 0 and len(set(values)) == 1):
        return mean
    return f"{mean} ± {statistics.stdev(values):.{digits}f}"
