"""PyHessian's calls on this package: shapes as scripts expect them, numbers as dense autodiff and PyHessian have."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lanczos_saddle import Hessian, exact_eigenvalues
from lanczos_saddle.pyhessian import get_esd_plot, hessian
from lanczos_saddle.reports.esd import smoothed

torch.manual_seed(0)
X, Y = torch.randn(60, 6), torch.randint(3, (60,))
MODEL = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))
LOSS = nn.CrossEntropyLoss()
OURS = hessian(MODEL, LOSS, data=(X, Y), cuda=False)
N = sum(p.numel() for p in MODEL.parameters())


def dense(loss=F.cross_entropy):
    """By plain autograd, row by row, in float64; nothing of the package's."""
    parameters = [p.detach().double().requires_grad_() for p in MODEL.parameters()]
    a, b, c, d = parameters
    value = loss((X.double() @ a.T + b).tanh() @ c.T + d, Y)
    slopes = torch.cat([g.reshape(-1) for g in torch.autograd.grad(value, parameters, create_graph=True)])
    rows = [torch.cat([r.reshape(-1) for r in torch.autograd.grad(s, parameters, retain_graph=True)]) for s in slopes]
    return torch.stack(rows)


MATRIX = dense()
VALUES = torch.linalg.eigvalsh(MATRIX).numpy()


def test_eigenvalues_and_vectors_have_pyhessians_shapes():
    values, vectors = OURS.eigenvalues(top_n=3)
    by_size = VALUES[np.argsort(-np.abs(VALUES))][:3]
    np.testing.assert_allclose(values, by_size, rtol=1e-5)
    assert [type(v) for v in values] == [float] * 3
    for value, vector in zip(values, vectors, strict=True):
        assert [part.shape for part in vector] == [p.shape for p in MODEL.parameters()]
        quotient, image = OURS.dataloader_hv_product(vector)
        assert quotient == pytest.approx(value, rel=1e-5)
        assert [part.shape for part in image] == [p.shape for p in MODEL.parameters()]


def test_products_and_gradients_are_those_of_the_dense_matrix():
    v = [torch.randn_like(p) for p in MODEL.parameters()]
    flat = torch.cat([part.reshape(-1) for part in v]).double()
    quotient, image = OURS.dataloader_hv_product(v)
    assert quotient == pytest.approx(float(flat @ MATRIX @ flat), rel=1e-4)
    torch.testing.assert_close(torch.cat([p.reshape(-1) for p in image]).double(), MATRIX @ flat, rtol=1e-4, atol=1e-5)
    slopes = torch.autograd.grad(LOSS(MODEL(X), Y), list(MODEL.parameters()))
    for ours, theirs in zip(OURS.gradsH, slopes, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
    assert all(p.grad is None for p in MODEL.parameters())


def test_the_trace_is_a_list_whose_mean_estimates_it():
    torch.manual_seed(1)
    made = OURS.trace(maxIter=400, tol=1e-6)
    assert len(made) == 400
    assert abs(np.mean(made) - VALUES.sum()) <= 5 * np.std(made) / 20
    off = MATRIX - MATRIX.diag().diag()
    assert np.std(made) == pytest.approx(float((2 * off.square().sum()).sqrt()), rel=0.25)  # of random signs
    few = OURS.trace(maxIter=400, tol=0.5)
    assert len(few) < 400
    assert np.std(few, ddof=1) / np.sqrt(len(few)) <= 0.5 * abs(np.mean(few))


def test_the_density_has_equal_lists_whose_moments_are_those_of_the_spectrum():
    torch.manual_seed(2)
    nodes, weights = OURS.density(iter=100, n_v=40)  # more steps than N: the rest has no weight
    assert len(nodes) == len(weights) == 40
    assert {len(x) for x in (*nodes, *weights)} == {100}
    nodes, weights = np.array(nodes), np.array(weights)
    assert (weights >= 0).all()
    np.testing.assert_allclose(weights.sum(1), 1, atol=1e-9)
    for power in (1, 2, 3):
        found = (weights * nodes**power).sum(1)
        assert abs(found.mean() - (VALUES**power).mean()) <= 5 * found.std() / np.sqrt(40)
    density, axis = smoothed(nodes, weights)
    assert float(density.sum() * (axis[1] - axis[0])) == pytest.approx(1)


def test_the_plot_is_drawn(tmp_path):
    pytest.importorskip("matplotlib", reason="figures need matplotlib")
    get_esd_plot(*OURS.density(iter=20), path=tmp_path / "example.png")
    assert (tmp_path / "example.png").read_bytes()[:4] == b"\x89PNG"
    with pytest.raises(ValueError, match="equal lists"):
        smoothed([[1.0, 2.0]], [[1.0]])


def test_loaders_give_the_mean_over_all_samples():
    batches = [(X[:25], Y[:25]), (X[25:50], Y[25:50]), (X[50:], Y[50:])]  # the last is short
    loaded = hessian(MODEL, LOSS, dataloader=batches, cuda=False)
    assert loaded.full_dataset
    np.testing.assert_allclose(loaded.eigenvalues()[0], VALUES[np.abs(VALUES).argmax()], rtol=1e-5)


def test_a_sum_stays_one_and_wrapped_modules_are_unwrapped():
    summed = hessian(nn.DataParallel(MODEL), nn.CrossEntropyLoss(reduction="sum"), data=(X, Y), cuda=False)
    np.testing.assert_allclose(summed.eigenvalues()[0], 60 * VALUES[np.abs(VALUES).argmax()], rtol=1e-5)


def test_runs_repeat_by_torchs_seed():
    runs = []
    for _ in range(2):
        torch.manual_seed(5)
        runs.append((OURS.trace(maxIter=3), OURS.density(iter=5)))
    assert runs[0] == runs[1]


def test_misuse_is_refused_in_one_line():
    for given in ({}, {"data": (X, Y), "dataloader": [(X, Y)]}):
        with pytest.raises(ValueError, match="one of data"):
            hessian(MODEL, LOSS, **given, cuda=False)
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="pass cuda=False"):
            hessian(MODEL, LOSS, data=(X, Y))


@pytest.mark.parametrize(
    ("call", "given"),
    [
        *(("eigenvalues", {"top_n": n}) for n in (0, -1, N + 1)),
        *(("eigenvalues", {"maxIter": n}) for n in (0, -1)),
        *(("trace", {"maxIter": n}) for n in (0, -1)),
        *(("density", {"iter": n}) for n in (0, -1)),
        *(("density", {"n_v": n}) for n in (0, -1)),
    ],
)
def test_a_number_that_is_none_is_refused_by_the_name_it_was_given(call, given):
    ((name, value),) = given.items()
    with pytest.raises(ValueError, match=rf"^{name} must be at least 1.*; got {value}$"):
        getattr(OURS, call)(**given)


def test_the_operator_answers_everything_else():
    assert isinstance(OURS.operator, Hessian)
    np.testing.assert_allclose(exact_eigenvalues(OURS.operator).numpy(), VALUES, atol=1e-6)


def test_the_library_itself_agrees():
    theirs = pytest.importorskip("pyhessian", reason="pyhessian is not installed here")
    torch.manual_seed(0)
    known = theirs.hessian(MODEL, LOSS, data=(X, Y), cuda=False)
    values, vectors = known.eigenvalues(maxIter=1000, tol=1e-8, top_n=2)
    ours, ours_vectors = OURS.eigenvalues(top_n=2)
    np.testing.assert_allclose(values, ours, rtol=1e-3)
    assert [len(v) for v in vectors] == [len(v) for v in ours_vectors]
    made = known.trace(maxIter=300, tol=0.0)
    assert abs(np.mean(made) - VALUES.sum()) <= 5 * np.std(made) / np.sqrt(len(made))
    MODEL.zero_grad()
