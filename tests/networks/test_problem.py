"""The loss as a function of theta: its value, its gradient, what it leaves as found and what it refuses."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, RandomSampler, SubsetRandomSampler, TensorDataset, WeightedRandomSampler

from lanczos_saddle.networks.batches import Batches
from lanczos_saddle.networks.problem import Problem

DOUBLE = torch.float64
GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(11, 4, generator=GENERATOR, dtype=DOUBLE)
Y = torch.randint(3, (11,), generator=GENERATOR)
BATCHES = [(X[:4], Y[:4]), (X[4:8], Y[4:8]), (X[8:], Y[8:])]


def linear(**options) -> nn.Module:
    torch.manual_seed(1)
    return nn.Linear(4, 3, **options).double()


def network(*middle: nn.Module) -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(4, 5), *middle, nn.Linear(5, 3)).double()


def problem(model: nn.Module | None = None, loss=F.cross_entropy, data=BATCHES, **options) -> Problem:
    return Problem(model or network(nn.Tanh()), loss, data, **options)


# ---------------------------------------------------------------- theta, value, gradient


@pytest.mark.parametrize(
    "data",
    [(X, Y), [X, Y], BATCHES, BATCHES[:2], tuple(BATCHES[:2]), DataLoader(TensorDataset(X, Y), batch_size=3)],
    ids=["pair", "list pair", "batches", "two batches", "tuple of two batches", "loader"],
)
def test_value_and_gradient_are_means_over_samples(data):
    model = network(nn.Tanh())
    n = 8 if isinstance(data, list | tuple) and len(data) == 2 and isinstance(data[1], tuple) else 11
    expected = F.cross_entropy(model(X[:n]), Y[:n])
    gradient = torch.cat([g.reshape(-1) for g in torch.autograd.grad(expected, tuple(model.parameters()))])
    made = problem(model, data=data)
    for limit in (1, 2, 100):
        torch.testing.assert_close(made.value(limit=limit), expected.detach(), rtol=1e-13, atol=0)
        torch.testing.assert_close(made.gradient(limit=limit), gradient, rtol=1e-12, atol=1e-15)
    assert made.weight == n


def test_theta_and_its_ranges():
    model = network(nn.Tanh())
    made = problem(model)
    assert made.names == ("0.weight", "0.bias", "2.weight", "2.bias")
    assert made.sizes == {"0.weight": 20, "0.bias": 5, "2.weight": 15, "2.bias": 3}
    assert made.ranges["2.weight"] == slice(25, 40)
    for name, p in model.named_parameters():
        torch.testing.assert_close(made.unflatten(made.theta)[name], p.detach(), rtol=0, atol=0)


def test_batches_are_cut_evenly_and_carry_their_weights():
    made = problem(data=(X, Y))
    assert [(b.size, b.weight) for b in made.batches(4)] == [(3, 3), (4, 4), (4, 4)]
    assert [b.size for b in problem().batches(3)] == [2, 2, 2, 2, 3]


def test_weights_of_class_means():
    weight = torch.tensor([1.0, 2.0, 4.0])
    targets = torch.tensor([0, 1, 2, 2, -100, 1, -100, -100, 0, 0, 0])
    by_class = problem(loss=nn.CrossEntropyLoss(weight=weight), data=(X, targets))
    assert by_class.weight == 1 + 2 + 4 + 4 + 2 + 3
    assert problem(loss=nn.CrossEntropyLoss(), data=(X, targets)).weight == 8
    assert problem(loss=nn.CrossEntropyLoss(reduction="sum"), data=(X, targets)).weight == 11
    torch.testing.assert_close(by_class.value(limit=1), by_class.value(limit=100), rtol=1e-13, atol=0)


@pytest.mark.parametrize("loss", [F.cross_entropy, lambda z, y: F.nll_loss(z.log_softmax(1), y), F.nll_loss])
def test_functions_leave_ignored_targets_out_as_the_modules_do(loss):
    targets = torch.tensor([0, 1, 2, 2, 0, 1, 0, 2, -100, -100, -100])
    options = {} if loss in (F.cross_entropy, F.nll_loss) else {"batch_weight": lambda y: (y >= 0).sum()}
    model = network(nn.Tanh())
    made = problem(model, loss, (X, targets), **options)
    assert made.weight == 8
    for limit in (1, 3, 100):
        torch.testing.assert_close(made.value(limit=limit), loss(model(X), targets).detach(), rtol=1e-13, atol=0)


def test_weights_of_resident_data_are_asked_for_once_a_limit():
    asked = []
    made = problem(data=(X, Y), batch_weight=lambda y: asked.append(len(y)) or len(y))
    for _ in range(3):
        before = len(asked)
        made.value(limit=4)
    assert len(asked) == before
    single = made.to(torch.float32)
    single.value(limit=4)
    assert len(asked) == before + 3
    assert [(b.size, b.weight) for b in made.batches(6)] == [(5, 5), (6, 6)]


def test_weights_of_loaders_are_asked_for_at_every_pass():
    """Their order may change."""
    weight = torch.tensor([1.0, 2.0, 4.0], dtype=DOUBLE)
    model, loss = network(nn.Tanh()), nn.CrossEntropyLoss(weight=weight)
    made = problem(model, loss, DataLoader(TensorDataset(X, Y), batch_size=3, shuffle=True))
    for seed in range(4):
        torch.manual_seed(seed)
        torch.testing.assert_close(made.value(), loss(model(X), Y).detach(), rtol=1e-13, atol=0)


def test_label_smoothing_and_probabilities():
    smooth = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 4.0]), label_smoothing=0.2).double()
    for targets in (Y, F.one_hot(Y, 3).double()):
        model = network(nn.Tanh())
        torch.testing.assert_close(
            problem(model, smooth, (X, targets)).value(limit=2), smooth(model(X), targets).detach(), rtol=1e-13, atol=0
        )


def test_frozen_and_tied_parameters():
    model = network(nn.Linear(5, 5))
    model[0].requires_grad_(False)
    assert problem(model).names == ("1.weight", "1.bias", "2.weight", "2.bias")
    tied = network(nn.Linear(5, 5), nn.Linear(5, 5))
    tied[2].weight = tied[1].weight
    assert "2.weight" not in problem(tied).names
    assert problem(tied, parameters="2.weight").names == ("1.weight",)


def test_integer_inputs_are_not_cast():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(5, 3), nn.Flatten(), nn.Linear(6, 3))
    made = problem(model, data=(torch.arange(22).view(11, 2) % 5, Y), dtype=DOUBLE)
    assert next(made.batches()).inputs.dtype == torch.int64
    assert made.value().dtype == DOUBLE


def test_snapshot_survives_training():
    model = network(nn.Tanh())
    made = problem(model)
    before = made.value()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(1)
    torch.testing.assert_close(made.value(), before, rtol=0, atol=0)
    torch.testing.assert_close(made.to(torch.float32).value(), before.float(), rtol=1e-6, atol=0)


# ---------------------------------------------------------------- left as found


def test_model_and_random_state_are_left_as_found():
    model = network(nn.Tanh(), nn.Dropout(0.0))
    model[1].eval()
    model[0].weight.grad = torch.full_like(model[0].weight, 7)
    values = [p.detach().clone() for p in model.parameters()]
    loader = DataLoader(TensorDataset(X, Y), batch_size=3, shuffle=True)
    state, sdpa = torch.get_rng_state(), torch.backends.cuda.flash_sdp_enabled()
    made = problem(model, data=loader)
    made.value()
    made.gradient()
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.backends.cuda.flash_sdp_enabled() == sdpa
    assert torch.backends.mha.get_fastpath_enabled()
    assert [m.training for m in model] == [True, False, True, True]
    assert torch.equal(model[0].weight.grad, torch.full_like(model[0].weight, 7))
    assert model[0].bias.grad is None
    assert all(torch.equal(p, v) and p.requires_grad for p, v in zip(model.parameters(), values, strict=True))


# ---------------------------------------------------------------- refused


class Noisy(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.dropout(x, 0.5))


def with_nan(t: Tensor) -> Tensor:
    t = t.clone()
    t[5, 1] = torch.nan
    return t


BAD_DATA = {
    "one-shot": (iter(BATCHES), "one-shot list_iterator: use list"),
    "empty list": ([], "at least one batch"),
    "empty tensors": ((X[:0], Y[:0]), "at least one sample; got zero-length"),
    "zero-length batch": ([(X, Y), (X[:0], Y[:0])], "at least one sample; got zero-length"),
    "lengths": ((X, Y[:5]), r"same samples; got lengths \[11\] in the inputs and \[5\]"),
    "nan": ((with_nan(X), Y), "inputs must be finite; got 1 NaN or infinite values among 44"),
    "nan in a batch": ([(with_nan(X), Y)], "inputs must be finite; got 1 NaN"),
    "triple": ([(X, Y, Y)], r"pair \(inputs, targets\); got tuple of length 3"),
    "dataset": (TensorDataset(X, Y), "wrap a Dataset of single samples in a DataLoader"),
    "arrays": ([(X.numpy(), Y.numpy())], "must be torch tensors .* got ndarray and ndarray"),
    "one tensor": (X, "data must be a pair .* got Tensor"),
    "number": (3, "got int, which cannot be iterated"),
    "features": ((X[:, :3], Y), r"accept the data; on tensors of shapes \[\(8, 3\), \(8,\)\] they raised Runtime"),
    "ignored": ((X, torch.full((11,), -100)), "positive total weight; got 0: are all targets ignored"),
}


@pytest.mark.parametrize("name", BAD_DATA)
def test_bad_data(name):
    data, message = BAD_DATA[name]
    with pytest.raises(ValueError, match=message):
        problem(data=data, loss=nn.CrossEntropyLoss()).value()


def diverged() -> nn.Module:
    model = linear()
    nn.init.constant_(model.weight, torch.nan)
    return model


BAD_MODELS = {
    "not a module": (lambda: torch.tanh, "must be a torch.nn.Module; got builtin"),
    "no parameters": (nn.Tanh, "got a model without parameters"),
    "all frozen": (lambda: linear().requires_grad_(False), r"got \['weight', 'bias'\], none of which has requires"),
    "batch norm": (lambda: network(nn.BatchNorm1d(5)), r"'1' \(BatchNorm1d\) has statistics .* call model.eval"),
    "no statistics": (lambda: network(nn.BatchNorm1d(5, track_running_stats=False)).eval(), "no running statistics"),
    "dropout": (lambda: network(nn.Dropout(0.2)), r"'1' \(Dropout\) has active dropout, p = 0.2: call model.eval"),
    "attention": (lambda: nn.MultiheadAttention(4, 2, dropout=0.1).double(), "MultiheadAttention.* active dropout"),
    "recurrent": (lambda: nn.LSTM(4, 3, num_layers=2, dropout=0.3).double(), "LSTM.* active dropout, p = 0.3"),
    "spectral norm": (lambda: nn.utils.parametrizations.spectral_norm(linear()), "a spectral norm .*: call model.eval"),
    "spectral norm, as a hook": (lambda: nn.utils.spectral_norm(linear()), "a spectral norm .*: call model.eval"),
    "functional dropout": (lambda: Noisy(4, 3).double(), "must be deterministic; they drew random numbers"),
    "nan": (diverged, "NaN or infinity in 'weight'"),
    "half": (lambda: nn.Linear(4, 3).half(), "float32 or float64; got torch.float16: pass dtype"),
    "mixed": (lambda: nn.Sequential(nn.Linear(4, 5).float(), nn.Linear(5, 3).double()), "must share one type; got"),
}


@pytest.mark.parametrize("name", BAD_MODELS)
def test_bad_models(name):
    make, message = BAD_MODELS[name]
    with pytest.raises(ValueError, match=message):
        problem(make())


BAD_LOSSES = {
    "bare sum": (lambda z, y: F.cross_entropy(z, y, reduction="sum"), "must add up over the parts of a batch"),
    "interacting samples": (lambda z, _: (z - z.mean(0)).square().mean(), "must add up .* Samples must not mix"),
    "not a number": (lambda z, _: z.mean() * torch.nan, "loss must be finite; got nan on 4 samples"),
    "a float": (lambda *_: 1.0, "must return a real floating-point tensor; got float"),
    "logits": (lambda z, _: z.mean(0), r"0-d mean or one value per sample, \(4, ...\); got shape \(3,\)"),
}


@pytest.mark.parametrize("name", BAD_LOSSES)
def test_bad_losses(name):
    loss, message = BAD_LOSSES[name]
    with pytest.raises(ValueError, match=message):
        problem(loss=loss)


def token_mean(z: Tensor, y: Tensor) -> Tensor:
    """A bare function of unknown rule."""
    return F.cross_entropy(z, y)


def test_token_mean_without_weights():
    """A bare function that skips targets weighs them all unless batch_weight tells: noticed at once."""
    targets = torch.where(torch.arange(11) < 3, -100, Y)
    with pytest.raises(ValueError, match="batch_weight=lambda targets"):
        problem(loss=token_mean, data=(X, targets))
    model = network(nn.Tanh())
    made = problem(model, token_mean, (X, targets), batch_weight=lambda y: (y >= 0).sum())
    expected = F.cross_entropy(model(X), targets).detach()
    torch.testing.assert_close(made.value(limit=2), expected, rtol=1e-13, atol=0)


@pytest.mark.parametrize("kind", ["pair", "loader"])
def test_ignored_targets_behind_the_trial_are_noticed(kind):
    """In a mean of unknown rule; a sum, one value a sample, or targets that are values say what they mean."""
    targets = torch.where(torch.arange(11) >= 9, -100, Y)
    data = (X, targets) if kind == "pair" else DataLoader(TensorDataset(X, targets), batch_size=4)
    with pytest.raises(
        ValueError, match=r"ignored needs its weight; .* batch_weight=lambda targets: \(targets != -100"
    ):
        problem(loss=token_mean, data=data).value()
    for reduction in ("sum", "none"):
        problem(loss=nn.CrossEntropyLoss(reduction=reduction), data=data).value()
    problem(loss=lambda z, y: F.cross_entropy(z, y, reduction="none"), data=data).value()
    problem(loss=lambda z, y: (z.sum(1) - y).square().mean(), data=data, batch_weight=len).value()


@pytest.mark.parametrize("weight", [-1.0, float("nan")])
def test_bad_batch_weight(weight):
    with pytest.raises(ValueError, match="finite weight >= 0; got"):
        problem(batch_weight=lambda _: weight)


@pytest.mark.parametrize("patterns", ["3.*", ["0.*", "3.*"]])
def test_patterns_that_match_nothing(patterns):
    with pytest.raises(ValueError, match=r"match a trainable parameter; got \['3.\*'\] for \['0.weight', "):
        problem(parameters=patterns)


def test_mode_changed_afterwards():
    model = network(nn.Dropout(0.5)).eval()
    made = problem(model)
    model.train()
    with pytest.raises(ValueError, match="active dropout"):
        made.value()


def loader(**options) -> DataLoader:
    return DataLoader(TensorDataset(X, Y), **options)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            loader(batch_size=3, shuffle=True, drop_last=True),
            "RandomSampler and drop_last=True, which leaves out 2 of 11",
        ),
        (loader(sampler=RandomSampler(Y, replacement=True)), r"draws with RandomSampler: .* data = list\(loader\)"),
        (loader(sampler=RandomSampler(Y, num_samples=7)), "draws with RandomSampler"),
        (loader(sampler=WeightedRandomSampler([1.0] * 11, 11)), "draws with WeightedRandomSampler"),
    ],
    ids=["drop_last", "replacement", "some", "weighted"],
)
def test_loaders_that_sample(data, message):
    with pytest.raises(ValueError, match=rf"every pass over the data must give the same samples; .*{message}"):
        problem(data=data)


@pytest.mark.parametrize(
    ("data", "samples"),
    [
        (loader(batch_size=3, shuffle=True), 11),
        (loader(batch_size=11, shuffle=True, drop_last=True), 11),
        (loader(batch_size=3, drop_last=True), 9),
        (loader(batch_size=3, sampler=SubsetRandomSampler(range(7))), 7),
    ],
    ids=["shuffled", "nothing dropped", "always the same dropped", "subset"],
)
def test_loaders_whose_passes_agree(data, samples):
    made = problem(data=data)
    assert made.weight == samples
    torch.testing.assert_close(made.value(), made.value(), rtol=1e-13, atol=0)


def test_data_that_change_between_passes():
    class Shrinking:
        passes = 0

        def __iter__(self):
            self.passes += 1
            return iter(BATCHES[: 3 if self.passes < 3 else 2])  # the trial is the first pass

    made = problem(data=Shrinking())
    made.value()
    with pytest.raises(ValueError, match="every pass over the data must give the same samples"):
        made.value()


def test_sorted_data_do_not_hide_a_loss_that_does_not_add_up():
    targets = torch.arange(3).repeat_interleave(40)
    inputs = torch.randn(120, 4, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)
    weights = torch.tensor([1.0, 5.0, 20.0], dtype=DOUBLE)

    def weighted(outputs, targets):
        return F.cross_entropy(outputs, targets, weight=weights)

    for data in ((inputs, targets), [(inputs, targets)]):
        with pytest.raises(ValueError, match="the loss must add up"):
            problem(loss=weighted, data=data)


def test_a_tuple_of_two_dicts_is_one_pair():
    found = Batches(({"x": X}, {"y": X[:, 0]}), torch.float64, torch.device("cpu")).resident
    assert set(found.inputs) == {"x"}
    assert set(found.targets) == {"y"}
