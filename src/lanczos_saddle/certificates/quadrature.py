"""Gauss and Gauss-Radau rules of a spectral measure, and the bracket that they put around its mass.

A probe g and a symmetric H define the measure F(t) = sum over lambda_i <= t of (u_i'g)^2 / |g|^2. From k steps of
Lanczos, alpha_1..alpha_k and beta_1..beta_k (beta_k the residual norm), the Radau rule with a node AT t has

    alpha_hat = t + beta_k^2 / d_k,   d_1 = alpha_1 - t,   d_j = alpha_j - t - beta_{j-1}^2 / d_{j-1}
    T_hat = [[T_k, beta_k e_k], [beta_k e_k', alpha_hat]],   nodes theta_i, weights w_i = (first components)^2

and Chebyshev, Markov and Stieltjes prove, with no knowledge of the spectrum,

    sum_{theta_i < t} w_i  <=  F(t-)  <=  F(t)  <=  sum_{theta_i <= t} w_i.

No bracket from these coefficients is sharper; its width is the Christoffel number w(t) = 1 / sum_{j=0..k} p_j(t)^2, and
brackets nest as k grows: stopping early or late costs no confidence (Golub & Meurant 2010; docs/method.md).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lanczos_saddle.krylov.gauss import Array, Rule, gauss_rule
from lanczos_saddle.krylov.lanczos import CLOSED

RUNAWAY = 100.0
"""alpha_hat beyond this many |T| means that t is at a Ritz value."""

BACKWARD = 16.0
"""Nodes are known to this many eps |T|: the backward error of the recurrence and of the eigenvalue solver."""

EPS = float(np.finfo(np.float64).eps)

ROUNDING = 1e-12
"""Outward rounding of a mass: float64 brackets were never violated beyond 1e-13, as test_quadrature.py shows."""


@dataclass(frozen=True)
class Bracket:
    """lower <= F(t-) <= F(t) <= upper; masses are fractions of 1."""

    lower: float
    upper: float

    @property
    def width(self) -> float:
        """The Christoffel number w(t), up to rounding."""
        return self.upper - self.lower

    def intersect(self, other: Bracket) -> Bracket:
        """Both hold, so their intersection does."""
        return Bracket(max(self.lower, other.lower), min(self.upper, other.upper))


def radau_rule(diagonal: Array, offdiagonal: Array, t: float) -> Rule:
    """The (k+1)-point Gauss-Radau rule with one node at t; `offdiagonal` (k,) ends with the residual norm > 0.

    Where t is so close to a Ritz value that alpha_hat runs away, the k-point rule of the step before is returned:
    its last entry is moderate, and as p_k(t) = beta_k / (alpha_hat - t) p_{k-1}(t) it is wider by a part in
    RUNAWAY^2 only. (Solvers lose a moderate node beside an entry of 1e10 and more.)
    """
    scale = _scale(diagonal, offdiagonal) + abs(t)
    last = t + offdiagonal[-1] ** 2 / _last_pivot(diagonal, offdiagonal, t)
    if abs(last) <= RUNAWAY * scale:
        return gauss_rule(np.append(diagonal, last), offdiagonal)
    if len(diagonal) == 1:
        return Rule(np.array([t]), np.ones(1))
    last = t + offdiagonal[-2] ** 2 / _last_pivot(diagonal[:-1], offdiagonal[:-1], t)
    return gauss_rule(np.append(diagonal[:-1], last), offdiagonal)


def mass_bracket(diagonal: Array, offdiagonal: Array, t: float) -> Bracket:
    """The sharpest bracket on F(t-) and F(t) that k products allow; (k,) coefficients, float64.

    A residual norm at the level of rounding means that the Krylov space has closed: the Gauss rule is then the measure
    itself, of an H as far away as that. (The Radau rule would put a second node beside t and share t's mass with it.)
    Nodes that rounding cannot tell from t lie on neither side: lower leaves them out, upper takes them in.
    What rounding does beyond that is a perturbation of H by a few eps |H|, which `padding` accounts for.
    """
    eps = np.finfo(np.float64).eps
    closed = bool(offdiagonal[-1] <= CLOSED * eps * _scale(diagonal, offdiagonal))
    rule = gauss_rule(diagonal, offdiagonal) if closed else radau_rule(diagonal, offdiagonal, t)
    blur = float(BACKWARD * eps * np.abs(rule.nodes).max())
    if not closed:
        blur = max(blur, float(np.abs(rule.nodes - t).min()))  # the prescribed node itself
    lower = rule.weights[rule.nodes < t - blur].sum()
    upper = rule.weights[rule.nodes <= t + blur].sum()
    return Bracket(max(0.0, lower - ROUNDING), min(1.0, upper + ROUNDING))


def gauss_bracket(rule: Rule, t: float) -> Bracket:
    """A bracket on F(t-) and F(t) from the Gauss rule of T alone: it leaves out one node below t, takes in one above.

    Nodes that rounding cannot tell from t lie on neither side.
    """
    blur = BACKWARD * EPS * max(-float(rule.nodes[0]), float(rule.nodes[-1]))  # they ascend
    below = int(np.searchsorted(rule.nodes, t - blur, side="left"))
    up_to = int(np.searchsorted(rule.nodes, t + blur, side="right"))
    lower, upper = rule.weights[: max(0, below - 1)].sum(), rule.weights[: up_to + 1].sum()
    return Bracket(max(0.0, float(lower) - ROUNDING), 1.0 if up_to == len(rule.nodes) else min(1.0, upper + ROUNDING))


def _last_pivot(diagonal: Array, offdiagonal: Array, t: float) -> float:
    """d_k of the LDL' factorization of T_k - tI; zero pivots are replaced by a tiny number (Sturm's device)."""
    tiny = 1e-30 * (_scale(diagonal, offdiagonal) + abs(t))
    shifted = (diagonal - t).tolist()
    squares = (offdiagonal**2).tolist()
    pivot = 0.0
    for j, entry in enumerate(shifted):
        pivot = entry - (squares[j - 1] / pivot if j else 0.0)
        if abs(pivot) < tiny:
            pivot = tiny
    return pivot


def _scale(diagonal: Array, offdiagonal: Array) -> float:
    return float(np.abs(diagonal).max() + np.abs(offdiagonal).max())
