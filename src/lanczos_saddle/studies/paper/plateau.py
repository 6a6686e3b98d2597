"""Fig. 1: a function with a plateau, and where the training methods stop that start beyond it.

The paper prints no formula: minimum at the origin, flat for w in (2, 3), gradient descent started above (4, 2) stops on
the plateau. The function is `landscapes.surfaces.plateau`, the methods are those of `landscapes.escapes`, on exact
gradients, one step size for all.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from lanczos_saddle.dense.exact import exact_eigenvalues, three_counts
from lanczos_saddle.reports.markdown import table
from lanczos_saddle.reports.plots import SurfacePanel
from lanczos_saddle.studies.landscapes.escapes import METHODS, STEP, trajectory
from lanczos_saddle.studies.landscapes.surfaces import plateau
from lanczos_saddle.studies.paper.paper_plots import plot_plateau
from lanczos_saddle.studies.paper.store import Store

START = (4.0, 2.0)
FLAT = (2.0, 2.25, 2.5, 2.75, 3.0)
STEPS, SMALL_STEPS = 10_000, 200
KEPT = 200  # points of a path, evenly spaced in the logarithm of the step
STOPPED = 1e-3
"""A gradient norm below which nothing is left to follow: the plateau's edge at x = 3 is approached as 1 / step."""


@dataclass(frozen=True)
class Findings:
    """Points of the plateau, and where each method goes."""

    flat: list[dict[str, Any]]
    runs: dict[str, Any]  # method -> cell
    steps: int  # at most


def run(store: Store, folder: Path, *, small: bool = False, progress: bool = False) -> str:
    """Fill the cells, draw the figure, return both as Markdown."""
    found = compute(store, small=small, progress=progress)
    draw(found, folder)
    return f"{summary(found)}\n\n![Where methods stop](figures/paper-fig1.png)"


def compute(store: Store, *, small: bool = False, progress: bool = False) -> Findings:  # noqa: ARG001
    """The cells of the figure, found or computed."""
    steps = SMALL_STEPS if small else STEPS
    flat = store.fill("plateau-counts", {"y": 0.0, "x": FLAT}, lambda: [_counts(x) for x in FLAT])
    return Findings(flat, {method: _descent(store, method, steps) for method in METHODS}, steps)


def summary(found: Findings) -> str:
    """Where every method ends, and the eigenvalues on the plateau."""
    rows = []
    for method, run in found.runs.items():
        x, y = run["end"]
        low, high = run["eigenvalues"]
        ends = f"{x:.4f}, {y:.1e}", f"{run['value']:.6f}", f"{run['gradient_norm']:.0e}", f"{low:.1e}, {high:.3g}"
        rows.append([method, f"{run['made']:,}", *ends, _place(run)])
    counts = {tuple(cell["counts"]) for cell in found.flat}
    lines = [
        f"Start (4, 2), step {STEP}, at most {found.steps:,} steps. f = 1/3 on the plateau, 0 at the minimum.",
        "",
        table("method|steps|ends at x, y|f|gradient norm|eigenvalues of the Hessian|where", rows),
        "",
        f"On the plateau, y = 0, x = {', '.join(f'{x:g}' for x in FLAT)}: negative, zero, positive eigenvalues "
        f"{' or '.join(map(str, sorted(counts)))}; "
        f"gradient norm at most {max(cell['gradient_norm'] for cell in found.flat):g}.",
    ]
    return "\n".join(lines)


def draw(found: Findings, folder: Path) -> None:
    """The picture, paper-fig1.png: the profile of the function at y = 0, and the paths over it."""
    x, y = np.linspace(-0.8, 4.5, 161), np.linspace(-1.0, 2.4, 121)
    grid = torch.from_numpy(np.stack(np.meshgrid(x, y), axis=-1))
    paths = {method: np.array(run["path"]) for method, run in found.runs.items()}
    profile = plateau(torch.from_numpy(np.stack([x, 0 * x], axis=-1))).numpy()
    heights = {method: run["value"] for method, run in found.runs.items()}
    panel = SurfacePanel("paths from (4, 2)", x, y, plateau(grid).numpy(), paths)
    plot_plateau(folder / "paper-fig1.png", panel, profile, heights, (FLAT[0], FLAT[-1]))


def _descent(store: Store, method: str, steps: int) -> dict[str, Any]:
    parameters = {"start": START, "method": method, "step": STEP, "at_most": steps, "trial": 0, **_constants(method)}

    def compute() -> dict[str, Any]:
        points = trajectory(plateau, START, method, steps=steps, seed=0)
        kept = np.unique(np.geomspace(1, len(points), KEPT).astype(int)) - 1
        return {"made": len(points) - 1, "end": points[-1], "path": points[kept], **_at(points[-1])}

    found: dict[str, Any] = store.fill("plateau", parameters, compute)
    return found


def _constants(method: str) -> dict[str, float]:
    """What names a cell beside the step: perturbed gradient descent ends by its own constants."""
    if method != "perturbed GD":
        return {}
    optimizer = METHODS[method]([nn.Parameter(torch.zeros(2))], torch.Generator())
    return {name: value for name, value in optimizer.defaults.items() if name != "lr"}


def _at(point: torch.Tensor) -> dict[str, Any]:
    """Height, gradient norm, and the two eigenvalues of the Hessian."""
    return {
        "value": float(plateau(point)),
        "gradient_norm": float(torch.func.grad(plateau)(point).norm()),
        "eigenvalues": exact_eigenvalues(torch.func.hessian(plateau)(point)),
    }


def _counts(x: float) -> dict[str, Any]:
    found = _at(torch.tensor([x, 0.0], dtype=torch.float64))
    return {**found, "x": x, "counts": three_counts(found["eigenvalues"], 0.0)}


def _place(found: dict[str, Any]) -> str:
    x, y = found["end"]
    if abs(x) < 0.1 and abs(y) < 0.1:
        return "the minimum"
    if abs(y) < 0.1 and 2 <= x <= 3:
        return "on the plateau"
    if abs(y) < 0.1 and x > 3 and found["gradient_norm"] < STOPPED:
        return "at its edge"
    return "on the way"
