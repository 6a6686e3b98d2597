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
    """Mean ± sample standard deviation; the mean alone of one value, or of equal whole numbers.

    Of several that differ, a mean below 1 has a decimal: a 1 among eight zeros is not 0 ± 0.
    """
    if not values:
        return ""
    whole = digits == 0 and len(set(values)) == 1
    if len(values) > 1 and not whole and 0 < statistics.fmean(values) < 1:
        digits = max(digits, 1)
    mean = f"{statistics.fmean(values):.{digits}f}"
    if len(values) == 1 or whole:
        return mean
    return f"{mean} ± {statistics.stdev(values):.{digits}f}"
