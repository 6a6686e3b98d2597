"""Hessian products against closed forms, then dense float64 Hessians of losses written out by hand."""

import gc
import inspect
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from matrices import gaussian, labels
from torch import Tensor, nn
from torch.func import functional_call
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from lanczos_saddle.networks.gauss_newton import GaussNewton
from lanczos_saddle.networks.hessian import Hessian

DOUBLE = torch.float64


def seeded(model: nn.Module, seed: int = 2, scale: float = 0.4) -> nn.Module:
    """The model in float64 and eval mode, with all parameters and running statistics drawn."""
    model = model.double().eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(scale * torch.randn(p.shape, generator=generator, dtype=DOUBLE))
        for name, b in model.named_buffers():
            if name.endswith("running_var"):
                b.copy_(0.5 + torch.rand(b.shape, generator=generator, dtype=DOUBLE))
    return model


def dense(operator: Any) -> Tensor:
    return operator @ torch.eye(operator.shape[0], dtype=operator.dtype)


# ---------------------------------------------------------------- closed forms


def test_softmax_regression_at_zero_weights():
    """H = kron((I - 11'/C) / C, X'X / n) at W = 0."""
    n, d, classes = 23, 5, 4
    x = gaussian(n, d)
    model = nn.Linear(d, classes, bias=False).double()
    nn.init.zeros_(model.weight)
    hessian = dense(Hessian(model, nn.CrossEntropyLoss(), (x, labels(n, classes))))
    center = (torch.eye(classes, dtype=DOUBLE) - 1 / classes) / classes
    torch.testing.assert_close(hessian, torch.kron(center, x.mT @ x / n), rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("loss", [nn.MSELoss(), F.mse_loss, lambda z, y: ((z - y) ** 2).mean()])
def test_linear_regression(loss):
    """H = 2/(n C) kron(I, X'X), for the mean over elements."""
    x, y = gaussian(17, 4), gaussian(17, 3, seed=1)
    model = nn.Linear(4, 3, bias=False).double()
    expected = torch.kron(torch.eye(3, dtype=DOUBLE), 2 * x.mT @ x / (17 * 3))
    torch.testing.assert_close(dense(Hessian(model, loss, (x, y))), expected, rtol=1e-13, atol=1e-14)


def test_rescaling_of_a_relu_unit():
    """H (A theta) = -A grad: no oracle (incoming weights of a unit times a, outgoing divided by a)."""
    model = seeded(nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)))
    hessian = Hessian(model, nn.CrossEntropyLoss(), (gaussian(40, 6), labels(40, 3)))
    for unit in range(5):
        sign = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
        sign["0.weight"][unit], sign["0.bias"][unit], sign["2.weight"][:, unit] = 1, 1, -1
        generator = torch.cat([sign[name].reshape(-1) for name in hessian.problem.names])
        image = hessian @ (generator * hessian.problem.theta)
        torch.testing.assert_close(image, -generator * hessian.problem.gradient(), rtol=1e-12, atol=1e-15)


# ---------------------------------------------------------------- a registry of problems


@dataclass(frozen=True)
class Case:
    """A problem and its loss written out: reference(call) with call(inputs) the model at given parameters."""

    model: nn.Module
    loss: Callable[..., Any]
    data: Any
    reference: Callable[[Callable[[Any], Any]], Tensor]
    mode: str = "forward"
    options: dict[str, Any] = field(default_factory=dict)


def mlp(activation: nn.Module | None = None) -> nn.Module:
    return seeded(nn.Sequential(nn.Linear(5, 4), activation or nn.Tanh(), nn.Linear(4, 3)))


class Tied(nn.Module):
    """One weight used twice, an unused one, and a 0-d scale."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(5, 5)
        self.second = nn.Linear(5, 5)
        self.second.weight = self.first.weight
        self.unused = nn.Parameter(torch.zeros(3))
        self.scale = nn.Parameter(torch.tensor(1.0))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * self.second(torch.tanh(self.first(x)))


class Two(nn.Module):
    """Two inputs, by position or by name."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(3, 3), nn.Linear(2, 3)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return self.left(left) * torch.sigmoid(self.right(right))


class Block(nn.Module):
    """Embedding, attention and layer norm: one logit vector a token."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 4)
        self.encoder = nn.TransformerEncoderLayer(4, 2, 6, dropout=0.1, activation="gelu", batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.encoder(self.embedding(x)).transpose(1, 2)  # (n, classes, tokens)


X, Y = gaussian(19, 5), labels(19, 3)
REAL = gaussian(19, 3, seed=5)
UNEVEN = [(X[:8], Y[:8]), (X[8:16], Y[8:16]), (X[16:], Y[16:])]
CLASS_WEIGHTS = torch.tensor([0.5, 2.0, 1.25], dtype=DOUBLE)
IMAGES = gaussian(9, 2, 6, 6, seed=6)
CONVOLUTION = nn.Sequential(
    nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Tanh(), nn.AvgPool2d(4), nn.Flatten(), nn.Linear(3, 3)
)
TOKENS = torch.randint(7, (6, 5), generator=torch.Generator().manual_seed(7))
TOKEN_TARGETS = torch.where(torch.arange(30).view(6, 5) % 4 == 0, -100, TOKENS % 4)
TOKEN_TARGETS[2] = -100  # a whole sample ignored: a chunk of it has weight 0
KEPT = torch.where(Y == 1, -1, Y)


def picked(z: Tensor, y: Tensor) -> Tensor:
    """log p of the target, one value a sample."""
    return (z - z.logsumexp(1, keepdim=True)).gather(1, y[:, None])[:, 0]


def softmax_mean(call):
    return -picked(call(X), Y).sum() / len(X)


def weighted_mean(call):
    keep = KEPT >= 0
    w = CLASS_WEIGHTS[KEPT[keep]]
    return -(w * picked(call(X), Y)[keep]).sum() / w.sum()


def token_mean(call):
    z, keep = call(TOKENS).transpose(1, 2).reshape(30, 4), TOKEN_TARGETS.reshape(30) >= 0
    return -picked(z[keep], TOKEN_TARGETS.reshape(30)[keep]).mean()


def square_mean(call):
    return ((call(X) - REAL) ** 2).sum() / REAL.numel()


def token_loss(z: Tensor, y: Tensor) -> Tensor:
    """A mean over tokens that count, as a bare function: the problem cannot know what it weighs."""
    return F.cross_entropy(z, y)


TOKEN_BATCHES = [(TOKENS[:4], TOKEN_TARGETS[:4]), (TOKENS[4:], TOKEN_TARGETS[4:])]
PAIR = (X[:, :3], X[:, 3:])
CASES = {
    "tanh": Case(mlp(), nn.CrossEntropyLoss(), (X, Y), softmax_mean),
    "relu": Case(mlp(nn.ReLU()), nn.CrossEntropyLoss(), (X, Y), softmax_mean),
    "uneven batches": Case(mlp(), nn.CrossEntropyLoss(), UNEVEN, softmax_mean),
    "uneven, function": Case(mlp(), F.cross_entropy, UNEVEN, softmax_mean),
    "loader": Case(mlp(), F.cross_entropy, DataLoader(TensorDataset(X, Y), batch_size=7, shuffle=True), softmax_mean),
    "sum": Case(mlp(), nn.CrossEntropyLoss(reduction="sum"), UNEVEN, softmax_mean),
    "none": Case(mlp(), nn.CrossEntropyLoss(reduction="none"), UNEVEN, softmax_mean),
    "per element": Case(mlp(), lambda z, y: (z - y) ** 2 / 3, (X, REAL), square_mean),
    "class weights, ignored": Case(
        mlp(),
        nn.CrossEntropyLoss(weight=CLASS_WEIGHTS, ignore_index=-1),
        [(X[:8], KEPT[:8]), (X[8:], KEPT[8:])],
        weighted_mean,
    ),
    "mse": Case(mlp(), nn.MSELoss(), [(X[:8], REAL[:8]), (X[8:], REAL[8:])], square_mean, mode="reverse"),
    "convolution": Case(
        seeded(CONVOLUTION), nn.CrossEntropyLoss(), (IMAGES, Y[:9]), lambda call: -picked(call(IMAGES), Y[:9]).mean()
    ),
    "tied": Case(seeded(Tied()), nn.CrossEntropyLoss(), (X, Y), softmax_mean),
    "positional": Case(seeded(Two()), nn.CrossEntropyLoss(), (PAIR, Y), lambda call: -picked(call(PAIR), Y).mean()),
    "named": Case(
        seeded(Two()),
        nn.CrossEntropyLoss(),
        [({"right": PAIR[1], "left": PAIR[0]}, Y)],
        lambda call: -picked(call(PAIR), Y).mean(),
    ),
    "tokens": Case(seeded(Block(), scale=0.6), nn.CrossEntropyLoss(), TOKEN_BATCHES, token_mean),
    "token weights": Case(
        seeded(Block(), scale=0.6),
        token_loss,
        TOKEN_BATCHES,
        token_mean,
        options={"batch_weight": lambda y: (y >= 0).sum()},
    ),
}


def oracle(case: Case) -> Tensor:
    """The dense Hessian, reverse over reverse on the loss written out."""
    parameters = dict(case.model.named_parameters())

    def loss(theta: Tensor) -> Tensor:
        parts = theta.split([p.numel() for p in parameters.values()])
        named = {name: part.view(p.shape) for (name, p), part in zip(parameters.items(), parts, strict=True)}
        return case.reference(lambda x: functional_call(case.model, named, x if type(x) is tuple else (x,)))

    theta = torch.cat([p.detach().reshape(-1) for p in parameters.values()])
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        return torch.autograd.functional.hessian(loss, theta)


def make(case: Case, **options: Any) -> Hessian:
    return Hessian(case.model, case.loss, case.data, **{**case.options, **options})


SLOW = ("token weights",)


@pytest.fixture(
    params=[pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in CASES], scope="module"
)
def case(request) -> Case:
    return CASES[request.param]


@pytest.fixture(scope="module")
def expected(case) -> Tensor:
    return oracle(case)


def test_equals_the_dense_hessian(case, expected):
    hessian = make(case)
    assert hessian.mode == case.mode
    assert hessian.shape == expected.shape
    assert hessian.dtype == DOUBLE
    assert (dense(hessian) - expected).abs().max() <= 1e-12 * expected.abs().max()


def test_symmetry_and_blocks(case):
    hessian = make(case)
    u, v = gaussian(hessian.shape[0], seed=3), gaussian(hessian.shape[0], seed=4)
    block = hessian @ torch.stack([u, v], dim=1)
    slack = 1e-13 * block.norm() * u.norm()
    assert abs(v @ block[:, 0] - u @ block[:, 1]) <= slack
    for column, image in ((u, block[:, 0]), (v, block[:, 1])):
        assert (hessian @ column - image).norm() <= slack
        assert (hessian @ column[:, None])[:, 0].sub(image).norm() <= slack


@pytest.mark.parametrize("function", [F.cross_entropy, F.nll_loss])
def test_ignored_targets_of_functions(function):
    """Most samples ignored, those last: one mean, not a mean of chunk means, whatever the chunks are."""
    x, targets = gaussian(400, 5), torch.where(torch.arange(400) < 90, labels(400, 3), -100)
    case = Case(
        mlp(),
        function,
        (x, targets),
        lambda call: (
            -(
                picked(call(x[:90]), targets[:90])
                if function is F.cross_entropy
                else call(x[:90]).gather(1, targets[:90, None])
            ).mean()
        ),
    )
    expected = oracle(case)
    whole = make(case, memory=2**30)
    loaded = make(Case(case.model, function, DataLoader(TensorDataset(x, targets), batch_size=64), case.reference))
    for hessian in (whole, make(case, memory=whole.predict(1, 1)), loaded):
        assert hessian.problem.weight == 90
        assert (dense(hessian) - expected).abs().max() <= 1e-12 * expected.abs().max()


def test_help_documents_every_argument():
    arguments = set(inspect.signature(Hessian).parameters)
    documented = set(re.findall(r"^ {4}(\w+):", inspect.getdoc(Hessian), re.MULTILINE))
    assert documented == arguments


def test_memory_changes_chunks_not_the_product(case):
    """The smallest memory that is accepted takes one sample and one column at a time, or a few recorded ones."""
    hessian = make(case)
    small = make(case, memory=hessian.predict(1, 1))
    samples, columns = small.plan(3)
    assert small.pieces(samples, columns) == (1, 1)
    assert samples * columns <= hessian.plan(3)[0] * 3
    assert small.footprint.folded(samples, columns) <= small.memory
    block = gaussian(hessian.shape[0], 3)
    assert (hessian @ block - small @ block).norm() <= 1e-13 * (hessian @ block).norm()


def test_reverse_mode_equals_forward_mode(case):
    """Whatever mode was chosen, the other one agrees where it exists."""
    hessian = make(case)
    block = gaussian(hessian.shape[0], 2)
    image = hessian @ block
    hessian.mode = "reverse"
    assert (hessian @ block - image).norm() <= 1e-13 * image.norm()


def test_float32_differs_by_rounding(case):
    hessian = make(case)
    single = hessian.to(torch.float32)
    assert (single.dtype, single.problem.theta.dtype, hessian.dtype) == (torch.float32, torch.float32, DOUBLE)
    v = gaussian(hessian.shape[0])
    error = (single @ v.float()).double() - hessian @ v
    assert 0 < error.norm() <= 1e-5 * (hessian @ v).norm()  # about 100 eps of float32
    back = single.to(DOUBLE) @ v  # the float64 product at the rounded weights
    assert (back - hessian @ v).norm() <= 1e-5 * (hessian @ v).norm()


def test_parameters_select_the_principal_submatrix():
    case = CASES["tanh"]
    whole, theta = make(case), make(case).problem
    for patterns in ("2.*", "*.weight", ["0.bias", "2.weight"]):
        part = make(case, parameters=patterns)
        index = torch.cat([torch.arange(theta.size)[theta.ranges[name]] for name in part.problem.names])
        torch.testing.assert_close(dense(part), dense(whole)[index][:, index], rtol=1e-12, atol=1e-15)


def test_unused_parameter_has_a_zero_row():
    hessian = make(CASES["tied"])
    assert torch.count_nonzero(dense(hessian)[hessian.problem.ranges["unused"]]) == 0


def test_wide_blocks_are_split():
    hessian = make(CASES["tanh"])
    block = gaussian(hessian.shape[0], 70)
    assert hessian.plan(70)[1] <= 32
    torch.testing.assert_close(hessian @ block, dense(hessian) @ block, rtol=1e-11, atol=1e-14)
    assert (hessian @ block[:, :0]).shape == (hessian.shape[0], 0)


def test_products_inside_other_modes():
    """no_grad, enabled grad and vectors that require it make no difference and leave no graph."""
    hessian = make(CASES["tanh"])
    v = gaussian(hessian.shape[0])
    with torch.no_grad():
        plain = hessian @ v
    tracked = hessian @ v.clone().requires_grad_()
    assert not tracked.requires_grad
    torch.testing.assert_close(tracked, plain, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["tanh", "mse"])
def test_no_graph_is_left(name):
    hessian = make(CASES[name])
    block = gaussian(hessian.shape[0], 4)
    counts = []
    for _ in range(3):
        hessian @ block
        gc.collect()
        counts.append(sum(1 for thing in gc.get_objects() if type(thing) is Tensor))
    assert counts[1] == counts[2]


def test_to_scipy():
    hessian = make(CASES["tanh"])
    v = gaussian(hessian.shape[0])
    torch.testing.assert_close(torch.from_numpy(hessian.to_scipy() @ v.numpy()), hessian @ v, rtol=0, atol=0)


PEAK = """
import resource, torch
from torch import nn
from lanczos_saddle import {kind}
torch.set_num_threads(1)
model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.Tanh(), nn.Conv2d(16, 16, 3), nn.ReLU(), nn.Flatten(),
                      nn.Linear(16 * 400, 2))
data = torch.randn(256, 3, 24, 24), torch.arange(256) % 2
A = {kind}(model, nn.CrossEntropyLoss(), data, memory={memory})
v = torch.randn(A.shape[0], 8)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
A @ v
print(1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before), *A.plan(8))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in KiB on Linux only")
def test_memory_holds():
    """Peak memory in a fresh process; the slack covers the allocator and the libraries' own workspaces."""
    memory, slack = 100 * 2**20, 40 * 2**20
    script = PEAK.format(module="networks.hessian", kind="Hessian", memory=memory)
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    peak, samples, columns = map(int, run.stdout.split())
    assert peak <= memory + slack
    assert samples * columns < 256 * 8 / 2  # all at once would take more than twice the memory


def test_memory_that_cannot_suffice():
    with pytest.raises(ValueError, match=r"one sample and one column, \d+ bytes here; got memory=100"):
        make(CASES["tanh"], memory=100)


class Once(torch.autograd.Function):
    """A square whose derivative cannot be differentiated."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, g):
        return 2 * g * ctx.saved_tensors[0]


def test_no_second_derivative():
    with pytest.raises(ValueError, match=r"must be that of the model's own loss; .* autograd.Function Once"):
        Hessian(mlp(), lambda z, y: Once.apply(z - y).mean(), (X, REAL))


@pytest.mark.parametrize(
    ("v", "message"),
    [
        (torch.ones(5, dtype=DOUBLE), r"multiplies shapes \(39,\)"),
        (torch.ones(39), "works in torch.float64"),
        ([1.0] * 39, "multiplies torch tensors"),
    ],
)
def test_wrong_vectors(v, message):
    with pytest.raises(ValueError, match=message):
        make(CASES["tanh"]) @ v


@pytest.mark.parametrize("kind", [Hessian, GaussNewton])
def test_nothing_of_a_matrix_outlives_it(kind):
    """Its data, copied to another type, are freed with it; a graph that keeps its own outputs would hold them."""
    model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))
    matrix = kind(model, nn.CrossEntropyLoss(), (torch.randn(40, 6), torch.arange(40) % 3), dtype=torch.float64)
    matrix @ torch.randn(matrix.shape[0], 2, dtype=torch.float64)
    data = StorageWeakRef(matrix.problem.data.resident.inputs.untyped_storage())
    assert not data.expired()
    del matrix
    gc.collect()
    assert data.expired()


def test_what_a_sample_needs_does_not_depend_on_what_is_freed(case):
    assert len({make(case).predict(1, 1) for _ in range(5)}) == 1
