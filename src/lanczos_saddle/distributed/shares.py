"""The samples of one rank: shares that together hold every sample once, of whatever sizes, none for some.

    one pair, one batch                   rows r, r + R, r + 2R, ... of every tensor (R ranks, r this one)
    a DataLoader over a dataset           samples r, r + R, ..., whether it had a DistributedSampler or not
    a list or another re-iterable         batches r, r + R, ...; all of it is read, and it must come in the same order

A ``DistributedSampler`` makes shares equal by repeating samples, or by leaving some out: `share` takes its data set
without it. Shares that a loader with one has made already are taken where they are right, refused where they are not.

Every share knows a hash of the whole it was cut from, which ranks compare before they count (`whole_digest`): data that
were drawn, split or shuffled without a seed are others on every rank, and their parts no data at all.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, DistributedSampler, IterableDataset, RandomSampler, Sampler
from torch.utils.data import SequentialSampler as InOrder

from lanczos_saddle.distributed.group import Group
from lanczos_saddle.networks.batches import PartOfList, map_tensors, mark_part, part_of, refuse_sampling, tensors

SEEN = 8
"""Samples of a data set, and its last one, that ranks compare."""


class EveryNth:
    """Batches `first`, `first` + `stride`, ... of a re-iterable, which is read whole at every pass."""

    def __init__(self, source: Any, first: int, stride: int) -> None:
        self.source, self.first, self.stride = source, first, stride

    def __iter__(self) -> Iterator[Any]:
        return islice(iter(self.source), self.first, None, self.stride)


class EveryNthSample(Sampler[int]):
    """Positions `first`, `first` + `stride`, ... below `size`, of a data set that every rank has whole."""

    def __init__(self, first: int, size: int, stride: int) -> None:
        self.chosen = range(first, size, stride)

    def __len__(self) -> int:
        return len(self.chosen)

    def __iter__(self) -> Iterator[int]:
        return iter(self.chosen)


def share(data: Any, *, rank: int | None = None, ranks: int | None = None) -> Any:
    """This rank's part of data that every rank has whole; None where there is nothing left for it.

        H = data_parallel(None if part is None else Hessian(model, loss, part))      # part = share(data)

    Rank and number of ranks are those of the process group if not given. Nothing is said to other ranks. The parts of
    a pair are copies of their rows: the whole may be let go. Cost: a hash of data that are in memory.

    Raises ValueError for loaders whose samplers may give each rank another order: with these, nothing says that parts
    of all ranks together are all samples; and for generators, which can be passed over once.
    """
    rank = dist.get_rank() if rank is None else rank
    ranks = dist.get_world_size() if ranks is None else ranks
    if isinstance(data, Iterator):
        raise ValueError(
            "every product passes over the data again; got a one-shot "
            f"{type(data).__name__}: use list(data), the same on every rank"
        )
    if not 0 <= rank < ranks:
        raise ValueError(f"a rank is one of 0 to {ranks - 1}; got rank={rank} of ranks={ranks}")
    if isinstance(data, DataLoader):
        return _of_loader(data, rank, ranks)
    if _is_one_batch(data):
        return _rows(data, rank, ranks)
    if isinstance(data, list | tuple):
        own = data[rank::ranks]
        return PartOfList(own, _digest_of_all(data)) if own else None
    return EveryNth(data, rank, ranks) if next(islice(iter(data), rank, None), None) is not None else None


def refuse_uneven(data: Any, ranks: int) -> None:
    """Raises ValueError for a loader whose `DistributedSampler` repeats samples, leaves some out, or is of others."""
    sampler = _sampler(data)
    if not isinstance(sampler, DistributedSampler):
        return
    size = len(sampler.dataset)  # type: ignore[arg-type]
    way_out = "pass data=lanczos_saddle.share(loader), which takes every sample of its data set once"
    if sampler.num_replicas != ranks:
        raise ValueError(
            f"the shares of {ranks} ranks together are the data; got a DistributedSampler for {sampler.num_replicas}: "
            f"{way_out}"
        )
    if sampler.total_size != size or getattr(data, "drop_last", False):
        changed = sampler.total_size - size
        what = f"repeats {changed}" if changed > 0 else f"leaves out {-changed}" if changed else "drops a last batch"
        raise ValueError(
            f"every sample counts once; got a DistributedSampler that {what} of {size} samples on {ranks} ranks: "
            f"{way_out}"
        )


def require_one_cut(group: Group, data: Any) -> None:
    """Raises ValueError where the loaders of ranks have `DistributedSampler`s that do not cut one data set together.

    Called by all ranks, by those without samples too.
    """
    sampler, known = _sampler(data), None
    if isinstance(sampler, DistributedSampler):
        order = (sampler.seed, sampler.epoch) if sampler.shuffle else None
        known = (sampler.rank, (len(sampler.dataset), sampler.shuffle, order))  # type: ignore[arg-type]
    said = group.gathered(known)
    if not any(said):
        return
    without = [rank for rank, one in enumerate(said) if one is None]
    parts = [one[0] for one in said if one is not None]
    forms = {one[1] for one in said if one is not None}
    fault = ""
    if without:
        fault = f"one on some ranks and none on rank {without[0]}"
    elif sorted(parts) != list(range(group.size)):
        fault = f"rank= {parts} on ranks 0 to {group.size - 1}"
    elif len(forms) > 1:
        fault = "another number of samples, seed or epoch on some ranks, whose parts may overlap"
    if fault:
        raise ValueError(
            f"every sample counts once: DistributedSamplers of all ranks cut one data set together; got {fault}: "
            "pass data=lanczos_saddle.share(loader), which takes every sample of its data set once"
        )


def _of_loader(loader: DataLoader[Any], rank: int, ranks: int) -> Any:
    """The same loader over a part of the samples of its data set."""
    sampler, dataset = _sampler(loader), loader.dataset
    if isinstance(dataset, IterableDataset):
        return EveryNth(loader, rank, ranks) if next(islice(iter(loader), rank, None), None) is not None else None
    refuse_sampling(loader)
    known = isinstance(sampler, DistributedSampler) or type(sampler) in (InOrder, RandomSampler)
    size = len(dataset)  # type: ignore[arg-type]
    if not known or loader.batch_size is None or type(loader.batch_sampler) is not BatchSampler:
        kind = type(sampler if not known else loader.batch_sampler).__name__
        raise ValueError(
            f"ranks share the data set of a loader with torch's own sampler and batch_size=; got {kind}, which may "
            "order samples differently on every rank: make each rank's share yourself, or pass data = list(loader)"
        )
    if loader.drop_last:
        if not isinstance(sampler, InOrder) and size % loader.batch_size:
            raise ValueError(
                f"every sample counts once; got drop_last=True with {type(sampler).__name__}, which leaves out some of "
                f"{size}: pass drop_last=False"
            )
        size -= size % loader.batch_size
    chosen = EveryNthSample(rank, size, ranks)
    if not len(chosen):
        return None
    return DataLoader(
        dataset,
        batch_size=loader.batch_size,
        sampler=chosen,
        collate_fn=loader.collate_fn,
        num_workers=loader.num_workers,
        pin_memory=loader.pin_memory,
        worker_init_fn=loader.worker_init_fn,
        multiprocessing_context=loader.multiprocessing_context,
        persistent_workers=loader.persistent_workers,
    )


def _sampler(data: Any) -> Any:
    """That of a loader, within its own batch sampler; None of other data."""
    if not isinstance(data, DataLoader):
        return None
    return getattr(data.batch_sampler, "sampler", data.sampler)


def _is_one_batch(data: Any) -> bool:
    """A tensor, a dict, a tuple of tensors, or a pair of nests of tensors, all of one length; a list is of batches."""
    if isinstance(data, Tensor | Mapping):
        return True
    if isinstance(data, list):
        return len(data) == 2 and all(isinstance(t, Tensor) for t in data)
    found = tensors(data) if isinstance(data, tuple) else []
    return bool(found) and len({len(t) if t.ndim else -1 for t in found}) == 1


def _rows(batch: Any, rank: int, ranks: int) -> Any:
    """Rows of every tensor, copied; all of a batch that has none in common on rank 0."""
    found = tensors(batch)
    lengths = {len(t) if t.ndim and t.layout == torch.strided and not t.is_nested else -1 for t in found}
    if len(lengths) != 1 or -1 in lengths:
        return batch if rank == 0 else None
    if rank >= lengths.pop():
        return None
    return mark_part(map_tensors(lambda t: t.detach()[rank::ranks].clone(), batch), digest(found))


def require_one_whole(group: Group, data: Any, known: str = "") -> None:
    """Raises ValueError where shares of ranks were cut from data that are not the same on all; called by all.

    `known`: the hash of the whole, where that is not to be found in the data any more. Cost: a pass over what is read
    again each time, without an evaluation; of a loader's data set a few samples.
    """
    group.require_same(
        group.attempted(lambda: known or whole_digest(data)),
        "data that every rank has whole, to take its share of, must be the same in the same order on all: give what "
        "draws, splits or shuffles them a generator with one seed (random_split, too), or make shares yourself",
    )


def whole_digest(source: Any) -> str:
    """Of what a share was cut from, the batches or a few samples; empty of what was not cut here."""
    known = part_of(source)
    if known:
        return known
    if isinstance(source, EveryNth):
        return _digest_of_all(source.source)
    if not isinstance(_sampler(source), EveryNthSample):
        return ""
    dataset: Any = source.dataset
    size = len(dataset)
    few = sorted({size * i // SEEN for i in range(SEEN)} | {size - 1})
    return digest([t for i in few for t in tensors(source.collate_fn([dataset[i]]))], size)


def _digest_of_all(batches: Iterable[Any]) -> str:
    return digest([], *(digest(tensors(batch)) for batch in batches))


def digest(found: list[Tensor], *said: object) -> str:
    """SHA-256 of tensors, with their shapes and types, and of what is said of them."""
    total = hashlib.sha256(repr(said).encode())
    for t in (part for one in found for part in (one.unbind() if one.is_nested else (one,))):
        dense = t.detach().to_dense() if t.layout != torch.strided else t.detach()
        total.update(f"{dense.dtype} {tuple(dense.shape)}".encode())
        total.update(dense.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()
