"""Columns from the diagonal down, against differences of gradients and whole products."""

import pytest
import torch
from torch import nn

from lanczos_saddle.dense import exact
from lanczos_saddle.dense.exact import assemble
from lanczos_saddle.dense.one_triangle import assemble_triangle
from lanczos_saddle.dense.triangle import Triangle
from lanczos_saddle.networks.hessian import Hessian
from lanczos_saddle.networks.tails import groups_of, lower_columns
from lanczos_saddle.structure import by_layers


class Attention(nn.Module):
    """A transformer's layer, with an embedding that is its own output layer: a shared parameter."""

    def __init__(self):
        super().__init__()
        self.embedding, self.place = nn.Embedding(7, 6), nn.Parameter(torch.randn(5, 6))
        self.layer = nn.TransformerEncoderLayer(6, 2, 8, dropout=0.0, batch_first=True, activation="gelu")

    def forward(self, tokens):
        return (self.layer(self.embedding(tokens) + self.place) @ self.embedding.weight.T).mean(1)


def convolutions():
    layers = [nn.Conv2d(1, 3, 3, padding=1), nn.Tanh(), nn.MaxPool2d(2), nn.Conv2d(3, 4, 3, padding=1), nn.Tanh()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(36, 4)), torch.randn(12, 1, 6, 6)


def attention():
    return Attention(), torch.randint(0, 7, (12, 5))


def backwards():
    """The order of the parameters is that of definition, not of use."""
    torch.manual_seed(0)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.last, self.first = nn.Linear(5, 4), nn.Linear(6, 5)

        def forward(self, x):
            return self.last(self.first(x).sigmoid())

    return Net(), torch.randn(12, 6)


def hessian(make):
    torch.manual_seed(0)
    model, inputs = make()
    inputs = inputs.double() if inputs.is_floating_point() else inputs
    targets = torch.randint(0, 4, (12,))
    return Hessian(model.double(), nn.CrossEntropyLoss(), (inputs, targets))


every = pytest.mark.parametrize("make", [convolutions, pytest.param(attention, marks=pytest.mark.slow), backwards])


def mirrored(operator, block):
    matrix = torch.full(operator.shape, float("nan"), dtype=torch.float64)
    for start, first, part in lower_columns(operator, block):
        assert part.shape == (operator.shape[0] - start, min(block, part.shape[1]))
        matrix[start:, first : first + part.shape[1]] = part
        matrix[first : first + part.shape[1], start:] = part.mT
    return matrix


@every
@pytest.mark.parametrize("block", [5, pytest.param(64, marks=pytest.mark.slow)])
def test_columns_are_those_of_the_products(make, block):
    operator = hessian(make)
    expected = operator @ torch.eye(operator.shape[0], dtype=torch.float64)
    assert (mirrored(operator, block) - expected).norm() <= 1e-13 * expected.norm()


@every
def test_columns_are_differences_of_gradients(make):
    operator = hessian(make)
    problem, matrix, step = operator.problem, mirrored(operator, 64), 1e-5
    for j in (0, problem.size // 2, problem.size - 1):
        e = torch.zeros(problem.size, dtype=torch.float64)
        e[j] = step
        slope = (problem.gradient(problem.theta + e) - problem.gradient(problem.theta - e)) / (2 * step)
        assert (matrix[:, j] - slope).norm() <= 1e-7 * max(1.0, float(slope.norm()))


@every
def test_groups_are_all_parameters_in_order(make):
    problem = hessian(make).problem
    groups = groups_of(problem)
    assert tuple(name for group in groups for name in group) == problem.names
    assert len(groups) > 1


@every
def test_both_assemblies_take_them(make, monkeypatch):
    monkeypatch.setattr(by_layers, "LEAST", 1)
    asked = []
    plain = exact._fill_by_products
    monkeypatch.setattr(exact, "_fill_by_products", lambda *args: asked.append(args) or plain(*args))
    operator = hessian(make)
    expected = operator @ torch.eye(operator.shape[0], dtype=torch.float64)
    dense, triangle = assemble(operator), Triangle(operator.shape[0])
    products, error = assemble_triangle(operator, triangle)
    assert not asked
    assert dense.products == products == operator.shape[0] + 10
    assert (dense.matrix - triangle.dense()).norm() <= 1e-14 * expected.norm()
    assert (dense.matrix - expected).norm() <= 1e-13 * expected.norm()
    assert max(error, dense.error) <= 1e-11 * float(expected.norm())


def test_wrong_columns_give_way_to_products(monkeypatch):
    monkeypatch.setattr(by_layers, "LEAST", 1)

    def wrong(operator, block):
        for start, first, part in lower_columns(operator, block):
            yield start, first, part * (1 + 1e-6)

    monkeypatch.setattr(by_layers, "lower_columns", wrong)
    operator = hessian(convolutions)
    expected = operator @ torch.eye(operator.shape[0], dtype=torch.float64)
    assert (assemble(operator).matrix - expected).norm() <= 1e-14 * expected.norm()
