"""Intervals for the study of shapes: of a Hessian, its Gauss-Newton part, its residual part, or one layer's block.

Thresholds are RELATIVE to the largest |eigenvalue| of the Hessian at hand, or ABSOLUTE, the same for all networks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from lanczos_saddle.counting.count import count_eigenvalues, recount
from lanczos_saddle.counting.result import Counts
from lanczos_saddle.krylov.largest import largest_magnitude
from lanczos_saddle.networks.gauss_newton import GaussNewton
from lanczos_saddle.networks.hessian import Hessian
from lanczos_saddle.operators.operator import FromFunction, Operator
from lanczos_saddle.structure.blank_inputs import without_blank_inputs
from lanczos_saddle.studies.paper.experiments import Experiment, hessian_of
from lanczos_saddle.studies.paper.spectra import ALL_STEPS, ends, exact_counts, relative
from lanczos_saddle.studies.paper.store import Store

RELATIVE = (1e-2, 1e-3, 1e-4)
ABSOLUTE = (5e-4, 5e-5)
"""About 1e-3 and 1e-4 of the largest eigenvalue of the paper's network, 0.53."""

SCALE_STEPS = 20
"""Products that find the largest |eigenvalue|: an outlier, which so many steps have to three digits and more."""

CONFIDENCE = 0.995
"""Of each network's three intervals; those of a dozen networks then hold together with 94 %."""


@dataclass(frozen=True)
class Plan:
    """The cost of a certified count, fixed before probes are drawn."""

    probes: int
    steps: int
    dtype: str = "float64"

    @property
    def finest(self) -> float:
        """The least relative threshold asked for: float32 products need not resolve a finer one."""
        return RELATIVE[-1] if self.dtype == "float64" else RELATIVE[0]


def certified(
    store: Store, experiment: Experiment, plan: Plan, matrix: str = "hessian", *, progress: bool = False
) -> Any:
    """Intervals (negative, near zero, positive) at all thresholds; `matrix`: a name in MATRICES, or a layer's."""
    cell = {**experiment.parameters(), **asdict(plan), "matrix": matrix}
    return store.fill("certified-shape", cell, lambda: _certified(store, experiment, plan, matrix, progress))


def counted_exactly(store: Store, experiment: Experiment) -> dict[str, list[int]] | None:
    """Exact counts of a network whose cell `measurements.exact` is there; None for others.

    At RELATIVE thresholds; at ABSOLUTE ones too where its eigenvalues are still at hand, and have become a cell.
    """
    cell = experiment.parameters()
    found = store.find("exact", cell)
    if found is None:
        return None
    path = store.spectrum(experiment, "exact")

    def count() -> dict[str, list[int]]:
        with np.load(path) as kept:
            return exact_counts(kept["eigenvalues"], int(kept["zeros"]), absolute())

    known = store.find("exact-absolute", cell) is not None or (path.is_file() and not store.finished)
    counts: dict[str, list[int]] = found["counts"]
    return counts | store.fill("exact-absolute", cell, count) if known else counts


def thresholds(scale: float) -> dict[str, float]:
    """Name -> tau: "1e-03" for RELATIVE ones, "tau 5e-04" for ABSOLUTE ones."""
    return relative(RELATIVE, scale) | absolute()


def absolute() -> dict[str, float]:
    """The ABSOLUTE ones alone."""
    return {f"tau {t:.0e}": t for t in ABSOLUTE}


def layer_names(experiment: Experiment) -> list[str]:
    """The names of the Linear modules, as in "0.weight"."""
    return [str(2 * i) for i in range(len(experiment.sizes) - 1)]


def _certified(store: Store, experiment: Experiment, plan: Plan, matrix: str, progress: bool) -> dict[str, Any]:
    model = store.model(experiment, progress=progress)
    dtype = getattr(torch, plan.dtype)
    hessian = without_blank(hessian_of(experiment, model, dtype=dtype, device=store.device))
    scale, _ = largest_magnitude(hessian, torch.Generator().manual_seed(experiment.trial), steps=SCALE_STEPS)
    operator = MATRICES[matrix](hessian) if matrix in MATRICES else _layer(hessian, matrix)
    if matrix in MATRICES:
        outside = experiment.size - operator.shape[0]  # weights of blank inputs
        size = experiment.size
    else:
        size = sum(p.numel() for name, p in model.named_parameters() if name.partition(".")[0] == matrix)
        outside = size - operator.shape[0]
    counts = count_eigenvalues(
        operator,
        threshold=plan.finest * scale,
        method="lanczos",
        probes=plan.probes,
        steps=min(plan.steps, operator.shape[0]),
        precision=ALL_STEPS,
        confidence=CONFIDENCE,
        negative_at_most=None if matrix in ("hessian", "residual") else 0,  # J'SJ >= 0: no negative eigenvalue
        generator=torch.Generator().manual_seed(1000 + experiment.trial),
        progress=progress,
    )
    return {
        "size": size,
        "dead": counts.dead + outside,
        "blank": outside,
        "scale": scale,
        "intervals": {name: _at(counts, tau, outside) for name, tau in thresholds(scale).items()},
        "confidence": counts.confidence,
        "products": counts.products,
        "noise": counts.noise,
    }


def _at(counts: Counts, tau: float, outside: int) -> list[list[float]] | None:
    """Three intervals [lower, estimate, upper]; None where the noise does not resolve tau."""
    try:
        at = recount(counts, tau)
    except ValueError:
        return None
    found = ends(at)
    found[1] = [c + outside for c in found[1]]
    return found


def without_blank(curvature: Any) -> Any:
    """The same matrix without the weights of inputs that are blank in all the data."""
    reduced = without_blank_inputs(curvature)
    return curvature if reduced is None else reduced[0]


def _same(hessian: Hessian, kind: Any, **options: Any) -> Any:
    """Another curvature of the same problem, at the same parameters."""
    problem = hessian.problem
    batch = problem.data.resident
    assert batch is not None
    options |= {"dtype": problem.dtype, "device": hessian.device}
    found = kind(problem.model, problem.loss, (batch.inputs, batch.targets), **options)
    found.problem.theta = torch.cat([problem.theta[problem.ranges[name]] for name in found.problem.names])
    for name in found.problem.frozen:
        values = problem.theta[problem.ranges[name]]
        found.problem.frozen[name] = values.reshape(found.problem.frozen[name].shape)
    return found


def _layer(hessian: Hessian, name: str) -> Operator:
    operator: Operator = _same(hessian, Hessian, parameters=f"{name}.*")
    return operator


def gauss_newton(hessian: Hessian) -> Operator:
    """G of the same problem."""
    operator: Operator = _same(hessian, GaussNewton)
    return operator


def _residual_operator(hessian: Hessian) -> Operator:
    """H - G, by two products."""
    part = gauss_newton(hessian)
    return FromFunction(lambda v: hessian @ v - part @ v, hessian.shape[0], hessian.dtype, hessian.device)


MATRICES: dict[str, Callable[[Hessian], Operator]] = {
    "hessian": lambda hessian: hessian,
    "gauss-newton": gauss_newton,
    "residual": _residual_operator,
}
