"""Count the eigenvalues of whatever is symmetric: an array, a sparse matrix, a linear operator, a function."""

import numpy as np
import scipy.sparse as sp
import torch
from scipy.sparse.linalg import LinearOperator

from lanczos_saddle import as_operator, count_eigenvalues

# a graph Laplacian, shifted: how many of its eigenvalues lie below 1.9, within 0.1 of 2, above 2.1?
side = 60
path = sp.diags_array([-np.ones(side - 1), 2 * np.ones(side), -np.ones(side - 1)], offsets=[-1, 0, 1])
laplacian = sp.kron(path, sp.eye_array(side)) + sp.kron(sp.eye_array(side), path)
shifted = (laplacian - 2 * sp.eye_array(side * side)).tocsr()

one = 2 - 2 * np.cos(np.pi * np.arange(1, side + 1) / (side + 1))
known = (one[:, None] + one).ravel() - 2
print(f"known in closed form: {(known < -0.1).sum()}, {(abs(known) <= 0.1).sum()}, {(known > 0.1).sum()}\n")

plan = {"threshold": 0.1, "method": "lanczos", "probes": 4, "steps": 100}
print(f"a sparse matrix\n{count_eigenvalues(shifted, **plan)}\n")

operator = LinearOperator(shifted.shape, matvec=lambda v: shifted @ v, matmat=lambda v: shifted @ v, dtype=float)
print(f"a linear operator of scipy\n{count_eigenvalues(operator, **plan)}\n")


def stencil(v: torch.Tensor) -> torch.Tensor:
    """(N, k) -> (N, k), without a matrix."""
    u = torch.nn.functional.pad(v.T.reshape(-1, side, side), (1, 1, 1, 1))
    neighbors = u[:, 2:, 1:-1] + u[:, :-2, 1:-1] + u[:, 1:-1, 2:] + u[:, 1:-1, :-2]
    return 2 * v - neighbors.reshape(-1, side * side).T


print(f"a function\n{count_eigenvalues(as_operator(stencil, side * side, dtype=torch.float64), **plan)}")
