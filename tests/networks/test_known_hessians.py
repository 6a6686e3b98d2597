"""Networks that know their Hessian, held to dense float64 oracles that share nothing with them."""

import math

import numpy as np
import pytest
import torch
from matrices import seeded
from torch import nn

from lanczos_saddle.networks.known_hessians import relu_zero_output, softmax_regression, two_layer_linear

EPS = torch.finfo(torch.float64).eps


def dense_hessian(problem):
    """The Hessian of the mean loss over theta, by autodiff in the model's type."""
    names, shapes = zip(*[(name, p.shape) for name, p in problem.model.named_parameters()], strict=True)
    theta = torch.cat([p.detach().flatten() for p in problem.model.parameters()])
    inputs, targets = problem.data

    def loss(flat):
        parts = flat.split([math.prod(shape) for shape in shapes])
        parameters = {name: part.view(shape) for name, part, shape in zip(names, parts, shapes, strict=True)}
        return problem.loss(torch.func.functional_call(problem.model, parameters, (inputs,)), targets)

    return torch.autograd.functional.hessian(loss, theta)


def signs(hessian):
    """(negative, zero, positive) with a zero of N eps |H|, and the ratio of the gap above it."""
    values = np.linalg.eigvalsh(hessian.numpy())
    zero = 10 * len(values) * EPS * abs(values).max()
    nonzero = abs(values)[abs(values) > zero]
    assert nonzero.min() > 1e4 * zero  # the dense count is not in doubt
    negative, positive = int((values < -zero).sum()), int((values > zero).sum())
    return negative, len(values) - negative - positive, positive


def samples(n, d, classes, seed=0):
    inputs = torch.randn(n, d, generator=seeded(seed), dtype=torch.float64)
    return inputs, torch.randint(0, classes, (n,), generator=seeded(seed + 100))


def agree(problem):
    hessian = dense_hessian(problem)
    computed = np.linalg.eigvalsh(hessian.numpy())
    bound = 4 * len(computed) * EPS * abs(computed).max()  # two solvers, and as much for autodiff
    assert problem.eigenvalues.shape == (len(computed),)
    assert abs(computed - problem.eigenvalues.numpy()).max() <= bound
    assert signs(hessian) == problem.counts


@pytest.mark.parametrize(("n", "d", "classes"), [(30, 5, 4), (3, 6, 3), (20, 4, 2)])
def test_softmax_regression(n, d, classes):
    inputs, targets = samples(n, d, classes)
    problem = softmax_regression(inputs, targets, classes)
    assert problem.counts == (0, d * classes - min(n, d) * (classes - 1), min(n, d) * (classes - 1))
    agree(problem)


@pytest.mark.parametrize("elementwise", [False, True])
@pytest.mark.parametrize(("d", "width", "outputs"), [(5, 4, 3), (2, 3, 6), (4, 1, 1)])
def test_two_layer_linear(d, width, outputs, elementwise):
    inputs, _ = samples(25, d, 2)
    targets = torch.randn(25, outputs, generator=seeded(9), dtype=torch.float64)
    problem = two_layer_linear(inputs, targets, width, elementwise=elementwise)
    assert isinstance(problem.loss, nn.MSELoss) == elementwise
    negative = width * min(d, outputs)
    assert problem.counts == (negative, width * (d + outputs) - 2 * negative, negative)
    agree(problem)


@pytest.mark.parametrize(("n", "d", "width", "classes"), [(60, 4, 5, 3), (40, 2, 3, 5), (6, 3, 8, 3), (50, 3, 4, 2)])
def test_relu_zero_output(n, d, width, classes):
    """Generic; fewer inputs than classes; fewer samples than units; two classes."""
    problem = relu_zero_output(*samples(n, d, classes), width, classes, seeded(4))
    assert signs(dense_hessian(problem)) == problem.counts


def test_relu_zero_output_is_generic_on_enough_data():
    problem = relu_zero_output(*samples(200, 6, 4), 7, 4, seeded(4))
    assert problem.counts[0] == 7 * 3
    assert problem.counts[2] == 8 * 3


def test_relu_zero_output_with_pixels_and_units_that_never_fire():
    inputs, targets = samples(30, 4, 3)
    inputs = -inputs.abs()
    inputs[:, 1] = 0
    problem = relu_zero_output(inputs, targets, 6, 3, seeded(2))
    fired = (problem.model[0](inputs) > 0).any(0).sum()
    assert fired < 6
    assert signs(dense_hessian(problem)) == problem.counts


def test_relu_zero_output_with_a_class_that_never_occurs_and_one_sample():
    inputs, targets = samples(1, 4, 2)
    problem = relu_zero_output(inputs, targets, 5, 4, seeded(3))
    assert signs(dense_hessian(problem)) == problem.counts


def test_models_draw_nothing_from_the_global_generator():
    state = torch.get_rng_state()
    inputs, targets = samples(20, 4, 3)
    softmax_regression(inputs, targets, 3)
    relu_zero_output(inputs, targets, 5, 3, seeded())
    assert torch.equal(torch.get_rng_state(), state)


def test_models_follow_the_type_of_the_inputs():
    inputs, targets = samples(20, 4, 3)
    problem = relu_zero_output(inputs.float(), targets, 5, 3, seeded())
    assert {p.dtype for p in problem.model.parameters()} == {torch.float32}
    assert problem.loss(problem.model(inputs.float()), targets).detach().isfinite()
