"""Exact counts by columns over two and four ranks, against numpy and one process; and variants that must fail."""

import numpy as np
import pytest
import torch
from rank_columns import DIGITS, MATRICES, SEVERAL, WRONG
from rank_judges import NUMBERS, Lazily, told, whole
from rank_networks import relu, small

from lanczos_saddle import Hessian, Shifted, count_eigenvalues, inertia
from lanczos_saddle.distributed.columns import bytes_of, width_for
from lanczos_saddle.training import problems

SCENARIOS = "inertia_by_columns,counts_by_columns,choices,wrong_variants,interrupted_columns"


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """Results of the program by number of ranks and scenario."""
    return Lazily(tmp_path_factory.mktemp("ranks"), f"2:{SCENARIOS}", "4:inertia_by_columns,counts_by_columns")


def truth(matrix, t):
    values = np.linalg.eigvalsh(matrix.numpy())
    return (int((values < t).sum()), int((values > t).sum())), np.abs(values - t).min(), np.abs(values).max()


@pytest.mark.parametrize("number", NUMBERS)
def test_inertia_by_columns_is_that_of_numpy(ranks, number):
    """Counts, and a certificate that is true and not idle: at worst one part in 10 sqrt(10 N) of the distance."""
    found = ranks[number]["inertia_by_columns"]
    assert set(found) <= set(MATRICES)
    assert len(found) >= 5
    for name, rows in found.items():
        matrix, thresholds = MATRICES[name]
        for t, (counts, margin, separation, certified) in zip(thresholds, rows, strict=True):
            expected, distance, size = truth(matrix, t)
            assert counts == expected, (name, t)
            assert certified, (name, t)
            assert margin <= 1e-11 * len(matrix) * (size + abs(t)), (name, t)
            assert separation <= distance + margin, (name, t)
            assert separation >= 0.1 / (2 * max(len(matrix), 10) ** 0.5) * distance * 0.5, (name, t)


NETWORKS = [
    (2, "small"),
    (2, "small replicas"),
    (2, "small weights"),
    *((2, n) for n in ("relu", "relu replicas", "empty")),
    *(pytest.param(4, n, marks=pytest.mark.slow) for n in ("relu", "relu replicas", "empty")),
]


@pytest.mark.parametrize(("number", "name"), NETWORKS)
def test_counts_by_columns_are_those_of_one_process(ranks, number, name):
    """By inertia here, by all eigenvalues there; one network has dead coordinates, one rank may have no samples."""
    found = ranks[number]["counts_by_columns"][name]
    network = small if name.startswith("small") else relu
    own = count_eigenvalues(whole(network()), threshold=1e-3, method="exact")
    assert found.stopped == "the inertia at -tau and tau is known"
    assert own.stopped == "all eigenvalues are known"
    for part in ("negative", "near_zero", "positive"):
        one, other = getattr(found, part), getattr(own, part)
        assert one.lower == one.upper == other.lower == other.upper
    assert found.evidence.eigenvalues is None


@pytest.mark.parametrize("number", NUMBERS)
def test_several_thresholds_are_counted_from_one_assembly(ranks, number):
    found = ranks[number]["counts_by_columns"]["several"]
    for tau, counts in zip(SEVERAL, found, strict=True):
        own = count_eigenvalues(whole(relu()), threshold=tau, method="exact")
        assert (str(counts.negative), str(counts.positive)) == (str(own.negative), str(own.positive))
        assert counts.products <= whole(relu()).shape[0] + 40  # columns once, and checks


@pytest.mark.parametrize("number", NUMBERS)
def test_what_is_subtracted_from_a_matrix_of_all_samples_is_so_once(ranks, number):
    assert ranks[number]["counts_by_columns"]["shifted"] == tuple(inertia(Shifted(whole(relu()), 0.01), 0.02))


@pytest.mark.slow
def test_the_digits_network_is_counted_by_columns_as_by_one_process(tmp_path):
    problem = problems.built_in("digits")
    found = told(tmp_path, "2:digits_by_columns")[2]["digits_by_columns"]
    x, y = problem.data
    own = count_eigenvalues(Hessian(problem.model.double(), problem.loss, (x.double(), y)), threshold=DIGITS)
    assert own.evidence.eigenvalues is not None
    for part in ("negative", "near_zero", "positive"):
        one, other = getattr(found, part), getattr(own, part)
        assert (one.lower, one.upper) == (other.lower, other.upper)
        assert one.lower == one.upper


def test_who_writes_the_matrix_out(ranks):
    """The number of copies and of numbers that the last rank had, of half a triangle."""
    found, (expected, *_) = ranks[2]["choices"], truth(MATRICES["random"][0], 0.3)
    for name in ("small", "pays", "one", "lapack", "no room"):
        assert found[name][0] == expected, name
    for name in ("small", "one", "lapack"):
        assert found[name][1] == [], name
    for name in ("pays", "no room"):
        ((copies, numbers, held),) = found[name][1]
        assert (copies, held) == (1, 1)  # the factors take the place of the matrix
        assert numbers <= 173**2 / 4 * 1.2
    assert found["counted"][0] == "exact"
    ((copies, numbers, held),) = found["counted"][1]
    assert (copies, held) == (2, 2)


def test_a_state_keeps_products_where_one_rank_has_them(ranks):
    """Rank 0 writes the matrix out where it has room; by columns a count begins again, and says the same."""
    found, matrix = ranks[2]["choices"], MATRICES["random"][0]
    below, above = truth(matrix, -0.1)[0][0], truth(matrix, 0.1)[0][1]
    for name, columns in (("kept", 0), ("kept columns", 1), ("again", 1)):
        counts, made = found[name]
        assert (counts.negative.lower, counts.positive.lower) == (below, above)
        assert (counts.negative.upper, counts.positive.upper) == (below, above)
        assert len(made) == columns


def test_what_has_no_room_is_refused_with_the_way_out(ranks):
    found = ranks[2]["choices"]
    said = found["eigenvalues"][0]
    assert "GiB are free: eigenvalues are worked out by rank 0 alone; inertia lies by columns with all ranks" in said
    assert "\n" not in said
    assert "inertia by columns at N = 173 takes 0.00 GiB on each of 2 ranks" in found["ranks full"]
    assert found["unknown"] == "dense must be one of auto, columns, one; got 'rows'"


def test_a_rank_needs_a_share_of_the_triangle():
    one = 8 * 20_000 * (20_000 - 1) / 2
    assert width_for(20_000, 4) == 256
    for number in (1, 2, 8):
        beside = bytes_of(20_000, number, 2) - bytes_of(20_000, number, 1)
        assert one / number <= beside <= one / number * 1.15
    assert width_for(3, 4) == 1


def test_stages_of_columns_are_heard(ranks):
    stages, products = ranks[2]["choices"]["heard"]
    assert [name for name, *_ in stages] == ["dead coordinates", "assembly", "LDL' at 0.3"]
    assert stages[1][1:] == (173, 173)
    assert stages[2][1:] == (100, 100)
    assert products >= 173


@pytest.mark.parametrize("name", WRONG)
def test_a_rank_that_errs_is_found(ranks, name):
    """The certificate fails where factors are wrong; columns that are wrong are refused."""
    found = ranks[2]["wrong_variants"]
    if name.startswith("columns"):
        assert "the operator must be symmetric and stay the same" in found[name]
    else:
        assert found[name] == "certified: False"
    assert all(certified for *_, certified in found["right"])


def test_an_interrupt_leaves_ranks_that_can_be_asked_again(ranks):
    stopped, again, held = ranks[2]["interrupted_columns"]
    assert stopped == "LedInterrupt"  # on the last rank
    assert again[0] == truth(MATRICES["random"][0], 0.3)[0]
    assert again[-1]
    assert held == 0


def test_matrices_have_thresholds_that_are_no_eigenvalues():
    for matrix, thresholds in MATRICES.values():
        assert torch.equal(matrix, matrix.mT)
        assert min(truth(matrix, t)[1] for t in thresholds) > 0
