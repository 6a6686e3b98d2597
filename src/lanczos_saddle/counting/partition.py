"""H = [[A, B], [B', D]]: A >= 0, the block of one layer, by its products; B and D as numbers."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lanczos_saddle.machine.progress import made, stage
from lanczos_saddle.operators.knowledge import ConvexBlock
from lanczos_saddle.operators.operator import Operator, Restricted, unit_products
from lanczos_saddle.operators.resolution import OperatorCheck, recurrence_noise

GROUP = 64  # unit vectors multiplied at a time
VECTORS, POWER_STEPS = 4, 3  # Gaussian ones, and as many that three products have made rich in large eigenvalues
COMPARISON = VECTORS * (2 + POWER_STEPS + 2)  # products


@dataclass(frozen=True)
class Partition:
    """A (n, n) as an operator, B (n, s) and D (s, s) computed, and how wrong a product may be."""

    block: Operator
    coupling: Tensor
    corner: Tensor  # symmetric
    error: float  # of a product of H or A with a unit vector, in the 2-norm
    products: int


def partition(operator: Operator, block: ConvexBlock, fast: Operator | None, check: OperatorCheck) -> Partition:
    """The parts of a float64 matrix: s + 28 products.

    A is multiplied by `fast`, its cheaper products, where there are such, after these were compared with those of H:
    what they differ by counts as noise.
    """
    corner, coupling = _columns(operator, block)
    rows: Operator = Restricted(operator, block.index)
    s = len(block.rest)
    if fast is None:
        return Partition(rows, coupling, corner, recurrence_noise(check, 1), s)
    difference = _difference(rows, fast)
    if not difference <= torch.finfo(torch.float64).eps ** 0.5 * check.scale:  # no rounding: trust autograd
        return Partition(rows, coupling, corner, recurrence_noise(check, 1), s + COMPARISON)
    noisy = replace(check, noise=max(check.noise, difference))
    return Partition(fast, coupling, corner, recurrence_noise(noisy, 1), s + COMPARISON)


def _columns(operator: Operator, block: ConvexBlock) -> tuple[Tensor, Tensor]:
    """D (s, s), symmetrized, and B (n, s): the columns of H outside the block, by s products."""
    n, s = len(block.index), len(block.rest)
    coupling = torch.empty(n, s, dtype=operator.dtype, device=operator.device)
    corner = torch.empty(s, s, dtype=operator.dtype, device=operator.device)
    start = 0
    with stage("columns of the rest", s):
        for part, columns in unit_products(operator, block.rest, GROUP):
            place = slice(start, start + len(part))
            coupling[:, place], corner[:, place] = columns[block.index], columns[block.rest]
            start = place.stop
            made(len(part))
    return (corner + corner.mT) / 2, coupling


def _difference(one: Operator, other: Operator) -> float:
    """The largest |one v - other v| over eight unit vectors, four Gaussian, four rich in dominant eigenvectors."""
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(one.shape[0], VECTORS, generator=generator, dtype=torch.float64).to(one.device)
    rich = vectors
    for _ in range(POWER_STEPS):
        rich = _unit(other @ rich)
    both = torch.cat([_unit(vectors), rich], dim=1)
    return float(torch.linalg.vector_norm(one @ both - other @ both, dim=0).max())


def _unit(columns: Tensor) -> Tensor:
    norms = torch.linalg.vector_norm(columns, dim=0)
    return columns / torch.where(norms > 0, norms, 1.0)
