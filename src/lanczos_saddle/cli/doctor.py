"""What is installed, how fast the machine is, and what will limit a count on it."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable

import torch

from lanczos_saddle.cli.commands import write_result
from lanczos_saddle.counting.planning import LEAST_PROBES, beside_bytes
from lanczos_saddle.dense.eigensolvers import foretold_seconds
from lanczos_saddle.dense.one_triangle import work_bytes
from lanczos_saddle.dense.triangle import triangle_bytes
from lanczos_saddle.machine.rates import Limits, machine_limits
from lanczos_saddle.machine.surroundings import Device, Surroundings, surroundings
from lanczos_saddle.training.data_files import data_root

STEPS = 200
"""Products per probe of the counts whose memory is said."""

Rates = dict[str, dict[str, Limits]]


def doctor(options: argparse.Namespace) -> None:
    """Print it; with --json all of it as numbers."""
    found = surroundings()
    for line in described(found):
        print(line)
    rates = measured(found) if options.rates else {}
    for line in aligned([("rates", text) for text in said(rates)]):
        print(line)
    data = sorted(path.name for path in data_root().iterdir()) if data_root().is_dir() else None
    print(f"{'data':>12}  {data_root()}: {'not there' if data is None else ', '.join(data) or 'empty'}")
    sizes = {device.name: largest_sizes(device.free) for device in found.devices}
    print("\nwhat will limit you")
    for line in advice(found, sizes, options.rates):
        print(f"  {line}")
    write_result(options, {"surroundings": found, "rates": rates, "data": data, "largest": sizes})


def described(found: Surroundings) -> list[str]:
    """A line a fact; a switch that is not as torch starts with it says what that does."""
    rows = [("python", f"{found.python}, {found.system}")]
    rows += [("version", f"{name} {number}") for name, number in found.versions.items()]
    for one in found.extras:
        missing = f"missing: pip install 'lanczos-saddle[{one.extra}]' brings {one.purpose}"
        rows.append(("extra", f"{one.library:<12} {one.purpose if one.installed else missing}"))
    rows += [("device", f"{d.name} ({d.model}), {d.free / 2**30:.1f} GiB free") for d in found.devices]
    rows.append(("threads", f"{found.threads} of torch, {found.cores} cores for this process"))
    rows += [("BLAS", line) for line in found.blas]
    rows += [
        ("switch", f"{one.name:<26} {one.value}{'' if one.usual else f'   ! {one.meaning}'}") for one in found.switches
    ]
    return aligned(rows)


def aligned(rows: list[tuple[str, str]]) -> list[str]:
    """A heading once for all its lines."""
    names = [name for name, _ in rows]
    shown = ["" if name == before else name for before, name in zip(["", *names], names, strict=False)]
    return [f"{name:>12}  {text}" for name, (_, text) in zip(shown, rows, strict=True)]


def said(rates: Rates) -> list[str]:
    """The rates in words."""
    return [
        f"{device} {name}: {limits.gflop_per_second:.0f} GFLOP/s in a matrix product, "
        f"{limits.gb_per_second:.1f} GB/s in a copy"
        for device, types in rates.items()
        for name, limits in types.items()
    ]


def measured(found: Surroundings) -> Rates:
    """On every device in both types; a few seconds."""
    types = (torch.float32, torch.float64)
    return {
        device.name: {
            str(dtype).removeprefix("torch."): machine_limits(dtype, torch.device(device.name)) for dtype in types
        }
        for device in found.devices
    }


def largest_sizes(free: int) -> dict[str, int]:
    """The largest N within `free` bytes, by what is asked; a problem's own activations are not counted."""
    vector = 8 * LEAST_PROBES * STEPS
    return {
        "all eigenvalues": _largest(lambda n: 8 * n * n + 8 * 512 * n, free),
        "exact counts": _largest(lambda n: triangle_bytes(n) + work_bytes(n), free),
        "intervals, basis kept": _largest(lambda n: vector * n + beside_bytes(LEAST_PROBES, n), free // 2),
        "intervals": _largest(lambda n: beside_bytes(LEAST_PROBES, n), free),
    }


def advice(found: Surroundings, sizes: dict[str, dict[str, int]], rates: bool) -> list[str]:
    """Plain sentences."""
    lines = [line for device in found.devices for line in _of_device(device, sizes[device.name])]
    if rates:
        n = min(sizes["cpu"]["all eigenvalues"], 10_000)
        lines.append(f"All eigenvalues of N = {n:,} take about {foretold_seconds(n, copied=False) / 60:.1f} minutes.")
    if found.threads > found.cores:
        lines.append(f"torch has more threads than cores; OMP_NUM_THREADS={found.cores} is likely faster.")
    lines += [f"{one.name} is {one.value}: {one.meaning}." for one in found.switches if not one.usual]
    if len(found.devices) == 1:
        lines.append("torch sees no GPU: products are as fast as this processor.")
    return lines


def _of_device(device: Device, sizes: dict[str, int]) -> list[str]:
    where = f"On {device.name}, with {device.free / 2**30:.1f} GiB free,"
    exact = f"all eigenvalues fit up to N = {sizes['all eigenvalues']:,}"
    if device.name == "cpu":
        exact += f", exact counts (`inertia`) up to N = {sizes['exact counts']:,}"
    kept, bare = sizes["intervals, basis kept"], sizes["intervals"]
    return [
        f"{where} {exact}.",
        f"{where} intervals from {LEAST_PROBES} probes x {STEPS} products keep their basis up to N = {kept:,}, and run "
        f"without one up to N = {bare:,}; what the network itself needs comes on top.",
    ]


def _largest(needed: Callable[[int], int], free: int) -> int:
    """The largest N whose bytes fit, to two digits, rounded down; bytes grow with N."""
    low, high = 0, 1
    while needed(high) <= free:
        low, high = high, 2 * high
    while high - low > max(1, low // 200):
        middle = (low + high) // 2
        low, high = (middle, high) if needed(middle) <= free else (low, middle)
    unit: int = 10 ** max(0, int(math.log10(max(low, 1))) - 1)
    return low // unit * unit
