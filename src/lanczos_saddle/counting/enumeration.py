"""The most negative eigenvectors, one by one, and how many negative eigenvalues they prove.

Block Lanczos with full orthogonalization and thick restarts (Wu & Simon 2000) finds a basis U of approximate
eigenvectors below -tau; how it was found proves nothing and needs no proof. The certificate is Cauchy's: with H U from
products of its own and both matrices formed explicitly,

    #{ lambda(H) < -tau }  >=  #{ eigenvalues of U'(H + tau I)U below -error },

for ANY U, orthonormal or not (`cauchy`). No chance is involved, so this may be joined with anything else that holds.

Cost: roughly as many products as there are eigenvalues outside the cluster at zero that are as easy to reach as the
wanted ones, on both sides, since a Krylov space finds both ends. Small blocks need the fewest products (a block of b
reaches degree k / b only), large ones the fewest passes over the data. Memory: the basis, at most `columns` vectors.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lanczos_saddle.certificates.cauchy import Compression
from lanczos_saddle.krylov.basis import SLICE
from lanczos_saddle.krylov.block_lanczos import Subspace
from lanczos_saddle.machine.memory import available_bytes, require_bytes
from lanczos_saddle.machine.progress import made, stage
from lanczos_saddle.machine.streams import check_generator
from lanczos_saddle.operators.hermitian import require_real
from lanczos_saddle.operators.inference import differentiable
from lanczos_saddle.operators.leading import led
from lanczos_saddle.operators.operator import Operator, as_operator
from lanczos_saddle.operators.resolution import OperatorCheck, recurrence_noise
from lanczos_saddle.operators.scalars import maybe_whole, real, whole

BLOCK = 8
"""Columns advanced at once: a block reaches degree products / block, so small ones need fewer products."""

COLUMNS = 4096
"""Columns of the basis before a restart, where memory allows; its projected eigenproblem takes seconds."""

LOOK = 1 / 24
"""Share of the products after which the projected eigenproblem is solved again: 24 times per e-fold of columns."""

PATIENCE = 0.25
"""The search has settled when the last quarter of the products found nothing new; a rule of thumb, not a proof."""

LEAST = 32
"""Blocks before a search may count as settled: at a lower degree outliers still hide the rest."""


@dataclass(frozen=True)
class Enumeration:
    """Approximate eigenvectors below -threshold, and the number of eigenvalues there that they prove."""

    basis: Tensor  # (N, c), unit columns in the operator's type
    values: Tensor  # (c,) float64, ascending: Ritz values below -threshold
    residuals: Tensor  # (c,) |H u - theta u|, in units of eigenvalues
    images: Tensor  # (N, c) float64: the products H U
    compression: Compression  # U'HU and U'U, from products made for it
    threshold: float
    at_least: int  # certified: H has at least so many eigenvalues below -threshold
    products: int
    stopped: str  # why the search ended
    finite: bool = True  # False: a product was not, which ended the search


@led
@differentiable
def negative_eigenvectors(
    operator: Operator,
    threshold: float,
    check: OperatorCheck,
    *,
    generator: torch.Generator | None = None,
    most: int | None = None,
    max_products: int | None = None,
    columns: int | None = None,
    block: int = BLOCK,
    progress: bool = False,
) -> Enumeration:
    """Find eigenvectors below -threshold, most negative first, and certify how many there are at least.

    Args:
        operator: symmetric, (N, N).
        threshold: tau >= 0; eigenvalues below -tau are wanted. 0 for a congruence S'(H + tau I)S.
        check: of this operator (`check_operator`): its noise is what the certificate leaves out.
        generator: draws the start, on the CPU; seed 0 if not given.
        most: a proved upper bound on the count; the search ends when it is reached, the count then being exact.
        max_products: at most so many, the certificate's own (one per vector found) included.
        columns: vectors kept before a restart; as many as half the free memory holds, up to 4096 and N, if not given.
        block: columns multiplied at once.

    Cost: products, plus 8 N columns operations per product. Raises ValueError for arguments out of range and for a
    basis that does not fit into memory.
    """
    operator = as_operator(operator)
    require_real(operator, "negative_eigenvectors")
    check_generator(generator)
    if not isinstance(check, OperatorCheck):
        raise ValueError(f"check is what check_operator(A) returned; got {type(check).__name__}")
    threshold, block = real("threshold", threshold), whole("block", block)
    most, max_products = maybe_whole("most", most), maybe_whole("max_products", max_products)
    size = operator.shape[0]
    columns = _check(operator, threshold, most, max_products, columns, block)
    space = Subspace(operator, columns, min(block, size), generator or torch.Generator().manual_seed(0))
    stopped = _search(space, threshold, most, max_products, progress)
    if not space.filled:
        raise ValueError("products must be finite; the first block of the enumeration gave NaN or infinity")
    values, vectors = space.below(-threshold)
    certified = len(values)
    with stage("certificate of the vectors", certified):
        images = _products(operator, vectors, block)
    finite = images.isfinite().all(dim=0)
    if not bool(finite.all()):
        stopped += f"; {int((~finite).sum())} of {certified} vectors found have products that are not finite"
        values, vectors, images = values[finite], vectors[:, finite], images[:, finite]
    compression = explicit_compression(vectors, images, check)
    residuals = torch.linalg.vector_norm(images - vectors.to(torch.float64) * values, dim=0)
    return Enumeration(
        vectors,
        values,
        residuals,
        images,
        compression,
        threshold,
        compression.sides(-threshold)[0],
        space.products + certified,
        stopped,
        not space.failed and bool(finite.all()),
    )


def explicit_compression(vectors: Tensor, images: Tensor, check: OperatorCheck) -> Compression:
    """V'HV and V'V for any V (N, c) and its products H V (N, c), with what noise and rounding can do to them.

    With H V = `images` - E, |E| <= `recurrence_noise` over c columns: |V'E| <= |V| |E|. Dot products are summed over
    slices of n coordinates: each is off by at most (n + N / n + 2) eps |v| |w|, and a matrix of c^2 of them by that
    times |V|_F |W|_F; the eigensolver by 16 c eps |V|^2 |H|. Cost: 4 N c^2 operations.
    """
    size, count = vectors.shape
    quadratic, gram = (torch.zeros(count, count, dtype=torch.float64, device=vectors.device) for _ in range(2))
    for start in range(0, size, SLICE):
        v = vectors[start : start + SLICE].to(torch.float64)
        quadratic += v.mT @ images[start : start + SLICE]
        gram += v.mT @ v
    eps = torch.finfo(torch.float64).eps
    dots = (min(SLICE, size) + size / SLICE + 2) * eps
    frobenius = float(gram.trace()) ** 0.5
    norm = float(torch.linalg.matrix_norm(gram, 2)) if count else 0.0  # |V|^2
    error = norm**0.5 * recurrence_noise(check, max(count, 1))
    error += dots * frobenius * float(torch.linalg.matrix_norm(images)) + 16 * count * eps * norm * check.scale
    gram_error = dots * frobenius**2 + 16 * count * eps * norm
    return Compression(((quadratic + quadratic.mT) / 2).cpu().numpy(), gram.cpu().numpy(), error, gram_error)


def _search(space: Subspace, threshold: float, most: int | None, max_products: int | None, progress: bool) -> str:
    """Advance until the count is as high as it can be, or nothing new is found; returns why it ended."""
    budget = float("inf") if max_products is None else max_products
    count, found, found_at, looked_at, look = 0, 0, 0, 0, 64
    least = LEAST * space.block
    with stage("enumeration", bound="about", shown=progress) as told:
        while True:
            # where nothing more is found, the search ends there
            told.of(min(budget, max(look, least, found_at / (1 - PATIENCE), space.products + space.block)))
            space.advance()
            if space.failed:
                return f"one of the products up to number {space.failed} was not finite"
            # a product adds at most one Ritz value below (interlacing), and each costs a product of the certificate
            over = space.products + count + (space.products - looked_at) + 2 * space.block > budget
            if not (over or space.complete or space.full or space.products >= look):
                continue
            looked_at, look = space.products, int(space.products * (1 + LOOK)) + 1
            count = int((space.ritz_values() < -threshold).sum())
            if count > found:
                found_at = space.products
            found = max(found, count)
            told.say(f"{count} found below")
            if most is not None and count >= most:
                return "as many as there can be"
            if space.complete:
                return "the basis spans everything"
            if space.products + count + 2 * space.block > budget:
                return "the products are spent"
            if space.products >= least and space.products - found_at >= PATIENCE * space.products:
                return "nothing new for a quarter of the products"
            if space.full:
                keep = (count + space.columns) // 2
                if keep + 2 * space.block > space.columns:
                    return "the basis has no room for more"
                space.restart(keep)


def _products(operator: Operator, vectors: Tensor, block: int) -> Tensor:
    """H V (N, c) in float64, a block of columns at a time."""
    images = torch.empty(vectors.shape, dtype=torch.float64, device=vectors.device)
    for start in range(0, vectors.shape[1], block):
        part = vectors[:, start : start + block].contiguous()
        images[:, start : start + block] = (operator @ part).detach()
        made(part.shape[1])
    return images


def _check(
    operator: Operator, threshold: float, most: int | None, max_products: int | None, columns: int | None, block: int
) -> int:
    """Refuse what makes no sense; returns the columns to keep."""
    size = operator.shape[0]
    if not 0 <= threshold < float("inf"):
        raise ValueError(f"threshold must be at least 0 and finite: below -threshold is wanted; got {threshold}")
    if block < 1:
        raise ValueError(f"block must be at least 1, the columns multiplied at once; got {block}")
    if most is not None and most < 0:
        raise ValueError(f"most bounds a count and is at least 0; got {most}")
    if max_products is not None and max_products < 2 * block:
        raise ValueError(
            f"max_products must allow two blocks of {block}; got {max_products}: raise it to at least {2 * block}"
        )
    vector = size * operator.dtype.itemsize
    if columns is None:
        columns = max(min(COLUMNS, available_bytes(operator.device) // (2 * vector)), min(4 * block, size))
    if columns < min(4 * block, size):
        raise ValueError(f"columns must hold four blocks of {block}, or N = {size}; got {columns}: raise it")
    columns = min(columns, size)
    needed = (columns + 5 * block) * vector + 3 * columns**2 * 8
    require_bytes(needed, operator.device, f"a basis of {columns} vectors", "pass fewer columns")
    return columns
