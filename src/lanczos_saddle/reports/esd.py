"""The plot of an estimated spectral density from lists of nodes and weights, as scripts for PyHessian draw it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lanczos_saddle.reports.plots import new_figure, save_figure

BINS, SHARE, BEYOND = 10_000, 1e-5, 0.01
"""Points of the axis, the variance of a bump as a share of the range (at least of 1), and the axis beyond the ends."""

FLOOR = 1e-7
"""Added to the density, whose axis is logarithmic."""


def smoothed(nodes: Sequence[Sequence[float]], weights: Sequence[Sequence[float]]) -> tuple[Any, Any]:
    """(density (BINS,), axis (BINS,)): Gaussians of variance SHARE * max(1, range) at the nodes, of integral 1."""
    x, w = np.asarray(nodes, dtype=np.float64), np.asarray(weights).real.astype(np.float64)
    if x.ndim != 2 or x.shape != w.shape:
        raise ValueError(f"nodes and weights are lists of equal lists, one a run; got shapes {x.shape} and {w.shape}")
    low, high = float(x.min(1).mean()) - BEYOND, float(x.max(1).mean()) + BEYOND
    axis, variance = np.linspace(low, high, BINS), SHARE * max(1.0, high - low)
    density: NDArray[np.float64] = np.zeros(BINS)
    for node, weight in zip(x.ravel(), w.ravel(), strict=True):
        density += weight * np.exp(-((axis - node) ** 2) / (2 * variance))
    return density / (density.sum() * (axis[1] - axis[0])), axis


def get_esd_plot(
    eigenvalues: Sequence[Sequence[float]],
    weights: Sequence[Sequence[float]],
    path: str | os.PathLike[str] = "example.pdf",
) -> None:
    """Draw the density of lists as `hessian.density` returns them, on a logarithmic axis, to a file."""
    density, axis = smoothed(eigenvalues, weights)
    figure, panel = new_figure(1, 1, (6, 4))
    panel.semilogy(axis, density + FLOOR)
    panel.set(
        xlabel="eigenvalue", ylabel="density", xlim=(float(np.min(eigenvalues)) - 1, float(np.max(eigenvalues)) + 1)
    )
    save_figure(figure, path)
