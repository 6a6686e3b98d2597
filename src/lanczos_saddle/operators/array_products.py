"""Products of what speaks NumPy or CuPy, as functions of torch tensors (N, k): vectors are handed over, not copied.

The copies that keep a caller's function from writing into a recurrence are made where it is called
(`operator.FromFunction`), once for all.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator, aslinearoperator
from torch import Tensor
from torch.utils.dlpack import from_dlpack

BLOCK_PRODUCT = type(aslinearoperator(np.eye(1)))
"""Scipy's operator of a stored matrix, whose products of blocks are one matrix product."""

Product = Callable[[Tensor], Any]


def host_product(source: Any) -> Product:
    """v -> source @ v by NumPy arrays; a scipy ``LinearOperator`` column by column unless it multiplies blocks itself.

    (scipy's own loop keeps what every matvec returned and joins it at the end: a buffer that is used again would hold
    the last column k times.)
    """
    if isinstance(source, LinearOperator) and not _multiplies_blocks(source):
        return lambda v: np.stack([np.array(source.matvec(column)).ravel() for column in v.numpy().T.copy()], axis=1)
    return lambda v: source @ v.numpy()


def cupy_product(source: Any) -> tuple[Product, torch.device]:
    """v -> source @ v by CuPy arrays in the same memory, and the device."""
    import cupy

    place = torch.device("cuda", int(cupy.cuda.runtime.getDevice()))
    return lambda v: from_dlpack(source @ cupy.from_dlpack(v.contiguous())), place


def unknown_product(source: Any) -> Product:
    """v -> source @ v where the source does not say what it multiplies: NumPy arrays, or torch tensors."""
    speaks_torch = False

    def product(v: Tensor) -> Any:
        nonlocal speaks_torch
        if not speaks_torch:
            try:
                return source @ v.numpy()
            except (TypeError, AttributeError):
                speaks_torch = True
        return source @ v

    return product


def _multiplies_blocks(source: LinearOperator) -> bool:
    """Whether its product of a block is its own: of a stored matrix, or a matmat that was given."""
    if isinstance(source, BLOCK_PRODUCT):
        return True
    return getattr(source, "_CustomLinearOperator__matmat_impl", None) is not None
