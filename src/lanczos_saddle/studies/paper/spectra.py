"""Counts of one matrix, exact and certified, in the form that all cells keep them.

exact       name of a threshold -> [negative, near zero, positive]
certified   name of a threshold -> [[lower, estimate, upper] of each of the three]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lanczos_saddle.counting.count import count_eigenvalues, recount
from lanczos_saddle.counting.result import Counts
from lanczos_saddle.dense.exact import exact_eigenvalues, three_counts
from lanczos_saddle.machine.files import replacing
from lanczos_saddle.operators.operator import Operator

Array = NDArray[np.float64]

CONFIDENCE = 0.95
ALL_STEPS = 1e-9
"""A precision that no interval reaches: a run then makes all the steps that it was given."""


def living_eigenvalues(matrix: Tensor, *, overwrite: bool = False) -> Array:
    """All eigenvalues (n,) of the n rows that are not exactly zero, ascending; those rows leave before the solve.

    `overwrite` permits to work in the memory of the matrix.
    """
    alive = (matrix != 0).any(1)
    whole = bool(alive.all())
    living = matrix if whole else matrix[alive][:, alive]
    values: Array = exact_eigenvalues(living, overwrite=overwrite or not whole).numpy()
    return values


def relative(fractions: Sequence[float], scale: float = 1.0) -> dict[str, float]:
    """Names of thresholds -> tau = fraction * scale."""
    return {f"{fraction:.0e}": fraction * scale for fraction in fractions}


def exact_counts(values: Array, zeros: int, thresholds: Mapping[str, float]) -> dict[str, list[int]]:
    """Counts of eigenvalues (n,) and of `zeros` more that are 0."""
    found = {}
    for name, tau in thresholds.items():
        negative, near_zero, positive = three_counts(values, tau)
        found[name] = [negative, near_zero + zeros, positive]
    return found


def save_spectrum(path: Path, values: Array, zeros: int) -> None:
    """Eigenvalues, and how many more are exactly 0, as .npz."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, eigenvalues=values, zeros=zeros)


def certified_run(
    operator: Operator, fractions: Sequence[float], *, probes: int, steps: int, seed: int, progress: bool = False
) -> tuple[Counts, float, dict[str, list[list[float]]]]:
    """(the counts at the last fraction, the largest |eigenvalue|, intervals at all fractions of it): one run."""
    counts = count_eigenvalues(
        operator,
        relative_threshold=fractions[-1],
        method="lanczos",
        probes=probes,
        steps=min(steps, operator.shape[0]),
        precision=ALL_STEPS,
        confidence=CONFIDENCE,
        generator=torch.Generator().manual_seed(seed),
        progress=progress,
    )
    scale = counts.threshold / fractions[-1]
    return counts, scale, {name: ends(recount(counts, tau)) for name, tau in relative(fractions, scale).items()}


def ends(counts: Counts) -> list[list[float]]:
    """[lower, estimate, upper] of the negative, near-zero and positive eigenvalues."""
    return [[c.lower, c.estimate, c.upper] for c in (counts.negative, counts.near_zero, counts.positive)]
