"""A x = lambda B x, against scipy.linalg.eigh(A, B), which reduces it in another way (LAPACK sygvd)."""

import numpy as np
import pytest
import scipy.linalg
import scipy.sparse as sp
import torch
from matrices import F64, gaussian, symmetric, three

from lanczos_saddle import count_eigenvalues, count_in, exact_eigenvalues, inertia, pencil

N = 50
A = symmetric(N)
M = gaussian(N, N, seed=3)
DENSE = M @ M.mT / N + 0.1 * torch.eye(N, dtype=F64)
# a permuted arrow and a path: fill-in, and orders that the factorization changes
SPARSE = sp.csr_array(
    sp.diags_array([-np.ones(N - 1), 4 * np.ones(N), -np.ones(N - 1)], offsets=[-1, 0, 1])
    + sp.coo_array(
        (np.full(2 * N - 2, 0.3), (np.r_[np.zeros(N - 1, int), 1:N], np.r_[1:N, np.zeros(N - 1, int)])), (N, N)
    )
    + sp.diags_array(np.r_[8.0, np.zeros(N - 1)])
)
BS = {"dense": (DENSE, DENSE.numpy()), "sparse": (SPARSE, SPARSE.toarray()), "numpy": (DENSE.numpy(), DENSE.numpy())}


@pytest.mark.parametrize("kind", BS)
def test_eigenvalues_of_a_pencil(kind):
    b, dense = BS[kind]
    known = scipy.linalg.eigh(A.numpy(), dense, eigvals_only=True)
    operator = pencil(A, b)
    np.testing.assert_allclose(exact_eigenvalues(operator).numpy(), known, rtol=0, atol=1e-11 * abs(known).max())
    tau = 0.05 * float(abs(known).max())
    exact = count_eigenvalues(operator, threshold=tau)
    assert (exact.negative.lower, exact.near_zero.lower, exact.positive.lower) == three(known, tau)
    sampled = count_eigenvalues(operator, threshold=tau, method="lanczos", probes=4, steps=40)
    for interval, count in zip((sampled.negative, sampled.near_zero, sampled.positive), three(known, tau), strict=True):
        assert count in interval
    assert count_in(operator, 0.1, 0.5).inside.lower == int(((known >= 0.1) & (known <= 0.5)).sum())


def test_sylvester_says_the_same():
    known = scipy.linalg.eigh(A.numpy(), DENSE.numpy(), eigvals_only=True)
    for t in (-0.7, 0.0, 0.4):
        found = inertia(A - t * DENSE, 0.0)
        assert found.below == int((known < t).sum()) == inertia(pencil(A, DENSE), t).below


class Root:
    """S = Q D^(1/2), no triangle."""

    def __init__(self, matrix):
        values, self.q = torch.linalg.eigh(matrix)
        self.root = values.sqrt()[:, None]

    def solve(self, v):
        return (self.q.mT @ v) / self.root

    def solve_transposed(self, v):
        return self.q @ (v / self.root)


def test_a_factor_of_ones_own():
    known = scipy.linalg.eigh(A.numpy(), DENSE.numpy(), eigvals_only=True)
    found = exact_eigenvalues(pencil(A, None, factor=Root(DENSE)))
    np.testing.assert_allclose(found.numpy(), known, rtol=0, atol=1e-11 * abs(known).max())


INDEFINITE = np.r_[-1.0, np.ones(N - 1)]


@pytest.mark.parametrize(
    ("b", "said"),
    [
        (torch.diag(torch.as_tensor(INDEFINITE)), "positive definite"),
        (sp.diags_array(INDEFINITE), "positive definite"),
        (sp.csr_array((N, N)), "positive definite"),
        (torch.eye(N + 1, dtype=F64), "one size"),
        (torch.triu(DENSE), "must be symmetric"),
        (DENSE.index_fill(0, torch.tensor([2]), torch.nan), "all entries of B must be finite"),
        (SPARSE * np.inf, "all entries of B must be finite"),
        (np.eye(N) + 1j * (np.eye(N, k=1) - np.eye(N, k=-1)), "complex"),
        (lambda v: v, "dense or a sparse matrix"),
        (None, "needs B or its factor"),
    ],
    ids=range(10),
)
def test_what_is_no_pencil_is_refused(b, said):
    with pytest.raises(ValueError, match=said):
        pencil(A, b)
