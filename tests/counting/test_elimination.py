"""Bounds by elimination against dense eigenvalues: any X, wrong assumptions, noise, networks, refusals."""

import pytest
import torch
from matrices import gaussian
from oracles import perceptron
from torch import nn

from lanczos_saddle import GaussNewton, Hessian, Interval, assemble, check_operator, count_eigenvalues, recount
from lanczos_saddle.certificates.intervals import settle_negative
from lanczos_saddle.certificates.schur import schur_bounds
from lanczos_saddle.counting.eliminated import (
    can_eliminate,
    negative_count_by_elimination,
    negative_counts_by_elimination,
)
from lanczos_saddle.structure.facts import convex_block
from lanczos_saddle.structure.know import know
from lanczos_saddle.structure.layer_block import LayerBlock


def partitioned(n=40, s=12, seed=0, smallest=0.0):
    """A (n, n) with eigenvalues from `smallest` on, many of them small; B, D."""
    q = torch.linalg.qr(gaussian(n, n, seed=seed)).Q
    values = torch.cat([torch.zeros(n // 4), torch.logspace(-6, 0, n - n // 4)]).double() + smallest
    corner = gaussian(s, s, seed=seed + 1)
    grades = torch.logspace(0, -4, s, dtype=torch.float64)
    return (q * values) @ q.mT, gaussian(n, s, seed=seed + 2) * grades, (corner + corner.mT) / 4 * grades


def below(a, b, d, tau):
    d = (d + d.mT) / 2
    values = torch.linalg.eigvalsh(torch.cat([torch.cat([a, b], 1), torch.cat([b.mT, d], 1)]))
    return int((values < -tau).sum())


def bounds(a, b, d, tau, x, basis=None, error=1e-15):
    basis = torch.eye(len(d), dtype=torch.float64) if basis is None else basis
    return schur_bounds(tau, (d + d.mT) / 2, b, x, a @ x, basis, error)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("tau", [1e-1, 1e-3])
def test_any_x_gives_bounds_that_hold(seed, tau):
    a, b, d = partitioned(seed=seed)
    true = below(a, b, d, tau)
    exact = torch.linalg.solve(a + tau * torch.eye(40, dtype=torch.float64), b)
    for blur in (0.0, 1e-6, 1e-3, 1e-1, 10.0, 1e6):
        found = bounds(a, b, d, tau, exact + blur * gaussian(40, 12, seed=seed + 9))
        assert found.lower <= true <= found.upper
        if blur <= 1e-6:
            assert found.lower == found.upper
    none = bounds(a, b, d, tau, torch.zeros(40, 12, dtype=torch.float64))
    assert none.lower <= true <= none.upper


@pytest.mark.parametrize("seed", range(5))
def test_the_basis_and_missing_columns_do_not_change_what_holds(seed):
    a, b, d = partitioned(seed=seed)
    tau, u = 1e-2, gaussian(12, 12, seed=seed + 5)
    exact = torch.linalg.solve(a + tau * torch.eye(40, dtype=torch.float64), b)
    true = below(a, b, d, tau)
    whole = bounds(a, b, d, tau, exact @ u, basis=u)
    assert whole.lower == true == whole.upper
    part = bounds(a, b, d, tau, exact @ u[:, :7], basis=u)
    assert part.lower <= true <= part.upper


def test_the_residual_is_that_of_the_system():
    a, b, d = partitioned()
    x = gaussian(40, 12, seed=3)
    f = b - a @ x - 0.1 * x
    assert bounds(a, b, d, 0.1, x).residual == pytest.approx(float(torch.linalg.matrix_norm(f, 2)), rel=1e-10)


def test_the_upper_bound_needs_a_semidefinite_block_and_the_lower_does_not():
    broken = 0
    for seed in range(20):
        a, b, d = partitioned(seed=seed, smallest=-0.5)
        true = below(a, b, d, 1e-2)
        found = bounds(a, b, d, 1e-2, torch.linalg.solve(a + 1e-2 * torch.eye(40, dtype=torch.float64), b))
        assert found.lower <= true
        broken += found.upper < true
    assert broken == 20


def test_the_matrix_bound_is_sharper_than_the_norm_of_the_residual():
    a, b, d = partitioned(n=60, s=15)
    tau = 1e-3
    x = torch.linalg.solve(a + tau * torch.eye(60, dtype=torch.float64), b)
    x[:, 0] += 1e-2 * gaussian(60, seed=4)  # one bad column
    found = bounds(a, b, d, tau, x)
    schur = (d + d.mT) / 2 + tau * torch.eye(15, dtype=torch.float64) - b.mT @ x - x.mT @ b + x.mT @ (a @ x + tau * x)
    by_norm = int((torch.linalg.eigvalsh(schur) < found.residual**2 / tau).sum())
    assert found.lower <= below(a, b, d, tau) <= found.upper < by_norm


@pytest.mark.parametrize("side", [-1.0, 1.0])
def test_eigenvalues_within_the_noise_of_products_count_on_neither_side(side):
    """Products off by `error` may come from a matrix with one negative eigenvalue more or less."""
    error, tau, s = 1e-6, 1e-2, 6
    a = torch.diag(torch.linspace(0, 1, 30, dtype=torch.float64))
    b = gaussian(30, s, seed=1)
    x = torch.linalg.solve(a + tau * torch.eye(30, dtype=torch.float64), b)
    wanted = torch.diag(torch.tensor([-1.0, -0.5, side * 1e-7, 0.5, 1, 2], dtype=torch.float64))
    d = wanted - tau * torch.eye(s, dtype=torch.float64) + b.mT @ x
    honest = bounds(a, b, d, tau, x, error=error)
    assert (honest.lower, honest.upper) == (2, 3)
    assert honest.margin < 1
    careless = bounds(a, b, d, tau, x, error=0.0)
    assert careless.lower == careless.upper == (3 if side < 0 else 2)


def data(d, classes, loss, samples=80):
    inputs = gaussian(samples, d, seed=11)
    if isinstance(loss, nn.CrossEntropyLoss):
        return inputs, torch.randint(classes, (samples,), generator=torch.Generator().manual_seed(12))
    return inputs, gaussian(samples, classes, seed=13)


@pytest.mark.parametrize("widths", [(8, 6, 4), (5, 4, 6, 3), (12, 3, 3)])
@pytest.mark.parametrize("activation", [nn.ReLU(), nn.LeakyReLU(0.2), nn.Hardtanh()])
@pytest.mark.parametrize("loss", [nn.CrossEntropyLoss(), nn.MSELoss()])
def test_networks_are_counted_exactly(widths, activation, loss):
    hessian = Hessian(perceptron(widths, activation or nn.ReLU()), loss, data(widths[0], widths[-1], loss))
    values = torch.linalg.eigvalsh(assemble(hessian).matrix)
    thresholds = [float(values.abs().max()) * r for r in (1e-2, 1e-4, 1e-6)]
    for found, tau in zip(
        negative_counts_by_elimination(hessian, thresholds, max_products=10**4), thresholds, strict=True
    ):
        true = int((values < -tau).sum())
        assert found.lower == true == found.upper
        assert found.eliminated + found.remaining == hessian.shape[0]
        assert found.threshold == tau


@pytest.mark.parametrize("layer", ["0", "2", "4"])
def test_any_layer_may_be_eliminated(layer):
    loss = nn.CrossEntropyLoss()
    hessian = Hessian(perceptron((6, 5, 5, 4), nn.ReLU()), loss, data(6, 4, loss))
    values = torch.linalg.eigvalsh(assemble(hessian).matrix)
    tau = 1e-3 * float(values.abs().max())
    found = negative_count_by_elimination(hessian, tau, layer=layer, max_products=10**4)
    assert found.layer == layer
    assert found.lower == int((values < -tau).sum()) == found.upper


@pytest.mark.parametrize("layer", ["0", "2", "4"])
def test_the_block_is_semidefinite_with_later_biases_and_not_with_earlier_ones(layer):
    loss = nn.MSELoss()
    hessian = Hessian(perceptron((6, 5, 5, 4), nn.LeakyReLU(0.3)), loss, data(6, 4, loss))
    matrix = assemble(hessian).matrix
    block = convex_block(hessian.problem, layer)
    inside = matrix[block.index][:, block.index]
    assert float(torch.linalg.eigvalsh(inside)[0]) > -1e-13 * float(matrix.abs().max())
    assert sorted(torch.cat([block.index, block.rest]).tolist()) == list(range(len(matrix)))
    assert set(block.names) == {f"{layer}.weight"} | {f"{k}.bias" for k in (0, 2, 4) if k >= int(layer)}
    if layer != "0":
        earlier = torch.arange(len(matrix))[hessian.problem.ranges["0.bias"]]
        wrong = torch.cat([block.index, earlier])
        assert float(torch.linalg.eigvalsh(matrix[wrong][:, wrong])[0]) < -1e-3


def test_the_largest_block_is_taken_and_selections_are_respected():
    loss = nn.CrossEntropyLoss()
    model, pair = perceptron((8, 6, 4), nn.ReLU()), data(8, 4, loss)
    assert len(convex_block(Hessian(model, loss, pair).problem).index) == 8 * 6 + 6 + 4
    part = Hessian(model, loss, pair, parameters=["2.*", "0.bias"])
    assert convex_block(part.problem).names == ("2.weight", "2.bias")
    values = torch.linalg.eigvalsh(assemble(part).matrix)
    found = negative_count_by_elimination(part, 1e-6, max_products=10**4)
    assert found.lower == int((values < -1e-6).sum()) == found.upper
    convex = negative_count_by_elimination(Hessian(model, loss, pair, parameters="2.*"), 1e-6)
    assert (convex.lower, convex.upper, convex.remaining) == (0, 0, 0)


def counted(hessian, monkeypatch):
    """The columns of all products, those with the layer's block included."""
    columns, product, inner = [], hessian.product, LayerBlock.__matmul__
    hessian.product = lambda v: columns.append(v.shape[1] if v.ndim == 2 else 1) or product(v)
    monkeypatch.setattr(LayerBlock, "__matmul__", lambda self, v: columns.append(v.shape[1]) or inner(self, v))
    return columns


def test_products_are_counted_and_the_budget_is_kept(monkeypatch):
    loss = nn.MSELoss()
    hessian = Hessian(perceptron((20, 6, 4), nn.ReLU()), loss, data(20, 4, loss))
    values = torch.linalg.eigvalsh(assemble(hessian).matrix)
    check, tau = check_operator(hessian), 1e-5 * float(values.abs().max())
    true, columns, widths = int((values < -tau).sum()), counted(hessian, monkeypatch), []
    for budget in (100, 124, 200, 10**4):
        columns.clear()
        found = negative_count_by_elimination(hessian, tau, max_products=budget, check=check)
        assert found.products == sum(columns) <= budget
        assert found.lower <= true <= found.upper
        widths.append(found.upper - found.lower)
    assert widths == sorted(widths, reverse=True)
    assert widths[-1] == 0 < widths[0]
    with pytest.raises(ValueError, match=r"max_products must reach one certificate .* at least 100"):
        negative_count_by_elimination(hessian, tau, max_products=99, check=check)


def test_float32_weights_are_counted_with_float64_products():
    loss = nn.CrossEntropyLoss()
    pair = data(8, 4, loss)
    hessian = Hessian(perceptron((8, 6, 4), nn.ReLU()).float(), loss, (pair[0].float(), pair[1]))
    values = torch.linalg.eigvalsh(assemble(hessian.to(torch.float64)).matrix)
    tau = 1e-6 * float(values.abs().max())
    found = negative_count_by_elimination(hessian, tau, max_products=10**4)
    assert found.lower == int((values < -tau).sum()) == found.upper
    assert found.check.noise < 1e-12


class Subclass(Hessian):
    pass


@pytest.mark.parametrize(
    "make",
    [
        lambda _, pair: Hessian(perceptron((8, 6, 4), nn.Tanh()), nn.CrossEntropyLoss(), pair),
        lambda model, pair: Hessian(model, lambda outputs, _: -((outputs - 1) ** 2).mean(), pair),
        lambda model, pair: Hessian(model, nn.PoissonNLLLoss(), (pair[0], pair[0][:, :4].exp())),
        lambda model, pair: GaussNewton(model, nn.CrossEntropyLoss(), pair),
        lambda model, pair: Subclass(model, nn.CrossEntropyLoss(), pair),
    ],
    ids=["tanh", "concave", "unknown loss", "Gauss-Newton", "subclass"],
)
def test_what_is_not_proved_is_refused(make):
    loss, rule = nn.CrossEntropyLoss(), "elimination needs a Hessian whose structure proves a block"
    with pytest.raises(ValueError, match=rule):
        negative_count_by_elimination(make(perceptron((8, 6, 4), nn.ReLU()), data(8, 4, loss)), 1e-3)


def test_other_misuse_is_refused():
    loss = nn.CrossEntropyLoss()
    hessian = Hessian(perceptron((8, 6, 4), nn.ReLU()), loss, data(8, 4, loss))
    with pytest.raises(ValueError, match="a threshold must be positive"):
        negative_count_by_elimination(hessian, 0.0)
    with pytest.raises(ValueError, match="at least one threshold"):
        negative_counts_by_elimination(hessian, [])
    with pytest.raises(ValueError, match="layer must be a Linear module"):
        negative_count_by_elimination(hessian, 1e-3, layer="1")


def test_count_eigenvalues_takes_its_negatives_from_elimination():
    loss = nn.MSELoss()
    hessian = Hessian(perceptron((150, 6, 3), nn.ReLU()), loss, data(150, 3, loss))
    values = torch.linalg.eigvalsh(assemble(hessian).matrix)
    tau = 1e-4 * float(values.abs().max())
    counts = count_eigenvalues(hessian, threshold=tau, method="elimination", probes=4, steps=20)
    assert counts.method == "elimination"
    assert counts.negative.lower == counts.negative.upper == int((values < -tau).sum())
    assert int((values > tau).sum()) in counts.positive
    assert int((values.abs() <= tau).sum()) in counts.near_zero
    chance = count_eigenvalues(hessian, threshold=tau, method="lanczos", probes=4, steps=20)
    assert chance.negative.width > 0
    assert counts.near_zero.width < chance.near_zero.width
    assert counts.products > chance.products
    again = recount(counts, 2 * tau)
    assert again.negative.width > 0  # the bounds belong to their threshold
    assert again.method == "lanczos"
    assert recount(counts, tau) == counts
    spent = count_eigenvalues(hessian, threshold=tau, method="elimination", probes=4, max_products=400)
    assert spent.products <= 400
    assert int((values < -tau).sum()) in spent.negative
    with pytest.raises(ValueError, match="elimination needs a Hessian"):
        count_eigenvalues(assemble(hessian).matrix, threshold=tau, method="elimination")


def test_it_is_chosen_where_one_layer_holds_nearly_all(monkeypatch):
    loss = nn.CrossEntropyLoss()
    assert can_eliminate(know(Hessian(perceptron((220, 4, 3), nn.ReLU()), loss, data(220, 3, loss))))
    small = Hessian(perceptron((8, 6, 4), nn.ReLU()), loss, data(8, 4, loss))
    assert not can_eliminate(know(small))
    assert not can_eliminate(know(torch.eye(3)))
    monkeypatch.setattr("lanczos_saddle.counting.count.EXACT_SIZE", 100)
    large = Hessian(perceptron((220, 4, 3), nn.ReLU()), loss, data(220, 3, loss))
    assert count_eigenvalues(large, relative_threshold=1e-3).method == "elimination"
    assert count_eigenvalues(large, relative_threshold=1e-3, steps=5).method == "lanczos"


def test_bounds_beat_a_chance_interval_that_misses():
    outside = settle_negative(10, 20, Interval(50, 55.0, 60), Interval(85, 90.0, 95), 100, 0)
    assert (outside[0].lower, outside[0].estimate, outside[0].upper) == (10, 15.0, 15)
    assert outside[2].upper <= 90
    inside = settle_negative(10, 20, Interval(15, 25.0, 60), Interval(0, 5.0, 9), 100, 30)
    assert (inside[0].lower, inside[0].estimate, inside[0].upper) == (15, 20.0, 20)
    assert sum(i.lower for i in inside) <= 100 <= sum(i.upper for i in inside)


def test_a_result_prints_itself():
    loss = nn.CrossEntropyLoss()
    found = negative_count_by_elimination(
        Hessian(perceptron((8, 6, 4), nn.ReLU()), loss, data(8, 4, loss)), 1e-4, max_products=10**4
    )
    assert f"{found.lower}, certain: layer '0' eliminated" in str(found)
