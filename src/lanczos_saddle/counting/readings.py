"""What one finished count says at many thresholds, and what it said at smaller depths; no product is made.

    negative(tau) = #{lambda < -tau}    near_zero(tau) = #{|lambda| <= tau}    positive(tau) = #{lambda > tau}

As tau grows, the first and the last never grow and the middle one never falls. So the counts at two thresholds bound
those between them, and a bound at one threshold serves all those beyond it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from lanczos_saddle.certificates.intervals import check_positive
from lanczos_saddle.counting.deepening import FIRST_LOOK, LOOK_GROWTH
from lanczos_saddle.counting.evidence import EliminatedEvidence, Intervals, SampledEvidence
from lanczos_saddle.counting.exact import SpectrumEvidence, eigenvalue_margin
from lanczos_saddle.counting.result import Counts
from lanczos_saddle.machine.progress import current, during
from lanczos_saddle.operators.resolution import check_resolution, resolved
from lanczos_saddle.operators.scalars import real

Array = NDArray[np.float64]
Whole = NDArray[np.int64]

DEEPEST = 1e-8
"""Of the largest |eigenvalue|: no threshold below is read, so that a grid has at most 26 of them beside those asked."""

SMALL = 256
"""Products up to which other thresholds are read as `recount` would: beyond, each may take it seconds."""

STEADY = (1.0, 2.0, 5.0)
"""Thresholds are read at these multiples of powers of ten."""


@dataclass(frozen=True)
class Readings:
    """Counts at n thresholds from the products of one run: (lower, upper) of negative, near zero and positive.

    `alone`: each threshold by itself is right with `confidence`, if named before the run. It is what `recount` gives
    at the count's own threshold, and everywhere up to 256 products of the probes; beyond, `recount` may be narrower.
    `together` is right at all n thresholds at once with the same confidence (Bonferroni, and monotony): it is for a
    threshold that is found by looking.
    """

    thresholds: Array  # (n,), positive, ascending, in units of eigenvalues
    alone: Whole  # (n, 3, 2)
    together: Whole  # (n, 3, 2)
    estimates: Array  # (n, 3)
    confidence: float
    size: int  # N

    def at(self, threshold: float) -> Whole:
        """(3, 2): bounds at any threshold from the first one on, right at all of them at once.

        Between two thresholds of the grid the outer envelope of theirs. Raises ValueError for a threshold below the
        first, where nothing was read.
        """
        check_positive(real("threshold", threshold))
        place = int(np.searchsorted(self.thresholds, threshold, side="right")) - 1
        if place < 0:
            first = self.thresholds[0]
            raise ValueError(f"readings begin at {first:g}; got {threshold:g}: recount(counts, threshold) counts there")
        left: Whole = self.together[place]
        if threshold == self.thresholds[place]:
            return left.copy()
        last = np.array([[0, 0], [0, self.size], [0, 0]])  # beyond every threshold
        right = self.together[place + 1] if place + 1 < len(self.thresholds) else last
        return np.array([[right[0, 0], left[0, 1]], [left[1, 0], right[1, 1]], [right[2, 0], left[2, 1]]])


@dataclass(frozen=True)
class Closing:
    """How the three intervals at tau closed as the recurrences of the same probes went deeper."""

    steps: Whole  # (k,), products a probe
    products: Whole  # (k,), all that had been made by then
    intervals: Whole  # (k, 3, 2): (lower, upper) of negative, near zero and positive


def readings(counts: Counts, thresholds: Sequence[float] = ()) -> Readings:
    """What a count says at its own threshold, at `thresholds`, and at 1, 2 and 5 times powers of ten.

    These reach from the largest |eigenvalue| that was seen down to what the noise resolves, at most to 1e-8 of it. A
    count that knows its own threshold alone (with an S, by inertia, by enumeration) is read there.

    Cost: no product; for a sampled count one eigendecomposition of T a probe (several at each threshold up to 256
    products); what the count bracketed at its own threshold is kept.

    Raises ValueError for a threshold that is not positive, or that cannot be resolved.
    """
    wanted = {counts.threshold, *(real("threshold", t) for t in thresholds)}
    if answers_everywhere(counts):
        wanted |= set(_grid(*_reach(counts)))
    taus = np.array(sorted(wanted))
    share = 1 - (1 - counts.confidence) / len(taus)
    if counts.steps:
        for tau in taus:
            check_resolution(float(tau), counts.check, counts.steps)
    pairs = _pairs(counts, taus, share)
    alone, joint = ([pair[i] for pair in pairs] for i in range(2))
    return Readings(
        taus,
        _ends(alone),
        _monotone(_ends(joint)),
        np.array([[i.estimate for i in three] for three in alone]),
        counts.confidence,
        counts.size,
    )


@during("counts at other thresholds", lambda _, taus, *__: len(taus), unit="threshold")
def _pairs(counts: Counts, taus: Array, share: float) -> list[tuple[Intervals, Intervals]]:
    """Of every threshold the intervals with the count's confidence and with `share`.

    Of a large run: those of the count at its own threshold, and of its probes alone elsewhere, from one rule each.
    """
    asked = counts.confidence, share
    known = sampled_evidence(counts)
    if known is None or known.run.probes * known.run.steps <= SMALL:
        found = [counts.evidence.at_several(float(tau), asked) for tau in taus]
        return [(one, other) for one, other in found]
    sketch = known.sketched()
    pairs = []
    for tau in map(float, taus):
        current().advance()
        if tau == counts.threshold:
            (joint,) = replace(known, compression=None).at_several(tau, (share,))
            pairs.append(((counts.negative, counts.near_zero, counts.positive), joint))
        else:
            one, other = sketch.at_several(tau, asked)
            pairs.append((one, other))
    return pairs


def _ends(found: Sequence[Intervals]) -> Whole:
    return np.array([[(i.lower, i.upper) for i in three] for three in found], dtype=np.int64)


def closing(counts: Counts) -> Closing | None:
    """The intervals at tau that the probes gave at every look, and at last those of the count; None where none closed.

    They are those of the probes alone: what a basis adds (Cauchy's bounds) stands in the last ones only. Beyond 256
    products the earlier ones are those of a look at a run that goes on, a little wider.
    """
    known = sampled_evidence(counts)
    if known is None or not known.run.steps:
        return None
    small = known.run.probes * known.run.steps <= SMALL
    last = known.run.steps - 1 if small else known.run.steps // 2  # the deepest looks cost the most
    depths = [s for s in _looks(known.run.steps, LOOK_GROWTH if small else 2.0) if s <= last]
    earlier = [replace(known, run=known.run.truncated(s), compression=None, in_progress=not small) for s in depths]
    found = [one.intervals(counts.threshold, counts.confidence) for one in earlier]
    found.append((counts.negative, counts.near_zero, counts.positive))
    steps = np.array([*depths, known.run.steps], dtype=np.int64)
    products = counts.products - known.run.probes * (known.run.steps - steps)
    return Closing(steps, products, _ends(found))


def sampled_evidence(counts: Counts) -> SampledEvidence | None:
    """The run of probes behind a count, where one answers for every threshold."""
    known = counts.evidence
    known = known.sampled if isinstance(known, EliminatedEvidence) else known
    return known if isinstance(known, SampledEvidence) else None


def answers_everywhere(counts: Counts) -> bool:
    """Whether other thresholds than its own can be asked of a count."""
    return sampled_evidence(counts) is not None or counts.evidence.eigenvalues is not None


def _reach(counts: Counts) -> tuple[float, float]:
    """The smallest threshold that is resolved, and the largest |eigenvalue| that was seen."""
    values = counts.evidence.eigenvalues
    if values is not None:
        assert isinstance(counts.evidence, SpectrumEvidence)
        top = float(values.abs().max())
        return max(eigenvalue_margin(values, counts.evidence.check), DEEPEST * top), top
    top = counts.check.scale
    return max(resolved(counts.check, max(counts.steps, 1)), DEEPEST * top), top


def _grid(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten within [low, high], and the first one beyond `high`."""
    if not 0 < low <= high < float("inf"):
        return []
    decades = range(int(np.floor(np.log10(low))) - 1, int(np.ceil(np.log10(high))) + 1)
    steady = [float(f"{m:g}e{d}") for d in decades for m in STEADY]
    inside = [x for x in steady if low <= x <= high]
    return [*inside, *[x for x in steady if high < x < float("inf")][:1]]


def _monotone(bounds: Whole) -> Whole:
    """Bounds that hold at once, each taken to the thresholds beyond its own; (n, 3, 2), thresholds ascending."""
    sharp = bounds.copy()
    for falling in (0, 2):
        sharp[:, falling, 0] = np.maximum.accumulate(bounds[::-1, falling, 0])[::-1]
        sharp[:, falling, 1] = np.minimum.accumulate(bounds[:, falling, 1])
    sharp[:, 1, 0] = np.maximum.accumulate(bounds[:, 1, 0])
    sharp[:, 1, 1] = np.minimum.accumulate(bounds[::-1, 1, 1])[::-1]
    crossed = sharp[..., 0] > sharp[..., 1]  # where chance has failed somewhere: as they came
    return np.where(crossed.any(), bounds, sharp)


def _looks(most: int, growth: float) -> list[int]:
    """Depths at which a run is looked at."""
    looks = [FIRST_LOOK]
    while looks[-1] < most:
        looks.append(int(looks[-1] * growth) + 1)
    return looks
