"""Seconds, memory and width of a count against N, on known spectra: matrix-free, no basis, N to 100 million.

    python bench/scaling.py                               # 1e3 to 1e7, 2 probes x 40 steps; resumes
    python bench/scaling.py --operator diagonal --probes 1 --steps 10 --sizes 100000 1000000 10000000 100000000
    python bench/scaling.py --sizes 1000 10000 --steps 20 --repeats 1       # does it work?

    spectrum    H = Q diag(lambda) Q', two Hartley transforms a product, O(N log N)
    diagonal    H = diag(lambda), one pass: what is left is the recurrence and its memory traffic

What the products take and what the count takes beside them are told apart, in seconds of the processor, which other
load on the machine disturbs less; so are the memory that was planned and what was measured, both beside the operator's
own. Every size in a process of its own; medians of `--repeats` runs up to a million, one beyond. Appends a record per
size to bench/results/scaling.jsonl, and prints the slope of log seconds against log N.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from children import ask_child
from torch import Tensor

from lanczos_saddle import count_eigenvalues
from lanczos_saddle.counting.planning import beside_bytes
from lanczos_saddle.krylov.preflight import HELD
from lanczos_saddle.machine.measuring import measure
from lanczos_saddle.operators.operator import Operator
from lanczos_saddle.reports.records import Record, append, read, to_json
from lanczos_saddle.studies.known_problems import clustered

RESULTS = Path(__file__).parent / "results" / "scaling.jsonl"
TAU = 1e-2
LARGE = 1_000_000
SLOPE_FROM = 100_000
ASKED = ("probes", "steps", "repeats", "dtype", "device", "seed")


def main() -> int:
    options = parsed()
    if options.child:
        print(json.dumps(to_json(child(options))))
        return 0
    known = [] if options.again or not options.out.exists() else read(options.out)
    beside = []
    for size in options.sizes:
        key = {"size": size, **{name: getattr(options, name) for name in ASKED}, "threads": torch.get_num_threads()}
        key |= {} if options.operator == "spectrum" else {"operator": options.operator}
        same = [r["result"] for r in known if r["parameters"] == key and "cpu_seconds" in r["result"]]
        result = same[-1] if same else None
        if result is None:
            passed = [f"--{name}={getattr(options, name)}" for name in ("operator", *ASKED)]
            result = ask_child(__file__, [*passed, f"--sizes={size}", "--child"], options.limit)
            append(options.out, Record("scaling", key, result, options.seed, result["products"], result["seconds"]))
        print(
            f"N = {size:>10}: {result['seconds']:9.3f} s, {result['products']} products, "
            f"{1e3 * result['seconds'] / result['products']:.3f} ms per product, "
            f"{(result['peak_bytes'] or 0) / 2**20:.0f} MiB of {result['planned_bytes'] / 2**20:.0f} planned, "
            f"width {result['width'] / size:.3f} N, {'holds' if result['held'] else 'MISSED'}; of the processor's "
            f"{result['cpu_seconds']:.2f} s {result['operator_cpu_seconds']:.2f} in products",
            flush=True,
        )
        beside.append((size, result["cpu_seconds"] - result["operator_cpu_seconds"]))
    large = [pair for pair in beside if pair[0] >= SLOPE_FROM]
    if len(large) > 1:
        slope = np.polyfit(*np.log(np.array(large).T), 1)[0]
        print(f"beside products: seconds of the processor ~ N^{slope:.3f} from N = {large[0][0]:.0e}")
    return 0


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10**power for power in range(3, 8)])
    parser.add_argument("--operator", choices=["spectrum", "diagonal"], default="spectrum")
    parser.add_argument("--probes", type=int, default=2)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--dtype", choices=["float32", "float64"], default="float64")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=float, default=3600, help="seconds for one size")
    parser.add_argument("--again", action="store_true", help="measure finished sizes again")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def child(options: argparse.Namespace) -> dict[str, Any]:
    """One size: counts at tau, without a basis, and whether all three intervals hold."""
    (size,) = options.sizes
    device = torch.device(options.device)
    generator = torch.Generator().manual_seed(options.seed)
    made = diagonal if options.operator == "diagonal" else clustered
    operator = made(size, TAU, generator, getattr(torch, options.dtype), device)
    exact = operator.count(TAU)
    timed = [Timed(operator) for _ in range(options.repeats if size <= LARGE else 1)]
    runs, cpu = [], []
    for one in timed:
        began = time.process_time()
        runs.append(measure(lambda: counted(one, options), device))  # noqa: B023
        cpu.append(time.process_time() - began)
    counts, first = runs[0]
    found = (counts.negative, counts.near_zero, counts.positive)
    return {
        "exact": exact,
        "negative": counts.negative,
        "near_zero": counts.near_zero,
        "positive": counts.positive,
        "held": all(count in interval for count, interval in zip(exact, found, strict=True)),
        "width": max(interval.upper - interval.lower for interval in found),
        "products": counts.products,
        "seconds": statistics.median(cost.seconds for _, cost in runs),
        "operator_seconds": statistics.median(one.seconds for one in timed),
        "cpu_seconds": statistics.median(cpu),
        "operator_cpu_seconds": statistics.median(one.cpu for one in timed),
        "peak_bytes": first.peak_bytes,
        "planned_bytes": max(8 * HELD * size, beside_bytes(options.probes, size)),
    }


class Diagonal:
    """diag(lambda) v."""

    def __init__(self, values: Tensor) -> None:
        self.values, self.shape, self.dtype, self.device = values, 2 * values.shape, values.dtype, values.device

    def __matmul__(self, v: Tensor, /) -> Tensor:
        return (self.values if v.ndim == 1 else self.values[:, None]) * v

    def count(self, tau: float) -> tuple[int, int, int]:
        negative, positive = int((self.values < -tau).sum()), int((self.values > tau).sum())
        return negative, len(self.values) - negative - positive, positive


def diagonal(size: int, _: float, generator: torch.Generator, dtype: torch.dtype, device: torch.device) -> Diagonal:
    """Uniform in [-0.3, 1], whatever the threshold; drawn in place, as N may be 100 million."""
    values = torch.rand(size, generator=generator, dtype=dtype).mul_(1.3).sub_(0.3)
    return Diagonal(values.to(device))


class Timed:
    """An operator that knows how long its products took."""

    def __init__(self, base: Operator) -> None:
        self.base, self.shape, self.dtype, self.device = base, base.shape, base.dtype, base.device
        self.seconds, self.cpu = 0.0, 0.0

    def __matmul__(self, v: Tensor, /) -> Tensor:
        began, busy = time.perf_counter(), time.process_time()
        product = self.base @ v
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self.seconds += time.perf_counter() - began
        self.cpu += time.process_time() - busy
        return product


def counted(operator: Operator, options: argparse.Namespace):
    return count_eigenvalues(
        operator,
        threshold=TAU,
        method="lanczos",
        probes=options.probes,
        steps=options.steps,
        precision=1e-6,
        reorthogonalize=False,
        generator=torch.Generator().manual_seed(options.seed),
    )


if __name__ == "__main__":
    sys.exit(main())
