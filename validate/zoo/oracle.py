"""A dense Hessian by central differences of plain gradients, parameters moved in place; nothing of the package."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

STEPS = (2e-5, 2e-6, 3e-3, 3e-2)
"""The usual one for float64; a short one beside kinks; long ones where gradients are rounded to float32 inside."""


def dense_hessian(function: Callable[[], Tensor], parameters: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """T (N, N) float64 of function() in its leaf tensors, and what each entry is known to, (N, N), symmetric both.

    Per pair of steps h and 2h: Richardson's value, known to what it differs by from that of h and from its own
    transpose, and to the rounding of gradients over h. Each entry is taken from the step at which it is known best, if
    the shorter ones bear it out. Cost: 4 N gradients for each step.
    """
    matrix, known = _at(function, parameters, STEPS[0])
    if float(known.norm()) > 1e-5 * float(matrix.norm()):  # short steps drown in rounding, or reach across a kink
        for step in STEPS[1:]:
            other, better = _at(function, parameters, step)
            taken = better < known
            if step > STEPS[0]:  # a long one may step over what is there
                taken &= (other - matrix).abs() <= 3 * known
            matrix, known = torch.where(taken, other, matrix), torch.where(taken, better, known)
    return matrix, known


def _at(function: Callable[[], Tensor], parameters: Sequence[Tensor], step: float) -> tuple[Tensor, Tensor]:
    start = torch.cat([p.detach().reshape(-1) for p in parameters])
    coarse, fine = (_by_differences(function, parameters, h) for h in (2 * step, step))
    found = (4 * fine - coarse) / 3  # Richardson
    rounding = 8 * torch.finfo(torch.float64).eps * float(_gradient(function, parameters, start).abs().max()) / step
    known = (found - fine).abs() + (found - found.T).abs() + rounding
    rows = found.norm(dim=1)
    scale = (rows[:, None] * rows).sqrt().clamp(min=1e-5 * float(rows.max()))
    usual = float((known / scale).quantile(0.95))  # rounding agrees by chance in some of many entries
    known = torch.maximum(torch.maximum(known, known.T), usual * scale)
    return (found + found.T) / 2, known


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
