"""A million dimensions, a spectrum that is prescribed: do the intervals hold, in which time and memory?

    python validate/large_spectrum.py                 # N = 1e6: minutes on two cores
    python validate/large_spectrum.py --size 100000000 --device cuda

H = Q diag(lambda) Q' with Q made of random signs and fast Hartley transforms, so every count is known. The spectrum has
an atom at 0, clusters at +-tau (1 +- 1e-3), a bulk and outliers. Appends to validate/results/large_spectrum.jsonl and
exits with 1 if an interval misses.
"""

from __future__ import annotations

import argparse
import resource
import sys
from pathlib import Path

import torch

from lanczos_saddle import count_eigenvalues
from lanczos_saddle.krylov.basis import basis_bytes
from lanczos_saddle.reports.records import Record, append
from lanczos_saddle.studies.known_problems import clustered

RESULTS = Path(__file__).parent / "results" / "large_spectrum.jsonl"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=1_000_000)
    parser.add_argument("--threshold", type=float, default=1e-2, help="tau; the largest |eigenvalue| is about 1")
    parser.add_argument("--probes", type=int, default=4)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=["float32", "float64"], default="float64")
    parser.add_argument("--no-basis", action="store_true", help="no reorthogonalization: memory of a few vectors")
    options = parser.parse_args()
    generator = torch.Generator().manual_seed(options.seed)
    operator = clustered(options.size, options.threshold, generator, getattr(torch, options.dtype), options.device)
    predicted = 0 if options.no_basis else basis_bytes(operator, options.probes, options.steps)
    print(
        f"N = {options.size}; the basis of {options.probes} x {options.steps} vectors takes {predicted / 2**30:.2f} GiB"
    )
    counts = count_eigenvalues(
        operator,
        threshold=options.threshold,
        method="lanczos",
        probes=options.probes,
        steps=options.steps,
        precision=1e-4,
        reorthogonalize=not options.no_basis,
        generator=generator,
        progress=sys.stderr.isatty(),
    )
    true = operator.count(options.threshold)
    found = (counts.negative, counts.near_zero, counts.positive)
    held = all(exact in interval for exact, interval in zip(true, found, strict=True))
    print(counts)
    print(f"true counts {tuple(int(c) for c in true)}: {'all held' if held else 'MISSED'}; stopped: {counts.stopped}")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # KiB on Linux
    on_device = torch.cuda.max_memory_allocated() / 2**30 if options.device.startswith("cuda") else None
    print(f"peak memory of the process {peak:.2f} GiB")
    append(
        RESULTS,
        Record(
            "large_spectrum",
            vars(options),
            {
                "true": [int(c) for c in true],
                "negative": counts.negative,
                "near_zero": counts.near_zero,
                "positive": counts.positive,
                "held": held,
                "stopped": counts.stopped,
                "basis_gib": predicted / 2**30,
                "peak_gib": peak,
                "device_gib": on_device,
            },
            seeds=options.seed,
            products=counts.products,
            seconds=counts.seconds,
        ),
    )
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
