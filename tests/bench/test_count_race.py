"""Every library that is raced answers rightly where the answer is easy; the race resumes and shows what is missing."""

import math
import subprocess
import sys
from pathlib import Path

import count_networks
import count_race
import figures
import pytest
import race_tables
import solver_counts
import torch
from answers import Task, from_density, from_extremes, from_weights
from counters import COUNTERS, MATRIX, NETWORK

from lanczos_saddle.counting.comparison import METHODS, Answer, Row
from lanczos_saddle.dense.exact import exact_eigenvalues, three_counts
from lanczos_saddle.operators.prescribed import PrescribedSpectrum
from lanczos_saddle.reports.records import Record, append, read
from lanczos_saddle.studies.known_problems import of_network, of_spectrum

BENCH = Path(__file__).parents[2] / "bench"

TAU, PROBES, STEPS = 0.5, 10, 40
COUNTS = (30, 75, 45)
BANDS = ((-3, -1, 30), (-0.05, 0.05, 75), (1, 3, 45))


@pytest.fixture(scope="module")
def easy():
    """Three well separated bands: any sound method sees them."""
    bands = [torch.linspace(low, high, n, dtype=torch.float64) for low, high, n in BANDS]
    return of_spectrum(PrescribedSpectrum(torch.cat(bands), torch.Generator().manual_seed(0)))


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(8, 5), torch.nn.Tanh(), torch.nn.Linear(5, 3))
    data = (torch.randn(50, 8), torch.randint(0, 3, (50,)))
    return of_network((model, torch.nn.CrossEntropyLoss(), data), torch.float64, torch.device("cpu"))


def runnable(counter) -> None:
    reason = counter.missing(True, 1, 10)
    if reason is not None:
        pytest.skip(f"{counter.name}: {reason}")


def task(loaded, tau=TAU, wanted=50):
    return Task(loaded, (tau,), PROBES, min(STEPS, loaded.size), wanted, 0, 0.95)


def check(counter, found, exact, size):
    """Sampling is allowed five standard deviations of a count from PROBES probes, and rounding.

    An eigensolver that was asked for too few eigenvalues says nothing or gives a lower bound.
    """
    (answers,) = found.answers
    for answer, count in zip(answers, exact, strict=True):
        if not counter.samples and answer.upper is None and answer.lower == 20:
            assert count >= 20
            continue
        if not counter.samples and answer.estimate is None:
            assert answer.upper >= count
            continue
        allowed = 5 * math.sqrt(2 * count * (1 - count / size) / PROBES) + 3 if counter.samples else 0
        assert answer.estimate == pytest.approx(count, abs=allowed + 1e-9)


@pytest.mark.parametrize("counter", COUNTERS, ids=lambda counter: counter.name)
def test_three_bands_are_counted(counter, easy):
    runnable(counter)
    if NETWORK in counter.needs:
        pytest.skip("takes networks only")
    if counter.name in ("ours: elimination", "ours: congruence"):
        pytest.skip("takes networks only")
    if counter.name == "eigenthings, extremes":  # 2 k steps converge for a few of many only
        pytest.skip("no convergence to expect")
    found = counter.run(task(easy))
    check(counter, found, COUNTS, easy.size)
    assert found.products >= (easy.size if MATRIX in counter.needs else PROBES)


@pytest.mark.parametrize("counter", [c for c in COUNTERS if "extremes" not in c.name], ids=lambda counter: counter.name)
def test_a_network_is_counted(counter, network):
    runnable(counter)
    if counter.name == "ours: elimination":
        pytest.skip("takes piecewise-linear networks only")
    values = exact_eigenvalues(network.operator).numpy()
    tau = 0.1 * float(abs(values).max())
    check(counter, counter.run(task(network, tau, wanted=20)), three_counts(values, tau), network.size)


@pytest.mark.parametrize("name", ["scipy eigsh", "PRIMME eigsh", "torch.lobpcg"])
def test_extremes_are_lower_bounds(name, easy):
    counter = next(counter for counter in COUNTERS if counter.name == name)
    runnable(counter)
    ((negative, near_zero, positive),) = counter.run(task(easy, wanted=10)).answers
    assert (negative.lower, near_zero.estimate, positive.lower) == (10, None, 10)
    assert near_zero.upper == easy.size - 20


def test_readings():
    nodes, weights = torch.tensor([-1.0, 0.0, 2.0]).numpy(), torch.tensor([0.25, 0.25, 0.5]).numpy()
    assert [a.estimate for a in from_weights([(nodes, weights)], 100, 0.5)] == [25, 25, 50]
    grid = torch.linspace(-1, 1, 2001).double().numpy()
    assert [a.estimate for a in from_density(grid, 0 * grid + 0.5, 100, 0.5)] == pytest.approx([25, 50, 25])
    complete = from_extremes(nodes, nodes, 3, 10, 0.5)
    assert [a.estimate for a in complete] == [1, 8, 1]
    assert from_extremes(nodes[:1], nodes, 1, 10, 0.5)[1].estimate is None
    assert from_extremes(nodes, nodes, 4, 10, 0.5)[1].estimate is None, "the fourth did not converge"


def test_the_fitted_slope_is_that_of_the_records(tmp_path):
    records = [
        {
            "parameters": {"size": size, "probes": 2, "steps": 40},
            "result": {"seconds": 1e-9 * size**1.25 * 130, "products": 130, "peak_bytes": size},
        }
        for size in (10**3, 10**5, 10**6, 10**7)
    ]
    said = figures.draw_scaling(records, tmp_path / "scaling.png")
    assert "N^1.250 for N from 1e+05 to 1e+07" in said
    assert (tmp_path / "scaling.png").read_bytes().startswith(b"\x89PNG")


def test_the_race_is_drawn_from_records(tmp_path):
    nothing = {"estimate": None, "lower": None, "upper": None}
    row = {"failed": None, "products": 10, "negative": {"estimate": 4.0, "lower": 3, "upper": 5}}
    row |= {"near_zero": nothing, "positive": {"estimate": 2.0, "lower": 2, "upper": 9}}
    exact = {"negative": 6, "near_zero": 1, "positive": 3}
    assert figures.point(row, exact) == {
        "products": 10,
        "width": 7,
        "missed": True,
        "negative": 2,
        "near_zero": None,
        "positive": 1,
    }
    rows = [row, {**row, "failed": "no room"}]
    record = {
        "parameters": {"problem": "p", "method": "m", "relative_thresholds": [0.1, 0.2]},
        "result": {"size": 10, "exact": [list(exact.values())] * 2, "rows": rows},
    }
    figures.draw_race("p", [record], tmp_path / "race.png")
    assert (tmp_path / "race.png").read_bytes().startswith(b"\x89PNG")


def test_a_table_tells_errors_bounds_and_refusals():
    answers = (Answer(4.2, 2, 5), Answer(90.0, 80, 99), Answer(6.0, 5, 6))
    row = Row("ours: lanczos", 1e-3, *answers, products=814, seconds=1.25, peak_bytes=2**21)
    assert race_tables.line("ours", row, (4, 91, 5)) == (
        "| ours | 4 (0) | 90 (-1) | 6 (+1) | hold, 19 wide | 814 | 1.25 | 2 |"
    )
    assert "**miss**" in race_tables.line("ours", row, (6, 90, 4))
    ends = Row("eigsh", 1e-3, Answer(50, lower=50), Answer(None, upper=90), Answer(10, lower=10), 7, 1.0)
    assert race_tables.line("eigsh", ends, (60, 30, 10)) == "| eigsh | at least 50 |  | at least 10 | hold | 7 | 1 |  |"
    refused = Row("s", 1e-3, failed="ValueError: s needs a network: a|b; got none")
    assert race_tables.line("s", refused, (0, 1, 0)) == "| s | refused: s needs a network | | | | | | |"
    broken = Row("s", 1e-3, failed="RuntimeError: no")
    assert "failed" in race_tables.line("s", broken, (0, 1, 0))


def race(*arguments):
    command = [sys.executable, str(BENCH / "count_race.py"), "--small", "--problems", "spectrum", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done


@pytest.mark.slow  # a process per cell
def test_the_race_resumes_and_says_what_is_missing(tmp_path):
    out = tmp_path / "race.jsonl"
    arguments = ["--methods", "plain", "PyHessian", "exact", "--dense-up-to", "100", "--out", str(out)]
    first = race(*arguments)
    assert "ours: lanczos, plain 2x20" in first.stderr
    assert "failed: not applicable: takes networks" in first.stdout
    assert "failed: not run: takes a matrix, 0.1 GiB" in first.stdout
    (record,) = read(out)
    assert record["kind"] == "count_race"
    assert [row["failed"] for row in record["result"]["rows"]] == [None, None]
    for row, exact in zip(record["result"]["rows"], record["result"]["exact"], strict=True):
        for name, count in zip(("negative", "near_zero", "positive"), exact, strict=True):
            assert row[name]["lower"] <= count <= row[name]["upper"]
        assert row["products"] >= 40
        assert row["seconds"] > 0
    again = race(*arguments)
    assert "plain" not in again.stderr
    assert again.stdout.split("matrix product")[0] == first.stdout.split("matrix product")[0]
    assert len(read(out)) == 1


def test_a_new_record_takes_the_place_of_the_old_one(tmp_path):
    out = tmp_path / "race.jsonl"
    for method, version, budget in (("a", "1", "4x50"), ("a", "1", "4x200"), ("b", "1", "4x50")):
        append(out, Record("count_race", {"method": method, "version": version, "budget": budget}, {}, seeds=0))
    count_race.forget(out, {"method": "a", "version": "2", "budget": "4x50"})
    left = [(r["parameters"]["method"], r["parameters"]["budget"]) for r in read(out)]
    assert left == [("a", "4x200"), ("b", "4x50")]
    count_race.forget(tmp_path / "none.jsonl", {})


def test_eigenpairs_that_are_off_are_a_failure(easy):
    values, vectors = torch.linalg.eigh(easy.operator @ torch.eye(easy.size, dtype=torch.float64))
    values, vectors = values.numpy(), vectors.numpy()
    right = task(easy)
    assert solver_counts.checked(right, values[4::-1], vectors[:, 4::-1]).tolist() == values[:5].tolist()
    with pytest.raises(ValueError, match="residual"):
        solver_counts.checked(right, values[:5] + 1e-3, vectors[:, :5])
    with pytest.raises(ValueError, match="overlap"):  # one eigenpair, told twice
        solver_counts.checked(right, values[[0, 0]], vectors[:, [0, 0]])


@pytest.mark.parametrize("name", ["resnet", "gpt", "pinn"])
def test_small_networks_are_what_their_names_say(name):
    model, loss, (inputs, targets) = count_networks.TRAINED[name][0]()
    assert sum(p.numel() for p in model.parameters()) == {"resnet": 2973, "gpt": 3080, "pinn": 1951}[name]
    assert loss(model.eval()(inputs), targets).isfinite()


def test_the_pinn_is_the_operator_minus_the_second_derivative():
    torch.manual_seed(1)
    model = count_networks.Pinn().double()
    x = torch.linspace(0, 1, 11, dtype=torch.float64)[1:-1, None]

    def u(x):
        v = x
        for layer in model.layers[:-1]:
            v = layer(v).tanh()
        return x * (1 - x) * model.layers[-1](v)

    step = 1e-4
    second = (u(x + step) - 2 * u(x) + u(x - step)) / step**2
    torch.testing.assert_close(model(x), -second, rtol=1e-5, atol=1e-6)


def test_every_way_of_ours_is_raced():
    names = [counter.name for counter in COUNTERS]
    assert [f"ours: {method.name}" for method in METHODS] == names[: len(METHODS)]
    assert len(set(names)) == len(names)
