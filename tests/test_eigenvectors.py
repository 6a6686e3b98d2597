"""Eigenpairs at the ends: what their residuals say is true of the dense eigenvalues."""

import numpy as np
import pytest
import torch
from matrices import F64, Metered, as_products, rotated, seeded, symmetric

from lanczos_saddle import eigenpairs

VALUES = np.concatenate([[-5.0, -4.0, -4.0], np.linspace(-1, 1, 100), [3.0, 6.0, 6.0, 7.0]])
MATRIX = rotated(VALUES)


def wanted(which, k):
    order = np.sort(VALUES)
    by_size = VALUES[np.argsort(-np.abs(VALUES), kind="stable")]
    ends = {
        "largest": order[-k:],
        "smallest": order[:k],
        "both": np.r_[order[:k], order[-k:]],
        "magnitude": by_size[:k],
    }
    return ends[which]


@pytest.mark.parametrize("which", ["largest", "smallest", "both", "magnitude"])
@pytest.mark.parametrize("k", [1, 3])
def test_ends_with_multiplicity(which, k):
    operator = Metered(MATRIX)
    found = eigenpairs(operator, k, which)
    np.testing.assert_allclose(found.values.numpy(), wanted(which, k), rtol=0, atol=1e-12)
    assert found.vectors.shape == (len(VALUES), len(found.values))
    torch.testing.assert_close(
        found.vectors.mT @ found.vectors, torch.eye(len(found.values), dtype=F64), rtol=0, atol=1e-10
    )
    explicit = torch.linalg.vector_norm(MATRIX @ found.vectors - found.vectors * found.values, dim=0)
    torch.testing.assert_close(found.residuals, explicit, rtol=0, atol=1e-12)
    assert operator.columns == found.products


def test_residuals_are_right_where_little_was_spent():
    found = eigenpairs(as_products(MATRIX), 3, "largest", max_products=9)
    for value, radius in zip(found.values.tolist(), found.radii.tolist(), strict=True):
        assert radius > 1e-3
        assert np.abs(VALUES - value).min() <= radius
    # three different eigenvalues, each within one radius of its own value
    left = np.sort(VALUES).tolist()
    for value in sorted(found.values.tolist(), reverse=True):
        nearest = min(left, key=lambda x, value=value: abs(x - value))
        assert abs(nearest - value) <= found.together
        left.remove(nearest)


def test_too_narrow_a_radius_would_be_wrong():
    misses = 0
    for seed in range(20):
        found = eigenpairs(as_products(MATRIX), 1, "largest", max_products=6, generator=seeded(seed))
        misses += np.abs(VALUES - float(found.values[0])).min() > float(found.radii[0]) / 20
    assert misses > 0


def test_all_of_a_small_matrix():
    matrix = symmetric(5)
    found = eigenpairs(matrix, 5)
    torch.testing.assert_close(found.values, torch.linalg.eigvalsh(matrix), rtol=0, atol=1e-13)


@pytest.mark.parametrize("options", [{"k": 0}, {"k": 200}, {"k": 60, "which": "both"}, {"which": "top"}, {"k": 1.5}])
def test_misuse_is_refused(options):
    with pytest.raises(ValueError, match=r"k must be|which must be"):
        eigenpairs(MATRIX, **options)


@pytest.mark.parametrize(
    "options", [{"max_products": 0}, {"max_products": -5}, {"tolerance": -1.0}, {"tolerance": np.nan}]
)
def test_budgets_and_tolerances_that_are_none_are_refused(options):
    with pytest.raises(ValueError, match=r"max_products must be|tolerance is"):
        eigenpairs(MATRIX, **options)
