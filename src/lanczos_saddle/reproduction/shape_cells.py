"""What is counted of one network for the study of shapes: cells of the store.

certified   intervals for the Hessian, its Gauss-Newton part, its residual part, or one layer's block
anatomy     the same exactly, all parts at once, and the layers in which the negative eigenvectors live
level       the Hessian exactly, where the training loss first fell to a level that all networks reach
residual    the residual part of a network with one hidden layer, exactly, in closed form at any width

Thresholds are RELATIVE to the largest |eigenvalue| of the Hessian at hand, or ABSOLUTE, the same for all networks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import eigh
from torch import Tensor

from lanczos_saddle.blank_inputs import without_blank_inputs
from lanczos_saddle.counting import count_eigenvalues, recount
from lanczos_saddle.counts import Counts
from lanczos_saddle.exact import assemble, exact_eigenvalues, three_counts
from lanczos_saddle.extremes import largest_magnitude
from lanczos_saddle.gauss_newton import GaussNewton
from lanczos_saddle.hessian import Hessian
from lanczos_saddle.operator import FromFunction, Operator
from lanczos_saddle.paper import datasets
from lanczos_saddle.paper.objectives import loss_for
from lanczos_saddle.paper.training import train
from lanczos_saddle.reproduction.experiments import Experiment, curvature_of, untrained
from lanczos_saddle.reproduction.store import Store

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
    cell = {**asdict(experiment), **asdict(plan), "matrix": matrix}
    return store.fill("certified-shape", cell, lambda: _certified(store, experiment, plan, matrix, progress))


def anatomy(store: Store, experiment: Experiment, *, parts: bool, progress: bool = False) -> Any:
    """Exact counts of H; with `parts` also of G, of R = H - G and of the layers' blocks, and the eigenvectors' mass."""
    cell = {**asdict(experiment), "parts": parts}
    return store.fill("anatomy", cell, lambda: _anatomy(store, experiment, parts, progress))


def level(store: Store, experiment: Experiment, loss: float, *, progress: bool = False) -> Any:
    """Exact counts of H after the first epoch that ended at or below a training loss; {"epochs": None} if none did.

    The run is that of the experiment, which must have been trained, repeated from its seed up to there.
    """
    cell = {**asdict(experiment), "loss": loss}
    return store.fill("level", cell, lambda: _level(store, experiment, loss, progress))


def residual(store: Store, experiment: Experiment, scale: float, *, progress: bool = False) -> Any:
    """Exact counts of R for one hidden layer of ReLU units; thresholds relative to `scale`, the Hessian's."""
    cell = {**asdict(experiment), "scale": scale}
    return store.fill("residual", cell, lambda: _residual(store, experiment, scale, progress))


def thresholds(scale: float) -> dict[str, float]:
    """Name -> tau: "1e-03" for RELATIVE ones, "tau 5e-04" for ABSOLUTE ones."""
    relative = {f"{r:.0e}": r * scale for r in RELATIVE}
    return relative | {f"tau {t:.0e}": t for t in ABSOLUTE}


def layer_names(experiment: Experiment) -> list[str]:
    """The names of the Linear modules, as in "0.weight"."""
    return [str(2 * i) for i in range(len(experiment.sizes) - 1)]


def _certified(store: Store, experiment: Experiment, plan: Plan, matrix: str, progress: bool) -> dict[str, Any]:
    model = store.model(experiment, progress=progress)
    dtype = getattr(torch, plan.dtype)
    hessian = _without_blank(curvature_of(Hessian, experiment, model, dtype=dtype))
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
        precision=1e-9,  # all the steps
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
    found = [[c.lower, c.estimate, c.upper] for c in (at.negative, at.near_zero, at.positive)]
    found[1] = [c + outside for c in found[1]]
    return found


def _without_blank(curvature: Any) -> Any:
    reduced = without_blank_inputs(curvature)
    return curvature if reduced is None else reduced[0]


def _same(hessian: Hessian, kind: Any, **options: Any) -> Any:
    """Another curvature of the same problem, at the same parameters."""
    problem = hessian.problem
    batch = problem.data.resident
    assert batch is not None
    found = kind(problem.model, problem.loss, (batch.inputs, batch.targets), dtype=problem.dtype, **options)
    found.problem.theta = torch.cat([problem.theta[problem.ranges[name]] for name in found.problem.names])
    for name in found.problem.frozen:
        values = problem.theta[problem.ranges[name]]
        found.problem.frozen[name] = values.reshape(found.problem.frozen[name].shape)
    return found


def _layer(hessian: Hessian, name: str) -> Operator:
    operator: Operator = _same(hessian, Hessian, parameters=f"{name}.*")
    return operator


def _gauss_newton(hessian: Hessian) -> Operator:
    operator: Operator = _same(hessian, GaussNewton)
    return operator


def _residual_operator(hessian: Hessian) -> Operator:
    """H - G, by two products."""
    part = _gauss_newton(hessian)
    return FromFunction(lambda v: hessian @ v - part @ v, hessian.shape[0], hessian.dtype, hessian.device)


MATRICES: dict[str, Callable[[Hessian], Operator]] = {
    "hessian": lambda hessian: hessian,
    "gauss-newton": _gauss_newton,
    "residual": _residual_operator,
}


def _anatomy(store: Store, experiment: Experiment, parts: bool, progress: bool) -> dict[str, Any]:
    hessian = _without_blank(curvature_of(Hessian, experiment, store.model(experiment, progress=progress)))
    matrix = assemble(hessian, progress=progress).matrix
    result = _exactly(matrix, experiment.size)
    scale, blank = result["scale"], result["blank"]
    if not parts:
        return result
    positive = assemble(_gauss_newton(hessian)).matrix
    result["gauss-newton"] = _counts(exact_eigenvalues(positive).numpy(), scale, blank)
    other = matrix - positive
    del positive
    residual_values = exact_eigenvalues(other, overwrite=True).numpy()
    result["residual"] = _counts(residual_values, scale, blank)
    result["residual extremes"] = [float(residual_values[0]), float(residual_values[-1])]
    ranges = layers(hessian)
    result["layers"] = {}
    for name, (start, stop) in ranges.items():
        block = matrix[start:stop, start:stop].clone()
        missing = blank if start == 0 else 0
        values = exact_eigenvalues(block, overwrite=True).numpy()
        result["layers"][name] = {
            "size": stop - start + missing,
            "blank": missing,
            "largest": float(values[-1]),
            "smallest": float(values[0]),
            "counts": _counts(values, scale, missing),
        }
    result["mass"] = {
        name: _masses(matrix, -tau, ranges) for name, tau in thresholds(scale).items() if name in ("1e-03", "1e-04")
    }
    return result


def layers(hessian: Hessian) -> dict[str, tuple[int, int]]:
    """Layer -> (start, stop) of its parameters in theta."""
    found: dict[str, tuple[int, int]] = {}
    for name in hessian.problem.names:
        layer, part = name.partition(".")[0], hessian.problem.ranges[name]
        found[layer] = (found.get(layer, (part.start, 0))[0], part.stop)
    return found


def _exactly(matrix: Tensor, size: int) -> dict[str, Any]:
    """Counts of a Hessian that blank inputs have left; rows that are zero leave before the dense solve."""
    alive = (matrix != 0).any(1).nonzero().squeeze(1)
    values = exact_eigenvalues(matrix[alive][:, alive], overwrite=True).numpy()
    scale, dead = float(np.abs(values).max()), size - len(values)
    return {
        "size": size,
        "dead": dead,
        "blank": size - len(matrix),
        "scale": scale,
        "hessian": _counts(values, scale, dead),
        "smallest": float(values[0]),
    }


def _level(store: Store, experiment: Experiment, loss: float, progress: bool) -> dict[str, Any]:
    losses = store.trained(experiment)["losses"]
    epochs = next((i for i, found in enumerate(losses, start=1) if found <= loss), None)
    if epochs is None:
        return {"epochs": None}
    model, generator = untrained(experiment)
    settings = replace(experiment.settings(), epochs_min=1, epochs_max=epochs, tolerance=0.0)
    dataset = datasets.load(experiment.dataset)
    result = train(model, dataset, generator=generator, settings=settings, progress=progress)
    matrix = assemble(_without_blank(curvature_of(Hessian, experiment, model)), progress=progress).matrix
    training = {"epochs": epochs, "loss": result.loss, "test_accuracy": result.test_accuracy}
    return training | _exactly(matrix, experiment.size)


def _masses(matrix: Tensor, t: float, ranges: dict[str, tuple[int, int]]) -> dict[str, float]:
    """Share of each layer in the squared entries of all unit eigenvectors below t."""
    _, vectors = eigh(matrix.numpy(), subset_by_value=(-np.inf, t), driver="evr")
    total = float((vectors**2).sum()) or 1.0
    return {name: float((vectors[start:stop] ** 2).sum()) / total for name, (start, stop) in ranges.items()}


def _residual(store: Store, experiment: Experiment, scale: float, progress: bool) -> dict[str, Any]:
    singular = residual_singular_values(experiment, store.model(experiment, progress=progress)).numpy()
    values = np.concatenate([-singular, singular])
    return {
        "size": experiment.size,
        "largest": float(singular.max()),
        "counts": _counts(values, scale, experiment.size - len(values)),
    }


def residual_singular_values(experiment: Experiment, model: torch.nn.Module) -> Tensor:
    """All singular values of the blocks B_j of R, (h * min(d + 1, C),): the eigenvalues of R are +- these, and zeros.

    For one hidden layer of ReLU units and a loss s(z) of the outputs z = V relu(W x + b) + c, R pairs what enters unit
    j with what leaves it, and nothing else:

        B_j = (1/n) sum over samples that fire j of [x; 1] (ds/dz)'          (d + 1, C)
    """
    dataset = datasets.load(experiment.dataset)
    first, last = list(model.double().children())[::2]
    x = dataset.x_train.double()
    inputs = torch.cat([x, x.new_ones(len(x), 1)], dim=1)
    with torch.no_grad():
        before = first(x)
        outputs = last(torch.relu(before))
    slope = torch.func.grad(lambda z: loss_for(experiment.objective)(z, dataset.y_train))(outputs)
    found = []
    for fires in torch.split((before > 0).to(x).mT, 50):  # units
        pairs = fires.mT[:, :, None] * slope[:, None, :]  # (n, units, C)
        blocks = (inputs.mT @ pairs.flatten(1)).unflatten(1, pairs.shape[1:]).transpose(0, 1)
        found.append(torch.linalg.svdvals(blocks).flatten())
    return torch.cat(found)


def _counts(values: NDArray[np.float64], scale: float, zeros: int) -> dict[str, list[int]]:
    """Name of the threshold -> [negative, near zero, positive]."""
    found = {}
    for name, tau in thresholds(scale).items():
        negative, near_zero, positive = three_counts(values, tau)
        found[name] = [negative, near_zero + zeros, positive]
    return found
