"""Congruent matrices: S against dense S, Sylvester's law, the noise carried through, Kronecker algebra, coverage."""

from dataclasses import replace

import pytest
import torch
from matrices import gaussian
from scipy.stats import binom
from torch import nn

from lanczos_saddle import GaussNewton, Hessian, as_operator, count_eigenvalues, exact_eigenvalues, recount
from lanczos_saddle.certificates.intervals import Bounds, Masses, bracket_at_zero, joint_intervals
from lanczos_saddle.dense.exact import assemble, inertia, three_counts
from lanczos_saddle.krylov.lanczos import Lanczos, Tridiagonalization
from lanczos_saddle.krylov.preflight import check_operator
from lanczos_saddle.preconditioning.congruence import Congruent, Corrected, Diagonal, Kept, congruent_check
from lanczos_saddle.preconditioning.ekfac import Kronecker, kronecker_layers
from lanczos_saddle.preconditioning.subset import curvature_subset, low_rank
from lanczos_saddle.studies.known_problems import digits


def symmetric(values, seed=0):
    """(H, Q) with the given eigenvalues."""
    q = torch.linalg.qr(gaussian(len(values), len(values), seed=seed)).Q
    return (q * values) @ q.mT, q


def classifier(loss=None, samples=40, seed=0, biases=(True, True), dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    model = nn.Sequential(nn.Linear(5, 4, bias=biases[0]), nn.ReLU(), nn.Linear(4, 3, bias=biases[1])).to(dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    inputs = torch.randn(samples, 5, generator=generator).to(dtype)
    targets = torch.randint(3, (samples,), generator=generator)
    return model, loss or nn.CrossEntropyLoss(), (inputs, targets)


def matrix_of(factor, size):
    return factor @ torch.eye(size, dtype=torch.float64)


def factors(size):
    base = Diagonal(gaussian(size, seed=4).abs() + 0.1)
    z = torch.linalg.qr(gaussian(size, 3, seed=5)).Q
    bad = gaussian(size, size, seed=6)
    return {
        "dense": bad,
        "nearly singular": (bad * torch.logspace(0, -3, size, dtype=torch.float64)) @ gaussian(size, size, seed=7),
        "diagonal": base,
        "corrected": Corrected(base, z, torch.tensor([1e-2, 0.5, 30.0], dtype=torch.float64)),
        "permutation": torch.eye(size, dtype=torch.float64).roll(1, 0),
    }


@pytest.mark.parametrize("name", factors(12))
def test_transpose_and_product(name):
    factor, dense = factors(12)[name], matrix_of(factors(12)[name], 12)
    assert torch.allclose(matrix_of(factor.mT, 12), dense.mT, atol=1e-13)
    assert torch.allclose(matrix_of(factor.mT.mT, 12), dense, atol=1e-13)
    h, _ = symmetric(torch.linspace(-1, 2, 12, dtype=torch.float64))
    v = gaussian(12, 3, seed=8)
    expected = dense.mT @ (h - 0.3 * torch.eye(12, dtype=torch.float64)) @ dense @ v
    assert torch.allclose(Congruent(h, factor, 0.3) @ v, expected, atol=1e-11 * float(expected.abs().max()))
    assert torch.allclose(Congruent(h, factor, 0.3) @ v[:, 0], expected[:, 0], atol=1e-11 * float(expected.abs().max()))


@pytest.mark.parametrize("name", factors(12))
@pytest.mark.parametrize("t", [-0.8, -1e-3, 0.4])
def test_sylvester(name, t):
    h, _ = symmetric(torch.linspace(-1, 2, 12, dtype=torch.float64))
    m = matrix_of(Congruent(h, factors(12)[name], t), 12)
    found = inertia((m + m.mT) / 2, 0.0)
    assert found.margin < found.separation  # or else rounding, not Sylvester's law, would decide
    assert found == inertia(h, t)


def test_a_kept_part_of_a_definite_factor_is_its_principal_block():
    size, index = 10, torch.tensor([0, 3, 4, 8])
    dense = gaussian(size, size, seed=9)
    dense = dense @ dense.mT
    assert torch.equal(matrix_of(Kept(dense, index, size), 4), dense[index][:, index])


@pytest.mark.parametrize("name", factors(12))
def test_the_noise_bound_holds_the_measured_noise(name):
    """Products of float32 H inside float64 S: the error of M v, against dense float64, stays under the bound."""
    size = 12
    h, _ = symmetric(torch.logspace(-6, 0, size, dtype=torch.float64))
    rounded = as_operator(lambda v: (h.float() @ v.float()).double(), size, dtype=torch.float64)
    check = replace(check_operator(h), noise=float(torch.linalg.matrix_norm(h.float().double() - h, 2)) + 1e-6)
    factor = factors(size)[name]
    congruent = Congruent(rounded, factor, 1e-3)
    carried = congruent_check(congruent, check, torch.Generator().manual_seed(1))
    dense = matrix_of(factor, size)
    exact = dense.mT @ (h - 1e-3 * torch.eye(size, dtype=torch.float64)) @ dense
    v = torch.linalg.qr(gaussian(size, size, seed=10)).Q
    errors = torch.linalg.vector_norm(congruent @ v - exact @ v, dim=0)
    assert float(errors.max()) <= carried.noise
    assert float(torch.linalg.matrix_norm(exact, 2)) <= carried.scale * 1.01


@pytest.mark.parametrize("biases", [(True, True), (False, True)])
@pytest.mark.parametrize("loss", [nn.CrossEntropyLoss(), nn.CrossEntropyLoss(reduction="sum"), "weighted"])
def test_kronecker_factors_against_dense_algebra(loss, biases):
    """Bases from E aa', E gg' and D as the diagonal of Q'GQ, all from explicit Jacobians; S against dense S."""
    weights = torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64)
    model, loss, data = classifier(nn.CrossEntropyLoss(weights) if loss == "weighted" else loss, biases=biases)
    problem = Hessian(model, loss, data).problem
    dense = assemble(GaussNewton(model, loss, data)).matrix
    layers, outputs = kronecker_layers(problem)
    assert outputs == 3
    assert [layer.bias is not None for layer in layers] == list(biases)
    for layer in layers:
        span = [*range(layer.weight.start, layer.weight.stop)]
        rows, columns = layer.diagonal.shape
        order = torch.tensor(span).reshape(rows, -1)
        if layer.bias is not None:
            order = torch.cat([order, torch.arange(layer.bias.start, layer.bias.stop)[:, None]], dim=1)
        block = dense[order.flatten()][:, order.flatten()]
        basis = torch.kron(layer.left, layer.right)
        assert torch.allclose(basis.mT @ basis, torch.eye(rows * columns, dtype=torch.float64), atol=1e-12)
        assert torch.allclose((basis.mT @ block @ basis).diagonal(), layer.diagonal.flatten(), atol=1e-12)
        folded = block.reshape(rows, columns, rows, columns)
        # the partial trace over the inputs is E |a|^2 gg', that over the units E |g|^2 aa': D's margins
        assert torch.allclose(
            layer.diagonal.sum(1), (layer.left.mT @ torch.einsum("icjc->ij", folded) @ layer.left).diagonal()
        )
    kronecker = Kronecker(layers, 1e-3)
    inverse = torch.linalg.inv(matrix_of(kronecker, len(dense)))
    for layer in layers:
        w, basis_d = layer.weight, layer.diagonal + 1e-3
        rows, columns = layer.diagonal.shape
        inputs = columns - (layer.bias is not None)
        own = torch.kron(layer.left, layer.right) * basis_d.flatten()
        own = (own @ torch.kron(layer.left, layer.right).mT).reshape(rows, columns, rows, columns)
        own = own[:, :inputs, :, :inputs].reshape(rows * inputs, rows * inputs)
        assert torch.allclose((inverse.mT @ inverse)[w, w], own, atol=1e-10)


def test_kronecker_leading_factors_are_those_of_the_data():
    """The basis of the first layer's inputs diagonalizes X'X, known without any derivative."""
    model, loss, data = classifier()
    layer = kronecker_layers(Hessian(model, loss, data).problem)[0][0]
    extended = torch.cat([data[0], torch.ones(len(data[0]), 1, dtype=torch.float64)], dim=1)
    rotated = layer.right.mT @ extended.mT @ extended @ layer.right
    assert torch.allclose(rotated, torch.diag(rotated.diagonal()), atol=1e-10)


def test_kronecker_leaves_the_model_alone_and_scales_what_it_does_not_know():
    model = nn.Sequential(nn.Linear(5, 4), nn.LayerNorm(4), nn.Linear(4, 3)).double()
    _, loss, data = classifier()
    problem = Hessian(model, loss, data).problem
    factor = Kronecker(kronecker_layers(problem)[0], 1e-2)
    assert not any(module._forward_hooks for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())
    dense, norm = matrix_of(factor, problem.size), problem.ranges["1.weight"]
    assert torch.allclose(dense, dense.mT, atol=1e-12)
    assert float(torch.linalg.eigvalsh(dense)[0]) > 0
    assert torch.equal(dense[norm, norm], dense[norm.start, norm.start] * torch.eye(4, dtype=torch.float64))


def test_kronecker_refuses_what_it_cannot_factor():
    _, loss, data = classifier()
    convolution = nn.Sequential(nn.Unflatten(1, (1, 5)), nn.Conv1d(1, 3, 5), nn.Flatten()).double()
    with pytest.raises(ValueError, match=r"nn\.Linear layers"):
        kronecker_layers(Hessian(convolution, loss, data).problem)


def test_the_subset_is_the_curvature_of_its_samples():
    """The chosen samples are those of largest Sigma; their share of H is what the rest leaves."""
    model, loss, (inputs, targets) = classifier(samples=60)
    whole = Hessian(model, loss, (inputs, targets))
    part, *sizes = curvature_subset(whole, lambda n: n // 3, torch.Generator().manual_seed(0))
    assert sizes == [20, 60]
    uncertainty = whole.problem.outputs(whole.problem.theta, next(whole.problem.batches(60))).softmax(1)
    trace = (uncertainty * (1 - uncertainty)).sum(1)
    data = part.base.problem.data
    chosen = torch.cat([batch.inputs for batch in data(1000)])
    assert len(chosen) == 20
    left = torch.tensor([not any(torch.equal(x, c) for c in chosen) for x in inputs])
    assert float(trace[~left].mean()) > 1.5 * float(trace.mean())
    rest = Hessian(model, loss, (inputs[left], targets[left]))
    v = gaussian(whole.shape[0], 2)
    assert torch.allclose(part @ v + rest @ v * (40 / 60), whole @ v, atol=1e-12)
    assert curvature_subset(whole, lambda n: n, torch.Generator()) == (whole, 60, 60)


@pytest.mark.parametrize("t", [-1e-4, 1e-4])
def test_a_low_rank_correction_of_full_rank_is_the_ideal_one(t):
    """With all N directions and the matrix itself, the eigenvalues of M gather at both sides of 0."""
    h, _ = symmetric(torch.cat([-torch.logspace(-6, -1, 20), torch.logspace(-8, 0, 40)]).double())
    space = low_rank(Diagonal(torch.ones(60, dtype=torch.float64)), h, 60, torch.Generator().manual_seed(2))
    m = matrix_of(Congruent(h, space.at(t), t), 60)
    values = torch.linalg.eigvalsh((m + m.mT) / 2).abs()
    plain = torch.linalg.eigvalsh(h - t * torch.eye(60, dtype=torch.float64)).abs()
    assert float(values.max() / values.quantile(0.2)) < 0.01 * float(plain.max() / plain.quantile(0.2))


def counted(operator, tau, **options):
    return count_eigenvalues(operator, threshold=tau, method="lanczos", **options)


@pytest.mark.parametrize("name", ["ekfac", "subset"])
def test_networks_are_counted(name):
    model, loss, data = classifier(samples=100)
    hessian = Hessian(model, loss, data)
    values = exact_eigenvalues(hessian)
    tau = 1e-5 * float(values.abs().max())
    counts = counted(hessian, tau, preconditioner=name, probes=4, precision=1e-6)
    found = (counts.negative, counts.near_zero, counts.positive)
    assert all(true in interval for true, interval in zip(three_counts(values, tau), found, strict=True))
    run = sum(side.run.products for side in (counts.evidence.low, counts.evidence.high))
    rank = 39 // 3
    phase = 3 + (2 * rank if name == "subset" else 0)  # 3 outputs; all samples are taken where they are so few
    assert counts.products == counts.check.products + 2 + phase + run + 1  # and the repeated product
    assert recount(counts, tau).negative == counts.negative
    with pytest.raises(ValueError, match="its own threshold"):
        recount(counts, 2 * tau)


def test_dead_coordinates_are_dropped():
    model, loss, (inputs, targets) = classifier(samples=80)
    inputs[:, 2] = 0.0
    hessian = Hessian(model, loss, (inputs, targets))
    tau = 1e-4 * float(exact_eigenvalues(hessian).abs().max())
    counts = counted(hessian, tau, preconditioner="subset", probes=4, precision=1e-6)
    assert counts.dead >= 4
    true = three_counts(exact_eigenvalues(hessian), tau)
    found = (counts.negative, counts.near_zero, counts.positive)
    assert all(n in interval for n, interval in zip(true, found, strict=True))


def test_a_good_factor_saves_products_and_a_bad_one_costs_no_truth():
    values = torch.cat([-torch.logspace(-5, -2, 60), torch.logspace(-7, 0, 240)]).double()
    h, q = symmetric(values)
    tau, true = 1e-5, three_counts(values, 1e-5)
    ideal = (q * (values.abs() + tau).rsqrt()) @ q.mT
    widths = {}
    for name, factor in {"none": None, "ideal": ideal, "bad": gaussian(300, 300, seed=11)}.items():
        counts = counted(h, tau, preconditioner=factor, probes=4, steps=30, precision=1e-6)
        found = (counts.negative, counts.near_zero, counts.positive)
        assert all(n in interval for n, interval in zip(true, found, strict=True)), name
        widths[name] = counts.near_zero.width
    assert widths["ideal"] < 0.5 * widths["none"]


def test_misuse_is_refused():
    h, _ = symmetric(torch.linspace(-1, 1, 30, dtype=torch.float64))
    model, loss, data = classifier()
    with pytest.raises(ValueError, match="one of auto, ekfac, subset"):
        counted(h, 1e-2, preconditioner="magic")
    with pytest.raises(ValueError, match="needs the network"):
        counted(h, 1e-2, preconditioner="ekfac")
    with pytest.raises(ValueError, match="S @ v and"):
        counted(h, 1e-2, preconditioner=3.0)
    with pytest.raises(ValueError, match="finite blocks"):
        counted(h, 1e-2, preconditioner=torch.full((30, 30), torch.nan, dtype=torch.float64))
    with pytest.raises(ValueError, match="not zero"):
        counted(h, 1e-2, preconditioner=torch.zeros(30, 30, dtype=torch.float64))
    with pytest.raises(ValueError, match=r"dtype=torch\.float64"):
        counted(Hessian(model.float(), loss, (data[0].float(), data[1])), 1e-2, preconditioner="ekfac")
    with pytest.raises(ValueError, match='belongs to method="lanczos"'):
        count_eigenvalues(h, threshold=1e-2, method="exact", preconditioner=torch.eye(30, dtype=torch.float64))


class Crooked:
    """S whose mT is not its transpose."""

    def __init__(self, matrix, transposed):
        self.matrix, self.transposed = matrix, transposed

    def __matmul__(self, v):
        return self.matrix @ v

    @property
    def mT(self):
        return Crooked(self.transposed, self.matrix)


def test_a_transpose_that_is_a_little_off_counts_as_noise():
    """S.mT = S' + K with |K| far below what is refused: an error that is linear, which additivity cannot see."""
    size = 30
    h, _ = symmetric(torch.linspace(-1, 1, size, dtype=torch.float64))
    s = torch.linalg.qr(gaussian(size, size, seed=3)).Q
    off = 1e-10 * gaussian(size, size, seed=4)
    carried = congruent_check(Congruent(h, Crooked(s, s.mT + off), 0.0), check_operator(h), torch.Generator())
    assert float(torch.linalg.matrix_norm(off @ h @ s, 2)) <= carried.noise


def test_a_wrong_transpose_is_refused():
    h, _ = symmetric(torch.linspace(-1, 1, 30, dtype=torch.float64))
    with pytest.raises(ValueError, match="must be the transpose"):
        counted(h, 1e-2, preconditioner=Crooked(gaussian(30, 30), gaussian(30, 30)))


@pytest.mark.slow
def test_auto_makes_an_s_where_a_plain_run_is_hopeless():
    """On digits, 300 products at 1e-6: the plain run leaves intervals of half of N, and S is cheap."""
    hessian = digits().operator
    options = {"method": "lanczos", "max_products": 300}
    made = count_eigenvalues(hessian, relative_threshold=1e-6, **options)
    assert made.preconditioned
    assert made.plan.startswith("subset")
    assert made.products <= 300
    for relative, other in ((1e-2, {}), (1e-6, {"preconditioner": None}), (1e-6, {"probes": 2})):
        assert not count_eigenvalues(hessian, relative_threshold=relative, **options, **other).preconditioned
    assert not count_eigenvalues(assemble(hessian), relative_threshold=1e-6, **options).preconditioned
    plain = count_eigenvalues(hessian, relative_threshold=1e-6, preconditioner=None, **options)
    assert made.near_zero.width < 0.8 * plain.near_zero.width


# ---- coverage: prescribed spectrum, clusters at both thresholds, a middling S -------------------------------------

CONFIDENCE, SEEDS, PROBES, STEPS, TAU = 0.8, 160, 2, 40, 1e-2
VALUES = torch.cat(
    [
        torch.linspace(-1, -0.02, 20),
        torch.linspace(-1.3, -1.05, 10) * TAU,
        torch.linspace(-0.9, 0.9, 30) * TAU,
        torch.linspace(1.05, 1.5, 10) * TAU,
        torch.logspace(-1.5, 0, 30),
    ]
).double()


def experiments(seeds, moved=0.0, from_probes=False):
    """The two masses of every experiment, in the eigenbasis, all probes in lock-step; deep: only chance is left."""
    size, runs = len(VALUES), []
    for seed, t in enumerate((-TAU * (1 + moved), TAU * (1 + moved))):
        probes = gaussian(size, seeds * PROBES, seed=seed)
        base = Diagonal((VALUES.abs() + TAU).rsqrt() * (0.5 + gaussian(size, seed=99).abs()))
        if from_probes:  # the first vectors of a run's own Krylov spaces: they become eigenvectors of M
            blocks = [
                (Corrected(base, torch.linalg.qr(own).Q, torch.full((PROBES,), 10.0, dtype=torch.float64)), own)
                for own in probes.split(PROBES, dim=1)
            ]
        else:
            blocks = [(base, probes)]
        done = [Lanczos(Congruent(VALUES.diag(), s, t), g, capacity=STEPS).extend(STEPS) for s, g in blocks]
        runs.append([part for run in done for part in experiments_of(run)])
    return [Masses(*(bracket_at_zero(run, 1e-10) for run in pair)) for pair in zip(*runs, strict=True)]


def experiments_of(run):
    """A lock-step run as runs of PROBES recurrences each."""
    parts = [slice(i, i + PROBES) for i in range(0, run.probes, PROBES)]
    return [Tridiagonalization(run.diagonal[p], run.offdiagonal[p], run.lengths[p], run.norms[p]) for p in parts]


def right(found):
    true = three_counts(VALUES, TAU)
    joint = joint_intervals(found, Bounds(), probes=PROBES, size=len(VALUES), confidence=CONFIDENCE)
    return all(n in interval for n, interval in zip(true, joint, strict=True))


def test_coverage_of_the_joined_intervals():
    hits = sum(map(right, experiments(SEEDS)))
    assert binom.cdf(hits, SEEDS, CONFIDENCE) > 1e-3


@pytest.mark.parametrize("wrong", [{"moved": 0.35}, {"from_probes": True}])
def test_wrong_variants_fail_the_coverage(wrong):
    hits = sum(map(right, experiments(SEEDS // 4, **wrong)))
    assert binom.cdf(hits, SEEDS // 4, CONFIDENCE) < 1e-3


@pytest.mark.parametrize(
    "factor",
    [
        torch.eye(19, dtype=torch.float64),
        torch.eye(20, dtype=torch.float32),
        torch.eye(20, dtype=torch.float64).numpy(),
    ],
)
def test_a_factor_that_does_not_multiply_is_refused_before_any_product(factor):
    operator = as_operator(lambda _: pytest.fail("a product"), 20, dtype=torch.float64)
    with pytest.raises(ValueError, match="a preconditioner multiplies float64 tensors"):
        count_eigenvalues(operator, threshold=0.1, preconditioner=factor)
