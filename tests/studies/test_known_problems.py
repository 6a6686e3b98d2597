"""The table of problems whose counts are known: the truth is true, and every method's intervals hold it."""

import pytest
import torch
from matrices import clear, ends, holds, three

from lanczos_saddle import assemble, count_eigenvalues
from lanczos_saddle.studies.known_problems import KNOWN, SPECTRA, spectrum

MADE = {name: make for name, make in KNOWN.items() if name != "digits"}  # whose truth is the dense solver's


@pytest.fixture(params=MADE, scope="module")
def known(request):
    return MADE[request.param]()


def test_the_truth_is_that_of_the_matrix(known):
    values, truth = torch.linalg.eigvalsh(assemble(known.operator).matrix), known.eigenvalues()
    scale = float(truth.abs().max())
    assert truth.dtype == torch.float64
    assert len(truth) == known.size
    assert float((values - truth).abs().max()) <= 1e-12 * known.size * scale
    if known.signs is not None:
        assert three(values, 1e-10 * scale) == known.signs


def test_every_method_holds_the_truth(known):
    tau = clear(known.eigenvalues()) or 1e-3  # 0 where all of them are
    assert known.count(tau) == three(known.eigenvalues(), tau)
    for method in ("exact", "lanczos", "auto"):
        generator = torch.Generator().manual_seed(0)
        counts = count_eigenvalues(known.operator, threshold=tau, method=method, confidence=0.999, generator=generator)
        assert holds(counts, known.count(tau)), method
        if method == "exact":
            assert ends(counts) == [(n, n) for n in known.count(tau)]


def test_digits_has_a_network_and_counts():
    known = KNOWN["digits"]()
    assert known.size == 1885 == sum(p.numel() for p in known.network[0].parameters())
    assert known.operator.dtype == torch.float64


@pytest.mark.parametrize("name", SPECTRA)
def test_no_eigenvalue_of_a_spectrum_lies_at_its_threshold(name):
    values, tau = spectrum(name, 1000)
    assert values.shape == (1000,)
    assert float((values.abs() - tau).abs().min()) > 1e-6 * tau
