"""The paper's network on MNIST, all 60,000 images: certified intervals against a spectrum that is known exactly.

    python validate/mnist_reference.py            # float64, 4 probes x 400 steps: minutes on two cores
    python validate/mnist_reference.py --dtype float32 --steps 200

The eigenvalues in validate/reference come from closed-form second derivatives and LAPACK, not from any product of
this package. Needs the MNIST files (`lanczos-saddle download`, or LANCZOS_SADDLE_DATA). Appends a record to
validate/results/mnist_reference.jsonl and exits with 1 if an interval misses.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path

import numpy as np
import torch

from lanczos_saddle import Counts, Hessian, count_eigenvalues, recount
from lanczos_saddle.dense.exact import three_counts
from lanczos_saddle.reports.records import Record, append
from lanczos_saddle.structure.facts import dead_coordinates
from lanczos_saddle.studies.known_problems import mnist

HERE = Path(__file__).parent
REFERENCE = HERE / "reference" / "mnist-784-25-10.npz"
RELATIVE = [1e-2, 1e-3, 1e-4, 1e-5, 1e-6]
FIRST_IN_FLOAT32 = 1e-5  # the noise of a run is measured as its own threshold asks for


def reference_hessian(dtype: torch.dtype) -> tuple[Hessian, np.ndarray]:
    """The Hessian at the reference weights over all 60,000 training images, and its exact eigenvalues."""
    known = mnist(REFERENCE, dtype)
    return known.operator, known.eigenvalues().numpy()


def report(counts: Counts, values: np.ndarray, scale: float) -> bool:
    found = (counts.negative, counts.near_zero, counts.positive)
    true = three_counts(values, counts.threshold)
    held = all(exact in interval for exact, interval in zip(true, found, strict=True))
    cells = "   ".join(f"{exact} in {interval}" for exact, interval in zip(true, found, strict=True))
    print(f"tau = {counts.threshold / scale:.0e} of the largest: {cells}   {'holds' if held else 'MISSED'}", flush=True)
    return held


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", choices=["float32", "float64"], default="float64")
    parser.add_argument("--probes", type=int, default=4)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    hessian, values = reference_hessian(getattr(torch, options.dtype))
    scale = float(np.abs(values).max())
    dead = int(dead_coordinates(hessian).sum())
    print(f"N = {hessian.shape[0]}; dead coordinates by two products: {dead} (65 blank pixels x 25 units = 1625)")
    first = count_eigenvalues(
        hessian,
        threshold=(FIRST_IN_FLOAT32 if options.dtype == "float32" else max(RELATIVE)) * scale,
        method="lanczos",
        probes=options.probes,
        steps=options.steps,
        precision=1e-6,
        reorthogonalize=True,
        progress=sys.stderr.isatty(),
        generator=torch.Generator().manual_seed(options.seed),
    )
    print(
        f"{first.probes} probes x {first.steps} steps, {first.products} products, {first.seconds:.0f} s, "
        f"noise of one product {first.noise:.1e}; negatives at most {first.evidence.negative_most} by structure"
    )
    held, rows = dead == 1625, []
    for relative in RELATIVE:
        try:
            counts = recount(first, relative * scale)
        except ValueError as error:
            print(f"tau = {relative:.0e} of the largest: refused: {error}")
            continue
        held = report(counts, values, scale) and held
        rows.append(
            {
                "relative_threshold": relative,
                "exact": three_counts(values, relative * scale),
                "negative": counts.negative,
                "near_zero": counts.near_zero,
                "positive": counts.positive,
            }
        )
    append(
        HERE / "results" / "mnist_reference.jsonl",
        Record(
            "mnist_reference",
            vars(options),
            {"dead": dead, "rows": rows, "held": held, "noise": first.noise, "check": dataclasses.asdict(first.check)},
            seeds=options.seed,
            products=first.products,
            seconds=first.seconds,
        ),
    )
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
