"""Where a comparison could look and see nothing: losses alike at theta, caches, kinks, a loader that changes."""

import functools
import types

import numpy as np
import pytest
import torch
from oracles import DOUBLE, X, Y, differences, mlp
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from lanczos_saddle import GaussNewton, Hessian, assemble, exact_eigenvalues, inertia

NOISE = np.random.default_rng(0)
WEIGHTS = torch.tensor([0.2, 1.0, 3.0], dtype=DOUBLE)


def zero_head() -> nn.Module:
    """All samples have the same loss, log 3, so that no weights show in values at theta."""
    model = mlp()
    nn.init.zeros_(model[2].weight)
    nn.init.zeros_(model[2].bias)
    return model


def sorted_batches(of=8):
    order = Y.argsort()
    return [(X[order[i : i + of]], Y[order[i : i + of]]) for i in range(0, 24, of)]


class Own(nn.CrossEntropyLoss):
    """A subclass whose mean is another one than torch's."""

    def forward(self, z, y):
        return F.cross_entropy(z, y, weight=WEIGHTS)


ALIKE = {
    "class weights in a lambda": lambda z, y: F.cross_entropy(z, y, weight=WEIGHTS),
    "ignored class in a lambda": lambda z, y: F.cross_entropy(z, y, ignore_index=0),
    "a subclass with its own mean": Own(),
    "a bare sum": lambda z, y: (z[:, 0] - 0 * y).square().sum(),
}


@pytest.mark.parametrize("name", ALIKE)
def test_weights_show_where_all_samples_have_the_same_loss(name):
    with pytest.raises(ValueError, match=r"must add up over the parts|class means|batch_weight"):
        Hessian(zero_head(), ALIKE[name], sorted_batches())


def test_a_right_weight_is_right_where_all_samples_have_the_same_loss():
    model = zero_head()
    h = Hessian(model, ALIKE["class weights in a lambda"], sorted_batches(), batch_weight=lambda y: WEIGHTS[y].sum())
    truth = differences(lambda: F.cross_entropy(model(X), Y, weight=WEIGHTS), list(model.parameters()))
    assert torch.allclose(assemble(h).matrix, truth, atol=1e-8)


class Memo(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.weight, self.kind = nn.Parameter(torch.randn(3, 5, dtype=DOUBLE)), kind
        self.nested, self.object = {"layer": {}}, types.SimpleNamespace(weight=None)

    @functools.cache  # noqa: B019
    def made(self):
        return self.weight.tanh()

    def forward(self, x):
        if self.kind == "functools.cache":
            return F.linear(x, self.made())
        if self.kind == "dict of dicts":
            if "weight" not in self.nested["layer"]:
                self.nested["layer"]["weight"] = self.weight.tanh()
            return F.linear(x, self.nested["layer"]["weight"])
        if self.object.weight is None:
            kept = self.weight.tanh()
            self.object.weight = kept.detach() if self.kind == "object, detached" else kept
            return F.linear(x, kept)
        return F.linear(x, self.object.weight)


@pytest.mark.parametrize("kind", ["functools.cache", "dict of dicts", "object", "object, detached"])
def test_what_an_earlier_call_computed_is_no_function_of_the_parameters(kind):
    with pytest.raises(ValueError, match="an earlier call computed is used again"):
        Hessian(Memo(kind), F.cross_entropy, (X, Y))


def test_a_penalty_that_the_loss_keeps_is_refused_and_one_computed_anew_is_right():
    model, kept = mlp(), {}

    def penalty():
        return sum(p.square().sum() for p in model.parameters())

    def keeps(z, y):
        kept.setdefault("p", None)
        kept["p"] = kept["p"] if kept["p"] is not None else penalty()
        return F.cross_entropy(z, y) + kept["p"]

    with pytest.raises(ValueError, match="computed is used again"):
        Hessian(model, keeps, (X, Y))
    kept.clear()
    with pytest.raises(ValueError, match="computed is used again"):
        Hessian.of(lambda: keeps(model(X), Y), model)
    h = Hessian(model, lambda z, y: F.cross_entropy(z, y) + penalty(), (X, Y))
    truth = differences(lambda: F.cross_entropy(model(X), Y) + penalty(), list(model.parameters()))
    assert torch.allclose(assemble(h).matrix, truth, atol=1e-7)


def test_a_graph_of_other_parameters_may_be_shared_between_calls():
    """Features of a frozen network that were made once, with their graph: a constant of theta, and right."""
    features, head = nn.Linear(5, 4).double(), nn.Linear(4, 3).double()
    made = features(X).tanh()
    h = Hessian.of(lambda: F.cross_entropy(head(made), Y), head)
    truth = differences(lambda: F.cross_entropy(head(made.detach()), Y), list(head.parameters()))
    assert torch.allclose(assemble(h).matrix, truth, atol=1e-8)


class Blank(nn.Module):
    """sinc at 0 in some samples, whose second derivative torch has as 0, and a ReLU at 0 in a blank one."""

    def __init__(self):
        super().__init__()
        self.w, self.kink, self.head = (
            nn.Parameter(torch.tensor([1.0, -1, 0.5, 2, 1])),
            nn.Linear(5, 3),
            nn.Linear(4, 3),
        )
        nn.init.zeros_(self.kink.bias)

    def forward(self, x):
        return self.head(torch.cat([torch.sinc((x * self.w).sum(1, keepdim=True)), self.kink(x).relu()], 1))


def test_a_sample_on_a_kink_does_not_hide_a_wrong_derivative_in_the_others():
    x = X.clone()
    x[5:20] = torch.tensor([2.0, 2, 0, 0, 0], dtype=DOUBLE)
    x[0] = 0
    torch.manual_seed(0)
    with pytest.raises(ValueError, match="sinc"):
        print(Hessian(Blank().double(), F.cross_entropy, (x, Y)).fidelity)


def test_a_result_that_is_not_used_does_not_blur_the_tolerance():
    class Two(torch.autograd.Function):
        """Its second result has no gradient: torch keeps a blank type for it."""

        generate_vmap_rule = True

        @staticmethod
        def forward(x):
            return x.sigmoid() * x, x.sigmoid()

        @staticmethod
        def setup_context(ctx, inputs, outputs):
            ctx.mark_non_differentiable(outputs[1])
            ctx.save_for_backward(*inputs)

        @staticmethod
        def backward(ctx, g, _):
            (x,) = ctx.saved_tensors
            s = x.sigmoid()
            return g * s * (1 + x * (1 - s))

    class Swish(nn.Module):
        def forward(self, x):
            return Two.apply(x)[0]

    model = mlp(Swish())
    assert Hessian(model, F.cross_entropy, (X, Y)).fidelity.arithmetic == "float64"
    weights = 1 + 1e-3 * torch.arange(3, dtype=DOUBLE)
    with pytest.raises(ValueError, match="must add up"):
        Hessian(model, lambda z, y: F.cross_entropy(z, y, weight=weights), sorted_batches())


class Augmented(Dataset):
    def __len__(self):
        return 24

    def __getitem__(self, i):
        return X[i] + 0.3 * torch.from_numpy(NOISE.standard_normal(5)), Y[i]


@pytest.mark.parametrize("ask", [exact_eigenvalues, lambda h: inertia(h, -1e-3), assemble])
def test_the_judge_sees_a_loader_that_changes(ask):
    h = Hessian(mlp(), F.cross_entropy, DataLoader(Augmented(), batch_size=8), fidelity=False)
    with pytest.raises(ValueError, match=r"symmetric|stay the same"):
        ask(h)


def test_parameters_that_share_memory_are_refused_and_tied_ones_are_right():
    def network(tie):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(5, 5), nn.Tanh(), nn.Linear(5, 5)).double()
        if tie:
            model[2].weight = model[0].weight
        else:
            model[2].weight.data = model[0].weight.data
        return model

    with pytest.raises(ValueError, match="memory of their own"):
        Hessian(network(False), F.cross_entropy, (X, Y))
    model = network(True)
    truth = differences(lambda: F.cross_entropy(model(X), Y), list(model.parameters()))
    assert torch.allclose(assemble(Hessian(model, F.cross_entropy, (X, Y))).matrix, truth, atol=1e-8)


def test_parts_of_one_memory_that_do_not_meet_are_parameters_like_others():
    memory = torch.randn(40, dtype=DOUBLE)
    model = nn.Linear(5, 3).double()
    model.weight.data, model.bias.data = memory[:15].view(3, 5), memory[15:18]
    truth = differences(lambda: F.cross_entropy(model(X), Y), list(model.parameters()))
    assert torch.allclose(assemble(Hessian(model, F.cross_entropy, (X, Y))).matrix, truth, atol=1e-8)


def test_a_gauss_newton_matrix_of_a_loss_that_reads_the_parameters_is_refused():
    model = mlp()
    with pytest.raises(ValueError, match="reads the parameters"):
        GaussNewton(model, lambda z, y: F.cross_entropy(z, y) + model[0].weight.square().sum(), (X, Y))


def test_trained_parameters_behind_a_function_are_not_left_out():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(1, dtype=DOUBLE))

        def of(self, z, y):
            return F.cross_entropy(z * self.scale, y)

    loss = Scaled()
    for given in (loss.of, lambda z, y: loss.of(z, y)):
        with pytest.raises(ValueError, match="parameters of its own"):
            Hessian(mlp(), given, (X, Y))
    loss.requires_grad_(False)
    assert Hessian(mlp(), loss.of, (X, Y)).fidelity.status == "agrees"


class PoolOfTies(nn.Module):
    """The largest of each pair, by scatter_reduce without what it is called on.

    Torch 2.13.0 halves the gradient where the largest is that value, 0, all the same. The function is smooth there.
    With `kinks`, a ReLU at exactly 0 beside it, in the same samples and in others.
    """

    def __init__(self, start=0.0, kinks=False):
        super().__init__()
        self.w, self.start, self.kinks = nn.Parameter(torch.tensor([0.0, -1, 0, -1, 0, -2])), start, kinks
        self.head, self.bias = nn.Linear(3, 3), nn.Parameter(torch.zeros(3))

    def forward(self, x):
        index = torch.tensor([0, 0, 1, 1, 2, 2]).expand(len(x), 6)
        filled = torch.full((len(x), 3), self.start, dtype=x.dtype)
        pooled = filled.scatter_reduce(1, index, self.w.expand(len(x), 6), "amax", include_self=False)
        if self.kinks:
            pooled = pooled + (self.bias * x[:, :3]).relu()
        return self.head(x[:, :3] + pooled + (self.w[:3] * x[:, :3]) ** 2)


@pytest.mark.parametrize("kinks", [False, True])
def test_a_gradient_that_is_wrong_at_the_point_alone_is_no_kink(kinks):
    torch.manual_seed(0)
    with pytest.raises(ValueError, match="scatter_reduce"):
        print(Hessian(PoolOfTies(kinks=kinks).double(), F.cross_entropy, (X, Y)).fidelity)
    torch.manual_seed(0)
    model = PoolOfTies(-float("inf"), kinks).double()  # the way out
    h = Hessian(model, F.cross_entropy, (X, Y))
    assert h.fidelity.status == ("kinks" if kinks else "agrees")
    if not kinks:
        truth = differences(lambda: F.cross_entropy(model(X), Y), list(model.parameters()))
        assert torch.allclose(assemble(h).matrix, truth, atol=1e-7)


def test_a_gradient_without_a_jump_at_a_kink_is_no_wrong_one():
    """x |x| at 0: its gradient 2 |x| comes to 0 from both sides, and has no derivative there."""

    class Bent(nn.Module):
        def __init__(self):
            super().__init__()
            self.w, self.head = nn.Parameter(torch.tensor([0.0, 1, 0, 2, 0])), nn.Linear(5, 3)

        def forward(self, x):
            return self.head(x * self.w * self.w.abs())

    torch.manual_seed(0)
    assert Hessian(Bent().double(), F.cross_entropy, (X, Y)).fidelity.status in ("kinks", "agrees")


@pytest.mark.parametrize("normalize", [nn.utils.spectral_norm, nn.utils.parametrizations.spectral_norm])
def test_what_spectral_normalization_holds_is_said(normalize):
    """Value and gradient are those of W / sigma(W) where the power steps have converged; the Hessian is not."""
    torch.manual_seed(0)
    layer = normalize(nn.Linear(5, 3, bias=False).double())
    for _ in range(200):
        layer(X)
    layer.eval()
    h = Hessian(layer, F.cross_entropy, (X, Y))
    assert "W / u'Wv" in str(h.fidelity)
    weight = next(layer.parameters())
    own = differences(lambda: F.cross_entropy(layer(X), Y), [weight])
    whole = differences(lambda: F.cross_entropy(X @ (weight / torch.linalg.matrix_norm(weight, 2)).T, Y), [weight])
    assert torch.allclose(assemble(h).matrix, own, atol=1e-8)
    assert (own - whole).norm() > 0.1 * whole.norm()
    plain = nn.Linear(5, 3).double()
    assert "W / u'Wv" not in str(Hessian(plain, F.cross_entropy, (X, Y)).fidelity)


WRONG = {
    "torch.polar": lambda w: torch.polar(w, torch.full_like(w, 0.3)).real.sum() + w.exp().sum(),
    "torch.logaddexp": lambda w: torch.logaddexp(w - 800, torch.zeros_like(w)).sum() + w.exp().sum(),
}


@pytest.mark.parametrize("named", WRONG)
def test_operations_with_wrong_derivatives_are_named(named):
    w = nn.Parameter(torch.tensor([0.0, 0.5, 0.0, 1.0], dtype=DOUBLE))
    with pytest.raises(ValueError, match=named):
        print(Hessian.of(lambda: WRONG[named](w), [w]).fidelity)
