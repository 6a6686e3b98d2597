"""The benchmark's figures, from the records alone; the fitted slopes are printed.

    python bench/figures.py          # bench/results/*.jsonl -> docs/figures/race-*.png and scaling.png

race-PROBLEM.png    error of the count of negatives and near zeros, and the width of intervals, against products
scaling.png         seconds against N with the fitted slope, and memory against N
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from lanczos_saddle.machine.files import replacing
from lanczos_saddle.reports.records import read

HERE = Path(__file__).parent
Records = list[dict[str, Any]]
LEAST = 0.5  # counts: an error of less is drawn here, on a logarithmic axis


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=HERE / "results")
    parser.add_argument("--out", type=Path, default=HERE.parent / "docs" / "figures")
    options = parser.parse_args()
    race = latest(options.results / "count_race.jsonl")
    for problem in sorted({record["parameters"]["problem"] for record in race}):
        chosen = [record for record in race if record["parameters"]["problem"] == problem]
        print(draw_race(problem, chosen, options.out / f"race-{problem}.png"))
    scaling = [
        record
        for record in latest(options.results / "scaling.jsonl")
        if record["parameters"].get("operator", "spectrum") == "spectrum"
    ]
    if scaling:
        print(draw_scaling(scaling, options.out / "scaling.png"))
    return 0


def latest(path: Path) -> Records:
    """The last record of each set of parameters; none without the file."""
    records = read(path) if path.exists() else []
    return list({repr(record["parameters"]): record for record in records}.values())


def draw_race(problem: str, records: Records, path: Path) -> str:
    """One row of panels per threshold: errors of two counts, and the widest interval, against products."""
    relatives = records[0]["parameters"]["relative_thresholds"]
    figure, axes = panels(len(relatives), 3)
    for row, relative in enumerate(relatives):
        exact = dict(zip(("negative", "near_zero", "positive"), records[0]["result"]["exact"][row], strict=True))
        for name, style, points in curves(records, row, exact):
            for axis, column in zip(axes[row], ("negative", "near_zero", "width"), strict=True):
                chosen = [(p["products"], max(p[column], LEAST)) for p in points if p[column] is not None]
                if chosen:
                    axis.plot(*zip(*sorted(chosen), strict=True), label=name, markersize=4, linewidth=1, **style)
            wrong = [(p["products"], max(p["width"], LEAST)) for p in points if p["width"] is not None and p["missed"]]
            axes[row][2].plot(
                *zip(*wrong, strict=True) if wrong else ((), ()), "x", color="red", markersize=9, zorder=4
            )
        titles = (
            f"|error| of {exact['negative']} negative",
            f"|error| of {exact['near_zero']} near zero",
            "widest interval",
        )
        for axis, title in zip(axes[row], titles, strict=True):
            axis.set(xscale="log", yscale="log", xlabel="products", title=f"{title}, τ = {relative:g} λmax")
            number_ticks(axis)
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", frameon=False, fontsize=7)
    figure.suptitle(f"{problem}, N = {records[0]['result']['size']}")
    save(figure, path)
    return f"{path}: {len(records)} records"


def number_ticks(axis) -> None:
    """Plain numbers on both axes, three a decade where there are few decades."""
    for one in (axis.xaxis, axis.yaxis):
        low, high = np.log10(one.get_view_interval())
        one.set_major_locator(LogLocator(subs=(1, 2, 5) if high - low < 2 else (1,)))
        one.set_major_formatter("{x:,g}")
        one.set_minor_formatter(NullFormatter())


def curves(records: Records, index: int, exact: dict[str, int]):
    """(name, style, points) per method; ours are drawn full, those of others dashed, by one marker each."""
    grouped = defaultdict(list)
    for record in records:
        row = record["result"]["rows"][index]
        if row["failed"] is None and row["products"]:
            grouped[record["parameters"]["method"]].append(point(row, exact))
    markers = "osD^v<>pP*XhH8d"
    first_ours = sorted(grouped.items(), key=lambda entry: not entry[0].startswith("ours"))
    for number, (name, points) in enumerate(first_ours):
        ours = name.startswith("ours")
        style = {"marker": markers[number % len(markers)], "linestyle": "-" if ours else ":"}
        yield name, {**style, "color": f"C{number % 10}", "zorder": 3 if ours else 2}, points


def point(row: dict[str, Any], exact: dict[str, int]) -> dict[str, Any]:
    widths = [a["upper"] - a["lower"] for a in (row[name] for name in exact) if None not in (a["upper"], a["lower"])]
    errors = {
        name: None if row[name]["estimate"] is None else abs(row[name]["estimate"] - count)
        for name, count in exact.items()
    }
    bounds = [(row[name]["lower"], count, row[name]["upper"]) for name, count in exact.items()]
    missed = any((low is not None and low > count) or (up is not None and up < count) for low, count, up in bounds)
    return {"products": row["products"], "width": max(widths, default=None), "missed": missed, **errors}


def draw_scaling(records: Records, path: Path) -> str:
    """The slope is that of log seconds per product against log N, fitted from N = 100,000 where there are two sizes."""
    points = sorted(
        (r["parameters"]["size"], r["result"]["seconds"] / r["result"]["products"], r["result"]["peak_bytes"] or 0)
        for r in records
    )
    sizes, seconds, memory = (np.array(column, float) for column in zip(*points, strict=True))
    large = sizes >= 1e5 if (sizes >= 1e5).sum() >= 2 else sizes > 0
    slope, constant = np.polyfit(np.log(sizes[large]), np.log(seconds[large]), 1)
    figure, ((left, right),) = panels(1, 2)
    left.loglog(sizes, 1e3 * seconds, "o", label="measured")
    label = f"N^{slope:.2f}, fitted from N = {sizes[large][0]:.0e}"
    left.loglog(sizes[large], 1e3 * np.exp(constant) * sizes[large] ** slope, "--", label=label)
    left.set(xlabel="N", ylabel="ms per product, everything included")
    left.legend(frameon=False)
    right.loglog(sizes, memory / 2**20, "o")
    right.set(xlabel="N", ylabel="peak memory of the count, MiB")
    asked = records[0]["parameters"]
    figure.suptitle(f"prescribed spectra, no basis, {asked['probes']} probes x {asked['steps']} steps")
    save(figure, path)
    return f"{path}: seconds per product ~ N^{slope:.3f} for N from {sizes[large][0]:.0e} to {sizes[-1]:.0e}"


def panels(rows: int, columns: int):
    figure = Figure(figsize=(4.2 * columns + 1.5, 3.4 * rows + 0.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.spines[["top", "right"]].set_visible(False)
    return figure, axes


def save(figure: Figure, path: Path) -> None:
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=130)


if __name__ == "__main__":
    sys.exit(main())
