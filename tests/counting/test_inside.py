"""How many eigenvalues lie in [a, b]: against closed forms and dense float64, as often right as stated."""

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from matrices import F64, as_products, diagonal_products, rotated, seeded, symmetric
from scipy.stats import binom

from lanczos_saddle import count_in
from lanczos_saddle.certificates.beta_interval import count_at_least, count_at_most
from lanczos_saddle.certificates.intervals import Masses, Outside, inside_interval
from lanczos_saddle.certificates.quadrature import Bracket
from lanczos_saddle.counting.inside import _middle

N = 300
VALUES = np.concatenate([np.linspace(-3, -1, 120), np.linspace(0.5, 0.6, 12), np.linspace(2, 9, 168)])


def truth(values, a, b):
    values = np.asarray(values)
    return int((values < a).sum()), int(((values >= a) & (values <= b)).sum()), int((values > b).sum())


def three(found):
    return found.below, found.inside, found.above


@pytest.mark.parametrize("ends", [(0.45, 0.65), (-2, -1.5), (-3.5, 9.5), (10, 11), (3, 4), (0.0, 1e-3)])
def test_exact_counts_of_any_interval(ends):
    found = count_in(rotated(VALUES), *ends)
    assert found.method == "exact"
    assert tuple(i.lower for i in three(found)) == tuple(i.upper for i in three(found)) == truth(VALUES, *ends)


def test_both_ends_are_in():
    found = count_in(np.diag([1.0, 2, 3, 4]), 2, 3)
    assert 2 in found.inside  # at the ends rounding is left open: [0, 2]
    assert found.inside.lower <= 2 <= found.inside.upper
    assert found.below.lower == found.above.lower == 1
    a = np.nextafter(2.0, 3)
    assert truth([1, 2, 3, 4], a, 3)[1] == 1
    assert 1 in count_in(np.diag([1.0, 2, 3, 4]), a, 3).inside


def test_inertia_at_both_ends_of_a_laplacian():
    side = 56  # N = 3136: beyond what all eigenvalues are taken for
    path = sp.diags_array([-np.ones(side - 1), 2 * np.ones(side), -np.ones(side - 1)], offsets=[-1, 0, 1])
    laplacian = (sp.kron(path, sp.eye_array(side)) + sp.kron(sp.eye_array(side), path)).tocsr()
    one = 2 - 2 * np.cos(np.pi * np.arange(1, side + 1) / (side + 1))
    values = (one[:, None] + one).ravel()
    found = count_in(laplacian, 1.001, 3.002, method="lanczos", probes=4, steps=120)
    assert all(n in interval for n, interval in zip(truth(values, 1.001, 3.002), three(found), strict=True))
    assert 0 < found.inside.width < 200


@pytest.mark.slow
def test_inertia_beyond_all_eigenvalues():
    values = np.sort(np.random.default_rng(0).normal(size=3100))
    found = count_in(torch.diag(torch.as_tensor(values)), -0.3, 1.2, method="exact")
    assert three(found)[1].lower == three(found)[1].upper == truth(values, -0.3, 1.2)[1]


def test_few_eigenvalues_inside_many_beside_them():
    # from the two sides alone the middle would be as wide as they are
    found = count_in(as_products(rotated(VALUES)), 0.3, 0.8, method="lanczos", probes=8, steps=40, reorthogonalize=True)
    assert all(n in interval for n, interval in zip(truth(VALUES, 0.3, 0.8), three(found), strict=True))
    assert found.inside.width <= found.below.width / 2
    assert found.inside.lower >= 5


def test_complex_hermitian_matrices_are_counted_once():
    matrix = symmetric(40).numpy() + 1j * np.triu(symmetric(40, seed=1).numpy(), 1)
    matrix = (matrix + matrix.conj().T) / 2
    values = np.linalg.eigvalsh(matrix)
    for plan in ({}, {"method": "lanczos", "probes": 4, "steps": 40}):
        found = count_in(matrix, 0.5, 3.0, **plan)
        assert found.size == 40
        assert all(n in interval for n, interval in zip(truth(values, 0.5, 3.0), three(found), strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_an_interval_far_from_zero(dtype):
    # the ends are told to the rounding of numbers near 1000, no better
    values = 1000 + VALUES
    found = count_in(diagonal_products(values, dtype), 1000.3, 1000.8, method="lanczos", probes=4, steps=60)
    assert all(n in interval for n, interval in zip(truth(values, 1000.3, 1000.8), three(found), strict=True))


def test_the_middle_and_what_it_is_off_by():
    for low, high in ((0.1, 1e-20 + 0.3), (1000.1, 1000.3), (-1e30, 0.5), (1e-300, 1.0), (0.1, 0.1 + 1e-9)):
        middle, tau, error = _middle(low, high)
        for known, end in ((middle - tau, low), (middle + tau, high)):
            assert abs(known - end) <= error + np.spacing(abs(end) + abs(known))
    assert _middle(1.0, 3.0) == (2.0, 1.0, 0.0)


@pytest.mark.parametrize("ends", [(1, 1), (2, 1), (float("nan"), 1), (0, float("inf")), (None, 1), ("0", 1)])
def test_ends_that_are_no_interval_are_refused(ends):
    with pytest.raises(ValueError, match=r"a < b|must be a number"):
        count_in(np.eye(4), *ends)


@pytest.mark.parametrize(
    "options", [{"method": "elimination"}, {"confidence": 1.0}, {"probes": 0}, {"steps": N + 1}, {"precision": 2}]
)
def test_options_are_checked(options):
    with pytest.raises(ValueError):  # noqa: PT011
        count_in(rotated(VALUES), 0, 1, **options)


def test_an_interval_below_the_noise_is_refused():
    with pytest.raises(ValueError, match="threshold must be at least"):
        count_in(as_products(rotated(VALUES)), 0.5, 0.5 + 1e-14, method="lanczos", probes=2, steps=10)


def test_what_a_budget_allows():
    found = count_in(as_products(rotated(VALUES)), 0.3, 0.8, max_products=200)
    assert found.products <= 200
    assert sum(found.spent.values()) == found.products
    assert all(n in interval for n, interval in zip(truth(VALUES, 0.3, 0.8), three(found), strict=True))


# as often right as stated

FEW = np.repeat([-2.0, -1.0, 0.5, 1.0, 2.0], [60, 20, 6, 40, 74])
EXPERIMENTS = 200


def right(confidence, stated):
    """Whole calls that are right, of FEW, whose Krylov spaces close at once: only probes leave noise."""
    operator, wanted, count = diagonal_products(FEW), truth(FEW, 0.2, 0.8), 0
    for seed in range(EXPERIMENTS):
        found = count_in(
            operator, 0.2, 0.8, method="lanczos", probes=2, steps=5, confidence=confidence, generator=seeded(seed)
        )
        count += all(n in interval for n, interval in zip(wanted, three(found), strict=True))
    return binom.cdf(count, EXPERIMENTS, stated) > 1e-3, count / EXPERIMENTS


def test_whole_calls_are_right_as_often_as_stated():
    assert right(0.9, 0.9)[0]


def test_the_middle_alone_has_power_and_its_wrong_variants_fail():
    """Exact masses, so that the law itself is seen: six shares hold; the probes of one share too few do not."""
    rng, size, m, r = np.random.default_rng(0), 200, 2, 6
    parts = [rng.chisquare(m * n, 4000) for n in (80, r, 114)]
    total = sum(parts)
    low, mass = parts[0] / total, parts[1] / total

    def share_right(alpha, probes, law):
        hits = 0
        for below, inside in zip(low, mass, strict=True):
            found = law(below, inside, alpha, probes)
            hits += r in found
        return hits / len(low)

    def ours(below, inside, alpha, probes):
        masses = Masses(Bracket(below, below), Bracket(below + inside, below + inside))
        return inside_interval(masses, probes=probes, size=size, alpha=alpha, outside=Outside())

    def direct(below, inside, alpha, probes):
        return range(count_at_least(inside, probes, size, alpha), count_at_most(inside, probes, size, alpha) + 1)

    assert share_right(0.05, m, ours) == share_right(0.05, m, direct) >= 0.89
    assert share_right(0.05, m, ours) <= 0.97  # not all slack
    assert share_right(0.05, 8 * m, ours) < 0.8  # eight times the probes that were drawn


def test_corrections_that_pass_each_other_leave_nothing():
    masses = Masses(Bracket(0.2, 0.5), Bracket(0.4, 0.7))
    outside = Outside(5, (1, 2), (1, 2), zeros=3)
    found = inside_interval(masses, probes=4, size=100, alpha=0.01, outside=outside)
    assert found.lower == 3
    assert found.upper >= 3 + 3 + 50
