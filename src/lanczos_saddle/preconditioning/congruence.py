"""Congruence: M = S'(H - tI)S has exactly as many negative eigenvalues as H has below t (Sylvester).

Any nonsingular S will do, so what is counted does not depend on how good S is; only the products it takes do. With
S ~ |H - tI|^(-1/2) the spectrum of M lies near -1 and 1, away from its threshold 0.

The noise of M (docs/method.md): a product M v = S'((H - tI)(S v)) carries the error of H in the middle and those of
S and S' at the ends, each in the units of M,

    noise(M)  <=  |S|^2 noise(H)  +  2 |S| |H - tI| noise(S)  +  float64 rounding of the three,

so that M is padded like any other operator, at threshold 0 and in its own units: t stays sharp.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from lanczos_saddle.operators.operator import Operator
from lanczos_saddle.operators.resolution import OperatorCheck

POWERS, VECTORS = 10, 10
"""|S| is bounded from ten powers of S'S on ten Gaussian vectors."""

LEAST = 0.1
"""max |z| over ten standard normal numbers is below 0.1 with probability 1.1e-11."""


@runtime_checkable
class Factor(Protocol):
    """A nonsingular N x N matrix S, not necessarily symmetric: ``S @ v`` and ``S.mT @ v`` for v (N, k).

    A dense tensor is one.
    """

    def __matmul__(self, v: Tensor, /) -> Tensor:
        """S v, in the shape of v."""

    @property
    def mT(self) -> Factor:
        """S'."""


@dataclass(frozen=True)
class Congruent:
    """M = S'(H - tI)S, an `Operator`: one product of H, one of S and one of S' a product."""

    base: Operator  # H
    factor: Factor  # S
    shift: float  # t

    shape = property(lambda self: self.base.shape)
    dtype = property(lambda self: self.base.dtype)
    device = property(lambda self: self.base.device)

    def __matmul__(self, v: Tensor, /) -> Tensor:
        block = v if v.ndim == 2 else v[:, None]
        inner = self.factor @ block
        product = self.factor.mT @ (self.base @ inner - self.shift * inner)
        return product if v.ndim == 2 else product[:, 0]


@dataclass(frozen=True)
class Guarded:
    """An S of the caller's: it is given copies, and what it returns is copied; it may use its buffer again."""

    base: Factor

    def __matmul__(self, v: Tensor, /) -> Tensor:
        return (self.base @ v.clone()).detach().clone()

    @property
    def mT(self) -> Guarded:
        """S'."""
        return Guarded(self.base.mT)


@dataclass(frozen=True)
class Diagonal:
    """S = diag(scales), all of them nonzero."""

    scales: Tensor  # (N,)

    def __matmul__(self, v: Tensor, /) -> Tensor:
        return self.scales[:, None] * v

    @property
    def mT(self) -> Diagonal:
        """S' = S."""
        return self


@dataclass(frozen=True)
class Kept:
    """S[index, index] of a symmetric positive definite S, which is positive definite itself."""

    base: Factor
    index: Tensor  # (M,) int64, ascending
    size: int  # N

    def __matmul__(self, v: Tensor, /) -> Tensor:
        full = v.new_zeros(self.size, *v.shape[1:])
        full[self.index] = v
        return (self.base @ full)[self.index]

    @property
    def mT(self) -> Kept:
        """S' = S."""
        return self


@dataclass(frozen=True)
class Corrected:
    """S = S_0 (I + Z diag(f - 1) Z'), Z'Z = I: along z_i the base S_0 is scaled by f_i > 0."""

    base: Factor  # S_0
    directions: Tensor  # Z (N, r), orthonormal columns
    scales: Tensor  # f (r,)

    def __matmul__(self, v: Tensor, /) -> Tensor:
        return self.base @ self._correct(v)

    @property
    def mT(self) -> _Transposed:
        """S' = (I + Z diag(f - 1) Z') S_0'."""
        return _Transposed(self)

    def _correct(self, v: Tensor) -> Tensor:
        correction: Tensor = self.directions @ ((self.scales - 1)[:, None] * (self.directions.mT @ v))
        return v + correction


@dataclass(frozen=True)
class _Transposed:
    of: Corrected

    def __matmul__(self, v: Tensor, /) -> Tensor:
        return self.of._correct(self.of.base.mT @ v)

    @property
    def mT(self) -> Corrected:
        return self.of


def congruent_check(congruent: Congruent, check: OperatorCheck, generator: torch.Generator) -> OperatorCheck:
    """The noise and the scale of M in its own units, from those of H; no product with H is spent.

    Raises ValueError for an S that is not finite, whose S' is not its transpose to sqrt(eps), or which two products
    of one vector show not to be one matrix.
    """
    factor, eps = congruent.factor, torch.finfo(congruent.dtype).eps
    vectors = torch.randn(congruent.shape[0], VECTORS, generator=generator, dtype=torch.float64)
    vectors = vectors.to(congruent.device, congruent.dtype)
    images = factor @ vectors
    _refuse_unfit(factor, vectors, images, eps**0.5)
    norm, rich = _norm_bound(factor, vectors)
    both = torch.cat([vectors / torch.linalg.vector_norm(vectors, dim=0), rich], dim=1)
    rounding = max(_additivity(factor, both), _additivity(factor.mT, both)) + 8 * eps * norm
    noise = rounding + _transposition(factor, vectors, images)
    size = check.scale + abs(congruent.shift)
    return replace(
        check,
        noise=norm**2 * (check.noise + 8 * eps * size) + 2 * norm * size * noise,
        noise_source=f"{check.noise_source}, carried through S",
        scale=norm**2 * size,
        products=0,
    )


def _norm_bound(factor: Factor, vectors: Tensor) -> tuple[float, Tensor]:
    """(an upper bound on |S|, vectors rich in its dominant directions).

    |(S'S)^p g| >= |S|^(2p) |z| with z standard normal: over ten g the largest |z| exceeds 0.1, but for a
    probability of 1.1e-11. The bound exceeds |S| by at most (10 |g|)^(1/2p).
    """
    rich, logs = vectors, torch.zeros_like(vectors[0])
    for _ in range(POWERS):
        rich = factor.mT @ (factor @ rich)
        norms = torch.linalg.vector_norm(rich, dim=0)
        rich, logs = rich / norms, logs + norms.log()
    return float(((logs.max() - torch.log(logs.new_tensor(LEAST))) / (2 * POWERS)).exp()), rich


def _additivity(factor: Factor, vectors: Tensor) -> float:
    """The largest |S(u + v) - Su - Sv| over pairs of unit vectors: what rounding does to a product."""
    swapped, images = vectors.roll(1, dims=1), factor @ vectors
    return float(torch.linalg.vector_norm(factor @ (vectors + swapped) - images - images.roll(1, dims=1), dim=0).max())


def _transposition(factor: Factor, vectors: Tensor, images: Tensor) -> float:
    """An estimate of |S.mT - S'|_F: E (u'Kv)^2 = |K|_F^2 for Gaussian u, v; what rounding explains is left out."""
    defect = (vectors.mT @ images - (factor.mT @ vectors).mT @ vectors).abs()
    sizes = torch.linalg.vector_norm(vectors, dim=0)[:, None] * torch.linalg.vector_norm(images, dim=0)
    excess = (defect - 8 * torch.finfo(vectors.dtype).eps * sizes).clamp_min(0)
    return float(excess.square().mean().sqrt())


def _refuse_unfit(factor: Factor, vectors: Tensor, images: Tensor, tolerance: float) -> None:
    """Raises ValueError for what cannot be the S of a congruence."""
    if images.shape != vectors.shape or images.dtype != vectors.dtype or not bool(images.isfinite().all()):
        raise ValueError(
            f"a preconditioner S takes blocks of shape {tuple(vectors.shape)} in {vectors.dtype} to finite blocks of "
            f"the same; got {tuple(images.shape)} in {images.dtype}, finite: {bool(images.isfinite().all())}"
        )
    scale = float(images.norm() * vectors.norm())
    defect = float((vectors.mT @ images - (factor.mT @ vectors).mT @ vectors).norm())
    if scale == 0.0 or defect > tolerance * scale:
        raise ValueError(
            f"the preconditioner's S.mT must be the transpose of S, and S not zero; u'Sv and (S'u)'v differ by "
            f"{defect:.1e} where |u| |Sv| is {scale:.1e}: see congruence.Factor"
        )
    repeated = float((factor @ vectors - images).norm())
    if repeated > tolerance * float(images.norm()):
        raise ValueError(f"a preconditioner S must be one matrix; two products of one block differ by {repeated:.1e}")
