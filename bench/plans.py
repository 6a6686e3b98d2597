"""Is the default the best call? Its widest interval beside those of explicit choices with the same budget.

    python bench/plans.py                        # hours on two cores, mnist most of them; resumes
    python bench/plans.py --problems digits --budgets 300 --thresholds 1e-3 1e-5
    python bench/plans.py --table                # only print what is recorded
    python bench/plans.py --summary              # the same, one line a problem and budget, for docs/results.md
    python bench/plans.py --summary --of planned # without exact counts, which small networks have
    python bench/plans.py --remedies --problems spectrum --budgets 800 --thresholds 1e-2     # other constants, tried

For every problem, budget and threshold: the default (a budget and nothing else), the default but not exact, a
plain run, and explicit choices (probes 1, 2, 4, 8 with all products spent on depth; enumeration; the subset S with 1
and 2 probes). Every interval is checked against exact eigenvalues. Records go to results/plans.jsonl, a cell each.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import count_problems
import numpy as np
import torch
from torch import nn

from lanczos_saddle import Counts, count_eigenvalues, recount
from lanczos_saddle.counting import allocation, scouting
from lanczos_saddle.dense.exact import three_counts
from lanczos_saddle.reports.records import Record, append
from lanczos_saddle.studies.known_problems import Known, of_network
from lanczos_saddle.training import datasets

RESULTS = Path(__file__).parent / "results" / "plans.jsonl"
BUDGETS, THRESHOLDS = (300, 800, 2000), (1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
FOREVER = 1e-9
"""A precision that is never reached: all of a budget is spent."""

WITHIN_BEST, ABOVE_PLAIN = 1.15, 1.05
REMEDIES: dict[str, tuple[Any, str, float]] = {
    "pilot of 1/24": (allocation, "SCOUT", 1 / 24),
    "pilot of 1/48": (allocation, "SCOUT", 1 / 48),
    "taken out at 3/4": (scouting, "BETTER", 0.75),
}
"""The default with one constant changed."""

OURS = ("default", "planned", "plain", *REMEDIES)
"""What is no explicit choice."""

PROBES = (1, 2, 4, 8)
FIXED = [f"{m} probes" for m in PROBES]
"""Choices whose run does not depend on the threshold."""


def tanh() -> Known:
    """64-25-10 with tanh, on the digits; Adam from a fixed seed."""
    data = datasets.load("digits")
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(64, 25), nn.Tanh(), nn.Linear(25, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(300):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(data.x_train), data.y_train).backward()
        optimizer.step()
    return of_network((model, nn.CrossEntropyLoss(), (data.x_train, data.y_train)))


PROBLEMS: dict[str, Callable[[], Known]] = {
    "tanh": tanh,
    **{
        name: partial(count_problems.PROBLEMS[name].load, torch.float64, count_problems.CPU)
        for name in ("digits", "conv", "resnet", "gpt", "pinn", "spectrum", "mnist")
    },
}


@cache
def loaded(name: str) -> tuple[Known, np.ndarray]:
    """The problem and its exact eigenvalues."""
    if name in count_problems.PROBLEMS:
        return PROBLEMS[name](), count_problems.PROBLEMS[name].eigenvalues()
    known = PROBLEMS[name]()
    return known, known.eigenvalues().numpy()


def choices(budget: int, network: bool) -> dict[str, dict[str, Any]]:
    """Name -> options; explicit ones spend what a preflight and a search of 20 products leave."""
    left = budget - 20
    made: dict[str, dict[str, Any]] = {
        "default": {"max_products": budget},
        "planned": {"max_products": budget, "method": "lanczos"},
        "plain": {"max_products": budget, "method": "lanczos", "preconditioner": None},
        "enumerated": {"max_products": budget, "method": "lanczos", "enumerate_negative": True},
    }
    for m in PROBES:
        made[f"{m} probes"] = {
            "method": "lanczos",
            "preconditioner": None,
            "probes": m,
            "max_products": budget,
            "steps": 0,
        }
    if network:
        for m in (1, 2):
            made[f"subset, {m} probes"] = {
                "method": "lanczos",
                "preconditioner": "subset",
                "probes": m,
                "max_products": budget,
                "steps": 0,
            }
    for options in made.values():
        if "steps" in options:
            sides = 2 if options["preconditioner"] else 1
            options["steps"] = max(1, left // (sides * options["probes"]))
    return made


def cell(name: str, budget: int, relative: float, choice: str, options: dict[str, Any], seed: int) -> dict[str, Any]:
    """One count, checked."""
    known, values = loaded(name)
    tau, began = relative * float(np.abs(values).max()), time.process_time()
    row = {"problem": name, "budget": budget, "relative": relative, "choice": choice, "seed": seed}
    options = {**options, "steps": min(options["steps"], known.size)} if "steps" in options else options
    try:
        if choice in REMEDIES:
            module, constant, value = REMEDIES[choice]
            with patch.object(module, constant, value):
                counts = planned(known, tau, seed, options)
        elif choice in FIXED:
            counts = recount(fixed_run(name, tuple(options.items()), seed), tau)
        else:
            counts = planned(known, tau, seed, options)
    except ValueError as error:
        return {**row, "failed": str(error)}
    intervals = (counts.negative, counts.near_zero, counts.positive)
    return {
        **row,
        "width": max(i.width for i in intervals),
        "holds": all(n in i for n, i in zip(three_counts(values, tau), intervals, strict=True)),
        "products": counts.products,
        "plan": counts.plan,
        "cpu_seconds": time.process_time() - began,
    }


def planned(known: Known, tau: float, seed: int, options: dict[str, Any]) -> Counts:
    """A count that spends its budget."""
    generator = torch.Generator().manual_seed(seed)
    return count_eigenvalues(known.operator, threshold=tau, precision=FOREVER, generator=generator, **options)


@lru_cache(maxsize=1)
def fixed_run(name: str, options: tuple[tuple[str, Any], ...], seed: int) -> Counts:
    """The count whose run does not depend on the threshold: it is read at all of them."""
    known, values = loaded(name)
    tau, generator = THRESHOLDS[0] * float(np.abs(values).max()), torch.Generator().manual_seed(seed)
    return count_eigenvalues(known.operator, threshold=tau, precision=FOREVER, generator=generator, **dict(options))


def recorded() -> dict[tuple[Any, ...], dict[str, Any]]:
    """Finished cells by what they are of; the last one of each stands."""
    if not RESULTS.is_file():
        return {}
    rows = [json.loads(line)["result"] for line in RESULTS.read_text().splitlines()]
    return {(r["problem"], r["budget"], r["relative"], r["choice"], r["seed"]): r for r in rows}


def table(rows: dict[tuple[Any, ...], dict[str, Any]], ours: str) -> int:
    """Print a line a cell, of the default or of what is planned; returns how many miss a target or an interval."""
    missed = slack = judged = 0
    cells = sorted({key[:3] for key in rows}, key=lambda cell: (cell[0], cell[1], -cell[2]))
    print(f"| problem | budget | tau | {ours} | its plan | best explicit | plain | {ours} / best | holds |")
    print("|---|---|---|---|---|---|---|---|---|")
    for where in cells:
        found = {key[3]: row for key, row in rows.items() if key[:3] == where and "width" in row}
        explicit = {name: row for name, row in found.items() if name not in OURS}
        if ours not in found or not explicit:
            continue
        best = min(explicit, key=lambda name: explicit[name]["width"])
        width, least = found[ours]["width"], explicit[best]["width"]
        plain = found.get("plain", {"width": None})["width"]
        holds = all(row["holds"] for row in found.values())
        late = width > WITHIN_BEST * least + 2 or (plain is not None and width > ABOVE_PLAIN * plain + 2)
        missed, slack, judged = missed + (late or not holds), slack + late, judged + 1
        name, budget, tau = where
        said = f"{width / max(least, 1):.2f}{' MISSED' if late else ''} | {'yes' if holds else 'NO'}"
        plan = found[ours]["plan"]
        print(f"| {name} | {budget} | {tau:.0e} | {width} | {plan} | {least} ({best}) | {plain} | {said} |")
    sampled = [row for key, row in rows.items() if key[3] not in REMEDIES and "width" in row]
    certified = [row["holds"] for row in sampled if "exact" not in str(row["plan"])]
    print(f"\n{slack} of {judged} cells miss the target")
    if certified:
        print(f"\n{sum(certified)} of {len(certified)} sampled counts hold, of which 95 % are promised")
    return missed


def summary(rows: dict[tuple[Any, ...], dict[str, Any]], ours: str) -> None:
    """The widest interval, in parentheses that of the best explicit choice; a line a problem and budget."""
    print("| problem | products | " + " | ".join(f"{tau:.0e}".replace("e-0", "e-") for tau in THRESHOLDS) + " |")
    print("|---" * (2 + len(THRESHOLDS)) + "|")
    for name, budget in sorted({key[:2] for key in rows}):
        said = []
        for tau in THRESHOLDS:
            found = {
                key[3]: row["width"] for key, row in rows.items() if key[:3] == (name, budget, tau) and "width" in row
            }
            others = [width for choice, width in found.items() if choice not in OURS]
            said.append(f"{found[ours]} ({min(others)})" if ours in found and others else "")
        print(f"| {name} | {budget} | " + " | ".join(said) + " |")


def main() -> int:
    """Measure what is not recorded, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", nargs="+", choices=sorted(PROBLEMS), default=list(PROBLEMS))
    parser.add_argument("--budgets", type=int, nargs="+", default=list(BUDGETS))
    parser.add_argument("--thresholds", type=float, nargs="+", default=list(THRESHOLDS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--table", action="store_true", help="measure nothing")
    parser.add_argument("--summary", action="store_true", help="measure nothing, print the short table")
    parser.add_argument("--of", choices=("default", "planned"), default="default", help="what the tables are of")
    parser.add_argument("--remedies", action="store_true", help="the default with other constants, in place of choices")
    options = parser.parse_args()
    rows = recorded()
    if options.summary:
        summary(rows, options.of)
        return 0
    for name in [] if options.table else options.problems:
        for budget in options.budgets:
            tried = {remedy: {"max_products": budget} for remedy in REMEDIES}
            for choice, asked in (tried if options.remedies else choices(budget, name != "spectrum")).items():
                for relative in options.thresholds:
                    key = (name, budget, relative, choice, options.seed)
                    if key in rows:
                        continue
                    rows[key] = cell(name, budget, relative, choice, asked, options.seed)
                    append(RESULTS, Record("plans", {"choice": choice}, rows[key], seeds=options.seed))
    return 1 if table(rows, options.of) else 0


if __name__ == "__main__":
    sys.exit(main())
