"""Where the dead coordinates of a network lie: tensor by tensor, and in which pattern, which tells their cause.

A whole tensor is dead where this loss does not use it on these data. Columns are all weights from one input: it is zero
in all the data. Rows are all weights into one unit: it never fires, or nothing that it feeds is alive; of an embedding,
a token that never occurs. The rest are single entries, whose input and unit are never alive together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lanczos_saddle.operators.operator import as_operator
from lanczos_saddle.structure.facts import dead_coordinates


@dataclass(frozen=True)
class TensorRows:
    """One parameter tensor of the curvature matrix, and its rows of H that are zero, by pattern."""

    name: str
    shape: tuple[int, ...]
    parameters: int
    dead: int  # the sum of the next four
    unused: int  # in a tensor that is dead as a whole
    columns: int  # in columns that are: an input that is always zero
    rows: int  # in other rows that are: a unit that never fires
    entries: int  # others


def zero_rows(operator: Any, *, generator: torch.Generator | None = None) -> tuple[TensorRows, ...]:
    """The tensors of a `Hessian` or a `GaussNewton` in the order of theta, with what is dead in each; two products.

    Nothing for a matrix that is not one of named parameters, nor for one of several ranks. Rows and columns are those
    of the tensor as (first dimension, all others); a row or a column that is dead in both ways counts as a column.
    """
    problem = getattr(operator, "problem", None)
    if problem is None or not hasattr(problem, "names"):
        return ()
    dead = dead_coordinates(as_operator(operator), generator=generator).cpu()
    return tuple(_tensor(name, tuple(problem.shapes[name]), dead[problem.ranges[name]]) for name in problem.names)


def _tensor(name: str, shape: tuple[int, ...], dead: Tensor) -> TensorRows:
    count, zeros = dead.numel(), int(dead.sum())
    if zeros in (0, count):
        return TensorRows(name, shape, count, zeros, zeros, 0, 0, 0)
    grid = dead.view(shape[0], -1)
    wide = grid.shape[1] > 1
    columns = int(grid.all(dim=0).sum()) * len(grid) if wide else 0
    rest = grid[:, ~grid.all(dim=0)] if wide else grid
    rows = int(rest.all(dim=1).sum()) * rest.shape[1]
    return TensorRows(name, shape, count, zeros, 0, columns, rows, zeros - columns - rows)
