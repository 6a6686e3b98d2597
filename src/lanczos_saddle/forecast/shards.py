"""What a product takes where weights are cut over ranks: known from such a matrix of one rank, made for that.

    a rank's own    (1 + 2 k) n numbers: its slopes, k sums, and k more that are summed up; n of N coordinates
    a layer         its weights and slopes, and k directions, of the largest one
    activations     those of a chunk of samples, kept between the sweeps, and with k directions

The matrix has one rank and nobody to talk to: what `weight_parallel` refuses of a model is refused here, and its
products are timed and measured in the place of those with whole weights.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from lanczos_saddle.distributed.group import Group
from lanczos_saddle.distributed.sharded_hessian import ShardedHessian
from lanczos_saddle.distributed.weight_sources import Weights
from lanczos_saddle.distributed.weights import check_given
from lanczos_saddle.forecast.footprints import Multiplying
from lanczos_saddle.machine.turns import turn
from lanczos_saddle.networks.curvature import Curvature
from lanczos_saddle.networks.losses import own_loss

T = TypeVar("T")

LAYER, DIRECTION = 4, 1.25
"""Of the largest layer: its weights, slopes and what differentiates them; for each direction. Measured, as the next, on
perceptrons of 2 to 12 layers, with freed memory given back at once."""

PRIMAL, TANGENT = 5, 1.6
"""Of the saved bytes of a chunk: without directions, and for each."""

PASSES = 5
"""Times that a layer's numbers go between ranks for a chunk of samples: collected four times, and summed up once."""

BLOCKS = 3
"""The same for each column of a block: collected once, and summed up twice."""


class Alone:
    """A `Group` of one rank."""

    rank, size = 0, 1

    def gathered(self, thing: T) -> list[T]:
        """What each rank said."""
        return [thing]

    def largest(self, *numbers: int) -> list[int]:
        """The largest are its own."""
        return list(numbers)

    def agreed(self, numbers: list[int]) -> list[int]:
        """The same."""
        return numbers

    def attempted(self, work: Callable[[], T]) -> T:
        """What it raises is its own."""
        return work()


@dataclass(frozen=True)
class Shards:
    """The matrix of one rank as an `Operator` (N, N), and what its products take."""

    matrix: ShardedHessian
    layer: int  # numbers of the largest
    saved: int  # bytes that a graph keeps for a sample
    item: int  # bytes of a number

    shape = property(lambda self: self.matrix.shape)
    dtype = property(lambda self: self.matrix.dtype)
    device = property(lambda self: self.matrix.device)

    def __matmul__(self, v: Tensor, /) -> Tensor:
        return self.matrix.product_own(v)

    def multiplying(self, own: int, samples: int | None) -> Multiplying:
        """Of so many of the coordinates and of the samples."""

        def foretold(columns: int) -> int:
            most, width = self.chunk(columns)
            chunk = most if samples is None else min(most, samples)
            numbers = (1 + 2 * columns) * own + (LAYER + DIRECTION * width) * self.layer
            return int(self.item * numbers + chunk * self.saved * (PRIMAL + TANGENT * width))

        return Multiplying(foretold)

    def chunk(self, columns: int) -> tuple[int, int]:
        """(samples a chunk, columns a group), as the matrix plans them."""
        return self.matrix.plan(columns)

    def in_float64(self) -> Shards:
        """The same, in products of float64, of which the plan of a chunk is taken to be the same."""
        more = 8 // self.item
        return replace(self, item=8, saved=more * self.saved)

    def talk(self, columns: int, samples: int | None) -> float:
        """Numbers that go between ranks for each coordinate and column of a block."""
        chunks = 1 if samples is None else -(-samples // self.chunk(columns)[0])
        return chunks * (PASSES / columns + BLOCKS)


def shards_of(operator: Curvature) -> Shards:
    """Make the matrix; raises ValueError for what `weight_parallel` does not take. Cost: that of a few samples."""
    problem = operator.problem
    loss: Any = None if problem.loss is own_loss else problem.loss
    weigh = problem.batch_loss.batch_weight
    with turn():
        check_given(problem.model, loss, None, weigh, 1)
        group = cast(Group, Alone())
        matrix = ShardedHessian(group, problem.sizes, problem.dtype, problem.device)
        matrix.memory = operator.memory
        matrix.take(problem.model, Weights(problem.model, None))
        data = problem.data.resident
        matrix.settle(loss, problem.data.source if data is None else (data.inputs, data.targets), None, weigh)
    layer = max(sum(plan.sizes) for plan in matrix.exchange.plans)
    return Shards(matrix, layer, matrix.footprint.saved, torch.empty(0, dtype=problem.dtype).element_size())
