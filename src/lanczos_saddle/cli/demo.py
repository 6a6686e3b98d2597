"""The demonstration: a small network counted exactly and matrix-free, side by side, and two figures."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from lanczos_saddle.cli.commands import DECADES, write_result
from lanczos_saddle.counting.count import count_eigenvalues, recount
from lanczos_saddle.counting.evidence import SampledEvidence
from lanczos_saddle.counting.result import Counts
from lanczos_saddle.dense.exact import exact_eigenvalues, three_counts
from lanczos_saddle.density import density_of
from lanczos_saddle.machine.extras import require
from lanczos_saddle.machine.threads import one_thread
from lanczos_saddle.networks.hessian import Hessian
from lanczos_saddle.reports.plots import plot_count_band, plot_density
from lanczos_saddle.reports.summary import summary
from lanczos_saddle.training import problems

PROBES, STEPS = 6, 200
"""1,200 products, fewer than the 1,885 columns of H."""


@one_thread()
def demo(options: argparse.Namespace) -> None:
    """Train the digits network, count exactly and matrix-free, print both side by side, draw two figures."""
    require("matplotlib", "paper")
    problem = problems.problem("digits", progress=not options.quiet)
    hessian = Hessian(problem.model, problem.loss, problem.data, dtype=torch.float64)
    print(
        f"digits, MLP 64-25-10 (ReLU, softmax cross-entropy), {hessian.shape[0]} parameters, "
        f"{len(problem.data[1])} images"
    )
    print(
        "trained: loss {loss:.4f}, gradient norm {gradient_norm:.1e}, test accuracy {test_accuracy:.1%}".format(
            **problem.provenance
        )
    )
    began = time.perf_counter()
    values = exact_eigenvalues(hessian, progress=not options.quiet).numpy()
    print(
        f"exact: {len(values)} products and a dense solve, {time.perf_counter() - began:.1f} s; "
        f"eigenvalues {values[0]:.3e} to {values[-1]:.3e}"
    )
    scale = float(np.abs(values).max())
    first = count_eigenvalues(
        hessian,
        threshold=DECADES[0] * scale,
        method="lanczos",
        probes=PROBES,
        steps=STEPS,
        precision=1e-6,
        progress=not options.quiet,
    )
    rows = [recount(first, relative * scale) for relative in DECADES[:5]]
    print(f"matrix-free: {first.products} products, {first.seconds:.1f} s; {first.dead} dead coordinates found\n")
    _print_table(values, rows, scale)
    write_result(
        options,
        {"rows": [summary(counts) for counts in rows], "eigenvalues": values},
        lambda: _draw(Path(options.folder), first, values),
    )


def _print_table(values: NDArray[np.float64], rows: list[Counts], scale: float) -> None:
    print(f"{'tau/largest':>11} | {'negative':^26} | {'near zero':^28} | {'positive':^28} |")
    for counts in rows:
        found = (counts.negative, counts.near_zero, counts.positive)
        true = three_counts(values, counts.threshold)
        cells = [
            f"{f'{exact} in {interval}':<{width}}"
            for exact, interval, width in zip(true, found, (26, 28, 28), strict=True)
        ]
        held = all(exact in interval for exact, interval in zip(true, found, strict=True))
        print(f"{counts.threshold / scale:11.0e} | {' | '.join(cells)} | {'holds' if held else 'MISSED'}")
    print(f"exact in [lower, upper] ~ estimate; the three of a row hold with {rows[0].confidence:.0%} confidence\n")


def _draw(folder: Path, counts: Counts, values: NDArray[np.float64]) -> None:
    assert isinstance(counts.evidence, SampledEvidence)
    linear = 1e-6 * float(np.abs(values).max())
    low, high = (float(np.arcsinh(1.05 * end / linear)) for end in (min(values[0], -linear), max(values[-1], linear)))
    thresholds = linear * np.sinh(np.linspace(low, high, 60))
    band = counts.evidence.band(thresholds[np.abs(thresholds) > 1e-3 * linear], counts.confidence)
    title = f"digits, MLP 64-25-10, N = {counts.size}: {counts.probes} probes x {counts.steps} products"
    density = density_of(counts.evidence.run, size=counts.size, zeros=counts.dead)
    plot_density(folder / "density.png", density, linear=linear, title=title, exact=values)
    plot_count_band(folder / "counts.png", band, size=counts.size, linear=linear, title=title, exact=values)
    print(f"figures: {folder / 'density.png'}, {folder / 'counts.png'}")
