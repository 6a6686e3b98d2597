"""The Beta law inverted: against a direct scan, against mpmath, and against simulation."""

import math

import mpmath
import numpy as np
import pytest
from scipy.stats import beta as beta_law
from scipy.stats import binom

from lanczos_saddle.certificates.beta_interval import OUTWARD, _above, _below, count_at_least, count_at_most, probes_for


def tail_below(mass, r, probes, size):
    """P_r(X <= mass) in the working precision of mpmath, by integrating the density, not by betainc."""
    a, b = mpmath.mpf(probes * r) / 2, mpmath.mpf(probes * (size - r)) / 2
    peak = (a - 1) / (a + b - 2) if a > 1 and b > 1 else mpmath.mpf("0.5")
    spread = mpmath.sqrt(peak * (1 - peak) / (a + b))
    cuts = sorted(
        {mpmath.mpf(0), mpmath.mpf(mass), *(c for c in (peak + j * spread for j in range(-30, 31, 3)) if 0 < c < mass)}
    )
    log_norm = mpmath.loggamma(a + b) - mpmath.loggamma(a) - mpmath.loggamma(b)
    return mpmath.quad(lambda x: mpmath.exp(log_norm + (a - 1) * mpmath.log(x) + (b - 1) * mpmath.log1p(-x)), cuts)


@pytest.mark.parametrize("size", [1, 2, 3, 10, 60])
@pytest.mark.parametrize("probes", [1, 4, 9])
@pytest.mark.parametrize("alpha", [0.3, 0.0125, 1e-6])
def test_inversion_is_a_direct_scan(size, probes, alpha):
    slack = alpha * (1 - OUTWARD)
    for mass in (0.0, 1e-13, 1e-6, 0.01, 0.3, 0.5, 0.77, 0.999, 1 - 1e-12, 1.0):

        def above(r, mass=mass):
            return (
                float(mass <= 0)
                if r == 0
                else 1.0
                if r == size
                else beta_law.sf(mass, probes * r / 2, probes * (size - r) / 2)
            )

        def below(r, mass=mass):
            return (
                1.0
                if r == 0
                else float(mass >= 1)
                if r == size
                else beta_law.cdf(mass, probes * r / 2, probes * (size - r) / 2)
            )

        assert count_at_least(mass, probes, size, alpha) == min(r for r in range(size + 1) if above(r) >= slack)
        assert count_at_most(mass, probes, size, alpha) == max(r for r in range(size + 1) if below(r) >= slack)


@pytest.mark.parametrize(
    ("size", "probes", "r"), [(40, 1, 1), (40, 4, 3), (400, 4, 120), (5000, 2, 4999), (10**5, 1, 30000)]
)
def test_tail_probabilities_against_mpmath(size, probes, r):
    mean = r / size
    spread = math.sqrt(2 * mean * (1 - mean) / (probes * size + 2))
    with mpmath.workdps(30):
        for deviations in (-8.0, -5.0, -2.5, 0.0, 2.5, 5.0, 8.0):
            mass = mean + deviations * spread
            if not 0 < mass < 1:
                continue
            below = tail_below(mass, r, probes, size)
            for ours, exact in ((_below(mass, r, probes, size), below), (_above(mass, r, probes, size), 1 - below)):
                # the argument itself carries eps: its effect on a tail at 8 deviations is 8 eps / spread
                assert abs(ours - exact) <= (OUTWARD / 100) * exact + mpmath.mpf(10) ** -25


@pytest.mark.parametrize("size", [10**8, 10**10])
@pytest.mark.parametrize("share", [1e-6, 0.1, 0.5, 0.999])
def test_huge_parameters_agree_with_the_normal_limit(size, share):
    # corrections for skewness are of relative size z^3 / sqrt(m r): small here
    probes, alpha, z = 1, 0.0125, 2.2414027276049473
    r = round(share * size)
    sigma = math.sqrt(2 * r * (1 - r / size) / probes)
    low, high = count_at_least(r / size, probes, size, alpha), count_at_most(r / size, probes, size, alpha)
    assert low < r < high
    bound = 4 * z**2 + 0.001 * sigma + 2
    assert abs((r - low) - z * sigma) <= bound
    assert abs((high - r) - z * sigma) <= bound


def test_bounds_increase_with_the_mass_and_tighten_with_alpha_and_probes():
    masses = np.linspace(0, 1, 101)
    for size in (7, 300, 10**6):
        low = [count_at_least(x, 4, size, 0.01) for x in masses]
        high = [count_at_most(x, 4, size, 0.01) for x in masses]
        assert low == sorted(low)
        assert high == sorted(high)
        assert all(a <= x * size + 1 and b >= x * size - 1 for a, x, b in zip(low, masses, high, strict=True))
        assert (low[0], high[-1]) == (0, size)
        assert count_at_least(0.4, 4, size, 0.001) <= count_at_least(0.4, 4, size, 0.1)
        assert count_at_most(0.4, 4, size, 0.001) >= count_at_most(0.4, 4, size, 0.1)
        assert count_at_most(0.4, 40, size, 0.01) <= count_at_most(0.4, 4, size, 0.01)


def test_nothing_and_everything():
    for size in (1, 5, 10**10):
        assert count_at_most(0.0, 3, size, 0.01) == 0  # X = 0 almost surely means r = 0
        assert count_at_least(1.0, 3, size, 0.01) == size
        assert count_at_least(1e-300, 3, size, 0.01) >= 1  # X > 0 means r >= 1
        assert count_at_most(1 - 1e-16, 3, size, 0.01) <= size - 1


@pytest.mark.parametrize("size", [10, 1000, 10**6, 10**10])
@pytest.mark.parametrize("probes", [4, 8, 50])
def test_an_empty_class_is_certified_empty(size, probes):
    # one eigenvalue would give N X ~ chi-square_m / m, below 0.1 with probability 0.0175 at m = 4
    assert count_at_most(0.1 / size, probes, size, 0.05) == 0
    assert count_at_most(0.1 / size, 1, size, 0.05) > 0


@pytest.mark.parametrize(
    ("size", "r", "probes"), [(300, 0, 4), (300, 1, 4), (300, 40, 1), (300, 150, 4), (300, 299, 2), (6, 3, 2)]
)
def test_coverage_of_the_law_with_exact_masses(size, r, probes):
    # Gaussian probes, eigenvectors the unit vectors: X itself, no Lanczos
    rng = np.random.default_rng(size + r + probes)
    experiments, alpha = 2000, 0.05
    squares = rng.standard_normal((experiments, probes, size)) ** 2
    masses = squares[:, :, :r].sum((1, 2)) / squares.sum((1, 2))
    low = sum(count_at_least(x, probes, size, alpha) <= r for x in masses)
    high = sum(count_at_most(x, probes, size, alpha) >= r for x in masses)
    for covered in (low, high):
        assert binom.cdf(covered, experiments, 1 - alpha) > 1e-4
    if 0 < r < size:  # the law is exact: coverage is neither below nor, for fixed r, above nominal
        assert binom.sf(min(low, high) - 1, experiments, 1 - alpha) > 1e-4 or r in (1, 299) or size == 6


@pytest.mark.parametrize(
    ("precision", "size", "alpha"), [(0.01, 1885, 0.0125), (0.001, 20000, 0.0125), (0.05, 300, 0.025)]
)
def test_planned_probes_reach_the_precision(precision, size, alpha):
    probes = probes_for(precision, size, alpha)
    for share in (0.05, 0.5, 0.9):
        width = count_at_most(share, probes, size, alpha) - count_at_least(share, probes, size, alpha)
        assert width <= 2 * precision * size * 1.02 + 2
    if probes > 4:  # and no more of them than needed
        width = count_at_most(0.5, probes // 2, size, alpha) - count_at_least(0.5, probes // 2, size, alpha)
        assert width > 2 * precision * size


def test_one_probe_is_enough_for_large_operators():
    assert probes_for(0.01, 10**8, 0.0125) == 1
