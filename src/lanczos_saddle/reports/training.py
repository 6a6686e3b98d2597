"""The figure of a training that was watched: loss, negative count and degeneracy, from the records of the counts."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lanczos_saddle.reports.plots import LINE, new_figure, save_figure


def plot_training(path: str | os.PathLike[str], moments: Sequence[Mapping[str, Any]], *, title: str = "") -> None:
    """Three panels over epochs, or steps where no epoch is known: loss, negative eigenvalues, share near zero.

    Bars are the certified intervals at the moments that were counted; the lines between them lead the eye only.

    Args:
        path: the figure, its kind by its ending.
        moments: ``[moment.result() for moment in monitor.moments]``, or the results of the records that a
            `SpectrumMonitor` wrote: ``[line["result"] for line in records.read(file)]``.
        title: above the panels.

    Raises:
        ValueError: without moments.
        ModuleNotFoundError: where matplotlib is missing.
    """
    moments = sorted(moments, key=lambda moment: float(moment["step"]))
    if not moments:
        raise ValueError("a figure needs one moment at least; got none: was nothing counted?")
    epochs = all(moment["epoch"] is not None for moment in moments)
    x = np.array([float(moment["epoch" if epochs else "step"]) for moment in moments])
    figure, (top, middle, bottom) = new_figure(3, 1, (7, 7))
    losses = np.array([float(moment["loss"]) for moment in moments])
    top.plot(x, losses, "o-", color=LINE, markersize=3)
    top.set(ylabel="loss", yscale="log" if (losses > 0).all() and losses.max() > 10 * losses.min() else "linear")
    _bars(middle, x, moments, "negative", 1.0)
    middle.set(ylabel="negative eigenvalues")
    _bars(bottom, x, moments, "near_zero", 100.0 / float(moments[0]["size"]))
    bottom.set(ylabel="near zero, % of all", xlabel="epoch" if epochs else "step", ylim=(0, 105))
    for axis in (top, middle):
        axis.sharex(bottom)
        axis.tick_params(labelbottom=False)
    figure.align_ylabels()
    said = f"bars: certified intervals, {100 * float(moments[0]['confidence']):g} % for each moment"
    figure.suptitle(f"{title}\n{said}" if title else said, fontsize=10)
    save_figure(figure, path)


def _bars(axis: Any, x: Any, moments: Sequence[Mapping[str, Any]], name: str, unit: float) -> None:
    low, middle, high = (
        unit * np.array([float(moment[name][end]) for moment in moments]) for end in ("lower", "estimate", "upper")
    )
    axis.plot(x, middle, "-", color=LINE, linewidth=0.8, alpha=0.6)
    middle = np.clip(middle, low, high)
    axis.errorbar(x, middle, [middle - low, high - middle], fmt="o", color=LINE, markersize=3, capsize=2)
    axis.set_ylim(0, 1.05 * max(float(high.max()), 1.0 * unit))
