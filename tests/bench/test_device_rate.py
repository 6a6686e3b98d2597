"""bench/device_rate.py: the operations of a product are those that are made, and the script runs."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from device_rate import Timed, product_flops
from torch.utils._python_dispatch import TorchDispatchMode

from lanczos_saddle import Hessian
from lanczos_saddle.reports.records import read
from lanczos_saddle.training.networks import mlp

BENCH = Path(__file__).parents[2] / "bench"


class MatrixProducts(TorchDispatchMode):
    """Counts the operations of matrix products."""

    flops = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if "mm" in func.name():
            one, two = [a for a in args if isinstance(a, torch.Tensor)][-2:]
            self.flops += 2 * one.numel() * two.shape[-1]
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("sizes", [[20, 8, 3], [20, 8, 6, 3], [10, 5, 4, 6, 3]])
def test_no_product_is_made_without_need(sizes):
    generator, samples, width = torch.Generator().manual_seed(0), 100, 4
    data = torch.randn(samples, sizes[0], generator=generator), torch.randint(3, (samples,), generator=generator)
    hessian = Hessian(mlp(sizes, generator=generator), torch.nn.CrossEntropyLoss(), data, dtype=torch.float32)
    block = torch.randn(hessian.shape[0], width, generator=generator)
    hessian @ block  # what does not depend on the block is kept
    with MatrixProducts() as made:
        hessian @ block
    assert made.flops == width * product_flops(sizes, samples)


def test_products_are_timed():
    matrix = torch.eye(300, dtype=torch.float64)
    timed = Timed(matrix)
    assert timed.seconds() == 0
    assert torch.equal(timed @ matrix, matrix)
    assert 0 < timed.seconds() < 1


@pytest.mark.slow
def test_the_script_runs(tmp_path):
    small = ["--sizes", "20", "8", "3", "--samples", "100", "--steps", "5", "--rounds", "2"]
    command = [sys.executable, BENCH / "device_rate.py", *small, "--out", tmp_path / "records.jsonl"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    (record,) = read(tmp_path / "records.jsonl")
    result = record["result"]
    assert result["size"] == 21 * 8 + 9 * 3
    assert 0 < result["share_of_limit"] < 1
    assert all(0 < result[f"beside products, {how} a basis"] < 1 for how in ("with", "without"))
