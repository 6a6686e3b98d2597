"""Null vectors of symmetries: sent to zero by the dense Hessian, and taken out of the probes' space without a loss."""

from itertools import pairwise

import pytest
import torch
from torch import nn

from lanczos_saddle import GaussNewton, Hessian, count_eigenvalues
from lanczos_saddle.dense.exact import assemble, exact_eigenvalues, three_counts
from lanczos_saddle.structure.null_vectors import rescaling, softmax_shift

F64 = torch.float64


def hessian(kind=Hessian, parameters="*", *, bias=True, loss=None, blank=()):
    torch.manual_seed(0)
    x = torch.randn(40, 6, dtype=F64)
    x[:, list(blank)] = 0
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4, bias=bias)).double()
    return kind(model, loss or nn.CrossEntropyLoss(), (x, torch.randint(4, (40,))), parameters=parameters)


@pytest.mark.parametrize("kind", [Hessian, GaussNewton])
@pytest.mark.parametrize(("parameters", "bias", "number"), [("*", True, 6), ("*", False, 5), ("2.bias", True, 1)])
def test_the_shift_of_all_logits(kind, parameters, bias, number):
    h = hessian(kind, parameters, bias=bias)
    nulls = softmax_shift(h.problem)
    assert nulls.shape == (h.shape[0], number)
    torch.testing.assert_close(nulls.mT @ nulls, torch.eye(number, dtype=F64))
    matrix = assemble(h).matrix
    assert float((matrix @ nulls).abs().max()) < 1e-15
    assert float((matrix @ torch.randn_like(nulls)).abs().max()) > 1e-3


def test_only_what_is_recognized():
    assert softmax_shift(hessian(loss=lambda z, t: nn.functional.nll_loss(z, t)).problem) is None
    assert softmax_shift(hessian(parameters="0.*").problem) is None
    tied = nn.Linear(4, 4).double()
    torch.manual_seed(0)
    data = torch.randn(9, 4, dtype=F64), torch.randint(4, (9,))
    assert softmax_shift(Hessian(nn.Sequential(tied, nn.ReLU(), tied), nn.CrossEntropyLoss(), data).problem) is None
    assert softmax_shift(None) is None


def deep(*, bias=True, slopes=nn.ReLU):
    torch.manual_seed(0)
    widths = (6, 5, 4, 3)
    layers = [nn.Linear(n, m, bias=bias) for n, m in pairwise(widths)]
    model = nn.Sequential(layers[0], slopes(), layers[1], slopes(), layers[2]).double()
    return Hessian(model, nn.CrossEntropyLoss(), (torch.randn(40, 6, dtype=F64), torch.randint(3, (40,))))


@pytest.mark.parametrize("bias", [True, False])
def test_rescaling_a_relu_unit(bias):
    h = deep(bias=bias)
    theta, positions = h.problem.theta, torch.arange(h.shape[0])
    parts = h.problem.unflatten(positions)
    expected = []
    for into, out in (("0", "2"), ("2", "4")):
        for unit in range(len(parts[f"{into}.weight"])):
            d = torch.zeros_like(theta)
            inward = [parts[f"{into}.weight"][unit], *([parts[f"{into}.bias"][unit, None]] if bias else [])]
            for index, sign in [*((i, 1) for i in inward), (parts[f"{out}.weight"][:, unit], -1)]:
                d[index] = sign * theta[index]
            expected.append(float((h @ d).norm() / d.norm()))
    torch.testing.assert_close(rescaling(h.problem), torch.tensor(expected, dtype=F64), rtol=1e-9, atol=1e-14)
    assert max(expected) > 1e-3


def test_rescaling_of_what_is_not_recognized():
    assert rescaling(deep(slopes=nn.Tanh).problem) is None
    assert rescaling(hessian(parameters="0.*").problem) is None
    assert rescaling(None) is None


def run(h, seed, **options):
    return count_eigenvalues(
        h,
        threshold=1e-3,
        method="lanczos",
        confidence=0.9,
        probes=2,
        steps=12,
        generator=torch.Generator().manual_seed(seed),
        **options,
    )


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"enumerate_negative": True}])
def test_the_counts_hold_without_them(options):
    h = hessian(blank=[1])
    nulls = softmax_shift(h.problem)
    exact = three_counts(exact_eigenvalues(h).numpy(), 1e-3)
    held = 0
    for seed in range(40):
        counts = run(h, seed, null_vectors=nulls, **options)
        found = (counts.negative, counts.near_zero, counts.positive)
        assert counts.near_zero.upper <= h.shape[0]
        assert counts.near_zero.lower >= counts.dead
        if not options:
            assert counts.evidence.drawn == h.shape[0] - counts.dead - nulls.shape[1]
        held += all(count in interval for count, interval in zip(exact, found, strict=True))
    assert held >= 34  # 90 % of 40, less 1.1 standard deviations


def test_a_wrong_null_vector_is_refused():
    h = hessian()
    wrong = torch.eye(h.shape[0], dtype=F64)[:, -1:]
    with pytest.raises(ValueError, match="sent to zero"):
        run(h, 0, null_vectors=wrong)
    with pytest.raises(ValueError, match="independent"):
        run(h, 0, null_vectors=softmax_shift(h.problem)[:, [0, 0]])
    with pytest.raises(ValueError, match="must be a tensor"):
        run(h, 0, null_vectors=wrong[:-1])


def test_null_vectors_are_for_runs_without_a_preconditioner():
    h = hessian()
    with pytest.raises(ValueError, match="without a preconditioner"):
        run(h, 0, null_vectors=softmax_shift(h.problem), preconditioner="ekfac")


def test_vectors_that_differ_on_dead_coordinates_alone_are_taken_out_once():
    living = torch.linspace(-1, 1, 57, dtype=F64)  # the 29th is 0
    q = torch.linalg.qr(torch.randn(57, 57, generator=torch.Generator().manual_seed(0), dtype=F64)).Q
    matrix = torch.block_diag((q * living) @ q.mT, torch.zeros(3, 3, dtype=F64))
    nulls = torch.cat([q[:, 28], torch.zeros(3, dtype=F64)])[:, None].repeat(1, 2)
    nulls[57, 1] = 1.0  # the two are independent, and equal on the living coordinates
    counts = count_eigenvalues(matrix, threshold=0.1, method="lanczos", probes=8, precision=1e-9, null_vectors=nulls)
    found = counts.negative, counts.near_zero, counts.positive
    exact = three_counts(torch.cat([living, torch.zeros(3, dtype=F64)]), 0.1)
    assert all(number in interval for number, interval in zip(exact, found, strict=True))


def test_vectors_that_are_not_finite_are_refused():
    null = torch.full((5, 1), float("nan"), dtype=torch.float64)
    with pytest.raises(ValueError, match="null_vectors must be finite"):
        count_eigenvalues(torch.eye(5, dtype=torch.float64), threshold=0.1, method="lanczos", null_vectors=null)
