"""Rules for blocks against `torch.vmap`, in every memory order."""

import itertools

import pytest
import torch

from lanczos_saddle.networks.columns.layout import in_memory_order, mapped
from lanczos_saddle.networks.columns.matrix_products import accumulate
from lanczos_saddle.networks.columns.rules import RULES, elementwise, on_blocks

aten = torch.ops.aten
K = 3
ORDERS = ["first", "second", "before last", "last"]


def in_order(block: torch.Tensor, order: str) -> torch.Tensor:
    """The same block with its own dimension elsewhere in memory."""
    place = {
        "first": 0,
        "second": min(1, block.ndim - 1),
        "before last": max(0, block.ndim - 2),
        "last": block.ndim - 1,
    }
    return block.movedim(0, place[order]).contiguous().movedim(place[order], 0)


def tensors(shapes, blocked, order, seed=0):
    generator = torch.Generator().manual_seed(seed)
    drawn = [
        torch.randn((*((K,) if b else ()), *s), generator=generator, dtype=torch.float64)
        for s, b in zip(shapes, blocked, strict=True)
    ]
    return [in_order(t, order) if b else t for t, b in zip(drawn, blocked, strict=True)]


def agree(one, two):
    if isinstance(two, torch.Tensor):
        torch.testing.assert_close(one, two, rtol=1e-12, atol=1e-12)
    else:
        for a, b in zip(one, two, strict=True):
            assert (a is None) == (b is None)
            if a is not None:
                agree(a, b)


CASES = [
    ("mm", aten.mm.default, [(4, 5), (5, 6)], [(True, False), (False, True), (True, True)], ()),
    ("addmm", aten.addmm.default, [(6,), (4, 5), (5, 6)], [(False, True, False), (True, False, True)], ()),
    ("addmm, full", aten.addmm.default, [(4, 6), (4, 5), (5, 6)], [(True, True, False), (True, False, False)], ()),
    ("mm, large", aten.mm.default, [(70, 5), (5, 66)], [(True, False), (False, True)], ()),
    ("mm, large, wide", aten.mm.default, [(70, 80), (80, 66)], [(True, False), (False, True)], ()),
    ("mul, large, ranks", aten.mul.Tensor, [(66,), (70, 66)], [(True, False), (True, True)], ()),
    ("addcmul", aten.addcmul.default, [(4, 5), (4, 1), (4, 5)], [(True, True, False), (True, False, True)], ()),
    ("addcmul, ranks", aten.addcmul.default, [(4, 5), (5,), (4, 5)], [(True, True, False)], ()),
    ("bmm", aten.bmm.default, [(2, 4, 5), (2, 5, 6)], [(True, False), (False, True), (True, True)], ()),
    ("mul", aten.mul.Tensor, [(4, 5), (4, 5)], [(True, False), (False, True), (True, True)], ()),
    ("add, ranks", aten.add.Tensor, [(5,), (4, 5)], [(True, False), (False, True), (True, True)], ()),
    ("mul, ranks", aten.mul.Tensor, [(2, 4, 5), ()], [(True, True), (False, True), (True, False)], ()),
    ("div", aten.div.Tensor, [(4, 5), (4, 1)], [(True, False)], ()),
    ("neg", aten.neg.default, [(4, 5)], [(True,)], ()),
    ("t", aten.t.default, [(4, 5)], [(True,)], ()),
    ("t of vectors", aten.t.default, [(5,)], [(True,)], ()),
    ("view", aten.view.default, [(4, 6)], [(True,)], ([4, 2, 3],)),
    ("view, merged", aten._unsafe_view.default, [(4, 2, 3)], [(True,)], ([8, 3],)),
    ("transpose", aten.transpose.int, [(2, 4, 5)], [(True,)], (0, -1)),
    ("permute", aten.permute.default, [(2, 4, 5)], [(True,)], ([2, 0, 1],)),
    ("expand", aten.expand.default, [(1, 5)], [(True,)], ([4, 5],)),
    ("expand, ranks", aten.expand.default, [(5,)], [(True,)], ([2, 4, 5],)),
    ("unsqueeze", aten.unsqueeze.default, [(4, 5)], [(True,)], (-1,)),
    ("squeeze", aten.squeeze.dim, [(4, 1, 5)], [(True,)], (1,)),
    ("select", aten.select.int, [(4, 5)], [(True,)], (0, 2)),
    ("slice", aten.slice.Tensor, [(4, 6)], [(True,)], (1, 1, 5, 2)),
    ("clone", aten.clone.default, [(2, 4, 5)], [(True,)], ()),
    ("sum", aten.sum.dim_IntList, [(2, 4, 5)], [(True,)], ([0, -1],)),
    ("sum, kept", aten.sum.dim_IntList, [(2, 4, 5)], [(True,)], ([1], True)),
    ("sum of all", aten.sum.default, [(4, 5)], [(True,)], ()),
    ("mean", aten.mean.dim, [(2, 4, 5)], [(True,)], ([1], True)),
    ("embedding", aten.embedding.default, [(7, 5)], [(True,)], (torch.tensor([[0, 3], [6, 3]]),)),
]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(("operation", "shapes", "flags", "rest"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_a_rule_gives_what_vmap_gives(operation, shapes, flags, rest, order):
    for blocked in flags:
        given = tensors(shapes, blocked, order)
        flags_of_all = [*blocked, *(False for r in rest if isinstance(r, torch.Tensor))]
        ranks = [len(s) for s in shapes] + [r.ndim for r in rest if isinstance(r, torch.Tensor)]
        found = on_blocks(operation, flags_of_all, ranks)(*given, *rest)
        agree(found, mapped(operation, flags_of_all)(*given, *rest))


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("blocked", [(True, False), (False, True), (False, True, True), (True, False, False)])
@pytest.mark.parametrize(("stride", "padding", "dilation"), [(1, 0, 1), (2, 1, 1), (1, 2, 2)])
def test_convolution(blocked, order, stride, padding, dilation):
    x, weight, *bias = tensors([(5, 2, 9, 8), (4, 2, 3, 3), (4,)][: len(blocked)], blocked, order)
    rest = ([stride] * 2, [padding] * 2, [dilation] * 2, False, [0, 0], 1)
    given = (x, weight, bias[0] if bias else None, *rest)
    operation = aten.convolution.default
    found = on_blocks(operation, blocked, (4, 4, 1)[: len(blocked)])(*given)
    agree(found, mapped(operation, blocked)(*given))


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("blocked", [(True, False, False), (False, True, False), (False, False, True)])
@pytest.mark.parametrize("ask", [(True, True, False), (True, False, False), (False, True, False)])
@pytest.mark.parametrize("groups", [1, 2])
def test_convolution_backward(blocked, order, ask, groups):
    slope, x, weight = tensors([(5, 4, 5, 4), (5, 2, 9, 8), (4, 2 // groups, 3, 3)], blocked, order)
    rest = (None, [2, 2], [1, 1], [1, 1], False, [0, 0], groups, list(ask))
    operation = aten.convolution_backward.default
    found = on_blocks(operation, blocked, (4, 4, 4))(slope, x, weight, *rest)
    agree(found, mapped(operation, blocked)(slope, x, weight, *rest))


def test_the_bias_of_a_convolution():
    slope, x, weight = tensors([(5, 4, 5, 4), (5, 2, 9, 8), (4, 2, 3, 3)], (True, False, False), "second")
    rest = ([4], [2, 2], [1, 1], [1, 1], False, [0, 0], 1, [True, True, True])
    operation = aten.convolution_backward.default
    found = on_blocks(operation, (True, False, False), (4, 4, 4))(slope, x, weight, *rest)
    agree(found, mapped(operation, (True, False, False))(slope, x, weight, *rest))


@pytest.mark.parametrize("order", ORDERS)
def test_pooling(order):
    (x,) = tensors([(5, 2, 8, 8)], (False,), "first")
    _, index = torch.nn.functional.max_pool2d(x, 2, return_indices=True)
    (slope,) = tensors([(5, 2, 4, 4)], (True,), order)
    operation, rest = aten.max_pool2d_with_indices_backward.default, ([2, 2], [2, 2], [0, 0], [1, 1], False, index)
    blocked = (True, False, False)
    agree(on_blocks(operation, blocked, (4, 4, 4))(slope, x, *rest), mapped(operation, blocked)(slope, x, *rest))
    (flat,) = tensors([(5, 2, 64)], (True,), order)
    for dim, places in ((2, index.flatten(2)), (-1, index.flatten(2)), (0, index.flatten(2) % 5)):
        found = on_blocks(aten.gather.default, (True, False), (3, 3))(flat, dim, places)
        agree(found, mapped(aten.gather.default, (True, False))(flat, dim, places))


@pytest.mark.parametrize(("one", "two"), list(itertools.product([*ORDERS[:2], "last"], repeat=2)))
@pytest.mark.parametrize("blocked", [(True, False), (False, True)])
@pytest.mark.parametrize(("n", "p"), [(4, 6), (70, 66)], ids=["folded", "apart"])
def test_accumulated_products(n, p, blocked, one, two):
    a, b = tensors([(n, 5), (5, p)], blocked, one)
    (total,) = tensors([(n, p)], (True,), two, seed=1)
    wanted = total + mapped(aten.mm.default, blocked)(a, b)
    found = accumulate(blocked)(total, a, b)
    agree(found, wanted)
    assert found.data_ptr() == total.data_ptr()


def test_results_lie_as_the_large_product_gives_them():
    x, w = torch.randn(10, 5), torch.randn(K, 5, 4)
    hidden = on_blocks(aten.mm.default, (False, True), (2, 2))(x, w)
    assert in_memory_order(hidden) == [1, 0, 2]
    out = on_blocks(aten.mm.default, (True, False), (2, 2))(hidden, torch.randn(4, 3))
    assert in_memory_order(out) == [1, 0, 2]
    biased = elementwise(torch.add, (True, False), (1, 2))(torch.randn(K, 4), torch.randn(10, 4))
    assert in_memory_order(biased) == [1, 0, 2]


def test_results_of_large_products_lie_one_after_the_other():
    x, w = torch.randn(70, 5), torch.randn(K, 5, 66)
    hidden = on_blocks(aten.mm.default, (False, True), (2, 2))(x, w)
    out = on_blocks(aten.mm.default, (True, False), (2, 2))(hidden, torch.randn(66, 80))
    weights = on_blocks(aten.mm.default, (True, False), (2, 2))(out.mT, torch.randn(70, 66))
    biased = elementwise(torch.add, (True, False), (1, 2))(torch.randn(K, 80), torch.randn(70, 80))
    for block in (hidden, out, weights, biased):
        assert block.is_contiguous()
    assert elementwise(torch.add, (True, True), (1, 2))(torch.randn(K, 66), hidden).is_contiguous()


def test_a_wrong_rule_is_seen(monkeypatch):
    monkeypatch.setitem(RULES, aten.neg.default, lambda *_: lambda x: 2 * x)
    (x,) = tensors([(4, 5)], (True,), "first")
    with pytest.raises(AssertionError):
        agree(on_blocks(aten.neg.default, (True,), (2,))(x), mapped(aten.neg.default, (True,))(x))
