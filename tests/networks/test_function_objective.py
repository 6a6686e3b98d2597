"""The Hessian of any scalar function of tensors, against closed forms and differences of plain gradients."""

import pytest
import torch
from oracles import DOUBLE, X, Y, differences, mlp
from torch import Tensor, nn
from torch.nn import functional as F

from lanczos_saddle import Hessian, assemble, classify, count_eigenvalues, exact_eigenvalues, spectral_density


def matches(hessian: Hessian, function, parameters: list[Tensor]) -> bool:
    expected = differences(function, parameters)
    return float((assemble(hessian).matrix - expected).norm()) <= 1e-7 * float(expected.norm())


def test_a_quadratic_form_in_every_kind_of_container():
    a = torch.randn(4, 4, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)
    a = a + a.T
    x, y = torch.randn(2, 2, generator=torch.Generator().manual_seed(1), dtype=DOUBLE)

    def form(p: Tensor) -> Tensor:
        return p @ a @ p / 2

    given = {
        "list": (lambda p: form(torch.cat(p)), [x, y]),
        "tuple": (lambda p: form(torch.cat(p)), (x, y)),
        "dict": (lambda p: form(torch.cat([p["x"], p["y"]])), {"x": x, "y": y}),
        "closure": (lambda: form(torch.cat([x, y])), [x, y]),
        "generator": (lambda: form(torch.cat([x, y])), (t for t in (x, y))),
    }
    for function, parameters in given.values():
        hessian = Hessian.of(function, parameters)
        torch.testing.assert_close(assemble(hessian).matrix, a, rtol=0, atol=1e-13)
        assert not x.requires_grad
        assert hessian.fidelity.status == "agrees"
        torch.testing.assert_close(exact_eigenvalues(hessian), torch.linalg.eigvalsh(a), rtol=0, atol=1e-12)
    assert Hessian.of(*given["dict"]).problem.names == ("x", "y")


def test_a_module_in_a_closure_with_a_penalty():
    model = mlp()

    def loss() -> Tensor:
        return F.cross_entropy(model(X), Y) + 0.1 * sum(p.square().sum() for p in model.parameters())

    assert matches(Hessian.of(loss, model), loss, list(model.parameters()))
    assert matches(
        Hessian.of(lambda m: F.cross_entropy(m(X), Y), model),
        lambda: F.cross_entropy(model(X), Y),
        [*model.parameters()],
    )
    assert matches(Hessian.of(loss, model.parameters()), loss, list(model.parameters()))


def test_counts_densities_and_classification():
    model = mlp()
    hessian = Hessian.of(lambda: F.cross_entropy(model(X), Y), model)
    expected = Hessian(model, F.cross_entropy, (X, Y))
    exact = count_eigenvalues(expected, threshold=1e-3)
    assert count_eigenvalues(hessian, threshold=1e-3).negative == exact.negative
    assert exact.negative.lower in count_eigenvalues(hessian, threshold=1e-3, method="lanczos").negative
    assert abs(float(spectral_density(hessian).weights.sum()) - 1) < 1e-9
    told = classify(hessian, threshold=1e-3)
    assert told.value == pytest.approx(F.cross_entropy(model(X), Y).item(), rel=1e-12)
    assert told.gradient_norm == pytest.approx(float(expected.problem.gradient().norm()), rel=1e-10)


def test_physics_informed_with_two_sets_of_points():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(1, 6), nn.Tanh(), nn.Linear(6, 1)).double()
    inside, ends = torch.rand(20, 1, dtype=DOUBLE), torch.tensor([[0.0], [1.0]], dtype=DOUBLE)

    def residual() -> Tensor:
        t = inside.clone().requires_grad_()
        u = net(t)
        slope = torch.autograd.grad(u.sum(), t, create_graph=True)[0]
        bend = torch.autograd.grad(slope.sum(), t, create_graph=True)[0]
        return (bend + u).square().mean()

    def functional() -> Tensor:
        def u(t: Tensor) -> Tensor:
            return net(t[None])[0, 0]

        bend = torch.func.vmap(torch.func.grad(lambda t: torch.func.grad(u)(t).sum()))(inside)
        return (bend + net(inside)).square().mean()

    def boundary() -> Tensor:
        return net(ends).square().sum()

    for term in (residual, functional):
        hessian = Hessian.of([(1.0, term), (10.0, boundary)], net)
        assert matches(hessian, lambda term=term: term() + 10 * boundary(), list(net.parameters()))


def test_a_contrastive_loss_over_a_batch():
    model = mlp()

    def loss() -> Tensor:
        z = F.normalize(model(X), dim=1)
        return F.cross_entropy(z[:12] @ z[12:].T / 0.5, torch.arange(12))

    assert matches(Hessian.of(loss, model), loss, list(model.parameters()))


def test_an_optimizer_closure_leaves_gradients_as_they_were():
    model = mlp()
    optimizer = torch.optim.LBFGS(model.parameters())
    F.cross_entropy(model(X), Y).backward()
    before = [p.grad.clone() for p in model.parameters()]

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(X), Y)
        loss.backward()
        return loss

    hessian = Hessian.of(closure, model)
    image = hessian @ torch.ones(hessian.shape[0], dtype=DOUBLE)
    expected = Hessian(model, F.cross_entropy, (X, Y)) @ torch.ones(hessian.shape[0], dtype=DOUBLE)
    torch.testing.assert_close(image, expected, rtol=0, atol=1e-12)
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), before, strict=True))


def test_an_energy_of_positions_at_another_type():
    positions = torch.randn(5, 3, generator=torch.Generator().manual_seed(2))

    def energy(p: list[Tensor]) -> Tensor:
        gaps = p[0][:, None] - p[0]
        return (0.1 + gaps.square().sum(-1)).sqrt().sum()

    hessian = Hessian.of(energy, [positions], dtype=DOUBLE)
    wide = [positions.double().requires_grad_()]
    assert matches(hessian, lambda: energy(wide), wide)
    assert int((exact_eigenvalues(hessian).abs() < 1e-12).sum()) >= 3  # translations


def test_later_training_does_not_change_it():
    model = mlp()
    hessian = Hessian.of(lambda: F.cross_entropy(model(X), Y), model)
    v = torch.ones(hessian.shape[0], dtype=DOUBLE)
    before = hessian @ v
    with torch.no_grad():
        for p in model.parameters():
            p.add_(1)
    torch.testing.assert_close(hessian @ v, before, rtol=0, atol=0)


LEAF = torch.ones(2, dtype=DOUBLE)


@pytest.mark.parametrize(
    ("function", "parameters", "message"),
    [
        (lambda p: p[0], [LEAF], "must return one real number, a 0-d tensor; got shape"),
        (lambda: 1.0, [LEAF], "got float"),
        (lambda a, b: (a + b).sum(), [LEAF], r"got one with arguments \['a', 'b'\]"),
        (lambda p: p[0].log().sum(), [-LEAF], "must be finite"),
        (lambda p: (p[0] * torch.randn(2)).sum(), [LEAF], "drew random numbers"),
        (lambda p: p[0].sum(), LEAF, "got one tensor: put it in a list"),
        (lambda p: p[0].sum(), [], "at least one tensor"),
        (lambda p: p[0].sum(), [LEAF.int()], "real floating-point"),
        (lambda p: p[0].sum(), [LEAF.requires_grad_() * 2], "must be leaves"),
        (lambda p: p[0].sum(), [LEAF, LEAF], "given once"),
        (lambda p: p[0].sum(), [3.0], "'0' is a float"),
        ([], [LEAF], "at least one function"),
        ([(1.0, "f")], [LEAF], "must be given; got list"),
        (lambda p: p[0] @ torch.ones(3).double(), [LEAF], "it raised RuntimeError"),
        (lambda p: p[0].detach().square().sum() + p[0].sum(), [LEAF], "slope of the loss differs"),
    ],
)
def test_misuse_takes_one_line(function, parameters, message):
    with pytest.raises(ValueError, match=message) as caught:
        Hessian.of(function, parameters).fidelity  # noqa: B018
    assert "\n" not in str(caught.value)
