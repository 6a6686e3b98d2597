"""Exact counts by columns over ranks: matrices that every rank makes alike, and what each rank runs."""

import torch
import torch.distributed as dist
from rank_networks import relu, small

from lanczos_saddle import Hessian, count_eigenvalues, data_parallel, inertia, probe_parallel, share
from lanczos_saddle.distributed import columns as by_columns
from lanczos_saddle.distributed import leading, panel_ldl

F64 = torch.float64


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def gaussian(*shape, seed=0):
    return torch.randn(*shape, generator=seeded(seed), dtype=F64)


def rotated(values):
    """Q diag(values) Q', Q from a QR factorization."""
    values = torch.as_tensor(values, dtype=F64)
    q = torch.linalg.qr(gaussian(len(values), len(values))).Q
    matrix = (q * values) @ q.mT
    return (matrix + matrix.mT) / 2


def symmetric(size):
    matrix = gaussian(size, size)
    return (matrix + matrix.mT) / 2


def zero_blocks(half):
    """[[0, B], [B', 0]]: no diagonal block of the first half can be factored."""
    b, zero = gaussian(half, half, seed=1), torch.zeros(half, half, dtype=F64)
    return torch.cat([torch.cat([zero, b], 1), torch.cat([b.T, zero], 1)])


def pairs(count):
    """diag of [[0, 1], [1, 0]], partners far apart."""
    eye, zero = torch.eye(count, dtype=F64), torch.zeros(count, count, dtype=F64)
    return torch.cat([torch.cat([zero, eye], 1), torch.cat([eye, zero], 1)])


def clustered(size):
    """Two clusters a part in a million apart, on both sides of -1e-3, and outliers."""
    half = size // 2 - 10
    return rotated([-1e-3 * (1 + 1e-6)] * half + [-1e-3 * (1 - 1e-6)] * half + [1.0] * (size - 2 * half))


def blank(size, living):
    """Coordinates outside `living` have rows of zeros."""
    matrix = torch.zeros(size, size, dtype=F64)
    matrix[10 : 10 + living, 10 : 10 + living] = symmetric(living)
    return matrix


MATRICES = {
    "one": (torch.tensor([[-2.0]], dtype=F64), (0.0, -3.0)),
    "three": (symmetric(3), (0.0, 0.1)),
    "seven": (symmetric(7), (0.0, 0.5)),
    "random": (symmetric(301), (0.3, -5.0, 0.0)),
    "zero atom": (rotated([-0.5] * 9 + [0.0] * 280 + [2.0] * 10), (1e-6, -1e-6)),
    "zero blocks": (zero_blocks(131), (0.0, 1e-3)),
    "pairs": (pairs(130), (0.0, 0.5, -1.5)),
    "cluster": (clustered(261), (-1e-3, 0.0, -2e-3)),
    "definite": (rotated(torch.linspace(1, 2, 250)), (0.0, 1.5003)),
    "zero": (torch.zeros(70, 70, dtype=F64), (1e-3, -1e-3)),
    "blank": (blank(260, 203), (1e-6, -1e-6, 0.4)),
    "huge": (symmetric(60) * 2.0**900, (0.3 * 2.0**900,)),
    "tiny": (symmetric(60) * 2.0**-900, (0.3 * 2.0**-900,)),
}
"""By name a matrix and thresholds: indefinite, singular, sizes that neither panels nor ranks divide."""


def quadratic(matrix):
    """The Hessian of x'Ax / 2."""
    x = torch.nn.Parameter(torch.zeros(len(matrix), dtype=F64))
    return Hessian.of(lambda: x @ (matrix @ x) / 2, [x], fidelity=False)


def refused(work):
    try:
        work()
    except ValueError as error:
        return str(error)
    return ""


def columns():
    """Inertia of every matrix by columns."""
    found = {}
    for name, (matrix, thresholds) in MATRICES.items():
        shared = probe_parallel(quadratic(matrix), dense="columns")
        found[name] = [told(inertia(shared, t)) for t in thresholds]
    return found


def told(found):
    return tuple(found), found.margin, found.separation, found.holds_for(0.0)
