"""Do the batches of a pass add up? A few samples of every batch, put together, must have the sum of their shares.

A mean whose weights differ between batches (class weights in a lambda, targets that are ignored) agrees with itself
within each batch and not with the mean over all samples: sorted data hide that from any look at one batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from lanczos_saddle.networks.batches import Batch, evenly, form_of, joined, tensors

EACH = 4
"""Samples of a batch that are kept."""

MOST = 64
"""Batches of which samples are kept; of more, every second one, every fourth, and so on."""

GROUPS = 8
"""Parts into which the samples are cut, in the order of the pass."""


class Mixture:
    """Samples of the batches of one pass, from all over it.

    `guessed`: whether the weight of a batch is the number of its samples for want of a better rule; batches whose
    targets have other shapes then do not tell what they weigh.
    """

    def __init__(self, guessed: bool, each: int = EACH) -> None:
        self.guessed, self.each = guessed, each
        self._kept: list[Batch] = []
        self._stride, self._seen, self._looks = 1, 0, set[str]()

    def add(self, batch: Batch) -> None:
        """Keep a few samples. Raises ValueError where the weight of a batch cannot be guessed."""
        if self.guessed:
            self._refuse_unknown(batch)
        if self._seen % self._stride == 0:
            self._kept.append(evenly(batch, self.each))
            if len(self._kept) > MOST:
                self._kept, self._stride = self._kept[::2], 2 * self._stride
        self._seen += 1

    @property
    def first(self) -> Batch:
        """Samples of the first batch."""
        return self._kept[0]

    def unions(self) -> Iterator[tuple[Batch, list[Batch]]]:
        """(all samples in one batch, the parts that it is made of) for every form and shape that the batches have."""
        by_look: dict[str, list[Batch]] = {}
        for batch in self._kept:
            look = [(tuple(t.shape[1:]), t.dtype) for t in tensors((batch.inputs, batch.targets))]
            by_look.setdefault(str((look, form_of((batch.inputs, batch.targets)))), []).append(batch)
        for batches in by_look.values():
            groups = min(GROUPS, len(batches))
            cuts = [len(batches) * i // groups for i in range(groups + 1)]
            parts = [joined(batches[a:b]) for a, b in pairwise(cuts)]
            whole = joined(batches)
            if whole is not None and len(parts) > 1:
                yield whole, [part for part in parts if part is not None]

    def _refuse_unknown(self, batch: Batch) -> None:
        self._looks.add(str([tuple(t.shape[1:]) for t in tensors(batch.targets)]))
        several = len(self._looks) > 1 or (not batch.divisible and self._seen > 0)
        if several:
            raise ValueError(
                "what a batch weighs in a mean of unknown rule must be known where batches differ in the shape of "
                "their targets; pass batch_weight=lambda targets: targets.numel(), or len where samples count alike"
            )
