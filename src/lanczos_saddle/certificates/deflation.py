"""Counting on the complement of known vectors: an identity of inertias, whatever the vectors.

U orthonormal (N, p), Theta = U'HU = diag(theta), R = (I - UU')HU, H_c the compression of H to the complement of U.
For t not among theta (Haynsworth 1968):

    inertia(H - tI)  =  inertia(Theta - tI)  +  inertia(H_c - tI + W),      W = -R (Theta - tI)^-1 R'

W = W_+ - W_-, both positive semidefinite: W_+ from theta < t, W_- from theta > t. Columns of R are sorted by what
they do: those kept move eigenvalues by at most s = |R_kept |Theta - t|^(-1/2)|^2, the q others move at most q of them
past t (rank). So with p_t = #{theta < t}

    p_t - q_+ + #{H_c < t - s_+}  <=  #{H < t}  <=  p_t + q_- + #{H_c < t + s_-}.

Where U holds eigenvectors below t only, converged or not, W_- is zero and the upper end is p + #{H_c < t}, exactly.
U must be independent of the probes that count on the complement: a stream of its own, before they are drawn.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lanczos_saddle.operators.resolution import OperatorCheck, recurrence_noise

Array = NDArray[np.float64]

KEPT = 1e-3
"""A column that alone moves eigenvalues by more than this share of |t| is paid for by its rank."""


@dataclass(frozen=True)
class Correction:
    """p_t - lost_below + #{H_c < t - left}  <=  #{H < t}  <=  p_t + lost_above + #{H_c < t + right}."""

    known: int  # p_t
    left: float
    lost_below: int
    right: float
    lost_above: int


@dataclass(frozen=True)
class Deflation:
    """What is known of the vectors that were taken out."""

    values: Array  # (p,) theta
    coupling: Array  # (p, p) R'R, in the basis of theta
    error: float  # bounds the errors of R and of the theta

    @property
    def size(self) -> int:
        """P, the dimension that was taken out."""
        return len(self.values)

    def correction(self, t: float) -> Correction:
        """How counts on the complement become counts of H, at one t; costs O(p^3)."""
        below = self.values < t
        return Correction(int(below.sum()), *self._side(below, t), *self._side(~below, t))

    def _side(self, chosen: NDArray[np.bool_], t: float) -> tuple[float, int]:
        """(s, q) of the columns on one side of t."""
        gaps = np.abs(self.values[chosen] - t) - self.error
        room = np.maximum(gaps, np.finfo(np.float64).tiny)
        alone = (np.sqrt(np.diagonal(self.coupling)[chosen]) + self.error) ** 2 / room
        kept = (gaps > self.error) & (alone <= KEPT * abs(t))
        if not kept.any():
            return 0.0, len(kept)
        root = np.sqrt(room[kept])
        gram = self.coupling[np.ix_(chosen, chosen)][np.ix_(kept, kept)] / np.outer(root, root)
        norm = np.sqrt(max(0.0, float(np.linalg.eigvalsh(gram)[-1])))
        return float(norm + self.error / root.min()) ** 2, int((~kept).sum())


def deflate(basis: Tensor, images: Tensor, check: OperatorCheck) -> tuple[Tensor, Deflation, OperatorCheck]:
    """(U, what is known of it, the check of the projected operator), from independent columns V and H V, both (N, p).

    U spans V and is orthonormal to rounding; what it lacks, how far the operator's type moves it, and the rounding of
    the projection count as noise of the operator (I - UU')H(I - UU'). Cost: O(N p^2), no product.
    """
    u, r = torch.linalg.qr(basis.to(torch.float64))
    inverse = torch.linalg.inv(r)
    images = images @ inverse
    form = u.mT @ images
    values, rotation = torch.linalg.eigh((form + form.mT) / 2)
    u, images = u @ rotation, images @ rotation
    rest = images - u @ (u.mT @ images)
    eps = torch.finfo(torch.float64).eps
    stored = u.to(basis.dtype).to(torch.float64)  # what the operator's type makes of U
    moved = stored - u  # it turns the complement too, by at most 2 |moved|
    defect = float(torch.linalg.matrix_norm(stored.mT @ stored - torch.eye(len(values)).to(stored), 2))
    defect += float(torch.linalg.matrix_norm(moved.mT @ moved, 2)) ** 0.5
    rounding = (4 * defect + 16 * len(values) ** 0.5 * eps) * check.scale
    error = recurrence_noise(check, len(values)) * float(torch.linalg.matrix_norm(inverse, 2)) + rounding
    known = Deflation(values.cpu().numpy(), (rest.mT @ rest).cpu().numpy(), error)
    return stored, known, replace(check, noise=check.noise + rounding)
