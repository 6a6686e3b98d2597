import math
from dataclasses import replace

import pytest
import torch
from matrices import seeded
from torch import nn

from lanczos_saddle.training.datasets import Dataset
from lanczos_saddle.training.evaluation import evaluate, loss_and_gradient_norm
from lanczos_saddle.training.networks import INITIALIZATIONS, mlp
from lanczos_saddle.training.training import TrainingSettings, train

# networks


def test_an_mlp_has_the_parameters_of_the_paper():
    model = mlp([784, 25, 10], generator=seeded())
    assert sum(p.numel() for p in model.parameters()) == 19885
    assert list(model.state_dict()) == ["0.weight", "0.bias", "2.weight", "2.bias"]
    assert model[0].weight.requires_grad
    assert model[0].weight.dtype == torch.float32


def test_weights_come_from_the_generator_alone():
    before = torch.random.get_rng_state()
    one, two, other = (mlp([5, 4, 3], generator=seeded(seed)) for seed in (1, 1, 2))
    assert torch.equal(before, torch.random.get_rng_state())
    assert torch.equal(one[0].weight, two[0].weight)
    assert not torch.equal(one[0].weight, other[0].weight)


@pytest.mark.parametrize(
    ("name", "variance"),
    [
        ("normal", 2 / 500),
        ("xavier", 2 / 500),
        ("he", 2 / 400),
        ("he-printed", (4 / 500) ** 2 / 3),
        ("he-normal", 2 / 400),
        ("orthogonal", 1 / 400),
        ("uniform", 0.05**2 / 3),
        ("torch", 1 / (3 * 400)),
    ],
)
def test_initializations_have_their_variance(name, variance):
    layer = mlp([400, 100], generator=seeded(), initialization=name)[0]
    # the sample variance of 40,000 draws is within 5 standard errors, at most 5 sqrt(2 / 40000) = 3.5 %
    assert layer.weight.var().item() == pytest.approx(variance, rel=0.036)
    assert (layer.bias == 0).all()


def test_every_initialization_is_tested():
    tested = {"normal", "xavier", "he", "he-printed", "he-normal", "orthogonal", "uniform", "torch"}
    assert set(INITIALIZATIONS) == tested


def test_orthogonal_weights_are_orthonormal():
    for sizes in ([9, 4], [4, 9]):
        weight = mlp(sizes, generator=seeded(), initialization="orthogonal")[0].weight.double()
        gram = weight @ weight.mT if sizes[0] > sizes[1] else weight.mT @ weight
        assert torch.allclose(gram, torch.eye(4, dtype=torch.float64), atol=1e-6)  # float32


def test_printed_bounds_are_kept_and_reached():
    for name, bound in (("he-printed", 4 / 500), ("xavier", math.sqrt(6 / 500)), ("uniform", 0.05)):
        largest = mlp([400, 100], generator=seeded(), initialization=name)[0].weight.abs().max().item()
        assert 0.999 * bound < largest <= bound * (1 + 1e-7)  # 40,000 draws; float32


@pytest.mark.parametrize(
    ("sizes", "initialization", "message"),
    [
        ([3], "normal", "two or more whole numbers"),
        ([3, 0, 2], "normal", r"at least 1; got \[3, 0, 2\]"),
        ([3, 2], "gauss", "must be one of normal, xavier, .*, torch; got 'gauss'"),
    ],
)
def test_networks_that_cannot_be(sizes, initialization, message):
    with pytest.raises(ValueError, match=message):
        mlp(sizes, generator=seeded(), initialization=initialization)


# training


def test_digits_are_learned_in_seconds(images):
    generator = seeded()
    model = mlp([64, 25, 10], generator=generator)
    result = train(model, images, generator=generator)
    assert result.converged
    assert result.test_accuracy > 0.93
    assert result.epochs == len(result.history) < 100
    before, last = result.history[-2:]
    assert abs(before.loss - last.loss) < 10e-4
    assert all(abs(a.loss - b.loss) >= 10e-4 for a, b in zip(result.history[3:-2], result.history[4:-1], strict=True))


def test_weights_are_seen_after_every_step_and_stay_what_they_are(images):
    weights, seen = [], {}
    for look in (None, lambda made: seen.setdefault(made, weights[-1][0].weight.detach().clone())):
        generator = seeded(1)
        weights.append(mlp([64, 6, 10], generator=generator))
        settings = TrainingSettings(batch=600, epochs_min=1, epochs_max=2, tolerance=0.0)
        train(weights[-1], images, generator=generator, settings=settings, after_step=look)
    assert list(seen) == [1, 2, 3, 4, 5, 6]  # 1500 images: two full batches and a short one, twice
    assert torch.equal(seen[6], weights[0][0].weight)  # looking changes nothing
    assert not torch.equal(seen[5], seen[6])


def test_a_seed_gives_the_same_weights_and_the_surroundings_stay(images):
    torch.manual_seed(5)
    state, threads = torch.random.get_rng_state(), torch.get_num_threads()
    weights = []
    for _ in range(2):
        generator = seeded(3)
        model = mlp([64, 8, 10], generator=generator).eval()
        model.insert(1, nn.Dropout(0.2))
        train(model, images, generator=generator, settings=TrainingSettings(epochs_min=1, epochs_max=2))
        assert not model.training
        assert all(p.grad is None for p in model.parameters())
        weights.append(model[0].weight)
    assert torch.equal(*weights)
    assert torch.equal(state, torch.random.get_rng_state())
    assert torch.get_num_threads() == threads


def test_loss_and_gradient_are_those_of_the_full_mean(images, monkeypatch):
    monkeypatch.setattr("lanczos_saddle.training.evaluation.CHUNK", 400)  # uneven: 1500 = 3 x 400 + 300
    model = mlp([64, 25, 10], generator=seeded())
    x, y = images.x_train, images.y_train
    loss, norm = loss_and_gradient_norm(model, x, y)
    double = mlp([64, 25, 10], generator=seeded()).double()
    full = nn.functional.cross_entropy(double(x.double()), y)
    full.backward()
    expected = math.sqrt(sum(p.grad.square().sum().item() for p in double.parameters()))
    assert loss == pytest.approx(full.item(), rel=1e-13)  # float64 sums of 1,500 terms
    assert norm == pytest.approx(expected, rel=1e-12)
    assert all(p.grad is None and p.dtype == torch.float32 for p in model.parameters())
    assert evaluate(model, x, y).loss == pytest.approx(loss, rel=1e-6)


def test_the_rule_waits_for_the_minimum_and_zero_tolerance_for_the_maximum(images):
    slow = TrainingSettings(step=1e-9, epochs_min=3, epochs_max=5)
    model = mlp([64, 4, 10], generator=seeded())
    result = train(model, images, generator=seeded(), settings=slow)
    assert (result.epochs, result.converged) == (3, True)
    result = train(model, images, generator=seeded(), settings=replace(slow, tolerance=0.0))
    assert (result.epochs, result.converged) == (5, False)


def test_divergence_says_step_and_epoch(images):
    settings = TrainingSettings(step=1e30)
    model = mlp([64, 4, 10], generator=seeded())
    with pytest.raises(ValueError, match=r"diverged: .* after epoch 1 by sgd with step 1e\+30.*smaller step"):
        train(model, images, generator=seeded(), settings=settings)


def test_progress_goes_to_stderr(images, capsys):
    settings = TrainingSettings(epochs_min=1, epochs_max=2)
    train(mlp([64, 4, 10], generator=seeded()), images, generator=seeded(), settings=settings, progress=True)
    written = capsys.readouterr()
    assert written.out == ""
    assert "loss=" in written.err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch": 0}, "batch must be at least 1"),
        ({"step": 0.0}, "step must be positive"),
        ({"step": math.nan}, "step must be positive"),
        ({"momentum": 1.0}, r"momentum must be in \[0, 1\)"),
        ({"momentum": 0.0}, "nesterov needs a momentum"),
        ({"tolerance": -1.0}, "tolerance must be at least 0"),
        ({"epochs_min": 9, "epochs_max": 8}, "epochs_min <= epochs_max"),
    ],
)
def test_settings_that_cannot_be(options, message):
    with pytest.raises(ValueError, match=message):
        TrainingSettings(**options)


def nan_model():
    model = mlp([64, 4, 10], generator=seeded())
    nn.init.constant_(model[0].weight, math.nan)
    return model


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (nn.Flatten(), "at least one parameter with requires_grad=True"),
        (nan_model(), "start from finite weights"),
        (mlp([5, 10], generator=seeded()), "take images of 64 features"),
        (mlp([64, 9], generator=seeded()), r"one output a class, \(n, 10\) for digits; got \(1, 9\)"),
    ],
)
def test_models_that_cannot_be_trained(model, message, images):
    with pytest.raises(ValueError, match=message):
        train(model, images, generator=seeded())


def test_a_float64_model_is_trained_in_float64():
    x, y = torch.randn(20, 3, generator=seeded()), torch.arange(20) % 2
    data = Dataset("toy", x, y, x[:4], y[:4], digest="")
    model = mlp([3, 2], generator=seeded()).double()
    result = train(model, data, generator=seeded(), settings=TrainingSettings(epochs_min=1, epochs_max=2))
    assert model[0].weight.dtype == torch.float64
    assert result.history[-1].loss == pytest.approx(result.loss, rel=1e-12)
