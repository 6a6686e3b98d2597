"""Float32 models whose functions hold float32 numbers of their own; judged by differences of gradients in float64."""

import functools

import pytest
import torch
from oracles import DOUBLE, differences, entrywise, everything
from torch import Tensor, nn
from torch.nn import functional as F

from lanczos_saddle import GaussNewton, Hessian, assemble, count_eigenvalues

# RNNs run with oneDNN switched off, of which torch warns once
pytestmark = pytest.mark.filterwarnings("ignore:TF32 acceleration")

X = torch.randn(24, 4, generator=torch.Generator().manual_seed(0))
Y = torch.randint(0, 3, (24,), generator=torch.Generator().manual_seed(1))
STEPS = torch.randn(12, 5, 4, generator=torch.Generator().manual_seed(2))
LENGTHS = torch.tensor([5, 3, 2, 4, 1, 5, 2, 3, 4, 5, 1, 2])
WEIGHTS = torch.tensor([0.2, 1.0, 3.0])
MIX = torch.randn(4, 4, generator=torch.Generator().manual_seed(3))


def mlp() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))


class Attribute(nn.Module):
    """A plain tensor attribute, of which `Module.double` knows nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.mix = mlp(), MIX

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(F.linear(x, self.mix))


class Cell(nn.Module):
    """A first state of zeros made in forward, and a state collected in a tensor of zeros."""

    def __init__(self, cell: type[nn.Module] = nn.GRUCell) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.cell, self.head = cell(4, 2), nn.Linear(2, 3)

    def forward(self, x: Tensor) -> Tensor:
        state = self.cell(x, torch.zeros(len(x), 2))
        kept = torch.zeros(len(x), 2)
        kept[:, 0] = state[:, 0]
        kept[:, 1] = state[:, 1] * torch.tensor(0.5)
        return self.head(kept)


class Recurrent(nn.Module):
    """Recurrent modules compare types by themselves."""

    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.net, self.head = kind(4, 2, batch_first=True), nn.Linear(2, 3)

    def forward(self, x: Tensor) -> Tensor:
        found = self.net(x)[0]
        if isinstance(found, nn.utils.rnn.PackedSequence):
            found = nn.utils.rnn.pad_packed_sequence(found, batch_first=True)[0]
        return self.head(found.sum(1))


class Attention(nn.Module):
    """A mask of -inf and positions, plain tensors both."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.net, self.head = nn.MultiheadAttention(4, 2, batch_first=True), nn.Linear(4, 3)
        self.mask, self.places = torch.full((5, 5), -torch.inf).triu(1), 0.1 * torch.arange(5.0)[:, None]

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.places
        return self.head(self.net(x, x, x, attn_mask=self.mask)[0].mean(1))


def double(t: Tensor) -> Tensor:
    """The same numbers in float64."""
    return t.double()


def weighted(weights: Tensor):
    """A loss that closes over class weights."""
    return lambda z, t: F.cross_entropy(z, t, weight=weights, reduction="none")


def penalty(model: nn.Module, like: Tensor) -> Tensor:
    """Depends on a tensor of another module's, by a product and a list."""
    return torch.cat([like, *(p.reshape(-1) for p in model.parameters())]).square().sum() * 1e-2


# name: (model, function(model, convert)); convert is the identity, or takes constants into float64 for the oracle
CLOSURES = {
    "data": (mlp, lambda m, c: F.cross_entropy(m(c(X)), Y)),
    "weights": (mlp, lambda m, c: F.cross_entropy(m(c(X)), Y, weight=c(WEIGHTS))),
    "mixed by einsum": (mlp, lambda m, c: torch.einsum("ni,ij,nj->n", m(c(X)), c(MIX)[:3, :3], m(c(X))).mean()),
    "a list": (mlp, lambda m, c: F.cross_entropy(m(c(X)), Y) + penalty(m, c(WEIGHTS))),
    "squared error": (mlp, lambda m, c: F.mse_loss(m(c(X)), c(X)[:, :3])),
    "GRU": (functools.partial(Recurrent, nn.GRU), lambda m, c: F.cross_entropy(m(c(STEPS)), Y[:12])),
    "LSTM": (functools.partial(Recurrent, nn.LSTM), lambda m, c: F.cross_entropy(m(c(STEPS)), Y[:12])),
    "packed": (
        functools.partial(Recurrent, nn.GRU),
        lambda m, c: F.cross_entropy(
            m(nn.utils.rnn.pack_padded_sequence(c(STEPS), LENGTHS, batch_first=True, enforce_sorted=False)), Y[:12]
        ),
    ),
    "own derivative": (
        mlp,
        lambda m, c: (
            torch.autograd.grad(m(points := c(X).clone().requires_grad_()).sum(), points, create_graph=True)[0]
            .square()
            .mean()
        ),
    ),
}

# name: (model, loss(convert), data)
MODELS = {
    "class weights": (mlp, lambda c: weighted(c(WEIGHTS)), (X, Y)),
    "class weights, partial": (mlp, lambda c: functools.partial(F.cross_entropy, weight=c(WEIGHTS)), (X, Y)),
    "attribute": (Attribute, lambda _: F.cross_entropy, (X, Y)),
    "zeros in forward": (Cell, lambda _: F.cross_entropy, (X, Y)),
    "attention mask": (Attention, lambda _: F.cross_entropy, (STEPS, Y[:12])),
}
WEIGH = {"class weights, partial": lambda t: WEIGHTS[t].sum()}


def in_double(model: nn.Module) -> nn.Module:
    """A copy in float64, plain attributes too."""
    other = type(model).__new__(type(model))
    other.__dict__.update(model.__dict__)
    state = {name: t.clone() for name, t in model.state_dict().items()}
    other = model.double()
    other.load_state_dict({name: t.double() for name, t in state.items()})
    for module in other.modules():
        for name, value in vars(module).items():
            if isinstance(value, Tensor):
                setattr(module, name, value.double())
    return other


def of(name: str, **options) -> Hessian:
    make, function = CLOSURES[name]
    model = make()
    return Hessian.of(lambda: function(model, lambda t: t), model, **options)


def expected_of(name: str) -> Tensor:
    make, function = CLOSURES[name]
    model = make().double()
    return differences(lambda: function(model, double), list(model.parameters()))


def given(name: str, kind: type = Hessian, **options) -> Hessian:
    make, loss, data = MODELS[name]
    return kind(make(), loss(lambda t: t), data, batch_weight=WEIGH.get(name), **options)


def expected_given(name: str) -> Tensor:
    make, loss, (x, y) = MODELS[name]
    model, convert = in_double(make()), double
    torch.set_default_dtype(DOUBLE)  # zeros in forward
    try:
        return differences(lambda: loss(convert)(model(x.double()), y).mean(), list(model.parameters()))
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name == "LSTM" else []) for name in CLOSURES]
)
def test_a_function_of_float32_constants_is_exact_in_float64(name):
    hessian, expected = of(name), expected_of(name)
    assert hessian.dtype == torch.float32
    entrywise(assemble(hessian.to(DOUBLE)).matrix, expected)
    entrywise(assemble(hessian).matrix, expected, 1e-3)
    assert hessian.fidelity.status in ("agrees", "kinks")
    assert hessian.fidelity.arithmetic == "float32"
    entrywise(assemble(of(name, dtype=DOUBLE)).matrix, expected)


@pytest.mark.parametrize("name", MODELS)
def test_a_model_or_a_loss_with_float32_constants_is_exact_in_float64(name):
    hessian, expected = given(name), expected_given(name)
    entrywise(assemble(hessian.to(DOUBLE)).matrix, expected)
    entrywise(assemble(hessian).matrix, expected, 1e-3)
    assert hessian.fidelity.status == "agrees"
    entrywise(assemble(given(name, dtype=DOUBLE)).matrix, expected)


@pytest.mark.parametrize("name", ["data", "own derivative"])
def test_every_question_of_a_function(name):
    everything(of(name), expected_of(name), 1e-5)


@pytest.mark.parametrize("name", ["class weights", "attribute"])
def test_every_question_of_a_model(name):
    everything(given(name), expected_given(name), 1e-5)


@pytest.mark.parametrize("name", ["class weights", "attribute"])
def test_gauss_newton_of_float32_constants(name):
    single, exact = given(name, GaussNewton), given(name, GaussNewton, dtype=DOUBLE)
    assert single.fidelity.status == exact.fidelity.status == "agrees"
    entrywise(assemble(single).matrix, assemble(exact).matrix, 1e-3)
    assert torch.equal(assemble(single.to(DOUBLE)).matrix, assemble(exact).matrix)


def test_constants_are_said():
    counts = count_eigenvalues(of("data"), relative_threshold=1e-2)
    assert "float32 constants are taken as they are" in str(counts)
    plain = Hessian(mlp(), F.cross_entropy, (X, Y))
    assert "fidelity" not in str(count_eigenvalues(plain, relative_threshold=1e-2))


def test_blocks_of_lifted_products_are_folded():
    hessian = of("data").to(DOUBLE)
    hessian @ torch.eye(hessian.shape[0], dtype=DOUBLE)
    assert hessian.folding.folded, hessian.folding.reason


def test_a_scalar_parameter_does_not_round_what_it_multiplies():
    """By torch's rules a float64 scalar times a float32 tensor is float32."""
    scale = torch.tensor(1.3)
    hessian = Hessian.of(lambda: (scale * X - X.flip(0)).square().mean().exp(), [scale])
    truth = torch.tensor(1.3).double()
    x = X.double()
    expected = differences(lambda: (truth * x - x.flip(0)).square().mean().exp(), [truth.requires_grad_()])
    torch.testing.assert_close(assemble(hessian.to(DOUBLE)).matrix, expected, rtol=1e-7, atol=0)


def test_the_model_is_as_it_was():
    model, buffer = mlp(), torch.zeros(3)

    def function() -> Tensor:
        buffer.copy_(WEIGHTS)
        return F.cross_entropy(model(X), Y, weight=buffer)

    hessian = Hessian.of(function, model)
    count_eigenvalues(hessian, relative_threshold=1e-2)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert buffer.dtype == torch.float32
    assert torch.get_default_dtype() == torch.float32
    torch.testing.assert_close(function(), hessian.problem.value(), rtol=1e-6, atol=0)


class OnlyFloat32(nn.Module):
    """As code that calls a kernel for one type does."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = mlp()

    def forward(self, x: Tensor) -> Tensor:
        z = self.inner(x)
        if z.dtype != torch.float32:
            raise TypeError(f"the kernel takes float32; got {z.dtype}")
        return z


def test_a_model_of_one_type_is_judged_and_counted_in_it():
    model = OnlyFloat32()
    hessian = Hessian(model, F.cross_entropy, (X, Y))
    wide = mlp().double()
    expected = differences(lambda: F.cross_entropy(wide(X.double()), Y), list(wide.parameters()))
    everything(hessian, expected, 1e-5)
    assert any("evaluates in float32 only" in note for note in hessian.fidelity.notes)
    with pytest.raises(ValueError, match=r"must evaluate in float64; it raised TypeError"):
        hessian.to(DOUBLE)
    with pytest.raises(ValueError, match="must accept the data"):
        Hessian(model, F.cross_entropy, (X, Y), dtype=DOUBLE)
    everything(Hessian.of(lambda: F.cross_entropy(model(X), Y), model), expected, 1e-5)


def test_a_write_through_a_view_is_not_lost():
    """The row of a float32 tensor of the function's own is written: it must stay a view."""
    kept = torch.zeros(2, 3)

    def function() -> Tensor:
        with torch.no_grad():
            row = kept[0]
            row.copy_(WEIGHTS)
        return F.cross_entropy(model(X), Y, weight=kept.sum(0))

    model = mlp()
    hessian = Hessian.of(function, model)
    entrywise(assemble(hessian.to(DOUBLE)).matrix, expected_of("weights"))


def test_a_function_that_is_another_one_in_float64_is_counted_in_float32():
    model = mlp()

    def function() -> Tensor:
        z = model(X)
        return F.cross_entropy(z, Y) * (1 if z.dtype == torch.float32 else 2)

    hessian = Hessian.of(function, model)
    entrywise(assemble(hessian).matrix, expected_of("data"), 1e-3)
    assert any("evaluates in float32 only" in note for note in hessian.fidelity.notes)
    assert count_eigenvalues(hessian, relative_threshold=1e-2).method == "exact"


def test_a_checkpoint_computes_again_in_the_type_of_its_constants():
    """Nothing is lifted inside torch's backward pass: counted in float32, as noted."""
    model = mlp()
    hessian = Hessian.of(
        lambda: F.cross_entropy(torch.utils.checkpoint.checkpoint(model, X, use_reentrant=False), Y), model
    )
    everything(hessian, expected_of("data"), 1e-5)
    assert any("evaluates in float32 only" in note for note in hessian.fidelity.notes)


def test_points_of_a_physics_informed_loss_are_taken_into_float64():
    hessian = of("own derivative").to(DOUBLE)
    assert hessian.problem.lifting
    assert hessian.arithmetic == DOUBLE


def test_weight_normalization_in_a_function_is_written_out():
    torch.manual_seed(5)
    model = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 3), dim=-1)).double()
    x = X.double()
    hessian = Hessian.of(lambda: F.cross_entropy(model(x), Y), model)
    g, v = model[0].parametrizations.weight.original0, model[0].parametrizations.weight.original1

    def written() -> Tensor:
        return F.cross_entropy(F.linear(x, g * v / v.square().sum().sqrt(), model[0].bias), Y)

    entrywise(assemble(hessian).matrix, differences(written, list(model.parameters())))


def test_autocast_inside_a_float32_function_is_another_function_in_float64_and_said():
    model = mlp()

    def function() -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return F.cross_entropy(model(X).float(), Y)

    hessian = Hessian.of(function, model)
    assert hessian.arithmetic == torch.bfloat16
    for matrix in (hessian, hessian.to(DOUBLE)):
        assert any("as trained it computes in bfloat16" in note for note in matrix.fidelity.notes)


def test_a_bfloat16_function_is_taken_into_float64():
    model, x = mlp().bfloat16(), X.bfloat16()
    wide = mlp().bfloat16().double()
    hessian = Hessian.of(lambda: F.cross_entropy(model(x), Y), model, dtype=DOUBLE)
    expected = differences(lambda: F.cross_entropy(wide(x.double()), Y), list(wide.parameters()))
    entrywise(assemble(hessian).matrix, expected)
