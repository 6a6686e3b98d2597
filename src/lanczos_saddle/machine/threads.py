"""How many threads share a computation."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache

import torch
from threadpoolctl import ThreadpoolController

_lock, _within, _usual = threading.Lock(), 0, (1, ExitStack())


@contextmanager
def one_thread(small: bool = True) -> Iterator[None]:
    """One thread, in torch and in the BLAS of NumPy and SciPy, for operations too small to share.

    On busy cores threads mostly wait for each other: all eigenvalues of a 1200 x 1200 matrix took two 80 times as long.
    Threads that are within at the same time may leave in any order: the last one gives back what the first one found.
    """
    global _within, _usual
    if not small:
        yield
        return
    threads = torch.get_num_threads()
    with _lock:
        if _within == 0:
            _usual = threads, ExitStack()
            _usual[1].enter_context(libraries().limit(limits=1, user_api="blas"))
        _within += 1
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        with _lock:
            _within -= 1
            if _within == 0:
                torch.set_num_threads(_usual[0])
                _usual[1].close()


@cache
def libraries() -> ThreadpoolController:
    """The libraries with threads of their own that are loaded, found once."""
    return ThreadpoolController()
