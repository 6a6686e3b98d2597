"""Are the intervals right as often as they say, on a real network's spectrum? 1,000 seeds on the digits Hessian.

    python validate/digits_coverage.py

The Hessian of the trained MLP 64-25-10 is diagonalized once; the 1,000 experiments run on the diagonal matrix, which
Gaussian probes cannot tell from the Hessian (their law does not change under rotation), so that they take minutes.
Three counts must be right together in at least 95 % of the experiments: a binomial test rejects at 1e-3. Appends to
validate/results/digits_coverage.jsonl and exits with 1 if a promise is broken.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import torch
from scipy.stats import binom

from lanczos_saddle.certificates.intervals import Bounds, certified_masses, joint_intervals
from lanczos_saddle.dense.exact import three_counts
from lanczos_saddle.krylov.lanczos import Lanczos, Tridiagonalization
from lanczos_saddle.operators.operator import FromFunction
from lanczos_saddle.reports.records import Record, append
from lanczos_saddle.studies.known_problems import digits

RESULTS = Path(__file__).parent / "results" / "digits_coverage.jsonl"
RELATIVE = [1e-2, 1e-3, 1e-4, 1e-5]
CONFIDENCE = 0.95
GROUP = 50  # experiments that share a block product


def experiments(values: torch.Tensor, seeds: int, probes: int, steps: int, seed: int) -> list[Tridiagonalization]:
    """Independent runs of `probes` recurrences each, `GROUP` of them in lock-step at a time."""
    operator = FromFunction(lambda v: values[:, None] * v, len(values), values.dtype, values.device)
    generator, runs = torch.Generator().manual_seed(seed), []
    for _ in range(seeds // GROUP):
        gaussian = torch.randn(len(values), GROUP * probes, generator=generator, dtype=torch.float64)
        block = Lanczos(operator, gaussian, capacity=steps).extend(steps)
        for start in range(0, GROUP * probes, probes):
            part = slice(start, start + probes)
            runs.append(
                Tridiagonalization(
                    block.diagonal[part], block.offdiagonal[part], block.lengths[part], block.norms[part]
                )
            )
    return runs


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=1000)
    parser.add_argument("--probes", type=int, default=2)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    began = time.perf_counter()
    values = digits().eigenvalues()
    scale = float(values.abs().max())
    runs = experiments(values, options.seeds, options.probes, options.steps, options.seed)
    rows, kept = [], True
    for relative in RELATIVE:
        tau = relative * scale
        true = three_counts(values, tau)
        hits, widths = 0, []
        for run in runs:
            found = joint_intervals(
                certified_masses(run, tau, 1e-13 * scale),
                Bounds(),
                probes=options.probes,
                size=len(values),
                confidence=CONFIDENCE,
            )
            hits += all(exact in interval for exact, interval in zip(true, found, strict=True))
            widths.append([interval.width for interval in found])
        chance = float(binom.cdf(hits, len(runs), CONFIDENCE))
        kept = kept and chance > 1e-3
        width = np.median(widths, axis=0).astype(int).tolist()
        rows.append(
            {"relative_threshold": relative, "true": true, "right": hits, "of": len(runs), "median_widths": width}
        )
        print(
            f"tau = {relative:.0e} of the largest, true {true}: {hits} of {len(runs)} right, median widths {width}",
            flush=True,
        )
    print(f"nominal {CONFIDENCE:.0%}: {'kept' if kept else 'BROKEN'}")
    append(
        RESULTS,
        Record(
            "digits_coverage",
            vars(options),
            {"confidence": CONFIDENCE, "rows": rows, "kept": kept},
            seeds=options.seed,
            products=options.probes * options.steps * len(runs),
            seconds=time.perf_counter() - began,
        ),
    )
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
