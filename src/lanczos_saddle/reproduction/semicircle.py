"""Wigner's law and the Hessian: distances of spectra to the semicircle, beside those of random matrices.

    wigner   one Hessian, all eigenvalues: distances to semicircles, in units of s = sqrt(mean of lambda^2)
    goe      one sample of the Gaussian orthogonal ensemble of size N: the same distances

and, of both, what share is within +-tau, tau a fraction of the largest |eigenvalue|. For the GOE that share is about
(4 / pi) tau at any N: the semicircle's density at 0 is 1 / (pi s). What is 1/2 is the share below 0.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lanczos_saddle.reproduction.along_training import eigenvalues_at, run_length
from lanczos_saddle.reproduction.epsilon_alpha import LITTLE, SMALL
from lanczos_saddle.reproduction.experiments import Experiment
from lanczos_saddle.reproduction.markdown import table
from lanczos_saddle.reproduction.paper_plots import Spectrum, plot_wigner
from lanczos_saddle.reproduction.random_matrices import (
    Semicircle,
    closest_semicircle,
    equal_moments,
    goe_eigenvalues,
    kolmogorov_smirnov,
    wasserstein,
)
from lanczos_saddle.reproduction.rows import CIFAR10, DIGITS
from lanczos_saddle.reproduction.store import Store

Array = NDArray[np.float64]
Cell = dict[str, Any]

TAUS = (1e-1, 1e-2, 1e-3, 1e-4, 1e-6)
SIZES, SMALL_SIZES = (100, 300, 1000, 3000, 6685), (50, 100, 200)
TRIALS = 5
HEADS = ("spectrum", "N", "KS, equal second moment", "W1 / s", "KS, equal mean and variance", "KS, closest found")
LEVELS, BINS, REACH = 401, 60, 3.0  # quantiles; bins of the histogram on [-REACH, REACH] s


def run(store: Store, folder: Path, *, small: bool = False, progress: bool = False) -> str:
    """Fill the cells, draw the figure, return both as Markdown."""
    hessians = []
    for experiment in (SMALL,) if small else (CIFAR10, DIGITS, LITTLE):
        for after in (0, run_length(store, experiment, progress=progress)):
            hessians.append((experiment, after, hessian_cell(store, experiment, after)))
    samples = {size: [goe_cell(store, size, k) for k in range(TRIALS)] for size in (SMALL_SIZES if small else SIZES)}
    _draw(folder / "paper-wigner.png", hessians, samples)
    rows: list[list[str]] = []
    for experiment, after, cell in hessians:
        name = f"{experiment.dataset} {'-'.join(map(str, experiment.sizes))}, {'trained' if after else 'as drawn'}"
        rows.append([name, f"{cell['size']:,}", *_numbers([cell])])
    for size, cells in samples.items():
        rows.append([f"GOE, mean of {len(cells)}", f"{size:,}", *_numbers(cells)])
    text = table("|".join([*HEADS, *(f"within {tau:.0e}" for tau in TAUS), "below 0"]), rows)
    return f"{text}\n\n![Spectra and the semicircle](figures/paper-wigner.png)"


def hessian_cell(store: Store, experiment: Experiment, after: int) -> Cell:
    """Distances of one Hessian's spectrum, rows of zeros included."""

    def compute() -> Cell:
        values, zeros = eigenvalues_at(store, experiment, after)
        return describe(np.sort(np.append(values, np.zeros(zeros))))

    found: Cell = store.fill("wigner", {**asdict(experiment), "after": after}, compute)
    return found


def goe_cell(store: Store, size: int, trial: int) -> Cell:
    """Distances of one sample of the GOE."""

    def compute() -> Cell:
        return describe(goe_eigenvalues(size, generator=torch.Generator().manual_seed(trial)))

    found: Cell = store.fill("goe", {"size": size, "trial": trial}, compute)
    return found


def describe(values: Array) -> Cell:
    """All that is told of a spectrum (N,), ascending."""
    law = equal_moments(values)
    unit = law.radius / 2  # sqrt of the second moment
    largest = float(np.abs(values).max())
    closest, distance = closest_semicircle(values)
    histogram, edges = np.histogram(values / unit, bins=BINS, range=(-REACH, REACH))
    return {
        "size": len(values),
        "second_moment": unit**2,
        "largest": largest,
        "ks": kolmogorov_smirnov(values, law),
        "wasserstein": wasserstein(values, law) / unit,
        "ks_centered": kolmogorov_smirnov(values, equal_moments(values, centered=True)),
        "ks_closest": distance,
        "closest": [closest.center / unit, closest.radius / unit],
        "within": {f"{tau:.0e}": float((np.abs(values) <= tau * largest).mean()) for tau in TAUS},
        "below_zero": float((values < 0).mean()),
        "quantiles": np.quantile(values / unit, np.linspace(0, 1, LEVELS)),
        "histogram": histogram,
        "edges": edges,
    }


def _numbers(cells: Sequence[Cell]) -> list[str]:
    """Means over the cells, as the columns of the table."""
    rows = [
        [
            *(cell[key] for key in ("ks", "wasserstein", "ks_centered", "ks_closest")),
            *cell["within"].values(),
            cell["below_zero"],
        ]
        for cell in cells
    ]
    return [f"{value:.3g}" for value in np.mean(rows, axis=0)]


def _draw(path: Path, hessians: Sequence[tuple[Experiment, int, Cell]], samples: dict[int, list[Cell]]) -> None:
    size = max(samples)
    pictured = [
        (f"Hessian, {'trained' if after else 'as drawn'}, N = {cell['size']:,}", cell)
        for experiment, after, cell in hessians
        if experiment == hessians[0][0]
    ]
    pictured.append((f"GOE, N = {size:,}", samples[size][0]))
    spectra = []
    for label, cell in pictured:
        counts, edges = np.array(cell["histogram"], dtype=float), np.array(cell["edges"])
        density = counts / (cell["size"] * np.diff(edges))
        spectra.append(Spectrum(label, np.linspace(0, 1, LEVELS), np.array(cell["quantiles"]), edges, density))
    law, x = Semicircle(0.0, 2.0), np.linspace(-REACH, REACH, 601)
    means = [statistics.mean(cell["ks"] for cell in cells) for cells in samples.values()]
    distances = {"GOE": (np.array(list(samples), dtype=float), np.array(means))}
    for name, chosen in (("Hessians as drawn", False), ("Hessians, trained", True)):
        cells = [cell for _, after, cell in hessians if bool(after) == chosen]
        distances[name] = np.array([cell["size"] for cell in cells], dtype=float), np.array([c["ks"] for c in cells])
    plot_wigner(path, spectra, (x, law.density(x), law.cdf(x)), distances)
