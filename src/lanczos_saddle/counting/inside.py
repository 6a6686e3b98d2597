"""How many eigenvalues lie in [a, b], with both ends in; beside it, how many below and how many above.

    below = #{lambda < a},   inside = #{a <= lambda <= b},   above = #{lambda > b}

From products: H - m I with m = (a + b) / 2 is counted at tau = (b - a) / 2, where inside is what is near zero. The
masses of the two ends and their difference are three statements with two sides each; each side may fail with a sixth of
1 - confidence. What the rounding of m and tau moves the ends by is added to the noise of the run.
Exactly: all eigenvalues, or inertia at a and at b; nothing is shifted.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from lanczos_saddle.certificates.intervals import Interval, check_confidence, halved_three
from lanczos_saddle.counting.count import count_eigenvalues
from lanczos_saddle.counting.deepening import read_as
from lanczos_saddle.counting.evidence import Evidence, Intervals, SampledEvidence
from lanczos_saddle.counting.exact import exact_sides, takes_inertia
from lanczos_saddle.counting.options import Options
from lanczos_saddle.counting.result import Counts, Interrupted
from lanczos_saddle.defaults import CONFIDENCE, EXACT_SIZE, PRECISION
from lanczos_saddle.dense.exact import assemble_for, check_memory, for_inertia
from lanczos_saddle.krylov.preflight import preflight, unchanged
from lanczos_saddle.machine.journal import keeping
from lanczos_saddle.machine.locks import held
from lanczos_saddle.machine.states import chosen_state
from lanczos_saddle.operators.hermitian import Hermitian
from lanczos_saddle.operators.inference import differentiable
from lanczos_saddle.operators.leading import led
from lanczos_saddle.operators.operator import Operator, Shifted, as_operator, precise
from lanczos_saddle.operators.resolution import RESOLUTION, OperatorCheck
from lanczos_saddle.operators.scalars import real
from lanczos_saddle.operators.vectors import refuse_in_slices

METHODS = ("auto", "exact", "lanczos")


@dataclass(frozen=True)
class CountsIn:
    """Three intervals that hold together with `confidence`, for the eigenvalues of one interval and beside it."""

    ends: tuple[float, float]  # (a, b), in units of eigenvalues
    below: Interval  # #{lambda < a}
    inside: Interval  # #{a <= lambda <= b}
    above: Interval  # #{lambda > b}
    confidence: float
    method: str  # "exact" or "lanczos"
    size: int  # N
    products: int  # H @ v, everything included
    probes: int  # 0 for exact counts
    steps: int  # per probe
    seconds: float
    noise: float  # of one product, absolute, in units of eigenvalues
    check: OperatorCheck
    stopped: str  # why no more steps were made
    spent: Mapping[str, int] = field(default_factory=dict)  # products by purpose
    unsaved: str | None = None  # why the last state of the run is not in its file

    def __str__(self) -> str:
        low, high = self.ends
        rows = [
            ("below", f"lambda < {low:.6g}", self.below),
            ("inside", f"{low:.6g} <= lambda <= {high:.6g}", self.inside),
            ("above", f"lambda > {high:.6g}", self.above),
        ]
        width = max(len(rule) for _, rule, _ in rows)
        how = (
            f"{100 * self.confidence:g} % joint, {self.probes} probes x {self.steps} steps" if self.probes else "exact"
        )
        lines = [f"{name:>6}  {rule:<{width}}  {interval}" for name, rule, interval in rows]
        return "\n".join([*lines, f"N = {self.size}, {how}, {self.products} products, {self.seconds:.1f} s"])


@led
@differentiable
def count_in(
    operator: Any,
    a: float,
    b: float,
    *,
    method: Literal["auto", "exact", "lanczos"] = "auto",
    confidence: float = CONFIDENCE,
    precision: float = PRECISION,
    probes: int | None = None,
    steps: int | None = None,
    max_products: int | None = None,
    reorthogonalize: bool | Literal["auto"] = "auto",
    generator: torch.Generator | None = None,
    progress: bool = False,
    state: str | Path | None = None,
) -> CountsIn:
    """#{a <= lambda <= b} as an interval, and those below a and above b; all three hold together with `confidence`.

        count_in(H, 0.5, 2.0).inside

    Args:
        operator: anything `as_operator` takes.
        a, b: the ends, a < b, both finite, absolute; an eigenvalue at an end is inside. An interval far wider than the
            spectrum, or far from it, costs digits: take ends just beyond the eigenvalues then.
        method: "exact" (up to N = 3000 from all eigenvalues, beyond that by inertia at a and b), "lanczos" (products
            alone), or "auto": exact up to N = 3000 unless probes, steps, max_products or a state are given.
        others: as of `count_eigenvalues`; the run stops when every half-width is below `precision` of N.

    Exact counts leave an interval where an eigenvalue is so near an end that rounding could carry it over.
    Cost: that of a count at one threshold; every run is of H - (a + b) / 2 I.

    Raises ValueError for ends that are not a < b, and where `count_eigenvalues` does at tau = (b - a) / 2: an interval
    narrower than the noise holds nothing that can be told. Interrupted: its `inside` is what was known.
    """
    began, low, high = time.perf_counter(), *_ends(a, b)
    base = as_operator(operator)
    if not isinstance(method, str) or method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}; got {method!r}")
    middle, tau, error = _middle(low, high)
    plan: dict[str, Any] = {
        "threshold": tau,
        "method": "exact" if method == "exact" else "lanczos",
        "confidence": confidence,
        "precision": precision,
        "probes": probes,
        "steps": steps,
        "max_products": max_products,
        "reorthogonalize": reorthogonalize,
        "preconditioner": None,
        "generator": generator,
        "progress": progress,
        "state": chosen_state(state, None),
    }
    target, options = base.real if isinstance(base, Hermitian) else base, Options(**plan)
    options.check(target)
    chosen = any(plan[name] is not None for name in ("probes", "steps", "max_products", "state"))
    if method == "exact" or (method == "auto" and not chosen and base.shape[0] <= EXACT_SIZE):
        with held(options.state):
            asked = partial(options.asked, target, ends=[low, high])
            with keeping(options.state, asked, target.device) as journal:
                found = _exactly(target, (low, high), options)
                if journal is not None:
                    journal.flush()
                    found = replace(found, unsaved=journal.failure)
    else:

        def read(known: SampledEvidence, threshold: float, level: float) -> Intervals:
            """What would be told of it."""
            three = _three(known, threshold, level, error)
            return halved_three(three) if isinstance(base, Hermitian) else three

        try:
            with read_as(read, "below", "inside", "above"):
                counts = count_eigenvalues(_moved(target, middle), **plan)
        except Interrupted as stop:
            known = _sampled(stop.counts, (low, high), error)
            stop.inside = _halved(known) if isinstance(base, Hermitian) else known
            raise
        found = _sampled(counts, (low, high), error)
    found = replace(found, seconds=time.perf_counter() - began)
    return _halved(found) if isinstance(base, Hermitian) else found


def _ends(a: float, b: float) -> tuple[float, float]:
    """(a, b); raises ValueError where they are no interval."""
    low, high = real("a", a), real("b", b)
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ValueError(
            f"an interval needs finite ends a < b; got a = {low:g}, b = {high:g}: for all eigenvalues on one side of t "
            "take the other end just beyond the spectrum (extreme_eigenpairs), or inertia(H, t), in a shell "
            "`lanczos-saddle inertia PROBLEM --at T`"
        )
    return low, high


def _middle(low: float, high: float) -> tuple[float, float, float]:
    """(m, tau, how far m -+ tau are from the ends at most); the last computed without rounding."""
    middle, tau = low / 2 + high / 2, high / 2 - low / 2
    ends = (Fraction(middle) - Fraction(tau) - Fraction(low), Fraction(middle) + Fraction(tau) - Fraction(high))
    error = max(abs(end) for end in ends)
    return middle, tau, float(error) * (1 + 2**-50)


def _moved(base: Operator, middle: float) -> Operator:
    """H - m I: a dense matrix as such, everything else by its products."""
    if not isinstance(base, Tensor):
        return Shifted(base, middle)
    moved = base.detach().to(torch.float64, copy=True)
    moved.diagonal().sub_(middle)
    return moved


def _exactly(base: Operator, ends: tuple[float, float], options: Options) -> CountsIn:
    """From the dense matrix, after the same checks as every count."""
    refuse_in_slices(base, 'method="exact"')
    size, tau = base.shape[0], (ends[1] - ends[0]) / 2
    by_inertia = takes_inertia(base)
    check_memory(base, eigenvalues=not by_inertia)
    base = precise(base)
    found = preflight(base, threshold=tau, generator=options.generator)
    assembled = for_inertia if by_inertia else assemble_for
    dense = assembled(base, progress=options.progress, tolerance=2 * tau / RESOLUTION)
    intervals = exact_sides(dense, *ends, found.check)
    spent = {"check": found.check.products, "assembly": dense.products}
    if not isinstance(base, Tensor):
        unchanged(found, base)
        spent["check"] += 1
    products, noise = sum(spent.values()), found.check.noise
    said = "the inertia at both ends is known" if by_inertia else "all eigenvalues are known"
    return CountsIn(
        ends, *intervals, options.confidence, "exact", size, products, 0, 0, 0.0, noise, found.check, said, spent
    )


def _sampled(counts: Counts, ends: tuple[float, float], error: float) -> CountsIn:
    """From a count of H - m I at tau."""
    return CountsIn(
        ends,
        *_three(counts.evidence, counts.threshold, counts.confidence, error),
        counts.confidence,
        counts.method,
        counts.size,
        counts.products,
        counts.probes,
        counts.steps,
        counts.seconds,
        counts.noise,
        counts.check,
        counts.stopped,
        counts.spent,
        counts.unsaved,
    )


def _three(evidence: Evidence, tau: float, confidence: float, error: float) -> Intervals:
    """The three of the run; of evidence without a run, its own (all rows of H - m I are zero: every end is far)."""
    check_confidence(confidence)
    if isinstance(evidence, SampledEvidence):
        return evidence.less_sure(error).three(tau, confidence)
    return evidence.intervals(tau, confidence)


def _halved(found: CountsIn) -> CountsIn:
    """Of a complex Hermitian matrix, from that of its real form, where every eigenvalue is there twice."""
    below, inside, above = halved_three((found.below, found.inside, found.above))
    return replace(found, below=below, inside=inside, above=above, size=found.size // 2)
