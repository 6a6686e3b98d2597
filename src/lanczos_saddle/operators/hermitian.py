"""A complex Hermitian H = A + iB, N x N, as a real symmetric matrix of twice the size with every eigenvalue twice.

    [[A, -B], [B, A]] [Re v; Im v] = [Re Hv; Im Hv]

(v and iv are two real eigenvectors for each complex one.) The faces of the package count the real form and halve what
they found: a count of the real form is even, so an interval [l, u] becomes [ceil(l / 2), floor(u / 2)].
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Hermitian:
    """The real form of a complex Hermitian operator: (2N, 2N), real, every eigenvalue of the complex one twice."""

    real: Any  # an operator (2N, 2N), a dense tensor where the complex one is

    shape = property(lambda self: self.real.shape)
    dtype = property(lambda self: self.real.dtype)
    device = property(lambda self: self.real.device)

    @property
    def complex_size(self) -> int:
        """N."""
        return int(self.real.shape[0]) // 2

    def __matmul__(self, v: Tensor, /) -> Tensor:
        product: Tensor = self.real @ v
        return product


def real_form(operator: Any) -> tuple[Any, int]:
    """A real symmetric operator, and how often it has each eigenvalue: that of a complex Hermitian one, twice."""
    return (operator.real, 2) if isinstance(operator, Hermitian) else (operator, 1)


def times_i(v: Tensor) -> Tensor:
    """[x; y] -> [-y; x]: i times the complex columns, (2N, k)."""
    x, y = v.chunk(2)
    return torch.cat([-y, x])


def require_complex_linear(product: Any, rotated: Any, tolerance: float) -> None:
    """Refuse products A v and A (iv) of the real form, (2N, k) each, where the second is not i times the first."""
    size = float(torch.linalg.vector_norm(product))
    defect = float(torch.linalg.vector_norm(rotated - times_i(product)))
    if defect > tolerance * size:
        raise ValueError(
            f"a complex operator must be linear over complex numbers, A (i v) = i A v; they differ by "
            f"{defect / max(size, 1e-300):.1e} of their size: it drops an imaginary part, or conjugates; multiply the "
            "whole complex v, or pass dtype=torch.float64 where the operator is real"
        )


def check_complex_linear(real: Any) -> None:
    """Refuse the real form of a function that is not complex-linear; one product of two columns where it is one."""
    if not getattr(real, "complex_function", False):
        return
    v = torch.randn(real.shape[0], 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    v = v.to(real.device, real.dtype)
    product, rotated = (real @ torch.cat([v, times_i(v)], dim=1)).detach().split(1, dim=1)
    require_complex_linear(product, rotated, float(torch.finfo(real.dtype).eps) ** 0.5)


def real_matrix(matrix: Tensor) -> Tensor:
    """[[A, -B], [B, A]] of a dense complex A + iB; 4 N^2 real numbers."""
    a, b = matrix.real, matrix.imag
    return torch.cat([torch.cat([a, -b], dim=1), torch.cat([b, a], dim=1)])


def real_function(function: Callable[[Tensor], Tensor], dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    """(2N, k) -> (2N, k) from a product of complex blocks (N, k) in `dtype`."""

    def product(v: Tensor) -> Tensor:
        return real_vectors(function(complex_vectors(v).to(dtype)))

    return product


def complex_vectors(v: Tensor) -> Tensor:
    """[x; y] -> x + iy, columns (2N, k) -> (N, k)."""
    x, y = v.chunk(2)
    return torch.complex(x.contiguous(), y.contiguous())


def real_vectors(v: Tensor) -> Tensor:
    """x + iy -> [x; y], columns (N, k) -> (2N, k); of real vectors y = 0."""
    return torch.cat([v.real, v.imag if v.is_complex() else torch.zeros_like(v)])


def half(lower: int, upper: int) -> tuple[int, int]:
    """The bounds on n from bounds on 2n; where no even number lies between (rounding parted a pair), those around."""
    least, most = -(-lower // 2), upper // 2
    return (least, most) if least <= most else (lower // 2, -(-upper // 2))


def require_real(source: Any, what: str) -> None:
    """Refuse the real form of a complex operator where nothing halves; raises ValueError."""
    if isinstance(source, Hermitian):
        raise ValueError(
            f"{what} takes a real symmetric operator; got a complex Hermitian one: count_eigenvalues, "
            "exact_eigenvalues, inertia and spectral_density take it"
        )
