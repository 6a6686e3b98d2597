"""Columns of a Hessian from the diagonal down: what is before a layer need not be differentiated along it.

theta = (before, group, rest) in the order of the parameters, which is mostly that of the layers. For v in the group,

    H[group and rest, group] v = the gradient of <dL/dgroup, v> in (group, rest)

has neither tangents nor second derivatives of what is before the group, and of what is behind it no directions. With
one triangle all of a symmetric matrix is known, so every group is multiplied once. Against whole products of a block,
measured: a tenth of the time for two convolutions and a linear layer, 0.55 for two layers of a transformer.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.func import grad, vmap

from lanczos_saddle.machine.journal import made_once
from lanczos_saddle.networks.batches import Batch, form_of, map_tensors, tensors
from lanczos_saddle.networks.columns.cache import BlockProducts
from lanczos_saddle.networks.curvature import Curvature, in_groups, pullback
from lanczos_saddle.networks.problem import Problem

GROUPS = 5
"""About so many groups of parameters: each is recorded once, which costs some products."""

SMALL = 30
"""A smaller share of the parameters, as biases are, starts no group."""


class Tail:
    """H[start:, start:stop] of a Hessian, for parameters that follow each other."""

    def __init__(self, operator: Curvature, group: Sequence[str]) -> None:
        problem = operator.problem
        first = problem.names.index(group[0])
        self.operator, self.group, self.names = operator, tuple(group), problem.names[first:]
        self.start, self.stop = problem.ranges[group[0]].start, problem.ranges[group[-1]].stop
        self._blocks = BlockProducts(operator.memory // 2, operator.arithmetic)

    def product(self, rows: Tensor) -> Tensor:
        """(k, N - start) from rows (k, stop - start)."""
        operator, problem = self.operator, self.operator.problem
        padded = rows.new_zeros(len(rows), problem.size - self.start)  # a recording takes as many numbers as it gives
        padded[:, : self.stop - self.start] = rows
        total: Tensor = torch.zeros_like(padded)
        samples, columns = operator.plan(len(rows))
        directions: dict[Any, Any] = {}
        groups = [slice(start, start + columns) for start in range(0, len(rows), columns)]
        with problem.evaluating():
            for index, batch in enumerate(problem.batches(samples)):
                product, shared = self._as_function(batch)
                plain = _plainly(product, shared, operator.pieces(batch.size, len(rows))[1])
                name = index if problem.comes_again else None
                form = form_of((batch.inputs, batch.targets))
                for part in groups:
                    known = directions if len(groups) == 1 else {}
                    self._blocks.add(total[part], padded[part], known, product, shared, plain, name, samples, form)
        total /= problem.weight
        return total

    def _as_function(self, batch: Batch) -> tuple[Callable[..., Tensor], list[Tensor]]:
        """product(v, *shared), of a v that is padded and of every tensor that differs between batches."""
        operator = self.operator
        problem = operator.problem
        width = self.stop - self.start

        def product(v: Tensor, tail: Tensor, before: Tensor, weight: Tensor, *samples: Tensor) -> Any:
            given = iter(samples)
            inputs, targets = map_tensors(lambda _: next(given), (batch.inputs, batch.targets))
            there: Any = Batch(inputs, targets, batch.size, weight)  # type: ignore[arg-type]
            fixed = {n: before[problem.ranges[n]].view(problem.shapes[n]) for n in problem.names if n not in self.names}

            def slope(tail: Tensor) -> Tensor:
                parts = {n: tail[self._place(n)].view(problem.shapes[n]) for n in self.names}
                inner = self._inner({**problem.frozen, **fixed, **parts})
                found: Tensor = grad(lambda theta: inner.share(theta, there))(tail[:width])
                return found

            return pullback(slope, tail)[1](v[:width])

        tail, before = problem.theta[self.start :], problem.theta[: self.start]
        weight = torch.tensor(batch.weight, dtype=operator.dtype, device=operator.device)
        return product, [tail, before, weight, *tensors((batch.inputs, batch.targets))]

    def _place(self, name: str) -> slice:
        whole = self.operator.problem.ranges[name]
        return slice(whole.start - self.start, whole.stop - self.start)

    def _inner(self, frozen: dict[str, Tensor]) -> Problem:
        """The problem with the group as its theta."""
        inner = copy.copy(self.operator.problem)
        shapes = inner.shapes
        inner._take({n: torch.empty(shapes[n], device="meta") for n in self.group})
        inner.frozen = {n: t for n, t in frozen.items() if n not in self.group}
        inner.by_slices = True
        return inner


def _plainly(product: Callable[..., Tensor], shared: Sequence[Tensor], width: int) -> Callable[[Tensor], Tensor]:
    """The same without a recording, `width` columns at a time."""

    def one(v: Tensor) -> Tensor:
        return product(v, *shared)

    return partial(in_groups, vmap(one), width)


def groups_of(problem: Problem) -> list[list[str]]:
    """The parameters in order, cut where a group has enough of them."""
    found, size = [list[str]()], 0
    for name in problem.names:
        own = problem.sizes[name]
        if size and max(size, own) * GROUPS >= problem.size and own * SMALL >= problem.size:
            found, size = [*found, []], 0
        found[-1].append(name)
        size += problem.sizes[name]
    return found


def lower_columns(operator: Curvature, block: int) -> Iterator[tuple[int, int, Tensor]]:
    """(start, first column j, H[start:, j : j + k] (N - start, k)) for all columns, `block` at a time."""
    problem = operator.problem
    for group in groups_of(problem):
        tail = Tail(operator, group)
        width = tail.stop - tail.start
        for first in range(0, width, block):
            count = min(block, width - first)
            rows = torch.zeros(count, width, dtype=operator.dtype, device=operator.device)
            rows[torch.arange(count), first + torch.arange(count)] = 1
            column = tail.start + first
            found = made_once(f"columns from {column}", partial(_alone, tail, rows), operator.device)[0]
            yield tail.start, column, found.mT


def _alone(tail: Tail, rows: Tensor) -> list[Tensor]:
    return [tail.product(rows)]
