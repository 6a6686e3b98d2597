"""Bases over two and four ranks, and runs that go on with another number of ranks, against one process."""

import numpy as np
import pytest
import torch
from rank_judges import NUMBERS, Lazily, same_counts, whole
from rank_networks import small
from rank_program import vectors

from lanczos_saddle import count_eigenvalues
from lanczos_saddle.counting.planning import keep_basis
from lanczos_saddle.krylov.lanczos import Lanczos


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """Results of the program by number of ranks and scenario."""
    folder = tmp_path_factory.mktemp("ranks")
    return Lazily(folder, "1:first_state", "2:states,preconditioned,spread", "4:states,preconditioned,spread")


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_basis_over_ranks_is_that_of_one_process(ranks, number, dtype):
    """All that it answers against the rows that it gathers, and these against one process: 57 is not a multiple."""
    found = ranks[number]["spread"][str(dtype)]
    own = Lanczos(whole(small()).to(dtype), vectors(57), capacity=12)
    own.advance(12)
    rounding = 1e-9 if dtype == torch.float64 else 2e-3
    assert np.allclose(found["run"].diagonal, own.tridiagonalization().diagonal, rtol=0, atol=rounding)
    basis, current = found["basis"].double(), found["current"]
    assert basis.shape == (3, 12, 57)
    assert torch.allclose(basis, own.basis.double(), rtol=0, atol=rounding)
    unit = 1e-14 if dtype == torch.float64 else 1e-6
    for rows in basis:
        assert torch.allclose(rows @ rows.mT, torch.eye(12, dtype=torch.float64), rtol=0, atol=unit)
    u, nulls, coefficients, lengths = found["asked"]
    combined = basis[1, :10].mT @ coefficients
    assert torch.allclose(found["combined"], combined, rtol=0, atol=1e-14)
    assert torch.allclose(found["at"], combined[[3, 50]], rtol=0, atol=1e-14)
    assert torch.allclose(found["inner"], basis[2, :9] @ u, rtol=0, atol=1e-13)
    w = torch.cat([torch.cat([basis[i, :length], current[i : i + 1]]) for i, length in lengths.items()])
    nulls = nulls.double()
    for form, expected in zip(found["forms"], (w @ w.mT, w @ nulls, nulls.mT @ nulls), strict=True):
        assert torch.allclose(form, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("number", NUMBERS)
def test_a_rank_keeps_its_share_of_the_basis_and_no_more(ranks, number):
    found = ranks[number]["spread"]
    held = found[str(torch.float64)]["held"]
    assert held == (number, 3 * 12 * -(-57 // number))  # probes, room, coordinates
    assert found["most at once"] == 1


@pytest.mark.parametrize("number", NUMBERS)
def test_vectors_are_taken_out_of_a_basis_over_ranks(ranks, number):
    found = ranks[number]["spread"]["deflated"]
    own = count_eigenvalues(whole(small()), threshold=1e-3, max_products=400, method="lanczos")
    assert "vectors" in own.plan
    assert found.plan == own.plan
    same_counts(found, own)


@pytest.mark.parametrize("number", NUMBERS)
def test_a_basis_that_no_rank_can_keep_is_kept_by_all(ranks, number):
    """40 vectors of 60,000 numbers, 19.2 MB, and 11.1 MB beside: more than half of 50 MB, less than half of two."""
    (kept, larger), said = ranks[number]["spread"]["room"]
    assert (kept, larger) == (True, False)
    assert f"are free on {number} ranks together, by the one that has least" in said
    alone = torch.eye(1, dtype=torch.float64).expand(60_000, 60_000)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lanczos_saddle.counting.planning.available_bytes", lambda _: 50_000_000)
        assert not keep_basis("auto", alone, 1, 40)


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("name", ["ekfac", "subset"])
def test_a_preconditioner_of_some_samples_counts_those_of_all(ranks, number, name):
    """Exact counts are the judge: S is another one than that of one process."""
    exact = count_eigenvalues(whole(small()), threshold=1e-3)
    found = ranks[number]["preconditioned"][name]
    for part in ("negative", "near_zero", "positive"):
        interval = getattr(found, part)
        assert interval.lower <= getattr(exact, part).lower <= interval.upper
    assert found.negative.upper - found.negative.lower < 57 // 2
    assert ranks[number]["preconditioned"]["pays"] == (True, False)


def test_a_preconditioner_needs_samples_on_rank_0(ranks):
    said = ranks[2]["preconditioned"]["nothing"]
    assert (
        "preconditioner='ekfac' needs the network of a Hessian or GaussNewton; got one of ranks, the first of" in said
    )


@pytest.mark.parametrize("begun", [1, pytest.param(2, marks=pytest.mark.slow), pytest.param(4, marks=pytest.mark.slow)])
def test_a_state_goes_on_with_another_number_of_ranks(ranks, begun):
    """From 1 to 2, from 2 to 4, and from 4 to this process: the run of one process that was not interrupted."""
    asked = {"threshold": 1e-3, "method": "lanczos", "probes": 5, "steps": 20, "precision": 1e-9}
    own = count_eigenvalues(whole(small()), **asked)
    if begun == 4:
        found = count_eigenvalues(whole(small()), **asked, state=ranks.left_by(4) / "from-4")
    else:
        found = ranks[{1: 2, 2: 4}[begun]]["states"]
    same_counts(found, own)
    assert found.steps == 20
    assert np.allclose(found.evidence.run.diagonal, own.evidence.run.diagonal, rtol=0, atol=1e-9)
