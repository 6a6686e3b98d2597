"""Throughput of H V on the MNIST MLP 784-25-10: ours, the peers, and the machine's limits in the same run.

    python -m pytest bench --benchmark-only                  # 60,000 images, float32
    python -m pytest bench --benchmark-only --images 500     # does it work?

Every product is first compared with ours in float64 on a few images. `extra_info` holds what is of interest:
milliseconds per product (one column of V), the matrix product's GFLOP/s, the copy's GB/s.
"""

from __future__ import annotations

import mnist_mlp
import pytest
import torch
from peers import LIBRARIES, OURS, Library, relative_error
from product_problems import directions, in_float64

from lanczos_saddle.machine import rates as limits
from lanczos_saddle.training.data_files import DataNotFoundError

DTYPE = torch.float32
FEW = 500  # images of the comparison
ROUNDS = 5


@pytest.fixture(scope="module")
def problem(request):
    try:
        return mnist_mlp.problem(request.config.getoption("--images"), DTYPE)
    except DataNotFoundError as error:
        pytest.skip(str(error))


@pytest.fixture(params=LIBRARIES, ids=lambda library: library.name.replace(", ", "-").replace(" ", "-"))
def library(request):
    if not request.param.available():
        pytest.skip(f"{request.param.package} cannot be imported: pip install --no-deps -r bench/requirements.txt")
    return request.param


@pytest.mark.parametrize("columns", [16, 1])
@pytest.mark.benchmark(group="product")
def test_product(benchmark, library: Library, problem, columns):
    assert_agrees(library, problem, columns)
    product, block = library.make(*problem), block_of(problem, columns)
    benchmark.pedantic(product, args=(block,), rounds=ROUNDS, warmup_rounds=1)
    benchmark.extra_info["version"] = library.version
    if benchmark.stats is not None:
        benchmark.extra_info["ms_per_product"] = 1e3 * benchmark.stats.stats.median / columns


@pytest.mark.benchmark(group="machine")
def test_matrix_product(benchmark, request):
    multiply, flops = limits.matrix_product(mnist_mlp.product_flops(request.config.getoption("--images")), DTYPE)
    benchmark.pedantic(multiply, rounds=4 * ROUNDS, warmup_rounds=2)
    if benchmark.stats is not None:
        benchmark.extra_info["gflop_per_second"] = flops / 1e9 / benchmark.stats.stats.median


@pytest.mark.benchmark(group="machine")
def test_copy(benchmark):
    move, moved = limits.copy()
    benchmark.pedantic(move, rounds=2 * ROUNDS, warmup_rounds=2)
    if benchmark.stats is not None:
        benchmark.extra_info["gb_per_second"] = moved / 1e9 / benchmark.stats.stats.median


def block_of(problem, columns: int) -> torch.Tensor:
    """V (N, columns), or (N,) for one."""
    block = directions(problem, columns, DTYPE)
    return block if columns > 1 else block[:, 0]


def assert_agrees(library: Library, problem, columns: int) -> None:
    """To float32 rounding, which softmax minus target magnifies near certainty: 1.6e-6 for all libraries."""
    model, loss, (inputs, targets) = problem
    few, block = (inputs[:FEW], targets[:FEW]), block_of(problem, columns)
    found = library.make(model, loss, few, batch=len(few[0]) // 2)(block)
    exact = OURS.make(*in_float64((model, loss, few)))(block.double())
    assert found.shape == block.shape
    assert relative_error(found, exact) < 100 * torch.finfo(DTYPE).eps
