"""Collected terms give the numbers of the chains they replace, in fewer operations."""

import pytest
import torch
from torch.fx import Graph, GraphModule
from torch.fx.experimental.proxy_tensor import make_fx

from lanczos_saddle.networks.columns.stages import alone_with, reached
from lanczos_saddle.networks.columns.terms import collect, merge_equal
from lanczos_saddle.networks.columns.trace import trace

aten = torch.ops.aten
F64 = torch.float64
P, Q, R = (torch.rand(4, 5, dtype=F64, generator=torch.Generator().manual_seed(i)) + 0.5 for i in range(3))


def base(v, p):
    """What the chains begin with: not elementwise, and of more than v alone."""
    return (v.view(4, 5) @ Q.T) @ p


CHAINS = {
    "one term": (lambda b: b * P / Q * R, 1),
    "numbers": (lambda b: -(b * 64) / 8 - b / 3, 1),
    "equal bases": (lambda b: b * P + b * Q - b, 1),
    "a number on the left": (lambda b: P * b - 2 * b * Q, 1),
    "a normalization": (lambda b: (64 * b - b.sum(1, keepdim=True) - P * (b * P).sum(1, keepdim=True)) * Q / R, 4),
    "softmax twice": (lambda b: Q * (b * P - P * (P * b).sum(1, keepdim=True)), 3),
    "a smaller base": (lambda b: (b.sum(0) * P + b.sum(1, keepdim=True)) * Q - b, 3),
    "only smaller bases": (lambda b: b.sum(0) + b.sum(1, keepdim=True), 1),
    "used twice": (lambda b: ((b + b.tanh() * 0 + b.sum(0)) * P).sum(1) + (b + b.sum(0)).sum(1), None),
    "not linear ones between": (lambda b: (b * P).clamp(-1e9, 1e9) * Q + b * P, 4),  # this P is a constant, p is not
    "nothing": (lambda b: b * P - P * b, 2),
}


def recorded(function):
    v = torch.randn(20, dtype=F64, generator=torch.Generator().manual_seed(5))
    return trace(lambda v, p: function(base(v, p)), (v, P)), v


def simplified(function):
    traced, v = recorded(function)
    source = next(iter(traced.graph.nodes))
    merge_equal(traced.graph)
    collect(traced.graph, reached(source), alone_with(source, traced.graph))
    merge_equal(traced.graph)
    traced.graph.lint()
    traced.recompile()
    return traced, v, reached(source)


def elementwise(nodes):
    tagged = [n for n in nodes if isinstance(n.target, torch._ops.OpOverload)]
    return [n for n in tagged if torch.Tag.pointwise in n.target.tags]


@pytest.mark.parametrize("name", list(CHAINS))
def test_collected_terms_are_the_chain(name):
    function, passes = CHAINS[name]
    traced, v, of_v = simplified(function)
    before, _ = recorded(function)
    torch.testing.assert_close(traced(v, P), before(v, P), rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(traced(3 * v, Q), before(3 * v, Q), rtol=1e-13, atol=1e-13)
    if passes is not None:
        assert len(elementwise(of_v)) <= passes


def test_products_of_two_types_are_left_alone():
    """Their coefficients would be rounded to the lower one."""

    def function(b):
        return b * P.float() * Q.float() + b

    traced, v, of_v = simplified(function)
    assert len([n for n in of_v if n.target is aten.mul.Tensor]) == 2
    assert torch.equal(traced(v, P), recorded(function)[0](v, P))


def test_equal_operations_are_merged_and_others_are_not():
    def function(a, b):
        return a * b, b * a, a - b, b - a, a.sum(0), a.sum(1), a.add(b, alpha=2), b.add(a, alpha=2)

    a, b = torch.randn(2, 3, 3, dtype=F64, generator=torch.Generator().manual_seed(0))
    traced = make_fx(function)(a, b)
    merge_equal(traced.graph)
    traced.recompile()
    called = [n for n in traced.graph.nodes if n.op == "call_function"]
    assert len(called) == 7
    for got, expected in zip(traced(a, b), function(a, b), strict=True):
        assert torch.equal(got, expected)


def test_what_is_written_to_is_not_merged():
    """Two zeros of one shape, of which one is filled."""
    graph = Graph()
    x = graph.placeholder("x")
    one, two = (graph.call_function(aten.zeros.default, ([3],)) for _ in range(2))
    graph.call_function(aten.copy_.default, (one, x))
    graph.output((one, two))
    merge_equal(graph)
    filled, empty = GraphModule(torch.nn.Module(), graph)(torch.ones(3))
    assert filled.tolist() == [1, 1, 1]
    assert empty.tolist() == [0, 0, 0]
