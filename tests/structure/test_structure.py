"""Dead coordinates and a-priori bounds against dense float64 Hessians."""

from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.func import functional_call, jacrev

from lanczos_saddle.networks.gauss_newton import GaussNewton
from lanczos_saddle.networks.hessian import Hessian
from lanczos_saddle.networks.problem import Problem
from lanczos_saddle.structure.facts import dead_coordinates, negative_bound


def problem(model, loss, names="*", data=None):
    """With data that fit the model's first and last layer, where none are given."""
    if data is None:
        layers = [module for module in model.modules() if isinstance(module, nn.Linear)]
        inputs, targets = classification(12, layers[0].in_features, layers[-1].out_features)
        by_class = isinstance(loss, nn.CrossEntropyLoss) or loss is nn.functional.cross_entropy
        data = inputs, targets if by_class else torch.rand(12, layers[-1].out_features)
    return Problem(model, loss, data, parameters=names)


def dense_hessian(model, loss, inputs, targets, names=None):
    """By reverse over reverse mode over the named parameters, in float64."""
    model = model.double()
    parameters = {k: v.detach() for k, v in model.named_parameters()}
    chosen = {k: parameters[k] for k in (names or parameters)}
    shapes, sizes = [v.shape for v in chosen.values()], [v.numel() for v in chosen.values()]

    def value(theta):
        parts = {k: x.view(s) for k, x, s in zip(chosen, theta.split(sizes), shapes, strict=True)}
        return loss(functional_call(model, {**parameters, **parts}, (inputs,)), targets)

    h = jacrev(jacrev(value))(torch.cat([v.reshape(-1) for v in chosen.values()]))
    return (h + h.mT) / 2


def negatives(h):
    values = torch.linalg.eigvalsh(h)
    return int((values < -1e-12 * values.abs().max()).sum())


def seeded(model, seed=0):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=generator) * 0.7)
    return model


def classification(samples=60, d=5, classes=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randn(samples, d, generator=generator, dtype=torch.float64),
        torch.randint(classes, (samples,), generator=generator),
    )


def test_dead_pixels_and_silent_units_are_found_and_nothing_else():
    inputs, targets = classification()
    inputs[:, 2] = 0  # a dead pixel
    model = seeded(nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 4))).double()
    with torch.no_grad():
        model[0].weight[3] = 0
        model[0].bias[3] = -1.0  # a unit that never fires
    h = dense_hessian(model, nn.CrossEntropyLoss(), inputs, targets)
    expected = (h == 0).all(dim=1)
    dead = dead_coordinates(h)
    assert torch.equal(dead, expected)
    # 6 weights of the pixel, 5 + 1 of the unit's row with one of them the pixel's, 4 outgoing ones
    assert int(dead.sum()) == 6 + 5 + 4
    kept = h[~dead][:, ~dead]
    values = torch.cat([torch.linalg.eigvalsh(kept), torch.zeros(int(dead.sum()), dtype=torch.float64)]).sort().values
    torch.testing.assert_close(values, torch.linalg.eigvalsh(h), rtol=0, atol=1e-12)


def test_dead_coordinates_cost_two_products_and_repeat():
    columns = []

    class Counting:
        shape, dtype, device = (9, 9), torch.float64, torch.device("cpu")

        def __matmul__(self, v):
            columns.append(v.shape[1])
            return v * torch.tensor([1.0, 0, 2, 0, 3, 1e-300, 5, 6, 0], dtype=torch.float64)[:, None]

    assert dead_coordinates(Counting()).nonzero().squeeze(1).tolist() == [1, 3, 8]
    assert sum(columns) == 2


@pytest.mark.parametrize("activation", [nn.ReLU(), nn.LeakyReLU(0.2), nn.Identity(), nn.Hardtanh(), nn.ReLU6()])
@pytest.mark.parametrize(("loss", "outputs"), [(nn.CrossEntropyLoss(), 4), (nn.MSELoss(), 3), (nn.HuberLoss(), 3)])
def test_every_bound_holds_for_piecewise_linear_networks(activation, loss, outputs):
    inputs, targets = classification()
    if not isinstance(loss, nn.CrossEntropyLoss):
        targets = torch.randn(60, outputs, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    for widths in ((5, 4, outputs), (5, 7, 3, outputs)):
        layers = [layer for a, b in pairwise(widths) for layer in (nn.Linear(a, b), activation)][:-1]
        model = seeded(nn.Sequential(*layers))
        bound, reason = negative_bound(problem(model, loss, data=(inputs, targets)))
        assert negatives(dense_hessian(model, loss, inputs, targets)) <= bound
        assert reason


def test_the_layer_bound_is_everything_but_the_largest_layer():
    model = nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 3), nn.ReLU(), nn.Linear(3, 2))
    assert negative_bound(problem(model, nn.MSELoss()))[0] == 24 + 8
    assert negative_bound(problem(model, nn.MSELoss(), ["2.weight", "4.weight", "4.bias"]))[0] == 8
    assert negative_bound(problem(nn.Sequential(nn.Linear(5, 7)), nn.MSELoss()))[0] == 0  # convex


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("d", [2, 8])
def test_the_unit_bound_holds_and_is_reached_with_random_residuals(d, bias):
    inputs, targets = classification(samples=200, d=d, classes=5)
    model = seeded(nn.Sequential(nn.Linear(d, 6, bias=bias), nn.ReLU(), nn.Linear(6, 5)))
    bound, reason = negative_bound(problem(model, nn.CrossEntropyLoss(), data=(inputs, targets)))
    assert bound == 6 * min(d + bias, 4)
    assert reason.startswith("6 hidden units")
    assert negatives(dense_hessian(model, nn.CrossEntropyLoss(), inputs, targets)) <= bound
    with torch.no_grad():  # a zero output layer: R dominates, and the bound is attained
        model[2].weight.zero_()
        model[2].bias.zero_()
    assert negatives(dense_hessian(model, nn.CrossEntropyLoss(), inputs, targets)) == bound


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_unit_counts_for_no_more_than_the_samples_that_fire_it(dtype):
    """Unit 0 never fires, unit 1 on two samples: ranks 0 and 2, and a zero output layer attains the bound."""
    inputs, targets = classification(samples=200, d=8, classes=5)
    model = seeded(nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 5)))
    with torch.no_grad():
        heights = inputs.float() @ model[0].weight[:2].mT
        highest = heights.sort(dim=0, descending=True).values
        model[0].bias[0] = -highest[0, 0] - 1e-2
        model[0].bias[1] = -(highest[1, 1] + highest[2, 1]) / 2
        model[2].weight.zero_()
        model[2].bias.zero_()
    made = Problem(model, nn.CrossEntropyLoss(), (inputs, targets), dtype=dtype)
    bound, reason = negative_bound(made)
    assert bound == 4 * 4 + 2
    assert reason == "5 hidden units of 6 that fire x min(inputs + 1, classes - 1) = 4"
    assert negatives(dense_hessian(model, nn.CrossEntropyLoss(), inputs, targets)) == bound


def test_what_rounding_decides_counts_as_firing():
    """A unit whose sum is 0 but for rounding on every sample."""
    inputs, targets = classification(samples=50, d=8, classes=5)
    model = seeded(nn.Sequential(nn.Linear(8, 2), nn.ReLU(), nn.Linear(2, 5)))
    with torch.no_grad():
        model[0].weight[0].zero_()
        model[0].bias[0] = -1e-12
    assert negative_bound(problem(model, nn.CrossEntropyLoss(), data=(inputs, targets)))[0] == 8


def test_the_bound_survives_the_selection_of_parameters():
    inputs, targets = classification(d=8)
    model = seeded(nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 4)))
    for names in (["0.weight"], ["2.weight", "2.bias"], ["0.bias", "2.weight"]):
        bound, _ = negative_bound(problem(model, nn.CrossEntropyLoss(), names, data=(inputs, targets)))
        assert negatives(dense_hessian(model, nn.CrossEntropyLoss(), inputs, targets, names)) <= bound


@pytest.mark.slow
def test_the_unit_bound_on_the_digits():
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    inputs, targets = torch.as_tensor(images / 16), torch.as_tensor(labels)
    model = seeded(nn.Sequential(nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 10)))
    with torch.no_grad():
        # every unit fires on half of the images: no block lacks a class
        model[0].bias.copy_(-(inputs.float() @ model[0].weight.mT).median(dim=0).values)
        model[2].weight.zero_()
        model[2].bias.zero_()
    bound, _ = negative_bound(problem(model, nn.CrossEntropyLoss(), data=(inputs, targets)))
    assert bound == 8 * 9
    assert negatives(dense_hessian(model, nn.CrossEntropyLoss(), inputs, targets)) == bound


class FocalLoss(nn.CrossEntropyLoss):
    """Derived from a convex loss, and not convex."""

    def forward(self, outputs, targets):
        return 1 - torch.exp(-super().forward(outputs, targets))


class Squared(nn.Sequential):
    """A network with a forward of its own."""

    def forward(self, x):
        return super().forward(x) ** 2


def tied():
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    model[2].weight = model[0].weight
    return model


@pytest.mark.parametrize(
    ("model", "loss"),
    [
        (nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)), nn.CrossEntropyLoss()),
        (nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3)), lambda z, y: (z - y).square().mean()),
        (nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3)), FocalLoss(reduction="none")),
        (Squared(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3)), nn.CrossEntropyLoss()),
        (
            nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(5, 4)), nn.ReLU(), nn.Linear(4, 3)),
            nn.CrossEntropyLoss(),
        ),
        (nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4).eval(), nn.Linear(4, 3)), nn.CrossEntropyLoss()),
        (nn.Linear(5, 3), nn.CrossEntropyLoss()),
        (tied(), nn.CrossEntropyLoss()),
    ],
    ids=["tanh", "lambda", "subclassed loss", "subclassed net", "weight norm", "batch norm", "bare layer", "tied"],
)
def test_nothing_is_claimed_for_what_is_not_understood(model, loss):
    assert negative_bound(problem(model, loss)) is None


def test_nothing_is_claimed_for_other_things_than_problems():
    class Reversed(Problem):
        def share_of(self, outputs, batch):
            return -super().share_of(outputs, batch)

    model, data = nn.Sequential(nn.Linear(5, 4)), classification()
    assert negative_bound(None) is None
    given = Hessian(model, nn.CrossEntropyLoss(), data)
    assert negative_bound(given) == negative_bound(given.problem)

    class Other(Hessian):
        """May multiply by something else."""

    assert negative_bound(Other(model, nn.CrossEntropyLoss(), data)) is None
    assert negative_bound(Reversed(model, nn.CrossEntropyLoss(), data)) is None
    assert negative_bound(GaussNewton(model, nn.CrossEntropyLoss(), data).problem)[0] == 0


def square(*arguments):
    """A hook: the last of what it is given, squared."""
    last = arguments[-1]
    return tuple(t**2 for t in last) if isinstance(last, tuple) else last**2


def own_forward(module):
    module.forward = lambda *x: type(module).forward(module, *x) ** 2


ALTERED = {
    "forward hook": lambda module: module.register_forward_hook(square),
    "forward pre-hook": lambda module: module.register_forward_pre_hook(square),
    "forward of its own": own_forward,
}


@pytest.mark.parametrize("part", ["model", "layer", "activation"])
@pytest.mark.parametrize("change", ALTERED)
def test_nothing_is_claimed_for_altered_modules(change, part):
    """A convex model, squared: the bound 0 of its class would be wrong."""
    model = seeded(nn.Sequential(nn.Linear(5, 4), nn.Identity())).double()
    inputs, targets = classification()
    assert negative_bound(problem(model, nn.CrossEntropyLoss(), data=(inputs, targets)))[0] == 0
    ALTERED[change]({"model": model, "layer": model[0], "activation": model[1]}[part])
    made = problem(model, nn.CrossEntropyLoss(), data=(inputs, targets))
    if change != "forward pre-hook" or part == "activation":  # squares of the inputs leave it convex
        assert negatives(dense_hessian(model, nn.CrossEntropyLoss(), inputs, targets)) > 0
    assert negative_bound(made) is None


@pytest.mark.parametrize("change", ["forward hook", "forward of its own"])
def test_nothing_is_claimed_for_altered_losses(change):
    model, loss = nn.Sequential(nn.Linear(5, 4)), nn.CrossEntropyLoss(reduction="none")
    ALTERED[change](loss)
    assert negative_bound(problem(model, loss)) is None


def test_nothing_is_claimed_under_global_hooks():
    made = problem(nn.Sequential(nn.Linear(5, 4)), nn.CrossEntropyLoss())
    handle = nn.modules.module.register_module_forward_hook(lambda *_: None)
    try:
        assert negative_bound(made) is None
    finally:
        handle.remove()
    assert negative_bound(made)[0] == 0


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
def test_nothing_is_claimed_for_parametrized_layers():
    for wrap in (nn.utils.weight_norm, nn.utils.parametrizations.weight_norm):
        model = nn.Sequential(wrap(nn.Linear(5, 4)), nn.ReLU(), nn.Linear(4, 3))
        assert negative_bound(problem(model, nn.CrossEntropyLoss())) is None


def test_a_unit_that_feeds_the_output_at_several_positions_has_no_unit_bound():
    # one Linear applied at 3 positions, then flattened: the rank of a unit's block is up to 3 (C - 1)
    positions, d, h, classes = 3, 6, 2, 2
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(80, positions, d, generator=generator, dtype=torch.float64)
    targets = torch.randint(classes, (80,), generator=generator)
    model = seeded(nn.Sequential(nn.Linear(d, h), nn.ReLU(), nn.Flatten(), nn.Linear(positions * h, classes)))
    with torch.no_grad():
        model[3].weight.zero_()
        model[3].bias.zero_()
    counted = negatives(dense_hessian(model, nn.CrossEntropyLoss(), inputs, targets))
    assert counted > h * min(d + 1, classes - 1)
    assert counted <= negative_bound(problem(model, nn.CrossEntropyLoss(), data=(inputs, targets)))[0]


def test_no_unit_bound_where_classes_are_not_the_last_dimension():
    """For outputs (n, C, L) cross-entropy takes the classes along dimension 1; the last layer's width is L."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    inputs, targets = torch.randn(6, 5, 4), torch.randint(0, 5, (6, 2))
    problem_ = Problem(model, nn.CrossEntropyLoss(), (inputs, targets), batch_weight=lambda t: t.numel())
    bound, reason = negative_bound(problem_)
    assert "layer" in reason
    assert bound == 8


def test_no_unit_bound_where_flatten_makes_classes_of_positions():
    """The residuals of one position do not sum to zero: the rank of a unit's block is up to C, not C - 1."""
    positions, d, h, classes = 2, 4, 3, 2
    inputs = torch.randn(80, positions, d, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    targets = torch.randint(positions * classes, (80,), generator=torch.Generator().manual_seed(1))
    model = seeded(nn.Sequential(nn.Linear(d, h), nn.ReLU(), nn.Linear(h, classes), nn.Flatten())).double()
    with torch.no_grad():
        model[2].weight.zero_()
        model[2].bias.zero_()
    bound, reason = negative_bound(problem(model, nn.CrossEntropyLoss(), data=(inputs, targets)))
    assert "layer" in reason
    assert (
        h * min(d + 1, classes - 1) < negatives(dense_hessian(model, nn.CrossEntropyLoss(), inputs, targets)) <= bound
    )


@pytest.mark.parametrize("flat", [True, False])
def test_flatten_and_identity_in_front_keep_the_unit_bound(flat):
    front = (nn.Flatten(), nn.Identity()) if flat else (nn.Identity(),)
    model = nn.Sequential(*front, nn.Linear(6, 3), nn.ReLU(), nn.Identity(), nn.Linear(3, 2))
    assert negative_bound(problem(model, nn.CrossEntropyLoss()))[0] == 3


INPUTS = classification()[0]
INSIDE = torch.rand(60, 3, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
INDICES = torch.arange(60) % 3
NEGATIVE = torch.tensor([1.0, -1.0, 1.0])
LOADED = [(INPUTS[:50], INSIDE[:50]), (INPUTS[50:], INSIDE[50:] - 2)]


@pytest.mark.parametrize(
    ("loss", "data", "convex"),
    [
        (nn.CrossEntropyLoss(), (INPUTS, INDICES), True),
        (nn.CrossEntropyLoss(weight=NEGATIVE, reduction="sum"), (INPUTS, INDICES), False),
        (nn.CrossEntropyLoss(), (INPUTS, INSIDE), True),
        (nn.CrossEntropyLoss(), (INPUTS, INSIDE - 2), False),
        (nn.functional.cross_entropy, (INPUTS, INSIDE - 2), False),
        (nn.CrossEntropyLoss(), LOADED, False),
        (nn.BCEWithLogitsLoss(), (INPUTS, INSIDE - 2), True),
        (nn.BCEWithLogitsLoss(pos_weight=NEGATIVE.abs() / 4), (INPUTS, INSIDE), True),
        (nn.BCEWithLogitsLoss(pos_weight=NEGATIVE.abs() / 4), (INPUTS, INSIDE + 2), False),
        (nn.BCEWithLogitsLoss(pos_weight=3 * NEGATIVE), (INPUTS, INSIDE), False),
        (nn.BCEWithLogitsLoss(weight=NEGATIVE), (INPUTS, INSIDE), False),
        (nn.MSELoss(), (INPUTS, INSIDE - 2), True),
    ],
)
def test_convexity_depends_on_weights_and_targets(loss, data, convex):
    """One linear layer: convex means no negative eigenvalue."""
    model = seeded(nn.Sequential(nn.Linear(5, 3))).double()
    made = problem(model, loss, data=data)
    counted = negatives(Hessian(model, loss, data) @ torch.eye(18, dtype=torch.float64))
    assert (negative_bound(made) is not None) == convex
    assert (counted == 0) == convex
