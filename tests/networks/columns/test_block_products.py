"""Folded products against plain ones: same numbers, few operations, refused where they would be wrong."""

import pickle

import pytest
import torch
from torch import nn
from torch.func import vmap

from lanczos_saddle import GaussNewton, Hessian
from lanczos_saddle.networks.columns.cache import BlockProducts
from lanczos_saddle.networks.columns.rules import RULES
from lanczos_saddle.networks.columns.stages import record
from lanczos_saddle.networks.columns.trace import UntraceableError, trace

aten = torch.ops.aten
F64 = torch.float64


class Attention(nn.Module):
    """One encoder layer on tokens; classes in the second dimension, as the loss wants them."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(11, 8)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True, activation="gelu")
        self.head = nn.Linear(8, 11)

    def forward(self, tokens):
        return self.head(self.layer(self.embedding(tokens))).transpose(1, 2)


class Tied(nn.Module):
    """One matrix used twice."""

    def __init__(self):
        super().__init__()
        self.w = nn.Linear(6, 6)

    def forward(self, x):
        return self.w(torch.tanh(self.w(x)))[:, :3]


def zoo():
    torch.manual_seed(0)
    x, y = torch.randn(13, 6, dtype=F64), torch.randint(3, (13,))
    images, tokens = torch.randn(9, 2, 8, 8, dtype=F64), torch.randint(11, (7, 5))
    relu = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
    smooth = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4), nn.GELU(), nn.Linear(4, 3))
    softplus = nn.Sequential(nn.Linear(6, 5), nn.Softplus(), nn.Linear(5, 4), nn.SiLU(), nn.Linear(4, 3))
    conv = nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1),
        nn.BatchNorm2d(3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(3, 4, 3, stride=2),
        nn.ELU(),
        nn.AvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 3),
    )
    grouped = nn.Sequential(nn.Conv2d(2, 4, 3, groups=2), nn.LeakyReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    labels = torch.randint(3, (9,))
    entropy, squares, unit = nn.CrossEntropyLoss(), nn.MSELoss(), torch.rand(13, 3, dtype=F64)
    return {
        "relu": (relu, entropy, (x, y)),
        "tanh, gelu, squared error": (smooth, squares, (x, torch.randn(13, 3, dtype=F64))),
        "sum of squares": (relu, nn.MSELoss(reduction="sum"), (x, unit)),
        "huber": (smooth, nn.HuberLoss(), (x, unit)),
        "smooth l1": (smooth, nn.SmoothL1Loss(), (x, unit)),
        "binary": (smooth, nn.BCEWithLogitsLoss(), (x, unit)),
        "softmax": (nn.Sequential(nn.Linear(6, 5), nn.Softmax(-1), nn.Linear(5, 3)), squares, (x, unit)),
        "softplus, silu": (softplus, entropy, (x, y)),
        "linear model": (nn.Linear(6, 3), entropy, (x, y)),
        "tied": (Tied(), entropy, (x, y)),
        "convolutions": (conv, entropy, (images, labels)),
        "groups": (grouped, entropy, (images, labels)),
        "attention": (Attention(), entropy, (tokens, tokens.roll(1, 1))),
        "penalty": (relu, lambda z, t: nn.functional.cross_entropy(z, t) + (z**2).mean(), (x, y)),
        "per sample": (relu, nn.CrossEntropyLoss(reduction="none"), (x, y)),
        "ignored": (relu, entropy, (x, y.where(torch.arange(13) % 4 > 0, -100))),
    }


def plain(h, v):
    """The product without folding: `vmap` of the product of one vector."""
    total = torch.zeros(v.shape[1], v.shape[0], dtype=v.dtype)
    with h.problem.evaluating():
        for batch in h.problem.batches(4):
            total += vmap(h._local(batch))(v.mT)
    return total.mT / h.problem.weight


@pytest.mark.parametrize("kind", [Hessian, GaussNewton])
@pytest.mark.parametrize("name", list(zoo()))
def test_folded_products_are_the_plain_ones(kind, name):
    model, loss, data = zoo()[name]
    h = kind(model.double().eval(), loss, data)
    h.plan = lambda columns: (5, min(columns, 3))  # several chunks of two sizes, two groups
    v = torch.randn(h.shape[0], 4, dtype=F64, generator=torch.Generator().manual_seed(1))
    expected = plain(h, v)
    for _ in range(2):  # the second time from what was kept
        torch.testing.assert_close(h @ v, expected, rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(h @ v[:, 0], expected[:, 0], rtol=1e-11, atol=1e-12)
    assert h._blocks.refused is None
    assert h._blocks.kept_bytes > 0


def test_batches_of_a_loader_are_not_kept():
    model, loss, (x, y) = zoo()["relu"]
    h = Hessian(model.double(), loss, [(x[:8], y[:8]), (x[8:], y[8:])])
    v = torch.randn(h.shape[0], 2, dtype=F64)
    torch.testing.assert_close(h @ v, plain(h, v), rtol=1e-11, atol=1e-12)
    assert h._blocks.refused is None
    assert h._blocks.kept_bytes == 0


def test_no_more_is_kept_than_half_the_memory():
    model, loss, (x, y) = zoo()["relu"]
    h = Hessian(model.double(), loss, (x.repeat(50, 1), y.repeat(50)), memory=40_000)
    h.plan = lambda columns: (20, columns)
    v = torch.randn(h.shape[0], 2, dtype=F64)
    torch.testing.assert_close(h @ v, plain(h, v), rtol=1e-11, atol=1e-12)
    assert 0 < h._blocks.kept_bytes <= 20_000


def test_what_is_kept_for_a_width_not_in_use_makes_room():
    """Blocks of one width fill the memory; then others come, in other chunks, and are kept instead."""
    model, loss, (x, y) = zoo()["relu"]
    h = Hessian(model.double(), loss, (x.repeat(50, 1), y.repeat(50)), memory=200_000)
    h.plan = lambda columns: (20 * columns, columns)
    h._blocks.budget = 60_000
    for columns in (2, 3, 2):
        v = torch.randn(h.shape[0], columns, dtype=F64)
        for _ in range(2):
            torch.testing.assert_close(h @ v, plain(h, v), rtol=1e-11, atol=1e-12)
        assert list(h._blocks._kept) == [20 * columns]
        assert 50_000 < h._blocks.kept_bytes <= 60_000


def test_widths_are_kept_side_by_side_where_memory_has_room():
    model, loss, data = zoo()["relu"]
    h = Hessian(model.double(), loss, data)
    h.plan = lambda columns: (2 + columns, columns)
    for columns in (2, 3):
        h @ torch.randn(h.shape[0], columns, dtype=F64)
    assert list(h._blocks._kept) == [4, 5]


class Branching(nn.Linear):
    """Asks for a value."""

    def forward(self, x):
        z = super().forward(x)
        return z * 2 if float(x.abs().sum()) >= 0 else z**3


def masked(z, t):
    """A mean over some samples: how many they are depends on the targets."""
    return nn.functional.cross_entropy(z[t != 0], t[t != 0])


@pytest.mark.parametrize(
    ("model", "loss", "weight"),
    [(Branching(6, 3), nn.CrossEntropyLoss(), None), (nn.Linear(6, 3), masked, lambda t: (t != 0).sum())],
    ids=["branch", "mask"],
)
def test_what_depends_on_values_is_folded_and_verified(model, loss, weight):
    x = zoo()["relu"][2][0]
    h = Hessian(model.double(), loss, (x[:4], torch.tensor([1, 1, 2, 0])), batch_weight=weight)
    v = torch.randn(h.shape[0], 3, dtype=F64)
    torch.testing.assert_close(h @ v, plain(h, v), rtol=1e-11, atol=1e-12)
    assert h._blocks.refused is None
    assert h.folding.folded


def test_a_wrong_rule_is_found_out_and_not_used(monkeypatch):
    monkeypatch.setitem(RULES, aten.mm.default, lambda *_: lambda a, b: 1.001 * (a @ b))
    model, loss, data = zoo()["relu"]
    h = Hessian(model.double(), loss, data)
    v = torch.randn(h.shape[0], 3, dtype=F64)
    torch.testing.assert_close(h @ v, plain(h, v), rtol=1e-11, atol=1e-12)
    assert "differs" in h._blocks.refused


def test_stages_of_a_network():
    """X W', H W' once; X dW', H dW', dH W', dE W, E dW, dE'H, E'dH, dE'X for every block; none with zeros."""
    model, loss, data = zoo()["relu"]
    h = Hessian(model.double(), loss, data)
    with h.problem.evaluating():
        batch = next(h.problem.batches(13))
        product, shared = h._as_function(batch)
        traced = trace(product, (torch.ones(h.shape[0], dtype=F64), *shared))
        stages = record(product, h.problem.theta, shared)
    products = [n for n in traced.graph.nodes if n.target in (aten.mm.default, aten.addmm.default)]
    assert len(products) == 2 + 8
    assert stages.places == (slice(50, 53), slice(35, 50), slice(30, 35), slice(0, 30))
    rows = torch.randn(4, h.shape[0], dtype=F64)
    one, two = torch.zeros_like(rows), torch.zeros_like(rows)
    stages.add(one, stages.primal(*shared), stages.direction(rows))
    stages.add(two, stages.primal(*shared), stages.direction(2 * rows))
    torch.testing.assert_close(two, 2 * one)


def test_a_linear_function_of_v_alone():
    """Terms without the batch, and terms that fill all entries."""
    a = torch.randn(5, 5, dtype=F64)
    stages = record(lambda v, x: 3 * v + x @ v, torch.ones(5, dtype=F64), [a])
    rows, total = torch.randn(2, 5, dtype=F64), torch.zeros(2, 5, dtype=F64)
    stages.add(total, stages.primal(a), stages.direction(rows))
    torch.testing.assert_close(total, 3 * rows + rows @ a.mT)


def test_a_product_that_is_zero():
    stages = record(lambda v, x: torch.zeros_like(v) * x, torch.ones(5, dtype=F64), [torch.ones(5, dtype=F64)])
    total = torch.zeros(2, 5, dtype=F64)
    stages.add(total, stages.primal(torch.ones(5, dtype=F64)), stages.direction(torch.ones(2, 5, dtype=F64)))
    assert not total.any()


def test_writing_into_an_argument_is_refused():
    with pytest.raises(UntraceableError, match="writes"):
        record(lambda v, x: v * x.mul_(2), torch.ones(3), [torch.ones(3)])


class Scaled(nn.Module):
    """Doubles its matrix before it scales it: a product of v alone, multiplied by what is not."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.randn(3, 6))
        self.register_buffer("scale", torch.arange(1.0, 19.0).view(3, 6))

    def forward(self, x):
        return x @ (2 * self.w * self.scale).T


@pytest.mark.parametrize("kind", [Hessian, GaussNewton])
def test_what_serves_all_batches_is_not_written_over(kind):
    h = kind(Scaled().double(), nn.CrossEntropyLoss(), zoo()["relu"][2])
    h.plan = lambda columns: (5, columns)
    v = torch.randn(h.shape[0], 2, dtype=F64)
    torch.testing.assert_close(h @ v, plain(h, v), rtol=1e-11, atol=1e-12)
    assert h._blocks.refused is None


class Options(nn.Linear):
    """One of two inputs, times a number."""

    def forward(self, one=None, two=None, scale=1):
        return scale * super().forward(one) if two is None else super().forward(two) ** 2


class Unhashable(float):
    """A number that no table of known batches takes."""

    __hash__ = None


@pytest.mark.parametrize(
    ("options", "folded"),
    [({"one": None, "scale": 2.0}, True), ({"one": None, "scale": Unhashable(2.0)}, False), ({"two": None}, True)],
    ids=["number", "unhashable", "names"],
)
def test_batches_differ_in_more_than_tensors(options, folded):
    _, loss, (x, y) = zoo()["relu"]
    second = {name: x[5:10] if value is None else value for name, value in options.items()}
    h = Hessian(Options(6, 3).double(), loss, [({"one": x[:5]}, y[:5]), (second, y[5:10])])
    v = torch.randn(h.shape[0], 2, dtype=F64)
    torch.testing.assert_close(h @ v, plain(h, v), rtol=1e-11, atol=1e-12)
    assert (h._blocks.refused is None) == folded


def test_a_wrong_rule_is_found_out_though_zeros_are_multiplied_first(monkeypatch):
    monkeypatch.setitem(RULES, aten.mm.default, lambda *_: lambda a, b: 1.001 * (a @ b))
    model, loss, data = zoo()["relu"]
    h = Hessian(model.double(), loss, data)
    v = torch.randn(h.shape[0], 2, dtype=F64)
    assert not (h @ torch.zeros_like(v)).any()
    torch.testing.assert_close(h @ v, plain(h, v), rtol=1e-11, atol=1e-12)
    assert "differs" in h._blocks.refused


def test_nan_is_no_agreement():
    blocks, rows = BlockProducts(0), torch.ones(2, 3)
    product = lambda v, x: v * x  # noqa: E731
    for x in (torch.full((3,), torch.nan), torch.ones(3)):
        total = torch.zeros(2, 3)
        blocks.add(total, rows, {}, product, [x], lambda v, x=x: v * x)
        assert torch.equal(total.isnan(), x.isnan().expand(2, 3))
    assert blocks.refused is not None


class Listing(nn.Linear):
    """Reads its inputs as Python numbers."""

    def forward(self, x):
        return super().forward(x) * x.new_tensor([2.0 if row[0] > 0 else 1.0 for row in x.tolist()])[:, None]


def test_lists_of_values_are_verified():
    _, loss, data = zoo()["relu"]
    h = Hessian(Listing(6, 3).double(), loss, data)
    h.plan = lambda columns: (5, columns)
    v = torch.randn(h.shape[0], 2, dtype=F64)
    torch.testing.assert_close(h @ v, plain(h, v), rtol=1e-11, atol=1e-12)
    assert h._blocks.refused is None
    assert h.folding.recordings == 3  # one for each chunk: the signs differ


def test_a_hessian_is_pickled_after_products():
    model, loss, data = zoo()["relu"]
    h = Hessian(model.double(), loss, data)
    v = torch.randn(h.shape[0], 2, dtype=F64)
    expected = h @ v
    again = pickle.loads(pickle.dumps(h))
    assert again._blocks.kept_bytes == 0
    torch.testing.assert_close(again @ v, expected, rtol=1e-12, atol=1e-14)
    assert again._blocks.refused is None


def test_directions_of_two_looks_are_kept_at_most():
    blocks, rows, directions = BlockProducts(0), torch.ones(2, 3), {}
    total = torch.zeros(2, 3)
    for n in range(1, 8):
        blocks.add(total, rows, directions, lambda v, x: v * x.sum(), [torch.ones(n)], lambda v, n=n: v * n)
        assert len(directions) <= 2
    assert torch.equal(total, torch.full((2, 3), 28.0))


def test_only_so_many_looks_are_recorded(monkeypatch):
    monkeypatch.setattr("lanczos_saddle.networks.columns.cache.RECORDED", 2)
    blocks, rows, total = BlockProducts(0), torch.ones(2, 3), torch.zeros(2, 3)
    for n in range(1, 6):
        blocks.add(total, rows, {}, lambda v, x: v * x.sum(), [torch.ones(n)], lambda v, n=n: v * n)
    assert torch.equal(total, torch.full((2, 3), 15.0))
    assert len(blocks._stages) == 2
    assert "different looks" in blocks.refused


class Padded(nn.Module):
    """The embedding of one token is not trained; torch's forward derivative does not know it."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(11, 4, padding_idx=0)
        self.head = nn.Linear(4, 3)

    def forward(self, tokens):
        return self.head(self.embedding(tokens).prod(1))


@pytest.mark.parametrize("kind", [Hessian, GaussNewton])
def test_the_matrix_is_symmetric_with_padded_embeddings(kind):
    torch.manual_seed(0)
    tokens = torch.randint(11, (20, 3))
    tokens[0, 0] = 0
    h = kind(Padded().double(), nn.CrossEntropyLoss(), (tokens, torch.randint(3, (20,))))
    matrix = h @ torch.eye(h.shape[0], dtype=F64)
    torch.testing.assert_close(matrix, matrix.mT, rtol=0, atol=1e-14)
    assert not matrix[:4].any()
