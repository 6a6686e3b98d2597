"""Densities against spectra that are known, and against moments that the probes themselves fix."""

import math

import numpy as np
import pytest
import torch
from matrices import gaussian, seeded

from lanczos_saddle import density as module
from lanczos_saddle.density import Density, density_of, spectral_density
from lanczos_saddle.krylov.lanczos import Lanczos
from lanczos_saddle.operators.prescribed import PrescribedSpectrum


def operator(size=60, seed=0):
    """Eigenvalues -1..1, distinct and well apart, in a random order."""
    return PrescribedSpectrum(torch.linspace(-1, 1, size, dtype=torch.float64), seeded(seed))


def toy(**changes):
    fields = {"nodes": np.array([-1.0, 0.0, 2.0]), "weights": np.array([0.25, 0.5, 0.25])}
    return Density(**({**fields, "size": 8, "zeros": 4, "probes": 1, "steps": 2, "products": 50} | changes))


def integral(values, grid):
    """Riemann sum over a uniform grid, for smooth functions that vanish at both ends."""
    return values.sum() * (grid[1] - grid[0])


@pytest.mark.parametrize("reorthogonalize", [True, False])
def test_weights_are_shares_of_one(reorthogonalize):
    density = spectral_density(operator(), probes=3, steps=20, reorthogonalize=reorthogonalize)
    assert density.nodes.shape == density.weights.shape == (60,)
    assert (density.weights >= 0).all()
    assert density.weights.sum() == pytest.approx(1, abs=1e-13)
    assert (density.size, density.zeros, density.probes, density.steps) == (60, 0, 3, 20)


def test_moments_are_those_of_the_probes():
    # k-point Gauss rules are exact to degree 2k - 1: sum w theta^j = sum_i g_i' H^j g_i / sum_i |g_i|^2
    h, probes, steps = operator(), gaussian(60, 3, seed=1), 5
    density = density_of(Lanczos(h, probes, capacity=steps).extend(steps), size=60)
    power = probes
    for degree in range(2 * steps):
        expected = float((probes * power).sum() / probes.square().sum())
        # |H| = 1: moments are at most 1, and rounding is a few eps a product
        assert density.weights @ density.nodes**degree == pytest.approx(expected, abs=1e-13)
        power = h @ power
    expected = float((probes * power).sum() / probes.square().sum())
    assert abs(density.weights @ density.nodes ** (2 * steps) - expected) > 1e-6, "degree 2k is exact by chance"


def test_full_depth_finds_every_eigenvalue_and_many_probes_its_share():
    size, probes = 60, 40
    h = operator(size)
    density = spectral_density(h, probes=probes, steps=size)
    nodes = density.nodes.reshape(size, probes)  # ascending: one row an eigenvalue
    exact = h.eigenvalues.sort().values.numpy()
    assert np.abs(nodes - exact[:, None]).max() < 1e-10
    # masses below t are Beta distributed, with the variance of probes * N / 2 uniform numbers: the deviation of
    # their distribution function exceeds x with probability at most 2 exp(-probes N x^2) (Dvoretzky, Massart)
    deviation = np.cumsum(density.weights.reshape(size, probes).sum(1)) - np.arange(1, size + 1) / size
    assert np.abs(deviation).max() < math.sqrt(math.log(2e6) / (probes * size))


def test_few_steps_give_the_trace_moments():
    # tr H^j / N from m probes: standard deviation at most sqrt(2 / (m N)) |H|^j
    density = spectral_density(operator(400), probes=16, steps=10)
    exact = np.linspace(-1, 1, 400)
    for degree in range(1, 8):
        error = density.weights @ density.nodes**degree - (exact**degree).mean()
        assert abs(error) < 5 * math.sqrt(2 / (16 * 400))


def test_smoothing_keeps_the_mass():
    # the grid reaches 10 widths beyond the nodes (tails e^-50) with steps of half a width (aliasing e^-79)
    density = spectral_density(operator(), probes=2, steps=12)
    width = 0.02
    x = np.arange(-1 - 10 * width, 1 + 10 * width, width / 2)
    assert integral(density.smooth(x, width), x) == pytest.approx(1, abs=1e-12)
    linear, width = 1e-3, 0.1
    end = np.arcsinh(1 / linear) + 10 * width
    u = np.arange(-end, end, width / 2)
    assert integral(density.smooth_symlog(linear * np.sinh(u), linear, width), u) == pytest.approx(1, abs=1e-12)


def test_smoothing_is_the_sum_of_bumps():
    density = toy()
    peak = 1 / math.sqrt(2 * math.pi) / 1e-3
    assert density.smooth(np.array([-1.0, 0.0, 1.0, 2.0]), 1e-3) == pytest.approx(
        [peak / 4, peak / 2, 0, peak / 4], abs=1e-12
    )
    assert density.smooth(np.array(0.0), 1e-3) == pytest.approx(peak / 2)


def test_dead_coordinates_weigh_their_share():
    run = Lanczos(operator(), gaussian(60, 2, seed=1), capacity=10).extend(10)
    density = density_of(run, size=80, zeros=20, spent=7)
    assert density.weights[density.nodes == 0] == pytest.approx([0.25], abs=1e-15)
    assert density.weights.sum() == pytest.approx(1, abs=1e-13)
    assert density.products == 7 + 20
    assert (np.diff(density.nodes) >= 0).all()


def test_a_space_that_closes_ends_the_run():
    # three distinct eigenvalues: every Krylov space has dimension 3
    values = torch.tensor([-1.0, 0.0, 2.0], dtype=torch.float64).repeat_interleave(100)
    density = spectral_density(PrescribedSpectrum(values, seeded()), probes=4, steps=200)
    assert density.nodes.reshape(3, 4) == pytest.approx(np.array([[-1.0], [0.0], [2.0]]) * np.ones(4), abs=1e-12)
    assert density.steps <= module.LOOK
    shares = density.weights.reshape(3, 4).sum(1)
    # a share p has the standard deviation sqrt(2 p (1 - p) / (m N))
    assert np.abs(shares - 1 / 3).max() < 5 * math.sqrt(2 * (1 / 3) * (2 / 3) / (4 * 300))


def test_a_zero_operator_has_all_its_mass_at_zero():
    density = spectral_density(torch.zeros(5, 5, dtype=torch.float64))
    assert (density.nodes == 0).all()
    assert density.weights.sum() == pytest.approx(1, abs=1e-15)


def test_runs_repeat_and_count_their_products():
    class Counted(PrescribedSpectrum):
        products = 0

        def __matmul__(self, v):
            Counted.products += v.shape[1] if v.ndim == 2 else 1
            return super().__matmul__(v)

    h = Counted(torch.linspace(-1, 1, 60, dtype=torch.float64), seeded())
    one, two = (spectral_density(h, probes=2, steps=10, generator=seeded(3)) for _ in range(2))
    assert np.array_equal(one.nodes, two.nodes)
    assert one.products + two.products == Counted.products
    other = spectral_density(h, probes=2, steps=10, generator=seeded(4))
    assert not np.array_equal(one.nodes, other.nodes)


def test_a_bar_shows_when_asked_for(capsys):
    spectral_density(operator(), steps=3, progress=False)
    assert capsys.readouterr().err == ""
    spectral_density(operator(), steps=3, progress=True)
    assert "3/3" in capsys.readouterr().err


# arguments


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"probes": 0}, "probes must be a whole number of at least 1; got 0"),
        ({"probes": 2.5}, r"probes must be a whole number; got 2\.5"),
        ({"steps": 0}, "steps must be a whole number of at least 1; got 0"),
        ({"steps": "ten"}, "steps must be a whole number; got 'ten'"),
        ({"reorthogonalize": "auto"}, "reorthogonalize must be True or False; got 'auto'"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        spectral_density(operator(), **arguments)


def test_an_operator_that_fails_the_preflight_is_refused():
    with pytest.raises(ValueError, match="must be symmetric"):
        spectral_density(torch.triu(torch.ones(20, 20, dtype=torch.float64)))
    with pytest.raises(ValueError, match="must be finite"):
        spectral_density(torch.full((20, 20), torch.nan, dtype=torch.float64))


def test_memory_is_asked_for_before_anything_is_allocated():
    class Huge:
        shape, dtype, device = (10**10, 10**10), torch.float64, torch.device("cpu")

        def __matmul__(self, v):
            raise AssertionError("multiplied")

    with pytest.raises(ValueError, match=r"4 probes x 100 steps takes .*GiB are free: .*reorthogonalize=False"):
        spectral_density(Huge())
    with pytest.raises(ValueError, match=r"GiB are free: pass fewer probes or steps$"):
        spectral_density(Huge(), probes=1000, reorthogonalize=False)


@pytest.mark.parametrize("width", [0.0, -1.0, math.nan, math.inf])
def test_smoothing_needs_a_width(width):
    with pytest.raises(ValueError, match="width of the smoothing must be positive"):
        toy().smooth(np.zeros(1), width)
    with pytest.raises(ValueError, match="linear part of the axis must be positive"):
        toy().smooth_symlog(np.zeros(1), linear=width)


# files


def test_save_and_load(tmp_path):
    density = spectral_density(operator(), probes=2, steps=10)
    path = tmp_path / "d.npz"
    density.save(path)
    loaded = Density.load(path)
    assert np.array_equal(loaded.nodes, density.nodes)
    assert np.array_equal(loaded.weights, density.weights)
    for name in ("size", "zeros", "probes", "steps", "products"):
        assert getattr(loaded, name) == getattr(density, name)
    assert [file.name for file in tmp_path.iterdir()] == ["d.npz"]


@pytest.mark.parametrize("keep", [0, 1, 10, 200, -1, -60])
def test_a_truncated_file_is_refused(tmp_path, keep):
    path = tmp_path / "d.npz"
    toy().save(path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"d\.npz must be a density written by Density\.save"):
        Density.load(path)


@pytest.mark.parametrize("content", [b"plain text", b"\x89PNG\r\n\x1a\n", b"PK\x03\x04 not a zip"])
def test_a_foreign_file_is_refused(tmp_path, content):
    path = tmp_path / "d.npz"
    path.write_bytes(content)
    for name in (path, tmp_path, tmp_path / "absent.npz"):
        with pytest.raises(ValueError, match="must be a density"):
            Density.load(name)


def test_an_array_file_is_refused(tmp_path):
    np.save(tmp_path / "d.npy", np.ones(3))
    with pytest.raises(ValueError, match="must be a density"):
        Density.load(tmp_path / "d.npy")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"nodes": np.array([0.0])}, r"nodes and weights must be \(n,\)"),
        ({"nodes": np.zeros(0), "weights": np.zeros(0)}, "n >= 1"),
        ({"nodes": np.array([0.0, math.nan, 1.0])}, "finite and ascending"),
        ({"nodes": np.array([1.0, 0.0, 2.0])}, "finite and ascending"),
        ({"nodes": np.array(["a", "b", "c"])}, "Cannot cast"),
        ({"nodes": np.array([object()] * 3)}, "allow_pickle"),
        ({"weights": np.array([0.5, 0.5, 0.5])}, r"sum to 1; their sum is 1\.5"),
        ({"weights": np.array([-0.5, 1.0, 0.5])}, "must not be negative"),
        ({"weights": np.array([math.nan, 0.5, 0.5])}, "must not be negative"),
        ({"size": 0}, "at least 1"),
        ({"zeros": 9}, "between 0 and N"),
        ({"steps": np.ones(2)}, "cannot be read"),
        ({"steps": math.inf}, "cannot be read"),
    ],
)
def test_unsound_fields_are_refused(tmp_path, changes, message):
    fields = vars(toy()) | changes
    np.savez(tmp_path / "d.npz", **fields)
    with pytest.raises(ValueError, match=rf"must be a density.*{message}"):
        Density.load(tmp_path / "d.npz")


def test_a_field_that_is_missing_is_named(tmp_path):
    fields = vars(toy())
    np.savez(tmp_path / "d.npz", **{name: fields[name] for name in fields if name != "weights"})
    with pytest.raises(ValueError, match="weights"):
        Density.load(tmp_path / "d.npz")
