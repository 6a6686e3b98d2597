"""What defects of the products let be counted: judged against the threshold, and refused below it."""

import pytest
import torch
from matrices import gaussian

from lanczos_saddle import Hessian, count_eigenvalues, recount
from lanczos_saddle.krylov.preflight import check_operator
from lanczos_saddle.operators.operator import FromFunction
from lanczos_saddle.operators.resolution import RESOLUTION

N = 120
F64 = torch.float64
DEFECT = 1e-6


def spectrum():
    return torch.linspace(-0.2, 1.0, N, dtype=F64)


def skewed(seed=0):
    """Eigenvalues as in `spectrum`, and a skew part of Frobenius norm DEFECT."""
    q = torch.linalg.qr(gaussian(N, N, seed=seed))[0]
    skew = gaussian(N, N, seed=seed + 1)
    skew = skew - skew.mT
    return (q * spectrum()) @ q.mT + DEFECT * skew / torch.linalg.matrix_norm(skew)


@pytest.mark.parametrize("seed", range(5))
def test_a_skew_part_far_below_the_threshold_passes_and_counts_as_noise(seed):
    with pytest.raises(ValueError, match="must be symmetric"):
        check_operator(skewed(seed))
    check = check_operator(skewed(seed), threshold=0.1)
    assert DEFECT / 3 <= check.defect <= 3 * DEFECT
    assert check.noise >= check.defect / N**0.5 * (1 - 1e-12)
    assert check == check_operator(skewed(seed), relative_threshold=0.11)
    for refused in ({"threshold": RESOLUTION * DEFECT / 3}, {"relative_threshold": RESOLUTION * DEFECT / 3}):
        with pytest.raises(ValueError, match="must be symmetric"):
            check_operator(skewed(seed), **refused)


@pytest.mark.parametrize("method", ["exact", "lanczos"])
def test_counts_with_a_skew_part_hold_and_smaller_thresholds_are_refused(method):
    tau = 0.05
    wanted = int((spectrum() < -tau).sum()), int((spectrum().abs() <= tau).sum()), int((spectrum() > tau).sum())
    budget = {"probes": 8, "steps": 60} if method == "lanczos" else {}
    counts = count_eigenvalues(skewed(), threshold=tau, method=method, **budget)
    for interval, count in zip((counts.negative, counts.near_zero, counts.positive), wanted, strict=True):
        assert interval.lower <= count <= interval.upper
    with pytest.raises(ValueError, match="must be symmetric"):
        count_eigenvalues(skewed(), threshold=RESOLUTION * DEFECT / 3, method=method)
    if method == "lanczos":
        with pytest.raises(ValueError, match="threshold must be at least"):
            recount(counts, RESOLUTION * DEFECT / 3)


def test_products_that_differ_each_time_are_refused_at_any_useful_threshold():
    # dropout: entries change by a tenth; a threshold of half of |H| does not let it pass
    matrix = skewed() + skewed().mT

    def product(v):
        return (matrix @ v) * (torch.rand(N, 1, dtype=F64) > 0.1)

    with pytest.raises(ValueError, match="two products with the same vector must agree"):
        check_operator(FromFunction(product, N, F64, torch.device("cpu")), relative_threshold=0.5)


def saturated(samples=60, width=12, margin=22.0):
    """(Hessian of a linear classifier of two classes whose loss is about exp(-margin), all eigenvalues).

    H = sum_i s_i / n [[1, -1], [-1, 1]] (x) x_i x_i' with s = sigmoid(z) sigmoid(-z), which cancels nothing; autograd
    forms p - p^2 from p = 1 - exp(-margin).
    """
    x = gaussian(samples, width, seed=3)
    weight = gaussian(width, seed=4)
    labels = (x @ weight > 0).long()
    x = x * (margin / (x @ weight).abs()[:, None])
    model = torch.nn.Linear(width, 2, bias=False, dtype=F64)
    with torch.no_grad():
        model.weight.copy_(torch.stack([-weight, weight]) / 2)
    z = x @ weight
    curvature = torch.sigmoid(z) * torch.sigmoid(-z)
    half = torch.linalg.eigvalsh((x.mT * curvature) @ x / samples)
    hessian = Hessian(model, torch.nn.CrossEntropyLoss(), [(x, labels)], dtype=F64)
    return hessian, torch.cat([torch.zeros(width, dtype=F64), 2 * half])


@pytest.mark.parametrize("method", ["exact", "lanczos"])
def test_a_network_whose_loss_is_nearly_zero_is_counted_far_above_its_rounding(method):
    hessian, eigenvalues = saturated()
    with pytest.raises(ValueError, match=r"must be symmetric .* where the loss is so near zero"):
        check_operator(hessian)
    tau = 1e-2 * float(eigenvalues.max())
    counts = count_eigenvalues(hessian, threshold=tau, method=method)
    wanted = 0, int((eigenvalues <= tau).sum()), int((eigenvalues > tau).sum())
    assert 0 < wanted[2] < 12
    for interval, count in zip((counts.negative, counts.near_zero, counts.positive), wanted, strict=True):
        assert interval.lower <= count <= interval.upper
    if method == "exact":
        assert (counts.negative.upper, counts.positive.lower) == (0, wanted[2])
