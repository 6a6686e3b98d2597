"""The answer: three intervals that hold together, and what it took to get them.

negative = #{lambda < -tau},   near_zero = #{|lambda| <= tau},   positive = #{lambda > tau}
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from importlib import import_module
from typing import Any

from torch import Tensor

from lanczos_saddle.certificates.intervals import Interval, halved
from lanczos_saddle.counting.beginning import Beginning
from lanczos_saddle.counting.evidence import CongruentEvidence, EliminatedEvidence, Evidence, SampledEvidence
from lanczos_saddle.counting.options import Budget, Options
from lanczos_saddle.krylov.lanczos import Lanczos
from lanczos_saddle.krylov.witness import Witness
from lanczos_saddle.operators.operator import Operator
from lanczos_saddle.operators.resolution import OperatorCheck, RunNoise
from lanczos_saddle.operators.scaling import times

LOG = logging.getLogger("lanczos_saddle")

PAGE = "lanczos_saddle.reports.page"
"""Where a result becomes a page. It stands below in the table of packages and uses this one: so it is named here and
found when it is asked for, as the face and the command line find what they name."""


def announce(plan: str) -> None:
    """Say what is about to be done, before the long part: to the log, which the command line shows on stderr."""
    LOG.info("plan: %s", plan)


@dataclass(frozen=True)
class Counts:
    """Three intervals that hold together with `confidence`, and what it took to get them."""

    negative: Interval
    near_zero: Interval
    positive: Interval
    threshold: float  # tau, in units of eigenvalues
    confidence: float
    method: str  # "exact", "lanczos" or "elimination": negative ones without chance, the others by lanczos
    size: int  # N
    dead: int  # coordinates whose row of H is zero, counted near zero
    products: int  # H @ v, everything included
    probes: int  # 0 for exact counts
    steps: int  # per probe
    seconds: float
    noise: float  # of one product, absolute, in units of eigenvalues
    check: OperatorCheck
    stopped: str  # why no more steps were made
    evidence: Evidence  # what the count knows: for other thresholds, from the same products
    spent: Mapping[str, int] = field(default_factory=dict)  # products by purpose: check, scale, pilot, probes, ...
    unsaved: str | None = None  # why the last state of the run is not in its file
    plan: str = ""  # what was chosen to be done with the budget, and the width that was foretold

    @property
    def eigenvalues(self) -> Tensor | None:
        """(N,) float64, ascending, where all are known."""
        return self.evidence.eigenvalues

    @property
    def run_noise(self) -> RunNoise | None:
        """What bounds the errors of all products of a sampled run, and whether it was measured on that run."""
        known = self.evidence
        known = known.sampled if isinstance(known, EliminatedEvidence) else known
        return known.noise if isinstance(known, SampledEvidence) else None

    @property
    def preconditioned(self) -> bool:
        """Whether an S was used."""
        known = self.evidence
        return isinstance(known.sampled if isinstance(known, EliminatedEvidence) else known, CongruentEvidence)

    def to_html(self, path: str | os.PathLike[str] | None = None, *, operator: Any = None) -> str:
        """One self-contained page with these counts and a slider over the threshold; written to `path`, if given.

        As `report` makes it of one or several. With the `operator` that was counted, a `Hessian`, the page has its
        tensors and what is dead in each. Cost: two products of `operator`, if given; that of `readings`.

        Raises ModuleNotFoundError where lanczos-saddle[report] is not installed; ValueError for another operator.
        """
        page: str = import_module(PAGE).report(self, path, operator=operator)
        return page

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
        compared = self.check.fidelity
        said = [] if compared is None or (compared.status == "agrees" and not compared.notes) else [str(compared)]
        return "\n".join([*lines, *said, f"N = {self.size}, {how}, {self.products} products, {self.seconds:.1f} s"])


class JointCounts(tuple[Counts, ...]):
    """Counts at several thresholds from one run, in the order in which they were asked for.

    All intervals of all of them are right together with `confidence`; each member states that of its own three.
    """

    confidence: float

    @classmethod
    def of(cls, counts: Iterable[Counts], confidence: float) -> JointCounts:
        """Together right with `confidence`."""
        made = cls(counts)
        made.confidence = confidence
        return made

    @property
    def products(self) -> int:
        """H @ v in all: the run is one."""
        return self[0].products

    def to_html(self, path: str | os.PathLike[str] | None = None, *, operator: Any = None) -> str:
        """All of them side by side on one page, as `Counts.to_html`."""
        page: str = import_module(PAGE).report(self, path, operator=operator)
        return page

    def __str__(self) -> str:
        said = f"{100 * self.confidence:g} % for all {len(self)} thresholds together"
        return "\n".join([*(str(counts) for counts in self), said])


class Interrupted(KeyboardInterrupt):
    """A count that was interrupted, and what it knew: `counts` holds as any other.

    Of several thresholds, `several` is what was known at each, and `counts` at the smallest. Of `count_in`, `inside` is
    what was known of the interval, and `counts` is of the shifted matrix.
    """

    def __init__(self, counts: Counts) -> None:
        super().__init__()
        self.counts = counts
        self.several: JointCounts | None = None
        self.inside: Any = None  # a `CountsIn`


@dataclass(frozen=True)
class Living:
    """The operator without its dead coordinates, its products watched; the whole one where all are dead."""

    operator: Operator
    dead: Tensor  # (N,) bool
    zeros: int  # dead coordinates

    @property
    def size(self) -> int:
        """N without them."""
        return len(self.dead) - self.zeros


@dataclass(frozen=True)
class Task:
    """What both methods need."""

    operator: Operator
    threshold: float
    check: OperatorCheck
    budget: Budget
    options: Options
    began: float
    beginning: Beginning  # what was found before it
    witness: Witness = field(default_factory=Witness)  # of the products that are made of it
    begun: list[Lanczos] = field(default_factory=list)  # the recurrence of the preflight, until it has served

    @property
    def thresholds(self) -> tuple[float, ...]:
        """All of the call, the smallest first."""
        return self.threshold, *sorted(self.threshold * times for times in self.options.beside)

    def at(self, thresholds: tuple[float, ...]) -> Task:
        """The same for some of them."""
        least, *others = sorted(thresholds)
        options = replace(self.options, beside=tuple(tau / least for tau in others))
        return replace(self, threshold=least, options=options)

    def counts(
        self,
        intervals: tuple[Interval, Interval, Interval],
        method: str,
        evidence: Evidence,
        *,
        dead: int = 0,
        running: Mapping[str, int] | None = None,
        probes: int = 0,
        steps: int = 0,
        stopped: str = "",
    ) -> Counts:
        """The result, with the costs closed; `running`: products of a run by purpose, not booked yet."""
        spent = self.budget.with_running(running or {})
        return Counts(
            *intervals,
            self.threshold,
            self.options.confidence,
            method,
            self.operator.shape[0],
            dead,
            sum(spent.values()),
            probes,
            steps,
            time.perf_counter() - self.began,
            self.check.noise,
            self.check,
            stopped,
            evidence,
            spent=spent,
        )


def halved_counts(counts: Counts) -> Counts:
    """The counts of a complex Hermitian operator from those of its real form, where every eigenvalue is there twice."""
    negative, near_zero, positive = halved(
        (counts.negative, counts.near_zero, counts.positive), counts.size, counts.dead
    )
    return replace(
        counts,
        negative=negative,
        near_zero=near_zero,
        positive=positive,
        size=counts.size // 2,
        dead=counts.dead // 2,
        evidence=counts.evidence.halved(),
    )


def unscaled_counts(counts: Counts, exponent: int) -> Counts:
    """The counts of H from those of 2^exponent H: the same, with every size in the units of H."""
    check = counts.check.unscaled(exponent)
    return replace(
        counts,
        threshold=times(counts.threshold, -exponent),
        noise=times(counts.noise, -exponent),
        check=check,
        evidence=counts.evidence.unscaled(exponent),
    )
