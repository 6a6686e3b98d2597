"""Laws of inertia with its certificate, by both factorizations, against closed forms and numpy's eigenvalues."""

import numpy as np
import pytest
import torch
from matrices import low_rank, rotated, seeded, symmetric

from lanczos_saddle.dense import blocked_ldl, ldl
from lanczos_saddle.dense.exact import assemble, inertia
from lanczos_saddle.dense.sylvester import Sylvester

EPS = torch.finfo(torch.float64).eps
CPU = torch.device("cpu")


def zero_blocks(half):
    """[[0, B], [B', 0]]: eigenvalues +-sigma(B), and no diagonal block of the first half can be factored."""
    b, zero = torch.randn(half, half, generator=seeded(1), dtype=torch.float64), torch.zeros(half, half).double()
    return torch.cat([torch.cat([zero, b], 1), torch.cat([b.T, zero], 1)])


def swaps(pairs):
    """diag of [[0, 1], [1, 0]], partners far apart: coordinate i with i + pairs."""
    eye, zero = torch.eye(pairs, dtype=torch.float64), torch.zeros(pairs, pairs, dtype=torch.float64)
    return torch.cat([torch.cat([zero, eye], 1), torch.cat([eye, zero], 1)])


def blank(size, living):
    """Coordinates outside `living` have rows of zeros."""
    matrix = torch.zeros(size, size, dtype=torch.float64)
    matrix[10 : 10 + living, 10 : 10 + living] = symmetric(living)
    return matrix


def clustered(size):
    """Two clusters a part in a million apart, on both sides of -1e-3, and outliers."""
    half = size // 2 - 10
    return rotated([-1e-3 * (1 + 1e-6)] * half + [-1e-3 * (1 - 1e-6)] * half + [1.0] * (size - 2 * half))


MATRICES = {
    "one": (torch.tensor([[-2.0]], dtype=torch.float64), (0.0, -3.0)),
    "three": (symmetric(3), (0.0, 0.1)),
    "random": (symmetric(300), (0.3, -5.0, 0.0)),
    "zero blocks": (zero_blocks(130), (0.0, 1e-3)),
    "pairs": (swaps(130), (0.0, 0.5, -1.5)),
    "low rank": (low_rank(260), (1e-6, -1e-6)),
    "blank": (blank(260, 200), (1e-6, -1e-6, 0.4)),
    "cluster": (clustered(260), (-1e-3, 0.0, -2e-3)),
    "definite": (rotated(torch.linspace(1, 2, 250)), (0.0, 1.5003)),
    "zero": (torch.zeros(70, 70, dtype=torch.float64), (1e-3, -1e-3)),
    "graded": (symmetric(200) * torch.logspace(0, -8, 200, dtype=torch.float64)[:, None].minimum(
        torch.logspace(0, -8, 200, dtype=torch.float64)), (1e-3, -1e-3)),
}  # fmt: skip
CASES = [pytest.param(m, t, id=f"{name} {t:g}") for name, (m, ts) in MATRICES.items() for t in ts]
everywhere = pytest.mark.parametrize(("matrix", "t"), CASES)
methods = pytest.mark.parametrize("method", ["lapack", "blocked"])
blocks = pytest.mark.parametrize("block", [7, 32, 512])


def truth(matrix, t):
    values = np.linalg.eigvalsh(matrix.numpy())
    return int((values < t).sum()), int((values > t).sum())


@pytest.fixture
def small(monkeypatch):
    """Many blocks and several tiles at the sizes of these tests."""
    monkeypatch.setattr(blocked_ldl, "TILE", 48)
    monkeypatch.setattr(ldl, "TILE", 48)


# --- counts and certificates ------------------------------------------------------------------------------------


@methods
@everywhere
def test_counts_agree_with_eigenvalues(matrix, t, method, small):
    result = inertia(matrix, t, method=method)
    assert result == truth(matrix, t)
    assert result.margin <= 1e-10 * max(1, abs(t), float(matrix.norm()))


@methods
@everywhere
def test_the_certificate_is_true(matrix, t, method):
    """|R|_2 <= margin and separation <= distance of t from the spectrum, up to R."""
    result = inertia(matrix, t, method=method)
    distance = np.abs(np.linalg.eigvalsh(matrix.numpy()) - t).min()
    assert result.separation <= distance + result.margin
    # and not idle: one in 10 sqrt(10 N) at worst, with max |x_i| <= 2 sqrt(N) / distance and c = 0.1
    assert result.separation >= 0.1 / (2 * max(len(matrix), 10) ** 0.5) * distance * 0.5


def test_margin_and_separation_hold_over_many_probes():
    """The two inequalities with R formed densely, 200 draws; P = 1e-11 each, so none may fail."""
    matrix, t = symmetric(40), 0.21
    factor = ldl.factorize(matrix.clone().numpy().T, t)
    dense = torch.from_numpy(ldl.apply_factors(factor, np.eye(40)))
    error = float(torch.linalg.matrix_norm(dense - matrix + t * torch.eye(40).double(), 2))
    distance = float(torch.linalg.eigvalsh((dense + dense.T) / 2).abs().min())
    for seed in range(200):
        result = inertia(matrix, t, method="lapack", generator=seeded(seed))
        assert error <= result.margin
        assert result.separation <= distance * (1 + 1e-6)


def test_a_certificate_without_the_constant_fails():
    """The wrong variant: |R v| / |v| underestimates |R|_2 nearly always."""
    matrix = symmetric(60)
    factor = ldl.factorize(matrix.clone().numpy().T, 0.1)
    error = ldl.apply_factors(factor, np.eye(60)) - matrix.numpy() + 0.1 * np.eye(60)
    v = np.random.default_rng(0).standard_normal((60, 100))
    naive = np.linalg.norm(error @ v, axis=0) / np.linalg.norm(v, axis=0)
    assert (naive < np.linalg.norm(error, 2)).mean() > 0.99


@methods
def test_an_eigenvalue_at_the_threshold_is_not_certified(method):
    matrix = rotated([-1.0] * 20 + [0.25] * 5 + [2.0] * 60)
    at, beside = (inertia(matrix, t, method=method) for t in (0.25, 0.26))
    assert not at.holds_for(0.0)
    assert beside == (25, 60)
    assert beside.holds_for(0.0)
    assert not beside.holds_for(0.01)


@methods
def test_an_exactly_singular_matrix_is_not_certified(method):
    result = inertia(torch.zeros(30, 30, dtype=torch.float64), 0.0, method=method)
    assert result == (0, 0)
    assert (result.margin, result.separation) == (0, 0)
    assert not result.holds_for(0.0)


@methods
def test_several_thresholds_in_one_memory(method, small):
    """The matrix comes back between them."""
    matrix = symmetric(200)
    solver = Sylvester(matrix.clone(), method=method)
    for t in (-4.0, 0.0, 7.0, 0.0):
        found = solver.at(t)
        assert found == truth(matrix, t)
        assert found.holds_for(0.0)


def test_lapack_gives_the_matrix_back_to_the_bit(small):
    matrix = symmetric(130)
    worked = matrix.clone()
    factor = ldl.factorize(worked.numpy().T, 0.7)
    assert not torch.equal(worked, matrix)
    ldl.restore(factor)
    assert torch.equal(worked, matrix)


@pytest.mark.parametrize("t", [0.0, 0.37])
def test_solves_invert_the_factors(t):
    matrix = symmetric(80)
    factor = ldl.factorize(matrix.clone().numpy().T, t)
    assert 0 < len(factor.pairs) < 40  # 1 x 1 and 2 x 2 pivots
    v = np.random.default_rng(0).standard_normal((80, 3))
    solution = np.linalg.solve(matrix.numpy() - t * np.eye(80), v)
    condition = np.linalg.cond(matrix.numpy() - t * np.eye(80))
    assert np.linalg.norm(ldl.solve_factors(factor, v) - solution) <= 100 * 80 * EPS * condition * np.linalg.norm(
        solution
    )


def test_misuse_is_refused():
    with pytest.raises(ValueError, match="method must be one of auto, lapack, blocked; got 'ldl'"):
        inertia(symmetric(5), 0.0, method="ldl")


def test_a_certificate_sees_a_factorization_that_failed():
    """LAPACK's blocked dsytrf on 33 pairs at t = 1, where half of the pivots are exactly zero: |R| is of the order 1.

    The pivots of [[-1, 1], [1, -1]] are -1 and 0; scipy.linalg.ldl shows the same residual.
    """
    pairs = torch.block_diag(*[torch.tensor([[0.0, 1.0], [1.0, 0.0]], dtype=torch.float64)] * 33)
    result = inertia(pairs, 1.0, method="lapack")
    assert result == (33, 0) or result.margin > 1
    assert not result.holds_for(0.0)


# --- the blocked factorization itself ---------------------------------------------------------------------------


def dense_factors(factor):
    return blocked_ldl.apply_factors(factor, torch.eye(len(factor.matrix), dtype=torch.float64))


@blocks
@everywhere
def test_factors_multiply_to_the_matrix(matrix, t, block, small):
    """T D T' = H - t I, without mixing, so that zero diagonal blocks must wait for their partners."""
    factor = blocked_ldl.factorize(matrix.clone(), t, block=block)
    error = torch.linalg.matrix_norm(dense_factors(factor) - matrix + t * torch.eye(len(matrix)).double(), 2)
    norm = float(torch.linalg.matrix_norm(matrix, 2)) + abs(t)
    assert error <= blocked_ldl.GROWTH * len(matrix) * EPS * norm
    assert sum(step.accepted for step in factor.steps) == len(matrix)
    assert (int((factor.pivots < 0).sum()), int((factor.pivots > 0).sum())) == truth(matrix, t)


@blocks
def test_factors_solve(block, small):
    matrix = symmetric(200)
    factor = blocked_ldl.factorize(matrix.clone(), 0.3, block=block)
    v = torch.randn(200, 3, generator=seeded(), dtype=torch.float64)
    solution = torch.linalg.solve(matrix - 0.3 * torch.eye(200).double(), v)
    assert (blocked_ldl.solve_factors(factor, v) - solution).norm() <= 1e-9 * solution.norm()


def test_directions_are_delayed_until_they_can_be_pivots(small):
    """The first half of [[0, B], [B', 0]] waits for the second: no step accepts before coordinate 100 is in."""
    factor = blocked_ldl.factorize(zero_blocks(100), 0.0, block=16)
    accepted = [step.accepted for step in factor.steps]
    assert sum(accepted[:6]) == 0
    assert len(factor.steps[6].turn) == 7 * 16
    assert sum(accepted) == 200


def test_the_number_of_delays_is_capped_and_the_residual_tells(small, monkeypatch):
    """At most 8 may wait: the pivots taken instead are zeros that are coupled, and the certificate is void."""
    matrix = zero_blocks(100)
    factor = blocked_ldl.factorize(matrix.clone(), 0.0, block=16, delayed=8)
    assert max(len(step.turn) - step.accepted for step in factor.steps) <= 8
    assert not (dense_factors(factor) - matrix).norm() <= 1e-3 * matrix.norm()
    monkeypatch.setattr(blocked_ldl, "mixing", unmixed)
    monkeypatch.setitem(blocked_ldl.factorize.__kwdefaults__, "delayed", 8)
    monkeypatch.setitem(blocked_ldl.factorize.__kwdefaults__, "block", 16)
    result = inertia(matrix, 0.0, method="blocked")
    assert not result.holds_for(0.0)


def unmixed(size, generator, device):
    one = torch.ones(1, 1, dtype=torch.float64, device=device)
    return blocked_ldl.Mixing(torch.ones(2, size, dtype=torch.float64, device=device), one, one)


@pytest.mark.parametrize("make", [zero_blocks, swaps])
def test_mixing_leaves_no_zero_block(make, small):
    """After mixing hardly a direction waits, where without it a half does."""
    matrix = make(128)
    mixing = blocked_ldl.mixing(256, seeded(), CPU)
    blocked_ldl.mix(matrix, mixing)
    waiting = [len(s.turn) - s.accepted for s in blocked_ldl.factorize(matrix, 0.0, block=16).steps]
    bare = [len(s.turn) - s.accepted for s in blocked_ldl.factorize(make(128), 0.0, block=16).steps]
    assert max(waiting) <= 16
    assert max(bare) >= 64


@pytest.mark.parametrize("size", [1, 2, 3, 64, 100, 129])
def test_mixing_is_orthogonal(size, small):
    mixing = blocked_ldl.mixing(size, seeded(), CPU)
    m = mixing.rows(torch.eye(size, dtype=torch.float64)).T
    assert (m @ m.T - torch.eye(size).double()).abs().max() <= 20 * EPS
    v = torch.randn(5, size, generator=seeded(), dtype=torch.float64)
    assert (mixing.rows(v) - v @ m.T).norm() <= 50 * EPS * v.norm()
    assert (mixing.rows_back(v) - v @ m).norm() <= 50 * EPS * v.norm()
    matrix = symmetric(size)
    mixed = matrix.clone()
    blocked_ldl.mix(mixed, mixing)
    assert (mixed - m @ matrix @ m.T).norm() <= 100 * EPS * matrix.norm()


@pytest.mark.parametrize("size", [100, 129])
def test_mixing_spreads_every_coordinate(size):
    """Entries are 1/sqrt(2^k), or sums of at most 2^k terms +-1/2^k: beyond 6/sqrt(2^k) with P < 5e-4 (Hoeffding)."""
    m = blocked_ldl.mixing(size, seeded(), CPU).rows(torch.eye(size, dtype=torch.float64))
    assert m.abs().max() <= 6 * (2.0 ** (size.bit_length() - 1)) ** -0.5


def test_the_blocked_factorization_works_in_place(small):
    matrix = symmetric(150)
    factor = blocked_ldl.factorize(matrix, 0.2, block=16)
    assert factor.matrix.data_ptr() == matrix.data_ptr()
    blocked_ldl.restore(factor)
    assert torch.equal(matrix, symmetric(150))


def test_a_dense_operator_is_kept(small):
    matrix = symmetric(60)
    dense = assemble(matrix)
    for method in ("lapack", "blocked"):
        assert inertia(dense, 0.1, method=method) == truth(matrix, 0.1)
    assert torch.equal(dense.matrix, matrix)
