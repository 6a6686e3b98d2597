"""What is known of a symmetric matrix beyond its products: made once (`structure.know`), and carried along.

A plain matrix knows nothing, which is a value like others. Everything here is proved, not measured, and holds at the
parameters at which it was made.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from lanczos_saddle.operators.operator import Operator


@dataclass(frozen=True)
class ConvexBlock:
    """Coordinates whose own diagonal block of the matrix is positive semidefinite, and the rest."""

    layer: str  # the Linear module that gives the block its weights
    names: tuple[str, ...]
    index: Tensor  # (N_1,) int64, ascending positions in theta
    rest: Tensor  # (N - N_1,) int64, ascending


@dataclass(frozen=True)
class Knowledge:
    """Facts about one matrix; what is not known has the value that claims nothing."""

    negative_at_most: int | None = None  # eigenvalues below 0
    reason: str = ""  # of that bound
    block: ConvexBlock | None = None  # the largest one, or that of the layer that was asked for
    multiply_block: Callable[[Operator], Operator | None] | None = None  # the block by cheaper products, of a matrix
    curvature: Literal["hessian", "gauss-newton"] | None = None  # of a loss, in its parameters
    lowest: float = -math.inf  # a lower bound of that loss
    kinks: str | None = None  # a module at which its derivatives jump
    point: Callable[[], tuple[float, float]] | None = None  # (norm of the gradient, loss), in float64


NOTHING = Knowledge()
