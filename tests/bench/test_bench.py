"""`lanczos-saddle bench` and the comparison behind it: every row right, every failure shown, nothing left out."""

import json
import subprocess
import sys
from functools import partial

import pytest
import torch

from lanczos_saddle import count_eigenvalues
from lanczos_saddle.cli.entry import main
from lanczos_saddle.counting.comparison import METHODS, Answer, Method, Row, compare, table
from lanczos_saddle.machine.measuring import RESET
from lanczos_saddle.machine.rates import machine_limits
from lanczos_saddle.studies.known_problems import clustered

SIZE, TAU = 400, 1e-2
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def operator():
    return clustered(SIZE, TAU, torch.Generator().manual_seed(0))


@pytest.fixture
def problem(monkeypatch, tmp_path):
    """A module in the working folder, fit and unfit for counting."""
    (tmp_path / "bench_problems.py").write_text(
        "import torch\n"
        "def small():\n"
        "    torch.manual_seed(0)\n"
        "    model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Tanh(), torch.nn.Linear(3, 2))\n"
        "    return model, torch.nn.CrossEntropyLoss(), (torch.randn(30, 4), torch.randint(0, 2, (30,)))\n"
        "def dropout():\n"
        "    model, loss, data = small()\n"
        "    return torch.nn.Sequential(model, torch.nn.Dropout(0.5)), loss, data\n"
        "def flat():\n"
        "    return torch.nn.Linear(3, 1), lambda y, t: (y * t).mean(), (torch.ones(4, 3), torch.ones(4, 1))\n"
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(operator, methods=METHODS, **options):
    arguments = {"threshold": TAU, "confidence": 0.95, "seed": 0, "probes": 4, "steps": 40, **options}
    return compare(operator, methods, **arguments)


def test_rows_are_those_of_count_eigenvalues(operator):
    rows, exact = run(operator), operator.count(TAU)
    assert [row.method for row in rows] == [method.name for method in METHODS]
    for row, reorthogonalize in zip(rows[:2], (False, True), strict=True):
        counts = count_eigenvalues(
            operator,
            threshold=TAU,
            method="lanczos",
            reorthogonalize=reorthogonalize,
            probes=4,
            steps=40,
            precision=1e-6,
            generator=torch.Generator().manual_seed(0),
        )
        assert row.negative == Answer(counts.negative.estimate, counts.negative.lower, counts.negative.upper)
        assert row.products == counts.products
        assert row.holds(exact)
        assert row.width == max(i.upper - i.lower for i in (counts.negative, counts.near_zero, counts.positive))
    assert [answer.estimate for answer in rows[-1].answers] == list(exact)
    assert rows[-1].errors(exact) == [0, 0, 0]


PEAKS = """
import torch
from lanczos_saddle.counting.comparison import METHODS, compare
from lanczos_saddle.operators.prescribed import PrescribedSpectrum
spectrum = PrescribedSpectrum(torch.linspace(-1, 1, 100_000, dtype=torch.float64), torch.Generator())
rows = compare(spectrum, METHODS[:2], threshold=0.5, confidence=0.95, seed=0, probes=4, steps=120)
print(*(row.peak_bytes for row in rows))
"""

ONE_CALL = """
import torch
from lanczos_saddle.machine.measuring import measure
held = torch.ones(2**24)  # before the call: not counted
result, cost = measure(lambda: float(torch.ones(2**23, dtype=torch.float64).sum()), torch.device("cpu"))
print(int(result), cost.peak_bytes)
"""


@pytest.mark.skipif(not RESET.exists(), reason="the peak of resident memory cannot be reset here")
class TestPeaks:
    """Each in a process of its own: an allocator gives back, or uses again, what other tests have left."""

    @pytest.mark.slow
    def test_the_basis_is_seen_in_the_memory(self):
        """Plain holds a few vectors, some 100 MB; the basis is 4 x 120 vectors of 100,000 float64, 366 MiB."""
        plain, kept = printed(PEAKS)
        basis = 4 * 120 * 100_000 * 8
        assert plain < 0.8 * basis
        assert 0.9 * basis < kept < 3 * basis

    def test_memory_is_what_a_call_adds(self):
        result, peak = printed(ONE_CALL)
        assert result == 2**23
        assert 0.9 * 2**26 < peak < 1.5 * 2**26


def printed(program):
    """The whole numbers that a program prints."""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return map(int, done.stdout.split())


def test_what_fails_is_a_row_with_its_message(operator):
    def fails(*_, **__):
        raise MemoryError("no room")

    row, exact = run(operator, [Method("fails", fails), METHODS[-1]])
    assert row.failed == "MemoryError: no room"
    assert (row.errors(operator.count(TAU)), row.holds(operator.count(TAU)), row.width) == ([None] * 3, None, None)
    assert exact.failed is None
    assert "failed: MemoryError: no room" in table([row, exact], operator.count(TAU))


def test_refusals_of_all_methods_are_raised(operator):
    with pytest.raises(ValueError, match="threshold must be positive"):
        run(operator, threshold=0.0)
    mixed = run(operator, [Method("refuses", partial(count_eigenvalues, method="no such method")), METHODS[-1]])
    assert "method must be" in mixed[0].failed


def test_a_bound_on_the_wrong_side_is_said():
    row = Row("peer", 1.0, negative=Answer(3, lower=3), positive=Answer(2.0))
    assert row.holds((4, 0, 2)) is True
    assert row.holds((2, 0, 4)) is False
    assert row.width is None
    assert row.errors((4, 0, 2)) == [-1, None, 0]
    text = table([row], (2, 0, 4))
    assert " NO " in text
    assert "3 (+1)" in text
    assert "2 (-2)" in text


def test_limits_are_rates_of_this_machine():
    limits = machine_limits(torch.float32, CPU)
    assert 0.1 < limits.gflop_per_second < 1e6
    assert 0.05 < limits.gb_per_second < 1e5


def test_the_command_writes_every_row(problem, capsys):
    assert main(["bench", "bench_problems:small", "--steps", "10", "--json", "b.json", "--quiet"]) == 0
    result = json.loads((problem / "b.json").read_text())
    assert [row["method"] for row in result["rows"]] == [method.name for method in METHODS]
    assert sum(result["exact"]) == result["parameters"] == 23
    for row in result["rows"]:
        if row["method"] == "elimination":  # tanh: nothing is proved of its layers
            assert "elimination needs a Hessian" in row["failed"]
            continue
        assert row["failed"] is None
        for name, exact in zip(("negative", "near_zero", "positive"), result["exact"], strict=True):
            assert row[name]["lower"] <= exact <= row[name]["upper"]
    assert result["limits"]["gflop_per_second"] > 0
    text = capsys.readouterr().out
    assert "exact counts" in text
    assert "GFLOP/s" in text


@pytest.mark.slow
def test_without_exact_counts_there_is_no_error(problem, capsys):
    assert main(["bench", "bench_problems:small", "--exact-up-to", "0", "--threshold", "0.1", "--quiet"]) == 0
    text = capsys.readouterr().out
    assert "exact counts" not in text
    assert "(+" not in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["bench_problems:small", "--relative-threshold", "2"], "between 0 and 1"),
        (["bench_problems:small", "--threshold", "-1"], "threshold must be positive"),
        (["bench_problems:small", "--confidence", "1"], "confidence must be between"),
        (["bench_problems:small", "--probes", "0"], "at least 1; got 0"),
        (["bench_problems:small", "--steps", "x"], "at least 1; got x"),
        (["bench_problems:dropout"], "eval"),
        (["bench_problems:flat"], "nonzero"),
        (["nonsense"], "digits"),
    ],
)
def test_misuse_is_one_line_and_status_2(problem, capsys, arguments, message):
    assert main(["bench", *arguments, "--quiet"]) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert message in captured.err
    assert captured.out == ""
