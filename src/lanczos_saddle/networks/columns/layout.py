"""Blocks: k tensors of shape s as one tensor (k, *s), whose first dimension may lie anywhere in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, vmap
from torch.utils._pytree import tree_flatten, tree_unflatten

Rule = Callable[..., Any]


def mapped(operation: Any, blocked: Sequence[bool]) -> Rule:
    """The operation under `torch.vmap`; results that are None stay so."""

    def call(*args: Any, **kwargs: Any) -> Any:
        leaves, tree = tree_flatten((args, kwargs))
        places = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]

        absent: list[bool] = []

        def on_tensors(*tensors: Tensor) -> Any:
            for place, tensor in zip(places, tensors, strict=True):
                leaves[place] = tensor
            again, options = tree_unflatten(leaves, tree)
            results = operation(*again, **options)
            if isinstance(results, Tensor):
                return results
            absent.extend(r is None for r in results)
            return tuple(r for r in results if r is not None)

        results = vmap(on_tensors, in_dims=tuple(0 if b else None for b in blocked))(*(leaves[i] for i in places))
        if isinstance(results, Tensor):
            return results
        present = iter(results)
        return tuple(None if none else next(present) for none in absent)

    return call


def in_memory_order(x: Tensor) -> list[int]:
    """The dimensions of x, the slowest first."""
    strides = [stride if n > 1 else 0 for stride, n in zip(x.stride(), x.shape, strict=True)]
    return sorted(range(x.ndim), key=lambda dim: -strides[dim])


def by_memory(block: Tensor) -> tuple[int, ...]:
    """(0, 1, ...) or (1, 0, ...): the order of the first two dimensions in memory, the slower first."""
    return (1, 0) if block.stride(1) > block.stride(0) and block.shape[1] > 1 else (0, 1)


def behind(rank: int, dim: int) -> int:
    """The place in a block of dimension `dim` of its tensors."""
    return dim % max(rank, 1) + 1


def channels_last(x: Tensor) -> Tensor:
    """Images (n, c, h, w) of `tuned` types with their channels last in memory; others as they are."""
    return x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 and tuned(x) else x


def tuned(x: Tensor) -> bool:
    """Whether images are convolved by rules of ours: in float64 on a processor, where torch's own are slow."""
    return x.dtype == torch.float64 and x.device.type == "cpu"
