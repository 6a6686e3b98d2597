"""The paper's network on MNIST, counted exactly: closed form and inertia against the reference spectrum.

    python validate/mnist_exact.py                                   # N = 19,885, float64; 4 GiB of memory
    python validate/mnist_exact.py --relative 1e-2 1e-3 1e-4 1e-5 --method blocked

Assembles the Hessian once, factors it at -tau and tau for every tau, and compares with the eigenvalues in
validate/reference, which come from other code. Wall and processor seconds of each part are printed: on a machine that
others use only the latter mean something. Needs the MNIST files. Appends a record to
validate/results/mnist_exact.jsonl and exits with 1 if a count is off or not certified.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from mnist_reference import reference_hessian

from lanczos_saddle.dense.exact import assemble
from lanczos_saddle.dense.sylvester import Sylvester
from lanczos_saddle.reports.records import Record, append

RESULTS = Path(__file__).parent / "results" / "mnist_exact.jsonl"


@contextmanager
def timed(name: str, parts: dict[str, tuple[float, float]]) -> Iterator[None]:
    wall, processor = time.perf_counter(), time.process_time()
    yield
    parts[name] = time.perf_counter() - wall, time.process_time() - processor
    print(f"{name}: {parts[name][0]:.1f} s, {parts[name][1]:.1f} s of processors", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--relative", type=float, nargs="+", default=[1e-4])
    parser.add_argument("--method", choices=["auto", "lapack", "blocked"], default="auto")
    options = parser.parse_args()
    hessian, values = reference_hessian(torch.float64)
    scale, parts, rows, right = float(abs(values).max()), dict[str, tuple[float, float]](), [], True
    with timed("assembly", parts):
        dense = assemble(hessian)
    print(f"{dense.products} products, |A - H| at most {dense.error / scale:.1e} of the largest eigenvalue", flush=True)
    with timed("preparation", parts):
        solver = Sylvester(dense.matrix, method=options.method)
    for t in [sign * relative * scale for relative in options.relative for sign in (-1, 1)]:
        with timed(f"inertia at {t / scale:+.0e}", parts):
            found = solver.at(t)
        true = int((values < t).sum()), int((values > t).sum())
        right &= found == true and found.holds_for(dense.error)
        rows.append({"t": t / scale, "found": found, "true": true, "certified": found.holds_for(dense.error)})
        print(f"{found}, true {true}", flush=True)
    asked = vars(options) | {"threads": torch.get_num_threads()}
    result = {"rows": rows, "seconds": parts, "products": dense.products, "error": dense.error, "right": right}
    append(RESULTS, Record("mnist_exact", asked, result, products=dense.products))
    return int(not right)


if __name__ == "__main__":
    sys.exit(main())
