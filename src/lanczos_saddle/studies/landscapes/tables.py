"""What `lanczos-saddle landscapes` finds, as tables: counts, and which method leaves which point in how many steps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from lanczos_saddle.reports.markdown import table
from lanczos_saddle.studies.landscapes.escapes import METHODS, Escape

BLOCKS = ("counts", "from-the-point", "from-beside")
"""The tables of `markdown`, by their names."""


def cell(runs: Sequence[Escape]) -> str:
    """Steps to leave, of several runs as "median (fewest to most)"; a run that has not left counts as the longest."""
    ordered = sorted(runs, key=lambda run: (math.inf if run.steps is None else run.steps, run.spent))
    texts = [str(run.steps) if run.steps is not None else "-" if run.spent == run.limit else "=" for run in ordered]
    middle = texts[len(texts) // 2]
    return middle if len(set(texts)) == 1 else f"{middle} ({texts[0]} to {texts[-1]})"


def by_point(runs: Sequence[Escape]) -> dict[tuple[str, int], list[str]]:
    """(point, steps allowed) -> the cells of METHODS, in their order."""
    found: dict[tuple[str, int], dict[str, list[Escape]]] = {}
    for run in runs:
        found.setdefault((run.point, run.limit), {}).setdefault(run.method, []).append(run)
    return {place: [cell(row[method]) for method in METHODS] for place, row in found.items()}


def markdown(result: dict[str, Any]) -> dict[str, str]:
    """The tables of a record's result (`landscape_report.landscapes`), by name: BLOCKS."""
    counts = [[one["point"], one["kind"], ", ".join(map(str, one["computed"]))] for one in result["counts"]]
    runs = [Escape(**run) for run in result["escapes"]]
    tables = [table("point|what it is|negative, zero, positive", counts)]
    for beside in (False, True):
        found = by_point([run for run in runs if (run.distance > 0) == beside])
        tables.append(table("|".join(["from", *METHODS]), [[point, *cells] for (point, _), cells in found.items()]))
    return dict(zip(BLOCKS, tables, strict=True))
