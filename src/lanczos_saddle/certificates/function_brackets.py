"""Brackets on the integral of f in a spectral measure F, from k steps of Lanczos: they hold, whatever the spectrum.

On [a, b], which holds the spectrum, with Gauss nodes theta_1 < ... < theta_k, weights w_i, theta_0 = a, theta_k+1 = b:

    f increasing              sum w_i f(theta_i-1)  <=  int f dF  <=  sum w_i f(theta_i+1)
    (f - c)^2, f monotone     int (f - c)^2 dF  <=  sum w_i max of (f - c)^2 at theta_i-1 and theta_i+1
    f'', f'''', ... < 0       int f dF  <=  Gauss                          (>= where they are positive)
    f', f''', ...   > 0       Radau with a node at a  <=  int f dF  <=  Radau with a node at b     (reversed for < 0)

The first two: the part of the mass between the quantiles w_1 + ... + w_i-1 and w_1 + ... + w_i lies between theta_i-1
and theta_i+1 (Chebyshev, Markov, Stieltjes). The others are the errors of the rules, a derivative of f
times the integral of what has one sign (Golub & Meurant 2010, section 6.3). Signs of the odd and the even derivatives:
log x (+, -), exp x (+, +), 1 / x (-, +).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from lanczos_saddle.certificates.quadrature import ROUNDING, radau_rule
from lanczos_saddle.krylov.gauss import Array, gauss_rule
from lanczos_saddle.krylov.lanczos import CLOSED

MONOTONE = 1e-8
"""Of the largest |f|: what rounding inside f may turn the wrong way between two places."""


@dataclass(frozen=True)
class Shape:
    """A monotone f on [a, b] with the signs of its derivatives."""

    function: Callable[[Array], Array]
    lowest: float  # a
    highest: float  # b
    odd: int  # 1 or -1: of f', and of f''', ... where `even` is known
    even: int  # 1 or -1: of f'', f'''', ...; 0 where only f' has one sign

    def at(self, x: Array) -> Array:
        """The values of f, (n,) float64; raises ValueError where one is not finite."""
        given = np.asarray(self.function(np.asarray(x, dtype=np.float64)))
        if given.dtype.kind not in "biuf" or given.shape != np.shape(x) or not np.isfinite(given).all():
            raise ValueError(
                f"the function must take an array and give real finite numbers of its shape on [{self.lowest:.6g}, "
                f"{self.highest:.6g}]; it does not: see that the bounds lie where it is defined"
            )
        return given.astype(np.float64)

    def check_monotone(self, values: Array) -> None:
        """Refuse values at ascending places that go the other way than `odd` says, beyond what rounding does."""
        if (self.odd * np.diff(values) < -MONOTONE * np.abs(values).max()).any():
            raise ValueError(
                f"f must be {'increasing' if self.odd > 0 else 'decreasing'} on [{self.lowest:.6g}, "
                f"{self.highest:.6g}], as derivatives[0] = {self.odd} says; its values at Ritz values are not: "
                "correct the sign, or sum the monotone parts of f one by one"
            )


@dataclass(frozen=True)
class Integral:
    """lower <= int f dF <= upper, the Gauss rule's own value between them, and int (f - c)^2 dF <= square.

    lower > upper by more than rounding: the signs of the derivatives are not those of f.
    """

    lower: float
    estimate: float
    upper: float
    square: float


def integral_bracket(diagonal: Array, offdiagonal: Array, shape: Shape, center: float) -> Integral:
    """All of the brackets that the signs allow, intersected; (k,) each, `offdiagonal` ends with the residual."""
    rule = gauss_rule(diagonal, offdiagonal)
    nodes = np.clip(rule.nodes, shape.lowest, shape.highest)
    values, ends = shape.at(nodes), shape.at(np.array([shape.lowest, shape.highest]))
    gauss, scale = float(rule.weights @ values), float(np.abs(diagonal).max() + np.abs(offdiagonal).max())
    slack = ROUNDING * float(np.abs(ends).sum())
    if offdiagonal[-1] <= CLOSED * np.finfo(np.float64).eps * scale:  # the rule is the measure itself
        return Integral(
            gauss - slack, gauss, gauss + slack, float(rule.weights @ (np.abs(values - center) + slack) ** 2)
        )
    around = np.concatenate([ends[:1], values, ends[1:]])
    shape.check_monotone(around)
    left, right = around[:-2], around[2:]
    lower, upper = sorted((float(rule.weights @ left), float(rule.weights @ right)))
    square = float(rule.weights @ np.maximum((left - center) ** 2, (right - center) ** 2))
    if shape.even:
        lowers, uppers = [lower], [upper]
        (uppers if shape.even < 0 else lowers).append(gauss)
        for end, sign in ((shape.lowest, 1), (shape.highest, -1)):
            radau = radau_rule(diagonal, offdiagonal, end)
            value = float(radau.weights @ shape.at(np.clip(radau.nodes, shape.lowest, shape.highest)))
            (lowers if sign * shape.odd > 0 else uppers).append(value)
        lower, upper = max(lowers), min(uppers)
    return Integral(lower - slack, min(max(gauss, lower), upper), upper + slack, square)
