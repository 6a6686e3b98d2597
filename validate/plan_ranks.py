"""Does a count on several ranks take the memory that `plan(..., ranks=R)` says? Rank 0 and the fullest other, measured.

    python validate/plan_ranks.py                                     # 2 ranks, everything that ranks may share
    python validate/plan_ranks.py --ranks 4 --over data "vectors, a matrix"
    python validate/plan_ranks.py --table                             # only print what is recorded

One process plans; then as many as there are ranks load the problem and count, on gloo and one thread each: a linear
layer of 100,100 parameters on 512 Gaussian samples; where weights are shared, ten layers of 1024 x 1024 on 16 samples;
and a diagonal matrix of a million rows, of which each rank multiplies its own. Measured is the most resident memory of
a rank beyond what it held when its problem was there. Appends to validate/results/plan_ranks.jsonl, and exits with 1
where a peak is off by more than 20 %.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

sys.path.append(str(Path(__file__).parents[1] / "bench"))

from children import ask_child, ask_ranks
from rank_weights import deep
from ranks import Slice

from lanczos_saddle import (
    Hessian,
    count_eigenvalues,
    data_parallel,
    plan,
    probe_parallel,
    share,
    vector_parallel,
    weight_parallel,
)
from lanczos_saddle.distributed.slices import even_slice
from lanczos_saddle.machine.measuring import held_bytes, measure
from lanczos_saddle.reports.records import Record, append, to_json

RESULTS = Path(__file__).parent / "results" / "plan_ranks.jsonl"
WITHIN = 0.2
CPU = torch.device("cpu")
ASKED: dict[str, Any] = {"threshold": 1e-2, "precision": 1e-9, "method": "lanczos", "preconditioner": None}
ROWS = 10**6
LIMIT = 3600.0
"""Seconds for a plan."""


def layer() -> tuple[nn.Module, nn.Module, Any]:
    torch.manual_seed(0)
    model = nn.Linear(1000, 100).double()
    return model, nn.CrossEntropyLoss(), (torch.randn(512, 1000).double(), torch.randint(100, (512,)))


def layers() -> tuple[nn.Module, nn.Module, Any]:
    torch.manual_seed(0)
    return deep(10, 1024).double(), nn.MSELoss(), (torch.randn(16, 1024).double(), torch.randn(16, 1024).double())


def part(rank: int, ranks: int) -> Any:
    """A rank's part of the diagonal matrix."""
    return Slice(ROWS, even_slice(ROWS, rank, ranks))


def of_network(problem: Callable[[], Any]) -> Hessian:
    return Hessian(*problem(), fidelity=problem is layer)


def of_samples(parallel: Callable[[Any], Any]) -> Any:
    model, loss, data = layer()
    return parallel(Hessian(model, loss, share(data)))


def of_weights(wrapped: Callable[[Any], Any]) -> Any:
    model, loss, data = layers()
    return wrapped(weight_parallel(model, loss, share(data), fidelity=False))


@dataclass(frozen=True)
class Cell:
    """What ranks share, of what, and how it is counted."""

    over: str  # as `plan` has it
    whole: Callable[[], Any]
    on_ranks: Callable[[int, int], Any]  # of (rank, ranks)
    run: dict[str, Any] = field(default_factory=dict)
    pilot: bool = True


LONG: dict[str, Any] = {"probes": 4, "steps": 60, "reorthogonalize": True}
SHORT: dict[str, Any] = {"probes": 4, "steps": 12, "reorthogonalize": True}
FEW: dict[str, Any] = {"probes": 2, "steps": 6, "reorthogonalize": True}

CELLS = {
    "data": Cell("data", lambda: of_network(layer), lambda *_: of_samples(data_parallel), LONG),
    "probes": Cell("probes", lambda: of_network(layer), lambda *_: probe_parallel(of_network(layer)), LONG),
    "vectors": Cell("vectors", lambda: of_network(layer), lambda *_: of_samples(vector_parallel), LONG),
    "vectors, a matrix": Cell("vectors", lambda: part(0, 1), lambda *at: vector_parallel(part(*at)), SHORT),
    "vectors, a matrix, no basis": Cell(
        "vectors", lambda: part(0, 1), lambda *at: vector_parallel(part(*at)), SHORT | {"reorthogonalize": False}
    ),
    "weights": Cell("weights", lambda: of_network(layers), lambda *_: of_weights(lambda one: one), FEW, pilot=False),
    "all": Cell("all", lambda: of_network(layers), lambda *_: of_weights(vector_parallel), FEW, pilot=False),
}


def foretold(ranks: int, name: str) -> dict[str, Any]:
    """The plan, of the whole problem in one process."""
    cell = CELLS[name]
    asked = {**ASKED, **cell.run, "pilot": cell.pilot, "memory": 8 * 2**30}
    found = plan(cell.whole(), **asked, ranks=ranks, over=cell.over)
    return {"size": found.size, "chosen": found.chosen, **to_json(found.choice)}


def ranked(name: str) -> None:
    """What one rank does; rank 0 prints what all measured."""
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    matrix = CELLS[name].on_ranks(dist.get_rank(), dist.get_world_size())
    held_bytes(CPU)
    counts, cost = measure(lambda: count_eigenvalues(matrix, **ASKED, **CELLS[name].run), CPU)
    said = matrix.group.gathered((cost.peak_bytes, cost.seconds))
    if matrix.group.rank == 0:
        peaks = [peak for peak, _ in said]
        print(json.dumps({"peak": peaks[0], "other_peak": max(peaks[1:]), "seconds": said[0][1],
                          "products": counts.products}))  # fmt: skip
    dist.destroy_process_group()


def recorded() -> dict[tuple[int, str], dict[str, Any]]:
    """The last record of each cell."""
    if not RESULTS.is_file():
        return {}
    rows = [json.loads(line)["result"] for line in RESULTS.read_text().splitlines()]
    return {(row["ranks"], row["over"]): row for row in rows}


def ratios(row: dict[str, Any]) -> tuple[float, float]:
    """Predicted over measured, of rank 0 and of the fullest other."""
    said, found = row["predicted"], row["measured"]
    return said["peak"] / found["peak"], said["other_peak"] / found["other_peak"]


def markdown(rows: list[dict[str, Any]]) -> str:
    """A line a cell."""
    heads = ("ranks share", "ranks", "rank 0, MiB: predicted", "measured", "ratio")
    lines = [f"| {' | '.join((*heads, 'each other, MiB: predicted', 'measured', 'ratio'))} |", "|---" * 8 + "|"]
    for row in sorted(rows, key=lambda row: ([*CELLS].index(row["over"]), row["ranks"])):
        cells = [row["over"], str(row["ranks"])]
        for name, ratio in zip(("peak", "other_peak"), ratios(row), strict=True):
            both = [f"{row[kind][name] / 2**20:.0f}" for kind in ("predicted", "measured")]
            cells += [*both, f"{ratio:.2f}" + " OFF" * (abs(ratio - 1) > WITHIN)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> int:
    """Predict, measure, record, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, nargs="+", default=[2])
    parser.add_argument("--over", nargs="+", choices=tuple(CELLS), default=[*CELLS])
    parser.add_argument("--table", action="store_true", help="measure nothing")
    parser.add_argument("--rank", help=argparse.SUPPRESS)
    parser.add_argument("--foretold", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.rank:
        ranked(options.rank)
        return 0
    if options.foretold:
        print(json.dumps(foretold(int(options.foretold[0]), options.foretold[1])))
        return 0
    for over in [] if options.table else options.over:
        for ranks in options.ranks:
            said = ask_child(__file__, ["--foretold", str(ranks), over], LIMIT)
            found = ask_ranks(__file__, ["--rank", over], ranks)
            row = {"ranks": ranks, "over": over, "predicted": said, "measured": found}
            append(RESULTS, Record("plan ranks", {"ranks": ranks, "over": over}, row))
            print(markdown([row]), flush=True)
    rows = list(recorded().values())
    print(markdown(rows))
    return int(any(abs(ratio - 1) > WITHIN for row in rows for ratio in ratios(row)))


if __name__ == "__main__":
    sys.exit(main())
