"""The face: what is exported, and what its smaller functions take."""

import importlib
import pickle

import numpy as np
import pytest
import scipy.sparse
import torch
from matrices import rotated
from oracles import X, Y, mlp
from torch import nn
from torch.nn import functional as F

import lanczos_saddle
from lanczos_saddle import (
    CongruentEvidence,
    EliminatedEvidence,
    FixedEvidence,
    Hessian,
    SampledEvidence,
    SpectrumEvidence,
    count_eigenvalues,
    dead_coordinates,
    extreme_eigenpairs,
    largest_magnitude,
    negative_bound,
    recount,
    rescaling,
    softmax_shift,
)

VALUES = np.concatenate([-np.logspace(-2, 0, 20), np.zeros(10), np.logspace(-2, 0.5, 30)])


def test_everything_is_there_and_documented():
    for name in lanczos_saddle.__all__:
        assert getattr(lanczos_saddle, name).__doc__, name
    assert set(lanczos_saddle.__all__) <= set(dir(lanczos_saddle))
    with pytest.raises(AttributeError, match="'Hesian'"):
        lanczos_saddle.Hesian  # noqa: B018


@pytest.mark.parametrize("power", [-300, -200, -155, 0, 150, 200, 300])
def test_the_largest_magnitude_of_every_size(power):
    matrix = rotated(VALUES) * 2.0 ** (power * 3.3)
    found, _ = largest_magnitude(matrix)
    assert found == pytest.approx(VALUES.max() * 2.0 ** (power * 3.3), rel=1e-9)


def test_eigenpairs_at_both_ends():
    low, high = extreme_eigenpairs(rotated(VALUES), steps=60)
    for found, value in ((low, VALUES.min()), (high, VALUES.max())):
        assert abs(found.quotient - value) <= found.residual + found.error + 1e-9


def test_dead_coordinates_of_whatever_is_a_matrix():
    matrix = np.diag([1.0, 0.0, -2.0])
    for given in (matrix, scipy.sparse.csr_array(matrix), torch.from_numpy(matrix)):
        assert dead_coordinates(given).tolist() == [False, True, False]


def test_facts_are_told_of_a_matrix_and_of_its_problem():
    torch.manual_seed(0)
    model = mlp(nn.ReLU())
    h = Hessian(model, F.cross_entropy, (X, Y))
    assert negative_bound(h) == negative_bound(h.problem) != None  # noqa: E711
    assert torch.equal(softmax_shift(h), softmax_shift(h.problem))
    assert torch.equal(rescaling(h), rescaling(h.problem))


def kinds():
    matrix = rotated(VALUES)
    yield SpectrumEvidence, count_eigenvalues(matrix, threshold=5e-3, method="exact")
    yield SampledEvidence, count_eigenvalues(matrix, threshold=5e-3, method="lanczos", probes=4, steps=30)
    yield FixedEvidence, count_eigenvalues(torch.zeros(5, 5), threshold=5e-3, method="lanczos")
    s = torch.diag(torch.linspace(1, 2, 60, dtype=torch.float64))
    yield (
        CongruentEvidence,
        count_eigenvalues(matrix, threshold=5e-3, method="lanczos", probes=4, steps=30, preconditioner=s),
    )


def test_every_count_has_evidence_that_answers_at_its_own_threshold():
    seen = set()
    for kind, counts in kinds():
        seen.add(type(counts.evidence))
        assert isinstance(counts.evidence, kind)
        assert counts.preconditioned == (kind is CongruentEvidence)
        answer = counts.evidence.intervals(counts.threshold, counts.confidence)
        assert answer == (counts.negative, counts.near_zero, counts.positive)
        assert recount(counts, counts.threshold).negative == counts.negative
        assert sum(counts.spent.values()) == counts.products
        for bad in (float("nan"), -1.0, 0.0, "a"):
            with pytest.raises(ValueError, match="threshold"):
                counts.evidence.intervals(bad, 0.95)
        for bad in (0.0, 2.0, float("nan")):
            with pytest.raises(ValueError, match="confidence"):
                counts.evidence.intervals(counts.threshold, bad)
        again = pickle.loads(pickle.dumps(counts))
        assert again.negative == counts.negative
    assert len(seen) == 4
    assert EliminatedEvidence.__doc__


def test_bands_hold_the_staircase_or_say_why_there_is_none():
    thresholds = np.array([-0.5, -0.02, 0.02, 0.5])
    true = [(thresholds[i] >= VALUES).sum() for i in range(4)]
    for kind, counts in kinds():
        if kind is CongruentEvidence:
            with pytest.raises(ValueError, match="a band needs a count"):
                counts.evidence.band(thresholds, 0.95)
            continue
        band = counts.evidence.band(thresholds, 0.95)
        if kind is FixedEvidence:
            assert band.lower.tolist() == band.upper.tolist() == [0, 0, 5, 5]
        else:
            assert (band.lower <= true).all()
            assert (true <= band.upper).all()
        with pytest.raises(ValueError, match="finite thresholds"):
            counts.evidence.band(np.array([np.nan]), 0.95)


@pytest.mark.parametrize(
    ("package", "name"), [("counting", "count_eigenvalues"), ("counting", "recount"), ("structure", "negative_bound")]
)
def test_what_a_module_had_before_it_became_a_package(package, name):
    module = importlib.import_module(f"lanczos_saddle.{package}")
    with pytest.warns(DeprecationWarning, match=f"{name} is now in"):
        assert getattr(module, name) is getattr(lanczos_saddle, name)
    with pytest.raises(AttributeError, match="nothing"):
        module.nothing  # noqa: B018
