"""A plan for several ranks against arithmetic by hand, and against what the ranks themselves ask."""

import math

import pytest
import torch
from matrices import gaussian, labels
from torch import nn

from lanczos_saddle import GaussNewton, Hessian, plan
from lanczos_saddle.counting.options import Options
from lanczos_saddle.distributed import slice_store, spread_basis
from lanczos_saddle.forecast import footprints
from lanczos_saddle.forecast.known import Known, Sketch
from lanczos_saddle.forecast.ranks import SHARINGS, Imagined, Load, between, first_rank, sharing_of
from lanczos_saddle.forecast.rehearsal import Pace, Rehearsal
from lanczos_saddle.forecast.shards import DIRECTION, LAYER, PRIMAL, TANGENT, shards_of
from lanczos_saddle.forecast.ways import plain
from lanczos_saddle.operators.knowledge import Knowledge
from lanczos_saddle.operators.operator import FromFunction

F64, CPU = torch.float64, torch.device("cpu")
RUN = {"threshold": 1e-2, "method": "lanczos", "probes": 4, "steps": 30, "precision": 1e-9, "pilot": False}
N = 53


def network(samples=90):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)).double()
    return Hessian(model, nn.CrossEntropyLoss(), (gaussian(samples, 6), labels(samples, 3)))


def gauss_newton():
    model = nn.Linear(6, 3).double()
    return GaussNewton(model, nn.CrossEntropyLoss(), (gaussian(9, 6), labels(9, 3)))


def hooked():
    model = nn.Sequential(nn.Linear(6, 3)).double()
    matrix = Hessian(model, nn.CrossEntropyLoss(), (gaussian(9, 6), labels(9, 3)))
    model[0].register_forward_hook(lambda *_: None)
    return matrix


def function():
    x = torch.linspace(0, 1, 20, dtype=F64, requires_grad=True)
    return Hessian.of(lambda: (x**4).sum(), [x])


def known(over, ranks, link=None, free=2**32, samples=90):
    """Steps of 0.5 s a column, 0.4 of them the product; the rates of this machine do not count."""
    pace = Pace(4, 2.0, (2.0, 2.0), (1.6, 1.6))
    made = Rehearsal(pace=pace, spent={"timing": 12})
    matrix = network(samples)
    shards = shards_of(matrix) if over in ("weights", "all") else None
    found = Known(
        matrix,
        Options(threshold=1e-2, probes=4, steps=50),
        Knowledge(),
        free,
        None,
        footprints.multiplying(matrix) if shards is None else shards.multiplying(N, samples),
        made,
        None,
        samples,
        sharing_of(matrix, ranks, over, link),
        shards,
    )
    found.__dict__["flops"] = found.__dict__["bandwidth"] = math.inf
    return found


@pytest.mark.parametrize("ranks", [2, 3, 4, 7])
def test_what_is_divided_is_there_in_whole(ranks):
    data, probes, vectors, weights, everything = (make(ranks) for make in SHARINGS.values())
    for count in range(1, 30):
        fullest = max(len(range(r, count, ranks)) for r in range(ranks))
        assert data.samples_of(count) == fullest
        assert data.columns_of(count) == data.dealt(count) == count
        assert probes.samples_of(count) == count
        assert probes.columns_of(count) == fullest
        assert probes.dealt(count) == (fullest if count > 1 else 1)
        assert data.work_of(count, 64) == fullest / count
        assert probes.work_of(90, count) == fullest / count
        assert {one.samples_of(count) for one in (vectors, weights, everything)} == {fullest}
        assert vectors.held(count) == everything.held(count) == -(-count // ranks)
        assert weights.held(count) == data.held(count) == count


def test_seconds_over_data_are_those_of_the_shares_and_of_the_talk():
    """90 samples on 4 ranks: 23 on the fullest; 2 N numbers of 8 bytes a column, and 3 N with a basis, at 1 kB/s."""
    found, alone = known("data", 4, 1000.0), known("data", 1, None)
    product, talk = 0.4 * 23 / 90, 2 * N * 8 / 1000
    begun = found.first * (product + talk)
    assert alone.run_seconds(4, 30, basis=False) == pytest.approx(alone.first * 0.4 + 120 * 0.5)
    assert found.run_seconds(4, 30, basis=False) == pytest.approx(begun + 120 * (product + talk + 0.1))
    kept = 120 * (product + talk + 0.1 + N * (8 + 16) / 1000)
    assert found.run_seconds(4, 30, basis=True) == pytest.approx(begun + kept)


def test_seconds_over_probes_are_those_of_the_fullest_rank():
    found = known("probes", 3, 1000.0)
    talk = 2 * N * 8 / 1000
    begun = found.first * (0.4 + talk)
    assert found.run_seconds(4, 30, basis=True) == pytest.approx(begun + 120 * 0.5 * 2 / 4)
    assert found.product_seconds(64) == pytest.approx(0.4 * 22 / 64 + talk)
    lockstep = 120 * (0.4 * 2 / 4 + talk + 0.1)
    assert found.run_seconds(4, 30, basis=False, dealt=False) == pytest.approx(begun + lockstep)


def test_seconds_over_vectors_are_those_of_slices():
    """What a step takes beside its product falls by the ranks, and nothing goes out for a basis."""
    found = known("vectors", 4, 1000.0)
    product = 0.4 * 23 / 90 + 2 * N * 8 / 1000
    begun = found.first * product
    assert found.run_seconds(4, 30, basis=True) == pytest.approx(begun + 120 * (product + 0.1 / 4))


def test_seconds_over_weights_are_those_of_layers():
    """Collected four times and summed up once for a block, and three times for each of its columns; one chunk."""
    product, layers = 0.4 * 23 / 90, N * 8 / 1000 * (5 / 4 + 3)
    both, alone = known("all", 4, 1000.0), known("weights", 4, 1000.0)
    assert both.product_seconds(4) == pytest.approx(product + layers)
    assert alone.product_seconds(4) == pytest.approx(product + layers + 2 * N * 8 / 1000)


def test_memory_over_vectors():
    """All ranks have ceil(N / R) of 3 x 4 + 7 vectors and of the basis; four columns whole for a product."""
    found, run = known("vectors", 4), footprints.run(14, 4, lambda _: 0)
    way = plain(found, basis=True)
    assert way.parts["vectors"] == way.others["vectors"] == run["vectors"] == 19 * 14 * 8
    assert way.parts["basis"] == way.others["basis"] == 4 * 50 * 14 * 8
    assert "between ranks" not in way.parts
    assert way.peak - way.parts["bounds"] == way.other_peak - way.others["bounds"]
    assert way.others["bounds"] == footprints.forms(14, 200) < way.parts["bounds"]
    product = footprints.multiplying(found.operator, 23)
    assert found.block(4) == 4 * N * 8 + product(4) + 4 * 14 * 8


def test_memory_over_vectors_of_a_matrix_of_slices():
    """Half of the rows of every block, and no whole ones."""
    operator = FromFunction(lambda v: torch.linspace(-1, 1, 3000, dtype=F64)[:, None] * v, 3000, F64, CPU)
    found = plan(operator, **RUN, memory=2**31, ranks=2, over="vectors")
    assert {way.name for way in found.ways} == {"plain", "plain, basis kept"}
    assert set(found.missing) >= {"eigenvalues", "inertia", "deflated", "ekfac", "eliminated"}
    way = found.way("plain, basis kept")
    assert way.others["basis"] == way.parts["basis"] == 4 * 30 * 1500 * 8
    assert way.others["vectors"] == way.parts["vectors"] == (3 * 4 + 7) * 1500 * 8
    assert "2 ranks share samples and vectors" in str(found)


def test_memory_over_weights():
    """Of 53 parameters 27 here, 35 of them in the larger layer; whole vectors on rank 0, or 27 of each."""
    whole, both = known("weights", 2), known("all", 2)
    saved = whole.shards.saved
    for columns in (1, 4):
        layer, chunk = (LAYER + DIRECTION * columns) * 35, 45 * saved * (PRIMAL + TANGENT * columns)
        own = int(8 * ((1 + 2 * columns) * 27 + layer) + chunk)
        assert both.block(columns) == own
        part = columns * 27 * 8
        assert whole.block(columns) == max(2 * part + own, 2 * part + 2 * columns * N * 8)
        assert whole.on_rank(whole.own, columns, 8, first=False) == 2 * part + own
    assert known("weights", 2)._others(Sketch("", "", [], 0, None, "", load=Load(1)))["vectors"] == 4 * N * 8
    assert plain(whole, basis=False).parts["vectors"] == 19 * N * 8
    assert plain(both, basis=False).parts["vectors"] == 19 * 27 * 8
    assert plain(both, basis=True).others["basis"] == 4 * 50 * 27 * 8


def test_a_plan_over_weights_times_layers():
    found = plan(network(), **RUN, memory=2**31, ranks=3, over="weights")
    assert found.over == "weights"
    assert "3 ranks share samples and weights" in str(found)
    assert {"ekfac", "subset", "eliminated", "inertia, one triangle"} <= set(found.missing)
    assert found.choice.fits
    assert found.products == {"timing": 4 * 17}
    assert {way.name for way in plan(network(), **RUN, memory=2**31, ranks=2, over="all").ways} == {
        "plain",
        "plain, basis kept",
    }


def test_slices_that_are_let_go_are_given_back(monkeypatch):
    """Blocks of one size do not come to lie where others of it were: a rank would hold its slices twice."""
    given, store = [], slice_store.Store(None, {}, CPU)
    monkeypatch.setattr(slice_store, "give_back", lambda: given.append(len(store.kept)))
    for number in range(9):
        store.kept[number] = torch.empty(2**18, dtype=F64)  # 2 MiB
    for number in range(9):
        store.let_go(number)
    assert given == [4]  # after five of them


def test_memory_over_data():
    """Rank 0: 3 x 4 + 7 vectors and what is cut up beside a part of the basis; the others: a block, and their part."""
    found = plan(network(), **RUN, memory=2**31, ranks=4).way("plain, basis kept")
    share = -(-4 * 30 * N * 8 // 4)
    assert found.others["basis"] == share
    assert found.others["vectors"] == 4 * N * 8
    assert found.other_peak == sum(found.others.values())
    parts = footprints.with_basis(N, 4, 30, 8, lambda _: 0)
    of_first = [first_rank(sharing_of(network(), 4, "data", None), part, N, Load(4)) for part in parts]
    assert {part["basis"] for part in of_first} == {share}
    assert {part["between ranks"] for part in of_first} == {8 * 4 * N * 8}
    assert found.parts["basis"] == share
    assert found.parts["between ranks"] == between(4 * N * 8) == 8 * 4 * N * 8
    assert between(spread_basis.AT_A_TIME) == 4 * spread_basis.AT_A_TIME
    assert found.products == found.rank_products  # each with its samples


def test_memory_and_products_over_probes():
    """Four probes on three ranks: two on the fullest."""
    found = plan(network(), **RUN, memory=2**31, ranks=3, over="probes")
    way, alone = found.way("plain, basis kept"), plan(network(), **RUN, memory=2**31)
    assert way.others["basis"] == 2 * 30 * N * 8
    assert way.others["vectors"] == (3 * 2 + 7) * N * 8
    single = alone.way("plain, basis kept")
    assert way.products == single.products
    assert way.rank_products == way.products - 120 + 60
    assert "inertia, one triangle" in found.missing
    assert "inertia, one triangle" not in alone.missing


def test_one_process_has_no_others():
    found = plan(network(), **RUN, memory=2**31)
    assert found.ranks == 1
    assert found.link is None
    assert all(way.others == {} and way.other_peak == 0 for way in found.ways)
    assert all("between ranks" not in way.parts for way in found.ways)
    assert "others" not in str(found)


def test_a_rank_that_is_too_full_does_not_fit():
    """A basis of which each rank keeps half fits where one process could not keep it; it must fit on all of them."""
    alone, first = (plain(known("data", ranks), basis=True) for ranks in (1, 2))
    assert first.other_peak < first.peak < alone.peak
    assert not plain(known("data", 1, free=first.peak), basis=True).fits
    assert plain(known("data", 2, free=first.peak), basis=True).fits
    assert not plain(known("data", 2, free=first.peak - 1), basis=True).fits


def test_the_table_has_columns_for_other_ranks():
    text = str(plan(network(), **RUN, memory=2**31, ranks=2))
    assert "2 ranks share samples; 1e+09 bytes a second between them are assumed" in text
    assert "rank 0    others  products  a rank" in text
    assert "memory of each other rank: " in text
    assert "2.0 GiB may be used by each rank" in text


class Company:
    """What ranks of machines of their own would say."""

    rank = 0

    def __init__(self, size, free):
        self.size, self.free = size, free

    def gathered(self, own):
        return [own, *((f"machine {r}", self.free) for r in range(1, self.size))]


@pytest.mark.parametrize("over", ["data", "probes"])
@pytest.mark.parametrize("ranks", [2, 3, 5])
def test_the_room_for_a_basis_is_what_ranks_find(over, ranks):
    """With what `Led.basis_room` adds, and nothing beside on other machines' ranks but on rank 0."""
    matrix, free, beside = network(), 2**31, 2**20
    imagined = Imagined(matrix, sharing_of(matrix, ranks, over, None))
    more = beside + spread_basis.SCRATCH * 8 * N + 2 * spread_basis.AT_A_TIME
    for part in (1, 2):
        there = spread_basis.room_for_basis(Company(ranks, free), CPU, free, more, part, 4 if over == "probes" else 1)
        assert imagined.basis_room(free, beside, part, 4) == there


def test_the_room_for_a_basis_in_slices_is_what_ranks_find():
    matrix, free, beside = network(), 2**31, 2**20
    for ranks in (2, 3, 5):
        imagined = Imagined(matrix, sharing_of(matrix, ranks, "vectors", None))
        for part in (1, 2):
            there = spread_basis.room_in_slices(Company(ranks, free), CPU, free, beside, part)
            assert imagined.basis_room(free, beside, part, 4) == there


class Shared:
    """A matrix that ranks share."""

    shape, dtype, device = (N, N), F64, CPU

    def led_by_one(self, _):
        raise AssertionError

    def __matmul__(self, v):
        raise AssertionError


@pytest.mark.parametrize(
    ("matrix", "options", "message"),
    [
        (network, {"ranks": 0}, "ranks must be a whole number of at least 1; got 0"),
        (network, {"ranks": 2.5}, "whole number of at least 1; got 2.5"),
        (network, {"ranks": 2, "over": "samples"}, "over must be one of 'data', 'probes', .*; got 'samples'"),
        (network, {"ranks": 2, "link": -1.0}, "positive number of bytes a second; got -1"),
        (network, {"link": 1e9}, "got 1e.09 bytes a second and one process: pass ranks=R"),
        (function, {"ranks": 2}, "got one of a function: it is not cut into samples, over='probes'"),
        (lambda: torch.eye(9, dtype=F64), {"ranks": 2}, "got a matrix: it is not cut"),
        (lambda: torch.eye(9, dtype=F64), {"ranks": 2, "over": "probes"}, "got a matrix: plan it for one process"),
        (Shared, {}, "got one that ranks share: pass the Hessian with ranks=R"),
        (function, {"ranks": 2, "over": "vectors"}, "got one of a function: it is not cut into samples"),
        (
            function,
            {"ranks": 2, "over": "weights"},
            "Hessian.model, loss, data.; got one of a function: over='vectors'",
        ),
        (gauss_newton, {"ranks": 2, "over": "all"}, "Hessian.model, loss, data.; got GaussNewton"),
        (hooked, {"ranks": 2, "over": "weights"}, "has no hooks; module '0' has some"),
        (network, {"ranks": 2, "over": "vectors", "method": "exact"}, 'method="exact" needs whole vectors'),
        (network, {"ranks": 2, "over": "all", "method": "elimination"}, 'method="elimination" needs whole vectors'),
        (network, {"ranks": 2, "over": "vectors", "preconditioner": "ekfac"}, "preconditioner needs whole vectors"),
        (network, {"ranks": 2, "over": "weights", "preconditioner": "ekfac"}, "got one of ranks, .* not all weights"),
        (network, {"ranks": 2, "over": "weights", "method": "elimination"}, "structure proves a block"),
    ],
    ids=[
        "none",
        "a part",
        "no way",
        "link",
        "link of one",
        "function",
        "matrix",
        "matrix, probes",
        "shared",
        "function, vectors",
        "function, weights",
        "GaussNewton, all",
        "hooks",
        "exact, vectors",
        "elimination, all",
        "S, vectors",
        "S, weights",
        "elimination, weights",
    ],
)
def test_misuse_is_refused(matrix, options, message):
    with pytest.raises(ValueError, match=message):
        plan(matrix(), threshold=0.1, **options)


def test_a_function_is_planned_over_probes():
    found = plan(function(), **{**RUN, "steps": 10}, memory=2**31, ranks=2, over="probes")
    assert found.over == "probes"
    assert {way.name for way in found.ways} >= {"eigenvalues", "plain", "plain, basis kept"}


def test_keywords_of_another_question_are_no_keywords():
    with pytest.raises(TypeError, match="bananas"):
        plan(network(), threshold=0.1, bananas=2)
    with pytest.raises(TypeError, match="progress"):
        plan(network(), threshold=0.1, progress=True)
