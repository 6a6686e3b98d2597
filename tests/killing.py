"""Kills counts by SIGKILL at random moments, in processes of its own, and lets others go on: one JSON object a line.

    python killing.py FOLDER METHOD MOMENTS SEED

Products are slowed down, so that kills fall everywhere, and everything is written at intervals shorter than most kills.
`kills` are those that ended a process: one that had its answer already is not killed.
"""

import json
import mmap
import os
import random
import signal
import struct
import sys
import time
import warnings
from pathlib import Path

from kills import answer, begun, counting

from lanczos_saddle.counting import deepening
from lanczos_saddle.machine import journal

PAUSE, INTERVAL, COLUMNS = 0.004, 0.02, 8
"""Seconds for so many columns, or fewer, and between two writes."""


def child(method, path, shared, result):
    """In a new process: the count, slowed down; its products are added to the shared number as they are made."""
    pid = os.fork()
    if pid:
        return pid
    warnings.simplefilter("ignore")  # what a kill in the middle of a write leaves is told of
    journal.INTERVAL = deepening.INTERVAL = INTERVAL
    with counting() as seen:
        told = seen.__class__.__call__

        def slowly(self, columns):
            time.sleep(PAUSE * max(1, columns / COLUMNS))
            told(self, columns)
            shared[:8] = struct.pack("q", struct.unpack("q", shared[:8])[0] + columns)

        seen.__class__.__call__ = slowly
        text = json.dumps(answer(begun(method, state=path)))
    Path(result).write_text(text)
    os._exit(0)


def wait(shared, products, pid):
    """Until so many products are made in all, or the process has ended; it is not reaped."""
    while struct.unpack("q", shared[:8])[0] < products:
        if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            return
        time.sleep(PAUSE / 4)


def ended(pid):
    """Its exit status."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def main(folder, method, moments, seed):
    folder, rng = Path(folder), random.Random(f"{method} {seed}")
    shared = mmap.mmap(-1, 8)
    begun(method)  # imports hundreds of modules, which every process has from here
    assert ended(child(method, None, shared, folder / "whole")) == 0
    whole = struct.unpack("q", shared[:8])[0]
    expected = (folder / "whole").read_text()
    for i in range(moments):
        path, result = folder / f"state{i}", folder / f"result{i}"
        shared[:8], kills = struct.pack("q", 0), 0
        for left in (2, 1, 0):
            pid = child(method, path, shared, result)
            if left:
                before = struct.unpack("q", shared[:8])[0]
                wait(shared, before + rng.uniform(0, whole - min(before, whole)), pid)
                time.sleep(rng.uniform(0, 3 * PAUSE))
                os.kill(pid, signal.SIGKILL)
            status = ended(pid)
            if status != -signal.SIGKILL:
                break
            kills += 1
        made = struct.unpack("q", shared[:8])[0]
        same = status == 0 and result.read_text() == expected
        print(json.dumps({"status": status, "same": same, "kills": kills, "made": made, "whole": whole}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
