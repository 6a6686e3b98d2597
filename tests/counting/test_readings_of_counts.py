"""Counts at many thresholds against the spectrum itself; how intervals closed against runs that were that short."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from lanczos_saddle import PrescribedSpectrum, count_eigenvalues, recount
from lanczos_saddle.certificates import quadrature
from lanczos_saddle.counting.readings import closing, readings
from lanczos_saddle.density import density_of
from lanczos_saddle.krylov import lanczos

VALUES = np.concatenate([-np.geomspace(1e-3, 0.5, 12), np.geomspace(1e-7, 2e-5, 30), np.geomspace(1e-3, 1, 38)])


def truth(values, tau):
    return [int((values < -tau).sum()), int((np.abs(values) <= tau).sum()), int((values > tau).sum())]


def inside(truth, bounds):
    return all(low <= n <= high for n, (low, high) in zip(truth, bounds, strict=True))


@pytest.fixture(scope="module")
def sampled():
    operator = PrescribedSpectrum(torch.tensor(VALUES), generator=torch.Generator().manual_seed(3))
    return count_eigenvalues(operator, threshold=2e-4, probes=3, steps=24, precision=1e-9, method="lanczos")


@pytest.fixture(scope="module")
def read(sampled):
    return readings(sampled, [3e-3])


def test_each_threshold_is_what_recount_gives(sampled, read):
    assert {2e-4, 3e-3} <= set(read.thresholds)
    assert (np.diff(read.thresholds) > 0).all()
    for tau, bounds, estimates in zip(read.thresholds, read.alone, read.estimates, strict=True):
        again = recount(sampled, float(tau))
        three = (again.negative, again.near_zero, again.positive)
        assert bounds.tolist() == [[i.lower, i.upper] for i in three]
        assert estimates.tolist() == [i.estimate for i in three]


def test_all_at_once_hold_for_the_spectrum_and_are_no_narrower_than_each_share_allows(sampled, read):
    share = 1 - (1 - sampled.confidence) / len(read.thresholds)
    for tau, bounds in zip(read.thresholds, read.together, strict=True):
        assert inside(truth(VALUES, tau), bounds)
        own = sampled.evidence.intervals(float(tau), share)
        assert all(i.lower <= low <= high <= i.upper for i, (low, high) in zip(own, bounds, strict=True))
    assert (np.diff(read.together[:, [0, 2]], axis=0) <= 0).all()  # as tau grows both ends fall
    assert (np.diff(read.together[:, 1], axis=0) >= 0).all()


def test_between_thresholds_the_envelope_holds(read):
    for tau in np.geomspace(read.thresholds[0], 10 * read.thresholds[-1], 200):
        assert inside(truth(VALUES, tau), read.at(float(tau)))
    left, right = read.thresholds[3:5]
    middle = read.at(float((left + right) / 2))
    assert middle.tolist() == [
        [read.together[4, 0, 0], read.together[3, 0, 1]],
        [read.together[3, 1, 0], read.together[4, 1, 1]],
        [read.together[4, 2, 0], read.together[3, 2, 1]],
    ]
    assert (read.at(float(left)) == read.together[3]).all()
    with pytest.raises(ValueError, match="readings begin at"):
        read.at(read.thresholds[0] / 2)


def test_exact_counts_read_the_staircase():
    matrix = torch.diag(torch.tensor(VALUES))
    found = readings(count_eigenvalues(matrix, threshold=1e-4, method="exact"))
    assert (found.alone == found.together).all()
    for tau, bounds in zip(found.thresholds, found.together, strict=True):
        if np.abs(np.abs(VALUES) / tau - 1).min() > 1e-9:
            assert bounds.tolist() == [[n, n] for n in truth(VALUES, tau)]
    assert found.thresholds[0] <= 2e-8
    assert found.thresholds[-1] > 1


def test_a_count_that_knows_one_threshold_is_read_there():
    counts = count_eigenvalues(torch.zeros(4, 4, dtype=torch.float64), threshold=1e-3, method="lanczos")
    found = readings(counts)
    assert found.thresholds.tolist() == [1e-3]
    assert found.alone.tolist() == [[[0, 0], [4, 4], [0, 0]]]
    assert closing(counts) is None


def test_closing_is_what_shorter_runs_of_the_same_probes_gave(sampled):
    found = closing(sampled)
    assert found.steps.tolist() == [16, 21, 24]
    assert found.steps[-1] == sampled.steps
    assert found.products[-1] == sampled.products
    three = (sampled.negative, sampled.near_zero, sampled.positive)
    assert found.intervals[-1].tolist() == [[i.lower, i.upper] for i in three]
    operator = PrescribedSpectrum(torch.tensor(VALUES), generator=torch.Generator().manual_seed(3))
    options = {"threshold": 2e-4, "probes": 3, "precision": 1e-9, "method": "lanczos", "reorthogonalize": True}
    for steps, products, bounds in zip(found.steps[:-1], found.products[:-1], found.intervals[:-1], strict=True):
        short = count_eigenvalues(operator, steps=int(steps), **options)
        assert short.products == products
        assert inside(truth(VALUES, 2e-4), bounds)
        for own, (low, high) in zip((short.negative, short.near_zero, short.positive), bounds, strict=True):
            assert low <= own.lower <= own.upper <= high  # Cauchy's bounds may narrow it


@pytest.fixture(scope="module")
def large():
    """Beyond 256 products, where thresholds are read from one rule a probe."""
    operator = PrescribedSpectrum(torch.tensor(np.tile(VALUES, 5)), generator=torch.Generator().manual_seed(3))
    return count_eigenvalues(operator, threshold=2e-4, probes=10, steps=30, precision=1e-9, method="lanczos")


def test_a_large_run_is_read_from_one_rule_a_probe_wider_and_still_right(large):
    assert large.steps * 10 > 256
    found = readings(large)
    values = np.tile(VALUES, 5)
    for tau, alone, together in zip(found.thresholds, found.alone, found.together, strict=True):
        assert inside(truth(values, tau), together)
        again = recount(large, float(tau))
        for own, (low, high) in zip((again.negative, again.near_zero, again.positive), alone, strict=True):
            assert low <= own.lower <= own.upper <= high
    own = found.alone[found.thresholds.tolist().index(large.threshold)]
    assert own.tolist() == [[i.lower, i.upper] for i in (large.negative, large.near_zero, large.positive)]
    assert large.evidence.at_several(2e-4, (0.95, 0.99)) == [large.evidence.intervals(2e-4, c) for c in (0.95, 0.99)]


def test_readings_of_a_large_run_take_one_eigendecomposition_a_probe(monkeypatch):
    """What the count has bracketed at its own threshold is not bracketed again, for any confidence."""
    operator = PrescribedSpectrum(torch.tensor(np.tile(VALUES, 5)), generator=torch.Generator().manual_seed(3))
    made = []
    for module in (quadrature, lanczos):
        rule = module.gauss_rule
        monkeypatch.setattr(module, "gauss_rule", lambda *given, rule=rule: made.append(len(given[0])) or rule(*given))
    counts = count_eigenvalues(operator, threshold=2e-4, probes=10, steps=30, precision=1e-9, method="lanczos")
    del made[:]
    found = readings(counts)
    assert made == [30] * 10
    density_of(counts.evidence.run, size=counts.size)
    readings(counts, [1e-3])
    assert made == [30] * 10  # the same rules
    share = 1 - (1 - counts.confidence) / len(found.thresholds)
    place = found.thresholds.tolist().index(2e-4)
    fresh = replace(counts.evidence, compression=None, bracketed={}).intervals(2e-4, share)
    for own, (low, high) in zip(fresh, found.together[place], strict=True):
        assert own.lower <= low <= high <= own.upper
    del made[:]
    looks = len(closing(counts).steps) - 1
    assert len(made) <= looks * 10 * 4
