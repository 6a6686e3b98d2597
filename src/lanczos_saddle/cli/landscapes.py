"""The critical points of `landscapes` in tables and figures: counts, known and computed; which method leaves which."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lanczos_saddle.cli.commands import write_result
from lanczos_saddle.dense.exact import exact_eigenvalues, three_counts
from lanczos_saddle.machine.extras import require
from lanczos_saddle.machine.progress import stage
from lanczos_saddle.reports.plots import SurfacePanel, plot_clauses, plot_exit_path, plot_surfaces
from lanczos_saddle.studies.landscapes.catalogue import catalogue, example_net
from lanczos_saddle.studies.landscapes.critical_points import CriticalPoint
from lanczos_saddle.studies.landscapes.escapes import METHODS, Escape, escapes, trajectory
from lanczos_saddle.studies.landscapes.exit_path import exit_path
from lanczos_saddle.studies.landscapes.splitting import split
from lanczos_saddle.studies.landscapes.strictness import teacher_run, visit_point
from lanczos_saddle.studies.landscapes.surfaces import SURFACES
from lanczos_saddle.studies.landscapes.tables import by_point

ZERO = 1e-10
"""Computed eigenvalues up to this are zero; the smallest that is not among the known ones is 1e-2."""

DISTANCES = (0.0, 1e-3)
TRIALS = 5
"""Odd, so that the median is one of them."""

CONSTANTS = {"epsilon": 1e-2, "gamma": 1e-2, "alpha": 1e-2}
STARTS = {
    "plateau": ((4.0, 2.0), (-0.5, 4.5), (-0.5, 2.5)),
    "classical saddle": ((1.0, 1e-3), (-0.5, 1.5), (-1.5, 1.5)),
    "monkey saddle": ((0.8, 0.0), (-1.5, 1.5), (-1.5, 1.5)),
    "handkerchief": ((1.0, 1e-3), (-1.0, 2.0), (-2.0, 2.0)),
}
"""Where the drawn paths begin, and the ranges of x and y; the plateau's start is that of the paper's Fig. 1."""

DRAWN = ("gradient descent", "momentum", "noisy SGD", "saddle-free Newton")


def landscapes(options: argparse.Namespace) -> None:
    """Print the counts, the escapes and the clauses of the strict-saddle property; draw three figures."""
    require("matplotlib", "plots")
    if options.limit < 1:
        raise ValueError(f"--limit must be at least 1, the steps that a method may take; got {options.limit}")
    began = time.perf_counter()
    points = catalogue()
    counts = []
    with stage("points", len(points), unit="point") as told:
        for point in points:
            counts.append(_counted(point))
            told.advance()
    leaving = [point for point in points if not point.is_lowest()]
    runs = {
        distance: escapes(leaving, distance=distance, limit=options.limit, seed=options.seed, trials=TRIALS)
        for distance in DISTANCES
    }
    for distance, found in runs.items():
        _print_escapes(found, distance)
    folder = Path(options.folder)
    clauses = _clauses(folder, options.seed)
    path = _path(folder)
    _surfaces(folder, options.seed)
    seconds = time.perf_counter() - began
    print(f"figures: {folder}; {seconds:.0f} s")
    write_result(
        options,
        {
            "counts": counts,
            "escapes": [asdict(run) for found in runs.values() for run in found],
            "clauses": clauses,
            "exit_path": path,
            "seconds": seconds,
        },
    )


def _counted(point: CriticalPoint) -> dict[str, Any]:
    """Known and computed counts of one point, printed as a row."""
    hessian = point.hessian()
    values = exact_eigenvalues(hessian)
    computed = three_counts(values, ZERO)
    gradient = float(hessian.problem.gradient().norm())
    agrees = "agree" if computed == point.counts else "DIFFER"
    print(f"{point.name:<34} {point.kind:<34} {point.counts!s:<12} {agrees}  gradient {gradient:.0e}")
    return {"point": point.name, "kind": point.kind, "known": point.counts, "computed": computed, "gradient": gradient}


def _print_escapes(found: Sequence[Escape], distance: float) -> None:
    print(
        f"\nsteps to leave, from distance {distance:g}; where anything is random, median (and range) of {TRIALS} runs"
    )
    print("- : not within the steps allowed; = : ended or stood still by itself")
    print(f"{'':<34}{'allowed':>8}" + "".join(f"{name:>22}" for name in METHODS))
    for (name, allowed), cells in by_point(found).items():
        print(f"{name:<34}{allowed:>8}" + "".join(f"{text:>22}" for text in cells))


def _clauses(folder: Path, seed: int) -> dict[str, Any]:
    """Along a run of a two-layer net, and at the split unit: which clause of the strict-saddle property can hold."""
    visits = teacher_run(generator=torch.Generator().manual_seed(seed))
    names = [visit.clause(**CONSTANTS) for visit in visits]
    tally = {name: names.count(name) for name in ("gradient", "curvature", "minimum", "none")}
    middle = visit_point(split(example_net(), 0.5))
    print(f"\nstrict saddle with epsilon = gamma = alpha = 0.01, along a run of a two-layer net: {tally}")
    print(f"at the split unit, l = 0.5: gradient {middle.gradient_norm:.0e}, smallest eigenvalue {middle.smallest:.0e}")
    steps, gradients, smallest = (
        np.array([getattr(visit, field) for visit in visits], dtype=float)
        for field in ("step", "gradient_norm", "smallest")
    )
    constants = np.array([CONSTANTS[name] for name in ("epsilon", "gamma", "alpha")])
    title = "Two-layer tanh net, N = 16: below the line on the left and between those on the right no clause holds"
    plot_clauses(folder / "strict-saddle.png", steps, gradients, smallest, constants=constants, title=title)
    return {"tally": tally, "visits": [asdict(visit) for visit in visits], "split": asdict(middle)}


def _path(folder: Path) -> dict[str, Any]:
    path = exit_path(example_net())
    first, last = float(path.losses[0]), float(path.losses[-1])
    rise = float(np.diff(path.losses).max())
    print(f"path out of the split unit's minimum: loss {first:.4f} to {last:.4f}, largest rise {rise:.0e}")
    title = "Out of a degenerate local minimum without rising: along l, then down"
    plot_exit_path(folder / "exit-path.png", path.shares, path.losses, title=title)
    return {"shares": path.shares, "losses": path.losses, "largest_rise": rise}


def _surfaces(folder: Path, seed: int) -> None:
    panels = []
    for name, (start, *ranges) in STARTS.items():
        x, y = (np.linspace(low, high, 121) for low, high in ranges)
        grid = torch.from_numpy(np.stack(np.meshgrid(x, y), axis=-1))
        corner = torch.tensor(ranges, dtype=torch.float64)

        def outside(p: torch.Tensor, corner: torch.Tensor = corner) -> bool:
            return bool(((p < corner[:, 0]) | (p > corner[:, 1])).any())

        paths = {
            method: trajectory(SURFACES[name], start, method, steps=1500, seed=seed, stop=outside).numpy()
            for method in DRAWN
        }
        panels.append(SurfacePanel(name, x, y, SURFACES[name](grid).numpy(), paths))
    plot_surfaces(folder / "surfaces.png", panels)
