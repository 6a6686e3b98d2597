"""Stages that say how far they are: who hears what, and that the numbers are those of the operator's own columns."""

import io
import itertools
import re

import pytest
import torch
from matrices import Metered, as_products

from lanczos_saddle import (
    Hessian,
    classify,
    count_eigenvalues,
    count_in,
    eigenpairs,
    exact_eigenvalues,
    log_determinant,
    spectral_density,
    trace,
)
from lanczos_saddle.counting import deepening
from lanczos_saddle.counting.eliminated import negative_count_by_elimination
from lanczos_saddle.dense.one_triangle import inertia_at
from lanczos_saddle.machine import progress
from lanczos_saddle.machine.progress import PRODUCT, current, during, expect, made, stage, watched, watching

N, TAU = 300, 0.05


class Recorder:
    """All that is reported, and whether a stage went beyond what it said."""

    def __init__(self):
        self.stages, self.open, self.products, self.expected, self.failed = [], [], 0, [], []
        self.seen = []  # (stage, done, total) at every report of products

    def opened(self, told):
        self.stages.append(told)
        self.open.append(told)

    def closed(self, told, *, failed):
        self.open.remove(told)
        self.failed += [told.name] * failed

    def made(self, products):
        self.products += products
        if self.open:
            self.seen.append((self.open[-1].name, self.open[-1].done, self.open[-1].total))

    def expect(self, products, seconds):
        assert seconds >= 0
        if products is not None:
            self.expected.append((self.products, products))

    def check(self):
        assert not self.open
        assert not self.failed
        for name, done, total in self.seen:
            assert total is None or 0 <= done <= total, name
        for told in self.stages:
            if told.total is not None and not told.bound and told.unit != "threshold":
                assert told.done == pytest.approx(told.total), told.name
        for at, most in self.expected:  # what was foretold to come is no less than what came
            assert self.products - at <= most


def spectrum():
    values = torch.cat([torch.linspace(-1, -0.2, 40), torch.zeros(160), torch.linspace(0.1, 4, 100)]).double()
    q = torch.linalg.qr(torch.randn(N, N, generator=torch.Generator().manual_seed(0), dtype=torch.float64)).Q
    matrix = (q * values) @ q.mT
    return (matrix + matrix.mT) / 2


def network():
    torch.manual_seed(0)
    x, y = torch.randn(60, 12).double(), torch.randint(0, 3, (60,))
    model = torch.nn.Sequential(torch.nn.Linear(12, 9), torch.nn.ReLU(), torch.nn.Linear(9, 3)).double()
    return Hessian(model, torch.nn.CrossEntropyLoss(), (x, y))


# --- who hears what -------------------------------------------------------------------------------------------


def test_nobody_listens_unless_asked():
    assert not watched()
    with stage("alone", 3) as told:
        told.advance(2)
        told.to(7)
        told.of(9)
        told.say("nothing")
        made(4)
        assert not told.live
        assert current() is progress.NOBODY
    assert (told.done, told.total, told.note) == (0, None, "")
    expect(5)


def test_products_advance_the_innermost_stage_that_counts_them():
    seen = Recorder()
    with watching(seen):
        assert watched()
        made(1)  # of no stage
        with stage("outer", 10) as outer:
            made(2)
            with stage("rows", 5, unit="row") as rows:
                made(3)
                rows.advance(5)
            with stage("inner") as inner:
                made(4)
                assert current() is inner
            made(8)
    assert not watched()
    assert (outer.done, rows.done, inner.done, seen.products) == (10, 5, 4, 18)
    assert (rows.outer, outer.outer.name) == (outer, "")
    assert [told.name for told in seen.stages] == ["outer", "rows", "inner"]


def test_an_end_by_an_exception_is_said_and_the_stages_before_go_on():
    seen = Recorder()
    with watching(seen):
        with stage("outer", 1), pytest.raises(KeyboardInterrupt), stage("inner"):
            raise KeyboardInterrupt
        assert current().name == ""
    assert seen.failed == ["inner"]
    assert not seen.open


def test_an_iterator_that_is_left_early_does_not_keep_its_stage():
    def parts():
        with stage("parts", 3, unit="part") as told:
            for _ in range(3):
                yield told
                told.advance()

    seen = Recorder()
    with watching(seen):
        iterator = parts()
        with stage("outer", 1) as outer:
            next(iterator)
        with stage("after", 1) as after:
            iterator.close()
            assert current() is after
        assert outer.done == 0
    assert not seen.open


def test_a_function_as_a_stage_is_itself_where_nobody_listens():
    asked = []

    @during("work", lambda n, **_: asked.append(n) or n, unit="row")
    def work(n, *, more=0):
        """Docstring."""
        current().advance(n)
        return n + more

    assert work(3, more=1) == 4
    assert not asked
    assert (work.__name__, work.__doc__) == ("work", "Docstring.")
    seen = Recorder()
    with watching(seen):
        assert work(5) == 5
    assert [(t.name, t.total, t.done, t.unit) for t in seen.stages] == [("work", 5, 5, "row")]


def test_a_caller_who_asks_for_a_bar_gets_one_on_stderr(capsys):
    with stage("lanczos", 4, shown=True) as told:
        made(3)
        with stage("hidden", 9):
            made(5)  # of a stage that nobody asked to see: not of the bar
        told.say("so far so good")
        made(1)
    out, err = capsys.readouterr()
    assert not out
    assert "4/4" in err
    assert "so far so good" in err
    assert "hidden" not in err


def test_an_observer_takes_the_place_of_the_bars(capsys):
    seen = Recorder()
    with watching(seen):
        count_eigenvalues(spectrum(), threshold=TAU, method="lanczos", progress=True)
    assert capsys.readouterr() == ("", "")
    assert "lanczos" in [told.name for told in seen.stages]


# --- the numbers of real computations -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"threshold": TAU},
        {"threshold": TAU, "probes": 3, "steps": 30, "precision": 1e-9},
        {"relative_threshold": 1e-2, "probes": 6, "steps": 20},
        {"threshold": TAU, "max_products": 100},
        {"threshold": TAU, "max_products": 280},
        {"relative_threshold": 1e-2, "max_products": 250, "reorthogonalize": False},
        {"relative_threshold": [1e-2, 1e-1], "max_products": 250},
        {"threshold": TAU, "enumerate_negative": True, "max_products": 290, "precision": 1e-9},
        {"threshold": TAU, "enumerate_negative": True, "precision": 1e-9},
        {"threshold": TAU, "preconditioner": torch.eye(N, dtype=torch.float64), "max_products": 250},
    ],
)
def test_a_count_reports_every_product_and_never_more_than_it_said(options):
    operator, seen = Metered(as_products(spectrum())), Recorder()
    with watching(seen):
        count_eigenvalues(operator, method="lanczos", **options)
    seen.check()
    assert seen.products == operator.columns
    assert seen.expected, "what is to come was never foretold"


@pytest.mark.parametrize("threshold", [TAU, [TAU, 0.15]])
def test_an_exact_count_reports_its_assembly(threshold):
    operator, seen = Metered(as_products(spectrum())), Recorder()
    with watching(seen):
        count_eigenvalues(operator, threshold=threshold, method="exact")
    seen.check()
    assert seen.products == operator.columns
    assert {"preflight", "assembly", "eigenvalues"} <= {told.name for told in seen.stages}


@pytest.mark.parametrize(
    ("work", "names"),
    [
        (lambda h: classify(h, relative_threshold=1e-3), {"directions", "differences of Hessians", "assembly"}),
        (lambda h: count_in(h, 0.1, 3.0, probes=4, steps=30), {"lanczos"}),
        (lambda h: spectral_density(h, probes=3, steps=20), {"density"}),
        (lambda h: eigenpairs(h, 2), {"eigenvectors"}),
        (lambda h: trace(h, probes=8), {"probes", "sketch"}),
        (lambda h: log_determinant(h, 9.0, lowest=-8.0, probes=3, steps=8), {"probes"}),
        (lambda h: exact_eigenvalues(h), {"assembly", "eigenvalues"}),
        (lambda h: inertia_at(h, [-1e-3, 1e-3]), {"assembly", "mixing", "LDL' at 0.001", "LDL' at -0.001"}),
        (lambda h: negative_count_by_elimination(h, 1e-3), {"columns of the rest", "elimination"}),
        (
            lambda h: count_eigenvalues(h, threshold=1e-4, preconditioner="subset", max_products=400),
            {"factors of S", "directions of S", "lanczos"},
        ),
    ],
)
def test_every_computation_says_its_stages_and_keeps_to_their_totals(work, names):
    seen = Recorder()
    with watching(seen):
        work(network())
    seen.check()
    assert names <= {told.name for told in seen.stages}
    products = [told for told in seen.stages if told.unit == PRODUCT and told.total is not None]
    assert all(told.done <= told.total for told in products)


def test_a_hermitian_matrix_is_reported_with_each_eigenvalue_once():
    values = torch.cat([torch.linspace(-1, -0.2, 10), torch.zeros(20), torch.linspace(0.1, 4, 30)]).double()
    q = torch.linalg.qr(torch.randn(60, 60, generator=torch.Generator().manual_seed(0), dtype=torch.complex128)).Q
    matrix, seen = (q * values) @ q.mH, Recorder()
    with watching(seen):
        counts = count_eigenvalues(
            (matrix + matrix.mH) / 2, threshold=TAU, method="lanczos", probes=4, steps=20, reorthogonalize=False
        )
    assert counts.negative.upper <= 60
    (told,) = (told for told in seen.stages if told.name == "lanczos")
    ends = f"neg [{counts.negative.lower}, {counts.negative.upper}]"
    assert told.note.startswith(f"so far {ends}, zero [{counts.near_zero.lower}, {counts.near_zero.upper}]")


def test_what_is_shown_last_are_the_intervals_of_the_result():
    seen = Recorder()
    with watching(seen):
        counts = count_eigenvalues(
            spectrum(), threshold=TAU, method="lanczos", probes=3, steps=9, reorthogonalize=False
        )
        inside = count_in(spectrum(), 0.2, 3.0, probes=3, steps=9, reorthogonalize=False)
    first, second = (told.note for told in seen.stages if told.name == "lanczos")
    three = (counts.negative, counts.near_zero, counts.positive)
    named = zip(("neg", "zero", "pos"), three, strict=True)
    assert first == "so far " + ", ".join(f"{name} [{i.lower}, {i.upper}]" for name, i in named)
    assert second.startswith(f"so far below [{inside.below.lower}, {inside.below.upper}], inside [")


def test_float32_noise_that_is_measured_in_the_end_promises_nothing_before():
    seen = Recorder()
    with watching(seen):
        counts = count_eigenvalues(
            spectrum().float(), threshold=2e-5, method="lanczos", probes=4, steps=60, precision=1e-9
        )
    assert counts.run_noise.measured
    (told,) = (told for told in seen.stages if told.name == "lanczos")
    assert told.note.endswith(", no promise yet")
    assert "noise of the run" in [told.name for told in seen.stages]


def test_a_run_is_looked_at_for_the_eye_twice_a_minute_and_stops_where_it_did(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(deepening.time, "monotonic", lambda: now[0])

    class Slow:
        """Two seconds a product."""

        def __init__(self):
            self.matrix = spectrum()
            self.shape, self.dtype, self.device = self.matrix.shape, self.matrix.dtype, self.matrix.device

        def __matmul__(self, v):
            now[0] += 2.0 * v.shape[1]
            return self.matrix @ v

    plan = {"threshold": TAU, "method": "lanczos", "probes": 2, "steps": 60, "precision": 1e-9}
    alone = count_eigenvalues(Slow(), **plan)
    looks = []

    class Eye(Recorder):
        def opened(self, told):
            super().opened(told)
            say = told.say
            told.say = lambda note: (looks.append((told.name, now[0])), say(note))

    with watching(Eye()):
        seen = count_eigenvalues(Slow(), **plan)
    assert (seen.steps, seen.stopped, str(seen.near_zero)) == (alone.steps, alone.stopped, str(alone.near_zero))
    times = [t for name, t in looks if name == "lanczos"]
    assert max(later - earlier for earlier, later in itertools.pairwise(times)) <= 30 + 4
    assert len(times) > 6  # 240 seconds, looks that count at 16, 21, 27, 34, 43, 54 and 60 steps


def test_an_interrupt_closes_all_stages():
    class Interrupting:
        matrix, products = spectrum(), 0
        shape, dtype, device = matrix.shape, matrix.dtype, matrix.device

        def __matmul__(self, v):
            self.products += v.shape[1]
            if self.products > 60:
                raise KeyboardInterrupt
            return self.matrix @ v

    seen = Recorder()
    with watching(seen), pytest.raises(KeyboardInterrupt) as stop:
        count_eigenvalues(Interrupting(), threshold=TAU, method="lanczos", probes=4, steps=100)
    assert stop.value.counts.steps > 0
    assert not seen.open
    assert seen.failed == ["lanczos"]


def test_a_bar_of_an_enumeration_has_a_total(monkeypatch):
    err = io.StringIO()
    monkeypatch.setattr("sys.stderr", err)
    monkeypatch.setenv("COLUMNS", "200")
    count_eigenvalues(
        spectrum(), threshold=TAU, method="lanczos", enumerate_negative=True, max_products=290, progress=True
    )
    assert re.search(r"enumeration: +\d+%.* \d+/\d+ .*\d+ found below", err.getvalue())
