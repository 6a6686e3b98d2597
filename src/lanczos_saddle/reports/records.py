"""Results as JSON lines: one record a line, each with what it took to get it and what it ran on.

    record = {kind, parameters, seeds, products, seconds, result, provenance}

JSON knows no NaN and no infinity; they are written as the strings "nan", "inf" and "-inf", which ``float()``
reads back, so that a number that is missing (null) and a number that failed stay apart. Files that are
replaced are written to a temporary name beside their place and renamed; lines are appended by one write each.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import math
import os
import platform
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from lanczos_saddle.machine.files import append_bytes, replacing

PACKAGES = ("torch", "numpy", "scipy", "lanczos-saddle")


def provenance() -> dict[str, Any]:
    """When, on what and with what: time (UTC), machine, versions, commit; no host name and no path."""
    commit = _git("rev-parse", "HEAD")
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": _machine(),
        "versions": _versions(),
        "commit": commit,
        "modified": None if commit is None else bool(_git("status", "--porcelain", "--", "src")),
    }


@dataclass(frozen=True)
class Record:
    """One result; every field is written, whatever its value."""

    kind: str  # "count", "exact", "train", "bench", ...
    parameters: Mapping[str, Any]  # what was asked: the options of the call
    result: Any  # dataclass, dictionary, tensor, number
    seeds: Any = None  # every seed that a random number came from
    products: int | None = None  # columns v of H v
    seconds: float | None = None  # wall clock
    provenance: Mapping[str, Any] = field(default_factory=provenance)


def to_json(obj: Any) -> Any:
    """The JSON form of dataclasses, tensors, arrays, NumPy scalars and containers; NaN becomes "nan".

    Dictionary keys become strings; tensors and arrays become nested lists.

    Raises:
        ValueError: for a type that has no JSON form.
    """
    if obj is None or isinstance(obj, bool | int | str):
        return obj
    if isinstance(obj, float):
        return float(obj) if math.isfinite(obj) else str(float(obj))
    if dataclasses.is_dataclass(obj) and not isinstance(obj, type):
        return {f.name: to_json(getattr(obj, f.name)) for f in dataclasses.fields(obj)}
    if isinstance(obj, Tensor):
        return to_json(obj.detach().cpu().tolist())
    if isinstance(obj, np.ndarray | np.generic):
        return to_json(obj.tolist()) if obj.dtype.kind in "biufSU" else _no_form(obj)
    if isinstance(obj, Mapping):
        return {str(key): to_json(value) for key, value in obj.items()}
    if isinstance(obj, list | tuple | set | frozenset):
        return [to_json(value) for value in (sorted(obj) if isinstance(obj, set | frozenset) else obj)]
    if isinstance(obj, torch.dtype | torch.device):
        return str(obj)
    return _no_form(obj)


def append(path: str | os.PathLike[str], record: Record | Mapping[str, Any]) -> None:
    """Add one line, by one write at the end of the file, flushed to the disk; folders are made.

    Writers of one file may interleave lines, not characters. A line that an earlier crash cut short is ended
    first, so that it spoils itself only. FIFOs and devices take lines, too.

    Raises:
        ValueError: for a record that has no JSON form (before the file is touched).
        OSError: when the line could not be written in full; the file is as it was.
    """
    append_bytes(path, _dumps(record) + b"\n")


def read(path: str | os.PathLike[str], *, torn: Literal["refuse", "skip"] = "refuse") -> list[dict[str, Any]]:
    """All records of a file, oldest first; empty lines are skipped, and with `torn` "skip" those that are not JSON.

    Raises:
        ValueError: naming the line that is not a JSON object, or the file that cannot be read.
    """
    try:
        text = Path(path).read_bytes().decode(errors="strict" if torn == "refuse" else "replace")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"records are read from a text file with one JSON object a line; {path}: {error}") from error
    lines = [(line, number) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]
    return [_parsed(line, number, path) for line, number in lines if torn == "refuse" or _is_json(line)]


def write_json(path: str | os.PathLike[str], obj: Any) -> None:
    """Write one indented JSON document in place of whatever `path` held; the file is whole or as it was."""
    text = _dumps(obj, indent=2) + b"\n"
    with replacing(path) as temporary:
        temporary.write_bytes(text)


def _dumps(obj: Any, indent: int | None = None) -> bytes:
    """JSON in UTF-8; of a file name that is not, the odd bytes as JSON's own escapes."""
    text = json.dumps(to_json(obj), allow_nan=False, ensure_ascii=False, indent=indent)
    return text.encode("utf-8", "backslashreplace")


def _no_form(obj: Any) -> Any:
    raise ValueError(f"records hold numbers, strings, tensors, arrays, dataclasses and containers; got {type(obj)}")


def _is_json(line: str) -> bool:
    try:
        json.loads(line)
    except json.JSONDecodeError:
        return False
    return True


def _parsed(line: str, number: int, path: str | os.PathLike[str]) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(
            f"every line of a record file is one JSON object; {path}, line {number}: {error}: mend that line"
        ) from error
    if not isinstance(record, dict):
        raise ValueError(f"every line of a record file is one JSON object; {path}, line {number}: {type(record)}")
    return record


def _machine() -> dict[str, Any]:
    """Model of the processor, cores that this process may use, memory in GiB, GPU names."""
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": _memory_gib(),
        "gpus": [torch.cuda.get_device_name(i) for i in range(gpus)],
    }


def _cpu_model() -> str | None:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or None


def _memory_gib() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (AttributeError, ValueError, OSError):
        return None


def _versions() -> dict[str, str | None]:
    """Versions of Python, CUDA (as torch was built) and the packages; None where there is none."""
    versions: dict[str, str | None] = {"python": platform.python_version(), "cuda": torch.version.cuda}
    for package in PACKAGES:
        try:
            versions[package.replace("-", "_")] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package.replace("-", "_")] = None
    return versions


def _git(*arguments: str) -> str | None:
    """What git says of the checkout this file lies in; None when it is not one, or git is absent."""
    root = Path(__file__).resolve().parents[3]
    if not (root / ".git").exists():
        return None
    try:
        done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
