"""Several thresholds with an S: right together, one S for all of them, within a budget; what an interrupt says."""

from dataclasses import replace

import pytest
import torch
from matrices import Metered, gaussian, intervals, seeded, three
from scipy.stats import binom
from torch import nn

from lanczos_saddle import (
    CongruentEvidence,
    Hessian,
    Interrupted,
    JointCounts,
    SampledEvidence,
    count_eigenvalues,
    exact_eigenvalues,
    recount,
)
from lanczos_saddle.certificates.intervals import Interval
from lanczos_saddle.counting import preconditioned, several
from lanczos_saddle.counting.evidence import FixedEvidence, RunAt, SeveralEvidence
from lanczos_saddle.counting.options import Options
from lanczos_saddle.reports.summary import record_of

F64 = torch.float64
FEW = {-1.0: 13, -0.02: 20, -0.004: 17, 0.0: 70, 0.006: 15, 0.03: 25, 1.0: 30, 2.0: 10}
"""Eight values: recurrences close, and nothing but chance is left."""

VALUES = torch.repeat_interleave(torch.tensor(list(FEW), dtype=F64), torch.tensor(list(FEW.values())))
TAUS = [5e-3, 1e-2, 0.1]
CONFIDENCE, LEVEL = 0.5, 1e-3


def counted(seed, **options):
    given = {"threshold": TAUS, "method": "lanczos", "precision": 1e-9, "confidence": CONFIDENCE, "max_products": 80}
    given["preconditioner"] = torch.eye(len(VALUES), dtype=F64)
    return count_eigenvalues(VALUES.diag(), generator=seeded(seed), **{**given, **options})


def right(found, values=VALUES):
    return all(
        n in interval
        for counts in found
        for n, interval in zip(three(values, counts.threshold), intervals(counts), strict=True)
    )


def test_thresholds_with_a_factor_are_right_together():
    kept = sum(right(counted(seed)) for seed in range(40))
    assert binom.cdf(kept, 40, CONFIDENCE) > LEVEL


@pytest.mark.slow
def test_thresholds_with_a_factor_are_right_together_in_a_thousand():
    kept = sum(right(counted(seed)) for seed in range(1000))
    assert binom.cdf(kept, 1000, CONFIDENCE) > LEVEL


def test_a_chance_that_is_not_shared_is_found_out(monkeypatch):
    """Every threshold at the confidence of all."""
    shared = Options.jointly

    def whole(self, *asked):
        return replace(shared(self, *asked), confidence=self.confidence)

    monkeypatch.setattr(Options, "jointly", whole)
    kept = sum(right(counted(seed)) for seed in range(40))
    assert binom.cdf(kept, 40, CONFIDENCE) < LEVEL


@pytest.mark.parametrize("most", [60, 131, 200, 500])
@pytest.mark.parametrize("taus", [TAUS[:2], TAUS])
def test_no_more_products_than_are_allowed(most, taus):
    metered = Metered(VALUES.diag())
    factor = (0.5 + gaussian(len(VALUES), seed=1).abs()).diag()
    options = {"method": "lanczos", "precision": 1e-9, "preconditioner": factor, "max_products": most}
    found = count_eigenvalues(metered, threshold=taus, generator=seeded(0), **options)
    assert isinstance(found, JointCounts)
    assert metered.columns == found.products == sum(found[0].spent.values()) <= most
    assert [counts.threshold for counts in found] == taus
    assert right(found)
    assert all(isinstance(counts.evidence, CongruentEvidence) and counts.preconditioned for counts in found)
    with pytest.raises(ValueError, match="answers for its own threshold"):
        recount(found[0], taus[1])
    assert intervals(recount(found[1], taus[1])) == intervals(found[1])


def test_thresholds_in_fractions_of_the_largest_have_a_factor_each():
    found = counted(0, threshold=None, relative_threshold=[0.05, 2.5e-3, 5e-3])
    assert right(found)
    assert [counts.threshold / 2 for counts in found] == pytest.approx([0.05, 2.5e-3, 5e-3], rel=1e-3)
    assert [intervals(recount(counts, counts.threshold)) for counts in found] == [intervals(c) for c in found]


def test_a_record_of_several_is_written():
    rows = record_of(counted(0))
    assert [row["threshold"] for row in rows] == TAUS
    assert all(row["joint_confidence"] == CONFIDENCE for row in rows)


# ---- networks ------------------------------------------------------------------------------------------------------


def network(samples=1200):
    generator = seeded(0)
    model = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3)).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    inputs = torch.randn(samples, 5, generator=generator, dtype=F64)
    return Hessian(model, nn.CrossEntropyLoss(), (inputs, torch.randint(3, (samples,), generator=generator)))


@pytest.fixture(scope="module")
def trained():
    hessian = network()
    return hessian, exact_eigenvalues(hessian)


RELATIVE = [0.1, 1e-5, 3e-5]
BUDGET = {"relative_threshold": RELATIVE, "method": "lanczos", "precision": 1e-9, "max_products": 260}


def watched(monkeypatch):
    made = []
    prepare = preconditioned.prepare

    def spy(*asked):
        made.append(prepare(*asked))
        return made[-1]

    monkeypatch.setattr(preconditioned, "prepare", spy)
    return made


def test_one_factor_is_made_for_all_thresholds(trained, monkeypatch):
    hessian, values = trained
    made = watched(monkeypatch)
    found = count_eigenvalues(hessian, preconditioner="subset", **BUDGET)
    assert len(made) == 1
    assert found[0].spent["preconditioner"] == made[0].products
    assert right(found, values)
    assert found.products <= 260
    assert found[0].plan.startswith("subset, ")
    assert found[0].plan.count(" probes x ") == 3


@pytest.fixture
def hopeless(monkeypatch):
    """Whatever is foretold."""
    monkeypatch.setattr(several, "HOPELESS", -1.0)
    monkeypatch.setattr(several, "ENOUGH", 0)


@pytest.mark.usefixtures("hopeless")
def test_large_thresholds_share_a_run_without_a_factor(trained, monkeypatch):
    hessian, values = trained
    made = watched(monkeypatch)
    found = count_eigenvalues(hessian, **BUDGET)
    assert [counts.preconditioned for counts in found] == [False, True, True]
    assert [type(counts.evidence) for counts in found] == [SampledEvidence, CongruentEvidence, CongruentEvidence]
    assert right(found, values)
    assert len(made) == 1
    assert found.products == sum(found[0].spent.values()) <= 260
    assert found[0].plan.startswith("subset, ")
    assert "; plain, " in found[0].plan
    assert [counts.confidence for counts in found] == pytest.approx([1 - 0.05 / 3] * 3)
    assert found.confidence == 0.95


@pytest.mark.usefixtures("hopeless")
def test_without_a_budget_runs_go_to_the_wanted_precision(trained):
    hessian, values = trained
    found = count_eigenvalues(hessian, relative_threshold=RELATIVE, method="lanczos", precision=0.2)
    assert [counts.preconditioned for counts in found] == [False, True, True]
    assert right(found, values)


@pytest.mark.usefixtures("hopeless")
def test_a_state_keeps_runs_of_one_kind(trained, tmp_path):
    hessian, values = trained
    mixed = count_eigenvalues(hessian, state=tmp_path / "mixed", **BUDGET)
    assert [counts.preconditioned for counts in mixed] == [False] * 3
    small = {**BUDGET, "relative_threshold": RELATIVE[1:]}
    first = count_eigenvalues(hessian, state=tmp_path / "small", **small)
    assert [counts.preconditioned for counts in first] == [True] * 2
    assert right(mixed, values)
    assert right(first, values)
    assert [intervals(c) for c in first] == [intervals(c) for c in count_eigenvalues(hessian, **small)]


def test_parts_that_are_too_small_for_a_factor_are_left_to_one_run(trained, monkeypatch):
    monkeypatch.setattr(several, "HOPELESS", -1.0)
    found = count_eigenvalues(trained[0], **BUDGET)
    assert [counts.preconditioned for counts in found] == [False] * 3


@pytest.mark.slow
@pytest.mark.usefixtures("hopeless")
def test_mixed_thresholds_are_right_together_in_a_thousand(trained):
    """Scouting, S, pilots and probes anew for every seed."""
    hessian, values = trained
    given = {**BUDGET, "confidence": CONFIDENCE}
    kept = sum(right(count_eigenvalues(hessian, generator=seeded(seed), **given), values) for seed in range(1000))
    assert binom.cdf(kept, 1000, CONFIDENCE) > LEVEL


@pytest.mark.usefixtures("hopeless")
@pytest.mark.parametrize("begun", [True, False])
def test_an_interrupt_of_the_last_run_says_what_is_known_of_the_smallest(trained, monkeypatch, begun):
    """After its probes have begun, and before."""
    sampled = several.sampled_counts

    def stopped(*asked):
        raise Interrupted(sampled(*asked)) if begun else KeyboardInterrupt

    monkeypatch.setattr(several, "sampled_counts", stopped)
    with pytest.raises(Interrupted) as caught:
        count_eigenvalues(trained[0], **BUDGET)
    known = caught.value.counts
    assert known.threshold == pytest.approx(1e-5 * float(trained[1].abs().max()), rel=1e-3)
    assert known.preconditioned
    assert known.stopped == "interrupted"
    assert known.products == sum(known.spent.values()) <= 260
    assert right([known], trained[1])
    assert known.threshold in [one.threshold for one in caught.value.several]
    assert right(caught.value.several, trained[1])


@pytest.mark.parametrize("begun", [0, 9])
def test_an_interrupt_of_a_later_pair_says_what_is_known_of_the_first(begun, monkeypatch):
    """Before it has made a product, and after nine."""
    finished, done = preconditioned._finished, []

    def once(*asked):
        done.append(finished(*asked) if len(done) != 1 else None)
        if done[-1] is None:
            counts = preconditioned._counts(asked[0], done[:1], "interrupted")
            spent = {**counts.spent, "probes": begun}
            raise Interrupted(counts.__class__(**{**vars(counts), "spent": spent})) if begun else KeyboardInterrupt
        return done[-1]

    monkeypatch.setattr(preconditioned, "_finished", once)
    with pytest.raises(Interrupted) as caught:
        counted(0)
    known = caught.value.counts
    assert known.threshold == TAUS[0]
    assert known.spent["probes"] == done[0].products + begun
    assert right([known])
    assert [one.threshold for one in caught.value.several] == [TAUS[0]]  # nothing is known of the others


def test_evidence_of_several_knows_what_was_asked_alone():
    answer = tuple(Interval(n, float(n), n + 2) for n in (10, 20, 30))
    fixed = FixedEvidence(0.1, answer, 64, 0)
    known = SeveralEvidence((RunAt(0.1, fixed, 2, 5),))
    assert known.intervals(0.1 * (1 + 2e-16), CONFIDENCE) == answer
    with pytest.raises(ValueError, match=r"know the thresholds 0\.1; got 0\.2"):
        known.intervals(0.2, CONFIDENCE)
    assert known.halved().at(0.1).evidence == fixed.halved()
