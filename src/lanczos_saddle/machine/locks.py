"""One writer at a time: a lock beside a file that is replaced as a whole, kept by the system, gone with the process.

The lock is `flock` on an empty file `.NAME.lock` beside the file: the file itself changes with every save. It is
removed at the end; one that a killed process left is taken over.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lanczos_saddle.machine.files import real


@contextmanager
def held(path: Path | None) -> Iterator[None]:
    """Hold a file for the block; raises ValueError where another run holds it. None, or a folder that takes no lock:
    nothing is held.
    """
    if path is None:
        yield
        return
    target = real(path)
    beside = target.parent / f".{target.name}.lock"
    descriptor = _taken(beside, path)
    try:
        yield
    finally:
        if descriptor is not None:
            with suppress(OSError):
                os.unlink(beside)  # while it is held: who waits for this name looks whether it is still there
            os.close(descriptor)


def _taken(beside: Path, path: Path) -> int | None:
    """A descriptor that holds the lock; None where no such file can be made."""
    while True:
        try:
            beside.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(beside, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError:
            return None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.stat(beside).st_ino == os.fstat(descriptor).st_ino:
                return descriptor
        except FileNotFoundError:  # its holder has just ended
            pass
        except BlockingIOError:
            os.close(descriptor)
            raise ValueError(
                f"a state belongs to one run at a time; {path} is in use by another: wait for it, or name another file"
            ) from None
        except OSError:  # a file system without locks
            os.close(descriptor)
            return None
        os.close(descriptor)
