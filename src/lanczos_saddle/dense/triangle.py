"""One triangle of a symmetric matrix (N, N) float64, by panels of columns, in memory or in a file: 4 N^2 bytes.

    panel p = H[p w :, p w : (p + 1) w], stored by rows; its first w rows are a diagonal tile, whole and symmetric

Of a triangle in several places each one keeps some of the panels; sums over entries are then those of its panels.

A file is mapped into memory: the system reads what is used, writes what was changed, and gives up the memory of a panel
that is released. It has no name from the start, so it is gone with the process, however that ends.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from lanczos_saddle.machine.memory import require_disk
from lanczos_saddle.operators.scaling import largest_entry, scale_in_place

WIDTH = 512  # columns of a panel: of tall matrix products, and 2 MiB a tile
PANELS = 8  # at least so many where N allows it, so that mixing has something to mix
FLOAT = 8  # bytes


class Triangle:
    """Tiles on and below the diagonal; an operator, (N, N) float64 on the CPU.

    `directory` is where its file is; None keeps it in memory. `kept`: the panels that are here, all if not given.
    Raises ValueError where the disk has no room.
    """

    dtype = torch.float64
    device = torch.device("cpu")

    def __init__(
        self, size: int, *, width: int | None = None, directory: Path | None = None, kept: range | None = None
    ) -> None:
        self.size, self.width = size, width or width_for(size)
        starts = range(0, size, self.width)
        self.kept = range(len(starts)) if kept is None else kept
        self._offsets = [0]
        for index, start in enumerate(starts):
            held = (size - start) * min(self.width, size - start) if index in self.kept else 0
            self._offsets.append(self._offsets[-1] + held)
        self.directory, self._map = directory, None
        if directory is None:
            self.flat = torch.empty(self._offsets[-1], dtype=torch.float64)
        else:
            self._map = _mapped(FLOAT * self._offsets[-1], size, directory)
            self.flat = torch.frombuffer(self._map, dtype=torch.float64)

    shape = property(lambda self: (self.size, self.size))

    def __len__(self) -> int:
        return self.size

    @property
    def panels(self) -> int:
        """How many there are."""
        return len(self._offsets) - 1

    def panel(self, index: int) -> Tensor:
        """Panel p (N - p w, w or less), a view."""
        rows = self.size - index * self.width
        return self.flat[self._offsets[index] : self._offsets[index + 1]].view(rows, min(self.width, rows))

    def tile(self, i: int, j: int) -> Tensor:
        """Tile (i, j), i >= j, a view."""
        start = (i - j) * self.width
        return self.panel(j)[start : start + self.width]

    def place(self, index: int) -> slice:
        """The columns of a panel."""
        return slice(index * self.width, min((index + 1) * self.width, self.size))

    def pieces(self, columns: slice) -> Iterator[tuple[int, slice]]:
        """(panel, columns of the matrix that lie in it), in order."""
        for index in range(columns.start // self.width, -(-columns.stop // self.width)):
            part = self.place(index)
            yield index, slice(max(part.start, columns.start), min(part.stop, columns.stop))

    def part(self, first: int, columns: slice) -> Tensor:
        """H[first:, columns] within one panel, first at or below its first column: a view."""
        index = columns.start // self.width
        start = index * self.width
        return self.panel(index)[first - start :, columns.start - start : columns.stop - start]

    def release(self, index: int) -> None:
        """A panel is not used for a while: of a file, its memory is given up, its numbers stay."""
        if self._map is not None and hasattr(self._map, "madvise"):
            start = -(-self._offsets[index] * FLOAT // mmap.PAGESIZE) * mmap.PAGESIZE
            stop = self._offsets[index + 1] * FLOAT // mmap.PAGESIZE * mmap.PAGESIZE
            if stop > start:
                self._map.madvise(mmap.MADV_DONTNEED, start, stop - start)

    def put(self, rows: Tensor, columns: Tensor, block: Tensor) -> None:
        """H[rows, columns] <- block, and its mirror image; rows and columns ascend."""
        for a, height in _runs(rows):
            for b, width in _runs(columns):
                part = block[a : a + height, b : b + width]
                self._put(int(rows[a]), int(columns[b]), part)
                self._put(int(columns[b]), int(rows[a]), part.mT)

    def _put(self, first: int, left: int, block: Tensor) -> None:
        """What of a block with its corner at (first, left) belongs to the triangle."""
        height, width = block.shape
        for index, part in self.pieces(slice(left, left + width)):
            start = max(first, index * self.width)
            if start < first + height:
                place = self.part(start, part)[: first + height - start]
                place.copy_(block[start - first :, part.start - left : part.stop - left])

    def zero(self) -> None:
        """H <- 0."""
        for index in self.kept:
            self.panel(index).zero_()
            self.release(index)

    def fill(self, matrix: Tensor) -> Triangle:
        """Takes a dense symmetric matrix (N, N)."""
        for index in self.kept:
            part = self.place(index)
            self.panel(index).copy_(matrix[part.start :, part])
            self.release(index)
        return self

    def copy_of(self, other: Triangle) -> Triangle:
        """Takes the numbers of another one with these panels."""
        for index in self.kept:
            self.panel(index).copy_(other.panel(index))
            self.release(index)
            other.release(index)
        return self

    def dense(self) -> Tensor:
        """The matrix (N, N)."""
        matrix = torch.empty(self.size, self.size, dtype=torch.float64)
        for index in range(self.panels):
            part = self.place(index)
            matrix[part.start :, part] = self.panel(index)
            matrix[part, part.start :] = self.panel(index).mT
        return matrix

    def __matmul__(self, v: Tensor, /) -> Tensor:
        rows = v.reshape(self.size, -1).mT.contiguous()  # products of wide panels with rows are the fast ones
        product = torch.zeros_like(rows)
        for index in self.kept:
            panel, part = self.panel(index), self.place(index)
            product[:, part.start :] += rows[:, part] @ panel.mT
            product[:, part] += rows[:, part.stop :] @ panel[part.stop - part.start :]
            self.release(index)
        return product.mT.reshape(v.shape)

    def norms(self) -> Tensor:
        """|H e_i| of all rows (N,)."""
        return self.squares().sqrt()

    def squares(self) -> Tensor:
        """|H e_i|^2 of all rows (N,)."""
        squares = torch.zeros(self.size, dtype=torch.float64)
        for index in self.kept:
            panel, part = self.panel(index).square(), self.place(index)
            squares[part.start :] += panel.sum(1)
            squares[part] += panel[part.stop - part.start :].sum(0)
            self.release(index)
        return squares

    def largest_entry(self) -> float:
        """The largest |entry|, NaN where there is one."""
        found = [0.0]
        for index in self.kept:
            found.append(largest_entry(self.panel(index)))
            self.release(index)
        return float(torch.tensor(found, dtype=torch.float64).max())

    def scale(self, exponent: int) -> None:
        """H *= 2^exponent."""
        for index in self.kept if exponent else ():
            scale_in_place(self.panel(index), exponent)
            self.release(index)


def _runs(positions: Tensor) -> Iterator[tuple[int, int]]:
    """(where it starts, its length) of every run of consecutive numbers."""
    breaks = (positions.diff() != 1).nonzero().flatten().add(1).tolist()
    starts = [0, *breaks]
    for start, stop in zip(starts, [*breaks, len(positions)], strict=True):
        yield start, stop - start


def width_for(size: int) -> int:
    """A power of two: `WIDTH`, or less where panels would be few."""
    return min(WIDTH, 1 << max(0, (size // PANELS).bit_length() - 1))


def triangle_bytes(size: int) -> int:
    """What a triangle takes."""
    width = width_for(size)
    return FLOAT * sum((size - start) * min(width, size - start) for start in range(0, size, width))


def _mapped(count: int, size: int, directory: Path) -> mmap.mmap:
    """So many bytes of a new file without a name; raises ValueError where the disk has no room for them."""
    require_disk(count, directory, f"one triangle of a matrix at N = {size}")
    with tempfile.TemporaryFile(dir=directory) as file:
        file.truncate(count)
        if hasattr(os, "posix_fallocate"):  # a page that finds no room later would end the process
            try:
                os.posix_fallocate(file.fileno(), 0, count)
            except OSError as error:
                raise ValueError(
                    f"a file of {count / 2**30:.2f} GiB must fit in {directory}: {error.strerror}"
                ) from None
        mapped = mmap.mmap(file.fileno(), count)
    with contextlib.suppress(AttributeError, OSError):
        mapped.madvise(mmap.MADV_SEQUENTIAL)
    return mapped
