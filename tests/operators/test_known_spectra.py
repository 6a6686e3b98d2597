"""The problems that know their answer, held to dense float64 oracles that share nothing with them."""

import math

import numpy as np
import pytest
import torch
from matrices import seeded
from torch import nn

from lanczos_saddle.networks.known_hessians import relu_zero_output, softmax_regression, two_layer_linear
from lanczos_saddle.operators import prescribed as prescribed_module
from lanczos_saddle.operators.operator import Operator
from lanczos_saddle.operators.prescribed import PrescribedSpectrum, clustered_spectrum, hartley

EPS = torch.finfo(torch.float64).eps


def prescribed(size, dtype=torch.float64, seed=0):
    return PrescribedSpectrum(torch.linspace(-1, 2, size, dtype=torch.float64), seeded(seed), dtype=dtype)


def dense_hessian(problem):
    """The Hessian of the mean loss over theta, by autodiff in the model's type."""
    names, shapes = zip(*[(name, p.shape) for name, p in problem.model.named_parameters()], strict=True)
    theta = torch.cat([p.detach().flatten() for p in problem.model.parameters()])
    inputs, targets = problem.data

    def loss(flat):
        parts = flat.split([math.prod(shape) for shape in shapes])
        parameters = {name: part.view(shape) for name, part, shape in zip(names, parts, shapes, strict=True)}
        return problem.loss(torch.func.functional_call(problem.model, parameters, (inputs,)), targets)

    return torch.autograd.functional.hessian(loss, theta)


def signs(hessian):
    """(negative, zero, positive) with a zero of N eps |H|, and the ratio of the gap above it."""
    values = np.linalg.eigvalsh(hessian.numpy())
    zero = 10 * len(values) * EPS * abs(values).max()
    nonzero = abs(values)[abs(values) > zero]
    assert nonzero.min() > 1e4 * zero  # the dense count is not in doubt
    negative, positive = int((values < -zero).sum()), int((values > zero).sum())
    return negative, len(values) - negative - positive, positive


# --- prescribed spectra -------------------------------------------------------------------------------------


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


# --- networks -----------------------------------------------------------------------------------------------


def samples(n, d, classes, seed=0):
    inputs = torch.randn(n, d, generator=seeded(seed), dtype=torch.float64)
    return inputs, torch.randint(0, classes, (n,), generator=seeded(seed + 100))


def agree(problem):
    hessian = dense_hessian(problem)
    computed = np.linalg.eigvalsh(hessian.numpy())
    bound = 4 * len(computed) * EPS * abs(computed).max()  # two solvers, and as much for autodiff
    assert problem.eigenvalues.shape == (len(computed),)
    assert abs(computed - problem.eigenvalues.numpy()).max() <= bound
    assert signs(hessian) == problem.counts


@pytest.mark.parametrize(("n", "d", "classes"), [(30, 5, 4), (3, 6, 3), (20, 4, 2)])
def test_softmax_regression(n, d, classes):
    inputs, targets = samples(n, d, classes)
    problem = softmax_regression(inputs, targets, classes)
    assert problem.counts == (0, d * classes - min(n, d) * (classes - 1), min(n, d) * (classes - 1))
    agree(problem)


@pytest.mark.parametrize("elementwise", [False, True])
@pytest.mark.parametrize(("d", "width", "outputs"), [(5, 4, 3), (2, 3, 6), (4, 1, 1)])
def test_two_layer_linear(d, width, outputs, elementwise):
    inputs, _ = samples(25, d, 2)
    targets = torch.randn(25, outputs, generator=seeded(9), dtype=torch.float64)
    problem = two_layer_linear(inputs, targets, width, elementwise=elementwise)
    assert isinstance(problem.loss, nn.MSELoss) == elementwise
    negative = width * min(d, outputs)
    assert problem.counts == (negative, width * (d + outputs) - 2 * negative, negative)
    agree(problem)


@pytest.mark.parametrize(("n", "d", "width", "classes"), [(60, 4, 5, 3), (40, 2, 3, 5), (6, 3, 8, 3), (50, 3, 4, 2)])
def test_relu_zero_output(n, d, width, classes):
    """Generic; fewer inputs than classes; fewer samples than units; two classes."""
    problem = relu_zero_output(*samples(n, d, classes), width, classes, seeded(4))
    assert signs(dense_hessian(problem)) == problem.counts


def test_relu_zero_output_is_generic_on_enough_data():
    problem = relu_zero_output(*samples(200, 6, 4), 7, 4, seeded(4))
    assert problem.counts[0] == 7 * 3
    assert problem.counts[2] == 8 * 3


def test_relu_zero_output_with_pixels_and_units_that_never_fire():
    inputs, targets = samples(30, 4, 3)
    inputs = -inputs.abs()
    inputs[:, 1] = 0
    problem = relu_zero_output(inputs, targets, 6, 3, seeded(2))
    fired = (problem.model[0](inputs) > 0).any(0).sum()
    assert fired < 6
    assert signs(dense_hessian(problem)) == problem.counts


def test_relu_zero_output_with_a_class_that_never_occurs_and_one_sample():
    inputs, targets = samples(1, 4, 2)
    problem = relu_zero_output(inputs, targets, 5, 4, seeded(3))
    assert signs(dense_hessian(problem)) == problem.counts


def test_models_draw_nothing_from_the_global_generator():
    state = torch.get_rng_state()
    inputs, targets = samples(20, 4, 3)
    softmax_regression(inputs, targets, 3)
    relu_zero_output(inputs, targets, 5, 3, seeded())
    assert torch.equal(torch.get_rng_state(), state)


def test_models_follow_the_type_of_the_inputs():
    inputs, targets = samples(20, 4, 3)
    problem = relu_zero_output(inputs.float(), targets, 5, 3, seeded())
    assert {p.dtype for p in problem.model.parameters()} == {torch.float32}
    assert problem.loss(problem.model(inputs.float()), targets).detach().isfinite()
