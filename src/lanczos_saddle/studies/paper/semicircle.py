"""Wigner's law and the Hessian: distances of spectra to the semicircle and to random matrices of their size.

    wigner       one Hessian, all eigenvalues: distances to semicircles, in units of s = sqrt(mean of lambda^2)
    goe          one sample of the Gaussian orthogonal ensemble of size N: the same distances
    wigner-goe   one Hessian beside one sample of its size, each over its s: Kolmogorov-Smirnov
    goe-goe      two samples of one size: the same

and, of the first two, what share is within +-tau, tau a fraction of the largest |eigenvalue|. For the GOE that share is
about (4 / pi) tau at any N: the semicircle's density at 0 is 1 / (pi s). What is 1/2 is the share below 0.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lanczos_saddle.reports.markdown import table
from lanczos_saddle.studies.paper.along_training import eigenvalues_at, finished
from lanczos_saddle.studies.paper.epsilon_alpha import LITTLE, SMALL
from lanczos_saddle.studies.paper.experiments import Experiment
from lanczos_saddle.studies.paper.kept_weights import run_length
from lanczos_saddle.studies.paper.paper_plots import Spectrum, plot_wigner
from lanczos_saddle.studies.paper.random_matrices import (
    Semicircle,
    closest_semicircle,
    equal_moments,
    goe_eigenvalues,
    kolmogorov_smirnov,
    two_samples,
    wasserstein,
)
from lanczos_saddle.studies.paper.rows import CIFAR10, DIGITS, MNIST
from lanczos_saddle.studies.paper.store import Store

Array = NDArray[np.float64]
Cell = dict[str, Any]

TAUS = (1e-1, 1e-2, 1e-3, 1e-4, 1e-6)
SIZES, SMALL_SIZES = (100, 300, 1000, 3000, 6685, 19_885), (50, 100, 200)
TRIALS = 5
LEVELS, BINS, REACH = 401, 60, 3.0  # quantiles; bins of the histogram on [-REACH, REACH] s


@dataclass(frozen=True)
class Measured:
    """One Hessian, at the beginning or the end of training."""

    experiment: Experiment
    after: int
    cell: Cell
    to_sample: float  # distance to one sample of the GOE of its size

    @property
    def state(self) -> str:
        """Before or after training."""
        return "trained" if self.after else "as drawn"


@dataclass(frozen=True)
class Findings:
    """Hessians, and random matrices of growing size."""

    hessians: list[Measured]
    samples: dict[int, list[Cell]]  # size -> one a trial
    apart: dict[int, float]  # size -> distance between two samples
    note: str  # on what is left out


def run(store: Store, folder: Path, *, small: bool = False, progress: bool = False) -> str:
    """Fill the cells, draw the figure, return both as Markdown."""
    found = compute(store, small=small, progress=progress)
    draw(found, folder)
    return f"{summary(found)}\n\n![Spectra and the semicircle](figures/paper-wigner.png)"


def compute(store: Store, *, small: bool = False, progress: bool = False) -> Findings:
    """The spectra of the figure, found or computed; of a finished store, the networks that it has at both ends."""
    experiments = (SMALL,) if small else (MNIST, CIFAR10, DIGITS, LITTLE)

    def ends(experiment: Experiment) -> list[Measured]:
        moments = 0, run_length(store, experiment, progress=progress)
        cells = [hessian_cell(store, experiment, after) for after in moments]
        return [
            Measured(experiment, after, cell, to_sample(store, experiment, after))
            for after, cell in zip(moments, cells, strict=True)
        ]

    networks, note = finished(ends, experiments, label=_label)
    sizes = SMALL_SIZES if small else SIZES
    samples = {size: [goe_cell(store, size, k) for k in range(TRIALS)] for size in sizes}
    apart = {size: samples_apart(store, size) for size in sizes}
    return Findings([measured for both in networks for measured in both], samples, apart, note)


def summary(found: Findings) -> str:
    """The distances, and the shares near 0 and below it."""
    near = "|".join(["spectrum", "N", *(f"within {tau:.0e}" for tau in TAUS), "below 0"])
    distances: list[list[str]] = []
    shares: list[list[str]] = []
    for one in found.hessians:
        names = [f"{_label(one.experiment)}, {one.state}", f"{one.cell['size']:,}"]
        distances.append([*names, *_means(DISTANCES, [one.cell]), _shown(one.to_sample)])
        shares.append([*names, *_shares([one.cell])])
    for size, cells in found.samples.items():
        names = [f"GOE, mean of {len(cells)}", f"{size:,}"]
        distances.append([*names, *_means(DISTANCES, cells), _shown(found.apart[size])])
        shares.append([*names, *_shares(cells)])
    heads = "|".join(["spectrum", "N", *DISTANCES.values(), "KS to a GOE sample of this N"])
    return "\n\n".join(part for part in (table(heads, distances), table(near, shares), found.note) if part)


def hessian_cell(store: Store, experiment: Experiment, after: int) -> Cell:
    """Distances of one Hessian's spectrum, rows of zeros included."""

    def compute() -> Cell:
        values, zeros = eigenvalues_at(store, experiment, after)
        return describe(np.sort(np.append(values, np.zeros(zeros))))

    found: Cell = store.fill("wigner", {**experiment.parameters(), "after": after}, compute)
    return found


def to_sample(store: Store, experiment: Experiment, after: int) -> float:
    """Distance of one Hessian's spectrum, rows of zeros included, to one sample of the GOE of its size."""

    def compute() -> float:
        values, zeros = eigenvalues_at(store, experiment, after)
        return two_samples(np.append(values, np.zeros(zeros)), _sample(experiment.size, 0))

    found: float = store.fill("wigner-goe", {**experiment.parameters(), "after": after, "sample": 0}, compute)
    return found


def samples_apart(store: Store, size: int) -> float:
    """Distance between two samples of the GOE."""
    found: float = store.fill(
        "goe-goe", {"size": size, "samples": (0, 1)}, lambda: two_samples(_sample(size, 0), _sample(size, 1))
    )
    return found


def goe_cell(store: Store, size: int, trial: int) -> Cell:
    """Distances of one sample of the GOE."""
    found: Cell = store.fill("goe", {"size": size, "trial": trial}, lambda: describe(_sample(size, trial)))
    return found


def _sample(size: int, trial: int) -> Array:
    return goe_eigenvalues(size, generator=torch.Generator().manual_seed(trial))


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


DISTANCES = {
    "ks": "KS, equal second moment",
    "wasserstein": "W1 / s",
    "ks_centered": "KS, equal mean and variance",
    "ks_closest": "KS, closest found",
}


def _means(keys: Iterable[str], cells: Sequence[Cell]) -> list[str]:
    return [_shown(statistics.fmean(cell[key] for cell in cells)) for key in keys]


def _shown(value: float) -> str:
    return f"{value:#.3g}" if value else "0"


def _shares(cells: Sequence[Cell]) -> list[str]:
    within = [cell["within"] for cell in cells]
    return [*_means(within[0], within), *_means(["below_zero"], cells)]


def _label(experiment: Experiment) -> str:
    return f"{experiment.dataset} {'-'.join(map(str, experiment.sizes))}"


def draw(found: Findings, folder: Path) -> None:
    """The picture, paper-wigner.png: the first network beside one random matrix, and all distances against N."""
    size = max(found.samples)
    pictured = [
        (f"Hessian, {one.state}, N = {one.cell['size']:,}", one.cell)
        for one in found.hessians
        if one.experiment == found.hessians[0].experiment
    ]
    pictured.append((f"GOE, N = {size:,}", found.samples[size][0]))
    spectra = []
    for label, cell in pictured:
        counts, edges = np.array(cell["histogram"], dtype=float), np.array(cell["edges"])
        density = counts / (cell["size"] * np.diff(edges))
        spectra.append(Spectrum(label, np.linspace(0, 1, LEVELS), np.array(cell["quantiles"]), edges, density))
    law, x = Semicircle(0.0, 2.0), np.linspace(-REACH, REACH, 601)
    means = [statistics.fmean(cell["ks"] for cell in cells) for cells in found.samples.values()]
    distances = {"GOE": (np.array(list(found.samples), dtype=float), np.array(means))}
    for name, state in (("Hessians as drawn", "as drawn"), ("Hessians, trained", "trained")):
        cells = [one.cell for one in found.hessians if one.state == state]
        distances[name] = np.array([cell["size"] for cell in cells], dtype=float), np.array([c["ks"] for c in cells])
    plot_wigner(folder / "paper-wigner.png", spectra, (x, law.density(x), law.cdf(x)), distances)
