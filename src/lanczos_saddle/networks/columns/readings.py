"""What a product asks of values while it is recorded: frozen then, and verified on every batch.

    if x.max() > 3          a number is read, and one branch is executed
    z[t != 0]               as many rows as there are true entries
    mask.tolist()           numbers become constants of the program

What is recorded holds as long as every reading gives again what it gave: `Reading.verify` raises `DiffersError` where
it does not, before anything that depends on it is computed. Another batch may have another outcome, and a recording of
its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_unflatten

aten = torch.ops.aten

READINGS = 2048
"""Most values that one recording may depend on: more are data, not a choice between branches."""

BY_POSITIONS = {
    aten.index.Tensor,
    aten.index_put.default,
    aten.index_put_.default,
    aten._unsafe_index.Tensor,
    aten._unsafe_index_put.default,
}
"""Operations whose second argument is a list of indices, or of masks."""


MEMORY = (Tensor.numpy, Tensor.__array__, Tensor.__dlpack__)
"""Ways to numbers that no operation records: what comes of them would be taken for constants."""


class DiffersError(Exception):
    """A value is not the one that was read when the product was recorded."""


class UnverifiableError(Exception):
    """Values are read that no recording can depend on: too many, or past all operations."""


@dataclass(frozen=True)
class Reading:
    """One question about values, as asked of some tensors, and the answer."""

    question: Callable[..., Any]  # (*tensors) -> a number, a bool or a shape
    answer: Any
    count: int  # of tensors

    def verify(self, *tensors: Tensor) -> None:
        """Raises DiffersError where the answer is another one now."""
        now = self.question(*tensors)
        both_nan = isinstance(now, float) and math.isnan(now) and math.isnan(self.answer)
        if now != self.answer and not both_nan:
            raise DiffersError(f"{now} was {self.answer}")


class Readings(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes every reading, with the tensors that it is of; masks as indices are written as positions."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: list[Reading] = []
        self.tensors: list[Tensor] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Executes the operation."""
        kwargs = kwargs or {}
        if func in BY_POSITIONS and any(is_mask(i) for i in args[1]):
            return func(args[0], self._positions(args[1]), *args[2:], **kwargs)
        result = func(*args, **kwargs)
        if torch.Tag.data_dependent_output in func.tags:
            self._note_value(func, args, kwargs, result)
        elif torch.Tag.dynamic_output_shape in func.tags and func not in BY_POSITIONS:
            for t in tree_flatten(result)[0]:
                self._note(Reading(shape, tuple(t.shape), 1), [t])
        return result

    def _positions(self, indices: Sequence[Any]) -> list[Any]:
        """Indices in which every mask of d dimensions gives d tensors of positions."""
        found: list[Any] = []
        for index in indices:
            if is_mask(index):
                places = aten.nonzero.default(index)
                self._note(Reading(shape, tuple(places.shape), 1), [places])
                found += [aten.select.int(places, 1, d) for d in range(index.ndim)]
            else:
                found.append(index)
        return found

    def _note_value(self, func: Any, args: Any, kwargs: Any, answer: Any) -> None:
        leaves, form = tree_flatten((args, kwargs))
        places = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]
        rest = [None if isinstance(leaf, Tensor) else leaf for leaf in leaves]

        def question(*tensors: Tensor) -> Any:
            filled = list(rest)
            for place, tensor in zip(places, tensors, strict=True):
                filled[place] = tensor
            again, options = tree_unflatten(filled, form)
            return func(*again, **options)

        self._note(Reading(question, answer, len(places)), [leaves[i] for i in places])

    def _note(self, reading: Reading, tensors: Sequence[Tensor]) -> None:
        if len(self.found) == READINGS:
            raise UnverifiableError(f"more than {READINGS} values are read")
        self.found.append(reading)
        self.tensors += tensors


class Itemized(TorchFunctionMode):
    """Lists are read number by number, and masked selections are written with an index: `Readings` sees both.

    A list would be read from the memory of a tensor that has none while it is recorded.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Calls the function, or what stands for it."""
        kwargs = kwargs or {}
        if func in MEMORY:
            raise UnverifiableError(f"{func.__name__} reads values from memory")
        if func is Tensor.tolist:
            return listed(args[0])
        if func in (torch.masked_select, Tensor.masked_select) and "out" not in kwargs:
            return selected(*args, **kwargs)
        return func(*args, **kwargs)


def listed(x: Tensor) -> Any:
    """The numbers of x as nested lists."""
    if x.numel() > READINGS:
        raise UnverifiableError(f"a list of {x.numel()} values is read")
    return x.item() if x.ndim == 0 else [listed(row) for row in x.unbind()]


def selected(input: Tensor, mask: Tensor) -> Tensor:
    """The entries of input, broadcast to the mask, where the mask is true."""
    common = torch.broadcast_shapes(input.shape, mask.shape)  # type: ignore[no-untyped-call]
    return input.expand(common)[mask.expand(common)]


def is_mask(index: Any) -> bool:
    """Whether an index chooses by true entries."""
    return isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8)


def shape(x: Tensor) -> tuple[int, ...]:
    """The shape as a tuple."""
    return tuple(x.shape)
