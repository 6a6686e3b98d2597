"""Figures for papers, one function each, in one style: PDF, PNG or SVG by the name, in the widths of journal columns.

    band_figure        how many eigenvalues are at most t: the certified band, the exact staircase
    intervals_figure   the three counts of several records
    density_figure     the smoothed density
    closing_figure     how the intervals closed with products
    layers_figure      parameters and dead coordinates, tensor by tensor

Each takes records as `report` does (files, mappings, `Counts`); nothing is computed but where the ink goes.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from lanczos_saddle.machine.extras import require
from lanczos_saddle.machine.files import replacing
from lanczos_saddle.reports.charts import BAND, CHOSEN, COLOURS, EXACT, band_corners
from lanczos_saddle.reports.page import read_records
from lanczos_saddle.reports.sources import SIGNS, View, views
from lanczos_saddle.reports.words import is_exact

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Width = Literal["single", "double"]

WIDTHS = {"single": 3.37, "double": 6.97}
"""Inches: one column, and two with the gap between them."""

KINDS = (".pdf", ".png", ".svg")

STYLE: Any = {  # matplotlib names its hundreds of keys as types; it checks them when they are set
    "font.family": "sans-serif",
    "font.size": 8.0,
    "axes.labelsize": 8.0,
    "axes.titlesize": 8.0,
    "xtick.labelsize": 7.0,
    "ytick.labelsize": 7.0,
    "legend.fontsize": 7.0,
    "legend.frameon": False,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "lines.linewidth": 1.1,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "pdf.fonttype": 42,
    "svg.fonttype": "none",
    "svg.hashsalt": "lanczos-saddle",
}
"""Text stays text in PDF and SVG; a figure of the same record is the same file."""


def band_figure(path: str | os.PathLike[str], record: Any, *, width: Width = "single") -> None:
    """How many eigenvalues are at most t, on a symmetric-log axis: the band that holds at all t, and what is exact.

    Raises ValueError for a record that knows one threshold alone, or for a name that ends in none of .pdf, .png, .svg.
    """
    view = _one(record)
    if view.grid is None:
        raise ValueError(
            "a band needs readings at several thresholds, which this record has not: write it again with "
            "`lanczos-saddle count --json`, without a preconditioner"
        )
    linear = view.grid.thresholds[0]
    corners = band_corners(view.grid, view.size)
    with _drawn(path, width, 0.62) as figure:
        axes = figure.subplots()
        u, low, high = ([corner[key] for corner in corners] for key in ("u", "lower", "upper"))
        axes.fill_between(u, low, high, color=BAND, alpha=0.6, linewidth=0, label=_held(view))
        if view.eigenvalues:
            steps = [math.asinh(x / linear) for x in view.eigenvalues]
            axes.step(
                [u[0], *steps, u[-1]],
                [0, *range(1, len(steps) + 1), len(steps)],
                where="post",
                color=EXACT,
                label="exact",
            )
        if view.threshold is not None:
            for sign in (-1, 1):
                axes.axvline(sign * math.asinh(view.threshold / linear), color=CHOSEN, linestyle=":", linewidth=0.8)
        _symlog(axes, linear, (u[0], u[-1]))
        axes.set(xlabel="threshold $t$", ylabel=r"eigenvalues $\leq t$", ylim=(0, view.size), xlim=(u[0], u[-1]))
        axes.legend(loc="upper left")


def intervals_figure(path: str | os.PathLike[str], records: Any, *, width: Width = "double") -> None:
    """Negative, near-zero and positive counts of several records, an interval a row; diamonds where they are exact."""
    found = views(read_records(records))
    height = (0.34 + 0.19 * len(found)) / WIDTHS[width] + 0.12
    with _drawn(path, width, height) as figure:
        panels = figure.subplots(1, 3, sharey=True)
        places = list(range(len(found)))[::-1]
        for axes, sign in zip(panels, range(3), strict=True):
            name = SIGNS[sign]
            for view, place in zip(found, places, strict=True):
                lower, estimate, upper = view.intervals[sign]
                axes.plot([lower, upper], [place, place], color=COLOURS[name], marker="|", markersize=5, linewidth=1.6)
                axes.plot(estimate, place, "o", color=COLOURS[name], markersize=2.8)
                if view.exact is not None:
                    axes.plot(view.exact[sign], place, "D", color=CHOSEN, markersize=4, fillstyle="none")
            axes.set(xlabel=f"{name.replace('_', ' ')}", ylim=(-0.6, len(found) - 0.4))
            axes.locator_params(axis="x", nbins=4, integer=True)
        panels[0].set_yticks(places, [view.label.replace("$", r"\$") for view in found])


def density_figure(path: str | os.PathLike[str], record: Any, *, width: Width = "single") -> None:
    """The smoothed density per unit of a symmetric-log axis. Raises ValueError for a record without one."""
    density = _one(record).density
    if density is None:
        raise ValueError("this record has no density: it saw a part of the spectrum alone, or was written without")
    linear = density.linear
    u = [math.asinh(x / linear) for x in density.eigenvalues]
    with _drawn(path, width, 0.55) as figure:
        axes = figure.subplots()
        axes.fill_between(u, density.density, color=BAND, alpha=0.5, linewidth=0)
        axes.plot(u, density.density, color=COLOURS["positive"])
        _symlog(axes, linear, (u[0], u[-1]))
        axes.set(xlabel=r"eigenvalue $\lambda$", ylabel="density", xlim=(u[0], u[-1]), ylim=(0, None))


def closing_figure(path: str | os.PathLike[str], record: Any, *, width: Width = "double") -> None:
    """The three intervals against products made. Raises ValueError for a record without that (exact counts)."""
    closing = _one(record).closing
    if closing is None:
        raise ValueError("this record does not say how its intervals closed: exact counts do not, nor do older records")
    with _drawn(path, width, 0.36 if width == "double" else 1.5) as figure:
        panels = figure.subplots(1, 3) if width == "double" else figure.subplots(3, 1, sharex=True)
        for axes, sign in zip(panels, range(3), strict=True):
            low, high = ([three[sign][end] for three in closing.intervals] for end in (0, 1))
            colour = COLOURS[SIGNS[sign]]
            axes.fill_between(closing.products, low, high, color=colour, alpha=0.3, linewidth=0)
            for edge in (low, high):
                axes.plot(closing.products, edge, color=colour, marker=".", markersize=3)
            axes.set(ylabel=SIGNS[sign].replace("_", " "))
            if width == "double" or sign == 2:
                axes.set_xlabel("products")


def layers_figure(path: str | os.PathLike[str], record: Any, *, width: Width = "single") -> None:
    """Parameters of each tensor, what is dead of them hatched. Raises ValueError for a record without layers."""
    tensors = _one(record).layers
    if not tensors:
        raise ValueError("this record has no layers: it is not of a network's parameters, or was written without")
    with _drawn(path, width, (0.45 + 0.2 * len(tensors)) / WIDTHS[width] + 0.05) as figure:
        axes = figure.subplots()
        places = list(range(len(tensors)))[::-1]
        live = [t["parameters"] - t["dead"] for t in tensors]
        axes.barh(places, live, color=COLOURS["positive"], label="alive", height=0.66)
        dead = [t["dead"] for t in tensors]
        axes.barh(
            places,
            dead,
            left=live,
            color="#d9d9d9",
            edgecolor="#777777",
            hatch="////",
            linewidth=0.4,
            label="dead",
            height=0.66,
        )
        axes.set_yticks(places, [str(t["name"]).replace("$", r"\$") for t in tensors])
        axes.set(xlabel="parameters")
        axes.legend(loc="lower right")


def _one(record: Any) -> View:
    return views(read_records(record))[0]


def _held(view: View) -> str:
    if is_exact(view) or view.confidence is None:
        return "certified"
    return f"certified, {100 * view.confidence:.4g} % at all $t$ at once"


@contextmanager
def _drawn(path: str | os.PathLike[str], width: Width, height: float) -> Iterator[Figure]:
    """A figure in the one style, `height` times as high as wide, written when the block ends."""
    require("matplotlib", "plots")
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    kind = Path(path).suffix.lower()
    if kind not in KINDS or width not in WIDTHS:
        raise ValueError(
            f"a figure is a .pdf, .png or .svg of width 'single' or 'double'; got {path} and {width!r}: name it so"
        )
    with rc_context(STYLE):
        figure = Figure(figsize=(WIDTHS[width], height * WIDTHS[width]), layout="constrained")
        yield figure
        metadata = {".pdf": {"CreationDate": None}, ".svg": {"Date": None}, ".png": {}}[kind]
        with replacing(path) as temporary:
            figure.savefig(temporary, format=kind[1:], dpi=300, metadata=metadata)


def _symlog(axes: Axes, linear: float, ends: tuple[float, float]) -> None:
    """Ticks at 0 and at powers of ten on an axis of arcsinh(x / linear), at most four a side."""
    most = linear * math.sinh(max(abs(end) for end in ends))
    decades = list(range(math.ceil(math.log10(linear)), math.floor(math.log10(most)) + 1))
    decades = decades[-1 :: -max(1, math.ceil(len(decades) / 3))]
    ticks = {0.0: "0"}
    for d in decades:
        for sign, mark in ((-1, "-"), (1, "")):
            place = sign * math.asinh(10.0**d / linear)
            if ends[0] <= place <= ends[1]:
                ticks[place] = f"${mark}10^{{{d}}}$"
    axes.set_xticks(sorted(ticks), [ticks[x] for x in sorted(ticks)])
