"""Counts on the complement of known vectors: bounds for any vectors, exact ends for converged ones."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from matrices import seeded
from scipy.stats import binom

from lanczos_saddle import count_eigenvalues, recount
from lanczos_saddle.certificates.cauchy import compress
from lanczos_saddle.certificates.deflation import deflate
from lanczos_saddle.krylov.lanczos import Lanczos
from lanczos_saddle.krylov.preflight import check_operator
from lanczos_saddle.operators.operator import Projected
from lanczos_saddle.operators.prescribed import PrescribedSpectrum, clustered_spectrum
from lanczos_saddle.operators.resolution import recurrence_noise

THRESHOLDS = (-0.9, -0.3, -0.1, -0.01, 0.01, 0.1, 0.3)


def dense(size=60, seed=0):
    a = torch.randn(size, size, generator=seeded(seed), dtype=torch.float64)
    return (a + a.mT) / (2 * size**0.5)


def complement_values(h, u):
    rest = torch.linalg.qr(u, mode="complete").Q[:, u.shape[1] :]
    return torch.linalg.eigvalsh(rest.mT @ h @ rest).numpy()


def taken_out(h, v):
    """U and what is known, for columns of any length and angle."""
    u, known, _ = deflate(v, h @ v, check_operator(h))
    return u, known, complement_values(h, u)


@pytest.mark.parametrize("kind", ["eigenvectors", "nearly", "random", "low and high"])
@pytest.mark.parametrize("seed", range(4))
def test_the_bounds_hold_for_any_vectors(kind, seed):
    h = dense(seed=seed)
    values, vectors = torch.linalg.eigh(h)
    noise = torch.randn(60, 12, generator=seeded(seed), dtype=torch.float64)
    v = {
        "eigenvectors": vectors[:, :12],
        "nearly": vectors[:, :12] + 1e-3 * noise,
        "random": noise,
        "low and high": torch.cat([vectors[:, :6], vectors[:, -6:]], dim=1) + 3e-3 * noise,
    }[kind]
    _, known, rest = taken_out(h, v)
    for t in THRESHOLDS:
        c, true = known.correction(t), int((values < t).sum())
        assert c.known - c.lost_below + (rest < t - c.left).sum() <= true
        assert true <= c.known + c.lost_above + (rest < t + c.right).sum()


def test_the_identity_of_inertias():
    """Haynsworth, with the whole of W: what the bounds relax."""
    h = dense()
    u = torch.linalg.qr(torch.randn(60, 8, generator=seeded(1), dtype=torch.float64)).Q
    rest = torch.linalg.qr(u, mode="complete").Q[:, 8:]
    for t in THRESHOLDS:
        theta, r = u.mT @ h @ u - t * torch.eye(8), rest.mT @ h @ u
        schur = rest.mT @ h @ rest - t * torch.eye(52) - r @ torch.linalg.inv(theta) @ r.mT
        count = sum(int((torch.linalg.eigvalsh(m) < 0).sum()) for m in (theta, schur))
        assert count == int((torch.linalg.eigvalsh(h) < t).sum())


def test_eigenvectors_are_exact():
    h = dense()
    values, vectors = torch.linalg.eigh(h)
    _, known, rest = taken_out(h, vectors[:, :10] @ torch.randn(10, 10, generator=seeded(), dtype=torch.float64))
    for t in THRESHOLDS[1:]:
        c = known.correction(t)
        assert max(c.left, c.right) < 1e-20
        assert c.lost_below == c.lost_above == 0
        assert c.known + (rest < t).sum() == int((values < t).sum())


def test_without_the_shift_the_bounds_break():
    """The wrong variant: p + #{H_c < t} as if any vectors were eigenvectors, and converged ones cost nothing."""
    broken = 0
    for seed in range(20):
        h = dense(seed=seed)
        values, vectors = torch.linalg.eigh(h)
        noise = torch.randn(60, 12, generator=seeded(seed), dtype=torch.float64)
        _, known, rest = taken_out(h, vectors[:, 2:14] + 0.02 * noise)
        for t in torch.linspace(-0.3, 0.3, 61).tolist():
            broken += int(known.correction(t).known + (rest < t).sum() > int((values < t).sum()))
    assert broken > 0


def test_a_theta_at_the_threshold_is_lost_and_nothing_breaks():
    h = torch.diag(torch.tensor([-1.0, -0.5, 0.0, 0.2, 1.0], dtype=torch.float64))
    _, known, _ = taken_out(h, torch.eye(5, dtype=torch.float64)[:, :2])
    c = known.correction(-0.5)
    assert (c.known, c.lost_below, c.lost_above) == (1, 0, 1)
    c = known.correction(-0.5 + 1e-6)
    assert (c.known, c.lost_below, c.lost_above) == (2, 0, 0)


def test_the_face_counts_on_the_complement_as_often_right_as_it_says():
    values, tau, trials, right = clustered_spectrum(200, 1e-2, seeded(0)), 1e-2, 60, 0
    operator = PrescribedSpectrum(values, seeded(1))
    true, widths = operator.count(tau), []
    for seed in range(trials):
        found = count_eigenvalues(
            operator,
            threshold=tau,
            method="lanczos",
            probes=2,
            steps=40,
            max_products=48 + 2 + 80 + 150,
            enumerate_negative=True,
            generator=seeded(seed),
        )
        widths.append(found.positive.width)
        intervals = (found.negative, found.near_zero, found.positive)
        right += all(count in interval for count, interval in zip(true, intervals, strict=True))
    assert 0 < np.median(widths) < 150
    assert binom.cdf(right, trials, 0.95) > 1e-3


def test_other_thresholds_from_the_same_products():
    operator = PrescribedSpectrum(clustered_spectrum(600, 1e-2, seeded(0)), seeded(1))
    counts = count_eigenvalues(
        operator, threshold=1e-2, method="lanczos", probes=4, steps=60, enumerate_negative=True, generator=seeded(3)
    )
    assert counts.evidence.deflation.size > 0
    for tau in (1e-3, 5e-3, 1e-2, 3e-2, 0.1, 0.6):
        again = recount(counts, tau)
        intervals = (again.negative, again.near_zero, again.positive)
        for true, interval in zip(operator.count(tau), intervals, strict=True):
            assert true in interval
        assert sum(i.estimate for i in intervals) == pytest.approx(600)
    band = counts.evidence.band(np.array([-0.1, -1e-2, 1e-2, 0.1]), 0.95)
    for t, low, high in zip(band.thresholds, band.lower, band.upper, strict=True):
        assert low <= int((operator.eigenvalues <= t).sum()) <= high


def test_float32_vectors_pay_for_their_rounding():
    operator = PrescribedSpectrum(clustered_spectrum(400, 0.02, seeded(0)), seeded(1), dtype=torch.float32)
    counts = count_eigenvalues(
        operator, threshold=0.02, method="lanczos", probes=4, steps=60, enumerate_negative=True, generator=seeded(3)
    )
    assert counts.evidence.deflation.error > 1e-7
    for true, interval in zip(operator.count(0.02), (counts.negative, counts.near_zero, counts.positive), strict=True):
        assert true in interval


def test_what_a_run_has_along_the_vectors_counts_on_no_side():
    """A recurrence on the complement drifts towards the zeros of PHP along U; they are no eigenvalues of H."""
    h = -torch.diag(torch.linspace(1, 2, 20, dtype=torch.float64))
    operator, check = Projected(h, torch.eye(20, dtype=torch.float64)[:, :5]), check_operator(h)
    run = Lanczos(operator, torch.randn(20, 2, generator=seeded(), dtype=torch.float64), capacity=12)
    run.advance(12)
    found = compress(run, recurrence_noise(check, 12), check.scale)
    below, above = found.sides(-0.1)
    assert 12 <= below <= 15
    assert above == 0


@pytest.mark.parametrize("seed", range(4))
def test_bounds_hold_where_the_recurrence_leaves_the_complement(seed):
    """Few distinct eigenvalues close the Krylov space; what rounding goes on with may lie along U."""
    values = torch.tensor([-1.0, -0.05, 0.0, 0.5, 2.0], dtype=torch.float64).repeat_interleave(8)
    q = torch.linalg.qr(torch.randn(40, 40, generator=seeded(seed), dtype=torch.float64)).Q
    counts = count_eigenvalues(
        (q * values) @ q.mT,
        threshold=0.1,
        method="lanczos",
        probes=2,
        steps=30,
        enumerate_negative=True,
        generator=seeded(seed),
    )
    assert counts.evidence is not None
    assert counts.evidence.deflation is not None
    assert counts.evidence.compression is not None
    for t in (-0.1, 0.1):
        below, above = counts.evidence.compression.sides(t)
        assert below <= int((values < t).sum())
        assert above <= int((values > t).sum())


@pytest.mark.parametrize("count", [1, 3, 20])
def test_vectors_kept_in_float32_count_as_noise(count):
    h = dense(300)
    v = torch.randn(300, count, generator=seeded(1), dtype=torch.float64).to(torch.float32)
    scale = float(torch.linalg.matrix_norm(h, 2))
    stored, _, check = deflate(v, h @ v.to(torch.float64), replace(check_operator(h), noise=0.0, scale=scale))
    eye = torch.eye(300, dtype=torch.float64)
    kept, exact = (eye - u @ u.mT for u in (stored, torch.linalg.qr(v.to(torch.float64)).Q))
    assert float(torch.linalg.matrix_norm(kept @ h @ kept - exact @ h @ exact, 2)) <= check.noise
