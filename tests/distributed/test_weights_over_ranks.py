"""Weights cut over two and four ranks, against one process and a dense matrix of differences of gradients."""

import copy

import pytest
import torch
from rank_judges import NUMBERS, same_counts, told, whole
from rank_networks import small
from rank_program import vectors
from shard_networks import NETWORKS, transformer
from torch import nn

from lanczos_saddle import classify, count_eigenvalues, exact_eigenvalues, weight_parallel
from lanczos_saddle.distributed.sharded_weights import Layout, Plan
from lanczos_saddle.networks.shards.placeholders import Placeholder, Touched, without_parameters
from lanczos_saddle.networks.shards.units import enlarged, units_of

ROUNDING = 1e-12  # float64 sums in another order, relative


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """Results of the program by number of ranks and scenario."""
    two = "2:products,refusals,wrong,resident,transforms,nothing_whole"
    return told(tmp_path_factory.mktemp("shards"), two, program="shard_program.py")


@pytest.fixture(scope="module")
def more(tmp_path_factory):
    """The same of what takes longer."""
    two, four = "2:sources,questions", "4:products,transforms,nothing_whole"
    return told(tmp_path_factory.mktemp("shards"), two, four, program="shard_program.py")


@pytest.fixture
def over(request, number):
    """What ranks of that number found."""
    return request.getfixturevalue("ranks" if number == 2 else "more")[number]


@pytest.fixture(scope="module")
def judges():
    """By network: (the product of one process, that of differences of gradients), N."""
    found = {}
    for name, make in NETWORKS.items():
        matrix = whole(make())
        found[name] = (matrix, differences(make()))
    return found


def differences(problem):
    """H by central differences of gradients of the mean loss, (N, N); of tied parameters once."""
    model, loss, (x, y) = problem
    parameters = list(model.parameters())
    start = nn.utils.parameters_to_vector(parameters).detach().clone()

    def gradient(theta):
        nn.utils.vector_to_parameters(theta, parameters)
        value = loss(model(x), y).mean()
        return torch.cat([g.reshape(-1) for g in torch.autograd.grad(value, parameters)])

    step = 1e-5
    unit = torch.eye(len(start), dtype=start.dtype)
    return torch.stack([(gradient(start + step * e) - gradient(start - step * e)) / (2 * step) for e in unit])


def error(found, expected):
    return float((found - expected).norm() / expected.norm())


def agrees(found, expected, rounding=ROUNDING):
    """A block, a vector and coordinates put together."""
    assert error(found["block"], expected) < rounding
    assert error(found["vector"], expected[:, 0]) < rounding
    assert error(found["own"], expected) < rounding


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("name", NETWORKS)
def test_products_are_those_of_one_process_and_of_differences(over, judges, number, name):
    found = over["products"][name]
    matrix, dense = judges[name]
    size = len(dense)
    agrees(found, matrix @ vectors(size))
    agrees(found, dense @ vectors(size), 1e-8)
    width = -(-size // number)
    assert found["cuts"] == tuple(min(size, r * width) for r in range(number + 1))


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize(
    "name", ["a layer over all ranks", "an empty slice", "few samples", "no samples", "by columns"]
)
def test_cuts_and_shares_of_any_size_make_the_same_product(over, judges, name):
    agrees(over["products"][name], judges["mlp"][0] @ vectors(57))


@pytest.mark.slow
def test_one_sample_on_four_ranks(more):
    model, loss, (x, y) = small()
    agrees(more[4]["products"]["one sample"], whole((model, loss, (x[:1], y[:1]))) @ vectors(57))


@pytest.mark.parametrize("number", NUMBERS)
def test_a_part_of_the_parameters_and_another_loss(over):
    found = over["products"]
    agrees(found["some parameters"], whole(small(), parameters="2.*") @ vectors(21))
    model, loss, (x, y) = small()
    y[:3] = -100
    agrees(found["ignored"], whole((model, loss, (x, y))) @ vectors(57))
    agrees(found["squares"], whole((model, nn.MSELoss(), (x, x[:, :3]))) @ vectors(57))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pt", "safetensors", "fsdp2"])
def test_weights_that_no_rank_has_whole(more, judges, name):
    found = more[2]["sources"][name]
    agrees(found, judges["transformer"][0] @ vectors(len(judges["transformer"][1])))
    assert found["fidelity"].status == "agrees"
    assert found["fidelity"].error < 1e-6
    assert "no rank has the whole model" in found["fidelity"].notes[0]


@pytest.mark.slow
def test_what_is_kept_and_what_is_given_back(more, judges):
    found = more[2]["sources"]
    agrees(found["dtensor"], judges["mlp"][0] @ vectors(57))
    size = len(judges["transformer"][1])
    assert found["held"] == size - -(-size // 2)  # of the last rank
    assert found["fsdp2 afterwards"] == "FSDPTransformer"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("no file", "is on the meta device: pass weights=FILE"),
        ("another file", "weights must be a .safetensors file or a state that torch.save wrote"),
        ("other names", "'0.weight' is not in"),
    ],
)
def test_sources_that_are_none(more, name, said):
    assert said in more[2]["sources"][name]


@pytest.mark.parametrize("number", NUMBERS)
def test_counts_are_those_of_one_process_where_no_rank_has_anything_whole(over):
    found, matrix = over["nothing_whole"], whole(small())
    asked = {"threshold": 1e-3, "method": "lanczos", "probes": 5, "steps": 20, "precision": 1e-9}
    for name, keep in (("kept", True), ("whole", True), ("plain", False)):
        same_counts(found[name], count_eigenvalues(matrix, **asked, reorthogonalize=keep))
    exact = count_eigenvalues(matrix, threshold=1e-2, method="exact")
    for name in ("negative", "near_zero", "positive"):
        interval = getattr(found["single"], name)
        assert interval.lower <= getattr(exact, name).estimate <= interval.upper
    for name in ("exact", "classified"):
        assert "needs whole vectors" in found[name]
    assert "vector_parallel(weight_parallel(...)) on all" in found["one rank"]
    assert "rank 1 passes NoneType" in found["one rank"]


@pytest.mark.slow
def test_questions_are_answered_as_by_one_process(more):
    found, matrix = more[2]["questions"], whole(small())
    assert found["fidelity"].status == "agrees"
    assert (found["fidelity"].samples, found["fidelity"].mode) == (8, "layers")
    exact = count_eigenvalues(matrix, threshold=1e-3)
    assert (found["exact"].negative, found["exact"].near_zero) == (exact.negative, exact.near_zero)
    same_counts(found["sampled"], count_eigenvalues(matrix, threshold=1e-3, method="lanczos", probes=5, steps=20))
    own = classify(matrix, threshold=1e-3)
    assert found["classified"].gradient_norm == pytest.approx(own.gradient_norm, rel=1e-12)
    assert found["classified"].value == pytest.approx(own.value, rel=1e-12)
    assert found["classified"].variation.at_least == pytest.approx(own.variation.at_least, rel=1e-3)
    assert torch.equal(found["theta"], matrix.problem.theta)
    assert abs(found["eigenvalues"] - exact_eigenvalues(matrix)).max() < 1e-12
    assert "got one of ranks, the first of which has no samples, or not all weights" in found["preconditioned"]


@pytest.mark.slow
def test_single_precision_is_compared_in_double(more):
    fidelity, product = more[2]["questions"]["float32"]
    model, loss, (x, y) = small()
    assert (fidelity.status, fidelity.arithmetic) == ("agrees", "float64")
    expected = whole((model.float(), loss, (x.float(), y)), dtype=torch.float64)
    assert error(product, expected @ vectors(57)) < ROUNDING


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("hooks", "has no hooks; module '1' has some (forward_hooks): write what they do into forward"),
        ("other modules", "parameter '0.weight' is used by the model's own forward"),
        ("in place", "must leave its inputs alone; 'scale' writes into what it is given"),
        ("hidden", "'inner' is given Box: pass tensors"),
        ("experts", "rank 0 collects 'experts.0' (1 columns) while rank 1 collects 'experts.1'"),
        ("derivative", "take models that make no derivatives in forward; this one does"),
        ("no loss", "take the loss as a function of (outputs, targets); got None"),
        ("nobody", "some rank must have samples"),
        ("memory", "memory must hold one sample and the largest layer with one column"),
        ("sum", "the loss must add up over the parts of a batch"),
        ("unequal", "the loss must add up over the parts of a batch"),
        ("rare", "the loss must add up over the parts of a batch"),
        ("another order", "must be the same in the same order on all"),
        ("another loss", "one function; on the same"),
        ("bag", "twice; it raised NotImplementedError: the derivative for '_embedding_bag_backward'"),
        ("classes", "at the same weights and frozen values"),
        ("weights", "at the same weights and frozen values"),
        ("broken", "rank 1: FloatingPointError: broken on purpose"),
        ("shape", "a rank multiplies its own coordinates"),
    ],
)
def test_what_cannot_be_cut_is_refused_by_all_ranks(ranks, name, said):
    assert said in ranks[2]["refusals"][name]
    assert "\n" not in ranks[2]["refusals"][name]


def test_ranks_go_on_after_one_has_raised(ranks, judges):
    assert error(ranks[2]["refusals"]["afterwards"], judges["mlp"][0] @ vectors(57)) < ROUNDING


@pytest.mark.parametrize("given", ["", ", no model"])
@pytest.mark.parametrize("mistake", ["no reduction", "no reduction of blocks", "shifted", "another function"])
def test_wrong_exchanges_are_found(ranks, mistake, given):
    said = ranks[2]["wrong"][mistake + given]
    assert "of weights over ranks must be" in said
    assert "differ by" in said


def test_whole_layers_are_let_go(ranks):
    """In a product with two columns: the layer, and what is collected of its two directions."""
    layer, most, left, collected = ranks[2]["resident"]
    assert collected >= 6 * 4 * 2  # weights and biases of six layers, four times
    assert most <= 3 * layer
    assert left == 0


@pytest.mark.parametrize("number", NUMBERS)
def test_the_exchange_is_a_function_under_transforms(over, number):
    """vmap(jvp(grad)) of a loss of collected parameters, against torch's dense Hessian of the sum."""
    theta, a = vectors(10, 1)[:, 0], vectors(21, 1).view(7, 3)

    def total(t):
        return sum(torch.tanh(t[:7] @ (a * (1 + rank)) + t[7:]).square().sum() for rank in range(number))

    expected = torch.func.hessian(total)(theta) @ vectors(10, 4)
    w, b = over["transforms"]
    assert error(torch.cat([w, b]), expected) < ROUNDING


def test_layouts_hold_every_coordinate_once():
    layout = Layout({"a": 5, "b": 0, "c": 7}, (0, 2, 2, 9, 12))
    held = torch.zeros(12)
    for rank in range(4):
        for name, part in layout.parts(rank).items():
            start = layout.ranges[name].start
            held[start + part.start : start + part.stop] += 1
    assert held.tolist() == [1.0] * 12
    plan = Plan.of(["c", "a"], layout)
    assert [(rank, [(i, p.start, p.stop) for i, p in parts]) for rank, parts in plan.owners] == [
        (0, [(1, 0, 2)]),
        (2, [(0, 0, 4), (1, 2, 5)]),
        (3, [(0, 4, 7)]),
    ]
    assert Layout.even({"a": 3}, 4).cuts == (0, 1, 2, 3, 3)


def test_a_model_without_parameters_says_who_uses_them():
    model = transformer()[0]
    bare = without_parameters(model, torch.float64, torch.device("cpu"), {})
    assert isinstance(bare.tokens.weight, Placeholder)
    assert bare.head.weight is bare.tokens.weight
    assert (bare.scale.shape, bare.scale.dtype, bare.scale.device.type) == ((4,), torch.float64, "cpu")
    assert torch.equal(bare.mask, model.mask)
    with pytest.raises(Touched) as touched:
        bare.scale * 2
    assert touched.value.name == "scale"
    kinds = {unit.name: unit.whole for unit in units_of(bare, [])}
    assert kinds[""] is False
    assert kinds["blocks.0.attention"] is False
    assert kinds["blocks.0.attention.out_proj"] is True
    touched.value.within = ("", "blocks.0.attention")
    touched.value.name = "blocks.0.attention.out_proj.weight"
    assert enlarged(bare, touched.value) == "blocks.0.attention"
    again = {unit.name: unit.whole for unit in units_of(bare, ["blocks.0.attention"])}
    assert again["blocks.0.attention"] is True
    assert "blocks.0.attention.out_proj" not in again
    copy.deepcopy(model)  # the model itself is as it was


def test_weights_over_ranks_need_a_process_group():
    with pytest.raises(ValueError, match="ranks need a process group; there is none: start with torchrun"):
        weight_parallel(*small())
