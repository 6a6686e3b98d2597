"""What the machine can do: the rates of one large matrix product and of one large copy."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass

import torch

from lanczos_saddle.machine.measuring import measure

SMALLEST = 1024
"""Side of a matrix product: smaller ones run below the machine's rate."""

COPIED = 2**28
"""Bytes of a copy: beyond the caches."""

READ = 2**26
"""Bytes of a matrix that is read once: beyond most caches."""

ROUNDS = 5

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Limits:
    """The machine's rates in one type on one device."""

    gflop_per_second: float  # of a large matrix product
    gb_per_second: float  # of a large copy, read and written


def machine_limits(dtype: torch.dtype, device: torch.device) -> Limits:
    """Medians of `ROUNDS` runs after one to warm up; a second or so on a CPU."""
    multiply, flops = matrix_product(0, dtype, device)
    move, moved = copy(device)
    return Limits(flops / median_seconds(multiply, device) / 1e9, moved / median_seconds(move, device) / 1e9)


def matrix_product(flops: int, dtype: torch.dtype, device: torch.device = CPU) -> tuple[Callable[[], object], int]:
    """A square product of about `flops` operations (not less than 2 * 1024**3), and its operations."""
    side = max(SMALLEST, round((flops / 2) ** (1 / 3)))
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, side, side, generator=generator).to(device, dtype)
    out = torch.empty_like(a)
    return lambda: torch.mm(a, b, out=out), 2 * side**3


def copy(device: torch.device = CPU) -> tuple[Callable[[], object], int]:
    """A copy beyond the caches, and the bytes it moves (read and written)."""
    source = torch.ones(COPIED // 4, device=device)
    target = torch.zeros_like(source)
    return lambda: target.copy_(source), 2 * COPIED


def median_seconds(call: Callable[[], object], device: torch.device, rounds: int = ROUNDS) -> float:
    """Of so many calls, after one to warm up."""
    call()
    return statistics.median(measure(call, device)[1].seconds for _ in range(rounds))


def reading(device: torch.device = CPU) -> tuple[Callable[[], object], int]:
    """A product of a matrix of `READ` bytes with a vector, and the bytes it reads."""
    rows = READ // 2**19
    matrix = torch.ones(rows, 2**16, dtype=torch.float64, device=device)
    vector = torch.ones(2**16, dtype=torch.float64, device=device)
    return lambda: matrix @ vector, READ
