"""What a plan says against closed forms, a clock that is known, memory that is known, and what a count then does."""

import math
import os
import subprocess
import sys
import time

import pytest
import torch
from matrices import gaussian, labels, rotated, seeded
from torch import nn

from lanczos_saddle import Hessian, count_eigenvalues, plan
from lanczos_saddle.forecast import footprints, rehearsal
from lanczos_saddle.forecast.footprints import Multiplying
from lanczos_saddle.operators.operator import FromFunction
from lanczos_saddle.operators.prescribed import PrescribedSpectrum

F64, CPU = torch.float64, torch.device("cpu")
MIB = 2**20
BULK = torch.cat([torch.linspace(-1e-3, 1e-3, 260, dtype=F64), torch.zeros(60, dtype=F64)])
FEW = torch.cat([-torch.logspace(-1.6, -0.2, 12, dtype=F64), torch.logspace(-1.6, 0.3, 28, dtype=F64), BULK])
EVEN = torch.cat([-torch.logspace(-4, -0.5, 100, dtype=F64), torch.logspace(-4, 0, 260, dtype=F64)])


def diagonal(size, product=None):
    """diag(lambda), lambda even in [-0.3, 1]; `product` is told of every block."""
    values = torch.linspace(-0.3, 1, size, dtype=F64)

    def multiply(v):
        if product is not None:
            product(v)
        return values[:, None] * v

    return FromFunction(multiply, size, F64, CPU)


def network(samples=60, inputs=6, hidden=5):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, 3)).double()
    return Hessian(model, nn.CrossEntropyLoss(), (gaussian(samples, inputs), labels(samples, 3)))


# ---------------------------------------------------------------- bytes


def test_bytes_of_a_run_are_those_of_its_vectors():
    """N = 1000, float64, 8 bytes each: 3 blocks of 4 and 7 more vectors; a basis of 4 x 20; bounds from 80 of them."""
    product = Multiplying(lambda columns: columns * 8000)
    assert footprints.run(1000, 4, product) == {"vectors": 19 * 8000, "products": 4 * 8000}
    step, end = footprints.with_basis(1000, 4, 20, 8, product)
    assert step == {"vectors": 19 * 8000, "products": 32000, "basis": 640_000}
    assert end == {"vectors": 19 * 8000, "basis": 640_000, "bounds": 8 * (5 * 80**2 + 80 * 1000)}
    assert footprints.with_basis(1000, 4, 20, 4, product)[0]["basis"] == 320_000
    assert footprints.beginning(1000, product) == {"vectors": 14 * 8000, "products": 8000}
    wide = Multiplying(lambda columns: columns * 80_000)
    assert footprints.beginning(1000, wide) == {"vectors": 4 * 8000, "products": 4 * 80_000}


def test_vectors_of_a_noise_that_is_measured():
    """Sums of 16 columns twice, and those that will be in their place; 8 columns of a basis in the end; 3 known."""
    assert footprints.noise(16, 3, basis=False) == (6 + 64, 6 + 80)
    assert footprints.noise(8, 0, basis=True) == (0, 24)


def test_bytes_of_what_is_taken_out_and_eliminated():
    making, staying = footprints.deflating(1000, 50, 7, 8)
    assert staying == {"basis of the pilot": 50 * 8000, "deflated vectors": 5 * 7 * 8000}
    assert making["deflated vectors"] - staying["deflated vectors"] == 4 * 7 * 8000
    assert footprints.eliminating(900, 10) == {"factor": 11 * 900 * 10 * 8}
    sides = [(7, 5), (6, 3)]  # with their biases
    numbers = sum(a * a + b * b + a * b for a, b in sides)
    assert footprints.factors(network(), 53, 4) == {"factor": 8 * 3 * numbers + 8 * 3 * 4 * 53}


def test_a_matrix_takes_its_square_and_all_eigenvalues_a_copy():
    matrix = rotated(FEW)
    found = plan(matrix, threshold=1e-2)
    eigenvalues, triangle = found.way("eigenvalues"), found.way("inertia, one triangle")
    square = 8 * len(FEW) ** 2
    assert eigenvalues.parts["assembled matrix"] == square
    assert eigenvalues.parts["factor"] > square
    assert square / 2 < triangle.parts["assembled matrix"] < 0.7 * square  # with whole diagonal tiles
    assert triangle.parts["factor"] > square / 2  # L, a triangle of its own
    assert eigenvalues.width == triangle.width == 0
    assert all(way.peak == sum(way.parts.values()) for way in found.ways)


@pytest.mark.skipif(not rehearsal.held_bytes(CPU), reason="the system does not say what is resident")
def test_what_a_product_holds_is_measured():
    """In a process of its own: other tests have threads that still hold and free."""
    found = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, __file__], check=True, timeout=300, env=found)


def held_by_a_product():
    """A product that makes 64 MiB beside its result, at any width."""
    held = []

    def product(_):
        held.append(torch.ones(8 * MIB, dtype=F64).sum())

    found = plan(diagonal(2000, product), threshold=0.1, method="lanczos", probes=2, steps=20)
    assert found.way("plain").parts["products"] == pytest.approx(64 * MIB, rel=0.15)


# ---------------------------------------------------------------- seconds


class Clock:
    """Time that passes by products alone: a quarter of a second a column."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        self.now += 1e-9
        return self.now

    def multiply(self, block):
        self.now += 0.25 * (block.shape[1] if block.ndim == 2 else 1)


def test_seconds_are_products_at_their_measured_rate(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(time, "perf_counter", clock)
    monkeypatch.setattr("lanczos_saddle.forecast.known.Known.flops", 1e30)
    monkeypatch.setattr("lanczos_saddle.forecast.known.Known.bandwidth", 1e30)
    options = {"threshold": 0.1, "method": "lanczos", "probes": 2, "steps": 30, "precision": 1e-9}
    found = plan(diagonal(500, clock.multiply), **options)
    assert found.seconds_per_product == pytest.approx(0.25)
    assert found.seconds_range == pytest.approx((0.25, 0.25))
    for name in ("plain", "plain, basis kept"):
        way = found.way(name)
        assert way.most_products == sum(n for key, n in found.products.items() if key in ("check", "dead")) + 1 + 2 * 30
        assert way.seconds == pytest.approx(0.25 * way.products, rel=1e-3)
        assert way.fastest == pytest.approx(way.slowest)
    clock.now, before = 0.0, clock.now
    count_eigenvalues(diagonal(500, clock.multiply), reorthogonalize=False, **options)
    assert before > 0
    assert clock.now <= 0.25 * found.way("plain").most_products + 1e-3


def test_the_spread_is_that_of_the_blocks(monkeypatch):
    clock, speeds = Clock(), [1.0, 1.0, 2.0, 1.0, 0.5]
    monkeypatch.setattr(rehearsal, "MORE", 4)

    def multiply(block):
        clock.now += speeds.pop(0) if block.shape[1] == 2 and speeds else 0.0

    monkeypatch.setattr(time, "perf_counter", clock)
    monkeypatch.setattr("lanczos_saddle.forecast.known.Known.flops", 1e30)
    monkeypatch.setattr("lanczos_saddle.forecast.known.Known.bandwidth", 1e30)
    found = plan(diagonal(500, multiply), threshold=0.1, method="lanczos", probes=2, steps=30, pilot=False)
    assert found.seconds_per_product == pytest.approx(0.5)
    assert found.seconds_range == pytest.approx((0.25, 1.0))
    assert found.way("plain").slowest == pytest.approx(2 * found.way("plain").seconds)
    assert found.way("plain").fastest == pytest.approx(found.way("plain").seconds / 2)


# ---------------------------------------------------------------- products and widths


def test_what_is_spent_is_said():
    made = []
    operator = diagonal(400, lambda block: made.append(block.shape[1]))
    found = plan(operator, relative_threshold=0.1, method="lanczos")
    assert sum(made) == sum(found.products.values())
    made.clear()
    asked = {"relative_threshold": 0.1, "method": "lanczos", "probes": 3, "steps": 50}
    found = plan(operator, **asked, pilot=False)
    assert found.products == {"timing": sum(made)} == {"timing": 3 * 17}
    made.clear()
    found = plan(diagonal(rehearsal.SMALL + 1, lambda block: made.append(block.shape[1])), **asked, pilot=False)
    assert found.products == {"timing": sum(made)} == {"timing": 3 * 5}
    assert found.threshold is None
    assert found.way("plain").width is None
    assert "deflated" in found.missing


def test_widths_are_about_those_of_the_counts():
    options = {"threshold": 3e-2, "method": "lanczos", "precision": 1e-9, "max_products": 400}
    operator = PrescribedSpectrum(EVEN, seeded(2))
    found, counts = plan(operator, **options), count_eigenvalues(operator, **options)
    width = max(i.width for i in (counts.negative, counts.near_zero, counts.positive))
    assert 0.5 * width <= found.choice.width <= 2 * width


def test_no_way_spends_more_than_a_budget():
    for options in ({}, {"max_products": 400}, {"max_products": 90}, {"max_products": 300, "relative_threshold": 1e-2}):
        tau = {} if "relative_threshold" in options else {"threshold": 1e-2}
        found = plan(PrescribedSpectrum(FEW, seeded(1)), method="lanczos", precision=1e-9, **tau, **options)
        most = options.get("max_products", 10**9)
        ways = [way for way in found.ways if way.probes]
        assert {way.name for way in ways} >= {"plain", "plain, basis kept"}
        assert all(0.9 * most - 40 < way.most_products <= most for way in ways if most < 10**9)


def test_a_run_that_will_stop_early_says_when():
    options = {"threshold": 0.3, "method": "lanczos", "probes": 4, "steps": 300, "precision": 0.2}
    found = plan(diagonal(2000), **options)
    counts = count_eigenvalues(diagonal(2000), **options)
    assert counts.stopped.startswith("the wanted precision is reached")
    assert "the wanted precision is reached" in found.choice.ends
    assert found.choice.products == counts.products < found.choice.most_products


def test_a_deflated_run_that_will_stop_early_says_when():
    options = {"threshold": 1e-2, "max_products": 250, "method": "lanczos", "precision": 0.05}
    operator = PrescribedSpectrum(FEW, seeded(1))
    found, counts = plan(operator, **options), count_eigenvalues(operator, **options)
    assert found.chosen == "deflated"
    assert counts.stopped.startswith("the wanted precision is reached")
    assert "the wanted precision is reached" in found.choice.ends
    assert found.choice.products < 0.9 * found.choice.most_products <= 250
    assert counts.products == pytest.approx(found.choice.products, rel=0.25)


# ---------------------------------------------------------------- the choice


def subset_case():
    """Many samples, a threshold far below, and a budget that is hopeless without an S."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 12), nn.Tanh(), nn.Linear(12, 3)).double()
    hessian = Hessian(model, nn.CrossEntropyLoss(), (gaussian(2000, 8), labels(2000, 3)))
    return hessian, {"relative_threshold": 1e-6, "method": "lanczos", "max_products": 170}


CASES = {
    "exact": lambda: (network(), {"relative_threshold": 1e-3}),
    "a budget that reaches": lambda: (rotated(FEW), {"threshold": 1e-2, "max_products": 900}),
    "closed form": lambda: (network(), {"relative_threshold": 1e-3, "max_products": 60}),
    "deflated": lambda: (
        PrescribedSpectrum(FEW, seeded(1)),
        {"threshold": 1e-2, "max_products": 250, "method": "lanczos", "precision": 1e-9},
    ),
    "plain": lambda: (
        PrescribedSpectrum(EVEN, seeded(2)),
        {"threshold": 3e-2, "max_products": 300, "method": "lanczos", "precision": 1e-9},
    ),
    "several": lambda: (
        PrescribedSpectrum(EVEN, seeded(2)),
        {"threshold": [1e-1, 3e-2], "max_products": 300, "method": "lanczos", "precision": 1e-9},
    ),
    "no budget": lambda: (PrescribedSpectrum(EVEN, seeded(2)), {"threshold": 3e-2, "method": "lanczos"}),
    "no basis": lambda: (
        PrescribedSpectrum(EVEN, seeded(2)),
        {"threshold": 3e-2, "method": "lanczos", "probes": 2, "steps": 40, "reorthogonalize": False},
    ),
    "a small budget": lambda: (
        PrescribedSpectrum(EVEN, seeded(2)),
        {"threshold": 3e-2, "max_products": 100, "method": "lanczos"},
    ),
    "eliminated": lambda: (network(), {"threshold": 1e-2, "method": "elimination"}),
    "subset": subset_case,
}


@pytest.mark.parametrize("name", CASES)
def test_the_choice_is_that_of_a_count(name):
    operator, options = CASES[name]()
    found = plan(operator, generator=seeded(3), **options)
    counts = count_eigenvalues(operator, generator=seeded(3), **options)
    counts = counts[0] if isinstance(counts, tuple) else counts
    choice, evidence = found.choice, counts.evidence
    assert choice is not None
    if counts.method == "exact":
        assert found.chosen == "eigenvalues"
        assert choice.width == 0
        return
    assert found.chosen == ("eliminated" if counts.method == "elimination" else found.chosen)
    assert counts.preconditioned == (found.chosen in ("ekfac", "subset"))
    if counts.preconditioned:
        assert counts.plan.startswith(found.chosen)
        return
    assert (found.chosen == "deflated") == counts.plan.startswith("deflated")
    if found.chosen.startswith("plain"):
        assert (found.chosen == "plain, basis kept") == (evidence.compression is not None)
        assert choice.probes == counts.probes
        assert counts.steps <= choice.steps
        assert choice.steps == counts.steps or "steps" in choice.ends


def test_nothing_is_changed_and_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    hessian, generator = network(), seeded(5)
    weights, state, own = hessian.problem.theta.clone(), torch.get_rng_state(), generator.get_state()
    plan(hessian, relative_threshold=1e-3, max_products=200, method="lanczos", generator=generator)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(generator.get_state(), own)
    assert torch.equal(hessian.problem.theta, weights)
    assert not any(tmp_path.iterdir())


# ---------------------------------------------------------------- what does not fit


def test_what_does_not_fit_is_said_with_what_would():
    """N = 20,000: a vector is 0.15 MiB, a matrix 3 GiB, a basis of 4 x 400 vectors 244 MiB."""
    found = plan(diagonal(20_000), threshold=0.1, method="lanczos", probes=4, steps=400, memory=100 * MIB)
    assert {way.name for way in found.ways if way.fits} == {"plain"}
    assert found.chosen == "plain"
    kept = found.way("plain, basis kept")
    columns = int(kept.instead.split("a basis of ")[1].split()[0])
    assert 300 < columns < 100 * MIB / 160_000
    assert kept.parts["basis"] == 4 * 400 * 160_000
    inertia = found.way("inertia")
    assert inertia.parts["assembled matrix"] == 8 * 20_000**2
    assert f"N = {math.isqrt(100 * MIB // 8)} fits" in inertia.instead
    assert found.way("inertia, one triangle").instead == "name a directory for a file"
    assert "does not fit" not in str(found).splitlines()[-3]


def test_a_file_holds_what_memory_does_not(tmp_path):
    memory = 2**31 + 2**27  # the blocks of an assembly, and what products and libraries keep
    found = plan(
        diagonal(20_000), threshold=0.1, method="lanczos", probes=1, steps=10, memory=memory, directory=tmp_path
    )
    way = found.way("inertia, one triangle")
    assert way.fits
    assert way.disk >= 2 * 4 * 20_000**2
    assert f"--directory {tmp_path}" in way.how


def test_nothing_fits():
    made = []
    operator = diagonal(10**6, lambda block: made.append(block))
    with pytest.raises(ValueError, match=r"begins with 0.1\d GiB .* 0.03 GiB may be used: raise memory") as refused:
        plan(operator, threshold=0.1, memory=32 * MIB)
    assert "fewer parameters" in str(refused.value)
    assert not made
    with pytest.raises(ValueError, match="memory must be a positive number of bytes; got 0"):
        plan(operator, threshold=0.1, memory=0)


def test_a_choice_that_does_not_fit_is_said():
    options = {"threshold": 0.1, "method": "lanczos", "probes": 4, "steps": 400, "memory": 100 * MIB}
    with pytest.raises(ValueError, match="reorthogonalization keeps 4 x 400 vectors"):
        plan(diagonal(20_000), reorthogonalize=True, **options)
    found = plan(diagonal(20_000), threshold=0.1, method="exact", memory=100 * MIB)
    assert found.chosen == "inertia"
    assert not found.choice.fits
    assert "it does not fit: N = " in str(found)


# ---------------------------------------------------------------- other matrices


def test_complex_matrices_and_tiny_ones():
    real = plan(rotated(FEW), threshold=1e-2)
    both = plan(torch.complex(rotated(FEW), torch.zeros_like(rotated(FEW)) + 0), threshold=1e-2)
    assert both.size == real.size
    turned = torch.complex(rotated(FEW), torch.zeros(len(FEW), len(FEW), dtype=F64))
    turned[0, 1] += 1e-3j
    turned[1, 0] -= 1e-3j
    assert plan(turned, threshold=1e-2).size == len(FEW)
    small = plan(rotated(FEW) * 1e-200, threshold=1e-202, method="lanczos", max_products=250, precision=1e-9)
    large = plan(rotated(FEW), threshold=1e-2, method="lanczos", max_products=250, precision=1e-9)
    assert small.threshold == pytest.approx(1e-202)
    assert (small.chosen, small.size) == (large.chosen, large.size)


def test_float32_and_loaders():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))
    data = [(gaussian(20, 6).float(), labels(20, 3)), (gaussian(30, 6, seed=2).float(), labels(30, 3, seed=3))]
    found = plan(
        Hessian(model, nn.CrossEntropyLoss(), data), relative_threshold=1e-2, method="lanczos", max_products=150
    )
    assert found.dtype == "float32"
    assert found.chosen == "plain, basis kept"
    assert {"ekfac", "subset"} <= set(found.missing)
    assert found.held == {"weights": 4 * 53}


def test_products_that_measure_noise_are_planned():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 10), nn.Tanh(), nn.Linear(10, 4))
    hessian = Hessian(model, nn.CrossEntropyLoss(), (gaussian(80, 12).float(), labels(80, 4)))
    options = {"relative_threshold": 1e-4, "method": "lanczos", "probes": 3, "steps": 25, "precision": 1e-9}
    found, counts = plan(hessian, **options), count_eigenvalues(hessian, **options)
    assert counts.spent["noise"] > 0
    assert counts.products <= found.choice.most_products <= counts.products + 64
    assert found.choice.parts.keys() & {"noise of the run", "bounds", "products"}


def test_misuse_is_refused_before_a_product():
    made = []
    operator = diagonal(50, lambda block: made.append(block))
    for options, message in (
        ({}, "pass one of threshold"),
        ({"threshold": 0.1, "relative_threshold": 0.1}, "pass one of threshold"),
        ({"threshold": -1.0}, "threshold"),
        ({"threshold": 0.1, "method": "sampled"}, "method must be"),
        ({"threshold": 0.1, "method": "lanczos", "max_products": 5}, "raise it to at least"),
        ({"threshold": [0.1, 0.2], "preconditioner": "subset"}, "needs the network of a Hessian"),
        ({"threshold": 0.1, "memory": "8 GiB"}, "whole number of bytes"),
    ):
        with pytest.raises(ValueError, match=message):
            plan(operator, **options)
    assert not made


if __name__ == "__main__":
    held_by_a_product()
