"""Questions to an operator that several ranks share: one rank decides, the others multiply.

How deep a run goes depends on clocks, free memory and files, which differ between ranks; so each question is worked out
on one of them, and all get its answer. An operator that is shared has the method ``led_by_one(question)``. What the one
rank is given in its place can keep vectors on all of them (`shared_by`).
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, Protocol, TypeVar, cast

import torch

F = TypeVar("F", bound=Callable[..., Any])


def led(function: F) -> F:
    """The function of an operator, its first argument, worked out by one rank where several share the operator."""
    first = next(iter(inspect.signature(function).parameters))

    @functools.wraps(function)
    def asked(*args: Any, **options: Any) -> Any:
        operator = args[0] if args else options.get(first)
        lead = getattr(operator, "led_by_one", None)
        if lead is None:
            return function(*args, **options)
        rest = {name: value for name, value in options.items() if args or name != first}
        return lead(lambda one: function(one, *args[1:], **rest))

    return cast(F, asked)


class Shared(Protocol):
    """What an operator that several ranks share offers to its one caller."""

    @property
    def ranks(self) -> int:
        """How many ranks share it."""

    def spread_basis(self, probes: int, room: int, size: int, dtype: torch.dtype) -> Any:
        """A `krylov.basis.Basis` of which each rank keeps some coordinates."""

    def basis_room(self, free: int, beside: int, part: int, probes: int) -> int:
        """Bytes that a basis may take, of `free` bytes on the caller's rank one `part`, `beside` among them."""

    @property
    def always_columns(self) -> bool:
        """Whether the caller chose that it is written out by columns over the ranks, however small."""

    def takes_columns(self, operator: Any, copies: int, *, alone: bool) -> bool:
        """Whether an operator made of it is written out by columns over the ranks; `alone`: the caller has room, too.

        `copies`: 1 for one factorization, 2 for several. Raises ValueError where it must be, and cannot.
        """

    def columns(self, operator: Any, living: Any, copies: int, generator: torch.Generator) -> Any:
        """A `sylvester.Elsewhere` of an operator made of it, not assembled yet; rows beside the `living` are zero."""


def shared_by(operator: Any) -> Shared | None:
    """The operator that several ranks share, within what was made of it; None where there is one process."""
    while operator is not None:
        if hasattr(operator, "spread_basis") and operator.ranks > 1:
            return cast(Shared, operator)
        operator = getattr(operator, "base", None)
    return None
