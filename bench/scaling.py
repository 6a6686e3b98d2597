"""Seconds, memory and width of a count against N, on prescribed spectra: matrix-free, no basis, N to 10 million.

    python bench/scaling.py                               # 1e3 to 1e7, 2 probes x 40 steps; resumes
    python bench/scaling.py --sizes 1000 10000 --steps 20 --repeats 1       # does it work?

H = Q diag(lambda) Q' costs two Hartley transforms a product, O(N log N): what is measured is the recurrence and its
memory traffic as much as the product. Every size in a process of its own; seconds are the median of `--repeats` runs
up to a million, of one beyond. Appends a record per size to bench/results/scaling.jsonl.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any

import torch
from children import ask_child

from lanczos_saddle import count_eigenvalues
from lanczos_saddle.machine.measuring import measure
from lanczos_saddle.operators.prescribed import PrescribedSpectrum
from lanczos_saddle.reports.records import Record, append, read, to_json
from lanczos_saddle.studies.known_problems import clustered

RESULTS = Path(__file__).parent / "results" / "scaling.jsonl"
TAU = 1e-2
LARGE = 1_000_000
ASKED = ("probes", "steps", "repeats", "dtype", "device", "seed")


def main() -> int:
    options = parsed()
    if options.child:
        print(json.dumps(to_json(child(options))))
        return 0
    known = [] if options.again or not options.out.exists() else read(options.out)
    for size in options.sizes:
        key = {"size": size, **{name: getattr(options, name) for name in ASKED}, "threads": torch.get_num_threads()}
        result = next((r["result"] for r in reversed(known) if r["parameters"] == key), None)
        if result is None:
            passed = [f"--{name}={getattr(options, name)}" for name in ASKED]
            result = ask_child(__file__, [*passed, f"--sizes={size}", "--child"], options.limit)
            append(options.out, Record("scaling", key, result, options.seed, result["products"], result["seconds"]))
        print(
            f"N = {size:>10}: {result['seconds']:9.3f} s, {result['products']} products, "
            f"{1e3 * result['seconds'] / result['products']:.3f} ms per product, "
            f"{(result['peak_bytes'] or 0) / 2**20:.0f} MiB, width {result['width'] / size:.3f} N, "
            f"{'holds' if result['held'] else 'MISSED'}",
            flush=True,
        )
    return 0


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10**power for power in range(3, 8)])
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
    operator = clustered(size, TAU, generator, getattr(torch, options.dtype), device)
    runs = [measure(lambda: counted(operator, options), device) for _ in range(options.repeats if size <= LARGE else 1)]
    counts, first = runs[0]
    found = (counts.negative, counts.near_zero, counts.positive)
    exact = operator.count(TAU)
    return {
        "exact": exact,
        "negative": counts.negative,
        "near_zero": counts.near_zero,
        "positive": counts.positive,
        "held": all(count in interval for count, interval in zip(exact, found, strict=True)),
        "width": max(interval.upper - interval.lower for interval in found),
        "products": counts.products,
        "seconds": statistics.median(cost.seconds for _, cost in runs),
        "peak_bytes": first.peak_bytes,
    }


def counted(operator: PrescribedSpectrum, options: argparse.Namespace):
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
