"""How near the machine's matrix rate does a Hessian-vector product come, and what does Lanczos cost beside it?

    python bench/device_rate.py --device cuda                                        # 784-1000-250-10, N = 1,037,760
    python bench/device_rate.py --samples 5000 --steps 20 --dtype float64            # on a CPU
    python bench/device_rate.py --sizes 20 8 3 --samples 100 --steps 5 --rounds 2    # does it work?

    rate     operations that a product of this network cannot do without, per second; and its share of the rate of one
             large matrix product of the same type on the same device
    beside   seconds of a run of `--steps` steps that are not products, as a share of the run: the recurrence alone,
             and with a basis and full reorthogonalization

Gaussian inputs and random labels: rates do not depend on the values. Medians of `--rounds` after one to warm up. The
goals on a GPU are a share of at least 0.6 in float32 and less than 0.1 beside products at 200 steps; not yet measured
there. Appends one record to bench/results/device_rate.jsonl.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lanczos_saddle import Hessian
from lanczos_saddle.krylov.lanczos import Lanczos
from lanczos_saddle.machine.measuring import measure
from lanczos_saddle.machine.rates import machine_limits, median_seconds
from lanczos_saddle.operators.operator import Operator
from lanczos_saddle.reports.records import Record, append
from lanczos_saddle.training.networks import mlp

RESULTS = Path(__file__).parent / "results" / "device_rate.jsonl"
SIZES = [784, 1000, 250, 10]
ASKED = ("sizes", "samples", "block", "steps", "rounds", "dtype", "device")


def product_flops(sizes: list[int], samples: int) -> int:
    """Operations of one H v of a multilayer perceptron, the gradient's passes being kept: its matrix products.

    The first layer needs X V' and E' X, every other one six products: of the tangent and of the weights' part in the
    forward and in the backward pass, and twice in the derivative by the weights.
    """
    first, *others = (before * after for before, after in pairwise(sizes))
    return 2 * samples * (2 * first + 6 * sum(others))


def main() -> int:
    options = parsed()
    device, dtype = torch.device(options.device), getattr(torch, options.dtype)
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(options.samples, options.sizes[0], generator=generator)
    labels = torch.randint(options.sizes[-1], (options.samples,), generator=generator)
    model = mlp(options.sizes, generator=generator)
    hessian = Hessian(model, nn.CrossEntropyLoss(), (inputs, labels), dtype=dtype, device=device)
    block = torch.randn(hessian.shape[0], options.block, generator=generator).to(device, dtype)

    product = median_seconds(lambda: hessian @ block, device, options.rounds) / options.block
    limit = machine_limits(dtype, device).gflop_per_second
    rate = product_flops(options.sizes, options.samples) / product / 1e9
    result: dict[str, Any] = {
        "size": hessian.shape[0],
        "ms": 1e3 * product,
        "gflop_per_second": rate,
        "limit_gflop_per_second": limit,
        "share_of_limit": rate / limit,
    }
    for name, reorthogonalize in (("without a basis", False), ("with a basis", True)):
        shares = [beside(hessian, block, options.steps, reorthogonalize) for _ in range(options.rounds)]
        result[f"beside products, {name}"] = statistics.median(shares)
    append(options.out, Record("device_rate", {name: getattr(options, name) for name in ASKED}, result))
    for name, number in result.items():
        print(f"{name:<32}{number:>14,.4g}" if isinstance(number, float) else f"{name:<32}{number:>14,}")
    return 0


class Timed:
    """An operator that knows how long its products took on the device."""

    def __init__(self, operator: Operator) -> None:
        self.operator, self.shape, self.dtype, self.device = operator, operator.shape, operator.dtype, operator.device
        self._moments: list[tuple[Any, Any]] = []

    def __matmul__(self, v: Tensor, /) -> Tensor:
        began = self._moment()
        product = self.operator @ v
        self._moments.append((began, self._moment()))
        return product

    def _moment(self) -> Any:
        """On CUDA an event in the stream: nothing waits for it."""
        if self.device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self.device))
        return event

    def seconds(self) -> float:
        """In products, once the device is done."""
        if self.device.type != "cuda":
            return sum(end - began for began, end in self._moments)
        return sum(began.elapsed_time(end) for began, end in self._moments) / 1e3


def beside(operator: Operator, probes: Tensor, steps: int, reorthogonalize: bool) -> float:
    """The share of a run that is not products."""
    timed = Timed(operator)
    run = Lanczos(timed, probes, reorthogonalize=reorthogonalize, capacity=steps)
    _, cost = measure(lambda: run.advance(steps), operator.device)
    return 1 - timed.seconds() / cost.seconds


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="layer widths of the network")
    parser.add_argument("--samples", type=int, default=60_000)
    parser.add_argument("--block", type=int, default=8, help="vectors in a product, and probes of a run")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dtype", choices=["float32", "float64"], default="float32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=RESULTS)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
