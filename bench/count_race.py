"""One table per problem and threshold: error of the counts against exact, width, products, seconds, memory.

    python bench/count_race.py                                    # all problems: 2 to 3 hours on two cores; resumes
    python bench/count_race.py --problems digits conv spectrum    # without mnist: about an hour
    python bench/count_race.py --problems mnist --budgets 4x400 --methods ours PyHessian eigenthings,   # deeper
    python bench/count_race.py --methods ours PRIMME              # names that contain one of these
    python bench/count_race.py --methods ours --again             # ours anew, in place of their records
    python bench/count_race.py --small                            # does it work?

Every method runs in a process of its own on the same problem, from the same seed, as its documentation says, and is
read as bench/answers.py says; what fails is reported with its message. Those that sample get `probes x steps`
products at several budgets; eigensolvers compute `--wanted` eigenvalues from each end. Seconds and memory are those of
the count alone, the problem being loaded. Each finished cell is appended to bench/results/count_race.jsonl at once and
not computed again (`--again` does), and takes the place of an older record of it, whatever the version.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from answers import Task, row_from
from children import ask_child
from count_problems import PROBLEMS
from counters import COUNTERS, Counter

from lanczos_saddle.counting.comparison import Row, table
from lanczos_saddle.dense.exact import three_counts
from lanczos_saddle.machine.files import replacing
from lanczos_saddle.machine.measuring import measure
from lanczos_saddle.machine.rates import machine_limits
from lanczos_saddle.reports.records import Record, append, read, to_json

RESULTS = Path(__file__).parent / "results" / "count_race.jsonl"
BUDGETS = {"mnist": ("4x100",)}
OTHER_BUDGETS = ("4x50", "4x100", "4x200", "4x400")
SMALL = {"problems": ["digits"], "budgets": ["2x20"], "wanted": 10}
FULL = {"problems": list(PROBLEMS), "budgets": None, "wanted": 50}
CONFIDENCE = 0.95
PREPARATION = 3600  # seconds: training and exact eigenvalues


def main() -> int:
    options = parsed()
    if options.child:
        print(json.dumps(to_json(child(options))))
        return 0
    limits = ask_child(__file__, child_arguments(options, "limits"), PREPARATION)
    known = [] if options.again or not options.out.exists() else read(options.out)
    for name in options.problems:
        problem = ask_child(__file__, child_arguments(options, "prepare", problem=name), PREPARATION)
        cells = [run_cell(cell, problem, options, limits, known) for cell in cells_of(name, options)]
        print(report(name, problem, cells, limits), flush=True)
    return 0


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", nargs="+", choices=PROBLEMS, help="all")
    parser.add_argument("--methods", nargs="+", default=[""], help="names that contain one of these; all")
    parser.add_argument("--budgets", nargs="+", help="probes x steps, such as 4x200; depends on the problem")
    parser.add_argument("--wanted", type=int, help="eigenvalues from each end, of eigensolvers; 50")
    parser.add_argument("--dense-up-to", type=int, default=5_000, help="N up to which methods that take matrices run")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=["float32", "float64"], default="float64")
    parser.add_argument("--limit", type=float, default=3600, help="seconds for one cell")
    parser.add_argument("--again", action="store_true", help="compute finished cells again")
    parser.add_argument("--small", action="store_true", help="digits, 2x20 products, 10 eigenvalues, if not given")
    parser.add_argument("--out", type=Path, default=RESULTS)
    for name in ("child", "problem", "budget", "taus"):
        parser.add_argument(f"--{name}", help=argparse.SUPPRESS)
    options = parser.parse_args()
    for name, value in (SMALL if options.small else FULL).items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    return options


# one method on one problem in its own process


def child(options: argparse.Namespace) -> Any:
    device = torch.device(options.device)
    if options.child == "limits":
        return machine_limits(getattr(torch, options.dtype), device)
    problem = PROBLEMS[options.problem]
    if options.child == "prepare":
        values = problem.eigenvalues()
        taus = [relative * float(abs(values).max()) for relative in problem.relative_thresholds]
        return {
            "size": len(values),
            "network": problem.network,
            "taus": taus,
            "exact": [three_counts(values, tau) for tau in taus],
        }
    counter = next(counter for counter in COUNTERS if counter.name == options.child)
    counter.installed()  # imported now, outside what is measured
    loaded = problem.load(getattr(torch, options.dtype), device)
    probes, steps = (int(part) for part in options.budget.split("x"))
    taus = tuple(float(tau) for tau in options.taus.split(","))
    return rows_of(counter, Task(loaded, taus, probes, steps, options.wanted, options.seed, CONFIDENCE))


def rows_of(counter: Counter, task: Task) -> list[Row]:
    try:
        found, cost = measure(lambda: counter.run(task), task.loaded.operator.device)
    except Exception as error:  # a peer may raise anything; the table says what
        message = f"{type(error).__name__}: {' '.join(str(error).split())}"
        return [Row(counter.name, tau, failed=message) for tau in task.taus]
    return [
        Row(counter.name, tau, *answers, found.products, cost.seconds, cost.peak_bytes)
        for tau, answers in zip(task.taus, found.answers, strict=True)
    ]


# the cells of a table


def cells_of(problem: str, options: argparse.Namespace) -> Iterator[tuple[Counter, dict[str, Any]]]:
    """Each method at each budget that means something to it, and what decides its result."""
    budgets = options.budgets or BUDGETS.get(problem, OTHER_BUDGETS)
    for counter in COUNTERS:
        if not any(part.lower() in counter.name.lower() for part in options.methods):
            continue
        for budget in budgets if counter.samples else [None]:
            yield (
                counter,
                {
                    "problem": problem,
                    "method": counter.name,
                    "version": counter.version,
                    "budget": budget,
                    "wanted": None if counter.samples else options.wanted,
                    "relative_thresholds": list(PROBLEMS[problem].relative_thresholds),
                    "confidence": CONFIDENCE,
                    "seed": options.seed,
                    "dtype": options.dtype,
                    "device": options.device,
                    "threads": torch.get_num_threads(),
                },
            )


def run_cell(
    cell: tuple[Counter, dict[str, Any]],
    problem: dict[str, Any],
    options: argparse.Namespace,
    limits: dict[str, float],
    known: list[dict[str, Any]],
) -> list[Row]:
    """The rows of one cell, one per tau: from the records, from a child, or why there are none."""
    counter, key = cell
    label = counter.name + (f" {key['budget']}" if key["budget"] else "")
    missing = counter.missing(problem["network"], problem["size"], options.dense_up_to)
    finished = next((record["result"]["rows"] for record in reversed(known) if record["parameters"] == key), None)
    if finished is not None:
        rows = finished
    elif missing is not None:
        return [Row(label, tau, version=counter.version, failed=missing) for tau in problem["taus"]]
    else:
        print(f"{key['problem']}: {label}", file=sys.stderr, flush=True)
        runs = [problem["taus"]] if counter.once else [[tau] for tau in problem["taus"]]
        rows = [row for taus in runs for row in measured_alone(counter, key, taus, options)]
        result = {"size": problem["size"], "exact": problem["exact"], "rows": rows, "limits": limits}
        forget(options.out, key)
        append(options.out, Record("count_race", key, result, seeds=options.seed))
    return [dataclasses.replace(row_from(row), method=label, version=counter.version) for row in rows]


def forget(path: Path, key: dict[str, Any]) -> None:
    """Takes the records of a cell out of the file, whatever the version of the package."""
    if not path.exists():
        return

    def cell(parameters: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in parameters.items() if name != "version"}

    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    kept = [line for line in lines if cell(json.loads(line)["parameters"]) != cell(key)]
    if len(kept) < len(lines):
        with replacing(path) as temporary:
            temporary.write_text("".join(kept), encoding="utf-8")


def measured_alone(counter: Counter, key: dict[str, Any], taus: list[float], options: argparse.Namespace) -> Any:
    """One run in its own process, as rows in their JSON form."""
    more = {"problem": key["problem"], "budget": key["budget"] or "1x1", "taus": ",".join(map(repr, taus))}
    try:
        return ask_child(__file__, child_arguments(options, counter.name, **more), options.limit)
    except RuntimeError as error:
        return to_json([Row(counter.name, tau, failed=str(error)) for tau in taus])


def child_arguments(options: argparse.Namespace, child: str, **more: str) -> list[str]:
    passed = [f"--{name}={getattr(options, name)}" for name in ("device", "dtype", "seed", "wanted")]
    return [*passed, *(f"--{name}={value}" for name, value in more.items()), f"--child={child}"]


def report(name: str, problem: dict[str, Any], cells: list[list[Row]], limits: dict[str, float]) -> str:
    lines = []
    for index, (tau, exact) in enumerate(zip(problem["taus"], problem["exact"], strict=True)):
        relative = PROBLEMS[name].relative_thresholds[index]
        lines += [
            f"\n{name}: N = {problem['size']}, tau = {tau:.3e}, {relative:.0e} of the largest |eigenvalue|",
            table([rows[index] for rows in cells], tuple(exact)),
        ]
    return "\n".join(
        [
            *lines,
            f"\nmatrix product {limits['gflop_per_second']:.0f} GFLOP/s, copy {limits['gb_per_second']:.1f} GB/s, "
            f"{torch.get_num_threads()} threads",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
