"""One table: what stands between a network and its first products, in products written by hand with torch.func.

    python bench/front_door.py                 # ResNet-18, a narrow one, ViT-tiny, a GPT of 12 layers
    python bench/front_door.py --small         # does it work?

Networks of door_networks.py, N up to 11 million, float32. In one process, one network after the other, medians over
the rounds, each with a matrix of its own:

    plain           jvp(grad(loss)) of one vector, the unit of all that follows
    Hessian()       until it can multiply, its light comparison with differences among it
    first, later    H @ v
    block, again    H @ V for a block, per column: with and without recording

Appends one record to bench/results/front_door.jsonl.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from door_networks import NETWORKS, SMALL, Network
from torch import Tensor
from torch.func import functional_call, grad, jvp

from lanczos_saddle import Hessian
from lanczos_saddle.reports.records import Record, append

RESULTS = Path(__file__).parent / "results" / "front_door.jsonl"

COLUMNS = ("Hessian()", "first", "later", "block", "again", "recording")


@dataclass(frozen=True)
class Door:
    """Of one network; ratios to one plain product."""

    name: str
    parameters: int
    plain_seconds: float
    ratios: dict[str, float]  # by `COLUMNS`; of blocks per column, of recording in all
    error: float  # relative, of the later product against the plain one
    folded: bool
    reason: str | None  # why not, where it is not


def main() -> int:
    options = parsed()
    networks = SMALL if options.small else NETWORKS
    doors = []
    print(head(options))
    for name in options.networks or networks:
        doors.append(door(name, networks[name](), options))
        print(row(doors[-1]), flush=True)
    asked = {key: value for key, value in vars(options).items() if key != "out"}
    append(options.out, Record("front_door", {**asked, "threads": torch.get_num_threads()}, {"doors": doors}, seeds=0))
    return 0


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", help="some of them, by name")
    parser.add_argument("--small", action="store_true", help="small networks")
    parser.add_argument("--block", type=int, default=8, help="columns of V")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--remark", default="", help="kept in the record: what else the machine did")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    if min(options.block, options.rounds) < 1:
        parser.error("--block and --rounds must be at least 1")
    unknown = set(options.networks or ()) - set(SMALL if options.small else NETWORKS)
    if unknown:
        parser.error(f"--networks must be of {', '.join(SMALL if options.small else NETWORKS)}; got {unknown}")
    return options


def door(name: str, network: Network, options: argparse.Namespace) -> Door:
    """Times of every round, side by side: other load on the machine meets all alike."""
    parts, multiply = by_hand(network)
    flat = torch.cat([t.reshape(-1) for t in parts.values()])
    block = torch.randn(len(flat), options.block)
    multiply()  # what torch loads at a first derivative is nobody's
    seconds: dict[str, list[float]] = {key: [] for key in ("plain", *COLUMNS)}
    for _ in range(options.rounds):
        wanted = clocked(seconds["plain"], multiply)
        hessian = clocked(seconds["Hessian()"], lambda: Hessian(*network[:2], network[2:]))
        clocked(seconds["first"], lambda h=hessian: h @ flat)
        found = clocked(seconds["later"], lambda h=hessian: h @ flat)
        clocked(seconds["block"], lambda h=hessian: h @ block)
        clocked(seconds["again"], lambda h=hessian: h @ block)
        seconds["recording"].append(hessian.folding.seconds)
    medians = {key: statistics.median(values) for key, values in seconds.items()}
    columns = {"block": options.block, "again": options.block}
    ratios = {key: medians[key] / columns.get(key, 1) / medians["plain"] for key in COLUMNS}
    plain = torch.cat([t.reshape(-1) for t in wanted.values()])
    error = float((found - plain).norm() / plain.norm())
    return Door(name, len(flat), medians["plain"], ratios, error, hessian.folding.folded, hessian.folding.reason)


def by_hand(network: Network) -> tuple[dict[str, Tensor], Callable[[], dict[str, Tensor]]]:
    """A direction by parameter, and the product with it as a user of torch.func writes it."""
    model, loss, x, y = network
    theta = {name: p.detach() for name, p in model.named_parameters()}
    buffers = dict(model.named_buffers())
    v = {name: torch.randn_like(p) for name, p in theta.items()}

    def value(theta: dict[str, Tensor]) -> Tensor:
        return loss(functional_call(model, {**theta, **buffers}, (x,)), y)

    return v, lambda: jvp(grad(value), (theta,), (v,))[1]


def clocked(seconds: list[float], call: Callable[[], Any]) -> Any:
    """What the call gives; the time it took goes to the list."""
    start = time.perf_counter()
    result = call()
    seconds.append(time.perf_counter() - start)
    return result


def head(options: argparse.Namespace) -> str:
    names = ("N", "plain, s", *COLUMNS, "error")
    return (
        f"{torch.get_num_threads()} threads, block of {options.block}, {options.rounds} rounds; in plain products\n\n"
        + f"{'network':<24}"
        + "".join(f"{name:>11}" for name in names)
    )


def row(door: Door) -> str:
    numbers = (f"{door.parameters:,}", f"{door.plain_seconds:.2f}", *(f"{door.ratios[key]:.2f}" for key in COLUMNS))
    refused = "" if door.folded else f"  not folded: {door.reason}"
    return f"{door.name:<24}" + "".join(f"{n:>11}" for n in (*numbers, f"{door.error:.0e}")) + refused


if __name__ == "__main__":
    sys.exit(main())
