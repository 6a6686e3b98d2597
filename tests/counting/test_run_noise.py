"""Counts from float32 products far below the noise that sample products bound; wrong noises give wrong counts."""

import pytest
import torch
from matrices import seeded, three
from scipy.stats import binom
from torch import nn

from lanczos_saddle import Hessian, count_eigenvalues, exact_eigenvalues, recount
from lanczos_saddle.certificates.cauchy import Compression
from lanczos_saddle.counting import enumeration
from lanczos_saddle.counting import run_noise as planning
from lanczos_saddle.counting.run_noise import SHARE, Measurement
from lanczos_saddle.krylov.lanczos import Lanczos
from lanczos_saddle.krylov.preflight import check_operator
from lanczos_saddle.krylov.run_error import COLUMNS, FAILURE, POWERS, SUMS, RunError
from lanczos_saddle.operators.mixed import KNOWN
from lanczos_saddle.operators.operator import FromFunction
from lanczos_saddle.operators.resolution import RESOLUTION, RunNoise, recurrence_noise

F64 = torch.float64
SIZE = 120
TAU = 1e-4
LEVEL = 1e-3


def matrix(seed, near=1e-9):
    """(N, N) float32, symmetric, of norm 1: 40 eigenvalues at +-tau as near as its entries allow, 20 large ones."""
    stream = seeded(seed)
    ends = TAU * torch.tensor([1.0, -1.0], dtype=F64).repeat_interleave(20)
    drawn = torch.rand(80, generator=stream, dtype=F64)
    large, bulk = 10 ** (-2 * drawn[:20]), 2e-2 * (drawn[20:60] - 0.4)
    large[0] = 1.0
    values = torch.cat([ends + near * torch.randn(40, generator=stream, dtype=F64), large, bulk, torch.zeros(20)])
    q = torch.linalg.qr(torch.randn(SIZE, SIZE, generator=stream, dtype=F64)).Q
    h = (q * values.to(F64)) @ q.mT
    return ((h + h.mT) / 2).float()


def counted(h, seed, **options):
    given = {"threshold": TAU, "method": "lanczos", "probes": 4, "steps": 40, "precision": 1e-6, "confidence": 0.9}
    return count_eigenvalues(h, generator=seeded(seed), **{**given, **options})


def right(h, counts, tau=TAU):
    truth = three(torch.linalg.eigvalsh(h.to(F64)).numpy(), tau)
    return all(n in found for n, found in zip(truth, (counts.negative, counts.near_zero, counts.positive), strict=True))


def coverage(seeds, **options):
    """(experiments in which all three intervals were right, of how many)."""
    kept = [right(h, counted(h, seed + 1, **options)) for seed in range(seeds) for h in [matrix(seed)]]
    return sum(kept), len(kept)


WAYS = {
    "basis": {"reorthogonalize": True},
    "no basis": {"reorthogonalize": False},
    "everything spanned": {"steps": SIZE, "probes": 1, "reorthogonalize": True},
    "enumerated": {"enumerate_negative": True},
}


@pytest.mark.parametrize("way", ["basis", "no basis"])  # all of them, in a thousand, below
def test_float32_counts_hold_as_often_as_stated(way):
    kept, of = coverage(60, **WAYS[way])
    assert binom.cdf(kept, of, 0.9) > LEVEL


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_float32_counts_hold_as_often_as_stated_in_a_thousand(way):
    kept, of = coverage(1000, **WAYS[way])
    assert binom.cdf(kept, of, 0.9) > LEVEL


def _of_another_run(measurement, run):
    """Measured as it should be, on a run of the same depth whose products were made in float64."""
    other = Lanczos(measurement._exact, torch.randn(SIZE, 1, generator=seeded(99), dtype=F64))
    other.advance(run.steps)
    *_, last = RunError(other, measurement._exact).bounds(seeded(98))
    return RunNoise(last.bound, FAILURE)


WRONG = {"no noise": lambda *_: RunNoise(1e-15, FAILURE), "of another run": _of_another_run}


@pytest.mark.parametrize("wrong", ["no noise", pytest.param("of another run", marks=pytest.mark.slow)])
def test_wrong_noises_are_found_out(wrong, monkeypatch):
    monkeypatch.setattr(Measurement, "of", WRONG[wrong])
    kept, of = coverage(60, **WAYS["everything spanned"])
    assert binom.cdf(kept, of, 0.9) < LEVEL


@pytest.mark.slow
def test_ritz_values_taken_for_a_certificate_are_found_out(monkeypatch):
    """Every vector that was found counts: some of their eigenvalues lie within rounding of -tau, on the other side."""

    def sure(vectors, *_):
        whole = torch.eye(vectors.shape[1], dtype=F64).numpy()
        return Compression(-whole, whole, 0.0, 0.0)

    monkeypatch.setattr(enumeration, "explicit_compression", sure)
    kept, of = coverage(30, **WAYS["enumerated"])
    assert binom.cdf(kept, of, 0.9) < LEVEL


def test_a_threshold_below_what_sample_products_bound_is_counted():
    h, tau = matrix(0), 2e-5
    assert RESOLUTION * recurrence_noise(check_operator(h), 40) > tau  # what was refused before
    counts = counted(h, 0, threshold=tau)
    assert right(h, counts, tau)
    assert counts.evidence.noise.measured
    assert counts.evidence.noise.failure == FAILURE
    assert counts.positive.width < SIZE / 2
    assert counts.check.noise_source == "float64"


def test_what_certainly_cannot_be_resolved_is_refused_before_the_work():
    with pytest.raises(ValueError, match=r"threshold must be at least .* 40 steps are expected to gather"):
        counted(matrix(0), 0, threshold=1e-9)
    counts = counted(matrix(0), 0)
    with pytest.raises(ValueError, match="threshold must be at least"):
        recount(counts, 1e-9)


def test_products_are_those_that_were_planned():
    for basis in (True, False):
        counts = counted(matrix(0), 0, reorthogonalize=basis)
        assert counts.spent["noise"] == 2 * KNOWN + (COLUMNS * POWERS if basis else SUMS)
        assert counts.products == sum(counts.spent.values())


def test_a_budget_that_leaves_no_room_is_spent_as_before():
    h, tau = matrix(0), 5e-3
    small = counted(h, 0, threshold=tau, max_products=200, steps=None, probes=None)
    assert "noise" not in small.spent
    assert not small.evidence.noise.measured
    large = counted(h, 0, threshold=tau, max_products=1000, steps=None, probes=None)
    assert large.evidence.noise.measured
    assert large.products <= 1000
    assert large.spent["noise"] <= 1000 // SHARE
    with pytest.raises(ValueError, match="threshold must be at least"):
        counted(h, 0, threshold=1e-5, max_products=200, steps=20, probes=2)


def test_far_above_the_noise_nothing_is_measured():
    counts = counted(matrix(0), 0, threshold=0.5)
    assert not counts.evidence.noise.measured
    assert "noise" not in counts.spent


def test_an_operator_without_a_float64_form_is_bounded_as_ever():
    h = matrix(0)
    single = FromFunction(lambda v: h @ v, SIZE, torch.float32, torch.device("cpu"))
    counts = counted(single, 0, threshold=0.05)
    assert not counts.evidence.noise.measured
    with pytest.raises(ValueError, match=r"50 times the noise that 40 steps may gather"):
        counted(single, 0, threshold=1e-5)


def test_the_chance_that_the_measurement_fails_is_taken_from_the_confidence():
    known = counted(matrix(0), 0).evidence
    bounded = known.bounded
    assert bounded > known.delta
    # the intervals are those of a bound that is sure, at a confidence that is higher by the chance of failure
    sure = type(known)(known.run, known.size, known.zeros, known.delta, known.compression, known.negative_most)
    assert known.intervals(TAU, 1 - 1e-5) == sure.intervals(TAU, 1 - 1e-5 + FAILURE)
    extreme = type(known)(known.run, known.size, known.zeros, bounded, None, known.negative_most)
    assert known.intervals(TAU, 1 - FAILURE) == extreme.intervals(TAU, 1 - FAILURE)
    thresholds = [-2 * TAU, 2 * TAU]
    assert (known.band(thresholds, 0.9).lower == sure.band(thresholds, 0.9 + FAILURE).lower).all()
    assert (known.band(thresholds, 1 - FAILURE).upper == extreme.band(thresholds, 1 - FAILURE).upper).all()


def test_the_noise_is_measured_once_and_stops_where_less_would_not_be_seen(monkeypatch):
    asked = []
    bounds = RunError.bounds

    def watched(self, generator):
        for spread in bounds(self, generator):
            asked.append(spread.products)
            yield spread

    monkeypatch.setattr(RunError, "bounds", watched)
    monkeypatch.setattr(planning, "NEGLIGIBLE", 10.0)
    monkeypatch.setattr(planning, "recurrence_noise", lambda *_: 1.0)
    counts = counted(matrix(0), 0, threshold=1e-2, reorthogonalize=True)
    assert asked == [COLUMNS]
    assert counts.spent["noise"] == 2 * KNOWN * (planning.SPLIT * counts.check.noise > 1e-2) + COLUMNS


def test_a_network_without_its_dead_coordinates_is_measured():
    """Two inputs are zero in all the data: the float64 form leaves them out as well."""
    generator = seeded(0)
    x = torch.randn(200, 8, generator=generator)
    x[:, :2] = 0
    y = torch.randint(4, (200,), generator=generator)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 4))
    h = Hessian(model, nn.CrossEntropyLoss(), (x, y))
    values = exact_eigenvalues(h)
    tau = 1e-4 * float(values.abs().max())
    for basis in (True, False):
        counts = counted(h, 0, threshold=tau, reorthogonalize=basis)
        assert counts.dead == 24
        assert counts.run_noise.measured
        assert counts.run_noise.bound < 1e-5 * float(values.abs().max())
        found = (counts.negative, counts.near_zero, counts.positive)
        assert all(n in interval for n, interval in zip(three(values.numpy(), tau), found, strict=True))
    assert count_eigenvalues(h, threshold=tau, method="exact").run_noise is None


def test_noise_is_in_the_units_of_the_matrix():
    noise = RunNoise(4.0, FAILURE).unscaled(2)
    assert (noise.bound, noise.measured, RunNoise(1.0).measured) == (1.0, True, False)
