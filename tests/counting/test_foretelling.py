"""Widths that are foretold, beside the widths that came; a recurrence simulated, beside `Lanczos`."""

import numpy as np
import pytest
import torch
from matrices import seeded

from lanczos_saddle import Lanczos
from lanczos_saddle.certificates.intervals import pooled_bracket
from lanczos_saddle.counting.foretelling import Likeness, likeness, ritz, settled
from lanczos_saddle.operators.prescribed import PrescribedSpectrum

SIZE = 1500


def spread(decades=5.0, negative=0.2):
    """Even in log |lambda| over some decades on both sides of 0, as spectra of networks are."""
    count = int(negative * SIZE)
    below, above = (np.logspace(-decades, 0, n) for n in (count, SIZE - count))
    return torch.from_numpy(np.concatenate([-below, above]))


def recurrence(values, steps, seed=1):
    operator = PrescribedSpectrum(values, seeded(5))
    probe = torch.randn(len(values), 1, generator=seeded(seed), dtype=torch.float64)
    return Lanczos(operator, probe, capacity=steps).extend(steps)


def test_a_simulated_run_is_a_lanczos_run():
    values = np.linspace(-1, 2, 60) ** 3
    like = Likeness(values, 60, 1.0)
    found = like.run(25)
    q = np.random.default_rng(0).standard_normal(60)
    true = Lanczos(torch.diag(torch.from_numpy(values)), torch.from_numpy(q)[:, None]).extend(25)
    np.testing.assert_allclose(found.diagonal, true.diagonal[0], atol=1e-12)
    np.testing.assert_allclose(found.offdiagonal, true.offdiagonal[0], atol=1e-12)


def test_a_run_that_closes_ends():
    found = Likeness(np.repeat([-1.0, 0.0, 2.0], 10), 30, 1.0).run(20)
    assert len(found.diagonal) == 3
    assert found.bracket(20, 1.0).width < 1e-9


@pytest.mark.parametrize("depth", [120, 300])
@pytest.mark.parametrize("tau", [1e-2, 1e-3])
def test_brackets_are_foretold_from_a_tenth_of_the_depth(depth, tau):
    """Within a factor of three of what the run then has, where the power law of the pilot is off by ten."""
    values = spread()
    seen = recurrence(values, 30)
    like = likeness(*seen.coefficients(0), SIZE, depth)
    found = like.run(depth)
    true = recurrence(values, depth, seed=2)
    for t in (-tau, tau):
        came, foretold = pooled_bracket(true, t).width, found.bracket(like.steps(depth), t).width
        assert came / 3 - 2 / SIZE <= foretold <= 3 * came + 2 / SIZE


def test_what_lies_beyond_is_as_many_as_there_are():
    values = spread()
    like = likeness(*recurrence(values, 40).coefficients(0), SIZE, 200)
    for tau in (1e-1, 1e-2, 1e-3):
        true = float((values.abs() > tau).double().mean())
        assert np.mean(np.abs(like.values) > tau) == pytest.approx(true, rel=0.25)
    assert len(like.values) == pytest.approx(like.share * SIZE, abs=1)


def test_known_zeros_are_taken_out():
    zeros = 500
    values = torch.cat([spread(), torch.zeros(zeros, dtype=torch.float64)])
    like = likeness(*recurrence(values, 40).coefficients(0), SIZE, 200, zeros=zeros)
    assert float(np.mean(like.values == 0)) < 0.1


def test_converged_ritz_values_are_eigenvalues():
    values = spread()
    run = recurrence(values, 80)
    found, residuals = ritz(*run.coefficients(0))
    mask = settled(found, residuals, 1e-2)
    assert 5 < mask.sum() < 80
    assert np.abs(found[mask][:, None] - values.numpy()).min(axis=1).max() < 1e-4
    assert np.abs(found[mask]).min() > 1e-2


def test_a_huge_operator_is_foretold_from_few_values():
    like = likeness(*recurrence(spread(), 30).coefficients(0), 10**9, 400)
    assert len(like.values) <= 100_000
    assert like.steps(400) >= 48
