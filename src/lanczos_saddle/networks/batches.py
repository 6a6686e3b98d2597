"""The data of a problem: batches (inputs, targets); the first dimension of every tensor runs over samples.

Two forms are read: one batch, kept on the device, or a re-iterable of batches (a list, a ``DataLoader``). A batch is
a pair ``(inputs, targets)`` of tensors or nests of them (tuple, list, dict). Where the model computes its own loss
(``loss=None``) it is what the model is called with: a dict, a tuple or a tensor; the entry "labels" of a dict is the
targets as well. Where several inputs have different lengths, as the nodes and edges of a graph have, the batch is
indivisible: one sample. So it is where a tensor is sparse or nested.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass, replace
from itertools import islice, pairwise
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, RandomSampler, SequentialSampler, WeightedRandomSampler

Reader: TypeAlias = "Callable[[Any], Batch]"


@dataclass(frozen=True)
class Batch:
    """Samples that are evaluated together."""

    inputs: Any  # a tensor (n, ...), or a tuple, list or dict of them
    targets: Any  # a tensor (n, ...), or a nest of them
    size: int  # n, the number of samples; 1 where the batch is indivisible
    weight: float  # what the mean loss of these samples counts for; the problem sets it
    divisible: bool = True  # False where the tensors do not run over the same samples, a graph say

    def parts(self, limit: int) -> Iterator[Batch]:
        """The batch in ceil(n / limit) parts of nearly equal size, in order; views, not copies."""
        count = parts_of(self.size, limit)
        cuts = [self.size * i // count for i in range(count + 1)]
        return (self.part(start, stop) for start, stop in pairwise(cuts))

    def part(self, start: int, stop: int) -> Batch:
        """Samples start to stop - 1; the weight becomes their number."""
        if (start, stop) == (0, self.size) or not self.divisible:
            return self
        inputs, targets = map_tensors(lambda t: t[start:stop], (self.inputs, self.targets))
        return Batch(inputs, targets, stop - start, float(stop - start))

    def to(self, device: torch.device, dtype: torch.dtype) -> Batch:
        """The batch on `device`; floating-point tensors in `dtype`, indices and masks as they are."""

        def moved(t: Tensor) -> Tensor:
            t = t.clone() if t.is_inference() else t  # made under inference_mode, which autograd refuses
            return t.detach().to(device, in_precision(t.dtype, dtype))

        inputs, targets = map_tensors(moved, (self.inputs, self.targets))
        return replace(self, inputs=inputs, targets=targets)

    def chosen(self, index: Tensor) -> Batch:
        """The samples of these positions, copied."""
        if not self.divisible:
            return self
        inputs, targets = map_tensors(lambda t: t[index.to(t.device)], (self.inputs, self.targets))
        return Batch(inputs, targets, len(index), float(len(index)))

    def check_finite(self) -> None:
        """Refuse NaN and infinity; one pass over the batch. Raises ValueError."""
        for role, tree in (("inputs", self.inputs), ("targets", self.targets)):
            for t in tensors(tree):
                if t.layout == torch.strided and t.dtype.is_floating_point and not bool(t.isfinite().all()):
                    bad = int((~t.isfinite()).sum())
                    raise ValueError(
                        f"{role} must be finite; got {bad} NaN or infinite values among "
                        f"{t.numel()}: clean or drop those samples"
                    )


class Batches:
    """Every sample of `data`, again and again, in batches of limited size on one device.

    A pair of tensors is moved to the device and checked here. Batches of an iterable are checked when they
    are first passed over and moved when they are used. `one` says that the data are one batch, whatever they look like.

    Raises ValueError for data of another form, no samples, samples that do not pair up, NaN or infinite
    values.
    """

    def __init__(
        self,
        data: Any,
        dtype: torch.dtype,
        device: torch.device,
        *,
        read: Reader | None = None,
        collate: Callable[[Sequence[Any]], Any] | None = None,
        one: bool = False,
    ) -> None:
        self.dtype, self.device = dtype, device
        self.resident: Batch | None = None
        self.source: Iterable[Any] = ()
        self.read = read or read_batch
        self._clean = False
        self.part_of = part_of(data)
        alone = is_one_call if self.read is read_call else _is_pair
        if collate is not None:
            self.source = Collated(data, collate)
        elif one or alone(data):
            self.resident = self.read(data).to(device, dtype)
            self.resident.check_finite()
        else:
            self.source = _reiterable(data)

    @property
    def in_memory(self) -> bool:
        """Whether a pass over the data costs nothing but the evaluations: a pair, or a list of batches."""
        return self.resident is not None or isinstance(self.source, tuple | list)

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
        return evenly(batch, count).to(self.device, self.dtype)

    def _read(self) -> Iterator[Batch]:
        count = 0
        for item in self.source:
            batch, count = self.read(item), count + 1
            if not self._clean:
                batch.check_finite()
            yield batch
        if not count:
            raise ValueError("data must hold at least one batch (inputs, targets); got an empty iterable")
        self._clean = True


class Collated:
    """Samples of different lengths, put together by a function of the user's, `SAMPLES` at a time."""

    SAMPLES = 64

    def __init__(self, samples: Sequence[Any], collate: Callable[[Sequence[Any]], Any]) -> None:
        if not hasattr(samples, "__len__") or not hasattr(samples, "__getitem__"):
            raise ValueError(
                "with collate= the data are a sequence of samples, with a length and [i]; got "
                f"{type(samples).__name__}: pass a list or a Dataset, or batches without collate="
            )
        if not callable(collate):
            raise ValueError(f"collate must be a function of a list of samples; got {type(collate).__name__}")
        self.samples, self.collate = samples, collate

    def __iter__(self) -> Iterator[Any]:
        size = len(self.samples)
        for start in range(0, size, self.SAMPLES):
            yield self.collate([self.samples[i] for i in range(start, min(start + self.SAMPLES, size))])


def evenly(batch: Batch, count: int) -> Batch:
    """At most `count` samples from all over the batch."""
    return batch.chosen(torch.linspace(0, batch.size - 1, min(count, batch.size)).round().long())


def joined(batches: Sequence[Batch]) -> Batch | None:
    """All samples in one batch, or None where the batches cannot be put together (other shapes, indivisible)."""
    forms = {str(form_of((b.inputs, b.targets))) for b in batches}
    lists = [tensors((b.inputs, b.targets)) for b in batches]
    looks = {tuple((t.shape[1:], t.dtype) for t in given) for given in lists}
    if len(forms) != 1 or len(looks) != 1 or not all(b.divisible for b in batches):
        return None
    whole = iter([torch.cat(parts) for parts in zip(*lists, strict=True)])
    inputs, targets = map_tensors(lambda _: next(whole), (batches[0].inputs, batches[0].targets))
    size = sum(b.size for b in batches)
    return Batch(inputs, targets, size, float(size))


def in_precision(own: torch.dtype, wanted: torch.dtype) -> torch.dtype:
    """`wanted` for real floating-point numbers, its complex companion for complex ones; integers stay."""
    if own.is_complex:
        return wanted.to_complex()
    return wanted if own.is_floating_point else own


def parts_of(size: int, limit: int) -> int:
    """How many parts of at most `limit` samples: the fewest, or up to a third more where these are all of one size.

    What is recorded of a product serves one size of part.
    """
    fewest = -(-size // limit)
    return next((count for count in range(fewest, fewest + fewest // 3 + 1) if size % count == 0), fewest)


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
    if 0 in lengths[0] or 0 in lengths[1]:
        raise ValueError("a batch must hold at least one sample; got zero-length tensors (empty data?)")
    if len({*lengths[0], *lengths[1]}) != 1:
        if len(set(lengths[0])) > 1:  # nodes and edges: no first dimension runs over samples
            return Batch(inputs, targets, 1, 1.0, divisible=False)
        raise ValueError(
            "the first dimension of every tensor runs over the same samples; got lengths "
            f"{lengths[0]} in the inputs and {lengths[1]} in the targets"
        )
    if not _all_dense((inputs, targets)):
        return Batch(inputs, targets, 1, 1.0, divisible=False)
    size = lengths[0][0]
    return Batch(inputs, targets, size, float(size))


def read_call(item: Any) -> Batch:
    """What a model that computes its own loss is called with; "labels" of a dict are the targets as well."""
    if not isinstance(item, Tensor | Mapping | tuple | list) or not tensors(item):
        raise ValueError(
            "with loss=None a batch is what the model is called with, a dict, tuple or list of tensors or a tensor; "
            f"got {type(item).__name__}"
        )
    item = dict(item) if isinstance(item, Mapping) else item
    lengths = {_length(t) for t in tensors(item)}
    if 0 in lengths:
        raise ValueError("a batch must hold at least one sample; got zero-length tensors (empty data?)")
    labels = item.get("labels") if isinstance(item, dict) else None
    targets = map_tensors(lambda t: t.detach(), labels)  # a tensor of its own: one object twice is taken for one
    if len(lengths) > 1 or not _all_dense(item):
        return Batch(item, targets, 1, 1.0, divisible=False)
    size = lengths.pop()
    return Batch(item, targets, size, float(size))


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


def mark_part(data: Any, whole: str) -> Any:
    """The nest; its first tensor, which is nobody else's, says of which whole it is a part."""
    for t in islice(_leaves(data), 1):
        t.part_of = whole  # type: ignore[attr-defined]
    return data


class PartOfList(list[Any]):
    """Some of the batches of a list, which says of which whole it is a part."""

    def __init__(self, batches: Iterable[Any], whole: str) -> None:
        super().__init__(batches)
        self.part_of = whole


def part_of(data: Any) -> str:
    """What was said of the whole; empty of other data, and of what is not in memory."""
    if isinstance(data, PartOfList):
        return data.part_of
    first = next(_leaves(data), None) if isinstance(data, Tensor | Mapping | tuple | list) else None
    return getattr(first, "part_of", "")


def _leaves(tree: Any) -> Iterator[Tensor]:
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, Mapping | tuple | list):
        for value in tree.values() if isinstance(tree, Mapping) else tree:
            yield from _leaves(value)


def _all_dense(tree: Any) -> bool:
    """Whether every tensor can be cut along its first dimension: sparse and nested ones cannot."""
    return all(t.layout == torch.strided and not t.is_nested for t in tensors(tree))


def _length(t: Tensor) -> int:
    if t.ndim == 0:
        raise ValueError(
            "the first dimension of every tensor runs over samples; got a 0-d tensor: wrap a "
            "Dataset of single samples in a DataLoader"
        )
    return len(t)


def is_one_call(data: Any) -> bool:
    """Whether this is what a model is called with once: a dict, a tensor, a tuple of tensors; a list has batches."""
    if isinstance(data, Tensor | Mapping):
        return True
    return isinstance(data, tuple) and len(data) > 0 and all(isinstance(t, Tensor) for t in data)


def may_be_pair(data: Any) -> bool:
    """A tuple of two nests of tensors: (inputs, targets), or two batches? Both are asked of the model."""
    return isinstance(data, tuple) and len(data) == 2 and not _is_pair(data) and not hasattr(data, "_fields")


def _is_pair(data: Any) -> bool:
    """(inputs, targets) rather than a list of two batches: the second item is a tensor, not itself a pair.

    Or a dict in a tuple: of batches that are pairs none is a dict.
    """
    targets = (Tensor, Mapping) if isinstance(data, tuple) else Tensor
    return isinstance(data, tuple | list) and len(data) == 2 and isinstance(data[1], targets)


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
