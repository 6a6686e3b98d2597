"""Time of a product and memory of a rank, at one rank and at several, on one machine: against half, a quarter.

    python bench/ranks.py --ranks 1 2 --output bench/results/ranks.jsonl
    python bench/ranks.py --ranks 1 2 4 --basis 100 --output bench/results/ranks.jsonl     # of the basis alone

A small convolutional network on random images of 3 x 32 x 32, float32. Each rank holds its share of the samples and
works on one thread. With --basis, recurrences of so many steps on a diagonal matrix of 1e5 rows, whose products cost
nothing: what is left are the basis, float64, and the orthogonalization against it. On a machine that others use,
seconds of a processor say more than seconds of the clock: both are recorded, with what a rank spends on the sum alone.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
import torch.distributed as dist
from children import peak_mib
from torch import nn

from lanczos_saddle import Hessian, data_parallel, share
from lanczos_saddle.krylov.lanczos import Lanczos
from lanczos_saddle.reports.records import Record, append

COLUMNS, ROUNDS = 8, 3
ROWS, PROBES = 100_000, 4


def problem(samples: int):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3, stride=2),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * 7 * 7, 10),
    )
    return model, nn.CrossEntropyLoss(), (torch.randn(samples, 3, 32, 32), torch.randint(0, 10, (samples,)))


def rank(samples: int) -> None:
    """What one process does; rank 0 prints what all measured."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    model, loss, data = problem(samples)
    part = share(data)
    before = peak_mib()
    matrix = data_parallel(Hessian(model, loss, part, fidelity=False))
    v = torch.randn(matrix.shape[0], COLUMNS, generator=torch.Generator().manual_seed(0))
    matrix @ v  # recorded
    clock, spent, summing = [], [], []
    for _ in range(ROUNDS):
        dist.barrier()
        began, cpu = time.perf_counter(), time.process_time()
        matrix @ v
        clock.append(time.perf_counter() - began)
        spent.append(time.process_time() - cpu)
        rows = torch.ones(COLUMNS, matrix.shape[0])
        began = time.process_time()
        matrix.group.summed(rows, everywhere=True)
        summing.append(time.process_time() - began)
    own = {
        "samples": len(part[1]),
        "seconds": statistics.median(clock) / COLUMNS,
        "cpu_seconds": statistics.median(spent) / COLUMNS,
        "cpu_seconds_of_the_sum": statistics.median(summing) / COLUMNS,
        "peak_mib_before": before,
        "peak_mib": peak_mib(),
    }
    found = matrix.group.gathered(own)
    if matrix.group.rank == 0:
        print(json.dumps({"parameters": matrix.shape[0], "ranks": found}))
    dist.destroy_process_group()


class Diagonal:
    """Products that cost nothing, of a matrix that ranks share."""

    problem = None  # products are taken as they are, without copies

    def __init__(self, base) -> None:
        self.base, self.shape, self.dtype, self.device = base, (ROWS, ROWS), torch.float64, base.device
        self.values = torch.linspace(-1, 2, ROWS, dtype=torch.float64)[:, None]

    def __matmul__(self, v):
        return self.values * v


def basis(steps: int) -> None:
    """Memory of every rank for its part of a basis, and seconds of a processor for a step; rank 0 prints."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    torch.manual_seed(0)
    model = nn.Linear(2, 1).double()
    data = (torch.randn(64, 2).double(), torch.randn(64, 1).double())
    matrix = data_parallel(Hessian(model, nn.MSELoss(), share(data), fidelity=False))
    found: dict[str, float] = {"peak_mib_before": peak_mib()}
    cpu = time.process_time()

    def run(led):
        probes = torch.randn(ROWS, PROBES, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        began = time.perf_counter()
        made = Lanczos(Diagonal(led), probes, capacity=steps).extend(steps)
        return time.perf_counter() - began, float(made.offdiagonal[0, -1])

    seconds, last = matrix.led_by_one(run)
    found |= {"peak_mib": peak_mib(), "cpu_seconds": (time.process_time() - cpu) / steps, "seconds": seconds / steps}
    said = matrix.group.gathered({**found, "last": last})
    if matrix.group.rank == 0:
        print(json.dumps({"parameters": ROWS, "basis_mib": PROBES * steps * ROWS * 8 / 2**20, "ranks": said}))
    dist.destroy_process_group()


def launched(ranks: int, samples: int, steps: int = 0):
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1", "WORLD_SIZE": str(ranks)}
        environment["MASTER_PORT"] = str(20000 + hash(folder) % 20000)
        command = [sys.executable, __file__, "--rank", "--samples", str(samples), "--basis", str(steps)]
        children = [
            subprocess.Popen(command, env={**environment, "RANK": str(r)}, stdout=out if r == 0 else None)
            for r in range(ranks)
        ]
        if any([child.wait() for child in children]):
            raise RuntimeError(f"a rank of {ranks} failed")
        out.seek(0)
        return json.loads(out.read().splitlines()[-1])


def bases(options: argparse.Namespace) -> None:
    """What a basis takes on each number of ranks."""
    for number in options.ranks:
        found = launched(number, options.samples, options.basis)
        grown = [one["peak_mib"] - one["peak_mib_before"] for one in found["ranks"]]
        print(
            f"{number} ranks: a basis of {found['basis_mib']:.0f} MiB, ranks grow by "
            f"{', '.join(f'{mib:.0f}' for mib in grown)} MiB, at most "
            f"{max(one['cpu_seconds'] for one in found['ranks']):.3f} s of a processor a step, "
            f"{found['ranks'][0]['seconds']:.3f} s of the clock"
        )
        if options.output:
            asked = {"ranks": number, "steps": options.basis, "probes": PROBES, "threads": 1}
            append(options.output, Record("ranks-basis", asked, found, seeds=0))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--samples", type=int, default=1024)
    parser.add_argument("--basis", type=int, default=0, metavar="STEPS", help="measure a basis of so many steps")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--rank", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.rank:
        basis(options.basis) if options.basis else rank(options.samples)
        return
    if options.basis:
        bases(options)
        return
    for number in options.ranks:
        found = launched(number, options.samples)
        most = {name: max(one[name] for one in found["ranks"]) for name in found["ranks"][0]}
        print(
            f"{number} ranks: N = {found['parameters']}, at most {most['samples']} samples a rank, "
            f"{most['cpu_seconds']:.4f} s of a processor a product (sum {most['cpu_seconds_of_the_sum']:.5f}), "
            f"{most['seconds']:.4f} s of the clock, peak {most['peak_mib']:.0f} MiB"
        )
        if options.output:
            asked = {"ranks": number, "samples": options.samples, "columns": COLUMNS, "rounds": ROUNDS, "threads": 1}
            append(options.output, Record("ranks", asked, found, seeds=0))


if __name__ == "__main__":
    main()
