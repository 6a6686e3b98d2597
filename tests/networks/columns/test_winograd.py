"""Convolutions by tiles against torch's own; products of a network that uses them against a kept graph."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lanczos_saddle import Hessian
from lanczos_saddle.networks.columns import winograd
from lanczos_saddle.networks.columns.convolutions import convolution, convolution_backward

GIVEN = ([1, 1], [1, 1], [1, 1], False, [0, 0], 1)

SLACK = 1e-13
"""Rounding of transformed tiles: some ten units more than that of a direct convolution."""

SIZES = [(4, 16, 16, 8, 8), (3, 16, 24, 7, 12), (33, 40, 16, 4, 4), (8, 64, 32, 4, 4)]  # n, c, o, height, width


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def tensors(n, c, o, height, width, k=3):
    x, slope = torch.randn(k, n, c, height, width), torch.randn(k, n, o, height, width)
    return tuple(t.double() for t in (x, slope, torch.randn(k, o, c, 3, 3)))


def alike(found, wanted):
    assert found.shape == wanted.shape
    assert float((found - wanted).norm()) <= SLACK * float(wanted.norm())


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_a_block_of_inputs_or_of_weights_is_convolved_as_one_by_one(size):
    x, _, weight = tensors(*size)
    assert winograd.applies(x[0], weight[0], GIVEN, least=1)
    alike(winograd.convolved(x, weight[:1]), torch.stack([F.conv2d(one, weight[0], padding=1) for one in x]))
    alike(winograd.convolved(x[:1], weight), torch.stack([F.conv2d(x[0], one, padding=1) for one in weight]))


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_derivatives_are_those_of_autograd(size):
    x, slope, weight = tensors(*size)
    for column in range(len(x)):
        one, own = x[column].clone().requires_grad_(), weight[0].clone().requires_grad_()
        into, to_weight = torch.autograd.grad(F.conv2d(one, own, padding=1), (one, own), slope[0])
        alike(winograd.convolved(slope[:1], weight[:1], turned=True)[0], into)
        alike(winograd.weights_derivative(slope[:1], x)[column], to_weight)
    own = weight[0].clone().requires_grad_()
    wanted = [torch.autograd.grad(F.conv2d(x[0], own, padding=1), own, one)[0] for one in slope]
    alike(winograd.weights_derivative(slope, x[:1]), torch.stack(wanted))


@pytest.mark.parametrize("size", [(9, 16, 24, 8, 8), (8, 64, 32, 4, 4)], ids=str)
def test_small_pieces_give_the_same(monkeypatch, size):
    x, slope, weight = tensors(*size)

    def all_three():
        convolved = winograd.convolved(x, weight[:1]), winograd.convolved(x[:1], weight)
        return (*convolved, winograd.weights_derivative(slope, x[:1]), winograd.weights_derivative(slope[:1], x))

    whole = all_three()
    monkeypatch.setattr(winograd, "CHUNK", 36 * 8 * 16 * 5)
    for one, other in zip(whole, all_three(), strict=True):
        alike(one, other)


@pytest.mark.parametrize(
    ("stride", "padding", "dilation", "groups", "dtype", "side"),
    [
        ([2, 2], [1, 1], [1, 1], 1, torch.float64, 3),
        ([1, 1], [0, 0], [1, 1], 1, torch.float64, 3),
        ([1, 1], [1, 1], [2, 2], 1, torch.float64, 3),
        ([1, 1], [1, 1], [1, 1], 2, torch.float64, 3),
        ([1, 1], [1, 1], [1, 1], 1, torch.float32, 3),
        ([1, 1], [1, 1], [1, 1], 1, torch.float64, 1),
    ],
)
def test_other_convolutions_are_left_to_torch(stride, padding, dilation, groups, dtype, side):
    x, weight = torch.randn(8, 32, 8, 8, dtype=dtype), torch.randn(32, 32 // groups, side, side, dtype=dtype)
    assert not winograd.applies(x, weight, (stride, padding, dilation, False, [0, 0], groups))


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("blocked", [(True, False), (False, True)])
def test_derivatives_in_weights_that_are_written_as_convolutions(stride, dtype, blocked):
    """The backward pass of a backward pass convolves inputs (c, n, ...) with slopes (o, n, ...)."""
    side = 8 // stride
    x, slope = torch.randn(3, 5, 6, 8, 8).to(dtype), torch.randn(3, 7, 6, side, side).to(dtype)
    given = tuple(t if b else t[0] for t, b in zip((x, slope), blocked, strict=True))
    rest = ([1, 1], [1, 1], [stride, stride], False, [0, 0], 1)
    found = convolution(torch.ops.aten.convolution.default, blocked, (4, 4))(*given, None, *rest)
    for column in range(3):
        one, other = (t[column] if b else t[0] for t, b in zip((x, slope), blocked, strict=True))
        wanted = torch.ops.aten.convolution.default(one.double(), other.double(), None, *rest)
        assert float((found[column] - wanted).norm()) <= 1e3 * torch.finfo(dtype).eps * float(wanted.norm())


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("channels", [6, 16])
def test_transposed_convolutions_of_a_block_of_weights(stride, channels):
    slope, weight = torch.randn(4, channels, 8, 8).double(), torch.randn(3, channels, 16, 3, 3).double()
    rest = ([stride, stride], [1, 1], [1, 1], True, [stride - 1, stride - 1], 1)
    operation = torch.ops.aten.convolution.default
    found = convolution(operation, (False, True), (4, 4))(slope, weight, None, *rest)
    alike(found, torch.stack([operation(slope, one, None, *rest) for one in weight]))


def test_the_rules_take_tiles_where_they_apply():
    x, slope, weight = tensors(8, 16, 16, 8, 8)
    ask = [None, *GIVEN[:3], *GIVEN[3:], [True, True, False]]
    rule = convolution_backward(torch.ops.aten.convolution_backward.default, (True, False, False), (4, 4, 4))
    into, to_weight, _ = rule(slope, x[0], weight[0], *ask)
    for column in range(len(slope)):
        one = torch.ops.aten.convolution_backward.default(slope[column], x[0], weight[0], *ask)
        alike(into[column], one[0])
        alike(to_weight[column], one[1])


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("blocked", [(True, False, False), (False, True, False)], ids=str)
def test_derivatives_in_weights_of_one_point(stride, blocked):
    x, slope = torch.randn(3, 4, 6, 8, 8).double(), torch.randn(3, 4, 7, 8 // stride, 8 // stride).double()
    x, slope = (t.permute(0, 1, 3, 4, 2).contiguous().permute(0, 1, 4, 2, 3) for t in (x, slope))
    rest = (None, [stride, stride], [0, 0], [1, 1], False, [0, 0], 1, [False, True, False])
    operation = torch.ops.aten.convolution_backward.default
    given = (slope if blocked[0] else slope[0], x if blocked[1] else x[0], torch.empty(7, 6, 1, 1).double())
    found = convolution_backward(operation, blocked, (4, 4, 4))(*given, *rest)[1]
    for column in range(3):
        one = (given[0][column] if blocked[0] else given[0], given[1][column] if blocked[1] else given[1])
        wanted = operation(*(t.contiguous() for t in (*one, given[2])), *rest)[1]
        assert float((found[column] - wanted).norm()) <= SLACK * float(wanted.norm())


def test_products_of_a_normalized_residual_network_are_those_of_a_kept_graph():
    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.one = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1, bias=False)
            self.two, self.norm = nn.Conv2d(16, 32, 3, 2, 1), nn.BatchNorm2d(16)
            self.head = nn.Linear(32, 5)

        def forward(self, x):
            x = torch.tanh(self.stem(x))
            x = torch.tanh(x + self.norm(self.one(x)))
            return self.head(torch.tanh(self.two(x)).mean((2, 3)))

    model, x, y = Residual().double().eval(), torch.randn(8, 3, 8, 8).double(), torch.randint(5, (8,))
    parameters = list(model.parameters())
    slopes = torch.autograd.grad(F.cross_entropy(model(x), y), parameters, create_graph=True)
    block = torch.randn(sum(p.numel() for p in parameters), 3).double()
    wanted = []
    for v in block.mT:
        parts = [part.view_as(p) for part, p in zip(v.split([p.numel() for p in parameters]), parameters, strict=True)]
        found = torch.autograd.grad(slopes, parameters, parts, retain_graph=True)
        wanted.append(torch.cat([t.reshape(-1) for t in found]))
    hessian = Hessian(model, F.cross_entropy, (x, y))
    found = hessian @ block
    assert hessian.folding.folded
    alike(found, torch.stack(wanted, 1))
    alike(torch.stack([hessian @ v for v in block.mT], 1), found)
    assert torch.equal(hessian @ block, found)
