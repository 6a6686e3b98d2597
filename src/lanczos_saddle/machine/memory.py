"""How much memory is there, before anything large is allocated."""

from __future__ import annotations

import ctypes
import os
import shutil
from pathlib import Path

import torch

RESERVE = 2**28
"""Left to the rest of the process, in bytes."""

_TRIM = getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None


def give_back() -> None:
    """Give what the allocator of the C library keeps of freed memory back to the system; glibc alone does.

    Blocks below 32 MiB are kept for the next ones, in pieces that larger ones do not fit into.
    """
    if _TRIM is not None:
        _TRIM(0)


def available_bytes(device: torch.device) -> int:
    """Bytes that can still be allocated on a device: free GPU memory, or what the system calls available."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(free + cached)
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        fields = dict(line.split(":", 1) for line in meminfo.read_text().splitlines() if ":" in line)
        if "MemAvailable" in fields:
            return int(fields["MemAvailable"].split()[0]) * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def free_bytes(device: torch.device, limit: int | None = None) -> int:
    """Bytes that may be used: the limit where one is given, else what is available beside the reserve."""
    return available_bytes(device) - RESERVE if limit is None else limit


def require_bytes(needed: int, device: torch.device, purpose: str, way_out: str, *, limit: int | None = None) -> None:
    """Refuse an allocation that cannot fit; raises ValueError with both numbers."""
    free = free_bytes(device, limit)
    if needed > free:
        raise ValueError(
            f"{purpose} takes {needed / 2**30:.2f} GiB; {max(0, free) / 2**30:.2f} GiB are free: {way_out}"
        )


def require_directory(directory: str | Path) -> None:
    """Refuse a place for files that is not there; raises ValueError."""
    if not Path(directory).is_dir():
        raise ValueError(f"a file needs a directory that is there; got {directory}: make it, or name another one")


def require_disk(needed: int, directory: Path, purpose: str) -> None:
    """Refuse a file that cannot fit; raises ValueError with both numbers."""
    require_directory(directory)
    free = shutil.disk_usage(directory).free - RESERVE
    if needed > free:
        raise ValueError(
            f"{purpose} takes {needed / 2**30:.2f} GiB of disk; {max(0, free) / 2**30:.2f} GiB are free in "
            f"{directory}: name a larger disk"
        )
