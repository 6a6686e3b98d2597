"""Ways to count, side by side on one problem: error against the exact counts, width, products, seconds, memory.

`METHODS` is the list; a row more there is a row more in every table. What fails is a row too, with its message.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from lanczos_saddle.counting.count import count_eigenvalues
from lanczos_saddle.counting.result import Counts
from lanczos_saddle.defaults import COMPARED_PROBES, COMPARED_STEPS
from lanczos_saddle.machine.measuring import measure
from lanczos_saddle.machine.progress import current

PROBES, STEPS = COMPARED_PROBES, COMPARED_STEPS
"""The budget at which methods that sample are compared, all of it spent: 800 products."""

FOREVER = 1e-6
"""A precision that no run of this budget reaches, so that none stops early."""

Three = tuple[int, int, int]


@dataclass(frozen=True)
class Method:
    """A way to count. `count(operator, threshold=, confidence=, generator=, **budget)`, the budget if it samples."""

    name: str  # that tables show
    count: Callable[..., Counts]
    samples: bool = True  # whether probes, steps and precision mean something to it


METHODS = (
    Method("lanczos, plain", partial(count_eigenvalues, method="lanczos", reorthogonalize=False)),
    Method("lanczos", partial(count_eigenvalues, method="lanczos", reorthogonalize=True)),
    Method("congruence", partial(count_eigenvalues, method="lanczos", preconditioner="subset")),
    Method("enumeration", partial(count_eigenvalues, method="lanczos", enumerate_negative=True)),
    Method("elimination", partial(count_eigenvalues, method="elimination")),
    Method("exact", partial(count_eigenvalues, method="exact"), samples=False),
)
"""This package's ways. "plain": without reorthogonalization, so without a basis."""


@dataclass(frozen=True)
class Answer:
    """What a method says of one count; None where it says nothing."""

    estimate: float | None = None
    lower: float | None = None
    upper: float | None = None


@dataclass(frozen=True)
class Row:
    """One method on one problem at one threshold; a method that failed says nothing and has its message."""

    method: str
    threshold: float  # tau, absolute
    negative: Answer = Answer()
    near_zero: Answer = Answer()
    positive: Answer = Answer()
    products: int | None = None  # columns v of H v, everything included
    seconds: float | None = None
    peak_bytes: int | None = None  # beyond what was held before the method began
    version: str | None = None  # of the library, where it is not this one
    failed: str | None = None

    @property
    def answers(self) -> tuple[Answer, Answer, Answer]:
        """Negative, near zero, positive."""
        return self.negative, self.near_zero, self.positive

    @property
    def width(self) -> float | None:
        """The widest of its intervals; None where it has none."""
        widths = [a.upper - a.lower for a in self.answers if a.lower is not None and a.upper is not None]
        return max(widths, default=None)

    def errors(self, exact: Three) -> list[float | None]:
        """Estimate - exact of each count."""
        return [None if a.estimate is None else a.estimate - e for a, e in zip(self.answers, exact, strict=True)]

    def holds(self, exact: Three) -> bool | None:
        """Whether every bound that it gives is right; None where it gives none."""
        bounds = [
            (a, e) for a, e in zip(self.answers, exact, strict=True) if a.lower is not None or a.upper is not None
        ]
        if not bounds:
            return None
        return all((a.lower is None or a.lower <= e) and (a.upper is None or e <= a.upper) for a, e in bounds)


def compare(
    operator: Any,
    methods: Sequence[Method],
    *,
    threshold: float,
    confidence: float,
    seed: int,
    probes: int = PROBES,
    steps: int = STEPS,
    progress: bool = False,
) -> list[Row]:
    """One row per method, each from the same seed, `probes` x `steps` products for those that sample (steps <= N).

    Misuse, which would fail alike for all, raises ValueError when no method succeeded.
    """
    rows: list[Row] = []
    refusals: list[ValueError] = []
    for method in methods:
        current().say(method.name)
        generator = torch.Generator().manual_seed(seed)
        budget = {"probes": probes, "steps": min(steps, operator.shape[0]), "precision": FOREVER}
        call = partial(
            method.count,
            operator,
            threshold=threshold,
            confidence=confidence,
            generator=generator,
            progress=progress,
            **(budget if method.samples else {}),
        )
        try:
            counts, cost = measure(call, operator.device)
        except ValueError as error:
            refusals.append(error)
            rows.append(Row(method.name, threshold, failed=str(error)))
        except (RuntimeError, MemoryError) as error:  # torch's out of memory is a RuntimeError
            rows.append(Row(method.name, threshold, failed=f"{type(error).__name__}: {error}"))
        else:
            rows.append(row_of(method.name, counts, cost.seconds, cost.peak_bytes))
    if refusals and len(refusals) == len(rows):
        raise refusals[0]
    return rows


def row_of(name: str, counts: Counts, seconds: float, peak_bytes: int | None) -> Row:
    """The row of this package's counts."""
    negative, near_zero, positive = (
        Answer(i.estimate, i.lower, i.upper) for i in (counts.negative, counts.near_zero, counts.positive)
    )
    return Row(name, counts.threshold, negative, near_zero, positive, counts.products, seconds, peak_bytes)


def table(rows: Sequence[Row], exact: Three | None) -> str:
    """Estimate (error) of each count, the widest interval, whether all bounds hold, and what it took."""
    wide = max([len(row.method) + len(row.version or "") for row in rows] + [20]) + 3
    heads = ("negative", "near zero", "positive")
    lines = [
        f"{'method':<{wide}}" + "".join(f"{h:>20}" for h in heads) + _costs("width", "holds", "products", "s", "MiB")
    ]
    if exact is not None:
        lines.append(f"{'exact counts':<{wide}}" + "".join(f"{count:>20}" for count in exact))
    for row in rows:
        name = f"{row.method} {row.version}" if row.version else row.method
        lines.append(f"{name:<{wide}}" + (f"failed: {row.failed}" if row.failed else _cells(row, exact)))
    return "\n".join(lines)


def _cells(row: Row, exact: Three | None) -> str:
    errors = row.errors(exact) if exact is not None else [None] * 3
    counts = [
        "-" if a.estimate is None else f"{round(a.estimate)}" + ("" if e is None else f" ({round(e):+d})")
        for a, e in zip(row.answers, errors, strict=True)
    ]
    held = None if exact is None else row.holds(exact)
    costs = _costs(
        _shown(row.width, ".0f"),
        "-" if held is None else ("yes" if held else "NO"),
        _shown(row.products, "d"),
        _shown(row.seconds, ".2f"),
        _shown(None if row.peak_bytes is None else row.peak_bytes / 2**20, ".0f"),
    )
    return "".join(f"{cell:>20}" for cell in counts) + costs


def _costs(width: str, holds: str, products: str, seconds: str, memory: str) -> str:
    return f"{width:>9}{holds:>7}{products:>10}{seconds:>10}{memory:>8}"


def _shown(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
