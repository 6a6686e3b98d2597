"""The Gaussian orthogonal ensemble, Wigner's semicircle, and how far a spectrum is from it.

    GOE          H = (G + G') / sqrt(2 N), entries of G independent N(0, 1): E tr H^2 / N = 1 + 1/N
    semicircle   density 2 sqrt(R^2 - x^2) / (pi R^2) on [c - R, c + R]: mean c, variance R^2 / 4;  R = 2 for the GOE

Distances between the empirical distribution F_n of n eigenvalues and the semicircle's F:

    Kolmogorov-Smirnov   sup |F_n - F|, in [0, 1]
    Wasserstein-1        integral of |F_n - F|, in units of eigenvalues

and between two spectra of equal second moment: sup |F_n - G_m|.

Sources: Wigner 1955; Dumitriu and Edelman, Matrix models for beta ensembles (2002).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import eigh_tridiagonal
from scipy.optimize import minimize
from scipy.stats import ks_2samp

Array = NDArray[np.float64]

BISECTIONS = 60  # of a bracket of width 2 R: to R 2^-59


@dataclass(frozen=True)
class Semicircle:
    """Wigner's law; the radius is positive."""

    center: float
    radius: float

    def density(self, x: Array) -> Array:
        """Per unit of x; 0 outside."""
        u = np.clip((np.asarray(x) - self.center) / self.radius, -1, 1)
        return np.asarray(2 * np.sqrt(1 - u**2) / (math.pi * self.radius))

    def cdf(self, x: Array) -> Array:
        """1/2 + (u sqrt(1 - u^2) + arcsin u) / pi at u = (x - c) / R, within [-1, 1]."""
        u = np.clip((np.asarray(x) - self.center) / self.radius, -1, 1)
        return np.asarray(0.5 + (u * np.sqrt(1 - u**2) + np.arcsin(u)) / math.pi)

    def integral(self, x: Array) -> Array:
        """Integral of the cdf from -infinity to x."""
        v = (np.asarray(x) - self.center) / self.radius
        u = np.clip(v, -1, 1)
        s = np.sqrt(1 - u**2)
        inside = u / 2 + s / math.pi + u * np.arcsin(u) / math.pi - s**3 / (3 * math.pi)
        return np.asarray(self.radius * (inside + np.maximum(v - 1, 0)))

    def quantile(self, p: Array) -> Array:
        """The inverse of the cdf for p in [0, 1], by bisection."""
        p = np.asarray(p, dtype=float)
        low, high = np.full(p.shape, -1.0), np.full(p.shape, 1.0)
        unit = Semicircle(0.0, 1.0)
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            left = unit.cdf(middle) < p
            low, high = np.where(left, middle, low), np.where(left, high, middle)
        return np.asarray(self.center + self.radius * (low + high) / 2)


def equal_moments(values: Array, *, centered: bool = False) -> Semicircle:
    """The semicircle around 0 with the second moment of `values`; `centered`: with their mean and variance.

    Raises ValueError where that is a point.
    """
    center = float(np.mean(values)) if centered else 0.0
    radius = 2 * math.sqrt(float(np.mean((np.asarray(values) - center) ** 2)))
    if not radius > 0:
        raise ValueError("a semicircle needs eigenvalues that differ; their second moment is 0")
    return Semicircle(center, radius)


def kolmogorov_smirnov(values: Array, law: Semicircle) -> float:
    """The supremum of |F_n - F|, from both sides of every jump."""
    cdf, n = law.cdf(np.sort(values)), len(values)
    return float(max((np.arange(1, n + 1) / n - cdf).max(), (cdf - np.arange(n) / n).max()))


def wasserstein(values: Array, law: Semicircle) -> float:
    """The integral of |F_n - F| in closed form: F_n is constant between jumps, where F crosses it once at most."""
    x, n = np.sort(values), len(values)
    tails = law.integral(x[:1]) + (law.integral(x[-1:]) - x[-1] + law.center)  # below x_1; 1 - F above x_n
    level = np.arange(1, n) / n
    left, right = x[:-1], x[1:]
    cross = np.clip(law.quantile(level), left, right)
    parts = level * (cross - left) - (law.integral(cross) - law.integral(left))
    parts += law.integral(right) - law.integral(cross) - level * (right - cross)
    return float(tails[0] + parts.sum())


def two_samples(values: Array, others: Array) -> float:
    """The supremum of |F_n - G_m| of two spectra, each over the root of its second moment.

    Raises ValueError where that is 0.
    """
    return float(ks_2samp(_scaled(values), _scaled(others), method="asymp").statistic)  # the method is of p alone


def _scaled(values: Array) -> Array:
    return np.asarray(values) / (equal_moments(values).radius / 2)


def closest_semicircle(values: Array, *, starts: int = 12) -> tuple[Semicircle, float]:
    """(the semicircle of any center and radius with the smallest Kolmogorov-Smirnov distance found, that distance).

    Simplex searches from `starts` radii over all scales of the spectrum. The best found: an upper bound on
    the least distance.
    """
    values = np.sort(values)
    median = float(np.median(values))
    spread = np.abs(values - median)
    largest = float(spread.max())
    scales = np.quantile(spread[spread > 0], np.linspace(0.05, 1, starts)) if largest else np.array([1.0])
    best: tuple[Semicircle, float] | None = None
    for scale in scales:

        def distance(p: Array, scale: float = float(scale)) -> float:
            return kolmogorov_smirnov(values, Semicircle(median + scale * p[0], scale * math.exp(p[1])))

        found = minimize(distance, np.zeros(2), method="Nelder-Mead", options={"xatol": 1e-3, "fatol": 1e-5})
        if best is None or found.fun < best[1]:
            law = Semicircle(median + float(scale) * float(found.x[0]), float(scale) * math.exp(float(found.x[1])))
            best = law, float(found.fun)
    assert best is not None
    return best


def goe_eigenvalues(size: int, *, generator: torch.Generator) -> Array:
    """Eigenvalues (N,), ascending, distributed as those of the GOE, from the tridiagonal model: O(N^2) time.

    sqrt(2 / N) times the symmetric tridiagonal matrix with N(0, 1) on the diagonal and chi_(N-1), ..., chi_1, each over
    sqrt(2), beside it: what Householder's reduction makes of a dense sample.

    Raises ValueError for a size below 2.
    """
    if size < 2:
        raise ValueError(f"a random matrix here has at least 2 rows; got {size}")
    diagonal = torch.randn(size, generator=generator, dtype=torch.float64)
    chi = [torch.randn(k, generator=generator, dtype=torch.float64).norm() for k in range(size - 1, 0, -1)]
    beside = torch.stack(chi) / math.sqrt(2)
    scale = math.sqrt(2 / size)
    values = eigh_tridiagonal(scale * diagonal.numpy(), scale * beside.numpy(), eigvals_only=True)
    return np.asarray(values)
