"""A dense Hessian by central differences of plain gradients, parameters moved in place; nothing of the package."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def dense_hessian(
    function: Callable[[], Tensor], parameters: Sequence[Tensor], step: float = 2e-5
) -> tuple[Tensor, float]:
    """((N, N) float64, what two steps differ by in the Frobenius norm), of function() in its leaf tensors."""
    coarse, fine = (_by_differences(function, parameters, h) for h in (2 * step, step))
    matrix = (4 * fine - coarse) / 3  # Richardson
    return (matrix + matrix.T) / 2, float((matrix - fine).norm())


def _by_differences(function: Callable[[], Tensor], parameters: Sequence[Tensor], step: float) -> Tensor:
    start = torch.cat([p.detach().reshape(-1) for p in parameters])
    rows = torch.empty(len(start), len(start), dtype=torch.float64)
    try:
        for i in range(len(start)):
            moved = torch.zeros_like(start)
            moved[i] = step
            rows[i] = (
                _gradient(function, parameters, start + moved) - _gradient(function, parameters, start - moved)
            ) / (2 * step)
    finally:
        _place(parameters, start)
    return rows


def _gradient(function: Callable[[], Tensor], parameters: Sequence[Tensor], theta: Tensor) -> Tensor:
    _place(parameters, theta)
    found = torch.autograd.grad(function(), parameters, allow_unused=True)
    return torch.cat(
        [torch.zeros(p.numel()).to(p) if g is None else g.reshape(-1) for p, g in zip(parameters, found, strict=True)]
    )


def _place(parameters: Sequence[Tensor], theta: Tensor) -> None:
    with torch.no_grad():
        for p, part in zip(parameters, theta.split([p.numel() for p in parameters]), strict=True):
            p.data = part.view_as(p).clone()
