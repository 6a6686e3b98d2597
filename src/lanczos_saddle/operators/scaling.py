"""Powers of two that bring a matrix near 1, where squares of its entries would overflow or vanish: nothing is rounded.

2^e H has the eigenvalues 2^e lambda: as many below 2^e t as H has below t.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import Tensor

SAFE = 300
"""Entries between 2^-300 and 2^300 are left as they are: their squares, and sums of these, are far from the ends."""

Number = TypeVar("Number", float, Tensor)


def times(value: Number, exponent: int) -> Number:
    """Value * 2^exponent, in steps that are powers of two themselves."""
    while exponent:
        step = max(-1000, min(1000, exponent))
        value = value * 2.0**step
        exponent -= step
    return value


def scale_in_place(matrix: Tensor, exponent: int) -> None:
    """Matrix *= 2^exponent."""
    while exponent:
        step = max(-1000, min(1000, exponent))
        matrix.mul_(2.0**step)
        exponent -= step


def exponent_to_one(magnitude: float) -> int:
    """The e with 2^e magnitude between 1/2 and 1; 0 for 0 and for what is not finite."""
    return -math.frexp(magnitude)[1] if 0 < magnitude < math.inf else 0


def exponent_to_safe(magnitude: float) -> int:
    """As `exponent_to_one` where the magnitude is not `SAFE`, else 0."""
    exponent = exponent_to_one(magnitude)
    return exponent if abs(exponent) > SAFE else 0


def largest_entry(matrix: Tensor) -> float:
    """The largest |entry|, without a copy; NaN where there is one."""
    least, most = matrix.aminmax()
    return max(abs(float(least)), abs(float(most))) if matrix.numel() else 0.0


@dataclass(frozen=True)
class Scaled:
    """2^exponent A: half of the power before the product, half of it after, so that neither overflows."""

    base: Any  # an operator
    exponent: int

    shape = property(lambda self: self.base.shape)
    dtype = property(lambda self: self.base.dtype)
    device = property(lambda self: self.base.device)
    complex_function = property(lambda self: getattr(self.base, "complex_function", False))

    def __matmul__(self, v: Tensor, /) -> Tensor:
        before = self.exponent // 2
        product: Tensor = self.base @ times(v, before)
        return times(product, self.exponent - before)


def scaled(base: Any, exponent: int) -> Any:
    """2^exponent A as an operator; a dense tensor stays one."""
    return times(base, exponent) if isinstance(base, Tensor) else Scaled(base, exponent)
