"""Both ends of a negative count from any approximate solution X of (A + tau I) X = B; A positive semidefinite.

    H = [[A, B], [B', D]],   F = B - (A + tau I) X,   S_X = D + tau I - X'B - B'X + X'(A + tau I) X

    S_X - F'F / tau  <=  S = D + tau I - B'(A + tau I)^-1 B  <=  S_X          (Loewner order)

    #{eig(S_X) < 0}  <=  #{lambda(H) < -tau}  <=  #{eig(S_X - F'F / tau) < 0}

since S = S_X - F'(A + tau I)^-1 F, 0 <= (A + tau I)^-1 <= I / tau, and by Haynsworth H + tau I has the negative
eigenvalues of S and those of A + tau I, none. A bad X makes the bounds wide, never wrong. The left one needs no sign
of A. Every rounding error on the way is bounded and moves the eigenvalues outward (docs/method.md).

Source: Haynsworth, Determination of the inertia of a partitioned Hermitian matrix (1968).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

EPS = torch.finfo(torch.float64).eps
SPLIT = 0.01
"""(F + E)'(F + E) <= (1 + c) F'F + (1 + 1/c) E'E with this c: what noise in F costs the bound."""


@dataclass(frozen=True)
class SchurBounds:
    """lower <= #{lambda(H) < -tau} <= upper, whatever X was."""

    lower: int
    upper: int
    residual: float  # |F|_2, in units of eigenvalues
    margin: float  # what rounding may move the eigenvalues of the scaled S_X by; the scaled diagonal is at most 1


def schur_bounds(
    tau: float, corner: Tensor, coupling: Tensor, solution: Tensor, image: Tensor, basis: Tensor, error: float
) -> SchurBounds:
    """The bounds from computed products, all float64 on one device.

    Args:
        tau: the threshold, positive.
        corner: D (s, s), computed, symmetric.
        coupling: B (n, s), computed.
        solution: Y (n, r), r <= s: approximates (A + tau I)^-1 B U for the first r columns of U; 0 serves for the rest.
        image: A Y (n, r), computed.
        basis: U (s, s), nonsingular: a congruence of H, which changes no inertia. A basis in which the columns of Y
            are graded in size keeps the rounding errors of large ones away from the small.
        error: what a product with a unit vector may be wrong by, in the 2-norm; it goes with the vector's length.

    Cost: 3 products (n, s)' (n, s), one (n, s) (s, s), and small matrices on the CPU.
    """
    n, s, r = coupling.shape[0], coupling.shape[1], solution.shape[1]
    u, small = basis.cpu(), 4 * (s + 4) * EPS
    long = 2 * n * EPS  # sums of n terms err by at most half of this times the product of the lengths
    turned, sizes = coupling @ basis, torch.linalg.vector_norm(u, dim=0)
    of_corner = (s**0.5 * error + small * float(torch.linalg.matrix_norm(corner) + s**0.5 * tau)) * sizes
    of_coupling = (s**0.5 * error + small * float(torch.linalg.matrix_norm(coupling))) * sizes  # columns of B U
    lengths, images, columns = (torch.linalg.vector_norm(t, dim=0).cpu() for t in (solution, image, turned))

    # S_X in the basis, and entrywise bounds on its errors
    form = u.mT @ corner.cpu() @ u + tau * (u.mT @ u)
    entries = of_corner[:, None] * sizes
    crossed = (solution.mT @ turned).cpu()
    of_crossed = lengths[:, None] * (of_coupling + long * columns)
    form[:r], entries[:r] = form[:r] - crossed, entries[:r] + of_crossed
    form[:, :r], entries[:, :r] = form[:, :r] - crossed.mT, entries[:, :r] + of_crossed.mT
    form[:r, :r] += (solution.mT @ (image + tau * solution)).cpu()
    entries[:r, :r] += lengths[:, None] * (error * lengths + 2 * long * (images + tau * lengths))
    form, entries = (form + form.mT) / 2, (entries + entries.mT) / 2 + 4 * EPS * form.abs()

    # F in the basis, and bounds on the errors of its columns: noise of B and of A Y, rounding of the sum
    residual, wrong = turned, of_coupling.clone()
    residual[:, :r] -= image + tau * solution
    wrong[:r] += error * lengths + 4 * EPS * (images + tau * lengths + columns[:r])
    gram = (residual.mT @ residual).cpu()
    gram = (gram + gram.mT) / 2
    heights = gram.diagonal().clamp_min(0).sqrt()

    # a diagonal congruence: what is large in S_X no longer decides what is small
    scale = 1 / form.diagonal().abs().clamp_min(tau).sqrt()
    form, entries = scale[:, None] * form * scale, scale[:, None] * entries * scale
    lifted = form - (1 + SPLIT) / tau * (scale[:, None] * gram * scale)
    noise = (1 + 1 / SPLIT) * s * float(((wrong * scale) ** 2).max()) / tau  # E'E <= s max |e_i|^2
    noise += (1 + SPLIT) * long * float(((heights * scale) ** 2).sum()) / tau  # of the sums in F'F
    margins = [_size(entries) + _solver(form), _size(entries) + noise + _solver(lifted)]
    return SchurBounds(
        int((torch.linalg.eigvalsh(form) < -margins[0]).sum()),
        int((torch.linalg.eigvalsh(lifted) < margins[1]).sum()),
        float(torch.linalg.eigvalsh(gram)[-1].clamp_min(0)) ** 0.5,
        max(margins),
    )


def _size(entries: Tensor) -> float:
    """A bound on the 2-norm of every symmetric matrix whose entries are at most these."""
    return min(float(torch.linalg.matrix_norm(entries)), float(entries.sum(dim=1).max()))


def _solver(matrix: Tensor) -> float:
    """What scaling and a backward stable symmetric eigensolver may move an eigenvalue by."""
    return 16 * len(matrix) * EPS * float(torch.linalg.matrix_norm(matrix))
