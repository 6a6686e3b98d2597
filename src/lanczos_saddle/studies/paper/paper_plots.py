"""The paper's figures, of what was computed elsewhere: nothing is computed here but where the ink goes."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lanczos_saddle.reports.plots import BAND, EXACT, LINE, SurfacePanel, arcsinh_ticks, new_figure, save_figure

Array = NDArray[np.float64]
MARKS = "osD^vPX*"


def plot_plateau(
    path: str | os.PathLike[str],
    panel: SurfacePanel,
    profile: Array,
    heights: Mapping[str, float],
    flat: tuple[float, float],
) -> None:
    """The function at y = 0 with the ends of the paths, beside the paths over its contours; `flat`: the plateau's x."""
    figure, (left, right) = new_figure(1, 2, (11, 4.4))
    for axis in (left, right):
        axis.axvspan(*flat, color=BAND, alpha=0.5, label="plateau" if axis is left else None)
    left.plot(panel.x, profile, color="0.3")
    right.contour(panel.x, panel.y, panel.height, levels=28, cmap="Greys", linewidths=0.6)
    for i, (name, points) in enumerate(panel.paths.items()):
        color, mark = f"C{i}", MARKS[i % len(MARKS)]
        end = points[-1]
        left.plot(end[0], heights[name], mark, color=color, markersize=7, label=f"{name}: x = {end[0]:.3f}")
        right.plot(points[:, 0], points[:, 1], "-", color=color, linewidth=1.3, alpha=0.8)
        right.plot(*end, mark, color=color, markersize=7)
    right.plot(*next(iter(panel.paths.values()))[0], "*", color="black", markersize=11, label="start")
    right.plot(0, 0, "+", color="black", markersize=11, label="minimum")
    right.legend(frameon=False, fontsize=8, loc="lower left")
    left.set(xlabel="x", ylabel="f(x, 0)", title="where each method is at the end", ylim=(-0.05, 1.05))
    right.set(xlabel="x", ylabel="y", title=panel.title, xlim=(panel.x[0], panel.x[-1]), ylim=(panel.y[0], panel.y[-1]))
    left.legend(frameon=False, fontsize=8, loc="upper left")
    save_figure(figure, path)


@dataclass(frozen=True)
class Trace:
    """An error and a fraction at moments of one run, with the intervals that are known."""

    title: str
    epochs: Array  # (n,)
    errors: Array  # (n,)
    exact: Array  # (n,) fractions
    most: float | None = None  # the fraction that the architecture allows
    intervals: Mapping[int, tuple[float, float]] = field(default_factory=dict)  # moment -> fractions


def plot_epsilon_alpha(path: str | os.PathLike[str], rows: Sequence[Sequence[Trace]]) -> None:
    """Error against the fraction of negative eigenvalues, a row a network and a column a threshold."""
    figure, axes = new_figure(len(rows), len(rows[0]), (4.2 * len(rows[0]), 3.8 * len(rows)))
    from matplotlib.colors import SymLogNorm

    grid = np.reshape(axes, (len(rows), len(rows[0])))
    for line, traces in zip(grid, rows, strict=True):
        last = float(traces[0].epochs.max())
        norm = SymLogNorm(1.0, vmin=0.0, vmax=last)  # linear in the first epoch, logarithmic beyond
        ticks = [t for t in (0, 0.5, 1, 2, 4, 8, 16, 32, 64) if t <= last]
        for axis, trace in zip(line, traces, strict=True):
            for i, ends in trace.intervals.items():
                level = [trace.errors[i]] * 2
                axis.plot(
                    ends, level, color=BAND, linewidth=4, solid_capstyle="butt", zorder=1, label="certified, 95 %"
                )
            axis.plot(trace.exact, trace.errors, color="0.6", linewidth=0.8, zorder=2)
            dots = axis.scatter(
                trace.exact, trace.errors, c=trace.epochs, cmap="viridis", norm=norm, s=22, zorder=3, label="exact"
            )
            if trace.most is not None:
                axis.axvline(trace.most, color=EXACT, linestyle=":", label="the most that the architecture allows")
            axis.set(title=trace.title, xlabel="fraction of negative eigenvalues", yscale="log")
            axis.set_xlim(0, 1.05 * max(axis.get_xlim()[1], trace.exact.max()))
        line[0].set_ylabel("training error (mean cross-entropy)")
        figure.colorbar(dots, ax=list(line), label="epoch", ticks=ticks, format="%g")
    handles = {
        text: handle for axis in grid.flat for handle, text in zip(*axis.get_legend_handles_labels(), strict=True)
    }
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=3, frameon=False)
    save_figure(figure, path)


@dataclass(frozen=True)
class Counted:
    """A number of eigenvalues at each epoch."""

    label: str
    epochs: Array
    counts: Array
    intervals: Mapping[float, tuple[float, float]] = field(default_factory=dict)  # epoch -> counts
    width: float = 1.5  # of the line: curves that lie on each other are told apart by it


def plot_zeros(path: str | os.PathLike[str], rows: Mapping[str, Mapping[str, Sequence[Counted]]]) -> None:
    """Numbers of zero eigenvalues against the epoch: a row a network, a panel a meaning of zero."""
    columns = len(next(iter(rows.values())))
    figure, axes = new_figure(len(rows), columns, (4.6 * columns, 4.0 * len(rows)))
    grid = np.reshape(axes, (len(rows), columns))
    for line, (network, panels) in zip(grid, rows.items(), strict=True):
        for axis, (title, series) in zip(line, panels.items(), strict=True):
            for i, counted in enumerate(series):
                axis.plot(counted.epochs, counted.counts, ".-", color=f"C{i}", linewidth=counted.width, markersize=4)
                axis.plot([], [], color=f"C{i}", label=counted.label)
                for epoch, ends in counted.intervals.items():
                    place = [epoch + 0.3 * (i - 0.5)] * 2  # intervals of two thresholds side by side
                    axis.plot(place, ends, color=f"C{i}", linewidth=3, alpha=0.35, solid_capstyle="butt")
            axis.set_title(title, fontsize=10)
            axis.set_xlabel("epoch")
            axis.set_ylim(0, 1.35 * axis.get_ylim()[1])  # room for the legend
            axis.legend(frameon=False, fontsize=8, loc="upper left")
        line[0].set_ylabel(f"{network}\nzero eigenvalues")
    save_figure(figure, path)


@dataclass(frozen=True)
class Spectrum:
    """Quantiles of a spectrum in units of the square root of its second moment, and a histogram of its middle."""

    label: str
    levels: Array  # (n,) in [0, 1]
    quantiles: Array  # (n,)
    edges: Array  # (m + 1,)
    density: Array  # (m,)


def plot_wigner(
    path: str | os.PathLike[str],
    spectra: Sequence[Spectrum],
    law: tuple[Array, Array, Array],
    distances: Mapping[str, tuple[Array, Array]],
) -> None:
    """Distribution functions and densities beside the semicircle; Kolmogorov-Smirnov distances against N.

    `law`: x, density and distribution function of the semicircle of second moment 1.
    """
    figure, (left, middle, right) = new_figure(1, 3, (15, 4.5))
    x, density, cdf = law
    linear = 1e-3
    circle: dict[str, Any] = {
        "color": "black",
        "linestyle": ":",
        "linewidth": 2,
        "zorder": 3,
    }  # random matrices lie on it
    left.plot(np.arcsinh(x / linear), cdf, label="semicircle", **circle)
    middle.plot(x, density, **circle)
    for i, spectrum in enumerate(spectra):
        color = (LINE, EXACT, "C2")[i % 3]
        left.plot(np.arcsinh(spectrum.quantiles / linear), spectrum.levels, color=color, label=spectrum.label)
        middle.stairs(spectrum.density, spectrum.edges, color=color)
    low, high = (f([f(s.quantiles) for s in spectra]) for f in (np.min, np.max))
    arcsinh_ticks(left, float(low), float(high), linear)
    left.set(xlabel="eigenvalue / root of the second moment (arcsinh scale)", ylabel="share of eigenvalues below")
    left.legend(frameon=False, fontsize=8, loc="upper left")
    reach = max(edge for spectrum in spectra for edge in spectrum.edges)
    xlabel = f"eigenvalue / root of the second moment, those within ±{reach:g}"
    middle.set(yscale="log", xlabel=xlabel, ylabel="density", ylim=(1e-4, 30))
    for i, (name, (sizes, values)) in enumerate(distances.items()):
        right.loglog(sizes, values, MARKS[i], color=("0.4", LINE, EXACT)[i % 3], label=name)
    sizes, values = next(iter(distances.values()))
    right.loglog(sizes, values[0] * sizes[0] / sizes, ":", color="0.4", label="proportional to 1 / N")
    right.set(xlabel="N", ylabel="Kolmogorov-Smirnov distance to the semicircle")
    right.legend(frameon=False, fontsize=8, loc=(0.45, 0.55))
    save_figure(figure, path)
