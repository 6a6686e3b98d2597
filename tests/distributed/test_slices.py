"""Vectors in slices over two and four ranks: what torch does to whole ones, counts of one process, known spectra."""

import numpy as np
import pytest
import torch
from rank_judges import NUMBERS, Lazily, same_counts, whole
from rank_networks import convolutional, small
from rank_slices import LONG, OPERATIONS, SLICED, UNKNOWN, prescribed
from safetensors.torch import load_file

from lanczos_saddle import count_eigenvalues
from lanczos_saddle.distributed.slices import check_slices, even_slice
from lanczos_saddle.machine import streams


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """Results of the program by number of ranks and scenario."""
    folder = tmp_path_factory.mktemp("ranks")
    named = "operations,slice_counts,slice_faults,slice_states"
    return Lazily(folder, "1:slice_states", f"2:{named}", "4:operations,slice_counts,slice_states")


@pytest.mark.parametrize("total", [1, 15, 16, 17, 31, 64 * 3, 64 * 3 + 5, 1000])
def test_a_part_of_a_stream_is_what_the_whole_has_there(total, monkeypatch):
    monkeypatch.setattr(streams, "PIECE", 64)
    whole_stream = torch.Generator().manual_seed(3)
    expected = torch.randn(total, generator=whole_stream, dtype=torch.float64)
    for start, stop in ((0, total), (total // 3, total // 2), (total - 1, total), (0, 0)):
        generator = torch.Generator().manual_seed(3)
        found = streams.gaussian_part(total, start, stop, generator)
        assert torch.equal(found, expected[start:stop])
        assert torch.equal(generator.get_state(), whole_stream.get_state())


@pytest.mark.parametrize("size", [1, 3, 7, 8, 9])
def test_even_slices_are_all_coordinates(size):
    assert sum(check_slices([even_slice(size, r, 4) for r in range(4)], size)) == size


@pytest.mark.parametrize("found", [[slice(0, 4), slice(5, 9)], [slice(0, 4), slice(4, 8)], [slice(4, 9), slice(0, 4)]])
def test_slices_that_are_not_all_coordinates_are_refused(found):
    with pytest.raises(ValueError, match="slices"):
        check_slices(found, 9)


@pytest.mark.parametrize("number", NUMBERS)
def test_operations_on_slices_are_those_on_whole_vectors(ranks, number):
    found, unknown, held, again, left = ranks[number]["operations"]
    assert set(OPERATIONS) < set(found)
    for name, (own, expected) in found.items():
        assert own.shape == expected.shape, name
        assert own.dtype == expected.dtype, name
        close = own.double(), expected.double()
        assert torch.allclose(*close, rtol=1e-12, atol=1e-12), name
    assert set(unknown) == set(UNKNOWN)
    for name, said in unknown.items():
        assert "ValueError: vectors in slices over ranks do not know" in str(said), name
    assert torch.allclose(*again, rtol=0, atol=1e-13)
    assert held <= {2: 17, 4: 9}[number]  # rank 0 has its slice of everything, and no more
    assert left < 60  # the rest was let go


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("name", SLICED)
def test_counts_are_those_of_one_process(ranks, number, name):
    found = ranks[number]["slice_counts"][name]
    asked = {"method": "lanczos", **SLICED[name]}
    own = count_eigenvalues(whole(small()), **(asked if name == "relative" else {**asked, "threshold": 1e-3}))
    same_counts(found, own)
    assert np.allclose(found.evidence.run.diagonal, own.evidence.run.diagonal, rtol=0, atol=1e-9)
    assert found.spent == own.spent


@pytest.mark.parametrize("number", NUMBERS)
def test_prescribed_spectra_are_counted(ranks, number):
    found = ranks[number]["slice_counts"]["prescribed"]
    values = torch.linalg.eigvalsh(prescribed())
    assert [int((values < -0.1).sum()), int((values > 0.1).sum())] == [11, 42]
    three = (found.negative, found.near_zero, found.positive)
    assert [(i.lower, i.upper) for i in three] == [(11, 11), (7, 7), (42, 42)]
    assert found.dead == 4
    asked = {"threshold": 0.1, "method": "lanczos", "probes": 8, "steps": 56, "precision": 1e-9}
    same_counts(found, count_eigenvalues(prescribed(), **asked))
    few = ranks[number]["slice_counts"]["fewer than ranks"]
    assert [i.estimate for i in (few.negative, few.near_zero, few.positive)] == [1, 1, 1]


@pytest.mark.parametrize("name", ["float32", "float32 without"])
def test_the_noise_of_float32_is_measured_on_slices(ranks, name):
    """Shares of the samples round otherwise: the run is that of one process to float32, and holds the true counts."""
    found, kept = ranks[2]["slice_counts"][name], name == "float32"
    own = count_eigenvalues(
        whole(convolutional()), threshold=1e-3, method="lanczos", probes=4, steps=12, reorthogonalize=kept
    )
    assert found.spent == own.spent
    assert found.spent["noise"] > 0
    assert np.allclose(found.evidence.run.diagonal, own.evidence.run.diagonal, rtol=0, atol=1e-5)
    assert found.evidence.failure == own.evidence.failure > 0  # measured, not bounded
    assert 0.25 < found.evidence.delta / own.evidence.delta < 4
    exact = count_eigenvalues(whole(convolutional(), dtype=torch.float64), threshold=1e-3, method="exact")
    for side in ("negative", "near_zero", "positive"):
        assert getattr(found, side).lower <= getattr(exact, side).estimate <= getattr(found, side).upper


def test_what_needs_whole_vectors_is_refused(ranks):
    said = ranks[2]["slice_counts"]["refused"]
    for name in ("exact", "elimination", "ekfac", "enumerated", "null vectors", "density"):
        assert "needs whole vectors" in said[name], name
        assert 'method="lanczos") works on slices' in said[name], name
    assert said["assemble"].startswith("ValueError: assemble needs whole vectors")
    assert said["eigenvalues"].startswith("ValueError: exact_eigenvalues needs whole vectors")
    assert "N = 1, have nothing to cut: data_parallel counts it" in said["one coordinate"]
    assert "that of rank 1 must start at 30" in said["gap"]
    assert "slices of all ranks are all 60 coordinates; got 59" in said["short"]
    assert "that of rank 0 has no product_own" in said["one alone"]


def test_sums_that_are_left_out_are_seen(ranks):
    found = ranks[2]["slice_faults"]
    right = found["right"]
    asked = {"threshold": 0.1, "method": "lanczos", "probes": 3, "steps": 12, "precision": 1e-9}
    same_counts(right, count_eigenvalues(prescribed(), **asked))
    assert "ValueError: " in found["products not summed"]  # the rows are those of no symmetric matrix
    for name in ("coefficients not summed", "sums not put together"):
        wrong = found[name]
        own = right.evidence.run.diagonal
        assert isinstance(wrong, str) or not np.allclose(wrong.evidence.run.diagonal[:, :4], own[:, :4], atol=1e-6), (
            name
        )


def test_a_rank_without_memory_is_heard_by_all(ranks):
    found = ranks[2]["slice_faults"]
    assert "none left on purpose" in found["memory"]
    same_counts(found["afterwards"], found["right"])


@pytest.mark.parametrize("begun", [1, pytest.param(2, marks=pytest.mark.slow), pytest.param(4, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kept", [True, False])
def test_a_state_goes_on_with_another_number_of_ranks(ranks, begun, kept):
    """From one process to 2, from 2 to 4, and from 4 to this process."""
    asked = {**LONG, "steps": 10, "reorthogonalize": kept}
    own = count_eigenvalues(whole(small()), **asked)
    if begun < 4:
        found = ranks[2 * begun]["slice_states"][kept]
    else:
        found = count_eigenvalues(whole(small()), **asked, state=ranks.left_by(4) / f"slices-{kept}-4")
    same_counts(found, own)
    assert np.allclose(found.evidence.run.diagonal, own.evidence.run.diagonal, rtol=0, atol=1e-9)


def test_an_interrupted_count_on_slices_goes_on(ranks):
    assert ranks[2]["slice_states"]["interrupted"] == "LedInterrupt"  # on the last rank
    path = ranks.left_by(2) / "slices-interrupted"
    assert 0 < load_file(path)["alpha"].shape[1] < 16
    own = count_eigenvalues(whole(small()), **LONG, steps=16)
    found = count_eigenvalues(whole(small()), **LONG, steps=16, state=path)
    same_counts(found, own)
    assert np.allclose(found.evidence.run.diagonal, own.evidence.run.diagonal, rtol=0, atol=1e-9)
