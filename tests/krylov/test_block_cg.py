"""Block conjugate gradients against dense solvers: identities at every depth, lost rank, shifts, preconditioners."""

import pytest
import torch
from matrices import gaussian

from lanczos_saddle.krylov.block_cg import BlockCG
from lanczos_saddle.operators.operator import Shifted


def semidefinite(n=80, rank=None, seed=0):
    """Eigenvalues over six decades, and zeros beyond `rank`."""
    generator = torch.Generator().manual_seed(seed)
    q = torch.linalg.qr(torch.randn(n, n, generator=generator, dtype=torch.float64)).Q
    values = torch.logspace(-6, 0, n, dtype=torch.float64)
    if rank is not None:
        values[: n - rank] = 0
    return (q * values) @ q.mT


class Counted:
    def __init__(self, matrix):
        self.matrix, self.columns = matrix, []

    shape = property(lambda self: self.matrix.shape)
    dtype = property(lambda self: self.matrix.dtype)
    device = property(lambda self: self.matrix.device)

    def __matmul__(self, v):
        self.columns.append(v.shape[1])
        return self.matrix @ v


def solved(a, right, shift):
    return torch.linalg.solve(a + shift * torch.eye(len(a), dtype=a.dtype), right)


def run(cg, steps=200):
    while not cg.closed and cg.steps < steps:
        cg.advance()
    return cg


def close(found, expected, rtol):
    torch.testing.assert_close(found, expected, rtol=0, atol=rtol * float(expected.abs().max()))


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_energy_and_residual_hold_at_every_depth(steps):
    a, right, shifts = semidefinite(), gaussian(80, 6, seed=1), [1e-1, 1e-3]
    cg = run(BlockCG(a, right, shifts=shifts), steps)
    for system, shift in zip(cg.systems, shifts, strict=True):
        x = system.solution
        f = right - a @ x - shift * x
        close(system.energy, right.mT @ x, 1e-12)
        # f is a difference of R and A X, and |A| = 1: sums of 80 terms of that size are rounded
        rounding = 80 * torch.finfo(torch.float64).eps * float(right.abs().max() + x.abs().max())
        torch.testing.assert_close(cg.block @ system.coefficient, f, rtol=0, atol=rounding)
        allowed = 2 * 80 * rounding * float(f.abs().max())
        torch.testing.assert_close(cg.residual_gram(system), f.mT @ f, rtol=0, atol=allowed)


def test_the_solution_is_the_galerkin_one_over_the_block_krylov_space():
    a, right, shift = semidefinite(), gaussian(80, 4, seed=1), 1e-2
    cg = run(BlockCG(a, right, shifts=[shift]), 3)
    basis = torch.linalg.qr(torch.cat([right, a @ right, a @ (a @ right)], dim=1)).Q
    small = basis.mT @ a @ basis + shift * torch.eye(12, dtype=torch.float64)
    close(cg.systems[0].solution, basis @ torch.linalg.solve(small, basis.mT @ right), 1e-9)


@pytest.mark.parametrize("shifts", [[1e-2], [1.0, 1e-2, 1e-4]])
def test_solutions_agree_with_dense_solves_for_all_shifts(shifts):
    a, right = Counted(semidefinite(120, rank=90)), gaussian(120, 10, seed=1)
    cg = run(BlockCG(a, right, shifts=shifts), 60)
    for system, shift in zip(cg.systems, shifts, strict=True):
        assert not system.failed
        close(system.solution, solved(a.matrix, right, shift), 1e-8)
    assert cg.products == sum(a.columns)


def test_dependent_and_zero_columns_narrow_the_block():
    a, three = semidefinite(), gaussian(80, 3, seed=1)
    right = torch.cat([three, three @ gaussian(3, 4, seed=2), torch.zeros(80, 1, dtype=torch.float64)], dim=1)
    cg = BlockCG(a, right, shifts=[1e-3])
    assert cg.width == 3
    close(run(cg, 80).systems[0].solution, solved(a, right, 1e-3), 1e-8)


def test_columns_of_very_different_size_survive():
    a = semidefinite()
    right = gaussian(80, 5, seed=1) * torch.tensor([1.0, 1e-3, 1e-6, 1.0, 1e-9], dtype=torch.float64)
    cg = BlockCG(a, right, shifts=[1e-3])
    assert cg.width == 5
    x, exact = run(cg, 80).systems[0].solution, solved(a, right, 1e-3)
    for found, expected in zip(x.T, exact.T, strict=True):
        close(found, expected, 1e-6)


def test_the_krylov_space_closes_where_there_are_few_eigenvalues():
    values = torch.cat([torch.full((30,), v, dtype=torch.float64) for v in (0.0, 0.5, 2.0)])
    q = torch.linalg.qr(gaussian(90, 90, seed=1)).Q
    a, right = (q * values) @ q.mT, gaussian(90, 7, seed=1)
    cg = run(BlockCG(a, right, shifts=[1e-5]), 50)
    assert (cg.steps, cg.width, cg.closed) == (3, 0, True)
    close(cg.systems[0].solution, solved(a, right, 1e-5), 1e-10)
    assert float(cg.residual_gram(cg.systems[0]).abs().max()) < 1e-20


def test_part_of_the_block_ends_before_the_rest():
    a = semidefinite()
    vectors = torch.linalg.eigh(a).eigenvectors
    right = torch.cat([vectors[:, 70:73], gaussian(80, 2, seed=1)], dim=1)
    cg = BlockCG(a, right, shifts=[1e-2])
    cg.advance()
    assert cg.width == 2
    close(run(cg, 100).systems[0].solution, solved(a, right, 1e-2), 1e-9)


def test_nothing_to_solve():
    cg = BlockCG(semidefinite(), torch.zeros(80, 3, dtype=torch.float64), shifts=[1.0])
    assert cg.closed
    assert cg.products == 0
    assert not cg.systems[0].solution.any()


def test_an_indefinite_system_is_reported_and_leaves_the_others_alone():
    a = semidefinite() - 0.3 * torch.eye(80, dtype=torch.float64)
    right = gaussian(80, 8, seed=1)
    cg = run(BlockCG(a, right, shifts=[0.1, 1.0]), 40)
    assert cg.systems[0].failed
    assert bool(cg.systems[0].solution.isfinite().all())
    close(cg.systems[1].solution, solved(a, right, 1.0), 1e-10)


def test_frozen_systems_keep_their_solution():
    cg = BlockCG(semidefinite(), gaussian(80, 4, seed=1), shifts=[1e-1, 1e-3])
    cg.advance()
    cg.systems[0].frozen = True
    kept = cg.systems[0].solution.clone()
    cg.advance()
    assert torch.equal(cg.systems[0].solution, kept)
    assert not cg.closed
    cg.systems[1].frozen = True
    assert cg.closed


@pytest.mark.parametrize(
    "right", [gaussian(80, 5, seed=1), torch.cat([gaussian(80, 3, seed=1), gaussian(80, 3, seed=1)], dim=1)]
)
def test_a_preconditioner_changes_the_way_and_not_the_solution(right):
    a = semidefinite() + torch.diag(torch.logspace(0, 5, 80, dtype=torch.float64))
    shifted = Shifted(a, -1e-3)
    diagonal = a.diagonal() + 1e-3
    plain = run(BlockCG(a, right, shifts=[1e-3]), 4)
    cg = run(BlockCG(shifted, right, precondition=lambda r: r / diagonal[:, None]), 4)
    exact = solved(a, right, 1e-3)

    def error(found):
        difference = found.systems[0].solution - exact
        return float((difference * (shifted @ difference)).sum())

    assert error(cg) < 1e-4 * error(plain)
    x = cg.systems[0].solution
    f = right - shifted @ x
    close(cg.residual_gram(cg.systems[0]) + torch.eye(right.shape[1]), f.mT @ f + torch.eye(right.shape[1]), 1e-10)
    close(run(cg, 40).systems[0].solution, exact, 1e-9)


def test_the_inverse_as_preconditioner_solves_in_one_step():
    a, right = semidefinite(), gaussian(80, 5, seed=1)
    factor = torch.linalg.cholesky(a + 1e-2 * torch.eye(80, dtype=torch.float64))
    cg = BlockCG(Shifted(a, -1e-2), right, precondition=lambda r: torch.cholesky_solve(r, factor))
    cg.advance()
    assert cg.closed
    close(cg.systems[0].solution, solved(a, right, 1e-2), 1e-9)


@pytest.mark.parametrize("shape", [(80,), (79, 2), (80, 0)])
def test_a_block_that_does_not_fit_is_refused(shape):
    with pytest.raises(ValueError, match="right-hand sides must have shape"):
        BlockCG(semidefinite(), torch.zeros(shape, dtype=torch.float64), shifts=[1.0])


def test_shifts_and_preconditioners_do_not_mix():
    with pytest.raises(ValueError, match="at least one shift"):
        BlockCG(semidefinite(), gaussian(80, 2, seed=1), shifts=[])
    with pytest.raises(ValueError, match=r"none but 0 beside a preconditioner"):
        BlockCG(semidefinite(), gaussian(80, 2, seed=1), shifts=[1.0], precondition=lambda r: r)
