"""Eigenvalues below t of a dense matrix on a GPU: seconds and peak memory of each way to count them, and is it right?

    python bench/inertia_race.py                              # N = 20,000, 50,000, 100,000 on the first CUDA device
    python bench/inertia_race.py --sizes 2000 --rounds 2      # does it work?

    blocked     inertia by blocked LDL' (this package): mixing, one factorization, its certificate
    eigvalsh    torch.linalg.eigvalsh, all eigenvalues
    ldl_factor  torch.linalg.ldl_factor, the factorization alone
    cupy        cupy.linalg.eigvalsh, where CuPy is installed

The matrix is Q diag(d) Q with Q a random reflection, so every count is known. Each way gets a fresh one, as some
work in place; what fails is reported with its message. Appends one record to bench/results/inertia_race.jsonl.
Refuses to run without a CUDA device. Not yet measured: no such machine was at hand.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lanczos_saddle.dense.sylvester import Sylvester
from lanczos_saddle.reports.records import Record, append

RESULTS = Path(__file__).parent / "results" / "inertia_race.jsonl"
SIZES = [20_000, 50_000, 100_000]
SHIFT = -0.25
ROWS = 2048  # of the matrix, made at once


def reflected(values: Tensor) -> Tensor:
    """Q diag(values) Q, Q = I - 2 u u' for a random unit vector u: D - 2 u (Du)' - 2 (Du) u' + 4 (u'Du) u u'."""
    size, device = len(values), values.device
    u = torch.randn(size, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(device)
    u /= u.norm()
    w = values * u
    w -= (u @ w) * u  # D - 2 u w' - 2 w u' with w = Du - (u'Du) u
    matrix = torch.empty(size, size, dtype=torch.float64, device=device)
    for rows in torch.arange(size, device=device).split(ROWS):
        part = matrix[rows[0] : rows[-1] + 1]
        torch.outer(u[rows], w, out=part)
        part.addr_(w[rows], u).mul_(-2)
        part[torch.arange(len(rows), device=device), rows] += values[rows]
    return matrix


def blocked(matrix: Tensor) -> tuple[int, dict[str, Any]]:
    found = Sylvester(matrix, method="blocked").at(SHIFT)
    return found.below, {"margin": found.margin, "separation": found.separation, "certified": found.holds_for(0.0)}


def eigvalsh(matrix: Tensor) -> tuple[int, dict[str, Any]]:
    return int((torch.linalg.eigvalsh(matrix) < SHIFT).sum()), {}


def ldl_factor(matrix: Tensor) -> tuple[None, dict[str, Any]]:
    torch.linalg.ldl_factor(matrix)
    return None, {}


def cupy_eigvalsh(matrix: Tensor) -> tuple[int, dict[str, Any]]:
    import cupy

    return int((cupy.linalg.eigvalsh(cupy.from_dlpack(matrix)) < SHIFT).sum()), {}


WAYS: dict[str, Callable[[Tensor], tuple[int | None, dict[str, Any]]]] = {
    "blocked": blocked,
    "eigvalsh": eigvalsh,
    "ldl_factor": ldl_factor,
    "cupy": cupy_eigvalsh,
}


def measured(way: str, values: Tensor, rounds: int) -> dict[str, Any]:
    """Median seconds after a small warm-up, peak memory beside the matrix, and whether the count is right."""
    truth, seconds, count, details = int((values < SHIFT).sum()), [], None, {}
    try:
        WAYS[way](reflected(values[:: max(1, len(values) // 1000)]))
        for _ in range(rounds):
            matrix = reflected(values)
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            began = time.perf_counter()
            count, details = WAYS[way](matrix)
            torch.cuda.synchronize()
            seconds.append(time.perf_counter() - began)
            peak = torch.cuda.max_memory_allocated() - matrix.nbytes
            del matrix
    except Exception as error:  # a peer may fail in any way: that is a result
        return {"way": way, "failed": f"{type(error).__name__}: {error}"[:300]}
    right = None if count is None else count == truth
    return {"way": way, "seconds": statistics.median(seconds), "beside_gib": peak / 2**30, "right": right, **details}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("inertia_race.py measures a CUDA device; torch sees none", file=sys.stderr)
        return 2
    rows, wrong = [], False
    for size in options.sizes:
        values = (torch.arange(size, dtype=torch.float64, device="cuda") + 0.5) * 3 / size - 1  # none at SHIFT
        for way in WAYS:
            row = {"size": size, **measured(way, values, options.rounds)}
            wrong |= row.get("right") is False
            rows.append(row)
            print("  ".join(f"{key} {value}" for key, value in row.items()), flush=True)
            torch.cuda.empty_cache()
    asked = {"sizes": options.sizes, "rounds": options.rounds, "shift": SHIFT}
    append(options.out, Record("inertia_race", asked, {"rows": rows, "device": torch.cuda.get_device_name()}, seeds=1))
    return int(wrong)


if __name__ == "__main__":
    sys.exit(main())
