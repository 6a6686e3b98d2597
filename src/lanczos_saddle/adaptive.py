"""Deepen the recurrences until the intervals are good enough: extend, look, stop.

Stopping by what is seen is allowed here: the probes were fixed beforehand, and the brackets of every look hold for the
same probes, whatever the depth (they nest). The masses of all looks are intersected.
"""

from __future__ import annotations

from pathlib import Path

from tqdm import tqdm

from lanczos_saddle.cauchy import compress
from lanczos_saddle.intervals import (
    Bounds,
    Interval,
    Masses,
    cauchy_bounds,
    certified_masses,
    joint_intervals,
    sampling_width,
)
from lanczos_saddle.lanczos import Lanczos
from lanczos_saddle.padding import recurrence_noise
from lanczos_saddle.preflight import OperatorCheck

FIRST_LOOK, LOOK_GROWTH = 16, 1.25


class Deepening:
    """One set of probes, one threshold, and the intervals as they stand."""

    def __init__(self, run: Lanczos, threshold: float, check: OperatorCheck, confidence: float, precision: float,
                 zeros: int, most: int | None) -> None:
        self.run, self.threshold, self.check = run, threshold, check
        self.confidence, self.precision = confidence, precision
        self.zeros, self.most = zeros, most
        self.size = run.operator.shape[0]
        self.masses: Masses | None = None
        self.probes = run.probes

    def extend(self, depth: int, progress: bool, checkpoint: str | Path | None) -> str:
        """Run to at most `depth` steps; returns why it stopped. A checkpoint that exists is resumed."""
        if checkpoint is not None and Path(checkpoint).exists():
            self.run.resume(checkpoint)
        look = max(FIRST_LOOK, self.run.steps)
        with tqdm(total=depth, initial=self.run.steps, desc="lanczos", unit="step", disable=not progress) as bar:
            while True:
                look = min(look, depth)
                while self.run.steps < look:
                    self.run.extend(self.run.steps + 1)
                    bar.update()
                reason = self._look()
                bar.set_postfix_str("  ".join(str(i) for i in self.intervals()))
                if checkpoint is not None:
                    self.run.save(checkpoint)
                if reason or look == depth:
                    return reason or f"all {depth} steps made"
                look = int(look * LOOK_GROWTH) + 1

    def intervals(self, *, final: bool = False) -> tuple[Interval, Interval, Interval]:
        """The three intervals as they stand; `final` adds the Cauchy bounds."""
        assert self.masses is not None
        bounds = Bounds(negative_most=self.most)
        if final and self.run.reorthogonalize:
            compression = compress(self.run, self._delta(), self.check.scale)
            bounds = cauchy_bounds(compression.sides(-self.threshold), compression.sides(self.threshold), self.size,
                                   self.most)
        return joint_intervals(self.masses, bounds, probes=self.probes, size=self.size, zeros=self.zeros,
                               confidence=self.confidence)

    def _delta(self) -> float:
        return recurrence_noise(self.check, self.run.steps)

    def _look(self) -> str:
        """Bring the masses up to date; returns a reason to stop, or nothing."""
        run = self.run.tridiagonalization()
        masses = certified_masses(run, self.threshold, self._delta())
        self.masses = masses if self.masses is None else self.masses.intersect(masses)
        if (run.lengths < run.steps).all():
            return "every Krylov space has closed"
        negative, near_zero, positive = self.intervals()
        total = self.size + self.zeros
        if max(i.width for i in (negative, near_zero, positive)) <= 2 * self.precision * total:
            return "the wanted precision is reached"
        floors = [sampling_width(b, probes=run.probes, size=self.size, confidence=self.confidence)
                  for b in (self.masses.below, self.masses.up_to)]
        if all(i.width <= 1.1 * floor + 1 for i, floor in zip((negative, positive), floors, strict=True)):
            return "probe noise dominates: more steps would not narrow the intervals"
        return ""
