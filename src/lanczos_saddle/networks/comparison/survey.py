"""What one evaluation is made of: the operations of its graph, and the least precise type that they compute in."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from lanczos_saddle.networks.batches import Batch

Objective: TypeAlias = Any
"""That of `objective`, which surveys itself."""

FUSED = ("WeightNorm",)
"""Nodes of operations that are written out in elementary ones (`placement.WrittenOut`)."""

PADDED = "PaddedEmbeddingBackward"
"""In place of a node: an embedding with `padding_idx` whose weight is computed."""

NODES = 200_000
"""Nodes of a graph that are looked at."""


@dataclass(frozen=True)
class Survey:
    """What is known of the graph of one evaluation; empty where it could not be made."""

    operations: frozenset[str]  # names of torch's nodes, such as "AddmmBackward0", and of functions of the user's
    custom: frozenset[str]  # those that are written in Python, by name
    arithmetic: torch.dtype  # the least precise floating-point type met
    still: tuple[tuple[str, int, int], ...] = ()  # rows of embeddings that are left out: (parameter, row, its length)
    sparse: bool = False  # whether an embedding gives sparse gradients

    @property
    def weight_norm(self) -> bool:
        """Whether the fused weight normalization is used, whose second derivative is wrong in torch 2.13.0."""
        return any(name.startswith(FUSED) for name in self.operations)


def graph_of(value: Tensor, objective: Objective) -> Survey:
    """What the graph behind a value is made of, while parameters are placed in the user's own tensors."""
    names, custom, types = set[str](), set[str](), {objective.dtype}
    still, sparse = set[tuple[str, int, int]](), False
    live = objective.live()
    leaves = {id(live[name]): name for name in objective.names}
    for node in _nodes(value.grad_fn):
        name = type(node).__name__
        names.add(name)
        if name == "EmbeddingBackward0":
            sparse = sparse or bool(node._saved_sparse)
            left_out = _left_out(node, leaves)
            still |= left_out or set()
            names |= {PADDED} if left_out is None else set()
        if isinstance(node, torch.autograd.function.BackwardCFunction):
            custom.add(name.removesuffix("Backward"))
    types |= _types(value)
    worst = max(types, key=lambda t: torch.finfo(t).eps)
    return Survey(frozenset(names), frozenset(custom), worst, tuple(sorted(still)), sparse)


def slope_scale(objective: Objective, theta: Tensor, batch: Batch) -> float:
    """The largest norm of a derivative of the batch's share in any array between it and the parameters."""
    largest = 0.0

    def look(slopes: Any) -> None:
        nonlocal largest
        for slope in slopes:
            if isinstance(slope, Tensor) and slope.numel() > 1 and not slope.is_sparse:
                largest = max(largest, float(torch.linalg.vector_norm(slope.detach())))

    for part in objective.split(batch):
        with objective.evaluating(), objective.placed_at(theta) as leaves, torch.enable_grad():
            value = objective.own_share(part)
            for node in _nodes(value.grad_fn):
                node.register_prehook(look)
            if value.requires_grad:
                torch.autograd.grad(value, leaves, allow_unused=True)
    return largest


def together(parts: Sequence[Survey]) -> Survey:
    """What is known of several graphs."""
    return Survey(
        frozenset[str]().union(*(part.operations for part in parts)),
        frozenset[str]().union(*(part.custom for part in parts)),
        max((part.arithmetic for part in parts), key=lambda t: torch.finfo(t).eps),
        tuple(sorted({row for part in parts for row in part.still})),
        any(part.sparse for part in parts),
    )


def native(objective: Objective, batch: Batch, own: torch.dtype) -> torch.dtype:
    """The least precise type of one evaluation at the model's own tensors, as they are; `own` where it fails."""
    types = {own}
    try:
        with torch.enable_grad():
            types |= _types(objective.own_share(batch.to(objective.device, own)))
    except torch.OutOfMemoryError:
        raise
    except Exception:  # it is a note, no more
        return own
    return max(types, key=lambda t: torch.finfo(t).eps)


def _left_out(node: Any, leaves: dict[int, str]) -> set[tuple[str, int, int]] | None:
    """The row of a parameter that an embedding leaves out of its gradient, `padding_idx`; None if of something else."""
    row, weight = node._saved_padding_idx, getattr(node.next_functions[0][0], "variable", None)
    row = row - 2**64 if row >= 2**63 else row  # -1, for none, comes without its sign
    if row < 0:
        return set()
    if not isinstance(weight, Tensor) or id(weight) not in leaves:
        return None
    return {(leaves[id(weight)], int(row), int(weight.shape[1]))}


@dataclass(frozen=True)
class FirstCalls:
    """What the first two calls of a function show; empty where one fails: what is wrong is said where it is needed."""

    kept: list[str]  # operations whose results serve in the next call, though parameters were set anew
    others: list[tuple[int, ...]]  # shapes of trainable parameters that `Objective.live` does not have
    survey: Survey


def first_calls(objective: Objective, batch: Batch) -> FirstCalls:
    """Call the user's own code twice, and compare the graphs.

    A cache of something that was made of parameters is a constant to whoever asks later. The graphs then share nodes
    above a parameter, or the second one does not reach a parameter that the first did.

    Cost: two evaluations of the batch, which must be the first ones that are made.
    """
    graphs, leaves = [], set[int]()
    try:
        for _ in range(2):
            with objective.placed_at(objective.theta) as placed, torch.enable_grad():
                value = objective.own_share(batch)
                graphs.append(list(_nodes(value.grad_fn)))
                seen = graph_of(value, objective)
                leaves = {id(leaf) for leaf in placed}
    except torch.OutOfMemoryError:
        raise
    except Exception:  # forward code of anybody's
        return FirstCalls([], [], Survey(frozenset(), frozenset(), objective.dtype))
    known, own = set(graphs[0]), {id(t) for t in objective.live().values()}
    variables = [node.variable for node in graphs[1] if hasattr(node, "variable")]
    others = [tuple(t.shape) for t in variables if isinstance(t, torch.nn.Parameter) and id(t) not in own]
    shared = [node for node in graphs[1] if node in known and not hasattr(node, "variable")]
    if any(_variables(_nodes(node)) & leaves for node in shared):
        return FirstCalls(sorted({type(node).__name__.removesuffix("Backward0") for node in shared}), others, seen)
    lost = (_variables(graphs[0]) - _variables(graphs[1])) & leaves
    return FirstCalls(["a value without its graph"] if lost else [], others, seen)


def _variables(nodes: Iterable[Any]) -> set[int]:
    """The leaves among the nodes, by identity."""
    return {id(node.variable) for node in nodes if hasattr(node, "variable")}


def _types(value: torch.Tensor) -> set[torch.dtype]:
    """The floating-point types of the results behind a value that are used: of others torch knows none."""
    found = {value.dtype}
    for node in _nodes(value.grad_fn):
        for used, place in node.next_functions:
            metadata = getattr(used, "_input_metadata", ())
            if place < len(metadata) and metadata[place].dtype.is_floating_point:
                found.add(metadata[place].dtype)
    return found


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
