"""The user's own tensors with other values in them for a while; everything is given back, whatever happens.

    placed      each live tensor holds another value: whoever refers to it, a closure too, sees that value
    pristine    what a forward pass leaves in a module's attributes, such as a cache, is forgotten

Values are exchanged through ``Tensor.data``, as ``Module.to`` does it: the objects stay, with their optimizer states,
and no autograd graph of the caller's is touched. Another thread would see the placed values: those that count take
turns (`machine.turns`).
"""

from __future__ import annotations

import copy
from collections import OrderedDict, defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

CONTAINERS = (dict, list, set, OrderedDict, defaultdict)

LARGEST = 10_000
"""Containers of more items are data of the user's rather than the state of a forward pass: they are not copied."""


@contextmanager
def placed(values: Iterable[tuple[Tensor, Tensor]], wanted: Iterable[Tensor] = ()) -> Iterator[None]:
    """Let every live tensor (first) hold a copy of the value beside it; `wanted` ones require a gradient meanwhile.

    The type and device of a value may be another one. Gradients of the live tensors are put aside, too.
    """
    saved = []
    needed = {id(t) for t in wanted}
    try:
        for live, value in values:
            leaf = live.is_leaf
            saved.append((live, live.data, live.grad if leaf else None, live.requires_grad, leaf))
            if leaf:
                live.grad = None
            live.data = value.detach().clone()
            if id(live) in needed:
                live.requires_grad_(True)
        yield
    finally:
        for live, data, grad, required, leaf in reversed(saved):
            if leaf:
                live.grad = None
            live.data = data
            if leaf:
                live.requires_grad_(required)
                live.grad = grad


@contextmanager
def pristine(roots: Iterable[nn.Module]) -> Iterator[None]:
    """Attributes of the modules are afterwards what they were: each pass starts from the same state."""
    kept = [(vars(module), dict(vars(module))) for root in roots for module in root.modules()]
    held = [(v, copy.copy(v) if v else ()) for _, attributes in kept for v in attributes.values() if _is_container(v)]
    try:
        yield
    finally:
        for attributes, before in kept:
            for name in attributes.keys() - before.keys():
                del attributes[name]
            attributes.update(before)
        for container, content in held:
            _refill(container, content)


class WithoutBackward(TorchFunctionMode):
    """``loss.backward()`` and ``torch.autograd.backward(loss)`` do nothing.

    A closure for an optimizer calls them, and its graph is still needed.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Calls every function but this one."""
        return None if func in (Tensor.backward, torch.autograd.backward) else func(*args, **(kwargs or {}))


class DenseEmbeddings(TorchFunctionMode):
    """Embeddings with dense gradients: sparse ones, of the same numbers, have no second derivative."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Calls every function but this one."""
        kwargs = dict(kwargs or {})
        if func is torch.embedding:
            args, kwargs["sparse"] = args[:4], False
        elif func is torch.nn.functional.embedding:
            args, kwargs["sparse"] = args[:6], False
        return func(*args, **kwargs)


class WrittenOut(TorchFunctionMode):
    """Weight normalization as g v / |v|, in elementary operations.

    The fused operation has a wrong second derivative in torch 2.13.0 (27 % off for dim 0 or the last one).
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Calls every function but this one."""
        return weight_norm(*args, **(kwargs or {})) if func is torch._weight_norm else func(*args, **(kwargs or {}))


def weight_norm(v: Tensor, g: Tensor, dim: int = 0) -> Tensor:
    """g v / |v|, norms over all dimensions but `dim`; over all of them where dim is -1, as torch has it."""
    dims = [d for d in range(v.ndim) if d != dim]
    return v * (g / v.square().sum(dims, keepdim=True).sqrt())


def _is_container(value: Any) -> bool:
    """Of Python's own kinds: a subclass may refuse to be written, as a frozen configuration does."""
    return type(value) in CONTAINERS and len(value) <= LARGEST


def _refill(container: Any, content: Any) -> None:
    if not content and not container:  # most of a module's
        return
    if isinstance(container, list):
        container[:] = content
    else:
        container.clear()
        container.update(content)


def stale(roots: Iterable[nn.Module]) -> dict[str, Tensor]:
    """Attributes that are tensors with a graph behind them: computed from parameters, and kept."""
    return {
        f"{name}.{key}".lstrip("."): value
        for root in roots
        for name, module in root.named_modules()
        for key, value in vars(module).items()
        if isinstance(value, Tensor) and value.grad_fn is not None
    }


def flat(tensors: Iterable[Tensor]) -> Tensor:
    """All entries one after the other, (N,)."""
    return torch.cat([t.reshape(-1) for t in tensors])
