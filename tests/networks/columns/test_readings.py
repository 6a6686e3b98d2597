"""Products whose operations depend on values: folded, verified on every batch, and never those of another branch."""

import math
from dataclasses import fields

import pytest
import torch
from matrices import gaussian, labels
from torch import nn
from torch.nn import functional as F

import lanczos_saddle
from lanczos_saddle import Folding, GaussNewton, Hessian
from lanczos_saddle.networks.batches import parts_of
from lanczos_saddle.networks.columns.cache import BlockProducts
from lanczos_saddle.networks.columns.readings import DiffersError, Reading
from lanczos_saddle.networks.columns.stages import record
from lanczos_saddle.networks.columns.trace import UntraceableError

F64 = torch.float64


def by_differences(model, value, step=1e-5):
    """The dense Hessian of value(), from central differences of gradients at parameters that are moved in place."""
    parameters = list(model.parameters())

    def slope():
        found = torch.autograd.grad(value(), parameters, allow_unused=True, materialize_grads=True)
        return torch.cat([g.reshape(-1) for g in found])

    columns = []
    for parameter in parameters:
        entries = parameter.data.view(-1)
        for i in range(len(entries)):
            there, ends = float(entries[i]), []
            for sign in (1, -1):
                entries[i] = there + sign * step
                ends.append(slope())
            entries[i] = there
            columns.append((ends[0] - ends[1]) / (2 * step))
    return torch.stack(columns, 1)


class Reader(nn.Module):
    """A small network; what happens in its middle is a question about values."""

    def __init__(self, middle):
        super().__init__()
        torch.manual_seed(3)
        self.one, self.two, self.middle = nn.Linear(4, 3), nn.Linear(3, 3), middle

    def forward(self, x):
        return self.two(self.middle(x, torch.tanh(self.one(x))))


def routed(x, h):
    """Experts that each see their own samples."""
    out = torch.zeros_like(h)
    for expert in range(3):
        mine = x[:, :3].argmax(1) == expert
        if mine.any():
            out[mine] = h[mine] * (expert + 1)
    return out


def selected(x, h):
    """The squares of some samples, by masked_select and back by masked_scatter."""
    mask = (x[:, :1] > 0).expand_as(h)
    return h.masked_scatter(mask, torch.masked_select(h, mask).square())


def weighted(x, h):
    """Weights from a list of numbers."""
    return h * h.new_tensor([2.0 if row[0] > 0 else 1.0 for row in x.tolist()])[:, None]


MIDDLES = {
    "branch": lambda x, h: torch.where(x[:, :1] > 0, h, h**2) if x[:, 0].max() > 0 else h**2,
    "item": lambda x, h: h**2 if not (x[:, 0] > 0).sum().item() else torch.where(x[:, :1] > 0, h, h**2),
    "branch on theta": lambda _, h: h**2 if h.min() > 0 else h * h.abs(),
    "all": lambda x, h: h if (x[:, 0] > 0).all() else torch.where(x[:, :1] > 0, h, h**2),
    "equal": lambda x, h: h if torch.equal(x[:, 0], x[:, 0].abs()) else torch.where(x[:, :1] > 0, h, h**2),
    "slice by item": lambda x, h: torch.cat([h[: (k := int((x[:, 0] > 0).sum()))], h[k:]]),
    "mask as index": lambda x, h: h.index_add(0, (x[:, 0] > 0).nonzero()[:, 0], h[x[:, 0] > 0] ** 2),
    "write by mask": routed,
    "masked select": selected,
    "list": weighted,
    "number of classes": lambda x, h: h * (1 + F.one_hot((x[:, 0] > 0).long(), 2).to(h.dtype)[:, 1:]),
}
X, Y = gaussian(12, 4), labels(12, 3)


@pytest.mark.parametrize("kind", [Hessian, pytest.param(GaussNewton, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", list(MIDDLES))
def test_values_that_are_read_are_folded(kind, name):
    """In chunks of 4, whose outcomes differ: as the plain products, and those as differences of gradients."""
    model = Reader(MIDDLES[name]).double()
    h = kind(model, nn.CrossEntropyLoss(reduction="none"), [(X[i : i + 4], Y[i : i + 4]) for i in (0, 4, 8)])
    folded = h @ torch.eye(h.shape[0], dtype=F64)
    assert h.folding.folded
    assert h.folding.reason is None
    with h.problem.evaluating():
        rows = torch.eye(h.shape[0], dtype=F64)
        plain = sum(h._unfolded(batch)(rows) for batch in h.problem.batches()) / h.problem.weight
    torch.testing.assert_close(folded, plain.mT, rtol=1e-11, atol=1e-13)
    if kind is Hessian:
        expected = by_differences(
            model, lambda: sum(F.cross_entropy(model(X[i : i + 4]), Y[i : i + 4], reduction="sum") for i in (0, 4, 8))
        )
        torch.testing.assert_close(folded, expected / 12, rtol=1e-6, atol=1e-8)


def test_a_branch_is_recorded_once_for_each_outcome_and_never_mistaken():
    """Batches of one look on both sides, in both orders, and again; the short way is wrong for the other one."""
    model = Reader(MIDDLES["all"]).double()
    calm, wild = X[:4].abs(), X[4:8]
    for first, second in ((calm, wild), (wild, calm)):
        h = Hessian(model, nn.CrossEntropyLoss(reduction="sum"), [(first, Y[:4]), (second, Y[4:8])])
        eye = torch.eye(h.shape[0], dtype=F64)
        products = [h @ eye for _ in range(3)]
        expected = by_differences(
            model,
            lambda first=first, second=second: (
                F.cross_entropy(model(first), Y[:4], reduction="sum")
                + F.cross_entropy(model(second), Y[4:8], reduction="sum")
            ),
        )
        for product in products:
            torch.testing.assert_close(product, expected / 8, rtol=1e-6, atol=1e-8)
        assert (h.folding.looks, h.folding.recordings) == (1, 2)


def test_another_theta_may_take_another_branch():
    """The same recordings serve a matrix at other parameters: what was read is read again there."""
    model = Reader(MIDDLES["branch on theta"]).double()
    h = Hessian(model, nn.CrossEntropyLoss(), (X, Y))
    eye = torch.eye(h.shape[0], dtype=F64)
    h @ eye
    for sign in (3.0, -3.0):
        theta = h.problem.theta.clone()
        theta[h.problem.ranges["one.bias"]] = sign  # all of h positive, or none
        with torch.no_grad():
            model.one.bias.fill_(sign)
        expected = by_differences(model, lambda: F.cross_entropy(model(X), Y))
        torch.testing.assert_close(h.at(theta) @ eye, expected, rtol=1e-6, atol=1e-8)
    assert h.folding.recordings == 2


@pytest.mark.slow
def test_too_many_outcomes_are_not_recorded():
    """The numbers themselves go into the product: another one for each batch."""
    model = Reader(lambda x, h: h * (1 + 0 * x[0, 0].item())).double()
    h = Hessian(model, nn.CrossEntropyLoss(), [(X[i : i + 1], Y[i : i + 1]) for i in range(12)])
    product = h @ torch.eye(h.shape[0], dtype=F64)
    torch.testing.assert_close(
        product, by_differences(model, lambda: F.cross_entropy(model(X), Y)), rtol=1e-6, atol=1e-8
    )
    assert h.folding.recordings == 8
    assert "more than 8 outcomes" in h.folding.reason


def masked_mean(z, t):
    return F.cross_entropy(z[t != 0], t[t != 0])


def test_targets_as_masks():
    """A mean over some targets, whose number differs between batches."""
    model = Reader(lambda _, h: h).double()
    data = [(X[:4], torch.tensor([0, 1, 2, 1])), (X[4:8], torch.tensor([0, 0, 2, 1])), (X[8:], torch.tensor([2] * 4))]
    h = Hessian(model, masked_mean, data, batch_weight=lambda t: (t != 0).sum())
    product = h @ torch.eye(h.shape[0], dtype=F64)
    inputs, targets = X, torch.cat([t for _, t in data])
    expected = by_differences(model, lambda: masked_mean(model(inputs), targets))
    torch.testing.assert_close(product, expected, rtol=1e-6, atol=1e-8)
    assert (h.folding.recordings, h.folding.reason) == (3, None)


class Attention(nn.Module):
    """Tokens and which of them count; three ways to say so."""

    def __init__(self, way):
        super().__init__()
        torch.manual_seed(0)
        self.words, self.inward, self.head, self.way = nn.Embedding(7, 4), nn.Linear(4, 12), nn.Linear(4, 7), way

    def forward(self, ids, mask):
        q, k, v = self.inward(self.words(ids)).chunk(3, -1)
        seen = torch.ones(ids.shape[1], ids.shape[1], dtype=torch.bool).tril() & mask[:, None].bool()
        if self.way == "fused":
            return self.head(F.scaled_dot_product_attention(q, k, v, attn_mask=seen)).mT
        scores = q @ k.mT / 2
        if self.way == "only where needed" and mask.all():
            seen = seen[:1]
        if self.way == "write":
            scores = scores.clone()
            scores[~seen] = -math.inf
        else:
            scores = scores.masked_fill(~seen, -math.inf)
        return self.head(scores.softmax(-1) @ v).mT


@pytest.mark.parametrize("way", ["fused", "fill", "write", "only where needed"])
def test_attention_masks_are_folded(way):
    ids = torch.randint(7, (6, 5), generator=torch.Generator().manual_seed(0))
    mask = torch.ones(6, 5, dtype=torch.long)
    mask[1, 3:] = 0
    targets = ids.roll(1, 1).masked_fill(mask == 0, -100)
    model = Attention(way).double()
    batches = [({"ids": ids[i : i + 2], "mask": mask[i : i + 2]}, targets[i : i + 2]) for i in (0, 2, 4)]
    h = Hessian(model, nn.CrossEntropyLoss(), batches)
    product = h @ torch.eye(h.shape[0], dtype=F64)
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        expected = by_differences(model, lambda: F.cross_entropy(model(ids, mask), targets))
    torch.testing.assert_close(product, expected, rtol=1e-6, atol=1e-8)
    assert h.folding.folded
    assert h.folding.reason is None


class Cache:
    """Tensors that nobody looks into."""

    def __init__(self, keys):
        self.keys = keys


class Caching(nn.Module):
    """Gives a cache beside its outputs, as language models do."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.one, self.two = nn.Linear(4, 3), nn.Linear(3, 3)

    def forward(self, x):
        hidden = torch.tanh(self.one(x))
        return {"logits": self.two(hidden), "cache": Cache(hidden)}


def test_a_cache_among_the_outputs_is_folded():
    """G = J'SJ with J by differences of outputs; H by differences of gradients."""
    model = Caching().double()
    loss = lambda out, y: F.cross_entropy(out["logits"], y)  # noqa: E731
    h, g = (kind(model, loss, (X, Y)) for kind in (Hessian, GaussNewton))
    eye = torch.eye(h.shape[0], dtype=F64)
    expected = by_differences(model, lambda: loss(model(X), Y))
    torch.testing.assert_close(h @ eye, expected, rtol=1e-6, atol=1e-8)
    parameters = list(model.parameters())
    z = model(X)["logits"]
    rows = [torch.autograd.grad(z.view(-1)[i], parameters, retain_graph=True) for i in range(z.numel())]
    jacobian = torch.stack([torch.cat([t.reshape(-1) for t in row]) for row in rows]).view(12, 3, -1)
    p = z.softmax(1).detach()
    bend = (torch.diag_embed(p) - p[:, :, None] * p[:, None, :]) / 12
    expected = torch.einsum("nci,ncd,ndj->ij", jacobian, bend, jacobian)
    torch.testing.assert_close(g @ eye, expected, rtol=1e-11, atol=1e-13)
    assert g.mode != "autograd"
    assert h.folding.folded
    assert g.folding.folded


# ---------------------------------------------------------------- parts


def test_a_reading_is_verified():
    reading = Reading(lambda x: x.item(), 2.0, 1)
    reading.verify(torch.tensor(2.0))
    for other in (3.0, math.nan):
        with pytest.raises(DiffersError):
            reading.verify(torch.tensor(other))
    Reading(lambda x: x.item(), math.nan, 1).verify(torch.tensor(math.nan))
    with pytest.raises(DiffersError):
        Reading(lambda x: x.item(), math.nan, 1).verify(torch.tensor(0.0))


def test_a_recording_says_that_another_branch_is_taken():
    stages = record(lambda v, x: v * 2 if x.sum() > 0 else v * 3, torch.ones(3), [torch.ones(2)])
    stages.primal(torch.ones(2))
    with pytest.raises(DiffersError):
        stages.primal(-torch.ones(2))


def test_nothing_that_depends_on_a_reading_is_computed_before_it_is_verified():
    """Positions that do not exist in the other batch would raise another error."""
    pick = lambda v, x: v * x[int(x[0].item()) :][0]  # noqa: E731
    stages = record(pick, torch.ones(1, dtype=F64), [torch.tensor([1.0, 5.0], dtype=F64)])
    with pytest.raises(DiffersError):
        stages.primal(torch.tensor([7.0, 5.0], dtype=F64))


@pytest.mark.parametrize(
    ("product", "message"),
    [
        (lambda v, _: v * 2 if v.sum() > 0 else v, "depends on the vector"),
        (lambda v, x: v * v.new_tensor(x.repeat(3000).tolist())[:3], "values"),
        (lambda v, x: v * torch.as_tensor(x.numpy()), "memory"),
    ],
    ids=["vector", "long list", "numpy"],
)
def test_readings_that_are_refused(product, message):
    with pytest.raises(UntraceableError, match=message):
        record(product, torch.ones(3), [torch.ones(3)])


def test_parts_of_one_size_where_a_few_more_do():
    assert [parts_of(*pair) for pair in ((16, 6), (60000, 1024), (13, 5), (12, 12), (7, 3), (1, 8))] == [
        4,
        60,
        3,
        1,
        3,
        1,
    ]
    for size in range(1, 60):
        for limit in range(1, 20):
            count = parts_of(size, limit)
            assert -(-size // count) <= limit
            assert count <= 4 / 3 * -(-size // limit)


# ---------------------------------------------------------------- H.folding


class Rounding(nn.Module):
    """Computes in float32 inside, whatever its parameters are."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.one, self.two = nn.Linear(4, 8), nn.Linear(8, 3)

    def forward(self, x):
        h = self.one(x).float()
        return self.two((h * torch.rsqrt(h.square().mean(-1, keepdim=True) + 1e-6)).double())


def test_float32_inside_is_compared_as_such():
    h = Hessian(Rounding().double(), nn.CrossEntropyLoss(), (X, Y))
    h @ torch.eye(h.shape[0], dtype=F64)
    assert h.folding.folded
    assert h.folding.reason is None


def test_a_wrong_product_is_found_out_though_float32_is_inside():
    blocks, rows, total = BlockProducts(0, torch.float32), torch.ones(2, 3, dtype=F64), torch.zeros(2, 3, dtype=F64)
    blocks.add(total, rows, {}, lambda v, x: v * x, [torch.ones(3, dtype=F64)], lambda v: 1.001 * v)
    assert "differs" in blocks.folding.reason
    assert torch.equal(total, 1.001 * rows)


def test_what_folding_says():
    assert lanczos_saddle.Folding is Folding
    h = Hessian(Reader(lambda _, h: h).double(), nn.CrossEntropyLoss(), (X, Y))
    before = h.folding
    assert (before.folded, before.looks, before.recordings, before.products) == (False, 0, 0, None)
    assert "nothing is recorded before" in before.reason
    h @ torch.eye(h.shape[0], dtype=F64)
    after = h.folding
    assert (after.folded, after.reason, after.looks, after.recordings) == (True, None, 1, 1)
    assert after.seconds > 0
    assert after.products > 0
    assert after == h.at(h.problem.theta).folding
    h.mode = "autograd"
    assert (h.folding.folded, h.folding.looks) == (False, 0)
    assert "autograd" in h.folding.reason
    assert all(field.name in Folding.__annotations__ for field in fields(Folding))


def test_folding_says_why_nothing_is_folded():
    model = Reader(lambda x, h: h * (2 + h.new_tensor(x.repeat(1, 200).tolist())[:, :1])).double()
    h = Hessian(model, F.cross_entropy, (X, Y))
    product = h @ torch.eye(h.shape[0], dtype=F64)
    expected = by_differences(model, lambda: F.cross_entropy(model(X), Y))
    torch.testing.assert_close(product, expected, rtol=1e-6, atol=1e-8)
    assert not h.folding.folded
    assert "a list of 9600 values" in h.folding.reason
