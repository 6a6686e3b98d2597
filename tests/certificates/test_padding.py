"""What noise can do to a spectral mass: the inequality on random and on worst cases, and its pieces."""

import math

import numpy as np
import pytest
import torch

from lanczos_saddle.certificates.padding import SINES, pad_lower, pad_upper, shifts
from lanczos_saddle.certificates.quadrature import gauss_rule, mass_bracket
from lanczos_saddle.krylov.lanczos import Lanczos
from lanczos_saddle.krylov.preflight import check_operator
from lanczos_saddle.operators.operator import FromFunction
from lanczos_saddle.operators.resolution import RESOLUTION, recurrence_noise


def mass(matrix, g, t, strictly):
    values, vectors = np.linalg.eigh(matrix)
    chosen = values < t if strictly else values <= t
    return float(((vectors[:, chosen].T @ g) ** 2).sum() / (g @ g))


@pytest.mark.parametrize("size", [2, 3, 20])
def test_the_inequality_holds_for_any_perturbation(size):
    rng = np.random.default_rng(size)
    for _ in range(400):
        h, change = ((a + a.T) / 2 for a in rng.standard_normal((2, size, size)))
        delta = 10 ** rng.uniform(-4, 0)
        change *= delta / np.linalg.norm(change, 2)
        if rng.random() < 0.5:  # aligned with the eigenvectors next to the threshold: the worst direction
            values, vectors = np.linalg.eigh(h)
            j = rng.integers(1, size)
            u, v = vectors[:, j - 1], vectors[:, j]
            change, t = delta * (np.outer(u, v) + np.outer(v, u)), (values[j - 1] + values[j]) / 2
        else:
            t = rng.standard_normal()
        g, eta = rng.standard_normal(size), delta * 10 ** rng.uniform(0, 3)
        sine = delta / eta
        assert pad_lower(mass(h + change, g, t - eta, strictly=False), sine) <= mass(h, g, t, strictly=True) + 1e-12
        assert pad_upper(mass(h + change, g, t + eta, strictly=True), sine) >= mass(h, g, t, strictly=False) - 1e-12


@pytest.mark.parametrize("ratio", [0.001, 0.03, 0.1, 0.25])
@pytest.mark.parametrize("angle", [0.0, 0.2, 0.8, 1.3])
def test_the_inequality_is_nearly_attained_by_rotations(ratio, angle):
    # H = diag(1, -1) / 2 perturbed across the plane: the lower eigenvector turns by arctan(sine) where
    # arcsin(sine) is allowed, sine = delta / (upper eigenvalue of H - lower one of H~); g leans the same way
    h, delta = np.diag([0.5, -0.5]), ratio
    noisy = h + delta * np.array([[0.0, 1.0], [1.0, 0.0]])
    values, vectors = np.linalg.eigh(noisy)
    low = vectors[:, 0] * math.copysign(1.0, vectors[1, 0])
    turned = math.atan2(low[0], low[1])
    away = turned + math.copysign(angle, turned)
    g = np.array([math.sin(away), math.cos(away)])
    sine = delta / (0.5 - values[0])
    exact, seen = mass(h, g, 0.5, strictly=True), mass(noisy, g, 0.0, strictly=True)
    assert math.acos(math.sqrt(exact)) - math.acos(math.sqrt(seen)) == pytest.approx(math.atan(sine), abs=1e-7)
    assert abs(turned) == pytest.approx(math.atan(sine), abs=1e-12)
    assert pad_lower(seen, sine) <= exact + 1e-14
    assert pad_lower(seen, 0.95 * sine) > exact  # a constant of 0.95 instead of 1 would be wrong
    assert pad_upper(1 - seen, sine) >= 1 - exact - 1e-14


def test_the_simple_form_is_weaker():
    for value in np.linspace(0, 1, 41):
        for sine in (*SINES, 0.7, 1.0):
            simple = max(0.0, math.sqrt(value) - sine) ** 2
            assert simple <= pad_lower(value, sine) + 1e-12 or sine > math.sqrt(value)
            simple_upper = 1 - max(0.0, math.sqrt(1 - value) - sine) ** 2
            assert pad_upper(value, sine) <= simple_upper + 1e-12
    # at sqrt(l) <= s both are zero
    assert pad_lower(0.01, 0.2) == 0.0


def test_pads_are_monotone_and_right_at_the_ends():
    grid = np.linspace(0, 1, 101)
    for sine in (0.0, 1e-6, 0.01, 0.3, 1.0):
        low, high = [pad_lower(x, sine) for x in grid], [pad_upper(x, sine) for x in grid]
        assert (np.diff(low) >= -1e-15).all()
        assert (np.diff(high) >= -1e-15).all()
        assert all(0 <= a <= x + 1e-15 and x - 1e-15 <= b <= 1 for a, x, b in zip(low, grid, high, strict=True))
        assert low[-1] == pytest.approx(1 - sine**2, abs=1e-15)
        assert high[0] == pytest.approx(sine**2, abs=1e-15)
        assert low[0] == pytest.approx(0, abs=1e-15)
        assert high[-1] == pytest.approx(1, abs=1e-15)
        for x, a, b in zip(grid, low, high, strict=True):
            assert pad_upper(1 - x, sine) == pytest.approx(1 - a, abs=1e-12)  # the two are one statement
            assert pad_lower(1 - x, sine) == pytest.approx(1 - b, abs=1e-12)
    for x in (0.1, 0.5, 0.9):
        assert (np.diff([pad_lower(x, s) for s in SINES]) < 0).all()
        assert (np.diff([pad_upper(x, s) for s in SINES]) > 0).all()
    assert pad_lower(1.0 + 1e-15, 0.1) <= 1
    assert pad_upper(-1e-15, 0.1) >= 0


def test_pads_are_convex_and_concave_so_that_pooling_is_allowed():
    # each probe has a perturbation of its own: sum w_i pad(F_i) >= pad(sum w_i F_i) by Jensen
    grid = np.linspace(0, 1, 201)
    for sine in (1e-4, 0.03, 0.3):
        assert (np.diff([pad_lower(x, sine) for x in grid], 2) >= -1e-14).all()
        assert (np.diff([pad_upper(x, sine) for x in grid], 2) <= 1e-14).all()


@pytest.mark.parametrize("threshold", [1e-3, -1e-3, 5.0])
def test_shifts_stay_within_half_a_threshold_and_keep_their_sine(threshold):
    for delta in (0.0, 1e-16, 1e-9, abs(threshold) / RESOLUTION):
        pairs = shifts(delta, threshold)
        assert pairs
        for eta, sine in pairs:
            assert eta <= abs(threshold) / 2
            assert eta * sine == pytest.approx(delta, rel=1e-12)
    assert shifts(abs(threshold), threshold) == []
    assert len(shifts(0.0, threshold)) == 1


@pytest.mark.parametrize("ratio", [2e-5, 1e-4, 1e-3, 1e-2, 0.1])
def test_where_noise_shows_shifts_lie_around_the_best(ratio):
    """Near sqrt(r) the threshold moves by as much as the mass does; one look tries the nearest."""
    pairs, (one,) = shifts(ratio, 1.0), shifts(ratio, 1.0, one=True)
    assert one in pairs
    assert abs(math.log(one[1] / ratio**0.5)) == min(abs(math.log(sine / ratio**0.5)) for _, sine in pairs)
    assert all(eta <= 0.5 and eta * sine == pytest.approx(ratio) for eta, sine in pairs)
    assert all(ratio**0.5 / 6 <= sine <= 3 * ratio**0.5 for _, sine in pairs)
    assert len(pairs) <= 6


def test_where_noise_is_no_matter_shifts_are_as_ever():
    assert shifts(1e-9, 1.0) == shifts(1e-9, 1.0, one=True) == [(1e-9 / sine, sine) for sine in (1e-6, 1e-5, 1e-4)]


@pytest.mark.parametrize("kind", ["dense64", "dense32", "diagonal32", "low rank 32"])
def test_the_measured_noise_bounds_the_defect_of_the_recurrence(kind):
    size = 150
    generator = torch.Generator().manual_seed(0)
    q = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64)).Q
    values = torch.cat(
        [torch.logspace(-6, 0, size // 2, dtype=torch.float64), -torch.logspace(-8, -1, size // 2, dtype=torch.float64)]
    )
    if kind == "low rank 32":
        values[:-10] = 0
    h = torch.diag(values) if kind == "diagonal32" else (q * values) @ q.mT
    h = (h + h.mT) / 2 if kind == "dense64" else ((h + h.mT) / 2).float()
    check = check_operator(h)
    run = Lanczos(h, torch.randn(size, 3, generator=generator, dtype=torch.float64))
    for k in (1, 4, 16, 60):
        run.extend(k)
        for i in range(3):
            alpha, beta = (torch.as_tensor(c) for c in run.tridiagonalization().coefficients(i))
            basis = run.basis[i, : len(alpha)].double().mT
            t = torch.diag(alpha) + torch.diag(beta[:-1], 1) + torch.diag(beta[:-1], -1)
            defect = h.double() @ basis - basis @ t
            defect[:, -1] -= beta[-1] * run.following[i]
            # the stored basis is rounded once more, by eps / 2 |H| a column: not the recurrence's noise
            stored = torch.finfo(h.dtype).eps / 2 * check.scale * len(alpha) ** 0.5
            assert float(torch.linalg.matrix_norm(defect, 2)) <= recurrence_noise(check, k) + stored


@pytest.mark.parametrize("reorthogonalize", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_padded_brackets_hold_everywhere(dtype, reorthogonalize):
    # at eigenvalues, at Ritz values, inside clusters: no threshold is excepted once the padding is on
    size, checked = 100, 0
    for seed in range(3):
        rng = np.random.default_rng(seed)
        values = np.concatenate(
            [
                np.zeros(30),
                1e-3 * (1 + 1e-3 * rng.standard_normal(20)),
                rng.standard_normal(45) * 0.3,
                rng.uniform(1, 10, 5),
            ]
        )
        q = torch.as_tensor(np.linalg.qr(rng.standard_normal((size, size)))[0])
        h = (q * torch.as_tensor(values)) @ q.mT
        h = ((h + h.mT) / 2).to(dtype)
        g = rng.standard_normal(size)
        exact, vectors = np.linalg.eigh(h.double().numpy())
        weights = (vectors.T @ g) ** 2 / (g @ g)
        check = check_operator(h)
        result = Lanczos(h, torch.as_tensor(g)[:, None], reorthogonalize=reorthogonalize).extend(90)
        for k in (1, 4, 20, 90):
            alpha, beta = result.truncated(k).coefficients(0)
            delta = recurrence_noise(check, k)
            ritz = gauss_rule(alpha, beta).nodes
            for t in [0.0, 1e-3, *exact[::15], exact[-1], *ritz[:: max(1, len(ritz) // 5)], *rng.standard_normal(4)]:
                for sine in SINES[2:]:
                    eta = delta / sine
                    low = pad_lower(mass_bracket(alpha, beta, t - eta).lower, sine)
                    high = pad_upper(mass_bracket(alpha, beta, t + eta).upper, sine)
                    assert low <= weights[exact < t].sum() + 1e-12  # the oracle's own eigenvectors
                    assert high >= weights[exact <= t].sum() - 1e-12
                    checked += 1
    assert checked >= 900


def test_a_cluster_below_the_rounding_of_the_input_is_not_split():
    # a float32 matrix whose products are exact to 1e-13: what counts is that the vector is rounded on its way
    tau, gap = 1e-6, 2e-9
    diagonal = torch.cat([torch.ones(20), -torch.ones(20), torch.full((182,), tau - gap), torch.full((78,), tau + gap)])
    check = check_operator(torch.diag(diagonal))
    assert check.noise >= 1e-9
    assert RESOLUTION * recurrence_noise(check, 16) > tau  # so that this threshold is refused
    assert (
        check_operator(FromFunction(lambda v: diagonal[:, None] * v, 300, torch.float32, torch.device("cpu"))).noise
        >= 1e-9
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("steps", [1, 3, 10, 60])
def test_the_noise_of_computed_runs_stays_under_delta(dtype, steps):
    """|E|_2 with E = H Q - Q T - beta q e_k' in float64, Q the basis as stored, for the operator as it is stored."""
    generator = torch.Generator().manual_seed(steps)
    rotation = torch.linalg.qr(torch.randn(200, 200, generator=generator, dtype=torch.float64)).Q
    values = torch.cat([torch.zeros(80), torch.linspace(-0.3, 1, 115), torch.linspace(4, 5, 5)]).double()
    h = (rotation * values @ rotation.mT).to(dtype)
    h = (h + h.mT) / 2
    run = Lanczos(h, torch.randn(200, 3, generator=generator, dtype=torch.float64))
    result = run.extend(steps)
    delta = recurrence_noise(check_operator(h), steps)
    for i in range(3):
        alpha, beta = result.coefficients(i)
        basis = run.basis[i].double().mT.numpy()
        t = np.diag(alpha) + np.diag(beta[:-1], 1) + np.diag(beta[:-1], -1)
        defect = h.double().numpy() @ basis - basis @ t
        defect[:, -1] -= beta[-1] * run.following[i].numpy()
        assert np.linalg.norm(defect, 2) <= delta
