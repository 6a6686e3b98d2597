"""Weights over ranks: each rank has its coordinates of theta, and its share of the samples.

H = weight_parallel(model, loss, share(data))            # weights of the model, or weights=FILE for one on "meta"
H.product_own(V)                                         # (n_r, k) -> (n_r, k), called by all ranks together
counts = count_eigenvalues(H, threshold=1e-4)            # by whole vectors; called by every rank
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lanczos_saddle.distributed.group import TIMEOUT, Group
from lanczos_saddle.distributed.leading import lead
from lanczos_saddle.distributed.over_ranks import require_alike
from lanczos_saddle.distributed.sharded_check import checked
from lanczos_saddle.distributed.sharded_hessian import ShardedHessian
from lanczos_saddle.distributed.shares import digest, refuse_uneven, require_one_cut, require_one_whole
from lanczos_saddle.distributed.weight_sources import Weights
from lanczos_saddle.machine.turns import turn
from lanczos_saddle.networks.batches import refuse_sampling
from lanczos_saddle.networks.curvature import MEMORY
from lanczos_saddle.networks.parameters import (
    Selection,
    common_device,
    common_dtype,
    real_dtype,
    refuse_randomness,
    select_parameters,
    unwrapped,
)
from lanczos_saddle.networks.refusals import bytes_of, device_of, refuse_loss
from lanczos_saddle.operators.inference import differentiable


@differentiable
def weight_parallel(
    model: torch.nn.Module,
    loss: Callable[..., Any],
    data: Any,
    *,
    weights: str | Path | None = None,
    parameters: Selection = "*",
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    batch_weight: Callable[[Any], float | Tensor] | None = None,
    collate: Callable[[Sequence[Any]], Any] | None = None,
    memory: int = MEMORY,
    fidelity: bool = True,
    timeout: float = TIMEOUT,
) -> ShardedHessian:
    """The Hessian of all ranks' samples, at weights of which each rank keeps its coordinates alone.

    Args:
        model: the same on every rank, with its weights, or with FSDP2 or DTensor parameters (on a mesh of one
            dimension, all ranks), or on the meta device. It is copied without its parameters: let yours go afterwards.
        loss: a function or module of (outputs, targets), as of `Hessian`.
        data: this rank's share of the samples, as of `Hessian`; None where it has none.
        weights: the file of a model on the meta device, .safetensors or of torch.save; each rank reads its part.
        parameters, dtype, device, batch_weight, collate: as of `Hessian`. What is not selected is cut over ranks, too.
        memory: bytes for activations of a chunk of samples, and one layer's parameters with those of k directions.
        fidelity: compare products, on a few samples of all ranks, with those of one process, or where no rank has the
            whole model with differences of gradients, and these with differences of values.
        timeout: seconds without a sign of life after which a rank is given up.

    Called by all ranks of the default process group, together.

    Raises ValueError on every rank where there is no process group; where ranks have other models or weights; for
    hooks, for parameters that are used outside of the module that has them, for layers that write into their inputs or
    are given more than tensors, and where products are not those of model and loss.
    """
    group = Group(None, timeout)
    with turn():
        model = unwrapped(model)
        group.attempted(lambda: check_given(model, loss, data, batch_weight, group.size))
        require_one_cut(group, data)
        place = group.attempted(lambda: _place(model, device))
        group = Group(place, timeout)
        chosen = group.attempted(lambda: select_parameters(model, parameters))
        kind = group.attempted(lambda: _kind(chosen, dtype))
        require_one_whole(group, data)
        source = group.attempted(lambda: Weights(model, weights))
        require_alike(group.gathered(group.attempted(lambda: _facts(model, loss, chosen, kind, source))), "models")
        matrix = ShardedHessian(group, {name: p.numel() for name, p in chosen.items()}, kind, place)
        matrix.memory = bytes_of(memory)
        matrix.take(model, source)
        matrix.settle(loss, data, collate, batch_weight)
        matrix.lead = lead
        if fidelity:
            options = {"parameters": parameters, "batch_weight": batch_weight, "memory": matrix.memory}
            matrix.found = checked(matrix, source, (model, loss, options))
    return matrix


def check_given(model: Any, loss: Any, data: Any, batch_weight: Any, ranks: int) -> None:
    """Raises ValueError for what can be seen without work."""
    if not isinstance(model, torch.nn.Module):
        raise ValueError(f"model must be a torch.nn.Module; got {type(model).__name__}")
    if loss is None:
        raise ValueError(
            "weights over ranks take the loss as a function of (outputs, targets); got None: pass, say, "
            "loss=lambda out, y: cross_entropy(out.logits.flatten(0, 1), y.flatten())"
        )
    refuse_loss(loss, batch_weight)
    refuse_randomness(model)
    if data is not None:
        refuse_sampling(data)
        refuse_uneven(data, ranks)


def _place(model: torch.nn.Module, device: torch.device | str | None) -> torch.device:
    """Where a rank works: where it is asked to, or where its weights are."""
    found = device_of(device) if device is not None else common_device(dict(model.named_parameters()))
    if found.type != "meta":
        return found
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


def _kind(chosen: Mapping[str, Tensor], dtype: torch.dtype | None) -> torch.dtype:
    return common_dtype(chosen) if dtype is None else real_dtype(dtype)


def _facts(
    model: torch.nn.Module, loss: Any, chosen: Mapping[str, Tensor], dtype: torch.dtype, source: Weights
) -> dict[str, Any]:
    """What must be the same on all ranks."""
    buffers = {name: source.buffers.get(name, t) for name, t in model.named_buffers()}
    of_loss = loss.state_dict().values() if isinstance(loss, torch.nn.Module) else ()  # weights of classes
    held = [*(source.own.values() if source.whole else ()), *buffers.values(), *of_loss]
    return {
        "kind": type(model).__name__,
        "names": [(name, tuple(p.shape)) for name, p in chosen.items()],
        "dtype": dtype,
        "state": digest(held, source.path and source.path.name),
    }
