"""What the caller of a count chose, and what products may be spent on: checked here, in one place, before any work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypedDict

import torch
from torch import Tensor

from lanczos_saddle.certificates.intervals import check_confidence, check_positive
from lanczos_saddle.defaults import CONFIDENCE, METHODS, PRECISION
from lanczos_saddle.machine.journal import hashed, is_journal
from lanczos_saddle.machine.progress import expect
from lanczos_saddle.machine.states import has_begun
from lanczos_saddle.machine.streams import check_generator
from lanczos_saddle.operators.operator import Operator
from lanczos_saddle.operators.scalars import is_several, maybe_real, maybe_whole, real, reals, shown
from lanczos_saddle.operators.vectors import refuse_in_slices, space_of
from lanczos_saddle.preconditioning.choice import check_preconditioner
from lanczos_saddle.preconditioning.congruence import Factor
from lanczos_saddle.structure.null_vectors import check_shape

Reorthogonalize = bool | Literal["auto"]

NUMBERS = ("threshold", "relative_threshold")
COUNTS = ("probes", "steps", "max_products", "negative_at_most")


class Asked(TypedDict, total=False):
    """Keywords of `count_eigenvalues` that another question hands on to it; defaults are those of `Options`."""

    threshold: float | Sequence[float] | None
    relative_threshold: float | Sequence[float] | None
    method: Literal["auto", "exact", "lanczos", "elimination"]
    confidence: float
    precision: float
    probes: int | None
    steps: int | None
    max_products: int | None
    reorthogonalize: Reorthogonalize
    preconditioner: Literal["auto", "ekfac", "subset"] | Factor | None
    generator: torch.Generator | None


def thresholds(threshold: Any, relative_threshold: Any) -> tuple[dict[str, Any], dict[str, tuple[float, ...]]]:
    """(both as numbers by name, the smallest of several; the several by name); raises ValueError as `reals`."""
    asked = {"threshold": threshold, "relative_threshold": relative_threshold}
    several = {name: reals(name, value) for name, value in asked.items() if is_several(value)}
    return {name: min(several[name]) if name in several else value for name, value in asked.items()}, several


@dataclass(frozen=True)
class Options:
    """The arguments of `count_eigenvalues`, which says what they mean; numbers are taken by value.

    Raises ValueError for what makes no sense whatever the matrix is; `check` for what it makes none for.
    """

    threshold: float | None = None
    relative_threshold: float | None = None
    method: str = "auto"
    confidence: float = CONFIDENCE
    precision: float = PRECISION
    probes: int | None = None
    steps: int | None = None
    max_products: int | None = None
    reorthogonalize: Reorthogonalize = "auto"
    negative_at_most: int | None = None
    enumerate_negative: bool = False
    null_vectors: Tensor | None = None
    preconditioner: str | Factor | None = "auto"
    generator: torch.Generator | None = None
    progress: bool = False
    state: Path | None = None
    beside: tuple[float, ...] = ()  # other thresholds that the same run answers for, in multiples of this one

    def __post_init__(self) -> None:
        take = {name: maybe_real for name in NUMBERS} | {"confidence": real, "precision": real}
        take |= dict.fromkeys(COUNTS, maybe_whole)
        for name, taken in take.items():
            object.__setattr__(self, name, taken(name, getattr(self, name)))

    def check(self, operator: Operator) -> None:
        """Refuse what makes no sense together, or for this matrix; raises ValueError."""
        self._check_numbers(operator.shape[0])
        self._check_choices()
        takes_vectors = self.enumerate_negative or self.null_vectors is not None
        check_preconditioner(self.preconditioner, operator, self.method, takes_vectors=takes_vectors)
        check_shape(self.null_vectors, operator.shape[0])
        if has_begun(self.state):
            self._check_begun()

    def on_slices(self, operator: Operator) -> Options:
        """The same, where vectors are in slices over ranks: by products alone; raises ValueError for what is not."""
        if space_of(operator) is None:
            return self
        asked = {
            f'method="{self.method}"': self.method in ("exact", "elimination"),
            "preconditioner": self.made is not None,
            "enumerate_negative": self.enumerate_negative,
            "null_vectors": self.null_vectors is not None,
        }
        for what in (name for name, wanted in asked.items() if wanted):
            refuse_in_slices(operator, what)
        if self.state is not None and is_journal(self.state):
            raise ValueError(
                f"{self.state} holds products of a count with whole vectors, which one on slices does not go on with: "
                "name another file"
            )
        return replace(self, method="lanczos", preconditioner=None)

    def jointly(self, asked: Sequence[float], operator: Operator) -> Options:
        """Those of one run at the smallest of several thresholds, each at its share of chance; these have the smallest.

        Raises ValueError for a threshold that makes no sense.
        """
        for value in asked:
            absolute = self.relative_threshold is None
            (replace(self, threshold=value) if absolute else replace(self, relative_threshold=value)).check(operator)
        least = min(asked)
        others = tuple(value / least for value in asked if value != least)
        return replace(self, confidence=1 - (1 - self.confidence) / len(asked), beside=others)

    def check_complex(self) -> None:
        """Refuse what belongs to real matrices; raises ValueError."""
        if self.null_vectors is not None:
            raise ValueError("null_vectors belong to real operators; got a complex Hermitian one: leave them out")
        if self.made is not None:
            raise ValueError("preconditioner belongs to real operators; got a complex Hermitian one: leave it out")

    def asked(self, operator: Operator, **others: Any) -> dict[str, Any]:
        """What products depend on, as a journal keeps it; drawn from no generator."""
        parent = self.generator or torch.Generator().manual_seed(0)
        own = None if self.made is None or isinstance(self.made, str) else type(self.made).__name__
        return {
            "N": operator.shape[0],
            "dtype": str(operator.dtype),
            **{name: getattr(self, name) for name in (*NUMBERS, *COUNTS)},
            "thresholds beside it": self.beside,
            "method": self.method,
            "confidence": self.confidence,
            "precision": self.precision,
            "reorthogonalize": self.reorthogonalize,
            "enumerate_negative": self.enumerate_negative,
            "preconditioner": self.preconditioner if own is None else own,
            "null_vectors": None if self.null_vectors is None else hashed(self.null_vectors),
            "generator": hashed(parent.get_state()),
            **others,
        }

    @property
    def made(self) -> Any:
        """The preconditioner that was asked for; None where it is left to the run."""
        automatic = isinstance(self.preconditioner, str) and self.preconditioner == "auto"
        return None if automatic else self.preconditioner

    @property
    def automatic(self) -> bool:
        """Whether the method is left open: nothing was chosen that only a recurrence has."""
        chosen = (self.probes, self.steps, self.max_products, self.state, self.made)
        return self.method == "auto" and all(option is None for option in chosen)

    @property
    def divides(self) -> bool:
        """Whether it is left open how products are divided, in a space that nothing was asked to be taken out of."""
        chosen = (self.probes, self.steps, self.null_vectors)
        return all(option is None for option in chosen) and not self.enumerate_negative

    @property
    def open(self) -> bool:
        """Whether a budget is all that was chosen, so that any method may spend it."""
        return self.method == "auto" and self.divides and self.made is None and self.state is None

    @property
    def nulls(self) -> int:
        """Columns of null vectors."""
        return 0 if self.null_vectors is None else self.null_vectors.shape[1]

    def _check_numbers(self, size: int) -> None:
        absolute, relative = self.threshold, self.relative_threshold
        if (absolute is None) == (relative is None):
            raise ValueError(
                "pass one of threshold (absolute) and relative_threshold (a fraction of the largest |eigenvalue|); "
                f"got threshold={absolute}, relative_threshold={relative}"
            )
        check_positive(absolute if absolute is not None else relative)
        if relative is not None and relative >= 1:
            raise ValueError(f"relative_threshold must be below 1, where every eigenvalue is near zero; got {relative}")
        check_confidence(self.confidence)
        if not 0 < self.precision < 1:
            raise ValueError(f"precision is a fraction of N, between 0 and 1; got {self.precision}")
        if self.probes is not None and self.probes < 1:
            raise ValueError(f"probes must be at least 1; got {self.probes}")
        if self.steps is not None and not 1 <= self.steps <= size:
            raise ValueError(f"steps must be between 1 and {size}, the dimension of the operator; got {self.steps}")
        if self.negative_at_most is not None and self.negative_at_most < 0:
            raise ValueError(f"negative_at_most bounds a count and is at least 0; got {self.negative_at_most}")

    def _check_begun(self) -> None:
        """Refuse what the run of a state, one of plain recurrences, does not go on with."""
        others: dict[str, tuple[Any, Any]] = {"preconditioner": (None, self.made)}
        if self.method == "exact":
            others["method"] = ("lanczos", "exact")
        for name, (kept, got) in others.items():
            if got is not None:
                raise ValueError(
                    f"a run goes on as it began; {self.state} was started with {name} = {kept}, got "
                    f"{got if isinstance(got, str) else shown(got)}: pass the same, or name another file"
                )

    def _check_choices(self) -> None:
        method, keep = self.method, self.reorthogonalize
        if not isinstance(method, str) or method not in METHODS:
            raise ValueError(f'method must be "auto", "exact", "lanczos" or "elimination"; got {method!r}')
        if not (isinstance(keep, bool) or (isinstance(keep, str) and keep == "auto")):
            raise ValueError(f'reorthogonalize must be True, False or "auto"; got {shown(keep)}')
        check_generator(self.generator)
        if not isinstance(self.enumerate_negative, bool):
            raise ValueError(f"enumerate_negative must be True or False; got {shown(self.enumerate_negative)}")


@dataclass
class Budget:
    """Products by purpose, and how many the caller allows in all."""

    most: int | None = None
    spent: dict[str, int] = field(default_factory=dict)
    reserved: int = 0  # set aside for a later part of the count

    def book(self, purpose: str, products: int) -> None:
        """Products that were made."""
        if products:
            self.spent[purpose] = self.spent.get(purpose, 0) + products
            if self.left is not None:
                expect(self.left + self.reserved + 1)  # the last one, which verifies the others, may be booked already

    def with_running(self, running: Mapping[str, int]) -> dict[str, int]:
        """Products by purpose, those of a run that is not booked yet among them."""
        purposes = [*self.spent, *(purpose for purpose in running if purpose not in self.spent)]
        both = {purpose: self.spent.get(purpose, 0) + running.get(purpose, 0) for purpose in purposes}
        return {purpose: products for purpose, products in both.items() if products}

    @property
    def total(self) -> int:
        """Products in all."""
        return sum(self.spent.values())

    @property
    def left(self) -> int | None:
        """Products that may still be made now; None where the caller sets no limit."""
        return None if self.most is None else self.most - self.total - self.reserved
