"""Losses that plain autograd alone can handle, on networks with a closed form: every question by the general route."""

import pytest
import torch
from oracles import DOUBLE, X, Y, differences, entrywise, everything, mlp
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from lanczos_saddle import GaussNewton, Hessian, assemble, count_eigenvalues


class Square(torch.autograd.Function):
    """Old style: no setup_context, so no transform of torch.func."""

    @staticmethod
    def forward(ctx, z: Tensor) -> Tensor:
        ctx.save_for_backward(z)
        return z**2

    @staticmethod
    def backward(ctx, g: Tensor) -> Tensor:
        return 2 * g * ctx.saved_tensors[0]


def with_gradient(z: Tensor, t: Tensor) -> Tensor:
    """A penalty on the slope of the loss in the outputs."""
    slope = torch.autograd.grad(F.cross_entropy(z, t, reduction="sum"), z, create_graph=True)[0]
    return F.cross_entropy(z, t) + slope.square().sum(1).mean()


def with_numpy(z: Tensor, t: Tensor) -> Tensor:
    """Targets are read by NumPy, outputs too."""
    return F.cross_entropy(z * torch.as_tensor(1 + (t.numpy() == 2))[:, None] + 0 * z.detach().numpy().max(), t)


def checkpointed(z: Tensor, t: Tensor) -> Tensor:
    """A checkpoint around the loss."""
    return checkpoint(F.cross_entropy, z, t, use_reentrant=False)


LOSSES = {
    "old Function": lambda z, t: F.cross_entropy(Square.apply(z), t),
    "sum over outputs": lambda z, t: Square.apply(z - F.one_hot(t, 3)).sum(1).mean(),
    "checkpoint": checkpointed,
    "NumPy": with_numpy,
    "autograd.grad": with_gradient,
}


def penalized(model: nn.Module):
    """The squared norm of the gradient in the parameters, sample by sample: it adds up over parts of a batch."""

    def loss(z: Tensor, t: Tensor) -> Tensor:
        values = F.cross_entropy(z, t, reduction="none")
        last = list(model.parameters())[-1]
        slopes = [torch.autograd.grad(v, last, create_graph=True)[0].square().sum() for v in values]
        return values + torch.stack(slopes)

    return loss


def every_entry_and_question(hessian: Hessian, expected: Tensor) -> None:
    entrywise(assemble(hessian).matrix, expected)
    everything(hessian, expected, 1e-7)


LONG = ("NumPy", "checkpoint", "sum over outputs")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in LONG else []) for name in LOSSES]
)
def test_every_question_of_a_hessian(name):
    model, loss = mlp(), LOSSES[name]
    every_entry_and_question(
        Hessian(model, loss, (X, Y)), differences(lambda: loss(model(X), Y), list(model.parameters()))
    )


def test_a_penalty_on_gradients_in_the_parameters():
    model = mlp()
    loss = penalized(model)
    every_entry_and_question(
        Hessian(model, loss, (X, Y)), differences(lambda: loss(model(X), Y).mean(), list(model.parameters()))
    )


@pytest.mark.parametrize("name", LOSSES)
def test_gauss_newton_is_that_of_the_jacobian(name):
    model, loss = mlp(), LOSSES[name]
    parameters = list(model.parameters())
    outputs = model(X)
    rows = [torch.autograd.grad(z, parameters, retain_graph=True) for z in outputs.reshape(-1)]
    jacobian = torch.stack([torch.cat([g.reshape(-1) for g in row]) for row in rows])
    z = outputs.detach().requires_grad_()
    bend = differences(lambda: loss(z, Y), [z])
    expected = jacobian.T @ bend @ jacobian
    matrix = GaussNewton(model, loss, (X, Y))
    entrywise(assemble(matrix).matrix, expected)
    counts = count_eigenvalues(matrix, relative_threshold=1e-2)
    values = torch.linalg.eigvalsh((expected + expected.T) / 2)
    assert int((values > counts.threshold).sum()) in counts.positive
    assert int((values < -counts.threshold).sum()) in counts.negative


def test_gauss_newton_of_a_loss_that_looks_at_parameters_is_refused_in_one_line():
    model = mlp()
    with pytest.raises(ValueError, match="must differentiate the model and the loss twice") as refusal:
        assemble(GaussNewton(model, penalized(model), (X, Y)))
    assert "\n" not in str(refusal.value)


def test_a_preconditioner_by_name_is_refused_in_one_line():
    hessian = Hessian(mlp(), LOSSES["old Function"], (X, Y))
    for name in ("ekfac", "subset"):
        with pytest.raises(ValueError, match=r"needs a model and a loss that torch\.func can differentiate"):
            count_eigenvalues(hessian, threshold=1e-6, method="lanczos", preconditioner=name)
    of = Hessian.of(lambda: F.cross_entropy(mlp()(X), Y), mlp())
    with pytest.raises(ValueError, match="needs the network"):
        count_eigenvalues(of, threshold=1e-6, method="lanczos", preconditioner="subset")


@pytest.mark.parametrize("name", ["old Function", "autograd.grad"])
def test_a_small_threshold_takes_no_preconditioner_that_cannot_be_had(name):
    model, loss = mlp(), LOSSES[name]
    counts = count_eigenvalues(Hessian(model, loss, (X, Y)), relative_threshold=1e-5, method="lanczos")
    values = torch.linalg.eigvalsh(differences(lambda: loss(model(X), Y), list(model.parameters())))
    assert int((values < -counts.threshold).sum()) in counts.negative


def test_a_function_with_dead_coordinates():
    weights = torch.randn(6, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)
    hessian = Hessian.of(lambda p: (p[0][:4] ** 4).sum(), [weights])
    counts = count_eigenvalues(hessian, threshold=1e-3, method="lanczos")
    assert (counts.near_zero.lower, counts.near_zero.upper) == (2, 2)
    assert (counts.positive.lower, counts.positive.upper) == (4, 4)


def test_a_value_of_a_function_that_differentiates():
    model = mlp()

    def function(parameters: nn.Module) -> Tensor:
        points = X[:, :5].clone().requires_grad_()
        slope = torch.autograd.grad(parameters(points).sum(), points, create_graph=True)[0]
        return slope.square().mean()

    hessian = Hessian.of(function, model)
    torch.testing.assert_close(hessian.problem.value(), function(model).detach())
    every_entry_and_question(hessian, differences(lambda: function(model), list(model.parameters())))
