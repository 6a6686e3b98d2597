"""Eigenvalues below t of a dense matrix: seconds and memory of each way to count them, and is it right?

    python bench/inertia_race.py                              # N = 20,000, 50,000, 100,000 on the first CUDA device
    python bench/inertia_race.py --sizes 2000 --rounds 2      # does it work?
    python bench/inertia_race.py --cpu --sizes 4000 8000      # processors: our LDL' against LAPACK's and scipy's

    blocked     inertia by blocked LDL' (this package): mixing, one factorization, its certificate
    eigvalsh    torch.linalg.eigvalsh, all eigenvalues
    ldl_factor  torch.linalg.ldl_factor, the factorization alone
    cupy        cupy.linalg.eigvalsh, where CuPy is installed

and on processors

    triangle    inertia from one triangle (this package), in place: the same, in half the memory
    lapack      inertia by LAPACK's dsytrf in place (this package), with its certificate
    dsytrf      scipy.linalg.lapack.dsytrf, the factorization alone; its pivots are not counted
    ldl         scipy.linalg.ldl, the inertia from its D; it makes L and D, matrices of their own

The matrix is Q diag(d) Q with Q a random reflection, so every count is known. Each way gets a fresh one, as some
work in place; what fails is reported with its message. On processors all ways take turns in one process, and what
counts is processor time, per N^3 and as the median of ratios to dsytrf's, since others may use the machine; memory is
that of the process at its peak. Appends one record to bench/results/inertia_race.jsonl. Without --cpu it refuses to run
where there is no CUDA device; that part is not yet measured: no such machine was at hand.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import scipy.linalg
import torch
from torch import Tensor

from lanczos_saddle.dense.sylvester import Sylvester
from lanczos_saddle.dense.triangle import Triangle
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


def told(found: Any) -> tuple[int, dict[str, Any]]:
    return found.below, {"margin": found.margin, "separation": found.separation, "certified": found.holds_for(0.0)}


def blocked(matrix: Tensor) -> tuple[int, dict[str, Any]]:
    return told(Sylvester(matrix, method="blocked").at(SHIFT))


def lapack(matrix: Tensor) -> tuple[int, dict[str, Any]]:
    return told(Sylvester(matrix, method="lapack").at(SHIFT))


def triangle(matrix: Triangle) -> tuple[int, dict[str, Any]]:
    return told(Sylvester(matrix).at(SHIFT))


def dsytrf(matrix: Tensor) -> tuple[None, dict[str, Any]]:
    lapack = scipy.linalg.lapack
    matrix.diagonal().sub_(SHIFT)
    work = int(lapack.dsytrf_lwork(len(matrix), lower=1)[0])
    lapack.dsytrf(matrix.numpy().T, lower=1, lwork=work, overwrite_a=1)
    return None, {}


def ldl(matrix: Tensor) -> tuple[int, dict[str, Any]]:
    matrix.diagonal().sub_(SHIFT)
    _, d, _ = scipy.linalg.ldl(matrix.numpy().T, lower=True, overwrite_a=True, check_finite=False)
    pairs = np.flatnonzero(np.diag(d, -1))
    single = np.delete(np.diag(d), np.concatenate([pairs, pairs + 1]))
    twos = [np.linalg.eigvalsh(d[i : i + 2, i : i + 2]) for i in pairs]
    return int((single < 0).sum() + sum((two < 0).sum() for two in twos)), {}


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


ON_PROCESSORS: dict[str, Callable[[Any], tuple[int | None, dict[str, Any]]]] = {
    "triangle": triangle,
    "blocked": blocked,
    "lapack": lapack,
    "dsytrf": dsytrf,
    "ldl": ldl,
}


def on_processors(size: int, rounds: int, ways: list[str]) -> list[dict[str, Any]]:
    """A row a way; they take turns."""
    values = (torch.arange(size, dtype=torch.float64) + 0.5) * 3 / size - 1
    truth, times = int((values < SHIFT).sum()), dict[str, list[float]]()
    rows: dict[str, dict[str, Any]] = {}
    for turn in range(rounds + 1):
        for way in ways:
            dense = reflected(values if turn else values[:: max(1, size // 1000)])  # the first turn warms up
            matrix = Triangle(len(dense)).fill(dense) if way == "triangle" else dense
            if way == "triangle":
                del dense
            began = time.process_time()
            count, details = ON_PROCESSORS[way](matrix)
            spent = time.process_time() - began
            if turn:
                times.setdefault(way, []).append(spent)
                right = None if count is None else count == truth
                rows[way] = {"size": size, "way": way, "right": right, **details}
    for way, row in rows.items():
        row["processor_seconds"] = statistics.median(times[way])
        row["ns_per_cube"] = row["processor_seconds"] / size**3 * 1e9
        if "dsytrf" in times:
            row["of_dsytrf"] = statistics.median(a / b for a, b in zip(times[way], times["dsytrf"], strict=True))
        row["peak_gib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # of the whole process so far
        print("  ".join(f"{key} {value}" for key, value in row.items()), flush=True)
    return list(rows.values())


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
    parser.add_argument("--cpu", action="store_true", help="processors instead of a CUDA device")
    parser.add_argument(
        "--ways", nargs="+", choices=list(ON_PROCESSORS), default=list(ON_PROCESSORS), help="with --cpu"
    )
    options = parser.parse_args()
    if options.cpu:
        rows = [row for size in options.sizes for row in on_processors(size, options.rounds, options.ways)]
        asked = {"sizes": options.sizes, "rounds": options.rounds, "shift": SHIFT, "threads": torch.get_num_threads()}
        append(options.out, Record("inertia_race", asked, {"rows": rows, "device": "cpu"}, seeds=1))
        return int(any(row["right"] is False for row in rows))
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
