"""Time of a product and memory of a rank, at one rank and at several, on one machine: against half, a quarter.

    python bench/ranks.py --ranks 1 2 --output bench/results/ranks.jsonl

A small convolutional network on random images of 3 x 32 x 32, float32. Each rank holds its share of the samples and
works on one thread. On a machine that others use, seconds of a processor say more than seconds of the clock: both are
recorded, with what one rank spends on the sum alone.
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
from lanczos_saddle.reports.records import Record, append

COLUMNS, ROUNDS = 8, 3


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


def launched(ranks: int, samples: int):
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1", "WORLD_SIZE": str(ranks)}
        environment["MASTER_PORT"] = str(20000 + hash(folder) % 20000)
        command = [sys.executable, __file__, "--rank", "--samples", str(samples)]
        children = [
            subprocess.Popen(command, env={**environment, "RANK": str(r)}, stdout=out if r == 0 else None)
            for r in range(ranks)
        ]
        if any([child.wait() for child in children]):
            raise RuntimeError(f"a rank of {ranks} failed")
        out.seek(0)
        return json.loads(out.read().splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--samples", type=int, default=1024)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--rank", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.rank:
        rank(options.samples)
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
