"""What a count costs beside its products: the recurrence's step, the brackets, the Beta intervals, the basis.

    python -m pytest bench/test_kernels.py --benchmark-only
    python -m pytest bench/test_kernels.py --benchmark-only --record bench/results/kernels.jsonl

The operator is diagonal: its product is one multiplication a number, so what is left is the kernel. `extra_info` has
what a roofline needs: GB/s through the vectors or the basis, GFLOP/s where it computes.
"""

from __future__ import annotations

import pytest
import torch

from lanczos_saddle.certificates.beta_interval import count_at_least, count_at_most
from lanczos_saddle.certificates.cauchy import compress
from lanczos_saddle.certificates.intervals import certified_masses
from lanczos_saddle.certificates.quadrature import gauss_rule, mass_bracket
from lanczos_saddle.dense.exact import inertia
from lanczos_saddle.krylov.lanczos import Lanczos
from lanczos_saddle.operators.operator import FromFunction
from lanczos_saddle.operators.prescribed import clustered_spectrum

SIZE, PROBES, STEPS, TAU = 100_000, 4, 100, 1e-2
DENSE = 2000  # side of the matrix whose inertia is computed


@pytest.fixture(scope="module")
def operator():
    """diag(lambda): a product reads and writes N numbers a column, and little else."""
    diagonal = clustered_spectrum(SIZE, TAU, torch.Generator().manual_seed(0))[:, None]
    return FromFunction(lambda block: diagonal * block, SIZE, torch.float64, torch.device("cpu"))


def probes(count: int = PROBES) -> torch.Tensor:
    return torch.randn(SIZE, count, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.fixture(scope="module")
def run(operator):
    """A finished run with its basis."""
    lanczos = Lanczos(operator, probes(), capacity=STEPS)
    lanczos.advance(STEPS)
    return lanczos


def per_second(benchmark, name: str, amount: float) -> None:
    """`amount` of one call, per second of its median."""
    if benchmark.stats is not None:
        benchmark.extra_info[name] = amount / benchmark.stats.stats.median


@pytest.mark.benchmark(group="step")
def test_step_without_basis(benchmark, operator):
    """About 14 passes over a block: product 2, two inner products, two updates, norm, scaling."""
    lanczos = Lanczos(operator, probes(), reorthogonalize=False, capacity=SIZE)
    benchmark.pedantic(lambda: lanczos.advance(lanczos.steps + 1), rounds=20, warmup_rounds=2)
    assert lanczos.tridiagonalization().lengths.min() == lanczos.steps >= 1
    per_second(benchmark, "gb_per_second_of_14_passes", 14 * 8 * PROBES * SIZE / 1e9)


@pytest.mark.benchmark(group="step")
def test_step_with_basis(benchmark, operator):
    """The step after STEPS: the basis is read four times (twice Q'w, twice Q(Q'w))."""

    def prepared():
        lanczos = Lanczos(operator, probes(), capacity=STEPS + 1)
        lanczos.advance(STEPS)
        return (lanczos,), {}

    benchmark.pedantic(lambda lanczos: lanczos.advance(STEPS + 1), setup=prepared, rounds=3)
    per_second(benchmark, "gb_per_second_of_the_basis", 4 * 8 * PROBES * STEPS * SIZE / 1e9)


@pytest.mark.parametrize("columns", [1, 4, 16])
@pytest.mark.benchmark(group="block")
def test_block_of_recurrences(benchmark, operator, columns):
    """Ten steps of so many recurrences in lock-step: what a block gains over single vectors."""
    block = probes(columns)

    def ten_steps():
        lanczos = Lanczos(operator, block, reorthogonalize=False, capacity=10)
        lanczos.advance(10)
        return lanczos

    lanczos = benchmark(ten_steps)
    assert lanczos.products == 10 * columns
    if benchmark.stats is not None:
        benchmark.extra_info["us_per_column_and_step"] = 1e5 * benchmark.stats.stats.median / columns


@pytest.mark.benchmark(group="basis")
def test_compression_of_the_basis(benchmark, run):
    """V'HV and V'V for the Cauchy bounds: N (m k)^2 multiplications and additions each."""
    compression = benchmark.pedantic(compress, args=(run, 1e-12, 1.0), rounds=2)
    assert compression.quadratic.shape == (PROBES * STEPS,) * 2
    per_second(benchmark, "gflop_per_second", 4 * SIZE * (PROBES * STEPS) ** 2 / 1e9)


@pytest.mark.parametrize("steps", [50, 100, 400])
@pytest.mark.benchmark(group="rule")
def test_gauss_rule(benchmark, steps):
    generator = torch.Generator().manual_seed(0)
    diagonal, offdiagonal = torch.rand(2, steps, generator=generator, dtype=torch.float64).numpy()
    rule = benchmark(gauss_rule, diagonal, offdiagonal)
    assert rule.weights.sum() == pytest.approx(1.0)


@pytest.mark.benchmark(group="rule")
def test_bracket(benchmark, run):
    bracket = benchmark(mass_bracket, *run.tridiagonalization().coefficients(0), -TAU)
    assert 0 <= bracket.lower <= bracket.upper <= 1


@pytest.mark.benchmark(group="rule")
def test_certified_masses(benchmark, run):
    """One look: brackets of all probes at both ends, padded for noise."""
    masses = benchmark.pedantic(certified_masses, args=(run.tridiagonalization(), TAU, 1e-12), rounds=3)
    assert masses is not None


@pytest.mark.parametrize("size", [10**4, 10**7, 10**10])
@pytest.mark.benchmark(group="interval")
def test_beta_interval(benchmark, size):
    """Both ends of one count: some log2(N) incomplete beta functions each."""

    def ends() -> tuple[int, int]:
        return count_at_least(0.0999, PROBES, size, 0.0125), count_at_most(0.1001, PROBES, size, 0.0125)

    lower, upper = benchmark(ends)
    assert lower < size / 10 < upper


@pytest.mark.benchmark(group="exact")
def test_inertia(benchmark):
    """LDL' at one threshold, margin included: N^3 / 3 multiplications and additions in the factorization."""
    matrix = torch.randn(DENSE, DENSE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    matrix = matrix + matrix.mT
    counts = benchmark.pedantic(inertia, args=(matrix, 0.0), rounds=2)
    assert sum(counts) == DENSE
    per_second(benchmark, "gflop_per_second", DENSE**3 / 3 / 1e9)
