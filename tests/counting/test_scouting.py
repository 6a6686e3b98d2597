"""A budget is planned: what is chosen, that it is as wide as foretold, and right as often as it says."""

import logging

import pytest
import torch
from matrices import seeded
from scipy.stats import binom

from lanczos_saddle import (
    JointCounts,
    Lanczos,
    Projected,
    SampledEvidence,
    as_operator,
    check_operator,
    count_eigenvalues,
    recount,
)
from lanczos_saddle.certificates.deflation import deflate
from lanczos_saddle.operators.prescribed import PrescribedSpectrum

CONFIDENCE = 0.8
BULK = torch.cat([torch.linspace(-1e-3, 1e-3, 260, dtype=torch.float64), torch.zeros(60, dtype=torch.float64)])
FEW = torch.cat([-torch.logspace(-1.6, -0.2, 12, dtype=torch.float64), torch.logspace(-1.6, 0.3, 28).double(), BULK])
EVEN = torch.cat([-torch.logspace(-4, -0.5, 100, dtype=torch.float64), torch.logspace(-4, 0, 260).double()])
OPTIONS = {"method": "lanczos", "precision": 1e-9, "confidence": CONFIDENCE}


def truth(values, tau):
    return [int((values < -tau).sum()), int((values.abs() <= tau).sum()), int((values > tau).sum())]


def answers(counts):
    return (counts.negative, counts.near_zero, counts.positive)


def holds(counts, values):
    return all(n in interval for n, interval in zip(truth(values, counts.threshold), answers(counts), strict=True))


def test_few_eigenvalues_beyond_tau_come_out_exact():
    operator = PrescribedSpectrum(FEW, seeded(1))
    counts = count_eigenvalues(operator, threshold=1e-2, max_products=250, **OPTIONS)
    assert counts.plan.startswith("deflated")
    assert [i.lower for i in answers(counts)] == truth(FEW, 1e-2)
    assert all(i.width == 0 for i in answers(counts))
    assert counts.products == sum(counts.spent.values()) <= 250
    plain = count_eigenvalues(operator, threshold=1e-2, max_products=250, probes=4, **OPTIONS)
    assert max(i.width for i in answers(plain)) > 4


def test_the_vectors_that_are_taken_out_bound_both_counts_without_chance():
    """Whatever the probes: with the smallest confidence that can be asked for, at least so many are found."""
    operator = PrescribedSpectrum(FEW, seeded(1))
    options = {**OPTIONS, "confidence": 1e-6}
    counts = count_eigenvalues(operator, threshold=1e-2, max_products=250, **options)
    negative, _, positive = truth(FEW, 1e-2)
    assert (counts.negative.lower, counts.positive.lower) == (negative, positive)


def test_no_product_is_made_for_the_vectors_alone():
    """Their products come from the recurrence; the witness verifies them with all others at the end."""
    made = 0

    def multiply(v):
        nonlocal made
        made += v.shape[1]
        return inner @ v

    inner = PrescribedSpectrum(FEW, seeded(1))
    counted = as_operator(multiply, len(FEW), dtype=torch.float64)
    counts = count_eigenvalues(counted, threshold=1e-2, max_products=250, **OPTIONS)
    assert made == counts.products <= 250
    assert counts.spent["deflation"] > 0


def test_a_product_that_is_wrong_once_in_the_scouting_run_is_refused():
    calls = 0

    def multiply(v):
        nonlocal calls
        calls += 1
        product = inner @ v
        return product if calls != 14 else product + 1e-3 * torch.roll(v, 1, 0)

    inner = PrescribedSpectrum(FEW, seeded(1))
    with pytest.raises(ValueError, match="the operator must stay the same"):
        count_eigenvalues(
            as_operator(multiply, len(FEW), dtype=torch.float64), threshold=1e-2, max_products=250, **OPTIONS
        )


@pytest.mark.parametrize(
    ("values", "tau", "budget", "way"),
    [
        (FEW, 1e-2, 200, "deflated"),
        pytest.param(EVEN, 3e-2, 200, "deflated", marks=pytest.mark.slow),
        pytest.param(EVEN, 1e-3, 160, "plain", marks=pytest.mark.slow),
    ],
)
def test_every_way_is_right_as_often_as_it_says(values, tau, budget, way):
    """Scouting, plan, vectors, probes anew for every seed."""
    right, ways, seeds = 0, set(), 60
    for seed in range(seeds):
        operator = PrescribedSpectrum(values, seeded(7))
        counts = count_eigenvalues(operator, threshold=tau, max_products=budget, generator=seeded(seed), **OPTIONS)
        right += holds(counts, values)
        ways.add(counts.plan.split(",")[0])
    assert way in ways
    assert binom.cdf(right, seeds, CONFIDENCE) > 1e-3


def test_what_is_foretold_comes_about():
    for values, tau in ((EVEN, 3e-2), (EVEN, 1e-2), (FEW, 1e-2)):
        counts = count_eigenvalues(PrescribedSpectrum(values, seeded(7)), threshold=tau, max_products=220, **OPTIONS)
        foretold = int(counts.plan.rsplit(" ", 1)[1])
        assert max(i.width for i in answers(counts)) <= 2 * foretold + 5


def test_the_plan_is_said_before_the_long_part(caplog):
    with caplog.at_level(logging.INFO, "lanczos_saddle"):
        counts = count_eigenvalues(PrescribedSpectrum(EVEN, seeded(7)), threshold=1e-2, max_products=220, **OPTIONS)
    assert [record.getMessage() for record in caplog.records] == [f"plan: {counts.plan}"]


def test_several_thresholds_from_one_run():
    operator = PrescribedSpectrum(EVEN, seeded(7))
    found = count_eigenvalues(operator, relative_threshold=[1e-1, 1e-2, 1e-3], max_products=200, **OPTIONS)
    assert isinstance(found, JointCounts)
    assert len(found) == 3
    assert found.confidence == CONFIDENCE
    assert found.products == found[0].products <= 200
    largest = found[0].threshold / 1e-1
    assert [c.threshold for c in found] == pytest.approx([largest * r for r in (1e-1, 1e-2, 1e-3)])
    assert all(holds(counts, EVEN) for counts in found)
    assert [c.confidence for c in found] == pytest.approx([1 - 0.2 / 3] * 3)
    assert answers(recount(found[2], found[0].threshold)) == answers(found[0])


@pytest.mark.parametrize("method", ["exact", "auto", "lanczos"])
def test_several_thresholds_whatever_the_method(method):
    matrix = torch.diag(EVEN)
    found = count_eigenvalues(matrix, threshold=(1e-3, 2e-2), method=method)
    assert [c.threshold for c in found] == [1e-3, 2e-2]
    assert all(holds(counts, EVEN) for counts in found)


@pytest.mark.slow
def test_several_thresholds_are_right_together():
    """Joint coverage over 60 seeds; each alone at its share."""
    operator, right = PrescribedSpectrum(EVEN, seeded(7)), 0
    for seed in range(60):
        found = count_eigenvalues(
            operator, threshold=[1e-3, 1e-2, 1e-1], max_products=150, generator=seeded(seed), **OPTIONS
        )
        right += all(holds(counts, EVEN) for counts in found)
    assert binom.cdf(right, 60, CONFIDENCE) > 1e-3


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"threshold": []}, "one number, or several that all differ"),
        ({"threshold": [1e-2, 1e-2]}, "one number, or several that all differ"),
        ({"threshold": [1e-2, -1.0]}, "a threshold must be positive"),
        ({"threshold": ["a"]}, "each threshold must be a number"),
        ({"relative_threshold": [1e-2, 2.0]}, "relative_threshold must be below 1"),
        ({"threshold": [1e-2], "relative_threshold": [1e-2]}, "pass one of threshold"),
    ],
)
def test_several_thresholds_that_make_no_sense_are_refused(asked, said):
    with pytest.raises(ValueError, match=said):
        count_eigenvalues(torch.diag(EVEN), method="lanczos", **asked)


def right_on_the_complement(own: bool, seeds: int = 200) -> int:
    """How often the count above tau is right, with vectors from another run, or from that of the probe itself.

    All Ritz vectors beyond tau are taken, converged or not: what they move is in the correction.
    """
    values, tau, right = torch.linspace(-1, 1, 120, dtype=torch.float64), 0.55, 0
    matrix = torch.diag(values)
    check = check_operator(matrix)
    for seed in range(seeds):
        probe = torch.randn(120, 1, generator=seeded(seed), dtype=torch.float64)
        other = probe if own else torch.randn(120, 1, generator=seeded(10**6 + seed), dtype=torch.float64)
        run = Lanczos(matrix, other, capacity=10)
        theta, rotation = torch.linalg.eigh(tridiagonal(run.extend(10)))
        vectors = run.basis[0].mT @ rotation[:, theta > tau]
        vectors, deflation, checked = deflate(vectors, matrix @ vectors, check)
        target = Projected(matrix, vectors)
        evidence = SampledEvidence(
            Lanczos(target, target.project(probe), capacity=100).extend(100), 120, 0, 1e-12, None, None, None, deflation
        )
        assert checked.noise < 1e-12
        right += truth(values, tau)[2] in evidence.intervals(tau, CONFIDENCE)[2]
    return right


@pytest.mark.slow
def test_vectors_from_the_run_that_counts_are_wrong_too_often():
    assert binom.cdf(right_on_the_complement(own=False), 200, CONFIDENCE) > 1e-3
    assert binom.cdf(right_on_the_complement(own=True), 200, CONFIDENCE) < 1e-6


def tridiagonal(run):
    alpha, beta = (torch.from_numpy(c) for c in run.coefficients(0))
    return torch.diag(alpha) + torch.diag(beta[:-1], 1) + torch.diag(beta[:-1], -1)


@pytest.mark.parametrize(
    "values",
    [
        torch.cat([torch.ones(50), 0.7 * torch.ones(50)]).double(),
        torch.cat([torch.ones(50), -torch.ones(50), 0.5 * torch.ones(50)]).double(),
        torch.linspace(0.5, 1, 200, dtype=torch.float64),
    ],
)
def test_a_run_that_finds_everything_leaves_nothing_to_foretell(values):
    counts = count_eigenvalues(PrescribedSpectrum(values, seeded(2)), threshold=0.1, max_products=500, **OPTIONS)
    assert holds(counts, values)


@pytest.mark.parametrize("tau", [1e-3, 1e-1])
def test_a_budget_beyond_a_small_space_tells_nearly_all(tau):
    """A semicircle of 200 eigenvalues, 500 products, none of them for an assembly."""
    raw = torch.randn(200, 200, generator=seeded(3), dtype=torch.float64)
    matrix = (raw + raw.mT) / 40
    values = torch.linalg.eigvalsh(matrix)
    operator = as_operator(lambda v: matrix @ v, 200, dtype=torch.float64)
    counts = count_eigenvalues(operator, threshold=tau, max_products=500, **{**OPTIONS, "confidence": 0.999})
    assert holds(counts, values)
    assert max(i.width for i in answers(counts)) <= 12


def test_no_basis_is_kept_where_none_is_wanted():
    operator = PrescribedSpectrum(FEW, seeded(1))
    counts = count_eigenvalues(operator, threshold=1e-2, max_products=250, reorthogonalize=False, **OPTIONS)
    assert counts.plan.startswith("plain")
    assert "deflation" not in counts.spent
    assert counts.evidence.compression is None


def test_null_vectors_of_dead_coordinates_alone_are_taken_as_they_are():
    values = torch.cat([torch.linspace(-1, 1, 60, dtype=torch.float64), torch.zeros(10, dtype=torch.float64)])
    unit = torch.zeros(70, 1, dtype=torch.float64)
    unit[65] = 1
    counts = count_eigenvalues(torch.diag(values), threshold=0.1, max_products=200, null_vectors=unit, **OPTIONS)
    assert holds(counts, values)
