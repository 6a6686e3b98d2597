"""The measured noise bounds |E|_2 of the run that was made; wrong ways to measure it do not."""

import math

import pytest
import torch
from scipy.stats import binom
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lanczos_saddle.krylov import run_error
from lanczos_saddle.krylov.basis import SLICE, Rows
from lanczos_saddle.krylov.lanczos import Lanczos
from lanczos_saddle.krylov.run_error import COLUMNS, POWERS, SUMS, RunError, Sums
from lanczos_saddle.operators.mixed import Mixed, mixed
from lanczos_saddle.operators.operator import Projected

F64 = torch.float64
SIZE = 150


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def gaussian(*shape, seed):
    return torch.randn(*shape, generator=seeded(seed), dtype=F64)


def matrix(seed=0):
    """In float32: a few large eigenvalues, many small ones of both signs, an atom near zero."""
    values = torch.cat(
        [torch.logspace(-2, 0, 10), -torch.logspace(-4, -2, 20), torch.zeros(60), torch.full((60,), 1e-4)]
    )
    q = torch.linalg.qr(gaussian(SIZE, SIZE, seed=seed)).Q
    h = (q * values.to(F64)) @ q.mT
    return ((h + h.mT) / 2).float()


def exact(h):
    return (h.to(F64) + h.to(F64).mT) / 2


def dense_error(run, h):
    """[E_1 .. E_m] by dense matrices, from the definition."""
    found = []
    for i in range(run.probes):
        alpha, beta = (torch.as_tensor(c) for c in run.tridiagonalization().coefficients(i))
        q = run.basis[i, : len(alpha)].mT
        t = torch.diag(alpha) + torch.diag(beta[:-1], 1) + torch.diag(beta[:-1], -1)
        e = h @ q - q @ t
        e[:, -1] -= beta[-1] * run.following[i]
        found.append(e)
    return torch.cat(found, dim=1)


def run_of(h, columns, steps, seed=1, probes=2):
    operator = mixed(h, exact(h), columns, seeded(seed))
    run = Lanczos(operator, gaussian(SIZE, probes, seed=seed + 100))
    run.advance(steps)
    return run


@pytest.mark.parametrize("columns", [0, 7])
@pytest.mark.parametrize("steps", [1, 2, 40])
def test_the_error_of_a_run_is_known_by_its_action(columns, steps):
    h = matrix()
    run = run_of(h, columns, steps)
    error, e = RunError(run, exact(h)), dense_error(run, exact(h))
    g, u = gaussian(error.columns, 3, seed=2), gaussian(SIZE, 3, seed=3)
    assert error.columns == e.shape[1]
    torch.testing.assert_close(error.times(g), e @ g, rtol=0, atol=1e-13)
    torch.testing.assert_close(error.transposed_times(u), e.mT @ u, rtol=0, atol=1e-13)


def test_the_error_of_a_projected_run_is_that_of_the_projected_matrix():
    h = matrix()
    u = torch.linalg.qr(gaussian(SIZE, 4, seed=5)).Q
    run = Lanczos(
        Projected(mixed(h, exact(h), 6, seeded(0)), u),
        gaussian(SIZE, 1, seed=6) - u @ (u.mT @ gaussian(SIZE, 1, seed=6)),
    )
    run.advance(20)
    inside = torch.eye(SIZE, dtype=F64) - u @ u.mT
    e, g = dense_error(run, inside @ exact(h) @ inside), gaussian(20, 2, seed=7)
    torch.testing.assert_close(RunError(run, Projected(exact(h), u)).times(g), e @ g, rtol=0, atol=1e-13)


@pytest.mark.parametrize("columns", [0, 12])
def test_every_power_bounds_the_norm_and_the_last_ones_are_near(columns):
    ratios = []
    for seed in range(20):
        h = matrix(seed)
        run = run_of(h, columns, 60, seed=seed)
        norm = float(torch.linalg.matrix_norm(dense_error(run, exact(h)), 2))
        spreads = list(RunError(run, exact(h)).bounds(seeded(seed + 500)))
        assert [spread.products for spread in spreads] == [COLUMNS * p for p in range(1, POWERS + 1)]
        assert all(spread.bound >= norm for spread in spreads)
        ratios.append([spread.bound / norm for spread in spreads])
    first, *_, last = torch.tensor(ratios).median(dim=0).values.tolist()
    assert last < 2.5 < first


def test_what_is_known_beforehand_makes_the_error_smaller():
    h = matrix()
    plain, split = (float(torch.linalg.matrix_norm(dense_error(run_of(h, c, 60), exact(h)), 2)) for c in (0, 24))
    assert split < plain / 2


@pytest.mark.parametrize("columns", [0, 5, SIZE])
def test_a_mixed_operator_is_the_same_matrix(columns):
    h = matrix()
    operator = mixed(h, exact(h), columns, seeded(1))
    v = gaussian(SIZE, 4, seed=2)
    assert (operator.shape, operator.dtype, operator.arithmetic) == (h.shape, F64, torch.float32)
    torch.testing.assert_close(operator @ v, exact(h) @ v, rtol=0, atol=3e-6)
    assert operator.known.shape == operator.images.shape == (SIZE, columns)
    u = torch.linalg.qr(gaussian(SIZE, 5, seed=3)).Q  # any U will do
    torch.testing.assert_close(Mixed(h, u, exact(h) @ u) @ v, exact(h) @ v, rtol=0, atol=3e-6)


def summed(h, steps, seed, columns=SUMS):
    """(the sums, [E_1 .. E_m] of a run without a basis: its vectors are caught on the way)."""
    caught = []

    class Caught:
        shape, dtype, device = h.shape, F64, h.device

        def __matmul__(self, v):
            product = (h @ v.float()).to(F64)
            caught.append(product - exact(h) @ v)
            return product

    sums = Sums(h, columns, seeded(seed + 900))
    run = Lanczos(sums.watch(Caught()), gaussian(SIZE, 2, seed=seed), reorthogonalize=False)
    run.advance(steps)
    return sums, torch.cat(caught, dim=1)


def test_sums_bound_the_error_of_a_run_without_a_basis():
    for seed in range(20):
        h = matrix(seed)
        sums, e = summed(h, 40, seed)
        spread, norm = sums.bound(exact(h)), float(torch.linalg.matrix_norm(e, 2))
        assert spread.products == SUMS
        assert norm <= spread.bound <= 3 * float(torch.linalg.matrix_norm(e)) + 1e-14


class Largest(TorchDispatchMode):
    """How many numbers the largest tensor has that an operation makes, not writes into."""

    def __init__(self):
        super().__init__()
        self.made = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        there = {
            one.untyped_storage().data_ptr() for one in tree_leaves((args, kwargs)) if isinstance(one, torch.Tensor)
        }
        if isinstance(found, torch.Tensor) and found.untyped_storage().data_ptr() not in there:
            self.made = max(self.made, found.numel())
        return found


def test_sums_are_written_where_those_before_the_last_were():
    """Blocks of 16 columns are the most that a run in float32 holds: two of them, and no others on the way."""
    sums, block = Sums(torch.eye(SIZE), 16, seeded(0)), gaussian(SIZE, 2, seed=1)
    known = torch.zeros(2, SIZE, 16, dtype=F64)
    stream = seeded(0)
    for _ in range(3):
        g = torch.randn(2, 16, generator=stream, dtype=F64)
        known += torch.stack([block @ g, (3 * block) @ g])
        with Largest() as largest:
            sums.add(block, 3 * block)
    assert torch.equal(sums.sums, known)
    assert largest.made < 16 * SIZE


def test_a_basis_in_float32_is_not_copied_for_its_inner_products():
    rows = Rows(1, 7, 3 * SLICE + 5, torch.float32, torch.device("cpu"))
    rows.rows.copy_(gaussian(7, rows.rows.shape[2], seed=2)[None])
    u = gaussian(rows.rows.shape[2], 2, seed=3)
    with Largest() as largest:
        found = rows.inner(0, 6, u)
    assert torch.allclose(found, rows.rows[0, :6].to(F64) @ u, rtol=0, atol=1e-12 * float(u.norm()) * 200)
    assert largest.made <= 6 * SLICE


def test_a_product_that_is_not_finite_is_left_out_of_the_sums():
    sums = Sums(torch.eye(3), 2, seeded(0))
    sums.add(torch.ones(3, 1, dtype=F64), torch.ones(3, 1, dtype=F64))
    before = sums.sums.clone()
    sums.add(torch.ones(3, 1, dtype=F64), torch.full((3, 1), math.nan, dtype=F64))
    assert torch.equal(sums.sums, before)


class RankOne:
    """Stands for E = u v', |E|_2 = 1: the worst case of the law, whose bound fails as often as stated."""

    def __init__(self, size):
        self.v = gaussian(size, 1, seed=11)
        self.v /= self.v.norm()

    def bound(self, g):
        return float((self.v.mT @ g).norm()) / run_error.gaussian_floor(g.shape[1])


@pytest.mark.parametrize("columns", [4, 8, 16])
def test_the_chance_of_failure_is_the_stated_one(columns, monkeypatch):
    monkeypatch.setattr(run_error, "FAILURE", 0.05)
    error, stream, tries = RankOne(40), seeded(3), 4000
    missed = sum(error.bound(torch.randn(40, columns, generator=stream, dtype=F64)) < 1 for _ in range(tries))
    assert 1e-3 < binom.cdf(missed, tries, 0.05) < 1 - 1e-3


def test_random_signs_would_fail_more_often(monkeypatch):
    """A vector v of two equal entries: a sum of two signs is 0 half of the time."""
    monkeypatch.setattr(run_error, "FAILURE", 0.05)
    v, stream, tries = torch.full((2, 1), 0.5**0.5, dtype=F64), seeded(4), 4000
    missed = 0
    for _ in range(tries):
        signs = torch.randint(0, 2, (2, 4), generator=stream).to(F64) * 2 - 1
        missed += float((v.mT @ signs).norm()) / run_error.gaussian_floor(4) < 1
    assert binom.sf(missed, tries, 0.05) < 1e-3


def test_measured_on_another_run_it_does_not_hold():
    """A run of one step, or of an operator that happened to round less, tells nothing of this one."""
    h = matrix()
    norm = float(torch.linalg.matrix_norm(dense_error(run_of(h, 0, 60), exact(h)), 2))
    short = list(RunError(run_of(h, 0, 1), exact(h)).bounds(seeded(0)))
    other = list(RunError(run_of(h, 24, 60), exact(h)).bounds(seeded(0)))
    assert min(short[-1].bound, other[-1].bound) < norm


def test_numbers_that_depend_on_the_run_do_not_bound_it():
    """G out of the space that the errors see, as numbers from the probes' own stream may be."""
    h = matrix()
    run = run_of(h, 0, 60)
    error, e = RunError(run, exact(h)), dense_error(run, exact(h))
    v = torch.linalg.svd(e).Vh[:110].mT
    g = gaussian(error.columns, COLUMNS, seed=1)
    g = g - v @ (v.mT @ g)
    assert float(torch.linalg.matrix_norm(error.times(g), 2)) / run_error.gaussian_floor(COLUMNS) < float(
        torch.linalg.matrix_norm(e, 2)
    )


def test_products_in_float64_that_are_not_finite_bound_nothing():
    h = matrix()
    wrong = exact(h)
    wrong[3, 3] = math.inf
    assert [spread.bound for spread in RunError(run_of(h, 0, 5), wrong).bounds(seeded(0))] == [math.inf]
    sums, _ = summed(h, 5, 0)
    assert sums.bound(wrong).bound == math.inf


def test_without_errors_nothing_is_found():
    zero = torch.zeros(SIZE, SIZE)
    run = Lanczos(mixed(zero, exact(zero), 0, seeded(0)), gaussian(SIZE, 1, seed=1))
    run.advance(1)
    assert [spread.bound for spread in RunError(run, exact(zero)).bounds(seeded(0))] == [0.0]
