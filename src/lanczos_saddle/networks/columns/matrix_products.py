"""Matrix products of a block of k tensors with a shared operand: k small products become one large one.

    A_i B = C_i     rows:       [A_1; ...; A_k] B = [C_1; ...; C_k]
    A B_i = C_i     columns:    A [B_1, ..., B_k] = [C_1, ..., C_k]

Large products are left apart where a fold would have to copy: they run at the machine's rate as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lanczos_saddle.networks.columns.layout import Rule, by_memory, in_memory_order

LARGE = 64
"""Rows and columns of a matrix from which k products of their own run as fast as a folded one: then nothing is copied
to fold, and blocks stay in the order of their first dimension."""


def rows_times(block: Tensor, shared: Tensor) -> Tensor:
    """A_i B: (k, n, q) and (q, p) give (k, n, p)."""
    first, second = by_memory(block)
    ordered = block.permute(first, second, 2)
    if rows_apart(block, shared):
        return torch.bmm(block, shared.expand(len(block), *shared.shape))
    result = ordered.reshape(-1, block.shape[2]) @ shared
    return result.view(*ordered.shape[:2], -1).permute(first, second, 2)


def times_columns(shared: Tensor, block: Tensor) -> Tensor:
    """A B_i: (n, q) and (k, q, p) give (k, n, p)."""
    k, q, p = block.shape
    if columns_apart(shared, block):
        return torch.bmm(shared.expand(k, *shared.shape), block)
    return (shared @ block.transpose(0, 1).reshape(q, k * p)).view(-1, k, p).transpose(0, 1)


def rows_apart(block: Tensor, shared: Tensor) -> bool:
    """Whether A_i B is better multiplied for every i: a fold would copy, and the products are large."""
    outer, inner = by_memory(block)
    folds = 1 in block.shape[:2] or block.stride(outer) == block.shape[inner] * block.stride(inner)
    return not folds and large(block.shape[1], shared.shape[1])


def columns_apart(shared: Tensor, block: Tensor) -> bool:
    """Whether A B_i is better multiplied for every i: the B_i lie one after the other, and the products are large."""
    return in_memory_order(block)[0] == 0 and large(len(shared), block.shape[2])


def large(rows: int, columns: int) -> bool:
    """Whether a matrix has `LARGE` rows and columns."""
    return min(rows, columns) >= LARGE


def accumulate(blocked: Sequence[bool]) -> Rule:
    """(C, A, B) -> C + A B in the memory of C, a block; in one pass where C lies in memory as the product does."""

    def rows(total: Tensor, block: Tensor, shared: Tensor) -> Tensor:
        first, second = by_memory(block)
        place, ordered = total.permute(first, second, 2), block.permute(first, second, 2)
        if rows_apart(block, shared):
            return total.baddbmm_(block, shared.expand(len(block), *shared.shape))
        if not place.is_contiguous():
            return total.add_(rows_times(block, shared))
        folded = ordered.reshape(-1, block.shape[2])
        place.view(len(folded), -1).addmm_(folded, shared)
        return total

    def columns(total: Tensor, shared: Tensor, block: Tensor) -> Tensor:
        k, q, p = block.shape
        if columns_apart(shared, block):
            return total.baddbmm_(shared.expand(k, *shared.shape), block)
        place = total.transpose(0, 1)
        if not place.is_contiguous():
            return total.add_(times_columns(shared, block))
        place.view(-1, k * p).addmm_(shared, block.transpose(0, 1).reshape(q, k * p))
        return total

    return rows if blocked[0] else columns


def mm(operation: Any, blocked: tuple[bool, ...], ranks: tuple[int, ...]) -> Rule | None:  # noqa: ARG001
    """Rules of `rows_times` and `times_columns`."""
    rules: dict[tuple[bool, ...], Rule] = {(True, False): rows_times, (False, True): times_columns}
    return rules.get(blocked)


def addmm(operation: Any, blocked: tuple[bool, ...], ranks: tuple[int, ...]) -> Rule | None:
    """C + A B, the product by the rules of `mm`."""
    product = mm(operation, blocked[1:], ranks[1:])
    if product is None:
        return None
    rank, bias_is_block = ranks[0], blocked[0]

    def call(c: Tensor, a: Tensor, b: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
        if bias_is_block and rank < 2:
            c = c.reshape(len(c), *(1,) * (2 - rank), *c.shape[1:])
        result: Tensor = product(a, b)
        if alpha != 1:
            result = result * alpha
        return result + (c if beta == 1 else beta * c)

    return call


def bmm(operation: Any, blocked: tuple[bool, ...], ranks: tuple[int, ...]) -> Rule | None:  # noqa: ARG001
    """A_bi B_b = C_bi and A_b B_bi = C_bi: the block folded into rows or columns of every product b."""

    def rows(block: Tensor, shared: Tensor) -> Tensor:
        outer = block.stride(0) > block.stride(2)
        ordered = block.permute(1, 0, 2, 3) if outer else block.permute(1, 2, 0, 3)
        result = (ordered.flatten(1, 2) @ shared).view(*ordered.shape[:3], -1)
        return result.transpose(0, 1) if outer else result.permute(2, 0, 1, 3)

    def columns(shared: Tensor, block: Tensor) -> Tensor:
        k, batch, q, p = block.shape
        folded = shared @ block.permute(1, 2, 0, 3).reshape(batch, q, k * p)
        return folded.view(batch, -1, k, p).permute(2, 0, 1, 3)

    rules: dict[tuple[bool, ...], Rule] = {(True, False): rows, (False, True): columns}
    return rules.get(blocked)
