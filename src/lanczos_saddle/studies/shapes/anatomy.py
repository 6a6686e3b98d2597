"""Exact counts for the study of shapes, where N x N numbers fit, and one part that has a closed form at any N.

anatomy     H, G and R = H - G, each layer's block, and the layers in which the negative eigenvectors live
level       H where the training loss first fell to a level that all networks reach
residual    R of a network with one hidden layer: its eigenvalues are singular values of small blocks
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from scipy.linalg import eigh
from torch import Tensor

from lanczos_saddle.dense.exact import assemble, exact_eigenvalues
from lanczos_saddle.networks.hessian import Hessian
from lanczos_saddle.studies.paper.experiments import Experiment, hessian_of, untrained
from lanczos_saddle.studies.paper.spectra import Array, exact_counts, living_eigenvalues
from lanczos_saddle.studies.paper.store import Store
from lanczos_saddle.studies.shapes.cells import gauss_newton, thresholds, without_blank
from lanczos_saddle.training import datasets
from lanczos_saddle.training.objectives import loss_for
from lanczos_saddle.training.training import train


def anatomy(store: Store, experiment: Experiment, *, parts: bool, progress: bool = False) -> Any:
    """Exact counts of H; with `parts` also of G, of R = H - G and of the layers' blocks, and the eigenvectors' mass."""
    cell = {**experiment.parameters(), "parts": parts}
    return store.fill("anatomy", cell, lambda: _anatomy(store, experiment, parts, progress))


def level(store: Store, experiment: Experiment, loss: float, *, progress: bool = False) -> Any:
    """Exact counts of H after the first epoch that ended at or below a training loss; {"epochs": None} if none did.

    The run is that of the experiment, which must have been trained, repeated from its seed up to there.
    """
    cell = {**experiment.parameters(), "loss": loss}
    return store.fill("level", cell, lambda: _level(store, experiment, loss, progress))


def residual(store: Store, experiment: Experiment, scale: float, *, progress: bool = False) -> Any:
    """Exact counts of R for one hidden layer of ReLU units; thresholds relative to `scale`, the Hessian's."""
    cell = residual_parameters(experiment, scale)
    return store.fill("residual", cell, lambda: _residual(store, experiment, scale, progress))


def residual_parameters(experiment: Experiment, scale: float) -> dict[str, Any]:
    """What names the cell of `residual`."""
    return {**experiment.parameters(), "scale": scale}


def _anatomy(store: Store, experiment: Experiment, parts: bool, progress: bool) -> dict[str, Any]:
    model = store.model(experiment, progress=progress)
    hessian = without_blank(hessian_of(experiment, model, device=store.device))
    matrix = assemble(hessian, progress=progress).matrix
    result = _exactly(matrix, experiment.size)
    scale, blank = result["scale"], result["blank"]
    if not parts:
        return result
    positive = assemble(gauss_newton(hessian)).matrix
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
    values = living_eigenvalues(matrix)
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
    hessian = without_blank(hessian_of(experiment, model, device=store.device))
    matrix = assemble(hessian, progress=progress).matrix
    training = {"epochs": epochs, "loss": result.loss, "test_accuracy": result.test_accuracy}
    return training | _exactly(matrix, experiment.size)


def _masses(matrix: Tensor, t: float, ranges: dict[str, tuple[int, int]]) -> dict[str, float]:
    """Share of each layer in the squared entries of all unit eigenvectors below t."""
    _, vectors = eigh(matrix.cpu().numpy(), subset_by_value=(-np.inf, t), driver="evr")
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


def _counts(values: Array, scale: float, zeros: int) -> dict[str, list[int]]:
    return exact_counts(values, zeros, thresholds(scale))
