"""Vectors of an operator: in this process, or in slices of coordinates over the ranks that share it.

An operator whose vectors live in slices has a `space`, that of what is made of it is found here. Everything above asks
for new vectors in these forms; what is made of vectors (products, sums, norms) is of their kind by itself.
"""

from __future__ import annotations

from typing import Any, Protocol, cast

import torch
from torch import Tensor

from lanczos_saddle.operators.leading import shared_by


class Space(Protocol):
    """Vectors of N coordinates in slices, one slice a rank."""

    @property
    def ranks(self) -> int:
        """How many slices there are."""

    def gaussian(self, columns: int, generator: torch.Generator) -> Tensor:
        """As `gaussian`."""

    def zeros(self, shape: tuple[int, ...], dim: int, dtype: torch.dtype) -> Tensor:
        """As `zeros`."""

    def basis(self, probes: int, room: int, dtype: torch.dtype) -> Any:
        """An empty `krylov.basis.Basis`."""

    def placed(self, saved: Any) -> Tensor:
        """A tensor of which the rows (..., N) are read one after the other."""


def space_of(operator: Any) -> Space | None:
    """Where vectors of the operator live, if they are in slices."""
    while operator is not None:
        found = getattr(operator, "space", None)
        if found is not None:
            return cast(Space, found)
        operator = getattr(operator, "base", None)
    return None


def gaussian(operator: Any, columns: int, generator: torch.Generator) -> Tensor:
    """(N, k) independent standard Gaussian numbers, float64: drawn on the CPU, the same ones wherever they live."""
    space = space_of(operator)
    if space is not None:
        return space.gaussian(columns, generator)
    return torch.randn(operator.shape[0], columns, generator=generator, dtype=torch.float64)


def zeros(operator: Any, *shape: int, dim: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Zeros on the operator's device; dimension `dim` is that of its coordinates."""
    space = space_of(operator)
    if space is not None:
        return space.zeros(shape, dim, dtype)
    return torch.zeros(*shape, dtype=dtype, device=operator.device)


def in_slices(tensor: Any) -> bool:
    """Whether it is spread over ranks."""
    return getattr(tensor, "space", None) is not None


def whole(tensor: Tensor) -> Tensor:
    """The tensor in this process; a copy where it is spread over ranks."""
    gather: Any = getattr(tensor, "gathered", None)
    return tensor if gather is None else cast(Tensor, gather())


def orthonormal(columns: Tensor) -> Tensor:
    """Orthonormal columns (N, p) that span what these do; by QR, of each slice and then of what that leaves."""
    spread: Any = getattr(columns, "orthonormal", None)
    return torch.linalg.qr(columns).Q.contiguous() if spread is None else cast(Tensor, spread())


def held_here(operator: Any, needed: int) -> int:
    """Of so many bytes of vectors those that one rank holds."""
    space = space_of(operator)
    return needed if space is None else -(-needed // space.ranks)


def refuse_in_slices(operator: Any, what: str) -> None:
    """Raises ValueError for what needs whole vectors."""
    if space_of(operator) is not None and shared_by(operator) is not None:
        raise ValueError(
            f"{what} needs whole vectors, and those of this matrix are in slices over the ranks: data_parallel keeps "
            'them whole, count_eigenvalues(..., method="lanczos") works on slices'
        )
