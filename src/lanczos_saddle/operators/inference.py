"""Work under a caller's `torch.inference_mode`, whose tensors nothing differentiates."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

F = TypeVar("F", bound=Callable[..., Any])


def differentiable(function: F) -> F:
    """The function, which leaves inference mode while it runs."""

    @functools.wraps(function)
    def outside(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_inference_mode_enabled():
            return function(*args, **kwargs)
        with torch.inference_mode(False), torch.no_grad():
            return function(*args, **kwargs)

    return cast(F, outside)


def refuse_inference(named: Iterable[tuple[str, Tensor]]) -> None:
    """Raises ValueError for parameters or buffers that were made under `torch.inference_mode`."""
    found = [name for name, t in named if t.is_inference()]
    if found:
        raise ValueError(
            "parameters must be tensors that can be differentiated; "
            f"{found[0]!r} was made under torch.inference_mode(), which rules that out: pass copy.deepcopy(model), "
            "made outside of it (of a tensor t.clone())"
        )
