"""Figures of the study of shapes: intervals over a size, and bars a layer. Nothing is computed here."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lanczos_saddle.reports.plots import new_figure, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLORS = ("#2166ac", "#d6604d", "#4d9221", "#762a83")


@dataclass(frozen=True)
class Series:
    """Intervals over x, with one number inside each."""

    label: str
    x: Sequence[float]
    lower: Sequence[float]
    middle: Sequence[float]
    upper: Sequence[float]
    color: int = 0
    line: str = "-"  # "" for marks alone
    hollow: bool = False


@dataclass(frozen=True)
class Panel:
    """One pair of axes."""

    title: str
    x: str
    y: str
    series: Sequence[Series]
    ticks: Sequence[float]
    log_x: bool = False
    log_y: bool = False
    notes: Sequence[tuple[float, float, str]] = ()  # (x, y, text)


@dataclass(frozen=True)
class Bars:
    """One bar a layer for each of several quantities, in percent."""

    title: str
    y: str
    layers: Sequence[str]
    values: Mapping[str, Sequence[float]]
    errors: Mapping[str, tuple[Sequence[float], Sequence[float]]]  # (below, above)


def plot_panels(path: str | os.PathLike[str], panels: Sequence[Panel]) -> None:
    """Panels side by side."""
    figure, axes = _figure(len(panels), 5.4 if len(panels) < 3 else 4.8)
    from matplotlib.ticker import LogLocator, NullLocator

    for axis, panel in zip(axes, panels, strict=True):
        for s in panel.series:
            low, middle, high = (np.asarray(values, dtype=np.float64) for values in (s.lower, s.middle, s.upper))
            axis.errorbar(
                s.x,
                middle,
                yerr=(middle - low, high - middle),
                color=COLORS[s.color],
                marker="o",
                markersize=5,
                markerfacecolor="white" if s.hollow else COLORS[s.color],
                linestyle=s.line,
                linewidth=1.2,
                elinewidth=2,
                capsize=3,
                label=s.label,
            )
        if panel.log_x:
            axis.set_xscale("log")
        if panel.log_y:
            axis.set_yscale("log")
            axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.yaxis.set_major_formatter(plain)
            axis.yaxis.set_minor_locator(NullLocator())
        axis.set_xticks(list(panel.ticks))
        axis.xaxis.set_major_formatter(plain)
        axis.xaxis.set_minor_locator(NullLocator())
        for x, y, text in panel.notes:
            axis.annotate(text, (x, y), xytext=(0, 9), textcoords="offset points", ha="center", fontsize=7)
        axis.set(xlabel=panel.x, ylabel=panel.y)
        axis.set_title(panel.title, fontsize=10)
    _legends(figure, axes)
    save_figure(figure, path)


def plot_bars(path: str | os.PathLike[str], groups: Sequence[Bars]) -> None:
    """Groups of bars side by side."""
    figure, axes = _figure(len(groups), 5.4 if len(groups) < 3 else 4.4)
    for axis, group in zip(axes, groups, strict=True):
        places, width = np.arange(len(group.layers)), 0.8 / len(group.values)
        for i, (name, values) in enumerate(group.values.items()):
            axis.bar(
                places + (i - (len(group.values) - 1) / 2) * width,
                values,
                width,
                yerr=group.errors.get(name),
                color=COLORS[i],
                error_kw={"elinewidth": 1, "capsize": 2},
                label=name,
            )
        axis.set_xticks(places, group.layers, fontsize=8)
        axis.set(xlabel="layer, and its parameters", ylabel=group.y, ylim=(0, 100))
        axis.set_title(group.title, fontsize=10)
    _legends(figure, axes)
    save_figure(figure, path)


def plain(x: float, _: float) -> str:
    """A number of parameters at a tick."""
    return f"{x:,.0f}" if x < 10_000 else f"{x / 1000:,.0f}k"


def _figure(panels: int, wide: float) -> tuple[Figure, list[Axes]]:
    figure, axes = new_figure(1, panels, (wide * panels, 4.6))
    return figure, list(np.ravel(axes))


def _legends(figure: Figure, axes: Sequence[Axes]) -> None:
    """One below all axes where they show the same, else one in each."""
    shown = [axis.get_legend_handles_labels() for axis in axes]
    if all(labels == shown[0][1] for _, labels in shown):
        figure.legend(*shown[0], frameon=False, fontsize=9, loc="outside lower center", ncols=len(shown[0][1]))
        return
    for axis in axes:
        axis.legend(frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2)
