"""How large the errors of a finished run are, E = H Q - Q T - beta q e', from a few products with H in float64.

    |(E'E)^j G|_2  >=  |E|_2^2j |v'G|,      |E (E'E)^j G|_2  >=  |E|_2^(2j+1) |v'G|

for v the right singular vector of |E|_2. G (K, r) has independent standard Gaussian entries, drawn from a stream that
neither the probes nor the products depend on, so |v'G|^2 is chi-square with r degrees of freedom, and is at least its
quantile c^2 except with the stated probability. On that one event, whatever the power,

    |E|_2  <=  (|...|_2 / c)^(1 / power)

The E of all probes are taken side by side, [E_1 .. E_m], whose norm is no less than that of each: a product with it,
or with its transpose, is one product with H a column. Without a basis Q is gone, and sums made on the way, V G and Y G
over all vectors and their computed products, give E G = H (V G) - Y G alone: the first power.

Dixon 1983; Kuczynski & Wozniakowski 1992 (random starts); docs/method.md.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
import torch
from scipy.special import gammaincinv
from torch import Tensor

from lanczos_saddle.krylov.lanczos import Lanczos, chosen
from lanczos_saddle.krylov.witness import Watched
from lanczos_saddle.operators.operator import Operator
from lanczos_saddle.operators.vectors import in_slices, zeros

FAILURE = 1e-6
"""The chance that a measured noise is too small; intervals leave it room."""

COLUMNS, POWERS = 8, 5
"""Columns of G and applications of E and E', where the basis is kept: the bound is 1.5 to 3 times |E|."""

SUMS = 16
"""Columns of G without a basis, where one application must do: the bound is near the Frobenius norm."""

NAMES = ("noise_sums", "noise_stream")
"""What a state keeps of the sums."""


class Spread(NamedTuple):
    """A bound on |E|_2, infinite where a product is not finite, and what it cost so far."""

    bound: float
    products: int


def gaussian_floor(columns: int) -> float:
    """The c with P(|v'G| < c) = `FAILURE` for a unit vector v and a Gaussian G of so many columns."""
    return float(np.sqrt(2 * gammaincinv(columns / 2, FAILURE)))


class RunError:
    """E of a run with its basis, known by its action; `exact` is the operator in float64."""

    def __init__(self, run: Lanczos, exact: Operator) -> None:
        self._run, self._exact, coefficients = run, exact, run.tridiagonalization()
        following = run.following
        device = following.device
        self._lengths = [int(n) for n in coefficients.lengths]
        self._parts = []
        for i, length in enumerate(self._lengths):
            alpha, beta = (torch.as_tensor(c, device=device)[:, None] for c in coefficients.coefficients(i))
            self._parts.append((i, length, alpha, beta, following[i]))

    @property
    def columns(self) -> int:
        """K, the vectors of all probes."""
        return sum(self._lengths)

    def times(self, g: Tensor) -> Tensor:
        """E g (N, r) for g (K, r): r products."""
        v = zeros(self._exact, self._exact.shape[0], g.shape[1], dim=0)
        y = torch.zeros_like(v)
        for (i, _, alpha, beta, following), part in zip(self._parts, torch.split(g, self._lengths), strict=True):
            v += self._run.kept.combined(i, part)
            y += self._run.kept.combined(i, _tridiagonal(alpha, beta, part))
            y += torch.outer(following, beta[-1, 0] * part[-1])
        return (self._exact @ v).detach() - y

    def transposed_times(self, u: Tensor) -> Tensor:
        """E'u (K, r) for u (N, r): r products."""
        image, found = (self._exact @ u).detach(), []
        for i, length, alpha, beta, following in self._parts:
            along = self._run.kept.inner(i, length, image)
            part = along - _tridiagonal(alpha, beta, self._run.kept.inner(i, length, u))
            part[-1] -= beta[-1, 0] * (following @ u)
            found.append(part)
        return torch.cat(found)

    def bounds(self, generator: torch.Generator) -> Iterator[Spread]:
        """Bounds on |E|_2 by one power after the other, `COLUMNS` products each; all hold on one event."""
        g = torch.randn(self.columns, COLUMNS, generator=generator, dtype=torch.float64)
        x = g.to(self._run.current.device)
        log, floor = 0.0, float(np.log(gaussian_floor(COLUMNS)))
        for power in range(1, POWERS + 1):
            x = self.times(x) if power % 2 else self.transposed_times(x)
            norm = _norm(x)
            if not 0 < norm < math.inf:
                yield Spread(norm, power * COLUMNS)
                return
            x, log = x / norm, log + float(np.log(norm))
            yield Spread(float(np.exp((log - floor) / power)), power * COLUMNS)


class Sums:
    """V G and Y G over all vectors that were multiplied and their products, kept up to date without a basis."""

    def __init__(self, operator: Operator, columns: int, generator: torch.Generator) -> None:
        self.sums = zeros(operator, 2, operator.shape[0], columns, dim=1)
        self._spare: Tensor | None = None  # sums that nothing needs, written into by the next ones
        self._generator = generator

    def watch(self, operator: Operator) -> Watched:
        """The operator, its products summed."""
        return Watched(operator, self)

    def add(self, block: Tensor, image: Tensor) -> None:
        """Take note of A `block` = `image`, both (n, k) float64; a block that is not finite is left out."""
        g = torch.randn(block.shape[1], self.sums.shape[2], generator=self._generator, dtype=torch.float64)
        g, before = g.to(block.device), self.sums
        spare, self._spare = self._spare, None  # an interrupt forgets it
        both = torch.empty_like(before) if spare is None else spare
        for new, columns in zip(both, (block, image.detach()), strict=True):
            torch.mm(columns, g, out=new)
        finite = torch.linalg.vector_norm(both, ord=math.inf).isfinite()
        both += before
        self.sums = chosen(finite, both, before)
        self._spare = both if self.sums is before else before

    def bound(self, exact: Operator) -> Spread:
        """A bound on |E|_2, from one product a column with the operator in float64."""
        self._spare = None
        v, y = self.sums
        norm = _norm((exact @ v.contiguous()).detach() - y)
        return Spread(norm / gaussian_floor(v.shape[1]), v.shape[1])

    def tensors(self) -> dict[str, Tensor]:
        """What a state keeps, by `NAMES`."""
        return dict(zip(NAMES, (self.sums, self._generator.get_state()), strict=True))

    def resume(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on with the sums of a state, and with the stream that they were drawn from."""
        sums, stream = (tensors[name] for name in NAMES)
        self.sums = sums
        self._generator.set_state(stream.cpu())


def _norm(x: Tensor) -> float:
    """|x|_2, infinite where x is not finite."""
    if not bool(x.isfinite().all()):
        return math.inf
    if in_slices(x):
        return float(torch.linalg.eigvalsh(x.mT @ x)[-1].clamp(min=0).sqrt())
    return float(torch.linalg.matrix_norm(x, 2))


def _tridiagonal(alpha: Tensor, beta: Tensor, x: Tensor) -> Tensor:
    """T x for T = tridiag(beta, alpha, beta), the last beta left out; alpha, beta (k, 1), x (k, r)."""
    product = alpha * x
    product[1:] += beta[:-1] * x[:-1]
    product[:-1] += beta[:-1] * x[1:]
    return product
