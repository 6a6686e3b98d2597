"""Classification against closed forms and dense float64 eigenvalues: what holds, what fails, what nobody can tell."""

import math
from dataclasses import replace

import pytest
import torch
from matrices import seeded
from torch import nn

from lanczos_saddle import GaussNewton, Hessian, check_operator, classify, count_eigenvalues, exact_eigenvalues
from lanczos_saddle.certificates.intervals import Interval
from lanczos_saddle.classification.definitions import Constants, Facts, Verdict, judge, strict_clauses
from lanczos_saddle.classification.directions import certified_direction, end_vectors
from lanczos_saddle.classification.lipschitz import hessian_variation
from lanczos_saddle.networks.problem import Problem
from lanczos_saddle.operators.prescribed import PrescribedSpectrum
from lanczos_saddle.structure.facts import KINKED, kinked, nonnegative_loss
from lanczos_saddle.studies.landscapes.catalogue import catalogue
from lanczos_saddle.studies.landscapes.critical_points import surface_point
from lanczos_saddle.training.datasets import digits
from lanczos_saddle.training.networks import mlp

F64 = torch.float64
POINTS = {point.name: point for point in catalogue()}


def answers(found):
    return {name: verdict.answer for name, verdict in found.verdicts.items()}


def by_signs(negative, zero, positive):
    """What the definitions by signs must say of a critical point of known inertia, each rule written out once more."""
    if zero == 0:
        kind = "minimum" if negative == 0 else "maximum" if positive == 0 else "saddle"
        expected = {name: "holds" if name == kind else "fails" for name in ("minimum", "maximum", "saddle")}
    else:
        expected = {
            "minimum": "fails" if negative else "undecided",
            "maximum": "fails" if positive else "undecided",
            "saddle": "holds" if negative and positive else "undecided",
        }
    expected["critical"] = "holds"
    expected["minimum_up_to_tau"] = "fails" if negative else "holds"
    expected["degenerate"] = "holds" if zero else "fails"
    expected["degenerate_saddle"] = expected["saddle"] if zero else "fails"
    return expected


STRICT = {
    "minimum": "undecided",  # strong convexity in a ball needs more than the Hessian at one point
    "maximum": "holds",
    "degenerate maximum": "holds",
    "strict saddle": "holds",
    "degenerate minimum": "fails",
    "saddle without negative curvature": "fails",
}


@pytest.mark.parametrize("point", POINTS.values(), ids=POINTS.keys())
def test_known_critical_points_are_classified_by_their_inertia(point):
    found = classify(point.hessian(), threshold=1e-6, lowest=point.lowest, compare_hessians=False)
    expected = by_signs(*point.counts) | {"strict": STRICT[point.kind]}
    assert {name: answers(found)[name] for name in expected} == expected
    assert all(verdict.confidence == 1 for verdict in found.verdicts.values())
    assert found.gradient_norm < 1e-14
    assert found.value == pytest.approx(point.value(), rel=1e-14)
    assert "N = " in str(found)
    assert "degenerate saddle" in str(found)


def test_second_derivatives_cannot_tell_a_monkey_saddle():
    for tau in (1e-8, 1.0):
        found = classify(POINTS["monkey saddle"].hessian(), threshold=tau, lowest=-math.inf)
        assert answers(found)["saddle"] == answers(found)["minimum"] == answers(found)["maximum"] == "undecided"
        assert answers(found)["degenerate"] == "holds"
        assert answers(found)["strict"] == "fails"


def spectrum(kind, tau):
    """500 eigenvalues and their counts at tau, by construction."""
    small = torch.linspace(-0.3, 0.3, 300, dtype=F64) * tau
    large = torch.linspace(2 * tau, 1.0, 199, dtype=F64)
    last = torch.tensor([-1.5 * tau], dtype=F64)
    return {
        "one at -1.5 tau": torch.cat([small, large, last]),
        "minimum": torch.cat([large, 2 + large, -last]),
        "maximum": -torch.cat([large, 2 + large, -last]),
        "flat": torch.cat([small, large]),
    }[kind]


@pytest.mark.parametrize("method", ["exact", "lanczos"])
@pytest.mark.parametrize("kind", ["one at -1.5 tau", "minimum", "maximum", "flat"])
def test_prescribed_spectra(kind, method):
    tau = 1e-2
    operator = PrescribedSpectrum(spectrum(kind, tau), seeded(1))
    run = {"probes": 4, "steps": 200, "precision": 1e-5} if method == "lanczos" else {}
    found = classify(operator, threshold=tau, gradient_norm=0.0, method=method, **run)
    expected = by_signs(*operator.count(tau))
    assert {name: answers(found)[name] for name in expected} == expected
    values = operator.eigenvalues
    assert found.smallest[0] <= values.min() <= found.smallest[1]
    assert found.largest[0] <= values.max() <= found.largest[1]
    assert operator.count(tau)[0] in found.counts.negative
    # "flat" has nothing below -tau and no convexity: it refutes the property, for all that a sampled run knows, too
    assert found.strict.answer == {"minimum": "undecided", "flat": "fails"}.get(kind, "holds")


def test_a_direction_proves_a_single_negative_eigenvalue_without_chance():
    tau = 1e-2
    operator = PrescribedSpectrum(spectrum("one at -1.5 tau", tau), seeded(1))
    found = classify(operator, threshold=tau, gradient_norm=0.0, probes=1, steps=20)
    assert found.counts.negative.lower == 1
    assert found.minimum == Verdict("fails", found.minimum.because, 1.0)
    dense, v = operator @ torch.eye(500, dtype=F64), found.lowest_direction.vector
    quotient = float(v @ dense @ v / (v @ v))
    assert quotient < -tau
    assert abs(quotient - found.lowest_direction.quotient) <= found.lowest_direction.error
    residual = float(torch.linalg.vector_norm(dense @ v - quotient * v))
    assert residual == pytest.approx(found.lowest_direction.residual, rel=1e-6)
    within = residual + found.lowest_direction.error
    assert ((operator.eigenvalues - quotient).abs() <= within).any()


def test_too_short_a_search_is_undecided_not_wrong():
    tau = 1e-2
    operator = PrescribedSpectrum(spectrum("one at -1.5 tau", tau), seeded(1))
    found = classify(operator, threshold=tau, gradient_norm=0.0, probes=1, steps=5, search_steps=5)
    assert found.smallest[1] > -tau
    assert answers(found)["minimum_up_to_tau"] == answers(found)["saddle"] == "undecided"


def test_what_a_direction_shows_overrides_counts_that_missed_it():
    tau = 1e-2
    operator = PrescribedSpectrum(spectrum("one at -1.5 tau", tau), seeded(1))
    counts = count_eigenvalues(operator, threshold=tau, probes=4, steps=60)
    missed = replace(counts, negative=Interval(0, 0.0, 0))  # one run in twenty may
    found = classify(operator, counts=missed, gradient_norm=0.0)
    assert found.counts.negative.lower == 1
    assert answers(found)["minimum_up_to_tau"] == "fails"


def test_a_direction_within_tau_overrides_counts_that_took_its_eigenvalue_for_positive():
    tau = 1e-2
    values = torch.cat([torch.tensor([tau / 2], dtype=F64), torch.linspace(0.5, 1, 99, dtype=F64)])
    operator = PrescribedSpectrum(values, seeded(1))
    counts = count_eigenvalues(operator, threshold=tau, probes=4, steps=30, method="lanczos")
    none, every = Interval(0, 0.0, 0), Interval(100, 100.0, 100)
    missed = replace(counts, negative=none, near_zero=none, positive=every)  # one run in twenty may
    for sign, side in ((1, "minimum"), (-1, "maximum")):
        turned = PrescribedSpectrum(sign * values, seeded(1))
        given = missed if sign == 1 else replace(missed, negative=every, positive=none)
        found = classify(turned, counts=given, gradient_norm=0.0)
        assert answers(found)[side] == "undecided"
        assert answers(found)["degenerate"] != "fails"
        assert found.smallest[0] <= values.mul(sign).min() <= found.smallest[1]
        assert found.largest[0] <= values.mul(sign).max() <= found.largest[1]


@pytest.mark.parametrize("noise", [1e-12, 1e-10])
def test_noise_of_products_enters_the_certificate(noise):
    """A product that is off by `noise`, neither linear nor symmetric: the quotient's error covers it."""
    size, tau = 200, 1e-2
    dense = torch.diag(torch.linspace(-1.02 * tau, 1, size, dtype=F64))
    flat = torch.full((size,), 1 / math.sqrt(size), dtype=F64)

    class Noisy:
        shape, dtype, device = (size, size), F64, torch.device("cpu")

        def __matmul__(self, v):
            signs = torch.sign(v * 1e6 - (v * 1e6).round())
            return dense @ v + noise * signs * (torch.linalg.vector_norm(v, dim=0) / math.sqrt(size))

    check = check_operator(Noisy())
    low, high, _ = end_vectors(Noisy(), seeded(), steps=200)
    for vector in (low, high, flat):
        found = certified_direction(Noisy(), vector, check)
        true = float(found.vector @ dense @ found.vector)
        assert abs(found.quotient - true) <= found.error
        assert found.error < 10 * noise


def cubic(slope=0.0):
    """(1 + x^2/2 ... ) + c x_1^3 / 6, whose Hessian diag(lambda + c x_1 e_1) has the Lipschitz constant c exactly."""
    values = torch.tensor([1.0, 2.0, 3.0], dtype=F64)

    def function(p):
        return 1 + (values * p.square()).sum() / 2 + 0.5 * p[0] ** 3 / 6 + slope * p[0]

    return surface_point("cubic", "minimum", function, (0, 0, 0), values, 0.0)


def test_differences_of_hessians_bound_the_lipschitz_constant_from_below():
    hessian = cubic().hessian()
    check = check_operator(hessian)
    seen = hessian_variation(hessian, torch.eye(3, dtype=F64), check)
    assert seen.at_least == pytest.approx(0.5, rel=1e-10)
    assert seen.at_least <= 0.5
    assert seen.ratios == pytest.approx([0.5] * 3, rel=1e-10)
    blind = hessian_variation(hessian, torch.eye(3, dtype=F64)[:, 1:], check)  # H does not change that way
    assert blind.at_least == 0.0
    found = classify(hessian, threshold=0.1)
    assert 0.1 < found.variation.at_least <= 0.5


@pytest.mark.parametrize("rho", [0.3, 0.6, 0.7, 1.2, 1.4, 1.7, 1.8, 1.9])
def test_rounding_refutes_no_tight_rho(rho):
    """H(p) = rho diag(p), zero at the point: nothing but the rounding of ratios is left."""
    function = lambda p: 1 + rho * (p**3).sum() / 6  # noqa: E731
    hessian = surface_point("cubic", "saddle", function, (0, 0, 0), (0, 0, 0), -math.inf).hessian()
    seen = hessian_variation(hessian, torch.eye(3, dtype=F64), check_operator(hessian))
    assert rho * (1 - 1e-8) < seen.at_least <= rho


def test_products_that_overflow_refute_no_rho():
    """log cosh, whose third derivative is less than 1, by a formula that gives NaN beyond 1.09."""
    function = lambda p: 1 + (p.exp() + (-p).exp()).log().sum() + 0 * (650 * p).exp().sum()  # noqa: E731
    hessian = surface_point("log cosh", "minimum", function, (0, 1), (0.4, 1), 0.0).hessian()
    seen = hessian_variation(hessian, torch.eye(2, dtype=F64), check_operator(hessian))
    assert 0 < seen.at_least < 1


def test_strong_convexity_near_a_minimum_from_a_given_rho():
    slope, alpha, radius, rho = 0.01, 0.5, 0.1, 0.5
    point = cubic(slope)
    asked = {"threshold": 0.1, "epsilon": 0.1, "radius": radius, "rho": rho}
    found = classify(point.hessian(), alpha=alpha, **asked)
    assert found.strict.answer == "holds"
    assert "minimum clause" in found.strict.because
    # the clause itself, by closed form: the minimum solves x + x^2 / 4 + slope = 0; curvature there is 1 + x / 2
    minimum = -2 + math.sqrt(4 - 4 * slope)
    assert abs(minimum) <= radius
    assert 1 + (minimum - 2 * radius) / 2 >= alpha
    # the largest alpha that is so certified is no larger than the true one, and close to it
    true = 1 + (minimum - 2 * radius) / 2
    assert classify(point.hessian(), alpha=true * 1.001, **asked).strict.answer == "undecided"
    assert classify(point.hessian(), alpha=true * 0.97, **asked).strict.answer == "holds"
    # without a proved rho, and with a minimum that may lie farther than the radius
    assert classify(point.hessian(), alpha=alpha, **(asked | {"rho": None})).strict.answer == "undecided"
    assert classify(point.hessian(), alpha=alpha, **(asked | {"radius": 0.01})).strict.answer == "undecided"


def test_a_rho_that_was_refuted_proves_no_convexity():
    asked = {"threshold": 0.1, "epsilon": 0.1, "radius": 0.1, "alpha": 0.5}
    found = classify(cubic().hessian(), rho=0.01, **asked)  # it is 0.5
    assert found.variation.at_least > 0.01
    assert found.strict.answer == "undecided"
    assert "> rho = 0.01" in found.strict.because
    assert classify(cubic().hessian(), rho=0.5, **asked).strict.answer == "holds"


def test_stable_and_good_need_a_proved_rho_and_can_be_refuted():
    point = POINTS["reconstruction, all 4 at 2 of 4"]  # 10 negative, 4 zero, 2 positive; loss 6
    hessian = point.hessian()

    def verdicts(**constants):
        found = classify(hessian, threshold=1e-6, **{"lowest": 0.0, **constants})
        return found.stable.answer, found.good.answer

    value = point.value()
    assert verdicts() == ("undecided", "undecided")
    assert verdicts(rho=1e4) == ("holds", "holds")
    assert verdicts(rho=1e-3) == ("fails", "fails")
    assert verdicts(rho=1e4, kappa=12, delta=value) == ("holds", "holds")
    assert verdicts(rho=1e4, kappa=11) == ("fails", "fails")
    assert verdicts(rho=1e4, delta=0.9 * value) == ("holds", "undecided")
    assert verdicts(rho=1e4, delta=0.9 * value, lowest=0.2 * value) == ("holds", "holds")
    assert verdicts(rho=1e4, lowest=-math.inf) == ("holds", "undecided")


def test_no_loss_is_taken_for_bounded_that_is_not_known_to_be():
    """(-x^2 + 2 z^2) / 2 falls without end; rho = 0 is true of it, and proves no good saddle."""

    class Quadratic(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.x = torch.nn.Parameter(torch.zeros(3, dtype=F64))

        def forward(self, _):
            return (self.x.square() * torch.tensor([-0.5, 0.0, 1.0], dtype=F64)).sum()[None]

    def mean(outputs, targets):
        return outputs.mean() + 0 * targets.mean()

    data = torch.zeros(1, 1, dtype=F64), torch.zeros(1, dtype=F64)
    found = classify(Hessian(Quadratic(), mean, data), threshold=0.1, rho=0.0)
    assert found.stable.answer == "holds"
    assert found.good.answer == "undecided"
    smooth = small_net(activation=nn.Tanh())
    known = classify(Hessian(*smooth), threshold=1e-3, epsilon=10.0, rho=1e6)  # cross-entropy: at least 0
    assert known.good.answer == "holds"


def test_no_given_rho_serves_where_the_hessian_jumps():
    """Where a sample crosses the kink of a ReLU, its share of H comes or goes, however near."""
    asked = {"threshold": 1e-3, "epsilon": 10.0, "kappa": 30}
    hessian = Hessian(*small_net())
    assert kinked(hessian.problem) == "ReLU"
    found = classify(hessian, rho=1e6, **asked)
    assert found.stable.answer == found.good.answer == "undecided"
    assert "rho = 1e+06 as given, but ReLU has kinks" in found.stable.because
    assert "ReLU has kinks" in classify(hessian, **asked).stable.because
    assert classify(hessian, rho=1e-6, **asked).stable.answer == "fails"  # refuted all the same
    assert kinked(Hessian(*small_net(activation=nn.Softplus())).problem) is None
    model, _, (x, y) = small_net(activation=nn.Softplus())
    robust = Hessian(model, nn.HuberLoss(), (x, nn.functional.one_hot(y, 3).to(x)))
    assert kinked(robust.problem) == "HuberLoss"


ELEMENTWISE = [
    kind
    for name in sorted(nn.modules.activation.__all__)
    if (kind := getattr(nn, name)) not in (nn.MultiheadAttention, nn.GLU, nn.RReLU)  # weights, halves, random slopes
    and "oftm" not in name  # softmax and softmin couple entries
]


@pytest.mark.parametrize("kind", ELEMENTWISE, ids=lambda kind: kind.__name__)
def test_kinked_activations_are_those_whose_second_derivatives_jump(kind):
    """Third differences over h^2 vanish with h where the second derivative is continuous; at a jump they do not."""
    module = kind(1.0, 0.0) if kind is nn.Threshold else kind()
    h = 1e-3
    with torch.no_grad():
        values = module.to(F64)(torch.arange(-4000 - 0.5, 4000, dtype=F64) * h)
    jump = float(values.diff(n=3).abs().max()) / h**2
    assert (jump > 0.1) == (kind in KINKED), jump
    assert not 0.02 < jump < 0.1  # far from undecided


@pytest.mark.parametrize(
    ("loss", "targets", "known"),
    [
        (torch.nn.MSELoss(), torch.randn(4, 2), True),
        (torch.nn.functional.cross_entropy, torch.tensor([0, 1, 1, 0]), True),
        (torch.nn.CrossEntropyLoss(), -torch.rand(4, 2), False),
        (torch.nn.BCEWithLogitsLoss(), torch.full((4, 2), 3.0), False),  # convex, and negative somewhere
        (lambda outputs, targets: ((outputs - targets) ** 2).mean(), torch.randn(4, 2), False),  # is, but who knows
    ],
)
def test_losses_that_are_known_to_be_nonnegative(loss, targets, known):
    assert nonnegative_loss(Problem(torch.nn.Linear(3, 2), loss, (torch.randn(4, 3), targets))) == known


def small_net(dtype=F64, scale=1.0, activation=None):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 4), activation or nn.ReLU(), nn.Linear(4, 3)).to(dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(scale)
    return model, nn.CrossEntropyLoss(), (torch.randn(30, 5, dtype=dtype), torch.randint(0, 3, (30,)))


def test_a_hessian_moves_to_other_parameters_whatever_it_keeps():
    hessian = Hessian(*small_net())
    v = torch.randn(hessian.shape[0], 3, dtype=F64, generator=seeded())
    before = hessian @ v
    moved = hessian.at(1.5 * hessian.problem.theta)
    torch.testing.assert_close(moved @ v, Hessian(*small_net(scale=1.5)) @ v, rtol=1e-12, atol=1e-14)
    assert torch.equal(hessian @ v, before)
    with pytest.raises(ValueError, match="multiplies shapes"):
        hessian.at(torch.zeros(3, dtype=F64))


def test_away_from_critical_points_signs_are_reported_and_no_definition_by_signs_holds():
    found = classify(Hessian(*small_net()), relative_threshold=1e-3)
    problem = Hessian(*small_net()).problem
    assert found.gradient_norm == float(problem.gradient().norm()) > 1e-3
    assert found.strict.answer == "holds"
    assert found.counts.negative.lower > 0
    others = {name: answer for name, answer in answers(found).items() if name != "strict"}
    assert set(others.values()) == {"fails"}


def test_a_float32_hessian_is_certified_in_float64():
    hessian = Hessian(*small_net(torch.float32))
    found = classify(hessian, relative_threshold=1e-2, method="lanczos", probes=2, steps=20)
    values = exact_eigenvalues(hessian)
    assert found.smallest[1] >= values[0]
    assert found.smallest[1] == pytest.approx(float(values[0]), rel=1e-4)
    assert found.gradient_norm == pytest.approx(float(hessian.problem.to(F64).gradient().norm()), rel=1e-12)


def test_without_a_gradient_only_what_needs_none_is_decided():
    matrix = torch.diag(torch.tensor([-1.0, 0.0, 2.0], dtype=F64))
    unknown = answers(classify(matrix, threshold=0.1))
    assert unknown["strict"] == "holds"
    assert unknown["minimum"] == unknown["maximum"] == "fails"
    for name in ("critical", "saddle", "degenerate", "degenerate_saddle", "stable", "good"):
        assert unknown[name] == "undecided"
    known = answers(classify(matrix, threshold=0.1, gradient_norm=0.0, value=0.3, rho=1.0, lowest=0.0))
    for name in ("critical", "saddle", "degenerate", "degenerate_saddle", "stable", "good"):
        assert known[name] == "holds"


def test_the_digits_network_is_judged_by_its_exact_eigenvalues():
    """After 30 full-gradient steps: a point where every class is occupied; N = 1885."""
    data = digits()
    model = mlp([64, 25, 10], generator=seeded()).to(F64)
    inputs, targets = data.x_train[:500].to(F64), data.y_train[:500]
    loss = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.9)
    for _ in range(30):
        optimizer.zero_grad()
        loss(model(inputs), targets).backward()
        optimizer.step()
    hessian = Hessian(model, loss, (inputs, targets))
    values = exact_eigenvalues(hessian)
    tau = 1e-3 * float(values.abs().max())
    found = classify(hessian, threshold=tau, epsilon=10.0, method="lanczos", probes=4, steps=60)
    counts = [int((values < -tau).sum()), int((values.abs() <= tau).sum()), int((values > tau).sum())]
    wanted = by_signs(*counts)
    got = answers(found)
    assert {name: got[name] for name in wanted} == wanted
    assert found.smallest[1] == pytest.approx(float(values[0]), rel=1e-5)
    assert found.largest[0] == pytest.approx(float(values[-1]), rel=1e-8)
    assert found.degenerate.confidence == 0.95
    assert found.saddle.confidence == 1.0


def facts(negative, near_zero, positive, **others):
    """Intervals (lower, upper) of N = 10, nothing else known of the spectrum."""
    spans = [Interval(a, (a + b) / 2, b) for a, b in (negative, near_zero, positive)]
    known = {
        "confidence": 0.95,
        "smallest": (-math.inf, math.inf),
        "largest": (-math.inf, math.inf),
        "gradient_norm": 0.0,
        "value": 1.0,
        "variation": None,
    }
    return Facts(10, 0.1, *spans, **(known | others))


PLAIN = Constants(1e-3, None, None, None, None, None, None, 0.0)


@pytest.mark.parametrize(
    ("intervals", "expected"),
    [
        (((0, 0), (0, 0), (10, 10)), {"minimum": "holds", "saddle": "fails", "degenerate": "fails"}),
        (((0, 0), (0, 2), (8, 10)), {"minimum": "undecided", "minimum_up_to_tau": "holds", "saddle": "undecided"}),
        (((0, 1), (0, 2), (8, 10)), {"minimum": "undecided", "minimum_up_to_tau": "undecided", "saddle": "undecided"}),
        (((1, 3), (0, 2), (6, 9)), {"minimum": "fails", "saddle": "holds", "degenerate_saddle": "undecided"}),
        (((1, 3), (1, 2), (6, 8)), {"saddle": "holds", "degenerate_saddle": "holds"}),
        (((10, 10), (0, 0), (0, 0)), {"maximum": "holds", "saddle": "fails", "minimum": "fails"}),
    ],
)
def test_intervals_decide_only_what_they_exclude(intervals, expected):
    found = judge(facts(*intervals), PLAIN)
    assert {name: found[name].answer for name in expected} == expected
    decided = {found[name].confidence for name in expected if found[name].answer != "undecided"}
    assert decided <= {0.95}


def test_the_reasons_say_what_is_certified_and_nothing_more():
    found = judge(facts((0, 0), (6, 8), (2, 4)), PLAIN)
    assert found["strict"].answer == "undecided"  # nothing is known of lambda_min but that
    known = judge(facts((0, 0), (6, 8), (2, 4), smallest=(-0.1, 0.05)), PLAIN)["strict"]
    assert known.answer == "fails"
    assert known.because.startswith("no eigenvalue below -tau, lambda_min <= 0.05 < alpha")
    assert "2 to 4 eigenvalues not within [-tau, tau], the least certified kappa = 4; rho" in found["stable"].because
    assert found["good"].because.startswith("f - min f <= 1, the least certified delta = 1; 2 to 4 eigenvalues")
    none = judge(facts((0, 4), (0, 4), (6, 9)), PLAIN)["stable"]
    assert none.answer == "undecided"
    assert "and no kappa < N is certified" in none.because
    given = judge(facts((0, 0), (6, 8), (2, 4)), replace(PLAIN, kappa=5, delta=2.0))["good"].because
    assert "kappa = 5" in given
    assert "certified" not in given


def test_nothing_is_decided_by_signs_where_the_gradient_is_not_small():
    far = judge(facts((0, 0), (0, 0), (10, 10), gradient_norm=0.1), PLAIN)
    assert {name for name, verdict in far.items() if verdict.answer != "fails"} == {"strict"}


def test_the_clauses_of_intervals():
    constants = {"alpha": 1.0, "gamma": 0.5, "epsilon": 0.1}
    assert strict_clauses(0.1, (-math.inf, 9.0), **constants)["gradient"] == "holds"
    assert strict_clauses(0.0, (-9.0, -0.5), **constants)["curvature"] == "holds"
    assert strict_clauses(0.0, (-9.0, -0.4), **constants)["curvature"] == "undecided"
    assert strict_clauses(0.0, (-0.4, 0.9), **constants) == dict.fromkeys(("gradient", "curvature", "minimum"), "fails")
    assert strict_clauses(None, (-0.4, 1.0), **constants) == {
        "gradient": "undecided",
        "curvature": "fails",
        "minimum": "undecided",
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold": 0.0}, "threshold must be positive"),
        ({"threshold": 0.1, "epsilon": 0.0}, "epsilon must be positive and finite; got 0.0"),
        ({"threshold": 0.1, "gamma": -1.0}, "gamma must be positive and finite; got -1.0"),
        ({"threshold": 0.1, "alpha": math.inf}, "alpha must be positive and finite; got inf"),
        ({"threshold": 0.1, "radius": math.nan}, "radius must be positive and finite; got nan"),
        ({"threshold": 0.1, "rho": -1.0}, "rho must be finite and at least 0; got -1.0"),
        ({"threshold": 0.1, "delta": math.nan}, "delta must be finite and at least 0; got nan"),
        ({"threshold": 0.1, "kappa": 3}, "kappa must be between 0 and N - 1 = 2; got 3"),
        ({"threshold": 0.1, "search_steps": 0}, "search_steps must be at least 1"),
        ({"threshold": 0.1, "lowest": math.nan}, "lowest must be a lower bound on the loss; got nan"),
        ({"threshold": 0.1, "value": -1.0, "lowest": 0.0}, "lower bound on the loss, which is -1.0 here; got 0.0"),
        ({"threshold": 0.1, "gradient_norm": -1.0}, "gradient_norm must be a norm"),
    ],
)
def test_refusals(options, message):
    with pytest.raises(ValueError, match=message):
        classify(torch.eye(3, dtype=F64), **options)


def test_refusals_of_what_does_not_fit_the_operator():
    with pytest.raises(ValueError, match="got the Gauss-Newton matrix"):
        classify(GaussNewton(*small_net()), threshold=0.1)
    with pytest.raises(ValueError, match="gradient_norm and value are known of a Hessian"):
        classify(Hessian(*small_net()), threshold=0.1, gradient_norm=0.0)
    counts = count_eigenvalues(torch.eye(3, dtype=F64), threshold=0.1)
    with pytest.raises(ValueError, match="counts must be of this operator, N = 4; got N = 3"):
        classify(torch.eye(4, dtype=F64), counts=counts)
    with pytest.raises(ValueError, match="counts must be of this operator; a direction shows"):
        classify(torch.diag(torch.tensor([-1.0, 1.0, 1.0], dtype=F64)), counts=counts)
    with pytest.raises(ValueError, match="counts come with their threshold"):
        classify(torch.eye(3, dtype=F64), counts=counts, threshold=0.1)
