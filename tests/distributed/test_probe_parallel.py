"""Probes over two and four ranks: the counts of one process, nothing exchanged meanwhile, and faults of one rank."""

import numpy as np
import pytest
import torch
from rank_judges import NUMBERS, Lazily, same_counts, whole
from rank_networks import convolutional, small
from rank_program import ASKED, LONG, vectors
from safetensors.torch import load_file

from lanczos_saddle import count_eigenvalues
from lanczos_saddle.krylov.lanczos import Lanczos


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """Results of the program by number of ranks and scenario."""
    folder = tmp_path_factory.mktemp("ranks")
    return Lazily(folder, "1:first_state", "2:replicas", "4:replicas")


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("name", ASKED)
def test_counts_of_probes_over_ranks_are_those_of_one_process(ranks, number, name):
    own = count_eigenvalues(whole(small()), threshold=1e-3, **ASKED[name])
    found = ranks[number]["replicas"][name]
    if name == "exact":  # one process knows a closed form, which ranks do not
        assert [str(found.negative), str(found.positive)] == [str(own.negative), str(own.positive)]
    else:
        same_counts(found, own)
        assert found.products == own.products


def test_other_functions_and_types_are_shared_too(ranks):
    found = ranks[2]["replicas"]
    own = count_eigenvalues(whole(convolutional()), threshold=1e-3, method="lanczos", probes=4, steps=30)
    same_counts(found["float32"], own, digits=1e-2)
    own = count_eigenvalues(whole(small()), threshold=1e-3)
    assert str(found["function"].negative) == str(own.negative)


@pytest.mark.parametrize("number", NUMBERS)
def test_ranks_exchange_no_vector_while_recurrences_go_on(ranks, number):
    kind, (start, going, look), made, basis = ranks[number]["replicas"]["traffic"]
    assert kind == "ProbeRun"
    assert start >= 57 * 5  # start vectors
    assert (going, look) == (0, 0)  # coefficients are no tensors of the group
    own = Lanczos(whole(small()), vectors(57, 5), capacity=10)
    expected = own.extend(10)
    assert np.allclose(made.diagonal, expected.diagonal, rtol=0, atol=1e-12)
    assert np.allclose(made.offdiagonal, expected.offdiagonal, rtol=0, atol=1e-12)
    assert torch.allclose(basis, own.basis, rtol=0, atol=1e-11)


@pytest.mark.parametrize("number", NUMBERS)
def test_a_fault_of_one_rank_is_seen_by_all(ranks, number):
    found = ranks[number]["replicas"]
    assert "the operator must stay the same while it is counted" in found["changed"]
    assert f"rank {number - 1}: FloatingPointError: broken on purpose" in found["broken"]
    ended = found["not finite"]
    assert "a product of step 9 was not finite" in ended.stopped
    own = count_eigenvalues(whole(small()), **{**LONG, "steps": 8})
    assert ended.steps == 8
    for name in ("negative", "near_zero", "positive"):
        one, other = getattr(ended, name), getattr(own, name)
        assert (one.lower, one.upper) == (other.lower, other.upper)
    assert "products with one vector differ between ranks" in found["other data"]
    assert "takes a Hessian or a GaussNewton that every rank has whole; got Tensor" in found["no matrix"]
    same_counts(found["afterwards"], count_eigenvalues(whole(small()), threshold=1e-3, **ASKED["bases"]))


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("kept", [True, False])
def test_an_interrupt_waits_for_the_step_of_all_ranks(ranks, number, kept):
    """What is saved is whole: it goes on here as the run that was not interrupted."""
    assert ranks[number]["replicas"]["interrupted"] == ["led", "led"]  # on the last rank
    own = count_eigenvalues(whole(small()), **LONG, reorthogonalize=kept)
    path = ranks.left_by(number) / f"interrupted-{kept}-{number}"
    assert load_file(path)["alpha"].shape == (5, 10)
    found = count_eigenvalues(whole(small()), **LONG, reorthogonalize=kept, state=path)
    same_counts(found, own)
    assert np.allclose(found.evidence.run.diagonal, own.evidence.run.diagonal, rtol=0, atol=1e-9)


@pytest.mark.parametrize("begun", [1, *NUMBERS])
def test_a_state_goes_on_with_another_number_of_ranks(ranks, begun):
    """From 1 to 2, and from 2 and 4 to this process."""
    own = count_eigenvalues(whole(small()), **LONG)
    if begun == 1:
        found = ranks[2]["replicas"]["went on"]
    else:
        found = count_eigenvalues(whole(small()), **LONG, state=ranks.left_by(begun) / f"probes-from-{begun}")
    same_counts(found, own)
    assert np.allclose(found.evidence.run.diagonal, own.evidence.run.diagonal, rtol=0, atol=1e-9)
