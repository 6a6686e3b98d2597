"""One triangle of the Hessian of any network, group of parameters by group (`networks.tails`), for a dense solve."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from lanczos_saddle.networks.hessian import Hessian
from lanczos_saddle.networks.problem import Problem
from lanczos_saddle.networks.tails import lower_columns

LEAST = 1000
"""Columns that are worth the recordings."""


def blocks(operator: object, dtype: torch.dtype, columns: int) -> Iterator[tuple[Tensor, Tensor, Tensor]] | None:
    """(rows, columns, H[rows, columns]) with every entry or its mirror image; None where it is not known how.

    Known: a Hessian of a model and a loss, that transforms of torch see through, in `dtype`, of `LEAST` parameters.
    What the model raises comes out of the iterator. Cost: less than N products (`networks.tails`).
    """
    if not isinstance(operator, Hessian) or operator.mode == "autograd" or operator.dtype != dtype:
        return None
    if not isinstance(operator.problem, Problem) or operator.shape[0] < LEAST:
        return None
    return _blocks(operator, columns)


def _blocks(operator: Hessian, columns: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    size = operator.shape[0]
    for start, first, below in lower_columns(operator, columns):
        yield torch.arange(start, size), torch.arange(first, first + below.shape[1]), below
