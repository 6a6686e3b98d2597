"""What is counted of one trained network; each is one cell of the store.

structure    dead coordinates, and what the architecture says before anything is counted
exact        float64, all eigenvalues: counts at every threshold, and the signs at 0
convention   the paper's way of counting (`convention`)
certified    intervals from products alone
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lanczos_saddle.dense.exact import assemble
from lanczos_saddle.networks.hessian import Hessian
from lanczos_saddle.structure.blank_inputs import without_blank_inputs
from lanczos_saddle.structure.facts import dead_coordinates, negative_bound
from lanczos_saddle.structure.null_vectors import rescaling
from lanczos_saddle.studies.paper.convention import convention, signs
from lanczos_saddle.studies.paper.experiments import Experiment, hessian_of
from lanczos_saddle.studies.paper.spectra import (
    certified_run,
    exact_counts,
    living_eigenvalues,
    relative,
    save_spectrum,
)
from lanczos_saddle.studies.paper.store import Store

THRESHOLDS = (1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8, 1e-10, 1e-12, 1e-14)
"""tau as fractions of the largest |eigenvalue|."""

CERTIFIED = (1e-2, 1e-3, 1e-4, 1e-5)
PROBES, STEPS = 4, 200


@dataclass(frozen=True)
class Subject:
    """A trained network, to be counted on the store's device."""

    store: Store
    experiment: Experiment
    model: nn.Module
    progress: bool

    def hessian(self, dtype: torch.dtype = torch.float64) -> Hessian:
        """Of the mean training objective."""
        return hessian_of(self.experiment, self.model, dtype=dtype, device=self.store.device)


def measure(store: Store, kind: str, experiment: Experiment, *, progress: bool = False) -> dict[str, Any]:
    """The result of one cell, found in the store or computed; training, where it is missing, included.

    Raises ValueError as training and counting do, and `KeyError` for a kind that is not one of MEASURES.
    """
    compute = MEASURES[kind]

    def run() -> dict[str, Any]:
        model = store.model(experiment, progress=progress)
        return compute(Subject(store, experiment, model, progress))

    found: dict[str, Any] = store.fill(kind, parameters_of(kind, experiment), run)
    return found


def parameters_of(kind: str, experiment: Experiment) -> dict[str, Any]:
    """What names a cell: the experiment, and the options that decide its result."""
    return {**experiment.parameters(), **OPTIONS.get(kind, {})}


def structure(subject: Subject) -> dict[str, Any]:
    """Dead coordinates from two products, split by cause; known null vectors; the bound on the negative eigenvalues."""
    hessian, experiment = subject.hessian(), subject.experiment
    mask = dead_coordinates(hessian).cpu()
    dead = int(mask.sum())
    reduced = without_blank_inputs(hessian)
    blank = 0 if reduced is None else experiment.size - int(reduced[1].sum())
    bound, quotients = negative_bound(hessian.problem), rescaling(hessian.problem)
    return {
        "size": experiment.size,
        "dead": dead,
        "blank": blank,  # weights of inputs that are zero in all the data
        "silent": dead - blank,  # of units that never fire, or never together
        "negative_bound": None if bound is None else bound[0],
        "reason": None if bound is None else bound[1],
        "shifts": 0 if experiment.objective == "reconstruction" else living_shifts(mask, experiment.sizes),
        # |H d| / |d| of the rescaling of each ReLU unit: null where the gradient vanishes
        "rescaling": None if quotients is None else [float(quotients.min()), float(quotients.max())],
    }


def living_shifts(dead: Tensor, sizes: Sequence[int]) -> int:
    """Of the shifts of all logits, which softmax does not see, those that are not rows of zeros themselves.

    One vector added to all rows of the last layer: one shift for each of its inputs, one for the biases. That of an
    input that is never active lies on dead coordinates alone.
    """
    inputs, classes = sizes[-2:]
    last = dead[-(inputs + 1) * classes :]
    weights, biases = last[: inputs * classes].view(classes, inputs), last[inputs * classes :]
    return int((~weights).any(0).sum()) + int((~biases).any())


def exact(subject: Subject) -> dict[str, Any]:
    """Counts at all thresholds; inputs that are blank in all the data leave before the dense solve."""
    hessian = subject.hessian()
    reduced = without_blank_inputs(hessian)
    living = hessian if reduced is None else reduced[0]
    dense = assemble(living, progress=subject.progress)
    values = living_eigenvalues(dense.matrix, overwrite=True)
    zeros = hessian.shape[0] - len(values)  # rows of H that are exactly zero
    save_spectrum(subject.store.spectrum(subject.experiment, "exact"), values, zeros)
    scale = float(np.abs(values).max())
    return {
        "size": hessian.shape[0],
        "smallest": float(values[0]),
        "largest": float(values[-1]),
        "zero_rows": zeros,
        "counts": exact_counts(values, zeros, relative(THRESHOLDS, scale)),
        "signs": asdict(signs(values, zeros)),  # at 0: below about 1e-11 of the largest, N eps, these are rounding
        "products": dense.products,
        "error": dense.error,
    }


def paper_convention(subject: Subject) -> dict[str, Any]:
    """Signs as the paper's code gives them, from the float32 Hessian."""
    return asdict(convention(subject.hessian(torch.float32)))


def float32_signs(subject: Subject) -> dict[str, Any]:
    """The same by inertia alone: minutes where the general solvers take hours."""
    return asdict(convention(subject.hessian(torch.float32), general=False))


def certified(subject: Subject) -> dict[str, Any]:
    """Intervals at every threshold of CERTIFIED, each joint over its three counts; one run."""
    counts, scale, found = certified_run(
        subject.hessian(),
        CERTIFIED,
        probes=PROBES,
        steps=STEPS,
        seed=subject.experiment.trial,
        progress=subject.progress,
    )
    return {
        "size": counts.size,
        "dead": counts.dead,
        "scale": scale,
        "intervals": found,
        "confidence": counts.confidence,
        "products": counts.products,
        "probes": counts.probes,
        "steps": counts.steps,
        "noise": counts.noise,
    }


MEASURES: dict[str, Callable[[Subject], dict[str, Any]]] = {
    "structure": structure,
    "exact": exact,
    "convention": paper_convention,
    "float32 signs": float32_signs,
    "certified": certified,
}

OPTIONS: dict[str, dict[str, Any]] = {"certified": {"probes": PROBES, "steps": STEPS}}
"""Options that decide a result; they name its cell."""
