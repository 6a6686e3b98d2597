"""What one evaluation is made of: the operations of its graph, and the least precise type that they compute in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from lanczos_saddle.batches import Batch
    from lanczos_saddle.objective import Objective

FUSED = ("WeightNorm",)
"""Nodes of operations that are written out in elementary ones (`placement.WrittenOut`)."""

NODES = 200_000
"""Nodes of a graph that are looked at."""


@dataclass(frozen=True)
class Survey:
    """What is known of the graph of one evaluation; empty where it could not be made."""

    operations: frozenset[str]  # names of torch's nodes, such as "AddmmBackward0", and of functions of the user's
    custom: frozenset[str]  # those that are written in Python, by name
    arithmetic: torch.dtype  # the least precise floating-point type met

    @property
    def weight_norm(self) -> bool:
        """Whether the fused weight normalization is used, whose second derivative is wrong in torch 2.13.0."""
        return any(name.startswith(FUSED) for name in self.operations)


def survey(objective: Objective, batch: Batch) -> Survey:
    """Walk the graph of one evaluation by the user's own code; one evaluation of the batch."""
    try:
        with objective.placed_at(objective.theta), torch.enable_grad():
            return graph_of(objective.own_share(batch), objective.dtype)
    except torch.OutOfMemoryError:
        raise
    except Exception:  # what is wrong is said where it is needed
        return Survey(frozenset(), frozenset(), objective.dtype)


def graph_of(value: Tensor, dtype: torch.dtype) -> Survey:
    """What the graph behind a value is made of; `dtype` is that of the parameters."""
    names, custom, types = set[str](), set[str](), {dtype}
    for node in _nodes(value.grad_fn):
        name = type(node).__name__
        names.add(name)
        if isinstance(node, torch.autograd.function.BackwardCFunction):
            custom.add(name.removesuffix("Backward"))
        types |= {m.dtype for m in getattr(node, "_input_metadata", ()) if m.dtype.is_floating_point}
    return Survey(frozenset(names), frozenset(custom), max(types, key=lambda t: torch.finfo(t).eps))


def together(found: Sequence[Survey]) -> Survey:
    """What several graphs are made of."""
    return Survey(
        frozenset().union(*(s.operations for s in found)),
        frozenset().union(*(s.custom for s in found)),
        max((s.arithmetic for s in found), key=lambda t: torch.finfo(t).eps),
    )


def native(objective: Objective, batch: Batch, own: torch.dtype) -> torch.dtype:
    """The least precise type of one evaluation at the model's own tensors, as they are; `own` where it fails."""
    types = {own}
    try:
        with torch.enable_grad():
            value = objective.own_share(batch.to(objective.device, own))
            for node in _nodes(value.grad_fn):
                types |= {m.dtype for m in getattr(node, "_input_metadata", ()) if m.dtype.is_floating_point}
    except torch.OutOfMemoryError:
        raise
    except Exception:  # it is a note, no more
        return own
    return max(types, key=lambda t: torch.finfo(t).eps)


def _nodes(start: Any) -> Iterator[Any]:
    """The nodes of the graph behind one, each once."""
    seen, waiting = set[Any](), [start]
    while waiting and len(seen) < NODES:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        yield node
        waiting += [following for following, _ in node.next_functions]
