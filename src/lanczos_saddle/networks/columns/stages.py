"""A_b V for a block of directions V, from the recorded operations of one product A_b v with a batch's curvature.

The operations fall into three stages (`tracing` records them, `folding` has the rules for blocks):

    primal       without v: activations, derivatives of the loss       once per batch, kept while memory allows;
                 values that decided what was recorded are verified
    direction    with v alone: its slices by parameter                 once per block
    linear       the rest, linear in v                                 once per batch and block
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Node
from torch.utils._pytree import tree_flatten

from lanczos_saddle.networks.columns.layout import channels_last
from lanczos_saddle.networks.columns.matrix_products import accumulate
from lanczos_saddle.networks.columns.readings import Reading
from lanczos_saddle.networks.columns.rules import elementwise, on_blocks
from lanczos_saddle.networks.columns.terms import COMMUTATIVE, collect, merge_equal
from lanczos_saddle.networks.columns.trace import (
    UntraceableError,
    alike,
    aten,
    is_tensor,
    leaving_nothing,
    trace,
    trace_reading,
    value,
    writes,
)

Results = tuple[Tensor, ...]

SLOPES = {
    aten.gelu_backward.default,
    aten.hardtanh_backward.default,
    aten.leaky_relu_backward.default,
    aten.sigmoid_backward.default,
    aten.silu_backward.default,
    aten.softplus_backward.default,
    aten.tanh_backward.default,
    aten.threshold_backward.default,
}
"""Operations s'(x) v, linear in their first argument v and elementwise in it and x."""

SOFTMAXES = {aten._softmax_backward_data.default, aten._log_softmax_backward_data.default}

IN_PLACE = {
    aten.add.Tensor: Tensor.add_,
    aten.addcmul.default: Tensor.addcmul_,
    aten.div.Tensor: Tensor.div_,
    aten.mul.Scalar: Tensor.mul_,
    aten.mul.Tensor: Tensor.mul_,
    aten.sub.Tensor: Tensor.sub_,
}

FRESH = {*IN_PLACE, aten.mm.default, aten.bmm.default, aten.convolution.default, aten.neg.default}
"""Operations whose results are in new memory."""

CONVOLUTIONS = {aten.convolution.default, aten.convolution_backward.default}
"""Of which blocks lie with their channels last: what they meet then does, too."""

VIEWS = {aten.view.default, aten._unsafe_view.default, aten.t.default, aten.transpose.int}


@dataclass(frozen=True)
class BlockProduct:
    """The stages of one product, for batches whose tensors look like those it was recorded on."""

    primal: Callable[..., Results]  # (*shared) -> what later stages take from the batch; raises DiffersError
    direction: Callable[..., Results]  # (rows (k, N)) -> what the linear stage takes from the block
    linear: Callable[..., Results]  # (*primal, *direction) -> one block (k, ...) per place
    places: tuple[slice, ...]  # where the results are added, among the N entries of a product

    def add(self, total: Tensor, primal: Results, direction: Results) -> None:
        """Add A_b V to `total` (k, N), in place."""
        for place, result in zip(self.places, self.linear(*primal, *direction), strict=True):
            total[:, place] += result.reshape(len(total), -1)


@leaving_nothing
def record(product: Callable[..., Tensor], v: Tensor, shared: Sequence[Tensor]) -> BlockProduct:
    """The stages of product(v, *shared), a function that is linear in v (N,) and gives (N,).

    Where its operations depend on values, these are frozen, and the primal stage verifies them (`readings`). Raises
    UntraceableError where they depend on values of v or write into what depends on v.
    """
    examples = (v.clone(), *shared)  # one argument twice would be taken for one
    try:
        traced, readings = trace(product, examples), tuple[Reading, ...]()
    except UntraceableError:
        traced, readings = trace_reading(product, examples)
    v_node, *arguments = (n for n in traced.graph.nodes if n.op == "placeholder")
    share_slopes(traced.graph, reached(v_node))
    merge_equal(traced.graph)
    collect(traced.graph, reached(v_node), alone_with(v_node, traced.graph))
    merge_equal(traced.graph)
    result, checks = verified(traced.graph, readings, reached(v_node))
    nodes, of_v = list(traced.graph.nodes), reached(v_node)
    operations = [n for n in nodes if n.op not in ("placeholder", "output")]
    for node in operations:
        if writes(node) and any(n in of_v or n.op == "placeholder" for n in node.all_input_nodes):
            raise UntraceableError(f"{node.target} writes into an argument")
    alone = alone_with(v_node, traced.graph)
    primal = [n for n in operations if n not in of_v]
    direction = [n for n in operations if n in alone]
    linear = [n for n in operations if n in of_v and n not in alone]
    terms = [term for term in terms_of(result, len(v)) if term[0] in of_v]
    users = {*linear, *(node for node, _ in terms)}
    from_batch = [n for n in (*arguments, *primal) if any(user in users for user in n.users)]
    from_block = [n for n in (v_node, *direction) if n in users or any(user in users for user in n.users)]
    computed = stage(traced, arguments, primal, from_batch, set(), checks)
    images = any(node.target in CONVOLUTIONS for node in linear)
    return BlockProduct(
        (lambda *given: tuple(channels_last(t) for t in computed(*given))) if images else computed,
        stage(traced, [v_node], direction, from_block, of_v),
        stage(traced, [*from_batch, *from_block], linear, [node for node, _ in terms], of_v),
        tuple(place for _, place in terms),
    )


def verified(graph: Graph, readings: Sequence[Reading], of_v: set[Node]) -> tuple[Any, set[Node]]:
    """(the node of the product, new nodes that verify the readings, each right behind what was read).

    Raises UntraceableError for a reading of what depends on v.
    """
    output = next(n for n in reversed(graph.nodes) if n.op == "output")
    results: Any = output.args[0]
    result, *others = results if isinstance(results, tuple | list) else [results]
    read: Iterator[Node] = iter(others)
    checks, order = set[Node](), {node: i for i, node in enumerate(graph.nodes)}
    for reading in readings:
        given = [next(read) for _ in range(reading.count)]
        if any(n in of_v for n in given):
            raise UntraceableError("a value that depends on the vector is read")
        if given:
            last = max(given, key=order.__getitem__)
            with graph.inserting_after(last):
                checks.add(graph.call_function(named(reading.verify, last), tuple(given)))
    return result, checks


def share_slopes(graph: Graph, of_v: set[Node]) -> None:
    """Write s'(x) v in place of the derivative of s at x along v: s'(x) has no v and is computed once.

    And y (v - <y, v>) and v - y <1, v> in place of the derivatives of softmax y and of its logarithm.
    """
    for node in list(graph.nodes):
        if node.target in SOFTMAXES and node.args[0] in of_v and node.args[1] not in of_v:
            write_softmax(graph, node)
        if node.target not in SLOPES or node.args[0] not in of_v or any(n in of_v for n in node.args[1:]):
            continue
        v, x = node.args[:2]
        with graph.inserting_before(node):
            ones = graph.call_function(aten.ones_like.default, (x,))
            slope = graph.call_function(node.target, (ones, *node.args[1:]), node.kwargs)
            product = graph.call_function(aten.mul.Tensor, (v, slope))
        for new in (ones, slope, product):
            new.meta["val"] = value(node)
        node.replace_all_uses_with(product)
        graph.erase_node(node)


def write_softmax(graph: Graph, node: Node) -> None:
    """The derivative of softmax or log-softmax as elementwise operations and a sum."""
    v, y, dim = node.args[:3]
    assert isinstance(v, Node)
    like = value(v)

    def put(target: Any, *args: Any) -> Node:
        new = graph.call_function(target, args)
        summed = target is aten.sum.dim_IntList
        new.meta["val"] = like.sum([dim], True) if summed else like  # shapes alone: no numbers are computed
        return new

    with graph.inserting_before(node):
        if node.target is aten._softmax_backward_data.default:
            inner = put(aten.sum.dim_IntList, put(aten.mul.Tensor, v, y), [dim], True)
            result = put(aten.mul.Tensor, put(aten.sub.Tensor, v, inner), y)
        else:
            inner = put(aten.sum.dim_IntList, v, [dim], True)
            result = put(aten.sub.Tensor, v, put(aten.mul.Tensor, put(aten.exp.default, y), inner))
    node.replace_all_uses_with(result)
    graph.erase_node(node)


def reached(source: Node) -> set[Node]:
    """The nodes that depend on the source, itself among them."""
    found, waiting = {source}, [source]
    while waiting:
        for user in waiting.pop().users:
            if user not in found:
                found.add(user)
                waiting.append(user)
    return found


def alone_with(source: Node, graph: Graph) -> set[Node]:
    """The nodes that depend on the source and on nothing else, itself among them."""
    found = {source}
    for node in graph.nodes:
        inputs = node.all_input_nodes
        if inputs and node.op != "output" and all(n in found for n in inputs):
            found.add(node)
    return found


def terms_of(node: Any, size: int) -> Iterator[tuple[Node, slice]]:
    """The summands of a vector (size,) and the entries that they fill; the rest of a summand is zero."""
    if node.target is aten.add.Tensor and not node.kwargs and all(is_vector(n, size) for n in node.args):
        for part in node.args:
            yield from terms_of(part, size)
    elif node.target is aten.slice_backward.default and node.args[2] == 0 and node.args[5] == 1:
        yield node.args[0], slice(node.args[3], min(node.args[4], size))
    else:
        yield node, slice(0, size)


def is_vector(node: Any, size: int) -> bool:
    """Whether the node gives a vector (size,)."""
    return isinstance(node, Node) and is_tensor(node) and value(node).shape == (size,)


def stage(
    traced: GraphModule,
    inputs: Sequence[Node],
    operations: Sequence[Node],
    outputs: Sequence[Node],
    of_v: set[Node],
    checks: AbstractSet[Node] = frozenset(),
) -> Callable[..., Results]:
    """A function of the inputs that gives the outputs; what depends on v is computed by the rules for blocks.

    Checks are executed though nothing comes of them.
    """
    graph, copies, given = Graph(), dict[Node, Node](), set(inputs)
    for node in inputs:
        copies[node] = graph.placeholder(node.name)
    for node in operations:
        copies[node] = graph.node_copy(node, copies.__getitem__)
        if node in of_v and isinstance(node.target, torch._ops.OpOverload):
            copies[node].target = rule_for(node, of_v)
            overwrite(node, copies[node], of_v, given)
    graph.output(tuple(copies[node] for node in outputs))
    kept = {copies[node] for node in checks}
    graph.eliminate_dead_code(lambda node: node in kept or node.is_impure())
    return GraphModule(traced, graph)


def rule_for(node: Node, of_v: set[Node]) -> Callable[..., Any]:
    """The node's operation on blocks. Slices of v are copied: folds of what is stored together need no copies."""
    leaves = [n for n in tree_flatten((node.args, node.kwargs))[0] if isinstance(n, Node)]
    rule = on_blocks(node.target, [n in of_v for n in leaves], [value(n).ndim for n in leaves])
    if node.target is aten.slice.Tensor and node.args[0].op == "placeholder":  # type: ignore[union-attr]
        return named(lambda *args: rule(*args).contiguous(), node)
    return named(rule, node)


def overwrite(node: Node, copied: Node, of_v: set[Node], given: set[Node]) -> None:
    """Let a sum or product write over an operand that nothing else reads: fewer passes through memory.

    What is given to the stage serves other batches, too.
    """
    method = IN_PLACE.get(node.target)  # type: ignore[call-overload]
    if method is None:
        return
    for place in (0, 1) if node.target in COMMUTATIVE and not node.kwargs else (0,):
        mine, others = node.args[place], [n for i, n in enumerate(node.args) if i != place]
        if not (isinstance(mine, Node) and mine in of_v and alike(mine, node) and owned(mine, given)):
            continue
        kept, *added = (copied.args[place], *(n for i, n in enumerate(copied.args) if i != place))
        if node.target is aten.add.Tensor and is_product(others[0]) and not node.kwargs:
            blocked = [n in of_v for n in others[0].args]  # type: ignore[union-attr]
            copied.target = named(accumulate(blocked), node)
            copied.args = (kept, *added[0].args)  # type: ignore[union-attr]
        else:
            known = [n for n in (mine, *others) if isinstance(n, Node)]
            rule = elementwise(method, tuple(n in of_v for n in known), tuple(value(n).ndim for n in known))
            copied.target = named(rule, node)
            copied.args = (kept, *added)
        return


def is_product(node: Any) -> bool:
    """Whether this is a matrix product that one sum alone reads."""
    return isinstance(node, Node) and node.target is aten.mm.default and len(node.users) == 1


def owned(node: Node, given: set[Node]) -> bool:
    """Whether the node's memory is new in this stage, not given to it, and read by its one user only."""
    if len(node.users) != 1 or node in given:
        return False
    if node.target in VIEWS:
        return isinstance(node.args[0], Node) and owned(node.args[0], given)
    return node.target in FRESH


def named(rule: Callable[..., Any], node: Node) -> Callable[..., Any]:
    """The rule under the name of its operation, for the graph's generated code."""

    def call(*args: Any, **kwargs: Any) -> Any:
        return rule(*args, **kwargs)

    call.__name__ = node.name
    return call
