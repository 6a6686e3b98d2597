"""Tensors of which every rank holds a slice of coordinates, as rank 0 has them: it says what is done, all do it.

    w = H @ q           each rank's rows of the product
    alpha = <q, w>      each rank's part of the sum, put together on rank 0
    w -= alpha q        each rank its own rows

`Vectors` are torch tensors to the code that computes with them, recurrences, preflight and checks alike, which is the
code of one process. Rank 0 holds its own slice and the small results; an operation for which `slice_rules` knows no
rule raises ValueError.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import count
from typing import Any

import torch
from torch import Tensor

from lanczos_saddle.distributed.group import RankFailed
from lanczos_saddle.distributed.slice_rules import Own, Placed, Sizes, placed, refusal, sliced
from lanczos_saddle.distributed.slice_store import Store, packed
from lanczos_saddle.distributed.spread_basis import Asks
from lanczos_saddle.machine.interrupts import interrupts_wait
from lanczos_saddle.machine.states import Streamed

WAITING, LET_GO = 256, 2**26
"""Operations that others may be behind, and bytes of a slice that were let go in them, which take memory until then."""


class Book:
    """What rank 0 knows of everybody's slices, and how it asks."""

    def __init__(self, asks: Asks, number: int, store: Store) -> None:
        self.asks, self.number, self.store = asks, number, store
        self.numbers = count(1)
        self.queue: list[tuple[str, tuple[Any, ...]]] = []  # what others do before anything else
        self.let_go = 0  # bytes

    def ask(self, name: str, *arguments: Any, own: Sequence[Any] = ()) -> Any:
        """All ranks do this; `own` is what rank 0 has for it alone."""
        before, self.queue, self.let_go = self.queue, [], 0
        with self.asks.asked(self.number, "do", before, name, arguments):
            found = self.store.do((), name, arguments, own)
        if self.store.failure is not None:
            self.ask("explain")
        return found

    def later(self, name: str, *arguments: Any) -> None:
        """Rank 0 does this now, the others before the next thing that all do together."""
        with interrupts_wait():
            self.queue.append((name, arguments))
            self.store.do((), name, arguments)
        if self.store.failure is not None:
            self.ask("explain")
        if len(self.queue) >= WAITING or self.let_go > LET_GO:
            self.ask("nothing")

    def drop(self, number: int) -> None:
        """Nobody holds it any more."""
        self.let_go += self.store.let_go(number)
        self.queue.append(("let_go", (number,)))


class Held:
    """A number that is dropped when nobody holds it."""

    def __init__(self, book: Book) -> None:
        self.book, self.number = book, next(book.numbers)

    def __del__(self) -> None:
        self.book.drop(self.number)


class SliceSpace:
    """Vectors of N coordinates of which rank r has `sizes`[r]."""

    def __init__(self, book: Book, sizes: Sizes) -> None:
        self.book, self.sizes, self.size = book, sizes, sum(sizes)

    @property
    def ranks(self) -> int:
        """How many slices there are."""
        return len(self.sizes)

    def gaussian(self, columns: int, generator: torch.Generator) -> Tensor:
        """(N, k) Gaussian numbers, those of one process: every rank draws all and keeps its own."""
        held = Held(self.book)
        state = packed(generator.get_state())
        generator.set_state(self.book.ask("gaussian", held.number, self.sizes, columns, state))
        return Vectors(held, 0, self)

    def zeros(self, shape: Sequence[int], dim: int, dtype: torch.dtype) -> Tensor:
        """Zeros; dimension `dim` is that of coordinates."""
        held = Held(self.book)
        self.book.later("zeros", held.number, [Own(self.sizes) if d == dim else n for d, n in enumerate(shape)], dtype)
        return Vectors(held, dim, self)

    def basis(self, probes: int, room: int, dtype: torch.dtype) -> SliceBasis:
        """An empty one."""
        return SliceBasis(self, probes, room, dtype)

    def placed(self, saved: Any) -> Tensor:
        """A tensor of a state, (N,) or (m, N), of which one row after the other is read."""
        made = self.zeros(saved.shape, len(saved.shape) - 1, saved.dtype)
        for index, row in zip(_indices(saved.shape), saved.rows(), strict=True):
            self.book.ask("set_row", _number(made), self.sizes, index, own=(row,))
        return made


def _indices(shape: Sequence[int]) -> Iterator[list[int]]:
    """Those of rows."""
    yield from ([[j] for j in range(shape[0])] if len(shape) == 2 else [[]])


def _number(tensor: Any) -> int:
    number: int = tensor.number
    return number


class Vectors(Tensor):
    """A tensor whose dimension `along` is in slices; rank 0 alone has it, and its own slice."""

    held: Held
    along: int
    space: SliceSpace

    @staticmethod
    def __new__(cls, held: Held, along: int, space: SliceSpace) -> Vectors:  # noqa: D102
        own: Tensor = held.book.store.kept[held.number]
        shape = list(own.shape)
        shape[along] = space.size
        made: Vectors = Tensor._make_wrapper_subclass(
            cls, shape, strides=_strides(own, shape), dtype=own.dtype, device=own.device
        )
        made.held, made.along, made.space = held, along, space
        return made

    def __init__(self, *_: object) -> None:
        """All is there."""

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    def __reduce_ex__(self, _: Any) -> Any:
        """Raises ValueError."""
        raise ValueError("vectors in slices are on no rank whole, and go to none: data_parallel keeps whole ones")

    @property
    def number(self) -> int:
        """By which all ranks know it."""
        return self.held.number

    @property
    def sizes(self) -> Sizes:
        """How many coordinates each rank has."""
        return self.space.sizes

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """What all ranks make of it."""
        del types
        return _done(func, args, kwargs or {})

    def gathered(self) -> Tensor:
        """The whole tensor on rank 0, a row after the other; the last dimension is that of slices."""
        if self.along != self.ndim - 1 or self.ndim > 2:
            raise refusal(f"gathering of shape {tuple(self.shape)}")
        rows = [self.space.book.ask("row", self.number, self.sizes, index) for index in _indices(self.shape)]
        return torch.stack(rows) if self.ndim == 2 else rows[0]

    def orthonormal(self) -> Tensor:
        """As `operators.vectors.orthonormal`."""
        if self.ndim != 2 or self.along != 0 or self.shape[0] < self.shape[1]:
            raise refusal(f"QR of shape {tuple(self.shape)}")
        held = Held(self.space.book)
        self.space.book.ask("orthonormal", held.number, self.number)
        return Vectors(held, 0, self.space)

    def streamed(self) -> Streamed:
        """As a state keeps it: (N,) or (m, N), gathered one row after the other."""

        def at(j: int) -> list[Tensor]:
            return [self.space.book.ask("row", self.number, self.sizes, [j] if self.ndim == 2 else [])]

        return Streamed(tuple(self.shape), self.dtype, at)

    def __repr__(self) -> str:  # type: ignore[override]
        return f"Vectors({tuple(self.shape)}, {self.dtype}, {self.space.ranks} slices along {self.along})"


def _strides(own: Tensor, shape: list[int]) -> list[int]:
    """Of the whole, laid out as the slice is."""
    strides, width = [0] * len(shape), 1
    for d in sorted(range(len(shape)), key=lambda d: (own.stride(d), -d)):
        strides[d] = 0 if own.stride(d) == 0 and shape[d] > 1 else width
        width *= max(1, shape[d])
    return strides


def _done(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """An operation of torch: by all ranks, or refused."""
    stem = func.overloadpacket.__name__
    stem = stem if stem.startswith("__") else stem.rstrip("_")
    first = next(sliced([*args, *kwargs.values()]))
    space = first.space
    if stem.startswith("new_"):  # of what is no vector
        return func(space.book.store.kept[first.number], *args[1:], **kwargs)
    if stem == "nonzero":
        return _numbers(first)
    if stem in ("index", "index_put"):
        args = (args[0], [_as_numbers(one) for one in args[1]], *args[2:])
    rule = placed(stem, args, kwargs)
    name, asked = str(func), (packed(list(rule.args)), {key: packed(value) for key, value in kwargs.items()})
    target = kwargs.get("out", args[0] if func._schema.is_mutable else None)
    if target is not None:
        if not isinstance(target, Vectors) or rule.along is None:
            raise refusal(f"{stem} into a whole tensor")
        space.book.later("local", (), name, *asked)
        return target
    if rule.along is None:
        return _put_together(space, rule, func, name, asked, kwargs)
    if stem in ("unbind", "split"):
        return _several(space, rule, name, asked, len(args[0]) if stem == "unbind" else -(-len(args[0]) // args[1]))
    held = Held(space.book)
    space.book.later("local", (held.number,), name, *asked)
    return Vectors(held, rule.along, space if rule.sizes in (None, space.sizes) else SliceSpace(space.book, rule.sizes))


def _put_together(space: SliceSpace, rule: Placed, func: Any, name: str, asked: Any, kwargs: dict[str, Any]) -> Tensor:
    """What the parts of all ranks are together; raises what one of them did."""
    like = func(*_imagined(rule.args), **{key: _imagined([value])[0] for key, value in kwargs.items()})
    found: Tensor | None = space.book.ask("put_together", rule.together, tuple(like.shape), like.dtype, name, *asked)
    if found is None:
        space.book.ask("explain")
        raise RankFailed("a rank failed, and does not say why")
    return found


def _imagined(args: Any) -> list[Any]:
    """Tensors of the same shapes and types, without numbers."""
    return [torch.empty(one.shape, dtype=one.dtype, device="meta") if isinstance(one, Tensor) else one for one in args]


def _several(space: SliceSpace, rule: Placed, name: str, asked: Any, number: int) -> list[Tensor]:
    assert rule.along is not None
    held = [Held(space.book) for _ in range(number)]
    space.book.later("local", tuple(one.number for one in held), name, *asked)
    return [Vectors(one, rule.along, space) for one in held]


def _numbers(mask: Vectors) -> Tensor:
    """(M, 1) int64: coordinates that are not zero, counted within each slice."""
    if mask.ndim != 1:
        raise refusal("nonzero of more than one vector")
    held = Held(mask.space.book)
    sizes = mask.space.book.ask("found", held.number, mask.number)
    return Vectors(held, 0, SliceSpace(mask.space.book, tuple(sizes)))


def _as_numbers(index: Any) -> Any:
    """An index of numbers in place of a mask."""
    if isinstance(index, Vectors) and index.dtype == torch.bool:
        return _numbers(index).squeeze(1)
    return index


class SliceBasis:
    """A `krylov.basis.Basis` of which every rank keeps its own coordinates."""

    streamed = ("basis",)

    def __init__(self, space: SliceSpace, probes: int, room: int, dtype: torch.dtype) -> None:
        self.space, self.held, self.dtype, self.probes = space, Held(space.book), dtype, probes
        self._ask("basis", probes, room, space.sizes, dtype)

    def _ask(self, name: str, *arguments: Any, own: Sequence[Any] = ()) -> Any:
        return self.space.book.ask(name, self.held.number, *arguments, own=own)

    def reserve(self, room: int, filled: int) -> None:
        """Make room for so many vectors a probe; the first `filled` stay."""
        self._ask("reserve", room, filled)

    def put(self, j: int, q: Tensor) -> None:
        """Vector j of every probe, (m, N)."""
        self.space.book.later("put", self.held.number, j, _number(q))

    def orthogonalize(self, w: Tensor, which: Sequence[int], count: int) -> None:
        """W_i -= V_i'(V_i w_i) in place, the first `count` vectors, for those rows i of w (m, N) float64."""
        self._ask("orthogonalize", _number(w), list(which), count)

    def combined(self, i: int, coefficients: Tensor, at: Tensor | None = None) -> Tensor:
        """V_i'c (N, r) float64 for c (k, r) float64, or its rows `at`."""
        held = Held(self.space.book)
        index = None if at is None else _number(at)
        self.space.book.later("combined", held.number, self.held.number, i, packed(coefficients), index)
        return Vectors(held, 0, self.space if at is None else at.space)  # type: ignore[attr-defined]

    def inner(self, i: int, count: int, u: Tensor) -> Tensor:
        """V_i u (count, r) float64 for u (N, r) float64."""
        found: Tensor = self._ask("inner", i, count, _number(u))
        return found

    def forms(self, lengths: dict[int, int], following: Tensor, nulls: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(W W', W U, U'U) in float64, for W the first vectors of each probe, so many, and its `following` (m, N)."""
        u = packed(nulls) if isinstance(nulls, Vectors) else None
        found: tuple[Tensor, Tensor, Tensor] = self._ask("forms", lengths, _number(following), u)
        return found

    def rows(self, j: int) -> Iterator[Tensor]:
        """Vector j of every probe, (N,), gathered one after the other."""
        return (self._ask("basis_row", self.space.sizes, i, j) for i in range(self.probes))

    def whole(self, count: int) -> Tensor:
        """(m, count, N): the first vectors of all probes, gathered."""
        found: Tensor = self._ask("whole_basis", self.space.sizes, count)
        return found

    def saved(self, count: int) -> Streamed:
        """The first vectors as a state keeps them, gathered one after the other."""
        return Streamed((self.probes, count, self.space.size), self.dtype, self.rows)

    def load(self, saved: Any, count: int) -> None:
        """Set the first vectors to those of a state, of which one after the other is read."""
        for i, j in ((i, j) for j in range(count) for i in range(self.probes)):
            self._ask("set_basis_row", self.space.sizes, i, j, own=(saved[i, j],))
