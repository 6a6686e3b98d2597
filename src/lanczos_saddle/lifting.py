"""Float32 numbers in a function that is evaluated in float64: closed-over data, class weights, zeros of a forward pass.

Parameters, buffers and the data of a problem are converted; what a function refers to by itself is not, and most of
torch's operations take one type only. Here a call that mixes types has its less precise numbers converted first. Every
float32 number is a float64 number, so constants stay what they are, and the arithmetic is that of float64.

What was computed from parameters in float32, inside a model that casts, is converted in the same way: its rounding
stays, and the graph shows its type (`survey`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.nn.utils.rnn import PackedSequence
from torch.overrides import TorchFunctionMode

from lanczos_saddle.batches import in_precision

AS_GIVEN = {torch.autograd.grad, torch.autograd.backward, Tensor.backward, torch.result_type, torch.can_cast}
"""Functions that ask which tensor is given, or of which type, rather than for its numbers."""

WRITES = ("__setitem__", "__iadd__", "__isub__", "__imul__", "__itruediv__", "__imatmul__", "__ipow__")


@contextmanager
def lifted(dtype: torch.dtype) -> Iterator[None]:
    """Calls that mix floating-point types convert to `dtype` what is less precise; new constants are of that type."""
    recurrent = register_module_forward_pre_hook(_Inputs(dtype))
    try:
        with Lifting(dtype):
            yield
    finally:
        recurrent.remove()


class Lifting(TorchFunctionMode):
    """Converts the less precise arguments of a call that has some of `dtype`; what a call writes into stays as it is.

    A tensor of numbers that is made without a type of its own is made as ever, then converted.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype, self.eps = dtype, torch.finfo(dtype).eps

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Calls the function on numbers of one type."""
        kwargs = kwargs or {}
        found: list[Tensor] = []
        _gather((args, kwargs), found)
        if not found:
            made = func(*args, **kwargs)
            return made if kwargs.get("dtype") is not None else self.convert(made)
        name = getattr(func, "__name__", "")
        if len(found) == 1 or func in AS_GIVEN or name in ("__set__", "set_") or not self._mixes(found):
            return func(*args, **kwargs)
        written = name in WRITES or (name.endswith("_") and not name.endswith("__"))
        first = args[:1] if written else ()
        out = {"out": kwargs["out"]} if "out" in kwargs else {}
        return func(*first, *self.convert(args[len(first) :]), **(self.convert(kwargs) | out))

    def _mixes(self, found: list[Tensor]) -> bool:
        kinds = {t.dtype.to_real() for t in found if t.is_floating_point() or t.is_complex()}
        return self.dtype in kinds and len(kinds) > 1

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
    """A hook before forward: torch's recurrent modules compare types by themselves, before any operation."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.lifting = Lifting(dtype)

    def __call__(self, module: nn.Module, args: Any) -> Any:
        return self.lifting.convert(args) if isinstance(module, nn.RNNBase) else None


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
