"""The parameters and buffers of a torch module, read and never changed: selected, checked, copied."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from itertools import pairwise
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.nn.parameter import UninitializedParameter
from torch.nn.utils.parametrizations import _SpectralNorm
from torch.nn.utils.spectral_norm import SpectralNorm

from lanczos_saddle.networks.batches import in_precision
from lanczos_saddle.networks.refusals import quoted
from lanczos_saddle.operators.inference import refuse_inference

Selection: TypeAlias = "str | Sequence[str] | Callable[..., bool]"


def select_parameters(model: nn.Module, patterns: Selection) -> dict[str, nn.Parameter]:
    """The trainable parameters whose name matches one of the fnmatch `patterns`, in the model's order.

    Or those for which a function of (name, parameter), or of the name alone, is true. A tied parameter appears once,
    under its first name; any of its names selects it.

    Raises ValueError when there is none, or when a pattern matches none.
    """
    aliases: dict[nn.Parameter, list[str]] = {}
    for name, p in model.named_parameters(remove_duplicate=False):
        if p.requires_grad:
            aliases.setdefault(p, []).append(name)
    if not aliases:
        frozen = [name for name, _ in model.named_parameters()]
        got = f"{frozen}, none of which has requires_grad" if frozen else "a model without parameters"
        raise ValueError(f"the model must have trainable parameters; got {got}")
    if callable(patterns):
        wanted = _asked(patterns)
        picked = {names[0]: p for p, names in aliases.items() if any(wanted(name, p) for name in names)}
        if not picked:
            raise ValueError(
                "the function in `parameters` must be true of a trainable parameter; it is false of all of "
                f"{[names[0] for names in aliases.values()]}"
            )
        return picked
    patterns = [patterns] if isinstance(patterns, str) else patterns
    if not isinstance(patterns, Iterable):
        raise ValueError(
            "`parameters` are name patterns or a function of (name, parameter); got "
            f"{patterns!r}: leave it out for all, or say parameters='*.weight'"
        )
    patterns = list(patterns)
    if not all(isinstance(pattern, str) for pattern in patterns):
        raise ValueError(
            "`parameters` are name patterns or a function of (name, parameter); got "
            f"{sorted({type(p).__name__ for p in patterns})}: say parameters=lambda name, p: ..."
        )
    matched = {
        pattern: {p for p, names in aliases.items() if any(fnmatchcase(n, pattern) for n in names)}
        for pattern in patterns
    }
    missing = [pattern for pattern in patterns if not matched[pattern]]
    if missing or not patterns:
        raise ValueError(
            "every pattern in `parameters` must match a trainable parameter; "
            f"got {missing or patterns} for {[names[0] for names in aliases.values()]}"
        )
    chosen = set().union(*matched.values())
    return {names[0]: p for p, names in aliases.items() if p in chosen}


def _asked(choice: Callable[..., bool]) -> Callable[[str, Tensor], bool]:
    """The function of the user's, called with what it takes: (name, parameter) or the name."""
    try:
        taken = len([p for p in inspect.signature(choice).parameters.values() if p.default is p.empty])
    except (TypeError, ValueError):
        taken = 2

    def asked(name: str, p: Tensor) -> bool:
        try:
            return bool(choice(*(name, p)[: taken or 2]))
        except Exception as error:  # code of the user's
            raise ValueError(
                "the function in `parameters` takes (name, parameter), or the name, and returns whether it is wanted; "
                f"for {name!r} it raised {quoted(error)}: say parameters=lambda name, p: ..."
            ) from error

    return asked


def unwrapped(model: nn.Module) -> nn.Module:
    """The module inside DataParallel, DistributedDataParallel and `torch.compile`: the same function of theta."""
    while True:
        inner = getattr(model, "_orig_mod", None)
        if inner is None and isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
            inner = model.module
        if not isinstance(inner, nn.Module):
            return model
        model = inner


def refuse_unready(model: nn.Module, chosen: Mapping[str, Tensor]) -> None:
    """Raises ValueError for parameters without numbers (lazy, meta) or in parts on several ranks, and complex ones."""
    _refuse_sharded(model)
    for name, p in model.named_parameters():
        if isinstance(p, UninitializedParameter):
            raise ValueError(
                f"parameters must have values; {name!r} is lazy and has no shape yet: call the model on data once"
            )
        if p.is_meta:
            raise ValueError(
                f"parameters must have values; {name!r} is on the meta device: load the weights, "
                "model.to_empty(device='cpu') and load_state_dict"
            )
    refuse_inference((*model.named_parameters(), *model.named_buffers()))
    _refuse_shared_memory(model)
    for name, t in chosen.items():
        if t.is_complex():
            raise ValueError(
                "parameters must be real, since a Hessian is a matrix of real second derivatives; "
                f"{name!r} is {t.dtype}: store it as real numbers (torch.view_as_real) and use "
                "torch.view_as_complex in forward, or freeze it (requires_grad_(False))"
            )


def _refuse_sharded(model: nn.Module) -> None:
    """Raises ValueError for parameters of which every rank holds a part: FSDP of both kinds, tensor parallel."""
    owners = [(f"module {name!r}", module) for name, module in model.named_modules()]
    for name, thing in (*owners, *((f"parameter {name!r}", p) for name, p in model.named_parameters())):
        kinds = [
            kind for kind in type(thing).__mro__ if kind.__module__.startswith(("torch.distributed.fsdp", TENSORS))
        ]
        if kinds:
            raise ValueError(
                f"every rank must hold all weights; {name} is sharded ({kinds[0].__name__}): collect them, "
                "get_model_state_dict(model, options=StateDictOptions(full_state_dict=True)) of "
                "torch.distributed.checkpoint.state_dict, load them into a plain copy of the model on every rank, and "
                "share the samples, data_parallel(Hessian(plain, loss, share(data))); or leave them where they are, "
                "weight_parallel(model, loss, share(data))"
            )


TENSORS = "torch.distributed.tensor"
"""Where a DTensor is defined."""


def _refuse_shared_memory(model: nn.Module) -> None:
    """Raises ValueError for two parameters in one memory: tied for whoever changes one in place, not for autograd."""
    places: dict[int, list[tuple[int, int, str]]] = {}
    for name, p in model.named_parameters():
        if p.numel() and p.layout == torch.strided:
            first = p.data_ptr()
            last = first + p.element_size() * (1 + sum((n - 1) * s for n, s in zip(p.shape, p.stride(), strict=True)))
            places.setdefault(p.untyped_storage().data_ptr(), []).append((first, last, name))
    for listed in places.values():
        for (_, end, one), (start, _, other) in pairwise(sorted(listed)):
            if start < end:
                raise ValueError(
                    f"parameters must have memory of their own; {one!r} and {other!r} share theirs, and autograd takes "
                    "them for two: tie them as one parameter (other.weight = one.weight), or copy one (.data.clone())"
                )


def module_state(module: nn.Module, dtype: torch.dtype, device: torch.device) -> dict[str, Tensor]:
    """Copies of all parameters and buffers, floating point in `dtype`, under their names; tied ones once."""
    state: dict[str, Tensor] = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    return {name: t.detach().to(device, in_precision(t.dtype, dtype), copy=True) for name, t in state.items()}


def refuse_nonfinite(parameters: Mapping[str, Tensor]) -> None:
    """Raises ValueError when a parameter is NaN or infinite. (Buffers may mean it: masks hold -inf.)"""
    for name, t in parameters.items():
        if (t.is_floating_point() or t.is_complex()) and not bool(t.isfinite().all()):
            raise ValueError(
                f"the model's weights must be finite; got NaN or infinity in {name!r}: the training "
                "diverged, or the file is damaged"
            )


def refuse_randomness(model: nn.Module) -> None:
    """Raises ValueError for modules that draw random numbers or use the statistics of a batch."""
    for name, module in model.named_modules():
        reason = _randomness(module)
        if reason:
            raise ValueError(
                "the loss must be one deterministic function of the parameters; "
                f"module {name!r} ({type(module).__name__}) has {reason}: call "
                "model.eval() first"
            )


def _randomness(module: nn.Module) -> str:
    """What makes the module's output depend on more than its input and parameters; empty if nothing."""
    if isinstance(module, _BatchNorm) and (module.training or module.running_mean is None):
        return "statistics taken from the batch" + ("" if module.training else " (no running statistics)")
    if not module.training:
        return ""
    if isinstance(module, _InstanceNorm) and module.track_running_stats:
        return "running statistics that change"
    if power_steps(module):
        return "a spectral norm that takes another power step at every call"
    if isinstance(module, _DropoutNd) and module.p > 0:
        return f"active dropout, p = {module.p}"
    if isinstance(module, nn.RNNBase | nn.MultiheadAttention) and module.dropout > 0:
        return f"active dropout, p = {module.dropout}"
    return "random slopes" if isinstance(module, nn.RReLU) else ""


def power_steps(module: nn.Module) -> bool:
    """Whether the module divides by the largest singular value u'Wv, with u and v from power steps."""
    hooks = module._forward_pre_hooks.values()
    return isinstance(module, _SpectralNorm) or any(isinstance(hook, SpectralNorm) for hook in hooks)


def common_dtype(parameters: Mapping[str, Tensor]) -> torch.dtype:
    """The one floating-point type of the parameters. Raises ValueError when they have several."""
    found = {p.dtype for p in parameters.values()}
    if len(found) > 1:
        raise ValueError(
            f"the parameters must share one type; got {sorted(map(str, found))}: "
            "pass dtype=torch.float32 or torch.float64"
        )
    return real_dtype(found.pop())


def common_device(parameters: Mapping[str, Tensor]) -> torch.device:
    """The one device of the parameters. Raises ValueError when they are on several."""
    found = {p.device for p in parameters.values()}
    if len(found) > 1:
        got = sorted(map(str, found))
        raise ValueError(f"the parameters must be on one device; got {got}: pass device=...")
    return found.pop()


def real_dtype(dtype: torch.dtype) -> torch.dtype:
    """`dtype` if it is float32 or float64. Raises ValueError otherwise."""
    if dtype not in (torch.float32, torch.float64):
        raise ValueError(f"products are computed in torch.float32 or float64; got {dtype}: pass dtype=...")
    return dtype
