"""How large chunks and groups of a product may be: bytes, foretold from one sample's saved bytes and one vector.

For a chunk of s samples and a group of k columns, a saved bytes per sample and v bytes of a vector (N,):

    s a (PRIMAL + k TANGENT) + v k VECTORS

beside the block and its product. The constants are the dearest that were measured, to about 15 %: one set for
products by torch's transforms, which keep more, and one for recorded operations (`columns`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

COLUMNS = 32  # widest group
CACHE = 48 * 2**20  # bytes of a chunk's activations times columns: where products on a processor were the fastest
FEW, FEW_FOLDED = 16, 8  # samples beside which columns are kept together
HEAVY = 3  # a chunk's activations in vectors (N,): with fewer, a block of weights and slopes moves more than they do
STREAMED = 300 * 2**20  # bytes of activations times columns of a chunk that is grown to be that heavy
PRIMAL, TANGENT, VECTORS = 4, 7, 6  # by transforms: convolution and attention, forward mode
FOLDED_PRIMAL, FOLDED_TANGENT, FOLDED_VECTORS = 2, 1.5, 4  # by recorded operations: attention
KEPT = 4  # primal results that recorded operations keep, in saved bytes of a sample: convolution, 3.4


@dataclass(frozen=True)
class Footprint:
    """What one sample and one vector need."""

    saved: int  # bytes that autograd saves for one more sample
    vector: int  # bytes of a vector (N,)

    def plain(self, samples: int, columns: int) -> int:
        """Bytes of a chunk and a group by torch's transforms."""
        return samples * self.saved * (PRIMAL + TANGENT * columns) + VECTORS * columns * self.vector

    def folded(self, samples: int, columns: int) -> int:
        """Bytes of a chunk and a group by recorded operations, beside what is kept of the batches."""
        tangents = int(samples * self.saved * (FOLDED_PRIMAL + FOLDED_TANGENT * columns))
        return tangents + FOLDED_VECTORS * columns * self.vector

    def kept(self, samples: int) -> int:
        """Bytes of what recorded operations keep of so many samples."""
        return KEPT * samples * self.saved

    def chunk(self, columns: int, free: int, folded: bool, cached: bool, samples: int | None = None) -> tuple[int, int]:
        """(samples a chunk, columns a group) for a block of `columns` within `free` bytes; at least (1, 1).

        Columns share the forward pass, so they are kept together as long as a few samples fit beside them. Where
        a processor's caches matter (`cached`), more samples than those are taken only if they fit into them; but
        recorded operations with many weights and large activations take more of the `samples` and fewer columns at a
        time, because every chunk moves all the weights' columns.
        """
        predict, few = (self.folded, FEW_FOLDED) if folded else (self.plain, FEW)
        width = _width(predict, columns, few, free)
        room = samples_beside(predict, width, free)
        best = max(CACHE // (self.saved * width), 2 * FEW_FOLDED if folded else 1) if cached else room
        if folded and cached and samples is not None and samples > best:
            taken = best * self.saved
            if taken < HEAVY * self.vector and taken * width > STREAMED:
                return self._heavy(columns, free, samples)
        return max(1, min(room, best)), width

    def _heavy(self, columns: int, free: int, samples: int) -> tuple[int, int]:
        """(samples, columns) of even chunks that outweigh a vector, as many columns as then stream through memory."""
        chunks = max(1, samples * self.saved // (HEAVY * self.vector))
        share = max(1, min(-(-samples // chunks), samples_beside(self.folded, 1, free)))
        width = min(columns, COLUMNS, max(1, STREAMED // (share * self.saved)))
        while width > 1 and self.folded(share, width) > free:
            width -= 1
        return share, -(-columns // -(-columns // width))

    def pieces(self, samples: int, columns: int, free: int) -> tuple[int, int]:
        """(samples, columns) in which torch's transforms can multiply a chunk and a group; at least (1, 1)."""
        few = max(1, min(samples, samples_beside(self.plain, 1, free)))
        width = (free - self.plain(few, 0)) // (self.plain(few, 1) - self.plain(few, 0))
        return few, max(1, min(columns, width))


def _width(predict: Callable[[int, int], int], columns: int, few: int, free: int) -> int:
    """Columns of a group beside which a few samples fit; at least one."""
    groups = -(-columns // COLUMNS)
    while predict(few, -(-columns // groups)) > free and groups < columns:
        groups = min(2 * groups, columns)
    return -(-columns // groups)


def samples_beside(predict: Callable[[int, int], int], width: int, free: int) -> int:
    """Samples beside which `width` columns fit, perhaps none."""
    return (free - predict(0, width)) // (predict(1, width) - predict(0, width))
