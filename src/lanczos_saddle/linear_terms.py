"""Sums of products collected: what is linear in v, elementwise, becomes sum_i c_i b_i with c_i known before v is.

The recorded operations of a product are linear in v. Chains of elementwise ones (v p_1 / p_2 - (64 v - s) p_3 ..., as
derivatives of normalizations and of softmax leave them) are expanded into few terms, one pass through memory each,

    x = c_1 b_1 + c_2 b_2 + ...        b_i: results of other operations with v (products, sums)
                                       c_i: numbers, or tensors without v, computed once per batch

Before that, operations that are there twice are done once.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx import Graph, Node

from lanczos_saddle.tracing import aten, is_tensor, value, writes

COMMUTATIVE = {aten.add.Tensor, aten.mul.Tensor}

PRODUCTS = {aten.mm.default, aten.bmm.default}


class Coefficient(NamedTuple):
    """number * factor, a tensor without v; None for ones."""

    number: float
    factor: Node | None


Terms = dict[Node, Coefficient]

ONE = Coefficient(1.0, None)


def merge_equal(graph: Graph) -> None:
    """One operation for all that have the same arguments, in place; a + b is b + a. What is written to stays."""
    place = {node: i for i, node in enumerate(graph.nodes)}
    seen: dict[Any, Node] = {}
    for node in list(graph.nodes):
        if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload):
            continue
        if any(writes(n) for n in (node, *node.users)) or torch.Tag.nondeterministic_seeded in node.target.tags:
            continue
        args = node.args
        if node.target in COMMUTATIVE and not node.kwargs and all(isinstance(n, Node) for n in args):
            args = tuple(sorted(args, key=lambda n: place[n]))
        first = seen.setdefault(repr((node.target, args, node.kwargs)), node)  # nodes have unique names
        if first is not node:
            node.replace_all_uses_with(first)
            graph.erase_node(node)


def collect(graph: Graph, of_v: set[Node], alone: set[Node]) -> None:
    """Write elementwise chains in `of_v` as sums of terms, in place.

    Args:
        of_v: the nodes that depend on v.
        alone: those of them that depend on nothing else; they are computed once per block and stay as they are.
    """
    forms: dict[Node, Terms] = {}
    for node in list(graph.nodes):
        if node not in of_v or node in alone or not is_linear(node, of_v):
            continue
        with graph.inserting_before(node):
            terms = expanded(graph, node, forms, of_v)
            inner = all(is_linear(user, of_v) for user in node.users)
            if inner and (len(terms) == 1 or len(node.users) == 1):
                forms[node] = terms
                continue
            new = written(graph, terms)
        if new is not node:
            of_v.add(new)
            node.replace_all_uses_with(new)
    graph.eliminate_dead_code()


def is_linear(node: Node, of_v: set[Node]) -> bool:
    """Whether the node is a sum of, or a number or tensor without v times, what depends on v; in one type."""
    if not is_tensor(node) or node.kwargs or not 1 <= len(node.args) <= 2:
        return False
    left, right = node.args[0], node.args[-1]
    if any(isinstance(n, Node) and (not is_tensor(n) or value(n).dtype != value(node).dtype) for n in (left, right)):
        return False
    if node.target in (aten.add.Tensor, aten.sub.Tensor):
        return left in of_v and right in of_v
    if node.target is aten.mul.Tensor:
        return (left in of_v) != (right in of_v)
    if node.target in (aten.div.Tensor, aten.div.Scalar, aten.mul.Scalar):
        return left in of_v and right not in of_v
    return node.target is aten.neg.default


def expanded(graph: Graph, node: Node, forms: dict[Node, Terms], of_v: set[Node]) -> Terms:
    """The terms of a linear node, from those of its arguments."""
    left, right = node.args[0], node.args[-1]
    if node.target in (aten.add.Tensor, aten.sub.Tensor):
        sign = 1.0 if node.target is aten.add.Tensor else -1.0
        terms = dict(known(left, forms))
        for base, (number, factor) in known(right, forms).items():
            more = Coefficient(sign * number, factor)
            terms[base] = sum_of(graph, terms[base], more) if base in terms else more
        return terms
    if node.target is aten.neg.default:
        return {base: Coefficient(-c.number, c.factor) for base, c in known(left, forms).items()}
    divides = node.target in (aten.div.Tensor, aten.div.Scalar)
    block, other = (left, right) if left in of_v else (right, left)
    return {base: times(graph, c, other, divides) for base, c in known(block, forms).items()}


def known(node: Any, forms: dict[Node, Terms]) -> Terms:
    """The terms that have been found, or the node itself."""
    return forms.get(node, {node: ONE})


def times(graph: Graph, c: Coefficient, other: Any, divides: bool) -> Coefficient:
    """C times (or divided by) a number or a tensor."""
    if not isinstance(other, Node):
        return Coefficient(c.number / other if divides else c.number * other, c.factor)
    if c.factor is not None:
        operation = aten.div.Tensor if divides else aten.mul.Tensor
        return Coefficient(c.number, put(graph, operation, c.factor, other))
    return Coefficient(c.number, put(graph, aten.reciprocal.default, other) if divides else other)


def sum_of(graph: Graph, a: Coefficient, b: Coefficient) -> Coefficient:
    """A + b as one coefficient."""
    if a.factor is None and b.factor is None:
        return Coefficient(a.number + b.number, None)
    if a.factor is None or b.factor is None:
        number, c = (a.number, b) if a.factor is None else (b.number, a)
        return Coefficient(1.0, put(graph, aten.add.Tensor, scaled(graph, c), number))
    return Coefficient(1.0, put(graph, aten.add.Tensor, scaled(graph, a), scaled(graph, b)))


def scaled(graph: Graph, c: Coefficient) -> Node:
    """The coefficient as one tensor, which it must have."""
    assert c.factor is not None
    return c.factor if c.number == 1 else put(graph, aten.mul.Tensor, c.factor, c.number)


def written(graph: Graph, terms: Terms) -> Node:
    """Operations for the sum of the terms: the first one makes the result, the others add to it."""
    result: Node | None = None
    for base, c in in_order(terms):
        if result is None:
            if c.factor is not None:
                result = put(graph, aten.mul.Tensor, base, scaled(graph, c))
            else:
                result = base if c.number == 1 else put(graph, aten.mul.Tensor, base, c.number)
        elif c.factor is not None:
            result = put(graph, aten.addcmul.default, result, base, scaled(graph, c))
        elif c.number == 1:
            result = put(graph, aten.add.Tensor, result, base)
        else:
            result = put(graph, aten.add.Tensor, result, base, alpha=c.number)
    assert result is not None
    return result


def in_order(terms: Terms) -> Iterable[tuple[Node, Coefficient]]:
    """The largest results first; among them products, which later ones can be added to in their own memory."""

    def key(term: tuple[Node, Coefficient]) -> tuple[int, bool, bool]:
        base, c = term
        size = max(value(n).numel() for n in (base, c.factor) if n is not None)
        return (-size, c.factor is None and c.number != 1, c.factor is not None)

    return sorted(terms.items(), key=key)


def put(graph: Graph, target: Any, *args: Any, **kwargs: Any) -> Node:
    """A new operation at the graph's present place; its shape is found without numbers."""
    node = graph.call_function(target, args, kwargs)
    with FakeTensorMode():  # every recorded shape has a mode of its own; modes do not mix
        node.meta["val"] = target(*(empty_like(value(a)) if isinstance(a, Node) else a for a in args), **kwargs)
    return node


def empty_like(x: Tensor) -> Tensor:
    """A new tensor of this shape, memory order, type and device."""
    return torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device=x.device)
