"""One measurement in a process of its own: a fresh memory, its own threads, and no harm to the others if it dies."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
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


def ask_ranks(script: str | Path, arguments: Sequence[str], ranks: int) -> Any:
    """The JSON object on the last line that rank 0 printed, of so many ranks on one machine, a thread each.

    Raises RuntimeError where a rank failed.
    """
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1", "WORLD_SIZE": str(ranks)}
        environment["MASTER_PORT"] = str(20000 + hash(folder) % 20000)
        command = [sys.executable, str(script), *arguments]
        children = [
            subprocess.Popen(command, env={**environment, "RANK": str(r)}, stdout=out if r == 0 else None)
            for r in range(ranks)
        ]
        if any([child.wait() for child in children]):
            raise RuntimeError(f"a rank of {ranks} failed")
        out.seek(0)
        return json.loads(out.read().splitlines()[-1])


def peak_mib() -> float:
    """The most memory this process has held."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20
