"""Interrupts that wait until what must not be cut in two is done: an exchange between ranks, a result being written."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

INTERRUPTS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def interrupts_wait(patience: int | None = None) -> Iterator[None]:
    """Interrupts are answered after the block; one more than `patience` of them at once, where it is given.

    One that is ignored (nohup) stays so. In other threads than the main one nothing is done: they get no signal.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    waiting: list[tuple[int, FrameType | None]] = []

    def take(number: int, frame: FrameType | None) -> None:
        waiting.append((number, frame))
        if patience is not None and len(waiting) > patience:
            raise KeyboardInterrupt

    known = {number: signal.getsignal(number) for number in INTERRUPTS}
    before = {number: handler for number, handler in known.items() if handler not in (signal.SIG_IGN, None)}
    for interrupt in before:
        signal.signal(interrupt, take)
    try:
        yield
    finally:
        for interrupt, handler in before.items():
            signal.signal(interrupt, handler)
        for number, frame in waiting:
            answered = before[signal.Signals(number)]
            if callable(answered):
                answered(number, frame)
            else:
                os.kill(os.getpid(), number)
