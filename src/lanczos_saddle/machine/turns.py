"""One thread at a time where something of the whole process is changed for a while.

A product changes what all threads share: the user's own tensors hold other values, fused kernels are off, torch's
global random state is set back. Two counts in two threads take turns, product by product. The lock may be taken again
by the thread that holds it, and a forked child starts with a free one.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_turn = threading.RLock()


@contextmanager
def turn() -> Iterator[None]:
    """Wait until no other thread is within such a block."""
    lock = _turn
    with lock:
        yield


def _anew() -> None:
    """The thread that held the lock was not forked: nobody would release it."""
    global _turn
    _turn = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_anew)
