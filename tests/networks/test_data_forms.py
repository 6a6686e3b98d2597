"""The forms in which data come: each is the mean that a user would compute over all of it, or refused."""

from types import SimpleNamespace

import pytest
import torch
from oracles import DOUBLE, X, Y, differences, mlp
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from lanczos_saddle import Hessian, assemble, count_eigenvalues


def same(hessian: Hessian, function, model: nn.Module) -> bool:
    expected = differences(function, [p for p in model.parameters() if p.requires_grad])
    value = float(hessian.problem.value())
    assert value == pytest.approx(float(function().detach()), rel=1e-12)
    assert hessian.fidelity.status == "agrees"
    return float((assemble(hessian).matrix - expected).norm()) <= 1e-7 * float(expected.norm())


class Language(nn.Module):
    """Next-token loss over labels that are not -100, as causal models of transformers compute it."""

    def __init__(self, shift: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.head, self.shift = nn.Embedding(7, 3).double(), nn.Linear(3, 7).double(), shift

    def forward(self, input_ids: Tensor, labels: Tensor | None = None) -> SimpleNamespace:
        logits = self.head(self.embed(input_ids).tanh())
        if labels is None:
            return SimpleNamespace(logits=logits, loss=None)
        kept = logits[:, : logits.shape[1] - self.shift]
        loss = F.cross_entropy(kept.reshape(-1, 7), labels[:, self.shift :].reshape(-1))
        return SimpleNamespace(loss=loss, logits=logits)


def sentences(count: int, length: int, ignored: int, seed: int = 0) -> dict[str, Tensor]:
    ids = torch.randint(7, (count, length), generator=torch.Generator().manual_seed(seed))
    labels = ids.clone()
    labels[: count // 2, length - ignored :] = -100
    labels[1, 0] = -100
    return {"input_ids": ids, "labels": labels}


@pytest.mark.parametrize("shift", [0, 1])
def test_the_loss_of_the_model_itself_weighs_the_labels_that_count(shift):
    """Batches of two lengths, with other shares of ignored labels: a mean over all tokens that count."""
    model = Language(shift)
    batches = [sentences(4, 5, 2), sentences(3, 5, 1, 1), sentences(6, 8, 4, 2)]
    hessian = Hessian(model, None, batches)

    def own() -> Tensor:
        total, count = torch.zeros((), dtype=DOUBLE), 0
        for batch in batches:
            weight = int((batch["labels"][:, shift:] != -100).sum())
            total, count = total + weight * model(**batch).loss, count + weight
        return total / count

    assert same(hessian, own, model)


def test_the_loss_of_the_model_itself_in_one_batch_or_a_loader():
    model, batch = Language(1), sentences(8, 5, 2)
    whole = assemble(Hessian(model, None, batch)).matrix
    assert same(Hessian(model, None, batch), lambda: model(**batch).loss, model)
    rows = [{name: t[i] for name, t in batch.items()} for i in range(8)]
    loaded = Hessian(model, None, DataLoader(rows, batch_size=3, shuffle=True))
    torch.testing.assert_close(assemble(loaded).matrix, whole, rtol=0, atol=1e-13)


def test_a_model_that_returns_its_loss():
    class Returns(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = mlp()

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return F.cross_entropy(self.inner(x), y)

    model = Returns()
    assert same(Hessian(model, None, (X, Y)), lambda: model(X, Y), model)
    assert same(Hessian(model, None, [(X[:7], Y[:7]), (X[7:], Y[7:])]), lambda: model(X, Y), model)


def test_a_loss_that_is_no_mean_over_labels_is_refused_with_a_way_out_that_works():
    class Balanced(Language):
        def forward(self, input_ids: Tensor, labels: Tensor | None = None) -> SimpleNamespace:
            out = super().forward(input_ids, labels)
            out.loss = out.loss + out.logits.mean().square()
            return out

    model, batch = Balanced(1), sentences(8, 5, 2)
    with pytest.raises(ValueError, match=r"must be a mean over its labels .* Hessian.of"):
        Hessian(model, None, batch)
    hessian = Hessian.of(lambda: model(**batch).loss, model)
    expected = differences(lambda: model(**batch).loss, list(model.parameters()))
    assert float((assemble(hessian).matrix - expected).norm()) <= 1e-7 * float(expected.norm())


def test_a_loss_of_none_without_labels():
    ids = sentences(4, 5, 1)["input_ids"]
    with pytest.raises(ValueError, match="do the data have labels"):
        Hessian(Language(1), None, {"input_ids": ids})


class Two(nn.Module):
    def __init__(self, *, optional: bool) -> None:
        super().__init__()
        self.inner, self.optional = mlp(), optional

    def forward(self, a: Tensor, b: Tensor | None = None) -> Tensor:
        if b is None and not self.optional:
            raise TypeError("two inputs are needed")
        return self.inner(a if b is None else a * b)


def both(z: Tensor, y) -> Tensor:
    return F.cross_entropy(z, y[0]) + z.square().mean() * y[1].mean() if isinstance(y, tuple) else z.mean()


def test_tuples_of_inputs_and_targets():
    model, extra = Two(optional=False), torch.ones(24, dtype=DOUBLE)
    data = ((X, X.flip(0)), (Y, extra))
    assert same(Hessian(model, both, data), lambda: both(model(*data[0]), data[1]), model)


def test_a_tuple_that_may_be_two_batches_is_refused_and_a_list_says_which():
    model = Two(optional=True)

    def loss(z: Tensor, y) -> Tensor:
        return (
            (z - y[0][:, :3]).square().mean() + y[1].mean() if isinstance(y, tuple) else (z - y[:, :3]).square().mean()
        )

    data = ((X, X.flip(0)), (X.sin(), X.cos()))
    with pytest.raises(ValueError, match=r"may be \(inputs, targets\) or two batches"):
        Hessian(model, loss, data)
    assert same(Hessian(model, loss, [data]), lambda: loss(model(*data[0]), data[1]), model)
    mean = Hessian(model, loss, list(data))
    assert same(mean, lambda: (loss(model(X), X.flip(0)) + loss(model(X.sin()), X.cos())) / 2, model)


def test_inputs_and_targets_by_name():
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = mlp()

        def forward(self, x: Tensor, scale: Tensor) -> dict[str, Tensor]:
            return {"logits": self.inner(x) * scale[:, None]}

    model = Named()
    data = ({"x": X, "scale": X[:, 0]}, {"label": Y})

    def loss(z: dict[str, Tensor], y: dict[str, Tensor]) -> Tensor:
        return F.cross_entropy(z["logits"], y["label"])

    assert same(Hessian(model, loss, data), lambda: loss(model(**data[0]), data[1]), model)


class Graph(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = mlp()

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        return self.inner(torch.zeros_like(x).index_add(0, edges[1], x[edges[0]]))


def test_a_graph_with_a_mask_is_one_sample():
    model = Graph()
    edges, mask = torch.randint(24, (2, 60), generator=torch.Generator().manual_seed(0)), torch.arange(24) < 15

    def loss(z: Tensor, target: tuple[Tensor, Tensor]) -> Tensor:
        return F.cross_entropy(z[target[1]], target[0][target[1]])

    data = ((X, edges), (Y, mask))
    assert same(Hessian(model, loss, data), lambda: loss(model(X, edges), (Y, mask)), model)
    masked = Hessian(model, lambda z, y: F.cross_entropy(z[mask], y[mask]), ((X, edges), Y))
    assert same(masked, lambda: F.cross_entropy(model(X, edges)[mask], Y[mask]), model)
    with pytest.raises(ValueError, match="what a batch weighs"):
        Hessian(model, loss, [data, data])


def test_samples_of_several_lengths_with_a_collate_rule():
    torch.manual_seed(0)
    model = nn.Linear(2, 3).double()
    samples = [(torch.randn(length, 2, dtype=DOUBLE), length % 3) for length in (2, 5, 3, 1, 4, 2, 6)]

    class Mean(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = model

        def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
            keep = torch.arange(x.shape[1]) < lengths[:, None]
            return self.head((x * keep[..., None]).sum(1) / lengths[:, None])

    def collate(chosen):
        x = nn.utils.rnn.pad_sequence([s[0] for s in chosen], batch_first=True)
        return (x, torch.tensor([len(s[0]) for s in chosen])), torch.tensor([s[1] for s in chosen])

    whole = Mean()
    inputs, targets = collate(samples)
    hessian = Hessian(whole, F.cross_entropy, samples, collate=collate)
    assert same(hessian, lambda: F.cross_entropy(whole(*inputs), targets), whole)
    with pytest.raises(ValueError, match="a sequence of samples"):
        Hessian(whole, F.cross_entropy, iter(samples), collate=collate)


def test_a_loader_with_workers():
    model = mlp()
    loader = DataLoader(TensorDataset(X, Y), batch_size=7, shuffle=True, num_workers=2, persistent_workers=True)
    counts = count_eigenvalues(Hessian(model, F.cross_entropy, loader), threshold=1e-2, method="lanczos", probes=2)
    exact = count_eigenvalues(Hessian(model, F.cross_entropy, (X, Y)), threshold=1e-2)
    assert exact.negative.lower in counts.negative


def test_token_means_of_unknown_rule_over_batches_of_two_lengths_are_asked_for():
    model = nn.Embedding(7, 7).double()

    def loss(z: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(z.flatten(0, 1), y.flatten())

    batches = [(t, t) for t in (sentences(4, 5, 1)["input_ids"], sentences(3, 8, 1)["input_ids"])]
    with pytest.raises(ValueError, match=r"targets.numel\(\)"):
        Hessian(model, loss, batches)
    hessian = Hessian(model, loss, batches, batch_weight=lambda y: y.numel())
    flat = torch.cat([t.reshape(-1) for t, _ in batches])
    assert float(hessian.problem.value()) == pytest.approx(F.cross_entropy(model(flat), flat).item(), rel=1e-12)


@pytest.mark.parametrize(
    "choice", [lambda name: name.startswith("2"), lambda _, p: p.shape[0] == 3, ["2.*"]], ids=["name", "both", "list"]
)
def test_parameters_are_chosen_by_a_function(choice):
    assert Hessian(mlp(), F.cross_entropy, (X, Y), parameters=choice).problem.names == ("2.weight", "2.bias")


def test_a_function_that_chooses_nothing():
    with pytest.raises(ValueError, match="false of all of"):
        Hessian(mlp(), F.cross_entropy, (X, Y), parameters=lambda _: False)
