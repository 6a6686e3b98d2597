"""A network without its blank inputs has the principal submatrix of the same matrix."""

import pytest
import torch
from torch import nn

from lanczos_saddle import GaussNewton, Hessian, count_eigenvalues
from lanczos_saddle.dense.exact import assemble
from lanczos_saddle.structure.blank_inputs import without_blank_inputs
from lanczos_saddle.structure.facts import dead_coordinates

F64 = torch.float64
BLANK = [0, 4, 5]


def data(blank=BLANK):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(20, 7, generator=generator, dtype=F64)
    x[:, blank] = 0
    return x, torch.randint(3, (20,), generator=generator)


def model(**options):
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(7, 5, **options), nn.Tanh(), nn.Linear(5, 3)).double()


@pytest.mark.parametrize("kind", [Hessian, GaussNewton])
@pytest.mark.parametrize("parameters", ["*", "0.weight"])
@pytest.mark.parametrize("bias", [True, False])
def test_the_principal_submatrix(kind, parameters, bias):
    h = kind(model(bias=bias), nn.CrossEntropyLoss(), data(), parameters=parameters)
    reduced, kept = without_blank_inputs(h)
    assert int((~kept).sum()) == len(BLANK) * 5
    assert torch.equal(~kept, dead_coordinates(h))
    full, small = assemble(h).matrix, assemble(reduced).matrix
    torch.testing.assert_close(small, full[kept][:, kept], rtol=1e-13, atol=1e-15)
    assert not full[~kept].any()


def test_weights_are_those_of_the_problem_not_of_the_model():
    net = model()
    h = Hessian(net, nn.CrossEntropyLoss(), data(), parameters="2.*")
    assert without_blank_inputs(h) is None  # the first layer's weights are not among the parameters
    h = Hessian(net, nn.CrossEntropyLoss(), data(), parameters=["0.weight", "2.weight"])
    v = torch.randn(h.shape[0], 2, dtype=F64)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(1.0)  # trained further
    reduced, kept = without_blank_inputs(h)
    torch.testing.assert_close(reduced @ v[kept], (h @ (v * kept[:, None]))[kept], rtol=1e-12, atol=1e-14)


def test_modules_that_are_there_twice():
    torch.manual_seed(1)
    act, layer = nn.Tanh(), nn.Linear(5, 5)
    net = nn.Sequential(nn.Linear(7, 5), act, layer, act, layer, act, nn.Linear(5, 3)).double()
    h = Hessian(net, nn.CrossEntropyLoss(), data())
    reduced, kept = without_blank_inputs(h)
    v = torch.randn(h.shape[0], 2, dtype=F64)
    torch.testing.assert_close(reduced @ v[kept], (h @ (v * kept[:, None]))[kept], rtol=1e-12, atol=1e-14)


def test_random_numbers_are_left_to_the_caller():
    h = Hessian(model(), nn.CrossEntropyLoss(), data())
    state = torch.get_rng_state()
    without_blank_inputs(h)
    assert torch.equal(state, torch.get_rng_state())


class Shifted(nn.Linear):
    """Not zero at zero."""

    def forward(self, x):
        return super().forward(x + 1)


def test_only_what_is_recognized():
    loss, (x, y) = nn.CrossEntropyLoss(), data()
    hooked = model()
    hooked[0].register_forward_pre_hook(lambda _, args: (args[0] + 1,))
    torch.manual_seed(1)
    shared = nn.Linear(7, 7)
    for net, samples in [
        (model(), data([])),
        (model(), [(x, y)]),
        (hooked, (x, y)),
        (nn.Sequential(Shifted(7, 3)).double(), (x, y)),
        (nn.Sequential(nn.Tanh(), *model()).double(), (x, y)),
        (nn.Sequential(shared, nn.Tanh(), shared, nn.Linear(7, 3)).double(), (x, y)),
    ]:
        assert without_blank_inputs(Hessian(net, loss, samples)) is None
    tied = nn.Sequential(nn.Linear(7, 5), nn.Tanh(), nn.Linear(5, 5)).double()
    tied[2].bias = tied[0].bias
    assert without_blank_inputs(Hessian(tied, loss, (x, y))) is None
    assert without_blank_inputs(assemble(Hessian(model(), loss, (x, y))).matrix) is None


def test_counts_are_the_same_with_and_without():
    """The same probes on the same coordinates, whoever multiplies."""
    h = Hessian(model(), nn.CrossEntropyLoss(), data())
    options = {"threshold": 1e-3, "method": "lanczos", "probes": 2, "steps": 10}
    one = count_eigenvalues(h, **options)
    two = count_eigenvalues(assemble(h).matrix, **options)
    assert one.dead == two.dead == len(BLANK) * 5
    for a, b in zip(
        (one.negative, one.near_zero, one.positive), (two.negative, two.near_zero, two.positive), strict=True
    ):
        assert (a.lower, a.upper) == (b.lower, b.upper)
