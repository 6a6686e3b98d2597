"""What a finished run answers: any threshold named beforehand, a band for all of them, and no nonsense."""

import numpy as np
import pytest
import torch

from lanczos_saddle import count_eigenvalues, recount
from lanczos_saddle.certificates.intervals import Bounds, Masses, joint_intervals
from lanczos_saddle.certificates.quadrature import Bracket

VALUES = torch.cat([torch.zeros(60), torch.linspace(-0.2, 1.0, 140)]).double()


@pytest.fixture(scope="module")
def counts():
    return count_eigenvalues(VALUES.diag(), threshold=0.1, method="lanczos", probes=4, steps=40, precision=1e-6)


def test_recount_holds_and_forgets_nothing(counts):
    again = recount(counts, 0.05)
    assert again.threshold == 0.05
    assert int((VALUES < -0.05).sum()) in again.negative
    assert int((VALUES.abs() <= 0.05).sum()) in again.near_zero
    assert int((VALUES > 0.05).sum()) in again.positive
    assert again.near_zero != counts.near_zero
    back = recount(again, 0.1)
    assert (back.negative, back.near_zero, back.positive) == (counts.negative, counts.near_zero, counts.positive)


def test_recount_of_an_exact_count_is_exact():
    exact = count_eigenvalues(VALUES.diag(), threshold=0.1, method="exact")
    for tau in (0.02, 0.07, 0.5):
        found = recount(exact, tau)
        true = [int((-tau > VALUES).sum()), int((VALUES.abs() <= tau).sum()), int((tau < VALUES).sum())]
        assert [found.negative.lower, found.near_zero.lower, found.positive.lower] == true
        assert [found.negative.upper, found.near_zero.upper, found.positive.upper] == true


def test_the_band_holds_everywhere_and_increases(counts):
    thresholds = np.linspace(-0.25, 1.1, 40)
    band = counts.evidence.band(thresholds, 0.95)
    true = np.array([(VALUES.numpy() <= t).sum() for t in thresholds])
    assert (band.lower <= true).all()
    assert (true <= band.upper).all()
    assert (np.diff(band.lower) >= 0).all()
    assert (np.diff(band.upper) >= 0).all()
    assert band.lower[-1] >= len(VALUES) - 5  # the spectrum ends before the last threshold


def test_the_order_of_thresholds_does_not_matter(counts):
    forward, backward = (counts.evidence.band(t, 0.9) for t in ([-0.1, 0.3, 0.6], [0.6, 0.3, -0.1]))
    assert (forward.thresholds == backward.thresholds).all()
    assert (forward.lower == backward.lower).all()
    assert (forward.upper == backward.upper).all()


@pytest.mark.parametrize("thresholds", [[], [0.0, 0.1], [np.nan]])
def test_a_band_refuses_thresholds_it_cannot_serve(counts, thresholds):
    with pytest.raises(ValueError, match="finite thresholds other than 0"):
        counts.evidence.band(thresholds, 0.95)


@pytest.mark.parametrize("confidence", [0.0, 1.0, 95, float("nan")])
def test_confidence_is_a_probability(counts, confidence):
    for ask in (counts.evidence.band, counts.evidence.intervals):
        with pytest.raises(ValueError, match="confidence must be between 0 and 1"):
            ask([0.1] if ask == counts.evidence.band else 0.1, confidence)


@pytest.mark.parametrize("threshold", [0.0, -1.0, float("nan")])
def test_thresholds_are_positive(counts, threshold):
    with pytest.raises(ValueError, match="threshold must be positive"):
        recount(counts, threshold)
    with pytest.raises(ValueError, match="threshold must be positive"):
        counts.evidence.intervals(threshold, 0.95)


def test_bounds_that_always_hold_beat_an_interval_outside_of_them():
    """A single number would look exact; the bounds stand alone."""
    masses = Masses(Bracket(0.5, 0.5), Bracket(0.6, 0.6))
    bounds = Bounds(negative_least=1, negative_most=3)
    negative, _, _ = joint_intervals(masses, bounds, probes=8, size=400, confidence=0.9)
    assert (negative.lower, negative.estimate, negative.upper) == (1, 3.0, 3)
