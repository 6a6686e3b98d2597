"""How many eigenvalues are negative, near zero, positive: the question this package answers.

    negative = #{lambda < -tau},   near_zero = #{|lambda| <= tau},   positive = #{lambda > tau}

Matrix-free: preflight, dead coordinates, then Gaussian probes whose number is fixed beforehand, Lanczos in lock-step,
Gauss-Radau brackets padded for the operator's noise, Beta intervals, deterministic bounds (docs/method.md). Only the
depth of the recurrences adapts, which costs no confidence because brackets nest. Exact: all eigenvalues.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from lanczos_saddle.adaptive import Deepening
from lanczos_saddle.evidence import Evidence
from lanczos_saddle.exact import check_memory, exact_eigenvalues
from lanczos_saddle.extremes import largest_magnitude
from lanczos_saddle.gauss_newton import GaussNewton
from lanczos_saddle.hessian import Hessian
from lanczos_saddle.intervals import Interval, check_positive, combine
from lanczos_saddle.lanczos import Lanczos
from lanczos_saddle.operator import Operator, Restricted, as_operator, in_float64
from lanczos_saddle.padding import SAFETY
from lanczos_saddle.planning import (
    STEPS,
    check_arguments,
    check_budget,
    check_choices,
    check_resolution,
    keep_basis,
    plan_depth,
    plan_probes,
)
from lanczos_saddle.preflight import OperatorCheck, check_operator
from lanczos_saddle.streams import Streams
from lanczos_saddle.structure import dead_coordinates, negative_bound

EXACT_SIZE = 3000
"""method="auto" is exact up to this dimension: seconds on two cores."""


@dataclass(frozen=True)
class Counts:
    """Three intervals that hold together with `confidence`, and what it took to get them."""

    negative: Interval
    near_zero: Interval
    positive: Interval
    threshold: float  # tau, in units of eigenvalues
    confidence: float
    method: str  # "exact" or "lanczos"
    size: int  # N
    dead: int  # coordinates whose row of H is zero, counted near zero
    products: int  # H @ v, everything included
    probes: int  # 0 for exact counts
    steps: int  # per probe
    seconds: float
    noise: float  # of one product, absolute, in units of eigenvalues
    check: OperatorCheck
    stopped: str  # why no more steps were made
    evidence: Evidence | None  # what a run knows: for other thresholds and a density from the same products
    eigenvalues: Tensor | None  # (N,) float64, ascending, of exact counts

    def __str__(self) -> str:
        rows = [
            ("negative", f"lambda < -{self.threshold:.3e}", self.negative),
            ("near zero", f"|lambda| <= {self.threshold:.3e}", self.near_zero),
            ("positive", f"lambda > {self.threshold:.3e}", self.positive),
        ]
        lines = [f"{name:>9}  {rule:<22} {interval}" for name, rule, interval in rows]
        how = (
            "exact"
            if self.method == "exact"
            else (f"{100 * self.confidence:g} % joint, {self.probes} probes x {self.steps} steps")
        )
        return "\n".join([*lines, f"N = {self.size}, {how}, {self.products} products, {self.seconds:.1f} s"])


def recount(counts: Counts, threshold: float) -> Counts:
    """The counts at another threshold, from the products already spent; same confidence, for this answer alone.

    The threshold must have been named before the run: of many thresholds, the one at which this run looks oddest is
    right less often. For thresholds found by looking, `counts.evidence.band` holds for all of them at once.

    Raises ValueError for a threshold that is not positive or that the operator's noise cannot resolve.
    """
    check_positive(threshold)
    if counts.eigenvalues is not None:
        answer = _from_eigenvalues(counts.eigenvalues, threshold, counts.check)
    elif counts.evidence is not None:
        check_resolution(threshold, counts.check, counts.steps)
        answer = counts.evidence.intervals(threshold, counts.confidence)
    else:  # every row is zero
        answer = (counts.negative, counts.near_zero, counts.positive)
    return replace(counts, negative=answer[0], near_zero=answer[1], positive=answer[2], threshold=threshold)


def count_eigenvalues(
    operator: Any,
    *,
    threshold: float | None = None,
    relative_threshold: float | None = None,
    method: Literal["auto", "exact", "lanczos"] = "auto",
    confidence: float = 0.95,
    precision: float = 0.01,
    probes: int | None = None,
    steps: int | None = None,
    max_products: int | None = None,
    reorthogonalize: bool | Literal["auto"] = "auto",
    negative_at_most: int | None = None,
    generator: torch.Generator | None = None,
    progress: bool = False,
    checkpoint: str | Path | None = None,
) -> Counts:
    """Count the eigenvalues below -tau, within [-tau, tau] and above tau, as intervals that hold jointly.

    Args:
        operator: anything `as_operator` takes: `Hessian`, a dense matrix, a linear operator.
        threshold: tau > 0, absolute. Or
        relative_threshold: tau as a fraction of the largest |eigenvalue|, which a separate short run finds first.
        method: "lanczos" (products alone), "exact" (all eigenvalues, N products and N^2 numbers of memory; the
            options of the recurrences mean nothing to it), or
            "auto": exact up to N = 3000, unless probes, steps, max_products or a checkpoint are given.
        confidence: of the three intervals together; at most a share 1 - confidence of runs misses any count.
        precision: stop when every half-width is below this fraction of N; it also plans the probes.
        probes: independent Gaussian probes, fixed beforehand; 4 to 64 if not given, planned from N and `precision`.
        steps: at most this many products per probe, at most N; 400 (or N) if not given.
        max_products: at most this many products in all, preflight included.
        reorthogonalize: keep the basis (probes * steps * N numbers); "auto": when it fits half the free memory.
        negative_at_most: a bound on the negative eigenvalues that the caller can prove; that of
            `structure.negative_bound` is used by itself where the operator has a recognized `problem`.
        generator: seeds everything random, drawn on the CPU; seed 0 if not given, so runs repeat.
        progress: a bar on stderr with the current intervals.
        checkpoint: a file from which the recurrences resume and to which they are saved at every look.

    Raises:
        ValueError: bad arguments; an operator that fails `check_operator`; a threshold that the operator's noise
            cannot resolve; memory that cannot suffice. All before the long part starts.
    """
    base = as_operator(operator)
    matrix_free = any(option is not None for option in (probes, steps, max_products, checkpoint))
    check_arguments(
        threshold, relative_threshold, confidence, precision, probes, steps, negative_at_most, base.shape[0]
    )
    check_choices(method, reorthogonalize, generator)
    began = time.perf_counter()
    streams = Streams(generator).split("check", "scale", "dead", "probes")
    exact = method == "exact" or (method == "auto" and not matrix_free and base.shape[0] <= EXACT_SIZE)
    check_budget(max_products, exact, probes, base.shape[0])
    if exact:
        check_memory(base)
        reference = in_float64(base)  # a tensor has no truth value
        base = base if reference is None else reference
    check = check_operator(base, generator=streams["check"])
    tau, spent = _threshold(base, threshold, relative_threshold, streams["scale"])
    task = _Task(base, tau, confidence, check, spent + check.products, progress, began)
    if exact:
        return _exact_counts(task)
    # a subclass may multiply by something else
    known = type(operator) in (Hessian, GaussNewton)
    bound = negative_bound(operator.problem) if known else None
    most = min((b for b in (negative_at_most, bound[0] if bound else None) if b is not None), default=None)
    return _lanczos_counts(
        task,
        streams,
        precision=precision,
        probes=probes,
        steps=steps,
        max_products=max_products,
        reorthogonalize=reorthogonalize,
        most=most,
        checkpoint=checkpoint,
    )


@dataclass(frozen=True)
class _Task:
    """What both methods need."""

    operator: Operator
    threshold: float
    confidence: float
    check: OperatorCheck
    spent: int  # products so far
    progress: bool
    began: float

    def counts(
        self,
        intervals: tuple[Interval, Interval, Interval],
        method: str,
        *,
        dead: int = 0,
        products: int = 0,
        probes: int = 0,
        steps: int = 0,
        stopped: str = "",
        evidence: Evidence | None = None,
        eigenvalues: Tensor | None = None,
    ) -> Counts:
        """The result, with the costs closed."""
        return Counts(
            *intervals,
            self.threshold,
            self.confidence,
            method,
            self.operator.shape[0],
            dead,
            self.spent + products,
            probes,
            steps,
            time.perf_counter() - self.began,
            self.check.noise,
            self.check,
            stopped,
            evidence,
            eigenvalues,
        )


def _exact_counts(task: _Task) -> Counts:
    values = exact_eigenvalues(task.operator, progress=task.progress)
    return task.counts(
        _from_eigenvalues(values, task.threshold, task.check),
        "exact",
        products=len(values),
        stopped="all eigenvalues are known",
        eigenvalues=values,
    )


def _from_eigenvalues(values: Tensor, threshold: float, check: OperatorCheck) -> tuple[Interval, Interval, Interval]:
    """Exact counts; eigenvalues within the backward error of a threshold leave an interval."""
    size = len(values)
    # assembly: N columns, each with the noise of one product; solver: Weyl, with N eps |H|
    margin = SAFETY * size**0.5 * check.noise + size * torch.finfo(torch.float64).eps * float(values.abs().max())

    def beyond(x: Tensor) -> Interval:
        sure, count, possible = (int((x > threshold + m).sum()) for m in (margin, 0.0, -margin))
        return Interval(sure, float(count), possible)

    return combine(beyond(-values), beyond(values), size, 0)


def _lanczos_counts(
    task: _Task,
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
        none = Interval(0, 0.0, 0)
        return task.counts(
            (none, Interval(size, float(size), size), none),
            "lanczos",
            dead=size,
            products=2,
            stopped="every row is zero",
        )
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


def _threshold(
    operator: Operator, threshold: float | None, relative: float | None, generator: torch.Generator
) -> tuple[float, int]:
    """(tau, products spent); tau is fixed before the probes are drawn."""
    if threshold is not None:
        return threshold, 0
    assert relative is not None
    largest, spent = largest_magnitude(operator, generator)
    if largest == 0.0:
        raise ValueError("a relative threshold needs a nonzero operator; every product was zero: pass threshold=")
    return relative * largest, spent
