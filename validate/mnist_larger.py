"""A wider network of the paper's kind on MNIST, 784-50-10 (N = 39,760), counted exactly from one triangle.

    python validate/mnist_larger.py --directory /var/tmp                       # H in a file, L in memory: 8 GiB
    python validate/mnist_larger.py --hidden 76 --memory 4 --directory /var/tmp   # N = 60,430, out of core
    python validate/mnist_larger.py --hidden 6 --samples 2000 --judge          # beside LAPACK's eigenvalues

Trains the network for a few passes, in float64, and factors H - t I at t = -tau and tau, tau relative to the largest
eigenvalue; says beforehand what that takes. `--plan` says only that. With --judge all eigenvalues are computed as well
(N^2 numbers of memory). Needs the MNIST files. Appends a record to validate/results/mnist_larger.jsonl, with the peak
memory of the process, and exits with 1 if a count is not certified, or not that of the judge.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from lanczos_saddle import Hessian, exact_eigenvalues
from lanczos_saddle.dense.one_triangle import foretold_seconds, inertia_at, plan_layout
from lanczos_saddle.krylov.largest import largest_magnitude
from lanczos_saddle.reports.records import Record, append
from lanczos_saddle.training.data_files import mnist_array

RESULTS = Path(__file__).parent / "results" / "mnist_larger.jsonl"
PASSES, BATCH, RATE = 5, 128, 1e-3  # of training


def trained(hidden: int, samples: int) -> Hessian:
    """784-hidden-10, ReLU, cross-entropy over the first training images, after a few passes of Adam."""
    torch.manual_seed(0)
    pixels, labels = (mnist_array(f"train-{name}")[:samples] for name in ("images-idx3-ubyte", "labels-idx1-ubyte"))
    images = torch.from_numpy(pixels.reshape(len(pixels), -1).astype(np.float64)) / 255
    labels = torch.from_numpy(labels.astype(np.int64))
    model = nn.Sequential(nn.Linear(784, hidden), nn.ReLU(), nn.Linear(hidden, 10)).double()
    loss, optimizer = nn.CrossEntropyLoss(), torch.optim.Adam(model.parameters(), RATE)
    for _ in range(PASSES):
        for part in torch.randperm(len(images)).split(BATCH):
            optimizer.zero_grad()
            loss(model(images[part]), labels[part]).backward()
            optimizer.step()
    return Hessian(model, loss, (images, labels))


def peak_gib() -> float:
    """The most memory that the process has had, mapped files included."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hidden", type=int, default=50)
    parser.add_argument("--samples", type=int, default=60_000)
    parser.add_argument("--relative", type=float, nargs="+", default=[1e-4])
    parser.add_argument("--memory", type=float, help="GiB that may be used; what is free by default")
    parser.add_argument("--directory", type=Path)
    parser.add_argument("--plan", action="store_true")
    parser.add_argument("--judge", action="store_true")
    options = parser.parse_args()
    size, thresholds = 784 * options.hidden + 11 * options.hidden + 10, 2 * len(options.relative)
    memory = None if options.memory is None else int(options.memory * 2**30)
    layout = plan_layout(size, thresholds, memory, options.directory)
    foretold = foretold_seconds(layout, thresholds)
    print(f"{layout}; about {foretold / 3600:.2f} hours, the assembly not counted", flush=True)
    if options.plan:
        return 0
    hessian = trained(options.hidden, options.samples)
    scale, _ = largest_magnitude(hessian, torch.Generator().manual_seed(0))
    at = [sign * relative * scale for relative in options.relative for sign in (-1, 1)]
    began, parts = time.perf_counter(), list[dict[str, Any]]()

    def tell(text: str) -> None:
        spent = {"wall": time.perf_counter() - began, "processors": time.process_time()}
        parts.append({**spent, "done": text, "peak_gib": peak_gib()})
        print(f"{parts[-1]['wall']:8.1f} s, {parts[-1]['processors']:8.1f} s of processors: {text}", flush=True)

    asked = {**vars(options), "threads": torch.get_num_threads(), "directory": options.directory is not None}
    known = {"size": size, "scale": scale, "layout": replace(layout, source=None, lower=None), "foretold": foretold}
    try:
        counted = inertia_at(hessian, at, memory=memory, directory=options.directory, progress=tell)
    except KeyboardInterrupt:  # what was found before is kept
        append(RESULTS, Record("mnist_larger", asked, {**known, "parts": parts, "interrupted": True}))
        raise
    peak = peak_gib()
    rows, right = [], True
    values = exact_eigenvalues(hessian) if options.judge else None
    for t, found in zip(at, counted.found, strict=True):
        sure = found.holds_for(counted.error)
        row = {"t": t / scale, "found": found, "certified": sure, "margin": found.margin / scale}
        row["separation"] = found.separation / scale
        if values is not None:
            row["true"] = int((values < t).sum()), int((values > t).sum())
            right &= found == row["true"]
        right &= sure
        rows.append(row)
        print(f"{t / scale:+.0e}: {found}, {'certified' if sure else 'NOT certified'}", flush=True)
    print(f"N = {size}, peak memory {peak:.2f} GiB", flush=True)
    result = {**known, "rows": rows, "parts": parts, "peak_gib": peak, "error": counted.error / scale, "right": right}
    append(RESULTS, Record("mnist_larger", asked, result, products=counted.products, seconds=parts[-1]["wall"]))
    return int(not right)


if __name__ == "__main__":
    sys.exit(main())
