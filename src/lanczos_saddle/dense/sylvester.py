"""Eigenvalues on either side of t by Sylvester's law of inertia, with what rounding leaves certain.

H - t I = F - R with F = T D T' factored (`ldl`: LAPACK on the host; `blocked_ldl`: matrix products, anywhere;
`triangle_ldl`: the same of one triangle, which may lie in a file): the signs of D count the eigenvalues of F below and
above 0. With Gaussian v_i (r = 10 of them) and c = 0.1, each of

    |R|_2                <= max_i |R v_i| / c                               = margin
    min |eigenvalue of F| >= (c - max_i |F x_i - v_i|) / max_i |x_i|         = separation,    x_i = F^-1 v_i as computed

fails with probability at most P(|z| < c)^r = 1.0e-11, z standard normal: |A v_i| >= |A|_2 |z_i| for A = R and A = F^-1,
and F^-1 v_i = x_i - F^-1 (F x_i - v_i). By Weyl's theorem an eigenvalue changes sign between F and H - t I + E only if
|R|_2 + |E|_2 reaches the smallest |eigenvalue| of F: with margin + |E|_2 < separation the counts are exactly those
of H + E. Nothing is assumed of the factorization or of the solves; their errors are in R v_i and F x_i - v_i.
"""

from __future__ import annotations

import math
from typing import Literal, Protocol

import torch
from torch import Tensor

from lanczos_saddle.dense import blocked_ldl, ldl, spread, triangle_ldl
from lanczos_saddle.dense.eigensolvers import LDL, solving
from lanczos_saddle.dense.triangle import Triangle
from lanczos_saddle.machine.progress import current, stage
from lanczos_saddle.operators.scaling import exponent_to_one, exponent_to_safe, largest_entry, scale_in_place, times

PROBES, FRACTION = 10, 0.1  # r and c: P(|z| < 0.1)^10 = 1.0e-11
LAPACK_SIZE = 46_340  # N^2 < 2^31: larger sizes are left to 64-bit index arithmetic

LEAST = 2.0**-1074  # the smallest number of float64
ENLARGED = 450  # squares of 2^450 N are finite, and the inverse of a subnormal times 2^450 is

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

    def halved(self) -> Inertia:
        """That of a complex operator from that of its real form, where every eigenvalue is there twice."""
        return Inertia(
            self.below // 2, self.above // 2, self.threshold, self.residual / 2**0.5, self.margin, self.separation
        )

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


class Elsewhere(Protocol):
    """A symmetric matrix (N, N) float64 that is mixed and factored where its numbers lie."""

    @property
    def device(self) -> torch.device:
        """Where vectors are."""

    def __len__(self) -> int: ...

    def __matmul__(self, v: Tensor, /) -> Tensor: ...

    def largest_entry(self) -> float:
        """The largest |entry| of what is kept, NaN where there is one."""

    def scale(self, exponent: int) -> None:
        """H *= 2^exponent."""

    def factors(self, t: float) -> Factored:
        """H - t I = T D T' - R."""


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


class OfTriangle:
    """The factorization of one triangle of M H M', with L in a triangle of its own, or in the place of H."""

    def __init__(self, source: Triangle, lower: Triangle, t: float, spreading: spread.Spread) -> None:
        self.spreading, self.factor = spreading, triangle_ldl.factorize(source, lower, t)
        self.used_up = lower is source

    def signs(self) -> tuple[int, int]:
        """Signs of D."""
        pivots = self.factor.pivots
        return int((pivots < 0).sum()), int((pivots > 0).sum())

    def multiply(self, v: Tensor) -> Tensor:
        """F v."""
        return self.spreading.rows_back(triangle_ldl.apply_factors(self.factor, self.spreading.rows(v.mT))).mT

    def solve(self, v: Tensor) -> Tensor:
        """F^-1 v."""
        return self.spreading.rows_back(triangle_ldl.solve_factors(self.factor, self.spreading.rows(v.mT))).mT

    def restore(self) -> None:
        """H is where it was; raises ValueError where L took its place."""
        if self.used_up:
            raise ValueError(
                "a triangle that was factored in place is used up; got another factorization of it: give Sylvester a "
                "second triangle for the factors, or fill this one again"
            )


class Sylvester:
    """Inertia at several thresholds of one symmetric matrix (N, N) float64, in its memory, which is used up.

    Of a `Triangle` the factors lie in another one, `lower`; without it in its own place, and there is one threshold.
    What lies `Elsewhere` makes its factors itself.

    Cost of a threshold: N^3 / 3 flops, and 10 products and 10 solves with the factors; of the first one, 10 products
    with H, and mixing (`blocked_ldl.mix`) where the method is "blocked".
    """

    def __init__(
        self,
        matrix: Tensor | Triangle | Elsewhere,
        *,
        method: Method = "auto",
        generator: torch.Generator | None = None,
        lower: Triangle | None = None,
    ) -> None:
        generator = generator or torch.Generator().manual_seed(0)
        size, device = len(matrix), matrix.device
        self.matrix = matrix
        self._exponent = exponent_to_safe(_magnitude(matrix))  # what is factored is 2^exponent (H - t I)
        _scale(matrix, self._exponent)
        self.probes = torch.randn(size, PROBES, generator=generator, dtype=torch.float64).to(device)
        self.images = matrix @ self.probes  # of H itself: whatever happens to it later is measured
        self._held: Factored | None = None
        self._mixing: blocked_ldl.Mixing | None = None
        self._lower, self._spread = lower, None
        if isinstance(matrix, Triangle):
            self._spread = spread.spreading(matrix, generator)
            with stage("mixing", unit=""):
                spread.spread(matrix, self._spread)
        elif isinstance(matrix, Tensor) and (
            method == "blocked" or (method == "auto" and (device.type != "cpu" or size > LAPACK_SIZE))
        ):
            self._mixing = blocked_ldl.mixing(size, generator, device)
            with stage("mixing", unit=""):
                blocked_ldl.mix(matrix, self._mixing)

    def at(self, t: float) -> Inertia:
        """The eigenvalues below and above t, and how sure that is.

        Where a pivot is so small that its inverse overflows, the matrix is made larger and factored again; raises
        ValueError where that does not help, so that no margin is known.
        """
        found = self._told(t)
        if not math.isfinite(found.margin):
            self._enlarge()
            found = self._told(t)
        if not math.isfinite(found.margin):
            raise ValueError(
                f"the error of a factorization must be finite; got {found.margin} for H - t I at t = {t:.3g}: its "
                "entries are too far apart for float64; take exact_eigenvalues, or another threshold"
            )
        return found

    def _told(self, t: float) -> Inertia:
        """As a stage, by the share of its operations; by time where LAPACK does them in one call."""
        name = f"LDL' at {t:.3g}"
        if isinstance(self.matrix, Tensor) and self._mixing is None:
            with solving(name, len(self.matrix), LDL, self.matrix.device):
                return self._factored(t)
        with stage(name, 100, unit="%"):
            return self._factored(t)

    def _factored(self, t: float) -> Inertia:
        """At one t, margin NaN where the arithmetic overflowed; sizes in the units of H."""
        if self._held is not None:
            self._held.restore()
        shift = times(t, self._exponent)
        self._held = factored = self._factors(shift)
        current().say("certificate")
        errors = _norms(factored.multiply(self.probes) - (self.images - shift * self.probes))
        lost = len(self.matrix) * LEAST if self._exponent < 0 else 0.0  # entries that vanished when H was made smaller
        margin = float(errors.max()) / FRACTION + lost
        sizes = float(errors.square().mean().sqrt()), margin, self._separation(factored)
        residual, margin, separation = (times(size, -self._exponent) for size in sizes)
        return Inertia(*factored.signs(), t, residual=residual, margin=margin, separation=separation)

    def _factors(self, shift: float) -> Factored:
        matrix, mixing = self.matrix, self._mixing
        if isinstance(matrix, Triangle):
            assert self._spread is not None
            return OfTriangle(matrix, self._lower or matrix, shift, self._spread)
        if not isinstance(matrix, Tensor):
            return matrix.factors(shift)
        return Blocked(matrix, shift, mixing) if mixing else Pivoted(matrix, shift)

    def _enlarge(self) -> None:
        """Multiply by the power of two that brings the largest entry to 2^ENLARGED."""
        assert self._held is not None
        self._held.restore()
        self._held = None
        more = max(0, ENLARGED + exponent_to_one(_magnitude(self.matrix)))
        _scale(self.matrix, more)
        self.images = times(self.images, more)
        self._exponent += more

    def _separation(self, factored: Factored) -> float:
        """(c - max |F x_i - v_i|) / max |x_i|, or 0 where F is singular or a solve says nothing."""
        solutions = factored.solve(self.probes)
        if not bool(solutions.isfinite().all()):
            return 0.0
        defect = _norms(factored.multiply(solutions) - self.probes).max()
        separation = float((FRACTION - defect) / _norms(solutions).max())
        return max(0.0, separation) if math.isfinite(separation) else 0.0


def _norms(columns: Tensor) -> Tensor:
    norms: Tensor = torch.linalg.vector_norm(columns, dim=0)
    return norms


def _magnitude(matrix: Tensor | Triangle | Elsewhere) -> float:
    return largest_entry(matrix) if isinstance(matrix, Tensor) else matrix.largest_entry()


def _scale(matrix: Tensor | Triangle | Elsewhere, exponent: int) -> None:
    if isinstance(matrix, Tensor):
        scale_in_place(matrix, exponent)
    else:
        matrix.scale(exponent)
