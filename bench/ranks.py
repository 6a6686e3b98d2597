"""Time of a product and memory of a rank, at one rank and at several, on one machine: against half, a quarter.

    python bench/ranks.py --ranks 1 2 --output bench/results/ranks.jsonl
    python bench/ranks.py --ranks 1 2 4 --basis 100 --output bench/results/ranks.jsonl     # of the basis alone
    python bench/ranks.py --ranks 1 2 --columns 4000 8000 --output bench/results/ranks.jsonl     # of exact counts
    python bench/ranks.py --ranks 1 2 4 --vectors 12 --output bench/results/ranks.jsonl    # vectors in slices

A small convolutional network on random images of 3 x 32 x 32, float32. Each rank holds its share of the samples and
works on one thread. With --basis, recurrences of so many steps on a diagonal matrix of 1e5 rows, whose products cost
nothing: what is left are the basis, float64, and the orthogonalization against it. With --columns, inertia of matrices
Q diag(d) Q of these sizes, Q a reflection, at one threshold, so that every count is known: by columns over the ranks,
and by one process from one triangle ("0 ranks"); one thread each. With --vectors, whole counts of so many steps on
diagonal matrices of 1e5 and 1e6 rows whose vectors are in slices, without a basis and with one; on one rank, the count
of one process. On a machine that others use,
seconds of a processor say more than seconds of the clock: both are recorded, with what a rank spends on the sum alone.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import torch
import torch.distributed as dist
from children import ask_ranks, peak_mib
from torch import nn

from lanczos_saddle import Hessian, count_eigenvalues, data_parallel, probe_parallel, share, vector_parallel
from lanczos_saddle.dense.one_triangle import assemble_triangle
from lanczos_saddle.dense.over_ranks import assemble_over
from lanczos_saddle.dense.sylvester import Sylvester
from lanczos_saddle.dense.triangle import Triangle
from lanczos_saddle.distributed.columns import Columns
from lanczos_saddle.distributed.slices import even_slice
from lanczos_saddle.krylov.lanczos import Lanczos
from lanczos_saddle.reports.records import Record, append

COLUMNS, ROUNDS = 8, 3
ROWS, PROBES = 100_000, 4
SHIFT = -0.25
SIZES = (100_000, 1_000_000)


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


class Slice:
    """Some rows of a diagonal matrix: products cost nothing, and nothing is said for them."""

    problem = None

    def __init__(self, size: int, own: slice) -> None:
        self.shape, self.own, self.dtype, self.device = (size, size), own, torch.float64, torch.device("cpu")
        self.values = torch.linspace(-1, 2, size, dtype=torch.float64)[own, None].clone()

    def product_own(self, v):
        return self.values * v

    __matmul__ = product_own


def peak_anew() -> None:
    """The most memory from now on is what `held_mib` says."""
    Path("/proc/self/clear_refs").write_text("5")


def held_mib() -> float:
    """The most memory since `peak_anew`."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields["VmHWM"].split()[0]) / 1024


def vectors(steps: int) -> None:
    """What every rank grows by in whole counts, and seconds; rank 0 prints."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank, ranks = dist.get_rank(), dist.get_world_size()
    asked = {"threshold": 0.5, "method": "lanczos", "probes": PROBES, "precision": 1e-9}
    found = []
    few = Slice(50, even_slice(50, rank, ranks))
    count_eigenvalues(few if ranks == 1 else vector_parallel(few), **asked, steps=3)  # what a first count loads
    for size in SIZES:
        own = Slice(size, even_slice(size, rank, ranks))
        matrix = own if ranks == 1 else vector_parallel(own)
        for kept in (False, True):
            peak_anew()
            before, cpu, began = held_mib(), time.process_time(), time.perf_counter()
            counts = count_eigenvalues(matrix, **asked, steps=steps, reorthogonalize=kept)
            grown, spent = held_mib() - before, time.process_time() - cpu
            one = {"grown_mib": grown, "cpu_seconds": spent, "seconds": time.perf_counter() - began}
            every = [None] * ranks
            dist.all_gather_object(every, one)
            three = [str(counts.negative), str(counts.positive)]
            found.append({"parameters": size, "basis": kept, "counts": three, "ranks": every})
    if rank == 0:
        print(json.dumps({"counts": found}))
    dist.destroy_process_group()


def sliced(options: argparse.Namespace) -> None:
    """What vectors in slices take on each number of ranks."""
    for number in options.ranks:
        found = launched(number, options.samples, vectors=options.vectors)
        for one in found["counts"]:
            grown = ", ".join(f"{rank['grown_mib']:.0f}" for rank in one["ranks"])
            print(
                f"{number} ranks, N = {one['parameters']}, {'a basis' if one['basis'] else 'no basis'}: ranks grow by "
                f"{grown} MiB, at most {max(rank['cpu_seconds'] for rank in one['ranks']) / options.vectors:.3f} s of "
                f"a processor a step, {one['ranks'][0]['seconds'] / options.vectors:.3f} s of the clock, "
                f"counts {one['counts']}"
            )
        if options.output:
            asked = {"ranks": number, "steps": options.vectors, "probes": PROBES, "threads": 1}
            append(options.output, Record("ranks-vectors", asked, found, seeds=0))


def reflected(size: int) -> tuple[Hessian, int]:
    """(the Hessian Q diag(d) Q of a quadratic function, eigenvalues below SHIFT): products cost O(N)."""
    values = (torch.arange(size, dtype=torch.float64) + 0.5) * 3 / size - 1
    u = torch.randn(size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    u /= u.norm()
    x = nn.Parameter(torch.zeros(size, dtype=torch.float64))

    def function():
        y = x - 2 * u * (u @ x)
        return values @ (y * y) / 2

    return Hessian.of(function, [x], fidelity=False), int((values < SHIFT).sum())


class Clocks:
    """Seconds of the clock and of a processor since the last look."""

    def __init__(self) -> None:
        self.at = time.perf_counter(), time.process_time()

    def since(self) -> list[float]:
        before, self.at = self.at, (time.perf_counter(), time.process_time())
        return [now - then for now, then in zip(self.at, before, strict=True)]


def triangle(size: int) -> None:
    """What one process does with one triangle, in place."""
    torch.set_num_threads(1)
    matrix, truth = reflected(size)
    matrix @ torch.ones(size, 64, dtype=torch.float64)  # recorded
    found: dict[str, object] = {"peak_mib_before": peak_mib()}
    clocks, held = Clocks(), Triangle(size)
    assemble_triangle(matrix, held)
    found["assembly"] = clocks.since()
    said = Sylvester(held).at(SHIFT)
    found |= {"inertia": clocks.since(), "peak_mib": peak_mib()}
    right = {"right": said.below == truth, "certified": said.holds_for(0.0), "margin": said.margin}
    print(json.dumps({"parameters": size, **right, "ranks": [found]}))


def columns(size: int) -> None:
    """What every rank does with its columns; rank 0 prints."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    own, truth = reflected(size)
    own @ torch.ones(size, 64, dtype=torch.float64)
    matrix = probe_parallel(own, dense="columns")
    found: dict[str, object] = {"peak_mib_before": peak_mib()}
    clocks, settle = Clocks(), Columns.settle

    def settled(panels):
        found["assembly"] = clocks.since()
        return settle(panels)

    Columns.settle = settled  # type: ignore[method-assign]

    def question(led):
        return assemble_over(led, led, 1, generator=None, progress=False, tolerance=0.0).solver().at(SHIFT)

    said = matrix.led_by_one(question)
    found |= {"inertia": clocks.since(), "peak_mib": peak_mib()}
    ranks = matrix.group.gathered(found)
    right = {"right": said.below == truth, "certified": said.holds_for(0.0), "margin": said.margin}
    if matrix.group.rank == 0:
        print(json.dumps({"parameters": size, **right, "ranks": ranks}))
    dist.destroy_process_group()


def exact_counts(options: argparse.Namespace) -> None:
    """Inertia from one triangle in one process, and by columns on each number of ranks."""
    for size in options.columns:
        for number in (0, *options.ranks):
            found = launched(max(number, 1), options.samples, columns=size, alone=number == 0)
            grown = [one["peak_mib"] - one["peak_mib_before"] for one in found["ranks"]]
            spent = {name: max(one[name][1] for one in found["ranks"]) for name in ("assembly", "inertia")}
            print(
                f"N = {size}, {number} ranks: grow by {', '.join(f'{mib:.0f}' for mib in grown)} MiB, at most "
                f"{spent['assembly']:.1f} s of a processor to assemble, {spent['inertia']:.1f} s to count; "
                f"{found['ranks'][0]['inertia'][0]:.1f} s of the clock; right {found['right']}"
            )
            if options.output:
                asked = {"ranks": number, "size": size, "shift": SHIFT, "threads": 1}
                append(options.output, Record("ranks-columns", asked, found, seeds=1))


def launched(ranks: int, samples: int, steps: int = 0, *, columns: int = 0, vectors: int = 0, alone: bool = False):
    arguments = ["--rank", "--samples", str(samples), "--basis", str(steps)]
    arguments += ["--columns", str(columns)] if columns else []
    arguments += ["--vectors", str(vectors)] if vectors else []
    arguments += ["--alone"] if alone else []
    return ask_ranks(__file__, arguments, ranks)


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
    parser.add_argument("--vectors", type=int, default=0, metavar="STEPS", help="measure counts of so many steps")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--columns", type=int, nargs="+", metavar="N", help="measure exact counts of such matrices")
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--rank", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.rank:
        if options.columns:
            (triangle if options.alone else columns)(options.columns[0])
        elif options.vectors:
            vectors(options.vectors)
        else:
            basis(options.basis) if options.basis else rank(options.samples)
        return
    if options.vectors:
        sliced(options)
        return
    if options.columns:
        exact_counts(options)
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
