"""Memory of a rank with weights cut over ranks, beside whole weights on every rank, at one rank and at several.

    python bench/rank_weights.py --ranks 1 2 --output bench/results/ranks.jsonl

An MLP of so many layers of 2048 x 2048, float32, made on the meta device, its weights in a file of which each rank
reads its part, on 16 samples; one thread a rank. What a rank grows by, after a product of a small network.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import torch
import torch.distributed as dist
from children import ask_ranks, peak_mib
from safetensors.torch import save_file
from torch import nn

from lanczos_saddle import Hessian, data_parallel, share, weight_parallel
from lanczos_saddle.reports.records import Record, append

WIDTH, SAMPLES, BLOCK = 2048, 16, 4


def deep(layers: int, width: int = WIDTH) -> nn.Module:
    return nn.Sequential(*(layer for _ in range(layers) for layer in (nn.Linear(width, width), nn.Tanh())))


def warmed(path: str) -> None:
    """A product of a small network: libraries that are loaded on the way are no memory of the large one's."""
    data, loss = (torch.randn(2, 8), torch.randn(2, 8)), nn.MSELoss()
    if path:
        weight_parallel(deep(1, 8), loss, data, fidelity=False) @ torch.ones(72, 2)
    else:
        data_parallel(Hessian(deep(1, 8), loss, data, fidelity=False)) @ torch.ones(72, 2)


def cut(layers: int, path: str) -> None:
    """Memory of every rank and seconds of a processor for blocks of one column and of more; rank 0 prints.

    Of weights over ranks where there is a file, else with whole weights on every rank.
    """
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    torch.manual_seed(0)
    data = share((torch.randn(SAMPLES, WIDTH), torch.randn(SAMPLES, WIDTH)))
    rank, ranks = dist.get_rank(), dist.get_world_size()
    warmed(path)
    found: dict[str, float] = {"peak_mib_before": peak_mib()}
    if path:
        with torch.device("meta"):
            model = deep(layers)
        matrix = weight_parallel(model, nn.MSELoss(), data, weights=path, fidelity=False, memory=2**30)
        own, multiply = matrix.own, matrix.product_own
    else:
        matrix = data_parallel(Hessian(deep(layers), nn.MSELoss(), data, fidelity=False, memory=2**30))
        own, multiply = slice(0, matrix.shape[0]), matrix.__matmul__
    found |= {"coordinates": own.stop - own.start, "peak_mib_made": peak_mib(), "samples": len(data[1])}
    for columns in (1, BLOCK):
        v = torch.randn(own.stop - own.start, columns, generator=torch.Generator().manual_seed(rank if path else 0))
        began, cpu = time.perf_counter(), time.process_time()
        product = multiply(v)
        found |= {
            f"cpu_seconds_{columns}": time.process_time() - cpu,
            f"seconds_{columns}": time.perf_counter() - began,
            f"peak_mib_{columns}": peak_mib(),
            f"norm_{columns}": float(product.norm()),
        }
        del v, product
    said = matrix.group.gathered(found)
    if rank == 0:
        print(json.dumps({"parameters": matrix.shape[0], "weights_mib": matrix.shape[0] * 4 / 2**20, "ranks": said}))
    assert ranks == len(said)
    dist.destroy_process_group()


def cuts(options: argparse.Namespace) -> None:
    """What weights over ranks take on each number of ranks, beside whole ones."""
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/weights.safetensors"
        torch.manual_seed(0)
        save_file(deep(options.weights).state_dict(), path)
        for number in options.ranks:
            for file in (path, ""):
                found = launched(number, file, options.weights)
                grown = [
                    ", ".join(f"{one[f'peak_mib_{what}'] - one['peak_mib_before']:.0f}" for one in found["ranks"])
                    for what in ("made", BLOCK)
                ]
                spent = [max(one[f"cpu_seconds_{columns}"] for one in found["ranks"]) for columns in (1, BLOCK)]
                print(
                    f"{number} ranks, {'weights over ranks' if file else 'whole weights'}: N = {found['parameters']}, "
                    f"{found['weights_mib']:.0f} MiB of weights; ranks grow by {grown[0]} MiB when it is made, "
                    f"{grown[1]} MiB with a block of {BLOCK}; at most {spent[0]:.1f} "
                    f"and {spent[1]:.1f} s of a processor for a vector and that block"
                )
                if options.output:
                    asked = {
                        "ranks": number,
                        "layers": options.weights,
                        "over_ranks": "weights" if file else "samples",
                        "samples": SAMPLES,
                        "columns": [1, BLOCK],
                        "threads": 1,
                    }
                    append(options.output, Record("ranks-weights", asked, found, seeds=0))


def launched(ranks: int, file: str, layers: int):
    return ask_ranks(__file__, ["--rank", "--weights", str(layers), "--file", file], ranks)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--weights", type=int, default=5, metavar="LAYERS")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--file", default="", help=argparse.SUPPRESS)
    parser.add_argument("--rank", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.rank:
        cut(options.weights, options.file)
    else:
        cuts(options)


if __name__ == "__main__":
    main()
