"""How wide intervals will be, before they are paid for: recurrences on a spectrum that is like the operator's.

A run of j steps from one vector knows the spectral measure down to what j steps resolve. `likeness` makes eigenvalues
of it: between resolved Gauss nodes they are spread evenly in log |lambda|, and so they go on below, at the rate of the
last nodes on either side, until the mass that is left is used up; the rest is zero. Network spectra are about even in
log |lambda| over many decades; where a spectrum is not, widths are foretold wrongly and nothing else happens.

Lanczos on N eigenvalues to depth k and on s N of the same distribution to depth s k close their brackets alike
(Kuijlaars 2000: what converges depends on k / N and the distribution), so the likeness is small.
Nothing here is part of a certificate. Cost: `WORK` numbers a run, no product.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh_tridiagonal

from lanczos_saddle.certificates.deflation import KEPT
from lanczos_saddle.certificates.quadrature import Bracket, mass_bracket
from lanczos_saddle.krylov.gauss import gauss_rule

Array = NDArray[np.float64]

WORK = 1e8
"""n k^2 of a simulated run: it takes a fraction of a second."""

LEAST_STEPS, MOST_VALUES = 48, 100_000
"""A simulated run is never shallower, where the true one is not, and never of more eigenvalues."""

INNER = 3
"""Resolved nodes on either side whose rate the unresolved part continues."""

FOLDS = 30.0
"""E-folds over which it does at most: float64 ends there."""


class Part(NamedTuple):
    """So many eigenvalues, spread evenly in log |lambda|."""

    sign: int
    start: float  # |lambda|, the larger end
    end: float
    number: float


@dataclass(frozen=True)
class Simulated:
    """A recurrence on a diagonal matrix from the unit vector of equal weights' law."""

    diagonal: Array  # (k,)
    offdiagonal: Array  # (k,)

    def bracket(self, steps: int, t: float) -> Bracket:
        """On the mass up to t, as it was at that depth."""
        k = max(1, min(steps, len(self.diagonal)))
        return mass_bracket(self.diagonal[:k], self.offdiagonal[:k], t)

    def converged(self, steps: int, tau: float) -> Array:
        """The Ritz values beyond tau on either side that `deflation` would take without a loss."""
        k = max(1, min(steps, len(self.diagonal)))
        values, last = ritz(self.diagonal[:k], self.offdiagonal[:k])
        return values[settled(values, last, tau)]


@dataclass(frozen=True)
class Likeness:
    """n eigenvalues that stand for N: depths are scaled by `share`."""

    values: Array  # (n,)
    size: int  # N
    share: float  # of depth: k steps on N eigenvalues are share * k on these

    def steps(self, depth: int) -> int:
        """The depth here of that depth on the operator."""
        return max(1, min(round(depth * self.share), len(self.values)))

    def run(self, depth: int) -> Simulated:
        """A fully reorthogonalized run as deep as `depth` steps on the operator."""
        values, k = self.values, self.steps(depth)
        q = np.random.default_rng(0).standard_normal(len(values))
        q /= np.linalg.norm(q)
        basis, alpha, beta = np.empty((k, len(values))), np.zeros(k), np.zeros(k)
        for j in range(k):
            basis[j] = q
            w = values * q
            alpha[j] = q @ w
            for _ in range(2):
                w -= (basis[: j + 1] @ w) @ basis[: j + 1]
            beta[j] = np.linalg.norm(w)
            if beta[j] <= 1e-14 * np.abs(values).max():
                return Simulated(alpha[: j + 1], beta[: j + 1])
            q = w / beta[j]
        return Simulated(alpha, beta)

    def without(self, found: Array) -> Likeness:
        """The eigenvalues nearest to those found, and as many, taken out."""
        left = np.sort(self.values)
        for value in found:
            if len(left) > 1:
                left = np.delete(left, np.abs(left - value).argmin())
        taken = len(self.values) - len(left)
        return replace(self, values=left, size=max(1, self.size - round(taken * self.size / len(self.values))))


def likeness(
    diagonal: Array,
    offdiagonal: Array,
    size: int,
    depth: int,
    *,
    zeros: int = 0,
    found: NDArray[np.bool_] | None = None,
) -> Likeness:
    """From the coefficients (k,) of one run on N + `zeros` eigenvalues, so many known zeros taken out.

    N = `size`; it will be run to `depth`. `found` (k,): Ritz values, ascending, that are taken out, too.
    Cost: an eigenproblem of the run's T.
    """
    share = min(1.0, (WORK / (size * depth**2)) ** (1 / 3))
    share = min(1.0, max(share, LEAST_STEPS / depth))
    count = max(2, min(round(size * share), MOST_VALUES))
    parts, left = _parts(diagonal, offdiagonal, size + zeros, found)
    left = max(0.0, left - zeros)
    parts, left = _continued(parts, left)
    scale, owed, made = count / size, 0.0, []
    for sign, high, low, number in parts:
        owed += number * scale
        whole = int(owed)
        owed -= whole
        spread = (np.arange(whole) + 0.5) / max(whole, 1)
        made.append(sign * np.exp(np.log(high) + (np.log(low) - np.log(high)) * spread))
    values = np.concatenate([*made, np.zeros(max(0, round(left * scale)))])[:count]
    return Likeness(np.concatenate([values, np.zeros(count - len(values))]), size, share)


def _parts(diagonal: Array, offdiagonal: Array, size: int, found: NDArray[np.bool_] | None) -> tuple[list[Part], float]:
    """(what the Gauss nodes of a run resolve, outermost first on either side; how many eigenvalues they do not).

    The heaviest node and the two beside 0 are what is not resolved.
    """
    rule = gauss_rule(diagonal, offdiagonal)
    order = np.argsort(rule.nodes)
    nodes, numbers = rule.nodes[order], rule.weights[order] * size
    if found is not None:
        nodes, numbers = nodes[~found], numbers[~found]
    if not len(nodes):  # all of them were found: nothing is left but zeros
        return [], 0.0
    inner = [int(numbers.argmax()), *np.nonzero(nodes > 0)[0][:1], *np.nonzero(nodes <= 0)[0][-1:]]
    first, last = min(inner), max(inner)
    parts, left = [], float(numbers[first : last + 1].sum())
    for sign, chosen in ((1, range(len(nodes) - 1, last, -1)), (-1, range(first))):
        places = [i for i in chosen if sign * nodes[i] > 0]
        left += float(sum(numbers[i] for i in chosen if sign * nodes[i] <= 0))
        if not places:
            continue
        sizes = sign * nodes[places]
        edges = np.concatenate([[sizes[0]], np.sqrt(sizes[:-1] * sizes[1:])])
        ends = np.append(edges[1:], min(sizes[-1] ** 2 / edges[-1], edges[-1]))
        parts += [
            Part(sign, float(a), float(b), float(numbers[i])) for a, b, i in zip(edges, ends, places, strict=True)
        ]
    return parts, left


def _continued(parts: list[Part], left: float) -> tuple[list[Part], float]:
    """The parts, and on either side one that goes on at the rate of the last ones; what is left of the mass."""
    tails = []
    for sign in (1, -1):
        last = [part for part in parts if part.sign == sign][-INNER:]
        if last:
            folds = max(float(np.log(last[0].start / last[-1].end)), 0.3)
            tails.append((sign, last[-1].end, sum(part.number for part in last) / folds))
    rate = sum(tail[2] for tail in tails)
    if rate <= 0:
        return parts, left
    folds = min(left / rate, FOLDS)
    more = [Part(sign, start, start * float(np.exp(-folds)), slope * folds) for sign, start, slope in tails]
    return parts + more, max(0.0, left - rate * folds)


def ritz(diagonal: Array, offdiagonal: Array) -> tuple[Array, Array]:
    """(Ritz values, ascending; the norms of their residuals) of a run; the last entry of `offdiagonal` is beta_k."""
    values, vectors = eigh_tridiagonal(diagonal, offdiagonal[:-1])
    return values, np.abs(offdiagonal[-1] * vectors[-1])


def settled(values: Array, residuals: Array, tau: float) -> NDArray[np.bool_]:
    """Ritz pairs beyond tau whose residual alone moves eigenvalues at either threshold by less than `KEPT` tau."""
    gaps = np.abs(values) - tau
    return (gaps > 0) & (residuals**2 <= KEPT / 4 * tau * np.maximum(gaps, 0))
