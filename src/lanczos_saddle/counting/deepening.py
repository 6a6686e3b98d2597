"""Deepen the recurrences until the intervals are good enough: extend, look, stop.

Stopping by what is seen is allowed here: the probes were fixed beforehand, and the brackets of every look hold for the
same probes, whatever the depth (they nest).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace

from lanczos_saddle.certificates.cauchy import Compression, compress
from lanczos_saddle.certificates.deflation import Deflation
from lanczos_saddle.certificates.intervals import Interval, sampling_width
from lanczos_saddle.counting.evidence import SampledEvidence
from lanczos_saddle.counting.run_noise import Measurement
from lanczos_saddle.krylov.lanczos import Lanczos
from lanczos_saddle.machine.progress import current, stage
from lanczos_saddle.operators.resolution import OperatorCheck, RunNoise, recurrence_noise

FIRST_LOOK, LOOK_GROWTH = 16, 1.25

INTERVAL = 300.0
"""Seconds after which a run is saved between two looks: what a killed one loses at most."""

SHOWN, SHARE = 30.0, 5e-4
"""Seconds between two looks for the eye alone, between those that count, where somebody listens: more where a look
takes more than this share of them."""

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
    seen = saved
    watched = run.operator.device.type == "cpu"  # elsewhere the answer would be waited for at every step
    with stage("lanczos", run.probes * (depth - run.steps), bound="at most", shown=progress) as told:
        glance = SHOWN
        while True:
            while look < run.steps:
                look = next_look(look)
            while run.steps < min(look, depth) and not (watched and run.failed):
                run.advance(run.steps + 1)
                if told.live and time.monotonic() - seen >= glance and run.steps < min(look, depth):
                    told.say(judge()[1])
                    seen = time.monotonic()
                if time.monotonic() - saved >= INTERVAL:
                    save()
                    saved = time.monotonic()
            began = time.monotonic()
            reason, shown = judge()
            glance = max(SHOWN, (time.monotonic() - began) / SHARE)
            told.say(shown)
            save()
            saved = seen = time.monotonic()
            if reason or run.steps >= depth:
                return reason or f"all {run.steps} steps made"
            look = next_look(look)


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
        noise, compression = RunNoise(bounded), None
        if final and self.measurement:
            with stage("noise of the run"):
                noise = self.measurement.of(self.run)
        delta = noise.bound
        if final and self.run.reorthogonalize:
            with stage("Cauchy bounds"):
                compression = compress(self.run, delta, self.check.scale)
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
            return self.run.ending, ""
        if self._spanned():
            return "the Krylov spaces span everything", ""
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
        shown = so_far(known, intervals, self.threshold, self.confidence) if current().live else ""
        return reason, shown

    def _spanned(self) -> bool:
        """Whether the basis spans a small space whole: Cauchy's bounds meet, or lack what lies at a threshold."""
        size = self.run.operator.shape[0]
        kept = self.run.reorthogonalize and self.deflation is None
        if not kept or size > SPANNED or self.run.probes * self.run.steps < size:
            return False
        whole = compress(self.run, recurrence_noise(self.check, self.run.steps), self.check.scale)
        return whole.well_known == size or all(sum(whole.sides(t)) == size for t in (-self.threshold, self.threshold))


Three = tuple[Interval, Interval, Interval]

_READ: ContextVar[tuple[tuple[str, str, str], Callable[[SampledEvidence, float, float], Three] | None]] = ContextVar(
    "lanczos_saddle_read", default=(("neg", "zero", "pos"), None)
)


@contextmanager
def read_as(read: Callable[[SampledEvidence, float, float], Three], *names: str) -> Iterator[None]:
    """How reports of runs in the block read evidence at a threshold with a confidence, and what the three are called.

    As the result that the block makes of it does: else they would be those of the matrix that is run.
    """
    outside = _READ.get()
    first, second, third = names or outside[0]
    _READ.set(((first, second, third), read))
    try:
        yield
    finally:
        _READ.set(outside)


def so_far(known: SampledEvidence, found: Three, threshold: float, confidence: float) -> str:
    """The three in a few words; they hold with the confidence of the count already, where nothing else is said.

    Brackets of the same probes hold at every depth; not promised before the end is noise that is measured then.
    """
    names, read = _READ.get()
    shown = found if read is None else read(known, threshold, confidence)
    text = ", ".join(f"{name} [{i.lower}, {i.upper}]" for name, i in zip(names, shown, strict=True))
    return f"so far {text}, no promise yet" if known.in_progress else f"so far {text}"


def next_look(look: int) -> int:
    """The steps at which a run is looked at after these."""
    return int(look * LOOK_GROWTH) + 1
