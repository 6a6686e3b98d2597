"""Exact counts by inertia: the same intervals as from all eigenvalues, at one threshold, with every error paid for."""

import pytest
import torch
from matrices import ends

from lanczos_saddle.counting import exact as exact_counts
from lanczos_saddle.counting.count import count_eigenvalues, recount
from lanczos_saddle.dense.exact import assemble, exact_eigenvalues, three_counts
from lanczos_saddle.dense.sylvester import Inertia
from lanczos_saddle.networks.hessian import Hessian
from lanczos_saddle.operators.operator import as_operator
from lanczos_saddle.structure import closed_form


def with_spectrum(values, seed=0):
    q = torch.linalg.qr(torch.randn(len(values), len(values), generator=torch.Generator().manual_seed(seed)).double()).Q
    matrix = q @ values.double().diag() @ q.T
    return (matrix + matrix.T) / 2


def spectrum():
    """Both signs over eight decades, an atom at 0 and a pair beside it."""
    small = torch.logspace(-8, 0, 60, dtype=torch.float64)
    return torch.cat([-small[::3], torch.zeros(40, dtype=torch.float64), small])


def network(dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(9, 8), torch.nn.ReLU(), torch.nn.Linear(8, 4))
    inputs = torch.randn(80, 9, generator=generator)
    inputs[:, 2] = 0
    return Hessian(
        model, torch.nn.CrossEntropyLoss(), (inputs, torch.randint(0, 4, (80,), generator=generator)), dtype=dtype
    )


@pytest.fixture
def beyond(monkeypatch):
    """Every size counts as large."""
    monkeypatch.setattr(exact_counts, "INERTIA_SIZE", 0)


@pytest.mark.parametrize("threshold", [1e-7, 1e-5, 1e-3, 0.03, 0.5, 2.0])
def test_counts_by_inertia_are_those_of_the_eigenvalues(threshold, beyond):
    values = spectrum()
    counts = count_eigenvalues(with_spectrum(values), threshold=threshold, method="exact")
    assert ends(counts) == [(c, c) for c in three_counts(values, threshold)]
    assert counts.method == "exact"
    assert counts.eigenvalues is None
    assert "exact" in str(counts)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("threshold", [1e-4, 1e-3, 1e-2])
def test_counts_of_a_network(threshold, dtype, beyond):
    values = exact_eigenvalues(network())
    counts = count_eigenvalues(network(dtype), threshold=threshold, method="exact")
    assert ends(counts) == [(c, c) for c in three_counts(values, threshold)]
    assert counts.products == 11 + 10 + 1  # the preflight, its repeated product, and the check of the closed form


@pytest.mark.parametrize("sign", [1, -1])
def test_eigenvalues_at_the_threshold_leave_an_interval(sign, beyond):
    """Five eigenvalues within rounding of tau, on one side: 20 beyond for sure, 25 possible."""
    values = torch.cat([torch.full((5,), 0.25), torch.linspace(0.5, 1, 20), torch.linspace(-0.1, 0.1, 30)]).double()
    counts = count_eigenvalues(sign * with_spectrum(values), threshold=0.25, method="exact")
    beyond_tau, other = (counts.positive, counts.negative)[::sign]
    assert (beyond_tau.lower, beyond_tau.upper) == (20, 25)
    assert (other.lower, other.upper) == (0, 0)
    assert (counts.near_zero.lower, counts.near_zero.upper) == (30, 35)


def test_an_atom_at_zero_on_structured_coordinates(beyond):
    """Exact zeros everywhere in the factorization: a swap of coordinates, counted at its own eigenvalue."""
    pairs = torch.block_diag(*[torch.tensor([[0.0, 1.0], [1.0, 0.0]], dtype=torch.float64)] * 40)
    counts = count_eigenvalues(pairs, threshold=1.0, method="exact")
    assert ends(counts) == [(0, 40), (0, 80), (0, 40)]
    counts = count_eigenvalues(pairs, threshold=0.999, method="exact")
    assert ends(counts) == [(40, 40), (0, 0), (40, 40)]


def test_the_noise_of_products_is_paid_for(beyond):
    """Float32 products that cannot be had in float64: eigenvalues within the noise of tau may be on either side."""
    tau, off = 0.25, 1e-7
    values = torch.cat([torch.full((10,), tau + off), torch.full((10,), tau - off), torch.linspace(-1, 1, 61)]).double()
    rounded = with_spectrum(values).float()
    counts = count_eigenvalues(as_operator(lambda v: rounded @ v, len(values)), threshold=tau, method="exact")
    least = int((values > tau + 1e-3).sum())
    assert counts.positive.lower == least
    assert counts.positive.upper == least + 20
    sharp = count_eigenvalues(with_spectrum(values), threshold=tau, method="exact")
    assert (sharp.positive.lower, sharp.positive.upper) == (least + 10, least + 10)


def test_the_error_of_a_closed_form_is_paid_for(beyond, monkeypatch):
    """A wrong formula, by less than the check refuses, becomes noise."""
    fill = closed_form.fill
    plain = count_eigenvalues(network(), threshold=1e-3, method="exact")

    def inexact(operator, matrix, *, progress=False):
        done = fill(operator, matrix, progress=progress)
        matrix.diagonal().add_(3e-14 * float(torch.linalg.matrix_norm(matrix, 2)))
        return done

    monkeypatch.setattr(closed_form, "fill", inexact)
    counts = count_eigenvalues(network(), threshold=1e-3, method="exact")
    norm = float(exact_eigenvalues(network()).abs().max())
    size = counts.size
    assert 2 * size**0.5 * counts.check.noise >= 3e-14 * norm
    assert counts.check.noise > 10 * plain.check.noise


@pytest.mark.parametrize("margin", [float("nan"), float("inf")])
def test_an_unknown_margin_is_refused(margin, beyond, monkeypatch):
    """Once an endless loop: no s is larger than NaN, nor than infinity."""
    found = Inertia(0, 0, 0.0, residual=margin, margin=margin, separation=1.0)
    monkeypatch.setattr(exact_counts.Sylvester, "at", lambda *_: found)
    with pytest.raises(ValueError, match=r"factorization must be finite; got (nan|inf) .*multiply the loss"):
        count_eigenvalues(with_spectrum(spectrum()), threshold=1e-3, method="exact")


def test_a_step_aside_starts_from_a_bound_of_the_norm(monkeypatch):
    """Not from the preflight's `scale`, which is a lower estimate: rounding of H - t I is at most that of its bound."""
    matrix, asked = with_spectrum(spectrum()), []
    at = exact_counts.Sylvester.at
    monkeypatch.setattr(exact_counts, "INERTIA_SIZE", 0)
    monkeypatch.setattr(exact_counts.Sylvester, "at", lambda self, t: asked.append(t) or at(self, t))
    count_eigenvalues(matrix, threshold=1.0, method="exact")  # the largest eigenvalue itself, and minus the least
    above = max(asked) - 1.0
    assert above >= len(matrix) * torch.finfo(torch.float64).eps * (float(torch.linalg.matrix_norm(matrix, 2)) + 1.0)


def test_another_threshold_needs_another_factorization(beyond):
    matrix = with_spectrum(spectrum())
    counts = count_eigenvalues(matrix, threshold=1e-3, method="exact")
    assert recount(counts, 1e-3).negative == counts.negative
    with pytest.raises(ValueError, match=r"know one threshold, 0\.001; got 0\.01: inertia at N = 120 .*: ass"):
        recount(counts, 1e-2)
    dense = assemble(matrix)  # the way out that the message names
    for tau in (1e-3, 1e-2):
        again = count_eigenvalues(dense, threshold=tau, method="exact")
        assert ends(again) == [(c, c) for c in three_counts(spectrum(), tau)]


def test_the_callers_matrix_is_left_alone(beyond):
    matrix = with_spectrum(spectrum())
    kept = matrix.clone()
    count_eigenvalues(matrix, threshold=1e-3, method="exact")
    count_eigenvalues(assemble(matrix), threshold=1e-3, method="exact")
    assert torch.equal(matrix, kept)


def test_eigenvalues_stay_below_the_size():
    counts = count_eigenvalues(with_spectrum(spectrum()), threshold=1e-3, method="exact")
    assert counts.eigenvalues is not None
    assert recount(counts, 1e-2).negative.lower == three_counts(spectrum(), 1e-2)[0]
