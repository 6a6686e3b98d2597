"""Deterministic bounds from below, by Cauchy interlacing: no probability, no cost in products.

For ANY matrix V the number of negative eigenvalues of V'(H - tI)V is at most that of H - tI. V is the union of the
orthonormal Lanczos bases of all probes; the recurrences give V'HV without a further product,

    Q_i' H Q_j = (Q_i'Q_j) T_j + beta_j (Q_i' q_j) e_k'

The eigenvalues on the other side are bounded from below alike, so both ends of a count are; where the bases span
the whole space the bounds meet. The error of that identity is at most m delta (docs/method.md); only eigenvalues beyond
it are counted. A run on P H P, P = I - UU', compresses H by P V: (PV)'H(PV) is V'(PHP)V, and (PV)'(PV) is formed.
V'V in its place would count zeros of PHP along U, into which a recurrence drifts. Ritz values of T from a run without
reorthogonalization are NOT such a bound: ghosts repeat (tests/test_cauchy.py).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import eigvalsh
from torch import Tensor

from lanczos_saddle.lanczos import CLOSED, Lanczos
from lanczos_saddle.operator import Projected
from lanczos_saddle.threads import one_thread

Array = NDArray[np.float64]

LARGEST = 4096
"""Columns of V beyond which the dense eigenproblem is not attempted; the last probes are left out."""

SMALL = 2048
"""Columns up to which the dense eigenproblem is solved on one thread."""

SLICE = 4096
"""Coordinates taken at a time: the basis is never copied whole."""


@dataclass(frozen=True)
class Compression:
    """V'HV and V'V; V'(H - tI)V is known up to an error of spectral norm `error` + |t| `gram_error`."""

    quadratic: Array  # (c, c), symmetric
    gram: Array  # (c, c)
    error: float
    gram_error: float

    def sides(self, t: float) -> tuple[int, int]:
        """(b, a): H has at least b eigenvalues below t and at least a above it."""
        with one_thread(len(self.gram) <= SMALL):
            values: Array = eigvalsh(self.quadratic - t * self.gram, overwrite_a=True, check_finite=False)
        error = self.error + abs(t) * self.gram_error
        return int((values < -error).sum()), int((values > error).sum())


def compress(run: Lanczos, delta: float, scale: float) -> Compression:
    """V'HV and V'V of a reorthogonalized run; N (m k)^2 operations, 4 (m k)^2 numbers and 4 m k SLICE for a time.

    Of a run on `Projected(H, U)`: of H, with (I - UU')V for V.

    `delta` bounds the noise of each recurrence, `scale` is |H|: vectors kept in float32 move by eps * |H|.
    Raises ValueError for a run without a basis.
    """
    if not run.reorthogonalize:
        raise ValueError("Cauchy bounds need the basis: run Lanczos with reorthogonalize=True")
    coefficients = run.tridiagonalization()
    lengths = [int(n) for n in coefficients.lengths]
    chosen = [i for i in range(len(lengths)) if sum(lengths[: i + 1]) <= LARGEST] or [0]
    total = sum(lengths[i] for i in chosen)
    quadratic, gram = (torch.zeros(total, total, dtype=torch.float64, device=run.operator.device) for _ in range(2))
    nulls = run.operator.nulls if isinstance(run.operator, Projected) else run.basis.new_empty(run.basis.shape[2], 0)
    along = quadratic.new_zeros(total, nulls.shape[1])  # V'U
    taken = quadratic.new_zeros(nulls.shape[1], nulls.shape[1])  # U'U
    for start in range(0, run.basis.shape[2], SLICE):
        part = slice(start, start + SLICE)
        bases = [run.basis[i, : lengths[i], part].to(torch.float64) for i in chosen]
        v = torch.cat(bases)
        images = torch.cat(
            [
                _image(basis, *coefficients.coefficients(i), run.following[i, part])
                for i, basis in zip(chosen, bases, strict=True)
            ]
        )
        quadratic += v @ images.mT
        gram += v @ v.mT
        u = nulls[part].to(torch.float64)
        along += v @ u
        taken += u.mT @ u
    gram -= along @ (2 * along - along @ taken).mT
    # basis vectors rounded to the operator's type, and the residual of a space that has closed
    stored = torch.finfo(run.operator.dtype).eps * scale * (max(lengths) ** 0.5 + 2 * CLOSED)
    # of dot products of unit vectors and of the eigensolver
    rounding = 16 * torch.finfo(torch.float64).eps * (total + nulls.shape[1])
    error = len(chosen) * (delta + stored) + rounding * scale
    return Compression(((quadratic + quadratic.mT) / 2).cpu().numpy(), gram.cpu().numpy(), error, rounding)


def _image(basis: Tensor, alpha: Array, beta: Array, following: Tensor) -> Tensor:
    """(H Q)' = T Q' + beta_k e_k q' for one probe, rows as vectors."""
    diagonal, off = (torch.as_tensor(c, device=basis.device)[:, None] for c in (alpha, beta))
    image = diagonal * basis
    image[1:] += off[:-1] * basis[:-1]
    image[:-1] += off[:-1] * basis[1:]
    image[-1] += off[-1] * following
    return image
