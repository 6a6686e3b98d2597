"""Bounds by Cauchy interlacing never exceed the true counts; Ritz counts with ghosts do."""

import numpy as np
import pytest
import torch
from matrices import diagonal_products

from lanczos_saddle.certificates.cauchy import LARGEST, compress
from lanczos_saddle.krylov.gauss import gauss_rule
from lanczos_saddle.krylov.lanczos import Lanczos
from lanczos_saddle.krylov.preflight import check_operator
from lanczos_saddle.operators.operator import FromFunction
from lanczos_saddle.operators.resolution import recurrence_noise

N = 60


def probes(m, seed, size=N):
    return torch.randn(size, m, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_bounds_never_exceed_the_counts(dtype):
    reached = 0
    for seed in range(60):
        generator = torch.Generator().manual_seed(seed)
        values = torch.randn(N, generator=generator, dtype=torch.float64) * 10 ** (
            -4 * torch.rand(N, generator=generator, dtype=torch.float64)
        )
        values[:15] = 0
        q = torch.linalg.qr(torch.randn(N, N, generator=generator, dtype=torch.float64)).Q
        h = (q * values) @ q.mT
        h = ((h + h.mT) / 2).to(dtype)
        exact = torch.linalg.eigvalsh(h.double())
        check = check_operator(h)
        m, k = 1 + seed % 4, (2, 5, 11, 20, N)[seed % 5]
        run = Lanczos(h, probes(m, seed))
        run.extend(k)
        compression = compress(run, recurrence_noise(check, k), check.scale)
        for t in (-1.0, -0.1, -1e-3, 0.0, 1e-3, 0.1, float(exact[7])):
            below, above = compression.sides(t)
            assert below <= int((exact < t).sum())
            assert above <= int((exact > t).sum())
            reached += below == int((exact < t).sum())
    assert reached >= 40  # and they are not void


@pytest.mark.parametrize("m", [1, 2])
def test_a_compression_is_the_dense_one(m):
    h = diagonal_products(torch.linspace(-1, 2, N, dtype=torch.float64))
    run = Lanczos(h, probes(m, 0))
    run.extend(9)
    compression = compress(run, 1e-14, 2.0)
    v = run.basis.reshape(-1, N)
    dense = torch.diag(torch.linspace(-1, 2, N, dtype=torch.float64))
    np.testing.assert_allclose(compression.quadratic, (v @ dense @ v.mT).numpy(), atol=1e-13)
    np.testing.assert_allclose(compression.gram, (v @ v.mT).numpy(), atol=1e-13)
    assert 1e-14 < compression.error < 1e-11


def test_it_is_the_same_in_slices_of_coordinates(monkeypatch):
    h = diagonal_products(torch.linspace(-1, 2, N, dtype=torch.float64))
    run = Lanczos(h, probes(3, 0))
    run.extend(12)
    whole = compress(run, 0.0, 2.0)
    monkeypatch.setattr("lanczos_saddle.krylov.basis.SLICE", 7)
    sliced = compress(run, 0.0, 2.0)
    np.testing.assert_allclose(sliced.quadratic, whole.quadratic, atol=1e-13)
    np.testing.assert_allclose(sliced.gram, whole.gram, atol=1e-13)


@pytest.mark.parametrize(("m", "k"), [(1, N), (3, N // 3), (4, N // 2)])
def test_bases_that_span_the_space_give_exact_counts(m, k):
    values = torch.linspace(-1, 2, N, dtype=torch.float64)
    run = Lanczos(diagonal_products(values), probes(m, 3))
    run.extend(k)
    compression = compress(run, 1e-14, 2.0)
    if m * k > N:  # V has dependent columns: V'(H - tI)V is singular, which costs nothing
        assert np.linalg.matrix_rank(compression.gram, tol=1e-8) == N
    for t in (-0.99, -0.42, 0.03, 1.6):
        below, above = compression.sides(t)
        exact = int((values < t).sum()), int((values > t).sum())
        # small singular values of V shrink eigenvalues toward zero: only a well-conditioned V must attain it
        assert (below, above) == exact if m == 1 else below <= exact[0] and above <= exact[1]
    if m == 1:
        assert sum(compression.sides(0.03)) == N


def test_closed_spaces_are_compressed_to_their_length():
    values = torch.tensor([-1.0, 0.5, 2.0], dtype=torch.float64).repeat_interleave(N // 3)
    run = Lanczos(diagonal_products(values), probes(4, 0))
    run.extend(20)
    compression = compress(run, 1e-14, 2.0)
    assert compression.quadratic.shape == (12, 12)
    assert compression.sides(0.0) == (4, 8)


def test_an_eigenvalue_at_the_threshold_is_on_neither_side():
    values = torch.tensor([-1.0, 0.0, 2.0], dtype=torch.float64).repeat_interleave(N // 3)
    run = Lanczos(diagonal_products(values), probes(2, 0))
    run.extend(3)
    compression = compress(run, 1e-14, 2.0)
    assert compression.sides(0.0) == (2, 2)
    assert compression.sides(-1.0) == (0, 4)
    assert compression.sides(2.0) == (4, 0)


def test_noise_beyond_the_threshold_voids_the_bound():
    run = Lanczos(diagonal_products(torch.linspace(-1, 1, N, dtype=torch.float64)), probes(1, 0))
    run.extend(30)
    assert compress(run, 10.0, 1.0).sides(0.0) == (0, 0)
    counts = [compress(run, delta, 1.0).sides(0.0)[0] for delta in (1e-14, 1e-3, 1e-1, 1.0)]
    assert counts == sorted(counts, reverse=True)


def ghosts(size=400, outliers=4, steps=240):
    values = torch.cat(
        [
            torch.linspace(-0.01, 1, size - outliers, dtype=torch.float64).clamp(min=0),
            -torch.tensor([30.0, 60.0, 90.0, 120.0], dtype=torch.float64),
        ]
    )
    return diagonal_products(values), probes(1, 1, size), steps, outliers


def test_ritz_values_without_reorthogonalization_repeat_and_are_refused():
    h, probe, steps, outliers = ghosts()
    plain = Lanczos(h, probe, reorthogonalize=False)
    ritz = [int((gauss_rule(*plain.extend(k).coefficients(0)).nodes < -1).sum()) for k in (40, 120, steps)]
    assert ritz[-1] > 2 * outliers  # copies of converged eigenvalues: no bound of any kind
    assert ritz == sorted(ritz)
    with pytest.raises(ValueError, match=r"need the basis: run Lanczos with reorthogonalize=True"):
        compress(plain, 1e-14, 120.0)
    kept = Lanczos(h, probe)
    kept.extend(steps)
    assert compress(kept, 1e-12, 120.0).sides(-1.0)[0] == outliers


def test_many_columns_leave_the_last_probes_out(monkeypatch):
    monkeypatch.setattr("lanczos_saddle.certificates.cauchy.LARGEST", 25)
    run = Lanczos(diagonal_products(torch.linspace(-1, 1, N, dtype=torch.float64)), probes(4, 0))
    run.extend(10)
    assert compress(run, 0.0, 1.0).quadratic.shape == (20, 20)
    monkeypatch.setattr("lanczos_saddle.certificates.cauchy.LARGEST", 5)
    assert compress(run, 0.0, 1.0).quadratic.shape == (10, 10)
    assert LARGEST >= 1000


@pytest.mark.parametrize("tau", [1e-6, 1e-3, 1.0, 1e2, 1e4, 1e6, 1e8])
def test_bounds_hold_at_thresholds_far_beyond_the_spectrum(tau):
    """Probes share converged outliers, so V'V is singular: t eps of rounding must not look like eigenvalues."""
    values = torch.cat([torch.linspace(-1e-2, 1e-2, 280, dtype=torch.float64), torch.linspace(-1, 1, 20).double()])
    operator = FromFunction(lambda v: values[:, None] * v, len(values), torch.float64, torch.device("cpu"))
    probes = torch.randn(len(values), 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    run = Lanczos(operator, probes)
    run.extend(60)
    compression = compress(run, delta=1e-13, scale=1.0)
    for t in (-tau, tau):
        below, above = compression.sides(t)
        assert below <= int((values < t).sum())
        assert above <= int((values > t).sum())
