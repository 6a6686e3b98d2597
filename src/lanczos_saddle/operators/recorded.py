"""An operator whose products are kept by the journal of the count that is being made (`machine.journal`)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from lanczos_saddle.machine.journal import Journal, current
from lanczos_saddle.operators.operator import Operator


@dataclass(frozen=True)
class Recorded:
    """The products of `base` under the name `name`; two operators of one name must be one matrix."""

    base: Operator
    name: str
    journal: Journal

    shape = property(lambda self: self.base.shape)
    dtype = property(lambda self: self.base.dtype)
    device = property(lambda self: self.base.device)

    def __matmul__(self, v: Tensor, /) -> Tensor:
        return self.journal.product(self.name, v, self.base.__matmul__)


def recorded(base: Operator, name: str) -> Operator:
    """The operator itself where no journal is kept."""
    journal = current()
    return base if journal is None else Recorded(base, name, journal)
