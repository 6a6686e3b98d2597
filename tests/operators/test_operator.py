"""The protocol, the wrappers against dense matrices, and every way in; the symmetry law on each of them."""

import numpy as np
import pytest
import scipy.sparse
import scipy.sparse.linalg
import torch
from matrices import symmetric

from lanczos_saddle.operators.operator import (
    FromFunction,
    Operator,
    Projected,
    Restricted,
    Shifted,
    as_operator,
    to_scipy,
)

N = 12
EPS = {torch.float32: 2.0**-23, torch.float64: 2.0**-52}


class DuckType:
    """What curvlinops operators look like: shape, dtype, device and @, and nothing that we know of."""

    def __init__(self, matrix):
        self.matrix, self.shape, self.dtype, self.device = matrix, matrix.shape, matrix.dtype, matrix.device

    def __matmul__(self, v):
        return self.matrix @ v


WAYS_IN = {
    "torch": lambda a: as_operator(a),
    "numpy": lambda a: as_operator(a.numpy()),
    "fortran order": lambda a: as_operator(np.asfortranarray(a.numpy())),
    "sparse": lambda a: as_operator(scipy.sparse.csr_array(a.numpy())),
    "LinearOperator": lambda a: as_operator(scipy.sparse.linalg.aslinearoperator(a.numpy())),
    "callable": lambda a: as_operator(lambda v: a @ v, N, dtype=a.dtype),
    "duck type": lambda a: as_operator(DuckType(a)),
    "shifted": lambda a: Shifted(a + 0.75 * torch.eye(N, dtype=a.dtype), 0.75),
    "restricted": lambda a: Restricted(torch.block_diag(a, torch.eye(3, dtype=a.dtype)), torch.arange(N)),
    "projected": lambda a: Projected(a, torch.zeros(N, 2, dtype=a.dtype)),
    "round trip": lambda a: as_operator(to_scipy(as_operator(a))),
    "other type": lambda a: as_operator(DuckType(a.double()), dtype=a.dtype),
}


@pytest.mark.parametrize("dtype", EPS, ids=str)
@pytest.mark.parametrize("way", WAYS_IN)
def test_every_way_in_multiplies_like_the_matrix_and_is_symmetric(way, dtype):
    dense = symmetric(N, dtype=dtype)
    operator = WAYS_IN[way](dense)
    assert isinstance(operator, Operator)
    assert tuple(operator.shape) == (N, N)
    assert operator.dtype == dtype
    assert operator.device == torch.device("cpu")
    block = torch.randn(N, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)
    bound = 4 * N * EPS[dtype] * float(dense.double().abs().sum(1).max() * block.double().abs().max())
    images = operator @ block
    assert images.dtype == dtype
    assert images.shape == block.shape
    assert float((images.double() - dense.double() @ block.double()).abs().max()) <= bound
    assert (operator @ block[:, 0]).shape == (N,)
    assert float(((operator @ block[:, 0]) - images[:, 0]).double().abs().max()) <= bound
    u, v = block[:, 0], block[:, 1]
    left, right = u.double() @ (operator @ v).double(), v.double() @ (operator @ u).double()
    assert abs(float(left - right)) <= N * bound * float(block.double().abs().max())


@pytest.mark.parametrize("dtype", EPS, ids=str)
def test_to_scipy_speaks_numpy_and_feeds_eigsh(dtype):
    dense = symmetric(N, dtype=dtype)
    operator = to_scipy(dense)
    block = np.random.default_rng(0).standard_normal((N, 4)).astype(operator.dtype)
    assert operator.dtype == dense.numpy().dtype
    np.testing.assert_array_equal(operator @ block, (dense @ torch.from_numpy(block)).numpy())
    np.testing.assert_array_equal(operator.T @ block[:, 0], operator @ block[:, 0])
    top = scipy.sparse.linalg.eigsh(operator, k=1, v0=np.ones(N, operator.dtype), return_eigenvectors=False)[0]
    values = torch.linalg.eigvalsh(dense.double())
    assert abs(float(top)) == pytest.approx(float(values.abs().max()), rel=100 * N * EPS[dtype])


def test_wrappers_against_dense():
    dense = symmetric(N)
    v = torch.randn(N, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    eye = torch.eye(N, dtype=torch.float64)
    torch.testing.assert_close(Shifted(dense, 0.3) @ v, (dense - 0.3 * eye) @ v, rtol=0, atol=1e-14)
    index = torch.tensor([0, 3, 4, 9])
    restricted = Restricted(dense, index)
    assert restricted.shape == (4, 4)
    torch.testing.assert_close(restricted @ v[:4], dense[index][:, index] @ v[:4], rtol=0, atol=1e-14)
    torch.testing.assert_close(restricted @ v[:4, 0], dense[index][:, index] @ v[:4, 0], rtol=0, atol=1e-14)
    nulls = torch.linalg.qr(v).Q
    projector = eye - nulls @ nulls.mT
    projected = Projected(dense, nulls)
    torch.testing.assert_close(projected @ v, projector @ dense @ projector @ v, rtol=0, atol=1e-13)
    assert float((projected @ nulls).abs().max()) < 1e-14


def test_a_dense_tensor_passes_through_without_its_graph():
    dense = symmetric(N).requires_grad_()
    assert not as_operator(dense).requires_grad
    assert as_operator(dense).data_ptr() == dense.data_ptr()


def test_conversion_changes_type():
    dense = symmetric(N)
    assert as_operator(dense, dtype=torch.float32).dtype == torch.float32
    assert as_operator(dense.numpy(), dtype=torch.float32).dtype == torch.float32
    sparse = as_operator(scipy.sparse.csr_array(dense.numpy()), dtype=torch.float32)
    v = torch.ones(N, dtype=torch.float32)
    assert (sparse @ v).dtype == torch.float32


@pytest.mark.parametrize(
    ("source", "arguments", "message"),
    [
        (torch.zeros(3, 4), {}, r"square, \(N, N\) with N >= 1; got shape \(3, 4\)"),
        (torch.zeros(3), {}, r"got shape \(3,\)"),
        (torch.zeros(0, 0), {}, r"got shape \(0, 0\)"),
        (np.zeros((2, 3)), {}, r"got shape \(2, 3\)"),
        (scipy.sparse.csr_array(np.zeros((2, 3))), {}, r"got shape \(2, 3\)"),
        (np.array([["1", "2"], ["2", "3"]]), {}, "must be made of numbers; got <U1"),
        (np.array([[None, 1], [1, 2]]), {}, "must be made of numbers; got objects"),
        (np.array([["1", 2], [2, 3]], dtype=object), {}, "must be made of numbers; got objects"),
        (np.zeros((2, 2), dtype="datetime64[s]"), {}, "must be made of numbers; got datetime64"),
        (np.ma.masked_equal(np.eye(2), 0), {}, r"masked array: fill it, A.filled\(value\)"),
        (torch.empty(3, 3, device="meta"), {}, "must hold its numbers; got a meta tensor"),
        (np.eye(2), {"dtype": torch.float16}, r"works in torch.float32 or torch.float64; got dtype=torch.float16"),
        (np.eye(2), {"dtype": torch.int64}, r"works in torch.float32 or torch.float64; got dtype=torch.int64"),
        (np.eye(2), {"dtype": "text"}, "a type must be one of torch or NumPy"),
        (lambda v: v, {"size": 2.5}, "got N = 2.5"),
        (lambda v: v, {}, r"as_operator\(function, N\) with N >= 1; got N = None"),
        (lambda v: v, {"size": 0}, "got N = 0"),
        ("matrix", {}, r"a matrix file ends in \.mtx, \.npz, \.npy; got matrix"),
    ],
)
def test_what_is_no_operator_is_refused(source, arguments, message):
    with pytest.raises(ValueError, match=message):
        as_operator(source, **arguments)


@pytest.mark.parametrize(
    ("v", "message"),
    [
        (torch.zeros(5), r"shapes \(4,\) and \(4, k\); got \(5,\)"),
        (torch.zeros(4, 1, 1), r"got \(4, 1, 1\)"),
        (torch.zeros(4, dtype=torch.float64), r"works in torch.float32 on cpu; got torch.float64 on cpu: convert"),
        (np.zeros(4), "multiplies torch tensors; got ndarray"),
    ],
)
def test_vectors_that_do_not_fit_are_refused(v, message):
    with pytest.raises(ValueError, match=message):
        FromFunction(lambda block: block, 4, torch.float32, torch.device("cpu")) @ v


@pytest.mark.parametrize(
    ("function", "got"),
    [
        (lambda v: v[:2], r"\(4, 1\); got \(2, 1\)"),
        (lambda v: v.numpy()[:, 0], r"\(4, 1\); got \(4,\)"),
        (lambda _: None, "got NoneType"),
    ],
)
def test_a_callable_must_return_the_shape_it_was_given(function, got):
    with pytest.raises(ValueError, match="must return a tensor or an array of the shape it was given.*" + got):
        as_operator(function, 4) @ torch.zeros(4)
