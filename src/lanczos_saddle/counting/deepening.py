"""Deepen the recurrences until the intervals are good enough: extend, look, stop.

Stopping by what is seen is allowed here: the probes were fixed beforehand, and the brackets of every look hold for the
same probes, whatever the depth (they nest).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from tqdm import tqdm

from lanczos_saddle.certificates.cauchy import Compression, compress
from lanczos_saddle.certificates.deflation import Deflation
from lanczos_saddle.certificates.intervals import sampling_width
from lanczos_saddle.counting.evidence import SampledEvidence
from lanczos_saddle.counting.run_noise import Measurement
from lanczos_saddle.krylov.lanczos import Lanczos
from lanczos_saddle.machine.journal import INTERVAL
from lanczos_saddle.operators.resolution import OperatorCheck, RunNoise, recurrence_noise

FIRST_LOOK, LOOK_GROWTH = 16, 1.25

SPANNED = 1024
"""Dimensions up to which every look asks whether the bases of all probes span everything."""


def deepened(
    run: Lanczos,
    depth: int,
    judge: Callable[[], tuple[str, str]],
    *,
    progress: bool,
    save: Callable[[], None] = lambda: None,
) -> str:
    """Run to at most `depth` steps, looking now and then; returns why it stopped. `save` is called at every look, and
    between two of them after `INTERVAL` seconds.

    judge() gives a reason to stop, or nothing, and what is known as text. Looks are at the same steps whether the run
    was resumed or not: so it stops where it would have stopped.
    """
    look, saved = FIRST_LOOK, time.monotonic()
    watched = run.operator.device.type == "cpu"  # elsewhere the answer would be waited for at every step
    with tqdm(total=depth, initial=run.steps, desc="lanczos", unit="step", disable=not progress) as bar:
        while True:
            while look < run.steps:
                look = _next_look(look)
            while run.steps < min(look, depth) and not (watched and run.failed):
                run.advance(run.steps + 1)
                bar.update()
                if time.monotonic() - saved >= INTERVAL:
                    save()
                    saved = time.monotonic()
            reason, shown = judge()
            bar.set_postfix_str(shown)
            save()
            saved = time.monotonic()
            if reason or run.steps >= depth:
                return reason or f"all {run.steps} steps made"
            look = _next_look(look)


@dataclass(frozen=True)
class Deepening:
    """One set of probes and what it is deepened for."""

    run: Lanczos
    threshold: float
    confidence: float
    precision: float  # wanted half-width of every interval, as a fraction of N
    check: OperatorCheck
    zeros: int
    negative_most: int | None
    enumerated: Compression | None = None
    deflation: Deflation | None = None
    measurement: Measurement | None = None  # of the run's noise, when it is finished

    def extend(self, depth: int, *, progress: bool, save: Callable[[], None]) -> str:
        """Run to at most `depth` steps, or until the intervals are good enough; returns why it stopped."""
        return deepened(self.run, depth, self._judge, progress=progress, save=save)

    def evidence(self, *, final: bool) -> SampledEvidence:
        """What is known now; `final` adds the compression for Cauchy bounds, where the basis was kept.

        With it the noise is measured where that was planned, which costs its products; else bounded.
        """
        bounded = recurrence_noise(self.check, self.run.steps)
        noise = self.measurement.of(self.run) if final and self.measurement else RunNoise(bounded)
        delta = noise.bound
        compression = compress(self.run, delta, self.check.scale) if final and self.run.reorthogonalize else None
        return SampledEvidence(
            self.run.tridiagonalization(),
            self.run.operator.shape[0] + self.zeros,
            self.zeros,
            delta,
            compression,
            self.negative_most,
            self.enumerated,
            self.deflation,
            failure=noise.failure,
            bounded=bounded,
        )

    def _judge(self) -> tuple[str, str]:
        """(a reason to stop or nothing, the intervals as text)."""
        if self.run.failed:
            return self.run.ending, "the intervals so far"
        if self._spanned():
            return "the Krylov spaces span everything", "all that products can tell"
        expected = self.measurement.expected(self.run) if self.measurement else None
        known = self.evidence(final=False)
        if expected is not None:
            known = replace(known, delta=expected, in_progress=True)
        masses = known.masses(self.threshold)
        intervals = known.intervals(self.threshold, self.confidence, masses)
        negative, _, positive = intervals
        floors = [
            sampling_width(mass, probes=self.run.probes, size=known.drawn, confidence=self.confidence)
            for mass in (masses.below, masses.up_to)
        ]
        reason = ""
        if (known.run.lengths < known.run.steps).all():
            reason = "every Krylov space has closed"
        elif max(i.width for i in intervals) <= 2 * self.precision * known.size:
            reason = "the wanted precision is reached"
        elif all(i.width <= 1.1 * floor + 1 for i, floor in zip((negative, positive), floors, strict=True)):
            reason = "probe noise dominates: more steps would not narrow the intervals"
        return reason, "  ".join(str(i) for i in intervals)

    def _spanned(self) -> bool:
        """Whether the basis spans a small space whole: Cauchy's bounds meet, or lack what lies at a threshold."""
        size = self.run.operator.shape[0]
        kept = self.run.reorthogonalize and self.deflation is None
        if not kept or size > SPANNED or self.run.probes * self.run.steps < size:
            return False
        whole = compress(self.run, recurrence_noise(self.check, self.run.steps), self.check.scale)
        return whole.well_known == size or all(sum(whole.sides(t)) == size for t in (-self.threshold, self.threshold))


def _next_look(look: int) -> int:
    return int(look * LOOK_GROWTH) + 1
