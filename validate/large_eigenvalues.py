"""All eigenvalues of a dense matrix whose spectrum is prescribed, in one matrix of memory: how exact, how long?

    python validate/large_eigenvalues.py                  # N = 30,000: 6.7 GiB; minutes on two idle cores
    python validate/large_eigenvalues.py --size 2000      # does it work?

H = Q diag(lambda) Q' with Q a product of three Householder reflections of random vectors, made in place. A tenth of the
eigenvalues are 0, two clusters are at +-1e-3 (1 +- 1e-6), the rest lies between 1e-8 and 1 in size, a fifth of them
negative. `exact_eigenvalues(H, overwrite=True)` is compared with them, and the counts at five thresholds that lie in
gaps. Appends to validate/results/large_eigenvalues.jsonl, with the peak memory of the process and the rate of a matrix
product beside; exits with 1 if an eigenvalue is off by more than N ulp of the largest (the bound p(N) eps ||H|| of
LAPACK's Users' Guide, with p(N) = N, for the solver and for making the matrix together), or a count is wrong.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from pathlib import Path

import torch
from torch import Tensor

from lanczos_saddle import exact_eigenvalues
from lanczos_saddle.dense.exact import three_counts
from lanczos_saddle.machine.rates import matrix_product, median_seconds
from lanczos_saddle.reports.records import Record, append

RESULTS = Path(__file__).parent / "results" / "large_eigenvalues.jsonl"
THRESHOLDS = (1e-9, 1e-6, 9e-4, 1.1e-3, 1e-1)


def prescribed(size: int, generator: torch.Generator) -> Tensor:
    """lambda, ascending (N,)."""
    values = torch.logspace(-8, 0, size, dtype=torch.float64)
    values[: size // 10] = 0.0
    cluster = values[size // 10 : size // 5]
    cluster.copy_(1e-3 * (1 + 1e-6 * (2 * torch.rand(len(cluster), generator=generator, dtype=torch.float64) - 1)))
    cluster[::2] *= -1
    values[size // 5 :: 5] *= -1
    for threshold in THRESHOLDS:  # none close by
        near = (abs(abs(values) - threshold) < 1e-3 * threshold).nonzero().flatten()
        values[near] *= 1.01
    return values.sort().values


def reflected(values: Tensor, generator: torch.Generator) -> Tensor:
    """Q diag(lambda) Q', (N, N), symmetric to the last bit."""
    matrix = torch.diag(values)
    for _ in range(3):
        w = torch.randn(len(values), generator=generator, dtype=torch.float64)
        w /= w.norm()
        image = matrix @ w
        image -= (w @ image) * w
        matrix.addr_(w, image, alpha=-2).addr_(image, w, alpha=-2)
    for row in range(1, len(matrix)):  # rounding may differ between the triangles
        matrix[:row, row] = matrix[row, :row]
    return matrix


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=30_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    generator = torch.Generator().manual_seed(options.seed)
    multiply, flops = matrix_product(0, torch.float64)
    rate = flops / median_seconds(multiply, torch.device("cpu"))
    true = prescribed(options.size, generator)
    matrix = reflected(true, generator)
    began, processors = time.perf_counter(), time.process_time()
    values = exact_eigenvalues(matrix, overwrite=True)
    seconds, processors = time.perf_counter() - began, time.process_time() - processors
    error = float(abs(values - true).max())
    ulps = error / (torch.finfo(torch.float64).eps * float(abs(true).max()))
    counts = {tau: (three_counts(values.numpy(), tau), three_counts(true.numpy(), tau)) for tau in THRESHOLDS}
    right = ulps <= options.size and all(found == known for found, known in counts.values())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    result = {
        "error": error,
        "ulps": ulps,
        "counts": {str(tau): found for tau, (found, _) in counts.items()},
        "right": right,
        "peak_gib": peak,
        "matrix_gib": 8 * options.size**2 / 2**30,
        "processors": processors,
        "nanoseconds_per_cube": 1e9 * seconds / options.size**3,
        "operations_of_a_product_per_cube": seconds * rate / options.size**3,
    }
    append(RESULTS, Record("large_eigenvalues", vars(options), result, seeds=options.seed, seconds=seconds))
    print(f"N = {options.size}: {seconds:.0f} s ({processors:.0f} s of processors), peak {peak:.2f} GiB")
    print(
        f"largest error {error:.1e}, {ulps:.1f} ulp of the largest eigenvalue; counts {'right' if right else 'WRONG'}"
    )
    return int(not right)


if __name__ == "__main__":
    sys.exit(main())
