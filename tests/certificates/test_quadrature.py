"""Gauss and Radau rules, and the bracket on the mass: against dense float64, and mpmath at 60 digits.

In floating point the bracket is that of an operator within a few eps |H| (`padding` pays for it), so where a
threshold is farther than GAP |H| from every eigenvalue the error in a mass is of second order, eps / GAP.
"""

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lanczos_saddle.certificates.quadrature import ROUNDING, RUNAWAY, Bracket, gauss_bracket, mass_bracket, radau_rule
from lanczos_saddle.krylov.gauss import gauss_rule
from lanczos_saddle.krylov.lanczos import Lanczos

EPS = 2.0**-52
GAP = 1e-3


def lanczos(values, probe, steps, reorthogonalize=True):
    """The coefficients of a diagonal operator, and t -> (F(t-), F(t))."""
    run = Lanczos(torch.diag(torch.as_tensor(values)), torch.as_tensor(probe)[:, None], reorthogonalize=reorthogonalize)
    weights = probe**2 / (probe @ probe)
    alpha, beta = run.extend(min(steps, len(values))).coefficients(0)
    return alpha, beta, lambda t: (min(1.0, weights[values < t].sum()), min(1.0, weights[values <= t].sum()))


def hard_spectrum(rng, size=120):
    """An atom at 0, two clusters of width 1e-6, a bulk over four decades, five outliers."""
    fifth = size // 5
    bulk = rng.standard_normal(size - 3 * fifth - 5) * 10 ** rng.uniform(-4, 0, size - 3 * fifth - 5)
    clusters = [center + 1e-6 * rng.standard_normal(fifth) for center in (-1e-2, 1e-2)]
    return np.concatenate([np.zeros(fifth), *clusters, bulk, rng.uniform(-10, 10, 5)])


@pytest.mark.parametrize("k", [1, 2, 5, 12])
def test_gauss_integrates_polynomials_of_degree_2k_minus_1_and_no_more(k):
    rng = np.random.default_rng(k)
    values, probe = rng.uniform(-1, 1, 40), rng.standard_normal(40)
    alpha, beta, _ = lanczos(values, probe, k)
    rule = gauss_rule(alpha, beta)
    weights = probe**2 / (probe @ probe)
    assert rule.weights.sum() == pytest.approx(1, abs=k * 4 * EPS)
    assert (rule.weights >= 0).all()
    for degree in range(2 * k + 1):
        legendre = np.polynomial.Legendre.basis(degree)  # at most 1 on the spectrum
        error = abs(rule.weights @ legendre(rule.nodes) - weights @ legendre(values))
        if degree < 2 * k:
            assert error <= 100 * k * EPS
        else:
            assert error > 1e-9


@pytest.mark.parametrize("k", [1, 3, 10])
@pytest.mark.parametrize("t", [-1.4, -0.3, 0.0, 0.21, 2.0])
def test_radau_has_a_node_at_t_and_degree_2k(k, t):
    rng = np.random.default_rng(5)
    values, probe = rng.uniform(-1, 1, 40), rng.standard_normal(40)
    alpha, beta, _ = lanczos(values, probe, k)
    rule = radau_rule(alpha, beta, t)
    weights = probe**2 / (probe @ probe)
    assert np.abs(rule.nodes - t).min() <= 100 * EPS * RUNAWAY
    for degree in range(2 * k + 1):
        legendre = np.polynomial.Legendre.basis(degree)
        size = np.abs(legendre(rule.nodes)).max()  # one node may lie outside of the spectrum
        assert abs(rule.weights @ legendre(rule.nodes) - weights @ legendre(values)) <= 1000 * k * EPS * size


def test_radau_at_a_ritz_value_falls_back_to_the_step_before():
    rng = np.random.default_rng(1)
    alpha, beta, _ = lanczos(rng.uniform(-1, 1, 40), rng.standard_normal(40), 9)
    for ritz in gauss_rule(alpha, beta).nodes:
        rule = radau_rule(alpha, beta, ritz)
        assert len(rule.nodes) == 9
        assert np.abs(rule.nodes - ritz).min() <= 100 * EPS
    assert radau_rule(alpha[:1], beta[:1], alpha[0]).nodes.tolist() == [alpha[0]]


def clear_of_eigenvalues(values, thresholds):
    gap = GAP * np.abs(values).max()
    return [t for t in thresholds if np.abs(values - t).min() > gap]


@pytest.mark.parametrize("reorthogonalize", [True, False])
def test_brackets_hold_between_eigenvalues_and_nest(reorthogonalize):
    checked = nested = 0
    for seed in range(30):
        rng = np.random.default_rng(seed)
        values, probe = hard_spectrum(rng), rng.standard_normal(120)
        alpha, beta, mass = lanczos(values, probe, 100, reorthogonalize)
        scale = np.abs(values).max()
        for t in clear_of_eigenvalues(values, rng.uniform(-1.2, 1.2, 12) * scale):
            previous = Bracket(0.0, 1.0)
            for k in (1, 2, 3, 5, 8, 13, 21, 34, 55, 89):
                if k > len(alpha):
                    break
                bracket = mass_bracket(alpha[:k], beta[:k], t)
                below, up_to = mass(t)
                assert bracket.lower <= below
                assert bracket.upper >= up_to
                assert bracket.lower >= previous.lower - ROUNDING
                assert bracket.upper <= previous.upper + ROUNDING
                previous = bracket
                checked += 1
            nested += 1
    assert nested >= 200
    assert checked >= 2000


@pytest.mark.parametrize("reorthogonalize", [True, False])
def test_brackets_hold_at_and_near_ritz_values(reorthogonalize):
    # alpha_hat = t + beta^2 / d runs through 1e2 .. 1e16 |T|: solvers lose moderate nodes beside it
    checked = 0
    for seed in range(6):
        rng = np.random.default_rng(seed)
        values, probe = hard_spectrum(rng), rng.standard_normal(120)
        alpha, beta, mass = lanczos(values, probe, 60, reorthogonalize)
        for k in (1, 2, 5, 30, 60):
            nodes = gauss_rule(alpha[:k], beta[:k]).nodes
            near = [
                node + sign * 10.0**-e for node in rng.choice(nodes, 4) for e in range(1, 17) for sign in (-1, 0, 1)
            ]
            for t in clear_of_eigenvalues(values, near):
                bracket = mass_bracket(alpha[:k], beta[:k], t)
                below, up_to = mass(t)
                assert bracket.lower <= below
                assert bracket.upper >= up_to
                checked += 1
    assert checked >= 500


def test_brackets_hold_at_unresolved_eigenvalues_and_at_an_atom():
    for seed in range(20):
        rng = np.random.default_rng(seed)
        values, probe = hard_spectrum(rng), rng.standard_normal(120)
        for k in (1, 3, 8):
            alpha, beta, mass = lanczos(values, probe, k)
            for t in [0.0, *rng.choice(values, 10)]:
                nodes = gauss_rule(alpha, beta).nodes
                if np.abs(nodes - t).min() < 1e-3 * np.abs(values).max():
                    continue  # a Ritz value that has converged to t: rounding decides on which side it lies
                bracket = mass_bracket(alpha, beta, t)
                below, up_to = mass(t)
                assert bracket.lower <= below
                assert bracket.upper >= up_to


@given(seed=st.integers(0, 2**32 - 1), size=st.integers(1, 25), steps=st.integers(1, 25), t=st.floats(-2, 2))
@settings(max_examples=200, deadline=None, derandomize=True)
def test_brackets_hold_for_any_small_spectrum(seed, size, steps, t):
    rng = np.random.default_rng(seed)
    values = np.round(rng.uniform(-1.5, 1.5, size), rng.integers(1, 4))  # repeated and exactly hit eigenvalues
    alpha, beta, mass = lanczos(values, rng.standard_normal(size), steps)
    bracket = mass_bracket(alpha, beta, t)
    assert 0 <= bracket.lower <= bracket.upper <= 1
    if np.abs(values - t).min() > GAP:
        below, up_to = mass(t)
        assert bracket.lower <= below
        assert bracket.upper >= up_to


def test_a_closed_space_gives_the_measure_itself():
    values = np.repeat([-2.0, -0.5, 0.0, 1.0], 10)
    probe = np.random.default_rng(0).standard_normal(40)
    alpha, beta, mass = lanczos(values, probe, 10)
    assert len(alpha) == 4
    for t in (-3.0, -1.0, -0.2, 0.3, 5.0):
        bracket = mass_bracket(alpha, beta, t)
        assert bracket.lower <= mass(t)[0] <= bracket.lower + 3 * ROUNDING
        assert bracket.upper - 3 * ROUNDING <= mass(t)[1] <= bracket.upper
    for t in (-2.0, -0.5, 0.0, 1.0):  # at an atom it lies on neither side
        bracket = mass_bracket(alpha, beta, t)
        assert bracket.lower <= mass(t)[0] + ROUNDING
        assert bracket.upper >= mass(t)[1] - ROUNDING


def test_a_zero_residual_uses_the_gauss_rule():
    alpha, beta = np.array([1.0, 3.0]), np.array([1.0, 0.0])
    low, high = 2 - np.sqrt(2), 2 + np.sqrt(2)
    weight = (2 + np.sqrt(2)) / 4
    for t, expected in [(low - 0.1, 0), (2.0, weight), (high + 0.1, 1)]:
        bracket = mass_bracket(alpha, beta, t)
        assert bracket.lower == pytest.approx(expected, abs=2 * ROUNDING)
        assert bracket.upper == pytest.approx(expected, abs=2 * ROUNDING)


def high_precision(values, probe, k):
    """(alpha, beta) by Lanczos on a diagonal matrix, in the working precision of mpmath."""
    q = [mpmath.mpf(float(x)) for x in probe]
    norm = mpmath.sqrt(mpmath.fsum(x * x for x in q))
    q, previous, beta, alphas, betas = [x / norm for x in q], [mpmath.mpf(0)] * len(q), mpmath.mpf(0), [], []
    for _ in range(k):
        w = [mpmath.mpf(float(v)) * x for v, x in zip(values, q, strict=True)]
        alpha = mpmath.fsum(x * y for x, y in zip(q, w, strict=True))
        w = [y - alpha * x - beta * p for y, x, p in zip(w, q, previous, strict=True)]
        beta = mpmath.sqrt(mpmath.fsum(y * y for y in w))
        q, previous = [y / beta for y in w], q
        alphas.append(alpha)
        betas.append(beta)
    return alphas, betas


def high_precision_bracket(alphas, betas, t):
    """(lower, upper, 1 / sum p_j(t)^2) at t: the Radau rule with mpmath's own eigenvectors."""
    k = len(alphas)
    pivot = alphas[0] - t
    for j in range(1, k):
        pivot = alphas[j] - t - betas[j - 1] ** 2 / pivot
    matrix = mpmath.zeros(k + 1)
    for j in range(k):
        matrix[j, j] = alphas[j]
        matrix[j, j + 1] = matrix[j + 1, j] = betas[j]
    matrix[k, k] = t + betas[-1] ** 2 / pivot
    nodes, vectors = mpmath.eigsy(matrix)
    at = min(range(k + 1), key=lambda i: abs(nodes[i] - t))
    lower = mpmath.fsum(vectors[0, i] ** 2 for i in range(k + 1) if i != at and nodes[i] < t)
    p, before, squares = mpmath.mpf(1), mpmath.mpf(0), mpmath.mpf(1)
    for j in range(k):
        p, before = ((t - alphas[j]) * p - (betas[j - 1] * before if j else 0)) / betas[j], p
        squares += p**2
    return lower, lower + vectors[0, at] ** 2, 1 / squares


@pytest.mark.parametrize("t", [-0.8, -0.05, 0.0, 0.3, 2.5])
def test_the_whole_bracket_against_sixty_digits_and_its_width_is_the_christoffel_number(t):
    rng = np.random.default_rng(3)
    values, probe = rng.uniform(-1, 1, 14), rng.standard_normal(14)
    with mpmath.workdps(60):
        for k in (1, 2, 4, 7):
            alphas, betas = high_precision(values, probe, k)
            lower, upper, christoffel = high_precision_bracket(alphas, betas, mpmath.mpf(t))
            assert abs(upper - lower - christoffel) < mpmath.mpf(10) ** -50  # the theorem, at 60 digits
            alpha, beta, mass = lanczos(values, probe, k)
            np.testing.assert_allclose(alpha, [float(a) for a in alphas], rtol=0, atol=1e-13)
            bracket = mass_bracket(alpha, beta, t)
            assert float(lower) - 3 * ROUNDING <= bracket.lower <= max(0.0, float(lower) - ROUNDING / 2)
            assert min(1.0, float(upper) + ROUNDING / 2) <= bracket.upper <= float(upper) + 3 * ROUNDING
            assert bracket.width == pytest.approx(float(christoffel), abs=4 * ROUNDING)
            assert float(lower) <= mass(t)[0] + EPS
            assert float(upper) >= mass(t)[1] - EPS


def test_the_fallback_at_a_ritz_value_costs_a_part_in_runaway_squared():
    rng = np.random.default_rng(8)
    values, probe = rng.uniform(-1, 1, 16), rng.standard_normal(16)
    with mpmath.workdps(60):
        alphas, betas = high_precision(values, probe, 6)
        alpha, beta = (np.array([float(x) for x in c]) for c in (alphas, betas))
        for ritz in gauss_rule(alpha, beta).nodes:
            for distance in (1e-4, -1e-6, 1e-9, -1e-12):
                t = float(ritz + distance)
                lower, upper, christoffel = high_precision_bracket(alphas, betas, mpmath.mpf(t))
                bracket = mass_bracket(alpha, beta, t)
                assert bracket.lower <= float(lower)
                assert bracket.upper >= float(upper)
                assert bracket.width <= float(christoffel) * (1 + 2 / RUNAWAY**2) + 4 * ROUNDING


def test_at_a_gauss_node_the_bracket_is_the_staircase():
    rng = np.random.default_rng(2)
    values, probe = rng.uniform(-1, 1, 60), rng.standard_normal(60)
    alpha, beta, mass = lanczos(values, probe, 15)
    rule = gauss_rule(alpha, beta)
    upper = np.cumsum(rule.weights)
    for node, low, high in zip(rule.nodes, upper - rule.weights, upper, strict=True):
        bracket = mass_bracket(alpha, beta, node)
        assert bracket.lower == pytest.approx(low, abs=1e-11)
        assert bracket.upper == pytest.approx(high, abs=1e-11)
        assert low - 1e-13 <= mass(node)[0]
        assert high + 1e-13 >= mass(node)[1]
    assert upper[-1] == pytest.approx(1, abs=100 * EPS)


# The matrix-valued inequality is false at block size 2
COUNTEREXAMPLE = (-1.63, -0.87, -0.52, 0.06, 1.55, 2.7)
BLOCK = ((-2.1, -0.5), (-0.6, -0.6), (-1.2, 0.4), (-0.8, -2.2), (-1.0, 0.8), (1.2, -1.1))
T = -0.42


def block_radau_defect():
    """The least eigenvalues of exact - lower and upper - exact, of the block bracket after one block step."""
    h, g, eye = mpmath.diag([mpmath.mpf(str(x)) for x in COUNTEREXAMPLE]), mpmath.matrix(BLOCK), mpmath.eye(2)
    t = mpmath.mpf(str(T))

    def orthonormal(block):
        factor = mpmath.cholesky(block.T * block).T
        return block * factor**-1, factor

    q, first = orthonormal(g)
    m = q.T * h * q
    _, b = orthonormal(h * q - q * m)
    corner = t * eye + b * (m - t * eye) ** -1 * b.T
    matrix = mpmath.zeros(4)
    matrix[:2, :2], matrix[:2, 2:], matrix[2:, :2], matrix[2:, 2:] = m, b.T, b, corner
    nodes, vectors = mpmath.eigsy(matrix)

    def weight(chosen):
        rows = [
            [mpmath.fsum(vectors[a, i] * vectors[c, i] for i in range(4) if chosen(nodes[i])) for c in range(2)]
            for a in range(2)
        ]
        return first.T * mpmath.matrix(rows) * first

    for degree in range(3):  # it is the block rule: exact to degree 2k
        power = mpmath.diag([node**degree for node in nodes])
        rule = first.T * (vectors * power * vectors.T)[:2, :2] * first
        assert mpmath.norm(rule - g.T * h**degree * g) < mpmath.mpf(10) ** -30
    at = sorted(abs(node - t) for node in nodes)[1]  # a double node at t
    assert at < mpmath.mpf(10) ** -30
    below = weight(lambda node: node < t - 10 * at - mpmath.mpf(10) ** -30)
    up_to = weight(lambda node: node <= t + 10 * at + mpmath.mpf(10) ** -30)
    exact = mpmath.zeros(2)
    for i, value in enumerate(COUNTEREXAMPLE):
        if value < T:
            exact += g[i, :].T * g[i, :]
    return min(mpmath.eigsy(exact - below)[0]), min(mpmath.eigsy(up_to - exact)[0])


def test_block_brackets_are_no_certificates_and_lock_step_ones_are():
    with mpmath.workdps(40):
        low, high = block_radau_defect()
        assert min(low, high) < -mpmath.mpf("1e-3")  # violated, and not by rounding
    values, block = np.array(COUNTEREXAMPLE), np.array(BLOCK)
    for column in block.T:
        for k in range(1, 7):
            alpha, beta, mass = lanczos(values, column, k)
            bracket = mass_bracket(alpha, beta, T)
            assert bracket.lower <= mass(T)[0]
            assert bracket.upper >= mass(T)[1]


@pytest.mark.parametrize("k", [1, 5, 30, 60])
def test_the_bracket_of_a_rule_alone_holds_and_encloses_the_sharpest_one(k):
    rng = np.random.default_rng(k)
    values, probe = rng.standard_normal(60), rng.standard_normal(60)
    alpha, beta, mass = lanczos(values, probe, k)
    rule = gauss_rule(alpha, beta)
    for t in np.linspace(-4, 4, 161):
        wide, sharp, (below, up_to) = gauss_bracket(rule, t), mass_bracket(alpha, beta, t), mass(t)
        assert wide.lower <= below + 1e-9
        assert up_to <= wide.upper + 1e-9
        assert wide.lower <= sharp.lower + 1e-9
        assert sharp.upper <= wide.upper + 1e-9
    if k == 30:
        widths = [gauss_bracket(rule, t).width for t in np.linspace(-1, 1, 41)]
        assert max(widths) < 0.25  # a few of thirty weights, not everything
