"""What is said where an argument cannot be used, or where code of the user's raises: one line, with the way out.

A message says what, the rule, what came, and a way out. Torch's own messages run over many lines, or advise what does
not help here; they are shortened, and the way out is added where the message tells which one it is (`way_out`).
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

LONGEST = 240
"""Characters that are quoted of another library's message."""


class MisuseError(ValueError):
    """A refusal that is complete: it is passed on as it is, not quoted in another one."""


class WeightlessError(MisuseError):
    """No sample of the data weighs anything: of data that are shared, such a share is none."""


def exited(error: SystemExit) -> ValueError:
    """The refusal of code of the user's that ends the program."""
    return MisuseError(
        f"the code of a problem must return or raise; it ended the program, exit({error.code!r}): take that out"
    )


def quoted(error: BaseException) -> str:
    """What an exception says, with its type, on one line and not too long."""
    said = " ".join(str(error).split())
    said = said if len(said) <= LONGEST else f"{said[:LONGEST].rsplit(' ', 1)[0]} ..."
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


def device_of(device: torch.device | str) -> torch.device:
    """The device, with its number. Raises ValueError for one that is not there."""
    try:
        return torch.empty(0, device=device).device
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # AssertionError, RuntimeError or TypeError, as torch has it
        there = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
        raise ValueError(
            f"device must be one that is here, {' or '.join(map(repr, there))}; got {device!r} ({quoted(error)}): "
            "leave it out to work where the parameters are"
        ) from error


def bytes_of(memory: Any) -> int:
    """The number of bytes. Raises ValueError for what is not a whole number."""
    try:
        return operator.index(memory)
    except TypeError:
        if isinstance(memory, float) and memory.is_integer():
            return int(memory)
        raise ValueError(
            f"memory must be a whole number of bytes; got {memory!r}: write memory=2**30 for 1 GiB"
        ) from None


def refuse_loss(loss: Any, batch_weight: Any) -> None:
    """Raises ValueError for a loss or a weight that cannot be called with data."""
    if loss is not None and not callable(loss):
        raise ValueError(f"loss must be a function or module of (outputs, targets); got {type(loss).__name__}")
    if isinstance(loss, type):
        raise ValueError(
            "loss must be a function or module of (outputs, targets); got the class "
            f"{loss.__name__}: pass an instance, {loss.__name__}()"
        )
    if batch_weight is not None and not callable(batch_weight):
        raise ValueError(
            f"batch_weight must be a function of the targets; got {batch_weight!r}: pass batch_weight=lambda targets: "
            "targets.numel(), or what else a mean over them weighs"
        )


def number(value: Any, name: str, given: str) -> float:
    """What a function of the user's returned, as a number. Raises ValueError for anything else."""
    if isinstance(value, Tensor) and value.numel() != 1:
        raise ValueError(
            f"{name} must return one number; got shape {tuple(value.shape)} for {given}: end it with .sum()"
        )
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must return one number; got {type(value).__name__} for {given}") from error


def changing(rule: str, one: float, other: float, written: Sequence[str]) -> str:
    """The refusal where two evaluations at the same parameters and data differ."""
    said = f"{rule}; two evaluations at the same parameters gave {one} and {other}"
    if written:
        return (
            f"{said}, and the forward pass writes into {written[0]!r}: let it do so in training only, "
            f"if self.training: ..., and pass {'loss' if written[0].startswith('loss.') else 'model'}.eval()"
        )
    return (
        f"{said}: numbers drawn by numpy, random or a Generator are drawn once, before, and become inputs; what counts "
        "or averages over calls (a warm-up, a running mean, a list) gets a fixed value"
    )


def once_only(error: BaseException) -> ValueError:
    """The refusal of what torch does not differentiate twice, by what it raised."""
    return ValueError(
        f"torch must differentiate the model and the loss twice; it raised {quoted(error)}: {second_way_out(error)}"
    )


def second_way_out(error: BaseException) -> str:
    """What helps where torch raised this on differentiating twice."""
    said = str(error)
    if "use_reentrant" in said:
        return "use_reentrant=False"
    if "a second time" in said:
        return "let the function return the loss without taking its gradient, or with retain_graph=True"
    if "inplace operation" in said:
        return "write x = f(x) in place of what changes x itself, such as x.mul_(y) or x[i] = y"
    if "_embedding_bag_backward" in said:
        return "write the bag as nn.Embedding(...)(indices).sum(1), or .mean(1), of the same weight"
    if "nference tensor" in said:
        return "a tensor made under torch.inference_mode() must be copied, t.clone(), outside of it"
    if "dtype" in said or "scalar type" in said:
        return "what model and loss close over must have the type of the parameters, or pass the dtype= that it has"
    return "write it with operations that have two derivatives"


def way_out(error: BaseException, dtype: torch.dtype, *, whole: bool = True) -> str:
    """What helps where model or loss raised this; empty where it does not tell.

    `whole`: whether there may be a way to give them all data at once.
    """
    said = str(error)
    name = str(dtype).removeprefix("torch.")
    if "target dtype to be" in said or "'indices' to have one of the following scalar types" in said:
        return ": class targets and indices must be whole numbers of 64 bits, convert them with .long()"
    if "expected scalar type Long" in said or "tensors used as indices must be" in said:
        return ": indices must be whole numbers of 64 bits, convert them with .long()"
    if "nference tensor" in said:
        return ": a tensor made under torch.inference_mode() must be copied, t.clone(), outside of it"
    if "Complex" in said and "dtype" in said:
        return ": the model takes real inputs, pass x.real, x.abs() or both parts, torch.cat([x.real, x.imag], 1)"
    if any(word in said for word in ("dtype", "scalar type")):
        return f": what they close over must be {name} (register it as a buffer), or pass the dtype= that it has"
    if isinstance(error, TypeError) and "positional argument" in said:
        return ": they are called as model(inputs) and loss(outputs, targets)" if whole else ""
    if whole and isinstance(error, RuntimeError | ValueError | IndexError | AssertionError):
        whole_call = "Hessian.of(lambda: loss(model(x), y), model)"
        return f": if they need more samples at once (batches are cut), take all, {whole_call}"
    return ""
