"""Training methods against trajectories known in closed form."""

import math

import pytest
import torch
from matrices import seeded
from torch import nn

from lanczos_saddle.training.methods import STEPS, make_optimizer, take_step
from lanczos_saddle.training.networks import mlp
from lanczos_saddle.training.perturbations import NoisySGD, PerturbedGradientDescent, jin_constants, uniform_in_ball
from lanczos_saddle.training.saddle_free import SaddleFreeNewton
from lanczos_saddle.training.training import TrainingSettings, settings_for, train

F64 = torch.float64


def at(*values):
    return nn.Parameter(torch.tensor(values, dtype=F64))


def indefinite(size=8):
    """H = Q diag(lambda) Q', |H| = Q diag(|lambda|) Q', lambda from -3 to 4.5, none below 0.2 in magnitude."""
    values = torch.linspace(-3, 4.5, size, dtype=F64)
    q = torch.linalg.qr(torch.randn(size, size, generator=seeded(1), dtype=F64)).Q
    return (q * values) @ q.mT, (q * values.abs()) @ q.mT


# torch's own, with the paper's constants


def test_sgd_has_nesterov_momentum():
    x, h, step, mu = at(1.0), 2.0, 0.1, 0.9
    optimizer = make_optimizer("sgd", [x], step=step, momentum=mu, nesterov=True, generator=seeded())
    place, speed = 1.0, 0.0
    for _ in range(20):
        take_step(optimizer, lambda: h * x.square().sum() / 2)
        speed = mu * speed + h * place
        place -= step * (h * place + mu * speed)
    assert x.item() == pytest.approx(place, rel=1e-12)


def test_adam_and_adagrad_on_a_slope():
    # constant gradient g: Adam moves by eta g / (|g| + eps) a step, Adagrad by eta / sqrt(t)
    x, y, g, steps = at(0.0), at(0.0), 1e-7, 30
    adam = make_optimizer("adam", [x], step=0.1, generator=seeded())
    adagrad = make_optimizer("adagrad", [y], step=0.1, generator=seeded())
    for _ in range(steps):
        take_step(adam, lambda: g * x.sum())
        take_step(adagrad, lambda: g * y.sum())
    assert x.item() == pytest.approx(-0.1 * steps * g / (g + 1e-8), rel=1e-9)
    expected = sum(0.1 * g / (math.sqrt(t) * g + 1e-10) for t in range(1, steps + 1))
    assert y.item() == pytest.approx(-expected, rel=1e-9)


# noisy SGD


@pytest.mark.parametrize("h", [1.0, -0.5])  # stationary at a minimum, growing without bound at a saddle
def test_noise_has_the_variance_of_theory(h):
    # x <- (1 - eta h) x - eta xi from 0: var x_t = eta^2 a^2 / 3 (1 - q^t) / (1 - q), q = (1 - eta h)^2
    step, a, steps, copies = 0.1, 1e-3, 60, 40_000
    x = nn.Parameter(torch.zeros(copies, dtype=F64))
    optimizer = NoisySGD([x], lr=step, noise=a, generator=seeded())
    q = (1 - step * h) ** 2
    for t in range(1, steps + 1):
        take_step(optimizer, lambda: h * x.square().sum() / 2)
        if t in (1, 5, steps):
            variance = step**2 * a**2 / 3 * (1 - q**t) / (1 - q)
            # 5 standard errors of a variance of 40,000 numbers with kurtosis at most 3: 5 sqrt(2 / 40000) = 3.5 %
            assert x.detach().square().mean().item() == pytest.approx(variance, rel=0.036)
    assert abs(x.detach().mean().item()) < 5 * math.sqrt(variance / copies)
    if h > 0:
        assert variance == pytest.approx(step * a**2 / (3 * h * (2 - step * h)), rel=1e-5)


def test_one_step_of_noise_stays_within_its_bounds():
    x = nn.Parameter(torch.zeros(10_000))
    take_step(NoisySGD([x], lr=0.5, noise=1e-3, generator=seeded()), lambda: 0 * x.sum())
    assert 0.999 * 5e-4 < x.abs().max().item() <= 5e-4
    assert abs(x.mean().item()) < 5 * 5e-4 / math.sqrt(3 * 10_000)


def test_without_noise_it_is_gradient_descent():
    x = at(1.0, -2.0)
    optimizer = NoisySGD([x], lr=0.1, noise=0.0, generator=seeded())
    for _ in range(10):
        take_step(optimizer, lambda: x.square().sum())
    assert torch.allclose(x, 0.8**10 * torch.tensor([1.0, -2.0], dtype=F64), rtol=1e-13)


def test_momentum_carries_gradient_and_noise():
    x, y = at(1.0, -2.0), at(1.0, -2.0)
    noisy = NoisySGD([x], lr=0.1, noise=0.3, momentum=0.9, generator=seeded())
    plain = torch.optim.SGD([y], lr=0.1, momentum=0.9)
    drawn = seeded()
    for _ in range(7):
        take_step(noisy, lambda: x.square().sum())
        noise = 0.3 * (2 * torch.rand(2, generator=drawn, dtype=F64) - 1)
        take_step(plain, lambda noise=noise: y.square().sum() + noise @ y)
    torch.testing.assert_close(x, y, rtol=1e-12, atol=0)


# perturbed gradient descent


def double_well(p):
    """x^2 / 2 + y^4 / 4 - y^2 / 2: a strict saddle at 0, minima of -1/4 at (0, +-1)."""
    return p[0].square() / 2 + p[1] ** 4 / 4 - p[1].square() / 2


def test_points_are_uniform_in_the_ball():
    generator = seeded(3)
    points = torch.stack([uniform_in_ball(3, 2.0, generator) for _ in range(4000)])
    law = (points.norm(dim=1) / 2) ** 3  # uniform in (0, 1)
    assert law.max() <= 1
    assert law.mean().item() == pytest.approx(0.5, abs=5 / math.sqrt(12 * 4000))
    assert law.square().mean().item() == pytest.approx(1 / 3, abs=5 * math.sqrt(4 / 45 / 4000))
    assert points.mean(0).abs().max() < 5 * 2 / math.sqrt(5 * 4000)  # E x_i^2 = r^2 / (N + 2)


def test_it_leaves_a_strict_saddle_where_gradient_descent_stays_and_ends_at_the_minimum():
    still, moving = at(0.0, 0.0), at(0.0, 0.0)
    descent = make_optimizer("sgd", [still], step=0.1, generator=seeded())
    perturbed = PerturbedGradientDescent(
        [moving], lr=0.1, radius=1e-2, gradient_threshold=1e-3, decrease=1e-3, wait=100, generator=seeded()
    )
    steps = 0
    while not perturbed.finished and steps < 1000:
        take_step(descent, lambda: double_well(still))
        take_step(perturbed, lambda: double_well(moving))
        steps += 1
    assert not still.any()
    assert perturbed.finished
    assert perturbed.perturbations == 2  # one to leave, one to learn that there is nothing below
    assert moving.abs().tolist() == pytest.approx([0.0, 1.0], abs=1e-3)


def test_a_perturbation_is_one_point_of_the_ball_and_then_descent():
    x = at(0.0, 0.0)
    optimizer = PerturbedGradientDescent([x], lr=0.1, radius=0.01, generator=seeded(5), wait=1000)
    start = uniform_in_ball(2, 0.01, seeded(5))
    for _ in range(20):
        take_step(optimizer, lambda: (x[0].square() - x[1].square()) / 2)
    expected = start * torch.tensor([0.9**20, 1.1**20], dtype=F64)
    assert torch.allclose(x, expected, rtol=1e-12)
    assert optimizer.perturbations == 1


def test_at_a_minimum_it_returns_to_where_it_was():
    x = at(0.0, 0.0)
    optimizer = PerturbedGradientDescent([x], lr=0.1, radius=0.1, decrease=1e-6, wait=5, generator=seeded())
    values = [take_step(optimizer, lambda: x.square().sum()).item() for _ in range(20)]
    assert optimizer.finished
    assert not x.any()
    assert values[1] > 0
    assert not any(values[6:])


@pytest.mark.parametrize("cut", [3, 60, 130, 205])
def test_a_run_that_was_saved_goes_on_as_if_it_had_not_been(cut, tmp_path):
    options = {"lr": 0.1, "radius": 1e-2, "gradient_threshold": 1e-3, "decrease": 1e-3, "wait": 100}

    def run(x, optimizer, steps):
        for _ in range(steps):
            take_step(optimizer, lambda: double_well(x))

    whole, generator = at(0.0, 0.0), seeded()
    straight = PerturbedGradientDescent([whole], **options, generator=generator)
    run(whole, straight, 400)
    first, generator = at(0.0, 0.0), seeded()
    stopped = PerturbedGradientDescent([first], **options, generator=generator)
    run(first, stopped, cut)
    torch.save({"x": first, "optimizer": stopped.state_dict(), "generator": generator.get_state()}, tmp_path / "run.pt")
    run(first, stopped, 50)  # what was saved is not what goes on
    kept = torch.load(tmp_path / "run.pt")
    again = kept["x"].detach().clone().requires_grad_()
    resumed = PerturbedGradientDescent([again], **options, generator=seeded().set_state(kept["generator"]))
    resumed.load_state_dict(kept["optimizer"])
    run(again, resumed, 400 - cut)
    assert torch.equal(again, whole)
    assert resumed.finished
    assert straight.finished
    assert resumed.perturbations == straight.perturbations == 2


def test_without_a_decrease_it_goes_on():
    x = at(0.0)
    optimizer = PerturbedGradientDescent([x], lr=0.1, radius=0.1, wait=5, gradient_threshold=1.0, generator=seeded())
    for _ in range(25):
        take_step(optimizer, lambda: x.square().sum())
    assert not optimizer.finished
    assert optimizer.perturbations == 5  # at steps 0, 6, 12, 18, 24


def test_without_gradients_there_is_noise_alone():
    # a loss that does not depend on the parameters: as for noisy SGD, nothing to follow and no reason to stay
    for make in (NoisySGD, PerturbedGradientDescent):
        x, other = at(0.0, 0.0), at(1.0)
        optimizer = make([x], lr=0.1, generator=seeded())
        take_step(optimizer, lambda other=other: other.sum())
        assert x.grad is None
        assert x.all()
    assert optimizer.perturbations == 1
    assert torch.equal(x.detach(), uniform_in_ball(2, 1.0, seeded()))


def test_the_constants_are_those_of_the_algorithm():
    # d l gap / (epsilon^2 failure) = 2 * 4 * 1 / (0.01 * 0.1) = 8000, log = 8.987, chi = 26.96
    found = jin_constants(dimension=2, smoothness=4, hessian_lipschitz=1, epsilon=0.1, gap=1, failure=0.1, c=1)
    chi = 3 * math.log(8000)
    assert found.step == 0.25
    assert found.gradient_threshold == pytest.approx(0.1 / chi**2)
    assert found.radius == pytest.approx(0.025 / chi**2)
    assert found.decrease == pytest.approx(math.sqrt(1e-3) / chi**3)
    assert found.wait == math.ceil(chi * 4 / math.sqrt(0.1))
    easy = jin_constants(dimension=1, smoothness=1, hessian_lipschitz=1, epsilon=1, gap=1, failure=1)
    assert easy.radius == pytest.approx(1 / 144)  # chi is at least 12


def test_the_algorithm_with_its_own_constants_finds_the_minimum():
    x = at(0.0, 0.0)
    found = jin_constants(dimension=2, smoothness=4, hessian_lipschitz=6, epsilon=0.1, gap=0.25)
    optimizer = PerturbedGradientDescent(
        [x],
        lr=found.step,
        radius=found.radius,
        gradient_threshold=found.gradient_threshold,
        decrease=found.decrease,
        wait=found.wait,
        generator=seeded(),
    )
    for _ in range(4 * found.wait):
        take_step(optimizer, lambda: double_well(x))
    assert optimizer.finished
    assert x.abs().tolist() == pytest.approx([0.0, 1.0], abs=1e-3)


# saddle-free Newton


def test_it_lands_where_newton_with_absolute_eigenvalues_lands():
    h, absolute = indefinite()
    start = torch.randn(8, generator=seeded(), dtype=F64)
    for mu in (0.0, 0.5):
        x = nn.Parameter(start.clone())
        take_step(SaddleFreeNewton([x], dampings=[mu]), lambda x=x: x @ h @ x / 2)
        expected = start - torch.linalg.solve(absolute + mu * torch.eye(8, dtype=F64), h @ start)
        assert torch.allclose(x, expected, atol=1e-12)


def test_one_step_reaches_the_minimum_of_a_convex_quadratic():
    _, absolute = indefinite()
    target = torch.randn(8, generator=seeded(2), dtype=F64)
    x = nn.Parameter(torch.zeros(8, dtype=F64))
    optimizer = SaddleFreeNewton([x])
    take_step(optimizer, lambda: (x - target) @ absolute @ (x - target) / 2)
    assert optimizer.damping == 1e-6
    assert torch.allclose(x, target, atol=1e-5)  # damping / smallest eigenvalue = 1e-6 / 0.21
    assert x.grad is None


def test_a_small_subspace_is_the_scaled_gradient():
    h, _ = indefinite()
    start = torch.randn(8, generator=seeded(), dtype=F64)
    x = nn.Parameter(start.clone())
    take_step(SaddleFreeNewton([x], dimension=1, dampings=[0.25]), lambda: x @ h @ x / 2)
    g = h @ start
    curvature = abs(g @ h @ g) / (g @ g)
    assert torch.allclose(x, start - g / (curvature + 0.25), atol=1e-12)


def test_a_saddle_repels_it():
    x = at(0.3, 1e-4)
    optimizer = SaddleFreeNewton([x])
    take_step(optimizer, lambda: double_well(x))
    assert x[0].item() == pytest.approx(0.0, abs=1e-6)
    assert x[1].item() == pytest.approx(2e-4, rel=1e-5)  # lambda = -1: the distance doubles
    for _ in range(30):
        take_step(optimizer, lambda: double_well(x))
    assert x[1].item() == pytest.approx(1.0, abs=1e-6)


def test_the_damping_of_the_lowest_loss_is_taken():
    def rosenbrock(p):
        return (1 - p[0]).square() + 100 * (p[1] - p[0].square()).square()

    grid = [1e3, 1e2, 1e1, 1.0, 0.1]
    after = {}
    for mu in grid:
        x = at(-1.2, 1.0)
        take_step(SaddleFreeNewton([x], dampings=[mu]), lambda x=x: rosenbrock(x))
        after[mu] = rosenbrock(x.detach()).item()
    x = at(-1.2, 1.0)
    optimizer = SaddleFreeNewton([x], dampings=grid)
    take_step(optimizer, lambda: rosenbrock(x))
    assert optimizer.damping == min(after, key=after.get)
    assert rosenbrock(x.detach()).item() == min(after.values())


def test_it_stays_where_every_step_raises_the_loss_and_where_the_gradient_vanishes():
    x = at(3.0)  # log cosh is flat there: Newton's step is -sinh(6) / 2 = -100.9
    optimizer = SaddleFreeNewton([x], dampings=[0.0])
    take_step(optimizer, lambda: x.cosh().log().sum())
    assert optimizer.damping is None
    assert x.item() == 3.0
    saddle = at(0.0, 0.0)
    take_step(SaddleFreeNewton([saddle]), lambda: double_well(saddle))
    assert not saddle.any()


def test_a_linear_loss_has_no_curvature():
    x = at(1.0, 1.0)
    take_step(SaddleFreeNewton([x], dampings=[0.0, 0.5]), lambda: (2 * x).sum())
    assert x.tolist() == pytest.approx([-3.0, -3.0])  # g / mu = 4


# in training


@pytest.mark.parametrize("method", STEPS)
def test_every_method_trains_and_repeats(method, images):
    settings = settings_for(method)
    epochs = 2 if method == "saddle-free-newton" else 6
    settings = TrainingSettings(method=method, step=settings.step, epochs_min=epochs, epochs_max=epochs)
    weights = []
    for _ in range(2):
        generator = seeded(3)
        model = mlp([64, 10, 10], generator=generator)
        result = train(model, images, generator=generator, settings=settings)
        weights.append(model[0].weight.detach())
    assert torch.equal(*weights)
    assert all(a.loss > b.loss for a, b in zip(result.history, result.history[1:], strict=False))
    assert result.history[-1].loss < math.log(10)
    assert all(p.grad is None for p in model.parameters())


def test_saddle_free_newton_learns_digits_in_two_epochs(images):
    generator = seeded(3)
    model = mlp([64, 10, 10], generator=generator)
    settings = TrainingSettings(method="saddle-free-newton", step=1.0, epochs_min=1, epochs_max=2)
    assert train(model, images, generator=generator, settings=settings).train_accuracy > 0.9


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: make_optimizer("newton", [p], step=1.0, generator=seeded()), "method must be one of sgd, adam"),
        (lambda _: settings_for("newton"), "got 'newton'"),
        (lambda _: TrainingSettings(method="newton"), "got 'newton'"),
        (lambda p: NoisySGD([p], lr=0.0, generator=seeded()), "lr must be positive"),
        (lambda p: NoisySGD([p], lr=0.1, noise=-1.0, generator=seeded()), "noise must be at least 0"),
        (lambda p: NoisySGD([p], lr=0.1, momentum=1.0, generator=seeded()), "momentum must be at least 0 and below 1"),
        (lambda p: PerturbedGradientDescent([p], lr=0.1, radius=math.nan, generator=seeded()), "radius must be"),
        (lambda p: PerturbedGradientDescent([p], lr=0.1, decrease=0.0, generator=seeded()), "decrease must be"),
        (lambda p: PerturbedGradientDescent([p], lr=0.1, wait=5.5, generator=seeded()), "of at least 1; got 5.5"),
        (lambda p: PerturbedGradientDescent([p], lr=0.1, wait=math.inf, generator=seeded()), "a whole number of steps"),
        (lambda p: PerturbedGradientDescent([p], lr=0.1, wait=0, generator=seeded()), "wait must be .* got 0"),
        (lambda p: PerturbedGradientDescent([p.detach()], lr=0.1, generator=seeded()), "none that requires a gradient"),
        (
            lambda p: PerturbedGradientDescent([{"params": [p]}, {"params": [at(1.0)]}], lr=0.1, generator=seeded()),
            "got 2 groups: pass them as one",
        ),
        (lambda p: SaddleFreeNewton([p], dimension=0), "dimension must be at least 1"),
        (lambda p: SaddleFreeNewton([p], dampings=[]), "dampings must be one or more"),
        (lambda p: SaddleFreeNewton([p], lr=math.inf), "lr must be positive"),
        (
            lambda _: jin_constants(dimension=2, smoothness=1, hessian_lipschitz=0, epsilon=1, gap=1),
            "hessian_lipschitz must be positive",
        ),
    ],
)
def test_what_cannot_be_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make(at(1.0))
