"""The two linear maps between slices and whole parameters, and their derivatives: each is the other's transpose.

    collect    every rank's parts of some parameters -> these parameters whole, on every rank
    spread     a whole array of every rank's own -> the parts of the sum over the ranks

A rank's theta is its slice of the parameters, its loss that of its own samples. The derivative of the sum of all losses
in a slice is the part of the sum of the ranks' derivatives in the whole parameter: the transpose of `collect` sums.
Blocks of k vectors are exchanged at once (the rule for vmap).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.autograd import Function


class Exchange(Protocol):
    """What the ranks do together; called by all, in the same order."""

    def collect(self, layer: int, rows: list[Tensor]) -> list[Tensor]:
        """The whole parameters (k, n) of a layer from this rank's parts (k, m) of them."""

    def spread(self, layer: int, rows: list[Tensor]) -> list[Tensor]:
        """This rank's parts (k, m) of the sums over ranks of whole arrays (k, n)."""


class Collect(Function):
    """The parameters of a layer, each flat (n,), from this rank's parts (m,) of them."""

    @staticmethod
    def forward(exchange: Exchange, layer: int, *parts: Tensor) -> tuple[Tensor, ...]:
        """Of one vector."""
        return _of_one(exchange.collect(layer, _one(parts)))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:  # noqa: ARG004
        """Nothing but who asks whom."""
        ctx.exchange, ctx.layer = inputs[:2]

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Any, ...]:
        """Sums over ranks."""
        return None, None, *spread(ctx.exchange, ctx.layer, *slopes)

    @staticmethod
    def jvp(ctx: Any, _: Any, __: Any, *tangents: Tensor) -> tuple[Tensor, ...]:
        """Tangents are collected as values are."""
        return collect(ctx.exchange, ctx.layer, *tangents)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], exchange: Exchange, layer: int, *parts: Tensor) -> Any:
        """All vectors of a block at once."""
        found = exchange.collect(layer, _many(info.batch_size, in_dims[2:], parts))
        return tuple(found), (0,) * len(found)


class Spread(Function):
    """This rank's parts (m,) of the sum over ranks of whole arrays (n,)."""

    @staticmethod
    def forward(exchange: Exchange, layer: int, *whole: Tensor) -> tuple[Tensor, ...]:
        """Of one vector."""
        return _of_one(exchange.spread(layer, _one(whole)))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:  # noqa: ARG004
        """Nothing but who asks whom."""
        ctx.exchange, ctx.layer = inputs[:2]

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Any, ...]:
        """Collects."""
        return None, None, *collect(ctx.exchange, ctx.layer, *slopes)

    @staticmethod
    def jvp(ctx: Any, _: Any, __: Any, *tangents: Tensor) -> tuple[Tensor, ...]:
        """Tangents are summed as values are."""
        return spread(ctx.exchange, ctx.layer, *tangents)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], exchange: Exchange, layer: int, *whole: Tensor) -> Any:
        """All vectors of a block at once."""
        found = exchange.spread(layer, _many(info.batch_size, in_dims[2:], whole))
        return tuple(found), (0,) * len(found)


collect: Callable[..., tuple[Tensor, ...]] = Collect.apply
spread: Callable[..., tuple[Tensor, ...]] = Spread.apply


def _one(parts: tuple[Tensor, ...]) -> list[Tensor]:
    return [_plain(part)[None] for part in parts]


def _of_one(rows: list[Tensor]) -> tuple[Tensor, ...]:
    return tuple(row[0] for row in rows)


def _many(number: int, dims: tuple[int | None, ...], parts: tuple[Tensor, ...]) -> list[Tensor]:
    """Rows (k, m) of every part; what is the same for all is repeated."""
    return [
        part.expand(number, -1) if dim is None else part.movedim(dim, 0)
        for part, dim in zip(map(_plain, parts), dims, strict=True)
    ]


def _plain(t: Tensor) -> Tensor:
    """The tensor, if its numbers are at hand: what is exchanged within a transform would be others."""
    if torch._C._functorch.is_functorch_wrapped_tensor(t):
        raise ValueError(
            "slices are exchanged for one block of vectors at a time; got a transform of torch.func around another one"
        )
    return t
