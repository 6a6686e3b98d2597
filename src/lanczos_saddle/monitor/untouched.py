"""Training is not changed by a bit: what is measured is a copy, and global state is put back.

    copied       model and loss by one deep copy, so that a loss which holds the model holds the copy, in eval mode
    untouched    random states (torch, its devices, NumPy, Python), default type, gradient mode, autocast, anomaly mode

Gradients, optimizer states, buffers and modes belong to the original and are never written. Module hooks go with the
copy: one that writes elsewhere writes during a measurement, too.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lanczos_saddle.networks.parameters import unwrapped

SHARDED = ("FullyShardedDataParallel", "FSDP")
"""Names of classes that leave a part of the parameters on each rank."""


def copied(model: nn.Module, loss: Any, shared: Iterable[Any] = ()) -> tuple[nn.Module, Any]:
    """(the model without what wraps it, the loss), copied together, every module in eval mode.

    `shared`: objects that are referred to and not copied, such as a trainer. A tensor attribute with a graph behind it
    is copied without the graph. Modes are set as attributes: ``eval()`` of some models changes weights.

    Raises ValueError for parameters that are spread over ranks, and whatever ``copy.deepcopy`` raises.
    """
    refuse_sharded(model)
    model = unwrapped(model)
    memo: dict[int, Any] = {id(each): each for each in shared}
    for module in (*model.modules(), *(loss.modules() if isinstance(loss, nn.Module) else ())):
        for value in vars(module).values():
            if isinstance(value, Tensor) and not value.is_leaf:
                memo[id(value)] = value.detach().clone()
    twin, twin_loss = copy.deepcopy((model, loss), memo)
    for module in (*twin.modules(), *(twin_loss.modules() if isinstance(twin_loss, nn.Module) else ())):
        module.training = False
    return twin, twin_loss


def refuse_sharded(model: nn.Module) -> None:
    """Raises ValueError where no rank holds all numbers of the parameters (FSDP, DTensor, ZeRO-3)."""
    wrapped = [type(m).__name__ for m in model.modules() if type(m).__name__ in SHARDED]
    spread = [name for name, p in model.named_parameters() if type(p.data).__name__ == "DTensor" or hasattr(p, "ds_id")]
    if wrapped or spread:
        raise ValueError(
            f"a monitor needs all parameters on one rank; {(wrapped or spread)[0]!r} is spread over ranks: save a full "
            "state dict and count that checkpoint"
        )


@contextmanager
def untouched(device: torch.device) -> Iterator[None]:
    """Everything global that a measurement may change is afterwards what it was; autocast and anomaly mode are off.

    Anomaly mode looks for faults in the training; of a measurement it would print every product as one.
    """
    kinds = {"cpu", device.type} & {"cpu", "cuda", "xpu", "mps"}
    with ExitStack() as stack:
        stack.callback(torch.set_default_dtype, torch.get_default_dtype())
        stack.callback(random.setstate, random.getstate())
        stack.callback(_set_numpy, np.random.get_state())  # noqa: NPY002
        stack.enter_context(torch.random.fork_rng([]))
        if torch.cuda.is_available() and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            stack.callback(torch.cuda.set_rng_state_all, torch.cuda.get_rng_state_all())
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        if torch.is_anomaly_enabled():
            stack.enter_context(torch.autograd.set_detect_anomaly(False))
        for kind in sorted(kinds):
            stack.enter_context(torch.autocast(kind, enabled=False))
        yield


def _set_numpy(state: Any) -> None:
    np.random.set_state(state)  # noqa: NPY002
