"""Functions of two variables: the plateau, and the classical, the monkey and the handkerchief saddle.

    plateau        h(x) + y^2 / 2,  h' = x for x < 0, x (1 - x / 2)^2 on [0, 2], 0 on [2, 3], (x - 3)^2 beyond
    classical      x^2 - y^2
    monkey         x^3 - 3 x y^2
    handkerchief   x^3 / 3 + x y^2 + 2 (x^2 - y^2)

The plateau is after the paper's Fig. 1 (minimum at the origin, flat for x in (2, 3)), whose formula is not printed;
this one is twice continuously differentiable.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lanczos_saddle.studies.landscapes.critical_points import CriticalPoint, surface_point

STRICT, FLAT = "strict saddle", "saddle without negative curvature"


def plateau(p: Tensor) -> Tensor:
    """h(x) + y^2 / 2 at p = (x, y): 0 at the origin, 1/3 on the plateau."""
    x, y = p[..., 0], p[..., 1]
    falling = x.square() / 2 - x**3 / 3 + x**4 / 16
    h = torch.where(x <= 0, x.square() / 2, torch.where(x < 2, falling, torch.full_like(x, 1 / 3)))
    return h + torch.where(x > 3, (x - 3) ** 3 / 3, 0 * x) + y.square() / 2


def classical(p: Tensor) -> Tensor:
    """x^2 - y^2."""
    x, y = p[..., 0], p[..., 1]
    return x.square() - y.square()


def monkey(p: Tensor) -> Tensor:
    """x^3 - 3 x y^2, the real part of (x + iy)^3: three ways down, three up, Hessian zero at the origin."""
    x, y = p[..., 0], p[..., 1]
    return x**3 - 3 * x * y.square()


def handkerchief(p: Tensor) -> Tensor:
    """x^3 / 3 + x y^2 + 2 (x^2 - y^2): a saddle at the origin, a maximum at (-4, 0)."""
    x, y = p[..., 0], p[..., 1]
    return x**3 / 3 + x * y.square() + 2 * (x.square() - y.square())


SURFACES = {"plateau": plateau, "classical saddle": classical, "monkey saddle": monkey, "handkerchief": handkerchief}


def surface_points() -> list[CriticalPoint]:
    """Their critical points: for the plateau its minimum and one point of the flat."""
    return [
        surface_point("plateau, minimum", "minimum", plateau, (0, 0), (1, 1), 0.0),
        surface_point("plateau", "degenerate minimum", plateau, (2.5, 0), (0, 1), 0.0),
        surface_point("classical saddle", STRICT, classical, (0, 0), (-2, 2), -math.inf),
        surface_point("monkey saddle", FLAT, monkey, (0, 0), (0, 0), -math.inf),
        surface_point("handkerchief, saddle", STRICT, handkerchief, (0, 0), (-4, 4), -math.inf),
        surface_point("handkerchief, maximum", "maximum", handkerchief, (-4, 0), (-12, -4), -math.inf),
    ]
