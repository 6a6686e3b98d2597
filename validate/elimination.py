"""Negative counts without chance, against exact ones: the digits and the paper's network on MNIST.

    python validate/elimination.py digits        # 64-25-10, N = 1885: seconds
    python validate/elimination.py mnist         # 784-25-10, N = 19,885, all 60,000 images: minutes on two cores

All thresholds share one sequence of block products. The eigenvalues of digits come from a dense solver, those of MNIST
from validate/reference. Needs the MNIST files for mnist (`lanczos-saddle download`, or LANCZOS_SADDLE_DATA). Appends a
record to validate/results/elimination.jsonl and exits with 1 if a bound is wrong or, with --exact, not tight.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from pathlib import Path

import numpy as np
import torch
from mnist_reference import reference_hessian

from lanczos_saddle import Hessian
from lanczos_saddle.counting.eliminated import negative_counts_by_elimination
from lanczos_saddle.reports.records import Record, append
from lanczos_saddle.studies.known_problems import digits

RESULTS = Path(__file__).parent / "results" / "elimination.jsonl"
RELATIVE = [1e-3, 1e-4, 1e-5, 1e-6]


def known(name: str) -> tuple[Hessian, np.ndarray]:
    """A Hessian in float64 and its exact eigenvalues."""
    if name == "mnist":
        return reference_hessian(torch.float64)
    known = digits()
    return known.operator, known.eigenvalues().numpy()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("problem", choices=["digits", "mnist"])
    parser.add_argument("--relative", type=float, nargs="+", default=RELATIVE)
    parser.add_argument("--max-products", type=int, default=None)
    parser.add_argument("--exact", action="store_true", help="fail unless both ends meet at every threshold")
    options = parser.parse_args()
    hessian, values = known(options.problem)
    scale = float(np.abs(values).max())
    began = time.perf_counter()
    found = negative_counts_by_elimination(
        hessian,
        [relative * scale for relative in options.relative],
        max_products=options.max_products,
        progress=sys.stderr.isatty(),
    )
    seconds, held, rows = time.perf_counter() - began, True, []
    print(f"N = {hessian.shape[0]}, layer {found[0].layer!r} of {found[0].eliminated} eliminated, rank {found[0].rank}")
    for relative, count in zip(options.relative, found, strict=True):
        true = int((values < -count.threshold).sum())
        right = count.lower <= true <= count.upper and not (options.exact and count.lower < count.upper)
        held = held and right
        print(
            f"tau = {relative:.0e} of the largest: {true} in [{count.lower}, {count.upper}] after {count.iterations} "
            f"block steps, {count.stopped}   {'holds' if right else 'MISSED'}"
        )
        rows.append({"relative_threshold": relative, "exact": true, **dataclasses.asdict(count)})
    print(f"{found[0].products} products, {seconds:.0f} s; an exact assembly takes {hessian.shape[0]} products")
    append(
        RESULTS,
        Record(
            "elimination",
            vars(options),
            {"rows": rows, "held": held},
            seeds=0,
            products=found[0].products,
            seconds=seconds,
        ),
    )
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
