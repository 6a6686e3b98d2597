"""One measurement in a process of its own: a fresh memory, its own threads, and no harm to the others if it dies."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def run_child(script: str | Path, arguments: Sequence[str], limit: float) -> str:
    """What `python script arguments` printed.

    Raises:
        RuntimeError: with its last line, when it failed or took more than `limit` seconds.
    """
    command = [sys.executable, str(script), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit)
    except subprocess.TimeoutExpired as error:
        raise RuntimeError(f"no answer within {limit:g} s") from error
    if done.returncode:
        last = (done.stderr.strip() or "no message").splitlines()[-1]
        raise RuntimeError(f"exit status {done.returncode}: {last}")
    return done.stdout


def ask_child(script: str | Path, arguments: Sequence[str], limit: float) -> Any:
    """The JSON object on the last line that the child printed; raises RuntimeError as `run_child`, or without one."""
    printed = run_child(script, arguments, limit).splitlines()
    try:
        return json.loads(printed[-1])
    except (ValueError, IndexError) as error:
        raise RuntimeError(f"no JSON on the last line: {printed[-1:]}") from error


def peak_mib() -> float:
    """The most memory this process has held."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20
