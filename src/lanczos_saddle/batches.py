"""The data of a problem: batches (inputs, targets); the first dimension of every tensor runs over samples.

Two forms are read: one pair ``(inputs, targets)`` of tensors, kept on the device, or a re-iterable of such
pairs (a list, a ``DataLoader``). Inputs are a tensor, or a tuple, list or dict of tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, RandomSampler, SequentialSampler, WeightedRandomSampler


@dataclass(frozen=True)
class Batch:
    """Samples that are evaluated together."""

    inputs: Any  # a tensor (n, ...), or a tuple, list or dict of them
    targets: Any  # a tensor (n, ...), or a nest of them
    size: int  # n, the number of samples
    weight: float  # what the mean loss of these samples counts for; the problem sets it

    def parts(self, limit: int) -> Iterator[Batch]:
        """The batch in ceil(n / limit) parts of nearly equal size, in order; views, not copies."""
        count = -(-self.size // limit)
        cuts = [self.size * i // count for i in range(count + 1)]
        return (self.part(start, stop) for start, stop in pairwise(cuts))

    def part(self, start: int, stop: int) -> Batch:
        """Samples start to stop - 1; the weight becomes their number."""
        if (start, stop) == (0, self.size):
            return self
        inputs, targets = map_tensors(lambda t: t[start:stop], (self.inputs, self.targets))
        return Batch(inputs, targets, stop - start, float(stop - start))

    def to(self, device: torch.device, dtype: torch.dtype) -> Batch:
        """The batch on `device`; floating-point tensors in `dtype`, indices and masks as they are."""

        def moved(t: Tensor) -> Tensor:
            return t.detach().to(device, dtype if t.is_floating_point() else t.dtype)

        inputs, targets = map_tensors(moved, (self.inputs, self.targets))
        return Batch(inputs, targets, self.size, self.weight)

    def check_finite(self) -> None:
        """Refuse NaN and infinity; one pass over the batch. Raises ValueError."""
        for role, tree in (("inputs", self.inputs), ("targets", self.targets)):
            for t in tensors(tree):
                if t.is_floating_point() and not bool(t.isfinite().all()):
                    bad = int((~t.isfinite()).sum())
                    raise ValueError(
                        f"{role} must be finite; got {bad} NaN or infinite values among "
                        f"{t.numel()}: clean or drop those samples"
                    )


class Batches:
    """Every sample of `data`, again and again, in batches of limited size on one device.

    A pair of tensors is moved to the device and checked here. Batches of an iterable are checked when they
    are first passed over and moved when they are used.

    Raises ValueError for data of another form, no samples, samples that do not pair up, NaN or infinite
    values.
    """

    def __init__(self, data: Any, dtype: torch.dtype, device: torch.device) -> None:
        self.dtype, self.device = dtype, device
        self.resident: Batch | None = None
        self.source: Iterable[Any] = ()
        self._clean = False
        if _is_pair(data):
            self.resident = read_batch(data).to(device, dtype)
            self.resident.check_finite()
        else:
            self.source = _reiterable(data)

    def to(self, dtype: torch.dtype) -> Batches:
        """The same data, cast batch by batch when used: nothing is copied here."""
        other = object.__new__(Batches)
        other.__dict__.update(self.__dict__, dtype=dtype)
        return other

    def __call__(self, limit: int) -> Iterator[Batch]:
        """Batches of at most `limit` samples, in the order of the data. Raises ValueError for bad ones."""
        batches = (self.resident,) if self.resident is not None else self._read()
        for batch in batches:
            for part in batch.parts(limit):
                yield part.to(self.device, self.dtype)

    def spread(self, count: int) -> Batch:
        """At most `count` samples from all over the pair, or the first batch: sorted ones look alike at their start."""
        batch = self.resident if self.resident is not None else next(self._read())
        chosen = torch.linspace(0, batch.size - 1, min(count, batch.size)).round().long()
        inputs, targets = map_tensors(lambda t: t[chosen.to(t.device)], (batch.inputs, batch.targets))
        return Batch(inputs, targets, len(chosen), float(len(chosen))).to(self.device, self.dtype)

    def _read(self) -> Iterator[Batch]:
        count = 0
        for item in self.source:
            batch, count = read_batch(item), count + 1
            if not self._clean:
                batch.check_finite()
            yield batch
        if not count:
            raise ValueError("data must hold at least one batch (inputs, targets); got an empty iterable")
        self._clean = True


def read_batch(item: Any) -> Batch:
    """One (inputs, targets) as a `Batch` of weight n; raises ValueError when the tensors do not fit."""
    if not isinstance(item, tuple | list) or len(item) != 2:
        got = f" of length {len(item)}" if hasattr(item, "__len__") else ""
        raise ValueError(
            f"a batch is a pair (inputs, targets); got {type(item).__name__}{got}: inputs of "
            "several tensors go into one tuple or dict"
        )
    inputs, targets = item
    lengths = [_length(t) for t in tensors(inputs)], [_length(t) for t in tensors(targets)]
    if not lengths[0] or not lengths[1]:
        got = f"{type(inputs).__name__} and {type(targets).__name__}"
        raise ValueError(
            f"inputs and targets must be torch tensors or tuples or dicts of them; got {got}: "
            "convert with torch.as_tensor"
        )
    if len({*lengths[0], *lengths[1]}) != 1:
        raise ValueError(
            "the first dimension of every tensor runs over the same samples; got lengths "
            f"{lengths[0]} in the inputs and {lengths[1]} in the targets"
        )
    size = lengths[0][0]
    if size == 0:
        raise ValueError("a batch must hold at least one sample; got zero-length tensors (empty data?)")
    return Batch(inputs, targets, size, float(size))


def map_tensors(function: Callable[[Tensor], Tensor], tree: Any) -> Any:
    """`function` on every tensor of a nest of tuples, lists and dicts; other leaves stay."""
    if isinstance(tree, Tensor):
        return function(tree)
    if isinstance(tree, Mapping):
        return {key: map_tensors(function, value) for key, value in tree.items()}
    if isinstance(tree, tuple | list):
        leaves = [map_tensors(function, value) for value in tree]
        return type(tree)(*leaves) if hasattr(tree, "_fields") else type(tree)(leaves)
    return tree


def form_of(tree: Any) -> Any:
    """A nest without the numbers of its tensors: what else a function of it may depend on; equal for equal nests."""
    if isinstance(tree, Tensor):
        return Tensor
    if isinstance(tree, Mapping):
        return (type(tree), *((key, form_of(value)) for key, value in tree.items()))
    if isinstance(tree, tuple | list):
        return (type(tree), *(form_of(value) for value in tree))
    return (type(tree), tree)


def tensors(tree: Any) -> list[Tensor]:
    """The tensors of a nest, in order."""
    found: list[Tensor] = []

    def keep(t: Tensor) -> Tensor:
        found.append(t)
        return t

    map_tensors(keep, tree)
    return found


def _length(t: Tensor) -> int:
    if t.ndim == 0:
        raise ValueError(
            "the first dimension of every tensor runs over samples; got a 0-d tensor: wrap a "
            "Dataset of single samples in a DataLoader"
        )
    return len(t)


def _is_pair(data: Any) -> bool:
    """(inputs, targets) rather than a list of two batches: the second item is a tensor, not itself a pair."""
    return isinstance(data, tuple | list) and len(data) == 2 and isinstance(data[1], Tensor)


def _reiterable(data: Any) -> Iterable[Any]:
    rule = "data must be a pair (inputs, targets) of tensors or a re-iterable of pairs (list, DataLoader)"
    if isinstance(data, Tensor | Mapping | str):
        raise ValueError(f"{rule}; got {type(data).__name__}")
    if not (isinstance(data, Iterable) or hasattr(data, "__getitem__")):
        raise ValueError(f"{rule}; got {type(data).__name__}, which cannot be iterated")
    if isinstance(data, Iterator):
        raise ValueError(
            f"{rule}: every product passes over it again; got a one-shot {type(data).__name__}: use list(data)"
        )
    return data  # type: ignore[no-any-return]


def refuse_sampling(data: Any) -> None:
    """Raises ValueError for a `DataLoader` whose passes differ in more than the order of the samples."""
    if not isinstance(data, DataLoader) or isinstance(data.dataset, IterableDataset):
        return
    batches = data.batch_sampler
    sampler = getattr(batches, "sampler", data.sampler)  # that of a custom batch sampler is not the loader's
    rule = "every pass over the data must give the same samples"
    if isinstance(sampler, WeightedRandomSampler) or (isinstance(sampler, RandomSampler) and _draws(sampler)):
        raise ValueError(
            f"{rule}; got a DataLoader that draws with {type(sampler).__name__}: use one without a sampler, "
            "or fix what it draws, data = list(loader)"
        )
    if (
        getattr(batches, "drop_last", False)
        and not isinstance(sampler, SequentialSampler)
        and isinstance(sampler, Sized)
    ):
        dropped = len(sampler) % getattr(batches, "batch_size", 1)
        if dropped:
            raise ValueError(
                f"{rule}; got a DataLoader with {type(sampler).__name__} and drop_last=True, which leaves out "
                f"{dropped} of {len(sampler)}, perhaps others each time: pass drop_last=False or shuffle=False"
            )


def _draws(sampler: RandomSampler) -> bool:
    """Whether the sampler repeats or leaves out samples: anything but whole permutations."""
    return sampler.replacement or sampler.num_samples % len(sampler.data_source) != 0
