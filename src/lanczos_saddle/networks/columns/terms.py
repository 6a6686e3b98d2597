"""Sums of products collected: what is linear in v, elementwise, becomes sum_i c_i b_i with c_i known before v is.

The recorded operations of a product are linear in v. Chains of elementwise ones (v p_1 / p_2 - (64 v - s) p_3 ..., as
derivatives of normalizations and of softmax leave them) are expanded into few terms, one pass through memory each,

    x = c_1 b_1 + c_2 b_2 + ...        b_i: results of other operations with v (products, sums)
                                       c_i: numbers, or tensors without v, computed once per batch

of which those with one factor are added first, as matrix products add to what is there at no cost.

Before that, operations that are there twice are done once.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx import Graph, Node

from lanczos_saddle.networks.columns.trace import aten, is_tensor, value, writes

COMMUTATIVE = {aten.add.Tensor, aten.mul.Tensor}


class Coefficient(NamedTuple):
    """number * factor, a tensor without v; None for ones."""

    number: float
    factor: Node | None


Terms = dict[Node, Coefficient]

Factors = dict[tuple[Node | None, Node, bool], Node]

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
    factors: Factors = {}
    for node in list(graph.nodes):
        if node not in of_v or node in alone or not is_linear(node, of_v):
            continue
        with graph.inserting_before(node):
            terms = expanded(graph, node, forms, factors, of_v)
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


def expanded(graph: Graph, node: Node, forms: dict[Node, Terms], factors: Factors, of_v: set[Node]) -> Terms:
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
    return {base: times(graph, c, other, divides, factors) for base, c in known(block, forms).items()}


def known(node: Any, forms: dict[Node, Terms]) -> Terms:
    """The terms that have been found, or the node itself."""
    return forms.get(node, {node: ONE})


def times(graph: Graph, c: Coefficient, other: Any, divides: bool, factors: Factors) -> Coefficient:
    """C times (or divided by) a number or a tensor; equal factors are one node, so that terms with them are seen."""
    if not isinstance(other, Node):
        return Coefficient(c.number / other if divides else c.number * other, c.factor)
    if c.factor is None and not divides:
        return Coefficient(c.number, other)
    known = (c.factor, other, divides)
    if known not in factors:
        if c.factor is None:
            factors[known] = put(graph, aten.reciprocal.default, other)
        else:
            factors[known] = put(graph, aten.div.Tensor if divides else aten.mul.Tensor, c.factor, other)
    return Coefficient(c.number, factors[known])


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
    """Operations for the sum of the terms: f (n_1 b_1 + n_2 b_2 + ...) for every factor f, added up."""
    groups: dict[Node | None, dict[Node, float]] = {}
    for base, c in sorted(terms.items(), key=lambda term: (-extent(term[0]), term[1].factor is not None)):
        groups.setdefault(c.factor, {})[base] = c.number
    result: Node | None = None
    for factor, bases in groups.items():
        if factor is None:
            result = added(graph, result, bases)
            continue
        common = next(iter(bases.values()))  # a number of all goes with the factor, where it costs nothing
        inner = added(graph, None, {base: number / common if common else number for base, number in bases.items()})
        scaling = scaled(graph, Coefficient(common or 1.0, factor))
        if result is None:
            result = put(graph, aten.mul.Tensor, inner, scaling)
        else:
            result = put(graph, aten.addcmul.default, result, inner, scaling)
    assert result is not None
    return result


def added(graph: Graph, result: Node | None, bases: dict[Node, float]) -> Node:
    """The result, if there is one, and the bases times their numbers."""
    for base, number in bases.items():
        if result is None:
            result = base if number == 1 else put(graph, aten.mul.Tensor, base, number)
        elif number == 1:
            result = put(graph, aten.add.Tensor, result, base)
        else:
            result = put(graph, aten.add.Tensor, result, base, alpha=number)
    assert result is not None
    return result


def extent(node: Node) -> int:
    """Numbers that are in the memory of a result, or in what it repeats: the largest is to be added to."""
    source = node.args[0] if node.target is aten.expand.default else node
    return value(source).numel()  # type: ignore[arg-type, no-any-return]


def put(graph: Graph, target: Any, *args: Any, **kwargs: Any) -> Node:
    """A new operation at the graph's present place; its shape is found without numbers."""
    node = graph.call_function(target, args, kwargs)
    with FakeTensorMode():  # every recorded shape has a mode of its own; modes do not mix
        node.meta["val"] = target(*(empty_like(value(a)) if isinstance(a, Node) else a for a in args), **kwargs)
    return node


def empty_like(x: Tensor) -> Tensor:
    """A new tensor of this shape, memory order, type and device."""
    return torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device=x.device)
