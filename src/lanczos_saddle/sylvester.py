"""Eigenvalues on either side of t by Sylvester's law of inertia, with what rounding leaves certain.

H - t I = F - R with F = T D T' factored (`ldl`: LAPACK on the host; `blocked_ldl`: matrix products, anywhere): the
signs of D count the eigenvalues of F below and above 0. With Gaussian v_i (r = 10 of them) and c = 0.1, each of

    |R|_2                <= max_i |R v_i| / c                               = margin
    min |eigenvalue of F| >= (c - max_i |F x_i - v_i|) / max_i |x_i|         = separation,    x_i = F^-1 v_i as computed

fails with probability at most P(|z| < c)^r = 1.0e-11, z standard normal: |A v_i| >= |A|_2 |z_i| for A = R and A = F^-1,
and F^-1 v_i = x_i - F^-1 (F x_i - v_i). By Weyl's theorem an eigenvalue changes sign between F and H - t I + E only if
|R|_2 + |E|_2 reaches the smallest |eigenvalue| of F: with margin + |E|_2 < separation the counts are exactly those
of H + E. Nothing is assumed of the factorization or of the solves; their errors are in R v_i and F x_i - v_i.
"""

from __future__ import annotations

from typing import Literal, Protocol

import torch
from torch import Tensor

from lanczos_saddle import blocked_ldl, ldl

PROBES, FRACTION = 10, 0.1  # r and c: P(|z| < 0.1)^10 = 1.0e-11
LAPACK_SIZE = 46_340  # N^2 < 2^31: larger sizes are left to 64-bit index arithmetic

Method = Literal["auto", "lapack", "blocked"]


class Inertia(tuple[int, int]):
    """(below, above): the numbers of eigenvalues of H below and above the threshold t.

    Exact for the eigenvalues outside t +- margin: an eigenvalue inside may be counted on either side, or on
    neither when its pivot is exactly zero. Where margin < separation there is none inside, and both are exact.
    """

    threshold: float
    residual: float  # estimate of |R|_F, R = F - (H - t I): root mean square of |R v|, v Gaussian
    margin: float  # |R|_2 <= margin except with probability 1e-11
    separation: float  # no eigenvalue of F lies closer to 0, except with probability 1e-11

    def __new__(
        cls, below: int, above: int, threshold: float, residual: float, margin: float, separation: float
    ) -> Inertia:
        """A pair that carries its certificate."""
        self = super().__new__(cls, (below, above))
        self.threshold, self.residual, self.margin, self.separation = threshold, residual, margin, separation
        return self

    def __getnewargs__(self) -> tuple[int, int, float, float, float, float]:
        return (self.below, self.above, self.threshold, self.residual, self.margin, self.separation)

    def __repr__(self) -> str:
        pair = f"Inertia(below={self.below}, above={self.above}, threshold={self.threshold}, "
        return f"{pair}margin={self.margin:.1e}, separation={self.separation:.1e})"

    @property
    def below(self) -> int:
        """Eigenvalues below the threshold."""
        return self[0]

    @property
    def above(self) -> int:
        """Eigenvalues above the threshold."""
        return self[1]

    def holds_for(self, error: float) -> bool:
        """Whether the counts are those of every symmetric H + E with |E|_2 <= error."""
        return self.margin + error < self.separation


class Factored(Protocol):
    """F = T D T' in the memory of H."""

    def signs(self) -> tuple[int, int]:
        """Negative and positive eigenvalues of D."""

    def multiply(self, v: Tensor) -> Tensor:
        """F v for v (N, k)."""

    def solve(self, v: Tensor) -> Tensor:
        """F^-1 v."""

    def restore(self) -> None:
        """Put H back."""


class Pivoted:
    """Bunch and Kaufman's factorization by LAPACK."""

    def __init__(self, matrix: Tensor, t: float) -> None:
        self.factor = ldl.factorize(matrix.numpy().T, t)

    def signs(self) -> tuple[int, int]:
        """Signs of D."""
        return ldl.pivot_signs(self.factor)

    def multiply(self, v: Tensor) -> Tensor:
        """F v."""
        return torch.from_numpy(ldl.apply_factors(self.factor, v.numpy()))

    def solve(self, v: Tensor) -> Tensor:
        """F^-1 v."""
        return torch.from_numpy(ldl.solve_factors(self.factor, v.numpy()))

    def restore(self) -> None:
        """Put H back."""
        ldl.restore(self.factor)


class Blocked:
    """The blocked factorization of M H M', seen from the coordinates of H."""

    def __init__(self, matrix: Tensor, t: float, mixing: blocked_ldl.Mixing) -> None:
        self.mixing, self.factor = mixing, blocked_ldl.factorize(matrix, t)

    def signs(self) -> tuple[int, int]:
        """Signs of D."""
        pivots = self.factor.pivots
        return int((pivots < 0).sum()), int((pivots > 0).sum())

    def multiply(self, v: Tensor) -> Tensor:
        """F v."""
        return self.mixing.rows_back(blocked_ldl.apply_factors(self.factor, self.mixing.rows(v.mT).mT).mT).mT

    def solve(self, v: Tensor) -> Tensor:
        """F^-1 v."""
        return self.mixing.rows_back(blocked_ldl.solve_factors(self.factor, self.mixing.rows(v.mT).mT).mT).mT

    def restore(self) -> None:
        """Put H back."""
        blocked_ldl.restore(self.factor)


class Sylvester:
    """Inertia at several thresholds of one symmetric matrix (N, N) float64, in its memory, which is used up.

    Cost of a threshold: N^3 / 3 flops, and 10 products and 10 solves with the factors; of the first one, 10 products
    with H, and mixing (`blocked_ldl.mix`) where the method is "blocked".
    """

    def __init__(self, matrix: Tensor, *, method: Method = "auto", generator: torch.Generator | None = None) -> None:
        generator = generator or torch.Generator().manual_seed(0)
        size, device = len(matrix), matrix.device
        self.matrix = matrix
        self.probes = torch.randn(size, PROBES, generator=generator, dtype=torch.float64).to(device)
        self.images = matrix @ self.probes  # of H itself: whatever happens to it later is measured
        self._held: Factored | None = None
        self._mixing: blocked_ldl.Mixing | None = None
        if method == "blocked" or (method == "auto" and (device.type != "cpu" or size > LAPACK_SIZE)):
            self._mixing = blocked_ldl.mixing(size, generator, device)
            blocked_ldl.mix(matrix, self._mixing)

    def at(self, t: float) -> Inertia:
        """The eigenvalues below and above t, and how sure that is."""
        if self._held is not None:
            self._held.restore()
        mixing = self._mixing
        factored: Factored = Blocked(self.matrix, t, mixing) if mixing else Pivoted(self.matrix, t)
        self._held = factored
        errors = _norms(factored.multiply(self.probes) - (self.images - t * self.probes))
        return Inertia(
            *factored.signs(),
            t,
            residual=float(errors.square().mean().sqrt()),
            margin=float(errors.max()) / FRACTION,
            separation=self._separation(factored),
        )

    def _separation(self, factored: Factored) -> float:
        """(c - max |F x_i - v_i|) / max |x_i|, or 0 where F is singular or a solve says nothing."""
        solutions = factored.solve(self.probes)
        if not bool(solutions.isfinite().all()):
            return 0.0
        defect = _norms(factored.multiply(solutions) - self.probes).max()
        return max(0.0, float((FRACTION - defect) / _norms(solutions).max()))


def _norms(columns: Tensor) -> Tensor:
    norms: Tensor = torch.linalg.vector_norm(columns, dim=0)
    return norms
