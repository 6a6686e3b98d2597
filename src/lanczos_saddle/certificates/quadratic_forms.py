"""Means of g'Ag over Gaussian probes: intervals for tr A that hold for every number of probes and every symmetric A.

With Q_i = g_i'Ag_i of m independent standard Gaussian g_i, for all x > 0 (Laurent & Massart 2000, Lemma 1)

    P( mean Q - tr A >=  2 |A|_F sqrt(x / m) + 2 |A|_2 x / m )  <=  exp(-x),      and the same for tr A - mean Q

since log E exp(s (Q - tr A)) <= s^2 |A|_F^2 / (1 - 2 s |A|_2). The same probes bound |A|_F^2 = tr A^2: for M = A^2, or
any other positive semidefinite M, E exp(-s g'Mg) = prod (1 + 2 s mu_j)^(-1/2) <= (1 + 2 s tr M)^(-1/2), so

    P( mean g'Mg <= x tr M )  <=  exp( -m (x - 1 - log x) / 2 ),      0 < x < 1.

Nothing is asymptotic: with many probes the interval is about twice as wide as the one of Student, which is; with one or
two it is far wider. Several such statements on
the same probes are right together by the union bound.
"""

from __future__ import annotations

import math

from scipy.optimize import brentq


def least_share(probes: int, alpha: float) -> float:
    """The x with mean g'Mg > x tr M except with probability alpha, for every positive semidefinite M."""
    wanted = 2 * math.log(1 / alpha) / probes  # of x - 1 - log x, which decreases on (0, 1)
    log_x = brentq(lambda y: math.exp(y) - 1 - y - wanted, -wanted - 1, 0.0, xtol=1e-12)
    return math.exp(float(log_x))


def most_trace(mean: float, probes: int, alpha: float) -> float:
    """An upper bound on tr M from the mean of g'Mg, M positive semidefinite, wrong with probability alpha at most."""
    return mean / least_share(probes, alpha)


def deviation(frobenius: float, norm: float, probes: int, alpha: float) -> float:
    """What the mean of g'Ag is off tr A by at most, on one side, except with probability alpha; `norm` >= |A|_2."""
    x = math.log(1 / alpha)
    return 2 * frobenius * math.sqrt(x / probes) + 2 * norm * x / probes
