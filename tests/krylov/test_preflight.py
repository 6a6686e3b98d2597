"""The preflight refuses what cannot be counted and measures the noise of what can."""

import numpy as np
import pytest
import torch
from matrices import as_products, symmetric

from lanczos_saddle.krylov.preflight import check_operator, in_float64
from lanczos_saddle.operators.operator import FromFunction, as_operator

N = 100
CPU = torch.device("cpu")
EPS32, EPS64 = 2.0**-23, 2.0**-52


def test_a_float64_matrix_passes_with_noise_at_rounding_level():
    check = check_operator(symmetric(N))
    norm = float(torch.linalg.matrix_norm(symmetric(N), 2))
    assert check.determinism <= 10 * EPS64  # of one column, against the same in a block
    assert check.asymmetry < N * EPS64
    assert EPS64 * norm / 100 < check.noise < N * EPS64 * norm
    assert check.noise_source == "additivity"
    assert norm / 3 <= check.scale <= norm * (1 + 1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_the_noise_of_float32_is_that_of_the_matrix(seed):
    matrix = symmetric(N, seed, torch.float32)
    check = check_operator(matrix)
    norm = float(torch.linalg.matrix_norm(matrix.double(), 2))
    assert check.noise_source == "float64"
    assert EPS32 * norm / 50 < check.noise < 2 * N**0.5 * EPS32 * norm
    # fresh vectors: the measured noise is not far below what a product suffers
    v = torch.randn(N, 50, generator=torch.Generator().manual_seed(99), dtype=torch.float64)
    v /= v.norm(dim=0)
    errors = ((matrix @ v.float()).double() - matrix.double() @ v).norm(dim=0)
    assert float(errors.max()) <= 2 * check.noise


def test_additivity_sees_the_rounding_of_a_callable():
    matrix = symmetric(N, dtype=torch.float32)
    hidden, known = check_operator(as_products(matrix)), check_operator(matrix)
    assert hidden.noise_source == "additivity"
    assert known.noise / 5 <= hidden.noise <= 10 * known.noise


def test_known_noise_is_measured():
    # a product that is wrong by 1e-6 in an unpredictable but repeatable direction
    matrix = symmetric(N)

    def product(v):
        rough = torch.sin(1e6 * v)
        return matrix @ v + 1e-6 * rough / rough.norm(dim=0) * v.norm(dim=0)

    noisy = FromFunction(product, N, torch.float64, CPU)
    with pytest.raises(ValueError, match="must be symmetric"):
        check_operator(noisy)
    small = FromFunction(lambda v: matrix @ v + 1e-3 * (product(v) - matrix @ v), N, torch.float64, CPU)
    check = check_operator(small)
    assert 1e-9 / 2 <= check.noise <= 3e-9


def test_scale_is_a_lower_bound_within_a_factor():
    for seed in range(10):
        rng = np.random.default_rng(seed)
        values = rng.standard_normal(N) * 10 ** rng.uniform(-4, 1, N)
        check = check_operator(torch.diag(torch.as_tensor(values)))
        largest = np.abs(values).max()
        assert largest / 3 <= check.scale <= largest * (1 + 1e-12)


def test_random_operators_are_refused():
    matrix, generator = symmetric(N), torch.Generator().manual_seed(0)

    def dropout(v):
        return matrix @ (v * (torch.rand(N, 1, generator=generator, dtype=torch.float64) > 0.1))

    with pytest.raises(
        ValueError, match=r"two products with the same vector must agree to 1e-08; they differ by .*model.eval"
    ):
        check_operator(FromFunction(dropout, N, torch.float64, CPU))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("size", [2, 5, N])
def test_asymmetric_operators_are_refused(dtype, size):
    matrix = torch.randn(size, size, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)
    with pytest.raises(
        ValueError, match=r"the operator must be symmetric to .*; u'Hv and v'Hu differ by .*nor is its symmetric part"
    ):
        check_operator(matrix)
    assert check_operator((matrix + matrix.mT) / 2).asymmetry < size * torch.finfo(dtype).eps


def test_the_asymmetry_is_that_of_the_matrix():
    matrix = symmetric(N)
    matrix[0, 1] += 1e-8
    check = check_operator(matrix)
    relative = 1e-8 * 2**0.5 / float(torch.linalg.matrix_norm(matrix))
    assert relative / 10 <= check.asymmetry <= 10 * relative


def test_asymmetry_that_passes_counts_as_noise():
    # |K v| = |K|_F / sqrt N for the skew part K: from 6 pairs, within a factor of 3
    for seed in range(5):
        skew = torch.randn(N, N, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        skew = skew - skew.mT
        skew *= 1e-9 / torch.linalg.matrix_norm(skew)
        check = check_operator(symmetric(N) / torch.linalg.matrix_norm(symmetric(N)) + skew)
        assert 1e-9 / N**0.5 / 3 <= check.noise <= 3e-9 / N**0.5


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_products_that_are_not_finite_are_refused(bad):
    matrix = symmetric(N)
    matrix[3, 3] = bad
    with pytest.raises(ValueError, match=r"every product H @ v must be finite; got NaN or infinity"):
        check_operator(matrix)


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("factor", [0.0, 1.0, -2.5])
def test_tiny_and_zero_operators_pass(size, factor):
    check = check_operator(factor * torch.eye(size, dtype=torch.float64))
    assert check.scale == pytest.approx(abs(factor), rel=1e-12)
    assert check.noise <= 4 * EPS64 * abs(factor)


def test_it_repeats_and_counts_its_products():
    columns = []

    def product(v):
        columns.append(v.shape[1])
        return symmetric(N) @ v

    operator = FromFunction(product, N, torch.float64, CPU)
    first = check_operator(operator, generator=torch.Generator().manual_seed(4))
    assert first.products == sum(columns)
    assert first == check_operator(operator, generator=torch.Generator().manual_seed(4))
    state = torch.random.get_rng_state()
    check_operator(operator)
    assert torch.equal(state, torch.random.get_rng_state())


def test_in_float64_is_the_same_operator_where_it_can_be_had():
    matrix = symmetric(N, dtype=torch.float32)
    rich = in_float64(matrix)
    assert rich is not None
    assert rich.dtype == torch.float64
    assert torch.equal(rich, matrix.double())
    assert in_float64(matrix.double()) is None
    assert in_float64(as_operator(lambda v: v, N, dtype=torch.float32)) is None
