"""Operations on a block of k tensors at once.

A block of k tensors of shape s is one tensor (k, *s): the block's dimension comes first, wherever it lies in memory.
Matrix products (`folded_products`) and convolutions fold it into a dimension of the operand that is not shared. Results
keep the memory order of the large product, which the next fold then finds without a copy: (samples, k, units) between
small layers of a network. What has no rule here is left to `torch.vmap`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from lanczos_saddle.networks.columns.convolutions import convolution, convolution_backward, gather, max_pool_backward
from lanczos_saddle.networks.columns.layout import Rule, behind, in_memory_order, mapped
from lanczos_saddle.networks.columns.matrix_products import addmm, bmm, large, mm

aten, prims = torch.ops.aten, torch.ops.prims

ELEMENTWISE = {prims.mul.default, prims.add.default}
"""Operations on broadcast tensors that torch does not tag as pointwise."""


def on_blocks(operation: Any, blocked: Sequence[bool], ranks: Sequence[int]) -> Rule:
    """`operation` on tensors of which some are blocks.

    Args:
        operation: an operation of torch on positional tensors and numbers.
        blocked: for every tensor among the flattened arguments, in order, whether it is a block.
        ranks: their numbers of dimensions without the block's.
    """
    rule = RULES.get(operation)
    if rule is None and (torch.Tag.pointwise in operation.tags or operation in ELEMENTWISE):
        rule = elementwise
    handled = rule(operation, tuple(blocked), tuple(ranks)) if rule is not None else None
    return handled if handled is not None else mapped(operation, blocked)


def elementwise(operation: Any, blocked: tuple[bool, ...], ranks: tuple[int, ...]) -> Rule:
    """Broadcasting, with the dimensions of blocks padded behind the block's own.

    Where a block is padded its memory order does not say where the block's dimension should lie in the result: where it
    lies in a block that is not, else first in large results and before the last one in others, as in the results of
    `times_columns`.
    """
    rank = max(ranks)
    if all(r == rank for b, r in zip(blocked, ranks, strict=True) if b):
        return operation  # type: ignore[no-any-return]
    order = (*range(1, rank), 0, rank)

    def call(*args: Any, **kwargs: Any) -> Any:
        flags, ready, full = iter(blocked), list(args), list[Tensor]()
        for place, arg in enumerate(args):
            if isinstance(arg, Tensor) and next(flags):
                ready[place] = arg.reshape(len(arg), *(1,) * (rank + 1 - arg.ndim), *arg.shape[1:])
                full += [arg] if arg.ndim > rank else []
        if full:
            ahead = in_memory_order(full[0])[0] == 0
        else:
            tensors = [arg for arg in ready if isinstance(arg, Tensor)]
            ahead = large(*(max(t.shape[d] if t.ndim >= -d else 1 for t in tensors) for d in (-2, -1)))
        if ahead:
            return operation(*ready, **kwargs)
        flags = iter(blocked)
        for place, arg in enumerate(ready):
            if isinstance(arg, Tensor) and next(flags):
                ready[place] = arg.permute(order)
            elif isinstance(arg, Tensor) and arg.ndim > 1:
                ready[place] = arg.unsqueeze(-2)
        result = operation(*ready, **kwargs)
        return result.permute(rank - 1, *range(rank - 1), rank)

    return call


# views and sums; the argument is the block


def shifted(method: Callable[..., Tensor], count: int = 1) -> Callable[..., Rule | None]:
    """A rule for an operation whose first `count` numbers are dimensions."""

    def rule(operation: Any, blocked: tuple[bool, ...], ranks: tuple[int, ...]) -> Rule | None:  # noqa: ARG001
        def call(x: Tensor, *args: Any) -> Tensor:
            return method(x, *(behind(ranks[0], d) for d in args[:count]), *args[count:])

        return call if ranks[0] else None

    return rule


def reshape(operation: Any, blocked: tuple[bool, ...], ranks: tuple[int, ...]) -> Rule:  # noqa: ARG001
    """(k, *s) -> (k, *shape); copies only where the memory order does not allow a view."""
    return lambda x, shape: x.reshape(len(x), *shape)


def transpose(operation: Any, blocked: tuple[bool, ...], ranks: tuple[int, ...]) -> Rule:  # noqa: ARG001
    """Of matrices; vectors stay."""
    return (lambda x: x.transpose(1, 2)) if ranks[0] == 2 else (lambda x: x)


def permute(operation: Any, blocked: tuple[bool, ...], ranks: tuple[int, ...]) -> Rule:  # noqa: ARG001
    """Dimensions of the tensors in another order."""
    return lambda x, dims: x.permute(0, *(behind(ranks[0], d) for d in dims))


def expand(operation: Any, blocked: tuple[bool, ...], ranks: tuple[int, ...]) -> Rule:  # noqa: ARG001
    """New dimensions come between the block's and the old ones."""

    def call(x: Tensor, shape: Sequence[int], **kwargs: Any) -> Tensor:  # noqa: ARG001
        padded = x.reshape(len(x), *(1,) * (len(shape) - ranks[0]), *x.shape[1:])
        return padded.expand(len(x), *shape)

    return call


def copied(operation: Any, blocked: tuple[bool, ...], ranks: tuple[int, ...]) -> Rule | None:  # noqa: ARG001
    """The second argument in the shape and type of the first, whose numbers do not matter."""
    if blocked != (False, True):
        return None
    spread = expand(None, (True,), ranks[1:])
    return lambda like, x, *flag: spread(x.to(like.dtype), like.shape)  # noqa: ARG005


def unsqueeze(operation: Any, blocked: tuple[bool, ...], ranks: tuple[int, ...]) -> Rule:  # noqa: ARG001
    """A new dimension among those of the tensors."""
    return lambda x, dim: x.unsqueeze(dim % (ranks[0] + 1) + 1)


def summed(operation: Any, blocked: tuple[bool, ...], ranks: tuple[int, ...]) -> Rule | None:  # noqa: ARG001
    """Sums and means over dimensions of the tensors; over all when none is named. The memory order stays."""
    if ranks[0] == 0:
        return None

    def call(x: Tensor, dims: Sequence[int] | None, keepdim: bool = False, **kwargs: Any) -> Any:
        over = {behind(ranks[0], d) for d in dims or range(ranks[0])}
        order = in_memory_order(x)
        result = operation(x.permute(order), [order.index(d) for d in over], True, **kwargs)
        result = result.permute([order.index(d) for d in range(x.ndim)])
        return result if keepdim else result.reshape([n for d, n in enumerate(x.shape) if d not in over])

    return call


def cloned(operation: Any, blocked: tuple[bool, ...], ranks: tuple[int, ...]) -> Rule | None:  # noqa: ARG001
    """In order of dimensions, the block's first where it is the slowest and otherwise before the last."""
    rank = ranks[0]

    def call(x: Tensor, **kwargs: Any) -> Tensor:  # noqa: ARG001
        if in_memory_order(x)[0] == 0:
            return x.contiguous()
        return x.permute(*range(1, rank), 0, rank).contiguous().permute(rank - 1, *range(rank - 1), rank)

    return call if rank > 1 else None


def total(operation: Any, blocked: tuple[bool, ...], ranks: tuple[int, ...]) -> Rule | None:  # noqa: ARG001
    """The sum of all entries of each tensor."""
    return (lambda x, **kwargs: x.sum(list(range(1, x.ndim)), **kwargs)) if ranks[0] else None


RULES: dict[Any, Callable[..., Rule | None]] = {
    aten.mm.default: mm,
    aten.addmm.default: addmm,
    aten.bmm.default: bmm,
    aten.convolution.default: convolution,
    aten.convolution_backward.default: convolution_backward,
    aten.gather.default: gather,
    aten.max_pool2d_with_indices_backward.default: max_pool_backward,
    aten.view.default: reshape,
    aten._unsafe_view.default: reshape,
    aten._reshape_alias.default: reshape,
    aten.t.default: transpose,
    aten.transpose.int: shifted(Tensor.transpose, 2),
    aten.permute.default: permute,
    aten.expand.default: expand,
    aten.copy.default: copied,
    aten.clone.default: cloned,
    aten.unsqueeze.default: unsqueeze,
    aten.squeeze.dim: shifted(Tensor.squeeze),
    aten.select.int: shifted(Tensor.select),
    aten.slice.Tensor: shifted(torch.ops.aten.slice.Tensor),
    aten.sum.dim_IntList: summed,
    aten.mean.dim: summed,
    aten.sum.default: total,
}
