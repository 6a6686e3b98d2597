"""Exact counts: from all eigenvalues where N is small, by inertia at -tau and tau beyond.

    eigenvalues   4/3 N^3 flops, half of them bound by memory; any other threshold afterwards
    inertia       1/3 N^3 flops a threshold in matrix products, so two for the three counts; this threshold alone

Either way eigenvalues that rounding could carry over a threshold leave an interval.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from lanczos_saddle.certificates.intervals import Interval, check_confidence, check_positive, combine
from lanczos_saddle.counting.evidence import Array, CountBand, Evidence, FixedEvidence, Intervals, checked_band
from lanczos_saddle.counting.result import Counts, Task
from lanczos_saddle.dense.eigensolvers import LDL, expected_seconds
from lanczos_saddle.dense.exact import Dense, assemble_for, exact_eigenvalues, for_inertia
from lanczos_saddle.dense.over_ranks import DenseOverRanks, by_columns
from lanczos_saddle.dense.sylvester import Sylvester
from lanczos_saddle.machine.progress import expect
from lanczos_saddle.operators.operator import Operator
from lanczos_saddle.operators.resolution import RESOLUTION, SAFETY, OperatorCheck
from lanczos_saddle.operators.scalars import real
from lanczos_saddle.operators.scaling import times

INERTIA_SIZE = 3000
"""Inertia beyond this dimension; below it all eigenvalues take seconds and answer every threshold."""


def exact_counts(task: Task) -> Counts:
    """All three counts; with the eigenvalues, for other thresholds, up to N = 3000."""
    # |A - A'| / 2 is the defect
    expect(None, 2 * expected_seconds(task.operator.shape[0], LDL, torch.device("cpu")))
    by_inertia, options = takes_inertia(task.operator), task.options
    assembled = for_inertia if by_inertia else assemble_for
    dense = assembled(task.operator, progress=options.progress, tolerance=2 * task.threshold / RESOLUTION)
    size = dense.shape[0]
    # the error of a closed form is more noise of the same kind
    noise = max(task.check.noise, dense.error / (SAFETY * math.sqrt(size)))
    task = replace(task, check=replace(task.check, noise=noise))
    if by_inertia:
        norm = dense.norm  # taken before the factors take its place
        solver, error = dense.solver(), _assembly_error(size, task.check)
        below, above = (_sides(solver, t, error, norm) for t in (-task.threshold, task.threshold))
        intervals = combine(below[0], above[1], size, 0)
        stopped = "the inertia at -tau and tau is known"
        known = FixedEvidence(
            task.threshold,
            intervals,
            size,
            0,
            f"inertia at N = {size} answers at one threshold: assemble once and count again, "
            "count_eigenvalues(assemble(H), threshold=..., method='exact'), or take exact_eigenvalues(H)",
        )
        spent = 0 if dense is task.operator else dense.products  # else booked by who assembled it
        return task.counts(intervals, "exact", known, running={"assembly": spent}, stopped=stopped)
    values = exact_eigenvalues(dense, overwrite=True)
    spectrum = SpectrumEvidence(values, task.check)
    return task.counts(
        spectrum.intervals(task.threshold, task.options.confidence),
        "exact",
        spectrum,
        running={"assembly": dense.products},
        stopped="all eigenvalues are known",
    )


@dataclass(frozen=True)
class SpectrumEvidence(Evidence):
    """All eigenvalues, and what rounding may have done to them."""

    values: Tensor  # (N,) float64, ascending
    check: OperatorCheck

    @property
    def eigenvalues(self) -> Tensor:
        """(N,) float64, ascending."""
        return self.values

    def intervals(self, threshold: float, confidence: float) -> Intervals:
        """Exact counts at any threshold; eigenvalues within the backward error of it leave an interval."""
        threshold = real("threshold", threshold)
        check_positive(threshold)
        check_confidence(real("confidence", confidence))
        return counts_from_eigenvalues(self.values, threshold, self.check)

    def band(self, thresholds: Array, confidence: float) -> CountBand:
        """The staircase at these thresholds, with what rounding leaves open."""
        asked = checked_band(thresholds, confidence)
        margin, values = eigenvalue_margin(self.values, self.check), self.values.cpu().numpy()
        lower, upper = (np.searchsorted(values, asked + shift, side="right") for shift in (-margin, margin))
        return CountBand(asked, lower, upper, confidence)

    def halved(self) -> SpectrumEvidence:
        """Every second eigenvalue."""
        return replace(self, values=self.values[::2].clone())

    def unscaled(self, exponent: int) -> SpectrumEvidence:
        """Eigenvalues and noise in the units of H."""
        return SpectrumEvidence(times(self.values, -exponent), self.check.unscaled(exponent))


def takes_inertia(operator: Operator) -> bool:
    """Whether an exact count is by inertia: beyond N = 3000, and by columns over ranks."""
    return operator.shape[0] > INERTIA_SIZE or by_columns(operator)


def exact_sides(dense: Dense | DenseOverRanks, low: float, high: float, check: OperatorCheck) -> Intervals:
    """(#{lambda < low}, #{low <= lambda <= high}, #{lambda > high}) of an assembled matrix, whose numbers are lost.

    All eigenvalues up to N = 3000, beyond that inertia at both ends; `check` says how exact products were.
    """
    size = dense.shape[0]
    check = replace(check, noise=max(check.noise, dense.error / (SAFETY * math.sqrt(size))))
    if isinstance(dense, DenseOverRanks) or size > INERTIA_SIZE:
        norm = dense.norm
        solver, error = dense.solver(), _assembly_error(size, check)
        return combine(_sides(solver, low, error, norm)[0], _sides(solver, high, error, norm)[1], size, 0)
    values = exact_eigenvalues(dense, overwrite=True)
    margin = eigenvalue_margin(values, check)
    return combine(_beyond(-values, -low, margin), _beyond(values, high, margin), size, 0)


def _beyond(x: Tensor, t: float, margin: float) -> Interval:
    """#{x > t} where each x is known to `margin`."""
    sure, count, possible = (int((x > t + m).sum()) for m in (margin, 0.0, -margin))
    return Interval(sure, float(count), possible)


def _sides(solver: Sylvester, t: float, error: float, norm: float) -> tuple[Interval, Interval]:
    """(eigenvalues below t, eigenvalues above t) of every H + E, |E|_2 <= error; |H|_2 <= norm.

    Where an eigenvalue of H is too close to t, H - t I is factored at t - s and t + s as well, with s > margin + error:
    what lies below t - s + margin lies below t whatever E is, and what does not lie above t + s - margin may.
    Raises ValueError where the arithmetic overflows, so that no margin is known.
    """
    found = solver.at(t)
    below, above = found
    if found.holds_for(error):
        return Interval(below, float(below), below), Interval(above, float(above), above)
    size, s = len(solver.matrix), 2 * error + _rounding(len(solver.matrix), norm + abs(t))
    while True:
        left, right = solver.at(t - s), solver.at(t + s)
        wide = left.margin + right.margin  # no less than either; NaN where one of them is
        if not math.isfinite(wide + s):
            raise ValueError(
                f"the error of a factorization must be finite; got {wide} for H - t I at t = {t:.3g} -+ {s:.3g} with "
                f"|H| up to {norm:.1e}: multiply the loss by a number that brings |H| near 1"
            )
        if max(left.margin, right.margin) + error < s:
            break
        s *= 2
    least, most = left.below, size - right.above
    under = Interval(least, float(min(max(below, least), most)), most)
    least, most = right.above, size - left.below
    return under, Interval(least, float(min(max(above, least), most)), most)


def counts_from_eigenvalues(values: Tensor, threshold: float, check: OperatorCheck) -> Intervals:
    """Exact counts; eigenvalues within the backward error of a threshold leave an interval."""
    size, margin = len(values), eigenvalue_margin(values, check)
    return combine(_beyond(-values, threshold, margin), _beyond(values, threshold, margin), size, 0)


def eigenvalue_margin(values: Tensor, check: OperatorCheck) -> float:
    """What rounding can have done to each computed eigenvalue: of the products, and of the dense solver."""
    return _assembly_error(len(values), check) + _rounding(len(values), float(values.abs().max()))


def _assembly_error(size: int, check: OperatorCheck) -> float:
    """|E|_2 of the assembled matrix: N columns, each with the noise of one product."""
    return SAFETY * math.sqrt(size) * check.noise


def _rounding(size: int, norm: float) -> float:
    """N eps |H|: the backward error of a dense solver."""
    return size * torch.finfo(torch.float64).eps * norm
