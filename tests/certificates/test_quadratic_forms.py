"""The tail bounds of Gaussian quadratic forms: against exact laws, and as often right as stated."""

import math

import numpy as np
import pytest
from scipy.stats import chi2

from lanczos_saddle.certificates.quadratic_forms import deviation, least_share, most_trace

SPECTRA = {
    "one": np.array([5.0]),
    "flat": np.ones(200),
    "decaying": 0.8 ** np.arange(60),
    "indefinite": np.concatenate([-(0.7 ** np.arange(30)), np.ones(20) / 20]),
}


@pytest.mark.parametrize("m", [1, 4, 32, 200])
@pytest.mark.parametrize("alpha", [0.5, 0.05, 1e-6])
def test_the_least_share_solves_its_equation_and_is_no_more_than_the_law_of_one_direction(m, alpha):
    x = least_share(m, alpha)
    assert m / 2 * (x - 1 - math.log(x)) == pytest.approx(math.log(1 / alpha), rel=1e-8)
    assert chi2.cdf(m * x, m) <= alpha  # of rank one the law is known


@pytest.mark.parametrize("name", SPECTRA)
@pytest.mark.parametrize("m", [2, 16])
def test_intervals_are_right_at_least_as_often_as_stated(name, m):
    values, runs, alpha = SPECTRA[name], 1000, 0.1 / 3
    squares = np.random.default_rng(m).chisquare(1, (runs, m, len(values)))
    means = (squares @ values).mean(1)
    square = (squares @ values**2).mean(1)
    bound = np.array([math.sqrt(most_trace(x, m, alpha)) for x in square])
    half = np.array([deviation(f, f, m, alpha) for f in bound])
    wrong = (np.abs(means - values.sum()) > half).mean()
    assert wrong <= 0.1
    assert (bound < np.linalg.norm(values)).mean() <= alpha + 3 * math.sqrt(alpha / runs)
    # the wrong variants: as if there were sixteen times as many probes, or no second term for a single direction
    narrow = np.array([deviation(f, f, 16 * m, alpha) for f in np.sqrt(square)])
    assert (np.abs(means - values.sum()) > narrow).mean() > 0.1


def test_the_width_is_no_more_than_three_times_that_of_the_normal_law():
    f, m = 1.0, 64
    ours = deviation(f * math.sqrt(1 / least_share(m, 0.05 / 3)), f / 10, m, 0.05 / 3)
    assert 1.96 * math.sqrt(2 / m) < ours < 3 * 1.96 * math.sqrt(2 / m)
