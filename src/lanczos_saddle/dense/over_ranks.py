"""A dense matrix for inertia that lies with all ranks that share an operator, by columns: 4 N^2 / R bytes on each of R.

Twice as many for several thresholds. What was written out is compared with ten products of the operator, which also see
a lopsided one: one triangle does not.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from lanczos_saddle.dense.one_triangle import AGREES
from lanczos_saddle.dense.sylvester import FRACTION, PROBES, Sylvester
from lanczos_saddle.machine.journal import answered, current
from lanczos_saddle.operators.conversions import Convertible
from lanczos_saddle.operators.leading import Shared, shared_by
from lanczos_saddle.operators.operator import Operator, of_network
from lanczos_saddle.operators.scaling import times
from lanczos_saddle.structure import closed_form
from lanczos_saddle.structure.facts import dead_coordinates


@dataclass(frozen=True)
class DenseOverRanks(Convertible):
    """An assembled operator of which each rank has columns; itself an operator, as `Dense` is."""

    columns: Any  # a `sylvester.Elsewhere` that knows its norm and exponent
    generator: torch.Generator  # of test vectors
    products: int  # H @ v that were spent
    error: float  # |A - H|_2, except with probability 1e-11

    shape = property(lambda self: self.columns.shape)
    dtype = property(lambda self: self.columns.dtype)
    device = property(lambda self: self.columns.device)

    def __matmul__(self, v: Tensor, /) -> Tensor:
        product: Tensor = times(self.columns @ v, -self.columns.exponent)
        return product

    @property
    def norm(self) -> float:
        """|A|_F."""
        return float(self.columns.norm)

    @cached_property
    def _solver(self) -> Sylvester:
        return Sylvester(self.columns, generator=self.generator)

    def solver(self) -> Sylvester:
        """What counts at thresholds: at any number of them, or at one where it was assembled for one."""
        return self._solver


def by_columns(operator: Operator) -> bool:
    """Whether it is written out by columns whatever its size: already, or since its caller chose so."""
    shared = shared_by(operator)
    return isinstance(operator, DenseOverRanks) or (shared is not None and shared.always_columns)


def shares(operator: Operator, copies: int, *, alone: bool) -> Shared | None:
    """Who writes the operator out by columns; None where one process does. `alone`: it has room for the matrix.

    `copies`: 1 for one factorization, 2 for several. Raises ValueError where ranks must, and have no room.
    """
    shared = shared_by(operator)
    kept = current() is not None  # a state keeps the products of one process, which goes on from them
    if shared is None or (kept and alone and not shared.always_columns):
        return None
    takes = answered(f"by columns over ranks, {copies}", lambda: shared.takes_columns(operator, copies, alone=alone))
    return shared if takes else None


def assemble_over(
    shared: Shared,
    operator: Operator,
    copies: int,
    *,
    generator: torch.Generator | None,
    progress: bool,
    tolerance: float,
) -> DenseOverRanks:
    """The operator by columns. Cost: a product a column, dead coordinates left out, and ten to twenty beside.

    Raises ValueError where products are not finite, or do not agree with the columns, up to `tolerance` (absolute).
    """
    generator, spent, living = generator or torch.Generator().manual_seed(0), 0, None
    with torch.no_grad():
        if of_network(operator):
            dead, spent = dead_coordinates(operator), 2
            living = (~dead).nonzero().squeeze(1).cpu() if bool(dead.any()) and not bool(dead.all()) else None
        columns = shared.columns(operator, living, copies, generator)
        spent += columns.assemble(progress=progress)
        made = DenseOverRanks(columns, generator, 0, 0.0)
        agreement = closed_form.compare(operator, made, AGREES, vectors=PROBES)
    error = agreement.error / FRACTION
    if not agreement.holds and not error <= tolerance:
        raise ValueError(
            "the operator must be symmetric and stay the same: its products must agree with its lower triangle, "
            f"mirrored, to {AGREES:.0e} or to their own rounding; got a difference of {agreement.error:.1e} from "
            f"products where |H| is {columns.norm:.1e}: make them deterministic"
        )
    return DenseOverRanks(columns, generator, spent + agreement.products, error)
