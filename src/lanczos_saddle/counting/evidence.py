"""What a finished run knows, to be asked at any threshold: the products are spent once.

Each answer holds with its stated confidence; several answers from one run share its probes, so they are right or
wrong together more often than independent ones. `SampledEvidence.band` holds for all its thresholds at once.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from lanczos_saddle.certificates.beta_interval import count_at_least, count_at_most
from lanczos_saddle.certificates.cauchy import Compression
from lanczos_saddle.certificates.deflation import Deflation
from lanczos_saddle.certificates.intervals import (
    Bounds,
    Interval,
    Masses,
    Outside,
    bracket_at_zero,
    cauchy_bounds,
    certified_bracket,
    check_confidence,
    check_positive,
    halved,
    halved_three,
    inside_interval,
    joint_intervals,
    settle_negative,
    sketched_bracket,
    with_inside,
)
from lanczos_saddle.certificates.quadrature import Bracket
from lanczos_saddle.krylov.gauss import Rule
from lanczos_saddle.krylov.lanczos import Tridiagonalization
from lanczos_saddle.operators.hermitian import half
from lanczos_saddle.operators.resolution import RunNoise
from lanczos_saddle.operators.scalars import real
from lanczos_saddle.operators.scaling import times

Array = NDArray[np.float64]

Intervals = tuple[Interval, Interval, Interval]


@dataclass(frozen=True)
class CountBand:
    """lower[i] <= #{lambda <= thresholds[i]} <= upper[i] for all i at once, with `confidence`.

    Between thresholds the count lies above the lower bound on the left and below the upper one on the right.
    """

    thresholds: Array  # (n,), ascending
    lower: NDArray[np.int64]  # (n,)
    upper: NDArray[np.int64]  # (n,)
    confidence: float


def checked_band(thresholds: Array, confidence: float) -> Array:
    """The thresholds of a band, ascending; raises ValueError for 0, for what is not finite, and for none."""
    check_confidence(real("confidence", confidence))
    thresholds = np.sort(np.asarray(thresholds, dtype=np.float64).ravel())
    if len(thresholds) == 0 or not np.isfinite(thresholds).all() or (thresholds == 0).any():
        raise ValueError(f"a band needs finite thresholds other than 0; got {thresholds}: leave 0 out")
    return thresholds


class Evidence(ABC):
    """What a finished count knows, whatever its method: it answers for thresholds, from products that are spent.

    Every count has one. A kind that answers for its own threshold alone says so (ValueError), and so does one that
    cannot answer for many at once.
    """

    @property
    def eigenvalues(self) -> Tensor | None:
        """(N,) float64, ascending, where all are known."""
        return None

    @abstractmethod
    def intervals(self, threshold: float, confidence: float) -> Intervals:
        """(negative, near_zero, positive) at tau = threshold, right together with `confidence`."""

    def at_several(self, threshold: float, confidences: Sequence[float]) -> list[Intervals]:
        """`intervals` with each confidence, at the cost of one where what is costly is theirs alike."""
        return [self.intervals(threshold, each) for each in confidences]

    def band(self, thresholds: Array, confidence: float) -> CountBand:  # noqa: ARG002
        """Bounds on #{lambda <= t} for all thresholds at once; ValueError where the count knows one alone."""
        raise ValueError(
            "a band needs a count that answers for every threshold; this one knows its own alone: count with "
            "method='lanczos' and without a preconditioner"
        )

    @abstractmethod
    def halved(self) -> Evidence:
        """Of a complex Hermitian matrix, from that of its real form, which has every eigenvalue twice."""

    @abstractmethod
    def unscaled(self, exponent: int) -> Evidence:
        """Of H, from that of 2^exponent H."""


@dataclass(frozen=True)
class SampledEvidence(Evidence):
    """Coefficients from Gaussian probes that were fixed beforehand, and bounds that always hold."""

    run: Tridiagonalization  # of the operator without its dead coordinates
    size: int  # N, dead coordinates included
    zeros: int  # dead coordinates: eigenvalues that are known to be zero
    delta: float  # bounds the noise of the recurrences (`padding`)
    compression: Compression | None  # for Cauchy bounds; None without a basis
    negative_most: int | None  # a proved upper bound on the negative eigenvalues
    enumerated: Compression | None = None  # to eigenvectors that were found before (`enumeration`, `scouting`)
    deflation: Deflation | None = None  # the same, taken out of the space in which the probes were drawn
    copies: int = 1  # 2: of the real form of a complex operator; sizes are the real form's, answers are halved
    exponent: int = 0  # the run is of 2^exponent H; thresholds are those of H
    failure: float = 0.0  # the chance that `delta` is too small, where it was measured on the run
    in_progress: bool = False  # a look at a run that goes on: one shift is tried for its noise
    bounded: float = 0.0  # the delta that sample products bound, where the other was measured
    rules: tuple[Rule, ...] = ()  # of every probe, where brackets come from these (`sketched`)
    bracketed: dict[Any, Masses] = field(default_factory=dict, compare=False, repr=False)  # what `masses` has found

    @property
    def noise(self) -> RunNoise:
        """The bound on the noise of this run, and whether it was measured on it."""
        return RunNoise(self.delta, self.failure).unscaled(self.exponent)

    def _sure(self, confidence: float) -> tuple[SampledEvidence, float]:
        """(what holds with it, the confidence left to the probes): a measured noise may fail, and takes its share.

        Where that is half of what may fail, the noise is the bounded one, and what else rests on the other is left out.
        """
        if 1 - confidence > 2 * self.failure:
            return self, confidence + self.failure
        return replace(self, delta=self.bounded, failure=0.0, compression=None), confidence

    @property
    def living(self) -> int:
        """The dimension without the dead coordinates."""
        return self.size - self.zeros

    @property
    def drawn(self) -> int:
        """The dimension in which the probes were drawn."""
        return self.living - (self.deflation.size if self.deflation else 0)

    def masses(self, threshold: float) -> Masses:
        """Brackets on the masses at -tau and tau; the costly part: up to 16 eigendecompositions of T per probe.

        Made once for each tau, and kept: neither the confidence nor the bounds that always hold change them.
        """
        t = times(threshold, self.exponent)
        asked = (t, self.delta, self.run.steps, self.in_progress, bool(self.rules))  # all in which copies of it differ
        if asked not in self.bracketed:
            self.bracketed[asked] = Masses(self._bracket(-t), self._bracket(t))
        return self.bracketed[asked]

    def sketched(self) -> SampledEvidence:
        """Wider intervals that hold as well, cheap at many thresholds: one eigendecomposition of T a probe for all.

        Brackets come from its Gauss rule, and the bases are left out (each threshold would need eigenvalues of them).
        """
        return replace(self, rules=self.run.rules, compression=None)

    def _bracket(self, t: float) -> Bracket:
        """On the mass of the complement's eigenvalues, at the two places where they bound those of H below t."""
        if self.deflation is None:
            return self._at(t)
        shift = self.deflation.correction(t)
        return Bracket(self._at(t - shift.left).lower, self._at(t + shift.right).upper)

    def _at(self, t: float) -> Bracket:
        if self.rules:
            return sketched_bracket(self.run, self.rules, t, self.delta)
        return certified_bracket(self.run, t, self.delta, one=self.in_progress)

    def _outside(self, threshold: float) -> Outside:
        if self.deflation is None:
            return Outside(zeros=self.zeros)
        size = self.deflation.size
        low, high = self.deflation.correction(-threshold), self.deflation.correction(threshold)
        beyond = size - high.known
        return Outside(
            size,
            (low.known - low.lost_below, low.known + low.lost_above),
            (beyond - high.lost_above, beyond + high.lost_below),
            self.zeros,
        )

    def halved(self) -> SampledEvidence:
        """Answers are halved: the run stays that of the real form."""
        return replace(self, copies=2)

    def unscaled(self, exponent: int) -> SampledEvidence:
        """Thresholds are scaled: the run stays that of 2^exponent H."""
        return replace(self, exponent=exponent)

    def intervals(self, threshold: float, confidence: float, masses: Masses | None = None) -> Intervals:
        """(negative, near_zero, positive) at tau = threshold, right together with `confidence`.

        For a threshold that was named before the run: one picked by looking at the run is what `band` is for.
        """
        check_positive(threshold)
        check_confidence(confidence)
        sure, left = self._sure(confidence) if self.failure else (self, confidence)
        if sure is not self:
            return sure.intervals(threshold, confidence)
        masses = masses or self.masses(threshold)
        threshold = times(threshold, self.exponent)
        bounds = Bounds(negative_most=self.negative_most)
        if self.compression is not None:
            bounds = cauchy_bounds(
                self.compression.sides(-threshold), self.compression.sides(threshold), self.living, self.negative_most
            )
        if self.enumerated is not None:
            below, above = self.enumerated.sides(-threshold)[0], self.enumerated.sides(threshold)[1]
            bounds = replace(
                bounds,
                negative_least=max(bounds.negative_least, below),
                positive_least=max(bounds.positive_least, above),
            )
        found = joint_intervals(
            masses, bounds, probes=self.run.probes, size=self.drawn, confidence=left, outside=self._outside(threshold)
        )
        return found if self.copies == 1 else halved(found, self.size, self.zeros)

    def at_several(self, threshold: float, confidences: Sequence[float]) -> list[Intervals]:
        """`intervals` with each confidence: the masses are bracketed once for all that rest on the same noise."""
        check_positive(threshold)
        masses: dict[float, Masses] = {}
        found = []
        for confidence in confidences:
            sure = self._sure(confidence)[0] if self.failure else self
            if sure.delta not in masses:
                masses[sure.delta] = sure.masses(threshold)
            found.append(sure.intervals(threshold, confidence, masses[sure.delta]))
        return found

    def three(self, threshold: float, confidence: float) -> Intervals:
        """As `intervals`, with the middle one narrowed by its own mass: six statements share what may fail."""
        failure = self.failure
        if failure and 1 - confidence <= 3 * failure:  # the other noise needs no share
            return replace(self, delta=self.bounded, failure=0.0, compression=None).three(threshold, confidence)
        alpha = (1 - confidence - failure) / 6
        masses, plain = self.masses(threshold), replace(self, copies=1)
        outer = plain.intervals(threshold, 1 - failure - 4 * alpha, masses)
        outside = self._outside(times(threshold, self.exponent))
        inside = inside_interval(masses, probes=self.run.probes, size=self.drawn, alpha=alpha, outside=outside)
        found = with_inside(outer, inside, self.size)
        return found if self.copies == 1 else halved_three(found)

    def less_sure(self, error: float) -> SampledEvidence:
        """Of every matrix within `error` of H: as if its noise were larger by that."""
        error = times(error, self.exponent)
        return replace(self, delta=self.delta + error, bounded=self.bounded + error)

    def band(self, thresholds: Array, confidence: float) -> CountBand:
        """Bounds on #{lambda <= t} that hold for every given threshold at once (Bonferroni); returned ascending.

        Raises ValueError for a threshold of 0, where noise leaves nothing to say, and for none at all.
        """
        thresholds = checked_band(thresholds, confidence)
        sure, left = self._sure(confidence) if self.failure else (self, confidence)
        if sure is not self:
            return sure.band(thresholds, confidence)
        alpha = (1 - left) / (2 * len(thresholds))
        asked, thresholds = thresholds, np.asarray([times(float(t), self.exponent) for t in thresholds])
        masses = [self._bracket(float(t)) for t in thresholds]
        known = np.where(thresholds >= 0, self.zeros, 0)
        lower = known + [count_at_least(mass.lower, self.run.probes, self.drawn, alpha) for mass in masses]
        upper = known + [count_at_most(mass.upper, self.run.probes, self.drawn, alpha) for mass in masses]
        if self.deflation is not None:
            shifts = [self.deflation.correction(float(t)) for t in thresholds]
            lower = lower + [shift.known - shift.lost_below for shift in shifts]
            upper = upper + [shift.known + shift.lost_above for shift in shifts]
        if self.negative_most is not None:
            upper = np.where(thresholds < 0, np.minimum(upper, self.negative_most), upper)
        if self.enumerated is not None:
            lower = np.maximum(lower, known + [self.enumerated.sides(float(t))[0] for t in thresholds])
        if self.copies == 2:
            pairs = [half(int(low), int(high)) for low, high in zip(lower, upper, strict=True)]
            lower, upper = np.array(pairs).T
        # the count increases with t: a bound at one threshold serves all those beyond it
        return CountBand(asked, np.maximum.accumulate(lower), np.minimum.accumulate(upper[::-1])[::-1], confidence)


def same_threshold(one: float, other: float) -> bool:
    """Whether two thresholds differ by rounding alone, which the bound on a run's noise is larger than."""
    return abs(one - other) <= 4 * float(np.finfo(np.float64).eps) * abs(other)


@dataclass(frozen=True)
class CongruentEvidence(Evidence):
    """Two runs at threshold 0, of S'(H + tau I)S and of S'(H - tau I)S, each with an S and probes of its own."""

    threshold: float  # tau, the only one that these runs know of
    low: SampledEvidence  # of the matrix at -tau
    high: SampledEvidence  # of the matrix at tau
    copies: int = 1  # as in `SampledEvidence`

    def halved(self) -> CongruentEvidence:
        """Answers are halved."""
        return replace(self, copies=2)

    def unscaled(self, exponent: int) -> CongruentEvidence:
        """A run with an S is never scaled."""
        raise AssertionError(f"no preconditioned run is scaled; got 2^{exponent}")

    def intervals(self, threshold: float, confidence: float) -> Intervals:
        """(negative, near_zero, positive), right together with `confidence`.

        Raises ValueError for any threshold but the one that was run.
        """
        check_confidence(confidence)
        check_positive(threshold)
        if not same_threshold(threshold, self.threshold):
            raise ValueError(
                f"a preconditioned run answers for its own threshold, {self.threshold}; got {threshold}: count "
                "again, or without a preconditioner, whose run answers for every threshold"
            )
        low, high = self.low, self.high
        bounds = Bounds(negative_most=low.negative_most)
        if low.compression is not None and high.compression is not None:
            bounds = cauchy_bounds(
                low.compression.sides(0.0), high.compression.sides(0.0), low.living, low.negative_most
            )
        masses = Masses(bracket_at_zero(low.run, low.delta), bracket_at_zero(high.run, high.delta))
        outside = Outside(zeros=low.zeros)
        found = joint_intervals(
            masses, bounds, probes=low.run.probes, size=low.living, confidence=confidence, outside=outside
        )
        return found if self.copies == 1 else halved(found, low.size, low.zeros)


@dataclass(frozen=True)
class RunAt:
    """What answers for one threshold of a call that has several."""

    threshold: float
    evidence: Evidence
    probes: int
    steps: int


@dataclass(frozen=True)
class SeveralEvidence(Evidence):
    """One call at several thresholds, whose runs are not all one: those with an S know their own threshold each."""

    runs: tuple[RunAt, ...]

    def at(self, threshold: float) -> RunAt:
        """What answers for this threshold; raises ValueError for one that was not asked for."""
        check_positive(threshold)
        for run in self.runs:
            if same_threshold(threshold, run.threshold):
                return run
        asked = ", ".join(f"{run.threshold:g}" for run in self.runs)
        raise ValueError(f"these counts know the thresholds {asked}; got {threshold}: count again with it among them")

    def intervals(self, threshold: float, confidence: float) -> Intervals:
        """Those of the run that answers for it."""
        found = self.at(threshold)
        return found.evidence.intervals(found.threshold, confidence)

    def halved(self) -> SeveralEvidence:
        """Of every run."""
        return SeveralEvidence(tuple(replace(run, evidence=run.evidence.halved()) for run in self.runs))

    def unscaled(self, exponent: int) -> SeveralEvidence:
        """A run with an S is never scaled."""
        raise AssertionError(f"no preconditioned run is scaled; got 2^{exponent}")


@dataclass(frozen=True)
class FixedEvidence(Evidence):
    """Intervals that are known at one threshold, or at every one where all rows are zero."""

    threshold: float | None  # None: every threshold
    answer: Intervals
    size: int
    dead: int
    way_out: str = "count again at the threshold that is meant"

    def halved(self) -> FixedEvidence:
        """The same answer of half the size."""
        halves = halved(self.answer, self.size, self.dead)
        return replace(self, answer=halves, size=self.size // 2, dead=self.dead // 2)

    def unscaled(self, exponent: int) -> FixedEvidence:
        """The same answer at the threshold in the units of H."""
        return replace(self, threshold=None if self.threshold is None else times(self.threshold, -exponent))

    def band(self, thresholds: Array, confidence: float) -> CountBand:
        """Of a matrix of zeros; of all others ValueError with the way out."""
        if self.threshold is not None:
            raise ValueError(f"these counts know one threshold, {self.threshold}, and no band: {self.way_out}")
        asked = checked_band(thresholds, confidence)
        below = np.where(asked > 0, self.size, 0)
        return CountBand(asked, below, below, confidence)

    def intervals(self, threshold: float, confidence: float) -> Intervals:
        """What is known; raises ValueError for any threshold but the one that was counted at."""
        check_positive(real("threshold", threshold))
        check_confidence(real("confidence", confidence))
        if self.threshold is not None and threshold != self.threshold:
            raise ValueError(f"these counts know one threshold, {self.threshold}; got {threshold}: {self.way_out}")
        return self.answer


@dataclass(frozen=True)
class EliminatedEvidence(Evidence):
    """Sampled evidence, and at one threshold bounds on the negative eigenvalues that hold without chance."""

    sampled: Evidence
    threshold: float
    lower: int
    upper: int
    size: int
    dead: int

    def halved(self) -> Evidence:
        """Only networks are eliminated, and they are real."""
        raise AssertionError("no complex matrix is eliminated")

    def unscaled(self, exponent: int) -> Evidence:
        """Only networks are eliminated, and those are not scaled."""
        raise AssertionError(f"no scaled matrix is eliminated; got 2^{exponent}")

    def intervals(self, threshold: float, confidence: float) -> Intervals:
        """At the threshold of the elimination with its bounds, elsewhere sampled."""
        return self._settled(threshold, self.sampled.intervals(threshold, confidence))

    def at_several(self, threshold: float, confidences: Sequence[float]) -> list[Intervals]:
        """As `intervals`, at the cost of the sampled run's."""
        return [self._settled(threshold, found) for found in self.sampled.at_several(threshold, confidences)]

    def _settled(self, threshold: float, found: Intervals) -> Intervals:
        if threshold != self.threshold:
            return found
        negative, _, positive = found
        return settle_negative(self.lower, self.upper, negative, positive, self.size, self.dead)

    def band(self, thresholds: Array, confidence: float) -> CountBand:
        """That of the sampled run."""
        return self.sampled.band(thresholds, confidence)
