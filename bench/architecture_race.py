"""One table: a product H v of a block of 8 and of one vector, against a kept graph, on networks that nobody tuned for.

    python bench/architecture_race.py                              # all networks, float32 and float64
    python bench/architecture_race.py --networks "GPT, 1 M" --dtypes float64 --rounds 5
    python bench/architecture_race.py --small                      # does it work?

The kept graph is that of the gradient over all data in one batch, `torch.autograd.grad` with create_graph=True, as
PyHessian keeps it: one backward pass for each product. Ours has the memory of its default, or --memory. In one process
of a network and type, after what each has to do once, in turn, `rounds` times; ratios are medians over the rounds, of
processor time per column. Peak memory beyond the network and its data: a process of its own. Error: a product against
central differences of the gradient in float64, with the shortest of three steps where the network has kinks.

Appends one record to bench/results/architecture_race.jsonl.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from children import ask_child, peak_mib
from door_networks import SMALL, Network, gpt, resnet, vit
from torch import Tensor

from lanczos_saddle import Hessian
from lanczos_saddle.reports.records import Record, append

RESULTS = Path(__file__).parent / "results" / "architecture_race.jsonl"
CHILD_LIMIT = 3600  # seconds
BLOCK = 8
STEPS = (1e-6, 1e-7, 1e-8)  # of differences, relative to the size of the parameters

NETWORKS: dict[str, Callable[[], Network]] = {
    "ResNet-18, 11 M": lambda: resnet(64, 32),
    "ResNet-18, 0.7 M": lambda: resnet(16, 128),
    "GPT, 1 M": lambda: gpt(16, layers=4, width=128),
    "GPT, 5 M": lambda: gpt(16, layers=6, width=256),
    "ViT-tiny, 5 M": lambda: vit(32),
}

WAYS = ("kept graph", "block", "single")


def main() -> int:
    options = parsed()
    if options.child:
        print(json.dumps(raced(options) if options.child == "race" else remembered(options)))
        return 0
    rows = []
    print(head(options), flush=True)
    for name in options.networks or (SMALL if options.small else NETWORKS):
        for dtype in options.dtypes:
            rows.append({"network": name, "dtype": dtype} | measured(name, dtype, options))
            print(line(rows[-1]), flush=True)
    asked = {key: value for key, value in vars(options).items() if key not in ("child", "way", "out")}
    append(options.out, Record("architecture_race", asked, {"rows": rows}, seeds=0))
    return 0


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", help="some of them, by name")
    parser.add_argument("--dtypes", nargs="+", choices=["float32", "float64"], default=["float32", "float64"])
    parser.add_argument("--small", action="store_true", help="small networks")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--memory", type=int, default=2**30, help="bytes, of ours")
    parser.add_argument("--remark", default="", help="kept in the record: what else the machine did")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--child", choices=["race", "memory"], help=argparse.SUPPRESS)
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if min(options.rounds, options.threads, options.memory) < 1:
        parser.error("--rounds, --threads and --memory must be at least 1")
    known = SMALL if options.small else NETWORKS
    if unknown := set(options.networks or ()) - set(known):
        parser.error(f"--networks must be of {', '.join(known)}; got {unknown}")
    return options


def measured(name: str, dtype: str, options: argparse.Namespace) -> dict[str, Any]:
    """What the children say of one network in one type."""
    given = ["--networks", name, "--dtypes", dtype, f"--rounds={options.rounds}", f"--threads={options.threads}"]
    given += [f"--memory={options.memory}", *(["--small"] if options.small else [])]
    race: dict[str, Any] = ask_child(__file__, [*given, "--child=race"], CHILD_LIMIT)
    peaks = {way: ask_child(__file__, [*given, "--child=memory", f"--way={way}"], CHILD_LIMIT) for way in WAYS}
    return race | {"peak_mib": peaks}


# in a child


def raced(options: argparse.Namespace) -> dict[str, Any]:
    network, block = begin(options)
    hessian, kept = of_network(network, options), kept_graph(network)
    v = block[:, 0].contiguous()
    calls = {"kept graph": lambda: kept(v), "block": lambda: hessian @ block, "single": lambda: hessian @ v}
    found = {way: call() for way, call in calls.items()}
    for _ in range(4):  # until a single product is recorded, too
        found["single"] = calls["single"]()
    seconds: dict[str, list[float]] = {way: [] for way in calls}
    for _ in range(options.rounds):
        for way, call in calls.items():
            start = time.process_time()
            call()
            seconds[way].append((time.process_time() - start) / (BLOCK if way == "block" else 1))
    kept_seconds = seconds["kept graph"]
    ratios = {way: [a / b for a, b in zip(seconds[way], kept_seconds, strict=True)] for way in ("block", "single")}
    wanted = difference(network, v)
    columns = {"kept graph": found["kept graph"], "block": found["block"][:, 0], "single": found["single"]}
    return {
        "parameters": len(v),
        "seconds": {way: statistics.median(values) for way, values in seconds.items()},
        "ratios": {way: statistics.median(values) for way, values in ratios.items()},
        "spread": {way: [min(values), max(values)] for way, values in ratios.items()},
        "errors": {way: min(relative(column, w) for w in wanted) for way, column in columns.items()},
        "mode": hessian.mode,
        "folded": hessian.folding.folded,
        "reason": hessian.folding.reason,
        "recording_seconds": hessian.folding.seconds,
    }


def remembered(options: argparse.Namespace) -> float:
    """MiB that a few products need beyond the network, its data and the block."""
    network, block = begin(options)
    before = peak_mib()
    product = kept_graph(network) if options.way == "kept graph" else of_network(network, options).__matmul__
    for _ in range(2 if options.way == "block" else 5):
        product(block if options.way == "block" else block[:, 0].contiguous())
    return peak_mib() - before


def begin(options: argparse.Namespace) -> tuple[Network, Tensor]:
    torch.set_num_threads(options.threads)
    dtype = getattr(torch, options.dtypes[0])
    network = in_type((SMALL if options.small else NETWORKS)[options.networks[0]](), dtype)
    size = sum(p.numel() for p in network.model.parameters())
    block = torch.randn(size, BLOCK, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return network, block.to(dtype)


def in_type(network: Network, dtype: torch.dtype) -> Network:
    inputs = network.inputs.to(dtype) if network.inputs.is_floating_point() else network.inputs
    return network._replace(model=copy.deepcopy(network.model).to(dtype), inputs=inputs)


def of_network(network: Network, options: argparse.Namespace) -> Hessian:
    return Hessian(network.model, network.loss, (network.inputs, network.targets), memory=options.memory)


def kept_graph(network: Network) -> Callable[[Tensor], Tensor]:
    """V -> H v by one backward pass of the gradient's graph, which stays."""
    parameters = list(network.model.parameters())
    loss = network.loss(network.model(network.inputs), network.targets)
    slopes = torch.autograd.grad(loss, parameters, create_graph=True)
    sizes = [p.numel() for p in parameters]

    def product(v: Tensor) -> Tensor:
        parts = [part.view_as(p) for part, p in zip(v.split(sizes), parameters, strict=True)]
        found = torch.autograd.grad(slopes, parameters, parts, retain_graph=True)
        return torch.cat([t.reshape(-1) for t in found])

    return product


def difference(network: Network, v: Tensor) -> list[Tensor]:
    """H v by central differences of the gradient in float64, with each of the steps."""
    network, v = in_type(network, torch.float64), v.double()
    parameters = list(network.model.parameters())
    theta = torch.cat([p.detach().reshape(-1) for p in parameters])

    def gradient(at: Tensor) -> Tensor:
        torch.nn.utils.vector_to_parameters(at, parameters)
        found = torch.autograd.grad(network.loss(network.model(network.inputs), network.targets), parameters)
        return torch.cat([t.reshape(-1) for t in found])

    steps = [step * float(theta.norm() / v.norm()) for step in STEPS]
    return [(gradient(theta + h * v) - gradient(theta - h * v)) / (2 * h) for h in steps]


def relative(found: Tensor, wanted: Tensor) -> float:
    return float((found.detach().double() - wanted).norm() / wanted.norm())


# the table


def head(options: argparse.Namespace) -> str:
    names = ("kept, s", "block of 8", "single", "peak MiB: kept", "block", "single", "errors: kept", "block", "single")
    return (
        f"{options.threads} threads, {options.rounds} rounds, memory {options.memory / 2**20:.0f} MiB; ratios to the "
        "kept graph, per column\n\n" + f"{'network':<26}{'dtype':<9}{'N':>11}" + "".join(f"{n:>15}" for n in names)
    )


def line(row: dict[str, Any]) -> str:
    numbers = [f"{row['seconds']['kept graph']:.2f}", *(f"{row['ratios'][way]:.2f}" for way in ("block", "single"))]
    numbers += [f"{row['peak_mib'][way]:.0f}" for way in WAYS] + [f"{row['errors'][way]:.0e}" for way in WAYS]
    refused = "" if row["folded"] else f"  not folded: {row['reason']}"
    named = f"{row['network']:<26}{row['dtype']:<9}{row['parameters']:>11,}"
    return named + "".join(f"{n:>15}" for n in numbers) + refused


if __name__ == "__main__":
    sys.exit(main())
