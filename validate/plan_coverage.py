"""Are planned counts right as often as they say? 1,000 seeds for every way that a plan can take, and wrong variants.

    python validate/plan_coverage.py                 # minutes on two cores
    python validate/plan_coverage.py --seeds 200

Scouting, plan, vectors, S and probes are drawn anew for every seed. Nominal: 80 %. Ways: plain, deflated, several
thresholds jointly, an S from a network's samples with a pilot on either side, and several thresholds with one S. The
wrong variant takes its vectors from the run of the probes themselves; it must fall below nominal. Appends to
validate/results/plan_coverage.jsonl and exits with 1 where a way is right too rarely (binomial test at 1e-3) or the
wrong one is not found out.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import torch
from scipy.stats import binom
from torch import nn

from lanczos_saddle import Hessian, Lanczos, Projected, SampledEvidence, check_operator, count_eigenvalues
from lanczos_saddle.certificates.deflation import deflate
from lanczos_saddle.dense.exact import exact_eigenvalues, three_counts
from lanczos_saddle.operators.prescribed import PrescribedSpectrum
from lanczos_saddle.reports.records import Record, append

RESULTS = Path(__file__).parent / "results" / "plan_coverage.jsonl"
CONFIDENCE, DOUBT = 0.8, 1e-3
F64 = torch.float64
BULK = torch.cat([torch.linspace(-1e-3, 1e-3, 260, dtype=F64), torch.zeros(60, dtype=F64)])
FEW = torch.cat([-torch.logspace(-1.6, -0.2, 12, dtype=F64), torch.logspace(-1.6, 0.3, 28, dtype=F64), BULK])
EVEN = torch.cat([-torch.logspace(-4, -0.5, 100, dtype=F64), torch.logspace(-4, 0, 260, dtype=F64)])
OPTIONS: dict[str, Any] = {"method": "lanczos", "precision": 1e-9, "confidence": CONFIDENCE}


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def right(counts: Any, values: torch.Tensor) -> bool:
    """Whether all three intervals hold."""
    found = (counts.negative, counts.near_zero, counts.positive)
    return all(n in i for n, i in zip(three_counts(values, counts.threshold), found, strict=True))


def network() -> tuple[Hessian, torch.Tensor]:
    """A small classifier on many samples, whose S costs little."""
    torch.manual_seed(0)
    inputs, labels = torch.randn(2000, 8, dtype=F64), torch.randint(3, (2000,))
    model = nn.Sequential(nn.Linear(8, 12), nn.Tanh(), nn.Linear(12, 3)).double()
    hessian = Hessian(model, nn.CrossEntropyLoss(), (inputs, labels))
    return hessian, exact_eigenvalues(hessian)


def own_vectors(seed: int) -> bool:
    """The wrong variant: Ritz vectors of the probe's own run are taken out."""
    values, tau = torch.linspace(-1, 1, 120, dtype=F64), 0.55
    matrix = torch.diag(values)
    probe = torch.randn(120, 1, generator=seeded(seed), dtype=F64)
    run = Lanczos(matrix, probe, capacity=10)
    alpha, beta = (torch.from_numpy(c) for c in run.extend(10).coefficients(0))
    theta, rotation = torch.linalg.eigh(torch.diag(alpha) + torch.diag(beta[:-1], 1) + torch.diag(beta[:-1], -1))
    vectors = run.basis[0].mT @ rotation[:, theta > tau]
    vectors, deflation, _ = deflate(vectors, matrix @ vectors, check_operator(matrix))
    target = Projected(matrix, vectors)
    finished = Lanczos(target, target.project(probe), capacity=100).extend(100)
    evidence = SampledEvidence(finished, 120, 0, 1e-12, None, None, None, deflation)
    return int((values > tau).sum()) in evidence.intervals(tau, CONFIDENCE)[2]


def main() -> int:
    """Count, report, record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=1000)
    options = parser.parse_args()
    began = time.perf_counter()
    few, even = (PrescribedSpectrum(values, seeded(7)) for values in (FEW, EVEN))
    hessian, eigenvalues = network()
    small = 1e-5 * float(eigenvalues.abs().max())

    def counted(operator: Any, values: torch.Tensor, seed: int, **asked: Any) -> tuple[bool, str]:
        found = count_eigenvalues(operator, generator=seeded(seed), **OPTIONS, **asked)
        if isinstance(found, tuple):
            return all(right(one, values) for one in found), f"several thresholds, {found[0].plan.split(',')[0]}"
        return right(found, values), found.plan.split(",")[0]

    ways = {
        "plain": lambda s: counted(even, EVEN, s, threshold=1e-3, max_products=160),
        "deflated": lambda s: counted(even, EVEN, s, threshold=3e-2, max_products=200),
        "deflated, exact": lambda s: counted(few, FEW, s, threshold=1e-2, max_products=200),
        "several thresholds": lambda s: counted(even, EVEN, s, threshold=[1e-3, 1e-2, 1e-1], max_products=150),
        "subset": lambda s: counted(
            hessian, eigenvalues, s, threshold=small, max_products=300, preconditioner="subset"
        ),
        "several, subset": lambda s: counted(
            hessian,
            eigenvalues,
            s,
            threshold=[small, 10 * small, 100 * small],
            max_products=400,
            preconditioner="subset",
        ),
    }
    failed, rows = False, {}
    for name, way in ways.items():
        answers = [way(seed) for seed in range(options.seeds)]
        held, took = sum(answer[0] for answer in answers), sorted({answer[1] for answer in answers})
        rows[name] = {"right": held, "seeds": options.seeds, "ways": took}
        low = bool(binom.cdf(held, options.seeds, CONFIDENCE) < DOUBT)
        failed |= low or not any(way.startswith(name.split(",")[0]) for way in took)
        print(f"{name:>20}  right {held} of {options.seeds} (nominal {CONFIDENCE:.0%})  {', '.join(took)}", flush=True)
    wrong = sum(own_vectors(seed) for seed in range(options.seeds))
    rows["vectors of the probes' own run (wrong)"] = {"right": wrong, "seeds": options.seeds}
    found_out = bool(binom.cdf(wrong, options.seeds, CONFIDENCE) < DOUBT)
    print(f"{'wrong variant':>20}  right {wrong} of {options.seeds}: {'found out' if found_out else 'NOT FOUND OUT'}")
    append(
        RESULTS, Record("plan coverage", vars(options), {"rows": rows}, seeds=0, seconds=time.perf_counter() - began)
    )
    return 1 if failed or not found_out else 0


if __name__ == "__main__":
    sys.exit(main())
