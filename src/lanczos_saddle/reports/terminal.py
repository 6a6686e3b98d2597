"""Results on a terminal: a table in colour where there is one to show it, the plain text everywhere else.

Plain is what `print` gives: where the stream is no terminal, where NO_COLOR is set or TERM is "dumb", and where rich is
not installed.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TextIO

from lanczos_saddle.classification.classify import Classification
from lanczos_saddle.counting.result import Counts, JointCounts
from lanczos_saddle.structure.zero_rows import TensorRows

STYLES = ("dark_orange3", "bright_black", "dodger_blue2")
"""Of negative, near zero and positive; each also has a name, so that colour is not needed."""


@dataclass(frozen=True)
class Rows:
    """A table: heads, rows of text, what stands below, and how columns are styled."""

    head: tuple[str, ...]
    body: tuple[tuple[str, ...], ...]
    notes: str = ""
    columns: tuple[str, ...] = ()  # a style a column
    lines: tuple[str, ...] = ()  # a style a row


def show(result: Any, file: TextIO | None = None) -> None:
    """Print counts, counts at several thresholds, a classification, or a network's tensors (`zero_rows`).

    `file`: standard output, if not given. Raises ValueError for anything else.
    """
    stream = sys.stdout if file is None else file
    plain = plain_text(result)
    if not _coloured(stream):
        print(plain, file=stream)
        return
    from rich.console import Console

    Console(file=stream).print(_table(rows_of(result)), highlight=False)


def plain_text(result: Any) -> str:
    """What `show` prints where there are no colours."""
    return str(result) if isinstance(result, Counts | JointCounts | Classification) else _aligned(rows_of(result))


def rows_of(result: Any) -> Rows:
    """The rows of a result, as text. Raises ValueError for what has none."""
    if isinstance(result, Counts):
        return _counts(result)
    if isinstance(result, JointCounts):
        return _several(result)
    if isinstance(result, Classification):
        return _classification(result)
    if isinstance(result, Sequence) and not isinstance(result, str) and all(isinstance(x, TensorRows) for x in result):
        return _tensors(result)
    raise ValueError(
        f"tables are of counts, classifications and tensors (zero_rows); got {type(result).__name__}: print it instead"
    )


def _counts(counts: Counts) -> Rows:
    tau = f"{counts.threshold:.3e}"
    rules = (f"lambda < -{tau}", f"|lambda| <= {tau}", f"lambda > {tau}")
    three = (counts.negative, counts.near_zero, counts.positive)
    body = tuple(
        (
            name,
            rule,
            f"{one.lower:,}",
            f"{one.upper:,}",
            f"{one.estimate:,.0f}",
            f"{100 * one.estimate / counts.size:.3g} %",
        )
        for name, rule, one in zip(("negative", "near zero", "positive"), rules, three, strict=True)
    )
    notes = "\n".join(str(counts).splitlines()[3:])
    return Rows(("", "", "at least", "at most", "estimate", "of all"), body, notes, lines=STYLES)


def _several(counts: JointCounts) -> Rows:
    body = tuple(
        (f"{one.threshold:.3e}", *(str(each) for each in (one.negative, one.near_zero, one.positive))) for one in counts
    )
    notes = f"N = {counts[0].size}, {counts.products} products\n{str(counts).splitlines()[-1]}"
    return Rows(("threshold", "negative", "near zero", "positive"), body, notes, columns=("", *STYLES))


def _classification(found: Classification) -> Rows:
    body = tuple((name.replace("_", " "), v.answer, v.because) for name, v in found.verdicts.items())
    lines = tuple({"holds": "green4", "fails": "dark_orange3"}.get(v.answer, "") for v in found.verdicts.values())
    return Rows(("is it", "answer", "because"), body, str(found).split("\n\n")[0], lines=lines)


def _tensors(tensors: Sequence[TensorRows]) -> Rows:
    names = ("parameters", "dead", "columns", "rows", "unused", "entries")
    body = [(t.name, " x ".join(map(str, t.shape)), *(f"{getattr(t, n):,}" for n in names)) for t in tensors]
    body.append(("all", "", *(f"{sum(getattr(t, n) for t in tensors):,}" for n in names)))
    notes = (
        "dead: rows of H that are zero; by columns (an input that is always zero), rows (a unit that never"
        " fires), tensors that are not used"
    )
    return Rows(("tensor", "shape", *names), tuple(body), notes)


def _coloured(stream: TextIO) -> bool:
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb" or not stream.isatty():
        return False
    try:
        import rich.console  # noqa: F401
    except ModuleNotFoundError:
        return False
    return True


def _table(rows: Rows) -> Any:
    from rich.box import SIMPLE_HEAD
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for i, head in enumerate(rows.head):
        number = bool(rows.body) and rows.body[0][i][:1].isdigit()
        style = rows.columns[i] if rows.columns else None
        table.add_column(head, justify="right" if number else "left", style=style)
    for i, row in enumerate(rows.body):
        table.add_row(*(Text(cell) for cell in row), style=rows.lines[i] if rows.lines else None)
    return Group(table, Text(rows.notes))


def _aligned(rows: Rows) -> str:
    widths = [max(len(line[i]) for line in (rows.head, *rows.body)) for i in range(len(rows.head))]
    right = [bool(rows.body) and rows.body[0][i][:1].isdigit() for i in range(len(rows.head))]
    lines = [
        "  ".join(
            cell.rjust(w) if r else cell.ljust(w) for cell, w, r in zip(line, widths, right, strict=True)
        ).rstrip()
        for line in (rows.head, *rows.body)
    ]
    return "\n".join([*lines, rows.notes] if rows.notes else lines)
