"""Laws of the dense oracle: eigenvalues and inertia against closed forms, mpmath and numpy."""

import pickle

import mpmath
import numpy as np
import pytest
import scipy.linalg
import torch
from matrices import as_products, low_rank, symmetric

from lanczos_saddle.dense import eigensolvers, exact, ldl
from lanczos_saddle.dense.exact import assemble, exact_eigenvalues, inertia
from lanczos_saddle.dense.sylvester import Inertia
from lanczos_saddle.networks.hessian import Hessian
from lanczos_saddle.operators.operator import FromFunction

EPS = torch.finfo(torch.float64).eps
CPU = torch.device("cpu")


def path_graph(size):
    """The Dirichlet Laplacian of a path: eigenvalues 4 sin^2(pi j / (2 (N + 1))), j = 1..N."""
    matrix = 2 * torch.eye(size, dtype=torch.float64)
    matrix.diagonal(1).fill_(-1)
    matrix.diagonal(-1).fill_(-1)
    angles = torch.arange(1, size + 1, dtype=torch.float64) * np.pi / (2 * (size + 1))
    return matrix, 4 * angles.sin() ** 2


def zero_diagonal(size):
    """No 1 x 1 pivot can start it: every leading pivot is a 2 x 2 block."""
    matrix = symmetric(size, seed=3)
    return matrix - matrix.diagonal().diag()


def swaps(pairs):
    """diag of [[0, 1], [1, 0]]: eigenvalues -1 and 1, each `pairs` times."""
    return torch.block_diag(*[torch.tensor([[0.0, 1.0], [1.0, 0.0]], dtype=torch.float64)] * pairs)


def graded(size):
    """Entries fall from 1 to 1e-8 along the diagonal."""
    scale = torch.logspace(0, -8, size, dtype=torch.float64)
    return symmetric(size) * scale[:, None].minimum(scale)


MATRICES = {
    "one": torch.tensor([[-2.0]], dtype=torch.float64),
    "random": symmetric(150),
    "blocks": swaps(20),
    "zero diagonal": zero_diagonal(151),
    "path": path_graph(60)[0],
    "low rank": low_rank(90),
    "graded": graded(80),
}
everywhere = pytest.mark.parametrize("matrix", MATRICES.values(), ids=MATRICES.keys())


# --- assembling ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("block", [1, 7, 64, 150, 1000])
def test_assembled_products_are_the_matrix(block):
    matrix = symmetric(150)
    dense = assemble(as_products(matrix), block=block)
    assert torch.equal(dense.matrix, matrix)  # products with columns of the identity round nothing
    assert dense.asymmetry == 0
    assert dense.shape == (150, 150)
    assert torch.equal(dense @ matrix, matrix @ matrix)


def test_asymmetry_is_measured_and_removed():
    matrix = symmetric(1100)  # two tiles a side
    skew = torch.randn(1100, 1100, generator=torch.Generator().manual_seed(5), dtype=torch.float64) * 1e-11
    given = matrix + skew
    dense = assemble(given)
    assert torch.equal(dense.matrix, dense.matrix.T)
    assert torch.equal(dense.matrix, (given + given.T) / 2)
    expected = np.linalg.norm((given - given.T).numpy()) / np.linalg.norm(given.numpy())
    assert dense.asymmetry == pytest.approx(expected, rel=1e-9)  # sums of 1.2e6 squares: eps sqrt(1.2e6)


def test_a_float32_operator_is_assembled_in_float64():
    matrix = symmetric(40, dtype=torch.float32)
    assert torch.equal(assemble(as_products(matrix)).matrix, matrix.double())
    assert torch.equal(assemble(matrix).matrix, matrix.double())


@pytest.mark.parametrize(
    "call", [assemble, exact_eigenvalues, lambda a: inertia(a, 0.3)], ids=["assemble", "eigenvalues", "inertia"]
)
def test_the_input_is_unchanged(call):
    matrix = symmetric(50)
    kept = matrix.clone()
    dense = assemble(matrix)
    call(matrix)
    call(dense)
    assert torch.equal(matrix, kept)
    assert torch.equal(dense.matrix, kept)


def test_overwrite_works_in_the_given_memory():
    matrix = symmetric(50)
    assert assemble(matrix, overwrite=True).matrix.data_ptr() == matrix.data_ptr()
    kept = matrix.clone()
    assert inertia(matrix, 0.1, memory=10**6, overwrite=True) == inertia(kept, 0.1)
    assert not torch.equal(matrix, kept)
    assert torch.equal(exact_eigenvalues(kept.clone(), overwrite=True), exact_eigenvalues(kept))


def test_lapack_works_in_place():
    """One matrix: neither the solver nor the factorization makes a second one."""
    matrix = symmetric(200)
    factor = ldl.factorize(matrix.numpy().T, 0.0)
    assert np.shares_memory(factor.matrix, matrix.numpy())
    solved = symmetric(200)
    eigensolvers.in_place(solved)
    assert not torch.equal(solved, symmetric(200))


def test_memory_is_refused_before_any_product():
    def never(v):
        raise AssertionError("no product before the memory is known to suffice")

    operator = FromFunction(never, 40_000, torch.float32, CPU)
    for call in (assemble, exact_eigenvalues, lambda a, **options: inertia(a, 0.0, **options)):
        message = r"N = 40000 .* takes 12\.07 GiB; 1\.00 GiB are free: .*matrix-free"
        with pytest.raises(ValueError, match=message):
            call(operator, memory=2**30)
    with pytest.raises(ValueError, match=r"N = 10000000 .* GiB"):  # 728 TiB
        exact_eigenvalues(FromFunction(never, 10**7, torch.float32, CPU))


def test_misuse_is_refused():
    matrix = symmetric(30)
    with pytest.raises(ValueError, match=r"must be symmetric.*at most 1\.5e-08.*got"):
        assemble(matrix + 1e-6 * torch.triu(torch.ones_like(matrix)))
    with pytest.raises(ValueError, match=r"square.*got shape \(3, 4\)"):
        assemble(torch.ones(3, 4))
    with pytest.raises(ValueError, match=r"block must be at least 1.*got 0"):
        assemble(matrix, block=0)
    with pytest.raises(ValueError, match="threshold must be a finite number; got nan"):
        inertia(matrix, float("nan"))
    for bad in (float("nan"), float("inf")):
        broken = matrix.clone()
        broken[3, 3] = bad
        for operator in (broken, as_products(broken)):
            with pytest.raises(ValueError, match="must be finite"):
                exact_eigenvalues(operator)


def test_a_product_of_the_wrong_shape_is_refused():
    class Flat:
        shape, dtype, device = (6, 6), torch.float64, CPU

        def __matmul__(self, v):
            return v[:, 0]

    with pytest.raises(
        ValueError, match=r"must return a tensor or an array of the shape it was given, \(6, 6\); got \(6,\)"
    ):
        assemble(Flat())


def test_progress_goes_to_stderr(capsys):
    exact_eigenvalues(as_products(symmetric(10)), progress=True)
    out, err = capsys.readouterr()
    assert not out
    assert "10/10" in err


# --- eigenvalues --------------------------------------------------------------------------------------------


def test_eigenvalues_of_a_path():
    matrix, known = path_graph(300)
    values = exact_eigenvalues(matrix)
    assert values.dtype == torch.float64
    assert (values - known).abs().max() <= 300 * EPS * 4  # N eps |H|, LAPACK's backward error with constant 1


@everywhere
def test_eigenvalues_agree_with_numpy(matrix):
    values = exact_eigenvalues(matrix)
    bound = 2 * len(matrix) * EPS * torch.linalg.matrix_norm(matrix, 2)  # two backward errors
    assert (values[1:] >= values[:-1]).all()
    assert (values - torch.from_numpy(np.linalg.eigvalsh(matrix.numpy()))).abs().max() <= bound


def test_eigenvalues_agree_with_mpmath():
    matrix = symmetric(12, seed=7)
    with mpmath.workdps(40):
        known = mpmath.eigsy(mpmath.matrix(matrix.tolist()), eigvals_only=True)
        known = torch.tensor(sorted(float(value) for value in known), dtype=torch.float64)
    assert (exact_eigenvalues(matrix) - known).abs().max() <= 12 * EPS * torch.linalg.matrix_norm(matrix, 2)


@everywhere
def test_in_place_and_from_a_copy(matrix):
    """Two backward errors apart, though one is torch's LAPACK and the other one scipy's."""
    copied, inside = eigensolvers.from_a_copy(matrix), eigensolvers.in_place(matrix.clone())
    assert (copied - inside).abs().max() <= 2 * len(matrix) * EPS * torch.linalg.matrix_norm(matrix, 2)


@pytest.mark.parametrize(("matrices", "way"), [(1, "in_place"), (2, "from_a_copy")])
def test_memory_decides_whether_a_copy_is_made(matrices, way, monkeypatch):
    """With room for one matrix and the vectors the solve is in place; with room for two it is the faster one."""
    size, called = 60, []
    for name in ("in_place", "from_a_copy"):
        solve = getattr(exact, name)
        monkeypatch.setattr(exact, name, lambda m, name=name, solve=solve: called.append(name) or solve(m))
    room = 8 * size * (matrices * size + 2 * size)
    values = exact_eigenvalues(symmetric(size), memory=room)
    assert called == [way]
    assert (values - torch.linalg.eigvalsh(symmetric(size))).abs().max() <= 1e-12
    with pytest.raises(ValueError, match="are free"):
        exact_eigenvalues(symmetric(size), memory=8 * size * 3 * size - 1)


def test_an_eigensolver_that_does_not_converge_says_so(monkeypatch):
    def fails(matrix):
        raise torch.linalg.LinAlgError("3 off-diagonal elements")

    monkeypatch.setattr(torch.linalg, "eigvalsh", fails)
    with pytest.raises(ArithmeticError, match="3 off-diagonal"):
        exact_eigenvalues(symmetric(10))


def test_eigenvalues_of_extreme_scale():
    matrix, known = path_graph(40)
    for scale in (1e-140, 1e140):
        assert (exact_eigenvalues(matrix * scale) / scale - known).abs().max() <= 40 * EPS * 4


# --- inertia ------------------------------------------------------------------------------------------------


@everywhere
@pytest.mark.parametrize("quantile", [0.0, 0.1, 0.5, 0.77, 1.0])
def test_inertia_counts_eigenvalues(matrix, quantile):
    """Between two eigenvalues further apart than both errors, the counts are those of the sorted list."""
    values = exact_eigenvalues(matrix)
    gaps = torch.cat([values[:1] - 1, values, values[-1:] + 1])
    wide = [i for i in range(len(gaps) - 1) if gaps[i + 1] - gaps[i] > 1e-9]
    position = min(wide, key=lambda i: abs(i - int(quantile * len(matrix))))
    t = float(gaps[position] + gaps[position + 1]) / 2
    result = inertia(matrix, t)
    assert result == (position, len(matrix) - position)
    assert float((values - t).abs().min()) > result.margin  # so the certificate covers every eigenvalue


@everywhere
@pytest.mark.parametrize("t", [0.0, 0.37, -1.0])
def test_counts_are_exact_outside_the_margin(matrix, t):
    values, result = exact_eigenvalues(matrix), inertia(matrix, t)
    solver = len(matrix) * EPS * float(values.abs().max())
    reach = result.margin + solver
    assert (values < t - reach).sum() <= result.below <= (values <= t + reach).sum()
    assert (values > t + reach).sum() <= result.above <= (values >= t - reach).sum()
    assert result.below + result.above <= len(matrix)


@everywhere
@pytest.mark.parametrize("t", [0.0, 0.37])
def test_the_margin_bounds_the_error_of_the_factorization(matrix, t):
    """|R|_2 <= margin with R formed densely from scipy's own unpacking of the same factors."""
    lower, blocks, _ = scipy.linalg.ldl(matrix.numpy() - t * np.eye(len(matrix)))
    error = np.linalg.norm(lower @ blocks @ lower.T - matrix.numpy() + t * np.eye(len(matrix)), 2)
    result = inertia(matrix, t)
    assert error <= result.margin
    assert result.residual <= result.margin
    # and it is no larger than it must be: |R| <= N eps g |H| with growth g <= 100, |v| <= 2 sqrt(N), c = 0.1
    size, norm = len(matrix), np.linalg.norm(matrix.numpy(), 2) + abs(t)
    assert result.margin <= size * EPS * 100 * norm * 2 * size**0.5 / 0.1


@everywhere
def test_factors_multiply_like_scipy(matrix):
    """P L D L' P' v out of one overwritten matrix; 2 x 2 pivots and interchanges included."""
    t, size = 0.37, len(matrix)
    shifted = matrix.numpy() - t * np.eye(size)
    lower, blocks, _ = scipy.linalg.ldl(shifted)
    factor = ldl.factorize(matrix.clone().numpy().T, t)
    v = np.random.default_rng(0).standard_normal((size, 3))
    growth = np.linalg.norm(np.abs(lower) @ np.abs(blocks) @ np.abs(lower.T), 2)
    bound = 10 * size * EPS * growth * np.linalg.norm(v)  # three products and a factorization on each side
    assert np.linalg.norm(ldl.apply_factors(factor, v) - lower @ (blocks @ (lower.T @ v))) <= bound
    assert len(factor.pairs) == np.count_nonzero(np.diag(blocks, -1))


def test_two_by_two_pivots_are_exercised():
    factor = ldl.factorize(zero_diagonal(151).numpy().T, 0.0)
    assert len(factor.pairs) > 20
    assert (factor.order != np.arange(151)).any()


@pytest.mark.parametrize(
    ("t", "counts"), [(-1.5, (0, 40)), (-1.0, (0, 20)), (0.0, (20, 20)), (1.0, (20, 0)), (2.0, (40, 0))]
)
def test_pairs_with_known_counts(t, counts):
    """All pivots are 2 x 2 at t = 0; at t = -1 and 1 elimination leaves pivots that are exactly zero."""
    result = inertia(swaps(20), t)
    assert result == counts
    # R v rounds in five operations of size |H - t I| |v|, |v| <= 2 sqrt(40), over c = 0.1
    assert result.margin <= 5 * EPS * (1 + abs(t)) * 2 * 40**0.5 / 0.1


def test_definite_two_by_two_blocks_are_counted_by_their_trace():
    """Bunch-Kaufman takes indefinite 2 x 2 pivots only; the rule holds for any block."""

    def signs(a, b, c):
        subdiagonal = np.array([b, 0.0, 0.0, 0.0])
        factor = ldl.Factor(np.diag([a, c, 5.0, -1.0]), subdiagonal, np.array([0]), None, None)
        below, above = ldl.pivot_signs(factor)
        return below - 1, above - 1

    assert signs(2.0, 1.0, 2.0) == (0, 2)
    assert signs(-2.0, 1.0, -2.0) == (2, 0)
    assert signs(1.0, 2.0, 1.0) == (1, 1)
    assert signs(1.0, 1.0, 1.0) == (0, 1)
    assert signs(-1.0, 1.0, -1.0) == (1, 0)
    assert signs(1e-200, 1e200, 1e-200) == (1, 1)


def test_exact_zeros_are_on_neither_side():
    diagonal = torch.tensor([-2.0, -1.0, 0.0, 0.0, 0.0, 0.5, 3.0], dtype=torch.float64).diag()
    assert inertia(diagonal, 0.0) == (2, 2)
    assert inertia(diagonal, 0.5) == (5, 1)  # shifted onto an eigenvalue
    assert inertia(torch.zeros(5, 5, dtype=torch.float64), 0.0) == (0, 0)
    assert inertia(torch.zeros(5, 5, dtype=torch.float64), 0.0).margin == 0


def test_a_singular_matrix_is_certified_up_to_the_margin():
    """Rank 4 of 90: the 86 zeros are rounding, to either side of 0, and within the margin."""
    matrix = MATRICES["low rank"]
    at, below, above = (inertia(matrix, t) for t in (0.0, -1e-9, 1e-9))
    assert max(at.margin, below.margin, above.margin) < 1e-9
    assert below == (2, 88)
    assert above == (88, 2)
    assert at.below >= 2
    assert at.above >= 2


def test_several_thresholds_share_one_assembly():
    calls = []
    matrix = symmetric(60)

    def product(v):
        calls.append(v.shape[1])
        return matrix @ v

    dense = assemble(FromFunction(product, 60, torch.float64, CPU))
    values = exact_eigenvalues(dense)
    for t in (-2.0, 0.0, 3.0):
        assert inertia(dense, t) == (int((values < t).sum()), int((values > t).sum()))
    assert sum(calls) == 61  # one more, after all columns, shows that the operator is still the same


def test_the_certificate_follows_the_generator():
    matrix = symmetric(60)
    generators = [torch.Generator().manual_seed(seed) for seed in (1, 1, 2)]
    first, again, other = (inertia(matrix, 0.2, generator=generator) for generator in generators)
    assert first.margin == again.margin != other.margin
    assert inertia(matrix, 0.2).margin == inertia(matrix, 0.2).margin


def test_inertia_is_a_pair():
    below, above = result = Inertia(3, 4, 0.5, 1e-15, 1e-14, 1e-3)
    assert (below, above) == (result.below, result.above) == result == (3, 4)
    copy = pickle.loads(pickle.dumps(result))
    assert (copy, copy.threshold, copy.residual, copy.margin, copy.separation) == (result, 0.5, 1e-15, 1e-14, 1e-3)
    assert repr(result) == "Inertia(below=3, above=4, threshold=0.5, margin=1.0e-14, separation=1.0e-03)"


def test_a_float32_problem_is_judged_in_float64():
    """The judge's own products are float64 wherever the operator can be had in float64."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.Tanh(), torch.nn.Linear(5, 3))
    data = torch.randn(40, 6), torch.randint(0, 3, (40,))
    single = Hessian(model, torch.nn.CrossEntropyLoss(), data)
    double = Hessian(model, torch.nn.CrossEntropyLoss(), data, dtype=torch.float64)
    assert single.dtype == torch.float32
    torch.testing.assert_close(exact_eigenvalues(single), exact_eigenvalues(double), rtol=0, atol=1e-14)
    assert inertia(single, 1e-6) == inertia(double, 1e-6)
