"""Two and four ranks against one process and against a dense matrix of differences of gradients.

One process imports everything and forks the ranks: all scenarios of this file take one start.
"""

import numpy as np
import pytest
import torch
from rank_judges import same_counts, told, whole
from rank_networks import convolutional, relu, small
from rank_program import vectors
from torch import nn

from lanczos_saddle import classify, count_eigenvalues, count_in, exact_eigenvalues, spectral_density
from lanczos_saddle.distributed.over_ranks import fingerprint, worst
from lanczos_saddle.distributed.shares import share, whole_digest
from lanczos_saddle.krylov.lanczos import Lanczos
from lanczos_saddle.networks.gauss_newton import GaussNewton
from lanczos_saddle.operators.fidelity import ZERO, Fidelity

ROUNDING = 1e-12  # float64 sums in another order, relative


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """Results of the program by number of ranks and scenario."""
    return told(tmp_path_factory.mktemp("ranks"), "2:products,refusals,collected,counts,questions", "4:products,counts")


def differences(problem):
    """H by central differences of gradients of the mean loss over all samples, (N, N): shares nothing with products."""
    model, loss, (x, y) = problem
    parameters = list(model.parameters())
    start = nn.utils.parameters_to_vector(parameters).detach().clone()

    def gradient(theta):
        nn.utils.vector_to_parameters(theta, parameters)
        return torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss(model(x), y), parameters)])

    step = 1e-5
    unit = torch.eye(len(start), dtype=start.dtype)
    return torch.stack([(gradient(start + step * e) - gradient(start - step * e)) / (2 * step) for e in unit])


def error(found, expected):
    return float((found - expected).norm() / expected.norm())


FORMS = ("uneven", "batches", "loader", "shuffled", "distributed", "wrapped")


@pytest.mark.parametrize(("number", "forms"), [(2, FORMS), (4, ())])
def test_shares_of_every_form_make_the_product_of_all_samples(ranks, number, forms):
    found = ranks[number]["products"]
    matrix = whole(small())
    exact, by_differences = matrix @ vectors(57), differences(small()) @ vectors(57)
    for name in ("rows", "empty", *forms):
        assert error(found[name], exact) < ROUNDING, name
        assert error(found[name], by_differences) < 1e-8, name
    run = Lanczos(matrix, vectors(57)).extend(12)
    assert np.allclose(found["probes"].diagonal, run.diagonal, rtol=0, atol=1e-9)
    assert np.allclose(found["probes"].norms, run.norms, rtol=1e-14)


def test_vectors_other_matrices_and_types_are_shared_too(ranks):
    found = ranks[2]["products"]
    assert error(found["vector"], whole(small()) @ vectors(57)[:, 0]) < ROUNDING
    assert error(found["gauss-newton"], GaussNewton(*small()) @ vectors(57)) < ROUNDING
    weighted = whole(convolutional())
    assert error(found["float32"], weighted @ vectors(weighted.shape[0], dtype=torch.float32)) < 1e-6


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("padded", "every sample counts once; got a DistributedSampler that repeats 1 of 41 samples on 2 ranks"),
        ("one part", "cut one data set together; got rank= [0, 0] on ranks 0 to 1: pass data=lanczos_saddle.share"),
        ("seeds", "got another number of samples, seed or epoch on some ranks, whose parts may overlap"),
        ("some", "got one on some ranks and none on rank 0"),
        (
            "another loss",
            "model and the loss of all ranks are one function; on the same 8 samples rank 1 has a loss of",
        ),
        ("another order", "must be the same in the same order on all: give what draws, splits or shuffles"),
        ("another order in slices", "(random_split, too), or make shares yourself; rank 1 differs from others"),
        ("other samples", "that every rank has whole, to take its share of, must be the same"),
        ("another loss in slices", "build both with the same settings on every rank"),
        ("left", "rank 1: the code of a problem must return or raise; it ended the program, exit(3)"),
        ("vectors", "all ranks multiply by the same vectors"),
        ("columns", "all ranks multiply by the same vectors"),
        ("shapes", "rank 1: the operator multiplies shapes (57,)"),
        ("nobody", "some rank must have samples"),
        ("weights", "at the same weights and frozen values"),
        ("types", "are in one type"),
        ("function", "a function of parameters is not cut into samples"),
        ("sharded", "every rank must hold all weights; parameter '2.weight' is sharded (DTensor): collect them"),
        ("fully sharded", "every rank must hold all weights; module '' is sharded (FSDPSequential): collect them"),
        ("broken", "RankFailed: rank 1: FloatingPointError: broken on purpose"),
        ("unequal", "the loss must add up over the parts of a batch"),
        ("unequal in slices", "the loss must add up over the parts of a batch"),
        ("mixing", "the loss must add up over the parts of a batch"),
    ],
)
def test_what_ranks_refuse_they_refuse_together(ranks, name, said):
    assert said in ranks[2]["refusals"][name]


@pytest.mark.parametrize("name", ["fsdp2", "dtensor"])
def test_the_way_out_of_sharded_weights_is_one(ranks, name):
    assert error(ranks[2]["collected"][name], whole(small()) @ vectors(57)) < ROUNDING


def test_ranks_go_on_after_one_has_raised(ranks):
    assert error(ranks[2]["refusals"]["afterwards"], whole(small()) @ vectors(57)) < ROUNDING


@pytest.mark.parametrize("number", [2, 4])
def test_counts_are_those_of_one_process(ranks, number):
    found = ranks[number]["counts"]
    matrix = whole(small())
    sampled = count_eigenvalues(matrix, threshold=1e-3, method="lanczos", probes=5, steps=20)
    same_counts(found["sampled"], sampled)
    run, own = found["sampled"].evidence.run, sampled.evidence.run
    assert np.allclose(run.diagonal, own.diagonal, rtol=0, atol=1e-9)
    judge = torch.linalg.eigvalsh(differences(small()))
    exact = found["exact"]
    assert exact.method == "exact"
    assert exact.negative.lower == exact.negative.upper == int((judge < -1e-3).sum())
    assert exact.positive.lower == exact.positive.upper == int((judge > 1e-3).sum())


@pytest.mark.parametrize("number", [2, 4])
def test_what_is_proved_is_proved_of_all_samples_together(ranks, number):
    found = ranks[number]["counts"]
    matrix = whole(relu())
    same_counts(found["relu"], count_eigenvalues(matrix, threshold=1e-3, method="lanczos", probes=5, steps=20))
    assert found["same"]


def test_every_question_is_answered_as_by_one_process(ranks):
    found, matrix = ranks[2]["questions"], whole(small())
    assert all(said.startswith("within a question the matrix is the one that it is given") for said in found["outer"])
    assert "is sent to all ranks; it cannot be pickled" in found["unsent"]
    own = count_in(matrix, 0.01, 0.5, probes=4, steps=12)
    for one, other in ((found["inside"].below, own.below), (found["inside"].inside, own.inside)):
        assert (one.lower, one.upper) == (other.lower, other.upper)
        assert one.estimate == pytest.approx(other.estimate, rel=1e-6)  # sums of two ranks, in another order
    assert float((found["eigenvalues"] - exact_eigenvalues(matrix)).abs().max()) < 1e-13
    density = spectral_density(matrix, probes=3, steps=20)
    assert np.allclose(found["density"].nodes, density.nodes, atol=1e-8)
    classified, own = found["classified"], classify(matrix, threshold=1e-3)
    assert classified.value == pytest.approx(own.value, rel=1e-12)
    assert classified.gradient_norm == pytest.approx(own.gradient_norm, rel=1e-12)
    assert {n: v.answer for n, v in classified.verdicts.items()} == {n: v.answer for n, v in own.verdicts.items()}
    assert classified.variation.at_least == pytest.approx(own.variation.at_least, rel=1e-3)
    eliminated = count_eigenvalues(whole(relu()), threshold=1e-3, method="elimination")
    assert found["elimination"].negative == eliminated.negative
    own = count_eigenvalues(whole(convolutional()), threshold=1e-3, method="lanczos", probes=4, steps=30)
    same_counts(found["float32"], own, digits=1e-2)
    assert found["fidelity"].status == own.check.fidelity.status
    assert found["fidelity"].samples == 20
    assert found["refused"].startswith("a threshold must be positive and finite; got -1.0")


def test_fingerprints_tell_blocks_apart():
    block = torch.randn(11, 3, dtype=torch.float64)
    assert fingerprint(block) == fingerprint(block.clone())
    others = [block[:, [1, 0, 2]], block.flip(0), torch.nextafter(block, block + 1), -block]
    assert len({fingerprint(b) for b in (block, *others)}) == 5
    assert fingerprint(block.float()) == fingerprint(block.float().T.contiguous().T)


def test_the_worst_comparison_is_that_of_all():
    good = Fidelity("agrees", "forward", 1e-9, 1e-6, 0.0, 0.0, 10, "float64", (ZERO,))
    bad = Fidelity("coarse", "forward", 1e-3, 1e-2, float("nan"), 0.0, 5, "float64", ("a note",))
    found = worst([good, bad])
    assert (found.status, found.error, found.samples, found.notes) == ("coarse", 1e-3, 15, ("a note",))
    assert found.value_error != found.value_error  # NaN is the worst


@pytest.mark.parametrize("ranks_", [1, 2, 3, 7])
def test_shares_hold_every_sample_once(ranks_):
    x, y = torch.arange(10.0).reshape(5, 2), torch.arange(5)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=2, shuffle=True)
    for data in ((x, y), loader, [(x[:2], y[:2]), (x[2:], y[2:])]):
        parts = [share(data, rank=r, ranks=ranks_) for r in range(ranks_)]
        held = [part for part in parts if part is not None]
        seen = [b[1] for part in held for b in ([part] if isinstance(part, tuple) else part)]
        assert sorted(torch.cat(seen).tolist()) == [0, 1, 2, 3, 4]
    assert share({"input_ids": x, "labels": y}, rank=0, ranks=2)["labels"].tolist() == [0, 2, 4]
    graph = {"nodes": torch.ones(3), "edges": torch.ones(4)}
    assert [share(graph, rank=r, ranks=2) for r in (0, 1)] == [graph, None]


class Afresh:
    """The same batches at every pass, and no list."""

    def __init__(self, batches):
        self.batches = batches

    def __iter__(self):
        return iter(self.batches)


WHOLES = {
    "pair": lambda x, y: (x, y),
    "inputs": lambda x, y: {"x": x, "labels": y},
    "batches": lambda x, y: list(zip(x.split(4), y.split(4), strict=True)),
    "loader": lambda x, y: torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=4),
    "read anew": lambda x, y: Afresh(list(zip(x.split(4), y.split(4), strict=True))),
}


@pytest.mark.parametrize("form", WHOLES)
def test_shares_know_of_which_whole_they_are(form):
    x, y = torch.randn(41, 3), torch.arange(41)
    digests = [whole_digest(share(WHOLES[form](x, y), rank=r, ranks=3)) for r in (0, 1, 2)]
    assert len(set(digests)) == 1
    assert digests[0]
    order = torch.arange(41)
    order[4:8] = order[36:40].clone()  # the first batch is the same
    assert whole_digest(share(WHOLES[form](x[order], y[order]), rank=0, ranks=3)) != digests[0]
    assert "part_of" not in vars(x)  # what is given stays as it was


def test_loaders_of_unknown_order_are_refused():
    data = torch.utils.data.TensorDataset(torch.ones(6, 1))
    subset = torch.utils.data.SubsetRandomSampler([0, 1, 2])
    with pytest.raises(ValueError, match="got SubsetRandomSampler, which may order samples differently"):
        share(torch.utils.data.DataLoader(data, batch_size=2, sampler=subset), rank=0, ranks=2)
    with pytest.raises(ValueError, match=r"got a one-shot generator: use list\(data\)"):
        share((batch for batch in data), rank=0, ranks=2)
    with pytest.raises(ValueError, match="a rank is one of 0 to 1; got rank=2"):
        share([1], rank=2, ranks=2)


def test_a_matrix_of_ranks_needs_a_process_group():
    from lanczos_saddle import data_parallel

    with pytest.raises(ValueError, match="ranks need a process group; there is none: start with torchrun"):
        data_parallel(whole(small()))
