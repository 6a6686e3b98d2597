"""Does a count on several ranks take the memory that `plan(..., ranks=R)` says? Rank 0 and the fullest other, measured.

    python validate/plan_ranks.py                        # 2 ranks, over data and over probes
    python validate/plan_ranks.py --ranks 4 --over data
    python validate/plan_ranks.py --table                # only print what is recorded

One process plans; then as many as there are ranks load the problem, a linear layer of 100,100 parameters on 512
Gaussian samples, and count with a basis, on gloo and one thread each. Measured is the most resident memory of a rank
beyond what it held when its problem was there. Appends to validate/results/plan_ranks.jsonl, and exits with 1 where a
peak is off by more than 20 %.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lanczos_saddle import Hessian, count_eigenvalues, data_parallel, plan, probe_parallel, share
from lanczos_saddle.machine.measuring import held_bytes, measure
from lanczos_saddle.reports.records import Record, append, to_json

RESULTS = Path(__file__).parent / "results" / "plan_ranks.jsonl"
WITHIN = 0.2
CPU = torch.device("cpu")
ASKED: dict[str, Any] = {"threshold": 1e-2, "precision": 1e-9, "method": "lanczos", "preconditioner": None}
RUN: dict[str, Any] = {"probes": 4, "steps": 60, "reorthogonalize": True}


def problem() -> tuple[nn.Module, nn.Module, Any]:
    torch.manual_seed(0)
    model = nn.Linear(1000, 100).double()
    return model, nn.CrossEntropyLoss(), (torch.randn(512, 1000).double(), torch.randint(100, (512,)))


def foretold(ranks: int, over: Any) -> dict[str, Any]:
    """The plan, of the whole problem in one process."""
    found = plan(Hessian(*problem()), **ASKED, **RUN, ranks=ranks, over=over, memory=4 * 2**30)
    return {"size": found.size, "chosen": found.chosen, **to_json(found.choice)}


def ranked(over: str) -> None:
    """What one rank does; rank 0 prints what all measured."""
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    model, loss, data = problem()
    if over == "data":
        matrix = data_parallel(Hessian(model, loss, share(data)))
    else:
        matrix = probe_parallel(Hessian(model, loss, data))
    held_bytes(CPU)
    counts, cost = measure(lambda: count_eigenvalues(matrix, **ASKED, **RUN), CPU)
    said = matrix.group.gathered((cost.peak_bytes, cost.seconds))
    if matrix.group.rank == 0:
        peaks = [peak for peak, _ in said]
        print(json.dumps({"peak": peaks[0], "other_peak": max(peaks[1:]), "seconds": said[0][1],
                          "products": counts.products}))  # fmt: skip
    dist.destroy_process_group()


def launched(ranks: int, over: str) -> dict[str, Any]:
    """All ranks, each a process of its own; what rank 0 printed."""
    here = {**os.environ, "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1", "WORLD_SIZE": str(ranks)}
    here["MASTER_PORT"] = str(random.SystemRandom().randint(20000, 40000))
    command = [sys.executable, __file__, "--rank", over]
    children = [
        subprocess.Popen(command, env={**here, "RANK": str(r)}, stdout=subprocess.PIPE, text=True) for r in range(ranks)
    ]
    said = [child.communicate()[0] for child in children]
    if any(child.returncode for child in children):
        raise RuntimeError(f"a rank of {ranks} failed")
    found: dict[str, Any] = json.loads(said[0].splitlines()[-1])
    return found


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
    for row in sorted(rows, key=lambda row: (row["over"], row["ranks"])):
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
    parser.add_argument("--over", nargs="+", choices=("data", "probes"), default=["data", "probes"])
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
            command = [sys.executable, __file__, "--foretold", str(ranks), over]
            said = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            row = {"ranks": ranks, "over": over, "predicted": said, "measured": launched(ranks, over)}
            append(RESULTS, Record("plan ranks", {"ranks": ranks, "over": over}, row))
            print(markdown([row]), flush=True)
    rows = list(recorded().values())
    print(markdown(rows))
    return int(any(abs(ratio - 1) > WITHIN for row in rows for ratio in ratios(row)))


if __name__ == "__main__":
    sys.exit(main())
