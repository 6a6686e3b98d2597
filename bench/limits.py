"""What the machine can do: the rates of one large matrix product and of one large copy."""

from __future__ import annotations

from collections.abc import Callable

import torch

SMALLEST = 1024  # side; smaller matrix products run below the machine's rate
COPIED = 2**28  # bytes; beyond the caches


def matrix_product(flops: int, dtype: torch.dtype) -> tuple[Callable[[], object], int]:
    """A square product of about `flops` operations (not less than 2 * 1024**3), and its operations."""
    side = max(SMALLEST, round((flops / 2) ** (1 / 3)))
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, side, side, generator=generator).to(dtype)
    out = torch.empty_like(a)
    return lambda: torch.mm(a, b, out=out), 2 * side**3


def copy() -> tuple[Callable[[], object], int]:
    """A copy beyond the caches, and the bytes it moves (read and written)."""
    source = torch.ones(COPIED // 4)
    target = torch.zeros_like(source)
    return lambda: target.copy_(source), 2 * COPIED
