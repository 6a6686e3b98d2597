"""What was seen at one step of training, and how it is told: to a dashboard, to a file of records, in a line."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from lanczos_saddle.counting.result import Counts

PREFIX = "hessian/"
"""Before every name that a dashboard is given."""

KIND = "watch"
"""Of the records, one a count."""

CLASSES = ("negative", "near_zero", "positive")


@dataclass(frozen=True)
class WatchedMoment:
    """The counts after so many steps of training, and what the watching cost until then."""

    step: int
    epoch: float | None
    loss: float  # mean over the watched samples, in eval mode and the count's precision; NaN where there is none
    counts: Counts
    seconds: float  # of this count, copy of the model included
    training: float  # seconds of training before it
    share: float  # seconds of all counts, this one included, as a fraction of those of training; infinite before any

    @property
    def degeneracy(self) -> float:
        """The share of eigenvalues near zero, at the best single estimate."""
        return self.counts.near_zero.estimate / self.counts.size

    def numbers(self) -> dict[str, float]:
        """Flat names and finite numbers, as `log_fn` gets them: hessian/negative, hessian/negative_lower, ..."""
        found: dict[str, float] = {}
        for name in CLASSES:
            interval = getattr(self.counts, name)
            found |= {name: interval.estimate, f"{name}_lower": interval.lower, f"{name}_upper": interval.upper}
        found |= {"degeneracy": self.degeneracy, "threshold": self.counts.threshold, "loss": self.loss}
        found |= {"seconds": self.seconds, "share": self.share}
        return {f"{PREFIX}{name}": float(value) for name, value in found.items() if math.isfinite(value)}

    def result(self) -> Mapping[str, Any]:
        """Numbers and plain mappings: the result of a record, and what `plot_training` draws."""
        counts = self.counts
        return {
            "step": self.step,
            "epoch": self.epoch,
            "loss": self.loss,
            "size": counts.size,
            "threshold": counts.threshold,
            "confidence": counts.confidence,
            "method": counts.method,
            **{name: asdict(getattr(counts, name)) for name in CLASSES},
            "training": self.training,
            "share": self.share,
        }

    def __str__(self) -> str:
        intervals = "  ".join(f"{getattr(self.counts, name)!s:<22}" for name in CLASSES)
        return f"{self.step:>8}  {self.loss:<9.4g}  {intervals}".rstrip()


HEAD = f"{'step':>8}  {'loss':<9}  {'negative':<22}  {'near zero':<22}  positive"


@dataclass(frozen=True)
class FailedCount:
    """A count that was due and could not be made, or not be told; training went on."""

    step: int
    reason: str  # the exception, in one line

    @classmethod
    def of(cls, step: int, error: BaseException) -> FailedCount:
        """Of whatever was raised."""
        said = " ".join(str(error).split())
        return cls(step, f"{type(error).__name__}: {said}" if said else type(error).__name__)
