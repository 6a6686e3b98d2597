"""One table: milliseconds per product H v, peak memory and error of each library, and the machine's limits.

    python bench/product_race.py                                       # MLP, 60,000 images, float32, block of 16
    python bench/product_race.py --problem conv                        # or transformer
    python bench/product_race.py --samples 500 --batch 250 --rounds 2  # does it work?

Networks of product_problems.py. Memory and error: one fresh process per library. The error is
that of a block against ours in float64 at the same numbers. Time: one process, one product of each in turn,
`rounds` times, medians; milliseconds are per column of V, also in a block. What fails is reported with its
message. Appends one record to bench/results/product_race.jsonl.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from children import ask_child, peak_mib, run_child
from peers import HAND_WRITTEN, LIBRARIES, OURS, Library, Product, relative_error
from product_problems import PROBLEMS, Network, directions, in_float64

from lanczos_saddle.machine import rates as limits
from lanczos_saddle.reports.records import Record, append

RESULTS = Path(__file__).parent / "results" / "product_race.jsonl"
REFERENCE = "reference.pt"
CHILD_LIMIT = 1800  # seconds
FLOPS = 2 * 10**9  # of the matrix product, where the operations of a product are not known


@dataclass
class Row:
    """What is known of one library; None where it failed."""

    name: str
    package: str
    version: str | None
    failed: str | None = None
    error: float | None = None  # relative, of a block, against float64
    peak_mib: float | None = None  # of the process
    data_mib: float | None = None  # of the process with the data, before the product was made
    seconds_to_make: float | None = None
    ms: dict[str, float] = field(default_factory=dict)  # "block", "single": median ms per product

    def ratio(self, width: str, other: float | None) -> float | None:
        mine = self.ms.get(width)
        return mine / other if mine and other else None


def main() -> int:
    options = parsed()
    if options.child:
        return child(options)
    rows = [Row(library.name, library.package, library.version) for library in racing(options)]
    # first, while this process is small: on Linux a new process inherits its parent's peak memory
    with tempfile.TemporaryDirectory() as folder:
        try:
            run_child(__file__, arguments_for(options, "reference", folder), CHILD_LIMIT)
        except RuntimeError as error:
            print(error, file=sys.stderr)
            return 2
        for row in rows:
            measure_alone(row, options, folder)
    machine = time_all(rows, options)
    print(table(rows, machine, options))
    asked = {key: value for key, value in vars(options).items() if key not in ("child", "folder", "out")}
    asked |= {"threads": torch.get_num_threads()}
    append(options.out, Record("product_race", asked, {"libraries": rows, "machine": machine}, seeds=0))
    return int(rows[0].failed is not None)


def racing(options: argparse.Namespace) -> tuple[Library, ...]:
    """The libraries, and on the MLP the product that is written for it."""
    return (*LIBRARIES, HAND_WRITTEN) if options.problem == "mlp" else LIBRARIES


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problem", choices=PROBLEMS, default="mlp")
    parser.add_argument("--samples", type=int, help="of the data; all that the problem has by default")
    parser.add_argument("--block", type=int, default=16, help="columns of V")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--dtype", choices=["float32", "float64"], default="float32")
    parser.add_argument("--batch", type=int, help="samples, for libraries that are given batches")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    problem = PROBLEMS[options.problem]
    options.samples = problem.samples if options.samples is None else options.samples
    options.batch = problem.batch if options.batch is None else options.batch
    if min(options.samples, options.block, options.rounds, options.batch) < 1:
        parser.error("--samples, --block, --rounds and --batch must be at least 1")
    return options


# one library in its own process


def child(options: argparse.Namespace) -> int:
    """Measure one library and print a JSON object, or write the product that all are compared with."""
    dtype, reference = getattr(torch, options.dtype), options.folder / REFERENCE
    network = PROBLEMS[options.problem].make(options.samples, dtype)
    block = directions(network, options.block, dtype)
    if options.child == "reference":
        torch.save(OURS.make(*in_float64(network))(block.double()), reference)
        return 0
    library = next(library for library in racing(options) if library.name == options.child)
    before, start = peak_mib(), time.perf_counter()
    product = library.make(*network, batch=options.batch)
    made = time.perf_counter() - start
    result = product(block)
    peak = peak_mib()
    error = relative_error(result, torch.load(reference, weights_only=True))
    print(json.dumps({"error": error, "peak_mib": peak, "data_mib": before, "seconds_to_make": made}))
    return 0


def measure_alone(row: Row, options: argparse.Namespace, folder: str) -> None:
    try:
        answer = ask_child(__file__, arguments_for(options, row.name, folder), CHILD_LIMIT)
    except RuntimeError as error:
        row.failed = str(error)
        return
    for key, value in answer.items():
        setattr(row, key, value)


def arguments_for(options: argparse.Namespace, name: str, folder: str) -> list[str]:
    passed = [f"--{key}={getattr(options, key)}" for key in ("problem", "samples", "block", "dtype", "batch")]
    return [*passed, "--child", name, "--folder", folder]


# all in turn in one process


def time_all(rows: list[Row], options: argparse.Namespace) -> dict[str, float | None]:
    """Fill in `ms`; gives the machine's limits, measured in the same rounds."""
    dtype = getattr(torch, options.dtype)
    network = PROBLEMS[options.problem].make(options.samples, dtype)
    block = directions(network, options.block, dtype)
    calls: dict[tuple[str, str], Callable[[], object]] = {}
    for row, library in zip(rows, racing(options), strict=True):
        if row.failed is None:
            calls |= warm(row, library, network, block, options)
    count = PROBLEMS[options.problem].flops
    flops = count(options.samples) if count else None
    multiply, multiplied = limits.matrix_product(flops or FLOPS, dtype)
    copy, moved = limits.copy()
    calls |= {("machine", "matrix product"): multiply, ("machine", "copy"): copy}
    medians = median_seconds(calls, options.rounds)
    for row in rows:
        for width, columns in (("block", options.block), ("single", 1)):
            if (row.name, width) in medians:
                row.ms[width] = 1e3 * medians[row.name, width] / columns
    rate = multiplied / medians["machine", "matrix product"]
    return {
        "gflop_per_product": flops / 1e9 if flops else None,
        "matrix_gflop_per_second": rate / 1e9,
        "ms_per_product_at_that_rate": 1e3 * flops / rate if flops else None,
        "copy_gb_per_second": moved / 1e9 / medians["machine", "copy"],
    }


def warm(
    row: Row, library: Library, network: Network, block: torch.Tensor, options: argparse.Namespace
) -> dict[tuple[str, str], Callable[[], object]]:
    """The library's calls, each called once; none, and the reason in the row, when one fails."""
    try:
        product = library.make(*network, batch=options.batch)
        calls = {
            (row.name, "block"): bound(product, block),
            (row.name, "single"): bound(product, block[:, 0].contiguous()),
        }
        for call in calls.values():
            call()
    except Exception as error:  # a peer may raise anything; the others run on
        row.failed = f"{type(error).__name__}: {error}"
        return {}
    return calls


def bound(product: Product, vectors: torch.Tensor) -> Callable[[], object]:
    return lambda: product(vectors)


def median_seconds(calls: dict[tuple[str, str], Callable[[], object]], rounds: int) -> dict[tuple[str, str], float]:
    """Every call once a round, so that other load on the machine meets all alike."""
    seconds: dict[tuple[str, str], list[float]] = {key: [] for key in calls}
    for done in range(rounds):
        for key, call in calls.items():
            start = time.perf_counter()
            call()
            seconds[key].append(time.perf_counter() - start)
        print(f"round {done + 1} of {rounds}", file=sys.stderr)
    return {key: statistics.median(values) for key, values in seconds.items()}


# the table


def table(rows: list[Row], machine: dict[str, float | None], options: argparse.Namespace) -> str:
    """Ratios are of blocks: to ours, to a matrix product of as many operations; "of it": data and torch."""
    limit, ours = machine["ms_per_product_at_that_rate"], rows[0].ms.get("block")
    head = (
        f"{options.problem}, {options.samples} samples, {options.dtype}, block of {options.block}, "
        f"{options.rounds} rounds, "
        f"{torch.get_num_threads()} threads; ms per product H v"
    )
    names = ("library", "version", "block", "single", "/ ours", "/ limit", "peak MiB", "of it", "error")
    lines = [head, "", cells(names)]
    for row in rows:
        if row.failed is not None:
            lines.append(f"{row.name:<22}{row.version or '-':<9}failed: {row.failed}")
            continue
        numbers = (row.ms.get("block"), row.ms.get("single"), row.ratio("block", ours), row.ratio("block", limit))
        rest = (shown(row.peak_mib, ".0f"), shown(row.data_mib, ".0f"), shown(row.error, ".1e"))
        lines.append(cells((row.name, row.version or "-", *(shown(n, ".2f") for n in numbers), *rest)))
    lines.append(cells(("matrix product, limit", "", shown(limit, ".2f"))))
    lines += [
        "",
        f"{shown(machine['gflop_per_product'], '.3g')} GFLOP per product; matrix product "
        f"{machine['matrix_gflop_per_second']:.0f} GFLOP/s; copy {machine['copy_gb_per_second']:.1f} GB/s",
    ]
    return "\n".join(lines)


def cells(values: Iterable[str]) -> str:
    name, version, *numbers = values
    return f"{name:<22}{version:<9}" + "".join(f"{number:>10}" for number in numbers)


def shown(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


if __name__ == "__main__":
    sys.exit(main())
