"""H Q = Q T + beta q e' and Q'Q = I at partial depth; extension, lock-step, closing, save and resume."""

import math

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.utils._python_dispatch import TorchDispatchMode

from lanczos_saddle.krylov import lanczos
from lanczos_saddle.krylov.basis import basis_bytes
from lanczos_saddle.krylov.lanczos import CLOSED, Lanczos
from lanczos_saddle.networks.gauss_newton import GaussNewton
from lanczos_saddle.networks.hessian import Hessian
from lanczos_saddle.operators.operator import FromFunction

N = 80
EPS = {torch.float32: 2.0**-23, torch.float64: 2.0**-52}


def dense(dtype=torch.float64, seed=0, values=None):
    generator = torch.Generator().manual_seed(seed)
    q = torch.linalg.qr(torch.randn(N, N, generator=generator, dtype=torch.float64)).Q
    values = torch.randn(N, generator=generator, dtype=torch.float64) if values is None else values
    matrix = (q * values) @ q.mT
    return ((matrix + matrix.mT) / 2).to(dtype)


def probes(m=3, seed=1, size=N):
    return torch.randn(size, m, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def tridiagonal(run, i):
    alpha, beta = (torch.as_tensor(c) for c in run.tridiagonalization().coefficients(i))
    return torch.diag(alpha) + torch.diag(beta[:-1], 1) + torch.diag(beta[:-1], -1), beta[-1]


def coefficients(run):
    result = run.tridiagonalization()
    return result.diagonal, result.offdiagonal, result.lengths, result.norms


def assert_same(run, other):
    for ours, theirs in zip(coefficients(run), coefficients(other), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("dtype", EPS, ids=str)
@pytest.mark.parametrize("k", [1, 5, 30, N])
def test_the_defining_identity_and_orthogonality(k, dtype):
    h = dense(dtype)
    run = Lanczos(h, probes())
    run.extend(k)
    norm = float(torch.linalg.matrix_norm(h.double(), 2))
    eps = EPS[dtype]
    for i in range(3):
        t, beta = tridiagonal(run, i)
        length = len(t)
        basis = run.basis[i, :length].double().mT
        defect = h.double() @ basis - basis @ t
        defect[:, -1] -= beta * run.following[i]
        # per column: the product's rounding (sqrt(N) eps |H|), that of the stored basis on either side, and
        # the residual where the space closes
        assert float(torch.linalg.vector_norm(defect, dim=0).max()) <= (2 * math.sqrt(N) + 2 * CLOSED) * eps * norm
        # twice is enough: columns are orthogonal to the accuracy of the stored basis
        gram = basis.mT @ basis
        assert float((gram - torch.eye(length, dtype=torch.float64)).abs().max()) <= 4 * math.sqrt(N) * eps
        assert float((basis.mT @ run.following[i]).abs().max()) <= 4 * math.sqrt(N) * eps
        torch.testing.assert_close(basis[:, 0], probes()[:, i] / probes()[:, i].norm(), rtol=0, atol=eps)


def test_without_reorthogonalization_the_identity_holds_locally():
    # Paige: every column of H Q = Q T + beta q e' holds to rounding, however much orthogonality is lost
    spectrum = torch.cat([torch.linspace(-1, 1, N - 2, dtype=torch.float64), torch.tensor([40.0, -30.0])])
    h = dense(values=spectrum)
    run = Lanczos(h, probes(1), reorthogonalize=False)
    vectors = [run.following[0]]
    for k in range(1, 61):
        run.extend(k)
        vectors.append(run.following[0])
    alpha, beta = run.tridiagonalization().coefficients(0)
    basis = torch.stack(vectors, dim=1)
    for j in range(60):
        expected = alpha[j] * basis[:, j] + beta[j] * basis[:, j + 1] + (beta[j - 1] * basis[:, j - 1] if j else 0)
        assert float((h @ basis[:, j] - expected).norm()) <= 4 * math.sqrt(N) * EPS[torch.float64] * 40
        assert abs(float(basis[:, j].norm()) - 1) < 4 * EPS[torch.float64]
    assert float((basis.mT @ basis - torch.eye(61, dtype=torch.float64)).abs().max()) > 0.5  # or the test has no point


def test_reorthogonalization_or_not_gives_the_same_coefficients_while_nothing_has_converged():
    ours, plain = (Lanczos(dense(), probes(), reorthogonalize=r).extend(8) for r in (True, False))
    np.testing.assert_allclose(ours.diagonal, plain.diagonal, rtol=0, atol=1e-12)
    np.testing.assert_allclose(ours.offdiagonal, plain.offdiagonal, rtol=0, atol=1e-12)


@pytest.mark.parametrize("reorthogonalize", [True, False])
@pytest.mark.parametrize("capacity", [1, 7, 64])
def test_in_pieces_is_in_one_go_bitwise_whatever_the_capacity(reorthogonalize, capacity):
    pieces = Lanczos(dense(), probes(), reorthogonalize=reorthogonalize, capacity=capacity)
    for steps in (1, 2, 9, 9, 30, 41):
        pieces.extend(steps)
    whole = Lanczos(dense(), probes(), reorthogonalize=reorthogonalize)
    whole.extend(41)
    assert_same(pieces, whole)
    assert torch.equal(pieces.basis, whole.basis)
    assert pieces.products == 3 * 41
    early, shallow = (
        whole.tridiagonalization().truncated(9),
        Lanczos(dense(), probes(), reorthogonalize=reorthogonalize),
    )
    np.testing.assert_array_equal(early.diagonal, shallow.extend(9).diagonal)
    np.testing.assert_array_equal(early.offdiagonal, shallow.extend(9).offdiagonal)
    np.testing.assert_array_equal(early.lengths, [9, 9, 9])


@pytest.mark.parametrize("reorthogonalize", [True, False])
def test_lock_step_is_separate_runs(reorthogonalize):
    # the diagonal product is the same for one column and for many, so nothing may differ beyond the last bits
    diagonal = torch.linspace(-1, 2, N, dtype=torch.float64)
    h = FromFunction(lambda v: diagonal[:, None] * v, N, torch.float64, torch.device("cpu"))
    together = Lanczos(h, probes(4), reorthogonalize=reorthogonalize).extend(12)
    for i in range(4):
        alone = Lanczos(h, probes(4)[:, i : i + 1], reorthogonalize=reorthogonalize).extend(12)
        np.testing.assert_allclose(together.diagonal[i], alone.diagonal[0], rtol=0, atol=1e-12)
        np.testing.assert_allclose(together.offdiagonal[i], alone.offdiagonal[0], rtol=0, atol=1e-12)
        assert together.norms[i] == pytest.approx(float(probes(4)[:, i].norm()), rel=1e-15)


def test_each_probe_costs_one_product_a_step_and_one_block_is_one_call():
    calls = []

    def product(v):
        calls.append(v.shape[1])
        return dense() @ v

    run = Lanczos(FromFunction(product, N, torch.float64, torch.device("cpu")), probes(5))
    run.extend(7)
    assert calls == [5] * 7
    assert run.products == 35


def test_few_distinct_eigenvalues_close_the_space():
    values = torch.tensor([-2.0, 0.0, 0.5, 3.0], dtype=torch.float64).repeat_interleave(N // 4)
    # a product without rounding of its own: a dense one scatters the eigenvalues by sqrt(N) eps
    h = FromFunction(lambda v: values[:, None] * v, N, torch.float64, torch.device("cpu"))
    result = Lanczos(h, probes()).extend(10)
    np.testing.assert_array_equal(result.lengths, [4, 4, 4])
    for i in range(3):
        alpha, beta = result.coefficients(i)
        nodes = np.linalg.eigvalsh(np.diag(alpha) + np.diag(beta[:-1], 1) + np.diag(beta[:-1], -1))
        np.testing.assert_allclose(nodes, [-2, 0, 0.5, 3], atol=1e-13)
        assert beta[-1] <= CLOSED * EPS[torch.float64] * 6
    assert not result.diagonal[:, 4:].any()
    assert not result.offdiagonal[:, 4:].any()


def test_probes_close_separately():
    values = torch.arange(1, N + 1, dtype=torch.float64)
    mixed = probes(3)
    mixed[:, 0] = 0
    mixed[6, 0] = 2.0  # an eigenvector
    mixed[:, 1] = 0
    mixed[[1, 4, 9], 1] = 1.0  # three of them
    h = torch.diag(values)
    result = Lanczos(h, mixed).extend(20)
    np.testing.assert_array_equal(result.lengths, [1, 3, 20])
    assert result.coefficients(0)[0].tolist() == [7.0]
    alone = Lanczos(h, mixed[:, 2:]).extend(20)
    np.testing.assert_allclose(result.diagonal[2], alone.diagonal[0], atol=1e-11)
    assert result.truncated(2).lengths.tolist() == [1, 2, 2]


@pytest.mark.parametrize(
    ("factor", "expected"), [(0.0, 0.0), (1.0, 1.0), (-3.0, -3.0), (1e-100, 1e-100), (1e100, 1e100)]
)
def test_multiples_of_the_identity_close_at_once(factor, expected):
    result = Lanczos(factor * torch.eye(N, dtype=torch.float64), probes()).extend(5)
    np.testing.assert_array_equal(result.lengths, [1, 1, 1])
    np.testing.assert_allclose(result.diagonal[:, 0], expected, rtol=1e-14)
    assert np.isfinite(result.offdiagonal).all()


def test_a_small_residual_is_kept_not_dropped():
    # in float32 a residual of 1e-7 |H| closes the space; to call it zero would move eigenvalues by as much
    diagonal = torch.tensor([1.0] * 10 + [1e-3] * 10 + [1e-3 + 2e-7] * 10, dtype=torch.float32)
    result = Lanczos(torch.diag(diagonal), probes(2, size=30)).extend(6)
    np.testing.assert_array_equal(result.lengths, [2, 2])
    assert (result.offdiagonal[:, 1] > 0).all()


@pytest.mark.parametrize("reorthogonalize", [True, False])
@pytest.mark.parametrize("dtype", EPS, ids=str)
def test_save_and_resume_is_bitwise(tmp_path, dtype, reorthogonalize):
    h = dense(dtype)
    straight = Lanczos(h, probes(), reorthogonalize=reorthogonalize)
    straight.extend(25)
    first = Lanczos(h, probes(), reorthogonalize=reorthogonalize)
    first.extend(11)
    first.save(tmp_path / "run.safetensors")
    second = Lanczos(h, probes(), reorthogonalize=reorthogonalize, capacity=3)
    second.resume(tmp_path / "run.safetensors")
    assert_same(first, second)
    second.extend(25)
    assert_same(straight, second)
    assert torch.equal(straight.basis, second.basis)
    assert [p.name for p in tmp_path.iterdir()] == ["run.safetensors"]


def test_resume_remembers_which_spaces_have_closed(tmp_path):
    mixed = probes(2)
    mixed[:, 0] = 0
    mixed[3, 0] = 1.0
    h = torch.diag(torch.arange(1, N + 1, dtype=torch.float64))
    straight, first, second = (Lanczos(h, mixed) for _ in range(3))
    straight.extend(9)
    first.extend(4)
    first.save(tmp_path / "run")
    second.resume(tmp_path / "run")
    second.extend(9)
    assert_same(straight, second)
    assert straight.tridiagonalization().lengths.tolist() == [1, 9]


def test_resume_refuses_what_is_not_its_own(tmp_path):
    path = tmp_path / "run"
    saved = Lanczos(dense(), probes())
    saved.extend(5)
    saved.save(path)
    refused = [
        (Lanczos(dense(seed=9), probes()), "another operator or to other probes"),
        (Lanczos(dense(), probes(seed=2)), "another operator or to other probes"),
        (Lanczos(dense(), probes(), reorthogonalize=False), "another kind of run"),
        (Lanczos(dense(), probes(2)), "another kind of run"),
        (Lanczos(dense(torch.float32), probes()), "another kind of run"),
    ]
    for run, message in refused:
        with pytest.raises(ValueError, match=message):
            run.resume(path)
        assert run.steps == 0


def test_resume_refuses_damaged_files(tmp_path):
    path, run = tmp_path / "run", Lanczos(dense(), probes())
    saved = Lanczos(dense(), probes())
    saved.extend(5)
    saved.save(path)
    whole = path.read_bytes()
    for damaged in (whole[:-100], whole[:20], b"", b"not a state"):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"must be a state that a count has saved; it cannot be read"):
            run.resume(path)
    path.write_bytes(whole)
    for missing in ("alpha", "current", "scale", "lengths"):
        state = load_file(path)
        del state[missing]
        save_file(state, tmp_path / "partial")
        with pytest.raises(ValueError, match="must be a state"):
            run.resume(tmp_path / "partial")
    assert run.steps == 0


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "run"
    run = Lanczos(dense(), probes())
    run.extend(3)
    run.save(path)
    before = path.read_bytes()
    run.extend(6)
    full = OSError("disk full")
    monkeypatch.setattr("lanczos_saddle.machine.states.save_file", lambda *_, **__: (_ for _ in ()).throw(full))
    with pytest.raises(OSError, match="disk full"):
        run.save(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (torch.ones(N), r"shape \(80, m\), one column a probe; got \(80,\)"),
        (torch.ones(N + 1, 2), r"got \(81, 2\)"),
        (torch.ones(N, 0), r"got \(80, 0\)"),
        (torch.zeros(N, 1), "positive finite norm"),
        (torch.full((N, 1), math.nan), "positive finite norm"),
        (torch.full((N, 1), math.inf), "positive finite norm"),
    ],
)
def test_probes_must_be_nonzero_columns(bad, message):
    with pytest.raises(ValueError, match=message):
        Lanczos(dense(), bad)


@pytest.mark.parametrize("steps", [0, -1, N + 1])
def test_steps_lie_between_one_and_the_dimension(steps):
    with pytest.raises(ValueError, match=f"between 1 and 80, the dimension of the operator; got {steps}"):
        Lanczos(dense(), probes()).extend(steps)


def test_basis_bytes_is_what_the_basis_takes():
    for dtype in EPS:
        h = dense(dtype)
        run = Lanczos(h, probes(3), capacity=10)
        run.extend(10)
        assert run.basis.untyped_storage().nbytes() == basis_bytes(h, 3, 10)


aten = torch.ops.aten
WAITING = {
    aten._local_scalar_dense.default,  # item, bool, float
    aten.equal.default,
    aten.is_nonzero.default,
    aten.nonzero.default,
}


class NothingAsked(TorchDispatchMode):
    """Refuses operations whose result the host has to wait for."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        masks = func is aten.index.Tensor and any(i is not None and i.dtype == torch.bool for i in args[1])
        assert func not in WAITING and not masks, f"{func} waits for the device"  # noqa: PT018
        return func(*args, **(kwargs or {}))


def test_the_check_sees_what_waits():
    x = torch.ones(3)
    for waits in (lambda: x.sum().item(), lambda: bool(x.any()), lambda: x.nonzero(), lambda: x[x > 0]):
        with pytest.raises(AssertionError, match="waits"), NothingAsked():
            waits()


def test_a_run_of_an_operator_that_differs_slightly_is_not_resumed(tmp_path):
    values = torch.full((N,), 5e-9, dtype=torch.float64)
    values[0] = 1.0
    run = Lanczos(torch.diag(values), probes())
    run.extend(3)
    run.save(tmp_path / "run")
    Lanczos(torch.diag(values), probes()).resume(tmp_path / "run")
    values[1:] *= -1
    with pytest.raises(ValueError, match="another operator"):
        Lanczos(torch.diag(values), probes()).resume(tmp_path / "run")


@pytest.mark.parametrize("reorthogonalize", [False, True])
@pytest.mark.parametrize("kind", [Hessian, GaussNewton])
def test_nothing_in_the_recurrence_waits_for_the_device(kind, reorthogonalize, monkeypatch):
    monkeypatch.setattr(lanczos, "on_host", lambda _: False)  # the way that is taken on a device
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(12, 10), torch.nn.ReLU(), torch.nn.Linear(10, 4))
    data = torch.randn(300, 12), torch.randint(0, 4, (300,))
    operator = kind(model, torch.nn.CrossEntropyLoss(), data, dtype=torch.float64)
    run = Lanczos(operator, probes(size=operator.shape[0]), reorthogonalize=reorthogonalize)
    run.advance(1)  # the first product records the operations, and is compared
    with NothingAsked():
        run.advance(12)
    assert run.steps == 12
    assert np.isfinite(run.tridiagonalization().diagonal).all()


@pytest.mark.parametrize("dtype", EPS, ids=str)
@pytest.mark.parametrize("values", [None, torch.tensor([-2.0, 0.0, 0.5, 3.0]).repeat_interleave(N // 4).double()])
def test_the_way_of_a_device_gives_the_same(dtype, values, monkeypatch):
    # of four eigenvalues the space closes, where the product has no rounding of its own
    diagonal = None if values is None else values.to(dtype)[:, None]
    h = dense(dtype) if diagonal is None else FromFunction(lambda v: diagonal * v, N, dtype, torch.device("cpu"))
    here = Lanczos(h, probes()).extend(12)
    monkeypatch.setattr(lanczos, "on_host", lambda _: False)
    there = Lanczos(h, probes()).extend(12)
    assert set(here.lengths) == set(there.lengths) == {12 if values is None else 4}
    for ours, theirs in ((here.diagonal, there.diagonal), (here.offdiagonal, there.offdiagonal)):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=2000 * EPS[dtype])


def test_what_gram_schmidt_shortens_is_orthogonalized_again():
    # w = basis part of norm 1e6 beside one of norm 1: after one pass 1e6 eps are left along the basis
    size = 400
    run = Lanczos(torch.eye(size, dtype=torch.float64), probes(2, size=size), capacity=20)
    run.kept.rows[:] = torch.linalg.qr(probes(20, seed=3, size=size)).Q.mT
    w = probes(2, seed=4, size=size).mT.contiguous()
    w[0] += 1e6 * run.kept.rows[0, 7]
    left = run._orthogonalized(w, 20, torch.linalg.vector_norm(w, dim=1))
    torch.testing.assert_close(left, torch.linalg.vector_norm(w, dim=1), rtol=1e-14, atol=0)
    inside = torch.linalg.vector_norm(run.kept.rows[0, :20] @ w.mT, dim=0) / left
    assert float(inside.max()) <= 20 * EPS[torch.float64]


@pytest.mark.parametrize("m", [1, 3])
def test_neither_probes_nor_products_are_written_into(m):
    kept = probes(m)
    images = []

    class Keeping:
        shape, dtype, device = (N, N), torch.float64, torch.device("cpu")

        def __matmul__(self, v):
            images.append((h @ v, (h @ v).clone()))
            return images[-1][0]

    h, before = dense(), kept.clone()
    run = Lanczos(h, kept)
    run.operator = Keeping()
    run.extend(9)
    assert torch.equal(kept, before)
    assert all(torch.equal(image, copy) for image, copy in images)
