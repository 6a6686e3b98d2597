"""Deterministic bounds from below, by Cauchy interlacing: no probability, no cost in products.

For ANY matrix V the number of negative eigenvalues of V'(H - tI)V is at most that of H - tI. V is the union of the
orthonormal Lanczos bases of all probes; the recurrences give V'HV without a further product,

    Q_i' H Q_j = (Q_i'Q_j) T_j + beta_j (Q_i' q_j) e_k'

The eigenvalues on the other side are bounded from below alike, so both ends of a count are; where the bases span
the whole space the bounds meet. The error of that identity is at most m delta (docs/method.md); only eigenvalues beyond
it are counted. A run on P H P, P = I - UU', compresses H by P V: (PV)'H(PV) is V'(PHP)V, and (PV)'(PV) is formed.
V'V in its place would count zeros of PHP along U, into which a recurrence drifts. Ritz values of T from a run without
reorthogonalization are NOT such a bound: ghosts repeat (tests/certificates/test_cauchy.py).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import eigvalsh
from torch import Tensor

from lanczos_saddle.krylov.lanczos import CLOSED, Lanczos, Tridiagonalization
from lanczos_saddle.machine.threads import one_thread
from lanczos_saddle.operators.operator import Projected
from lanczos_saddle.operators.vectors import whole

Array = NDArray[np.float64]

LARGEST = 4096
"""Columns of V beyond which the dense eigenproblem is not attempted; the last probes are left out."""

SMALL = 2048
"""Columns up to which the dense eigenproblem is solved on one thread."""

DEPENDENT = (1e-3, 1e-2, 0.1)
"""Of more vectors than dimensions, combinations with singular values below these shares of the largest are left out."""


@dataclass(frozen=True)
class Level:
    """The first `size` columns, for which V'(H - tI)V is known up to `error` + |t| `gram_error`."""

    size: int
    error: float
    gram_error: float


@dataclass(frozen=True)
class Compression:
    """V'HV and V'V; V'(H - tI)V is known up to an error of spectral norm `error` + |t| `gram_error`.

    `smaller`: fewer columns, known better. Each bounds counts from below.
    """

    quadratic: Array  # (c, c), symmetric
    gram: Array  # (c, c)
    error: float
    gram_error: float
    smaller: tuple[Level, ...] = ()

    @property
    def well_known(self) -> int:
        """Columns that are known best: where they are as many as dimensions, more of them would add nothing."""
        return min([len(self.gram), *(level.size for level in self.smaller)])

    def sides(self, t: float) -> tuple[int, int]:
        """(b, a): H has at least b eigenvalues below t and at least a above it."""
        levels = (Level(len(self.gram), self.error, self.gram_error), *self.smaller)
        below, above = zip(*(self._sides(t, level) for level in levels), strict=True)
        return max(below), max(above)

    def _sides(self, t: float, level: Level) -> tuple[int, int]:
        form = self.quadratic[: level.size, : level.size] - t * self.gram[: level.size, : level.size]
        with one_thread(level.size <= SMALL):
            values: Array = eigvalsh(form, overwrite_a=True, check_finite=False)
        error = level.error + abs(t) * level.gram_error
        return int((values < -error).sum()), int((values > error).sum())


def compress(run: Lanczos, delta: float, scale: float) -> Compression:
    """V'HV and V'V of a reorthogonalized run; N (m k)^2 operations, 4 (m k)^2 numbers and m k SLICE for a time.

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
    operator, size = run.operator, run.operator.shape[0]
    nulls = operator.nulls if isinstance(operator, Projected) else run.current.new_empty(size, 0)
    # basis vectors rounded to the operator's type, and the residual of a space that has closed
    stored = torch.finfo(operator.dtype).eps * scale * (max(lengths) ** 0.5 + 2 * CLOSED)
    error = len(chosen) * (delta + stored)
    if total > size - nulls.shape[1]:
        return _reduced(run, chosen, coefficients, nulls, error, scale)
    quadratic, gram, along, taken = _forms(run, chosen, coefficients, nulls)
    gram -= along @ (2 * along - along @ taken).mT
    # of dot products of unit vectors and of the eigensolver
    rounding = 16 * torch.finfo(torch.float64).eps * (total + nulls.shape[1])
    return Compression(
        ((quadratic + quadratic.mT) / 2).cpu().numpy(), gram.cpu().numpy(), error + rounding * scale, rounding
    )


def _forms(
    run: Lanczos, chosen: list[int], coefficients: Tridiagonalization, nulls: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(V'HV, V'V, V'U, U'U), the first from dot products alone: Q_i'HQ_j = (Q_i'Q_j) T_j + beta_j (Q_i'q_j) e_k'."""
    lengths = [int(coefficients.lengths[i]) for i in chosen]
    ends = np.cumsum([length + 1 for length in lengths])  # of each probe the vectors and q_{k+1}
    blocks = [slice(int(end) - length - 1, int(end)) for end, length in zip(ends, lengths, strict=True)]
    full, along, taken = run.kept.forms(dict(zip(chosen, lengths, strict=True)), run.current, nulls)
    device = full.device
    inside = torch.cat([torch.arange(block.start, block.stop - 1, device=device) for block in blocks])
    images = [
        _image(full[block][:-1, inside], *coefficients.coefficients(i), full[block.stop - 1, inside])
        for i, block in zip(chosen, blocks, strict=True)
    ]
    return torch.cat(images).mT, full[inside][:, inside], along[inside], taken


def _rows(run: Lanczos, chosen: list[int], coefficients: Tridiagonalization) -> tuple[Tensor, Tensor]:
    """(V, H V) of the chosen probes, rows as vectors, in float64; in this process, whoever keeps the basis."""
    rows, following = run.basis, whole(run.current)
    bases = [rows[i, : int(coefficients.lengths[i])].to(torch.float64) for i in chosen]
    images = [
        _image(basis, *coefficients.coefficients(i), following[i]) for i, basis in zip(chosen, bases, strict=True)
    ]
    return torch.cat(bases), torch.cat(images)


def _reduced(
    run: Lanczos, chosen: list[int], coefficients: Tridiagonalization, nulls: Tensor, error: float, scale: float
) -> Compression:
    """C V in place of more vectors V than the space has dimensions: rows C that make them nearly orthonormal.

    From V'V = X S^2 X', C = S^-2 X'V' (r, c): C V = X' up to rounding, for singular values S above `DEPENDENT` of the
    largest. Any C is a right one, and errors grow by |C|^2 <= 1 / min S^2: fewer rows, with larger S, are known better.
    Cost: N^2 c operations, c columns.
    """
    v, images = _rows(run, chosen, coefficients)
    u = nulls.to(torch.float64)
    inside = v - (v @ u) @ u.mT
    values, vectors = (x.flip(-1) for x in torch.linalg.eigh(inside.mT @ inside))  # the best known first
    sizes = [int((values > share**2 * values[0]).sum()) for share in DEPENDENT]
    values, vectors = values[: sizes[0]], vectors[:, : sizes[0]]
    turn = (vectors / values).mT @ inside.mT
    rows, reduced = turn @ inside, turn @ images
    quadratic, gram = (turn @ v) @ reduced.mT, rows @ rows.mT
    levels = [_level(size, values, error, scale, len(v)) for size in sorted(set(sizes), reverse=True)]
    return Compression(
        ((quadratic + quadratic.mT) / 2).cpu().numpy(),
        gram.cpu().numpy(),
        levels[0].error,
        levels[0].gram_error,
        tuple(levels[1:]),
    )


def _level(size: int, values: Tensor, error: float, scale: float, columns: int) -> Level:
    """What the first `size` rows of C, from the squares of singular values, make of an error of V'(H - tI)V."""
    least, most = float(values[size - 1]), float(values[0])
    growth = 2 / least  # |C|^2, doubled: the least singular value is known to rounding
    # dot products of so many terms: rows of C with columns of V, whose lengths are at most 1 / min S and max S
    rounding = 16 * torch.finfo(torch.float64).eps * columns * (most / least) ** 0.5
    return Level(size, growth * error + rounding * scale, rounding)


def _image(basis: Tensor, alpha: Array, beta: Array, following: Tensor) -> Tensor:
    """(H Q)' = T Q' + beta_k e_k q' for one probe, rows as vectors."""
    diagonal, off = (torch.as_tensor(c, device=basis.device)[:, None] for c in (alpha, beta))
    image = diagonal * basis
    image[1:] += off[:-1] * basis[:-1]
    image[:-1] += off[:-1] * basis[1:]
    image[-1] += off[-1] * following
    return image
