"""Counts from products alone: dead coordinates, Gaussian probes, Lanczos, brackets, Beta intervals.

The number of probes is fixed before they are drawn; only the depth of the recurrences adapts, which costs no
confidence because brackets nest (docs/method.md).
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch

from lanczos_saddle.adaptive import Deepening
from lanczos_saddle.counts import Counts, Task
from lanczos_saddle.intervals import Interval
from lanczos_saddle.lanczos import Lanczos
from lanczos_saddle.operator import Operator, Restricted
from lanczos_saddle.planning import STEPS, check_resolution, keep_basis, plan_depth, plan_probes
from lanczos_saddle.structure import dead_coordinates


def sampled_counts(
    task: Task,
    streams: dict[str, torch.Generator],
    *,
    precision: float,
    probes: int | None,
    steps: int | None,
    max_products: int | None,
    reorthogonalize: bool | Literal["auto"],
    most: int | None,
    checkpoint: str | Path | None,
) -> Counts:
    """Dead coordinates, then a plan that is fixed before probes are drawn, then recurrences."""
    size = task.operator.shape[0]
    dead = dead_coordinates(task.operator, generator=streams["dead"])
    alive = (~dead).nonzero().squeeze(1)
    zeros = size - len(alive)
    if zeros == size:
        return all_dead(task)
    living: Operator = Restricted(task.operator, alive) if zeros else task.operator
    m = plan_probes(probes, living, precision, task.confidence)
    depth = plan_depth(min(steps or STEPS, len(alive)), m, task.spent + 2, max_products)
    check_resolution(task.threshold, task.check, depth)
    keep = keep_basis(reorthogonalize, living, m, depth)
    gaussian = torch.randn(len(alive), m, generator=streams["probes"], dtype=torch.float64)
    run = Lanczos(living, gaussian, reorthogonalize=keep, capacity=depth)
    deepening = Deepening(run, task.threshold, task.confidence, precision, task.check, zeros, most)
    stopped = deepening.extend(depth, progress=task.progress, checkpoint=checkpoint)
    evidence = deepening.evidence(final=True)
    return task.counts(
        evidence.intervals(task.threshold, task.confidence),
        "lanczos",
        dead=zeros,
        products=2 + run.products,
        probes=m,
        steps=run.steps,
        stopped=stopped,
        evidence=evidence,
    )


def all_dead(task: Task) -> Counts:
    """The counts of an operator whose rows are all zero."""
    none, size = Interval(0, 0.0, 0), task.operator.shape[0]
    zero = Interval(size, float(size), size)
    return task.counts((none, zero, none), "lanczos", dead=size, products=2, stopped="every row is zero")
