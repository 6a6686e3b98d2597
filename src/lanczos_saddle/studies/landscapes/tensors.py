"""Orthogonal tensor decomposition of order four (Ge, Huang, Jin and Yuan 2015), T = sum_k a_k^(x4), a_k orthonormal.

    one vector       f(u) = -T(u, u, u, u) = -sum_k (a_k.u)^4
    reconstruction   A(u_1 .. u_m) = |T - sum_i u_i^(x4)|_F^2
                                   = d - 2 sum_ik (a_k.u_i)^4 + sum_ij (u_i.u_j)^4
    pair sum         B(u_1 .. u_m) = sum_{i != j} T(u_i, u_i, u_j, u_j) = sum_{i != j} sum_k (a_k.u_i)^2 (a_k.u_j)^2

over unit vectors. The parameters are v_i in R^d with u_i = v_i / |v_i|, so that every method and every count runs
without constraints: at a critical point with |v_i| = 1 the Hessian is the Riemannian one on the tangent spaces, and
zero along each v_i (m zeros). Coordinates are those of the a_k: a_k = e_k loses no generality.

At u_i = (e_1 + ... + e_s) / sqrt(s) for all i, with x_i the tangent displacements, expansion to second order gives

                     s - 1 directions inside the support          d - s directions outside
    one vector       -8 / s                                       4 / s
    A, mean of x_i   -16 / s                                      8 / s
    A, differences   -16 / s - 8 m   (m - 1 times each)           8 / s - 8 m   (m - 1 times each)
    B, mean of x_i   8 (m - 1) / s                                -4 (m - 1) / s
    B, differences   -8 / s          (m - 1 times each)           -4 (m - 1) / s   (m - 1 times each)

and at the decomposition itself, m = d and u_i = e_i, 8 for A and 4 for B, d (d - 1) times.

A is not strict-saddle. For d = m = 2 and vectors at the angles pi/8 + t + e and -pi/8 + t - e, with s = sin 4e,

    A = 3/2 - s (1 - cos 4t) + s^2 / 2

exactly: at t = e = 0 the gradient vanishes and the Hessian is 8 along e, 0 along t, and yet s = 1 - cos 4t leads down
to 0 (`flat_pair`). B is 1 + cos 2a cos 2b for angles a and b; its only saddles, cos 2a = cos 2b = 0, have +-4.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from lanczos_saddle.studies.landscapes.critical_points import CriticalPoint, signs, surface_point

Objective = Callable[[Tensor], Tensor]  # unit vectors (m, d) in the coordinates of the a_k -> 0-d


def one_vector(u: Tensor) -> Tensor:
    """-sum_k u_k^4, summed over the rows."""
    return -(u**4).sum()


def reconstruction(u: Tensor) -> Tensor:
    """|T - sum_i u_i^(x4)|_F^2; at least 0."""
    return u.shape[1] - 2 * (u**4).sum() + ((u @ u.mT) ** 4).sum()


def pair_sum(u: Tensor) -> Tensor:
    """sum_{i != j} sum_k u_ik^2 u_jk^2; at least 0."""
    squares = u.square()
    return squares.sum(0).square().sum() - squares.square().sum()


def equal_components(objective: Objective, vectors: int, dimension: int, support: int) -> CriticalPoint:
    """The point where all vectors are (e_1 + ... + e_s) / sqrt(s), s = `support`.

    Raises ValueError unless 1 <= support <= dimension, and vectors = 1 for `one_vector`.
    """
    if not 1 <= support <= dimension:
        raise ValueError(f"support must be between 1 and the dimension {dimension}; got {support}")
    if objective is one_vector and vectors != 1:
        raise ValueError(f"one_vector takes one vector; got {vectors}")
    u = torch.zeros(dimension, dtype=torch.float64)
    u[:support] = 1 / math.sqrt(support)
    inside, outside = _eigenvalues(objective, vectors, support)
    values = [0.0] * vectors + inside * (support - 1) + outside * (dimension - support)
    name = f"{_NAMES[objective]}, {_count(vectors)} at {support} of {dimension}"
    return _point(name, objective, u.repeat(vectors, 1), torch.tensor(values, dtype=torch.float64))


def decomposition(objective: Objective, dimension: int) -> CriticalPoint:
    """The point u_i = e_i, i = 1 .. d, where `reconstruction` and `pair_sum` are 0."""
    curvature = {reconstruction: 8.0, pair_sum: 4.0}
    if objective not in curvature:
        raise ValueError("the decomposition is a minimum of `reconstruction` and of `pair_sum`")
    values = torch.full((dimension**2,), curvature[objective], dtype=torch.float64)
    values[:dimension] = 0.0
    name = f"{_NAMES[objective]}, solution of {dimension}"
    return _point(name, objective, torch.eye(dimension, dtype=torch.float64), values)


def flat_pair() -> CriticalPoint:
    """Two vectors in the plane at +-pi/8 under `reconstruction`: a saddle without negative curvature, at 3/2."""
    angles = torch.tensor([math.pi / 8, -math.pi / 8], dtype=torch.float64)
    u = torch.stack([angles.cos(), angles.sin()], dim=1)
    point = _point("reconstruction, 2 at +-pi/8", reconstruction, u, torch.tensor([0.0, 0.0, 0.0, 8.0]))
    return replace(point, kind="saddle without negative curvature")


_NAMES: dict[Objective, str] = {one_vector: "tensor", reconstruction: "reconstruction", pair_sum: "pair sum"}


def _eigenvalues(objective: Objective, m: int, s: int) -> tuple[list[float], list[float]]:
    """Those of one direction inside and of one outside the support, for all vectors."""
    if objective is one_vector:
        return [-8 / s], [4 / s]
    if objective is reconstruction:
        mean, differences = (-16 / s, 8 / s), (-16 / s - 8 * m, 8 / s - 8 * m)
    else:
        mean, differences = (8 * (m - 1) / s, -4 * (m - 1) / s), (-8 / s, -4 * (m - 1) / s)
    inside, outside = ([a] + [b] * (m - 1) for a, b in zip(mean, differences, strict=True))
    return inside, outside


def _point(name: str, objective: Objective, u: Tensor, values: Tensor) -> CriticalPoint:
    shape = u.shape

    def of_any_length(v: Tensor) -> Tensor:
        rows = v.view(shape)
        return objective(rows / torch.linalg.vector_norm(rows, dim=1, keepdim=True))

    lowest = -1.0 if objective is one_vector else 0.0
    negative, _, positive = signs(values)
    kind = ("strict saddle" if positive else "degenerate maximum") if negative else "degenerate minimum"
    return surface_point(name, kind, of_any_length, u.flatten(), values, lowest)


def _count(vectors: int) -> str:
    return "one" if vectors == 1 else f"all {vectors}"
