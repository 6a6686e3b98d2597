"""Models and losses of all kinds: right, or refused with a way out that works; each against differences of gradients.

    python validate/models.py                        # all that are installed here; minutes
    python validate/models.py --only "weight norm*"  # some, by name
    python validate/models.py --page docs/models.md  # the page, from the records

The oracle (zoo/oracle.py) is a dense float64 Hessian by central differences of plain gradients of the function as its
user writes it. Libraries: validate/requirements-models.txt. Records go to validate/results/models.jsonl; exits with 1
where an entry is wrong.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from zoo import library_models, torch_models  # noqa: F401  (they register)
from zoo.entries import ENTRIES, Finding, judge

from lanczos_saddle.reports import records
from lanczos_saddle.reports.records import Record

RECORDS = Path(__file__).parent / "results" / "models.jsonl"

PAGE = """# Models and losses that have been tried

Each row is a model and a loss, small enough that its Hessian can be made by central differences of plain gradients:
in float64, of the function as its user writes it, without anything of this package (`validate/zoo/oracle.py`). *Right*
means that the assembled matrix is that one, entry by entry, and that exact counts and certified intervals hold its
eigenvalues. *Matrix right, not counted*: the model computes in float32 inside, and each entry is that of differences
as far as these are good; no threshold lies in a gap of the spectrum that they resolve. *Undecided*: the differences
are too coarse to judge. *Refused* is a ValueError of one line before any work; where there is a way out, it was tried,
and is right. The package and the oracle have a model each, made from one seed. Errors are relative to the root of the
norms of an entry's row and column.

{right} are right, {single} in the matrix alone, {open} undecided, {refused} refused, {ways} of these with a way out
that is right; {wrong} are wrong.

    python validate/models.py                        # again, for what is installed
    python validate/models.py --page docs/models.md  # this page, from validate/results/models.jsonl

| model, loss | library | given as | N | verdict | mode | off by | differences good to | note |
|---|---|---|---|---|---|---|---|---|
"""


def main() -> int:
    """Judge the entries, or write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="*", help="a pattern of names")
    parser.add_argument("--library", help="only entries of this library")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--page", metavar="FILE", help="write the page from the records")
    options = parser.parse_args()
    if options.page:
        Path(options.page).write_text(page(), encoding="utf-8")
        return 0
    chosen = [e for e in ENTRIES.values() if fnmatchcase(e.name, options.only) and options.library in (None, e.library)]
    if options.list:
        print("\n".join(f"{e.library:16} {e.name}" for e in chosen))
        return 0
    torch.set_num_threads(1)
    found = [shown(judge(entry)) for entry in chosen]
    keep(found)
    bad = [f.name for f in found if not f.fine]
    print(f"{len(found)} entries, {len(bad)} not as they should be: {bad}")
    return 1 if bad else 0


def shown(finding: Finding) -> Finding:
    """Print one line."""
    error = "" if finding.error is None else f"{finding.error:.0e}"
    print(
        f"{'  ' if finding.fine else '! '}{finding.name:52} {finding.verdict:28} {finding.mode or '':9} {error:6} "
        f"{finding.said[:90]}",
        flush=True,
    )
    return finding


def keep(found: list[Finding]) -> None:
    """Write the records of these entries in place of their older ones."""
    fresh = {f.name for f in found if f.verdict != "skipped"}
    older = records.read(RECORDS) if RECORDS.exists() else []
    kept = [r for r in older if r["parameters"]["name"] not in fresh]
    made = [Record("model", {"name": f.name}, dataclasses.asdict(f)) for f in found if f.name in fresh]
    RECORDS.unlink(missing_ok=True)
    for record in [*kept, *made]:
        records.append(RECORDS, record)


def page() -> str:
    """The page, from the records, in the order of the registry."""
    by_name = {r["result"]["name"]: r["result"] for r in records.read(RECORDS)}
    rows = [by_name[name] for name in ENTRIES if name in by_name]
    verdicts = [row["verdict"] for row in rows]
    head = PAGE.format(
        right=verdicts.count("right"),
        single=verdicts.count("matrix right, not counted"),
        open=verdicts.count("undecided"),
        refused=sum(v.startswith("refused") for v in verdicts),
        ways=sum(v == "refused; way out right" for v in verdicts),
        wrong=sum(v in ("WRONG", "traceback") for v in verdicts),
    )
    return head + "\n".join(map(line, rows)) + "\n"


def line(row: dict[str, Any]) -> str:
    """One row of the table."""
    entry = ENTRIES[row["name"]]
    numbers = [f"{float(row[k]):.0e}" if row[k] is not None else "" for k in ("error", "oracle")]
    note = entry.note or (row["said"] if row["verdict"] == "right" else "")
    cells = [
        row["name"],
        row["library"],
        entry.given,
        row["parameters"] or "",
        row["verdict"],
        row["mode"] or "",
        *numbers,
        note,
    ]
    return "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |"


if __name__ == "__main__":
    sys.exit(main())
