"""The operations of one product v -> A v as a graph, cut down to those that matter.

`trace` records what torch executes for one vector, `trace_reading` the same where values decide what that is;
`simplify` takes out what changes no number: aliases, copies, and sums and products with derivatives that are zero
everywhere (of the data, which do not depend on theta).
"""

from __future__ import annotations

import contextvars
import functools
import linecache
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.func import functionalize
from torch.fx import Graph, GraphModule, Node
from torch.fx.experimental.proxy_tensor import make_fx
from torch.overrides import TorchFunctionMode

from lanczos_saddle.networks.columns.readings import MEMORY, Itemized, Reading, Readings

aten, prims = torch.ops.aten, torch.ops.prims

ZEROS = {
    aten._efficientzerotensor.default,
    aten._new_zeros_with_same_feature_meta.default,
    aten.new_zeros.default,
    aten.zeros.default,
    aten.zeros_like.default,
}

SAME = {  # where shape and type stay
    aten._reshape_alias.default,
    aten._to_copy.default,
    aten._unsafe_view.default,
    aten.alias.default,
    aten.clone.default,
    aten.detach.default,
    aten.expand.default,
    aten.lift_fresh_copy.default,
    aten.view.default,
}

ZERO_FROM_FIRST = {  # linear in the first argument
    *SAME,
    aten._conj.default,
    aten.div.Scalar,
    aten.div.Tensor,
    aten.embedding_dense_backward.default,
    aten.gelu_backward.default,
    aten.mean.dim,
    aten.mul.Scalar,
    aten.neg.default,
    aten.permute.default,
    aten.select.int,
    aten.select_backward.default,
    aten.sigmoid_backward.default,
    aten.slice.Tensor,
    aten.slice_backward.default,
    aten.squeeze.dim,
    aten.squeeze.dims,
    aten.sum.default,
    aten.sum.dim_IntList,
    aten.t.default,
    aten.tanh_backward.default,
    aten.threshold_backward.default,
    aten.transpose.int,
    aten.unsqueeze.default,
}

ZERO_FROM_EITHER = {aten.mul.Tensor, prims.mul.default, aten.mm.default, aten.bmm.default}

SUMS = {aten.add.Tensor, prims.add.default, aten.sub.Tensor}


LOG = logging.getLogger("torch._subclasses.fake_tensor")
"""Where torch writes a traceback of an operation that has no rule for tensors without numbers."""

SYMBOLS = (torch.SymInt, torch.SymFloat, torch.SymBool)


class UntraceableError(Exception):
    """The product cannot be recorded once and repeated on other numbers; says why."""


@contextmanager
def forgotten_sources() -> Iterator[None]:
    """Sources of graphs that are made meanwhile are forgotten afterwards.

    Torch 2.13.0 keeps the text of every graph that it compiles, for tracebacks, until the process ends: some kilobytes
    at each recording. Where its store is another one, nothing is done.
    """
    kept: dict[str, str] = getattr(getattr(torch.fx.graph_module, "_loader", None), "eval_cache", {})
    before = set(kept)
    try:
        yield
    finally:
        for name in set(kept) - before:
            kept.pop(name, None)
            linecache.cache.pop(name, None)


def leaving_nothing(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function without what torch's tracing leaves in the process.

    Sources of graphs are forgotten; and it runs in a context of its own, because every make_fx of torch 2.13.0 leaves a
    new context variable in the one that it runs in.
    """

    @functools.wraps(function)
    def alone(*given: Any, **named: Any) -> Any:
        with forgotten_sources():
            return contextvars.copy_context().run(function, *given, **named)

    return alone


def trace(product: Callable[..., Tensor], examples: Sequence[Tensor]) -> GraphModule:
    """The graph of product(*examples) (a tensor), for arguments of the same shapes and types.

    Fake tensors are multiplied: nothing is computed. Raises UntraceableError when the operations depend on values.
    """
    with Refusing():
        traced = recorded(
            functionalize(product, remove="mutations"), examples, tracing_mode="fake", _allow_non_fake_inputs=True
        )
    for node in traced.graph.nodes:
        refuse_value_dependence(node)
    simplify(traced)
    return traced


def trace_reading(
    product: Callable[..., Tensor], examples: Sequence[Tensor]
) -> tuple[GraphModule, tuple[Reading, ...]]:
    """The graph of (product(*examples), *read) and the readings of these tensors, on which the operations depend.

    Values are computed while they are recorded. Raises UntraceableError for what even then has no graph.
    """
    readings: list[Reading] = []

    def reading(*given: Tensor) -> tuple[Tensor, ...]:
        with Readings() as mode:
            result = functionalize(product, remove="mutations")(*given)
        readings[:] = mode.found
        return (result, *mode.tensors)

    with Itemized():
        traced = recorded(reading, examples, _error_on_data_dependent_ops=False)
    simplify(traced)
    return traced, tuple(readings)


def recorded(function: Callable[..., Any], examples: Sequence[Tensor], **options: Any) -> GraphModule:
    """What `make_fx` records; raises UntraceableError for whatever stops it."""
    quiet = LOG.disabled
    try:
        LOG.disabled = True  # what stops a recording is said in one line, and not a traceback on the way
        found = make_fx(function, **options)(*examples)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # a model may do anything; the caller has another way
        raise UntraceableError(f"{type(error).__name__}: {error}".splitlines()[0]) from error
    finally:
        LOG.disabled = quiet
    for node in found.graph.nodes:
        if isinstance(node.target, torch._ops.OpOverload) and torch.Tag.nondeterministic_seeded in node.target.tags:
            raise UntraceableError(f"{node.target} draws numbers, which a seed in the forward pass must precede")
    return found


class Refusing(TorchFunctionMode):
    """Refuses functions that would read the memory of a tensor that has none while it is recorded."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Calls the function, or raises UntraceableError."""
        if func is Tensor.tolist or func in MEMORY:
            raise UntraceableError(f"{func.__name__} asks for values")
        return func(*args, **(kwargs or {}))


def refuse_value_dependence(node: Node) -> None:
    """Raises UntraceableError for a number that is read from a tensor, and for shapes that depend on values."""
    target, given = node.target, node.meta.get("val")
    if isinstance(given, SYMBOLS) or (isinstance(given, Tensor) and any(isinstance(n, SYMBOLS) for n in given.shape)):
        raise UntraceableError(f"{target} asks for values")
    if not isinstance(target, torch._ops.OpOverload) or torch.Tag.dynamic_output_shape not in target.tags:
        return
    masks = [n for n in node.all_input_nodes if is_tensor(n) and value(n).dtype in (torch.bool, torch.uint8)]
    indexed = target is aten.index.Tensor
    if not indexed or masks:
        raise UntraceableError(f"{target} gives a shape that depends on values")


def value(node: Node) -> Any:
    """A tensor without numbers: the shape and type of what the node gives."""
    return node.meta["val"]


def is_tensor(node: Node) -> bool:
    """Whether the node gives one tensor."""
    return isinstance(node.meta.get("val"), Tensor)


def simplify(traced: GraphModule) -> None:
    """Drop from the graph operations that change no number; what is zero everywhere becomes zeros of its shape."""
    graph = traced.graph
    zero: set[Node] = set()
    for node in list(graph.nodes):
        if node.op != "call_function" or not is_tensor(node):
            continue
        source = same_as(node, zero)
        if source is not None:
            node.replace_all_uses_with(source)
            graph.erase_node(node)
        elif is_zero(node, zero):
            zero.add(node)
    for node in zero:
        fill(graph, node)
    graph.eliminate_dead_code()


def same_as(node: Node, zero: set[Node]) -> Node | None:
    """The argument whose numbers, shape and type are those of the node."""
    if any(writes(user) for user in node.users):
        return None
    if node.target in SAME:
        first = node.args[0]
        return first if isinstance(first, Node) and alike(node, first) else None
    if node.target is aten.copy.default and isinstance(node.args[1], Node):
        return node.args[1] if alike(node, node.args[1]) else None
    if node.target in SUMS and not node.kwargs:
        left, right = node.args[:2]
        if right in zero and left not in zero:
            return broadcast(node, left)
        if left in zero and right not in zero and node.target is not aten.sub.Tensor:
            return broadcast(node, right)
    return None


def broadcast(node: Node, other: Any) -> Node | None:
    """`other` in the shape of the node, when it has its type."""
    if not isinstance(other, Node) or not is_tensor(other) or value(other).dtype != value(node).dtype:
        return None
    if alike(node, other):
        return other
    if value(other).shape == value(node).shape:
        return None
    with node.graph.inserting_before(node):
        wide = node.graph.call_function(aten.expand.default, (other, list(value(node).shape)))
    wide.meta["val"] = value(node)
    return wide


def alike(node: Node, other: Node) -> bool:
    """Whether both give tensors of one shape, memory order, type and device."""
    if not is_tensor(other):
        return False
    a, b = value(node), value(other)
    return bool(a.shape == b.shape and a.stride() == b.stride() and a.dtype == b.dtype and a.device == b.device)


def is_zero(node: Node, zero: set[Node]) -> bool:
    """Whether the node gives zeros, whatever the arguments of the graph."""
    if node.target in ZEROS:
        return not any(writes(user) for user in node.users)
    if node.target in ZERO_FROM_FIRST:
        return node.args[0] in zero
    if node.target in ZERO_FROM_EITHER:
        return node.args[0] in zero or node.args[1] in zero
    return node.target in SUMS and node.args[0] in zero and node.args[1] in zero


def writes(node: Node) -> bool:
    """Whether the operation writes into one of its arguments."""
    return isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable


def fill(graph: Graph, node: Node) -> None:
    """Put plain zeros in the place of a node that is zero."""
    if not node.users:
        return
    like = value(node)
    with graph.inserting_before(node):
        zeros = graph.call_function(
            aten.zeros.default, (list(like.shape),), {"dtype": like.dtype, "device": like.device}
        )
    zeros.meta["val"] = like
    node.replace_all_uses_with(zeros)
