"""Eigenpairs at the ends of the spectrum, each with what one explicit product proves of it.

    some eigenvalue lies within |Hv - q v| of q,  q = v'Hv,  for every unit vector v
    for orthonormal V (N, k) and R = HV - V diag(q), k eigenvalues, with multiplicity, within |R|_2 of q_1..q_k

(Kahan 1967; Parlett, The Symmetric Eigenvalue Problem, section 11.5.) How V was found, by block Lanczos, proves nothing
and needs no proof; that no eigenvalue further out was missed is not claimed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from lanczos_saddle.classification.directions import Direction, certified_direction
from lanczos_saddle.defaults import STEPS
from lanczos_saddle.krylov.block_lanczos import Subspace
from lanczos_saddle.krylov.preflight import check_operator
from lanczos_saddle.machine.memory import require_bytes
from lanczos_saddle.machine.progress import stage
from lanczos_saddle.machine.streams import Streams, check_generator
from lanczos_saddle.operators.hermitian import require_real
from lanczos_saddle.operators.inference import differentiable
from lanczos_saddle.operators.leading import led
from lanczos_saddle.operators.operator import as_operator, precise
from lanczos_saddle.operators.scalars import real, whole

WHICH = ("largest", "smallest", "both", "magnitude")

GROWTH = 1.3
"""Looks at the Ritz vectors are this far apart, as they cost a product each."""

WIDEST = 16
"""Columns of a block at most: wide enough for eigenvalues that are there several times."""


@dataclass(frozen=True)
class Eigenpairs:
    """[value - radius, value + radius] holds an eigenvalue, for each; `together` is of all of them at once."""

    values: Tensor  # (k,) float64, on the CPU: v'Hv; ascending, or by magnitude where that was asked for
    vectors: Tensor  # (N, k) float64, orthonormal up to rounding, on the operator's device
    residuals: Tensor  # (k,) |Hv - value v|, by explicit products
    errors: Tensor  # (k,) what noise of the product and rounding can do to value and residual
    together: float  # k different eigenvalues, with multiplicity, lie within this of the values, one each
    products: int  # H @ v, everything included

    @property
    def radii(self) -> Tensor:
        """(k,) residual + error."""
        return self.residuals + self.errors


@led
@differentiable
def eigenpairs(
    operator: Any,
    k: int = 1,
    which: Literal["largest", "smallest", "both", "magnitude"] = "largest",
    *,
    tolerance: float = 1e-8,
    max_products: int | None = None,
    generator: torch.Generator | None = None,
) -> Eigenpairs:
    """The k eigenpairs at an end of the spectrum, or k at both ends, or the k of largest |value|.

    Block Lanczos with the whole basis kept, until every residual is below `tolerance` times the largest |value|, or
    until `max_products` (400 for each pair, if not given; at most N vectors) are made: residuals say how far it
    came. Memory: as many vectors as products. Another look for the vectors costs k products.

    Raises ValueError for bad arguments, for k beyond N, for memory that cannot suffice, and for an operator that fails
    `check_operator` or is complex.
    """
    base, k = as_operator(operator), whole("k", k)
    require_real(base, "eigenpairs")
    check_generator(generator)
    size, tolerance = base.shape[0], real("tolerance", tolerance)
    if which not in WHICH:
        raise ValueError(f"which must be one of {', '.join(WHICH)}; got {which!r}")
    wanted = 2 * k if which == "both" else k
    if not 1 <= wanted <= size:
        raise ValueError(f"k must be between 1 and N = {size}, both ends together; got {k}")
    if not 0 <= tolerance < math.inf:
        raise ValueError(f"tolerance is a share of the largest |eigenvalue|, at least 0; got {tolerance}: say 1e-8")
    most = STEPS * wanted if max_products is None else whole("max_products", max_products)
    if most < 1:
        raise ValueError(f"max_products must be at least 1; got {most}: some tens for each pair")
    block = min(max(2, wanted), WIDEST, size)
    columns = min(size, max(most, wanted + block))
    require_bytes(8 * size * (columns + 4 * block), base.device, f"a basis of {columns} vectors", "pass max_products")
    streams = Streams(generator).split("check", "start")
    check = check_operator(base, generator=streams["check"])
    space, spent = Subspace(base, columns, block, streams["start"]), check.products
    look, vectors = min(size, max(2 * wanted, 20)), None
    with stage("eigenvectors", columns, bound="at most"):
        while not space.full and not space.complete and not space.failed:
            space.advance()
            if space.filled >= look or space.full or space.complete:
                vectors, settled = _looked(space, base, which, k, tolerance)
                spent, look = spent + vectors.shape[1], int(GROWTH * space.filled)
                if settled:
                    break
    if vectors is None:
        raise ValueError(f"every product H @ v must be finite; product {space.failed} was not: look at the weights")
    found = [certified_direction(precise(base), vector, check) for vector in vectors.unbind(1)]
    return _pairs(found, spent + space.products + len(found))


def _looked(space: Subspace, base: Any, which: str, k: int, tolerance: float) -> tuple[Tensor, bool]:
    """(the Ritz vectors that are asked for, (N, wanted) in float64, and whether their residuals are small enough)."""
    values, rotation = space.ritz()
    order = torch.arange(len(values), device=values.device)
    if which == "magnitude":
        chosen = values.abs().argsort(descending=True)[:k]
    else:
        ends = {"largest": order[-k:], "smallest": order[:k], "both": torch.cat([order[:k], order[-k:]])}
        chosen = ends[which]
    vectors = space.combined(rotation[:, chosen]).to(torch.float64)
    image = (base @ vectors.to(base.dtype)).detach().to(torch.float64)
    residuals = torch.linalg.vector_norm(image - vectors * values[chosen].to(vectors), dim=0)
    return vectors, bool((residuals <= tolerance * values.abs().max()).all())


def _pairs(found: list[Direction], products: int) -> Eigenpairs:
    """All of them, and the radius that they have together: |R|_F, with what V lacks of being orthonormal."""
    values, residuals, errors = (
        torch.tensor([getattr(one, name) for one in found], dtype=torch.float64)
        for name in ("quotient", "residual", "error")
    )
    vectors = torch.stack([one.vector for one in found], dim=1)
    defect = float(torch.linalg.matrix_norm(vectors.mT @ vectors - torch.eye(len(found)).to(vectors)))
    # V G^(-1/2), G = V'V, is orthonormal, with the residual R G^(-1/2) + V [diag q, G^(-1/2)]
    moved = 2 * defect * (1 + defect) * float(values.abs().max())
    together = float(torch.linalg.vector_norm(residuals + errors)) * (1 + defect) + moved
    return Eigenpairs(values, vectors, residuals, errors, together, products)
