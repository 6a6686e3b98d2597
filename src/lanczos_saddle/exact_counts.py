"""Counts from all eigenvalues."""

from __future__ import annotations

import torch
from torch import Tensor

from lanczos_saddle.counts import Counts, Task
from lanczos_saddle.exact import exact_eigenvalues
from lanczos_saddle.intervals import Interval, combine
from lanczos_saddle.padding import SAFETY
from lanczos_saddle.preflight import OperatorCheck


def exact_counts(task: Task) -> Counts:
    """All three counts, and the eigenvalues for other thresholds."""
    values = exact_eigenvalues(task.operator, progress=task.progress)
    return task.counts(
        counts_from_eigenvalues(values, task.threshold, task.check),
        "exact",
        products=len(values),
        stopped="all eigenvalues are known",
        eigenvalues=values,
    )


def counts_from_eigenvalues(
    values: Tensor, threshold: float, check: OperatorCheck
) -> tuple[Interval, Interval, Interval]:
    """Exact counts; eigenvalues within the backward error of a threshold leave an interval."""
    size = len(values)
    # assembly: N columns, each with the noise of one product; solver: Weyl, with N eps |H|
    margin = SAFETY * size**0.5 * check.noise + size * torch.finfo(torch.float64).eps * float(values.abs().max())

    def beyond(x: Tensor) -> Interval:
        sure, count, possible = (int((x > threshold + m).sum()) for m in (margin, 0.0, -margin))
        return Interval(sure, float(count), possible)

    return combine(beyond(-values), beyond(values), size, 0)
