"""Figures of what was computed elsewhere: nothing is computed here but where the ink goes."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lanczos_saddle.counting.evidence import CountBand
from lanczos_saddle.density import Density
from lanczos_saddle.machine.extras import require
from lanczos_saddle.machine.files import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = NDArray[np.float64]

BAND, EXACT, LINE = "#9ecae1", "#d6604d", "#2166ac"


def plot_density(
    path: str | os.PathLike[str], density: Density, *, linear: float, title: str, exact: Array | None = None
) -> None:
    """The smoothed density on a linear and on a symmetric-log axis, over a histogram of exact eigenvalues if given."""
    low, high = float(density.nodes.min()), float(density.nodes.max())
    spread = (high - low) or abs(high) or linear  # one node only: any width shows it
    margin, width = 0.05 * spread, spread / 150
    figure, (left, right) = new_figure(1, 2, (11, 4))
    x = np.linspace(low - margin, high + margin, 800)
    left.plot(x, density.smooth(x, width), color=LINE, label="matrix-free")
    u = np.linspace(np.arcsinh((low - margin) / linear), np.arcsinh((high + margin) / linear), 1200)
    right.plot(u, density.smooth_symlog(linear * np.sinh(u), linear), color=LINE, label="matrix-free")
    if exact is not None:
        left.hist(exact, bins=150, density=True, color=EXACT, alpha=0.35, label="exact")
        right.hist(np.arcsinh(exact / linear), bins=150, density=True, color=EXACT, alpha=0.35, label="exact")
    peak = float(density.smooth(x, width).max())
    left.set(yscale="log", xlabel="eigenvalue", ylabel="density", ylim=(1e-6 * peak, 10 * peak))
    right.set(xlabel=f"eigenvalue (arcsinh scale, linear within ±{linear:.0e})", ylabel="density per unit of scale")
    right.set_title("narrow peaks near 0: nodes not converged; counts come from the band", fontsize=8)
    arcsinh_ticks(right, low, high, linear)
    left.legend(frameon=False)
    figure.suptitle(title)
    save_figure(figure, path)


def plot_count_band(
    path: str | os.PathLike[str], band: CountBand, *, size: int, linear: float, title: str, exact: Array | None = None
) -> None:
    """How many eigenvalues are at most t: the certified band, with the exact staircase inside it if given.

    The right panel is the same near the lower left corner, where the negative eigenvalues are.
    """
    figure, axes = new_figure(1, 2, (11, 4.5))
    scaled = np.arcsinh(band.thresholds / linear)
    for axis in axes:
        # between thresholds the band is what monotonicity leaves: lower bound from the left, upper from the right
        axis.fill_between(
            np.repeat(scaled, 2)[1:-1],
            np.repeat(band.lower[:-1], 2),
            np.repeat(band.upper[1:], 2),
            color=BAND,
            label=f"certified, {100 * band.confidence:g} % at all thresholds at once",
        )
        if exact is not None:
            axis.step(
                np.arcsinh(np.sort(exact) / linear),
                np.arange(1, len(exact) + 1),
                where="post",
                color=EXACT,
                linewidth=1.2,
                label="exact",
            )
        axis.set(xlabel=f"threshold t (arcsinh scale, linear within ±{linear:.0e})", ylabel="eigenvalues ≤ t")
        axis.set_xlim(scaled[0], scaled[-1])
        arcsinh_ticks(axis, band.thresholds[0], band.thresholds[-1], linear)
    axes[0].set_ylim(0, size)
    axes[0].legend(frameon=False, loc="upper left")
    negative = band.upper[np.searchsorted(band.thresholds, -linear)]
    axes[1].set(xlim=(scaled[0], 0), ylim=(0, max(1, min(size, 1.3 * negative))), title="the negative side")
    figure.suptitle(title)
    save_figure(figure, path)


@dataclass(frozen=True)
class SurfacePanel:
    """A function of two variables on a grid, and paths over it."""

    title: str
    x: Array  # (n,)
    y: Array  # (m,)
    height: Array  # (m, n)
    paths: Mapping[str, Array]  # name -> (k, 2)


def plot_surfaces(path: str | os.PathLike[str], panels: Sequence[SurfacePanel]) -> None:
    """Contours side by side; a dot where a path begins, a cross where it ends."""
    figure, axes = new_figure(1, len(panels), (4.2 * len(panels), 4.2))
    for axis, panel in zip(np.ravel(axes), panels, strict=True):
        axis.contour(panel.x, panel.y, panel.height, levels=24, cmap="Greys", linewidths=0.6)
        for i, (name, points) in enumerate(panel.paths.items()):
            style = ("-", "--", "-.", ":")[i % 4]  # paths may lie on each other
            (line,) = axis.plot(points[:, 0], points[:, 1], style, linewidth=1.6, label=name, color=f"C{i}")
            axis.plot(*points[0], marker="o", markersize=4, color=line.get_color())
            axis.plot(*points[-1], marker="x", markersize=6, color=line.get_color())
        axis.set(title=panel.title, xlim=(panel.x[0], panel.x[-1]), ylim=(panel.y[0], panel.y[-1]))
    np.ravel(axes)[0].legend(frameon=False, fontsize=7, loc="lower left")
    save_figure(figure, path)


def plot_exit_path(path: str | os.PathLike[str], shares: Array, losses: Array, *, title: str) -> None:
    """The loss along a path: l from its start to its end, then the points of a descent, counted."""
    figure, (left, right) = new_figure(1, 2, (11, 4))
    flat = len(shares)
    left.plot(shares, losses[:flat], color=LINE)
    left.axvspan(max(0.0, shares[0]), 1.0, color=BAND, alpha=0.5, label="local minima")
    left.set(xlabel="share l of the split unit", ylabel="loss", ylim=(0, 1.2 * losses[0]))
    left.legend(frameon=False)
    right.plot(np.arange(len(losses) - flat + 1), losses[flat - 1 :], color=LINE)
    right.set(xlabel=f"point of the descent from l = {shares[-1]:g}", ylabel="loss", ylim=(0, 1.2 * losses[0]))
    figure.suptitle(title)
    save_figure(figure, path)


def plot_clauses(
    path: str | os.PathLike[str], steps: Array, gradients: Array, smallest: Array, *, constants: Array, title: str
) -> None:
    """|grad| and the smallest eigenvalue along a run; dotted: epsilon, and -gamma and alpha."""
    epsilon, gamma, alpha = constants
    figure, (left, right) = new_figure(1, 2, (11, 4))
    left.semilogy(steps, gradients, color=LINE)
    left.axhline(epsilon, color=EXACT, linestyle=":")
    left.set(xlabel="step", ylabel="gradient norm")
    right.plot(steps, smallest, color=LINE)
    for level in (-gamma, alpha):
        right.axhline(level, color=EXACT, linestyle=":")
    right.set(xlabel="step", ylabel="smallest eigenvalue")
    right.set_yscale("symlog", linthresh=alpha)
    figure.suptitle(title)
    save_figure(figure, path)


def new_figure(rows: int, columns: int, inches: tuple[float, float]) -> tuple[Figure, Any]:
    """An empty figure and its axes; `save_figure` writes it. Raises ModuleNotFoundError where matplotlib is missing."""
    require("matplotlib", "plots")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=inches, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns)
    for axis in np.ravel(axes):
        axis.spines[["top", "right"]].set_visible(False)
    return figure, axes


def arcsinh_ticks(axis: Axes, low: float, high: float, linear: float) -> None:
    """Ticks at 0 and at powers of ten beyond the linear part, on an axis of arcsinh(x / linear)."""
    decades = np.arange(np.ceil(np.log10(linear)), np.ceil(np.log10(max(-low, high, linear))) + 1)
    decades = decades[-1 - 2 * ((len(decades) - 1) // 2) :: 2] if len(decades) > 5 else decades  # room for the labels
    values = [0.0] + [s * 10.0**d for d in decades for s in (-1, 1) if low <= s * 10.0**d <= high]
    labels = ["0" if v == 0 else f"${'-' if v < 0 else ''}10^{{{round(np.log10(abs(v)))}}}$" for v in values]
    axis.set_xticks(np.arcsinh(np.array(values) / linear), labels, fontsize=8)


def save_figure(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Write a figure; the file is whole or as it was."""
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=130)
