"""Products with a layer's block against the dense Hessian."""

import pytest
import torch
from oracles import perceptron
from torch import nn

from lanczos_saddle import Hessian, assemble
from lanczos_saddle.structure.facts import convex_block
from lanczos_saddle.structure.layer_block import LayerBlock


def network(widths, activation, bias=True):
    return nn.Sequential(nn.Flatten(), *perceptron(widths, activation, bias=bias))


def data(classes, loss, samples=70):
    generator = torch.Generator().manual_seed(3)
    inputs = torch.randn(samples, 2, 3, generator=generator, dtype=torch.float64)
    if isinstance(loss, nn.CrossEntropyLoss):
        return inputs, torch.randint(classes, (samples,), generator=generator)
    return inputs, torch.rand(samples, classes, generator=generator, dtype=torch.float64)


LOSSES = [
    nn.CrossEntropyLoss(),
    nn.CrossEntropyLoss(weight=torch.tensor([1.0, 0.5, 2.0, 0.0]), label_smoothing=0.1),
    nn.MSELoss(reduction="sum"),
    nn.BCEWithLogitsLoss(),
    nn.HuberLoss(),
]


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: type(loss).__name__)
@pytest.mark.parametrize(
    ("layer", "names", "bias"),
    [
        ("1", "*", True),
        ("3", "*", True),
        ("5", "*", True),
        ("1", "*", False),
        ("1", "1.*", True),
        ("3", ["*.weight"], True),
        ("3", ["1.*", "*.bias"], True),
        ("1", ["1.weight", "3.bias"], True),
    ],
)
def test_products_are_those_of_the_hessian(loss, layer, names, bias, monkeypatch):
    monkeypatch.setattr("lanczos_saddle.structure.layer_block.WORK", 8 * 5 * 9 * 30)  # chunks of 30 samples
    model = network((6, 5, 5, 4), nn.LeakyReLU(0.2), bias)
    hessian = Hessian(model, loss, data(4, loss), parameters=names)
    block = convex_block(hessian.problem, layer)
    assert LayerBlock.supports(hessian.problem, block)
    found = LayerBlock(hessian.problem, block)
    expected = assemble(hessian).matrix[block.index][:, block.index]
    v = torch.randn(len(expected), 9, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    tolerance = 1e-13 * float(expected.abs().max()) * len(expected)
    torch.testing.assert_close(found @ v, expected @ v, rtol=0, atol=tolerance)
    torch.testing.assert_close(found @ v[:, 0], expected @ v[:, 0], rtol=0, atol=tolerance)
    assert (found @ v[:, :0]).shape == (len(expected), 0)
    assert found.shape == tuple(expected.shape)


def test_uneven_batches_are_read():
    loss = nn.CrossEntropyLoss()
    model, (x, y) = network((6, 5, 4), nn.ReLU()), data(4, loss)
    batches = [(x[:7], y[:7]), (x[7:60], y[7:60]), (x[60:], y[60:])]
    hessian = Hessian(model, loss, batches)
    block = convex_block(hessian.problem)
    whole = assemble(Hessian(model, loss, (x, y))).matrix[block.index][:, block.index]
    found = LayerBlock(hessian.problem, block) @ torch.eye(len(whole), dtype=torch.float64)
    torch.testing.assert_close(found, whole, rtol=0, atol=1e-14)


def test_positions_inside_a_sample_are_left_to_autograd():
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Flatten(), nn.Linear(8, 2)).double()
    x, y = data(2, nn.CrossEntropyLoss())
    problem = Hessian(model, nn.CrossEntropyLoss(), (x, y)).problem
    assert not LayerBlock.supports(problem, convex_block(problem, "0"))
    assert LayerBlock.supports(problem, convex_block(problem, "3"))
