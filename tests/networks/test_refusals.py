"""What cannot be used is refused in one line, with a way out that works; what can be used is not refused."""

import copy
import random
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from oracles import DOUBLE, X, Y, differences, mlp
from torch import Tensor, nn
from torch.nn import functional as F

from lanczos_saddle import GaussNewton, Hessian, assemble, classify, count_eigenvalues, exact_eigenvalues

DATA = (X, Y)
ROWS = torch.randint(0, 6, (24,), generator=torch.Generator().manual_seed(2))


def refusal(function: Callable[[], Any]) -> str:
    """What is said, on one line."""
    with pytest.raises((ValueError, TypeError)) as caught:
        function()
    said = str(caught.value)
    assert "\n" not in said
    return said


def agrees(hessian: Hessian, function: Callable[[], Tensor], parameters: Any, tolerance: float = 1e-7) -> None:
    """The matrix is the one by differences of plain gradients, and it is counted as that is."""
    wanted = differences(function, list(parameters))
    wanted = (wanted + wanted.T) / 2
    found = assemble(hessian).matrix
    assert float((found - wanted).norm()) <= tolerance * float(wanted.norm())
    counts = count_eigenvalues(hessian, threshold=1e-3, method="exact")
    assert counts.negative.lower == counts.negative.upper == int((torch.linalg.eigvalsh(wanted) < -1e-3).sum())


class Raising:
    """Arguments of the user's that fail."""

    @staticmethod
    def weight(_: Tensor) -> float:
        raise KeyError("weights")

    @staticmethod
    def choice(name: str, p: Tensor) -> bool:
        return name in p.missing


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_weight": Raising.weight}, r"batch_weight\(targets\) must give .* it raised KeyError: 'weights'"),
        ({"batch_weight": 5}, "batch_weight must be a function of the targets; got 5: pass batch_weight=lambda"),
        ({"batch_weight": lambda y: y.double()}, r"must return one number; got shape \(8,\) .* end it with .sum\(\)"),
        ({"batch_weight": lambda _: "many"}, "must return one number; got str"),
        ({"parameters": Raising.choice}, r"for '0.weight' it raised AttributeError: .* parameters=lambda name, p"),
        ({"parameters": lambda: True}, r"it raised TypeError.*: say parameters=lambda name, p"),
        ({"parameters": 3}, r"got 3: leave it out for all"),
        ({"parameters": None}, r"got None: leave it out for all"),
        ({"memory": "1G"}, r"memory must be a whole number of bytes; got '1G': write memory=2\*\*30 for 1 GiB"),
        ({"memory": 1.5}, "whole number of bytes; got 1.5"),
        ({"device": "foo"}, "device must be one that is here, 'cpu'.* got 'foo' .*: leave it out"),
        ({"device": 1.5}, "device must be one that is here"),
    ],
)
def test_arguments_are_refused_in_one_line(arguments, message):
    said = refusal(lambda: Hessian(mlp(), F.cross_entropy, DATA, **arguments))
    assert re.search(message, said)


@pytest.mark.skipif(torch.cuda.is_available(), reason="the device is there")
def test_a_device_that_is_missing():
    assert "got 'cuda' (AssertionError" in refusal(lambda: Hessian(mlp(), F.cross_entropy, DATA, device="cuda"))
    assert "got 'cuda'" in refusal(lambda: Hessian.of(lambda: X.sum(), mlp(), device="cuda"))


def test_memory_may_be_a_whole_float():
    assert Hessian(mlp(), F.cross_entropy, DATA, memory=2.0**30).memory == 2**30


@pytest.mark.parametrize("parameters", [None, 5, "0.weight", object()])
def test_what_no_function_can_be_differentiated_in(parameters):
    said = refusal(lambda: Hessian.of(lambda: X.sum(), parameters))
    assert said.startswith("parameters are a module, or a list or dict of tensors; got ")


def test_named_parameters_go_into_a_dict():
    model = mlp()
    assert "pass dict(model.named_parameters())" in refusal(
        lambda: Hessian.of(lambda: F.cross_entropy(model(X), Y), model.named_parameters())
    )
    hessian = Hessian.of(lambda: F.cross_entropy(model(X), Y), dict(model.named_parameters()))
    agrees(hessian, lambda: F.cross_entropy(model(X), Y), model.parameters())


def test_a_loss_that_is_a_class():
    said = refusal(lambda: Hessian(mlp(), nn.CrossEntropyLoss, DATA))
    assert said.endswith("got the class CrossEntropyLoss: pass an instance, CrossEntropyLoss()")
    Hessian(mlp(), nn.CrossEntropyLoss(), DATA)


def test_a_loss_of_one_argument():
    said = refusal(lambda: Hessian(mlp(), lambda z: z.mean(), DATA))
    assert said.endswith("they are called as model(inputs) and loss(outputs, targets)")


@pytest.mark.parametrize(
    ("value", "end"),
    [
        (lambda loss: loss[None], "got shape (1,), torch.float64: end it with .mean()"),
        (lambda loss: loss.item(), "got float: return the tensor itself, without .item() or float()"),
        (lambda loss: (loss, 1), "got tuple: return the loss alone"),
        (lambda loss: loss + 0j, "torch.complex128: return its real part"),
        (lambda _: None, "got NoneType: return the loss"),
    ],
)
def test_what_a_function_returns_is_said_once(value, end):
    model = mlp()
    said = refusal(lambda: Hessian.of(lambda: value(F.cross_entropy(model(X), Y)), model))
    assert said.startswith("a function must return one real number, a 0-d tensor; got ")
    assert said.endswith(end)


@pytest.mark.parametrize("kind", [torch.int32, torch.int16, torch.bool, torch.float64])
@pytest.mark.parametrize("loss", [F.cross_entropy, nn.CrossEntropyLoss(), lambda z, y: F.cross_entropy(z, y)])
def test_targets_of_another_type(kind, loss):
    said = refusal(lambda: Hessian(mlp(), loss, (X, Y.to(kind))))
    assert said.endswith("convert them with .long()")
    Hessian(mlp(), loss, (X, Y.to(kind).long()))


def test_indices_of_another_type():
    model = nn.Sequential(nn.Embedding(6, 4), nn.Tanh(), nn.Linear(4, 3)).double()
    said = refusal(lambda: Hessian(model, F.cross_entropy, (ROWS.to(torch.uint8), Y)))
    assert said.endswith("convert them with .long()")
    hessian = Hessian(model, F.cross_entropy, (ROWS.to(torch.uint8).long(), Y))
    agrees(hessian, lambda: F.cross_entropy(model(ROWS), Y), model.parameters())


def test_bytes_as_targets_are_counted_quietly(capfd, caplog):
    model = mlp()
    hessian = Hessian(model, F.cross_entropy, (X, Y.to(torch.uint8)))
    agrees(hessian, lambda: F.cross_entropy(model(X), Y), model.parameters())
    hessian @ torch.ones(hessian.shape[0], 4, dtype=DOUBLE)
    assert "Traceback" not in capfd.readouterr().err
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support")
@pytest.mark.parametrize("form", [Tensor.to_sparse, Tensor.to_sparse_csr])
def test_sparse_inputs_are_one_batch(form):
    class Mixing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.randn(5, 3, dtype=DOUBLE))

        def forward(self, x: Tensor) -> Tensor:
            return torch.tanh(torch.sparse.mm(x, self.w) if x.layout != torch.strided else x @ self.w)

    model = Mixing()
    hessian = Hessian(model, F.cross_entropy, (form(X), Y))
    agrees(hessian, lambda: F.cross_entropy(model(X), Y), model.parameters())


def test_nested_inputs_are_refused_in_one_line():
    nested = torch.nested.nested_tensor([X[:3], X[3:5]], layout=torch.jagged)
    refusal(lambda: Hessian(mlp(), F.cross_entropy, [(nested, Y[:2])]))


class TestInference:
    def test_made_and_counted_in_it(self):
        model = mlp()
        with torch.inference_mode():
            hessian = Hessian(model, F.cross_entropy, (X.clone(), Y))
            counts = count_eigenvalues(hessian, threshold=1e-3)
            exact_eigenvalues(hessian)
            classify(hessian, threshold=1e-3)
            Hessian.of(lambda: F.cross_entropy(model(X), Y), model) @ torch.ones(hessian.shape[0], dtype=DOUBLE)
        agrees(hessian, lambda: F.cross_entropy(model(X), Y), model.parameters())
        assert counts == count_eigenvalues(hessian, threshold=1e-3) or counts.negative.lower > 0

    def test_a_model_made_in_it(self):
        with torch.inference_mode():
            model = mlp()
        said = refusal(lambda: Hessian(model, F.cross_entropy, DATA))
        assert "'0.weight' was made under torch.inference_mode()" in said
        assert "pass copy.deepcopy(model)" in said
        copied = copy.deepcopy(model)
        agrees(Hessian(copied, F.cross_entropy, DATA), lambda: F.cross_entropy(copied(X), Y), list(copied.parameters()))

    def test_a_tensor_made_in_it(self):
        with torch.inference_mode():
            weight = torch.ones(3, dtype=DOUBLE)
        said = refusal(lambda: Hessian.of(lambda p: p[0].square().sum(), [weight]))
        assert "t.clone()" in said
        Hessian.of(lambda p: p[0].square().sum(), [weight.clone()])

    def test_data_made_in_it(self):
        model = mlp()
        with torch.inference_mode():
            x = X.clone()
        said = refusal(lambda: Hessian.of(lambda: F.cross_entropy(model(x), Y), model))
        assert "must be copied, t.clone()" in said
        x = x.clone()
        Hessian.of(lambda: F.cross_entropy(model(x), Y), model)


class Padded(nn.Module):
    """An embedding by its function, of a parameter of the module's own or of something computed."""

    def __init__(self, *, computed: bool = False, **options: Any) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.table = nn.Parameter(torch.randn(6, 4, dtype=DOUBLE))
        self.head = nn.Linear(4, 3, dtype=DOUBLE)
        self.computed, self.options = computed, options

    def forward(self, rows: Tensor) -> Tensor:
        table = 2 * self.table if self.computed else self.table
        return self.head(torch.tanh(F.embedding(rows, table, **self.options)))


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("of", [False, True])
def test_padding_of_a_plain_parameter(sparse, of):
    """The row is left out, as that of nn.Embedding: rows and columns of zeros, the others as by differences."""
    model = Padded(padding_idx=2, sparse=sparse)

    def function() -> Tensor:
        return F.cross_entropy(model(ROWS), Y)

    hessian = Hessian.of(function, model) if of else Hessian(model, F.cross_entropy, (ROWS, Y))
    found = assemble(hessian).matrix
    plain = Padded(padding_idx=2)
    wanted = differences(lambda: F.cross_entropy(plain(ROWS), Y), list(plain.parameters()))
    wanted[8:12], wanted[:, 8:12] = 0, 0
    assert float((found - wanted).norm()) <= 1e-7 * float(wanted.norm())
    module = nn.Sequential(nn.Embedding(6, 4, padding_idx=2), nn.Tanh(), nn.Linear(4, 3)).double()
    module[0].weight.data, module[2].weight.data = model.table.data, model.head.weight.data
    module[2].bias.data = model.head.bias.data
    same = assemble(Hessian(module, F.cross_entropy, (ROWS, Y))).matrix
    torch.testing.assert_close(found, same, rtol=1e-9, atol=1e-12)


def test_padding_of_something_computed_says_which_operation():
    said = refusal(lambda: Hessian(Padded(computed=True, padding_idx=2), F.cross_entropy, (ROWS, Y)).fidelity)
    assert "padding_idx of an embedding whose weight is computed (leave padding_idx out" in said
    model = Padded(computed=True)
    hessian = Hessian(model, F.cross_entropy, (ROWS, Y))
    agrees(hessian, lambda: F.cross_entropy(model(ROWS), Y), model.parameters())


def test_sparse_gradients_of_an_embedding():
    model = nn.Sequential(nn.Embedding(6, 4, sparse=True), nn.Tanh(), nn.Linear(4, 3)).double()
    dense = copy.deepcopy(model)
    dense[0].sparse = False
    for hessian in (
        Hessian(model, F.cross_entropy, (ROWS, Y)),
        Hessian.of(lambda: F.cross_entropy(model(ROWS), Y), model),
    ):
        agrees(hessian, lambda: F.cross_entropy(dense(ROWS), Y), dense.parameters())
    assert model[0].sparse


class Seeded(nn.Module):
    """Numbers that are drawn after a seed: the same at every call."""

    def __init__(self, *, own: bool) -> None:
        super().__init__()
        self.inner, self.own = mlp(), own

    def forward(self, x: Tensor) -> Tensor:
        if self.own:
            noise = torch.randn(3, generator=torch.Generator().manual_seed(1), dtype=DOUBLE)
        else:
            torch.manual_seed(1)
            noise = torch.randn(3, dtype=DOUBLE)
        return self.inner(x) + 0.1 * noise


@pytest.mark.parametrize("own", [True, False])
def test_a_seed_in_the_forward_pass_is_deterministic(own):
    model = Seeded(own=own)
    hessian = Hessian(model, F.cross_entropy, DATA)
    agrees(hessian, lambda: F.cross_entropy(model(X), Y), model.parameters())
    Hessian.of(lambda: F.cross_entropy(model(X), Y), model)
    block = torch.eye(hessian.shape[0], dtype=DOUBLE)
    for _ in range(5):  # nothing is recorded that draws again
        torch.testing.assert_close(hessian @ block, assemble(hessian).matrix, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("call", [torch.autograd.backward, Tensor.backward])
def test_closures_that_go_backward(call):
    model = mlp()

    def closure() -> Tensor:
        model.zero_grad()
        loss = F.cross_entropy(model(X), Y)
        call(loss)
        return loss

    agrees(Hessian.of(closure, model), lambda: F.cross_entropy(model(X), Y), model.parameters())


def test_a_closure_that_frees_its_graph():
    model = mlp()
    parameters = list(model.parameters())

    def closure(*, retain: bool) -> Tensor:
        loss = F.cross_entropy(model(X), Y)
        torch.autograd.grad(loss, parameters, retain_graph=retain)
        return loss

    said = refusal(lambda: Hessian.of(lambda: closure(retain=False), model))
    assert said.endswith("without taking its gradient, or with retain_graph=True")
    hessian = Hessian.of(lambda: closure(retain=True), model)
    agrees(hessian, lambda: F.cross_entropy(model(X), Y), parameters)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("kind", [Hessian, GaussNewton])
def test_a_matrix_that_is_zero_within_rounding(kind, seed):
    """The softmax of equal logits: every derivative cancels."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 1)).double()
    matrix = kind(model, lambda z, y: F.cross_entropy(z.expand(-1, 3) * 1.0, y), DATA)
    counts = count_eigenvalues(matrix, threshold=1e-6, method="exact")
    assert counts.near_zero.lower == matrix.shape[0]


def test_zero_within_rounding_is_said_and_has_no_relative_threshold():
    class Bilinear(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.rand(6, 3, generator=torch.Generator().manual_seed(0), dtype=DOUBLE) + 0.5)

        def forward(self, x: Tensor) -> Tensor:
            return x[:, :3] @ F.bilinear(self.w[:3], self.w[3:], torch.ones(3, 3, 3, dtype=DOUBLE))

    hessian = Hessian(Bilinear(), F.cross_entropy, DATA)
    assert hessian.fidelity.is_zero
    assert "zero within rounding" in str(hessian.fidelity)
    for method in ("exact", "lanczos"):
        assert count_eigenvalues(hessian, threshold=1e-6, method=method).near_zero.lower == 18
    said = refusal(lambda: count_eigenvalues(hessian, relative_threshold=1e-2))
    assert said.startswith("a threshold must be far above rounding; the matrix is zero within that")
    threshold = float(said.split("pass threshold=")[1].split()[0])
    assert count_eigenvalues(hessian, threshold=threshold).near_zero.lower == 18


def test_a_saturated_sample_hides_no_fault():
    """Where one sample is zero within rounding, the others are still compared."""

    class Lost(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            ctx.save_for_backward(x)
            return x**3

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx: Any, slope: Tensor) -> Tensor:
            return slope * 3 * ctx.saved_tensors[0] ** 2

    def loss(z: Tensor, y: Tensor) -> Tensor:
        equal = F.cross_entropy(z[:, :1].expand(-1, 3) * 1.0, torch.zeros_like(y), reduction="none")
        other = F.cross_entropy(Lost.apply(z), y, reduction="none")
        return torch.where(y == 0, equal, other)

    said = refusal(lambda: count_eigenvalues(Hessian(mlp(), loss, (X, Y.sort().values)), threshold=1e-3))
    assert "the autograd.Function Lost" in said


class Labeled(nn.Module):
    """A model that computes its own loss, with weights that are in the batch."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.inner, self.how = mlp(), how

    def forward(self, x: Tensor, labels: Tensor, weight: Tensor) -> Any:
        losses = F.cross_entropy(self.inner(x), labels, reduction="none")
        loss = (losses * weight).sum() / weight.sum()
        return {"tensor": loss, "dict": {"loss": loss}, "tuple": (loss, losses)}[self.how]


@pytest.mark.parametrize("how", ["tensor", "dict", "tuple"])
def test_weights_inside_the_batch(how):
    model = Labeled(how)
    batch = {"x": X, "labels": Y, "weight": torch.linspace(0.1, 2, 24, dtype=DOUBLE)}
    said = refusal(lambda: Hessian(model, None, batch))
    assert "helps where the labels alone tell" in said
    advice = said.split("take one batch whole, ")[1].split(", or pass the loss")[0]
    hessian = eval(advice, {"Hessian": Hessian, "model": model, "batch": batch})  # taken literally

    def function() -> Tensor:
        found = model(**batch)
        return found["loss"] if how == "dict" else found[0] if how == "tuple" else found

    agrees(hessian, function, model.parameters())
    said = refusal(lambda: Hessian(model, None, batch, batch_weight=lambda t: t["weight"].sum()))
    assert "on Tensor of shape (8,) it raised IndexError" in said
    assert said.endswith("take the loss whole, Hessian.of(function, model)")


@pytest.mark.parametrize("k", [5, 12])
def test_functions_of_the_whole_batch(k):
    model = mlp()

    def loss(z: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(z, y, reduction="none").topk(k).values.mean()

    said = refusal(lambda: Hessian(model, loss, DATA))
    assert said.endswith("take all, Hessian.of(lambda: loss(model(x), y), model)")
    agrees(Hessian.of(lambda: loss(model(X), Y), model), lambda: loss(model(X), Y), model.parameters())


class Drawing(nn.Module):
    """A layer of numbers that are drawn outside of torch's global generator."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.inner, self.kind = mlp(), kind
        self.generator = torch.Generator().manual_seed(0)

    def forward(self, x: Tensor) -> Tensor:
        factor = {
            "numpy": lambda: float(np.random.rand()),  # noqa: NPY002
            "random": random.random,
            "generator": lambda: float(torch.rand((), generator=self.generator)),
        }[self.kind]()
        return self.inner(x) * (1 + 1e-3 * factor)


@pytest.mark.parametrize("kind", ["numpy", "random", "generator"])
def test_numbers_that_are_drawn(kind):
    model = Drawing(kind)
    for made in (
        lambda: Hessian(model, F.cross_entropy, DATA),
        lambda: Hessian.of(lambda: F.cross_entropy(model(X), Y), model),
    ):
        said = refusal(made)
        assert "two evaluations at the same parameters gave" in said
        assert "are drawn once, before, and become inputs" in said
    factor = random.random()
    inner = model.inner
    hessian = Hessian.of(lambda: F.cross_entropy(inner(X) * (1 + 1e-3 * factor), Y), inner)
    agrees(hessian, lambda: F.cross_entropy(inner(X) * (1 + 1e-3 * factor), Y), inner.parameters())


def test_dropout_behind_zeros_is_seen():
    """A head of zeros hides masks from every value at the parameters themselves."""
    model = mlp()
    model[2].weight.data.zero_()

    def loss(z: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(F.dropout(z), y)

    class Dropping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = model

        def forward(self, x: Tensor) -> Tensor:
            return model[2](F.dropout(model[1](model[0](x))))

    assert "drew random numbers" in refusal(lambda: Hessian(Dropping(), F.cross_entropy, DATA))
    assert "drew random numbers" in refusal(lambda: Hessian(mlp(), loss, DATA))
    said = refusal(lambda: Hessian.of(lambda: F.cross_entropy(model(X), Y) + 0 * torch.randn(()), model))
    assert "drew random numbers" in said


class Counting(nn.Module):
    """A buffer that is written in place at every call, unless told not to."""

    def __init__(self, *, careful: bool) -> None:
        super().__init__()
        self.inner, self.careful = mlp(), careful
        self.register_buffer("seen", torch.zeros((), dtype=DOUBLE))

    def forward(self, x: Tensor) -> Tensor:
        if self.training or not self.careful:
            self.seen += 1
        return self.inner(x) * (1 + 0.01 * self.seen)


def test_a_buffer_that_is_written_in_place():
    said = refusal(lambda: Hessian(Counting(careful=False), F.cross_entropy, DATA))
    assert said.endswith("into 'seen': let it do so in training only, if self.training: ..., and pass model.eval()")
    model = Counting(careful=True).eval()
    agrees(Hessian(model, F.cross_entropy, DATA), lambda: F.cross_entropy(model(X), Y), model.parameters())


def test_losses_with_a_memory_of_calls():
    calls, last = [], [None]

    def warming(z: Tensor, y: Tensor) -> Tensor:
        calls.append(0)
        return F.cross_entropy(z, y) * min(1.0, len(calls) / 1000)

    def ensembling(z: Tensor, y: Tensor) -> Tensor:
        """The same twice at the same parameters, but not after others."""
        loss = F.cross_entropy(z, y)
        if last[0] is not None and last[0].shape == z.shape:
            loss = loss + (z - last[0]).square().mean()
        last[0] = z.detach().clone()
        return loss

    for loss in (warming, ensembling):
        said = refusal(lambda loss=loss: Hessian(mlp(), loss, DATA))
        assert "two evaluations at the same parameters gave" in said
        assert said.endswith("averages over calls (a warm-up, a running mean, a list) gets a fixed value")

    seen = []

    def logging(z: Tensor, y: Tensor) -> Tensor:
        seen.append(float(z.detach().mean()))
        return F.cross_entropy(z, y)

    model = mlp()
    agrees(Hessian(model, logging, DATA), lambda: F.cross_entropy(model(X), Y), model.parameters())


def test_operations_without_a_second_derivative_have_a_way_out():
    class Bag(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.bag, self.head = nn.EmbeddingBag(6, 4, mode="sum"), nn.Linear(4, 3)

        def forward(self, rows: Tensor) -> Tensor:
            return self.head(torch.tanh(self.bag(rows)))

    class Written(Bag):
        def forward(self, rows: Tensor) -> Tensor:
            return self.head(torch.tanh(F.embedding(rows, self.bag.weight).sum(1)))

    rows = torch.stack([ROWS, ROWS.flip(0)], dim=1)
    said = refusal(lambda: Hessian(Bag().double(), F.cross_entropy, (rows, Y)))
    assert said.endswith("write the bag as nn.Embedding(...)(indices).sum(1), or .mean(1), of the same weight")
    model = Written().double()
    agrees(Hessian(model, F.cross_entropy, (rows, Y)), lambda: F.cross_entropy(model(rows), Y), model.parameters())

    class InPlace(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            x.tanh_()
            x[:, 0] *= 2
            return x

    said = refusal(lambda: Hessian(mlp(InPlace()), F.cross_entropy, DATA))
    assert said.endswith("write x = f(x) in place of what changes x itself, such as x.mul_(y) or x[i] = y")
