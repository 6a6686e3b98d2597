"""A budget divided between probes and depth: near the best of a grid, and the law of the probes untouched."""

import numpy as np
import pytest
import torch
from matrices import seeded
from scipy.stats import binom

from lanczos_saddle import Lanczos, Tridiagonalization, count_eigenvalues
from lanczos_saddle.certificates.intervals import Bounds, certified_masses, joint_intervals
from lanczos_saddle.certificates.quadrature import Bracket
from lanczos_saddle.counting.allocation import PROBES, Pilot, Room, allocate, pilot, pilot_steps
from lanczos_saddle.krylov.preflight import check_operator
from lanczos_saddle.operators.prescribed import PrescribedSpectrum, clustered_spectrum
from lanczos_saddle.operators.resolution import deepest
from lanczos_saddle.studies.known_problems import spectrum

CONFIDENCE = 0.95
SPECTRA = {
    "clusters beside tau": 1500,
    "clusters beside a small tau": 1500,
    "uniform": 2000,
    "no negative eigenvalue": 1500,
}
"""Name -> N."""


def probe(size, generator):
    return torch.randn(size, 1, generator=generator, dtype=torch.float64)


def width(operator, tau, probes, steps):
    """Of the negative and the positive interval, median over three sets of probes."""
    size, widths = operator.shape[0], []
    for seed in range(3):
        run = Lanczos(operator, torch.randn(size, probes, generator=seeded(seed), dtype=torch.float64)).extend(steps)
        found = joint_intervals(
            certified_masses(run, tau, 1e-13), Bounds(), probes=probes, size=size, confidence=CONFIDENCE
        )
        widths.append(found[0].width + found[2].width)
    return float(np.median(widths))


@pytest.mark.parametrize("name", SPECTRA)
@pytest.mark.parametrize("budget", [256, pytest.param(1024, marks=pytest.mark.slow)])
def test_the_allocation_is_near_the_best_of_a_grid(name, budget):
    """Within 1.5 of the best that the whole budget, pilot included, could have bought in hindsight."""
    values, tau = spectrum(name, SPECTRA[name])
    operator, size = PrescribedSpectrum(values, seeded(5)), len(values)
    steps = pilot_steps(budget, size)
    seen = pilot(operator, probe(size, seeded(9)), tau, steps)
    plan = allocate([seen], Room(budget - steps, size, size, 1), CONFIDENCE)
    assert plan.probes * plan.steps <= budget - steps
    best = min(width(operator, tau, m, min(budget // m, size)) for m in (1, 2, 4, 8, 16, 32))
    assert width(operator, tau, plan.probes, plan.steps) <= 1.5 * best + 2


def test_the_optimum_of_the_model_is_found():
    """Brackets that shrink like 1 / k: the width against all numbers of probes, not only those compared."""
    seen = Pilot(Bracket(0.1, 0.3), Bracket(0.5, 0.7), (1.0, 1.0), 50, 5000)
    plan = allocate([seen], Room(2000, 5000, 5000, 1), CONFIDENCE)
    assert plan.probes in PROBES
    best = min(allocate([seen], Room(2000, 5000, 2000 // m, m), CONFIDENCE).width for m in range(1, 65))
    assert plan.width <= 1.03 * best


def test_more_budget_goes_into_both():
    seen = Pilot(Bracket(0.1, 0.3), Bracket(0.5, 0.7), (1.0, 1.0), 50, 5000)
    plans = [allocate([seen], Room(b, 5000, 5000, 1), CONFIDENCE) for b in (200, 2000, 20000)]
    assert plans[0].probes < plans[1].probes < plans[2].probes
    assert plans[0].steps < plans[1].steps < plans[2].steps
    assert plans[0].width > plans[1].width > plans[2].width


@pytest.mark.slow
def test_the_choice_keeps_the_coverage():
    """Pilot, choice and count anew for every seed: joint intervals are right as often as they say."""
    values, tau = clustered_spectrum(200, 1e-2, seeded(0)), 1e-2
    operator = PrescribedSpectrum(values, seeded(1))
    true, right, chosen, trials = operator.count(tau), 0, set(), 120
    for seed in range(trials):
        streams = seeded(2 * seed), seeded(10**6 + seed)
        seen = pilot(operator, probe(200, streams[0]), tau, 16)
        plan = allocate([seen], Room(112, 200, 200, 1), CONFIDENCE)
        chosen.add(plan.probes)
        gaussian = torch.randn(200, plan.probes, generator=streams[1], dtype=torch.float64)
        run = Lanczos(operator, gaussian).extend(plan.steps)
        found = joint_intervals(
            certified_masses(run, tau, 1e-13), Bounds(), probes=plan.probes, size=200, confidence=CONFIDENCE
        )
        right += all(count in interval for count, interval in zip(true, found, strict=True))
    assert len(chosen) > 1  # the choice does adapt to its pilot
    assert binom.cdf(right, trials, CONFIDENCE) > 1e-3


def test_the_face_divides_a_budget():
    values, tau = spectrum("uniform", SPECTRA["uniform"])
    operator = PrescribedSpectrum(values, seeded(5))
    counts = count_eigenvalues(operator, threshold=tau, method="lanczos", max_products=700, precision=1e-6)
    assert 600 < counts.products <= 700
    assert isinstance(counts.evidence.run, Tridiagonalization)
    fixed = count_eigenvalues(
        operator, threshold=tau, method="lanczos", probes=32, max_products=700, precision=1e-6
    )  # what the precision alone would have planned is 64
    assert fixed.probes == 32
    assert counts.negative.width + counts.positive.width < fixed.negative.width + fixed.positive.width
    assert operator.count(tau)[0] in counts.negative


def test_noise_limits_the_depth():
    operator = PrescribedSpectrum(torch.linspace(-1, 1, 500), seeded(0), dtype=torch.float32)
    check = check_operator(operator)
    assert deepest(0.1, check, 500) == 500
    assert 1 <= deepest(100 * check.noise + 1e-12, check, 500) < 500


def test_a_budget_below_one_step_is_refused():
    seen = Pilot(Bracket(0.1, 0.3), Bracket(0.5, 0.7), (1.0, 1.0), 50, 5000)
    with pytest.raises(ValueError, match="must reach one step for each of 4 probes"):
        allocate([seen], Room(3, 100, 100, 4), CONFIDENCE)


def test_a_pilot_that_has_closed_is_not_foretold_backwards():
    values = torch.cat([torch.linspace(-1e-3, 1e-3, 292, dtype=torch.float64), torch.tensor([-1.0, -0.9] + [1.0] * 6)])
    operator = PrescribedSpectrum(values, seeded(0), torch.float64)
    seen = pilot(operator, probe(300, seeded(1)), 0.05, 16)
    below, _ = seen.brackets(16)
    assert below.upper - below.lower < 1e-6
    early, _ = seen.brackets(1)
    assert early.upper - early.lower > 0.1
    counts = count_eigenvalues(operator, threshold=0.05, method="lanczos", max_products=200)
    assert counts.steps >= 4
    assert counts.negative.width <= 2
