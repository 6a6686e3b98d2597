"""The matrix of all ranks on rank 0, where vectors are in slices: it multiplies `Vectors`, and refuses whole ones."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from lanczos_saddle.distributed.leading import ROOM, Led, Talk
from lanczos_saddle.distributed.over_ranks import OverRanks
from lanczos_saddle.distributed.sliced_vectors import Book, Held, SliceSpace, Vectors
from lanczos_saddle.distributed.spread_basis import room_in_slices
from lanczos_saddle.operators.operator import check_vector
from lanczos_saddle.operators.vectors import refuse_in_slices


class LedSlices(Led):
    """As `Led`, an `Operator` (N, N) on vectors in slices."""

    def __init__(self, talk: Talk, matrix: OverRanks, index: int) -> None:
        super().__init__(talk, matrix, index)
        if not matrix.kind:  # of no function
            del self.problem
        if talk.book is None:
            talk.book = talk.slices()
        self._book: Book = talk.book
        self._book.store.matrices[index] = matrix
        self.space = SliceSpace(self._book, self._book.ask("slices", index))

    def __matmul__(self, v: Tensor, /) -> Tensor:
        check_vector(v, self.shape[0], self.dtype, self.device)
        if not isinstance(v, Vectors):
            refuse_in_slices(self, "this question")
        block: Any = v if v.ndim == 2 else v[:, None]
        if block.sizes != self.space.sizes:
            raise ValueError("vectors in slices are multiplied by the matrix whose slices they have; got others")
        held = Held(self._book)
        self._book.ask("multiply", held.number, self.index, block.number, block.shape[1])
        product = Vectors(held, 0, self.space)
        return product if v.ndim == 2 else product[:, 0]

    def basis_room(self, free: int, beside: int, part: int, probes: int) -> int:  # noqa: ARG002
        """Bytes that a basis may take over all ranks, each of which needs its part of `beside`, too."""
        with self.talk.exchange(ROOM, self.index):
            return room_in_slices(self.matrix.group, self.device, free, beside, part)

    def __del__(self) -> None:
        if self.talk.book is not None:
            self.talk.book.store.matrices.pop(self.index, None)
        super().__del__()
