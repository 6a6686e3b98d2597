"""Matrices, vectors and truths that tests of several packages make: drawn from a seed, and nothing of the package's."""

import torch

from lanczos_saddle.operators.operator import FromFunction

F64 = torch.float64


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def gaussian(*shape, seed=0):
    return torch.randn(*shape, generator=seeded(seed), dtype=F64)


def labels(samples, classes, seed=1):
    return torch.randint(classes, (samples,), generator=seeded(seed))


def symmetric(size, seed=0, dtype=F64):
    matrix = gaussian(size, size, seed=seed)
    return ((matrix + matrix.mT) / 2).to(dtype)


def rotated(values, seed=0, dtype=F64):
    """Q diag(values) Q', Q from a QR factorization."""
    values = torch.as_tensor(values, dtype=F64)
    q = torch.linalg.qr(gaussian(len(values), len(values), seed=seed)).Q
    matrix = (q * values) @ q.mT
    return ((matrix + matrix.mT) / 2).to(dtype)


def low_rank(size):
    """Rank 4, two of its eigenvalues negative."""
    x = symmetric(size)[:, :4]
    return x @ torch.tensor([1.0, -1, 2, -2], dtype=F64).diag() @ x.mT


def as_products(matrix):
    """Known by its products alone."""
    return FromFunction(lambda v: matrix @ v, len(matrix), matrix.dtype, torch.device("cpu"))


def diagonal_products(values, dtype=F64):
    """diag(values) by its products: Gaussian probes do not know the basis."""
    values = torch.as_tensor(values).to(dtype)
    return FromFunction(lambda v: values[:, None] * v, len(values), dtype, torch.device("cpu"))


class Metered:
    """Counts the columns it multiplies."""

    def __init__(self, matrix):
        self.matrix, self.columns = matrix, 0
        self.shape, self.dtype, self.device = matrix.shape, matrix.dtype, matrix.device

    def __matmul__(self, v):
        self.columns += v.shape[1] if v.ndim == 2 else 1
        return self.matrix @ v


def three(values, tau):
    """Eigenvalues (numpy or torch) below -tau, within, above tau."""
    return int((values < -tau).sum()), int((abs(values) <= tau).sum()), int((values > tau).sum())


def clear(values):
    """A threshold as far from all |eigenvalues| as it gets, within two decades below the largest."""
    sizes = values.abs()
    steps = torch.logspace(-3, -1, 201, dtype=F64) * sizes.max()
    return float(steps[(sizes[:, None] - steps).abs().amin(0).argmax()])


def intervals(counts):
    return counts.negative, counts.near_zero, counts.positive


def ends(counts):
    return [(interval.lower, interval.upper) for interval in intervals(counts)]


def holds(counts, truth):
    return all(number in interval for number, interval in zip(truth, intervals(counts), strict=True))


class Interrupting:
    """A matrix whose product number `stop` is interrupted as by Ctrl-C; products and columns are counted."""

    def __init__(self, matrix, stop=None):
        self.shape, self.dtype, self.device = matrix.shape, matrix.dtype, matrix.device
        self.matrix, self.stop, self.calls, self.columns = matrix, stop, 0, 0

    def __matmul__(self, v):
        self.calls, self.columns = self.calls + 1, self.columns + v.shape[1]
        if self.calls == self.stop:
            raise KeyboardInterrupt
        return self.matrix @ v
