"""Where the bases of all probes span everything, counts are exact, and at once: nothing is larger than N."""

import numpy as np
import pytest
import torch
from torch.overrides import TorchFunctionMode

from lanczos_saddle import Lanczos, check_operator, count_eigenvalues
from lanczos_saddle.certificates.cauchy import compress
from lanczos_saddle.operators.operator import Projected
from lanczos_saddle.operators.resolution import recurrence_noise

F64 = torch.float64


def saddle(m, n, seed=3):
    """[[0, B'], [B, 0]], B (m, n): as many negative as positive eigenvalues, and n - m zeros."""
    b = np.random.default_rng(seed).standard_normal((m, n))
    return np.block([[np.zeros((n, n)), b.T], [b, np.zeros((m, m))]])


def rotated(values, seed=0):
    q = np.linalg.qr(np.random.default_rng(seed).standard_normal((len(values), len(values))))[0]
    a = (q * values) @ q.T
    return (a + a.T) / 2


def path(size):
    return 2 * np.eye(size) - np.eye(size, k=1) - np.eye(size, k=-1)


class Largest(TorchFunctionMode):
    """The largest dimension of a symmetric eigenproblem that is solved."""

    size = 0

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if "eigh" in function.__name__ or "eigvalsh" in function.__name__:
            self.size = max(self.size, args[0].shape[-1])
        return function(*args, **(kwargs or {}))


CASES = {
    "saddle of 100": (lambda: saddle(40, 60), 1e-8),
    "saddle of 30": (lambda: saddle(10, 20), 1e-8),
    "saddle of 300": (lambda: saddle(100, 200), 1e-7),
    "three values": (lambda: rotated(np.repeat([-1.0, 0.0, 2.0], [30, 50, 40])), 1e-6),
    "uniform": (lambda: rotated(np.linspace(-1, 1, 150)), 1e-3),
    "graded": (lambda: rotated(np.concatenate([-np.logspace(-6, 0, 40), np.logspace(-6, 0, 60)])), 1.1e-4),
    "a value at tau": (lambda: rotated(np.concatenate([-np.logspace(-6, 0, 40), np.logspace(-6, 0, 60)])), 1e-4),
    "rank one": (lambda: rotated(np.r_[1.0, np.zeros(79)]), 1e-6),
    "path": (lambda: path(120) - np.eye(120), 1e-2),
    "of one": (lambda: np.array([[-2.0]]), 0.1),
    "of two": (lambda: np.array([[0.0, 1.0], [1.0, 0.0]]), 0.1),
    "identity": (lambda: np.eye(64), 0.5),
}


@pytest.mark.parametrize("name", CASES)
def test_small_matrices_are_counted_exactly_and_at_once(name):
    make, tau = CASES[name]
    matrix = make()
    values = np.linalg.eigvalsh(matrix)
    with Largest() as solved:
        counts = count_eigenvalues(matrix, threshold=tau, method="lanczos")
    found = [(i.lower, i.upper) for i in (counts.negative, counts.near_zero, counts.positive)]
    true = (values < -tau).sum(), (np.abs(values) <= tau).sum(), (values > tau).sum()
    at_tau = name in ("a value at tau", "path")
    if not at_tau and (counts.stopped == "the Krylov spaces span everything" or len(matrix) <= 3):
        assert found == [(n, n) for n in true]
    assert all(low <= n <= high for (low, high), n in zip(found, true, strict=True))
    if name in ("saddle of 100", "saddle of 30", "three values", "graded"):
        assert found == [(n, n) for n in true]
    assert solved.size <= len(matrix)  # eigenproblems of 4096 columns take 20 seconds and more


@pytest.mark.parametrize("nulls", [0, 5])
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_a_reduced_compression_is_a_compression(dtype, nulls):
    """C V (H - tI) V'C' has no more eigenvalues on a side than H: at every t, whatever was left out."""
    for seed in range(4):
        values = np.sort(np.random.default_rng(seed).standard_normal(40)) ** 3
        h = torch.from_numpy(rotated(values, seed)).to(dtype)
        check = check_operator(h)
        basis = torch.linalg.qr(torch.randn(40, nulls, generator=torch.Generator().manual_seed(seed), dtype=F64)).Q
        operator = Projected(h, basis.to(dtype)) if nulls else h
        run = Lanczos(operator, torch.randn(40, 8, generator=torch.Generator().manual_seed(seed), dtype=F64))
        for steps in (2, 5, 6, 20):
            run.advance(steps)
            found = compress(run, recurrence_noise(check, steps), check.scale)
            assert len(found.gram) <= max(40, 8 * steps if 8 * steps <= 40 - nulls else 40)
            for t in (-1.0, -1e-2, 1e-3, 0.3, 2.0):
                below, above = found.sides(t)
                assert below <= (values < t).sum()
                assert above <= (values > t).sum()
                if steps == 20 and not nulls and dtype == F64:
                    assert below + above == 40


def test_the_bounds_stay_right_where_products_are_noisy():
    matrix = torch.from_numpy(rotated(np.repeat([-1e-4, 1e-4, 1.0], [20, 20, 20]))).float()
    for seed in range(10):
        counts = count_eigenvalues(
            matrix, threshold=5e-4, method="lanczos", generator=torch.Generator().manual_seed(seed), steps=10
        )
        assert counts.negative.lower == 0
        assert counts.positive.lower <= 20 <= counts.positive.upper
