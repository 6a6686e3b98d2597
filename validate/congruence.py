"""How many products does a congruence save? The plain run against S'(H - tI)S, at the same probes and depth.

    python validate/congruence.py                                        # digits, both preconditioners: a minute
    python validate/congruence.py --problem mnist --steps 60 --relative 1e-5     # minutes; needs the MNIST files

Prints, for each threshold t and each depth k, the pooled bracket on the number of eigenvalues below t, in counts
(N times the padded mass) beside the true count, then the joint 95 % intervals with all products. True counts: digits
from a dense eigensolver, MNIST from validate/reference. Appends to validate/results/congruence.jsonl and exits with 1
if an interval misses.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mnist_reference import REFERENCE

from lanczos_saddle import Counts, Hessian, count_eigenvalues
from lanczos_saddle.certificates.intervals import bracket_at_zero, certified_bracket
from lanczos_saddle.dense.exact import three_counts
from lanczos_saddle.reports.records import Record, append
from lanczos_saddle.studies.known_problems import digits, mnist

RESULTS = Path(__file__).parent / "results" / "congruence.jsonl"
DEPTHS = [25, 50, 100, 200]


def brackets(counts: Counts, tau: float, depths: list[int]) -> dict[str, list[list[float]]]:
    """For -tau and tau: [k, low, high] in counts of eigenvalues below, dead coordinates included."""
    rows: dict[str, list[list[float]]] = {"-tau": [], "tau": []}
    for name, t in (("-tau", -tau), ("tau", tau)):
        if counts.preconditioned:
            side = counts.evidence.low if t < 0 else counts.evidence.high
        else:
            assert counts.evidence is not None
            side = counts.evidence
        known = side.zeros if t > 0 else 0
        for k in (k for k in depths if k <= side.run.steps):
            run = side.run.truncated(k)
            found = (
                certified_bracket(run, t, side.delta) if not counts.preconditioned else bracket_at_zero(run, side.delta)
            )
            rows[name].append([k, known + side.living * found.lower, known + side.living * found.upper])
    return rows


def compare(hessian: Hessian, values: np.ndarray, relative: float, options: argparse.Namespace) -> list[dict[str, Any]]:
    tau = relative * float(np.abs(values).max())
    true = three_counts(values, tau)
    print(f"tau = {relative:.0e} of the largest: truly {true[0]} below -tau, {true[0] + true[1]} up to tau")
    rows = []
    for name in options.preconditioners:
        began = time.perf_counter()
        counts = count_eigenvalues(
            hessian,
            threshold=tau,
            method="lanczos",
            probes=options.probes,
            steps=options.steps,
            precision=1e-6,
            reorthogonalize=True,
            preconditioner=None if name == "none" else name,
            generator=torch.Generator().manual_seed(options.seed),
        )
        seconds = time.perf_counter() - began
        table = brackets(counts, tau, [*(k for k in DEPTHS if k < options.steps), options.steps])
        for side, entries in table.items():
            cells = "   ".join(f"k = {k}: {low:.0f}-{high:.0f}" for k, low, high in entries)
            print(f"  {name:>7} {side:>5}   {cells}")
        found = (counts.negative, counts.near_zero, counts.positive)
        held = all(exact in interval for exact, interval in zip(true, found, strict=True))
        print(
            f"  {name:>7} 95 %    {'   '.join(map(str, found))}   {counts.products} products, {seconds:.0f} s, "
            f"{'holds' if held else 'MISSED'}",
            flush=True,
        )
        rows.append(
            {
                "relative_threshold": relative,
                "preconditioner": name,
                "true": true,
                "intervals": found,
                "brackets": table,
                "products": counts.products,
                "seconds": seconds,
                "held": held,
            }
        )
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problem", choices=["digits", "mnist"], default="digits")
    parser.add_argument("--relative", type=float, nargs="+", default=[1e-4, 1e-5, 1e-6])
    parser.add_argument("--preconditioners", nargs="+", default=["none", "ekfac", "subset"])
    parser.add_argument("--probes", type=int, default=2)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    began = time.perf_counter()
    known = digits() if options.problem == "digits" else mnist(REFERENCE)
    hessian, values = known.operator, known.eigenvalues().numpy()
    rows = [row for relative in options.relative for row in compare(hessian, values, relative, options)]
    held = all(row["held"] for row in rows)
    append(
        RESULTS,
        Record(
            "congruence",
            vars(options),
            {"rows": rows, "held": held},
            seeds=options.seed,
            products=sum(row["products"] for row in rows),
            seconds=time.perf_counter() - began,
        ),
    )
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
