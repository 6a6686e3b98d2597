"""The samples that are watched: fixed before training, the same at every count."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from lanczos_saddle.networks.batches import Batch, is_one_call, may_be_pair, read_batch, read_call


def fixed(data: Any, samples: int | None, *, seed: int, calls: bool) -> Any:
    """The data as `Hessian` takes them, at most about `samples` of them; loaders are passed over once, here.

    Of tensors `samples` are drawn without replacement, from a generator of their own with the seed; all are taken as
    they are, not copied. Of batches the first ones are kept until there are `samples`. A `DataLoader` is read through a
    copy: its iterators, workers and generators stay as they are. `calls`: a batch is what the model is called with.

    Raises ValueError for an iterator, which could be passed over only once, and for data of another form.
    """
    read = read_call if calls else read_batch
    if isinstance(data, Iterator):
        raise ValueError(
            f"the same data are counted again and again; got a one-shot {type(data).__name__}: pass the loader itself, "
            "or a list of batches"
        )
    if is_one_call(data) if calls else _is_one_pair(data):
        return data if samples is None else _drawn(read(data), samples, seed, calls)
    if isinstance(data, tuple | list) and samples is None:
        return data
    return list(_first(_twin(data), samples, read, calls))


def _is_one_pair(data: Any) -> bool:
    return isinstance(data, tuple | list) and len(data) == 2 and (isinstance(data[1], Tensor) or may_be_pair(data))


def _drawn(batch: Batch, samples: int, seed: int, calls: bool) -> Any:
    if not batch.divisible or batch.size <= samples:
        return _as_given(batch, calls)
    order = torch.randperm(batch.size, generator=torch.Generator().manual_seed(seed))
    return _as_given(batch.chosen(order[:samples].sort().values), calls)


def _first(data: Any, samples: int | None, read: Any, calls: bool) -> Iterator[Any]:
    taken = 0
    for item in data:
        batch = read(item)
        if samples is not None and taken + batch.size >= samples:
            yield _as_given(batch.part(0, samples - taken), calls)
            return
        taken += batch.size
        yield _as_given(batch, calls)
    if not taken:
        raise ValueError("data must hold at least one batch; got an empty iterable")


def _as_given(batch: Batch, calls: bool) -> Any:
    return batch.inputs if calls else (batch.inputs, batch.targets)


def _twin(data: Any) -> Any:
    """The loader again, with iterators and generators of its own."""
    if not isinstance(data, DataLoader):
        return data
    twin = copy.copy(data)
    twin._iterator = None
    twin.__dict__["persistent_workers"] = False
    memo: dict[int, Any] = {id(data.dataset): data.dataset}
    for name in ("generator", "sampler", "batch_sampler"):
        twin.__dict__[name] = copy.deepcopy(vars(data).get(name), memo)
    return twin
