"""One Hessian in five guises gives one count: the intervals are those of the matrix, not of what carries it."""

import warnings

import numpy as np
import pytest
import torch
from torch import nn

from lanczos_saddle import Hessian, as_operator, assemble, count_eigenvalues
from lanczos_saddle.networks.known_hessians import half_squared_error


@pytest.fixture(scope="module")
def problem():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(10, 8), nn.ReLU(), nn.Linear(8, 4)).double()
    inputs, targets = torch.randn(150, 10, dtype=torch.float64), torch.randint(0, 4, (150,))
    return model, nn.CrossEntropyLoss(), (inputs, targets)


@pytest.fixture(scope="module")
def reference(problem):
    return summary(Hessian(*problem))


def summary(operator):
    """The three intervals and what they were made of, from fixed probes; no structure, so that all see the same."""
    counts = count_eigenvalues(
        operator, threshold=1e-3, method="lanczos", probes=5, steps=40, negative_at_most=None, precision=1e-6
    )
    return counts.negative, counts.near_zero, counts.positive, counts.size


def assert_same(found, expected):
    """Equal integers, estimates to a thousandth; structure is known to `Hessian` alone and may only tighten."""
    assert found[3] == expected[3]
    for name, interval, other in zip(("negative", "near zero", "positive"), found[:3], expected[:3], strict=True):
        assert interval.lower <= other.lower <= other.upper <= interval.upper, name
    assert found[2].lower == expected[2].lower
    assert found[2].estimate == pytest.approx(expected[2].estimate, abs=1e-3)


def test_dense_tensor(problem, reference):
    assert_same(summary(assemble(Hessian(*problem)).matrix), reference)


def test_numpy_array(problem, reference):
    assert_same(summary(assemble(Hessian(*problem)).matrix.numpy()), reference)


def test_scipy_linear_operator(problem, reference):
    assert_same(summary(Hessian(*problem).to_scipy()), reference)


def test_callable(problem, reference):
    hessian = Hessian(*problem)
    assert_same(summary(as_operator(lambda v: hessian @ v, hessian.shape[0], dtype=torch.float64)), reference)


def test_curvlinops(problem, reference):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its imports use what torch has deprecated
        curvlinops = pytest.importorskip("curvlinops", reason="curvlinops is a peer for the benchmarks: make bench")
        model, loss, data = problem
        operator = curvlinops.HessianLinearOperator(model, loss, list(model.parameters()), [data])
        assert_same(summary(operator), reference)


def test_the_intervals_hold(problem, reference):
    values = np.linalg.eigvalsh(assemble(Hessian(*problem)).matrix.numpy())
    assert int((values < -1e-3).sum()) in reference[0]
    assert int((np.abs(values) <= 1e-3).sum()) in reference[1]
    assert int((values > 1e-3).sum()) in reference[2]


def test_different_losses_are_different_counts(problem, reference):
    """The comparison has power: another loss on the same network is not mistaken for the same Hessian."""
    model, _, (inputs, targets) = problem
    other = summary(Hessian(model, half_squared_error, (inputs, nn.functional.one_hot(targets, 4).double())))
    assert other[:3] != reference[:3]
