"""A model without its parameters: in their place stands what says, at any use, that they are elsewhere."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from lanczos_saddle.networks.batches import in_precision

ASKED = {
    Tensor.shape.__get__,  # type: ignore[attr-defined]
    Tensor.dtype.__get__,  # type: ignore[attr-defined]
    Tensor.ndim.__get__,  # type: ignore[attr-defined]
    Tensor.layout.__get__,  # type: ignore[attr-defined]
    Tensor.requires_grad.__get__,  # type: ignore[attr-defined]
    Tensor.size,
    Tensor.dim,
    Tensor.numel,
    Tensor.element_size,
    Tensor.is_floating_point,
    Tensor.is_complex,
}
"""What may be asked of a parameter that is not there."""


class Touched(Exception):
    """A parameter was used where it is not collected."""

    def __init__(self, name: str) -> None:
        super().__init__(f"parameter {name!r} is used outside of its layer")
        self.name = name


class Placeholder(Tensor):
    """Shape, type and device of a parameter; any other use raises `Touched`."""

    parameter: str
    place: torch.device

    @classmethod
    def of(cls, name: str, p: Tensor, dtype: torch.dtype, device: torch.device) -> Placeholder:
        """In the place of the parameter p."""
        empty = torch.empty(p.shape, dtype=in_precision(p.dtype, dtype), device="meta")
        made: Placeholder = empty.as_subclass(cls)
        made.parameter, made.place = name, device
        return made

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Answers what is asked of the form, and refuses the rest."""
        if func == Tensor.device.__get__:
            return args[0].place
        if func in ASKED:
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args, **(kwargs or {}))
        raise Touched(_first([*args, *(kwargs or {}).values()]).parameter)


def _first(arguments: list[Any]) -> Placeholder:
    """The placeholder among the arguments, within nests too."""
    return next(leaf for leaf in tree_leaves(arguments) if isinstance(leaf, Placeholder))


HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def refuse_hooks(model: nn.Module) -> None:
    """Raises ValueError for hooks: what they read and write is not part of a layer that is evaluated again."""
    for name, module in model.named_modules():
        found = [kind for kind in HOOKS if getattr(module, kind, None)]
        if found:
            raise ValueError(
                f"a model whose weights are cut over ranks has no hooks; module {name!r} has some "
                f"({found[0].strip('_')}): write what they do into forward, or remove them (of weight_norm and "
                "spectral_norm: torch.nn.utils.parametrizations)"
            )
    for name, p in model.named_parameters():
        if p._backward_hooks:
            raise ValueError(
                f"a model whose weights are cut over ranks has no hooks; parameter {name!r} has one: remove it"
            )


def without_parameters(
    model: nn.Module, dtype: torch.dtype, device: torch.device, buffers: Mapping[str, Tensor]
) -> nn.Module:
    """A copy of the model with placeholders for parameters, tied ones once, and these buffers, converted.

    Raises ValueError for a model that cannot be copied.
    """
    memo: dict[int, Any] = {}
    for name, p in model.named_parameters():
        memo[id(p)] = Placeholder.of(name, p, dtype, device)
    for name, t in model.named_buffers():
        value = buffers.get(name, t)
        memo[id(t)] = value.detach().to(device, in_precision(value.dtype, dtype), copy=True)
    alive = [*model.parameters(), *model.buffers()]  # as long as they are known by their places
    try:
        made = copy.deepcopy(model, memo)
    except Exception as error:  # code of anybody's
        raise ValueError(
            f"a model that is cut over ranks is copied without its parameters; copying raised {type(error).__name__}: "
            f"{' '.join(str(error).split())[:200]}: drop what cannot be copied (open files, locks) from its attributes"
        ) from error
    del alive
    return made
