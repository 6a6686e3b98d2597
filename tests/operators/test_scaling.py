"""Matrices whose squares overflow or vanish, and pivots whose inverses do: right, or refused; never a quiet NaN."""

import math

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from matrices import holds, three

from lanczos_saddle import (
    as_operator,
    assemble,
    count_eigenvalues,
    exact_eigenvalues,
    inertia,
    recount,
    spectral_density,
)
from lanczos_saddle.operators.scaling import Scaled, exponent_to_one, largest_entry, scaled, times
from lanczos_saddle.operators.symmetric import frobenius, symmetrize

F64 = torch.float64
N = 60
spread = torch.linspace(-1, 3, N, dtype=F64)
ROTATION = torch.linalg.qr(torch.randn(N, N, generator=torch.Generator().manual_seed(0), dtype=F64)).Q
FULL = (ROTATION * spread) @ ROTATION.mT
FULL = (FULL + FULL.mT) / 2
PHASES = torch.arange(N, dtype=F64) / 7
FACTORS = [1e-306, 1e-200, 1e-160, 1e-120, 1e120, 1e160, 1e250, 1e300, 1e306]
WAYS = {
    "dense": lambda a: a,
    "diagonal": lambda a: torch.diag(torch.diagonal(ROTATION.mT @ (a / 2) @ ROTATION) * 2),
    "products": lambda a: as_operator(lambda v: a @ v, len(a), dtype=F64),
    "sparse": lambda a: sp.csr_array(a.numpy()),
    "complex": lambda a: torch.complex(a, 0 * a) * torch.exp(1j * (PHASES[:, None] - PHASES)),
}


@pytest.mark.parametrize("factor", [1e-200, 1.0, 1e200])
@pytest.mark.parametrize("budget", [{"probes": 2, "steps": 20}, {"max_products": 100}])
def test_every_product_is_booked(factor, budget):
    """Those that were made before the operator was scaled, too."""
    made = []
    matrix = FULL * factor
    operator = as_operator(lambda v: (made.append(v.shape[1] if v.ndim == 2 else 1), matrix @ v)[1], N, dtype=F64)
    counts = count_eigenvalues(operator, threshold=0.1 * factor, method="lanczos", **budget)
    assert counts.products == sum(made) == sum(counts.spent.values())
    assert counts.products <= budget.get("max_products", counts.products)
    made.clear()
    assert spectral_density(operator, probes=2, steps=10).products == sum(made)


@pytest.mark.parametrize("factor", FACTORS)
@pytest.mark.parametrize("way", WAYS)
def test_counts_of_any_size(way, factor):
    matrix = WAYS[way](FULL * factor)
    tau = 0.1 * factor
    exact = count_eigenvalues(matrix, threshold=tau, method="exact")
    assert [(i.lower, i.upper) for i in (exact.negative, exact.near_zero, exact.positive)] == [
        (n, n) for n in three(spread, 0.1)
    ]
    np.testing.assert_allclose(exact.eigenvalues / factor, spread, atol=1e-11)
    np.testing.assert_allclose(exact_eigenvalues(matrix) / factor, spread, atol=1e-11)
    assert inertia(matrix, 0.02 * factor) == (int((spread < 0.02).sum()), int((spread > 0.02).sum()))
    # at a confidence that no seed of rounding's choice misses: it is the size that is asked about
    for options in ({"probes": 4, "steps": 30}, {"max_products": 300}, {"probes": 4, "enumerate_negative": True}):
        counts = count_eigenvalues(matrix, threshold=tau, method="lanczos", confidence=0.9999, **options)
        assert holds(counts, three(spread, 0.1))
        assert holds(recount(counts, 0.3 * factor), three(spread, 0.3))
        assert counts.threshold == tau
        assert 1 < counts.check.scale / factor < 3.001
        assert 0 <= counts.noise / factor < 1e-12
    relative = count_eigenvalues(matrix, relative_threshold=0.1, method="lanczos", probes=4)
    assert relative.threshold / factor == pytest.approx(0.3, rel=1e-6)
    density = spectral_density(matrix, probes=4, steps=50)
    assert density.nodes[0] / factor == pytest.approx(-1, abs=1e-3)
    assert density.nodes[-1] / factor == pytest.approx(3, abs=1e-3)
    assert density.weights[density.nodes < 0].sum() == pytest.approx(0.25, abs=0.1)


@pytest.mark.parametrize("method", ["lapack", "blocked"])
@pytest.mark.parametrize("factor", FACTORS)
def test_inertia_of_any_size(factor, method):
    for t in (-0.5, 0.02, 1.3):
        found = inertia(FULL * factor, t * factor, method=method)
        assert found == (int((spread < t).sum()), int((spread > t).sum()))
        assert 0 <= found.margin / factor < 1e-10 < found.separation / factor


def test_what_no_power_of_two_saves_is_refused_on_one_line():
    huge = torch.full((4, 4), 1.7e308, dtype=F64)  # the eigenvalue 6.8e308 is no float64
    for call in (
        exact_eigenvalues,
        lambda a: count_eigenvalues(a, threshold=1.0),
        lambda a: count_eigenvalues(a, threshold=1.0, method="lanczos"),
        spectral_density,
        lambda a: inertia(a, 0.0),
    ):
        with pytest.raises(ValueError, match=r"^[^\n]*$"):
            call(huge)
    with pytest.raises(ValueError, match="threshold must be at least"):
        count_eigenvalues(FULL * 1e300, threshold=1e-300, method="lanczos")


# subnormal pivots


def block(*pairs):
    """Block diagonal of [[a, b], [b, c]]."""
    parts = [np.array([[a, b], [b, c]]) for a, b, c in pairs]
    return torch.block_diag(*(torch.from_numpy(part) for part in parts))


SUBNORMAL = {
    "off the diagonal": (block((0, 5e-310, 0), (1, 0, -1)), (2, 2)),
    "the smallest": (block((0, 5e-324, 0), (1, 0, -1)), (2, 2)),
    "on the diagonal": (block((5e-310, 0, -5e-310), (1, 0, -1)), (2, 2)),
    "many": (block((0, 5e-310, 0), (0, 3e-320, 0), (2e-315, 0, 1), (1, 0, -1)), (3, 5)),
    "nothing else": (block((0, 5e-310, 0), (0, 1e-311, 0)), (2, 2)),
    "zeros beside": (block((0, 5e-310, 0), (0, 0, 0), (1, 0, -1)), (2, 2)),
    "coupled": (block((1e-310, 5e-310, 1e-310), (2, 1, -1)), (2, 2)),
    "beside a large one": (block((0, 1e-310, 0), (1e10, 0, -1e10)), (2, 2)),
}


@pytest.mark.parametrize("method", ["auto", "lapack", "blocked"])
@pytest.mark.parametrize("name", SUBNORMAL)
def test_subnormal_pivots(name, method):
    matrix, wanted = SUBNORMAL[name]
    found = inertia(matrix, 0.0, method=method)
    assert math.isfinite(found.margin)
    assert math.isfinite(found.separation)
    if method != "blocked":  # which mixes coordinates: what is subnormal beside 1 is rounding to it
        assert found == wanted
    elif found != wanted:
        assert found.margin >= 5e-310
        assert not found.holds_for(0.0)
    values = exact_eigenvalues(matrix)
    assert bool(values.isfinite().all())


def test_what_the_factors_cannot_hold_is_refused_or_has_a_margin():
    for big, small in ((1e308, 5e-324), (1e300, 1e-320), (1e200, 1e-310), (1.0, 5e-324)):
        matrix = block((0, small, 0), (big, 0, -big))
        for method in ("lapack", "blocked"):
            try:
                found = inertia(matrix, 0.0, method=method)
            except ValueError:
                continue
            assert math.isfinite(found.margin)
            assert found == (2, 2) or found.margin >= small


# the pieces


@pytest.mark.parametrize("exponent", [-2000, -1022, -300, 0, 1, 1023, 2040])
def test_powers_of_two_round_nothing(exponent):
    x = 1.75 if abs(exponent) < 1000 else math.ldexp(1.75, -exponent // 2)
    assert times(x, exponent) == math.ldexp(x, exponent)
    assert float(times(torch.tensor(x, dtype=F64), exponent)) == math.ldexp(x, exponent)


def test_magnitudes():
    for x in (5e-324, 1e-300, 0.7, 1.0, 3.0, 1.7e308):
        assert 0.5 <= times(x, exponent_to_one(x)) < 1
    assert exponent_to_one(0.0) == exponent_to_one(math.inf) == 0
    assert largest_entry(torch.tensor([[-3.0, 2.0]])) == 3


def test_a_scaled_operator_is_the_scaled_matrix():
    for factor in FACTORS:
        exponent = exponent_to_one(factor)
        operator = Scaled(as_operator(lambda v, f=factor: (FULL * f) @ v, N, dtype=F64), exponent)
        v = torch.ones(N, 2, dtype=F64)
        np.testing.assert_allclose(operator @ v, times(FULL * factor, exponent) @ v, rtol=1e-12, atol=1e-13)
        assert isinstance(scaled(FULL, exponent), torch.Tensor)


@pytest.mark.parametrize("factor", [0.0, *FACTORS])
def test_norms_and_symmetric_parts(factor):
    a = torch.tensor([[3.0, 4.0], [0.0, 0.0]], dtype=F64) * factor
    assert frobenius(a) == pytest.approx(5 * factor, rel=1e-12)
    skew, norm = symmetrize(a)
    assert skew == pytest.approx(4 * 2**0.5 * factor, rel=1e-12)
    assert norm == pytest.approx(5 * factor, rel=1e-12)
    assert float(a[0, 1]) == float(a[1, 0]) == pytest.approx(2 * factor, rel=1e-12)


def test_asymmetry_of_huge_matrices_is_seen():
    lopsided = FULL * 1e300
    lopsided[0, 1] += 1e299
    for call in (assemble, exact_eigenvalues, lambda a: inertia(a, 0.0)):
        with pytest.raises(ValueError, match="must be symmetric"):
            call(lopsided.clone())
    with pytest.raises(ValueError, match="must be symmetric"):
        count_eigenvalues(lopsided, threshold=1e299)
