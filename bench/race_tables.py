"""The race of counts as tables of Markdown, from the records alone; `validate/pages.py` puts them into docs/.

    python bench/race_tables.py            # all of them
    python bench/race_tables.py digits     # one problem

Of every method stands the newest record of a budget. Errors, in parentheses, are estimate - exact.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.append(str(HERE))

from answers import row_from  # noqa: E402
from count_problems import PROBLEMS  # noqa: E402
from counters import COUNTERS  # noqa: E402
from figures import latest  # noqa: E402

from lanczos_saddle.counting.comparison import Answer, Row, Three  # noqa: E402

BUDGETS = {"mnist": "4x50"}
OTHERS_BUDGET = "4x200"
"""Probes x steps that the tables show of methods that sample."""

HEAD = ("| | negative | near zero | positive | intervals | products | s | MiB |", "|---|---|---|---|---|---|---|---|")


def main(names: list[str]) -> None:
    for name in names or list(PROBLEMS):
        print(f"## {name}\n\n{block(name)}\n")


def block(name: str) -> str:
    """PROBLEM, a table for each of its thresholds, or PROBLEM-1e-4, one of them."""
    problem, _, only = name.partition("-")
    records = records_of(problem)
    size = records[0]["result"]["size"]
    parts = []
    for index, relative in enumerate(PROBLEMS[problem].relative_thresholds):
        if only and float(only) != relative:
            continue
        exact = tuple(records[0]["result"]["exact"][index])
        counts = ", ".join(f"{count:,}" for count in exact)
        parts.append(f"N = {size:,}, tau = {relative:g} of the largest eigenvalue. Exact: {counts}.\n")
        parts += [*HEAD, *(line(label(record), row(record, index), exact) for record in records), ""]
    return "\n".join(parts).rstrip("\n")


def records_of(problem: str) -> list[dict[str, Any]]:
    """The newest record of every method, at the budget of the tables, in the order of the race."""
    budget = BUDGETS.get(problem, OTHERS_BUDGET)
    newest = {}
    for record in latest(HERE / "results" / "count_race.jsonl"):
        told = record["parameters"]
        if told["problem"] == problem and told["budget"] in (None, budget) and told["device"] == "cpu":
            newest[told["method"]] = record
    return [newest[counter.name] for counter in COUNTERS if counter.name in newest]


def row(record: dict[str, Any], index: int) -> Row:
    return row_from(record["result"]["rows"][index])


def label(record: dict[str, Any]) -> str:
    """A library with its version; our own methods have that of the checkout."""
    name, version = record["parameters"]["method"], record["parameters"]["version"]
    return name if name.startswith(("ours", "kept graph")) or version is None else f"{name} ({version})"


def line(label: str, row: Row, exact: Three) -> str:
    if row.failed is not None:
        return f"| {label} | {reason(row.failed)} | | | | | | |"
    counts = [shown(answer, count) for answer, count in zip(row.answers, exact, strict=True)]
    memory = "" if row.peak_bytes is None else f"{row.peak_bytes / 2**20:,.0f}"
    cells = [
        label,
        *counts,
        intervals(row, exact),
        f"{row.products:,}",
        f"{row.seconds:,.0f}" if row.seconds >= 100 else f"{row.seconds:.3g}",
        memory,
    ]
    return f"| {' | '.join(cells)} |"


def reason(message: str) -> str:
    """What is refused says so in its first clause; anything else failed."""
    said = message.removeprefix("ValueError: ")
    clause = said.partition(";")[0].partition(":")[0].replace("|", "/")
    return f"{'failed' if said == message else 'refused'}: {clause}"


def shown(answer: Answer, count: int) -> str:
    """An estimate with its error, or a bound from below that is no estimate."""
    if answer.upper is None and answer.lower is not None:
        return f"at least {answer.lower:,}"
    if answer.estimate is None:
        return ""
    error = round(answer.estimate) - count
    return f"{round(answer.estimate):,} ({error:+,})" if error else f"{count:,} (0)"


def intervals(row: Row, exact: Three) -> str:
    """Whether all bounds are right, and the width of the widest interval."""
    held = row.holds(exact)
    if held is None:
        return "none"
    if row.width == 0 and held:
        return "exact"
    wide = "" if row.width is None else f", {row.width:,.0f} wide"
    return ("hold" if held else "**miss**") + wide


if __name__ == "__main__":
    main(sys.argv[1:])
