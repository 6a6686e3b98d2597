"""May this operator be counted at tau? What the errors of its products hide is judged here, in one place.

    noise of k steps   delta = 2 sqrt(k) (noise of one product + 8 eps |H|)                  (docs/method.md)
    resolved           tau >= 50 delta
    measured           where the operator can be had in float64 and its noise is measured on the finished run, only
                       what leaves no shift is refused beforehand: tau >= 7 delta for the delta that is expected
    defects            two products of one vector agree, and u'Hv = v'Hu: to sqrt(eps) of their size, or else
                       to tau / 50 in the Frobenius norm, which is no less than any |eigenvalue| of the defect

The second rule on defects is for networks whose loss is nearly zero: their curvature is smaller than what rounding does
to the terms that cancel in it, and where tau is far above that it can be counted all the same.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch

from lanczos_saddle.operators.fidelity import Fidelity
from lanczos_saddle.operators.scaling import times

SAFETY = 2.0
"""The largest noise seen on sample vectors, times this, is taken to bound the noise of every product."""

RESOLUTION = 50.0
"""A threshold below this many delta is refused: half a threshold's room would cost a sine of 0.04."""

USELESS = 7.0
"""Below this many delta no shift is left at all, and every mass would be between 0 and 1 (`padding.shifts`)."""

EXPECTED = 0.5
"""Of sqrt(k) times the noise along Gaussian vectors: what |E|_2 was on digits and MNIST networks, within 1.5."""


@dataclass(frozen=True)
class RunNoise:
    """What bounds |E|_2 of a run: measured on it, but for a chance of `failure`, or bounded by sample products."""

    bound: float  # absolute, in units of eigenvalues
    failure: float = 0.0  # 0 where it is not measured on the run

    @property
    def measured(self) -> bool:
        """Whether products with the finished run's vectors gave it."""
        return self.failure > 0

    def unscaled(self, exponent: int) -> RunNoise:
        """Of H, from that of 2^exponent H."""
        return replace(self, bound=times(self.bound, -exponent))


@dataclass(frozen=True)
class OperatorCheck:
    """What the preflight measured."""

    determinism: float  # relative
    asymmetry: float  # relative
    noise: float  # absolute, in units of eigenvalues
    noise_source: str  # "float64" or "additivity"
    scale: float  # a lower estimate of |H|, the largest |eigenvalue|
    products: int  # spent, those of the float64 reference included
    defect: float = 0.0  # Frobenius norm of a defect beyond sqrt(eps) of the operator, absolute; 0 where none is
    fidelity: Fidelity | None = None  # whether products are those of the user's function; None: of no function
    typical: float | None = None  # noise along Gaussian vectors alone, where that of a run can be measured on it

    def unscaled(self, exponent: int) -> OperatorCheck:
        """Of H, from that of 2^exponent H."""
        noise, scale, defect = (times(x, -exponent) for x in (self.noise, self.scale, self.defect))
        typical = None if self.typical is None else times(self.typical, -exponent)
        return replace(self, noise=noise, scale=scale, defect=defect, typical=typical)


def recurrence_noise(check: OperatorCheck, steps: int) -> float:
    """delta >= |E|_2 for k steps: sqrt(k) columns, each at most the noise of one product plus float64 rounding."""
    return SAFETY * math.sqrt(steps) * check.noise + rounding(check, steps)


def rounding(check: OperatorCheck, steps: int) -> float:
    """The part of `recurrence_noise` that float64 makes by itself."""
    return SAFETY * math.sqrt(steps) * 8 * torch.finfo(torch.float64).eps * check.scale


def expected_noise(check: OperatorCheck, steps: int) -> float:
    """What a run whose noise will be measured on it is expected to show, with what is large known beforehand."""
    return EXPECTED * math.sqrt(steps) * (check.typical or 0.0) + rounding(check, steps)


def resolved(check: OperatorCheck, steps: int) -> float:
    """The least threshold that the noise of so many steps, and a defect, let be counted."""
    noise = RESOLUTION * recurrence_noise(check, steps)
    if check.typical is not None:
        noise = min(noise, USELESS * expected_noise(check, steps))
    return max(noise, RESOLUTION * check.defect)


def deepest(threshold: float, check: OperatorCheck, size: int) -> int:
    """The most steps, at least 1 and at most N, whose noise a threshold still resolves (`check_resolution`)."""
    one = resolved(replace(check, defect=0.0), 1)  # it grows with the root of the steps
    return size if one * size**0.5 <= threshold else max(1, int((threshold / one) ** 2))


def check_resolution(threshold: float, check: OperatorCheck, steps: int) -> None:
    """Refuse a threshold that the noise of `steps` steps cannot resolve; raises ValueError."""
    least = resolved(check, steps)
    if threshold < least:
        times_noise, may = (RESOLUTION, "may") if check.typical is None else (USELESS, "are expected to")
        raise ValueError(
            f"the threshold must be at least {least:.1e}, {times_noise:g} times the noise that {steps} steps {may} "
            f"gather; got {threshold:.1e}: zero cannot mean less than the noise. Use float64 (dtype=torch.float64), "
            "fewer steps, or a larger threshold"
        )
