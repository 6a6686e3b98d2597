"""Known critical points against dense float64 Hessians of torch.func and against closed forms."""

import json
import math
from dataclasses import replace
from functools import partial
from itertools import combinations, pairwise

import numpy as np
import pytest
import torch
from matrices import seeded
from torch import nn
from torch.func import functional_call

from lanczos_saddle import count_eigenvalues
from lanczos_saddle.cli import landscapes as landscape_report
from lanczos_saddle.cli.entry import main
from lanczos_saddle.machine.streams import Streams
from lanczos_saddle.networks.known_hessians import half_squared_error
from lanczos_saddle.studies.landscapes.catalogue import catalogue, example_net
from lanczos_saddle.studies.landscapes.critical_points import Surface, mean_loss
from lanczos_saddle.studies.landscapes.escapes import (
    DECREASE,
    METHODS,
    RADIUS,
    STEP,
    WAIT,
    Escape,
    displace,
    escape,
    escapes,
    trajectory,
)
from lanczos_saddle.studies.landscapes.exit_path import exit_path
from lanczos_saddle.studies.landscapes.linear_nets import generic_rank, linear_net, origin, two_layer_point
from lanczos_saddle.studies.landscapes.splitting import small_net, split
from lanczos_saddle.studies.landscapes.strictness import Visit, teacher_run, visit_point
from lanczos_saddle.studies.landscapes.surfaces import SURFACES, plateau
from lanczos_saddle.studies.landscapes.tables import cell
from lanczos_saddle.studies.landscapes.tensors import (
    decomposition,
    equal_components,
    one_vector,
    pair_sum,
    reconstruction,
)
from lanczos_saddle.training.perturbations import jin_constants, uniform_in_ball

F64 = torch.float64
POINTS = {point.name: point for point in catalogue()}


def flat_loss(model, loss, data):
    """The mean loss as a function of theta, and theta: without any of the package's own machinery."""
    names, shapes = zip(*[(n, p.shape) for n, p in model.named_parameters()], strict=True)
    sizes = [math.prod(s) for s in shapes]

    def function(theta):
        state = {n: part.view(s) for n, part, s in zip(names, theta.split(sizes), shapes, strict=True)}
        return loss(functional_call(model, state, (data[0],)), data[1]).mean()

    return function, torch.cat([p.detach().flatten() for p in model.parameters()])


def dense_hessian(function):
    """Reverse over reverse: torch.func.hessian goes forward, whose first use in a process warns about torch itself."""
    return torch.func.jacrev(torch.func.jacrev(function))


def dense(point):
    """(gradient, eigenvalues) by torch.func."""
    function, theta = flat_loss(point.model, point.loss, point.data)
    return torch.func.grad(function)(theta), torch.linalg.eigvalsh(dense_hessian(function)(theta))


def check(point):
    """The point is critical, its counts and eigenvalues are right; the rounding is that of values up to 100."""
    gradient, values = dense(point)
    assert gradient.norm() < 1e-13
    found = tuple(int(x) for x in ((values < -1e-9).sum(), (values.abs() <= 1e-9).sum(), (values > 1e-9).sum()))
    assert found == point.counts, point.name
    if point.eigenvalues is not None:
        assert torch.allclose(values, point.eigenvalues, atol=1e-12 * max(1, float(values.abs().max())))


# counts


def test_nothing_is_drawn_from_the_global_stream():
    before = torch.get_rng_state()
    catalogue()
    teacher_run(steps=(0, 1), generator=seeded())
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", POINTS)
def test_the_catalogue_is_right(name):
    check(POINTS[name])


@pytest.mark.parametrize("method", ["exact", "lanczos"])
@pytest.mark.parametrize("name", POINTS)
def test_counts_run_on_it(name, method):
    counts = count_eigenvalues(POINTS[name].hessian(), threshold=1e-4, method=method)
    for known, interval in zip(POINTS[name].counts, (counts.negative, counts.near_zero, counts.positive), strict=True):
        assert known in interval


@pytest.mark.parametrize("objective", [one_vector, reconstruction, pair_sum])
def test_tensors_with_equal_components(objective):
    for dimension in (2, 3, 4):
        for support in range(1, dimension + 1):
            for vectors in (1,) if objective is one_vector else (2, 3, 4):
                check(equal_components(objective, vectors, dimension, support))


def test_tensor_solutions():
    for dimension in (2, 3, 5):
        check(decomposition(pair_sum, dimension))
        check(decomposition(reconstruction, dimension))


def angles(*values):
    return torch.tensor([[math.cos(a), math.sin(a)] for a in values], dtype=F64)


def test_reconstruction_is_not_strict_saddle_and_the_pair_sum_of_two_is():
    for t, e in ((0.0, 0.0), (0.3, 0.1), (-0.7, 0.4), (0.2, -0.05)):
        s, turn = math.sin(4 * e), 1 - math.cos(4 * t)
        value = reconstruction(angles(math.pi / 8 + t + e, -math.pi / 8 + t - e)).item()
        assert value == pytest.approx(1.5 - s * turn + s**2 / 2, abs=1e-14)
        assert pair_sum(angles(t, e)).item() == pytest.approx(1 + math.cos(2 * t) * math.cos(2 * e), abs=1e-14)
    point = POINTS["reconstruction, 2 at +-pi/8"]
    check(point)
    assert visit_point(point).clause(alpha=1e-12, gamma=1e-12, epsilon=1e-12) == "none"
    values = torch.linalg.eigvalsh(
        dense_hessian(lambda a: 1 + torch.cos(2 * a).prod())(torch.full((2,), math.pi / 4, dtype=F64))
    )
    assert values.tolist() == pytest.approx([-4, 4])


def test_objectives_are_those_of_the_tensor():
    u = nn.functional.normalize(torch.randn(3, 4, generator=seeded(), dtype=F64), dim=1)
    identity = torch.eye(4, dtype=F64)
    tensor = torch.einsum("ka,kb,kc,kd->abcd", *[identity] * 4)
    powers = torch.einsum("ia,ib,ic,id->iabcd", *[u] * 4)
    values = torch.einsum("abcd,ia,ib,jc,jd->ij", tensor, u, u, u, u)
    assert reconstruction(u).item() == pytest.approx((tensor - powers.sum(0)).square().sum().item(), rel=1e-13)
    assert pair_sum(u).item() == pytest.approx((values.sum() - values.diagonal().sum()).item(), rel=1e-13)
    assert one_vector(u[:1]).item() == pytest.approx(-values[0, 0].item(), rel=1e-13)


def test_two_layer_linear_nets_at_every_balanced_point():
    sigma = (3.0, 2.0, 1.0)
    for width in (1, 2, 4):
        for p in range(min(width, 3) + 1):
            for kept in combinations(range(3), p):
                point = two_layer_point(sigma, width, kept)
                check(point)
                best = kept == tuple(range(min(width, 3)))
                assert point.is_lowest() == best
                assert (point.counts[0] == 0) == best


def test_deep_linear_nets_at_the_origin():
    for widths in ([2, 2], [3, 1, 2]):
        check(origin((3.0, 2.0), widths))


@pytest.mark.parametrize(
    ("inputs", "rank", "hidden", "outputs"),
    [
        (5, 5, [3], 4),
        (5, 5, [6], 4),
        (6, 2, [4], 4),
        (5, 5, [3, 4], 4),
        (5, 5, [7, 6], 3),
        (6, 3, [4, 5], 4),
        (4, 4, [2, 6, 2], 5),
        (6, 6, [3, 4, 5], 4),
    ],
)
def test_the_rank_of_deep_linear_nets(inputs, rank, hidden, outputs):
    generator = seeded(1)
    x = torch.randn(40, rank, generator=generator, dtype=F64) @ torch.randn(
        rank, inputs, generator=generator, dtype=F64
    )
    y = torch.randn(40, outputs, generator=generator, dtype=F64)
    function, theta = flat_loss(linear_net([inputs, *hidden, outputs]), half_squared_error, (x, y))
    generic = torch.randn(len(theta), generator=generator, dtype=F64) / 2
    values = torch.linalg.eigvalsh(dense_hessian(function)(generic)).abs()
    assert int((values > 1e-11 * values.max()).sum()) == generic_rank(rank, hidden, outputs)


# surfaces


def test_the_plateau_is_smooth_and_flat():
    for joint in (0.0, 2.0, 3.0):
        sides = torch.tensor([[joint - 1e-7, 0.3], [joint, 0.3], [joint + 1e-7, 0.3]], dtype=F64)
        hessians = torch.func.vmap(dense_hessian(plateau))(sides)
        assert torch.allclose(hessians, hessians[1].expand(3, 2, 2), atol=1e-6)  # |h'''| <= 4
    flat = torch.tensor([[x, 0.0] for x in (2.0, 2.3, 3.0)], dtype=F64)
    assert torch.allclose(plateau(flat), torch.full((3,), 1 / 3, dtype=F64), rtol=1e-15)
    assert not torch.func.vmap(torch.func.grad(plateau))(flat).any()


def test_gradient_descent_stops_on_the_plateau():
    for method in ("gradient descent", "momentum", "saddle-free Newton"):
        end = trajectory(plateau, (4.0, 2.0), method, steps=800)[-1]
        assert 2 <= end[0] < 3.1
        assert plateau(end).item() == pytest.approx(1 / 3, abs=1e-4)


def test_surfaces_have_no_other_critical_point_than_known():
    # the gradient of each vanishes on a grid of mesh 0.25 at the listed points alone
    x = torch.arange(-6, 6.25, 0.25, dtype=F64)
    grid = torch.cartesian_prod(x, x)
    zeros = {"classical saddle": [[0, 0]], "monkey saddle": [[0, 0]], "handkerchief": [[-4, 0], [0, 0]]}
    for name, known in zeros.items():
        slopes = torch.func.vmap(torch.func.grad(SURFACES[name]))(grid)
        assert grid[slopes.norm(dim=1) == 0].tolist() == known


# neuron splitting


@pytest.mark.parametrize("share", [-0.5, 0.0, 0.3, 1.0, 1.5])
@pytest.mark.parametrize(("units", "features", "samples"), [(1, 1, 10), (1, 2, 20), (2, 2, 40), (3, 3, 60)])
def test_the_inertia_of_a_split_unit(share, units, features, samples):
    for seed in range(3):
        net = small_net(units=units, features=features, samples=samples, generator=seeded(seed))
        gradient, values = dense(split(net, share))
        limit = 1e-9 * float(values.abs().max())
        found = ((values < -limit).sum(), (values.abs() <= limit).sum(), (values > limit).sum())
        assert tuple(map(int, found)) == split(net, share).counts
        assert gradient.norm() < 1e-13
        assert int(found[0]) == (features if share * (1 - share) < 0 else 0)


def test_the_sign_of_d_turns_the_segment_into_saddles():
    net = small_net(residual=0.02, generator=seeded(1))
    other = replace(net, residuals=-net.residuals, curvature=-net.curvature)
    for share in (0.5, 1.5):
        kinds = []
        for which in (net, other):
            values = dense(split(which, share))[1]
            assert (
                tuple(map(int, ((values < -1e-9).sum(), (values.abs() <= 1e-9).sum())))
                == split(which, share).counts[:2]
            )
            kinds.append(split(which, share).kind)
        assert sorted(kinds) == ["degenerate minimum", "strict saddle"]


def test_d_and_the_loss_are_what_the_net_says():
    net = small_net(units=2, features=3, samples=40, residual=0.7, generator=seeded())
    assert net.loss == pytest.approx(0.7**2 / 2)
    for unit in range(2):
        w, a = net.weights[unit], net.outputs[unit]
        second = torch.func.vmap(dense_hessian(lambda w, x, a=a: a * torch.tanh(w @ x)), (None, 0))(w, net.inputs)
        d = (net.residuals[:, None, None] * second).mean(0)
        assert torch.allclose(d, net.curvature * torch.eye(3, dtype=F64), atol=1e-13)


def test_inside_the_segment_nothing_near_is_lower_and_beyond_it_something_is():
    for share, lower in ((0.3, False), (1.5, True)):
        point = split(example_net(), share)
        function, theta = flat_loss(point.model, point.loss, point.data)
        ways = torch.randn(2000, len(theta), generator=seeded(), dtype=F64)
        values = torch.func.vmap(function)(theta + 1e-3 * ways / ways.norm(dim=1, keepdim=True))
        assert bool((values < function(theta) - 1e-14).any()) == lower


def test_a_path_leads_out_without_rising():
    net = example_net()
    path = exit_path(net, descent=60)
    flat, beyond = path.losses[: path.flat], torch.from_numpy(path.parameters[path.flat - 1 :])
    assert np.abs(flat - net.loss).max() < 1e-14
    function, _ = flat_loss(split(net, 1.5).model, half_squared_error, (net.inputs, net.targets))
    parts = torch.linspace(0, 1, 33, dtype=F64)[:, None]
    for a, b in pairwise(beyond):
        assert torch.func.vmap(function)(a + parts * (b - a)).diff().max() < 1e-15
    assert path.losses[-1] < 0.85 * net.loss


# escapes


def test_gradient_descent_leaves_when_theory_says():
    point, model = POINTS["classical saddle"], Surface(SURFACES["classical saddle"], (0, 0))
    displace(model, 1e-3, Streams(seeded(4)).split("start", "method")["start"])
    x, y = model.point.tolist()
    assert math.hypot(x, y) == pytest.approx(1e-3)
    # x <- (1 - 2 eta) x, y <- (1 + 2 eta) y, eta = 0.02; left once x^2 - y^2 < -0.1
    steps = next(t for t in range(1000) if (0.96**t * x) ** 2 - (1.04**t * y) ** 2 < -0.1)
    run = escape(point, "gradient descent", distance=1e-3, limit=1000, generator=seeded(4))
    assert (run.steps, run.spent) == (steps, steps)


STRICT = ["classical saddle", "handkerchief, saddle", "tensor, one at 10 of 10", "linear net 3-2-3, origin"]
WEAKEST = "split unit, l = 1.5"


def test_only_noise_leaves_a_strict_saddle_itself():
    for run in escapes([POINTS[name] for name in STRICT], distance=0.0, limit=600):
        assert (run.steps is not None) == (run.method in ("noisy SGD", "perturbed GD")), run


@pytest.mark.parametrize("names", [STRICT, pytest.param([WEAKEST], marks=pytest.mark.slow)])
def test_every_method_leaves_from_beside_a_strict_saddle(names):
    for run in escapes([POINTS[name] for name in names], distance=1e-3, limit=600):
        assert run.steps is not None, run
        assert run.steps <= 15 or run.method != "saddle-free Newton"


def test_nothing_leaves_a_degenerate_local_minimum_of_a_net():
    for run in escapes([POINTS["split unit, l = 0.5"]], distance=1e-3, limit=400):
        assert run.steps is None, run
    ended = escape(POINTS["plateau"], "perturbed GD", distance=0.0, limit=4000, generator=seeded())
    assert (ended.steps, ended.spent) == (None, WAIT)  # after the perturbation of step 0


def test_perturbed_descent_waits_for_the_weakest_negative_curvature():
    steepest = {name: -dense(point)[1][0].item() for name, point in POINTS.items() if point.kind == "strict saddle"}
    assert min(steepest, key=steepest.get) == WEAKEST
    gamma = steepest[WEAKEST]
    assert gamma == pytest.approx(0.093, abs=1e-4)
    assert (1 + STEP * gamma) ** WAIT > 100  # a hundredth of the radius has become more than the radius
    assert gamma * RADIUS**2 / 2 < DECREASE  # nothing in the ball is that low
    # the analysis asks for more, at least 12 / (eta gamma) where sqrt(rho epsilon) = gamma
    strict = jin_constants(dimension=6, smoothness=1 / STEP, hessian_lipschitz=1, epsilon=gamma**2, gap=0.5)
    assert strict.step == STEP
    assert strict.wait > 12 / (STEP * gamma) > 2 * WAIT
    assert strict.wait == pytest.approx(27_137, abs=1)
    assert strict.radius == pytest.approx(7e-8, rel=0.05)


@pytest.mark.slow
def test_few_perturbations_at_the_weakest_strict_saddle_fail_the_check_after_the_wait():
    point = POINTS[WEAKEST]
    function, theta = flat_loss(point.model, point.loss, point.data)
    slopes, values = (torch.func.vmap(f) for f in (torch.func.grad(function), function))
    generator = seeded(1)
    thetas = theta + torch.stack([uniform_in_ball(len(theta), RADIUS, generator) for _ in range(1000)])
    failed = {}
    for step in range(WAIT + 1):
        if step in (300, 1000, WAIT):
            failed[step] = (values(thetas) - point.value() > -DECREASE).double().mean().item()
        thetas -= STEP * slopes(thetas)
    # 0.993, 0.237 and 0.002 of 20,000; 4 standard errors of 1000 draws are 0.011, 0.054, 0.006
    assert failed[300] > 0.98
    assert 0.18 < failed[1000] < 0.3
    assert failed[WAIT] <= 0.008


@pytest.mark.slow
def test_perturbed_descent_leaves_the_weakest_strict_saddle_from_any_draw():
    for run in escapes([POINTS[WEAKEST]], distance=0.0, limit=1, trials=5, methods=["perturbed GD"]):
        assert run.steps is not None, run


def test_limits_and_trials():
    points = [POINTS["classical saddle"], POINTS["plateau"]]
    runs = escapes(points, distance=0.0, limit=2, trials=3, methods=["momentum", "noisy SGD"])
    assert [run.trial for run in runs] == [0, 0, 1, 2] * 2  # nothing is random about momentum from the point itself
    # 20 / (0.02 * 2) at the saddle; no curvature is negative on the plateau
    assert [run.limit for run in runs] == [500] * 4 + [2] * 4
    assert len({run.steps for run in runs[1:4]}) > 1
    beside = escapes(points[:1], distance=1e-3, limit=2, trials=3, methods=["momentum"])
    assert len({run.steps for run in beside}) > 1
    assert runs == escapes(points, distance=0.0, limit=2, trials=3, methods=["momentum", "noisy SGD"])


def test_escapes_repeat_and_leave_the_point_alone():
    point = POINTS["tensor, one at 10 of 10"]
    before = point.value()
    one, two = (escape(point, "noisy SGD", distance=0.0, limit=800, generator=seeded(7)) for _ in range(2))
    assert one == two
    assert point.value() == before


# the strict-saddle property


def test_clauses():
    constants = {"alpha": 0.1, "gamma": 0.2, "epsilon": 0.3}
    cases = {(0.3, 0.0): "gradient", (0.2, -0.2): "curvature", (0.2, 0.1): "minimum", (0.2, 0.09): "none"}
    for (gradient, smallest), clause in cases.items():
        assert Visit(0, 1.0, gradient, smallest, 1.0).clause(**constants) == clause


def test_a_two_layer_net_refutes_the_property():
    inside = visit_point(POINTS["split unit, l = 0.5"])
    assert inside.gradient_norm < 1e-15
    assert abs(inside.smallest) < 1e-15
    assert inside.clause(alpha=1e-12, gamma=1e-12, epsilon=1e-12) == "none"
    run = teacher_run(steps=(0, 200, 600), generator=seeded())
    assert [visit.clause(alpha=1e-2, gamma=1e-2, epsilon=1e-2) for visit in run] == ["gradient", "curvature", "none"]
    assert run[0].loss > run[1].loss > run[2].loss


def test_a_strongly_convex_function_has_it():
    visit = visit_point(POINTS["plateau, minimum"])
    assert (visit.smallest, visit.largest) == (1.0, 1.0)
    assert visit.clause(alpha=0.5, gamma=0.1, epsilon=0.1) == "minimum"


# the command, and what is refused


def test_the_command_prints_and_draws(tmp_path, capsys, monkeypatch):
    few = [POINTS["plateau, minimum"], POINTS["classical saddle"]]
    monkeypatch.setattr(landscape_report, "catalogue", lambda: few)
    monkeypatch.setattr(landscape_report, "TRIALS", 3)
    monkeypatch.setattr(landscape_report, "teacher_run", partial(teacher_run, steps=(0, 20)))
    monkeypatch.setattr(landscape_report, "exit_path", partial(exit_path, flat=3, descent=3))
    monkeypatch.setattr(landscape_report, "STARTS", {"plateau": landscape_report.STARTS["plateau"]})
    folder, record = tmp_path / "figures", tmp_path / "found.json"
    assert main(["landscapes", "--output", f"{folder}/", "--limit", "100", "--json", str(record)]) == 0
    out = capsys.readouterr().out
    assert out.count(" agree ") == 2
    assert "DIFFER" not in out
    assert sorted(p.name for p in folder.iterdir()) == ["exit-path.png", "strict-saddle.png", "surfaces.png"]
    found = json.loads(record.read_text())
    # the minimum is the lowest point, nothing to leave for; three trials from beside, and of the two random methods
    assert len(found["escapes"]) == (5 + 2 * 3) + 3 * len(METHODS)
    assert found["exit_path"]["largest_rise"] < 1e-14
    assert main(["landscapes", "--limit", "0"]) == 2


def test_a_cell_is_the_median_and_the_range():
    left, late, ended = (
        partial(Escape, "p", "m", 0.0, steps=steps, spent=spent, limit=9)
        for steps, spent in ((7, 7), (None, 9), (None, 3))
    )
    cells = {
        "7": [left()],
        "-": [late()],
        "=": [ended(), ended(), ended()],
        "7 (5 to 8)": [left(steps=8), left(), left(steps=5)],
        "7 (7 to -)": [late(), left(), left()],
        "- (7 to -)": [late(), left(), late()],
    }
    for text, runs in cells.items():
        assert cell(runs) == text


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: escapes([POINTS["plateau"]], distance=0.0, limit=1, trials=0), "trials must be at least 1; got 0"),
        (lambda: equal_components(pair_sum, 2, 3, 4), "support must be between 1 and the dimension 3; got 4"),
        (lambda: equal_components(one_vector, 2, 3, 2), "one_vector takes one vector; got 2"),
        (lambda: decomposition(one_vector, 3), "the decomposition is a minimum of"),
        (lambda: two_layer_point((1.0, -1.0), 2, []), "singular values must be positive"),
        (lambda: two_layer_point((1.0, 2.0), 1, [0, 1]), "at most 1 different indices below 2"),
        (lambda: origin((1.0,), [2]), "two or more hidden layers"),
        (lambda: small_net(samples=6, generator=seeded()), "samples must be more than the 6 conditions"),
        (lambda: exit_path(example_net(), start=1.0), "0 < start < 1 < end"),
        (lambda: exit_path(example_net(), flat=1), "flat >= 2 points"),
        (lambda: origin((0.0, 1.0), [2, 2]), "positive and finite"),
        (
            lambda: escape(POINTS["plateau"], "newton", distance=0.0, limit=1, generator=seeded()),
            "method must be one of gradient descent, momentum",
        ),
        (
            lambda: escape(POINTS["plateau"], "adam", distance=-1.0, limit=1, generator=seeded()),
            "a distance of at least 0",
        ),
    ],
)
def test_what_cannot_be_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_left_below_is_a_tenth_of_the_way():
    assert POINTS["plateau"].left_below() == pytest.approx(0.9 / 3)
    assert POINTS["monkey saddle"].left_below() == pytest.approx(-0.1)
    assert mean_loss(POINTS["plateau"].model, POINTS["plateau"]).item() == pytest.approx(1 / 3)
