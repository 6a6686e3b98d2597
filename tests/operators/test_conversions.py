"""Out to other libraries and back: the same products, whoever multiplies."""

import numpy as np
import pytest
import torch
from matrices import F64, as_products, gaussian, symmetric
from oracles import X, Y, mlp
from scipy.sparse.linalg import eigsh, lobpcg
from torch.nn import functional as F

from lanczos_saddle import (
    GaussNewton,
    Hessian,
    Restricted,
    Shifted,
    as_operator,
    assemble,
    exact_eigenvalues,
    to_cupy,
    to_curvlinops,
    to_pylops,
    to_scipy,
)
from lanczos_saddle.operators.conversions import shared_products

N = 12
A = symmetric(N)
V = gaussian(N, 3, seed=1)


def everything():
    yield "dense", A, A
    yield "products", as_products(A), A
    yield "shifted", Shifted(A, 0.3), A - 0.3 * torch.eye(N, dtype=F64)
    yield "restricted", Restricted(torch.block_diag(A, torch.eye(3, dtype=F64)), torch.arange(N)), A
    yield "assembled", assemble(as_products(A)), A


@pytest.mark.parametrize(("operator", "dense"), [pytest.param(o, d, id=name) for name, o, d in everything()])
def test_scipy_has_all_four_products(operator, dense):
    out = to_scipy(operator)
    assert out.dtype == np.float64
    wanted = (dense @ V).numpy()
    for made in (
        out.matmat(V.numpy()),
        out.rmatmat(V.numpy()),
        out @ V.numpy(),
        np.stack([out.matvec(v) for v in V.numpy().T], 1),
    ):
        np.testing.assert_allclose(made, wanted, rtol=0, atol=1e-13)
    np.testing.assert_allclose(out.rmatvec(V[:, 0].numpy()), wanted[:, 0], rtol=0, atol=1e-13)
    read_only = V[:, 0].numpy().copy()
    read_only.flags.writeable = False
    np.testing.assert_allclose(out @ read_only, wanted[:, 0], rtol=0, atol=1e-13)
    if not isinstance(operator, torch.Tensor):
        np.testing.assert_array_equal(operator.to_scipy() @ V.numpy(), out @ V.numpy())


def test_complex_operators_come_back_complex():
    b = gaussian(N, N, seed=2)
    matrix = A.numpy() + 1j * (b - b.mT).numpy()
    out = to_scipy(matrix)
    assert out.shape == (N, N)
    assert out.dtype == np.complex128
    v = V.numpy()[:, 0] + 1j * V.numpy()[:, 1]
    np.testing.assert_allclose(out @ v, matrix @ v, rtol=0, atol=1e-12)


def test_scipys_solvers_run_on_a_hessian():
    h = Hessian(mlp(), F.cross_entropy, (X, Y))
    values = exact_eigenvalues(h).numpy()
    rng = np.random.default_rng(0)
    top = eigsh(h.to_scipy(), k=3, which="LA", v0=rng.standard_normal(h.shape[0]), return_eigenvectors=False)
    np.testing.assert_allclose(np.sort(top), values[-3:], rtol=1e-8)
    block, _ = lobpcg(h.to_scipy(), rng.standard_normal((h.shape[0], 3)), tol=1e-6, maxiter=200)
    np.testing.assert_allclose(np.sort(block), values[-3:], rtol=1e-6)
    g = GaussNewton(mlp(), F.cross_entropy, (X, Y))
    np.testing.assert_array_equal(to_scipy(g) @ np.ones(g.shape[0]), (g @ torch.ones(g.shape[0], dtype=F64)).numpy())


def test_cupy_is_for_the_gpu_and_hands_over_memory():
    with pytest.raises(ValueError, match="CuPy multiplies in GPU memory"):
        to_cupy(A)
    # the same hand-over between NumPy and torch, both of which speak DLPack
    products = shared_products(lambda v: as_products(A) @ v, np, np.float64)
    for name in ("matvec", "rmatvec"):
        np.testing.assert_allclose(products[name](V[:, 0].numpy()), (A @ V[:, 0]).numpy(), rtol=0, atol=1e-13)
    transposed = np.asfortranarray(V.numpy()).astype(np.float32)
    np.testing.assert_allclose(products["matmat"](transposed), (A @ V).numpy(), rtol=0, atol=1e-5)


def test_curvlinops_and_back():
    pytest.importorskip("curvlinops", reason="curvlinops-for-pytorch is not installed here")
    from curvlinops import HessianLinearOperator

    model = mlp()
    h = Hessian(model, F.cross_entropy, (X, Y))
    out = h.to_curvlinops()
    v = gaussian(h.shape[0], 2, seed=3)
    assert torch.equal(out @ v, h @ v)
    parts = [
        torch.stack([x.reshape(p.shape) for x in part.unbind(1)], dim=-1)
        for p, part in zip(model.parameters(), v.split([p.numel() for p in model.parameters()]), strict=True)
    ]
    images = out @ parts
    assert [i.shape for i in images] == [p.shape for p in parts]
    torch.testing.assert_close(torch.cat([i.reshape(-1, 2) for i in images]), h @ v, rtol=0, atol=0)
    assert out.adjoint() is out
    torch.testing.assert_close(as_operator(out) @ v, h @ v, rtol=0, atol=0)
    theirs = HessianLinearOperator(model, torch.nn.CrossEntropyLoss(), list(model.parameters()), [(X, Y)])
    torch.testing.assert_close(as_operator(theirs) @ v, h @ v, rtol=0, atol=1e-12)
    assert torch.equal(to_curvlinops(A, [(3, 4)]) @ V, A @ V)
    with pytest.raises(ValueError, match="N = 12 numbers in all"):
        to_curvlinops(A, [(3, 3)])


def test_pylops_and_back():
    pylops = pytest.importorskip("pylops", reason="pylops is not installed here")
    out = to_pylops(A)
    np.testing.assert_allclose(out @ V.numpy(), (A @ V).numpy(), rtol=0, atol=1e-13)
    np.testing.assert_allclose(out.H @ V[:, 0].numpy(), (A @ V[:, 0]).numpy(), rtol=0, atol=1e-13)
    scaled = 2 * out + pylops.Identity(N)
    torch.testing.assert_close(as_operator(scaled) @ V, 2 * A @ V + V, rtol=0, atol=1e-12)
    laplacian = pylops.MatrixMult(A.numpy())
    torch.testing.assert_close(as_operator(laplacian) @ V, A @ V, rtol=0, atol=1e-13)


@pytest.mark.parametrize("name", ["curvlinops", "pylops"])
def test_a_library_that_is_missing_is_named_with_its_extra(name, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, name, None)
    with pytest.raises(ModuleNotFoundError, match=r"lanczos-saddle\[connect\]"):
        {"curvlinops": to_curvlinops, "pylops": to_pylops}[name](A)


def test_a_real_operator_multiplies_complex_vectors_by_their_parts():
    matrix = np.array([[1.0, 2.0], [2.0, -3.0]])
    v = np.array([1.0 + 2j, 3.0 - 1j])
    np.testing.assert_allclose(to_scipy(matrix) @ v, matrix @ v)
