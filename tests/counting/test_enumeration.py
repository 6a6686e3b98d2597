"""Enumeration of negative eigenvectors: never more than there are, and all of them where products suffice."""

import numpy as np
import pytest
import torch
from matrices import seeded

from lanczos_saddle import count_eigenvalues
from lanczos_saddle.counting.enumeration import explicit_compression, negative_eigenvectors
from lanczos_saddle.krylov.block_lanczos import Subspace
from lanczos_saddle.krylov.preflight import check_operator
from lanczos_saddle.operators.prescribed import PrescribedSpectrum, clustered_spectrum


def spectrum(negative, zeros, positive, *, gap=0.01):
    """Magnitudes log-uniform in [gap, 1], an atom at 0 between."""
    low = -torch.logspace(0, np.log10(gap), negative, dtype=torch.float64)
    high = torch.logspace(np.log10(gap), 0, positive, dtype=torch.float64)
    return torch.cat([low, torch.zeros(zeros, dtype=torch.float64), high])


@pytest.fixture(scope="module")
def prescribed():
    operator = PrescribedSpectrum(spectrum(40, 900, 60), seeded())
    return operator, check_operator(operator)


@pytest.mark.parametrize("block", [1, 4, 16])
def test_all_negative_eigenvectors_are_found_beside_an_atom_at_zero(prescribed, block):
    operator, check = prescribed
    found = negative_eigenvectors(operator, 1e-3, check, block=block)
    assert found.at_least == 40
    np.testing.assert_allclose(found.values.numpy(), operator.eigenvalues[:40].numpy(), atol=1e-10)
    assert found.products < 650  # of N = 1000, certificate and patience included
    u = found.basis
    assert torch.linalg.matrix_norm(u.mT @ u - torch.eye(40, dtype=u.dtype), 2) < 1e-12
    residuals = torch.linalg.vector_norm(operator @ u - u * found.values, dim=0)
    torch.testing.assert_close(found.residuals, residuals, atol=1e-13, rtol=0)


@pytest.mark.parametrize("restarts", [0, 1, 3])
def test_the_defining_identity(prescribed, restarts):
    """V'V = I, T = V'HV and H V - V T in the span of the next block, before and after restarts."""
    operator, _ = prescribed
    space = Subspace(operator, 40, 4, seeded())
    for _ in range(restarts + 1):
        while not space.full:
            space.advance()
        if restarts:
            space.restart(12)
            space.advance()
    v, t, q = space._basis[: space.filled].mT, space._form[: space.filled, : space.filled], space._next.mT
    whole = torch.cat([v, q], dim=1)
    torch.testing.assert_close(whole.mT @ whole, torch.eye(whole.shape[1]).double(), atol=1e-13, rtol=0)
    torch.testing.assert_close(t, v.mT @ (operator @ v), atol=1e-13, rtol=0)
    residual = operator @ v - v @ t
    torch.testing.assert_close(residual, q @ (q.mT @ residual), atol=1e-13, rtol=0)


@pytest.mark.parametrize("columns", [64, 80, 96])
def test_restarts_find_the_same_in_less_memory(prescribed, columns):
    operator, check = prescribed
    found = negative_eigenvectors(operator, 0.1, check, block=4, columns=columns)
    assert found.at_least == int((operator.eigenvalues < -0.1).sum()) == 20
    assert found.products > columns  # so there were restarts
    np.testing.assert_allclose(found.values.numpy(), operator.eigenvalues[:20].numpy(), atol=1e-6)


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("budget", [40, 150, 400])
def test_never_more_than_there_are(seed, budget):
    tau = 1e-3
    operator = PrescribedSpectrum(clustered_spectrum(600, tau, seeded(seed)), seeded(seed))
    check = check_operator(operator)
    true = operator.count(tau)[0]
    found = negative_eigenvectors(operator, tau, check, generator=seeded(seed), max_products=budget)
    assert 0 < found.at_least <= true
    assert found.products <= budget
    # what is certified at tau is also certified, if less of it, at larger thresholds
    for factor in (0.9995, 1.0005, 2.0, 10.0):
        assert found.compression.sides(-factor * tau)[0] <= operator.count(factor * tau)[0]


def test_the_search_ends_at_the_upper_bound(prescribed):
    operator, check = prescribed
    free = negative_eigenvectors(operator, 1e-3, check)
    bounded = negative_eigenvectors(operator, 1e-3, check, most=40)
    assert bounded.at_least == 40
    assert bounded.stopped == "as many as there can be"
    assert bounded.products < free.products


def test_multiple_eigenvalues_beyond_the_block_are_found():
    """A Krylov space of one vector holds one direction of each eigenspace; where it closes, it starts anew."""
    values = torch.cat([-torch.ones(7, dtype=torch.float64), torch.zeros(80).double(), torch.ones(13).double()])
    operator = PrescribedSpectrum(values, seeded())
    for block in (1, 3):
        assert negative_eigenvectors(operator, 0.5, check_operator(operator), block=block).at_least == 7


@pytest.mark.parametrize("size", [1, 2, 7, 9])
def test_small_operators_are_spanned(size):
    values = torch.linspace(-1, 1, size, dtype=torch.float64) if size > 1 else torch.tensor([-1.0]).double()
    operator = PrescribedSpectrum(values, seeded())
    found = negative_eigenvectors(operator, 0.1, check_operator(operator))
    assert found.at_least == operator.count(0.1)[0]
    assert found.stopped == "the basis spans everything"


@pytest.mark.parametrize("values", [torch.zeros(200), torch.linspace(0.1, 1, 200)])
def test_none_is_found_where_there_is_none(values):
    operator = PrescribedSpectrum(values.double(), seeded())
    found = negative_eigenvectors(operator, 1e-3, check_operator(operator))
    assert (found.at_least, found.basis.shape) == (0, (200, 0))


def test_a_congruence_is_counted_at_zero():
    """Sylvester: S'(H + tau I)S has as many negative eigenvalues as H has below -tau, for any nonsingular S."""
    a = torch.randn(120, 120, generator=seeded(), dtype=torch.float64)
    h = (a + a.mT) / 20
    s = torch.randn(120, 120, generator=seeded(1), dtype=torch.float64)
    m = s.mT @ (h + 0.3 * torch.eye(120).double()) @ s
    m = (m + m.mT) / 2
    found = negative_eigenvectors(m, 0.0, check_operator(m), max_products=2000)
    assert found.at_least == int((torch.linalg.eigvalsh(h) < -0.3).sum())


def test_the_certificate_takes_any_basis():
    """Neither orthonormal nor of full rank: repeated columns count once, lengths do not matter."""
    h = torch.diag(torch.tensor([-1.0, -1.0, -0.2, 0.1, 1.0, 1.0], dtype=torch.float64))
    check = check_operator(h)
    e = torch.eye(6, dtype=torch.float64)
    v = torch.stack([e[0], e[0], 1e3 * e[1], 1e-3 * (e[2] + e[1]), e[4], e[0] + e[1]], dim=1)
    compression = explicit_compression(v, h @ v, check)
    assert compression.sides(-0.5) == (2, 2)  # the span is that of e_0, e_1, e_2, e_4
    # a wrong variant: the signs of the diagonal, as if the columns were orthogonal
    assert int(((v * (h @ v)).sum(0) + 0.5 * (v * v).sum(0) < 0).sum()) > 2


def test_errors_within_the_bound_are_not_counted():
    """An eigenvalue of -1e-14 |H| is no evidence of a negative one: products are as noisy as that."""
    h = torch.diag(torch.tensor([1.0, -1e-14], dtype=torch.float64))
    e = torch.eye(2, dtype=torch.float64)
    assert explicit_compression(e, h @ e, check_operator(h)).sides(0.0)[0] == 0
    h[1, 1] = -1e-12
    assert explicit_compression(e, h @ e, check_operator(h)).sides(0.0)[0] == 1


def test_the_error_bound_holds_for_noisy_products():
    """float32 products against the exact compression in float64."""
    exact = PrescribedSpectrum(spectrum(40, 900, 60), seeded())
    rounded = PrescribedSpectrum(spectrum(40, 900, 60), seeded(), dtype=torch.float32)
    check = check_operator(rounded)
    found = negative_eigenvectors(rounded, 1e-2, check)
    v = found.basis.double()
    true = (v.mT @ (exact @ v)).numpy()
    off = np.linalg.norm(found.compression.quadratic - true, 2)
    assert 1e-9 < off < found.compression.error
    assert found.at_least <= exact.count(1e-2)[0]


def test_the_face_takes_the_lower_end(prescribed):
    operator, _ = prescribed
    options = {"threshold": 1e-3, "method": "lanczos", "probes": 2, "steps": 20}
    plain = count_eigenvalues(operator, **options)
    counts = count_eigenvalues(operator, enumerate_negative=True, negative_at_most=40, **options)
    assert (counts.negative.lower, counts.negative.upper) == (40, 40)
    assert plain.negative.lower < 40
    assert counts.products > plain.products
    assert counts.evidence.drawn == 960  # the probes live in the complement
    assert counts.positive.width < plain.positive.width
    assert counts.evidence.band(np.array([-1e-3]), 0.95).lower[0] == 40
    with pytest.raises(ValueError, match=r"got 30, but 3\d were found"):
        count_eigenvalues(operator, enumerate_negative=True, negative_at_most=30, **options)


def test_the_face_keeps_to_its_budget(prescribed):
    operator, _ = prescribed
    counts = count_eigenvalues(
        operator, threshold=1e-3, method="lanczos", probes=4, max_products=400, enumerate_negative=True
    )
    assert counts.products <= 400
    assert 0 < counts.negative.lower <= 40


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold": -1.0}, "threshold must be at least 0"),
        ({"threshold": float("nan")}, "threshold must be at least 0"),
        ({"block": 0}, "block must be at least 1"),
        ({"most": -1}, "most bounds a count"),
        ({"max_products": 3}, "max_products must allow two blocks"),
        ({"columns": 8}, "columns must hold four blocks"),
    ],
)
def test_misuse_is_refused(prescribed, options, message):
    operator, check = prescribed
    threshold = options.pop("threshold", 1e-3)
    with pytest.raises(ValueError, match=message):
        negative_eigenvectors(operator, threshold, check, **options)


@pytest.mark.parametrize("size", [100, 200])
def test_a_budget_without_room_for_the_probes_is_refused_before_it_is_spent(size):
    class Counted:
        """A dense matrix that counts its products."""

        def __init__(self):
            self.matrix, self.products = torch.diag(torch.linspace(-1, 1, size, dtype=torch.float64)), 0
            self.shape, self.dtype, self.device = self.matrix.shape, self.matrix.dtype, self.matrix.device

        def __matmul__(self, v):
            self.products += 1 if v.ndim == 1 else v.shape[1]
            return self.matrix @ v

    operator = Counted()
    options = {"threshold": 0.1, "method": "lanczos", "enumerate_negative": True}
    with pytest.raises(ValueError, match=r"one step for each of 30 probes .*: raise it to at least 73, or pass fewer"):
        count_eigenvalues(operator, probes=30, max_products=72, **options)
    assert operator.products == 0
    assert count_eigenvalues(operator, probes=30, max_products=73, **options).products == operator.products <= 73
    assert count_eigenvalues(operator, max_products=110, **options).products <= 110
