"""Laws of the closed form: a finite-difference Hessian by hand first, then products, on everything recognized."""

import pytest
import torch
from torch import nn

from lanczos_saddle.dense import exact
from lanczos_saddle.dense.exact import assemble, exact_eigenvalues
from lanczos_saddle.networks.gauss_newton import GaussNewton
from lanczos_saddle.networks.hessian import Hessian
from lanczos_saddle.networks.problem import Problem
from lanczos_saddle.structure import closed_form
from lanczos_saddle.structure.layers import ELEMENTWISE, recognize, separable

KINDS = pytest.mark.parametrize("kind", [Hessian, GaussNewton])


def data(samples=60, features=9, classes=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(samples, features, generator=generator).relu()  # half of it zero, as pixels are
    inputs[:, 3] = 0  # dead
    return inputs, torch.randint(0, classes, (samples,), generator=generator)


def network(*modules, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(*[make() for make in modules])


def linear(*sizes, **options):
    return lambda: nn.Linear(*sizes, **options)


def deep(activation=nn.Tanh):
    return network(linear(9, 7), activation, linear(7, 5), activation, linear(5, 4))


def filled(operator):
    matrix = torch.full(operator.shape, float("nan"), dtype=torch.float64)
    assert closed_form.fill(operator, matrix)
    return matrix


def by_products(operator):
    return operator @ torch.eye(operator.shape[0], dtype=torch.float64)


def agrees(operator):
    matrix, expected = filled(operator), by_products(operator)
    assert torch.equal(matrix, matrix.T)
    assert (matrix - expected).norm() <= 1e-12 * expected.norm()
    # zero rows are exactly zero: dead coordinates survive
    assert torch.equal((matrix == 0).all(1), (expected == 0).all(1))


# --- against formulas ---------------------------------------------------------------------------------------


def test_softmax_regression_at_zero():
    """H = (X'X/n) kron (I/C - 11'/C^2) at W = 0, no bias."""
    inputs, targets = data()
    model = nn.Sequential(nn.Linear(9, 4, bias=False)).double()
    nn.init.zeros_(model[0].weight)
    x = inputs.double()
    classes = torch.eye(4, dtype=torch.float64) / 4 - 1 / 16
    expected = torch.kron(classes, x.T @ x / len(x))
    matrix = filled(Hessian(model, nn.CrossEntropyLoss(), (inputs, targets), dtype=torch.float64))
    assert (matrix - expected).norm() <= 1e-15 * expected.norm() * 10


def test_a_two_layer_linear_net_at_the_origin():
    """Squared loss: eigenvalues +-c sigma_i(Y'X/n), each h times, the rest 0; c = 2/K for a mean over K outputs."""
    generator = torch.Generator().manual_seed(2)
    x, y = (torch.randn(40, k, generator=generator, dtype=torch.float64) for k in (6, 3))
    model = nn.Sequential(nn.Linear(6, 5, bias=False), nn.Identity(), nn.Linear(5, 3, bias=False)).double()
    for p in model.parameters():
        nn.init.zeros_(p)
    sigma = torch.linalg.svdvals(y.T @ x / 40) * 2 / 3
    known = torch.cat([sigma, -sigma]).repeat_interleave(5)
    known = torch.cat([known, torch.zeros(45 - len(known), dtype=torch.float64)]).sort().values
    matrix = filled(Hessian(model, nn.MSELoss(), (x, y), dtype=torch.float64))
    assert (torch.linalg.eigvalsh(matrix) - known).abs().max() <= 1e-14


def test_second_differences_of_the_loss():
    """v'Hw = d2/ds dt L(theta + s v + t w), without any derivative of torch's: error h^2."""
    problem = Problem(deep(), nn.CrossEntropyLoss(), data(), dtype=torch.float64)
    matrix = filled(Hessian(deep(), nn.CrossEntropyLoss(), data(), dtype=torch.float64))
    generator = torch.Generator().manual_seed(4)
    v, w = torch.randn(2, problem.size, generator=generator, dtype=torch.float64)
    h, theta = 1e-4, problem.theta
    corners = [s * t * problem.value(theta + h * (s * v + t * w)) for s in (1, -1) for t in (1, -1)]
    assert float(sum(corners)) / (4 * h * h) == pytest.approx(float(v @ matrix @ w), rel=1e-4)


# --- against products ---------------------------------------------------------------------------------------


@KINDS
@pytest.mark.parametrize("activation", ELEMENTWISE, ids=lambda a: a.__name__)
@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")
def test_every_activation(kind, activation):
    agrees(kind(deep(activation).eval(), nn.CrossEntropyLoss(), data(), dtype=torch.float64))


LOSSES = {
    "softmax": (nn.CrossEntropyLoss(), None),
    "smoothed": (nn.CrossEntropyLoss(label_smoothing=0.1), None),
    "class weights": (nn.CrossEntropyLoss(weight=torch.tensor([0.2, 1.0, 3.0, 0.7])), None),
    "ignored": (nn.CrossEntropyLoss(ignore_index=2), None),
    "sum": (nn.CrossEntropyLoss(reduction="sum"), None),
    "each": (nn.CrossEntropyLoss(reduction="none"), None),
    "function": (nn.functional.cross_entropy, None),
    "squared": (nn.MSELoss(), torch.float64),
    "logistic": (nn.BCEWithLogitsLoss(), torch.float64),
    "own": (lambda z, y: (z - y).pow(4).sum(1), torch.float64),
}


@KINDS
@pytest.mark.parametrize(("loss", "dense"), LOSSES.values(), ids=LOSSES.keys())
def test_every_loss(kind, loss, dense):
    inputs, targets = data()
    if dense:
        targets = nn.functional.one_hot(targets, 4).to(dense)
    agrees(kind(deep(), loss, (inputs, targets), dtype=torch.float64))


def pairwise(first, second):
    """Two of the outputs interact, and no others."""
    return lambda z, y: (z - y).square().sum(1) + z[:, first] * z[:, second]


@pytest.mark.parametrize("name", LOSSES)
def test_losses_that_are_sums_over_outputs_are_known(name):
    inputs, targets = data()
    loss, dense = LOSSES[name]
    targets = nn.functional.one_hot(targets, 4).to(dense) if dense else targets
    problem = Problem(deep(), loss, (inputs, targets), dtype=torch.float64)
    assert separable(problem, recognize(problem)) == (name in ("squared", "logistic", "own"))


@pytest.mark.parametrize(("first", "second"), [(i, j) for j in range(7) for i in range(j)])
def test_two_outputs_that_interact_are_found(first, second):
    inputs, _ = data()
    model, targets = network(linear(9, 7)), torch.zeros(60, 7, dtype=torch.float64)
    coupled = Problem(model, pairwise(first, second), (inputs, targets), dtype=torch.float64)
    apart = Problem(model, nn.MSELoss(), (inputs, targets), dtype=torch.float64)
    assert not separable(coupled, recognize(coupled))
    assert separable(apart, recognize(apart))


@KINDS
def test_a_loss_of_probabilities_is_asked_for_probabilities_alone(kind):
    """BCELoss raises outside of [0, 1]."""
    inputs, targets = data()
    targets = nn.functional.one_hot(targets, 4).to(torch.float64)
    operator = kind(network(linear(9, 4), nn.Sigmoid), nn.BCELoss(), (inputs, targets), dtype=torch.float64)
    assert separable(operator.problem, recognize(operator.problem))
    agrees(operator)


def test_samples_that_are_ignored_show_nothing():
    inputs, targets = data()
    targets[:10] = 2
    agrees(Hessian(deep(), nn.CrossEntropyLoss(ignore_index=2), (inputs, targets), dtype=torch.float64))


@KINDS
def test_an_autoencoder_takes_memory_by_its_outputs_not_their_square(kind, monkeypatch):
    """More outputs than all else: their curvature is diagonal, and one batch is enough where it were not if whole."""
    generator = torch.Generator().manual_seed(5)
    inputs = torch.randn(50, 40, generator=generator, dtype=torch.float64)
    model = network(linear(40, 3), nn.ReLU, linear(3, 40))
    chunks = []
    add = closed_form._add
    monkeypatch.setattr(closed_form, "_add", lambda *args: (chunks.append(len(args[2].inputs[0])), add(*args)))
    agrees(kind(model, lambda z, y: (z - y).square().sum(1) / 2, (inputs, inputs), dtype=torch.float64, memory=2**19))
    assert chunks == [50]
    chunks.clear()
    coupled = (lambda z, y: (z - y).square().sum(1) + z.sum(1).square()), (inputs, inputs)
    agrees(kind(model, *coupled, dtype=torch.float64, memory=2**19))
    assert len(chunks) > 1


NETWORKS = {
    "one layer": network(linear(9, 4)),
    "no bias": network(linear(9, 6, bias=False), nn.ReLU, linear(6, 4, bias=False)),
    "linear": network(linear(9, 6), linear(6, 5), linear(5, 4)),
    "activations in a row": network(linear(9, 6), nn.Tanh, nn.Softplus, linear(6, 4)),
    "activation behind": network(linear(9, 6), nn.ReLU, linear(6, 4), nn.Tanh),
    "in place": network(linear(9, 6), lambda: nn.ReLU(inplace=True), linear(6, 4), lambda: nn.ReLU(inplace=True)),
    "four layers": network(linear(9, 5), nn.Tanh, linear(5, 6), nn.ReLU, linear(6, 3), nn.Sigmoid, linear(3, 4)),
    "flatten": network(nn.Identity, nn.Flatten, linear(9, 6), nn.ReLU, linear(6, 4)),
}


@KINDS
@pytest.mark.parametrize("model", NETWORKS.values(), ids=NETWORKS.keys())
def test_every_network(kind, model):
    agrees(kind(model, nn.CrossEntropyLoss(), data(), dtype=torch.float64))


@KINDS
@pytest.mark.parametrize("chosen", ["0.*", "*.weight", "*.bias", ["0.bias", "4.weight"], "2.weight"])
def test_selected_parameters(kind, chosen):
    agrees(kind(deep(), nn.CrossEntropyLoss(), data(), parameters=chosen, dtype=torch.float64))


def test_frozen_parameters():
    model = deep()
    model[2].weight.requires_grad_(False)
    agrees(Hessian(model, nn.CrossEntropyLoss(), data(), dtype=torch.float64))


def test_the_order_of_declaration_does_not_matter():
    """Bias before weight in theta."""
    model = deep()
    weight = model[0].weight
    del model[0].weight
    model[0].register_parameter("weight", weight)
    operator = Hessian(model, nn.CrossEntropyLoss(), data(), dtype=torch.float64)
    assert operator.problem.names[:2] == ("0.bias", "0.weight")
    agrees(operator)


def test_batches_and_chunks_add_up(monkeypatch):
    inputs, targets = data(200)
    inputs = inputs.reshape(200, 3, 3)
    model = NETWORKS["flatten"]
    uneven = [(inputs[a:b], targets[a:b]) for a, b in ((0, 70), (70, 75), (75, 200))]
    chunks = []
    add = closed_form._add
    monkeypatch.setattr(closed_form, "_add", lambda *args: (chunks.append(len(args[2].inputs[0])), add(*args)))
    agrees(Hessian(model, nn.CrossEntropyLoss(), uneven, dtype=torch.float64, memory=2**17))
    assert sum(chunks) == 200
    assert len(chunks) > 3


@pytest.mark.parametrize("scale", [1.0, 1e-6, 1e6])
def test_a_background_that_is_not_zero(scale):
    """Normalized pixels: the value of most samples differs by feature; one feature is constant, one a rare outlier."""
    inputs, targets = data(300)
    inputs = torch.where(inputs > 0.8, inputs, 0.0)
    inputs = (inputs - torch.linspace(-0.3, 0.5, 9)) * scale
    inputs[:, 5] = 0.7
    inputs[:, 6] = 0.0
    inputs[17, 6] = 100.0
    agrees(Hessian(deep(), nn.CrossEntropyLoss(), (inputs, targets), dtype=torch.float64))


def test_a_kink_is_decided_as_in_products():
    """Pre-activations that are exactly zero."""
    model = NETWORKS["no bias"]
    inputs, targets = data()
    inputs[::3] = 0
    agrees(Hessian(model, nn.CrossEntropyLoss(), (inputs, targets), dtype=torch.float64))


# --- what is not recognized goes through products --------------------------------------------------------------


class Doubled(nn.ReLU):
    def forward(self, x):
        return 2 * super().forward(x)


def hooked():
    model = deep()
    model[1].register_forward_hook(lambda *called: 2 * called[2])
    return model


def shared():
    layer = nn.Linear(9, 9)
    return nn.Sequential(layer, nn.Tanh(), layer)


def overridden():
    model = deep()
    model[1].forward = lambda x: x.sin()
    return model


OTHERS = {
    "subclass": lambda: network(linear(9, 6), Doubled, linear(6, 4)),
    "nested": lambda: nn.Sequential(deep(), nn.Tanh(), nn.Linear(4, 4)),
    "parameters of an activation": lambda: network(linear(9, 6), nn.PReLU, linear(6, 4)),
    "norm": lambda: network(linear(9, 6), lambda: nn.LayerNorm(6), linear(6, 4)),
    "softmax": lambda: network(linear(9, 6), lambda: nn.Softmax(dim=1), linear(6, 4)),
    "parametrized": lambda: nn.Sequential(
        nn.utils.parametrizations.orthogonal(nn.Linear(9, 4), orthogonal_map="matrix_exp")
    ),
    "hook": hooked,
    "shared": shared,
    "forward": overridden,
    "activation in front": lambda: network(nn.Tanh, linear(9, 4)),
}


@pytest.mark.parametrize("make", OTHERS.values(), ids=OTHERS.keys())
def test_others_are_not_recognized(make):
    torch.manual_seed(0)
    operator = Hessian(make(), nn.CrossEntropyLoss(), data(), dtype=torch.float64)
    assert recognize(operator.problem) == []
    dense = assemble(operator)
    assert dense.error == 0
    assert dense.products == 2 + 1 + int((by_products(operator) != 0).any(0).sum())
    assert (dense.matrix - by_products(operator)).norm() <= 1e-14 * dense.matrix.norm()


def test_outputs_of_more_dimensions_are_not_recognized():
    inputs = torch.randn(20, 5, 9)
    targets = torch.randn(20, 5, 4)
    operator = Hessian(deep(), nn.MSELoss(), (inputs, targets), dtype=torch.float64)
    assert recognize(operator.problem) == []


def test_inputs_in_a_tuple_and_subclasses_go_through_products():
    class Scaled(Hessian):
        def product(self, v):
            return 2 * super().product(v)

    inputs, targets = data()
    nested = Hessian(deep(), nn.CrossEntropyLoss(), [((inputs,), targets)], dtype=torch.float64)
    scaled = Scaled(deep(), nn.CrossEntropyLoss(), (inputs, targets), dtype=torch.float64)
    for operator in (nested, scaled):
        assert assemble(operator).error == 0
        assert (assemble(operator).matrix - by_products(operator)).norm() <= 1e-14 * by_products(operator).norm()


# --- in the oracle --------------------------------------------------------------------------------------------


def spoil(monkeypatch, relative):
    """The closed form is wrong in one entry, by this fraction of its norm."""
    fill = closed_form.fill

    def wrong(operator, matrix, *, progress=False):
        done = fill(operator, matrix, progress=progress)
        matrix[5, 80] += relative * matrix.norm()
        return done

    monkeypatch.setattr(exact.closed_form, "fill", wrong)


def test_a_wrong_formula_is_caught_by_products(monkeypatch):
    """One entry of one block off by 1e-9 of the norm: products are taken instead."""
    operator = Hessian(deep(), nn.CrossEntropyLoss(), data(), dtype=torch.float64)
    spoil(monkeypatch, 1e-9)
    dense = assemble(operator)
    assert dense.error == 0
    assert dense.products == 20 + 2 + 1 + int((by_products(operator) != 0).any(0).sum())
    assert (dense.matrix - by_products(operator)).norm() <= 1e-14 * dense.matrix.norm()


def test_the_error_of_a_closed_form_is_bounded():
    operator = Hessian(deep(), nn.CrossEntropyLoss(), data(), dtype=torch.float64)
    dense = assemble(operator)
    assert dense.products == 10
    assert torch.linalg.matrix_norm(dense.matrix - by_products(operator), 2) <= dense.error <= 1e-13


def saturated(shift):
    """Softmax within e^-shift of class 0 on every sample: H is what is left of terms that cancel."""
    model = deep(nn.ReLU)
    with torch.no_grad():
        model[4].bias[0] += shift
    inputs, targets = data()
    return Hessian(model, nn.CrossEntropyLoss(), (inputs, torch.zeros_like(targets)), dtype=torch.float64)


@pytest.mark.parametrize("shift", [15, 25])
def test_where_rounding_decides_products_are_no_better(shift):
    """The two ways differ by more than 1e-12 of H, and by no more than products differ among themselves."""
    operator = saturated(shift)
    expected = by_products(operator)
    assert (filled(operator) - expected).norm() > 1e-12 * expected.norm()
    dense = assemble(operator)
    assert dense.products == 20  # and not one for every column
    assert torch.linalg.matrix_norm(dense.matrix - expected, 2) <= dense.error <= 1e-14


def test_a_wrong_formula_is_caught_where_rounding_decides(monkeypatch):
    operator = saturated(15)
    spoil(monkeypatch, 1e-6)
    dense = assemble(operator)
    assert dense.products > 20
    assert (dense.matrix - by_products(operator)).norm() <= 1e-9 * dense.matrix.norm()


def test_a_float32_problem_takes_the_closed_form_in_float64():
    single, double = (Hessian(deep(), nn.CrossEntropyLoss(), data(), dtype=t) for t in (torch.float32, torch.float64))
    assert torch.equal(exact_eigenvalues(single), exact_eigenvalues(double))
    assert not closed_form.fill(single, torch.empty(single.shape, dtype=torch.float64))
