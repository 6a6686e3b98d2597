"""Spectra that are known by construction, held to dense float64 oracles that share nothing with them."""

import math

import numpy as np
import pytest
import torch
from matrices import seeded

from lanczos_saddle.operators import prescribed as prescribed_module
from lanczos_saddle.operators.operator import Operator
from lanczos_saddle.operators.prescribed import PrescribedSpectrum, clustered_spectrum, hartley

EPS = torch.finfo(torch.float64).eps


def prescribed(size, dtype=torch.float64, seed=0):
    return PrescribedSpectrum(torch.linspace(-1, 2, size, dtype=torch.float64), seeded(seed), dtype=dtype)


@pytest.mark.parametrize("size", [1, 2, 3, 8, 31, 64, 97, 100])
def test_hartley_is_orthonormal_symmetric_and_its_own_inverse(size):
    c = hartley(torch.eye(size, dtype=torch.float64))
    j, k = torch.meshgrid(*[torch.arange(size, dtype=torch.float64)] * 2, indexing="ij")
    angles = 2 * math.pi * (j * k % size) / size
    bound = 10 * EPS * math.log2(size + 1)  # the error of an FFT, entries below sqrt(2 / N) <= 1.5
    assert (c - (angles.cos() + angles.sin()) / math.sqrt(size)).abs().max() <= bound
    assert (c - c.T).abs().max() <= bound
    assert (c @ c - torch.eye(size, dtype=torch.float64)).abs().max() <= 2 * bound


@pytest.mark.parametrize("size", [1, 2, 5, 64, 101, 200])
def test_the_operator_has_its_eigenvalues(size):
    problem = prescribed(size)
    matrix = problem @ torch.eye(size, dtype=torch.float64)
    assert isinstance(problem, Operator)
    assert (matrix - matrix.T).abs().max() <= 20 * EPS * math.log2(size + 1)
    errors = np.linalg.eigvalsh(((matrix + matrix.T) / 2).numpy()) - problem.eigenvalues.numpy()
    assert abs(errors).max() <= 2 * size * EPS * 2  # numpy's N eps |H|, and as much for the transforms


def test_it_is_dense_even_for_a_smooth_sorted_spectrum():
    matrix = prescribed(64) @ torch.eye(64, dtype=torch.float64)
    far = matrix[:16, 32:48]  # without the permutation these would be within rounding of 0
    assert far.norm() > 0.1 * matrix.norm() * 16 / 64


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_blocks_are_columns_and_symmetric(dtype):
    problem = prescribed(101, dtype)
    v = torch.randn(101, 5, generator=seeded(1), dtype=dtype)
    product, eps = problem @ v, torch.finfo(dtype).eps
    assert product.dtype == dtype
    for j in range(5):
        assert ((problem @ v[:, j]) - product[:, j]).norm() <= 100 * eps * v[:, j].norm()
    gram = v.T @ product
    assert (gram - gram.T).abs().max() <= 100 * eps * v.norm() ** 2


def test_columns_are_chunked(monkeypatch):
    problem, v = prescribed(50), torch.randn(50, 7, generator=seeded(1), dtype=torch.float64)
    whole, masses = problem @ v, problem.mass_below(v, 0.3)
    monkeypatch.setattr(prescribed_module, "CHUNK", 150)  # three columns at a time
    assert (problem @ v - whole).norm() <= 100 * EPS * v.norm()
    assert (problem.mass_below(v, 0.3) - masses).abs().max() <= 100 * EPS


def test_any_layout_of_the_block_is_accepted():
    problem, v = prescribed(50), torch.randn(7, 50, generator=seeded(1), dtype=torch.float64)
    assert (problem @ v.T - problem @ v.T.contiguous()).norm() <= 100 * EPS * v.norm()
    assert (problem @ v.T[:, :0]).shape == (50, 0)


def test_the_generator_decides_the_operator():
    v = torch.randn(40, generator=seeded(1), dtype=torch.float64)
    assert torch.equal(prescribed(40) @ v, prescribed(40) @ v)
    assert not torch.equal(prescribed(40) @ v, prescribed(40, seed=1) @ v)


def test_counts_are_those_of_the_list():
    values = torch.tensor([0.0, -1.0, 2.0, -0.5, 0.5, 0.0, 3.0], dtype=torch.float64)
    problem = PrescribedSpectrum(values, seeded())
    assert problem.count(0.5) == (1, 4, 2)  # the threshold itself is near zero
    assert problem.count(0.49) == (2, 2, 3)
    assert problem.count(0.0) == (2, 2, 3)
    assert torch.equal(problem.eigenvalues, values)


def test_a_float32_operator_counts_its_own_rounded_eigenvalues():
    values = torch.tensor([0.1, -0.1], dtype=torch.float64)
    problem = PrescribedSpectrum(values, seeded(), dtype=torch.float32)
    assert problem.eigenvalues.tolist() == [float(np.float32(0.1)), -float(np.float32(0.1))]
    assert problem.count(0.1) == (1, 0, 1)  # float32(0.1) > 0.1


def test_mass_below_is_the_spectral_measure():
    """Against eigenvectors of the dense matrix, between eigenvalues; the atom itself by < and <=."""
    values = torch.cat([torch.zeros(20), torch.linspace(-1, 2, 41)]).double()
    problem = PrescribedSpectrum(values, seeded())
    matrix = problem @ torch.eye(61, dtype=torch.float64)
    computed, vectors = np.linalg.eigh(((matrix + matrix.T) / 2).numpy())
    g = torch.randn(61, 3, generator=seeded(2), dtype=torch.float64)
    weights = (vectors.T @ g.numpy()) ** 2 / (g.numpy() ** 2).sum(0)
    for t in (-2.0, -0.51, -0.01, 0.01, 1.33, 3.0):
        expected = weights[computed <= t].sum(0)
        for inclusive in (True, False):
            masses = problem.mass_below(g, t, inclusive=inclusive)
            # eigenspaces turn by eps N |H| / gap, gap 0.01 from t: 1e-11 at most
            assert abs(masses.numpy() - expected).max() <= 1e-11
    atom = problem.mass_below(g, 0.0) - problem.mass_below(g, 0.0, inclusive=False)
    assert abs(atom.numpy() - weights[abs(computed) < 1e-9].sum(0)).max() <= 1e-11
    assert problem.mass_below(g[:, 0], 0.0).shape == ()


def test_products_at_a_million():
    values = clustered_spectrum(10**6, 1e-4, seeded())
    problem = PrescribedSpectrum(values, seeded(1), dtype=torch.float32)
    v = torch.randn(10**6, generator=seeded(2))
    once = problem @ v
    moments = [float(v.double() @ once.double()), float(once.double() @ once.double())]
    coefficients = [float((problem.eigenvalues**p).sum()) for p in (1, 2)]
    for p, (moment, trace) in enumerate(zip(moments, coefficients, strict=True), start=1):
        spread = math.sqrt(2 * float((problem.eigenvalues ** (2 * p)).sum()))  # sd of g'H^p g, g Gaussian
        assert abs(moment - trace) <= 6 * spread


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.ones(2, 2),), r"vector of N >= 1 finite numbers; got 4 finite ones in shape \(2, 2\)"),
        ((torch.ones(0),), r"vector of N >= 1"),
        ((torch.tensor([1.0, float("nan")]),), r"finite numbers; got 1 finite"),
        ((torch.arange(3),), r"float32 and float64; got torch.int64"),
    ],
)
def test_bad_spectra_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        PrescribedSpectrum(*arguments, seeded())


def test_bad_vectors_and_thresholds_are_refused():
    problem = prescribed(10)
    with pytest.raises(ValueError, match=r"multiplies shapes \(10,\) and \(10, k\); got \(9,\)"):
        problem @ torch.ones(9, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"works in torch\.float64"):
        problem @ torch.ones(10)
    with pytest.raises(ValueError, match="must not be negative; got -1"):
        problem.count(-1.0)


@pytest.mark.parametrize("size", [1, 7, 40, 399, 1000])
def test_clustered_spectrum_is_as_documented(size):
    tau = 1e-3
    values = clustered_spectrum(size, tau, seeded())
    assert values.shape == (size,)
    assert values.dtype == torch.float64
    assert (values[1:] >= values[:-1]).all()
    assert (values == 0).sum() == 2 * size // 5
    for sign in (-1, 1):
        for offset in (-1e-3, 1e-3):
            center = sign * tau * (1 + offset)
            assert ((values - center).abs() <= 1.001e-4 * tau).sum() >= size // 40
    assert not (values.abs() == tau).any()
    if size >= 40:
        assert values.abs().max() == 1
        assert values.min() < -0.5
    with pytest.raises(ValueError, match=r"0 < tau < scale / 20 = 0\.05; got size = 10, tau = 0\.1"):
        clustered_spectrum(10, 0.1, seeded())
