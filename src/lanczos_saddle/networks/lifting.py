"""Float32 numbers in a function that is evaluated in float64: closed-over data, class weights, zeros of a forward pass.

Parameters, buffers and the data of a problem are converted; what a function refers to by itself is not, and most of
torch's operations take one type only. Here a call that computes with constants of float32 has them converted first,
and one that mixes types all of its numbers. Every float32 number is a float64 number, so constants stay what they are,
and the arithmetic is that of float64.

What was computed from parameters in float32, inside a model that casts, is converted where it meets float64: its
rounding stays, and the graph shows its type (`survey`). Views stay views, and what a call writes into stays what it is.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.nn.utils.rnn import PackedSequence
from torch.overrides import TorchFunctionMode

from lanczos_saddle.networks.batches import in_precision

AS_GIVEN = {torch.autograd.grad, torch.autograd.backward, torch.result_type, torch.can_cast, torch.promote_types}
"""Functions that ask which tensor is given, or of which type, rather than for its numbers."""

BY_NAME = {"__get__", "__set__", "set_", "backward", "register_hook", "retain_grad", "data_ptr", "untyped_storage"}
"""The same, by name."""

# fmt: off
VIEWS = {
    "__getitem__", "alias", "as_strided", "chunk", "contiguous", "detach", "diagonal", "expand", "expand_as", "flatten",
    "imag", "movedim", "moveaxis", "narrow", "permute", "ravel", "real", "reshape", "reshape_as", "select", "split",
    "squeeze", "swapaxes", "swapdims", "t", "tensor_split", "transpose", "unbind", "unflatten", "unfold", "unsqueeze",
    "view", "view_as", "view_as_complex", "view_as_real",
}
# fmt: on
"""What gives another look at the same numbers, which somebody may write through."""

WRITES = {"__setitem__", "__iadd__", "__isub__", "__imul__", "__itruediv__", "__imatmul__", "__ipow__"}


@contextmanager
def lifted(dtype: torch.dtype) -> Iterator[None]:
    """Constants of a less precise type, and what meets numbers of `dtype`, are converted to that."""
    recurrent = register_module_forward_pre_hook(_Inputs(dtype))
    try:
        with Lifting(dtype):
            yield
    finally:
        recurrent.remove()


class Lifting(TorchFunctionMode):
    """Converts the less precise arguments of a call; a tensor that is made of none is made as ever, then converted."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype, self.eps = dtype, torch.finfo(dtype).eps

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Calls the function on numbers of one type."""
        kwargs, name = kwargs or {}, getattr(func, "__name__", "")
        found: list[Tensor] = []
        _gather((args, kwargs), found)
        if not found:
            return self.convert(func(*args, **kwargs))
        if func in AS_GIVEN or name in BY_NAME or not self._wanted(found, view=name in VIEWS):
            return func(*args, **kwargs)
        written = name in WRITES or (name.endswith("_") and not name.endswith("__"))
        first = args[:1] if written else ()
        out = {"out": kwargs["out"]} if "out" in kwargs else {}
        return func(*first, *self.convert(args[len(first) :]), **(self.convert(kwargs) | out))

    def _wanted(self, found: list[Tensor], *, view: bool) -> bool:
        """Whether there are less precise constants, or types are mixed."""
        numbers = [t for t in found if t.is_floating_point() or t.is_complex()]
        less = [t for t in numbers if torch.finfo(t.dtype).eps > self.eps]
        mixed = 0 < len(less) < len(numbers)
        return mixed or (not view and any(not t.requires_grad for t in less))

    def convert(self, given: Any) -> Any:
        """The same nest with tensors of less precise numbers converted."""
        if isinstance(given, Tensor):
            if not (given.is_floating_point() or given.is_complex()):
                return given
            rounded = torch.finfo(given.dtype).eps > self.eps
            return given.to(in_precision(given.dtype, self.dtype)) if rounded else given
        if isinstance(given, PackedSequence):
            return given._replace(data=self.convert(given.data))
        if type(given) in (list, tuple):
            return type(given)(self.convert(item) for item in given)
        if type(given) is dict:
            return {key: self.convert(item) for key, item in given.items()}
        return given


class _Inputs:
    """A hook before forward: torch's recurrent modules compare types by themselves, before any operation.

    Hooks are of all threads, this one acts in its own.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        self.lifting, self.thread = Lifting(dtype), threading.get_ident()

    def __call__(self, module: nn.Module, args: Any) -> Any:
        concerned = isinstance(module, nn.RNNBase) and threading.get_ident() == self.thread
        return self.lifting.convert(args) if concerned else None


def _gather(given: Any, found: list[Tensor]) -> None:
    """All tensors of a nest."""
    if isinstance(given, Tensor):
        found.append(given)
    elif isinstance(given, tuple | list):
        for item in given:
            _gather(item, found)
    elif isinstance(given, dict):
        for item in given.values():
            _gather(item, found)
