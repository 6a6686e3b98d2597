"""Gauss-Newton products: equal to H where the model is linear, else against J'SJ assembled densely."""

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from lanczos_saddle.networks.gauss_newton import GaussNewton
from lanczos_saddle.networks.hessian import Hessian

DOUBLE = torch.float64
GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(13, 4, generator=GENERATOR, dtype=DOUBLE)
REAL = torch.randn(13, 3, generator=GENERATOR, dtype=DOUBLE)
Y = torch.randint(3, (13,), generator=GENERATOR)
KEPT = torch.where(Y == 1, -100, Y)


def mlp() -> nn.Module:
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel()), dtype=DOUBLE))
    return model


def softmax_curvature(z: Tensor) -> Tensor:
    """diag(p) - p p' for every sample: (n, C, C)."""
    p = z.softmax(1)
    return torch.diag_embed(p) - p[:, :, None] * p[:, None, :]


def squares(z: Tensor) -> Tensor:
    return (2 / 3 * torch.eye(3, dtype=DOUBLE)).expand(len(z), 3, 3)


CASES = {
    "softmax": (nn.CrossEntropyLoss(), (X, Y), softmax_curvature, torch.ones(13), "forward"),
    "uneven": (F.cross_entropy, [(X[:8], Y[:8]), (X[8:], Y[8:])], softmax_curvature, torch.ones(13), "forward"),
    "ignored": (nn.CrossEntropyLoss(), [(X[:8], KEPT[:8]), (X[8:], KEPT[8:])], softmax_curvature, KEPT >= 0, "forward"),
    "mse": (nn.MSELoss(), [(X[:8], REAL[:8]), (X[8:], REAL[8:])], squares, torch.ones(13), "reverse"),
}


def oracle(model: nn.Module, curvature, weights: Tensor) -> Tensor:
    """sum_i w_i J_i' S_i J_i / sum_i w_i with dense Jacobians by reverse mode."""
    parameters = dict(model.named_parameters())

    def outputs(*values: Tensor) -> Tensor:
        return functional_call(model, dict(zip(parameters, values, strict=True)), (X,))

    blocks = torch.autograd.functional.jacobian(outputs, tuple(parameters.values()))
    jacobian = torch.cat([b.reshape(len(X), 3, -1) for b in blocks], dim=2)
    bent = curvature(model(X).detach()) * weights.to(DOUBLE)[:, None, None]
    return torch.einsum("nci,ncd,ndj->ij", jacobian, bent, jacobian) / weights.sum()


@pytest.mark.parametrize("name", CASES)
def test_equals_the_dense_matrix(name):
    loss, data, curvature, weights, mode = CASES[name]
    model = mlp()
    matrix = GaussNewton(model, loss, data)
    expected = oracle(model, curvature, weights)
    dense = matrix @ torch.eye(matrix.shape[0], dtype=DOUBLE)
    assert matrix.mode == mode
    assert (dense - expected).abs().max() <= 1e-12 * expected.abs().max()
    assert (dense - dense.mT).abs().max() <= 1e-13 * expected.abs().max()
    assert torch.linalg.eigvalsh(dense)[0] >= -1e-13 * expected.norm()  # the loss is convex
    single = matrix @ torch.ones(matrix.shape[0], dtype=DOUBLE)
    torch.testing.assert_close(single, dense.sum(1), rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("name", CASES)
def test_both_modes_and_all_chunks_agree(name):
    loss, data = CASES[name][:2]
    matrix = GaussNewton(mlp(), loss, data)
    block = torch.randn(matrix.shape[0], 3, generator=torch.Generator().manual_seed(1), dtype=DOUBLE)
    image = matrix @ block
    small = GaussNewton(mlp(), loss, data, memory=matrix.predict(1, 1))
    matrix.mode = "reverse"
    for other in (matrix @ block, small @ block):
        assert (other - image).norm() <= 1e-13 * image.norm()


@pytest.mark.parametrize("name", CASES)
def test_is_the_hessian_of_a_linear_model(name):
    loss, data = CASES[name][:2]
    model = nn.Linear(4, 3).double()
    eye = torch.eye(15, dtype=DOUBLE)
    torch.testing.assert_close(
        GaussNewton(model, loss, data) @ eye, Hessian(model, loss, data) @ eye, rtol=1e-12, atol=1e-14
    )


def test_scipy_dtype_and_selection():
    matrix = GaussNewton(mlp(), nn.CrossEntropyLoss(), (X, Y), parameters="2.*")
    v = torch.ones(matrix.shape[0], dtype=DOUBLE)
    assert matrix.shape == (18, 18)
    torch.testing.assert_close(torch.from_numpy(matrix.to_scipy() @ v.numpy()), matrix @ v, rtol=0, atol=0)
    single = matrix.to(torch.float32) @ v.float()
    torch.testing.assert_close(single, (matrix @ v).float(), rtol=1e-4, atol=1e-6)


def test_wrong_vectors():
    with pytest.raises(ValueError, match=r"multiplies shapes \(43,\) and \(43, k\); got \(4,\)"):
        GaussNewton(mlp(), nn.CrossEntropyLoss(), (X, Y)) @ torch.ones(4, dtype=DOUBLE)
