"""Products are those of the user's own function, or refused: judged by differences of plain gradients."""

import functools

import pytest
import torch
from oracles import DOUBLE, X, Y, differences, mlp
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from lanczos_saddle import Hessian, assemble, count_eigenvalues
from lanczos_saddle.networks.gauss_newton import GaussNewton


class Calls(nn.Module):
    """A model made of a function of the inputs and parameters."""

    def __init__(self, function, *values: Tensor) -> None:
        super().__init__()
        self.function, self.values = function, nn.ParameterList([nn.Parameter(v.to(DOUBLE)) for v in values])

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, *self.values)


class Caches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w, self.kept, self.more = nn.Parameter(mlp()[2].weight.detach().T.clone()), None, {}

    def forward(self, x: Tensor) -> Tensor:
        if self.kept is None:
            self.kept, self.more["w"] = self.w.exp(), self.w.square()
        return x[:, :4] @ (self.kept + self.more["w"])

    def fresh(self) -> None:
        self.kept, self.more = None, {}


class HoldsModel(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(outputs, targets) + 0.1 * sum(p.square().sum() for p in self.model.parameters())


class Cube(torch.autograd.Function):
    """An old-style function, right in all derivatives."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx, g):
        return 3 * g * ctx.saved_tensors[0] ** 2


class Lost(torch.autograd.Function):
    """The slope is computed in forward: the second derivative is lost."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x):
        s = torch.sigmoid(x)
        return x * s, s * (1 + x * (1 - s))

    @staticmethod
    def setup_context(ctx, _, outputs):
        ctx.mark_non_differentiable(outputs[1])
        ctx.save_for_backward(outputs[1])

    @staticmethod
    def backward(ctx, g, _):
        return g * ctx.saved_tensors[0]


def penalty(model: nn.Module):
    return lambda z, y: F.cross_entropy(z, y) + 0.1 * sum(p.square().sum() for p in model.parameters())


def captured(model: nn.Module):
    parameters = list(model.parameters())
    return lambda z, y: F.cross_entropy(z, y) + 0.1 * sum(p.square().sum() for p in parameters)


def twice(model: nn.Module):
    return lambda z, y: F.cross_entropy(z, y) + model(torch.ones(1, 5, dtype=DOUBLE)).square().sum()


def scattered(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
    index = torch.tensor([0, 0, 1, 1, 2])
    return (x @ a) * torch.ones(3, dtype=DOUBLE).scatter_reduce(0, index, b, "prod")


def inverse(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return x @ a @ torch.cholesky_inverse(torch.linalg.cholesky(b @ b.T + 3 * torch.eye(3, dtype=DOUBLE)))


class Numpy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = mlp()

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(torch.from_numpy(abs(x.numpy())))


class Checkpointed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = mlp()

    def forward(self, x: Tensor) -> Tensor:
        return self.inner[2](checkpoint(lambda z: self.inner[1](self.inner[0](z)), x, use_reentrant=False))


class Writes(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = mlp()

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x.mul_(2))


A, B = torch.randn(5, 3, generator=torch.Generator().manual_seed(2)), torch.rand(5) + 0.5
weight_norm = nn.utils.parametrizations.weight_norm

RIGHT = {
    "weight norm": lambda: (nn.Sequential(weight_norm(mlp()[0]), nn.Tanh(), mlp()[2]), None),
    "weight norm, last dimension": lambda: (nn.Sequential(weight_norm(mlp()[0], dim=1), nn.Tanh(), mlp()[2]), None),
    "weight norm, all dimensions": lambda: (nn.Sequential(weight_norm(mlp()[0], dim=None), nn.Tanh(), mlp()[2]), None),
    "scatter_reduce": lambda: (Calls(scattered, A, B), None),
    "cholesky_inverse": lambda: (Calls(inverse, A, A[:3]), None),
    "penalty in a closure": lambda: (m := mlp(), penalty(m)),
    "penalty over a list": lambda: (m := mlp(), captured(m)),
    "loss holds the model": lambda: (m := mlp(), HoldsModel(m)),
    "loss calls the model": lambda: (m := mlp(), twice(m)),
    "cache": lambda: (Caches(), None),
    "checkpoint": lambda: (Checkpointed(), None),
    "old-style function": lambda: (Calls(lambda x, a: Cube.apply(x @ a), A), None),
    "numpy in forward": lambda: (Numpy(), None),
    "writes into its input": lambda: (Writes(), None),
    "DataParallel": lambda: (nn.DataParallel(mlp()), None),
    "RReLU": lambda: (mlp(nn.RReLU()).eval(), None),
    "complex inside": lambda: (
        Calls(lambda x, w: (x.to(torch.cdouble) @ torch.view_as_complex(w)).abs(), torch.randn(5, 3, 2)),
        None,
    ),
}


@pytest.mark.parametrize("name", RIGHT)
def test_the_matrix_is_that_of_the_function_as_it_is_called(name):
    torch.manual_seed(3)
    model, loss = RIGHT[name]()
    loss = loss or F.cross_entropy
    hessian = Hessian(model, loss, (X.clone(), Y))
    matrix = assemble(hessian).matrix

    def own() -> Tensor:
        if isinstance(model, Caches):
            model.fresh()
        return loss(model(X.clone()), Y)

    before = [p.detach().clone() for p in model.parameters()]
    expected = differences(own, list(model.parameters()))
    assert float((matrix - expected).norm()) <= 1e-7 * float(expected.norm())
    assert hessian.fidelity.status == "agrees"
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    counts = count_eigenvalues(hessian, relative_threshold=1e-2, method="lanczos")
    values = torch.linalg.eigvalsh((expected + expected.T) / 2)
    assert int((values < -counts.threshold).sum()) in counts.negative
    assert int((values > counts.threshold).sum()) in counts.positive


def at_zero(function) -> nn.Module:
    return Calls(function, A, torch.zeros(3))


def added(z: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(z, y) + z.mean()


class Learns(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.temperature = nn.Parameter(torch.ones(1, dtype=DOUBLE))

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(z * self.temperature, y)


class Complex(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.ones(5, 3, dtype=torch.cdouble))

    def forward(self, x: Tensor) -> Tensor:
        return (x.to(torch.cdouble) @ self.w).abs()


REFUSED = {
    "norm at 0": (lambda: at_zero(lambda x, a, b: x @ a + b.norm() ** 2), added, "a norm of zeros"),
    "sinc at 0": (lambda: at_zero(lambda x, a, b: (x @ a) * torch.sinc(b)), F.cross_entropy, "torch.sinc at 0"),
    "det at 0": (
        lambda: Calls(lambda x, a, b: x @ a + torch.det(b), A, torch.diag(torch.tensor([0.0, 0, 1]))),
        added,
        "determinant of a singular",
    ),
    "lost derivative": (lambda: Calls(lambda x, a: Lost.apply(x @ a)[0], A), F.cross_entropy, "Function Lost"),
    "loss with parameters": (mlp, Learns(), r"no parameters of its own that are trained; got \['temperature'\]"),
    "samples mix": (mlp, lambda z, y: F.cross_entropy(z @ z.T, torch.arange(len(y))), "must add up"),
    "lazy": (lambda: nn.Sequential(nn.LazyLinear(3)), F.cross_entropy, "is lazy"),
    "meta": (lambda: nn.Linear(5, 3, device="meta"), F.cross_entropy, "meta device"),
    "complex": (Complex, F.cross_entropy, "must be real"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_another_function_is_refused_on_one_line(name):
    model, loss, message = REFUSED[name]
    with pytest.raises(ValueError, match=message) as caught:
        count_eigenvalues(Hessian(model(), loss, (X, Y)), threshold=1e-3)
    assert "\n" not in str(caught.value)


def test_a_derivative_that_is_not_the_slope_is_refused():
    """gaussian_nll_loss clamps small variances without a gradient."""
    model = Calls(lambda x, a, b: torch.stack([x @ a, (1e-9 * (2 + b.sin())).expand(len(x))]).T, A[:, 0], B[0])
    targets = torch.randn(24, generator=torch.Generator().manual_seed(5), dtype=DOUBLE)

    def loss(z: Tensor, y: Tensor) -> Tensor:
        return 1e-6 * F.gaussian_nll_loss(z[:, 0], y, z[:, 1], eps=1e-6)

    with pytest.raises(ValueError, match="gaussian_nll_loss with a variance below eps"):
        count_eigenvalues(Hessian(model, loss, (X, targets)), threshold=1e-3)


BY_CLASS = [(X[c == Y], Y[c == Y]) for c in range(3)]
WEIGHTS = torch.tensor([0.1, 1.0, 5.0], dtype=DOUBLE)


@pytest.mark.parametrize("data", [BY_CLASS, BY_CLASS[:2] * 9], ids=["classes", "many batches"])
def test_weights_that_differ_between_batches_are_asked_for(data):
    weighted = functools.partial(F.cross_entropy, weight=WEIGHTS)
    with pytest.raises(ValueError, match="needs batch_weight"):
        Hessian(mlp(), weighted, data)
    given = Hessian(mlp(), weighted, data, batch_weight=lambda y: WEIGHTS[y].sum())
    x, y = (torch.cat(parts) for parts in zip(*data, strict=True))
    torch.testing.assert_close(given.problem.value(), weighted(mlp()(x), y).detach(), rtol=1e-12, atol=0)


def test_a_rare_class_of_resident_data_is_found_before_a_count():
    """Of a thousand samples two have another weight: the few that are tried at first do not show it."""
    x = torch.randn(1000, 5, generator=torch.Generator().manual_seed(3), dtype=DOUBLE)
    y = torch.zeros(1000, dtype=torch.int64)
    y[[317, 901]] = 2
    hessian = Hessian(mlp(), functools.partial(F.cross_entropy, weight=WEIGHTS), (x, y), memory=2**20)
    with pytest.raises(ValueError, match="batch_weight"):
        count_eigenvalues(hessian, threshold=1e-3)


def test_kinks_at_the_point_itself_are_compared_nearby():
    model = mlp(nn.ReLU())
    nn.init.zeros_(model[0].bias)
    x = X.clone()
    x[:5] = 0
    assert Hessian(model, F.cross_entropy, (x, Y)).fidelity.status == "kinks"


def test_rows_of_padding_are_left_alone_wherever_the_first_one_is():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(6, 3, padding_idx=0), nn.Flatten(), nn.Linear(6, 3)).double()
    ids, y = torch.randint(1, 6, (60, 2)), torch.randint(0, 3, (60,))
    ids[31] = 0
    matrix = assemble(Hessian(model, F.cross_entropy, (ids, y))).matrix
    expected = differences(lambda: F.cross_entropy(model(ids), y), list(model.parameters()))
    expected[:3] = expected[:, :3] = 0
    assert float((matrix - expected).norm()) <= 1e-7 * float(expected.norm())


class Inside(nn.Module):
    """Computes in float32 whatever its parameters are; under autocast in bfloat16."""

    def __init__(self, autocast: bool) -> None:
        super().__init__()
        self.inner, self.autocast = mlp().float(), autocast

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=self.autocast):
            return self.inner(x).float()


@pytest.mark.parametrize("seed", range(4))
def test_float32_inside_is_accepted_and_said(seed):
    torch.manual_seed(seed)
    data = (torch.randn(40, 5), torch.randint(0, 3, (40,)))
    hessian = Hessian(Inside(False), F.cross_entropy, data, dtype=DOUBLE)
    counts = count_eigenvalues(hessian, relative_threshold=1e-2)
    assert hessian.fidelity.arithmetic == "float32"
    assert "float32 inside" in str(counts)
    assert counts.check.fidelity is hessian.fidelity


@pytest.mark.parametrize("kind", [Hessian, GaussNewton])
def test_a_float32_matrix_is_compared_in_float64(kind):
    model = mlp(nn.ReLU()).float()
    fidelity = kind(model, F.cross_entropy, (X.float(), Y)).fidelity
    assert fidelity.status == "agrees"
    assert fidelity.error < 1e-6


def test_autocast_is_another_function_and_said():
    notes = Hessian(Inside(True), F.cross_entropy, (X.float(), Y), dtype=DOUBLE).fidelity.notes
    assert any("as trained it computes in bfloat16" in note for note in notes)


def test_switched_off_by_name_the_counts_say_so():
    hessian = Hessian(Calls(lambda x, a: Lost.apply(x @ a)[0], A), F.cross_entropy, (X, Y), fidelity=False)
    counts = count_eigenvalues(hessian, threshold=1e-3)
    assert counts.check.fidelity.status == "off"
    assert "not checked" in str(counts)


@pytest.mark.parametrize("mode", ["forward", "reverse", "autograd"])
@pytest.mark.parametrize("kind", [Hessian, GaussNewton])
def test_modes_agree(kind, mode):
    matrix = kind(mlp(), F.cross_entropy, (X, Y))
    expected = assemble(matrix).matrix
    matrix.mode = mode
    block = torch.eye(matrix.shape[0], dtype=DOUBLE)
    torch.testing.assert_close(matrix @ block, expected, rtol=0, atol=1e-13)
    torch.testing.assert_close(matrix @ block[:, 0], expected[:, 0], rtol=0, atol=1e-13)


def test_a_cache_of_an_earlier_pass_is_refused():
    model = Caches()
    model(X)
    with pytest.raises(ValueError, match=r"it keeps \['kept'\], computed earlier"):
        Hessian(model, F.cross_entropy, (X, Y))


def test_gauss_newton_is_judged_by_differences_too():
    class Bends(nn.Module):
        def forward(self, z: Tensor, y: Tensor) -> Tensor:
            return F.cross_entropy(Lost.apply(z)[0], y)

    with pytest.raises(ValueError, match="Function Lost"):
        GaussNewton(mlp(), Bends(), (X, Y))


@pytest.mark.parametrize("wrong", [False, True])
def test_a_compiled_model_is_counted_as_written_and_compared(wrong):
    def backend(graph, _):
        return (lambda *inputs: [2 * z for z in graph(*inputs)]) if wrong else graph.forward

    model = mlp()
    compiled = torch.compile(model, backend=backend)
    if wrong:
        with pytest.raises(ValueError, match="must compute what is written"):
            Hessian(compiled, F.cross_entropy, (X, Y))
        return
    hessian = Hessian(compiled, F.cross_entropy, (X, Y))
    assert hessian.problem.notes() == []
    assert torch.equal(assemble(hessian).matrix, assemble(Hessian(model, F.cross_entropy, (X, Y))).matrix)


def test_a_loader_over_sorted_data_is_refused_by_its_first_pass():
    order = Y.argsort()
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(X[order], Y[order]), batch_size=6)
    hessian = Hessian(mlp(), functools.partial(F.cross_entropy, weight=WEIGHTS), loader)
    with pytest.raises(ValueError, match="needs batch_weight"):
        hessian @ torch.ones(hessian.shape[0], dtype=DOUBLE)


def test_a_tensor_of_another_type_in_a_closure():
    with pytest.raises(ValueError, match=r"must be float64 .* or pass the dtype="):
        Hessian(mlp(), functools.partial(F.cross_entropy, weight=WEIGHTS.float()), (X, Y))


def test_products_that_turn_out_lopsided_are_computed_in_the_next_mode():
    """Forward derivatives of an embedding do not know padding, which comes in one sample of many."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(6, 3, padding_idx=0), nn.Flatten(), nn.Linear(6, 3)).double()
    ids, y = torch.randint(1, 6, (1000, 2)), torch.randint(0, 3, (1000,))
    ids[501] = 0
    hessian = Hessian(model, F.cross_entropy, (ids, y), fidelity=False)
    hessian.mode = "forward"
    counts = count_eigenvalues(hessian, threshold=1e-6)
    expected = differences(lambda: F.cross_entropy(model(ids), y), list(model.parameters()))
    expected[:3] = expected[:, :3] = 0
    assert hessian.mode != "forward"
    assert counts.negative.lower == int((torch.linalg.eigvalsh((expected + expected.T) / 2) < -1e-6).sum())


class Frozen(dict):
    """A configuration that may not be written, as libraries of models keep them."""

    def update(self, *_, **__):
        raise RuntimeError("frozen")

    clear = update


def test_a_frozen_configuration_in_a_model_is_left_alone():
    model = mlp()
    model.configuration = Frozen(width=4)
    matrix = assemble(Hessian(model, F.cross_entropy, (X, Y))).matrix
    assert torch.equal(matrix, assemble(Hessian(mlp(), F.cross_entropy, (X, Y))).matrix)
    assert model.configuration == {"width": 4}


def test_a_loss_that_jumps_at_its_parameters_is_refused():
    """Torch's householder map cuts a diagonal of +-1 to integers in forward."""
    layer = nn.utils.parametrizations.orthogonal(nn.Linear(4, 4), orthogonal_map="householder")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), layer).double()
    with pytest.raises(ValueError, match="the loss jumps at its parameters"):
        count_eigenvalues(Hessian(model, F.cross_entropy, (X, Y)), threshold=1e-3)
