"""What a bracket computed with a noisy operator certifies about the exact one.

The computed recurrence satisfies H Q = Q T + beta q e' + E with |E|_2 <= delta, so it is the exact recurrence of
some symmetric H~ with |H~ - H| <= delta (Kahan's dilation), and its bracket holds for F~, the mass of H~. The
projector P~ of H~ on (-inf, t - eta] and P of H on (-inf, t) are separated by eta, so the sine of the angle from
range(P~) to range(P) is at most s = delta / eta (Davis & Kahan 1970, half lines: constant 1). Angles add:

    angle(g, range P)  <=  angle(g, range P~) + arcsin s

    F(t-) >= cos(arccos sqrt(F~(t - eta)) + arcsin s)^2,    F(t) <= sin(arcsin sqrt(F~(t + eta)) + arcsin s)^2

for every eta > 0, so the best of several is taken: the threshold itself stays sharp. Proof: docs/method.md.
"""

from __future__ import annotations

import math

SINES = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 3e-2, 0.1, 0.3)

SHOWS = 1e-5
"""Of a threshold: more noise than this costs width, and the sines that are tried lie closer, near the best one.

A sine s moves the threshold by delta / s and the mass by about s: with r = delta / |t| the two are even near sqrt(r).
"""

CLOSER = (5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 3e-2, 5e-2, 0.1, 0.2, 0.3)

AROUND = (1 / 6, 3.0)
"""Sines between these multiples of sqrt(r) are tried."""


def pad_lower(mass: float, sine: float) -> float:
    """A lower bound on F(t-) from F~(t - eta) >= mass."""
    angle = math.acos(math.sqrt(min(1.0, max(0.0, mass)))) + math.asin(min(1.0, sine))
    return math.cos(angle) ** 2 if angle < math.pi / 2 else 0.0


def pad_upper(mass: float, sine: float) -> float:
    """An upper bound on F(t) from F~(t + eta) <= mass."""
    angle = math.asin(math.sqrt(min(1.0, max(0.0, mass)))) + math.asin(min(1.0, sine))
    return math.sin(angle) ** 2 if angle < math.pi / 2 else 1.0


def shifts(delta: float, threshold: float, *, one: bool = False) -> list[tuple[float, float]]:
    """Pairs (eta, s = delta / eta) worth trying at a threshold: from half of |t| down to a negligible shift.

    `one`: where noise shows, the one that is likely to be best, for a look at a run in progress.
    """
    shows = delta > SHOWS * abs(threshold)
    best = math.sqrt(delta / abs(threshold)) if shows and threshold else 0.0
    sines = [s for s in CLOSER if AROUND[0] * best <= s <= AROUND[1] * best] if best else list(SINES)
    useful = [(delta / s, s) for s in sines if delta / s <= abs(threshold) / 2]
    if best and one:
        return sorted(useful, key=lambda pair: abs(math.log(pair[1] / best)))[:1]
    negligible = [i for i, (eta, _) in enumerate(useful) if eta <= 1e-5 * abs(threshold)]
    return useful[: negligible[0] + 1] if negligible else useful
