"""Is a budget well divided? The allocation's width against the best of a grid of (probes, steps), in hindsight.

    python validate/allocation.py             # seconds to a minute a line, 14 lines

The grid spends the whole budget; the allocation pays for its pilot. Widths of the negative and the positive interval
together, one set of probes. Appends a record to validate/results/allocation.jsonl and exits with 1 beyond FACTOR.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import torch

from lanczos_saddle import Lanczos
from lanczos_saddle.certificates.intervals import Bounds, certified_masses, joint_intervals
from lanczos_saddle.counting.allocation import Room, allocate, pilot, pilot_steps
from lanczos_saddle.operators.prescribed import PrescribedSpectrum
from lanczos_saddle.reports.records import Record, append
from lanczos_saddle.studies import known_problems
from lanczos_saddle.studies.known_problems import spectrum

RESULTS = Path(__file__).parent / "results" / "allocation.jsonl"
CONFIDENCE, FACTOR = 0.95, 1.5
GRID = (1, 2, 4, 8, 16, 32, 64)
SPECTRA = {"clusters beside tau": 3000, "clusters beside a small tau": 3000, "uniform": 3000, "normal": 2000}


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def cases() -> list[tuple[str, torch.Tensor, float]]:
    digits = known_problems.digits().eigenvalues()
    digits = digits / digits.abs().max()
    return [
        *(("digits", digits, tau) for tau in (1e-2, 1e-3, 1e-4)),
        *((name, *spectrum(name, size)) for name, size in SPECTRA.items()),
    ]


def probe(size, generator):
    return torch.randn(size, 1, generator=generator, dtype=torch.float64)


def width(operator: PrescribedSpectrum, tau: float, probes: int, steps: int, seed: int) -> int:
    size = operator.shape[0]
    gaussian = torch.randn(size, probes, generator=seeded(seed), dtype=torch.float64)
    masses = certified_masses(Lanczos(operator, gaussian, capacity=steps).extend(steps), tau, 1e-13)
    found = joint_intervals(masses, Bounds(), probes=probes, size=size, confidence=CONFIDENCE)
    return found[0].width + found[2].width


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budgets", type=int, nargs="+", default=[256, 1024])
    parser.add_argument("--seed", type=int, default=3)
    options = parser.parse_args()
    began, rows = time.perf_counter(), []
    for name, values, tau in cases():
        operator, size = PrescribedSpectrum(values, seeded(5)), len(values)
        for budget in options.budgets:
            steps = pilot_steps(budget, size)
            seen = pilot(operator, probe(size, seeded(9 + options.seed)), tau, steps)
            plan = allocate([seen], Room(budget - steps, size, size, 1), CONFIDENCE)
            got = width(operator, tau, plan.probes, plan.steps, options.seed)
            grid = {m: width(operator, tau, m, min(budget // m, size), options.seed) for m in GRID}
            best = min(grid, key=lambda m: grid[m])
            rows.append(
                {"spectrum": name, "tau": tau, "budget": budget, "plan": plan, "width": got, "grid": list(grid.items())}
            )
            rows[-1]["ratio"] = got / grid[best]
            print(
                f"{name:>9}  tau = {tau:.0e}  budget {budget}: {plan.probes} x {plan.steps} gives {got}; best "
                f"{best} x {min(budget // best, size)} gives {grid[best]}; ratio {got / grid[best]:.2f}",
                flush=True,
            )
    ratios = [row["ratio"] for row in rows]
    print(f"within {max(ratios):.2f} of the best, median {np.median(ratios):.2f}")
    append(
        RESULTS,
        Record("allocation", vars(options), {"rows": rows}, seeds=options.seed, seconds=time.perf_counter() - began),
    )
    return 0 if max(ratios) <= FACTOR else 1


if __name__ == "__main__":
    sys.exit(main())
