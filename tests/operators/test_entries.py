"""Whatever enters as an operator is counted as what it says, or refused on one line; oracle: NumPy's eigenvalues."""

import numpy as np
import pytest
import scipy.sparse as sp
import scipy.sparse.linalg as sla
import torch
from matrices import ends, three

from lanczos_saddle import (
    as_operator,
    assemble,
    classify,
    count_eigenvalues,
    exact_eigenvalues,
    inertia,
    negative_eigenvectors,
    recount,
    spectral_density,
)
from lanczos_saddle.krylov.preflight import check_operator
from lanczos_saddle.operators.hermitian import Hermitian

F64, C128 = torch.float64, torch.complex128


def whole_numbers(size=24, seed=0):
    """A symmetric matrix of whole numbers, which every type holds."""
    a = np.random.default_rng(seed).integers(-3, 4, (size, size))
    return np.triu(a) + np.triu(a, 1).T


A = whole_numbers()
TRUTH = np.linalg.eigvalsh(A.astype(float))
TAU = 1.0


class Frame:
    """What pandas and polars have: values by name, and to_numpy."""

    def __init__(self, values):
        self._values, self.shape = values, values.shape

    def to_numpy(self):
        return self._values


class Silent:
    """A shape and @ on arrays, no dtype."""

    shape = A.shape

    def __matmul__(self, v):
        assert isinstance(v, np.ndarray)
        return A @ v


class SilentTorch:
    shape = A.shape

    def __matmul__(self, v):
        return torch.from_numpy(A).to(v.dtype) @ v


class Whole:
    """Speaks torch, says int64."""

    shape, dtype, device = A.shape, torch.int64, torch.device("cpu")

    def __matmul__(self, v):
        return torch.from_numpy(A).to(v.dtype) @ v


class Half(Whole):
    dtype = torch.bfloat16


def read_only(a):
    a = a.copy()
    a.flags.writeable = False
    return a


def mapped(a, folder):
    path = folder / "matrix.npy"
    np.save(path, a)
    return np.load(path, mmap_mode="r")


def linear_operator_without_dtype():
    made = sla.LinearOperator(A.shape, matvec=lambda v: A @ v, dtype=np.float64)
    made.dtype = None
    return made


def swapped(dtype):
    return A.astype(np.dtype(dtype).newbyteorder())


DENSE = {
    **{name: lambda name=name: A.astype(name) for name in ("int8", "int16", "int32", "int64")},
    **{name: lambda name=name: A.astype(name) for name in ("float16", "float32", "float64", "longdouble", "object")},
    **{f"swapped {name}": lambda name=name: swapped(name) for name in ("int16", "int64", "float32", "float64")},
    "fractions": lambda: np.vectorize(lambda x: __import__("fractions").Fraction(int(x)))(A),
    "decimals": lambda: np.vectorize(lambda x: __import__("decimal").Decimal(int(x)))(A),
    "clongdouble, real": lambda: A.astype(np.clongdouble),
    "complex64, real": lambda: A.astype(np.complex64),
    "matrix": lambda: np.asmatrix(A),
    "masked, nothing": lambda: np.ma.masked_array(A, mask=False),
    "frame": lambda: Frame(A),
    "frame of objects": lambda: Frame(A.astype(object)),
    "read-only": lambda: read_only(A.astype(float)),
    "every second entry": lambda: np.repeat(np.repeat(A.astype(float), 2, 0), 2, 1)[::2, ::2],
    "transposed": lambda: A.astype(float).T,
    **{f"torch {t}": lambda t=t: torch.from_numpy(A).to(t) for t in (torch.int8, torch.int32, torch.int64)},
    **{f"torch {t}": lambda t=t: torch.from_numpy(A).to(t) for t in (torch.float16, torch.bfloat16, torch.float32)},
    "torch parameter": lambda: torch.nn.Parameter(torch.from_numpy(A).to(F64)),
}
SPARSE = {
    **{f: lambda f=f: getattr(sp, f"{f}_matrix")(A) for f in ("csr", "csc", "coo", "bsr", "dia", "dok", "lil")},
    **{
        f"{f} array": lambda f=f: getattr(sp, f"{f}_array")(A)
        for f in ("csr", "csc", "coo", "bsr", "dia", "dok", "lil")
    },
    **{f"csr {t}": lambda t=t: sp.csr_array(A.astype(t)) for t in ("int8", "float32", "float64", "longdouble")},
    "csr complex, real": lambda: sp.csr_array(A.astype(complex)),
    "torch coo": lambda: torch.from_numpy(A).to_sparse(),
    "torch coo float32": lambda: torch.from_numpy(A).float().to_sparse(),
    "torch csr": lambda: torch.from_numpy(A).to_sparse_csr(),
    "torch csr float64": lambda: torch.from_numpy(A).double().to_sparse_csr(),
    "torch csc": lambda: torch.from_numpy(A).double().to_sparse_csc(),
    "torch bsr": lambda: torch.from_numpy(A).double().to_sparse_bsr((4, 4)),
    "torch bsc": lambda: torch.from_numpy(A).double().to_sparse_bsc((4, 4)),
    "torch coo, not coalesced": lambda: torch.sparse_coo_tensor(
        np.stack([np.tile(x.ravel(), 2) for x in np.indices(A.shape)]), np.tile(A.ravel() / 2, 2), A.shape
    ),
}
PRODUCTS = {
    "silent": Silent,
    "silent torch": SilentTorch,
    "says int64": Whole,
    "says bfloat16": Half,
    "LinearOperator int": lambda: sla.aslinearoperator(A),
    "LinearOperator int8": lambda: sla.aslinearoperator(A.astype(np.int8)),
    "LinearOperator no dtype": linear_operator_without_dtype,
    "LinearOperator sum": lambda: sla.aslinearoperator(A) + sla.aslinearoperator(np.zeros_like(A)),
    "LinearOperator matvec": lambda: sla.LinearOperator(A.shape, matvec=lambda v: A @ v),
    "callable numpy": lambda: as_operator(lambda v: A @ v.numpy(), len(A), dtype=F64),
    "callable float32": lambda: as_operator(lambda v: torch.from_numpy(A).float() @ v.float(), len(A), dtype=F64),
    "callable list of rows": lambda: as_operator(lambda v: np.asarray((A @ v.numpy()).tolist()), len(A), dtype=F64),
}


@pytest.mark.parametrize("dtype", [None, torch.float64, np.float64])
@pytest.mark.parametrize("name", [*DENSE, *SPARSE, *PRODUCTS])
@pytest.mark.filterwarnings("ignore:Sparse:UserWarning")
@pytest.mark.filterwarnings("ignore:the matrix subclass:PendingDeprecationWarning")
def test_every_way_to_hold_whole_numbers_is_counted(name, dtype):
    source = {**DENSE, **SPARSE, **PRODUCTS}[name]()
    source = source if dtype is None else as_operator(source, dtype=dtype)
    kept = dtype is None and ("float32" in name or "complex64" in name) and "callable" not in name
    assert as_operator(source).dtype == (torch.float32 if kept else F64)
    if kept:  # a sparse or a duck-typed one is multiplied in float32
        exact = count_eigenvalues(source, threshold=TAU, method="exact")
        assert all(low <= n <= high for (low, high), n in zip(ends(exact), three(TRUTH, TAU), strict=True))
        return
    if name in ("callable float32", "says bfloat16"):
        return  # noise of its own
    assert ends(count_eigenvalues(source, threshold=TAU)) == [(n, n) for n in three(TRUTH, TAU)]
    assert inertia(source, 0.5) == (int((TRUTH < 0.5).sum()), int((TRUTH > 0.5).sum()))
    np.testing.assert_allclose(exact_eigenvalues(source).numpy(), TRUTH, atol=1e-12)
    sampled = count_eigenvalues(source, threshold=TAU, method="lanczos", probes=4)
    assert all(low <= n <= high for (low, high), n in zip(ends(sampled), three(TRUTH, TAU), strict=True))


def test_a_memory_map_is_counted(tmp_path):
    source = mapped(A.astype(float), tmp_path)
    assert ends(count_eigenvalues(source, threshold=TAU)) == [(n, n) for n in three(TRUTH, TAU)]
    exact_eigenvalues(source, overwrite=True)  # the file is not what is overwritten
    np.testing.assert_array_equal(np.load(tmp_path / "matrix.npy"), A)


def test_data_frames_of_pandas():
    pandas = pytest.importorskip("pandas")
    assert ends(count_eigenvalues(pandas.DataFrame(A), threshold=TAU)) == [(n, n) for n in three(TRUTH, TAU)]


def test_bool_matrices_are_graphs():
    graph = np.abs(A) > 2
    values = np.linalg.eigvalsh(graph.astype(float))
    for source in (graph, torch.from_numpy(graph), sp.csr_array(graph), torch.from_numpy(graph).to_sparse()):
        assert ends(count_eigenvalues(source, threshold=0.3)) == [(n, n) for n in three(values, 0.3)]


# complex Hermitian


def hermitian(size=20, seed=0):
    rng = np.random.default_rng(seed)
    a = rng.standard_normal((size, size)) + 1j * rng.standard_normal((size, size))
    return (a + a.conj().T) / 2


H = hermitian()
VALUES = np.linalg.eigvalsh(H)


class ComplexDuck:
    shape, dtype, device = H.shape, C128, torch.device("cpu")

    def __matmul__(self, v):
        return torch.from_numpy(H) @ v


COMPLEX = {
    "numpy": lambda: H,
    "torch": lambda: torch.from_numpy(H),
    "clongdouble": lambda: H.astype(np.clongdouble),
    "objects": lambda: H.astype(object),
    "swapped": lambda: H.astype(np.dtype(complex).newbyteorder()),
    "csr": lambda: sp.csr_array(H),
    "coo": lambda: sp.coo_array(H),
    "torch coo": lambda: torch.from_numpy(H).to_sparse(),
    "LinearOperator": lambda: sla.aslinearoperator(H),
    "matvec": lambda: sla.LinearOperator(H.shape, matvec=lambda v: H @ v, dtype=complex),
    "callable": lambda: as_operator(lambda v: torch.from_numpy(H) @ v, len(H), dtype=C128),
    "callable numpy": lambda: as_operator(lambda v: H @ v.numpy(), len(H), dtype=C128),
    "torch duck": ComplexDuck,
}


@pytest.mark.parametrize("dtype", [None, F64, C128])
@pytest.mark.parametrize("name", COMPLEX)
def test_complex_hermitian_operators_are_counted(name, dtype):
    source = COMPLEX[name]()
    source = source if dtype is None else as_operator(source, dtype=dtype)
    assert isinstance(as_operator(source), Hermitian)
    tau = 0.7
    wanted = three(VALUES, tau)
    exact = count_eigenvalues(source, threshold=tau)
    assert ends(exact) == [(n, n) for n in wanted]
    assert exact.size == 20
    assert ends(recount(exact, 0.2)) == [(n, n) for n in three(VALUES, 0.2)]
    np.testing.assert_allclose(exact.eigenvalues.numpy(), VALUES, atol=1e-12)
    np.testing.assert_allclose(exact_eigenvalues(source).numpy(), VALUES, atol=1e-12)
    assert inertia(source, 0.1) == (int((VALUES < 0.1).sum()), int((VALUES > 0.1).sum()))
    sampled = count_eigenvalues(source, threshold=tau, method="lanczos", probes=4, precision=1e-9)
    for counts, truth in ((sampled, wanted), (recount(sampled, 0.2), three(VALUES, 0.2))):
        assert all(low <= n <= high for (low, high), n in zip(ends(counts), truth, strict=True))
        assert counts.size == 20
    band = sampled.evidence.band(np.array([-1.0, 0.5, 2.0]), 0.95)
    true = np.array([(t >= VALUES).sum() for t in band.thresholds])
    assert ((band.lower <= true) & (true <= band.upper)).all()
    density = spectral_density(source, probes=4, steps=40)
    assert density.size == 20
    assert (density.weights[density.nodes < -1].sum() * 20) == pytest.approx((VALUES < -1).sum(), abs=3)


def test_complex64_is_counted_in_float32():
    source = H.astype(np.complex64)
    assert as_operator(source).dtype == torch.float32
    assert ends(count_eigenvalues(source, threshold=0.7)) == [(n, n) for n in three(VALUES, 0.7)]


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_small_complex_operators(size):
    h = hermitian(size, seed=size)
    values = np.linalg.eigvalsh(h)
    for method in ("exact", "lanczos"):
        counts = count_eigenvalues(h, threshold=0.1, method=method)
        assert all(low <= n <= high for (low, high), n in zip(ends(counts), three(values, 0.1), strict=True))
        assert counts.size == size


def test_dead_coordinates_budgets_and_bounds_of_a_complex_operator():
    h = np.zeros((60, 60), complex)
    h[:40, :40] = hermitian(40)
    values = np.linalg.eigvalsh(h)
    tau = 0.3
    negative = int((values < 0).sum())
    counts = count_eigenvalues(
        h, threshold=tau, method="lanczos", max_products=300, negative_at_most=negative, precision=1e-9
    )
    assert counts.dead == 20
    assert counts.products <= 300
    assert counts.negative.upper <= negative
    assert all(low <= n <= high for (low, high), n in zip(ends(counts), three(values, tau), strict=True))


def test_what_does_not_halve_refuses_a_complex_operator():
    for call in (assemble, lambda h: classify(h, threshold=0.1)):
        with pytest.raises(ValueError, match="takes a real symmetric operator; got a complex Hermitian one"):
            call(H)
    with pytest.raises(ValueError, match="takes a real symmetric operator"):
        negative_eigenvectors(as_operator(H), 0.1, check_operator(as_operator(H)))
    with pytest.raises(ValueError, match="must be symmetric"):
        count_eigenvalues(H + 0.1j * np.triu(np.ones((20, 20))), threshold=0.1)


def test_an_imaginary_part_is_never_dropped():
    for source in (
        sla.LinearOperator(H.shape, matvec=lambda v: H @ v, dtype=float),
        as_operator(lambda v: H @ v.numpy(), 20),
    ):
        with pytest.raises(ValueError, match=r"must be real; got torch.complex128: .*dtype=torch.complex128"):
            count_eigenvalues(source, threshold=0.1)


# numbers


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("max_products", 600.0),
        ("max_products", np.int32(600)),
        ("max_products", torch.tensor(600)),
        ("probes", 4.0),
        ("probes", np.uint8(4)),
        ("steps", np.float64(20)),
        ("steps", torch.tensor(20.0)),
        ("confidence", np.float32(0.9)),
        ("confidence", torch.tensor(0.9)),
        ("precision", np.array(0.1)),
        ("threshold", torch.tensor(0.1)),
        ("threshold", np.float16(0.1)),
        ("threshold", np.array(0.1)),
        ("negative_at_most", 100.0),
    ],
)
def test_numbers_are_taken_by_value(option, value):
    diagonal = np.linspace(-1, 1, 200)
    plain = value.item() if hasattr(value, "item") else value
    wanted = int(plain) if option in ("max_products", "probes", "steps", "negative_at_most") else plain
    options = {"threshold": 0.1, "method": "lanczos"}
    one, other = (count_eigenvalues(np.diag(diagonal), **{**options, option: x}) for x in (value, wanted))
    assert ends(one) == ends(other)
    assert one.products == other.products


@pytest.mark.parametrize(
    "value", [True, np.True_, "4", "0.9", 4.5, 30.5, float("nan"), float("inf"), [4], None, 1 + 0j]
)
@pytest.mark.parametrize("option", ["max_products", "probes", "steps", "negative_at_most"])
def test_what_is_no_whole_number_is_refused_by_name(option, value):
    if value is None:
        return
    with pytest.raises(ValueError, match=rf"^{option} must be a whole number; got "):
        count_eigenvalues(np.eye(200), threshold=0.1, method="lanczos", **{option: value})


@pytest.mark.parametrize("value", [True, "0.9", [0.1], np.ones(2), 1j, torch.ones(1)])
@pytest.mark.parametrize("option", ["threshold", "confidence", "precision"])
def test_what_is_no_number_is_refused_by_name(option, value):
    several = option == "threshold" and not isinstance(value, bool | str | complex)  # each of them is a number, or not
    if not several:
        with pytest.raises(ValueError, match=rf"^{option} must be a number; got "):
            count_eigenvalues(np.eye(200), **{"threshold": 0.1, option: value})
    with pytest.raises(ValueError, match=r"^t must be a number; got "):
        inertia(np.eye(3), value)


# copies


def scribbling(matrix):
    def product(v):
        out = matrix @ v
        v.fill_(float("nan")) if isinstance(v, torch.Tensor) else v.fill(np.nan)
        return out

    return product


def reusing(matrix):
    buffers = {}

    def product(v):
        buffer = buffers.setdefault(tuple(v.shape), torch.empty_like(v))
        return torch.matmul(matrix, v, out=buffer)

    return product


def in_place(matrix):
    def product(v):
        return v.copy_(matrix @ v)

    return product


class Duck:
    """Speaks torch, and multiplies by a function of its own."""

    dtype, device = F64, torch.device("cpu")

    def __init__(self, product, size):
        self.product, self.shape = product, (size, size)

    def __matmul__(self, v):
        return self.product(v)


def numpy_buffer(matrix):
    buffer = np.empty(len(matrix))

    def matvec(v):
        buffer[:] = matrix @ v.ravel()
        v[...] = 7
        return buffer

    return sla.LinearOperator(matrix.shape, matvec=matvec, dtype=float)


SPREAD = torch.linspace(-1, 2, 90, dtype=F64)
ROTATION = torch.linalg.qr(torch.randn(90, 90, generator=torch.Generator().manual_seed(3), dtype=F64)).Q
FULL = (ROTATION * SPREAD) @ ROTATION.mT
CARELESS = {
    "writes": lambda: as_operator(scribbling(FULL), 90, dtype=F64),
    "reuses": lambda: as_operator(reusing(FULL), 90, dtype=F64),
    "in place": lambda: as_operator(in_place(FULL), 90, dtype=F64),
    "duck writes": lambda: Duck(scribbling(FULL), 90),
    "duck reuses": lambda: Duck(reusing(FULL), 90),
    "duck in place": lambda: Duck(in_place(FULL), 90),
    "LinearOperator": lambda: numpy_buffer(FULL.numpy()),
    "LinearOperator doubled": lambda: 2 * (0.5 * numpy_buffer(FULL.numpy())),
    "float32 reuses": lambda: as_operator(Duck(reusing(FULL), 90), dtype=torch.float32),
}


@pytest.mark.parametrize("name", CARELESS)
def test_careless_functions_are_counted_right(name):
    tau = 0.1 if "float32" not in name else 0.25
    wanted = three(SPREAD.numpy(), tau)
    make = CARELESS[name]
    tolerance = 1e-12 if "float32" not in name else 1e-5
    np.testing.assert_allclose(exact_eigenvalues(make()).numpy(), SPREAD, atol=tolerance)
    assert inertia(make(), 0.02) == (int((SPREAD < 0.02).sum()), int((SPREAD > 0.02).sum()))
    assert ends(count_eigenvalues(make(), threshold=tau, method="exact")) == [(n, n) for n in wanted]
    for options in ({}, {"enumerate_negative": True}, {"max_products": 400}, {"reorthogonalize": False}):
        if "float32" in name and options:
            continue
        counts = count_eigenvalues(make(), threshold=tau, method="lanczos", **{"probes": 3, "steps": 30, **options})
        assert all(low <= n <= high for (low, high), n in zip(ends(counts), wanted, strict=True))
    density = spectral_density(make(), probes=2, steps=60)
    assert density.nodes.min() == pytest.approx(-1, abs=1e-2)
    assert (density.weights * density.nodes).sum() == pytest.approx(0.5, abs=0.25)
    if "float32" not in name:
        kind = classify(make(), threshold=tau, gradient_norm=0.0, value=1.0)
        assert kind.lowest_direction.quotient == pytest.approx(-1, abs=1e-2)


def test_a_careless_preconditioner_is_counted_right():
    class Factor:
        def __init__(self):
            self.buffer = {}

        def __matmul__(self, v):
            out = self.buffer.setdefault(tuple(v.shape), torch.empty_like(v))
            torch.mul(v, 0.5, out=out)
            v.zero_()
            return out

        @property
        def mT(self):
            return self

    counts = count_eigenvalues(FULL, threshold=0.1, preconditioner=Factor(), probes=4, steps=90, precision=1e-6)
    assert all(low <= n <= high for (low, high), n in zip(ends(counts), three(SPREAD.numpy(), 0.1), strict=True))
