"""The negative eigenvalues of the paper's network on MNIST, counted exactly without an eigensolver of size N.

    python validate/mnist_negative.py             # float64, tau = 1e-5 of the largest eigenvalue: minutes on two cores

The lower end is proved by enumeration (as many eigenvectors below -tau, certified by their explicit V'HV), the upper
end by the structure of the network. Neither involves chance. The judge is the exact spectrum in validate/reference,
which does not come from this package. Needs the MNIST files; appends a record to
validate/results/mnist_negative.jsonl and exits with 1 unless the interval is the one number that is right.
"""

from __future__ import annotations

import argparse
import sys
import time

import numpy as np
import torch
from mnist_reference import HERE, reference_hessian

from lanczos_saddle.counting.enumeration import BLOCK, negative_eigenvectors
from lanczos_saddle.krylov.preflight import check_operator
from lanczos_saddle.operators.operator import Restricted
from lanczos_saddle.reports.records import Record, append
from lanczos_saddle.structure.facts import dead_coordinates, negative_bound


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--relative-threshold", type=float, default=1e-5)
    parser.add_argument("--block", type=int, default=BLOCK)
    parser.add_argument("--columns", type=int, default=None, help="vectors kept before a restart")
    parser.add_argument("--max-products", type=int, default=None)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    hessian, values = reference_hessian(torch.float64)
    tau = options.relative_threshold * float(np.abs(values).max())
    exact = int((values < -tau).sum())
    began = time.perf_counter()
    check = check_operator(hessian)
    alive = (~dead_coordinates(hessian)).nonzero().squeeze(1)
    bound = negative_bound(hessian.problem)
    assert bound is not None  # one hidden ReLU layer, softmax cross-entropy
    found = negative_eigenvectors(
        Restricted(hessian, alive),
        tau,
        check,
        generator=torch.Generator().manual_seed(options.seed),
        most=bound[0],
        max_products=options.max_products,
        columns=options.columns,
        block=options.block,
        progress=sys.stderr.isatty(),
    )
    seconds = time.perf_counter() - began
    products = found.products + check.products + 2
    held = found.at_least <= exact <= bound[0]
    worst = float(found.residuals.max()) if len(found.values) else 0.0
    ends = float(found.values[-1]) / tau if len(found.values) else float("nan")
    print(
        f"N = {hessian.shape[0]}, tau = {options.relative_threshold:.0e} of the largest: negative in "
        f"[{found.at_least}, {bound[0]}], exact {exact}; {products} products, {seconds:.0f} s; {found.stopped}; "
        f"the {len(found.values)} Ritz values end at {ends:.4f} tau, certified to "
        f"{found.compression.error / tau:.1e} tau, largest residual {worst / tau:.1e} tau"
    )
    append(
        HERE / "results" / "mnist_negative.jsonl",
        Record(
            "mnist_negative",
            vars(options),
            {
                "lower": found.at_least,
                "upper": bound[0],
                "exact": exact,
                "held": held,
                "upper_reason": bound[1],
                "stopped": found.stopped,
                "error_over_threshold": found.compression.error / tau,
                "largest_residual_over_threshold": worst / tau,
            },
            seeds=options.seed,
            products=products,
            seconds=seconds,
        ),
    )
    return 0 if held and found.at_least == bound[0] else 1


if __name__ == "__main__":
    sys.exit(main())
