"""What a call took: seconds of wall clock, and the most memory that it held beyond what was held before."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch

from lanczos_saddle.machine.memory import give_back

T = TypeVar("T")

STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass(frozen=True)
class Cost:
    """Of one call."""

    seconds: float  # wall clock, until the device is done
    peak_bytes: int | None  # on the device, beyond what was held before; None where the system does not say


@contextmanager
def settled() -> Iterator[None]:
    """What is there stays: measurements within look for garbage among new objects alone.

    Looking through all objects of a process takes a fifth of a second where torch is imported, more in a notebook.
    Objects that the caller has frozen stay so.
    """
    if gc.get_freeze_count():
        yield
        return
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def measure(call: Callable[[], T], device: torch.device) -> tuple[T, Cost]:
    """(what `call` returns, its cost); an exception of `call` passes unchanged.

    Memory on CUDA is that of torch's allocator. On a CPU it is resident memory, whose peak Linux can reset
    (/proc/self/clear_refs); what the allocator kept from earlier calls and uses again is not seen, unless it is given
    back before (`held_bytes`).
    """
    gc.collect()
    held = _reset_peak(device)
    began = time.perf_counter()
    result = call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    seconds = time.perf_counter() - began
    peak = _peak(device)
    return result, Cost(seconds, None if held is None or peak is None else max(0, peak - held))


def held_bytes(device: torch.device) -> int | None:
    """Bytes held now, without what the allocator keeps of freed memory; None where the system does not say."""
    gc.collect()
    give_back()
    return _reset_peak(device)


def _reset_peak(device: torch.device) -> int | None:
    """Bytes held now, from which the peak starts again; None where it cannot be reset."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    try:
        RESET.write_text("5")
    except OSError:
        return None
    return _peak(device)


def _peak(device: torch.device) -> int | None:
    """The most bytes held since the reset."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        lines = STATUS.read_text().splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:")), None)
