"""How many threads share a computation."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch
from threadpoolctl import ThreadpoolController


@contextmanager
def one_thread(small: bool = True) -> Iterator[None]:
    """One thread, in torch and in the BLAS of NumPy and SciPy, for operations too small to share.

    On busy cores threads mostly wait for each other: all eigenvalues of a 1200 x 1200 matrix took two 80 times as long.
    """
    if not small:
        yield
        return
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with libraries().limit(limits=1, user_api="blas"):
            yield
    finally:
        torch.set_num_threads(threads)


@cache
def libraries() -> ThreadpoolController:
    """The libraries with threads of their own that are loaded, found once."""
    return ThreadpoolController()
